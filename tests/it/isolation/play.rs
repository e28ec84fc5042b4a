//! Plays sessions against each other in a given order, as Postgres' isolationtester does: a step that waits for a lock is left
//! waiting and ends when it can; what its session has still to do follows then.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use stepd::rules::state::Fence;
use tokio::task::JoinHandle;

use super::judge::{Judge, Snapshot};
use super::op::{A, Op, Said};
use super::scene::Scene;
use crate::support::Db;

/// What never takes so long unless sessions wait for each other in a circle that Postgres does not see.
const STUCK: Duration = Duration::from_secs(10);

/// Waits at every statement that writes one of these: so that what a function does falls apart into its statements, and what a
/// statement does into the look at its snapshot and the writes that follow.
const GATES: &str = "
    CREATE TABLE public.effects (run uuid);
    CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        n integer := coalesce(nullif(current_setting('it.gate', true), ''), '-1')::integer;
    BEGIN
        IF n >= 0 THEN
            PERFORM set_config('it.gate', (n + 1)::text, false);
            PERFORM pg_advisory_xact_lock_shared(77, n);
        END IF;
        RETURN NULL;
    END $$;
    DO $$
    DECLARE t text;
    BEGIN
        FOREACH t IN ARRAY ARRAY['stepd.jobs', 'stepd_engine.ended', 'stepd_engine.checkpoints', 'stepd_engine.signals', 'stepd_engine.events',
                'stepd_engine.workers', 'stepd_engine.worker_sessions', 'stepd_engine.queues'] LOOP
            EXECUTE format('CREATE TRIGGER gate BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION public.gate()', t);
        END LOOP;
        EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''20ms''', current_database());
        EXECUTE format('ALTER DATABASE %I SET jit = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET plan_cache_mode = force_generic_plan', current_database());
    END $$;
    INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('h', 'w');
    INSERT INTO stepd_engine.workflows (name, definition, queue, flow) SELECT f.name, d.id, 'q', f.flow::jsonb FROM stepd_engine.definitions d,
        (VALUES ('w', NULL), ('keyed', '{\"concurrency\": {\"limit\": 1, \"when_full\": \"queue\"}}'),
            ('kept', '{\"unique\": {\"key\": [[\"k\"]], \"keep\": \"1 hour\"}}')) AS f(name, flow);
";

/// More statements that write than any function has.
const MOST_GATES: i32 = 24;

/// One session's part: what it does, one after the other. Statements wait for the next `Commit` in an open transaction; those after
/// the last one commit by themselves.
pub type Part = Vec<Op>;

/// A few parts, and how the run stands.
#[derive(Clone, Debug)]
pub struct Spec {
    pub scene: Scene,
    pub parts: Vec<Part>,
    /// The first session stops at every statement that writes, that often.
    pub gates: usize,
}

impl Spec {
    /// Every order in which each session's own order is kept.
    pub fn orders(&self) -> Vec<Vec<usize>> {
        let mut left: Vec<usize> = self.parts.iter().map(Vec::len).collect();
        left[0] += self.gates;
        let (mut all, mut order) = (Vec::new(), Vec::new());
        permute(&mut left, &mut order, &mut all);
        all
    }
}

fn permute(left: &mut [usize], order: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
    if left.iter().all(|n| *n == 0) {
        return all.push(order.clone());
    }
    for session in 0..left.len() {
        if left[session] > 0 {
            left[session] -= 1;
            order.push(session);
            permute(left, order, all);
            order.pop();
            left[session] += 1;
        }
    }
}

/// What a session's task gives back: its connection, its lease, the step with its answer.
type Done = (PgConnection, Fence, Op, Said);

struct Seat {
    conn: Option<PgConnection>,
    pid: i32,
    lease: Fence,
    task: Option<JoinHandle<Done>>,
    done: Option<Done>,
    now: Op,
    /// Steps whose turn came while the session waited.
    owed: usize,
    at: usize,
    in_transaction: bool,
    broken: bool,
    said: Vec<(Op, Said)>,
}

/// Sessions on one database, used again and again.
pub struct House {
    seats: Vec<Seat>,
    monitor: PgConnection,
    /// Sets scenes, without triggers: what switches them off and on forgets every plan of its session.
    stage: PgConnection,
    gated: bool,
    gates_passed: i32,
}

impl House {
    pub async fn open() -> Self {
        let db = Db::new().await;
        db.exec(GATES).await;
        let mut seats = Vec::new();
        for _ in 0..5 {
            let mut conn = PgConnection::connect(&db.url).await.unwrap();
            let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
            let lease = Fence { worker: A, epoch: 0 };
            seats.push(Seat {
                conn: Some(conn),
                pid,
                lease,
                task: None,
                done: None,
                now: Op::Commit,
                owed: 0,
                at: 0,
                in_transaction: false,
                broken: false,
                said: Vec::new(),
            });
        }
        let [monitor, stage] =
            [PgConnection::connect(&db.url).await.unwrap(), PgConnection::connect(&db.url).await.unwrap()];
        Self { seats, monitor, stage, gated: false, gates_passed: 0 }
    }

    /// Plays one order. What went wrong, if anything did.
    pub async fn play(&mut self, spec: &Spec, order: &[usize]) -> Result<(), String> {
        spec.scene.set(&mut self.stage).await;
        for seat in &mut self.seats {
            seat.lease = spec.scene.lease();
            (seat.owed, seat.at, seat.in_transaction, seat.broken) = (0, 0, false, false);
        }
        let mut judge = Judge::new(spec.scene, Snapshot::take(&mut self.monitor).await);
        self.gates_passed = 0;
        self.shut_gates(spec.gates > 0).await;
        for session in order {
            self.turn(spec, *session).await;
            self.catch_up(spec, &mut judge).await?;
        }
        self.shut_gates(false).await;
        let began = Instant::now();
        while self.left(spec) {
            for session in 0..spec.parts.len() {
                if self.seats[session].task.is_none() {
                    self.begin(spec, session);
                }
            }
            self.catch_up(spec, &mut judge).await?;
            if began.elapsed() > STUCK {
                return Err("sessions wait for each other for ever".to_owned());
            }
        }
        judge.end(&mut self.monitor).await
    }

    /// Has any session something to do yet?
    fn left(&self, spec: &Spec) -> bool {
        spec.parts.iter().zip(&self.seats).any(|(part, seat)| seat.task.is_some() || seat.at < part.len())
    }

    /// Shuts the gates before the first session, or lets it through wherever it stands.
    async fn shut_gates(&mut self, shut: bool) {
        if !shut && !self.gated {
            return;
        }
        // A session that is under way, or whose transaction is broken, is told before the next order.
        self.gated = shut || self.seats[0].conn.is_none() || self.seats[0].broken;
        let turn = if shut {
            "SELECT pg_advisory_lock(77, n) FROM generate_series(0, $1) n"
        } else {
            "SELECT pg_advisory_unlock_all() FROM (SELECT $1::int) x"
        };
        sqlx::query(turn).bind(MOST_GATES).execute(&mut self.monitor).await.unwrap();
        let broken = self.seats[0].broken;
        if let (Some(conn), false) = (&mut self.seats[0].conn, broken) {
            let setting = if shut { "SET it.gate = '0'" } else { "SET it.gate = ''" };
            sqlx::raw_sql(setting).execute(conn).await.unwrap();
        }
    }

    /// A session's turn: its next step begins; or, if it stands before a gate, that opens.
    async fn turn(&mut self, spec: &Spec, session: usize) {
        if self.seats[session].task.is_none() {
            return self.begin(spec, session);
        }
        if session == 0 && spec.gates > 0 {
            let open = "SELECT pg_advisory_unlock(77, $1)";
            sqlx::query(open).bind(self.gates_passed).execute(&mut self.monitor).await.unwrap();
            self.gates_passed += 1;
        } else {
            self.seats[session].owed += 1;
        }
    }

    /// Begins the session's next step, if there is one.
    fn begin(&mut self, spec: &Spec, session: usize) {
        let Some(part) = spec.parts.get(session) else { return };
        let seat = &mut self.seats[session];
        let Some(op) = part.get(seat.at).copied() else { return };
        let Some(mut conn) = seat.conn.take() else { return };
        seat.at += 1;
        seat.now = op;
        let begins = part[seat.at..].contains(&Op::Commit) && !seat.in_transaction && op != Op::Commit;
        seat.in_transaction = op != Op::Commit && (begins || seat.in_transaction);
        let (mut lease, broken) = (seat.lease, seat.broken);
        seat.task = Some(tokio::spawn(async move {
            if begins {
                sqlx::raw_sql("BEGIN").execute(&mut conn).await.unwrap();
            }
            let said = if op == Op::Commit && broken {
                sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.unwrap();
                Said::Nothing
            } else if broken {
                Said::Held(false)
            } else {
                op.run(&mut conn, &mut lease).await
            };
            (conn, lease, op, said)
        }));
    }

    /// Lets every session come as far as it can without another's help.
    async fn catch_up(&mut self, spec: &Spec, judge: &mut Judge) -> Result<(), String> {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for session in 0..self.seats.len() {
                while self.seats[session].task.is_some() && !self.waits(session, judge).await? {
                    moved = true;
                    self.harvest(session, judge)?;
                    if self.seats[session].owed > 0 {
                        self.seats[session].owed -= 1;
                        self.begin(spec, session);
                    }
                }
            }
        }
        if judge.has_news() {
            let snapshot = Snapshot::take(&mut self.monitor).await;
            judge.look(snapshot)?;
        }
        Ok(())
    }

    /// Does the session wait for another one? False: it is done.
    async fn waits(&mut self, session: usize, judge: &Judge) -> Result<bool, String> {
        let began = Instant::now();
        loop {
            if began.elapsed() > STUCK {
                return Err(format!("{:?} neither ends nor waits", self.seats[session].now));
            }
            let seat = &mut self.seats[session];
            let Some(task) = &mut seat.task else { return Ok(false) };
            if let Ok(done) = tokio::time::timeout(Duration::from_millis(5), task).await {
                seat.task = None;
                seat.done = Some(done.unwrap());
                return Ok(false);
            }
            let (pid, op) = (seat.pid, seat.now);
            let blockers: Vec<i32> = sqlx::query_scalar("SELECT unnest(pg_blocking_pids($1))")
                .bind(pid)
                .fetch_all(&mut self.monitor)
                .await
                .unwrap();
            if !blockers.is_empty() {
                let by = self.seats.iter().filter(|s| blockers.contains(&s.pid));
                let by: Vec<Op> = by.flat_map(|s| s.said.iter().map(|(op, _)| *op).chain([s.now])).collect();
                judge.waits(op, &by)?;
                return Ok(true);
            }
        }
    }

    /// Takes what a finished step said.
    fn harvest(&mut self, session: usize, judge: &mut Judge) -> Result<(), String> {
        let seat = &mut self.seats[session];
        let Some((conn, lease, op, said)) = seat.done.take() else { return Ok(()) };
        seat.conn = Some(conn);
        seat.lease = lease;
        if let Said::Error(error) = &said {
            return Err(format!("{op:?} of session {session}: {error}"));
        }
        let rolls_back = op == Op::SqlStep && said == Said::Held(false);
        seat.broken |= matches!(said, Said::Refused(_) | Said::RowIsThere) || rolls_back;
        if op != Op::Commit {
            seat.said.push((op, said));
        }
        if !seat.in_transaction {
            let broken = std::mem::take(&mut seat.broken);
            let said = std::mem::take(&mut seat.said);
            judge.committed(if broken { Vec::new() } else { said }, lease);
        }
        Ok(())
    }
}
