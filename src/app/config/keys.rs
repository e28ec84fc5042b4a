//! Every key that there is: its form, and whether it is a secret. A new key is one line here, one field of
//! [`Config`](super::Config), and one entry of `config/stepd.toml`; a test compares the three.

use config::ValueKind;

use crate::rules::limits::Resource;

use super::super::retention;
use super::profiles;

/// A key.
#[derive(Debug, PartialEq)]
pub(super) struct Key {
    pub name: &'static str,
    pub form: Form,
    /// Never shown.
    pub secret: bool,
}

/// What a key's value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    Text,
    Path,
    /// A whole number, from … to ….
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A filter as in `RUST_LOG`.
    Level,
    /// `postgres://…`
    Url,
    /// A port, or one for each host, separated by commas.
    Ports,
    Texts,
    Paths,
    /// Texts by name.
    Table,
    /// Spans by name: of these names, or of any.
    Spans(&'static [&'static str]),
    /// Limits of what steps use, by name.
    Limits,
    /// Texts by name; `{ file = "…" }` stands for the content of a file.
    FileTable,
    /// What a million tokens cost.
    Price,
    /// From 0 to 1.
    Share,
    /// Shares by name.
    Shares,
    /// Tables by name, each with these parts.
    Profiles(&'static [Key]),
}

const MAX: u64 = i32::MAX as u64;

pub(super) const fn key(name: &'static str, form: Form) -> Key {
    Key { name, form, secret: false }
}

pub(super) const fn secret(name: &'static str, form: Form) -> Key {
    Key { name, form, secret: true }
}

/// In the order of `config/stepd.toml`.
pub(super) const KEYS: [Key; 53] = [
    key("database_url", Form::Url),
    key("database_url_file", Form::Path),
    key("database_host", Form::Text),
    key("database_port", Form::Ports),
    key("database_name", Form::Text),
    key("database_user", Form::Text),
    secret("database_password", Form::Text),
    key("database_password_file", Form::Path),
    key("database_sslmode", Form::Word(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])),
    key("database_sslrootcert", Form::Path),
    key("database_direct_url", Form::Url),
    key("database_pool", Form::Number(1, 1_000)),
    key("sql_connections", Form::Number(1, 10_000)),
    key("sql_role", Form::Text),
    key("sql_url", Form::Url),
    key("statement_timeout_seconds", Form::Number(1, 3_600)),
    key("workflows", Form::Paths),
    key("workflow_owners", Form::Texts),
    key("queues", Form::Texts),
    key("on_unknown_workflow", Form::Word(&["refuse", "park"])),
    key("concurrency", Form::Number(1, 1_000_000)),
    key("grace_seconds", Form::Number(0, 86_400)),
    // A heartbeat a second, and three of them: a living worker must be able to show itself in time.
    key("lease_seconds", Form::Number(3, 86_400)),
    key("max_output_bytes", Form::Number(1_024, MAX)),
    key("log_format", Form::Word(&["auto", "json", "pretty", "journald"])),
    key("log_level", Form::Level),
    key("step_log_bytes", Form::Number(0, MAX)),
    key("error_log", Form::Path),
    key("http_allow", Form::Texts),
    key("http_listen", Form::Text),
    key("http_hosts", Form::Texts),
    key("http_documents", Form::Word(&["off", "on"])),
    key("http_timeout_seconds", Form::Number(1, 3_600)),
    key("retention_export", Form::Path),
    key("trace_ratio", Form::Share),
    key("trace_errors", Form::Word(&["off", "on"])),
    key("trace_wait_seconds", Form::Number(1, 31_536_000)),
    key("trace_keep_hours", Form::Number(1, 8_760)),
    key("trace_backlog_runs", Form::Number(1, MAX)),
    key("trace_service", Form::Text),
    key("limits", Form::Limits),
    key("retention", Form::Spans(&["default", "completed", "failed", "cancelled"])),
    key("retention_workflows", Form::Spans(&[])),
    key("trace_workflows", Form::Shares),
    key("trace_attributes", Form::Table),
    key("traces", Form::Profiles(&profiles::TARGET)),
    secret("connections", Form::FileTable),
    key("mcp", Form::Profiles(&profiles::SERVER)),
    key("http_tokens", Form::Profiles(&profiles::TOKEN)),
    key("http_hooks", Form::Profiles(&profiles::HOOK)),
    key("models", Form::Profiles(&profiles::MODEL)),
    key("env", Form::Table),
    secret("secrets", Form::FileTable),
];

/// The key of that name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// What may have been meant.
pub(super) fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = |k: &'a str| (strsim::damerau_levenshtein(name, k), k);
    // As many letters more or less are as many changes.
    let length = name.chars().count();
    let known = known.filter(|k| k.len().abs_diff(length) <= 4);
    known.map(near).filter(|(distance, k)| *distance <= (k.len() / 3).clamp(1, 4)).min().map(|(_, k)| k)
}

/// "did you mean …", or where all keys are to be found.
pub(super) fn advice<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match suggestion(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "stepd config --template shows every key".to_owned(),
    }
}

impl Form {
    /// Is it a table of names?
    pub(super) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Spans(_) | Self::Shares | Self::Limits | Self::FileTable | Self::Profiles(_))
    }

    /// What is wrong with an entry of such a table, if anything.
    pub(super) fn of_entry(self, name: &str, text: &str) -> Result<(), String> {
        if self == Self::Shares {
            return Self::Share
                .of_text(text)
                .map(drop)
                .map_err(|why| format!("it must be {}; {why}", Self::Share.words()));
        }
        if self == Self::Limits {
            let names = || Resource::ALL.into_iter().map(Resource::name);
            let unknown = || format!("there is no such limit; {}", advice(name, names()));
            return Resource::named(name).ok_or_else(unknown)?.read(text).map(drop);
        }
        let Self::Spans(names) = self else { return Ok(()) };
        if !names.is_empty() && !names.contains(&name) {
            let near = suggestion(name, names.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
            return Err(format!("there is no such entry, only {}{}", names.join(", "), near.unwrap_or_default()));
        }
        retention::span(text).map(|_| ())
    }

    /// In words, for complaints.
    pub(super) fn words(self) -> String {
        match self {
            Self::Text => "text in quotes".to_owned(),
            Self::Url => "a database's URL".to_owned(),
            Self::Path => "a path in quotes".to_owned(),
            Self::Number(low, MAX) => format!("a whole number of at least {low}"),
            Self::Number(low, high) => format!("a whole number from {low} to {high}"),
            Self::Word(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::Level => "a filter such as \"info\" or \"info,stepd=debug\"".to_owned(),
            Self::Ports => "a port, or a list of ports for as many hosts".to_owned(),
            Self::Texts => "a list of texts: [\"one\", \"two\"]".to_owned(),
            Self::Paths => "a list of paths: [\"one\", \"two\"]".to_owned(),
            Self::Table => "a table of texts".to_owned(),
            Self::Spans(_) => "a table of spans such as \"90d\", or \"forever\"".to_owned(),
            Self::Limits => "a table of limits such as \"512MiB\"".to_owned(),
            Self::FileTable => "a table of texts, or of { file = \"…\" }".to_owned(),
            Self::Price => "a price: a number not below 0".to_owned(),
            Self::Share => "a share: a number from 0 to 1".to_owned(),
            Self::Shares => "a table of shares: numbers from 0 to 1".to_owned(),
            Self::Profiles(_) => "a table of tables, each with a name".to_owned(),
        }
    }

    /// A value given as text: by a variable, by a credential, or by a text in the file. The error says what is wrong with it,
    /// and never repeats what may be a secret.
    pub(super) fn of_text(self, text: &str) -> Result<ValueKind, String> {
        let quoted = || format!("it is `{}`", text.chars().take(60).collect::<String>());
        match self {
            Self::Text | Self::Path => Ok(text.into()),
            Self::Url => super::database::check_url(text).map(|()| text.into()),
            Self::Number(low, high) => match text.trim().parse::<u64>() {
                Ok(n) if (low..=high).contains(&n) => Ok(n.into()),
                _ => Err(quoted()),
            },
            Self::Word(words) if words.contains(&text) => Ok(text.into()),
            Self::Word(words) => Err(match suggestion(text, words.iter().copied()) {
                Some(near) => format!("{}, did you mean `{near}`?", quoted()),
                None => quoted(),
            }),
            Self::Level => match tracing_subscriber::EnvFilter::try_new(text) {
                Ok(_) if !text.trim().is_empty() => Ok(text.into()),
                Ok(_) => Err("it is empty".to_owned()),
                Err(error) => Err(format!("{}: {error}", quoted())),
            },
            Self::Ports => match text.split(',').all(|p| p.trim().parse::<u16>().is_ok_and(|p| p > 0)) {
                true => Ok(text.into()),
                false => Err(quoted()),
            },
            Self::Texts | Self::Paths => {
                let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
                Ok(ValueKind::Array(parts.map(|p| config::Value::new(None, p)).collect()))
            }
            Self::Price => match text.trim().parse::<f64>() {
                Ok(n) if n >= 0.0 && n.is_finite() => Ok(n.into()),
                _ => Err(quoted()),
            },
            Self::Share => match text.trim().parse::<f64>() {
                Ok(n) if (0.0..=1.0).contains(&n) => Ok(n.into()),
                _ => Err(quoted()),
            },
            Self::Table | Self::Spans(_) | Self::Shares | Self::Limits | Self::FileTable | Self::Profiles(_) => {
                Err("it is text".to_owned())
            }
        }
    }
}
