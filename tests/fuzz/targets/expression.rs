//! Expressions and templates, compiled and evaluated.

use std::sync::Arc;

use serde_json::{Map, Value};
use stepd::definition::Trial;
use stepd::model::Payload;

use super::{Form, Fuzzed, Target, fields, fit_for_people, joined};
use crate::seeds;

pub const TARGET: Target = Target {
    name: "expression",
    what: "expressions and templates, with an input and the results of steps",
    weight: 4,
    forms: &[Form::Text, Form::Json, Form::Json],
    words: &[
        "input",
        "steps",
        "run",
        "item",
        "env",
        ".output",
        ".error.code",
        ".state",
        "| default(1)",
        "| length",
        "| json",
        "| join(',')",
        "| sort",
        "| map(attribute='a')",
        "| select('gt', 1)",
        "| tojson",
        "| upper",
        "| replace('a', 'b')",
        "| first",
        "| int",
        "| float",
        "| round",
        "| list",
        "| unique",
        "| reverse",
        "| batch(2)",
        "| slice(2)",
        "| items",
        "| sum",
        "| min",
        " and ",
        " or ",
        "not ",
        " in ",
        " is defined",
        " is none",
        " if ",
        " else ",
        " ~ ",
        " ** ",
        " // ",
        " % ",
        "range(9)",
        "[0]",
        "[1:]",
        "[::-1]",
        "${{ ",
        " }}",
        "(",
        ")",
        "{'a': 1}",
        "[1, 2]",
        "'x' * 1000",
        "true",
        "none",
        "==",
        "<",
        "loop",
        "namespace()",
        "dict(a=1)",
        "debug()",
        "cycler(1)",
        "0.1",
        "1e308",
        "-9223372036854775808",
        "170141183460469231731687303715884105727",
    ],
    make: || Box::new(Expressions),
};

const INPUT: &str = r#"{"n": 3, "list": [1, 2, {"a": "b"}], "name": "Ada", "big": 123456789012345678901234567890, "deep": {"a": {"b": [null]}}}"#;
const STEPS: &str = r#"{"order": {"output": {"qty": 2, "sku": "x"}}, "docs": {"output": [1, {"$error": {"code": "x"}}]},
    "pay": {"error": {"code": "http_503", "message": "no"}}, "left": {"state": "skipped"}}"#;

struct Expressions;

fn object(text: &str) -> Map<String, Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

impl Fuzzed for Expressions {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let more = [
            "input.list | length + 1",
            "a ${{ input.name }} b ${{ steps.order.output.qty * 2 }}",
            "item.a[0]",
            "steps.docs.failed",
        ];
        let texts = seeds::expressions().into_iter().chain(more.map(str::to_owned));
        texts.map(|text| joined(&[&text, INPUT, STEPS])).collect()
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let [text, given, steps] = fields(input);
        // As rows have it: what Postgres takes for JSON.
        let given = Payload::from_text(&given).unwrap_or_else(|_| Payload::null());
        let raw = object(r#"{"item": {"a": [1, "x"]}, "status": 200, "body": "text"}"#);
        match Trial::new(given, &object(&steps), raw, Arc::default()) {
            Err(wrong) => {
                drop(wrong);
                Ok(())
            }
            Ok(trial) => match trial.eval(&text) {
                Ok(value) => {
                    drop(value.to_string());
                    Ok(())
                }
                Err(wrong) => fit_for_people(&wrong.to_string()),
            },
        }
    }
}
