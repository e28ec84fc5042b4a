//! `stepd schema`: the JSON Schema of workflow files, for editors.

use crate::definition;

use super::Exit;
use super::output::{Format, json};

/// Prints it. The form of the output does not matter: it is one JSON document.
pub(super) fn run() -> anyhow::Result<Exit> {
    json(Format::Json, &definition::editor_schema())?;
    Ok(Exit::Ok)
}
