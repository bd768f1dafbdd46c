//! All that is kept of a user goes, a bounded batch at a time, inside the writer's transaction.
//!
//! Sessions go before events, as in a purge: a session that ended has the event of its ending as long as it is there. What
//! a user is found by goes last, so that an erasure that was cut short is finished by the next one. Of an event its
//! number stays: followers and webhooks have their places among these, and tell from the smallest whether they missed
//! some. The row goes with those that are as old.
//!
//! Deleted bytes are overwritten (see `prepare`), so that they are gone from the file with the next checkpoint, but for one case:
//! where SQLite splits a page, the old bytes of the rows that it moves to another can stay in the unused part of the first, and so,
//! rarely, a copy of an erased id, until that part is written over. Only `VACUUM` makes sure; it is left to the operator, as
//! it writes the whole file and needs the server to stand still.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::changes::end_all_of_user;
use super::rows::ERASED;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::session::{AppName, SessionId};
use crate::store::{EndRequest, Erased};
use crate::user::UserId;

pub(super) fn erase_user(
    batch: &mut Batch<'_>,
    app: &AppName,
    user_id: &UserId,
    request: &EndRequest,
    limit: usize,
) -> rusqlite::Result<Erased> {
    // Who signed in while the batches before were under way.
    end_all_of_user(batch, app, user_id, None, request)?;
    let connection = batch.connection;
    let sessions = delete_sessions(connection, app, user_id, limit)?;
    let events = erase_events(connection, app, user_id, limit - sessions)?;
    let more = sessions + events >= limit;
    if !more {
        delete_the_rest(connection, app, user_id)?;
    }
    Ok(Erased {
        sessions: sessions as u64,
        events: events as u64,
        more,
    })
}

/// Sessions, all of them ended, and the calls that can repeat their creation. Their data went when they ended.
fn delete_sessions(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
    limit: usize,
) -> rusqlite::Result<usize> {
    let sessions = connection
        .prepare_cached(
            "SELECT id, created_at FROM sessions WHERE app = ?1 AND user_id = ?2 AND ended_at IS NOT NULL
             ORDER BY signed_in_at, id LIMIT ?3",
        )?
        .query_map(params![app.as_str(), user_id.as_str(), limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<Vec<(SessionId, Timestamp)>>>()?;
    for (id, created_at) in &sessions {
        // By the index on the time, which a call has from the session that it made.
        connection
            .prepare_cached("DELETE FROM idempotency_keys WHERE created_at = ?1 AND session_id = ?2")?
            .execute(params![created_at, id])?;
        connection
            .prepare_cached("DELETE FROM sessions WHERE id = ?1")?
            .execute([id])?;
    }
    Ok(sessions.len())
}

/// The user's events, each with those of its session from before that was theirs.
fn erase_events(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
    limit: usize,
) -> rusqlite::Result<usize> {
    let of_user = Value::Text(user_id.as_str().to_owned());
    let mut erased = 0;
    for (number, session_id) in events_about(connection, app, &of_user, limit)? {
        if let Some(id) = session_id {
            let of_session = Value::Blob(id.as_bytes().to_vec());
            for (number, _) in events_about(connection, app, &of_session, limit - erased)? {
                erase_event(connection, app, number)?;
                erased += 1;
            }
        }
        // What leads to those of before goes after them.
        if erased == limit {
            break;
        }
        erase_event(connection, app, number)?;
        erased += 1;
    }
    Ok(erased)
}

/// Numbers of the events about a user, or about a session while it was nobody's, and their sessions.
fn events_about(
    connection: &Connection,
    app: &AppName,
    subject: &Value,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Option<SessionId>)>> {
    connection
        .prepare_cached(
            "SELECT id, session_id FROM events WHERE app = ?1 AND coalesce(user_id, session_id) = ?2
             ORDER BY id LIMIT ?3",
        )?
        .query_map(params![app.as_str(), subject, limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect()
}

/// Leaves the number of an event and when it was written. Deliveries of it go: those that are pending are lost.
fn erase_event(connection: &Connection, app: &AppName, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM webhook_deliveries
             WHERE webhook_id IN (SELECT id FROM webhooks WHERE app = ?1) AND event_id = ?2",
        )?
        .execute(params![app.as_str(), number])?;
    connection
        .prepare_cached(
            "UPDATE events SET type = ?2, occurred_at = recorded_at, app = '', user_id = NULL, session_id = NULL,
                 client_session_id = NULL, reason = NULL, ended_by = NULL, device_info = NULL, ip_address = NULL,
                 location = NULL, data = NULL
             WHERE id = ?1",
        )?
        .execute(params![number, ERASED])
        .map(drop)
}

/// Deliveries that name the user and are kept longer than their events, devices, settings.
fn delete_the_rest(connection: &Connection, app: &AppName, user_id: &UserId) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM webhook_deliveries WHERE webhook_id IN (SELECT id FROM webhooks WHERE app = ?1)
             AND event_id < coalesce((SELECT min(id) FROM events), 9223372036854775807) AND subject = ?2",
        "DELETE FROM user_devices WHERE app = ?1 AND user_id = ?2",
        "DELETE FROM users WHERE app = ?1 AND user_id = ?2",
    ] {
        connection
            .prepare_cached(sql)?
            .execute(params![app.as_str(), user_id.as_str()])?;
    }
    Ok(())
}
