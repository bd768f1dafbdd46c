//! Events over HTTP, a page at a time.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::event::Epoch;

use crate::harness::{FIREFOX_ON_LINUX, Reply, SignedIn, TestServer};
use crate::support::{DAY, HOUR, add_app, at};
use crate::wire::Wire;

/// The fields of an event, as the contract has them.
const FIELDS: [&str; 13] = [
    "id",
    "type",
    "occurred_at",
    "app",
    "user_id",
    "session_id",
    "client_session_id",
    "reason",
    "ended_by",
    "device_info",
    "ip_address",
    "location",
    "data",
];
const PLANES: [&str; 2] = ["/v1/events", "/v1/me/events"];

async fn get(server: &TestServer, path: &str, credential: &str) -> Reply {
    server.get(path).bearer(credential).send().await
}

/// A page of the app's events; `query` begins with a question mark.
async fn page(server: &TestServer, query: &str) -> Reply {
    let reply = get(server, &format!("/v1/events{query}"), &server.key).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

fn events(reply: &Reply) -> &[Value] {
    reply.json["events"].as_array().expect("a list")
}

/// Type and user of each event of a page.
fn in_words(reply: &Reply) -> Vec<String> {
    let words = |event: &Value| {
        let kind = event["type"].as_str().expect("a type");
        format!("{kind} {}", event["user_id"].as_str().unwrap_or("nobody"))
    };
    events(reply).iter().map(words).collect()
}

fn ids(reply: &Reply) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
    events(reply).iter().map(id).collect()
}

fn next_cursor(reply: &Reply) -> Option<&str> {
    reply.json["next_cursor"].as_str()
}

async fn revoke(server: &TestServer, session: &SignedIn) {
    let path = format!("/v1/sessions/{}", session.id);
    let reply = server.delete(&path).key(&server.key).send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
}

/// Writes so many events of bob's straight into the database of a server that is started again.
async fn with_renewals_of_bob(server: TestServer, count: u32) -> TestServer {
    let key = server.key.clone();
    let stopped = server.stop().await;
    let database = rusqlite::Connection::open(&stopped.config.database.path).expect("the database");
    let sql = "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
               INSERT INTO events (type, occurred_at, recorded_at, app, user_id)
               SELECT 'session.renewed', ?2, ?2, 'default', 'bob' FROM n";
    let now = crate::harness::START.as_millis();
    database.execute(sql, (count, now)).expect("written");
    drop(database);
    let mut server = stopped.restart().await;
    server.key = key;
    server
}

#[tokio::test]
async fn event_has_the_fields_of_the_contract_in_their_order() {
    let server = TestServer::start().await;
    let ada = json!({ "user_id": "ada", "user_agent": FIREFOX_ON_LINUX, "ip_address": "8.8.8.8" });
    let ada = server.create(ada).await;
    server.advance(5);
    let other = server.sign_in("ada").await;
    revoke(&server, &ada).await;
    let path = format!("/v1/users/ada/sessions?except={}&reason=logout_all", ada.id);
    server.delete(&path).key(&server.key).send().await;
    server
        .request(Method::PUT, "/v1/client-sessions/-42")
        .key(&server.key)
        .send()
        .await;

    let reply = page(&server, "").await;
    let session = &ada.body["session"];
    assert_eq!(session["location"], "US", "a place is known: {session}");
    let created = json!({
        "id": null, "type": "session.created", "occurred_at": at(0), "app": "default", "user_id": "ada",
        "session_id": ada.id, "client_session_id": null, "reason": null, "ended_by": null,
        "device_info": "Firefox on Linux", "ip_address": "8.8.8.8", "location": "US", "data": null,
    });
    let of = |user_id: Value, session_id: Value, more: Value| {
        let mut event = created.clone();
        event["occurred_at"] = json!(at(5));
        event["user_id"] = user_id;
        event["session_id"] = session_id;
        for (name, value) in more.as_object().expect("fields") {
            event[name.as_str()] = value.clone();
        }
        event
    };
    let bare = json!({ "device_info": null, "ip_address": null, "location": null });
    let with = |mut more: Value| {
        for (name, value) in bare.as_object().expect("fields") {
            more[name.as_str()] = value.clone();
        }
        more
    };
    let mut expected = vec![
        created.clone(),
        of(json!("ada"), json!(other.id), bare.clone()),
        of(
            json!("ada"),
            json!(ada.id),
            json!({ "type": "session.revoked", "reason": "logout", "ended_by": "app" }),
        ),
        of(
            json!("ada"),
            json!(other.id),
            with(json!({ "type": "session.revoked", "reason": "logout_all", "ended_by": "app" })),
        ),
        of(
            json!("ada"),
            Value::Null,
            with(json!({
                "type": "user.sessions_revoked", "reason": "logout_all", "ended_by": "app",
                "data": { "session_count": 1, "except_session_id": null },
            })),
        ),
        of(
            Value::Null,
            events(&reply)[5]["session_id"].clone(),
            with(json!({ "client_session_id": "-42" })),
        ),
    ];
    for (event, expected) in events(&reply).iter().zip(&mut expected) {
        expected["id"] = event["id"].clone();
        assert_eq!(event, expected);
        let fields: Vec<&String> = event.as_object().expect("an object").keys().collect();
        assert_eq!(fields, FIELDS, "{event}");
    }
    assert_eq!(events(&reply).len(), expected.len());
    assert_eq!(ids(&reply).into_iter().collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(reply.json["next_cursor"], Value::Null);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn types_and_user_choose_among_the_events() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.sign_in("bob").await;
    revoke(&server, &ada).await;
    let cases: [(&str, &[&str]); 7] = [
        (
            "",
            &[
                "session.created ada",
                "session.created bob",
                "session.revoked ada",
            ],
        ),
        ("?types=session.revoked", &["session.revoked ada"]),
        (
            "?types=session.created,session.revoked,session.created",
            &[
                "session.created ada",
                "session.created bob",
                "session.revoked ada",
            ],
        ),
        (
            "?types=session.revoked&types=user.blocked",
            &["session.revoked ada"],
        ),
        ("?user_id=bob", &["session.created bob"]),
        ("?user_id=ada&types=session.created", &["session.created ada"]),
        ("?user_id=nobody", &[]),
    ];
    for (query, expected) in cases {
        assert_eq!(in_words(&page(&server, query).await), expected, "{query}");
    }
}

#[tokio::test]
async fn wrong_parameters_are_named_together() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let cases: [(&str, &[&str]); 12] = [
        ("types=session.forgotten", &["types"]),
        ("types=session.created,,", &["types"]),
        ("types=", &["types"]),
        ("after=7", &["after"]),
        ("after=evt_", &["after"]),
        ("limit=0", &["limit"]),
        ("limit=201", &["limit"]),
        ("limit=x", &["limit"]),
        ("order=backwards", &["order"]),
        ("cursor=x", &["cursor"]),
        ("after=x&after=y", &["after", "after"]),
        (
            "types=x&after=y&order=z&limit=0&q=1",
            &["after", "limit", "order", "q", "types"],
        ),
    ];
    for (path, credential) in PLANES.into_iter().zip([&server.key, &ada.token]) {
        for (query, expected) in cases {
            for accept in ["application/json", "text/event-stream"] {
                let request = server.get(&format!("{path}?{query}")).bearer(credential);
                let reply = request.header("accept", accept).send().await;
                reply.assert_problem(422, "validation_failed");
                let mut fields = reply.wrong_fields();
                fields.sort_unstable();
                if accept == "application/json" {
                    assert_eq!(fields, expected, "{path}?{query}");
                } else {
                    assert!(expected.iter().all(|field| fields.contains(field)), "{fields:?}");
                }
            }
        }
    }
    let reply = get(&server, "/v1/events?user_id=%0A", &server.key).await;
    assert_eq!(reply.wrong_fields(), ["user_id"]);
    let reply = get(&server, "/v1/me/events?user_id=ada", &ada.token).await;
    assert_eq!(
        reply.wrong_fields(),
        ["user_id"],
        "people are asked about by backends"
    );
}

#[tokio::test]
async fn page_has_as_many_as_asked_for_and_fifty_unasked() {
    let server = with_renewals_of_bob(TestServer::start().await, 250).await;
    for (query, expected) in [("", 50), ("?limit=1", 1), ("?limit=200", 200)] {
        let reply = page(&server, query).await;
        assert_eq!(events(&reply).len(), expected, "{query}");
        assert!(next_cursor(&reply).is_some());
    }
}

#[tokio::test]
async fn pages_in_either_order_give_each_event_exactly_once() {
    let server = TestServer::start().await;
    for number in 0..7 {
        server.sign_in(["ada", "bob"][number % 2]).await;
    }
    for filter in ["", "&user_id=ada", "&types=session.created"] {
        let all = ids(&page(&server, &format!("?limit=200{filter}")).await);
        for order in ["oldest", "newest"] {
            for limit in 1..=8 {
                let (mut seen, mut after) = (Vec::new(), String::new());
                for _ in 0..9 {
                    let query = format!("?order={order}&limit={limit}{filter}{after}");
                    let reply = page(&server, &query).await;
                    assert!(events(&reply).len() <= limit);
                    seen.extend(ids(&reply));
                    let Some(cursor) = next_cursor(&reply) else { break };
                    after = format!("&after={cursor}");
                }
                if order == "newest" {
                    seen.reverse();
                }
                assert_eq!(seen, all, "{order}, {limit} a page{filter}");
            }
        }
    }
}

#[tokio::test]
async fn poller_that_keeps_the_last_id_gets_each_event_once() {
    let server = TestServer::start().await;
    let mut last = String::new();
    for name in ["ada", "bob", "cyd"] {
        server.sign_in(name).await;
        let reply = page(&server, &format!("?{last}")).await;
        assert_eq!(in_words(&reply), [format!("session.created {name}")]);
        last = format!("after={}", ids(&reply)[0]);
        let again = page(&server, &format!("?{last}")).await;
        assert_eq!((ids(&again).len(), next_cursor(&again)), (0, None));
    }
}

#[tokio::test]
async fn rare_events_are_found_by_going_on_after_short_and_empty_pages() {
    let server = TestServer::start().await;
    server.sign_in("ada").await;
    let server = with_renewals_of_bob(server, 12_000).await;
    server.sign_in("cyd").await;
    for order in ["oldest", "newest"] {
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let query = format!("?types=session.created&order={order}{after}");
            let reply = page(&server, &query).await;
            found.extend(in_words(&reply));
            pages += 1;
            let Some(cursor) = next_cursor(&reply) else { break };
            after = format!("&after={cursor}");
            assert!(pages < 10, "it comes to an end");
        }
        found.sort_unstable();
        assert_eq!(found, ["session.created ada", "session.created cyd"]);
        assert!(pages > 2, "a page looks at a bounded number of events");
    }
    // By whom they are about they are found at once.
    let reply = page(&server, "?user_id=cyd").await;
    assert_eq!(in_words(&reply), ["session.created cyd"]);
    assert_eq!(next_cursor(&reply), None);
}

#[tokio::test]
async fn place_that_is_no_longer_kept_is_gone() {
    let server = TestServer::start_with(|config| config.sessions.retention_secs = 2 * DAY).await;
    server.sign_in("ada").await;
    server.advance(DAY);
    server.sign_in("ada").await;
    let [first, second] = &ids(&page(&server, "").await)[..] else {
        panic!("two events");
    };
    server.advance(DAY + HOUR);
    let ada = server.sign_in("ada").await;
    server.tick().await;
    let kept = page(&server, &format!("?after={second}")).await;
    assert_eq!(in_words(&kept), ["session.created ada"]);
    let epoch = server.manager.feed().epoch();
    let elsewhere = Epoch::random().id(2).to_string();
    for id in [first, &elsewhere, &epoch.id(4).to_string()] {
        for (path, credential) in PLANES.into_iter().zip([&server.key, &ada.token]) {
            for order in ["oldest", "newest"] {
                let reply = get(&server, &format!("{path}?after={id}&order={order}"), credential).await;
                reply.assert_problem(410, "cursor_gone");
            }
        }
    }
}

#[tokio::test]
async fn place_after_the_newest_event_is_good_also_when_that_is_no_longer_kept() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    revoke(&server, &ada).await;
    let newest = ids(&page(&server, "?order=newest").await).remove(0);
    server.advance(31 * DAY);
    server.tick().await;
    assert_eq!(events(&page(&server, "").await).len(), 0, "nothing is kept");
    let after = page(&server, &format!("?after={newest}")).await;
    assert_eq!(events(&after).len(), 0, "and nothing was missed");
}

#[tokio::test]
async fn apps_and_people_see_their_own_events_only() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let bob = server.sign_in("bob").await;
    let visitor = server.create(json!({})).await;
    server.create(json!({})).await;
    let body = json!({ "user_id": "ada", "name": "elsewhere" });
    let there = server.post("/v1/sessions", body).key(&shop).send().await;
    let there = there.json["token"].as_str().expect("a token").to_owned();
    let cases: [(&str, &str, &[&str]); 5] = [
        ("/v1/events", &shop, &["session.created ada"]),
        ("/v1/me/events", &ada.token, &["session.created ada"]),
        ("/v1/me/events", &bob.token, &["session.created bob"]),
        ("/v1/me/events", &visitor.token, &["session.created nobody"]),
        ("/v1/me/events?app=shop", &there, &["session.created ada"]),
    ];
    for (path, credential, expected) in cases {
        let reply = get(&server, path, credential).await;
        assert_eq!(in_words(&reply), expected, "{path}");
    }
    let own = get(&server, "/v1/me/events", &visitor.token).await;
    assert_eq!(events(&own)[0]["session_id"], visitor.id.as_str());
    let reply = get(&server, "/v1/me/events?app=shop", &ada.token).await;
    reply.assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn person_sees_how_their_other_sessions_ended() {
    let server = TestServer::start().await;
    let lost = server.sign_in("ada").await;
    let ada = server.sign_in("ada").await;
    let path = format!("/v1/me/sessions/{}", lost.id);
    server.delete(&path).bearer(&ada.token).send().await;
    let reply = get(
        &server,
        "/v1/me/events?types=session.revoked&order=newest",
        &ada.token,
    )
    .await;
    let ending = &events(&reply)[0];
    assert_eq!(
        (&ending["session_id"], &ending["reason"], &ending["ended_by"]),
        (&json!(lost.id), &json!("manual"), &json!("user"))
    );
}

#[tokio::test]
async fn each_plane_takes_its_own_credential_only() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for accept in ["application/json", "text/event-stream"] {
        let ask = |path: &str| server.get(path).header("accept", accept);
        let reply = ask("/v1/events").bearer(&ada.token).send().await;
        reply.assert_problem(401, "invalid_api_key");
        let reply = ask("/v1/events").send().await;
        reply.assert_problem(401, "invalid_api_key");
        let reply = ask("/v1/events").cookie(&ada.token).send().await;
        reply.assert_problem(401, "invalid_api_key");
        let reply = ask("/v1/me/events").bearer(&server.key).send().await;
        reply.assert_problem(401, "invalid_token");
        let reply = ask("/v1/me/events").send().await;
        reply.assert_problem(401, "no_session");
    }
    revoke(&server, &ada).await;
    let reply = get(&server, "/v1/me/events", &ada.token).await;
    reply.assert_problem(401, "session_ended");
}

#[tokio::test]
async fn other_methods_are_refused_and_said() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for (path, credential) in PLANES.into_iter().zip([&server.key, &ada.token]) {
        for method in [Method::HEAD, Method::POST, Method::DELETE] {
            let reply = server
                .request(method.clone(), path)
                .bearer(credential)
                .send()
                .await;
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("allow"), Some("GET"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn reading_events_is_no_use_of_the_session() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let ada = server.sign_in("ada").await;
    server.advance(HOUR);
    get(&server, "/v1/me/events", &ada.token).await;
    server.tick().await;
    let session = server
        .get("/v1/session?touch=false")
        .bearer(&ada.token)
        .send()
        .await;
    assert_eq!(session.json["last_activity_at"], at(0));
    assert_eq!(session.json["expires_at"], ada.body["session"]["expires_at"]);
}

#[tokio::test]
async fn operator_reads_the_events_of_any_app_without_a_key() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    server.sign_in("ada").await;
    let shop = server.key_of("shop").await;
    let body = json!({ "user_id": "bob" });
    server.post("/v1/sessions", body).key(&shop).send().await;
    for (query, name) in [("", "ada"), ("?app=default", "ada"), ("?app=shop", "bob")] {
        let mut wire = Wire::open_operator(&server).await;
        let request = format!("GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        wire.send(request.as_bytes()).await;
        let answer = wire.answer().await.expect("an answer");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(body["events"][0]["user_id"], name, "{query}: {body}");
        assert_eq!(body["events"].as_array().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn events_are_read_below_a_base_path() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth".to_owned()).await;
    let ada = server.sign_in("ada").await;
    assert_eq!(in_words(&page(&server, "").await), ["session.created ada"]);
    let reply = get(&server, "/v1/me/events", &ada.token).await;
    assert_eq!(in_words(&reply), ["session.created ada"]);
}

#[tokio::test]
async fn document_says_that_a_place_can_be_gone() {
    let server = TestServer::start().await;
    let document = server.get("/openapi.json").send().await.json;
    for path in PLANES {
        let responses = &document["paths"][path]["get"]["responses"];
        for (status, code) in [("410", "cursor_gone"), ("429", "too_many_requests")] {
            let description = responses[status]["description"].as_str().unwrap_or_default();
            assert!(description.contains(code), "{path} {status}: {description:?}");
        }
        let content = &responses["200"]["content"];
        assert!(content["text/event-stream"].is_object(), "{path}: {content}");
    }
}
