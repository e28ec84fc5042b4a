//! What goes to stdout: data, in the form that was asked for.

use std::io::Write;

use serde::Serialize;
use serde_json::value::RawValue;

use super::text::clean_json;

/// The form of the data on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document, indented
    Json,
    /// One JSON document a line
    Jsonl,
    /// Ids only, one a line
    Id,
}

/// Writes to stdout. Colours are left out where stdout is no terminal, NO_COLOR is set, or TERM is dumb.
pub(super) fn say(text: &str) -> std::io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Talks: to stderr, without regard for whether anyone listens.
pub(super) fn talk(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Writes one document.
pub(super) fn json<T: Serialize>(format: Format, value: &T) -> anyhow::Result<()> {
    let text = match format {
        Format::Jsonl => serde_json::to_string(value)?,
        Format::Json | Format::Table | Format::Id => serde_json::to_string_pretty(value)?,
    };
    Ok(say(&clean_json(&text))?)
}

/// Writes a list: an array, or one document a line.
pub(super) fn json_list<T: Serialize>(format: Format, values: &[T]) -> anyhow::Result<()> {
    if format != Format::Jsonl {
        return json(format, &values);
    }
    for value in values {
        json(format, value)?;
    }
    Ok(())
}

/// JSON text that is passed on as it is; text that is none becomes a string.
pub(super) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned())
        .or_else(|_| serde_json::value::to_raw_value(text))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The columns of the terminal behind stdout; `None` where there is none.
pub(super) fn columns() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(w, _)| usize::from(w.0))
}

/// May signs beyond ASCII be drawn?
pub(super) fn unicode() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    let ascii = locale.is_some_and(|l| l == "C" || l == "POSIX");
    !ascii && std::env::var("TERM").as_deref() != Ok("dumb")
}
