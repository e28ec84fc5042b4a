//! What an attempt's processes use, all together, looked at while they run.
//!
//! The kernel's own ceilings ([`Ceilings`]) hold for each process alone: ten processes may use ten times as much. So what all of them
//! use is added up some times a second, and an attempt that uses more than its limits is killed, and told so. Between two looks
//! more may be used; each process for itself is held by the kernel meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::model::{Failure, code};
use crate::os::aside::aside;
use crate::os::pre_exec::Ceilings;
use crate::os::proc::{self, Stat};
use crate::os::spawner::Owned;
use crate::rules::limits::{Limits, Resource};

use super::kill::Target;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A process may have this much more writable memory than all of them may use: much of what a program reserves it never touches.
const RESERVED: u64 = 128 << 20;

/// What the kernel holds each process to.
pub(super) fn ceilings(limits: &Limits) -> Ceilings {
    Ceilings {
        data: limits.of(Resource::Memory).map(|bytes| bytes.saturating_mul(2).saturating_add(RESERVED)),
        // A second more: who uses all of it alone is seen first, and the whole step ends with it.
        cpu: limits.of(Resource::Cpu).map(|ms| ms.div_ceil(1_000).saturating_add(1)),
        file_size: limits.of(Resource::FileSize),
        open_files: limits.of(Resource::OpenFiles),
    }
}

/// More was used than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    resource: Resource,
    limit: u64,
    used: Option<u64>,
}

impl Exceeded {
    /// What the kernel's signal says, where it is one of a limit's: SIGXCPU, SIGXFSZ; also in a shell's words for it.
    pub(super) fn by_signal(limits: &Limits, signal: Option<i32>, code: Option<i32>) -> Option<Self> {
        let number = signal.or_else(|| code.and_then(|code| code.checked_sub(128)))?;
        let resource = match number {
            nix::libc::SIGXCPU => Resource::Cpu,
            nix::libc::SIGXFSZ => Resource::FileSize,
            _ => return None,
        };
        limits.of(resource).map(|limit| Self { resource, limit, used: None })
    }

    /// For the step.
    pub(super) fn failure(self) -> Failure {
        let Self { resource, limit, used } = self;
        let (name, words, most) = (resource.name(), resource.words(), resource.shown(limit));
        let used = used.map_or(String::new(), |used| format!(" ({} were used)", resource.shown(used)));
        let message = format!(
            "the program was killed: it, and what it had started, wanted more than {most} of {words}{used}; raise `limits: {{{name}: …}}` of the step, or [limits] of the configuration"
        );
        Failure::permanent(code::LIMIT_EXCEEDED, message)
    }

    /// For the failure's details.
    pub(super) fn details(self) -> serde_json::Value {
        json!({"limit": self.resource.name(), "allowed": self.limit, "used": self.used})
    }
}

/// Resolves as soon as an attempt uses too much.
pub(super) async fn exceeded(target: &Target, limits: Limits) -> Exceeded {
    let summed = [Resource::Memory, Resource::Cpu, Resource::Processes];
    if summed.iter().all(|resource| limits.of(*resource).is_none()) {
        return std::future::pending().await;
    }
    let mut most = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let target = target.clone();
        let Some(found) = aside(move || look(&target, &limits, most)).await else { continue };
        match found {
            Ok(ticks) => most = ticks,
            Err(exceeded) => return exceeded,
        }
    }
}

/// One look; gives the processor time so far. An orphan takes its own along when it ends, so that the most seen counts.
fn look(target: &Target, limits: &Limits, most: u64) -> Result<u64, Exceeded> {
    let tree = tree(target);
    let ticks = most.max(tree.iter().map(|s| s.ticks).sum());
    let tick = u64::try_from(proc::TICK.as_millis()).unwrap_or(1);
    let mut used = vec![(Resource::Processes, tree.len() as u64), (Resource::Cpu, ticks.saturating_mul(tick))];
    if let Some(limit) = limits.of(Resource::Memory) {
        used.push((Resource::Memory, memory(&tree, limit)));
    }
    match limits.exceeded(&used) {
        Some((resource, used)) => {
            let limit = limits.of(resource).unwrap_or_default();
            Err(Exceeded { resource, limit, used: Some(used) })
        }
        None => Ok(ticks),
    }
}

/// What all of them have in memory: pages that they share are counted once where that would make the difference.
fn memory(tree: &[Stat], limit: u64) -> u64 {
    let sum = |of: &dyn Fn(i32) -> Option<u64>| tree.iter().filter_map(|s| of(s.pid)).sum::<u64>();
    let each = sum(&proc::resident);
    if each <= limit || tree.len() < 2 {
        return each;
    }
    sum(&|pid| proc::resident_share(pid).or_else(|| proc::resident(pid)))
}

/// The living processes of an attempt. Those that have lost their parents are children of ours by now; the rest hang below the
/// leader and them.
fn tree(target: &Target) -> Vec<Stat> {
    let orphan = |pid: &i32| !u32::try_from(*pid).is_ok_and(Owned::contains);
    let orphans = proc::children().into_iter().filter(orphan).filter_map(proc::stat).filter(|s| target.is_root(s));
    let leader = target.leader.and_then(proc::stat);
    let mut open: Vec<Stat> = leader.into_iter().chain(orphans).collect();
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    while let Some(process) = open.pop() {
        if process.is_zombie() || !seen.insert(process.pid) {
            continue;
        }
        open.extend(proc::children_of(process.pid).into_iter().filter_map(proc::stat));
        found.push(process);
    }
    found
}
