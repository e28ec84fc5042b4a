//! A connection's settings behind a pooler: they come as for a session, and are said anew in each transaction.

/// What only a session has, which is the pooler's own.
const OF_SESSIONS: [&str; 6] = [
    "idle_session_timeout",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
    super::super::hosts::SIGN,
];

/// What a pooler in the middle does not take, or not give on.
const NOT_TAKEN: [&str; 2] = ["options", "extra_float_digits"];

/// Names and values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings(Vec<(String, String)>);

impl Settings {
    /// Of the `options` of a connection: `-c name=value …`, a backslash before what would end a word.
    fn of_options(options: &str) -> Self {
        let mut settings = Self::default();
        for word in words(options) {
            let assignment = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).unwrap_or(&word);
            if let Some((name, value)) = assignment.split_once('=') {
                settings.set(name.trim(), value);
            }
        }
        settings
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        if !is_name(name) || OF_SESSIONS.contains(&name) {
            return;
        }
        // Inside of a transaction its own level counts, no longer the default.
        let name = if name == "default_transaction_isolation" { "transaction_isolation" } else { name };
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For one transaction.
    pub(super) fn local(&self) -> String {
        self.0.iter().map(|(name, value)| format!("SET LOCAL {name} = {}; ", quoted(value))).collect()
    }
}

/// A literal, whatever `standard_conforming_strings` says.
fn quoted(value: &str) -> String {
    format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Sets something for the session: as the pipe understands it, where there is one.
pub(in crate::db) fn set_for_session(name: &str, value: &str) -> String {
    format!("SET {name} = {}", quoted(value))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            c if c.is_whitespace() && !escaped => words.push(std::mem::take(&mut word)),
            c => {
                escaped = false;
                word.push(c);
            }
        }
    }
    words.push(word);
    // `-c name=value` in two words is the same as in one.
    words.retain(|word| !word.is_empty() && word != "-c");
    words
}

/// The first message of a connection, without what a pooler does not take, and what was in it.
pub(super) fn of_startup(body: &[u8]) -> (Vec<u8>, Settings) {
    let mut settings = Settings::default();
    let mut kept: Vec<u8> = body.get(..4).unwrap_or_default().to_vec();
    let mut texts = body.get(4..).unwrap_or_default().split(|b| *b == 0);
    while let (Some(name @ [_, ..]), Some(value)) = (texts.next(), texts.next()) {
        let said = String::from_utf8_lossy(name);
        if said == "options" {
            settings = Settings::of_options(&String::from_utf8_lossy(value));
        }
        if !NOT_TAKEN.contains(&said.as_ref()) {
            for part in [name, b"\0", value, b"\0"] {
                kept.extend_from_slice(part);
            }
        }
    }
    kept.push(0);
    (kept, settings)
}

/// What [`set_for_session`] has made.
pub(super) fn assignment(statement: &str) -> Option<(String, String)> {
    let (name, quoted) = statement.strip_prefix("SET ")?.split_once(" = E'")?;
    let (mut value, mut rest) = (String::new(), quoted.strip_suffix('\'')?.chars());
    while let Some(c) = rest.next() {
        match c {
            '\\' => value.push(rest.next()?),
            '\'' => return None,
            c => value.push(c),
        }
    }
    is_name(name).then(|| (name.to_owned(), value))
}

/// What opens a transaction, with the settings in it: before all else, so that what it says itself outweighs them.
pub(super) fn in_transaction(statement: &str, local: &str) -> String {
    let opens = statement.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("BEGIN"));
    match statement.split_once(';') {
        _ if !opens => statement.to_owned(),
        Some((begin, rest)) => format!("{begin}; {local}{rest}"),
        None => format!("{statement}; {local}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_with_the_connection_and_go_into_each_transaction() {
        let start = b"\0\x03\0\0user\0me\0options\0-c statement_timeout=5s -c idle_session_timeout=3s -c a.b=x\\ y'z\0extra_float_digits\x002\0application_name\0stepd\0\0";
        let (kept, settings) = of_startup(start);
        assert_eq!(kept, b"\0\x03\0\0user\0me\0application_name\0stepd\0\0");
        assert_eq!(settings.local(), r"SET LOCAL statement_timeout = E'5s'; SET LOCAL a.b = E'x y\'z'; ");
    }

    #[test]
    fn a_setting_for_the_session_is_told_from_one_for_a_transaction() {
        for value in ["", "me", "o'neil", r"\", r"\'; DROP TABLE t; --", "'; SELECT '"] {
            let said = set_for_session("stepd.actor", value);
            assert_eq!(assignment(&said), Some(("stepd.actor".into(), value.into())), "{said}");
        }
        for other in ["SET LOCAL a = E'1'", "SET a = 1", "SET a = '1'", "SELECT 1", "SET a = E'1'; SET b = E'2'"] {
            assert_eq!(assignment(other), None, "{other}");
        }
    }

    #[test]
    fn what_opens_a_transaction_brings_the_settings_into_it() {
        assert_eq!(in_transaction("BEGIN", "SET LOCAL a = '1'; "), "BEGIN; SET LOCAL a = '1'; ");
        assert_eq!(in_transaction("begin; SELECT 1", "SET LOCAL a = '1'; "), "begin; SET LOCAL a = '1';  SELECT 1");
        assert_eq!(in_transaction("SELECT 'BEGIN'", "SET LOCAL a = '1'; "), "SELECT 'BEGIN'");
    }
}
