//! What is fuzzed: one entry each, with the real code behind it.

mod answers;
mod api;
mod cli;
mod config;
mod definition;
mod expression;
mod journal;
mod schema;
mod shown;
mod words;

/// Stands between the fields of an input: a byte that none of the languages has a use for.
pub const FIELD: u8 = 0x1e;

/// How a field is written, and so how it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Lines,
    Json,
    Yaml,
}

/// Something that reads what others write.
#[derive(Debug)]
pub struct Target {
    pub name: &'static str,
    pub what: &'static str,
    /// Its share of the time.
    pub weight: u32,
    /// The fields of its inputs.
    pub forms: &'static [Form],
    /// Words of its language.
    pub words: &'static [&'static str],
    pub make: fn() -> Box<dyn Fuzzed>,
}

/// A target at work.
pub trait Fuzzed {
    /// Real inputs.
    fn seeds(&self) -> Vec<Vec<u8>>;

    /// One execution. Panics, time and memory are watched from outside; what else must not be is the error.
    fn once(&mut self, input: &[u8]) -> Result<(), String>;
}

pub static ALL: &[Target] = &[
    definition::YAML,
    definition::DOCUMENT,
    expression::TARGET,
    schema::TARGET,
    config::TARGET,
    words::TARGET,
    cli::TARGET,
    journal::TARGET,
    shown::TARGET,
    answers::HTTP,
    answers::MODEL,
    answers::MCP,
    api::REQUEST,
    api::HOOK,
];

/// The fields of an input, as text: so many, empty where there are fewer.
pub fn fields<const N: usize>(input: &[u8]) -> [std::borrow::Cow<'_, str>; N] {
    let mut parts = input.split(|b| *b == FIELD);
    std::array::from_fn(|_| String::from_utf8_lossy(parts.next().unwrap_or_default()))
}

/// Fields as an input.
pub fn joined(fields: &[&str]) -> Vec<u8> {
    fields.iter().map(|f| f.as_bytes()).collect::<Vec<_>>().join(&FIELD)
}

/// What people are shown is not endless, and moves no cursor.
pub fn fit_for_people(text: &str) -> Result<(), String> {
    if text.len() > 100_000 {
        return Err(format!("a message of {} bytes", text.len()));
    }
    let wild = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
    match text.chars().find(|c| wild(*c)) {
        Some(c) => Err(format!("{c:?} in a message for people")),
        None => Ok(()),
    }
}
