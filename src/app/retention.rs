//! `[retention]` of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::definition::parse_duration;
use crate::model::RunState;
use crate::rules::retention::{ENDED, Retention, Rule};

/// How long the history of ended runs is kept. Unset: for ever.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Of every state that has no word of its own.
    pub default: Option<Keep>,
    /// Of completed runs.
    pub completed: Option<Keep>,
    /// Of failed runs.
    pub failed: Option<Keep>,
    /// Of cancelled runs.
    pub cancelled: Option<Keep>,
    /// A folder: before runs are removed they are written there, a file a day.
    pub export: Option<PathBuf>,
    /// Of single workflows, by name; what is unset is as for all.
    pub workflows: BTreeMap<String, OfWorkflow>,
}

/// How long the history of one workflow is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct OfWorkflow {
    pub default: Option<Keep>,
    pub completed: Option<Keep>,
    pub failed: Option<Keep>,
    pub cancelled: Option<Keep>,
}

/// A span, or for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep(pub Option<Duration>);

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.as_str() {
            "forever" => Ok(Self(None)),
            text => parse_duration(text)
                .map(|d| Self(Some(d)))
                .map_err(|why| serde::de::Error::custom(format!("{why}; or \"forever\""))),
        }
    }
}

impl RetentionConfig {
    /// One answer for every workflow and state: that of the workflow, its default, that of the state, the default, for ever.
    #[must_use]
    pub fn rules(&self) -> Retention {
        let common = |state| pick(state, self.completed, self.failed, self.cancelled).or(self.default);
        let rule = |workflow: Option<&String>, state, keep: Option<Keep>| Rule {
            workflow: workflow.cloned(),
            state,
            age: keep.and_then(|keep| keep.0),
        };
        let mut rules: Vec<Rule> = ENDED.iter().map(|s| rule(None, *s, common(*s))).collect();
        for (name, of) in &self.workflows {
            rules.extend(ENDED.iter().map(|s| {
                let own = pick(*s, of.completed, of.failed, of.cancelled).or(of.default);
                rule(Some(name), *s, own.or(common(*s)))
            }));
        }
        Retention::new(rules)
    }
}

fn pick(state: RunState, completed: Option<Keep>, failed: Option<Keep>, cancelled: Option<Keep>) -> Option<Keep> {
    match state {
        RunState::Completed => completed,
        RunState::Failed => failed,
        _ => cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<(String, String)> {
        let read = config::Config::builder().add_source(config::File::from_str(text, config::FileFormat::Toml));
        let read: RetentionConfig = read.build().unwrap().try_deserialize().unwrap();
        let told = |r: &Rule| {
            let age = r.age.map_or("forever".into(), |age| format!("{} h", age.as_secs() / 3_600));
            (format!("{} {}", r.workflow.as_deref().unwrap_or("all"), r.state.as_str()), age)
        };
        read.rules().rules().iter().map(told).collect()
    }

    #[test]
    fn without_a_word_everything_is_kept_for_ever() {
        assert!(rules("").iter().all(|(_, age)| age == "forever"));
        assert_eq!(RetentionConfig::default().rules().shortest(), None);
    }

    #[test]
    fn the_nearest_word_counts() {
        let text = "default = \"2h\"\nfailed = \"forever\"\n[workflows.a]\ncompleted = \"1h\"\n[workflows.b]\ndefault = \"3h\"";
        let expected = [
            ("all completed", "2 h"),
            ("all failed", "forever"),
            ("all cancelled", "2 h"),
            ("a completed", "1 h"),
            ("a failed", "forever"),
            ("a cancelled", "2 h"),
            ("b completed", "3 h"),
            ("b failed", "3 h"),
            ("b cancelled", "3 h"),
        ];
        assert_eq!(rules(text), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn what_is_no_span_is_refused_with_the_forms_that_are() {
        let wrong = serde_json::from_str::<Keep>("\"a while\"").unwrap_err().to_string();
        assert!(wrong.contains("`a while`") && wrong.contains("7d") && wrong.contains("forever"), "{wrong}");
    }
}
