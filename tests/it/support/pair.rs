//! A Postgres on one host, or on two: a primary, and a standby that has all that the primary has acknowledged.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use stepd::postgres::{Options, PrivatePostgres, StopMode};
use tokio::runtime::Handle;

use super::{SOON, wait_until};

/// Every method blocks, and asks by way of the runtime: call them from `spawn_blocking`.
pub struct Pair {
    settings: Options,
    hosts: Vec<PrivatePostgres>,
    primary: usize,
}

impl Pair {
    /// One host.
    pub fn alone(settings: Options) -> Self {
        let primary = PrivatePostgres::start(&settings).unwrap();
        Self { settings, hosts: vec![primary], primary: 0 }
    }

    /// Two hosts.
    pub fn synchronous(settings: Options) -> Self {
        let mut pair = Self::alone(settings);
        pair.hosts.push(pair.primary().standby(&pair.settings).unwrap());
        pair.wait_for_each_other();
        pair
    }

    /// The one that can be written.
    pub fn primary(&self) -> &PrivatePostgres {
        &self.hosts[self.primary]
    }

    /// The same, to stop it and to start it.
    pub fn primary_mut(&mut self) -> &mut PrivatePostgres {
        &mut self.hosts[self.primary]
    }

    /// All hosts, each at its place.
    pub fn hosts(&self) -> &[PrivatePostgres] {
        &self.hosts
    }

    /// The primary's host is lost at once, and the standby takes its place.
    pub fn fail_over(&mut self) {
        self.primary_mut().stop(StopMode::Immediate);
        self.primary = 1 - self.primary;
        self.say(self.primary, "SELECT pg_promote()");
    }

    /// A new standby stands where the lost host was. Until it has all, commits wait for nobody.
    pub fn replace_the_lost(&mut self) {
        let standby = self.primary().standby(&self.settings).unwrap();
        self.hosts[1 - self.primary] = standby;
        self.wait_for_each_other();
    }

    /// From now on the standby receives nothing more, and no commit waits for it.
    pub fn part(&self) {
        self.say(self.primary, "ALTER SYSTEM SET synchronous_standby_names = ''");
        self.say(self.primary, "SELECT pg_reload_conf()");
        self.hold_back();
    }

    /// From now on the standby receives nothing more, and every commit waits for it.
    pub fn hold_back(&self) {
        self.say(1 - self.primary, "ALTER SYSTEM SET primary_conninfo = ''");
        self.say(1 - self.primary, "SELECT pg_reload_conf()");
        self.standbys_are("the standby is alone", "", 0);
    }

    /// From now on a commit is acknowledged when both have it.
    fn wait_for_each_other(&self) {
        self.say(self.primary, "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        self.say(self.primary, "SELECT pg_reload_conf()");
        self.standbys_are("the standby is synchronous", "WHERE sync_state = 'sync'", 1);
    }

    fn standbys_are(&self, what: &str, of: &str, n: i64) {
        let url = self.primary().url("postgres");
        let count = format!("SELECT count(*) FROM pg_stat_replication {of}");
        Handle::current().block_on(wait_until(what, SOON, async || {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(count.clone())).fetch_one(&mut connection).await.unwrap() == n
        }));
    }

    fn say(&self, host: usize, statement: &str) {
        let url = self.hosts[host].url("postgres");
        Handle::current().block_on(async {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
        });
    }
}
