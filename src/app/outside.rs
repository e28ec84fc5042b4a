//! What steps talk to outside of the database, from the configuration: MCP servers and models.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::expression::{Piece, split};
use crate::steps::{ModelProfile, ServerOptions, Structured};

use super::build::BuildError;
use super::config::{Config, McpServer, Model};

/// A call without a sign of life: long for any tool that does not say how far it is.
const IDLE: u64 = 60;
/// The longest call of a tool.
const LONGEST: u64 = 3_600;
/// How long a person's answer is waited for.
const INPUT: u64 = 86_400;
/// How long what does not answer is left alone.
const REST: u64 = 30;
/// The longest call of a model: long answers of slow ones take minutes.
const ANSWER: u64 = 300;

/// The MCP servers.
///
/// # Errors
/// One is neither a program nor a URL, or names a secret that is not there.
pub fn servers(config: &Config) -> Result<BTreeMap<String, ServerOptions>, BuildError> {
    config
        .mcp
        .iter()
        .map(|(name, server)| Ok((name.clone(), options(config, &format!("mcp.{name}"), server)?)))
        .collect()
}

/// The models.
///
/// # Errors
/// One has no endpoint or no name, or names a secret that is not there.
pub fn models(config: &Config) -> Result<BTreeMap<String, ModelProfile>, BuildError> {
    config
        .models
        .iter()
        .map(|(name, model)| Ok((name.clone(), profile(config, &format!("models.{name}"), model)?)))
        .collect()
}

fn options(config: &Config, key: &str, server: &McpServer) -> Result<ServerOptions, BuildError> {
    let command = server.command.iter().chain(&server.args).map(|word| filled(config, key, word));
    let command = command.collect::<Result<Vec<_>, _>>()?;
    let url = server.url.as_ref().map(|text| url(config, &format!("{key}.url"), text)).transpose()?;
    match (&server.command, &url) {
        (Some(_), Some(_)) => return Err(wrong(key, "is a command or a url, not both: remove one")),
        (None, None) => return Err(wrong(key, "needs a command, or a url")),
        (None, Some(_)) if !server.args.is_empty() || !server.env.is_empty() => {
            return Err(wrong(key, "has a url: args and env belong to a command"));
        }
        (Some(_), None) if !server.headers.is_empty() => {
            return Err(wrong(key, "has a command: headers belong to a url"));
        }
        _ => {}
    }
    let afu9 = server.dialect.as_deref() == Some("afu9");
    if afu9 && url.is_none() {
        return Err(wrong(key, "has the dialect afu9, which is spoken over HTTP: give it a url"));
    }
    let seconds = |given: Option<u64>, default| Duration::from_secs(given.unwrap_or(default));
    Ok(ServerOptions {
        command,
        env: table(config, &format!("{key}.env"), &server.env)?,
        url,
        headers: table(config, &format!("{key}.headers"), &server.headers)?,
        afu9,
        idle: seconds(server.idle_seconds, IDLE),
        longest: seconds(server.max_seconds, LONGEST),
        input: seconds(server.input_seconds, INPUT),
        rest: seconds(server.rest_seconds, REST),
        // What is larger could not be recorded; the frame round it is small.
        max_message: config.max_output_bytes.saturating_mul(2),
    })
}

fn profile(config: &Config, key: &str, model: &Model) -> Result<ModelProfile, BuildError> {
    let required =
        |given: &Option<String>, name: &str| given.clone().ok_or_else(|| wrong(key, &format!("needs a {name}")));
    Ok(ModelProfile {
        base_url: url(config, &format!("{key}.base_url"), &required(&model.base_url, "base_url")?)?,
        model: required(&model.model, "model")?,
        api_key: model.api_key.as_ref().map(|text| filled(config, &format!("{key}.api_key"), text)).transpose()?,
        headers: table(config, &format!("{key}.headers"), &model.headers)?,
        price_input: model.price_input.unwrap_or(0.0),
        price_output: model.price_output.unwrap_or(0.0),
        price_cached: model.price_cached_input.or(model.price_input).unwrap_or(0.0),
        timeout: Duration::from_secs(model.timeout_seconds.unwrap_or(ANSWER)),
        rest: Duration::from_secs(model.rest_seconds.unwrap_or(REST)),
        structured: match model.structured.as_deref() {
            Some("json") => Structured::Json,
            Some("none") => Structured::Prompt,
            _ => Structured::Schema,
        },
    })
}

fn table(config: &Config, key: &str, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, BuildError> {
    given.iter().map(|(name, text)| Ok((name.clone(), filled(config, &format!("{key}.{name}"), text)?))).collect()
}

fn url(config: &Config, key: &str, text: &str) -> Result<reqwest::Url, BuildError> {
    let text = filled(config, key, text)?;
    // The text is not shown: a secret may stand in it.
    let url = reqwest::Url::parse(&text).map_err(|error| wrong(key, &format!("is no URL: {error}")))?;
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err(wrong(key, "must begin with http:// or https:// and name a host")),
    }
}

/// The text with its secrets.
pub(super) fn filled(config: &Config, key: &str, text: &str) -> Result<String, BuildError> {
    let pieces = split(text).map_err(|_| wrong(key, "has a `${{` without its `}}`"))?;
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Expression { source, .. } => {
                let name = source.trim().strip_prefix("secrets.").map(str::trim);
                let name = name.ok_or_else(|| wrong(key, "may hold ${{ secrets.NAME }} and no other expression"))?;
                let value = config.secrets.get(name);
                let missing = || BuildError::MissingSecret { key: key.to_owned(), name: name.to_owned() };
                out.push_str(value.ok_or_else(missing)?);
            }
        }
    }
    Ok(out)
}

fn wrong(key: &str, what: &str) -> BuildError {
    BuildError::Outside(format!("{key} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: McpServer) -> Config {
        let secrets = BTreeMap::from([("token".to_owned(), "geheim".to_owned())]);
        Config { mcp: BTreeMap::from([("store".to_owned(), server)]), secrets, ..Config::default() }
    }

    #[test]
    fn secrets_stand_where_they_are_named() {
        let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer ${{ secrets.token }}".to_owned())]);
        let server = McpServer { url: Some("http://h/mcp".into()), headers, ..McpServer::default() };
        let servers = servers(&config(server)).unwrap();
        assert_eq!(servers["store"].headers["Authorization"], "Bearer geheim");
        assert_eq!(servers["store"].idle, Duration::from_secs(60));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_to_do() {
        let server = |command: Option<&str>, url: Option<&str>| McpServer {
            command: command.map(Into::into),
            url: url.map(Into::into),
            ..McpServer::default()
        };
        let told = |server| servers(&config(server)).unwrap_err().to_string();
        for (server, words) in [
            (server(None, None), "mcp.store needs a command, or a url"),
            (server(Some("x"), Some("http://h")), "mcp.store is a command or a url, not both"),
            (server(None, Some("h")), "mcp.store.url is no URL"),
            (server(None, Some("ftp://h")), "mcp.store.url must begin with http"),
            (server(Some("x${{ env.A }}"), None), "mcp.store may hold ${{ secrets.NAME }}"),
            (server(Some("${{ secrets.no }}"), None), "mcp.store names the secret `no`, which is not there"),
            (McpServer { dialect: Some("afu9".into()), ..server(Some("x"), None) }, "give it a url"),
        ] {
            assert!(told(server).contains(words), "{words}");
        }
        let models = BTreeMap::from([("m".to_owned(), Model { model: Some("x".into()), ..Model::default() })]);
        let config = Config { models, ..Config::default() };
        assert!(super::models(&config).unwrap_err().to_string().contains("models.m needs a base_url"));
    }
}
