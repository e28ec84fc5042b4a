//! Secrets, and how to hide them: as they are, in base64 (wherever in a longer text it was encoded), percent-encoded, and inside
//! JSON.
//!
//! One set for the process, as there is one log: it only grows, for runs may still hold what a reload has replaced.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::model::Payload;

/// What stands in a secret's place.
const HIDDEN: &str = "***";

/// Shorter ones hide nothing worth hiding, and would turn every second word into asterisks.
const SHORTEST: usize = 4;

/// As much of a line of a longer secret.
const SHORTEST_LINE: usize = 8;

/// What is hidden, in all its forms, the longest first: one secret may be the beginning of another.
struct Set(RwLock<Option<Arc<[String]>>>);

/// Hidden in what people read.
static TOLD: Set = Set(RwLock::new(None));

/// Hidden in what steps give back, too. A database's password is not: it may be any word, and data would be spoilt.
static RECORDED: Set = Set(RwLock::new(None));

impl Set {
    fn add<'a>(&self, secrets: impl IntoIterator<Item = &'a String>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<String> = known.as_deref().unwrap_or_default().to_vec();
        all.extend(secrets.into_iter().flat_map(|s| forms(s)));
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        *known = Some(all.into());
    }

    fn forms(&self) -> Option<Arc<[String]>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Hides the secrets of steps wherever they turn up, and the passwords of stepd itself in what it says, from now on.
pub fn add(secrets: &[String], passwords: &[String]) {
    TOLD.add(secrets.iter().chain(passwords));
    RECORDED.add(secrets);
}

/// The text without secrets.
#[must_use]
pub fn hide(text: &str) -> Cow<'_, str> {
    hidden(text, TOLD.forms().as_deref().unwrap_or_default())
}

/// A text that was cut: what is left at its end of a secret is hidden, too.
#[must_use]
pub fn hide_end(text: &str) -> Cow<'_, str> {
    let forms = TOLD.forms();
    let known = |n: usize| {
        let mut forms = forms.as_deref().unwrap_or_default().iter();
        text.get(text.len() - n..).is_some_and(|end| forms.any(|form| form.len() > n && form.starts_with(end)))
    };
    match cut_at(text, forms.as_deref(), known) {
        Some(n) => Cow::Owned(format!("{}{HIDDEN}", &text[..text.len() - n])),
        None => Cow::Borrowed(text),
    }
}

/// A text whose beginning was cut off: what is left there of a secret is hidden, too.
#[must_use]
pub fn hide_start(text: &str) -> Cow<'_, str> {
    let forms = TOLD.forms();
    let known = |n: usize| {
        let mut forms = forms.as_deref().unwrap_or_default().iter();
        text.get(..n).is_some_and(|start| forms.any(|form| form.len() > n && form.ends_with(start)))
    };
    match cut_at(text, forms.as_deref(), known) {
        Some(n) => Cow::Owned(format!("{HIDDEN}{}", &text[n..])),
        None => Cow::Borrowed(text),
    }
}

/// The longest piece of a text's end or beginning that is a piece of a form; none where too little is left of it to be worth hiding.
fn cut_at(text: &str, forms: Option<&[String]>, is_piece: impl Fn(usize) -> bool) -> Option<usize> {
    let longest = forms?.first()?.len().min(text.len());
    (SHORTEST..=longest).rev().find(|n| is_piece(*n))
}

/// A value with no secrets in its texts.
pub fn hide_in(value: &mut Value) {
    hide_forms(value, TOLD.forms().as_deref().unwrap_or_default());
}

/// What a step gives back, with no secret of a step in its texts.
#[must_use]
pub fn recorded(output: Payload) -> Payload {
    let Some(forms) = RECORDED.forms() else { return output };
    if !forms.iter().any(|form| output.as_str().contains(form.as_str())) {
        return output;
    }
    // Piece by piece: in the text as a whole, digits of a number would be replaced, too.
    let Ok(mut value) = output.value() else { return output };
    hide_forms(&mut value, &forms);
    Payload::from_value(&value)
}

fn hide_forms(value: &mut Value, forms: &[String]) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = hidden(text, forms) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide_forms(item, forms)),
        Value::Object(entries) => entries.values_mut().for_each(|value| hide_forms(value, forms)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn hidden<'a>(text: &'a str, forms: &[String]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for form in forms {
        if text.contains(form.as_str()) {
            text = Cow::Owned(text.replace(form.as_str(), HIDDEN));
        }
    }
    text
}

fn forms(secret: &str) -> Vec<String> {
    if secret.len() < SHORTEST {
        return Vec::new();
    }
    let json = Value::from(secret).to_string();
    let mut forms = vec![secret.to_owned(), json[1..json.len() - 1].to_owned()];
    // A key of several lines, where it is told line by line.
    let lines = secret.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
    forms.extend(lines.filter(|line| *line != secret).map(ToOwned::to_owned));
    let percent = percent_encoded(secret);
    forms.extend([lower_hex(&percent), percent.replace("%20", "+"), percent]);
    for before in 0..3 {
        let text = base64(secret.as_bytes(), before);
        forms.extend([text.replace('+', "-").replace('/', "_"), text]);
    }
    forms.retain(|f| f.len() >= SHORTEST);
    forms
}

fn percent_encoded(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn lower_hex(percent: &str) -> String {
    let mut left = 0;
    let lower = |c: char| {
        left = if c == '%' { 2 } else { i32::max(left - 1, -1) };
        if left >= 0 { c.to_ascii_lowercase() } else { c }
    };
    percent.chars().map(lower).collect()
}

/// What is sure to stand in the base64 of a text that has these bytes in it, after `before` others (of three).
fn base64(bytes: &[u8], before: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let all: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
    let bit = |at: usize| all.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let digit = |n: usize| (0..6).fold(0, |value, i| value << 1 | usize::from(bit(n * 6 + i)));
    // Digits that share bits with what stands before or after are not known.
    let (first, end) = ((before * 8).div_ceil(6), all.len() * 8 / 6);
    (first..end).map(|n| char::from(DIGITS[digit(n)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_in_every_form_that_it_may_take() {
        let forms = forms("gehe im/Ün\"d?x");
        let hide = |text: &str| hidden(text, &forms).into_owned();
        assert_eq!(hide("a gehe im/Ün\"d?x b"), "a *** b");
        assert_eq!(hide("?key=gehe%20im%2F%C3%9Cn%22d%3Fx&b"), "?key=***&b");
        assert_eq!(hide("?key=gehe%20im%2f%c3%9cn%22d%3fx&b"), "?key=***&b");
        assert_eq!(hide("?key=gehe+im%2F%C3%9Cn%22d%3Fx&b"), "?key=***&b");
        assert_eq!(hide("{\"a\":\"gehe im/Ün\\\"d?x\"}"), "{\"a\":\"***\"}");
        assert_eq!(hide("gehe im/Ün"), "gehe im/Ün");
    }

    #[test]
    fn base64_is_hidden_wherever_it_was_encoded() {
        let forms = forms("correcthorse");
        // user:correcthorse, u:correcthorse, :correcthorse and alone, as `base64` writes them.
        for text in ["dXNlcjpjb3JyZWN0aG9yc2U=", "dTpjb3JyZWN0aG9yc2U=", "OmNvcnJlY3Rob3JzZQ==", "Y29ycmVjdGhvcnNl"] {
            let hidden = hidden(text, &forms);
            assert!(hidden.contains("***") && hidden.len() < 14, "{text}: {hidden}");
        }
    }

    #[test]
    fn a_secret_of_several_lines_is_hidden_line_by_line_and_a_piece_of_one_at_a_cut() {
        add(&["-----BEGIN KEY-----\nMC4CAQAwBQYDK2Vw\nBCIEINTuctv5E1hK\n-----END KEY-----\n".to_owned()], &[]);
        assert_eq!(hide("2: BCIEINTuctv5E1hK"), "2: ***");
        assert_eq!((&*hide_end("abc BCIEINTuct"), &*hide_start("Ctv5E1hK abc")), ("abc ***", "Ctv5E1hK abc"));
        assert_eq!((&*hide_end("BCI"), &*hide_start("ctv5E1hK abc")), ("BCI", "*** abc"));
        assert_eq!(hide_end("nothing of it"), "nothing of it");
    }

    #[test]
    fn what_is_too_short_is_left_alone_and_a_longer_secret_goes_first() {
        assert!(forms("abc").is_empty());
        add(&["secret-one".to_owned(), "secret-one-and-two".to_owned()], &["password-one".to_owned()]);
        assert_eq!(hide("secret-one-and-two, secret-one"), "***, ***");
        let mut value = serde_json::json!({"a": ["secret-one", 1], "b": {"c": "secret-one!"}});
        hide_in(&mut value);
        assert_eq!(value, serde_json::json!({"a": ["***", 1], "b": {"c": "***!"}}));
        let recorded = |text| recorded(Payload::from_text(text).unwrap()).as_str().to_owned();
        assert_eq!(recorded(r#"{"a": "my secret-one", "b": 1.50}"#), r#"{"a":"my ***","b":1.50}"#);
        assert_eq!(hide("password-one"), "***");
        assert_eq!(
            recorded(r#"{"a": "password-one"}"#),
            r#"{"a": "password-one"}"#,
            "data stays as it is, byte for byte"
        );
    }
}
