//! What the lines of the log mean: the page's tables against the lines that the code has.

use std::path::Path;

/// The code without its tests, each literal on one line.
fn code() -> String {
    fn sources(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                all.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }
    let mut all = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let mut parts = all.split("\\\n");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |all, part| all + part.trim_start())
}

/// The literals of a call, up to its closing parenthesis; without those of calls inside of it.
fn literals(call: &str) -> Vec<String> {
    let (mut found, mut open, mut depth, mut escaped) = (Vec::new(), None::<String>, 1, false);
    for c in call.chars() {
        match (&mut open, c) {
            (Some(text), c) if std::mem::take(&mut escaped) => text.push(c),
            (Some(_), '\\') => escaped = true,
            (Some(_), '"') => found.extend(open.take().filter(|_| depth == 1)),
            (Some(text), c) => text.push(c),
            (None, '"') => open = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// What a line says, with `…` for what is put into it.
fn said(literal: &str) -> String {
    let mut parts = literal.split('{');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |said, part| said + "…" + part.split_once('}').map_or("", |(_, rest)| rest))
}

fn warnings(code: &str) -> Vec<String> {
    let calls = ["tracing::warn!(", "tracing::error!("].into_iter().flat_map(|call| code.split(call).skip(1));
    let lines = calls.filter_map(|call| literals(call).pop()).map(|l| said(&l));
    lines.filter(|line| line.chars().any(char::is_alphabetic)).collect()
}

/// Can both be the same line? `…` stands for anything, in either.
fn agree(one: &[char], other: &[char]) -> bool {
    match (one, other) {
        ([], []) => true,
        (['…', rest @ ..], _) if agree(rest, other) => true,
        (_, ['…', rest @ ..]) if agree(one, rest) => true,
        (['…', ..], [_, rest @ ..]) => agree(one, rest),
        ([_, rest @ ..], ['…', ..]) => agree(rest, other),
        ([a, one @ ..], [b, other @ ..]) => a == b && agree(one, other),
        _ => false,
    }
}

/// The first column of the page's tables.
fn rows() -> Vec<String> {
    let document = super::document();
    let part = document.split("\n## What the lines of the log mean").nth(1).expect("the tables of the log's lines");
    let part = part.split("\n## ").next().unwrap();
    part.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).map(ToOwned::to_owned).collect()
}

#[test]
fn every_line_of_the_log_that_the_runbook_explains_is_one_that_the_daemon_writes() {
    let (code, rows) = (code(), rows());
    assert!(rows.len() > 50, "{}", rows.len());
    for row in rows {
        let there = row.split('…').map(|part| part.trim_matches([' ', ':'])).all(|part| code.contains(part));
        assert!(there, "no line of the log says {row:?}");
    }
}

#[test]
fn every_warning_and_every_error_that_the_daemon_writes_is_explained_in_the_runbook() {
    let (warnings, rows) = (warnings(&code()), rows());
    assert!(warnings.len() > 50, "{warnings:?}");
    for line in warnings {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let explained = rows.iter().any(|row| agree(&chars(row), &chars(&line)));
        assert!(explained, "docs/operations.md, What the lines of the log mean, has no row for {line:?}");
    }
}
