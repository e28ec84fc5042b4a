//! `stepd check`: everything that is wrong with workflow files, in one go.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::app::files;
use crate::definition::read;

/// Checks files, and the `.yaml`, `.yml` and `.json` files of folders and their sub-folders. Complaints go to stderr, a
/// line about each good file to stdout. The exit code: 0 when all are good, 1 when one is not or there is none, 2 when one
/// cannot be read.
#[must_use]
pub fn check(files: &[PathBuf]) -> i32 {
    check_to(files, &mut anstream::stdout(), &mut anstream::stderr()).unwrap_or(2)
}

/// As [`check`], to whoever listens.
pub(super) fn check_to(files: &[PathBuf], out: &mut dyn Write, err: &mut dyn Write) -> std::io::Result<i32> {
    let mut code = 0;
    let mut found = Vec::new();
    for path in files {
        if let Err(e) = collect(path, true, &mut found) {
            writeln!(err, "error: {e:#}")?;
            code = 2;
        }
    }
    if found.is_empty() && code == 0 {
        writeln!(err, "error: no workflow files found: name files, or folders that hold *.yaml, *.yml or *.json")?;
        return Ok(1);
    }
    let (mut wrong, mut errors) = (0, 0);
    for path in &found {
        let name = path.display().to_string();
        let bytes = match files::read(path) {
            Ok(bytes) => bytes,
            Err(e) => {
                writeln!(err, "error: {name} cannot be read: {e}")?;
                code = 2;
                continue;
            }
        };
        match read(&name, bytes) {
            Ok((_, definition)) => writeln!(out, "ok {name}: {}", definition.name)?,
            Err(diagnostics) => {
                writeln!(err, "{diagnostics}")?;
                wrong += 1;
                errors += diagnostics.list.len();
                code = code.max(1);
            }
        }
    }
    if wrong > 0 {
        let s = |n| if n == 1 { "" } else { "s" };
        writeln!(err, "{errors} error{} in {wrong} of {} file{}", s(errors), found.len(), s(found.len()))?;
    }
    Ok(code)
}

/// The files that a path means, in the order of their names. A named file is taken whatever its ending.
fn collect(path: &Path, named: bool, out: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let about = || format!("{} cannot be read", path.display());
    let kind = std::fs::metadata(path).with_context(about)?;
    if !kind.is_dir() {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        // A pipe that is named may be meant; one that lies in a folder would only be waited for.
        if named || kind.is_file() && matches!(ending, "yaml" | "yml" | "json") {
            out.push(path.to_owned());
        }
        return Ok(());
    }
    let mut inside = std::fs::read_dir(path)
        .with_context(about)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(about)?;
    inside.sort();
    for path in inside {
        // Hidden folders are not ours (.git), and a link to a folder above would never end.
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let linked_folder = path.is_symlink() && path.is_dir();
        if !hidden && !linked_folder {
            collect(&path, false, out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(files: &[PathBuf]) -> (i32, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check_to(files, &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn folders_are_walked_and_all_errors_reported() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("more")).unwrap();
        std::fs::create_dir(dir.path().join(".git")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("good.yaml", "name: good\nsteps: [{id: one, run: 'true'}]\n");
        write("more/bad.yml", "name: bad\nsteps: [{id: one, run: 'true', rtry: 1}, {id: one, run: x}]\n");
        write("more/bad.json", "{");
        write("notes.txt", "no workflow");
        write(".git/x.yaml", "no: workflow");
        let (code, out, err) = run(&[dir.path().to_owned()]);
        assert_eq!(code, 1);
        assert!(out.contains("good.yaml: good"), "{out}");
        assert!(err.contains("did you mean `retry`?") && err.contains("already in use"), "{err}");
        assert!(err.contains("errors in 2 of 3 files"), "{err}");
    }

    #[test]
    fn what_cannot_be_read_is_exit_code_two_and_nothing_found_is_one() {
        assert_eq!(run(&[PathBuf::from("/nowhere/at/all.yaml")]).0, 2);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(run(&[empty.path().to_owned()]).0, 1);
    }
}
