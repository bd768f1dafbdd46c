//! Rows to domain types and back. What cannot be read back is a broken database, and an error.

use std::fmt::Display;
use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef};

use crate::clock::Timestamp;
use crate::data::Data;
use crate::event::{Event, EventKind, RecordedEvent};
use crate::session::{
    AppName, Auth, Device, DeviceType, EndedBy, Ending, Fingerprint, Grace, Identities, KeyId, Nonce, Place,
    Reason, Replaced, SecretHash, Session, SessionId,
};
use crate::store::KeyRecord;
use crate::user::{UserId, UserSettings};
use crate::webhook::WebhookId;

/// The columns that [`session`] reads, in its order.
pub(super) const SESSION_COLUMNS: &str = "id, app, user_id, token_hash, name, is_trusted, user_agent, browser, \
     browser_version, os, os_version, device_type, is_bot, city, country, ip_address, last_ip_address, created_at, \
     signed_in_at, authenticated_at, last_activity_at, idle_timeout, absolute_expires_at, ended_at, \
     revoked_reason, ended_by, auth, client_session_id, previous_token_hash, renew_nonce, grace_ends_at, \
     replaced_reported_at, identities, data_version";

pub(super) fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let is_bot: Option<bool> = row.get(12)?;
    let device = is_bot.map(|is_bot| {
        Ok::<_, rusqlite::Error>(Device {
            browser: row.get(7)?,
            browser_version: row.get(8)?,
            os: row.get(9)?,
            os_version: row.get(10)?,
            device_type: parsed(row, 11, DeviceType::parse)?,
            is_bot,
        })
    });
    let country: Option<String> = row.get(14)?;
    let ended_at: Option<Timestamp> = row.get(23)?;
    let ending = ended_at.map(|at| {
        Ok::<_, rusqlite::Error>(Ending {
            at,
            reason: required(row, 24, Reason::parse)?,
            by: required(row, 25, EndedBy::parse)?,
        })
    });
    Ok(Session {
        id: row.get(0)?,
        app: required(row, 1, AppName::parse)?,
        user_id: parsed(row, 2, UserId::parse)?,
        client_session_id: row.get(27)?,
        token_hash: row.get(3)?,
        replaced: replaced(row)?,
        name: row.get(4)?,
        is_trusted: row.get(5)?,
        user_agent: row.get(6)?,
        device: device.transpose()?,
        place: match country {
            Some(country) => Some(Place {
                city: row.get(13)?,
                country,
            }),
            None => None,
        },
        ip_address: parsed(row, 15, from_str)?,
        last_ip_address: parsed(row, 16, from_str)?,
        created_at: row.get(17)?,
        signed_in_at: row.get(18)?,
        authenticated_at: row.get(19)?,
        last_activity_at: row.get(20)?,
        idle_timeout_millis: row.get(21)?,
        absolute_expires_at: row.get(22)?,
        ending: ending.transpose()?,
        auth: parsed(row, 26, |text| Some(Auth::from_stored(text)))?,
        identities: parsed(row, 32, Identities::from_stored)?,
        data_version: row.get(33)?,
    })
}

fn replaced(row: &Row<'_>) -> rusqlite::Result<Option<Replaced>> {
    let Some(hash) = row.get(28)? else {
        return Ok(None);
    };
    let (nonce, ends_at): (Option<Nonce>, Option<Timestamp>) = (row.get(29)?, row.get(30)?);
    let grace = match (nonce, ends_at) {
        (None, None) => Grace::None,
        (Some(nonce), None) => Grace::Open { nonce },
        (nonce, Some(ends_at)) => Grace::Until { ends_at, nonce },
    };
    Ok(Some(Replaced {
        hash,
        grace,
        reported_at: row.get(31)?,
    }))
}

pub(super) fn data(row: &Row<'_>) -> rusqlite::Result<Data> {
    required(row, 0, Data::from_stored)
}

/// The columns that [`event`] reads, in its order.
pub(super) const EVENT_COLUMNS: &str = "id, type, occurred_at, app, user_id, session_id, client_session_id, reason, \
     ended_by, device_info, ip_address, location, data";

/// The type of an event of which only the number is left; see `erasure`.
pub(super) const ERASED: &str = "erased";

/// Whether only the number is left of an event.
pub(super) fn is_erased(row: &Row<'_>) -> rusqlite::Result<bool> {
    Ok(row.get_ref(1)?.as_str()? == ERASED)
}

pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<RecordedEvent> {
    Ok(RecordedEvent {
        number: row.get(0)?,
        event: Event {
            kind: required(row, 1, EventKind::parse)?,
            occurred_at: row.get(2)?,
            app: required(row, 3, AppName::parse)?,
            user_id: parsed(row, 4, UserId::parse)?,
            session_id: row.get(5)?,
            client_session_id: row.get(6)?,
            reason: parsed(row, 7, Reason::parse)?,
            ended_by: parsed(row, 8, EndedBy::parse)?,
            device_info: row.get(9)?,
            ip_address: parsed(row, 10, from_str)?,
            location: row.get(11)?,
            data: row.get(12)?,
        },
    })
}

/// The columns that [`key`] reads, in its order.
pub(super) const KEY_COLUMNS: &str = "id, app, name, key_hash, created_at, revoked_at";

pub(super) fn key(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    Ok(KeyRecord {
        id: row.get(0)?,
        app: required(row, 1, AppName::parse)?,
        name: row.get(2)?,
        hash: row.get(3)?,
        created_at: row.get(4)?,
        revoked_at: row.get(5)?,
    })
}

/// The columns that [`user_settings`] reads, in its order.
pub(super) const USER_COLUMNS: &str = "tier, max_sessions, is_blocked, credentials_changed_at";

pub(super) fn user_settings(row: &Row<'_>) -> rusqlite::Result<UserSettings> {
    Ok(UserSettings {
        tier: row.get(0)?,
        max_sessions: row.get(1)?,
        is_blocked: row.get(2)?,
        credentials_changed_at: row.get(3)?,
    })
}

fn from_str<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(super) fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        value => parse(value.as_str()?).map(Some).ok_or_else(|| broken(column)),
    }
}

pub(super) fn required<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    parsed(row, column, parse)?.ok_or_else(|| broken(column))
}

pub(super) fn broken(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, "not a value this program writes".into())
}

/// A value as text, as `NULL` if there is none.
pub(super) fn text<T: Display>(value: Option<&T>) -> Option<String> {
    value.map(ToString::to_string)
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_millis().into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(Self::from_millis)
    }
}

macro_rules! blob_newtype {
    ($type:ty) => {
        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.as_bytes())))
            }
        }

        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let bytes = value.as_blob()?;
                bytes
                    .try_into()
                    .map(Self::from_bytes)
                    .map_err(|_| FromSqlError::InvalidType)
            }
        }
    };
}

blob_newtype!(SessionId);
blob_newtype!(KeyId);
blob_newtype!(SecretHash);
blob_newtype!(Nonce);
blob_newtype!(Fingerprint);
blob_newtype!(WebhookId);
