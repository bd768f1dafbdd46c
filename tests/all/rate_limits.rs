//! How often strangers and backends may ask, and what is told of those who send many wrong credentials.

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::address::IpPrivacy;
use sessiond::config::RateLimitsConfig;

use crate::harness::{Reply, Request, START, TestServer};
use crate::receiver::Receiver;
use crate::sse::open;
use crate::support::{HOUR, add_app, rows};

const HERE: &str = "203.0.113.7";
const ELSEWHERE: &str = "203.0.113.8";

/// A server behind a trusted proxy, with these limits and no others.
async fn limited(change: impl FnOnce(&mut RateLimitsConfig)) -> TestServer {
    TestServer::start_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        config.webhooks.allow_private = true;
        add_app(config, "shop");
        change(&mut config.rate_limits);
    })
    .await
}

/// Where an address may send three wrong credentials a minute.
async fn three_wrong() -> TestServer {
    limited(|limits| limits.wrong_credentials_per_minute = 3).await
}

trait From<'s> {
    fn from(self, address: &str) -> Request<'s>;
}

impl<'s> From<'s> for Request<'s> {
    fn from(self, address: &str) -> Request<'s> {
        self.header("x-forwarded-for", address)
    }
}

/// A check with a malformed token.
async fn wrong(server: &TestServer, address: &str) -> Reply {
    server.get("/v1/session").bearer("x").from(address).send().await
}

async fn wrong_times(server: &TestServer, address: &str, times: usize) {
    for _ in 0..times {
        wrong(server, address).await;
    }
}

/// A check that is right.
async fn right(server: &TestServer, token: &str, address: &str) -> Reply {
    server.get("/v1/session").bearer(token).from(address).send().await
}

async fn page(server: &TestServer, path: &str, address: &str) -> Reply {
    server.get(path).from(address).send().await
}

/// Asserts that there were too many; answers when to come again.
#[track_caller]
fn retry_after(reply: &Reply) -> u64 {
    reply.assert_problem(429, "too_many_requests");
    let secs = reply.header("retry-after").expect("when to come again");
    secs.parse().expect("seconds")
}

/// What an answer says of a budget: the policy, and what is left.
fn told(reply: &Reply) -> (Option<&str>, Option<&str>) {
    (reply.header("ratelimit-policy"), reply.header("ratelimit"))
}

/// The same token with another secret.
fn tampered(token: &str) -> String {
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    format!("{}{last}", &token[..67])
}

#[tokio::test]
async fn wrong_tokens_beyond_their_address_s_budget_are_429_and_a_right_one_is_accepted() {
    let server = three_wrong().await;
    let ada = server.sign_in("ada").await;
    for _ in 0..3 {
        wrong(&server, HERE).await.assert_problem(401, "invalid_token");
    }
    for _ in 0..5 {
        assert_eq!(retry_after(&wrong(&server, HERE).await), 20);
    }
    let reply = right(&server, &ada.token, HERE).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let by_key = server.get("/v1/users/ada").key(&server.key).from(HERE);
    assert_eq!(by_key.send().await.status, 200);
}

#[tokio::test]
async fn budget_is_an_address_s_own_and_an_ipv6_64_is_one_address() {
    let server = three_wrong().await;
    wrong_times(&server, HERE, 4).await;
    wrong(&server, ELSEWHERE)
        .await
        .assert_problem(401, "invalid_token");
    retry_after(&wrong(&server, &format!("::ffff:{HERE}")).await);

    for last in 1..=3 {
        let reply = wrong(&server, &format!("2001:db8:1:2::{last}")).await;
        reply.assert_problem(401, "invalid_token");
    }
    retry_after(&wrong(&server, "2001:db8:1:2:ffff::").await);
    wrong(&server, "2001:db8:1:3::1")
        .await
        .assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn budget_refills_evenly_up_to_what_it_was() {
    let server = three_wrong().await;
    wrong_times(&server, HERE, 3).await;
    server.clock.advance(std::time::Duration::from_millis(19_999));
    assert_eq!(retry_after(&wrong(&server, HERE).await), 1);
    server.clock.advance(std::time::Duration::from_millis(1));
    wrong(&server, HERE).await.assert_problem(401, "invalid_token");
    assert_eq!(retry_after(&wrong(&server, HERE).await), 20);
    server.advance(24 * HOUR);
    for _ in 0..3 {
        wrong(&server, HERE).await.assert_problem(401, "invalid_token");
    }
    retry_after(&wrong(&server, HERE).await);
}

#[tokio::test]
async fn budget_refills_while_the_time_of_day_stands_still() {
    let server = three_wrong().await;
    wrong_times(&server, HERE, 4).await;
    // As after a wall clock that was a day ahead has been set right.
    server.clock.raise_to(START.plus_millis(24 * 3_600_000));
    server.advance(20);
    wrong(&server, HERE).await.assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn answers_that_a_budget_was_spent_for_say_what_is_left() {
    let server = three_wrong().await;
    let policy = Some("\"wrong_credentials\";q=3;w=60");
    // What is refused is told when to come again, by both headers.
    let answers = [
        ("r=2;t=20", None),
        ("r=1;t=40", None),
        ("r=0;t=60", None),
        ("r=0;t=20", Some("20")),
    ];
    for (left, retry_after) in answers {
        let reply = wrong(&server, HERE).await;
        let left = format!("\"wrong_credentials\";{left}");
        assert_eq!(told(&reply), (policy, Some(left.as_str())));
        assert_eq!(reply.header("retry-after"), retry_after, "{left}");
    }
}

#[tokio::test]
async fn right_credentials_and_those_that_were_right_spend_nothing() {
    let server = limited(|limits| limits.wrong_credentials_per_minute = 1).await;
    let (ada, ended) = (server.sign_in("ada").await, server.sign_in("ada").await);
    let path = format!("/v1/sessions/{}/authenticate", ada.id);
    let body = json!({ "user_id": "ada" });
    let renewed = server.post(&path, body).key(&server.key).send().await;
    let token = renewed.json["token"].as_str().expect("a token");
    let path = format!("/v1/sessions/{}", ended.id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);

    for (credential, status) in [(token, 200), (&ada.token, 401), (&ended.token, 401)] {
        for _ in 0..3 {
            let reply = right(&server, credential, HERE).await;
            assert_eq!(
                (reply.status, told(&reply)),
                (status, (None, None)),
                "{}",
                reply.text
            );
            let tag = server.get("/v1/session?tag=staff").bearer(credential);
            assert_eq!(told(&tag.from(HERE).send().await), (None, None));
        }
    }
    // What a backend's callers send is the backend's affair.
    for _ in 0..3 {
        let check = server.post("/v1/sessions/check", json!({ "token": "x" }));
        let reply = check.key(&server.key).from(HERE).send().await;
        assert_eq!(
            (reply.status, told(&reply)),
            (200, (None, None)),
            "{}",
            reply.text
        );
    }
    let sign_out = server.delete("/v1/session").bearer(&ended.token).from(HERE);
    let reply = sign_out.send().await;
    assert_eq!((reply.status, told(&reply)), (204, (None, None)));
    wrong(&server, HERE).await.assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn every_kind_of_wrong_credential_spends_of_one_budget() {
    let server = limited(|limits| limits.wrong_credentials_per_minute = 1).await;
    let ada = server.sign_in("ada").await;
    let unknown = tampered(&ada.token);
    let wrong_key = tampered(&server.key);
    let more_than_are_looked_at = vec![unknown.as_str(); 17].join("; __Host-session=");
    let (bearer, cookie) = ("authorization", "cookie");
    let session = "/v1/session";
    let requests = [
        (Method::GET, session, bearer, unknown.as_str()),
        (Method::HEAD, session, bearer, "x"),
        (Method::GET, "/v1/session?app=shop", bearer, &ada.token),
        (Method::GET, session, bearer, &server.key),
        (Method::GET, session, cookie, &unknown),
        (Method::GET, session, cookie, &more_than_are_looked_at),
        (Method::GET, "/v1/me/sessions", cookie, "x"),
        (Method::POST, "/v1/session/renew", bearer, &unknown),
        (Method::DELETE, session, bearer, "x"),
        (Method::DELETE, session, bearer, &unknown),
        (Method::DELETE, "/v1/me/sessions", bearer, &unknown),
        (Method::GET, "/v1/me/events", bearer, &unknown),
        (Method::GET, "/v1/sessions", bearer, &wrong_key),
        (Method::GET, "/v1/events", bearer, &ada.token),
    ];
    for (number, (method, path, how, credential)) in requests.into_iter().enumerate() {
        let name = format!("{method} {path} {credential}");
        let request = || match how {
            "cookie" => server.request(method.clone(), path).cookie(credential),
            _ => server.request(method.clone(), path).bearer(credential),
        };
        let address = format!("198.51.100.{number}");
        let first = request().from(&address).send().await;
        assert!(
            [401, 204].contains(&first.status),
            "{name}: {} {}",
            first.status,
            first.text
        );
        let left = Some("\"wrong_credentials\";r=0;t=60");
        assert_eq!(told(&first).1, left, "{name}");
        let second = request().from(&address).send().await;
        assert_eq!(
            (second.status, told(&second).1),
            (429, left),
            "{name}: {}",
            second.text
        );
        assert_eq!(wrong(&server, &address).await.status, 429, "{name}");
    }
    assert_eq!(right(&server, &ada.token, HERE).await.status, 200);
}

#[tokio::test]
async fn requests_without_a_credential_are_so_many_from_an_address() {
    let server = limited(|limits| limits.unauthenticated_per_minute = 1).await;
    let requests = [
        (Method::GET, "/", 200),
        (Method::GET, "/docs", 200),
        (Method::GET, "/openapi.json", 200),
        (Method::GET, "/static/app.js", 200),
        (Method::GET, "/static/none.js", 404),
        (Method::GET, "/v1/whoami", 200),
        (Method::GET, "/none", 404),
        (Method::GET, "/metrics", 404),
        // Routes take a letter that is percent-encoded for the letter.
        (Method::GET, "/%64ocs", 200),
        (Method::GET, "/openapi%2Ejson", 200),
        (Method::GET, "/stati%63/app.js", 200),
        (Method::GET, "/v1/%77hoami", 200),
        (Method::GET, "/metric%73", 404),
        (Method::GET, "/v1/session?x=1", 422),
        (Method::PUT, "/v1/session", 405),
        (Method::POST, "/v1/me/session", 404),
        (Method::GET, "/v1/session", 401),
        (Method::HEAD, "/v1/session", 401),
        (Method::DELETE, "/v1/session", 204),
        (Method::POST, "/v1/session/renew", 401),
        (Method::GET, "/v1/me/sessions", 401),
        (Method::GET, "/v1/me/events", 401),
        (Method::GET, "/v1/sessions", 401),
        (Method::GET, "/v1/events", 401),
    ];
    for (number, (method, path, status)) in requests.into_iter().enumerate() {
        let address = format!("198.51.100.{number}");
        let ask = || server.request(method.clone(), path).from(&address).send();
        let first = ask().await;
        assert_eq!(first.status, status, "{method} {path}: {}", first.text);
        let policy = Some("\"unauthenticated\";q=1;w=60");
        let left = Some("\"unauthenticated\";r=0;t=60");
        assert_eq!(told(&first), (policy, left), "{method} {path}");
        let second = ask().await;
        assert_eq!(
            (second.status, told(&second)),
            (429, (policy, left)),
            "{method} {path}"
        );
        assert_eq!(second.header("retry-after"), Some("60"), "{method} {path}");
        server.advance(60);
        assert_eq!(ask().await.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn whoever_has_a_right_credential_gets_pages_and_answers_whatever_others_at_the_address_did() {
    let server = TestServer::start_with(|config| {
        config.rate_limits.unauthenticated_per_minute = 3;
        for app in config.apps.values_mut() {
            app.anonymous = true;
        }
    })
    .await;
    let ada = server.sign_in("ada").await;
    for _ in 0..5 {
        server.get("/").send().await;
    }
    retry_after(&server.get("/").send().await);
    for path in ["/", "/static/app.js", "/v1/session", "/v1/me/sessions"] {
        let reply = server.get(path).cookie(&ada.token).send().await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    }
    let visit = || server.request(Method::POST, "/v1/me/session").same_origin();
    assert_eq!(visit().cookie(&ada.token).send().await.status, 200);
    for cookie in [tampered(&ada.token).as_str(), "x"] {
        retry_after(&server.get("/").cookie(cookie).send().await);
        retry_after(&visit().cookie(cookie).send().await);
    }
    retry_after(&visit().send().await);
    for (path, status) in [("/v1/sessions", 405), ("/none", 404)] {
        let ask = || server.request(Method::PUT, path);
        for reply in [ask().key(&server.key), ask().bearer(&ada.token)] {
            assert_eq!(reply.send().await.status, status, "{path}");
        }
        retry_after(&ask().bearer(&tampered(&server.key)).send().await);
    }
    server.create(json!({ "user_id": "bob" })).await;
}

#[tokio::test]
async fn probes_and_allowed_readers_of_metrics_are_always_answered() {
    let server = TestServer::start_with(|config| config.rate_limits.unauthenticated_per_minute = 1).await;
    server.get("/").send().await;
    retry_after(&server.get("/").send().await);
    for path in ["/healthz", "/readyz", "/metrics"] {
        for _ in 0..3 {
            let reply = server.get(path).send().await;
            assert_eq!((reply.status, told(&reply)), (200, (None, None)), "{path}");
        }
    }
}

#[tokio::test]
async fn pages_below_a_base_path_are_limited_too() {
    let server = TestServer::start_with(|config| {
        config.server.base_path = "/auth".into();
        config.rate_limits.unauthenticated_per_minute = 2;
    })
    .await;
    for path in ["/", "/static/app.js"] {
        assert_eq!(server.get(path).send().await.status, 200, "{path}");
    }
    retry_after(&server.get("/").send().await);
}

#[tokio::test]
async fn api_key_has_a_budget_of_its_own_where_that_is_set() {
    let server = limited(|limits| limits.per_key_per_second = 2).await;
    let (key, shop) = (server.key.clone(), server.key_of("shop").await);
    let ask = |key: &str| server.get("/v1/users/ada").key(key).send();
    // Whoever knows the id of a key spends nothing of it.
    for _ in 0..3 {
        let reply = ask(&tampered(&key)).await;
        reply.assert_problem(401, "invalid_api_key");
        assert_eq!(told(&reply), (None, None));
    }
    for left in ["\"key\";r=1;t=1", "\"key\";r=0;t=1"] {
        let reply = ask(&key).await;
        assert_eq!(
            (reply.status, told(&reply)),
            (200, (Some("\"key\";q=2;w=1"), Some(left)))
        );
    }
    assert_eq!(retry_after(&ask(&key).await), 1);
    assert_eq!(ask(&shop).await.status, 200, "another key");
    server.clock.advance(std::time::Duration::from_millis(500));
    assert_eq!(ask(&key).await.status, 200);
    retry_after(&ask(&key).await);
}

#[tokio::test]
async fn nothing_is_limited_where_it_is_switched_off() {
    let server = limited(|_| {}).await;
    for _ in 0..300 {
        let reply = wrong(&server, HERE).await;
        reply.assert_problem(401, "invalid_token");
        assert_eq!(told(&reply), (None, None));
    }
    for _ in 0..10 {
        let page = page(&server, "/", HERE).await;
        assert_eq!((page.status, told(&page)), (200, (None, None)));
        let by_key = server.get("/v1/users/ada").key(&server.key).send().await;
        assert_eq!((by_key.status, told(&by_key)), (200, (None, None)));
    }
    assert_eq!(suspicious(&server).await, [] as [Value; 0]);
}

#[tokio::test]
async fn refused_requests_are_counted_by_limit() {
    let server = TestServer::start_with(|config| {
        config.rate_limits = RateLimitsConfig {
            per_key_per_second: 1,
            unauthenticated_per_minute: 2,
            wrong_credentials_per_minute: 1,
        };
    })
    .await;
    let ada = server.sign_in("ada").await;
    let counted = async |expected: [(&str, u32); 3]| {
        let text = server.get("/metrics").send().await.text;
        for (limit, count) in expected {
            let line = format!("sessiond_rate_limited_total{{limit=\"{limit}\"}} {count}");
            assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
        }
    };
    counted([("key", 0), ("unauthenticated", 0), ("wrong_credentials", 0)]).await;
    server.get("/v1/users/ada").key(&server.key).send().await;
    for _ in 0..3 {
        server.check("x").await;
    }
    for _ in 0..5 {
        server.get("/").send().await;
    }
    // Let through for its cookie, so that it was not refused.
    assert_eq!(server.get("/").cookie(&ada.token).send().await.status, 200);
    counted([("key", 1), ("unauthenticated", 3), ("wrong_credentials", 2)]).await;
}

/// The events of wrong credentials, once all that was queued is written.
async fn suspicious(server: &TestServer) -> Vec<Value> {
    server.sign_in("last in the queue").await;
    let events = rows(
        server,
        "SELECT app, user_id, session_id, client_session_id, reason, device_info, ip_address, location, occurred_at,
             data FROM events WHERE type = 'session.suspicious' ORDER BY id",
    );
    events
        .into_iter()
        .map(|mut event| {
            let data = event["data"].as_str().expect("data");
            event["data"] = serde_json::from_str(data).expect("JSON");
            event
        })
        .collect()
}

/// How many wrong ones each event tells of.
async fn counts(server: &TestServer) -> Vec<Value> {
    let events = suspicious(server).await.into_iter();
    events.map(|event| event["data"]["count"].clone()).collect()
}

#[tokio::test]
async fn many_wrong_credentials_from_an_address_are_told_about_nobody() {
    let server = three_wrong().await;
    let ada = server.sign_in("ada").await;
    let guess = tampered(&ada.token);
    wrong_times(&server, HERE, 3).await;
    assert_eq!(suspicious(&server).await, [] as [Value; 0]);
    let check = server.get("/v1/session?app=shop").bearer(&guess).from(HERE);
    retry_after(&check.send().await);

    let told = suspicious(&server).await;
    let [event] = told.as_slice() else {
        panic!("{told:#?}");
    };
    let expected = json!({
        "app": "shop", "user_id": null, "session_id": null, "client_session_id": null, "reason": null,
        "device_info": null, "ip_address": HERE, "location": null, "occurred_at": START.as_millis(),
        "data": { "count": 4, "explanation": event["data"]["explanation"] },
    });
    assert_eq!(event, &expected);
    let explanation = event["data"]["explanation"].as_str().expect("a sentence");
    assert!(explanation.contains("wrong session tokens"), "{explanation}");
    let shown = event.to_string();
    assert!(
        !shown.contains(&guess[4..]) && !shown.contains(&ada.id),
        "{shown}"
    );
}

#[tokio::test]
async fn event_has_as_much_of_the_address_as_is_to_be_kept() {
    for (rule, kept) in [
        (IpPrivacy::Truncate, json!("203.0.113.0")),
        (IpPrivacy::None, Value::Null),
    ] {
        let server = TestServer::start_with(|config| {
            config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
            config.sessions.ip_privacy = rule;
            config.rate_limits.wrong_credentials_per_minute = 1;
        })
        .await;
        wrong_times(&server, HERE, 1).await;
        wrong_times(&server, ELSEWHERE, 1).await;
        assert_eq!(
            suspicious(&server).await.len(),
            0,
            "{rule:?}: neighbours have their own budgets"
        );
        wrong_times(&server, HERE, 1).await;
        let told = suspicious(&server).await;
        assert_eq!((told.len(), &told[0]["ip_address"]), (1, &kept), "{rule:?}");
    }
}

#[tokio::test]
async fn address_that_goes_on_is_told_of_once_an_hour_with_all_that_came_since() {
    let server = three_wrong().await;
    wrong_times(&server, HERE, 10).await;
    server.advance(HOUR - 1);
    wrong_times(&server, HERE, 5).await;
    assert_eq!(counts(&server).await, [4]);
    server.advance(1);
    wrong_times(&server, HERE, 2).await;
    assert_eq!(
        counts(&server).await,
        [json!(4), json!(6)],
        "since the budget was whole"
    );
    wrong_times(&server, HERE, 5).await;
    server.advance(HOUR);
    wrong_times(&server, HERE, 3).await;
    assert_eq!(counts(&server).await.len(), 2, "within the budget again");
}

#[tokio::test]
async fn attacker_with_many_addresses_makes_a_bounded_number_of_events() {
    let server = limited(|limits| limits.wrong_credentials_per_minute = 1).await;
    let attack = async |network: u8| {
        for host in 0..70 {
            wrong_times(&server, &format!("198.18.{network}.{host}"), 2).await;
        }
    };
    attack(1).await;
    assert_eq!(counts(&server).await.len(), 60);
    server.advance(60);
    attack(2).await;
    assert_eq!(counts(&server).await.len(), 61, "one a minute");
    server.advance(24 * HOUR);
    attack(3).await;
    assert_eq!(counts(&server).await.len(), 121);
}

#[tokio::test]
async fn event_about_nobody_reaches_backends_by_page_stream_and_webhook_and_no_person() {
    let server = three_wrong().await;
    let ada = server.sign_in("ada").await;
    let mut receiver = Receiver::start().await;
    let types = json!(["session.suspicious"]);
    let webhook = server.post("/v1/webhooks", json!({ "url": receiver.base, "types": types }));
    assert_eq!(webhook.key(&server.key).send().await.status, 201);
    let mut stream = open(server.get("/v1/events").key(&server.key)).await;
    let mut own = open(server.get("/v1/me/events").bearer(&ada.token)).await;

    wrong_times(&server, HERE, 4).await;
    wrong_times(&server, ELSEWHERE, 4).await;
    server.sign_in("ada").await;

    let page = server.get("/v1/events?types=session.suspicious").key(&server.key);
    let shown = page.send().await.json["events"].clone();
    let addresses: Vec<&Value> = shown
        .as_array()
        .expect("events")
        .iter()
        .map(|event| &event["ip_address"])
        .collect();
    assert_eq!(addresses, [&json!(HERE), &json!(ELSEWHERE)]);
    for index in 0..2 {
        assert_eq!(
            (&shown[index]["user_id"], &shown[index]["session_id"]),
            (&Value::Null, &Value::Null)
        );
        let message = stream.next().await.expect("a message");
        assert_eq!(
            (message.event(), message.json()),
            ("session.suspicious", shown[index].clone())
        );
        let received = receiver.next().await;
        assert_eq!(
            (received.kind(), &received.json["data"]),
            ("session.suspicious", &shown[index])
        );
    }
    let message = own.next().await.expect("a message");
    assert_eq!(message.event(), "session.created", "the first that concerns them");
    let mine = server.get("/v1/me/events").bearer(&ada.token).send().await;
    assert!(!mine.text.contains("suspicious"), "{}", mine.text);
}

#[tokio::test]
async fn wrong_credential_is_answered_while_nothing_can_be_written() {
    let server = three_wrong().await;
    let lock = rusqlite::Connection::open(server.database()).expect("opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
    wrong_times(&server, HERE, 3).await;
    assert_eq!(retry_after(&wrong(&server, HERE).await), 20);
    lock.execute_batch("ROLLBACK").expect("let go");
    assert_eq!(counts(&server).await, [4]);
}
