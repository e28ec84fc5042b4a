//! Rows: every kind of them, put into the tables and read back.

use sqlx::{PgConnection, Row as _};
use stepd::model::{Job, Lane, RunState, WorkerId};
use stepd::rules::state::{CRASH_LIMIT, SOLO_AFTER, first};
use uuid::Uuid;

use super::act::{Act, Queue, Steps};

/// The worker that holds what is held.
pub const A: WorkerId = WorkerId(Uuid::from_u128(0xa));
/// Another one.
pub const B: WorkerId = WorkerId(Uuid::from_u128(0xb));
/// The run.
pub const RUN: Uuid = Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0001);

/// What is found of the run.
#[derive(Debug, PartialEq)]
pub enum Row {
    Live(Job),
    Ended {
        state: RunState,
        epoch: i32,
        worker: Option<WorkerId>,
        crashes: i16,
        resumes: i16,
    },
    /// In both tables, or in none.
    Torn(usize),
}

impl Row {
    /// What an ended row keeps of the model's job.
    pub fn of_ended(job: &Job) -> Self {
        Self::Ended {
            state: job.state,
            epoch: job.epoch,
            worker: job.worker,
            crashes: job.crashes,
            resumes: job.resumes,
        }
    }
}

fn live(state: RunState, lane: Lane) -> Job {
    let (epoch, resumes) = if matches!(lane, Lane::Fresh | Lane::Held) { (0, 0) } else { (4, 2) };
    let due = matches!(state, RunState::Scheduled | RunState::Resuming);
    Job { state, lane, epoch, resumes, due, ..first(false, false) }
}

/// Every state, with the lanes that fit it, and every value of what can make a difference.
pub fn every_kind_of_row() -> Vec<Job> {
    let mut all = vec![
        Job { epoch: 0, resumes: 0, ..live(RunState::Scheduled, Lane::Parked) },
        live(RunState::Queued, Lane::Fresh),
        live(RunState::Held, Lane::Held),
    ];
    let streaks = [0, SOLO_AFTER - 1, SOLO_AFTER, SOLO_AFTER + CRASH_LIMIT - 1];
    for streak in streaks {
        let crashes = streak + 3;
        for taken in [false, true] {
            for worker in [None, Some(A), Some(B)].into_iter().take(if streak >= SOLO_AFTER { 3 } else { 1 }) {
                for (state, lane) in [(RunState::Queued, Lane::Returned), (RunState::Held, Lane::HeldBack)] {
                    all.push(Job { streak, crashes, taken, worker, ..live(state, lane) });
                }
            }
            for started in [false, true] {
                all.push(Job {
                    streak,
                    crashes,
                    taken,
                    started,
                    worker: Some(A),
                    ..live(RunState::Running, Lane::Away)
                });
            }
        }
        for due in [false, true] {
            all.push(Job { streak, crashes, due, ..live(RunState::Waiting, Lane::Parked) });
        }
        all.push(Job { streak, crashes, ..live(RunState::Resuming, Lane::Parked) });
        all.push(Job { streak, crashes, ..live(RunState::Paused, Lane::Parked) });
    }
    for started in [false, true] {
        all.push(Job { started, epoch: 1, worker: Some(A), ..live(RunState::Running, Lane::Fresh) });
    }
    for state in [RunState::Completed, RunState::Failed, RunState::Cancelled] {
        all.push(Job { worker: Some(A), crashes: 3, ..live(state, Lane::Parked) });
    }
    all
}

fn quoted(worker: Option<WorkerId>) -> String {
    worker.map_or("NULL".to_owned(), |w| format!("'{}'", w.0))
}

/// What stands with a paused run.
fn pause(from: RunState, due: bool) -> String {
    let due = if due { "'2100-01-01'" } else { "NULL" };
    format!(
        "INSERT INTO stepd_engine.signals (run, kind, name, payload)
         VALUES ('{RUN}', 'pause', 'pause', jsonb_build_object('from', '{}', 'due_at', {due}));",
        from.as_str()
    )
}

/// What is there before an act: the statements that put the run into its table, with its steps, and nothing else. For a session whose
/// triggers are off.
pub fn ground(job: &Job, act: &Act, queue: Queue) -> String {
    let (id, state, worker) = (RUN, job.state.as_str(), quoted(job.worker));
    let lane = Lane::ALL.iter().position(|l| *l == job.lane).unwrap();
    let common = "id, workflow, queue, priority, definition, input, labels, unique_key, concurrency_key, traceparent, session_id, created_by,
        ready_at, run_at, state, epoch, crashes, resumes, worker";
    let values = format!(
        "'{id}', 'w', 'q', 5, d.id, '{{\"a\": 1}}', '{{\"b\": 2}}', 'k', 'c', 't', 's', 'me', '2026-01-01', '2026-01-01',
        '{state}', {}, {}, {}, {worker}",
        job.epoch, job.crashes, job.resumes
    );
    let row = if job.state.is_final() {
        format!(
            "INSERT INTO stepd_engine.ended ({common}, ended_at, error)
             SELECT {values}, now(), '{{\"class\": \"permanent\", \"code\": \"x\", \"message\": \"x\"}}' FROM stepd_engine.definitions d"
        )
    } else {
        let due = match (job.due, act) {
            (false, _) => "NULL",
            (true, Act::StageEarly) => "now() + interval '1 hour'",
            (true, _) => "now() - interval '1 minute'",
        };
        format!(
            "INSERT INTO stepd.jobs ({common}, lane, streak, started, taken, due_at)
             SELECT {values}, {lane}, {}, {}, {}, {due} FROM stepd_engine.definitions d",
            job.streak, job.started, job.taken
        )
    };
    let (step, checkpoint, event) = match act.leaves() {
        Steps::None => (None, false, "NULL"),
        Steps::Begun => (Some("running"), false, "NULL"),
        Steps::Progressed => (Some("completed"), true, "NULL"),
        Steps::Waiting => (Some("waiting"), false, "'e'"),
        Steps::Asking => (Some("waiting"), false, "NULL"),
    };
    let step = step.map_or(String::new(), |state| {
        format!(
            "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, attempts, checkpoint, state, key, kind, event)
             VALUES ('{id}', 1, {}, now(), 1, {checkpoint}, '{state}', 's', 'approve', {event});",
            job.epoch
        )
    });
    let pause = match (job.state, act) {
        (RunState::Paused, Act::Unpause(from, due)) => pause(*from, *due),
        (RunState::Paused, _) => pause(RunState::Queued, false),
        _ => String::new(),
    };
    format!(
        "DELETE FROM stepd.jobs; DELETE FROM stepd_engine.ended; DELETE FROM stepd_engine.checkpoints;
         DELETE FROM stepd_engine.signals; DELETE FROM stepd_engine.queues;
         {} {row}; {step} {pause}",
        queue.setting()
    )
}

/// The run as it is found.
pub struct Found {
    pub row: Row,
    /// Everything, in whichever table it is.
    pub whole: String,
    /// What no transition may change.
    pub kept: String,
    /// Its place in the queue.
    pub ready: String,
    /// Has its worker been asked to stop or to pause it?
    pub asked: bool,
}

const READ: &str = "
    WITH found AS (
        SELECT true AS live, id, state::text, lane, epoch, worker, started, taken, crashes, streak, resumes, due_at IS NOT NULL AS due,
            to_jsonb(j)::text AS whole, ready_at, workflow, queue, priority, definition, input, labels, unique_key,
            concurrency_key, traceparent, session_id, created_by, run_at
        FROM stepd.jobs j WHERE workflow = 'w'
        UNION ALL
        SELECT false, id, state::text, 3::int2, epoch, worker, false, false, crashes, 0::int2, resumes, false,
            to_jsonb(e)::text, ready_at, workflow, queue, priority, definition, input, labels, unique_key,
            concurrency_key, traceparent, session_id, created_by, run_at
        FROM stepd_engine.ended e WHERE workflow = 'w')
    SELECT *, ready_at::text AS ready, EXISTS (SELECT FROM stepd_engine.signals s WHERE s.kind = 'cancel' OR s.kind = 'pause' AND state = 'running') AS asked,
        jsonb_build_array(id, workflow, queue, priority, definition, input, labels, unique_key, concurrency_key,
            traceparent, session_id, created_by, run_at)::text AS kept
    FROM found";

/// Reads the run.
pub async fn read(conn: &mut PgConnection) -> Found {
    let rows = sqlx::query(READ).fetch_all(conn).await.unwrap();
    let [r] = rows.as_slice() else {
        let nothing = String::new;
        return Found { row: Row::Torn(rows.len()), whole: nothing(), kept: nothing(), ready: nothing(), asked: false };
    };
    let job = Job {
        state: RunState::from_word(&r.get::<String, _>("state")).unwrap(),
        lane: Lane::from_number(r.get("lane")).unwrap(),
        epoch: r.get("epoch"),
        worker: r.get::<Option<Uuid>, _>("worker").map(WorkerId),
        started: r.get("started"),
        taken: r.get("taken"),
        crashes: r.get("crashes"),
        streak: r.get("streak"),
        resumes: r.get("resumes"),
        due: r.get("due"),
    };
    Found {
        row: if r.get("live") { Row::Live(job) } else { Row::of_ended(&job) },
        whole: r.get("whole"),
        kept: r.get("kept"),
        ready: r.get("ready"),
        asked: r.get("asked"),
    }
}
