//! The catalogue of errors: one page for each code, compiled in. The pages stand in `docs/errors`.

/// Every page, by its code: stepd's own errors (`SD001`), failure codes (`timeout`), and families of failure codes (`http`, for
/// `http_503`).
pub const PAGES: &[(&str, &str)] = &[
    ("SD001", include_str!("../../docs/errors/SD001.md")),
    ("SD002", include_str!("../../docs/errors/SD002.md")),
    ("SD010", include_str!("../../docs/errors/SD010.md")),
    ("SD011", include_str!("../../docs/errors/SD011.md")),
    ("SD012", include_str!("../../docs/errors/SD012.md")),
    ("SD013", include_str!("../../docs/errors/SD013.md")),
    ("SD014", include_str!("../../docs/errors/SD014.md")),
    ("SD015", include_str!("../../docs/errors/SD015.md")),
    ("SD016", include_str!("../../docs/errors/SD016.md")),
    ("SD017", include_str!("../../docs/errors/SD017.md")),
    ("SD018", include_str!("../../docs/errors/SD018.md")),
    ("SD020", include_str!("../../docs/errors/SD020.md")),
    ("SD030", include_str!("../../docs/errors/SD030.md")),
    ("budget_exceeded", include_str!("../../docs/errors/budget_exceeded.md")),
    ("cancelled", include_str!("../../docs/errors/cancelled.md")),
    ("child_failed", include_str!("../../docs/errors/child_failed.md")),
    ("connection", include_str!("../../docs/errors/connection.md")),
    ("content_filtered", include_str!("../../docs/errors/content_filtered.md")),
    ("context_too_long", include_str!("../../docs/errors/context_too_long.md")),
    ("crash_loop", include_str!("../../docs/errors/crash_loop.md")),
    ("definition", include_str!("../../docs/errors/definition.md")),
    ("duplicate_key", include_str!("../../docs/errors/duplicate_key.md")),
    ("exit", include_str!("../../docs/errors/exit.md")),
    ("expression", include_str!("../../docs/errors/expression.md")),
    ("fingerprint_mismatch", include_str!("../../docs/errors/fingerprint_mismatch.md")),
    ("forbidden_target", include_str!("../../docs/errors/forbidden_target.md")),
    ("http", include_str!("../../docs/errors/http.md")),
    ("internal", include_str!("../../docs/errors/internal.md")),
    ("interrupted", include_str!("../../docs/errors/interrupted.md")),
    ("invalid_input", include_str!("../../docs/errors/invalid_input.md")),
    ("invalid_json", include_str!("../../docs/errors/invalid_json.md")),
    ("invalid_params", include_str!("../../docs/errors/invalid_params.md")),
    ("key_taken", include_str!("../../docs/errors/key_taken.md")),
    ("lease_lost", include_str!("../../docs/errors/lease_lost.md")),
    ("limit_exceeded", include_str!("../../docs/errors/limit_exceeded.md")),
    ("map_failed", include_str!("../../docs/errors/map_failed.md")),
    ("max_turns", include_str!("../../docs/errors/max_turns.md")),
    ("mcp", include_str!("../../docs/errors/mcp.md")),
    ("not_storable", include_str!("../../docs/errors/not_storable.md")),
    ("panic", include_str!("../../docs/errors/panic.md")),
    ("rate_limited", include_str!("../../docs/errors/rate_limited.md")),
    ("rejected", include_str!("../../docs/errors/rejected.md")),
    ("repeat_exhausted", include_str!("../../docs/errors/repeat_exhausted.md")),
    ("schema_mismatch", include_str!("../../docs/errors/schema_mismatch.md")),
    ("signal", include_str!("../../docs/errors/signal.md")),
    ("spawn", include_str!("../../docs/errors/spawn.md")),
    ("sql", include_str!("../../docs/errors/sql.md")),
    ("timeout", include_str!("../../docs/errors/timeout.md")),
    ("too_deep", include_str!("../../docs/errors/too_deep.md")),
    ("too_large", include_str!("../../docs/errors/too_large.md")),
    ("tool_error", include_str!("../../docs/errors/tool_error.md")),
    ("unknown_tool", include_str!("../../docs/errors/unknown_tool.md")),
    ("unknown_workflow", include_str!("../../docs/errors/unknown_workflow.md")),
    ("verdict", include_str!("../../docs/errors/verdict.md")),
];

/// The families: what follows the dash is a number, or a SQLSTATE.
const FAMILIES: [&str; 4] = ["exit", "signal", "http", "sql"];

/// The page of a code, in Markdown. A code of a family (`http_503`, `http_5xx`) has the family's.
#[must_use]
pub fn explanation(code: &str) -> Option<&'static str> {
    let page = |wanted: &str| PAGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, text)| *text);
    page(code)
        .or_else(|| code.split_once('_').filter(|(family, _)| FAMILIES.contains(family)).and_then(|(f, _)| page(f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_finds_its_page_and_a_member_that_of_its_family() {
        assert!(explanation("sd001").unwrap().starts_with("# SD001: "));
        assert!(explanation("crash_loop").unwrap().starts_with("# crash_loop: "));
        for (code, page) in [("http_503", "http"), ("http_5xx", "http"), ("exit_75", "exit"), ("sql_23505", "sql")] {
            assert!(explanation(code).unwrap().starts_with(&format!("# {page}: ")), "{code}");
        }
        for none in ["SD999", "", "time_out", "_", "http_"] {
            assert_eq!(explanation(none).is_some(), none == "http_", "{none}");
        }
    }

    #[test]
    fn every_page_says_what_it_means_and_what_to_do() {
        for (code, text) in PAGES {
            assert!(text.starts_with(&format!("# {code}: ")), "{code}: the title");
            assert!(text.contains("\n## What to do\n"), "{code}: no advice");
            assert!(text.lines().all(|line| line.chars().count() <= 140), "{code}: a long line");
        }
    }
}
