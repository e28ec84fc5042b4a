//! `stepd demo`: a job is inserted, two workers run it, one is killed, the other goes on, and a table proves it.

mod place;
mod proof;
mod screen;
mod story;
mod workers;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use super::{Exit, Global};

use place::Place;
use screen::Screen;
use story::Story;

#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(global: &Global, _: &Args) -> anyhow::Result<Exit> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mut screen = Screen::new();
    // Only the flag: a stray DATABASE_URL must not lead the demo into somebody's database.
    let given = global.database_url.as_deref();
    screen.say("stepd demo: a row becomes a run, its worker is killed with SIGKILL, another one finishes it.");
    screen.chapter("Postgres", if given.is_some() { "the database that you named" } else { "starting one of its own" });
    let place = match given {
        Some(url) => Place::given(url),
        // Not raced against a signal: a server that is half started must be stopped in order.
        None => Place::private().await,
    };
    let place = match (place, pending(&mut signals).await) {
        (Ok(place), false) => place,
        (_, true) => return Ok(interrupted(&screen)),
        (Err(error), false) => return Err(error),
    };
    // Whatever ends the story drops its workers before the place is left.
    let told = tokio::select! {
        told = Story::tell(&place, &mut screen) => Some(told),
        Some(_) = signals.next() => None,
    };
    place.leave().await;
    match told {
        None => Ok(interrupted(&screen)),
        Some(told) => {
            let proved = told?;
            screen.epilogue(proved, given.is_some());
            Ok(if proved { Exit::Ok } else { Exit::Error })
        }
    }
}

/// Has a signal come already?
async fn pending(signals: &mut Signals) -> bool {
    tokio::select! {
        biased;
        signal = signals.next() => signal.is_some(),
        () = tokio::task::yield_now() => false,
    }
}

fn interrupted(screen: &Screen) -> Exit {
    screen.say("\ninterrupted: the workers and the server are stopped, and the folder is removed.");
    Exit::Interrupted
}
