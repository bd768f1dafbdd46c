//! The one place that sees store, cache, pending touches, enrichers, limits and clock together. Sign-ins are in
//! `sign_ins`, checks and renewals of tokens in `checks`.
//!
//! A check never writes and never waits for the writer: it compares the token's hash with a copy in the cache, or reads
//! the row once, decides from the clock whether the session is over, and notes the use in memory. Every change is one
//! command to the store, whose writer calls back here ([`Hooks`]) in the order that makes "ended means ended" true.

mod checks;
mod refusals;
mod sign_ins;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use self::checks::{CheckAnswer, Demands, Refusal, RenewAnswer, Standing, Use, is_recent};
pub use self::refusals::RefusedCaller;
use self::refusals::RefusedRevocations;
pub use self::sign_ins::{RepeatableCall, SignIn, SignedIn};

use crate::address::IpPrivacy;
use crate::cache::SessionCache;
use crate::clock::{Clock, Timestamp};
use crate::config::{AppConfig, Config};
use crate::data::{DATA_DEPTH_MAX, DATA_LEN_MAX, DataError, DataPath, is_too_deep};
use crate::enrich::location::Locator;
use crate::error::{Error, FieldError};
use crate::event::{Event, WhyRefused};
use crate::metrics::Metrics;
use crate::observer::{Bells, Feed};
use crate::session::{
    AUTH_LEN_MAX, ApiKey, AppName, EndedBy, KeyId, NAME_CHARS_MAX, Reason, Secret, SecretHash, ServerKey,
    Session, SessionId, Touch, is_clean_text, is_identity_key, network_of,
};
use crate::store::{
    AppList, AppPage, BulkEnding, Committed, Cursor, DataOutcome, DataPatch, EndRequest, Erased, Hooks,
    KeyRecord, KnownDevice, Outcome, Owner, Scope, SessionPatch, SessionStore, StatusFilter, UserList,
    UserPage, UserPatch, UserRecord,
};
use crate::touch::PendingTouches;
use crate::user::{SESSIONS_PER_USER_MAX, Tiers, UserId};

/// Sessions that one call of [`SessionManager::revoke_app_sessions`] ends at most: some 10 ms of the writer's time.
pub const APP_REVOKE_BATCH: usize = 500;
/// Touches in one transaction: some 10 ms of the writer's time at a million sessions, so that a sign-in, or a check on the
/// same core, does not wait long for it.
const TOUCHES_PER_COMMIT: usize = 500;
/// Rows that one commit of an erasure takes: some 10 ms of the writer's time, as for the sweeper, so that others come in
/// between.
const ERASED_PER_COMMIT: usize = 50;
/// Commits that one call of [`SessionManager::erase_user`] makes at most: some seconds.
const COMMITS_PER_ERASURE: usize = 200;
/// Why and by whom sessions are ended.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// Why.
    pub reason: Reason,
    /// Who.
    pub by: EndedBy,
}

impl Revocation {
    /// A revocation for one of the reasons of [`Reason`].
    pub fn new(reason: &'static str, by: EndedBy) -> Self {
        Self {
            reason: Reason::known(reason),
            by,
        }
    }
}

/// A user's settings with what follows from them.
#[derive(Debug, Clone)]
pub struct UserView {
    /// Settings and count.
    pub record: UserRecord,
    /// The maximum in force.
    pub effective_max_sessions: u32,
}

/// What the checks and the store's writer share.
struct Held {
    cache: SessionCache,
    touches: PendingTouches,
    metrics: Arc<Metrics>,
    bells: Arc<Bells>,
}

impl Hooks for Held {
    fn due_touches(&self, now: Timestamp) -> Vec<Touch> {
        self.touches.due(now)
    }

    fn pending_touch(&self, id: SessionId) -> Option<Touch> {
        self.touches.get(id)
    }

    fn fence(&self, changed: &[SessionId]) {
        self.cache.fence(changed);
    }

    fn release(&self, changed: &[SessionId]) {
        self.cache.release(changed);
    }

    fn announce(&self, committed: &Committed) {
        // First spoilt, then forgotten: a reader with an older row either still finds the touch or reads again.
        self.cache.note_written(&committed.touched);
        self.touches.written(&committed.touched);
        self.touches
            .forget(committed.ended.iter().map(|session| session.id));
        for ending in committed
            .ended
            .iter()
            .filter_map(|session| session.ending.as_ref())
        {
            let label = [("reason", known_reason(ending.reason.as_str()))];
            self.metrics.sessions_ended.get_or_create(&label).inc();
        }
        self.metrics
            .writer_batch_size
            .observe(committed.batch_size as f64);
        self.metrics
            .writer_commit_seconds
            .observe(committed.commit_time.as_secs_f64());
        // Last: whoever hears of it finds everything above done.
        self.bells.announce(committed);
    }
}

/// A reason as a metric's label: applications may make up reasons, and labels must be few.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 10] = [
        Reason::LOGOUT,
        Reason::LOGOUT_ALL,
        Reason::MANUAL,
        Reason::SESSION_LIMIT_EXCEEDED,
        Reason::IDLE_TIMEOUT,
        Reason::ABSOLUTE_TIMEOUT,
        Reason::USER_BLOCKED,
        Reason::CREDENTIALS_CHANGED,
        Reason::TOKEN_REUSE,
        Reason::USER_ERASED,
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == reason)
        .unwrap_or("other")
}

/// Starts, checks, changes, lists and ends sessions.
pub struct SessionManager {
    store: Arc<dyn SessionStore>,
    held: Arc<Held>,
    feed: Arc<Feed>,
    refusals: RefusedRevocations,
    clock: Arc<Clock>,
    key: ServerKey,
    locator: Option<Arc<Locator>>,
    tiers: Arc<Tiers>,
    apps: BTreeMap<AppName, AppConfig>,
    touch_interval_millis: i64,
    retention_millis: i64,
    ip_privacy: IpPrivacy,
}

impl SessionManager {
    /// A manager over a store. The store is attached to it: one manager per store.
    ///
    /// The clock is raised to the largest time that the store remembers.
    pub async fn new(
        store: Arc<dyn SessionStore>,
        config: &Config,
        clock: Arc<Clock>,
        key: ServerKey,
        locator: Option<Arc<Locator>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        if let Some(stored) = store.high_water().await? {
            clock.raise_to(stored);
        }
        let cache = SessionCache::new(
            config.cache.capacity,
            config.cache.bytes_max,
            metrics.cache.clone(),
        );
        let held = Arc::new(Held {
            cache,
            touches: PendingTouches::default(),
            metrics,
            bells: Arc::default(),
        });
        let feed = Feed::new(Arc::clone(&store), Arc::clone(&held.bells)).await?;
        store.attach(Arc::clone(&held) as Arc<dyn Hooks>);
        Ok(Self {
            store,
            held,
            feed,
            refusals: RefusedRevocations::default(),
            clock,
            key,
            locator,
            tiers: Arc::new(config.tiers.clone()),
            apps: config.apps.clone(),
            touch_interval_millis: millis(config.sessions.touch_interval_secs),
            retention_millis: millis(config.sessions.retention_secs),
            ip_privacy: config.sessions.ip_privacy,
        })
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.held.metrics
    }

    /// The events, as they come.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// The policy of an app; `None` if the configuration does not name it.
    pub fn app(&self, app: &AppName) -> Option<&AppConfig> {
        self.apps.get(app)
    }

    /// All apps.
    pub fn apps(&self) -> &BTreeMap<AppName, AppConfig> {
        &self.apps
    }

    fn policy(&self, app: &AppName) -> Result<&AppConfig, Error> {
        self.apps.get(app).ok_or(Error::NotFound("app"))
    }

    fn unknown_tier(&self) -> String {
        let names: Vec<&str> = self.tiers.names().collect();
        format!("is not a configured tier; those are {}", names.join(", "))
    }

    /// What is kept of an address. Everything that is recorded comes by here.
    fn kept(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        address.and_then(|address| self.ip_privacy.kept(address))
    }

    /// What visitors from an address are counted under. Where addresses are not kept whole a fingerprint of it: a network
    /// that is cut further would have its neighbours pay for it.
    fn visitors_network(&self, address: Option<IpAddr>) -> String {
        let network = network_of(address);
        match self.ip_privacy {
            IpPrivacy::Full => network,
            IpPrivacy::Truncate | IpPrivacy::None => self.key.network_print(&network),
        }
    }

    /// Of the whole address, in memory: the place is coarser than what is kept.
    fn locate(&self, address: Option<IpAddr>) -> Option<crate::session::Place> {
        self.locator.as_ref()?.locate(address?)
    }

    /// One session of the app, if it is the owner's; whatever its state.
    pub async fn find(&self, app: &AppName, id: SessionId, owner: &Owner) -> Result<Session, Error> {
        // Asked for before the row is read: a flush that commits meanwhile takes it away, and the row may lack it.
        let pending = self.held.touches.get(id);
        let session = self.store.find(id).await?;
        let session = session
            .filter(|session| session.app == *app && owner.owns(session))
            .ok_or(Error::NotFound("session"))?;
        Ok(self.with_touches(session, pending))
    }

    /// The active session with the id that the client chose.
    pub async fn find_client_session(&self, app: &AppName, client_session_id: i64) -> Result<Session, Error> {
        let now = self.settled_now().await;
        let session = self.store.find_client(app.clone(), client_session_id).await?;
        session
            .map(|session| self.with_pending(session))
            .filter(|session| session.is_active(now))
            .ok_or(Error::NotFound("session"))
    }

    /// Ends the active session with the id that the client chose.
    pub async fn revoke_client_session(
        &self,
        app: &AppName,
        client_session_id: i64,
        revocation: Revocation,
    ) -> Result<(), Error> {
        let session = self.find_client_session(app, client_session_id).await?;
        let request = self.end_request(revocation);
        // By the session's own id: of two who end it at once one finds it ended, and no later one of the same id suffers.
        match self
            .store
            .end(app.clone(), session.id, Owner::Anyone, request)
            .await?
        {
            Outcome::Done(_) => Ok(()),
            _ => Err(Error::NotFound("session")),
        }
    }

    /// What is at a place in an active session's data, or all of it, and the data's version.
    pub async fn find_data(
        &self,
        app: &AppName,
        id: SessionId,
        at: Option<&DataPath>,
    ) -> Result<(serde_json::Value, u64), Error> {
        let pending = self.held.touches.get(id);
        let found = self.store.find_data(id).await?;
        let (session, data) = found
            .filter(|(session, _)| session.app == *app)
            .ok_or(Error::NotFound("session"))?;
        let session = self.with_touches(session, pending);
        match session.ending_as_of(self.clock.now()) {
            Some(ending) => Err(Error::SessionEnded(ending)),
            None => Ok((data.get(at), session.data_version)),
        }
    }

    /// Changes an active session's data; answers what is at the place now, or was taken, and the data's version.
    pub async fn change_data(
        &self,
        app: &AppName,
        id: SessionId,
        patch: DataPatch,
    ) -> Result<(serde_json::Value, u64), Error> {
        let now = self.clock.now();
        match self.store.change_data(app.clone(), id, patch, now).await? {
            DataOutcome::Done { value, version } => Ok((value, version)),
            DataOutcome::VersionMismatch { version } => Err(Error::VersionMismatch { version }),
            DataOutcome::Refused(error) => Err(data_error(error, "body")),
            DataOutcome::AlreadyEnded(session) => Err(over(&session, now)),
            DataOutcome::NotFound => Err(Error::NotFound("session")),
        }
    }

    /// Changes an active session.
    pub async fn update(
        &self,
        app: &AppName,
        id: SessionId,
        owner: Owner,
        patch: SessionPatch,
    ) -> Result<Session, Error> {
        if let Some(Some(name)) = &patch.name
            && !is_clean_text(name, NAME_CHARS_MAX)
        {
            return Err(Error::invalid("name", name_rule()));
        }
        if let Some(identity) = &patch.identity
            && !is_identity_key(&identity.key)
        {
            return Err(Error::NotFound("identity"));
        }
        // All of them are kept as one text, a level above each: what cannot be read again would take the others with it.
        if let Some(identity) = patch.identity.as_ref().and_then(|patch| patch.identity.as_ref())
            && is_too_deep(identity)
        {
            return Err(data_error(DataError::TooDeep, "body"));
        }
        let now = self.clock.now();
        match self.store.update(app.clone(), id, owner, patch, now).await? {
            Outcome::Done(session) => Ok(self.with_pending(session)),
            Outcome::AlreadyEnded(session) => Err(over(&session, now)),
            Outcome::NotFound => Err(Error::NotFound("session")),
            Outcome::TooLong => {
                let rule = format!("all of them together may have {AUTH_LEN_MAX} bytes of JSON at most");
                Err(Error::invalid("identities", rule))
            }
        }
    }

    /// Ends one session of the app, if it is the owner's; ending it again changes nothing.
    pub async fn revoke(
        &self,
        app: &AppName,
        id: SessionId,
        owner: Owner,
        revocation: Revocation,
    ) -> Result<(), Error> {
        let request = self.end_request(revocation);
        match self.store.end(app.clone(), id, owner, request).await? {
            Outcome::Done(_) | Outcome::AlreadyEnded(_) => Ok(()),
            Outcome::NotFound | Outcome::TooLong => Err(Error::NotFound("session")),
        }
    }

    /// Ends a user's sessions, all or all but one; answers how many.
    pub async fn revoke_user_sessions(
        &self,
        app: &AppName,
        user_id: UserId,
        except: Option<SessionId>,
        revocation: Revocation,
    ) -> Result<u64, Error> {
        let request = self.end_request(revocation);
        let scope = Scope::User { user_id, except };
        Ok(self
            .store
            .end_many(app.clone(), scope, request)
            .await?
            .revoked_count)
    }

    /// Ends up to [`APP_REVOKE_BATCH`] sessions of everybody in the app.
    pub async fn revoke_app_sessions(
        &self,
        app: &AppName,
        revocation: Revocation,
    ) -> Result<BulkEnding, Error> {
        let request = self.end_request(revocation);
        self.store
            .end_many(
                app.clone(),
                Scope::App {
                    limit: APP_REVOKE_BATCH,
                },
                request,
            )
            .await
    }

    /// Notes that somebody known was refused to end a session. An event tells of it, at most one a caller and minute; nobody
    /// waits for it, and a refusal is the same whether or not it can be written.
    pub fn note_refused_revocation(&self, refused: RefusedCaller<'_>, why: WhyRefused) {
        let now = self.clock.now();
        if let Some(told) = self.refusals.note(refused, why, now) {
            // Queued by the call itself.
            drop(self.store.record(told.event(now)));
        }
    }

    /// Tells of refusals that were counted, of up to `limit` callers; answers of how many. What cannot be told stays counted.
    pub async fn tell_refused_revocations(&self, limit: usize) -> Result<usize, Error> {
        let now = self.clock.now();
        let due = self.refusals.due(now, limit);
        let count = due.len();
        // All are queued before the first is waited for: they share a commit.
        let queued: Vec<_> = due
            .into_iter()
            .map(|told| (self.store.record(told.event(now)), told))
            .collect();
        let mut result = Ok(count);
        for (recorded, told) in queued {
            if let Err(error) = recorded.await {
                self.refusals.put_back(told);
                result = Err(error);
            }
        }
        result
    }

    /// Tells that an address sent so many wrong tokens and API keys, the latest of them to this app. How often that is told is
    /// the caller's to bound; nobody waits for it.
    pub fn tell_wrong_credentials(&self, app: &AppName, address: Option<IpAddr>, count: u64) {
        let location = self.locate(address).map(|place| place.info().to_string());
        let (now, address) = (self.clock.now(), self.kept(address));
        // Queued by the call itself.
        drop(
            self.store
                .record(Event::of_wrong_credentials(app, address, location, count, now)),
        );
    }

    fn end_request(&self, revocation: Revocation) -> EndRequest {
        EndRequest {
            now: self.clock.now(),
            reason: revocation.reason,
            by: revocation.by,
        }
    }

    /// A page of one user's sessions, newest sign-in first.
    pub async fn list_user(
        &self,
        app: &AppName,
        user_id: UserId,
        status: StatusFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<UserPage, Error> {
        let now = self.settled_now().await;
        let list = UserList {
            now,
            app: app.clone(),
            user_id,
            status,
            after,
            limit,
        };
        let mut page = self.store.list_user(list).await?;
        page.sessions = page
            .sessions
            .into_iter()
            .map(|session| self.with_pending(session))
            .collect();
        Ok(page)
    }

    /// A page of the app's sessions, newest first.
    pub async fn list_app(
        &self,
        app: &AppName,
        anonymous: bool,
        status: StatusFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<AppPage, Error> {
        let now = self.settled_now().await;
        let mut page = self
            .store
            .list_app(AppList {
                now,
                app: app.clone(),
                anonymous,
                status,
                after,
                limit,
            })
            .await?;
        page.sessions = page
            .sessions
            .into_iter()
            .map(|session| self.with_pending(session))
            .collect();
        Ok(page)
    }

    /// A user's settings and count.
    pub async fn find_user(&self, app: &AppName, user_id: UserId) -> Result<UserView, Error> {
        let now = self.settled_now().await;
        let record = self.store.find_user(app.clone(), user_id, now).await?;
        Ok(self.view(record))
    }

    /// Changes a user's settings.
    pub async fn update_user(
        &self,
        app: &AppName,
        user_id: UserId,
        patch: UserPatch,
        by: EndedBy,
    ) -> Result<UserView, Error> {
        let mut errors = Vec::new();
        if let Some(Some(tier)) = &patch.tier
            && !self.tiers.contains(tier)
        {
            errors.push(FieldError::new("tier", self.unknown_tier()));
        }
        if patch
            .max_sessions
            .flatten()
            .is_some_and(|max| max > SESSIONS_PER_USER_MAX)
        {
            let rule = format!("must be between 0 and {SESSIONS_PER_USER_MAX}");
            errors.push(FieldError::new("max_sessions", rule));
        }
        if !errors.is_empty() {
            return Err(Error::Invalid(errors));
        }
        let now = self.clock.now();
        let record = self
            .store
            .update_user(app.clone(), user_id, patch, by, now)
            .await?;
        Ok(self.view(record))
    }

    /// Erases what is kept of a user, after ending their sessions; what was erased, and whether to call again for the rest.
    /// Stopped anywhere, the next call goes on.
    ///
    /// The sessions end in a commit of their own first, so that whoever follows the events may hear of it. What somebody
    /// has not read by then is lost to them: it would name the user.
    pub async fn erase_user(&self, app: &AppName, user_id: UserId, by: EndedBy) -> Result<Erased, Error> {
        let ending = Revocation::new(Reason::USER_ERASED, by);
        self.revoke_user_sessions(app, user_id.clone(), None, ending.clone())
            .await?;
        // Not before: until then they could be refused something by their sessions, which would be told later.
        self.refusals.forget(app, &user_id);
        let mut all = Erased::default();
        for _ in 0..COMMITS_PER_ERASURE {
            let request = self.end_request(ending.clone());
            let erased = self
                .store
                .erase_user(app.clone(), user_id.clone(), request, ERASED_PER_COMMIT)
                .await?;
            all = Erased {
                sessions: all.sessions + erased.sessions,
                events: all.events + erased.events,
                more: erased.more,
            };
            if !erased.more {
                // What a backend was refused in their name meanwhile.
                self.refusals.forget(app, &user_id);
                break;
            }
        }
        Ok(all)
    }

    /// What a user signed in with.
    pub async fn list_devices(&self, app: &AppName, user_id: UserId) -> Result<Vec<KnownDevice>, Error> {
        self.store.list_devices(app.clone(), user_id).await
    }

    fn view(&self, record: UserRecord) -> UserView {
        UserView {
            effective_max_sessions: self.tiers.effective_max_sessions(&record.settings),
            record,
        }
    }

    /// The present moment, after touches were written that keep sessions alive which the store would take for over.
    async fn settled_now(&self) -> Timestamp {
        let now = self.clock.now();
        if self.held.touches.any_due(now) {
            // If they cannot be written, what is read may lack sessions used lately; the flush tells and tries again.
            // Nothing of its own: the writer begins every batch with those that are due.
            if self.store.write_touches(Vec::new(), now).await.is_err() {
                self.held.metrics.touch_flush_failures.inc();
            }
        }
        now
    }

    /// Makes an API key for an app. The key is in the answer and nowhere else.
    pub async fn create_key(&self, app: &AppName, name: &str) -> Result<(KeyRecord, ApiKey), Error> {
        if !self.apps.contains_key(app) {
            return Err(Error::invalid(
                "app",
                format!("there is no [apps.{app}] in the configuration"),
            ));
        }
        if !is_clean_text(name, NAME_CHARS_MAX) {
            return Err(Error::invalid("name", name_rule()));
        }
        let key = ApiKey::new(KeyId::random(), Secret::random());
        let record = KeyRecord {
            id: key.id(),
            app: app.clone(),
            name: name.to_owned(),
            hash: key.hash(),
            created_at: self.clock.now(),
            revoked_at: None,
        };
        self.store.create_key(record.clone()).await?;
        Ok((record, key))
    }

    /// All API keys, oldest first.
    pub async fn list_keys(&self) -> Result<Vec<KeyRecord>, Error> {
        self.store.list_keys().await
    }

    /// Revokes an API key: the very next call with it is refused, as keys are read for each call.
    pub async fn revoke_key(&self, id: KeyId) -> Result<(), Error> {
        match self.store.revoke_key(id, self.clock.now()).await? {
            true => Ok(()),
            false => Err(Error::NotFound("API key")),
        }
    }

    /// The app a key acts in; `None` if it is unknown, revoked, or its app is no longer configured.
    pub async fn app_of_key(&self, key: &ApiKey) -> Result<Option<AppName>, Error> {
        let presented = key.hash();
        let record = self.store.find_key(key.id()).await?;
        let expected = record.as_ref().map_or(SecretHash::DUMMY, |record| record.hash);
        let is_right = expected.matches(&presented);
        let record = record.filter(|record| is_right && record.revoked_at.is_none());
        Ok(record
            .map(|record| record.app)
            .filter(|app| self.apps.contains_key(app)))
    }

    /// Writes all pending touches. Those that cannot be written stay, and keep no others from being written.
    pub async fn flush_touches(&self) -> Result<(), Error> {
        let now = self.clock.now();
        let touches = self.held.touches.all();
        let mut result = Ok(());
        for some in touches.chunks(TOUCHES_PER_COMMIT) {
            let written = self.store.write_touches(some.to_vec(), now).await;
            if written.is_err() {
                self.held.metrics.touch_flush_failures.inc();
            }
            result = result.and(written);
        }
        result
    }

    /// Writes down up to `limit` passed deadlines; answers how many, or `limit` if there may be more.
    pub async fn expire_overdue(&self, limit: usize) -> Result<usize, Error> {
        self.store.expire(self.clock.now(), limit).await
    }

    /// Tells of up to `limit` sessions that a deadline is near; answers how many were looked at.
    pub async fn tell_expiring(&self, limit: usize) -> Result<usize, Error> {
        self.store.tell_expiring(self.clock.now(), limit).await
    }

    /// Deletes up to `limit` sessions and events whose retention is over; answers how many.
    pub async fn purge_old(&self, limit: usize) -> Result<usize, Error> {
        let now = self.clock.now();
        self.store
            .purge(now.plus_millis(-self.retention_millis), limit, now)
            .await
    }

    /// Reads a newer location file, if there is one.
    pub fn reload_location(&self) {
        if let Some(locator) = &self.locator {
            locator.reload_if_changed();
        }
    }

    /// Whether the store can be read.
    pub async fn ping(&self) -> Result<(), Error> {
        self.store.ping().await
    }

    /// What is counted, as text for a scraper.
    pub fn render_metrics(&self) -> String {
        let waiting = i64::try_from(self.store.queue_len()).unwrap_or(i64::MAX);
        self.held.metrics.writer_queue_length.set(waiting);
        self.held.metrics.render()
    }

    /// Writes what is pending, then closes the store. To be called once nothing else calls.
    pub async fn close(&self) {
        if let Err(error) = self.flush_touches().await {
            log::error!("the last uses of some sessions could not be written: {error}");
        }
        // A session that somebody was told is over must stay so, also if the clock is set back while nothing runs. One
        // passed deadline is enough to write: the time goes with it, and after the start the clock is not earlier.
        if let Err(error) = self.expire_overdue(1).await {
            log::error!("the time until which sessions were over could not be written: {error}");
        }
        let store = Arc::clone(&self.store);
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            log::error!("the store failed while it was closed");
        }
    }
}

/// That a session is over which a change was meant for.
fn over(session: &Session, now: Timestamp) -> Error {
    match session.ending_as_of(now) {
        Some(ending) => Error::SessionEnded(ending),
        None => Error::store("a session was refused as ended that has no ending"),
    }
}

/// Why data was refused, of the field it came in.
pub fn data_error(error: DataError, field: &str) -> Error {
    match error {
        DataError::NotAnObject => Error::invalid(field, "must be an object"),
        DataError::ListOnPath => Error::invalid("path", "leads into a list; put the whole list"),
        DataError::TooDeep => Error::invalid(field, format!("may have {DATA_DEPTH_MAX} levels at most")),
        DataError::TooLong => Error::TooLarge { max: DATA_LEN_MAX },
    }
}

fn name_rule() -> String {
    format!("must be 1 to {NAME_CHARS_MAX} characters without control characters")
}

/// Seconds in milliseconds, stopping at the end of the range.
fn millis(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000)
}
