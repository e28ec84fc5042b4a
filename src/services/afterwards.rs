//! What is looked after when something of a run has been committed: was a wait answered before its run was suspended, who waits for a run that
//! has ended, for whom did it wait? One task: what comes while a statement is under way goes together with the next, so that the ends of a
//! thousand children cost their parent a few statements. What is left undone the sweep repairs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::{Database, DbError, Trouble, children, waits};
use crate::model::{RunId, StepKey};
use crate::testing::Failpoints;

use super::shared::{Backoff, Hints};

/// So many go in one statement at the most: whoever wants one of their rows meanwhile waits for it.
const MOST: usize = 200;

/// With pauses growing to two seconds, half an hour; after that the sweep's repair is left to do it.
const TRIES: u32 = 1_000;

/// What is looked after.
#[derive(Debug)]
pub(super) enum After {
    /// Was one of these waits answered in the meantime?
    Suspend(Vec<StepKey>),
    /// Who waits for this run?
    EndOfChild,
    /// What did this run wait for?
    EndOfParent,
}

impl After {
    /// For tests: the moment before it.
    fn failpoint(&self) -> &'static str {
        match self {
            Self::Suspend(_) => "settle.before",
            Self::EndOfChild => "children.before_tell",
            Self::EndOfParent => "children.before_abandon",
        }
    }
}

/// A handle to the task, which ends when every handle is gone and everything has been tried.
pub(super) struct Afterwards(mpsc::UnboundedSender<(RunId, After)>);

impl Afterwards {
    pub(super) fn start(
        db: &Database,
        hints: &Arc<Hints>,
        failpoints: &Failpoints,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        let look = Look { db: db.clone(), hints: hints.clone(), failpoints: failpoints.clone(), later: Vec::new() };
        tasks.spawn(look.run(rx));
        Self(tx)
    }

    /// Returns at once. Bounded by the runs in flight, and by those that wait for somebody's open transaction.
    pub(super) fn look(&self, run: RunId, after: After) {
        let _ = self.0.send((run, after));
    }
}

struct Look {
    db: Database,
    hints: Arc<Hints>,
    failpoints: Failpoints,
    /// Somebody was in the way.
    later: Vec<Later>,
}

struct Later {
    at: Instant,
    tries: u32,
    backoff: Backoff,
    what: Batch,
}

/// What goes in one statement.
enum Batch {
    Suspends(Vec<(RunId, Vec<StepKey>)>),
    EndsOfChildren(Vec<Uuid>),
    EndsOfParents(Vec<Uuid>),
}

impl Look {
    async fn run(mut self, mut rx: mpsc::UnboundedReceiver<(RunId, After)>) {
        loop {
            let next = self.later.iter().map(|later| later.at).min();
            let first = tokio::select! {
                first = rx.recv() => first,
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.again().await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut came = vec![first];
            while came.len() < MOST
                && let Ok(next) = rx.try_recv()
            {
                came.push(next);
            }
            for (_, after) in &came {
                self.failpoints.hit(after.failpoint()).await;
            }
            for batch in batches(came) {
                self.once(batch, 0, Backoff::default()).await;
            }
        }
    }

    /// What is to be tried again by now.
    async fn again(&mut self) {
        let now = Instant::now();
        for later in self.later.extract_if(.., |later| later.at <= now).collect::<Vec<_>>() {
            self.once(later.what, later.tries, later.backoff).await;
        }
    }

    async fn once(&mut self, batch: Batch, tries: u32, mut backoff: Backoff) {
        let left = match self.db.ask(async |conn| batch.once(conn).await).await {
            Ok(again) => batch.only(&again).into_iter().collect(),
            // Something in one of them is refused: it must not keep the others.
            Err(error) if error.trouble == Trouble::Refused && batch.len() > 1 => batch.each(),
            Err(error) => {
                tracing::debug!(%error, "the look after a commit failed, trying again");
                vec![batch]
            }
        };
        for what in left {
            if tries < TRIES {
                let at = Instant::now() + backoff.pause();
                self.later.push(Later { at, tries: tries + 1, backoff: backoff.clone(), what });
            }
        }
        self.hints.stage.notify_one();
        self.hints.request.notify_one();
    }
}

/// Those of each kind together, and of each run its waits.
fn batches(came: Vec<(RunId, After)>) -> Vec<Batch> {
    let mut suspends = BTreeMap::<RunId, Vec<StepKey>>::new();
    let (mut children, mut parents) = (Vec::new(), Vec::new());
    for (run, after) in came {
        match after {
            After::Suspend(keys) => suspends.entry(run).or_default().extend(keys),
            After::EndOfChild => children.push(run.0),
            After::EndOfParent => parents.push(run.0),
        }
    }
    let all = [
        Batch::EndsOfChildren(children),
        Batch::Suspends(suspends.into_iter().collect()),
        Batch::EndsOfParents(parents),
    ];
    all.into_iter().filter(|batch| batch.len() > 0).collect()
}

impl Batch {
    /// Returns the runs for which it must be called again.
    async fn once(&self, conn: &mut sqlx::PgConnection) -> Result<Vec<Uuid>, DbError> {
        match self {
            Self::Suspends(runs) => waits::settle(conn, runs).await,
            Self::EndsOfChildren(runs) => children::tell_parents(conn, runs).await,
            Self::EndsOfParents(runs) => children::abandon(conn, runs).await.map(|()| Vec::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Suspends(runs) => runs.len(),
            Self::EndsOfChildren(runs) | Self::EndsOfParents(runs) => runs.len(),
        }
    }

    /// What it is of these runs alone.
    fn only(self, runs: &[Uuid]) -> Option<Self> {
        let runs: HashSet<Uuid> = runs.iter().copied().collect();
        let among = |all: Vec<Uuid>| all.into_iter().filter(|run| runs.contains(run)).collect();
        let only = match self {
            Self::Suspends(all) => Self::Suspends(all.into_iter().filter(|(run, _)| runs.contains(&run.0)).collect()),
            Self::EndsOfChildren(all) => Self::EndsOfChildren(among(all)),
            Self::EndsOfParents(all) => Self::EndsOfParents(among(all)),
        };
        (only.len() > 0).then_some(only)
    }

    /// One of each.
    fn each(self) -> Vec<Self> {
        match self {
            Self::Suspends(all) => all.into_iter().map(|one| Self::Suspends(vec![one])).collect(),
            Self::EndsOfChildren(all) => all.into_iter().map(|one| Self::EndsOfChildren(vec![one])).collect(),
            Self::EndsOfParents(all) => all.into_iter().map(|one| Self::EndsOfParents(vec![one])).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs<const N: usize>() -> [RunId; N] {
        std::array::from_fn(|n| RunId(Uuid::from_u128(n as u128 + 1)))
    }

    #[test]
    fn what_came_together_goes_in_one_statement_for_each_kind_and_a_run_s_waits_together() {
        let [a, b, c] = runs();
        let came = vec![
            (b, After::Suspend(vec!["x".into()])),
            (a, After::EndOfChild),
            (b, After::Suspend(vec!["y".into()])),
            (c, After::Suspend(Vec::new())),
            (b, After::EndOfChild),
        ];
        let batches = batches(came);
        assert_eq!(batches.len(), 2, "nothing is asked of what is empty");
        assert!(matches!(&batches[0], Batch::EndsOfChildren(runs) if *runs == [a.0, b.0]));
        let Batch::Suspends(suspends) = &batches[1] else { panic!() };
        assert_eq!(*suspends, [(b, vec!["x".into(), "y".into()]), (c, Vec::new())]);
    }

    #[test]
    fn only_those_are_asked_again_at_which_somebody_is_in_the_way() {
        let [a, b] = runs();
        let all = || Batch::Suspends(vec![(a, vec!["x".into()]), (b, Vec::new())]);
        assert!(all().only(&[]).is_none());
        assert!(matches!(all().only(&[a.0]), Some(Batch::Suspends(one)) if one == [(a, vec!["x".into()])]));
        assert_eq!(all().each().len(), 2);
    }
}
