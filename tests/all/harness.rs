//! A server per test: on port 0, over a temporary file database, with a clock that moves only when it is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sessiond::clock::{Clock, Timestamp};
use sessiond::config::{Config, Flags, RateLimitsConfig};
use sessiond::manager::SessionManager;
use sessiond::server::{Mode, Server};
use sessiond::session::AppName;
use sessiond::sweeper;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Where every test's clock begins: 2026-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);
/// How long anything that is waited for may take, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const FIREFOX_ON_LINUX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0";

/// The defaults over a database in `dir`, listening on a free port, with no regular work but what tests ask for, and
/// without limits on how often anybody asks.
pub fn config_in(dir: &Path) -> Config {
    let flags = Flags {
        listen: Some("127.0.0.1:0".parse().expect("an address")),
        database: Some(dir.join("s.db")),
        ..Flags::default()
    };
    let mut config = Config::load(None, std::iter::empty(), flags).expect("the defaults are valid");
    config.server.workers = 1;
    config.sessions.flush_interval_ms = 60_000;
    // Budgets refill with time, which stands still here, and all tests come from one address.
    config.rate_limits = RateLimitsConfig {
        per_key_per_second: 0,
        unauthenticated_per_minute: 0,
        wrong_credentials_per_minute: 0,
    };
    config
}

/// A running server.
pub struct TestServer {
    /// `http://127.0.0.1:PORT` and the base path; with TLS https, which the client here does not speak.
    pub base: String,
    pub manager: Arc<SessionManager>,
    pub clock: Arc<Clock>,
    pub config: Config,
    pub client: Client,
    /// An API key of the app `default`.
    pub key: String,
    dir: Option<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with a changed configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(Mode::Serve, change).await
    }

    pub async fn start_in(mode: Mode, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config_in(dir.path());
        change(&mut config);
        let mut server = Self::run(config, mode, Arc::new(Clock::manual(START))).await;
        server.dir = Some(dir);
        server
    }

    /// Runs a server on a database that is there.
    pub async fn run(config: Config, mode: Mode, clock: Arc<Clock>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = oneshot::channel();
        let thread = std::thread::spawn({
            let (config, clock) = (config.clone(), Arc::clone(&clock));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let server = Server::bind(config, mode, clock)
                        .await
                        .expect("the server starts");
                    let address = server.address().expect("it listens");
                    assert!(
                        ready.send((address, Arc::clone(server.manager()))).is_ok(),
                        "the test waits"
                    );
                    let stop = async { drop(stopped.await) };
                    server.run(stop).await.expect("the server ends well");
                });
            }
        });
        let (address, manager) = started.await.expect("the server has started");
        let (_, key) = manager
            .create_key(&AppName::default_app(), "test")
            .await
            .expect("a key");
        let scheme = if config.server.tls.is_some() {
            "https"
        } else {
            "http"
        };
        Self {
            base: format!("{scheme}://{address}{}", config.server.base_path),
            manager,
            clock,
            config,
            client: Client::builder()
                .no_proxy()
                .timeout(PATIENCE)
                .build()
                .expect("a client"),
            key: key.reveal(),
            dir: None,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Stops the server; the database stays and can be run again as long as the answer lives.
    pub async fn stop(mut self) -> Stopped {
        self.halt();
        Stopped {
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
            dir: self.dir.take(),
        }
    }

    fn halt(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(
                result.is_ok() || std::thread::panicking(),
                "the server failed while it stopped"
            );
        }
    }

    pub fn database(&self) -> PathBuf {
        self.config.database.path.clone()
    }

    /// Moves the clock.
    pub fn advance(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// Does the regular work once: touches, deadlines, retention.
    pub async fn tick(&self) {
        sweeper::tick(&self.manager)
            .await
            .expect("the regular work succeeds");
    }

    /// An API key of another app.
    pub async fn key_of(&self, app: &str) -> String {
        let app = AppName::parse(app).expect("a name");
        self.manager
            .create_key(&app, "test")
            .await
            .expect("a key")
            .1
            .reveal()
    }

    /// A request; `path` begins with a slash.
    pub fn request(&self, method: Method, path: &str) -> Request<'_> {
        Request {
            server: self,
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: None,
        }
    }

    pub fn get(&self, path: &str) -> Request<'_> {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str, body: Value) -> Request<'_> {
        self.request(Method::POST, path).json(body)
    }

    pub fn patch(&self, path: &str, body: Value) -> Request<'_> {
        self.request(Method::PATCH, path).json(body)
    }

    pub fn delete(&self, path: &str) -> Request<'_> {
        self.request(Method::DELETE, path)
    }

    /// Starts a session for a user; answers its id and token.
    pub async fn sign_in(&self, user_id: &str) -> SignedIn {
        self.create(json!({ "user_id": user_id })).await
    }

    /// Starts a session from this body; answers its id and token.
    pub async fn create(&self, body: Value) -> SignedIn {
        let reply = self.post("/v1/sessions", body).key(&self.key).send().await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        SignedIn {
            id: reply.json["session"]["id"].as_str().expect("an id").to_owned(),
            token: reply.json["token"].as_str().expect("a token").to_owned(),
            body: reply.json,
        }
    }

    /// Checks a token on the token plane.
    pub async fn check(&self, token: &str) -> Reply {
        self.get("/v1/session").bearer(token).send().await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.halt();
    }
}

/// What a stopped server leaves.
pub struct Stopped {
    pub config: Config,
    pub clock: Arc<Clock>,
    dir: Option<TempDir>,
}

impl Stopped {
    /// Runs a server on the same database again.
    pub async fn restart(self) -> TestServer {
        let clock = Arc::clone(&self.clock);
        self.restart_at(clock).await
    }

    /// Runs a server on the same database again, by another clock.
    pub async fn restart_at(self, clock: Arc<Clock>) -> TestServer {
        let mut server = TestServer::run(self.config, Mode::Serve, clock).await;
        server.dir = self.dir;
        server
    }
}

/// A session that was started.
#[derive(Debug, Clone)]
pub struct SignedIn {
    pub id: String,
    pub token: String,
    /// The whole answer.
    pub body: Value,
}

/// A request under construction.
pub struct Request<'s> {
    server: &'s TestServer,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a header's name"),
            HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"),
        );
        self
    }

    pub fn bearer(self, credential: &str) -> Self {
        self.header("authorization", &format!("Bearer {credential}"))
    }

    /// With an API key.
    pub fn key(self, key: &str) -> Self {
        self.bearer(key)
    }

    /// With the default profile's cookie.
    pub fn cookie(self, token: &str) -> Self {
        self.header("cookie", &format!("__Host-session={token}"))
    }

    /// As a browser sends it from the server's own page.
    pub fn same_origin(self) -> Self {
        self.header("sec-fetch-site", "same-origin")
    }

    pub fn json(self, body: Value) -> Self {
        self.raw("application/json", body.to_string().as_bytes())
    }

    pub fn raw(mut self, content_type: &str, body: &[u8]) -> Self {
        self.body = Some(body.to_vec());
        self.header("content-type", content_type)
    }

    pub async fn send(self) -> Reply {
        self.sent().await
    }

    /// The same as something that a task of its own can do.
    pub fn sent(self) -> impl Future<Output = Reply> + Send + use<> {
        let response = self.opened();
        async move { Reply::of(response.await).await }
    }

    /// Sends it and answers once the head is there, with the body still to come.
    pub fn opened(self) -> impl Future<Output = reqwest::Response> + Send + use<> {
        let url = format!("{}{}", self.server.base, self.path);
        let mut request = self.server.client.request(self.method, url).headers(self.headers);
        if let Some(body) = self.body {
            request = request.body(body);
        }
        async move { request.send().await.expect("an answer") }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// `Null` if it is no JSON.
    pub json: Value,
}

impl Reply {
    /// Reads an answer to its end.
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self {
            status,
            headers,
            text,
            json,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// Asserts a problem with this status and code, in the whole form every problem has.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.json["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.json["type"], format!("/problems/{}", code.replace('_', "-")));
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["request_id"].as_str(), self.header("x-request-id"));
        assert!(
            self.json["title"].is_string() && self.json["detail"].is_string(),
            "{}",
            self.text
        );
    }

    /// The fields that a 422 names.
    pub fn wrong_fields(&self) -> Vec<&str> {
        let errors = self.json["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        errors
            .iter()
            .filter_map(|error| error["field"].as_str())
            .collect()
    }
}

/// Makes a database as the first version of the schema had it.
pub fn make_first_version(path: &Path) {
    let connection = rusqlite::Connection::open(path).expect("opened");
    connection
        .execute_batch(include_str!("../../src/store/sqlite/first_schema.sql"))
        .expect("made");
    connection
        .pragma_update(None, "application_id", 0x7365_7373)
        .expect("set");
    connection.pragma_update(None, "user_version", 1).expect("set");
    connection
        .execute(
            "INSERT INTO meta (key, value) VALUES ('epoch', randomblob(16))",
            [],
        )
        .expect("written");
}

/// The server's database, opened for looking.
pub fn open_database(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the database")
}

/// The same, with a snapshot that it holds as long as it lives, as a program does that replicates the database.
pub fn hold_snapshot(path: &Path) -> rusqlite::Connection {
    let reader = open_database(path);
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sessions")
        .expect("a snapshot");
    reader
}

/// Every event so far: type and session id, in order.
pub fn events(path: &Path) -> Vec<(String, Option<String>)> {
    let database = open_database(path);
    let mut statement = database
        .prepare("SELECT type, hex(session_id) FROM events ORDER BY id")
        .expect("a query");
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?)))
        .expect("rows");
    rows.map(|row| row.expect("a row"))
        .map(|(kind, id)| (kind, id.filter(|id| !id.is_empty()).map(|id| hyphenated(&id))))
        .collect()
}

fn hyphenated(hex: &str) -> String {
    let hex = hex.to_ascii_lowercase();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Waits until something holds, within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::task::yield_now().await;
    }
}
