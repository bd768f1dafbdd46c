//! What is told beside the changes themselves: of new devices, of deadlines that are near, and of refusals.

use std::sync::atomic::Ordering;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use sessiond::event::WhyRefused;
use sessiond::manager::RefusedCaller;
use sessiond::session::{AppName, EndedBy};

use crate::harness::{FIREFOX_ON_LINUX, SignedIn, TestServer, eventually};
use crate::stores::{Managed, app, database_in, event_rows, is_pending, user};
use crate::support::{UNKNOWN_ID, add_app, at, rows};

const SAFARI_ON_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like \
                                Gecko) Version/18.5 Mobile/15E148 Safari/604.1";

/// The events of one type, with what only this type has as JSON.
fn told(server: &TestServer, kind: &str) -> Vec<Value> {
    let events = rows(
        server,
        "SELECT type, occurred_at, app, user_id, session_id, device_info, ip_address, data FROM events ORDER BY id",
    );
    let of_kind = events.into_iter().filter(|event| event["type"] == kind);
    of_kind
        .map(|mut event| {
            let data = event["data"].as_str().map(serde_json::from_str);
            event["data"] = data.transpose().expect("JSON").unwrap_or_default();
            event
        })
        .collect()
}

/// A session id as [`told`] shows it.
fn hexadecimal(id: &str) -> String {
    id.replace('-', "")
}

#[tokio::test]
async fn sign_in_on_a_device_that_is_new_to_its_user_is_told() {
    let server = TestServer::start().await;
    let sign_in = |user: &str, agent: &str| json!({ "user_id": user, "user_agent": agent });
    server.create(sign_in("ada", FIREFOX_ON_LINUX)).await;
    server.create(sign_in("bob", SAFARI_ON_IPHONE)).await;
    assert_eq!(
        told(&server, "device.new"),
        [] as [Value; 0],
        "both were their first"
    );

    let phone = server.create(sign_in("ada", SAFARI_ON_IPHONE)).await;
    server.create(sign_in("ada", SAFARI_ON_IPHONE)).await;

    let told = told(&server, "device.new");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (&told[0]["user_id"], &told[0]["session_id"]),
        (&json!("ada"), &json!(hexadecimal(&phone.id)))
    );
    assert_eq!(told[0]["data"], json!({ "browser": "Safari", "os": "iOS" }));
    assert_eq!(told[0]["device_info"], phone.body["session"]["device_info"]);
}

/// A server whose sessions rest 100 s and live 1000 s, where 30 s before is told in the app `default`, in `shop` never.
async fn start_noticed() -> TestServer {
    TestServer::start_with(|config| {
        config.sessions.touch_interval_secs = 0;
        let policy = config
            .apps
            .get_mut(&AppName::default_app())
            .expect("the default app");
        policy.idle_timeout_secs = 100;
        policy.absolute_timeout_secs = 1_000;
        add_app(config, "shop");
        let policy = config
            .apps
            .get_mut(&AppName::default_app())
            .expect("the default app");
        policy.expiring_notice_secs = Some(30);
    })
    .await
}

#[tokio::test]
async fn near_deadline_is_told_in_apps_that_want_it() {
    let server = start_noticed().await;
    let shop = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let in_shop = server.post("/v1/sessions", json!({ "user_id": "ada" }));
    assert_eq!(in_shop.key(&shop).send().await.status, 201);

    server.advance(70);
    server.tick().await;
    server.tick().await;

    let told = told(&server, "session.expiring");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (&told[0]["app"], &told[0]["session_id"]),
        (&json!("default"), &json!(hexadecimal(&ada.id)))
    );
    let data = json!({ "deadline": "idle", "expires_at": at(100), "seconds": 30 });
    assert_eq!(told[0]["data"], data);
}

#[tokio::test]
async fn session_in_use_is_told_of_its_absolute_deadline_only() {
    let server = start_noticed().await;
    let ada = server.sign_in("ada").await;
    for _ in 0..19 {
        server.advance(50);
        assert_eq!(server.check(&ada.token).await.status, 200);
        server.tick().await;
    }
    assert_eq!(told(&server, "session.expiring"), [] as [Value; 0]);

    server.advance(21);
    assert_eq!(server.check(&ada.token).await.status, 200);
    server.tick().await;

    let told = told(&server, "session.expiring");
    assert_eq!(told.len(), 1, "{told:#?}");
    let data = json!({ "deadline": "absolute", "expires_at": at(1_000), "seconds": 29 });
    assert_eq!(told[0]["data"], data);
}

#[tokio::test]
async fn session_that_ended_before_the_sweep_is_not_told_of() {
    let server = start_noticed().await;
    server.sign_in("ada").await;
    server.advance(100);
    server.tick().await;
    assert_eq!(told(&server, "session.expiring"), [] as [Value; 0]);
    assert_eq!(told(&server, "session.expired").len(), 1);
}

const REFUSED: &str = "session.revocation_failed";

/// What was told of refusals, once all that was queued is written: for whom (user and session), and how many.
async fn refusals(server: &TestServer) -> Vec<(Value, Value, Value)> {
    server.sign_in("last in the queue").await;
    let told = told(server, REFUSED).into_iter();
    told.map(|event| {
        (
            event["user_id"].clone(),
            event["session_id"].clone(),
            event["data"]["count"].clone(),
        )
    })
    .collect()
}

/// How [`refusals`] shows some of the holder of a session.
fn of_holder(user: Option<&str>, session: &SignedIn, count: u64) -> (Value, Value, Value) {
    (json!(user), json!(hexadecimal(&session.id)), json!(count))
}

/// Tries to end a session on the self plane.
async fn try_to_end(server: &TestServer, who: &SignedIn, id: &str) -> u16 {
    let path = format!("/v1/me/sessions/{id}");
    server.delete(&path).bearer(&who.token).send().await.status
}

#[tokio::test]
async fn person_who_tries_to_end_a_foreign_session_is_told_of_without_it() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.sign_in("ada").await, server.sign_in("bob").await);

    assert_eq!(try_to_end(&server, &ada, &bob.id).await, 404);

    assert_eq!(refusals(&server).await, [of_holder(Some("ada"), &ada, 1)]);
    let event = told(&server, REFUSED).remove(0);
    let explanation = WhyRefused::NotTheirs.explanation();
    assert_eq!(event["data"], json!({ "count": 1, "explanation": explanation }));
    let shown = event.to_string();
    for id in [bob.id.clone(), hexadecimal(&bob.id), "bob".to_owned()] {
        assert!(!shown.contains(&id), "{shown}");
    }
}

#[tokio::test]
async fn unknown_session_is_refused_and_told_of_like_a_foreign_one() {
    let server = TestServer::start().await;
    let (ada, bob, cyd) = (
        server.sign_in("ada").await,
        server.sign_in("bob").await,
        server.sign_in("cyd").await,
    );
    try_to_end(&server, &ada, &cyd.id).await;
    try_to_end(&server, &bob, UNKNOWN_ID).await;
    refusals(&server).await;
    let told = told(&server, REFUSED);
    assert_eq!((told.len(), &told[0]["data"]), (2, &told[1]["data"]));
}

#[tokio::test]
async fn visitor_who_tries_to_end_another_session_is_told_of_by_theirs() {
    let server = TestServer::start().await;
    let visitor = server.create(json!({})).await;
    let ada = server.sign_in("ada").await;
    assert_eq!(try_to_end(&server, &visitor, &ada.id).await, 404);
    assert_eq!(refusals(&server).await, [of_holder(None, &visitor, 1)]);
}

#[tokio::test]
async fn refusals_for_want_of_a_recent_sign_in_are_told_of_also_for_the_bulk_call() {
    let server = TestServer::start_with(|config| {
        let policy = config.apps.get_mut(&AppName::default_app());
        policy.expect("the default app").reauthenticate_within_secs = Some(900);
    })
    .await;
    let (ada, bob, other) = (
        server.sign_in("ada").await,
        server.sign_in("bob").await,
        server.sign_in("ada").await,
    );
    server.advance(901);

    assert_eq!(try_to_end(&server, &ada, &other.id).await, 403);
    let all = server.delete("/v1/me/sessions").bearer(&bob.token).send().await;
    all.assert_problem(403, "reauthentication_required");

    let expected = [of_holder(Some("ada"), &ada, 1), of_holder(Some("bob"), &bob, 1)];
    assert_eq!(refusals(&server).await, expected);
    let explanation = WhyRefused::NotRecent.explanation();
    for event in told(&server, REFUSED) {
        assert_eq!(event["data"], json!({ "count": 1, "explanation": explanation }));
    }
}

#[tokio::test]
async fn user_whose_session_it_is_not_is_told_of_when_a_backend_asks_for_them() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let end = |id: &str, user: &str| {
        let path = format!("/v1/sessions/{id}?user_id={user}");
        server.delete(&path).key(&server.key).sent()
    };
    end(&ada.id, "bob").await.assert_problem(404, "not_found");
    end(UNKNOWN_ID, "cyd").await.assert_problem(404, "not_found");
    assert_eq!(end(&ada.id, "ada").await.status, 204);

    let of_user = |user: &str| (json!(user), Value::Null, json!(1));
    assert_eq!(refusals(&server).await, [of_user("bob"), of_user("cyd")]);
}

#[tokio::test]
async fn what_is_no_refusal_to_somebody_known_is_not_told() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.sign_in("ada").await, server.sign_in("bob").await);
    let of_bob = format!("/v1/me/sessions/{}", bob.id);
    let calls = [
        server
            .delete(&format!("/v1/sessions/{UNKNOWN_ID}"))
            .key(&server.key),
        server
            .get(&format!("/v1/sessions/{}?user_id=ada", bob.id))
            .key(&server.key),
        server
            .patch(&of_bob, json!({ "name": "mine" }))
            .bearer(&ada.token),
        server.delete(&of_bob),
        server.delete(&of_bob).bearer(&server.key),
        server.delete(&of_bob).cookie(&ada.token),
        server.delete("/v1/client-sessions/7").key(&server.key),
        server.request(Method::DELETE, "/v1/session"),
    ];
    for call in calls {
        call.send().await;
    }
    assert_eq!(try_to_end(&server, &ada, &ada.id).await, 204);
    assert_eq!(refusals(&server).await, []);
}

#[tokio::test]
async fn further_refusals_of_a_minute_are_told_with_their_count_by_the_regular_work() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.sign_in("ada").await, server.sign_in("bob").await);
    for _ in 0..5 {
        try_to_end(&server, &ada, &bob.id).await;
    }
    server.advance(59);
    server.tick().await;
    assert_eq!(refusals(&server).await, [of_holder(Some("ada"), &ada, 1)]);

    server.advance(1);
    server.tick().await;
    server.advance(60);
    server.tick().await;

    let expected = [of_holder(Some("ada"), &ada, 1), of_holder(Some("ada"), &ada, 4)];
    assert_eq!(refusals(&server).await, expected);
    assert_eq!(
        told(&server, REFUSED)[1]["occurred_at"],
        json!(crate::harness::START.as_millis() + 60_000)
    );
}

#[tokio::test]
async fn attempt_after_the_minute_is_told_at_once_with_those_before_it() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.sign_in("ada").await, server.sign_in("bob").await);
    let phone = server.sign_in("ada").await;
    for who in [&ada, &phone, &ada] {
        try_to_end(&server, who, &bob.id).await;
    }
    server.advance(60);
    try_to_end(&server, &phone, &bob.id).await;
    let expected = [of_holder(Some("ada"), &ada, 1), of_holder(Some("ada"), &phone, 3)];
    assert_eq!(refusals(&server).await, expected);
}

#[tokio::test]
async fn refusal_is_answered_while_nothing_can_be_written() {
    let server = TestServer::start_with(|config| {
        let policy = config.apps.get_mut(&AppName::default_app());
        policy.expect("the default app").reauthenticate_within_secs = Some(900);
    })
    .await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    server.advance(901);
    let lock = Connection::open(server.database()).expect("opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");

    assert_eq!(try_to_end(&server, &ada, &other.id).await, 403);
    assert_eq!(
        told(&server, REFUSED),
        [] as [Value; 0],
        "nobody could write it yet"
    );

    lock.execute_batch("ROLLBACK").expect("let go");
    eventually("it is told", async || told(&server, REFUSED).len() == 1).await;
}

#[tokio::test]
async fn what_is_refused_while_the_sessions_of_an_erased_user_end_is_never_told() {
    let managed = Managed::start().await;
    managed.sign_in("ada").await;
    let (app, ada) = (app(), user("ada"));
    let lock = Connection::open(database_in(&managed.dir)).expect("opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let mut erasing = Box::pin(managed.manager.erase_user(&app, ada.clone(), EndedBy::Operator));
    assert!(is_pending(&mut erasing).await);
    for _ in 0..2 {
        let refused = RefusedCaller::User(&app, &ada);
        managed
            .manager
            .note_refused_revocation(refused, WhyRefused::NotTheirs);
    }
    lock.execute_batch("ROLLBACK").expect("let go");
    erasing.await.expect("erased");

    managed.advance(60);
    let told = managed.manager.tell_refused_revocations(10).await;
    assert_eq!(told.expect("nothing fails"), 0);
}

#[tokio::test]
async fn counts_that_cannot_be_written_are_told_later() {
    let managed = Managed::start().await;
    let (app, ada) = (app(), user("ada"));
    for _ in 0..3 {
        let refused = RefusedCaller::User(&app, &ada);
        managed
            .manager
            .note_refused_revocation(refused, WhyRefused::NotTheirs);
    }
    managed.advance(60);
    managed.probe.fails_records.store(true, Ordering::SeqCst);
    let failed = managed.manager.tell_refused_revocations(10).await;
    assert!(failed.is_err(), "{failed:?}");

    managed.probe.fails_records.store(false, Ordering::SeqCst);
    managed.advance(60);
    let told = managed.manager.tell_refused_revocations(10).await;
    assert_eq!(told.expect("told"), 1);
    let events = event_rows(&database_in(&managed.dir)).into_iter();
    let counts: Vec<_> = events
        .map(|event| {
            event
                .data
                .expect("data")
                .chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
        })
        .collect();
    assert_eq!(counts, ["1", "2"]);
}
