//! The listener: bound before the daemon says that it is ready, closed when it stops.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Site;

/// A bound socket.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds; port 0 takes any.
    ///
    /// # Errors
    /// The address is in use, or not this machine's.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop; then requests under way may end, streams do.
    pub async fn serve(self, site: Arc<Site>, body_limit: usize, mut stop: watch::Receiver<bool>) {
        let service = super::router(site, body_limit).into_make_service_with_connect_info::<SocketAddr>();
        let stopped = async move {
            // An error: whoever could tell is gone, which is an end as well.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(self.listener, service).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    }
}
