//! What runs out: connections, space, the right to write, files, processes, memory. And that who has ended is started again, as systemd does.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use stepd::os::proc;
use stepd::postgres::{PrivatePostgres, StopMode};

use crate::arguments::Options;
use crate::cluster::{Cluster, DATABASE, now};
use crate::plan::Fault;
use crate::support::Pair;
use crate::support::limits::{Group, Small, files, limit_files};

/// How long a server may take to stop when its log has no space, and a daemon to be killed.
const ENDS: Duration = Duration::from_secs(10);

/// MiB of the disk of the database, and of that of the log.
const DISK: u32 = 400;
const LOG: u32 = 192;

/// Small file systems for those faults that fill them.
#[derive(Default)]
pub struct Disks {
    data: Option<Small>,
    log: Option<Small>,
}

impl Disks {
    /// Made before anything is on them.
    pub fn of(options: &Options, postgres: &mut Pair) -> Self {
        let folder = postgres.primary().folder().to_owned();
        let mount =
            |name: &str, mib| Some(Small::mount(&folder.join(name), mib).expect("disk-full and wal-full need root"));
        let data = if options.has(Fault::DiskFull) { mount("small", DISK) } else { None };
        let log = if options.has(Fault::WalFull) { mount("wal", LOG) } else { None };
        if let Some(small) = &log {
            postgres.primary_mut().stop(StopMode::Fast);
            move_log(postgres.primary(), small.path());
            postgres.primary_mut().start_again().unwrap();
        }
        Self { data, log }
    }

    /// What is said where the database is made.
    pub fn tablespace(&self) -> Option<String> {
        self.data.as_ref().map(|small| format!("CREATE TABLESPACE small LOCATION '{}'", small.path().display()))
    }
}

fn move_log(pg: &PrivatePostgres, to: &Path) {
    let log = pg.folder().join("data/pg_wal");
    let copied = std::process::Command::new("cp").arg("-a").arg(log.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(&log).unwrap();
    std::os::unix::fs::symlink(to, &log).unwrap();
}

async fn said(conn: &mut PgConnection, statement: &str) -> bool {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(conn).await.is_ok()
}

impl Cluster {
    /// A session that no limit of the database's concerns.
    async fn admin(&self, database: &str) -> Option<PgConnection> {
        let options: PgConnectOptions = self.primary(|pg| pg.options(database));
        let settings = [("default_transaction_read_only", "off"), ("lock_timeout", "0")];
        options.application_name("chaos admin").options(settings).connect().await.ok()
    }

    /// Something runs out, for so long.
    pub async fn runs_out(&self, fault: Fault, slot: usize, lasts: Duration) {
        let from = now();
        let of_a_daemon = matches!(fault, Fault::Files | Fault::Processes | Fault::Memory);
        let met = match fault {
            Fault::Exhaust => self.exhaust(lasts).await,
            Fault::ReadOnly => self.read_only(lasts).await,
            Fault::TableLock => self.lock_a_table(lasts).await,
            Fault::DiskFull => self.fill_the_disk(lasts).await,
            Fault::WalFull => self.fill_the_log(lasts).await,
            Fault::Files => self.no_files(slot, lasts).await,
            Fault::Processes => self.no_processes(slot, lasts).await,
            Fault::Memory => return self.no_memory(slot).await,
            _ => unreachable!("{fault:?} is no scarcity"),
        };
        if met {
            self.hit(fault, of_a_daemon.then_some(slot), from, now());
        }
    }

    /// Every connection is taken, and what daemons need new ones for is ended: all but the presence.
    async fn exhaust(&self, lasts: Duration) -> bool {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ~ '^stepd( writer| claimer| sql step|$)'";
        let options = self.primary(|pg| pg.options(DATABASE)).application_name("chaos other");
        let (mut taken, began) = (Vec::new(), std::time::Instant::now());
        let mut full = false;
        while began.elapsed() < lasts || !full && began.elapsed() < ENDS {
            match options.connect().await {
                Ok(one) => taken.push(one),
                Err(_) => {
                    full = true;
                    if let Some(one) = taken.last_mut() {
                        said(one, end).await;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        full
    }

    async fn read_only(&self, lasts: Duration) -> bool {
        let Some(mut admin) = self.admin(DATABASE).await else { return false };
        if !said(&mut admin, "ALTER SYSTEM SET default_transaction_read_only = on").await {
            return false;
        }
        said(&mut admin, "SELECT pg_reload_conf()").await;
        tokio::time::sleep(lasts).await;
        // The session stands as long as the server does.
        said(&mut admin, "ALTER SYSTEM RESET default_transaction_read_only").await
            && said(&mut admin, "SELECT pg_reload_conf()").await
    }

    async fn lock_a_table(&self, lasts: Duration) -> bool {
        let Some(mut admin) = self.admin(DATABASE).await else { return false };
        let locked = said(&mut admin, "BEGIN; LOCK TABLE stepd.jobs IN ACCESS EXCLUSIVE MODE").await;
        tokio::time::sleep(lasts).await;
        said(&mut admin, "COMMIT").await && locked
    }

    async fn fill_the_disk(&self, lasts: Duration) -> bool {
        let Some(mut admin) = self.admin(DATABASE).await else { return false };
        said(&mut admin, "CREATE TABLE IF NOT EXISTS filler (data text)").await;
        let Some(small) = self.disks.data.as_ref() else { return false };
        small.fill();
        // What is left in half-filled pages.
        let rows = "INSERT INTO filler SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n";
        let mut left = 1_000;
        while said(&mut admin, rows).await && left > 0 {
            left -= 1;
        }
        tokio::time::sleep(lasts).await;
        small.empty();
        said(&mut admin, "TRUNCATE filler").await;
        left > 0
    }

    async fn fill_the_log(&self, lasts: Duration) -> bool {
        let Some(mut admin) = self.admin(DATABASE).await else { return false };
        let Some(small) = self.disks.log.as_ref() else { return false };
        small.fill();
        let began = std::time::Instant::now();
        let mut down = false;
        while !down && began.elapsed() < ENDS {
            down = !said(
                &mut admin,
                "SELECT pg_switch_wal(); SELECT pg_logical_emit_message(false, 'fill', repeat('x', 20000000))",
            )
            .await;
        }
        tokio::time::sleep(lasts).await;
        small.empty();
        let back = std::time::Instant::now();
        while self.db.ask::<i32>("SELECT 1").await.is_err() && back.elapsed() < 6 * ENDS {
            // It may still be on its way out.
            self.start_postgres_again().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        down
    }

    /// No socket, no pipe. Steps that start programs wait; and so does who needs a connection that is not there yet.
    async fn no_files(&self, slot: usize, lasts: Duration) -> bool {
        let pid = self.pids()[slot];
        if !Path::new(&format!("/proc/{pid}/fd")).exists() {
            return false;
        }
        limit_files(pid, Some(files(pid)));
        tokio::time::sleep(lasts).await;
        if proc::stat(pid).is_some() {
            limit_files(pid, None);
        }
        true
    }

    async fn no_processes(&self, slot: usize, lasts: Duration) -> bool {
        let group = Group::new("pids").expect("processes needs root, and control groups of version 1");
        group.add(self.pids()[slot]);
        group.set("pids.max", &group.get("pids.current").to_string());
        tokio::time::sleep(lasts).await;
        group.set("pids.max", "max");
        true
    }

    /// The kernel looks for somebody to kill in the daemon's group, and is told whom.
    async fn no_memory(&self, slot: usize) {
        let group = Group::new("memory").expect("memory needs root, and control groups of version 1");
        let Ok(mut worker) = self.slots[slot].worker.try_lock() else { return };
        self.ended_by_itself(slot, &mut worker);
        let pid = worker.pid();
        group.add(pid);
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000");
        group.set("memory.limit_in_bytes", &(group.get("memory.usage_in_bytes") + (24 << 20)).to_string());
        let procs = group.path("cgroup.procs");
        let eat = format!("echo $$ > {}; head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null", procs.display());
        let mut eats =
            std::process::Command::new("sh").args(["-c", &eat]).stderr(std::process::Stdio::null()).spawn().unwrap();
        let began = std::time::Instant::now();
        while worker.is_running() && began.elapsed() < ENDS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let killed = !worker.is_running();
        self.hit(if killed { Fault::Memory } else { Fault::Sigkill }, Some(slot), now(), now());
        self.dies(slot, if killed { Fault::Memory } else { Fault::Sigkill });
        worker.kill9();
        let _ = eats.kill();
        let _ = eats.wait();
        self.replace(slot, &mut worker);
    }

    /// A daemon that could not start, for want of something, is started again.
    pub async fn restart_the_ended(&self) {
        for slot in 0..self.slots.len() {
            let Ok(mut worker) = self.slots[slot].worker.try_lock() else { continue };
            // One that was at work must not end by itself: that is found, and told, at the end.
            if !worker.is_running() && worker.logged("\"registered\"") == 0 {
                self.dies(slot, Fault::Sigterm);
                self.replace(slot, &mut worker);
            }
        }
    }
}
