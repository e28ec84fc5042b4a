//! What differs between two values, by path; and between two runs of steps.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Characters of a value that are told.
const TOLD: usize = 1_000;

/// A place at which two values differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Change {
    /// Where: `order.items[3].sum`; empty: the whole.
    pub path: String,
    /// What stands there in the first, as JSON text, cut after 1,000 characters; null: nothing.
    pub a: Option<String>,
    /// … and in the second.
    pub b: Option<String>,
}

/// Where two values differ, `most` places at the most, in the order of the first. Objects and lists are followed into what they hold.
#[must_use]
pub fn changes(a: Option<&Value>, b: Option<&Value>, most: usize) -> Vec<Change> {
    let mut found = Vec::new();
    walk(a, b, &mut String::new(), &mut found, most);
    found
}

fn walk(a: Option<&Value>, b: Option<&Value>, path: &mut String, found: &mut Vec<Change>, most: usize) {
    if a == b || found.len() >= most {
        return;
    }
    let here = path.len();
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                if here > 0 {
                    path.push('.');
                }
                path.push_str(key);
                walk(a.get(key), b.get(key), path, found, most);
                path.truncate(here);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for i in 0..a.len().max(b.len()) {
                path.push_str(&format!("[{i}]"));
                walk(a.get(i), b.get(i), path, found, most);
                path.truncate(here);
            }
        }
        _ => found.push(Change { path: path.clone(), a: a.map(told), b: b.map(told) }),
    }
}

fn told(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_place_is_named_once_with_what_stands_there() {
        let a = json!({"order": {"sum": 17, "items": [1, 2]}, "ok": true, "old": null});
        let b = json!({"order": {"sum": 18, "items": [1, 2, 3]}, "ok": true, "new": "x"});
        let told: Vec<_> = changes(Some(&a), Some(&b), 10)
            .into_iter()
            .map(|c| format!("{} {} {}", c.path, c.a.unwrap_or("-".into()), c.b.unwrap_or("-".into())))
            .collect();
        let mut sorted = told.clone();
        sorted.sort();
        assert_eq!(sorted, ["new - \"x\"", "old null -", "order.items[2] - 3", "order.sum 17 18"]);
        assert_eq!(changes(Some(&a), Some(&b), 2).len(), 2);
        assert_eq!(changes(Some(&json!(1)), Some(&json!([1])), 9)[0].path, "");
        assert_eq!(changes(None, Some(&a), 9).len(), 1);
        let long = json!("é".repeat(5_000));
        assert_eq!(changes(Some(&long), None, 9)[0].a.as_ref().unwrap().chars().count(), TOLD + 1);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_is_told_of_what_is_the_same_and_something_of_what_is_not(a in values(), b in values()) {
            prop_assert!(changes(Some(&a), Some(&a), 9).is_empty());
            prop_assert_eq!(changes(Some(&a), Some(&b), 9).is_empty(), a == b);
        }
    }
}
