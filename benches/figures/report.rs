//! A table for people and JSON lines for programs.

use std::fs::{File, create_dir_all};
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

/// One figure.
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    target: Option<Target>,
    note: String,
    /// When it was taken.
    load: String,
}

/// What a figure must keep.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {}", number(bound)),
            Self::AtMost(bound) => format!("<= {}", number(bound)),
        }
    }
}

/// All figures of one run.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure without a target.
    pub fn plain(&mut self, name: &str, value: f64, unit: &'static str, note: impl Into<String>) {
        self.add(name, value, unit, None, note);
    }

    /// Adds a figure.
    pub fn add(&mut self, name: &str, value: f64, unit: &'static str, target: Option<Target>, note: impl Into<String>) {
        let row = Row { name: name.to_owned(), value, unit, target, note: note.into(), load: load() };
        eprintln!("  {name}: {} {unit} {}", number(value), row.note);
        self.rows.push(row);
    }

    /// The table, then a JSON line for each figure.
    pub fn print(&self) {
        println!("{:<44} {:>12} {:<14} {:<10} {:<4} note", "figure", "value", "unit", "target", "met");
        for r in &self.rows {
            let target = r.target.map(Target::text).unwrap_or_default();
            let met = r.target.map_or("", |t| if t.met(r.value) { "yes" } else { "NO" });
            println!("{:<44} {:>12} {:<14} {target:<10} {met:<4} {}", r.name, number(r.value), r.unit, r.note);
        }
        println!("load {}", load());
        for line in self.lines() {
            println!("{line}");
        }
    }

    /// Adds the JSON lines to `target/bench/NAME.jsonl`: figures that were taken in several runs stand together.
    pub fn keep(&self, name: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        create_dir_all(&folder)?;
        let mut file = File::options().create(true).append(true).open(folder.join(format!("{name}.jsonl")))?;
        for line in self.lines() {
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    fn lines(&self) -> impl Iterator<Item = serde_json::Value> {
        self.rows.iter().map(|r| {
            let met = r.target.map(|t| t.met(r.value));
            let target = r.target.map(Target::text);
            json!({"figure": r.name, "value": r.value, "unit": r.unit, "target": target, "met": met, "note": r.note, "load": r.load})
        })
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share of all lies.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// All values, for a note.
pub fn listed(values: &[f64]) -> String {
    values.iter().map(|v| number(*v)).collect::<Vec<_>>().join(" ")
}

/// The machine's load, for judging a run.
pub fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}
