//! `stepd kinds`: what a step can be, and what the configuration adds to it.

use serde_json::{Value, json};

use crate::definition::kinds_of_step;

use super::output::{Format, columns, json_list, say};
use super::text::{cell, table};
use super::{Exit, Global};

/// Prints the kinds of step, and the named things of the configuration that steps refer to.
pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let config = global.configuration()?;
    let kinds = kinds_of_step().map(|(kind, about)| ("kind", kind, about));
    let connections =
        config.connections.keys().map(|name| ("connection", name.as_str(), "For `connection:` of `sql` steps."));
    let secrets = config.secrets.keys().map(|name| ("secret", name.as_str(), "In expressions: `secrets.<name>`."));
    let rows: Vec<(&str, &str, &str)> = kinds.chain(connections).chain(secrets).collect();
    match global.output {
        Format::Table => {
            let cells: Vec<_> =
                rows.iter().map(|(what, name, about)| vec![cell(*what), cell(*name), cell(*about)]).collect();
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
