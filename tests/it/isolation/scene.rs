//! How the run stands when the sessions begin.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, PgConnection};
use stepd::rules::state::{CRASH_LIMIT, Fence, SOLO_AFTER};

use super::op::{A, B, C, LAST, RUN};

/// What is there before the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scene {
    /// Queued, and never claimed.
    Fresh,
    /// Queued again.
    Back,
    /// Queued again, and to be claimed alone.
    Solo,
    /// Held by a limit that has room.
    Held,
    /// Its time has come.
    Scheduled,
    /// A runs it.
    Running,
    /// A runs it, and two of its steps wait: one for an event, one for a person.
    Asking,
    /// Suspended in these waits.
    Waiting,
    /// Suspended, and its time has come.
    Due,
    /// Suspended, though a signal that it waits for is kept: a wake-up was lost.
    Missed,
    /// Paused while it waited.
    Paused,
    /// Failed, and the next resume is due.
    Resuming,
    Failed,
    Completed,
    /// Running, though its worker is gone: somebody had locked its row.
    Stranded,
    /// Running with open questions, and one more death ends it.
    Doomed,
    /// Held with two others by a key that has one place.
    Keyed,
    /// A runs it, and its unique key outlives it.
    Kept,
    /// Failed, and a tombstone keeps its unique key.
    Tomb,
    /// Failed, and the time of its tombstone is over.
    Stale,
}

impl Scene {
    pub fn epoch(self) -> i32 {
        if matches!(self, Self::Fresh | Self::Held | Self::Scheduled | Self::Keyed) { 0 } else { 4 }
    }

    pub fn is_ended(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Tomb | Self::Stale)
    }

    /// Does its unique key outlive it?
    pub fn keeps(self) -> bool {
        matches!(self, Self::Kept | Self::Tomb | Self::Stale)
    }

    fn workflow(self) -> &'static str {
        match self {
            Self::Keyed => "keyed",
            Self::Kept | Self::Tomb | Self::Stale => "kept",
            _ => "w",
        }
    }

    /// The lease that a session has, or once had.
    pub fn lease(self) -> Fence {
        Fence { worker: A, epoch: self.epoch() }
    }

    fn waits(self) -> bool {
        matches!(self, Self::Asking | Self::Waiting | Self::Due | Self::Missed | Self::Paused | Self::Doomed)
    }

    /// State, lane, and what else the row says.
    fn row(self) -> (&'static str, i16, &'static str, &'static str) {
        let holder = "'00000000-0000-0000-0000-00000000000a'";
        match self {
            Self::Fresh => ("queued", 0, "NULL", "NULL"),
            Self::Back | Self::Solo => ("queued", 1, "NULL", "NULL"),
            Self::Held | Self::Keyed => ("held", 4, "NULL", "NULL"),
            Self::Scheduled => ("scheduled", 3, "NULL", "now() - interval '1 minute'"),
            Self::Running | Self::Asking | Self::Stranded | Self::Doomed | Self::Kept => ("running", 2, holder, "NULL"),
            Self::Waiting | Self::Missed => ("waiting", 3, "NULL", "NULL"),
            Self::Due => ("waiting", 3, "NULL", "now() - interval '1 minute'"),
            Self::Paused => ("paused", 3, "NULL", "NULL"),
            Self::Resuming => ("resuming", 3, "NULL", "now() - interval '1 minute'"),
            Self::Failed | Self::Tomb | Self::Stale => ("failed", 3, "NULL", "NULL"),
            Self::Completed => ("completed", 3, "NULL", "NULL"),
        }
    }

    /// Clears the tables and puts the run there.
    pub async fn set(self, conn: &mut PgConnection) {
        let mut text = String::from("BEGIN; SET LOCAL session_replication_role = replica;");
        for table in [
            "stepd.jobs",
            "stepd_engine.ended",
            "stepd_engine.checkpoints",
            "stepd_engine.signals",
            "stepd_engine.events",
            "stepd_engine.queues",
            "stepd_engine.workers",
            "public.effects",
        ] {
            let _ = write!(text, "DELETE FROM {table};");
        }
        for worker in [A, B, C, LAST] {
            if !(self == Self::Stranded && worker == A) {
                let _ = write!(
                    text,
                    "INSERT INTO stepd_engine.workers (id, host, pid, version, slots) VALUES ('{}', 'h', 1, 'v', 1);",
                    worker.0
                );
            }
        }
        let (state, lane, worker, due) = self.row();
        let epoch = self.epoch();
        let common =
            "id, workflow, queue, priority, definition, input, labels, unique_key, created_by, ready_at, state, epoch,
            crashes, resumes, worker";
        let values = format!(
            "'{RUN}', '{}', 'q', 5, 1, '{{}}', '{{}}', 'k', 'me', '2026-01-01', '{state}', {epoch}, 0, 0, {worker}",
            self.workflow()
        );
        let _ = if self.is_ended() {
            write!(
                text,
                "INSERT INTO stepd_engine.ended ({common}, ended_at, error) VALUES ({values}, now(),
                    CASE '{state}' WHEN 'failed' THEN '{{\"class\":\"permanent\",\"code\":\"x\",\"message\":\"x\"}}' END);"
            )
        } else {
            let streak = match self {
                Self::Solo => SOLO_AFTER,
                Self::Doomed => SOLO_AFTER + CRASH_LIMIT - 1,
                _ => 0,
            };
            write!(
                text,
                "INSERT INTO stepd.jobs ({common}, lane, streak, started_at, due_at)
                    VALUES ({values}, {lane}, {streak}, CASE WHEN {epoch} > 0 THEN now() END, {due});"
            )
        };
        self.keys(&mut text);
        if self.waits() {
            let _ = write!(
                text,
                r#"INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, attempts, checkpoint, state, key, kind, event, decision)
                    VALUES ('{RUN}', 1, {epoch}, now(), 1, false, 'waiting', 'hear', 'wait', 'e', '{{"wait":"event","event":"e"}}'),
                        ('{RUN}', 2, {epoch}, now(), 1, false, 'waiting', 'ask', 'approve', NULL, '{{"wait":"approval","prompt":"?"}}');"#
            );
        }
        if self == Self::Held {
            text.push_str("INSERT INTO stepd_engine.queues (name, max_running) VALUES ('q', 1);");
        }
        if self == Self::Missed {
            let _ = write!(text, "INSERT INTO stepd_engine.signals (run, kind, name) VALUES ('{RUN}', 'signal', 'e');");
        }
        if self == Self::Paused {
            let _ = write!(
                text,
                r#"INSERT INTO stepd_engine.signals (run, kind, name, payload) VALUES ('{RUN}', 'pause', 'pause', '{{"from": "waiting"}}');
                   INSERT INTO stepd_engine.events (run, kind, data) VALUES ('{RUN}', 'paused', '{{}}');"#
            );
        }
        text.push_str("COMMIT");
        sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await.unwrap();
    }

    /// What keys make of it: a tombstone, a term, rivals.
    fn keys(self, text: &mut String) {
        let _ = match self {
            Self::Kept => write!(text, "UPDATE stepd.jobs SET unique_keep = '1 hour';"),
            Self::Keyed => write!(
                text,
                "UPDATE stepd.jobs SET concurrency_key = '*';
                 INSERT INTO stepd.jobs (id, workflow, queue, priority, input, labels, concurrency_key, created_by, ready_at, state, epoch, lane, crashes, resumes)
                    SELECT gen_random_uuid(), 'keyed', 'q', 5, '{{}}', '{{}}', '*', 'me', n::timestamptz, 'held', 0, 4, 0, 0
                    FROM unnest(ARRAY['2025-12-31', '2026-01-02']) n;"
            ),
            Self::Tomb | Self::Stale => write!(
                text,
                "INSERT INTO stepd.jobs (id, workflow, queue, priority, input, labels, unique_key, created_by, ready_at, state, epoch, lane, crashes, resumes,
                    unique_keep, due_at) VALUES ('{RUN}', 'kept', 'q', 5, '{{}}', '{{}}', 'k', 'me', '2026-01-01', 'failed', 4, 3, 0, 0, '1 hour',
                    now() + interval '{}');",
                if self == Self::Tomb { "1 hour" } else { "-1 minute" }
            ),
            _ => Ok(()),
        };
    }
}
