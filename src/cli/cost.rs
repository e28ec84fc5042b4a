//! `stepd cost`: what models have cost.

use anyhow::Context as _;
use chrono::{DateTime, Days, NaiveDate, Utc};
use serde_json::json;

use crate::db::costs::{self, By, Span, Spent};
use crate::db::operate;

use super::output::{Format, columns, json, say, talk};
use super::text::{cell, clean, table};
use super::values::past;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// What is summed by: day (on which the runs ended, by UTC), workflow, key (the concurrency key), or label:NAME (of the runs that
    /// are there, by when they were enqueued)
    #[arg(long, value_name = "WHAT", default_value = "workflow", value_parser = by)]
    by: By,
    /// How far back, 30d by default: a span, or a time
    #[arg(long, value_name = "SPAN", value_parser = past)]
    since: Option<DateTime<Utc>>,
    /// Up to this day; it counts
    #[arg(long, value_name = "DATE")]
    until: Option<NaiveDate>,
    /// Of this workflow alone
    #[arg(long, short, value_name = "NAME")]
    workflow: Option<String>,
}

fn by(text: &str) -> Result<By, String> {
    match (text, text.split_once(':')) {
        ("day", _) => Ok(By::Day),
        ("workflow", _) => Ok(By::Workflow),
        ("key", _) => Ok(By::Key),
        (_, Some(("label", name))) if !name.is_empty() => Ok(By::Label(name.to_owned())),
        _ => Err("write day, workflow, key, or label:NAME, as in label:team".into()),
    }
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let until = match args.until {
        Some(until) => until,
        None => operate::now(&mut conn).await?.date_naive(),
    };
    let month = || until.checked_sub_days(Days::new(29));
    let since = args.since.map(|at| at.date_naive()).or_else(month).context("there is no such day")?;
    let span = Span { since, until, workflow: args.workflow.clone() };
    let (total, each) = costs::costs(&mut conn, &args.by, &span).await?;
    match global.output {
        Format::Table if each.is_empty() => talk(&format!("no run has called a model from {since} to {until}")),
        Format::Table => say(&drawn(&args.by, &total, &each, columns()))?,
        Format::Id => each.iter().try_for_each(|s| say(&clean(s.name.as_deref().unwrap_or_default())))?,
        Format::Json | Format::Jsonl => {
            json(global.output, &json!({"since": since, "until": until, "total": total, "costs": each}))?;
        }
    }
    Ok(Exit::Ok)
}

fn drawn(by: &By, total: &Spent, each: &[Spent], most: Option<usize>) -> String {
    let head = match by {
        By::Day => "DAY".to_owned(),
        By::Workflow => "WORKFLOW".to_owned(),
        By::Key => "KEY".to_owned(),
        By::Label(name) => clean(name).to_uppercase(),
    };
    let row = |name: &str, s: &Spent| {
        let number = |n: i64| cell(n.to_string()).right();
        let cost = cell(format!("{:.4}", s.cost)).right();
        vec![cell(clean(name)), number(s.runs), number(s.calls), number(s.tokens_in), number(s.tokens_out), cost]
    };
    let rows = each.iter().map(|s| row(s.name.as_deref().unwrap_or("(none)"), s));
    let rows: Vec<_> = rows.chain([row("all", total)]).collect();
    table(&[&head, "RUNS", "CALLS", "TOKENS IN", "OUT", "COST"], &rows, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_summed_by_is_read_and_each_line_and_the_sum_are_shown() {
        assert_eq!((by("key"), by("label:team")), (Ok(By::Key), Ok(By::Label("team".into()))));
        assert!(by("label:").is_err() && by("team").is_err());
        let spent = |name: Option<&str>, runs, cost| Spent {
            name: name.map(ToOwned::to_owned),
            runs,
            calls: 2 * runs,
            tokens_in: 1_000 * runs,
            tokens_out: 50 * runs,
            cost,
        };
        let each = [spent(Some("a\u{1b}[31m"), 3, 0.75), spent(None, 1, 0.000_05)];
        let text = drawn(&By::Label("team".into()), &spent(None, 4, 0.750_05), &each, None);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }
}
