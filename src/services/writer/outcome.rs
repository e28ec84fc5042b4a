//! After a lost connection the outcome is unknown: what does the database hold?

use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::batch::{ReadBack, read_back};
use crate::engine::{CommitError, Transition};

use super::group::Group;

/// What the database holds of the runs of a batch of unknown outcome.
pub(super) async fn held_of(conn: &mut PgConnection, groups: &[Group]) -> Result<Vec<ReadBack>, crate::db::DbError> {
    let Some(worker) = groups.first().map(|g| g.worker) else { return Ok(Vec::new()) };
    let runs: Vec<Uuid> = groups.iter().map(|g| g.run).collect();
    let epochs: Vec<i32> = groups.iter().map(|g| g.epoch).collect();
    read_back(conn, worker, &runs, &epochs).await
}

/// Does the run stand where the group's transition brings it? Only the lease's holder could bring it there, under this epoch.
fn has_arrived(group: &Group, held: &ReadBack) -> bool {
    match group.transition {
        Some(Transition::Complete { .. } | Transition::Fail { .. } | Transition::Cancel { .. }) => held.ended,
        Some(Transition::Suspend { .. } | Transition::Resume { .. } | Transition::Release | Transition::Pause) => {
            held.moved
        }
        Some(Transition::Start) | None => false,
    }
}

/// Answers the groups that the database tells of, and returns those to send again: their lease stands and the run has not moved.
/// Perhaps they were written all the same, or still will be, by a statement that is on its way: that makes no difference, for the
/// general statement writes nothing twice and takes nothing back.
pub(super) fn settle_after_read_back(groups: Vec<Group>, held: &[ReadBack]) -> Vec<Group> {
    let mut again = Vec::new();
    for (group, held) in groups.into_iter().zip(held) {
        if has_arrived(&group, held) {
            group.answer(&Ok(()));
        } else if held.mine {
            again.push(group);
        } else {
            group.answer(&Err(CommitError::LeaseLost));
        }
    }
    again
}
