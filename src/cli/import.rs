//! `stepd import`: AFU-9 documents in the native language.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::app::files;
use crate::definition::{self, afu9};

use super::Exit;
use super::errors::{refused, refused_with};
use super::output::{say, talk};

#[derive(clap::Args)]
pub(super) struct Args {
    /// AFU-9 documents: JSON files with `tool` steps
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The folder into which the files are written, each under its workflow's name; by default stdout
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.into.is_none() && args.files.len() > 1 {
        let hint = "name the folder that takes them: stepd import FILE… --into FOLDER";
        return Err(refused_with(Exit::Usage, "several files do not fit on stdout", hint));
    }
    let mut wrong = false;
    for path in &args.files {
        match imported(path)? {
            Some((name, yaml)) => write(args.into.as_deref(), &name, &yaml)?,
            None => wrong = true,
        }
    }
    Ok(if wrong { Exit::Error } else { Exit::Ok })
}

/// A document's name and its YAML; `None` where it is wrong, which has been told.
fn imported(path: &Path) -> anyhow::Result<Option<(String, String)>> {
    let source = path.display().to_string();
    let bytes = files::read(path).with_context(|| format!("{source} cannot be read"))?;
    match definition::read(&source, bytes) {
        Ok((_, definition)) => {
            let document = definition.document.as_ref().ok_or_else(|| {
                refused(
                    Exit::Usage,
                    format!("{source} is no AFU-9 document: its steps have no `tool`; it is native already"),
                )
            })?;
            let name = definition.name.to_string();
            let file = path.file_name().map_or_else(|| source.clone(), |n| n.to_string_lossy().into_owned());
            Ok(Some((name.clone(), afu9::to_native(&name, &file, document))))
        }
        Err(diagnostics) => {
            talk(diagnostics.to_string().trim_end());
            Ok(None)
        }
    }
}

fn write(into: Option<&Path>, name: &str, yaml: &str) -> anyhow::Result<()> {
    let Some(folder) = into else { return Ok(say(yaml)?) };
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let path = folder.join(format!("{name}.yaml"));
    // Somebody may have worked on it since.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(&path).with_context(|| {
        format!("{} cannot be written; move away what is there, or name another folder", path.display())
    })?;
    std::io::Write::write_all(&mut file, yaml.as_bytes())
        .with_context(|| format!("{} cannot be written", path.display()))?;
    talk(&format!("wrote {}", path.display()));
    Ok(())
}
