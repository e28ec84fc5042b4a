//! Workflow files and files of effects, in a temporary folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;

/// A folder with workflow definitions, and beside it a folder for what steps leave behind.
pub struct Files {
    dir: TempDir,
}

impl Files {
    /// Writes each definition into a file of its own.
    pub fn new<S: AsRef<str>>(definitions: impl IntoIterator<Item = S>) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(files.workflows()).unwrap();
        for (n, text) in definitions.into_iter().enumerate() {
            files.write(&format!("w{n}.yaml"), text.as_ref());
        }
        files
    }

    /// Writes one definition. `@DIR@` in it stands for the folder of effects.
    pub fn write(&self, file: &str, text: &str) {
        let text = text.replace("@DIR@", &self.dir.path().display().to_string());
        std::fs::write(self.workflows().join(file), text).unwrap();
    }

    /// The folder of the definitions.
    pub fn workflows(&self) -> PathBuf {
        self.dir.path().join("workflows")
    }

    /// A file of effects.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lines of a file of effects; none while it is not there.
    pub fn lines(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    }

    /// How often each line stands in a file of effects.
    pub fn counts(&self, name: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.lines(name) {
            *counts.entry(line).or_default() += 1;
        }
        counts
    }
}
