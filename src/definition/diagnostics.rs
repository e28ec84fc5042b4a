//! What is wrong with a file, and where.

use std::fmt;

use super::node::Span;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in one sentence.
    pub message: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// How many characters are at fault; at least 1.
    pub width: usize,
    /// What to do about it.
    pub suggestion: Option<String>,
}

/// All that is wrong with a file, in the order of its lines.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// What messages call the file.
    pub source_name: String,
    /// The complaints; never empty.
    pub list: Vec<Diagnostic>,
    lines: Vec<String>,
}

impl Diagnostics {
    /// A complaint about a file as a whole (it cannot be read).
    #[must_use]
    pub fn whole(source_name: &str, message: impl Into<String>, suggestion: &str) -> Self {
        let suggestion = Some(suggestion.to_owned());
        let first = Diagnostic { message: message.into(), line: 1, column: 1, width: 1, suggestion };
        Self { source_name: source_name.to_owned(), list: vec![first], lines: Vec::new() }
    }

    /// A complaint about bytes that are no text.
    pub(super) fn not_utf8(source_name: &str, bytes: &[u8]) -> Self {
        let good = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let sixteen = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let message = match sixteen {
            true => "the file is UTF-16, not UTF-8".to_owned(),
            false => {
                format!("the file is not UTF-8: byte 0x{:02x}", bytes.get(good.len()).copied().unwrap_or_default())
            }
        };
        let mut told = Self::whole(source_name, message, "save it as UTF-8");
        for first in &mut told.list {
            first.line = 1 + good.matches('\n').count();
            first.column = 1 + good.rsplit('\n').next().map_or(0, |line| line.chars().count());
        }
        told
    }
}

impl fmt::Display for Diagnostics {
    /// In the shape of rustc's messages: what, where, the line with a caret, help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let gutter = d.line.to_string().len();
            writeln!(f, "error: {}", shown(&d.message))?;
            writeln!(f, "{:gutter$}--> {}:{}:{}", "", self.source_name, d.line, d.column)?;
            if let Some(line) = self.lines.get(d.line - 1).filter(|line| !line.trim().is_empty()) {
                let (text, lead) = window(line, d.column);
                let caret = "^".repeat(d.width.clamp(1, text.chars().count().saturating_sub(lead).max(1)));
                writeln!(f, "{:gutter$} |", "")?;
                writeln!(f, "{} | {text}", d.line)?;
                writeln!(f, "{:gutter$} | {:lead$}{caret}", "", "")?;
            }
            if let Some(help) = &d.suggestion {
                writeln!(f, "{:gutter$} = help: {}", "", shown(help))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The part of a line that is shown, and the characters in it before the column: a line of a minified file may be
/// very long. Tabs and control characters become blanks, so that the caret stands where it should.
fn window(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 140;
    let at = column.saturating_sub(1);
    let clean = |c: char| if c == '\t' { ' ' } else { harmless(c) };
    if line.chars().count() <= WIDTH {
        return (line.trim_end().chars().map(clean).collect(), at);
    }
    let start = at.saturating_sub(WIDTH / 2);
    (line.chars().skip(start).take(WIDTH).map(clean).collect(), at - start)
}

/// A message quotes the file: nothing of it may move the cursor, hide text, or turn its direction; and a name of a megabyte is none.
fn shown(text: &str) -> String {
    const MOST: usize = 400;
    let mut out: String = text.chars().take(MOST).map(harmless).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

/// One character wide, as what it stands for should be.
fn harmless(c: char) -> char {
    match c {
        c if c.is_control() => '\u{fffd}',
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => '\u{fffd}',
        c => c,
    }
}

/// Collects complaints while a file is read.
pub(super) struct Report<'t> {
    text: &'t str,
    list: Vec<Diagnostic>,
}

/// Complaints beyond this number help nobody.
const MOST: usize = 100;

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, list: Vec::new() }
    }

    /// Complains about a place.
    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    /// Complains about a place, and says what to do.
    pub(super) fn help(&mut self, span: Span, message: impl Into<String>, suggestion: impl Into<String>) {
        self.push(span, message.into(), Some(suggestion.into()));
    }

    /// Complains about a name, with the one that was probably meant.
    pub(super) fn name(&mut self, span: Span, message: impl Into<String>, meant: Option<&str>, otherwise: &str) {
        let help = match meant {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None => (!otherwise.is_empty()).then(|| otherwise.to_owned()),
        };
        self.push(span, message.into(), help);
    }

    fn push(&mut self, span: Span, message: String, suggestion: Option<String>) {
        let place = Diagnostic { message, line: span.line, column: span.column, width: self.width(span), suggestion };
        if self.list.len() < MOST && !self.list.contains(&place) {
            self.list.push(place);
        }
    }

    /// The characters of a span that stand on its first line.
    fn width(&self, span: Span) -> usize {
        let slice = self.text.get(span.start..span.end).unwrap_or_default();
        slice.lines().next().unwrap_or_default().trim_end().chars().count().max(1)
    }

    /// The text of a span.
    pub(super) fn source(&self, span: Span) -> &'t str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// There are more complaints than anybody reads: to look for suggestions is a waste.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn finish(mut self, source_name: &str) -> Diagnostics {
        self.list.sort_by_key(|d| (d.line, d.column));
        let lines = self.text.lines().map(str::to_owned).collect();
        Diagnostics { source_name: source_name.to_owned(), list: self.list, lines }
    }
}
