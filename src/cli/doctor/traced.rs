//! `stepd doctor --traces`: a test span to every target, and what it says.

use prost::Message as _;
use uuid::Uuid;

use crate::app::config::Config;
use crate::app::traces;
use crate::services::tracer::sender::Verdict;
use crate::telemetry::traces::ids::Place;
use crate::telemetry::traces::otlp::{Kind, Span, attribute};

use super::judge::{Finding, Level};

/// Asks all targets.
pub(super) async fn findings(config: &Config) -> anyhow::Result<Vec<Finding>> {
    config.hide_secrets();
    let (options, told) = (traces::options(config)?, traces::told(config)?);
    if told.is_empty() {
        return Ok(vec![Finding {
            check: "traces",
            level: Level::Wrong,
            says: "off: the configuration names no target".to_owned(),
            advice: Some("[traces.NAME] in the configuration, or OTEL_EXPORTER_OTLP_ENDPOINT, LANGCHAIN_TRACING_V2 and LANGCHAIN_API_KEY, or LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY".to_owned()),
        }]);
    }
    let mut findings = Vec::new();
    for ((_, sender, _), told) in options.targets.iter().zip(&told) {
        let project = told.project.as_ref().map(|p| format!(", project {p}")).unwrap_or_default();
        let place = format!("{} at {}{project}", told.name, told.url);
        findings.push(judge(&place, sender.send(sender.pack(&[test_span().encode_to_vec().into()])).await));
    }
    Ok(findings)
}

fn test_span() -> Span {
    #[expect(clippy::disallowed_methods, reason = "when it was asked, for people")]
    let now = chrono::Utc::now().timestamp_nanos_opt().and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
    let run = Uuid::new_v4();
    Span {
        trace_id: run.as_bytes().to_vec(),
        span_id: Place::Root(0).id(run).to_vec(),
        name: "stepd doctor".to_owned(),
        kind: Kind::Internal.into(),
        start_time_unix_nano: now,
        end_time_unix_nano: now + 1_000_000,
        attributes: vec![attribute("stepd.test", true)],
        flags: 1,
        ..Span::default()
    }
}

fn judge(place: &str, verdict: Verdict) -> Finding {
    let (level, says, advice) = match verdict {
        Verdict::Taken { refused: 0, .. } => (Level::Ok, format!("{place}: the test span was taken"), None),
        Verdict::Taken { why, .. } => {
            (Level::Wrong, format!("{place}: the test span was refused: {why}"), Some(RIGHTS))
        }
        Verdict::Refused(why) => (Level::Wrong, format!("{place}: {why}"), Some(RIGHTS)),
        Verdict::Later { why, .. } if why.contains("it answers 40") => {
            (Level::Wrong, format!("{place}: {why}"), Some(RIGHTS))
        }
        Verdict::Later { why, .. } => (
            Level::Wrong,
            format!("{place}: {why}"),
            Some("is it there, and can this machine reach it? Traces are kept until it is"),
        ),
        Verdict::TooLarge => (Level::Wrong, format!("{place}: it takes no span at all"), Some(RIGHTS)),
    };
    Finding { check: "traces", level, says, advice: advice.map(ToOwned::to_owned) }
}

const RIGHTS: &str =
    "compare the address, the key and the project with what the target shows: stepd config says where each comes from";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_told_apart_from_a_target_that_is_away() {
        let later = |why: &str| judge("x", Verdict::Later { why: why.into(), after: None });
        let (key, away) = (later("it answers 401 Unauthorized: no"), later("no answer within 10s"));
        assert!(key.level == Level::Wrong && key.advice.unwrap().contains("key"));
        assert!(away.level == Level::Wrong && away.advice.unwrap().contains("reach"));
        let taken = judge("x, project p", Verdict::Taken { refused: 0, why: String::new() });
        assert!(taken.level == Level::Ok && taken.says.contains("project p"));
    }
}
