//! `examples/web_session.rs` beside a real `sessiond dev`, as its visitors have it.

use std::process::Command;

use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::Value;
use tempfile::TempDir;

use crate::browser_driver::{Browser, Driver, ENTER};
use crate::harness::PATIENCE;
use crate::process::{Process, Served, example};

/// The two processes.
struct Servers {
    /// `http://localhost:PORT` of the application.
    app: String,
    // Before the server that it calls.
    application: Process,
    sessiond: Served,
    /// Follows no redirects.
    client: Client,
    // Until both have ended.
    _dir: TempDir,
}

impl Servers {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut sessiond = Served::dev(dir.path());
        let line = sessiond.process.stdout.until("export KEY=");
        let (_, key) = line.trim_end().split_once('=').expect("a key");
        let mut command = Command::new(example("web_session"));
        command
            .arg("127.0.0.1:0")
            .env_clear()
            .env("SESSIOND_URL", &sessiond.base)
            .env("SESSIOND_KEY", key);
        let mut application = Process::spawn(command);
        let line = application.stdout.until("Open http://");
        let app = line.trim_start_matches("Open ").trim_end().trim_end_matches('/');
        Self {
            app: app.to_owned(),
            application,
            sessiond,
            client: Client::builder()
                .no_proxy()
                .redirect(Policy::none())
                .timeout(PATIENCE)
                .build()
                .expect("a client"),
            _dir: dir,
        }
    }

    /// What the application answers to a browser with this cookie: status, whether it sets a cookie, page.
    async fn open_with(&self, token: &str) -> (u16, bool, String) {
        let request = self.client.get(format!("{}/", self.app));
        let request = request.header("cookie", format!("sessiond_dev={token}"));
        read(request.send().await.expect("an answer")).await
    }

    /// What it answers to its form for signing in, sent with this header.
    async fn sign_in_with(&self, name: &str, value: &str) -> (u16, bool, String) {
        let request = self.client.post(format!("{}/sign-in", self.app));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header(name, value).body("name=ada");
        read(request.send().await.expect("an answer")).await
    }
}

async fn read(response: Response) -> (u16, bool, String) {
    let (status, sets_cookie) = (response.status(), response.headers().contains_key("set-cookie"));
    (
        status.as_u16(),
        sets_cookie,
        response.text().await.expect("a page"),
    )
}

/// The servers, and a visitor's browser.
struct Stage {
    browser: Browser,
    // After the browser, before what it talks to.
    _driver: Driver,
    servers: Servers,
}

impl Stage {
    async fn set() -> Self {
        let driver = Driver::start().await;
        let servers = Servers::start();
        let browser = driver.browser(&servers.app).await;
        Self {
            browser,
            _driver: driver,
            servers,
        }
    }

    /// The token in the browser's only cookie.
    async fn token(&self) -> String {
        let cookies = self.browser.get_all_cookies().await.expect("cookies");
        let [cookie] = cookies.as_slice() else {
            panic!("one cookie, not {}", cookies.len())
        };
        assert_eq!((cookie.name(), cookie.http_only()), ("sessiond_dev", Some(true)));
        cookie.value().to_owned()
    }

    /// Signs in by the form; the page stands.
    async fn sign_in(&self, name: &str) {
        self.browser.click("[name=name]").await;
        self.browser.press(name).await;
        self.browser.press(ENTER).await;
        self.browser.until_text("#who", name).await;
    }
}

#[tokio::test]
async fn visitor_who_signs_in_keeps_their_data_while_the_old_cookie_is_dead() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open("/").await;
    browser.open("/").await;
    assert_eq!(browser.text("#visits").await, "2");
    browser.assert_accessible("a visitor's page").await;
    let old = stage.token().await;

    stage.sign_in("ada").await;

    assert_eq!(browser.text("#visits").await, "3");
    browser.assert_accessible("a person's page").await;
    let new = stage.token().await;
    assert_ne!(new, old);
    let sessiond = &stage.servers.sessiond;
    sessiond.assert_token(&new, "active").await;
    sessiond.assert_token(&old, "token_replaced").await;
    let (status, sets_cookie, page) = stage.servers.open_with(&old).await;
    assert_eq!(
        (status, sets_cookie),
        (401, false),
        "it gets nothing, not even a session of its own: {page}"
    );
    assert!(!page.contains("ada") && !page.contains("visits"), "{page}");
}

#[tokio::test]
async fn message_is_shown_once() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open("/").await;
    assert_eq!(browser.count("#flash").await, 0);

    stage.sign_in("ada").await;
    assert_eq!(browser.text("#flash").await, "Welcome, ada");

    browser.open("/").await;
    assert_eq!(browser.text("#who").await, "ada");
    assert_eq!(browser.text("#visits").await, "3");
    assert_eq!(browser.count("#flash").await, 0);
}

#[tokio::test]
async fn person_who_signs_out_is_a_new_visitor() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open("/").await;
    stage.sign_in("ada").await;
    let old = stage.token().await;
    let (_, session) = stage.servers.sessiond.get("/v1/session", &old).await;

    browser.click("[action='/sign-out'] button").await;
    browser.until_text("#flash", "You are signed out.").await;

    assert_eq!(browser.get_all_cookies().await.expect("cookies").len(), 0);
    let sessiond = &stage.servers.sessiond;
    sessiond.assert_token(&old, "session_ended").await;
    browser.open("/").await;
    assert_eq!(browser.count("#who").await, 0);
    assert_eq!(browser.text("#visits").await, "1");
    let (_, next) = sessiond.get("/v1/session", &stage.token().await).await;
    assert_eq!(next["user_id"], Value::Null);
    assert_ne!(next["id"], session["id"]);
}

#[tokio::test]
async fn name_is_shown_as_it_was_written() {
    let stage = Stage::set().await;
    let browser = &stage.browser;
    browser.open("/").await;
    let name = "<img src=x onerror=alert(1)>&lt;\"'";

    stage.sign_in(name).await;

    assert_eq!(browser.text("#who").await, name);
    assert_eq!(browser.text("#flash").await, format!("Welcome, {name}"));
    assert_eq!(browser.count("img").await, 0);
}

#[tokio::test]
async fn form_that_another_site_sends_is_refused() {
    let servers = Servers::start();
    let own = servers.app.clone();
    let cases = [
        ("sec-fetch-site", "same-origin", 303),
        ("origin", own.as_str(), 303),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "none", 403),
        ("origin", "https://elsewhere.example", 403),
        ("origin", "null", 403),
        ("accept", "text/html", 403),
    ];
    for (name, value, expected) in cases {
        let (status, sets_cookie, _) = servers.sign_in_with(name, value).await;
        assert_eq!(
            (status, sets_cookie),
            (expected, expected == 303),
            "{name}: {value}"
        );
    }
}

#[tokio::test]
async fn page_says_that_sessions_are_away() {
    let mut servers = Servers::start();
    let (status, sets_cookie, _) = servers.open_with("none").await;
    assert_eq!((status, sets_cookie), (200, true));
    servers.sessiond.process.kill();

    let (status, sets_cookie, page) = servers.open_with("none").await;

    assert_eq!((status, sets_cookie), (503, false));
    assert!(page.contains("Sessions are not available right now."), "{page}");
    servers.application.stderr.until("sessiond is no help");
}
