//! `docs/operations.md`, run as it stands there: each command of its `console` blocks, on a real daemon and a real Postgres, must say what
//! is printed below it. In what is printed `…` stands for what differs from time to time, as a whole line for any number of lines; ids,
//! times, spans and sizes may differ by themselves.

mod lines;
mod printed;
mod scenes;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::SOON;

fn document() -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap()
}

/// A command, and what it says.
#[derive(Clone)]
struct Line {
    command: String,
    says: Vec<String>,
}

/// A block of the page.
#[derive(Clone)]
struct Block {
    heading: String,
    lines: Vec<Line>,
}

/// The blocks that are told of a scene: "```console SCENE".
fn blocks(scene: &str) -> Vec<Block> {
    let mut heading = String::new();
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in document().lines() {
        match (&mut open, line) {
            (Some(block), line) if line.starts_with("```") => {
                assert!(!block.lines.is_empty(), "a block without a command under {heading}");
                found.extend(open.take());
            }
            (Some(block), line) => match (line.strip_prefix("$ "), block.lines.last_mut()) {
                (Some(command), _) => block.lines.push(Line { command: command.to_owned(), says: Vec::new() }),
                (None, Some(last)) => last.says.push(line.to_owned()),
                (None, None) => panic!("a console block begins with a command: {line}"),
            },
            (None, line) if line.starts_with("## ") => line[3..].clone_into(&mut heading),
            (None, line) if line == format!("```console {scene}") => {
                open = Some(Block { heading: heading.clone(), lines: Vec::new() });
            }
            _ => {}
        }
    }
    found
}

/// Where the commands run.
struct Shell {
    folder: PathBuf,
    /// The operator's login, and those of an administrator: to the database, and to one that is restored.
    urls: [(&'static str, String); 3],
    path: String,
    /// Where the daemon serves HTTP: the page has the default.
    site: String,
}

impl Shell {
    /// What a command says, on both outputs.
    fn says(&self, script: &str) -> String {
        let script = script.replace("http://localhost:7837", &self.site);
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .env_clear();
        command.env("PATH", &self.path).env("HOME", &self.folder).env("LANG", "C.UTF-8");
        command.envs(self.urls.iter().map(|(k, v)| (k, v)));
        let done = command.output().unwrap();
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

/// Each command of a block in its turn. One that only looks is asked again until it says what is printed, or for too long.
fn plays(block: &Block, says: impl Fn(&str) -> String) {
    let mut named = String::new();
    for line in &block.lines {
        if is_name(&line.command) {
            named.push_str(&line.command);
            named.push('\n');
            continue;
        }
        let (began, script) = (Instant::now(), format!("{named}{}", line.command));
        loop {
            let said = says(&script);
            if printed::fits(&line.says, &said) {
                break;
            }
            assert!(
                only_looks(&line.command) && began.elapsed() < SOON,
                "under {:?}\n$ {}\nsays\n{said}\nand the page has\n{}",
                block.heading,
                line.command,
                line.says.join("\n")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// `run=$(stepd ls …)`: a name for the commands that follow.
fn is_name(command: &str) -> bool {
    command.split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase()))
}

fn only_looks(command: &str) -> bool {
    const LOOKS: [&str; 16] = [
        "stepd ls",
        "stepd show",
        "stepd why",
        "stepd logs",
        "stepd worker",
        "stepd queue ls",
        "stepd lock",
        "stepd doctor",
        "stepd db",
        "stepd stats",
        "stepd schedule ls",
        "stepd workflow",
        "curl",
        "psql",
        "systemctl is-active",
        "journalctl",
    ];
    LOOKS.iter().any(|look| command.starts_with(look))
}

#[test]
fn every_console_block_of_the_runbook_belongs_to_a_scene_that_is_played() {
    let document = document();
    let told: Vec<&str> = document.lines().filter_map(|line| line.strip_prefix("```console")).map(str::trim).collect();
    for scene in &told {
        assert!(scenes::ALL.contains(scene), "nobody plays the scene {scene:?}");
    }
    let played: usize = scenes::ALL.iter().map(|scene| blocks(scene).len()).sum();
    assert_eq!(played, told.len());
    assert!(played > 20, "{played}");
    // Each entry says when it is needed, and what comes after.
    for entry in document.split("\n## ").skip(1) {
        let heading = entry.lines().next().unwrap();
        if entry.contains("```console") {
            assert!(entry.contains("**When**"), "{heading} does not say when");
        }
    }
}
