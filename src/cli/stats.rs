//! `stepd stats`: how the runs of each workflow went, also those that have been pruned.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use crate::db::daily::{self, Figures};

use super::output::{Format, columns, json_list, say, talk};
use super::text::{cell, span, table};
use super::values::past;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only this workflow
    #[arg(value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// From this day on, by UTC: a day (2026-07-01), a time, or a span (30d)
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<DateTime<Utc>>,
    /// Up to this day
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<DateTime<Utc>>,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let day = |at: Option<DateTime<Utc>>| -> Option<NaiveDate> { at.map(|at| at.date_naive()) };
    let list = daily::stats(&mut conn, (day(args.since), day(args.until)), args.workflow.as_deref()).await?;
    match global.output {
        Format::Table if list.is_empty() => talk("no run has ended in these days"),
        Format::Table => say(&drawn(&list, columns()))?,
        Format::Id => list.iter().try_for_each(|f| say(&f.workflow))?,
        Format::Json | Format::Jsonl => json_list(global.output, &list)?,
    }
    Ok(Exit::Ok)
}

fn drawn(list: &[Figures], most: Option<usize>) -> String {
    let took = |ms: Option<i64>| ms.map(|ms| span(TimeDelta::milliseconds(ms))).unwrap_or_default();
    let rows: Vec<_> = list
        .iter()
        .map(|f| {
            let rate = f.success_rate.map(|r| format!("{:.1} %", r * 100.0)).unwrap_or_default();
            let cost = f.cost.filter(|c| *c > 0.0).map(|c| format!("{c:.4}")).unwrap_or_default();
            let counts = [f.runs, f.completed, f.failed, f.cancelled].map(|n| cell(n.to_string()).right());
            let times = [f.avg_ms, f.p50_ms, f.p95_ms].map(|ms| cell(took(ms)).right());
            let mut row = vec![cell(&f.workflow)];
            row.extend(counts);
            row.push(cell(rate).right());
            row.extend(times);
            row.extend([f.resumes, f.crashes].map(|n| cell(n.to_string()).right()));
            row.push(cell(cost).right());
            row
        })
        .collect();
    let heads = [
        "WORKFLOW",
        "RUNS",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "SUCCESS",
        "AVERAGE",
        "P50",
        "P95",
        "RESUMES",
        "CRASHES",
        "COST",
    ];
    table(&heads, &rows, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_says_how_its_runs_went_and_how_long_they_took() {
        let busy = Figures {
            workflow: "fulfil_order".into(),
            runs: 412,
            completed: 400,
            failed: 8,
            cancelled: 4,
            success_rate: Some(0.9804),
            avg_ms: Some(12_300),
            p50_ms: Some(9_100),
            p95_ms: Some(61_000),
            waited_ms: Some(40),
            resumes: 9,
            crashes: 1,
            tokens_in: None,
            tokens_out: None,
            cost: Some(0.0123),
        };
        let never = Figures {
            workflow: "night".into(),
            runs: 1,
            completed: 0,
            failed: 0,
            cancelled: 1,
            success_rate: None,
            avg_ms: None,
            p50_ms: None,
            p95_ms: None,
            cost: None,
            ..busy.clone()
        };
        let text = anstream::adapter::strip_str(&drawn(&[busy, never], None)).to_string();
        insta::assert_snapshot!(text);
    }
}
