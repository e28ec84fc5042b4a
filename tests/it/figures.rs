//! The figures of `cargo bench` are those of the shipped defaults.

#[path = "../../benches/figures/daemon.rs"]
mod daemon;

use std::path::Path;
use std::process::Command;

fn stepd() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_stepd"))
}

/// As text, without the program.
fn arguments(command: &Command) -> Vec<String> {
    command.get_args().map(|a| a.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_measured_daemon_is_told_its_concurrency_and_its_workflows_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let command = daemon::serve(stepd(), folder.path(), 1_000);
    let workflows = folder.path().to_str().unwrap();
    assert_eq!(arguments(&command), ["serve", "--concurrency", "1000", "--workflows", workflows]);
    let given: Vec<_> = command.get_envs().filter(|(_, value)| value.is_some()).collect();
    assert_eq!(
        given,
        [("STEPD_LOG_FORMAT".as_ref(), Some("json".as_ref()))],
        "the form of the lines is no setting of the engine"
    );
    assert_eq!(daemon::altered(stepd(), folder.path()).unwrap(), [""; 0]);
}

#[test]
fn a_measured_daemon_hears_no_setting_of_its_surroundings() {
    // The claim above once more, in a process whose surroundings are full of settings.
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "figures::a_measured_daemon_is_told_its_concurrency_and_its_workflows_and_nothing_else"]);
    again.env("STEPD_LEASE_SECONDS", "99").env("DATABASE_POOL", "9").env("PGUSER", "somebody");
    let done = again.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn a_setting_that_reaches_a_measured_daemon_all_the_same_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // A file that is found without being named.
    std::fs::write(folder.path().join("stepd.toml"), "lease_seconds = 99\n").unwrap();
    let altered = daemon::altered(stepd(), folder.path()).unwrap();
    assert_eq!(altered.len(), 1, "{altered:?}");
    assert!(
        altered[0].contains("lease_seconds") && altered[0].contains("99") && altered[0].contains("stepd.toml"),
        "{altered:?}"
    );
}
