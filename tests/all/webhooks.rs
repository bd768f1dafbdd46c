//! Webhooks: what is sent where, again, in which order, and what is not.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sessiond::clock::Clock;
use sessiond::server::Mode;
use sessiond::session::AppName;

use crate::harness::{Reply, START, Stopped, TestServer, config_in, eventually};
use crate::receiver::{Answer, Receiver, verify};
use crate::stores::sqlite_in;
use crate::support::{DAY, HOUR, UNKNOWN_ID, add_app, at, at_once, count, rows, with_status};

/// A server whose webhooks may lead to this machine.
async fn server() -> TestServer {
    TestServer::start_with(|config| config.webhooks.allow_private = true).await
}

/// A webhook for everything that happens in `default`: its id and secret.
async fn webhook(server: &TestServer, url: &str) -> (String, String) {
    made(server, json!({ "url": url })).await
}

async fn made(server: &TestServer, body: Value) -> (String, String) {
    let reply = server.post("/v1/webhooks", body).key(&server.key).send().await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&reply.json["webhook"]["id"]), text(&reply.json["secret"]))
}

async fn shown(server: &TestServer, id: &str) -> Value {
    let reply = server
        .get(&format!("/v1/webhooks/{id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

async fn patched(server: &TestServer, id: &str, body: Value) -> Value {
    let reply = server
        .patch(&format!("/v1/webhooks/{id}"), body)
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

async fn posted(server: &TestServer, path: &str, body: Value) -> Reply {
    server.post(path, body).key(&server.key).send().await
}

/// The newest deliveries.
async fn deliveries(server: &TestServer, id: &str, query: &str) -> Vec<Value> {
    let path = format!("/v1/webhooks/{id}/deliveries{query}");
    let reply = server.get(&path).key(&server.key).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json["deliveries"].as_array().expect("a list").clone()
}

/// Waits until the newest delivery is so, and answers it.
async fn delivery(server: &TestServer, id: &str, status: &str, attempts: u64) -> Value {
    let is_so = |all: &[Value]| {
        all.first()
            .is_some_and(|newest| newest["status"] == status && newest["attempts"] == attempts)
    };
    eventually(
        &format!("a delivery that is {status} after {attempts}"),
        || async { is_so(&deliveries(server, id, "").await) },
    )
    .await;
    deliveries(server, id, "").await.swap_remove(0)
}

async fn event_ids(server: &TestServer) -> Vec<String> {
    let reply = server.get("/v1/events?limit=200").key(&server.key).send().await;
    let events = reply.json["events"].as_array().expect("a list");
    events
        .iter()
        .map(|event| event["id"].as_str().expect("an id").to_owned())
        .collect()
}

/// Makes deliveries rows that no event stands behind: their state, attempts, and first and next attempt.
fn fill(server: &TestServer, id: &str, events: RangeInclusive<u32>, row: &str) {
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT {} UNION ALL SELECT n + 1 FROM numbers WHERE n < {})
         INSERT INTO webhook_deliveries (webhook_id, event_id, type, subject, state, attempts, first_attempt_at,
             next_attempt_at, created_at)
         SELECT unhex('{}'), n, 'session.created', n, {row}, 0 FROM numbers",
        events.start(),
        events.end(),
        id.replace('-', "")
    );
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    database.execute_batch(&sql).expect("rows");
}

#[tokio::test]
async fn event_is_sent_as_it_is_shown_with_its_id_and_the_time() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    webhook(&server, &format!("{}/hooks?from=here", receiver.base)).await;
    server.sign_in("ada").await;
    let received = receiver.next().await;

    let events = server.get("/v1/events").key(&server.key).send().await;
    let event = &events.json["events"][0];
    assert_eq!(received.path, "/hooks?from=here");
    assert_eq!(received.json["type"], "session.created");
    assert_eq!(received.json["timestamp"], event["occurred_at"]);
    assert_eq!(&received.json["data"], event);
    assert_eq!(Some(received.id()), event["id"].as_str());
    let sent_at = (START.as_millis() / 1_000).to_string();
    assert_eq!(received.headers["webhook-timestamp"], sent_at);
    assert_eq!(received.headers["content-type"], "application/json");
    let version = concat!("sessiond/", env!("CARGO_PKG_VERSION"));
    assert_eq!(received.headers["user-agent"], version);
}

#[tokio::test]
async fn signature_is_verified_by_the_standard_s_own_library() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config_in(dir.path());
    config.webhooks.allow_private = true;
    // The library compares the time with its own.
    let server = TestServer::run(config, Mode::Serve, Arc::new(Clock::system())).await;
    let mut receiver = Receiver::start().await;
    let (id, secret) = webhook(&server, &receiver.base).await;
    server
        .create(json!({ "user_id": "ä\"\\ \u{1f600}", "name": "é" }))
        .await;
    let received = receiver.next().await;

    assert_eq!(verify(&secret, &received), Ok(()));
    let (_, other) = webhook(&server, "http://127.0.0.1:1/").await;
    assert!(verify(&other, &received).is_err(), "by another secret");
    let mut changed = received.clone();
    changed.body = changed.body.replace("session.created", "session.revoked");
    assert!(verify(&secret, &changed).is_err(), "of another body");
    changed = received.clone();
    changed.headers.insert("webhook-id".into(), "evt_other".into());
    assert!(verify(&secret, &changed).is_err(), "of another id");

    let rotated = posted(&server, &format!("/v1/webhooks/{id}/rotate-secret"), json!({})).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let new = rotated.json["secret"].as_str().expect("a secret");
    server.sign_in("grace").await;
    let received = receiver.next().await;
    for secret in [secret.as_str(), new] {
        assert_eq!(verify(secret, &received), Ok(()), "while both sign");
    }
}

#[tokio::test]
async fn only_events_of_the_app_and_of_the_types_asked_for_are_sent() {
    let server = TestServer::start_with(|config| {
        config.webhooks.allow_private = true;
        add_app(config, "other");
    })
    .await;
    let mut receiver = Receiver::start().await;
    let (id, _) = made(
        &server,
        json!({ "url": receiver.base, "types": ["session.revoked"] }),
    )
    .await;
    let other = server.key_of("other").await;
    let theirs = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&other)
        .send()
        .await;
    let path = format!(
        "/v1/sessions/{}",
        theirs.json["session"]["id"].as_str().expect("an id")
    );
    assert_eq!(server.delete(&path).key(&other).send().await.status, 204);
    let ada = server.sign_in("ada").await;
    server
        .delete(&format!("/v1/sessions/{}", ada.id))
        .key(&server.key)
        .send()
        .await;

    let received = receiver.next().await;
    assert_eq!(received.kind(), "session.revoked");
    assert_eq!(received.json["data"]["session_id"], ada.id);
    delivery(&server, &id, "delivered", 1).await;
    assert_eq!(deliveries(&server, &id, "").await.len(), 1);
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test]
async fn new_webhook_gets_what_happens_from_then_on() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    server.sign_in("before").await;
    webhook(&server, &receiver.base).await;
    server.sign_in("after").await;
    assert_eq!(receiver.next().await.user(), "after");
}

#[tokio::test]
async fn failed_attempt_is_repeated_with_the_same_id_and_a_new_time() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    let first = receiver.next().await;
    let failed = delivery(&server, &id, "pending", 1).await;
    assert_eq!(
        failed["last_attempt"],
        json!({ "at": at(0), "http_status": 500, "error": "the answer was 500" })
    );
    let next = failed["next_attempt_at"].as_str().expect("a time");
    assert!((at(1).as_str()..=at(5).as_str()).contains(&next), "{next}");

    receiver.answer(|_| Answer::Status(200));
    server.advance(5);
    let second = receiver.next().await;
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    assert_ne!(
        second.headers["webhook-timestamp"],
        first.headers["webhook-timestamp"]
    );
    assert_ne!(second.signatures(), first.signatures());
    let done = delivery(&server, &id, "delivered", 2).await;
    assert_eq!(
        done["last_attempt"],
        json!({ "at": at(5), "http_status": 200, "error": null })
    );
    assert_eq!(done["next_attempt_at"], Value::Null);
    let webhook = shown(&server, &id).await;
    assert_eq!(
        (&webhook["last_delivery"], &webhook["pending_count"]),
        (&done["last_attempt"], &json!(0))
    );
}

#[tokio::test]
async fn delivery_fails_when_it_was_tried_for_a_day() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    // However late they are, a few attempts are made.
    for attempts in 2..5 {
        server.advance(DAY);
        receiver.next().await;
        delivery(&server, &id, "pending", attempts).await;
    }
    server.advance(DAY);
    receiver.next().await;
    let failed = delivery(&server, &id, "failed", 5).await;
    assert_eq!(failed["next_attempt_at"], Value::Null);
    assert_eq!(
        shown(&server, &id).await["state"],
        "active",
        "the next event has its own chance"
    );
}

#[tokio::test]
async fn later_events_of_a_session_wait_and_others_go_on() {
    let server = server().await;
    let is_down = Arc::new(AtomicBool::new(true));
    let mut receiver = Receiver::answering({
        let is_down = Arc::clone(&is_down);
        move |received| {
            let is_ada = received.json["data"]["user_id"] == "ada";
            Answer::Status(if is_ada && is_down.load(Ordering::Relaxed) {
                503
            } else {
                204
            })
        }
    })
    .await;
    let (id, _) = webhook(&server, &receiver.base).await;
    let ada = server.sign_in("ada").await;
    delivery(&server, &id, "pending", 1).await;
    server
        .delete(&format!("/v1/sessions/{}", ada.id))
        .key(&server.key)
        .send()
        .await;
    for user in ["grace", "linus"] {
        let session = server.sign_in(user).await;
        server
            .delete(&format!("/v1/sessions/{}", session.id))
            .key(&server.key)
            .send()
            .await;
    }
    let events = |all: Vec<crate::receiver::Received>, user: &str| -> Vec<String> {
        let of_user = all.into_iter().filter(|received| received.user() == user);
        of_user.map(|received| received.kind().to_owned()).collect()
    };
    let meanwhile = receiver.take(5).await;
    assert_eq!(events(meanwhile.clone(), "ada"), ["session.created"]);
    for user in ["grace", "linus"] {
        assert_eq!(
            events(meanwhile.clone(), user),
            ["session.created", "session.revoked"],
            "{user}"
        );
    }
    eventually("only ada's wait", || async {
        shown(&server, &id).await["pending_count"] == 2
    })
    .await;

    is_down.store(false, Ordering::Relaxed);
    server.advance(5);
    assert_eq!(
        events(receiver.take(2).await, "ada"),
        ["session.created", "session.revoked"]
    );
}

#[tokio::test]
async fn gone_receiver_disables_its_webhook_until_somebody_resumes_it() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(410)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    eventually("it is disabled", || async {
        shown(&server, &id).await["state"] == "disabled"
    })
    .await;
    let reason = shown(&server, &id).await["disabled_reason"].clone();
    assert_eq!(reason, "its receiver answered 410 Gone");
    server.sign_in("grace").await;
    server.advance(HOUR);

    receiver.answer(|_| Answer::Status(204));
    let resumed = patched(&server, &id, json!({ "is_paused": false })).await;
    assert_eq!(
        (&resumed["state"], &resumed["disabled_reason"]),
        (&json!("active"), &Value::Null)
    );
    let users: Vec<String> = receiver
        .take(2)
        .await
        .iter()
        .map(|one| one.user().to_owned())
        .collect();
    assert_eq!(users, ["ada", "grace"], "and nothing came between");
}

#[tokio::test]
async fn redirect_is_a_failure_and_is_not_followed() {
    let server = server().await;
    let mut elsewhere = Receiver::start().await;
    let location = format!("{}/stolen", elsewhere.base);
    let receiver = Receiver::answering(move |_| Answer::With(307, "location", location.clone())).await;
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    let failed = delivery(&server, &id, "pending", 1).await;
    assert_eq!(failed["last_attempt"]["http_status"], 307);
    let error = failed["last_attempt"]["error"].as_str().expect("a reason");
    assert!(error.contains("redirects are not followed"), "{error}");
    assert_eq!(elsewhere.rest().len(), 0);
}

#[tokio::test]
async fn receiver_s_retry_after_is_kept() {
    let server = server().await;
    let date = START.plus_millis(7_200_000).to_http_date();
    for (status, value, expected) in [(503, "3600".to_owned(), HOUR), (429, date, 2 * HOUR)] {
        let receiver = Receiver::answering(move |_| Answer::With(status, "retry-after", value.clone())).await;
        let (id, _) = webhook(&server, &receiver.base).await;
        server.sign_in("ada").await;
        let failed = delivery(&server, &id, "pending", 1).await;
        assert_eq!(failed["next_attempt_at"], at(expected), "{status}");
        patched(&server, &id, json!({ "is_paused": true })).await;
    }
}

#[tokio::test]
async fn silent_receiver_does_not_delay_another() {
    let server = TestServer::start_with(|config| {
        config.webhooks.allow_private = true;
        config.server.shutdown_grace_secs = 0;
    })
    .await;
    let silent = Receiver::answering(|_| Answer::Never).await;
    let mut good = Receiver::start().await;
    let mut silent_ids = Vec::new();
    for _ in 0..10 {
        silent_ids.push(webhook(&server, &silent.base).await.0);
    }
    webhook(&server, &good.base).await;
    for number in 0..20 {
        server.sign_in(&format!("user-{number}")).await;
    }
    good.take(20).await;
    for id in silent_ids {
        // Not one attempt has been given up meanwhile: so none of the others waited for that.
        assert_eq!(shown(&server, &id).await["last_delivery"], Value::Null);
    }
}

#[tokio::test]
async fn few_attempts_of_a_webhook_are_under_way_at_once() {
    let server = server().await;
    let mut receiver = Receiver::start().await;
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("first").await;
    delivery(&server, &id, "delivered", 1).await;
    receiver.next().await;
    let seen = Arc::new(AtomicUsize::new(0));
    receiver.answer({
        let seen = Arc::clone(&seen);
        move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
            Answer::Held(204)
        }
    });
    for number in 0..12 {
        server.sign_in(&format!("user-{number}")).await;
    }
    receiver.take(4).await;
    eventually("all wait", || async {
        shown(&server, &id).await["pending_count"] == 12
    })
    .await;
    // The webhook's task looks at everything anew, and finds no place.
    patched(&server, &id, json!({ "description": "busy" })).await;
    assert_eq!(seen.load(Ordering::Relaxed), 4);
    receiver.release();
    receiver.take(8).await;
}

#[tokio::test]
async fn long_answer_is_not_read_to_its_end() {
    let (server, mut receiver) = (
        server().await,
        Receiver::answering(|_| Answer::Long(200, 8_000_000)).await,
    );
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    delivery(&server, &id, "delivered", 1).await;
}

#[tokio::test]
async fn status_decides_whatever_becomes_of_the_body() {
    let server = server().await;
    for answer in [Answer::BrokenOff(200), Answer::Stalled(200)] {
        let name = format!("{answer:?}");
        let receiver = Receiver::answering(move |_| answer.clone()).await;
        let (id, _) = webhook(&server, &receiver.base).await;
        server.sign_in("ada").await;
        let done = delivery(&server, &id, "delivered", 1).await;
        assert_eq!(done["last_attempt"]["http_status"], 200, "{name}");
        patched(&server, &id, json!({ "is_paused": true })).await;
    }
}

#[tokio::test]
async fn address_that_is_not_public_is_refused_in_a_url() {
    let server = TestServer::start().await;
    for url in [
        "http://127.0.0.1:8080/",
        "https://10.0.0.1/",
        "http://[::1]/",
        "http://0x7f.1/",
        "http://[::ffff:192.168.0.1]/",
        "http://169.254.169.254/latest/meta-data",
    ] {
        let reply = posted(&server, "/v1/webhooks", json!({ "url": url })).await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), ["url"], "{url}");
        assert!(reply.text.contains("not public"), "{}", reply.text);
    }
    assert_eq!(count(&server, "SELECT count(*) FROM webhooks"), 0);
}

#[tokio::test]
async fn name_that_leads_to_this_machine_is_refused_when_it_is_connected_to() {
    let (server, mut receiver) = (TestServer::start().await, Receiver::start().await);
    let (id, _) = webhook(&server, &receiver.base.replace("127.0.0.1", "localhost")).await;
    server.sign_in("ada").await;
    let failed = delivery(&server, &id, "pending", 1).await;
    let reason = json!("it leads to an address that is not public");
    assert_eq!(failed["last_attempt"]["error"], reason);
    let tested = posted(&server, &format!("/v1/webhooks/{id}/test"), json!({})).await;
    assert_eq!(
        (&tested.json["status"], &tested.json["error"]),
        (&Value::Null, &reason)
    );
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test]
async fn address_is_looked_at_again_when_private_ones_are_no_longer_allowed() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    let (id, _) = webhook(&server, &receiver.base).await;
    let mut stopped: Stopped = server.stop().await;
    stopped.config.webhooks.allow_private = false;
    let server = stopped.restart().await;
    server.sign_in("ada").await;
    let failed = delivery(&server, &id, "pending", 1).await;
    assert_eq!(
        failed["last_attempt"]["error"],
        "it leads to an address that is not public"
    );
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test]
async fn both_secrets_sign_for_a_day_after_a_rotation_and_then_the_old_one_is_erased() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    let (id, first) = webhook(&server, &receiver.base).await;
    let path = format!("/v1/webhooks/{id}/rotate-secret");
    let rotated = posted(&server, &path, json!({})).await;
    assert_eq!(rotated.json["webhook"]["secret_rotates_at"], at(DAY));
    assert_ne!(rotated.json["secret"], first);
    server.sign_in("ada").await;
    assert_eq!(receiver.next().await.signatures().len(), 2);

    server.advance(DAY);
    server.sign_in("grace").await;
    assert_eq!(receiver.next().await.signatures().len(), 1);
    assert_eq!(shown(&server, &id).await["secret_rotates_at"], Value::Null);
    server.tick().await;
    assert_eq!(
        count(
            &server,
            "SELECT count(*) FROM webhooks WHERE previous_secret IS NULL"
        ),
        1
    );
}

#[tokio::test]
async fn paused_webhook_gets_what_happened_meanwhile_when_it_goes_on() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    let (id, _) = webhook(&server, &receiver.base).await;
    let paused = patched(&server, &id, json!({ "is_paused": true })).await;
    assert_eq!(paused["state"], "paused");
    for user in ["ada", "grace"] {
        server.sign_in(user).await;
    }
    // Another one, made later, was told: so this one could have been.
    let mut other = Receiver::start().await;
    webhook(&server, &other.base).await;
    server.sign_in("linus").await;
    other.next().await;
    assert_eq!(receiver.rest().len(), 0);

    patched(&server, &id, json!({ "is_paused": false })).await;
    let users: Vec<String> = receiver
        .take(3)
        .await
        .iter()
        .map(|one| one.user().to_owned())
        .collect();
    assert_eq!(users.len(), 3, "{users:?}");
}

#[tokio::test]
async fn pending_deliveries_of_types_that_are_no_longer_asked_for_are_skipped() {
    let (server, receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    delivery(&server, &id, "pending", 1).await;
    let changed = patched(&server, &id, json!({ "types": ["session.revoked"] })).await;
    assert_eq!(changed["pending_count"], 0);
    delivery(&server, &id, "skipped", 1).await;
}

#[tokio::test]
async fn delivery_of_an_event_that_is_no_longer_kept_fails() {
    let server = TestServer::start_with(|config| {
        config.webhooks.allow_private = true;
        config.sessions.retention_secs = HOUR;
    })
    .await;
    let three_hours = || Answer::With(503, "retry-after", (3 * HOUR).to_string());
    let mut receiver = Receiver::answering(move |_| three_hours()).await;
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    server.advance(2 * HOUR);
    server.tick().await;
    server.advance(HOUR);
    let failed = delivery(&server, &id, "failed", 2).await;
    assert_eq!(failed["last_attempt"]["error"], "the event is no longer kept");
    assert_eq!(receiver.rest().len(), 0);
    server.tick().await;
    assert_eq!(
        count(&server, "SELECT count(*) FROM webhook_deliveries"),
        0,
        "purged like events"
    );
}

#[tokio::test]
async fn one_delivery_is_sent_again_on_demand() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    let first = receiver.next().await;
    delivery(&server, &id, "delivered", 1).await;
    let path = format!("/v1/webhooks/{id}/deliveries/{}/replay", first.id());
    let replayed = posted(&server, &path, json!({})).await;
    assert_eq!(
        (replayed.status, &replayed.json["count"]),
        (202, &json!(1)),
        "{}",
        replayed.text
    );
    let second = receiver.next().await;
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
}

#[tokio::test]
async fn delivery_that_waits_is_made_at_once_on_demand() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    let first = receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    receiver.answer(|_| Answer::Status(204));
    let path = format!("/v1/webhooks/{id}/deliveries/{}/replay", first.id());
    assert_eq!(posted(&server, &path, json!({})).await.status, 202);
    assert_eq!(receiver.next().await.id(), first.id());
    delivery(&server, &id, "delivered", 1).await;
}

#[tokio::test]
async fn range_of_events_is_sent_also_from_before_the_webhook_was_made() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    for user in ["one", "two", "three", "four"] {
        server.sign_in(user).await;
    }
    let ids = event_ids(&server).await;
    let (id, _) = webhook(&server, &receiver.base).await;
    let path = format!("/v1/webhooks/{id}/replay");
    let replayed = posted(&server, &path, json!({ "after": ids[0], "until": ids[2] })).await;
    assert_eq!(
        (replayed.status, replayed.json),
        (202, json!({ "count": 2, "next_after": null }))
    );
    let mut users: Vec<String> = receiver
        .take(2)
        .await
        .iter()
        .map(|one| one.user().to_owned())
        .collect();
    users.sort();
    assert_eq!(users, ["three", "two"]);
    delivery(&server, &id, "delivered", 1).await;

    let replayed = posted(&server, &path, json!({ "after": ids[0] })).await;
    assert_eq!(replayed.json["count"], 3, "also what was sent before");
    receiver.take(3).await;

    eventually("nothing waits", || async {
        shown(&server, &id).await["pending_count"] == 0
    })
    .await;
    let replayed = posted(&server, &path, json!({})).await;
    assert_eq!(replayed.json["count"], 4, "all that is kept");
    receiver.take(4).await;
}

#[tokio::test]
async fn test_message_is_signed_and_is_no_event() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    let (id, _) = webhook(&server, &receiver.base).await;
    patched(&server, &id, json!({ "is_paused": true })).await;
    let tested = posted(&server, &format!("/v1/webhooks/{id}/test"), json!({})).await;
    assert_eq!(
        (tested.status, &tested.json["status"]),
        (200, &json!(204)),
        "{}",
        tested.text
    );
    assert!(tested.json["error"].is_null() && tested.json["duration_ms"].is_u64());
    let received = receiver.next().await;
    assert_eq!(received.kind(), "webhook.test");
    assert_eq!(
        received.json["data"],
        json!({ "webhook_id": id, "app": "default" })
    );
    assert_eq!(received.signatures().len(), 1);
    assert_eq!(count(&server, "SELECT count(*) FROM events"), 0);
    assert_eq!(deliveries(&server, &id, "").await.len(), 0);

    receiver.answer(|_| Answer::Status(404));
    let tested = posted(&server, &format!("/v1/webhooks/{id}/test"), json!({})).await;
    assert_eq!(
        (&tested.json["status"], &tested.json["error"]),
        (&json!(404), &json!("the answer was 404"))
    );
}

#[tokio::test]
async fn log_of_deliveries_is_paged_newest_first_and_filtered() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    receiver.answer(|received| Answer::Status(if received.user() == "two" { 500 } else { 204 }));
    let (id, _) = webhook(&server, &receiver.base).await;
    for user in ["one", "two", "three"] {
        server.sign_in(user).await;
    }
    receiver.take(3).await;
    eventually("one waits", || async {
        shown(&server, &id).await["pending_count"] == 1
    })
    .await;
    let mut ids = event_ids(&server).await;
    let of = |all: &[Value]| -> Vec<String> {
        all.iter()
            .map(|one| one["event_id"].as_str().expect("an id").to_owned())
            .collect()
    };
    assert_eq!(
        of(&deliveries(&server, &id, "?status=pending").await),
        [ids[1].clone()]
    );
    let delivered = of(&deliveries(&server, &id, "?status=delivered").await);
    assert_eq!(delivered, [ids[2].clone(), ids[0].clone()]);
    let path = format!("/v1/webhooks/{id}/deliveries?limit=2");
    let first = server.get(&path).key(&server.key).send().await;
    let cursor = first.json["next_cursor"].as_str().expect("a next page");
    let second = server
        .get(&format!("{path}&cursor={cursor}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(second.json["next_cursor"], Value::Null);
    let pages = [&first, &second].map(|page| of(page.json["deliveries"].as_array().expect("a list")));
    ids.reverse();
    assert_eq!(pages.concat(), ids);
}

#[tokio::test]
async fn webhooks_of_another_app_are_not_there() {
    let server = TestServer::start_with(|config| add_app(config, "other")).await;
    let (id, _) = webhook(&server, "https://hooks.example.com/").await;
    let other = server.key_of("other").await;
    let path = format!("/v1/webhooks/{id}");
    let event = "evt_AAAAAAAAAAAAAAAAAAAAAA";
    for request in [
        server.get(&path),
        server.patch(&path, json!({ "is_paused": true })),
        server.delete(&path),
        server.post(&format!("{path}/test"), json!({})),
        server.post(&format!("{path}/rotate-secret"), json!({})),
        server.get(&format!("{path}/deliveries")),
        server.post(&format!("{path}/deliveries/{event}/replay"), json!({})),
        server.post(&format!("{path}/replay"), json!({ "after": event })),
    ] {
        request.key(&other).send().await.assert_problem(404, "not_found");
    }
    let listed = server.get("/v1/webhooks").key(&other).send().await;
    assert_eq!(listed.json, json!({ "webhooks": [] }));
    assert_eq!(shown(&server, &id).await["state"], "active");
}

#[tokio::test]
async fn webhook_is_shown_without_its_secret() {
    let server = TestServer::start().await;
    let body = json!({ "url": "https://HOOKS.example.com", "types": ["session.revoked", "session.created",
        "session.created"], "description": "for the shop" });
    let (id, secret) = made(&server, body).await;
    let expected = json!({
        "id": id, "app": "default", "name": null, "url": "https://hooks.example.com/",
        "types": ["session.created", "session.revoked"], "description": "for the shop", "state": "active",
        "disabled_reason": null, "pending_count": 0, "last_delivery": null, "secret_rotates_at": null,
        "created_at": at(0),
    });
    assert_eq!(shown(&server, &id).await, expected);
    let listed = server.get("/v1/webhooks").key(&server.key).send().await;
    assert_eq!(listed.json, json!({ "webhooks": [expected] }));
    assert!(!listed.text.contains(&secret));
    let row = &rows(&server, "SELECT * FROM webhooks")[0];
    assert!(!row.to_string().contains(&secret[6..]), "{row}");
}

#[tokio::test]
async fn deleted_webhook_is_gone_with_its_deliveries_and_gets_nothing() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    let path = format!("/v1/webhooks/{id}");
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    server
        .get(&path)
        .key(&server.key)
        .send()
        .await
        .assert_problem(404, "not_found");
    server
        .delete(&path)
        .key(&server.key)
        .send()
        .await
        .assert_problem(404, "not_found");
    assert_eq!(count(&server, "SELECT count(*) FROM webhook_deliveries"), 0);
    server.advance(HOUR);
    let mut other = Receiver::start().await;
    webhook(&server, &other.base).await;
    server.sign_in("grace").await;
    other.next().await;
    assert_eq!(receiver.rest().len(), 0);
}

#[tokio::test]
async fn all_of_many_deliveries_go_with_their_webhook() {
    let server = server().await;
    let (id, _) = webhook(&server, "http://127.0.0.1:1/").await;
    let (other, _) = webhook(&server, "http://127.0.0.1:1/").await;
    for id in [&id, &other] {
        fill(&server, id, 1..=2_500, "'delivered', 1, 0, NULL");
    }
    let reply = server
        .delete(&format!("/v1/webhooks/{id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    assert_eq!(count(&server, "SELECT count(*) FROM webhook_deliveries"), 2_500);
    assert_eq!(
        deliveries(&server, &other, "?limit=200").await.len(),
        200,
        "another's stay"
    );
}

#[tokio::test]
async fn thousand_deliveries_that_wait_to_be_tried_again_hold_up_no_others() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    server.sign_in("before").await;
    let (id, _) = webhook(&server, &receiver.base).await;
    let later = START.plus_millis(3_600_000).as_millis();
    fill(
        &server,
        &id,
        100_001..=101_000,
        &format!("'pending', 3, 0, {later}"),
    );
    server.sign_in("ada").await;
    assert_eq!(receiver.next().await.user(), "ada");
}

#[tokio::test]
async fn replay_goes_no_further_than_there_is_room_for_pending_deliveries() {
    let (server, receiver) = (server().await, Receiver::start().await);
    for user in ["one", "two", "three"] {
        server.sign_in(user).await;
    }
    let ids = event_ids(&server).await;
    let (id, _) = webhook(&server, &receiver.base).await;
    let later = START.plus_millis(3_600_000).as_millis();
    fill(
        &server,
        &id,
        100_001..=109_999,
        &format!("'pending', 3, 0, {later}"),
    );
    patched(&server, &id, json!({ "is_paused": true })).await;
    let path = format!("/v1/webhooks/{id}/replay");
    let first = posted(&server, &path, json!({ "after": ids[0] })).await;
    assert_eq!(
        first.json,
        json!({ "count": 1, "next_after": ids[1] }),
        "{}",
        first.text
    );
    let second = posted(&server, &path, json!({ "after": ids[1] })).await;
    assert_eq!(
        second.json,
        json!({ "count": 0, "next_after": ids[1] }),
        "{}",
        second.text
    );
    assert_eq!(shown(&server, &id).await["pending_count"], 10_000);
}

#[tokio::test]
async fn delivery_that_is_skipped_while_it_is_attempted_stays_so() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Held(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    patched(&server, &id, json!({ "types": ["session.revoked"] })).await;
    delivery(&server, &id, "skipped", 0).await;
    receiver.release();
    let skipped = delivery(&server, &id, "skipped", 1).await;
    assert_eq!(skipped["last_attempt"]["http_status"], 500);
    assert_eq!(skipped["next_attempt_at"], Value::Null);
}

#[tokio::test]
async fn replay_during_the_last_attempt_outlives_its_failure() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    let first = receiver.next().await;
    for attempts in 1..5 {
        delivery(&server, &id, "pending", attempts).await;
        if attempts == 4 {
            receiver.answer(|_| Answer::Held(500));
        }
        server.advance(DAY);
        receiver.next().await;
    }
    let path = format!("/v1/webhooks/{id}/deliveries/{}/replay", first.id());
    assert_eq!(posted(&server, &path, json!({})).await.status, 202);
    receiver.answer(|_| Answer::Status(204));
    receiver.release();
    receiver.next().await;
    delivery(&server, &id, "delivered", 2).await;
}

#[tokio::test]
async fn webhook_that_leads_elsewhere_by_now_is_not_disabled_by_its_former_receiver() {
    let (server, mut former) = (server().await, Receiver::answering(|_| Answer::Held(410)).await);
    let mut new = Receiver::start().await;
    let (id, _) = webhook(&server, &former.base).await;
    server.sign_in("ada").await;
    former.next().await;
    patched(&server, &id, json!({ "url": new.base })).await;
    former.release();
    assert_eq!(new.next().await.user(), "ada");
    delivery(&server, &id, "delivered", 2).await;
    assert_eq!(shown(&server, &id).await["state"], "active");
}

#[tokio::test]
async fn attempt_that_waited_for_a_place_goes_where_the_webhook_leads_by_then() {
    // As many as may be under way at once to receivers that did not answer yet.
    const PLACES: usize = 16;
    let (server, mut held) = (server().await, Receiver::answering(|_| Answer::Held(204)).await);
    let (mut former, mut new) = (Receiver::start().await, Receiver::start().await);
    for _ in 0..PLACES {
        webhook(&server, &held.base).await;
    }
    server.sign_in("ada").await;
    held.take(PLACES).await;
    let (id, _) = webhook(&server, &former.base).await;
    server.sign_in("grace").await;
    eventually("it waits for a place", || async {
        shown(&server, &id).await["pending_count"] == 1
    })
    .await;
    patched(&server, &id, json!({ "url": new.base })).await;
    held.release();
    assert_eq!(new.next().await.user(), "grace");
    assert_eq!(former.rest().len(), 0);
}

#[tokio::test]
async fn receiver_that_asks_to_be_left_alone_is_until_then_or_until_somebody_asks_for_more() {
    let server = server().await;
    let an_hour = |_: &crate::receiver::Received| Answer::With(503, "retry-after", HOUR.to_string());
    let mut receiver = Receiver::answering(an_hour).await;
    let (id, _) = webhook(&server, &receiver.base).await;
    server.sign_in("ada").await;
    receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    server.sign_in("grace").await;
    eventually("both wait", || async {
        shown(&server, &id).await["pending_count"] == 2
    })
    .await;
    receiver.answer(|_| Answer::Status(204));
    server.advance(HOUR);
    receiver.take(2).await;
    let of_grace = delivery(&server, &id, "delivered", 1).await;
    assert_eq!(
        of_grace["last_attempt"]["at"],
        at(HOUR),
        "another session's waited too"
    );

    receiver.answer(an_hour);
    server.sign_in("linus").await;
    let of_linus = receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    receiver.answer(|_| Answer::Status(204));
    let path = format!("/v1/webhooks/{id}/deliveries/{}/replay", of_linus.id());
    assert_eq!(posted(&server, &path, json!({})).await.status, 202);
    assert_eq!(receiver.next().await.id(), of_linus.id());
}

#[tokio::test]
async fn app_may_have_twenty_webhooks() {
    let server = TestServer::start().await;
    for number in 0..20 {
        webhook(&server, &format!("https://hooks.example.com/{number}")).await;
    }
    let refused = posted(
        &server,
        "/v1/webhooks",
        json!({ "url": "https://hooks.example.com/20" }),
    )
    .await;
    refused.assert_problem(422, "validation_failed");
    assert!(refused.text.contains("20 webhooks"), "{}", refused.text);
    assert_eq!(count(&server, "SELECT count(*) FROM webhooks"), 20);
}

#[tokio::test]
async fn bad_input_names_its_field_and_changes_nothing() {
    let server = TestServer::start().await;
    let (id, _) = webhook(&server, "https://hooks.example.com/").await;
    let before = shown(&server, &id).await;
    let one = format!("/v1/webhooks/{id}");
    let replay = format!("{one}/replay");
    let good = "https://hooks.example.com/";
    let long = "x".repeat(256);
    let cases = [
        (reqwest::Method::POST, "/v1/webhooks", json!({}), "url"),
        (reqwest::Method::POST, "/v1/webhooks", json!({ "url": 1 }), "url"),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": "ftp://hooks.example.com/" }),
            "url",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": "https://a:b@hooks.example.com/" }),
            "url",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": "x".repeat(3_000) }),
            "url",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": good, "types": ["session.forgotten"] }),
            "types",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": good, "types": "session.created" }),
            "types",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": good, "description": long }),
            "description",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": good, "description": "a\u{7}" }),
            "description",
        ),
        (
            reqwest::Method::POST,
            "/v1/webhooks",
            json!({ "url": good, "secret": "whsec_" }),
            "secret",
        ),
        (reqwest::Method::PATCH, &one, json!({ "url": null }), "url"),
        (reqwest::Method::PATCH, &one, json!({ "url": "no URL" }), "url"),
        (reqwest::Method::PATCH, &one, json!({ "types": [""] }), "types"),
        (
            reqwest::Method::PATCH,
            &one,
            json!({ "is_paused": null }),
            "is_paused",
        ),
        (
            reqwest::Method::PATCH,
            &one,
            json!({ "state": "active" }),
            "state",
        ),
        (reqwest::Method::POST, &replay, json!({ "after": "7" }), "after"),
        (
            reqwest::Method::POST,
            &replay,
            json!({ "after": "evt_AAAAAAAAAAAAAAAAAAAAAA" }),
            "after",
        ),
    ];
    for (method, path, body, field) in cases {
        let request = server.request(method.clone(), path).json(body.clone());
        let reply = request.key(&server.key).send().await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), [field], "{method} {path} {body}");
    }
    for (query, field) in [
        ("status=active", "status"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("x=1", "x"),
    ] {
        let reply = server
            .get(&format!("{one}/deliveries?{query}"))
            .key(&server.key)
            .send()
            .await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), [field], "{query}");
    }
    for path in [
        format!("/v1/webhooks/{UNKNOWN_ID}"),
        "/v1/webhooks/x".to_owned(),
        format!("/v1/webhooks/{UNKNOWN_ID}/deliveries"),
    ] {
        server
            .get(&path)
            .key(&server.key)
            .send()
            .await
            .assert_problem(404, "not_found");
    }
    for event in ["x", "evt_AAAAAAAAAAAAAAAAAAAAAA"] {
        let reply = posted(&server, &format!("{one}/deliveries/{event}/replay"), json!({})).await;
        reply.assert_problem(404, "not_found");
    }
    assert_eq!(shown(&server, &id).await, before);
    assert_eq!(count(&server, "SELECT count(*) FROM webhooks"), 1);
}

#[tokio::test]
async fn what_waits_is_delivered_after_a_restart() {
    let (server, mut receiver) = (server().await, Receiver::answering(|_| Answer::Status(500)).await);
    let (id, _) = webhook(&server, &receiver.base).await;
    let ada = server.sign_in("ada").await;
    receiver.next().await;
    delivery(&server, &id, "pending", 1).await;
    server
        .delete(&format!("/v1/sessions/{}", ada.id))
        .key(&server.key)
        .send()
        .await;
    let stopped = server.stop().await;
    receiver.answer(|_| Answer::Status(204));
    stopped.clock.advance(Duration::from_secs(10));
    let server = stopped.restart().await;
    let kinds: Vec<String> = receiver
        .take(2)
        .await
        .iter()
        .map(|one| one.kind().to_owned())
        .collect();
    assert_eq!(kinds, ["session.created", "session.revoked"]);
    eventually("all are done", || async {
        shown(&server, &id).await["pending_count"] == 0
    })
    .await;
}

#[tokio::test]
async fn without_its_key_file_a_database_signs_nothing_until_the_secret_is_rotated() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    let (id, first) = webhook(&server, &receiver.base).await;
    let stopped = server.stop().await;
    let mut key_file = stopped.config.database.path.clone().into_os_string();
    key_file.push(".key");
    std::fs::remove_file(key_file).expect("there was one");
    let server = stopped.restart().await;
    server.sign_in("ada").await;
    let webhook = shown(&server, &id).await;
    let reason = "its secret cannot be opened with this key file; rotate it";
    assert_eq!(
        (&webhook["state"], &webhook["disabled_reason"]),
        (&json!("disabled"), &json!(reason))
    );
    let tested = posted(&server, &format!("/v1/webhooks/{id}/test"), json!({})).await;
    assert_eq!(tested.json["error"], reason);
    assert_eq!(receiver.rest().len(), 0);

    let rotated = posted(&server, &format!("/v1/webhooks/{id}/rotate-secret"), json!({})).await;
    assert_eq!(rotated.json["webhook"]["state"], "active");
    assert_eq!(
        rotated.json["webhook"]["secret_rotates_at"],
        Value::Null,
        "the old one is of no use"
    );
    assert_ne!(rotated.json["secret"], first);
    let received = receiver.next().await;
    assert_eq!((received.user(), received.signatures().len()), ("ada", 1));
}

#[tokio::test]
async fn attempts_and_what_waits_are_counted() {
    let (server, mut receiver) = (server().await, Receiver::start().await);
    receiver.answer(|received| Answer::Status(if received.user() == "ada" { 500 } else { 204 }));
    let (id, _) = webhook(&server, &receiver.base).await;
    for user in ["ada", "grace"] {
        server.sign_in(user).await;
    }
    receiver.take(2).await;
    eventually("one waits", || async {
        shown(&server, &id).await["pending_count"] == 1
    })
    .await;
    eventually("the metrics say so", || async {
        let metrics = server.get("/metrics").send().await.text;
        [
            "sessiond_webhook_deliveries_total{result=\"delivered\"} 1",
            "sessiond_webhook_deliveries_total{result=\"retried\"} 1",
            "sessiond_webhook_deliveries_pending 1",
        ]
        .iter()
        .all(|line| metrics.contains(line))
    })
    .await;
}

#[tokio::test]
async fn cursor_does_not_pass_what_was_read_by_former_types() {
    use sessiond::event::EventKind;
    use sessiond::store::webhooks::{NewDeliveries, NewWebhook, WebhookPatch, WebhookStore};
    use sessiond::webhook::{SealedSecret, WebhookId};
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 100);
    let id = WebhookId::random();
    let new = NewWebhook {
        now: START,
        id,
        app: AppName::default_app(),
        name: None,
        url: "https://hooks.example.com/".to_owned(),
        types: vec![EventKind::SessionRevoked],
        description: None,
        secret: SealedSecret::from_bytes(vec![7; 72]),
        max: 20,
    };
    store.create_webhook(new).await.expect("stored").expect("made");
    let read_by = |types: Vec<EventKind>, cursor| NewDeliveries {
        deliveries: Vec::new(),
        types,
        cursor,
    };
    let patch = WebhookPatch {
        types: Some(Vec::new()),
        ..WebhookPatch::default()
    };
    store.update_webhook(id, patch, START).await.expect("stored");

    let former = read_by(vec![EventKind::SessionRevoked], 7);
    assert!(!store.enqueue(id, former, START).await.expect("asked"));
    assert!(
        store
            .enqueue(id, read_by(Vec::new(), 5), START)
            .await
            .expect("asked")
    );
    assert!(
        !store
            .enqueue(id, read_by(Vec::new(), 5), START)
            .await
            .expect("asked")
    );
    let webhook = store.find_webhook(id).await.expect("read").expect("there");
    assert_eq!(webhook.cursor, 5);
}

#[tokio::test]
async fn configured_webhooks_are_made_changed_and_deleted_at_the_start() {
    use sessiond::config::WebhookConfig;
    use sessiond::event::EventKind;
    use sessiond::webhook::{Reach, SigningSecret, WebhookUrl};
    let mut receiver = Receiver::start().await;
    let url = |text: &str| WebhookUrl::parse(text, Reach::Everything).expect("a URL");
    let config = WebhookConfig {
        app: AppName::default_app(),
        url: url(&receiver.base),
        types: vec![EventKind::SessionCreated],
        secret: SigningSecret::random(),
    };
    let server = TestServer::start_with(|server| {
        server.webhooks.allow_private = true;
        server.webhooks.named.insert("billing".to_owned(), config.clone());
    })
    .await;
    let listed = server.get("/v1/webhooks").key(&server.key).send().await.json;
    let id = listed["webhooks"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(listed["webhooks"][0]["name"], "billing");
    server.sign_in("ada").await;
    receiver.next().await;

    let mut stopped = server.stop().await;
    let other = WebhookConfig {
        url: url(&format!("{}/new", receiver.base)),
        secret: SigningSecret::random(),
        ..config
    };
    stopped.config.webhooks.named.insert("billing".to_owned(), other);
    let server = stopped.restart().await;
    assert_eq!(
        shown(&server, &id).await["secret_rotates_at"],
        at(DAY),
        "another secret is a rotation"
    );
    server.sign_in("grace").await;
    let received = receiver.next().await;
    assert_eq!((received.path.as_str(), received.signatures().len()), ("/new", 2));

    let mut stopped = server.stop().await;
    let same = stopped.config.clone();
    let server = stopped.restart().await;
    assert_eq!(shown(&server, &id).await["url"], format!("{}/new", receiver.base));
    stopped = server.stop().await;
    stopped.config = same;
    stopped.config.webhooks.named.clear();
    let server = stopped.restart().await;
    assert_eq!(count(&server, "SELECT count(*) FROM webhooks"), 0);
}

#[tokio::test]
async fn disabled_webhook_of_the_configuration_goes_on_when_its_url_is_corrected() {
    use sessiond::config::WebhookConfig;
    use sessiond::webhook::{Reach, SigningSecret, WebhookUrl};
    let gone = Receiver::answering(|_| Answer::Status(410)).await;
    let mut new = Receiver::start().await;
    let url = |text: &str| WebhookUrl::parse(text, Reach::Everything).expect("a URL");
    let config = WebhookConfig {
        app: AppName::default_app(),
        url: url(&gone.base),
        types: Vec::new(),
        secret: SigningSecret::random(),
    };
    let server = TestServer::start_with(|server| {
        server.webhooks.allow_private = true;
        server.webhooks.named.insert("billing".to_owned(), config.clone());
    })
    .await;
    server.sign_in("ada").await;
    eventually("it is disabled", || async {
        count(&server, "SELECT count(*) FROM webhooks WHERE state = 'disabled'") == 1
    })
    .await;
    let server = server.stop().await.restart().await;
    let disabled = "SELECT count(*) FROM webhooks WHERE state = 'disabled'";
    assert_eq!(count(&server, disabled), 1, "by the same URL");

    let mut stopped = server.stop().await;
    let config = WebhookConfig {
        url: url(&new.base),
        ..config
    };
    stopped.config.webhooks.named.insert("billing".to_owned(), config);
    let server = stopped.restart().await;
    assert_eq!(count(&server, disabled), 0);
    assert_eq!(new.next().await.user(), "ada");
}

#[tokio::test]
async fn webhooks_of_the_configuration_take_no_place_of_others() {
    use sessiond::config::WebhookConfig;
    use sessiond::webhook::{Reach, SigningSecret, WebhookUrl};
    let server = TestServer::start_with(|server| {
        let config = WebhookConfig {
            app: AppName::default_app(),
            url: WebhookUrl::parse("https://hooks.example.com/", Reach::Public).expect("a URL"),
            types: Vec::new(),
            secret: SigningSecret::random(),
        };
        server.webhooks.named.insert("billing".to_owned(), config);
    })
    .await;
    for number in 0..20 {
        webhook(&server, &format!("https://hooks.example.com/{number}")).await;
    }
    let body = json!({ "url": "https://hooks.example.com/20" });
    let refused = posted(&server, "/v1/webhooks", body).await;
    refused.assert_problem(422, "validation_failed");
}

#[tokio::test]
async fn configured_webhook_can_only_be_paused() {
    use sessiond::config::WebhookConfig;
    use sessiond::webhook::{Reach, SigningSecret, WebhookUrl};
    let server = TestServer::start_with(|server| {
        let config = WebhookConfig {
            app: AppName::default_app(),
            url: WebhookUrl::parse("https://hooks.example.com/", Reach::Public).expect("a URL"),
            types: Vec::new(),
            secret: SigningSecret::random(),
        };
        server.webhooks.named.insert("billing".to_owned(), config);
    })
    .await;
    let listed = server.get("/v1/webhooks").key(&server.key).send().await.json;
    let path = format!(
        "/v1/webhooks/{}",
        listed["webhooks"][0]["id"].as_str().expect("an id")
    );
    for (request, field) in [
        (
            server.patch(&path, json!({ "url": "https://elsewhere.example.com/" })),
            "url",
        ),
        (server.patch(&path, json!({ "types": [] })), "types"),
        (
            server.patch(&path, json!({ "description": "mine" })),
            "description",
        ),
        (server.delete(&path), "id"),
        (server.post(&format!("{path}/rotate-secret"), json!({})), "secret"),
    ] {
        let reply = request.key(&server.key).send().await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), [field]);
        assert!(reply.text.contains("[webhooks.billing]"), "{}", reply.text);
    }
    let paused = server
        .patch(&path, json!({ "is_paused": true }))
        .key(&server.key)
        .send()
        .await;
    assert_eq!((paused.status, &paused.json["state"]), (200, &json!("paused")));
}

#[tokio::test]
async fn so_many_deliveries_are_pending_and_further_events_wait_where_they_are() {
    const EVENTS: usize = 1_050;
    let server = server().await;
    let mut receiver = Receiver::answering(|_| Answer::Held(204)).await;
    let (id, _) = webhook(&server, &receiver.base).await;
    for some in 0..EVENTS / 50 {
        let body = |number: usize| json!({ "user_id": format!("user-{some}-{number}") });
        let creates = (0..50).map(|number| server.post("/v1/sessions", body(number)).key(&server.key));
        assert_eq!(with_status(&at_once(creates).await, 201), 50);
    }
    eventually("as many are pending as may be", || async {
        shown(&server, &id).await["pending_count"] == 1_000
    })
    .await;
    // The webhook's task looks at everything anew, and finds no room.
    patched(&server, &id, json!({ "description": "full" })).await;
    assert_eq!(shown(&server, &id).await["pending_count"], 1_000);
    let waiting = "SELECT count(*) FROM events WHERE id > (SELECT cursor FROM webhooks)";
    assert_eq!(count(&server, waiting), 50);

    receiver.release();
    let mut ids = BTreeSet::new();
    while ids.len() < EVENTS {
        ids.insert(receiver.next().await.id().to_owned());
    }
    eventually("nothing waits", || async {
        shown(&server, &id).await["pending_count"] == 0
    })
    .await;
}

#[tokio::test]
async fn webhook_goes_on_with_what_is_kept_if_events_were_deleted_while_it_was_paused() {
    let server = TestServer::start_with(|config| {
        config.webhooks.allow_private = true;
        config.sessions.retention_secs = HOUR;
    })
    .await;
    let mut receiver = Receiver::start().await;
    let (id, _) = webhook(&server, &receiver.base).await;
    patched(&server, &id, json!({ "is_paused": true })).await;
    server.sign_in("forgotten").await;
    server.advance(2 * HOUR);
    server.tick().await;
    server.sign_in("kept").await;
    patched(&server, &id, json!({ "is_paused": false })).await;
    assert_eq!(receiver.next().await.user(), "kept");
    server.sign_in("later").await;
    assert_eq!(receiver.next().await.user(), "later");
}
