//! Servers of tools: programs under the real daemon, the check before a run, and servers that others have published.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use crate::cli::stepd_at;
use crate::support::outside::ToolServer;
use crate::support::{Db, Files, SOON, Spec, wait_until};

/// A server in a few lines of shell, with a child of its own.
const SCRIPT: &str = r#"
sleep 1000 & echo "$$ $!" >> @DIR@/pids; echo "the server is awake" >&2
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  case "$line" in
    *'"method":"server/discover"'*) say '{"supportedVersions":["2026-07-28"]}' ;;
    *'"method":"tools/list"'*) say '{"tools":[{"name":"token","inputSchema":{"type":"object","properties":{"n":{"type":"integer"}},"additionalProperties":false}}]}' ;;
    *'"name":"token"'*) say "{\"structuredContent\":{\"result\":\"$TOKEN\"}}" ;;
  esac
done
"#;

fn scripted(files: &Files) -> String {
    let path = files.path("server.sh");
    std::fs::write(&path, SCRIPT.replace("@DIR@", &files.path("").display().to_string())).unwrap();
    format!(
        "[mcp.own]\ncommand = \"sh\"\nargs = [\"{}\"]\n[mcp.own.env]\nTOKEN = \"${{{{ secrets.token }}}}\"\n[secrets]\ntoken = \"geheim\"\n",
        path.display()
    )
}

fn configured(db: &Db, files: &Files, text: &str) -> Spec {
    std::fs::write(files.path("stepd.toml"), text).unwrap();
    Spec::new(db, files).arg("--config").arg(&files.path("stepd.toml").display().to_string())
}

fn pids(files: &Files) -> Vec<i32> {
    files.lines("pids").iter().flat_map(|line| line.split(' ')).map(|pid| pid.parse().unwrap()).collect()
}

fn alive(pid: i32) -> bool {
    stepd::os::proc::stat(pid).is_some_and(|s| !s.is_zombie())
}

#[tokio::test]
async fn a_server_s_program_ends_with_its_daemon_however_that_ends() {
    let call = "name: call\nresume: never\nsteps: [{id: t, mcp: own.token}]\noutput: steps.t.output\n";
    for killed in [false, true] {
        let (db, files) = (Db::new().await, Files::new([call]));
        let spec = configured(&db, &files, &scripted(&files)).env("STEPD_LOG_LEVEL", "info,stepd::stderr=debug");
        let mut worker = spec.ready().await;
        for _ in 0..2 {
            let run = db.enqueue("call", "{}").await;
            db.reaches(&run, "completed", SOON).await;
            assert_eq!(db.output(&run).await, "\"***\"", "the secret has reached the program, and stays hidden");
        }
        let pids = pids(&files);
        assert_eq!(pids.len(), 2, "one server, and its child");
        worker.logs("the server is awake").await;
        if killed {
            worker.kill9();
        } else {
            assert_eq!(worker.drain(SOON).await, Some(0));
        }
        wait_until("nothing of it is left", SOON, async || !pids.iter().any(|pid| alive(*pid))).await;
    }
}

#[tokio::test]
async fn a_check_online_says_which_tools_models_and_arguments_do_not_fit() {
    let good = "name: good\nsteps:\n  - {id: a, mcp: own.token, args: {n: 1}}\n  - {id: b, mcp: far.get, args: {key: \"${{ run.id }}\"}}\n";
    let bad = "name: bad\nsteps:\n  - {id: a, mcp: own.tokn}\n  - {id: b, mcp: own.token, args: {n: x, m: \"${{ run.id }}\"}}\n  - {id: c, mcp: nowhere.get}\n  - {id: d, agent: large, prompt: x, tools: [far.remove]}\n";
    let files = Files::new([good, bad]);
    let far = ToolServer::start(&["get"], &[], |_, _| Ok(Value::Null)).await;
    let text = far.section("far") + &scripted(&files);
    std::fs::write(files.path("stepd.toml"), text).unwrap();
    let (config, folder) = (files.path("stepd.toml"), files.workflows());
    let check = move |file: &str| {
        let file = folder.join(file).display().to_string();
        stepd_at(None, &["check", "--online", "--config", &config.display().to_string(), &file])
    };
    let (good, bad) = tokio::task::spawn_blocking(move || (check("w0.yaml"), check("w1.yaml"))).await.unwrap();
    assert_eq!(good.is(0).err, "");
    let bad = bad.is(1);
    let told: Vec<&str> = bad.err.lines().map(|l| l.split_once("w1.yaml:").unwrap().1).collect();
    let expected = [
        "3: step `a`: the server `own` has no tool `tokn`; did you mean `own.token`?",
        "4: step `b`: `args` do not fit `own.token`: /n: it is not of type \"integer\"",
        "4: step `b`: `args` do not fit `own.token`: there is no property \"m\"",
        "5: step `c`: this worker's configuration has no MCP server `nowhere` (it has far, own): add [mcp.nowhere] with a command or a url",
        "6: step `d`: the server `far` has no tool `remove`; it has: get",
        "6: step `d`: the configuration has no model `large`; add [models.large]",
    ];
    assert_eq!(told, expected, "{}", bad.err);
    wait_until("the check leaves no program behind", SOON, async || !pids(&files).iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_document_of_afu9_is_checked_online_as_far_as_its_placeholders_allow() {
    let files = Files::new::<&str>([]);
    let document = json!({"name": "doc", "steps": [
        {"name": "good", "tool": "far.get", "params": {"key": "${input.key}"}},
        {"name": "bad", "tool": "far.get", "params": {"key": 5}},
        {"name": "none", "tool": "far.gett", "params": {}},
        {"name": "elsewhere", "tool": "near.get", "params": {}},
    ]});
    files.write("doc.json", &serde_json::to_string_pretty(&document).unwrap());
    let far = ToolServer::start(&["get"], &[], |_, _| Ok(Value::Null)).await;
    std::fs::write(files.path("stepd.toml"), far.section("far")).unwrap();
    let paths = [files.path("stepd.toml"), files.workflows().join("doc.json")].map(|p| p.display().to_string());
    let done =
        tokio::task::spawn_blocking(move || stepd_at(None, &["check", "--online", "--config", &paths[0], &paths[1]]));
    let told = done.await.unwrap().is(1).err;
    let told: Vec<&str> = told.lines().filter_map(|l| l.split_once(": step ")).map(|(_, what)| what).collect();
    assert_eq!(
        told,
        [
            "`bad`: `args` do not fit `far.get`: /key: it is not of type \"string\"",
            "`none`: the server `far` has no tool `gett`; did you mean `far.get`?",
            "`elsewhere`: this worker's configuration has no MCP server `near` (it has far): add [mcp.near] with a command or a url",
        ]
    );
}

/// Where published servers are installed, once for all tests; `None`, said aloud, where that cannot be done.
fn published() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("published")
}

fn quiet(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Makes environments of Python, and fills them in seconds where pip takes twenty. From PyPI itself.
fn uv() -> Option<PathBuf> {
    static INSTALLED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let folder = published().join("uv");
        let (python, uv) = (folder.join("bin/python"), folder.join("bin/uv"));
        let here = uv.exists()
            || quiet(Command::new("python3").args(["-m", "venv"]).arg(&folder))
                && quiet(Command::new("timeout").arg("240").arg(&python).args(["-m", "pip", "install", "-q", "uv"]));
        here.then_some(uv)
    };
    INSTALLED.get_or_init(install).clone()
}

/// A Python with packages of PyPI in it.
pub fn python(package: &'static str) -> Option<PathBuf> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap();
    let folder = published().join(package.replace(['=', '>', '<', ','], "_"));
    let python = folder.join("bin/python");
    // Its programs know where they were installed: one that has been moved here is made anew.
    let (mark, here) = (folder.join("installed"), folder.display().to_string());
    if std::fs::read_to_string(&mark).ok().as_ref() != Some(&here) {
        let _ = std::fs::remove_dir_all(&folder);
        let made = uv().is_some_and(|uv| {
            let run = |arguments: &[&str], python: &Path, last: &std::ffi::OsStr| {
                let mut command = Command::new("timeout");
                // Nothing of its own outside, and the Python that is here.
                command.env("UV_CACHE_DIR", published().join("uv-cache")).env("UV_PYTHON_DOWNLOADS", "never");
                quiet(command.arg("240").arg(&uv).args(arguments).arg("--python").arg(python).arg(last))
            };
            run(&["venv", "--no-project"], &uv.with_file_name("python"), folder.as_os_str())
                && run(&["pip", "install"], &python, package.as_ref())
        });
        if !made {
            eprintln!("SKIPPED: {package} cannot be installed from PyPI here");
            return None;
        }
        std::fs::write(mark, here).unwrap();
    }
    Some(python)
}

/// The server that the authors of the protocol publish for tests, from npm.
fn everything() -> Option<PathBuf> {
    static INSTALLED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let folder = published().join("npm");
        let script = folder.join("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
        if !script.exists() {
            std::fs::create_dir_all(&folder).unwrap();
            let mut npm = Command::new("timeout");
            npm.args(["240", "npm", "install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder);
            if !quiet(npm.arg("@modelcontextprotocol/server-everything")) || !script.exists() {
                eprintln!("SKIPPED: @modelcontextprotocol/server-everything cannot be installed from npm here");
                return None;
            }
        }
        Some(script)
    };
    INSTALLED.get_or_init(install).clone()
}

fn server(path: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/published").join(path).display().to_string()
}

/// Runs a workflow's steps against a configuration without a database: the output of `stepd run --ephemeral`.
async fn tried(files: &Files, config: &str) -> Value {
    std::fs::write(files.path("stepd.toml"), config).unwrap();
    let (config, file) = (files.path("stepd.toml"), files.workflows().join("w0.yaml"));
    let text = |path: PathBuf| path.display().to_string();
    let done = tokio::task::spawn_blocking(move || {
        stepd_at(None, &["run", "--ephemeral", "--config", &text(config), &text(file)])
    });
    let done = done.await.unwrap().is(0);
    serde_json::from_str(&done.line()).unwrap()
}

/// What is asked of every Python server: objects, wrapped values, errors, unknown tools, wrong arguments, progress.
const ASKED: &str = "
name: ask
resume: never
retry: {max_attempts: 1}
steps:
  - {id: add, mcp: own.add, args: {a: 1, b: 2}}
  - {id: words, mcp: own.words, args: {text: 'a b c'}}
  - {id: nothing, mcp: own.nothing}
  - {id: slow, mcp: own.slow, args: {seconds: 10}}
  - {id: boom, mcp: own.boom, on_error: continue}
  - {id: none, mcp: own.ad, on_error: continue}
  - {id: wrong, mcp: own.add, args: {a: x}, on_error: continue}
output:
  \"{'add': steps.add.output, 'words': steps.words.output, 'nothing': steps.nothing.output, 'slow': steps.slow.output,
  'boom': steps.boom.error.code, 'none': steps.none.error.code, 'wrong': steps.wrong.error.code}\"
";

fn answered() -> Value {
    json!({"add": {"total": 3}, "words": ["a", "b", "c"], "nothing": null, "slow": "done", "boom": "tool_error",
        "none": "unknown_tool", "wrong": "tool_error"})
}

async fn python_server(package: &'static str, script: &str, modern: bool) {
    let Some(python) = tokio::task::spawn_blocking(move || python(package)).await.unwrap() else { return };
    let files = Files::new([ASKED]);
    let (python, script) = (python.display().to_string(), server(script));
    // Less silence is allowed than the slow tool takes, and it reports its progress.
    let heard = files.path("heard");
    let stdio = format!(
        "[mcp.own]\ncommand = \"sh\"\nargs = [\"-c\", \"tee {} | exec {python} {script}\"]\nidle_seconds = 8\n",
        heard.display()
    );
    assert_eq!(tried(&files, &stdio).await, answered(), "{package} over pipes");
    let begun = files.lines("heard").iter().any(|line| line.contains("\"method\":\"initialize\""));
    assert_eq!(begun, !modern, "the era of {package}");
    let port = free_port();
    let _serving = Serving::start(Command::new(&python).args([&script, &port.to_string()]), port).await;
    let http = format!("[mcp.own]\nurl = \"http://127.0.0.1:{port}/mcp\"\nidle_seconds = 8\n");
    assert_eq!(tried(&files, &http).await, answered(), "{package} over HTTP");
}

/// A published server that listens; it ends with this.
struct Serving(std::process::Child);

impl Serving {
    async fn start(command: &mut Command, port: u16) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let serving = Self(quiet.spawn().unwrap());
        wait_until("it listens", SOON * 4, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn servers_of_the_python_sdk_are_called_in_the_modern_era() {
    python_server("mcp>=2,<3", "sdk.py", true).await;
}

#[tokio::test]
async fn servers_of_fastmcp_are_called() {
    python_server("fastmcp>=4,<5", "fast.py", true).await;
}

#[tokio::test]
async fn servers_of_the_older_python_sdk_are_called_in_the_older_era() {
    python_server("mcp>=1.20,<2", "older.py", false).await;
}

#[tokio::test]
async fn the_server_that_the_protocol_s_authors_publish_is_called() {
    let Some(script) = tokio::task::spawn_blocking(everything).await.unwrap() else { return };
    let files = Files::new([
        "name: ask\nresume: never\nsteps:\n  - {id: echo, mcp: own.echo, args: {message: hi}}\n  - {id: sum, mcp: own.get-sum, args: {a: 2, b: 3}}\noutput: \"[steps.echo.output, steps.sum.output]\"\n",
    ]);
    let expected = json!(["Echo: hi", "The sum of 2 and 3 is 5."]);
    let port = free_port();
    let _serving =
        Serving::start(Command::new("node").arg(&script).arg("streamableHttp").env("PORT", port.to_string()), port)
            .await;
    let http = format!("[mcp.own]\nurl = \"http://127.0.0.1:{port}/mcp\"\n");
    assert_eq!(tried(&files, &http).await, expected, "over HTTP");
    let stdio = format!("[mcp.own]\ncommand = \"node\"\nargs = [\"{}\"]\n", script.display());
    assert_eq!(tried(&files, &stdio).await, expected, "over pipes");
    let check = "name: ask\nsteps: [{id: echo, mcp: own.eco, args: {message: hi}}]\n";
    assert!(online(&files, check).await.contains("did you mean `own.echo`?"));
}

async fn online(files: &Files, text: &str) -> String {
    files.write("w1.yaml", text);
    let path = |p: &Path| p.display().to_string();
    let (config, file) = (path(&files.path("stepd.toml")), path(&files.workflows().join("w1.yaml")));
    let done = tokio::task::spawn_blocking(move || stepd_at(None, &["check", "--online", "--config", &config, &file]));
    done.await.unwrap().is(1).err
}

#[tokio::test]
async fn a_published_server_that_is_another_process_when_it_is_answered_asks_nobody_twice() {
    let Some(python) = tokio::task::spawn_blocking(|| python("mcp>=2,<3")).await.unwrap() else { return };
    let call = "name: greet\nresume: never\nsteps: [{id: greet, mcp: own.greet}]\noutput: steps.greet.output\n";
    let (db, files) = (Db::new().await, Files::new([call]));
    let config = format!(
        "[mcp.own]\ncommand = \"sh\"\nargs = [\"-c\", \"tee -a {} | exec {} {}\"]\n",
        files.path("heard").display(),
        python.display(),
        server("asks.py")
    );
    let spec = configured(&db, &files, &config);
    let mut doomed = spec.ready().await;
    let run = db.enqueue("greet", "{}").await;
    db.step_reaches(&run, "greet.input[1]", "waiting", SOON).await;
    doomed.kill9();
    let answer = r#"{"name": "Ann", "age": 41}"#;
    let wrong = db.ask::<String>(&format!("SELECT stepd.approve('{run}', answer => '{{\"name\": \"Ann\"}}')")).await;
    assert!(wrong.unwrap_err().to_string().contains("\"age\" is missing"));
    db.exec(format!("SELECT stepd.approve('{run}', answer => '{answer}')")).await;
    let _heir = spec.ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "\"Hello Ann, 41\"");
    let asked = db.count(format!("SELECT count(*) FROM stepd.steps WHERE run = '{run}' AND kind = 'approve'")).await;
    assert_eq!(asked, 1);
    // To be asked; with the answer, sealed for another process; afresh; with the answer again.
    assert_eq!(files.lines("heard").iter().filter(|line| line.contains("\"tools/call\"")).count(), 4);
}

#[tokio::test]
async fn a_task_of_a_published_server_is_begun_once_whatever_becomes_of_the_daemon() {
    let Some(python) = tokio::task::spawn_blocking(|| python("fastmcp-tasks>=4,<5")).await.unwrap() else { return };
    let (db, files) = (Db::new().await, Files::new::<&str>([]));
    let calls = files.path("calls").display().to_string();
    files.write(
        "w0.yaml",
        &format!("name: long\nresume: never\nsteps: [{{id: t, mcp: own.long, args: {{seconds: 3, calls: \"{calls}\"}}}}]\noutput: steps.t.output\n"),
    );
    let port = free_port();
    let _serving = Serving::start(Command::new(&python).args([server("tasks.py"), port.to_string()]), port).await;
    let spec = configured(&db, &files, &format!("[mcp.own]\nurl = \"http://127.0.0.1:{port}/mcp\"\n"));
    let mut doomed = spec.ready().await;
    let run = db.enqueue("long", "{}").await;
    let kept =
        format!("SELECT count(*) FROM stepd_engine.checkpoints WHERE run = '{run}' AND decision LIKE '%\"task\":%'");
    wait_until("the task is on record", SOON, async || db.count(&kept).await == 1).await;
    doomed.kill9();
    let _heir = spec.ready().await;
    db.reaches(&run, "completed", SOON).await;
    assert_eq!(db.output(&run).await, "{\"worked\":3.0}");
    assert_eq!(files.lines("calls").len(), 1);
}
