//! What is told beside the changes themselves: of new devices, and of deadlines that are near.

use serde_json::{Value, json};
use sessiond::session::AppName;

use crate::harness::{FIREFOX_ON_LINUX, TestServer};
use crate::support::{add_app, at, rows};

const SAFARI_ON_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like \
                                Gecko) Version/18.5 Mobile/15E148 Safari/604.1";

/// The events of one type, with what only this type has as JSON.
fn told(server: &TestServer, kind: &str) -> Vec<Value> {
    let events = rows(
        server,
        "SELECT type, occurred_at, app, user_id, session_id, device_info, ip_address, data FROM events ORDER BY id",
    );
    let of_kind = events.into_iter().filter(|event| event["type"] == kind);
    of_kind
        .map(|mut event| {
            let data = event["data"].as_str().map(serde_json::from_str);
            event["data"] = data.transpose().expect("JSON").unwrap_or_default();
            event
        })
        .collect()
}

/// A session id as [`told`] shows it.
fn hexadecimal(id: &str) -> String {
    id.replace('-', "")
}

#[tokio::test]
async fn sign_in_on_a_device_that_is_new_to_its_user_is_told() {
    let server = TestServer::start().await;
    let sign_in = |user: &str, agent: &str| json!({ "user_id": user, "user_agent": agent });
    server.create(sign_in("ada", FIREFOX_ON_LINUX)).await;
    server.create(sign_in("bob", SAFARI_ON_IPHONE)).await;
    assert_eq!(
        told(&server, "device.new"),
        [] as [Value; 0],
        "both were their first"
    );

    let phone = server.create(sign_in("ada", SAFARI_ON_IPHONE)).await;
    server.create(sign_in("ada", SAFARI_ON_IPHONE)).await;

    let told = told(&server, "device.new");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (&told[0]["user_id"], &told[0]["session_id"]),
        (&json!("ada"), &json!(hexadecimal(&phone.id)))
    );
    assert_eq!(told[0]["data"], json!({ "browser": "Safari", "os": "iOS" }));
    assert_eq!(told[0]["device_info"], phone.body["session"]["device_info"]);
}

/// A server whose sessions rest 100 s and live 1000 s, where 30 s before is told in the app `default`, in `shop` never.
async fn start_noticed() -> TestServer {
    TestServer::start_with(|config| {
        config.sessions.touch_interval_secs = 0;
        let policy = config
            .apps
            .get_mut(&AppName::default_app())
            .expect("the default app");
        policy.idle_timeout_secs = 100;
        policy.absolute_timeout_secs = 1_000;
        add_app(config, "shop");
        let policy = config
            .apps
            .get_mut(&AppName::default_app())
            .expect("the default app");
        policy.expiring_notice_secs = Some(30);
    })
    .await
}

#[tokio::test]
async fn near_deadline_is_told_in_apps_that_want_it() {
    let server = start_noticed().await;
    let shop = server.key_of("shop").await;
    let ada = server.sign_in("ada").await;
    let in_shop = server.post("/v1/sessions", json!({ "user_id": "ada" }));
    assert_eq!(in_shop.key(&shop).send().await.status, 201);

    server.advance(70);
    server.tick().await;
    server.tick().await;

    let told = told(&server, "session.expiring");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (&told[0]["app"], &told[0]["session_id"]),
        (&json!("default"), &json!(hexadecimal(&ada.id)))
    );
    let data = json!({ "deadline": "idle", "expires_at": at(100), "seconds": 30 });
    assert_eq!(told[0]["data"], data);
}

#[tokio::test]
async fn session_in_use_is_told_of_its_absolute_deadline_only() {
    let server = start_noticed().await;
    let ada = server.sign_in("ada").await;
    for _ in 0..19 {
        server.advance(50);
        assert_eq!(server.check(&ada.token).await.status, 200);
        server.tick().await;
    }
    assert_eq!(told(&server, "session.expiring"), [] as [Value; 0]);

    server.advance(21);
    assert_eq!(server.check(&ada.token).await.status, 200);
    server.tick().await;

    let told = told(&server, "session.expiring");
    assert_eq!(told.len(), 1, "{told:#?}");
    let data = json!({ "deadline": "absolute", "expires_at": at(1_000), "seconds": 29 });
    assert_eq!(told[0]["data"], data);
}

#[tokio::test]
async fn session_that_ended_before_the_sweep_is_not_told_of() {
    let server = start_noticed().await;
    server.sign_in("ada").await;
    server.advance(100);
    server.tick().await;
    assert_eq!(told(&server, "session.expiring"), [] as [Value; 0]);
    assert_eq!(told(&server, "session.expired").len(), 1);
}
