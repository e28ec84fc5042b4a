//! Durations: `500ms 30s 5m 2h 7d`.

use std::time::Duration;

/// The longest span that may be written: a hundred years, far from any overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Reads a duration: a whole number and a unit (`ms`, `s`, `m`, `h`, `d`), nothing between them.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let form = || format!("`{text}` is no duration: write a whole number and a unit, such as 500ms, 30s, 5m, 2h or 7d");
    if digits.is_empty() {
        return Err(form());
    }
    let count: u64 = digits.parse().map_err(|_| format!("`{text}` is too long"))?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(form()),
    };
    let span = count.checked_mul(milliseconds).map(Duration::from_millis).filter(|d| *d <= LONGEST);
    span.ok_or_else(|| format!("`{text}` is too long: the limit is a hundred years"))
}
