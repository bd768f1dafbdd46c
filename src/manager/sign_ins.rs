//! Sign-ins: sessions are started, or given to a user. Whatever is asked for is one command to the store, which decides.

use std::net::IpAddr;
use std::sync::Arc;

use super::{SessionManager, Use, millis, name_rule, over};
use crate::clock::Timestamp;
use crate::config::AppConfig;
use crate::data::Data;
use crate::enrich::device;
use crate::error::{Error, FieldError};
use crate::session::{
    ApiKey, AppName, Auth, ClientHints, NAME_CHARS_MAX, Nonce, Secret, Session, SessionId, Timeouts, Token,
    bounded_user_agent, is_clean_text,
};
use crate::store::{
    Authenticated, Authentication, ClientId, Creation, Idempotency, NewSession, REFUSED_LIST_LEN_MAX,
    Refused, Visitor,
};
use crate::user::UserId;

/// Sessions that a sign-in can name to be ended for it: as many as a refusal lists.
const END_IDS_MAX: usize = REFUSED_LIST_LEN_MAX;
/// After how many seconds a visitor may ask again whom an app had no room for: some sessions have ended by then.
const NO_ROOM_RETRY_SECS: u64 = 60;

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

impl SessionManager {
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
        usage: Use,
    ) -> Result<(Session, bool), Error> {
        match self.start(app, sign_in, Start::Client(client_session_id)).await? {
            Started::New(signed_in) => Ok((signed_in.session, true)),
            Started::Existed(session) => Ok(match usage {
                Use::Touch(address) => (self.used(session, address), false),
                Use::Look => (self.with_pending(session), false),
            }),
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
            network: self.visitors_network(sign_in.ip_address),
            per_hour: policy.anonymous_per_hour,
            per_hour_total: policy.anonymous_per_hour_total,
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
            ip_address: self.kept(sign_in.ip_address),
            timeouts,
            expiring_notice_millis: policy.expiring_notice_secs.map(millis),
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
            Creation::Refused(refused) => Err(self.refusal(refused)),
            Creation::IdempotencyKeyReused => Err(Error::IdempotencyKeyReused),
            Creation::IdempotencySessionChanged => Err(Error::IdempotencySessionChanged),
            Creation::TooManyVisitors { retry_at } => Err(Error::TooManyRequests {
                retry_after_secs: secs_until(retry_at, now),
            }),
            Creation::AppFull => Err(match client {
                Some(client) => Error::ClientSessionLimitReached {
                    max: client.total_max,
                },
                None => Error::NoRoom {
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
            ip_address: self.kept(sign_in.ip_address),
            place: self.locate(sign_in.ip_address),
            timeouts,
            expiring_notice_millis: policy.expiring_notice_secs.map(millis),
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
            Authenticated::Refused(refused) => Err(self.refusal(refused)),
            Authenticated::AlreadyEnded(session) => Err(over(&session, now)),
            Authenticated::NotFound => Err(Error::NotFound("session")),
        }
    }

    /// Why a user was not let in; a person who is to choose sees when each session was last used.
    fn refusal(&self, refused: Refused) -> Error {
        match refused {
            Refused::UserBlocked => Error::UserBlocked,
            Refused::CredentialsChanged => Error::CredentialsChanged,
            Refused::LimitReached { max, active } => Error::SessionLimitReached {
                max,
                active: active
                    .into_iter()
                    .map(|session| self.with_pending(session))
                    .collect(),
            },
        }
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

/// Whole seconds until a moment, at least one.
fn secs_until(moment: Timestamp, now: Timestamp) -> u64 {
    let millis = u64::try_from(moment.millis_since(now)).unwrap_or_default();
    millis.div_ceil(1_000).max(1)
}
