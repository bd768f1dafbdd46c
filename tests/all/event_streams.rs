//! Live streams over HTTP: what they tell, to whom, and when they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::clock::Clock;
use sessiond::config::{AppConfig, Config};
use sessiond::event::Epoch;
use sessiond::server::Mode;
use sessiond::session::AppName;

use crate::harness::{PATIENCE, Reply, Request, SignedIn, TestServer, config_in, eventually};
use crate::process::{Served, create_key};
use crate::sse::{EventStream, open, try_open};
use crate::support::{DAY, HOUR, add_app, at, metric};

fn default_app(config: &mut Config) -> &mut AppConfig {
    config.apps.get_mut(&AppName::default_app()).expect("the app")
}

/// A request for the app's stream; `query` begins with a question mark.
fn of_app<'s>(server: &'s TestServer, query: &str) -> Request<'s> {
    server.get(&format!("/v1/events{query}")).key(&server.key)
}

/// A request for a person's stream.
fn own<'s>(server: &'s TestServer, token: &str) -> Request<'s> {
    server.get("/v1/me/events").bearer(token)
}

/// Does something that is answered well.
async fn done(request: Request<'_>) -> Reply {
    let reply = request.send().await;
    assert!(
        (200..300).contains(&reply.status),
        "{}: {}",
        reply.status,
        reply.text
    );
    reply
}

async fn revoke(server: &TestServer, session: &SignedIn) {
    done(
        server
            .delete(&format!("/v1/sessions/{}", session.id))
            .key(&server.key),
    )
    .await;
}

async fn renew(server: &TestServer, token: &str) -> String {
    let renewal = server.request(Method::POST, "/v1/session/renew").bearer(token);
    let reply = done(renewal).await;
    reply.json["token"].as_str().expect("a token").to_owned()
}

async fn authenticate(server: &TestServer, id: &str, user_id: &str) -> SignedIn {
    let path = format!("/v1/sessions/{id}/authenticate");
    let reply = done(server.post(&path, json!({ "user_id": user_id })).key(&server.key)).await;
    SignedIn {
        id: id.to_owned(),
        token: reply.json["token"].as_str().expect("a token").to_owned(),
        body: reply.json,
    }
}

/// All events of the app, as pages show them.
async fn all_events(server: &TestServer) -> Vec<Value> {
    let reply = done(server.get("/v1/events?limit=200").key(&server.key)).await;
    reply.json["events"].as_array().expect("a list").clone()
}

async fn streams(server: &TestServer) -> u64 {
    metric(server, "sessiond_event_streams").await
}

// What is told.

#[tokio::test]
async fn stream_begins_with_when_to_come_back_and_where_it_stands() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for request in [of_app(&server, ""), own(&server, &ada.token)] {
        let mut stream = try_open(request).await.expect("a stream");
        assert_eq!(stream.header("cache-control"), Some("no-store"));
        assert_eq!(stream.header("x-accel-buffering"), Some("no"));
        let begin = stream.next().await.expect("a beginning");
        assert_eq!(begin.field("retry"), Some("3000"));
        assert_eq!(begin.field("data"), None, "no page is told of it");
        let newest = all_events(&server).await.pop().expect("an event");
        assert_eq!(begin.id(), newest["id"], "a place to go on from");
    }
}

#[tokio::test]
async fn stream_tells_what_pages_tell() {
    let server = TestServer::start().await;
    let mut stream = open(of_app(&server, "")).await;
    let ada = server.sign_in("ada").await;
    renew(&server, &ada.token).await;
    server.create(json!({})).await;
    revoke(&server, &ada).await;
    for event in all_events(&server).await {
        let message = stream.told().await.expect("each of them");
        assert_eq!(message.json().to_string(), event.to_string(), "field by field");
        assert_eq!(
            (message.id(), message.event()),
            (
                event["id"].as_str().expect("an id"),
                event["type"].as_str().expect("a type"),
            )
        );
    }
}

#[tokio::test]
async fn stream_tells_what_happens_from_now_on_unless_asked_from_a_place() {
    let server = TestServer::start().await;
    server.sign_in("ada").await;
    server.sign_in("bob").await;
    let first = all_events(&server).await[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let mut late = open(of_app(&server, "")).await;
    let mut asking = open(of_app(&server, &format!("?after={first}"))).await;
    server.sign_in("cyd").await;
    late.tells(["session.created cyd"]).await;
    asking.tells(["session.created bob", "session.created cyd"]).await;
}

#[tokio::test]
async fn place_that_a_browser_remembers_counts_before_the_one_in_the_address() {
    let server = TestServer::start().await;
    for name in ["ada", "bob", "cyd"] {
        server.sign_in(name).await;
    }
    let events = all_events(&server).await;
    let id = |index: usize| events[index]["id"].as_str().expect("an id");
    let request = of_app(&server, &format!("?after={}", id(0))).header("last-event-id", id(1));
    open(request).await.tells(["session.created cyd"]).await;
}

#[tokio::test]
async fn stream_that_goes_on_after_the_last_id_loses_nothing_and_repeats_nothing() {
    let server = TestServer::start().await;
    let mut last_id: Option<String> = None;
    let mut told = Vec::new();
    for round in 0..6 {
        let mut request = of_app(&server, "?types=session.created");
        if let Some(id) = &last_id {
            request = request.header("last-event-id", id);
        }
        let mut stream = open(request).await;
        for number in 0..3 {
            server.sign_in(&format!("u{round}.{number}")).await;
        }
        // It is cut off at another place each time; at first before it has told anything.
        let due = if round == 5 { 18 - told.len() } else { round % 4 };
        for _ in 0..due {
            told.push(stream.told().await.expect("it goes on").in_words());
        }
        last_id = stream.last_id;
    }
    let expected: Vec<String> = (0..18)
        .map(|n| format!("session.created u{}.{}", n / 3, n % 3))
        .collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn unknown_place_is_said_and_the_stream_goes_on_from_now() {
    let server = TestServer::start_with(|config| config.sessions.retention_secs = DAY).await;
    server.sign_in("ada").await;
    let purged = all_events(&server).await[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    server.advance(DAY + HOUR);
    server.sign_in("bob").await;
    server.tick().await;
    let epoch = server.manager.feed().epoch();
    let (ahead, elsewhere) = (epoch.id(99).to_string(), Epoch::random().id(2).to_string());
    let unknown = ["garbage", "evt_", "\u{e9}", &purged, &ahead, &elsewhere];
    for id in unknown {
        let mut asked = vec![of_app(&server, "").header("last-event-id", id)];
        if id.len() > 10 {
            asked.push(of_app(&server, &format!("?after={id}")));
        }
        for request in asked {
            let mut stream = try_open(request).await.expect("a stream");
            let reset = stream.told().await.expect("it is said");
            assert_eq!(reset.event(), "reset", "{id:?}");
            assert_eq!(reset.json()["code"], "cursor_gone", "{id:?}");
            assert_eq!(reset.field("retry"), Some("3000"), "{id:?}");
            let newest = all_events(&server).await.pop().expect("an event");
            assert_eq!(reset.id(), newest["id"], "a place that is known");
            let name = format!("after {}", id.len());
            server.sign_in(&name).await;
            stream.tells([format!("session.created {name}").as_str()]).await;
        }
    }
}

#[tokio::test]
async fn filters_choose_what_a_stream_tells() {
    let server = TestServer::start().await;
    let mut of_types = open(of_app(&server, "?types=session.revoked,user.sessions_revoked")).await;
    let mut of_bob = open(of_app(&server, "?user_id=bob")).await;
    let mut both = open(of_app(&server, "?user_id=bob&types=session.revoked")).await;
    let ada = server.sign_in("ada").await;
    let bob = server.sign_in("bob").await;
    revoke(&server, &ada).await;
    revoke(&server, &bob).await;
    of_types
        .tells(["session.revoked ada", "session.revoked bob"])
        .await;
    of_bob.tells(["session.created bob", "session.revoked bob"]).await;
    both.tells(["session.revoked bob"]).await;
}

#[tokio::test]
async fn apps_and_people_are_told_of_their_own_only() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let visitor = server.create(json!({})).await;
    let mut of_default = open(of_app(&server, "")).await;
    let mut of_shop = open(server.get("/v1/events").key(&shop)).await;
    let mut of_ada = open(own(&server, &ada.token)).await;
    let mut of_visitor = open(own(&server, &visitor.token)).await;

    let there = json!({ "user_id": "ada" });
    done(server.post("/v1/sessions", there.clone()).key(&shop)).await;
    let bob = server.sign_in("bob").await;
    let another = server.create(json!({})).await;
    // A user who is called like the visitor's session.
    let namesake = server.sign_in(&visitor.id).await;
    for session in [&bob, &another, &namesake] {
        revoke(&server, session).await;
    }
    server.sign_in("ada").await;
    revoke(&server, &visitor).await;
    done(server.post("/v1/sessions", there).key(&shop)).await;

    of_shop
        .tells(["session.created ada", "session.created ada"])
        .await;
    of_ada.tells(["session.created ada"]).await;
    of_visitor.tells(["session.revoked nobody"]).await;
    of_visitor.ends("session_ended").await;
    for _ in 0..8 {
        let message = of_default.told().await.expect("it goes on");
        assert_eq!(message.json()["app"], "default", "{message:?}");
    }
    // Whatever had come before these would have been told before them.
    revoke(&server, &ada).await;
    of_ada.tells(["session.revoked ada"]).await;
    of_ada.ends("session_ended").await;
    of_default.tells(["session.revoked ada"]).await;
}

// How a person's stream ends.

#[tokio::test]
async fn person_s_stream_ends_with_the_ending_of_its_session() {
    let own_path = |session: &SignedIn| format!("/v1/me/sessions/{}", session.id);
    for (way, kind, reason) in [
        ("revoked by a backend", "session.revoked", "logout"),
        ("signed out", "session.revoked", "logout"),
        ("revoked elsewhere", "session.revoked", "manual"),
        ("all but another ended", "session.revoked", "logout_all"),
        ("all of the user ended", "session.revoked", "credentials_changed"),
        ("blocked", "session.revoked", "user_blocked"),
        ("evicted", "session.evicted", "session_limit_exceeded"),
        ("idle for too long", "session.expired", "idle_timeout"),
        ("lived for too long", "session.expired", "absolute_timeout"),
    ] {
        let server = TestServer::start().await;
        let body = match way {
            "lived for too long" => json!({ "user_id": "ada", "absolute_timeout_secs": 600 }),
            "idle for too long" => json!({ "user_id": "ada", "idle_timeout_secs": 600 }),
            _ => json!({ "user_id": "ada" }),
        };
        let ada = server.create(body).await;
        server.advance(1);
        let other = server.sign_in("ada").await;
        let mut stream = open(own(&server, &ada.token)).await;
        match way {
            "revoked by a backend" => revoke(&server, &ada).await,
            "signed out" => drop(done(server.delete("/v1/session").bearer(&ada.token)).await),
            "revoked elsewhere" => drop(done(server.delete(&own_path(&ada)).bearer(&other.token)).await),
            "all but another ended" => {
                done(server.delete("/v1/me/sessions").bearer(&other.token)).await;
            }
            "all of the user ended" => {
                let path = "/v1/users/ada/sessions?reason=credentials_changed";
                done(server.delete(path).key(&server.key)).await;
            }
            "blocked" => {
                let body = json!({ "is_blocked": true });
                done(server.patch("/v1/users/ada", body).key(&server.key)).await;
            }
            "evicted" => {
                let body = json!({ "max_sessions": 1 });
                done(server.patch("/v1/users/ada", body).key(&server.key)).await;
                server.sign_in("ada").await;
            }
            _ => {
                server.advance(600);
                server.tick().await;
            }
        }
        let happened = Instant::now();
        let last = stream.told().await.expect("its own ending");
        let event = last.json();
        assert_eq!(
            (last.event(), &event["session_id"], &event["reason"]),
            (kind, &json!(ada.id), &json!(reason)),
            "{way}"
        );
        let end = stream.ends("session_ended").await;
        assert!(
            happened.elapsed() < Duration::from_secs(1),
            "{way}: {:?}",
            happened.elapsed()
        );
        let check = server.check(&ada.token).await.json;
        for field in [
            "code",
            "detail",
            "ended_at",
            "revoked_reason",
            "ended_by",
            "status",
        ] {
            assert_eq!(end[field], check[field], "{way}: as a check is refused");
        }
        assert_eq!(end["revoked_reason"], reason, "{way}");
    }
}

#[tokio::test]
async fn own_ending_is_told_also_behind_many_others() {
    let server = TestServer::start_with(|config| {
        let limits = [("many".to_owned(), 1_000)].into();
        config.tiers =
            sessiond::user::Tiers::new("many".to_owned(), limits).expect("the default is among them");
    })
    .await;
    for _ in 0..250 {
        server.sign_in("ada").await;
    }
    let ada = server.sign_in("ada").await;
    for _ in 0..30 {
        server.sign_in("ada").await;
    }
    let mut stream = open(own(&server, &ada.token)).await;
    done(server.delete("/v1/users/ada/sessions").key(&server.key)).await;
    let mut told = 1;
    let mut last = stream.told().await.expect("endings");
    while last.json()["session_id"] != ada.id.as_str() {
        assert_eq!(last.event(), "session.revoked", "{told} were told");
        last = stream.told().await.expect("its own comes");
        told += 1;
    }
    stream.ends("session_ended").await;
    assert!(told > 100, "{told}: more than are read at once");
}

#[tokio::test]
async fn own_ending_is_the_last_event_whatever_happens_beside_it() {
    let server = TestServer::start().await;
    for round in 0..40 {
        let ada = server.sign_in("ada").await;
        let other = server.sign_in("ada").await;
        let mut stream = open(own(&server, &ada.token)).await;
        let renewal = server.request(Method::POST, "/v1/session/renew");
        let renewal = tokio::spawn(renewal.bearer(&other.token).sent());
        let ending = server
            .delete(&format!("/v1/sessions/{}", ada.id))
            .key(&server.key);
        let ending = tokio::spawn(ending.sent());
        let after = tokio::spawn(
            server
                .post("/v1/sessions", json!({ "user_id": "ada" }))
                .key(&server.key)
                .sent(),
        );
        let mut last = None;
        loop {
            let message = stream.told().await.expect("it ends in order");
            if message.event() == "end" {
                break;
            }
            last = Some(message);
        }
        let last = last.expect("an event").json();
        assert_eq!(
            (&last["type"], &last["session_id"]),
            (&json!("session.revoked"), &json!(ada.id)),
            "round {round}"
        );
        assert_eq!(stream.next().await, None);
        for answer in [renewal, ending, after] {
            assert!(answer.await.expect("it runs").status < 300);
        }
        let path = format!("/v1/users/ada/sessions?except={}", ada.id);
        done(server.delete(&path).key(&server.key)).await;
    }
}

#[tokio::test]
async fn ending_by_a_deadline_is_told_before_the_sweeper_comes_by() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 600 }))
        .await;
    let other = server.sign_in("ada").await;
    let mut stream = open(own(&server, &ada.token)).await;
    server.advance(700);
    renew(&server, &other.token).await; // news, with which the stream looks at its own session
    let mut last = stream.told().await.expect("news");
    if last.event() == "session.renewed" {
        last = stream.told().await.expect("its own ending");
    }
    assert_eq!(
        (
            last.event(),
            &last.json()["session_id"],
            &last.json()["occurred_at"]
        ),
        ("session.expired", &json!(ada.id), &json!(at(600)))
    );
    stream.ends("session_ended").await;
    server.tick().await;
    let endings = done(server.get("/v1/events?types=session.expired").key(&server.key)).await;
    assert_eq!(
        endings.json["events"].as_array().map(Vec::len),
        Some(1),
        "written once"
    );
}

#[tokio::test]
async fn stream_of_a_session_in_use_outlives_its_first_deadline() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let ada = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 600 }))
        .await;
    let mut stream = open(own(&server, &ada.token)).await;
    for _ in 0..3 {
        server.advance(500);
        assert_eq!(server.check(&ada.token).await.status, 200);
        server.sign_in("ada").await;
        stream.tells(["session.created ada"]).await;
    }
}

#[tokio::test]
async fn visitor_s_stream_tells_nothing_of_the_user_who_signs_in_with_it() {
    let server = TestServer::start().await;
    let visitor = server.create(json!({})).await;
    let mut stream = open(own(&server, &visitor.token)).await;
    let ada = authenticate(&server, &visitor.id, "ada").await;
    stream.ends("token_replaced").await;
    let mut stream = open(own(&server, &ada.token)).await;
    revoke(&server, &ada).await;
    stream.tells(["session.revoked ada"]).await;
}

#[tokio::test]
async fn new_sign_in_ends_the_streams_of_every_earlier_token() {
    let server = TestServer::start().await;
    let first = server.sign_in("ada").await;
    let renewed = renew(&server, &first.token).await;
    let mut streams = [
        open(own(&server, &first.token)).await,
        open(own(&server, &renewed)).await,
    ];
    authenticate(&server, &first.id, "ada").await;
    // Of the token before the last one nothing is kept that would recognise it.
    for (stream, code) in streams.iter_mut().zip(["invalid_token", "token_replaced"]) {
        stream.ends(code).await;
    }
}

#[tokio::test]
async fn stream_of_a_renewed_token_goes_on_through_its_grace_and_ends_with_it() {
    // By the clock of the system: that the stream wakes by itself is what is shown.
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config_in(dir.path());
    default_app(&mut config).renew_grace_secs = 1;
    let server = TestServer::run(config, Mode::Serve, Arc::new(Clock::system())).await;
    let ada = server.sign_in("ada").await;
    let mut old = open(own(&server, &ada.token)).await;
    let token = renew(&server, &ada.token).await;
    old.tells(["session.renewed ada"]).await;
    let mut new = open(own(&server, &token)).await; // seen: the grace begins
    let begun = Instant::now();
    old.ends("token_replaced").await;
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
    server.sign_in("ada").await;
    new.tells(["session.created ada"]).await;
    let events = all_events(&server).await;
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(
        kinds,
        ["session.created", "session.renewed", "session.created"],
        "that a stream looks at its token is no use of it"
    );
}

#[tokio::test]
async fn deadline_ends_a_stream_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::run(config_in(dir.path()), Mode::Serve, Arc::new(Clock::system())).await;
    let ada = server
        .create(json!({ "user_id": "ada", "absolute_timeout_secs": 1 }))
        .await;
    let begun = Instant::now();
    let mut stream = open(own(&server, &ada.token)).await;
    let last = stream.told().await.expect("its own ending");
    assert_eq!(last.in_words(), "session.expired ada");
    stream.ends("session_ended").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn old_token_after_its_grace_ends_the_stream_without_being_suspicious() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let mut old = open(own(&server, &ada.token)).await;
    let token = renew(&server, &ada.token).await;
    assert_eq!(server.check(&token).await.status, 200);
    old.tells(["session.renewed ada"]).await;
    server.advance(31);
    server.sign_in("ada").await; // news, with which the stream looks at its token
    old.ends("token_replaced").await;
    let suspicious = done(server.get("/v1/events?types=session.suspicious").key(&server.key)).await;
    assert_eq!(suspicious.json["events"], json!([]));
}

#[tokio::test]
async fn reuse_of_an_old_token_is_told_and_ends_the_stream() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let token = renew(&server, &ada.token).await;
    let mut stream = open(own(&server, &token)).await;
    server.advance(31);
    let renewal = server
        .request(Method::POST, "/v1/session/renew")
        .bearer(&ada.token);
    assert_eq!(renewal.send().await.status, 401);
    stream
        .tells(["session.suspicious ada", "session.revoked ada"])
        .await;
    let end = stream.ends("session_ended").await;
    assert_eq!(
        (&end["revoked_reason"], &end["ended_by"]),
        (&json!("token_reuse"), &json!("security"))
    );
}

#[tokio::test]
async fn uses_and_changes_of_others_end_no_stream() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let ada = server.sign_in("ada").await;
    let other = server.sign_in("ada").await;
    let bob = server.sign_in("bob").await;
    let mut stream = open(own(&server, &ada.token)).await;
    for token in [&ada.token, &other.token, &bob.token] {
        server.advance(5);
        server.check(token).await;
        server.tick().await;
    }
    let path = format!("/v1/sessions/{}", ada.id);
    done(server.patch(&path, json!({ "name": "mine" })).key(&server.key)).await;
    revoke(&server, &bob).await;
    revoke(&server, &other).await;
    stream.tells(["session.revoked ada"]).await;
    let token = renew(&server, &ada.token).await;
    stream.tells(["session.renewed ada"]).await;
    assert_eq!(server.check(&token).await.status, 200);
    server.sign_in("ada").await;
    stream.tells(["session.created ada"]).await;
}

#[tokio::test]
async fn revoked_api_key_ends_its_streams_and_tells_them_nothing_more() {
    let server = TestServer::start().await;
    let (id, key) = server
        .manager
        .create_key(&AppName::default_app(), "short-lived")
        .await
        .map(|(record, key)| (record.id, key.reveal()))
        .expect("a key");
    let mut stream = open(server.get("/v1/events").key(&key)).await;
    let mut other = open(of_app(&server, "")).await;
    server.manager.revoke_key(id).await.expect("revoked");
    server.sign_in("ada").await;
    stream.ends("invalid_api_key").await;
    other.tells(["session.created ada"]).await;
}

#[tokio::test]
async fn stream_neither_extends_its_session_nor_counts_as_a_use() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let ada = server.sign_in("ada").await;
    server.advance(HOUR);
    let mut stream = open(own(&server, &ada.token)).await;
    for _ in 0..3 {
        server.advance(HOUR);
        server.sign_in("ada").await;
        stream.tells(["session.created ada"]).await;
        server.tick().await;
    }
    drop(stream);
    let path = format!("/v1/sessions/{}", ada.id);
    let session = done(server.get(&path).key(&server.key)).await.json;
    let at_first = &ada.body["session"];
    for field in ["last_activity_at", "expires_at", "ip_address", "last_ip_address"] {
        assert_eq!(session[field], at_first[field], "{field}");
    }
}

// Who may have one, and how many.

#[tokio::test]
async fn seventeenth_stream_of_a_person_is_refused_until_one_is_closed() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let other = server.sign_in("ada").await;
    let mut opened: Vec<EventStream> = Vec::new();
    for number in 0..16 {
        let token = [&ada.token, &other.token][number % 2];
        opened.push(open(own(&server, token)).await);
    }
    let refused = try_open(own(&server, &other.token))
        .await
        .expect_err("one too many");
    refused.assert_problem(429, "too_many_requests");
    assert!(
        refused
            .header("retry-after")
            .is_some_and(|secs| secs.parse::<u32>().is_ok())
    );
    // Somebody else, and the backend, have room of their own; pages are no streams.
    open(own(&server, &server.sign_in("bob").await.token)).await;
    open(of_app(&server, "")).await;
    done(server.get("/v1/me/events").bearer(&ada.token)).await;
    opened.pop();
    let is_free = async || {
        // Whoever has gone is noticed when something is sent.
        server.sign_in("bob").await;
        renew(&server, &server.sign_in("ada").await.token).await;
        try_open(own(&server, &ada.token)).await.is_ok()
    };
    eventually("a place is free", is_free).await;
}

#[tokio::test]
async fn sixty_fifth_stream_of_an_app_is_refused() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let second_key = server.key_of("default").await;
    let mut opened: Vec<EventStream> = Vec::new();
    for number in 0..64 {
        let key = [&server.key, &second_key][number % 2];
        opened.push(open(server.get("/v1/events").key(key)).await);
    }
    let refused = try_open(of_app(&server, "")).await.expect_err("one too many");
    refused.assert_problem(429, "too_many_requests");
    assert!(refused.header("retry-after").is_some());
    let shop = server.key_of("shop").await;
    open(server.get("/v1/events").key(&shop)).await;
    let ada = server.sign_in("ada").await;
    open(own(&server, &ada.token)).await;
    assert!(opened.iter_mut().all(|stream| stream.last_id.is_some()));
}

#[tokio::test]
async fn visitor_has_room_for_four_streams_of_their_own() {
    let server = TestServer::start().await;
    let visitor = server.create(json!({})).await;
    let mut opened: Vec<EventStream> = Vec::new();
    for _ in 0..4 {
        opened.push(open(own(&server, &visitor.token)).await);
    }
    assert!(try_open(own(&server, &visitor.token)).await.is_err());
    let another = server.create(json!({})).await;
    open(own(&server, &another.token)).await;
}

#[tokio::test]
async fn ended_streams_and_refused_ones_take_no_place() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for _ in 0..20 {
        let session = server.sign_in("ada").await;
        let mut stream = open(own(&server, &session.token)).await;
        revoke(&server, &session).await;
        stream.tells(["session.revoked ada"]).await;
        stream.ends("session_ended").await;
    }
    for _ in 0..20 {
        let request = server.get("/v1/me/events?limit=0").bearer(&ada.token);
        let refused = try_open(request).await.expect_err("streams have no limit");
        refused.assert_problem(422, "validation_failed");
    }
    eventually("all are gone", async || streams(&server).await == 0).await;
}

#[tokio::test]
async fn reader_who_goes_away_leaves_its_place() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let opened = [
        open(of_app(&server, "")).await,
        open(own(&server, &ada.token)).await,
    ];
    assert_eq!(streams(&server).await, 2);
    drop(opened);
    let is_noticed = async || {
        server.sign_in("ada").await;
        streams(&server).await == 0
    };
    eventually("it is noticed when something is sent", is_noticed).await;
    assert_eq!(
        server.manager.feed().bells_len(),
        0,
        "and nothing is rung for them"
    );
}

#[tokio::test]
async fn stream_by_cookie_is_refused_to_other_sites() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let by_cookie = || server.get("/v1/me/events").cookie(&ada.token);
    for site in ["cross-site", "same-site"] {
        let request = by_cookie()
            .header("sec-fetch-site", site)
            .header("sec-fetch-mode", "cors");
        let refused = try_open(request).await.expect_err("another site's");
        refused.assert_problem(403, "cross_site");
    }
    open(by_cookie().same_origin()).await;
    open(by_cookie()).await;
    assert_eq!(
        try_open(by_cookie().cookie(&server.sign_in("bob").await.token))
            .await
            .err()
            .map(|refused| refused.json["code"].clone()),
        Some(json!("ambiguous_cookie"))
    );
}

#[tokio::test]
async fn stream_is_what_is_asked_for_by_its_type() {
    let server = TestServer::start().await;
    let cases = [
        ("text/event-stream", true),
        ("TEXT/Event-Stream", true),
        ("text/event-stream; charset=utf-8", true),
        ("application/json, text/event-stream;q=0.5", false),
        ("text/html, text/event-stream;q=0.9, application/json;q=0.5", true),
        ("text/event-stream;q=0, application/json", false),
        ("text/event-stream, */*", true),
        ("application/json", false),
        ("*/*", false),
        ("text/*", false),
        ("text/event-streams", false),
        ("", false),
    ];
    for (accept, is_stream) in cases {
        let response = of_app(&server, "").header("accept", accept).opened().await;
        let expected = if is_stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        assert_eq!(response.headers()["content-type"], expected, "{accept:?}");
    }
    let twice = of_app(&server, "")
        .header("accept", "text/html")
        .header("accept", "text/event-stream");
    assert_eq!(
        twice.opened().await.headers()["content-type"],
        "text/event-stream"
    );
    assert_eq!(
        of_app(&server, "").opened().await.headers()["content-type"],
        "application/json"
    );
}

#[tokio::test]
async fn streams_are_there_below_a_base_path() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth".to_owned()).await;
    let ada = server.sign_in("ada").await;
    let mut streams = [
        open(of_app(&server, "")).await,
        open(own(&server, &ada.token)).await,
    ];
    server.sign_in("ada").await;
    for stream in &mut streams {
        stream.tells(["session.created ada"]).await;
    }
}

#[tokio::test]
async fn operator_has_a_stream_of_any_app() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop = server.key_of("shop").await;
    let socket = sessiond::server::beside(&server.database(), ".sock");
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .build()
        .expect("a client");
    let request = client
        .get("http://localhost/v1/events?app=shop")
        .header("accept", "text/event-stream");
    let mut stream = EventStream::of(request.send().await.expect("an answer"));
    server.sign_in("ada").await;
    let there = json!({ "user_id": "bob" });
    done(server.post("/v1/sessions", there).key(&shop)).await;
    stream.tells(["session.created bob"]).await;
    let own = client.get("http://localhost/v1/me/events").send().await;
    assert_eq!(own.expect("an answer").status(), 404);
}

// The end of the server.

#[tokio::test]
async fn server_that_stops_ends_its_streams_at_once() {
    let server = TestServer::start_with(|config| config.server.shutdown_grace_secs = 60).await;
    let ada = server.sign_in("ada").await;
    let visitor = server.create(json!({})).await;
    let mut streams = [
        open(of_app(&server, "")).await,
        open(of_app(&server, "?user_id=ada")).await,
        open(own(&server, &ada.token)).await,
        open(own(&server, &visitor.token)).await,
    ];
    let begun = Instant::now();
    let stopped = tokio::task::spawn_blocking(move || drop(server)); // waits until it has stopped
    for stream in &mut streams {
        assert_eq!(stream.told().await, None, "without a word: the reader comes back");
    }
    stopped.await.expect("it stops");
    assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn reader_who_comes_back_after_a_restart_loses_nothing() {
    let server = TestServer::start().await;
    let key = server.key.clone();
    let mut stream = open(of_app(&server, "")).await;
    server.sign_in("ada").await;
    stream.tells(["session.created ada"]).await;
    server.sign_in("bob").await;
    let last_id = stream.last_id.clone().expect("a place");
    drop(stream);
    let server = server.stop().await.restart().await;
    let request = server
        .get("/v1/events")
        .key(&key)
        .header("last-event-id", &last_id);
    let mut stream = open(request).await;
    server.sign_in("cyd").await;
    stream.tells(["session.created bob", "session.created cyd"]).await;
}

#[tokio::test]
async fn process_with_open_streams_ends_in_order_when_it_is_told_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = create_key(dir.path());
    let served = Served::serve(dir.path());
    let (_, token) = served.create(&key, json!({ "user_id": "ada" })).await;
    let mut streams = Vec::new();
    for (path, credential) in [("/v1/events", &key), ("/v1/me/events", &token)] {
        let request = served.client.get(format!("{}{path}", served.base));
        let request = request
            .bearer_auth(credential)
            .header("accept", "text/event-stream");
        let mut stream = EventStream::of(request.send().await.expect("an answer"));
        stream.next().await.expect("a beginning");
        streams.push(stream);
    }
    let begun = Instant::now();
    tokio::task::spawn_blocking(|| served.stop())
        .await
        .expect("it stops");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for stream in &mut streams {
        assert_eq!(stream.told().await, None);
    }
}
