//! From a step's parameters to a request.

use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Client, Request};
use serde_json::{Map, Value, json};

use crate::definition::Schema;
use crate::model::{Failure, code};
use crate::steps::calls::Calling;
use crate::steps::params::Params;

use super::{ModelProfile, Structured};

/// What a model is asked.
pub(super) struct Question {
    pub model: String,
    pub schema: Option<Schema>,
    messages: Vec<Value>,
    /// What else the request says.
    more: Map<String, Value>,
}

impl Question {
    pub(super) fn read(params: Value) -> Result<Self, Failure> {
        let mut params = Params::new("llm", params)?;
        let model = params.required("model")?;
        let messages = match params.take("messages") {
            Some(Value::Array(messages)) => messages,
            Some(_) => return Err(params.wrong("messages", "must be a list")),
            None => {
                let prompt = params.required("prompt")?;
                let system = params.string("system")?.map(|text| message("system", &text));
                system.into_iter().chain([message("user", &prompt)]).collect()
            }
        };
        let mut more = Map::new();
        for name in ["temperature", "max_tokens"] {
            if let Some(value) = params.take(name) {
                // An expression may have given text.
                let number = value.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(value);
                if !number.is_number() {
                    return Err(params.wrong(name, "must be a number"));
                }
                more.insert(name.to_owned(), number);
            }
        }
        if let Some(tools) = params.take("tools") {
            more.insert("tools".to_owned(), tools);
        }
        let schema = params.take("schema").map(Schema::compile).transpose();
        let schema = schema.map_err(|_| params.wrong("schema", "is no valid JSON Schema"))?;
        Ok(Self { model, schema, messages, more })
    }

    /// Adds the schema, as the provider is told of it.
    pub(super) fn tell_schema(&mut self, how: Structured) {
        let Some(schema) = self.schema.as_ref().map(Schema::source) else { return };
        match how {
            Structured::Schema => {
                let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
                self.more.insert("response_format".to_owned(), format);
            }
            Structured::Json | Structured::Prompt => {
                let text = format!("Answer with nothing but JSON that matches this JSON Schema:\n{schema}");
                if how == Structured::Json {
                    self.more.insert("response_format".to_owned(), json!({"type": "json_object"}));
                }
                self.messages.insert(0, message("system", &text));
            }
        }
    }

    /// The answer goes back, with what is wrong with it.
    pub(super) fn repair(&mut self, said: &Value, why: &str) {
        self.messages.push(said.clone());
        let text = format!("That cannot be used: {why}. Answer again, with nothing but the corrected JSON.");
        self.messages.push(message("user", &text));
    }

    /// The call, for its trace.
    pub(super) fn describe(&self, call: &mut Calling, profile: &ModelProfile) {
        let host = profile.base_url.host_str().unwrap_or_default();
        call.named(|| format!("chat {}", profile.model));
        call.set("gen_ai.operation.name", "chat");
        call.set("gen_ai.provider.name", provider(host));
        call.set("gen_ai.system", provider(host));
        call.set("gen_ai.request.model", profile.model.as_str());
        for (name, attribute) in
            [("temperature", "gen_ai.request.temperature"), ("max_tokens", "gen_ai.request.max_tokens")]
        {
            if let Some(value) = self.more.get(name) {
                call.set(attribute, value.clone());
            }
        }
        call.set("server.address", host);
        if let Some(port) = profile.base_url.port_or_known_default() {
            call.set("server.port", port);
        }
        call.input(|| Value::Array(self.messages.clone()).to_string());
    }

    pub(super) fn build(
        &self,
        client: &Client,
        profile: &ModelProfile,
        trace: Option<Arc<str>>,
    ) -> Result<Request, Failure> {
        let mut body = self.more.clone();
        body.insert("model".to_owned(), profile.model.as_str().into());
        body.insert("messages".to_owned(), self.messages.clone().into());
        let mut url = profile.base_url.clone();
        let path = format!("{}/chat/completions", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut request = client.post(url).json(&body);
        if let Some(trace) = trace {
            request = request.header("traceparent", &*trace);
        }
        let mut request =
            request.build().map_err(|error| self.wrong(&format!("makes no request: {}", error.without_url())))?;
        let headers = request.headers_mut();
        if let Some(key) = &profile.api_key {
            // The value is not shown: it is a secret.
            let value = HeaderValue::from_bytes(format!("Bearer {key}").as_bytes());
            headers.insert(AUTHORIZATION, value.map_err(|_| self.wrong("has an api_key that no header can hold"))?);
        }
        for (name, value) in &profile.headers {
            let wrong = || self.wrong(&format!("has a header `{name}` that cannot be sent"));
            let parsed: HeaderName = name.parse().map_err(|_| wrong())?;
            headers.insert(parsed, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?);
        }
        Ok(request)
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::permanent(code::DEFINITION, format!("models.{} of the configuration {what}", self.model))
    }
}

/// The provider's name in the conventions; of others their host.
fn provider(host: &str) -> &str {
    match host {
        "api.openai.com" => "openai",
        "api.anthropic.com" => "anthropic",
        "api.mistral.ai" => "mistral_ai",
        "api.deepseek.com" => "deepseek",
        "api.groq.com" => "groq",
        "api.x.ai" => "x_ai",
        "generativelanguage.googleapis.com" => "gcp.gemini",
        host if host.ends_with(".openai.azure.com") => "azure.ai.openai",
        host => host,
    }
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}
