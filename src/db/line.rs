//! A connection that hears notifications where there are any: the presence's.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::postgres::{PgListener, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Either, Execute, Executor, PgConnection, Postgres, SqlStr};

use super::error::DbError;

/// A connection for statements, and for notifications where they come through.
#[derive(Debug)]
pub enum Line {
    /// Postgres itself: its session is this connection's own, and it listens.
    Listening(PgListener),
    /// Behind a pooler: nobody keeps a lock there, and nothing is heard.
    Asking(PgConnection),
}

impl Line {
    pub(super) fn listening(mut listener: PgListener) -> Self {
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        Self::Listening(listener)
    }

    /// Is its session its own: do locks hold?
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self, Self::Listening(_))
    }

    /// Listens, where that can be.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn listen(&mut self, channel: &str) -> Result<(), DbError> {
        match self {
            Self::Listening(listener) => Ok(listener.listen(channel).await?),
            Self::Asking(_) => Ok(()),
        }
    }

    /// What was told since the last call, however much: resolves when there is something. `None`: the session is gone.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn heard(&mut self) -> Result<Option<Vec<String>>, DbError> {
        let Self::Listening(listener) = self else { return std::future::pending().await };
        let Some(first) = listener.try_recv().await? else { return Ok(None) };
        let mut all = vec![first.payload().to_owned()];
        while let Some(next) = listener.next_buffered() {
            all.push(next.payload().to_owned());
        }
        Ok(Some(all))
    }
}

impl<'c> Executor<'c> for &'c mut Line {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self {
            Line::Listening(listener) => listener.fetch_many(query),
            Line::Asking(connection) => connection.fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self {
            Line::Listening(listener) => listener.fetch_optional(query),
            Line::Asking(connection) => connection.fetch_optional(query),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        match self {
            Line::Listening(listener) => listener.prepare_with(sql, parameters),
            Line::Asking(connection) => connection.prepare_with(sql, parameters),
        }
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        match self {
            Line::Listening(listener) => listener.describe(sql),
            Line::Asking(connection) => connection.describe(sql),
        }
    }
}
