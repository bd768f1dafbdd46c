//! What tests below HTTP share: stores, sessions to put into them, and a store that can be held up at every point.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use sessiond::clock::{Clock, Timestamp};
use sessiond::config::Config;
use sessiond::data::Data;
use sessiond::error::Error;
use sessiond::event::Event;
use sessiond::manager::{CheckAnswer, Demands, Refusal, SessionManager, SignIn, SignedIn, Use};
use sessiond::metrics::Metrics;
use sessiond::session::{
    AppName, EndedBy, KeyId, OnLimit, Reason, Secret, SecretHash, ServerKey, Session, SessionId, Timeouts,
    Token, Touch, UsedFrom,
};
use sessiond::store::sqlite::{SqliteOptions, SqliteStore};
use sessiond::store::{
    Answer, AppList, AppPage, Authenticated, Authentication, BulkEnding, Committed, Creation, DataOutcome,
    DataPatch, EndRequest, Erased, EventBounds, EventList, EventPage, Hooks, KeyRecord, KnownDevice,
    NewSession, Outcome, Owner, Renewal, Renewed, Scope, SessionPatch, SessionStore, UserList, UserPage,
    UserPatch, UserRecord,
};
use sessiond::user::{Tiers, UserId};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::{PATIENCE, START, config_in, open_database};

/// A moment so many seconds after every test's beginning.
pub fn at(secs: i64) -> Timestamp {
    START.plus_millis(secs * 1_000)
}

pub fn app() -> AppName {
    AppName::default_app()
}

pub fn app_named(name: &str) -> AppName {
    AppName::parse(name).expect("a name of an app")
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

pub fn address(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

/// Tiers with one of this limit, which is the default.
pub fn limit(max: u32) -> Arc<Tiers> {
    let limits = [("only".to_owned(), max), ("pair".to_owned(), 2)].into();
    Arc::new(Tiers::new("only".to_owned(), limits).expect("the default is among them"))
}

/// A session of this user that lives 100 s without and 1000 s with use.
pub fn new_session(name: &str, now: Timestamp) -> NewSession {
    NewSession {
        now,
        app: app(),
        user_id: Some(user(name)),
        token_hash: Secret::random().hash(),
        name: None,
        user_agent: None,
        device: None,
        place: None,
        ip_address: None,
        timeouts: Timeouts {
            idle_millis: 100_000,
            absolute_millis: 1_000_000,
        },
        expiring_notice_millis: None,
        authenticated_at: Some(now),
        auth: None,
        tier: None,
        tiers: limit(100),
        on_limit: OnLimit::Evict,
        end_ids: Vec::new(),
        data: None,
        client: None,
        visitor: None,
        idempotency: None,
    }
}

/// The same of nobody.
pub fn anonymous_session(now: Timestamp) -> NewSession {
    NewSession {
        user_id: None,
        authenticated_at: None,
        ..new_session("nobody", now)
    }
}

/// Data with this text.
pub fn data(text: &str) -> Data {
    Data::from_stored(text).expect("an object")
}

/// Stores a session.
pub async fn put(store: &dyn SessionStore, new: NewSession) -> Session {
    match store.create(new).await.expect("the store works") {
        Creation::Created { session, .. } => *session,
        refused => panic!("{refused:?}"),
    }
}

pub async fn found(store: &dyn SessionStore, id: SessionId) -> Session {
    store
        .find(id)
        .await
        .expect("the store works")
        .expect("the session is there")
}

pub fn ending(now: Timestamp, reason: &'static str, by: EndedBy) -> EndRequest {
    EndRequest {
        now,
        reason: Reason::known(reason),
        by,
    }
}

pub fn touch(id: SessionId, at: Timestamp) -> Touch {
    Touch {
        id,
        at,
        first_address: None,
        last_address: None,
        successor_seen: None,
    }
}

/// An address of no known place.
pub fn used_from(address: std::net::IpAddr) -> UsedFrom {
    UsedFrom { address, place: None }
}

/// How a session ended, short: when, why and by whom.
pub fn how(session: &Session) -> Option<(Timestamp, &str, EndedBy)> {
    let ending = session.ending.as_ref()?;
    Some((ending.at, ending.reason.as_str(), ending.by))
}

/// A row of the event table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    pub kind: String,
    pub occurred_at: Timestamp,
    pub app: String,
    pub user_id: Option<String>,
    pub session_id: Option<SessionId>,
    pub client_session_id: Option<i64>,
    pub reason: Option<String>,
    pub ended_by: Option<String>,
    pub device_info: Option<String>,
    pub ip_address: Option<String>,
    pub location: Option<String>,
    pub data: Option<String>,
}

impl From<Event> for EventRow {
    fn from(event: Event) -> Self {
        Self {
            kind: event.kind.as_str().to_owned(),
            occurred_at: event.occurred_at,
            app: event.app.to_string(),
            user_id: event.user_id.map(|user| user.to_string()),
            session_id: event.session_id,
            client_session_id: event.client_session_id,
            reason: event.reason.map(|reason| reason.as_str().to_owned()),
            ended_by: event.ended_by.map(|by| by.as_str().to_owned()),
            device_info: event.device_info,
            ip_address: event.ip_address.map(|address| address.to_string()),
            location: event.location,
            data: event.data,
        }
    }
}

/// All events of a database, oldest first.
pub fn event_rows(path: &std::path::Path) -> Vec<EventRow> {
    let database = open_database(path);
    let mut statement = database
        .prepare(
            "SELECT type, occurred_at, app, user_id, session_id, reason, ended_by, device_info, ip_address,
                 location, data, client_session_id FROM events ORDER BY id",
        )
        .expect("a query");
    let rows = statement.query_map([], |row| {
        Ok(EventRow {
            kind: row.get(0)?,
            occurred_at: Timestamp::from_millis(row.get(1)?),
            app: row.get(2)?,
            user_id: row.get(3)?,
            session_id: row.get::<_, Option<[u8; 16]>>(4)?.map(SessionId::from_bytes),
            reason: row.get(5)?,
            ended_by: row.get(6)?,
            device_info: row.get(7)?,
            ip_address: row.get(8)?,
            location: row.get(9)?,
            data: row.get(10)?,
            client_session_id: row.get(11)?,
        })
    });
    rows.expect("rows").map(|row| row.expect("a row")).collect()
}

/// An SQLite store in a directory of its own.
pub fn sqlite_in(dir: &TempDir, queue_len_max: usize) -> SqliteStore {
    let options = SqliteOptions {
        path: database_in(dir),
        read_pool: 2,
        queue_len_max,
    };
    SqliteStore::open(&options).expect("the database opens")
}

pub fn database_in(dir: &TempDir) -> PathBuf {
    dir.path().join("s.db")
}

/// Whether a future is not ready yet; polls it once.
pub async fn is_pending<T>(future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

/// Waits for something that comes soon, or fails the test.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A point that is passed in the normal course, and where the next to pass can be held.
#[derive(Default)]
pub struct Gate {
    next: Mutex<Option<Barrier>>,
}

struct Barrier {
    arrived: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

/// Somebody who is, or will be, held at a gate. Dropping it lets them go.
pub struct Hold {
    arrived: Option<oneshot::Receiver<()>>,
    go: oneshot::Sender<()>,
}

impl Gate {
    /// Holds whoever comes next.
    pub fn hold_next(&self) -> Hold {
        let (arrived, arrival) = oneshot::channel();
        let (go, waiting) = oneshot::channel();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Barrier { arrived, go: waiting });
        Hold {
            arrived: Some(arrival),
            go,
        }
    }

    fn barrier(&self) -> Option<oneshot::Receiver<()>> {
        let barrier = self.next.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let _ = barrier.arrived.send(()); // a test that has given up lets everybody through
        Some(barrier.go)
    }

    async fn pass(&self) {
        if let Some(go) = self.barrier() {
            let _ = go.await;
        }
    }

    fn pass_blocking(&self) {
        if let Some(go) = self.barrier() {
            let _ = go.blocking_recv();
        }
    }
}

impl Hold {
    /// Waits until somebody is held here.
    pub async fn arrived(&mut self) {
        let arrived = self.arrived.take().expect("waited for once");
        soon("somebody comes to the gate", arrived)
            .await
            .expect("the gate is there");
    }

    pub fn let_go(self) {
        let _ = self.go.send(());
    }
}

type Observer = Box<dyn FnMut(&Committed) + Send>;

/// The test's hand on a store: gates, counts and faults.
#[derive(Default)]
pub struct Probe {
    /// After a row was read, before the reader gets it.
    pub after_find: Gate,
    /// After a page of events was read, before the reader gets it.
    pub after_list: Gate,
    /// After the due touches were asked for, before the batch's changes run.
    pub after_due: Gate,
    /// Once the fence is up, before the commit.
    pub after_fence: Gate,
    /// Once the fence has fallen, before anybody is told.
    pub before_announce: Gate,
    /// Once the manager was told, before the callers are answered.
    pub after_announce: Gate,
    pub finds: AtomicUsize,
    pub commits: AtomicUsize,
    pub fails_touches: AtomicBool,
    pub fails_reads: AtomicBool,
    pub fails_records: AtomicBool,
    pub fails_events: AtomicBool,
    /// Pages of events that were asked for.
    pub event_pages: AtomicUsize,
    /// Is told of each commit before the manager is.
    pub observer: Mutex<Option<Observer>>,
}

impl Probe {
    pub fn finds(&self) -> usize {
        self.finds.load(Ordering::SeqCst)
    }

    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }

    pub fn observe(&self, observer: impl FnMut(&Committed) + Send + 'static) {
        *self.observer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(observer));
    }
}

/// A store with a test's hand on it.
pub struct ProbedStore {
    pub inner: Arc<dyn SessionStore>,
    pub probe: Arc<Probe>,
}

struct ProbedHooks {
    inner: Arc<dyn Hooks>,
    probe: Arc<Probe>,
}

impl Hooks for ProbedHooks {
    fn pending_touch(&self, id: SessionId) -> Option<Touch> {
        self.inner.pending_touch(id)
    }

    fn due_touches(&self, now: Timestamp) -> Vec<Touch> {
        let due = self.inner.due_touches(now);
        self.probe.after_due.pass_blocking();
        due
    }

    fn fence(&self, changed: &[SessionId]) {
        self.inner.fence(changed);
        self.probe.after_fence.pass_blocking();
    }

    fn release(&self, changed: &[SessionId]) {
        self.inner.release(changed);
    }

    fn announce(&self, committed: &Committed) {
        self.probe.before_announce.pass_blocking();
        self.probe.commits.fetch_add(1, Ordering::SeqCst);
        if let Some(observer) = self
            .probe
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            observer(committed);
        }
        self.inner.announce(committed);
        self.probe.after_announce.pass_blocking();
    }
}

fn broken<T: Send + 'static>(why: &'static str) -> Answer<T> {
    Box::pin(std::future::ready(Err(Error::store(why))))
}

impl SessionStore for ProbedStore {
    fn attach(&self, hooks: Arc<dyn Hooks>) {
        let probe = Arc::clone(&self.probe);
        self.inner.attach(Arc::new(ProbedHooks { inner: hooks, probe }));
    }

    fn find(&self, id: SessionId) -> Answer<Option<Session>> {
        self.probe.finds.fetch_add(1, Ordering::SeqCst);
        if self.probe.fails_reads.load(Ordering::SeqCst) {
            return broken("the test's store fails to read");
        }
        let (answer, probe) = (self.inner.find(id), Arc::clone(&self.probe));
        Box::pin(async move {
            let row = answer.await;
            probe.after_find.pass().await;
            row
        })
    }

    fn write_touches(&self, touches: Vec<Touch>, now: Timestamp) -> Answer<()> {
        if self.probe.fails_touches.load(Ordering::SeqCst) {
            return broken("the test's store fails to write touches");
        }
        self.inner.write_touches(touches, now)
    }

    fn high_water(&self) -> Answer<Option<Timestamp>> {
        self.inner.high_water()
    }

    fn create(&self, new: NewSession) -> Answer<Creation> {
        self.inner.create(new)
    }

    fn authenticate(&self, authentication: Authentication) -> Answer<Authenticated> {
        self.inner.authenticate(authentication)
    }

    fn renew(&self, renewal: Renewal) -> Answer<Renewed> {
        self.inner.renew(renewal)
    }

    fn report_replaced(&self, id: SessionId, presented: SecretHash, now: Timestamp) -> Answer<()> {
        self.inner.report_replaced(id, presented, now)
    }

    fn change_data(
        &self,
        app: AppName,
        id: SessionId,
        patch: DataPatch,
        now: Timestamp,
    ) -> Answer<DataOutcome> {
        self.inner.change_data(app, id, patch, now)
    }

    fn find_client(&self, app: AppName, client_session_id: i64) -> Answer<Option<Session>> {
        self.inner.find_client(app, client_session_id)
    }

    fn find_data(&self, id: SessionId) -> Answer<Option<(Session, Data)>> {
        self.inner.find_data(id)
    }

    fn end(&self, app: AppName, id: SessionId, owner: Owner, request: EndRequest) -> Answer<Outcome> {
        self.inner.end(app, id, owner, request)
    }

    fn end_many(&self, app: AppName, scope: Scope, request: EndRequest) -> Answer<BulkEnding> {
        self.inner.end_many(app, scope, request)
    }

    fn update(
        &self,
        app: AppName,
        id: SessionId,
        owner: Owner,
        patch: SessionPatch,
        now: Timestamp,
    ) -> Answer<Outcome> {
        self.inner.update(app, id, owner, patch, now)
    }

    fn update_user(
        &self,
        app: AppName,
        user_id: UserId,
        patch: UserPatch,
        by: EndedBy,
        now: Timestamp,
    ) -> Answer<UserRecord> {
        self.inner.update_user(app, user_id, patch, by, now)
    }

    fn erase_user(&self, app: AppName, user_id: UserId, request: EndRequest, limit: usize) -> Answer<Erased> {
        self.inner.erase_user(app, user_id, request, limit)
    }

    fn expire(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.inner.expire(now, limit)
    }

    fn tell_expiring(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.inner.tell_expiring(now, limit)
    }

    fn purge(&self, before: Timestamp, limit: usize, now: Timestamp) -> Answer<usize> {
        self.inner.purge(before, limit, now)
    }

    fn create_key(&self, key: KeyRecord) -> Answer<()> {
        self.inner.create_key(key)
    }

    fn revoke_key(&self, id: KeyId, now: Timestamp) -> Answer<bool> {
        self.inner.revoke_key(id, now)
    }

    fn list_user(&self, list: UserList) -> Answer<UserPage> {
        self.inner.list_user(list)
    }

    fn list_app(&self, list: AppList) -> Answer<AppPage> {
        self.inner.list_app(list)
    }

    fn find_user(&self, app: AppName, user_id: UserId, now: Timestamp) -> Answer<UserRecord> {
        self.inner.find_user(app, user_id, now)
    }

    fn list_devices(&self, app: AppName, user_id: UserId) -> Answer<Vec<KnownDevice>> {
        self.inner.list_devices(app, user_id)
    }

    fn list_events(&self, list: EventList) -> Answer<EventPage> {
        self.probe.event_pages.fetch_add(1, Ordering::SeqCst);
        if self.probe.fails_events.load(Ordering::SeqCst) {
            return broken("the test's store fails to read events");
        }
        let (answer, probe) = (self.inner.list_events(list), Arc::clone(&self.probe));
        Box::pin(async move {
            let page = answer.await;
            probe.after_list.pass().await;
            page
        })
    }

    fn event_bounds(&self) -> Answer<EventBounds> {
        self.inner.event_bounds()
    }

    fn record(&self, event: Event) -> Answer<()> {
        if self.probe.fails_records.load(Ordering::SeqCst) {
            return broken("the test's store fails to record");
        }
        self.inner.record(event)
    }

    fn find_key(&self, id: KeyId) -> Answer<Option<KeyRecord>> {
        self.inner.find_key(id)
    }

    fn list_keys(&self) -> Answer<Vec<KeyRecord>> {
        self.inner.list_keys()
    }

    fn ping(&self) -> Answer<()> {
        self.inner.ping()
    }

    fn queue_len(&self) -> usize {
        self.inner.queue_len()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// A manager over a probed SQLite store.
pub struct Managed {
    pub manager: Arc<SessionManager>,
    pub sqlite: Arc<SqliteStore>,
    pub probe: Arc<Probe>,
    pub clock: Arc<Clock>,
    pub dir: TempDir,
    config: Config,
}

impl Managed {
    /// Records every use, and lets sessions rest 100 s and live 1000 s.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config_in(dir.path());
        config.sessions.touch_interval_secs = 0;
        for policy in config.apps.values_mut() {
            policy.idle_timeout_secs = 100;
            policy.absolute_timeout_secs = 1_000;
        }
        change(&mut config);
        Self::over(dir, config, Arc::new(Clock::manual(START))).await
    }

    async fn over(dir: TempDir, config: Config, clock: Arc<Clock>) -> Self {
        let sqlite = Arc::new(sqlite_in(&dir, config.database.queue_len_max));
        let probe = Arc::new(Probe::default());
        let store = ProbedStore {
            inner: Arc::clone(&sqlite) as Arc<dyn SessionStore>,
            probe: Arc::clone(&probe),
        };
        let metrics = Arc::new(Metrics::new());
        let manager = start_manager(Arc::new(store), &config, &clock, metrics).await;
        Self {
            manager: Arc::new(manager),
            sqlite,
            probe,
            clock,
            dir,
            config,
        }
    }

    /// Goes on with what is in the file: whatever was in memory only is lost, as by a crash.
    pub async fn restart_without_flush(self) -> Self {
        drop(self.manager);
        self.sqlite.close();
        Self::over(self.dir, self.config, self.clock).await
    }

    pub async fn sign_in(&self, name: &str) -> SignedIn {
        let sign_in = SignIn {
            user_id: Some(user(name)),
            ..SignIn::default()
        };
        self.manager
            .create(&app(), sign_in)
            .await
            .expect("the user may sign in")
    }

    pub fn advance(&self, secs: u64) {
        self.clock.advance(std::time::Duration::from_secs(secs));
    }

    pub async fn use_token(&self, token: &Token) -> Checked {
        check(&self.manager, token, Use::Touch(None)).await
    }

    pub async fn look_at(&self, token: &Token) -> Checked {
        check(&self.manager, token, Use::Look).await
    }

    /// Checks in a task of its own.
    pub fn spawn_check(&self, token: &Token, usage: Use) -> tokio::task::JoinHandle<Checked> {
        let (manager, token) = (Arc::clone(&self.manager), token.clone());
        tokio::spawn(async move { check(&manager, &token, usage).await })
    }

    pub async fn revoke(&self, id: SessionId) {
        self.manager
            .revoke(&app(), id, Owner::Anyone, logout())
            .await
            .expect("the session can be revoked");
    }

    /// Types of all events so far.
    pub fn event_types(&self) -> Vec<String> {
        event_rows(&database_in(&self.dir))
            .into_iter()
            .map(|event| event.kind)
            .collect()
    }

    /// The row as it is stored.
    pub async fn stored(&self, id: SessionId) -> Session {
        found(&*self.sqlite, id).await
    }
}

/// A manager over a store, with a key that is the same after a restart.
pub async fn start_manager(
    store: Arc<dyn SessionStore>,
    config: &Config,
    clock: &Arc<Clock>,
    metrics: Arc<Metrics>,
) -> SessionManager {
    SessionManager::new(
        store,
        config,
        Arc::clone(clock),
        ServerKey::from_bytes([7; 32]),
        None,
        metrics,
    )
    .await
    .expect("a manager")
}

pub fn logout() -> sessiond::manager::Revocation {
    sessiond::manager::Revocation::new(Reason::LOGOUT, EndedBy::App)
}

/// What a check found, short enough to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Active, with its latest use.
    Active(Timestamp),
    Refused(&'static str),
    /// Ended, with the reason.
    Ended(String),
}

pub async fn check(manager: &SessionManager, token: &Token, usage: Use) -> Checked {
    let answer = manager.check(&app(), token, usage, &Demands::default()).await;
    match answer.expect("the store can be read") {
        CheckAnswer::Active(session) => Checked::Active(session.last_activity_at()),
        CheckAnswer::Refused(Refusal::SessionEnded(ending)) => {
            Checked::Ended(ending.reason.as_str().to_owned())
        }
        CheckAnswer::Refused(refusal) => Checked::Refused(refusal.code()),
    }
}

pub fn ended(reason: &str) -> Checked {
    Checked::Ended(reason.to_owned())
}
