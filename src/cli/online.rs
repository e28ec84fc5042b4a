//! `stepd check --online`: are the servers, tools and models that files name to be had, and do the arguments fit?

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use crate::app::build::{self, Outside};
use crate::definition::{Definition, ToolUse};
use crate::expression::nearest;
use crate::model::Failure;
use crate::steps::{ProcessOptions, Tool};

use super::Global;

/// What each server says of its tools.
type Offers = BTreeMap<String, Result<Arc<Vec<Tool>>, Failure>>;

/// Asks every server that the files name, once and all at the same time; complaints go to `err`. How many there are.
pub(super) async fn check(
    global: &Global,
    files: &[(String, Definition)],
    err: &mut (dyn Write + Send),
) -> anyhow::Result<usize> {
    let config = global.sources().load()?.config;
    config.hide_secrets();
    let (_registry, outside) = build::kinds(&config, ProcessOptions::own_guard())?;
    let mut wanted: Vec<String> = files.iter().flat_map(|(_, d)| d.tools()).map(|t| t.server).collect();
    wanted.sort();
    wanted.dedup();
    let asked = wanted.into_iter().map(|server| async {
        let tools = outside.servers.tools(&server).await;
        (server, tools)
    });
    let offers: Offers = futures_util::future::join_all(asked).await.into_iter().collect();
    let mut wrong = 0;
    for (file, definition) in files {
        for (line, what) in complaints(definition, &offers, &outside) {
            writeln!(err, "error: {file}:{line}: {what}")?;
            wrong += 1;
        }
    }
    outside.servers.close().await;
    Ok(wrong)
}

fn complaints(definition: &Definition, offers: &Offers, outside: &Outside) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for used in definition.tools() {
        out.extend(of_tool(&used, offers).into_iter().map(|what| (used.line, what)));
    }
    let models = outside.models.names();
    for (step, model) in definition.models().into_iter().filter(|(_, model)| !models.contains(model)) {
        let help = match nearest(&model, models.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add [models.{model}]"),
        };
        out.push((step.line, format!("step `{}`: the configuration has no model `{model}`; {help}", step.id)));
    }
    out.sort_by_key(|(line, _)| *line);
    out
}

fn of_tool(used: &ToolUse<'_>, offers: &Offers) -> Vec<String> {
    let (id, server, tool) = (used.step, &used.server, &used.tool);
    let tools = match offers.get(server) {
        Some(Ok(tools)) => tools,
        Some(Err(failure)) => return vec![format!("step `{id}`: {}", failure.message)],
        None => return Vec::new(),
    };
    let Some(found) = tools.iter().find(|t| t.name == *tool) else {
        let names: Vec<&str> = tools.iter().map(|t| t.name.as_str()).collect();
        let help = match nearest(tool, names.iter().copied()) {
            Some(near) => format!("did you mean `{server}.{near}`?"),
            None => format!("it has: {}", names.join(", ")),
        };
        return vec![format!("step `{id}`: the server `{server}` has no tool `{tool}`; {help}")];
    };
    let mistakes = used.mistakes(&found.schema).into_iter();
    mistakes.map(|mistake| format!("step `{id}`: `args` do not fit `{server}.{tool}`: {mistake}")).collect()
}
