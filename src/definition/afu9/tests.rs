//! What AFU-9's engine was observed to do with placeholders and conditions, row by row, and what its documentation promises.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::load;
use super::*;

fn context() -> Context {
    Context::of(json!({
        "variables": {"v": 7, "s": "bug", "o": {"a": [{"b": 1}]}, "flag": false, "zero": 0, "empty": "", "issue": {"number": 9}, "n": null},
        "input": {"issue_number": 123, "n": 123, "list": [1, 2], "o": {"x": 1}, "f": false, "half": 1.5},
        "repo": {"owner": "ada", "name": "engine"},
        "issue": {"number": 5, "title": "from outside"},
    }))
}

const ENGINE: Filling = Filling { compat: Compat::Engine, typed: false, keep: false };
const DOCUMENTED: Filling = Filling { compat: Compat::Documented, typed: false, keep: false };

fn filled(value: Value, how: Filling) -> Value {
    context().fill(&value, how).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_engine_made_text_of_everything() {
    for (text, expected) in [
        ("${input.issue_number}", "123"),
        ("${input.o}", "[object Object]"),
        ("${input.list}", "1,2"),
        ("${variables.n}", "null"),
        ("${input.f}", "false"),
        ("${input.half}", "1.5"),
        ("${input.nowhere}", "${input.nowhere}"),
        ("${ variables.v }", "${ variables.v }"),
        ("${new Date().toISOString()}", "${new Date().toISOString()}"),
        ("$${variables.v}", "$7"),
        ("${input.list[1]}", "2"),
        ("${variables.o.a[0].b}", "1"),
        // The root is the context, not the variables.
        ("${v}", "${v}"),
        ("${issue.number}", "5"),
        ("${variables.issue.number}", "9"),
        ("a ${} ${variables.s", "a ${} ${variables.s"),
    ] {
        assert_eq!(filled(json!(text), ENGINE), json!(expected), "{text}");
    }
    let nested = json!({"n": 1, "b": true, "z": null, "deep": [["${variables.s}", 2]]});
    assert_eq!(
        filled(nested, ENGINE),
        json!({"n": 1, "b": true, "z": null, "deep": [["bug", 2]]}),
        "literals are kept"
    );
}

#[test]
fn as_documented_an_assigned_variable_is_found_by_its_name_alone_and_objects_stay_objects() {
    for (text, expected) in [
        ("${input.issue_number}", json!("123")),
        ("${input.f}", json!("false")),
        ("${input.o}", json!({"x": 1})),
        ("${input.list}", json!([1, 2])),
        ("list: ${input.list} ${input.o}", json!("list: [1,2] {\"x\":1}")),
        ("${v}", json!("7")),
        ("${issue.number}", json!("9")),
        ("${issue}", json!({"number": 9})),
        ("${repo.owner}/${repo.name}", json!("ada/engine")),
        ("${ variables.v }", json!("7")),
        ("${input.list[1]}", json!("2")),
        ("$${variables.v}", json!("$7")),
        // No path, and no code that is run: text.
        ("at ${new Date().toISOString()}", json!("at ${new Date().toISOString()}")),
        ("${process.exit(1)}", json!("${process.exit(1)}")),
    ] {
        assert_eq!(filled(json!(text), DOCUMENTED), expected, "{text}");
    }
    let typed = Filling { typed: true, ..DOCUMENTED };
    assert_eq!(filled(json!(["${input.n}", "${input.f}", "n ${input.n}"]), typed), json!([123, false, "n 123"]));
    for nowhere in ["${input.nowhere}", "${nobody.knows it}", "${input.list[7]}"] {
        let failure = context().fill(&json!({"a": [nowhere]}), DOCUMENTED).unwrap_err();
        assert!(failure.message.contains(nowhere), "{failure}");
        let keep = Filling { keep: true, ..DOCUMENTED };
        assert_eq!(filled(json!(nowhere), keep), json!(nowhere));
    }
}

fn holds(text: &str, compat: Compat) -> bool {
    Condition::new(text, compat).unwrap_or_else(|e| panic!("{text}: {}", e.message)).holds(&context())
}

#[test]
fn conditions_as_the_engine_decided_them() {
    for (text, expected) in [
        ("${variables.v}", true),
        ("${variables.zero}", false),
        ("${variables.empty}", false),
        ("${variables.n}", false),
        ("${variables.flag}", false),
        ("${variables.nowhere}", false),
        ("'${variables.s}' === 'bug'", true),
        ("'${variables.s}' !== 'bug'", false),
        ("${variables.s} === 'bug'", false),
        ("${variables.v} > 3 && ${input.n} === 123", true),
        ("${variables.v} > 30 || ${input.n} == '123'", true),
        // The schema's own example: looked up as a path.
        ("${variables.s === 'bug'}", false),
        ("${nowhere} === ${nowhere}", false),
        ("true", true),
        ("false", false),
        ("null", false),
        ("undefined", false),
        ("", false),
        ("!${variables.flag}", true),
        ("anything", true),
    ] {
        assert_eq!(holds(text, Compat::Engine), expected, "{text}");
    }
}

#[test]
fn an_attack_in_the_data_of_a_condition_is_a_text_that_is_compared() {
    for attack in [
        "1);process.exit()",
        "1); process.exit(); (1",
        "bug' || true || '",
        "require('child_process')",
        "${variables.s}",
    ] {
        let context = Context::of(json!({"input": {"x": attack}, "variables": {"s": "bug"}}));
        let holds = |text: &str, compat| Condition::new(text, compat).unwrap().holds(&context);
        for (text, expected) in [
            ("${input.x}", true),
            ("${input.x} === 1", false),
            ("${input.x} > 0", false),
            ("${input.x} === 'bug'", false),
            ("'${input.x}' === 'bug'", false),
            ("${input.x === 'bug'}", false),
            ("!${input.x}", false),
        ] {
            assert_eq!(holds(text, Compat::Documented), expected, "{text} with {attack}");
            // There it is pasted into the text, as it was there; no word in it can call anything.
            let _ = holds(text, Compat::Engine);
        }
        assert!(holds("${input.x}", Compat::Engine) && !holds("${input.x} === 1", Compat::Engine), "{attack}");
    }
}

#[test]
fn conditions_as_documented_in_all_three_spellings() {
    for (text, expected) in [
        ("${v}", true),
        ("${variables.zero}", false),
        ("${variables.empty}", false),
        ("${flag}", false),
        ("${nowhere.at.all}", false),
        ("${variables.o}", true),
        ("${s} === 'bug'", true),
        ("'${s}' === 'bug'", true),
        ("${s === 'bug'}", true),
        ("${s !== 'bug'}", false),
        ("!${flag}", true),
        ("${!flag && v > 3}", true),
        ("${v} > 3 && ${input.n} === 123", true),
        ("${input.n === '123'}", false),
        ("${input.n == '123'}", true),
        ("'${input.n}' === '123'", true),
        ("${v} >= 7 && (${v} <= 7 || false)", true),
        ("${issue.number} === 9", true),
        ("${nowhere} == null", true),
        ("${nowhere} === null", false),
        ("${nowhere} === undefined", true),
        ("${input.list[1]} === 2", true),
        ("'a' < 'b'", true),
        ("'fix ${s} now' == \"fix bug now\"", true),
        ("${s} > 3", false),
        ("true", true),
        ("false", false),
    ] {
        assert_eq!(holds(text, Compat::Documented), expected, "{text}");
    }
}

#[test]
fn no_value_is_ever_run_as_code() {
    let evil = Context::of(json!({"variables": {"x": "1);process.exit()", "y": "' || true || '"}, "input": {}}));
    for (text, compat) in [
        ("${variables.x} === 1", Compat::Engine),
        ("'${variables.y}' === 'safe'", Compat::Documented),
        ("${x} === 1", Compat::Documented),
    ] {
        assert!(!Condition::new(text, compat).unwrap().holds(&evil), "{text}");
    }
    // The engine pastes text: what is pasted may still be a comparison, but nothing that is called.
    for text in ["process.exit() === 1", "(() => true)() == true", "globalThis.x == undefined", "1 == 1; true"] {
        assert!(!Condition::new(text, Compat::Engine).unwrap().holds(&evil), "{text}");
    }
}

#[test]
fn an_input_is_a_whole_context_or_what_the_context_s_input_is() {
    let plain = Context::of(json!({"issue_number": 1, "repo": {"owner": "ada"}}));
    let find = |c: &Context, path: &str| c.find(path, Compat::Documented).cloned();
    assert_eq!(find(&plain, "input.issue_number"), Some(json!(1)));
    assert_eq!(find(&plain, "repo.owner"), Some(json!("ada")));
    let whole = Context::of(json!({"input": {"a": 1}, "variables": {"b": 2}, "issue": {"number": 3}}));
    assert_eq!(
        [find(&whole, "input.a"), find(&whole, "b"), find(&whole, "issue.number")],
        [1, 2, 3].map(|n| Some(json!(n)))
    );
    for odd in [json!(null), json!([1]), json!("text")] {
        assert_eq!(find(&Context::of(odd.clone()), "input"), Some(odd));
    }
}

const ISSUE_TO_PR: &str = include_str!("../../../tests/definitions/afu9/issue_to_pr.json");
const FIX_DEPLOY_FAILURE: &str = include_str!("../../../tests/definitions/afu9/fix_deploy_failure.json");

#[test]
fn documents_load_as_they_are() {
    let definition = load("issue_to_pr.json", ISSUE_TO_PR).unwrap_or_else(|e| panic!("{e}"));
    let document = definition.document.as_ref().unwrap();
    assert_eq!((&*definition.name, document.steps.len(), definition.kinds()), ("issue_to_pr", 3, vec!["mcp"]));
    assert_eq!(document.steps[0].target().unwrap(), ("github", "getIssue"));
    let definition = load("fix.json", FIX_DEPLOY_FAILURE).unwrap_or_else(|e| panic!("{e}"));
    let document = definition.document.as_ref().unwrap();
    assert_eq!(document.steps[3].retry.max_attempts, 3);
    assert_eq!(document.steps[0].retry.max_attempts, 1, "without `retry`, once");
    let nameless = load("flows/nightly.json", r#"{"steps": [{"name": "a", "tool": "afu9-runner.go", "params": {}}]}"#);
    assert_eq!(&*nameless.unwrap_or_else(|e| panic!("{e}")).name, "nightly");
}

#[test]
fn a_native_file_with_neither_is_no_document() {
    let native =
        load("a.json", r#"{"name": "a", "steps": [{"id": "one", "set": 1}]}"#).unwrap_or_else(|e| panic!("{e}"));
    assert!(native.document.is_none());
    assert!(load("a.yaml", "name: a\nsteps: []\n").is_err(), "a native file needs steps");
}

fn native(text: &str) -> String {
    let definition = load("x.json", text).unwrap_or_else(|e| panic!("{e}"));
    to_native(&definition.name, "x.json", definition.document.as_ref().unwrap())
}

#[test]
fn an_import_is_a_native_file() {
    insta::assert_snapshot!("issue_to_pr", native(ISSUE_TO_PR));
    insta::assert_snapshot!("fix_deploy_failure", native(FIX_DEPLOY_FAILURE));
    for text in [ISSUE_TO_PR, FIX_DEPLOY_FAILURE] {
        let told = load("imported.yaml", &native(text)).map(|d| d.kinds()).map_err(|e| e.to_string());
        match told {
            Ok(kinds) => assert_eq!(kinds, ["mcp"]),
            Err(told) => {
                assert!(!told.contains("did you mean") && told.contains("`mcp` is part of the language"), "{told}")
            }
        }
    }
}

proptest! {
    #[test]
    fn no_condition_and_no_text_makes_it_panic(text in "\\PC{0,60}|[a-z0-9 .${}'\"!&|=<>()\\[\\]-]{0,60}") {
        for compat in [Compat::Documented, Compat::Engine] {
            if let Ok(condition) = Condition::new(&text, compat) {
                let _ = condition.holds(&context());
            }
            let _ = context().fill(&json!(text), Filling { compat, ..Filling::default() });
        }
    }

    #[test]
    fn no_document_makes_the_loader_or_the_import_panic(text in "[a-z0-9 .${}'\"!&|=<>()\\[\\]-]{0,40}", tool in "[a-z.-]{0,8}") {
        let step = json!({"name": "a", "tool": tool, "params": {"x": text}, "if": text, "assign": "v"});
        let document = json!({"name": "a", "steps": [step]}).to_string();
        if let Ok(definition) = load("x.json", &document) {
            let _ = to_native("a", "x.json", definition.document.as_ref().unwrap());
        }
    }
}
