//! What `/proc` says of processes. Everything here is a snapshot: a process may be gone, and its id
//! taken again, the moment after; an id with its start time names one process for ever.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

/// One process, as `/proc/PID/stat` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its id.
    pub pid: i32,
    /// `R`, `S`, `T`, `Z`, …
    pub state: char,
    /// Its parent's id.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// Processor time of its own and of the children that it has waited for, in [`TICK`]s.
    pub ticks: u64,
}

/// What processor time is told in: the same on every machine, whatever its own clock.
pub const TICK: Duration = Duration::from_millis(10);

impl Stat {
    /// Dead, and waiting for its parent to ask how it went.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The process of that id; `None` when there is none (or no `/proc`).
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, text: &str) -> Option<Stat> {
    // The command name stands in parentheses and may hold anything, parentheses and spaces included.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    // Fields 14 to 17 of the line, then 22; six have been read, with the id and the name, which stood before them.
    let mut ticks = 0;
    for field in fields.by_ref().skip(7).take(4) {
        ticks += field.parse::<u64>().ok()?;
    }
    let start = fields.nth(4)?.parse().ok()?;
    Some(Stat { pid, state, parent, group, session, start, ticks })
}

/// All processes that can be seen, in the order of their ids. Empty where there is no `/proc`.
#[must_use]
pub fn all() -> Vec<Stat> {
    pids().filter_map(stat).collect()
}

/// The ids of all processes that can be seen.
pub fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
}

/// Was the process started with an environment entry (`NAME=value`) that begins so? False when its
/// environment may not be read.
#[must_use]
pub fn has_environment(pid: i32, beginning: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|e| e.starts_with(beginning)))
}

/// The ids of this process's children, zombies included. Needs a kernel that lists them
/// (`CONFIG_PROC_CHILDREN`, as the distributions' kernels have it); else it looks at every process.
#[must_use]
pub fn children() -> Vec<i32> {
    children_of(nix::unistd::getpid().as_raw())
}

/// The same of any process; none of one that is gone.
#[must_use]
pub fn children_of(pid: i32) -> Vec<i32> {
    let listed: Option<Vec<i32>> = fs::read_dir(format!("/proc/{pid}/task")).ok().and_then(|tasks| {
        let mut ids = Vec::new();
        for task in tasks {
            // A thread may end while we look: its children are another thread's then, or were never many.
            match fs::read_to_string(task.ok()?.path().join("children")) {
                Ok(text) => ids.extend(text.split_ascii_whitespace().filter_map(|id| id.parse::<i32>().ok())),
                Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ESRCH | nix::libc::ENOENT)) && has_lists() => {}
                Err(_) => return None,
            }
        }
        Some(ids)
    });
    match listed {
        Some(ids) => ids,
        None if has_lists() => Vec::new(),
        None => all().into_iter().filter(|s| s.parent == pid).map(|s| s.pid).collect(),
    }
}

/// Does this kernel list children at all?
fn has_lists() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let me = nix::unistd::getpid();
        fs::metadata(format!("/proc/{me}/task/{me}/children")).is_ok()
    });
    *HAS
}

/// Bytes of memory in which the process' own pages lie, those that it shares with others included.
#[must_use]
pub fn resident(pid: i32) -> Option<u64> {
    kilobytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The same, with what several share divided among them: exact, and dear. `None` where it may not be read.
#[must_use]
pub fn resident_share(pid: i32) -> Option<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Is that very process still there (a zombie is not)?
#[must_use]
pub fn is_alive(pid: i32, start: u64) -> bool {
    stat(pid).is_some_and(|s| s.start == start && !s.is_zombie())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 7 42 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 0 0";
        let stat = parse(42, line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.session, stat.start), ('S', 7, 42, 40, 98765));
        assert_eq!(stat.ticks, 5 + 6 + 7 + 8);
    }

    #[test]
    fn this_process_is_alive_under_its_own_start_time_only() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = stat(pid).unwrap();
        assert!(is_alive(pid, me.start));
        assert!(!is_alive(pid, me.start + 1));
        assert!(all().iter().any(|s| s.pid == pid));
        assert!(resident(pid).is_some_and(|bytes| bytes > 1 << 20) && resident(-1).is_none());
    }
}
