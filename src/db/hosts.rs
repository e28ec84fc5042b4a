//! The hosts of a database. Where several are given, the one that can be written is sought and used; sqlx knows one host only.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

/// How long one of several hosts may take: one that is switched off must not keep the next from being tried.
const EACH_WITHIN: Duration = Duration::from_secs(2);

/// The hosts of one database, and which of them is in use. Cheap to clone; all clones agree.
#[derive(Clone, Debug)]
pub struct Hosts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    list: Vec<PgConnectOptions>,
    used: AtomicUsize,
}

impl From<Vec<PgConnectOptions>> for Hosts {
    /// In the order in which they are tried; of an empty list, what the environment says.
    fn from(mut list: Vec<PgConnectOptions>) -> Self {
        if list.is_empty() {
            list.push(PgConnectOptions::new());
        }
        Self(Arc::new(Inner { list, used: AtomicUsize::new(0) }))
    }
}

impl From<PgConnectOptions> for Hosts {
    fn from(options: PgConnectOptions) -> Self {
        vec![options].into()
    }
}

impl Hosts {
    /// The options of the host in use.
    #[must_use]
    pub fn used(&self) -> &PgConnectOptions {
        &self.0.list[self.0.used.load(Ordering::Relaxed)]
    }

    /// Is there a choice?
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.0.list.len() > 1
    }

    /// A connection to the host in use, or to the first of the others that can be written.
    ///
    /// # Errors
    /// The one of the last host that was tried.
    pub async fn connect(
        &self,
        session: impl Fn(&PgConnectOptions) -> PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        if !self.are_several() {
            return PgConnection::connect_with(&session(self.used())).await;
        }
        let (n, first) = (self.0.list.len(), self.0.used.load(Ordering::Relaxed));
        let mut last = None;
        for place in std::iter::once(first).chain((0..n).filter(|place| *place != first)) {
            let options = session(&self.0.list[place]);
            match tokio::time::timeout(EACH_WITHIN, writable(&options)).await {
                Ok(Ok(connection)) => {
                    self.0.used.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(said(std::io::ErrorKind::TimedOut, &options, "no answer within 2 s")),
            }
        }
        Err(last.unwrap_or(sqlx::Error::PoolClosed))
    }
}

async fn writable(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?;
    if standby {
        let _ = connection.close().await;
        return Err(said(std::io::ErrorKind::Other, options, "it is a standby, which cannot be written"));
    }
    Ok(connection)
}

fn said(kind: std::io::ErrorKind, options: &PgConnectOptions, what: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(kind, format!("{}:{}: {what}", options.get_host(), options.get_port())))
}
