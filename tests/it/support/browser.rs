//! A real browser without a window: Chromium, driven over its debugging protocol, as a person would (keys, clicks), and asked what it shows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stepd::os::pre_exec::{ChildSetup, before_exec};
use stepd::os::spawner::{self, Owned};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;

use super::{SOON, wait_until};

const NAMES: [&str; 5] =
    ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// What `.ci/browser` has unpacked for who is not root.
fn cached() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.map(|c| c.join("stepd/browser/chromium"))
}

fn binary() -> Option<PathBuf> {
    let said = std::env::var_os("STEPD_BROWSER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).flat_map(|dir| NAMES.map(|name| dir.join(name)));
    said.into_iter().chain(installed).chain(cached()).find(|p| p.is_file())
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A browser with one page. Dropping it ends it.
pub struct Browser {
    pid: i32,
    _dir: TempDir,
    _owned: Owned,
    out: mpsc::UnboundedSender<Message>,
    waiting: Waiting,
    wrong: Arc<Mutex<Vec<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
    next: AtomicU64,
    session: String,
    site: Mutex<String>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        if std::thread::panicking() {
            eprintln!("--- what the page complained about ---\n{}", self.wrong.lock().unwrap().join("\n"));
        }
    }
}

impl Browser {
    /// Starts it; `None`, said aloud, where there is none.
    pub async fn start() -> Option<Self> {
        let Some(binary) = binary() else {
            eprintln!(
                "SKIPPED: there is no Chromium here, so the dashboard was seen by no browser (.ci/browser installs one; or STEPD_BROWSER)"
            );
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-software-rasterizer",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
        ]);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-default-apps",
            "--mute-audio",
            "--renderer-process-limit=1",
            "--disable-site-isolation-trials",
        ]);
        command.args(["--lang=en-GB", "--force-color-profile=srgb", "--remote-debugging-port=0", "about:blank"]);
        command.arg(format!("--user-data-dir={}", dir.path().display()));
        command.env("TZ", "UTC").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        before_exec(&mut command, ChildSetup { parent_death: Some(Signal::SIGKILL), ..ChildSetup::default() });
        let (child, owned) = spawner::spawn(command).unwrap();
        let port = dir.path().join("DevToolsActivePort");
        wait_until("the browser listens", SOON, async || {
            std::fs::read_to_string(&port).is_ok_and(|t| t.lines().count() == 2)
        })
        .await;
        let text = std::fs::read_to_string(&port).unwrap();
        let (number, path) = text.trim().split_once('\n').unwrap();
        let (socket, _) = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{number}{path}")).await.unwrap();
        let (mut sink, mut source) = socket.split();
        let (out, mut queue) = mpsc::unbounded_channel::<Message>();
        tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        });
        let (waiting, wrong, asked) =
            (Waiting::default(), Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (w, x, a) = (waiting.clone(), wrong.clone(), asked.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = source.next().await {
                let Ok(text) = message.into_text() else { continue };
                let Ok(told) = serde_json::from_str::<Value>(&text) else { continue };
                match told["id"].as_u64() {
                    Some(id) => drop(w.lock().unwrap().remove(&id).map(|answer| answer.send(told))),
                    None => heard(&told, &x, &a),
                }
            }
        });
        let pid = i32::try_from(child.id()).unwrap();
        let mut browser = Self {
            pid,
            _dir: dir,
            _owned: owned,
            out,
            waiting,
            wrong,
            asked,
            next: AtomicU64::new(1),
            session: String::new(),
            site: Mutex::default(),
        };
        let target = browser.ask("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.ask("Target.attachToTarget", attach).await["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Runtime", "Page", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), json!({})).await;
        }
        browser.size(1440, 900).await;
        Some(browser)
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, tell);
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.out.send(Message::text(message.to_string())).unwrap();
        let answer = tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("{method}: no answer")).unwrap();
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Where the paths of [`Browser::open`] are.
    pub fn at(&self, site: &str) {
        *self.site.lock().unwrap() = site.to_owned();
    }

    /// Opens a path, as if it were typed.
    pub async fn open(&self, path: &str) {
        let site = self.site.lock().unwrap().clone();
        self.ask("Page.navigate", json!({"url": format!("{site}{path}")})).await;
        self.until("document.querySelector('main h1, dialog h2') !== null").await;
    }

    /// The value of an expression in the page.
    pub async fn eval(&self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.ask("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub async fn until(&self, expression: &str) {
        let wrapped = format!("(() => {{ try {{ return !!({expression}); }} catch {{ return false; }} }})()");
        let began = std::time::Instant::now();
        while self.eval(&wrapped).await != json!(true) {
            if began.elapsed() > SOON {
                let text = self.eval("document.body.innerText").await;
                panic!("after {SOON:?} still not: {expression}\n{}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(80)).await;
        }
    }

    /// Waits until a text is seen.
    pub async fn sees(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Is a text seen now?
    pub async fn shows(&self, text: &str) -> bool {
        self.eval(&format!("document.body.innerText.includes({})", json!(text))).await == json!(true)
    }

    /// Presses a key: `a`, `?`, `Enter`, `Escape`, `Tab`, `ArrowDown`.
    pub async fn key(&self, key: &str) {
        let text = match key {
            "Enter" => "\r",
            one if one.chars().count() == 1 => one,
            _ => "",
        };
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            " " => 32,
            "ArrowDown" => 40,
            "ArrowRight" => 39,
            _ => 0,
        };
        let down = json!({"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": code});
        self.ask("Input.dispatchKeyEvent", down).await;
        self.ask("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code})).await;
    }

    /// Types into what has the focus.
    pub async fn types(&self, text: &str) {
        self.ask("Input.insertText", json!({"text": text})).await;
    }

    /// Clicks where the element is that a selector names, once it is there and may be used.
    pub async fn click(&self, selector: &str) {
        self.click_on(&format!("document.querySelector({})", json!(selector)), selector).await;
    }

    /// Clicks the button, link or tab with this name.
    pub async fn press(&self, name: &str) {
        let find = format!(
            "[...(document.querySelector('dialog[open]') ?? document).querySelectorAll('button, a[href], summary')].find(e => e.checkVisibility() && (e.innerText.trim() === {0} || e.getAttribute('aria-label') === {0}))",
            json!(name)
        );
        self.click_on(&find, name).await;
    }

    async fn click_on(&self, find: &str, what: &str) {
        self.until(&format!("{find} && !{find}.disabled")).await;
        // Where it has stood still for a moment: what comes and goes around it moves it.
        let middle = format!(
            "(async () => {{
                let was = null;
                for (let n = 0; n < 200; n++) {{
                    const e = {find};
                    e?.scrollIntoView({{block: 'center'}});
                    const r = e?.getBoundingClientRect();
                    const is = r && [r.x + r.width / 2, r.y + r.height / 2];
                    if (is && was?.e === e && was.is.join() === is.join()) return is;
                    was = is && {{e, is}};
                    await new Promise(next => setTimeout(next, 25));
                }}
                return [];
            }})()"
        );
        let place = self.eval(&middle).await;
        assert!(place[0].is_number(), "{what} does not stand still");
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Puts a text into a field, in place of what was there.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.until(&format!("document.querySelector({})", json!(selector))).await;
        self.eval(&format!("(e => {{ e.focus(); e.select?.(); }})(document.querySelector({}))", json!(selector))).await;
        self.types(text).await;
    }

    /// The window's size.
    pub async fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// `dark` or `light`, as the system would say.
    pub async fn theme(&self, theme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.ask("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Cuts the network, or mends it.
    pub async fn offline(&self, is: bool) {
        let how = json!({"offline": is, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.ask("Network.emulateNetworkConditions", how).await;
    }

    /// A picture of the window.
    pub async fn picture(&self, file: &Path) {
        let shot = self.ask("Page.captureScreenshot", json!({"format": "png"})).await;
        std::fs::write(file, unbase64(shot["data"].as_str().unwrap())).unwrap();
    }

    /// Exceptions of scripts, and what the page's policy has refused.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Every address that has been asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn heard(told: &Value, wrong: &Mutex<Vec<String>>, asked: &Mutex<Vec<String>>) {
    let params = &told["params"];
    match told["method"].as_str().unwrap_or_default() {
        "Runtime.exceptionThrown" => wrong.lock().unwrap().push(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if params["type"] == "error" => {
            wrong.lock().unwrap().push(params["args"].to_string())
        }
        "Log.entryAdded" if params["entry"]["source"] == "security" => {
            wrong.lock().unwrap().push(params["entry"].to_string())
        }
        "Page.javascriptDialogOpening" => wrong.lock().unwrap().push(format!("a dialog: {params}")),
        "Network.requestWillBeSent" => {
            asked.lock().unwrap().push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
        }
        _ => {}
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut n) = (Vec::new(), 0_u32, 0);
    for c in text.bytes().filter_map(|b| ALPHABET.iter().position(|a| *a == b)) {
        bits = bits << 6 | u32::try_from(c).unwrap();
        n += 6;
        if n >= 8 {
            n -= 8;
            bytes.push(u8::try_from(bits >> n & 0xff).unwrap());
        }
    }
    bytes
}
