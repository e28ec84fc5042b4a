//! The forms that a value may have, each as JSON Schema and in a word.

use serde_json::{Value, json};

/// The form of a key's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Any value; its strings may hold `${{ }}`.
    Any,
    /// The name of a workflow or a queue.
    Name,
    /// The id of a step.
    Id,
    /// Text that may hold `${{ }}`.
    Text,
    /// Text that may not.
    Plain,
    /// Code: text that may not hold `${{ }}`, because data must not become code.
    Script,
    /// A duration.
    Duration,
    /// A duration, or `${{ }}` that gives one.
    Pause,
    /// A whole number within bounds.
    Whole(u64, u64),
    /// A number from 0 to 1.
    Share,
    /// One of some words.
    Word(&'static [&'static str]),
    /// A bare expression.
    Expression,
    /// A mapping from names to text.
    Texts,
    /// A mapping whose values may hold `${{ }}`.
    Mapping,
    /// A list whose items may hold `${{ }}`.
    List,
    /// A program and its arguments.
    Arguments,
    /// A list, or `${{ }}` that gives one.
    Items,
    /// Ids of steps.
    Needs,
    /// Failure codes.
    Codes,
    /// A number, or a percentage.
    Tolerate,
    /// A JSON Schema.
    Schema,
    /// At least one step.
    Steps,
    /// Steps whose ids may be left out.
    Handlers,
    /// One step without an id.
    Body,
    /// A tool of a configured server.
    Tool,
    /// Names of tools.
    Tools,
    /// One or more paths into the input.
    Keys,
    /// True or false.
    Flag,
    /// A number above 0.
    Amount,
    /// A whole number with a unit of bytes.
    Size,
    /// A whole number with a unit of processor time.
    CpuTime,
    /// `active`, `forever`, or a duration.
    While,
    /// A mapping with keys of its own.
    Of(&'static str),
    /// One word, or that mapping.
    WordOr(&'static str, &'static str),
}

const DURATION: &str = "^[0-9]+(ms|s|m|h|d)$";
const EXPRESSION: &str = "\\$\\{\\{";

impl Shape {
    /// As JSON Schema.
    pub(super) fn schema(self) -> Value {
        let scalar = json!({"type": ["string", "number", "boolean", "null"]});
        let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
        match self {
            Self::Any => json!({}),
            Self::Name => text("^[A-Za-z][A-Za-z0-9_.-]{0,62}$"),
            Self::Id => text("^[a-z][a-z0-9_]{0,62}$"),
            Self::Text | Self::Plain => json!({"type": "string"}),
            Self::Script => json!({"type": "string", "not": {"pattern": EXPRESSION}}),
            Self::Duration => text(DURATION),
            Self::Pause => json!({"type": "string", "anyOf": [{"pattern": DURATION}, {"pattern": EXPRESSION}]}),
            Self::Whole(from, to) => json!({"type": "integer", "minimum": from, "maximum": to}),
            Self::Share => json!({"type": "number", "minimum": 0, "maximum": 1}),
            Self::Word(words) => json!({"enum": words}),
            Self::Expression => json!({"type": ["string", "boolean", "number"]}),
            Self::Texts => json!({"type": "object", "additionalProperties": scalar}),
            Self::Mapping => json!({"type": "object"}),
            Self::List => json!({"type": "array"}),
            Self::Arguments => json!({"type": "array", "minItems": 1, "items": scalar}),
            Self::Items => json!({"anyOf": [{"type": "array"}, {"type": "string", "pattern": EXPRESSION}]}),
            Self::Needs => {
                json!({"anyOf": [Self::Id.schema(), {"type": "array", "uniqueItems": true, "items": Self::Id.schema()}]})
            }
            Self::Codes => json!({"type": "array", "items": text("^[A-Za-z0-9_]+$")}),
            Self::Tolerate => json!({"anyOf": [Self::Whole(0, 1_000_000).schema(), text("^(100|[0-9]{1,2})%$")]}),
            Self::Schema => json!({"type": ["object", "boolean"]}),
            Self::Steps => json!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}),
            Self::Handlers => json!({"type": "array", "minItems": 1, "items": Self::Body.schema()}),
            Self::Body => json!({"$ref": "#/$defs/body"}),
            Self::Tool => text("^[a-z][a-z0-9_-]*\\..+$"),
            Self::Tools => {
                let workflow = json!({"type": "object", "required": ["workflow"], "additionalProperties": false,
                    "properties": {"workflow": text("."), "description": {"type": "string"}, "input": Self::Schema.schema()}});
                json!({"type": "array", "minItems": 1, "items": {"anyOf": [Self::Tool.schema(), workflow]}})
            }
            Self::Keys => {
                json!({"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]})
            }
            Self::Flag => json!({"type": "boolean"}),
            Self::Amount => json!({"type": "number", "exclusiveMinimum": 0}),
            Self::Size => text("^[0-9]+(KiB|MiB|GiB)$"),
            Self::CpuTime => text("^[0-9]+(s|m|h)$"),
            Self::While => json!({"anyOf": [{"enum": ["active", "forever"]}, text(DURATION)]}),
            // Until the parser's list of keys is known here, any will do.
            Self::Of(owner) | Self::WordOr(_, owner) if super::keys_of(owner).is_empty() => json!({}),
            Self::Of(owner) => json!({"$ref": format!("#/$defs/{owner}")}),
            Self::WordOr(word, owner) => json!({"anyOf": [{"const": word}, {"$ref": format!("#/$defs/{owner}")}]}),
        }
    }

    /// In a word, for people.
    #[cfg(test)]
    pub(super) fn word(self) -> String {
        match self {
            Self::Any => "any value".into(),
            Self::Name => "name".into(),
            Self::Id => "id".into(),
            Self::Text => "text".into(),
            Self::Plain => "text, no `${{ }}`".into(),
            Self::Script => "code, no `${{ }}`".into(),
            Self::Duration => "duration".into(),
            Self::Pause => "duration, or `${{ }}`".into(),
            Self::Whole(from, to) => format!("{from} to {to}"),
            Self::Share => "0 to 1".into(),
            Self::Word(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
            Self::Expression => "expression".into(),
            Self::Texts => "mapping to text".into(),
            Self::Mapping => "mapping".into(),
            Self::List => "list".into(),
            Self::Arguments => "list of arguments".into(),
            Self::Items => "list, or `${{ }}`".into(),
            Self::Needs => "list of ids".into(),
            Self::Codes => "list of codes".into(),
            Self::Tolerate => "number, or percentage".into(),
            Self::Schema => "JSON Schema".into(),
            Self::Steps => "list of steps".into(),
            Self::Handlers => "list of steps, ids optional".into(),
            Self::Body => "a step, without `id`".into(),
            Self::Tool => "`server.tool`".into(),
            Self::Tools => "list of tools".into(),
            Self::Keys => "input path, or a list of them".into(),
            Self::Flag => "`true` or `false`".into(),
            Self::Amount => "number above 0".into(),
            Self::Size => "size, such as `512MiB`".into(),
            Self::CpuTime => "duration, such as `30s`".into(),
            Self::While => "`active`, `forever`, or a duration".into(),
            Self::Of(owner) if super::keys_of(owner).is_empty() => "mapping".into(),
            Self::Of(owner) => format!("mapping, see [{owner}](#{owner})"),
            Self::WordOr(word, owner) => format!("`{word}`, or a mapping, see [{owner}](#{owner})"),
        }
    }
}
