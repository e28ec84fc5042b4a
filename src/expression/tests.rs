use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::compile::{FILTERS, TESTS};
use super::*;
use crate::model::{Payload, RunId, StepKey, StepState};

fn scope(input: &Value) -> Arc<Scope> {
    let ids = Arc::new(StepIds::new([("order", false), ("docs", true), ("later", false)]));
    let steps = Steps::new(ids, None);
    let fill = |place, output: Value| {
        let output = LazyJson::new(Payload::from_value(&output));
        steps.fill(place, StepView { state: StepState::Completed, output, error: None });
    };
    fill(0, json!({"sku": "A-1", "qty": 3, "items": [{"id": 7}, {"id": 8}]}));
    fill(1, json!([1, {"$error": {"code": "x"}}, null]));
    Arc::new(Scope {
        input: Arc::new(LazyJson::new(Payload::from_value(input))),
        run: Arc::new(LazyRun::new(Box::new(|| Arc::new(json!({"id": "r", "workflow": "w"}))))),
        host: Arc::new(Host {
            env: Arc::new(json!({"REGION": "eu"})),
            secrets: Arc::new(BTreeMap::from([("token".to_owned(), "s3cret".to_owned())])),
        }),
        steps: Arc::new(steps),
        item: Some(Item { name: "doc".into(), items: Arc::new(json!([{"key": "a"}, {"key": "b"}])), index: 1 }),
        outer: None,
    })
}

fn view(input: &Value) -> View {
    let step = StepNames { run: RunId(uuid::Uuid::nil()), key: StepKey::from("charge"), attempt: 2, undoes: None };
    View { step: Some(step), ..View::of(&scope(input)) }
}

fn eval(source: &str, input: &Value) -> Result<Value, String> {
    let expression = Expression::compile(source).map_err(|e| e.to_string())?;
    expression.eval(&view(input)).map(std::borrow::Cow::into_owned).map_err(|f| f.message)
}

/// The same path, forced through the library.
fn slow(source: &str, input: &Value) -> Result<Value, String> {
    eval(&format!("({source})"), input)
}

#[test]
fn every_name_of_the_language_is_in_scope() {
    for (source, expected) in [
        ("input.a", json!(1)),
        ("steps.order.output.items[1].id", json!(8)),
        ("steps.order.state", json!("completed")),
        ("steps.order.error", Value::Null),
        ("steps.docs.count", json!(3)),
        ("steps.docs.failed", json!(1)),
        ("steps.docs.failed > 0", json!(true)),
        ("run.workflow", json!("w")),
        ("step.attempt", json!(2)),
        ("step.idempotency_key", json!("00000000-0000-0000-0000-000000000000/charge")),
        ("doc.key", json!("b")),
        ("doc.key ~ index", json!("b1")),
        ("index", json!(1)),
        ("env.REGION", json!("eu")),
        ("secrets.token", json!("s3cret")),
        ("steps['order'].output['sku']", json!("A-1")),
        ("[input.a, {'b': steps.order.output.items}]", json!([1, {"b": [{"id": 7}, {"id": 8}]}])),
        ("steps.order.output.items | map(attribute='id') | sum", json!(15)),
        ("'a' in input", json!(true)),
        ("'zzz' in input", json!(false)),
        ("input.b | default(5)", json!(5)),
        ("input.b is defined", json!(false)),
        ("steps.docs.output | selectattr('$error') | list | length", json!(1)),
        ("range(3)", json!([0, 1, 2])),
        ("[1, 'a', {'b': '<'}] | join(', ')", json!("1, a, {\"b\":\"<\"}")),
        ("steps.order.output.items | join('+', attribute='id')", json!("7+8")),
        ("'a.b' | replace('.', '-')", json!("a-b")),
        ("{'a': '<'} | tojson", json!("{\"a\":\"<\"}")),
    ] {
        assert_eq!(eval(source, &json!({"a": 1})), Ok(expected), "{source}");
    }
}

#[test]
fn a_missing_name_is_an_error_wherever_it_stands() {
    let input = json!({"order_id": 1, "n": null, "list": [1]});
    for (source, name) in [
        ("input.order_di", "`input.order_di` does not exist"),
        ("input.order_di == 1", "`input.order_di` does not exist"),
        ("input.order_di > 1", "`input.order_di` does not exist"),
        ("not input.order_di", "`input.order_di` does not exist"),
        ("input.order_di or 1", "`input.order_di` does not exist"),
        ("[input.order_di]", "`input.order_di` does not exist"),
        ("input.order_di ~ 'x'", "`input.order_di` does not exist"),
        ("input.order_id.x.y", "`input.order_id.x` does not exist"),
        ("input.n.x", "`input.n.x` does not exist"),
        ("input.list[3]", "`input.list[3]` does not exist"),
        ("steps.oder.output", "`steps.oder` does not exist"),
        ("steps.later.output", "`steps.later` does not exist"),
        ("steps.order.ouput", "`steps.order.ouput` does not exist"),
        ("1 + steps.order.output.sk", "`steps.order.output.sk` does not exist"),
        ("nonsense", "`nonsense` does not exist"),
        ("nonsense + 1", "`nonsense` does not exist"),
        ("secrets.tokn ~ ''", "`secrets.tokn` does not exist"),
    ] {
        let error = eval(source, &input).expect_err(source);
        assert!(error.starts_with(name), "{source}: {error}");
        assert!(error.contains(source), "the expression is named: {error}");
    }
    let told = eval("input.order_id.x.y", &input).unwrap_err();
    assert_eq!(told, "`input.order_id.x` does not exist (`input.order_id` has no parts) in `input.order_id.x.y`");
    let told = eval("input.something", &input).unwrap_err();
    assert_eq!(told, "`input.something` does not exist (`input` has order_id, n, list)");
    assert!(eval("input.order_di", &input).unwrap_err().ends_with("did you mean `order_id`?"));
    assert!(eval("[input.order_di]", &input).unwrap_err().ends_with("did you mean `order_id`?"));
}

#[test]
fn errors_never_show_a_secret() {
    for source in [
        "secrets.token + 1",
        "secrets.token | int",
        "{secrets.token: 1}.x",
        "range(secrets.token)",
        "[secrets.token][5]",
    ] {
        let error = eval(source, &json!({})).expect_err(source);
        assert!(!error.contains("s3cret"), "{error}");
    }
    assert!(!format!("{:?}", view(&json!({}))).contains("s3cret"));
    assert!(eval("[secrets]", &json!({})).is_err());
}

#[test]
fn a_condition_is_true_or_false_and_nothing_else() {
    let holds = |source: &str| Expression::compile(source).unwrap().eval_bool(&view(&json!({"a": 1, "s": "false"})));
    assert_eq!(holds("input.a > 0"), Ok(true));
    assert_eq!(holds("input.a > 1 and input.zzz"), Ok(false));
    assert!(holds("input.s").unwrap_err().message.contains("true or false"));
}

#[test]
fn templates_keep_types_where_they_are_whole_and_interpolate_where_they_are_not() {
    let template = json!({
        "whole": "${{ input.list }}",
        "text": "n=${{ input.n }} s=${{ input.s }} l=${{ input.list }} ${{ {'a': {'b': '}}'}} }}!",
        "deep": [{"x": "${{ input.n + 1 }}"}, "plain", 1.5],
    });
    let input = json!({"list": [1, {"a": null}], "n": 18446744073709551615u64, "s": "q\"q", "i": 1});
    let compiled = Template::compile(&json!({"whole": template["whole"], "text": template["text"]})).unwrap();
    assert_eq!(
        compiled.eval(&view(&input)).unwrap(),
        json!({
            "whole": [1, {"a": null}],
            "text": "n=18446744073709551615 s=q\"q l=[1,{\"a\":null}] {\"a\":{\"b\":\"}}\"}}!",
        })
    );
    let constant = Template::compile(&json!({"a": ["b", 1]})).unwrap();
    assert_eq!(constant.as_constant(), Some(&json!({"a": ["b", 1]})));
    let text = Template::text("${{ input.i }}").unwrap();
    assert_eq!(text.eval(&view(&input)).unwrap(), json!("1"));
}

#[test]
fn what_the_library_panics_over_is_an_error_of_the_expression() {
    let input = json!({"none": [], "empty": "", "list": [1, 2]});
    for source in ["input.none[::-1]", "input.empty[::-1]"] {
        let error = eval(source, &input).unwrap_err();
        assert!(error.contains("go backwards over nothing"), "{source}: {error}");
    }
    assert_eq!(eval("input.list[::-1]", &input).unwrap(), json!([2, 1]));
}

/// A thread of the daemon's has a stack of 2 MiB, and a chain is a tree as deep as it is long.
#[test]
fn no_chain_of_any_length_reaches_the_end_of_a_stack() {
    let links = [
        "+1",
        ".a",
        "|abs",
        "*1",
        " and 1",
        " or 0",
        " ~ 1",
        " == 1",
        "**1",
        " if 1 else 0",
        " is defined",
        "//1",
        " < 1",
        " in 1",
    ];
    let tried = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let input = json!({"a": 1, "text": "x", "none": null});
        for start in ["1", "input.a", "input.text", "input.none", "input.missing", "steps.missing"] {
            for link in links {
                for length in [10, 150, 1_000, 16_000, 1_000_000] {
                    let _ = eval(&format!("{start}{}", link.repeat(length / link.len())), &input);
                }
            }
        }
    });
    tried.unwrap().join().unwrap();
}

#[test]
fn chains_up_to_the_limit_give_what_they_say_and_longer_ones_name_it() {
    let deep = (0..110).fold(json!("end"), |inner, _| json!({"a": inner}));
    assert_eq!(eval(&format!("1{}", "+1".repeat(190)), &json!({})).unwrap(), json!(191));
    assert!(eval(&format!("input{}", ".a".repeat(90)), &deep).unwrap()["a"]["a"].is_object());
    assert_eq!(eval(&format!("'x'{}", " ~ 'x'".repeat(190)), &json!({})).unwrap(), json!("x".repeat(191)));
    assert_eq!(eval(&format!("[{}1]", "1, ".repeat(5_000)), &json!({})).unwrap().as_array().unwrap().len(), 5_001);
    let error = eval(&format!("1{}", "+1".repeat(300)), &json!({})).unwrap_err().to_string();
    assert!(error.contains("200 links"), "{error}");
}

#[test]
fn limits_end_what_would_never_end() {
    for source in [
        "range(100000) | join(range(100000) | join('-'))",
        "('0' * 100000) | replace('0', '0' * 100000)",
        "'x' * 99999999999",
        "[0] * 99999999999",
        "[1] | slice(999999999)",
    ] {
        assert!(eval(source, &json!({})).is_err(), "{source}");
    }
    let big = "'x' * 10000000";
    assert!(eval(&format!("{big} ~ {big}"), &json!({})).is_err());
    assert!(Expression::compile(&"(".repeat(5000)).is_err());
    assert!(Expression::compile(&"not ".repeat(5000)).is_err());
    assert!(Expression::compile(&"-".repeat(5000)).is_err());
}

#[test]
fn the_lists_of_filters_and_tests_are_those_of_the_library() {
    for filter in FILTERS {
        if let Err(e) = eval(&format!("[1] | {filter}"), &json!({})) {
            assert!(!e.contains("unknown filter"), "{e}");
        }
    }
    for test in TESTS {
        if let Err(e) = eval(&format!("1 is {test}"), &json!({})) {
            assert!(!e.contains("unknown test"), "{e}");
        }
    }
    assert!(Expression::compile("'%s' | format(1)").is_err());
    assert!(Expression::compile("1 | pprint").is_err());
}

#[test]
fn references_name_the_paths_that_an_expression_uses() {
    let names = |source: &str| -> Vec<String> {
        Expression::compile(source).unwrap().references().iter().map(|p| p.text(usize::MAX)).collect()
    };
    assert_eq!(names("steps.a.output + steps.b.output.c"), ["steps.a.output", "steps.b.output.c"]);
    assert_eq!(names("steps.a.output[0].x"), ["steps.a.output[0].x"]);
    assert_eq!(names("range(input.n)"), ["input.n"]);
    assert!(Expression::compile("'x' ~ secrets.a").unwrap().uses_secrets());
}

/// Any JSON that a payload can hold.
fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::Number)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        "[a-c]{0,3}|\\PC{0,5}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c]{1}", inner), 0..4).prop_map(|e| Value::Object(e.into_iter().collect())),
        ]
    })
}

fn any_path() -> impl Strategy<Value = String> {
    let segment = prop_oneof!["[.][a-c]", "\\[[0-3]\\]", "\\[\"[a-c]\"\\]", "\\['[a-c]'\\]"];
    let root = prop_oneof![
        Just("input"),
        Just("steps.order"),
        Just("steps.docs.output"),
        Just("doc"),
        Just("run"),
        Just("step")
    ];
    (root, prop::collection::vec(segment, 0..4)).prop_map(|(root, rest)| format!("{root}{}", rest.concat()))
}

/// Expressions that grow whatever they are given, put into each other.
fn any_growth() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("range(100000)"),
        Just("'xy'"),
        Just("input.a"),
        Just("99999"),
        Just("[0, 'x']"),
        Just("{'x': 'xx'}"),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(6, 24, 2, |inner| {
        (inner.clone(), inner, 0..9usize).prop_map(|(a, b, way)| match way {
            0 => format!("({a} ~ {b})"),
            1 => format!("({a} * {b})"),
            2 => format!("({a} | join({b}))"),
            3 => format!("({a} | replace('x', {b}))"),
            4 => format!("[{a}, {b}, {a}]"),
            5 => format!("({a} | map('string') | join({b}))"),
            6 => format!("({a} | batch(2) | list)"),
            7 => format!("({a} | tojson | tojson)"),
            _ => format!("({a} + {b})"),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_expression_runs_away(source in any_growth()) {
        let began = std::time::Instant::now();
        if let Ok(value) = eval(&source, &json!({"a": [1, "x", {"x": "x"}]})) {
            prop_assert!(value.to_string().len() <= 2 * limits::RESULT_BYTES, "{}", source);
        }
        prop_assert!(began.elapsed() < std::time::Duration::from_secs(20), "{}", source);
    }
}

proptest! {
    #[test]
    fn expressions_never_panic(source in "\\PC{0,40}|[a-z0-9 .\\[\\]{}()|'\"+*%~=<>-]{0,40}") {
        let _ = eval(&source, &json!({"a": [1, 2]}));
        let _ = Template::string(&format!("x ${{{{ {source} }}}} {source}"));
        let _ = split(&source);
    }

    #[test]
    fn words_of_the_language_in_any_order_never_panic(
        words in prop::collection::vec(prop_oneof![
            Just("input"), Just(".a"), Just("[0]"), Just("|"), Just("map"), Just("sort"), Just("("), Just(")"), Just("'x'"),
            Just("*"), Just("-"), Just("1"), Just("is"), Just("defined"), Just("["), Just("]"), Just("if"), Just("else"),
            Just("steps"), Just("~"), Just("join"), Just("[:-1]"), Just("9999999999"), Just("**"), Just("//"), Just("batch"),
        ], 0..14)
    ) {
        let _ = eval(&words.join(" "), &json!({"a": [1, "b", null]}));
    }

    #[test]
    fn the_fast_path_is_the_library_s_answer(input in any_json(), path in any_path()) {
        let (fast, slow) = (eval(&path, &input), slow(&path, &input));
        match (&fast, &slow) {
            (Ok(f), Ok(s)) => prop_assert_eq!(f, s),
            (Err(_), Err(_)) => {}
            _ => prop_assert!(false, "{}: {:?} is not {:?}", path, fast, slow),
        }
    }

    #[test]
    fn json_goes_through_unchanged(input in any_json()) {
        let same = |got: Value| {
            // As text, so that key order and the kind of each number count.
            prop_assert_eq!(got.to_string(), input.to_string());
            Ok(())
        };
        same(eval("input", &input).unwrap())?;
        same(slow("input", &input).unwrap())?;
        same(eval("[input][0]", &input).unwrap())?;
        same(eval("{'a': input}", &input).unwrap()["a"].clone())?;
    }
}
