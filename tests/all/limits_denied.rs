//! Users at their limit who choose: what a denied sign-in lists, and what `end_ids` ends.

use serde_json::{Value, json};
use sessiond::config::Config;
use sessiond::session::{AppName, OnLimit};

use crate::harness::{Reply, Request, SignedIn, TestServer, events};
use crate::support::{DAY, UNKNOWN_ID, add_app, at, at_once, count, ids, rows, with_status};
use crate::wire::{assert_unchanged, dump};

fn deny(config: &mut Config) {
    for policy in config.apps.values_mut() {
        policy.on_limit = OnLimit::Deny;
    }
}

async fn set_maximum(server: &TestServer, max: Value) {
    let body = json!({ "max_sessions": max });
    let reply = server.patch("/v1/users/ada", body).key(&server.key).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// A server that denies, and ada with so many sessions, a second apart, oldest first; she may have as many.
async fn at_the_limit(sessions: u64) -> (TestServer, Vec<SignedIn>) {
    let server = TestServer::start_with(deny).await;
    let mut signed_in = Vec::new();
    for _ in 0..sessions {
        server.advance(1);
        signed_in.push(server.sign_in("ada").await);
    }
    set_maximum(&server, json!(sessions)).await;
    server.advance(1);
    (server, signed_in)
}

fn create(server: &TestServer, body: Value) -> Request<'_> {
    server.post("/v1/sessions", body).key(&server.key)
}

/// A sign-in of ada's that ends these.
fn sign_in<'s>(server: &'s TestServer, end_ids: &[&str]) -> Request<'s> {
    create(server, json!({ "user_id": "ada", "end_ids": end_ids }))
}

fn authenticate<'s>(server: &'s TestServer, id: &str, body: Value) -> Request<'s> {
    server
        .post(&format!("/v1/sessions/{id}/authenticate"), body)
        .key(&server.key)
}

/// The ids that a refusal lists.
#[track_caller]
fn listed(reply: &Reply) -> Vec<&str> {
    reply.assert_problem(409, "session_limit_reached");
    let sessions = reply.json["sessions"].as_array().expect("sessions");
    assert!(
        sessions.iter().all(|session| session["status"] == "active"),
        "{}",
        reply.text
    );
    sessions
        .iter()
        .map(|session| session["id"].as_str().expect("an id"))
        .collect()
}

async fn active(server: &TestServer) -> Vec<String> {
    ids(&server
        .get("/v1/users/ada/sessions?limit=200")
        .key(&server.key)
        .send()
        .await)
}

/// How a session ended: reason and actor.
async fn how(server: &TestServer, id: &str) -> (Value, Value) {
    let path = format!("/v1/sessions/{id}");
    let session = server.get(&path).key(&server.key).send().await;
    (
        session.json["revoked_reason"].clone(),
        session.json["ended_by"].clone(),
    )
}

fn by_choice() -> (Value, Value) {
    (json!("manual"), json!("user"))
}

fn alive() -> (Value, Value) {
    (Value::Null, Value::Null)
}

/// Types of the events after the first `skipped`, with their sessions.
fn news(server: &TestServer, skipped: usize) -> Vec<(String, String)> {
    let all = events(&server.database()).into_iter().skip(skipped);
    all.map(|(kind, id)| (kind, id.expect("a session's"))).collect()
}

// Denied

#[tokio::test]
async fn sign_in_at_the_limit_is_denied_with_the_sessions_and_changes_nothing() {
    let (server, signed_in) = at_the_limit(3).await;
    server.sign_in("bob").await;
    let before = dump(&server).await;

    let reply = sign_in(&server, &[]).send().await;

    let newest_first: Vec<&str> = signed_in.iter().rev().map(|ada| ada.id.as_str()).collect();
    assert_eq!(listed(&reply), newest_first);
    assert_unchanged(&before, &dump(&server).await);
    assert!(!reply.text.contains("sst_"), "{}", reply.text);
    for ada in &signed_in {
        assert_eq!(server.check(&ada.token).await.status, 200);
    }
}

#[tokio::test]
async fn listed_sessions_are_those_of_the_list() {
    let (server, signed_in) = at_the_limit(2).await;
    let path = format!("/v1/sessions/{}", signed_in[0].id);
    let body = json!({ "name": "Desk", "is_trusted": true, "auth": { "n": 1 } });
    assert_eq!(
        server.patch(&path, body).key(&server.key).send().await.status,
        200
    );

    let reply = sign_in(&server, &[]).send().await;

    let list = server.get("/v1/users/ada/sessions").key(&server.key).send().await;
    assert_eq!(listed(&reply).len(), 2);
    assert_eq!(
        reply.json["sessions"].to_string(),
        list.json["sessions"].to_string()
    );
}

#[tokio::test]
async fn listed_sessions_show_uses_that_are_not_written_yet() {
    let (server, signed_in) = at_the_limit(1).await;
    server.advance(DAY);
    assert_eq!(server.check(&signed_in[0].token).await.status, 200);

    let created = sign_in(&server, &[]).send().await;
    let visitor = server.create(json!({})).await;
    let authenticated = authenticate(&server, &visitor.id, json!({ "user_id": "ada" }))
        .send()
        .await;

    for reply in [created, authenticated] {
        assert_eq!(listed(&reply).len(), 1);
        let session = &reply.json["sessions"][0];
        assert_eq!(
            (&session["last_activity_at"], &session["expires_at"]),
            (&json!(at(DAY + 2)), &json!(at(8 * DAY + 2)))
        );
    }
}

#[tokio::test]
async fn order_is_by_sign_in_and_not_by_creation() {
    let (server, signed_in) = at_the_limit(3).await;
    let again = authenticate(&server, &signed_in[0].id, json!({ "user_id": "ada" }));
    assert_eq!(
        again.send().await.status,
        200,
        "the user's own session needs no room"
    );
    server.advance(1);

    let reply = sign_in(&server, &[]).send().await;

    let expected = [0, 2, 1].map(|number: usize| signed_in[number].id.as_str());
    assert_eq!(listed(&reply), expected);
}

#[tokio::test]
async fn sign_in_below_the_limit_is_let_in() {
    let (server, signed_in) = at_the_limit(2).await;
    set_maximum(&server, json!(3)).await;
    assert_eq!(sign_in(&server, &[]).send().await.status, 201);
    assert_eq!(listed(&sign_in(&server, &[]).send().await).len(), 3);
    let path = format!("/v1/sessions/{}", signed_in[0].id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    assert_eq!(sign_in(&server, &[]).send().await.status, 201);
}

#[tokio::test]
async fn limit_that_was_lowered_denies_without_ending_any() {
    let (server, _) = at_the_limit(3).await;
    set_maximum(&server, json!(1)).await;
    let before = dump(&server).await;
    assert_eq!(listed(&sign_in(&server, &[]).send().await).len(), 3);
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn user_who_may_have_none_is_denied_whatever_they_end() {
    for on_limit in [OnLimit::Deny, OnLimit::Evict] {
        let server = TestServer::start_with(|config| {
            for policy in config.apps.values_mut() {
                policy.on_limit = on_limit;
            }
        })
        .await;
        let ada = server.sign_in("ada").await;
        set_maximum(&server, json!(0)).await;
        let before = dump(&server).await;

        let replies = [
            sign_in(&server, &[]).send().await,
            sign_in(&server, &[&ada.id]).send().await,
        ];

        for reply in replies {
            assert_eq!(listed(&reply), [ada.id.as_str()]);
        }
        assert_unchanged(&before, &dump(&server).await);
    }
}

#[tokio::test]
async fn denied_sign_in_stores_no_tier() {
    let (server, _) = at_the_limit(3).await;
    set_maximum(&server, Value::Null).await;
    let before = dump(&server).await;
    let body = json!({ "user_id": "ada", "tier": "basic" });

    let refused = create(&server, body.clone()).send().await;

    assert_eq!(listed(&refused).len(), 3);
    assert_unchanged(&before, &dump(&server).await);
    let body = json!({ "user_id": "ada", "tier": "pro" });
    assert_eq!(
        create(&server, body).send().await.status,
        201,
        "the limit of the new tier counts"
    );
}

#[tokio::test]
async fn each_app_has_its_own_policy_at_the_limit() {
    let server = TestServer::start_with(|config| {
        add_app(config, "shop");
        let default = config.apps.get_mut(&AppName::default_app());
        default.expect("it is always there").on_limit = OnLimit::Deny;
    })
    .await;
    let shop_key = server.key_of("shop").await;
    for key in [&server.key, &shop_key] {
        let limit = server.patch("/v1/users/ada", json!({ "max_sessions": 1 }));
        assert_eq!(limit.key(key).send().await.status, 200);
        let first = server.post("/v1/sessions", json!({ "user_id": "ada" }));
        assert_eq!(first.key(key).send().await.status, 201);
    }

    let second = |key| {
        server
            .post("/v1/sessions", json!({ "user_id": "ada" }))
            .key(key)
            .send()
    };

    assert_eq!(listed(&second(&server.key).await).len(), 1, "its own alone");
    let evicting = second(&shop_key).await;
    assert_eq!(evicting.status, 201, "{}", evicting.text);
    assert_eq!(evicting.json["evicted"][0]["app"], "shop");
}

#[tokio::test]
async fn anonymous_sessions_have_no_limit() {
    let (server, _) = at_the_limit(1).await;
    for _ in 0..3 {
        server.create(json!({})).await;
    }
}

#[tokio::test]
async fn overdue_sessions_are_neither_counted_nor_listed() {
    let server = TestServer::start_with(deny).await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let active = server.sign_in("ada").await;
    set_maximum(&server, json!(2)).await;
    server.advance(60);

    let made = sign_in(&server, &[]).send().await;

    assert_eq!(made.status, 201, "{}", made.text);
    let new = made.json["session"]["id"].as_str().expect("an id");
    assert_eq!(made.json["evicted"], json!([]));
    assert_eq!(
        news(&server, 2),
        [
            ("session.expired".to_owned(), overdue.id.clone()),
            ("session.created".to_owned(), new.to_owned())
        ]
    );
    let refused = sign_in(&server, &[]).send().await;
    assert_eq!(listed(&refused), [new, &active.id]);
}

#[tokio::test]
async fn overdue_session_is_not_listed_where_others_fill_the_limit() {
    let server = TestServer::start_with(deny).await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let active = server.sign_in("ada").await;
    set_maximum(&server, json!(1)).await;
    server.advance(60);

    let refused = sign_in(&server, &[&overdue.id]).send().await;

    assert_eq!(listed(&refused), [active.id.as_str()]);
    assert_eq!(news(&server, 2), [], "a refusal writes nothing");
}

#[tokio::test]
async fn list_is_cut_at_200_newest_first() {
    let server = TestServer::start_with(deny).await;
    set_maximum(&server, json!(205)).await;
    let made = at_once((0..205).map(|_| sign_in(&server, &[]))).await;
    assert_eq!(with_status(&made, 201), 205);

    let refused = sign_in(&server, &[]).send().await;

    let newest_first = active(&server).await;
    assert_eq!(newest_first.len(), 200, "a page");
    assert_eq!(listed(&refused), newest_first);
    let detail = refused.json["detail"].as_str().expect("a sentence");
    assert!(
        detail.contains("205") && !detail.contains("200"),
        "the list's length is not theirs: {detail}"
    );
}

// Chosen

#[tokio::test]
async fn chosen_sessions_end_by_the_user_and_the_new_one_is_made() {
    let (server, signed_in) = at_the_limit(3).await;

    let made = sign_in(&server, &[&signed_in[1].id]).send().await;

    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(
        made.json["evicted"],
        json!([]),
        "nothing made room but the choice"
    );
    let new = made.json["session"]["id"].as_str().expect("an id");
    assert_eq!(how(&server, &signed_in[1].id).await, by_choice());
    assert_eq!(active(&server).await, [new, &signed_in[2].id, &signed_in[0].id]);
    assert_eq!(
        news(&server, 3),
        [
            ("session.revoked".to_owned(), signed_in[1].id.clone()),
            ("session.created".to_owned(), new.to_owned())
        ]
    );
    server
        .check(&signed_in[1].token)
        .await
        .assert_problem(401, "session_ended");
}

#[tokio::test]
async fn all_that_are_chosen_end_also_more_than_needed_and_twice_named() {
    let (server, signed_in) = at_the_limit(3).await;
    let chosen = [&signed_in[0].id, &signed_in[2].id, &signed_in[0].id].map(String::as_str);

    assert_eq!(sign_in(&server, &chosen).send().await.status, 201);

    assert_eq!(how(&server, &signed_in[0].id).await, by_choice());
    assert_eq!(how(&server, &signed_in[1].id).await, alive());
    assert_eq!(how(&server, &signed_in[2].id).await, by_choice());
    assert_eq!(active(&server).await.len(), 2);
    assert_eq!(news(&server, 3).len(), 3, "one event for each");
}

#[tokio::test]
async fn chosen_sessions_end_below_the_limit_too() {
    let (server, signed_in) = at_the_limit(2).await;
    set_maximum(&server, json!(10)).await;
    assert_eq!(sign_in(&server, &[&signed_in[0].id]).send().await.status, 201);
    assert_eq!(how(&server, &signed_in[0].id).await, by_choice());
    assert_eq!(active(&server).await.len(), 2);
}

#[tokio::test]
async fn choosing_too_few_is_denied_and_ends_none() {
    let (server, signed_in) = at_the_limit(3).await;
    set_maximum(&server, json!(2)).await;
    let before = dump(&server).await;

    let refused = sign_in(&server, &[&signed_in[0].id]).send().await;

    assert_eq!(listed(&refused).len(), 3, "the chosen one is there too");
    assert_unchanged(&before, &dump(&server).await);
    let enough = [signed_in[0].id.as_str(), signed_in[2].id.as_str()];
    assert_eq!(sign_in(&server, &enough).send().await.status, 201);
    assert_eq!(active(&server).await.len(), 2);
}

#[tokio::test]
async fn sessions_that_are_not_the_users_active_ones_are_left_alone() {
    let server = TestServer::start_with(|config| {
        add_app(config, "shop");
        deny(config);
    })
    .await;
    let shop_key = server.key_of("shop").await;
    let elsewhere = server.post("/v1/sessions", json!({ "user_id": "ada" }));
    let elsewhere = elsewhere.key(&shop_key).send().await.json;
    let elsewhere = elsewhere["session"]["id"].as_str().expect("an id");
    let (bob, visitor) = (server.sign_in("bob").await, server.create(json!({})).await);
    let (ended, ada) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let path = format!("/v1/sessions/{}?reason=earlier", ended.id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    set_maximum(&server, json!(1)).await;
    let foreign = [bob.id.as_str(), &visitor.id, elsewhere, &ended.id, UNKNOWN_ID];
    let before = dump(&server).await;

    let refused = sign_in(&server, &foreign).send().await;
    assert_eq!(listed(&refused), [ada.id.as_str()], "they make no room");
    assert_unchanged(&before, &dump(&server).await);
    set_maximum(&server, json!(2)).await;
    assert_eq!(sign_in(&server, &foreign).send().await.status, 201);

    assert_eq!(how(&server, &bob.id).await, alive());
    assert_eq!(how(&server, &visitor.id).await, alive());
    assert_eq!(how(&server, &ada.id).await, alive());
    assert_eq!(how(&server, &ended.id).await, (json!("earlier"), json!("app")));
    let kinds = rows(
        &server,
        "SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY type",
    );
    assert_eq!(
        kinds,
        [
            json!({ "type": "session.created", "n": 6 }),
            json!({ "type": "session.revoked", "n": 1 })
        ]
    );
}

#[tokio::test]
async fn chosen_session_whose_deadline_passed_ends_as_expired() {
    let server = TestServer::start_with(deny).await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    server.advance(60);
    assert_eq!(sign_in(&server, &[&overdue.id]).send().await.status, 201);
    assert_eq!(
        how(&server, &overdue.id).await,
        (json!("idle_timeout"), json!("timeout"))
    );
    assert_eq!(news(&server, 1)[0].0, "session.expired");
}

#[tokio::test]
async fn where_the_oldest_is_evicted_the_chosen_end_first() {
    let server = TestServer::start().await;
    let mut signed_in = Vec::new();
    for _ in 0..3 {
        signed_in.push(server.sign_in("ada").await);
        server.advance(1);
    }
    set_maximum(&server, json!(2)).await;

    let made = sign_in(&server, &[&signed_in[2].id]).send().await;

    let new = made.json["session"]["id"].as_str().expect("an id").to_owned();
    let evicted: Vec<&Value> = made.json["evicted"].as_array().expect("a list").iter().collect();
    assert_eq!((evicted.len(), &evicted[0]["id"]), (1, &json!(signed_in[0].id)));
    assert_eq!(
        news(&server, 3),
        [
            ("session.revoked".to_owned(), signed_in[2].id.clone()),
            ("session.evicted".to_owned(), signed_in[0].id.clone()),
            ("session.created".to_owned(), new)
        ]
    );
}

#[tokio::test]
async fn bad_end_ids_are_422_and_change_nothing() {
    let (server, signed_in) = at_the_limit(1).await;
    let visitor = server.create(json!({})).await;
    let own = &signed_in[0].id;
    let before = dump(&server).await;
    let many = vec![own.as_str(); 201];
    let cases = [
        (json!("x"), "end_ids"),
        (json!(null), "end_ids"),
        (json!({}), "end_ids"),
        (json!([1]), "end_ids[0]"),
        (json!([own, null]), "end_ids[1]"),
        (json!([own, ""]), "end_ids"),
        (json!([own, "x"]), "end_ids"),
        (json!([own.replace('-', "")]), "end_ids"),
        (json!([format!("{own} ")]), "end_ids"),
        (json!([signed_in[0].token]), "end_ids"),
        (json!(many), "end_ids"),
    ];
    for (end_ids, field) in cases {
        let body = json!({ "user_id": "ada", "end_ids": end_ids });
        for reply in [
            create(&server, body.clone()).send().await,
            authenticate(&server, &visitor.id, body.clone()).send().await,
        ] {
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec![field]),
                "{end_ids:.60}: {}",
                reply.text
            );
        }
    }
    let nobody = create(&server, json!({ "end_ids": [own] })).send().await;
    assert_eq!((nobody.status, nobody.wrong_fields()), (422, vec!["end_ids"]));
    assert_unchanged(&before, &dump(&server).await);
    let none = create(&server, json!({ "end_ids": [] })).send().await;
    assert_eq!(none.status, 201, "{}", none.text);
    let as_many_as_may_be = sign_in(&server, &many[..200]).send().await;
    assert_eq!(as_many_as_may_be.status, 201, "{}", as_many_as_may_be.text);
}

// With a session that is there

#[tokio::test]
async fn visitor_who_signs_in_at_the_limit_is_denied_and_stays_a_visitor() {
    let (server, signed_in) = at_the_limit(2).await;
    let visitor = server.create(json!({ "data": { "cart": 1 } })).await;
    let before = dump(&server).await;

    let reply = authenticate(&server, &visitor.id, json!({ "user_id": "ada" }))
        .send()
        .await;

    assert_eq!(
        listed(&reply),
        [signed_in[1].id.as_str(), signed_in[0].id.as_str()]
    );
    assert_unchanged(&before, &dump(&server).await);
    let check = server.check(&visitor.token).await;
    assert_eq!((check.status, &check.json["user_id"]), (200, &Value::Null));
}

#[tokio::test]
async fn visitor_who_chooses_is_signed_in() {
    let (server, signed_in) = at_the_limit(2).await;
    let visitor = server.create(json!({})).await;
    let body = json!({ "user_id": "ada", "end_ids": [signed_in[0].id, visitor.id] });

    let reply = authenticate(&server, &visitor.id, body).send().await;

    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(
        (&reply.json["session"]["id"], &reply.json["evicted"]),
        (&json!(visitor.id), &json!([]))
    );
    assert_eq!(how(&server, &signed_in[0].id).await, by_choice());
    assert_eq!(
        how(&server, &visitor.id).await,
        alive(),
        "it makes no room for itself"
    );
    assert_eq!(
        active(&server).await,
        [&visitor.id, &signed_in[1].id].map(String::clone)
    );
    assert_eq!(
        news(&server, 3),
        [
            ("session.revoked".to_owned(), signed_in[0].id.clone()),
            ("session.authenticated".to_owned(), visitor.id.clone())
        ]
    );
}

#[tokio::test]
async fn own_session_named_by_its_user_makes_no_room() {
    let (server, signed_in) = at_the_limit(2).await;
    set_maximum(&server, json!(1)).await;
    let own = &signed_in[0].id;
    let before = dump(&server).await;

    let body = json!({ "user_id": "ada", "end_ids": [own] });
    let reply = authenticate(&server, own, body).send().await;

    assert_eq!(listed(&reply), [signed_in[1].id.as_str()], "the others");
    assert_unchanged(&before, &dump(&server).await);
}

// At once

#[tokio::test]
async fn parallel_creates_never_leave_more_than_the_maximum() {
    let server = TestServer::start_with(deny).await;
    set_maximum(&server, json!(3)).await;

    let replies = at_once((0..50).map(|_| sign_in(&server, &[]))).await;

    assert_eq!((with_status(&replies, 201), with_status(&replies, 409)), (3, 47));
    for reply in replies.iter().filter(|reply| reply.status == 409) {
        assert_eq!(listed(reply).len(), 3);
    }
    assert_eq!(active(&server).await.len(), 3);
    assert_eq!(events(&server.database()).len(), 3);
}

#[tokio::test]
async fn parallel_sign_ins_of_visitors_never_leave_more_than_the_maximum() {
    let server = TestServer::start_with(deny).await;
    set_maximum(&server, json!(3)).await;
    let mut visitors = Vec::new();
    for _ in 0..20 {
        visitors.push(server.create(json!({})).await.id);
    }

    let sign_ins = visitors
        .iter()
        .map(|id| authenticate(&server, id, json!({ "user_id": "ada" })));
    let replies = at_once(sign_ins).await;

    assert_eq!((with_status(&replies, 200), with_status(&replies, 409)), (3, 17));
    assert_eq!(active(&server).await.len(), 3);
    let anonymous = "SELECT count(*) FROM sessions WHERE user_id IS NULL AND ended_at IS NULL";
    assert_eq!(count(&server, anonymous), 17);
}

#[tokio::test]
async fn room_that_was_chosen_is_taken_once() {
    let (server, signed_in) = at_the_limit(3).await;
    let chosen = signed_in[0].id.as_str();

    let replies = at_once((0..20).map(|_| sign_in(&server, &[chosen]))).await;

    assert_eq!((with_status(&replies, 201), with_status(&replies, 409)), (1, 19));
    assert_eq!(active(&server).await.len(), 3);
    let endings = "SELECT count(*) FROM events WHERE type = 'session.revoked'";
    assert_eq!(count(&server, endings), 1);
}
