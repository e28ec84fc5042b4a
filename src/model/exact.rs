//! JSON numbers without loss: what a double cannot hold is left to the caller as text.

use serde_json::{Number, Value};

/// The number of a decimal text, when a JSON number as serde holds it (64-bit integer or double) is
/// exactly that number.
#[must_use]
pub(crate) fn number(text: &str) -> Option<Number> {
    if let Ok(n) = text.parse::<i64>() {
        // `-0` is a double's minus zero, and `+5` is no JSON.
        return (!text.starts_with("-0") && !text.starts_with('+')).then(|| n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Some(n.into());
    }
    let double = text.parse::<f64>().ok()?;
    if digits(text)? != digits(&format!("{double:e}"))? {
        return None;
    }
    Number::from_f64(double)
}

/// A decimal text as its significant digits and the power of ten of the last one.
fn digits(text: &str) -> Option<(String, i32)> {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let kept = all.trim_end_matches('0');
    let dropped = i32::try_from(all.len() - kept.len()).ok()?;
    let kept = kept.trim_start_matches('0');
    if kept.is_empty() {
        return Some((String::new(), 0));
    }
    let power = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
    Some((kept.to_owned(), power))
}

/// The value of a JSON text; `None` when it is no JSON, or when reading it would change one of its numbers.
#[must_use]
pub(crate) fn parse(text: &str) -> Option<Value> {
    let value = serde_json::from_str(text).ok()?;
    numbers(text).all(|token| token.len() <= 15 || number(token).is_some()).then_some(value)
}

/// The number tokens of a valid JSON text.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            match bytes[at] {
                b'"' => {
                    at += 1;
                    while at < bytes.len() && bytes[at] != b'"' {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let start = at;
                    while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') {
                        at += 1;
                    }
                    return Some(&text[start..at]);
                }
                _ => at += 1,
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_exactly_or_not_at_all() {
        for exact in ["0", "7", "-7", "18446744073709551615", "1.5", "0.1", "1.50", "-0.25", "1e3", "100.00", "5e-324"]
        {
            assert!(number(exact).is_some(), "{exact}");
        }
        for lossy in [
            "123456789012345678901234567890.5",
            "0.1000000000000000055511151231257827",
            "1e400",
            "NaN",
            "Infinity",
            "+5",
            "",
            ".",
        ] {
            assert!(number(lossy).is_none(), "{lossy}");
        }
    }

    #[test]
    fn json_that_would_lose_digits_stays_text() {
        assert_eq!(parse(r#"{"a":"123456789012345678901234567890","b":1.25}"#).unwrap()["b"], 1.25);
        assert_eq!(parse(r#"{"a \"":123456789012345678901234567890}"#), None);
        assert_eq!(parse("123456789012345678901234567890"), None);
        assert_eq!(parse("no json"), None);
        assert_eq!(parse("9007199254740993"), Some(Value::from(9_007_199_254_740_993_i64)));
    }
}
