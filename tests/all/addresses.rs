//! Which address a caller has, and who records which.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::Config;

use crate::harness::{Request, SignedIn, TestServer};

/// Public, and in the embedded location file.
const FIRST: &str = "1.1.1.1";
const LATER: &str = "8.8.8.8";

fn trust_loopback(config: &mut Config) {
    config.server.trusted_proxies = vec![
        "127.0.0.0/8".parse().expect("a network"),
        "10.0.0.0/8".parse().expect("a network"),
    ];
}

/// What is recorded of a session: the first and the latest other address.
async fn recorded(server: &TestServer, session: &SignedIn) -> (Value, Value) {
    server.tick().await;
    let reply = server
        .get(&format!("/v1/sessions/{}", session.id))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    (
        reply.json["ip_address"].clone(),
        reply.json["last_ip_address"].clone(),
    )
}

/// The calls by which a holder uses or looks at a session: name, request without credential.
fn token_plane(server: &TestServer) -> [(&'static str, Request<'_>); 2] {
    [
        ("GET", server.get("/v1/session")),
        ("HEAD", server.request(Method::HEAD, "/v1/session")),
    ]
}

#[tokio::test]
async fn without_trusted_proxies_the_peer_is_the_client_whatever_headers_say() {
    let server = TestServer::start().await;
    let headers = [
        None,
        Some(("forwarded", "for=1.1.1.1")),
        Some(("x-forwarded-for", "1.1.1.1")),
        Some(("x-real-ip", "1.1.1.1")),
    ];
    let mut reasons = Vec::new();
    for header in headers {
        let request = server.get("/v1/whoami");
        let request = match header {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        let reply = request.send().await;
        assert_eq!(
            (reply.status, &reply.json["address"]),
            (200, &json!("127.0.0.1")),
            "{header:?}"
        );
        assert_eq!(reply.json["peer"], "127.0.0.1");
        reasons.push(reply.json["why"].as_str().expect("a sentence").to_owned());
    }
    assert_eq!(reasons[0], reasons[3], "a header that nobody reads");
    assert!(
        reasons[1].contains("trusted_proxies") && reasons[1] == reasons[2],
        "{reasons:?}"
    );
}

#[tokio::test]
async fn chain_of_trusted_proxies_is_walked_from_the_right() {
    let server = TestServer::start_with(trust_loopback).await;
    type Headers<'h> = &'h [(&'h str, &'h str)];
    let cases: &[(Headers<'_>, Value)] = &[
        (&[], json!("127.0.0.1")),
        (&[("x-forwarded-for", "203.0.113.9")], json!("203.0.113.9")),
        (
            &[("x-forwarded-for", "1.1.1.1, 203.0.113.9")],
            json!("203.0.113.9"),
        ),
        (
            &[("x-forwarded-for", "203.0.113.9, 10.2.3.4")],
            json!("203.0.113.9"),
        ),
        (
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-for", "203.0.113.9, 10.2.3.4"),
            ],
            json!("203.0.113.9"),
        ),
        (&[("x-forwarded-for", "203.0.113.9:4711")], json!("203.0.113.9")),
        (&[("x-forwarded-for", "2001:db8::1")], json!("2001:db8::1")),
        (&[("x-forwarded-for", "::ffff:203.0.113.9")], json!("203.0.113.9")),
        (&[("x-forwarded-for", "unknown")], Value::Null),
        (&[("x-forwarded-for", "")], Value::Null),
        (&[("x-forwarded-for", "10.0.0.9, 10.0.0.8")], json!("10.0.0.9")),
        (
            &[("forwarded", "for=203.0.113.9;proto=https")],
            json!("203.0.113.9"),
        ),
        (
            &[("forwarded", "FOR=\"[2001:db8::1]:4711\"")],
            json!("2001:db8::1"),
        ),
        (
            &[("forwarded", "for=1.1.1.1, for=203.0.113.9, for=10.2.3.4")],
            json!("203.0.113.9"),
        ),
        (&[("forwarded", "for=_hidden")], Value::Null),
        (&[("forwarded", "proto=https")], Value::Null),
        (
            &[("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=203.0.113.9")],
            json!("203.0.113.9"),
        ),
        (
            &[("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=unknown")],
            Value::Null,
        ),
        (&[("x-real-ip", "9.9.9.9")], json!("127.0.0.1")),
    ];
    for (headers, address) in cases {
        let request = server.get("/v1/whoami");
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(name, value));
        let reply = request.send().await;
        assert_eq!(reply.json["address"], *address, "{headers:?}: {}", reply.text);
        assert_eq!(reply.json["peer"], "127.0.0.1", "{headers:?}");
        assert!(
            reply.json["why"].as_str().is_some_and(|why| !why.is_empty()),
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn whoami_needs_no_credential_and_keeps_nothing() {
    let server = TestServer::start().await;
    let reply = server
        .get("/v1/whoami")
        .header("authorization", "Bearer nonsense")
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn service_plane_records_the_address_of_the_body_never_the_peers() {
    let server = TestServer::start_with(trust_loopback).await;
    let create = |body: Value| {
        server
            .post("/v1/sessions", body)
            .key(&server.key)
            .header("x-forwarded-for", LATER)
            .send()
    };
    let bare = create(json!({ "user_id": "ada" })).await;
    assert_eq!(bare.json["session"]["ip_address"], Value::Null, "{}", bare.text);
    let given = create(json!({ "user_id": "ada", "ip_address": FIRST })).await;
    assert_eq!(given.json["session"]["ip_address"], FIRST);
    let id = given.json["session"]["id"].as_str().expect("an id").to_owned();
    let token = given.json["token"].as_str().expect("a token").to_owned();
    let session = SignedIn {
        id,
        token,
        body: given.json,
    };
    server.advance(600);
    let touch = format!("/v1/sessions/{}/touch", session.id);
    for (path, body) in [
        ("/v1/sessions/check", json!({ "token": session.token })),
        (touch.as_str(), json!({})),
    ] {
        let reply = server
            .post(path, body)
            .key(&server.key)
            .header("x-forwarded-for", LATER)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(
            recorded(&server, &session).await,
            (json!(FIRST), Value::Null),
            "{path}"
        );
    }
    for (path, body, later) in [
        (
            "/v1/sessions/check",
            json!({ "token": session.token, "ip_address": LATER }),
            LATER,
        ),
        (touch.as_str(), json!({ "ip_address": "9.9.9.9" }), "9.9.9.9"),
    ] {
        let reply = server.post(path, body).key(&server.key).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(
            recorded(&server, &session).await,
            (json!(FIRST), json!(later)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn check_that_only_looks_records_no_address() {
    let server = TestServer::start().await;
    let ada = server.create(json!({ "ip_address": FIRST })).await;
    let body = json!({ "token": ada.token, "ip_address": LATER, "touch": false });
    server
        .post("/v1/sessions/check", body)
        .key(&server.key)
        .send()
        .await;
    server
        .get("/v1/session?touch=false")
        .cookie(&ada.token)
        .send()
        .await;
    assert_eq!(recorded(&server, &ada).await, (json!(FIRST), Value::Null));
}

#[tokio::test]
async fn token_plane_by_cookie_records_the_peer_without_a_trusted_proxy() {
    let server = TestServer::start().await;
    for (name, request) in token_plane(&server) {
        let ada = server.create(json!({ "ip_address": FIRST })).await;
        request
            .cookie(&ada.token)
            .header("x-forwarded-for", LATER)
            .send()
            .await;
        assert_eq!(
            recorded(&server, &ada).await,
            (json!(FIRST), json!("127.0.0.1")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn token_plane_by_cookie_records_the_client_behind_a_trusted_proxy() {
    let server = TestServer::start_with(trust_loopback).await;
    for (name, request) in token_plane(&server) {
        let ada = server.create(json!({ "ip_address": FIRST })).await;
        request
            .cookie(&ada.token)
            .header("x-forwarded-for", LATER)
            .send()
            .await;
        assert_eq!(
            recorded(&server, &ada).await,
            (json!(FIRST), json!(LATER)),
            "{name}"
        );
    }
    let ada = server.create(json!({ "ip_address": FIRST })).await;
    server
        .get("/v1/session")
        .cookie(&ada.token)
        .header("x-forwarded-for", "unknown")
        .send()
        .await;
    assert_eq!(
        recorded(&server, &ada).await,
        (json!(FIRST), Value::Null),
        "nobody knows"
    );
}

#[tokio::test]
async fn token_plane_by_bearer_records_only_what_a_trusted_proxy_forwarded() {
    let direct = TestServer::start().await;
    let proxied = TestServer::start_with(trust_loopback).await;
    for (server, header, expected) in [
        (&direct, None, Value::Null),
        (&direct, Some(LATER), Value::Null),
        (&proxied, None, Value::Null),
        (&proxied, Some("unknown"), Value::Null),
        (&proxied, Some(LATER), json!(LATER)),
    ] {
        for (name, request) in token_plane(server) {
            let ada = server.create(json!({ "ip_address": FIRST })).await;
            let request = request.bearer(&ada.token);
            let request = match header {
                Some(header) => request.header("x-forwarded-for", header),
                None => request,
            };
            assert_eq!(request.send().await.status, 200);
            assert_eq!(
                recorded(server, &ada).await,
                (json!(FIRST), expected.clone()),
                "{name} {header:?}"
            );
        }
    }
}

#[tokio::test]
async fn self_plane_records_no_address() {
    let server = TestServer::start_with(trust_loopback).await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": FIRST }))
        .await;
    server.advance(600);
    let own = format!("/v1/me/sessions/{}", ada.id);
    for request in [
        server.get("/v1/me/sessions"),
        server.patch(&own, json!({ "name": "den" })),
        server.delete("/v1/me/sessions"),
    ] {
        let request = request.cookie(&ada.token).same_origin();
        let reply = request.header("x-forwarded-for", LATER).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    assert_eq!(recorded(&server, &ada).await, (json!(FIRST), Value::Null));
}

#[tokio::test]
async fn first_address_seen_stays_and_the_latest_other_one_is_kept_beside_it() {
    let server = TestServer::start_with(trust_loopback).await;
    let ada = server.sign_in("ada").await;
    let mut seen = Vec::new();
    for address in [FIRST, LATER, "9.9.9.9", "::ffff:9.9.9.9", "fe80::1"] {
        let reply = server
            .get("/v1/session")
            .cookie(&ada.token)
            .header("x-forwarded-for", address)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        // The answer shows the state after its own use, and so does the database.
        let shown = (
            reply.json["ip_address"].clone(),
            reply.json["last_ip_address"].clone(),
        );
        assert_eq!(recorded(&server, &ada).await, shown, "{address}");
        seen.push(shown);
    }
    let later = |address: &str| (json!(FIRST), json!(address));
    let expected = [
        (json!(FIRST), Value::Null),
        later(LATER),
        later("9.9.9.9"),
        later("9.9.9.9"),
        later("fe80::1"),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn address_that_does_not_parse_is_null_without_failing_the_call() {
    let server = TestServer::start().await;
    for text in [
        "",
        "x",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.1.1.1/8",
        "[::1]",
        "1.1.1.1:80",
        "fe80::1%eth0",
    ] {
        let session = server.create(json!({ "ip_address": text })).await;
        assert_eq!(session.body["session"]["ip_address"], Value::Null, "{text}");
        for (path, body) in [
            (
                "/v1/sessions/check".to_owned(),
                json!({ "token": session.token, "ip_address": text }),
            ),
            (
                format!("/v1/sessions/{}/touch", session.id),
                json!({ "ip_address": text }),
            ),
        ] {
            let reply = server.post(&path, body).key(&server.key).send().await;
            assert_eq!(reply.status, 200, "{text}: {}", reply.text);
        }
        assert_eq!(
            recorded(&server, &session).await,
            (Value::Null, Value::Null),
            "{text}"
        );
    }
}

#[tokio::test]
async fn any_address_that_parses_is_kept_and_only_public_ones_have_a_place() {
    let server = TestServer::start().await;
    for address in [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "169.254.1.1",
        "224.0.0.1",
        "fe80::1",
        "0.0.0.0",
        "255.255.255.255",
    ] {
        let session = server.create(json!({ "ip_address": address })).await.body["session"].clone();
        assert_eq!(
            (&session["ip_address"], &session["location"]),
            (&json!(address), &Value::Null)
        );
    }
    let session = server.create(json!({ "ip_address": LATER })).await.body["session"].clone();
    assert_eq!(
        (&session["ip_address"], &session["location"]),
        (&json!(LATER), &json!("US"))
    );
}
