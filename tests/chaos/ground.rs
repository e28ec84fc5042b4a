//! What the daemons stand on: the schema, their workflows and programs, what they reach outside, whose clock they go by.

use std::path::Path;
use std::process::Stdio;

use stepd::os::proc;

use crate::net;
use crate::support::{Files, Spec, tools};

/// PgBouncer as it is behind a busy application; it is quick to try a Postgres that was away.
pub const POOLER: &str = "pool_mode = transaction\ndefault_pool_size = 60\nserver_login_retry = 1";

/// A daemon whose clock a file says.
pub fn with_clock(spec: Spec, file: &Path) -> Spec {
    let Some(library) = tools::faketime() else { return spec };
    std::fs::write(file, "+0\n").unwrap();
    let spec = spec.env("LD_PRELOAD", library.display()).env("FAKETIME_TIMESTAMP_FILE", file.display());
    spec.env("FAKETIME_DONT_FAKE_MONOTONIC", 1).env("FAKETIME_NO_CACHE", 1)
}

/// The configuration of what the workflows reach outside, as it is reached from a daemon's own network.
pub async fn reached(sections: &str, line: Option<&net::Line>) -> String {
    let Some(line) = line else { return sections.to_owned() };
    for port in sections.split("http://127.0.0.1:").skip(1) {
        let port = port.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        net::forward(&line.rest, port.parse().unwrap()).await;
    }
    sections.replace("http://127.0.0.1:", &format!("http://{}:", line.rest))
}

/// The schema, by the same binary as the daemons.
pub async fn migrate(binary: &Path, url: &str) {
    let mut command = tokio::process::Command::new(binary);
    command.arg("migrate").env("DATABASE_URL", url).stdin(Stdio::null());
    let done = command.output().await.unwrap();
    assert!(done.status.success(), "stepd migrate: {}", String::from_utf8_lossy(&done.stderr));
}

/// The workflows, and the programs that their steps call.
pub fn files() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos");
    let mut definitions = Vec::new();
    for entry in std::fs::read_dir(folder.join("workflows")).unwrap() {
        definitions.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let files = Files::new(&definitions);
    for script in ["witness.sh", "not-the-first-time.sh"] {
        let text = std::fs::read_to_string(folder.join(script)).unwrap();
        std::fs::write(files.path(script), text.replace("@DIR@", &files.path("").display().to_string())).unwrap();
    }
    std::fs::create_dir(files.path("been-here")).unwrap();
    files
}

/// All processes below one, each with its name.
pub fn descendants(root: i32) -> Vec<(proc::Stat, String)> {
    let all = proc::all();
    let (mut family, mut found) = (vec![root], Vec::new());
    while let Some(parent) = family.pop() {
        for stat in all.iter().filter(|s| s.parent == parent) {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", stat.pid)).unwrap_or_default();
            family.push(stat.pid);
            found.push((*stat, name.trim().to_owned()));
        }
    }
    found
}
