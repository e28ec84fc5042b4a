use chrono::TimeDelta;
use uuid::Uuid;

use super::*;

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
}

fn run(started: i64, ended: Option<i64>) -> RunDetail {
    RunDetail {
        id: Uuid::nil(),
        state: if ended.is_some() { "completed" } else { "running" }.into(),
        workflow: "w".into(),
        queue: "default".into(),
        priority: 5,
        created_at: at(0),
        run_at: None,
        started_at: Some(at(started)),
        ended_at: ended.map(at),
        due_at: None,
        step: None,
        attempts: None,
        resumes: 0,
        crashes: 1,
        unique_key: None,
        labels: "{}".into(),
        input: "{}".into(),
        output: None,
        error: None,
        created_by: None,
        session_id: None,
        forked_from: None,
        from_step: None,
        epoch: 2,
        calls: None,
        tokens_in: None,
        tokens_out: None,
        cost: None,
        parent: None,
        worker: None,
        why: String::new(),
        now: at(10_000),
    }
}

fn step(key: &str, kind: &str, from: i64, to: i64) -> StepLine {
    StepLine {
        seq: 1,
        key: key.into(),
        kind: kind.into(),
        state: "completed".into(),
        attempts: 1,
        started_at: at(from),
        ended_at: Some(at(to)),
        due_at: None,
        error_code: None,
        error_message: None,
        output: None,
        error: None,
        event: None,
        epoch: 1,
        label: None,
        calls: None,
        tokens_in: None,
        tokens_out: None,
        cost: None,
        child: None,
        chosen: None,
    }
}

fn drawn<'a>(run: &'a RunDetail, steps: &'a [StepLine], history: &'a [HistoryLine]) -> Story<'a> {
    Story { run, steps, history, items: false, killed: None }
}

fn event(ms: i64, event: &str, key: Option<&str>, data: &serde_json::Value) -> HistoryLine {
    HistoryLine {
        seq: 1,
        at: at(ms),
        event: event.into(),
        key: key.map(Into::into),
        attempt: None,
        by_whom: None,
        epoch: None,
        data: Some(data.to_string()),
    }
}

fn story() -> (RunDetail, Vec<StepLine>, Vec<HistoryLine>) {
    let mut steps = vec![
        step("list", "sql", 1000, 1200),
        StepLine { attempts: 2, ..step("charge", "http", 1200, 4000) },
        step("docs", "map", 4000, 8000),
    ];
    for n in 0..4 {
        steps.push(step(&format!("docs[{n}].text"), "run", 4000 + 500 * n, 6000 + 500 * n));
    }
    steps.push(StepLine {
        state: "skipped".into(),
        kind: "approve".into(),
        ..step("review\u{1b}", "approve", 8000, 8000)
    });
    let tried = serde_json::json!({"started_at": at(1200), "ended_at": at(2000), "retry_in_ms": 500, "failure": {"code": "http_503"}});
    let died = serde_json::json!({"steps": ["docs", "docs[1].text"], "host": "a"});
    let history = vec![
        event(2000, "attempt failed", Some("charge"), &tried),
        event(5000, "crashed", None, &died),
        event(5050, "resumed", None, &serde_json::json!({})),
    ];
    (run(1000, Some(8000)), steps, history)
}

#[test]
fn a_death_and_a_resume_stand_where_they_happened() {
    let (run, steps, history) = story();
    let text = drawn(&run, &steps, &history).draw(72, true);
    insta::assert_snapshot!(text, @r"
                0 ms        2.40 s      4.80 s
    run         ░░░░░────────────────────×↻─────────────  7.00 s
    list             █                                    200 ms
    charge            ▒▒▒▒··████████                      2.80 s, 2 attempts
    docs                            █████×↻█████████████  4.00 s
    docs[*]                         ▂▂▄▄▄×↻████▆▆▄▄▄▂▂    4 items, 4 steps
    review\x1b                                            skipped
    █ at work   ▒ failed attempt   · pause   ░ waiting   × worker died   ↻ resumed
    ");
}

#[test]
fn without_unicode_the_same_stands_in_ascii() {
    let (run, steps, history) = story();
    let text = drawn(&run, &steps, &history).draw(72, false);
    assert!(text.is_ascii(), "{text}");
    assert!(text.contains("x>"), "{text}");
}

#[test]
fn every_line_fits_and_nothing_breaks_at_any_width() {
    let (run, steps, history) = story();
    for most in [60, 80, 100, 130] {
        let text = drawn(&run, &steps, &history).draw(most, true);
        for line in text.lines().filter(|l| !l.contains("   ")) {
            assert!(width(line) <= most, "{most}: {line}");
        }
    }
    let empty = RunDetail { started_at: None, ..self::run(0, None) };
    assert!(drawn(&empty, &[], &[]).draw(10, true).starts_with("     0 ms"));
}

#[test]
fn a_step_that_still_waits_for_its_next_try_shows_a_pause() {
    let tried = serde_json::json!({"started_at": at(0), "ended_at": at(1000), "retry_in_ms": 60_000});
    let history = [event(1000, "attempt failed", Some("s"), &tried)];
    let steps = [StepLine { state: "waiting".into(), ended_at: None, ..step("s", "http", 0, 0) }];
    let run = self::run(0, None);
    let rows = drawn(&run, &steps, &history).rows();
    assert_eq!(rows[1].fills, [(0.0, 1000.0, Fill::Failed), (1000.0, 10_000.0, Fill::Pause)]);
    assert_eq!(run.now - run.created_at, TimeDelta::seconds(10));
}

#[test]
fn each_item_has_a_row_with_its_label_and_the_death_its_gap() {
    let (run, mut steps, history) = story();
    for s in &mut steps {
        s.label = s.key.starts_with("docs[1]").then(|| "b.pdf".into());
    }
    let story = Story { items: true, killed: Some(at(4200)), ..drawn(&run, &steps, &history) };
    insta::assert_snapshot!(story.draw(80, true), @r"
                     0 ms        2.23 s      4.46 s      6.69 s
    run              ░░░░░─────────────────×····↻───────────────  7.00 s
    list                  ██                                      200 ms
    charge                 ▒▒▒▒···█████████                       2.80 s, 2 attempts
    docs                                  █×····↻███████████████  4.00 s
    docs[0]                               ████████████            2.00 s
    docs[1] (b.pdf)                        ×····↻███████          2.00 s
    docs[2]                                    ████████████       2.00 s
    docs[3]                                       ████████████    2.00 s
    review\x1b                                                    skipped
    █ at work   ▒ failed attempt   · pause   ░ waiting   × worker died   ↻ resumed
    ");
}

#[test]
fn what_did_not_go_well_in_a_map_is_named_by_its_label() {
    let (run, mut steps, history) = story();
    for s in steps.iter_mut().filter(|s| s.key.starts_with("docs[1]")) {
        (s.label, s.state) = (Some("b.pdf".into()), "failed".into());
    }
    let text = drawn(&run, &steps, &history).draw(100, true);
    assert!(text.contains("4 items, 4 steps; 1 failed: b.pdf"), "{text}");
}

#[test]
fn a_run_that_nobody_took_up_again_shows_no_resume() {
    let (run, steps, mut history) = story();
    history.retain(|l| l.event != "resumed");
    let text = drawn(&run, &steps, &history).draw(80, true);
    assert!(text.contains('×') && !text.contains('↻'), "{text}");
}
