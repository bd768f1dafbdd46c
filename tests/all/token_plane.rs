//! The token plane: checking and signing out by the session's own token.

use reqwest::Method;
use serde_json::json;

use crate::harness::{FIREFOX_ON_LINUX, TestServer};

#[tokio::test]
async fn created_session_is_accepted_until_its_holder_signs_out() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "user_agent": FIREFOX_ON_LINUX }))
        .await;
    let reply = server.check(&ada.token).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("x-session-user-id"), Some("ada"));
    assert_eq!(reply.json["device_info"], "Firefox on Linux");
    assert_eq!(reply.json["is_current"], true);

    let reply = server.delete("/v1/session").bearer(&ada.token).send().await;
    assert_eq!(reply.status, 204, "{}", reply.text);
    let reply = server.check(&ada.token).await;
    reply.assert_problem(401, "session_ended");
    assert_eq!(
        (
            reply.json["revoked_reason"].as_str(),
            reply.json["ended_by"].as_str()
        ),
        (Some("logout"), Some("user"))
    );
}

#[tokio::test]
async fn renewal_knows_that_the_successor_was_used_a_moment_ago() {
    let server = TestServer::start_with(|config| {
        for app in config.apps.values_mut() {
            app.renew_grace_secs = 0;
        }
    })
    .await;
    let ada = server.sign_in("ada").await;
    let renewed = server
        .request(Method::POST, "/v1/session/renew")
        .bearer(&ada.token);
    let successor = renewed.send().await.json["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    // Noted in memory; no tick has written it.
    assert_eq!(server.check(&successor).await.status, 200);

    let again = server
        .request(Method::POST, "/v1/session/renew")
        .bearer(&ada.token);
    let again = again.send().await;

    again.assert_problem(401, "session_ended");
    assert_eq!(again.json["revoked_reason"], "token_reuse");
    server
        .check(&successor)
        .await
        .assert_problem(401, "session_ended");
}
