//! Workflow definitions: files read, checked, and compiled into what the engine runs. Pure: text in, data out.
//!
//! [`load`] is the one way in: text → positioned tree (`yaml`, `node`) → typed, compiled steps (`parse`, `kinds`)
//! → names and order checked (`check`) → [`Definition`]. Every stage collects its errors and goes on, so that one load
//! reports all that is wrong with a file.

mod check;
mod diagnostics;
mod duration;
mod fields;
mod kinds;
mod node;
mod parse;
mod plan;
mod policy;
mod schema;
mod spec;
mod steps;
mod yaml;

pub use diagnostics::{Diagnostic, Diagnostics};
pub use duration::parse_duration;
pub use plan::{Graph, Plan};
pub use schema::Schema;
pub use spec::{Block, Definition, Kind, MapStep, Params, Step, Tolerate};

/// Reads, checks and compiles one workflow file. `source_name` is what messages call it.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines.
pub fn load(source_name: &str, text: &str) -> Result<Definition, Diagnostics> {
    let mut report = diagnostics::Report::new(text);
    let definition = yaml::parse(text, &mut report).and_then(|root| parse::workflow(&root, text, &mut report));
    match definition {
        Some(definition) if report.is_empty() => Ok(definition),
        _ => Err(report.finish(source_name)),
    }
}

#[cfg(test)]
mod tests;
