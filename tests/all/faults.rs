//! The real binary with a disk that fails under it, and a wall clock that steps: what callers get meanwhile, what comes back by
//! itself, and that nothing acknowledged is lost. The table in `docs/OPERATIONS.md` names these tests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::eventually;
use crate::locations::countries;
use crate::process::{Process, Served, build_preloaded, create_key, names_in, run, sessiond, text};

const DAY: i64 = 86_400;

/// What the disk does; as in injector.c.
#[derive(Clone, Copy)]
enum Fault {
    None,
    NoSpace,
    ReadOnly,
    /// So many writes succeed first.
    FailingWrites(i32),
    FailingSyncs,
    WaitingSyncs,
    WaitingReads,
}

/// The hand on the disk of one database.
struct Disk {
    library: PathBuf,
    database: PathBuf,
    control: File,
    gate: PathBuf,
}

impl Disk {
    fn in_dir(dir: &TempDir) -> Self {
        let dir = dir.path().canonicalize().expect("a directory");
        let control = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(dir.join("control"))
            .expect("made");
        control.write_all_at(&[0; 24], 0).expect("written");
        let gate = dir.join("gate");
        let made = Command::new("mkfifo").arg(&gate).status().expect("mkfifo runs");
        assert!(made.success());
        Self {
            library: build_preloaded(&dir, "tests/all/faults/injector.c"),
            database: dir.join("s.db"),
            control,
            gate,
        }
    }

    /// `serve` over this disk, with these variables.
    fn command(&self, variables: &[(&str, &str)]) -> Command {
        let dir = self.database.parent().expect("it is in a directory");
        let mut command = sessiond(dir, ["serve", "--listen", "127.0.0.1:0", "--database"]);
        command
            .arg(&self.database)
            .env("LD_PRELOAD", &self.library)
            .env("FAULT_DATABASE", &self.database)
            .env("FAULT_CONTROL", dir.join("control"))
            .env("FAULT_GATE", &self.gate)
            // No regular work that a test does not wait for.
            .env("SESSIOND_SESSIONS__FLUSH_INTERVAL_MS", "60000")
            .envs(variables.iter().copied());
        command
    }

    fn set(&self, fault: Fault) {
        let (number, writes_left) = match fault {
            Fault::None => (0, 0),
            Fault::NoSpace => (1, 0),
            Fault::ReadOnly => (2, 0),
            Fault::FailingWrites(after) => (3, after),
            Fault::FailingSyncs => (4, 0),
            Fault::WaitingSyncs => (5, 0),
            Fault::WaitingReads => (6, 0),
        };
        self.put(4, writes_left);
        self.put(0, number);
    }

    fn put(&self, place: u64, number: i32) {
        self.control
            .write_all_at(&number.to_ne_bytes(), place)
            .expect("written");
    }

    fn number(&self, place: u64) -> i32 {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, place).expect("read");
        i32::from_ne_bytes(bytes)
    }

    fn failed_calls(&self) -> i32 {
        self.number(12)
    }

    async fn until_somebody_waits(&self) {
        eventually("a call waits at the gate", async || self.number(8) > 0).await;
    }

    /// Lets everybody through who waits now or comes to wait, as long as the answer lives.
    fn open_gate(&self) -> File {
        // Opened both ways, as that does not wait for the other side (fifo(7)).
        File::options()
            .read(true)
            .write(true)
            .open(&self.gate)
            .expect("opened")
    }

    fn step_clock(&self, secs: i64) {
        self.control
            .write_all_at(&secs.to_ne_bytes(), 16)
            .expect("written");
    }

    fn assert_whole(&self) {
        let dir = self.database.parent().expect("it is in a directory");
        let printed = run(dir, ["check", "--database", "s.db"]).exited(0);
        assert!(printed.starts_with("ok: "), "{printed}");
    }
}

/// A directory, its disk, and an API key.
fn prepare() -> (TempDir, Disk, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::in_dir(&dir);
    let key = create_key(dir.path());
    (dir, disk, key)
}

async fn try_create(server: &Served, key: &str, user: &str) -> (u16, Value) {
    let body = json!({ "user_id": user });
    server.call(Method::POST, "/v1/sessions", key, Some(body)).await
}

async fn sign_in(server: &Served, key: &str, user: &str) -> (String, String) {
    server.create(key, json!({ "user_id": user })).await
}

fn assert_refused((status, answer): &(u16, Value), code: &str) {
    assert_eq!((*status, &answer["code"]), (503, &json!(code)), "{answer}");
}

/// The users who have an active session, sorted.
async fn users(server: &Served, key: &str) -> Vec<String> {
    let (status, page) = server.get("/v1/sessions?limit=200&status=active", key).await;
    assert_eq!(status, 200, "{page}");
    let sessions = page["sessions"].as_array().expect("a list");
    let mut users: Vec<String> = sessions.iter().map(|session| text(&session["user_id"])).collect();
    users.sort();
    users
}

async fn queue_len(server: &Served) -> usize {
    let url = format!("{}/metrics", server.base);
    let metrics = server.client.get(url).send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("sessiond_writer_queue_length "));
    line.expect("it is counted").parse().expect("a number")
}

/// Sends creations of these users, each in a task of its own; answers who each was for, and what came.
fn send_creations(
    server: &Served,
    key: &str,
    users: impl Iterator<Item = String>,
) -> JoinSet<(String, (u16, Value))> {
    let mut calls = JoinSet::new();
    for user in users {
        let (caller, key) = (server.caller.clone(), key.to_owned());
        calls.spawn(async move {
            let body = json!({ "user_id": user });
            let answer = caller.call(Method::POST, "/v1/sessions", &key, Some(body)).await;
            (user, answer)
        });
    }
    calls
}

// The disk refuses.

async fn changes_are_refused_while(fault: Fault) {
    let (_dir, disk, key) = prepare();
    let server = Served::start(disk.command(&[]));
    let (_, ada) = sign_in(&server, &key, "ada").await;
    server.assert_token(&ada, "active").await;

    disk.set(fault);
    assert_refused(&try_create(&server, &key, "bob").await, "store_unavailable");
    let sign_out = server.call(Method::DELETE, "/v1/session", &ada, None).await;
    assert_refused(&sign_out, "store_unavailable");
    assert!(disk.failed_calls() >= 2, "the disk refused");
    server.assert_token(&ada, "active").await;
    assert_eq!(users(&server, &key).await, ["ada"]);

    disk.set(Fault::None);
    sign_in(&server, &key, "cleo").await;
    assert_eq!(users(&server, &key).await, ["ada", "cleo"]);
    let (status, _) = server.call(Method::DELETE, "/v1/session", &ada, None).await;
    assert_eq!(status, 204);
    server.assert_token(&ada, "session_ended").await;
    server.stop();
    disk.assert_whole();
}

#[tokio::test]
async fn full_disk_refuses_changes_serves_checks_and_is_no_longer_noticed_with_space() {
    changes_are_refused_while(Fault::NoSpace).await;
}

#[tokio::test]
async fn disk_that_becomes_read_only_refuses_changes_and_serves_checks_until_it_is_writable() {
    changes_are_refused_while(Fault::ReadOnly).await;
}

#[tokio::test]
async fn database_that_cannot_be_written_is_refused_at_start() {
    let (_dir, disk, key) = prepare();
    disk.set(Fault::ReadOnly);
    Process::spawn(disk.command(&[]))
        .finish()
        .failed(1, &["s.db", "for writing", "Read-only file system"]);
    assert!(disk.failed_calls() > 0, "the disk refused");

    disk.set(Fault::None);
    let server = Served::start(disk.command(&[]));
    sign_in(&server, &key, "ada").await;
}

// The disk fails on the way.

#[tokio::test]
async fn write_error_in_the_middle_of_a_batch_leaves_nothing_of_it() {
    let (_dir, disk, key) = prepare();
    let mut server = Served::start(disk.command(&[]));
    let (_, ada) = sign_in(&server, &key, "ada").await;
    disk.set(Fault::WaitingSyncs);
    let first = send_creations(&server, &key, ["first".to_owned()].into_iter());
    disk.until_somebody_waits().await;
    let batch = send_creations(&server, &key, (0..20).map(|n| format!("user{n}")));
    eventually("the batch waits", async || queue_len(&server).await == 20).await;
    let revocation = {
        let (caller, token) = (server.caller.clone(), ada.clone());
        tokio::spawn(async move { caller.try_call(Method::DELETE, "/v1/session", &token, None).await })
    };
    eventually("so does the ending", async || queue_len(&server).await == 21).await;

    disk.set(Fault::FailingWrites(3));
    let gate = disk.open_gate();
    for (_, (status, answer)) in first.join_all().await {
        assert_eq!(status, 201, "it was written before: {answer}");
    }
    for (_, answer) in batch.join_all().await {
        assert_refused(&answer, "store_unavailable");
    }
    let ending = revocation.await.expect("it ran").expect("an answer");
    assert_refused(&ending, "store_unavailable");
    drop(gate);

    disk.set(Fault::None);
    server.assert_token(&ada, "active").await;
    assert_eq!(users(&server, &key).await, ["ada", "first"]);
    sign_in(&server, &key, "later").await;
    server.process.kill();
    let server = Served::start(disk.command(&[]));
    assert_eq!(users(&server, &key).await, ["ada", "first", "later"]);
    server.assert_token(&ada, "active").await;
    server.stop();
    disk.assert_whole();
}

#[tokio::test]
async fn change_whose_sync_failed_is_refused_and_none_is_lost_after_it() {
    let (_dir, disk, key) = prepare();
    let mut server = Served::start(disk.command(&[]));
    let (_, ada) = sign_in(&server, &key, "ada").await;
    disk.set(Fault::FailingSyncs);
    assert_refused(&try_create(&server, &key, "bob").await, "store_unavailable");
    let sign_out = server.call(Method::DELETE, "/v1/session", &ada, None).await;
    assert_refused(&sign_out, "store_unavailable");
    assert!(disk.failed_calls() >= 2, "the disk refused");
    server.assert_token(&ada, "active").await;
    assert_eq!(users(&server, &key).await, ["ada"]);

    disk.set(Fault::None);
    sign_in(&server, &key, "cleo").await;
    server.process.kill();
    let server = Served::start(disk.command(&[]));
    assert_eq!(users(&server, &key).await, ["ada", "cleo"]);
    server.assert_token(&ada, "active").await;
    server.stop();
    disk.assert_whole();
}

// The disk hangs.

#[tokio::test]
async fn stalled_writer_keeps_no_check_waiting_and_refuses_what_it_cannot_queue() {
    let (_dir, disk, key) = prepare();
    let server = Served::start(disk.command(&[]));
    let (_, uncached) = sign_in(&server, &key, "ada").await;
    server.stop();
    let server = Served::start(disk.command(&[("SESSIOND_DATABASE__QUEUE_LEN_MAX", "2")]));
    let (_, cached) = sign_in(&server, &key, "bob").await;
    server.assert_token(&cached, "active").await;

    disk.set(Fault::WaitingSyncs);
    let written = send_creations(&server, &key, ["first".to_owned()].into_iter());
    disk.until_somebody_waits().await;
    let queued = send_creations(
        &server,
        &key,
        ["second".to_owned(), "third".to_owned()].into_iter(),
    );
    eventually("the queue is full", async || queue_len(&server).await == 2).await;
    assert_refused(&try_create(&server, &key, "fourth").await, "overloaded");
    server.assert_token(&cached, "active").await;
    server.assert_token(&uncached, "active").await;
    assert_eq!(users(&server, &key).await, ["ada", "bob"]);
    assert_eq!(server.get("/healthz", "").await.0, 200);

    disk.set(Fault::None);
    let _gate = disk.open_gate();
    for calls in [written, queued] {
        for (_, (status, answer)) in calls.join_all().await {
            assert_eq!(status, 201, "{answer}");
        }
    }
    assert_eq!(
        users(&server, &key).await,
        ["ada", "bob", "first", "second", "third"]
    );
    server.stop();
    disk.assert_whole();
}

#[tokio::test]
async fn stop_waits_for_a_backup_whose_disk_hangs_no_longer_than_its_grace() {
    let (dir, disk, key) = prepare();
    let folder = dir.path().canonicalize().expect("a directory").join("backups");
    std::fs::create_dir(&folder).expect("made");
    let settings = [
        ("SESSIOND_BACKUP__FOLDER", "backups"),
        ("SESSIOND_SERVER__SHUTDOWN_GRACE_SECS", "1"),
    ];
    let mut command = disk.command(&settings);
    command.env("FAULT_DATABASE", folder.join(".sessiond-backup-unfinished"));
    disk.set(Fault::WaitingSyncs);
    let server = Served::start(command);
    let (_, ada) = sign_in(&server, &key, "ada").await;
    disk.until_somebody_waits().await;

    let finished = server.stop();
    assert!(finished.stderr.contains("is left as it is"), "{finished:?}");
    disk.set(Fault::None);
    let mut server = Served::start(disk.command(&settings));
    server.process.stderr.until("backup backups/s-");
    server.assert_token(&ada, "active").await;
    server.stop();
    assert_eq!(names_in(&folder).len(), 1, "the next one clears it away");
}

#[tokio::test]
async fn exhausted_readers_refuse_what_must_read_serve_the_cache_and_recover() {
    let (_dir, disk, key) = prepare();
    let server = Served::start(disk.command(&[]));
    let (_, uncached) = sign_in(&server, &key, "ada").await;
    server.stop();
    let server = Served::start(disk.command(&[("SESSIOND_DATABASE__READ_POOL", "1")]));
    let (_, cached) = sign_in(&server, &key, "bob").await;
    server.assert_token(&cached, "active").await;
    // The key's page is known from now on, so that the list itself is what waits.
    assert_eq!(server.get("/v1/sessions/0", &key).await.0, 404);

    disk.set(Fault::WaitingReads);
    let list = {
        let (caller, key) = (server.caller.clone(), key.clone());
        tokio::spawn(async move {
            caller
                .try_call(Method::GET, "/v1/users/ada/sessions", &key, None)
                .await
        })
    };
    disk.until_somebody_waits().await;
    server.assert_token(&cached, "active").await;
    assert_eq!(server.get("/healthz", "").await.0, 200);
    // After the five seconds that a read waits for a connection.
    assert_refused(&server.get("/v1/session", &uncached).await, "store_unavailable");

    disk.set(Fault::None);
    let _gate = disk.open_gate();
    let (status, list) = list.await.expect("it ran").expect("an answer");
    assert_eq!(
        (status, list["sessions"].as_array().map(Vec::len)),
        (200, Some(1))
    );
    server.assert_token(&uncached, "active").await;
    server.stop();
    disk.assert_whole();
}

// The clock steps.

#[tokio::test]
async fn clock_that_steps_a_day_forward_and_back_revives_nothing_and_keeps_new_sessions() {
    let (_dir, disk, key) = prepare();
    let server = Served::start(disk.command(&[]));
    let hour = json!({ "user_id": "ada", "idle_timeout_secs": 3_600 });
    let (_, short) = server.create(&key, hour).await;
    let (before, long) = sign_in(&server, &key, "ada").await;
    server.assert_token(&short, "active").await;

    disk.step_clock(DAY);
    server.assert_token(&short, "session_ended").await;
    server.assert_token(&long, "active").await;
    let (during, _) = sign_in(&server, &key, "ada").await;
    disk.step_clock(0);
    server.assert_token(&short, "session_ended").await;
    server.assert_token(&long, "active").await;
    let (after, token) = sign_in(&server, &key, "ada").await;
    server.assert_token(&token, "active").await;
    assert!(before < during && during < after, "ids grow");

    server.stop();
    let server = Served::start(disk.command(&[]));
    let told = &server.process.stderr.seen;
    assert!(told.contains("s behind the times in the database"), "{told}");
    server.assert_token(&short, "session_ended").await;
    server.assert_token(&token, "active").await;
    server.stop();
    disk.assert_whole();
}

#[tokio::test]
async fn clock_that_steps_a_day_back_ends_nothing_and_keeps_the_order() {
    let (_dir, disk, key) = prepare();
    let server = Served::start(disk.command(&[]));
    let (first, token) = sign_in(&server, &key, "ada").await;

    disk.step_clock(-DAY);
    server.assert_token(&token, "active").await;
    let (second, later) = sign_in(&server, &key, "ada").await;
    let (_, list) = server.get("/v1/users/ada/sessions", &key).await;
    let ids: Vec<_> = list["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| text(&s["id"]))
        .collect();
    assert_eq!(ids, [second, first], "newest sign-in first");
    let (status, _) = server.call(Method::DELETE, "/v1/session", &later, None).await;
    assert_eq!(status, 204);
    disk.step_clock(0);
    server.assert_token(&later, "session_ended").await;
    server.assert_token(&token, "active").await;
    server.stop();
    disk.assert_whole();
}

// A file is replaced.

#[tokio::test]
async fn garbage_in_place_of_the_location_file_is_told_and_the_old_one_answers_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = create_key(dir.path());
    let file = dir.path().join("country.mmdb");
    replace(&file, &countries("DE"));
    let mut command = sessiond(
        dir.path(),
        ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
    );
    command
        .env("SESSIOND_LOCATION__DATABASE", &file)
        .env("SESSIOND_SESSIONS__FLUSH_INTERVAL_MS", "10");
    let mut server = Served::start(command);
    let place = async |server: &Served| {
        let body = json!({ "ip_address": "194.25.0.125" });
        let (_, answer) = server.call(Method::POST, "/v1/sessions", &key, Some(body)).await;
        text(&answer["session"]["location"])
    };
    assert_eq!(place(&server).await, "DE");

    replace(&file, b"<html>503 Service Unavailable</html>");
    server
        .process
        .stderr
        .until("country.mmdb is not a sound MaxMind DB file");
    assert_eq!(place(&server).await, "DE");
    replace(&file, &countries("FR"));
    eventually("the next sound file answers", async || {
        place(&server).await == "FR"
    })
    .await;
}

/// Puts a file in place of another, as a download does.
fn replace(file: &Path, bytes: &[u8]) {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes).expect("written");
    std::fs::rename(&new, file).expect("moved");
}
