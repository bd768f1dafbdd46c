//! Clients that do everything at once to the sessions they share, and the lives of the server meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::store::sqlite::examine_soundness;
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;

use super::{Data, History, Learned, RETENTION_SECS, Span};
use crate::harness::PATIENCE;
use crate::process::{Caller, Process, Served, create_key, sessiond, text};
use crate::support::Dice;

/// Active sessions that a user may have, by the tier `essential`.
pub const SESSIONS_PER_USER_MAX: usize = 3;
/// Clients at once; as many changes can share a commit.
const CLIENTS: usize = 8;
/// Users whom all clients sign in, so that sessions make room for others.
const SHARED_USERS: usize = 4;
/// Sessions that the clients choose from; the rest is looked at again at the end.
const SESSIONS_MAX: usize = 60;

/// What the clients do most of the time.
#[derive(Clone, Copy)]
pub enum Mix {
    /// Changes, a third of which are creations, and few checks.
    Changes,
    /// Ten checks for each change.
    Checks,
}

/// A session as the clients know it.
#[derive(Clone)]
struct Held {
    id: String,
    user: String,
    /// The first token, and its successor once that was told.
    tokens: Vec<String>,
    /// Somebody was told that it has ended.
    is_over: bool,
}

/// The sessions that all clients share.
#[derive(Default)]
struct Pool(Mutex<Vec<Held>>);

impl Pool {
    fn add(&self, held: Held) {
        self.lock().push(held);
    }

    fn choose(&self, dice: &mut Dice) -> Option<Held> {
        let pool = self.lock();
        (!pool.is_empty()).then(|| pool[dice.below(pool.len())].clone())
    }

    fn of_user(&self, user: &str) -> Vec<String> {
        let pool = self.lock();
        let theirs = pool.iter().filter(|held| held.user == user);
        theirs.map(|held| held.id.clone()).collect()
    }

    fn is_over(&self, id: &str) {
        self.change(id, |held| held.is_over = true);
    }

    fn has_successor(&self, id: &str, token: &str) {
        self.change(id, |held| {
            if !held.tokens.iter().any(|known| known == token) {
                held.tokens.push(token.to_owned());
            }
        });
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.lock().iter_mut().find(|held| held.id == id) {
            change(held);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.0.lock().expect("no client failed")
    }
}

/// A connection broke.
struct Gone;

/// One client.
struct Client {
    caller: Caller,
    /// Its server was killed.
    is_killed: Arc<AtomicBool>,
    key: String,
    history: Arc<History>,
    pool: Arc<Pool>,
    dice: Dice,
}

impl Client {
    /// Does one thing after another until the server is gone.
    async fn run(mut self, name: String, mix: Mix, answered: UnboundedSender<()>) {
        for number in 0.. {
            let done = self.step(&format!("{name}-{number}"), mix).await;
            if done.is_err() || answered.send(()).is_err() {
                return;
            }
        }
    }

    async fn step(&mut self, name: &str, mix: Mix) -> Result<(), Gone> {
        let changes_percent = match mix {
            Mix::Changes => 80,
            Mix::Checks => 9,
        };
        let Some(held) = self.pool.choose(&mut self.dice) else {
            return self.create(name.to_owned(), false).await;
        };
        if !self.dice.says(changes_percent) {
            let token = held.tokens[self.dice.below(held.tokens.len())].clone();
            return self.check(&held.id, &token).await;
        }
        match self.dice.below(100) {
            0..15 => {
                let user = format!("shared-{}", self.dice.below(SHARED_USERS));
                self.create(user, false).await
            }
            15..30 => self.create(name.to_owned(), false).await,
            30..35 => self.create(name.to_owned(), true).await,
            35..50 => self.revoke(&held.id).await,
            50..65 => self.renew(&held).await,
            65..80 => self.write(&held.id).await,
            80..87 => self.read(&held.id).await,
            87..94 => self.touch(&held.id).await,
            _ => self.list(&held.user).await,
        }
    }

    async fn create(&self, user: String, is_short: bool) -> Result<(), Gone> {
        let mut body = json!({ "user_id": user });
        if is_short {
            body["absolute_timeout_secs"] = 1.into();
        }
        let (span, answer) = self
            .call(Method::POST, "/v1/sessions", &self.key, Some(body))
            .await;
        let Some((status, answer)) = answer else {
            self.history.creation_lost(&user, span);
            return Err(Gone);
        };
        assert_eq!(status, 201, "{answer}");
        let id = text(&answer["session"]["id"]);
        self.history.created(&id, &user, is_short, span);
        for evicted in answer["evicted"].as_array().expect("a list") {
            let evicted = text(&evicted["id"]);
            self.history.learned(&evicted, span, Learned::MadeRoom);
            self.pool.is_over(&evicted);
        }
        self.pool.add(Held {
            id,
            user,
            tokens: vec![text(&answer["token"])],
            is_over: false,
        });
        Ok(())
    }

    async fn check(&mut self, id: &str, token: &str) -> Result<(), Gone> {
        let (span, answer) = match self.dice.below(3) {
            0 => self.call(Method::GET, "/v1/session", token, None).await,
            1 => {
                self.call(Method::GET, "/v1/session?touch=false", token, None)
                    .await
            }
            _ => {
                let body = json!({ "token": token });
                let (span, answer) = self
                    .call(Method::POST, "/v1/sessions/check", &self.key, Some(body))
                    .await;
                (span, answer.map(as_on_the_token_plane))
            }
        };
        let (status, answer) = answer.ok_or(Gone)?;
        self.history.count_check();
        if status == 200 {
            self.history.learned(id, span, Learned::Good);
        } else {
            self.refused(id, span, &answer);
        }
        Ok(())
    }

    async fn revoke(&self, id: &str) -> Result<(), Gone> {
        let (span, answer) = self.of_session(Method::DELETE, id, "", None).await;
        let Some((status, answer)) = answer else {
            self.history.learned(id, span, Learned::PerhapsRevoked);
            return Err(Gone);
        };
        if status == 204 {
            self.history.learned(id, span, Learned::Revoked);
            self.pool.is_over(id);
        } else {
            self.refused(id, span, &answer);
        }
        Ok(())
    }

    async fn renew(&self, held: &Held) -> Result<(), Gone> {
        // All of them the first token, so that many have the same one to renew.
        let token = &held.tokens[0];
        let (span, answer) = self.call(Method::POST, "/v1/session/renew", token, None).await;
        let (status, answer) = answer.ok_or(Gone)?;
        if status != 200 {
            self.refused(&held.id, span, &answer);
            return Ok(());
        }
        let successor = text(&answer["token"]);
        self.pool.has_successor(&held.id, &successor);
        let token = token.clone();
        self.history
            .learned(&held.id, span, Learned::Renewed { token, successor });
        Ok(())
    }

    async fn write(&mut self, id: &str) -> Result<(), Gone> {
        let number = self.dice.below(usize::MAX);
        let body = json!({ "number": number });
        let (span, answer) = self.of_session(Method::PUT, id, "/data", Some(body)).await;
        self.learn_data(id, span, answer.ok_or(Gone)?, true);
        Ok(())
    }

    async fn read(&self, id: &str) -> Result<(), Gone> {
        let (span, answer) = self.of_session(Method::GET, id, "/data", None).await;
        self.learn_data(id, span, answer.ok_or(Gone)?, false);
        Ok(())
    }

    fn learn_data(&self, id: &str, span: Span, (status, answer): (u16, Value), is_written: bool) {
        if status != 200 {
            return self.refused(id, span, &answer);
        }
        let data = Data {
            version: answer["data_version"].as_u64().expect("a version"),
            number: answer["data"]["number"].as_u64().unwrap_or_default(),
            is_written,
        };
        self.history.learned(id, span, Learned::Data(data));
    }

    async fn touch(&mut self, id: &str) -> Result<(), Gone> {
        let body = json!({ "ip_address": format!("192.0.2.{}", self.dice.below(256)) });
        let (span, answer) = self.of_session(Method::POST, id, "/touch", Some(body)).await;
        let (status, answer) = answer.ok_or(Gone)?;
        if status == 200 {
            self.history.learned(id, span, Learned::Good);
        } else {
            self.refused(id, span, &answer);
        }
        Ok(())
    }

    async fn list(&self, user: &str) -> Result<(), Gone> {
        let known = self.pool.of_user(user);
        let path = format!("/v1/users/{user}/sessions");
        let (span, answer) = self.call(Method::GET, &path, &self.key, None).await;
        let (status, answer) = answer.ok_or(Gone)?;
        assert_eq!(status, 200, "{answer}");
        let listed = answer["sessions"].as_array().expect("a list");
        let listed: Vec<String> = listed.iter().map(|session| text(&session["id"])).collect();
        assert!(listed.len() <= SESSIONS_PER_USER_MAX, "{answer}");
        for id in &listed {
            self.history.learned(id, span, Learned::Good);
        }
        for id in known.iter().filter(|id| !listed.contains(id)) {
            self.over(id, span, Learned::Unlisted);
        }
        Ok(())
    }

    /// A call about the session, or with its token, said that it is over, or, once it was deleted, not known.
    fn refused(&self, id: &str, span: Span, answer: &Value) {
        let learned = match answer["code"].as_str() {
            Some("session_ended") => Learned::Over {
                reason: text(&answer["revoked_reason"]),
            },
            Some("invalid_token" | "not_found") => Learned::Unknown,
            _ => panic!("{answer}"),
        };
        self.over(id, span, learned);
    }

    fn over(&self, id: &str, span: Span, learned: Learned) {
        self.history.learned(id, span, learned);
        self.pool.is_over(id);
    }

    async fn of_session(
        &self,
        method: Method,
        id: &str,
        what: &str,
        body: Option<Value>,
    ) -> (Span, Option<(u16, Value)>) {
        let path = format!("/v1/sessions/{id}{what}");
        self.call(method, &path, &self.key, body).await
    }

    /// One call, and when it was; no answer if the connection broke.
    async fn call(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        body: Option<Value>,
    ) -> (Span, Option<(u16, Value)>) {
        let began = self.history.begin();
        let answer = self.caller.try_call(method, path, bearer, body).await;
        let span = self.history.since(began);
        if let Err(error) = &answer {
            // After a kill reqwest can wait in vain: a request that it hands to a connection in the moment in which that notices the
            // end is neither sent nor given back (tokio's unbounded channel keeps what is sent while its receiver is dropped).
            let is_killed = self.is_killed.load(Ordering::SeqCst);
            assert!(is_killed || !error.is_timeout(), "{error}");
            self.history.count_broken();
        }
        (span, answer.ok())
    }
}

/// What the service plane says of a token, as the token plane says it.
fn as_on_the_token_plane((status, answer): (u16, Value)) -> (u16, Value) {
    assert_eq!(status, 200, "{answer}");
    let is_active = answer["active"] == true;
    (if is_active { 200 } else { 401 }, answer)
}

/// A database, the lives of its server, and what the clients of all of them were told.
pub struct Lives {
    pub history: Arc<History>,
    dir: TempDir,
    key: String,
    pool: Arc<Pool>,
    /// Active when they were looked at last, and left alone since.
    rest: Vec<Held>,
    dice: Dice,
    /// The server that was begun last was killed.
    is_killed: Arc<AtomicBool>,
    kills: usize,
}

impl Lives {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = create_key(dir.path());
        Self {
            history: Arc::new(History::new()),
            dir,
            key,
            pool: Arc::default(),
            rest: Vec::new(),
            dice: Dice(1),
            is_killed: Arc::default(),
            kills: 0,
        }
    }

    /// Starts the server, and looks at all that the clients have, before anything else is asked of it.
    pub async fn begin(&mut self) -> Served {
        self.assert_sound();
        let server = Served::start(self.serve());
        self.is_killed = Arc::default();
        let held = self.pool.lock().clone();
        self.look_at(&server, &held).await;
        // What was found over is not asked for for ever.
        let mut pool = self.pool.lock();
        let was_over = |id: &str| held.iter().any(|held| held.id == id && held.is_over);
        pool.retain(|held| !was_over(&held.id));
        while pool.len() > SESSIONS_MAX {
            let chosen = self.dice.below(pool.len());
            self.rest.push(pool.swap_remove(chosen));
        }
        drop(pool);
        server
    }

    /// Loads the server, and kills it at a random moment after at most so many answers.
    pub async fn kill_under_load(&mut self, mut server: Served, mix: Mix, answers_max: usize) {
        let (answered, mut answers) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let name = format!("{}-{number}", self.kills);
            clients.spawn(self.client(&server).run(name, mix, answered.clone()));
        }
        for _ in 0..self.dice.below(answers_max) {
            let answer = tokio::time::timeout(PATIENCE, answers.recv()).await;
            answer.expect("in time").expect("the clients go on");
        }
        for _ in 0..self.dice.below(100) {
            tokio::task::yield_now().await;
        }
        server.process.kill();
        self.is_killed.store(true, Ordering::SeqCst);
        self.kills += 1;
        while let Some(result) = clients.join_next().await {
            result.expect("every answer was right");
        }
    }

    /// Kills a server that is about to start.
    pub async fn kill_at_the_start(&mut self) {
        let mut starting = Process::spawn(self.serve());
        for _ in 0..self.dice.below(20_000) {
            tokio::task::yield_now().await;
        }
        starting.kill();
        self.kills += 1;
    }

    /// Starts the server for the last time, looks at everything, and judges all that was told.
    pub async fn end(&mut self) {
        let server = self.begin().await;
        let held = [self.rest.as_slice(), &self.pool.lock()].concat();
        self.look_at(&server, &held).await;
        server.stop();
        self.assert_sound();
        self.history.judge().unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    async fn look_at(&mut self, server: &Served, sessions: &[Held]) {
        let mut client = self.client(server);
        for held in sessions {
            for token in &held.tokens {
                let checked = client.check(&held.id, token).await;
                assert!(checked.is_ok(), "the server is there");
            }
            let read = client.read(&held.id).await;
            assert!(read.is_ok(), "the server is there");
        }
    }

    fn client(&mut self, server: &Served) -> Client {
        let seed = self.dice.below(usize::MAX);
        Client {
            caller: server.caller.clone(),
            is_killed: Arc::clone(&self.is_killed),
            key: self.key.clone(),
            history: Arc::clone(&self.history),
            pool: Arc::clone(&self.pool),
            dice: Dice(u64::try_from(seed).expect("64 bits")),
        }
    }

    /// Uses are written and deadlines passed down all the time, what has ended is soon deleted, and a renewed token stays good
    /// for as long as this may take. Tokens of what was deleted are wrong ones, and are asked for as often as any.
    fn serve(&self) -> std::process::Command {
        let mut serve = sessiond(
            self.dir.path(),
            ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
        );
        serve
            .env("SESSIOND_SESSIONS__DEFAULT_TIER", "essential")
            .env("SESSIOND_SESSIONS__FLUSH_INTERVAL_MS", "20")
            .env("SESSIOND_SESSIONS__TOUCH_INTERVAL_SECS", "0")
            .env("SESSIOND_SESSIONS__RETENTION_SECS", RETENTION_SECS.to_string())
            .env("SESSIOND_APPS__DEFAULT__RENEW_GRACE_SECS", "3600")
            .env("SESSIOND_RATE_LIMITS__WRONG_CREDENTIALS_PER_MINUTE", "0");
        serve
    }

    /// The database is whole, on its pages and between its rows.
    fn assert_sound(&self) {
        let found = examine_soundness(&self.dir.path().join("s.db")).expect("it opens");
        assert!(found.faults.is_empty(), "{found:?}");
    }
}

impl fmt::Display for Lives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.history.record();
        write!(
            f,
            "{} kills, which cut {} calls off; {} sessions, {} checks",
            self.kills,
            record.broken,
            record.sessions.len(),
            record.checks
        )
    }
}
