//! Creating sessions on the service plane: what the answer and the row say, limits, and what is refused.

use std::sync::Arc;

use serde_json::{Value, json};
use sessiond::manager::SignIn;
use sessiond::session::AppName;
use sessiond::user::UserId;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::{FIREFOX_ON_LINUX, Reply, TestServer, events};
use crate::support::{DAY, HOUR, add_app, at, count, ids, millis_after, rows};

async fn post(server: &TestServer, body: Value) -> Reply {
    server.post("/v1/sessions", body).key(&server.key).send().await
}

async fn set_user(server: &TestServer, user_id: &str, patch: Value) {
    let reply = server
        .patch(&format!("/v1/users/{user_id}"), patch)
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn user(server: &TestServer, user_id: &str) -> Value {
    let reply = server
        .get(&format!("/v1/users/{user_id}"))
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json
}

/// Asserts that nothing at all was stored.
#[track_caller]
fn assert_untouched(server: &TestServer, case: &str) {
    for table in ["sessions", "users", "events"] {
        assert_eq!(
            count(server, &format!("SELECT count(*) FROM {table}")),
            0,
            "{case}: {table}"
        );
    }
}

fn kinds(server: &TestServer) -> Vec<String> {
    events(&server.database())
        .into_iter()
        .map(|(kind, _)| kind)
        .collect()
}

// What is answered and stored

#[tokio::test]
async fn created_session_shows_device_location_and_deadlines() {
    let server = TestServer::start().await;

    let ada = server
        .create(
            json!({ "user_id": "ada", "user_agent": FIREFOX_ON_LINUX, "ip_address": "193.0.6.139",
                        "name": "Desk", "auth": { "tags": ["staff"] } }),
        )
        .await;

    let expected = json!({
        "id": ada.id, "user_id": "ada", "device_info": "Firefox on Linux", "ip_address": "193.0.6.139",
        "location": "NL", "created_at": at(0), "last_activity_at": at(0), "expires_at": at(7 * DAY),
        "is_revoked": false, "is_current": true, "app": "default", "status": "active", "name": "Desk",
        "is_trusted": false,
        "device": { "browser": "Firefox", "browser_version": "150.0", "os": "Linux", "os_version": null,
                    "type": "desktop", "is_bot": false },
        "user_agent": FIREFOX_ON_LINUX, "last_ip_address": null, "place": { "city": null, "country": "NL" },
        "authenticated_at": at(0), "absolute_expires_at": at(30 * DAY), "ended_at": null,
        "revoked_reason": null, "ended_by": null, "auth": { "tags": ["staff"] }, "identities": {},
        "client_session_id": null, "data_version": 0,
    });
    assert_eq!(
        ada.body["session"].to_string(),
        expected.to_string(),
        "fields, values and order"
    );
    assert_eq!(ada.body["evicted"], json!([]));
    let fields: Vec<&String> = ada.body.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["session", "token", "set_cookie", "evicted"]);
}

#[tokio::test]
async fn created_session_has_one_created_event_in_its_words() {
    let server = TestServer::start().await;

    let ada = server
        .create(json!({ "user_id": "ada", "user_agent": FIREFOX_ON_LINUX, "ip_address": "193.0.6.139" }))
        .await;

    let rows = rows(
        &server,
        "SELECT type, occurred_at, recorded_at, app, user_id, session_id, reason, ended_by, device_info,
                ip_address, location, data FROM events",
    );
    let now = server.clock.now().as_millis();
    let expected = json!([{
        "type": "session.created", "occurred_at": now, "recorded_at": now, "app": "default", "user_id": "ada",
        "session_id": ada.id.replace('-', ""), "reason": null, "ended_by": null,
        "device_info": "Firefox on Linux", "ip_address": "193.0.6.139", "location": "NL", "data": null,
    }]);
    assert_eq!(Value::Array(rows), expected);
}

#[tokio::test]
async fn created_token_is_accepted_and_offered_as_cookie() {
    let server = TestServer::start().await;

    let ada = server.sign_in("ada").await;

    assert_eq!((ada.token.len(), &ada.token[..4]), (68, "sst_"));
    let cookie = format!(
        "__Host-session={}; Max-Age={}; Path=/; Secure; HttpOnly; SameSite=Lax",
        ada.token,
        30 * DAY
    );
    assert_eq!(ada.body["set_cookie"], cookie);
    assert_eq!(server.check(&ada.token).await.status, 200);
}

#[tokio::test]
async fn what_an_address_does_not_tell_is_null_and_the_address_is_kept() {
    let server = TestServer::start().await;
    let cases = [
        ("private", json!("192.168.1.20"), json!("192.168.1.20")),
        ("loopback", json!("127.0.0.1"), json!("127.0.0.1")),
        ("loopback, IPv6", json!("::1"), json!("::1")),
        ("link-local", json!("169.254.7.7"), json!("169.254.7.7")),
        ("link-local, IPv6", json!("fe80::1"), json!("fe80::1")),
        ("multicast", json!("224.0.0.251"), json!("224.0.0.251")),
        ("IPv4 in IPv6", json!("::ffff:10.0.0.9"), json!("10.0.0.9")),
        ("a host name", json!("localhost"), Value::Null),
        ("with a port", json!("192.0.2.1:80"), Value::Null),
        ("empty", json!(""), Value::Null),
        ("null", Value::Null, Value::Null),
    ];
    for (case, given, kept) in cases {
        let session = server
            .create(json!({ "user_id": "ada", "ip_address": given }))
            .await;
        let session = &session.body["session"];
        assert_eq!(session["ip_address"], kept, "{case}");
        assert_eq!(
            (&session["location"], &session["place"]),
            (&Value::Null, &Value::Null),
            "{case}"
        );
    }
}

#[tokio::test]
async fn location_can_be_off() {
    let server = TestServer::start_with(|config| config.location.enabled = false).await;

    let ada = server
        .create(json!({ "user_id": "ada", "ip_address": "193.0.6.139" }))
        .await;

    let session = &ada.body["session"];
    assert_eq!(
        (&session["ip_address"], &session["location"]),
        (&json!("193.0.6.139"), &Value::Null)
    );
}

#[tokio::test]
async fn missing_or_blank_user_agent_leaves_the_device_null() {
    let server = TestServer::start().await;
    for given in [Value::Null, json!(""), json!("  "), json!("\u{1}\u{7f}")] {
        let session = server
            .create(json!({ "user_id": "ada", "user_agent": given }))
            .await;
        let session = &session.body["session"];
        for field in ["user_agent", "device", "device_info"] {
            assert_eq!(session[field], Value::Null, "{given}: {field}");
        }
    }
}

#[tokio::test]
async fn long_user_agent_is_cut_between_characters() {
    let server = TestServer::start().await;
    let given = format!("x{}", "é".repeat(400));

    let ada = server.create(json!({ "user_agent": given })).await;

    // 1 byte and 255 times 2: a 256th character would not fit whole into 512.
    let kept = format!("x{}", "é".repeat(255));
    assert_eq!(ada.body["session"]["user_agent"], kept);
}

#[tokio::test]
async fn client_hints_refine_the_device() {
    let server = TestServer::start().await;
    let chrome = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                  Chrome/145.0.0.0 Safari/537.36";

    let ada = server
        .create(json!({ "user_agent": chrome, "client_hints": {
            "platform": "Windows", "platform_version": "15.0.0", "mobile": false,
            "brands": [{ "brand": "Chromium", "version": "145" }, { "brand": "Google Chrome", "version": "145" }] } }))
        .await;

    let session = &ada.body["session"];
    assert_eq!(session["device_info"], "Chrome on Windows");
    assert_eq!(session["device"]["os_version"], "11");
}

#[tokio::test]
async fn a_body_may_be_absent_empty_or_all_null() {
    let server = TestServer::start().await;
    let nothing = server
        .request(reqwest::Method::POST, "/v1/sessions")
        .key(&server.key)
        .send()
        .await;
    let nulls = post(
        &server,
        json!({ "user_id": null, "ip_address": null, "user_agent": null, "client_hints": null, "tier": null,
                "auth": null, "name": null, "idle_timeout_secs": null, "absolute_timeout_secs": null,
                "remember": null, "authenticated_at": null }),
    )
    .await;
    for (case, reply) in [
        ("absent", nothing),
        ("empty", post(&server, json!({})).await),
        ("nulls", nulls),
    ] {
        assert_eq!(reply.status, 201, "{case}: {}", reply.text);
        let session = &reply.json["session"];
        for field in [
            "user_id",
            "authenticated_at",
            "name",
            "auth",
            "ip_address",
            "device",
        ] {
            assert_eq!(session[field], Value::Null, "{case}: {field}");
        }
        assert_eq!(session["expires_at"], at(7 * DAY), "{case}");
    }
}

// Deadlines

#[tokio::test]
async fn timeouts_may_shorten_the_policy_and_are_cut_to_it() {
    let server = TestServer::start().await;
    let cases = [
        ("none: the policy", json!({}), 7 * DAY, 30 * DAY),
        ("shorter idle", json!({ "idle_timeout_secs": 60 }), 60, 30 * DAY),
        (
            "longer idle is cut",
            json!({ "idle_timeout_secs": 8 * DAY }),
            7 * DAY,
            30 * DAY,
        ),
        (
            "shorter absolute",
            json!({ "absolute_timeout_secs": 10 * DAY }),
            7 * DAY,
            10 * DAY,
        ),
        (
            "absolute before idle",
            json!({ "absolute_timeout_secs": 90 }),
            90,
            90,
        ),
        (
            "longer absolute is cut",
            json!({ "absolute_timeout_secs": 31 * DAY }),
            7 * DAY,
            30 * DAY,
        ),
        (
            "largest numbers are cut",
            json!({ "idle_timeout_secs": u64::MAX, "absolute_timeout_secs": u64::MAX }),
            7 * DAY,
            30 * DAY,
        ),
        ("remembered", json!({ "remember": true }), 30 * DAY, 90 * DAY),
        ("not remembered", json!({ "remember": false }), 7 * DAY, 30 * DAY),
        (
            "remembered and shorter",
            json!({ "remember": true, "idle_timeout_secs": 8 * DAY, "absolute_timeout_secs": 40 * DAY }),
            8 * DAY,
            40 * DAY,
        ),
        (
            "remembered and longer",
            json!({ "remember": true, "idle_timeout_secs": 31 * DAY, "absolute_timeout_secs": 91 * DAY }),
            30 * DAY,
            90 * DAY,
        ),
    ];
    for (case, body, expires, absolute) in cases {
        let reply = post(&server, body).await;
        assert_eq!(reply.status, 201, "{case}: {}", reply.text);
        let session = &reply.json["session"];
        assert_eq!(session["expires_at"], at(expires), "{case}");
        assert_eq!(session["absolute_expires_at"], at(absolute), "{case}");
    }
}

#[tokio::test]
async fn each_app_has_its_own_policy() {
    let server = TestServer::start_with(|config| {
        add_app(config, "shop");
        let shop = config
            .apps
            .get_mut(&AppName::parse("shop").expect("a name"))
            .expect("added");
        shop.idle_timeout_secs = HOUR;
        shop.absolute_timeout_secs = DAY;
    })
    .await;
    let key = server.key_of("shop").await;

    let reply = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&key)
        .send()
        .await;

    let session = &reply.json["session"];
    assert_eq!(session["app"], "shop");
    assert_eq!(
        (&session["expires_at"], &session["absolute_expires_at"]),
        (&json!(at(HOUR)), &json!(at(DAY)))
    );
}

// Limits

#[tokio::test]
async fn at_the_limit_the_oldest_sign_in_is_evicted_before_the_created_event() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "tier": "basic" })).await;
    let first = server.sign_in("ada").await;
    server.advance(1);
    let second = server.sign_in("ada").await;
    server.advance(1);
    // Being used does not make a sign-in younger.
    assert_eq!(server.check(&first.token).await.status, 200);

    let third = server.sign_in("ada").await;

    let evicted = &third.body["evicted"];
    assert_eq!(evicted.as_array().map(Vec::len), Some(1));
    assert_eq!(evicted[0]["id"], first.id);
    let ending = [
        "status",
        "is_revoked",
        "is_current",
        "ended_at",
        "revoked_reason",
        "ended_by",
    ];
    let ending: Vec<&Value> = ending.iter().map(|field| &evicted[0][*field]).collect();
    let revoked = json!(["revoked", true, false, at(2), "session_limit_exceeded", "limit"]);
    assert_eq!(json!(ending), revoked);
    server
        .check(&first.token)
        .await
        .assert_problem(401, "session_ended");
    assert_eq!(server.check(&second.token).await.status, 200);
    assert_eq!(server.check(&third.token).await.status, 200);
    let told = events(&server.database());
    assert_eq!(
        told[2..],
        [
            ("session.evicted".into(), Some(first.id)),
            ("session.created".into(), Some(third.id))
        ]
    );
}

#[tokio::test]
async fn sign_ins_of_the_same_millisecond_are_evicted_in_the_order_of_their_ids() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "max_sessions": 2 })).await;
    let first = server.sign_in("ada").await;
    let second = server.sign_in("ada").await;

    let third = server.sign_in("ada").await;
    let fourth = server.sign_in("ada").await;

    assert!(first.id < second.id && second.id < third.id && third.id < fourth.id);
    assert_eq!(third.body["evicted"][0]["id"], first.id);
    assert_eq!(fourth.body["evicted"][0]["id"], second.id);
}

#[tokio::test]
async fn below_the_limit_nothing_is_evicted() {
    let server = TestServer::start().await;
    for tier in ["basic", "essential", "plus", "premium"] {
        let max = user_max(&server, tier).await;
        for number in 1..=max {
            let created = server.create(json!({ "user_id": tier, "tier": tier })).await;
            assert_eq!(created.body["evicted"], json!([]), "{tier}, {number} of {max}");
        }
        let created = server.create(json!({ "user_id": tier })).await;
        assert_eq!(
            created.body["evicted"].as_array().map(Vec::len),
            Some(1),
            "{tier}: one too many"
        );
        assert_eq!(user(&server, tier).await["active_count"], max, "{tier}");
    }
}

/// The maximum of a tier, by asking for a user who has it.
async fn user_max(server: &TestServer, tier: &str) -> u64 {
    set_user(server, tier, json!({ "tier": tier })).await;
    user(server, tier).await["effective_max_sessions"]
        .as_u64()
        .expect("a number")
}

#[tokio::test]
async fn unlimited_evicts_nothing() {
    let server = TestServer::start().await;
    for number in 1..=15 {
        let created = server.create(json!({ "user_id": "ada", "tier": "pro" })).await;
        assert_eq!(created.body["evicted"], json!([]), "{number}");
    }
    let ada = user(&server, "ada").await;
    assert_eq!(
        (&ada["active_count"], &ada["effective_max_sessions"]),
        (&json!(15), &json!(10_000))
    );
}

#[tokio::test]
async fn user_maximum_beats_the_tier() {
    let server = TestServer::start().await;
    for (case, user_id, max) in [("lower", "low", 1), ("higher", "high", 4)] {
        set_user(&server, user_id, json!({ "max_sessions": max })).await;
        for _ in 0..max + 2 {
            server
                .create(json!({ "user_id": user_id, "tier": "basic" }))
                .await;
        }
        assert_eq!(user(&server, user_id).await["active_count"], max, "{case}");
    }
}

#[tokio::test]
async fn anonymous_sessions_have_no_limit() {
    let server = TestServer::start_with(|config| config.sessions.touch_interval_secs = 0).await;
    let first = server.create(json!({})).await;
    for number in 0..12 {
        let created = server.create(json!({})).await;
        assert_eq!(created.body["evicted"], json!([]), "{number}");
    }
    let reply = server.check(&first.token).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-session-user-id"), None, "nobody's");
}

#[tokio::test]
async fn parallel_creates_never_leave_more_than_the_maximum() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "max_sessions": 3 })).await;
    let start = Arc::new(Barrier::new(200));
    let mut creates = JoinSet::new();
    for _ in 0..200 {
        let (manager, start) = (Arc::clone(&server.manager), Arc::clone(&start));
        let sign_in = SignIn {
            user_id: UserId::parse("ada"),
            ..SignIn::default()
        };
        creates.spawn(async move {
            start.wait().await;
            manager
                .create(&AppName::default_app(), sign_in)
                .await
                .expect("created")
        });
    }

    let created = creates.join_all().await;

    assert_eq!(user(&server, "ada").await["active_count"], 3);
    assert_eq!(
        created
            .iter()
            .map(|signed_in| signed_in.evicted.len())
            .sum::<usize>(),
        197
    );
    let told = rows(
        &server,
        "SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY type",
    );
    let expected = [("session.created", 200), ("session.evicted", 197)];
    assert_eq!(told, expected.map(|(kind, n)| json!({ "type": kind, "n": n })));
}

#[tokio::test]
async fn limits_of_one_user_and_app_concern_no_other() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let key = server.key_of("shop").await;
    let bob = server.sign_in("bob").await;
    let elsewhere = server
        .post("/v1/sessions", json!({ "user_id": "ada" }))
        .key(&key)
        .send()
        .await;
    set_user(&server, "ada", json!({ "max_sessions": 1 })).await;
    let first = server.sign_in("ada").await;

    let second = server.sign_in("ada").await;

    assert_eq!(second.body["evicted"][0]["id"], first.id);
    assert_eq!(server.check(&bob.token).await.status, 200);
    let token = elsewhere.json["token"].as_str().expect("a token");
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
async fn tier_given_at_creation_is_stored_and_counts_at_once() {
    let server = TestServer::start().await;
    for _ in 0..4 {
        server.sign_in("ada").await;
    }

    let created = server.create(json!({ "user_id": "ada", "tier": "basic" })).await;

    assert_eq!(created.body["evicted"].as_array().map(Vec::len), Some(3));
    let ada = user(&server, "ada").await;
    assert_eq!((&ada["tier"], &ada["active_count"]), (&json!("basic"), &json!(2)));
}

#[tokio::test]
async fn unknown_tier_is_refused_and_not_taken_for_the_default() {
    let server = TestServer::start().await;
    for tier in ["gold", "", "Basic", "basic "] {
        let reply = post(&server, json!({ "user_id": "ada", "tier": tier })).await;
        reply.assert_problem(422, "validation_failed");
        assert_eq!(reply.wrong_fields(), ["tier"], "{tier}");
    }
    assert_untouched(&server, "unknown tiers");
}

#[tokio::test]
async fn anonymous_session_cannot_have_a_tier() {
    let server = TestServer::start().await;
    let reply = post(&server, json!({ "tier": "basic" })).await;
    reply.assert_problem(422, "validation_failed");
    assert_eq!(reply.wrong_fields(), ["tier"]);
    assert_untouched(&server, "anonymous");
}

#[tokio::test]
async fn lowered_limit_evicts_all_surplus_at_the_next_create() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "max_sessions": 5 })).await;
    let mut five = Vec::new();
    for _ in 0..5 {
        five.push(server.sign_in("ada").await.id);
        server.advance(1);
    }
    set_user(&server, "ada", json!({ "max_sessions": 1 })).await;
    assert_eq!(
        user(&server, "ada").await["active_count"],
        5,
        "lowering alone ends nothing"
    );

    let last = server.sign_in("ada").await;

    let evicted = last.body["evicted"].as_array().expect("a list");
    let evicted: Vec<&str> = evicted
        .iter()
        .filter_map(|session| session["id"].as_str())
        .collect();
    assert_eq!(evicted, five, "oldest sign-in first");
    let told = events(&server.database()).split_off(5);
    let mut expected: Vec<_> = five
        .into_iter()
        .map(|id| ("session.evicted".to_owned(), Some(id)))
        .collect();
    expected.push(("session.created".into(), Some(last.id.clone())));
    assert_eq!(told, expected);
    let list = server.get("/v1/users/ada/sessions").key(&server.key).send().await;
    assert_eq!(ids(&list), [last.id]);
}

#[tokio::test]
async fn maximum_of_zero_refuses_and_changes_nothing() {
    let server = TestServer::start().await;
    let before = server.sign_in("ada").await;
    set_user(&server, "ada", json!({ "max_sessions": 0 })).await;

    let reply = post(&server, json!({ "user_id": "ada", "tier": "plus" })).await;

    reply.assert_problem(409, "session_limit_reached");
    assert_eq!(server.check(&before.token).await.status, 200);
    assert_eq!(kinds(&server), ["session.created"]);
    assert_eq!(
        user(&server, "ada").await["tier"],
        Value::Null,
        "the tier is not stored either"
    );
}

#[tokio::test]
async fn overdue_sessions_do_not_count_and_end_as_expired() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "max_sessions": 2 })).await;
    let short = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    let long = server.sign_in("ada").await;
    server.advance(60);
    assert_eq!(
        user(&server, "ada").await["active_count"],
        1,
        "before the sweeper came by"
    );

    let third = server.sign_in("ada").await;

    assert_eq!(third.body["evicted"], json!([]));
    assert_eq!(server.check(&long.token).await.status, 200);
    let told = rows(
        &server,
        "SELECT type, occurred_at, recorded_at, reason, ended_by FROM events ORDER BY id DESC LIMIT 2",
    );
    let deadline = millis_after(60_000).as_millis();
    assert_eq!(told[0]["type"], "session.created");
    let expired = json!({ "type": "session.expired", "occurred_at": deadline, "recorded_at": deadline,
                          "reason": "idle_timeout", "ended_by": "timeout" });
    assert_eq!(told[1], expired);
    let reply = server.check(&short.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(reply.json["revoked_reason"], "idle_timeout");
}

#[tokio::test]
async fn overdue_session_is_ended_as_expired_and_only_the_surplus_is_evicted() {
    let server = TestServer::start().await;
    let overdue = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 60 }))
        .await;
    server.advance(1);
    let oldest = server.sign_in("ada").await;
    let kept = server.sign_in("ada").await;
    server.advance(120);
    set_user(&server, "ada", json!({ "max_sessions": 2 })).await;

    let last = server.sign_in("ada").await;

    let evicted = last.body["evicted"].as_array().expect("a list");
    assert_eq!(evicted.len(), 1, "{evicted:?}");
    assert_eq!(evicted[0]["id"], oldest.id);
    assert_eq!(server.check(&kept.token).await.status, 200);
    let told = events(&server.database()).split_off(3);
    let expected = [
        ("session.expired", overdue.id),
        ("session.evicted", oldest.id),
        ("session.created", last.id),
    ];
    assert_eq!(told, expected.map(|(kind, id)| (kind.to_owned(), Some(id))));
}

#[tokio::test]
async fn session_used_since_its_stored_deadline_counts_toward_the_limit() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "max_sessions": 1 })).await;
    let used = server
        .create(json!({ "user_id": "ada", "idle_timeout_secs": 600 }))
        .await;
    server.advance(599);
    // The use is known in memory only: no tick wrote it.
    assert_eq!(server.check(&used.token).await.status, 200);
    server.advance(10);

    let next = server.sign_in("ada").await;

    assert_eq!(next.body["evicted"][0]["id"], used.id);
    assert_eq!(kinds(&server)[1..], ["session.evicted", "session.created"]);
}

#[tokio::test]
async fn failed_insert_evicts_nothing() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "max_sessions": 1 })).await;
    let before = server.sign_in("ada").await;
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON sessions WHEN NEW.name = 'poison'
                  BEGIN SELECT RAISE(ABORT, 'inner words'); END";
    database.execute_batch(refuse).expect("a trigger");

    let reply = post(
        &server,
        json!({ "user_id": "ada", "name": "poison", "tier": "plus" }),
    )
    .await;

    reply.assert_problem(503, "store_unavailable");
    assert!(!reply.text.contains("inner words"), "{}", reply.text);
    assert_eq!(server.check(&before.token).await.status, 200);
    assert_eq!(kinds(&server), ["session.created"]);
    assert_eq!(user(&server, "ada").await["tier"], Value::Null);
    let next = server.sign_in("ada").await;
    assert_eq!(
        next.body["evicted"][0]["id"], before.id,
        "the next create goes on"
    );
}

#[tokio::test]
async fn blocked_user_gets_no_session_and_nothing_is_stored() {
    let server = TestServer::start().await;
    set_user(&server, "ada", json!({ "is_blocked": true })).await;
    let told = kinds(&server);

    let reply = post(&server, json!({ "user_id": "ada", "tier": "plus" })).await;

    reply.assert_problem(403, "user_blocked");
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 0);
    assert_eq!(kinds(&server), told);
    assert_eq!(user(&server, "ada").await["tier"], Value::Null);
    set_user(&server, "ada", json!({ "is_blocked": false })).await;
    assert_eq!(
        post(&server, json!({ "user_id": "ada" })).await.status,
        201,
        "unblocked"
    );
}

// When the credentials were verified

#[tokio::test]
async fn authenticated_at_is_the_present_unless_given() {
    let server = TestServer::start().await;
    server.advance(DAY);
    let cases = [
        ("by default now", json!({ "user_id": "ada" }), json!(at(DAY))),
        (
            "now",
            json!({ "user_id": "ada", "authenticated_at": at(DAY) }),
            json!(at(DAY)),
        ),
        (
            "earlier",
            json!({ "user_id": "ada", "authenticated_at": at(HOUR) }),
            json!(at(HOUR)),
        ),
        (
            "with an offset",
            json!({ "user_id": "ada", "authenticated_at": "2026-01-01T03:00:00+02:00" }),
            json!(at(HOUR)),
        ),
        ("nobody's", json!({}), Value::Null),
    ];
    for (case, body, expected) in cases {
        let created = server.create(body).await;
        assert_eq!(created.body["session"]["authenticated_at"], expected, "{case}");
        let deadline = at(DAY + 7 * DAY);
        assert_eq!(
            created.body["session"]["expires_at"], deadline,
            "{case}: deadlines count from now"
        );
    }
}

#[tokio::test]
async fn authenticated_at_that_cannot_be_is_refused() {
    let server = TestServer::start().await;
    let future = millis_after(1).to_string();
    let cases = [
        (
            "a millisecond ahead",
            json!({ "user_id": "ada", "authenticated_at": future }),
        ),
        (
            "not a time",
            json!({ "user_id": "ada", "authenticated_at": "yesterday" }),
        ),
        (
            "no zone",
            json!({ "user_id": "ada", "authenticated_at": "2025-12-31T00:00:00" }),
        ),
        (
            "a date",
            json!({ "user_id": "ada", "authenticated_at": "2025-12-31" }),
        ),
        (
            "a number",
            json!({ "user_id": "ada", "authenticated_at": 1_700_000_000 }),
        ),
        ("nobody's", json!({ "authenticated_at": at(0) })),
    ];
    for (case, body) in cases {
        let reply = post(&server, body).await;
        assert_eq!(
            reply.wrong_fields(),
            ["authenticated_at"],
            "{case}: {}",
            reply.text
        );
        reply.assert_problem(422, "validation_failed");
    }
    assert_untouched(&server, "authenticated_at");
}

#[tokio::test]
async fn sign_in_verified_before_the_credentials_changed_is_refused() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let key = server.key_of("shop").await;
    server.advance(100);
    let change = "/v1/users/ada/sessions?reason=credentials_changed";
    assert_eq!(server.delete(change).key(&server.key).send().await.status, 200);
    server.advance(10);
    let body = |user_id: &str, millis| json!({ "user_id": user_id, "authenticated_at": millis_after(millis).to_string() });

    post(&server, body("ada", 99_999))
        .await
        .assert_problem(409, "credentials_changed");
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 0);
    let accepted = [
        (
            "verified at the moment of the change",
            &server.key,
            body("ada", 100_000),
        ),
        ("verified now", &server.key, json!({ "user_id": "ada" })),
        ("another user", &server.key, body("bob", 99_999)),
        ("the same id in another app", &key, body("ada", 99_999)),
    ];
    for (case, key, body) in accepted {
        let reply = server.post("/v1/sessions", body).key(key).send().await;
        assert_eq!(reply.status, 201, "{case}: {}", reply.text);
    }
}

#[tokio::test]
async fn credentials_changed_is_remembered_across_a_restart() {
    let server = TestServer::start().await;
    server.advance(100);
    let change = "/v1/users/ada/sessions?reason=credentials_changed";
    assert_eq!(server.delete(change).key(&server.key).send().await.status, 200);

    let server = server.stop().await.restart().await;

    let reply = post(&server, json!({ "user_id": "ada", "authenticated_at": at(99) })).await;
    reply.assert_problem(409, "credentials_changed");
}

// Bounds

/// An `auth` whose JSON has this many bytes.
fn auth_of(len: usize) -> Value {
    let text = json!({ "a": "" }).to_string();
    json!({ "a": "x".repeat(len - text.len()) })
}

#[tokio::test]
async fn auth_is_an_object_of_at_most_8_kib_and_comes_back_as_it_was() {
    let server = TestServer::start().await;
    let nested = json!({ "z": 1, "tags": ["a", 2, null], "a": { "y": 1.5, "b": [{}] }, "…": "\u{1}\"" });
    for auth in [json!({}), nested, auth_of(8 * 1024)] {
        let created = server.create(json!({ "user_id": "ada", "auth": auth })).await;
        assert_eq!(
            created.body["session"]["auth"].to_string(),
            auth.to_string(),
            "order of keys kept"
        );
        let reply = server.check(&created.token).await;
        assert_eq!(
            reply.json["auth"].to_string(),
            auth.to_string(),
            "the same from the store"
        );
    }
}

#[tokio::test]
async fn auth_may_have_64_levels_wherever_it_is_given() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let session = format!("/v1/sessions/{}", ada.id);
    let authenticate = format!("{session}/authenticate");
    let calls = [
        ("POST", "/v1/sessions"),
        ("PUT", "/v1/client-sessions/7"),
        ("POST", &authenticate),
        ("PATCH", &session),
    ];
    for (method, path) in calls {
        for levels in [65, 64] {
            let lists = (1..levels).fold(json!(1), |value, _| json!([value]));
            let mut body = json!({ "auth": { "a": lists } });
            if method != "PATCH" {
                body["user_id"] = json!("ada");
            }
            let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
            let reply = server.request(method, path).key(&server.key).json(body);
            let reply = reply.send().await;
            if levels > 64 {
                assert_eq!(
                    (reply.status, reply.wrong_fields()),
                    (422, vec!["auth"]),
                    "{path}: {}",
                    reply.text
                );
            } else {
                assert!([200, 201].contains(&reply.status), "{path}: {}", reply.text);
            }
        }
    }
}

#[tokio::test]
async fn values_out_of_bounds_are_refused_and_name_their_field() {
    let server = TestServer::start().await;
    let cases = [
        ("auth", auth_of(8 * 1024 + 1)),
        ("auth", json!([])),
        ("auth", json!("x")),
        ("name", json!("")),
        ("name", json!("x".repeat(101))),
        ("name", json!("a\nb")),
        ("name", json!(7)),
        ("user_id", json!("")),
        ("user_id", json!("x".repeat(256))),
        ("user_id", json!("é".repeat(128))),
        ("user_id", json!(".")),
        ("user_id", json!("..")),
        ("user_id", json!("a\u{0}")),
        ("user_id", json!("a\u{85}")),
        ("user_id", json!(7)),
        ("idle_timeout_secs", json!(0)),
        ("idle_timeout_secs", json!(-1)),
        ("idle_timeout_secs", json!(1.5)),
        ("idle_timeout_secs", json!("60")),
        ("absolute_timeout_secs", json!(0)),
        ("absolute_timeout_secs", json!(-1)),
        ("remember", json!(1)),
        ("tier", json!(1)),
        ("ip_address", json!(1)),
        ("user_agent", json!(1)),
        ("client_hints", json!("x")),
        ("client_hints.mobile", json!({ "mobile": "?1" })),
        ("client_hints.colour", json!({ "colour": 1 })),
        (
            "client_hints.brands[0].brand",
            json!({ "brands": [{ "version": "1" }] }),
        ),
    ];
    for (field, value) in cases {
        let top = field.split('.').next().expect("a field");
        let mut body = json!({ "user_id": "ada" });
        body[top] = value;
        let case = body.to_string();
        let reply = post(&server, body).await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec![field]),
            "{case}: {}",
            reply.text
        );
    }
    assert_untouched(&server, "out of bounds");
}

#[tokio::test]
async fn values_at_their_bounds_are_kept() {
    let server = TestServer::start().await;
    let (ascii, wide) = ("x".repeat(255), "é".repeat(127));
    let cases = [
        ("name", "x"),
        ("name", &"é".repeat(100)),
        ("user_id", "x"),
        ("user_id", &ascii),
        ("user_id", &wide),
        ("user_id", "a/b%2F?#…"),
        ("user_id", "..."),
    ];
    for (field, value) in cases {
        let mut body = json!({});
        body[field] = json!(value);
        let created = server.create(body).await;
        assert_eq!(created.body["session"][field], value);
    }
}

#[tokio::test]
async fn several_wrong_values_are_told_at_once() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "tier": "gold", "name": "", "idle_timeout_secs": 0,
                       "absolute_timeout_secs": 0, "authenticated_at": at(1) });
    let reply = post(&server, body).await;
    reply.assert_problem(422, "validation_failed");
    let mut fields = reply.wrong_fields();
    fields.sort_unstable();
    let all = [
        "absolute_timeout_secs",
        "authenticated_at",
        "idle_timeout_secs",
        "name",
        "tier",
    ];
    assert_eq!(fields, all);
}

#[tokio::test]
async fn fields_that_are_not_the_callers_to_set_are_refused_as_unknown() {
    let server = TestServer::start().await;
    let cases = [
        ("identities", json!({})),
        ("client_session_id", json!("7")),
        ("idempotency_key", json!("k")),
        ("on_limit", json!("deny")),
        ("token", json!("sst_")),
        ("id", json!("x")),
        ("is_trusted", json!(true)),
    ];
    for (field, value) in cases {
        let mut body = json!({ "user_id": "ada" });
        body[field] = value;
        let reply = post(&server, body).await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec![field]),
            "{}",
            reply.text
        );
    }
    assert_untouched(&server, "unknown fields");
}

#[tokio::test]
async fn routes_of_later_versions_are_not_there() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let of_session = |rest: &str| format!("/v1/sessions/{}/{rest}", ada.id);
    let paths = [of_session("events")];
    for path in paths {
        for method in [reqwest::Method::GET, reqwest::Method::POST, reqwest::Method::PUT] {
            let reply = server
                .request(method.clone(), &path)
                .key(&server.key)
                .send()
                .await;
            assert_eq!(reply.status, 404, "{method} {path}");
            reply.assert_problem(404, "not_found");
        }
    }
}
