//! Creations that are repeated by their key: one session and one token, as long as both are good.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Reply, Request, TestServer, events};
use crate::process::{Served, create_key, text};
use crate::support::{DAY, HOUR, add_app, at_once, count, with_status};
use crate::wire::{Wire, assert_unchanged, dump};

/// A creation with this key for the call.
fn create<'s>(server: &'s TestServer, call: &str, body: Value) -> Request<'s> {
    server
        .post("/v1/sessions", body)
        .key(&server.key)
        .header("idempotency-key", call)
}

fn ada() -> Value {
    json!({ "user_id": "ada", "data": { "a": 1 } })
}

#[track_caller]
fn token(reply: &Reply) -> String {
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json["token"].as_str().expect("a token").to_owned()
}

#[track_caller]
fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json["session"]["id"].as_str().expect("an id").to_owned()
}

fn is_replayed(reply: &Reply) -> bool {
    match reply.header("idempotency-replayed") {
        None => false,
        Some(value) => {
            assert_eq!(value, "true");
            true
        }
    }
}

async fn set_user(server: &TestServer, patch: Value) {
    let reply = server.patch("/v1/users/ada", patch).key(&server.key).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Asserts that the repetition is refused, and with nothing to sign in by.
#[track_caller]
fn assert_changed(reply: &Reply) {
    reply.assert_problem(409, "idempotency_session_changed");
    assert!(!reply.text.contains("sst_"), "{}", reply.text);
    assert!(!is_replayed(reply));
}

// The same call

#[tokio::test]
async fn repeated_call_answers_the_same_session_and_token_and_does_nothing() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;
    let before = dump(&server).await;

    let again = create(&server, "call-1", ada()).send().await;

    assert_eq!((first.status, again.status), (201, 201), "{}", again.text);
    assert_eq!((is_replayed(&first), is_replayed(&again)), (false, true));
    assert_eq!(first.text, again.text);
    assert_unchanged(&before, &dump(&server).await);
    assert_eq!(events(&server.database()).len(), 1, "the creation");
    assert_eq!(server.check(&token(&again)).await.status, 200);
}

#[tokio::test]
async fn repetition_shows_the_session_as_it_is_now() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;
    let path = format!("/v1/sessions/{}", id(&first));
    let renamed = server.patch(&path, json!({ "name": "Desk" })).key(&server.key);
    assert_eq!(renamed.send().await.status, 200);
    server.advance(HOUR);
    assert_eq!(server.check(&token(&first)).await.status, 200);

    let again = create(&server, "call-1", ada()).send().await;

    assert_eq!(token(&again), token(&first));
    let session = server.get(&path).key(&server.key).send().await;
    for field in ["name", "last_activity_at", "expires_at"] {
        assert_eq!(again.json["session"][field], session.json[field], "{field}");
        assert_ne!(
            again.json["session"][field], first.json["session"][field],
            "{field}"
        );
    }
}

#[tokio::test]
async fn repetition_works_where_a_new_creation_would_be_refused() {
    let server = TestServer::start_with(|config| {
        for policy in config.apps.values_mut() {
            policy.on_limit = sessiond::session::OnLimit::Deny;
        }
    })
    .await;
    set_user(&server, json!({ "max_sessions": 1 })).await;
    let first = create(&server, "call-1", ada()).send().await;
    create(&server, "call-2", ada())
        .send()
        .await
        .assert_problem(409, "session_limit_reached");

    let again = create(&server, "call-1", ada()).send().await;

    assert_eq!(token(&again), token(&first));
}

#[tokio::test]
async fn no_body_is_the_same_as_an_empty_object() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", json!({})).send().await;

    let again = server
        .request(reqwest::Method::POST, "/v1/sessions")
        .key(&server.key)
        .header("idempotency-key", "call-1")
        .send()
        .await;

    assert_eq!(token(&again), token(&first));
}

#[tokio::test]
async fn repetition_is_recognised_after_a_restart() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;
    // A server in a test has a key of its own each time it starts.
    let key = server.key.clone();
    let server = server.stop().await.restart().await;

    let again = server
        .post("/v1/sessions", ada())
        .key(&key)
        .header("idempotency-key", "call-1")
        .send()
        .await;

    assert!(is_replayed(&again));
    assert_eq!(token(&again), token(&first));
    assert_eq!(server.check(&token(&again)).await.status, 200);
}

#[tokio::test]
async fn call_whose_answer_was_lost_with_the_server_is_repeated_after_kill_9() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let call = async |server: &Served| -> (bool, Value) {
        let request = server.client.post(format!("{}/v1/sessions", server.base));
        let request = request.bearer_auth(&key).header("idempotency-key", "call-1");
        let response = request.json(&ada()).send().await.expect("an answer");
        assert_eq!(response.status(), 201);
        let is_replayed = response.headers().contains_key("idempotency-replayed");
        (is_replayed, response.json().await.expect("JSON"))
    };
    let mut server = Served::serve(dir.path());
    let (_, first) = call(&server).await;
    server.process.kill();

    let server = Served::serve(dir.path());
    let (is_replayed, again) = call(&server).await;

    assert!(is_replayed);
    assert_eq!(again["token"], first["token"]);
    server.assert_token(&text(&again["token"]), "active").await;
}

#[tokio::test]
async fn call_without_a_key_is_never_a_repetition() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;

    let other = server.create(ada()).await;

    assert_ne!(other.id, id(&first));
    assert_ne!(other.token, token(&first));
}

// Another call

#[tokio::test]
async fn another_body_with_the_same_key_is_422_and_changes_nothing() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;
    let before = dump(&server).await;

    for body in [
        json!({ "user_id": "bob", "data": { "a": 1 } }),
        json!({ "user_id": "ada" }),
        json!({ "user_id": "ada", "data": { "a": 2 } }),
        json!({}),
    ] {
        let reply = create(&server, "call-1", body).send().await;
        reply.assert_problem(422, "idempotency_key_reused");
        assert!(!reply.text.contains(&id(&first)) && !reply.text.contains("sst_"));
    }

    assert_unchanged(&before, &dump(&server).await);
    assert_eq!(
        token(&create(&server, "call-1", ada()).send().await),
        token(&first)
    );
}

#[tokio::test]
async fn each_key_is_a_call_of_its_own_to_the_letter() {
    let server = TestServer::start().await;
    let long = "k".repeat(255);
    let shorter = "k".repeat(254);
    let calls = ["a", "A", "a-", "\"a\"", "~!@#$%^&*()", "0", "00", &long, &shorter];
    let mut tokens = Vec::new();
    for call in calls {
        let reply = create(&server, call, json!({})).send().await;
        assert!(!is_replayed(&reply), "{call}");
        tokens.push(token(&reply));
    }
    for (call, expected) in calls.into_iter().zip(&tokens) {
        let reply = create(&server, call, json!({})).send().await;
        assert!(is_replayed(&reply), "{call}");
        assert_eq!(token(&reply), *expected, "{call}");
    }
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), calls.len());
}

#[tokio::test]
async fn same_key_from_another_api_key_is_another_call() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let first = create(&server, "call-1", ada()).send().await;
    for key in [server.key_of("default").await, server.key_of("shop").await] {
        let request = || {
            let request = server.post("/v1/sessions", ada()).key(&key);
            request.header("idempotency-key", "call-1").send()
        };

        let (other, again) = (request().await, request().await);

        assert!(!is_replayed(&other));
        assert_ne!(id(&other), id(&first));
        assert_ne!(token(&other), token(&first));
        assert_eq!(token(&again), token(&other));
    }
    let other_body = server
        .post("/v1/sessions", json!({}))
        .key(&server.key_of("default").await);
    let other_body = other_body.header("idempotency-key", "call-1").send().await;
    assert_eq!(other_body.status, 201, "nobody else's body is compared");
}

#[tokio::test]
async fn key_is_free_again_after_24_hours() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;
    server.advance(DAY - 1);
    let just_in_time = create(&server, "call-1", ada()).send().await;
    server.advance(1);

    let late = create(&server, "call-1", json!({ "user_id": "bob" }))
        .send()
        .await;

    assert_eq!(token(&just_in_time), token(&first));
    assert!(!is_replayed(&late));
    assert_ne!(id(&late), id(&first));
    assert_eq!(server.check(&token(&first)).await.status, 200, "it lives on");
    let again = create(&server, "call-1", json!({ "user_id": "bob" }))
        .send()
        .await;
    assert_eq!(token(&again), token(&late));
}

#[tokio::test]
async fn calls_are_forgotten_after_24_hours_and_not_before() {
    let server = TestServer::start().await;
    create(&server, "call-1", ada()).send().await;
    let remembered = || count(&server, "SELECT count(*) FROM idempotency_keys");
    server.advance(DAY - 1);
    server.tick().await;
    assert_eq!(remembered(), 1);
    server.advance(1);
    server.tick().await;
    assert_eq!(remembered(), 0);
}

// What changed since

#[tokio::test]
async fn repetition_after_the_session_ended_is_409_without_a_token() {
    let endings = [
        "revoked",
        "signed out",
        "evicted",
        "expired",
        "blocked",
        "all revoked",
    ];
    for ending in endings {
        let server = TestServer::start().await;
        let body = json!({ "user_id": "ada", "idle_timeout_secs": 60 });
        let first = create(&server, "call-1", body.clone()).send().await;
        let path = format!("/v1/sessions/{}", id(&first));
        match ending {
            "revoked" => drop(server.delete(&path).key(&server.key).send().await),
            "signed out" => drop(server.delete("/v1/session").bearer(&token(&first)).send().await),
            "evicted" => {
                set_user(&server, json!({ "max_sessions": 1 })).await;
                server.sign_in("ada").await;
            }
            "expired" => server.advance(60),
            "blocked" => set_user(&server, json!({ "is_blocked": true })).await,
            _ => drop(server.delete("/v1/sessions").key(&server.key).send().await),
        }
        assert_eq!(server.check(&token(&first)).await.status, 401, "{ending}");
        let before = dump(&server).await;

        let again = create(&server, "call-1", body).send().await;

        assert_changed(&again);
        assert_unchanged(&before, &dump(&server).await);
    }
}

#[tokio::test]
async fn repetition_after_a_deadline_that_nobody_swept_is_409_and_before_it_the_session() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "idle_timeout_secs": 60 });
    let first = create(&server, "call-1", body.clone()).send().await;
    server.advance(59);
    assert_eq!(
        server.check(&token(&first)).await.status,
        200,
        "used, not yet written"
    );
    server.advance(59);

    let in_time = create(&server, "call-1", body.clone()).send().await;
    server.advance(1);
    let late = create(&server, "call-1", body).send().await;

    assert_eq!(token(&in_time), token(&first));
    assert_changed(&late);
}

#[tokio::test]
async fn repetition_after_the_token_changed_is_409_without_a_token() {
    for is_renewal in [true, false] {
        let server = TestServer::start().await;
        let first = create(&server, "call-1", ada()).send().await;
        let reply = if is_renewal {
            let renewal = server.post("/v1/session/renew", json!({}));
            renewal.bearer(&token(&first)).send().await
        } else {
            let path = format!("/v1/sessions/{}/authenticate", id(&first));
            let sign_in = server.post(&path, json!({ "user_id": "ada" }));
            sign_in.key(&server.key).send().await
        };
        assert_eq!(reply.status, 200, "{}", reply.text);

        let again = create(&server, "call-1", ada()).send().await;

        assert_changed(&again);
        let newer = reply.json["token"].as_str().expect("a token");
        assert_eq!(server.check(newer).await.status, 200, "it lives on");
    }
}

#[tokio::test]
async fn another_body_is_told_before_what_changed() {
    let server = TestServer::start().await;
    let first = create(&server, "call-1", ada()).send().await;
    let path = format!("/v1/sessions/{}", id(&first));
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    let reply = create(&server, "call-1", json!({})).send().await;
    reply.assert_problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn revoked_api_key_repeats_nothing() {
    let server = TestServer::start().await;
    create(&server, "call-1", ada()).send().await;
    let keys = server.manager.list_keys().await.expect("the keys");
    for key in keys {
        server.manager.revoke_key(key.id).await.expect("revoked");
    }
    let reply = create(&server, "call-1", ada()).send().await;
    reply.assert_problem(401, "invalid_api_key");
}

// Refusals

#[tokio::test]
async fn refusals_are_not_remembered() {
    let server = TestServer::start().await;
    let refused = async |body: &str, status: u16| {
        let request = server.request(reqwest::Method::POST, "/v1/sessions");
        let request = request.key(&server.key).header("idempotency-key", "call-1");
        let reply = request.raw("application/json", body.as_bytes()).send().await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text);
        assert!(!is_replayed(&reply));
    };
    refused("{", 400).await;
    refused(r#"{"user_id":""}"#, 422).await;
    refused(r#"{"user_id":"ada","tier":"gold"}"#, 422).await;
    set_user(&server, json!({ "max_sessions": 0 })).await;
    refused(r#"{"user_id":"ada"}"#, 409).await;
    set_user(&server, json!({ "max_sessions": null, "is_blocked": true })).await;
    refused(r#"{"user_id":"ada"}"#, 403).await;
    set_user(&server, json!({ "is_blocked": false })).await;
    assert_eq!(count(&server, "SELECT count(*) FROM idempotency_keys"), 0);

    let first = create(&server, "call-1", json!({ "user_id": "ada" }))
        .send()
        .await;

    assert_eq!(first.status, 201, "{}", first.text);
    assert!(!is_replayed(&first));
}

#[tokio::test]
async fn bad_key_is_422_and_starts_nothing() {
    let server = TestServer::start().await;
    let before = dump(&server).await;
    let long = "k".repeat(256);
    let bad = ["", "a b", "a\tb", "é", "💥", "\u{80}", &long];
    for key in bad {
        let reply = create(&server, key, ada()).send().await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec!["Idempotency-Key"]),
            "{key:.20}: {}",
            reply.text
        );
    }
    for (one, other) in [("a", "a"), ("a", "b"), ("a", "")] {
        let reply = create(&server, one, ada()).header("idempotency-key", other);
        let reply = reply.send().await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec!["Idempotency-Key"]),
            "{one} and {other}: {}",
            reply.text
        );
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn operator_socket_refuses_a_key_as_nobody_has_an_api_key_there() {
    let server = TestServer::start().await;
    let before = dump(&server).await;
    let mut wire = Wire::open_operator(&server).await;
    let request = "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                   Idempotency-Key: call-1\r\nContent-Length: 2\r\n\r\n{}";

    wire.send(request.as_bytes()).await;

    let answer = wire.answer().await.expect("an answer");
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert!(
        answer.body.contains(r#""field":"Idempotency-Key""#),
        "{}",
        answer.body
    );
    assert_unchanged(&before, &dump(&server).await);
}

// What is kept

#[tokio::test]
async fn neither_the_key_nor_the_body_of_a_call_is_stored() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "tier": null, "remember": true });
    let reply = create(&server, "a-key-that-may-be-somebodys-order-number", body.clone());
    let reply = reply.send().await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let path = server.database();
    let stopped = server.stop().await;

    let bytes = std::fs::read(&path).expect("the database");

    let contains = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(contains("session.created"), "this is where it would be");
    assert!(!contains("order-number"));
    assert!(!contains(&body.to_string()));
    assert!(!contains(&token(&reply)));
    drop(stopped);
}

// At once

#[tokio::test]
async fn parallel_equal_calls_make_one_session_and_one_token() {
    let server = TestServer::start().await;

    let replies = at_once((0..50).map(|_| create(&server, "call-1", ada()))).await;

    let first = token(&replies[0]);
    assert!(replies.iter().all(|reply| token(reply) == first));
    let replayed = replies.iter().filter(|reply| is_replayed(reply)).count();
    assert_eq!(replayed, 49);
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 1);
    assert_eq!(events(&server.database()).len(), 1);
    assert_eq!(server.check(&first).await.status, 200);
}

#[tokio::test]
async fn of_parallel_calls_with_one_key_and_different_bodies_one_is_made() {
    let server = TestServer::start().await;
    let calls = (0..20).map(|number| create(&server, "call-1", json!({ "user_id": format!("u{number}") })));

    let replies = at_once(calls).await;

    assert_eq!((with_status(&replies, 201), with_status(&replies, 422)), (1, 19));
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 1);
}

#[tokio::test]
async fn repetition_that_meets_the_ending_never_leaves_a_good_token() {
    let server = TestServer::start().await;
    for round in 0..20 {
        let call = format!("call-{round}");
        let first = create(&server, &call, ada()).send().await;
        let path = format!("/v1/sessions/{}", id(&first));

        let replies = at_once([
            create(&server, &call, ada()),
            server.delete(&path).key(&server.key),
        ])
        .await;

        assert_eq!(replies[1].status, 204);
        if replies[0].status == 201 {
            assert_eq!(token(&replies[0]), token(&first));
        } else {
            assert_changed(&replies[0]);
        }
        server
            .check(&token(&first))
            .await
            .assert_problem(401, "session_ended");
    }
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 20);
}
