//! The run as text: one row an item, time from left to right, the kill and the resume in their places.

use chrono::{DateTime, Utc};

use crate::db::demo::StepSpan;

/// Columns of the time axis.
const WIDTH: usize = 64;

/// The kill and the resume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    /// SIGKILL.
    pub(super) at: DateTime<Utc>,
    /// The first step's start on the other worker.
    pub(super) resumed: DateTime<Utc>,
}

/// The axis: from the first start to the map's end.
struct Axis {
    from: DateTime<Utc>,
    span: f64,
}

impl Axis {
    fn column(&self, at: DateTime<Utc>) -> usize {
        let share = (at - self.from).as_seconds_f64() / self.span;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let column = (share * (WIDTH - 1) as f64).round().max(0.0) as usize;
        column.min(WIDTH - 1)
    }
}

/// Draws the steps `orders[i].charge` and `orders[i].pack`, one row for each item.
pub(super) fn draw(steps: &[StepSpan], map: &str, crash: Crash) -> Vec<String> {
    let inner = format!("{map}[");
    let of_map: Vec<&StepSpan> = steps.iter().filter(|s| s.key.starts_with(&inner)).collect();
    let (Some(from), Some(to)) =
        (steps.iter().map(|s| s.started_at).min(), of_map.iter().filter_map(|s| s.ended_at).max())
    else {
        return Vec::new();
    };
    let axis = Axis { from, span: (to - from).as_seconds_f64().max(0.001) };
    let mut rows: Vec<(&str, Vec<char>)> = Vec::new();
    for step in of_map {
        let Some((item, _)) = step.key.split_once('.') else { continue };
        if rows.last().is_none_or(|(key, _)| *key != item) && !rows.iter().any(|(key, _)| *key == item) {
            rows.push((item, vec![' '; WIDTH]));
        }
        if let Some((_, cells)) = rows.iter_mut().find(|(key, _)| *key == item) {
            paint(cells, step, &axis, crash);
        }
    }
    let mut lines = vec![ruler(&axis)];
    lines.extend(rows.into_iter().map(|(item, cells)| {
        let cells: String = cells.into_iter().collect();
        format!("{item:<11} {}", cells.trim_end())
    }));
    lines
}

fn paint(cells: &mut [char], step: &StepSpan, axis: &Axis, crash: Crash) {
    let mark = if step.kind == "sql" { '▒' } else { '█' };
    let (start, end) = (axis.column(step.started_at), axis.column(step.ended_at.unwrap_or(crash.resumed)));
    cells[start..=end].fill(mark);
    if step.started_at <= crash.at && step.ended_at.is_none_or(|ended| ended >= crash.resumed) {
        let (killed, resumed) = (axis.column(crash.at), axis.column(crash.resumed));
        cells[killed..resumed].fill('·');
        cells[killed] = '×';
        cells[resumed] = '↻';
    }
}

/// Whole seconds above the axis.
fn ruler(axis: &Axis) -> String {
    let mut cells = vec![' '; WIDTH + 4];
    let mut second = 0;
    while f64::from(second) <= axis.span {
        let at = axis.column(axis.from + chrono::TimeDelta::seconds(i64::from(second)));
        for (cell, c) in cells[at..].iter_mut().zip(format!("{second}s").chars()) {
            *cell = c;
        }
        second += 1;
    }
    let cells: String = cells.into_iter().collect();
    format!("{:<11} {}", "", cells.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(key: &str, kind: &str, from: i64, to: i64) -> StepSpan {
        let at = |ms| DateTime::from_timestamp_millis(ms).unwrap();
        StepSpan {
            key: key.into(),
            kind: kind.into(),
            state: "completed".into(),
            epoch: 1,
            started_at: at(from),
            ended_at: Some(at(to)),
        }
    }

    #[test]
    fn an_interrupted_step_has_a_gap_between_the_kill_and_the_resume() {
        let steps = [
            step("list", "sql", 0, 10),
            step("orders[0].charge", "sql", 0, 500),
            step("orders[0].pack", "run", 500, 1000),
            step("orders[1].charge", "sql", 800, 2600),
            step("orders[1].pack", "run", 2600, 3200),
        ];
        let at = |ms| DateTime::from_timestamp_millis(ms).unwrap();
        let lines = draw(&steps, "orders", Crash { at: at(1200), resumed: at(2200) });
        let expected = [
            "            0s                  1s                 2s                  3s",
            "orders[0]   ▒▒▒▒▒▒▒▒▒▒███████████",
            "orders[1]                   ▒▒▒▒▒▒▒▒×··················↻▒▒▒▒▒▒▒█████████████",
        ];
        assert_eq!(lines, expected);
    }
}
