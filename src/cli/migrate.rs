//! `stepd migrate`.

use anyhow::Context;

use crate::app::Daemon;
use crate::db::compat::{self, Compat};
use crate::db::{migrate, roles, server};

use super::client::place;
use super::{Exit, Global};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print the whole schema as SQL, for review; touches no database
    #[arg(long)]
    dump_sql: bool,
    /// Set up the roles stepd_enqueue, stepd_read, stepd_operate, stepd_serve and stepd_daemon, too; later migrations then keep their rights
    #[arg(long)]
    roles: bool,
    /// The views, or views and tables, that show runs under the names of two older systems: stepd_runtime and stepd_afu9
    #[arg(long, value_name = "WHAT", value_parser = ["views", "tables", "none"])]
    compat: Option<String>,
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
    let mut conn = db.connect_past_pooler("migrate", &[]).await?;
    let done = migrate::migrate(&mut conn).await?;
    match done.last() {
        None => println!("schema is up to date (version {})", migrate::applied(&mut conn).await?.0),
        Some(version) => println!("schema migrated to version {version}"),
    }
    let wanted = args.compat.as_deref().map(|word| match word {
        "views" => Compat::Views,
        "tables" => Compat::Tables,
        _ => Compat::None,
    });
    if let Some(wanted) = wanted {
        compat::install(&mut conn, wanted).await?;
        println!("{}", told(wanted));
    }
    if args.roles {
        roles::install(&mut conn).await?;
        println!(
            "roles stepd_enqueue, stepd_read, stepd_operate, stepd_serve and stepd_daemon have their rights; GRANT stepd_enqueue TO your_application"
        );
    }
    Ok(Exit::Ok)
}

fn told(compat: Compat) -> &'static str {
    match compat {
        Compat::Views => "views are in stepd_runtime and stepd_afu9: SET search_path = stepd_afu9",
        Compat::Tables => {
            "views are in stepd_runtime and stepd_afu9; a daemon keeps the tables in stepd_runtime_tables and stepd_afu9_tables"
        }
        Compat::None => "the views and tables of the older systems are gone",
    }
}
