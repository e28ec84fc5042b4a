//! A daemon that serves the page and runs nothing, those that run, and a browser.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{Browser, Db, Files, Spec, Worker};

/// Kept until a file is there: killed in the middle, it goes on on another worker.
pub const STORY: &str = "name: story
input: {required: [n], properties: {n: {type: integer, description: How many}, note: {type: string}}}
steps:
  - {id: first, set: '${{ input.n }}'}
  - {id: slow, run: 'while [ ! -e @DIR@/go ]; do sleep 0.05; done; echo 42'}
  - id: parts
    map: ${{ range(30) | list }}
    as: part
    label: \"'part ' ~ part\"
    max_parallel: 10
    steps: [{id: twice, set: '${{ part * 2 }}'}]
  - {id: ok, approve: 'Ship ${{ input.n }}?'}
  - {id: last, set: '${{ input.n + 1 }}'}
";
pub const FAILS: &str = "name: fails
resume: never
steps: [{id: look, set: 1}, {id: charge, run: 'echo declined >&2; exit 3', retry: {max_attempts: 2, initial: 50ms}}]
";

pub struct Ground {
    pub db: Db,
    pub files: Files,
    pub page: Browser,
    pub site: String,
    pub server: Worker,
    /// Starts the server again, at the same place.
    pub spec: Spec,
}

fn tokens() -> String {
    let one = |(name, scope): (&str, &str)| {
        let hash: String = Sha256::digest(name.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        format!("[http_tokens.{name}]\nsha256 = \"{hash}\"\nscope = \"{scope}\"\n")
    };
    [("looker", "read"), ("app", "enqueue"), ("ops", "operate")].map(one).concat()
}

impl Ground {
    /// `None` where there is no browser.
    pub async fn new(workflows: &[&str]) -> Option<Self> {
        let page = Browser::start().await?;
        let (db, files) = (Db::new().await, Files::new(workflows));
        std::fs::write(files.path("stepd.toml"), tokens()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let spec = Spec::new(&db, &files)
            .env("STEPD_CONFIG", files.path("stepd.toml").display())
            .env("STEPD_QUEUES", "nothing")
            .env("STEPD_HTTP_LISTEN", format!("127.0.0.1:{port}"));
        let mut server = spec.ready().await;
        let site = server.site().await;
        page.at(&site);
        Some(Self { db, files, page, site, server, spec })
    }

    pub async fn worker(&self) -> Worker {
        Spec::new(&self.db, &self.files).ready().await
    }

    /// Signs in with a token, which is its own name.
    pub async fn sign_in(&self, token: &str) {
        self.page.press("Sign in").await;
        self.page.fill("dialog input[type=password]", token).await;
        self.page.key("Enter").await;
        self.page.until(&format!("document.querySelector('.who strong')?.innerText === {}", json!(token))).await;
    }

    /// Nothing was thrown, nothing refused by the policy, and nothing was asked for that is not the daemon's.
    pub fn is_clean(&self) {
        assert_eq!(self.page.wrong(), Vec::<String>::new());
        let foreign =
            |url: &String| !url.starts_with(&self.site) && !url.starts_with("about:") && !url.starts_with("data:");
        assert_eq!(self.page.asked().into_iter().filter(foreign).collect::<Vec<_>>(), Vec::<String>::new());
    }
}
