//! One connection through the pipe.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::frames::{self, Talk};
use super::{settings, tls};

/// A pooler that has not taken a connection by then does not: whoever asked has given up before.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The first message names a user, a database, and some settings. What is longer is none.
const LONGEST_START: u32 = 64 << 10;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Carries one connection to its end.
pub(super) async fn relay(mut client: UnixStream, pooler: &PgConnectOptions) -> io::Result<()> {
    let length = client.read_u32().await?;
    if !(8..LONGEST_START).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut start = vec![0; usize::try_from(length).unwrap_or_default() - 4];
    client.read_exact(&mut start).await?;
    let (start, settings) = settings::of_startup(&start);
    let mut server = match tokio::time::timeout(CONNECT_WITHIN, connect(pooler)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return client.write_all(&frames::refusal("08006", &told(&error))).await,
        Err(_) => return Ok(()),
    };
    server.write_u32(u32::try_from(start.len() + 4).unwrap_or(u32::MAX)).await?;
    server.write_all(&start).await?;
    server.flush().await?;
    let talk = Mutex::new(Talk::new(settings));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    let to_client = tokio::sync::Mutex::new(to_client);
    tokio::select! {
        ended = asks(from_client, to_server, &to_client, &talk) => ended,
        ended = answers(from_server, &to_client, &talk) => ended,
    }
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{error}: is the pooler running there?"),
        _ => format!("the pooler cannot be reached: {error}"),
    }
}

async fn connect(pooler: &PgConnectOptions) -> io::Result<Box<dyn Stream>> {
    let host = pooler.get_host();
    let socket = pooler.get_socket().cloned().or_else(|| host.starts_with('/').then(|| host.into()));
    if let Some(folder) = socket {
        let path = folder.join(format!(".s.PGSQL.{}", pooler.get_port()));
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), pooler.get_port())).await?;
    stream.set_nodelay(true)?;
    tls::over(stream, pooler).await
}

fn locked(talk: &Mutex<Talk>) -> MutexGuard<'_, Talk> {
    talk.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn asks(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    to_client: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
    talk: &Mutex<Talk>,
) -> io::Result<()> {
    let mut received = Vec::with_capacity(8 << 10);
    while from.read_buf(&mut received).await? > 0 {
        let (mut done, mut to_server, mut answered) = (0, Vec::new(), Vec::new());
        while let Some(length) = frames::whole(&received[done..]) {
            let mut sent = locked(talk).asked(&received[done..done + length]);
            to_server.append(&mut sent.to_server);
            answered.append(&mut sent.to_client);
            done += length;
        }
        received.drain(..done);
        if !to_server.is_empty() {
            to.write_all(&to_server).await?;
            to.flush().await?;
        }
        if !answered.is_empty() {
            to_client.lock().await.write_all(&answered).await?;
        }
    }
    Ok(())
}

async fn answers(
    mut from: impl AsyncRead + Unpin,
    to_client: &tokio::sync::Mutex<impl AsyncWrite + Unpin>,
    talk: &Mutex<Talk>,
) -> io::Result<()> {
    let mut received = Vec::with_capacity(8 << 10);
    while from.read_buf(&mut received).await? > 0 {
        let (mut done, mut passed) = (0, Vec::new());
        while let Some(length) = frames::whole(&received[done..]) {
            let message = &received[done..done + length];
            if locked(talk).answered(message) {
                passed.extend_from_slice(message);
            }
            done += length;
        }
        received.drain(..done);
        if !passed.is_empty() {
            to_client.lock().await.write_all(&passed).await?;
        }
    }
    Ok(())
}
