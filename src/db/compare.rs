//! Two runs side by side.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::rules::compare::{Change, changes};

use super::error::DbError;
use super::runs::{RunDetail, StepLine};
use super::{definitions, runs, step};

/// Steps that are told, those first that differ.
const MOST: i64 = 1_000;

/// Steps of which it is told what differs in what they said.
const READ: usize = 200;

/// Places at which two values differ, that are told.
const PLACES: usize = 100;

/// One of two runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Side {
    pub id: Uuid,
    pub workflow: String,
    pub state: String,
    pub created_at: DateTime<Utc>,
    /// From the first claim to the end, or until now; null: not claimed yet.
    pub took_ms: Option<f64>,
    pub tokens_in: Option<i64>,
    pub tokens_out: Option<i64>,
    pub cost: Option<f64>,
    /// The hash of its definition; null: that is not there any more.
    pub definition: Option<String>,
}

/// A step, in one of two runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Went {
    pub state: String,
    pub attempts: i32,
    /// From its start to its end, or until now; null: it was skipped.
    pub took_ms: Option<f64>,
    pub error_code: Option<String>,
    pub tokens_in: Option<i64>,
    pub tokens_out: Option<i64>,
    pub cost: Option<f64>,
}

/// A step, in both of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pair {
    /// The step's key.
    pub key: String,
    /// In the first; null: it has not begun there.
    pub a: Option<Went>,
    /// … and in the second.
    pub b: Option<Went>,
    /// What differs: `state`, `error`, `output`; `absent`. How long it took always does, and is not named.
    pub differs: Vec<&'static str>,
    /// Where its outputs and failures differ: `output.sum`, `error.message`. Of the first 200 steps that differ.
    pub changes: Vec<Change>,
}

/// Two runs side by side.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// The first.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// The first step, in the order of the first run, that differs; null: none does.
    pub first: Option<String>,
    /// How many differ.
    pub differing: i64,
    /// The steps in the order of the first run; of more than a thousand, those that differ come first.
    pub steps: Vec<Pair>,
    /// Steps that are not told.
    pub left_out: i64,
    /// Where the inputs differ.
    pub input: Vec<Change>,
    /// Where the outputs, or the failures, differ.
    pub output: Vec<Change>,
}

/// Compares two runs; `Err` holds the one that there is not.
///
/// # Errors
/// Whatever the database says.
pub async fn compare(db: &mut PgConnection, a: Uuid, b: Uuid) -> Result<Result<Comparison, Uuid>, DbError> {
    let Some(first) = runs::detail(&mut *db, a).await? else { return Ok(Err(a)) };
    let Some(second) = runs::detail(&mut *db, b).await? else { return Ok(Err(b)) };
    let rows = sqlx::query_file_as!(Row, "src/db/sql/compare_steps.sql", a, b, MOST).fetch_all(&mut *db).await?;
    let said: Vec<String> = rows.iter().filter(|row| row.said).take(READ).map(|row| row.key.clone()).collect();
    let (of_a, of_b) = (said_by(db, a, &said).await?, said_by(db, b, &said).await?);
    let (all, mut differing) = rows.first().map_or((0, 0), |row| (row.all, row.differing));
    let told = i64::try_from(rows.len()).unwrap_or(MOST);
    let mut steps: Vec<(i32, Pair)> = Vec::with_capacity(rows.len());
    for row in rows {
        let seq = row.seq;
        let was_read = of_a.contains_key(&row.key) || of_b.contains_key(&row.key);
        let places = changes(of_a.get(&row.key), of_b.get(&row.key), PLACES);
        let (said, pair) = (row.said, row.pair(places, was_read));
        // Written otherwise, and yet the same.
        if said && pair.differs.is_empty() {
            differing -= 1;
        }
        steps.push((seq, pair));
    }
    steps.sort_by(|(x, one), (y, other)| (x, &one.key).cmp(&(y, &other.key)));
    let steps: Vec<Pair> = steps.into_iter().map(|(_, pair)| pair).collect();
    let differs = |of: fn(&RunDetail) -> Option<&str>| {
        changes(of(&first).and_then(value).as_ref(), of(&second).and_then(value).as_ref(), PLACES)
    };
    let input = differs(|run| Some(run.input.as_str()));
    let output = differs(|run| run.output.as_deref().or(run.error.as_deref()));
    Ok(Ok(Comparison {
        first: steps.iter().find(|pair| !pair.differs.is_empty()).map(|pair| pair.key.clone()),
        differing,
        left_out: all - told,
        steps,
        input,
        output,
        a: side(db, first).await?,
        b: side(db, second).await?,
    }))
}

async fn side(db: &mut PgConnection, run: RunDetail) -> Result<Side, DbError> {
    let definition = definitions::of_run(&mut *db, run.id).await?.map(|stored| stored.hash);
    let until = run.ended_at.unwrap_or(run.now);
    Ok(Side {
        id: run.id,
        workflow: run.workflow,
        state: run.state,
        created_at: run.created_at,
        took_ms: run.started_at.map(|at| (until - at).as_seconds_f64() * 1e3),
        tokens_in: run.tokens_in,
        tokens_out: run.tokens_out,
        cost: run.cost,
        definition,
    })
}

fn value(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// What these steps of a run have said, by their keys.
async fn said_by(db: &mut PgConnection, run: Uuid, keys: &[String]) -> Result<HashMap<String, Value>, DbError> {
    let said = |step: StepLine| {
        let mut all = json!({});
        for (name, text) in [("output", &step.output), ("error", &step.error)] {
            if let Some(value) = text.as_deref().and_then(value) {
                all[name] = value;
            }
        }
        (step.key, all)
    };
    Ok(step::some(&mut *db, run, keys, true).await?.into_iter().map(said).collect())
}

/// A step in both runs, as the database tells it.
struct Row {
    key: String,
    seq: i32,
    absent_a: bool,
    absent_b: bool,
    state_a: Option<String>,
    state_b: Option<String>,
    attempts_a: Option<i32>,
    attempts_b: Option<i32>,
    took_a: Option<f64>,
    took_b: Option<f64>,
    code_a: Option<String>,
    code_b: Option<String>,
    in_a: Option<i64>,
    in_b: Option<i64>,
    out_a: Option<i64>,
    out_b: Option<i64>,
    cost_a: Option<f64>,
    cost_b: Option<f64>,
    said: bool,
    all: i64,
    differing: i64,
}

impl Row {
    /// `places`: where what they said differs, if it `was_read`.
    fn pair(self, places: Vec<Change>, was_read: bool) -> Pair {
        let absent = self.absent_a || self.absent_b;
        let named = |word: &str| {
            places.iter().any(|c| {
                c.path == word || c.path.starts_with(&format!("{word}.")) || c.path.starts_with(&format!("{word}["))
            })
        };
        let differs = [
            ("absent", absent),
            ("state", !absent && self.state_a != self.state_b),
            ("error", !absent && (self.code_a != self.code_b || named("error"))),
            ("output", !absent && (named("output") || self.said && !was_read)),
        ];
        let a = Went {
            state: self.state_a.unwrap_or_default(),
            attempts: self.attempts_a.unwrap_or(0),
            took_ms: self.took_a,
            error_code: self.code_a,
            tokens_in: self.in_a,
            tokens_out: self.out_a,
            cost: self.cost_a,
        };
        let b = Went {
            state: self.state_b.unwrap_or_default(),
            attempts: self.attempts_b.unwrap_or(0),
            took_ms: self.took_b,
            error_code: self.code_b,
            tokens_in: self.in_b,
            tokens_out: self.out_b,
            cost: self.cost_b,
        };
        Pair {
            key: self.key,
            a: (!self.absent_a).then_some(a),
            b: (!self.absent_b).then_some(b),
            differs: differs.into_iter().filter(|(_, does)| *does).map(|(word, _)| word).collect(),
            changes: if absent { Vec::new() } else { places },
        }
    }
}
