//! `index_documents`, with programs that speak MCP for the store and the PDFs; to its end, and killed in each step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ground::Ground;
use crate::cli::stepd;
use crate::support::outside::{ModelServer, says};
use crate::support::{SOON, wait_until};

/// Both tools in one program. A prefix `many` has twenty documents, any other two. While a file `hold-KEY` is there, the call for that key
/// does not answer.
const SERVER: &str = r#"
answer() {
  id=$(printf '%s' "$1" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  key=$(printf '%s' "$1" | sed -n 's/.*"arguments":{"[a-z]*":"\([^"]*\)".*/\1/p')
  say() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  tool() { printf '{"name":"%s","inputSchema":{"type":"object"}}' "$1"; }
  case "$1" in
    *'"method":"server/discover"'*) say '{"supportedVersions":["2026-07-28"]}' ;;
    *'"method":"tools/list"'*) say "{\"tools\":[$(tool list_objects),$(tool extract_text)]}" ;;
    *'"method":"tools/call"'*)
      echo "$key $(printf '%s' "$1" | sed -n 's|.*idempotencyKey":"[^/]*/\([^"]*\)".*|\1|p')" >> @DIR@/called
      while test -e "@DIR@/hold-$key"; do sleep 0.05; done
      case "$1" in
        *'"name":"list_objects"'*)
          test "$key" = many && last=19 || last=1
          objects=$(seq 0 $last | sed "s/.*/{\"key\":\"$key-&\"}/" | paste -sd, -)
          say "{\"structuredContent\":{\"objects\":[$objects]},\"content\":[]}" ;;
        *) say "{\"structuredContent\":{\"text\":\"the text of $key\"},\"content\":[]}" ;;
      esac ;;
  esac
}
while IFS= read -r line; do answer "$line" & done
"#;

pub struct Index {
    pub ground: Ground,
    model: ModelServer,
    stuck: Arc<AtomicBool>,
}

impl Index {
    /// The model reads `many-7` never, and `facts-1` not before it is let go.
    pub async fn new() -> Self {
        let ground = Ground::new().await;
        ground.program("tools", SERVER);
        let stuck = Arc::new(AtomicBool::new(true));
        let model = ModelServer::start({
            let stuck = stuck.clone();
            move |request, _| {
                let asked = request["messages"][0]["content"].as_str().unwrap();
                if asked.ends_with("many-7\n") {
                    return wiremock::ResponseTemplate::new(400);
                }
                let slow = asked.ends_with("facts-1\n") && stuck.load(Ordering::SeqCst);
                let pause = Duration::from_secs(if slow { 300 } else { 0 });
                says(r#"{"parties": ["Ann"], "dates": []}"#).set_delay(pause)
            }
        })
        .await;
        let tools = ground.files.path("bin").join("tools").display().to_string();
        let server = |name: &str| format!("[mcp.{name}]\ncommand = \"{tools}\"\n");
        ground.configure(&[server("store"), server("pdf"), model.section("extractor")].concat());
        Self { ground, model, stuck }
    }

    pub async fn start(&self, prefix: &str) -> String {
        self.ground.db.enqueue("index_documents", &format!(r#"{{"prefix": "{prefix}"}}"#)).await
    }

    /// How often the tool was called for this.
    pub fn called(&self, line: &str) -> usize {
        self.ground.files.lines("called").iter().filter(|l| *l == line).count()
    }

    /// How often the model was asked about a document.
    pub fn read(&self, doc: &str) -> usize {
        let about =
            |r: &serde_json::Value| r["messages"][0]["content"].as_str().unwrap().ends_with(&format!("{doc}\n"));
        self.model.heard().iter().filter(|r| about(r)).count()
    }

    fn hold(&self, key: &str) {
        std::fs::write(self.ground.files.path(&format!("hold-{key}")), "").unwrap();
    }

    fn let_go(&self, key: &str) {
        std::fs::remove_file(self.ground.files.path(&format!("hold-{key}"))).unwrap();
    }
}

#[tokio::test]
async fn killed_in_each_step_of_it_documents_are_indexed_and_none_is_read_or_saved_twice() {
    let index = Index::new().await;
    let g = &index.ground;
    let mut worker = g.worker().await;
    index.hold("list");
    index.hold("text-1");
    let [list, text, facts, many] =
        [index.start("list").await, index.start("text").await, index.start("facts").await, index.start("many").await];
    g.db.step_reaches(&list, "list", "running", SOON).await;
    g.db.step_reaches(&text, "docs[1].text", "running", SOON).await;
    g.db.step_reaches(&text, "docs[0].save", "completed", SOON).await;
    g.db.step_reaches(&facts, "docs[1].facts", "running", SOON).await;
    g.db.step_reaches(&facts, "docs[0].save", "completed", SOON).await;
    g.db.step_reaches(&many, "review", "waiting", SOON).await;
    let lock = g.lock("app.facts").await;
    let save = index.start("save").await;
    for key in ["docs[0].save", "docs[1].save"] {
        g.db.step_reaches(&save, key, "running", SOON).await;
    }
    wait_until("the model is asked", SOON, async || index.read("facts-1") == 1).await;
    worker.kill9();
    drop(lock);
    index.let_go("list");
    index.let_go("text-1");
    index.stuck.store(false, Ordering::SeqCst);
    let _heir = g.worker().await;
    for run in [&list, &text, &facts, &save] {
        g.db.reaches(run, "completed", SOON).await;
    }
    let why: String = g.db.one(format!("SELECT stepd.why('{many}')")).await;
    assert!(why.contains("1 of 20 failed. Publish anyway?"), "{why}");
    stepd(&g.db, &["approve", &many]).await.is(0);
    g.db.reaches(&many, "completed", SOON).await;

    for (prefix, count) in [("list", 2), ("text", 2), ("facts", 2), ("save", 2), ("many", 20)] {
        let twice = |interrupted: bool| if interrupted { 2 } else { 1 };
        assert_eq!(index.called(&format!("{prefix} list")), twice(prefix == "list"), "{prefix}");
        for n in 0..count {
            let doc = format!("{prefix}-{n}");
            assert_eq!(index.called(&format!("{doc} docs[{n}].text")), twice(doc == "text-1"), "{doc}");
            assert_eq!(index.read(&doc), twice(doc == "facts-1"), "{doc}");
            assert_eq!(g.written(&format!("doc {doc}")).await, i64::from(doc != "many-7"), "{doc}");
        }
    }
    assert_eq!(
        g.db.count("SELECT count(*) FROM app.facts WHERE facts = '{\"parties\": [\"Ann\"], \"dates\": []}'").await,
        27
    );
    // An answer is paid once, wherever the worker died.
    for (run, tokens) in [(&list, 200), (&text, 200), (&facts, 200), (&save, 200), (&many, 1900)] {
        assert_eq!(g.db.one::<i64>(format!("SELECT tokens_in FROM stepd.runs WHERE id = '{run}'")).await, tokens);
    }
}
