//! What is kept of people: of their addresses as much as the configuration says, in no place more.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::address::IpPrivacy;
use tempfile::tempdir;

use crate::harness::{FIREFOX_ON_LINUX, TestServer, events, hold_snapshot};
use crate::process::{Finished, Served, create_key, names_in, run, sessiond, text};
use crate::support::{add_app, count, rows};

/// Public addresses that have places, and what each is kept as where the network is.
const V4: (&str, &str) = ("194.25.2.129", "194.25.2.0");
const V6: (&str, &str) = ("2a02:8071:123:4567:89ab:cdef:1020:3040", "2a02:8071:123::");
/// Others, of other networks, that sessions move to.
const V4_LATER: (&str, &str) = ("81.2.69.142", "81.2.69.0");
const V6_LATER: (&str, &str) = ("2001:67c:2e8:22:c100:68b:1122:3344", "2001:67c:2e8::");
const ALL: [(&str, &str); 4] = [V4, V6, V4_LATER, V6_LATER];

/// In what forms more of an address than its network could stand somewhere. Four bytes by themselves are left out: they
/// are found in anything.
fn forms(address: &str) -> Vec<Vec<u8>> {
    match address.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => {
            let hex: String = v4.octets().iter().map(|byte| format!("{byte:02x}")).collect();
            vec![address.into(), hex.into()]
        }
        std::net::IpAddr::V6(v6) => {
            let (site, _) = address.match_indices(':').nth(3).expect("a /64");
            let hex: String = v6.octets()[..8]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            vec![address[..site].into(), hex.into(), v6.octets()[..8].into()]
        }
    }
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// A call by cookie, through a proxy that tells the client's address.
async fn by_cookie(server: &Served, method: Method, path: &str, token: Option<&str>, address: &str) -> Value {
    let mut request = server
        .client
        .request(method, format!("{}{path}", server.base))
        .header("x-forwarded-for", address)
        .header("sec-fetch-site", "same-origin");
    if let Some(token) = token {
        request = request.header("cookie", format!("__Host-session={token}"));
    }
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    let cookie = answer.headers().get("set-cookie").cloned();
    let mut body: Value = answer.json().await.expect("JSON");
    if let Some(cookie) = cookie {
        let cookie = cookie.to_str().expect("text");
        let token = cookie.trim_start_matches("__Host-session=").split(';').next();
        body["cookie"] = json!(token);
    }
    body
}

/// Everything that records an address, from two of them one after the other.
async fn use_everything(server: &Served, key: &str, user: &str, from: &str, later: &str) {
    let post = async |path: &str, body: Value| {
        let (status, answer) = server.call(Method::POST, path, key, Some(body)).await;
        assert!(status < 300, "{path}: {answer}");
        answer
    };
    let (id, token) = server
        .create(key, json!({ "user_id": user, "ip_address": from }))
        .await;
    post(
        &format!("/v1/sessions/{id}/touch"),
        json!({ "ip_address": later }),
    )
    .await;
    post(
        "/v1/sessions/check",
        json!({ "token": token, "ip_address": from }),
    )
    .await;
    let (id, token) = server
        .create(key, json!({ "user_id": user, "ip_address": from }))
        .await;
    by_cookie(server, Method::GET, "/v1/session", Some(&token), later).await;
    by_cookie(server, Method::POST, "/v1/session/renew", Some(&token), from).await;
    let again = json!({ "user_id": user, "ip_address": later });
    post(&format!("/v1/sessions/{id}/authenticate"), again).await;

    let visit = by_cookie(server, Method::POST, "/v1/me/session", None, from).await;
    by_cookie(
        server,
        Method::GET,
        "/v1/session",
        visit["cookie"].as_str(),
        later,
    )
    .await;
    by_cookie(server, Method::GET, "/v1/whoami", None, from).await;
    let client = Some(json!({ "ip_address": from }));
    let (status, answer) = server
        .call(Method::PUT, "/v1/client-sessions/7", key, client)
        .await;
    assert!(status < 300, "{answer}");
    let call = server
        .client
        .post(format!("{}/v1/sessions", server.base))
        .bearer_auth(key)
        .header("idempotency-key", format!("call-of-{user}"))
        .json(&json!({ "user_id": user, "ip_address": from }));
    assert_eq!(call.send().await.expect("an answer").status(), 201);
    let refused = format!("/v1/sessions/{}?user_id={user}", text(&visit["id"]));
    assert_eq!(server.call(Method::DELETE, &refused, key, None).await.0, 404);
    let all = format!("/v1/users/{user}/sessions");
    let (status, answer) = server.call(Method::DELETE, &all, key, None).await;
    assert_eq!(status, 200, "{answer}");
}

/// All files of a server that was used, beside it and after it, and what it logged.
async fn traces(dir: &Path, ip_privacy: &str) -> Vec<(String, Vec<u8>)> {
    let config = format!(
        "server.trusted_proxies = [\"127.0.0.1\"]\nsessions.ip_privacy = {ip_privacy:?}\n\
         sessions.touch_interval_secs = 0\nsessions.flush_interval_ms = 10\napps.default.anonymous = true\n"
    );
    std::fs::write(dir.join("c.toml"), config).expect("written");
    let key = create_key(dir);
    let mut command = sessiond(
        dir,
        [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--database",
            "s.db",
            "--config",
            "c.toml",
        ],
    );
    command.env("RUST_LOG", "info,sessiond=trace");
    let server = Served::start(command);
    use_everything(&server, &key, "ada", V4.0, V4_LATER.0).await;
    use_everything(&server, &key, "bob", V6.0, V6_LATER.0).await;
    let metrics = server.client.get(format!("{}/metrics", server.base)).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("text");
    let mut traces = vec![("the metrics".to_owned(), metrics.into_bytes())];
    traces.extend(files(dir));
    let log = server.stop().stderr;
    traces.push(("the log".to_owned(), log.into_bytes()));
    traces.extend(files(dir));
    traces
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = names_in(dir)
        .into_iter()
        .filter(|name| name.starts_with("s.db") && !name.ends_with(".sock"));
    names
        .map(|name| {
            let bytes = std::fs::read(dir.join(&name)).expect("read");
            (name, bytes)
        })
        .collect()
}

#[tokio::test]
async fn no_more_of_an_address_than_is_to_be_kept_is_in_any_file_or_log() {
    for ip_privacy in IpPrivacy::NAMES.map(|(rule, _)| rule) {
        let dir = tempdir().expect("a directory");
        let traces = traces(dir.path(), ip_privacy.as_str()).await;
        let everywhere: Vec<u8> = traces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        for (whole, network) in ALL {
            // What is looked for would be found: where it is kept it is.
            let is_whole = has(&everywhere, whole.as_bytes());
            assert_eq!(is_whole, ip_privacy == IpPrivacy::Full, "{whole}");
            let is_network = has(&everywhere, network.as_bytes());
            assert_eq!(
                is_network,
                ip_privacy == IpPrivacy::Truncate,
                "{network} with {ip_privacy:?}"
            );
            if ip_privacy == IpPrivacy::Full {
                continue;
            }
            for (place, bytes) in &traces {
                for form in forms(whole) {
                    let shown = String::from_utf8_lossy(&form);
                    assert!(!has(bytes, &form), "{place} has {shown} with {ip_privacy:?}");
                }
            }
        }
    }
}

async fn server_with(ip_privacy: IpPrivacy) -> TestServer {
    TestServer::start_with(|config| {
        config.sessions.ip_privacy = ip_privacy;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        add_app(config, "shop");
        for app in config.apps.values_mut() {
            (app.anonymous, app.anonymous_per_hour) = (true, 2);
        }
    })
    .await
}

async fn touch(server: &TestServer, id: &str, address: &str) -> Value {
    let reply = server
        .post(
            &format!("/v1/sessions/{id}/touch"),
            json!({ "ip_address": address }),
        )
        .key(&server.key)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    server.tick().await;
    reply.json
}

fn moves(server: &TestServer) -> usize {
    let told = events(&server.database());
    told.iter().filter(|(kind, _)| kind == "session.activity").count()
}

#[tokio::test]
async fn place_is_that_of_the_whole_address_whatever_is_kept_of_it() {
    for (ip_privacy, kept) in [
        (IpPrivacy::Truncate, json!("194.25.2.0")),
        (IpPrivacy::None, Value::Null),
    ] {
        let server = server_with(ip_privacy).await;
        let session = server
            .create(json!({ "user_id": "ada", "ip_address": V4.0 }))
            .await
            .body;
        let session = &session["session"];
        assert_eq!(
            (&session["ip_address"], &session["location"]),
            (&kept, &json!("DE"))
        );
    }
}

#[tokio::test]
async fn place_of_an_address_that_comes_with_a_use_is_that_of_the_whole_one() {
    let server = server_with(IpPrivacy::Truncate).await;
    for (address, kept) in [V4, V6] {
        let session = server.create(json!({ "user_id": "ada" })).await;
        let used = touch(&server, &session.id, address).await;
        assert_eq!(
            (&used["ip_address"], &used["location"]),
            (&json!(kept), &json!("DE"))
        );
    }
}

#[tokio::test]
async fn where_the_network_is_kept_only_a_move_to_another_one_is_told() {
    let server = server_with(IpPrivacy::Truncate).await;
    let session = server
        .create(json!({ "user_id": "ada", "ip_address": V4.0 }))
        .await;
    touch(&server, &session.id, "194.25.2.130").await;
    assert_eq!(moves(&server), 0);
    let moved = touch(&server, &session.id, V4_LATER.0).await;
    assert_eq!(moved["last_ip_address"], V4_LATER.1);
    assert_eq!(moves(&server), 1);
}

#[tokio::test]
async fn where_no_address_is_kept_no_move_is_told() {
    let server = server_with(IpPrivacy::None).await;
    let session = server
        .create(json!({ "user_id": "ada", "ip_address": V4.0 }))
        .await;
    let moved = touch(&server, &session.id, V4_LATER.0).await;
    assert_eq!(moved["last_ip_address"], Value::Null);
    assert_eq!(moves(&server), 0);
}

#[tokio::test]
async fn keeping_less_of_an_address_from_now_on_is_no_move() {
    let server = server_with(IpPrivacy::Full).await;
    let session = server
        .create(json!({ "user_id": "ada", "ip_address": V4.0 }))
        .await;
    let mut stopped = server.stop().await;
    stopped.config.sessions.ip_privacy = IpPrivacy::Truncate;
    let server = stopped.restart().await;
    let same = touch(&server, &session.id, V4.0).await;
    assert_eq!(
        (&same["ip_address"], &same["last_ip_address"]),
        (&json!(V4.0), &Value::Null)
    );
    assert_eq!(moves(&server), 0);
}

#[tokio::test]
async fn place_of_a_sign_in_that_tells_no_address_is_that_of_the_one_before() {
    let server = server_with(IpPrivacy::None).await;
    let session = server.create(json!({ "ip_address": V4.0 })).await;
    let path = format!("/v1/sessions/{}/authenticate", session.id);
    for (body, location) in [
        (json!({ "user_id": "ada" }), "DE"),
        (json!({ "user_id": "ada", "ip_address": V4_LATER.0 }), "GB"),
    ] {
        let reply = server.post(&path, body).key(&server.key).send().await;
        assert_eq!(reply.json["session"]["location"], location, "{}", reply.text);
    }
}

#[tokio::test]
async fn visitors_are_counted_by_address_where_none_is_kept() {
    for ip_privacy in [IpPrivacy::Truncate, IpPrivacy::None] {
        let server = server_with(ip_privacy).await;
        let visit = |address: &'static str| {
            let visit = server
                .request(Method::POST, "/v1/me/session")
                .header("x-forwarded-for", address)
                .same_origin();
            visit.sent()
        };
        // A neighbour in what is kept of the address is somebody else; another address of an IPv6 /64 is not.
        for (address, status) in [
            ("194.25.2.129", 201),
            ("194.25.2.129", 201),
            ("194.25.2.129", 429),
            ("194.25.2.130", 201),
            ("2a02:8071:123:4567::1", 201),
            ("2a02:8071:123:4567::2", 201),
            ("2a02:8071:123:4567::3", 429),
            ("2a02:8071:123:4568::1", 201),
        ] {
            assert_eq!(
                visit(address).await.status,
                status,
                "{address} with {ip_privacy:?}"
            );
        }
        let networks = "SELECT count(DISTINCT started_from) FROM sessions WHERE length(started_from) = 22";
        assert_eq!(count(&server, networks), 4);
        let clear = rows(
            &server,
            "SELECT started_from FROM sessions WHERE started_from GLOB '*[.:/]*'",
        );
        assert_eq!(clear, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn visitors_are_counted_across_a_restart_where_no_address_is_kept() {
    let server = server_with(IpPrivacy::None).await;
    let visit = |server: &TestServer| {
        let visit = server
            .request(Method::POST, "/v1/me/session")
            .header("x-forwarded-for", V4.0);
        visit.same_origin().sent()
    };
    for _ in 0..2 {
        assert_eq!(visit(&server).await.status, 201);
    }
    let server = server.stop().await.restart().await;
    assert_eq!(visit(&server).await.status, 429);
}

// Export and erasure.

/// A name that is nowhere by itself.
const ADA: &str = "ada.lovelace@example.com";

/// A command about the database in `dir`.
fn on(dir: &Path, arguments: &[&str]) -> Finished {
    run(dir, arguments.iter().copied().chain(["--database", "s.db"]))
}

fn exported(dir: &Path, user: &str) -> Value {
    let printed = on(dir, &["users", "export", user]).exited(0);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
}

/// So many sessions of a user, each with what it can have; every other one has ended.
async fn fill(server: &Served, key: &str, user: &str, sessions: usize) {
    for number in 0..sessions {
        let body = json!({
            "user_id": user, "user_agent": FIREFOX_ON_LINUX, "ip_address": V4.0, "auth": { "name": user },
            "data": { "cart": [user, number] }, "name": format!("{user}'s {number}"),
        });
        let (id, _) = server.create(key, body).await;
        let identity = format!("/v1/sessions/{id}/identities/work");
        let set = Some(json!({ "mail": user }));
        let (status, answer) = server.call(Method::PUT, &identity, key, set).await;
        assert_eq!(status, 200, "{answer}");
        if number % 2 == 0 {
            let path = format!("/v1/sessions/{id}");
            assert_eq!(server.call(Method::DELETE, &path, key, None).await.0, 204);
        }
    }
}

#[tokio::test]
async fn export_has_all_pages_and_data_and_no_hash() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let settings = Some(json!({ "max_sessions": 1_000 }));
    let path = format!("/v1/users/{ADA}");
    assert_eq!(server.call(Method::PATCH, &path, &key, settings).await.0, 200);
    fill(&server, &key, ADA, 205).await;
    fill(&server, &key, "bob", 3).await;
    let beside = exported(dir.path(), ADA);
    server.stop();
    assert_eq!(exported(dir.path(), ADA), beside, "with a server and without one");

    assert_eq!(beside["user"]["max_sessions"], 1_000);
    assert_eq!(beside["user"]["devices"][0]["browser"], "Firefox");
    let sessions = beside["sessions"].as_array().expect("a list");
    let with_data = sessions
        .iter()
        .filter(|session| session["data"]["cart"][0] == ADA);
    assert_eq!((sessions.len(), with_data.count()), (205, 102));
    assert_eq!(beside["events"].as_array().map(Vec::len), Some(205 + 103));
    let printed = beside.to_string();
    assert!(!printed.contains("bob") && !printed.contains("hash"), "{printed}");
}

#[tokio::test]
async fn export_fails_when_a_session_s_data_cannot_be_read() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    fill(&server, &key, ADA, 2).await;
    server.stop();
    rusqlite::Connection::open(dir.path().join("s.db"))
        .expect("opened")
        .execute_batch("DROP TABLE session_data")
        .expect("gone");
    on(dir.path(), &["users", "export", ADA]).failed(1, &["The store is not available"]);
}

#[tokio::test]
async fn start_takes_erased_users_out_of_the_log_that_a_reader_kept_from_being_written_back() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let reader = hold_snapshot(&dir.path().join("s.db"));
    fill(&server, &key, ADA, 2).await;
    on(dir.path(), &["users", "erase", ADA]).failed(0, &["2 session(s)"]);
    server.stop();
    let is_in_log = || {
        let log = std::fs::read(dir.path().join("s.db-wal")).unwrap_or_default();
        has(&log, ADA.as_bytes())
    };
    assert!(is_in_log());

    // With the reader still there a start neither fails nor waits for it; each is killed, so that no stop writes anything back.
    let mut beside = Served::serve(dir.path()).process;
    beside.kill();
    assert!(beside.stderr.seen.contains("could not be written back"));
    assert!(is_in_log());
    drop(reader);
    Served::serve(dir.path()).process.kill();
    for (name, bytes) in files(dir.path()) {
        assert!(!has(&bytes, ADA.as_bytes()), "{name} has the user");
    }
}

#[tokio::test]
async fn nothing_of_an_erased_user_is_in_any_file_and_all_of_others_is() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    let settings = Some(json!({ "max_sessions": 100 }));
    for user in [ADA, "bob"] {
        let path = format!("/v1/users/{user}");
        let (status, _) = server.call(Method::PATCH, &path, &key, settings.clone()).await;
        assert_eq!(status, 200);
        fill(&server, &key, user, 80).await;
    }
    let (_, token) = server.create(&key, json!({ "user_id": ADA })).await;
    let (_, page) = server.get("/v1/events?limit=1", &key).await;
    let cursor = text(&page["next_cursor"]);
    let of_bob = exported(dir.path(), "bob");
    let is_there = files(dir.path())
        .iter()
        .any(|(_, bytes)| has(bytes, ADA.as_bytes()));
    assert!(is_there, "what is looked for would be found");

    on(dir.path(), &["users", "erase", ADA]).failed(0, &["81 session(s)", "Backups"]);

    server.assert_token(&token, "invalid_token").await;
    let (status, page) = server
        .get(&format!("/v1/events?after={cursor}&limit=1"), &key)
        .await;
    assert_eq!(status, 200, "a place among the erased is a place: {page}");
    assert_eq!(exported(dir.path(), "bob"), of_bob);
    server.stop();
    for (name, bytes) in files(dir.path()) {
        assert!(!has(&bytes, ADA.as_bytes()), "{name} has the user");
    }
    let checked = on(dir.path(), &["check"]).exited(0);
    assert!(checked.starts_with("ok: 80 session(s)"), "{checked}");
    assert_eq!(exported(dir.path(), "bob"), of_bob);
}

#[tokio::test]
async fn erasing_without_a_server_and_again_does_no_harm() {
    let dir = tempdir().expect("a directory");
    let key = create_key(dir.path());
    let server = Served::serve(dir.path());
    fill(&server, &key, ADA, 3).await;
    server.stop();
    on(dir.path(), &["users", "erase", ADA]).failed(0, &["3 session(s)"]);
    on(dir.path(), &["users", "erase", ADA]).failed(0, &["Nothing was kept"]);
    assert_eq!(exported(dir.path(), ADA)["events"], json!([]));
    let server = Served::serve(dir.path());
    server.create(&key, json!({ "user_id": ADA })).await;
}

#[tokio::test]
async fn erasing_of_whom_nothing_is_kept_says_so_and_a_block_alone_is_something() {
    let dir = tempdir().expect("a directory");
    create_key(dir.path());
    for _server in [Some(Served::serve(dir.path())), None] {
        let erase = |user: &str| on(dir.path(), &["users", "erase", user]);
        erase("adda").failed(0, &["Nothing was kept of adda in the app default."]);
        on(dir.path(), &["users", "block", ADA]).exited(0);
        erase(ADA).failed(0, &["Erased: 0 session(s)", "settings"]);
        erase(ADA).failed(0, &["Nothing was kept of"]);
    }
}

#[tokio::test]
async fn backends_cannot_erase_or_see_what_is_kept() {
    let server = TestServer::start().await;
    for (method, path) in [
        (Method::POST, "/v1/users/ada/erase"),
        (Method::GET, "/v1/users/ada/kept"),
    ] {
        let reply = server.request(method, path).key(&server.key).send().await;
        reply.assert_problem(404, "not_found");
    }
}
