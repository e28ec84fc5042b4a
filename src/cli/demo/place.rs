//! Where the demo takes place: a database and a folder of its own, both gone afterwards.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::app::{Config, Daemon};
use crate::db::{Database, demo};
use crate::postgres::{Options, PrivatePostgres};

/// A database and a folder. Dropping it stops the server and removes the folder.
pub(super) struct Place {
    pub(super) db: Database,
    /// For the workers' environment.
    pub(super) url: String,
    pub(super) folder: PathBuf,
    /// `None` in somebody else's database.
    server: Option<PrivatePostgres>,
}

impl Place {
    /// A server of its own.
    pub(super) async fn private() -> anyhow::Result<Self> {
        // It is thrown away in the end, and only a power cut could tell the difference: no waiting for the disk.
        let options = Options { durable: false, shared_buffers_mib: 32, max_connections: 60, ..Options::default() };
        let server = tokio::task::spawn_blocking(move || PrivatePostgres::start(&options)).await??;
        // Not in the server's folder: where that is started by root it is the server's user's, and who could change a configuration is not root.
        let (url, folder) = (server.url("postgres"), apart());
        // First of all the owner, so that whatever fails below also stops the server.
        let place = Self { db: database(&url)?, url, folder, server: Some(server) };
        make(&place.folder)?;
        Ok(place)
    }

    /// A database that the user has named.
    pub(super) fn given(url: &str) -> anyhow::Result<Self> {
        let place = Self { db: database(url)?, url: url.to_owned(), folder: apart(), server: None };
        make(&place.folder)?;
        Ok(place)
    }

    /// The private server, if it is one.
    pub(super) fn server(&self) -> Option<&PrivatePostgres> {
        self.server.as_ref()
    }

    /// Takes the demo's table out of somebody else's database; the rest goes with the drop.
    pub(super) async fn leave(self) {
        if self.server.is_none() {
            let _ = demo::clear(self.db.pool()).await;
        }
        // The server's stop blocks; nothing else is left to do.
        drop(self);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn apart() -> PathBuf {
    std::env::temp_dir().join(format!("stepd-demo-{}-{:08x}", std::process::id(), fastrand::u32(..)))
}

fn make(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new().mode(0o700).create(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn database(url: &str) -> anyhow::Result<Database> {
    Ok(Daemon::database(&Config { database_url: Some(url.to_owned()), ..Config::default() })?)
}
