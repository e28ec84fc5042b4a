//! Where data stands among the arguments of a program, and what it must not become there: code, or an option.
//!
//! Known are the programs below, wherever they stand among the words (`env`, `timeout`, `docker run …`), by their own rules of what is an
//! option and what belongs to it. A program that is not known takes its arguments as it likes.

use std::path::Path;

use crate::expression::has_expression;

/// Where a program that runs a text as code takes that from, beside its options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operands {
    /// The first one is a file, and the rest its own.
    Script,
    /// As with `Script`; but with one of the code options, wherever that stands among the others, the first one is code.
    Shell,
    /// They end no options.
    Any,
    /// The first one is code, unless an option has brought it.
    Language,
    /// All behind the first one are code.
    Behind,
}

struct Program {
    names: &'static [&'static str],
    operands: Operands,
    /// Options behind which code stands.
    code: &'static [&'static str],
    /// Options behind which something else stands: one word, or as many as the number says.
    valued: &'static [(&'static str, usize)],
}

const fn program_of(
    names: &'static [&'static str],
    operands: Operands,
    code: &'static [&'static str],
    valued: &'static [(&'static str, usize)],
) -> Program {
    Program { names, operands, code, valued }
}

/// From their manuals.
const PROGRAMS: [Program; 18] = [
    program_of(
        &["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh"],
        Operands::Shell,
        &[],
        &[("-o", 1), ("+o", 1), ("-O", 1), ("+O", 1), ("--rcfile", 1), ("--init-file", 1)],
    ),
    program_of(&["fish"], Operands::Script, &["-c", "--command", "-C", "--init-command"], &[("-d", 1), ("-D", 1)]),
    program_of(&["python", "pypy"], Operands::Script, &["-c"], &[("-W", 1), ("-X", 1), ("--check-hash-based-pycs", 1)]),
    program_of(&["perl"], Operands::Script, &["-e", "-E"], &[("-I", 1)]),
    program_of(&["ruby"], Operands::Script, &["-e"], &[("-I", 1), ("-r", 1), ("-C", 1), ("-E", 1)]),
    program_of(&["lua", "luajit"], Operands::Script, &["-e"], &[("-l", 1)]),
    program_of(&["Rscript"], Operands::Script, &["-e"], &[]),
    program_of(
        &["node", "nodejs", "bun"],
        Operands::Script,
        &["-e", "--eval", "-p", "--print"],
        &[("-r", 1), ("--require", 1), ("--import", 1), ("--loader", 1), ("-C", 1), ("--conditions", 1)],
    ),
    program_of(
        &["php"],
        Operands::Script,
        &["-r", "--run", "-B", "-R", "-E"],
        &[("-d", 1), ("-c", 1), ("-z", 1), ("-S", 1), ("-t", 1)],
    ),
    program_of(&["psql"], Operands::Any, &["-c", "--command"], &[]),
    program_of(&["mysql", "mariadb"], Operands::Any, &["-e", "--execute", "--init-command"], &[]),
    program_of(&["su", "runuser", "script"], Operands::Any, &["-c", "--command", "--session-command"], &[]),
    program_of(&["pwsh", "powershell"], Operands::Any, &["-c", "-Command", "-EncodedCommand"], &[]),
    program_of(
        &["awk", "gawk", "mawk", "nawk"],
        Operands::Language,
        &["-e", "--source"],
        &[("-F", 1), ("-v", 1), ("--field-separator", 1), ("--assign", 1), ("-i", 1), ("--include", 1), ("-l", 1)],
    ),
    program_of(&["sed"], Operands::Language, &["-e", "--expression"], &[("-l", 1), ("--line-length", 1)]),
    program_of(
        &["jq", "yq"],
        Operands::Language,
        &[],
        &[
            ("--arg", 2),
            ("--argjson", 2),
            ("--slurpfile", 2),
            ("--rawfile", 2),
            ("--argfile", 2),
            ("--indent", 1),
            ("-L", 1),
        ],
    ),
    program_of(
        &["ssh"],
        Operands::Behind,
        &[],
        &[
            ("-b", 1),
            ("-c", 1),
            ("-D", 1),
            ("-E", 1),
            ("-e", 1),
            ("-F", 1),
            ("-I", 1),
            ("-i", 1),
            ("-J", 1),
            ("-L", 1),
            ("-l", 1),
            ("-m", 1),
            ("-o", 1),
            ("-p", 1),
            ("-R", 1),
            ("-W", 1),
            ("-w", 1),
        ],
    ),
    program_of(
        &["sqlite3"],
        Operands::Behind,
        &["-cmd", "--cmd"],
        &[("-separator", 1), ("-init", 1), ("-newline", 1), ("-nullvalue", 1)],
    ),
];

/// Options with which a language's code comes from a file: then no operand is code.
const FROM_FILE: [&str; 3] = ["-f", "--file", "--from-file"];

/// Programs that run another one: behind these the name of a language is a program, elsewhere perhaps only a word.
const WRAPPERS: [&str; 21] = [
    "env",
    "nice",
    "ionice",
    "nohup",
    "timeout",
    "time",
    "sudo",
    "doas",
    "xargs",
    "parallel",
    "find",
    "docker",
    "podman",
    "kubectl",
    "ssh",
    "stdbuf",
    "setsid",
    "chroot",
    "flock",
    "systemd-run",
    "busybox",
];

/// The places of arguments that hold expressions and would be run as code.
pub(super) fn code(words: &[&str]) -> Vec<usize> {
    (1..words.len()).filter(|place| has_expression(words[*place]) && runs(words, *place)).collect()
}

/// Is there a program among the words for which this one is code?
fn runs(words: &[&str], place: usize) -> bool {
    let wrapped = WRAPPERS.contains(&name(words[0]));
    (0..place).any(|at| {
        let known = PROGRAMS.iter().find(|p| p.names.contains(&name(words[at])));
        // Only an option makes code of what stands behind an interpreter; what stands behind a language is code as it is.
        let certain = |p: &Program| at == 0 || wrapped || !matches!(p.operands, Operands::Language | Operands::Behind);
        known.is_some_and(|p| certain(p) && p.runs(&words[at + 1..], place - at - 1))
    })
}

impl Program {
    /// Is the argument at this place code to it?
    fn runs(&self, arguments: &[&str], place: usize) -> bool {
        let (mut at, mut options, mut operands) = (0, true, 0);
        // A shell's option says so of an operand; a language has it from one unless an option has brought it.
        let mut first_is_code = self.operands == Operands::Language;
        while at <= place {
            let word = arguments[at];
            let literal = word.split("${{").next().unwrap_or_default();
            let marked = literal.len() > 1 && literal.starts_with('-')
                || self.operands == Operands::Shell && literal.starts_with('+');
            if !(options && marked) {
                operands += 1;
                let code = match self.operands {
                    Operands::Script => return false,
                    Operands::Shell | Operands::Language => first_is_code,
                    Operands::Any => false,
                    Operands::Behind => operands > 1,
                };
                if at == place || matches!(self.operands, Operands::Shell | Operands::Language) {
                    return at == place && code;
                }
                // What the other side is sent are no options of this one.
                options = self.operands != Operands::Behind;
                at += 1;
            } else if word == "--" {
                options = false;
                at += 1;
            } else if self.operands == Operands::Shell && cluster(literal).contains('c') {
                // Joined to it as well: `sh -cCODE` takes CODE for more options, which is no better.
                if at == place {
                    return true;
                }
                first_is_code = true;
                at += 1;
            } else if self.code.iter().any(|option| is(option, word)) {
                if at + 1 == place {
                    return true;
                }
                first_is_code = false;
                at += 2;
            } else if at == place {
                return self.code.iter().any(|option| joined(option, literal));
            } else {
                if self.operands == Operands::Language && FROM_FILE.iter().any(|option| is(option, word)) {
                    (first_is_code, at) = (false, at + 1);
                }
                at += 1 + self.valued.iter().find(|(option, _)| is(option, word)).map_or(0, |(_, n)| *n);
            }
        }
        false
    }
}

/// `/usr/bin/python3.12` is `python`.
fn name(word: &str) -> &str {
    let name = Path::new(word).file_name().and_then(|n| n.to_str()).unwrap_or(word);
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if name == "sqlite3" { name } else { stem }
}

/// The letters of several options in one word.
fn cluster(word: &str) -> &str {
    let letters = word.strip_prefix('-').unwrap_or_default();
    if letters.bytes().all(|b| b.is_ascii_alphabetic()) { letters } else { "" }
}

/// Is a word that option: as it is, or, of one letter, the last of several (`-ne`)?
fn is(option: &str, word: &str) -> bool {
    word == option || option.len() == 2 && cluster(word).ends_with(&option[1..])
}

/// Does what is joined to this beginning of a word belong to that option: `-e…`, `-ne…`, `--eval=…`?
fn joined(option: &str, beginning: &str) -> bool {
    if option.starts_with("--") || option.len() > 2 {
        return beginning.strip_prefix(option).is_some_and(|rest| rest.starts_with('='));
    }
    let letters = beginning[1..].split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    !beginning.starts_with("--") && letters.contains(&option[1..])
}

/// The places of arguments that begin with data, of which a `-` would make options: those before a `--`.
pub(super) fn data(words: &[&str]) -> Vec<usize> {
    let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    (1..end).filter(|place| words[*place].starts_with("${{")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_among_the_arguments_is_found_where_it_would_be_code() {
        let x = "${{ input.x }}";
        for (words, places) in [
            (&["sh", "-c", x][..], &[2][..]),
            (&["bash", "-o", "pipefail", "-ec", "echo ${{ input.x }}"], &[4]),
            (&["bash", "-c", "-o", "pipefail", x, x], &[4]),
            (&["bash", "-ce", x], &[2]),
            (&["bash", "--rcfile", "f", "-c", x], &[4]),
            (&["env", "A=1", "/usr/bin/python3.12", "-c", x, x], &[4]),
            (&["python3", "-W", "ignore", "-c", x], &[4]),
            (&["python3", "-cprint(${{ input.x }})"], &[1]),
            (&["python3", "-Icprint(${{ input.x }})"], &[1]),
            (&["perl", "-I", "lib", "-lane", x], &[4]),
            (&["php", "-d", "a=1", "-r", x], &[4]),
            (&["docker", "run", "i", "node", "--eval", x], &[5]),
            (&["node", "--eval=${{ input.x }}"], &[1]),
            (&["find", ".", "-exec", "sh", "-c", x, ";"], &[5]),
            (&["jq", "-r", x, "file"], &[2]),
            (&["jq", "--arg", "a", "b", x], &[4]),
            (&["awk", "-F", ",", "/${{ input.x }}/ {print}"], &[3]),
            (&["env", "awk", x], &[2]),
            (&["nice", "-n", "5", "jq", x], &[4]),
            (&["sed", "-n", "s/a/${{ input.x }}/"], &[2]),
            (&["sed", "-n", "-e", x, "file"], &[3]),
            (&["psql", "-c", x], &[2]),
            (&["psql", "-d", "app", "-h", "db", "-U", "me", "-c", x], &[8]),
            (&["psql", "postgres://db/app", "-Atc", x], &[3]),
            (&["psql", x, "-c", "SELECT 1"], &[]),
            (&["mysql", "-u", "root", "app", "-e", x], &[5]),
            (&["mysql", "--execute=${{ input.x }}"], &[1]),
            (&["su", "me", "-c", x], &[3]),
            (&["ssh", "-p", "22", "host", "ls ${{ input.x }}"], &[4]),
            (&["ssh", "host", "-x", x], &[3]),
            (&["ssh", x, "uptime"], &[]),
            (&["sqlite3", "-init", "f", "a.db", x], &[4]),
            (&["sh", "-c", "echo \"$1\"", "sh", x], &[]),
            (&["bash", "-e", "script.sh", "-c", x], &[]),
            (&["python3", "script.py", "-c", x], &[]),
            (&["python3", "-u", "script.py", "-c", x], &[]),
            (&["grep", "-e", x], &[]),
            (&["apt-get", "install", "jq", x], &[]),
            (&["jq", "-f", "file", x], &[]),
            (&["jq", "--arg", "a", x, ".a"], &[]),
            (&["jq", ".a", x], &[]),
            (&["awk", "-v", "a=${{ input.x }}", "{print a}"], &[]),
            (&["sed", "-e", "p", x], &[]),
            (&["psql", "-v", "a=${{ input.x }}", "-f", "a.sql"], &[]),
            (&["sh", x], &[]),
        ] {
            assert_eq!(code(words), places, "{words:?}");
        }
        assert_eq!(data(&["grep", x, "--color", "a${{ input.x }}", x, "--", x]), [1, 4]);
    }
}
