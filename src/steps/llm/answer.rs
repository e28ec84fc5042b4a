//! From a response to the model's answer, or to what is wrong.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::model::{Failure, Usage, code};
use crate::steps::calls::Calling;
use crate::steps::http;
use crate::steps::step::StepOutput;

/// What a call may say of its tokens, far above what any can have: the sums over all calls of all runs stay numbers.
const MOST_TOKENS: u64 = 1_000_000_000;

/// Characters of an answer that are kept in a failure's details.
const EXCERPT: usize = 4_000;

/// An answer.
#[derive(Debug)]
pub(super) struct Completion {
    pub text: String,
    /// As it stands in the conversation.
    pub message: Value,
    /// Of this one call; its cost is the profile's to say.
    pub usage: Usage,
    /// It ended because no more tokens were allowed.
    pub cut: bool,
    /// The answer's id, the model that gave it, and why it ended.
    facts: [(&'static str, Value); 3],
}

impl Completion {
    /// The step's result; `used` is of all calls of the attempt.
    pub(super) fn output(self, json: Value, used: &Usage) -> StepOutput {
        let default = if json.is_null() { Value::String(self.text.clone()) } else { json.clone() };
        let usage = serde_json::to_value(used).unwrap_or_default();
        let raw = json!({"text": self.text, "json": json, "usage": usage, "message": self.message});
        StepOutput { raw, default }
    }

    /// The answer, for the call's trace.
    pub(super) fn describe(&self, call: &mut Calling) {
        for (name, value) in self.facts.iter().filter(|(_, value)| !value.is_null()) {
            call.set(name, value.clone());
        }
        call.set("gen_ai.usage.input_tokens", self.usage.tokens_in);
        call.set("gen_ai.usage.output_tokens", self.usage.tokens_out);
        call.set("gen_ai.usage.cost", self.usage.cost);
        call.output(|| Value::Array(vec![self.message.clone()]).to_string());
    }

    pub(super) fn excerpt(&self) -> String {
        self.text.chars().take(EXCERPT).collect()
    }
}

/// Reads an answer. One that was withheld is an answer, too: it is paid for.
pub(super) fn read(place: &str, bytes: &[u8]) -> Result<(Completion, Option<Failure>), Failure> {
    // Transient: balancers in front of a model answer with pages of their own when it is busy.
    let strange = |why: &str| {
        let said: String = String::from_utf8_lossy(bytes).chars().take(EXCERPT).collect();
        let failure = Failure::transient(code::INVALID_JSON, format!("{place} gave no chat completion: {why}"));
        failure.with_details(json!({"body": said}))
    };
    let said: Value = serde_json::from_slice(bytes).map_err(|error| strange(&error.to_string()))?;
    let choice = said.pointer("/choices/0").ok_or_else(|| strange("there is no `choices[0]`"))?;
    let message = choice.get("message").filter(|m| m.is_object()).ok_or_else(|| strange("there is no `message`"))?;
    let finish = choice.get("finish_reason").and_then(Value::as_str).unwrap_or_default();
    let count = |name: &str| said.pointer(name).and_then(Value::as_u64).unwrap_or(0).min(MOST_TOKENS);
    let usage = Usage {
        tokens_in: count("/usage/prompt_tokens"),
        tokens_out: count("/usage/completion_tokens"),
        // The one word is OpenAI's, the other DeepSeek's; both are part of the prompt's.
        tokens_cached: count("/usage/prompt_tokens_details/cached_tokens").max(count("/usage/prompt_cache_hit_tokens")),
        ..Usage::default()
    };
    let refusal = message.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty());
    let withheld = match (finish, refusal) {
        (_, Some(text)) => Some(format!("{place} declined to answer: {}", text.chars().take(500).collect::<String>())),
        ("content_filter", None) => Some(format!("{place} withheld its answer: the provider's content filter")),
        _ => None,
    };
    let withheld = withheld.map(|message| Failure::permanent(code::CONTENT_FILTERED, message));
    let text = content(message.get("content"));
    let fact = |name: &str| said.get(name).filter(|v| v.is_string()).cloned().unwrap_or_default();
    let finished = if finish.is_empty() { Value::Null } else { json!([finish]) };
    let facts = [
        ("gen_ai.response.id", fact("id")),
        ("gen_ai.response.model", fact("model")),
        ("gen_ai.response.finish_reasons", finished),
    ];
    Ok((Completion { text, message: kept(message), usage, cut: finish == "length", facts }, withheld))
}

/// What the conversation needs of a message.
fn kept(message: &Value) -> Value {
    let mut kept = json!({"role": "assistant", "content": message.get("content").cloned().unwrap_or_default()});
    if let Some(calls) = message.get("tool_calls").filter(|calls| calls.as_array().is_some_and(|c| !c.is_empty())) {
        kept["tool_calls"] = calls.clone();
    }
    kept
}

/// Text, or a list of parts with text.
fn content(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// JSON that a model has put into a code block.
pub(crate) fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inner.map_or(text, |inner| inner.strip_prefix("json").unwrap_or(inner).trim())
}

/// The failure of a status that is no success.
pub(super) fn refused(place: &str, status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Failure {
    let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let error = said.get("error").unwrap_or(&said);
    let word = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, text) = (format!("{} {}", word("code"), word("type")).to_lowercase(), word("message"));
    let about = |code: &'static str| {
        let message = format!("{place} refused: {}", text.chars().take(500).collect::<String>());
        Failure::permanent(code, message).with_details(json!({"status": status.as_u16(), "error": error}))
    };
    let lower = text.to_lowercase();
    match status.as_u16() {
        // An account without money is told by the same status as a busy one.
        429 if kind.contains("insufficient_quota") => about("http_429"),
        429 => {
            let mut failure = Failure { class: crate::model::Class::Transient, ..about(code::RATE_LIMITED) };
            failure.retry_after_ms = http::retry_after(headers);
            failure
        }
        400..=422
            if kind.contains("context_length")
                || lower.contains("context length")
                || lower.contains("context window") =>
        {
            about(code::CONTEXT_TOO_LONG)
        }
        400..=422 if kind.contains("content_filter") || kind.contains("content_policy") => {
            about(code::CONTENT_FILTERED)
        }
        _ => {
            let excerpt = &bytes[..bytes.len().min(64 << 10)];
            let mut failure = http::unsuccessful(place, status, headers, excerpt);
            if !text.is_empty() {
                failure.message = format!("{}: {}", failure.message, text.chars().take(500).collect::<String>());
            }
            failure
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_call_can_have_used_is_not_counted() {
        let said = r#"{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 18446744073709551615, "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 18446744073709551615}}}"#;
        let (completion, withheld) = read("m", said.as_bytes()).unwrap();
        let usage = completion.usage;
        assert!(withheld.is_none());
        assert_eq!((usage.tokens_in, usage.tokens_out, usage.tokens_cached), (MOST_TOKENS, 7, MOST_TOKENS));
    }
}
