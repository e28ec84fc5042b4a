//! The HTTP API's streams: nothing is lost over a reconnect, nobody is told twice, and many watchers cost what one does.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::http::{Ground, client, spec};
use crate::mcp::python;
use crate::support::{SOON, wait_until};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Reads a stream of events until one holds a text, or it ends.
async fn read_until(answer: &mut Response, text: &str) -> String {
    let mut read = String::new();
    while let Some(chunk) = tokio::time::timeout(SOON, answer.chunk()).await.unwrap().unwrap_or(None) {
        read.push_str(std::str::from_utf8(&chunk).unwrap());
        if read.contains(text) {
            break;
        }
    }
    read
}

/// What the events of a stream say, and the last id.
fn events(read: &str) -> (Vec<Value>, Option<String>) {
    let data = read.lines().filter_map(|l| l.strip_prefix("data: ")).map(|l| serde_json::from_str(l).unwrap());
    (data.collect(), read.lines().filter_map(|l| l.strip_prefix("id: ")).next_back().map(ToOwned::to_owned))
}

async fn stream(site: &str, path: &str, last: Option<&str>) -> Response {
    stream_at(site, &format!("/v1{path}"), last).await
}

async fn stream_at(site: &str, path: &str, last: Option<&str>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, "Bearer looker".parse().unwrap());
    if let Some(last) = last {
        headers.insert("last-event-id", last.parse().unwrap());
    }
    let answer = client(headers).get(format!("{site}/api{path}")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream", "{}", answer.status());
    answer
}

async fn socket(site: &str, run: &str, after: &str) -> Socket {
    socket_at(site, &format!("/v1/runs/{run}/ws?after={after}")).await
}

async fn socket_at(site: &str, path: &str) -> Socket {
    let url = format!("{}/api{path}", site.replace("http", "ws"));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", "Bearer looker".parse().unwrap());
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

/// Reads messages until one is right; with all that were read. The end of the socket is an end, too.
async fn heard(socket: &mut Socket, right: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some(message) = tokio::time::timeout(SOON, socket.next()).await.unwrap() {
        let Ok(Message::Text(text)) = message else { continue };
        all.push(serde_json::from_str(&text).unwrap());
        if right(all.last().unwrap()) {
            break;
        }
    }
    all
}

fn lines(heard: &[Value]) -> Vec<(u64, String)> {
    let line = |m: &Value| Some((m["seq"].as_u64()?, m["id"].as_str().unwrap().to_owned()));
    heard.iter().filter_map(line).collect()
}

/// All that a history holds in the end, and that a step waited, which it holds only while it waits.
async fn is_whole(g: &Ground, run: &str, told: &[(u64, String)]) {
    let history = g.get(&format!("/runs/{run}/history")).await;
    let mut ids: Vec<&str> = told.iter().map(|(_, id)| id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), told.len(), "each once");
    assert_eq!(told.len(), history["history"].as_array().unwrap().len() + 1, "{told:#?} {history:#}");
    assert!(told.iter().zip(1..).all(|((seq, _), n)| *seq == n), "numbered without a gap: {told:?}");
}

#[tokio::test]
async fn a_stream_of_a_run_goes_on_without_a_gap_on_another_worker_after_a_kill() {
    let mut g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let path = format!("/runs/{run}/stream");
    let before = read_until(&mut stream(&g.site, &path, None).await, "\"state\":\"waiting\"").await;
    let (mut told, last) = events(&before);
    g.worker.kill9();
    let mut heir = spec(&g.db, &g.files).ready().await;
    g.site = heir.site().await;
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    let after = read_until(&mut stream(&g.site, &path, last.as_deref()).await, "\"state\":\"completed\"").await;
    told.extend(events(&after).0);
    is_whole(&g, &run, &lines(&told)).await;
}

#[tokio::test]
async fn a_socket_tells_every_event_once_in_order_also_over_a_reconnect_to_another_worker() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let mut first = socket(&g.site, &run, "").await;
    let mut told = heard(&mut first, |m| m["state"] == "waiting").await;
    let cursor = told.iter().filter_map(|m| m["cursor"].as_str()).next_back().unwrap().to_owned();
    drop(first);
    let mut other = spec(&g.db, &g.files).ready().await;
    let site = other.site().await;
    let mut second = socket(&site, &run, &cursor).await;
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    told.extend(heard(&mut second, |m| m["state"] == "completed").await);
    is_whole(&g, &run, &lines(&told)).await;
    let end = tokio::time::timeout(SOON, second.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&end, Message::Close(Some(frame)) if u16::from(frame.code) == 1000), "{end:?}");
    // By the number alone, too.
    let mut third = socket(&site, &run, "4").await;
    let rest = lines(&heard(&mut third, |m| m["state"] == "completed").await);
    assert_eq!(rest[0].0, 5);
    assert_eq!(rest.len(), told.iter().filter(|m| m["type"] == "history").count() - 1 - 4);
}

#[tokio::test]
async fn what_the_older_system_was_to_have_is_found_under_the_paths_that_it_had_planned() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let mut events = stream_at(&g.site, &format!("/executions/{run}/events"), None).await;
    let mut socket = socket_at(&g.site, &format!("/executions/{run}/ws")).await;
    heard(&mut socket, |m| m["state"] == "waiting").await;
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    let told = heard(&mut socket, |m| m["state"] == "completed").await;
    assert!(told.iter().any(|m| m["type"] == "history"), "{told:?}");
    assert!(read_until(&mut events, "\"completed\"").await.contains("event: history"));
    let get = async |path: &str| {
        let site = format!("{}/api{path}", g.site);
        let asked = client(HeaderMap::new()).get(site).bearer_auth("looker");
        asked.send().await.unwrap().error_for_status().unwrap().json::<Value>().await.unwrap()
    };
    let timeline = get(&format!("/executions/{run}/timeline")).await;
    assert_eq!(timeline["steps"], g.get(&format!("/runs/{run}/timeline")).await["steps"]);
    assert_eq!(get("/stats?span=24h").await["went"][0]["runs"], g.get("/analytics?span=24h").await["went"][0]["runs"]);
}

#[tokio::test]
async fn a_client_that_others_wrote_hears_every_event_once_over_a_reconnect() {
    let Some(python) = tokio::task::spawn_blocking(|| python("websockets==16.0")).await.unwrap() else { return };
    let mut g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&run, "waiting", SOON).await;
    let mut heir = spec(&g.db, &g.files).ready().await;
    let sites =
        [g.site.clone(), heir.site().await].map(|site| format!("{}/api/v1/runs/{run}/ws", site.replace("http", "ws")));
    let heard = g.files.path("heard");
    let mut client = std::process::Command::new(python);
    client.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/published/watch.py")).args(&sites);
    client.env("TOKEN", "looker").stdout(std::fs::File::create(&heard).unwrap());
    let mut client = client.spawn().unwrap();
    wait_until("it has heard that the run waits", SOON, async || {
        g.files.lines("heard").iter().any(|line| line.contains("\"state\": \"waiting\""))
    })
    .await;
    // It was connected to this one.
    g.worker.kill9();
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    g.db.reaches(&run, "completed", SOON).await;
    wait_until("it has come to the end", SOON, async || client.try_wait().unwrap().is_some()).await;
    assert!(client.wait().unwrap().success());
    let told: Vec<Value> = g.files.lines("heard").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.last().unwrap()["state"], "completed");
    g.site = heir.site().await;
    is_whole(&g, &run, &lines(&told)).await;
}

#[tokio::test]
async fn a_change_is_told_within_half_a_second() {
    let g = Ground::new().await;
    let mut fastest = Duration::MAX;
    // A busy machine stretches any one of them.
    for _ in 0..20 {
        let run = g.enqueued("asks", json!({"n": 1})).await;
        let mut socket = socket(&g.site, &run, "").await;
        heard(&mut socket, |m| m["state"] == "waiting").await;
        g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
        let began = Instant::now();
        heard(&mut socket, |m| m["event"] == "approved").await;
        fastest = fastest.min(began.elapsed());
        if fastest < Duration::from_millis(500) {
            return;
        }
    }
    panic!("the fastest took {fastest:?}");
}

#[tokio::test]
async fn a_stream_of_all_runs_tells_of_new_ones_and_of_every_change() {
    let g = Ground::new().await;
    let mut all = stream(&g.site, "/stream?workflow=asks", None).await;
    let other = g.enqueued("fails", json!({})).await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let waiting = read_until(&mut all, "\"state\":\"waiting\"").await;
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    let completed = read_until(&mut all, "\"state\":\"completed\"").await;
    assert!(waiting.contains(&run) && completed.contains(&run) && !(waiting + &completed).contains(&other));
}

#[tokio::test]
async fn what_happens_while_nobody_is_connected_is_told_to_who_comes_back_also_elsewhere() {
    let mut g = Ground::new().await;
    let waits = g.enqueued("asks", json!({"n": 1})).await;
    let mut all = stream(&g.site, "/stream", None).await;
    let read = read_until(&mut all, "\"state\":\"waiting\"").await;
    let mut last = events(&read).1;
    while last.is_none() {
        last = events(&read_until(&mut all, "\nid: ").await).1;
    }
    drop(all);
    g.worker.kill9();
    let mut heir = spec(&g.db, &g.files).ready().await;
    g.site = heir.site().await;
    g.db.exec(format!("SELECT stepd.approve('{waits}')")).await;
    let new = g.enqueued("fails", json!({})).await;
    g.db.reaches(&waits, "completed", SOON).await;
    g.db.reaches(&new, "failed", SOON).await;
    let mut back = stream(&g.site, "/stream", last.as_deref()).await;
    let mut told = Vec::new();
    while !(told.contains(&(waits.clone(), "completed".to_owned()))
        && told.contains(&(new.clone(), "failed".to_owned())))
    {
        let (more, _) = events(&read_until(&mut back, "\n\n").await);
        assert!(!more.is_empty(), "the stream ended: {told:?}");
        let text = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
        told.extend(more.iter().map(|e| (text(e, "id"), text(e, "state"))));
    }
}

#[tokio::test]
async fn who_comes_back_after_more_than_can_be_told_is_told_to_look_anew_and_reads_on() {
    let g = Ground::new().await;
    let mut all = stream(&g.site, "/stream", None).await;
    g.enqueued("asks", json!({"n": 1})).await;
    let mut last = None;
    while last.is_none() {
        last = events(&read_until(&mut all, "\nid: ").await).1;
    }
    drop(all);
    let many =
        |n| format!("INSERT INTO stepd.jobs (workflow, queue) SELECT 'asks', 'nothing' FROM generate_series(1, {n})");
    g.db.exec(many(1_500)).await;
    let few = read_until(&mut stream(&g.site, "/stream", last.as_deref()).await, "\nid: ").await;
    assert!(!few.contains("event: reset") && few.matches("event: run").count() >= 1_500, "as many can be told");
    g.db.exec(many(1_000)).await;
    let mut back = stream(&g.site, "/stream", last.as_deref()).await;
    let read = read_until(&mut back, "\nid: ").await;
    assert!(read.starts_with("event: reset\n") && !read.contains("event: run"), "{read}");
    // The reset has a place of its own: who comes back after it is not told it again.
    let after = events(&read).1;
    let new = g.enqueued("fails", json!({})).await;
    assert!(read_until(&mut back, &new).await.contains(&new), "the stream goes on");
    let again = read_until(&mut stream(&g.site, "/stream", after.as_deref()).await, &new).await;
    assert!(!again.contains("event: reset"), "{again}");
    // Neither can be told what has changed since a place that this database has not come to, or left long ago.
    let micros = "SELECT (extract(epoch FROM now() - interval '2 h') * 1000000)::bigint";
    let (floor, at) = after.as_deref().unwrap().split_once('-').unwrap();
    let ahead = format!("{}-{at}", floor.parse::<u32>().unwrap() + 1_000_000);
    let long_ago = format!("{floor}-{}", g.db.count(micros).await);
    for place in [ahead, long_ago] {
        let read = read_until(&mut stream(&g.site, "/stream", Some(&place)).await, "\nid: ").await;
        assert!(read.contains("event: reset"), "{place}: {read}");
    }
}

#[tokio::test]
async fn fifty_watchers_of_a_run_ask_the_database_no_more_than_one_does() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let path = format!("/runs/{run}/stream");
    let mut watchers = Vec::new();
    for _ in 0..50 {
        let mut one = stream(&g.site, &path, None).await;
        read_until(&mut one, "\"state\":\"waiting\"").await;
        watchers.push(one);
    }
    let backends =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'stepd http'";
    assert!(g.db.count(backends).await <= 4);
    // Each look is one transaction of the reader; fifty that looked for themselves would make fifty times as many.
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    let (began, before) = (Instant::now(), g.db.count(commits).await);
    wait_until("some time has passed", SOON, async || began.elapsed() > Duration::from_secs(2)).await;
    let (took, after) = (began.elapsed().as_secs_f64(), g.db.count(commits).await);
    let rate = f64::from(i32::try_from(after - before).unwrap()) / took;
    assert!(rate < 60.0, "{rate} transactions a second");
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    for mut one in watchers {
        assert!(read_until(&mut one, "\"state\":\"completed\"").await.contains("step completed"));
    }
}

#[tokio::test]
async fn streams_end_when_the_daemon_does_and_when_their_token_is_removed() {
    let mut g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let mut one = stream(&g.site, &format!("/runs/{run}/stream"), None).await;
    read_until(&mut one, "\"state\":\"waiting\"").await;
    let file = std::fs::read_to_string(g.files.path("stepd.toml")).unwrap();
    std::fs::write(g.files.path("stepd.toml"), file.replace("http_tokens.looker", "http_tokens.watcher")).unwrap();
    let mut other = socket(&g.site, &run, "").await;
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    // Seen with the next word that would be said.
    g.db.exec(format!("SELECT stepd.pause('{run}')")).await;
    assert!(!read_until(&mut one, "paused").await.contains("paused"), "the token is gone");
    heard(&mut other, |m| m["state"] == "paused").await.iter().for_each(|m| assert_ne!(m["state"], "paused"));
    let answer = g.client.get(format!("{}/api/v1/stream", g.site)).bearer_auth("app").send();
    let mut all = answer.await.unwrap();
    g.worker.term();
    g.worker.ends(SOON).await;
    read_until(&mut all, "never said").await;
}

#[tokio::test]
async fn a_page_of_another_origin_gets_no_socket_and_the_server_s_own_does() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    let connect = async |origin: &str| {
        let url = format!("{}/api/v1/runs/{run}/ws", g.site.replace("http", "ws"));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    for foreign in ["http://evil.example", "null", "http://localhost.evil.example"] {
        let Err(tokio_tungstenite::tungstenite::Error::Http(answer)) = connect(foreign).await else {
            panic!("{foreign} has a socket")
        };
        assert_eq!(answer.status().as_u16(), 403, "{foreign}");
    }
    let mut own = connect(&g.site).await.unwrap().0;
    assert!(!heard(&mut own, |m| m["state"] == "waiting").await.is_empty());
}
