//! What happened, in the past tense. An event is a row written in the transaction of the change it tells of.

use crate::clock::Timestamp;
use crate::session::{AppName, EndedBy, Reason, Session, SessionId};
use crate::user::UserId;

/// What kind of thing happened. Kinds are added, never renamed: consumers match on [`EventKind::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A session was made.
    SessionCreated,
    /// A user signed in with it: it has a new token, and every older one is dead.
    SessionAuthenticated,
    /// Its token was renewed.
    SessionRenewed,
    /// A token was used that had been replaced too long ago: somebody may have a copy.
    SessionSuspicious,
    /// It was ended before a deadline.
    SessionRevoked,
    /// It was ended because its user reached the limit.
    SessionEvicted,
    /// A deadline passed.
    SessionExpired,
    /// It was used from another address.
    SessionActivity,
    /// Several sessions of one user were ended at once; beside the single events.
    UserSessionsRevoked,
    /// The user was blocked.
    UserBlocked,
}

impl EventKind {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionCreated => "session.created",
            Self::SessionAuthenticated => "session.authenticated",
            Self::SessionRenewed => "session.renewed",
            Self::SessionSuspicious => "session.suspicious",
            Self::SessionRevoked => "session.revoked",
            Self::SessionEvicted => "session.evicted",
            Self::SessionExpired => "session.expired",
            Self::SessionActivity => "session.activity",
            Self::UserSessionsRevoked => "user.sessions_revoked",
            Self::UserBlocked => "user.blocked",
        }
    }

    /// Which of the ending events an ending by this actor is.
    pub fn of_ending(by: EndedBy) -> Self {
        match by {
            EndedBy::Timeout => Self::SessionExpired,
            EndedBy::Limit => Self::SessionEvicted,
            EndedBy::User | EndedBy::App | EndedBy::Operator | EndedBy::Security => Self::SessionRevoked,
        }
    }
}

/// One thing that happened. It never carries a token, a key or a hash of one.
#[derive(Debug, Clone)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// When; for an expired session its deadline.
    pub occurred_at: Timestamp,
    /// In which app.
    pub app: AppName,
    /// Whose.
    pub user_id: Option<UserId>,
    /// Which session.
    pub session_id: Option<SessionId>,
    /// The id that the client chose for it.
    pub client_session_id: Option<i64>,
    /// Why, for endings.
    pub reason: Option<Reason>,
    /// By whom, for endings.
    pub ended_by: Option<EndedBy>,
    /// The session's device in words.
    pub device_info: Option<String>,
    /// The address it was used from.
    pub ip_address: Option<std::net::IpAddr>,
    /// Its place in words.
    pub location: Option<String>,
    /// What only this kind has, as a JSON object.
    pub data: Option<String>,
}

impl Event {
    /// An event about a session.
    pub fn about(session: &Session, kind: EventKind, occurred_at: Timestamp) -> Self {
        Self {
            kind,
            occurred_at,
            app: session.app.clone(),
            user_id: session.user_id.clone(),
            session_id: Some(session.id),
            client_session_id: session.client_session_id,
            reason: None,
            ended_by: None,
            device_info: session.device.as_ref().and_then(crate::session::Device::info),
            ip_address: session.last_ip_address.or(session.ip_address),
            location: session.place.as_ref().map(crate::session::Place::info),
            data: None,
        }
    }

    /// The one event of a session's ending; `None` while it has no ending.
    pub fn of_ending(session: &Session) -> Option<Self> {
        let ending = session.ending.as_ref()?;
        Some(Self {
            reason: Some(ending.reason.clone()),
            ended_by: Some(ending.by),
            ..Self::about(session, EventKind::of_ending(ending.by), ending.at)
        })
    }

    /// The event of a use of a token that was replaced too long ago.
    pub fn of_replaced_token(session: &Session, occurred_at: Timestamp) -> Self {
        let explanation = "A token was used that had been replaced before: an old copy, or somebody else's.";
        Self {
            data: Some(serde_json::json!({ "explanation": explanation }).to_string()),
            ..Self::about(session, EventKind::SessionSuspicious, occurred_at)
        }
    }

    /// An event about a user rather than one session.
    pub fn about_user(app: &AppName, user_id: &UserId, kind: EventKind, occurred_at: Timestamp) -> Self {
        Self {
            kind,
            occurred_at,
            app: app.clone(),
            user_id: Some(user_id.clone()),
            session_id: None,
            client_session_id: None,
            reason: None,
            ended_by: None,
            device_info: None,
            ip_address: None,
            location: None,
            data: None,
        }
    }
}
