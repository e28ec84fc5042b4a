//! What can be seen of this machine.

use std::path::Path;

/// Bytes that are free, and bytes in all, of a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub free: u64,
    pub total: u64,
}

/// The file system on which a folder is; `None` where there is no such folder here, or it cannot be looked at.
pub(super) fn space(folder: &str) -> Option<Space> {
    let stat = nix::sys::statvfs::statvfs(Path::new(folder)).ok()?;
    let unit = stat.fragment_size();
    Some(Space { free: stat.blocks_available() * unit, total: stat.blocks() * unit })
}

/// As workers name it.
pub(super) fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_else(|| "unknown".into())
}
