//! The real inputs of the repository.

use std::path::{Path, PathBuf};

/// The files under some folders that end so, in the order of their names.
pub fn files(folders: &[&str], ends: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut left: Vec<PathBuf> = folders.iter().map(|f| root.join(f)).collect();
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
            found.push(path);
        }
    }
    found.sort();
    found.iter().filter_map(|p| std::fs::read_to_string(p).ok()).collect()
}

/// The blocks of the handbook in a language.
pub fn blocks(language: &str) -> Vec<String> {
    let mark = format!("```{language}\n");
    let pages = files(&["docs", "README.md"], &[".md"]);
    let of = |page: &String| -> Vec<String> {
        page.split(&mark).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
    };
    pages.iter().flat_map(of).collect()
}

/// Workflow files.
pub fn workflows() -> Vec<String> {
    let mut all = files(&["examples", "tests/definitions", "tests/chaos/workflows"], &[".yaml"]);
    all.extend(blocks("yaml"));
    all
}

/// Documents of AFU-9.
pub fn documents() -> Vec<String> {
    let mut all = files(&["examples", "tests/definitions"], &[".json"]);
    all.extend(blocks("json"));
    all
}

/// What stands between `${{` and `}}` anywhere, and in the keys that are expressions without them.
pub fn expressions() -> Vec<String> {
    let mut all = Vec::new();
    for text in workflows().iter().chain(&documents()) {
        all.extend(text.split("${{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned())));
        for key in ["if: ", "until: ", "output: ", "while: "] {
            all.extend(text.split(key).skip(1).filter_map(|rest| Some(rest.lines().next()?.trim().to_owned())));
        }
        all.extend(text.lines().filter(|line| line.contains("${{")).map(|line| line.trim().to_owned()));
    }
    all.sort();
    all.dedup();
    all
}
