//! The listener: bound before the daemon says that it is ready, closed when it stops.
//!
//! Whoever sends slowly, or nothing, or reads nothing, is let go in time, and there are only so many connections: what more comes waits to
//! be accepted.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::Site;
use super::patient::Patient;

/// Connections at once. Streams leave room for requests: see [`super::stream`].
pub(super) const CONNECTIONS: usize = 1_024;

/// A request's head comes within this time, also the next one's on a connection that is kept.
const HEAD: Duration = Duration::from_secs(5);

/// A head with more in it than any client sends.
const HEAD_BYTES: usize = 64 << 10;

/// At the stop, requests under way may end within this time.
const LAST: Duration = Duration::from_secs(5);

/// After an accept that failed (no file descriptor is left), before the next.
const AGAIN: Duration = Duration::from_millis(100);

/// A bound socket.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// Nothing could be accepted, and that has been said.
    deaf: AtomicBool,
}

impl Server {
    /// Binds; port 0 takes any.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, deaf: AtomicBool::new(false) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop; then requests under way may end, streams do.
    pub async fn serve(self, site: Arc<Site>, body_limit: usize, mut stop: watch::Receiver<bool>) {
        let mut readers = JoinSet::new();
        readers.spawn(site.clone().watch_runs());
        readers.spawn(site.clone().watch_all());
        let patience = site.patience;
        readers.spawn(site.clone().watch_figures());
        let (bulk, router) = (site.clone(), super::router(site, body_limit));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.next(&places) => accepted,
                // An error: whoever could tell is gone, which is an end as well.
                _ = stop.wait_for(|stop| *stop) => break,
            };
            while connections.try_join_next().is_some() {}
            let Some((stream, peer, place)) = accepted else { continue };
            let _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(router.clone().layer(Extension(ConnectInfo(peer))));
            let stream = TokioIo::new(Patient::new(stream, patience));
            let connection = http.serve_connection(stream, service).with_upgrades();
            connections.spawn(carried(connection, stop.clone(), place));
        }
        drop(self.listener);
        let ended = async {
            while connections.join_next().await.is_some() {}
            bulk.bulk.ended().await;
        };
        let _ = tokio::time::timeout(LAST, ended).await;
    }

    /// The next connection, when there is a place for it.
    async fn next(&self, places: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = places.clone().acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, peer)) => {
                if self.deaf.swap(false, Ordering::Relaxed) {
                    tracing::info!("connections are accepted again");
                }
                Some((stream, peer, place))
            }
            // Only that one: whoever asked has gone.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => None,
            Err(error) => {
                if !self.deaf.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "no connection can be accepted; trying again");
                }
                tokio::time::sleep(AGAIN).await;
                None
            }
        }
    }
}

/// Carries a connection to its end; when the server stops, to that of the request under way.
async fn carried(
    connection: http1::UpgradeableConnection<TokioIo<Patient<TcpStream>>, TowerToHyperService<Router>>,
    mut stop: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    let mut connection = std::pin::pin!(connection);
    // What goes wrong on a connection is its client's affair.
    let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
    let stops = tokio::select! {
        _ = connection.as_mut() => false,
        () = stopped => true,
    };
    if stops {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
    drop(place);
}
