//! `sql`: one statement as a step.
//!
//! Parameters `{sql, params?, connection?, timeout_ms?}`. `params` is a list of JSON values, bound by
//! the statement's own parameter types: a string may stand for any type, a list for an array, and for
//! a `json` or `jsonb` parameter every value is itself. The raw result is `{rows, row_count}`, the
//! output is `rows`: a list of objects.
//!
//! Without `connection` the statement runs in stepd's own database, and its effect is committed
//! together with the step's checkpoint: exactly once. A named connection of the configuration leads
//! elsewhere: there the effect is committed before the checkpoint, so a worker that dies between the two
//! runs the statement again. Such statements should be harmless the second time
//! (`ON CONFLICT DO NOTHING`).
//!
//! In stepd's own database the statement may run under a role of its own (`sql_role`, `sql_url` of the configuration), which has no rights on
//! stepd's tables; the checkpoint beside the effect is written by a function with its owner's rights. `role` is taken by SET ROLE
//! and guards against mistakes: a statement that means harm can take the login's role back. `url` is another login and guards against
//! malice, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{Failure, SqlRequest, SqlResult};

use super::calls::Calling;
use super::params::Params;
use super::step::{BoxFuture, Flow, Step, StepCx, StepOutput, StopSignal};

/// How long a stopped statement may take to end: the server looks for a cancel request often.
const STOP: Duration = Duration::from_secs(5);

/// The port to a database: it runs statements and commits what they do.
///
/// The implementation for stepd's own database commits the checkpoint in the same transaction and
/// answers [`Flow::Committed`]. It must end the statement when `cx.stop` says so.
pub trait SqlEffect: Send + Sync {
    /// Runs one statement for an attempt.
    fn run<'a>(&'a self, cx: &'a StepCx, request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>>;
}

/// A database whose effects are committed before the checkpoint, made from a function that runs
/// and commits one statement.
pub struct AtLeastOnce<F>(pub F);

impl<F, R> SqlEffect for AtLeastOnce<F>
where
    F: Fn(StopSignal, SqlRequest) -> R + Send + Sync,
    R: Future<Output = Result<SqlResult, Failure>> + Send + 'static,
{
    fn run<'a>(&'a self, cx: &'a StepCx, request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>> {
        let result = (self.0)(cx.stop.clone(), request);
        Box::pin(async move { result.await.map(|result| Flow::Done(result.into())) })
    }
}

impl From<SqlResult> for StepOutput {
    fn from(result: SqlResult) -> Self {
        let rows = Value::Array(result.rows.into_iter().map(Value::Object).collect());
        Self { raw: json!({"rows": &rows, "row_count": result.row_count}), default: rows }
    }
}

/// The kind `sql`.
#[derive(Clone)]
pub struct Sql {
    own: Arc<dyn SqlEffect>,
    named: BTreeMap<String, Arc<dyn SqlEffect>>,
}

impl Sql {
    /// The kind, with stepd's own database.
    #[must_use]
    pub fn new(own: impl SqlEffect + 'static) -> Self {
        Self { own: Arc::new(own), named: BTreeMap::new() }
    }

    /// Adds a named connection.
    #[must_use]
    pub fn with_connection(mut self, name: impl Into<String>, database: impl SqlEffect + 'static) -> Self {
        self.named.insert(name.into(), Arc::new(database));
        self
    }

    fn read(&self, params: Value) -> Result<(&Arc<dyn SqlEffect>, SqlRequest), Failure> {
        let mut params = Params::new("sql", params)?;
        let sql = params.required("sql")?;
        let values = match params.take("params") {
            None => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(_) => return Err(params.wrong("params", "must be a list")),
        };
        let timeout = params.millis("timeout_ms")?;
        let database = match params.string("connection")? {
            None => &self.own,
            Some(name) => self.named.get(&name).ok_or_else(|| {
                params.wrong("connection", &format!("is `{name}`, which this worker's configuration does not have"))
            })?,
        };
        Ok((database, SqlRequest { sql, params: values, timeout }))
    }
}

/// A statement, for its trace. Its text is the author's and goes along; the values are content.
fn describe(call: &mut Calling, request: &SqlRequest, connection: Option<String>) {
    let verb = request.sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    call.named(|| format!("{verb} {}", connection.as_deref().unwrap_or("stepd")));
    call.set("db.system.name", "postgresql");
    call.set("db.operation.name", verb);
    call.set("db.query.text", request.sql.as_str());
    if let Some(connection) = connection {
        call.set("stepd.sql.connection", connection);
    }
    call.input(|| Value::Array(request.params.clone()).to_string());
}

impl Step for Sql {
    fn kind(&self) -> &'static str {
        "sql"
    }

    fn run<'a>(&'a self, cx: &'a StepCx, params: Value) -> BoxFuture<'a, Result<Flow, Failure>> {
        Box::pin(async move {
            let connection = params.get("connection").and_then(Value::as_str).map(str::to_owned);
            let (database, request) = self.read(params)?;
            let mut call = cx.call(true);
            describe(&mut call, &request, connection);
            let done = database.run(cx, request).await;
            if let Ok(Flow::Done(output)) = &done {
                call.output(|| output.default.to_string());
            }
            call.end(&done);
            done
        })
    }

    fn stop_grace(&self) -> Option<Duration> {
        Some(STOP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::testing;

    fn echo(name: &'static str) -> impl SqlEffect {
        AtLeastOnce(move |_, request: SqlRequest| {
            let mut row = serde_json::Map::new();
            row.insert("at".into(), name.into());
            row.insert("params".into(), Value::Array(request.params));
            std::future::ready(Ok(SqlResult { rows: vec![row], row_count: 1 }))
        })
    }

    #[tokio::test]
    async fn the_connection_chooses_the_database() {
        let sql = Sql::new(echo("own")).with_connection("crm", echo("crm"));
        let (cx, _stop) = testing::context();
        for (connection, at) in [(json!(null), "own"), (json!("crm"), "crm")] {
            let params = json!({"sql": "x", "params": [1, null], "connection": connection});
            let Flow::Done(out) = sql.run(&cx, params).await.unwrap() else { panic!() };
            assert_eq!(out.default, json!([{"at": at, "params": [1, null]}]));
            assert_eq!(out.raw, json!({"rows": out.default, "row_count": 1}));
        }
        for (params, word) in [
            (json!({}), "sql"),
            (json!({"sql": "x", "params": {}}), "params"),
            (json!({"sql": "x", "connection": "no"}), "`no`"),
        ] {
            let failure = sql.run(&cx, params).await.unwrap_err();
            assert!(failure.code == "invalid_params" && failure.message.contains(word), "{failure}");
        }
    }
}
