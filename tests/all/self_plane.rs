//! The self plane: a person sees and ends their own sessions, and nobody else's.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::Config;
use sessiond::session::AppName;

use crate::harness::{FIREFOX_ON_LINUX, Reply, TestServer, events};
use crate::wire::{assert_unchanged, dump, without_refusals};

fn default_app(config: &mut Config) -> &mut sessiond::config::AppConfig {
    config.apps.get_mut(&AppName::default_app()).expect("the app")
}

/// Adds the app `shop`, which lists `shop.example`.
fn add_shop(config: &mut Config) {
    let mut shop = default_app(config).clone();
    shop.hosts = vec!["shop.example".into()];
    shop.sign_in_url = Some("https://shop.example/in".into());
    config.apps.insert(AppName::parse("shop").expect("a name"), shop);
}

async fn list(server: &TestServer, token: &str, query: &str) -> Reply {
    let reply = server
        .get(&format!("/v1/me/sessions{query}"))
        .bearer(token)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply
}

fn ids(reply: &Reply) -> Vec<&str> {
    let sessions = reply.json["sessions"].as_array().expect("a list");
    sessions
        .iter()
        .map(|session| session["id"].as_str().expect("an id"))
        .collect()
}

#[tokio::test]
async fn own_list_has_the_current_session_and_the_others_newest_first() {
    let server = TestServer::start().await;
    let first = server.sign_in("ada").await;
    server.advance(1);
    let second = server.sign_in("ada").await;
    server.sign_in("grace").await;
    server.create(json!({})).await;
    let reply = list(&server, &first.token, "").await;
    assert_eq!(ids(&reply), [&second.id, &first.id]);
    let current: Vec<_> = reply.json["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| &s["is_current"])
        .collect();
    assert_eq!(current, [false, true]);
    assert_eq!(
        (&reply.json["total_count"], &reply.json["active_count"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(reply.json["next_cursor"], Value::Null);
}

#[tokio::test]
async fn own_list_pages_and_filters_by_status() {
    let server = TestServer::start().await;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(server.sign_in("ada").await);
        server.advance(1);
    }
    server.delete("/v1/session").bearer(&all[1].token).send().await;
    let token = &all[0].token;
    assert_eq!(ids(&list(&server, token, "?status=ended").await), [&all[1].id]);
    assert_eq!(
        list(&server, token, "?status=ended").await.json["active_count"],
        3
    );
    let mut paged = Vec::new();
    let mut query = "?status=all&limit=3".to_owned();
    for _ in 0..4 {
        let page = list(&server, token, &query).await;
        paged.extend(ids(&page).into_iter().map(str::to_owned));
        match page.json["next_cursor"].as_str() {
            Some(cursor) => query = format!("?status=all&limit=3&cursor={cursor}"),
            None => break,
        }
    }
    let newest_first: Vec<_> = all.iter().rev().map(|session| session.id.clone()).collect();
    assert_eq!(paged, newest_first);
}

#[tokio::test]
async fn what_the_application_keeps_is_never_on_the_self_plane() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "auth": { "tags": ["staff"], "secret": "hush" }, "user_agent": FIREFOX_ON_LINUX });
    let ada = server.create(body).await;
    let own = format!("/v1/me/sessions/{}", ada.id);
    let listed = list(&server, &ada.token, "").await;
    let renamed = server
        .patch(&own, json!({ "name": "den" }))
        .bearer(&ada.token)
        .send()
        .await;
    for (reply, session) in [(&listed, &listed.json["sessions"][0]), (&renamed, &renamed.json)] {
        assert_eq!(session["device_info"], "Firefox on Linux");
        for field in ["auth", "identities", "client_session_id", "data_version", "data"] {
            assert_eq!(session.get(field), None, "{field}");
        }
        assert!(
            !reply.text.contains("hush") && !reply.text.contains("sst_"),
            "{}",
            reply.text
        );
    }
}

#[tokio::test]
async fn no_call_of_the_self_plane_extends_the_session() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let before = list(&server, &ada.token, "").await.json["sessions"].clone();
    server.advance(600);
    let own = format!("/v1/me/sessions/{}", ada.id);
    let unknown = "/v1/me/sessions/0192f0c4-0000-7000-8000-000000000000";
    for request in [
        server.get("/v1/me/sessions").cookie(&ada.token),
        server.get("/v1/me/sessions?status=all").bearer(&ada.token),
        server.patch(&own, json!({})).cookie(&ada.token).same_origin(),
        server.delete(unknown).cookie(&ada.token).same_origin(),
    ] {
        assert!(request.send().await.status < 500);
    }
    server.tick().await;
    assert_eq!(list(&server, &ada.token, "").await.json["sessions"], before);
    server
        .delete("/v1/me/sessions")
        .cookie(&ada.token)
        .same_origin()
        .send()
        .await;
    server.tick().await;
    let left = list(&server, &ada.token, "").await;
    assert_eq!(ids(&left), [&ada.id]);
    let was = before
        .as_array()
        .expect("a list")
        .iter()
        .find(|session| session["id"] == ada.id)
        .expect("ada's");
    assert_eq!(left.json["sessions"][0]["expires_at"], was["expires_at"]);
    assert_eq!(server.check(&other.token).await.status, 401);
}

#[tokio::test]
async fn person_ends_another_session_of_theirs_with_reason_manual() {
    let server = TestServer::start().await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let path = format!("/v1/me/sessions/{}", other.id);
    for _ in 0..2 {
        assert_eq!(
            server
                .delete(&path)
                .cookie(&ada.token)
                .same_origin()
                .send()
                .await
                .status,
            204
        );
    }
    let refused = server.check(&other.token).await;
    refused.assert_problem(401, "session_ended");
    assert_eq!(
        (&refused.json["revoked_reason"], &refused.json["ended_by"]),
        (&json!("manual"), &json!("user"))
    );
    assert_eq!(server.check(&ada.token).await.status, 200);
    let endings = events(&server.database())
        .into_iter()
        .filter(|(kind, _)| kind == "session.revoked");
    assert_eq!(
        endings.collect::<Vec<_>>(),
        [("session.revoked".to_owned(), Some(other.id))]
    );
}

#[tokio::test]
async fn person_ends_their_current_session_by_id() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let path = format!("/v1/me/sessions/{}?reason=done", ada.id);
    assert_eq!(server.delete(&path).bearer(&ada.token).send().await.status, 204);
    let refused = server.check(&ada.token).await;
    refused.assert_problem(401, "session_ended");
    assert_eq!(refused.json["revoked_reason"], "done");
}

#[tokio::test]
async fn cookie_of_the_ended_current_session_is_cleared() {
    let server = TestServer::start().await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    for (id, is_cleared) in [(other.id, false), (ada.id, true)] {
        let path = format!("/v1/me/sessions/{id}");
        let reply = server.delete(&path).cookie(&ada.token).same_origin().send().await;
        assert_eq!(reply.status, 204, "{}", reply.text);
        let set_cookie = reply.header("set-cookie").unwrap_or_default();
        assert_eq!(
            set_cookie.starts_with("__Host-session=; Max-Age=0"),
            is_cleared,
            "{set_cookie}"
        );
    }
}

#[tokio::test]
async fn person_ends_all_others_and_nobody_elses() {
    let server = TestServer::start_with(add_shop).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let others = [server.sign_in("ada").await, server.sign_in("ada").await];
    let grace = server.sign_in("grace").await;
    let reply = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&shop_key)
        .send()
        .await;
    let in_shop = reply.json["token"].as_str().expect("a token").to_owned();
    for count in [2, 0] {
        let reply = server
            .delete("/v1/me/sessions")
            .cookie(&ada.token)
            .same_origin()
            .send()
            .await;
        assert_eq!(
            (reply.status, &reply.json),
            (200, &json!({ "revoked_count": count }))
        );
    }
    for other in others {
        let refused = server.check(&other.token).await;
        refused.assert_problem(401, "session_ended");
        assert_eq!(refused.json["revoked_reason"], "logout_all");
    }
    assert_eq!(server.check(&ada.token).await.status, 200);
    assert_eq!(server.check(&grace.token).await.status, 200);
    assert_eq!(
        server
            .get("/v1/session?app=shop")
            .bearer(&in_shop)
            .send()
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn person_ends_all_with_the_current_one() {
    let server = TestServer::start().await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let reply = server
        .delete("/v1/me/sessions?include_current=true")
        .bearer(&ada.token)
        .send()
        .await;
    assert_eq!((reply.status, &reply.json), (200, &json!({ "revoked_count": 2 })));
    for session in [ada, other] {
        server
            .check(&session.token)
            .await
            .assert_problem(401, "session_ended");
    }
}

#[tokio::test]
async fn foreign_session_looks_like_an_unknown_one_and_stays_as_it_is() {
    let server = TestServer::start_with(add_shop).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let grace = server.sign_in("grace").await;
    let anonymous = server.create(json!({})).await;
    let reply = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&shop_key)
        .send()
        .await;
    let in_shop = reply.json["session"]["id"].as_str().expect("an id").to_owned();
    let before = without_refusals(&dump(&server).await);
    let unknown = "0192f0c4-0000-7000-8000-000000000000";
    for method in [Method::DELETE, Method::PATCH] {
        let mut bodies = Vec::new();
        for id in [unknown, &grace.id, &anonymous.id, &in_shop] {
            let request = server.request(method.clone(), &format!("/v1/me/sessions/{id}"));
            let reply = request
                .bearer(&ada.token)
                .header("x-request-id", "same")
                .json(json!({ "name": "x" }))
                .send()
                .await;
            reply.assert_problem(404, "not_found");
            bodies.push(reply.text);
        }
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    }
    assert_unchanged(&before, &without_refusals(&dump(&server).await));
}

#[tokio::test]
async fn person_renames_and_clears_a_name() {
    let server = TestServer::start().await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let path = format!("/v1/me/sessions/{}", other.id);
    for (body, name) in [
        (json!({ "name": "Küche 💥" }), json!("Küche 💥")),
        (json!({}), json!("Küche 💥")),
        (json!({ "name": null }), Value::Null),
    ] {
        let reply = server
            .patch(&path, body)
            .cookie(&ada.token)
            .same_origin()
            .send()
            .await;
        assert_eq!(
            (reply.status, &reply.json["name"]),
            (200, &name),
            "{}",
            reply.text
        );
        assert_eq!(reply.json["is_current"], false);
        assert_eq!(
            list(&server, &ada.token, "").await.json["sessions"][0]["name"],
            name
        );
    }
    server.delete(&path).bearer(&ada.token).send().await;
    let reply = server
        .patch(&path, json!({ "name": "late" }))
        .bearer(&ada.token)
        .send()
        .await;
    reply.assert_problem(410, "session_ended");
}

#[tokio::test]
async fn ending_another_session_can_demand_a_recent_sign_in() {
    let server = TestServer::start_with(|config| {
        let app = default_app(config);
        app.reauthenticate_within_secs = Some(900);
        app.sign_in_url = Some("https://app.example/in".into());
    })
    .await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    server.advance(900);
    let spare = server.sign_in("ada").await;
    let path = format!("/v1/me/sessions/{}", spare.id);
    assert_eq!(
        server.delete(&path).bearer(&ada.token).send().await.status,
        204,
        "just recent enough"
    );
    server.advance(1);
    let before = without_refusals(&dump(&server).await);
    for path in [
        format!("/v1/me/sessions/{}", other.id),
        "/v1/me/sessions".into(),
        "/v1/me/sessions?include_current=true".into(),
    ] {
        let reply = server.delete(&path).cookie(&ada.token).same_origin().send().await;
        reply.assert_problem(403, "reauthentication_required");
        assert_eq!(reply.json["sign_in_url"], "https://app.example/in", "{path}");
        assert_eq!(reply.header("set-cookie"), None);
    }
    assert_unchanged(&before, &without_refusals(&dump(&server).await));
    assert_eq!(
        server
            .delete("/v1/session")
            .bearer(&other.token)
            .send()
            .await
            .status,
        204,
        "signing out is free"
    );
    let path = format!("/v1/me/sessions/{}", ada.id);
    assert_eq!(
        server.delete(&path).bearer(&ada.token).send().await.status,
        204,
        "and so is ending the own one"
    );
}

#[tokio::test]
async fn refusal_names_where_to_sign_in_if_the_app_says() {
    let server = TestServer::start_with(add_shop).await;
    for (query, url) in [("", Value::Null), ("?app=shop", json!("https://shop.example/in"))] {
        for path in ["/v1/me/sessions"] {
            let reply = server.get(&format!("{path}{query}")).send().await;
            reply.assert_problem(401, "no_session");
            assert_eq!(reply.json["sign_in_url"], url, "{query}");
            let reply = server.get(&format!("{path}{query}")).cookie("x").send().await;
            reply.assert_problem(401, "invalid_token");
            assert_eq!(reply.json["sign_in_url"], url, "{query}");
        }
    }
}

#[tokio::test]
async fn anonymous_visitors_self_plane_is_that_session_alone() {
    let server = TestServer::start().await;
    let (own, other) = (server.create(json!({})).await, server.create(json!({})).await);
    let ada = server.sign_in("ada").await;
    for (query, expected) in [
        ("", vec![&own.id]),
        ("?status=all", vec![&own.id]),
        ("?status=ended", vec![]),
    ] {
        let reply = list(&server, &own.token, query).await;
        assert_eq!(ids(&reply), expected, "{query}");
        assert_eq!(
            (&reply.json["total_count"], &reply.json["active_count"]),
            (&json!(expected.len()), &json!(1))
        );
    }
    let reply = server.delete("/v1/me/sessions").bearer(&own.token).send().await;
    assert_eq!(reply.json, json!({ "revoked_count": 0 }));
    for id in [&other.id, &ada.id] {
        let path = format!("/v1/me/sessions/{id}");
        server
            .delete(&path)
            .bearer(&own.token)
            .send()
            .await
            .assert_problem(404, "not_found");
        server
            .patch(&path, json!({ "name": "x" }))
            .bearer(&own.token)
            .send()
            .await
            .assert_problem(404, "not_found");
    }
    let path = format!("/v1/me/sessions/{}", own.id);
    let reply = server
        .patch(&path, json!({ "name": "mine" }))
        .bearer(&own.token)
        .send()
        .await;
    assert_eq!(reply.json["name"], "mine", "{}", reply.text);
    assert_eq!(
        list(&server, &own.token, "").await.json["sessions"][0]["name"],
        "mine"
    );
    let reply = server
        .delete("/v1/me/sessions?include_current=true")
        .bearer(&own.token)
        .send()
        .await;
    assert_eq!(reply.json, json!({ "revoked_count": 1 }));
    server
        .check(&own.token)
        .await
        .assert_problem(401, "session_ended");
    for session in [other, ada] {
        assert_eq!(server.check(&session.token).await.status, 200);
    }
}

#[tokio::test]
async fn app_of_a_request_is_named_or_lists_the_host_or_is_default() {
    let server = TestServer::start_with(add_shop).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let reply = server
        .post("/v1/sessions", json!({ "user_id": "sam" }))
        .key(&shop_key)
        .send()
        .await;
    let sam = reply.json["token"].as_str().expect("a token").to_owned();
    let cases = [
        ("", None, "default"),
        ("", Some("shop.example"), "shop"),
        ("", Some("SHOP.Example:8443"), "shop"),
        ("", Some("www.shop.example"), "default"),
        ("", Some("shop.example.com"), "default"),
        ("?app=shop", None, "shop"),
        ("?app=shop", Some("elsewhere.example"), "shop"),
        ("?app=default", Some("shop.example"), "default"),
    ];
    for (query, host, app) in cases {
        for path in ["/v1/session", "/v1/me/sessions"] {
            for (token, own) in [(&ada.token, "default"), (&sam, "shop")] {
                let request = server.get(&format!("{path}{query}")).bearer(token);
                let request = match host {
                    Some(host) => request.header("host", host),
                    None => request,
                };
                let reply = request.send().await;
                if own == app {
                    assert_eq!(reply.status, 200, "{path}{query} {host:?}: {}", reply.text);
                } else {
                    reply.assert_problem(401, "invalid_token");
                }
            }
        }
    }
}

#[tokio::test]
async fn unknown_app_is_422() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let own = format!("/v1/me/sessions/{}", ada.id);
    for app in ["nowhere", "", "Default", "%00", "a%20b"] {
        for request in [
            server.get(&format!("/v1/me/sessions?app={app}")),
            server.delete(&format!("/v1/me/sessions?app={app}")),
            server.delete(&format!("{own}?app={app}")),
            server.patch(&format!("{own}?app={app}"), json!({})),
            server.get(&format!("/v1/session?app={app}")),
            server.delete(&format!("/v1/session?app={app}")),
        ] {
            let reply = request.bearer(&ada.token).send().await;
            reply.assert_problem(422, "validation_failed");
            assert_eq!(reply.wrong_fields(), ["app"]);
        }
    }
    assert_eq!(server.check(&ada.token).await.status, 200);
}

#[tokio::test]
async fn person_cannot_give_the_reasons_of_the_server_and_the_application() {
    let server = TestServer::start().await;
    let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
    for reason in [
        "credentials_changed",
        "user_blocked",
        "session_limit_exceeded",
        "idle_timeout",
    ] {
        for path in [
            "/v1/me/sessions".to_owned(),
            format!("/v1/me/sessions/{}", other.id),
        ] {
            let reply = server
                .delete(&format!("{path}?reason={reason}"))
                .bearer(&ada.token)
                .send()
                .await;
            reply.assert_problem(422, "validation_failed");
            assert_eq!(reply.wrong_fields(), ["reason"]);
        }
    }
    assert_eq!(server.check(&other.token).await.status, 200);
}

#[tokio::test]
async fn anonymous_visitor_need_not_have_signed_in_lately_to_end_that_visit() {
    let within = |config: &mut Config| {
        let app = config
            .apps
            .get_mut(&AppName::default_app())
            .expect("the default app");
        app.reauthenticate_within_secs = Some(900);
    };
    let server = TestServer::start_with(within).await;
    let visitor = server.create(json!({})).await;
    for (path, count) in [
        ("/v1/me/sessions", 0),
        ("/v1/me/sessions?include_current=true", 1),
    ] {
        let reply = server.delete(path).bearer(&visitor.token).send().await;
        assert_eq!(
            (reply.status, &reply.json["revoked_count"]),
            (200, &json!(count)),
            "{}",
            reply.text
        );
    }
}
