//! What a child does between fork and exec: the one place of the crate with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid, getppid, setsid};

/// What to change in the child. Everything is off by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChildSetup {
    /// Make the child the leader of a session, and so of a process group, of its own.
    pub new_session: bool,
    /// The signal that the kernel sends the child when the *thread* that spawned it ends: spawn on
    /// [`super::spawner`]'s thread. Linux only; ignored elsewhere.
    pub parent_death: Option<Signal>,
    /// Set-user-id programs give nothing to the child or its children. Linux only; ignored elsewhere.
    pub no_new_privs: bool,
    /// No core files.
    pub no_core: bool,
    /// Close every inherited descriptor but 0, 1 and 2 at exec. Those made in Rust are closed anyway;
    /// this is for what our own parent left open. Linux only; ignored elsewhere.
    pub close_inherited: bool,
    /// Files that the child makes are its user's alone, unless it says otherwise.
    pub private_files: bool,
    /// What the child may use, and each process that it starts: of each resource as much.
    pub ceilings: Ceilings,
}

/// What the kernel lets one process use; what is not set stays as it is. A child cannot raise them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// Bytes of writable memory that is nobody else's.
    pub data: Option<u64>,
    /// Seconds of processor time; at the first one too many comes SIGXCPU, at the second SIGKILL.
    pub cpu: Option<u64>,
    /// Bytes of a file; who writes more gets SIGXFSZ.
    pub file_size: Option<u64>,
    /// Descriptors.
    pub open_files: Option<u64>,
}

/// Makes `command`'s child set itself up as said. Whatever fails there fails the spawn.
///
/// std runs this after it has changed user and group, which would clear the parent-death signal.
pub fn before_exec(command: &mut Command, setup: ChildSetup) {
    let parent = getpid();
    // SAFETY: `apply` makes system calls only. It allocates nothing, takes no lock, and touches no
    // memory but its two arguments, so it is sound in the child of a process with many threads.
    unsafe {
        command.pre_exec(move || apply(setup, parent));
    }
}

fn apply(setup: ChildSetup, parent: Pid) -> io::Result<()> {
    if setup.new_session {
        setsid()?;
    }
    if setup.no_core {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    if setup.private_files {
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
    }
    set_ceilings(setup.ceilings)?;
    if setup.close_inherited {
        close_inherited();
    }
    if setup.no_new_privs {
        no_new_privs()?;
    }
    if let Some(signal) = setup.parent_death {
        die_with_parent(signal)?;
        // The parent may have died before the signal was asked for: nobody would tell us.
        if getppid() != parent {
            return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
        }
    }
    Ok(())
}

fn set_ceilings(ceilings: Ceilings) -> io::Result<()> {
    lower(Resource::RLIMIT_DATA, ceilings.data, 0)?;
    lower(Resource::RLIMIT_CPU, ceilings.cpu, 1)?;
    lower(Resource::RLIMIT_FSIZE, ceilings.file_size, 0)?;
    lower(Resource::RLIMIT_NOFILE, ceilings.open_files, 0)
}

/// Where less is allowed already, that stays: only a privileged process could raise it.
fn lower(resource: Resource, limit: Option<u64>, room: u64) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, limit.min(most), limit.saturating_add(room).min(most))?;
    Ok(())
}

#[cfg(target_os = "linux")]
fn no_new_privs() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

#[cfg(target_os = "linux")]
fn close_inherited() {
    // Only marked, not closed: std reports a failed exec through a descriptor of its own. Kernels
    // before 5.11 refuse, and then nothing is lost but this second wall.
    // SAFETY: a system call without pointers.
    unsafe {
        nix::libc::syscall(nix::libc::SYS_close_range, 3, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC);
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(signal: Signal) -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(signal)?)
}

#[cfg(not(target_os = "linux"))]
fn close_inherited() {}

#[cfg(not(target_os = "linux"))]
fn no_new_privs() -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_signal: Signal) -> io::Result<()> {
    Ok(())
}
