//! Tools that make the world hard, where they are: `.ci/faults` brings them.

use std::path::{Path, PathBuf};

/// What `.ci/faults` has unpacked.
fn unpacked() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("stepd/faults/root"))
}

/// A program, and where its libraries are; `None`, said aloud, where it is not there.
pub fn program(name: &str, without: &str) -> Option<(PathBuf, Option<PathBuf>)> {
    let root = unpacked();
    let libraries = root.as_ref().map(|r| r.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).map(|dir| (dir, None));
    let own = root.into_iter().flat_map(|r| ["usr/sbin", "sbin", "usr/bin", "bin"].map(|dir| r.join(dir)));
    let own = own.map(|dir| (dir, libraries.clone()));
    let found = system.chain(own).map(|(dir, libraries)| (dir.join(name), libraries)).find(|(p, _)| p.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: there is no {name} here, so {without} (.ci/faults brings one)");
    }
    found
}

/// The same program for a user who may not look into root's home, where it was unpacked: copied into this folder, with its libraries.
pub fn within_reach((program, libraries): (PathBuf, Option<PathBuf>), folder: &Path) -> (PathBuf, Option<PathBuf>) {
    let Some(libraries) = libraries else { return (program, None) };
    let entries = std::fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap().path());
    for file in entries.filter(|path| path.is_file()).chain([program.clone()]) {
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    (folder.join(program.file_name().unwrap()), Some(folder.to_owned()))
}

/// A library that shifts a process' clock, preloaded.
pub fn faketime() -> Option<PathBuf> {
    let folder = format!("usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    let found = [Some(PathBuf::from("/")), unpacked()].into_iter().flatten().map(|root| root.join(&folder));
    let found = found.into_iter().find(|p| p.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: there is no libfaketime here, so no clock was wrong (.ci/faults brings one)");
    }
    found
}
