//! How a daemon under measurement is started: with its shipped defaults, but for the concurrency.
//!
//! A test includes this file, and reads from it what the figures run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the surroundings could change a setting.
const HEARD: [&str; 4] = ["STEPD_", "DATABASE_", "PG", "RUST_LOG"];

/// A command that hears nothing of the surroundings: no variable, no file of the folder. It logs lines for programs.
pub fn apart(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if HEARD.iter().any(|h| name.as_encoded_bytes().starts_with(h.as_bytes())) {
            command.env_remove(name);
        }
    }
    command.env("STEPD_LOG_FORMAT", "json").current_dir(folder);
    command
}

/// The daemon with the workflows of a folder.
pub fn serve(stepd: &Path, folder: &Path, concurrency: usize) -> Command {
    let mut command = apart(stepd, folder);
    command.args(["serve", "--concurrency", &concurrency.to_string(), "--workflows"]).arg(folder);
    command
}

/// The settings that such a daemon finds and that are not as shipped, each with its source; a system-wide file is left to find.
pub fn altered(stepd: &Path, folder: &Path) -> Result<Vec<String>> {
    let output = apart(stepd, folder).args(["config", "-o", "json"]).output()?;
    ensure!(output.status.success(), "stepd config: {}", String::from_utf8_lossy(&output.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let shown = shown.as_array().context("stepd config printed no list")?;
    let told = |s: &serde_json::Value| format!("{} = {} ({})", s["key"], s["value"], s["source"]);
    let strange =
        |s: &&serde_json::Value| !s["value"].is_null() && s["source"] != "default" && s["key"] != "log_format";
    Ok(shown.iter().filter(strange).map(told).collect())
}
