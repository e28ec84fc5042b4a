//! Workflow files: found, read, checked, made into workflows.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::definition::{self, Definition, Diagnostics, OwnKind};
use crate::engine::{Interpreter, Workflow};
use crate::expression::Host;
use crate::model::{Failure, code};
use crate::os::trust::Trust;
use crate::services::catalog::{Compile, Loaded};
use crate::steps::Registry;

use super::config::Config;

/// Why definitions could not be loaded. Nothing is loaded then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A folder or file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Files that somebody else could have written; the text names them all.
    #[error("these workflow files are not loaded, because others could have written them:{0}")]
    Untrusted(String),
    /// A user who is named, and not there.
    #[error("workflow_owners: there is no user `{0}`")]
    NoUser(String),
    /// Definitions have errors; the text names them all.
    #[error("{0}")]
    Wrong(String),
    /// Two files define one workflow.
    #[error("two files define the workflow `{name}`: {first} and {second}; rename one of them")]
    Twice {
        /// The name.
        name: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
}

/// All definition files of the given folders and files, sorted.
///
/// # Errors
/// A path that cannot be read.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, LoadError> {
    let mut found = Vec::new();
    for path in paths {
        walk(path, true, &mut found)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn walk(path: &Path, named: bool, found: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    let read = |error| LoadError::Read { path: path.to_owned(), error };
    let meta = std::fs::metadata(path).map_err(read)?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(read)? {
            walk(&entry.map_err(read)?.path(), false, found)?;
        }
    } else if named
        || meta.is_file() && matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json"))
    {
        found.push(path.to_owned());
    }
    Ok(())
}

/// Reads and checks all files that a configuration names; all or nothing.
///
/// # Errors
/// Everything that is wrong, in one text.
pub fn load(config: &Config, host: &Arc<Host>) -> Result<Vec<Loaded>, LoadError> {
    load_with(&config.workflows, &config.workflow_owners, host, &[])
}

/// As [`load`], where this binary has kinds of its own. `owners`: users whose files are obeyed, beside root and this process' own.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    paths: &[PathBuf],
    owners: &[String],
    host: &Arc<Host>,
    own: &[OwnKind],
) -> Result<Vec<Loaded>, LoadError> {
    let mut loaded: Vec<Loaded> = Vec::new();
    let mut wrong = String::new();
    let found = find(paths)?;
    let trust = Trust::default().and(owners).map_err(LoadError::NoUser)?;
    let untrusted: String =
        found.iter().filter_map(|path| trust.check(path).err()).map(|why| format!("\n  {why}")).collect();
    if !untrusted.is_empty() {
        return Err(LoadError::Untrusted(untrusted));
    }
    for path in found {
        let bytes = read(&path).map_err(|error| LoadError::Read { path: path.clone(), error })?;
        let source = path.display().to_string();
        match definition::read_with(&source, bytes, own) {
            Ok((text, definition)) => {
                let name = definition.name.to_string();
                if let Some(other) = loaded.iter().find(|l| l.name == name) {
                    let first = other.source.clone().unwrap_or_default();
                    return Err(LoadError::Twice { name, first, second: source });
                }
                loaded.push(as_loaded(definition, Some(source), text, host));
            }
            Err(diagnostics) => wrong.push_str(&shown(&diagnostics)),
        }
    }
    if wrong.is_empty() { Ok(loaded) } else { Err(LoadError::Wrong(wrong)) }
}

/// The bytes of a file; of a larger one than a definition may be, enough to show that it is.
///
/// # Errors
/// Whatever the file system says.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(definition::MAX_BYTES).unwrap_or(u64::MAX) + 1;
    std::fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn shown(diagnostics: &Diagnostics) -> String {
    diagnostics.to_string()
}

/// A checked definition on its way into the catalog.
#[must_use]
pub fn as_loaded(definition: Definition, source: Option<String>, text: String, host: &Arc<Host>) -> Loaded {
    Loaded {
        name: definition.name.to_string(),
        hash: definition.hash.clone(),
        body: Some(text),
        queue: definition.queue.clone().unwrap_or_else(|| "default".into()),
        priority: definition.priority.map_or(5, i16::from),
        flow: definition.flow.as_ref().map(ToString::to_string),
        schedule: definition.schedule.clone(),
        source,
        workflow: Arc::new(Interpreter::new(Arc::new(definition), host.clone())),
    }
}

/// The kinds of a registry, as workflow files may name them beside those of the language.
#[must_use]
pub fn own_kinds(registry: &Registry) -> Vec<OwnKind> {
    registry.kinds().map(|step| OwnKind { word: step.kind(), raw: step.raw() }).collect()
}

/// Makes workflows of stored definitions.
#[must_use]
pub fn compiler(host: Arc<Host>) -> Compile {
    compiler_with(host, Vec::new())
}

/// As [`compiler`], where this binary has kinds of its own.
#[must_use]
pub fn compiler_with(host: Arc<Host>, own: Vec<OwnKind>) -> Compile {
    Arc::new(move |name, body| {
        let definition =
            definition::load_with(&format!("stored definition of {name}"), body, &own).map_err(|diagnostics| {
                // Another version of stepd, on another host, may.
                Failure::transient(
                    code::DEFINITION,
                    format!("the stored definition of `{name}` cannot be read by this version of stepd: {diagnostics}"),
                )
            })?;
        let workflow: Arc<dyn Workflow> = Arc::new(Interpreter::new(Arc::new(definition), host.clone()));
        Ok(workflow)
    })
}
