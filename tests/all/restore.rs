//! `sessiond restore`: a backup takes the place of the database, and nothing that was ended since comes back.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{make_first_version, open_database};
use crate::process::{Finished, Served, create_key, names_in, run, text};

fn a_directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A command about `s.db` in `dir`.
fn on(dir: &Path, arguments: &[&str]) -> Finished {
    run(dir, arguments.iter().copied().chain(["--database", "s.db"]))
}

fn open(dir: &Path, name: &str) -> Connection {
    Connection::open(dir.join(name)).expect("opened")
}

fn number(database: &Connection, sql: &str) -> i64 {
    database.query_row(sql, [], |row| row.get(0)).expect(sql)
}

/// Everything in a folder, but what commands leave that only looked: the lock, and SQLite's empty log.
fn files_in(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = names_in(dir).into_iter();
    let names = names.filter(|name| ![".lock", "-wal", "-shm"].iter().any(|end| name.ends_with(end)));
    names
        .map(|name| (name.clone(), fs::read(dir.join(name)).expect("read")))
        .collect()
}

/// What is kept of the database of before, alone or with its log if that has something in it.
fn kept_in(dir: &Path) -> Vec<PathBuf> {
    let names = names_in(dir).into_iter();
    let kept = names.filter(|name| name.starts_with("s.db.before-restore-") && !name.ends_with("-shm"));
    let kept = kept.map(|name| dir.join(name));
    kept.filter(|path| fs::metadata(path).expect("there").len() > 0)
        .collect()
}

/// A server that was backed up to `copy.db`, and then went on.
struct Past {
    dir: TempDir,
    key: String,
    /// Active, then and later.
    active: String,
    /// Active in the backup, ended since.
    ended_since: String,
    /// Began after the backup.
    begun_since: String,
    /// A place in the events.
    cursor: String,
}

async fn past() -> Past {
    let dir = a_directory();
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let (_, active) = server.create(&key, json!({ "user_id": "ada" })).await;
    let (id, ended_since) = server.create(&key, json!({ "user_id": "bob" })).await;
    let (_, events) = server.get("/v1/events", &key).await;
    let cursor = text(&events["events"][0]["id"]);
    on(dir.path(), &["backup", "copy.db"]).exited(0);
    let path = format!("/v1/sessions/{id}");
    assert_eq!(server.call(Method::DELETE, &path, &key, None).await.0, 204);
    let (_, begun_since) = server.create(&key, json!({ "user_id": "cleo" })).await;
    server.stop().exited(0);
    Past {
        dir,
        key,
        active,
        ended_since,
        begun_since,
        cursor,
    }
}

impl Past {
    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn restore(&self) -> Finished {
        on(self.dir(), &["restore", "copy.db"])
    }
}

async fn assert_ended_by_restore(server: &Served, token: &str) {
    let (status, answer) = server.get("/v1/session", token).await;
    assert_eq!(
        (status, &answer["code"]),
        (401, &json!("session_ended")),
        "{answer}"
    );
    assert_eq!(answer["revoked_reason"], "restored", "{answer}");
}

#[tokio::test]
async fn restored_backup_ends_every_session_with_an_event_each() {
    let past = past().await;
    let said = past.restore();
    assert!(said.stderr.contains("sign in again"), "{said:?}");
    for what in ["API keys", "webhooks", "blocked", "erased"] {
        assert!(said.stderr.contains(what), "{said:?}");
    }
    assert_eq!(
        said.exited(0),
        "s.db: 2 session(s) from copy.db, of which 2 were ended\n"
    );
    on(past.dir(), &["check"]).exited(0);

    let server = Served::serve(past.dir());
    assert_ended_by_restore(&server, &past.active).await;
    assert_ended_by_restore(&server, &past.ended_since).await;
    server.assert_token(&past.begun_since, "invalid_token").await;
    let database = open_database(&past.dir().join("s.db"));
    let told = "SELECT count(*) FROM events
                WHERE type = 'session.revoked' AND reason = 'restored' AND ended_by = 'operator'";
    assert_eq!(number(&database, told), 2);
    server.create(&past.key, json!({ "user_id": "ada" })).await;
    server.stop().exited(0);
}

#[tokio::test]
async fn places_in_the_events_of_before_are_told_to_be_gone() {
    let past = past().await;
    let path = format!("/v1/events?after={}", past.cursor);
    let server = Served::serve(past.dir());
    assert_eq!(server.get(&path, &past.key).await.0, 200);
    server.stop().exited(0);
    past.restore().exited(0);
    let server = Served::serve(past.dir());
    let (status, answer) = server.get(&path, &past.key).await;
    assert_eq!((status, &answer["code"]), (410, &json!("cursor_gone")));
    server.stop().exited(0);
}

#[tokio::test]
async fn sessions_are_kept_only_if_that_is_asked_for_and_with_a_warning() {
    let past = past().await;
    let said = on(past.dir(), &["restore", "copy.db", "--keep-sessions"]);
    assert!(
        said.stderr.contains("Warning") && said.stderr.contains("accepted again"),
        "{said:?}"
    );
    assert!(said.stdout.contains("of which 0 were ended"), "{said:?}");
    said.exited(0);
    let server = Served::serve(past.dir());
    server.assert_token(&past.active, "active").await;
    server.assert_token(&past.ended_since, "active").await;
    let path = format!("/v1/events?after={}", past.cursor);
    assert_eq!(server.get(&path, &past.key).await.0, 410, "events begin anew");
    server.stop().exited(0);
}

#[tokio::test]
async fn restore_is_refused_while_a_server_runs() {
    let past = past().await;
    let server = Served::serve(past.dir());
    past.restore().failed(1, &["another sessiond is running"]);
    server.assert_token(&past.active, "active").await;
    server.stop().exited(0);
    assert!(kept_in(past.dir()).is_empty());
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused_and_nothing_is_changed() {
    let past = past().await;
    let whole = fs::read(past.dir().join("copy.db")).expect("read");
    let make = |name: &str, bytes: &[u8]| fs::write(past.dir().join(name), bytes).expect("written");
    make("empty.db", b"");
    make("list.db", b"a shopping list, which is longer than nothing");
    make("half.db", &whole[..whole.len() / 2]);
    make("newer.db", &whole);
    open(past.dir(), "newer.db")
        .pragma_update(None, "user_version", 99)
        .expect("set");
    open(past.dir(), "foreign.db")
        .execute_batch("CREATE TABLE theirs (x)")
        .expect("made");
    let before = files_in(past.dir());
    for (file, words) in [
        ("missing.db", "missing.db"),
        ("empty.db", "empty.db is empty"),
        ("list.db", "list.db: file is not a database"),
        ("half.db", "half.db"),
        ("newer.db", "schema version 99"),
        ("foreign.db", "not one of sessiond's"),
        ("s.db", "is the database itself"),
    ] {
        on(past.dir(), &["restore", file]).failed(1, &[words]);
        assert_eq!(files_in(past.dir()), before, "{file}");
    }
}

#[tokio::test]
async fn backup_of_an_older_version_is_migrated_in_the_copy() {
    let past = past().await;
    let old = past.dir().join("old.db");
    make_first_version(&old);
    Connection::open(&old)
        .expect("opened")
        .execute_batch(
            "INSERT INTO meta VALUES ('high_water', 1);
             INSERT INTO sessions (id, app, user_id, token_hash, created_at, signed_in_at, last_activity_at,
                 idle_timeout, absolute_expires_at, expires_at)
             VALUES (zeroblob(16), 'default', 'eve', zeroblob(32), 1, 1, 1, 4000000000000, 4000000000000, 4000000000000)",
        )
        .expect("filled");
    let bytes = fs::read(&old).expect("read");
    let said = on(past.dir(), &["restore", "old.db"]).exited(0);
    assert_eq!(said, "s.db: 1 session(s) from old.db, of which 1 were ended\n");
    assert_eq!(fs::read(&old).expect("read"), bytes);
    on(past.dir(), &["check"]).exited(0);
}

#[tokio::test]
async fn database_of_before_is_kept_and_can_be_restored_itself() {
    let past = past().await;
    let before = fs::read(past.dir().join("s.db")).expect("read");
    let said = past.restore();
    let kept = kept_in(past.dir());
    let [kept] = kept.as_slice() else {
        panic!("{kept:?}");
    };
    assert_eq!(fs::read(kept).expect("read"), before);
    let name = kept.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    assert!(said.stderr.contains(name), "{said:?}");
    on(past.dir(), &["restore", name, "--keep-sessions"]).exited(0);
    let server = Served::serve(past.dir());
    server.assert_token(&past.begun_since, "active").await;
    server.stop().exited(0);
}

#[tokio::test]
async fn log_of_a_killed_server_is_kept_with_its_database() {
    let past = past().await;
    let mut server = Served::serve(past.dir());
    let (_, last) = server.create(&past.key, json!({ "user_id": "dan" })).await;
    server.process.kill();
    assert!(past.dir().join("s.db-wal").exists(), "it is in the log alone");
    past.restore().exited(0);
    let server = Served::serve(past.dir());
    server.assert_token(&last, "invalid_token").await;
    assert_ended_by_restore(&server, &past.active).await;
    server.stop().exited(0);
    let kept = kept_in(past.dir());
    let name = kept[0].file_name().and_then(|name| name.to_str()).expect("UTF-8");
    on(past.dir(), &["restore", name, "--keep-sessions"]).exited(0);
    let server = Served::serve(past.dir());
    server.assert_token(&last, "active").await;
    server.stop().exited(0);
}

#[tokio::test]
async fn damaged_database_is_replaced_and_kept_as_it_is() {
    let past = past().await;
    let damaged = [("s.db", "not a database"), ("s.db-wal", "nor its log")];
    for (name, bytes) in damaged {
        fs::write(past.dir().join(name), bytes).expect("written");
    }
    past.restore().exited(0);
    let server = Served::serve(past.dir());
    assert_ended_by_restore(&server, &past.active).await;
    server.stop().exited(0);
    let kept: Vec<_> = kept_in(past.dir())
        .iter()
        .map(|path| fs::read(path).expect("read"))
        .collect();
    assert_eq!(kept, [damaged[0].1.as_bytes(), damaged[1].1.as_bytes()]);
}

#[tokio::test]
async fn backup_is_restored_where_no_database_was() {
    let past = past().await;
    let other = a_directory();
    let copy = past.dir().join("copy.db");
    let copy = copy.to_str().expect("UTF-8");
    let said = run(other.path(), ["restore", copy, "--database", "new/folder/s.db"]);
    assert!(said.stderr.contains("no database before"), "{said:?}");
    said.exited(0);
    assert_eq!(names_in(&other.path().join("new/folder")), ["s.db", "s.db.lock"]);
    run(other.path(), ["check", "--database", "new/folder/s.db"]).exited(0);
}

#[tokio::test]
async fn what_a_link_leads_to_is_replaced_and_the_link_stays() {
    let past = past().await;
    std::os::unix::fs::symlink("s.db", past.dir().join("link.db")).expect("made");
    run(past.dir(), ["restore", "copy.db", "--database", "link.db"]).exited(0);
    assert_eq!(
        fs::read_link(past.dir().join("link.db")).expect("a link"),
        Path::new("s.db")
    );
    let server = Served::serve(past.dir());
    assert_ended_by_restore(&server, &past.active).await;
    server.stop().exited(0);
}

#[tokio::test]
async fn restore_that_died_before_the_copy_was_ready_has_changed_nothing() {
    let past = past().await;
    for left in ["", "-wal", "-shm", "-journal"] {
        let name = format!("s.db.restoring{left}");
        fs::write(past.dir().join(name), "half").expect("written");
    }
    let server = Served::serve(past.dir());
    server.assert_token(&past.begun_since, "active").await;
    server.stop().exited(0);
    past.restore().exited(0);
    let left = names_in(past.dir());
    assert!(!left.iter().any(|name| name.contains("restoring")), "{left:?}");
}

#[tokio::test]
async fn restore_that_died_once_the_copy_was_ready_is_finished_by_the_next_start() {
    let past = past().await;
    past.restore().exited(0);
    // As it was before the first of the last steps, and before the last of them.
    let (database, kept) = (past.dir().join("s.db"), kept_in(past.dir()).remove(0));
    let name = kept.to_str().expect("UTF-8");
    let ready = name.replace("before-restore", "restored");
    for was_moved in [false, true] {
        fs::rename(&database, &ready).expect("moved back");
        if !was_moved {
            fs::rename(&kept, &database).expect("moved back");
        }
        let server = Served::serve(past.dir());
        let words = "finished restoring";
        assert!(server.process.stderr.seen.contains(words), "the log says so");
        assert_ended_by_restore(&server, &past.active).await;
        server.stop().exited(0);
        assert!(kept.exists() && !Path::new(&ready).exists());
    }
}

#[tokio::test]
async fn check_and_backup_warn_of_a_restore_that_died_and_leave_it() {
    let past = past().await;
    past.restore().exited(0);
    let (database, kept) = (past.dir().join("s.db"), kept_in(past.dir()).remove(0));
    let ready = kept
        .to_str()
        .expect("UTF-8")
        .replace("before-restore", "restored");
    let warns = |code: i32, copy: &str| {
        for command in [&["check"][..], &["backup", copy]] {
            let arguments = command.iter().copied().chain(["--database", "s.db"]);
            run(past.dir(), arguments).failed(code, &["restoring a backup was interrupted"]);
        }
    };
    fs::rename(&database, &ready).expect("moved back");
    warns(1, "none.db");
    fs::rename(&kept, &database).expect("moved back");
    warns(0, "other.db");
    assert!(Path::new(&ready).exists());
}

#[tokio::test]
async fn restore_that_died_while_no_database_was_there_is_finished_by_the_next_command() {
    let past = past().await;
    std::os::unix::fs::symlink("s.db", past.dir().join("link.db")).expect("made");
    past.restore().exited(0);
    let kept = kept_in(past.dir()).remove(0);
    let ready = kept
        .to_str()
        .expect("UTF-8")
        .replace("before-restore", "restored");
    for path in ["s.db", "link.db"] {
        fs::rename(past.dir().join("s.db"), &ready).expect("moved back");
        let listed = run(
            past.dir(),
            ["sessions", "list", "--status", "ended", "--database", path],
        );
        assert!(listed.stderr.contains("finished restoring"), "{listed:?}");
        assert!(listed.exited(0).contains("ada"));
        assert!(kept.exists() && !Path::new(&ready).exists());
    }
}

#[tokio::test]
async fn sessions_of_all_apps_are_ended_however_many_they_are() {
    let past = past().await;
    open(past.dir(), "copy.db")
        .execute_batch(
            "WITH numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1201)
             INSERT INTO sessions (id, app, user_id, token_hash, created_at, signed_in_at, last_activity_at,
                 idle_timeout, absolute_expires_at, expires_at)
             SELECT CAST(printf('%016d', n) AS BLOB), iif(n % 2, 'shop', 'default'), iif(n % 3, 'user' || n, NULL),
                 zeroblob(32), 1, 1, 1, 4000000000000, 4000000000000, 4000000000000 FROM numbers;
             UPDATE sessions SET idle_timeout = 9, expires_at = 10, absolute_expires_at = 10, sweep_at = 0
                 WHERE user_id = 'user1'",
        )
        .expect("filled");
    let said = past.restore().exited(0);
    assert_eq!(
        said, "s.db: 1203 session(s) from copy.db, of which 1202 were ended\n",
        "one had expired"
    );
    on(past.dir(), &["check"]).exited(0);
    let database = open_database(&past.dir().join("s.db"));
    let reasons = "SELECT count(*) FROM sessions WHERE revoked_reason = 'restored'";
    assert_eq!(number(&database, reasons), 1202);
    assert_eq!(
        number(&database, "SELECT count(*) FROM sessions WHERE ended_at IS NULL"),
        0
    );
}
