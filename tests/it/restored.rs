//! A database that goes back in time: restored from a dump or from a base backup, with daemons at work and without.

use std::path::Path;
use std::process::{Command, Stdio};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stepd::postgres::{PrivatePostgres, StopMode};

use crate::support::{Db, Files, SOON, Server, Spec, wait_until};

const WORK: &str = r"
name: work
steps:
  - id: before
    run: echo before >> @DIR@/effects
  - id: hold
    run: echo hold >> @DIR@/effects; until [ -e @DIR@/go ]; do sleep 0.02; done
  - id: asked
    wait: go
  - id: after
    run: echo after >> @DIR@/effects
";

async fn ran(pg: &PrivatePostgres, program: &str, args: &[&str]) {
    let mut command = Command::new(pg.binaries().join(program));
    command.args(args).stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A server, a database with a dump of it that is taken while a run is in its second step, and another run enqueued after the dump.
struct Ground {
    server: Server,
    db: Db,
    files: Files,
    dump: String,
    run: String,
    lost: String,
}

impl Ground {
    async fn new(spec: impl Fn(&Db, &Files) -> Spec) -> (Self, crate::support::Worker) {
        let (server, files) = (Server::own().await, Files::new([WORK]));
        let db = server.db().await;
        let worker = spec(&db, &files).ready().await;
        let run = db.enqueue("work", "{}").await;
        wait_until("it is in its second step", SOON, async || files.lines("effects") == ["before", "hold"]).await;
        let dump = files.path("dump").display().to_string();
        ran(&server.pg, "pg_dump", &["-Fc", "-f", &dump, "-d", &db.url]).await;
        let lost = db.enqueue("work", "{}").await;
        wait_until("another one is, too", SOON, async || files.lines("effects").len() == 4).await;
        (Self { server, db, files, dump, run, lost }, worker)
    }

    /// The database is thrown away, whoever is connected, and made from the dump.
    async fn restore(&self) {
        let mut admin = PgConnection::connect(&self.server.pg.url("postgres")).await.unwrap();
        for statement in
            [format!("DROP DATABASE {} WITH (FORCE)", self.db.name), format!("CREATE DATABASE {}", self.db.name)]
        {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
        }
        // Any error of it is one: whoever writes into a database that is being restored makes one.
        ran(&self.server.pg, "pg_restore", &["--exit-on-error", "-d", &self.db.url, &self.dump]).await;
    }

    /// The run of the dump goes on from where the dump stood, and ends; what came after the dump was never there.
    async fn goes_on(&self, holds: usize) {
        std::fs::write(self.files.path("go"), "").unwrap();
        self.db.step_reaches(&self.run, "asked", "waiting", SOON).await;
        self.db.exec(format!("SELECT stepd.signal('{}', 'go')", self.run)).await;
        self.db.reaches(&self.run, "completed", SOON).await;
        assert_eq!(self.db.state(&self.lost).await, "none");
        let effects = self.files.counts("effects");
        assert_eq!((effects["before"], effects["hold"], effects["after"]), (2, holds, 1), "{effects:?}");
        let steps = "SELECT string_agg(key, ' ' ORDER BY seq) FROM stepd.steps WHERE state = 'completed'";
        assert_eq!(self.db.one::<String>(steps).await, "before hold asked after");
        let fresh = self.db.enqueue("work", "{}").await;
        self.db.step_reaches(&fresh, "asked", "waiting", SOON).await;
    }
}

#[tokio::test]
async fn a_dump_that_is_restored_without_a_daemon_goes_on_when_one_starts() {
    let (ground, mut worker) = Ground::new(|db, files| Spec::new(db, files).lease(3)).await;
    worker.kill9();
    ground.restore().await;
    let mut worker = Spec::new(&ground.db, &ground.files).lease(3).ready().await;
    // Once for each claim: of both runs before, and of the one after.
    ground.goes_on(3).await;
    assert_eq!(worker.logged("lost commits"), 0, "it was not there when they were acknowledged");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_database_that_is_restored_from_a_dump_under_a_daemon_at_work_is_whole_and_goes_on() {
    let (ground, mut worker) = Ground::new(|db, files| Spec::new(db, files).lease(3)).await;
    ground.restore().await;
    wait_until("the daemon is back", SOON, async || {
        ground
            .db
            .ask::<i64>("SELECT count(*) FROM stepd_engine.workers WHERE stepd_engine.worker_alive(beat_at, lease_ms)")
            .await
            .ok()
            == Some(1)
    })
    .await;
    // Its steps of before are at work still, or have been given back: nothing of the one that was lost is recorded.
    std::fs::write(ground.files.path("go"), "").unwrap();
    ground.db.step_reaches(&ground.run, "asked", "waiting", SOON).await;
    ground.db.exec(format!("SELECT stepd.signal('{}', 'go')", ground.run)).await;
    ground.db.reaches(&ground.run, "completed", SOON).await;
    assert_eq!(ground.db.state(&ground.lost).await, "none");
    assert_eq!(ground.files.counts("effects")["after"], 1);
    let fresh = ground.db.enqueue("work", "{}").await;
    ground.db.step_reaches(&fresh, "asked", "waiting", SOON).await;
    let log = worker.log();
    for once in ["claims pause", "postgres has lost commits", "postgres is back"] {
        assert!(worker.logged(once) <= 1, "{once}: {log}");
    }
    assert_eq!(worker.logged("postgres is back"), 1, "{log}");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

/// The files of a whole server, from a base backup with its log: as a point in time is recovered to.
#[tokio::test]
async fn a_base_backup_that_is_put_back_under_a_daemon_at_work_is_told_once_and_goes_on() {
    let (mut ground, mut worker) = Ground::new(Spec::new).await;
    // Taken now, with both runs in it; what is acknowledged from here on is lost.
    let copy = ground.server.pg.folder().join("copy");
    let (to, url) = (copy.display().to_string(), ground.server.pg.url("postgres"));
    let args = ["--no-sync", "--checkpoint=fast", "--wal-method=stream", "-d", &url, "-D", &to];
    ran(&ground.server.pg, "pg_basebackup", &args).await;
    std::fs::write(ground.files.path("go"), "").unwrap();
    for run in [&ground.run, &ground.lost] {
        ground.db.step_reaches(run, "asked", "waiting", SOON).await;
    }
    let after = ground.db.enqueue("work", "{}").await;
    ground.db.step_reaches(&after, "asked", "waiting", SOON).await;
    ground.server.pg.stop(StopMode::Immediate);
    put_back(&ground.server.pg, &copy);
    ground.server.pg.start_again().unwrap();
    worker.logs("postgres has lost commits").await;
    for run in [&ground.run, &ground.lost] {
        ground.db.step_reaches(run, "asked", "waiting", SOON).await;
        ground.db.exec(format!("SELECT stepd.signal('{run}', 'go')")).await;
        ground.db.reaches(run, "completed", SOON).await;
    }
    assert_eq!(ground.db.state(&after).await, "none", "its insert was lost; only the enqueuer knows");
    assert_eq!(worker.logged("postgres has lost commits"), 1, "{}", worker.log());
    assert_eq!(worker.logged("claims pause"), 1, "{}", worker.log());
    assert_eq!(worker.logged("postgres is back"), 1, "{}", worker.log());
    assert_eq!(worker.drain(SOON).await, Some(0));
}

fn put_back(pg: &PrivatePostgres, copy: &Path) {
    let data = pg.folder().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(copy, &data).unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&owner);
    if uid != nix::unistd::geteuid().as_raw() {
        // The backup was taken by this process.
        let done = Command::new("chown").arg("-R").arg(uid.to_string()).arg(&data).status().unwrap();
        assert!(done.success());
    }
}
