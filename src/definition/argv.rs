//! Where data stands among the arguments of a program, and what it must not become there: code, or an option.

use std::path::Path;

use crate::expression::has_expression;

/// Programs that run a text as code, and the options behind which it stands.
const INTERPRETERS: [(&[&str], &[&str]); 7] = [
    (&["sh", "bash", "dash", "ash", "zsh", "ksh", "fish"], &["-c", "--command", "--init-command"]),
    (&["python", "pypy"], &["-c"]),
    (&["perl", "ruby", "lua", "Rscript"], &["-e", "-E"]),
    (&["node", "nodejs", "bun"], &["-e", "--eval", "-p", "--print"]),
    (&["php"], &["-r", "--run"]),
    (&["psql"], &["-c", "--command"]),
    (&["mysql", "mariadb"], &["-e", "--execute"]),
];

/// Programs whose first argument is code, where it is no option.
const LANGUAGES: [&str; 5] = ["awk", "gawk", "mawk", "sed", "jq"];

/// The places of arguments that hold expressions and would be run as code.
pub(super) fn code(words: &[&str]) -> Vec<usize> {
    let holds = |place: &usize| has_expression(words[*place]);
    let runs = |place: &usize| interpreted(words, *place) || of_a_language(words, *place);
    (1..words.len()).filter(holds).filter(runs).collect()
}

/// `sh -c HERE`, `env X=1 bash -o pipefail -ec HERE`, `python3 -cHERE`; not `python3 script.py -c HERE`.
fn interpreted(words: &[&str], place: usize) -> bool {
    let options = |at: usize| INTERPRETERS.iter().find(|(names, _)| names.contains(&program(words[at])));
    (0..place).filter_map(|at| Some((at, options(at)?.1))).any(|(at, options)| {
        let literal = words[place].split("${{").next().unwrap_or_default();
        let joined = options.iter().any(|option| literal.starts_with(option));
        let behind = place - at > 1 && options.iter().any(|option| is(option, words[place - 1]));
        let still = &words[at + 1..place - usize::from(behind)];
        (joined || behind) && only_options(still)
    })
}

/// Options and what belongs to them: nothing that would be a program's own file.
fn only_options(words: &[&str]) -> bool {
    let valued = |word: &str| ["-o", "-O", "+O", "-W", "-X", "-I", "-r", "--require"].contains(&word);
    words.iter().enumerate().all(|(n, word)| word.starts_with(['-', '+']) || n > 0 && valued(words[n - 1]))
}

/// `awk HERE`, `jq -r HERE`.
fn of_a_language(words: &[&str], place: usize) -> bool {
    let before = &words[1..place];
    LANGUAGES.contains(&program(words[0])) && before.iter().all(|word| word.starts_with('-') && !is("-f", word))
}

/// `/usr/bin/python3.12` is `python`.
fn program(word: &str) -> &str {
    let name = Path::new(word).file_name().and_then(|n| n.to_str()).unwrap_or(word);
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

/// Is a word that option: as it is, or, of one letter, the last of several (`-ec`)?
fn is(option: &str, word: &str) -> bool {
    let several = word.len() > 1 && word[1..].bytes().all(|b| b.is_ascii_alphabetic());
    word == option || option.len() == 2 && word.starts_with('-') && several && word.ends_with(&option[1..])
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
            (&["env", "A=1", "/usr/bin/python3.12", "-c", x, x], &[4]),
            (&["python3", "-cprint(${{ input.x }})"], &[1]),
            (&["docker", "run", "i", "node", "--eval", x], &[5]),
            (&["jq", "-r", x, "file"], &[2]),
            (&["psql", "-c", x], &[2]),
            (&["sh", "-c", "echo \"$1\"", "sh", x], &[]),
            (&["python3", "script.py", "-c", x], &[]),
            (&["grep", "-e", x], &[]),
            (&["jq", "-f", "file", x], &[]),
            (&["sh", x], &[]),
        ] {
            assert_eq!(code(words), places, "{words:?}");
        }
        assert_eq!(data(&["grep", x, "--color", "a${{ input.x }}", x, "--", x]), [1, 4]);
    }
}
