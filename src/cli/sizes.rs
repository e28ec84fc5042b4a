//! `stepd db`: how large it all is, and how many runs there are.

use serde_json::json;

use crate::db::operate::{self, Growth, StateCount, TableSize};
use crate::model::RunState;

use super::output::{Format, columns, json, say};
use super::text::{ago, cell, state_style, table};
use super::{Exit, Global};

/// Dead rows that are worth a word: this many, and this part of the table. Autovacuum begins earlier at every table of stepd's.
const DEAD: i64 = 20_000;
const DEAD_PART: f64 = 0.2;

pub(super) async fn run(global: &Global) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let tables = operate::tables(&mut conn).await?;
    let states = sorted(operate::states(&mut conn).await?);
    let growth = operate::growth(&mut conn).await?;
    let kept = global.configuration()?.retention().shortest().is_some();
    match global.output {
        Format::Table => {
            say(&drawn(&tables, &states, columns()))?;
            say(&outlook(&growth, each(&tables, &growth), kept))?;
        }
        Format::Id => tables.iter().try_for_each(|t| say(&t.name))?,
        Format::Json | Format::Jsonl => {
            let states: Vec<_> =
                states.iter().map(|s| json!({"state": s.state, "runs": s.n, "estimated": s.estimated})).collect();
            let of = tables;
            let tables: Vec<_> = of.iter().map(document).collect();
            let history = json!({
                "oldest": growth.oldest, "ended": growth.ended, "runs_a_day": growth.runs_a_day, "bytes_a_run": each(&of, &growth),
            });
            json(global.output, &json!({"states": states, "tables": tables, "history": history}))?;
        }
    }
    Ok(Exit::Ok)
}

/// In the order of a run's life.
fn sorted(mut states: Vec<StateCount>) -> Vec<StateCount> {
    states.sort_by_key(|s| RunState::ALL.iter().position(|known| known.as_str() == s.state));
    states
}

/// Is autovacuum behind?
pub(super) fn is_bloated(t: &TableSize) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole, for people")]
    let part = t.dead as f64 / (t.live + t.dead).max(1) as f64;
    t.dead > DEAD && part > DEAD_PART
}

fn hint(t: &TableSize) -> String {
    match (t.switched_off, is_bloated(t)) {
        (true, _) => format!("autovacuum is switched off: ALTER TABLE {} RESET (autovacuum_enabled)", t.name),
        (false, true) => "many dead rows: stepd doctor says what keeps autovacuum from them".into(),
        (false, false) => String::new(),
    }
}

/// `12.3 MB`.
pub(super) fn bytes(n: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mut size = n as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

fn drawn(tables: &[TableSize], states: &[StateCount], most: Option<usize>) -> String {
    let rows: Vec<_> = states
        .iter()
        .map(|s| {
            let n = if s.estimated { format!("~{}", s.n) } else { s.n.to_string() };
            vec![cell(&s.state).style(state_style(&s.state)), cell(n).right()]
        })
        .collect();
    let mut out = if rows.is_empty() { "no runs\n".to_owned() } else { table(&["STATE", "RUNS"], &rows, most) };
    out.push('\n');
    let rows: Vec<_> = tables
        .iter()
        .map(|t| {
            vec![
                cell(&t.name),
                cell(t.live.max(t.rows).to_string()).right(),
                cell(t.dead.to_string()).right(),
                cell(bytes(t.bytes)).right(),
                cell(bytes(t.index_bytes)).right(),
                cell(t.vacuumed_at.map_or("never".to_owned(), |at| ago(t.now - at))).right(),
                cell(hint(t)),
            ]
        })
        .collect();
    out.push_str(&table(&["TABLE", "ROWS", "DEAD", "SIZE", "INDEXES", "VACUUMED", "HINT"], &rows, most));
    let total: i64 = tables.iter().map(|t| t.bytes + t.index_bytes).sum();
    out.push_str(&format!("{} in all\n", bytes(total)));
    out
}

/// What an ended run takes, with all that belongs to it and its indexes.
fn each(tables: &[TableSize], growth: &Growth) -> Option<i64> {
    const HISTORY: [&str; 4] =
        ["stepd_engine.ended", "stepd_engine.checkpoints", "stepd_engine.events", "stepd_engine.children"];
    let all: i64 = tables.iter().filter(|t| HISTORY.contains(&t.name.as_str())).map(|t| t.bytes + t.index_bytes).sum();
    // Of few runs it is the pages that one would count.
    growth.ended.filter(|n| *n >= 1_000).map(|n| all / n)
}

/// How long the history is, how it grows, and what may be done about it.
fn outlook(growth: &Growth, each: Option<i64>, kept: bool) -> String {
    let Some(oldest) = growth.oldest else { return "no run has ended yet\n".to_owned() };
    let mut out = format!("the oldest ended run was enqueued {}\n", ago(growth.now - oldest));
    let a_day = each.map(|each| each.saturating_mul(growth.runs_a_day));
    out.push_str(&match a_day {
        Some(a_day) => format!("{} runs a day end, about {} a day\n", growth.runs_a_day, bytes(a_day)),
        None => format!("{} runs a day end\n", growth.runs_a_day),
    });
    if let (false, Some(a_day)) = (kept, a_day) {
        out.push_str(&format!(
            "all of it is kept for ever: {} in a year. Under [retention] the configuration says how long; stepd prune --older-than 90d --dry-run, what would go\n",
            bytes(a_day.saturating_mul(365))
        ));
    }
    out
}

fn document(t: &TableSize) -> serde_json::Value {
    json!({
        "table": t.name, "rows": t.live.max(t.rows), "dead": t.dead, "bytes": t.bytes, "index_bytes": t.index_bytes,
        "vacuumed_at": t.vacuumed_at, "analyzed_at": t.analyzed_at, "autovacuum": !t.switched_off, "bloated": is_bloated(t),
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    #[test]
    fn how_the_history_grows_is_said_with_what_to_do_about_it() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let growth = Growth { oldest: Some(now - TimeDelta::days(40)), runs_a_day: 20_000, ended: Some(800_000), now };
        let told = outlook(&growth, Some(1_500), false);
        assert!(told.contains("40 d ago\n20000 runs a day end, about 30.0 MB a day\n"), "{told}");
        assert!(
            told.contains("for ever: 10.9 GB in a year") && told.contains("prune --older-than 90d --dry-run"),
            "{told}"
        );
        assert!(!outlook(&growth, Some(1_500), true).contains("for ever"), "it has been decided");
        assert_eq!(outlook(&Growth { oldest: None, ..growth }, None, false), "no run has ended yet\n");
    }

    #[test]
    fn sizes_are_read_at_a_glance_and_bloat_is_named() {
        let now = DateTime::from_timestamp_millis(1_700_000_100_000).unwrap();
        let size = |name: &str, bytes, live, dead| TableSize {
            name: name.into(),
            rows: 0,
            bytes,
            index_bytes: bytes / 3,
            live,
            dead,
            changed: 0,
            vacuumed_at: Some(now - TimeDelta::minutes(4)),
            analyzed_at: None,
            switched_off: false,
            now,
        };
        let tables = [
            size("stepd_engine.ended", 7_340_032_000, 10_000_000, 1_200),
            size("stepd.jobs", 41_000_000, 50_000, 900_000),
            TableSize { switched_off: true, vacuumed_at: None, ..size("stepd_engine.events", 900, 12, 0) },
        ];
        let count = |state: &str, n, estimated| StateCount { state: state.into(), n, estimated };
        let states =
            sorted(vec![count("completed", 9_800_000, true), count("running", 40, false), count("queued", 7, false)]);
        let text = anstream::adapter::strip_str(&drawn(&tables, &states, None)).to_string();
        insta::assert_snapshot!(text);
    }
}
