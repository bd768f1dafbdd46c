//! `sessiond backup`: a whole copy beside a busy server, under its name only once it is done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::json;
use sessiond::store::sqlite::{BackupError, back_up};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{make_first_version, open_database};
use crate::process::{Finished, Process, Served, create_key, names_in, run, sessiond, text};

fn a_directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A command about `s.db` in `dir`.
fn on(dir: &Path, arguments: &[&str]) -> Finished {
    run(dir, arguments.iter().copied().chain(["--database", "s.db"]))
}

fn session_ids(database: &Path) -> Vec<String> {
    let database = open_database(database);
    let mut statement = database
        .prepare("SELECT lower(hex(id)) FROM sessions")
        .expect("a query");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// A stopped server's database with a session.
async fn database_in_use() -> TempDir {
    let dir = a_directory();
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    server.create(&key, json!({ "user_id": "ada" })).await;
    server.stop().exited(0);
    dir
}

#[tokio::test]
async fn backup_under_load_is_whole_and_nobody_is_kept_waiting() {
    let dir = a_directory();
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    // Some megabytes, which take more than one step.
    let large = json!({ "user_id": "ada", "data": { "large": "x".repeat(60_000) } });
    for n in 0..150 {
        let mut body = large.clone();
        body["user_id"] = json!(format!("user {n}"));
        server.create(&key, body).await;
    }
    let is_done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (caller, key, is_done) = (server.caller.clone(), key.clone(), Arc::clone(&is_done));
        writers.spawn(async move {
            let mut statuses = Vec::new();
            while !is_done.load(Ordering::Relaxed) || statuses.is_empty() {
                let body = json!({ "user_id": format!("writer {writer}") });
                let (status, answer) = caller.call(Method::POST, "/v1/sessions", &key, Some(body)).await;
                statuses.push(status);
                let path = format!("/v1/sessions/{}", text(&answer["session"]["id"]));
                statuses.push(caller.call(Method::DELETE, &path, &key, None).await.0);
            }
            statuses
        });
    }
    let (acknowledged, _) = server.create(&key, json!({ "user_id": "bob" })).await;
    let acknowledged = acknowledged.replace('-', "");

    let backup = sessiond(dir.path(), ["backup", "copy.db", "--database", "s.db"]);
    let backup = tokio::task::spawn_blocking(|| Process::spawn(backup).finish())
        .await
        .expect("run");

    is_done.store(true, Ordering::Relaxed);
    let statuses: Vec<u16> = writers.join_all().await.concat();
    assert!(
        statuses.iter().all(|status| [201, 204].contains(status)),
        "{statuses:?}"
    );
    let copy = dir.path().join("copy.db");
    let bytes = fs::metadata(&copy).expect("made").len();
    let ids = session_ids(&copy);
    let said = backup.exited(0);
    assert!(
        said.starts_with(&format!("copy.db: {} session(s), ", ids.len())),
        "{said}"
    );
    assert!(said.ends_with(&format!(" {bytes} bytes\n")), "{said}");
    assert!(ids.contains(&acknowledged), "acknowledged before it began");
    let checked = run(dir.path(), ["check", "--database", "copy.db"]).exited(0);
    assert!(checked.starts_with("ok: "), "{checked}");
    server.stop().exited(0);
}

#[tokio::test]
async fn backup_is_one_file_of_its_owner_s_with_nothing_beside_it() {
    let dir = database_in_use().await;
    fs::create_dir(dir.path().join("copies")).expect("made");
    let said = on(dir.path(), &["backup", "copies/copy.db"]);
    assert!(said.stderr.contains("key file is not in it"), "{said:?}");
    said.exited(0);
    assert_eq!(names_in(&dir.path().join("copies")), ["copy.db"]);
    let copy = dir.path().join("copies/copy.db");
    let mode = fs::metadata(&copy).expect("made").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "{mode:o}");
    // Whoever looks at it needs not even write beside it.
    assert_eq!(
        &fs::read(&copy).expect("read")[18..20],
        [1, 1],
        "no log belongs to it"
    );
}

#[tokio::test]
async fn backup_overwrites_nothing() {
    let dir = database_in_use().await;
    fs::write(dir.path().join("copy.db"), "precious").expect("written");
    std::os::unix::fs::symlink("nowhere", dir.path().join("link.db")).expect("made");
    for taken in ["copy.db", "link.db", "s.db"] {
        on(dir.path(), &["backup", taken]).failed(1, &[taken, "there already"]);
    }
    assert_eq!(fs::read(dir.path().join("copy.db")).expect("there"), b"precious");
    assert!(!dir.path().join("nowhere").exists());
}

#[tokio::test]
async fn what_a_killed_backup_left_is_cleared_away_by_the_next() {
    let dir = database_in_use().await;
    let folder = dir.path().join("copies");
    fs::create_dir(&folder).expect("made");
    for left in ["", "-wal", "-shm", "-journal"] {
        let name = format!(".sessiond-backup-unfinished{left}");
        fs::write(folder.join(name), "half").expect("written");
    }
    fs::write(folder.join(".sessiond-backup-lock"), "").expect("written");
    on(dir.path(), &["backup", "copies/copy.db"]).exited(0);
    assert_eq!(names_in(&folder), ["copy.db"]);
}

#[tokio::test]
async fn two_backups_do_not_write_in_one_folder_at_the_same_time() {
    let dir = database_in_use().await;
    let lock = dir.path().join(".sessiond-backup-lock");
    let held = fs::File::create(&lock).expect("made");
    held.lock().expect("locked");
    on(dir.path(), &["backup", "copy.db"]).failed(1, &["another backup"]);
    assert!(!dir.path().join("copy.db").exists());
    drop(held);
    on(dir.path(), &["backup", "copy.db"]).exited(0);
}

#[tokio::test]
async fn abandoned_backup_leaves_nothing() {
    let dir = database_in_use().await;
    let folder = dir.path().join("copies");
    fs::create_dir(&folder).expect("made");
    let abandoned = Arc::new(AtomicBool::new(true));
    let result = back_up(&dir.path().join("s.db"), &folder.join("copy.db"), &abandoned);
    assert!(matches!(result, Err(BackupError::Abandoned)), "{result:?}");
    assert!(names_in(&folder).is_empty());
}

#[tokio::test]
async fn damaged_database_makes_no_backup() {
    let dir = database_in_use().await;
    let path = dir.path().join("s.db");
    let root: u64 = open_database(&path)
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'events_by_subject'",
            [],
            |row| row.get(0),
        )
        .expect("an index");
    let mut bytes = fs::read(&path).expect("read");
    let begin = usize::try_from(root - 1).expect("few") * 4096;
    bytes[begin..begin + 4096].fill(0);
    fs::write(&path, bytes).expect("written");
    on(dir.path(), &["backup", "copy.db"]).failed(1, &["s.db is damaged"]);
    assert!(!dir.path().join("copy.db").exists());
}

#[tokio::test]
async fn fault_between_rows_is_told_and_kept_in_the_copy() {
    let dir = database_in_use().await;
    rusqlite::Connection::open(dir.path().join("s.db"))
        .expect("opened")
        .execute_batch("UPDATE meta SET value = 1 WHERE key = 'high_water'")
        .expect("broken");
    let said = on(dir.path(), &["backup", "copy.db"]);
    assert!(said.stderr.contains("after the latest time"), "{said:?}");
    said.exited(0);
    run(dir.path(), ["check", "--database", "copy.db"]).failed(1, &["1 fault"]);
}

#[test]
fn what_is_no_database_of_ours_is_not_copied() {
    let dir = a_directory();
    on(dir.path(), &["backup", "copy.db"]).failed(1, &["s.db"]);
    assert!(!dir.path().join("s.db").exists(), "and none is made");
    fs::write(dir.path().join("s.db"), "").expect("written");
    on(dir.path(), &["backup", "copy.db"]).failed(1, &["s.db is empty"]);
    fs::write(dir.path().join("s.db"), "a shopping list").expect("written");
    on(dir.path(), &["backup", "copy.db"]).failed(1, &["not a database"]);
    assert_eq!(names_in(dir.path()), ["s.db"]);
}

#[test]
fn database_of_an_older_version_is_copied_as_it_is() {
    let dir = a_directory();
    make_first_version(&dir.path().join("s.db"));
    let said = on(dir.path(), &["backup", "copy.db"]).exited(0);
    assert!(said.starts_with("copy.db: 0 session(s), 0 event(s), "), "{said}");
    let version: i64 = open_database(&dir.path().join("copy.db"))
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("a version");
    assert_eq!(version, 1);
}

#[tokio::test]
async fn folder_that_is_not_there_is_a_clear_error() {
    let dir = database_in_use().await;
    on(dir.path(), &["backup", "no/copy.db"]).failed(1, &["cannot write no"]);
}
