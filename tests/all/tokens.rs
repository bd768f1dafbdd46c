//! What gives a session another token, over HTTP: renewals by its holder, sign-ins by the application.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::{AppConfig, Config, CookieConfig, CookieProfile};
use sessiond::server::beside;
use sessiond::session::{AppName, OnLimit, OnTokenReuse};

use crate::harness::{FIREFOX_ON_LINUX, Reply, Request, SignedIn, TestServer, events, eventually};
use crate::support::{DAY, HOUR, UNKNOWN_ID, add_app, at, count, rows};
use crate::wire::{assert_unchanged, dump};

/// How long a replaced token stays good by default, in seconds.
const GRACE: u64 = 30;
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";

fn default_app(config: &mut Config) -> &mut AppConfig {
    config.apps.get_mut(&AppName::default_app()).expect("the app")
}

fn renewal(server: &TestServer) -> Request<'_> {
    server.request(Method::POST, "/v1/session/renew")
}

async fn renew(server: &TestServer, token: &str) -> Reply {
    renewal(server).bearer(token).send().await
}

/// The successor of a token.
async fn successor(server: &TestServer, token: &str) -> String {
    token_in(&renew(server, token).await)
}

#[track_caller]
fn token_in(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json["token"].as_str().expect("a token").to_owned()
}

/// A session whose token was replaced so long ago that it is no longer good; with its successor.
async fn with_grace_over(server: &TestServer) -> (SignedIn, String) {
    let ada = server.sign_in("ada").await;
    let successor = successor(server, &ada.token).await;
    assert_eq!(server.check(&successor).await.status, 200);
    server.advance(GRACE);
    (ada, successor)
}

fn told(server: &TestServer, kind: &str) -> usize {
    let events = events(&server.database());
    events.iter().filter(|(told, _)| told == kind).count()
}

fn event_types(server: &TestServer) -> Vec<String> {
    let events = events(&server.database());
    events.into_iter().map(|(kind, _)| kind).collect()
}

/// The same id with another secret.
fn with_secret_of(token: &str, other: &str) -> String {
    format!("{}{}", &token[..40], &other[40..])
}

fn set_cookies(reply: &Reply) -> Vec<&str> {
    let values = reply.headers.get_all("set-cookie").iter();
    values.map(|value| value.to_str().expect("text")).collect()
}

fn sign_in_path(id: &str) -> String {
    format!("/v1/sessions/{id}/authenticate")
}

async fn authenticate(server: &TestServer, id: &str, body: Value) -> Reply {
    server.post(&sign_in_path(id), body).key(&server.key).send().await
}

async fn patch_user(server: &TestServer, name: &str, body: Value) {
    let reply = server
        .patch(&format!("/v1/users/{name}"), body)
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn data_of(server: &TestServer, id: &str) -> Value {
    let reply = server
        .get(&format!("/v1/sessions/{id}/data"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

#[tokio::test]
async fn renewal_by_header_answers_another_token_of_the_same_session_and_sets_no_cookie() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let reply = renew(&server, &ada.token).await;
    let token = token_in(&reply);
    assert_ne!(token, ada.token);
    assert_eq!(token.len(), 68);
    assert_eq!(
        (&reply.json["session"]["id"], &reply.json["session"]["is_current"]),
        (&json!(ada.id), &json!(true))
    );
    assert_eq!(
        reply.json["set_cookie"],
        format!("__Host-session={token}; Max-Age=2592000; {ATTRIBUTES}")
    );
    assert_eq!(set_cookies(&reply), [""; 0]);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(server.check(&token).await.json["id"], ada.id.as_str());
}

#[tokio::test]
async fn renewal_by_cookie_sets_one_cookie_for_what_is_left_of_the_session() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.advance(HOUR);
    let reply = renewal(&server).cookie(&ada.token).same_origin().send().await;
    let token = token_in(&reply);
    let max_age = 30 * DAY - HOUR;
    let expected = format!("__Host-session={token}; Max-Age={max_age}; {ATTRIBUTES}");
    assert_eq!(set_cookies(&reply), [expected.as_str()]);
    assert_eq!(reply.json["set_cookie"], expected);
    let reply = server.get("/v1/session").cookie(&token).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn renewal_reads_and_sets_the_cookie_of_the_requests_app() {
    let server = TestServer::start_with(|config| {
        let mut shop = default_app(config).clone();
        shop.cookie = CookieConfig {
            profile: CookieProfile::Shared,
            name_suffix: "shop".into(),
            domain: Some("example.com".into()),
        };
        config.apps.insert(AppName::parse("shop").expect("a name"), shop);
    })
    .await;
    let key = server.key_of("shop").await;
    let sam = server
        .post("/v1/sessions", json!({ "user_id": "sam" }))
        .key(&key)
        .send()
        .await;
    let cookie = format!(
        "__Secure-session-shop={}",
        sam.json["token"].as_str().expect("a token")
    );
    let reply = server
        .request(Method::POST, "/v1/session/renew?app=shop")
        .header("cookie", &cookie)
        .same_origin()
        .send()
        .await;
    let token = token_in(&reply);
    let expected = format!(
        "__Secure-session-shop={token}; Max-Age=2592000; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=Lax"
    );
    assert_eq!(set_cookies(&reply), [expected.as_str()]);
}

#[tokio::test]
async fn renewal_is_a_use_and_moves_no_absolute_deadline() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.advance(HOUR);
    let session = renew(&server, &ada.token).await.json["session"].clone();
    assert_eq!(session["last_activity_at"], at(HOUR));
    assert_eq!(session["expires_at"], at(HOUR + 7 * DAY));
    for field in ["created_at", "authenticated_at", "absolute_expires_at", "user_id"] {
        assert_eq!(session[field], ada.body["session"][field], "{field}");
    }
}

#[tokio::test]
async fn renewing_a_successor_in_the_grace_of_the_one_before_answers_it_unchanged() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    for secs in [0, GRACE - 1] {
        server.advance(secs);
        assert_eq!(successor(&server, &first).await, first, "after {secs} s");
        assert_eq!(successor(&server, &ada.token).await, first, "after {secs} s");
    }
    assert_eq!(told(&server, "session.renewed"), 1);
    server.advance(1);
    let second = successor(&server, &first).await;
    assert_ne!(second, first);
    assert_eq!(told(&server, "session.renewed"), 2);
    assert_eq!(server.check(&second).await.status, 200);
    // Of tokens before the one that was replaced last nothing is known any more.
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn token_whose_renewal_got_lost_is_good_an_hour_later_and_gives_the_same_successor() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let lost = successor(&server, &ada.token).await;
    server.advance(HOUR);
    server.tick().await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(successor(&server, &ada.token).await, lost);
    assert_eq!(server.check(&lost).await.status, 200);
    server.advance(GRACE - 1);
    assert_eq!(
        server.check(&ada.token).await.status,
        200,
        "in the grace that has just begun"
    );
    server.advance(1);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "token_replaced");
}

#[tokio::test]
async fn use_of_a_replaced_token_is_refused_and_told_once_a_minute() {
    let server = TestServer::start().await;
    let (ada, successor) = with_grace_over(&server).await;
    for times in 1..=2 {
        for _ in 0..3 {
            server
                .check(&ada.token)
                .await
                .assert_problem(401, "token_replaced");
            server.sign_in("bob").await; // behind what a check had written
            assert_eq!(told(&server, "session.suspicious"), times);
        }
        server.advance(59);
        server
            .check(&ada.token)
            .await
            .assert_problem(401, "token_replaced");
        server.sign_in("bob").await;
        assert_eq!(told(&server, "session.suspicious"), times, "within the minute");
        server.advance(1);
    }
    assert_eq!(server.check(&successor).await.status, 200, "the session goes on");
    let told = rows(
        &server,
        "SELECT data, user_id FROM events WHERE type = 'session.suspicious'",
    );
    let data: Value = serde_json::from_str(told[0]["data"].as_str().expect("text")).expect("JSON");
    assert!(
        data["explanation"]
            .as_str()
            .is_some_and(|text| text.ends_with('.')),
        "{data}"
    );
    assert_eq!(told[0]["user_id"], "ada");
}

#[tokio::test]
async fn a_look_with_a_replaced_token_is_told_too() {
    let server = TestServer::start().await;
    let (ada, _) = with_grace_over(&server).await;
    let reply = server.get("/v1/me/sessions").cookie(&ada.token).send().await;
    reply.assert_problem(401, "token_replaced");
    assert_eq!(set_cookies(&reply), [""; 0], "no 401 takes a cookie");
    eventually("it is told", async || told(&server, "session.suspicious") == 1).await;
}

#[tokio::test]
async fn renewal_of_a_replaced_token_ends_the_session_for_everyone() {
    let server = TestServer::start().await;
    let (ada, successor) = with_grace_over(&server).await;
    let other = server.sign_in("ada").await;
    let reply = renewal(&server).cookie(&ada.token).same_origin().send().await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(
        (
            &reply.json["revoked_reason"],
            &reply.json["ended_by"],
            &reply.json["ended_at"]
        ),
        (&json!("token_reuse"), &json!("security"), &json!(at(GRACE)))
    );
    assert_eq!(set_cookies(&reply), [""; 0], "no 401 takes a cookie");
    let reply = server.check(&successor).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(reply.json["revoked_reason"], "token_reuse");
    assert_eq!(server.check(&other.token).await.status, 200, "and no other");
    renew(&server, &successor)
        .await
        .assert_problem(401, "session_ended");
    renew(&server, &ada.token)
        .await
        .assert_problem(401, "token_replaced");
    let of_session: Vec<String> = events(&server.database())
        .into_iter()
        .filter(|(_, id)| id.as_deref() == Some(ada.id.as_str()))
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(
        of_session,
        [
            "session.created",
            "session.renewed",
            "session.suspicious",
            "session.revoked"
        ]
    );
}

#[tokio::test]
async fn renewal_of_a_replaced_token_ends_nothing_where_it_is_only_to_be_told() {
    let server =
        TestServer::start_with(|config| default_app(config).on_token_reuse = OnTokenReuse::Notify).await;
    let (ada, successor) = with_grace_over(&server).await;
    for _ in 0..3 {
        renew(&server, &ada.token)
            .await
            .assert_problem(401, "token_replaced");
        assert_eq!(told(&server, "session.suspicious"), 1);
    }
    assert_eq!(server.check(&successor).await.status, 200);
    server.advance(60);
    renew(&server, &ada.token)
        .await
        .assert_problem(401, "token_replaced");
    assert_eq!(told(&server, "session.suspicious"), 2);
    assert_eq!(told(&server, "session.revoked"), 0);
}

#[tokio::test]
async fn wrong_secret_with_a_right_id_is_invalid_and_changes_nothing() {
    let server = TestServer::start().await;
    let other = server.sign_in("bob").await;
    let fresh = server.sign_in("cleo").await;
    let (ada, successor) = with_grace_over(&server).await;
    let before = dump(&server).await;
    for token in [&fresh.token, &ada.token, &successor] {
        let wrong = with_secret_of(token, &other.token);
        renew(&server, &wrong).await.assert_problem(401, "invalid_token");
        server.check(&wrong).await.assert_problem(401, "invalid_token");
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn without_a_grace_the_old_token_is_good_until_the_successor_is_presented() {
    let server = TestServer::start_with(|config| default_app(config).renew_grace_secs = 0).await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    server.advance(HOUR);
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(server.check(&first).await.status, 200);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "token_replaced");
    let second = successor(&server, &first).await;
    assert_ne!(second, first);
    assert_eq!(server.check(&second).await.status, 200);
    let reply = renew(&server, &first).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(reply.json["revoked_reason"], "token_reuse");
}

#[tokio::test]
async fn renewal_records_the_address_that_its_plane_records() {
    let plain = TestServer::start().await;
    let proxied = TestServer::start_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    })
    .await;
    let forwarded = "203.0.113.7";
    type Case<'c> = (&'c str, &'c TestServer, bool, Value);
    let cases: [Case<'_>; 5] = [
        ("header", &plain, false, Value::Null),
        ("cookie", &plain, false, json!("127.0.0.1")),
        (
            "cookie, and a header that nobody believes",
            &plain,
            true,
            json!("127.0.0.1"),
        ),
        ("header", &proxied, true, json!(forwarded)),
        ("cookie", &proxied, true, json!(forwarded)),
    ];
    for (case, server, is_forwarded, expected) in cases {
        let ada = server.sign_in("ada").await;
        let request = match case.split(',').next() {
            Some("header") => renewal(server).bearer(&ada.token),
            _ => renewal(server).cookie(&ada.token).same_origin(),
        };
        let request = if is_forwarded {
            request.header("x-forwarded-for", forwarded)
        } else {
            request
        };
        let reply = request.send().await;
        assert_eq!(reply.status, 200, "{case}: {}", reply.text);
        assert_eq!(reply.json["session"]["ip_address"], expected, "{case}");
        let seen = server.check(&token_in(&reply)).await;
        assert_eq!(seen.json["ip_address"], expected, "{case}, kept");
    }
}

#[tokio::test]
async fn renewal_without_a_good_token_is_refused_and_changes_nothing() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let ada = server.sign_in("ada").await;
    let ended = server.sign_in("ada").await;
    server.delete("/v1/session").bearer(&ended.token).send().await;
    let before = dump(&server).await;
    renewal(&server).send().await.assert_problem(401, "no_session");
    for text in ["", "x", "sst_", &ada.token[..67], &server.key] {
        renew(&server, text).await.assert_problem(401, "invalid_token");
        let reply = renewal(&server).cookie(text).same_origin().send().await;
        reply.assert_problem(401, "invalid_token");
        assert_eq!(set_cookies(&reply), [""; 0], "{text}");
    }
    let reply = renew(&server, &ended.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(
        (&reply.json["revoked_reason"], &reply.json["ended_by"]),
        (&json!("logout"), &json!("user"))
    );
    let elsewhere = server.request(Method::POST, "/v1/session/renew?app=shop");
    elsewhere
        .bearer(&ada.token)
        .send()
        .await
        .assert_problem(401, "invalid_token");
    let nowhere = server.request(Method::POST, "/v1/session/renew?app=none");
    let reply = nowhere.bearer(&ada.token).send().await;
    reply.assert_problem(422, "validation_failed");
    assert_eq!(reply.wrong_fields(), ["app"]);
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn renewal_of_a_session_past_its_deadline_is_refused_with_its_ending() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.advance(7 * DAY);
    let reply = renew(&server, &ada.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(
        (&reply.json["revoked_reason"], &reply.json["ended_at"]),
        (&json!("idle_timeout"), &json!(at(7 * DAY)))
    );
}

#[tokio::test]
async fn renewal_by_cookie_from_another_site_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let before = dump(&server).await;
    let from = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("origin", "https://example.com"),
        ("x-nothing", "neither header"),
    ];
    for (name, value) in from {
        let reply = renewal(&server)
            .cookie(&ada.token)
            .header(name, value)
            .send()
            .await;
        reply.assert_problem(403, "cross_site");
        assert_eq!(set_cookies(&reply), [""; 0], "{name}: {value}");
    }
    assert_unchanged(&before, &dump(&server).await);
    let reply = renewal(&server)
        .bearer(&ada.token)
        .header("sec-fetch-site", "cross-site")
        .send()
        .await;
    assert_eq!(
        reply.status, 200,
        "a header is sent by no browser: {}",
        reply.text
    );
}

#[tokio::test]
async fn renewal_by_cookies_of_different_sessions_is_ambiguous() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.sign_in("ada").await, server.sign_in("grace").await);
    let before = dump(&server).await;
    let both = format!("__Host-session={}; __Host-session={}", ada.token, grace.token);
    let reply = renewal(&server)
        .header("cookie", &both)
        .same_origin()
        .send()
        .await;
    reply.assert_problem(401, "ambiguous_cookie");
    assert_eq!(set_cookies(&reply), [""; 0]);
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn renewal_by_several_cookies_of_one_session_answers_its_successor() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    let by_both = async |one: &str, other: &str| {
        let cookies = format!("a=b; __Host-session={one}; __Host-session={other}");
        let request = renewal(&server).header("cookie", &cookies).same_origin();
        request.send().await
    };
    for (one, other) in [(&ada.token, &first), (&first, &ada.token)] {
        let reply = by_both(one, other).await;
        assert_eq!(token_in(&reply), first, "in the grace");
        assert_eq!(set_cookies(&reply).len(), 1);
    }
    server.advance(GRACE);
    let second = token_in(&by_both(&ada.token, &first).await);
    assert_ne!(second, first, "after it the valid one counts");
    assert_eq!(server.check(&second).await.status, 200);
}

#[tokio::test]
async fn backends_check_says_that_a_token_was_replaced() {
    let server = TestServer::start().await;
    let (ada, successor) = with_grace_over(&server).await;
    let ask = async |token: &str| {
        let body = json!({ "token": token });
        let reply = server
            .post("/v1/sessions/check", body)
            .key(&server.key)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json
    };
    let refused = ask(&ada.token).await;
    assert_eq!(
        (&refused["active"], &refused["code"]),
        (&json!(false), &json!("token_replaced"))
    );
    assert!(refused["detail"].is_string(), "{refused}");
    assert_eq!(refused.get("session"), None);
    assert_eq!(ask(&successor).await["active"], true);
}

#[tokio::test]
async fn renewal_that_is_open_at_a_restart_gives_the_same_successor() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    let server = server.stop().await.restart().await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(successor(&server, &ada.token).await, first);
    assert_eq!(server.check(&first).await.status, 200);
    let server = server.stop().await.restart().await;
    server.advance(GRACE);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "token_replaced");
    assert_eq!(server.check(&first).await.status, 200);
}

#[tokio::test]
async fn renewal_that_is_open_when_the_key_file_is_lost_gives_another_successor() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let lost = successor(&server, &ada.token).await;
    let stopped = server.stop().await;
    std::fs::remove_file(beside(&stopped.config.database.path, ".key")).expect("there was one");
    let server = stopped.restart().await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    let other = successor(&server, &ada.token).await;
    assert_ne!(other, lost);
    assert_eq!(
        successor(&server, &ada.token).await,
        other,
        "from now on the same"
    );
    assert_eq!(server.check(&other).await.status, 200);
    server.check(&lost).await.assert_problem(401, "invalid_token");
    server.advance(GRACE);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "token_replaced");
}

#[tokio::test]
async fn successor_that_was_seen_stays_good_when_the_key_file_is_lost() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    assert_eq!(server.check(&first).await.status, 200);
    let stopped = server.stop().await;
    std::fs::remove_file(beside(&stopped.config.database.path, ".key")).expect("there was one");
    let server = stopped.restart().await;
    // What it was made with cannot be told again to who has the old one, whose grace runs.
    renew(&server, &ada.token)
        .await
        .assert_problem(401, "token_replaced");
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(server.check(&first).await.status, 200);
    assert_eq!(successor(&server, &first).await, first);
}

#[tokio::test]
async fn nonce_of_a_renewal_is_erased_after_the_grace() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    let nonces = || {
        count(
            &server,
            "SELECT count(*) FROM sessions WHERE renew_nonce IS NOT NULL",
        )
    };
    server.advance(HOUR);
    server.tick().await;
    assert_eq!(nonces(), 1, "nobody has presented the successor");
    server.check(&first).await;
    server.advance(GRACE - 1);
    server.tick().await;
    assert_eq!(nonces(), 1, "in the grace");
    server.advance(1);
    server.tick().await;
    assert_eq!(nonces(), 0);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "token_replaced");
    renew(&server, &ada.token)
        .await
        .assert_problem(401, "session_ended");
}

#[tokio::test]
async fn sign_out_by_a_token_in_its_grace_ends_the_session() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let first = successor(&server, &ada.token).await;
    assert_eq!(server.check(&first).await.status, 200);
    let reply = server.delete("/v1/session").bearer(&ada.token).send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    server.check(&first).await.assert_problem(401, "session_ended");
}

#[tokio::test]
async fn sign_out_by_a_token_after_its_grace_ends_the_session_for_everyone() {
    let server = TestServer::start().await;
    let (ada, successor) = with_grace_over(&server).await;
    let other = server.sign_in("ada").await;
    let reply = sign_out_by_cookie(&server, &ada.token).await;
    assert_eq!(set_cookies(&reply).len(), 1, "{reply:?}");
    let reply = server.check(&successor).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(
        (&reply.json["revoked_reason"], &reply.json["ended_by"]),
        (&json!("token_reuse"), &json!("security"))
    );
    assert_eq!(server.check(&other.token).await.status, 200, "and no other");
    let before = dump(&server).await;
    sign_out_by_cookie(&server, &ada.token).await;
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn sign_out_by_a_token_after_its_grace_is_told_where_reuse_ends_nothing() {
    let server =
        TestServer::start_with(|config| default_app(config).on_token_reuse = OnTokenReuse::Notify).await;
    let (ada, successor) = with_grace_over(&server).await;
    sign_out_by_cookie(&server, &ada.token).await;
    assert_eq!(told(&server, "session.suspicious"), 1);
    assert_eq!(server.check(&successor).await.status, 200);
}

#[tokio::test]
async fn sign_out_by_a_token_from_before_the_sign_in_ends_nothing() {
    let server = TestServer::start().await;
    let visit = server.create(json!({})).await;
    let reply = authenticate(&server, &visit.id, json!({ "user_id": "ada" })).await;
    let reply_to_old = sign_out_by_cookie(&server, &visit.token).await;
    assert_eq!(set_cookies(&reply_to_old).len(), 1, "whatever it is, it goes");
    let checked = server.check(&token_in(&reply)).await;
    assert_eq!(checked.status, 200, "who planted a token ends nobody's session");
}

async fn sign_out_by_cookie(server: &TestServer, token: &str) -> Reply {
    let request = server.delete("/v1/session").cookie(token).same_origin();
    let reply = request.send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    reply
}

#[tokio::test]
async fn sign_in_keeps_id_and_data_and_starts_both_deadlines_anew() {
    let server = TestServer::start().await;
    let visit = server
        .create(json!({ "data": { "cart": [1, 2] }, "ip_address": "192.0.2.1" }))
        .await;
    server.advance(DAY);
    let body = json!({ "user_id": "ada", "ip_address": "192.0.2.2", "user_agent": FIREFOX_ON_LINUX,
                       "auth": { "tags": ["staff"] } });
    let reply = authenticate(&server, &visit.id, body).await;
    let token = token_in(&reply);
    let session = &reply.json["session"];
    let expected = json!({
        "id": visit.id, "user_id": "ada", "created_at": at(0), "authenticated_at": at(DAY),
        "last_activity_at": at(DAY), "expires_at": at(8 * DAY), "absolute_expires_at": at(31 * DAY),
        "ip_address": "192.0.2.1", "last_ip_address": "192.0.2.2", "device_info": "Firefox on Linux",
        "auth": { "tags": ["staff"] }, "data_version": 1, "is_current": true, "status": "active",
    });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&session[field], value, "{field}");
    }
    assert_eq!(reply.json["evicted"], json!([]));
    assert_eq!(
        reply.json["set_cookie"],
        format!("__Host-session={token}; Max-Age=2592000; {ATTRIBUTES}")
    );
    assert_eq!(set_cookies(&reply), [""; 0], "the caller is no browser");
    assert_eq!(
        data_of(&server, &visit.id).await["data"],
        json!({ "cart": [1, 2] })
    );
    let checked = server.check(&token).await;
    assert_eq!(
        (checked.status, checked.header("x-session-user-id")),
        (200, Some("ada"))
    );
    assert_eq!(event_types(&server), ["session.created", "session.authenticated"]);
}

#[tokio::test]
async fn tokens_of_before_a_sign_in_are_refused_and_nothing_suspicious() {
    let server = TestServer::start().await;
    let visit = server.create(json!({})).await;
    let renewed = successor(&server, &visit.token).await;
    let reply = authenticate(&server, &visit.id, json!({ "user_id": "ada" })).await;
    let first = token_in(&reply);
    server.check(&renewed).await.assert_problem(401, "token_replaced");
    assert_eq!(
        server.check(&visit.token).await.status,
        401,
        "it was in its grace"
    );
    renew(&server, &renewed)
        .await
        .assert_problem(401, "token_replaced");
    let second = token_in(&authenticate(&server, &visit.id, json!({ "user_id": "ada" })).await);
    server.check(&first).await.assert_problem(401, "token_replaced");
    assert_eq!(server.check(&second).await.status, 200);
    let all = [&visit.token, &renewed, &first, &second];
    let different: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), 4, "every one is fresh");
    assert_eq!(told(&server, "session.suspicious"), 0);
    assert_eq!(told(&server, "session.revoked"), 0);
}

#[tokio::test]
async fn sign_in_again_of_the_same_user_keeps_what_it_does_not_give() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "user_agent": FIREFOX_ON_LINUX, "name": "den",
                       "auth": { "level": 1 }, "data": { "a": 1 }, "ip_address": "192.0.2.1" });
    let ada = server.create(body).await;
    server.advance(HOUR);
    let reply = authenticate(&server, &ada.id, json!({ "user_id": "ada" })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    for field in [
        "id",
        "user_id",
        "user_agent",
        "device",
        "name",
        "auth",
        "ip_address",
        "created_at",
    ] {
        assert_eq!(
            reply.json["session"][field], ada.body["session"][field],
            "{field}"
        );
    }
    assert_eq!(reply.json["session"]["authenticated_at"], at(HOUR));
    assert_eq!(data_of(&server, &ada.id).await["data"], json!({ "a": 1 }));
}

#[tokio::test]
async fn sign_in_that_cannot_be_changes_nothing_and_says_why() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let visit = server.create(json!({})).await;
    let ada = server.sign_in("ada").await;
    let ended = server.create(json!({})).await;
    server.delete("/v1/session").bearer(&ended.token).send().await;
    patch_user(&server, "mallory", json!({ "is_blocked": true })).await;
    patch_user(&server, "nobody", json!({ "max_sessions": 0 })).await;
    let before = dump(&server).await;
    let cases = [
        (&ada.id, "bob", 409, "session_has_other_user"),
        (&visit.id, "mallory", 403, "user_blocked"),
        (&visit.id, "nobody", 409, "session_limit_reached"),
        (&ended.id, "ada", 410, "session_ended"),
        (&UNKNOWN_ID.to_owned(), "ada", 404, "not_found"),
        (&"x".to_owned(), "ada", 404, "not_found"),
    ];
    for (id, user, status, code) in cases {
        let reply = authenticate(&server, id, json!({ "user_id": user })).await;
        reply.assert_problem(status, code);
        assert_eq!(reply.json.get("token"), None, "{code}");
    }
    let shop_key = server.key_of("shop").await;
    let elsewhere = server.post(&sign_in_path(&visit.id), json!({ "user_id": "ada" }));
    elsewhere
        .key(&shop_key)
        .send()
        .await
        .assert_problem(404, "not_found");
    for holder in [&visit.token, &ada.token] {
        let by_token = server.post(&sign_in_path(&visit.id), json!({ "user_id": "ada" }));
        by_token
            .bearer(holder)
            .send()
            .await
            .assert_problem(401, "invalid_api_key");
    }
    let keys = "api_keys ";
    let without_keys = |dump: &str| -> String {
        dump.lines()
            .filter(|row| !row.starts_with(keys))
            .map(|row| format!("{row}\n"))
            .collect()
    };
    assert_unchanged(&without_keys(&before), &without_keys(&dump(&server).await));
    assert_eq!(server.check(&visit.token).await.status, 200);
}

#[tokio::test]
async fn sign_in_verified_before_credentials_changed_and_sent_after_is_refused() {
    let server = TestServer::start().await;
    let visit = server.create(json!({})).await;
    server.sign_in("ada").await;
    server.advance(10);
    let path = "/v1/users/ada/sessions?reason=credentials_changed";
    let reply = server.delete(path).key(&server.key).send().await;
    assert_eq!(reply.json["revoked_count"], 1, "{}", reply.text);
    server.advance(10);
    for secs in [0, 9] {
        let body = json!({ "user_id": "ada", "authenticated_at": at(secs) });
        let reply = authenticate(&server, &visit.id, body.clone()).await;
        reply.assert_problem(409, "credentials_changed");
        let reply = server.post("/v1/sessions", body).key(&server.key).send().await;
        reply.assert_problem(409, "credentials_changed");
    }
    assert_eq!(server.check(&visit.token).await.status, 200, "nobody's still");
    let body = json!({ "user_id": "ada", "authenticated_at": at(11) });
    let reply = authenticate(&server, &visit.id, body).await;
    assert_eq!(
        reply.json["session"]["authenticated_at"],
        at(11),
        "{}",
        reply.text
    );
    let other = server.create(json!({})).await;
    let reply = authenticate(&server, &other.id, json!({ "user_id": "ada" })).await;
    assert_eq!(reply.status, 200, "now is after it: {}", reply.text);
}

#[tokio::test]
async fn sign_in_at_the_limit_evicts_the_oldest_sign_in_first_and_never_itself() {
    let server = TestServer::start().await;
    let visit = server.create(json!({})).await; // the oldest of all
    patch_user(&server, "ada", json!({ "max_sessions": 2 })).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        server.advance(1);
        others.push(server.sign_in("ada").await);
    }
    server.advance(1);
    let reply = authenticate(&server, &visit.id, json!({ "user_id": "ada" })).await;
    let evicted = reply.json["evicted"].as_array().expect("a list");
    assert_eq!(evicted.len(), 1, "{}", reply.text);
    assert_eq!(
        (&evicted[0]["id"], &evicted[0]["revoked_reason"]),
        (&json!(others[0].id), &json!("session_limit_exceeded"))
    );
    assert_eq!(
        event_types(&server)[3..],
        ["session.evicted", "session.authenticated"]
    );
    // The session's sign-in is the newest one now, whenever it was made.
    server.advance(1);
    let next = server.sign_in("ada").await;
    assert_eq!(next.body["evicted"][0]["id"], others[1].id.as_str());
    patch_user(&server, "ada", json!({ "max_sessions": 1 })).await;
    let reply = authenticate(&server, &visit.id, json!({ "user_id": "ada" })).await;
    assert_eq!(reply.json["evicted"][0]["id"], next.id.as_str(), "{}", reply.text);
    assert_eq!(server.check(&token_in(&reply)).await.status, 200);
}

#[tokio::test]
async fn sign_in_at_a_limit_that_denies_lists_the_sessions_and_ends_the_chosen_ones() {
    let server = TestServer::start_with(|config| default_app(config).on_limit = OnLimit::Deny).await;
    patch_user(&server, "ada", json!({ "max_sessions": 2 })).await;
    let visit = server.create(json!({})).await;
    let (first, second) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let foreign = server.sign_in("bob").await;
    let reply = authenticate(&server, &visit.id, json!({ "user_id": "ada" })).await;
    reply.assert_problem(409, "session_limit_reached");
    let listed: Vec<_> = reply.json["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|session| session["id"].as_str().expect("an id"))
        .collect();
    assert_eq!(listed, [&second.id, &first.id], "newest first");
    let chosen = json!([first.id, foreign.id, visit.id, UNKNOWN_ID]);
    let body = json!({ "user_id": "ada", "end_ids": chosen });
    let reply = authenticate(&server, &visit.id, body).await;
    assert_eq!(server.check(&token_in(&reply)).await.status, 200, "not itself");
    assert_eq!(server.check(&second.token).await.status, 200);
    assert_eq!(server.check(&foreign.token).await.status, 200, "others' are left");
    let refused = server.check(&first.token).await;
    refused.assert_problem(401, "session_ended");
    assert_eq!(refused.json["ended_by"], "user");
}

#[tokio::test]
async fn sign_in_again_at_the_limit_needs_no_room() {
    let server = TestServer::start_with(|config| default_app(config).on_limit = OnLimit::Deny).await;
    patch_user(&server, "ada", json!({ "max_sessions": 1 })).await;
    let ada = server.sign_in("ada").await;
    let reply = authenticate(&server, &ada.id, json!({ "user_id": "ada" })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(told(&server, "session.evicted"), 0);
}

#[tokio::test]
async fn sign_in_stores_a_tier_and_goes_by_it() {
    let server = TestServer::start().await;
    patch_user(&server, "ada", json!({ "tier": "pro" })).await;
    for _ in 0..3 {
        server.sign_in("ada").await;
    }
    let visit = server.create(json!({})).await;
    let with = |tier| json!({ "user_id": "ada", "tier": tier });
    let reply = authenticate(&server, &visit.id, with("none such")).await;
    reply.assert_problem(422, "validation_failed");
    assert_eq!(reply.wrong_fields(), ["tier"]);
    let reply = authenticate(&server, &visit.id, with("basic")).await;
    assert_eq!(
        reply.json["evicted"].as_array().map(Vec::len),
        Some(2),
        "{}",
        reply.text
    );
    let user = server.get("/v1/users/ada").key(&server.key).send().await;
    assert_eq!(
        (&user.json["tier"], &user.json["active_count"]),
        (&json!("basic"), &json!(2))
    );
}

#[tokio::test]
async fn sign_in_lives_as_long_as_the_policy_or_shorter() {
    let server = TestServer::start().await;
    let cases = [
        (json!({}), 7 * DAY, 30 * DAY),
        (json!({ "remember": true }), 30 * DAY, 90 * DAY),
        (
            json!({ "idle_timeout_secs": 60, "absolute_timeout_secs": 600 }),
            60,
            600,
        ),
        (
            json!({ "idle_timeout_secs": 100 * DAY, "absolute_timeout_secs": 100 * DAY }),
            7 * DAY,
            30 * DAY,
        ),
    ];
    for (mut body, idle, absolute) in cases {
        // What the session had before does not count.
        let before = json!({ "idle_timeout_secs": 90, "absolute_timeout_secs": 900 });
        let visit = server.create(before).await;
        body["user_id"] = json!("ada");
        let reply = authenticate(&server, &visit.id, body.clone()).await;
        let session = &reply.json["session"];
        assert_eq!(session["expires_at"], at(idle), "{body}");
        assert_eq!(session["absolute_expires_at"], at(absolute), "{body}");
    }
}

#[tokio::test]
async fn sign_in_with_wrong_or_unknown_fields_names_them_and_changes_nothing() {
    let server = TestServer::start().await;
    let visit = server.create(json!({})).await;
    let before = dump(&server).await;
    let cases = [
        (json!({}), "user_id"),
        (json!({ "user_id": null }), "user_id"),
        (json!({ "user_id": "" }), "user_id"),
        (json!({ "user_id": "a\nb" }), "user_id"),
        (json!({ "user_id": "ada", "data": {} }), "data"),
        (json!({ "user_id": "ada", "name": "den" }), "name"),
        (json!({ "user_id": "ada", "client_hints": {} }), "client_hints"),
        (json!({ "user_id": "ada", "token": visit.token }), "token"),
        (
            json!({ "user_id": "ada", "idle_timeout_secs": 0 }),
            "idle_timeout_secs",
        ),
        (
            json!({ "user_id": "ada", "absolute_timeout_secs": 0 }),
            "absolute_timeout_secs",
        ),
        (
            json!({ "user_id": "ada", "authenticated_at": at(1) }),
            "authenticated_at",
        ),
        (
            json!({ "user_id": "ada", "authenticated_at": "today" }),
            "authenticated_at",
        ),
        (json!({ "user_id": "ada", "end_ids": ["x"] }), "end_ids"),
        (
            json!({ "user_id": "ada", "end_ids": vec![UNKNOWN_ID; 201] }),
            "end_ids",
        ),
        (
            json!({ "user_id": "ada", "auth": { "x": "y".repeat(8 * 1024) } }),
            "auth",
        ),
    ];
    for (body, field) in cases {
        let reply = authenticate(&server, &visit.id, body).await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), [field], "{}", reply.text);
    }
    assert_unchanged(&before, &dump(&server).await);
    assert_eq!(server.check(&visit.token).await.status, 200);
}

#[tokio::test]
async fn visitors_call_with_the_cookie_that_a_sign_in_replaced_sets_no_cookie() {
    let server = TestServer::start_with(|config| default_app(config).anonymous = true).await;
    let visit = server.request(Method::POST, "/v1/me/session").send().await;
    let cookie = set_cookies(&visit)[0].to_owned();
    let (pair, _) = cookie.split_once(';').expect("attributes");
    let id = visit.json["id"].as_str().expect("an id");
    let reply = authenticate(&server, id, json!({ "user_id": "ada" })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let before = dump(&server).await;
    let late = server
        .request(Method::POST, "/v1/me/session")
        .header("cookie", pair)
        .same_origin()
        .send()
        .await;
    late.assert_problem(401, "token_replaced");
    assert_eq!(set_cookies(&late), [""; 0]);
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn address_used_before_a_sign_in_does_not_become_the_latest_one() {
    let server = TestServer::start().await;
    let visit = server.create(json!({ "ip_address": "192.0.2.1" })).await;
    let body = json!({ "token": visit.token, "ip_address": "192.0.2.2" });
    let reply = server
        .post("/v1/sessions/check", body)
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.json["active"], true, "{}", reply.text);
    server.advance(1);
    let body = json!({ "user_id": "ada", "ip_address": "192.0.2.3" });
    let reply = authenticate(&server, &visit.id, body).await;
    let token = token_in(&reply);
    assert_eq!(reply.json["session"]["last_ip_address"], "192.0.2.3");
    server.tick().await;
    let reply = server.check(&token).await;
    assert_eq!(reply.json["last_ip_address"], "192.0.2.3", "{}", reply.text);
    assert_eq!(
        event_types(&server),
        ["session.created", "session.activity", "session.authenticated"]
    );
    let told = rows(
        &server,
        "SELECT ip_address, user_id FROM events WHERE type = 'session.activity'",
    );
    assert_eq!(told, [json!({ "ip_address": "192.0.2.2", "user_id": null })]);
}

#[tokio::test]
async fn repeated_create_answers_no_token_once_its_session_has_another() {
    let server = TestServer::start().await;
    let create = async |name: &str| {
        server
            .post("/v1/sessions", json!({ "user_id": "ada" }))
            .key(&server.key)
            .header("idempotency-key", name)
            .send()
            .await
    };
    for (case, is_renewal) in [("renewed", true), ("signed-in", false)] {
        let first = create(case).await;
        let token = first.json["token"].as_str().expect("a token");
        let id = first.json["session"]["id"].as_str().expect("an id");
        assert_eq!(create(case).await.json["token"], token, "{case}, not yet");
        if is_renewal {
            successor(&server, token).await;
        } else {
            token_in(&authenticate(&server, id, json!({ "user_id": "ada" })).await);
        }
        let before = dump(&server).await;
        let again = create(case).await;
        again.assert_problem(409, "idempotency_session_changed");
        assert!(!again.text.contains("sst_"), "{}", again.text);
        assert_unchanged(&before, &dump(&server).await);
    }
}
