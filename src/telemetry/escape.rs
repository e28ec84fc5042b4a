//! Data on a terminal: nothing in it may move the cursor, hide text or turn its direction.

use std::fmt::Write;

/// Characters that change what a terminal shows beside themselves: controls, marks that turn the direction of text, and
/// those without width.
pub(crate) fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Data for one line.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_dangerous(c) => {
                // Writing to a string cannot fail.
                let _ = if u32::from(c) < 0x100 {
                    write!(out, "\\x{:02x}", u32::from(c))
                } else {
                    write!(out, "\\u{{{:x}}}", u32::from(c))
                };
            }
            c => out.push(c),
        }
    }
    out
}

/// Data of several lines.
pub(crate) fn clean_lines(text: &str) -> String {
    text.trim_end().split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

/// JSON text with every such character as a JSON escape. The value is the same.
pub(crate) fn clean_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut units = [0; 2];
    for c in text.chars() {
        if is_dangerous(c) && !matches!(c, '\n' | '\t') {
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}
