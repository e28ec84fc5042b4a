//! The architecture, read from the sources: who may use whom, what stays pure, where SQL may stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which top-level modules each of them may use, beside itself. Whatever stands later may use what stands earlier, never the
/// other way round: a line may name only modules of lines above it, so there can be no cycle.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("os", &[]),
    ("testing", &[]),
    ("telemetry", &["model"]),
    ("postgres", &["os"]),
    ("rules", &["model"]),
    ("expression", &["model"]),
    ("definition", &["model", "rules", "expression"]),
    ("db", &["model", "rules", "telemetry"]),
    ("steps", &["model", "rules", "expression", "definition", "os", "telemetry"]),
    ("engine", &["model", "rules", "expression", "definition", "steps", "testing", "telemetry"]),
    (
        "services",
        &["model", "rules", "expression", "definition", "steps", "engine", "db", "telemetry", "testing", "os"],
    ),
    ("http", &["model", "rules", "expression", "definition", "steps", "engine", "db", "services", "telemetry"]),
    (
        "app",
        &[
            "model",
            "rules",
            "expression",
            "definition",
            "steps",
            "engine",
            "db",
            "services",
            "http",
            "telemetry",
            "testing",
            "os",
        ],
    ),
    ("library", &["model", "rules", "expression", "definition", "steps", "engine", "db", "services", "app"]),
    (
        "cli",
        &[
            "model",
            "rules",
            "expression",
            "definition",
            "steps",
            "engine",
            "db",
            "services",
            "http",
            "app",
            "telemetry",
            "testing",
            "os",
            "postgres",
        ],
    ),
];

/// No I/O, no clock, no randomness.
const PURE: [&str; 4] = ["model", "rules", "expression", "definition"];

/// What the pure modules may not even name.
const IMPURE: [&str; 18] = [
    "sqlx::",
    "tokio::",
    "reqwest::",
    "nix::",
    "Instant::now",
    "SystemTime",
    "Utc::now",
    "Local::now",
    "fastrand::",
    "rand::",
    "new_v4",
    "now_v7",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
];

/// What makes a statement out of a text.
const STATEMENTS: [&str; 6] = ["query!", "query_as!", "query_scalar!", "query_file", "sqlx::query", "raw_sql("];

const LONGEST_FILE: usize = 500;

struct Source {
    path: PathBuf,
    /// The folder or file of `src` that it belongs to.
    module: String,
    /// Without comments, and without the tests at its end.
    code: String,
    lines: usize,
    is_test: bool,
}

fn sources(root: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let inside = path.strip_prefix(&root).unwrap();
                let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
                let name = inside.file_stem().unwrap().to_string_lossy();
                let is_test = name == "tests"
                    || name.ends_with("_tests")
                    || inside.components().any(|c| c.as_os_str() == "tests");
                // Inline test modules stand at the end of their file.
                let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let code = body.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
                let code = code.collect::<Vec<_>>().join("\n");
                found.push(Source { module, code, lines: text.lines().count(), is_test, path });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    /// Every line on which something is wrong, with what that is.
    fn complain(&self, wrong: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let path = self.path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
        let lines = self.code.lines().enumerate();
        lines.filter_map(|(n, line)| wrong(line).map(|why| format!("{path}:{}: {why}", n + 1))).collect()
    }
}

/// The modules that a line names as `crate::NAME`.
fn named(line: &str) -> Vec<&str> {
    let after = line.match_indices("crate::").map(|(at, word)| &line[at + word.len()..]);
    after.map(|rest| &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]).collect()
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut complaints = Vec::new();
    for source in sources("src").iter().filter(|s| !s.is_test && s.module != "lib") {
        let me = source.module.as_str();
        let allowed = match me {
            "main" => &["cli"][..],
            _ => table.get(me).unwrap_or_else(|| panic!("src/{me} has no line in the table of tests/it/layout.rs")),
        };
        complaints.extend(source.complain(|line| {
            let line = if me == "main" { line.replace("stepd::", "crate::") } else { line.to_owned() };
            let wrong = named(&line).into_iter().find(|name| *name != me && !allowed.contains(name))?;
            Some(match wrong {
                "" => "name one module on a line: `use crate::NAME::…`".to_owned(),
                _ => format!("{me} may not use {wrong}, only {allowed:?}"),
            })
        }));
    }
    none(complaints);
}

#[test]
fn unsafe_code_is_forbidden_but_in_one_place() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/os/pre_exec.rs");
    let others = sources("src").into_iter().filter(|s| s.path != place);
    let word = |line: &str| line.contains("unsafe ") || line.contains("unsafe_code") && !line.contains("forbid");
    none(others.flat_map(|s| s.complain(|line| word(line).then(|| "`unsafe`".to_owned()))).collect());
    for (file, but) in [("src/lib.rs", "os"), ("src/os/mod.rs", "pre_exec")] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let modules = |line: &str| line.trim_start_matches("pub ").strip_prefix("mod ").map(|m| m.replace(';', ""));
        for (n, name) in lines.iter().enumerate().filter_map(|(n, line)| Some((n, modules(line)?))) {
            assert_eq!(lines[n - 1] == "#[forbid(unsafe_code)]", name != but, "{file}: {name}");
        }
    }
}

#[test]
fn the_table_of_modules_has_no_cycle() {
    let mut above = BTreeSet::new();
    for (module, uses) in MAY_USE {
        for used in *uses {
            assert!(above.contains(used), "{module} uses {used}, which does not stand above it");
        }
        assert!(above.insert(*module), "{module} stands there twice");
    }
}

#[test]
fn the_pure_modules_touch_nothing() {
    let pure = sources("src").into_iter().filter(|s| !s.is_test && PURE.contains(&s.module.as_str()));
    none(
        pure.flat_map(|source| {
            source.complain(|line| {
                IMPURE.iter().find(|word| line.contains(**word)).map(|word| format!("`{word}` in a pure module"))
            })
        })
        .collect(),
    );
}

#[test]
fn sql_stands_in_db_alone() {
    let others = sources("src").into_iter().filter(|s| !s.is_test && s.module != "db");
    none(
        others
            .flat_map(|source| {
                source.complain(|line| {
                    // The private Postgres makes its databases itself.
                    let makes = STATEMENTS.iter().any(|word| line.contains(word)) && source.module != "postgres";
                    let begins = ["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "WITH "];
                    // A quotation mark that is not itself inside of a text that people read.
                    let line = line.replace("\\\"", "");
                    let text = begins.iter().any(|word| line.contains(&format!("\"{word}")));
                    (makes || text).then(|| "a statement outside of src/db".to_owned())
                })
            })
            .collect(),
    );
}

#[test]
fn every_statement_file_is_used_and_says_why_it_is_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/db/sql");
    let code: String = sources("src").into_iter().map(|s| s.code).collect();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-- "), "{name} has no header");
        assert!(text.contains("Caller: "), "{name} does not name its caller");
        assert!(code.contains(&format!("/{name}\"")), "nobody uses {name}");
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let long = sources("src").into_iter().chain(sources("tests")).filter(|s| s.lines > LONGEST_FILE);
    none(
        long.map(|s| format!("{} has {} lines; split it (the limit is {LONGEST_FILE})", s.path.display(), s.lines))
            .collect(),
    );
    let main = sources("src").into_iter().find(|s| s.module == "main").unwrap();
    assert!(main.lines < 80, "src/main.rs holds nothing but the call of the command line");
}

#[test]
fn every_mutant_of_the_chaos_runner_fits_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stale = Vec::new();
    for entry in fs::read_dir(root.join("tests/chaos/mutants")).unwrap() {
        let patch = entry.unwrap().path();
        let git = std::process::Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(root).output();
        let Ok(git) = git else {
            eprintln!("skipped: there is no git, and patches are applied with it");
            return;
        };
        if !git.status.success() {
            stale.push(format!("{}: {}", patch.display(), String::from_utf8_lossy(&git.stderr)));
        }
    }
    none(stale);
}
