//! A daemon's own network: a namespace of the kernel's, with one line to Postgres and one to everything else. What is cut there is cut as
//! in the world: nobody is told, and what was sent is sent again when the line is back.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::plan::Fault;
use crate::support::tools;

/// The programs that make one; none, said aloud, where they are not there or nobody may.
pub struct Tools {
    ip: PathBuf,
    nft: PathBuf,
    libraries: Option<PathBuf>,
    /// The two middle numbers of the addresses, drawn: other runs on this machine have others.
    subnet: [u8; 2],
}

/// A namespace. Dropping it ends it, with its lines.
pub struct Line {
    name: String,
    /// The host's end of the line to Postgres.
    outside: String,
    /// Where Postgres is, seen from within.
    pub postgres: String,
    /// Where everything else is.
    pub rest: String,
    ip: PathBuf,
    nft: PathBuf,
    libraries: Option<PathBuf>,
}

impl Tools {
    pub fn found() -> Option<Self> {
        let without = "no daemon had a network of its own, and none was cut";
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: this is not root, so {without}");
            return None;
        }
        let (ip, _) = tools::program("ip", without)?;
        let (nft, libraries) = tools::program("nft", without)?;
        let tools = Self { ip, nft, libraries, subnet: [fastrand::u8(..), fastrand::u8(64..)] };
        tools.sweep();
        // In a container there may be the programs, and not the right to use them.
        let probe = format!("stepd-{}-probe", std::process::id());
        let made = run(Command::new(&tools.ip).args(["netns", "add", &probe]), "");
        let _ = run(Command::new(&tools.ip).args(["netns", "del", &probe]), "");
        if let Err(error) = made {
            eprintln!("SKIPPED: no network of its own can be made ({}), so {without}", error.trim());
            return None;
        }
        Some(tools)
    }

    /// What runs before have left behind that were killed.
    fn sweep(&self) {
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix("stepd-").and_then(|rest| rest.split('-').next()).map(ToOwned::to_owned);
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = run(Command::new(&self.ip).args(["netns", "del", &name]), "");
            }
        }
    }

    fn ip(&self, words: &[&str]) {
        run(Command::new(&self.ip).args(words), "").unwrap_or_else(|e| panic!("ip {words:?}: {e}"));
    }

    /// The network of one daemon.
    pub fn line(&self, slot: usize) -> Line {
        let name = format!("stepd-{}-{slot}", std::process::id());
        let place = u8::try_from(slot).unwrap() * 4;
        let [a, b] = self.subnet;
        let (to_postgres, to_rest) = (format!("198.18.{a}.{}", place + 1), format!("198.19.{b}.{}", place + 1));
        let tag = format!("{:x}{slot}", std::process::id());
        let (outside, other) = (format!("sp{tag}"), format!("sr{tag}"));
        self.ip(&["netns", "add", &name]);
        self.ip(&["-n", &name, "link", "set", "lo", "up"]);
        for (outside, inside, here) in [(&outside, "postgres", &to_postgres), (&other, "rest", &to_rest)] {
            let (prefix, _) = here.rsplit_once('.').unwrap();
            self.ip(&["link", "add", outside, "type", "veth", "peer", "name", inside, "netns", &name]);
            self.ip(&["addr", "add", &format!("{here}/30"), "dev", outside]);
            self.ip(&["link", "set", outside, "up"]);
            self.ip(&["-n", &name, "addr", "add", &format!("{prefix}.{}/30", place + 2), "dev", inside]);
            self.ip(&["-n", &name, "link", "set", inside, "up"]);
        }
        let line = Line {
            name,
            outside,
            postgres: to_postgres,
            rest: to_rest,
            ip: self.ip.clone(),
            nft: self.nft.clone(),
            libraries: self.libraries.clone(),
        };
        line.rules(
            "add table inet f; add chain inet f out { type filter hook output priority 0; }; \
             add chain inet f in { type filter hook input priority 0; }",
        );
        line
    }
}

impl Line {
    /// What a command begins with that runs in this network.
    pub fn within(&self) -> Vec<String> {
        vec![self.ip.display().to_string(), "netns".into(), "exec".into(), self.name.clone()]
    }

    fn rules(&self, rules: &str) {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", &self.name]).arg(&self.nft).args(["-f", "-"]);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        run(&mut command, rules).unwrap_or_else(|e| panic!("nft {rules}: {e}"));
    }

    /// Does it to the line to Postgres.
    pub fn begin(&self, fault: Fault) {
        let far = &self.postgres;
        match fault {
            Fault::LinkDown => self.link("down"),
            Fault::DropOut => self.rules(&format!("add rule inet f out ip daddr {far} drop")),
            Fault::DropIn => self.rules(&format!("add rule inet f in ip saddr {far} drop")),
            Fault::Reset => {
                self.rules(&format!("add rule inet f out ip daddr {far} tcp flags & rst == 0 reject with tcp reset"))
            }
            Fault::Loss => self.rules(&format!(
                "add rule inet f out ip daddr {far} numgen random mod 100 < 20 drop; \
                 add rule inet f in ip saddr {far} numgen random mod 100 < 20 drop"
            )),
            _ => unreachable!("{fault:?} is none of a network's own"),
        }
    }

    /// Everything passes again.
    pub fn pass(&self) {
        self.rules("flush chain inet f out; flush chain inet f in");
        self.link("up");
    }

    fn link(&self, state: &str) {
        run(Command::new(&self.ip).args(["link", "set", &self.outside, state]), "").unwrap();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = run(Command::new(&self.ip).args(["link", "del", &self.outside]), "");
        let _ = run(Command::new(&self.ip).args(["netns", "del", &self.name]), "");
    }
}

fn run(command: &mut Command, input: &str) -> Result<(), String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|error| error.to_string())?;
    let done = child.wait_with_output().map_err(|error| error.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

/// Hands connections at an address on to a server of this process.
pub async fn forward(at: &str, port: u16) {
    let listener = tokio::net::TcpListener::bind((at, port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
}
