//! `stepd migrate`.

use anyhow::Context;

use crate::app::Daemon;
use crate::db::{migrate, server};

use super::client::place;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the whole schema as SQL, for review; touches no database
    #[arg(long)]
    dump_sql: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    if args.dump_sql {
        print!("{}", migrate::dump());
        return Ok(Exit::Ok);
    }
    let db = Daemon::database(&global.configuration()?)?;
    server::check(&db).await.with_context(|| place(&db))?;
    let mut conn = db.connect("migrate", &[]).await?;
    let done = migrate::migrate(&mut conn).await?;
    match done.last() {
        None => println!("schema is up to date (version {})", migrate::applied(&mut conn).await?.0),
        Some(version) => println!("schema migrated to version {version}"),
    }
    Ok(Exit::Ok)
}
