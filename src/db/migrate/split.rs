//! A script, statement by statement.

/// The statements of a script, without the comments and blanks around them.
pub(super) fn statements(script: &str) -> Vec<&str> {
    let (mut found, mut begin, mut at) = (Vec::new(), None, 0);
    // How deep in a function's body that is SQL itself: BEGIN ATOMIC … END.
    let (mut depth, mut last) = (0, "");
    while let Some(c) = script[at..].chars().next() {
        let rest = &script[at..];
        let (skip, part) = match c {
            _ if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), false),
            _ if rest.starts_with("/*") => (comment(rest), false),
            '\'' => {
                // E'…' escapes with a backslash.
                let before = &script.as_bytes()[..at];
                let escapes = matches!(before, [.., b, b'e' | b'E'] if !b.is_ascii_alphanumeric() && *b != b'_');
                (quoted(rest, '\'', escapes), true)
            }
            '"' => (quoted(rest, '"', false), true),
            '$' => (dollars(rest, &script[..at]), true),
            ';' if depth > 0 => (1, true),
            ';' => {
                if let Some(begin) = begin.take() {
                    found.push(script[begin..at].trim_end());
                }
                (1, false)
            }
            c if c.is_alphabetic() || c == '_' => {
                let word = &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())];
                match word {
                    _ if word.eq_ignore_ascii_case("atomic") && last.eq_ignore_ascii_case("begin") => depth = 1,
                    _ if depth > 0 && word.eq_ignore_ascii_case("case") => depth += 1,
                    _ if depth > 0 && word.eq_ignore_ascii_case("end") => depth -= 1,
                    _ => {}
                }
                last = word;
                // E'…' is a quoted text with a letter before it.
                (word.len(), true)
            }
            c => (c.len_utf8(), !c.is_whitespace()),
        };
        if part && begin.is_none() {
            begin = Some(at);
        }
        at += skip;
    }
    if let Some(begin) = begin {
        found.push(script[begin..].trim_end());
    }
    found
}

/// How long a comment is; Postgres nests them.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// How long a quoted text is. A doubled quotation mark ends one text and begins the next, which comes to the same.
fn quoted(text: &str, mark: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((n, c)) = chars.next() {
        if c == mark {
            return n + 1;
        }
        if escapes && c == '\\' {
            chars.next();
        }
    }
    text.len()
}

/// How long a text between `$tag$` and `$tag$` is; of a parameter, one.
fn dollars(text: &str, before: &str) -> usize {
    let name = |c: char| c.is_alphanumeric() || c == '_';
    let Some(end) = text[1..].find('$').map(|n| n + 2) else { return 1 };
    let tag = &text[..end];
    let is_tag =
        !before.ends_with(name) && tag[1..end - 1].chars().all(name) && !tag[1..].starts_with(|c: char| c.is_numeric());
    match is_tag {
        true => text[end..].find(tag).map_or(text.len(), |n| end + n + end),
        false => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_are_not_inside_of_anything() {
        let script = "-- first; of all\nCREATE TABLE a (b text DEFAULT ';' /* ; /* ; */ */);\n\nDO $x$ BEGIN PERFORM '$$;'; END $x$;\n
            SELECT E'\\';', \"a;b\", $1, 'it''s;' ;; -- the end;\nSELECT 2;
            CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3";
        let found = statements(script);
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(found[0].starts_with("CREATE TABLE a") && found[0].ends_with(')'));
        assert_eq!(found[1], "DO $x$ BEGIN PERFORM '$$;'; END $x$");
        assert!(found[2].starts_with("SELECT E'") && found[2].ends_with("'it''s;'"));
        assert_eq!(found[3], "SELECT 2");
        assert!(found[4].ends_with("SELECT 2; END"));
        assert_eq!(found[5], "SELECT 3");
    }

    #[test]
    fn no_statement_of_a_migration_is_torn_apart() {
        let words =
            ["ALTER", "COMMENT", "CREATE", "DO", "INSERT", "REVOKE", "GRANT", "DROP", "UPDATE", "SELECT", "WITH"];
        for migration in crate::db::migrate::MIGRATIONS {
            for statement in statements(migration.text) {
                let first = statement.split_whitespace().next().unwrap_or_default();
                assert!(words.contains(&first), "version {}: {statement}", migration.version);
            }
        }
    }
}
