//! What the HTTP server does with those who take their time, hang up, or ask while it ends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::http::{Ground, is_problem};
use crate::support::{SOON, holds_for, wait_until};

const SHORT: &str = "http_timeout_seconds = 1\n";
const HOOK: &str = "[http_hooks.h]\nsecret = \"long enough\"\nevent = \"e\"\n";

fn place(g: &Ground) -> std::net::SocketAddr {
    g.site.trim_start_matches("http://").parse().unwrap()
}

/// The connections to the server that are open at its end.
fn open_at(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = format!("0100007F:{port:04X}");
    let row = |line: &&str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        cells[1] == ours && cells[3] == "01"
    };
    table.lines().skip(1).filter(row).count()
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_refused_everywhere_and_one_that_does_is_taken() {
    // Tokens come after: a key behind a table would be the table's.
    let g = Ground::before(SHORT, HOOK).await;
    for path in ["/api/v1/runs", "/api/workflows/asks/trigger", "/hooks/h", "/api/v1/session"] {
        let mut stream = TcpStream::connect(place(&g)).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app\r\nContent-Type: application/json\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let n = tokio::time::timeout(SOON, stream.read(&mut answer)).await.expect("it is not waited for").unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(answer.contains("has not come within 1 s"), "{path}: {answer}");
    }
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 0);
    g.enqueued("asks", json!({"n": 1})).await;
}

#[tokio::test]
async fn who_asks_and_does_not_read_is_let_go_and_who_reads_gets_all() {
    let g = Ground::before(SHORT, "").await;
    let port = place(&g).port();
    let asked = 400;
    let ask = "GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(asked);
    let one =
        g.client.get(format!("{}/api/v1/openapi.json", g.site)).send().await.unwrap().bytes().await.unwrap().len();
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(place(&g)).await.unwrap()
    };
    // Its own connection of before idles out.
    wait_until("nobody is connected", SOON, async || open_at(port) == 0).await;
    let mut deaf = connect().await;
    let _ = deaf.write_all(ask.as_bytes()).await;
    wait_until("it is connected", SOON, async || open_at(port) == 1).await;
    wait_until("it is let go", SOON, async || open_at(port) == 0).await;
    drop(deaf);
    let mut reader = connect().await;
    let (mut from, mut to) = reader.split();
    let read = async {
        let (mut bytes, mut page) = (0, vec![0; 64 << 10]);
        while bytes < one * asked {
            match from.read(&mut page).await.unwrap() {
                0 => break,
                n => bytes += n,
            }
        }
        bytes
    };
    let (sent, bytes) = tokio::join!(to.write_all(ask.as_bytes()), tokio::time::timeout(SOON, read));
    sent.unwrap();
    assert!(bytes.unwrap() >= one * asked);
}

#[tokio::test]
async fn it_is_not_ready_any_more_as_soon_as_its_end_is_asked_for_and_serves_until_its_runs_have_ended() {
    let slow = "name: slow\nsteps: [{id: work, run: 'until test -e @DIR@/go; do sleep 0.02; done'}]\n";
    let mut g = Ground::new().await;
    g.files.write("slow.yaml", slow);
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    let run = g.enqueued("slow", json!({})).await;
    g.db.step_reaches(&run, "work", "running", SOON).await;
    let ready = async || {
        let answer = g.client.get(format!("{}/readyz", g.site)).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(ready().await.0, 200);
    g.worker.term();
    wait_until("it says so", SOON, async || ready().await.0 == 503).await;
    let (_, told) = ready().await;
    assert!(told["reason"].as_str().unwrap().contains("drains"), "{told}");
    assert_eq!(g.db.state(&run).await, "running", "and that is before its runs have ended");
    assert_eq!(g.get(&format!("/runs/{run}")).await["state"], "running", "who looks is still answered");
    let alive = g.client.get(format!("{}/healthz", g.site)).send().await.unwrap();
    assert_eq!(alive.status().as_u16(), 200);
    std::fs::write(g.files.path("go"), "").unwrap();
    assert_eq!(g.worker.ends(SOON).await.code(), Some(0));
    assert_eq!(g.db.state(&run).await, "completed");
}

#[tokio::test]
async fn what_was_begun_with_many_runs_is_done_to_the_end_though_the_caller_hangs_up() {
    let g = Ground::new().await;
    g.db.exec("INSERT INTO stepd.jobs (workflow, input, run_at) SELECT 'asks', '{\"n\": 1}', now() + interval '1 day' FROM generate_series(1, 60)").await;
    // Each takes its time.
    g.db.exec("CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON stepd_engine.ended FOR EACH ROW EXECUTE FUNCTION public.slow()").await;
    let filter = json!({"state": "scheduled", "workflow": "asks"});
    let many = |expect: u64| json!({"verb": "cancel", "filter": filter, "expect": expect});
    let ended = "SELECT count(*) FROM stepd.runs WHERE state = 'cancelled'";
    let request = g.client.post(format!("{}/api/v1/actions", g.site)).bearer_auth("ops").json(&many(60));
    let asking = tokio::spawn(request.send());
    wait_until("it has begun", SOON, async || g.db.count(ended).await > 0).await;
    asking.abort();
    let _ = asking.await;
    // Meanwhile one run can be acted on, and many cannot.
    let left = g.db.count("SELECT count(*) FROM stepd.runs WHERE state = 'scheduled'").await;
    if left > 5 {
        let also = g.post("ops", "/actions", many(u64::try_from(left).unwrap())).await;
        assert!([503, 409].contains(&also.status().as_u16()), "{}", also.status());
    }
    wait_until("all of them are cancelled", SOON, async || g.db.count(ended).await == 60).await;
    let by = "SELECT count(*) FROM stepd.history WHERE event = 'cancelled' AND by_whom LIKE '%/ops'";
    assert_eq!(g.db.count(by).await, 60, "each in the name of who asked");
    let none: Value =
        g.post("ops", "/actions", json!({"verb": "cancel", "filter": filter})).await.json().await.unwrap();
    assert_eq!(none["matching"], 0);
}

#[tokio::test]
async fn many_runs_are_not_acted_on_when_another_number_matches_or_the_request_is_refused() {
    let g = Ground::new().await;
    g.db.exec("INSERT INTO stepd.jobs (workflow, input, run_at) SELECT 'asks', '{\"n\": 1}', now() + interval '1 day' FROM generate_series(1, 3)").await;
    let many = |expect: u64| json!({"verb": "cancel", "filter": {"workflow": "asks"}, "expect": expect});
    is_problem(g.post("ops", "/actions", many(2)).await, 409, "nothing was done").await;
    is_problem(g.post("app", "/actions", many(3)).await, 403, "`operate`").await;
    holds_for("nothing is done", Duration::from_millis(300), async || {
        g.db.count("SELECT count(*) FROM stepd.runs WHERE state = 'scheduled'").await == 3
    })
    .await;
}
