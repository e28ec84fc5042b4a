//! A run over time, in text: one row a step, its attempts and waits, where workers died and others went on.
//!
//! ```text
//!          0 ms          500 ms         1.00 s         1.50 s
//! run      ░░──────────────────────×↻──────────────────────────  1.92 s
//! list       ██                                                  12 ms
//! charge       ▒▒··▒▒··█████████████×↻██████████                 1.10 s, 3 attempts
//! ```

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::db::runs::{HistoryLine, RunDetail, StepLine};

use super::super::text::{clean, cut, span, width};
use super::scale::Scale;

/// Names of steps are cut at this width.
const NAME: usize = 26;

/// What a stretch of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fill {
    Line,
    Queue,
    Wait,
    Pause,
    Work,
    Failed,
}

/// The signs, for terminals that have them and for those that do not.
struct Signs {
    fills: [char; 6],
    crash: char,
    resume: char,
    /// From few to many at work.
    levels: &'static [char],
}

const RICH: Signs = Signs {
    fills: ['─', '░', '░', '·', '█', '▒'],
    crash: '×',
    resume: '↻',
    levels: &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
};
const PLAIN: Signs = Signs {
    fills: ['-', '.', '.', ',', '#', '!'],
    crash: 'x',
    resume: '>',
    levels: &['1', '2', '3', '4', '5', '6', '7', '8', '9'],
};

/// A death or a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Crash,
    Resume,
}

/// One row: stretches in milliseconds since the run was enqueued.
struct Row {
    name: String,
    fills: Vec<(f64, f64, Fill)>,
    /// Steps at work in a folded map.
    load: Vec<(f64, f64)>,
    marks: Vec<(f64, Mark)>,
    note: String,
}

/// Everything that a timeline is drawn from.
pub(in crate::cli) struct Story<'a> {
    pub(in crate::cli) run: &'a RunDetail,
    pub(in crate::cli) steps: &'a [StepLine],
    pub(in crate::cli) history: &'a [HistoryLine],
    /// One row for each item of a map, not one for all of them.
    pub(in crate::cli) items: bool,
    /// The instant of the one death in the story, where it is known; the history has only when it was found.
    pub(in crate::cli) killed: Option<DateTime<Utc>>,
}

/// A worker's death: when, which steps were in flight, and when another worker had the run.
struct Death {
    at: f64,
    steps: Vec<String>,
    resumed: Option<f64>,
}

impl Death {
    fn marks(&self) -> impl Iterator<Item = (f64, Mark)> {
        std::iter::once((self.at, Mark::Crash)).chain(self.resumed.map(|at| (at, Mark::Resume)))
    }
}

/// A failed attempt, as its line in the history tells it.
struct Try {
    from: f64,
    to: f64,
    /// The next try's start, where there was to be one.
    next: Option<f64>,
}

impl Story<'_> {
    fn ms(&self, at: DateTime<Utc>) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let ms = (at - self.run.created_at).num_microseconds().unwrap_or(i64::MAX) as f64 / 1000.0;
        ms.max(0.0)
    }

    fn end(&self) -> f64 {
        self.ms(self.run.ended_at.unwrap_or(self.run.now))
    }

    /// Deaths, and when the run was taken up again after them and after failures.
    fn deaths(&self) -> (Vec<Death>, Vec<f64>) {
        let resumes: Vec<f64> = self.history.iter().filter(|l| l.event == "resumed").map(|l| self.ms(l.at)).collect();
        let found = self.history.iter().filter(|l| matches!(l.event.as_str(), "crashed" | "taken over"));
        let deaths = found.map(|line| {
            let data = line.data.as_deref().and_then(|d| serde_json::from_str::<serde_json::Value>(d).ok());
            let steps = data.and_then(|d| serde_json::from_value(d.get("steps")?.clone()).ok()).unwrap_or_default();
            let found = self.ms(line.at);
            let resumed = resumes.iter().copied().find(|at| *at >= found);
            Death { at: self.killed.map_or(found, |at| self.ms(at)), steps, resumed }
        });
        (deaths.collect(), resumes)
    }

    fn failed_tries(&self) -> BTreeMap<&str, Vec<Try>> {
        let mut tries: BTreeMap<&str, Vec<Try>> = BTreeMap::new();
        for line in self.history.iter().filter(|l| l.event == "attempt failed") {
            let (Some(key), Some(data)) = (&line.key, &line.data) else { continue };
            let Ok(data) = serde_json::from_str::<serde_json::Value>(data) else { continue };
            let time = |name: &str| data.get(name)?.as_str()?.parse::<DateTime<Utc>>().ok();
            let to = time("ended_at").unwrap_or(line.at);
            let from = time("started_at").unwrap_or(to);
            let to = self.ms(to);
            let next = data.get("retry_in_ms").and_then(serde_json::Value::as_f64).map(|pause| to + pause);
            tries.entry(key).or_default().push(Try { from: self.ms(from), to, next });
        }
        tries
    }

    fn rows(&self) -> Vec<Row> {
        let (deaths, resumes) = self.deaths();
        let tries = self.failed_tries();
        let mut rows = vec![self.run_row(&deaths, &resumes)];
        let mut folds: BTreeMap<&str, usize> = BTreeMap::new();
        for step in self.steps {
            let row = self.step_row(step, tries.get(step.key.as_str()).map_or(&[], Vec::as_slice), &deaths);
            let Some(group) = self.group(&step.key) else {
                rows.push(row);
                continue;
            };
            let place = *folds.entry(group).or_insert_with(|| {
                rows.push(self.folded(group));
                rows.len() - 1
            });
            let fold = &mut rows[place];
            if self.items {
                fold.fills.extend(row.fills);
            } else {
                fold.load
                    .extend(row.fills.iter().filter(|f| matches!(f.2, Fill::Work | Fill::Failed)).map(|f| (f.0, f.1)));
            }
            for mark in row.marks {
                if !fold.marks.contains(&mark) {
                    fold.marks.push(mark);
                }
            }
        }
        rows
    }

    /// What a step inside of a map is drawn with: its item, or all items of the map.
    fn group<'k>(&self, key: &'k str) -> Option<&'k str> {
        let map = key.find('[')?;
        let item = map + key[map..].find(']')? + 1;
        Some(&key[..if self.items { item } else { map }])
    }

    fn run_row(&self, deaths: &[Death], resumes: &[f64]) -> Row {
        let end = self.end();
        let start = self.run.started_at.map_or(end, |at| self.ms(at));
        let mut marks: Vec<(f64, Mark)> = deaths.iter().flat_map(Death::marks).collect();
        marks.extend(resumes.iter().map(|at| (*at, Mark::Resume)).filter(|m| !marks.contains(m)).collect::<Vec<_>>());
        let mut fills = vec![(0.0, start, Fill::Queue), (start, end, Fill::Line)];
        fills.extend(deaths.iter().map(|d| (d.at, d.resumed.unwrap_or(end), Fill::Pause)));
        Row { name: "run".into(), fills, load: Vec::new(), marks, note: self.took(start, end) }
    }

    fn took(&self, from: f64, to: f64) -> String {
        #[allow(clippy::cast_possible_truncation)]
        let ms = (to - from) as i64;
        span(chrono::TimeDelta::milliseconds(ms))
    }

    fn step_row(&self, step: &StepLine, tries: &[Try], deaths: &[Death]) -> Row {
        let from = self.ms(step.started_at);
        let to = step.ended_at.map_or(self.end(), |at| self.ms(at));
        let waits = matches!(step.kind.as_str(), "sleep" | "wait" | "approve");
        let mut fills = Vec::new();
        let mut at = from;
        for t in tries {
            if t.from > at {
                fills.push((at, t.from, Fill::Pause));
            }
            fills.push((t.from, t.to, Fill::Failed));
            at = t.to;
        }
        if let Some(next) = tries.last().and_then(|t| t.next).map(|next| next.min(to))
            && step.state != "waiting"
        {
            fills.push((at, next, Fill::Pause));
            at = next;
        }
        let last = match step.state.as_str() {
            "skipped" => None,
            _ if waits => Some(Fill::Wait),
            "waiting" => Some(Fill::Pause),
            // The last try's line is there already.
            "failed" if !tries.is_empty() => None,
            "failed" => Some(Fill::Failed),
            _ => Some(Fill::Work),
        };
        if let Some(fill) = last {
            fills.push((at, to, fill));
        }
        let mut marks = Vec::new();
        for death in deaths.iter().filter(|d| d.steps.contains(&step.key)) {
            marks.extend(death.marks().filter(|m| m.1 == Mark::Crash || m.0 < to));
            fills.push((death.at, death.resumed.unwrap_or(to).min(to), Fill::Pause));
        }
        let note = self.step_note(step, from, to);
        Row { name: super::name(step), fills, load: Vec::new(), marks, note }
    }

    fn step_note(&self, step: &StepLine, from: f64, to: f64) -> String {
        let mut parts = match step.state.as_str() {
            "skipped" => vec!["skipped".to_owned()],
            "completed" => vec![self.took(from, to)],
            state => vec![state.to_owned(), self.took(from, to)],
        };
        if step.attempts > 1 {
            parts.push(format!("{} attempts", step.attempts));
        }
        parts.extend(step.error_code.clone());
        parts.join(", ")
    }

    /// The row of a group, without its stretches.
    fn folded(&self, group: &str) -> Row {
        let inside: Vec<&StepLine> = self.steps.iter().filter(|s| self.group(&s.key) == Some(group)).collect();
        let item = |s: &StepLine| s.key.split_once(']').map_or(s.key.clone(), |(item, _)| format!("{item}]"));
        let mut states = BTreeMap::<&str, Vec<&StepLine>>::new();
        for step in inside.iter().filter(|s| s.state != "completed") {
            states.entry(&step.state).or_default().push(step);
        }
        let odd = states.iter().map(|(state, steps)| {
            let labels: BTreeSet<&str> = steps.iter().filter_map(|s| s.label.as_deref()).collect();
            match labels.is_empty() || self.items || *state == "skipped" {
                true => format!("{} {state}", steps.len()),
                false => format!("{} {state}: {}", steps.len(), listed(&labels)),
            }
        });
        let odd: Vec<String> = odd.collect();
        let (name, all) = if self.items {
            let label = inside.iter().find_map(|s| s.label.as_deref());
            let from = inside.iter().map(|s| s.started_at).min().unwrap_or(self.run.now);
            let to = inside.iter().map(|s| s.ended_at.unwrap_or(self.run.now)).max().unwrap_or(from);
            (
                label.map_or_else(|| group.to_owned(), |l| format!("{group} ({l})")),
                self.took(self.ms(from), self.ms(to)),
            )
        } else {
            let items: BTreeSet<String> = inside.iter().map(|s| item(s)).collect();
            let repeats = self.steps.iter().any(|s| s.key == group && s.kind == "repeat");
            let what = if repeats { "rounds" } else { "items" };
            (format!("{group}[*]"), format!("{} {what}, {} steps", items.len(), inside.len()))
        };
        let note = if odd.is_empty() { all } else { format!("{all}; {}", odd.join("; ")) };
        Row { name, fills: Vec::new(), load: Vec::new(), marks: Vec::new(), note }
    }

    /// Draws it, `most` columns wide.
    pub(in crate::cli) fn draw(&self, most: usize, rich: bool) -> String {
        let rows = self.rows();
        let name = rows.iter().map(|r| width(&clean(&r.name))).max().unwrap_or(0).min(NAME);
        let note = rows.iter().map(|r| width(&clean(&r.note))).max().unwrap_or(0).min(most / 3);
        let cells = most.saturating_sub(name + note + 4).clamp(20, 120);
        let busy = rows.iter().flat_map(|r| {
            let work = r.fills.iter().filter(|f| matches!(f.2, Fill::Work | Fill::Failed)).map(|f| (f.0, f.1));
            work.chain(r.load.iter().copied())
        });
        let scale = Scale::new(self.end(), busy.collect(), cells);
        let signs = if rich { &RICH } else { &PLAIN };
        let mut out = format!("{:name$}  {}\n", "", ruler(&scale, cells));
        for row in &rows {
            let label = cut(&clean(&row.name), name);
            let pad = " ".repeat(name - width(&label));
            let bar: String = paint(row, &scale, cells, signs).into_iter().collect();
            let line = format!("{label}{pad}  {bar}  {}", cut(&clean(&row.note), most / 3));
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out.push_str(&legend(&rows, signs, scale.folded));
        out
    }
}

/// The first few of several words.
fn listed(words: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 3;
    let mut text = words.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if words.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

fn paint(row: &Row, scale: &Scale, cells: usize, signs: &Signs) -> Vec<char> {
    let mut line = vec![' '; cells];
    for (from, to, fill) in &row.fills {
        let (a, b) = (scale.column(*from), scale.column(*to));
        // At least one cell, however short; shared edges go to the later stretch.
        let b = if b > a { b - usize::from(*to < scale.time(b) + 1e-9) } else { a };
        line[a..=b.max(a)].fill(signs.fills[*fill as usize]);
    }
    if !row.load.is_empty() {
        let mut at_work = vec![0_usize; cells];
        for (from, to) in &row.load {
            at_work[scale.column(*from)..=scale.column(*to)].iter_mut().for_each(|n| *n += 1);
        }
        let most = at_work.iter().copied().max().unwrap_or(1).max(1);
        for (cell, n) in line.iter_mut().zip(at_work).filter(|(_, n)| *n > 0) {
            *cell = signs.levels[(n * signs.levels.len()).div_ceil(most) - 1];
        }
    }
    for (at, mark) in &row.marks {
        let column = scale.column(*at);
        match mark {
            Mark::Crash => line[column] = signs.crash,
            // Beside the death that it follows.
            Mark::Resume if line[column] == signs.crash => line[(column + 1).min(cells - 1)] = signs.resume,
            Mark::Resume => line[column] = signs.resume,
        }
    }
    line
}

fn ruler(scale: &Scale, cells: usize) -> String {
    let mut line = String::new();
    let step = (cells / 4).max(12);
    for column in (0..cells).step_by(step) {
        #[allow(clippy::cast_possible_truncation)]
        let label = span(chrono::TimeDelta::milliseconds(scale.time(column).round() as i64));
        if column + width(&label) <= cells {
            line.push_str(&" ".repeat(column.saturating_sub(width(&line))));
            line.push_str(&label);
        }
    }
    line
}

fn legend(rows: &[Row], signs: &Signs, folded: bool) -> String {
    let has = |fill: Fill| rows.iter().any(|r| r.fills.iter().any(|f| f.2 == fill && f.1 > f.0));
    let marked = |mark: Mark| rows.iter().any(|r| r.marks.iter().any(|m| m.1 == mark));
    let mut parts = Vec::new();
    let words =
        [(Fill::Work, "at work"), (Fill::Failed, "failed attempt"), (Fill::Pause, "pause"), (Fill::Wait, "waiting")];
    for (fill, word) in words {
        if has(fill) || (fill == Fill::Wait && has(Fill::Queue)) {
            parts.push(format!("{} {word}", signs.fills[fill as usize]));
        }
    }
    if marked(Mark::Crash) {
        parts.push(format!("{} worker died", signs.crash));
    }
    if marked(Mark::Resume) {
        parts.push(format!("{} resumed", signs.resume));
    }
    if folded {
        parts.push("idle time is drawn shorter".to_owned());
    }
    if parts.is_empty() { String::new() } else { format!("{}\n", parts.join("   ")) }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
