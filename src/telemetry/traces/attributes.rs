//! The attributes of spans: by the semantic conventions, and beside them what LangSmith and Langfuse read of their own.

use serde_json::{Map, Value, json};

use crate::model::{Call, TracedRun, Usage};

use super::otlp::{KeyValue, attribute};
use super::spans::{Style, Vendor};

/// What a span is to those who look at models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Chain,
    Agent,
    Tool,
    Model,
}

/// The word for it that a vendor reads.
pub(super) fn sort(style: &Style, sort: Sort, out: &mut Vec<KeyValue>) {
    match style.vendor {
        Vendor::Plain => {}
        Vendor::LangSmith => {
            let word = match sort {
                Sort::Chain | Sort::Agent => "chain",
                Sort::Tool => "tool",
                Sort::Model => "llm",
            };
            out.push(attribute("langsmith.span.kind", word));
        }
        Vendor::Langfuse => {
            let word = match sort {
                Sort::Chain => "chain",
                Sort::Agent => "agent",
                Sort::Tool => "tool",
                Sort::Model => "generation",
            };
            out.push(attribute("langfuse.observation.type", word));
        }
    }
}

/// What each span of a run carries: Langfuse looks for it on every one, and LangSmith filters by it.
pub(super) fn everywhere(style: &Style, run: &TracedRun) -> Vec<KeyValue> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let own = [("workflow", run.workflow.clone()), ("queue", run.queue.clone()), ("run_id", run.id.to_string())];
    let labels = run.labels.as_object().into_iter().flatten();
    // A label that is called as what stepd says itself would say it twice.
    let labels = labels.filter(|(name, _)| own.iter().all(|(known, _)| known != name));
    let labels: Vec<_> = labels.map(|(name, value)| (name.as_str(), text(value))).collect();
    let metadata = |prefix: &'static str| {
        own.iter().chain(&labels).map(move |(name, value)| attribute(format!("{prefix}.{name}"), value.as_str()))
    };
    let mut all = Vec::new();
    if let Some(session) = run.session.as_deref() {
        all.extend([attribute("session.id", session), attribute("gen_ai.conversation.id", session)]);
    }
    match style.vendor {
        Vendor::Plain => {}
        Vendor::LangSmith => {
            all.extend(metadata("langsmith.metadata").filter(|a| a.key != "langsmith.metadata.thread_id"));
            all.extend(run.session.as_deref().map(|session| attribute("langsmith.metadata.thread_id", session)));
            all.push(attribute("langsmith.span.tags", format!("stepd,{}", run.workflow)));
        }
        Vendor::Langfuse => {
            all.extend(metadata("langfuse.trace.metadata"));
            all.extend(run.session.as_deref().map(|session| attribute("langfuse.session.id", session)));
            all.push(attribute("langfuse.trace.name", run.workflow.as_str()));
            all.push(attribute("langfuse.trace.tags", json!(["stepd", run.workflow])));
        }
    }
    all
}

/// What went in and what came out.
pub(super) fn contents(style: &Style, input: Option<&str>, output: Option<&str>, out: &mut Vec<KeyValue>) {
    if !style.content {
        return;
    }
    let (ins, outs) = match style.vendor {
        Vendor::Langfuse => ("langfuse.observation.input", "langfuse.observation.output"),
        Vendor::Plain | Vendor::LangSmith => ("input.value", "output.value"),
    };
    out.extend(input.map(|text| attribute(ins, text)));
    out.extend(output.map(|text| attribute(outs, text)));
}

/// What a step or an attempt has used of models. The calls themselves carry it by the conventions: where it stood twice, it would be
/// counted twice.
pub(super) fn usage(usage: &Usage, out: &mut Vec<KeyValue>) {
    out.extend([
        attribute("stepd.usage.calls", usage.calls),
        attribute("stepd.usage.tokens_in", usage.tokens_in),
        attribute("stepd.usage.tokens_out", usage.tokens_out),
        attribute("stepd.usage.cost", usage.cost),
    ]);
}

/// All of a call; and what sort of thing it is.
pub(super) fn call(style: &Style, call: &Call, out: &mut Vec<KeyValue>) {
    let said = &call.attributes;
    let kind = match said.get("gen_ai.operation.name").and_then(Value::as_str) {
        Some("chat") => Sort::Model,
        Some("execute_tool") => Sort::Tool,
        _ => Sort::Chain,
    };
    sort(style, kind, out);
    out.extend(said.iter().map(|(name, value)| attribute(name.as_str(), value.clone())));
    if kind == Sort::Model {
        model(style, said, out);
    }
    let (input, output) = (call.input.as_deref(), call.output.as_deref());
    match (style.vendor, kind) {
        _ if !style.content => {}
        (Vendor::Plain, Sort::Model) => {
            out.extend(input.map(|text| attribute("gen_ai.input.messages", messages(text))));
            out.extend(output.map(|text| attribute("gen_ai.output.messages", messages(text))));
        }
        (Vendor::LangSmith, Sort::Model) => {
            out.extend(input.map(|text| attribute("gen_ai.prompt", text)));
            out.extend(output.map(|text| attribute("gen_ai.completion", text)));
        }
        (Vendor::Plain, Sort::Tool) => {
            out.extend(input.map(|text| attribute("gen_ai.tool.call.arguments", text)));
            out.extend(output.map(|text| attribute("gen_ai.tool.call.result", text)));
        }
        _ => contents(style, input, output, out),
    }
}

/// What vendors read of a model's call in words of their own.
fn model(style: &Style, said: &Map<String, Value>, out: &mut Vec<KeyValue>) {
    let number = |name: &str| said.get(name).and_then(Value::as_u64);
    let tokens = (number("gen_ai.usage.input_tokens"), number("gen_ai.usage.output_tokens"));
    match style.vendor {
        Vendor::Plain => {}
        Vendor::LangSmith => {
            if let (Some(input), Some(output)) = tokens {
                out.push(attribute("gen_ai.usage.total_tokens", input + output));
            }
        }
        Vendor::Langfuse => {
            let name = said.get("gen_ai.response.model").or_else(|| said.get("gen_ai.request.model"));
            out.extend(name.map(|name| attribute("langfuse.observation.model.name", name.clone())));
            if let (Some(input), Some(output)) = tokens {
                let details = json!({"input": input, "output": output, "total": input + output});
                out.push(attribute("langfuse.observation.usage_details", details.to_string()));
            }
            if let Some(cost) = said.get("gen_ai.usage.cost") {
                out.push(attribute("langfuse.observation.cost_details", json!({"total": cost}).to_string()));
            }
        }
    }
}

/// Messages of a chat completion, in the form of the conventions: `[{role, parts: [{type, content}]}]`.
fn messages(text: &str) -> String {
    let Ok(Value::Array(list)) = serde_json::from_str(text) else { return text.to_owned() };
    let text_part = |text: &Value| json!({"type": "text", "content": text});
    let one = |message: Value| {
        let mut parts = Vec::new();
        match (&message["content"], message["tool_call_id"].as_str()) {
            (result, Some(id)) => parts.push(json!({"type": "tool_call_response", "id": id, "response": result})),
            (Value::Null, None) => {}
            (Value::Array(given), None) => parts.extend(given.iter().filter_map(|p| p.get("text")).map(text_part)),
            (content, None) => parts.push(text_part(content)),
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            parts.push(json!({"type": "tool_call", "id": call["id"], "name": function["name"], "arguments": function["arguments"]}));
        }
        json!({"role": message["role"], "parts": parts})
    };
    Value::Array(list.into_iter().map(one).collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_in_the_words_of_the_conventions() {
        let said = json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "3"},
        ]);
        let told: Value = serde_json::from_str(&messages(&said.to_string())).unwrap();
        assert_eq!(told[0], json!({"role": "user", "parts": [{"type": "text", "content": "hi"}]}));
        assert_eq!(told[1]["parts"], json!([{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}]));
        assert_eq!(told[2]["parts"], json!([{"type": "tool_call_response", "id": "c", "response": "3"}]));
        assert_eq!(messages("cut of"), "cut of");
    }
}
