//! `stepd migrate`.

use anyhow::Context;

use crate::app::Daemon;
use crate::db::{migrate, roles, server};

use super::client::place;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the whole schema as SQL, for review; touches no database
    #[arg(long)]
    dump_sql: bool,
    /// Set up the roles stepd_enqueue, stepd_read, stepd_operate and stepd_daemon, too; later migrations then keep their rights
    #[arg(long)]
    roles: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    if args.dump_sql {
        print!("{}", migrate::dump());
        if args.roles {
            print!("\n{}", roles::TEXT);
        }
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
    if args.roles {
        roles::install(&mut conn).await?;
        println!(
            "roles stepd_enqueue, stepd_read, stepd_operate and stepd_daemon have their rights; GRANT stepd_enqueue TO your_application"
        );
    }
    Ok(Exit::Ok)
}
