//! The journal's own protocol, so that `journalctl RUN_ID=…` finds what belongs to a run.
//!
//! One datagram a line: `NAME=value` and a newline for each field; a value of several lines as name, newline, its length in eight
//! bytes (little-endian), value, newline.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tracing::Level;

use super::line::Line;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A journal that does not take a line for so long does not get it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the journal listens.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// The journal, where there is one.
    pub(super) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(SOCKET)?;
        Ok(Self(socket))
    }

    /// Does stderr lead to the journal? systemd says which socket it has made for that.
    pub(super) fn is_stderr() -> bool {
        let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
        std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| stream == format!("{}:{}", m.dev(), m.ino()))
    }

    pub(super) fn write(&self, line: &Line) -> io::Result<()> {
        match self.0.send(&datagram(line, true)) {
            // Larger than a datagram may be: the text alone is what people need.
            Err(e) if e.raw_os_error() == Some(nix::libc::EMSGSIZE) => self.0.send(&datagram(line, false)).map(drop),
            done => done.map(drop),
        }
    }
}

/// As syslog counts.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn datagram(line: &Line, whole: bool) -> Vec<u8> {
    let mut out = Vec::new();
    // What journalctl shows without being asked for fields.
    let text = format!("{}  {}", line.message, line.fields_text());
    push(&mut out, "MESSAGE", text.trim_end());
    push(&mut out, "PRIORITY", &priority(line.level).to_string());
    push(&mut out, "SYSLOG_IDENTIFIER", "stepd");
    push(&mut out, "TARGET", &line.target);
    for (name, value) in line.fields.iter().filter(|(name, _)| whole || name.ends_with("id")) {
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        push(&mut out, &field_name(name), &value);
    }
    out
}

/// `run.id` → `RUN_ID`. A name that is the journal's own, or begins as its trusted ones do, is made ours.
fn field_name(name: &str) -> String {
    const TAKEN: [&str; 5] = ["MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "TARGET"];
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().take(60).map(upper).collect();
    match name.starts_with(|c: char| c == '_' || c.is_ascii_digit()) || TAKEN.contains(&name.as_str()) {
        true => format!("F_{name}"),
        false => name,
    }
}

fn push(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// For a journal that cannot be reached by its own protocol: stderr, whose lines may begin with their priority.
pub(super) fn prefixed(line: &Line) -> String {
    format!("<{}>{}", priority(line.level), line.json())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn line(message: &str, fields: &[(&str, Value)]) -> Line {
        Line {
            time: "2026-01-02T03:04:05.678Z".into(),
            level: Level::INFO,
            target: "stepd".into(),
            message: message.into(),
            fields: fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        }
    }

    #[test]
    fn a_datagram_has_fields_that_journalctl_can_be_asked_for() {
        let line = line("run left", &[("run.id", "0198".into()), ("n", 5.into()), ("error", "one\ntwo".into())]);
        let text = datagram(&line, true);
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("MESSAGE=run left  run.id=0198 n=5 error=one\\ntwo\nPRIORITY=6\n"), "{text}");
        assert!(text.contains("\nRUN_ID=0198\n") && text.contains("\nN=5\n"), "{text}");
        assert!(text.contains("\nERROR\n\u{7}\0\0\0\0\0\0\0one\ntwo\n"), "{text:?}");
        let short = datagram(&line, false);
        assert!(!String::from_utf8_lossy(&short).contains("\nERROR"));
    }

    #[test]
    fn no_field_can_pass_for_the_journals_own() {
        assert_eq!(field_name("_pid"), "F__PID");
        assert_eq!(field_name("priority"), "F_PRIORITY");
        assert_eq!(field_name("9"), "F_9");
        assert_eq!(field_name("dead.worker"), "DEAD_WORKER");
    }
}
