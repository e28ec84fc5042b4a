//! `stepd run --key`: what happens when an unfinished run of the workflow has the key already.

use futures_util::StreamExt;
use signal_hook_tokio::Signals;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::runs;

use super::super::errors::refused_with;
use super::super::follow::{self, Turning};
use super::super::output::talk;
use super::super::{Exit, Global};

/// What to do then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnConflict {
    /// End with an error
    #[default]
    Reject,
    /// Run nothing, and end well
    Skip,
    /// Wait for the other run, and end as it does
    Return,
    /// Wait for the other run to end, then run
    Queue,
}

/// Whose the run is that an enqueue gave.
pub(super) enum Whose {
    /// The one that was enqueued.
    Ours,
    /// Another's, which has ended meanwhile: to be tried again.
    Ended,
    /// Another's, and that was all.
    Theirs(Exit),
}

/// Looks whether a run is the one that was enqueued (it stands in the queue of this process), and if not does as was said.
pub(super) async fn whose(
    global: &Global,
    conn: &mut PgConnection,
    id: Uuid,
    queue: &str,
    then: OnConflict,
    signals: &mut Signals,
) -> anyhow::Result<Whose> {
    let Some(run) = runs::detail(&mut *conn, id).await? else { return Ok(Whose::Ended) };
    if run.queue == queue {
        return Ok(Whose::Ours);
    }
    let key = run.unique_key.unwrap_or_default();
    let held = format!("run {id} of {} has the key {key} and has not ended: {}", run.workflow, run.why);
    match then {
        OnConflict::Reject => Err(refused_with(
            Exit::Error,
            held,
            "--on-conflict queue waits for it, return ends as it does, skip runs nothing",
        )),
        OnConflict::Skip => {
            talk(&format!("{held}; nothing was run"));
            Ok(Whose::Theirs(Exit::Ok))
        }
        OnConflict::Return => {
            talk(&format!("{held}; waiting for its end"));
            Ok(Whose::Theirs(follow::to_end(global, conn, id, None).await?))
        }
        OnConflict::Queue => {
            talk(&format!("{held}; waiting for its end"));
            let turning = Turning::new();
            tokio::select! {
                ended = follow::ended(conn, id, &turning) => ended.map(|_| Whose::Ended),
                _ = signals.next() => Ok(Whose::Theirs(Exit::Interrupted)),
            }
        }
    }
}
