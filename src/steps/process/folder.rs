//! A folder of its own for each attempt: where its programs start and put their temporary files, empty at first, gone afterwards.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Nobody else may look into them.
const MODE: u32 = 0o700;

/// The folder of one attempt; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

/// Where the folders of a daemon's attempts are.
pub(super) fn of_daemon(token: &str) -> PathBuf {
    std::env::temp_dir().join(format!("stepd-{token}"))
}

impl Folder {
    /// Makes one.
    pub(super) fn new(all: &Path, number: u64) -> io::Result<Self> {
        let path = all.join(number.to_string());
        let mut builder = DirBuilder::new();
        builder.mode(MODE);
        let made = match builder.create(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                builder.recursive(true).create(all)?;
                builder.recursive(false).create(&path)
            }
            made => made,
        };
        made.map(|()| Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Empty as a rule; what is in it may be much, and must not hold up who drops it.
        if fs::remove_dir(&self.0).is_err() {
            let path = std::mem::take(&mut self.0);
            let _ = std::thread::Builder::new().name("stepd-tidy".into()).spawn(move || remove(&path));
        }
    }
}

/// Removes a folder with all that is in it; links are removed, not followed.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "what a step has left in its folder cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_is_nobody_elses_and_goes_with_all_that_is_in_it_but_not_with_what_links_lead_to() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("kept"), "x").unwrap();
        let folder = Folder::new(&place.path().join("all"), 7).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink(place.path().join("kept"), path.join("link")).unwrap();
        assert!(Folder::new(&place.path().join("all"), 7).is_err(), "never one of another attempt");
        remove(folder.path());
        assert!(!path.exists() && place.path().join("kept").exists());
    }
}
