//! What the answers mean: pure, from facts to findings. Every finding that is not fine says what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;

use crate::db::doctor::{Breaker, HeldBack, Server, Transaction, Unserved, Way};
use crate::db::migrate::Unfit;
use crate::db::operate::{QueueLine, TableSize, WorkerLine};
use crate::db::{DbError, Trouble};
use crate::model::Failure;

use super::super::sizes::{bytes, is_bloated};
use super::super::text::span;
use super::machine::Space;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub says: String,
    pub advice: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    /// It works, and could be better.
    Note,
    Wrong,
    /// It could not be looked at.
    Unknown,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
        }
    }
}

fn ok(check: &'static str, says: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, says: says.into(), advice: None }
}

fn note(check: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check, level: Level::Note, says: says.into(), advice: Some(advice.into()) }
}

fn wrong(check: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { check, level: Level::Wrong, says: says.into(), advice: Some(advice.into()) }
}

/// A worker holds so many connections when it idles.
const PER_WORKER: i64 = 6;

/// A clock that is further away makes times in logs and traces hard to read; no decision rests on it.
const CLOCK: TimeDelta = TimeDelta::seconds(2);

/// A run that is ready is claimed within two seconds where there is a free slot.
const LAG: TimeDelta = TimeDelta::minutes(1);

/// A claim that steps over so many dead rows is slow.
const HELD_BACK: i64 = 1_000_000;

/// A table of so many changed rows should have been analyzed.
const CHANGED: i64 = 50_000;

pub(super) fn unreachable(error: &str) -> Finding {
    let advice = "look at the address and at the server: is it running, and does pg_hba.conf let this role in?";
    wrong("server", format!("no connection: {error}"), advice)
}

pub(super) fn unanswered(check: &'static str, error: &DbError) -> Finding {
    let advice = match (error.sqlstate().as_deref(), error.trouble) {
        (Some("42501"), _) => "ask as a role that may look: GRANT pg_monitor and the rights on stepd's schemas",
        (_, Trouble::Busy) => "something is in the way: try again, and look at the oldest transaction",
        _ => "try again",
    };
    Finding { check, level: Level::Unknown, says: format!("no answer: {error}"), advice: Some(advice.into()) }
}

pub(super) fn server(s: &Server) -> Finding {
    let says = format!("Postgres {}, database {}, {}", s.version, s.database, bytes(s.bytes));
    match s.standby {
        false => ok("server", says),
        true => wrong(
            "server",
            format!("{says}: a standby, which cannot be written to"),
            "connect to the primary, or promote this one",
        ),
    }
}

pub(super) fn schema(fits: Result<(), Unfit>, version: i32) -> Finding {
    match fits {
        Ok(()) => ok("schema version", format!("version {version}, which this stepd works with")),
        Err(why) => {
            let advice = match why {
                Unfit::Missing { .. } | Unfit::Older { .. } | Unfit::Unrecorded | Unfit::NotOwner { .. } => {
                    "stepd migrate"
                }
                Unfit::Newer { .. } | Unfit::AtWork { .. } => "install the stepd that the schema was made for",
                Unfit::Differs { .. } => {
                    "work with the stepd that made it (stepd.workers says which have), or with a database of its own"
                }
                Unfit::NotWhole { .. } => "let the restore come to its end, or restore again",
                Unfit::Long { .. } | Unfit::InTheWay { .. } => "stepd migrate when nobody enqueues",
            };
            wrong("schema version", why.to_string(), advice)
        }
    }
}

/// A daemon runs what its workflows say; what it may do to the database is what they may.
pub(super) fn role(s: &Server) -> Finding {
    let what = match (s.superuser, s.owner) {
        (false, false) => {
            return ok("role", format!("{} is neither a superuser nor the owner of stepd's schema", s.role));
        }
        (true, _) => "a superuser",
        (false, true) => "the owner of stepd's schema",
    };
    note(
        "role",
        format!("{} is {what}: a daemon that runs as it may do far more than it needs", s.role),
        "stepd migrate --roles once, as this one; then a login of its own for stepd serve, with GRANT stepd_daemon TO it",
    )
}

pub(super) fn pooler(way: &Way) -> Finding {
    match way {
        Way::Direct => ok("pooler", "none: each session has its own backend"),
        Way::Past => ok(
            "pooler",
            "a connection pooler stands between, and database_direct_url leads past it: locks hold and notifications arrive",
        ),
        Way::Pooled => note(
            "pooler",
            "a connection pooler (PgBouncer) stands between: statements are safe, each in a transaction of its own; but no session lock holds, \
             so a dead worker is found after its lease (15 s), not within 2 s",
            "set database_direct_url to the address of Postgres itself: one connection of each daemon goes there",
        ),
        Way::Blocked(why) => wrong(
            "pooler",
            format!("database_direct_url, the way past a connection pooler, cannot be gone: {why}"),
            "correct database_direct_url: Postgres' own address, the same database; or remove it, and the lease decides",
        ),
    }
}

pub(super) fn notifications(hears: bool, wanted: bool, pooled: bool) -> Finding {
    match (wanted, hears) {
        (true, true) => ok("notifications", "LISTEN hears what NOTIFY says"),
        (true, false) if pooled => note(
            "notifications",
            "a connection pooler carries none: new runs are found by looking, up to 2 s late",
            "set database_direct_url to the address of Postgres itself",
        ),
        (true, false) => wrong(
            "notifications",
            "LISTEN hears nothing: new runs are found by polling, up to 2 s late",
            "look at what stands between: something takes the notifications away",
        ),
        (false, _) => note(
            "notifications",
            "switched off by the settings: new runs are found by polling, up to 2 s late",
            "where that is not wanted: UPDATE stepd_engine.settings SET notify = true",
        ),
    }
}

pub(super) fn clock(ahead: TimeDelta) -> Finding {
    let which = if ahead < TimeDelta::zero() { "behind" } else { "ahead of" };
    match ahead.abs() <= CLOCK {
        true => ok("clock", format!("the server's is {} {which} this machine's", span(ahead.abs()))),
        false => wrong(
            "clock",
            format!(
                "the server's is {} {which} this machine's: times in logs and rows do not fit each other",
                span(ahead.abs())
            ),
            "keep both in time by NTP (timedatectl, chronyc tracking); stepd itself decides by the server's alone",
        ),
    }
}

/// The closest of the limits on connections.
pub(super) fn connections(s: &Server, workers: i64) -> Finding {
    let limits = [
        (i64::from(s.room), s.used, "max_connections", "raise max_connections, or put applications behind a pooler"),
        (
            i64::from(s.database_room),
            s.database_used,
            "the database's CONNECTION LIMIT",
            "ALTER DATABASE … CONNECTION LIMIT -1, or a higher one",
        ),
        (
            i64::from(s.role_room),
            s.role_used,
            "the role's CONNECTION LIMIT",
            "ALTER ROLE … CONNECTION LIMIT -1, or a higher one",
        ),
    ];
    // The first one is always a limit; a negative number says that the others are none.
    let (most, used, name, advice) = limits
        .into_iter()
        .filter(|(most, ..)| *most >= 0)
        .min_by_key(|(most, used, ..)| most - used)
        .unwrap_or((i64::MAX, 0, "max_connections", ""));
    let free = (most - used).max(0);
    let says = format!("{used} of {most} are used ({name}), {free} are free");
    match free {
        free if free < PER_WORKER => wrong("connections", format!("{says}; a worker needs {PER_WORKER}"), advice),
        free if free < PER_WORKER * workers => note(
            "connections",
            format!("{says}; should all workers reconnect at once, they need {}", PER_WORKER * workers),
            advice,
        ),
        _ => ok("connections", says),
    }
}

pub(super) fn transaction(oldest: Option<&Transaction>, limit: Duration) -> Finding {
    const CHECK: &str = "oldest transaction";
    let Some(t) = oldest else { return ok(CHECK, "none is open") };
    let age = t.now - t.since;
    let who = t.who.as_deref().unwrap_or("somebody");
    let what = match t.pid {
        Some(pid) => format!("open for {} by {who} ({}, pid {pid})", span(age), t.what),
        None => format!("open for {} by {who} ({})", span(age), t.what),
    };
    if age < TimeDelta::from_std(limit).unwrap_or(TimeDelta::MAX) {
        return ok(CHECK, what);
    }
    let advice = match (t.pid, &t.gid) {
        (Some(pid), _) => format!(
            "end it: SELECT pg_terminate_backend({pid}); and give such sessions an idle_in_transaction_session_timeout"
        ),
        (None, Some(gid)) => format!("end it: ROLLBACK PREPARED '{}'", gid.replace('\'', "''")),
        (None, None) => "end it".to_owned(),
    };
    wrong(CHECK, format!("{what}: no dead row that is younger can be vacuumed"), advice)
}

/// Standbys and slots tell transactions, not times. Dead rows come with them: few transactions hold few rows back.
pub(super) fn held_back(furthest: Option<&HeldBack>) -> Finding {
    const CHECK: &str = "dead rows";
    let Some(h) = furthest else { return ok(CHECK, "no standby and no replication slot holds them back") };
    let n = h.transactions;
    let (who, advice) = match (&h.slot, h.active) {
        (Some(slot), true) => (
            format!("replication slot {slot}"),
            "look at its standby: a long query there, or hot_standby_feedback, which can be off".to_owned(),
        ),
        (Some(slot), false) => (
            format!("replication slot {slot}, which nobody reads,"),
            format!("start its reader, or remove it: SELECT pg_drop_replication_slot('{}')", slot.replace('\'', "''")),
        ),
        (None, _) => (
            format!("standby {}", h.standby.as_deref().unwrap_or("without a name")),
            "end the long query there, or set hot_standby_feedback = off there".to_owned(),
        ),
    };
    let says = format!("{who} holds those of the last {n} transactions back");
    if n < HELD_BACK { ok(CHECK, says) } else { wrong(CHECK, format!("{says}: none of them can be vacuumed"), advice) }
}

/// Who may not see what others do cannot be told who is in the way.
pub(super) fn sight(s: &Server) -> Finding {
    const CHECK: &str = "other sessions";
    match s.hidden {
        0 => ok(CHECK, format!("{} sees what they do", s.role)),
        n => note(
            CHECK,
            format!("{n} hide from {} what they do: old transactions of theirs are not told here", s.role),
            format!("as a superuser: GRANT pg_read_all_stats TO {}", s.role),
        ),
    }
}

pub(super) fn autovacuum(s: &Server, tables: &[TableSize]) -> Finding {
    const CHECK: &str = "autovacuum";
    if !s.autovacuum || !s.track_counts {
        let off = if s.autovacuum { "track_counts" } else { "autovacuum" };
        return wrong(
            CHECK,
            format!("{off} is off: dead rows stay, and claims slow down"),
            format!("ALTER SYSTEM SET {off} = on; SELECT pg_reload_conf()"),
        );
    }
    if let Some(t) = tables.iter().find(|t| t.switched_off) {
        return wrong(
            CHECK,
            format!("it is switched off for {}", t.name),
            format!("ALTER TABLE {} RESET (autovacuum_enabled)", t.name),
        );
    }
    let dead = |t: &TableSize| format!("{} has {} dead rows beside {} live ones", t.name, t.dead, t.live);
    match tables.iter().find(|t| is_bloated(t)) {
        Some(t) => wrong(
            CHECK,
            format!("it is behind: {}", dead(t)),
            format!("look for an old transaction; raise autovacuum_max_workers; now: VACUUM {}", t.name),
        ),
        None => ok(
            CHECK,
            match tables.iter().max_by_key(|t| t.dead).filter(|t| t.dead > 0) {
                Some(t) => format!("it keeps up: {} at the most", dead(t)),
                None => "it keeps up: no dead rows".to_owned(),
            },
        ),
    }
}

pub(super) fn statistics(tables: &[TableSize]) -> Finding {
    const CHECK: &str = "statistics";
    let stale = |t: &&TableSize| t.changed > CHANGED && t.changed > t.live / 2;
    match tables.iter().filter(stale).max_by_key(|t| t.changed) {
        Some(t) => wrong(
            CHECK,
            format!("{} has {} changed rows since its last ANALYZE", t.name, t.changed),
            format!("ANALYZE {}", t.name),
        ),
        None => ok(CHECK, "the planner knows the tables"),
    }
}

pub(super) fn workers(workers: &[WorkerLine]) -> Finding {
    const CHECK: &str = "workers";
    if let Some(w) = workers.iter().find(|w| !w.alive) {
        return wrong(
            CHECK,
            format!(
                "the last heartbeat of {}:{} is {} old, its lease is {}: it is dead or hangs, and nobody has taken over its {} runs",
                w.host,
                w.pid,
                span(w.now - w.beat_at),
                span(TimeDelta::milliseconds(w.lease_ms)),
                w.running
            ),
            match workers.iter().any(|w| w.alive) {
                true => {
                    "another worker takes over within seconds; if this stays, look at its log for \"take-over failed\""
                }
                false => "no other worker lives to take over: start stepd serve",
            },
        );
    }
    match workers.len() {
        0 => note(CHECK, "none is registered: nothing is claimed", "start stepd serve"),
        n => {
            let (running, slots) = workers.iter().fold((0, 0), |(r, s), w| (r + w.running, s + i64::from(w.slots)));
            let oldest = workers.iter().map(|w| w.now - w.beat_at).max().unwrap_or_default();
            let word = if n == 1 { "worker" } else { "workers" };
            ok(
                CHECK,
                format!("{n} {word}, {running} of {slots} slots in use, the oldest heartbeat is {} old", span(oldest)),
            )
        }
    }
}

/// The first figure to alert on: how long what is ready waits for a slot.
pub(super) fn lag(queues: &[QueueLine]) -> Finding {
    const CHECK: &str = "queue lag";
    let ready = queues.iter().filter_map(|q| Some((q.now - q.oldest_ready_at?, q.name.as_str(), q.queued)));
    let Some((age, name, queued)) = ready.max() else { return ok(CHECK, "nothing waits for a slot") };
    let says = format!("the oldest ready run has waited for {}, in queue {name} with {queued} queued", span(age));
    match age <= LAG {
        true => ok(CHECK, says),
        false => note(
            CHECK,
            says,
            "are all slots in use? stepd worker ls; more workers or a higher --concurrency take more runs at once",
        ),
    }
}

/// A circuit that is open.
pub(super) fn failing(b: &Breaker) -> Finding {
    let next = match b.probe {
        Some(run) => format!("run {run} tries it now"),
        None => format!("one of them tries it in {}", span((b.next_at - b.now).max(TimeDelta::zero()))),
    };
    wrong(
        "failing steps",
        format!(
            "step {} of workflow {} keeps failing: {} runs wait to be resumed since {}; {next}",
            b.step,
            b.workflow,
            b.runs,
            span(b.now - b.opened_at)
        ),
        "look at what the step calls (stepd ls --state resuming, stepd why RUN); when it works again, all go on by themselves",
    )
}

pub(super) fn unserved(runs: &[Unserved]) -> Finding {
    const CHECK: &str = "runs without a worker";
    let Some(first) = runs.first() else { return ok(CHECK, "none: what is queued, some worker serves") };
    let count = if first.n == 1 { "1 run waits".to_owned() } else { format!("{} runs wait", first.n) };
    let since = span(first.now - first.since);
    let more = match runs.len() {
        1 => String::new(),
        n => format!("; and {} more like it", n - 1),
    };
    match (&first.queue, &first.workflow) {
        (Some(queue), _) => wrong(
            CHECK,
            format!("{count} in queue {queue}, since {since}, and no live worker serves it{more}"),
            match first.exclusive {
                true => format!("stepd serve --queue {queue}: only a worker that names it serves it"),
                false => format!("start stepd serve, or let one serve it: stepd serve --queue {queue}"),
            },
        ),
        (None, workflow) => wrong(
            CHECK,
            format!(
                "{count} for workflow {}, since {since}, which no worker has loaded{more}",
                workflow.as_deref().unwrap_or("?")
            ),
            "load its file: stepd serve --workflows DIR",
        ),
    }
}

pub(super) fn disk(space: Option<Space>, path: Option<&str>, database: Option<i64>) -> Finding {
    const CHECK: &str = "disk";
    let Some(Space { free, total }) = space else {
        let size = database.map(|n| format!("the database has {}; ", bytes(n))).unwrap_or_default();
        return Finding {
            check: CHECK,
            level: Level::Unknown,
            says: format!("{size}how much is free cannot be seen from here"),
            advice: Some("look on the server: df".into()),
        };
    };
    let big = |n: u64| bytes(i64::try_from(n).unwrap_or(i64::MAX));
    let says = format!("{} of {} are free under {}", big(free), big(total), path.unwrap_or("the data directory"));
    match free < (1 << 30) || free < total / 20 {
        true => wrong(
            CHECK,
            says,
            "make room before Postgres stops: a full disk stops every write; stepd db says what is large",
        ),
        false => ok(CHECK, says),
    }
}

/// The configuration does not make them.
pub(super) fn no_servers(error: &str) -> Finding {
    wrong("tool servers", error, "mend the configuration: stepd config --check")
}

/// Do the servers of `[mcp]` answer?
pub(super) fn tool_servers(answers: &BTreeMap<String, Result<(), Failure>>) -> Finding {
    const CHECK: &str = "tool servers";
    let names: Vec<&str> = answers.keys().map(String::as_str).collect();
    let silent: Vec<String> =
        answers.iter().filter_map(|(name, a)| Some(format!("{name}: {}", a.as_ref().err()?.message))).collect();
    match (answers.len(), silent.len()) {
        (0, _) => ok(CHECK, "the configuration names none"),
        (1, 0) => ok(CHECK, format!("{} answers", names.join(", "))),
        (n, 0) => ok(CHECK, format!("all {n} answer: {}", names.join(", "))),
        (n, k) => wrong(
            CHECK,
            format!("{k} of {n} {} no answer: {}", if k == 1 { "gives" } else { "give" }, silent.join("; ")),
            "start it, or mend its part of [mcp]; steps that call it are tried again, and wait where it stays away",
        ),
    }
}
