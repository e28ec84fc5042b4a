//! What the facts mean, and how it reads.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::db::doctor::{HeldBack, Server, Transaction, Unserved, Way};
use crate::db::operate::{QueueLine, TableSize, WorkerLine};

use super::machine::Space;
use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_100_000).unwrap()
}

fn server() -> Server {
    Server {
        database: "shop".into(),
        version: "15.8".into(),
        now: now(),
        autovacuum: true,
        track_counts: true,
        room: 97,
        used: 40,
        database_room: -1,
        database_used: 30,
        hidden: 0,
        role_room: -1,
        role_used: 20,
        role: "stepd".into(),
        superuser: false,
        owner: false,
        bytes: 7_340_032_000,
        standby: false,
    }
}

fn holds(slot: Option<&str>, active: bool, transactions: i64) -> HeldBack {
    let standby = slot.is_none().then(|| "db3".to_owned());
    HeldBack { slot: slot.map(ToOwned::to_owned), standby, active, transactions }
}

fn size(name: &str) -> TableSize {
    TableSize {
        name: name.into(),
        rows: 0,
        bytes: 0,
        index_bytes: 0,
        live: 1_000,
        dead: 40,
        changed: 12,
        vacuumed_at: None,
        analyzed_at: None,
        switched_off: false,
        now: now(),
    }
}

fn worker(beat: i64) -> WorkerLine {
    WorkerLine {
        id: Uuid::from_u128(1),
        alive: beat < 15,
        stopping: false,
        host: "web1".into(),
        pid: 4711,
        started_at: now(),
        beat_at: now() - TimeDelta::seconds(beat),
        running: 7,
        slots: 100,
        queues: None,
        version: "0.1.0".into(),
        lease_ms: 15_000,
        runs: Vec::new(),
        facts: "{}".into(),
        now: now(),
    }
}

fn open(seconds: i64) -> Transaction {
    Transaction {
        pid: Some(4712),
        who: Some("ann".into()),
        what: "psql, idle in transaction".into(),
        since: now() - TimeDelta::seconds(seconds),
        gid: None,
        now: now(),
    }
}

fn waits(queue: Option<&str>, workflow: Option<&str>, exclusive: bool) -> Unserved {
    Unserved {
        queue: queue.map(Into::into),
        workflow: workflow.map(Into::into),
        exclusive,
        n: 12,
        since: now() - TimeDelta::minutes(5),
        now: now(),
    }
}

fn ready(seconds: i64) -> QueueLine {
    QueueLine {
        name: "default".into(),
        paused: false,
        paused_by: None,
        paused_at: None,
        max_running: None,
        exclusive: false,
        queued: 40,
        held: 0,
        running: 100,
        scheduled: 0,
        waiting: 0,
        resuming: 0,
        runs_paused: 0,
        oldest_ready_at: Some(now() - TimeDelta::seconds(seconds)),
        now: now(),
    }
}

fn plain(findings: &[Finding]) -> String {
    anstream::adapter::strip_str(&drawn(findings)).to_string()
}

const AGE: Duration = Duration::from_secs(300);

#[test]
fn what_is_fine_takes_one_line() {
    let fine = [
        judge::server(&server()),
        judge::schema(Ok(()), 4),
        judge::pooler(&Way::Direct),
        judge::pooler(&Way::Past),
        judge::notifications(true, true, false),
        judge::clock(TimeDelta::milliseconds(-3)),
        judge::connections(&server(), 2),
        judge::transaction(None, AGE),
        judge::transaction(Some(&open(40)), AGE),
        judge::sight(&server()),
        judge::held_back(None),
        judge::held_back(Some(&holds(Some("db2"), true, 40))),
        judge::autovacuum(&server(), &[size("stepd.jobs")]),
        judge::statistics(&[size("stepd.jobs")]),
        judge::workers(&[worker(2), worker(3)]),
        judge::lag(&[]),
        judge::lag(&[ready(3), ready(1)]),
        judge::unserved(&[]),
        judge::disk(Some(Space { free: 50 << 30, total: 100 << 30 }), Some("/var/lib/postgresql/15/main"), None),
    ];
    assert!(fine.iter().all(|f| f.level == Level::Ok && f.advice.is_none()));
    insta::assert_snapshot!("doctor_fine", plain(&fine));
}

#[test]
fn what_is_wrong_says_what_to_do() {
    let unfit = migrate::fits(2, 2, 4);
    let wrong = [
        judge::unreachable("connection refused"),
        judge::pooler(&Way::Blocked("the server takes no writes".into())),
        judge::server(&Server { standby: true, ..server() }),
        judge::schema(unfit, 2),
        judge::schema(migrate::fits(0, 0, 4), 0),
        judge::schema(migrate::fits(9, 9, 4), 9),
        judge::notifications(false, true, false),
        judge::clock(TimeDelta::seconds(-75)),
        judge::connections(&Server { used: 94, ..server() }, 2),
        judge::connections(&Server { database_room: 32, ..server() }, 2),
        judge::connections(&Server { role_room: 20, ..server() }, 2),
        judge::transaction(Some(&open(7_500)), AGE),
        judge::transaction(
            Some(&Transaction {
                pid: None,
                gid: Some("o'1".into()),
                what: "a prepared transaction".into(),
                ..open(7_500)
            }),
            AGE,
        ),
        judge::held_back(Some(&holds(None, true, 3_000_000))),
        judge::held_back(Some(&holds(Some("db2"), true, 3_000_000))),
        judge::held_back(Some(&holds(Some("o'1"), false, 3_000_000))),
        judge::autovacuum(&Server { autovacuum: false, ..server() }, &[]),
        judge::autovacuum(&server(), &[TableSize { switched_off: true, ..size("stepd.jobs") }]),
        judge::autovacuum(&server(), &[TableSize { dead: 900_000, ..size("stepd.jobs") }]),
        judge::statistics(&[TableSize { changed: 200_000, ..size("stepd_engine.checkpoints") }]),
        judge::workers(&[worker(2), worker(40)]),
        judge::workers(&[worker(40)]),
        judge::unserved(&[waits(Some("gpu"), None, true), waits(Some("default"), None, false)]),
        judge::unserved(&[waits(None, Some("nova"), false)]),
        judge::disk(Some(Space { free: 400 << 20, total: 100 << 30 }), Some("/var/lib/postgresql/15/main"), None),
    ];
    assert!(wrong.iter().all(|f| f.level == Level::Wrong && f.advice.is_some()));
    insta::assert_snapshot!("doctor_wrong", plain(&wrong));
}

#[test]
fn what_could_be_better_or_cannot_be_seen_says_what_to_do_too() {
    let others = [
        judge::pooler(&Way::Pooled),
        judge::notifications(false, true, true),
        judge::notifications(true, false, false),
        judge::connections(&Server { used: 90, ..server() }, 2),
        judge::sight(&Server { hidden: 3, ..server() }),
        judge::workers(&[]),
        judge::lag(&[ready(3), ready(400)]),
        judge::disk(None, None, Some(7_340_032_000)),
        judge::unanswered("autovacuum", &DbError::unanswered(Duration::from_secs(5))),
    ];
    assert!(others.iter().all(|f| matches!(f.level, Level::Note | Level::Unknown) && f.advice.is_some()));
    insta::assert_snapshot!("doctor_notes", plain(&others));
}
