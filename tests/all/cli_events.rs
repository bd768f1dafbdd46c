//! `sessiond events`: what happened, and with `--follow` what happens, through the socket of a running server and without
//! one.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::process::{Finished, Process, Served, create_key, run, sessiond, text};

/// A folder with `s.db`, and an API key for it.
struct Scene {
    dir: TempDir,
    key: String,
}

impl Scene {
    fn set() -> Self {
        let dir = tempdir().expect("a directory");
        let key = create_key(dir.path());
        Self { dir, key }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn serve(&self) -> Served {
        Served::serve(self.path())
    }

    fn events(&self, arguments: &[&str]) -> Finished {
        run(self.path(), with_database(arguments))
    }

    /// Follows until it is dropped.
    fn follow(&self, arguments: &[&str]) -> Process {
        let arguments = [&["--follow", "--json"], arguments].concat();
        Process::spawn(sessiond(self.path(), with_database(&arguments)))
    }

    async fn sign_in(&self, server: &Served, name: &str) -> (String, String) {
        server.create(&self.key, json!({ "user_id": name })).await
    }

    async fn revoke(&self, server: &Served, id: &str) {
        let path = format!("/v1/sessions/{id}?reason=found%20a%20laptop");
        let (status, answer) = server.call(Method::DELETE, &path, &self.key, None).await;
        assert_eq!(status, 204, "{answer}");
    }
}

fn with_database<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["events"], arguments, &["--database", "s.db"]].concat()
}

/// Type and user of an event printed as JSON.
fn in_words(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    format!("{} {}", text(&event["type"]), text(&event["user_id"]))
}

fn all_in_words(printed: &str) -> Vec<String> {
    printed.lines().map(in_words).collect()
}

#[tokio::test]
async fn what_happened_is_printed_a_line_each_oldest_first() {
    let scene = Scene::set();
    let server = scene.serve();
    let (id, token) = scene.sign_in(&server, "ada").await;
    scene.sign_in(&server, "bob").await;
    scene.revoke(&server, &id).await;
    let beside = scene.events(&[]);
    server.stop();
    let alone = scene.events(&[]);
    assert_eq!(beside.stdout, alone.stdout, "with a server and without one");
    assert_eq!((beside.stderr.as_str(), alone.stderr.as_str()), ("", ""));
    let printed = beside.exited(0);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    let expected = [
        ["session.created", "ada", &id],
        ["session.created", "bob", ""],
        ["session.revoked", "found a laptop", &id],
    ];
    for (line, words) in lines.iter().zip(expected) {
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    for part in [&token[30..], &scene.key[30..]] {
        assert!(!printed.contains(part), "{printed}");
    }
}

#[tokio::test]
async fn json_lines_are_the_objects_of_the_api() {
    let scene = Scene::set();
    let server = scene.serve();
    let (id, _) = scene.sign_in(&server, "ada").await;
    scene.revoke(&server, &id).await;
    let (_, page) = server.get("/v1/events", &scene.key).await;
    let printed = scene.events(&["--json"]).exited(0);
    let expected: Vec<String> = page["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(Value::to_string)
        .collect();
    assert_eq!(expected.len(), 2);
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn options_choose_among_what_happened() {
    let scene = Scene::set();
    let server = scene.serve();
    for name in ["ada", "bob", "ada", "bob"] {
        let (id, _) = scene.sign_in(&server, name).await;
        scene.revoke(&server, &id).await;
    }
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &["--user", "ada"],
            &[
                "session.created ada",
                "session.revoked ada",
                "session.created ada",
                "session.revoked ada",
            ],
        ),
        (
            &["--types", "session.created", "--limit", "3"],
            &[
                "session.created bob",
                "session.created ada",
                "session.created bob",
            ],
        ),
        (
            &["--user", "bob", "--types", "session.revoked,user.blocked"],
            &["session.revoked bob", "session.revoked bob"],
        ),
        (&["--limit", "2"], &["session.created bob", "session.revoked bob"]),
        (&["--user", "nobody"], &[]),
    ];
    for (arguments, expected) in cases {
        let printed = scene.events(&[arguments, &["--json"]].concat()).exited(0);
        assert_eq!(all_in_words(&printed), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn printing_goes_on_after_an_event_and_says_where_it_stopped() {
    let scene = Scene::set();
    let server = scene.serve();
    for name in ["ada", "bob", "cyd", "dan"] {
        scene.sign_in(&server, name).await;
    }
    let first: Value = serde_json::from_str(
        scene
            .events(&["--json"])
            .exited(0)
            .lines()
            .next()
            .expect("a line"),
    )
    .expect("JSON");
    let id = text(&first["id"]);
    let part = scene.events(&["--json", "--limit", "2", "--after", &id]);
    assert_eq!(
        all_in_words(&part.stdout),
        ["session.created bob", "session.created cyd"]
    );
    let (_, next) = part
        .stderr
        .trim_end()
        .split_once("--after ")
        .expect("where to go on");
    let rest = scene.events(&["--json", "--after", next]);
    assert_eq!(all_in_words(&rest.stdout), ["session.created dan"]);
    assert_eq!(rest.stderr, "");
}

#[test]
fn mistakes_are_said_and_exit_with_a_failure() {
    let scene = Scene::set();
    let elsewhere = sessiond::event::Epoch::random().id(7).to_string();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--types", "session.forgotten"], 1, "types"),
        (&["--user", "\u{7}"], 1, "user_id"),
        (&["--after", "7"], 1, "after"),
        (&["--after", &elsewhere], 1, "not among those that are kept"),
        (&["--limit", "0"], 2, "limit"),
        (&["--app", "shop"], 1, "app"),
    ];
    for (arguments, code, words) in cases {
        scene.events(arguments).failed(code, &[words]);
    }
}

#[test]
fn without_a_server_nothing_is_followed_and_that_is_said() {
    let scene = Scene::set();
    let finished = scene.events(&["--follow"]);
    assert!(
        finished.stderr.contains("No server runs on this database"),
        "{finished:?}"
    );
    assert_eq!(finished.exited(0), "");
}

#[tokio::test]
async fn follower_prints_what_happened_and_each_event_as_it_comes() {
    let scene = Scene::set();
    let server = scene.serve();
    scene.sign_in(&server, "before").await;
    let mut follower = scene.follow(&[]);
    assert_eq!(
        in_words(&follower.stdout.until("before")),
        "session.created before"
    );
    for name in ["ada", "bob"] {
        let (id, _) = scene.sign_in(&server, name).await;
        follower.stdout.until(&id);
        scene.revoke(&server, &id).await;
        assert_eq!(
            in_words(&follower.stdout.until(&id)),
            format!("session.revoked {name}")
        );
    }
    assert_eq!(
        all_in_words(&follower.stdout.seen),
        [
            "session.created before",
            "session.created ada",
            "session.revoked ada",
            "session.created bob",
            "session.revoked bob"
        ]
    );
}

#[tokio::test]
async fn follower_prints_only_what_is_asked_for() {
    let scene = Scene::set();
    let server = scene.serve();
    scene.sign_in(&server, "ada").await;
    let mut follower = scene.follow(&["--user", "bob", "--types", "session.created"]);
    let mut readable = Process::spawn(sessiond(scene.path(), with_database(&["-f", "--user", "bob"])));
    let (id, _) = scene.sign_in(&server, "bob").await;
    follower.stdout.until(&id);
    readable.stdout.until(&id);
    scene.revoke(&server, &id).await;
    let line = readable.stdout.until("session.revoked");
    assert!(line.contains("bob") && line.contains("found a laptop"), "{line}");
    scene.sign_in(&server, "ada").await;
    let (id, _) = scene.sign_in(&server, "bob").await;
    follower.stdout.until(&id);
    assert_eq!(
        all_in_words(&follower.stdout.seen),
        ["session.created bob", "session.created bob"]
    );
}

#[tokio::test]
async fn follower_prints_each_event_once_that_happens_while_it_begins() {
    let scene = Scene::set();
    let server = scene.serve();
    for round in 0..3 {
        let mut follower = scene.follow(&["--limit", "200"]);
        for number in 0..30 {
            scene.sign_in(&server, &format!("u{round}.{number}")).await;
        }
        follower.stdout.until(&format!("u{round}.29"));
        let expected: Vec<String> = (0..=round)
            .flat_map(|round| (0..30).map(move |number| format!("session.created u{round}.{number}")))
            .collect();
        assert_eq!(all_in_words(&follower.stdout.seen), expected);
    }
}

#[tokio::test]
async fn follower_outlives_a_restart_and_loses_nothing() {
    let scene = Scene::set();
    let server = scene.serve();
    let mut all = scene.follow(&[]);
    // Nothing of this kind has ever happened: it has no event to go on after.
    let mut quiet = scene.follow(&["--types", "user.blocked"]);
    scene.sign_in(&server, "ada").await;
    all.stdout.until("ada");
    // The stream of the second one is there when the server has two.
    let is_there = async || {
        let (_, _) = server.get("/healthz", "").await;
        let metrics = server.client.get(format!("{}/metrics", server.base)).send().await;
        let metrics = metrics.expect("an answer").text().await.expect("a body");
        metrics.lines().any(|line| line == "sessiond_event_streams 2")
    };
    crate::harness::eventually("both follow", is_there).await;
    server.stop();
    for follower in [&mut all, &mut quiet] {
        follower.stderr.until("The server is away");
    }
    let server = scene.serve();
    scene.sign_in(&server, "bob").await;
    let body = Some(json!({ "is_blocked": true }));
    server
        .call(Method::PATCH, "/v1/users/cyd", &scene.key, body)
        .await;
    quiet.stdout.until("cyd");
    all.stdout.until("cyd");
    scene.sign_in(&server, "dan").await;
    all.stdout.until("dan");
    assert_eq!(all_in_words(&quiet.stdout.seen), ["user.blocked cyd"]);
    assert_eq!(
        all_in_words(&all.stdout.seen),
        [
            "session.created ada",
            "session.created bob",
            "user.blocked cyd",
            "session.created dan"
        ]
    );
}

#[tokio::test]
async fn event_about_nobody_is_printed_with_its_address_and_leaves_the_database_whole() {
    let scene = Scene::set();
    let mut serve = sessiond(
        scene.path(),
        ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
    );
    serve.env("SESSIOND_RATE_LIMITS__WRONG_CREDENTIALS_PER_MINUTE", "1");
    let server = Served::start(serve);
    for expected in [401, 429] {
        let (status, answer) = server.call(Method::GET, "/v1/session", "x", None).await;
        assert_eq!(status, expected, "{answer}");
    }
    scene.sign_in(&server, "last in the queue").await;

    let printed = scene.events(&["--types", "session.suspicious"]).exited(0);
    let [line] = printed.lines().collect::<Vec<_>>()[..] else {
        panic!("one line: {printed}");
    };
    for word in ["127.0.0.1", "\"count\":2"] {
        assert!(line.contains(word), "{line}");
    }
    server.stop().exited(0);
    let checked = run(scene.path(), ["check", "--database", "s.db"]).exited(0);
    assert_eq!(checked, "ok: 1 session(s), 2 event(s)\n");
}
