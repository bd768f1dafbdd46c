//! What is told beside the changes themselves: of new devices.

use serde_json::{Value, json};

use crate::harness::{FIREFOX_ON_LINUX, TestServer};
use crate::support::rows;

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
