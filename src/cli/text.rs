//! Words for people: spans of time, escaped data, tables.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use owo_colors::{OwoColorize, Style};
use unicode_width::UnicodeWidthStr;

pub(super) use crate::telemetry::escape::{clean, clean_json, clean_lines};

/// A span for people: `640 ms`, `12.3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn span(t: TimeDelta) -> String {
    let ms = t.num_milliseconds().max(0);
    let (s, min, h, d) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{:02} s", s, ms % 1000 / 10),
        10_000..60_000 => format!("{}.{} s", s, ms % 1000 / 100),
        60_000..3_600_000 => format!("{min} min {} s", s % 60),
        3_600_000..86_400_000 => format!("{h} h {} min", min % 60),
        _ => format!("{d} d {} h", h % 24),
    }
}

/// How long ago, in one unit: `40 s ago`.
pub(super) fn ago(t: TimeDelta) -> String {
    let s = t.num_seconds().max(0);
    let text = match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min", s / 60),
        3_600..86_400 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    };
    format!("{text} ago")
}

/// An instant, in UTC, to the second.
pub(super) fn time(t: DateTime<Utc>) -> String {
    t.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The colour of a state's word; with the word, never instead of it.
pub(super) fn state_style(state: &str) -> Style {
    match state {
        "completed" => Style::new().green(),
        "failed" => Style::new().red().bold(),
        "running" => Style::new().cyan(),
        "waiting" | "held" | "scheduled" | "queued" => Style::new().blue(),
        "resuming" | "paused" => Style::new().yellow(),
        _ => Style::new().dimmed(),
    }
}

/// How wide a text stands on a terminal.
pub(super) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// A text cut to a width, with `…` where something is missing.
pub(super) fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
        if used > most {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// A cell of a table.
pub(super) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

/// A cell with data, escaped.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell { text: clean(text.as_ref()), style: Style::new(), right: false }
}

impl Cell {
    /// In a style.
    pub(super) fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Flush right: numbers.
    pub(super) fn right(mut self) -> Self {
        self.right = true;
        self
    }
}

/// A column is made no wider for one cell's sake: the blanks of all other rows would outweigh the table.
const WIDEST: usize = 100;

/// A table without rules: a heading in bold, columns two blanks apart. Lines are cut at `most` columns where that is given, and cells at
/// their column's width; else a cell that is wider moves the rest of its line. Columns without any data are left out.
pub(super) fn table(heads: &[&str], rows: &[Vec<Cell>], most: Option<usize>) -> String {
    let filled = |i: usize| rows.is_empty() || rows.iter().any(|r| r.get(i).is_some_and(|c| !c.text.is_empty()));
    let columns: Vec<usize> = (0..heads.len()).filter(|i| filled(*i)).collect();
    let widest = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| width(&c.text)).max().unwrap_or(0);
    let widths: Vec<usize> = columns.iter().map(|i| width(heads[*i]).max(widest(*i)).min(WIDEST)).collect();
    let mut out = String::new();
    let head: Vec<Cell> = heads.iter().map(|h| cell(h).style(Style::new().bold())).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut left = most.unwrap_or(usize::MAX);
        for (n, (i, wide)) in columns.iter().zip(&widths).enumerate() {
            let Some(c) = row.get(*i) else { continue };
            let last = n + 1 == columns.len();
            if n > 0 {
                out.push_str("  ");
                left = left.saturating_sub(2);
            }
            let text = cut(&c.text, if last || most.is_none() { left } else { left.min(*wide) });
            let pad = if last { 0 } else { (*wide).min(left).saturating_sub(width(&text)) };
            let right = rows.first().and_then(|r| r.get(*i)).is_some_and(|c| c.right);
            if right {
                out.push_str(&" ".repeat(pad));
            }
            if !text.is_empty() {
                let _ = write!(out, "{}", text.style(c.style));
            }
            if !right {
                out.push_str(&" ".repeat(pad));
            }
            left = left.saturating_sub(*wide);
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_move_the_cursor_or_turn_the_text() {
        assert_eq!(clean("a\u{1b}[31mb\r\nc\td"), "a\\x1b[31mb\\r\\nc\\td");
        assert_eq!(clean("\u{202e}txt.exe\u{7f}\u{9b}2J\u{200b}\u{0}"), "\\u{202e}txt.exe\\x7f\\x9b2J\\u{200b}\\x00");
        assert_eq!(clean("größe ✓ 日本"), "größe ✓ 日本");
    }

    #[test]
    fn one_very_long_cell_costs_its_own_line_alone() {
        let long = "x".repeat(100_000);
        let rows: Vec<Vec<Cell>> = (0..1000).map(|n| vec![cell(if n == 7 { &long } else { "a" }), cell("b")]).collect();
        let text = anstream::adapter::strip_str(&table(&["NAME", "NOTE"], &rows, None)).to_string();
        assert!(text.len() < 250_000, "{}", text.len());
        assert!(text.contains(&format!("{long}  b\n")), "nothing of it is missing");
        let text = anstream::adapter::strip_str(&table(&["NAME", "NOTE"], &rows, Some(120))).to_string();
        assert!(text.lines().all(|l| width(l) <= 120 && l.ends_with(['b', 'E'])), "{}", text.lines().nth(8).unwrap());
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = serde_json::json!({"a\u{202e}": "b\u{7f}\u{9b}\u{e0041}", "n": [1, "é"]});
        let text = clean_json(&value.to_string());
        assert!(text.chars().all(|c| !crate::telemetry::escape::is_dangerous(c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn spans_are_read_at_a_glance() {
        let told: Vec<String> = [0, 999, 1_500, 12_340, 250_000, 7_500_000, 273_600_000]
            .iter()
            .map(|ms| span(TimeDelta::milliseconds(*ms)))
            .collect();
        assert_eq!(told, ["0 ms", "999 ms", "1.50 s", "12.3 s", "4 min 10 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!(ago(TimeDelta::seconds(3_700)), "1 h ago");
    }

    #[test]
    fn a_table_lines_up_whatever_stands_in_it() {
        let rows = vec![
            vec![cell("日本"), cell("1").right(), cell(""), cell("x\ny")],
            vec![cell("ab"), cell("100").right(), cell(""), cell("a text that is too long")],
        ];
        let plain = anstream::adapter::strip_str(&table(&["NAME", "N", "EMPTY", "NOTE"], &rows, Some(22))).to_string();
        assert_eq!(plain, "NAME    N  NOTE\n日本    1  x\\ny\nab    100  a text tha…\n");
    }
}
