//! Finds `${{ … }}` in text. The library's own template syntax is never used: its `{% %}` could not be switched off,
//! and maps would be printed as Python.

/// A piece of a text with expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text that stands as it is.
    Text(&'a str),
    /// The inside of one `${{ }}`, trimmed, with its byte offset in the whole text.
    Expression {
        /// The expression.
        source: &'a str,
        /// Where it begins.
        offset: usize,
    },
}

/// A `${{` without its `}}`, or with nothing in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitError {
    /// What is wrong.
    pub message: &'static str,
    /// Where the `${{` stands, in bytes.
    pub offset: usize,
}

/// Does the text hold a `${{`?
#[must_use]
pub fn has_expression(text: &str) -> bool {
    text.contains("${{")
}

/// Splits a text into its pieces.
///
/// # Errors
/// A `${{` that is not closed, or an empty `${{ }}`.
pub fn split(text: &str) -> Result<Vec<Piece<'_>>, SplitError> {
    let mut pieces = Vec::new();
    let mut rest = 0;
    while let Some(found) = text[rest..].find("${{") {
        let open = rest + found;
        let inside = open + 3;
        let length = closing(&text[inside..])
            .ok_or(SplitError { message: "this `${{` is never closed: add `}}`", offset: open })?;
        if open > rest {
            pieces.push(Piece::Text(&text[rest..open]));
        }
        let raw = &text[inside..inside + length];
        let source = raw.trim();
        if source.is_empty() {
            return Err(SplitError { message: "there is no expression inside `${{ }}`", offset: open });
        }
        let lead = raw.len() - raw.trim_start().len();
        pieces.push(Piece::Expression { source, offset: inside + lead });
        rest = inside + length + 2;
    }
    if rest < text.len() {
        pieces.push(Piece::Text(&text[rest..]));
    }
    Ok(pieces)
}

/// The byte offset of the `}}` that ends an expression: outside quotes, and not one that closes a `{` of the
/// expression itself (`${{ {"a": {"b": 1}} }}`).
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut depth = 0usize;
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        match quote {
            Some(_) if b == b'\\' => i += 1,
            Some(q) if b == q => quote = None,
            Some(_) => {}
            None => match b {
                b'"' | b'\'' => quote = Some(b),
                b'{' => depth += 1,
                b'}' if depth > 0 => depth -= 1,
                b'}' if bytes.get(i + 1) == Some(&b'}') => return Some(i),
                _ => {}
            },
        }
        i += 1;
    }
    None
}
