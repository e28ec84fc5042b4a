//! What a file may say, and what is said about a wrong one.

use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(super) fn files(name: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Holds the messages of every wrong file against `<file>.txt`; `STEPD_BLESS=1` writes them anew.
#[test]
fn every_wrong_file_gets_the_messages_that_stand_beside_it() {
    let mut differences = String::new();
    let all = files("tests/definitions/wrong");
    assert!(all.len() >= 60, "only {} wrong files", all.len());
    for (name, text) in all {
        let got = load(&name, &text).map(|d| d.name).expect_err(&name).to_string();
        let path = folder("tests/definitions/wrong").join(format!("{name}.txt"));
        if std::env::var_os("STEPD_BLESS").is_some() {
            std::fs::write(&path, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if got != expected {
            let _ = writeln!(differences, "── {name}\n{got}\n── expected\n{expected}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn every_good_file_loads() {
    for (name, text) in files("tests/definitions/good") {
        if let Err(e) = load(&name, &text) {
            panic!("{e}");
        }
    }
}

#[test]
fn the_examples_of_the_language_load_as_they_are_written() {
    for name in ["fulfil_order", "index_documents", "nightly_backup"] {
        let path = format!("examples/{name}.yaml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        load(&path, &text).unwrap_or_else(|e| panic!("{e}"));
    }
}

fn one_step(text: &str) -> Step {
    let source = format!("name: a\nretry: {{max_attempts: 5, initial: 2s}}\nsteps:\n  - id: one\n    {text}\n");
    match load("a.yaml", &source) {
        Ok(mut definition) => definition.steps.steps.remove(0),
        Err(e) => panic!("{e}"),
    }
}

fn constant(step: &Step) -> serde_json::Value {
    match &step.kind {
        Kind::Task { params: Params::Object(template), .. } => template.as_constant().unwrap().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_parameters_are_those_of_the_contract() {
    use serde_json::json;
    for (text, expected) in [
        (
            "run: echo hi\n    env: {A: 1, B: true}\n    stdin: {x: 1}",
            json!({"script": "echo hi", "env": {"A": "1", "B": "true"}, "stdin": {"x": 1}}),
        ),
        ("exec: [ls, -l, 7]\n    cwd: /tmp", json!({"argv": ["ls", "-l", "7"], "cwd": "/tmp"})),
        ("http: https://a.b/c", json!({"method": "GET", "url": "https://a.b/c"})),
        (
            "http: PUT https://a.b/c\n    json: {a: [1]}\n    headers: {X: 1}",
            json!({"method": "PUT", "url": "https://a.b/c", "headers": {"X": "1"}, "json": {"a": [1]}}),
        ),
        (
            "sql: SELECT $1\n    params: [1, null]\n    connection: other",
            json!({"sql": "SELECT $1", "params": [1, null], "connection": "other"}),
        ),
        ("sleep: 5m", json!({"ms": 300_000})),
        ("wait: paid\n    timeout: 2d", json!({"event": "paid", "match": {}, "timeout_ms": 172_800_000})),
        ("approve: Go?\n    timeout: 10s", json!({"prompt": "Go?", "timeout_ms": 10_000})),
        ("set: {a: [1, yes]}", json!({"value": {"a": [1, "yes"]}})),
    ] {
        let step = one_step(text);
        assert_eq!(constant(&step), expected, "{text}");
    }
}

#[test]
fn a_wait_s_timeout_is_no_timeout_of_an_attempt_and_retries_are_inherited_field_by_field() {
    let wait = one_step("wait: paid\n    timeout: 2d");
    assert_eq!(wait.policy.timeout, None);
    let run = one_step("run: 'true'\n    timeout: 10s\n    retry: {max_attempts: 8, only: [timeout]}");
    assert_eq!(run.policy.timeout, Some(std::time::Duration::from_secs(10)));
    assert_eq!((run.policy.retry.max_attempts, run.policy.retry.initial.as_secs()), (8, 2));
}

#[test]
fn files_from_windows_load() {
    assert!(load("a", "\u{feff}name: a\r\nsteps:\r\n  - id: one\r\n    run: |\r\n      true\r\n").is_ok());
    let e = load("a", "name: a\r\nsteps:\r\n  - id: one\r\n    rnu: x\r\n").unwrap_err();
    assert_eq!((e.list[0].line, e.list[0].column), (4, 5));
    assert!(!e.to_string().contains('\r'));
}

#[test]
fn the_hash_is_that_of_the_text() {
    let text = "name: a\nsteps: [{id: one, run: 'true'}]\n";
    let hash = load("a", text).map(|d| d.hash).unwrap();
    assert_eq!(hash.len(), 64);
    assert_ne!(load("a", &format!("{text}\n")).map(|d| d.hash).unwrap(), hash);
}

#[test]
fn an_alias_bomb_is_refused_in_no_time() {
    let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (new, old) in ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"]) {
        let _ = writeln!(text, "{new}: &{new} [{}]", vec![format!("*{old}"); 10].join(","));
    }
    assert!(load("bomb", &text).unwrap_err().to_string().contains("aliases counted"));
}

#[test]
fn input_without_a_type_means_an_object() {
    let d = load("a", "name: a\ninput: {required: [x]}\nsteps: [{id: one, run: 'true'}]").unwrap();
    let schema = d.input.unwrap();
    let failure = schema.validate(&serde_json::json!("s3cret"), "invalid_input").unwrap_err();
    assert_eq!((failure.class, &*failure.code), (crate::model::Class::Permanent, "invalid_input"));
    assert!(!failure.message.contains("s3cret"), "{failure}");
    assert!(schema.validate(&serde_json::json!({"x": 1}), "invalid_input").is_ok());
}

#[test]
fn ten_thousand_steps_load() {
    let mut text = String::from("name: a\nsteps:\n");
    for i in 0..10_000 {
        let _ = writeln!(text, "  - id: s{i}\n    set: \"${{{{ run.id }}}}\"");
    }
    assert_eq!(load("a", &text).map(|d| d.steps.steps.len()).unwrap(), 10_000);
}

/// A random graph in which steps need only earlier ones.
fn any_graph() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (0usize..40).prop_flat_map(|n| {
        let needs = move |i: usize| {
            prop::collection::btree_set(0..i.max(1), 0..=i.min(4))
                .prop_map(move |s| s.into_iter().filter(|n| *n < i).collect())
        };
        (0..n).map(needs).collect::<Vec<_>>()
    })
}

proptest! {
    #[test]
    fn the_planner_starts_every_step_once_after_its_needs_and_never_stops_short(needs in any_graph(), order in any::<u64>()) {
        let graph = Graph::new(&needs);
        prop_assert_eq!(graph.cycle(), None);
        let mut plan = Plan::new(&graph);
        let mut ready = plan.start();
        let mut done = vec![false; needs.len()];
        let mut random = order;
        while !ready.is_empty() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let step = ready.swap_remove((random >> 33) as usize % ready.len());
            prop_assert!(!done[step], "twice");
            prop_assert!(needs[step].iter().all(|n| done[*n]), "before its needs");
            done[step] = true;
            plan.done(step, &mut ready);
        }
        prop_assert!(done.iter().all(|d| *d), "a step never started");
    }

    #[test]
    fn a_cycle_is_always_found(mut needs in any_graph(), from in any::<prop::sample::Index>()) {
        prop_assume!(needs.len() > 1);
        let last = needs.len() - 1;
        let first = from.index(last);
        // first → … → last → first
        for (i, list) in needs.iter_mut().enumerate().skip(first + 1) {
            if !list.contains(&(i - 1)) { list.push(i - 1); }
        }
        needs[first].push(last);
        let cycle = Graph::new(&needs).cycle().unwrap();
        for (i, step) in cycle.iter().enumerate() {
            prop_assert!(needs[*step].contains(&cycle[(i + 1) % cycle.len()]));
        }
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,80}|([a-z:{}\\[\\]$\"' \\-#&*\n,!|>]{0,60})") {
        let _ = load("x", &text).map_err(|e| e.to_string());
        let _ = load("x", &format!("name: a\nsteps:\n  - id: a\n    set: {text}")).map_err(|e| e.to_string());
    }

    #[test]
    fn a_good_file_with_one_character_changed_never_panics(place in any::<prop::sample::Index>(), new in any::<char>()) {
        for (name, text) in files("tests/definitions/good") {
            let mut chars: Vec<char> = text.chars().collect();
            let at = place.index(chars.len());
            chars[at] = new;
            let _ = load(&name, &chars.into_iter().collect::<String>()).map_err(|e| e.to_string());
        }
    }
}
