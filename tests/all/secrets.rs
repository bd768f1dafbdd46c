//! Nothing usable at rest: no token and no key is in any file, log line or metric, in any form.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use reqwest::{Method, Response};
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use sessiond::event::EventKind;
use sessiond::store::sqlite::back_up;
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::harness::{FIREFOX_ON_LINUX, PATIENCE, eventually, open_database};
use crate::process::{Process, Served, names_in, sessiond, text};
use crate::support::UNKNOWN_ID;

/// What a server is told to log: everything, of every library.
const EVERYTHING: (&str, &str) = ("RUST_LOG", "trace");
/// The one file that holds a secret, and nothing else.
const KEY_FILE: &str = "s.db.key";
/// What a backend calls a call, and what it asks for by it, as it writes it.
const CALL: &str = "order-5f0a2b7c-of-ada@example.com";
const CALL_BODY: &str = r#"{ "user_id" : "ada",   "auth": {"tags":["staff"]} }"#;

/// A token or key that was issued or presented.
struct Credential {
    text: String,
    /// The part that is secret: what comes after the public id.
    secret: Vec<u8>,
}

impl Credential {
    fn of(text: &str) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode(&text[4..]).expect("base64");
        assert_eq!(bytes.len(), 48, "an id and a secret");
        let (text, secret) = (text.to_owned(), bytes[16..].to_vec());
        Self { text, secret }
    }

    /// The forms in which the secret would be of use, or would soon be.
    fn forms(&self) -> Vec<Vec<u8>> {
        let mut forms = forms_of(&self.secret);
        // In the credential's text the secret begins within a group of four; its last 40 characters are its alone.
        forms.push(self.text.as_bytes()[28..].to_vec());
        forms
    }

    fn hash(&self) -> Vec<u8> {
        Sha256::digest(&self.secret).to_vec()
    }
}

/// Bytes as they are, in base64, in hexadecimal and as Rust's `Debug` shows them.
fn forms_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let texts = [
        URL_SAFE_NO_PAD.encode(bytes),
        STANDARD_NO_PAD.encode(bytes),
        hex.to_uppercase(),
        hex,
        shown,
    ];
    texts
        .into_iter()
        .map(String::into_bytes)
        .chain([bytes.to_vec()])
        .collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let (first, len) = (needle[0], needle.len());
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.len() < len {
            return false;
        }
        if &rest[..len] == needle {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn assert_no_secret(place: &str, bytes: &[u8], credentials: &[Credential]) {
    for credential in credentials {
        for form in credential.forms() {
            let shown = String::from_utf8_lossy(&form);
            assert!(
                !contains(bytes, &form),
                "{place} has a secret of {}: {shown}",
                credential.text
            );
        }
    }
}

fn assert_no_hash(place: &str, bytes: &[u8], credentials: &[Credential]) {
    for credential in credentials {
        for form in forms_of(&credential.hash()) {
            assert!(
                !contains(bytes, &form),
                "{place} has the hash of {}",
                credential.text
            );
        }
    }
}

/// Every file in the folder but the key file, and a copy as a backup is made, with its name.
fn files_in(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let copy = dir.join("copy.db");
    back_up(&dir.join("s.db"), &copy, &Arc::default()).expect("copied");
    let names = names_in(dir).into_iter();
    let files: Vec<_> = names
        .filter(|name| !name.ends_with(".sock") && name != KEY_FILE)
        .map(|name| {
            let bytes = std::fs::read(dir.join(&name)).expect("read");
            (name, bytes)
        })
        .collect();
    std::fs::remove_file(copy).expect("removed");
    for name in ["s.db", "s.db-wal", "s.db-shm", "copy.db"] {
        assert!(
            files.iter().any(|(there, _)| there == name),
            "{name} was looked at"
        );
    }
    files
}

fn assert_files_are_clean(dir: &Path, credentials: &[Credential]) {
    let mut seen = Vec::new();
    for (name, bytes) in files_in(dir) {
        assert_no_secret(&name, &bytes, credentials);
        seen.extend(bytes);
    }
    // What is looked for would be found: the hashes are.
    assert!(
        contains(&seen, &credentials[0].hash()),
        "the files hold what was stored"
    );
}

/// A command of the operator, with everything logged; what it says on stderr is part of the log.
fn command(dir: &Path, arguments: &[&str], log: &mut String) -> String {
    let mut command = sessiond(dir, arguments.iter().copied().chain(["--database", "s.db"]));
    command.env(EVERYTHING.0, EVERYTHING.1);
    let finished = Process::spawn(command).finish();
    log.push_str(&finished.stderr);
    finished.exited(0)
}

/// Sends bytes that are no good request, and waits for the answer or the end.
fn send_raw(server: &Served, bytes: &str) {
    let mut connection = TcpStream::connect(server.address()).expect("connected");
    connection.set_read_timeout(Some(PATIENCE)).expect("set");
    connection.write_all(bytes.as_bytes()).expect("sent");
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer[..10], b"HTTP/1.1 4", "{bytes}");
}

/// The same id with another secret.
fn with_wrong_secret(token: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(&token[4..]).expect("base64");
    bytes[20..].reverse();
    format!("{}{}", &token[..4], URL_SAFE_NO_PAD.encode(bytes))
}

/// Presents a credential wherever one can be, rightly, wrongly and where none belongs.
async fn present_everywhere(server: &Served, credential: &str) {
    let get = |path: &str| server.client.get(format!("{}{path}", server.base));
    let requests = [
        get("/v1/session").bearer_auth(credential),
        get("/v1/me/sessions").bearer_auth(credential),
        get("/v1/sessions?user_id=ada").bearer_auth(credential),
        get("/v1/users/ada").bearer_auth(credential),
        get("/v1/session").header("cookie", format!("__Host-session={credential}; a=b")),
        get("/v1/me/sessions").header("cookie", format!("__Host-session={credential}")),
        get("/v1/session").header("authorization", format!("Bearer {credential}x")),
        get("/v1/session").header("authorization", format!("Bearer {}", &credential[..60])),
        get("/v1/session").header("authorization", format!("Basic {credential}")),
        get("/v1/session").header("authorization", format!("bearer  {credential} {credential}")),
        get("/v1/session").header(
            "cookie",
            format!("__Host-session=\"{credential}\"; __Host-session={credential}"),
        ),
        get(&format!("/v1/session?token={credential}")),
        get(&format!("/v1/sessions/{credential}")).bearer_auth(credential),
        get(&format!("/v1/users/{credential}")),
        get(&format!("/{credential}")),
    ];
    for request in requests {
        let status = request.send().await.expect("an answer").status();
        assert!(status.as_u16() < 500, "{status}");
    }
    send_raw(
        server,
        &format!("GET /v1/session HTTP/1.1\r\nAuthorization: Bearer {credential}\r\nno header\r\n\r\n"),
    );
    send_raw(
        server,
        &format!("GET /v1/session HTTP/9.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n\r\n"),
    );
    send_raw(server, &format!("G{{T /{credential} HTTP/1.1\r\nHost: x\r\n\r\n"));
}

/// Uses the service plane's ways to speak of a token.
async fn ask_about(server: &Served, key: &str, token: &str) {
    let bodies = [
        json!({ "token": token }),
        json!({ "token": token, "unknown": token }),
        json!({ "token": [token] }),
        json!({ token: token }),
    ];
    for body in bodies {
        let (status, answer) = server
            .call(Method::POST, "/v1/sessions/check", key, Some(body))
            .await;
        assert!(status < 500, "{answer}");
    }
    let broken = format!("{{\"token\": \"{token}\"");
    let request = server
        .client
        .post(format!("{}/v1/sessions/check", server.base))
        .bearer_auth(key);
    let request = request.header("content-type", "application/json").body(broken);
    assert_eq!(request.send().await.expect("an answer").status(), 400);
}

#[tokio::test]
async fn no_token_or_key_is_in_any_file_log_or_metric() {
    let dir = tempdir().expect("a directory");
    let mut log = String::new();
    let first_key = command(dir.path(), &["keys", "create", "before"], &mut log);
    let mut serve = sessiond(
        dir.path(),
        ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
    );
    serve.env(EVERYTHING.0, EVERYTHING.1);
    let mut server = Served::start(serve);
    let second_key = command(dir.path(), &["keys", "create", "beside"], &mut log);
    let keys = [first_key.trim_end(), second_key.trim_end()];

    let mut tokens = Vec::new();
    for (key, user) in [
        (keys[0], "ada"),
        (keys[1], "ada"),
        (keys[0], "bob"),
        (keys[0], "cleo"),
    ] {
        let body = json!({ "user_id": user, "user_agent": FIREFOX_ON_LINUX, "auth": { "tags": ["staff"] } });
        let (id, token) = server.create(key, body).await;
        tokens.push((id, token));
    }
    let wrong = with_wrong_secret(&tokens[0].1);
    let presented: Vec<&str> = tokens
        .iter()
        .map(|(_, token)| token.as_str())
        .chain(keys)
        .chain([wrong.as_str()])
        .collect();
    for credential in &presented {
        present_everywhere(&server, credential).await;
        ask_about(&server, keys[0], credential).await;
    }
    let [(id, holder), (other_id, _), (bob_id, bob), (_, cleo)] = tokens.as_slice() else {
        panic!("four sessions");
    };
    let rename = Some(json!({ "name": "Laptop" }));
    let calls: [(Method, String, &str, Option<Value>, u16); 6] = [
        (
            Method::PATCH,
            format!("/v1/me/sessions/{id}"),
            holder,
            rename,
            200,
        ),
        (
            Method::DELETE,
            format!("/v1/me/sessions/{other_id}"),
            holder,
            None,
            204,
        ),
        (
            Method::POST,
            format!("/v1/sessions/{bob_id}/touch"),
            keys[0],
            Some(json!({})),
            200,
        ),
        (
            Method::DELETE,
            format!("/v1/sessions/{bob_id}"),
            keys[0],
            None,
            204,
        ),
        (Method::DELETE, "/v1/session".to_owned(), cleo, None, 204),
        (Method::GET, "/v1/session".to_owned(), bob, None, 401),
    ];
    for (method, path, bearer, body, expected) in calls {
        let (status, answer) = server.call(method, &path, bearer, body).await;
        assert_eq!(status, expected, "{path} {answer}");
    }
    command(dir.path(), &["keys", "list"], &mut log);
    command(dir.path(), &["sessions", "list", "--status", "all"], &mut log);
    let metrics = server.client.get(format!("{}/metrics", server.base)).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("a text");

    let credentials: Vec<Credential> = presented.iter().map(|text| Credential::of(text)).collect();
    assert_files_are_clean(dir.path(), &credentials);
    server.process.kill();
    assert_files_are_clean(dir.path(), &credentials);
    log.push_str(&server.process.finish().stderr);
    assert!(
        log.contains(" TRACE ") && log.contains(" DEBUG "),
        "everything was logged: {log}"
    );
    assert!(metrics.contains("sessiond_checks_total{"), "{metrics}");
    for (place, text) in [("the log", &log), ("the metrics", &metrics)] {
        assert_no_secret(place, text.as_bytes(), &credentials);
        assert_no_hash(place, text.as_bytes(), &credentials);
    }
}

#[tokio::test]
async fn dev_shows_its_key_on_stdout_and_keeps_and_logs_none() {
    let dir = tempdir().expect("a directory");
    let mut dev = sessiond(
        dir.path(),
        ["dev", "--listen", "127.0.0.1:0", "--database", "s.db"],
    );
    dev.env(EVERYTHING.0, EVERYTHING.1);
    let mut dev = Served::start(dev);
    let line = dev.process.stdout.until("export KEY=");
    let (_, key) = line.trim_end().split_once('=').expect("a key");
    let url = format!("{}/dev/sign-in", dev.base);
    let answer = dev
        .client
        .post(url)
        .json(&json!({ "name": "ada" }))
        .send()
        .await
        .expect("an answer");
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    let (token, _) = cookie
        .trim_start_matches("sessiond_dev=")
        .split_once(';')
        .expect("attributes");
    let credentials = [Credential::of(token), Credential::of(key)];
    let request = dev.client.get(format!("{}/v1/me/sessions", dev.base));
    let request = request.header("cookie", format!("sessiond_dev={token}"));
    let listed: Value = request
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(text(&listed["sessions"][0]["user_id"]), "ada", "{listed}");

    assert_files_are_clean(dir.path(), &credentials);
    dev.process.kill();
    let log = dev.process.finish().stderr;
    assert!(log.contains(" TRACE "), "everything was logged: {log}");
    assert_no_secret("the log", log.as_bytes(), &credentials);
    assert_no_hash("the log", log.as_bytes(), &credentials);
}

/// Values of a kind that are in no place of their own: bytes in any form.
fn assert_absent(place: &str, bytes: &[u8], what: &str, value: &[u8]) {
    for form in forms_of(value) {
        let shown = String::from_utf8_lossy(&form);
        assert!(!contains(bytes, &form), "{place} has {what}: {shown}");
    }
}

/// Has something of every kind told; answers the tokens that were issued on the way.
async fn tell_of_everything(server: &Served, dir: &Path, key: &str) -> Vec<String> {
    let mut issued = Vec::new();
    let mut create = async |body: Value| {
        let (id, token) = server.create(key, body).await;
        issued.push(token.clone());
        (id, token)
    };
    let on = |agent: &str| json!({ "user_id": "eve", "user_agent": agent, "ip_address": "192.0.2.1" });
    create(on(FIREFOX_ON_LINUX)).await;
    let (_, token) = create(on("curl/8.5.0")).await;
    let (moving, _) = create(json!({ "user_id": "gil", "ip_address": "192.0.2.1" })).await;
    create(json!({ "user_id": "fay", "idle_timeout_secs": 1 })).await;
    let touch = json!({ "ip_address": "192.0.2.9" });
    let unknown = format!("/v1/me/sessions/{UNKNOWN_ID}");
    let calls = [
        (
            Method::POST,
            format!("/v1/sessions/{moving}/touch"),
            key,
            Some(touch),
            200,
        ),
        (Method::DELETE, unknown, token.as_str(), None, 404),
        (
            Method::PATCH,
            "/v1/users/eve".to_owned(),
            key,
            Some(json!({ "max_sessions": 1 })),
            200,
        ),
    ];
    for (method, path, bearer, body, expected) in calls {
        let (status, answer) = server.call(method, &path, bearer, body).await;
        assert_eq!(status, expected, "{path}: {answer}");
    }
    create(on(FIREFOX_ON_LINUX)).await;
    let block = Some(json!({ "is_blocked": true }));
    let (status, answer) = server.call(Method::PATCH, "/v1/users/eve", key, block).await;
    assert_eq!(status, 200, "{answer}");
    eventually("every kind of event is told", async || {
        let database = open_database(&dir.join("s.db"));
        let mut statement = database
            .prepare("SELECT DISTINCT type FROM events")
            .expect("a query");
        let kinds = statement
            .query_map([], |row| row.get::<_, String>(0))
            .expect("rows");
        let kinds: Vec<String> = kinds.map(|kind| kind.expect("a row")).collect();
        EventKind::ALL
            .iter()
            .all(|kind| kinds.iter().any(|told| told == kind.as_str()))
    })
    .await;
    issued
}

/// All events as a backend reads them.
async fn events_as_told(server: &Served, key: &str) -> String {
    let (mut pages, mut after) = (String::new(), String::new());
    loop {
        let (status, page) = server.get(&format!("/v1/events?limit=200{after}"), key).await;
        assert_eq!(status, 200, "{page}");
        pages += &page.to_string();
        match page["next_cursor"].as_str() {
            Some(cursor) => after = format!("&after={cursor}"),
            None => return pages,
        }
    }
}

/// All rows of events, as they are stored.
fn events_as_stored(dir: &Path) -> Vec<u8> {
    let database = open_database(&dir.join("s.db"));
    let mut statement = database.prepare("SELECT * FROM events").expect("a query");
    let columns = statement.column_count();
    let mut rows = statement.query([]).expect("rows");
    let mut bytes = Vec::new();
    while let Some(row) = rows.next().expect("a row") {
        for column in 0..columns {
            match row.get_ref(column).expect("a value") {
                ValueRef::Text(some) | ValueRef::Blob(some) => bytes.extend_from_slice(some),
                ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => {}
            }
            bytes.push(0);
        }
    }
    bytes
}

/// The token in the one cookie that an answer sets.
fn token_in_cookie(answer: &Response) -> String {
    let cookie = answer.headers()["set-cookie"].to_str().expect("text");
    let (pair, _) = cookie.split_once(';').expect("attributes");
    let (_, token) = pair.split_once('=').expect("a value");
    token.to_owned()
}

/// Makes a call of a page, by cookie if there is one.
async fn by_cookie(server: &Served, path: &str, token: Option<&str>) -> Response {
    let request = server
        .client
        .post(format!("{}{path}", server.base))
        .header("sec-fetch-site", "same-origin");
    let request = match token {
        Some(token) => request.header("cookie", format!("__Host-session={token}")),
        None => request,
    };
    request.send().await.expect("an answer")
}

/// Makes the same call twice, others by its name, and some that are refused before anybody looks at it.
async fn create_repeatably(server: &Served, key: &str) -> String {
    let send = async |bearer: &str, path: &str, name: &str, body: &str| {
        let request = server
            .client
            .post(format!("{}{path}", server.base))
            .bearer_auth(bearer);
        let request = request
            .header("idempotency-key", name)
            .header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let (status, first) = send(key, "/v1/sessions", CALL, CALL_BODY).await;
    assert_eq!(status, 201, "{first}");
    let (_, again) = send(key, "/v1/sessions", CALL, CALL_BODY).await;
    assert_eq!(again["token"], first["token"], "{again}");
    let refused = [
        (key, "/v1/sessions", CALL, "{}", 422),
        (key, "/v1/sessions", &CALL.repeat(10), CALL_BODY, 422),
        (key, "/v1/sessions", CALL, &CALL_BODY[..30], 400),
        (key, "/v1/none", CALL, CALL_BODY, 404),
        ("ssk_x", "/v1/sessions", CALL, CALL_BODY, 401),
    ];
    for (bearer, path, name, body, expected) in refused {
        let (status, answer) = send(bearer, path, name, body).await;
        assert_eq!(status, expected, "{path} {answer}");
    }
    let head = format!("POST /v1/sessions HTTP/1.1\r\nIdempotency-Key: {CALL}\r\nno header\r\n\r\n");
    send_raw(server, &head);
    text(&first["token"])
}

#[tokio::test]
async fn nothing_that_makes_or_replaces_a_token_is_in_any_file_log_or_metric() {
    let dir = tempdir().expect("a directory");
    let policy = "[apps.default]\nanonymous = true\nrenew_grace_secs = 0\nexpiring_notice_secs = 1_000_000\n";
    std::fs::write(dir.path().join("c.toml"), policy).expect("written");
    let mut log = String::new();
    let key = command(dir.path(), &["keys", "create", "test"], &mut log);
    let key = key.trim_end();
    let arguments = [
        "--config",
        "c.toml",
        "--listen",
        "127.0.0.1:0",
        "--database",
        "s.db",
    ];
    let mut serve = sessiond(dir.path(), ["serve"].into_iter().chain(arguments));
    serve.env(EVERYTHING.0, EVERYTHING.1);
    let mut server = Served::start(serve);
    let key_file = std::fs::read(dir.path().join(KEY_FILE)).expect("there is one");
    let renew = async |token: &str| {
        let (status, answer) = server.call(Method::POST, "/v1/session/renew", token, None).await;
        assert_eq!(status, 200, "{answer}");
        text(&answer["token"])
    };

    // Renewed, and the old one used again, which ends the session.
    let (_, replaced) = server.create(key, json!({ "user_id": "ada" })).await;
    let successor = renew(&replaced).await;
    server.assert_token(&successor, "active").await;
    server.assert_token(&replaced, "token_replaced").await;
    let (status, answer) = server
        .call(Method::POST, "/v1/session/renew", &replaced, None)
        .await;
    assert_eq!(
        (status, &answer["revoked_reason"]),
        (401, &json!("token_reuse")),
        "{answer}"
    );
    // Renewed, and the successor not used: the nonce is still there.
    let (_, open) = server.create(key, json!({ "user_id": "bob" })).await;
    let answer = by_cookie(&server, "/v1/session/renew", Some(&open)).await;
    let unseen = token_in_cookie(&answer);
    // A visitor who comes again, renews and signs in.
    let answer = by_cookie(&server, "/v1/me/session", None).await;
    assert_eq!(answer.status(), 201);
    let visitor = token_in_cookie(&answer);
    let id = text(&answer.json::<Value>().await.expect("JSON")["id"]);
    let answer = by_cookie(&server, "/v1/me/session", Some(&visitor)).await;
    assert_eq!(answer.status(), 200);
    let renewed = renew(&visitor).await;
    let path = format!("/v1/sessions/{id}/authenticate");
    let body = json!({ "user_id": "cleo" });
    let (status, answer) = server.call(Method::POST, &path, key, Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    let signed_in = text(&answer["token"]);
    server.assert_token(&renewed, "token_replaced").await;
    let answer = by_cookie(&server, "/v1/me/session", Some(&renewed)).await;
    assert_eq!(answer.status(), 401);
    let repeatable = create_repeatably(&server, key).await;

    let told_of = tell_of_everything(&server, dir.path(), key).await;

    let wrong = with_wrong_secret(&signed_in);
    let mut presented = vec![
        key,
        &replaced,
        &successor,
        &open,
        &unseen,
        &visitor,
        &renewed,
        &signed_in,
        &repeatable,
        &wrong,
    ];
    presented.extend(told_of.iter().map(String::as_str));
    for &credential in &presented {
        present_everywhere(&server, credential).await;
        ask_about(&server, key, credential).await;
        let (status, answer) = server
            .call(Method::POST, "/v1/me/session", credential, None)
            .await;
        assert!(status < 500, "{answer}");
    }
    let metrics = server.client.get(format!("{}/metrics", server.base)).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("a text");

    let credentials: Vec<Credential> = presented.iter().map(|text| Credential::of(text)).collect();
    let hidden = [
        ("the key file", key_file.as_slice()),
        ("the name of a call", CALL.as_bytes()),
        ("the body of a call", CALL_BODY.as_bytes()),
    ];
    let told = events_as_told(&server, key).await;
    for (place, bytes) in [
        ("what is told", told.as_bytes()),
        ("the events", &events_as_stored(dir.path())),
    ] {
        assert_no_secret(place, bytes, &credentials);
        assert_no_hash(place, bytes, &credentials);
    }
    assert_files_are_clean(dir.path(), &credentials);
    server.process.kill();
    assert_files_are_clean(dir.path(), &credentials);
    for (name, bytes) in files_in(dir.path()) {
        for (what, value) in hidden {
            assert_absent(&name, &bytes, what, value);
        }
    }
    log.push_str(&server.process.finish().stderr);
    assert!(log.contains(" TRACE "), "everything was logged: {log}");
    assert!(metrics.contains("sessiond_checks_total{"), "{metrics}");
    for (place, text) in [("the log", &log), ("the metrics", &metrics)] {
        assert_no_secret(place, text.as_bytes(), &credentials);
        assert_no_hash(place, text.as_bytes(), &credentials);
        for (what, value) in hidden {
            assert_absent(place, text.as_bytes(), what, value);
        }
    }
}
