//! Named identities of a session over HTTP, and the root one, `auth`, beside them with the tags that checks demand.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Reply, Request, SignedIn, TestServer, events};
use crate::support::{DAY, UNKNOWN_ID, add_app, at, at_once, with_status};
use crate::wire::{assert_unchanged, dump};

/// The most that all of a session's identities may have together, in bytes of JSON without spaces.
const LEN_MAX: usize = 8 * 1024;

fn put<'s>(server: &'s TestServer, id: &str, key: &str, body: Value) -> Request<'s> {
    server
        .request(Method::PUT, &format!("/v1/sessions/{id}/identities/{key}"))
        .key(&server.key)
        .json(body)
}

fn delete<'s>(server: &'s TestServer, id: &str, key: &str) -> Request<'s> {
    server
        .delete(&format!("/v1/sessions/{id}/identities/{key}"))
        .key(&server.key)
}

async fn get(server: &TestServer, path: &str) -> Reply {
    server.get(path).key(&server.key).send().await
}

/// The session's identities byte for byte, as an answer shows them.
#[track_caller]
fn shown(reply: &Reply) -> &str {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let (_, rest) = reply.text.split_once(r#""identities":"#).expect("identities");
    let (identities, _) = rest
        .split_once(r#","client_session_id":"#)
        .expect("what comes next");
    identities
}

async fn with_session() -> (TestServer, SignedIn) {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "auth": { "tags": ["staff"], "n": 1 } }))
        .await;
    (server, ada)
}

#[tokio::test]
async fn identities_are_put_beside_each_other_and_replaced_whole() {
    let (server, ada) = with_session().await;
    let steps = [
        (
            "billing",
            json!({ "z": 1, "a": 2 }),
            r#"{"billing":{"z":1,"a":2}}"#,
        ),
        (
            "admin",
            json!({ "roles": ["x"] }),
            r#"{"billing":{"z":1,"a":2},"admin":{"roles":["x"]}}"#,
        ),
        (
            "billing",
            json!({ "b": null }),
            r#"{"billing":{"b":null},"admin":{"roles":["x"]}}"#,
        ),
        ("admin", json!({}), r#"{"billing":{"b":null},"admin":{}}"#),
    ];
    let path = format!("/v1/sessions/{}", ada.id);
    for (key, body, expected) in steps {
        let reply = put(&server, &ada.id, key, body).send().await;
        assert_eq!(shown(&reply), expected);
        assert_eq!(
            shown(&get(&server, &path).await),
            expected,
            "{key}: as read again"
        );
    }
}

#[tokio::test]
async fn deleted_identity_is_gone_and_deleting_it_again_is_fine() {
    let (server, ada) = with_session().await;
    for key in ["one", "two", "three"] {
        put(&server, &ada.id, key, json!({})).send().await;
    }

    let replies = [
        delete(&server, &ada.id, "two").send().await,
        delete(&server, &ada.id, "two").send().await,
        delete(&server, &ada.id, "never").send().await,
        delete(&server, &ada.id, "one").send().await,
        delete(&server, &ada.id, "three").send().await,
    ];

    let expected = [
        r#"{"one":{},"three":{}}"#,
        r#"{"one":{},"three":{}}"#,
        r#"{"one":{},"three":{}}"#,
        r#"{"three":{}}"#,
        "{}",
    ];
    assert_eq!(replies.each_ref().map(shown), expected);
}

#[tokio::test]
async fn named_identities_and_the_root_one_leave_each_other_alone() {
    let (server, ada) = with_session().await;
    let path = format!("/v1/sessions/{}", ada.id);

    let reply = put(&server, &ada.id, "auth", json!({ "tags": ["boss"] }))
        .send()
        .await;
    assert_eq!(reply.json["auth"], json!({ "tags": ["staff"], "n": 1 }));
    let reply = delete(&server, &ada.id, "root").send().await;
    assert_eq!(reply.json["auth"], json!({ "tags": ["staff"], "n": 1 }));
    for auth in [json!({ "tags": [] }), Value::Null] {
        let reply = server
            .patch(&path, json!({ "auth": auth }))
            .key(&server.key)
            .send()
            .await;
        assert_eq!(reply.json["auth"], auth);
        assert_eq!(shown(&reply), r#"{"auth":{"tags":["boss"]}}"#);
    }
}

#[tokio::test]
async fn keys_in_paths_are_percent_decoded_and_never_become_one() {
    let (server, ada) = with_session().await;
    let long = "é".repeat(64);
    let keys = [
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%C3%A9", "é"),
        ("e%CC%81", "e\u{301}"),
        ("%F0%9F%92%A5", "💥"),
        ("%3F%23%5C", "?#\\"),
        ("a.b", "a.b"),
        ("...", "..."),
        ("%22", "\""),
        (&long, &long),
    ];
    for (encoded, key) in keys {
        let reply = put(&server, &ada.id, encoded, json!({ "is": key })).send().await;
        assert_eq!(reply.status, 200, "{encoded}: {}", reply.text);
        assert_eq!(reply.json["identities"][key], json!({ "is": key }), "{encoded}");
    }
    let path = format!("/v1/sessions/{}", ada.id);
    let all = get(&server, &path).await.json["identities"].clone();
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(keys.len()));
    for (encoded, key) in keys {
        let reply = delete(&server, &ada.id, encoded).send().await;
        assert_eq!(reply.json["identities"].get(key), None, "{encoded}");
    }
    assert_eq!(shown(&get(&server, &path).await), "{}");
}

#[tokio::test]
async fn key_that_breaks_the_rule_is_422_and_changes_nothing() {
    let (server, ada) = with_session().await;
    let before = dump(&server).await;
    let long = "é".repeat(65);
    for key in [
        "%00", "a%0Ab", "%7F", "%C2%80", "%ff", "a%C3", "%zz", "a%2", &long,
    ] {
        for request in [
            put(&server, &ada.id, key, json!({})),
            delete(&server, &ada.id, key),
        ] {
            let reply = request.send().await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["key"]),
                "{key:.20}: {}",
                reply.text
            );
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn identity_that_is_no_object_is_422_and_changes_nothing() {
    let (server, ada) = with_session().await;
    put(&server, &ada.id, "one", json!({ "a": 1 })).send().await;
    let before = dump(&server).await;
    for body in [
        json!(null),
        json!([]),
        json!([{}]),
        json!("x"),
        json!(1),
        json!(true),
    ] {
        let reply = put(&server, &ada.id, "one", body.clone()).send().await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec!["body"]),
            "{body}: {}",
            reply.text
        );
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn identities_have_8_kib_together_and_one_byte_more_is_422() {
    let (server, ada) = with_session().await;
    let path = format!("/v1/sessions/{}", ada.id);
    put(&server, &ada.id, "one", json!({ "a": "x".repeat(5_000) }))
        .send()
        .await;
    let before = shown(&get(&server, &path).await).to_owned();
    let room = LEN_MAX - before.len() - r#","two":{"b":""}"#.len();

    let refused = put(&server, &ada.id, "two", json!({ "b": "x".repeat(room + 1) }))
        .send()
        .await;

    assert_eq!(
        (refused.status, refused.wrong_fields()),
        (422, vec!["identities"]),
        "{}",
        refused.text
    );
    assert_eq!(shown(&get(&server, &path).await), before, "nothing changed");
    let fits = put(&server, &ada.id, "two", json!({ "b": "x".repeat(room) }))
        .send()
        .await;
    assert_eq!(shown(&fits).len(), LEN_MAX, "to the byte");
    let smaller = put(&server, &ada.id, "two", json!({})).send().await;
    assert_eq!(smaller.status, 200, "a full one can shrink: {}", smaller.text);
}

/// An object of so many levels.
fn nested(levels: usize) -> String {
    let (open, close) = (r#"{"a":"#.repeat(levels - 1), "}".repeat(levels - 1));
    format!("{open}{{}}{close}")
}

#[tokio::test]
async fn identity_that_is_too_deep_is_422_and_costs_no_other() {
    let (server, ada) = with_session().await;
    put(&server, &ada.id, "first", json!({ "a": 1 })).send().await;
    for levels in [64, 65, 125, 126, 127, 128, 500] {
        let path = format!("/v1/sessions/{}/identities/deep", ada.id);
        let request = server.request(Method::PUT, &path).key(&server.key);
        let reply = request
            .raw("application/json", nested(levels).as_bytes())
            .send()
            .await;
        let expected = if levels <= 64 { 200 } else { 422 };
        assert_eq!(reply.status, expected, "{levels}: {}", reply.text);

        let next = put(&server, &ada.id, "next", json!({})).send().await;

        let expected = format!(r#"{{"first":{{"a":1}},"deep":{},"next":{{}}}}"#, nested(64));
        assert_eq!(shown(&next), expected, "{levels}");
    }
}

#[tokio::test]
async fn parallel_puts_of_different_identities_all_survive() {
    let (server, ada) = with_session().await;

    let replies =
        at_once((0..20).map(|number| put(&server, &ada.id, &format!("k{number}"), json!({ "n": number }))))
            .await;

    assert_eq!(with_status(&replies, 200), 20);
    let all = get(&server, &format!("/v1/sessions/{}", ada.id)).await;
    let all = all.json["identities"].as_object().expect("an object").clone();
    assert_eq!(all.len(), 20);
    for number in 0..20 {
        assert_eq!(all[&format!("k{number}")], json!({ "n": number }));
    }
}

#[tokio::test]
async fn applications_see_identities_wherever_they_see_the_session_and_people_never() {
    let (server, ada) = with_session().await;
    // So that it is in the cache before it changes.
    assert_eq!(server.check(&ada.token).await.status, 200);
    put(&server, &ada.id, "billing", json!({ "marker": 1 }))
        .send()
        .await;
    let check = server
        .post("/v1/sessions/check", json!({ "token": ada.token }))
        .key(&server.key)
        .send()
        .await;
    for reply in [
        server.check(&ada.token).await,
        check,
        get(&server, &format!("/v1/sessions/{}", ada.id)).await,
        get(&server, "/v1/sessions").await,
        get(&server, "/v1/users/ada/sessions").await,
    ] {
        assert_eq!(shown(&reply), r#"{"billing":{"marker":1}}"#);
    }
    let own = [
        server.get("/v1/me/sessions").bearer(&ada.token).send().await,
        server
            .patch(&format!("/v1/me/sessions/{}", ada.id), json!({ "name": "Desk" }))
            .bearer(&ada.token)
            .send()
            .await,
    ];
    for reply in own {
        assert_eq!(reply.status, 200, "{}", reply.text);
        for hidden in ["identities", "marker", "billing", "staff", "\"auth\""] {
            assert!(!reply.text.contains(hidden), "{hidden}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn identities_survive_a_restart_and_a_sign_in() {
    let (server, ada) = with_session().await;
    put(&server, &ada.id, "billing", json!({ "z": 1, "a": 0.1 }))
        .send()
        .await;
    let server = server.stop().await.restart().await;

    let path = format!("/v1/sessions/{}/authenticate", ada.id);
    let reply = server
        .post(&path, json!({ "user_id": "ada" }))
        .key(&server.key)
        .send()
        .await;

    assert_eq!(shown(&reply), r#"{"billing":{"z":1,"a":0.1}}"#);
    assert_eq!(
        reply.json["session"]["auth"],
        json!({ "tags": ["staff"], "n": 1 })
    );
}

#[tokio::test]
async fn setting_an_identity_is_no_use_and_no_event() {
    let (server, ada) = with_session().await;
    server.advance(DAY);

    let reply = put(&server, &ada.id, "billing", json!({})).send().await;
    delete(&server, &ada.id, "billing").send().await;

    assert_eq!(reply.json["last_activity_at"], at(0));
    assert_eq!(events(&server.database()).len(), 1, "the creation");
}

#[tokio::test]
async fn identities_of_an_ended_session_are_410_and_stay_as_they_are() {
    let (server, ada) = with_session().await;
    put(&server, &ada.id, "billing", json!({ "a": 1 })).send().await;
    let path = format!("/v1/sessions/{}", ada.id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    let before = dump(&server).await;
    for request in [
        put(&server, &ada.id, "billing", json!({})),
        delete(&server, &ada.id, "billing"),
    ] {
        let reply = request.send().await;
        reply.assert_problem(410, "session_ended");
        assert_eq!(reply.json["revoked_reason"], "logout");
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn identities_of_unknown_sessions_and_other_apps_are_404() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let before = dump(&server).await;
    for (id, key) in [(ada.id.as_str(), &key), (UNKNOWN_ID, &server.key)] {
        for method in [Method::PUT, Method::DELETE] {
            let path = format!("/v1/sessions/{id}/identities/x");
            let request = server.request(method, &path).key(key).json(json!({}));
            request.send().await.assert_problem(404, "not_found");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

// Tags

#[tokio::test]
async fn checks_demand_the_tags_that_the_latest_sign_in_gave() {
    let server = TestServer::start().await;
    let mut token = server.create(json!({})).await;
    let path = format!("/v1/sessions/{}/authenticate", token.id);
    let steps = [
        (None, None, false),
        (
            Some(json!({ "user_id": "ada", "auth": { "tags": ["staff", "2fa"] } })),
            None,
            true,
        ),
        (Some(json!({ "user_id": "ada" })), None, true),
        (
            Some(json!({ "user_id": "ada", "auth": { "tags": ["2fa"] } })),
            None,
            false,
        ),
        (None, Some(json!({ "tags": ["staff", "2fa", "x"] })), true),
        (Some(json!({ "user_id": "ada", "auth": {} })), None, false),
    ];
    for (number, (sign_in, auth, is_good)) in steps.into_iter().enumerate() {
        // Cached as it was before.
        assert_eq!(server.check(&token.token).await.status, 200, "step {number}");
        if let Some(body) = sign_in {
            let reply = server.post(&path, body).key(&server.key).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            token.token = reply.json["token"].as_str().expect("a token").to_owned();
        }
        if let Some(auth) = auth {
            let session = format!("/v1/sessions/{}", token.id);
            let reply = server
                .patch(&session, json!({ "auth": auth }))
                .key(&server.key)
                .send()
                .await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        }

        let own = server
            .get("/v1/session?tag=staff&tag=2fa")
            .bearer(&token.token)
            .send()
            .await;
        let head = server
            .request(Method::HEAD, "/v1/session?tag=staff&tag=2fa")
            .bearer(&token.token)
            .send()
            .await;
        let body = json!({ "token": token.token, "tags": ["staff", "2fa"] });
        let for_caller = server
            .post("/v1/sessions/check", body)
            .key(&server.key)
            .send()
            .await;

        if is_good {
            assert_eq!(
                (own.status, head.status),
                (200, 200),
                "step {number}: {}",
                own.text
            );
            assert_eq!(for_caller.json["active"], true, "step {number}");
        } else {
            own.assert_problem(403, "missing_tag");
            assert_eq!(head.status, 403, "step {number}");
            assert_eq!(
                (&for_caller.json["active"], &for_caller.json["code"]),
                (&json!(false), &json!("missing_tag")),
                "step {number}"
            );
        }
    }
}

#[tokio::test]
async fn tags_of_named_identities_meet_no_demand() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    put(&server, &ada.id, "auth", json!({ "tags": ["staff"] }))
        .send()
        .await;
    let reply = server
        .get("/v1/session?tag=staff")
        .bearer(&ada.token)
        .send()
        .await;
    reply.assert_problem(403, "missing_tag");
}

#[tokio::test]
async fn identity_of_any_keys_leaves_the_others_as_they_are() {
    let (server, ada) = with_session().await;
    put(&server, &ada.id, "keep", json!({ "n": 1 })).send().await;
    let odd = json!({ "$serde_json::private::RawValue": "junk" });
    let reply = put(&server, &ada.id, "odd", odd).send().await;
    let both = r#"{"keep":{"n":1},"odd":{"$serde_json::private::RawValue":"junk"}}"#;
    assert_eq!(shown(&reply), both);
    let reply = delete(&server, &ada.id, "nobody").send().await;
    assert_eq!(shown(&reply), both);
}
