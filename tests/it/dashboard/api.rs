//! What the dashboard asks the API for, and how its own files are served.

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::{Db, Files, SOON, Spec, Worker};

use super::ground::FAILS;

const SHAPES: &str = "name: shapes
input: {properties: {n: {type: integer}}}
steps:
  - {id: a, set: 1}
  - {id: b, needs: [a], set: 2}
  - {id: c, needs: [a], if: 'input.n > 0', set: 3}
  - {id: each, needs: [b, c], map: [1, 2, 3], tolerate: 3, steps: [{id: one, run: 'exit 4', retry: {max_attempts: 1}}]}
finally: [{id: close, set: done}]
";

struct Ground {
    db: Db,
    _files: Files,
    _worker: Worker,
    site: String,
    client: Client,
}

impl Ground {
    async fn new() -> Self {
        let (db, files) = (Db::new().await, Files::new([SHAPES, FAILS]));
        let mut worker = Spec::new(&db, &files).http().ready().await;
        let site = worker.site().await;
        // A second call fails harmlessly.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { db, _files: files, _worker: worker, site, client: Client::builder().no_proxy().build().unwrap() }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}/api/v1{path}", self.site)).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    async fn status(&self, path: &str) -> u16 {
        self.client.get(format!("{}/api/v1{path}", self.site)).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn runs_are_counted_by_how_they_went_and_failures_by_step_and_code() {
    let g = Ground::new().await;
    for _ in 0..3 {
        let run = g.db.enqueue("fails", "{}").await;
        g.db.reaches(&run, "failed", SOON).await;
    }
    let run = g.db.enqueue("shapes", r#"{"n": 0}"#).await;
    g.db.reaches(&run, "completed", SOON).await;
    let told = g.get("/analytics?span=1h").await;
    let of = |workflow: Value, key: &str| {
        let went = told["went"].as_array().unwrap();
        went.iter().find(|w| w["stretch"].is_null() && w["workflow"] == workflow).unwrap()[key].clone()
    };
    assert_eq!((of(json!(null), "runs"), of(json!(null), "failed")), (json!(4), json!(3)));
    assert_eq!((of(json!("shapes"), "completed"), of(json!("fails"), "completed")), (json!(1), json!(0)));
    assert!(of(json!("shapes"), "p95").is_number() && of(json!("fails"), "p95").is_null());
    let first = &told["failures"][0];
    assert_eq!(
        (&first["workflow"], &first["step"], &first["code"], &first["runs"]),
        (&json!("fails"), &json!("charge"), &json!("exit_3"), &json!(3))
    );
    assert_eq!(told["whole"], true);
    // Asked again at once, it is the same answer: a page that is open costs the database nothing more.
    let again = g.get("/analytics?span=1h").await;
    assert_eq!(again["to"], told["to"]);
    // Of a week it tells by days, from figures that outlive the runs.
    g.db.exec("SELECT stepd_engine.fold(1000)").await;
    let told = g.get("/analytics?span=7d").await;
    let all = |told: &Value| {
        let went = told["went"].as_array().unwrap().clone();
        went.into_iter().find(|w| w["stretch"].is_null() && w["workflow"].is_null()).unwrap()
    };
    assert_eq!((&all(&told)["runs"], &all(&told)["failed"], &told["whole"]), (&json!(4), &json!(3), &json!(true)));
    assert!(all(&told)["p50"].is_number() && told["failures"][0]["last"].is_string());
    assert_eq!((&told["failures"][0]["step"], &told["failures"][0]["runs"]), (&json!("charge"), &json!(3)));
    g.db.exec("SELECT stepd_engine.remove_runs(ARRAY(SELECT id FROM stepd_engine.ended))").await;
    let told = g.get("/analytics?span=30d").await;
    assert_eq!((&all(&told)["runs"], &told["failures"][0]["last"]), (&json!(4), &Value::Null), "the runs are gone");
    assert_eq!((g.status("/analytics?span=2h").await, g.status("/analytics?spam=1h").await), (400, 400));
}

#[tokio::test]
async fn a_definition_is_told_as_text_and_as_the_graph_of_its_steps() {
    let g = Ground::new().await;
    let run = g.db.enqueue("shapes", r#"{"n": 0}"#).await;
    g.db.reaches(&run, "completed", SOON).await;
    let present = g.get("/workflows/shapes/definition").await;
    assert_eq!(present, g.get(&format!("/runs/{run}/definition")).await);
    assert_eq!(present["text"], SHAPES);
    assert_eq!(present["input"]["properties"]["n"]["type"], "integer");
    let names: Vec<&str> = present["parts"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["steps", "finally"]);
    let each = &present["parts"][0]["steps"][3];
    assert_eq!((&each["kind"], &each["needs"]), (&json!("map"), &json!(["b", "c"])));
    assert_eq!(each["parts"][0]["steps"][0]["id"], "one");
    assert_eq!(present["parts"][0]["steps"][2]["conditional"], true);
    assert_eq!(g.status("/workflows/none/definition").await, 404);
    assert_eq!(g.status(&format!("/runs/{}/definition", uuid::Uuid::now_v7())).await, 404);
}

#[tokio::test]
async fn one_step_is_told_with_its_attempts_and_a_run_with_what_happened_beside_its_steps() {
    let g = Ground::new().await;
    let run = g.db.enqueue("fails", "{}").await;
    g.db.reaches(&run, "failed", SOON).await;
    let told = g.get(&format!("/runs/{run}/step?key=charge")).await;
    assert_eq!((&told["step"]["state"], told["attempts"].as_array().unwrap().len()), (&json!("failed"), 2));
    assert!(told["attempts"][0]["retry_in_ms"].is_number() && told["attempts"][1]["retry_in_ms"].is_null());
    let events = g.get(&format!("/runs/{run}/events")).await;
    let words: Vec<&str> = events["events"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(words, ["run enqueued", "run started", "attempt failed", "attempt failed", "run failed"]);
    assert_eq!(g.status(&format!("/runs/{run}/step?key=none")).await, 404);
    assert_eq!(g.status(&format!("/runs/{run}/step")).await, 400);
    assert_eq!(g.status(&format!("/runs/{run}/step?key=%00")).await, 422);
}

#[tokio::test]
async fn the_page_is_asked_for_anew_and_its_files_are_kept_for_ever() {
    let g = Ground::new().await;
    let get = async |path: &str, tag: Option<&str>| {
        let request = g.client.get(format!("{}{path}", g.site));
        tag.map_or(request.try_clone().unwrap(), |tag| request.header("If-None-Match", tag)).send().await.unwrap()
    };
    let page = get("/runs", None).await;
    let header = |answer: &reqwest::Response, name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header(&page, "cache-control").as_str(), header(&page, "content-type").as_str()),
        ("no-cache", "text/html; charset=utf-8")
    );
    let policy = header(&page, "content-security-policy");
    assert!(policy.starts_with("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let tag = header(&page, "etag");
    assert_eq!(get("/", Some(&tag)).await.status().as_u16(), 304);
    let text = page.text().await.unwrap();
    let script = text.split('"').find(|part| part.ends_with("/app.js")).unwrap();
    let file = get(script, None).await;
    assert!(header(&file, "cache-control").contains("immutable"));
    assert_eq!(header(&file, "content-type"), "text/javascript; charset=utf-8");
    // A page of another version, in the middle of an upgrade.
    let other = get("/assets/0123456789abcdef/app.js", None).await;
    assert_eq!((other.status().as_u16(), header(&other, "cache-control").as_str()), (200, "no-store"));
    assert_eq!(get("/assets/x/../../../Cargo.toml", None).await.status().as_u16(), 404);
    assert_eq!(get("/assets/x/%2e%2e%2f%2e%2e%2fmod.rs", None).await.status().as_u16(), 404);
}
