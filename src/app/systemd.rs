//! What systemd is told, in the one protocol that `Type=notify` needs: datagrams of `NAME=value` lines to `$NOTIFY_SOCKET`.
//! Without that variable nothing is said to anybody.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::telemetry::redact;

/// How long a message may take to be taken.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where to say it.
#[derive(Debug, Default)]
pub struct Systemd {
    socket: Option<UnixDatagram>,
}

impl Systemd {
    /// As this process' environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let Some(place) = std::env::var("NOTIFY_SOCKET").ok().filter(|p| !p.is_empty()) else { return Self::default() };
        match Self::at(&place) {
            Ok(systemd) => systemd,
            Err(error) => {
                tracing::warn!(%error, place, "systemd's socket cannot be reached; it will not hear of this daemon's states");
                Self::default()
            }
        }
    }

    fn at(place: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address(place)?)?;
        // A manager that does not read must not stop the daemon for long.
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket: Some(socket) })
    }

    /// Is there anybody to be told?
    #[must_use]
    pub fn listens(&self) -> bool {
        self.socket.is_some()
    }

    fn say(&self, text: &str) {
        if let Some(socket) = &self.socket {
            // What is not heard is said again with the next state, or the next ping.
            let _ = socket.send(text.as_bytes());
        }
    }

    /// The daemon claims.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// The daemon reads its configuration again; [`Systemd::ready`] ends it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", now.as_micros()));
    }

    /// The daemon drains, for as long as this at the most.
    pub fn stopping(&self, limit: Duration) {
        let status = "draining: running steps may end within the grace time";
        self.say(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS={status}", limit.as_micros()));
    }

    /// Starting takes longer than usual, and goes on.
    pub fn still_starting(&self, status: &str, limit: Duration) {
        self.say(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={}", limit.as_micros(), line(status)));
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.say(&format!("STATUS={}", line(status)));
    }

    /// The engine makes progress.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }
}

/// How often systemd wants to hear that the daemon is alive; `None`: it does not watch.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| mine && *usec > 0).map(Duration::from_micros)
}

/// A status is one line, not endless, and without secrets.
fn line(text: &str) -> String {
    redact::hide(text).chars().take(1_000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(target_os = "linux")]
fn address(place: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(place),
    }
}

#[cfg(not(target_os = "linux"))]
fn address(place: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn what_is_said_arrives_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@stepd-test-{}", std::process::id());
        for place in [path.to_str().unwrap(), &name] {
            let socket = UnixDatagram::bind_addr(&address(place).unwrap()).unwrap();
            let systemd = Systemd::at(place).unwrap();
            systemd.ready("one\ntwo");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=one two");
            systemd.reloading();
            let text = heard(&socket);
            let usec = text.lines().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(text.starts_with("RELOADING=1\n") && usec.parse::<u64>().unwrap() > 0, "{text}");
            systemd.stopping(Duration::from_secs(2));
            assert!(heard(&socket).starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000\n"));
            systemd.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1");
        }
    }
}
