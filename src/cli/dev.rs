//! `stepd dev`: a private Postgres and one worker with the user's own workflow files, reloaded when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::app::build::{self, Parts};
use crate::app::{Config, Daemon, files};
use crate::db::{Database, migrate};
use crate::expression::Host;
use crate::postgres::{Options, PrivatePostgres, StopMode};
use crate::services::catalog::Loaded;

use super::{Exit, Global, start_logs};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(super) struct Args {
    /// A folder (or file) of workflow definitions; may be given several times
    #[arg(long, short, value_name = "DIR", default_value = "workflows")]
    workflows: Vec<PathBuf>,
    /// Keep the data in this folder (made if it is not there), and go on with it the next time
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    ensure!(
        global.database_url.is_none(),
        "dev brings a Postgres of its own; for the database that you named, run stepd serve --workflows DIR"
    );
    for path in &args.workflows {
        ensure!(path.exists(), "there is no {}: make the folder, or name yours with --workflows", path.display());
    }
    let mut config = global.configuration()?;
    config.workflows.clone_from(&args.workflows);
    start_logs(&config);
    let options = Options { durable: args.data.is_some(), data: args.data.clone(), ..Options::default() };
    // Not raced against a signal: a server that is half started must be stopped in order.
    let mut server = tokio::task::spawn_blocking(move || PrivatePostgres::start(&options)).await??;
    let url = server.url("postgres");
    config.use_database(&url);
    let done = work(&config, &url, args.data.as_deref(), &mut signals).await;
    // In order, where the data is to be used again; dropped it would recover at its next start.
    if args.data.is_some() {
        server.stop(StopMode::Fast);
    }
    drop(server);
    done
}

/// Serves until a signal, then drains.
async fn work(config: &Config, url: &str, data: Option<&Path>, signals: &mut Signals) -> anyhow::Result<Exit> {
    let db = Daemon::database(config)?;
    prepare(&db).await?;
    let host = build::host(config);
    let mut seen = Snapshot::take(&config.workflows);
    let workflows = read(config, &host).unwrap_or_default();
    welcome(url, data, &workflows);
    let daemon = Daemon::start(config, db, Parts { workflows, ..Parts::default() }).await?;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(_) = signals.next() => break,
            _ = look.tick() => {
                let now = Snapshot::take(&config.workflows);
                if now != seen {
                    seen = now;
                    reload(config, &host, &daemon).await;
                }
            }
        }
    }
    eprintln!("stopping: running steps may end; once more Ctrl-C ends at once");
    tokio::select! {
        clean = daemon.shutdown() => Ok(if clean { Exit::Ok } else { Exit::Error }),
        Some(_) = signals.next() => Ok(Exit::Interrupted),
    }
}

async fn prepare(db: &Database) -> anyhow::Result<()> {
    let mut conn = db.connect("migrate", &[]).await.context("the private Postgres cannot be reached")?;
    migrate::migrate(&mut conn).await?;
    Ok(())
}

/// All files, or `None` after what is wrong has been shown.
fn read(config: &Config, host: &Arc<Host>) -> Option<Vec<Loaded>> {
    match files::load(config, host) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            eprintln!("{error}");
            None
        }
    }
}

async fn reload(config: &Config, host: &Arc<Host>, daemon: &Daemon) {
    let Some(workflows) = read(config, host) else {
        eprintln!("the definitions loaded before stay until this is mended");
        return;
    };
    let names = names(&workflows);
    match daemon.catalog.load(workflows).await {
        Ok(0) => eprintln!("reloaded: nothing new"),
        Ok(changed) => eprintln!("reloaded: {changed} changed; now {names}"),
        Err(error) => eprintln!("reload failed, the definitions loaded before stay: {error}"),
    }
}

fn names(workflows: &[Loaded]) -> String {
    match workflows {
        [] => "no workflows yet".to_owned(),
        some => some.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn welcome(url: &str, data: Option<&Path>, workflows: &[Loaded]) {
    let name = workflows.first().map_or("name", |w| w.name.as_str());
    eprintln!("workflows: {}", names(workflows));
    match data {
        None => eprintln!("data: thrown away at the end; --data DIR keeps it"),
        Some(folder) => eprintln!("data: kept in {}", folder.display()),
    }
    eprintln!("in another terminal:");
    // The one line that others read: data, to stdout.
    println!("export DATABASE_URL='{url}'");
    eprintln!("psql \"$DATABASE_URL\" -c \"INSERT INTO stepd.jobs (workflow, input) VALUES ('{name}', '{{}}')\"");
    eprintln!("Ctrl-C ends it.\n");
}

/// What the definition files looked like.
#[derive(PartialEq, Eq)]
struct Snapshot(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Snapshot {
    fn take(paths: &[PathBuf]) -> Self {
        // A folder that is away for a moment (an editor, a checkout) is a change, too; the reload says what is wrong.
        let files = files::find(paths).unwrap_or_default();
        let look = |path: PathBuf| {
            let at = std::fs::metadata(&path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
            (path, at)
        };
        Self(files.into_iter().map(look).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_changes_with_a_file_s_content_and_with_the_list_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned()];
        let empty = Snapshot::take(&paths);
        std::fs::write(folder.path().join("a.yaml"), "name: a").unwrap();
        let one = Snapshot::take(&paths);
        assert!(one != empty);
        assert!(one == Snapshot::take(&paths));
        std::fs::write(folder.path().join("a.yaml"), "name: longer").unwrap();
        assert!(Snapshot::take(&paths) != one);
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        std::fs::remove_file(folder.path().join("a.yaml")).unwrap();
        assert!(Snapshot::take(&paths) == empty);
    }
}
