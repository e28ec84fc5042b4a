//! What a definition calls outside: tools and models, for a check against what there is.

use serde_json::{Value, json};

use crate::expression::Template;
use crate::model::code;

use super::schema::Schema;
use super::spec::{Definition, Kind, Params, Step};

/// A tool that a step calls, or that an agent may call.
#[derive(Debug)]
pub struct ToolUse<'d> {
    /// The step's id.
    pub step: &'d str,
    /// Where it stands in its file.
    pub line: usize,
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The arguments; `None` where a model chooses them.
    args: Option<Args<'d>>,
}

#[derive(Debug)]
enum Args<'d> {
    /// None are given.
    Nothing,
    Given(&'d Template),
    Constant(&'d Value),
    /// Of an AFU-9 document, with placeholders in their strings.
    Document(&'d Value),
}

impl Definition {
    /// The tools that its steps use, in the order of the file.
    #[must_use]
    pub fn tools(&self) -> Vec<ToolUse<'_>> {
        let mut out = Vec::new();
        each(self, &mut |step, params| match step.kind_name() {
            "mcp" => {
                if let (Some(server), Some(tool)) = (text(params, "server"), text(params, "tool")) {
                    let args = Some(args(params));
                    out.push(ToolUse { step: &step.id, line: step.line, server, tool, args });
                }
            }
            "agent" => {
                let word = |pair: &Value, n: usize| pair.get(n).and_then(Value::as_str).unwrap_or_default().to_owned();
                let tools = constant(params, "tools").and_then(Value::as_array);
                let used = |p: &Value| ToolUse {
                    step: &step.id,
                    line: step.line,
                    server: word(p, 0),
                    tool: word(p, 1),
                    args: None,
                };
                out.extend(tools.into_iter().flatten().filter(|tool| tool.is_array()).map(used));
            }
            _ => {}
        });
        let steps = self.document.iter().flat_map(|document| &document.steps);
        out.extend(steps.filter_map(|step| {
            let (server, tool) = step.target().ok()?;
            let (server, tool, args) = (server.to_owned(), tool.to_owned(), Some(Args::Document(&step.params)));
            Some(ToolUse { step: &step.key, line: step.line, server, tool, args })
        }));
        out
    }

    /// The models that its steps ask, each with the step.
    #[must_use]
    pub fn models(&self) -> Vec<(&Step, String)> {
        let mut out = Vec::new();
        each(self, &mut |step, params| {
            if let ("llm" | "agent", Some(model)) = (step.kind_name(), text(params, "model")) {
                out.push((step, model));
            }
        });
        out
    }
}

fn each<'d>(definition: &'d Definition, f: &mut dyn FnMut(&'d Step, &'d Template)) {
    definition.each(&mut |step| {
        if let Kind::Task { params: Params::Object(params), .. } = &step.kind {
            f(step, params);
        }
    });
}

fn constant<'d>(params: &'d Template, name: &str) -> Option<&'d Value> {
    match params {
        Template::Constant(value) => value.get(name),
        Template::Object(entries) => entries.iter().find(|(key, _)| key == name)?.1.as_constant(),
        Template::Value(_) | Template::Text(_) | Template::Array(_) => None,
    }
}

fn text(params: &Template, name: &str) -> Option<String> {
    constant(params, name).and_then(Value::as_str).map(str::to_owned)
}

fn args(params: &Template) -> Args<'_> {
    match params {
        Template::Object(entries) => match entries.iter().find(|(key, _)| key == "args") {
            Some((_, template)) => template.as_constant().map_or(Args::Given(template), Args::Constant),
            None => Args::Nothing,
        },
        other => constant(other, "args").map_or(Args::Nothing, Args::Constant),
    }
}

impl ToolUse<'_> {
    /// What is wrong with the arguments, as far as the file tells them, by the tool's own schema.
    #[must_use]
    pub fn mistakes(&self, schema: &Value) -> Vec<String> {
        match &self.args {
            None => Vec::new(),
            Some(Args::Nothing) => whole(&json!({}), schema),
            Some(Args::Constant(value)) => whole(value, schema),
            Some(Args::Given(Template::Object(entries))) => {
                parts(&entries.iter().map(|(key, value)| (key, value.as_constant())).collect::<Vec<_>>(), schema)
            }
            Some(Args::Document(Value::Object(entries))) => {
                let known = |value: &&Value| !value.to_string().contains("${");
                parts(&entries.iter().map(|(key, value)| (key, Some(value).filter(known))).collect::<Vec<_>>(), schema)
            }
            Some(Args::Document(_)) => whole(&json!({}), schema),
            // One expression gives them all: only the run knows.
            Some(Args::Given(_)) => Vec::new(),
        }
    }
}

fn whole(value: &Value, schema: &Value) -> Vec<String> {
    // A schema that cannot be compiled is the server's mistake.
    let Ok(schema) = Schema::compile(schema.clone()) else { return Vec::new() };
    let wrong = schema.validate(value, code::SCHEMA_MISMATCH).err();
    wrong.map(|failure| failure.message.replacen("the output does not match its schema: ", "", 1)).into_iter().collect()
}

/// Where some values are only known in a run: the names, and the values that stand in the file.
fn parts(entries: &[(&String, Option<&Value>)], schema: &Value) -> Vec<String> {
    let has = |name: &str| entries.iter().any(|(key, _)| *key == name);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut wrong: Vec<String> =
        required.filter(|name| !has(name)).map(|name| format!("{name:?} is a required property")).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, value) in entries {
        match properties.and_then(|all| all.get(*name)) {
            Some(property) => {
                let mistakes = value.map(|value| whole(value, property)).unwrap_or_default();
                wrong.extend(mistakes.into_iter().map(|mistake| format!("/{name}: {mistake}")));
            }
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                wrong.push(format!("there is no property {name:?}"));
            }
            None => {}
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(args: &str) -> Vec<String> {
        let file = format!("name: a\nsteps:\n  - id: one\n    mcp: store.put\n    {args}\n");
        let definition = super::super::load("a.yaml", &file).unwrap_or_else(|e| panic!("{e}"));
        let schema = json!({"type": "object", "required": ["key", "n"], "additionalProperties": false,
            "properties": {"key": {"type": "string"}, "n": {"type": "integer"}}});
        let tools = definition.tools();
        assert_eq!((tools[0].server.as_str(), tools[0].tool.as_str()), ("store", "put"));
        tools[0].mistakes(&schema)
    }

    #[test]
    fn arguments_are_checked_as_far_as_the_file_tells_them() {
        assert_eq!(mistakes("args: {key: a, n: 1}"), [""; 0]);
        assert_eq!(mistakes("args: {key: \"${{ input.k }}\", n: 1}"), [""; 0]);
        assert_eq!(mistakes("args: \"${{ input }}\""), [""; 0]);
        assert!(mistakes("label: run.id")[0].contains("required"), "{:?}", mistakes("label: run.id"));
        let wrong = mistakes("args: {kez: \"${{ input.k }}\", n: x}");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].contains("\"key\" is a required property") && wrong[1].contains("\"kez\""), "{wrong:?}");
        assert!(wrong[2].starts_with("/n: "), "{wrong:?}");
    }

    #[test]
    fn tools_and_models_are_found_in_maps_and_agents() {
        let file = "name: a\nsteps:\n  - id: m\n    map: [1]\n    steps: [{id: one, mcp: a.b}, {id: two, llm: small, prompt: x}]\n  - {id: g, agent: large, prompt: y, tools: [c.d, e.f.g]}\n";
        let definition = super::super::load("a.yaml", file).unwrap_or_else(|e| panic!("{e}"));
        let tools: Vec<String> = definition.tools().iter().map(|t| format!("{}/{}", t.server, t.tool)).collect();
        assert_eq!(tools, ["a/b", "c/d", "e/f.g"]);
        let models: Vec<String> = definition.models().into_iter().map(|(_, model)| model).collect();
        assert_eq!(models, ["small", "large"]);
    }
}
