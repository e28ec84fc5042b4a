//! Workflow definitions: files read, checked, and compiled into what the engine runs. Pure: text in, data out.
//!
//! [`load`] is the one way in: text → positioned tree (`yaml`, `node`) → typed, compiled steps (`parse`, `kinds`)
//! → names and order checked (`check`) → [`Definition`]. Every stage collects its errors and goes on, so that one load
//! reports all that is wrong with a file.

pub mod afu9;
mod argv;
mod budget;
mod calls;
mod check;
mod diagnostics;
mod duration;
mod fields;
pub(crate) mod flow;
mod in_flight;
mod kinds;
mod limits;
mod models;
mod node;
mod parse;
mod plan;
mod policy;
mod reference;
mod schema;
mod scope;
mod shapes;
mod spec;
mod state_at;
mod steps;
mod synonyms;
mod trial;
mod yaml;

pub use calls::ToolUse;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use duration::parse_duration;
pub use flow::Schedule;
pub use in_flight::{Recorded, misfit_of_input, misfits};
pub use kinds::OwnKind;
pub use plan::{Graph, Plan};
pub use reference::{editor_schema, kinds as kinds_of_step};
pub use schema::Schema;
pub use spec::{Block, Branch, Case, Definition, Kind, MapStep, Params, RepeatStep, Step, SwitchStep, Tolerate};
pub use state_at::{Past, StateAt, state_at};
pub use trial::Trial;

/// Bytes of one file: far above any real one, and read in no time.
pub const MAX_BYTES: usize = 1 << 20;

/// As [`load`], from the bytes of a file; gives its text, too.
///
/// # Errors
/// As [`load`], or that it is not UTF-8.
pub fn read(source_name: &str, bytes: Vec<u8>) -> Result<(String, Definition), Diagnostics> {
    read_with(source_name, bytes, &[])
}

/// As [`read`], where there are kinds beside those of the language.
///
/// # Errors
/// As [`read`].
pub fn read_with(source_name: &str, bytes: Vec<u8>, own: &[OwnKind]) -> Result<(String, Definition), Diagnostics> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(source_name));
    }
    let text = String::from_utf8(bytes).map_err(|e| Diagnostics::not_utf8(source_name, e.as_bytes()))?;
    let definition = load_with(source_name, &text, own)?;
    Ok((text, definition))
}

/// Reads, checks and compiles one workflow file. `source_name` is what messages call it.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines.
pub fn load(source_name: &str, text: &str) -> Result<Definition, Diagnostics> {
    load_with(source_name, text, &[])
}

/// As [`load`], where there are kinds beside those of the language.
///
/// # Errors
/// As [`load`].
pub fn load_with(source_name: &str, text: &str, own: &[OwnKind]) -> Result<Definition, Diagnostics> {
    if text.len() > MAX_BYTES {
        return Err(too_large(source_name));
    }
    let mut report = diagnostics::Report::new(text);
    let definition = yaml::parse(text, &mut report).and_then(|root| match afu9::is_document(&root, text) {
        true => afu9::document(&root, source_name, text, &mut report),
        false => parse::workflow(&root, text, own, &mut report),
    });
    match definition {
        Some(definition) if report.is_empty() => Ok(definition),
        _ => Err(report.finish(source_name)),
    }
}

/// What a file says, as JSON; `None` where it cannot be read.
#[must_use]
pub fn as_json(text: &str) -> Option<serde_json::Value> {
    yaml::parse(text, &mut diagnostics::Report::new(text)).map(|root| root.json())
}

fn too_large(source_name: &str) -> Diagnostics {
    let help = "hand data over as input or in a table, and make several workflows of it";
    Diagnostics::whole(source_name, "the file is larger than 1 MiB", help)
}

#[cfg(test)]
mod tests;
