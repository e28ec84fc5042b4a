use super::*;
use axum::body::Body;

fn access(address: &str) -> Access {
    let token = |word: &str, scope| Token { hash: Sha256::digest(word.as_bytes()).into(), scope };
    let tokens = [("ops".into(), token("geheim", Scope::Operate)), ("app".into(), token("offen", Scope::Enqueue))];
    Access::new(
        address.parse().unwrap(),
        Rules { tokens: tokens.into(), hosts: vec!["stepd.example".into()], hooks: BTreeMap::new() },
    )
}

fn asked(access: &Access, request: &[(&str, &str)], method: Method) -> Result<Option<Caller>, u16> {
    let mut built = Request::builder().method(method).uri("/api/v1/runs");
    for (name, value) in request {
        built = built.header(*name, *value);
    }
    let request = built.body(Body::empty()).unwrap().into_parts().0;
    checked(access, &request).map_err(|p| p.status)?;
    let headers = &request.headers;
    match bearer(headers) {
        Some(token) => access.known(token, "10.0.0.9".parse().unwrap()).map(|(c, _)| Some(c)).map_err(|p| p.status),
        None => Ok(access.here(headers, host(headers))),
    }
}

#[test]
fn a_name_that_was_bound_to_this_address_anew_is_not_served() {
    let local = access("127.0.0.1:7837");
    for host in ["localhost:7837", "127.0.0.1", "[::1]:7837", "stepd.example"] {
        assert!(asked(&local, &[("host", host)], Method::GET).is_ok(), "{host}");
    }
    for host in ["evil.example:7837", "localhost.evil.example", "", "127.0.0.1.evil"] {
        assert_eq!(asked(&local, &[("host", host)], Method::GET).unwrap_err(), 421, "{host}");
    }
}

#[test]
fn without_a_token_only_this_machine_may_look_and_nobody_may_act() {
    let local = access("127.0.0.1:7837");
    let caller = asked(&local, &[("host", "localhost")], Method::GET).unwrap().unwrap();
    assert!(caller.needs(Scope::Read).is_ok());
    assert_eq!(caller.needs(Scope::Enqueue).unwrap_err().status, 401);
    // A proxy on this machine serves others.
    for headers in [&[("host", "stepd.example")][..], &[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")]] {
        assert!(asked(&local, headers, Method::GET).unwrap().is_none());
    }
    assert!(asked(&access("0.0.0.0:7837"), &[("host", "localhost")], Method::GET).unwrap().is_none());
}

#[test]
fn a_token_is_good_for_its_scope_and_a_wrong_one_for_nothing() {
    let open = access("0.0.0.0:7837");
    let with = |token: &str| asked(&open, &[("host", "stepd.example"), ("authorization", token)], Method::POST);
    let caller = with("Bearer offen").unwrap().unwrap();
    assert!(caller.needs(Scope::Read).is_ok() && caller.needs(Scope::Enqueue).is_ok());
    assert_eq!(caller.needs(Scope::Operate).unwrap_err().status, 403);
    assert!(with("bearer geheim").unwrap().unwrap().needs(Scope::Operate).is_ok());
    for _ in 0..TRIES {
        assert_eq!(with("Bearer geraten").unwrap_err(), 401);
    }
    assert_eq!(with("Bearer geraten").unwrap_err(), 429, "from that address it has been tried too often");
    assert!(with("Bearer geheim").is_ok(), "a right one is kept out by nobody's guesses");
}

#[test]
fn a_page_of_another_origin_may_not_act() {
    let local = access("127.0.0.1:7837");
    let from = |origin, method| asked(&local, &[("host", "localhost:7837"), ("origin", origin)], method);
    assert!(from("http://localhost:7837", Method::POST).is_ok());
    for origin in ["http://evil.example", "null", "http://localhost:9999"] {
        assert_eq!(from(origin, Method::POST).unwrap_err(), 403, "{origin}");
        assert!(from(origin, Method::GET).is_ok(), "reading an answer is what the browser itself forbids");
    }
}

#[test]
fn what_a_browser_says_of_itself_is_believed() {
    let local = access("127.0.0.1:7837");
    let from = |site| asked(&local, &[("host", "localhost:7837"), ("sec-fetch-site", site)], Method::POST);
    assert!(from("same-origin").is_ok() && from("none").is_ok());
    for site in ["cross-site", "same-site", ""] {
        assert_eq!(from(site).unwrap_err(), 403, "{site}");
    }
}

#[test]
fn who_guesses_behind_a_proxy_of_this_machine_does_not_shut_the_others_out() {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", "9.9.9.9, 1.2.3.4".parse().unwrap());
    let (proxy, stranger) = ("127.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap());
    assert_eq!(client(proxy, &headers).to_string(), "1.2.3.4", "what the proxy has added, not what it was sent");
    assert_eq!(client(stranger, &headers), stranger);
    assert_eq!(client(proxy, &HeaderMap::new()), proxy);
}

#[test]
fn a_token_that_is_gone_or_good_for_something_else_ends_what_was_begun_with_it() {
    let access = access("127.0.0.1:7837");
    let ops =
        asked(&access, &[("host", "localhost"), ("authorization", "Bearer geheim")], Method::GET).unwrap().unwrap();
    assert!(access.still(&ops));
    assert!(!access.still(&Caller { until: Some(1), ..ops.clone() }));
    access.replace(Rules::default());
    assert!(!access.still(&ops));
}
