//! What may explain a worker's death to those who find it.
//!
//! A dead worker writes nothing, so its evidence is what it said before, and what another worker on the same machine can still see:
//! the memory that it used and was allowed at its last heartbeat, whether the kernel has killed for want of memory in its memory
//! group since then, and whether its process is gone, or stands still, or runs on. The database adds the steps that were
//! in flight, and the last failed attempt with the end of its output.
//!
//! What nobody but its parent can know: how it ended, its exit status or signal (`systemctl status stepd`, `journalctl -u stepd`).
//! And nobody at all: what a step had printed since its start, which passes through the worker's memory. A memory group
//! that was made anew for the next process counts from zero, and then says nothing either.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::proc;

/// What a worker says of itself with each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Memory in use, in bytes.
    pub rss_bytes: Option<u64>,
    /// Memory that its group may use, in bytes; unset: no limit of its own.
    pub memory_limit_bytes: Option<u64>,
    /// How often the kernel has killed in its memory group for want of memory.
    pub oom_kills: Option<u64>,
    /// The folder of that group.
    pub memory_group: Option<PathBuf>,
    /// When the process started, in clock ticks since boot.
    pub process_start: Option<u64>,
    /// The machine since its boot, and the namespaces in which the rest is true.
    pub machine: Option<String>,
}

/// What another process on the same machine sees of a dead worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// `gone`, `ended` (not yet asked for by its parent), `stopped`, or `alive`.
    pub process: &'static str,
    /// Kills for want of memory in its group since its last heartbeat, where that can be told.
    pub oom_kills: Option<u64>,
}

/// This process' own facts.
#[must_use]
pub fn facts() -> Facts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let group = memory_group();
    let limit = |group: &Path| {
        let text = ["memory.max", "memory.limit_in_bytes"].iter().find_map(|f| fs::read_to_string(group.join(f)).ok());
        // The older hierarchy writes "no limit" as a number near the largest.
        text?.trim().parse::<u64>().ok().filter(|bytes| *bytes < 1 << 60)
    };
    Facts {
        rss_bytes: rss.map(|kb| kb * 1024),
        memory_limit_bytes: group.as_deref().and_then(limit),
        oom_kills: group.as_deref().and_then(oom_kills),
        memory_group: group,
        process_start: proc::stat(nix::unistd::getpid().as_raw()).map(|s| s.start),
        machine: machine(),
    }
}

/// What there is to see of the process that said these facts; `None` where this is another machine or another container.
#[must_use]
pub fn witness(facts: &Facts, pid: i32) -> Option<Seen> {
    if facts.machine.is_none() || facts.machine != machine() {
        return None;
    }
    let same = proc::stat(pid).filter(|s| facts.process_start.is_none_or(|start| s.start == start));
    let process = match same {
        None => "gone",
        Some(s) if s.is_zombie() => "ended",
        Some(s) if matches!(s.state, 'T' | 't') => "stopped",
        Some(_) => "alive",
    };
    let now = facts.memory_group.as_deref().and_then(oom_kills);
    let since = now.zip(facts.oom_kills).and_then(|(now, then)| now.checked_sub(then));
    Some(Seen { process, oom_kills: since })
}

/// The folder of this process' memory group, in either hierarchy.
fn memory_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let named = |controllers: &str| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            (names.split(',').any(|name| name == controllers)).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let root = PathBuf::from("/sys/fs/cgroup");
    let candidates = [named("memory").map(|p| root.join("memory").join(p)), named("").map(|p| root.join(p))];
    candidates.into_iter().flatten().find(|group| oom_kills(group).is_some())
}

fn oom_kills(group: &Path) -> Option<u64> {
    let text = ["memory.events", "memory.oom_control"].iter().find_map(|f| fs::read_to_string(group.join(f)).ok())?;
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn machine() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = |name: &str| Some(fs::read_link(format!("/proc/self/ns/{name}")).ok()?.display().to_string());
    Some(format!("{} {} {}", boot.trim(), space("pid")?, space("cgroup")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_itself_alive_and_no_other_process_under_its_id() {
        let facts = facts();
        assert!(facts.rss_bytes.is_some_and(|b| b > 1 << 20) && facts.machine.is_some(), "{facts:?}");
        let me = nix::unistd::getpid().as_raw();
        let process = |facts: &Facts| witness(facts, me).map(|seen| seen.process);
        assert_eq!(process(&facts), Some("alive"));
        assert_eq!(process(&Facts { process_start: Some(1), ..facts.clone() }), Some("gone"));
        assert_eq!(process(&Facts { machine: Some("another".into()), ..facts.clone() }), None);
        assert_eq!(process(&Facts { machine: None, ..facts }), None);
    }

    #[test]
    fn kills_are_counted_since_the_last_heartbeat_and_never_from_a_group_made_anew() {
        let group = std::env::temp_dir().join(format!("stepd-evidence-{}", std::process::id()));
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.events"), "low 0\noom 3\noom_kill 3\noom_group_kill 0\n").unwrap();
        let since = |then| {
            let facts = Facts { oom_kills: then, memory_group: Some(group.clone()), ..facts() };
            witness(&facts, 1).unwrap().oom_kills
        };
        assert_eq!((since(Some(2)), since(Some(3)), since(Some(5)), since(None)), (Some(1), Some(0), None, None));
        fs::remove_dir_all(&group).unwrap();
    }
}
