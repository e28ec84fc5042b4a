//! What data does to a terminal, and to a log that is looked at on one: nothing but be shown.

use serde_json::{Value, json};

use crate::cli::{Done, stepd};
use crate::injection::Ground;
use crate::support::{SOON, Spec, wait_until};

const SHOWN: &str = r#"
name: shown
resume: never
steps:
  - {id: each, map: "${{ input.v }}", as: v, label: v, max_parallel: 50, steps: [{id: it, set: "${{ v }}"}]}
  - id: says
    exec: [sh, -c, 'cat >&2; exit 3']
    stdin: "${{ input.v | join('\n') }}"
    retry: {max_attempts: 1}
"#;

/// What plays with a terminal: controls but for the ends of lines, marks of direction, what has no width.
fn plays(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Notes the first line of a text that plays with a terminal.
fn look(found: &mut Vec<String>, what: &str, text: &str) {
    let line = text.lines().find(|line| line.chars().any(plays));
    found.extend(line.map(|line| format!("{what}: {line:?}")));
}

#[tokio::test]
async fn no_data_plays_with_a_terminal_or_forges_a_line_of_a_log() {
    let g = Ground::new().await;
    g.files.write("shown.yaml", SHOWN);
    let level = ("STEPD_LOG_LEVEL", "info,stepd::stderr=debug");
    let json_logs =
        Spec::new(&g.db, &g.files).env(level.0, level.1).env("STEPD_ERROR_LOG", g.files.path("stepd.toml").display());
    let worker = json_logs.ready().await;
    // A label or a session that holds all of them would be too long.
    for text in g.all.iter().filter(|text| text.chars().any(plays)) {
        let job = "INSERT INTO stepd.jobs (workflow, input, labels, session_id, unique_key, run_at) VALUES ('shown', $1::json, jsonb_build_object($2::text, $2), $2, $2, now() + interval '1 day')";
        sqlx::query(job).bind(json!({"v": [text]}).to_string()).bind(text).execute(&g.db.pool).await.unwrap();
    }
    let run = g.enqueued("shown", &json!({"v": g.all})).await;
    g.db.reaches(&run, "failed", SOON).await;
    wait_until("its log is kept", SOON, async || {
        g.db.count(format!("SELECT count(*) FROM stepd.logs WHERE run = '{run}'")).await > 300
    })
    .await;
    let mut found = Vec::new();
    for args in [
        &["ls"][..],
        &["ls", "-n", "100"],
        &["show", &run],
        &["logs", &run],
        &["logs", &run, "-o", "json"],
        &["why", &run],
        &["watch", &run],
        &["show", &run, "--step", "says"],
        &["show", &run, "--all"],
        &["show", &run, "-o", "json"],
        &["diff", &run, &run],
        &["queue", "ls"],
        &["workflow", "ls"],
        &["doctor"],
        &["stats"],
        &["cost"],
    ] {
        let Done { out, err, .. } = stepd(&g.db, args).await;
        look(&mut found, &format!("stepd {args:?}"), &(out + &err));
    }
    for text in g.all.iter().filter(|text| text.chars().any(plays)).step_by(4) {
        for args in [
            &["show", text][..],
            &["enqueue", text],
            &["ls", "--label", text],
            &["eval", text],
            &["cancel", text, "--yes"],
        ] {
            let Done { out, err, .. } = stepd(&g.db, args).await;
            look(&mut found, &format!("stepd {args:?}"), &(out + &err));
        }
    }
    // One line of the log is one JSON object, of whom its author says that it is.
    let log = worker.log();
    look(&mut found, "the log", &log);
    for line in log.lines().chain(std::fs::read_to_string(g.files.path("stepd.toml")).unwrap().lines()) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_ne!(line["message"], "forged");
    }
    drop(worker);
    let pretty = Spec::new(&g.db, &g.files).env(level.0, level.1).env("STEPD_LOG_FORMAT", "pretty");
    let mut worker = pretty.start();
    worker.logs("ready").await;
    let run = g.enqueued("shown", &json!({"v": g.all})).await;
    g.db.reaches(&run, "failed", SOON).await;
    worker.logs("Injected").await;
    look(&mut found, "the log for people", &worker.log());
    assert_eq!(found, Vec::<String>::new());
    drop(worker);
    g.is_unharmed().await;
}
