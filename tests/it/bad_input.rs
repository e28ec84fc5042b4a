//! Bad input: a clear error that names the thing, the place and the next step; nothing else is harmed, nothing is lost.

mod definitions;
mod jobs;
mod outputs;
mod rows;
mod servers;

use std::fmt::Write as _;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgDatabaseError;

use crate::cli::{Done, stepd};
use crate::support::Db;

pub const ECHO: &str = "
name: echo
steps:
  - id: same
    set: ${{ input }}
output: steps.same.output
";

/// What a person sees, one after the other: held against a golden file.
#[derive(Default)]
pub struct Transcript {
    text: String,
}

impl Transcript {
    /// An SQL statement that is refused, as psql would show it.
    pub async fn sql(&mut self, db: &Db, sql: &str) {
        let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&db.pool).await.expect_err(sql);
        let _ = writeln!(self.text, "# {sql}");
        let Some(e) = error.as_database_error().map(|e| e.downcast_ref::<PgDatabaseError>()) else { panic!("{error}") };
        let _ = writeln!(self.text, "ERROR {}: {}", e.code(), e.message());
        // A row with its id and its times is the same at no two times.
        if let Some(line) = e.detail().filter(|d| !d.starts_with("Failing row")) {
            let _ = writeln!(self.text, "DETAIL: {line}");
        }
        if let Some(line) = e.hint() {
            let _ = writeln!(self.text, "HINT: {line}");
        }
        self.text.push('\n');
    }

    /// A command.
    pub async fn stepd(&mut self, db: &Db, args: &[&str]) {
        let done = stepd(db, args).await;
        self.done(&args.join(" "), &done);
    }

    /// What a command came to.
    pub fn done(&mut self, command: &str, done: &Done) {
        let code = done.code.map_or("killed".to_owned(), |c| c.to_string());
        let _ = writeln!(self.text, "$ stepd {command}\n{}{}exit {code}\n", done.out, done.err);
    }

    /// A line.
    pub fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}\n");
    }

    /// All of it, without what changes from run to run.
    pub fn read(self, changing: &[(&str, &str)]) -> String {
        changing.iter().fold(self.text, |text, (what, word)| text.replace(what, word))
    }
}
