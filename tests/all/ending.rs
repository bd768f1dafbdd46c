//! Ending sessions, in all the ways there are: what the row, the event and the holder say afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::manager::SignIn;
use sessiond::session::AppName;
use sessiond::user::UserId;
use tokio::task::JoinSet;

use crate::harness::{Reply, Request, SignedIn, TestServer, events};
use crate::support::{
    DAY, HOUR, UNKNOWN_ID, add_app, at, count, ids, metric, millis_after, rows, without_request_id,
};
use crate::wire::{assert_unchanged, dump, without_refusals};

async fn delete(server: &TestServer, path: &str) -> Reply {
    server.delete(path).key(&server.key).send().await
}

async fn look(server: &TestServer, id: &str) -> Value {
    let reply = server
        .get(&format!("/v1/sessions/{id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

/// How a session ended, as the service plane shows it: status, time, reason, actor.
async fn ending(server: &TestServer, id: &str) -> Value {
    let row = look(server, id).await;
    json!(["status", "ended_at", "revoked_reason", "ended_by"].map(|field| row[field].clone()))
}

fn lives() -> Value {
    json!(["active", null, null, null])
}

fn kinds(server: &TestServer) -> Vec<String> {
    events(&server.database())
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}

/// The database's bytes: what is written shows there, whatever it is.
fn bytes(server: &TestServer) -> Vec<Vec<u8>> {
    let path = server.database().display().to_string();
    ["", "-wal"]
        .map(|suffix| std::fs::read(format!("{path}{suffix}")).expect("the file"))
        .to_vec()
}

/// Makes every further ending fail in the store.
fn break_endings(server: &TestServer) {
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE OF ended_at ON sessions
                  BEGIN SELECT RAISE(ABORT, 'inner words'); END";
    database.execute_batch(refuse).expect("a trigger");
}

// One session

#[tokio::test]
async fn revoked_session_has_reason_actor_time_and_one_event() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "193.0.6.139", "user_agent": "curl/8.0" }))
        .await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(metric(&server, "sessiond_cache_entries").await, 1);
    server.advance(5);

    let reply = delete(&server, &format!("/v1/sessions/{}?reason=lost%20phone", ada.id)).await;

    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    assert_eq!(metric(&server, "sessiond_cache_entries").await, 0);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "session_ended");
    assert_eq!(
        ending(&server, &ada.id).await,
        json!(["revoked", at(5), "lost phone", "app"])
    );
    assert_eq!(look(&server, &ada.id).await["is_revoked"], true);
    let told = rows(
        &server,
        "SELECT type, occurred_at, recorded_at, app, user_id, session_id, reason, ended_by, device_info,
                ip_address, location FROM events ORDER BY id",
    );
    let now = millis_after(5_000).as_millis();
    let expected = json!({
        "type": "session.revoked", "occurred_at": now, "recorded_at": now, "app": "default", "user_id": "ada",
        "session_id": ada.id.replace('-', ""), "reason": "lost phone", "ended_by": "app", "device_info": "curl",
        "ip_address": "193.0.6.139", "location": "NL",
    });
    assert_eq!(told[1..], [expected]);
}

#[tokio::test]
async fn revoking_again_changes_nothing() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}?reason=first", ada.id))
            .await
            .status,
        204
    );
    server.advance(5);
    let before = bytes(&server);

    for path in [
        format!("/v1/sessions/{}?reason=second&ended_by=user", ada.id),
        format!("/v1/sessions/{}", ada.id),
    ] {
        assert_eq!(delete(&server, &path).await.status, 204);
    }
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
        delete(&server, "/v1/users/ada/sessions").await.json["revoked_count"],
        0
    );

    assert_eq!(
        ending(&server, &ada.id).await,
        json!(["revoked", at(0), "first", "app"])
    );
    assert_eq!(kinds(&server), ["session.created", "session.revoked"]);
    assert!(bytes(&server) == before, "nothing is written either");
}

#[tokio::test]
async fn default_reasons_and_actors_say_which_call_it_was() {
    let server = TestServer::start().await;
    let other = server.sign_in("ada").await;
    for (case, reason, by) in [
        ("DELETE /v1/sessions/{id}", "logout", "app"),
        ("DELETE /v1/users/{id}/sessions", "logout_all", "app"),
        ("DELETE /v1/sessions", "logout_all", "app"),
        ("DELETE /v1/session", "logout", "user"),
        ("DELETE /v1/me/sessions/{id}", "manual", "user"),
        ("DELETE /v1/me/sessions", "logout_all", "user"),
        ("PATCH /v1/users/{id}", "user_blocked", "app"),
    ] {
        let bob = server.sign_in("bob").await;
        let holder = server.sign_in("bob").await;
        let request = match case {
            "DELETE /v1/sessions/{id}" => server
                .delete(&format!("/v1/sessions/{}", bob.id))
                .key(&server.key),
            "DELETE /v1/users/{id}/sessions" => server.delete("/v1/users/bob/sessions").key(&server.key),
            "DELETE /v1/sessions" => server.delete("/v1/sessions").key(&server.key),
            "DELETE /v1/session" => server.delete("/v1/session").bearer(&bob.token),
            "DELETE /v1/me/sessions/{id}" => server
                .delete(&format!("/v1/me/sessions/{}", bob.id))
                .bearer(&holder.token),
            "DELETE /v1/me/sessions" => server.delete("/v1/me/sessions").bearer(&holder.token),
            _ => server
                .patch("/v1/users/bob", json!({ "is_blocked": true }))
                .key(&server.key),
        };
        let reply = request.send().await;
        assert!([200, 204].contains(&reply.status), "{case}: {}", reply.text);
        assert_eq!(
            ending(&server, &bob.id).await,
            json!(["revoked", at(0), reason, by]),
            "{case}"
        );
    }
    assert_eq!(
        ending(&server, &other.id).await[2],
        "logout_all",
        "by the one for the whole app"
    );
}

#[tokio::test]
async fn application_says_on_whose_behalf_it_ends() {
    let server = TestServer::start().await;
    for by in ["user", "app", "operator"] {
        let one = server.sign_in("ada").await;
        assert_eq!(
            delete(&server, &format!("/v1/sessions/{}?ended_by={by}", one.id))
                .await
                .status,
            204
        );
        let of_user = server.sign_in("ada").await;
        assert_eq!(
            delete(&server, &format!("/v1/users/ada/sessions?ended_by={by}"))
                .await
                .status,
            200
        );
        let of_app = server.sign_in("ada").await;
        assert_eq!(
            delete(&server, &format!("/v1/sessions?ended_by={by}"))
                .await
                .status,
            200
        );
        for session in [one, of_user, of_app] {
            assert_eq!(ending(&server, &session.id).await[3], by);
        }
    }
    let ada = server.sign_in("ada").await;
    for by in ["limit", "timeout", "security", "", "App", "nobody"] {
        for path in [
            format!("/v1/sessions/{}", ada.id),
            "/v1/users/ada/sessions".into(),
            "/v1/sessions".into(),
        ] {
            let reply = delete(&server, &format!("{path}?ended_by={by}")).await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["ended_by"]),
                "{path} by {by:?}"
            );
        }
    }
    assert_eq!(ending(&server, &ada.id).await, lives());
}

#[tokio::test]
async fn reason_is_1_to_255_characters_without_control_characters() {
    let server = TestServer::start().await;
    let wide = "é".repeat(255);
    for (query, kept) in [
        ("x", "x"),
        ("a+b%2Bc%20d", "a b+c d"),
        (&wide, &wide),
        ("%F0%9F%94%91", "🔑"),
    ] {
        let ada = server.sign_in("ada").await;
        let reply = delete(&server, &format!("/v1/sessions/{}?reason={query}", ada.id)).await;
        assert_eq!(reply.status, 204, "{query}: {}", reply.text);
        assert_eq!(ending(&server, &ada.id).await[2], kept);
    }
    let ada = server.sign_in("ada").await;
    for bad in [
        "",
        &"x".repeat(256),
        "a%0Ab",
        "%00",
        "%C2%85",
        "%ff",
        "%zz",
        "a&reason=b",
    ] {
        for path in [
            format!("/v1/sessions/{}", ada.id),
            "/v1/users/ada/sessions".into(),
            "/v1/sessions".into(),
        ] {
            let reply = delete(&server, &format!("{path}?reason={bad}")).await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["reason"]),
                "{path}, {bad}"
            );
        }
    }
    assert_eq!(ending(&server, &ada.id).await, lives());
}

#[tokio::test]
async fn somebody_elses_session_looks_like_one_that_does_not_exist() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let (ada, nobody) = (server.sign_in("ada").await, server.create(json!({})).await);
    let (before, before_all) = (bytes(&server), dump(&server).await);
    let cases = [
        ("of another user", ada.id.as_str(), "?user_id=bob", &server.key),
        ("of nobody", &nobody.id, "?user_id=bob", &server.key),
        ("of another app", &ada.id, "", &shop_key),
        (
            "of the same user id in another app",
            &ada.id,
            "?user_id=ada",
            &shop_key,
        ),
        ("no id", "ada", "", &server.key),
        ("an id without hyphens", &ada.id.replace('-', ""), "", &server.key),
    ];
    for method in [Method::GET, Method::DELETE] {
        let path = format!("/v1/sessions/{UNKNOWN_ID}");
        let unknown = server
            .request(method.clone(), &path)
            .key(&server.key)
            .send()
            .await;
        unknown.assert_problem(404, "not_found");
        for (case, id, query, key) in &cases {
            let path = format!("/v1/sessions/{id}{query}");
            let reply = server.request(method.clone(), &path).key(key).send().await;
            assert_eq!(
                without_request_id(&reply),
                without_request_id(&unknown),
                "{method}, {case}"
            );
        }
        if method == Method::GET {
            assert!(bytes(&server) == before, "nothing is written");
        }
    }
    let rename = server
        .patch(&format!("/v1/sessions/{}", ada.id), json!({ "name": "x" }))
        .key(&shop_key);
    rename.send().await.assert_problem(404, "not_found");
    let after_all = dump(&server).await;
    assert_unchanged(&without_refusals(&before_all), &without_refusals(&after_all));
    for session in [&ada, &nobody] {
        assert_eq!(ending(&server, &session.id).await, lives());
    }
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}?user_id=ada", ada.id))
            .await
            .status,
        204,
        "their own"
    );
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}?user_id=a%00", ada.id))
            .await
            .wrong_fields(),
        ["user_id"]
    );
}

// Many sessions

#[tokio::test]
async fn all_of_a_user_end_and_nobody_elses() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let of_shop = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&shop_key)
        .send()
        .await;
    let mut theirs = Vec::new();
    for _ in 0..3 {
        theirs.push(server.sign_in("ada").await);
    }
    let others = [
        server.sign_in("bob").await,
        server.sign_in("Ada").await,
        server.create(json!({})).await,
    ];
    server.advance(1);

    let reply = delete(&server, "/v1/users/ada/sessions?reason=moved").await;

    assert_eq!((reply.status, reply.json), (200, json!({ "revoked_count": 3 })));
    for session in &theirs {
        assert_eq!(
            ending(&server, &session.id).await,
            json!(["revoked", at(1), "moved", "app"])
        );
        server
            .check(&session.token)
            .await
            .assert_problem(401, "session_ended");
    }
    for session in &others {
        assert_eq!(server.check(&session.token).await.status, 200);
    }
    let token = of_shop.json["token"].as_str().expect("a token");
    assert_eq!(
        server
            .get("/v1/session?app=shop")
            .bearer(token)
            .send()
            .await
            .status,
        200
    );
    let told = rows(
        &server,
        "SELECT type, user_id, session_id, reason, ended_by, data FROM events ORDER BY id DESC LIMIT 1",
    );
    let data = json!({ "session_count": 3, "except_session_id": null }).to_string();
    let expected = json!([{ "type": "user.sessions_revoked", "user_id": "ada", "session_id": null,
                            "reason": "moved", "ended_by": "app", "data": data }]);
    assert_eq!(Value::Array(told), expected);
    assert_eq!(kinds(&server)[7..10], ["session.revoked"; 3]);
}

#[tokio::test]
async fn all_but_one_end_and_the_excepted_one_works_on() {
    let server = TestServer::start().await;
    let mut theirs = Vec::new();
    for _ in 0..4 {
        theirs.push(server.sign_in("ada").await);
    }
    let kept = theirs.remove(2);

    let reply = delete(&server, &format!("/v1/users/ada/sessions?except={}", kept.id)).await;

    assert_eq!(reply.json, json!({ "revoked_count": 3 }));
    assert_eq!(server.check(&kept.token).await.status, 200);
    for session in &theirs {
        assert_eq!(server.check(&session.token).await.status, 401);
    }
    let told = rows(
        &server,
        "SELECT data FROM events WHERE type = 'user.sessions_revoked'",
    );
    let data = json!({ "session_count": 3, "except_session_id": kept.id }).to_string();
    assert_eq!(told, [json!({ "data": data })]);
    let again = delete(&server, &format!("/v1/users/ada/sessions?except={}", kept.id)).await;
    assert_eq!(again.json, json!({ "revoked_count": 0 }));
}

#[tokio::test]
async fn excepting_what_is_not_the_users_excepts_nothing() {
    let server = TestServer::start().await;
    let bob = server.sign_in("bob").await;
    let gone = server.sign_in("ada").await;
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}", gone.id)).await.status,
        204
    );
    for (case, except) in [
        ("another user's", &bob.id),
        ("ended", &gone.id),
        ("unknown", &UNKNOWN_ID.to_owned()),
    ] {
        let ada = server.sign_in("ada").await;
        let reply = delete(&server, &format!("/v1/users/ada/sessions?except={except}")).await;
        assert_eq!(reply.json, json!({ "revoked_count": 1 }), "{case}");
        assert_eq!(server.check(&ada.token).await.status, 401, "{case}");
        let told = rows(
            &server,
            "SELECT data FROM events WHERE type = 'user.sessions_revoked' ORDER BY id DESC LIMIT 1",
        );
        let data = json!({ "session_count": 1, "except_session_id": null }).to_string();
        assert_eq!(
            told,
            [json!({ "data": data })],
            "{case}: nobody's event names somebody else's session"
        );
    }
    assert_eq!(server.check(&bob.token).await.status, 200);
    let reply = delete(&server, "/v1/users/ada/sessions?except=mine").await;
    assert_eq!((reply.status, reply.wrong_fields()), (422, vec!["except"]));
}

#[tokio::test]
async fn ending_all_of_a_user_who_has_none_is_0_and_no_event() {
    let server = TestServer::start().await;
    server.sign_in("bob").await;
    let before = bytes(&server);
    for user_id in ["ada", "a%2Fb", "%C3%A5"] {
        let reply = delete(&server, &format!("/v1/users/{user_id}/sessions")).await;
        assert_eq!(
            (reply.status, reply.json),
            (200, json!({ "revoked_count": 0 })),
            "{user_id}"
        );
    }
    assert!(bytes(&server) == before, "nothing is written");
}

#[tokio::test]
async fn overdue_sessions_are_not_counted_as_revoked_and_end_as_expired() {
    let server = TestServer::start().await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 10 }))
        .await;
    let active = server.sign_in("ada").await;
    server.advance(20);

    let reply = delete(&server, "/v1/users/ada/sessions").await;

    assert_eq!(reply.json, json!({ "revoked_count": 1 }));
    assert_eq!(
        ending(&server, &overdue.id).await,
        json!(["expired", at(10), "idle_timeout", "timeout"])
    );
    assert_eq!(
        ending(&server, &active.id).await,
        json!(["revoked", at(20), "logout_all", "app"])
    );
    let told = rows(
        &server,
        "SELECT data FROM events WHERE type = 'user.sessions_revoked'",
    );
    assert_eq!(
        told,
        [json!({ "data": "{\"session_count\":1,\"except_session_id\":null}" })]
    );
}

#[tokio::test]
async fn everybody_in_the_app_is_ended_in_bounded_batches() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let app = AppName::default_app();
    let mut creates = JoinSet::new();
    for number in 0..501 {
        let (manager, app) = (Arc::clone(&server.manager), app.clone());
        let sign_in = SignIn {
            // Some of them are nobody's.
            user_id: UserId::parse(&format!("user-{number}")).filter(|_| number % 5 != 0),
            ..SignIn::default()
        };
        creates.spawn(async move { manager.create(&app, sign_in).await.expect("created") });
    }
    let created = creates.join_all().await;
    let shop_key = server.key_of("shop").await;
    let of_shop = server.post("/v1/sessions", json!({})).key(&shop_key).send().await;
    let left = "SELECT count(*) FROM sessions WHERE app = 'default' AND ended_at IS NULL";

    let first = delete(&server, "/v1/sessions?reason=breach&ended_by=operator").await;
    assert_eq!(
        (first.status, first.json),
        (200, json!({ "revoked_count": 500, "more": true }))
    );
    assert_eq!(count(&server, left), 1);
    let second = delete(&server, "/v1/sessions?reason=breach&ended_by=operator").await;
    assert_eq!(second.json, json!({ "revoked_count": 1, "more": false }));
    let third = delete(&server, "/v1/sessions").await;
    assert_eq!(third.json, json!({ "revoked_count": 0, "more": false }));

    for signed_in in [&created[0], &created[250], &created[500]] {
        server
            .check(&signed_in.token.reveal())
            .await
            .assert_problem(401, "session_ended");
    }
    let told = "SELECT count(DISTINCT session_id) FROM events WHERE type = 'session.revoked'
                AND reason = 'breach' AND ended_by = 'operator'";
    assert_eq!(count(&server, told), 501);
    assert_eq!(
        count(
            &server,
            "SELECT count(*) FROM events WHERE type = 'session.revoked'"
        ),
        501
    );
    let token = of_shop.json["token"].as_str().expect("a token");
    assert_eq!(
        server
            .get("/v1/session?app=shop")
            .bearer(token)
            .send()
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn overdue_sessions_of_an_app_end_as_expired_with_the_rest() {
    let server = TestServer::start().await;
    let overdue = server.create(json!({ "idle_timeout_secs": 10 })).await;
    let active = server.create(json!({})).await;
    server.advance(20);

    let reply = delete(&server, "/v1/sessions").await;

    assert_eq!(reply.json, json!({ "revoked_count": 1, "more": false }));
    assert_eq!(
        ending(&server, &overdue.id).await,
        json!(["expired", at(10), "idle_timeout", "timeout"])
    );
    assert_eq!(
        ending(&server, &active.id).await,
        json!(["revoked", at(20), "logout_all", "app"])
    );
}

#[tokio::test]
async fn session_used_since_its_stored_deadline_is_revoked_and_not_expired() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    for case in ["one", "of the user", "of the app", "signed out"] {
        let ada = server
            .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
            .await;
        server.advance(59);
        assert_eq!(server.check(&ada.token).await.status, 200, "{case}");
        server.advance(10);
        let reply = match case {
            "one" => delete(&server, &format!("/v1/sessions/{}", ada.id)).await,
            "of the user" => delete(&server, "/v1/users/ada/sessions").await,
            "of the app" => delete(&server, "/v1/sessions").await,
            _ => server.delete("/v1/session").bearer(&ada.token).send().await,
        };
        assert!([200, 204].contains(&reply.status), "{case}: {}", reply.text);
        assert_eq!(ending(&server, &ada.id).await[0], "revoked", "{case}");
    }
}

#[tokio::test]
async fn last_use_before_an_ending_is_kept_and_told_of_first() {
    let server = TestServer::start().await;
    let block = async || {
        let blocked = server.patch("/v1/users/ada", json!({ "is_blocked": true }));
        blocked.key(&server.key).send().await
    };
    let evict = async || {
        let only = server.patch("/v1/users/ada", json!({ "max_sessions": 1 }));
        assert_eq!(only.key(&server.key).send().await.status, 200);
        let created = server.post("/v1/sessions", json!({ "user_id": "ada" }));
        created.key(&server.key).send().await
    };
    for case in [
        "signed out",
        "one",
        "of the user",
        "of the app",
        "evicted",
        "blocked",
    ] {
        let ada = server
            .create(json!({ "user_id": "ada", "ip_address": "194.25.2.129" }))
            .await;
        server.advance(1);
        let stolen = json!({ "token": ada.token, "ip_address": "212.58.244.22" });
        let checked = server
            .post("/v1/sessions/check", stolen)
            .key(&server.key)
            .send()
            .await;
        let answered = checked.json["session"].clone();
        assert_eq!(
            answered["last_ip_address"], "212.58.244.22",
            "{case}: {}",
            checked.text
        );

        let reply = match case {
            "signed out" => server.delete("/v1/session").bearer(&ada.token).send().await,
            "one" => delete(&server, &format!("/v1/sessions/{}", ada.id)).await,
            "of the user" => delete(&server, "/v1/users/ada/sessions").await,
            "of the app" => delete(&server, "/v1/sessions").await,
            "evicted" => evict().await,
            _ => block().await,
        };

        assert!(reply.status < 300, "{case}: {}", reply.text);
        let ended = look(&server, &ada.id).await;
        assert_eq!(ended["status"], "revoked", "{case}");
        for field in ["ip_address", "last_ip_address", "last_activity_at"] {
            assert_eq!(ended[field], answered[field], "{case}: {field}");
        }
        let told = rows(
            &server,
            "SELECT type, session_id, ip_address FROM events ORDER BY id",
        );
        let id = ada.id.replace('-', "");
        let told: Vec<_> = told
            .iter()
            .filter(|event| event["session_id"] == id)
            .map(|event| (event["type"].as_str(), event["ip_address"].as_str()))
            .collect();
        let kind = if case == "evicted" {
            "session.evicted"
        } else {
            "session.revoked"
        };
        let expected = [
            (Some("session.created"), Some("194.25.2.129")),
            (Some("session.activity"), Some("212.58.244.22")),
            (Some(kind), Some("212.58.244.22")),
        ];
        assert_eq!(told, expected, "{case}");
    }
}

// Signing out

#[tokio::test]
async fn signed_out_session_is_gone_for_check_list_and_limit_at_once() {
    let server = TestServer::start().await;
    let patch = server
        .patch("/v1/users/ada", json!({ "max_sessions": 2 }))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(patch.status, 200, "{}", patch.text);
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    assert_eq!(server.check(&ada.token).await.status, 200);

    let reply = server.delete("/v1/session").bearer(&ada.token).send().await;

    assert_eq!((reply.status, reply.header("set-cookie")), (204, None));
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "session_ended");
    let list = server.get("/v1/users/ada/sessions").key(&server.key).send().await;
    assert_eq!(
        (ids(&list), &list.json["active_count"]),
        (vec![other.id.clone()], &json!(1))
    );
    let next = server.sign_in("ada").await;
    assert_eq!(next.body["evicted"], json!([]), "there was room");
    assert_eq!(server.check(&other.token).await.status, 200);
}

#[tokio::test]
async fn signing_out_by_cookie_clears_it() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let cleared = "__Host-session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax";
    let cases = [
        ("good", ada.token.clone()),
        ("ended by now", ada.token.clone()),
        ("unknown", format!("sst_{}", "A".repeat(64))),
        ("malformed", "x".to_owned()),
        ("empty", String::new()),
    ];
    for (case, cookie) in cases {
        let reply = server
            .delete("/v1/session")
            .cookie(&cookie)
            .same_origin()
            .send()
            .await;
        assert_eq!(
            (reply.status, reply.header("set-cookie")),
            (204, Some(cleared)),
            "{case}"
        );
        assert_eq!(
            reply.header("clear-site-data"),
            None,
            "{case}: only if configured"
        );
    }
    assert_eq!(
        ending(&server, &ada.id).await,
        json!(["revoked", at(0), "logout", "user"])
    );
    assert_eq!(kinds(&server), ["session.created", "session.revoked"]);
}

#[tokio::test]
async fn signing_out_of_nothing_is_fine_and_changes_nothing() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let ada = server.sign_in("ada").await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 1 }))
        .await;
    server.advance(1);
    let wrong_secret = format!("{}{}", &ada.token[..40], "A".repeat(28));
    let before = bytes(&server);
    let cases = [
        ("no token", server.delete("/v1/session")),
        (
            "no token, another scheme",
            server.delete("/v1/session").header("authorization", "Basic YTpi"),
        ),
        ("malformed", server.delete("/v1/session").bearer("x")),
        ("an API key", server.delete("/v1/session").bearer(&server.key)),
        (
            "unknown",
            server
                .delete("/v1/session")
                .bearer(&format!("sst_{}", "A".repeat(64))),
        ),
        (
            "a wrong secret",
            server.delete("/v1/session").bearer(&wrong_secret),
        ),
        (
            "in another app",
            server.delete("/v1/session?app=shop").bearer(&ada.token),
        ),
        ("overdue", server.delete("/v1/session").bearer(&overdue.token)),
    ];
    for (case, request) in cases {
        let reply = request.send().await;
        assert_eq!((reply.status, reply.header("set-cookie")), (204, None), "{case}");
    }
    assert!(bytes(&server) == before, "nothing is written");
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(
        ending(&server, &overdue.id).await,
        json!(["expired", at(1), "idle_timeout", "timeout"])
    );
}

#[tokio::test]
async fn signing_out_that_cannot_be_made_durable_keeps_cookie_and_session() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    break_endings(&server);
    let id = format!("/v1/sessions/{}", ada.id);
    for (case, request) in [
        (
            "by cookie",
            server.delete("/v1/session").cookie(&ada.token).same_origin(),
        ),
        ("by header", server.delete("/v1/session").bearer(&ada.token)),
        ("by the backend", server.delete(&id).key(&server.key)),
        (
            "all of the user",
            server.delete("/v1/users/ada/sessions").key(&server.key),
        ),
        ("all of the app", server.delete("/v1/sessions").key(&server.key)),
        (
            "blocked",
            server
                .patch("/v1/users/ada", json!({ "is_blocked": true }))
                .key(&server.key),
        ),
    ] {
        let reply = request.send().await;
        reply.assert_problem(503, "store_unavailable");
        assert_eq!(reply.header("set-cookie"), None, "{case}");
        assert!(!reply.text.contains("inner words"), "{case}: {}", reply.text);
        assert_eq!(server.check(&ada.token).await.status, 200, "{case}");
    }
    assert_eq!(kinds(&server), ["session.created"]);
    let user = server.get("/v1/users/ada").key(&server.key).send().await;
    assert_eq!(user.json["is_blocked"], false);
}

#[tokio::test]
async fn signing_out_by_cookie_from_another_site_is_refused() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for site in ["cross-site", "same-site", "none"] {
        let request = server
            .delete("/v1/session")
            .cookie(&ada.token)
            .header("sec-fetch-site", site);
        let reply = request.send().await;
        reply.assert_problem(403, "cross_site");
        assert_eq!(reply.header("set-cookie"), None, "{site}");
    }
    assert_eq!(ending(&server, &ada.id).await, lives());
}

// Blocked, and changed credentials

#[tokio::test]
async fn blocking_ends_all_sessions_and_tells_once() {
    let server = TestServer::start().await;
    let theirs = [server.sign_in("ada").await, server.sign_in("ada").await];
    let bob = server.sign_in("bob").await;
    let block = || {
        server
            .patch("/v1/users/ada", json!({ "is_blocked": true }))
            .key(&server.key)
            .send()
    };
    server.advance(1);

    let first = block().await;
    let second = block().await;

    assert_eq!(
        (&first.json["is_blocked"], &first.json["active_count"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(first.json, second.json);
    for session in &theirs {
        assert_eq!(
            ending(&server, &session.id).await,
            json!(["revoked", at(1), "user_blocked", "app"])
        );
        server
            .check(&session.token)
            .await
            .assert_problem(401, "session_ended");
    }
    assert_eq!(server.check(&bob.token).await.status, 200);
    let told = [
        "session.revoked",
        "session.revoked",
        "user.sessions_revoked",
        "user.blocked",
    ];
    assert_eq!(kinds(&server)[3..], told);
    let unblock = server
        .patch("/v1/users/ada", json!({ "is_blocked": false }))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(unblock.json["is_blocked"], false);
    assert_eq!(
        server.check(&theirs[0].token).await.status,
        401,
        "unblocking revives nothing"
    );
}

#[tokio::test]
async fn blocking_a_user_without_sessions_tells_only_that() {
    let server = TestServer::start().await;
    let reply = server
        .patch("/v1/users/ada", json!({ "is_blocked": true }))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200);
    let told = rows(&server, "SELECT type, user_id, ended_by FROM events");
    assert_eq!(
        told,
        [json!({ "type": "user.blocked", "user_id": "ada", "ended_by": "app" })]
    );
}

#[tokio::test]
async fn changed_credentials_end_all_or_all_but_one() {
    let server = TestServer::start().await;
    let theirs = [
        server.sign_in("ada").await,
        server.sign_in("ada").await,
        server.sign_in("ada").await,
    ];
    server.advance(1);

    let path = format!(
        "/v1/users/ada/sessions?reason=credentials_changed&except={}",
        theirs[1].id
    );
    assert_eq!(delete(&server, &path).await.json, json!({ "revoked_count": 2 }));
    assert_eq!(
        server.check(&theirs[1].token).await.status,
        200,
        "where they were changed"
    );
    for index in [0, 2] {
        let expected = json!(["revoked", at(1), "credentials_changed", "app"]);
        assert_eq!(ending(&server, &theirs[index].id).await, expected);
    }
    let all = delete(
        &server,
        "/v1/users/ada/sessions?reason=credentials_changed&ended_by=user",
    )
    .await;
    assert_eq!(all.json, json!({ "revoked_count": 1 }));
    assert_eq!(
        ending(&server, &theirs[1].id).await,
        json!(["revoked", at(1), "credentials_changed", "user"])
    );
}

// Deadlines and retention

#[tokio::test]
async fn passed_deadline_gets_one_event_at_the_deadline() {
    let server = TestServer::start().await;
    let idle = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let absolute = server
        .create(json!({ "user_id": "ada", "absolute_timeout_secs": 50 }))
        .await;
    let alive = server.sign_in("ada").await;
    server.advance(HOUR);

    server.tick().await;
    server.advance(1);
    server.tick().await;

    let told = rows(
        &server,
        "SELECT session_id, occurred_at, recorded_at, reason, ended_by, user_id FROM events
         WHERE type = 'session.expired' ORDER BY id",
    );
    let recorded = millis_after(HOUR * 1_000).as_millis();
    let event = |session: &SignedIn, secs: u64, reason| {
        json!({ "session_id": session.id.replace('-', ""), "occurred_at": millis_after(secs * 1_000).as_millis(),
                "recorded_at": recorded, "reason": reason, "ended_by": "timeout", "user_id": "ada" })
    };
    assert_eq!(
        told,
        [
            event(&absolute, 50, "absolute_timeout"),
            event(&idle, 60, "idle_timeout")
        ]
    );
    assert_eq!(server.check(&alive.token).await.status, 200);
}

#[tokio::test]
async fn sweeping_takes_no_more_than_its_batch_at_once() {
    let server = TestServer::start().await;
    for secs in 1..=5 {
        server.create(json!({ "idle_timeout_secs": secs })).await;
    }
    server.advance(10);
    let swept = async || server.manager.expire_overdue(2).await.expect("swept");
    assert_eq!(
        [swept().await, swept().await, swept().await, swept().await],
        [2, 2, 1, 0]
    );
}

#[tokio::test]
async fn revoking_an_expired_session_changes_nothing() {
    for is_swept in [false, true] {
        let server = TestServer::start().await;
        let ada = server
            .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
            .await;
        server.advance(90);
        if is_swept {
            server.tick().await;
        }
        let path = format!("/v1/sessions/{}?reason=manual", ada.id);

        assert_eq!(delete(&server, &path).await.status, 204, "{is_swept}");
        assert_eq!(delete(&server, &path).await.status, 204, "{is_swept}");
        server.tick().await;

        let expected = json!(["expired", at(60), "idle_timeout", "timeout"]);
        assert_eq!(ending(&server, &ada.id).await, expected, "{is_swept}");
        let told = rows(
            &server,
            "SELECT type, occurred_at FROM events ORDER BY id DESC LIMIT 1",
        );
        let deadline = millis_after(60_000).as_millis();
        assert_eq!(
            told,
            [json!({ "type": "session.expired", "occurred_at": deadline })],
            "{is_swept}"
        );
        assert_eq!(kinds(&server).len(), 2, "{is_swept}");
    }
}

#[tokio::test]
async fn use_that_was_not_written_before_the_ending_is_dropped() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "192.0.2.1" }))
        .await;
    server.advance(5);
    let body = json!({ "token": ada.token, "ip_address": "192.0.2.2" });
    let reply = server
        .post("/v1/sessions/check", body)
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.json["active"], true);
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}", ada.id)).await.status,
        204
    );
    let before = bytes(&server);

    server.tick().await;

    assert!(bytes(&server) == before, "nothing is written to what has ended");
    assert_eq!(
        ending(&server, &ada.id).await,
        json!(["revoked", at(5), "logout", "app"])
    );
}

#[tokio::test]
async fn ended_session_refuses_every_change() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}", ada.id)).await.status,
        204
    );
    let before = bytes(&server);
    let path = format!("/v1/sessions/{}", ada.id);
    for request in [
        server.patch(&path, json!({ "name": "x" })),
        server.patch(&path, json!({ "is_trusted": true, "auth": null })),
        server.post(&format!("{path}/touch"), json!({ "ip_address": "192.0.2.1" })),
    ] {
        let reply = request.key(&server.key).send().await;
        reply.assert_problem(410, "session_ended");
        let told = json!(["ended_at", "revoked_reason", "ended_by"].map(|field| reply.json[field].clone()));
        assert_eq!(told, json!([at(0), "logout", "app"]));
    }
    assert!(bytes(&server) == before, "nothing is written");
}

#[tokio::test]
async fn ended_rows_and_events_leave_after_retention() {
    let server = TestServer::start_with(|config| config.sessions.retention_secs = DAY).await;
    let revoked = server.sign_in("ada").await;
    let expired = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": HOUR }))
        .await;
    let alive = server.sign_in("ada").await;
    assert_eq!(
        delete(&server, &format!("/v1/sessions/{}", revoked.id))
            .await
            .status,
        204
    );
    let stored = |session: &SignedIn| {
        let id = session.id.replace('-', "");
        count(
            &server,
            &format!("SELECT count(*) FROM sessions WHERE hex(id) = upper('{id}')"),
        )
    };

    server.advance(DAY);
    server.tick().await;
    assert_eq!(
        [stored(&revoked), stored(&expired), stored(&alive)],
        [1, 1, 1],
        "exactly as old as is kept"
    );
    assert_eq!(count(&server, "SELECT count(*) FROM events"), 5);
    server.advance(1);
    server.tick().await;
    assert_eq!([stored(&revoked), stored(&expired), stored(&alive)], [0, 1, 1]);
    assert_eq!(
        kinds(&server),
        ["session.expired"],
        "events go by when they were recorded"
    );
    server
        .check(&revoked.token)
        .await
        .assert_problem(401, "invalid_token");
    server
        .check(&expired.token)
        .await
        .assert_problem(401, "session_ended");
    server.advance(HOUR);
    server.tick().await;
    assert_eq!([stored(&expired), stored(&alive)], [0, 1]);
    assert_eq!(
        server.check(&alive.token).await.status,
        200,
        "the active one stays however old"
    );
}

#[tokio::test]
async fn sweeps_with_nothing_to_do_and_reads_write_nothing() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.tick().await;
    let before = bytes(&server);
    for _ in 0..5 {
        server.advance(30);
        server.tick().await;
    }
    for path in [
        "/v1/sessions",
        "/v1/sessions?status=all",
        "/v1/users/ada",
        "/v1/users/ada/sessions?status=ended",
    ] {
        assert_eq!(server.get(path).key(&server.key).send().await.status, 200);
    }
    assert_eq!(
        server
            .get("/v1/session?touch=false")
            .bearer(&ada.token)
            .send()
            .await
            .status,
        200
    );
    assert_eq!(
        server
            .get("/v1/me/sessions")
            .bearer(&ada.token)
            .send()
            .await
            .status,
        200
    );
    assert!(bytes(&server) == before, "the clock moved, nothing else did");
}

#[tokio::test]
async fn endings_are_counted_by_reason() {
    let server = TestServer::start().await;
    for query in ["", "?reason=manual", "?reason=made+up", "?reason=made+up+too"] {
        let ada = server.sign_in("ada").await;
        assert_eq!(
            delete(&server, &format!("/v1/sessions/{}{query}", ada.id))
                .await
                .status,
            204
        );
    }
    let counted = async |reason: &str| {
        metric(
            &server,
            &format!("sessiond_sessions_ended_total{{reason=\"{reason}\"}}"),
        )
        .await
    };
    assert_eq!(
        [
            counted("logout").await,
            counted("manual").await,
            counted("other").await
        ],
        [1, 1, 2]
    );
}

// Every way at once

/// Numbers that look random and are the same in every run (xorshift64*, Vigna 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % end
    }

    fn pick<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}

/// One random step; new sessions are added to `sessions`.
async fn step(server: &TestServer, dice: &mut Dice, sessions: &mut Vec<SignedIn>) {
    const USERS: [&str; 3] = ["ada", "bob", "eve"];
    let user_id = *dice.pick(&USERS);
    let users = format!("/v1/users/{user_id}");
    let of_key = async |request: Request<'_>| request.key(&server.key).send().await;
    let reply = match dice.below(16) {
        0..=4 => {
            let timeouts = [(30, 90), (60, 60), (3_600, 7_200)];
            let (idle, absolute) = *dice.pick(&timeouts);
            let mut body = json!({ "idle_timeout_secs": idle, "absolute_timeout_secs": absolute });
            if dice.below(6) > 0 {
                body["user_id"] = json!(user_id);
            }
            let reply = of_key(server.post("/v1/sessions", body)).await;
            if reply.status == 201 {
                sessions.push(SignedIn {
                    id: reply.json["session"]["id"].as_str().expect("an id").to_owned(),
                    token: reply.json["token"].as_str().expect("a token").to_owned(),
                    body: reply.json.clone(),
                });
            }
            reply
        }
        5 => {
            server.advance(u64::try_from(dice.below(40)).expect("small"));
            server.tick().await;
            return;
        }
        6 => {
            server.advance(u64::try_from(dice.below(40)).expect("small"));
            return;
        }
        7 => of_key(server.patch(&users, json!({ "max_sessions": 1 + dice.below(4) }))).await,
        8 => of_key(server.patch(&users, json!({ "is_blocked": dice.below(3) == 0 }))).await,
        9 => of_key(server.delete(&format!("{users}/sessions"))).await,
        10 if dice.below(4) == 0 => of_key(server.delete("/v1/sessions")).await,
        _ if sessions.is_empty() => return,
        choice => {
            let SignedIn { id, token, .. } = dice.pick(sessions).clone();
            let of_holder = async |request: Request<'_>| request.bearer(&token).send().await;
            match choice {
                10 => {
                    of_key(server.delete(&format!(
                        "{users}/sessions?reason=credentials_changed&except={id}"
                    )))
                    .await
                }
                11 => of_key(server.delete(&format!("/v1/sessions/{id}?user_id={user_id}"))).await,
                12 => of_holder(server.delete("/v1/session")).await,
                13 => of_holder(server.delete("/v1/me/sessions?include_current=true")).await,
                14 => {
                    let other = dice.pick(sessions).id.clone();
                    of_holder(server.delete(&format!("/v1/me/sessions/{other}"))).await
                }
                _ => {
                    let address = format!("192.0.2.{}", dice.below(4));
                    let body = json!({ "token": token, "ip_address": address });
                    of_key(server.post("/v1/sessions/check", body)).await
                }
            }
        }
    };
    assert!(
        reply.status < 500 && reply.status != 422,
        "{}: {}",
        reply.status,
        reply.text
    );
}

/// Every row beside its events.
async fn assert_told_once(server: &TestServer, sessions: &[SignedIn], seed: u64) {
    let mut told: HashMap<String, Vec<Value>> = HashMap::new();
    let sql = "SELECT hex(session_id) AS id, type, occurred_at, reason, ended_by FROM events
               WHERE session_id IS NOT NULL ORDER BY events.id";
    for event in rows(server, sql) {
        told.entry(event["id"].to_string()).or_default().push(event);
    }
    let sql = "SELECT hex(id) AS id, ended_at, expires_at, revoked_reason, ended_by FROM sessions";
    let stored = rows(server, sql);
    assert_eq!(
        stored.len(),
        sessions.len(),
        "seed {seed}: rows never vanish before retention"
    );
    for row in stored {
        let events = &told[&row["id"].to_string()];
        assert_eq!(events[0]["type"], "session.created", "seed {seed}: {events:?}");
        let is_ending = |event: &&Value| !event["ended_by"].is_null();
        let endings: Vec<&Value> = events.iter().filter(is_ending).collect();
        let expected = usize::from(!row["ended_at"].is_null());
        assert_eq!(endings.len(), expected, "seed {seed}: {row} {events:?}");
        let Some(ending) = endings.first() else { continue };
        assert_eq!(
            *ending,
            events.last().expect("some"),
            "seed {seed}: nothing after the ending"
        );
        let kind = match row["ended_by"].as_str() {
            Some("timeout") => "session.expired",
            Some("limit") => "session.evicted",
            _ => "session.revoked",
        };
        assert_eq!(
            [
                &ending["type"],
                &ending["occurred_at"],
                &ending["reason"],
                &ending["ended_by"]
            ],
            [
                &json!(kind),
                &row["ended_at"],
                &row["revoked_reason"],
                &row["ended_by"]
            ],
            "seed {seed}"
        );
        let (ended_at, deadline) = (row["ended_at"].as_i64(), row["expires_at"].as_i64());
        assert_eq!(
            ended_at == deadline,
            kind == "session.expired",
            "seed {seed}: {row}"
        );
        assert!(ended_at <= deadline, "seed {seed}: {row}");
    }
    for session in sessions {
        let is_good = server.check(&session.token).await.status == 200;
        assert_eq!(
            is_good,
            look(server, &session.id).await["status"] == "active",
            "seed {seed}"
        );
    }
}

#[tokio::test]
async fn every_ended_session_has_exactly_one_ending_event_whatever_ended_it() {
    let mut kinds_seen = Vec::new();
    for seed in 1..=3 {
        let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut sessions = Vec::new();
        for _ in 0..150 {
            step(&server, &mut dice, &mut sessions).await;
        }
        server.tick().await;
        assert_told_once(&server, &sessions, seed).await;
        kinds_seen.extend(rows(&server, "SELECT DISTINCT revoked_reason FROM sessions"));
    }
    for reason in [
        "logout",
        "logout_all",
        "manual",
        "session_limit_exceeded",
        "idle_timeout",
        "absolute_timeout",
        "user_blocked",
        "credentials_changed",
    ] {
        assert!(
            kinds_seen.contains(&json!({ "revoked_reason": reason })),
            "no run ended one by {reason}"
        );
    }
}
