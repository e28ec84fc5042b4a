//! A proxy that reads Postgres' protocol and strikes at one execution of one statement of `src/db/sql`: just before it reaches the
//! server, or when the server has done it and before its client hears of that.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use super::Db;

/// What is sent in place of a statement that is to fail, so that the server itself says no: as it does when transactions collide.
const REFUSAL: &str = "DO $$BEGIN RAISE 'sabotaged' USING ERRCODE = '40001'; END$$";

/// What tells that refusal from all others.
const WORD: &str = "sabotaged";

/// On which side of the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The server says no; after the commit: it ends the session without saying what became of the statement.
    Error,
    /// The connection is lost.
    Loss,
    Kill,
    /// SIGSTOP; the message goes on when [`Saboteur::go_on`] says so.
    Stop,
}

/// One strike: at the first execution of a statement.
#[derive(Clone, Debug)]
pub struct Plan {
    pub statement: String,
    pub side: Side,
    pub strike: Strike,
}

struct Shared {
    /// The first line of each statement, and its name.
    known: HashMap<String, String>,
    plans: Vec<Plan>,
    /// How many of the plans have been carried out: one after the other.
    struck: AtomicUsize,
    pid: AtomicI32,
    going: watch::Sender<bool>,
    seen: Mutex<Vec<String>>,
}

/// The proxy.
pub struct Saboteur {
    pub db: Db,
    shared: Arc<Shared>,
}

impl Saboteur {
    /// Before a database; `known` are the statements by their first line.
    pub async fn new(db: &Db, known: HashMap<String, String>, plans: Vec<Plan>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = PgConnectOptions::from_str(&db.url).unwrap();
        let socket = options.get_socket().expect("a private server").join(format!(".s.PGSQL.{}", options.get_port()));
        let shared = Arc::new(Shared {
            known,
            plans,
            struck: AtomicUsize::new(0),
            pid: AtomicI32::new(0),
            going: watch::Sender::new(false),
            seen: Mutex::default(),
        });
        let all = shared.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = UnixStream::connect(&socket).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let after = watch::Sender::new(None);
                let (down, up) = (all.clone(), all.clone());
                let waits = after.subscribe();
                tokio::spawn(async move {
                    // Whichever way ends first ends the other: the streams are dropped.
                    tokio::select! {
                        _ = to_the_server(&up, from_client, to_server, &after) => {}
                        () = to_the_client(&down, from_server, to_client, waits) => {}
                    }
                });
            }
        });
        let url = format!("postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable", db.name);
        Self { db: Db { url, ..db.clone() }, shared }
    }

    /// Whom to kill or to stop.
    pub fn watches(&self, pid: i32) {
        self.shared.pid.store(pid, Ordering::SeqCst);
    }

    /// Has it all happened?
    pub fn has_struck(&self) -> bool {
        self.shared.struck.load(Ordering::SeqCst) == self.shared.plans.len()
    }

    /// What was held back when a process was stopped goes on.
    pub fn go_on(&self) {
        self.shared.going.send_replace(true);
    }

    /// The statements that have passed, or were to pass.
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Shared {
    /// Is this execution the one? Then it is, and no other.
    fn due(&self, statement: &str) -> Option<(Side, Strike)> {
        self.seen.lock().unwrap().push(statement.to_owned());
        let next = self.struck.load(Ordering::SeqCst);
        let plan = self.plans.get(next).filter(|p| p.statement == statement)?;
        let first = self.struck.compare_exchange(next, next + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        first.then_some((plan.side, plan.strike))
    }

    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid.load(Ordering::SeqCst)), signal);
    }

    /// True: the message goes on after all.
    async fn carry_out(&self, strike: Strike) -> bool {
        match strike {
            Strike::Kill => self.signal(Signal::SIGKILL),
            Strike::Stop => {
                self.signal(Signal::SIGSTOP);
                let _ = self.going.subscribe().wait_for(|going| *going).await;
                return true;
            }
            Strike::Error | Strike::Loss => {}
        }
        false
    }
}

/// A message with its type; the startup message has none.
async fn message(from: &mut (impl AsyncRead + Unpin), typed: bool) -> Option<Vec<u8>> {
    let mut bytes = if typed { vec![from.read_u8().await.ok()?] } else { Vec::new() };
    let length = from.read_u32().await.ok()?;
    bytes.extend(length.to_be_bytes());
    let head = bytes.len();
    bytes.resize(head + usize::try_from(length).ok()? - 4, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some(bytes)
}

fn words(body: &[u8]) -> impl Iterator<Item = String> {
    body.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned())
}

/// `None`: this way has ended.
async fn to_the_server(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    after: &watch::Sender<Option<Strike>>,
) -> Option<()> {
    let mut prepared: HashMap<String, String> = HashMap::new();
    to.write_all(&message(&mut from, false).await?).await.ok()?;
    let mut refusing = false;
    loop {
        let bytes = message(&mut from, true).await?;
        let (kind, mut words) = (bytes[0], words(&bytes[5..]));
        let statement = match kind {
            b'P' => {
                let (name, text) = (words.next()?, words.next()?);
                if let Some(known) = shared.known.get(text.lines().next().unwrap_or_default()) {
                    prepared.insert(name, known.clone());
                }
                None
            }
            b'B' => prepared.get(&words.nth(1)?).cloned(),
            b'Q' if words.next()? == "COMMIT" => Some("commit".to_owned()),
            _ => None,
        };
        match statement.and_then(|statement| shared.due(&statement)) {
            Some((Side::Before, Strike::Error)) => refusing = true,
            Some((Side::Before, strike)) if !shared.carry_out(strike).await => return None,
            Some((Side::Before, _)) => {}
            Some((Side::After, strike)) => drop(after.send_replace(Some(strike))),
            None => {}
        }
        if !refusing {
            to.write_all(&bytes).await.ok()?;
        } else if kind == b'S' || kind == b'Q' {
            // The other way writes the answer.
            refusing = false;
            after.send_replace(Some(Strike::Error));
            let length = u32::try_from(REFUSAL.len() + 5).ok()?;
            to.write_all(&[&b"Q"[..], &length.to_be_bytes(), REFUSAL.as_bytes(), b"\0"].concat()).await.ok()?;
        }
    }
}

/// Sends what the server says; where a strike is due, not before it has said that it is ready again.
async fn to_the_client(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut after: watch::Receiver<Option<Strike>>,
) {
    let mut kept = Vec::new();
    while let Some(bytes) = message(&mut from, true).await {
        let strike = *after.borrow_and_update();
        let ready = bytes[0] == b'Z';
        kept.extend(bytes);
        match strike {
            Some(_) if !ready => continue,
            Some(Strike::Error) if !kept.windows(WORD.len()).any(|w| w == WORD.as_bytes()) => {
                // It was done, and the session ends without a word on that.
                let mut text = Vec::new();
                text.extend(b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0");
                let length = u32::try_from(text.len() + 4).unwrap();
                let _ = to.write_all(&[&b"E"[..], &length.to_be_bytes(), &text].concat()).await;
                return;
            }
            Some(Strike::Error) | None => {}
            Some(strike) => {
                if !shared.carry_out(strike).await {
                    return;
                }
            }
        }
        if to.write_all(&std::mem::take(&mut kept)).await.is_err() {
            return;
        }
        if strike.is_some() {
            // The watch is not told of this: the client speaks next, and nothing else is due.
            after = watch::Sender::new(None).subscribe();
        }
    }
}
