//! The walls of the HTTP server: sessions, other origins, guesses, what is too large, too slow, too much.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cli::stepd_at;
use crate::http::{ASKS, Ground, client, is_problem, spec};
use crate::support::{Db, Files, SOON, Spec, wait_until};

/// A browser that has given a token: its cookie.
async fn signed_in(g: &Ground, token: &str) -> String {
    let request = g.client.post(format!("{}/api/v1/session", g.site)).header("Origin", &g.site);
    let answer = request.json(&json!({"token": token})).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    // The token, which is its own name here, stands in it as the name.
    assert_eq!(cookie.matches(token).count(), 1, "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

async fn who(site: &str, cookie: &str) -> Value {
    let request = client(HeaderMap::new()).get(format!("{site}/api/v1/session")).header("Cookie", cookie);
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_token_becomes_a_session_of_a_browser_that_acts_from_its_own_pages_alone() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&run, "waiting", SOON).await;
    assert_eq!(who(&g.site, "").await, json!({"name": null, "scope": "read", "expires_at": null}));
    let cookie = signed_in(&g, "ops").await;
    let told = who(&g.site, &cookie).await;
    assert_eq!((&told["name"], &told["scope"]), (&json!("ops"), &json!("operate")));
    assert!(told["expires_at"].is_string());
    let cancel =
        || g.client.post(format!("{}/api/v1/runs/{run}/cancel", g.site)).header("Cookie", &cookie).json(&json!({}));
    let secure = g.client.post(format!("{}/api/v1/session", g.site)).header("X-Forwarded-Proto", "https");
    let secure = secure.json(&json!({"token": "ops"})).send().await.unwrap();
    assert!(secure.headers()["set-cookie"].to_str().unwrap().ends_with("; Secure"));
    is_problem(cancel().header("Origin", "http://evil.example").send().await.unwrap(), 403, "origin").await;
    is_problem(cancel().header("Origin", "null").send().await.unwrap(), 403, "origin").await;
    is_problem(cancel().header("Sec-Fetch-Site", "cross-site").send().await.unwrap(), 403, "origin").await;
    is_problem(cancel().header("Sec-Fetch-Site", "same-site").send().await.unwrap(), 403, "origin").await;
    is_problem(cancel().send().await.unwrap(), 403, "Sec-Fetch-Site").await;
    // A form of another page has no JSON to send.
    let form = g.client.post(format!("{}/api/v1/runs/{run}/cancel", g.site)).header("Cookie", &cookie);
    let form = form.header("Origin", &g.site).header("Content-Type", "text/plain").body("{}");
    is_problem(form.send().await.unwrap(), 415, "JSON").await;
    assert_eq!(g.db.state(&run).await, "waiting");
    assert!(cancel().header("Origin", &g.site).send().await.unwrap().status().is_success());
    let by: String =
        g.db.one(format!("SELECT by_whom FROM stepd.history WHERE run = '{run}' AND event = 'cancelled'")).await;
    assert!(by.ends_with("/ops"), "{by}");
    let out = g.client.delete(format!("{}/api/v1/session", g.site)).header("Cookie", &cookie).header("Origin", &g.site);
    assert!(out.send().await.unwrap().headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn a_session_is_known_to_every_daemon_and_ends_with_its_token() {
    let mut g = Ground::new().await;
    let cookie = signed_in(&g, "app").await;
    let mut other = spec(&g.db, &g.files).ready().await;
    assert_eq!(who(&other.site().await, &cookie).await["name"], "app");
    let forged = cookie.replace("app.", "ops.");
    assert_eq!(who(&g.site, &forged).await["name"], Value::Null);
    let file = std::fs::read_to_string(g.files.path("stepd.toml")).unwrap();
    std::fs::write(g.files.path("stepd.toml"), file.replace("[http_tokens.app]", "[http_tokens.apps]")).unwrap();
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    assert_eq!(who(&g.site, &cookie).await["name"], Value::Null);
    // The token itself goes on, under its new name.
    assert_eq!(who(&g.site, &signed_in(&g, "app").await).await["name"], "apps");
}

#[tokio::test]
async fn a_reload_that_would_open_the_server_to_everybody_changes_nothing() {
    let mut g = Ground::new().await;
    std::fs::write(g.files.path("stepd.toml"), "[http_tokens.ops]\nsha256 = \"short\"\nscope = \"operate\"\n").unwrap();
    g.worker.hup();
    g.worker.logs("reload failed").await;
    assert!(g.worker.log().contains("http_tokens.ops: it needs sha256"), "{}", g.worker.log());
    assert_eq!(who(&g.site, &signed_in(&g, "ops").await).await["name"], "ops");
}

#[tokio::test]
async fn who_guesses_tokens_is_turned_away_and_keeps_nobody_out_who_has_one() {
    let g = Ground::new().await;
    for _ in 0..10 {
        is_problem(g.post("guessed", "/runs", json!({})).await, 401, "not known").await;
    }
    is_problem(g.post("guessed", "/runs", json!({})).await, 429, "too many").await;
    let session = async |token: &str| {
        g.client.post(format!("{}/api/v1/session", g.site)).json(&json!({"token": token})).send().await.unwrap()
    };
    is_problem(session("guessed").await, 429, "too many").await;
    // From the same address, perhaps a proxy's.
    assert_eq!(who(&g.site, &signed_in(&g, "ops").await).await["name"], "ops");
    is_problem(session(&"x".repeat(5_000)).await, 413, "").await;
    // Behind the proxy of this machine somebody else is somebody else.
    let other = g.client.get(format!("{}/api/v1/runs", g.site)).header("X-Forwarded-For", "9.9.9.9").bearer_auth("ops");
    assert!(other.send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn every_answer_stands_behind_its_walls() {
    let g = Ground::new().await;
    for path in ["/api/v1/runs", "/healthz", "/api/v1/none", "/errors/SD001", "/api/v1/openapi.json"] {
        let answer = g.client.get(format!("{}{path}", g.site)).send().await.unwrap();
        let says = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(says("content-security-policy").starts_with("default-src 'self';"), "{path}");
        assert!(says("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!((says("x-content-type-options"), says("referrer-policy")), ("nosniff".into(), "no-referrer".into()));
        assert_eq!(says("cache-control"), "no-store", "{path}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_refusal_tells_programs_how_to_be_let_in_what_to_ask_and_when_to_come_again() {
    let g = Ground::new().await;
    let nobody = uuid::Uuid::now_v7();
    for path in ["/api/v1/runs".to_owned(), format!("/api/executions/{nobody}/pause")] {
        let bare = g.client.post(format!("{}{path}", g.site)).json(&json!({"workflow": "asks"})).send().await.unwrap();
        assert_eq!(
            (bare.status(), &bare.headers()["www-authenticate"]),
            (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap())
        );
    }
    // Before a word of its body is read.
    let place = g.site.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(place).await.unwrap();
    let head = "POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    let put = g.client.put(format!("{}/api/v1/runs", g.site)).send().await.unwrap();
    let allowed = put.headers()["allow"].to_str().unwrap().to_owned();
    assert!(put.status() == 405 && allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let plain = g.client.get(format!("{}/api/v1/runs/{run}/ws", g.site)).send().await.unwrap();
    assert_eq!((plain.status().as_u16(), &plain.headers()["upgrade"]), (426, &"websocket".parse().unwrap()));
    for _ in 0..10 {
        g.post("guessed", "/runs", json!({})).await;
    }
    let often = g.post("guessed", "/runs", json!({})).await;
    assert_eq!((often.status().as_u16(), &often.headers()["retry-after"]), (429, &"60".parse().unwrap()));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let g = Ground::new().await;
    let large = json!({"workflow": "asks", "input": {"n": 1, "x": "x".repeat(20 << 20)}});
    is_problem(g.post("app", "/runs", large).await, 413, "").await;
    // In pieces, without a length.
    let piece = || Ok::<_, std::io::Error>(vec![b' '; 1 << 20]);
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter((0..20).map(move |_| piece())));
    let request = g.client.post(format!("{}/api/v1/runs", g.site)).bearer_auth("app");
    let answer = request.header("Content-Type", "application/json").body(body).send().await;
    // It may hang up before all of it is sent.
    if let Ok(answer) = answer {
        is_problem(answer, 413, "").await;
    }
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 0);
    assert_eq!(g.get("/runs").await["runs"], json!([]));
}

#[tokio::test]
async fn paths_with_tricks_lead_nowhere() {
    let g = Ground::new().await;
    for path in [
        "/api/v1/runs/../../../etc/passwd",
        "/api/v1/%2e%2e/%2e%2e/etc/passwd",
        "//api/v1/runs",
        "/api/v1/runs/%00",
        "/errors/../config",
        "/errors/%3Cscript%3E",
        "/hooks/none",
    ] {
        // As it stands: a client would tidy it up.
        let answer =
            raw(&g.site, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(["400", "404", "405"].contains(&status.as_str()), "{path}: {answer}");
        assert!(!answer.contains("root:") && !answer.contains("text/html"), "{path}: {answer}");
    }
}

async fn raw(site: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(site.trim_start_matches("http://")).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn heads_that_are_endless_or_have_two_meanings_are_refused() {
    let g = Ground::new().await;
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "y".repeat(100 << 10));
    let two = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
    for head in [many.as_str(), &long, two, "Host: evil.example\r\n"] {
        let answer =
            raw(&g.site, &format!("POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\n{head}\r\n0\r\n\r\n")).await;
        assert!(
            answer.is_empty() || answer.split(' ').nth(1).is_some_and(|s| s.starts_with('4')),
            "{head:.80}: {answer}"
        );
    }
    assert_eq!(g.client.get(format!("{}/healthz", g.site)).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn who_sends_slowly_is_let_go_and_keeps_nobody_waiting() {
    let g = Ground::new().await;
    let place = g.site.trim_start_matches("http://").to_owned();
    // More than there are places for: what comes then waits to be let in.
    let mut slow = Vec::new();
    for _ in 0..1_100 {
        let mut stream = TcpStream::connect(&place).await.unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX-").await;
        slow.push(stream);
    }
    // A head has a few seconds to come; then there is room.
    wait_until("others are served", SOON, async || {
        let answer = g.client.get(format!("{}/healthz", g.site)).timeout(Duration::from_secs(2)).send().await;
        answer.is_ok_and(|a| a.status() == StatusCode::OK)
    })
    .await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(SOON, slow[0].read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the first of them was let go");
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_can_read_that() {
    let g = Ground::new().await;
    let answer =
        g.client.get(format!("{}/api/v1/openapi.json", g.site)).header("Accept-Encoding", "gzip").send().await.unwrap();
    // The client of the tests takes the header away when it unpacks.
    let length = answer.headers().get("content-length").map(|l| l.to_str().unwrap().to_owned());
    assert_eq!(length, None);
    assert_eq!(answer.headers()["vary"], "accept-encoding");
}

#[tokio::test]
async fn an_error_leads_to_a_page_that_says_what_to_do() {
    let g = Ground::new().await;
    let nobody = uuid::Uuid::now_v7();
    let problem: Value = g.post("ops", &format!("/runs/{nobody}/cancel"), json!({})).await.json().await.unwrap();
    let place = problem["type"].as_str().unwrap();
    let page = |accept: &'static str| g.client.get(format!("{}{place}", g.site)).header("Accept", accept).send();
    let text = page("*/*").await.unwrap().text().await.unwrap();
    assert!(text.starts_with("# SD010: there is no such run") && text.contains("## What to do"), "{text}");
    let html = page("text/html").await.unwrap().text().await.unwrap();
    assert!(html.contains("<h1>SD010: there is no such run</h1>") && html.contains("<code>stepd ls</code>"), "{html}");
    let none = g.client.get(format!("{}/errors/SD999", g.site)).send().await.unwrap();
    is_problem(none, 404, "SD999").await;
}

#[tokio::test]
async fn a_new_token_is_shown_once_and_its_lines_let_it_in() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    let made = stepd_at(None, &["token", "new-one", "--scope", "enqueue"]);
    let (lines, told) = (made.out, made.err);
    let token = told.split_whitespace().find(|w| w.starts_with("stepd_")).unwrap();
    assert!(token.len() > 60 && !lines.contains(token), "{lines}");
    std::fs::write(files.path("stepd.toml"), lines).unwrap();
    let mut worker =
        Spec::new(&db, &files).http().env("STEPD_CONFIG", files.path("stepd.toml").display()).ready().await;
    let site = worker.site().await;
    let asked = client(HeaderMap::new()).get(format!("{site}/api/v1/session")).bearer_auth(token).send().await.unwrap();
    let told: Value = asked.json().await.unwrap();
    assert_eq!((&told["name"], &told["scope"]), (&json!("new-one"), &json!("enqueue")));
    let wrong = stepd_at(None, &["token", "New One", "--scope", "read"]);
    assert_eq!(wrong.code, Some(2));
}

#[tokio::test]
async fn without_work_it_serves_and_runs_nothing_until_a_worker_comes() {
    let (db, files) = (Db::new().await, Files::new([ASKS]));
    let worker = Spec::new(&db, &files).ready().await;
    drop(worker);
    let alone = spec(&db, &files);
    let mut alone = alone.without_work().start();
    let site = alone.site().await;
    let client = client(HeaderMap::new());
    let ready: Value = client.get(format!("{site}/readyz")).send().await.unwrap().json().await.unwrap();
    assert_eq!(ready, json!({"status": "ready", "works": false}));
    let create = client.post(format!("{site}/api/v1/runs")).bearer_auth("app");
    let create = create.json(&json!({"workflow": "asks", "input": {"n": 1}})).send().await.unwrap();
    assert_eq!(create.status(), StatusCode::CREATED);
    let run = create.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(db.count(format!("SELECT count(*) FROM stepd.workers WHERE pid = {}", alone.pid())).await, 0);
    assert_eq!(db.state(&run).await, "queued");
    let _worker = Spec::new(&db, &files).ready().await;
    db.reaches(&run, "waiting", SOON).await;
    assert_eq!(alone.drain(SOON).await, Some(0));
}
