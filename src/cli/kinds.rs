//! `stepd kinds`: what a step can be, and what the configuration adds to it: the registry of this host.

use serde_json::{Value, json};

use crate::app::Config;
use crate::app::config::masked;
use crate::definition::kinds_of_step;

use super::output::{Format, columns, json_list, say};
use super::text::{cell, table};
use super::{Exit, Global};

/// What there is, its name, and what it is for.
type Row<'a> = (&'static str, &'a str, String);

/// Prints the kinds of step, and the named things of the configuration that steps refer to.
pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    let kinds = kinds_of_step().map(|(kind, about)| ("kind", kind, about.to_owned()));
    let rows: Vec<Row<'_>> = kinds.chain(configured(&config)).collect();
    match global.output {
        Format::Table => {
            let cells: Vec<_> =
                rows.iter().map(|(what, name, about)| vec![cell(*what), cell(*name), cell(about.as_str())]).collect();
            say(&table(&["WHAT", "NAME", "FOR"], &cells, columns()))?;
        }
        Format::Id => say(&rows.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join("\n"))?,
        Format::Json | Format::Jsonl => {
            let list: Vec<Value> =
                rows.iter().map(|(what, name, about)| json!({"what": what, "name": name, "for": about})).collect();
            json_list(global.output, &list)?;
        }
    }
    Ok(Exit::Ok)
}

/// What the configuration names. Of a server and a model where it is, and nothing that lets anybody in.
fn configured(config: &Config) -> impl Iterator<Item = Row<'_>> {
    let servers = config.mcp.iter().map(|(name, server)| {
        let place = server.url.as_deref().map(masked).or(server.command.clone()).unwrap_or_default();
        ("server", name.as_str(), format!("`mcp: {name}.<tool>`, and `tools:` of agents: {place}"))
    });
    let models = config.models.iter().map(|(name, model)| {
        let (model, place) = (model.model.as_deref(), model.base_url.as_deref().map(masked));
        let about =
            format!("For `llm` and `agent` steps: {} at {}", model.unwrap_or_default(), place.unwrap_or_default());
        ("model", name.as_str(), about)
    });
    let connections = config.connections.keys();
    let connections = connections.map(|name| ("connection", name.as_str(), "For `connection:` of `sql` steps.".into()));
    let secrets = config.secrets.keys();
    let secrets = secrets.map(|name| ("secret", name.as_str(), "In expressions: `secrets.<name>`.".into()));
    servers.chain(models).chain(connections).chain(secrets)
}
