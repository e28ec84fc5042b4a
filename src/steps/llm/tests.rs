use std::sync::Mutex as StdMutex;

use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use super::*;
use crate::model::Class;
use crate::rules::budget::Budget;
use crate::steps::testing;

/// Answers one after the other; the last for ever. What it was asked is kept.
struct Script(StdMutex<Vec<ResponseTemplate>>);

impl Respond for Script {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        let mut left = self.0.lock().unwrap();
        if left.len() > 1 { left.remove(0) } else { left[0].clone() }
    }
}

fn says(text: &str) -> ResponseTemplate {
    ended(text, "stop")
}

fn ended(text: &str, finish: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }))
}

fn refuses(status: u16, error: Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({"error": error}))
}

async fn serving(answers: impl IntoIterator<Item = ResponseTemplate>) -> MockServer {
    let server = MockServer::start().await;
    let script = Script(StdMutex::new(answers.into_iter().collect()));
    Mock::given(matchers::path("/v1/chat/completions")).respond_with(script).mount(&server).await;
    server
}

fn profile(server: &MockServer) -> ModelProfile {
    ModelProfile {
        base_url: format!("{}/v1/", server.uri()).parse().unwrap(),
        model: "big".into(),
        api_key: Some("geheim".into()),
        headers: BTreeMap::from([("x-team".to_owned(), "a".to_owned())]),
        price_input: 2.0,
        price_output: 10.0,
        price_cached: 0.5,
        timeout: Duration::from_millis(500),
        rest: Duration::from_secs(30),
        structured: Structured::Schema,
    }
}

fn kind(profile: ModelProfile) -> Llm {
    let models = Models::default();
    models.replace(BTreeMap::from([("m".to_owned(), profile)]));
    Llm::new(Arc::new(models))
}

async fn ask(cx: &StepCx, llm: &Llm, params: Value) -> Result<StepOutput, Failure> {
    match llm.run(cx, params).await? {
        Flow::Done(output) => Ok(output),
        other => panic!("{other:?}"),
    }
}

async fn asked(server: &MockServer) -> Vec<Value> {
    let requests = server.received_requests().await.unwrap();
    requests.iter().map(|r| serde_json::from_slice(&r.body).unwrap()).collect()
}

fn schema() -> Value {
    json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}})
}

#[tokio::test]
async fn a_question_is_asked_as_the_provider_takes_it_and_its_price_is_counted() {
    let server = serving([says("fine")]).await;
    let (cx, _stop) = testing::context();
    let params = json!({"model": "m", "prompt": "How?", "system": "Be brief.", "temperature": 0.5, "max_tokens": "9"});
    let output = ask(&cx, &kind(profile(&server)), params).await.unwrap();
    assert_eq!(
        (&output.default, &output.raw["text"], &output.raw["json"]),
        (&json!("fine"), &json!("fine"), &Value::Null)
    );
    assert_eq!(output.raw["usage"], json!({"calls": 1, "tokens_in": 100, "tokens_out": 10, "cost": 0.0003}));
    let requests = server.received_requests().await.unwrap();
    assert_eq!(requests[0].headers["authorization"], "Bearer geheim");
    assert_eq!(requests[0].headers["x-team"], "a");
    let body = &asked(&server).await[0];
    assert_eq!(body["model"], "big");
    assert_eq!(
        body["messages"],
        json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}])
    );
    assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0.5), &json!(9)));
    let used = cx.meter.take(&cx.key).unwrap();
    assert_eq!((used.calls, used.tokens(), (used.cost * 1e6).round()), (1, 110, 300.0));
}

#[tokio::test]
async fn an_answer_that_breaks_the_schema_goes_back_with_what_is_wrong_a_few_times() {
    let server = serving([says("Sure!"), says("```json\n{\"n\": \"x\"}\n```"), says("```json\n{\"n\": 7}\n```")]).await;
    let (cx, _stop) = testing::context();
    let params = || json!({"model": "m", "prompt": "n?", "schema": schema()});
    let output = ask(&cx, &kind(profile(&server)), params()).await.unwrap();
    assert_eq!((&output.default, &output.raw["usage"]["calls"]), (&json!({"n": 7}), &json!(3)));
    let bodies = asked(&server).await;
    assert_eq!(bodies[0]["response_format"]["json_schema"]["schema"]["required"], json!(["n"]));
    let last = bodies[2]["messages"].as_array().unwrap();
    assert_eq!(last.len(), 5);
    assert!(last[2]["content"].as_str().unwrap().contains("no JSON"), "{last:?}");
    assert!(last[4]["content"].as_str().unwrap().contains("/n"), "{last:?}");
    let server = serving([says("never")]).await;
    let failure = ask(&cx, &kind(profile(&server)), params()).await.unwrap_err();
    assert_eq!((failure.class, &*failure.code), (Class::Transient, "schema_mismatch"));
    assert_eq!(asked(&server).await.len(), 3, "bounded");
    let server = serving([ended("{\"n\":", "length")]).await;
    let failure = ask(&cx, &kind(profile(&server)), params()).await.unwrap_err();
    assert!(failure.code == "schema_mismatch" && failure.message.contains("max_tokens"), "{failure}");
    assert_eq!(asked(&server).await.len(), 1, "it would be cut again");
}

#[tokio::test]
async fn an_endpoint_that_takes_no_schema_is_told_of_it_in_words() {
    let (cx, _stop) = testing::context();
    for (structured, format) in [(Structured::Json, json!({"type": "json_object"})), (Structured::Prompt, Value::Null)]
    {
        let server = serving([says("{\"n\": 1}")]).await;
        let llm = kind(ModelProfile { structured, ..profile(&server) });
        ask(&cx, &llm, json!({"model": "m", "prompt": "n?", "schema": schema()})).await.unwrap();
        let body = &asked(&server).await[0];
        assert_eq!(body["response_format"], format);
        assert!(body["messages"][0]["content"].as_str().unwrap().contains("\"required\":[\"n\"]"), "{body}");
    }
}

#[tokio::test]
async fn what_a_provider_refuses_is_told_apart() {
    let slow = says("late").set_delay(Duration::from_secs(30));
    for (answer, class, code, words) in [
        (
            refuses(429, json!({"message": "slow down"})).insert_header("retry-after", "3"),
            Class::Transient,
            "rate_limited",
            "slow down",
        ),
        (refuses(429, json!({"code": "insufficient_quota", "message": "pay"})), Class::Permanent, "http_429", "pay"),
        (refuses(503, json!({"message": "busy"})), Class::Transient, "http_503", "busy"),
        (refuses(401, json!({"message": "who?"})), Class::Permanent, "http_401", "who?"),
        (
            refuses(400, json!({"code": "context_length_exceeded", "message": "too long"})),
            Class::Permanent,
            "context_too_long",
            "too long",
        ),
        (
            refuses(400, json!({"message": "exceeds the model's maximum context length"})),
            Class::Permanent,
            "context_too_long",
            "exceeds",
        ),
        (refuses(400, json!({"code": "content_filter", "message": "no"})), Class::Permanent, "content_filtered", "no"),
        (ended("", "content_filter"), Class::Permanent, "content_filtered", "filter"),
        (ResponseTemplate::new(200).set_body_string("<html>"), Class::Transient, "invalid_json", "no chat completion"),
        (ResponseTemplate::new(200).set_body_json(json!({"choices": []})), Class::Transient, "invalid_json", "choices"),
        (slow, Class::Transient, "timeout", "longer"),
    ] {
        let server = serving([answer]).await;
        let (cx, _stop) = testing::context();
        let failure = ask(&cx, &kind(profile(&server)), json!({"model": "m", "prompt": "x"})).await.unwrap_err();
        assert_eq!((failure.class, &*failure.code), (class, code), "{failure}");
        assert!(failure.message.contains(words) && !failure.message.contains("geheim"), "{failure}");
        assert_eq!(failure.retry_after_ms, (code == "rate_limited").then_some(3_000));
        let paid = u64::from(code == "content_filtered" && words == "filter") * 110;
        let used = cx.meter.take(&cx.key).unwrap();
        assert_eq!((used.calls, used.tokens()), (1, paid), "{code}: what was answered is paid for");
    }
    let (cx, _stop) = testing::context();
    let failure = ask(&cx, &Llm::new(Arc::default()), json!({"model": "m", "prompt": "x"})).await.unwrap_err();
    assert!(failure.message.contains("no model `m`") && failure.class == Class::Permanent, "{failure}");
}

#[tokio::test]
async fn no_call_starts_past_the_budget_not_even_a_repair() {
    let server = serving([says("never")]).await;
    let (cx, _stop) = testing::context();
    cx.meter.limit(Budget { tokens: Some(150), ..Budget::default() });
    let params = json!({"model": "m", "prompt": "n?", "schema": schema()});
    let failure = ask(&cx, &kind(profile(&server)), params).await.unwrap_err();
    assert_eq!(failure.code, "budget_exceeded");
    assert_eq!(asked(&server).await.len(), 2, "110 tokens after the first, 220 after the second");
}
