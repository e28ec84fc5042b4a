//! A real Prometheus that scrapes daemons, and its promtool.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Client;
use serde_json::Value;
use stepd::os::pre_exec::{ChildSetup, before_exec};
use stepd::os::spawner::{self, Owned};
use tempfile::TempDir;

use super::{SOON, wait_until};

/// The folder of `prometheus` and `promtool`; `None`, said aloud, where there is none.
pub fn programs() -> Option<PathBuf> {
    let said = std::env::var_os("STEPD_PROMETHEUS_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    // What `.ci/prometheus` has unpacked.
    let cached = cache.map(|c| c.join("stepd/prometheus/root/usr/bin"));
    let mut all = said.into_iter().chain(std::env::split_paths(&path)).chain(cached);
    let found = all.find(|dir| dir.join("prometheus").is_file() && dir.join("promtool").is_file());
    if found.is_none() {
        eprintln!(
            "SKIPPED: there is no Prometheus here, so metrics, dashboard and alerts were seen by none (.ci/prometheus unpacks one; or STEPD_PROMETHEUS_BIN)"
        );
    }
    found
}

/// Runs promtool in a folder, with something on its standard input; it must be content.
pub fn promtool(programs: &Path, folder: &Path, args: &[&str], input: &str) -> String {
    let given = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(given.path(), input).unwrap();
    let mut command = Command::new(programs.join("promtool"));
    command.args(args).current_dir(folder).stdin(given.reopen().unwrap());
    let done = command.output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "promtool {args:?}:\n{told}");
    told
}

/// A Prometheus. Dropping it ends it.
pub struct Prometheus {
    child: Child,
    _owned: Owned,
    dir: TempDir,
    site: String,
    client: Client,
}

impl Prometheus {
    /// Starts one that scrapes these addresses (`host:port`) as the job `stepd`, twice a second, under these rules.
    pub async fn start(programs: &Path, targets: &[&str], rules: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\nscrape_configs:\n- {{job_name: stepd, scrape_timeout: 500ms, static_configs: [{{targets: {targets:?}}}]}}\n"
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        // Taken, and let go: nobody else takes it in this moment, as a rule; if somebody does, Prometheus says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(programs.join("prometheus"));
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data").arg("--log.level=warn");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        before_exec(&mut command, ChildSetup { parent_death: Some(Signal::SIGKILL), ..ChildSetup::default() });
        let (child, owned) = spawner::spawn(command).unwrap();
        // A second call fails harmlessly.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let mut one = Self { child, _owned: owned, dir, site: format!("http://127.0.0.1:{port}"), client };
        wait_until("Prometheus is ready", SOON, async || {
            assert!(one.child.try_wait().unwrap().is_none(), "Prometheus has ended:\n{}", one.log());
            let asked = one.client.get(format!("{}/-/ready", one.site)).timeout(Duration::from_secs(2)).send().await;
            asked.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        one
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The series that a query gives now.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let form = serde_urlencoded::to_string([("query", query)]).unwrap();
        let answer: Value =
            self.client.get(format!("{}/api/v1/query?{form}", self.site)).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// What Prometheus says at a path of its API.
    pub async fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}/api/v1/{path}", self.site)).send().await.unwrap().json().await.unwrap()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Prometheus ---\n{}", self.log());
        }
    }
}
