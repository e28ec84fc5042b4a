//! The private server's folder: its own, short enough for a socket, and swept when its owner is gone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, geteuid};

use crate::os::proc;

use super::error::PostgresError;

/// How every folder's name begins.
const PREFIX: &str = "stepd-pg-";
/// A socket's path may have 107 bytes on Linux (103 on macOS); the folder's own name takes up to 50
/// of them and the socket's 15.
const LONGEST_PARENT: usize = 38;
/// How often a folder's removal is tried before it is left to the next sweep.
const REMOVALS: u32 = 5;

/// The ordinary user that root becomes for Postgres; `None` when we are one already.
pub fn server_user() -> Result<Option<(Uid, Gid)>, PostgresError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(|user| Some((user.uid, user.gid)))
        .ok_or(PostgresError::NoUser)
}

/// Makes a folder that only the server's user (and root) may enter.
pub fn create(user: Option<(Uid, Gid)>) -> Result<PathBuf, PostgresError> {
    let parent = parent(user.is_some());
    let me = Owner::current();
    loop {
        let path = parent.join(me.folder_name(fastrand::u32(..)));
        let made = DirBuilder::new().mode(0o700).create(&path).and_then(|()| match user {
            Some((uid, gid)) => chown(&path, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        });
        match made {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PostgresError::Folder { path: parent, error }),
        }
    }
}

/// Makes an empty folder `name` for the server's user below `parent`, which is made too where it is not there.
pub fn create_kept(parent: &Path, name: &str, user: Option<(Uid, Gid)>) -> io::Result<PathBuf> {
    let own = |path: &Path| user.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid.as_raw()), Some(gid.as_raw())));
    if !parent.exists() {
        DirBuilder::new().mode(0o700).create(parent)?;
        own(parent)?;
    }
    // Absolute: the server works in another folder.
    let path = fs::canonicalize(parent)?.join(name);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    DirBuilder::new().mode(0o700).create(&path)?;
    own(&path)?;
    Ok(path)
}

/// The temporary folder, or `/tmp` where that one is too deep for a socket or closed to the user.
fn parent(other_user: bool) -> PathBuf {
    let given = std::env::temp_dir();
    let open = !other_user || given.ancestors().all(|p| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 1 != 0));
    if given.is_absolute() && given.as_os_str().len() <= LONGEST_PARENT && open { given } else { "/tmp".into() }
}

/// Stops and removes what killed processes have left behind. Failures are not the caller's: what
/// cannot be removed now stays for the next one.
pub fn sweep(user: Option<(Uid, Gid)>) {
    let me = Owner::current();
    let uid = user.map_or_else(geteuid, |(uid, _)| uid).as_raw();
    for entry in fs::read_dir(parent(user.is_some())).into_iter().flatten().flatten() {
        let Some(owner) = entry.file_name().to_str().and_then(Owner::from_folder_name) else { continue };
        // In another pid namespace (a container that shares /tmp) the id says nothing to us.
        if owner.namespace != me.namespace || proc::is_alive(owner.pid, owner.start) {
            continue;
        }
        if entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == uid) {
            remove(&entry.path(), uid);
        }
    }
}

fn remove(folder: &Path, uid: u32) {
    for pid in working_in(&folder.join("data"), uid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // Another start may sweep the same folder, and what was killed just now may end a write: each can
    // leave a file in a folder that was read as empty.
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => return,
        }
    }
}

/// The server's processes: the postmaster and all that it forks work in their data folder. A pid file
/// would name the postmaster alone, which may be gone before its helpers are.
fn working_in(data: &Path, uid: u32) -> Vec<i32> {
    let works_here = |pid: &i32| {
        let place = PathBuf::from(format!("/proc/{pid}"));
        fs::metadata(&place).is_ok_and(|m| m.uid() == uid)
            && fs::read_link(place.join("cwd")).is_ok_and(|cwd| cwd == data)
    };
    proc::pids().filter(|pid| *pid > 1).filter(works_here).collect()
}

/// The process that a folder belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    /// The pid namespace, 0 where there are none.
    namespace: u64,
    pid: i32,
    /// In clock ticks since boot; 0 where there is no `/proc` (such folders are never swept).
    start: u64,
}

impl Owner {
    fn current() -> Self {
        let pid = nix::unistd::getpid().as_raw();
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
        Self { namespace, pid, start: proc::stat(pid).map_or(0, |s| s.start) }
    }

    fn folder_name(&self, random: u32) -> String {
        format!("{PREFIX}{:x}-{}-{:x}-{random:x}", self.namespace, self.pid, self.start)
    }

    fn from_folder_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split('-');
        let namespace = u64::from_str_radix(parts.next()?, 16).ok()?;
        let pid = parts.next()?.parse().ok()?;
        let start = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next()?;
        (start != 0 && parts.next().is_none()).then_some(Self { namespace, pid, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_name_gives_its_owner_back_and_other_names_give_none() {
        let me = Owner::current();
        assert_eq!(Owner::from_folder_name(&me.folder_name(7)), Some(me));
        for name in ["stepd-pg-", "stepd-pg-1-2", "stepd-pg-1-2-0-4", "stepd-pg-1-2-3-4-5", "other"] {
            assert_eq!(Owner::from_folder_name(name), None, "{name}");
        }
    }
}
