//! `stepd migrate`.

use anyhow::Context;
use serde_json::json;

use crate::app::Daemon;
use crate::db::compat::{self, Compat};
use crate::db::migrate::{self, Stops, Tried};
use crate::db::{Database, roles, server};

use super::client::place;
use super::output::{Format, json_list, say, talk};
use super::{Exit, Global, uninstall};

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
    /// Try what is missing, show each statement with the locks that it takes and who would wait for them, and take all of it back
    #[arg(long, conflicts_with_all = ["dump_sql", "roles", "compat", "uninstall"])]
    dry_run: bool,
    /// Let enqueuers and daemons wait for as long as a migration takes (else one that keeps them waiting is refused)
    #[arg(long, conflicts_with_all = ["dump_sql", "dry_run", "uninstall"])]
    may_block: bool,
    /// Take stepd out of this database: its schemas with every run, and its roles
    #[arg(long, conflicts_with_all = ["dump_sql", "roles", "compat"])]
    uninstall: bool,
    /// With --uninstall: do it
    #[arg(long, short, requires = "uninstall")]
    yes: bool,
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
    if args.dry_run {
        return dry_run(global, &db).await;
    }
    if args.uninstall {
        return uninstall::run(&db, args.yes).await;
    }
    let done = match args.may_block {
        true => migrate::migrate(&mut db.connect_past_pooler("migrate", &[]).await?).await?,
        false => migrate::migrate_under_load(&db).await?,
    };
    let mut conn = db.connect_past_pooler("migrate", &[]).await?;
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

async fn dry_run(global: &Global, db: &Database) -> anyhow::Result<Exit> {
    let tried = migrate::dry_run(db, migrate::MIGRATIONS).await?;
    match global.output {
        Format::Table if tried.is_empty() => {}
        Format::Table => say(&tried.iter().map(shown).collect::<Vec<_>>().join("\n"))?,
        Format::Id => say(&tried.iter().map(|t| t.version.to_string()).collect::<Vec<_>>().join("\n"))?,
        format @ (Format::Json | Format::Jsonl) => json_list(format, &tried.iter().map(document).collect::<Vec<_>>())?,
    }
    let locks = || tried.iter().flat_map(|t| &t.statements).flat_map(|s| &s.locks);
    let waits = locks().any(|l| l.stops == Stops::Enqueuers);
    talk(match (tried.is_empty(), waits) {
        (true, _) => "nothing is missing: the schema is up to date",
        (_, true) => {
            "tried, and taken back. Enqueuers wait where it says so, for a moment: a migration that keeps them longer is broken off"
        }
        (_, false) => "tried, and taken back. No enqueuer waits for any of it",
    });
    Ok(Exit::Ok)
}

fn shown(t: &Tried) -> String {
    let mut out = format!("version {}: {} (daemons from version {} on work with it)\n", t.version, t.name, t.serves);
    for statement in &t.statements {
        out.push_str(&format!("  {}\n", first_line(&statement.text)));
        for lock in &statement.locks {
            out.push_str(&format!("      {} {}: {}\n", lock.table, lock.mode, lock.stops.says()));
        }
    }
    out
}

fn document(t: &Tried) -> serde_json::Value {
    let statements = t.statements.iter().map(|s| {
        let locks = s.locks.iter().map(|l| {
            json!({"table": l.table, "mode": l.mode, "waits": l.stops.says(), "blocks_enqueuers": l.stops == Stops::Enqueuers})
        });
        json!({"statement": s.text, "locks": locks.collect::<Vec<_>>()})
    });
    json!({"version": t.version, "name": t.name, "serves": t.serves, "statements": statements.collect::<Vec<_>>()})
}

/// … and as much of it as fits.
fn first_line(text: &str) -> String {
    const MOST: usize = 110;
    let line = text.lines().next().unwrap_or_default();
    match (line.len() < text.len(), line.chars().count() > MOST) {
        (_, true) => line.chars().take(MOST).chain(" …".chars()).collect(),
        (true, false) => format!("{line} …"),
        (false, false) => line.to_owned(),
    }
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
