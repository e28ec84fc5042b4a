//! What the environment says: `PG*` as every Postgres client reads them, the parts `DATABASE_HOST`, …, `DATABASE_URL`, and
//! `STEPD_*`; the lightest first.
//!
//! A variable that is empty counts as one that is not set.

use super::keys::{self, KEYS};
use super::layer::Layer;

/// A variable's name and value.
pub(super) type Variable = (String, Result<String, String>);

/// Variables that are `STEPD_*` and no configuration: read elsewhere, or given to steps.
const ELSEWHERE: [&str; 11] = [
    "STEPD_CONFIG",
    "STEPD_POSTGRES_BIN",
    "STEPD_FAILPOINTS",
    "STEPD_RUN_ID",
    "STEPD_STEP_KEY",
    "STEPD_IDEMPOTENCY_KEY",
    "STEPD_EPOCH",
    "STEPD_ATTEMPT",
    "STEPD_SESSION_ID",
    "STEPD_ATTEMPT_TOKEN",
    "STEPD_GUARD_TOKEN",
];

/// As libpq reads them.
const LIBPQ: [(&str, &str); 7] = [
    ("PGHOST", "database_host"),
    ("PGPORT", "database_port"),
    ("PGDATABASE", "database_name"),
    ("PGUSER", "database_user"),
    ("PGPASSWORD", "database_password"),
    ("PGSSLMODE", "database_sslmode"),
    ("PGSSLROOTCERT", "database_sslrootcert"),
];

const PARTS: [(&str, &str); 5] = [
    ("DATABASE_HOST", "database_host"),
    ("DATABASE_PORT", "database_port"),
    ("DATABASE_NAME", "database_name"),
    ("DATABASE_USER", "database_user"),
    ("DATABASE_PASSWORD", "database_password"),
];

const URL: [(&str, &str); 1] = [("DATABASE_URL", "database_url")];

const LOG: [(&str, &str); 1] = [("RUST_LOG", "log_level")];

/// This process' environment.
pub(super) fn variables() -> Vec<Variable> {
    let text = |v: std::ffi::OsString| v.into_string().map_err(|v| v.to_string_lossy().into_owned());
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, text(value)))).collect()
}

/// The layers of an environment, the lightest first: a variable that is named for stepd outweighs one that it shares with others.
pub(super) fn layers(environment: &[Variable]) -> [Layer; 5] {
    let mut shared = named(environment, &LIBPQ);
    let more = named(environment, &LOG);
    shared.values.extend(more.values);
    shared.wrong.extend(more.wrong);
    let traces = super::tracing::layer(environment);
    [shared, named(environment, &PARTS), named(environment, &URL), traces, own(environment)]
}

fn named(environment: &[Variable], names: &[(&str, &str)]) -> Layer {
    let mut layer = Layer::default();
    for (variable, key) in names {
        let Some((_, value)) = environment.iter().find(|(name, _)| name == variable) else { continue };
        let Some(key) = keys::find(key) else { continue };
        match value {
            Ok(text) if text.is_empty() => {}
            Ok(text) => layer.text(key, text, variable),
            Err(_) => layer.complain(*variable, "its value is not UTF-8"),
        }
    }
    layer
}

fn own(environment: &[Variable]) -> Layer {
    let mut layer = Layer::default();
    let mut variables: Vec<&Variable> = environment.iter().filter(|(name, _)| name.starts_with("STEPD_")).collect();
    variables.sort();
    for (variable, value) in variables.into_iter().filter(|(name, _)| !is_elsewhere(name)) {
        let lower = variable["STEPD_".len()..].to_lowercase();
        let (head, entry) = lower.split_once("__").map_or((lower.as_str(), None), |(head, entry)| (head, Some(entry)));
        let key = keys::find(head).filter(|k| k.form.is_table() == entry.is_some_and(|e| !e.is_empty()));
        match (key, value) {
            (None, _) => layer.complain(variable, unknown(&lower)),
            (Some(_), Err(_)) => layer.complain(variable, "its value is not UTF-8"),
            (Some(_), Ok(text)) if text.is_empty() => {}
            (Some(key), Ok(text)) => match entry {
                Some(entry) => layer.entry(key.name, entry, text, variable),
                None => layer.text(key, text, variable),
            },
        }
    }
    layer
}

/// Read elsewhere, or made by a container platform for a service that is called `stepd`.
fn is_elsewhere(name: &str) -> bool {
    ELSEWHERE.contains(&name)
        || ["STEPD_TEST_", "STEPD_SERVICE_", "STEPD_PORT_"].iter().any(|p| name.starts_with(p))
        || name == "STEPD_PORT"
}

fn unknown(lower: &str) -> String {
    let table = |k: &&keys::Key| k.form.is_table() && *k.name == *lower;
    if let Some(key) = KEYS.iter().find(table) {
        let upper = key.name.to_uppercase();
        return format!("`{}` is a table; name one of its entries: STEPD_{upper}__NAME", key.name);
    }
    match keys::suggestion(lower, KEYS.iter().map(|k| k.name)) {
        Some(near) => format!("there is no key `{lower}`; did you mean STEPD_{}?", near.to_uppercase()),
        None => format!("there is no key `{lower}`; stepd config --template shows every key"),
    }
}
