//! `docs/guarantees.md` names a test for each promise, `docs/security.md` for each wall, `tests/acceptance.tsv` for each row of what older systems were expected to do;
//! none of them may be gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::hostile::strings;

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

/// The names of tests in a document, of which none may be gone.
fn named(document: &str) -> (String, usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).unwrap();
    let mut there = BTreeSet::new();
    for dir in ["tests", "src"] {
        functions(&root.join(dir), &mut there);
    }
    let is_name = |word: &&str| {
        word.len() > 20 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let named: BTreeSet<&str> = text.split('`').filter(is_name).collect();
    let gone: Vec<_> = named.iter().filter(|name| !there.contains(**name)).collect();
    assert!(gone.is_empty(), "{document} names tests that are not there: {gone:?}");
    let count = named.len();
    (text, count)
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    let (text, count) = named("docs/guarantees.md");
    for (n, promise) in text.split("\n## ").filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).enumerate() {
        assert!(promise.contains("Shown by"), "promise {} is shown by nothing", n + 1);
    }
    assert!(count > 40, "{count}");
}

#[test]
fn every_threat_has_its_limits_and_the_tests_that_show_its_walls() {
    let (text, count) = named("docs/security.md");
    let threats: Vec<&str> = text.split("\n## T").skip(1).collect();
    assert_eq!(threats.len(), 9);
    for (n, threat) in threats.into_iter().enumerate() {
        assert!(threat.starts_with(&format!("{}. ", n + 1)), "{threat}");
        assert!(threat.contains("\nLimits: ") && threat.contains("Shown by"), "T{}", n + 1);
    }
    for (file, words) in [("injections.txt", "strings of"), ("targets.txt", "forms of")] {
        let told = format!("{} {words} `tests/hostile/{file}`", strings(file, &[]).len());
        assert!(text.contains(&told), "docs/security.md does not say: {told}");
    }
    assert!(count > 40, "{count}");
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
