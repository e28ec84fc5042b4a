//! What a file may say, and what is said about a wrong one.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::*;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/definitions").join(name)
}

fn files(name: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Holds the messages of every wrong file against `<file>.txt`; `STEPD_BLESS=1` writes them anew.
#[test]
fn every_wrong_file_gets_the_messages_that_stand_beside_it() {
    let mut differences = String::new();
    let all = files("wrong");
    assert!(all.len() >= 25, "only {} wrong files", all.len());
    for (name, text) in all {
        let got = load(&name, &text).map(|d| d.name).expect_err(&name).to_string();
        let path = folder("wrong").join(format!("{name}.txt"));
        if std::env::var_os("STEPD_BLESS").is_some() {
            std::fs::write(&path, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if got != expected {
            let _ = writeln!(differences, "── {name}\n{got}\n── expected\n{expected}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn every_good_file_loads() {
    for (name, text) in files("good") {
        if let Err(e) = load(&name, &text) {
            panic!("{e}");
        }
    }
}

#[test]
fn the_examples_of_the_language_are_refused_for_the_parts_that_come_later_alone() {
    for (name, text) in files("examples") {
        let diagnostics = load(&name, &text).map(|d| d.name).expect_err(&name);
        for d in &diagnostics.list {
            assert!(d.message.ends_with("is part of the language but not of this version of stepd"), "{diagnostics}");
        }
    }
}
