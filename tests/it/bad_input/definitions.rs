//! Workflow files that are hostile, and files that change under their runs.

use super::Transcript;
use crate::cli::{stepd_at, stepd_within};
use crate::support::{Db, Files, SOON, Spec};

const HEAD: &str = "name: x\nsteps:\n";

fn many(n: usize, line: impl Fn(usize) -> String) -> String {
    (0..n).map(line).collect()
}

fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let text = |t: String| t.into_bytes();
    let set = |expression: String| text(format!("{HEAD}  - {{id: a, set: \"${{{{ {expression} }}}}\"}}\n"));
    let bomb = many(12, |i| match i {
        0 => "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".into(),
        i => format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", ")),
    });
    vec![
        ("alias_bomb.yaml", text(bomb + HEAD)),
        ("alias_of_itself.yaml", text("name: x\nsteps: &a [*a]\n".into())),
        ("merge_key.yaml", text(format!("{HEAD}  - &b {{id: a, run: 'true'}}\n  - {{<<: *b, id: c}}\n"))),
        ("deep_flow.yaml", text(format!("name: x\nsteps: {}", "[".repeat(200_000)))),
        ("deep_block.yaml", text(format!("name: x\n{}", many(1_000, |i| format!("{}a:\n", " ".repeat(i)))))),
        ("deep_json.json", text("[".repeat(200_000))),
        (
            "deep_maps.yaml",
            text(
                HEAD.to_owned()
                    + &many(60, |i| {
                        let (dash, rest) = ("  ".repeat(2 * i + 1), "  ".repeat(2 * i + 2));
                        format!("{dash}- id: m{i}\n{rest}map: ${{{{ input.a }}}}\n{rest}steps:\n")
                    }),
            ),
        ),
        ("large_file.yaml", text(HEAD.to_owned() + &many(100_000, |i| format!("  - {{id: s{i}, run: 'true'}}\n")))),
        ("long_name.yaml", text(format!("name: {}\n", "x".repeat(1_000_000)))),
        ("many_keys.yaml", text(format!("name: x\n{}", many(80_000, |i| format!("k{i}: 1\n"))))),
        ("many_keys_of_a_step.yaml", text(format!("{HEAD}  - id: a\n{}", many(60_000, |i| format!("    k{i}: 1\n"))))),
        ("one_id_for_all.yaml", text(HEAD.to_owned() + &many(20_000, |_| "  - {id: s, run: 'true'}\n".into()))),
        (
            "long_chain.yaml",
            text(HEAD.to_owned() + &many(15_000, |i| format!("  - {{id: s{i}, run: 'true', needs: [s{}]}}\n", i + 1))),
        ),
        ("open_quote.yaml", text(format!("name: \"x\n{}", "  y\n".repeat(200_000)))),
        ("deep_expression.yaml", set("(".repeat(20_000))),
        ("long_expression.yaml", set(vec!["1"; 100_000].join("+"))),
        ("not_not.yaml", set(format!("{}1", "not ".repeat(50_000)))),
        ("many_filters.yaml", set(format!("input{}", "|length".repeat(50_000)))),
        ("open_braces.yaml", text(format!("{HEAD}  - {{id: a, set: \"{}\"}}\n", "${{ ".repeat(50_000)))),
        ("not_utf8.yaml", b"name: x\n# caf\xe9\nsteps: []\n".to_vec()),
        (
            "utf16.yaml",
            "name: x\n".encode_utf16().fold(vec![0xff, 0xfe], |mut all, unit| {
                all.extend(unit.to_le_bytes());
                all
            }),
        ),
        ("nul.yaml", b"name: x\0\nsteps: []\n".to_vec()),
        ("turned.yaml", text(format!("{HEAD}  - {{id: a, r\u{202e}nu: '\u{202e}x\u{200b}'}}\n"))),
        ("escapes.yaml", text(format!("{HEAD}  - {{id: \"\\e[2J\", rnu: 'true'}}\n"))),
        (
            "schema_of_elsewhere.yaml",
            text(format!("input: {{$ref: 'file:///etc/passwd'}}\n{HEAD}  - {{id: a, run: 'true'}}\n")),
        ),
        (
            "large_pattern.yaml",
            text(format!(
                "input: {{properties: {{a: {{pattern: '((a{{100}}){{100}}){{100}}'}}}}}}\n{HEAD}  - {{id: a, run: 'true'}}\n"
            )),
        ),
        (
            "long_duration.yaml",
            text(format!(
                "{HEAD}  - {{id: a, sleep: 99999999999999999999d}}\n  - {{id: b, sleep: -5s}}\n  - {{id: c, sleep: 1e9s}}\n"
            )),
        ),
        ("list_as_key.yaml", text("name: x\n[a]: 1\n".into())),
        ("blank.yaml", text(" \n\n".into())),
    ]
}

/// Seconds of a processor. One on a release build; this one is some times slower.
const LONGEST: u32 = 5;

#[test]
fn no_file_makes_the_check_slow_or_long_or_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Transcript::default();
    for (name, bytes) in hostile() {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let done = stepd_within(LONGEST, &["check", file.to_str().unwrap()]);
        assert_eq!(done.code, Some(1), "{name}: {}{}", done.out, done.err);
        assert!(done.err.len() < 100_000, "{name}: {} bytes", done.err.len());
        let wild = done
            .err
            .chars()
            .find(|c| c.is_control() && *c != '\n' || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'));
        assert_eq!(wild, None, "{name}: {}", done.err);
        // The first complaint of each; a long line of the file is shown in part.
        let first: Vec<&str> =
            done.err.split("\n\n").next().unwrap_or_default().lines().filter(|l| l.len() < 200).collect();
        seen.line(&first.join("\n"));
    }
    let place = dir.path().display().to_string();
    insta::assert_snapshot!(seen.read(&[(&format!("{place}/"), "")]));
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.yaml");
    std::fs::write(&good, format!("{HEAD}  - {{id: a, run: 'true'}}\n")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.yaml")).unwrap();
    assert_eq!(stepd_at(None, &["check", dir.path().to_str().unwrap()]).is(0).out.lines().count(), 1);
    stepd_at(None, &["check", "/dev/zero"]).is(1).says("larger than 1 MiB");
    std::os::unix::fs::symlink("round.yaml", dir.path().join("round.yaml")).unwrap();
    stepd_at(None, &["check", dir.path().to_str().unwrap()]).is(2).says("round.yaml cannot be read");
}

#[tokio::test]
async fn a_daemon_refuses_a_folder_with_a_wrong_file_and_names_all_that_is_wrong() {
    let (db, files) = (Db::new().await, Files::new([format!("{HEAD}  - {{id: a, run: 'true'}}\n")]));
    std::fs::write(files.workflows().join("bad.yaml"), b"name: \xff\n").unwrap();
    files.write("worse.yaml", "name: y\nsteps: [{id: a, rnu: 'true'}]\n");
    let mut worker = Spec::new(&db, &files).start();
    assert_eq!(worker.ends(SOON).await.code(), Some(1));
    assert!(worker.logged("not UTF-8") > 0 && worker.logged("did you mean `run`?") > 0, "{}", worker.log());
    std::fs::remove_file(files.workflows().join("bad.yaml")).unwrap();
    files.write("worse.yaml", &format!("{HEAD}  - {{id: b, run: 'true'}}\n"));
    let mut worker = Spec::new(&db, &files).start();
    assert_eq!(worker.ends(SOON).await.code(), Some(1));
    assert!(worker.logged("two files define the workflow `x`") > 0, "{}", worker.log());
}

const FIRST: &str = "
name: changing
steps:
  - {id: one, run: 'echo one >> @DIR@/effects; echo 1'}
  - {id: stop, wait: go}
  - {id: two, run: 'echo two >> @DIR@/effects; echo 2'}
output: steps.one.output + steps.two.output
";

#[tokio::test]
async fn a_run_keeps_its_definition_when_its_file_is_changed_renamed_or_removed() {
    let (db, files) = (Db::new().await, Files::new([FIRST]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let mut runs = Vec::new();
    let changed = FIRST.replace("id: one", "id: uno").replace("steps.one", "steps.uno").replace("echo 2", "echo 20");
    let reloads = [Some(changed.as_str()), Some("name: other\nsteps: [{id: a, set: 1}]\n"), None];
    for (n, text) in reloads.into_iter().enumerate() {
        files.write("w0.yaml", FIRST);
        worker.hup();
        crate::support::wait_until("reloaded", SOON, async || worker.logged("\"reloaded\"") == 2 * n + 1).await;
        let run = db.enqueue("changing", "{}").await;
        db.step_reaches(&run, "stop", "waiting", SOON).await;
        match text {
            Some(text) => files.write("w0.yaml", text),
            None => std::fs::remove_file(files.workflows().join("w0.yaml")).unwrap(),
        }
        worker.hup();
        crate::support::wait_until("reloaded", SOON, async || worker.logged("\"reloaded\"") == 2 * n + 2).await;
        runs.push(run);
    }
    // Also in a worker that has never seen the file.
    assert_eq!(worker.drain(SOON).await, Some(0));
    let mut worker = Spec::new(&db, &files).ready().await;
    for run in &runs {
        db.exec(format!("SELECT stepd.signal('{run}', 'go')")).await;
        db.reaches(run, "completed", SOON).await;
        assert_eq!(db.output(run).await, "3");
    }
    assert_eq!(files.lines("effects").len(), 6, "no step twice");
    // A file that is gone here may be there elsewhere: only retiring the workflow refuses its jobs.
    db.exec("UPDATE stepd_engine.workflows SET retired_at = now() WHERE name = 'changing'").await;
    let refused = sqlx::query("INSERT INTO stepd.jobs (workflow) VALUES ('changing')").execute(&db.pool).await;
    assert!(refused.unwrap_err().to_string().contains("stepd SD001: unknown workflow \"changing\""));
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn another_kind_under_a_recorded_key_fails_the_run_and_names_both() {
    let (db, files) = (Db::new().await, Files::new([FIRST]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("changing", "{}").await;
    db.step_reaches(&run, "stop", "waiting", SOON).await;
    files.write("w0.yaml", &FIRST.replace("run: 'echo one >> @DIR@/effects; echo 1'", "set: 1"));
    worker.hup();
    worker.logs("\"reloaded\"").await;
    // As a move to the newest definition would do it.
    db.exec("UPDATE stepd.jobs SET definition = (SELECT max(id) FROM stepd_engine.definitions)").await;
    db.exec(format!("SELECT stepd.signal('{run}', 'go')")).await;
    db.reaches(&run, "failed", SOON).await;
    let told: String = db.one("SELECT error_code || ': ' || error_message FROM stepd.runs").await;
    assert_eq!(
        told,
        "fingerprint_mismatch: step `one` was recorded as `run` and is now `set`: the definition has changed under the run; fork it from an earlier step"
    );
    assert_eq!(worker.drain(SOON).await, Some(0));
}
