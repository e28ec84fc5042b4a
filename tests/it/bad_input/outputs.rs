//! What steps say: whatever bytes they are, they survive or fail alone.

use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::Transcript;
use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec};

/// Runs the script that it is given, once.
const SAYS: &str = "
name: says
resume: never
steps:
  - id: it
    exec: [bash]
    stdin: ${{ input.script }}
    retry: {max_attempts: 1}
  - id: again
    set: {value: \"${{ steps.it.output }}\"}
output: steps.again.output.value
";

async fn says(db: &Db, script: &str) -> String {
    let input = serde_json::json!({"script": script}).to_string().replace('\'', "''");
    db.enqueue("says", &input).await
}

/// A run's output, or its error.
async fn came_to(db: &Db, run: &str) -> String {
    let ended = "state IN ('completed', 'failed')";
    crate::support::wait_until("it ends", SOON, async || {
        db.count(format!("SELECT count(*) FROM stepd.runs WHERE id = '{run}' AND {ended}")).await == 1
    })
    .await;
    db.one(format!(
        "SELECT coalesce(output::text, error_code || ': ' || error_message) FROM stepd.runs WHERE id = '{run}'"
    ))
    .await
}

#[tokio::test]
async fn bytes_that_no_jsonb_holds_survive_in_outputs_and_every_view_still_reads() {
    let (db, files) = (Db::new().await, Files::new([SAYS]));
    let mut worker = Spec::new(&db, &files).ready().await;
    for (script, output) in [
        (r"printf 'a\000b'", r#""a\u0000b""#),
        (r#"printf '{"a":"x\\u0000y"}'"#, r#"{"a":"x\u0000y"}"#),
        (r"printf '\xff\xc3\x28'", "\"\u{fffd}\u{fffd}(\""),
        (r#"printf '{"a":"\xff"}'"#, "{\"a\":\"\u{fffd}\"}"),
        // Half of a pair is no text: then it is no JSON either, and stays as it was said.
        (r#"printf '["\\ud800"]'"#, r#""[\"\\ud800\"]""#),
        (r#"printf '["\\ud83d\\ude00"]'"#, "[\"\u{1f600}\"]"),
        ("printf NaN", r#""NaN""#),
        (r"printf '[1e400, 0.10, 123456789012345678901234567890]'", "[1e+400,0.10,123456789012345678901234567890]"),
    ] {
        let run = says(&db, script).await;
        assert_eq!(came_to(&db, &run).await, output, "{script}");
    }
    // Nested too deep to be read: text.
    let run = says(&db, "head -c 100000 /dev/zero | tr '\\0' '['; head -c 100000 /dev/zero | tr '\\0' ']'").await;
    assert!(came_to(&db, &run).await.starts_with("\"[[[["));
    let run = says(&db, r"printf '\033[2J\xe2\x80\xae\x00' >&2; exit 3").await;
    assert!(came_to(&db, &run).await.starts_with("exit_3: "));
    for view in ["runs", "steps", "attempts", "history", "waiting", "queues", "workers", "workflows"] {
        db.exec(format!("SELECT row_to_json(v) FROM stepd.{view} v")).await;
    }
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 10);
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn what_an_http_step_is_answered_survives_or_fails_alone() {
    let server = MockServer::start().await;
    let body = |bytes: &[u8]| ResponseTemplate::new(200).set_body_raw(bytes.to_vec(), "application/json");
    for (place, answer) in [
        ("/nul", body(br#"{"a": "x\u0000y"}"#)),
        ("/utf8", body(b"{\"a\": \"\xff\"}")),
        ("/lone", body(br#"["\ud800"]"#)),
        ("/huge", body(&vec![b'x'; 17 << 20])),
        ("/deep", body("[".repeat(100_000).as_bytes())),
    ] {
        Mock::given(path(place)).respond_with(answer).mount(&server).await;
    }
    let get = format!(
        "name: get\nresume: never\nsteps:\n  - {{id: it, http: \"GET ${{{{ '{}' ~ input.path }}}}\", retry: {{max_attempts: 1}}}}\noutput: steps.it.output\n",
        server.uri()
    );
    let (db, files) = (Db::new().await, Files::new([get]));
    let mut worker = Spec::new(&db, &files).env("STEPD_HTTP_ALLOW", "127.0.0.1").ready().await;
    for (place, output) in [
        ("/nul", r#"{"a":"x\u0000y"}"#),
        ("/utf8", "{\"a\":\"\u{fffd}\"}"),
        ("/lone", r#""[\"\\ud800\"]""#),
        ("/huge", "too_large: "),
        ("/deep", "\"[[["),
    ] {
        let run = db.enqueue("get", &format!(r#"{{"path": "{place}"}}"#)).await;
        let got = came_to(&db, &run).await;
        assert!(got.starts_with(output), "{place}: {got}");
    }
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn fifty_megabytes_fail_alone_and_the_daemon_stays_small() {
    let (db, files) = (Db::new().await, Files::new([SAYS]));
    let mut worker = Spec::new(&db, &files).concurrency(8).ready().await;
    let much = "head -c 50000000 /dev/zero | tr '\\0' x";
    let mut large = Vec::new();
    for script in [much.to_owned(), format!("printf '[\"'; {much}; printf '\"]'"), format!("{much} >&2; exit 3")] {
        large.push(says(&db, &script).await);
    }
    let small = says(&db, "echo small").await;
    assert_eq!(came_to(&db, &small).await, "\"small\"");
    let told = "too_large: the program wrote more than 16777216 bytes to stdout: write to a file, or raise the limit";
    assert_eq!(came_to(&db, &large[0]).await, told);
    assert_eq!(came_to(&db, &large[1]).await, told);
    let failed = came_to(&db, &large[2]).await;
    assert!(
        failed.starts_with("exit_3: the program ended with exit code 3: xxx") && failed.len() < 10_000,
        "{}",
        failed.len()
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 300_000, "{peak} kB at its largest");
    assert_eq!(worker.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn what_steps_say_cannot_write_to_the_terminal_of_whoever_looks() {
    let (db, files) = (Db::new().await, Files::new([SAYS]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let wild = r"printf '\033[2J\033]0;title\007\xe2\x80\xae rtl \xc2\x9b2J\r\xe2\x80\x8b'";
    let (good, bad) = (says(&db, wild).await, says(&db, &format!("{wild} >&2; exit 3")).await);
    db.reaches(&good, "completed", SOON).await;
    db.reaches(&bad, "failed", SOON).await;
    let mut seen = Transcript::default();
    seen.stepd(&db, &["why", &bad]).await;
    for args in [
        vec!["ls"],
        vec!["show", &bad],
        vec!["show", &good, "--all"],
        vec!["show", &good, "-o", "json"],
        vec!["ls", "-o", "jsonl"],
    ] {
        seen.done(&args.join(" "), &stepd(&db, &args).await.is(0));
    }
    let again =
        stepd(&db, &["run", "says", "--no-resume", "--input", &serde_json::json!({"script": wild}).to_string()]).await;
    seen.done("run", &again);
    let text = seen.read(&[]);
    let wild = text
        .chars()
        .find(|c| c.is_control() && *c != '\n' || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'));
    assert_eq!(wild, None, "{text}");
    assert_eq!(worker.drain(SOON).await, Some(0));
}
