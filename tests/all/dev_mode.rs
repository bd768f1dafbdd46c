//! `sessiond dev`: for this machine only, with a sign-in that takes any name and a clock that can be moved.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::CookieProfile;
use sessiond::server::Mode;

use crate::harness::{FIREFOX_ON_LINUX, Reply, START, TestServer, events, open_database};
use crate::wire::{assert_unchanged, dump, exchange};

async fn start() -> TestServer {
    TestServer::start_in(Mode::Dev, |config| {
        // What the command does with the configuration.
        for app in config.apps.values_mut() {
            app.cookie.profile = CookieProfile::Loopback;
            app.sign_in_url = Some("/dev/sign-in".into());
        }
    })
    .await
}

async fn sign_in(server: &TestServer, name: &str) -> Reply {
    let request = server.post("/dev/sign-in", json!({ "name": name })).same_origin();
    request.header("user-agent", FIREFOX_ON_LINUX).send().await
}

/// What a browser sends back after a sign-in.
fn cookie_of(reply: &Reply) -> String {
    let cookie = reply.header("set-cookie").expect("a cookie");
    cookie.split(';').next().expect("a pair").to_owned()
}

async fn advance(server: &TestServer, secs: u64) -> Reply {
    let reply = server
        .post("/dev/clock", json!({ "advance_secs": secs }))
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

/// The only session's row: last use, end and reason.
fn row(server: &TestServer) -> (i64, Option<i64>, Option<String>) {
    let query = "SELECT last_activity_at, ended_at, revoked_reason FROM sessions";
    open_database(&server.database())
        .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .expect("one row")
}

#[tokio::test]
async fn only_localhost_and_loopback_hosts_are_answered() {
    let server = start().await;
    let cases = [
        ("localhost", 200),
        ("localhost:7377", 200),
        ("LocalHost:7377", 200),
        ("127.0.0.1", 200),
        ("127.9.8.7:80", 200),
        ("[::1]", 200),
        ("[::1]:7377", 200),
        ("example.com", 403),
        ("localhost.example.com", 403),
        ("evil-localhost", 403),
        ("127.0.0.1.nip.io:7377", 403),
        ("192.168.1.10:7377", 403),
        ("0.0.0.0:7377", 403),
        ("[::]", 403),
        ("localhost:7377@example.com", 403),
        ("nonsense host", 403),
        ("", 403),
    ];
    for (host, status) in cases {
        for path in ["/", "/healthz", "/static/app.js", "/dev/sign-in"] {
            let reply = server.get(path).header("host", host).send().await;
            assert_eq!(reply.status, status, "{host} {path}: {:.200}", reply.text);
            if status == 403 {
                reply.assert_problem(403, "dev_only_loopback");
            }
        }
    }
}

#[tokio::test]
async fn request_without_host_is_refused() {
    let server = start().await;
    let answer = exchange(&server, b"GET /healthz HTTP/1.0\r\n\r\n")
        .await
        .expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.body);
}

#[tokio::test]
async fn forwarded_requests_are_refused_and_change_nothing() {
    let server = start().await;
    let ada = server.sign_in("ada").await;
    let before = dump(&server).await;
    for header in [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "cf-connecting-ip",
        "true-client-ip",
        "x-real-ip",
        "via",
    ] {
        for request in [
            server.get("/"),
            server.get("/nowhere"),
            server.post("/dev/sign-in", json!({ "name": "eve" })),
            server.post("/dev/clock", json!({ "advance_secs": 60 })),
            server.post("/v1/sessions", json!({})).key(&server.key),
            server.delete("/v1/session").bearer(&ada.token),
        ] {
            let reply = request.header(header, "127.0.0.1").send().await;
            reply.assert_problem(403, "dev_only_loopback");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
    assert_eq!(server.clock.now(), START);
}

#[tokio::test]
async fn anybody_signs_in_by_name_and_gets_the_loopback_cookie() {
    let server = start().await;
    let reply = sign_in(&server, "Ada Lovelace").await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let session = &reply.json["session"];
    assert_eq!(session["user_id"], "Ada Lovelace");
    assert_eq!(session["device_info"], "Firefox on Linux");
    assert_eq!(session["ip_address"], "127.0.0.1");
    assert_eq!(session["is_current"], true);
    let cookie = reply.header("set-cookie").expect("a cookie");
    assert!(cookie.starts_with("sessiond_dev=sst_"), "{cookie}");
    assert!(
        cookie.ends_with("; Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
    assert!(
        !reply.text.contains("sst_"),
        "the page's scripts need no token: {}",
        reply.text
    );
    let listed = server
        .get("/v1/me/sessions")
        .header("cookie", &cookie_of(&reply))
        .same_origin()
        .send()
        .await;
    assert_eq!(listed.json["sessions"][0]["id"], session["id"], "{}", listed.text);
}

#[tokio::test]
async fn ending_a_session_from_a_second_browser_signs_it_out() {
    let server = start().await;
    let (first, second) = (sign_in(&server, "ada").await, sign_in(&server, "ada").await);
    let path = format!(
        "/v1/me/sessions/{}",
        first.json["session"]["id"].as_str().expect("an id")
    );
    let by_second = server
        .delete(&path)
        .header("cookie", &cookie_of(&second))
        .same_origin()
        .send()
        .await;
    assert_eq!(by_second.status, 204, "{}", by_second.text);
    let refused = server
        .get("/v1/me/sessions")
        .header("cookie", &cookie_of(&first))
        .same_origin()
        .send()
        .await;
    refused.assert_problem(401, "session_ended");
    assert_eq!(refused.json["sign_in_url"], "/dev/sign-in");
}

#[tokio::test]
async fn sign_in_page_is_there_and_its_parts_too() {
    let server = start().await;
    for method in [Method::GET, Method::HEAD] {
        let reply = server.request(method, "/dev/sign-in").send().await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        assert!(reply.header("content-security-policy").is_some());
    }
    let markup = server.get("/dev/sign-in").send().await.text;
    let links = ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|name| markup.split(name).skip(1))
        .map(|rest| rest.split('"').next().expect("an end"));
    let links: Vec<&str> = links.collect();
    assert!(links.len() >= 2, "{links:?}");
    for link in links {
        let path = link
            .strip_prefix("..")
            .unwrap_or_else(|| panic!("{link} does not begin at the page's folder"));
        assert_eq!(server.get(path).send().await.status, 200, "{link}");
    }
}

#[tokio::test]
async fn clock_moves_and_answers_its_time() {
    let server = start().await;
    let reply = advance(&server, 86_400).await;
    assert_eq!(reply.json, json!({ "now": "2026-01-02T00:00:00.000Z" }));
    assert_eq!(server.clock.now().millis_since(START), 86_400_000);
    let later = sign_in(&server, "ada").await;
    assert_eq!(later.json["session"]["created_at"], "2026-01-02T00:00:00.000Z");
}

#[tokio::test]
async fn moving_the_clock_writes_the_uses_before_it() {
    let server = start().await;
    let cookie = cookie_of(&sign_in(&server, "ada").await);
    advance(&server, 600).await;
    let reply = server
        .get("/v1/session")
        .header("cookie", &cookie)
        .same_origin()
        .send()
        .await;
    assert_eq!(
        reply.json["last_activity_at"], "2026-01-01T00:10:00.000Z",
        "{}",
        reply.text
    );
    assert_eq!(row(&server).0, START.as_millis(), "the use is only in memory yet");
    advance(&server, 60).await;
    assert_eq!(row(&server).0, START.as_millis() + 600_000);
}

#[tokio::test]
async fn moving_the_clock_past_a_deadline_sweeps() {
    let server = start().await;
    let reply = sign_in(&server, "ada").await;
    advance(&server, 7 * 86_400 - 1).await;
    assert_eq!(row(&server).1, None);
    advance(&server, 1).await;
    let deadline = START.as_millis() + 7 * 86_400_000;
    assert_eq!(
        row(&server),
        (START.as_millis(), Some(deadline), Some("idle_timeout".to_owned()))
    );
    let id = reply.json["session"]["id"].as_str().map(str::to_owned);
    assert_eq!(
        events(&server.database()).last(),
        Some(&("session.expired".to_owned(), id))
    );
    let refused = server
        .get("/v1/session")
        .header("cookie", &cookie_of(&reply))
        .same_origin()
        .send()
        .await;
    refused.assert_problem(401, "session_ended");
    advance(&server, 31 * 86_400).await;
    let count =
        open_database(&server.database()).query_row("SELECT count(*) FROM sessions", [], |row| row.get(0));
    assert_eq!(count, Ok(0), "and past the retention it is gone");
}

#[tokio::test]
async fn bad_input_of_the_dev_routes_is_refused_and_changes_nothing() {
    let server = start().await;
    let before = dump(&server).await;
    let long = "a".repeat(256);
    let cases = [
        ("/dev/sign-in", json!({}), "name"),
        ("/dev/sign-in", json!({ "name": "" }), "name"),
        ("/dev/sign-in", json!({ "name": ".." }), "name"),
        ("/dev/sign-in", json!({ "name": long }), "name"),
        ("/dev/sign-in", json!({ "name": 1 }), "name"),
        ("/dev/sign-in", json!({ "name": "ada", "tier": "pro" }), "tier"),
        ("/dev/sign-in", json!(["ada"]), "body"),
        ("/dev/clock", json!({}), "advance_secs"),
        ("/dev/clock", json!({ "advance_secs": -1 }), "advance_secs"),
        ("/dev/clock", json!({ "advance_secs": 1.5 }), "advance_secs"),
        (
            "/dev/clock",
            json!({ "advance_secs": 400 * 86_400 + 1 }),
            "advance_secs",
        ),
        ("/dev/clock", json!({ "advance_secs": u64::MAX }), "advance_secs"),
        ("/dev/clock", Value::Null, "body"),
    ];
    for (path, body, field) in cases {
        let reply = server.post(path, body.clone()).send().await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), [field], "{path} {body}");
    }
    for (path, query, field) in [
        ("/dev/sign-in", "x=1", "x"),
        ("/dev/sign-in", "app=nowhere", "app"),
        ("/dev/clock", "advance_secs=1", "advance_secs"),
    ] {
        let reply = server
            .post(&format!("{path}?{query}"), json!({ "name": "ada" }))
            .send()
            .await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), [field], "{path}?{query}");
    }
    let reply = server.get("/dev/clock").send().await;
    reply.assert_problem(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = server.delete("/dev/sign-in").send().await;
    assert_eq!(
        (reply.status, reply.header("allow")),
        (405, Some("GET, HEAD, POST"))
    );
    assert_unchanged(&before, &dump(&server).await);
    assert_eq!(server.clock.now(), START);
}

#[tokio::test]
async fn pages_of_other_sites_can_neither_sign_in_nor_move_the_clock() {
    let server = start().await;
    let before = dump(&server).await;
    let calls = [
        ("/dev/sign-in", json!({ "name": "eve" })),
        ("/dev/clock", json!({ "advance_secs": 60 })),
    ];
    for (path, body) in calls {
        for site in ["cross-site", "same-site"] {
            let reply = server
                .post(path, body.clone())
                .header("sec-fetch-site", site)
                .send()
                .await;
            reply.assert_problem(403, "cross_site");
            assert_eq!(reply.header("set-cookie"), None);
        }
        // What an old browser sends across sites without asking first.
        for media_type in ["text/plain", "application/x-www-form-urlencoded"] {
            let reply = server
                .request(Method::POST, path)
                .raw(media_type, body.to_string().as_bytes())
                .send()
                .await;
            reply.assert_problem(415, "unsupported_media_type");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
    assert_eq!(server.clock.now(), START);
}

#[tokio::test]
async fn dev_routes_do_not_exist_under_serve() {
    let server = TestServer::start().await;
    for path in ["/dev/sign-in", "/dev/clock", "/dev", "/dev/"] {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let request = server
                .request(method.clone(), path)
                .json(json!({ "name": "eve", "advance_secs": 1 }));
            let reply = request.same_origin().send().await;
            assert_eq!(reply.status, 404, "{method} {path}");
        }
    }
    assert_eq!(server.clock.now(), START);
}

#[tokio::test]
async fn serve_answers_any_host() {
    let server = TestServer::start().await;
    let reply = server
        .get("/healthz")
        .header("host", "example.com")
        .header("via", "x")
        .send()
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn dev_stands_below_a_base_path_too() {
    let server = TestServer::start_in(Mode::Dev, |config| config.server.base_path = "/auth".into()).await;
    assert_eq!(sign_in(&server, "ada").await.status, 201);
    let root = server.base.strip_suffix("/auth").expect("the base path");
    for path in ["/auth", "/auth/", "/healthz", "/nowhere"] {
        let reply = server
            .client
            .get(format!("{root}{path}"))
            .header("host", "example.com")
            .send()
            .await;
        assert_eq!(reply.expect("an answer").status().as_u16(), 403, "{path}");
    }
}
