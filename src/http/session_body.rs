//! The session object as callers see it. Its first ten fields come first and never change.

use std::fmt::Display;

use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::session::{Session, SessionId};

/// A session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody<'s> {
    /// The public handle, a UUIDv7.
    #[schema(value_type = String, format = "uuid")]
    id: Text<SessionId>,
    /// The person; null for an anonymous session.
    user_id: Option<&'s str>,
    /// "Browser on OS", as far as known.
    #[schema(example = "Chrome on macOS")]
    device_info: Option<String>,
    /// The first address seen; it never changes.
    #[schema(value_type = Option<String>, example = "203.0.113.7")]
    ip_address: Option<Text<std::net::IpAddr>>,
    /// "City, CC", else "CC".
    #[schema(example = "Berlin, DE")]
    location: Option<String>,
    /// When the session was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Text<Timestamp>,
    /// When it was last used.
    #[schema(value_type = String, format = DateTime)]
    last_activity_at: Text<Timestamp>,
    /// The earlier of the idle and the absolute deadline.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Text<Timestamp>,
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
    last_ip_address: Option<Text<std::net::IpAddr>>,
    /// Where the first address is, as far as known.
    place: Option<PlaceBody<'s>>,
    /// When the user's credentials were verified.
    #[schema(value_type = Option<String>, format = DateTime)]
    authenticated_at: Option<Text<Timestamp>>,
    /// The deadline that no use moves.
    #[schema(value_type = String, format = DateTime)]
    absolute_expires_at: Text<Timestamp>,
    /// When it ended; for an expired one its deadline.
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Text<Timestamp>>,
    /// Why it ended.
    revoked_reason: Option<String>,
    /// Who ended it: `user`, `app`, `operator`, `limit`, `timeout` or `security`.
    ended_by: Option<&'static str>,
    /// What only the application sees; absent on the self plane.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    private: Option<PrivateBody>,
}

/// What of a session only the application sees.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionPrivate)]
pub struct PrivateBody {
    /// What the application keeps about the sign-in.
    #[schema(value_type = Option<Object>)]
    auth: Option<Value>,
    /// Named identities beside the root one.
    #[schema(value_type = Object, required = false)]
    #[serde(serialize_with = "object_or_empty")]
    identities: Option<Value>,
    /// The id that the client chose.
    #[schema(value_type = Option<String>, example = "-42")]
    client_session_id: Option<Text<i64>>,
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
        let status = session.status(now).as_str();
        Self {
            id: Text(session.id),
            user_id: session.user_id.as_ref().map(|user| user.as_str()),
            device_info: session.device.as_ref().and_then(|device| device.info()),
            ip_address: session.ip_address.map(Text),
            location: session.place.as_ref().map(|place| place.info()),
            created_at: Text(session.created_at),
            last_activity_at: Text(session.last_activity_at),
            expires_at: Text(session.expires_at()),
            is_revoked: status == "revoked",
            is_current: current == Some(session.id),
            app: session.app.as_str(),
            status,
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
            last_ip_address: session.last_ip_address.map(Text),
            place: session.place.as_ref().map(|place| PlaceBody {
                city: place.city.as_deref(),
                country: &place.country,
            }),
            authenticated_at: session.authenticated_at.map(Text),
            absolute_expires_at: Text(session.absolute_expires_at),
            ended_at: ending.as_ref().map(|ending| Text(ending.at)),
            revoked_reason: ending.as_ref().map(|ending| ending.reason.as_str().to_owned()),
            ended_by: ending.as_ref().map(|ending| ending.by.as_str()),
            private: (audience == Audience::Application).then(|| PrivateBody {
                auth: session
                    .auth
                    .as_ref()
                    .and_then(|auth| serde_json::from_str(auth.as_str()).ok()),
                identities: session
                    .identities
                    .as_ref()
                    .and_then(|all| serde_json::from_str(all.as_str()).ok()),
                client_session_id: session.client_session_id.map(Text),
                data_version: session.data_version,
            }),
        }
    }
}

/// Most sessions have no identities beside the root one, and answers say so without an object being made for it.
fn object_or_empty<S: Serializer>(object: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    match object {
        Some(object) => object.serialize(serializer),
        None => serializer.collect_map(std::iter::empty::<((), ())>()),
    }
}

/// A value that is text on the wire.
#[derive(Debug)]
pub struct Text<T>(pub T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
