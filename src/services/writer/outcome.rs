//! After a lost connection the outcome is unknown: what does the database hold?

use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::batch::{ReadBack, read_back};
use crate::engine::{CommitError, Transition};
use crate::model::StepState;

use super::group::Group;

/// What the database holds of the runs of a batch of unknown outcome.
pub(super) async fn held_of(conn: &mut PgConnection, groups: &[Group]) -> Result<Vec<ReadBack>, crate::db::DbError> {
    let Some(worker) = groups.first().map(|g| g.worker) else { return Ok(Vec::new()) };
    let runs: Vec<Uuid> = groups.iter().map(|g| g.run).collect();
    let epochs: Vec<i32> = groups.iter().map(|g| g.epoch).collect();
    read_back(conn, worker, &runs, &epochs).await
}

pub(super) fn left_a_trace(group: &Group, held: &ReadBack) -> bool {
    match group.transition {
        Some(Transition::Complete { .. } | Transition::Fail { .. } | Transition::Cancel { .. }) => held.ended,
        Some(Transition::Suspend { .. } | Transition::Resume { .. } | Transition::Release | Transition::Pause) => {
            held.moved
        }
        Some(Transition::Start) | None => group.steps.iter().any(|row| {
            let r = &row.record;
            r.state != StepState::Running
                && held.steps.iter().any(|s| *s == format!("{} {} {}", r.key, r.state.as_str(), r.attempts))
        }),
    }
}

/// Answers the groups that the database tells of, and returns those to send again: their lease stands, and nothing shows
/// that they were written. Each group is judged by its own trace: that another run is where this batch would have
/// brought it may have other reasons.
pub(super) fn settle_after_read_back(groups: Vec<Group>, held: &[ReadBack]) -> Vec<Group> {
    let mut again = Vec::new();
    for (group, held) in groups.into_iter().zip(held) {
        if left_a_trace(&group, held) {
            group.answer(&Ok(()));
        } else if held.mine {
            again.push(group);
        } else {
            group.answer(&Err(CommitError::LeaseLost));
        }
    }
    again
}
