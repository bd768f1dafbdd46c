//! `sessiond check`: what it finds, and that it leaves everything as it is.

use std::path::Path;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::make_first_version;
use crate::process::{Finished, Served, create_key, run};

const DATABASE: &str = "s.db";

/// A stopped server's database with two sessions, of which one has ended, and data of the other.
async fn database_in_use() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    fill(&server, &key).await;
    server.stop().exited(0);
    dir
}

async fn fill(server: &Served, key: &str) {
    let (ended, _) = server.create(key, json!({ "user_id": "ada" })).await;
    let path = format!("/v1/sessions/{ended}");
    assert_eq!(server.call(Method::DELETE, &path, key, None).await.0, 204);
    let (kept, _) = server.create(key, json!({ "user_id": "ada" })).await;
    let path = format!("/v1/sessions/{kept}/data");
    let put = server
        .call(Method::PUT, &path, key, Some(json!({ "cart": 1 })))
        .await;
    assert_eq!(put.0, 200, "{put:?}");
}

fn check(dir: &Path) -> Finished {
    run(dir, ["check", "--database", DATABASE])
}

fn open(dir: &Path) -> Connection {
    Connection::open(dir.join(DATABASE)).expect("opened")
}

#[tokio::test]
async fn whole_database_is_ok_beside_a_running_server_and_after_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    fill(&server, &key).await;
    assert_eq!(check(dir.path()).exited(0), "ok: 2 session(s), 3 event(s)\n");
    server.stop().exited(0);
    assert_eq!(check(dir.path()).exited(0), "ok: 2 session(s), 3 event(s)\n");
}

#[tokio::test]
async fn every_rule_is_looked_at() {
    let breaks = [
        (
            "UPDATE events SET type = 'session.renewed' WHERE type = 'session.revoked'",
            "one event of its ending",
        ),
        (
            "INSERT INTO session_data SELECT id, '{}' FROM sessions WHERE ended_at IS NOT NULL",
            "data belongs to a session",
        ),
        (
            "INSERT INTO webhook_deliveries (webhook_id, event_id, type, subject, state, created_at)
             VALUES (zeroblob(16), 1, 'session.created', 'ada', 'delivered', 1)",
            "a delivery belongs to a webhook",
        ),
        (
            "UPDATE events SET id = id + 4 WHERE id = 3; UPDATE sqlite_sequence SET seq = 7",
            "no holes",
        ),
        ("UPDATE sqlite_sequence SET seq = 2", "was never given"),
        (
            "UPDATE meta SET value = 1 WHERE key = 'high_water'",
            "after the latest time",
        ),
        (
            "WITH numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10001)
             INSERT INTO sessions (id, app, user_id, token_hash, created_at, signed_in_at, last_activity_at,
                 idle_timeout, absolute_expires_at, expires_at)
             SELECT CAST(printf('%016d', n) AS BLOB), 'default', 'eve', zeroblob(32), 1, 1, 1, 9, 10, 10 FROM numbers",
            "10,000 active sessions: eve in default",
        ),
    ];
    let dir = database_in_use().await;
    let whole = std::fs::read(dir.path().join(DATABASE)).expect("read");
    for (sql, rule) in breaks {
        std::fs::write(dir.path().join(DATABASE), &whole).expect("written");
        let database = open(dir.path());
        database.pragma_update(None, "foreign_keys", false).expect("set");
        database.execute_batch(sql).expect(sql);
        drop(database);
        let found = check(dir.path());
        assert!(found.stdout.contains(rule), "{rule:?} is not in {found:?}");
        found.failed(1, &["1 fault"]);
    }
}

#[tokio::test]
async fn broken_pages_are_told_and_nothing_is_concluded_from_them() {
    let dir = database_in_use().await;
    let path = dir.path().join(DATABASE);
    let root: u64 = open(dir.path())
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'events_by_subject'",
            [],
            |row| row.get(0),
        )
        .expect("an index");
    let mut bytes = std::fs::read(&path).expect("read");
    let begin = usize::try_from(root - 1).expect("few") * 4096;
    bytes[begin..begin + 4096].fill(0);
    std::fs::write(&path, bytes).expect("written");
    let found = check(dir.path());
    assert!(!found.stdout.contains("rule"), "{found:?}");
    found.failed(1, &["not whole"]);
}

#[test]
fn database_of_an_older_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    make_first_version(&dir.path().join(DATABASE));
    check(dir.path()).failed(1, &["schema version 1", "when it starts"]);
    let version: i64 = open(dir.path())
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("a version");
    assert_eq!(version, 1);
}

#[test]
fn database_that_is_not_there_is_not_made() {
    let dir = tempfile::tempdir().expect("a directory");
    check(dir.path()).failed(1, &[DATABASE]);
    assert!(!dir.path().join(DATABASE).exists());
}
