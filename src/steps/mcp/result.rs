//! What an answer means for the step.

use serde_json::{Value, json};

use crate::model::{Failure, code};
use crate::steps::step::StepOutput;

use super::message::RpcError;
use super::server::Tool;

/// Characters of a tool's own words in a failure's message.
const WORDS: usize = 500;

/// The output of a call that was answered, or the failure that the tool speaks of.
pub(super) fn output(server: &str, tool: &str, mut result: Value) -> Result<StepOutput, Failure> {
    let content = result.get_mut("content").map_or_else(|| json!([]), Value::take);
    let first = content.as_array().and_then(|all| all.iter().find_map(|c| c.get("text")?.as_str()));
    if result.get("isError").and_then(Value::as_bool) == Some(true) {
        let said: String = first.unwrap_or("no reason given").chars().take(WORDS).collect();
        let details = json!({"server": server, "tool": tool, "content": content});
        let message = format!("the tool `{server}.{tool}` failed: {said}");
        return Err(Failure::permanent(code::TOOL_ERROR, message).with_details(details));
    }
    let structured = result.get_mut("structuredContent").map_or(Value::Null, Value::take);
    let default = match &structured {
        Value::Null => first.map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| text.into())),
        value => lone(value).unwrap_or(value).clone(),
    };
    Ok(StepOutput { raw: json!({"structured": structured, "content": content}), default })
}

/// What is wrapped in `{"result": …}`, as servers do with what is no object.
fn lone(value: &Value) -> Option<&Value> {
    value.as_object().filter(|object| object.len() == 1)?.get("result")
}

/// The failure of a JSON-RPC error.
pub(super) fn refused(server: &str, what: &str, error: &RpcError, afu9: bool) -> Failure {
    let said: String = error.message.chars().take(WORDS).collect();
    if afu9 && error.code == -32000 {
        // How that dialect says what others say with `isError`.
        let failure = Failure::permanent(code::TOOL_ERROR, format!("the tool `{server}.{what}` failed: {said}"));
        return failure.with_details(details(error));
    }
    let message = format!("the MCP server `{server}` refused `{what}`: {said} ({})", error.code);
    let failure = match error.code {
        // Not what JSON-RPC calls internal, nor the wide field of servers' own codes: those may pass.
        -32700 | -32603 | -32099..=-32000 if !(-32022..=-32020).contains(&error.code) => {
            Failure::transient(code::MCP, message)
        }
        _ => Failure::permanent(code::MCP, message),
    };
    failure.with_details(details(error))
}

pub(super) fn details(error: &RpcError) -> Value {
    json!({"code": error.code, "message": error.message, "data": error.data})
}

/// The failure of a tool that is not there.
pub(super) fn unknown(server: &str, tool: &str, tools: &[Tool]) -> Failure {
    let names: Vec<&str> = tools.iter().map(|t| t.name.as_str()).collect();
    let help = match crate::expression::nearest(tool, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it has: {}", names.join(", ")),
    };
    Failure::permanent(code::UNKNOWN_TOOL, format!("the MCP server `{server}` has no tool `{tool}`; {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Class;

    fn default(result: Value) -> Value {
        output("s", "t", result).unwrap().default
    }

    #[test]
    fn the_output_is_what_is_structured_else_the_first_text() {
        let text = |text: &str| json!({"content": [{"type": "image"}, {"type": "text", "text": text}]});
        assert_eq!(default(json!({"structuredContent": {"total": 3}, "content": []})), json!({"total": 3}));
        assert_eq!(default(json!({"structuredContent": {"result": [1]}})), json!([1]));
        assert_eq!(default(json!({"structuredContent": {"result": null}})), Value::Null);
        assert_eq!(default(json!({"structuredContent": {"result": 1, "more": 2}})), json!({"result": 1, "more": 2}));
        assert_eq!(
            default(text("{\"a\": 123456789012345678901234567890}")).to_string(),
            "{\"a\":123456789012345678901234567890}"
        );
        assert_eq!(default(text("plain")), json!("plain"));
        assert_eq!(default(json!({"content": []})), Value::Null);
        assert_eq!(default(json!({})), Value::Null);
    }

    #[test]
    fn a_tools_own_error_is_final_and_a_servers_may_pass() {
        let failure =
            output("s", "t", json!({"isError": true, "content": [{"type": "text", "text": "no"}]})).unwrap_err();
        assert_eq!((failure.class, &*failure.code), (Class::Permanent, "tool_error"));
        let class = |code| refused("s", "t", &RpcError { code, message: "x".into(), data: Value::Null }, false).class;
        for (code, expected) in [
            (-32601, Class::Permanent),
            (-32602, Class::Permanent),
            (-32603, Class::Transient),
            (-32000, Class::Transient),
            (-32021, Class::Permanent),
        ] {
            assert_eq!(class(code), expected, "{code}");
        }
    }
}
