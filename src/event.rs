//! What happened, in the past tense. An event is a row written in the transaction of the change it tells of.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::session::{AppName, Deadline, EndedBy, Place, Reason, Session, SessionId};
use crate::user::UserId;

/// What kind of thing happened. Kinds are added, never renamed: consumers match on [`EventKind::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A session was made.
    SessionCreated,
    /// A user signed in with it: it has a new token, and every older one is dead.
    SessionAuthenticated,
    /// Its token was renewed.
    SessionRenewed,
    /// A token was used that had been replaced too long ago: somebody may have a copy. Or one address sent many wrong tokens
    /// and keys; that is about no session and nobody, and told at most once an hour and address. Data: `explanation`, and of
    /// the latter `count`.
    SessionSuspicious,
    /// It was ended before a deadline.
    SessionRevoked,
    /// It was ended because its user reached the limit.
    SessionEvicted,
    /// A deadline passed.
    SessionExpired,
    /// A deadline is near; once per kind of deadline and sign-in. The idle one only if it comes before the absolute one.
    /// Data: `deadline` (`idle` or `absolute`), `expires_at` (when that is, as far as the session is not used before) and
    /// `seconds` until then.
    SessionExpiring,
    /// It was used from another address.
    SessionActivity,
    /// Somebody tried to end a session and was refused: about whoever tried, never about the session that they meant. At most
    /// once a caller and minute. Data: `count`, how many attempts it tells of, and `explanation`, of the latest.
    SessionRevocationFailed,
    /// Several sessions of one user were ended at once; beside the single events.
    UserSessionsRevoked,
    /// The user was blocked.
    UserBlocked,
    /// A user who was here before signed in with a browser and operating system that they had not used before; after the
    /// event of that sign-in, about the same session. Data: `browser` and `os`, without versions, null where one of them
    /// is not known.
    DeviceNew,
}

impl EventKind {
    /// Every kind there is.
    pub const ALL: [Self; 13] = [
        Self::SessionCreated,
        Self::SessionAuthenticated,
        Self::SessionRenewed,
        Self::SessionRevoked,
        Self::SessionEvicted,
        Self::SessionExpired,
        Self::SessionExpiring,
        Self::SessionActivity,
        Self::SessionSuspicious,
        Self::SessionRevocationFailed,
        Self::UserSessionsRevoked,
        Self::UserBlocked,
        Self::DeviceNew,
    ];

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether it tells that a session is over.
    pub fn is_ending(self) -> bool {
        matches!(
            self,
            Self::SessionRevoked | Self::SessionEvicted | Self::SessionExpired
        )
    }

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
            Self::SessionExpiring => "session.expiring",
            Self::SessionActivity => "session.activity",
            Self::SessionRevocationFailed => "session.revocation_failed",
            Self::UserSessionsRevoked => "user.sessions_revoked",
            Self::UserBlocked => "user.blocked",
            Self::DeviceNew => "device.new",
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

/// Why somebody known was refused to end a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyRefused {
    /// It is not theirs, or there is none: callers do not learn which.
    NotTheirs,
    /// Their sign-in is too old for it.
    NotRecent,
}

impl WhyRefused {
    /// The same in a sentence.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::NotTheirs => "Somebody tried to end a session that is not theirs or does not exist.",
            Self::NotRecent => "Somebody tried to end another session without a recent sign-in.",
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
    /// Which session. What is neither about a session nor about a user is about the app.
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
    pub ip_address: Option<IpAddr>,
    /// Its place in words, if that is known of this address.
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
            device_info: session
                .device
                .as_ref()
                .and_then(|device| device.info())
                .map(|info| info.to_string()),
            ip_address: session.last_ip_address.or(session.ip_address),
            // The place is that of the first address.
            location: session
                .place
                .as_ref()
                .filter(|_| {
                    session
                        .last_ip_address
                        .is_none_or(|last| Some(last) == session.ip_address)
                })
                .map(|place| place.info().to_string()),
            data: None,
        }
    }

    /// The event of a use from another address, which is the session's latest one now, and where that is.
    pub fn of_activity(session: &Session, place: Option<&Place>, occurred_at: Timestamp) -> Self {
        Self {
            location: place.map(|place| place.info().to_string()),
            ..Self::about(session, EventKind::SessionActivity, occurred_at)
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

    /// The event of so many wrong tokens and API keys from one address, of which the latest came to this app.
    pub fn of_wrong_credentials(
        app: &AppName,
        address: Option<IpAddr>,
        location: Option<String>,
        count: u64,
        occurred_at: Timestamp,
    ) -> Self {
        let explanation = "One address sent many wrong session tokens or API keys: somebody guesses, or a program keeps an old one.";
        let data = serde_json::json!({ "count": count, "explanation": explanation });
        Self {
            ip_address: address,
            location,
            data: Some(data.to_string()),
            ..Self::about_nobody(app, EventKind::SessionSuspicious, occurred_at)
        }
    }

    /// The event of so many refusals to end a session, from one `about` whoever was refused last.
    pub fn of_refused_revocations(about: Self, why: WhyRefused, count: u64, occurred_at: Timestamp) -> Self {
        let data = serde_json::json!({ "count": count, "explanation": why.explanation() });
        Self {
            kind: EventKind::SessionRevocationFailed,
            occurred_at,
            data: Some(data.to_string()),
            ..about
        }
    }

    /// The event of a deadline that is near.
    pub fn of_near_deadline(
        session: &Session,
        deadline: Deadline,
        expires_at: Timestamp,
        occurred_at: Timestamp,
    ) -> Self {
        let seconds = expires_at.millis_since(occurred_at).max(0) / 1_000;
        let data = serde_json::json!({
            "deadline": deadline.as_str(),
            "expires_at": expires_at.to_string(),
            "seconds": seconds,
        });
        Self {
            data: Some(data.to_string()),
            ..Self::about(session, EventKind::SessionExpiring, occurred_at)
        }
    }

    /// The event of a sign-in on a device that its user had not used before; `None` if nothing is known about the device.
    pub fn of_new_device(session: &Session, occurred_at: Timestamp) -> Option<Self> {
        let device = session.device.as_ref()?;
        if device.browser.is_none() && device.os.is_none() {
            return None;
        }
        let data = serde_json::json!({ "browser": device.browser, "os": device.os });
        Some(Self {
            data: Some(data.to_string()),
            ..Self::about(session, EventKind::DeviceNew, occurred_at)
        })
    }

    /// An event about a user rather than one session.
    pub fn about_user(app: &AppName, user_id: &UserId, kind: EventKind, occurred_at: Timestamp) -> Self {
        Self {
            user_id: Some(user_id.clone()),
            ..Self::about_nobody(app, kind, occurred_at)
        }
    }

    /// An event about neither a session nor a user.
    fn about_nobody(app: &AppName, kind: EventKind, occurred_at: Timestamp) -> Self {
        Self {
            kind,
            occurred_at,
            app: app.clone(),
            user_id: None,
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

/// An event as it was written: with its number, which grows by one from each to the next within a database.
#[derive(Debug, Clone)]
pub struct RecordedEvent {
    /// The number.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

impl RecordedEvent {
    /// The event as applications and people are told of it.
    pub fn body(&self, epoch: Epoch) -> EventBody<'_> {
        let event = &self.event;
        EventBody {
            id: epoch.id(self.number).to_string(),
            r#type: event.kind.as_str(),
            occurred_at: event.occurred_at.to_string(),
            app: event.app.as_str(),
            user_id: event.user_id.as_ref().map(UserId::as_str),
            session_id: event.session_id.map(|id| id.to_string()),
            client_session_id: event.client_session_id.map(|id| id.to_string()),
            reason: event.reason.as_ref().map(Reason::as_str),
            ended_by: event.ended_by.map(EndedBy::as_str),
            device_info: event.device_info.as_deref(),
            ip_address: event.ip_address.map(|address| address.to_string()),
            location: event.location.as_deref(),
            // Written by this program as an object; anything else would be a broken database.
            data: event
                .data
                .as_deref()
                .and_then(|data| serde_json::from_str(data).ok()),
        }
    }
}

/// An event as applications and people are told of it, the same on pages, on streams and in webhooks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody<'e> {
    /// Opaque; the place after it is where to go on.
    id: String,
    /// What happened.
    r#type: &'static str,
    /// When; for an expired session its deadline.
    #[schema(format = DateTime)]
    occurred_at: String,
    /// In which app.
    app: &'e str,
    /// Whose; null for a session of nobody.
    user_id: Option<&'e str>,
    /// Which session; null for what concerns a user or, if that is null too, the app.
    session_id: Option<String>,
    /// The id that the client chose for it.
    client_session_id: Option<String>,
    /// Why, for endings.
    reason: Option<&'e str>,
    /// By whom, for endings.
    ended_by: Option<&'static str>,
    /// The session's device in words.
    device_info: Option<&'e str>,
    /// The address it was used from.
    ip_address: Option<String>,
    /// Its place in words.
    location: Option<&'e str>,
    /// What only this type has.
    #[schema(value_type = Option<Object>)]
    data: Option<serde_json::Value>,
}

/// Which line of history numbers belong to: 16 random bytes made with the database. A database that was restored from a
/// copy gets another, as its numbers come again for other events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// The epoch with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
        Self(bytes)
    }

    /// The public id of this epoch's event with this number.
    pub fn id(&self, number: u64) -> EventId {
        EventId {
            epoch: self.mark(),
            number,
        }
    }

    /// The number of an event of this epoch; `None` for an id of another one.
    pub fn number(&self, id: EventId) -> Option<u64> {
        (id.epoch == self.mark()).then_some(id.number)
    }

    fn mark(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

/// The public id of an event, and with that the place after it in the line of events. Opaque to callers: they compare
/// it for equality and give it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    epoch: [u8; 8],
    number: u64,
}

impl EventId {
    const PREFIX: &str = "evt_";

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(Self::PREFIX)?).ok()?;
        let (epoch, number) = bytes.split_at_checked(8)?;
        Some(Self {
            epoch: epoch.try_into().ok()?,
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [self.epoch, self.number.to_be_bytes()].concat();
        write!(f, "{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_read_back() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(EventKind::parse("session.forgotten"), None);
    }

    #[test]
    fn ids_are_read_back_and_belong_to_their_epoch() {
        let (one, other) = (Epoch::from_bytes([1; 16]), Epoch::from_bytes([2; 16]));
        for number in [0, 1, u64::MAX] {
            let id = one.id(number);
            assert_eq!(EventId::parse(&id.to_string()), Some(id));
            assert_eq!((one.number(id), other.number(id)), (Some(number), None));
        }
        let id = one.id(7).to_string();
        for wrong in [
            "",
            "evt_",
            &id[1..],
            &id[..id.len() - 1],
            &format!("{id}AA"),
            "evt_\u{e9}",
        ] {
            assert_eq!(EventId::parse(wrong), None, "{wrong}");
        }
    }
}
