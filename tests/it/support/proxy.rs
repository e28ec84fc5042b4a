//! The network between a daemon and Postgres, which can be cut without a word, lose answers, or deliver late.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::Db;

/// What passes now, on the connections whose sessions' names begin with `whose`. Connections are numbered; what is said of a
/// number holds for it and all before.
#[derive(Clone, Copy, Debug, Default)]
struct Network {
    whose: &'static str,
    /// Nothing goes to Postgres.
    mute: bool,
    /// Nothing comes from Postgres.
    deaf: bool,
    /// How long each message to Postgres is on its way.
    latency: Duration,
    /// Nothing passes on these any more, in either direction, and nobody is told.
    silent: u64,
    /// These are ended.
    cut: u64,
    /// The daemon's end of these is ended; what it has sent is still on its way to Postgres …
    hung_up: u64,
    /// … and arrives.
    delivered: u64,
}

/// A TCP proxy before Postgres. Bytes are taken in at all times, as by a kernel that still has room; they go on when they may.
pub struct Proxy {
    /// The database, by way of the proxy.
    pub db: Db,
    target: watch::Sender<PathBuf>,
    network: watch::Sender<Network>,
    made: Arc<AtomicU64>,
    waiting: Arc<AtomicU64>,
}

/// One connection, and its session's name as the startup message gives it.
#[derive(Clone)]
struct Wire {
    id: u64,
    name: Arc<OnceLock<String>>,
    waiting: Arc<AtomicU64>,
}

impl Wire {
    fn is_of(&self, whose: &str) -> bool {
        whose.is_empty() || self.name.get().is_some_and(|name| name.starts_with(whose))
    }

    /// The startup message is a list of names and values, each ended by a zero.
    fn read_name(&self, bytes: &[u8]) {
        let mut words = bytes.split(|b| *b == 0).skip_while(|w| *w != b"application_name");
        if let Some(name) = words.nth(1) {
            let _ = self.name.set(String::from_utf8_lossy(name).into_owned());
        }
    }
}

impl Proxy {
    /// A proxy before a database.
    pub async fn new(db: &Db) -> Self {
        Self::at("127.0.0.1", db).await
    }

    /// … at an address of this host.
    pub async fn at(address: &str, db: &Db) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = watch::Sender::new(socket(db));
        let network = watch::Sender::new(Network::default());
        let (made, waiting) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (seen, place, number, held) = (network.subscribe(), target.subscribe(), made.clone(), waiting.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let socket = place.borrow().clone();
                let Ok(server) = UnixStream::connect(&socket).await else { continue };
                let wire =
                    Wire { id: number.fetch_add(1, Ordering::SeqCst) + 1, name: Arc::default(), waiting: held.clone() };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pump(from_client, to_server, seen.clone(), wire.clone(), Way::ToServer));
                tokio::spawn(pump(from_server, to_client, seen.clone(), wire, Way::ToClient));
            }
        });
        let url = format!("postgres://postgres@{address}:{port}/{}", db.name);
        Self { db: Db { url, ..db.clone() }, target, network, made, waiting }
    }

    /// From now on new connections lead to another server.
    pub fn leads_to(&self, db: &Db) {
        self.target.send_replace(socket(db));
    }

    /// From now on new connections lead nowhere: they are ended at once.
    pub fn leads_nowhere(&self) {
        self.target.send_replace(PathBuf::from("/nowhere"));
    }

    /// How many messages to Postgres wait until they may pass.
    pub fn held_back(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    fn so_far(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    fn now(&self, whose: &'static str, mute: bool, deaf: bool) {
        self.network.send_modify(|n| (n.whose, n.mute, n.deaf) = (whose, mute, deaf));
    }

    /// Postgres is so far away.
    pub fn distance(&self, latency: Duration) {
        self.network.send_modify(|n| n.latency = latency);
    }

    /// Silence in both directions, for new connections too: nobody is told.
    pub fn freeze(&self) {
        self.now("", true, true);
    }

    /// Silence in both directions on every connection of now: nobody is told. New ones pass.
    pub fn silence(&self) {
        let id = self.so_far();
        self.network.send_modify(|n| n.silent = id);
    }

    /// What has been silenced is ended at last, at both ends.
    pub fn end_silent(&self) {
        self.network.send_modify(|n| n.cut = n.cut.max(n.silent));
    }

    /// What these send arrives, but they hear nothing of it.
    pub fn deafen(&self, whose: &'static str) {
        self.now(whose, false, true);
    }

    /// Nothing that these send arrives.
    pub fn mute(&self, whose: &'static str) {
        self.now(whose, true, false);
    }

    /// Everything passes again, and what was held back too.
    pub fn pass(&self) {
        self.now("", false, false);
    }

    /// Every connection of now is ended at both ends, and everything passes.
    pub fn cut(&self) {
        let id = self.so_far();
        self.network.send_modify(|n| (n.whose, n.mute, n.deaf, n.cut) = ("", false, false, id));
    }

    /// The daemon loses these connections; what it has sent on them is still on its way. New connections pass.
    pub fn hang_up(&self, whose: &'static str) {
        let id = self.so_far();
        self.network.send_modify(|n| (n.whose, n.mute, n.deaf, n.hung_up) = (whose, false, false, id));
    }

    /// What was on its way arrives.
    pub fn deliver(&self) {
        self.network.send_modify(|n| n.delivered = n.hung_up);
    }
}

fn socket(db: &Db) -> PathBuf {
    let options = PgConnectOptions::from_str(&db.url).unwrap();
    options.get_socket().expect("a private server").join(format!(".s.PGSQL.{}", options.get_port()))
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToServer,
    ToClient,
}

/// One direction of one connection.
async fn pump(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin,
    mut network: watch::Receiver<Network>,
    wire: Wire,
    way: Way,
) {
    let (tx, mut rx) = mpsc::unbounded_channel::<Vec<u8>>();
    let (mut seen, reader) = (network.clone(), wire.clone());
    tokio::spawn(async move {
        let gone = |n: &Network| n.cut >= reader.id || n.hung_up >= reader.id && reader.is_of(n.whose);
        let mut buffer = vec![0; 64 << 10];
        loop {
            tokio::select! {
                _ = seen.wait_for(gone) => return,
                read = from.read(&mut buffer) => match read {
                    Ok(n @ 1..) if tx.send(buffer[..n].to_vec()).is_ok() => {}
                    _ => return,
                },
            }
        }
    });
    while let Some(bytes) = rx.recv().await {
        if way == Way::ToServer && wire.name.get().is_none() {
            wire.read_name(&bytes);
        }
        let latency = network.borrow().latency;
        if way == Way::ToServer && !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let hung_up = |n: &Network| n.hung_up >= wire.id && wire.is_of(n.whose);
        let open = |n: &Network| match way {
            _ if n.cut >= wire.id => true,
            _ if n.silent >= wire.id => false,
            Way::ToServer if hung_up(n) => n.delivered >= wire.id,
            Way::ToClient if hung_up(n) => true,
            Way::ToServer => !(n.mute && wire.is_of(n.whose)),
            Way::ToClient => !(n.deaf && wire.is_of(n.whose)),
        };
        let to_server = u64::from(way == Way::ToServer && !open(&network.borrow()));
        wire.waiting.fetch_add(to_server, Ordering::SeqCst);
        let passed = network.wait_for(open).await.map(|n| *n);
        wire.waiting.fetch_sub(to_server, Ordering::SeqCst);
        let Ok(now) = passed else { return };
        let ended = now.cut >= wire.id || way == Way::ToClient && hung_up(&now);
        if ended || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
