//! The session object as callers see it. Its first ten fields come first and never change.
//!
//! It is written in two ways that tests hold together: by serde as a part of any answer, and by hand for the answers that
//! are given all the time.

use std::fmt::Display;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::json_writer::{Object, Raw, WriteJson, key};
use crate::cache::CachedSession;
use crate::clock::Timestamp;
use crate::session::{Phrase, Session, SessionId, Status};

/// A session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody<'s> {
    /// The public handle, a UUIDv7.
    #[schema(value_type = String, format = "uuid")]
    #[serde(serialize_with = "as_text")]
    id: SessionId,
    /// The person; null for an anonymous session.
    user_id: Option<&'s str>,
    /// "Browser on OS", as far as known.
    #[schema(value_type = Option<String>, example = "Chrome on macOS")]
    #[serde(serialize_with = "as_text_or_null")]
    device_info: Option<Phrase<'s>>,
    /// The first address seen; it never changes.
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    #[serde(serialize_with = "as_text_or_null")]
    ip_address: Option<IpAddr>,
    /// "City, CC", else "CC".
    #[schema(value_type = Option<String>, example = "Berlin, DE")]
    #[serde(serialize_with = "as_text_or_null")]
    location: Option<Phrase<'s>>,
    /// When the session was made.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "as_text")]
    created_at: Timestamp,
    /// When it was last used.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "as_text")]
    last_activity_at: Timestamp,
    /// The earlier of the idle and the absolute deadline.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "as_text")]
    expires_at: Timestamp,
    /// Whether it was ended before a deadline.
    is_revoked: bool,
    /// Whether this is the session that asks, or was just made.
    is_current: bool,
    /// The app it belongs to.
    app: &'s str,
    /// `active`, `revoked` or `expired`.
    #[schema(example = "active")]
    status: &'static str,
    /// The name the person or the app gave it.
    name: Option<&'s str>,
    /// Whether the app trusts this device.
    is_trusted: bool,
    /// The device, as far as it told.
    device: Option<DeviceBody<'s>>,
    /// The raw user agent, cut at 512 bytes.
    user_agent: Option<&'s str>,
    /// The latest address, if it is another than the first.
    #[schema(value_type = Option<String>)]
    #[serde(serialize_with = "as_text_or_null")]
    last_ip_address: Option<IpAddr>,
    /// Where the first address is, as far as known.
    place: Option<PlaceBody<'s>>,
    /// When the user's credentials were verified.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(serialize_with = "as_text_or_null")]
    authenticated_at: Option<Timestamp>,
    /// The deadline that no use moves.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "as_text")]
    absolute_expires_at: Timestamp,
    /// When it ended; for an expired one its deadline.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(serialize_with = "as_text_or_null")]
    ended_at: Option<Timestamp>,
    /// Why it ended.
    revoked_reason: Option<String>,
    /// Who ended it: `user`, `app`, `operator`, `limit`, `timeout` or `security`.
    ended_by: Option<&'static str>,
    /// What only the application sees; absent on the self plane.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    private: Option<PrivateBody<'s>>,
}

/// What of a session only the application sees.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionPrivate)]
pub struct PrivateBody<'s> {
    /// What the application keeps about the sign-in.
    #[schema(value_type = Option<Object>)]
    #[serde(serialize_with = "as_json")]
    auth: Option<&'s str>,
    /// Named identities beside the root one.
    #[schema(value_type = Object, required = false)]
    #[serde(serialize_with = "as_object")]
    identities: &'s str,
    /// The id that the client chose.
    #[schema(value_type = Option<String>, example = "-42")]
    #[serde(serialize_with = "as_text_or_null")]
    client_session_id: Option<i64>,
    /// Grows with each change of the session's data.
    #[schema(required = false)]
    data_version: u64,
}

/// A device.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Device)]
pub struct DeviceBody<'s> {
    browser: Option<&'s str>,
    browser_version: Option<&'s str>,
    os: Option<&'s str>,
    os_version: Option<&'s str>,
    /// `desktop`, `phone`, `tablet`, `tv`, `console` or `program`.
    r#type: Option<&'static str>,
    is_bot: bool,
}

/// A place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Place)]
pub struct PlaceBody<'s> {
    city: Option<&'s str>,
    /// ISO 3166-1 alpha-2.
    country: &'s str,
}

/// Who sees a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The application: everything.
    Application,
    /// The person: without what the application keeps for itself.
    Person,
}

impl<'s> SessionBody<'s> {
    /// The session as it is at `now`; `current` is the id of the session that asks or was just made.
    pub fn new(session: &'s Session, now: Timestamp, current: Option<SessionId>, audience: Audience) -> Self {
        let ending = session.ending_as_of(now);
        Self {
            is_current: current == Some(session.id),
            status: session.status(now).as_str(),
            is_revoked: session.status(now) == Status::Revoked,
            ended_at: ending.as_ref().map(|ending| ending.at),
            revoked_reason: ending.as_ref().map(|ending| ending.reason.as_str().to_owned()),
            ended_by: ending.as_ref().map(|ending| ending.by.as_str()),
            ..Self::active(session, audience)
        }
    }

    /// A session that was found active, with its latest use, as the application of its holder sees it.
    pub fn of_holder(entry: &'s CachedSession) -> Self {
        Self {
            is_current: true,
            last_activity_at: entry.last_activity_at(),
            expires_at: entry.expires_at(),
            ..Self::active(entry.row(), Audience::Application)
        }
    }

    /// A session as its row has it, but how it ended.
    fn active(session: &'s Session, audience: Audience) -> Self {
        Self {
            id: session.id,
            user_id: session.user_id.as_ref().map(|user| user.as_str()),
            device_info: session.device.as_ref().and_then(|device| device.info()),
            ip_address: session.ip_address,
            location: session.place.as_ref().map(|place| place.info()),
            created_at: session.created_at,
            last_activity_at: session.last_activity_at,
            expires_at: session.expires_at(),
            is_revoked: false,
            is_current: false,
            app: session.app.as_str(),
            status: Status::Active.as_str(),
            name: session.name.as_deref(),
            is_trusted: session.is_trusted,
            device: session.device.as_ref().map(|device| DeviceBody {
                browser: device.browser.as_deref(),
                browser_version: device.browser_version.as_deref(),
                os: device.os.as_deref(),
                os_version: device.os_version.as_deref(),
                r#type: device.device_type.map(|kind| kind.as_str()),
                is_bot: device.is_bot,
            }),
            user_agent: session.user_agent.as_deref(),
            last_ip_address: session.last_ip_address,
            place: session.place.as_ref().map(|place| PlaceBody {
                city: place.city.as_deref(),
                country: &place.country,
            }),
            authenticated_at: session.authenticated_at,
            absolute_expires_at: session.absolute_expires_at,
            ended_at: None,
            revoked_reason: None,
            ended_by: None,
            private: (audience == Audience::Application).then(|| PrivateBody {
                auth: session.auth.as_ref().map(|auth| auth.as_str()),
                // Most sessions have none beside the root one.
                identities: session.identities.as_ref().map_or("{}", |all| all.as_str()),
                client_session_id: session.client_session_id,
                data_version: session.data_version,
            }),
        }
    }
}

impl WriteJson for SessionBody<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        object.field(key!("id"), self.id);
        object.field(key!("user_id"), self.user_id);
        object.field(key!("device_info"), self.device_info);
        object.field(key!("ip_address"), self.ip_address);
        object.field(key!("location"), self.location);
        object.field(key!("created_at"), self.created_at);
        object.field(key!("last_activity_at"), self.last_activity_at);
        object.field(key!("expires_at"), self.expires_at);
        object.field(key!("is_revoked"), self.is_revoked);
        object.field(key!("is_current"), self.is_current);
        object.field(key!("app"), self.app);
        object.field(key!("status"), self.status);
        object.field(key!("name"), self.name);
        object.field(key!("is_trusted"), self.is_trusted);
        object.field(key!("device"), &self.device);
        object.field(key!("user_agent"), self.user_agent);
        object.field(key!("last_ip_address"), self.last_ip_address);
        object.field(key!("place"), &self.place);
        object.field(key!("authenticated_at"), self.authenticated_at);
        object.field(key!("absolute_expires_at"), self.absolute_expires_at);
        object.field(key!("ended_at"), self.ended_at);
        object.field(key!("revoked_reason"), self.revoked_reason.as_deref());
        object.field(key!("ended_by"), self.ended_by);
        if let Some(private) = &self.private {
            object.field(key!("auth"), private.auth.map(Raw));
            object.field(key!("identities"), Raw(private.identities));
            let client_session_id = private.client_session_id.map(|id| id.to_string());
            object.field(key!("client_session_id"), client_session_id.as_deref());
            object.field(key!("data_version"), private.data_version);
        }
        object.end();
    }
}

impl WriteJson for DeviceBody<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        object.field(key!("browser"), self.browser);
        object.field(key!("browser_version"), self.browser_version);
        object.field(key!("os"), self.os);
        object.field(key!("os_version"), self.os_version);
        object.field(key!("type"), self.r#type);
        object.field(key!("is_bot"), self.is_bot);
        object.end();
    }
}

impl WriteJson for PlaceBody<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        object.field(key!("city"), self.city);
        object.field(key!("country"), self.country);
        object.end();
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_text_or_null<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn as_json<S: Serializer>(text: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => as_object(text, serializer),
        None => serializer.serialize_none(),
    }
}

/// An object that is stored as text.
fn as_object<S: Serializer>(text: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::from_str::<Value>(text).ok().serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::session;
    use crate::session::{Auth, Device, DeviceType, EndedBy, Ending, Identities, Place, Reason};
    use crate::user::UserId;

    #[test]
    fn session_is_the_same_by_hand_and_by_serde() {
        let bare = session(500, 10_000);
        let full = Session {
            user_id: UserId::parse("ada \"Zürich\" \\"),
            client_session_id: Some(-42),
            name: Some("Küche\n\u{7f}".into()),
            is_trusted: true,
            user_agent: Some("Mozilla/5.0 (\"<>\")\t\u{2028}".into()),
            device: Some(Device {
                browser: Some("Chrome \"".into()),
                browser_version: Some("145.0".into()),
                os: Some("macOS".into()),
                os_version: None,
                device_type: Some(DeviceType::Desktop),
                is_bot: true,
            }),
            place: Some(Place {
                city: Some("São Paulo".into()),
                country: "BR".into(),
            }),
            ip_address: Some("203.0.113.7".parse().expect("an address")),
            last_ip_address: Some("2001:db8::7".parse().expect("an address")),
            authenticated_at: Some(Timestamp::from_millis(-1)),
            absolute_expires_at: Timestamp::from_millis(i64::MAX),
            auth: Some(Auth::from_stored(r#"{"amr":["pwd"],"n":1.5}"#)),
            identities: Identities::from_stored(r#"{"b":{},"a":{"user_id":"x"}}"#),
            data_version: 10,
            ..bare.clone()
        };
        let ended = Session {
            ending: Some(Ending {
                at: bare.created_at,
                reason: Reason::known(Reason::LOGOUT),
                by: EndedBy::User,
            }),
            ..full.clone()
        };
        for session in [bare, full, ended] {
            for audience in [Audience::Application, Audience::Person] {
                let body = SessionBody::new(&session, session.created_at, Some(session.id), audience);
                let mut by_hand = Vec::new();
                body.write(&mut by_hand);
                let by_serde = serde_json::to_string(&body).expect("JSON");
                assert_eq!(String::from_utf8(by_hand).expect("UTF-8"), by_serde);
            }
        }
    }
}
