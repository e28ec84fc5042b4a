//! `docs/guarantees.md` names a test for each promise, `tests/acceptance.tsv` for each row of what older systems were expected to do;
//! none of them may be gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every function in a folder of sources.
fn functions(dir: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split_once("()"));
            all.extend(names.map(|(name, _)| name.to_owned()).filter(|name| !name.contains(char::is_whitespace)));
        }
    }
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let mut there = BTreeSet::new();
    for dir in ["tests", "src"] {
        functions(&root.join(dir), &mut there);
    }
    let is_name = |word: &&str| {
        word.len() > 20 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let named: BTreeSet<&str> = text.split('`').filter(is_name).collect();
    let gone: Vec<_> = named.iter().filter(|name| !there.contains(**name)).collect();
    assert!(gone.is_empty(), "docs/guarantees.md names tests that are not there: {gone:?}");
    for (n, promise) in text.split("\n## ").filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).enumerate() {
        assert!(promise.contains("Shown by"), "promise {} is shown by nothing", n + 1);
    }
    assert!(named.len() > 40, "{named:?}");
}

#[test]
fn every_row_of_the_acceptance_table_is_claimed_once_and_shown_by_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/acceptance.tsv")).unwrap();
    let mut there = BTreeSet::new();
    functions(&root.join("tests"), &mut there);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("row\tclaim\ttests"));
    let mut last = 0;
    for line in lines {
        let [row, claim, tests] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three columns: {line}") };
        let row: u32 = row.parse().unwrap();
        assert!(row > last, "row {row} stands behind {last}");
        assert!(claim.ends_with('.') && claim.len() > 20, "row {row}: {claim}");
        let gone: Vec<&str> = tests.split(' ').filter(|test| !there.contains(*test)).collect();
        assert!(!tests.is_empty() && gone.is_empty(), "row {row} names tests that are not there: {gone:?}");
        last = row;
    }
    assert!(last > 100, "the table is whole");
}
