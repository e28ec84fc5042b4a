//! `stepd migrate --uninstall`.

use crate::db::Database;
use crate::db::uninstall::{self, Removed};

use super::Exit;
use super::errors::{refused, refused_with};
use super::output::{say, talk};
use super::text::clean;

/// Things of others that are named; the rest is counted.
const NAMED: usize = 20;

pub(super) async fn run(db: &Database, yes: bool) -> anyhow::Result<Exit> {
    let mut conn = db.connect_past_pooler("uninstall", &[]).await?;
    let found = uninstall::look(&mut conn).await?;
    if found.schemas.is_empty() && found.roles.is_empty() {
        talk("there is nothing of stepd in this database");
        return Ok(Exit::Ok);
    }
    if !found.workers.is_empty() {
        let (workers, n) = (found.workers.join(", "), found.workers.len());
        return Err(refused_with(
            Exit::NotAllowed,
            format!("{n} daemon{} at work on this database: {workers}", if n == 1 { " is" } else { "s are" }),
            "stop them first: systemctl stop stepd",
        ));
    }
    let what = |roles: &[String]| {
        format!(
            "the schemas {} with {} unfinished and about {} ended runs, and the roles {}",
            or_none(&found.schemas),
            found.unfinished,
            found.ended,
            or_none(roles)
        )
    };
    if !yes {
        return Err(refused_with(
            Exit::Usage,
            format!("this removes for good: {}", what(&found.roles)),
            "keep what you may want with pg_dump -n stepd -n stepd_engine first; --yes does it",
        ));
    }
    match uninstall::remove(&mut conn, &found).await? {
        Removed::Gone(kept) => {
            let stays = |role: &&String| kept.iter().any(|(name, _)| name == *role);
            let gone: Vec<String> = found.roles.iter().filter(|role| !stays(role)).cloned().collect();
            say(&format!("removed: {}", what(&gone)))?;
            for (role, why) in kept {
                talk(&format!("the role {role} stays: {}", clean(&why)));
            }
            Ok(Exit::Ok)
        }
        Removed::Needed(mut by) => {
            let more = by.len().saturating_sub(NAMED);
            by.truncate(NAMED);
            let by: Vec<String> = by.iter().map(|what| format!("\n    {}", clean(what))).collect();
            let more = if more > 0 { format!("\n    and {more} more") } else { String::new() };
            Err(refused(
                Exit::NotAllowed,
                format!(
                    "nothing was removed, for these things of yours would go with it; drop or change them first:{}{more}",
                    by.concat()
                ),
            ))
        }
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "(none)".to_owned() } else { names.join(", ") }
}
