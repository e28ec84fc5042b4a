//! The targets of traces, from the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::engine::Tracing;
use crate::rules::sampling::Sampling;
use crate::services::tracer::Options;
use crate::services::tracer::sender::Sender;
use crate::telemetry::traces::{Style, Vendor};

use super::build::BuildError;
use super::config::{Config, TraceTarget};
use super::outside::filled;

/// Where LangSmith takes traces, beside its own API: the hosted one, and one of your own.
const LANGSMITH: &str = "https://api.smith.langchain.com";
const LANGFUSE: &str = "https://cloud.langfuse.com";

/// Targets take values of 32 KB; what stands round one is small.
const LONGEST: u64 = 32_000;

/// A target as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Told {
    pub name: String,
    /// Without what may be secret in it.
    pub url: String,
    pub project: Option<String>,
    pub content: bool,
}

/// What is to be done about traces.
///
/// # Errors
/// A target makes no sense.
pub fn options(config: &Config) -> Result<Options, BuildError> {
    let resource = resource(config);
    let mut targets = Vec::new();
    for (name, target) in &config.traces {
        let key = format!("traces.{name}");
        let (url, headers) = (url(config, &key, target)?, headers(config, &key, target)?);
        let sender = Sender::new(url, headers, &resource).map_err(|e| wrong(&key, &format!("cannot be used: {e}")))?;
        targets.push((name.clone(), Arc::new(sender), style(target)));
    }
    let most = i64::try_from(config.trace_backlog_runs).unwrap_or(i64::MAX);
    let keep = Duration::from_secs(config.trace_keep_hours.saturating_mul(3_600));
    let longest_wait = Duration::from_secs(config.trace_wait_seconds);
    Ok(Options { targets, sampling: sampling(config), keep, most, longest_wait })
}

/// What the engine must note for them; `None`: nothing.
#[must_use]
pub fn noted(config: &Config) -> Option<Tracing> {
    let styles: Vec<Style> = config.traces.values().map(style).collect();
    let content = styles.iter().filter(|s| s.content).map(|s| s.longest).max().unwrap_or(0);
    (!styles.is_empty()).then(|| Tracing { sampling: sampling(config), content })
}

/// The targets, for people.
///
/// # Errors
/// As [`options`].
pub fn told(config: &Config) -> Result<Vec<Told>, BuildError> {
    let told = |(name, target): (&String, &TraceTarget)| {
        let url = url(config, &format!("traces.{name}"), target)?;
        let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
        let url = format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
        Ok(Told { name: name.clone(), url, project: target.project.clone(), content: style(target).content })
    };
    config.traces.iter().map(told).collect()
}

fn sampling(config: &Config) -> Sampling {
    let share = |text: &String| text.trim().parse().unwrap_or(1.0);
    let workflows: BTreeMap<String, f64> =
        config.trace_workflows.iter().map(|(name, text)| (name.clone(), share(text))).collect();
    Sampling { ratio: config.trace_ratio, workflows, errors: config.trace_errors == "on" }
}

fn style(target: &TraceTarget) -> Style {
    let vendor = match target.profile.as_deref() {
        Some("langsmith") => Vendor::LangSmith,
        Some("langfuse") => Vendor::Langfuse,
        _ => Vendor::Plain,
    };
    let longest = usize::try_from(target.max_value_bytes.unwrap_or(LONGEST)).unwrap_or(usize::MAX);
    Style { vendor, content: target.content.as_deref() == Some("on"), longest }
}

fn resource(config: &Config) -> Vec<(String, String)> {
    let own = [
        ("service.name", config.trace_service.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("telemetry.sdk.name", "stepd".to_owned()),
        ("telemetry.sdk.language", "rust".to_owned()),
    ];
    let mut all: BTreeMap<String, String> = own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(config.trace_attributes.iter().map(|(name, value)| (name.clone(), value.clone())));
    all.into_iter().collect()
}

/// The whole address. LangSmith and Langfuse may be given as they call themselves, by their host or by their API.
fn url(config: &Config, key: &str, target: &TraceTarget) -> Result<Url, BuildError> {
    let given = target.url.as_ref().map(|text| filled(config, &format!("{key}.url"), text)).transpose()?;
    let text = match (target.profile.as_deref(), given) {
        (Some("langsmith"), given) => whole(&given.unwrap_or_else(|| LANGSMITH.to_owned()), "/otel/v1/traces"),
        (Some("langfuse"), given) => whole(&given.unwrap_or_else(|| LANGFUSE.to_owned()), "/api/public/otel/v1/traces"),
        (_, given) => given.unwrap_or_default(),
    };
    // The text is not shown: a secret may stand in it.
    let url = Url::parse(&text).map_err(|error| wrong(key, &format!("has a url that is none: {error}")))?;
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err(wrong(key, "must have a url that begins with http:// or https:// and names a host")),
    }
}

fn whole(given: &str, path: &str) -> String {
    let given = given.trim_end_matches('/');
    match given.ends_with("/v1/traces") {
        true => given.to_owned(),
        false => format!("{given}{path}"),
    }
}

fn headers(config: &Config, key: &str, target: &TraceTarget) -> Result<HeaderMap, BuildError> {
    let secret = |part: &str, text: &Option<String>| match text {
        Some(text) => filled(config, &format!("{key}.{part}"), text),
        None => Ok(String::new()),
    };
    let mut given = Vec::new();
    match target.profile.as_deref() {
        Some("langsmith") => {
            given.push(("x-api-key".to_owned(), secret("api_key", &target.api_key)?));
            given.extend(target.project.iter().map(|project| ("Langsmith-Project".to_owned(), project.clone())));
        }
        Some("langfuse") => {
            let pair = (secret("public_key", &target.public_key)?, secret("secret_key", &target.secret_key)?);
            given.push(("Authorization".to_owned(), format!("Basic {}", base64(&format!("{}:{}", pair.0, pair.1)))));
            // Without it what is sent shows up ten minutes later.
            given.push(("x-langfuse-ingestion-version".to_owned(), "4".to_owned()));
            given.push(("x-langfuse-sdk-name".to_owned(), "stepd".to_owned()));
            given.push(("x-langfuse-sdk-version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        }
        _ => {}
    }
    for (name, text) in &target.headers {
        given.push((name.clone(), filled(config, &format!("{key}.headers.{name}"), text)?));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let cannot = |_| wrong(key, &format!("has a header `{name}` that cannot be sent"));
        let parsed: HeaderName = name.parse().map_err(|_| cannot(()))?;
        let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| cannot(()))?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    Ok(headers)
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let n = three.iter().fold(0_usize, |n, b| n << 8 | usize::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            out.push(if i <= three.len() { char::from(DIGITS[n >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    out
}

fn wrong(key: &str, what: &str) -> BuildError {
    BuildError::Outside(format!("{key} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(target: TraceTarget) -> Config {
        Config { traces: BTreeMap::from([("t".to_owned(), target)]), ..Config::default() }
    }

    fn target(profile: &str, url: Option<&str>) -> TraceTarget {
        let text = |text: &str| Some(text.to_owned());
        TraceTarget {
            profile: text(profile),
            url: url.map(ToOwned::to_owned),
            api_key: text("k"),
            public_key: text("pk"),
            secret_key: text("sk"),
            project: text("p"),
            ..TraceTarget::default()
        }
    }

    #[test]
    fn a_vendor_is_reached_however_its_address_is_written() {
        let at = |profile, given| url(&Config::default(), "k", &target(profile, given)).unwrap().to_string();
        assert_eq!(at("langsmith", None), "https://api.smith.langchain.com/otel/v1/traces");
        assert_eq!(
            at("langsmith", Some("https://eu.api.smith.langchain.com/")),
            "https://eu.api.smith.langchain.com/otel/v1/traces"
        );
        assert_eq!(at("langsmith", Some("https://own/api/v1")), "https://own/api/v1/otel/v1/traces");
        assert_eq!(at("langfuse", None), "https://cloud.langfuse.com/api/public/otel/v1/traces");
        assert_eq!(at("langfuse", Some("http://h:3000")), "http://h:3000/api/public/otel/v1/traces");
        assert_eq!(at("otlp", Some("http://h/v1/traces")), "http://h/v1/traces");
        for none in ["h", "ftp://h"] {
            assert!(options(&config(target("otlp", Some(none)))).is_err());
        }
    }

    #[test]
    fn each_vendor_has_its_headers() {
        let of = |profile| headers(&Config::default(), "k", &target(profile, None)).unwrap();
        let (smith, fuse) = (of("langsmith"), of("langfuse"));
        assert_eq!((&smith["x-api-key"], &smith["langsmith-project"]), (&"k".parse().unwrap(), &"p".parse().unwrap()));
        assert_eq!(fuse["authorization"], "Basic cGs6c2s=");
        assert_eq!(fuse["x-langfuse-ingestion-version"], "4");
        for (text, encoded) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("ü:/?", "w7w6Lz8=")] {
            assert_eq!(base64(text), encoded);
        }
    }
}
