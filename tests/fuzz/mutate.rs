//! New inputs out of known ones.

use crate::targets::{FIELD, Form, Target};
use crate::tree;

/// Texts that have been trouble somewhere.
const TROUBLE: &[&str] = &[
    "",
    "\0",
    "\u{1b}[2J",
    "\r\n",
    "\n",
    "\u{202e}",
    "\u{200b}",
    "\u{feff}",
    "\u{fffd}",
    "é",
    "😀",
    "\u{10ffff}",
    "../../etc/passwd",
    "%00",
    "%ff",
    "%",
    "+",
    "'",
    "\"",
    "`",
    "\\",
    "\\u0000",
    "\\ud800",
    "--",
    "${{",
    "}}",
    "{{",
    "{%",
    "[",
    "]",
    "{",
    "}",
    "&a",
    "*a",
    "<<: *a",
    "!!int",
    "|",
    ">",
    "null",
    "true",
    "-0",
    "1e400",
    "-1e400",
    "1e-400",
    "0x7fffffffffffffff",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "123456789012345678901234567890.5",
    "2147483648",
    "NaN",
    "infinity",
    "9999-12-31T23:59:59Z",
    "262143-12-31T00:00:00Z",
    "-262144-01-01T00:00:00Z",
    "1970-01-01T00:00:00+23:59",
    "99999999999999999999d",
    "-1s",
    "0ms",
];

/// A seed of randomness, and the words of a target.
pub struct Mutator {
    random: fastrand::Rng,
    target: &'static Target,
}

impl Mutator {
    pub fn new(seed: u64, target: &'static Target) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), target }
    }

    /// One more input.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.picked(corpus).to_vec();
        for _ in 0..=self.random.usize(0..4) {
            let mut fields: Vec<Vec<u8>> = input.split(|b| *b == FIELD).map(<[u8]>::to_vec).collect();
            let n = self.random.usize(0..fields.len());
            let other = self.picked(corpus).split(|b| *b == FIELD).nth(n).unwrap_or_default();
            let form = self.target.forms.get(n).copied().unwrap_or(Form::Text);
            fields[n] = self.field(std::mem::take(&mut fields[n]), other, form);
            input = fields.join(&FIELD);
        }
        input
    }

    /// Rather a short one.
    fn picked<'c>(&mut self, corpus: &'c [Vec<u8>]) -> &'c [u8] {
        let (a, b) = (&corpus[self.random.usize(0..corpus.len())], &corpus[self.random.usize(0..corpus.len())]);
        if a.len() <= b.len() || self.random.u8(0..4) == 0 { a } else { b }
    }

    fn field(&mut self, text: Vec<u8>, other: &[u8], form: Form) -> Vec<u8> {
        let by_tree = match form {
            Form::Text => false,
            Form::Json => self.random.u8(0..4) > 0,
            Form::Yaml => self.random.u8(0..4) == 0,
            Form::Lines => return self.lines(text, other),
        };
        if by_tree && let Some(changed) = tree::changed(&text, other, form, self.target.words, &mut self.random) {
            return changed;
        }
        match form {
            Form::Yaml if self.random.bool() => self.lines(text, other),
            _ => self.bytes(text, other),
        }
    }

    fn word(&mut self) -> &'static [u8] {
        let words = self.target.words;
        match !words.is_empty() && self.random.u8(0..3) > 0 {
            true => words[self.random.usize(0..words.len())].as_bytes(),
            false => TROUBLE[self.random.usize(0..TROUBLE.len())].as_bytes(),
        }
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.random.usize(0..=length);
        let longest = if self.random.u8(0..4) == 0 { length - from } else { (length - from).min(16) };
        from..from + self.random.usize(0..=longest)
    }

    fn bytes(&mut self, mut text: Vec<u8>, other: &[u8]) -> Vec<u8> {
        let range = self.range(text.len());
        match self.random.u8(0..12) {
            0 if !text.is_empty() => {
                let at = self.random.usize(0..text.len());
                text[at] ^= 1 << self.random.u8(0..8);
            }
            1 if !text.is_empty() => {
                let at = self.random.usize(0..text.len());
                text[at] = self.random.u8(..);
            }
            2 | 3 => drop(text.drain(range)),
            4 | 5 => drop(text.splice(range.start..range.start, self.word().iter().copied())),
            6 => drop(text.splice(range, self.word().iter().copied())),
            7 => {
                let theirs = self.range(other.len());
                drop(text.splice(range, other[theirs].iter().copied()));
            }
            8 => {
                let part = text[range.clone()].to_vec();
                drop(text.splice(range.start..range.start, part));
            }
            9 => self.repeat(&mut text, range),
            10 => number(&mut text, &mut self.random),
            _ => text.truncate(range.start),
        }
        text
    }

    /// A part many times over: now and then so often that a limit is met.
    fn repeat(&mut self, text: &mut Vec<u8>, range: std::ops::Range<usize>) {
        let part = text[range.clone()].to_vec();
        if part.is_empty() {
            return;
        }
        let most = if self.random.u16(0..500) == 0 { (2 << 20) / part.len() } else { 4_096 / part.len() };
        let times = self.random.usize(0..=most);
        drop(text.splice(range.start..range.start, part.repeat(times)));
    }

    fn lines(&mut self, text: Vec<u8>, other: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let at = self.random.usize(0..lines.len());
        match self.random.u8(0..7) {
            0 if lines.len() > 1 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let to = self.random.usize(0..lines.len());
                lines.swap(at, to);
            }
            3 => {
                let theirs: Vec<&[u8]> = other.split(|b| *b == b'\n').collect();
                let one = theirs[self.random.usize(0..theirs.len())].to_vec();
                lines.insert(at, one);
            }
            4 => drop(lines[at].splice(0..0, b"  ".iter().copied())),
            5 => lines[at] = self.word().to_vec(),
            _ => {
                let line = std::mem::take(&mut lines[at]);
                lines[at] = self.bytes(line, other);
            }
        }
        lines.join(&b'\n')
    }
}

/// A number of the text becomes another one.
fn number(text: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let starts: Vec<usize> = (0..text.len())
        .filter(|at| text[*at].is_ascii_digit() && (*at == 0 || !text[*at - 1].is_ascii_digit()))
        .collect();
    let Some(from) = random.choice(starts) else { return };
    let length = text[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let known: u64 = String::from_utf8_lossy(&text[from..from + length]).parse().unwrap_or(u64::MAX);
    let new = match random.u8(0..8) {
        0 => known.wrapping_add(1).to_string(),
        1 => known.wrapping_sub(1).to_string(),
        2 => (1_u64 << random.u8(0..64)).to_string(),
        3 => ((1_u64 << random.u8(0..64)) - 1).to_string(),
        4 => format!("-{known}"),
        5 => format!("{known}.{known}e{}", random.u16(0..500)),
        6 => "0".to_owned(),
        _ => random.u64(..).to_string(),
    };
    drop(text.splice(from..from + length, new.into_bytes()));
}
