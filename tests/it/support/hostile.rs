//! The lists of hostile strings in `tests/hostile`.

use std::path::Path;

/// The strings of a list, each with what its group tries; the words of `known` in them stand for something of the test.
pub fn strings(file: &str, known: &[(&str, &str)]) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut group, mut all) = (String::new(), Vec::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        match line.strip_prefix("## ") {
            Some(title) => group = title.to_owned(),
            None => {
                let mut string: String = serde_json::from_str(line).unwrap_or_else(|e| panic!("{file}: {line}: {e}"));
                for (word, meant) in known {
                    string = string.replace(word, meant);
                }
                all.push((group.clone(), string));
            }
        }
    }
    all
}
