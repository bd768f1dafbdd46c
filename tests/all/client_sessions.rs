//! Sessions whose id the client chose: started once, used again, ended once; told apart by app and by nothing else.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::Config;
use sessiond::session::{AppName, OnLimit};

use crate::harness::{FIREFOX_ON_LINUX, Reply, Request, TestServer, events};
use crate::support::{DAY, add_app, at, at_once, count, ids, rows, with_status};
use crate::wire::{assert_unchanged, dump, exchange};

/// Both ends of the range, what is next to them, and some between.
const GOOD: [&str; 9] = [
    "0",
    "1",
    "-1",
    "42",
    "-9007199254740993",
    "9223372036854775806",
    "9223372036854775807",
    "-9223372036854775807",
    "-9223372036854775808",
];

fn call<'s>(server: &'s TestServer, method: Method, id: &str) -> Request<'s> {
    server
        .request(method, &format!("/v1/client-sessions/{id}"))
        .key(&server.key)
}

async fn put(server: &TestServer, id: &str, body: Value) -> Reply {
    call(server, Method::PUT, id).json(body).send().await
}

async fn get(server: &TestServer, id: &str) -> Reply {
    call(server, Method::GET, id).send().await
}

async fn head(server: &TestServer, id: &str) -> u16 {
    call(server, Method::HEAD, id).send().await.status
}

async fn delete(server: &TestServer, id: &str) -> Reply {
    call(server, Method::DELETE, id).send().await
}

fn policy(config: &mut Config) -> &mut sessiond::config::AppConfig {
    let policy = config.apps.get_mut(&AppName::default_app());
    policy.expect("the app is always there")
}

fn kinds(server: &TestServer) -> Vec<String> {
    events(&server.database())
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}

#[track_caller]
fn id_of(reply: &Reply) -> String {
    assert!([200, 201].contains(&reply.status), "{}", reply.text);
    reply.json["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn created_is_there_until_it_is_destroyed() {
    let server = TestServer::start().await;
    assert_eq!(head(&server, "7").await, 404, "not yet");
    get(&server, "7").await.assert_problem(404, "not_found");

    let created = put(&server, "7", json!({})).await;

    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.json["client_session_id"], "7");
    assert_eq!(
        (
            &created.json["status"],
            &created.json["user_id"],
            &created.json["is_current"]
        ),
        (&json!("active"), &Value::Null, &json!(false))
    );
    assert_eq!(head(&server, "7").await, 200);
    assert_eq!(get(&server, "7").await.json, created.json);
    let ended = delete(&server, "7").await;
    assert_eq!((ended.status, ended.text.as_str()), (204, ""));
    assert_eq!(head(&server, "7").await, 404);
    get(&server, "7").await.assert_problem(404, "not_found");
    assert_eq!(kinds(&server), ["session.created", "session.revoked"]);
}

#[tokio::test]
async fn body_may_be_missing() {
    let server = TestServer::start().await;
    assert_eq!(call(&server, Method::PUT, "7").send().await.status, 201);
    assert_eq!(call(&server, Method::PUT, "7").send().await.status, 200);
}

#[tokio::test]
async fn negative_ids_and_both_ends_of_the_range_round_trip_as_text() {
    let server = TestServer::start().await;
    let mut made = Vec::new();
    for id in GOOD {
        let created = put(&server, id, json!({})).await;
        assert_eq!(
            (created.status, &created.json["client_session_id"]),
            (201, &json!(id))
        );
        made.push(id_of(&created));
    }

    for (id, own) in GOOD.into_iter().zip(&made) {
        let found = get(&server, id).await;
        assert_eq!(id_of(&found), *own, "{id}");
        assert_eq!(found.json["client_session_id"], id);
    }
    let stored = rows(&server, "SELECT client_session_id AS n FROM sessions ORDER BY id");
    assert_eq!(
        stored,
        GOOD.map(|id| json!({ "n": id.parse::<i64>().expect("a number") }))
    );
}

#[tokio::test]
async fn what_is_no_64_bit_number_in_its_digits_is_422_whatever_the_call() {
    let server = TestServer::start().await;
    put(&server, "1", json!({})).await;
    put(&server, "-1", json!({})).await;
    let before = dump(&server).await;
    let bad = [
        "x",
        "1x",
        "1.0",
        "1e3",
        "0x1",
        "+1",
        "01",
        "-01",
        "-0",
        "00",
        "--1",
        "-",
        "%31",
        "%2D1",
        "1%20",
        "%201",
        "1_0",
        "1,0",
        "%D9%A1",
        "%00",
        "%ff",
        "%",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "1000000000000000000000000000000",
        "null",
        "1;x",
    ];
    for id in bad {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            // By hand, as a client would tidy the path up.
            let request = format!(
                "{method} /v1/client-sessions/{id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
                server.key
            );
            let answer = exchange(&server, request.as_bytes()).await.expect("an answer");
            assert_eq!(answer.status, 422, "{method} {id}: {}", answer.body);
            assert!(
                method == "HEAD" || answer.body.contains(r#""field":"client_session_id""#),
                "{method} {id}: {}",
                answer.body
            );
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn same_id_in_two_apps_is_two_sessions() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let shop_key = server.key_of("shop").await;
    let shop = |method: Method| server.request(method, "/v1/client-sessions/7").key(&shop_key);

    let (own, other) = (put(&server, "7", json!({})).await, shop(Method::PUT).send().await);

    assert_eq!((own.status, other.status), (201, 201));
    assert_ne!(id_of(&own), id_of(&other));
    assert_eq!(
        (&own.json["app"], &other.json["app"]),
        (&json!("default"), &json!("shop"))
    );
    assert_eq!(delete(&server, "7").await.status, 204);
    assert_eq!(id_of(&shop(Method::GET).send().await), id_of(&other));
    assert_eq!(shop(Method::DELETE).send().await.status, 204);
}

#[tokio::test]
async fn destroying_an_unknown_one_is_404_and_writes_nothing() {
    let server = TestServer::start().await;
    put(&server, "7", json!({})).await;
    delete(&server, "7").await;
    let before = dump(&server).await;

    for id in ["7", "8", "-7"] {
        delete(&server, id).await.assert_problem(404, "not_found");
    }

    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn ending_takes_reason_and_actor() {
    let server = TestServer::start().await;
    let id = id_of(&put(&server, "7", json!({})).await);
    let path = "/v1/client-sessions/7?reason=kiosk_closed&ended_by=operator";
    assert_eq!(server.delete(path).key(&server.key).send().await.status, 204);

    let session = server
        .get(&format!("/v1/sessions/{id}"))
        .key(&server.key)
        .send()
        .await;

    assert_eq!(
        (&session.json["revoked_reason"], &session.json["ended_by"]),
        (&json!("kiosk_closed"), &json!("operator"))
    );
    let told = rows(
        &server,
        "SELECT reason, ended_by, client_session_id AS n FROM events WHERE type = 'session.revoked'",
    );
    assert_eq!(
        told,
        [json!({ "reason": "kiosk_closed", "ended_by": "operator", "n": 7 })]
    );
}

#[tokio::test]
async fn id_is_free_again_after_the_ending() {
    let server = TestServer::start().await;
    let first = id_of(&put(&server, "7", json!({ "data": { "a": 1 } })).await);
    delete(&server, "7").await;

    let second = put(&server, "7", json!({})).await;

    assert_eq!(second.status, 201, "{}", second.text);
    assert_ne!(id_of(&second), first);
    assert_eq!(second.json["data_version"], 0, "with nothing of the first");
    assert_eq!(id_of(&get(&server, "7").await), id_of(&second));
}

#[tokio::test]
async fn putting_it_again_uses_it_and_looking_does_not() {
    let server = TestServer::start().await;
    let id = id_of(&put(&server, "7", json!({ "ip_address": "203.0.113.7" })).await);
    server.advance(DAY);

    assert_eq!(get(&server, "7").await.json["last_activity_at"], at(0));
    assert_eq!(head(&server, "7").await, 200);
    assert_eq!(get(&server, "7").await.json["expires_at"], at(7 * DAY));
    let again = put(&server, "7", json!({ "ip_address": "198.51.100.9" })).await;

    assert_eq!((again.status, id_of(&again)), (200, id));
    let fields = ["last_activity_at", "expires_at", "ip_address", "last_ip_address"];
    let shown = |reply: &Reply| json!(fields.map(|field| reply.json[field].clone()));
    let expected = json!([at(DAY), at(8 * DAY), "203.0.113.7", "198.51.100.9"]);
    assert_eq!(shown(&again), expected, "after its own use");
    assert_eq!(shown(&get(&server, "7").await), expected, "before it is written");
    server.tick().await;
    assert_eq!(shown(&get(&server, "7").await), expected, "and after");
    server.advance(7 * DAY - 1);
    assert_eq!(head(&server, "7").await, 200);
    server.advance(1);
    assert_eq!(head(&server, "7").await, 404);
}

#[tokio::test]
async fn use_that_is_not_written_yet_keeps_it_alive() {
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
        let server = TestServer::start().await;
        let id = id_of(&put(&server, "7", json!({ "idle_timeout_secs": 60 })).await);
        server.advance(59);
        assert_eq!(put(&server, "7", json!({})).await.status, 200);
        server.advance(59);

        let reply = call(&server, method.clone(), "7").send().await;

        assert!([200, 204].contains(&reply.status), "{method}: {}", reply.text);
        let session = server.get(&format!("/v1/sessions/{id}")).key(&server.key);
        let expected = if method == Method::DELETE {
            "revoked"
        } else {
            "active"
        };
        assert_eq!(session.send().await.json["status"], expected, "{method}");
    }
}

#[tokio::test]
async fn ids_in_paths_are_found_below_a_base_path() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth/x".into()).await;
    let created = put(&server, "-7", json!({})).await;
    assert_eq!(
        (created.status, &created.json["client_session_id"]),
        (201, &json!("-7"))
    );
    assert_eq!(put(&server, "%37", json!({})).await.status, 422);
    let path = format!("/v1/sessions/{}/identities/a%2Fb", id_of(&created));
    let identity = server
        .request(Method::PUT, &path)
        .key(&server.key)
        .json(json!({}));
    assert_eq!(identity.send().await.json["identities"], json!({ "a/b": {} }));
}

#[tokio::test]
async fn existing_one_keeps_everything_but_its_use_whatever_the_body_says() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "name": "Desk", "auth": { "n": 1 }, "data": { "a": 1 } });
    let created = put(&server, "7", body).await;

    let again = put(
        &server,
        "7",
        json!({ "user_id": "bob", "name": "Other", "auth": {}, "data": {}, "tier": "basic", "idle_timeout_secs": 5,
                "user_agent": FIREFOX_ON_LINUX }),
    )
    .await;

    assert_eq!((again.status, &again.json), (200, &created.json));
    assert_eq!(count(&server, "SELECT count(*) FROM users"), 0);
}

#[tokio::test]
async fn body_is_that_of_a_creation() {
    let server = TestServer::start().await;
    let body = json!({
        "user_id": "ada", "user_agent": FIREFOX_ON_LINUX, "ip_address": "193.0.6.139", "name": "Desk",
        "auth": { "tags": ["staff"] }, "data": { "a": 1 }, "idle_timeout_secs": 60, "absolute_timeout_secs": 600,
        "authenticated_at": at(0), "tier": "basic",
    });
    let expected = server.create(body.clone()).await.body["session"].clone();

    let created = put(&server, "7", body).await;

    assert_eq!(created.status, 201, "{}", created.text);
    for (field, value) in expected.as_object().expect("an object") {
        if ["id", "client_session_id", "is_current"].contains(&field.as_str()) {
            continue;
        }
        assert_eq!(created.json[field], *value, "{field}");
    }
    let fields = |value: &Value| -> Vec<String> { value.as_object().expect("one").keys().cloned().collect() };
    assert_eq!(fields(&created.json), fields(&expected));
}

#[tokio::test]
async fn wrong_body_is_422_also_for_one_that_is_there() {
    let server = TestServer::start().await;
    put(&server, "7", json!({})).await;
    let before = dump(&server).await;
    for id in ["7", "8"] {
        for (body, field) in [
            (json!({ "nonsense": 1 }), "nonsense"),
            (json!({ "client_session_id": "7" }), "client_session_id"),
            (json!({ "user_id": "" }), "user_id"),
            (json!({ "tier": "gold" }), "tier"),
            (json!({ "end_ids": ["x"], "user_id": "ada" }), "end_ids"),
            (json!([]), "body"),
        ] {
            let reply = put(&server, id, body.clone()).await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec![field]),
                "{id} {body}: {}",
                reply.text
            );
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn users_limits_hold_for_ids_of_clients_too() {
    let server = TestServer::start_with(|config| policy(config).on_limit = OnLimit::Deny).await;
    let path = "/v1/users/ada";
    let limit = server.patch(path, json!({ "max_sessions": 1 })).key(&server.key);
    assert_eq!(limit.send().await.status, 200);
    let first = id_of(&put(&server, "1", json!({ "user_id": "ada" })).await);

    let refused = put(&server, "2", json!({ "user_id": "ada" })).await;

    refused.assert_problem(409, "session_limit_reached");
    assert_eq!(refused.json["sessions"][0]["id"], first);
    assert_eq!(refused.json["sessions"][0]["client_session_id"], "1");
    assert_eq!(head(&server, "2").await, 404);
    let there = put(&server, "1", json!({ "user_id": "ada" })).await;
    assert_eq!(there.status, 200, "one that is there is no other");
    let chosen = put(&server, "2", json!({ "user_id": "ada", "end_ids": [first] })).await;
    assert_eq!(chosen.status, 201, "{}", chosen.text);
    assert_eq!(head(&server, "1").await, 404);
    let block = server.patch(path, json!({ "is_blocked": true })).key(&server.key);
    assert_eq!(block.send().await.status, 200);
    put(&server, "3", json!({ "user_id": "ada" }))
        .await
        .assert_problem(403, "user_blocked");
}

#[tokio::test]
async fn oldest_sign_in_is_evicted_for_one_with_an_id_of_the_client() {
    let server = TestServer::start().await;
    let limit = server.patch("/v1/users/ada", json!({ "max_sessions": 1 }));
    assert_eq!(limit.key(&server.key).send().await.status, 200);
    put(&server, "1", json!({ "user_id": "ada" })).await;
    server.advance(1);

    assert_eq!(put(&server, "2", json!({ "user_id": "ada" })).await.status, 201);

    assert_eq!((head(&server, "1").await, head(&server, "2").await), (404, 200));
    assert_eq!(
        kinds(&server),
        ["session.created", "session.evicted", "session.created"]
    );
}

#[tokio::test]
async fn no_token_is_told_until_a_user_signs_in_with_it() {
    let server = TestServer::start().await;
    let created = put(&server, "7", json!({})).await;
    for reply in [
        &created,
        &put(&server, "7", json!({})).await,
        &get(&server, "7").await,
    ] {
        assert!(
            !reply.text.contains("sst_") && !reply.text.contains("token"),
            "{}",
            reply.text
        );
        assert!(!reply.headers.contains_key("set-cookie"), "{:?}", reply.headers);
    }
    let path = format!("/v1/sessions/{}/authenticate", id_of(&created));
    let signed_in = server
        .post(&path, json!({ "user_id": "ada" }))
        .key(&server.key)
        .send()
        .await;
    let token = signed_in.json["token"].as_str().expect("a token");
    assert_eq!(server.check(token).await.json["client_session_id"], "7");
    assert_eq!(get(&server, "7").await.json["user_id"], "ada");
}

#[tokio::test]
async fn lists_and_events_show_the_id_as_text() {
    let server = TestServer::start().await;
    let id = id_of(&put(&server, "-9007199254740993", json!({ "user_id": "ada" })).await);
    for path in ["/v1/sessions", "/v1/users/ada/sessions"] {
        let list = server.get(path).key(&server.key).send().await;
        assert_eq!(ids(&list), [id.as_str()], "{path}");
        assert_eq!(
            list.json["sessions"][0]["client_session_id"], "-9007199254740993",
            "{path}"
        );
    }
    let told = rows(&server, "SELECT client_session_id AS n FROM events");
    assert_eq!(told, [json!({ "n": -9_007_199_254_740_993_i64 })]);
}

#[tokio::test]
async fn people_do_not_see_the_id() {
    let server = TestServer::start().await;
    put(&server, "7", json!({ "user_id": "ada" })).await;
    let ada = server.sign_in("ada").await;
    let list = server.get("/v1/me/sessions").bearer(&ada.token).send().await;
    assert_eq!(ids(&list).len(), 2);
    assert!(!list.text.contains("client_session_id"), "{}", list.text);
}

#[tokio::test]
async fn expired_one_is_404_and_the_next_one_comes_after_its_event() {
    for is_swept in [false, true] {
        let server = TestServer::start().await;
        let old = id_of(&put(&server, "7", json!({ "idle_timeout_secs": 60 })).await);
        server.advance(60);
        if is_swept {
            server.tick().await;
        }
        assert_eq!(
            (head(&server, "7").await, delete(&server, "7").await.status),
            (404, 404)
        );
        server.advance(5);

        let new = put(&server, "7", json!({})).await;

        assert_eq!(new.status, 201, "{}", new.text);
        let told: Vec<_> = events(&server.database());
        let expected = [
            ("session.created".to_owned(), Some(old.clone())),
            ("session.expired".to_owned(), Some(old.clone())),
            ("session.created".to_owned(), Some(id_of(&new))),
        ];
        assert_eq!(told, expected, "swept: {is_swept}");
        let session = server
            .get(&format!("/v1/sessions/{old}"))
            .key(&server.key)
            .send()
            .await;
        assert_eq!(
            (&session.json["revoked_reason"], &session.json["ended_at"]),
            (&json!("idle_timeout"), &json!(at(60)))
        );
    }
}

#[tokio::test]
async fn expired_one_of_a_user_at_the_limit_ends_once_and_makes_room() {
    let server = TestServer::start_with(|config| policy(config).on_limit = OnLimit::Deny).await;
    let limit = server.patch("/v1/users/ada", json!({ "max_sessions": 1 }));
    assert_eq!(limit.key(&server.key).send().await.status, 200);
    put(&server, "7", json!({ "user_id": "ada", "idle_timeout_secs": 60 })).await;
    server.advance(60);

    assert_eq!(put(&server, "7", json!({ "user_id": "ada" })).await.status, 201);

    assert_eq!(
        kinds(&server),
        ["session.created", "session.expired", "session.created"]
    );
}

#[tokio::test]
async fn app_with_as_many_as_it_may_have_takes_no_more_until_one_ends() {
    let server = TestServer::start_with(|config| {
        add_app(config, "shop");
        policy(config).client_sessions_max = 2;
    })
    .await;
    let shop_key = server.key_of("shop").await;
    put(&server, "1", json!({})).await;
    put(&server, "2", json!({ "idle_timeout_secs": 60 })).await;

    let refused = put(&server, "3", json!({})).await;

    refused.assert_problem(409, "session_limit_reached");
    assert_eq!(
        refused.json.get("sessions"),
        None,
        "other people's are not listed"
    );
    assert_eq!(kinds(&server).len(), 2);
    assert_eq!(
        put(&server, "1", json!({})).await.status,
        200,
        "one that is there"
    );
    server.sign_in("ada").await;
    let elsewhere = server
        .request(Method::PUT, "/v1/client-sessions/1")
        .key(&shop_key);
    assert_eq!(elsewhere.send().await.status, 201, "another app's");
    assert_eq!(delete(&server, "1").await.status, 204);
    assert_eq!(put(&server, "3", json!({})).await.status, 201, "after an ending");
    put(&server, "4", json!({}))
        .await
        .assert_problem(409, "session_limit_reached");
    server.advance(60);
    assert_eq!(
        put(&server, "2", json!({})).await.status,
        201,
        "in the place of its own"
    );
    put(&server, "4", json!({}))
        .await
        .assert_problem(409, "session_limit_reached");
}

#[tokio::test]
async fn room_for_ids_of_clients_is_counted_anew_after_a_restart() {
    let server = TestServer::start_with(|config| policy(config).client_sessions_max = 2).await;
    put(&server, "1", json!({})).await;
    put(&server, "2", json!({ "idle_timeout_secs": 60 })).await;
    put(&server, "2", json!({})).await;
    let server = server.stop().await.restart().await;

    put(&server, "3", json!({}))
        .await
        .assert_problem(409, "session_limit_reached");
    server.advance(60);
    server.tick().await;
    assert_eq!(put(&server, "3", json!({})).await.status, 201);
    put(&server, "4", json!({}))
        .await
        .assert_problem(409, "session_limit_reached");
    let end_all = server.delete("/v1/sessions").key(&server.key).send().await;
    assert_eq!(end_all.json["revoked_count"], 2);
    for id in ["4", "5"] {
        assert_eq!(put(&server, id, json!({})).await.status, 201, "{id}");
    }
}

#[tokio::test]
async fn calls_need_an_api_key() {
    let server = TestServer::start().await;
    put(&server, "7", json!({ "user_id": "ada" })).await;
    let ada = server.sign_in("ada").await;
    let before = dump(&server).await;
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
        let request = || server.request(method.clone(), "/v1/client-sessions/7");
        for reply in [
            request().send().await,
            request().bearer(&ada.token).send().await,
            request().cookie(&ada.token).same_origin().send().await,
        ] {
            assert_eq!(reply.status, 401, "{method}: {}", reply.text);
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

// At once

#[tokio::test]
async fn of_parallel_first_calls_one_starts_the_session() {
    let server = TestServer::start().await;

    let replies =
        at_once((0..100).map(|_| call(&server, Method::PUT, "7").json(json!({ "user_id": "ada" })))).await;

    assert_eq!((with_status(&replies, 201), with_status(&replies, 200)), (1, 99));
    let first = id_of(&replies[0]);
    assert!(replies.iter().all(|reply| id_of(reply) == first));
    assert_eq!(kinds(&server), ["session.created"]);
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 1);
}

#[tokio::test]
async fn of_parallel_destroys_one_ends_the_session() {
    let server = TestServer::start().await;
    for round in 0..30 {
        let id = round.to_string();
        put(&server, &id, json!({})).await;

        let mut replies = at_once((0..2).map(|_| call(&server, Method::DELETE, &id))).await;

        replies.sort_by_key(|reply| reply.status);
        assert_eq!(
            (replies[0].status, replies[1].status),
            (204, 404),
            "round {round}"
        );
    }
    let endings = "SELECT count(*) FROM events WHERE type = 'session.revoked'";
    assert_eq!(count(&server, endings), 30);
}

#[tokio::test]
async fn destroy_that_meets_a_put_ends_the_old_one_and_never_a_new_one() {
    let server = TestServer::start().await;
    for round in 0..30 {
        let id = round.to_string();
        let old = id_of(&put(&server, &id, json!({})).await);

        let replies = at_once([
            call(&server, Method::DELETE, &id),
            call(&server, Method::PUT, &id),
        ])
        .await;

        assert_eq!(replies[0].status, 204, "round {round}: {}", replies[0].text);
        match replies[1].status {
            // It came first, and used the one that ended then.
            200 => {
                assert_eq!(id_of(&replies[1]), old);
                assert_eq!(head(&server, &id).await, 404);
            }
            201 => assert_eq!(id_of(&get(&server, &id).await), id_of(&replies[1])),
            other => panic!("round {round}: {other}"),
        }
    }
}

#[tokio::test]
async fn parallel_first_calls_of_different_ids_never_exceed_what_the_app_may_have() {
    let server = TestServer::start_with(|config| policy(config).client_sessions_max = 5).await;

    let replies = at_once((0..40).map(|id| call(&server, Method::PUT, &id.to_string()))).await;

    assert_eq!((with_status(&replies, 201), with_status(&replies, 409)), (5, 35));
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 5);
}
