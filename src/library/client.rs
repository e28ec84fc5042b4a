//! The application's side: enqueue, await, answer.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use crate::db::actions::{self, NewJob, Said};
use crate::db::{Database, DbError, runs};
use crate::model::{Failure, Payload, RunId};
use crate::steps::BoxFuture;

use super::error::Error;

/// Connections of a client that does nothing but enqueue and look.
const POOL: u32 = 4;

/// A statement of the pool may take this long, as in a daemon's defaults.
const PATIENCE: Duration = Duration::from_secs(30);

/// A look is one small statement by primary key; the pause between two grows from the first to the second.
const LOOKS: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(500));

/// Enqueues runs and awaits their ends; runs nothing itself. Cheap to clone.
///
/// A program that only enqueues needs no more than this; it need not even be this, for a job is a plain
/// `INSERT INTO stepd.jobs (workflow, input) VALUES (…)`.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) db: Database,
}

impl Client {
    /// Of a database URL, `postgres://user:password@host:5432/database`. Connects at the first use.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn new(url: &str) -> Result<Self, Error> {
        Ok(Self::with_options(options(url)?))
    }

    /// Of connection options. Connects at the first use.
    #[must_use]
    pub fn with_options(options: PgConnectOptions) -> Self {
        Self { db: Database::new(options, POOL, PATIENCE) }
    }

    /// Enqueues a run when it is awaited; gives the run's id. By then the run is committed: it will come to an end.
    pub fn enqueue(&self, workflow: impl Into<String>, input: &impl Serialize) -> Enqueue<'_> {
        Enqueue::new(Via::Own(&self.db), workflow.into(), input)
    }

    /// As [`Client::enqueue`], in the application's own transaction (or on a connection of its own): the run is there if that
    /// commits, and never was if it does not.
    ///
    /// ```no_run
    /// # async fn order(pool: sqlx::PgPool, stepd: stepd::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
    /// stepd.enqueue_in(&mut tx, "fulfil", &7).unique_key("order 7").await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn enqueue_in<'c>(
        &self,
        conn: &'c mut PgConnection,
        workflow: impl Into<String>,
        input: &impl Serialize,
    ) -> Enqueue<'c> {
        Enqueue::new(Via::Theirs(conn), workflow.into(), input)
    }

    /// Waits for a run's end, however long; gives its output.
    ///
    /// # Errors
    /// The run failed, was cancelled, is not there; its output is of another type; the database refused.
    pub async fn result<T: DeserializeOwned>(&self, run: RunId) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            let end = self.db.ask(async |conn| runs::end(conn, run.0).await).await?;
            match end {
                runs::End::Unknown => return Err(Error::Unknown { run }),
                runs::End::Live => {}
                runs::End::Cancelled => return Err(Error::Cancelled { run }),
                runs::End::Failed(failure) => return Err(Error::Failed { run, failure: Box::new(failure) }),
                runs::End::Completed(output) => return decoded(run, &output),
            }
            tokio::time::sleep((began.elapsed() / 8).clamp(LOOKS.0, LOOKS.1)).await;
        }
    }

    /// Sends a signal to a run, for a step that waits for its name now or later.
    ///
    /// # Errors
    /// There is no such run, or it has ended.
    pub async fn signal(&self, run: RunId, name: &str, payload: &impl Serialize) -> Result<(), Error> {
        let payload = text(payload)?;
        self.db.ask(async |conn| actions::signal(conn, run.0, name, payload.as_str()).await).await?;
        Ok(())
    }

    /// Answers yes to the approval that a run waits for; `step` says which, where it waits for several.
    ///
    /// # Errors
    /// The run waits for none, or for several.
    pub async fn approve(&self, run: RunId, step: Option<&str>, note: Option<&str>) -> Result<(), Error> {
        self.say(run, step, note, Said::Yes(None)).await
    }

    /// Answers what a tool asks for, with an object that fits its schema; else as [`Client::approve`].
    ///
    /// # Errors
    /// The run waits for none, or for several; the answer does not fit.
    pub async fn answer(
        &self,
        run: RunId,
        step: Option<&str>,
        answer: &impl Serialize,
        note: Option<&str>,
    ) -> Result<(), Error> {
        let answer = text(answer)?;
        self.say(run, step, note, Said::Yes(Some(answer.as_str()))).await
    }

    /// Answers no, as [`Client::approve`] answers yes.
    ///
    /// # Errors
    /// The run waits for none, or for several.
    pub async fn reject(&self, run: RunId, step: Option<&str>, note: Option<&str>) -> Result<(), Error> {
        self.say(run, step, note, Said::No).await
    }

    /// Makes a new run of a run when it is awaited, and gives the new id: every step that had ended before `from_step` began keeps its
    /// result, it and all else run anew. The run that it is forked from stays as it is. See [`Fork::input`] and [`Fork::latest`].
    pub fn fork(&self, run: RunId, from_step: impl Into<String>) -> Fork<'_> {
        Fork { db: &self.db, run, from_step: from_step.into(), input: Ok(None), latest: false, alone: false }
    }

    async fn say(&self, run: RunId, step: Option<&str>, note: Option<&str>, said: Said<'_>) -> Result<(), Error> {
        self.db.ask(async |conn| actions::answer(conn, run.0, step, note, said).await).await?;
        Ok(())
    }

    /// Cancels a run. A running step is stopped within two seconds.
    ///
    /// # Errors
    /// There is no such run, or it has ended.
    pub async fn cancel(&self, run: RunId, reason: Option<&str>) -> Result<(), Error> {
        self.db.ask(async |conn| actions::cancel(conn, run.0, reason).await).await?;
        Ok(())
    }
}

pub(super) fn options(url: &str) -> Result<PgConnectOptions, Error> {
    url.parse().map_err(|e: sqlx::Error| {
        Error::Configuration(format!(
            "the database URL cannot be read: {e}; it looks like postgres://user:password@host:5432/database"
        ))
    })
}

fn text(value: &impl Serialize) -> Result<Payload, Error> {
    Payload::from_serialize(value).map_err(|failure: Failure| Error::Json(failure.message))
}

fn decoded<T: DeserializeOwned>(run: RunId, output: &Payload) -> Result<T, Error> {
    serde_json::from_str(output.as_str())
        .map_err(|e| Error::Json(format!("the output of run {run} is not of the type that was asked for: {e}")))
}

/// A run to be: enqueued when it is awaited.
#[must_use = "a run is enqueued when this is awaited"]
pub struct Enqueue<'a> {
    via: Via<'a>,
    job: NewJob,
    input: Result<Payload, Error>,
}

enum Via<'a> {
    Own(&'a Database),
    Theirs(&'a mut PgConnection),
}

impl<'a> Enqueue<'a> {
    fn new(via: Via<'a>, workflow: String, input: &impl Serialize) -> Self {
        let labels = serde_json::json!({});
        Self { via, job: NewJob { workflow, labels, ..NewJob::default() }, input: text(input) }
    }

    /// At most one unfinished run of the workflow has this key: where there is one, that one's id is given.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.job.unique_key = Some(key.into());
        self
    }

    /// Not before this time.
    pub fn run_at(mut self, at: DateTime<Utc>) -> Self {
        self.job.run_at = Some(at);
        self
    }

    /// 0 to 9, lower first; else as the workflow says.
    pub fn priority(mut self, priority: u8) -> Self {
        self.job.priority = Some(i32::from(priority));
        self
    }

    /// Runs of one key are at work one at a time, or as many as the workflow says; else as the workflow says.
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.job.concurrency_key = Some(key.into());
        self
    }

    /// The caller's W3C trace context (`00-<trace>-<span>-<flags>`): the run's trace links to it.
    pub fn traceparent(mut self, context: impl Into<String>) -> Self {
        self.job.traceparent = Some(context.into());
        self
    }

    /// The queue; else as the workflow says.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.job.queue = Some(name.into());
        self
    }

    /// What the run belongs to together with other runs: a conversation, an order. Logs and traces name it; the run's children are of
    /// it, too.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.job.session_id = Some(id.into());
        self
    }

    /// Something to find the run by.
    pub fn label(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.job.labels[key] = value.into();
        self
    }

    async fn send(self) -> Result<RunId, Error> {
        let job = NewJob { input: self.input?.as_str().to_owned(), ..self.job };
        let id: Result<_, DbError> = match self.via {
            Via::Own(db) => db.ask(async |conn| actions::enqueue(conn, &job).await).await,
            Via::Theirs(conn) => actions::enqueue(conn, &job).await,
        };
        Ok(RunId(id?))
    }
}

impl<'a> IntoFuture for Enqueue<'a> {
    type Output = Result<RunId, Error>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A fork to be: made when it is awaited.
#[must_use = "a run is forked when this is awaited"]
pub struct Fork<'a> {
    db: &'a Database,
    run: RunId,
    from_step: String,
    input: Result<Option<Payload>, Error>,
    latest: bool,
    alone: bool,
}

impl<'a> Fork<'a> {
    /// Another input; else that of the run that it is forked from. What is kept was done with the old one.
    pub fn input(mut self, input: &impl Serialize) -> Self {
        self.input = text(input).map(Some);
        self
    }

    /// With the workflow's present definition; else with the one that the run began with. (A workflow in Rust is what its binary has.)
    pub fn latest(mut self) -> Self {
        self.latest = true;
        self
    }

    /// This step alone runs anew: every other one that is done keeps its result.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    async fn send(self) -> Result<RunId, Error> {
        let Self { db, run, from_step, input, latest, alone } = self;
        let input = input?;
        let input = input.as_ref().map(Payload::as_str);
        Ok(RunId(db.ask(async |conn| actions::fork(conn, run.0, &from_step, input, latest, alone).await).await?))
    }
}

impl<'a> IntoFuture for Fork<'a> {
    type Output = Result<RunId, Error>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
