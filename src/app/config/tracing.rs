//! What the environment says of traces in the words of others: OpenTelemetry's, LangSmith's, Langfuse's. Each is enough alone.
//!
//! | variables | become |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT` and `/v1/traces`; `_HEADERS` of either | `traces.otlp` |
//! | `LANGCHAIN_TRACING_V2` or `LANGSMITH_TRACING`, and `_API_KEY`, `_ENDPOINT`, `_PROJECT` | `traces.langsmith` |
//! | `LANGFUSE_PUBLIC_KEY`, `LANGFUSE_SECRET_KEY`, `LANGFUSE_HOST` | `traces.langfuse` |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | `trace_service`, `trace_attributes` |

use config::{Map, Value, ValueKind};

use super::Config;
use super::environment::Variable;
use super::keys;
use super::layer::{Complaint, Layer};

/// Looks variables up. One that is empty is not set.
struct Environment<'a>(&'a [Variable]);

impl<'a> Environment<'a> {
    /// The first of these that is set.
    fn first(&self, names: &[&'a str]) -> Option<(&'a str, &'a str)> {
        names.iter().find_map(|name| {
            let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
            value.as_ref().ok().map(String::as_str).filter(|v| !v.trim().is_empty()).map(|v| (*name, v.trim()))
        })
    }

    fn is_on(&self, layer: &mut Layer, names: &[&'a str]) -> bool {
        match self.first(names).map(|(name, value)| (name, value.to_ascii_lowercase())) {
            None => false,
            Some((_, value)) if ["true", "1", "on", "yes"].contains(&value.as_str()) => true,
            Some((_, value)) if ["false", "0", "off", "no"].contains(&value.as_str()) => false,
            Some((name, value)) => {
                layer.complain(name, format!("it must be true or false; it is `{value}`"));
                false
            }
        }
    }
}

/// What the environment says.
pub(super) fn layer(environment: &[Variable]) -> Layer {
    let (mut layer, env) = (Layer::default(), Environment(environment));
    let disabled = env.is_on(&mut layer, &["OTEL_SDK_DISABLED"])
        || env.first(&["OTEL_TRACES_EXPORTER"]).is_some_and(|(_, value)| value == "none");
    if !disabled {
        otlp(&mut layer, &env);
    }
    langsmith(&mut layer, &env);
    langfuse(&mut layer, &env);
    if let Some(((name, value), key)) = env.first(&["OTEL_SERVICE_NAME"]).zip(keys::find("trace_service")) {
        layer.text(key, value, name);
    }
    for (name, value) in pairs(&mut layer, &env, &["OTEL_RESOURCE_ATTRIBUTES"]) {
        if name != "service.name" {
            layer.entry("trace_attributes", &name, &value, "OTEL_RESOURCE_ATTRIBUTES");
        } else if env.first(&["OTEL_SERVICE_NAME"]).is_none() {
            // By the specification the variable of its own outweighs it.
            if let Some(key) = keys::find("trace_service") {
                layer.text(key, &value, "OTEL_RESOURCE_ATTRIBUTES");
            }
        }
    }
    layer
}

/// `a=1,b=2`, percent-encoded.
fn pairs(layer: &mut Layer, env: &Environment<'_>, names: &[&'static str]) -> Vec<(String, String)> {
    let Some((variable, text)) = env.first(names) else { return Vec::new() };
    let mut all = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                all.push((name.trim().to_owned(), decoded(value.trim())));
            }
            // The value may be a secret, and is not shown.
            _ => layer.complain(variable, "it must be name=value, and more of them behind commas"),
        }
    }
    all
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'%', [a, b, tail @ ..]) if hex(a).is_some() && hex(b).is_some() => {
                bytes.push(hex(a).unwrap_or(0) << 4 | hex(b).unwrap_or(0));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn otlp(layer: &mut Layer, env: &Environment<'_>) {
    let protocol = env.first(&["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
    let whole = env.first(&["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]);
    let base = env.first(&["OTEL_EXPORTER_OTLP_ENDPOINT"]);
    let url = whole.map(|(name, url)| (name, url.to_owned()));
    let url = url.or_else(|| base.map(|(name, url)| (name, format!("{}/v1/traces", url.trim_end_matches('/')))));
    let headers = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
    let Some((place, url)) = url else {
        if let Some((variable, _)) = env.first(&headers) {
            layer.complain(
                variable,
                "it names headers, but no endpoint is set: set OTEL_EXPORTER_OTLP_ENDPOINT too, or unset this",
            );
        }
        return;
    };
    if let Some((variable, value)) = protocol.filter(|(_, value)| *value != "http/protobuf") {
        return layer.complain(variable, format!("stepd speaks http/protobuf (most often port 4318); it is `{value}`"));
    }
    let mut said = Layer::default();
    said.set("profile", "otlp", place);
    said.set("url", url, place);
    let mut table = Map::<String, Value>::new();
    let at = headers.iter().find(|h| env.first(&[h]).is_some()).copied().unwrap_or_default();
    for (name, value) in pairs(layer, env, &headers) {
        table.insert(name, Value::new(Some(&at.to_owned()), value));
    }
    if !table.is_empty() {
        said.set("headers", ValueKind::Table(table), at);
    }
    layer.profile("traces", "otlp", said, place);
}

fn langsmith(layer: &mut Layer, env: &Environment<'_>) {
    let switches = ["LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2", "LANGSMITH_TRACING"];
    if !env.is_on(layer, &switches) {
        return;
    }
    let place = env.first(&switches).map_or("LANGCHAIN_TRACING_V2", |(name, _)| name);
    let mut said = Layer::default();
    said.set("profile", "langsmith", place);
    for (part, names) in [
        ("api_key", ["LANGCHAIN_API_KEY", "LANGSMITH_API_KEY"]),
        ("url", ["LANGCHAIN_ENDPOINT", "LANGSMITH_ENDPOINT"]),
        ("project", ["LANGCHAIN_PROJECT", "LANGSMITH_PROJECT"]),
    ] {
        if let Some((name, value)) = env.first(&names) {
            said.set(part, value, name);
        }
    }
    layer.profile("traces", "langsmith", said, place);
}

fn langfuse(layer: &mut Layer, env: &Environment<'_>) {
    let keys = [("public_key", "LANGFUSE_PUBLIC_KEY"), ("secret_key", "LANGFUSE_SECRET_KEY")];
    let Some((place, _)) = env.first(&[keys[0].1, keys[1].1]) else { return };
    let mut said = Layer::default();
    said.set("profile", "langfuse", place);
    for (part, variable) in keys {
        if let Some((name, value)) = env.first(&[variable]) {
            said.set(part, value, name);
        }
    }
    if let Some((name, value)) = env.first(&["LANGFUSE_HOST", "LANGFUSE_BASE_URL"]) {
        said.set("url", value, name);
    }
    layer.profile("traces", "langfuse", said, place);
}

/// Targets that lack something, each with what to set.
pub(super) fn incomplete(config: &Config) -> Vec<Complaint> {
    let mut wrong = Vec::new();
    for (name, target) in &config.traces {
        let key = format!("traces.{name}");
        let mut lacks = |part: &str, given: &Option<String>, variable: &str| {
            if given.as_deref().is_none_or(str::is_empty) {
                let what = format!("it has no `{part}`: set {variable}, or {part} under [{key}]");
                wrong.push(Complaint { place: key.clone(), what });
            }
        };
        match target.profile.as_deref() {
            Some("langsmith") => lacks("api_key", &target.api_key, "LANGCHAIN_API_KEY or LANGSMITH_API_KEY"),
            Some("langfuse") => {
                lacks("public_key", &target.public_key, "LANGFUSE_PUBLIC_KEY");
                lacks("secret_key", &target.secret_key, "LANGFUSE_SECRET_KEY");
            }
            _ => lacks("url", &target.url, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(variables: &[(&str, &str)]) -> Layer {
        let all: Vec<Variable> = variables.iter().map(|(n, v)| ((*n).to_owned(), Ok((*v).to_owned()))).collect();
        layer(&all)
    }

    fn target(layer: &Layer, name: &str) -> Option<Map<String, Value>> {
        layer.values.get("traces")?.clone().into_table().ok()?.remove(name)?.into_table().ok()
    }

    fn part(layer: &Layer, name: &str, part: &str) -> Option<String> {
        target(layer, name)?.remove(part)?.into_string().ok()
    }

    #[test]
    fn each_ones_variables_are_enough() {
        let layer =
            said(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%20c,d=e=f")]);
        assert_eq!(part(&layer, "otlp", "url").as_deref(), Some("http://c:4318/v1/traces"));
        let headers = target(&layer, "otlp").unwrap().remove("headers").unwrap().into_table().unwrap();
        assert_eq!((headers["a"].to_string(), headers["d"].to_string()), ("b c".into(), "e=f".into()));
        let layer =
            said(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://no")]);
        assert_eq!(part(&layer, "otlp", "url").as_deref(), Some("http://c/x"));
        let layer = said(&[("LANGCHAIN_TRACING_V2", "true"), ("LANGSMITH_API_KEY", "k"), ("LANGCHAIN_PROJECT", "p")]);
        assert_eq!(
            (part(&layer, "langsmith", "api_key"), part(&layer, "langsmith", "project")),
            (Some("k".into()), Some("p".into()))
        );
        let layer = said(&[("LANGFUSE_PUBLIC_KEY", "p"), ("LANGFUSE_SECRET_KEY", "s"), ("LANGFUSE_HOST", "http://l")]);
        assert_eq!(part(&layer, "langfuse", "url").as_deref(), Some("http://l"));
        let layer = said(&[
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,deployment.environment.name=prod"),
        ]);
        assert_eq!(layer.values["trace_service"].to_string(), "shop");
        let attributes = layer.values["trace_attributes"].clone().into_table().unwrap();
        assert_eq!((attributes.len(), attributes["deployment.environment.name"].to_string()), (1, "prod".into()));
    }

    #[test]
    fn what_is_switched_off_or_not_asked_for_is_off() {
        for off in [
            &[][..],
            &[("LANGSMITH_API_KEY", "k")],
            &[("LANGCHAIN_TRACING_V2", "false"), ("LANGCHAIN_API_KEY", "k")],
            &[("LANGFUSE_HOST", "http://l")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_SDK_DISABLED", "true")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            let layer = said(off);
            assert!(!layer.values.contains_key("traces") && layer.wrong.is_empty(), "{off:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_and_no_secret_is() {
        for (variables, place, what) in [
            (&[("LANGCHAIN_TRACING_V2", "maybe")][..], "LANGCHAIN_TRACING_V2", "true or false"),
            (&[("OTEL_EXPORTER_OTLP_HEADERS", "a=b")], "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "http/protobuf",
            ),
            (
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", "geheim")],
                "OTEL_EXPORTER_OTLP_HEADERS",
                "name=value",
            ),
        ] {
            let layer = said(variables);
            let wrong = &layer.wrong[0];
            assert!(wrong.place == place && wrong.what.contains(what) && !wrong.what.contains("geheim"), "{wrong}");
        }
    }
}
