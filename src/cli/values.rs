//! What people write on the command line: JSON, times, labels, filters.

use std::io::Read;

use anyhow::Context;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::Value;

use crate::db::runs::Filter;
use crate::definition::parse_duration;
use crate::model::{Payload, RunState};

use super::Exit;
use super::errors::refused;

/// JSON: as text, from a file (`@file`), or from stdin (`-`).
pub(super) fn json(flag: &str, text: &str) -> anyhow::Result<Payload> {
    let (from, text) = match text.strip_prefix('@') {
        _ if text == "-" => {
            let mut read = String::new();
            std::io::stdin().read_to_string(&mut read).context("stdin cannot be read")?;
            ("stdin".to_owned(), read)
        }
        Some(file) => {
            (file.to_owned(), std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?)
        }
        None => (flag.to_owned(), text.to_owned()),
    };
    Payload::from_text(text.trim()).map_err(|e| refused(Exit::Usage, format!("{from}: not JSON: {e}")))
}

/// Sets one value inside another: `order.items[0].count=3`. What is no JSON is text. The place itself may be new, what it stands in not.
///
/// # Errors
/// There is no such place, or this is no change.
pub fn set(value: &mut Value, text: &str) -> anyhow::Result<()> {
    let usage = |why: String| refused(Exit::Usage, format!("--set {text}: {why}"));
    let (path, new) = text.split_once('=').ok_or_else(|| usage("write PATH=JSON, such as order.count=3".to_owned()))?;
    let path = path.strip_prefix("input.").unwrap_or(path);
    let mut place = value;
    let mut so_far = String::from("the input");
    for part in path.replace('[', ".").replace(']', "").split('.') {
        let inside = match place {
            Value::Object(object) => Ok(object.entry(part).or_insert(Value::Null)),
            Value::Array(list) => {
                let n = list.len();
                let index = part.parse::<usize>().ok();
                index.and_then(|i| list.get_mut(i)).ok_or_else(|| format!("{so_far} has {n} items, none is {part}"))
            }
            Value::Null => Err(format!("{so_far} is nothing to hold {part}")),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(format!("{so_far} holds no {part}")),
        };
        place = inside.map_err(usage)?;
        so_far = part.to_owned();
    }
    *place = serde_json::from_str(new).unwrap_or_else(|_| Value::from(new));
    Ok(())
}

/// A time: `2026-07-01T12:00:00Z`, `2026-07-01` (midnight UTC), or a span from now into the future.
pub(super) fn future(text: &str) -> Result<DateTime<Utc>, String> {
    instant(text, 1)
}

/// A time, or a span from now into the past.
pub(super) fn past(text: &str) -> Result<DateTime<Utc>, String> {
    instant(text, -1)
}

fn instant(text: &str, sign: i32) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    if let Some(midnight) = text.parse::<NaiveDate>().ok().and_then(|d| d.and_hms_opt(0, 0, 0)) {
        return Ok(midnight.and_utc());
    }
    let span = parse_duration(text.trim_start_matches('+')).map_err(|_| {
        "write a time such as 2026-07-01T12:00:00Z, a day such as 2026-07-01, or a span such as 10m, 2h, 7d".to_owned()
    })?;
    #[expect(clippy::disallowed_methods, reason = "a span that a person writes is counted from their own clock")]
    let now = Utc::now();
    TimeDelta::from_std(span)
        .ok()
        .and_then(|d| now.checked_add_signed(d * sign))
        .ok_or_else(|| "that is too far away".to_owned())
}

/// `key=value`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write key=value".to_owned()),
    }
}

/// Labels as the flat JSON object of the table.
pub(super) fn labels(list: &[(String, String)]) -> serde_json::Value {
    list.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect::<serde_json::Map<_, _>>().into()
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &wanted.to_lowercase());
    let near = names.map(|name| (far(name), name)).min()?;
    (near.0 <= (wanted.chars().count() / 3).max(1)).then_some(near.1)
}

fn states() -> clap::builder::PossibleValuesParser {
    RunState::ALL.map(RunState::as_str).into()
}

/// Which runs.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct FilterArgs {
    /// Runs in this state; several: --state failed,resuming
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states(), hide_possible_values = true)]
    state: Vec<String>,
    /// Runs of this workflow; may be given several times
    #[arg(long, short, value_name = "NAME")]
    workflow: Vec<String>,
    /// Runs in this queue; may be given several times
    #[arg(long, short, value_name = "NAME")]
    queue: Vec<String>,
    /// Runs with this label; given several times, with all of them
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Runs of this session
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Runs enqueued since: a time (2026-07-01T12:00:00Z), a day, or a span (1h: in the last hour)
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<DateTime<Utc>>,
}

impl FilterArgs {
    /// Does it leave all runs?
    pub(super) fn is_empty(&self) -> bool {
        self.filter() == Filter::default()
    }

    /// As the database takes it.
    pub(super) fn filter(&self) -> Filter {
        Filter {
            states: self.state.clone(),
            workflows: self.workflow.clone(),
            queues: self.queue.clone(),
            labels: self.label.clone(),
            session: self.session.clone(),
            since: self.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_value_is_set_and_the_others_stay() {
        let mut value = json!({"order": {"items": [{"n": 1}, {"n": 2}]}, "note": null});
        for text in ["order.items[1].n=5", "input.order.new={\"a\": [1]}", "note=as it was=2", "top=7"] {
            set(&mut value, text).unwrap();
        }
        let told =
            json!({"order": {"items": [{"n": 1}, {"n": 5}], "new": {"a": [1]}}, "note": "as it was=2", "top": 7});
        assert_eq!(value, told);
        for (text, why) in [
            ("order", "PATH=JSON"),
            ("order.items[2].n=1", "items has 2 items, none is 2"),
            ("top.x=1", "top holds no x"),
            ("none.x=1", "none is nothing to hold x"),
        ] {
            let said = set(&mut value.clone(), text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "against the same clock")]
    fn times_are_instants_days_or_spans() {
        assert_eq!(past("2026-07-01T12:00:00+02:00").unwrap().to_rfc3339(), "2026-07-01T10:00:00+00:00");
        assert_eq!(past("2026-07-01").unwrap().to_rfc3339(), "2026-07-01T00:00:00+00:00");
        let hour = Utc::now() - past("1h").unwrap();
        assert!((3_599..3_601).contains(&hour.num_seconds()));
        assert!(future("+10m").unwrap() > Utc::now() + TimeDelta::minutes(9));
        assert!(past("yesterday").unwrap_err().contains("such as"));
    }

    #[test]
    fn json_comes_as_text_or_from_a_file() {
        assert_eq!(json("--input", r#" {"a":1} "#).unwrap().as_str(), r#"{"a":1}"#);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[1]\n").unwrap();
        assert_eq!(json("--input", &format!("@{}", file.path().display())).unwrap().as_str(), "[1]");
        assert!(json("--input", "{a:1}").unwrap_err().to_string().starts_with("--input: not JSON: "));
        assert!(json("--input", "@/nowhere").unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn a_label_has_a_key() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
