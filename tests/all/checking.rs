//! Checking sessions: by the holder on the token plane, and by a backend for its caller on the service plane.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::clock::{Clock, Timestamp};
use sessiond::session::AppName;

use crate::harness::{FIREFOX_ON_LINUX, Reply, Request, START, SignedIn, TestServer};
use crate::support::{
    DAY, UNKNOWN_ID, add_app, at, count, ids, metric, millis_after, rows, without_request_id,
};

/// A server that records every use.
async fn recording_server() -> TestServer {
    TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await
}

/// A backend's check for its caller.
async fn check_for_caller(server: &TestServer, body: Value) -> Reply {
    let reply = server
        .post("/v1/sessions/check", body)
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

/// A session as the service plane shows it, which is no use of it.
async fn look(server: &TestServer, id: &str) -> Value {
    let reply = server
        .get(&format!("/v1/sessions/{id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

fn advance_millis(server: &TestServer, millis: u64) {
    server.clock.advance(Duration::from_millis(millis));
}

/// The text with the character at `place` replaced by another of the same alphabet.
fn altered(text: &str, place: usize) -> String {
    let other = if &text[place..=place] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &text[..place], &text[place + 1..])
}

const IN_ID: usize = 10;
const IN_SECRET: usize = 50;

// What is no token

#[tokio::test]
async fn refused_tokens_look_like_an_unknown_id() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let ended = server.sign_in("ada").await;
    assert_eq!(
        server
            .delete("/v1/session")
            .bearer(&ended.token)
            .send()
            .await
            .status,
        204
    );
    let overdue = server.create(json!({ "idle_timeout_secs": 1 })).await;
    server.advance(1);
    let of_shop = server.post("/v1/sessions", json!({})).key(&shop_key).send().await;
    let of_shop = of_shop.json["token"].as_str().expect("a token").to_owned();
    let unknown = altered(&ada.token, IN_ID);
    let cases = [
        ("wrong secret", altered(&ada.token, IN_SECRET)),
        ("wrong last character", altered(&ada.token, 67)),
        (
            "wrong secret of an ended session",
            altered(&ended.token, IN_SECRET),
        ),
        (
            "wrong secret of an overdue session",
            altered(&overdue.token, IN_SECRET),
        ),
        ("a token of another app", of_shop),
        ("too short", ada.token[..67].to_owned()),
        ("too long", format!("{}A", ada.token)),
        ("padded", format!("{}=", ada.token)),
        ("another prefix", ada.token.replace("sst_", "sss_")),
        ("prefix in capitals", ada.token.replace("sst_", "SST_")),
        ("no prefix", ada.token[4..].to_owned()),
        (
            "not of the alphabet",
            altered(&ada.token, IN_SECRET).replace(&ada.token[60..61], "!"),
        ),
        ("an API key", server.key.clone()),
        (
            "an API key with a token's prefix",
            server.key.replace("ssk_", "sst_"),
        ),
        ("a session id", ada.id.clone()),
        ("two tokens", format!("{} {}", ada.token, ada.token)),
        ("words", "let me in".to_owned()),
    ];
    let expected = server.check(&unknown).await;
    expected.assert_problem(401, "invalid_token");
    let names = |reply: &Reply| {
        let mut names: Vec<_> = reply.headers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        names
    };
    for (case, token) in cases {
        let by_header = server.check(&token).await;
        let by_cookie = server.get("/v1/session").cookie(&token).send().await;
        let by_head = server
            .request(Method::HEAD, "/v1/session")
            .bearer(&token)
            .send()
            .await;
        for (way, reply) in [("header", &by_header), ("cookie", &by_cookie)] {
            assert_eq!(
                without_request_id(reply),
                without_request_id(&expected),
                "{case} by {way}"
            );
            assert_eq!(names(reply), names(&expected), "{case} by {way}");
            assert_eq!(
                reply.header("www-authenticate"),
                expected.header("www-authenticate"),
                "{case}"
            );
        }
        assert_eq!(
            (by_head.status, by_head.text.as_str()),
            (401, ""),
            "{case} by HEAD"
        );
    }
    assert_eq!(
        server.check(&ada.token).await.status,
        200,
        "none of it did any harm"
    );
}

#[tokio::test]
async fn backend_hears_the_same_of_every_refused_token() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let ended = server.sign_in("ada").await;
    assert_eq!(
        server
            .delete("/v1/session")
            .bearer(&ended.token)
            .send()
            .await
            .status,
        204
    );
    let expected = json!({ "active": false, "code": "invalid_token",
                           "detail": "This is not the token of any session here." });
    let cases = [
        ("unknown id", altered(&ada.token, IN_ID)),
        ("wrong secret", altered(&ada.token, IN_SECRET)),
        (
            "wrong secret of an ended session",
            altered(&ended.token, IN_SECRET),
        ),
        ("malformed", "x".to_owned()),
        ("empty", String::new()),
        ("an API key", server.key.clone()),
    ];
    for (case, token) in cases {
        let reply = check_for_caller(&server, json!({ "token": token })).await;
        assert_eq!(reply.json, expected, "{case}");
    }
    let reply = server
        .post("/v1/sessions/check", json!({ "token": ada.token }))
        .key(&shop_key)
        .send()
        .await;
    assert_eq!(
        (reply.status, reply.json),
        (200, expected),
        "a token of another app"
    );
}

#[tokio::test]
async fn token_of_an_app_is_good_only_there() {
    let server = TestServer::start_with(|config| {
        add_app(config, "shop");
        let shop = config
            .apps
            .get_mut(&AppName::parse("shop").expect("a name"))
            .expect("added");
        shop.hosts = vec!["shop.example".into()];
    })
    .await;
    let key = server.key_of("shop").await;
    let reply = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&key)
        .send()
        .await;
    let token = reply.json["token"].as_str().expect("a token");
    let get = |path: &str| server.get(path).bearer(token);

    assert_eq!(get("/v1/session?app=shop").send().await.status, 200);
    assert_eq!(
        get("/v1/session")
            .header("host", "SHOP.example:8443")
            .send()
            .await
            .status,
        200
    );
    get("/v1/session")
        .send()
        .await
        .assert_problem(401, "invalid_token");
    get("/v1/session")
        .header("host", "other.example")
        .send()
        .await
        .assert_problem(401, "invalid_token");
    let named = get("/v1/session?app=default")
        .header("host", "shop.example")
        .send()
        .await;
    named.assert_problem(401, "invalid_token");
    for app in ["nowhere", "", "Shop"] {
        let reply = get(&format!("/v1/session?app={app}")).send().await;
        assert_eq!((reply.status, reply.wrong_fields()), (422, vec!["app"]), "{app}");
    }
}

#[tokio::test]
async fn session_token_is_no_api_key() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for token in [ada.token.clone(), ada.token.replace("sst_", "ssk_")] {
        let reply = server.get("/v1/sessions").key(&token).send().await;
        reply.assert_problem(401, "invalid_api_key");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    server
        .get("/v1/sessions")
        .cookie(&ada.token)
        .send()
        .await
        .assert_problem(401, "invalid_api_key");
}

// How the token comes

#[tokio::test]
async fn only_a_bearer_header_counts_and_it_never_falls_back_to_the_cookie() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let bearer = format!("Bearer {}", ada.token);
    let lower = format!("bearer  {}", ada.token);
    type Case<'c> = (&'c str, &'c [&'c str], bool, u16, Option<&'c str>);
    let cases: [Case<'_>; 12] = [
        ("nothing", &[], false, 401, Some("no_session")),
        ("the token", &[&bearer], false, 200, None),
        ("the scheme in small letters", &[&lower], false, 200, None),
        ("a good cookie", &[], true, 200, None),
        ("Basic alone", &["Basic YTpi"], false, 401, Some("no_session")),
        ("Basic and a good cookie", &["Basic YTpi"], true, 200, None),
        ("Basic and the token", &["Basic YTpi", &bearer], false, 200, None),
        ("Negotiate and a good cookie", &["Bearers x"], true, 200, None),
        (
            "a bad token and a good cookie",
            &["Bearer x"],
            true,
            401,
            Some("invalid_token"),
        ),
        (
            "an empty bearer and a good cookie",
            &["Bearer"],
            true,
            401,
            Some("invalid_token"),
        ),
        (
            "an API key and a good cookie",
            &["Bearer ssk_x"],
            true,
            401,
            Some("invalid_token"),
        ),
        (
            "Basic, a bad token and a good cookie",
            &["Basic x", "Bearer x"],
            true,
            401,
            Some("invalid_token"),
        ),
    ];
    for (case, headers, cookie, status, code) in cases {
        let mut request = server.get("/v1/session");
        for header in headers {
            request = request.header("authorization", header);
        }
        if cookie {
            request = request.cookie(&ada.token);
        }
        let reply = request.send().await;
        assert_eq!(
            (reply.status, reply.json["code"].as_str()),
            (status, code),
            "{case}"
        );
        assert_eq!(reply.header("set-cookie"), None, "{case}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{case}");
        assert_eq!(
            reply.header("www-authenticate").is_some(),
            status == 401,
            "{case}"
        );
    }
}

#[tokio::test]
async fn two_valid_cookies_of_different_sessions_are_ambiguous() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.sign_in("ada").await, server.sign_in("bob").await);
    let both = |first: &str, second: &str| server.get("/v1/session").cookie(first).cookie(second);

    both(&ada.token, &bob.token)
        .send()
        .await
        .assert_problem(401, "ambiguous_cookie");
    assert_eq!(
        both(&ada.token, &ada.token).send().await.status,
        200,
        "the same one twice"
    );
    let reply = both("x", &bob.token).send().await;
    assert_eq!(reply.json["user_id"], "bob", "one valid");
    assert_eq!(
        server
            .delete("/v1/session")
            .bearer(&ada.token)
            .send()
            .await
            .status,
        204
    );
    let reply = both(&ada.token, &bob.token).send().await;
    assert_eq!(reply.json["user_id"], "bob", "one ended, one valid");
}

#[tokio::test]
async fn user_id_header_carries_any_id_in_ascii() {
    let server = TestServer::start().await;
    let cases = [
        ("ada", "ada"),
        ("a b%\"", "a%20b%25%22"),
        ("Ådå/1", "%C3%85d%C3%A5/1"),
    ];
    for (user_id, header) in cases {
        let session = server.sign_in(user_id).await;
        let reply = server.check(&session.token).await;
        assert_eq!(reply.header("x-session-user-id"), Some(header));
        assert_eq!(reply.json["user_id"], user_id);
    }
}

#[tokio::test]
async fn head_answers_as_get_without_a_body_and_counts_as_use() {
    let server = recording_server().await;
    let ada = server.sign_in("ada").await;
    server.advance(5);

    let reply = server
        .request(Method::HEAD, "/v1/session")
        .bearer(&ada.token)
        .send()
        .await;

    assert_eq!((reply.status, reply.text.as_str()), (200, ""));
    assert_eq!(reply.header("x-session-user-id"), Some("ada"));
    assert_eq!(look(&server, &ada.id).await["last_activity_at"], at(5));
}

// Uses

#[tokio::test]
async fn check_shows_the_state_after_its_own_use() {
    let server = recording_server().await;
    let ada = server
        .create(json!({ "user_id": "ada", "user_agent": FIREFOX_ON_LINUX }))
        .await;
    server.advance(7);

    let reply = server.check(&ada.token).await;

    let mut expected = ada.body["session"].clone();
    expected["last_activity_at"] = json!(at(7));
    expected["expires_at"] = json!(at(7 + 7 * DAY));
    assert_eq!(reply.json.to_string(), expected.to_string());
}

#[tokio::test]
async fn backend_gets_the_session_of_its_caller() {
    let server = recording_server().await;
    let ada = server.sign_in("ada").await;
    server.advance(7);

    let reply = check_for_caller(
        &server,
        json!({ "token": ada.token, "user_agent": FIREFOX_ON_LINUX }),
    )
    .await;

    let mut session = ada.body["session"].clone();
    session["last_activity_at"] = json!(at(7));
    session["expires_at"] = json!(at(7 + 7 * DAY));
    // The backend asks, not the session.
    session["is_current"] = json!(false);
    assert_eq!(
        reply.json.to_string(),
        json!({ "active": true, "session": session }).to_string()
    );
}

#[tokio::test]
async fn a_look_does_not_extend_a_session() {
    let server = TestServer::start_with(|config| {
        config.sessions.touch_interval_secs = 0;
        add_app(config, "shop");
    })
    .await;
    let shop_key = server.key_of("shop").await;
    let sign_in = json!({ "user_id": "ada", "idle_timeout_secs": 600 });
    let (ada, used) = (server.create(sign_in.clone()).await, server.create(sign_in).await);
    server.advance(599);
    let token = || ada.token.clone();
    let looks = [
        server.get("/v1/session?touch=false").bearer(&ada.token),
        server.get("/v1/session?touch=false").cookie(&ada.token),
        server
            .request(Method::HEAD, "/v1/session?touch=false")
            .bearer(&ada.token),
        server
            .post("/v1/sessions/check", json!({ "token": token(), "touch": false }))
            .key(&server.key),
        server.get("/v1/me/sessions").bearer(&ada.token),
        server.get("/v1/users/ada/sessions").key(&server.key),
        server.get("/v1/sessions").key(&server.key),
        server.get(&format!("/v1/sessions/{}", ada.id)).key(&server.key),
        server
            .patch(&format!("/v1/sessions/{}", ada.id), json!({ "name": "Desk" }))
            .key(&server.key),
    ];
    for look in looks {
        let reply = look.send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let refused = [
        (403, server.get("/v1/session?tag=staff").bearer(&ada.token)),
        (
            403,
            server.get("/v1/session?max_auth_age_secs=1").bearer(&ada.token),
        ),
        (401, server.get("/v1/session?app=shop").bearer(&ada.token)),
        (
            401,
            server.get("/v1/session").bearer(&altered(&ada.token, IN_SECRET)),
        ),
        (
            200,
            server
                .post("/v1/sessions/check", json!({ "token": token(), "tags": ["x"] }))
                .key(&server.key),
        ),
        (
            200,
            server
                .post("/v1/sessions/check", json!({ "token": token() }))
                .key(&shop_key),
        ),
        (
            404,
            server
                .post(&format!("/v1/sessions/{}/touch", ada.id), json!({}))
                .key(&shop_key),
        ),
    ];
    for (status, request) in refused {
        let reply = request.send().await;
        assert_eq!(reply.status, status, "{}", reply.text);
    }
    assert_eq!(server.check(&used.token).await.status, 200, "a use");

    server.advance(1);

    server
        .check(&ada.token)
        .await
        .assert_problem(401, "session_ended");
    assert_eq!(server.check(&used.token).await.status, 200);
}

#[tokio::test]
async fn use_sooner_than_the_touch_interval_is_not_recorded() {
    let cases = [
        ("60 s by default", None, 7 * DAY, 60_000),
        ("at most a tenth of the idle timeout", None, 100, 10_000),
        ("as configured", Some(5), 100, 5_000),
        ("0 records every use", Some(0), 100, 1),
    ];
    for (case, configured, idle_timeout_secs, interval_millis) in cases {
        let server = TestServer::start_with(|config| {
            if let Some(secs) = configured {
                config.sessions.touch_interval_secs = secs;
            }
        })
        .await;
        let ada = server
            .create(json!({ "user_id": "ada", "idle_timeout_secs": idle_timeout_secs }))
            .await;
        advance_millis(&server, interval_millis - 1);
        assert_eq!(
            server.check(&ada.token).await.json["last_activity_at"],
            at(0),
            "{case}: too soon"
        );
        advance_millis(&server, 1);
        let recorded = millis_after(interval_millis).to_string();
        assert_eq!(
            server.check(&ada.token).await.json["last_activity_at"],
            recorded,
            "{case}"
        );
        advance_millis(&server, interval_millis - 1);
        assert_eq!(
            server.check(&ada.token).await.json["last_activity_at"],
            recorded,
            "{case}: too soon again"
        );
    }
}

#[tokio::test]
async fn each_use_moves_the_idle_deadline_and_none_the_absolute_one() {
    let server = recording_server().await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 100, "absolute_timeout_secs": 250 }))
        .await;
    for (secs, deadline) in [(90, 190), (180, 250), (249, 250)] {
        server.clock.advance(Duration::from_millis(
            u64::try_from(millis_after(secs * 1_000).millis_since(server.clock.now())).expect("forward"),
        ));
        let reply = server.check(&ada.token).await;
        assert_eq!(reply.status, 200, "{secs}: {}", reply.text);
        assert_eq!(reply.json["expires_at"], at(deadline), "{secs}");
        assert_eq!(reply.json["absolute_expires_at"], at(250), "{secs}");
    }
    server.advance(1);

    let reply = server.check(&ada.token).await;

    reply.assert_problem(401, "session_ended");
    assert_eq!(
        (&reply.json["ended_at"], &reply.json["revoked_reason"]),
        (&json!(at(250)), &json!("absolute_timeout"))
    );
}

#[tokio::test]
async fn touch_by_id_records_a_use_and_refuses_what_is_over() {
    let server = recording_server().await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let path = format!("/v1/sessions/{}/touch", ada.id);
    let touch = || {
        server
            .post(&path, json!({ "ip_address": "192.0.2.1" }))
            .key(&server.key)
    };
    server.advance(59);

    let reply = touch().send().await;
    assert_eq!(
        (reply.status, &reply.json["last_activity_at"]),
        (200, &json!(at(59)))
    );
    assert_eq!(reply.json["ip_address"], "192.0.2.1");
    server.advance(60);
    let reply = touch().send().await;

    reply.assert_problem(410, "session_ended");
    let ending = ["ended_at", "revoked_reason", "ended_by"].map(|field| reply.json[field].clone());
    assert_eq!(json!(ending), json!([at(119), "idle_timeout", "timeout"]));
    for unknown in [UNKNOWN_ID, "x"] {
        let path = format!("/v1/sessions/{unknown}/touch");
        server
            .post(&path, json!({}))
            .key(&server.key)
            .send()
            .await
            .assert_problem(404, "not_found");
    }
}

#[tokio::test]
async fn many_checks_between_two_ticks_cost_one_transaction() {
    let server = recording_server().await;
    let mut sessions = Vec::new();
    for number in 0..10 {
        sessions.push(server.sign_in(&format!("user-{number}")).await);
    }
    let commits = "sessiond_writer_commit_seconds_count";
    let before = metric(&server, commits).await;
    for round in 0..20 {
        advance_millis(&server, 1);
        for session in &sessions {
            assert_eq!(server.check(&session.token).await.status, 200, "{round}");
        }
    }
    assert_eq!(metric(&server, commits).await, before, "checks write nothing");

    server.manager.flush_touches().await.expect("flushed");

    assert_eq!(metric(&server, commits).await, before + 1);
    let written = millis_after(20).as_millis();
    let sql = format!("SELECT count(*) FROM sessions WHERE last_activity_at = {written}");
    assert_eq!(count(&server, &sql), 10);
    server.manager.flush_touches().await.expect("flushed");
    assert_eq!(
        metric(&server, commits).await,
        before + 1,
        "nothing is left to write"
    );
}

#[tokio::test]
async fn uses_that_cannot_be_written_disturb_no_check_and_are_written_later() {
    let server = recording_server().await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE OF last_activity_at ON sessions
                  BEGIN SELECT RAISE(ABORT, 'inner words'); END";
    database.execute_batch(refuse).expect("a trigger");
    for round in 1..=3_u64 {
        server.advance(50);
        assert_eq!(
            server.check(&ada.token).await.json["last_activity_at"],
            at(round * 50),
            "{round}"
        );
        assert!(server.manager.flush_touches().await.is_err(), "{round}");
        assert_eq!(
            metric(&server, "sessiond_touch_flush_failures_total").await,
            round
        );
    }
    assert_eq!(
        look(&server, &ada.id).await["status"],
        "active",
        "though the row is 90 seconds overdue"
    );
    database.execute_batch("DROP TRIGGER refuse").expect("dropped");

    server.tick().await;

    let written = millis_after(150_000).as_millis();
    assert_eq!(count(&server, "SELECT last_activity_at FROM sessions"), written);
    assert_eq!(server.check(&ada.token).await.status, 200);
}

#[tokio::test]
async fn uses_are_written_when_the_server_stops() {
    let server = recording_server().await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "192.0.2.1" }))
        .await;
    server.advance(50);
    check_for_caller(&server, json!({ "token": ada.token, "ip_address": "192.0.2.2" })).await;

    let server = server.stop().await.restart().await;

    let session = look(&server, &ada.id).await;
    assert_eq!(
        (&session["last_activity_at"], &session["last_ip_address"]),
        (&json!(at(50)), &json!("192.0.2.2"))
    );
}

// Demands

#[tokio::test]
async fn max_auth_age_demands_a_recent_sign_in() {
    let server = recording_server().await;
    server.advance(100);
    let ada = server
        .create(json!({ "user_id": "ada", "authenticated_at": at(50) }))
        .await;
    let nobody = server.create(json!({})).await;
    server.advance(10);
    let cases = [
        ("exactly as old as allowed", &ada, 60, true),
        ("a second too old", &ada, 59, false),
        ("not old at all", &ada, 0, false),
        ("largest number", &ada, u64::MAX, true),
        ("nobody signed in", &nobody, u64::MAX, false),
    ];
    for (case, session, secs, is_good) in cases {
        let reply = server
            .get(&format!("/v1/session?max_auth_age_secs={secs}"))
            .bearer(&session.token)
            .send()
            .await;
        let body = json!({ "token": session.token, "max_auth_age_secs": secs });
        let by_backend = check_for_caller(&server, body).await;
        assert_eq!(by_backend.json["active"], is_good, "{case}");
        if is_good {
            assert_eq!(reply.status, 200, "{case}");
        } else {
            reply.assert_problem(403, "reauthentication_required");
            assert_eq!(by_backend.json["code"], "reauthentication_required", "{case}");
        }
    }
    advance_millis(&server, 1);
    let reply = server
        .get("/v1/session?max_auth_age_secs=60")
        .bearer(&ada.token)
        .send()
        .await;
    reply.assert_problem(403, "reauthentication_required");
}

#[tokio::test]
async fn every_demanded_tag_must_be_there() {
    let server = TestServer::start().await;
    let sessions = [
        (
            "tagged",
            server
                .create(json!({ "auth": { "tags": ["staff", "ad min", 7, ""] } }))
                .await,
        ),
        ("without auth", server.create(json!({})).await),
        (
            "without tags",
            server.create(json!({ "auth": { "tag": "staff" } })).await,
        ),
        (
            "tags are no list",
            server.create(json!({ "auth": { "tags": "staff" } })).await,
        ),
    ];
    let demands: [(&[&str], bool); 8] = [
        (&[], true),
        (&["staff"], true),
        (&["staff", "ad min"], true),
        (&["staff", "staff"], true),
        (&[""], true),
        (&["staff", "root"], false),
        (&["Staff"], false),
        (&["7"], false),
    ];
    for (whose, session) in &sessions {
        for (tags, is_met_by_tagged) in demands {
            let is_met = tags.is_empty() || (*whose == "tagged" && is_met_by_tagged);
            let query: Vec<String> = tags
                .iter()
                .map(|tag| format!("tag={}", tag.replace(' ', "%20")))
                .collect();
            let reply = server
                .get(&format!("/v1/session?{}", query.join("&")))
                .bearer(&session.token)
                .send()
                .await;
            let by_backend = check_for_caller(&server, json!({ "token": session.token, "tags": tags })).await;
            assert_eq!(by_backend.json["active"], is_met, "{whose}, {tags:?}");
            if is_met {
                assert_eq!(reply.status, 200, "{whose}, {tags:?}: {}", reply.text);
            } else {
                reply.assert_problem(403, "missing_tag");
                assert_eq!(by_backend.json["code"], "missing_tag", "{whose}, {tags:?}");
            }
        }
    }
}

#[tokio::test]
async fn demands_follow_a_changed_auth_at_once() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "auth": { "tags": ["staff"] } }))
        .await;
    let check = || server.get("/v1/session?tag=staff").bearer(&ada.token).send();
    assert_eq!(check().await.status, 200);
    let path = format!("/v1/sessions/{}", ada.id);

    let reply = server
        .patch(&path, json!({ "auth": { "tags": ["guest"] } }))
        .key(&server.key)
        .send()
        .await;

    assert_eq!(reply.json["auth"], json!({ "tags": ["guest"] }));
    check().await.assert_problem(403, "missing_tag");
}

// What is over

#[tokio::test]
async fn only_the_holder_of_the_secret_hears_that_the_session_ended() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.advance(3);
    let path = format!("/v1/sessions/{}?reason=lost+phone&ended_by=operator", ada.id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    server.advance(3);
    let ending = json!([at(3), "lost phone", "operator"]);
    let told =
        |json: &Value| json!(["ended_at", "revoked_reason", "ended_by"].map(|field| json[field].clone()));

    let by_header = server.check(&ada.token).await;
    let by_cookie = server.get("/v1/session").cookie(&ada.token).send().await;
    let by_backend = check_for_caller(&server, json!({ "token": ada.token })).await;

    by_header.assert_problem(401, "session_ended");
    by_cookie.assert_problem(401, "session_ended");
    assert_eq!(
        (told(&by_header.json), told(&by_cookie.json)),
        (ending.clone(), ending.clone())
    );
    assert_eq!(by_header.header("www-authenticate"), Some("Bearer"));
    assert_eq!(
        (
            by_backend.json["code"].as_str(),
            told(&by_backend.json),
            by_backend.json.get("session")
        ),
        (Some("session_ended"), ending, None)
    );
    let wrong = server.check(&altered(&ada.token, IN_SECRET)).await;
    wrong.assert_problem(401, "invalid_token");
    assert_eq!(told(&wrong.json), json!([null, null, null]));
}

/// What every way of asking says about a session whose deadline is at `deadline`.
async fn assert_over(server: &TestServer, session: &SignedIn, deadline: u64, reason: &str, case: &str) {
    let ending = json!([at(deadline), reason, "timeout"]);
    let told =
        |json: &Value| json!(["ended_at", "revoked_reason", "ended_by"].map(|field| json[field].clone()));
    let reply = server.check(&session.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(told(&reply.json), ending, "{case}: checked");
    let reply = check_for_caller(server, json!({ "token": session.token })).await;
    assert_eq!(
        (reply.json["code"].as_str(), told(&reply.json)),
        (Some("session_ended"), ending.clone()),
        "{case}"
    );
    let row = look(server, &session.id).await;
    assert_eq!(told(&row), ending, "{case}: looked at");
    assert_eq!(
        (&row["status"], &row["is_revoked"]),
        (&json!("expired"), &json!(false)),
        "{case}"
    );
    let touch = server
        .post(&format!("/v1/sessions/{}/touch", session.id), json!({}))
        .key(&server.key)
        .send()
        .await;
    touch.assert_problem(410, "session_ended");
    let rename = server.patch(&format!("/v1/sessions/{}", session.id), json!({ "name": "x" }));
    let rename = rename.key(&server.key).send().await;
    rename.assert_problem(410, "session_ended");
    assert_eq!(told(&rename.json), ending, "{case}: renamed");
    for (status, expected) in [("active", 0), ("ended", 1), ("all", 1)] {
        for path in [
            "/v1/users/ada/sessions?",
            "/v1/sessions?",
            "/v1/sessions?user_id=ada&",
        ] {
            let list = server
                .get(&format!("{path}status={status}"))
                .key(&server.key)
                .send()
                .await;
            assert_eq!(ids(&list).len(), expected, "{case}: {path}status={status}");
        }
    }
    let user = server.get("/v1/users/ada").key(&server.key).send().await;
    assert_eq!(user.json["active_count"], 0, "{case}");
}

#[tokio::test]
async fn at_exactly_its_deadline_a_session_is_over_for_everybody() {
    let cases = [
        (
            "idle",
            json!({ "user_id": "ada", "idle_timeout_secs": 60 }),
            "idle_timeout",
        ),
        (
            "absolute",
            json!({ "user_id": "ada", "absolute_timeout_secs": 60 }),
            "absolute_timeout",
        ),
        (
            "both at once",
            json!({ "user_id": "ada", "idle_timeout_secs": 60, "absolute_timeout_secs": 60 }),
            "absolute_timeout",
        ),
    ];
    for (case, body, reason) in cases {
        let server = TestServer::start().await;
        let ada = server.create(body).await;
        advance_millis(&server, 59_999);
        let last = server
            .get("/v1/session?touch=false")
            .bearer(&ada.token)
            .send()
            .await;
        assert_eq!(last.status, 200, "{case}: a millisecond before, and cached since");
        let user = server.get("/v1/users/ada").key(&server.key).send().await;
        assert_eq!(user.json["active_count"], 1, "{case}: a millisecond before");
        server.tick().await;
        assert_eq!(
            count(
                &server,
                "SELECT count(*) FROM sessions WHERE ended_at IS NOT NULL"
            ),
            0,
            "{case}: too soon"
        );

        advance_millis(&server, 1);

        assert_over(&server, &ada, 60, reason, &format!("{case}, before the sweeper")).await;
        server.tick().await;
        assert_eq!(
            count(
                &server,
                "SELECT count(*) FROM sessions WHERE ended_at IS NOT NULL"
            ),
            1,
            "{case}: swept"
        );
        assert_over(&server, &ada, 60, reason, &format!("{case}, after the sweeper")).await;
        server.advance(1_000);
        assert_over(&server, &ada, 60, reason, &format!("{case}, much later")).await;
    }
}

#[tokio::test]
async fn use_that_is_not_written_yet_keeps_a_session_alive_for_everybody() {
    let server = recording_server().await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    server.advance(59);
    assert_eq!(server.check(&ada.token).await.status, 200);
    server.advance(1);
    assert_eq!(
        count(
            &server,
            "SELECT count(*) FROM sessions WHERE last_activity_at > created_at"
        ),
        0,
        "in memory"
    );

    let user = server.get("/v1/users/ada").key(&server.key).send().await;
    let list = server.get("/v1/sessions").key(&server.key).send().await;
    server.manager.expire_overdue(10).await.expect("swept");

    assert_eq!(user.json["active_count"], 1);
    assert_eq!(ids(&list), [ada.id.as_str()]);
    assert_eq!(list.json["sessions"][0]["expires_at"], at(119));
    assert_eq!(look(&server, &ada.id).await["status"], "active");
    assert_eq!(server.check(&ada.token).await.status, 200);
}

// The cache

#[tokio::test]
async fn cached_session_is_checked_without_the_store() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.sign_in("ada").await, server.sign_in("bob").await);
    let counters = async || {
        let hits = metric(&server, "sessiond_cache_hits_total").await;
        let misses = metric(&server, "sessiond_cache_misses_total").await;
        (hits, misses, metric(&server, "sessiond_cache_entries").await)
    };
    let start = counters().await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(counters().await, (start.0, start.1 + 1, 1), "a miss, kept");
    for _ in 0..3 {
        assert_eq!(server.check(&ada.token).await.status, 200);
    }
    assert_eq!(counters().await, (start.0 + 3, start.1 + 1, 1), "hits");

    // Taken away behind the server's back.
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    database.execute("DELETE FROM sessions", []).expect("deleted");

    assert_eq!(server.check(&ada.token).await.status, 200, "cached");
    server
        .check(&bob.token)
        .await
        .assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn what_is_ended_or_unknown_is_never_cached() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 1 }))
        .await;
    server.advance(1);
    let unknown = altered(&ada.token, IN_ID);
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(metric(&server, "sessiond_cache_entries").await, 1);

    assert_eq!(
        server
            .delete("/v1/session")
            .bearer(&ada.token)
            .send()
            .await
            .status,
        204
    );

    assert_eq!(
        metric(&server, "sessiond_cache_entries").await,
        0,
        "gone with the ending"
    );
    for (case, token) in [
        ("ended", &ada.token),
        ("overdue", &overdue.token),
        ("unknown", &unknown),
    ] {
        let before = metric(&server, "sessiond_cache_misses_total").await;
        for _ in 0..2 {
            assert_eq!(server.check(token).await.status, 401, "{case}");
        }
        assert_eq!(
            metric(&server, "sessiond_cache_misses_total").await,
            before + 2,
            "{case}"
        );
        assert_eq!(metric(&server, "sessiond_cache_entries").await, 0, "{case}");
    }
}

/// A day of three sessions, as everybody sees it; times and addresses only.
async fn story(capacity: usize) -> Vec<Value> {
    let server = TestServer::start_with(|config| config.cache.capacity = capacity).await;
    let mut sessions = Vec::new();
    for number in 0..3 {
        let body = json!({ "user_id": "ada", "idle_timeout_secs": 600 + number, "ip_address": "192.0.2.1" });
        sessions.push(server.create(body).await);
    }
    let mut told = Vec::new();
    for step in 0..60_u64 {
        server.advance(37);
        // Session 0 is used often, session 1 now and then, session 2 hardly ever.
        let chosen = if step % 17 == 3 {
            2
        } else {
            usize::from(step % 5 == 0)
        };
        let address = format!("192.0.2.{}", 1 + step % 4);
        let body = json!({ "token": sessions[chosen].token, "ip_address": address, "touch": step % 7 != 6 });
        let mut reply = check_for_caller(&server, body).await.json;
        if let Some(session) = reply["session"].as_object_mut() {
            session.shift_remove("id");
        }
        told.push(reply);
        if step % 13 == 12 {
            server.tick().await;
        }
    }
    let evictions = metric(&server, "sessiond_cache_evictions_total").await;
    let entries = metric(&server, "sessiond_cache_entries").await;
    assert_eq!(evictions > 0, capacity == 1, "{evictions}");
    assert!(entries <= 3.min(capacity as u64), "{entries}");
    told
}

#[tokio::test]
async fn being_pushed_out_of_the_cache_changes_no_answer() {
    let roomy = story(1_000).await;
    let cramped = story(1).await;

    let active = roomy.iter().filter(|answer| answer["active"] == true).count();
    assert!(active > 30 && active < 60, "some are refused: {active}");
    for (step, (roomy, cramped)) in roomy.iter().zip(&cramped).enumerate() {
        assert_eq!(roomy.to_string(), cramped.to_string(), "step {step}");
    }
}

#[tokio::test]
async fn latest_use_of_a_session_pushed_out_of_the_cache_is_kept() {
    let server = TestServer::start_with(|config| {
        config.cache.capacity = 1;
        config.sessions.touch_interval_secs = 0;
    })
    .await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let bob = server.sign_in("bob").await;
    server.advance(59);
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(server.check(&bob.token).await.status, 200);
    server.advance(59);

    let reply = server
        .get("/v1/session?touch=false")
        .bearer(&ada.token)
        .send()
        .await;

    assert_eq!(
        (reply.status, &reply.json["last_activity_at"]),
        (200, &json!(at(59)))
    );
    assert_eq!(metric(&server, "sessiond_cache_evictions_total").await, 2);
}

// Addresses

#[tokio::test]
async fn first_address_stays_and_another_becomes_the_last_one() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "192.0.2.1" }))
        .await;
    let steps = [
        ("192.0.2.1", Value::Null),
        ("192.0.2.2", json!("192.0.2.2")),
        ("2001:db8::5", json!("2001:db8::5")),
        ("not an address", json!("2001:db8::5")),
        ("192.0.2.1", json!("192.0.2.1")),
        ("::ffff:192.0.2.2", json!("192.0.2.2")),
    ];
    for (address, last) in steps {
        let reply = check_for_caller(&server, json!({ "token": ada.token, "ip_address": address })).await;
        let session = &reply.json["session"];
        assert_eq!(
            (&session["ip_address"], &session["last_ip_address"]),
            (&json!("192.0.2.1"), &last),
            "{address}"
        );
    }
    server.tick().await;
    let server = server.stop().await.restart().await;
    let session = look(&server, &ada.id).await;
    assert_eq!(
        (&session["ip_address"], &session["last_ip_address"]),
        (&json!("192.0.2.1"), &json!("192.0.2.2"))
    );
}

#[tokio::test]
async fn first_address_that_comes_with_a_use_brings_its_place() {
    let server = recording_server().await;
    for way in ["check", "touch", "client's"] {
        let id = match way {
            "client's" => {
                let made = server
                    .request(Method::PUT, "/v1/client-sessions/7")
                    .key(&server.key);
                let made = made.json(json!({})).send().await;
                made.json["id"].as_str().expect("an id").to_owned()
            }
            _ => server.create(json!({ "user_id": "ada" })).await.id,
        };
        assert_eq!(look(&server, &id).await["location"], Value::Null, "{way}");
        for (address, last) in [
            ("194.25.2.129", Value::Null),
            ("81.2.69.142", json!("81.2.69.142")),
        ] {
            let from = json!({ "ip_address": address });
            let used = match way {
                "client's" => server.request(Method::PUT, "/v1/client-sessions/7").json(from),
                _ => server.post(&format!("/v1/sessions/{id}/touch"), from),
            };
            let used = used.key(&server.key).send().await;
            assert_eq!(
                (&used.json["location"], &used.json["last_ip_address"]),
                (&json!("DE"), &last),
                "{way}: {}",
                used.text
            );
        }
    }
}

#[tokio::test]
async fn place_of_an_address_that_a_check_brought_is_there_wherever_the_session_is_shown() {
    let server = recording_server().await;
    let ada = server.create(json!({ "user_id": "ada" })).await;
    // In the cache without an address.
    assert_eq!(server.check(&ada.token).await.status, 200);
    let shown = async |server: &TestServer, when: &str| {
        let list = server.get("/v1/users/ada/sessions").key(&server.key).send().await;
        let check = server.check(&ada.token).await;
        for (place, session) in [
            ("by its id", &look(server, &ada.id).await),
            ("in the list", &list.json["sessions"][0]),
            ("at a check", &check.json),
        ] {
            assert_eq!(
                (&session["ip_address"], &session["location"]),
                (&json!("194.25.2.129"), &json!("DE")),
                "{when}, {place}: {session}"
            );
        }
    };
    let from = json!({ "token": ada.token, "ip_address": "194.25.2.129" });
    let reply = check_for_caller(&server, from).await;
    assert_eq!(reply.json["session"]["location"], "DE", "{}", reply.text);
    shown(&server, "before it is written").await;
    server.tick().await;
    shown(&server, "once it is written").await;
    let server = server.stop().await.restart().await;
    shown(&server, "after a restart").await;

    let again = json!({ "user_id": "ada", "ip_address": "81.2.69.142" });
    let signed_in = server.post(&format!("/v1/sessions/{}/authenticate", ada.id), again);
    let signed_in = signed_in.key(&server.key).send().await;
    let session = &signed_in.json["session"];
    assert_eq!(
        session["location"], "DE",
        "a sign-in from elsewhere: {}",
        signed_in.text
    );
}

#[tokio::test]
async fn events_tell_the_place_of_the_address_that_they_tell() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "194.25.2.129" }))
        .await;
    for address in ["212.58.244.22", "194.25.2.129"] {
        check_for_caller(&server, json!({ "token": ada.token, "ip_address": address })).await;
    }
    let renewed = server.post("/v1/session/renew", json!({})).bearer(&ada.token);
    assert_eq!(renewed.send().await.status, 200);
    check_for_caller(&server, json!({ "token": ada.token, "ip_address": "10.0.0.7" })).await;
    let ended = server
        .delete(&format!("/v1/sessions/{}", ada.id))
        .key(&server.key);
    assert_eq!(ended.send().await.status, 204);

    let told = rows(
        &server,
        "SELECT type, ip_address, location FROM events ORDER BY id",
    );
    let told: Vec<_> = told
        .iter()
        .map(|event| ["type", "ip_address", "location"].map(|field| event[field].as_str()))
        .collect();
    let expected = [
        ["session.created", "194.25.2.129", "DE"],
        ["session.activity", "212.58.244.22", "GB"],
        ["session.activity", "194.25.2.129", "DE"],
        ["session.renewed", "194.25.2.129", "DE"],
        ["session.activity", "10.0.0.7", ""],
        ["session.revoked", "10.0.0.7", ""],
    ];
    let expected = expected.map(|event| event.map(|field| (!field.is_empty()).then_some(field)));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn another_address_is_told_as_activity() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "192.0.2.1" }))
        .await;
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.2"] {
        check_for_caller(&server, json!({ "token": ada.token, "ip_address": address })).await;
    }

    server.tick().await;

    let told = rows(
        &server,
        "SELECT type, ip_address, session_id FROM events ORDER BY id",
    );
    assert_eq!(told.len(), 2, "{told:?}");
    let id = ada.id.replace('-', "");
    let expected = json!({ "type": "session.activity", "ip_address": "192.0.2.2", "session_id": id });
    assert_eq!(told[1], expected);
}

#[tokio::test]
async fn without_an_address_at_creation_the_first_one_seen_is_it() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let check =
        |address: &str| check_for_caller(&server, json!({ "token": ada.token, "ip_address": address }));

    let first = check("192.0.2.1").await.json;
    let second = check("192.0.2.2").await.json;

    assert_eq!(
        (
            &first["session"]["ip_address"],
            &first["session"]["last_ip_address"]
        ),
        (&json!("192.0.2.1"), &Value::Null)
    );
    let session = &second["session"];
    assert_eq!(
        (&session["ip_address"], &session["last_ip_address"]),
        (&json!("192.0.2.1"), &json!("192.0.2.2"))
    );
}

async fn forwarded(request: Request<'_>) -> Reply {
    request.header("x-forwarded-for", "192.0.2.9").send().await
}

#[tokio::test]
async fn each_plane_records_its_own_kind_of_address() {
    let server = TestServer::start_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    })
    .await;
    let path = |id: &str| format!("/v1/sessions/{id}/touch");
    for (case, expected) in [
        ("cookie, direct", json!("127.0.0.1")),
        ("cookie, forwarded", json!("192.0.2.9")),
        ("cookie, only looking", Value::Null),
        ("bearer, direct", Value::Null),
        ("bearer, forwarded", json!("192.0.2.9")),
        ("backend without an address", Value::Null),
        ("backend's touch without an address", Value::Null),
        ("self plane, forwarded", Value::Null),
    ] {
        let session = server.create(json!({})).await;
        let (token, get) = (&session.token, server.get("/v1/session"));
        let reply = match case {
            "cookie, direct" => get.cookie(token).send().await,
            "cookie, forwarded" => forwarded(get.cookie(token)).await,
            "cookie, only looking" => forwarded(server.get("/v1/session?touch=false").cookie(token)).await,
            "bearer, direct" => get.bearer(token).send().await,
            "bearer, forwarded" => forwarded(get.bearer(token)).await,
            "backend without an address" => {
                forwarded(
                    server
                        .post("/v1/sessions/check", json!({ "token": token }))
                        .key(&server.key),
                )
                .await
            }
            "backend's touch without an address" => {
                forwarded(server.post(&path(&session.id), json!({})).key(&server.key)).await
            }
            _ => forwarded(server.get("/v1/me/sessions").cookie(token)).await,
        };
        assert_eq!(reply.status, 200, "{case}: {}", reply.text);
        assert_eq!(look(&server, &session.id).await["ip_address"], expected, "{case}");
    }
}

// The wall clock

#[tokio::test]
async fn wall_clock_set_back_revives_nothing_and_keeps_the_order() {
    let server = TestServer::start().await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let swept = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 30 }))
        .await;
    let revoked = server.sign_in("ada").await;
    server.advance(30);
    server.tick().await;
    server.advance(30);
    assert_eq!(
        server
            .delete("/v1/session")
            .bearer(&revoked.token)
            .send()
            .await
            .status,
        204
    );
    let before = server.sign_in("ada").await;
    assert_eq!(server.check(&overdue.token).await.status, 401);

    let a_day_before = Arc::new(Clock::manual(START.plus_millis(-86_400_000)));
    let server = server.stop().await.restart_at(a_day_before).await;

    for (case, session) in [("overdue", &overdue), ("swept", &swept), ("revoked", &revoked)] {
        assert_eq!(
            server.check(&session.token).await.json["code"],
            "session_ended",
            "{case}"
        );
    }
    assert_eq!(server.check(&before.token).await.status, 200);
    let after = server.sign_in("ada").await;
    assert!(after.id > before.id, "ids grow");
    assert!(after.body["session"]["created_at"].as_str() >= before.body["session"]["created_at"].as_str());
    let list = server.get("/v1/users/ada/sessions").key(&server.key).send().await;
    assert_eq!(ids(&list), [after.id, before.id], "newest sign-in first");
}

#[tokio::test]
async fn session_that_was_told_over_stays_over_though_nothing_was_written_since() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    server.advance(60);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "session_ended");

    let a_day_before = Arc::new(Clock::manual(START.plus_millis(-86_400_000)));
    let server = server.stop().await.restart_at(a_day_before).await;

    let reply = server.check(&ada.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(reply.json["ended_at"], at(60));
}

#[tokio::test]
async fn wall_clock_set_forward_is_followed() {
    let server = TestServer::start().await;
    let short = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 3_600 }))
        .await;
    let long = server.sign_in("ada").await;

    let a_day_later = Arc::new(Clock::manual(START.plus_millis(86_400_000)));
    let server = server.stop().await.restart_at(a_day_later).await;

    let reply = server.check(&short.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(reply.json["ended_at"], at(3_600));
    assert_eq!(
        server.check(&long.token).await.json["expires_at"],
        at(DAY + 7 * DAY),
        "used now"
    );
    let later = server.sign_in("ada").await;
    assert!(later.id > long.id);
    assert_eq!(later.body["session"]["created_at"], at(DAY));
}

#[tokio::test]
async fn ids_carry_their_time_and_grow_within_a_millisecond() {
    let server = TestServer::start().await;
    let mut last = String::new();
    for number in 0..20 {
        if number % 5 == 4 {
            advance_millis(&server, 1);
        }
        let id = server.create(json!({})).await.id;
        assert!(id > last, "{id} after {last}");
        let millis = i64::from_str_radix(&id.replace('-', "")[..12], 16).expect("a number");
        assert_eq!(Timestamp::from_millis(millis), server.clock.now());
        last = id;
    }
}

// The backend's question

#[tokio::test]
async fn wrong_question_of_a_backend_is_an_error_of_the_call_and_no_use() {
    let server = recording_server().await;
    let ada = server.sign_in("ada").await;
    server.advance(5);
    let token = &ada.token;
    let cases = [
        ("token", json!({})),
        ("token", json!({ "token": null })),
        ("token", json!({ "token": 7 })),
        ("touch", json!({ "token": token, "touch": "no" })),
        ("tags", json!({ "token": token, "tags": "staff" })),
        ("tags[1]", json!({ "token": token, "tags": ["a", 1] })),
        (
            "max_auth_age_secs",
            json!({ "token": token, "max_auth_age_secs": -1 }),
        ),
        (
            "max_auth_age_secs",
            json!({ "token": token, "max_auth_age_secs": "60" }),
        ),
        ("ip_address", json!({ "token": token, "ip_address": 1 })),
        ("app", json!({ "token": token, "app": "default" })),
        (
            "idempotency_key",
            json!({ "token": token, "idempotency_key": "k" }),
        ),
    ];
    for (field, body) in cases {
        let reply = server
            .post("/v1/sessions/check", body.clone())
            .key(&server.key)
            .send()
            .await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec![field]),
            "{body}: {}",
            reply.text
        );
    }
    let no_key = server
        .post("/v1/sessions/check", json!({ "token": token }))
        .send()
        .await;
    no_key.assert_problem(401, "invalid_api_key");
    let query = server
        .post("/v1/sessions/check?touch=false", json!({ "token": token }))
        .key(&server.key);
    assert_eq!(query.send().await.wrong_fields(), ["touch"]);
    assert_eq!(look(&server, &ada.id).await["last_activity_at"], at(0));
}
