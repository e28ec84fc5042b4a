//! Webhooks in: who signs what they send starts a run or emits an event, once; whoever does not, nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::{Ground, client, is_problem};
use crate::support::{SOON, wait_until};

const HOOKS: &str = r#"
[http_hooks.github]
secret = "${{ secrets.github }}"
when = "${{ headers['x-github-event'] == 'push' }}"
workflow = "asks"
input = "${{ {'n': body.number, 'by': query.by} }}"
unique_key = "${{ headers['x-github-delivery'] }}"

[http_hooks.stripe]
secret = "whsec_of_stripe"
signed = "time_and_body"
event = "paid"

[secrets]
github = "between the two of us"
"#;

fn mac(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|p| mac.update(p));
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

fn push(g: &Ground, body: &Value, delivery: &str) -> RequestBuilder {
    let body = body.to_string();
    let signature = mac("between the two of us", &[body.as_bytes()]);
    let request = g.client.post(format!("{}/hooks/github?by=hook", g.site)).header("X-GitHub-Event", "push");
    let request = request.header("X-GitHub-Delivery", delivery).header("Content-Type", "application/json");
    request.header("X-Hub-Signature-256", format!("sha256={signature}")).body(body)
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let answer: Response = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_signed_delivery_is_one_run_also_when_it_comes_again() {
    let g = Ground::with(HOOKS).await;
    let (status, first) = answer(push(&g, &json!({"number": 7}), "d1")).await;
    assert_eq!((status, &first["created"]), (StatusCode::ACCEPTED, &json!(true)));
    let (status, again) = answer(push(&g, &json!({"number": 7}), "d1")).await;
    assert_eq!((status, &again["created"], &again["id"]), (StatusCode::ACCEPTED, &json!(false), &first["id"]));
    let told = g.get(&format!("/runs/{}", first["id"].as_str().unwrap())).await;
    assert_eq!((&told["input"], &told["unique_key"]), (&json!({"n": 7, "by": "hook"}), &json!("d1")));
    assert!(told["created_by"].as_str().unwrap().ends_with("/hook github"), "{told}");
    let other = push(&g, &json!({"number": 7}), "d2").header("X-GitHub-Event", "ping");
    let ignored = answer(other).await;
    // The first of the two headers counts.
    assert!(ignored.1["created"] == json!(true) || ignored.1["ignored"] == json!(true), "{ignored:?}");
    is_problem(push(&g, &json!({"number": "seven"}), "d3").send().await.unwrap(), 422, "/n").await;
    is_problem(push(&g, &json!({}), "d4").send().await.unwrap(), 422, "the hook's input").await;
}

#[tokio::test]
async fn what_is_not_signed_as_it_should_be_does_nothing() {
    let g = Ground::with(HOOKS).await;
    let url = format!("{}/hooks/github", g.site);
    let bare = || g.client.post(&url).header("X-GitHub-Event", "push").header("X-GitHub-Delivery", "d");
    is_problem(bare().body("{}").send().await.unwrap(), 401, "x-hub-signature-256").await;
    let other = mac("another secret", &[b"{}"]);
    is_problem(
        bare().header("X-Hub-Signature-256", format!("sha256={other}")).body("{}").send().await.unwrap(),
        401,
        "wrong",
    )
    .await;
    let right = mac("between the two of us", &[b"{\"number\":1}"]);
    let changed = bare().header("X-Hub-Signature-256", format!("sha256={right}")).body("{\"number\":2}");
    is_problem(changed.send().await.unwrap(), 401, "wrong").await;
    is_problem(g.client.post(format!("{}/hooks/none", g.site)).body("{}").send().await.unwrap(), 404, "no hook `none`")
        .await;
    // Refused before all of it is sent; the connection is of no further use.
    let large = client(HeaderMap::new()).post(&url).header("X-Hub-Signature-256", "sha256=00");
    let large = large.body("x".repeat(20 << 20)).send().await;
    if let Ok(answer) = large {
        is_problem(answer, 413, "").await;
    }
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 0);
    for _ in 0..10 {
        bare().body("{}").send().await.unwrap();
    }
    is_problem(bare().body("{}").send().await.unwrap(), 429, "signatures").await;
    let right = push(&g, &json!({"number": 1}), "d").send().await.unwrap();
    assert!(right.status().is_success(), "who signs is kept out by nobody's guesses: {}", right.status());
}

/// Signed with nothing that holds, and never sent to their end.
#[tokio::test]
async fn who_proves_nothing_fills_a_room_of_its_own_and_keeps_no_small_delivery_out() {
    let g = Ground::with(HOOKS).await;
    let place = g.site.strip_prefix("http://").unwrap();
    let large = json!({"number": 1, "more": "x".repeat(4_000_000)});
    let mut senders = Vec::new();
    // Four fit; of those that are read at the same time, several may be refused.
    let full = loop {
        assert!(senders.len() < 12, "{} of them, and there is still room", senders.len());
        let mut sender = TcpStream::connect(place).await.unwrap();
        let head = format!(
            "POST /hooks/github HTTP/1.1\r\nHost: {place}\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: 16000000\r\n\r\n"
        );
        sender.write_all(head.as_bytes()).await.unwrap();
        // One that finds no room is refused before it has sent all.
        let _ = sender.write_all(&vec![b'x'; 15_999_999]).await;
        senders.push(sender);
        match push(&g, &large, "d0").send().await {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {}
            refused => break refused,
        }
    };
    // Refused before all of it is sent, perhaps.
    if let Ok(answer) = full {
        is_problem(answer, 503, "that have not proved who they are").await;
    }
    assert_eq!(answer(push(&g, &json!({"number": 2}), "d2")).await.0, StatusCode::ACCEPTED, "a small one is taken");
    drop(senders);
    wait_until("there is room again", SOON, async || {
        push(&g, &large, "d1").send().await.is_ok_and(|answer| answer.status() == StatusCode::ACCEPTED)
    })
    .await;
}

#[tokio::test]
async fn a_delivery_with_a_time_is_an_event_while_the_time_is_near() {
    let g = Ground::with(HOOKS).await;
    let waits = "name: waits\nsteps:\n  - {id: paid, wait: paid}\n  - {id: of, set: '${{ steps.paid.output.sum }}'}\n";
    std::fs::write(g.files.workflows().join("waits.yaml"), waits).unwrap();
    let mut g = g;
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    let run = g.enqueued("waits", json!({})).await;
    g.db.reaches(&run, "waiting", SOON).await;
    let now: i64 = g.db.one("SELECT extract(epoch FROM now())::bigint").await;
    let send = |time: i64| {
        let (time, body) = (time.to_string(), "{\"id\":7,\"sum\":99}");
        let signature = mac("whsec_of_stripe", &[time.as_bytes(), b".", body.as_bytes()]);
        let request = g.client.post(format!("{}/hooks/stripe", g.site));
        request.header("Stripe-Signature", format!("t={time},v1={signature}")).body(body).send()
    };
    is_problem(send(now - 1000).await.unwrap(), 401, "time near").await;
    assert_eq!(g.db.state(&run).await, "waiting");
    let taken = send(now).await.unwrap();
    assert_eq!(taken.status(), StatusCode::ACCEPTED);
    assert_eq!(taken.json::<Value>().await.unwrap(), json!({"runs": 1}));
    g.db.reaches(&run, "completed", SOON).await;
    assert_eq!(g.get(&format!("/runs/{run}")).await["output"]["of"], 99);
}

#[tokio::test]
async fn a_hook_that_is_added_is_there_after_a_reload_and_a_wrong_one_changes_nothing() {
    let mut g = Ground::new().await;
    let file = std::fs::read_to_string(g.files.path("stepd.toml")).unwrap();
    std::fs::write(g.files.path("stepd.toml"), format!("{file}\n[http_hooks.github]\nsecret = \"long enough\"\n"))
        .unwrap();
    g.worker.hup();
    g.worker.logs("needs a workflow to enqueue, or an event to emit").await;
    std::fs::write(g.files.path("stepd.toml"), file + HOOKS).unwrap();
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    wait_until("the hook is there", SOON, async || {
        push(&g, &json!({"number": 1}), "d").send().await.unwrap().status() == StatusCode::ACCEPTED
    })
    .await;
}

#[tokio::test]
async fn a_delivery_that_comes_again_after_its_run_has_ended_starts_no_second_one() {
    let g = Ground::with(&HOOKS.replace("unique_key = \"${{ headers['x-github-delivery'] }}\"\n", "")).await;
    let (_, first) = answer(push(&g, &json!({"number": 7}), "d1")).await;
    let run = first["id"].as_str().unwrap().to_owned();
    g.db.reaches(&run, "waiting", SOON).await;
    g.db.exec(format!("SELECT stepd.cancel('{run}')")).await;
    g.db.reaches(&run, "cancelled", SOON).await;
    let (status, again) = answer(push(&g, &json!({"number": 7}), "d1")).await;
    assert_eq!((status, &again), (StatusCode::ACCEPTED, &json!({"id": run, "created": false, "again": true})));
    let (_, other) = answer(push(&g, &json!({"number": 7}), "d2")).await;
    assert_eq!(other["created"], json!(true), "the same body in another delivery is another event");
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 2);
    // Sent again at the same time, from several places.
    let together = futures_util::future::join_all((0..8).map(|_| answer(push(&g, &json!({"number": 9}), "d3")))).await;
    let created = together.iter().filter(|(_, told)| told["created"] == true).count();
    let ids: std::collections::BTreeSet<&str> = together.iter().map(|(_, told)| told["id"].as_str().unwrap()).collect();
    assert_eq!((created, ids.len()), (1, 1), "{together:?}");
    // One that could not be taken may be sent again.
    is_problem(push(&g, &json!({"number": "x"}), "d4").send().await.unwrap(), 422, "/n").await;
    let (_, mended) = answer(push(&g, &json!({"number": 4}), "d4")).await;
    assert_eq!(mended["created"], json!(true));
    assert_eq!(g.db.count("SELECT count(*) FROM stepd_engine.deliveries").await, 4);
    is_problem(push(&g, &json!({"number": 1}), &"d".repeat(501)).send().await.unwrap(), 422, "delivery").await;
    // For a week.
    g.db.exec("UPDATE stepd_engine.deliveries SET at = at - interval '8 days' WHERE delivery <> 'd2'; SELECT stepd_engine.repair(100)").await;
    assert_eq!(g.db.all::<String>("SELECT delivery FROM stepd_engine.deliveries").await, ["d2"]);
}

#[tokio::test]
async fn an_event_that_is_sent_twice_answers_one_wait() {
    let g = Ground::with(HOOKS).await;
    let waits = "name: waits\nsteps:\n  - {id: one, wait: paid}\n  - {id: two, wait: paid}\n";
    std::fs::write(g.files.workflows().join("waits.yaml"), waits).unwrap();
    let mut g = g;
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    let run = g.enqueued("waits", json!({})).await;
    g.db.step_reaches(&run, "one", "waiting", SOON).await;
    let now: i64 = g.db.one("SELECT extract(epoch FROM now())::bigint").await;
    let send = async |time: i64, event: &str| {
        let (time, body) = (time.to_string(), json!({"id": event, "sum": 1}).to_string());
        let signature = mac("whsec_of_stripe", &[time.as_bytes(), b".", body.as_bytes()]);
        let request = g.client.post(format!("{}/hooks/stripe", g.site));
        answer(request.header("Stripe-Signature", format!("t={time},v1={signature}")).body(body)).await.1
    };
    assert_eq!(send(now, "evt_1").await, json!({"runs": 1}));
    g.db.step_reaches(&run, "two", "waiting", SOON).await;
    // By the sender that had no answer, signed anew; or by who has recorded it.
    for time in [now, now + 1] {
        assert_eq!(send(time, "evt_1").await, json!({"runs": 1, "again": true}));
    }
    assert_eq!(g.db.state(&run).await, "waiting");
    assert_eq!(send(now, "evt_2").await, json!({"runs": 1}));
    g.db.reaches(&run, "completed", SOON).await;
}

#[tokio::test]
async fn a_hook_may_say_itself_what_a_delivery_is_called() {
    let g = Ground::with(
        &HOOKS.replace("unique_key = \"${{ headers['x-github-delivery'] }}\"", "delivery = \"${{ body.of }}\""),
    )
    .await;
    let (_, first) = answer(push(&g, &json!({"number": 7, "of": 1}), "d1")).await;
    let (_, again) = answer(push(&g, &json!({"number": 7, "of": 1}), "d2")).await;
    assert_eq!((&again["id"], &again["again"]), (&first["id"], &json!(true)));
    is_problem(push(&g, &json!({"number": 7}), "d3").send().await.unwrap(), 422, "the hook's delivery").await;
    is_problem(push(&g, &json!({"number": 7, "of": ""}), "d3").send().await.unwrap(), 422, "the hook's delivery").await;
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs").await, 1);
}
