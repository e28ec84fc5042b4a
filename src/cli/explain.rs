//! `stepd explain`: a page of the catalogue of errors.

use serde_json::json;

use crate::model::errors::{PAGES, explanation};

use super::errors::refused_with;
use super::output::{Format, json, say};
use super::values::nearest;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The code: SD001, or a failure's (timeout, http_503); none: lists them all
    code: Option<String>,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let Some(code) = &args.code else {
        for (code, text) in PAGES {
            match global.output {
                Format::Table => say(&format!("{code:22}{}", title(text)))?,
                Format::Id => say(code)?,
                Format::Json | Format::Jsonl => json(Format::Jsonl, &json!({"code": code, "title": title(text)}))?,
            }
        }
        return Ok(Exit::Ok);
    };
    let Some(text) = explanation(code) else {
        let hint = match nearest(code, PAGES.iter().map(|(code, _)| *code)) {
            _ if code.contains(['.', '/']) => format!("stepd check {code} says what is wrong with a file"),
            Some(near) => format!("did you mean {near}?"),
            None => "stepd explain lists them all".to_owned(),
        };
        return Err(refused_with(Exit::NotFound, format!("there is no error with the code {code}"), hint));
    };
    match global.output {
        Format::Table => say(text)?,
        Format::Id => say(code)?,
        Format::Json | Format::Jsonl => {
            json(global.output, &json!({"code": code, "title": title(text), "text": text}))?;
        }
    }
    Ok(Exit::Ok)
}

fn title(text: &str) -> &str {
    text.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, title)| title)
}
