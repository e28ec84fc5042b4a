//! `[retention]` of the configuration: how long the history of ended runs is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::definition::parse_duration;
use crate::model::RunState;
use crate::rules::retention::{ENDED, Retention, Rule};

use super::Config;

/// A span, or for ever (`None`).
///
/// # Errors
/// The text is neither; says what is.
pub fn span(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "forever" => Ok(None),
        text => parse_duration(text).map(Some).map_err(|why| format!("{why}; or \"forever\"")),
    }
}

impl Config {
    /// One answer for every workflow and state: that of the workflow and state, of the workflow, of the state, the default, for ever.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let named = |table: &BTreeMap<String, String>, name: &str| {
            // What the configuration holds has been checked; what has not is kept.
            table.get(name).map(|text| span(text).unwrap_or_default())
        };
        let common = |state: RunState| {
            named(&self.retention, state.as_str()).or_else(|| named(&self.retention, "default")).flatten()
        };
        let mut rules: Vec<Rule> =
            ENDED.into_iter().map(|state| Rule { workflow: None, state, age: common(state) }).collect();
        let workflows: BTreeSet<&str> = self.retention_workflows.keys().map(|name| workflow_of(name)).collect();
        for workflow in workflows {
            rules.extend(ENDED.into_iter().map(|state| {
                let own = named(&self.retention_workflows, &format!("{workflow}.{}", state.as_str()))
                    .or_else(|| named(&self.retention_workflows, workflow));
                Rule { workflow: Some(workflow.to_owned()), state, age: own.unwrap_or_else(|| common(state)) }
            }));
        }
        Retention::new(rules)
    }
}

/// `nightly_backup` of `nightly_backup.completed`.
fn workflow_of(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((workflow, state)) if ENDED.iter().any(|s| s.as_str() == state) => workflow,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(all: &[(&str, &str)], workflows: &[(&str, &str)]) -> Vec<String> {
        let table = |entries: &[(&str, &str)]| entries.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let config = Config { retention: table(all), retention_workflows: table(workflows), ..Config::default() };
        let told = |r: &Rule| {
            let age = r.age.map_or("forever".into(), |age| format!("{} h", age.as_secs() / 3_600));
            format!("{} {} {age}", r.workflow.as_deref().unwrap_or("all"), r.state.as_str())
        };
        config.retention().rules().iter().map(told).collect()
    }

    #[test]
    fn without_a_word_everything_is_kept_for_ever() {
        assert_eq!(Config::default().retention().shortest(), None);
        assert_eq!(rules(&[], &[]), ["all completed forever", "all failed forever", "all cancelled forever"]);
    }

    #[test]
    fn the_nearest_word_counts() {
        let told = rules(
            &[("default", "2h"), ("failed", "forever")],
            &[("a.completed", "1h"), ("b", "3h"), ("b.failed", "4h"), ("b-2", "forever")],
        );
        let expected = [
            "all completed 2 h",
            "all failed forever",
            "all cancelled 2 h",
            "a completed 1 h",
            "a failed forever",
            "a cancelled 2 h",
            "b completed 3 h",
            "b failed 4 h",
            "b cancelled 3 h",
            "b-2 completed forever",
            "b-2 failed forever",
            "b-2 cancelled forever",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_no_span_is_refused_with_the_forms_that_are() {
        let wrong = span("a while").unwrap_err();
        assert!(wrong.contains("`a while`") && wrong.contains("7d") && wrong.contains("forever"), "{wrong}");
    }
}
