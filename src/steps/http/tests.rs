use std::net::IpAddr;

use serde_json::{Value, json};
use wiremock::matchers::{body_json, body_string, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::target::Targets;
use super::{Allowed, Http, HttpOptions};
use crate::model::{Class, Failure};
use crate::steps::step::{Flow, Step, StepOutput};
use crate::steps::testing;

async fn send(options: HttpOptions, params: Value) -> Result<StepOutput, Failure> {
    match Http::new(options).run(&testing::context().0, params).await? {
        Flow::Done(output) => Ok(output),
        other => panic!("{other:?}"),
    }
}

fn local() -> HttpOptions {
    HttpOptions { allow: vec!["127.0.0.0/8".parse().unwrap()], max_body: 1000 }
}

async fn answer(response: ResponseTemplate) -> Result<StepOutput, Failure> {
    let server = MockServer::start().await;
    Mock::given(path("/x")).respond_with(response).mount(&server).await;
    send(local(), json!({"url": format!("{}/x", server.uri())})).await
}

#[tokio::test]
async fn a_request_is_sent_as_the_parameters_say_with_the_attempts_own_headers() {
    let server = MockServer::start().await;
    let (cx, _stop) = testing::context();
    let json = ResponseTemplate::new(201).set_body_json(json!({"ok": true})).insert_header("x-a", "b");
    Mock::given(method("PUT"))
        .and(path("/r"))
        .and(query_param("q", "a b"))
        .and(header("x-num", "7"))
        .and(header("idempotency-key", &*cx.idempotency_key()))
        .and(header("traceparent", &*cx.traceparent().unwrap()))
        .and(body_json(json!({"sku": "s"})))
        .respond_with(json)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(header("idempotency-key", "own"))
        .and(body_string("text"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    let http = Http::new(local());
    let params = json!({"method": "PUT", "url": format!("{}/r", server.uri()), "query": {"q": "a b", "none": null},
        "headers": {"X-Num": 7}, "json": {"sku": "s"}});
    let Flow::Done(out) = http.run(&cx, params).await.unwrap() else { panic!() };
    assert_eq!(out.default, json!({"ok": true}));
    assert_eq!(
        (&out.raw["status"], &out.raw["headers"]["x-a"], &out.raw["body"]),
        (&json!(201), &json!("b"), &out.default)
    );
    let params = json!({"method": "post", "url": server.uri(), "headers": {"Idempotency-Key": "own"}, "body": "text"});
    let Flow::Done(out) = http.run(&cx, params).await.unwrap() else { panic!() };
    assert_eq!(out.default, json!(null));
}

#[tokio::test]
async fn bodies_are_json_when_they_are_and_text_when_not() {
    let ok = || ResponseTemplate::new(200);
    assert_eq!(answer(ok().set_body_string("[1]")).await.unwrap().default, json!([1]));
    assert_eq!(answer(ok().set_body_string("hello")).await.unwrap().default, json!("hello"));
    assert_eq!(answer(ok().set_body_raw("1", "text/html")).await.unwrap().default, json!("1"));
    let long = "[123456789012345678901234567890]";
    assert_eq!(
        answer(ok().set_body_raw(long, "application/json")).await.unwrap().default.to_string(),
        long,
        "every digit"
    );
    let failure = answer(ok().set_body_string("x".repeat(1001))).await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("too_large", Class::Permanent));
    assert!(answer(ok().set_body_string("x".repeat(1000))).await.is_ok());
}

#[tokio::test]
async fn the_status_decides_the_code_and_whether_trying_again_helps() {
    for (status, class) in [
        (301, Class::Permanent),
        (400, Class::Permanent),
        (404, Class::Permanent),
        (408, Class::Transient),
        (425, Class::Transient),
        (429, Class::Transient),
        (500, Class::Transient),
        (503, Class::Transient),
    ] {
        let response = ResponseTemplate::new(status)
            .set_body_string("why")
            .insert_header("Retry-After", "7")
            .insert_header("Location", "http://127.0.0.1:1/");
        let failure = answer(response).await.unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.class), (format!("http_{status}").as_str(), class));
        assert_eq!(failure.retry_after_ms, Some(7000));
        assert_eq!(failure.details.unwrap()["body"], "why");
    }
}

#[tokio::test]
async fn a_refused_connection_is_transient_and_shows_no_secrets() {
    let params = json!({"url": "http://user:hunter2@127.0.0.1:1/p?token=hunter2"});
    let failure = send(local(), params).await.unwrap_err();
    assert_eq!((failure.code.as_ref(), failure.class), ("connection", Class::Transient));
    assert!(failure.message.contains("127.0.0.1:1/p") && !failure.message.contains("hunter2"), "{failure}");
}

#[tokio::test]
async fn wrong_parameters_are_permanent_and_named() {
    let url = "http://192.0.2.1/";
    for (params, word) in [
        (json!({}), "url"),
        (json!({"url": "ftp://example.com"}), "url"),
        (json!({"url": "/relative"}), "url"),
        (json!({"url": "http://exam\nple.com/"}), "url"),
        (json!({"url": url, "method": "GET X"}), "method"),
        (json!({"url": url, "headers": {"A": "x\r\nB: y"}}), "headers"),
        (json!({"url": url, "headers": {"A\r\nB": "x"}}), "headers"),
        (json!({"url": url, "headers": {"Host": "elsewhere"}}), "headers"),
        (json!({"url": url, "headers": {"Transfer-Encoding": "chunked"}}), "headers"),
        (json!({"url": url, "json": 1, "body": "x"}), "body"),
    ] {
        let failure = send(HttpOptions::default(), params).await.unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.class), ("invalid_params", Class::Permanent), "{word}");
        assert!(failure.message.contains(word), "{failure}");
    }
}

/// Every way that we know of to write an address that must not be reached.
const FORBIDDEN: [&str; 82] = [
    // Loopback, in all the ways that inet_aton takes.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7F.0.0.1",
    "0x7f.0x0.0x0.0x1",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "0177.0x0.0.1",
    "127.0.0.01",
    "127.0.0.0x1",
    "127.000.000.001",
    "00000177.0.0.1",
    "127.65535",
    "127.0.65535",
    "%31%32%37.0.0.1",
    "127%2e0.0.1",
    "127。0。0。1",
    "１２７.0.0.1",
    "①②⑦.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    // This network, broadcast, multicast, reserved.
    "0.0.0.0",
    "0",
    "0x0",
    "00",
    "0.1.2.3",
    "255.255.255.255",
    "4294967295",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    // Private, shared, link-local with the metadata services.
    "10.0.0.1",
    "10.1",
    "167772161",
    "0xa.0.0.1",
    "012.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.257",
    "3232235521",
    "0xc0a80001",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "192.0.0.192",
    "198.18.0.1",
    "192.0.2.1",
    "198.51.100.7",
    "203.0.113.7",
    // IPv6, plain.
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[2001::1]",
    "[100::1]",
    // IPv6 that leads to IPv4.
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[::ffff:0:127.0.0.1]",
];

#[tokio::test]
async fn no_form_of_a_private_or_special_address_is_reached() {
    let http = Http::new(HttpOptions::default());
    let (cx, _stop) = testing::context();
    for host in FORBIDDEN {
        for url in [format!("http://{host}:9/"), format!("https://user@{host}/")] {
            let failure = http.run(&cx, json!({"url": url})).await.unwrap_err();
            assert_eq!(
                (failure.code.as_ref(), failure.class),
                ("forbidden_target", Class::Permanent),
                "{url}: {failure}"
            );
        }
    }
}

#[test]
fn one_forbidden_address_forbids_the_name_and_public_ones_are_free() {
    let targets = Targets::new(Vec::new());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "193.0.0.1",
        "2606:4700::1111",
        "2a00::1",
        "::ffff:8.8.8.8",
        "2001:4860::8888",
    ] {
        assert!(targets.check("example.com", [ip(public)]).is_ok(), "{public}");
    }
    assert!(targets.check("example.com", [ip("1.1.1.1"), ip("10.0.0.1")]).is_err());
}

#[test]
fn what_the_configuration_allows_is_allowed_and_nothing_beside_it() {
    let allow = ["10.1.0.0/16", "fd00:1::/32", "192.168.7.7", "stock.internal", "*.svc.local"];
    let targets = Targets::new(allow.iter().map(|a| a.parse::<Allowed>().unwrap()).collect());
    let check = |name: &str, address: &str| targets.check(name, [address.parse::<IpAddr>().unwrap()]).is_ok();
    for (name, address) in [
        ("x", "10.1.255.1"),
        ("x", "::ffff:10.1.0.1"),
        ("x", "fd00:1::5"),
        ("x", "192.168.7.7"),
        ("Stock.Internal.", "10.9.9.9"),
        ("a.b.svc.local", "127.0.0.1"),
    ] {
        assert!(check(name, address), "{name} {address}");
    }
    for (name, address) in [
        ("x", "10.2.0.1"),
        ("x", "fd00:2::5"),
        ("x", "192.168.7.8"),
        ("evilstock.internal", "10.9.9.9"),
        ("svc.local", "127.0.0.1"),
        ("evilsvc.local", "127.0.0.1"),
    ] {
        assert!(!check(name, address), "{name} {address}");
    }
    for wrong in ["", "10.0.0.0/33", "a b", "http://x", "*.", "x/8"] {
        assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
    }
    let everything = Targets::new(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
    assert!(everything.check("x", ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]).is_ok());
}
