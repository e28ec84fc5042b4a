//! `stepd config`: what is in force, and where it came from.

use crate::app::build::{self, BuildError};
use crate::app::config::{Shown, Sources, TEMPLATE};
use crate::app::files;

use super::output::{self, Format, say};
use super::text::clean;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The same as the option of this name
    #[arg(value_enum, hide = true, conflicts_with_all = ["check", "template"])]
    what: Option<What>,
    /// Only check it, and the workflow files that it names; says nothing when all is well
    #[arg(long)]
    check: bool,
    /// Print every key with its default and its meaning: a file to start from
    #[arg(long, conflicts_with = "check")]
    template: bool,
}

/// `stepd config check` is what many type first.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Check,
    Template,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let check = args.check || args.what == Some(What::Check);
    if args.template || args.what == Some(What::Template) {
        say(TEMPLATE)?;
        return Ok(Exit::Ok);
    }
    let loaded = Sources { without_hidden: check, ..global.sources() }.load()?;
    if check {
        match build::registry(&loaded.config) {
            // It may be a credential, which systemd shows to the daemon alone.
            Err(BuildError::MissingSecret { .. }) if std::env::var_os("CREDENTIALS_DIRECTORY").is_some() => {}
            done => drop(done?),
        }
        files::load(&loaded.config.workflows, &build::host(&loaded.config))?;
        return Ok(Exit::Ok);
    }
    let shown = loaded.shown();
    match global.output {
        Format::Json | Format::Jsonl => output::json_list(global.output, &shown)?,
        Format::Id => say(&shown.iter().map(|s| s.key.as_str()).collect::<Vec<_>>().join("\n"))?,
        Format::Table => {
            let file = loaded.file.as_ref().map_or("none".to_owned(), |f| f.display().to_string());
            say(&format!("# file: {}\n{}", clean(&file), table(&shown)))?;
        }
    }
    Ok(Exit::Ok)
}

/// As TOML, so that it can be pasted into a file; secrets aside.
fn table(shown: &[Shown]) -> String {
    let line = |s: &Shown| match s.value.is_null() {
        true => (format!("# {} is not set", s.key), String::new()),
        false => (format!("{} = {}", s.key, clean(&s.value.to_string())), format!("# {}", clean(&s.source))),
    };
    let lines: Vec<(String, String)> = shown.iter().map(line).collect();
    let width = lines.iter().map(|(value, _)| value.chars().count()).filter(|n| *n <= 48).max().unwrap_or(0);
    let text = |(value, source): &(String, String)| format!("{value:width$}  {source}").trim_end().to_owned();
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}
