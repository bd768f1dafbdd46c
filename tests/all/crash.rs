//! What is left after `kill -9` under load.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, eventually, open_database};
use crate::process::{Caller, Served, create_key, sessiond, text};

/// How often the server is killed.
const KILLS: usize = 24;
/// Clients at once; as many changes can share a commit.
const CLIENTS: usize = 8;
/// Most sessions that a client starts in one life of the server.
const SESSIONS_PER_CLIENT_MAX: usize = 500;

/// What a client knows about a session it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Created,
    /// Its revocation was sent and not answered: it may have ended or not, but once and for all.
    Revoking,
    Revoked,
}

/// The sessions whose creation was acknowledged: token, id, and what is known.
#[derive(Default)]
struct Book(Mutex<HashMap<String, (String, Known)>>);

impl Book {
    fn note(&self, token: &str, id: &str, known: Known) {
        let mut sessions = self.0.lock().expect("no writer failed");
        sessions.insert(token.to_owned(), (id.to_owned(), known));
    }

    fn entries(&self) -> Vec<(String, String, Known)> {
        let sessions = self.0.lock().expect("no writer failed");
        let entry = |(token, (id, known)): (&String, &(String, Known))| (token.clone(), id.clone(), *known);
        sessions.iter().map(entry).collect()
    }
}

struct Load {
    caller: Caller,
    key: String,
    book: Arc<Book>,
    /// Rung for every acknowledged change.
    ring: UnboundedSender<()>,
}

impl Load {
    /// Starts sessions, uses some of them and revokes some, until the server is gone.
    async fn run(self, who: String) {
        for number in 0..SESSIONS_PER_CLIENT_MAX {
            if self.step(&who, number).await.is_err() {
                return;
            }
        }
    }

    async fn step(&self, who: &str, number: usize) -> Result<(), reqwest::Error> {
        let body = json!({ "user_id": format!("{who}-{number}") });
        let (status, answer) = self
            .caller
            .try_call(Method::POST, "/v1/sessions", &self.key, Some(body))
            .await?;
        assert_eq!(status, 201, "{answer}");
        let (id, token) = (text(&answer["session"]["id"]), text(&answer["token"]));
        self.book.note(&token, &id, Known::Created);
        self.ring.send(()).expect("the test listens");
        if number.is_multiple_of(2) {
            self.book.note(&token, &id, Known::Revoking);
            let path = format!("/v1/sessions/{id}");
            let (status, answer) = self
                .caller
                .try_call(Method::DELETE, &path, &self.key, None)
                .await?;
            assert_eq!(status, 204, "{answer}");
            self.book.note(&token, &id, Known::Revoked);
            self.ring.send(()).expect("the test listens");
        } else {
            let (status, answer) = self
                .caller
                .try_call(Method::GET, "/v1/session", &token, None)
                .await?;
            assert_eq!(status, 200, "{answer}");
        }
        Ok(())
    }
}

/// Loads the server, kills it when so many changes were acknowledged, and waits for the clients to notice.
async fn load_and_kill(mut server: Served, life: usize, key: &str, book: &Arc<Book>) {
    let (ring, mut acknowledged) = mpsc::unbounded_channel();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let load = Load {
            caller: server.caller.clone(),
            key: key.to_owned(),
            book: Arc::clone(book),
            ring: ring.clone(),
        };
        clients.spawn(load.run(format!("{life}-{client}")));
    }
    // Another number each time, so that the kill falls into other moments of a batch.
    wait_for(&mut acknowledged, 5 + 7 * life).await;
    server.process.kill();
    while let Some(result) = clients.join_next().await {
        result.expect("every answer was right");
    }
}

async fn wait_for(acknowledged: &mut UnboundedReceiver<()>, count: usize) {
    for _ in 0..count {
        let rung = tokio::time::timeout(PATIENCE, acknowledged.recv()).await;
        rung.expect("in time").expect("the clients go on");
    }
}

/// Compares the database with what the clients were told, and settles what they could not know.
fn compare(database: &Path, book: &Book) {
    let database = open_database(database);
    let integrity: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("checked");
    assert_eq!(integrity, "ok");
    let mut rows = database
        .prepare("SELECT lower(hex(id)), ended_at IS NOT NULL FROM sessions")
        .expect("a query");
    let rows = rows
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))
        .expect("rows");
    let is_ended: BTreeMap<String, bool> = rows.map(|row| row.expect("a row")).collect();
    for (token, id, known) in book.entries() {
        match (is_ended.get(&id.replace('-', "")), known) {
            (None, _) => panic!("the session {id} was acknowledged and is lost"),
            (Some(false), Known::Revoked) => panic!("the revocation of {id} was acknowledged and is lost"),
            (Some(true), Known::Created) => panic!("{id} ended by itself"),
            (Some(true), Known::Revoking) => book.note(&token, &id, Known::Revoked),
            (Some(false), Known::Revoking) => book.note(&token, &id, Known::Created),
            (Some(true), Known::Revoked) | (Some(false), Known::Created) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_kill_9_under_load() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = dir.path().join("s.db");
    let key = create_key(dir.path());
    let book = Arc::new(Book::default());
    for life in 0..KILLS {
        let server = Served::serve(dir.path());
        compare(&database, &book);
        load_and_kill(server, life, &key, &book).await;
    }
    let server = Served::serve(dir.path());
    compare(&database, &book);
    for (token, _, known) in book.entries() {
        let expected = if known == Known::Revoked {
            "session_ended"
        } else {
            "active"
        };
        server.assert_token(&token, expected).await;
    }
    server.stop();

    let database = open_database(&database);
    let events_that_differ = |kind: &str, condition: &str| {
        let sql = format!(
            "SELECT count(*) FROM sessions WHERE ({condition}) <>
             (SELECT count(*) FROM events WHERE type = '{kind}' AND session_id = sessions.id)"
        );
        database
            .query_row(&sql, [], |row| row.get::<_, u64>(0))
            .expect("counted")
    };
    assert_eq!(events_that_differ("session.created", "TRUE"), 0);
    assert_eq!(events_that_differ("session.revoked", "ended_at IS NOT NULL"), 0);
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
