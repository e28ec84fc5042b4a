//! `stepd completions` and `stepd man`: made from the command line's own definition.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::errors::refused_with;
use super::{Cli, Exit};

#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

#[derive(clap::Args)]
pub(super) struct Man {
    /// The command whose page to write: `queue pause`; none: stepd's own
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write every page into this folder instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "stepd", &mut text);
    std::io::stdout().write_all(&text)?;
    Ok(Exit::Ok)
}

pub(super) fn man(args: &Man) -> anyhow::Result<Exit> {
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        clap_mangen::generate_to(Cli::command(), dir).with_context(|| format!("{}", dir.display()))?;
        return Ok(Exit::Ok);
    }
    let mut whole = Cli::command();
    whole.build();
    let mut command = &whole;
    for word in &args.command {
        command = command.find_subcommand(word).ok_or_else(|| {
            refused_with(
                Exit::NotFound,
                format!("there is no command {}", args.command.join(" ")),
                "stepd --help lists them",
            )
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    std::io::stdout().write_all(&text)?;
    Ok(Exit::Ok)
}
