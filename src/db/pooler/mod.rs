//! Behind a connection pooler: a pipe between sqlx and the pooler, inside this process, that gives every connection back what the pooler
//! takes from it.
//!
//! A pooler in transaction mode gives each transaction a server of its own choice. sqlx sends a statement in two halves with an end of a
//! transaction between them, keeps statements prepared under names, and has its settings for the session: behind such a pooler the halves
//! meet different servers (and return another statement's rows), the names are taken, and the settings are lost, or somebody else's. Nothing
//! in sqlx can be told otherwise; so the messages themselves are rewritten on their way ([`frames`]): each thing that is asked for goes in one
//! transaction, with its statement, without a name, and under the settings of the connection that asks.
//!
//! What cannot be had there at all (session locks, LISTEN) nobody asks for through the pipe: see [`Line`](super::Line).

mod frames;
mod relay;
mod settings;
mod tls;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub(super) use settings::set_for_session;

/// Before the next connection is taken up, when one could not be.
const AGAIN: Duration = Duration::from_millis(100);

/// A pipe to one pooler.
#[derive(Debug)]
pub(super) struct Pipe {
    options: PgConnectOptions,
    /// The address stays this process' own for as long as somebody may be led to it.
    _address: OwnedFd,
    _end: oneshot::Sender<()>,
}

impl Pipe {
    /// Lays a pipe. It has a thread of its own: the heartbeat goes through it, too, and must not be starved by busy steps.
    ///
    /// # Errors
    /// No socket or no thread can be had.
    pub(super) fn before(pooler: &PgConnectOptions) -> io::Result<Self> {
        let folder = folder()?;
        let listener = bound(&folder, pooler.get_port())?;
        listener.set_nonblocking(true)?;
        let address = listener.try_clone()?.into();
        let (end, ended) = oneshot::channel();
        let there = pooler.clone();
        // Made on the thread: where no thread can be had, nothing is dropped here that may not be dropped on a runtime.
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("stepd-pooler".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(error)),
            };
            drop(tell);
            runtime.block_on(async {
                let Ok(listener) = UnixListener::from_std(listener) else { return };
                serve(&listener, &there, ended).await;
            });
        })?;
        if let Ok(error) = told.recv() {
            return Err(error);
        }
        let options = pooler.clone().socket(folder).ssl_mode(PgSslMode::Disable).extra_float_digits(None);
        Ok(Self { options, _address: address, _end: end })
    }

    /// What leads into the pipe.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

/// Takes up connections until nobody is led here any more, and serves each to its own end.
async fn serve(listener: &UnixListener, pooler: &PgConnectOptions, mut ended: oneshot::Receiver<()>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if is_own(&client) => {
                    let pooler = pooler.clone();
                    open.spawn(async move {
                        if let Err(error) = relay::relay(client, &pooler).await {
                            tracing::debug!(%error, "a connection to the pooler has ended");
                        }
                    });
                }
                // Somebody else on this machine: the address is known to all.
                Ok(_) => {}
                Err(_) => tokio::time::sleep(AGAIN).await,
            },
            Some(_) = open.join_next() => {}
            _ = &mut ended => break,
        }
    }
    while open.join_next().await.is_some() {}
}

/// Is it this process, or another of the same user?
fn is_own(client: &UnixStream) -> bool {
    client.peer_cred().is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
}

/// An address without a file: nothing is left behind, however this process ends.
#[cfg(target_os = "linux")]
fn folder() -> io::Result<PathBuf> {
    Ok(PathBuf::from(format!("\0stepd-{}", uuid::Uuid::new_v4().simple())))
}

#[cfg(target_os = "linux")]
fn bound(folder: &std::path::Path, port: u16) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("{}/.s.PGSQL.{port}", folder.display());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name.trim_start_matches('\0'))?;
    std::os::unix::net::UnixListener::bind_addr(&address)
}

/// A folder that nobody else can enter.
#[cfg(not(target_os = "linux"))]
fn folder() -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = std::env::temp_dir().join(format!("stepd-{}", uuid::Uuid::new_v4().simple()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

#[cfg(not(target_os = "linux"))]
fn bound(folder: &std::path::Path, port: u16) -> io::Result<std::os::unix::net::UnixListener> {
    std::os::unix::net::UnixListener::bind(folder.join(format!(".s.PGSQL.{port}")))
}
