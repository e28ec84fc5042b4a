//! The schema and the parser know the same keys.

use serde_json::Value;

use super::super::diagnostics::Report;
use super::super::tests::files;
use super::super::{load, yaml};
use super::*;

fn validator() -> jsonschema::Validator {
    jsonschema::options().build(&editor_schema()).unwrap()
}

/// A file as plain JSON; `None` where it is no YAML at all.
fn json_of(text: &str) -> Option<Value> {
    let mut report = Report::new(text);
    yaml::parse(text, &mut report).filter(|_| report.is_empty()).map(|node| node.json())
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Workflow,
    Inner(&'static str),
    Kind(&'static str),
}

/// Every mapping of the language, with a file that has one, a key standing where `KEY` is.
fn owners() -> Vec<(Owner, String)> {
    let mut out = vec![(Owner::Workflow, "name: a\nKEY: 1\nsteps: [{id: one, set: 1}]".to_owned())];
    for (owner, _) in INNER {
        let text = match owner {
            "repeat" => "name: a\nsteps: [{id: one, repeat: {KEY: 1}}]".to_owned(),
            "limits" => "name: a\nsteps: [{id: one, run: x, limits: {KEY: 1}}]".to_owned(),
            _ => format!("name: a\n{owner}: {{KEY: 1}}\nsteps: [{{id: one, set: 1}}]"),
        };
        out.push((Owner::Inner(owner), text));
    }
    for kind in &KINDS {
        out.push((Owner::Kind(kind.word), format!("name: a\nsteps:\n  - id: one\n    {}: x\n    KEY: 1\n", kind.word)));
    }
    out
}

/// Does the parser know the key there? `None`: it says that a later version will.
fn known(text: &str, key: &str) -> Option<bool> {
    let told = load("a.yaml", text).map(|_| String::new()).unwrap_or_else(|e| e.to_string());
    if told.contains(&format!("`{key}` is part of the language but not")) {
        return None;
    }
    Some(!told.contains(&format!("has no key `{key}`")) && !told.contains(&format!("has no `{key}`")))
}

#[test]
fn every_key_of_the_parser_is_in_the_schema_and_no_other() {
    let schema = editor_schema();
    let mut everything: Vec<&str> =
        KINDS.iter().flat_map(|k| k.keys).copied().chain(KINDS.iter().map(|k| k.word)).collect();
    everything.extend(FACTS.iter().map(|f| f.key).chain(steps::COMMON).chain(parse::KEYS));
    for (owner, text) in owners() {
        let properties = match owner {
            Owner::Workflow => &schema["properties"],
            Owner::Inner(inner) => &schema["$defs"][inner]["properties"],
            Owner::Kind(kind) => &schema["$defs"][format!("step_{kind}")]["properties"],
        };
        let properties = properties.as_object().unwrap();
        for key in &everything {
            // A second kind in one step is another mistake.
            let second = KINDS.iter().any(|k| k.word == *key) && matches!(owner, Owner::Kind(_));
            if !second && let Some(known) = known(&text.replace("KEY", key), key) {
                assert_eq!(
                    properties.contains_key(*key),
                    known,
                    "`{key}` in {owner:?}: the schema has it, or the parser"
                );
            }
        }
    }
}

fn unknown(owner: &'static str) -> Vec<(&'static str, &'static str)> {
    keys_of(owner).into_iter().filter(|key| fact(owner, key).is_none()).map(|key| (owner, key)).collect()
}

#[test]
fn every_key_has_its_line_in_the_table_and_every_line_its_key() {
    let mut missing = Vec::new();
    for (owner, _) in owners() {
        let lacks: Vec<(&str, &str)> = match owner {
            Owner::Kind(kind) => {
                let keys = keys_of_step(kind).into_iter().filter(|key| fact_of_step(kind, key).is_none());
                keys.map(|key| (as_owner(kind), key)).collect()
            }
            Owner::Workflow => unknown("workflow"),
            Owner::Inner(inner) => unknown(inner),
        };
        missing.extend(lacks.into_iter().map(|(owner, key)| format!("fact(\"{owner}\", \"{key}\", …)")));
    }
    assert!(missing.is_empty(), "reference/facts.rs lacks: {}", missing.join(", "));
    for f in FACTS {
        let word = if f.owner == "workflow_step" { "workflow" } else { f.owner };
        let known = match f.owner {
            "step" => steps::COMMON.contains(&f.key),
            owner => keys_of(owner).contains(&f.key) || keys_of_step(word).contains(&f.key),
        };
        assert!(known, "`{}` of {} has a line in facts.rs, and the parser does not know it", f.key, f.owner);
        assert!(f.about.ends_with('.') || f.about.ends_with('…'), "{}.{}: a whole sentence", f.owner, f.key);
    }
    for (i, f) in FACTS.iter().enumerate() {
        assert!(!FACTS[..i].iter().any(|g| (g.owner, g.key) == (f.owner, f.key)), "{}.{} stands twice", f.owner, f.key);
    }
}

/// The workflow files of the repository that are right.
fn good() -> Vec<(String, String)> {
    let mut all = files("tests/definitions/good");
    all.extend(files("examples"));
    all.extend(files("tests/chaos/workflows"));
    all
}

#[test]
fn every_good_file_is_good_by_the_schema() {
    let validator = validator();
    for (name, text) in good() {
        load(&name, &text).unwrap_or_else(|e| panic!("{e}"));
        let json = json_of(&text).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

#[test]
fn what_the_schema_refuses_the_parser_refuses_and_a_wrong_key_both() {
    let validator = validator();
    let mut keys = 0;
    for (name, text) in files("tests/definitions/wrong") {
        let Some(json) = json_of(&text) else { continue };
        let told = load(&name, &text).map(|_| ()).unwrap_err().to_string();
        if told.contains(" has no key `") {
            keys += 1;
            assert!(!validator.is_valid(&json), "{name}: the schema takes what the parser refuses:\n{told}");
        }
    }
    assert!(keys >= 4, "{keys}");
    // One change at a time to a good file: whatever the schema refuses is refused by the parser.
    for (name, text) in good().into_iter().filter(|(name, text)| load(name, text).is_ok()) {
        let lines: Vec<&str> = text.lines().collect();
        for place in 0..lines.len() {
            let without: String =
                lines.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, l)| format!("{l}\n")).collect();
            for changed in [without, text.replacen(": ", ": - ", place + 1), text.replacen("id", "idd", place + 1)] {
                if let Some(json) = json_of(&changed)
                    && !validator.is_valid(&json)
                {
                    assert!(
                        load(&name, &changed).is_err(),
                        "{name}: the schema refuses what the parser takes:\n{changed}"
                    );
                }
            }
        }
    }
}

/// Wrong files that are good by the schema: what is wrong with them is in what they mean, not in their form.
const BEYOND_A_SCHEMA: [&str; 24] = [
    "bare_expression_in_if.yaml",
    "cycle.yaml",
    "duplicate_id.yaml",
    "expression_in_key.yaml",
    "expression_syntax.yaml",
    "filter_typos.yaml",
    "inside_and_outside.yaml",
    "invalid_schema.yaml",
    "needs_itself.yaml",
    "output_names.yaml",
    "parts_of_an_error.yaml",
    "schedule_catches_what_it_skips.yaml",
    "schedule_field.yaml",
    "schedule_hour.yaml",
    "schedule_never.yaml",
    "schedule_word.yaml",
    "schedule_zone.yaml",
    "schema_pattern.yaml",
    "secrets_whole.yaml",
    "step_not_before.yaml",
    "switch_names.yaml",
    "unknown_names.yaml",
    "unknown_needs.yaml",
    "unknown_step.yaml",
];

#[test]
fn the_schema_refuses_every_wrong_file_whose_form_is_wrong() {
    let validator = validator();
    let wrong = files("tests/definitions/wrong");
    let forms = wrong.iter().filter_map(|(name, text)| Some((name, json_of(text)?)));
    let taken: Vec<&str> = forms.filter(|(_, json)| validator.is_valid(json)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(taken, BEYOND_A_SCHEMA);
}

#[test]
fn the_schema_is_a_schema_and_says_what_each_key_is_for() {
    let schema = editor_schema();
    assert!(jsonschema::draft202012::meta::validator().is_valid(&schema));
    assert_eq!(schema["properties"]["retry"]["$ref"], "#/$defs/retry");
    for key in keys_of("workflow") {
        assert!(!schema["properties"][key]["description"].as_str().unwrap().is_empty(), "{key}");
    }
}

/// The tables of the handbook, by the words that mark their places.
fn tables() -> Vec<(&'static str, String)> {
    let rows = |keys: Vec<&str>, about: &dyn Fn(&str) -> Option<&'static Fact>| {
        let mut out = String::from("| key | value | |\n|---|---|---|\n");
        for f in keys.iter().filter_map(|key| about(key)) {
            out.push_str(&format!("| `{}` | {} | {} |\n", f.key, f.shape.word(), f.about));
        }
        out
    };
    let mut kinds = String::from("| kind | value | what it does | names in `output` |\n|---|---|---|---|\n");
    let mut own = String::from("| kind | key | value | |\n|---|---|---|---|\n");
    for kind in &KINDS {
        let owner = as_owner(kind.word);
        let f = fact(owner, kind.word).unwrap();
        let raw: Vec<String> = kind.raw.iter().map(|r| format!("`{r}`")).collect();
        kinds.push_str(&format!("| `{}` | {} | {} | {} |\n", kind.word, f.shape.word(), f.about, raw.join(" ")));
        for f in kind.keys.iter().filter_map(|key| fact(owner, key)) {
            own.push_str(&format!("| `{}` | `{}` | {} | {} |\n", kind.word, f.key, f.shape.word(), f.about));
        }
    }
    let mut out = vec![
        ("workflow", rows(keys_of("workflow"), &|key| fact("workflow", key))),
        ("step", rows(steps::COMMON.to_vec(), &|key| fact("step", key))),
        ("kinds", kinds),
        ("keys", own),
    ];
    out.extend(INNER.iter().map(|(owner, keys)| (*owner, rows(keys.to_vec(), &|key| fact(owner, key)))));
    out
}

/// `STEPD_BLESS=1` writes them anew.
#[test]
fn the_tables_of_the_handbook_are_those_of_the_parser() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/language.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut expected = text.clone();
    for (name, table) in tables() {
        let (from, to) = (format!("<!-- table: {name} -->\n"), "<!-- end -->");
        let start =
            expected.find(&from).unwrap_or_else(|| panic!("docs/language.md has no place for {name}")) + from.len();
        let end = start + expected[start..].find(to).unwrap();
        expected.replace_range(start..end, &table);
    }
    if std::env::var_os("STEPD_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    } else {
        assert!(
            text == expected,
            "the tables of docs/language.md are not those of the parser; STEPD_BLESS=1 writes them anew"
        );
    }
}
