//! Who may write the files that stepd obeys: what stands in them is run, under its user, so that whoever can change one of them, or
//! put another in its place, can do all that stepd can.
//!
//! A path is walked from the root. Every folder on the way, every link, and the file itself must belong to root, to this process'
//! user, or to a user who has been named; and nobody else may write to it. In a folder that everybody may write to and that is
//! sticky (`/tmp`), what counts is who the next thing on the way belongs to. What lies on a read-only mount cannot be written.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// Links on the way to one file, as the kernel has it.
const LINKS: u32 = 40;

const STICKY: u32 = 0o1000;
const BY_GROUP: u32 = 0o020;
const BY_OTHERS: u32 = 0o002;

/// The users whose files are obeyed.
#[derive(Clone, Debug)]
pub struct Trust {
    users: Vec<u32>,
}

/// A file that is not obeyed, with the reason and what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Untrusted(String);

impl Default for Trust {
    /// Root, and whoever runs this process.
    fn default() -> Self {
        Self { users: vec![0, geteuid().as_raw()] }
    }
}

impl Trust {
    /// These users, too, by name or number.
    ///
    /// # Errors
    /// The name that no user has.
    pub fn and(mut self, names: &[String]) -> Result<Self, String> {
        for name in names {
            let found = name.parse().ok().or_else(|| User::from_name(name).ok()?.map(|user| user.uid.as_raw()));
            self.users.push(found.ok_or_else(|| name.clone())?);
        }
        Ok(self)
    }

    /// May this file be obeyed? One that is not there may: whoever reads it finds out.
    ///
    /// # Errors
    /// Somebody else could have written it.
    pub fn check(&self, file: &Path) -> Result<(), Untrusted> {
        let Ok(path) = std::path::absolute(file) else { return Ok(()) };
        let mut open: VecDeque<OsString> = path.components().map(|c| c.as_os_str().to_owned()).collect();
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = open.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::ParentDir) => drop(at.pop()),
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::Normal(name)) => at.push(name),
                _ => {}
            }
            let Ok(meta) = fs::symlink_metadata(&at) else { return Ok(()) };
            let place = Place { file: &path, at: &at, meta: &meta };
            self.owned(&place)?;
            if meta.is_symlink() {
                let Ok(target) = fs::read_link(&at) else { return Ok(()) };
                links += 1;
                if links > LINKS {
                    return Ok(());
                }
                at.pop();
                target.components().rev().for_each(|c| open.push_front(c.as_os_str().to_owned()));
            } else {
                self.unwritten(&place)?;
            }
        }
        Ok(())
    }

    fn owned(&self, place: &Place<'_>) -> Result<(), Untrusted> {
        let owner = place.meta.uid();
        if self.users.contains(&owner) || place.is_read_only() {
            return Ok(());
        }
        let me = geteuid();
        let mine = if me.is_root() { String::new() } else { format!(" or {}, as whom stepd runs", user(me.as_raw())) };
        Err(place.untrusted(&format!(
            "belongs to {}, and not to root{mine}: chown it (the owner of workflow files can be named in workflow_owners)",
            user(owner)
        )))
    }

    fn unwritten(&self, place: &Place<'_>) -> Result<(), Untrusted> {
        let mode = place.meta.mode();
        let passage = place.meta.is_dir() && mode & STICKY != 0;
        if mode & (BY_GROUP | BY_OTHERS) == 0 || passage || place.is_read_only() {
            return Ok(());
        }
        let at = place.at.display();
        if mode & BY_OTHERS != 0 {
            return Err(place.untrusted(&format!("may be written by everybody: chmod o-w {at}")));
        }
        let group = place.meta.gid();
        if group == 0 || self.is_private(group) {
            return Ok(());
        }
        let name = Group::from_gid(Gid::from_raw(group)).ok().flatten().map_or_else(|| group.to_string(), |g| g.name);
        Err(place.untrusted(&format!("may be written by the group {name}: chmod g-w {at}")))
    }

    /// Is it the group that a trusted user has for themselves (many systems give each user one, and let it write)?
    fn is_private(&self, group: u32) -> bool {
        let Ok(Some(group)) = Group::from_gid(Gid::from_raw(group)) else { return false };
        let own = |uid: &u32| User::from_uid(Uid::from_raw(*uid)).ok().flatten();
        self.users.iter().filter_map(own).any(|user| {
            user.gid == group.gid && user.name == group.name && group.mem.iter().all(|member| *member == user.name)
        })
    }
}

/// A thing on the way to a file.
struct Place<'a> {
    file: &'a Path,
    at: &'a Path,
    meta: &'a Metadata,
}

impl Place<'_> {
    fn is_read_only(&self) -> bool {
        // A link is asked about at the place where it leads; its folder is what it lies in.
        let asked = if self.meta.is_symlink() { self.at.parent().unwrap_or(self.at) } else { self.at };
        statvfs(asked).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY))
    }

    fn untrusted(&self, why: &str) -> Untrusted {
        let what = if self.meta.is_dir() { "folder" } else { "link" };
        Untrusted(match self.file == self.at {
            true => format!("{} {why}", self.file.display()),
            false if self.meta.is_file() => format!("{} (which {} is) {why}", self.at.display(), self.file.display()),
            false => format!("the {what} {} on the way to {} {why}", self.at.display(), self.file.display()),
        })
    }
}

fn user(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("the user {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use super::*;

    /// A folder with a file in it; what is done to them, and what is then said.
    fn told(change: impl FnOnce(&Path)) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::set_permissions(folder.path().join("in"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("in/file"), "x").unwrap();
        change(folder.path());
        let file = folder.path().join("in/file");
        Trust::default().check(&file).map_err(|e| e.to_string().replace(&folder.path().display().to_string(), "D"))
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_nobody_else_can_write_is_trusted_also_by_way_of_links_and_of_a_sticky_folder() {
        assert_eq!(told(|_| {}), Ok(()));
        assert_eq!(told(|d| mode(&d.join("in"), 0o1777)), Ok(()));
        let moved = |d: &Path| {
            fs::rename(d.join("in/file"), d.join("real")).unwrap();
            symlink("../real", d.join("in/file")).unwrap();
        };
        assert_eq!(told(moved), Ok(()));
        assert_eq!(Trust::default().check(Path::new("/no/such/file")), Ok(()));
        let round = |d: &Path| {
            fs::remove_file(d.join("in/file")).unwrap();
            symlink("file", d.join("in/file")).unwrap();
        };
        assert_eq!(told(round), Ok(()), "whoever reads it finds out");
    }

    #[test]
    fn what_everybody_may_write_is_not_wherever_on_the_way_it_stands() {
        let everybody = "may be written by everybody: chmod o-w";
        assert_eq!(told(|d| mode(&d.join("in/file"), 0o646)), Err(format!("D/in/file {everybody} D/in/file")));
        let folder = format!("the folder D/in on the way to D/in/file {everybody} D/in");
        assert_eq!(told(|d| mode(&d.join("in"), 0o777)), Err(folder));
        let linked = |d: &Path| {
            fs::create_dir(d.join("open")).unwrap();
            fs::rename(d.join("in/file"), d.join("open/file")).unwrap();
            mode(&d.join("open"), 0o777);
            symlink("../open/file", d.join("in/file")).unwrap();
        };
        assert!(told(linked).unwrap_err().starts_with("the folder D/open on the way to D/in/file"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_not_unless_they_are_named() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can give files away");
            return;
        }
        let give = |path: &Path| lchown(path, Some(4711), Some(4711)).unwrap();
        let told_of = told(|d| give(&d.join("in/file"))).unwrap_err();
        assert!(told_of.starts_with("D/in/file belongs to the user 4711, and not to root: chown it"), "{told_of}");
        assert!(told(|d| give(&d.join("in"))).unwrap_err().starts_with("the folder D/in on the way"));
        let linked = |d: &Path| {
            fs::rename(d.join("in/file"), d.join("real")).unwrap();
            symlink("../real", d.join("in/file")).unwrap();
            give(&d.join("in/file"));
        };
        assert!(told(linked).unwrap_err().starts_with("D/in/file belongs"));
        let group = |d: &Path| {
            lchown(d.join("in/file"), None, Some(4711)).unwrap();
            mode(&d.join("in/file"), 0o664);
        };
        assert!(told(group).unwrap_err().starts_with("D/in/file may be written by the group 4711: chmod g-w"));
        let file = tempfile::NamedTempFile::new().unwrap();
        give(file.path());
        assert!(Trust::default().and(&["4711".into()]).unwrap().check(file.path()).is_ok());
        assert_eq!(Trust::default().and(&["no such user".into()]).unwrap_err(), "no such user");
    }
}
