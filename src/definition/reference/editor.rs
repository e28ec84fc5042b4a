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
        defs.insert(owner.into(), mapping(&keys_of(owner), |key| fact(owner, key)));
    }
    for kind in &KINDS {
        defs.insert(
            format!("step_{}", kind.word),
            mapping(&keys_of_step(kind.word), |key| fact_of_step(kind.word, key)),
        );
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
