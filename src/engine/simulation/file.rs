//! A random workflow as the text of its file.

use std::fmt::Write as _;

use super::program::{Kind, Program, Work};

impl Program {
    /// The file.
    pub fn text(&self) -> String {
        let resume = match self.resumes {
            0 => "never".to_owned(),
            n => format!("{{max_attempts: {n}, initial: {}ms, max: 10m}}", self.resume_after),
        };
        let mut text = format!("name: simulated\nresume: {resume}\nsteps:\n");
        for step in &self.steps {
            let _ = writeln!(text, "  - id: {}", step.id);
            if let Some(needs) = &step.needs {
                let ids: Vec<&str> = needs.iter().map(|n| self.steps[*n].id.as_str()).collect();
                let _ = writeln!(text, "    needs: [{}]", ids.join(", "));
            }
            if let Some(n) = step.only_if {
                let _ = writeln!(text, "    if: {n} % 2 == 0");
            }
            let from = step.from.map_or("1".to_owned(), |f| format!("steps.{}.output.n", self.steps[f].id));
            let undo = |indent: &str| step.undo.as_ref().map_or(String::new(), |work| undo(work, indent));
            let _ = match &step.kind {
                Kind::Set => writeln!(text, "    set: {{n: \"${{{{ {from} + 1 }}}}\"}}"),
                Kind::Work(work) => {
                    writeln!(text, "    exec: [work, \"${{{{ {from} }}}}\"]\n{}{}", policy(work, "    "), undo("    "))
                }
                Kind::Sleep(span) => writeln!(text, "    sleep: {}ms", span.as_millis()),
                Kind::Wait { .. } => writeln!(text, "    wait: event_{}", step.id),
                Kind::Approve { .. } => writeln!(text, "    approve: May {} go on?", step.id),
                Kind::Map { items, at_once, work, rest } => writeln!(
                    text,
                    "    map: ${{{{ {items:?} }}}}\n    max_parallel: {at_once}\n    steps:\n      - id: a\n        exec: [work, \"${{{{ item }}}}\"]\n{}{}\n      \
                     - id: b\n        sleep: {}ms\n      - id: c\n        set: \"${{{{ steps.a.output.n }}}}\"\n",
                    policy(work, "        "),
                    undo("        "),
                    rest.as_millis()
                ),
                Kind::Nested { items, at_once, work } => writeln!(
                    text,
                    "    map: ${{{{ {items:?} }}}}\n    max_parallel: {at_once}\n    steps:\n      - id: m\n        map: ${{{{ item }}}}\n        as: x\n        \
                     max_parallel: {at_once}\n        steps:\n          - id: a\n            exec: [work, \"${{{{ x }}}}\"]\n{}{}\n",
                    policy(work, "            "),
                    undo("            ")
                ),
                Kind::Switch { value, cases, default } => {
                    let branch = |name: String, work: &Work| {
                        let (policy, undo) = (policy(work, "          "), undo("          "));
                        format!("        - id: {}_{name}\n          exec: [work, \"5\"]\n{policy}{undo}\n", step.id)
                    };
                    let cases = cases
                        .iter()
                        .enumerate()
                        .map(|(n, w)| format!("      \"{n}\":\n{}", branch(format!("case{n}"), w)));
                    let default = default.iter().map(|w| format!("    default:\n{}", branch("default".to_owned(), w)));
                    writeln!(
                        text,
                        "    switch: {value} + 0\n    cases:\n{}{}",
                        cases.collect::<String>(),
                        default.collect::<String>()
                    )
                }
                Kind::Repeat { until, max, every, work } => writeln!(
                    text,
                    "    repeat:\n      max: {max}\n      until: index == {until}\n{}      steps:\n        - id: a\n          \
                     exec: [work, \"${{{{ index }}}}\"]\n{}{}\n        - id: c\n          set: \"${{{{ steps.a.output.n }}}}\"\n",
                    every.map_or(String::new(), |ms| format!("      every: {ms}ms\n")),
                    policy(work, "          "),
                    undo("          ")
                ),
            };
        }
        if let Some(work) = &self.on_failure {
            let _ = writeln!(text, "on_failure:\n  - exec: [work, \"0\"]\n{}", policy(work, "    "));
        }
        if let Some((work, rest)) = &self.finally {
            let rest = rest.as_millis();
            let _ = writeln!(text, "finally:\n  - sleep: {rest}ms\n  - exec: [work, \"0\"]\n{}", policy(work, "    "));
        }
        text
    }
}

fn policy(work: &Work, indent: &str) -> String {
    let Work { max_attempts, backoff, initial, max, goes_on, .. } = work;
    let on_error = if *goes_on { format!("\n{indent}on_error: continue") } else { String::new() };
    format!(
        "{indent}retry: {{max_attempts: {max_attempts}, backoff: {backoff}, initial: {initial}ms, max: {max}ms, jitter: 0}}{on_error}"
    )
}

fn undo(work: &Work, indent: &str) -> String {
    format!("\n{indent}undo:\n{indent}  exec: [work, \"0\"]\n{}", policy(work, &format!("{indent}  ")))
}
