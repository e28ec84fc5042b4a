//! A context for the tests of single kinds.

use std::sync::Arc;

use crate::model::{Payload, RunId, StepKey, WorkerId};
use crate::telemetry::step_log::StepLog;

use super::step::{StepCx, StepOutput, StopTrigger, stop_pair};

/// The context of a first attempt, and the means to stop it.
pub(crate) fn context() -> (StepCx, StopTrigger) {
    let (trigger, stop) = stop_pair();
    let run = RunId(uuid::Uuid::now_v7());
    let cx = StepCx {
        run,
        workflow: "w".into(),
        key: StepKey::new("charge"),
        attempt: 2,
        epoch: 3,
        worker: WorkerId(uuid::Uuid::new_v4()),
        seq: 1,
        given_context: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        session_id: Some("conversation 7".into()),
        started_at: chrono::DateTime::UNIX_EPOCH,
        label: None,
        shape: Arc::new(|out: StepOutput| Ok(Payload::from_value(&out.default))),
        stop,
        meter: Arc::default(),
        calls: None,
        kept: None,
        reply: None,
        log: StepLog::default(),
    };
    (cx, trigger)
}
