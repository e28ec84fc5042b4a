//! `stepd diff`: two runs side by side.

use owo_colors::OwoColorize;

use crate::db::compare::{self, Comparison, Pair, Side, Went};
use crate::rules::compare::Change;

use super::client::run_id;
use super::errors::refused;
use super::output::{Format, columns, json, say};
use super::text::{Cell, cell, clean, clean_json, cut, span, state_style, table};
use super::{Exit, Global};

/// Characters of a value.
const VALUE: usize = 60;

/// Places of a step that are listed.
const PLACES: usize = 5;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The first run: its id, the start of it, or @last
    #[arg(value_name = "RUN")]
    a: String,
    /// The second
    #[arg(value_name = "RUN")]
    b: String,
    /// List the steps that are alike, too
    #[arg(long, short)]
    all: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let mut conn = global.connect().await?;
    let (a, b) = (run_id(&mut conn, &args.a).await?, run_id(&mut conn, &args.b).await?);
    let missing = |id| refused(Exit::NotFound, format!("there is no run {id}"));
    let told = compare::compare(&mut conn, a, b).await?.map_err(missing)?;
    match global.output {
        Format::Table => say(&text(&told, args.all, columns()))?,
        Format::Id => say(told.first.as_deref().unwrap_or_default())?,
        Format::Json | Format::Jsonl => json(global.output, &told)?,
    }
    Ok(Exit::Ok)
}

fn text(told: &Comparison, all: bool, most: Option<usize>) -> String {
    let mut out =
        table(&["", "RUN", "WORKFLOW", "STATE", "TOOK", "COST"], &[side("A", &told.a), side("B", &told.b)], most);
    let first = match &told.first {
        Some(key) => format!("{}, of {}", clean(key).bold(), counted(told.differing)),
        None => "none: every step went alike".to_owned(),
    };
    out.push_str(&format!("\nfirst difference  {first}\n"));
    out.push_str(&format!("definition        {}\n", definition(told)));
    for (name, list) in [("input", &told.input), ("output", &told.output)] {
        out.push_str(&format!("{name:18}{}\n", if list.is_empty() { "the same" } else { "differs" }));
        out.push_str(&changed(list, "  ", usize::MAX));
    }
    let rows: Vec<&Pair> = told.steps.iter().filter(|pair| all || !pair.differs.is_empty()).collect();
    if !rows.is_empty() {
        let heads = ["STEP", "A", "B", "A TOOK", "B TOOK", "BY", "A COST", "B COST", "DIFFERS"];
        let lines: Vec<Vec<Cell>> = rows.iter().map(|pair| line(pair)).collect();
        out.push_str(&format!("\n{}", table(&heads, &lines, most)));
        for pair in rows.iter().filter(|pair| !pair.changes.is_empty()) {
            out.push_str(&format!("\n{}\n{}", clean(&pair.key).bold(), changed(&pair.changes, "  ", PLACES)));
        }
    }
    if told.left_out > 0 {
        out.push_str(&format!("\n{} more steps are not listed\n", told.left_out));
    }
    out
}

fn counted(n: i64) -> String {
    if n == 1 { "1 step that differs".to_owned() } else { format!("{n} steps that differ") }
}

fn definition(told: &Comparison) -> String {
    let short =
        |side: &Side| side.definition.as_deref().map_or("gone".to_owned(), |hash| hash.chars().take(12).collect());
    match (short(&told.a), short(&told.b)) {
        (a, b) if a == b => format!("the same ({a})"),
        (a, b) => format!("{a} → {b}"),
    }
}

fn side(name: &str, side: &Side) -> Vec<Cell> {
    vec![
        cell(name),
        cell(side.id.to_string()),
        cell(&side.workflow),
        cell(&side.state).style(state_style(&side.state)),
        cell(took(side.took_ms)).right(),
        cell(cost(side.cost)).right(),
    ]
}

fn line(pair: &Pair) -> Vec<Cell> {
    let state = |went: &Option<Went>| match went {
        Some(went) => cell(&went.state).style(state_style(&went.state)),
        None => cell("absent"),
    };
    let of = |went: &Option<Went>, what: fn(&Went) -> String| cell(went.as_ref().map(what).unwrap_or_default()).right();
    let ms = |went: &Option<Went>| went.as_ref().and_then(|went| went.took_ms);
    let by = match (ms(&pair.a), ms(&pair.b)) {
        (Some(a), Some(b)) => format!("{}{}", if b < a { "-" } else { "+" }, took(Some((b - a).abs()))),
        _ => String::new(),
    };
    vec![
        cell(&pair.key),
        state(&pair.a),
        state(&pair.b),
        of(&pair.a, |went| took(went.took_ms)),
        of(&pair.b, |went| took(went.took_ms)),
        cell(by).right(),
        of(&pair.a, |went| cost(went.cost)),
        of(&pair.b, |went| cost(went.cost)),
        cell(pair.differs.join(", ")),
    ]
}

fn changed(list: &[Change], indent: &str, most: usize) -> String {
    let value =
        |text: &Option<String>| text.as_ref().map_or("absent".to_owned(), |text| cut(&clean(&clean_json(text)), VALUE));
    let path = |change: &Change| if change.path.is_empty() { "(all)".to_owned() } else { clean(&change.path) };
    let mut out: String = list
        .iter()
        .take(most)
        .map(|change| format!("{indent}{}  {} → {}\n", path(change), value(&change.a).red(), value(&change.b).green()))
        .collect();
    if list.len() > most {
        out.push_str(&format!("{indent}… {} more: -o json has them\n", list.len() - most));
    }
    out
}

#[expect(clippy::cast_possible_truncation, reason = "a span of time in milliseconds")]
fn took(ms: Option<f64>) -> String {
    ms.map(|ms| span(chrono::TimeDelta::milliseconds(ms.round() as i64))).unwrap_or_default()
}

fn cost(cost: Option<f64>) -> String {
    cost.map(|cost| format!("{cost:.4}")).unwrap_or_default()
}
