//! One private server: made, copied, started, stopped, started again, removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use crate::os::pre_exec::{ChildSetup, before_exec};
use crate::os::proc;
use crate::os::spawner::{self, Owned};

use super::error::PostgresError;
use super::{binaries, folder};

/// How long a server may take to become ready; recovery after an immediate stop is part of it.
const READY: Duration = Duration::from_secs(60);
/// How long a fast stop may take before it becomes an immediate one: Postgres 15 was seen to hang in
/// a fast stop that was asked for right after a crash recovery.
const FAST: Duration = Duration::from_secs(8);
/// How long an immediate stop may take before the postmaster is killed. Postgres itself kills its
/// backends after 5 s.
const IMMEDIATE: Duration = Duration::from_secs(7);

/// The data's folder, below the one that the user names.
const KEPT: &str = "postgres";

/// How to run a private server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Does a commit survive a power cut? `false` turns fsync and full-page writes off, for tests
    /// that need no such promise. A killed server loses nothing either way.
    pub durable: bool,
    /// Keep the data below this folder and go on with what is there; `None`: it goes with the server. The settings are
    /// written anew at each start.
    pub data: Option<PathBuf>,
    /// The most connections at one time.
    pub max_connections: u16,
    /// The server's cache, in MiB.
    pub shared_buffers_mib: u32,
    /// More settings, as in `postgresql.conf`; they outweigh the ones made here.
    pub settings: Vec<(String, String)>,
    /// Variables of the server's process, which has no others of ours.
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durable: true,
            data: None,
            max_connections: 100,
            shared_buffers_mib: 128,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends every session, writes a checkpoint: as an administrator does it.
    Fast,
    /// Stops at once; the next start recovers from the log: as a crash does it.
    Immediate,
}

/// A Postgres that belongs to this process. Dropping it stops the server and removes its folder.
///
/// All methods but [`create_database`](Self::create_database) block: the start for about a second,
/// the others for some milliseconds. On a runtime call them from `spawn_blocking`.
#[derive(Debug)]
pub struct PrivatePostgres {
    binaries: PathBuf,
    folder: PathBuf,
    data: PathBuf,
    user: Option<(Uid, Gid)>,
    environment: Vec<(String, String)>,
    server: Option<(Child, Owned)>,
}

impl PrivatePostgres {
    /// Makes a new, empty server and starts it. The superuser is `postgres`, without a password;
    /// the socket's folder is open to this user alone.
    ///
    /// # Errors
    /// No binaries, no user to run as, no folder, or a program that fails; each message is one line
    /// for people.
    pub fn start(options: &Options) -> Result<Self, PostgresError> {
        let mut made = Self::new(options)?;
        match &options.data {
            None => made.initdb(&made.data)?,
            Some(kept) if !made.data.exists() => made.initdb_to_keep(kept)?,
            // What is there is somebody's data: the server itself says what it thinks of it.
            Some(_) => {}
        }
        made.configure(options)?;
        made.start_again()?;
        Ok(made)
    }

    /// A standby: a copy of this server that follows it, in recovery, until `pg_promote()` makes it a primary. It is called
    /// `standby` in `pg_stat_replication` and in `synchronous_standby_names`.
    ///
    /// # Errors
    /// As [`start`](Self::start); the copy needs this server to run.
    pub fn standby(&self, options: &Options) -> Result<Self, PostgresError> {
        let mut made = Self::new(options)?;
        let to_primary = format!("host={} port=5432 user=postgres application_name=standby", self.folder.display());
        let mut copy = made.command("pg_basebackup");
        copy.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "-d", &to_primary, "-D"]).arg(&made.data);
        ran("pg_basebackup", copy)?;
        let mut options = options.clone();
        options.settings.push(("primary_conninfo".into(), to_primary));
        made.configure(&options)?;
        let signal = made.data.join("standby.signal");
        fs::write(&signal, "").map_err(|error| PostgresError::Folder { path: signal, error })?;
        made.start_again()?;
        Ok(made)
    }

    /// A folder for it, and nothing in it. From here on the drop cleans up, whatever fails.
    fn new(options: &Options) -> Result<Self, PostgresError> {
        let binaries = binaries::find()?;
        let user = folder::server_user()?;
        // Beside the start: what a killed test run has left can be large. What is not done at our end, the next one does.
        drop(std::thread::Builder::new().name("stepd-sweep".into()).spawn(move || folder::sweep(user)));
        let folder = folder::create(user)?;
        let data = options.data.as_ref().map_or_else(|| folder.join("data"), |kept| absolute(kept).join(KEPT));
        Ok(Self { binaries, folder, data, user, environment: options.environment.clone(), server: None })
    }

    /// Made under another name first: a start that was killed half-way leaves nothing that looks like data.
    fn initdb_to_keep(&self, kept: &Path) -> Result<(), PostgresError> {
        let folder_error = |error| PostgresError::Folder { path: kept.to_owned(), error };
        let new = folder::create_kept(kept, &format!("{KEPT}.new"), self.user).map_err(folder_error)?;
        self.initdb(&new)?;
        fs::rename(&new, &self.data).map_err(folder_error)
    }

    fn initdb(&self, data: &Path) -> Result<(), PostgresError> {
        let mut command = self.command("initdb");
        command.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]);
        command.arg(data);
        ran("initdb", command)
    }

    fn configure(&self, options: &Options) -> Result<(), PostgresError> {
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", String::new()),
            ("unix_socket_directories", self.folder.display().to_string()),
            ("max_connections", options.max_connections.to_string()),
            ("shared_buffers", format!("{}MB", options.shared_buffers_mib)),
            ("logging_collector", "off".into()),
            ("log_line_prefix", "%m [%p] ".into()),
            ("timezone", "UTC".into()),
            ("log_timezone", "UTC".into()),
            // Even a private server's acknowledged commit is a commit; tests count on it.
            ("synchronous_commit", "on".into()),
            // Questions to the views are short, and their compilation is not: half of what this server would work for tests.
            ("jit", "off".into()),
        ];
        if !options.durable {
            settings.extend([("fsync", "off".into()), ("full_page_writes", "off".into())]);
        }
        settings.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let text: String =
            settings.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
        let path = self.data.join("postgresql.auto.conf");
        // The file is the server user's own, made by initdb: writing into it keeps it so.
        fs::write(&path, text).map_err(|error| PostgresError::Folder { path, error })
    }

    /// Starts a stopped server again, on the same data and socket. Does nothing while it runs.
    ///
    /// # Errors
    /// The server cannot be run, or does not become ready; the message holds the end of its log.
    pub fn start_again(&mut self) -> Result<(), PostgresError> {
        if self.server.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None))) {
            return Ok(());
        }
        self.server = None;
        let run = |error| PostgresError::Run { program: "postgres", error };
        let log = File::options().create(true).append(true).open(self.log()).map_err(run)?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone().map_err(run)?).stderr(log);
        // A session of its own, so that Ctrl-C at the terminal reaches us and not the server. SIGQUIT is
        // the immediate stop.
        let parent_death = Some(Signal::SIGQUIT);
        before_exec(&mut command, ChildSetup { new_session: true, parent_death, ..ChildSetup::default() });
        let (child, _) = self.server.insert(spawner::spawn(command).map_err(run)?);
        let file = self.data.join("postmaster.pid");
        let id = child.id().to_string();
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            // Line 1 is the postmaster's id, line 8 its state: how pg_ctl waits, too.
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines().map(str::trim);
            if lines.next() == Some(&id) && matches!(lines.nth(6), Some("ready" | "standby")) {
                return Ok(());
            }
            if !matches!(child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        Err(PostgresError::Failed { program: "postgres", output: last_lines(&log) })
    }

    /// Stops the server; data and socket folder stay for [`start_again`](Self::start_again). Does
    /// nothing when it is stopped already.
    pub fn stop(&mut self, mode: StopMode) {
        let Some((mut child, _owned)) = self.server.take() else { return };
        if mode == StopMode::Fast && ended(&mut child, Signal::SIGINT, FAST) {
            return;
        }
        if !ended(&mut child, Signal::SIGQUIT, IMMEDIATE) {
            ended(&mut child, Signal::SIGKILL, IMMEDIATE);
        }
    }

    /// Kills one backend with SIGKILL, as the kernel does when memory runs out: Postgres then ends
    /// every session and recovers.
    ///
    /// # Errors
    /// The process is no child of this server.
    pub fn kill_backend(&self, pid: i32) -> Result<(), PostgresError> {
        let ours = self.postmaster().is_some_and(|postmaster| proc::stat(pid).is_some_and(|s| s.parent == postmaster));
        if ours && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            return Ok(());
        }
        Err(PostgresError::NotABackend(pid))
    }

    /// Makes a database, as a copy of `template` where one is given (nobody may be connected to it).
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<(), PostgresError> {
        let mut statement = format!("CREATE DATABASE {}", quote_identifier(name));
        if let Some(template) = template {
            statement.push_str(" TEMPLATE ");
            statement.push_str(&quote_identifier(template));
        }
        let mut connection = self.options("postgres").connect().await?;
        connection.execute(AssertSqlSafe(statement)).await?;
        connection.close().await?;
        Ok(())
    }

    /// How to connect to one of its databases (`postgres` is always there).
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.folder)
            .port(5432)
            .username("postgres")
            .password("")
            .database(database)
    }

    /// The same as a URL that sqlx and libpq both take.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let socket = percent_encode(&self.folder.to_string_lossy());
        format!("postgres://postgres@{socket}:5432/{}", percent_encode(database))
    }

    /// The postmaster's process id, while the server runs.
    #[must_use]
    pub fn postmaster(&self) -> Option<i32> {
        self.server.as_ref().and_then(|(child, _)| i32::try_from(child.id()).ok())
    }

    /// The folder of the socket, the data and the log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Where the server's programs are (`psql`, `pg_dump`).
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        // PGPORT, PGDATA and their like would change what the server does.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TZ", "UTC");
        command.current_dir(&self.folder);
        if let Some((uid, gid)) = self.user {
            // With a user and no groups said, std drops root's supplementary groups as well.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.stop(StopMode::Immediate);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs a program to its end.
fn ran(program: &'static str, mut command: Command) -> Result<(), PostgresError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = spawner::spawn(command).and_then(|(child, _owned)| child.wait_with_output());
    let output = output.map_err(|error| PostgresError::Run { program, error })?;
    if output.status.success() {
        return Ok(());
    }
    Err(PostgresError::Failed { program, output: last_lines(&String::from_utf8_lossy(&output.stderr)) })
}

/// Sends the signal and waits for the end; false when it did not come in time.
fn ended(child: &mut Child, signal: Signal, limit: Duration) -> bool {
    let exited = |status: io::Result<Option<ExitStatus>>| !matches!(status, Ok(None));
    if exited(child.try_wait()) {
        return true;
    }
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if exited(child.try_wait()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// The server works in another folder than we do.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn percent_encode(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
