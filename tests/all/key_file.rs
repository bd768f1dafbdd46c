//! What a lost or replaced key file costs: renewals that are open right then, and nothing else.

use std::path::PathBuf;

use crate::harness::{Reply, TestServer};

async fn renew(server: &TestServer, token: &str) -> Reply {
    let request = server.request(reqwest::Method::POST, "/v1/session/renew");
    request.bearer(token).send().await
}

/// Renews a token; answers its successor.
async fn successor_of(server: &TestServer, token: &str) -> String {
    let reply = renew(server, token).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json["token"].as_str().expect("a token").to_owned()
}

/// Stops the server, takes its key file away, and runs it again.
async fn without_the_key(server: TestServer) -> TestServer {
    let stopped = server.stop().await;
    let mut key_file = stopped.config.database.path.clone().into_os_string();
    key_file.push(".key");
    let key_file = PathBuf::from(key_file);
    let lost = std::fs::read(&key_file).expect("the key file");
    std::fs::remove_file(&key_file).expect("removed");
    let server = stopped.restart().await;
    assert_ne!(std::fs::read(&key_file).expect("another one"), lost);
    server
}

#[tokio::test]
async fn tokens_stay_good_under_another_key() {
    let server = TestServer::start().await;
    let plain = server.sign_in("ada").await.token;
    let before = server.sign_in("grace").await.token;
    let renewed = successor_of(&server, &before).await;

    let server = without_the_key(server).await;

    for token in [&plain, &before, &renewed] {
        assert_eq!(server.check(token).await.status, 200);
    }
    let next = successor_of(&server, &plain).await;
    assert_eq!(server.check(&next).await.status, 200);
}

#[tokio::test]
async fn renewal_that_nobody_saw_is_made_anew_under_another_key() {
    let server = TestServer::start().await;
    let token = server.sign_in("ada").await.token;
    let lost = successor_of(&server, &token).await;
    let server = without_the_key(server).await;

    let successor = successor_of(&server, &token).await;

    assert_ne!(successor, lost);
    assert_eq!(successor_of(&server, &token).await, successor);
    assert_eq!(server.check(&successor).await.status, 200);
    server.check(&lost).await.assert_problem(401, "invalid_token");
}

#[tokio::test]
async fn successor_in_use_is_not_replaced_under_another_key() {
    let server = TestServer::start().await;
    let token = server.sign_in("ada").await.token;
    let successor = successor_of(&server, &token).await;
    assert_eq!(server.check(&successor).await.status, 200);
    let server = without_the_key(server).await;

    renew(&server, &token).await.assert_problem(401, "token_replaced");

    assert_eq!(server.check(&successor).await.status, 200);
    assert_eq!(successor_of(&server, &successor).await, successor);
}

#[tokio::test]
async fn successor_first_used_a_moment_ago_is_not_replaced_under_another_key() {
    let server = TestServer::start().await;
    let token = server.sign_in("ada").await.token;
    let successor = successor_of(&server, &token).await;
    let server = without_the_key(server).await;
    // Noted in memory; no tick has written it.
    assert_eq!(server.check(&successor).await.status, 200);

    renew(&server, &token).await.assert_problem(401, "token_replaced");

    assert_eq!(server.check(&successor).await.status, 200);
}
