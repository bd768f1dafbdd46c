//! Users and lists on the service plane: settings, counts, pages, ids in paths, and apps that do not see each other.

use std::collections::HashSet;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::manager::SignIn;
use sessiond::session::AppName;
use sessiond::user::{Tiers, UserId};

use crate::harness::{Reply, TestServer};
use crate::support::{add_app, at, count, get_exactly, ids};

async fn get(server: &TestServer, path: &str) -> Reply {
    server.get(path).key(&server.key).send().await
}

async fn patch(server: &TestServer, path: &str, body: Value) -> Reply {
    server.patch(path, body).key(&server.key).send().await
}

async fn user(server: &TestServer, user_id: &str) -> Value {
    let reply = get(server, &format!("/v1/users/{user_id}")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

/// Starts so many sessions of one user, the oldest first; every third shares its millisecond with the one before.
async fn sign_in_times(server: &TestServer, user_id: &str, times: usize) -> Vec<String> {
    let mut signed_in = Vec::new();
    for number in 0..times {
        if number % 3 != 2 {
            server.advance(1);
        }
        let body = json!({ "user_id": user_id, "tier": "pro" });
        signed_in.push(server.create(body).await.id);
    }
    signed_in
}

/// All ids of a list, page by page; asserts that each page but the last is full.
async fn pages(server: &TestServer, path: &str, limit: usize) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let reply = get(server, &format!("{path}limit={limit}{cursor}")).await;
        let page = ids(&reply);
        let is_last = reply.json["next_cursor"].is_null();
        assert!(
            page.len() == limit || is_last && page.len() < limit,
            "{path}, {limit}: {}",
            page.len()
        );
        all.extend(page);
        match reply.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
    panic!("{path}: the pages never end");
}

// Settings

#[tokio::test]
async fn user_nobody_knows_has_defaults_and_is_no_404() {
    let server = TestServer::start().await;
    let expected = json!({ "user_id": "ada", "tier": null, "max_sessions": null, "effective_max_sessions": 10,
                           "is_blocked": false, "active_count": 0 });
    assert_eq!(user(&server, "ada").await.to_string(), expected.to_string());
    assert_eq!(
        count(&server, "SELECT count(*) FROM users"),
        0,
        "asking registers nobody"
    );
}

#[tokio::test]
async fn patch_leaves_what_is_absent_and_clears_what_is_null() {
    let server = TestServer::start().await;
    let steps = [
        (json!({}), json!([null, null, 10, false])),
        (json!({ "tier": "basic" }), json!(["basic", null, 2, false])),
        (json!({ "max_sessions": 7 }), json!(["basic", 7, 7, false])),
        (json!({}), json!(["basic", 7, 7, false])),
        (json!({ "tier": "pro" }), json!(["pro", 7, 7, false])),
        (json!({ "is_blocked": true }), json!(["pro", 7, 7, true])),
        (
            json!({ "max_sessions": null }),
            json!(["pro", null, 10_000, true]),
        ),
        (json!({ "tier": null }), json!([null, null, 10, true])),
        (
            json!({ "tier": "plus", "max_sessions": 0, "is_blocked": false }),
            json!(["plus", 0, 0, false]),
        ),
        (
            json!({ "tier": null, "max_sessions": null }),
            json!([null, null, 10, false]),
        ),
        (
            json!({ "max_sessions": 10_000 }),
            json!([null, 10_000, 10_000, false]),
        ),
    ];
    for (body, expected) in steps {
        let reply = patch(&server, "/v1/users/ada", body.clone()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text);
        let fields = ["tier", "max_sessions", "effective_max_sessions", "is_blocked"];
        assert_eq!(
            json!(fields.map(|field| reply.json[field].clone())),
            expected,
            "{body}"
        );
        assert_eq!(user(&server, "ada").await, reply.json, "{body}: as read again");
    }
}

#[tokio::test]
async fn null_clears_a_block_as_it_clears_the_rest() {
    let server = TestServer::start().await;
    assert_eq!(
        patch(&server, "/v1/users/ada", json!({ "is_blocked": true }))
            .await
            .json["is_blocked"],
        true
    );

    let reply = patch(&server, "/v1/users/ada", json!({ "is_blocked": null })).await;

    assert_eq!((reply.status, &reply.json["is_blocked"]), (200, &json!(false)));
    server.sign_in("ada").await;
}

#[tokio::test]
async fn wrong_settings_are_refused_and_nothing_is_changed() {
    let server = TestServer::start().await;
    let cases = [
        (json!({ "max_sessions": -1 }), vec!["max_sessions"]),
        (json!({ "max_sessions": 10_001 }), vec!["max_sessions"]),
        (json!({ "max_sessions": 4_294_967_296_u64 }), vec!["max_sessions"]),
        (json!({ "max_sessions": 1.5 }), vec!["max_sessions"]),
        (json!({ "max_sessions": "3" }), vec!["max_sessions"]),
        (json!({ "tier": "gold" }), vec!["tier"]),
        (json!({ "tier": "" }), vec!["tier"]),
        (json!({ "tier": 1 }), vec!["tier"]),
        (json!({ "is_blocked": "yes" }), vec!["is_blocked"]),
        (json!({ "is_blocked": 1 }), vec!["is_blocked"]),
        (json!({ "active_count": 0 }), vec!["active_count"]),
        (json!({ "user_id": "ada" }), vec!["user_id"]),
        (
            json!({ "tier": "gold", "max_sessions": 10_001, "is_blocked": true }),
            vec!["tier", "max_sessions"],
        ),
        (json!([]), vec!["body"]),
    ];
    for (body, fields) in cases {
        let reply = patch(&server, "/v1/users/ada", body.clone()).await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, fields),
            "{body}: {}",
            reply.text
        );
    }
    assert_eq!(count(&server, "SELECT count(*) FROM users"), 0);
    assert_eq!(count(&server, "SELECT count(*) FROM events"), 0);
}

#[tokio::test]
async fn settings_survive_a_restart_and_follow_the_configured_tiers() {
    let server = TestServer::start().await;
    patch(&server, "/v1/users/ada", json!({ "tier": "basic" })).await;
    patch(
        &server,
        "/v1/users/bob",
        json!({ "max_sessions": 4, "is_blocked": true }),
    )
    .await;
    let mut stopped = server.stop().await;
    // Without `basic`, and with another default.
    stopped.config.tiers = Tiers::new("solo".into(), [("solo".to_owned(), 1)].into()).expect("tiers");

    let server = stopped.restart().await;

    let ada = user(&server, "ada").await;
    assert_eq!(
        (&ada["tier"], &ada["effective_max_sessions"]),
        (&json!("basic"), &json!(1))
    );
    let bob = user(&server, "bob").await;
    let fields = ["max_sessions", "effective_max_sessions", "is_blocked"].map(|field| bob[field].clone());
    assert_eq!(json!(fields), json!([4, 4, true]));
    assert_eq!(user(&server, "eve").await["effective_max_sessions"], 1);
}

#[tokio::test]
async fn active_count_counts_what_can_be_used_now() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let revoked = server.sign_in("ada").await;
    server.sign_in("ada").await;
    server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 1 }))
        .await;
    server.sign_in("bob").await;
    server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&shop_key)
        .send()
        .await;
    assert_eq!(user(&server, "ada").await["active_count"], 3);
    let path = format!("/v1/sessions/{}", revoked.id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    assert_eq!(user(&server, "ada").await["active_count"], 2);
    server.advance(1);
    assert_eq!(user(&server, "ada").await["active_count"], 1);
}

// One session

#[tokio::test]
async fn patched_session_keeps_what_is_absent_and_replaces_auth_whole() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "auth": { "a": 1, "b": { "c": 2 } } }))
        .await;
    let path = format!("/v1/sessions/{}", ada.id);
    let steps = [
        (
            json!({ "name": "Desk" }),
            json!(["Desk", false, { "a": 1, "b": { "c": 2 } }]),
        ),
        (
            json!({ "is_trusted": true }),
            json!(["Desk", true, { "a": 1, "b": { "c": 2 } }]),
        ),
        (json!({ "auth": { "b": {} } }), json!(["Desk", true, { "b": {} }])),
        (json!({}), json!(["Desk", true, { "b": {} }])),
        (
            json!({ "name": null, "auth": null, "is_trusted": false }),
            json!([null, false, null]),
        ),
    ];
    for (body, expected) in steps {
        let reply = patch(&server, &path, body.clone()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text);
        let shown = |json: &Value| json!(["name", "is_trusted", "auth"].map(|field| json[field].clone()));
        assert_eq!(shown(&reply.json), expected, "{body}");
        assert_eq!(
            shown(&get(&server, &path).await.json),
            expected,
            "{body}: as read again"
        );
        assert_eq!(
            shown(&server.check(&ada.token).await.json),
            expected,
            "{body}: as checked"
        );
    }
}

#[tokio::test]
async fn wrong_patch_of_a_session_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let ada = server.create(json!({ "user_id": "ada", "name": "Desk" })).await;
    let path = format!("/v1/sessions/{}", ada.id);
    let long = json!({ "a": "x".repeat(8 * 1024) });
    let cases = [
        ("name", json!({ "name": "" })),
        ("name", json!({ "name": "x".repeat(101) })),
        ("name", json!({ "name": "a\tb" })),
        ("auth", json!({ "name": "x", "auth": long })),
        ("auth", json!({ "name": "x", "auth": [] })),
        ("is_trusted", json!({ "name": "x", "is_trusted": 1 })),
        ("user_id", json!({ "name": "x", "user_id": "bob" })),
        ("data", json!({ "name": "x", "data": {} })),
    ];
    for (field, body) in cases {
        let reply = patch(&server, &path, body.clone()).await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec![field]),
            "{body}: {}",
            reply.text
        );
    }
    assert_eq!(get(&server, &path).await.json["name"], "Desk");
}

// Lists

#[tokio::test]
async fn status_chooses_and_counts_stay_those_of_the_whole_list() {
    let server = TestServer::start().await;
    let revoked = server.sign_in("ada").await.id;
    server.advance(1);
    let swept = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 10 }))
        .await
        .id;
    server.advance(1);
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 20 }))
        .await
        .id;
    server.advance(1);
    let active = server.sign_in("ada").await.id;
    server.sign_in("bob").await;
    let path = format!("/v1/sessions/{revoked}");
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    server.advance(10);
    server.tick().await;
    server.advance(10);
    let all = vec![active.clone(), overdue.clone(), swept.clone(), revoked.clone()];
    for (query, expected) in [
        ("", vec![active.clone()]),
        ("status=active&", vec![active.clone()]),
        ("status=ended&", vec![overdue, swept, revoked]),
        ("status=all&", all),
    ] {
        for path in ["/v1/users/ada/sessions?", "/v1/sessions?user_id=ada&"] {
            for limit in [1, 2, 50] {
                let reply = get(&server, &format!("{path}{query}limit={limit}")).await;
                let counts = (&reply.json["total_count"], &reply.json["active_count"]);
                assert_eq!(
                    counts,
                    (&json!(expected.len()), &json!(1)),
                    "{path}{query}{limit}"
                );
            }
            assert_eq!(
                pages(&server, &format!("{path}{query}"), 2).await,
                expected,
                "{path}{query}"
            );
        }
    }
    let list = get(&server, "/v1/users/ada/sessions?status=all").await;
    let statuses: Vec<&Value> = list.json["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| &s["status"])
        .collect();
    assert_eq!(
        json!(statuses),
        json!(["active", "expired", "expired", "revoked"])
    );
    assert_eq!(list.json["sessions"][0]["is_current"], false);
}

#[tokio::test]
async fn pages_of_any_size_give_each_session_once_newest_sign_in_first() {
    let server = TestServer::start().await;
    let mut newest_first = sign_in_times(&server, "ada", 9).await;
    newest_first.reverse();
    for id in newest_first.iter().step_by(3) {
        assert_eq!(
            server
                .delete(&format!("/v1/sessions/{id}"))
                .key(&server.key)
                .send()
                .await
                .status,
            204
        );
    }
    for path in [
        "/v1/users/ada/sessions?status=all&",
        "/v1/sessions?user_id=ada&status=all&",
        "/v1/sessions?status=all&",
    ] {
        for limit in [1, 2, 3, 4, 8, 9, 10, 200] {
            assert_eq!(
                pages(&server, path, limit).await,
                newest_first,
                "{path}limit={limit}"
            );
        }
    }
    let active: Vec<String> = newest_first
        .iter()
        .enumerate()
        .filter(|(at, _)| at % 3 != 0)
        .map(|(_, id)| id.clone())
        .collect();
    assert_eq!(pages(&server, "/v1/users/ada/sessions?", 2).await, active);
    assert_eq!(pages(&server, "/v1/sessions?", 2).await, active);
}

#[tokio::test]
async fn going_on_by_cursor_neither_repeats_nor_skips_when_the_list_changes() {
    for path in ["/v1/users/ada/sessions?", "/v1/sessions?"] {
        let server = TestServer::start().await;
        let mut newest_first = sign_in_times(&server, "ada", 6).await;
        newest_first.reverse();
        let first = get(&server, &format!("{path}limit=2")).await;
        assert_eq!(ids(&first), newest_first[..2]);
        let cursor = first.json["next_cursor"].as_str().expect("a cursor");

        server.sign_in("ada").await;
        // The last one shown, which the cursor stands on, and one still to come.
        for ended in [1, 3] {
            let path = format!("/v1/sessions/{}", newest_first[ended]);
            assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
        }

        let rest = get(&server, &format!("{path}limit=200&cursor={cursor}")).await;
        assert_eq!(
            ids(&rest),
            [&newest_first[2..3], &newest_first[4..]].concat(),
            "{path}"
        );
        assert_eq!(rest.json["next_cursor"], Value::Null);
    }
}

#[tokio::test]
async fn page_has_50_unless_asked_and_200_at_most() {
    let server = TestServer::start().await;
    let app = AppName::default_app();
    let mut creates = tokio::task::JoinSet::new();
    for _ in 0..201 {
        let (manager, app) = (Arc::clone(&server.manager), app.clone());
        let sign_in = SignIn {
            user_id: UserId::parse("ada"),
            tier: Some("pro".into()),
            ..SignIn::default()
        };
        creates.spawn(async move { manager.create(&app, sign_in).await.expect("created") });
    }
    let created: HashSet<String> = creates
        .join_all()
        .await
        .iter()
        .map(|signed_in| signed_in.session.id.to_string())
        .collect();
    for path in [
        "/v1/users/ada/sessions?",
        "/v1/sessions?",
        "/v1/sessions?user_id=ada&",
    ] {
        assert_eq!(ids(&get(&server, path).await).len(), 50, "{path}");
        let all = pages(&server, path, 200).await;
        assert_eq!(all.len(), 201, "{path}");
        assert!(
            all.is_sorted_by(|newer, older| newer > older),
            "{path}: all of one millisecond, by id"
        );
        assert_eq!(all.into_iter().collect::<HashSet<_>>(), created, "{path}");
        for wrong in ["0", "201", "-1", "1.5", "", "ten", "18446744073709551616"] {
            let reply = get(&server, &format!("{path}limit={wrong}")).await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["limit"]),
                "{path}limit={wrong}"
            );
        }
    }
}

#[tokio::test]
async fn wrong_list_parameters_are_refused_by_name() {
    let server = TestServer::start().await;
    let lists = [
        "/v1/users/ada/sessions",
        "/v1/sessions",
        "/v1/sessions?user_id=ada",
    ];
    let cases = [
        ("status", "status=revoked"),
        ("status", "status="),
        ("status", "status=active&status=all"),
        ("cursor", "cursor="),
        ("cursor", "cursor=AAAA"),
        ("cursor", "cursor=not*base64"),
        ("offset", "offset=5"),
        ("page", "page=2"),
    ];
    for path in lists {
        let separator = if path.contains('?') { '&' } else { '?' };
        for (field, query) in cases {
            let reply = get(&server, &format!("{path}{separator}{query}")).await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec![field]),
                "{path}, {query}"
            );
        }
    }
    for (field, query) in [
        ("anonymous", "anonymous=yes"),
        ("anonymous", "anonymous=true&user_id=ada"),
        ("user_id", "user_id="),
        ("user_id", "user_id=."),
        ("user_id", "user_id=%ff"),
    ] {
        let reply = get(&server, &format!("/v1/sessions?{query}")).await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec![field]),
            "{query}"
        );
    }
}

#[tokio::test]
async fn list_of_an_app_has_users_or_nobodys_sessions_and_no_counts() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await.id;
    let nobody = server.create(json!({})).await.id;
    server.advance(1);
    let bob = server.sign_in("bob").await.id;
    let nobody_too = server.create(json!({})).await.id;

    let users = get(&server, "/v1/sessions").await;
    let nobodys = get(&server, "/v1/sessions?anonymous=true").await;

    assert_eq!(ids(&users), [bob.clone(), ada.clone()]);
    assert_eq!(ids(&nobodys), [nobody_too.clone(), nobody.clone()]);
    let fields: Vec<&String> = users.json.as_object().expect("an object").keys().collect();
    assert_eq!(
        fields,
        ["sessions", "next_cursor"],
        "counting a whole app is not bounded work"
    );
    assert_eq!(
        ids(&get(&server, "/v1/sessions?anonymous=false").await),
        [bob, ada]
    );
    assert_eq!(
        pages(&server, "/v1/sessions?anonymous=true&", 1).await,
        [nobody_too, nobody]
    );
}

#[tokio::test]
async fn lists_show_uses_that_are_not_written_yet() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let ada = server.sign_in("ada").await;
    server.advance(9);
    let body = json!({ "token": ada.token, "ip_address": "192.0.2.7" });
    assert_eq!(
        server
            .post("/v1/sessions/check", body)
            .key(&server.key)
            .send()
            .await
            .json["active"],
        true
    );
    for path in ["/v1/users/ada/sessions", "/v1/sessions"] {
        let reply = get(&server, path).await;
        let session = &reply.json["sessions"][0];
        assert_eq!(
            (&session["last_activity_at"], &session["ip_address"]),
            (&json!(at(9)), &json!("192.0.2.7")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn evicted_and_listed_sessions_are_the_same_object() {
    let server = TestServer::start().await;
    patch(&server, "/v1/users/ada", json!({ "max_sessions": 1 })).await;
    let first = server
        .create(json!({ "user_id": "ada", "user_agent": "curl/8.0", "auth": { "a": 1 } }))
        .await;
    server.advance(1);

    let second = server.sign_in("ada").await;

    let list = get(&server, "/v1/users/ada/sessions?status=ended").await;
    let one = get(&server, &format!("/v1/sessions/{}", first.id)).await;
    assert_eq!(
        list.json["sessions"][0].to_string(),
        second.body["evicted"][0].to_string()
    );
    assert_eq!(list.json["sessions"][0].to_string(), one.json.to_string());
}

// User ids in paths

#[tokio::test]
async fn every_user_id_round_trips_through_the_path() {
    let server = TestServer::start().await;
    let long = "x".repeat(255);
    // Those that a careless decoding would make one stand beside each other.
    let cases = [
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("a%252Fb", "a%25252Fb"),
        ("/", "%2F"),
        ("a/../b", "a%2F..%2Fb"),
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("a%2Bb", "a%252Bb"),
        ("100%", "100%25"),
        ("å", "%C3%A5"),
        ("a\u{30a}", "a%CC%8A"),
        ("🔑", "%F0%9F%94%91"),
        ("a?b#c", "a%3Fb%23c"),
        ("a&b=c;d,e", "a&b=c;d,e"),
        ("Ada", "Ada"),
        ("ada", "%61%64%61"),
        (" ", "%20"),
        ("...", "..."),
        ("sessions", "sessions"),
        (&long, &long),
    ];
    for (user_id, _) in cases {
        server.sign_in(user_id).await;
    }
    for (user_id, segment) in cases {
        let path = format!("/v1/users/{segment}");
        let reply = patch(&server, &path, json!({ "max_sessions": 9 })).await;
        assert_eq!(
            (reply.status, &reply.json["user_id"]),
            (200, &json!(user_id)),
            "{segment}: {}",
            reply.text
        );
        let known = get(&server, &path).await;
        assert_eq!(
            (&known.json["active_count"], &known.json["max_sessions"]),
            (&json!(1), &json!(9)),
            "{segment}"
        );
        let list = get(&server, &format!("{path}/sessions")).await;
        assert_eq!(list.json["sessions"][0]["user_id"], user_id, "{segment}");
        let ended = server
            .delete(&format!("{path}/sessions"))
            .key(&server.key)
            .send()
            .await;
        assert_eq!(
            ended.json,
            json!({ "revoked_count": 1 }),
            "{segment}: exactly that one"
        );
    }
    assert_eq!(count(&server, "SELECT count(*) FROM users"), 20);
}

#[tokio::test]
async fn user_id_that_is_none_is_refused_on_every_route() {
    let server = TestServer::start().await;
    let too_long = "x".repeat(256);
    let segments = [
        "%zz",
        "%",
        "%2",
        "a%2",
        "%ff",
        "%C3",
        "%C0%AF",
        "%ED%A0%80",
        "%00",
        "a%0Ab",
        "%7F",
        "%C2%85",
        &too_long,
    ];
    for segment in segments {
        for (method, rest) in [
            (Method::GET, ""),
            (Method::PATCH, ""),
            (Method::GET, "/sessions"),
            (Method::DELETE, "/sessions"),
        ] {
            let path = format!("/v1/users/{segment}{rest}");
            let reply = server
                .request(method.clone(), &path)
                .key(&server.key)
                .json(json!({}))
                .send()
                .await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["user_id"]),
                "{method} {path}: {}",
                reply.text
            );
        }
    }
}

#[tokio::test]
async fn dots_alone_are_no_user_id_however_they_are_written() {
    let server = TestServer::start().await;
    for segment in [".", "..", "%2e", "%2E", "%2e%2E", ".%2e"] {
        for rest in ["", "/sessions"] {
            let (status, body) =
                get_exactly(&server, &format!("/v1/users/{segment}{rest}"), &server.key).await;
            assert_eq!(
                (status, &body["errors"][0]["field"]),
                (422, &json!("user_id")),
                "{segment}{rest}: {body}"
            );
        }
    }
    for path in ["/v1/users/", "/v1/users//sessions", "/v1/users", "/v1/users/a/b"] {
        let (status, body) = get_exactly(&server, path, &server.key).await;
        assert_eq!(
            (status, &body["code"]),
            (404, &json!("not_found")),
            "{path}: {body}"
        );
    }
}

#[tokio::test]
async fn user_ids_in_paths_are_read_below_a_base_path_too() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth/v1".into()).await;
    server.sign_in("a/b").await;
    let reply = get(&server, "/v1/users/a%2Fb/sessions").await;
    assert_eq!(
        (reply.status, &reply.json["sessions"][0]["user_id"]),
        (200, &json!("a/b")),
        "{}",
        reply.text
    );
    let (status, _) = get_exactly(&server, "/auth/v1/v1/users/..", &server.key).await;
    assert_eq!(status, 422);
}

// Apps

#[tokio::test]
async fn sessions_of_one_app_do_not_exist_for_another() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    server.create(json!({})).await;
    patch(
        &server,
        "/v1/users/ada",
        json!({ "tier": "basic", "max_sessions": 3 }),
    )
    .await;
    let path = format!("/v1/sessions/{}", ada.id);
    let of_shop = |method: Method, path: &str| server.request(method, path).key(&shop_key);

    for path in [path.clone(), format!("{path}?user_id=ada")] {
        of_shop(Method::GET, &path)
            .send()
            .await
            .assert_problem(404, "not_found");
        of_shop(Method::DELETE, &path)
            .send()
            .await
            .assert_problem(404, "not_found");
    }
    of_shop(Method::PATCH, &path)
        .json(json!({}))
        .send()
        .await
        .assert_problem(404, "not_found");
    of_shop(Method::POST, &format!("{path}/touch"))
        .send()
        .await
        .assert_problem(404, "not_found");
    for list in [
        "/v1/sessions",
        "/v1/sessions?anonymous=true",
        "/v1/sessions?status=all",
        "/v1/users/ada/sessions",
    ] {
        assert_eq!(
            ids(&of_shop(Method::GET, list).send().await),
            Vec::<String>::new(),
            "{list}"
        );
    }
    let settings = of_shop(Method::GET, "/v1/users/ada").send().await.json;
    let fields = ["tier", "max_sessions", "is_blocked", "active_count"].map(|field| settings[field].clone());
    assert_eq!(json!(fields), json!([null, null, false, 0]));
    let ended = of_shop(Method::DELETE, "/v1/users/ada/sessions").send().await;
    assert_eq!(ended.json, json!({ "revoked_count": 0 }));
    let ended = of_shop(Method::DELETE, "/v1/sessions").send().await;
    assert_eq!(ended.json, json!({ "revoked_count": 0, "more": false }));
    let blocked = of_shop(Method::PATCH, "/v1/users/ada")
        .json(json!({ "is_blocked": true }))
        .send()
        .await;
    assert_eq!(blocked.json["is_blocked"], true);
    let check = of_shop(Method::POST, "/v1/sessions/check")
        .json(json!({ "token": ada.token }))
        .send()
        .await;
    assert_eq!(check.json["code"], "invalid_token");

    assert_eq!(
        server.check(&ada.token).await.status,
        200,
        "none of it reached the other app"
    );
    assert_eq!(user(&server, "ada").await["is_blocked"], false);
}

#[tokio::test]
async fn cursor_of_another_apps_list_shows_nothing_of_it() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    sign_in_times(&server, "ada", 3).await;
    let of_shop = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&shop_key)
        .send()
        .await;
    for path in ["/v1/sessions", "/v1/users/ada/sessions"] {
        let own = server.get(&format!("{path}?limit=1")).key(&shop_key).send().await;
        assert_eq!(
            ids(&own),
            [of_shop.json["session"]["id"].as_str().expect("an id")]
        );
        let theirs = get(&server, &format!("{path}?limit=1")).await;
        let cursor = theirs.json["next_cursor"].as_str().expect("a cursor");
        let reply = server
            .get(&format!("{path}?cursor={cursor}"))
            .key(&shop_key)
            .send()
            .await;
        assert_eq!(
            ids(&reply),
            Vec::<String>::new(),
            "{path}: the shop's is newer than the cursor"
        );
    }
}

#[tokio::test]
async fn key_of_an_app_that_is_no_longer_configured_is_refused() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    assert_eq!(server.get("/v1/sessions").key(&shop_key).send().await.status, 200);
    let mut stopped = server.stop().await;
    stopped
        .config
        .apps
        .remove(&AppName::parse("shop").expect("a name"));

    let server = stopped.restart().await;

    server
        .get("/v1/sessions")
        .key(&shop_key)
        .send()
        .await
        .assert_problem(401, "invalid_api_key");
}

#[tokio::test]
async fn null_takes_trust_back() {
    let server = TestServer::start().await;
    let path = format!("/v1/sessions/{}", server.sign_in("ada").await.id);
    for (given, expected) in [(json!(true), true), (json!(null), false)] {
        let reply = patch(&server, &path, json!({ "is_trusted": given })).await;
        assert_eq!(
            (reply.status, &reply.json["is_trusted"]),
            (200, &json!(expected)),
            "{}",
            reply.text
        );
    }
}
