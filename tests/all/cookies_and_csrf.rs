//! The cookie: its profiles, whose it is, and that no other site can use it.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::config::{Config, CookieConfig, CookieProfile};
use sessiond::session::{AppName, Secret, SessionId, Token};

use crate::harness::{Reply, Request, TestServer};
use crate::wire::{assert_unchanged, dump};

/// Adds the app `shop`, with this cookie.
fn add_shop(config: &mut Config, cookie: CookieConfig) {
    let mut shop = config.apps[&AppName::default_app()].clone();
    shop.cookie = cookie;
    config.apps.insert(AppName::parse("shop").expect("a name"), shop);
}

fn suffixed(suffix: &str) -> CookieConfig {
    CookieConfig {
        profile: CookieProfile::Host,
        name_suffix: suffix.into(),
        domain: None,
    }
}

async fn check(server: &TestServer, cookies: &str) -> Reply {
    server.get("/v1/session").header("cookie", cookies).send().await
}

/// Every call of the token and self planes that a page can make by cookie and that changes something.
fn unsafe_calls(id: &str) -> Vec<(Method, String, Option<Value>)> {
    vec![
        (Method::DELETE, "/v1/session".into(), None),
        (Method::DELETE, "/v1/me/sessions".into(), None),
        (
            Method::DELETE,
            "/v1/me/sessions?include_current=true".into(),
            None,
        ),
        (Method::DELETE, format!("/v1/me/sessions/{id}"), None),
        (
            Method::PATCH,
            format!("/v1/me/sessions/{id}"),
            Some(json!({ "name": "stolen" })),
        ),
    ]
}

fn call<'s>(server: &'s TestServer, (method, path, body): &(Method, String, Option<Value>)) -> Request<'s> {
    let request = server.request(method.clone(), path);
    match body {
        Some(body) => request.json(body.clone()),
        None => request,
    }
}

#[tokio::test]
async fn set_cookie_follows_profile_and_suffix() {
    let shared = || CookieConfig {
        profile: CookieProfile::Shared,
        name_suffix: String::new(),
        domain: Some("example.com".into()),
    };
    let loopback = || CookieConfig {
        profile: CookieProfile::Loopback,
        ..suffixed("")
    };
    let cases = [
        (
            suffixed(""),
            "__Host-session",
            "; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            suffixed("shop"),
            "__Host-session-shop",
            "; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            shared(),
            "__Secure-session",
            "; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=Lax",
        ),
        (loopback(), "sessiond_dev", "; Path=/; HttpOnly; SameSite=Lax"),
    ];
    for (cookie, name, attributes) in cases {
        let server = TestServer::start_with(|config| {
            config
                .apps
                .get_mut(&AppName::default_app())
                .expect("the app")
                .cookie = cookie;
        })
        .await;
        let ada = server.sign_in("ada").await;
        let expected = format!("{name}={}; Max-Age=2592000{attributes}", ada.token);
        assert_eq!(ada.body["set_cookie"], expected);
        assert!(format!("{name}={}", ada.token).len() < 128, "{name}");
        let reply = check(&server, &format!("{name}={}", ada.token)).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text);
    }
}

#[tokio::test]
async fn max_age_follows_the_absolute_deadline_up_to_400_days() {
    let server = TestServer::start_with(|config| {
        let app = config.apps.get_mut(&AppName::default_app()).expect("the app");
        app.remember_absolute_timeout_secs = 500 * 86_400;
    })
    .await;
    let cases = [
        (json!({}), 2_592_000),
        (json!({ "absolute_timeout_secs": 3_600 }), 3_600),
        (json!({ "idle_timeout_secs": 60 }), 2_592_000),
        (json!({ "remember": true }), 34_560_000),
        (
            json!({ "user_id": "ada", "authenticated_at": "2025-12-31T00:00:00Z" }),
            2_592_000,
        ),
    ];
    for (body, max_age) in cases {
        let answer = server.create(body.clone()).await.body;
        let cookie = answer["set_cookie"].as_str().expect("a cookie");
        assert!(
            cookie.contains(&format!("; Max-Age={max_age}; ")),
            "{body}: {cookie}"
        );
    }
}

#[tokio::test]
async fn only_the_configured_name_is_read() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for name in [
        "session",
        "__Secure-session",
        "sessiond_dev",
        "__Host-session-shop",
        "__host-session",
        "__Host-Session",
        "token",
    ] {
        let reply = check(&server, &format!("{name}={}", ada.token)).await;
        reply.assert_problem(401, "no_session");
    }
    assert_eq!(
        check(&server, &format!("__Host-session={}", ada.token))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn each_app_reads_its_own_cookie() {
    let server = TestServer::start_with(|config| add_shop(config, suffixed("shop"))).await;
    let shop_key = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let reply = server
        .post("/v1/sessions", json!({ "user_id": "sam" }))
        .key(&shop_key)
        .send()
        .await;
    let sam = reply.json["token"].as_str().expect("a token");
    let set_cookie = reply.json["set_cookie"].as_str().expect("a cookie");
    assert!(set_cookie.starts_with("__Host-session-shop=sst_"), "{set_cookie}");
    let both = format!("__Host-session={}; __Host-session-shop={sam}", ada.token);
    for (query, user) in [("", "ada"), ("?app=default", "ada"), ("?app=shop", "sam")] {
        let reply = server
            .get(&format!("/v1/session{query}"))
            .header("cookie", &both)
            .send()
            .await;
        assert_eq!(reply.json["user_id"], user, "{query}: {}", reply.text);
    }
    let swapped = format!("__Host-session={sam}; __Host-session-shop={}", ada.token);
    for query in ["", "?app=shop"] {
        let reply = server
            .get(&format!("/v1/session{query}"))
            .header("cookie", &swapped)
            .send()
            .await;
        reply.assert_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn malformed_sibling_cookies_do_not_lose_ours() {
    let server = TestServer::start().await;
    let ours = format!("__Host-session={}", server.sign_in("ada").await.token);
    let siblings = [
        "a",
        "=",
        "=x",
        ";",
        ";;",
        "a=\"",
        "a=\"x;",
        "{\"a\":1}",
        "a b c=d",
        "\u{e9}=\u{e9}",
        "a=%ff",
        "__Host-session",
        ",",
        "__Host-session-x=y",
        "$Version=1",
    ];
    for sibling in siblings {
        for header in [
            format!("{sibling}; {ours}"),
            format!("{ours}; {sibling}"),
            format!("{sibling};{ours};{sibling}"),
        ] {
            assert_eq!(check(&server, &header).await.status, 200, "{header}");
        }
    }
    let reply = server
        .get("/v1/session")
        .header("cookie", "a=b")
        .header("cookie", &ours)
        .send()
        .await;
    assert_eq!(reply.status, 200, "in a second header");
}

#[tokio::test]
async fn of_several_cookies_of_our_name_the_valid_one_counts() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let ended = server.sign_in("ada").await;
    server.delete("/v1/session").bearer(&ended.token).send().await;
    let wrong_secret = format!("{}{}", &ada.token[..40], &ended.token[40..]);
    for other in [
        "",
        "x",
        "sst_",
        &ended.token,
        &wrong_secret,
        &server.key,
        &ada.token,
    ] {
        for pair in [[other, &ada.token], [&ada.token, other]] {
            let header = format!("__Host-session={}; __Host-session={}", pair[0], pair[1]);
            let reply = check(&server, &header).await;
            assert_eq!(
                (reply.status, reply.json["id"].as_str()),
                (200, Some(ada.id.as_str())),
                "{header}"
            );
        }
    }
}

#[tokio::test]
async fn several_cookies_of_which_none_is_valid_tell_the_holder_of_an_ended_one() {
    let server = TestServer::start().await;
    let ended = server.sign_in("ada").await;
    server.delete("/v1/session").bearer(&ended.token).send().await;
    for header in [
        format!("__Host-session=x; __Host-session={}", ended.token),
        format!("__Host-session={}; __Host-session=sst_x", ended.token),
    ] {
        check(&server, &header).await.assert_problem(401, "session_ended");
    }
    check(&server, "__Host-session=x; __Host-session=y")
        .await
        .assert_problem(401, "invalid_token");
    check(&server, "__Host-session=")
        .await
        .assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn two_valid_cookies_of_different_sessions_are_ambiguous() {
    let server = TestServer::start().await;
    let (ada, grace) = (server.sign_in("ada").await, server.sign_in("grace").await);
    server.advance(600);
    let before = dump(&server).await;
    let both = format!("__Host-session={}; __Host-session={}", ada.token, grace.token);
    let calls = [
        (Method::GET, "/v1/session".to_owned()),
        (Method::GET, "/v1/me/sessions".to_owned()),
        (Method::DELETE, "/v1/me/sessions".to_owned()),
        (Method::DELETE, format!("/v1/me/sessions/{}", ada.id)),
    ];
    for (method, path) in calls {
        let reply = server
            .request(method, &path)
            .header("cookie", &both)
            .same_origin()
            .send()
            .await;
        reply.assert_problem(401, "ambiguous_cookie");
        assert!(
            reply
                .header("www-authenticate")
                .is_some_and(|value| value.starts_with("Bearer"))
        );
        assert_eq!(reply.header("set-cookie"), None);
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn unsafe_request_by_cookie_from_another_site_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let other = server.sign_in("ada").await;
    let host = server.base.strip_prefix("http://").expect("a URL").to_owned();
    let own = format!("http://{host}");
    server.advance(600);
    let before = dump(&server).await;
    let evil_suffix = format!("http://{host}.example");
    let evil_user = format!("http://{host}@example.com");
    type Headers<'h> = &'h [(&'h str, &'h str)];
    let from: &[Headers<'_>] = &[
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "")],
        &[("sec-fetch-site", "Same-Origin")],
        &[("sec-fetch-site", "cross-site"), ("origin", &own)],
        &[("sec-fetch-site", "same-site"), ("origin", &own)],
        &[],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "https://example.com")],
        &[("origin", &evil_suffix)],
        &[("origin", &evil_user)],
        &[("origin", &host)],
        &[("referer", &own)],
    ];
    for call_ in unsafe_calls(&other.id) {
        for headers in from {
            let request = call(&server, &call_).cookie(&ada.token);
            let request = headers
                .iter()
                .fold(request, |request, (name, value)| request.header(name, value));
            let reply = request.send().await;
            assert_eq!(reply.status, 403, "{call_:?} {headers:?}: {}", reply.text);
            reply.assert_problem(403, "cross_site");
            assert_eq!(reply.header("set-cookie"), None, "{call_:?}");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn unsafe_request_by_cookie_from_the_own_origin_is_served() {
    let server = TestServer::start().await;
    let own = server.base.clone();
    let upper = own.replace("http", "HTTP");
    let from = [
        ("sec-fetch-site", "same-origin"),
        ("origin", &own),
        ("origin", &upper),
    ];
    for (name, value) in from {
        for number in 0..unsafe_calls("").len() {
            let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
            let call_ = &unsafe_calls(&other.id)[number];
            let reply = call(&server, call_)
                .cookie(&ada.token)
                .header(name, value)
                .send()
                .await;
            assert!(
                (200..300).contains(&reply.status),
                "{call_:?} {value}: {}",
                reply.text
            );
        }
    }
}

#[tokio::test]
async fn public_origins_count_instead_of_the_host_also_when_a_proxy_rewrites_it() {
    let server = TestServer::start_with(|config| {
        config.server.public_origins = vec!["https://a.example".into(), "https://b.example:8443".into()];
    })
    .await;
    let host = server.base.strip_prefix("http://").expect("a URL").to_owned();
    let cases = [
        ("https://a.example", "a.example", 204),
        ("https://a.example", "internal:7377", 204),
        ("https://A.EXAMPLE", "internal:7377", 204),
        ("https://b.example:8443", "internal:7377", 204),
        ("http://a.example", "a.example", 403),
        ("https://b.example", "b.example", 403),
        ("https://sub.a.example", "sub.a.example", 403),
        ("https://internal:7377", "internal:7377", 403),
        ("null", "a.example", 403),
    ];
    for (origin, host, status) in cases {
        let ada = server.sign_in("ada").await;
        let request = server.delete("/v1/session").cookie(&ada.token);
        let reply = request.header("origin", origin).header("host", host).send().await;
        assert_eq!(reply.status, status, "{origin} at {host}: {}", reply.text);
        let expected = if status == 204 { 401 } else { 200 };
        assert_eq!(
            server.check(&ada.token).await.status,
            expected,
            "{origin} at {host}"
        );
    }
    let ada = server.sign_in("ada").await;
    let own = format!("http://{host}");
    let reply = server
        .delete("/v1/session")
        .cookie(&ada.token)
        .header("origin", &own)
        .send()
        .await;
    reply.assert_problem(403, "cross_site");
    let reply = server
        .delete("/v1/session")
        .cookie(&ada.token)
        .same_origin()
        .header("host", "internal")
        .send()
        .await;
    assert_eq!(
        reply.status, 204,
        "a browser that says same-origin is believed: {}",
        reply.text
    );
}

#[tokio::test]
async fn without_public_origins_a_rewritten_host_is_refused() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let request = server.delete("/v1/session").cookie(&ada.token);
    let reply = request
        .header("origin", "https://a.example")
        .header("host", "internal:7377")
        .send()
        .await;
    reply.assert_problem(403, "cross_site");
    assert_eq!(server.check(&ada.token).await.status, 200);
}

#[tokio::test]
async fn safe_request_by_cookie_is_refused_only_for_fetches_of_other_sites() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    server.advance(600);
    let before = dump(&server).await;
    for path in ["/v1/session", "/v1/me/sessions"] {
        for site in ["cross-site", "same-site"] {
            let reply = server
                .get(path)
                .cookie(&ada.token)
                .header("sec-fetch-site", site)
                .send()
                .await;
            reply.assert_problem(403, "cross_site");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
    for path in ["/v1/session", "/v1/me/sessions"] {
        for site in [Some("same-origin"), Some("none"), None] {
            let request = server
                .get(path)
                .cookie(&ada.token)
                .header("origin", "https://example.com");
            let request = match site {
                Some(site) => request.header("sec-fetch-site", site),
                None => request,
            };
            assert_eq!(request.send().await.status, 200, "{path} {site:?}");
        }
    }
    for path in ["/", "/docs", "/healthz", "/static/app.js"] {
        let reply = server
            .get(path)
            .cookie(&ada.token)
            .header("sec-fetch-site", "cross-site")
            .send()
            .await;
        assert_eq!(reply.status, 200, "{path} holds nothing of anybody's");
    }
}

#[tokio::test]
async fn bearer_is_exempt_from_the_defence_and_beats_the_cookie() {
    let server = TestServer::start().await;
    let grace = server.sign_in("grace").await;
    for number in 0..unsafe_calls("").len() {
        let (ada, other) = (server.sign_in("ada").await, server.sign_in("ada").await);
        let call_ = &unsafe_calls(&other.id)[number];
        let request = call(&server, call_).bearer(&ada.token).cookie(&grace.token);
        let reply = request.header("sec-fetch-site", "cross-site").send().await;
        assert!((200..300).contains(&reply.status), "{call_:?}: {}", reply.text);
        assert_eq!(reply.header("set-cookie"), None, "{call_:?}");
    }
    assert_eq!(server.check(&grace.token).await.status, 200);
}

#[tokio::test]
async fn bad_bearer_never_falls_back_to_the_cookie_and_other_schemes_are_ignored() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for value in [
        "Bearer x",
        "Bearer",
        "bearer ",
        "BEARER sst_x",
        &format!("Bearer {}", server.key),
        &format!("Bearer {} x", ada.token),
    ] {
        for path in ["/v1/session", "/v1/me/sessions"] {
            let reply = server
                .get(path)
                .cookie(&ada.token)
                .header("authorization", value)
                .send()
                .await;
            reply.assert_problem(401, "invalid_token");
        }
    }
    for value in ["Basic YTpi", "Bearerx", "Digest x", ""] {
        let reply = server
            .get("/v1/session")
            .cookie(&ada.token)
            .header("authorization", value)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{value:?}: {}", reply.text);
    }
}

#[tokio::test]
async fn no_401_sets_or_clears_a_cookie() {
    let server = TestServer::start().await;
    let ended = server.sign_in("ada").await;
    server.delete("/v1/session").bearer(&ended.token).send().await;
    let calls = unsafe_calls("0192f0c4-0000-7000-8000-000000000000");
    let reads = ["/v1/session", "/v1/me/sessions"].map(|path| (Method::GET, path.to_owned(), None));
    for call_ in calls
        .into_iter()
        .filter(|(_, path, _)| path != "/v1/session")
        .chain(reads)
    {
        for (cookie, code) in [
            (None, "no_session"),
            (Some("x"), "invalid_token"),
            (Some(ended.token.as_str()), "session_ended"),
        ] {
            let request = call(&server, &call_).same_origin();
            let request = match cookie {
                Some(cookie) => request.cookie(cookie),
                None => request,
            };
            let reply = request.send().await;
            reply.assert_problem(401, code);
            assert_eq!(reply.header("set-cookie"), None, "{call_:?} {code}");
        }
    }
}

#[tokio::test]
async fn signing_out_by_cookie_clears_it_and_by_bearer_does_not() {
    let server = TestServer::start_with(|config| add_shop(config, suffixed("shop"))).await;
    let ada = server.sign_in("ada").await;
    let cleared = "__Host-session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax";
    let by_cookie = |token: &str| server.delete("/v1/session").cookie(token).same_origin();
    for token in [ada.token.as_str(), &ada.token, "x"] {
        let reply = by_cookie(token).send().await;
        assert_eq!(
            (reply.status, reply.header("set-cookie")),
            (204, Some(cleared)),
            "{token}"
        );
    }
    let grace = server.sign_in("grace").await;
    let reply = server.delete("/v1/session").bearer(&grace.token).send().await;
    assert_eq!((reply.status, reply.header("set-cookie")), (204, None));
    let reply = server.delete("/v1/session").same_origin().send().await;
    assert_eq!(
        (reply.status, reply.header("set-cookie")),
        (204, None),
        "nothing to clear"
    );
    let reply = server
        .delete("/v1/session?app=shop")
        .header("cookie", "__Host-session-shop=x")
        .same_origin()
        .send()
        .await;
    assert!(
        reply
            .header("set-cookie")
            .is_some_and(|cookie| cookie.starts_with("__Host-session-shop=; Max-Age=0;"))
    );
}

#[tokio::test]
async fn ending_all_of_the_own_sessions_by_cookie_clears_it() {
    let server = TestServer::start().await;
    let path = "/v1/me/sessions?include_current=true";
    for proxy_header in [None, Some("Basic YTpi")] {
        let ada = server.sign_in("ada").await;
        let request = server.delete(path).cookie(&ada.token).same_origin();
        let request = match proxy_header {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        let reply = request.send().await;
        let cookie = reply.header("set-cookie");
        assert!(
            cookie.is_some_and(|cookie| cookie.starts_with("__Host-session=; Max-Age=0;")),
            "{proxy_header:?}"
        );
    }
    let (ada, grace) = (server.sign_in("ada").await, server.sign_in("grace").await);
    let reply = server
        .delete("/v1/me/sessions")
        .cookie(&ada.token)
        .same_origin()
        .send()
        .await;
    assert_eq!(
        (reply.status, reply.header("set-cookie")),
        (200, None),
        "the current one stays"
    );
    let reply = server.delete(path).bearer(&grace.token).send().await;
    assert_eq!((reply.status, reply.header("set-cookie")), (200, None));
}

#[tokio::test]
async fn person_who_follows_a_link_from_elsewhere_is_let_through() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for (mode, status) in [("navigate", 200), ("cors", 403), ("no-cors", 403)] {
        let request = server
            .get("/v1/session")
            .cookie(&ada.token)
            .header("sec-fetch-site", "cross-site");
        let reply = request.header("sec-fetch-mode", mode).send().await;
        assert_eq!(reply.status, status, "{mode}: {}", reply.text);
    }
}

#[tokio::test]
async fn bearer_header_with_a_tab_does_not_lead_to_the_cookie() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    for value in ["Bearer\tsst_bad", "Bearer", "bearer  ", "BEARER sst_bad"] {
        let request = server
            .get("/v1/session")
            .cookie(&ada.token)
            .header("authorization", value);
        request.send().await.assert_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn refusal_speaks_of_no_cookie_where_none_was_sent() {
    let server = TestServer::start_with(|config| {
        for app in config.apps.values_mut() {
            app.anonymous = true;
        }
    })
    .await;
    let start = server.request(Method::POST, "/v1/me/session");
    let reply = start.header("sec-fetch-site", "cross-site").send().await;
    reply.assert_problem(403, "cross_site");
    let detail = reply.json["detail"].as_str().expect("a sentence");
    assert!(!detail.contains("cookie"), "{detail}");
}

#[tokio::test]
async fn cookie_whose_name_begins_with_another_space_is_not_ours() {
    let server = TestServer::start().await;
    let (ada, eve) = (server.sign_in("ada").await, server.sign_in("eve").await);
    for space in ["\u{85}", "\u{a0}", "\u{2000}", "\u{2028}", "\u{3000}"] {
        let planted = format!("{space}__Host-session={}", eve.token);
        for (cookies, answer) in [
            (planted.clone(), None),
            (format!("__Host-session={}; {planted}", ada.token), Some("ada")),
            (format!("{planted};\t __Host-session={} ", ada.token), Some("ada")),
        ] {
            let request = server.get("/v1/session").header("cookie", &cookies);
            let reply = request.send().await;
            match answer {
                None => reply.assert_problem(401, "no_session"),
                Some(user) => assert_eq!(reply.json["user_id"], user, "{cookies:?}: {}", reply.text),
            }
        }
    }
}

/// So many cookies of our name before a session's own.
fn behind(others: usize, other: impl Fn(usize) -> String, token: &str) -> String {
    let others: Vec<String> = (0..others)
        .map(|n| format!("__Host-session={}; ", other(n)))
        .collect();
    format!("{}__Host-session={token}", others.concat())
}

#[tokio::test]
async fn sign_out_ends_the_session_behind_any_number_of_cookies_that_are_no_tokens() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let cookies = behind(100, |n| format!("x{n}"), &ada.token);
    let reply = server
        .delete("/v1/session")
        .header("cookie", &cookies)
        .same_origin()
        .send()
        .await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "session_ended");
}

#[tokio::test]
async fn with_too_many_tokens_by_cookie_nothing_is_done() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let unknown = |_| Token::new(SessionId::from_bytes([9; 16]), Secret::random()).reveal();
    for (others, status) in [(16, 401), (15, 204)] {
        let cookies = behind(others, unknown, &ada.token);
        let reply = server
            .delete("/v1/session")
            .header("cookie", &cookies)
            .same_origin()
            .send()
            .await;
        if status == 401 {
            reply.assert_problem(401, "ambiguous_cookie");
            assert_eq!(reply.header("set-cookie"), None);
        }
        assert_eq!(reply.status, status, "{others}: {}", reply.text);
    }
}
