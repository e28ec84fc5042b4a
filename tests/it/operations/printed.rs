//! What is printed beside what was said.

/// Does what was said fit what is printed?
pub fn fits(printed: &[String], said: &str) -> bool {
    let printed: Vec<Vec<String>> = printed.iter().map(|l| words(l)).filter(|w| !w.is_empty()).collect();
    let said: Vec<Vec<String>> = said.lines().map(words).filter(|w| !w.is_empty()).collect();
    lines(&printed, &said)
}

fn lines(printed: &[Vec<String>], said: &[Vec<String>]) -> bool {
    match printed.split_first() {
        None => said.is_empty(),
        Some((any, rest)) if any == &["…"] => (0..=said.len()).any(|n| lines(rest, &said[n..])),
        Some((first, rest)) => {
            said.split_first().is_some_and(|(line, more)| line_fits(first, line) && lines(rest, more))
        }
    }
}

/// `…` as a word stands for any number of words; inside of one, for any part of it.
fn line_fits(printed: &[String], said: &[String]) -> bool {
    match printed.split_first() {
        None => said.is_empty(),
        Some((any, rest)) if any == "…" => (0..=said.len()).any(|n| line_fits(rest, &said[n..])),
        Some((first, rest)) => {
            said.split_first().is_some_and(|(word, more)| word_fits(first, word) && line_fits(rest, more))
        }
    }
}

fn word_fits(printed: &str, said: &str) -> bool {
    match printed.split_once('…') {
        None => printed == said,
        Some((before, after)) => said.strip_prefix(before).is_some_and(|rest| {
            let mut cuts = (0..=rest.len()).filter(|n| rest.is_char_boundary(*n));
            cuts.any(|n| word_fits(after, &rest[n..]))
        }),
    }
}

const UNITS: [&str; 12] = ["µs", "ms", "s", "min", "h", "d", "B", "kB", "MB", "GB", "TB", "%"];

/// A line's words; an id, a time, and a number with its unit are the same whatever they are.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut number = false;
    for word in line.split_whitespace() {
        let (core, tail) = word.split_at(word.trim_end_matches([',', ';', ':', '.', ')']).len());
        if number && UNITS.contains(&core) {
            words.pop();
            // `1 min 5 s` is one span.
            if words.last().is_none_or(|w| w != "<span>") {
                words.push("<span>".into());
            }
            if !tail.is_empty() {
                words.push(tail.into());
            }
            number = false;
            continue;
        }
        number = tail.is_empty() && !core.is_empty() && core.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let is_id = core.len() == 36 && core.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let is_time = core.len() >= 19 && core.as_bytes()[4] == b'-' && core.contains('T') && core.contains(':');
        match (is_id, is_time) {
            (true, _) => words.push(format!("<id>{tail}")),
            (_, true) => words.push(format!("<time>{tail}")),
            _ => words.push(word.to_owned()),
        }
    }
    words
}

#[test]
fn what_differs_from_time_to_time_fits_and_what_does_not_is_told_apart() {
    let page = |text: &str| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>();
    assert!(fits(&page("ok  clock  the server's is 3 ms ahead"), "ok   clock   the server's is 12.5 s ahead\n"));
    assert!(fits(&page("open for 2 h 5 min, by ann"), "open for 3 s, by ann"));
    assert!(!fits(&page("7 runs are queued"), "8 runs are queued"));
    assert!(fits(&page("… runs are queued"), "8 runs are queued"));
    assert!(fits(&page("web1:… is dead"), "web1:4711 is dead"));
    assert!(fits(&page("one\n…\nfour"), "one\ntwo\nthree\nfour"));
    assert!(!fits(&page("one\n…\nfour"), "one\ntwo\nthree"));
    assert!(!fits(&page("one"), "one\ntwo"));
    assert!(fits(&page("01a1fc65-a7e3-7c26-b0dd-9f7700e51646"), "0198f3a2-a7e3-7c26-b0dd-9f7700e51600"));
}
