//! The hosts of a database. Where several are given, the one that can be written is sought and used; sqlx knows one host only. And where
//! a connection pooler stands before them, it is found out, and all goes through a [`Pipe`] from then on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use super::pooler::Pipe;
use super::server::{self, Unsuitable};

/// How long one of several hosts may take: one that is switched off must not keep the next from being tried.
const EACH_WITHIN: Duration = Duration::from_secs(2);

/// A setting that nobody knows, which every connection brings along: where it has not arrived, no session is the connection's own.
pub(super) const SIGN: &str = "stepd.session";

/// The hosts of one database, and which of them is in use. Cheap to clone; all clones agree.
#[derive(Clone, Debug)]
pub struct Hosts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    list: Vec<PgConnectOptions>,
    used: AtomicUsize,
    /// The value of [`SIGN`]; none where nobody looks whether it arrives.
    sign: Option<String>,
    /// For each host, where a pooler stands before them.
    pipes: OnceLock<Vec<Pipe>>,
}

impl From<Vec<PgConnectOptions>> for Hosts {
    /// In the order in which they are tried; of an empty list, what the environment says.
    fn from(list: Vec<PgConnectOptions>) -> Self {
        let sign = format!("{:016x}", fastrand::u64(..));
        let signed = if_none(list).into_iter().map(|host| host.options([(SIGN, &sign)])).collect();
        Self::with(signed, Some(sign))
    }
}

impl From<PgConnectOptions> for Hosts {
    fn from(options: PgConnectOptions) -> Self {
        vec![options].into()
    }
}

fn if_none(mut list: Vec<PgConnectOptions>) -> Vec<PgConnectOptions> {
    if list.is_empty() {
        list.push(PgConnectOptions::new());
    }
    list
}

impl Hosts {
    fn with(list: Vec<PgConnectOptions>, sign: Option<String>) -> Self {
        Self(Arc::new(Inner { list, used: AtomicUsize::new(0), sign, pipes: OnceLock::new() }))
    }

    /// Of somebody else's database, whatever it is: connections as they were asked for. Whoever uses them must not care which session
    /// serves them.
    #[must_use]
    pub fn elsewhere(list: Vec<PgConnectOptions>) -> Self {
        Self::with(if_none(list), None)
    }

    /// What leads to the host in use.
    #[must_use]
    pub fn used(&self) -> &PgConnectOptions {
        self.way(self.0.used.load(Ordering::Relaxed))
    }

    /// The host in use, as it was named.
    #[must_use]
    pub fn named(&self) -> &PgConnectOptions {
        &self.0.list[self.0.used.load(Ordering::Relaxed)]
    }

    fn way(&self, place: usize) -> &PgConnectOptions {
        self.0.pipes.get().map_or(&self.0.list[place], |pipes| pipes[place].options())
    }

    /// Is there a choice?
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.0.list.len() > 1
    }

    /// Does a connection pooler stand before them, as far as is known? Whoever has connected knows.
    #[must_use]
    pub fn are_pooled(&self) -> bool {
        self.0.pipes.get().is_some()
    }

    /// A pooler has been found: from now on what connects goes through the pipe.
    ///
    /// # Errors
    /// None can be laid.
    pub(super) fn go_through_pipe(&self) -> Result<(), sqlx::Error> {
        if !self.are_pooled() {
            let pipes = self.0.list.iter().map(Pipe::before).collect::<Result<_, _>>()?;
            // Another may have been quicker; its pipes are as good.
            let _ = self.0.pipes.set(pipes);
        }
        Ok(())
    }

    /// Does this connection's own session serve it, with its own settings? Behind the pipe nobody has one.
    ///
    /// # Errors
    /// Whatever the database says; a pooler that was not known of.
    pub(super) async fn recognize(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Some(sign) = self.0.sign.as_deref().filter(|_| !self.are_pooled()) else { return Ok(()) };
        let row = sqlx::raw_sql("SELECT current_setting('stepd.session', true)").fetch_one(connection).await?;
        match sqlx::Row::try_get_unchecked::<Option<String>, _>(&row, 0)?.as_deref() == Some(sign) {
            true => Ok(()),
            false => Err(sqlx::Error::Configuration(Box::new(Unsuitable::Pooler))),
        }
    }

    /// Does this error tell of a pooler that was not known of, when that was tried? Then the same again, through the pipe, may succeed.
    ///
    /// # Errors
    /// That pipe cannot be laid.
    pub(super) fn met_pooler(&self, error: &sqlx::Error) -> Result<bool, sqlx::Error> {
        let told = match error {
            sqlx::Error::Database(e) => server::of_refusal(e.message()) == Some(Unsuitable::Pooler),
            sqlx::Error::Configuration(e) => e.downcast_ref() == Some(&Unsuitable::Pooler),
            _ => false,
        };
        let told = told && self.0.sign.is_some();
        if told {
            self.go_through_pipe()?;
        }
        Ok(told)
    }

    /// A connection to the host in use, or to the first of the others that can be written.
    ///
    /// # Errors
    /// The one of the last host that was tried.
    pub async fn connect(
        &self,
        session: impl Fn(&PgConnectOptions) -> PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        match self.seek(&session).await {
            Err(error) if self.met_pooler(&error)? => self.seek(&session).await,
            sought => sought,
        }
    }

    async fn seek(&self, session: impl Fn(&PgConnectOptions) -> PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
        if !self.are_several() {
            return self.open(&session(self.used())).await;
        }
        let (n, first) = (self.0.list.len(), self.0.used.load(Ordering::Relaxed));
        let mut last = None;
        for place in std::iter::once(first).chain((0..n).filter(|place| *place != first)) {
            let named = &self.0.list[place];
            match tokio::time::timeout(EACH_WITHIN, self.writable(&session(self.way(place)), named)).await {
                Ok(Ok(connection)) => {
                    self.0.used.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) if self.met_pooler(&error)? => return Err(error),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(said(std::io::ErrorKind::TimedOut, named, "no answer within 2 s")),
            }
        }
        Err(last.unwrap_or(sqlx::Error::PoolClosed))
    }

    async fn open(&self, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(options).await?;
        self.recognize(&mut connection).await?;
        Ok(connection)
    }

    async fn writable(
        &self,
        options: &PgConnectOptions,
        named: &PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.open(options).await?;
        let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?;
        if standby {
            let _ = connection.close().await;
            return Err(said(std::io::ErrorKind::Other, named, "it is a standby, which cannot be written"));
        }
        Ok(connection)
    }
}

fn said(kind: std::io::ErrorKind, options: &PgConnectOptions, what: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(kind, format!("{}:{}: {what}", options.get_host(), options.get_port())))
}
