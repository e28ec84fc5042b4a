//! Ending everything that an attempt, or a dead daemon, has started.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid};

use crate::os::proc::{self, Stat};
use crate::os::spawner::Owned;

use super::MARKER;

/// Rounds of stopping before killing starts although new processes still turn up.
const STOP_ROUNDS: u32 = 50;

/// So often it is looked after a kill before it is said that something does not die.
const LOOKS: u32 = 200;
/// An orphan's remains are left alone for this long, if they cannot be told from a child that some
/// other part of the process is about to wait for.
const UNSURE: Duration = Duration::from_secs(5);

/// Whom to kill.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The attempt's main process, leader of its session; `None` for all of a daemon.
    pub leader: Option<i32>,
    /// Has the leader been waited for? Then its id may name another process by now.
    pub reaped: bool,
    /// How the marker's environment entry begins.
    pub marker: Vec<u8>,
}

impl Target {
    /// Everything that carries a marker which begins so.
    pub(super) fn marked(leader: Option<i32>, marker: &str) -> Self {
        Self { leader, reaped: false, marker: format!("{MARKER}={marker}").into_bytes() }
    }

    pub(super) fn is_root(&self, process: &Stat) -> bool {
        // The id of a session or group is not given to a new process while a member of it lives.
        self.leader.is_some_and(|leader| {
            (process.pid == leader && !self.reaped) || process.session == leader || process.group == leader
        }) || proc::has_environment(process.pid, &self.marker)
    }

    /// The living processes to kill, of all that there are.
    fn members(&self, all: &[Stat], known: &HashSet<(i32, u64)>) -> Vec<Stat> {
        let spared = [1, getpid().as_raw()];
        let eligible = |p: &Stat| {
            let owned = u32::try_from(p.pid).is_ok_and(Owned::contains) && self.leader != Some(p.pid);
            !spared.contains(&p.pid) && !owned
        };
        let is_root = |p: &Stat| known.contains(&(p.pid, p.start)) || (!p.is_zombie() && self.is_root(p));
        family(all, |p| eligible(p) && is_root(p)).into_iter().filter(|p| !p.is_zombie() && eligible(p)).collect()
    }
}

/// The roots and all that descend from them.
fn family(all: &[Stat], is_root: impl Fn(&Stat) -> bool) -> Vec<Stat> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut open: Vec<&Stat> = all.iter().filter(|p| is_root(p)).collect();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    while let Some(process) = open.pop() {
        if seen.insert(process.pid) {
            found.push(*process);
            open.extend(children.get(&process.pid).into_iter().flatten());
        }
    }
    found
}

/// Kills the target's processes; returns whether they are all dead. Blocks, some milliseconds as a
/// rule, `limit` at most.
///
/// Everything is stopped before anything is killed: a process that is told to stop cannot fork in
/// the meantime, so the scans come to an end, and no parent gets to replace a killed child.
pub(super) fn kill_all(target: &Target, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let mut killed = 0;
    let mut known = HashSet::new();
    let mut rounds = 0;
    loop {
        let living = target.members(&proc::all(), &known);
        if living.is_empty() {
            reap(known.iter().map(|(pid, _)| *pid).filter(|pid| Some(*pid) != target.leader));
            return true;
        }
        let fresh: Vec<_> = living.iter().filter(|p| known.insert((p.pid, p.start))).collect();
        rounds += 1;
        if !fresh.is_empty() && rounds < STOP_ROUNDS {
            signal_each(fresh.into_iter(), Signal::SIGSTOP);
            continue;
        }
        signal_each(living.iter(), Signal::SIGKILL);
        killed += 1;
        // A daemon that was stopped in between finds the time over, and has not looked.
        if Instant::now() >= deadline && killed >= LOOKS {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal_each<'a>(processes: impl Iterator<Item = &'a Stat>, signal: Signal) {
    for process in processes {
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

/// Takes the remains of orphans that became our children. Not ours, or not dead yet: nothing happens.
fn reap(pids: impl Iterator<Item = i32>) {
    for pid in pids.filter(|pid| u32::try_from(*pid).is_ok_and(|pid| !Owned::contains(pid))) {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Makes orphans of our descendants our own children, so that [`leftovers`] finds them; once a
/// process. False where the system does not do that.
pub(super) fn adopt_orphans() -> bool {
    static ADOPTS: LazyLock<bool> = LazyLock::new(|| {
        #[cfg(target_os = "linux")]
        return nix::sys::prctl::set_child_subreaper(true).is_ok();
        #[cfg(not(target_os = "linux"))]
        return false;
    });
    *ADOPTS
}

/// Is anything of the target left, once its leader has been waited for? Cheap: whatever is left has
/// lost its parents, so its eldest are children of ours now. Remains of dead orphans are taken on the way.
pub(super) fn leftovers(target: &Target) -> bool {
    if !adopt_orphans() {
        return true;
    }
    let mut left = false;
    for pid in proc::children().into_iter().filter(|pid| u32::try_from(*pid).is_ok_and(|p| !Owned::contains(p))) {
        let Some(process) = proc::stat(pid) else { continue };
        if !process.is_zombie() {
            left |= target.is_root(&process);
        } else if Some(process.session) == target.leader || unclaimed(&process) {
            reap(std::iter::once(pid));
        }
    }
    left
}

/// Has this zombie been seen long enough for us to say that nobody waits for it?
fn unclaimed(zombie: &Stat) -> bool {
    static SEEN: Mutex<Option<HashMap<(i32, u64), Instant>>> = Mutex::new(None);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.get_or_insert_default();
    seen.retain(|(pid, start), _| proc::stat(*pid).is_some_and(|s| s.start == *start));
    seen.entry((zombie.pid, zombie.start)).or_insert_with(Instant::now).elapsed() >= UNSURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_the_roots_and_their_descendants() {
        let process = |pid, parent| Stat { pid, state: 'S', parent, group: pid, session: pid, start: 1, ticks: 0 };
        let all = [process(1, 0), process(5, 1), process(6, 5), process(7, 6), process(8, 1), process(9, 8)];
        let mut ids: Vec<_> = family(&all, |p| p.pid == 5 || p.pid == 7).iter().map(|p| p.pid).collect();
        ids.sort_unstable();
        assert_eq!(ids, [5, 6, 7]);
    }
}
