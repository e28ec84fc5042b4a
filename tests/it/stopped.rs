//! A worker is stopped (SIGSTOP) past its lease and continued: nothing that it does late changes anything, and it goes on under a
//! new registration.

use std::time::Duration;

use crate::support::{Db, Files, SOON, Spec, Worker, wait_until};

const STEPS: &str = r#"
name: three
resume: never
steps:
  - id: one
    run: echo "$STEPD_RUN_ID $STEPD_STEP_KEY $STEPD_EPOCH" >> @DIR@/effects; sleep 0.05
  - id: two
    sql: INSERT INTO effects (run, step) VALUES ($1, $2)
    params: ["${{ run.id }}", "${{ step.key }}"]
  - id: three
    run: echo "$STEPD_RUN_ID $STEPD_STEP_KEY $STEPD_EPOCH" >> @DIR@/effects
output: steps.three.state
"#;

/// Fails for who comes first.
const FAILS_ONCE: &str = r#"
name: fails_once
resume: never
steps:
  - id: only
    run: if [ -e @DIR@/failed ]; then echo good; else touch @DIR@/failed; exit 3; fi
"#;

struct Ground {
    db: Db,
    files: Files,
}

impl Ground {
    async fn new() -> Self {
        let (db, files) = (Db::new().await, Files::new([STEPS, FAILS_ONCE]));
        db.exec("CREATE TABLE effects (run text, step text)").await;
        Self { db, files }
    }

    /// A worker that stops itself at the point.
    async fn stopping_at(&self, point: &str) -> Worker {
        Spec::new(&self.db, &self.files).failpoints(point).ready().await
    }

    async fn gone(&self, worker: &Worker) {
        let pid = worker.pid();
        wait_until("the stopped worker is taken over", SOON, async || {
            self.db.count(format!("SELECT count(*) FROM stepd_engine.workers WHERE pid = {pid}")).await == 0
        })
        .await;
    }

    /// Everything that is recorded of a run.
    async fn snapshot(&self, run: &str) -> String {
        self.db
            .one(format!(
                "SELECT concat((SELECT json_agg(e) FROM stepd_engine.ended e WHERE id = '{run}'),
                    (SELECT json_agg(c ORDER BY c.seq) FROM stepd_engine.checkpoints c WHERE run = '{run}'),
                    (SELECT json_agg(v ORDER BY v.id) FROM stepd_engine.events v WHERE run = '{run}'),
                    (SELECT json_agg(j) FROM stepd.jobs j WHERE id = '{run}'))"
            ))
            .await
    }

    /// A worker stops at the point in the middle of a run; another takes the run over and finishes it; the first one goes on.
    async fn late(&self, workflow: &str, point: &str) -> (Worker, String) {
        let mut stopped = self.stopping_at(point).await;
        let run = self.db.enqueue(workflow, "{}").await;
        stopped.stands_still(SOON).await;
        let mut other = Spec::new(&self.db, &self.files).ready().await;
        self.gone(&stopped).await;
        self.db.reaches(&run, "completed", SOON).await;
        assert_eq!(other.drain(SOON).await, Some(0));
        let (before, effects) = (self.snapshot(&run).await, self.files.lines("effects"));
        stopped.cont();
        self.goes_on(&mut stopped).await;
        assert_eq!(self.snapshot(&run).await, before, "the late write changed something");
        assert_eq!(self.files.lines("effects").iter().filter(|l| l.starts_with(&run)).count(), effects.len());
        assert_eq!(self.db.count("SELECT count(*) FROM effects WHERE step = 'two'").await, {
            self.db.count("SELECT count(DISTINCT run) FROM effects").await
        });
        (stopped, run)
    }

    /// It notices, registers anew, and is a good worker.
    async fn goes_on(&self, worker: &mut Worker) {
        worker.logs("was taken over").await;
        let run = self.db.enqueue("three", "{}").await;
        self.db.reaches(&run, "completed", SOON).await;
        assert_eq!(worker.logged("\"registered\""), 2);
        assert_eq!(self.db.count(format!("SELECT epoch::int8 FROM stepd.runs WHERE id = '{run}'")).await, 1);
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

#[tokio::test]
async fn a_late_claim_takes_nothing() {
    let g = Ground::new().await;
    let mut stopped = g.stopping_at("claimer.before_claim=1:stop").await;
    let first = g.db.enqueue("three", "{}").await;
    stopped.stands_still(SOON).await;
    let mut other = Spec::new(&g.db, &g.files).ready().await;
    g.gone(&stopped).await;
    g.db.reaches(&first, "completed", SOON).await;
    assert_eq!(other.drain(SOON).await, Some(0));
    // There is something to claim when the late claim is sent.
    let second = g.db.enqueue("three", "{}").await;
    stopped.cont();
    g.db.reaches(&second, "completed", SOON).await;
    assert_eq!(g.db.count(format!("SELECT epoch::int8 FROM stepd.runs WHERE id = '{second}'")).await, 1);
    g.goes_on(&mut stopped).await;
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs WHERE crashes > 0").await, 0);
}

#[tokio::test]
async fn a_claim_whose_answer_comes_late_starts_nothing() {
    let g = Ground::new().await;
    let (_, run) = g.late("three", "claimer.after_claim=1:stop").await;
    assert_eq!(g.db.count(format!("SELECT crashes::int8 FROM stepd.runs WHERE id = '{run}'")).await, 0);
    let epochs: Vec<_> = g.files.lines("effects").into_iter().filter(|l| l.starts_with(&run)).collect();
    assert!(epochs.iter().all(|l| !l.ends_with(" 1")), "{epochs:?}");
}

#[tokio::test]
async fn a_late_checkpoint_is_not_written() {
    // The first commit notes that the step has begun (it takes 50 ms); the second is its checkpoint.
    let g = Ground::new().await;
    let (stopped, _) = g.late("three", "writer.before_commit=2:stop").await;
    assert!(stopped.logged("lease lost") + stopped.logged("LeaseLost") > 0, "{}", stopped.log());
}

#[tokio::test]
async fn a_late_checkpoint_of_a_sql_step_is_rolled_back_with_its_effect() {
    let g = Ground::new().await;
    g.late("three", "sql.before_commit=1:stop").await;
}

#[tokio::test]
async fn a_late_completion_is_not_written() {
    let g = Ground::new().await;
    g.late("three", "writer.before_commit=3:stop").await;
    assert_eq!(g.db.events("crashed").await, 1);
}

#[tokio::test]
async fn a_late_failure_is_not_written() {
    let g = Ground::new().await;
    let (_, run) = g.late("fails_once", "writer.before_commit=1:stop").await;
    assert_eq!(g.db.state(&run).await, "completed");
}

#[tokio::test]
async fn a_worker_stopped_while_a_step_runs_kills_the_step_and_goes_on() {
    let (db, files) = (Db::new().await, Files::new([STEPS.replace("sleep 0.05", "sleep 4")]));
    db.exec("CREATE TABLE effects (run text, step text)").await;
    let g = Ground { db, files };
    let mut first = Spec::new(&g.db, &g.files).ready().await;
    let run = g.db.enqueue("three", "{}").await;
    g.db.step_reaches(&run, "one", "running", SOON).await;
    first.stop().await;
    let mut other = Spec::new(&g.db, &g.files).ready().await;
    g.gone(&first).await;
    first.cont();
    first.logs("was taken over").await;
    g.db.reaches(&run, "completed", SOON).await;
    assert_eq!(g.db.count("SELECT count(*) FROM effects").await, 1);
    assert_eq!(g.files.lines("effects").len(), 3, "{:?}", g.files.lines("effects"));
    assert_eq!(first.drain(SOON).await, Some(0));
    assert_eq!(other.drain(Duration::from_secs(10)).await, Some(0));
}
