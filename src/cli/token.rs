//! `stepd token`: a new token of the HTTP API.

use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::app::config::is_name;

use super::errors::refused;
use super::output::{Format, json, say, talk};
use super::{Exit, Global};

/// What the token is good for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Scope {
    /// Looking
    Read,
    /// … and enqueuing runs, sending signals and events
    Enqueue,
    /// Everything
    Operate,
}

#[derive(clap::Args)]
pub(super) struct Args {
    /// Who will have it: the audit trail names it
    name: String,
    /// What it is good for
    #[arg(long, value_enum)]
    scope: Scope,
}

pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let name = &args.name;
    if !is_name(name) {
        let rule = "lower-case letters, digits, `_` and `-`, with a letter first";
        return Err(refused(Exit::Usage, format!("`{name}` cannot be a token's name: write {rule}")));
    }
    // The generator of version 4 is the system's own: 244 random bits.
    let token = format!("stepd_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let hash: String = Sha256::digest(token.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    let scope = match args.scope {
        Scope::Read => "read",
        Scope::Enqueue => "enqueue",
        Scope::Operate => "operate",
    };
    match global.output {
        Format::Table => {
            // Apart from what belongs into a file: the token itself never does.
            talk(&format!("The token, shown this once; whoever has it is `{name}`:\n\n  {token}\n"));
            talk("For stepd.toml; a running daemon takes it up with a reload (SIGHUP):\n");
            say(&format!("[http_tokens.{name}]\nsha256 = \"{hash}\"\nscope = \"{scope}\""))?;
        }
        Format::Id => say(&token)?,
        Format::Json | Format::Jsonl => {
            json(global.output, &json!({"name": name, "token": token, "sha256": hash, "scope": scope}))?;
        }
    }
    Ok(Exit::Ok)
}
