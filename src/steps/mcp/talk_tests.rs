//! Calls of more than one exchange, driven as the engine drives them: what is kept comes back, and questions are answered.

use serde_json::json;
use wiremock::{MockServer, ResponseTemplate};

use super::tests::{at, error, kind, options, result, serving};
use super::*;
use crate::model::Class;
use crate::steps::step::{After, Question, Reply};
use crate::steps::testing;

/// Goes on until the call has ended; `answer` is a person's.
async fn through(mcp: &Mcp, mut answer: impl FnMut(&Question) -> Reply) -> Result<Value, Failure> {
    let (mut cx, _stop) = testing::context();
    for _ in 0..50 {
        match mcp.run(&cx, json!({"server": "s", "tool": "t", "args": {}})).await? {
            Flow::Done(output) => return Ok(output.default),
            Flow::GoOn { keep, after } => {
                cx.reply = match after {
                    After::Now => None,
                    After::Reply(question) => Some(answer(&question)),
                    After::Failure(failure) => return Err(failure),
                    other @ After::Pause { .. } => panic!("{other:?}"),
                };
                cx.kept = Some(keep);
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("it does not end")
}

fn name(_: &Question) -> Reply {
    Reply::Given(json!({"name": "Ann"}))
}

/// A modern server; `answer` is given the method and the parameters.
async fn modern(answer: impl Fn(&str, &Value) -> Result<Value, Value> + Send + Sync + 'static) -> MockServer {
    serving(move |message, _| match message["method"].as_str().unwrap() {
        "server/discover" => result(message, json!({"supportedVersions": ["2026-07-28"]})),
        "tools/list" => result(message, json!({"tools": [{"name": "t"}]})),
        method => match answer(method, &message["params"]) {
            Ok(said) => result(message, said),
            Err(said) => error(200, message, said),
        },
    })
    .await
}

fn asks(key: &str, message: &str) -> Value {
    let schema = json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}});
    json!({
        "resultType": "input_required", "requestState": "s",
        "inputRequests": {key: {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}},
    })
}

#[tokio::test]
async fn a_server_is_told_what_this_client_can_do_and_one_that_asks_for_ever_is_given_up() {
    let server = modern(|_, params| {
        let can = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
        assert_eq!(can, &json!({"elicitation": {"form": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}}}));
        Ok(asks("a", "again"))
    })
    .await;
    let mut asked = 0;
    let failure = through(&kind([("s", at(&server))]), |question| {
        asked += 1;
        name(question)
    })
    .await
    .unwrap_err();
    assert_eq!((failure.class, &*failure.code, asked), (Class::Permanent, "mcp", 1), "the same answer ten times");
    assert!(failure.message.contains("10 times"), "{failure}");
    let server = modern(|_, params| {
        let n = params["inputResponses"].as_object().map_or(0, |all| all.keys().next().unwrap().len());
        Ok(asks(&"k".repeat(n + 1), "another"))
    })
    .await;
    let mut asked = 0;
    let failure = through(&kind([("s", at(&server))]), |question| {
        asked += 1;
        name(question)
    })
    .await
    .unwrap_err();
    assert_eq!((&*failure.code, asked), ("mcp", 10));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_asked_for_again_and_one_to_another_question_is_not_reused() {
    let server = modern(|_, params| match params["inputResponses"]["a"]["content"]["name"].as_str() {
        None => Ok(asks("a", "Name?")),
        Some(_) if params["requestState"] == "s" => Ok(json!({"structuredContent": params["inputResponses"]})),
        Some(_) => panic!("{params}"),
    })
    .await;
    let mut prompts = Vec::new();
    let said = through(&kind([("s", at(&server))]), |question| {
        prompts.push(question.prompt.clone());
        if prompts.len() == 1 { Reply::Given(json!({"name": 3})) } else { name(question) }
    })
    .await
    .unwrap();
    assert_eq!(said, json!({"a": {"action": "accept", "content": {"name": "Ann"}}}));
    assert_eq!(prompts[0], "s.t asks: Name?");
    assert!(prompts[1].contains("cannot be used") && prompts[1].contains("/name"), "{prompts:?}");
    // The same key, but another schema.
    let server =
        modern(|_, params| match (&params["requestState"], params["inputResponses"]["a"]["content"].as_object()) {
            (Value::Null, _) => Ok(asks("a", "Name?")),
            (_, Some(content)) if content.contains_key("age") => Ok(json!({"structuredContent": {"result": "both"}})),
            _ => {
                let mut other = asks("a", "Age?");
                other["inputRequests"]["a"]["params"]["requestedSchema"] =
                    json!({"type": "object", "required": ["age"]});
                Ok(other)
            }
        })
        .await;
    let mut asked = 0;
    let said = through(&kind([("s", at(&server))]), |_| {
        asked += 1;
        Reply::Given(if asked == 1 { json!({"name": "Ann"}) } else { json!({"age": 3}) })
    })
    .await;
    assert_eq!((said.unwrap(), asked), (json!("both"), 2));
}

#[tokio::test]
async fn what_stepd_has_not_offered_is_not_answered() {
    for request in [
        json!({"method": "sampling/createMessage", "params": {}}),
        json!({"method": "elicitation/create", "params": {"mode": "url", "url": "http://x/"}}),
    ] {
        let server =
            modern(move |_, _| Ok(json!({"resultType": "input_required", "inputRequests": {"a": request}}))).await;
        let failure = through(&kind([("s", at(&server))]), |_| panic!("nobody is asked")).await.unwrap_err();
        assert_eq!((failure.class, &*failure.code), (Class::Permanent, "mcp"), "{failure}");
    }
}

#[tokio::test]
async fn an_answer_outlives_a_connection_that_breaks_after_it() {
    let server =
        serving(|message, _| match (message["method"].as_str().unwrap(), &message["params"]["inputResponses"]) {
            ("server/discover", _) => result(message, json!({"supportedVersions": ["2026-07-28"]})),
            (_, Value::Null) => result(message, asks("a", "Name?")),
            _ => ResponseTemplate::new(502),
        })
        .await;
    let (mut cx, _stop) = testing::context();
    let mcp = kind([("s", at(&server))]);
    let ask = || json!({"server": "s", "tool": "t", "args": {}});
    let Flow::GoOn { keep, after: After::Reply(_) } = mcp.run(&cx, ask()).await.unwrap() else { panic!() };
    (cx.kept, cx.reply) = (Some(keep), Some(Reply::Given(json!({"name": "Ann"}))));
    let Flow::GoOn { keep, after: After::Failure(failure) } = mcp.run(&cx, ask()).await.unwrap() else { panic!() };
    assert_eq!(failure.code, "http_502");
    assert_eq!(keep["answers"]["a"]["response"]["content"]["name"], "Ann");
}

#[tokio::test]
async fn how_a_task_ends_is_how_the_call_ends() {
    let ended = |status: &'static str, more: Value| async move {
        let server = modern(move |method, params| match method {
            "tools/call" => Ok(json!({"resultType": "task", "taskId": "t1", "status": "working"})),
            "tasks/get" => {
                assert_eq!(params["taskId"], "t1");
                match status {
                    "gone" => Err(json!({"code": -32602, "message": "no such task"})),
                    _ => {
                        let mut said = json!({"taskId": "t1", "status": status});
                        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                        Ok(said)
                    }
                }
            }
            other => panic!("{other}"),
        })
        .await;
        let done = through(&kind([("s", at(&server))]), |_| panic!()).await;
        let header = |name: &str| {
            let requests = server.received_requests();
            let name = name.to_owned();
            async move {
                let last = requests
                    .await
                    .unwrap()
                    .into_iter()
                    .rev()
                    .find(|r| String::from_utf8_lossy(&r.body).contains("tasks/get"));
                last.unwrap().headers.get(&*name).unwrap().to_str().unwrap().to_owned()
            }
        };
        assert_eq!((header("mcp-method").await, header("mcp-name").await), ("tasks/get".into(), "t1".into()));
        done.map_err(|failure| (failure.class, failure.code.to_string()))
    };
    let text = json!({"result": {"content": [{"type": "text", "text": "fine"}]}});
    assert_eq!(ended("completed", text).await, Ok(json!("fine")));
    let wrong = json!({"result": {"isError": true, "content": [{"type": "text", "text": "no"}]}});
    assert_eq!(ended("completed", wrong).await, Err((Class::Permanent, "tool_error".into())));
    let error = json!({"error": {"code": -32603, "message": "broken"}});
    assert_eq!(ended("failed", error).await, Err((Class::Transient, "mcp".into())));
    assert_eq!(ended("gone", json!({})).await, Err((Class::Transient, "mcp".into())), "a retry calls again");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_five_times_and_then_waited_for() {
    let nowhere = ServerOptions { url: Some("http://127.0.0.1:9/".parse().unwrap()), ..options() };
    let mcp = kind([("s", nowhere)]);
    let (cx, _stop) = testing::context();
    for n in 0..8 {
        let done = mcp.run(&cx, json!({"server": "s", "tool": "t", "args": {}})).await;
        match done {
            Err(failure) => assert!(n < 5 && failure.code == "connection", "{n}: {failure}"),
            Ok(Flow::GoOn { after: After::Pause { .. }, .. }) => assert!(n >= 5, "{n}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_task_that_was_cancelled_before_is_begun_anew_and_one_that_is_cancelled_now_fails() {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    let server = modern(move |method, params| match method {
        "tools/call" => Ok(json!({"resultType": "task", "taskId": "t2", "status": "working"})),
        _ if params["taskId"] == "t1" => Ok(json!({"taskId": "t1", "status": "cancelled"})),
        _ => match looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Ok(json!({"taskId": "t2", "status": "working", "pollIntervalMs": 50})),
            _ => Ok(json!({"taskId": "t2", "status": "cancelled"})),
        },
    })
    .await;
    let (mut cx, _stop) = testing::context();
    let mcp = kind([("s", at(&server))]);
    let ask = || json!({"server": "s", "tool": "t", "args": {}});
    cx.kept = Some(json!({"task": "t1"}));
    let Flow::GoOn { keep, after: After::Now } = mcp.run(&cx, ask()).await.unwrap() else { panic!() };
    assert_eq!(keep["task"], "t2");
    cx.kept = Some(keep);
    let failure = mcp.run(&cx, ask()).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Permanent, "mcp"), "{failure}");
}
