//! Removed runs, as JSON lines in a file: on the disk before the removal commits.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::os::aside::aside;

use super::retention::{Export, PruneError};

/// Appends lines, and returns when they are on the disk.
///
/// # Errors
/// The file cannot be written.
pub async fn write(to: Export, day: String, lines: Vec<String>) -> Result<(), PruneError> {
    let path = match &to {
        Export::Folder(folder) => folder.join(format!("stepd-runs-{day}.jsonl")),
        Export::File(file) => file.clone(),
    };
    let told = path.clone();
    let done = aside(move || append(&path, &lines)).await;
    done.unwrap_or_else(|| Err(io::Error::other("the writing panicked")))
        .map_err(|error| PruneError::Export { path: told, error })
}

fn append(path: &Path, lines: &[String]) -> io::Result<()> {
    let new = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let mut text = String::new();
    // What a crash has cut off must not swallow the next line.
    if !ends_with_line(&mut file)? {
        text.push('\n');
    }
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    if new {
        // The name of the file is on the disk when its folder is.
        let folder =
            path.parent().filter(|p| !p.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn ends_with_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_crash_has_cut_off_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        append(&path, &["{\"a\":1}".into()]).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"b\":").unwrap();
        append(&path, &["{\"b\":2}".into(), "{\"c\":3}".into()]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":\n{\"b\":2}\n{\"c\":3}\n");
    }
}
