//! JSON Schemas of definitions and of tools, and what is held against them.

use serde_json::Value;
use stepd::definition::Schema;
use stepd::model::code;

use super::{Form, Fuzzed, Target, fields, joined};

pub const TARGET: Target = Target {
    name: "schema",
    what: "JSON Schemas, and values held against them",
    weight: 3,
    forms: &[Form::Json, Form::Json],
    words: &[
        "type",
        "properties",
        "required",
        "items",
        "prefixItems",
        "pattern",
        "patternProperties",
        "format",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "$ref",
        "$defs",
        "$id",
        "$schema",
        "$dynamicRef",
        "$anchor",
        "#",
        "#/$defs/a",
        "minimum",
        "multipleOf",
        "maxLength",
        "uniqueItems",
        "additionalProperties",
        "unevaluatedProperties",
        "contains",
        "minContains",
        "dependentSchemas",
        "propertyNames",
        "date-time",
        "email",
        "uri",
        "regex",
        "ipv6",
        "uuid",
        "duration",
        "idn-email",
        "(a+)+$",
        "((a{100}){100}){100}",
        "(?=a)",
        "\\1",
        "[",
        "file:///etc/passwd",
        "http://127.0.0.1/s",
        "object",
        "string",
        "integer",
    ],
    make: || Box::new(Schemas),
};

const SCHEMAS: &[(&str, &str)] = &[
    (r#"{"required": ["a"], "properties": {"a": {"type": "integer", "minimum": 1}}}"#, r#"{"a": 0}"#),
    (r##"{"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}"##, "[[], [[]]]"),
    (r#"{"type": "string", "pattern": "^[a-z]+(-[a-z]+)*$", "maxLength": 20, "format": "hostname"}"#, r#""a-b-c""#),
    (r#"{"oneOf": [{"const": 1}, {"enum": ["a", null, {"b": 1}]}], "not": {"type": "boolean"}}"#, r#"{"b": 1}"#),
    (
        r#"{"type": "array", "uniqueItems": true, "prefixItems": [{"format": "date-time"}], "contains": {"type": "number", "multipleOf": 0.1}}"#,
        r#"["2026-01-01T00:00:00Z", 0.3]"#,
    ),
    (
        r#"{"type": "object", "patternProperties": {"^x-": {"format": "email"}}, "additionalProperties": false, "propertyNames": {"maxLength": 3}}"#,
        r#"{"x-a": "a@b"}"#,
    ),
    (
        r#"{"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"maxProperties": 1}, "dependentSchemas": {"c": {"minProperties": 2}}}"#,
        r#"{"a": 1, "c": 2}"#,
    ),
];

struct Schemas;

impl Fuzzed for Schemas {
    fn seeds(&self) -> Vec<Vec<u8>> {
        SCHEMAS.iter().map(|(schema, value)| joined(&[schema, value])).collect()
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let [schema, value] = fields(input);
        let Ok(schema) = serde_json::from_str::<Value>(&schema) else { return Ok(()) };
        let value: Value = serde_json::from_str(&value).unwrap_or_else(|_| value.into());
        if let Ok(schema) = Schema::compile(schema)
            && let Err(misfit) = schema.validate(&value, code::INVALID_INPUT)
            && misfit.message.len() > 100_000
        {
            return Err(format!("a message of {} bytes", misfit.message.len()));
        }
        Ok(())
    }
}
