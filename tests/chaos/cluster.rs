//! The daemons, their Postgres, and the network between them; and what was done to them, when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgPoolOptions;
use stepd::os::proc;
use stepd::postgres::{Options as PostgresOptions, PrivatePostgres, StopMode};

use crate::arguments::Options;
use crate::ground::{POOLER, descendants, files, migrate, reached, with_clock};
use crate::net;
use crate::plan::Fault;
use crate::scarcity::Disks;
use crate::support::outside::{ModelServer, ToolServer, calls, says};
use crate::support::{Db, Files, Pair, PgBouncer, Proxy, Spec, Worker};

pub const DATABASE: &str = "chaos";

/// How long a daemon may take to end after a SIGTERM: its grace, and what a slow Postgres or a stop in between adds.
const ENDS: Duration = Duration::from_secs(30);

/// Seconds since 1970: Postgres runs on the same machine, so its clock is this one.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A fault as it happened. `to` is infinite while it lasts.
#[derive(Clone, Debug)]
pub struct Hit {
    pub fault: Fault,
    pub slot: Option<usize>,
    pub from: f64,
    pub to: f64,
}

impl Hit {
    /// Did this daemon's session end that keeps its lock, and nothing else: may it have a new one at once? (A session that keeps no
    /// lock is ended without a slot.)
    pub const fn is_end_of_presence(&self) -> bool {
        matches!(self.fault, Fault::Terminate | Fault::Cut) && self.slot.is_some()
    }
}

/// One process of a daemon.
#[derive(Clone, Debug)]
pub struct Instance {
    pub slot: usize,
    pub pid: i32,
    pub from: f64,
    /// When it was killed or told to end.
    pub to: f64,
    pub ended_by: Option<Fault>,
}

/// A place for a daemon.
pub struct Slot {
    /// The network before each host of Postgres.
    proxies: Vec<Proxy>,
    /// Its own network, where it has one.
    line: Option<net::Line>,
    spec: Spec,
    pid: AtomicI32,
    pub worker: tokio::sync::Mutex<Worker>,
}

/// What was seen beside the plan.
#[derive(Default)]
pub struct Notes {
    pub hits: Vec<Hit>,
    pub instances: Vec<Instance>,
    /// What must not be and is no matter of a run: a panic, a daemon that ended by itself, a child that outlived it.
    pub panics: Vec<String>,
    pub orphans: Vec<String>,
    pub surprises: Vec<String>,
}

pub struct Cluster {
    pub db: Db,
    pub files: Files,
    pub notes: Mutex<Notes>,
    pub disks: Disks,
    postgres: Arc<Mutex<Pair>>,
    pub slots: Vec<Slot>,
    _poolers: Vec<PgBouncer>,
    /// What the workflows reach outside.
    _outside: (ToolServer, ModelServer),
}

impl Cluster {
    /// Starts everything; returns when every daemon is ready.
    pub async fn start(options: &Options, networks: Option<net::Tools>) -> Self {
        let more = [
            ("autovacuum_naptime", "5s"),
            ("max_wal_size", if options.has(Fault::WalFull) { "64MB" } else { "512MB" }),
            // A connection that the network holds up in its first message keeps Postgres from coming back after a crash, for so long:
            // a minute by default (seen).
            ("authentication_timeout", "3s"),
        ];
        let settings = PostgresOptions {
            durable: false,
            // So that they are soon taken, where others take them all.
            max_connections: if options.has(Fault::Exhaust) { 120 } else { 300 },
            shared_buffers_mib: 64,
            settings: more.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..PostgresOptions::default()
        };
        let fails_over = options.has(Fault::Promote);
        let chosen = options.clone();
        let start = move || {
            let mut pair = if fails_over { Pair::synchronous(settings) } else { Pair::alone(settings) };
            let disks = Disks::of(&chosen, &mut pair);
            (pair, disks)
        };
        let (postgres, disks) = tokio::task::spawn_blocking(start).await.unwrap();
        postgres.primary().create_database(DATABASE, None).await.unwrap();
        if let Some(statement) = disks.tablespace() {
            let mut admin = postgres.primary().options("postgres").connect().await.unwrap();
            for statement in [statement, format!("ALTER DATABASE {DATABASE} SET TABLESPACE small")] {
                sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
            }
        }
        let url = postgres.primary().url(DATABASE);
        let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(10));
        let pool = pool.connect_lazy_with(postgres.primary().options(DATABASE).application_name("chaos"));
        let db = Db { pool, url: url.clone(), name: DATABASE.to_owned() };
        migrate(&options.binary, &url).await;
        db.exec(
            "CREATE TABLE effects (run text NOT NULL, step text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
             CREATE INDEX ON effects (run)",
        )
        .await;
        let files = files();
        let tools = ToolServer::start(&["find"], &[], |_, args| Ok(args.clone())).await;
        // An agent's first turn asks the tool for the number of the prompt, the second one says it; what is no agent's has no tools.
        let model = ModelServer::start(|request, _| {
            let said = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
            let told = said.iter().any(|m| m["role"] == "tool");
            let prompt =
                said.iter().find(|m| m["role"] == "user").and_then(|m| m["content"].as_str()).unwrap_or_default();
            let number = prompt.rsplit(' ').next().unwrap_or_default();
            match (request["tools"].is_array(), told) {
                (true, false) => calls(&[("tools__find", serde_json::json!({"n": number}))]),
                (true, true) => says(number),
                (false, _) => says("one, two, three"),
            }
        })
        .await;
        let sections = [tools.section("tools"), model.section("small")].concat();
        let (mut hosts, mut poolers) = (Vec::new(), Vec::new());
        for host in postgres.hosts() {
            let mut place = Db { url: host.url(DATABASE), ..db.clone() };
            if options.pooler {
                let pooler = PgBouncer::before(&place, POOLER).await.expect("--pooler needs a PgBouncer");
                place = pooler.db.clone();
                poolers.push(pooler);
            }
            hosts.push(place);
        }
        let mut slots = Vec::new();
        for n in 0..options.workers {
            let line = networks.as_ref().map(|networks| networks.line(n));
            let at = line.as_ref().map_or("127.0.0.1", |line| &line.postgres);
            let mut proxies = Vec::new();
            for host in &hosts {
                proxies.push(Proxy::at(at, host).await);
            }
            proxies.iter().for_each(|p| p.distance(Duration::from_millis(options.latency)));
            let by_proxy = Db { url: of_several(&proxies), ..db.clone() };
            let binary = options.other_binary.as_ref().filter(|_| n % 2 == 1).unwrap_or(&options.binary);
            let spec = Spec::new(&by_proxy, &files).binary(binary).lease(options.lease).grace(2).concurrency(12);
            let config = files.path(&format!("stepd.{n}.toml"));
            std::fs::write(&config, reached(&sections, line.as_ref()).await).unwrap();
            let mut spec = spec.arg("--config").arg(&config.display().to_string());
            if let Some(line) = &line {
                spec = spec.within(line.within());
            }
            if options.has(Fault::Clock) {
                spec = with_clock(spec, &files.path(&format!("clock.{n}")));
            }
            let worker = spec.start();
            slots.push(Slot { proxies, line, spec, pid: AtomicI32::new(worker.pid()), worker: worker.into() });
        }
        let cluster = Self {
            db,
            files,
            notes: Mutex::default(),
            disks,
            postgres: Arc::new(Mutex::new(postgres)),
            slots,
            _poolers: poolers,
            _outside: (tools, model),
        };
        for (n, slot) in cluster.slots.iter().enumerate() {
            slot.worker.lock().await.logs("\"ready\"").await;
            cluster.born(n, slot.pid.load(Ordering::SeqCst));
        }
        cluster
    }

    pub fn workers(&self) -> usize {
        self.slots.len()
    }

    /// The process of each slot.
    pub fn pids(&self) -> Vec<i32> {
        self.slots.iter().map(|s| s.pid.load(Ordering::SeqCst)).collect()
    }

    /// Something of the host that can be written.
    pub fn primary<T>(&self, of: impl FnOnce(&PrivatePostgres) -> T) -> T {
        of(self.postgres.lock().unwrap().primary())
    }

    /// Starts Postgres where it does not run; it may fail.
    pub async fn start_postgres_again(&self) {
        let postgres = self.postgres.clone();
        let _ =
            tokio::task::spawn_blocking(move || postgres.lock().unwrap().primary_mut().start_again()).await.unwrap();
    }

    fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().unwrap());
    }

    fn born(&self, slot: usize, pid: i32) {
        let instance = Instance { slot, pid, from: now(), to: f64::INFINITY, ended_by: None };
        self.note(|n| n.instances.push(instance));
    }

    pub fn dies(&self, slot: usize, by: Fault) {
        self.note(|n| {
            if let Some(last) = n.instances.iter_mut().rfind(|i| i.slot == slot) {
                (last.to, last.ended_by) = (now(), Some(by));
            }
        });
    }

    pub fn hit(&self, fault: Fault, slot: Option<usize>, from: f64, to: f64) {
        self.note(|n| n.hits.push(Hit { fault, slot, from, to }));
    }

    /// kill -9, a look at what it leaves behind, and a new one.
    pub async fn sigkill(self: &Arc<Self>, slot: usize) {
        let Ok(mut worker) = self.slots[slot].worker.try_lock() else { return };
        self.ended_by_itself(slot, &mut worker);
        let family = descendants(worker.pid());
        self.hit(Fault::Sigkill, Some(slot), now(), now());
        self.dies(slot, Fault::Sigkill);
        worker.kill9();
        self.replace(slot, &mut worker);
        let cluster = self.clone();
        tokio::spawn(async move {
            // One second is the promise; the second one is for a machine that does ten other things.
            tokio::time::sleep(Duration::from_secs(2)).await;
            for (child, what) in family.into_iter().filter(|(child, _)| proc::is_alive(child.pid, child.start)) {
                let said = format!("process {} ({what}) lives 2 s after the kill -9 of its daemon", child.pid);
                cluster.note(|n| n.orphans.push(said));
            }
        });
    }

    /// SIGTERM; a new one takes its place when it has ended.
    pub fn sigterm(self: &Arc<Self>, slot: usize) {
        let cluster = self.clone();
        tokio::spawn(async move {
            let Ok(mut worker) = cluster.slots[slot].worker.try_lock() else { return };
            cluster.ended_by_itself(slot, &mut worker);
            cluster.hit(Fault::Sigterm, Some(slot), now(), now());
            cluster.dies(slot, Fault::Sigterm);
            worker.term();
            let began = now();
            while worker.is_running() && now() - began < ENDS.as_secs_f64() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if worker.is_running() {
                cluster.note(|n| n.surprises.push(format!("daemon {slot} did not end within {ENDS:?} of a SIGTERM")));
                worker.kill9();
            }
            cluster.replace(slot, &mut worker);
        });
    }

    pub fn replace(&self, slot: usize, worker: &mut Worker) {
        self.keep_log(slot, worker);
        *worker = self.slots[slot].spec.start();
        self.slots[slot].pid.store(worker.pid(), Ordering::SeqCst);
        self.born(slot, worker.pid());
    }

    /// A daemon that had registered and is no more, though nothing was done to it: what is done to it now must not hide that.
    pub fn ended_by_itself(&self, slot: usize, worker: &mut Worker) {
        if !worker.is_running() && worker.logged("\"registered\"") > 0 {
            let said = format!("daemon {slot} (pid {}) had ended by itself", worker.pid());
            self.note(|n| n.surprises.push(said));
        }
    }

    fn keep_log(&self, slot: usize, worker: &Worker) {
        let log = worker.log();
        let panics = log
            .lines()
            .filter(|l| l.contains("panicked") || l.contains("overflowed its stack"))
            .map(|l| format!("daemon {slot}: {l}"));
        let panics: Vec<String> = panics.collect();
        // Every standby is synchronous here: nothing that was acknowledged is ever gone.
        let lost = log.lines().filter(|l| l.contains("has lost commits")).map(|l| format!("daemon {slot}: {l}"));
        let lost: Vec<String> = lost.collect();
        self.note(|n| n.panics.extend(panics));
        self.note(|n| n.surprises.extend(lost));
        std::fs::write(self.files.path(&format!("log.{slot}.{}", worker.pid())), log).unwrap();
    }

    /// The beginning of what lasts.
    pub fn begin(&self, fault: Fault, slot: usize) {
        let place = &self.slots[slot];
        match fault {
            Fault::Sigstop => place.send(Signal::SIGSTOP),
            Fault::Delay => place.network(Proxy::freeze),
            Fault::Isolate => place.network(|p| p.mute("stepd presence")),
            Fault::Silence => place.network(Proxy::silence),
            Fault::Cut => place.network(Proxy::cut),
            fault if fault.is_of_a_line() => place.line.iter().for_each(|line| line.begin(fault)),
            _ => unreachable!("{fault:?} has no beginning and end"),
        }
        self.hit(fault, Some(slot), now(), if fault == Fault::Cut { now() } else { f64::INFINITY });
    }

    /// Its end. What else was done to the same daemon in the same way ends with it.
    pub fn end(&self, fault: Fault, slot: usize) {
        let place = &self.slots[slot];
        let ended: &[Fault] = match fault {
            Fault::Sigstop => {
                place.send(Signal::SIGCONT);
                &[Fault::Sigstop]
            }
            Fault::Silence => {
                place.network(Proxy::end_silent);
                &[Fault::Silence]
            }
            fault if fault.is_of_a_line() => {
                place.line.iter().for_each(net::Line::pass);
                &[Fault::LinkDown, Fault::DropOut, Fault::DropIn, Fault::Reset, Fault::Loss]
            }
            _ => {
                place.network(Proxy::pass);
                &[Fault::Delay, Fault::Isolate]
            }
        };
        self.note(|n| {
            for hit in
                n.hits.iter_mut().filter(|h| h.slot == Some(slot) && h.to.is_infinite() && ended.contains(&h.fault))
            {
                hit.to = now();
            }
        });
    }

    /// A daemon's clock is an hour ahead, or behind, or runs half as fast again; what measures spans runs on.
    pub fn clock(&self, slot: usize, draw: u64) {
        let says = ["+3600", "-3600", "+0 x1.5", "+0"][usize::try_from(draw % 4).unwrap()];
        std::fs::write(self.files.path(&format!("clock.{slot}")), format!("{says}\n")).unwrap();
        self.hit(Fault::Clock, Some(slot), now(), now());
    }

    /// Postgres goes away for a while, and comes back.
    pub async fn postgres(&self, fault: Fault, away: Duration) {
        let mode = if fault == Fault::PgFast { StopMode::Fast } else { StopMode::Immediate };
        let from = now();
        let postgres = self.postgres.clone();
        let back = tokio::task::spawn_blocking(move || {
            let mut postgres = postgres.lock().unwrap();
            postgres.primary_mut().stop(mode);
            std::thread::sleep(away);
            postgres.primary_mut().start_again()
        });
        back.await.unwrap().unwrap();
        self.hit(fault, None, from, now());
    }

    /// The primary's host is lost, and its standby takes its place; then a new standby is made where the lost host was.
    pub async fn promote(&self) {
        let from = now();
        let postgres = self.postgres.clone();
        let options = tokio::task::spawn_blocking(move || {
            let mut postgres = postgres.lock().unwrap();
            postgres.fail_over();
            postgres.primary().options(DATABASE)
        });
        self.db.pool.set_connect_options(options.await.unwrap().application_name("chaos"));
        self.hit(Fault::Promote, None, from, now());
        let postgres = self.postgres.clone();
        tokio::task::spawn_blocking(move || postgres.lock().unwrap().replace_the_lost()).await.unwrap();
        for (place, host) in self.postgres.lock().unwrap().hosts().iter().enumerate() {
            let db = Db { url: host.url(DATABASE), ..self.db.clone() };
            self.slots.iter().for_each(|slot| slot.proxies[place].leads_to(&db));
        }
    }

    /// The faults are over: everything runs, everything passes, and at once.
    pub async fn heal(&self) {
        for slot in 0..self.slots.len() {
            self.slots[slot].network(|p| p.distance(Duration::ZERO));
            for fault in [Fault::Sigstop, Fault::Silence, Fault::Delay, Fault::LinkDown] {
                self.end(fault, slot);
            }
        }
        let postgres = self.postgres.clone();
        tokio::task::spawn_blocking(move || postgres.lock().unwrap().primary_mut().start_again())
            .await
            .unwrap()
            .unwrap();
        for (n, slot) in self.slots.iter().enumerate() {
            let mut worker = slot.worker.lock().await;
            if !worker.is_running() {
                self.note(|notes| notes.surprises.push(format!("daemon {n} (pid {}) ended by itself", worker.pid())));
                self.dies(n, Fault::Sigterm);
                self.replace(n, &mut worker);
            }
        }
    }

    /// Stops the daemons and keeps their logs.
    pub async fn stop(&self) {
        for (n, slot) in self.slots.iter().enumerate() {
            let mut worker = slot.worker.lock().await;
            if let Some(code) = worker.drain(ENDS).await.filter(|code| *code != 0) {
                self.note(|notes| {
                    notes.surprises.push(format!("daemon {n} ended with exit code {code} after a SIGTERM"))
                });
            }
            self.keep_log(n, &worker);
        }
    }

    /// Warnings and errors of the daemons, counted by their text.
    pub fn complaints(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let folder = self.files.path(".");
        for file in
            std::fs::read_dir(folder).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with("log."))
        {
            for line in std::fs::read_to_string(file.path()).unwrap_or_default().lines() {
                let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                let level = line["level"].as_str().unwrap_or_default().to_ascii_uppercase();
                if level == "WARN" || level == "ERROR" {
                    *counts.entry(format!("{level} {}", line["message"].as_str().unwrap_or("?"))).or_default() += 1;
                }
            }
        }
        counts
    }
}

impl Slot {
    /// Does it to the network before each host.
    fn network(&self, what: impl Fn(&Proxy)) {
        self.proxies.iter().for_each(what);
    }

    fn send(&self, signal: Signal) {
        // A process that has just been killed by another fault hears nothing, and that is all.
        let _ = kill(Pid::from_raw(self.pid.load(Ordering::SeqCst)), signal);
    }
}

/// One address that names every host.
fn of_several(proxies: &[Proxy]) -> String {
    let hosts: Vec<String> = proxies.iter().map(|p| p.db.url.split(['@', '/']).nth(3).unwrap().to_owned()).collect();
    format!("postgres://postgres@{}/{DATABASE}", hosts.join(","))
}
