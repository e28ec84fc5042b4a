//! Definitions: their text, what input they take, and which step needs which.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::db::definitions::{self, Stored};
use crate::definition::{self, Block, Definition, Kind, Step};

use super::Site;
use super::access::{Caller, Scope};
use super::problem::Problem;
use super::things::At;

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(of_run)).routes(routes!(of_workflow))
}

/// A definition.
#[derive(Serialize, ToSchema)]
struct Text {
    workflow: String,
    hash: String,
    /// The file's text; null: the workflow is Rust code.
    text: Option<String>,
    /// The JSON Schema of its input.
    #[schema(value_type = Option<Value>)]
    input: Option<Value>,
    /// Its steps; empty for Rust code, and for what this process cannot read.
    parts: Vec<Part>,
}

/// A list of steps.
#[derive(Serialize, ToSchema)]
struct Part {
    /// `steps`, `on_failure`, `finally`, `undo`; the case of a `switch`; `items` of a map, `rounds` of a repeat.
    name: String,
    #[schema(no_recursion)]
    steps: Vec<Node>,
}

/// A step.
#[derive(Serialize, ToSchema)]
struct Node {
    id: String,
    kind: String,
    /// The line of the text on which it begins.
    line: usize,
    /// Is there an `if`?
    conditional: bool,
    /// The steps of its list that it needs.
    needs: Vec<String>,
    /// What it is made of.
    #[schema(no_recursion)]
    parts: Vec<Part>,
}

fn part(name: &str, block: &Block) -> Part {
    let node = |(i, step): (usize, &Step)| {
        let needs = (0..block.steps.len()).filter(|n| block.graph.dependents(*n).contains(&i));
        Node {
            id: step.id.to_string(),
            kind: step.kind_name().to_owned(),
            line: step.line,
            conditional: step.condition.is_some(),
            needs: needs.map(|n| block.steps[n].id.to_string()).collect(),
            parts: inside(step),
        }
    };
    Part { name: name.to_owned(), steps: block.steps.iter().enumerate().map(node).collect() }
}

fn inside(step: &Step) -> Vec<Part> {
    let mut parts = match &step.kind {
        Kind::Task { .. } => Vec::new(),
        Kind::Map(map) => vec![part("items", &map.body)],
        Kind::Switch(switch) => switch.branches.iter().map(|b| part(b.case.name(), &b.body)).collect(),
        Kind::Repeat(repeat) => vec![part("rounds", &repeat.body)],
    };
    parts.extend(step.undo.as_deref().map(|undo| part("undo", undo)));
    parts
}

fn told(stored: Stored) -> Json<Text> {
    let read: Option<Definition> =
        stored.body.as_deref().and_then(|body| definition::load(&stored.workflow, body).ok());
    let parts = read.as_ref().map_or_else(Vec::new, |d| {
        let main = (!d.steps.steps.is_empty()).then(|| part("steps", &d.steps));
        let on_failure = d.on_failure.as_ref().map(|block| part("on_failure", block));
        let finally = d.finally.as_ref().map(|block| part("finally", block));
        [main, on_failure, finally].into_iter().flatten().collect()
    });
    let input = read.as_ref().and_then(|d| d.input.as_ref()).map(|schema| schema.source().clone());
    Json(Text { workflow: stored.workflow, hash: stored.hash, text: stored.body, input, parts })
}

/// The definition that a run is pinned to; before its first claim, the present one of its workflow.
#[utoipa::path(get, path = "/runs/{id}/definition", params(("id" = Uuid, Path, description = "The run.")), tag = "runs",
    responses((status = 200, body = Text), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn of_run(State(site): State<Arc<Site>>, caller: Caller, At(id): At<Uuid>) -> Result<Json<Text>, Problem> {
    caller.needs(Scope::Read)?;
    definitions::of_run(&site.readers, id).await?.map(told).ok_or_else(|| super::runs::unknown(id))
}

/// The present definition of a workflow.
#[utoipa::path(get, path = "/workflows/{name}/definition", tag = "workflows", params(("name" = String, Path, description = "The workflow.")),
    responses((status = 200, body = Text), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn of_workflow(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(name): At<String>,
) -> Result<Json<Text>, Problem> {
    caller.needs(Scope::Read)?;
    let found = definitions::definition(&site.readers, None, &name).await?;
    found.map(told).ok_or_else(|| Problem::not_found(format!("there is no workflow `{name}`")))
}
