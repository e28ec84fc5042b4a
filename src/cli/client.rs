//! A session with the database, and the runs that people name.

use anyhow::Context;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::app::Daemon;
use crate::db::{Database, runs};

use super::errors::{refused, refused_with};
use super::text::{ago, clean};
use super::{Exit, Global};

/// A statement of the command line that takes longer helps nobody.
const SESSION: [(&str, &str); 2] = [("statement_timeout", "60s"), ("lock_timeout", "5s")];

/// Candidates of an ambiguous prefix that are shown.
const SHOWN: i64 = 5;

impl Global {
    /// One connection to the configured database.
    pub(super) async fn connect(&self) -> anyhow::Result<PgConnection> {
        connect(&Daemon::database(&self.configuration()?)?).await
    }
}

/// One connection; the error says where it was sought.
pub(super) async fn connect(db: &Database) -> anyhow::Result<PgConnection> {
    db.connect("cli", &SESSION).await.with_context(|| place(db))
}

/// What could not be used, and where it was sought.
pub(super) fn place(db: &Database) -> String {
    let o = db.options();
    let place = match o.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => o.get_host().to_owned(),
    };
    let name = o.get_database().unwrap_or(o.get_username());
    format!("cannot use the database {name} at {place}:{}", o.get_port())
}

/// The run that a text means: an id, the start of one, or `@last`.
///
/// A whole id is believed; whether there is such a run is for the statement to say that uses it.
pub(super) async fn run_id(conn: &mut PgConnection, text: &str) -> anyhow::Result<Uuid> {
    if text == "@last" {
        let last = runs::last(&mut *conn).await?;
        return last.ok_or_else(|| refused(Exit::NotFound, "there are no runs yet"));
    }
    let (low, high) = range(text).map_err(|e| refused(Exit::Usage, e))?;
    if low == high {
        return Ok(low);
    }
    let found = runs::between(&mut *conn, low, high, SHOWN + 1).await?;
    match found.as_slice() {
        [] => Err(refused_with(
            Exit::NotFound,
            format!("there is no run whose id begins with {text}"),
            "stepd ls shows the latest runs",
        )),
        [one] => Ok(one.id),
        many => Err(refused(Exit::Usage, ambiguous(text, many))),
    }
}

fn ambiguous(text: &str, many: &[runs::Candidate]) -> String {
    let shown = usize::try_from(SHOWN).unwrap_or(5);
    let mut message = format!("several runs have an id that begins with {text}; write more of it:");
    #[expect(clippy::disallowed_methods, reason = "how long ago, for people")]
    let now = chrono::Utc::now();
    for c in many.iter().take(shown) {
        let age = ago(now - c.created_at);
        message.push_str(&format!("\n  {}  {:9}  {}  {age}", c.id, c.state, clean(&c.workflow)));
    }
    if many.len() > shown {
        message.push_str("\n  …");
    }
    message
}

/// The ids that begin with a text; dashes do not count.
fn range(text: &str) -> Result<(Uuid, Uuid), String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if digits.is_empty() || digits.len() > 32 || !hex {
        return Err(format!("`{text}` is no run id: write an id, the start of one, or @last"));
    }
    let bound = |fill: &str| Uuid::parse_str(&format!("{digits}{}", fill.repeat(32 - digits.len())));
    match (bound("0"), bound("f")) {
        (Ok(low), Ok(high)) => Ok((low, high)),
        _ => Err(format!("`{text}` is no run id")),
    }
}

/// The ids of a list, as short as they may be to be told apart here; never shorter than the time and the random bits
/// beside it, which another run shares once in a blue moon.
pub(super) fn short(ids: &[Uuid]) -> Vec<String> {
    const LEAST: usize = 18;
    let mut sorted: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    sorted.sort_unstable();
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let need = sorted.windows(2).map(|w| common(&w[0], &w[1]) + 1).max().unwrap_or(0).clamp(LEAST, 36);
    ids.iter().map(|id| id.to_string()[..need].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_of_ids() {
        let (low, high) = range("0198c2F0-a1").unwrap();
        assert_eq!(low.to_string(), "0198c2f0-a100-0000-0000-000000000000");
        assert_eq!(high.to_string(), "0198c2f0-a1ff-ffff-ffff-ffffffffffff");
        let whole = "0198c2f0-a1b2-7abc-8def-0123456789ab";
        assert_eq!(range(whole).unwrap().0, range(whole).unwrap().1);
        for wrong in ["", "-", "xyz", "@first", "0198c2f0-a1b2-7abc-8def-0123456789ab0", "1 "] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn short_ids_can_be_told_apart() {
        let ids: Vec<Uuid> = ["0198c2f0-a1b2-7abc-8def-0123456789ab", "0198c2f0-a1b2-7abc-8d00-0123456789ab"]
            .iter()
            .map(|t| Uuid::parse_str(t).unwrap())
            .collect();
        assert_eq!(short(&ids), ["0198c2f0-a1b2-7abc-8de", "0198c2f0-a1b2-7abc-8d0"]);
        assert_eq!(short(&ids[..1]), ["0198c2f0-a1b2-7abc"]);
        assert!(short(&[]).is_empty());
    }
}
