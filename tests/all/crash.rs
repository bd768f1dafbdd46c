//! What is left after `kill -9` under load. `SESSIOND_CRASH_KILLS` is how many kills there are.

use reqwest::Method;
use serde_json::json;

use crate::harness::{eventually, open_database};
use crate::histories::load::{Lives, Mix};
use crate::process::{Served, create_key, sessiond};
use crate::support::setting;

/// How often the server is killed, if nothing else is set.
const KILLS: usize = 120;
/// Operations that are answered in one life of the server, at most.
const OPERATIONS_PER_LIFE_MAX: usize = 80;
/// Of so many kills one is at the start.
const KILLS_PER_KILL_AT_START: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_kill_9_under_load() {
    let mut lives = Lives::new();
    for kill in 1..=setting("SESSIOND_CRASH_KILLS", KILLS) {
        if kill.is_multiple_of(KILLS_PER_KILL_AT_START) {
            lives.kill_at_the_start().await;
            continue;
        }
        let server = lives.begin().await;
        lives
            .kill_under_load(server, Mix::Changes, OPERATIONS_PER_LIFE_MAX)
            .await;
    }
    lives.end().await;
    println!("{lives}");
}

#[tokio::test]
async fn written_touch_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = create_key(dir.path());
    let mut serve = sessiond(
        dir.path(),
        ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
    );
    serve
        .env("SESSIOND_SESSIONS__TOUCH_INTERVAL_SECS", "0")
        .env("SESSIOND_SESSIONS__FLUSH_INTERVAL_MS", "10");
    let mut server = Served::start(serve);
    let (id, token) = server.create(&key, json!({ "user_id": "ada" })).await;
    let path = format!("/v1/sessions/{id}/touch");
    let body = json!({ "ip_address": "203.0.113.9" });
    let (status, touched) = server.call(Method::POST, &path, &key, Some(body)).await;
    assert_eq!(status, 200, "{touched}");
    let is_written = || {
        let database = open_database(&dir.path().join("s.db"));
        let sql = "SELECT ip_address IS NOT NULL FROM sessions";
        database
            .query_row(sql, [], |row| row.get::<_, bool>(0))
            .expect("a row")
    };
    eventually("the tick writes it", async || is_written()).await;
    server.process.kill();

    let server = Served::serve(dir.path());
    let (_, session) = server.get("/v1/session?touch=false", &token).await;
    assert_eq!(session["ip_address"], "203.0.113.9");
    assert_eq!(session["last_activity_at"], touched["last_activity_at"]);
    assert_eq!(session["expires_at"], touched["expires_at"]);
}
