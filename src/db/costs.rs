//! What models have cost.

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;

use super::error::DbError;
use super::runs::first_id_at;

/// Lines of one answer.
const MOST: i32 = 1_000;

/// By what costs are summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The day on which the runs ended, by UTC.
    Day,
    /// Their workflow.
    Workflow,
    /// Their concurrency key.
    Key,
    /// The value of this label; of the runs that are there, by when they were enqueued.
    Label(String),
}

/// Which costs.
#[derive(Clone, Debug)]
pub struct Span {
    /// From this day on, by UTC.
    pub since: NaiveDate,
    /// To this one; it counts.
    pub until: NaiveDate,
    /// Of this workflow alone.
    pub workflow: Option<String>,
}

/// What some runs have spent on models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Spent {
    /// The day, the workflow, the key, or the label's value; null: of runs that have none, and of all together.
    pub name: Option<String>,
    /// Runs that have called a model.
    pub runs: i64,
    /// Calls, those included that failed.
    pub calls: i64,
    /// Tokens of prompts.
    pub tokens_in: i64,
    /// Tokens of answers.
    pub tokens_out: i64,
    /// In the currency of the configured prices.
    pub cost: f64,
}

struct Row {
    name: Option<String>,
    all: bool,
    runs: i64,
    calls: i64,
    tokens_in: i64,
    tokens_out: i64,
    cost: f64,
}

/// All together; and each, the dearest first (days: the latest), a thousand at the most.
///
/// # Errors
/// Whatever the database says.
pub async fn costs<'c>(
    db: impl Executor<'c, Database = Postgres>,
    by: &By,
    span: &Span,
) -> Result<(Spent, Vec<Spent>), DbError> {
    let workflow = span.workflow.as_deref() as Option<&str>;
    let word = match by {
        By::Day => "day",
        By::Workflow => "workflow",
        By::Key => "key",
        By::Label(label) => {
            let (since, until) = (first_id_at(midnight(span.since)), first_id_at(midnight(span.until + Days::new(1))));
            let rows = sqlx::query_file_as!(Row, "src/db/sql/costs_by_label.sql", label, since, until, workflow, MOST);
            return Ok(told(rows.fetch_all(db).await?));
        }
    };
    let rows = sqlx::query_file_as!(Row, "src/db/sql/costs.sql", word, span.since, span.until, workflow, MOST);
    Ok(told(rows.fetch_all(db).await?))
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

fn told(rows: Vec<Row>) -> (Spent, Vec<Spent>) {
    let mut total = Spent::default();
    let mut each = Vec::new();
    for Row { name, all, runs, calls, tokens_in, tokens_out, cost } in rows {
        let spent = Spent { name, runs, calls, tokens_in, tokens_out, cost };
        if all {
            total = spent;
        } else {
            each.push(spent);
        }
    }
    (total, each)
}
