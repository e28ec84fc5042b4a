//! A resolver of the test's own, and a daemon that asks it alone.

use std::collections::HashMap;
use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

type Asked = Arc<Mutex<HashMap<String, usize>>>;

/// Answers questions for addresses, over UDP, until the process ends.
pub struct Names {
    address: Ipv4Addr,
    asked: Asked,
    dir: TempDir,
}

impl Names {
    /// `answer` is given a name and how often its IPv4 addresses have been asked for before. `None`, with the reason said aloud, where
    /// this machine does not let the test have it: it needs root, port 53, and a mount namespace.
    pub fn start(answer: impl Fn(&str, usize) -> Vec<IpAddr> + Send + 'static) -> Option<Self> {
        let can_mount = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success());
        let free =
            |n| UdpSocket::bind((Ipv4Addr::new(127, 77, u8::try_from(std::process::id() % 250).unwrap(), n), 53)).ok();
        let Some(socket) = (1..250).find_map(free).filter(|_| can_mount) else {
            eprintln!("SKIPPED: a resolver of the test's own needs root, port 53, and a mount namespace");
            return None;
        };
        let IpAddr::V4(address) = socket.local_addr().unwrap().ip() else { unreachable!() };
        let asked = Asked::default();
        let counts = asked.clone();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((n, who)) = socket.recv_from(&mut question) {
                let _ = socket.send_to(&reply(&question[..n], &counts, &answer), who);
            }
        });
        Some(Self { address, asked, dir: tempfile::tempdir().unwrap() })
    }

    /// How often the IPv4 addresses of a name were asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }

    /// The daemon's binary, for whom `/etc/resolv.conf` names this resolver.
    pub fn binary(&self) -> PathBuf {
        let (script, file) = (self.dir.path().join("stepd"), self.dir.path().join("resolv.conf"));
        std::fs::write(&file, format!("nameserver {}\noptions timeout:1 attempts:1\n", self.address)).unwrap();
        let text = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec {} \"$@\"' stepd \"$@\"\n",
            file.display(),
            env!("CARGO_BIN_EXE_stepd")
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        script
    }
}

fn byte(length: usize) -> u8 {
    u8::try_from(length).unwrap()
}

fn reply(question: &[u8], asked: &Asked, answer: &impl Fn(&str, usize) -> Vec<IpAddr>) -> Vec<u8> {
    let (mut name, mut at) = (Vec::new(), 12);
    while question[at] != 0 {
        let length = usize::from(question[at]);
        name.push(String::from_utf8_lossy(&question[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let (name, end) = (name.join("."), at + 5);
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let before = {
        let mut asked = asked.lock().unwrap();
        let count = asked.entry(name.clone()).or_default();
        *count += usize::from(kind == 1);
        count.saturating_sub(1)
    };
    let wanted: Vec<Vec<u8>> = answer(&name, before)
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) if kind == 1 => Some(v4.octets().to_vec()),
            IpAddr::V6(v6) if kind == 28 => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut out = question[..2].to_vec();
    // An answer, final, to one question; nobody may keep it.
    out.extend([0x81, 0x80, 0, 1, 0, byte(wanted.len()), 0, 0, 0, 0]);
    out.extend(&question[12..end]);
    for data in wanted {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0, 0, byte(data.len())]);
        out.extend(data);
    }
    out
}
