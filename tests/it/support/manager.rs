//! The service manager's end of `Type=notify`: what a daemon has said, in its order.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;

use super::{SOON, Spec, wait_until};

/// Listens where `$NOTIFY_SOCKET` leads.
pub struct Manager {
    dir: TempDir,
    socket: UnixDatagram,
    said: Mutex<Vec<String>>,
}

impl Manager {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { dir, socket, said: Mutex::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    /// A daemon that this manager starts, watched if a span is given.
    pub fn spec(&self, spec: Spec, watchdog_ms: Option<u64>) -> Spec {
        let spec = spec.env("NOTIFY_SOCKET", self.path().display());
        match watchdog_ms {
            Some(ms) => spec.env("WATCHDOG_USEC", ms * 1_000),
            None => spec,
        }
    }

    /// Everything that was said so far.
    pub fn said(&self) -> Vec<String> {
        let mut said = self.said.lock().unwrap();
        let mut buffer = [0; 8192];
        while let Ok(n) = self.socket.recv(&mut buffer) {
            said.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        said.clone()
    }

    /// How many messages hold a text.
    pub fn count(&self, text: &str) -> usize {
        self.said().iter().filter(|m| m.contains(text)).count()
    }

    /// Waits for a message that holds a text.
    pub async fn hears(&self, text: &str) {
        wait_until(&format!("the manager hears {text}"), SOON, async || self.count(text) > 0).await;
    }
}
