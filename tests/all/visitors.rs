//! Sessions that visitors start by themselves, by cookie: who gets one, who does not, and how many.

use std::collections::HashSet;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::{AppConfig, Config, CookieConfig, CookieProfile};
use sessiond::session::AppName;
use tokio::task::JoinSet;

use crate::harness::{FIREFOX_ON_LINUX, Reply, Request, TestServer, events};
use crate::support::{DAY, HOUR, at, count, ids};
use crate::wire::{assert_unchanged, dump};

fn default_app(config: &mut Config) -> &mut AppConfig {
    config.apps.get_mut(&AppName::default_app()).expect("the app")
}

fn trust_loopback(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
}

/// A server whose app has visitors.
async fn open_to_visitors() -> TestServer {
    open_with(|_| {}).await
}

async fn open_with(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(|config| {
        default_app(config).anonymous = true;
        change(config);
    })
    .await
}

/// A visit as a browser makes it from the app's own page.
fn visit(server: &TestServer) -> Request<'_> {
    server.request(Method::POST, "/v1/me/session").same_origin()
}

fn set_cookies(reply: &Reply) -> Vec<&str> {
    let values = reply.headers.get_all("set-cookie").iter();
    values.map(|value| value.to_str().expect("text")).collect()
}

/// A session that was just started: its id, and the token that the one cookie has.
#[track_caller]
fn started(reply: &Reply) -> (String, String) {
    assert_eq!(reply.status, 201, "{}", reply.text);
    let [cookie] = set_cookies(reply)[..] else {
        panic!("one cookie in {:?}", reply.headers);
    };
    let value = cookie.strip_prefix("__Host-session=").expect("the app's cookie");
    let (token, attributes) = value.split_once("; ").expect("attributes");
    assert_eq!(
        attributes,
        "Max-Age=2592000; Path=/; Secure; HttpOnly; SameSite=Lax"
    );
    assert!(!reply.text.contains(token), "{}", reply.text);
    assert!(!reply.text.contains("sst_"), "{}", reply.text);
    (id_in(reply), token.to_owned())
}

#[track_caller]
fn id_in(reply: &Reply) -> String {
    reply.json["id"].as_str().expect("an id").to_owned()
}

async fn start(server: &TestServer) -> (String, String) {
    started(&visit(server).send().await)
}

fn sessions(server: &TestServer) -> i64 {
    count(server, "SELECT count(*) FROM sessions")
}

/// The same id with another secret.
fn tampered(token: &str) -> String {
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    format!("{}{last}", &token[..67])
}

#[tokio::test]
async fn first_visit_starts_a_session_of_nobody_and_sets_one_cookie() {
    let server = open_to_visitors().await;
    let reply = visit(&server).header("user-agent", FIREFOX_ON_LINUX).send().await;
    let (id, token) = started(&reply);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let expected = json!({
        "user_id": null, "authenticated_at": null, "device_info": "Firefox on Linux",
        "ip_address": "127.0.0.1", "is_current": true, "status": "active",
    });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&reply.json[field], value, "{field}");
    }
    for field in ["auth", "identities", "client_session_id", "data_version", "token"] {
        assert_eq!(reply.json.get(field), None, "{field} is the application's");
    }
    let checked = server.get("/v1/session").cookie(&token).send().await;
    assert_eq!((checked.status, id_in(&checked)), (200, id.clone()));
    assert_eq!(checked.header("x-session-user-id"), None);
    assert_eq!(
        events(&server.database()),
        [("session.created".to_owned(), Some(id))]
    );
}

#[tokio::test]
async fn valid_cookie_answers_its_session_and_sets_none() {
    let server = open_to_visitors().await;
    let (id, token) = start(&server).await;
    for _ in 0..3 {
        let reply = visit(&server).cookie(&token).send().await;
        assert_eq!((reply.status, id_in(&reply)), (200, id.clone()));
        assert_eq!(set_cookies(&reply), [""; 0]);
        assert!(!reply.text.contains("sst_"), "{}", reply.text);
    }
    assert_eq!(sessions(&server), 1);
}

#[tokio::test]
async fn cookie_of_a_person_answers_their_session() {
    let server = open_to_visitors().await;
    let ada = server.sign_in("ada").await;
    let reply = visit(&server).cookie(&ada.token).send().await;
    assert_eq!(
        (reply.status, id_in(&reply), &reply.json["user_id"]),
        (200, ada.id, &json!("ada"))
    );
    assert_eq!(set_cookies(&reply), [""; 0]);
}

#[tokio::test]
async fn cookie_that_is_no_longer_good_starts_another_session() {
    let server = open_to_visitors().await;
    let (revoked_id, revoked) = start(&server).await;
    let (expired_id, expired) = start(&server).await;
    let reply = server
        .delete(&format!("/v1/sessions/{revoked_id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    server.advance(DAY);
    let (good_id, good) = start(&server).await;
    let mut seen = HashSet::from([revoked_id, expired_id, good_id]);
    let tampered = tampered(&good);
    for value in [&revoked, &expired, &tampered, "", "x", "sst_", &server.key] {
        let reply = visit(&server).cookie(value).send().await;
        let (id, token) = started(&reply);
        assert!(seen.insert(id), "{value}: another id");
        assert_eq!(
            server.get("/v1/session").cookie(&token).send().await.status,
            200,
            "{value}"
        );
    }
    let checked = server.get("/v1/session").cookie(&good).send().await;
    assert_eq!(checked.status, 200, "what was tampered with is untouched");
}

#[tokio::test]
async fn replaced_cookie_is_refused_and_starts_nothing() {
    for is_renewed in [true, false] {
        let server = open_to_visitors().await;
        let (id, token) = start(&server).await;
        if is_renewed {
            let reply = server
                .request(Method::POST, "/v1/session/renew")
                .bearer(&token)
                .send()
                .await;
            let successor = reply.json["token"].as_str().expect("a token");
            assert_eq!(server.check(successor).await.status, 200);
            let reply = visit(&server).cookie(&token).send().await;
            assert_eq!((reply.status, id_in(&reply)), (200, id), "in its grace");
            server.advance(30);
        } else {
            let path = format!("/v1/sessions/{id}/authenticate");
            let body = json!({ "user_id": "ada" });
            let reply = server.post(&path, body).key(&server.key).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        for cookies in [
            format!("__Host-session={token}"),
            format!("__Host-session=x; __Host-session={token}"),
            format!("__Host-session={token}; __Host-session=sst_"),
        ] {
            let reply = visit(&server).header("cookie", &cookies).send().await;
            reply.assert_problem(401, "token_replaced");
            assert_eq!(set_cookies(&reply), [""; 0], "{cookies}");
        }
        assert_eq!(sessions(&server), 1, "renewed: {is_renewed}");
    }
}

#[tokio::test]
async fn replaced_cookie_of_a_session_that_is_over_starts_another() {
    let server = open_to_visitors().await;
    let (id, token) = start(&server).await;
    let path = format!("/v1/sessions/{id}/authenticate");
    let body = json!({ "user_id": "ada" });
    let reply = server.post(&path, body).key(&server.key).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let ended = server
        .delete(&format!("/v1/sessions/{id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    let reply = visit(&server).cookie(&token).send().await;
    let (next, _) = started(&reply);
    assert_ne!(next, id);
}

#[tokio::test]
async fn malformed_sibling_cookie_does_not_lose_a_visitors() {
    let server = open_to_visitors().await;
    let (id, token) = start(&server).await;
    for sibling in [
        "a",
        "=",
        ";;",
        "a=\"",
        "\u{e9}=\u{e9}",
        "__Host-session",
        "$Version=1",
    ] {
        for cookies in [
            format!("{sibling}; __Host-session={token}"),
            format!("__Host-session={token}; {sibling}"),
        ] {
            let reply = visit(&server).header("cookie", &cookies).send().await;
            assert_eq!((reply.status, id_in(&reply)), (200, id.clone()), "{cookies}");
            assert_eq!(set_cookies(&reply), [""; 0], "{cookies}");
        }
    }
    assert_eq!(sessions(&server), 1);
}

#[tokio::test]
async fn of_several_cookies_of_a_visitor_the_valid_one_counts() {
    let server = open_to_visitors().await;
    let (id, token) = start(&server).await;
    let (ended_id, ended) = start(&server).await;
    let path = format!("/v1/sessions/{ended_id}");
    server.delete(&path).key(&server.key).send().await;
    let tampered = tampered(&token);
    for other in [ended.as_str(), &tampered, "x", "", &token] {
        for pair in [[other, &token], [&token, other]] {
            let cookies = format!("__Host-session={}; __Host-session={}", pair[0], pair[1]);
            let reply = visit(&server).header("cookie", &cookies).send().await;
            assert_eq!((reply.status, id_in(&reply)), (200, id.clone()), "{cookies}");
            assert_eq!(set_cookies(&reply), [""; 0], "{cookies}");
        }
    }
}

#[tokio::test]
async fn two_valid_cookies_of_visitors_are_ambiguous_and_start_nothing() {
    let server = open_to_visitors().await;
    let ((_, one), (_, other)) = (start(&server).await, start(&server).await);
    let cookies = format!("__Host-session={one}; __Host-session={other}");
    let reply = visit(&server).header("cookie", &cookies).send().await;
    reply.assert_problem(401, "ambiguous_cookie");
    assert_eq!(set_cookies(&reply), [""; 0]);
    assert_eq!(sessions(&server), 2);
}

#[tokio::test]
async fn nothing_but_a_visit_makes_a_session_or_sets_a_cookie() {
    let server = open_to_visitors().await;
    let before = dump(&server).await;
    let paths = [
        "/",
        "/docs",
        "/static/app.js",
        "/static/none.js",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/whoami",
        "/v1/session",
        "/v1/session?app=none",
        "/v1/me/session",
        "/v1/me/sessions",
        "/v1/me/none",
        "/none",
    ];
    for path in paths {
        for method in [
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ] {
            let name = format!("{method} {path}");
            let reply = server.request(method, path).same_origin().send().await;
            assert_eq!(set_cookies(&reply), [""; 0], "{name}");
        }
    }
    for path in ["/v1/session/renew", "/v1/me/sessions", "/v1/sessions", "/none"] {
        let reply = server.request(Method::POST, path).same_origin().send().await;
        assert!(reply.status >= 400, "{path}: {}", reply.text);
        assert_eq!(set_cookies(&reply), [""; 0], "{path}");
    }
    let reply = server
        .request(Method::POST, "/v1/me/session?app=none")
        .same_origin()
        .send()
        .await;
    reply.assert_problem(422, "validation_failed");
    let reply = server
        .request(Method::POST, "/v1/me/session?what=ever")
        .same_origin()
        .send()
        .await;
    reply.assert_problem(422, "validation_failed");
    assert_eq!(set_cookies(&reply), [""; 0]);
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn app_without_visitors_has_no_such_call() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for request in [
        visit(&server),
        visit(&server).cookie(&ada.token),
        visit(&server).bearer(&ada.token),
        server
            .request(Method::POST, "/v1/me/session")
            .header("sec-fetch-site", "cross-site"),
    ] {
        let reply = request.send().await;
        reply.assert_problem(404, "not_found");
        assert_eq!(set_cookies(&reply), [""; 0]);
    }
    assert_eq!(sessions(&server), 1);
}

async fn visit_from(server: &TestServer, address: &str) -> Reply {
    visit(server).header("x-forwarded-for", address).send().await
}

#[track_caller]
fn retry_after(reply: &Reply) -> u64 {
    reply.assert_problem(429, "too_many_requests");
    assert_eq!(set_cookies(reply), [""; 0], "{}", reply.text);
    let secs = reply.header("retry-after").expect("when to come again");
    secs.parse().expect("seconds")
}

#[tokio::test]
async fn visitors_of_one_network_are_so_many_an_hour() {
    let server = open_with(|config| {
        trust_loopback(config);
        default_app(config).anonymous_per_hour = 2;
    })
    .await;
    let networks = [
        ["203.0.113.7", "203.0.113.7", "::ffff:203.0.113.7"],
        ["2001:db8:1:2::1", "2001:db8:1:2:ffff::2", "2001:db8:1:2::3"],
    ];
    for network in networks {
        started(&visit_from(&server, network[0]).await);
        started(&visit_from(&server, network[1]).await);
        assert_eq!(
            retry_after(&visit_from(&server, network[2]).await),
            HOUR,
            "{network:?}"
        );
    }
    for neighbour in ["203.0.113.8", "2001:db8:1:3::1"] {
        started(&visit_from(&server, neighbour).await);
    }
    assert_eq!(sessions(&server), 6);
}

#[tokio::test]
async fn visitor_who_comes_again_when_told_so_is_let_in_and_not_a_second_before() {
    let server = open_with(|config| {
        trust_loopback(config);
        default_app(config).anonymous_per_hour = 2;
    })
    .await;
    let from = "203.0.113.7";
    started(&visit_from(&server, from).await);
    server.advance(1_000);
    started(&visit_from(&server, from).await);
    server.advance(600);
    let secs = retry_after(&visit_from(&server, from).await);
    assert_eq!(secs, HOUR - 1_600, "until the first is an hour old");
    server.advance(secs - 1);
    assert_eq!(retry_after(&visit_from(&server, from).await), 1);
    server.advance(1);
    started(&visit_from(&server, from).await);
    assert_eq!(
        retry_after(&visit_from(&server, from).await),
        1_000,
        "until the second is"
    );
}

#[tokio::test]
async fn ended_and_signed_in_visits_count_toward_the_hour_and_reconnecting_does_not() {
    let server = open_with(|config| {
        trust_loopback(config);
        default_app(config).anonymous_per_hour = 2;
    })
    .await;
    let from = "203.0.113.7";
    let (_, ended) = started(&visit_from(&server, from).await);
    let (id, token) = started(&visit_from(&server, from).await);
    let reply = server.delete("/v1/session").bearer(&ended).send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    for _ in 0..3 {
        let again = visit(&server)
            .header("x-forwarded-for", from)
            .cookie(&token)
            .send()
            .await;
        assert_eq!((again.status, id_in(&again)), (200, id.clone()));
    }
    let path = format!("/v1/sessions/{id}/authenticate");
    let body = json!({ "user_id": "ada" });
    let reply = server.post(&path, body).key(&server.key).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    retry_after(&visit_from(&server, from).await);
    // Those that the application starts are its own affair.
    server.create(json!({ "ip_address": from })).await;
}

#[tokio::test]
async fn visitors_of_all_networks_together_are_so_many_an_hour_also_across_a_restart() {
    let server = open_with(|config| {
        trust_loopback(config);
        default_app(config).anonymous_per_hour_total = 2;
        add_shop(config);
    })
    .await;
    let (_, gone) = started(&visit_from(&server, "203.0.113.1").await);
    let reply = server.delete("/v1/session").bearer(&gone).send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    started(&visit_from(&server, "203.0.113.2").await);
    assert_eq!(retry_after(&visit_from(&server, "203.0.113.3").await), HOUR);

    let server = server.stop().await.restart().await;
    assert_eq!(retry_after(&visit_from(&server, "203.0.113.4").await), HOUR);
    let in_shop = server.request(Method::POST, "/v1/me/session?app=shop");
    assert_eq!(in_shop.same_origin().send().await.status, 201);
    server.advance(HOUR);
    started(&visit_from(&server, "203.0.113.4").await);
}

#[tokio::test]
async fn visitors_are_counted_across_a_restart() {
    let server = open_with(|config| default_app(config).anonymous_per_hour = 1).await;
    start(&server).await;
    let server = server.stop().await.restart().await;
    assert_eq!(retry_after(&visit(&server).send().await), HOUR);
}

#[tokio::test]
async fn address_that_nobody_vouches_for_does_not_get_around_the_hours_limit() {
    let server = open_with(|config| default_app(config).anonymous_per_hour = 1).await;
    started(&visit_from(&server, "203.0.113.1").await);
    retry_after(&visit_from(&server, "203.0.113.2").await);
    let reply = visit(&server).header("forwarded", "for=203.0.113.3").send().await;
    retry_after(&reply);
}

#[tokio::test]
async fn app_full_of_visitors_takes_no_more_until_there_is_room() {
    let server = open_with(|config| default_app(config).anonymous_max = 2).await;
    let (first_id, first) = start(&server).await;
    server.advance(60);
    let (_, second) = start(&server).await;
    let full = visit(&server).send().await;
    assert!(retry_after(&full) > 0);
    let again = visit(&server).cookie(&second).send().await;
    assert_eq!(again.status, 200, "who is there stays");
    assert_eq!(sessions(&server), 2);

    let reply = server.delete("/v1/session").bearer(&first).send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    let (third_id, _) = start(&server).await;
    assert_ne!(third_id, first_id);
    retry_after(&visit(&server).send().await);

    // A visitor who signs in is none any more.
    let path = format!("/v1/sessions/{third_id}/authenticate");
    let body = json!({ "user_id": "ada" });
    let reply = server.post(&path, body).key(&server.key).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    start(&server).await;
    retry_after(&visit(&server).send().await);

    server.advance(DAY);
    server.tick().await;
    start(&server).await;
}

#[tokio::test]
async fn visits_rest_as_long_as_their_own_idle_timeout() {
    let server = open_with(|config| default_app(config).anonymous_idle_timeout_secs = 600).await;
    let reply = visit(&server).send().await;
    let (_, token) = started(&reply);
    assert_eq!(reply.json["expires_at"], at(600));
    assert_eq!(reply.json["absolute_expires_at"], at(30 * DAY));
    server.advance(599);
    let checked = server.get("/v1/session").cookie(&token).send().await;
    assert_eq!(checked.json["expires_at"], at(599 + 600), "{}", checked.text);
    server.advance(600);
    let refused = server.get("/v1/session").cookie(&token).send().await;
    refused.assert_problem(401, "session_ended");
    assert_eq!(refused.json["revoked_reason"], "idle_timeout");
    let ada = server.sign_in("ada").await;
    assert_eq!(ada.body["session"]["expires_at"], at(1_199 + 7 * DAY));
}

#[tokio::test]
async fn reconnecting_does_not_extend_a_visit() {
    let server = open_with(|config| default_app(config).anonymous_idle_timeout_secs = 600).await;
    let (id, token) = start(&server).await;
    for secs in [300, 299] {
        server.advance(secs);
        let reply = visit(&server).cookie(&token).send().await;
        assert_eq!((reply.status, id_in(&reply)), (200, id.clone()));
        assert_eq!(reply.json["expires_at"], at(600));
    }
    server.advance(1);
    let (other, _) = started(&visit(&server).cookie(&token).send().await);
    assert_ne!(other, id);
}

#[tokio::test]
async fn visit_that_another_site_makes_is_refused_with_and_without_a_cookie() {
    let server = open_to_visitors().await;
    let (_, token) = start(&server).await;
    let before = dump(&server).await;
    let from = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("origin", "https://example.com"),
        ("origin", "null"),
    ];
    for (name, value) in from {
        for cookie in [None, Some(&token), Some(&"x".to_owned())] {
            let request = server.request(Method::POST, "/v1/me/session").header(name, value);
            let request = match cookie {
                Some(cookie) => request.cookie(cookie),
                None => request,
            };
            let reply = request.send().await;
            reply.assert_problem(403, "cross_site");
            assert_eq!(set_cookies(&reply), [""; 0], "{name}: {value}, {cookie:?}");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn visit_from_the_own_origin_is_let_in() {
    let server = open_to_visitors().await;
    let own = server.base.clone();
    let by_origin = || {
        server
            .request(Method::POST, "/v1/me/session")
            .header("origin", &own)
    };
    let (id, token) = started(&by_origin().send().await);
    let reply = by_origin().cookie(&token).send().await;
    assert_eq!((reply.status, id_in(&reply)), (200, id));
    // Who sends neither header is no browser, and has no cookie that could be taken away.
    started(&server.request(Method::POST, "/v1/me/session").send().await);

    let public = open_with(|config| {
        config.server.public_origins = vec!["https://shop.example".into()];
    })
    .await;
    let from = |origin: &str| {
        public
            .request(Method::POST, "/v1/me/session")
            .header("origin", origin)
    };
    started(&from("https://shop.example").send().await);
    let own = public.base.clone();
    from(&own).send().await.assert_problem(403, "cross_site");
}

#[tokio::test]
async fn token_by_header_is_never_answered_by_a_new_session() {
    let server = open_to_visitors().await;
    let (id, token) = start(&server).await;
    let (ended_id, ended) = start(&server).await;
    let path = format!("/v1/sessions/{ended_id}");
    server.delete(&path).key(&server.key).send().await;
    let reply = visit(&server).bearer(&token).send().await;
    assert_eq!((reply.status, id_in(&reply)), (200, id.clone()));
    assert_eq!(set_cookies(&reply), [""; 0]);
    let tampered = tampered(&token);
    let cases = [
        ("", "invalid_token"),
        ("x", "invalid_token"),
        (tampered.as_str(), "invalid_token"),
        (server.key.as_str(), "invalid_token"),
        (ended.as_str(), "session_ended"),
    ];
    for (credential, code) in cases {
        for cookie in [None, Some(&token)] {
            let request = visit(&server).bearer(credential);
            let request = match cookie {
                Some(cookie) => request.cookie(cookie),
                None => request,
            };
            let reply = request.send().await;
            reply.assert_problem(401, code);
            assert_eq!(set_cookies(&reply), [""; 0], "{credential}");
        }
    }
    assert_eq!(sessions(&server), 2);
    let basic = visit(&server)
        .header("authorization", "Basic eDp5")
        .cookie(&token);
    let reply = basic.send().await;
    assert_eq!((reply.status, id_in(&reply)), (200, id), "a proxy's, not ours");
}

#[tokio::test]
async fn token_by_header_is_exempt_from_the_question_which_site_asks() {
    let server = open_to_visitors().await;
    let (id, token) = start(&server).await;
    let reply = server
        .request(Method::POST, "/v1/me/session")
        .bearer(&token)
        .header("sec-fetch-site", "cross-site")
        .header("origin", "https://example.com")
        .send()
        .await;
    assert_eq!((reply.status, id_in(&reply)), (200, id), "{}", reply.text);
}

#[tokio::test]
async fn visitors_self_plane_by_cookie_is_that_visit_alone() {
    let server = open_to_visitors().await;
    let (own, token) = start(&server).await;
    let (other, other_token) = start(&server).await;
    let by_cookie = |method, path: &str| server.request(method, path).cookie(&token).same_origin();
    let listed = by_cookie(Method::GET, "/v1/me/sessions").send().await;
    assert_eq!(ids(&listed), std::slice::from_ref(&own));
    assert_eq!(listed.json["sessions"][0]["is_current"], true);
    let rename = by_cookie(Method::PATCH, &format!("/v1/me/sessions/{own}"));
    let reply = rename.json(json!({ "name": "den" })).send().await;
    assert_eq!(reply.json["name"], "den", "{}", reply.text);
    let foreign = format!("/v1/me/sessions/{other}");
    let reply = by_cookie(Method::DELETE, &foreign).send().await;
    reply.assert_problem(404, "not_found");
    let rename = by_cookie(Method::PATCH, &foreign).json(json!({ "name": "x" }));
    rename.send().await.assert_problem(404, "not_found");
    let reply = by_cookie(Method::DELETE, "/v1/me/sessions").send().await;
    assert_eq!(reply.json["revoked_count"], 0, "{}", reply.text);
    let reply = by_cookie(Method::DELETE, "/v1/me/sessions?include_current=true")
        .send()
        .await;
    assert_eq!(reply.json["revoked_count"], 1, "{}", reply.text);
    assert_eq!(set_cookies(&reply).len(), 1, "the cookie is taken away");
    server.check(&token).await.assert_problem(401, "session_ended");
    assert_eq!(server.check(&other_token).await.json["name"], Value::Null);
}

/// Adds the app `shop`, which has visitors, a host and a cookie of its own.
fn add_shop(config: &mut Config) {
    let mut shop = default_app(config).clone();
    shop.hosts = vec!["shop.example".into()];
    shop.cookie = CookieConfig {
        profile: CookieProfile::Host,
        name_suffix: "shop".into(),
        domain: None,
    };
    config.apps.insert(AppName::parse("shop").expect("a name"), shop);
}

#[tokio::test]
async fn each_apps_visitors_have_its_own_cookie_and_no_place_in_another() {
    let server = open_with(add_shop).await;
    let visit_shop = |path: &str| {
        server
            .request(Method::POST, path)
            .header("host", "shop.example")
            .same_origin()
    };
    let (id, token) = start(&server).await;
    let reply = visit_shop("/v1/me/session").send().await;
    assert_eq!(
        (reply.status, &reply.json["app"]),
        (201, &json!("shop")),
        "{}",
        reply.text
    );
    let shop_id = id_in(&reply);
    let [cookie] = set_cookies(&reply)[..] else {
        panic!("one cookie");
    };
    let value = cookie.strip_prefix("__Host-session-shop=").expect("the shop's");
    let (shop_token, _) = value.split_once(';').expect("attributes");
    let both = format!("__Host-session={token}; __Host-session-shop={shop_token}");

    // (path, host, whose)
    let cases = [
        ("/v1/me/session", None, &id),
        ("/v1/me/session?app=default", Some("shop.example"), &id),
        ("/v1/me/session", Some("other.example"), &id),
        ("/v1/me/session", Some("shop.example"), &shop_id),
        ("/v1/me/session", Some("SHOP.example:443"), &shop_id),
        ("/v1/me/session?app=shop", None, &shop_id),
    ];
    for (path, host, expected) in cases {
        let request = server
            .request(Method::POST, path)
            .header("cookie", &both)
            .same_origin();
        let request = match host {
            Some(host) => request.header("host", host),
            None => request,
        };
        let reply = request.send().await;
        assert_eq!(
            (reply.status, &id_in(&reply)),
            (200, expected),
            "{path} {host:?}: {}",
            reply.text
        );
    }

    // (path, host, a token of the other app)
    let foreign = [
        ("/v1/session", None, shop_token),
        ("/v1/session?app=default", Some("shop.example"), shop_token),
        ("/v1/session?app=shop", None, token.as_str()),
        ("/v1/session", Some("shop.example"), token.as_str()),
    ];
    for (path, host, credential) in foreign {
        let name = if credential == shop_token {
            "__Host-session"
        } else {
            "__Host-session-shop"
        };
        let by_cookie = format!("{name}={credential}");
        for request in [
            server.get(path).bearer(credential),
            server.get(path).header("cookie", &by_cookie),
        ] {
            let request = match host {
                Some(host) => request.header("host", host),
                None => request,
            };
            let reply = request.send().await;
            reply.assert_problem(401, "invalid_token");
        }
    }
    assert_eq!(sessions(&server), 2, "nothing else was started");
}

#[tokio::test]
async fn each_app_counts_its_own_visitors() {
    let server = open_with(|config| {
        default_app(config).anonymous_per_hour = 1;
        default_app(config).anonymous_max = 1;
        add_shop(config);
    })
    .await;
    start(&server).await;
    retry_after(&visit(&server).send().await);
    let shop = || {
        server
            .request(Method::POST, "/v1/me/session?app=shop")
            .same_origin()
    };
    let reply = shop().send().await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    retry_after(&shop().send().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_visits_of_one_network_are_no_more_than_the_limit() {
    let server = Arc::new(open_with(|config| default_app(config).anonymous_per_hour = 5).await);
    let mut visits = JoinSet::new();
    for _ in 0..30 {
        let server = Arc::clone(&server);
        visits.spawn(async move { visit(&server).send().await });
    }
    let replies = visits.join_all().await;
    let (let_in, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
    assert_eq!((let_in.len(), refused.len()), (5, 25));
    let different: HashSet<_> = let_in.into_iter().map(started).collect();
    assert_eq!(different.len(), 5);
    for reply in refused {
        retry_after(reply);
    }
}

#[tokio::test]
async fn visitors_whose_address_nobody_knows_are_counted_together() {
    let server = open_with(|config| {
        trust_loopback(config);
        default_app(config).anonymous_per_hour = 2;
    })
    .await;
    let visit_for = |node: &'static str| visit(&server).header("forwarded", &format!("for={node}")).send();
    started(&visit_for("unknown").await);
    started(&visit_for("_hidden").await);
    retry_after(&visit_for("_another").await);
    started(&visit_for("203.0.113.7").await);
}
