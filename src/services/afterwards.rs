//! What is looked after when something of a run has been committed: was a wait answered before its run was suspended, who waits for a run that
//! has ended, for whom did it wait? One task: what comes while a statement is under way goes together with the next, so that the ends of a
//! thousand children cost their parent a few statements. What is left undone the sweep repairs.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::{Database, DbError, children, waits};
use crate::model::{RunId, StepKey};
use crate::testing::Failpoints;

use super::shared::{Backoff, Hints};

/// So many go in one statement at the most: whoever wants one of their rows meanwhile waits for it.
const MOST: usize = 200;

/// With pauses growing to two seconds, half an hour; after that the sweep's repair is left to do it.
const TRIES: u32 = 1_000;

/// So long the worker's end waits for it.
const AT_THE_END: Duration = Duration::from_millis(300);

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
pub(super) struct Afterwards(
    mpsc::UnboundedSender<(RunId, After)>,
    #[expect(dead_code, reason = "its drop is the news")] oneshot::Sender<()>,
);

impl Afterwards {
    pub(super) fn start(
        db: &Database,
        hints: &Arc<Hints>,
        failpoints: &Failpoints,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        let (kept, gone) = oneshot::channel();
        let look = Look { db: db.clone(), hints: hints.clone(), failpoints: failpoints.clone(), later: Vec::new() };
        tasks.spawn(async move {
            tokio::select! {
                () = look.run(rx) => {}
                // Nothing is lost that the sweep would not mend: nobody's lock keeps this worker from its end.
                () = async { let _ = gone.await; tokio::time::sleep(AT_THE_END).await } => {}
            }
        });
        Self(tx, kept)
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

/// What goes in one statement. Ends of children gain much from going together; what may wait for others' locks, or hold many, goes run by run.
#[derive(Debug, PartialEq)]
enum Batch {
    EndsOfChildren(Vec<Uuid>),
    Suspend(RunId, Vec<StepKey>),
    EndOfParent(Uuid),
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
        let asked = self.db.ask(async |conn| batch.once(conn).await);
        // A bug of ours must not keep the others from being told.
        let asked = AssertUnwindSafe(asked).catch_unwind().await;
        let left = match asked {
            Ok(Ok(again)) => batch.only(&again).into_iter().collect(),
            // Something in one of them is refused, or somebody is in its way: it must not keep the others.
            Ok(Err(error)) if error.is_of_one() => batch.each(),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the look after a commit failed, trying again");
                vec![batch]
            }
            Err(_) => {
                tracing::error!(?batch, "the look after a commit panicked; it is left to the sweep");
                Vec::new()
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

/// The ends of children together, and of each run its waits.
fn batches(came: Vec<(RunId, After)>) -> Vec<Batch> {
    let mut suspends = BTreeMap::<RunId, Vec<StepKey>>::new();
    let (mut children, mut parents) = (Vec::new(), Vec::new());
    for (run, after) in came {
        match after {
            After::Suspend(keys) => suspends.entry(run).or_default().extend(keys),
            After::EndOfChild => children.push(run.0),
            After::EndOfParent => parents.push(Batch::EndOfParent(run.0)),
        }
    }
    let children = (!children.is_empty()).then_some(Batch::EndsOfChildren(children));
    let suspends = suspends.into_iter().map(|(run, keys)| Batch::Suspend(run, keys));
    children.into_iter().chain(suspends).chain(parents).collect()
}

impl Batch {
    /// Returns the runs for which it must be called again.
    async fn once(&self, conn: &mut sqlx::PgConnection) -> Result<Vec<Uuid>, DbError> {
        match self {
            Self::EndsOfChildren(runs) => children::tell_parents(conn, runs).await,
            Self::Suspend(run, keys) => {
                let settled = waits::settle(conn, *run, keys).await?;
                Ok(if settled { Vec::new() } else { vec![run.0] })
            }
            Self::EndOfParent(run) => children::abandon(conn, *run).await.map(|()| Vec::new()),
        }
    }

    /// What it is of these runs alone.
    fn only(self, again: &[Uuid]) -> Option<Self> {
        match self {
            _ if again.is_empty() => None,
            Self::EndsOfChildren(_) => Some(Self::EndsOfChildren(again.to_vec())),
            Self::Suspend(..) | Self::EndOfParent(_) => Some(self),
        }
    }

    /// One of each.
    fn each(self) -> Vec<Self> {
        match self {
            Self::EndsOfChildren(all) => all.into_iter().map(|one| Self::EndsOfChildren(vec![one])).collect(),
            Self::Suspend(..) | Self::EndOfParent(_) => vec![self],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_children_go_in_one_statement_and_a_run_s_waits_together() {
        let [a, b, c] = std::array::from_fn(|n| RunId(Uuid::from_u128(n as u128 + 1)));
        let came = vec![
            (b, After::Suspend(vec!["x".into()])),
            (a, After::EndOfChild),
            (c, After::EndOfParent),
            (b, After::Suspend(vec!["y".into()])),
            (c, After::Suspend(Vec::new())),
            (b, After::EndOfChild),
        ];
        let together = [
            Batch::EndsOfChildren(vec![a.0, b.0]),
            Batch::Suspend(b, vec!["x".into(), "y".into()]),
            Batch::Suspend(c, Vec::new()),
            Batch::EndOfParent(c.0),
        ];
        assert_eq!(batches(came), together);
        assert_eq!(
            batches(vec![(c, After::EndOfParent)]),
            [Batch::EndOfParent(c.0)],
            "nothing is asked of what is empty"
        );
    }

    #[test]
    fn only_those_are_asked_again_at_which_somebody_is_in_the_way_and_each_alone_when_one_is_refused() {
        let [a, b] = std::array::from_fn(|n| Uuid::from_u128(n as u128 + 1));
        let ends = || Batch::EndsOfChildren(vec![a, b]);
        assert_eq!(ends().only(&[]), None);
        assert_eq!(ends().only(&[b]), Some(Batch::EndsOfChildren(vec![b])));
        assert_eq!(ends().each(), [Batch::EndsOfChildren(vec![a]), Batch::EndsOfChildren(vec![b])]);
        let suspend = || Batch::Suspend(RunId(a), vec!["x".into()]);
        assert_eq!((suspend().only(&[]), suspend().only(&[a])), (None, Some(suspend())));
    }
}
