//! JSON changed as JSON: so that what is inside of a document is reached, and not only its reader.

use serde_json::{Map, Value, json};
use stepd::definition;

use crate::targets::Form;

/// A document with one place changed; `None` where the text is none.
pub fn changed(text: &[u8], other: &[u8], form: Form, words: &[&str], random: &mut fastrand::Rng) -> Option<Vec<u8>> {
    let mut value = read(text, form)?;
    let places = count(&value);
    let at = random.usize(0..places);
    let theirs = (random.u8(0..4) == 0).then(|| read(other, form)).flatten();
    change(&mut value, at, theirs, words, random);
    Some(value.to_string().into_bytes())
}

fn read(text: &[u8], form: Form) -> Option<Value> {
    match form {
        Form::Yaml => definition::as_json(std::str::from_utf8(text).ok()?),
        Form::Json | Form::Lines | Form::Text => serde_json::from_slice(text).ok(),
    }
}

/// The places of a value: itself, and those of everything in it.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The value at a place, in the order of [`count`].
fn place(value: &mut Value, at: usize) -> Option<&mut Value> {
    if at == 0 {
        return Some(value);
    }
    let mut left = at - 1;
    let inside: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for one in inside {
        let size = count(one);
        if left < size {
            return place(one, left);
        }
        left -= size;
    }
    None
}

fn change(value: &mut Value, at: usize, theirs: Option<Value>, words: &[&str], random: &mut fastrand::Rng) {
    let word = |random: &mut fastrand::Rng| random.choice(words.iter().copied()).unwrap_or("x").to_owned();
    if let Some(mut theirs) = theirs {
        let from = random.usize(0..count(&theirs));
        let graft = place(&mut theirs, from).map(Value::take).unwrap_or_default();
        if let Some(here) = place(value, at) {
            *here = graft;
        }
        return;
    }
    let Some(here) = place(value, at) else { return };
    match (random.u8(0..8), &mut *here) {
        (0 | 1, Value::Object(map)) => {
            let key = if random.bool() { word(random) } else { random.choice(map.keys().cloned()).unwrap_or_default() };
            map.insert(key, strange(random));
        }
        (2, Value::Object(map)) => {
            let gone = random.choice(map.keys().cloned());
            gone.map(|key| map.shift_remove(&key));
        }
        (3, Value::Object(map)) => {
            let Some(key) = random.choice(map.keys().cloned()) else { return };
            let held = map.shift_remove(&key).unwrap_or_default();
            map.insert(word(random), held);
        }
        (0, Value::Array(items)) => {
            let again = random.choice(items.clone()).unwrap_or_default();
            items.extend(std::iter::repeat_n(again, random.usize(1..6)));
        }
        (1, Value::Array(items)) => drop(items.pop()),
        (2, Value::Array(items)) => items.reverse(),
        (4, _) => *here = json!([here.take()]),
        (5, _) => *here = Value::Object(Map::from_iter([(word(random), here.take())])),
        (6, _) => *here = word(random).into(),
        _ => *here = strange(random),
    }
}

/// A value that nobody expects.
fn strange(random: &mut fastrand::Rng) -> Value {
    let number = |text: &str| serde_json::from_str(text).unwrap_or_default();
    match random.u8(0..22) {
        0 => Value::Null,
        1 => true.into(),
        2 => false.into(),
        3 => json!(0),
        4 => json!(-1),
        5 => json!(i64::MAX),
        6 => json!(i64::MIN),
        7 => json!(u64::MAX),
        8 => number("1e400"),
        9 => number("-0"),
        10 => number("123456789012345678901234567890.5"),
        11 => json!(0.1),
        12 => json!(""),
        13 => json!("\u{202e}\u{1b}[2J\0"),
        14 => json!("x".repeat(random.usize(0..5_000))),
        15 => json!([]),
        16 => json!({}),
        17 => (0..random.usize(1..140)).fold(json!(1), |inner, _| json!([inner])),
        18 => json!("9999-12-31T23:59:59Z"),
        19 => json!("00000000-0000-0000-0000-000000000000"),
        20 => json!(random.i64(..)),
        _ => json!(1_i64 << random.u8(0..63)),
    }
}
