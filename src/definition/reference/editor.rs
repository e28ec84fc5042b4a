//! The JSON Schema of workflow files, for editors: made from the parser's lists and the table of facts.

use serde_json::{Map, Value, json};

use super::super::kinds::KINDS;
use super::{Fact, INNER, fact, fact_of_step, keys_of, keys_of_step};

/// The JSON Schema (draft 2020-12) of workflow files.
///
/// A schema cannot say all that `stepd check` does (which names an expression may use, which steps wait for each other); what it
/// says is true: a file that it refuses, `stepd check` refuses, too.
#[must_use]
pub fn editor_schema() -> Value {
    let mut defs = Map::new();
    for (owner, _) in INNER {
        defs.insert(owner.into(), with(mapping(&keys_of(owner), |key| fact(owner, key)), must(owner)));
    }
    for kind in &KINDS {
        let keys = mapping(&keys_of_step(kind.word), |key| fact_of_step(kind.word, key));
        // What is said of `repeat` is said of what stands under it.
        let must = if kind.word == "repeat" { json!({}) } else { must(kind.word) };
        defs.insert(format!("step_{}", kind.word), with(keys, must));
    }
    defs.insert("body".into(), body());
    defs.insert("step".into(), json!({"$ref": "#/$defs/body", "required": ["id"]}));
    let mut root = mapping(&keys_of("workflow"), |key| fact("workflow", key));
    if let Value::Object(root) = &mut root {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), "A workflow of stepd".into());
        root.insert("required".into(), json!(["name", "steps"]));
        root.insert("$defs".into(), defs.into());
    }
    root
}

/// A mapping with these keys and no others.
fn mapping(keys: &[&'static str], about: impl Fn(&str) -> Option<&'static Fact>) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), property(about(key)))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Which keys a mapping must have, and which exclude each other.
fn must(owner: &str) -> Value {
    let one_of = |keys: &[&str]| keys.iter().map(|key| json!({"required": [key]})).collect::<Vec<_>>();
    match owner {
        "unique" => json!({"required": ["key"]}),
        "concurrency" => json!({"required": ["limit"]}),
        "rate" => json!({"required": ["limit", "per"]}),
        "schedule" => json!({"required": ["cron"]}),
        "budget" => json!({"anyOf": one_of(&["tokens", "cost", "calls"])}),
        "repeat" => json!({"required": ["steps", "until", "max"]}),
        "map" => json!({"required": ["steps"]}),
        "llm" | "agent" => json!({"required": ["prompt"]}),
        "http" => {
            json!({"not": {"anyOf": [{"required": ["json", "body"]}, {"required": ["json", "form"]}, {"required": ["body", "form"]}]}})
        }
        "switch" => json!({
            "if": {"properties": {"switch": {"type": "array"}}},
            "then": {"not": {"required": ["cases"]}},
            "else": {"required": ["cases"]},
        }),
        _ => json!({}),
    }
}

fn with(mut schema: Value, more: Value) -> Value {
    if let (Value::Object(schema), Value::Object(more)) = (&mut schema, more) {
        schema.extend(more);
    }
    schema
}

fn property(fact: Option<&Fact>) -> Value {
    let Some(fact) = fact else { return json!({}) };
    let mut schema = fact.shape.schema();
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".into(), fact.about.into());
    }
    schema
}

/// A step: exactly one kind, and the keys of that kind. The kinds stand as `if` and `then`, so that an editor complains about
/// the key that is wrong and not about all kinds at once.
fn body() -> Value {
    let words: Map<String, Value> = KINDS
        .iter()
        .map(|k| (k.word.to_owned(), json!({"description": fact_of_step(k.word, k.word).map_or("", |f| f.about)})))
        .collect();
    let one: Vec<Value> = KINDS.iter().map(|k| json!({"required": [k.word]})).collect();
    let each: Vec<Value> = KINDS
        .iter()
        .map(|k| json!({"if": {"required": [k.word]}, "then": {"$ref": format!("#/$defs/step_{}", k.word)}}))
        .collect();
    json!({"type": "object", "properties": words, "oneOf": one, "allOf": each})
}
