//! `stepd eval`: tries an expression out.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::app::build;
use crate::definition::Trial;
use crate::expression::Host;

use super::errors::refused;
use super::output::{json, talk};
use super::{Exit, Global, values};

/// What is shown where a secret would stand.
const HIDDEN: &str = "***";

#[derive(clap::Args)]
pub(super) struct Args {
    /// The expression, bare (input.n > 3) or as text with expressions in it ("${{ input.n }} left")
    #[arg(value_name = "EXPRESSION", allow_hyphen_values = true)]
    expression: String,
    /// What `input` is: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    input: String,
    /// What `steps` is: {"order": {"output": {"qty": 2}}}; `state` and `error` may be given, too
    #[arg(long, value_name = "JSON", default_value = "{}")]
    steps: String,
    /// Names that are known in some places only: {"item": 1} inside a map, {"status": 200} in the output of an http step
    #[arg(long, value_name = "JSON", default_value = "{}")]
    with: String,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let input = values::json("--input", &args.input)?;
    let host = build::host(&global.configuration()?);
    let secrets = host.secrets.keys().map(|name| (name.clone(), HIDDEN.to_owned())).collect();
    let host = Arc::new(Host { env: host.env.clone(), secrets: Arc::new(secrets) });
    let steps = object("--steps", &args.steps)?;
    let trial = Trial::new(input, &steps, object("--with", &args.with)?, host)
        .map_err(|why| refused(Exit::Usage, format!("--{why}")))?;
    match trial.eval(&args.expression) {
        Ok(value) => {
            json(global.output, &value)?;
            Ok(Exit::Ok)
        }
        Err(diagnostics) => {
            talk(diagnostics.to_string().trim_end());
            Ok(Exit::Error)
        }
    }
}

fn object(flag: &str, text: &str) -> anyhow::Result<Map<String, Value>> {
    match values::json(flag, text)?.value() {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(refused(Exit::Usage, format!("{flag} takes a JSON object"))),
    }
}
