//! Which browsers and operating systems users signed in with, inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::changes::write_event;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::event::Event;
use crate::session::{AppName, Session};
use crate::store::{DEVICES_PER_USER_MAX, KnownDevice};
use crate::user::UserId;

/// Remembers what a user signed in with. Tells of it if it is new, unless nothing was known of this user before: a first
/// session is news to nobody.
pub(super) fn note_device(batch: &mut Batch<'_>, session: &Session, now: Timestamp) -> rusqlite::Result<()> {
    let Some(user_id) = &session.user_id else {
        return Ok(());
    };
    // Nearly every sign-in ends here, and has written nothing.
    if is_known(batch.connection, session, user_id)? {
        return Ok(());
    }
    let known = count(batch.connection, session, user_id)?;
    if known >= DEVICES_PER_USER_MAX {
        make_room(batch.connection, session, user_id)?;
    }
    let (browser, os) = session.browser_and_os();
    batch
        .connection
        .prepare_cached(
            "INSERT INTO user_devices (app, user_id, browser, os, first_seen_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![session.app.as_str(), user_id.as_str(), browser, os, now])?;
    match Event::of_new_device(session, now) {
        Some(event) if known > 0 => write_event(batch, event, now),
        _ => Ok(()),
    }
}

pub(super) fn list(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
) -> rusqlite::Result<Vec<KnownDevice>> {
    let known = |name: String| Some(name).filter(|name| !name.is_empty());
    connection
        .prepare_cached(
            "SELECT browser, os, first_seen_at FROM user_devices WHERE app = ?1 AND user_id = ?2
             ORDER BY first_seen_at, browser, os",
        )?
        .query_map(params![app.as_str(), user_id.as_str()], |row| {
            Ok(KnownDevice {
                browser: known(row.get(0)?),
                os: known(row.get(1)?),
                first_seen_at: row.get(2)?,
            })
        })?
        .collect()
}

fn is_known(connection: &Connection, session: &Session, user_id: &UserId) -> rusqlite::Result<bool> {
    let (browser, os) = session.browser_and_os();
    let row = connection
        .prepare_cached(
            "SELECT 1 FROM user_devices WHERE app = ?1 AND user_id = ?2 AND browser = ?3 AND os = ?4",
        )?
        .query_row(
            params![session.app.as_str(), user_id.as_str(), browser, os],
            |_| Ok(()),
        )
        .optional()?;
    Ok(row.is_some())
}

fn count(connection: &Connection, session: &Session, user_id: &UserId) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("SELECT count(*) FROM user_devices WHERE app = ?1 AND user_id = ?2")?
        .query_row(params![session.app.as_str(), user_id.as_str()], |row| row.get(0))
}

/// Keeps one pair fewer than there may be: the latest ones.
fn make_room(connection: &Connection, session: &Session, user_id: &UserId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM user_devices WHERE app = ?1 AND user_id = ?2 AND (browser, os) IN
                 (SELECT browser, os FROM user_devices WHERE app = ?1 AND user_id = ?2
                  ORDER BY first_seen_at DESC, browser DESC, os DESC LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![
            session.app.as_str(),
            user_id.as_str(),
            DEVICES_PER_USER_MAX - 1
        ])
        .map(drop)
}
