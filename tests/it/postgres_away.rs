//! Postgres is restarted, crashes, loses sessions, or is away for a while, under load: nothing is lost, nobody is taken over, no
//! operator is needed, and the workers say it once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stepd::postgres::StopMode;
use tokio::task::JoinHandle;

use crate::support::{Db, Files, SOON, Server, Spec, Worker, holds_for, wait_until};

const WORK: &str = r#"
name: work
resume: {max_attempts: 10, initial: 200ms, max: 1s}
steps:
  - id: a
    sql: INSERT INTO effects (n, step) VALUES ($1, $2)
    params: ["${{ input.n }}", "${{ step.key }}"]
  - id: b
    run: echo "$N $STEPD_STEP_KEY" >> @DIR@/effects; sleep 0.3
    env: {N: "${{ input.n }}"}
  - id: c
    set: {n: "${{ input.n }}"}
  - id: d
    run: echo "$N $STEPD_STEP_KEY" >> @DIR@/effects
    env: {N: "${{ steps.c.output.n }}"}
  - id: e
    sql: INSERT INTO effects (n, step) VALUES ($1, $2)
    params: ["${{ input.n }}", "${{ step.key }}"]
output: steps.c.output.n
"#;

/// A server of its own, two workers, and an application that inserts all the time and tries again when it is refused.
pub struct Ground {
    pub server: Server,
    pub db: Db,
    pub files: Files,
    pub workers: Vec<Worker>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU32>,
    load: JoinHandle<()>,
}

impl Ground {
    pub async fn new() -> Self {
        let server = Server::own().await;
        let db = server.db().await;
        Self::on(server, db).await
    }

    pub async fn on(server: Server, db: Db) -> Self {
        let files = Files::new([WORK]);
        db.exec("CREATE TABLE effects (n int, step text)").await;
        let mut workers = Vec::new();
        for _ in 0..2 {
            workers.push(Spec::new(&db, &files).ready().await);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU32::new(0));
        let load = tokio::spawn(insert(db.clone(), stop.clone(), acknowledged.clone()));
        let ground = Self { server, db, files, workers, stop, acknowledged, load };
        ground.under_way().await;
        ground
    }

    /// Some more runs have ended.
    pub async fn under_way(&self) {
        let ended = "SELECT count(*) FROM stepd_engine.ended";
        let mut before = None;
        wait_until("work goes on", Duration::from_secs(90), async || {
            let now = self.db.ask::<i64>(ended).await.ok();
            before = before.or(now);
            now.zip(before).is_some_and(|(now, before)| now > before + 20)
        })
        .await;
    }

    /// Ends the load, waits for the last run, and checks.
    pub async fn check(mut self, changes: usize) {
        self.under_way().await;
        self.stop.store(true, Ordering::SeqCst);
        self.load.await.unwrap();
        let db = &self.db;
        db.all_ended(Duration::from_secs(90)).await;
        let n = i64::from(self.acknowledged.load(Ordering::SeqCst));
        let failed: Vec<String> = db.all("SELECT concat_ws(' ', state, step, error_code, error_message) FROM stepd.runs WHERE state <> 'completed'").await;
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE state = 'completed'").await, n, "completed runs");
        // A sql statement that Postgres broke off is sent again, and is no failure of its step.
        assert_eq!(db.events("attempt_failed").await, 0, "attempts used up");
        // Nobody was taken over.
        assert_eq!(db.events("crashed").await + db.events("taken_over").await, 0, "take-overs of living workers");
        assert_eq!(db.count("SELECT count(*) FROM stepd.runs WHERE crashes > 0").await, 0);
        assert_eq!(db.count("SELECT count(*) FROM effects").await, 2 * n, "sql effects");
        assert_eq!(db.count("SELECT count(*) FROM (SELECT DISTINCT n, step FROM effects) d").await, 2 * n);
        let effects: BTreeMap<String, usize> = self.files.counts("effects");
        assert_eq!(effects.len(), usize::try_from(2 * n).unwrap());
        assert!(effects.values().all(|times| *times == 1), "a step ran twice though its worker lived");
        for worker in &mut self.workers {
            assert_eq!(worker.logged("\"registered\""), 1, "it kept its registration");
            // Away, or there and unable to write.
            let (away, back) = (worker.logged("claims pause"), worker.logged("postgres is back"));
            assert!(away <= changes && back == away, "{away} times away, {back} times back: {}", worker.log());
            let loud = worker.log().lines().filter(|l| l.contains("\"WARN\"") || l.contains("\"ERROR\"")).count();
            assert!(loud <= changes, "{loud} loud lines for {changes} changes: {}", worker.log());
            assert_eq!(worker.drain(SOON).await, Some(0));
        }
        eprintln!("{n} runs, nothing lost, no take-over");
    }
}

/// Inserts one run after another; each number until it is acknowledged, by its unique key.
async fn insert(db: Db, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU32>) {
    let mut n = 1;
    let mut pace = tokio::time::interval(Duration::from_millis(40));
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        // An unknown outcome, tried again, must not become two runs: the application looks before it inserts anew.
        let sql = format!(
            "WITH known AS (SELECT FROM stepd.runs WHERE labels ->> 'n' = '{n}')
             INSERT INTO stepd.jobs (workflow, input, labels) SELECT 'work', '{{\"n\": {n}}}', '{{\"n\": \"{n}\"}}' WHERE NOT EXISTS (SELECT FROM known)"
        );
        if sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&db.pool).await.is_ok() {
            acknowledged.store(n, Ordering::SeqCst);
            n += 1;
        }
    }
}

#[tokio::test]
async fn a_restart_of_postgres_loses_nothing_and_takes_nobody_over() {
    let mut g = Ground::new().await;
    for mode in [StopMode::Fast, StopMode::Immediate] {
        g.server.pg.stop(mode);
        g.server.pg.start_again().unwrap();
        let began = Instant::now();
        g.under_way().await;
        eprintln!("{mode:?}: twenty runs more {:?} after Postgres was back", began.elapsed());
    }
    g.check(2).await;
}

#[tokio::test]
async fn a_backend_killed_by_the_kernel_loses_nothing_and_takes_nobody_over() {
    let g = Ground::new().await;
    for name in ["stepd writer", "stepd claimer", "stepd presence"] {
        let pid: i32 = g
            .db
            .one(format!("SELECT pid FROM pg_stat_activity WHERE application_name = '{name}' AND datname = current_database() LIMIT 1"))
            .await;
        g.server.pg.kill_backend(pid).unwrap();
        g.under_way().await;
    }
    g.check(3).await;
}

/// A statement that stands in its session while this is ended: seven times within seconds the step's only attempt goes on, and one whose
/// session is ended again and again comes to an end.
#[tokio::test]
async fn a_statement_whose_session_is_lost_is_sent_again_and_uses_up_no_attempt() {
    const SLOW: &str = "
name: slow
resume: never
steps:
  - id: only
    sql: INSERT INTO effects SELECT 1 FROM pg_sleep($1)
    params: [\"${{ input.seconds }}\"]
    retry: {max_attempts: 1}
";
    let (db, files) = (Db::new().await, Files::new([SLOW]));
    db.exec("CREATE TABLE effects (n int)").await;
    let mut worker = Spec::new(&db, &files).ready().await;
    let mut last = 0;
    let mut broken_off = async |times: u32| {
        for n in 0..times {
            let what = format!("the statement is under way, time {n}");
            wait_until(&what, SOON, async || {
                let pid = db
                    .all::<i32>(format!(
                        "SELECT pid FROM pg_stat_activity WHERE application_name = 'stepd sql step'
                    AND datname = current_database() AND wait_event = 'PgSleep' AND pid <> {last}"
                    ))
                    .await;
                last = pid.first().copied().unwrap_or(last);
                !pid.is_empty()
            })
            .await;
            db.exec(format!("SELECT pg_terminate_backend({last})")).await;
        }
    };
    let run = db.enqueue("slow", r#"{"seconds": 2}"#).await;
    broken_off(7).await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 1);
    assert_eq!(db.count("SELECT attempts::bigint FROM stepd.steps").await, 1);
    assert_eq!(db.events("attempt_failed").await, 0);

    let run = db.enqueue("slow", r#"{"seconds": 60}"#).await;
    let under_way = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'stepd sql step' AND datname = current_database() AND wait_event = 'PgSleep'";
    wait_until("it comes to an end", 2 * SOON, async || {
        db.count(under_way).await;
        db.state(&run).await == "failed"
    })
    .await;
    assert_eq!(db.count("SELECT count(*) FROM effects").await, 1);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn a_terminated_presence_session_is_locked_again_before_anybody_takes_over() {
    let mut g = Ground::new().await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'stepd presence' AND datname = current_database()";
    let unlocked = "SELECT count(*) FROM stepd_engine.workers w WHERE NOT EXISTS (SELECT FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = 'stepd_engine.workers'::regclass::oid AND l.objid::bigint = w.number)";
    let mut worst = Duration::ZERO;
    for _ in 0..10 {
        assert!(g.db.count(terminate).await >= 1);
        worst = worst.max(wait_until("both are locked again", SOON, async || g.db.count(unlocked).await == 0).await);
        // The sweepers look every second: give each of them the time to be wrong.
        holds_for("nobody is taken over", Duration::from_millis(1_200), async || {
            g.db.count("SELECT count(*) FROM stepd_engine.workers").await == 2
        })
        .await;
    }
    eprintln!("locked again after {worst:?} at the worst");
    g.workers.iter_mut().for_each(|w| assert!(w.is_running()));
    g.check(10).await;
}

#[tokio::test]
async fn while_postgres_is_away_running_steps_go_on_and_their_results_are_kept() {
    // STEPD_TEST_LONG=1: half a minute, twice the lease.
    let span = Duration::from_secs(if std::env::var_os("STEPD_TEST_LONG").is_some() { 30 } else { 10 });
    let mut g = Ground::new().await;
    g.server.pg.stop(StopMode::Fast);
    let went = Instant::now();
    let effects = g.files.lines("effects").len();
    holds_for("the workers live", span, async || g.workers.iter_mut().all(Worker::is_running)).await;
    g.server.pg.start_again().unwrap();
    let began = Instant::now();
    g.under_way().await;
    eprintln!("away for {:?}, {effects} effects before; twenty runs more {:?} after", went.elapsed(), began.elapsed());
    g.check(1).await;
}

/// A way to Postgres on which the connections of these numbers are taken, and closed again at once: as while a failover goes on.
async fn closing(db: &Db, closed: std::ops::Range<usize>) -> Db {
    let options: sqlx::postgres::PgConnectOptions = db.url.parse().unwrap();
    let socket = options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            if closed.contains(&number) {
                continue;
            }
            let mut server = tokio::net::UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    Db { url: format!("postgres://postgres@127.0.0.1:{port}/{}", db.name), ..db.clone() }
}

#[tokio::test]
async fn a_connection_that_is_closed_at_any_moment_of_the_start_is_away_and_made_again_and_no_refusal() {
    let (db, files) = (Db::new().await, Files::new(["name: one\nsteps: [{id: a, set: 1}]\n"]));
    let starting = (0..9).map(async |first| {
        let way = closing(&db, first..first + 2).await;
        let mut worker = Spec::new(&way, &files).ready().await;
        let log = worker.log();
        assert!(
            !log.contains("refused") && worker.logged("\"ERROR\"") == 0,
            "connections {first} and the next closed: {log}"
        );
        assert_eq!(worker.drain(SOON).await, Some(0));
        usize::from(log.contains("trying again"))
    });
    let told: usize = futures_util::future::join_all(starting).await.into_iter().sum();
    assert!(told >= 4, "what was closed was needed: {told}");
}
