//! JSON Schemas, compiled at load.

use std::fmt;

use serde_json::{Value, json};

use crate::model::{Failure, code};

/// A compiled JSON Schema (draft 2020-12 unless it says otherwise; `$ref` only inside itself).
pub struct Schema {
    source: Value,
    validator: jsonschema::Validator,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.source)
    }
}

impl Schema {
    /// Compiles a schema. One that only names `properties` or `required` means an object.
    ///
    /// # Errors
    /// Everything that is wrong with the schema, and where in it.
    pub fn compile(mut source: Value) -> Result<Self, Vec<(String, String)>> {
        if let Value::Object(map) = &mut source
            && !map.contains_key("type")
            && ["properties", "required", "additionalProperties"].iter().any(|k| map.contains_key(*k))
        {
            map.insert("type".into(), "object".into());
        }
        match jsonschema::options().should_validate_formats(true).build(&source) {
            Ok(validator) => Ok(Self { source, validator }),
            Err(e) => {
                let first = (told(&e), e.instance_path().to_string());
                let all = mistakes(&source);
                Err(if all.contains(&first) { all } else { vec![first] })
            }
        }
    }

    /// The schema as JSON.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The names that the schema gives to an object's properties; `None` where it leaves them open (it refers
    /// elsewhere, combines, or names none).
    pub(super) fn names(&self) -> Option<Vec<&str>> {
        let map = self.source.as_object()?;
        let open = ["$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "additionalProperties"];
        if open.iter().any(|k| map.get(*k).is_some_and(|v| *v != Value::Bool(false))) {
            return None;
        }
        let properties = map.get("properties")?.as_object()?;
        let required = map.get("required").and_then(Value::as_array);
        let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
        names.extend(required.into_iter().flatten().filter_map(Value::as_str));
        Some(names)
    }

    /// Holds a value against the schema. Messages name places and rules, never the values: they may be secret.
    ///
    /// # Errors
    /// A permanent failure of the given code; its details list the first errors.
    pub fn validate(&self, value: &Value, code: &'static str) -> Result<(), Failure> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let errors: Vec<(String, String)> = self
            .validator
            .iter_errors(value)
            .take(10)
            .map(|e| (e.instance_path().to_string(), e.masked_with("it").to_string()))
            .collect();
        let subject = if code == code::INVALID_INPUT { "the input" } else { "the output" };
        let listed: Vec<String> = errors
            .iter()
            .take(3)
            .map(|(path, message)| match path.as_str() {
                "" => message.clone(),
                path => format!("{path}: {message}"),
            })
            .collect();
        let details: Vec<Value> =
            errors.iter().map(|(path, message)| json!({"path": path, "message": message})).collect();
        let message = format!("{subject} does not match its schema: {}", listed.join("; "));
        Err(Failure::permanent(code, message).with_details(json!({"errors": details})))
    }
}

fn told(error: &jsonschema::ValidationError<'_>) -> String {
    match error.to_string() {
        // Nothing is fetched: a definition must mean the same tomorrow, and on every host.
        m if m.contains("is not present in a registry") => {
            "a `$ref` leads out of it; refer to a part of the schema itself, such as `#/$defs/part`".to_owned()
        }
        m => m,
    }
}

/// What is wrong with the form of a schema that names no draft of its own.
fn mistakes(source: &Value) -> Vec<(String, String)> {
    if source.get("$schema").is_some() {
        return Vec::new();
    }
    let form = jsonschema::draft202012::meta::validator();
    form.iter_errors(source).map(|e| (told(&e), e.instance_path().to_string())).collect()
}
