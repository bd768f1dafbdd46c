//! The one place that sees store, cache, pending touches, enrichers, limits and clock together.
//!
//! A check never writes and never waits for the writer: it compares the token's hash with a copy in the cache, or reads
//! the row once, decides from the clock whether the session is over, and notes the use in memory. Every change is one
//! command to the store, whose writer calls back here ([`Hooks`]) in the order that makes "ended means ended" true.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cache::{CachedSession, Filled, SessionCache};
use crate::clock::{Clock, Timestamp};
use crate::config::{AppConfig, Config};
use crate::data::{DATA_DEPTH_MAX, DATA_LEN_MAX, Data, DataError, DataPath};
use crate::enrich::{device, location::Locator};
use crate::error::{Error, FieldError};
use crate::metrics::Metrics;
use crate::session::{
    AUTH_LEN_MAX, ApiKey, AppName, Auth, ClientHints, EndedBy, Ending, Grace, KeyId, NAME_CHARS_MAX, Nonce,
    Reason, Replaced, Secret, SecretHash, ServerKey, Session, SessionId, SuccessorSeen, Timeouts, Token,
    Touch, WhichToken, bounded_user_agent, is_clean_text, is_identity_key, network_of,
};
use crate::store::{
    AppList, AppPage, Authenticated, Authentication, BulkEnding, ClientId, Committed, Creation, Cursor,
    DataOutcome, DataPatch, EndRequest, Hooks, Idempotency, KeyRecord, NewSession, Outcome, Owner,
    REPORT_INTERVAL_MILLIS, Refused, Renewal, Renewed, Scope, SessionPatch, SessionStore, StatusFilter,
    UserList, UserPage, UserPatch, UserRecord, Visitor,
};
use crate::touch::PendingTouches;
use crate::user::{SESSIONS_PER_USER_MAX, Tiers, UserId};

/// Sessions that one call of [`SessionManager::revoke_app_sessions`] ends at most: some 10 ms of the writer's time.
pub const APP_REVOKE_BATCH: usize = 500;
/// Touches in one transaction: some 25 ms of the writer's time at a million sessions.
const TOUCHES_PER_COMMIT: usize = 5_000;
/// Sessions that a sign-in can name to be ended for it: as many as a refusal lists.
const END_IDS_MAX: usize = crate::store::REFUSED_LIST_LEN_MAX;
/// After how many seconds a visitor may ask again whom an app had no room for: some sessions have ended by then.
const NO_ROOM_RETRY_SECS: u64 = 60;
/// How often a row is read again because its session changed while it was read.
const READS_PER_CHECK_MAX: usize = 3;

/// A session to be started.
#[derive(Debug, Clone, Default)]
pub struct SignIn {
    /// The person; `None` starts an anonymous session.
    pub user_id: Option<UserId>,
    /// From where.
    pub ip_address: Option<IpAddr>,
    /// The browser's user agent.
    pub user_agent: Option<String>,
    /// The browser's client hints.
    pub client_hints: ClientHints,
    /// A tier to store for the user.
    pub tier: Option<String>,
    /// What the application keeps about the sign-in.
    pub auth: Option<Auth>,
    /// A name for the session.
    pub name: Option<String>,
    /// Shorter idle timeout than the policy's, in seconds.
    pub idle_timeout_secs: Option<u64>,
    /// Shorter absolute timeout than the policy's, in seconds.
    pub absolute_timeout_secs: Option<u64>,
    /// Whether the policy's pair for remembered devices applies.
    pub remember: bool,
    /// When the credentials were verified; `None` is now.
    pub authenticated_at: Option<Timestamp>,
    /// Sessions of the user that end with the sign-in, before the limit is looked at. Others' are left alone.
    pub end_ids: Vec<SessionId>,
    /// What the application keeps in the session.
    pub data: Option<Data>,
}

/// A call that is to do once what it is made several times for.
#[derive(Debug, Clone)]
pub struct RepeatableCall {
    /// Who calls; repetitions by others are other calls.
    pub api_key: ApiKey,
    /// The caller's name for the call.
    pub key: String,
    /// All that is asked for.
    pub body: Vec<u8>,
}

/// What a session is started by.
enum Start<'c> {
    Backend,
    Call(&'c RepeatableCall),
    Client(i64),
    Visitor,
}

/// A session that was started by a visitor, a client or a backend, or was there.
enum Started {
    New(SignedIn),
    Existed(Session),
}

/// A session that was started.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The session.
    pub session: Session,
    /// Its token: shown to the holder now, and never again.
    pub token: Token,
    /// Sessions of the same user that were evicted for it.
    pub evicted: Vec<Session>,
    /// Whether it was started by the same call before; then nothing happened now.
    pub is_repeated: bool,
}

/// What became of a renewal.
#[derive(Debug, Clone)]
pub enum RenewAnswer {
    /// The session and the token that is to be used from now on.
    Renewed {
        /// The session, after this use.
        session: Box<Session>,
        /// Its token: shown to the holder now.
        token: Token,
    },
    /// The presented token is not good.
    Refused(Refusal),
}

/// Whether a check counts as a use of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It does, from this address if one is known.
    Touch(Option<IpAddr>),
    /// It does not.
    Look,
}

/// What a check demands beside a good token.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// A sign-in not older than this, in seconds.
    pub max_auth_age_secs: Option<u64>,
    /// Tags that `auth.tags` must contain, all of them.
    pub tags: Vec<String>,
}

/// What a check found.
#[derive(Debug, Clone)]
pub enum CheckAnswer {
    /// The token is good; the session with its latest use.
    Active(Arc<CachedSession>),
    /// It is not.
    Refused(Refusal),
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown, of another app, or with a wrong secret: nobody learns which.
    InvalidToken,
    /// The session has another token since, and the time in which this one was good as well is over.
    TokenReplaced,
    /// The session has ended; only the holder of the right secret is told.
    SessionEnded(Ending),
    /// The sign-in is too old for what is asked.
    ReauthenticationRequired,
    /// The session lacks a demanded tag.
    MissingTag,
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::TokenReplaced => "token_replaced",
            Self::SessionEnded(_) => "session_ended",
            Self::ReauthenticationRequired => "reauthentication_required",
            Self::MissingTag => "missing_tag",
        }
    }

    /// The same in a sentence.
    pub fn detail(&self) -> &'static str {
        match self {
            Self::InvalidToken => "This is not the token of any session here.",
            Self::TokenReplaced => "The session has a newer token, and this one is no longer good.",
            Self::SessionEnded(_) => "The session has ended.",
            Self::ReauthenticationRequired => "This needs a more recent sign-in.",
            Self::MissingTag => "The session does not have every demanded tag.",
        }
    }
}

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
}

impl Hooks for Held {
    fn due_touches(&self, now: Timestamp) -> Vec<Touch> {
        self.touches.due(now)
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
    }
}

/// A reason as a metric's label: applications may make up reasons, and labels must be few.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 9] = [
        Reason::LOGOUT,
        Reason::LOGOUT_ALL,
        Reason::MANUAL,
        Reason::SESSION_LIMIT_EXCEEDED,
        Reason::IDLE_TIMEOUT,
        Reason::ABSOLUTE_TIMEOUT,
        Reason::USER_BLOCKED,
        Reason::CREDENTIALS_CHANGED,
        Reason::TOKEN_REUSE,
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
    clock: Arc<Clock>,
    key: ServerKey,
    locator: Option<Arc<Locator>>,
    tiers: Arc<Tiers>,
    apps: BTreeMap<AppName, AppConfig>,
    touch_interval_millis: i64,
    retention_millis: i64,
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
        });
        store.attach(Arc::clone(&held) as Arc<dyn Hooks>);
        Ok(Self {
            store,
            held,
            clock,
            key,
            locator,
            tiers: Arc::new(config.tiers.clone()),
            apps: config.apps.clone(),
            touch_interval_millis: millis(config.sessions.touch_interval_secs),
            retention_millis: millis(config.sessions.retention_secs),
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

    /// Starts a session.
    pub async fn create(&self, app: &AppName, sign_in: SignIn) -> Result<SignedIn, Error> {
        self.start_new(app, sign_in, Start::Backend).await
    }

    /// Starts a session, once for all calls that are the same within a day: a repetition gets the same session and the
    /// same token, as long as both are good.
    pub async fn create_repeatably(
        &self,
        app: &AppName,
        sign_in: SignIn,
        call: &RepeatableCall,
    ) -> Result<SignedIn, Error> {
        self.start_new(app, sign_in, Start::Call(call)).await
    }

    /// Starts a session for a visitor who asks for it by themselves. What visitors may start is bounded.
    pub async fn create_for_visitor(&self, app: &AppName, sign_in: SignIn) -> Result<SignedIn, Error> {
        self.start_new(app, sign_in, Start::Visitor).await
    }

    /// The active session with the id that the client chose: started if there is none, else used, whatever `sign_in`
    /// says. Answers whether it was started. Its token is not told: the id is what the client has.
    pub async fn ensure_client_session(
        &self,
        app: &AppName,
        client_session_id: i64,
        sign_in: SignIn,
    ) -> Result<(Session, bool), Error> {
        let address = sign_in.ip_address;
        match self.start(app, sign_in, Start::Client(client_session_id)).await? {
            Started::New(signed_in) => Ok((signed_in.session, true)),
            Started::Existed(session) => Ok((self.used(session, address), false)),
        }
    }

    async fn start_new(&self, app: &AppName, sign_in: SignIn, start: Start<'_>) -> Result<SignedIn, Error> {
        match self.start(app, sign_in, start).await? {
            Started::New(signed_in) => Ok(signed_in),
            Started::Existed(_) => Err(Error::store("a session was found that was not asked for")),
        }
    }

    async fn start(&self, app: &AppName, sign_in: SignIn, start: Start<'_>) -> Result<Started, Error> {
        let policy = self.policy(app)?;
        let now = self.clock.now();
        self.validate(&sign_in, now)?;
        let mut timeouts = asked_timeouts(policy, &sign_in);
        let (secret, idempotency) = match start {
            Start::Call(call) => {
                let nonce = Nonce::random();
                let idempotency = Idempotency {
                    api_key: call.api_key.id(),
                    key: call.api_key.fingerprint("idempotency key", call.key.as_bytes()),
                    body: call.api_key.fingerprint("body", &call.body),
                    nonce,
                };
                (call.api_key.session_secret(&nonce), Some(idempotency))
            }
            Start::Backend | Start::Client(_) | Start::Visitor => (Secret::random(), None),
        };
        let visitor = matches!(start, Start::Visitor).then(|| Visitor {
            network: network_of(sign_in.ip_address),
            per_hour: policy.anonymous_per_hour,
            total_max: policy.anonymous_max,
        });
        if visitor.is_some() {
            let idle_millis = millis(policy.anonymous_idle_timeout_secs);
            timeouts.idle_millis = timeouts.idle_millis.min(idle_millis);
        }
        let client = match start {
            Start::Client(id) => Some(ClientId {
                id,
                total_max: policy.client_sessions_max,
            }),
            _ => None,
        };
        let user_agent = sign_in.user_agent.as_deref().and_then(bounded_user_agent);
        let is_anonymous = sign_in.user_id.is_none();
        let new = NewSession {
            now,
            app: app.clone(),
            user_id: sign_in.user_id,
            token_hash: secret.hash(),
            name: sign_in.name,
            device: device::describe(user_agent.as_deref(), &sign_in.client_hints),
            user_agent,
            place: self.locate(sign_in.ip_address),
            ip_address: sign_in.ip_address,
            timeouts,
            authenticated_at: if is_anonymous {
                None
            } else {
                sign_in.authenticated_at.or(Some(now))
            },
            auth: sign_in.auth,
            tier: sign_in.tier,
            tiers: Arc::clone(&self.tiers),
            on_limit: policy.on_limit,
            end_ids: sign_in.end_ids,
            data: sign_in.data,
            client,
            visitor,
            idempotency,
        };
        let signed_in = |session: Box<Session>, secret, evicted, is_repeated| {
            Started::New(SignedIn {
                token: Token::new(session.id, secret),
                session: *session,
                evicted,
                is_repeated,
            })
        };
        match self.store.create(new).await? {
            Creation::Created { session, evicted } => Ok(signed_in(session, secret, evicted, false)),
            Creation::Repeated { session, nonce } => match start {
                Start::Call(call) => {
                    let session = Box::new(self.with_pending(*session));
                    Ok(signed_in(
                        session,
                        call.api_key.session_secret(&nonce),
                        Vec::new(),
                        true,
                    ))
                }
                _ => Err(Error::store("a call was taken for a repetition that is none")),
            },
            Creation::Existed(session) => Ok(Started::Existed(*session)),
            Creation::Refused(refused) => Err(refused.into()),
            Creation::IdempotencyKeyReused => Err(Error::IdempotencyKeyReused),
            Creation::IdempotencySessionChanged => Err(Error::IdempotencySessionChanged),
            Creation::TooManyVisitors { retry_at } => Err(Error::TooManyRequests {
                retry_after_secs: secs_until(retry_at, now),
            }),
            Creation::AppFull => Err(match client {
                Some(client) => Error::ClientSessionLimitReached {
                    max: client.total_max,
                },
                None => Error::TooManyRequests {
                    retry_after_secs: NO_ROOM_RETRY_SECS,
                },
            }),
        }
    }

    /// Gives a session that is nobody's to a user, or lets its user sign in again: the same session with a new token and
    /// new deadlines, and every older token is dead at once.
    pub async fn authenticate(
        &self,
        app: &AppName,
        id: SessionId,
        user_id: UserId,
        sign_in: SignIn,
    ) -> Result<SignedIn, Error> {
        let policy = self.policy(app)?;
        let now = self.clock.now();
        let sign_in = SignIn {
            user_id: Some(user_id.clone()),
            ..sign_in
        };
        self.validate(&sign_in, now)?;
        let timeouts = asked_timeouts(policy, &sign_in);
        let secret = Secret::random();
        let user_agent = sign_in.user_agent.as_deref().and_then(bounded_user_agent);
        let authentication = Authentication {
            now,
            app: app.clone(),
            id,
            user_id,
            token_hash: secret.hash(),
            user_agent: user_agent.map(|text| {
                let device = device::describe(Some(&text), &sign_in.client_hints);
                (text, device)
            }),
            ip_address: sign_in.ip_address,
            place: self.locate(sign_in.ip_address),
            timeouts,
            authenticated_at: sign_in.authenticated_at.unwrap_or(now),
            auth: sign_in.auth,
            tier: sign_in.tier,
            tiers: Arc::clone(&self.tiers),
            on_limit: policy.on_limit,
            end_ids: sign_in.end_ids,
        };
        match self.store.authenticate(authentication).await? {
            Authenticated::Done { session, evicted } => Ok(SignedIn {
                token: Token::new(session.id, secret),
                session: *session,
                evicted,
                is_repeated: false,
            }),
            Authenticated::OtherUser => Err(Error::SessionHasOtherUser),
            Authenticated::Refused(refused) => Err(refused.into()),
            Authenticated::AlreadyEnded(session) => Err(over(&session, now)),
            Authenticated::NotFound => Err(Error::NotFound("session")),
        }
    }

    /// Renews a token. Everyone who presents the same one gets the same successor, and the presented one stays good until
    /// some time after that was first presented. Counts as a use, from this address if one is known.
    pub async fn renew(
        &self,
        app: &AppName,
        token: &Token,
        address: Option<IpAddr>,
    ) -> Result<RenewAnswer, Error> {
        let policy = self.policy(app)?;
        let mut lost = None;
        loop {
            let now = self.clock.now();
            let nonce = Nonce::random();
            let renewal = Renewal {
                now,
                app: app.clone(),
                id: token.id(),
                presented: token.hash(),
                nonce,
                successor: token.successor(&self.key, &nonce).hash(),
                lost,
                grace_millis: millis(policy.renew_grace_secs),
                on_reuse: policy.on_token_reuse,
            };
            let refusal = match self.store.renew(renewal).await? {
                Renewed::Successor { session, nonce } => {
                    let successor = token.successor(&self.key, &nonce);
                    if successor.hash() == session.token_hash {
                        return Ok(RenewAnswer::Renewed {
                            session: Box::new(self.used(*session, address)),
                            token: successor,
                        });
                    }
                    // It was made with another key file, and cannot be made again. Nobody has it if it was not seen.
                    if lost.is_none() {
                        lost = Some(nonce);
                        continue;
                    }
                    Refusal::TokenReplaced
                }
                Renewed::Unchanged(session) => {
                    return Ok(RenewAnswer::Renewed {
                        session: Box::new(self.used(*session, address)),
                        token: token.clone(),
                    });
                }
                Renewed::Reused(session) => match session.ending {
                    Some(ending) => Refusal::SessionEnded(ending),
                    None => Refusal::TokenReplaced,
                },
                Renewed::Replaced => Refusal::TokenReplaced,
                Renewed::AlreadyEnded(session) => match session.ending_as_of(now) {
                    Some(ending) => Refusal::SessionEnded(ending),
                    None => return Err(Error::store("a session was refused as ended that has no ending")),
                },
                Renewed::Unknown => Refusal::InvalidToken,
            };
            return Ok(RenewAnswer::Refused(refusal));
        }
    }

    /// A session that was just read, after a use that is noted now.
    fn used(&self, session: Session, address: Option<IpAddr>) -> Session {
        let entry = Arc::new(CachedSession::new(self.with_pending(session)));
        self.record_use(entry, self.clock.now(), address).to_session()
    }

    fn validate(&self, sign_in: &SignIn, now: Timestamp) -> Result<(), Error> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, message: String| errors.push(FieldError::new(field, message));
        if let Some(tier) = &sign_in.tier {
            if !self.tiers.contains(tier) {
                wrong("tier", self.unknown_tier());
            } else if sign_in.user_id.is_none() {
                wrong(
                    "tier",
                    "is stored for a user; an anonymous session has none".to_owned(),
                );
            }
        }
        if let Some(name) = &sign_in.name
            && !is_clean_text(name, NAME_CHARS_MAX)
        {
            wrong("name", name_rule());
        }
        if let Some(at) = sign_in.authenticated_at {
            if sign_in.user_id.is_none() {
                wrong(
                    "authenticated_at",
                    "needs a user; an anonymous session is not authenticated".to_owned(),
                );
            } else if at > now {
                wrong(
                    "authenticated_at",
                    format!("is in the future; the server's time is {now}"),
                );
            }
        }
        if sign_in.end_ids.len() > END_IDS_MAX {
            wrong("end_ids", format!("may have {END_IDS_MAX} ids at most"));
        } else if !sign_in.end_ids.is_empty() && sign_in.user_id.is_none() {
            wrong(
                "end_ids",
                "are a user's; an anonymous session has none".to_owned(),
            );
        }
        let timeouts = [
            ("idle_timeout_secs", sign_in.idle_timeout_secs),
            ("absolute_timeout_secs", sign_in.absolute_timeout_secs),
        ];
        for (field, value) in timeouts {
            if value == Some(0) {
                wrong(field, "must be at least 1".to_owned());
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(errors))
        }
    }

    fn unknown_tier(&self) -> String {
        let names: Vec<&str> = self.tiers.names().collect();
        format!("is not a configured tier; those are {}", names.join(", "))
    }

    fn locate(&self, address: Option<IpAddr>) -> Option<crate::session::Place> {
        self.locator.as_ref()?.locate(address?)
    }

    /// Checks a token of this app.
    pub async fn check(
        &self,
        app: &AppName,
        token: &Token,
        usage: Use,
        demands: &Demands,
    ) -> Result<CheckAnswer, Error> {
        let presented = token.hash();
        let entry = match self.held.cache.get(token.id()) {
            Some(entry) => Some(entry),
            None => self.load(token.id()).await?,
        };
        let answer = self.judge(app, entry, presented, usage, demands);
        let result = match &answer {
            CheckAnswer::Active(_) => "active",
            CheckAnswer::Refused(refusal) => refusal.code(),
        };
        self.held
            .metrics
            .checks
            .get_or_create(&[("result", result)])
            .inc();
        Ok(answer)
    }

    fn judge(
        &self,
        app: &AppName,
        entry: Option<Arc<CachedSession>>,
        presented: SecretHash,
        usage: Use,
        demands: &Demands,
    ) -> CheckAnswer {
        // An unknown id is compared too, so that it takes as long as a known one.
        let which = entry.as_ref().map_or_else(
            || compare_in_vain(&presented),
            |entry| entry.which_token(&presented),
        );
        let entry = entry.filter(|entry| entry.row().app == *app);
        let (Some(entry), Some(which)) = (entry, which) else {
            return CheckAnswer::Refused(Refusal::InvalidToken);
        };
        let now = self.clock.now();
        if let WhichToken::Replaced(replaced) = which
            && !self.is_still_good(&entry, replaced, now)
        {
            self.report_replaced(&entry, presented, now);
            return CheckAnswer::Refused(Refusal::TokenReplaced);
        }
        if let Some(ending) = self.ending_as_of(&entry, now) {
            return CheckAnswer::Refused(Refusal::SessionEnded(ending));
        }
        if which == WhichToken::Current && entry.is_grace_open() {
            self.note_successor(&entry, now);
        }
        if let Some(refusal) = unmet(demands, entry.row(), now) {
            return CheckAnswer::Refused(refusal);
        }
        CheckAnswer::Active(match usage {
            Use::Touch(address) => self.record_use(entry, now, address),
            Use::Look => entry,
        })
    }

    /// Whether the token before the current one is good at `now`.
    fn is_still_good(&self, entry: &CachedSession, replaced: Replaced, now: Timestamp) -> bool {
        if let Grace::Open { .. } = replaced.grace {
            // Its successor may have been seen by another copy that is gone.
            let pending = self.held.touches.get(entry.row().id);
            if let Some(seen) = pending.and_then(|touch| touch.successor_seen) {
                entry.note_successor(&seen);
            }
        }
        match entry.which_token(&replaced.hash) {
            Some(WhichToken::Replaced(replaced)) => replaced.grace.is_good(now),
            _ => false,
        }
    }

    /// The current token was presented for the first time: the one before it is good for a while only. Noted in memory
    /// like a use, and written with the next flush.
    fn note_successor(&self, entry: &CachedSession, now: Timestamp) {
        let row = entry.row();
        let grace_secs = self.policy(&row.app).map_or(0, |policy| policy.renew_grace_secs);
        let seen = SuccessorSeen {
            token_hash: row.token_hash,
            grace_ends_at: now.plus_millis(millis(grace_secs)),
        };
        if self.held.touches.note_successor(row, seen) {
            entry.note_successor(&seen);
        } else {
            self.held.metrics.touches_dropped.inc();
        }
    }

    /// Has it written down that a token was used which had been replaced, if that is to be told. Nobody waits for it:
    /// a check is answered whether or not anything can be written.
    fn report_replaced(&self, entry: &CachedSession, presented: SecretHash, now: Timestamp) {
        let is_to_be_told = match entry.which_token(&presented) {
            Some(WhichToken::Replaced(replaced)) => replaced.is_to_be_reported(now, REPORT_INTERVAL_MILLIS),
            _ => false,
        };
        // Whoever holds such a token may send it as fast as they can: until the row says that it was told, this copy does.
        if is_to_be_told
            && self.ending_as_of(entry, now).is_none()
            && entry.is_first_report(now, REPORT_INTERVAL_MILLIS)
        {
            // Queued by the call itself.
            drop(self.store.report_replaced(entry.row().id, presented, now));
        }
    }

    /// Whether and how a session that was read or cached is over.
    fn ending_as_of(&self, entry: &CachedSession, now: Timestamp) -> Option<Ending> {
        if entry.row().ending.is_none() {
            if now < entry.expires_at() {
                return None;
            }
            // Before a session is called dead: a use may have been noted through another copy that is gone.
            if let Some(touch) = self.held.touches.get(entry.row().id) {
                entry.record_use(touch.at);
            }
        }
        entry.to_session().ending_as_of(now)
    }

    /// Notes a use in memory, unless one was recorded just before.
    fn record_use(
        &self,
        entry: Arc<CachedSession>,
        now: Timestamp,
        address: Option<IpAddr>,
    ) -> Arc<CachedSession> {
        let row = entry.row();
        let new_address = address.filter(|address| row.is_new_address(*address));
        let interval = row.touch_interval_millis(self.touch_interval_millis);
        if new_address.is_none() && now.millis_since(entry.last_activity_at()) < interval {
            return entry;
        }
        if !self.held.touches.note(row, now, new_address) {
            self.held.metrics.touches_dropped.inc();
            return entry;
        }
        entry.record_use(now);
        let Some(address) = new_address else { return entry };
        self.held
            .cache
            .change(row.id, |session| session.record_use(now, Some(address)));
        let mut session = entry.to_session();
        session.record_use(now, Some(address));
        Arc::new(CachedSession::new(session))
    }

    /// Reads a session that is not cached, with its pending touch, and caches it if it is active.
    async fn load(&self, id: SessionId) -> Result<Option<Arc<CachedSession>>, Error> {
        let mut latest = None;
        for _ in 0..READS_PER_CHECK_MAX {
            let ticket = self.held.cache.begin_fill(id);
            let Some(mut session) = self.store.find(id).await? else {
                return Ok(None);
            };
            if let Some(touch) = self.held.touches.get(id) {
                touch.apply(&mut session);
            }
            if session.is_active(self.clock.now()) {
                match ticket.finish(session) {
                    Filled::Current(entry) => return Ok(Some(entry)),
                    Filled::Stale(entry) => latest = Some(entry),
                }
            } else {
                let is_current = ticket.is_current();
                latest = Some(Arc::new(CachedSession::new(session)));
                if is_current {
                    break;
                }
            }
        }
        Ok(latest)
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

    /// A session that was read, with a touch that was pending before and those that are now.
    fn with_touches(&self, mut session: Session, before: Option<Touch>) -> Session {
        if let Some(touch) = before
            && session.ending.is_none()
            && session.last_activity_at < touch.at
        {
            touch.apply(&mut session);
        }
        self.with_pending(session)
    }

    fn with_pending(&self, mut session: Session) -> Session {
        if session.ending.is_none()
            && let Some(touch) = self.held.touches.get(session.id)
        {
            touch.apply(&mut session);
        }
        session
    }

    /// Records a use of a session by its id.
    pub async fn touch(
        &self,
        app: &AppName,
        id: SessionId,
        address: Option<IpAddr>,
    ) -> Result<Session, Error> {
        let entry = match self.held.cache.get(id) {
            Some(entry) => Some(entry),
            None => self.load(id).await?,
        };
        let entry = entry
            .filter(|entry| entry.row().app == *app)
            .ok_or(Error::NotFound("session"))?;
        let now = self.clock.now();
        match self.ending_as_of(&entry, now) {
            Some(ending) => Err(Error::SessionEnded(ending)),
            None => Ok(self.record_use(entry, now, address).to_session()),
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

    /// Writes down up to `limit` passed deadlines; answers how many.
    pub async fn expire_overdue(&self, limit: usize) -> Result<usize, Error> {
        self.store.expire(self.clock.now(), limit).await
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

/// How long a session may live by the app's policy and what was asked for.
fn asked_timeouts(policy: &AppConfig, sign_in: &SignIn) -> Timeouts {
    let timeouts = if sign_in.remember {
        policy.remember_timeouts()
    } else {
        policy.timeouts()
    };
    timeouts.shortened(
        sign_in.idle_timeout_secs.map(millis),
        sign_in.absolute_timeout_secs.map(millis),
    )
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::UserBlocked => Self::UserBlocked,
            Refused::CredentialsChanged => Self::CredentialsChanged,
            Refused::LimitReached { max, active } => Self::SessionLimitReached { max, active },
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
        DataError::TooDeep => Error::invalid(field, format!("may have {DATA_DEPTH_MAX} levels at most")),
        DataError::TooLong => Error::TooLarge { max: DATA_LEN_MAX },
    }
}

/// As much work as comparing with a session's tokens; no secret is known that this finds.
fn compare_in_vain(presented: &SecretHash) -> Option<WhichToken> {
    let is_it = SecretHash::DUMMY.matches(presented) & SecretHash::DUMMY.matches(presented);
    is_it.then_some(WhichToken::Current)
}

/// Whole seconds until a moment, at least one.
fn secs_until(moment: Timestamp, now: Timestamp) -> u64 {
    let millis = u64::try_from(moment.millis_since(now)).unwrap_or_default();
    millis.div_ceil(1_000).max(1)
}

/// The first demand that the session does not meet.
fn unmet(demands: &Demands, session: &Session, now: Timestamp) -> Option<Refusal> {
    if let Some(secs) = demands.max_auth_age_secs
        && !is_recent(session, secs, now)
    {
        return Some(Refusal::ReauthenticationRequired);
    }
    let has_tags = demands.tags.is_empty()
        || session
            .auth
            .as_ref()
            .is_some_and(|auth| auth.has_tags(&demands.tags));
    (!has_tags).then_some(Refusal::MissingTag)
}

/// Whether the session's user signed in within the last `secs` seconds.
pub fn is_recent(session: &Session, secs: u64, now: Timestamp) -> bool {
    session
        .authenticated_at
        .is_some_and(|at| now.millis_since(at) <= millis(secs))
}

fn name_rule() -> String {
    format!("must be 1 to {NAME_CHARS_MAX} characters without control characters")
}

/// Seconds in milliseconds, stopping at the end of the range.
fn millis(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000)
}
