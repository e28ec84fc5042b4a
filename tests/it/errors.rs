//! The catalogue of errors: complete, and named where the errors are raised.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use stepd::model::errors::PAGES;

use crate::cli::stepd_at;

fn texts(folder: &str) -> Vec<String> {
    let (mut folders, mut found) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "sql") && !path.ends_with("model/errors.rs") {
                found.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// Every `SD` and three digits.
fn codes(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("SD").filter_map(|(at, _)| {
        let code = text.get(at..at + 5)?;
        code[2..].bytes().all(|b| b.is_ascii_digit()).then(|| code.to_owned())
    })
}

fn pages() -> BTreeSet<String> {
    PAGES.iter().map(|(code, _)| (*code).to_owned()).collect()
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let used: BTreeSet<String> =
        ["src", "migrations"].iter().flat_map(|f| texts(f)).flat_map(|t| codes(&t).collect::<Vec<_>>()).collect();
    let own: BTreeSet<String> = pages().into_iter().filter(|code| code.starts_with("SD")).collect();
    assert_eq!(used, own, "left: the codes in src and migrations, right: the pages");

    // The failure codes that stepd gives, from the module that names them, and the families.
    let named = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/failure.rs")).unwrap();
    let named =
        named.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1).map(str::to_owned));
    let families = ["exit", "signal", "http", "sql", "cancelled"].map(str::to_owned);
    let failures: BTreeSet<String> = named.chain(families).collect();
    let own: BTreeSet<String> = pages().into_iter().filter(|code| !code.starts_with("SD")).collect();
    assert_eq!(failures, own, "left: the failure codes, right: the pages");
}

#[test]
fn every_page_stands_in_the_docs_and_is_compiled_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors");
    let files =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned());
    assert_eq!(files.collect::<BTreeSet<_>>(), pages());
}

#[test]
fn every_error_that_is_raised_in_sql_names_its_page_in_the_hint() {
    for text in texts("migrations") {
        for raise in text.split("RAISE EXCEPTION USING").skip(1) {
            let statement = &raise[..raise.find(";\n").unwrap()];
            let code = codes(statement).next().unwrap_or_else(|| panic!("no SD code in {statement}"));
            assert!(statement.contains("HINT = "), "no hint: {statement}");
            assert!(
                statement.contains(&format!("stepd explain {code}")),
                "the hint does not name the page: {statement}"
            );
        }
    }
}

#[test]
fn a_code_is_explained_at_the_shell() {
    let text = stepd_at(None, &["explain", "SD001"]).is(0).out;
    assert!(text.starts_with("# SD001: unknown workflow\n"), "{text}");
    assert!(stepd_at(None, &["explain", "http_503"]).is(0).out.starts_with("# http: "));
    assert_eq!(stepd_at(None, &["explain", "-o", "id"]).is(0).out.lines().count(), PAGES.len());
    stepd_at(None, &["explain", "crashloop"]).is(3).says("did you mean crash_loop?");
    stepd_at(None, &["explain", "SD999"]).is(3).says("there is no error with the code SD999");
}
