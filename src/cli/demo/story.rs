//! The demo's story, chapter by chapter.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

use crate::db::{demo, migrate, runs};

use super::super::output::{columns, unicode};
use super::super::show::timeline::Story as Timeline;
use super::place::Place;
use super::proof::{self, Proof};
use super::screen::{Bar, Screen};
use super::workers::Worker;

const WORKFLOW: &str = include_str!("../../../examples/ship_orders.yaml");
/// Few enough to be over soon, enough to have a middle.
const ITEMS: i32 = 16;
/// In a database with other workers, a queue that only the demo's serve.
const QUEUE: &str = "stepd_demo";
/// The map's id in the workflow.
const MAP: &str = "orders";
/// Between two looks at the run.
const LOOK: Duration = Duration::from_millis(20);
/// No part of the story may take longer; a slow machine has its time, a broken one its message.
const PATIENCE: Duration = Duration::from_secs(40);

/// Columns of the timeline, where there is no terminal.
const WIDTH: usize = 110;

/// The kill and the resume.
struct Crash {
    /// SIGKILL.
    at: DateTime<Utc>,
    /// The first step's start on the other worker.
    resumed: DateTime<Utc>,
}

/// What has happened so far.
pub(super) struct Story<'a> {
    place: &'a Place,
    screen: &'a mut Screen,
    workers: Vec<Worker>,
    run: Uuid,
}

impl<'a> Story<'a> {
    /// From the empty database to the proof: true when it holds.
    pub(super) async fn tell(place: &'a Place, screen: &'a mut Screen) -> anyhow::Result<bool> {
        let mut story = Self { place, screen, workers: Vec::new(), run: Uuid::nil() };
        let told = story.chapters().await;
        if told.is_err() {
            for worker in &story.workers {
                eprintln!("worker {}, the end of its log:\n{}", worker.name, worker.said());
            }
        }
        told
    }

    async fn chapters(&mut self) -> anyhow::Result<bool> {
        self.database().await?;
        self.workflow()?;
        self.start_workers().await?;
        self.insert().await?;
        let (victim, killed_at) = self.until_the_kill().await?;
        let crash = self.resume(victim, killed_at).await?;
        self.approval().await?;
        self.prove(crash, self.workers[victim].name).await
    }

    async fn database(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut conn = self.place.db.connect("demo", &[]).await?;
        migrate::migrate(&mut conn).await?;
        demo::prepare(self.place.db.pool()).await?;
        let version = demo::version(self.place.db.pool()).await?;
        if let Some(server) = self.place.server() {
            let at = server.folder().display();
            self.screen.line(&format!("Postgres {version} from {}, in {at}", server.binaries().display()));
        } else {
            crate::db::definitions::exclusive_queue(self.place.db.pool(), QUEUE).await?;
            self.screen.line(&format!("Postgres {version}"));
        }
        self.screen.line(&format!(
            "stepd's schema, version {}, in {} ms; and an empty table stepd_demo.effects without any unique key",
            migrate::latest(),
            started.elapsed().as_millis()
        ));
        Ok(())
    }

    fn workflow(&mut self) -> anyhow::Result<()> {
        let path = self.place.folder.join("workflows/ship_orders.yaml");
        fs::create_dir(self.place.folder.join("workflows"))?;
        // Steps work in folders of their own, which are gone after them; the proof reads this file.
        let packed = self.place.folder.join("packed.txt");
        let text = WORKFLOW.replace("packed.txt", &format!("'{}'", packed.display()));
        fs::write(&path, text).context("cannot write the workflow file")?;
        // Workers read this one and not the machine's.
        fs::write(self.place.folder.join("stepd.toml"), "log_format = \"pretty\"\n")?;
        self.screen.chapter("Workflow", "workflows/ship_orders.yaml");
        let shown: Vec<&str> = WORKFLOW.lines().filter(|line| !line.starts_with('#')).collect();
        self.screen.quote(&shown.join("\n"));
        Ok(())
    }

    async fn start_workers(&mut self) -> anyhow::Result<()> {
        self.screen.chapter("Two workers", "stepd serve --workflows workflows");
        let queue = self.place.server().is_none().then_some(QUEUE);
        for name in ['A', 'B'] {
            self.workers.push(Worker::start(name, &self.place.folder, &self.place.url, queue)?);
        }
        let patience = Patience::new("the workers to register");
        loop {
            let live = demo::workers(self.place.db.pool()).await?;
            if self.workers.iter().all(|worker| live.contains(&worker.pid)) {
                break;
            }
            for worker in &mut self.workers {
                ensure!(!worker.ended(), "worker {} has ended at its start", worker.name);
            }
            patience.wait()?;
            tokio::time::sleep(LOOK).await;
        }
        let pids: Vec<String> = self.workers.iter().map(|w| format!("{} is process {}", w.name, w.pid)).collect();
        self.screen.line(&format!("worker {}", pids.join(", worker ")));
        Ok(())
    }

    async fn insert(&mut self) -> anyhow::Result<()> {
        self.screen.chapter("A job is a row", "in your application: inside its own transaction");
        let statement = if self.place.server().is_some() { demo::INSERT } else { demo::INSERT_QUEUE };
        self.screen.quote(statement);
        self.run = demo::insert(self.place.db.pool(), statement).await?;
        self.screen.line(&format!("run {}", self.run));
        Ok(())
    }

    /// Watches until the run is in the middle of its map, with a statement and a program in flight; then kills.
    async fn until_the_kill(&mut self) -> anyhow::Result<(usize, DateTime<Utc>)> {
        let db = self.place.db.pool();
        let mut bar = self.screen.bar(ITEMS.into());
        let patience = Patience::new("the middle of the map");
        loop {
            let now = demo::standing(db, self.run).await?;
            let name = self.name_of(now.holder);
            bar.show(now.packed, &progress(now.effects, name));
            let middle = now.packed >= i64::from(ITEMS) * 3 / 8;
            if let Some(victim) = self.workers.iter().position(|w| Some(w.pid) == now.holder)
                && middle
                && now.sql_in_flight > 0
                && now.run_in_flight > 0
            {
                // The clock first: what it says is at or before the kill, never after.
                let at = demo::clock(db).await?;
                self.workers[victim].kill()?;
                bar.leave(now.packed, &format!("packed, {} charged", now.effects));
                let Worker { name, pid, .. } = self.workers[victim];
                self.screen.chapter("kill -9", &format!("worker {name}, process {pid}, in the middle of the map"));
                return Ok((victim, at));
            }
            ensure!(now.packed < i64::from(ITEMS), "the map was over before its worker could be killed");
            patience.wait()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Watches the other worker take the run over and end the map.
    async fn resume(&mut self, victim: usize, killed_at: DateTime<Utc>) -> anyhow::Result<Crash> {
        let db = self.place.db.pool();
        let dead = Instant::now();
        let mut bar = self.screen.bar(ITEMS.into());
        let patience = Patience::new("the other worker to take the run over");
        let resumed = loop {
            let now = demo::standing(db, self.run).await?;
            let holder = now.holder.filter(|pid| *pid != self.workers[victim].pid);
            let whose = match self.name_of(holder) {
                None => format!("worker {} is dead, nobody has the run", self.workers[victim].name),
                Some(name) => format!("worker {name} has taken the run over"),
            };
            bar.show(now.packed, &whose);
            if let Some(began) = demo::first_effect_after(db, killed_at).await? {
                bar.leave(now.packed, &whose);
                break began;
            }
            self.alive(dead)?;
            patience.wait()?;
            tokio::time::sleep(LOOK).await;
        };
        let ms = (resumed - killed_at).num_milliseconds();
        self.screen
            .line(&format!("{ms} ms from SIGKILL to its first step; what was finished is answered from checkpoints"));
        let mut bar = self.screen.bar(ITEMS.into());
        self.until_the_question(&mut bar).await?;
        bar.leave(ITEMS.into(), &format!("packed, {ITEMS} charged"));
        Ok(Crash { at: killed_at, resumed })
    }

    async fn until_the_question(&self, bar: &mut Bar) -> anyhow::Result<()> {
        let patience = Patience::new("the run to ask for its approval");
        loop {
            let now = demo::standing(self.place.db.pool(), self.run).await?;
            bar.show(now.packed, &progress(now.effects, self.name_of(now.holder)));
            if now.state == "waiting" && now.question.is_some() {
                return Ok(());
            }
            ensure!(!ended(&now.state), "the run ended as {} before its approval", now.state);
            patience.wait()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn approval(&mut self) -> anyhow::Result<()> {
        let db = self.place.db.pool();
        self.screen.chapter("Approval", "the run waits for a person; no worker holds it meanwhile");
        self.screen.line(&format!("stepd.why: {}", demo::why(db, self.run).await?));
        let yes = if self.screen.interactive { ask().await } else { None };
        match yes {
            None => self.screen.line("nobody is at a terminal: the demo approves it itself"),
            Some(true) => {}
            Some(false) => self.screen.line("rejected: nothing will be shipped, and the run ends in order"),
        }
        let yes = yes.unwrap_or(true);
        self.screen.quote(&demo::answer_in_words(self.run, yes));
        demo::answer(db, self.run, yes).await?;
        let patience = Patience::new("the run to end");
        loop {
            let now = demo::standing(db, self.run).await?;
            if ended(&now.state) {
                self.screen.line(&format!("the run is {}", now.state));
                return Ok(());
            }
            patience.wait()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn prove(&mut self, crash: Crash, dead: char) -> anyhow::Result<bool> {
        let db = self.place.db.pool();
        let steps = demo::steps(db, self.run).await?;
        let packed = fs::read_to_string(self.place.folder.join("packed.txt")).unwrap_or_default();
        let starts = proof::read_starts(&packed);
        let proof = Proof {
            items: ITEMS.into(),
            dead,
            count: demo::count(db, ITEMS).await?,
            state: demo::standing(db, self.run).await?.state,
            interrupted: proof::ran_again(demo::interrupted(db, self.run).await?, MAP, &starts),
            repeated: proof::repeated(&steps, MAP, &starts),
            starts: starts.len(),
            unpacked: (1..=i64::from(ITEMS)).filter(|item| !starts.iter().any(|(i, _)| i == item)).count(),
            resume_ms: (crash.resumed - crash.at).num_milliseconds(),
        };
        self.timeline(&crash).await?;
        self.screen.part("Proof", "read from stepd_demo.effects, the programs' own file, and the run's records");
        for line in proof.lines() {
            self.screen.line(&line);
        }
        for worker in self.workers.drain(..) {
            worker.stop().await;
        }
        Ok(proof.holds())
    }

    /// As `stepd show --all` draws it, with the instant of the kill, which only the demo knows.
    async fn timeline(&self, crash: &Crash) -> anyhow::Result<()> {
        let db = self.place.db.pool();
        let run = runs::detail(db, self.run).await?.context("the run is gone")?;
        let steps = runs::steps(db, self.run, &runs::StepsWanted::default()).await?;
        let history = runs::history(db, self.run).await?;
        let story = Timeline { run: &run, steps: &steps, history: &history, items: true, killed: Some(crash.at) };
        self.screen.part("Timeline", "as stepd show --all draws it");
        for line in story.draw(columns().unwrap_or(WIDTH).saturating_sub(2), unicode()).lines() {
            self.screen.line(line);
        }
        Ok(())
    }

    fn name_of(&self, pid: Option<i32>) -> Option<char> {
        self.workers.iter().find(|w| Some(w.pid) == pid).map(|w| w.name)
    }

    /// The survivor must survive.
    fn alive(&mut self, since: Instant) -> anyhow::Result<()> {
        if self.workers.iter_mut().all(Worker::ended) {
            bail!("the other worker ended, too, {} ms after the kill", since.elapsed().as_millis());
        }
        Ok(())
    }
}

fn progress(charged: i64, worker: Option<char>) -> String {
    match worker {
        Some(name) => format!("packed, {charged} charged · on worker {name}"),
        None => format!("packed, {charged} charged"),
    }
}

fn ended(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "cancelled")
}

/// Enter or y: yes; n: no; the end of the input: nobody is there.
async fn ask() -> Option<bool> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        anstream::print!("  Approve? [Y/n] ");
        let _ = std::io::Write::flush(&mut std::io::stdout());
        let Some(line) = lines.next_line().await.ok().flatten() else {
            anstream::println!();
            return None;
        };
        match line.trim().to_lowercase().as_str() {
            "" | "y" | "yes" => return Some(true),
            "n" | "no" => return Some(false),
            _ => {}
        }
    }
}

/// A bounded wait.
struct Patience {
    what: &'static str,
    until: Instant,
}

impl Patience {
    fn new(what: &'static str) -> Self {
        Self { what, until: Instant::now() + PATIENCE }
    }

    fn wait(&self) -> anyhow::Result<()> {
        ensure!(Instant::now() < self.until, "waited {} s for {}", PATIENCE.as_secs(), self.what);
        Ok(())
    }
}
