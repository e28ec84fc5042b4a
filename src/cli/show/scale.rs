//! The time axis: from instants to columns. Stretches in which nothing is at work are shortened, so that a run that waited two
//! days for an approval still shows its seconds of work.

/// Idle time gets at most this share of the line.
const IDLE: f64 = 0.35;

/// A piecewise linear map from milliseconds to columns.
pub(super) struct Scale {
    /// (time, column) at the start of each stretch and at the end.
    points: Vec<(f64, f64)>,
    width: usize,
    /// Was an idle stretch shortened?
    pub(super) folded: bool,
}

impl Scale {
    /// From 0 to `end`, over `width` columns; `busy` are the stretches with work, in any order.
    pub(super) fn new(end: f64, mut busy: Vec<(f64, f64)>, width: usize) -> Self {
        let end = end.max(1.0);
        busy.sort_by(|a, b| a.0.total_cmp(&b.0));
        // (length, works?), in order, covering 0 to end.
        let mut stretches: Vec<(f64, bool)> = Vec::new();
        let mut at = 0.0;
        for (from, to) in busy {
            let (from, to) = (from.clamp(at, end), to.clamp(at, end));
            if from > at {
                stretches.push((from - at, false));
            }
            if to > from {
                stretches.push((to - from, true));
            }
            at = to.max(at);
        }
        if end > at {
            stretches.push((end - at, false));
        }
        let total = |works: bool| -> f64 { stretches.iter().filter(|s| s.1 == works).map(|s| s.0).sum() };
        let (work, idle) = (total(true), total(false));
        let folded = work > 0.0 && idle > (work + idle) * IDLE;
        let weight = |(length, works): (f64, bool)| match (folded, works) {
            (false, _) => length / (work + idle),
            (true, true) => length / work * (1.0 - IDLE),
            (true, false) => length / idle * IDLE,
        };
        #[allow(clippy::cast_precision_loss)]
        let columns = width as f64;
        let (mut points, mut time, mut column) = (vec![(0.0, 0.0)], 0.0, 0.0);
        for stretch in stretches {
            time += stretch.0;
            column += weight(stretch) * columns;
            points.push((time, column));
        }
        Self { points, width, folded }
    }

    /// The column of an instant.
    pub(super) fn column(&self, at: f64) -> usize {
        let after = self.points.iter().position(|p| p.0 >= at).unwrap_or(self.points.len() - 1).max(1);
        let ((t0, c0), (t1, c1)) = (self.points[after - 1], self.points[after]);
        let share = if t1 > t0 { ((at - t0) / (t1 - t0)).clamp(0.0, 1.0) } else { 0.0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let column = (c0 + share * (c1 - c0)) as usize;
        column.min(self.width - 1)
    }

    /// The instant at the left edge of a column.
    pub(super) fn time(&self, column: usize) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let column = column as f64;
        let after = self.points.iter().position(|p| p.1 >= column).unwrap_or(self.points.len() - 1).max(1);
        let ((t0, c0), (t1, c1)) = (self.points[after - 1], self.points[after]);
        if c1 > c0 { t0 + (column - c0) / (c1 - c0) * (t1 - t0) } else { t0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_keeps_its_room_beside_a_long_wait() {
        // One second of work, two days of waiting, one second of work.
        let day = 86_400_000.0;
        let scale = Scale::new(2.0 * day + 2000.0, vec![(0.0, 1000.0), (2.0 * day + 1000.0, 2.0 * day + 2000.0)], 60);
        assert!(scale.folded);
        assert_eq!(scale.column(0.0), 0);
        assert_eq!(scale.column(1000.0), 19);
        assert_eq!(scale.column(2.0 * day + 1000.0), 40);
        assert_eq!(scale.column(2.0 * day + 2000.0), 59);
    }

    #[test]
    fn without_long_waits_the_axis_is_even() {
        let scale = Scale::new(1000.0, vec![(0.0, 400.0), (300.0, 900.0)], 10);
        assert!(!scale.folded);
        let columns: Vec<_> = [0.0, 250.0, 500.0, 999.0, 5000.0].iter().map(|t| scale.column(*t)).collect();
        assert_eq!(columns, [0, 2, 5, 9, 9]);
        assert!((scale.time(5) - 500.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_at_all_is_no_trouble() {
        let scale = Scale::new(0.0, vec![], 10);
        assert_eq!((scale.column(0.0), scale.column(9.0)), (0, 9));
    }
}
