//! The commands that a change must pass, and the walk over the acceptance table, do what they say.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Runs `.ci/run` with a cargo that only notes how it is called, and fails at one call; whether it succeeded, and the calls.
fn run_failing_at(call: &str) -> (bool, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let cargo = format!("#!/bin/sh\necho \"$*\" >> '{}'\ncase \"$*\" in *'{call}'*) exit 1;; esac\n", calls.display());
    // Nothing is installed or fetched by it, either.
    for (name, script) in [("cargo", &*cargo), ("apt-get", "#!/bin/sh\nexit 1\n"), ("python3", "#!/bin/sh\nexit 1\n")] {
        let path = folder.path().join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new(root.join(".ci/run")).env("PATH", path).output().unwrap();
    let calls = std::fs::read_to_string(calls).unwrap_or_default();
    (done.status.success(), calls.lines().filter(|c| !c.contains("--version")).map(ToOwned::to_owned).collect())
}

#[test]
fn one_command_runs_tests_lints_and_formatting_and_fails_with_each_of_them() {
    let tests = "test --all-features";
    let lints = "clippy --all-targets --all-features -- -D warnings";
    let formatting = "fmt --all -- --check";
    assert_eq!(run_failing_at(tests), (false, vec![tests.to_owned()]));
    assert_eq!(run_failing_at(lints), (false, vec![tests.to_owned(), lints.to_owned()]));
    assert_eq!(run_failing_at(formatting), (false, vec![tests.to_owned(), lints.to_owned(), formatting.to_owned()]));
}

/// What the walk says of a run of the tests, and its exit code.
fn walk(log: &str, rows: &[&str]) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, log).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/acceptance");
    let done = Command::new(script).arg("--log").arg(&path).args(rows).output().unwrap();
    (String::from_utf8(done.stdout).unwrap(), done.status.code())
}

#[test]
fn the_walk_over_the_acceptance_table_tells_what_passed_failed_was_skipped_and_did_not_run() {
    // Row 18 has two tests, 5 and 36 have others.
    let passed = "test a::tls_is_as_strict_as_configured ... ok\n\
        test a::a_pool_of_two_serves_twenty_runs_and_unknown_workflows_are_parked_where_that_is_configured ... ok\n";
    let (said, code) = walk(passed, &["18"]);
    assert!(code == Some(0) && said.contains(" 18  shown  ") && said.contains("1 rows are shown, 0 skipped"), "{said}");
    let skipped = format!("{passed}\nsuccesses:\n\n---- a::tls_is_as_strict_as_configured stdout ----\nSKIPPED: no\n");
    let (said, code) = walk(&skipped, &["18"]);
    assert!(code == Some(0) && said.contains(" 18  skipped") && said.contains("not shown: 18 (skipped)"), "{said}");
    let (said, code) = walk(&passed.replacen("ok", "FAILED", 1), &["18"]);
    assert!(code == Some(1) && said.contains(" 18  FAILED") && said.contains("not shown: 18 (FAILED)"), "{said}");
    let (said, code) = walk(passed, &["5"]);
    assert!(code == Some(1) && said.contains("  5  not run"), "{said}");
    let (said, code) = walk(passed, &[]);
    assert!(code == Some(1) && said.contains("1 rows are shown") && said.contains("17 stand apart"), "{said}");
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with(|c: char| c == ' ' || c.is_ascii_digit()))
            .filter(|line| {
                line.trim_start().split(' ').next().is_some_and(|row| row.parse::<u32>().is_ok())
                    && !line.contains("rows are shown")
            })
            .count(),
        115,
        "every row is told: {said}"
    );
}
