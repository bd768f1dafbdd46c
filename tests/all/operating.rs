//! Starting, stopping and what can be in the way: the lock, the port, the database, the socket, `dev`.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;
use sessiond::clock::Clock;
use sessiond::manager::SignIn;
use sessiond::server::{Mode, Server, beside};
use sessiond::session::AppName;
use tempfile::{TempDir, tempdir};
use tokio::sync::oneshot;

use crate::harness::{
    PATIENCE, START, config_in, eventually, hold_snapshot, make_first_version, open_database,
};
use crate::process::{Process, Served, create_key, names_in, run, sessiond};

fn a_directory() -> TempDir {
    tempdir().expect("a directory")
}

/// Starts a server that is to be refused.
fn serve_in_vain(dir: &Path, listen: &str, database: &str) -> crate::process::Finished {
    run(dir, ["serve", "--listen", listen, "--database", database])
}

// The lock.

#[test]
fn second_server_on_the_same_file_is_refused() {
    let dir = a_directory();
    let _first = Served::serve(dir.path());
    serve_in_vain(dir.path(), "127.0.0.1:0", "s.db").failed(1, &["another sessiond is running", "s.db"]);
}

#[test]
fn second_server_on_the_same_file_by_another_path_is_refused() {
    let dir = a_directory();
    let _first = Served::serve(dir.path());
    std::fs::create_dir(dir.path().join("inner")).expect("made");
    symlink("../s.db", dir.path().join("inner/link.db")).expect("linked");
    symlink("inner/link.db", dir.path().join("link.db")).expect("linked");
    symlink(".", dir.path().join("folder")).expect("linked");
    let absolute = dir.path().join("s.db");
    let absolute = absolute.to_str().expect("a path");
    for path in [
        absolute,
        "./inner/../s.db",
        "folder/s.db",
        "inner/link.db",
        "link.db",
    ] {
        serve_in_vain(dir.path(), "127.0.0.1:0", path).failed(1, &["another sessiond is running", path]);
    }
}

#[tokio::test]
async fn command_without_a_server_deletes_nothing_that_it_is_not_asked_to() {
    let dir = a_directory();
    let mut config = config_in(dir.path());
    config.sessions.flush_interval_ms = 1;
    let database = config.database.path.clone();
    let clock = Arc::new(Clock::manual(START));
    let server = Server::bind(config, Mode::OperatorOnly, Arc::clone(&clock)).await;
    let server = server.expect("it starts");
    let manager = Arc::clone(server.manager());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));
    let app = AppName::default_app();
    manager.create(&app, SignIn::default()).await.expect("a session");
    clock.advance(Duration::from_secs(1_000 * 24 * 60 * 60));
    let socket = beside(&database, ".cli");
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .build()
        .expect("a client");
    // Regular work would have been done many times meanwhile.
    for _ in 0..500 {
        let answer = client
            .get("http://localhost/readyz")
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    drop((stop, client));
    running.await.expect("no panic").expect("it stops in order");
    let kept = |table: &str| -> u64 {
        let count = format!("SELECT count(*) FROM {table}");
        open_database(&database)
            .query_row(&count, [], |row| row.get(0))
            .expect("a number")
    };
    assert_eq!(
        (kept("sessions"), kept("events")),
        (1, 2),
        "it began and was over"
    );
}

#[test]
fn command_reaches_the_server_by_a_link_to_its_database() {
    let dir = a_directory();
    let _server = Served::serve(dir.path());
    symlink("s.db", dir.path().join("link.db")).expect("linked");
    run(dir.path(), ["keys", "list", "--database", "link.db"]).exited(0);
}

#[test]
fn link_that_leads_to_no_file_yet_becomes_a_database_where_it_points() {
    let dir = a_directory();
    std::fs::create_dir(dir.path().join("data")).expect("made");
    symlink("data/real.db", dir.path().join("s.db")).expect("linked");
    let _server = Served::serve(dir.path());
    assert!(names_in(&dir.path().join("data")).contains(&"real.db.lock".to_owned()));
    serve_in_vain(dir.path(), "127.0.0.1:0", "data/real.db").failed(1, &["another sessiond is running"]);
}

#[test]
fn links_in_a_circle_are_a_clear_error() {
    let dir = a_directory();
    symlink("b.db", dir.path().join("a.db")).expect("linked");
    symlink("a.db", dir.path().join("b.db")).expect("linked");
    serve_in_vain(dir.path(), "127.0.0.1:0", "a.db").failed(1, &["a.db"]);
}

#[test]
fn second_server_is_refused_while_dev_runs() {
    let dir = a_directory();
    let _dev = Served::dev(dir.path());
    let database = "sessiond-dev/sessiond.db";
    serve_in_vain(dir.path(), "127.0.0.1:0", database).failed(1, &["another sessiond is running"]);
    run(dir.path(), ["dev", "--listen", "127.0.0.1:0"]).failed(1, &["another sessiond is running"]);
}

#[tokio::test]
async fn refused_second_server_harms_neither_the_first_nor_its_socket() {
    let dir = a_directory();
    let first = Served::serve(dir.path());
    serve_in_vain(dir.path(), "127.0.0.1:0", "s.db").failed(1, &[]);
    let key = create_key(dir.path());
    first.create(&key, json!({ "user_id": "ada" })).await;
}

// The port.

#[test]
fn taken_port_is_a_clear_error_and_leaves_no_database() {
    let dir = a_directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let words = ["cannot listen on", &address, "choose another with --listen"];
    serve_in_vain(dir.path(), &address, "s.db").failed(1, &words);
    // The lock stays: whoever deletes a lock file can lock another one than the next process does.
    assert_eq!(names_in(dir.path()), ["s.db.lock"]);

    run(dir.path(), ["dev", "--listen", &address]).failed(1, &words);
    assert_eq!(names_in(&dir.path().join("sessiond-dev")), ["sessiond.db.lock"]);
}

// Stopping.

/// Reads an answer's head and body from a connection that stays open.
fn read_answer(connection: &mut TcpStream) -> String {
    connection.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\r\n\r\n") {
        connection.read_exact(&mut byte).expect("more of the head");
        answer.push(char::from(byte[0]));
    }
    let length = answer
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .expect("a length");
    let mut body = vec![0; length];
    connection.read_exact(&mut body).expect("the body");
    answer + &String::from_utf8(body).expect("text")
}

#[tokio::test]
async fn running_request_ends_before_the_server_does_and_no_new_one_begins() {
    for signal in ["TERM", "INT"] {
        let dir = a_directory();
        let key = create_key(dir.path());
        let mut server = Served::serve(dir.path());
        let mut connection = TcpStream::connect(server.address()).expect("connected");
        // The handler answers this with "100 Continue" when it reads the body: then the request is running.
        let head = format!(
            "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\n\
             Content-Type: application/json\r\nContent-Length: 17\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).expect("sent");
        let mut goes_on = [0; 25];
        connection.read_exact(&mut goes_on).expect("it reads the body");
        assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");

        server.process.signal(signal);
        server.process.stderr.until("stopping");
        eventually("nobody can connect", async || {
            TcpStream::connect(server.address()).is_err()
        })
        .await;
        connection.write_all(br#"{"user_id":"ada"}"#).expect("sent");
        assert!(
            read_answer(&mut connection).starts_with("HTTP/1.1 201"),
            "{signal}"
        );
        let finished = server.process.finish();
        assert_eq!(finished.status.code(), Some(0), "{signal}: {finished:?}");
        let database = open_database(&dir.path().join("s.db"));
        let count: u32 = database
            .query_row("SELECT count(*) FROM sessions", [], |row| row.get(0))
            .expect("counted");
        assert_eq!(count, 1, "{signal}");
    }
}

#[test]
fn idle_and_unused_connections_do_not_delay_the_end() {
    for signal in ["TERM", "INT"] {
        let dir = a_directory();
        let mut server = Served::serve(dir.path());
        let connect = || TcpStream::connect(server.address()).expect("connected");
        let (mut idle, mut half, _unused) = (connect(), connect(), connect());
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("sent");
        assert!(read_answer(&mut idle).starts_with("HTTP/1.1 200"));
        half.write_all(b"GET /healthz HTTP/1.1\r\nHos").expect("sent");

        let asked = Instant::now();
        server.process.signal(signal);
        server.process.stderr.until("stopping");
        assert_eq!(server.process.finish().status.code(), Some(0), "{signal}");
        // The grace time is 10 s; the workers look every second whether they are done.
        assert!(
            asked.elapsed().as_secs() < 5,
            "{signal} took {:?}",
            asked.elapsed()
        );
    }
}

#[tokio::test]
async fn signal_during_a_start_ends_it_in_order() {
    for kind in ["serve", "dev"] {
        let dir = a_directory();
        // The start is held up where it opens the database.
        let hold = Connection::open(dir.path().join("s.db")).expect("opened");
        hold.execute_batch("BEGIN EXCLUSIVE").expect("locked");
        let arguments = [kind, "--listen", "127.0.0.1:0", "--database", "s.db"];
        let process = Process::spawn(sessiond(dir.path(), arguments));
        let lock = dir.path().join("s.db.lock");
        eventually("the start is under way", async || lock.exists()).await;
        process.signal("TERM");
        hold.execute_batch("ROLLBACK").expect("unlocked");
        drop(hold);
        let finished = process.finish();
        assert_eq!(finished.status.code(), Some(0), "{kind}: {finished:?}");
        assert!(!dir.path().join("s.db.sock").exists(), "{kind}");
    }
}

#[tokio::test]
async fn touches_are_written_before_the_end() {
    let dir = a_directory();
    let key = create_key(dir.path());
    let mut command = sessiond(
        dir.path(),
        ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
    );
    command
        .env("SESSIOND_SESSIONS__FLUSH_INTERVAL_MS", "60000")
        .env("SESSIOND_SESSIONS__TOUCH_INTERVAL_SECS", "0")
        .env("SESSIOND_SERVER__TRUSTED_PROXIES", "127.0.0.1");
    let server = Served::start(command);
    let (_, token) = server.create(&key, json!({ "user_id": "ada" })).await;
    let request = server.client.get(format!("{}/v1/session", server.base));
    let request = request
        .bearer_auth(&token)
        .header("x-forwarded-for", "203.0.113.9");
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    let address = || {
        open_database(&dir.path().join("s.db"))
            .query_row("SELECT ip_address FROM sessions", [], |row| {
                row.get::<_, Option<String>>(0)
            })
            .expect("a row")
    };
    assert_eq!(address(), None, "not yet written");
    server.stop();
    assert_eq!(address().as_deref(), Some("203.0.113.9"));
}

// What stands beside the database.

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn files_and_socket_are_their_owner_s_alone() {
    let dir = a_directory();
    let mut command = std::process::Command::new("sh");
    command
        .arg("-c")
        .arg("umask 0; exec \"$0\" serve --listen 127.0.0.1:0 --database s.db")
        .arg(env!("CARGO_BIN_EXE_sessiond"))
        .current_dir(dir.path());
    let _server = Served::start(command);
    let names = names_in(dir.path());
    let expected = [
        "s.db",
        "s.db-shm",
        "s.db-wal",
        "s.db.key",
        "s.db.lock",
        "s.db.sock",
    ];
    assert_eq!(names, expected);
    for name in names {
        assert_eq!(mode_of(&dir.path().join(&name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn stopped_server_leaves_everything_in_the_one_file_and_no_socket() {
    let dir = a_directory();
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let (id, _) = server.create(&key, json!({ "user_id": "ada" })).await;
    server.stop();
    assert!(!dir.path().join("s.db.sock").exists());

    let elsewhere = a_directory();
    let copy = elsewhere.path().join("copy.db");
    std::fs::copy(dir.path().join("s.db"), &copy).expect("copied");
    let shown = run(elsewhere.path(), ["sessions", "list", "--database", "copy.db"]).exited(0);
    assert!(shown.contains(&id), "{shown}");
}

#[tokio::test]
async fn server_that_stops_beside_a_reader_says_that_the_log_belongs_to_the_database() {
    let dir = a_directory();
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let reader = hold_snapshot(&dir.path().join("s.db"));
    let (id, _) = server.create(&key, json!({ "user_id": "ada" })).await;
    let stopped = server.stop();
    for words in [
        "by another program or by a backup of this server's",
        "belongs to it until a start that finds no reader",
    ] {
        assert!(stopped.stderr.contains(words), "{words:?} is not in {stopped:?}");
    }
    drop(reader);
    let shown = run(dir.path(), ["sessions", "list", "--database", "s.db"]).exited(0);
    assert!(shown.contains(&id), "{shown}");
}

#[tokio::test]
async fn socket_of_a_killed_server_is_replaced() {
    let dir = a_directory();
    let mut first = Served::serve(dir.path());
    first.process.kill();
    let socket = dir.path().join("s.db.sock");
    let refused = UnixStream::connect(&socket).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let server = Served::serve(dir.path());
    UnixStream::connect(&socket).expect("somebody listens");
    let key = create_key(dir.path());
    server.create(&key, json!({ "user_id": "ada" })).await;
    server.stop();
    assert!(!socket.exists());
}

#[test]
fn server_killed_while_it_made_its_socket_is_no_hindrance() {
    let dir = a_directory();
    std::fs::create_dir(dir.path().join("s.db.sk")).expect("made");
    std::fs::write(dir.path().join("s.db.sk/s"), "").expect("made");
    Served::serve(dir.path()).stop();
    assert!(!dir.path().join("s.db.sk").exists());
}

#[test]
fn command_works_beside_the_socket_of_a_killed_server() {
    let dir = a_directory();
    Served::serve(dir.path()).process.kill();
    create_key(dir.path());
    assert!(!dir.path().join("s.db.sock").exists());
}

#[tokio::test]
async fn operator_plane_is_not_reached_by_tcp() {
    let dir = a_directory();
    let key = create_key(dir.path());
    for server in [Served::serve(dir.path())] {
        for bearer in [key.as_str(), ""] {
            for (method, path) in [
                (Method::GET, "/v1/keys"),
                (Method::POST, "/v1/keys"),
                (Method::DELETE, "/v1/keys/018f0000-0000-7000-8000-000000000000"),
            ] {
                let (status, answer) = server
                    .call(method, path, bearer, Some(json!({ "name": "x" })))
                    .await;
                assert_eq!(
                    (status, answer["code"].as_str()),
                    (404, Some("not_found")),
                    "{path}"
                );
            }
        }
        // The socket answers without a key; TCP does not, whatever app is named.
        let (status, _) = server.get("/v1/users/ada?app=default", "").await;
        assert_eq!(status, 401);
    }
}

// The database.

#[test]
fn first_start_without_an_api_key_says_how_to_make_one() {
    let dir = a_directory();
    let mut server = Served::serve(dir.path());
    let hint = server.process.stderr.until("no API key");
    let (_, command) = hint.split_once("sessiond keys create").expect("a command");
    let arguments = ["keys", "create"].into_iter().chain(command.split_whitespace());
    run(dir.path(), arguments).exited(0);
    server.stop();

    let server = Served::serve(dir.path()).stop();
    assert!(!server.stderr.contains("no API key"), "{}", server.stderr);
}

#[test]
fn database_of_a_newer_schema_is_refused_with_both_versions() {
    let dir = a_directory();
    create_key(dir.path());
    let database = dir.path().join("s.db");
    let connection = Connection::open(&database).expect("opened");
    let known: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("a version");
    connection.pragma_update(None, "user_version", 4711).expect("set");
    drop(connection);
    let before = std::fs::read(&database).expect("read");
    let known = format!("up to {known}");
    serve_in_vain(dir.path(), "127.0.0.1:0", "s.db").failed(1, &["version 4711", &known]);
    assert!(
        std::fs::read(&database).expect("read") == before,
        "it was changed"
    );
}

#[test]
fn database_of_another_program_is_refused_untouched() {
    let dir = a_directory();
    let database = dir.path().join("s.db");
    Connection::open(&database)
        .expect("opened")
        .execute_batch("CREATE TABLE theirs (x)")
        .expect("made");
    let text = dir.path().join("notes.txt");
    std::fs::write(
        &text,
        "Not a database at all, but somebody's notes.\n".repeat(100),
    )
    .expect("written");
    for (path, words) in [(&database, "not one of sessiond's"), (&text, "not a database")] {
        let before = std::fs::read(path).expect("read");
        let name = path.to_str().expect("a path");
        serve_in_vain(dir.path(), "127.0.0.1:0", name).failed(1, &[words, name]);
        assert!(std::fs::read(path).expect("read") == before, "{name} was changed");
    }
    let locks = ["notes.txt", "notes.txt.lock", "s.db", "s.db.lock"];
    assert_eq!(names_in(dir.path()), locks);
}

// `dev`.

/// A line of what `dev` printed, without the spaces before it.
fn line_with<'t>(text: &'t str, part: &str) -> &'t str {
    let line = text.lines().find(|line| line.contains(part));
    line.unwrap_or_else(|| panic!("no line with {part:?} in {text}"))
        .trim()
}

/// Reads all of dev's words, up to the last of its commands; answers its key too.
fn welcome(dev: &mut Served) -> (String, String) {
    dev.process.stdout.until("/dev/clock");
    let words = dev.process.stdout.seen.clone();
    let key = line_with(&words, "export KEY=")
        .trim_start_matches("export KEY=")
        .to_owned();
    (words, key)
}

#[test]
fn dev_prints_commands_that_work_when_they_are_copied() {
    let dir = a_directory();
    let mut dev = Served::dev(dir.path());
    let (words, key) = welcome(&mut dev);
    assert!(
        key.starts_with("ssk_") && line_with(&words, "Dashboard").contains("/  "),
        "{words}"
    );
    // The commands as they stand there, from the key to the last one; the answers are caught by name.
    let commands: Vec<&str> = words
        .lines()
        .filter(|line| {
            line.starts_with("  export") || line.starts_with("  curl") || line.starts_with("    -H")
        })
        .collect();
    assert_eq!(
        commands.iter().filter(|line| line.contains("curl")).count(),
        5,
        "{words}"
    );
    let script = commands.join("\n").replacen("  curl", "  CREATED=$(curl", 1);
    let script = script.replacen(
        "'{\"user_id\":\"ada\"}'",
        "'{\"user_id\":\"ada\"}')\n  echo \"$CREATED\"\n  \
        TOKEN=$(expr \"$CREATED\" : '.*\"token\":\"\\([^\"]*\\)\"')",
        1,
    );
    let mut shell = std::process::Command::new("sh");
    shell.args([
        "-euc",
        &script.replace("curl -s", "curl -s -w '\\n' --fail-with-body"),
    ]);
    let answers = Process::spawn(shell).finish().exited(0);
    let answers: Vec<serde_json::Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line} in {answers}")))
        .collect();
    let [created, listed, checked, revoked, moved] = answers.as_slice() else {
        panic!("{answers:?}");
    };
    assert_eq!(checked["id"], created["session"]["id"]);
    assert_eq!(revoked["revoked_count"], listed["active_count"]);
    assert!(moved["now"].is_string(), "{moved}");
}

#[tokio::test]
async fn dev_keeps_its_sample_people_over_a_restart_and_revokes_the_old_key() {
    let dir = a_directory();
    let mut first = Served::dev(dir.path());
    let (_, old_key) = welcome(&mut first);
    let (status, before) = first.get("/v1/users/ada/sessions?status=all", &old_key).await;
    assert_eq!(status, 200);
    assert!(before["active_count"].as_u64() > Some(1), "{before}");
    first.stop();

    let mut second = Served::dev(dir.path());
    let (_, key) = welcome(&mut second);
    assert_eq!(second.get("/v1/users/ada", &old_key).await.0, 401);
    let (_, after) = second.get("/v1/users/ada/sessions?status=all", &key).await;
    assert_eq!(
        before["sessions"], after["sessions"],
        "the same people, seeded once"
    );
}

#[tokio::test]
async fn dev_seeds_an_empty_database_only() {
    let dir = a_directory();
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let (_, token) = server.create(&key, json!({})).await;
    server.stop();

    let dev = Served::start(sessiond(
        dir.path(),
        ["dev", "--listen", "127.0.0.1:0", "--database", "s.db"],
    ));
    let (_, ada) = dev.get("/v1/users/ada", &key).await;
    assert_eq!(
        ada["active_count"], 0,
        "one anonymous session is not empty: {ada}"
    );
    dev.assert_token(&token, "active").await;
}

#[tokio::test]
async fn clock_of_dev_goes_on_after_a_restart() {
    const DAY_SECS: u64 = 86_400;
    let dir = a_directory();
    let now = async |dev: &Served, advance_secs: u64| {
        let body = json!({ "advance_secs": advance_secs });
        let (status, answer) = dev.call(Method::POST, "/dev/clock", "", Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        let now = sessiond::clock::Timestamp::parse_rfc3339(&crate::process::text(&answer["now"]));
        now.expect("a time")
    };
    let mut first = Served::dev(dir.path());
    let (_, key) = welcome(&mut first);
    now(&first, 0).await;
    // A change writes the time down, as any does.
    let moved = now(&first, 3 * DAY_SECS).await;
    first.create(&key, json!({ "user_id": "ada" })).await;
    first.stop();

    let second = Served::dev(dir.path());
    let restarted = now(&second, 0).await;
    assert!(restarted >= moved, "{restarted} is before {moved}");
    let later = now(&second, 1).await;
    assert!(
        later.millis_since(restarted) >= 1_000,
        "it stands still at {restarted}"
    );
}

#[test]
fn dev_reads_no_configuration_file_unless_one_is_given() {
    let dir = a_directory();
    for name in ["config.toml", "sessiond.toml", ".env"] {
        std::fs::write(dir.path().join(name), "[server]\nnonsense = 1\n").expect("written");
    }
    Served::dev(dir.path()).stop();
    let given = ["dev", "--listen", "127.0.0.1:0", "--config", "config.toml"];
    run(dir.path(), given).failed(2, &["config.toml:2", "[server] nonsense"]);
}

#[test]
fn dev_refuses_an_address_that_others_can_reach() {
    let dir = a_directory();
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        run(dir.path(), ["dev", "--listen", address]).failed(2, &["loopback", address, "sessiond serve"]);
    }
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn dev_sends_sample_events_to_webhooks_on_this_machine_only() {
    let dir = a_directory();
    let webhook = |name: &str, url: &str| {
        let secret = "whsec_c2Vzc2lvbmQtZXhhbXBsZS1kby1ub3QtdXNlLXRoaXM=";
        format!("[webhooks.{name}]\nurl = \"{url}\"\nsecret = \"{secret}\"\n")
    };
    // Nobody listens on the first one's port.
    let file = webhook("near", "http://localhost:1/") + &webhook("far", "https://far.example.com/");
    std::fs::write(dir.path().join("c.toml"), file).expect("written");
    let mut dev = Served::start(sessiond(
        dir.path(),
        ["dev", "--listen", "127.0.0.1:0", "--config", "c.toml"],
    ));
    dev.process.stderr.until("nothing is sent to the webhook far");
    let listed = run(
        dir.path(),
        ["webhooks", "list", "--database", "sessiond-dev/sessiond.db"],
    );
    let listed = listed.exited(0);
    assert!(listed.contains("near") && !listed.contains("far"), "{listed}");
    dev.stop().exited(0);
}

fn version_of(database: &Path) -> i64 {
    let version = open_database(database).pragma_query_value(None, "user_version", |row| row.get(0));
    version.expect("a version")
}

#[test]
fn copy_that_a_migration_left_is_made_anew_by_the_next_start() {
    const COPY: &str = "s.db.before-schema-2";
    const UNFINISHED: &str = "s.db.before-schema-unfinished";
    let older = a_directory();
    let older = older.path().join("older.db");
    make_first_version(&older);
    let whole = std::fs::read(&older).expect("read");
    let mut half = whole.clone();
    half[..4096].fill(0);
    for left in [&half[..], &half[..4097], &whole[..4097], b"", &whole] {
        for name in [COPY, UNFINISHED] {
            let dir = a_directory();
            let database = dir.path().join("s.db");
            std::fs::copy(&older, &database).expect("copied");
            // The older server ran once more before this start.
            Connection::open(&database)
                .expect("opened")
                .execute("INSERT INTO meta (key, value) VALUES ('mark', 'later')", [])
                .expect("marked");
            std::fs::write(dir.path().join(name), left).expect("written");

            Served::serve(dir.path()).stop();

            let mut copies = names_in(dir.path());
            copies.retain(|name| name.contains("before"));
            assert_eq!(copies, [COPY]);
            assert!(version_of(&database) > 1);
            let copy = dir.path().join(COPY);
            assert_eq!((mode_of(&copy), version_of(&copy)), (0o600, 1), "{name}");
            let found: (String, String) = open_database(&copy)
                .query_row(
                    "SELECT integrity_check, (SELECT value FROM meta WHERE key = 'mark') FROM pragma_integrity_check",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .expect("looked through");
            assert_eq!(found, ("ok".to_owned(), "later".to_owned()), "{name}");
        }
    }
}

#[test]
fn key_file_that_is_refused_leaves_an_older_database_as_it_is() {
    let dir = a_directory();
    let database = dir.path().join("s.db");
    make_first_version(&database);
    std::fs::write(dir.path().join("s.db.key"), [7; 31]).expect("written");
    std::fs::set_permissions(
        dir.path().join("s.db.key"),
        std::fs::Permissions::from_mode(0o600),
    )
    .expect("set");
    serve_in_vain(dir.path(), "127.0.0.1:0", "s.db").failed(1, &["s.db.key", "32 bytes"]);
    assert_eq!(names_in(dir.path()), ["s.db", "s.db.key", "s.db.lock"]);
    assert_eq!(version_of(&database), 1);
}
