//! A real PgBouncer before a database.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use sqlx::postgres::PgConnectOptions;
use stepd::os::pre_exec::{ChildSetup, before_exec};
use stepd::os::spawner::{self, Owned};
use tempfile::TempDir;

use super::{Db, SOON, tools, wait_until};

/// A transaction's server is any.
pub const TRANSACTION: &str = "pool_mode = transaction";

/// PgBouncer. Dropping it ends it.
pub struct PgBouncer {
    /// The database, behind it.
    pub db: Db,
    child: Option<(Child, Owned)>,
    dir: TempDir,
    program: (PathBuf, Option<PathBuf>),
    port: u16,
    user: Option<(u32, u32)>,
}

impl PgBouncer {
    /// Starts one before a server that listens at a socket; `None`, said aloud, where there is none.
    pub async fn before(db: &Db, settings: &str) -> Option<Self> {
        let program = tools::program("pgbouncer", "behind a pooler nothing was tested")?;
        let options: PgConnectOptions = db.url.parse().unwrap();
        let (socket, port) = (options.get_socket().expect("a private server").clone(), options.get_port());
        let dir = tempfile::Builder::new().prefix("pgb").tempdir_in("/tmp").unwrap();
        let here = dir.path().display().to_string();
        let config = format!(
            "[databases]\n* = host={} port={port} user=postgres\n[pgbouncer]\nauth_type = any\nlisten_addr =\nlisten_port = 6432\n\
             unix_socket_dir = {here}\nlogfile = {here}/log\nmax_client_conn = 1000\n{settings}\n",
            socket.display()
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), config).unwrap();
        // It refuses to run as root; and the server's user alone may open the server's socket.
        let user = nix::unistd::geteuid().is_root().then(|| {
            let owner = std::fs::metadata(&socket).unwrap();
            std::os::unix::fs::chown(dir.path(), Some(std::os::unix::fs::MetadataExt::uid(&owner)), None).unwrap();
            (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner))
        });
        let program = if user.is_some() { tools::within_reach(program, dir.path()) } else { program };
        let said = settings.lines().find_map(|line| line.strip_prefix("listen_port = "));
        let port = said.map_or(6432, |port| port.parse().unwrap());
        let url = format!("postgres://postgres@localhost:{port}/{}?host={here}", db.name);
        let mut bouncer = Self { db: Db { url, ..db.clone() }, child: None, dir, program, port, user };
        bouncer.start().await;
        Some(bouncer)
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// kill -9, and another in its place.
    pub async fn restart(&mut self) {
        self.end();
        self.start().await;
    }

    fn end(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn start(&mut self) {
        let at = self.path(&format!(".s.PGSQL.{}", self.port));
        let _ = std::fs::remove_file(&at);
        let mut command = Command::new(&self.program.0);
        if let Some(libraries) = &self.program.1 {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.arg("-q").arg(self.path("pgbouncer.ini"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            std::os::unix::process::CommandExt::gid(&mut command, gid);
            std::os::unix::process::CommandExt::uid(&mut command, uid);
        }
        let setup = ChildSetup { parent_death: Some(Signal::SIGKILL), ..ChildSetup::default() };
        before_exec(&mut command, setup);
        self.child = Some(spawner::spawn(command).unwrap());
        let log = self.path("log");
        wait_until("pgbouncer listens", SOON, async || {
            assert!(
                self.child.as_mut().unwrap().0.try_wait().unwrap().is_none(),
                "pgbouncer ended: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            );
            at.exists()
        })
        .await;
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.end();
    }
}
