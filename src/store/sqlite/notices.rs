//! Telling that a deadline is near, inside the writer's transaction.
//!
//! A row says how long before its deadlines that is to be told (`expiring_notice`), and when to look at it next
//! (`notice_at`). Uses do not write the latter: a row that was used since is found too early, and is given its new moment
//! then. So whoever is not told pays nothing, and those who are pay once in a while rather than with each use.
//!
//! No column says what was told. While the idle deadline may still be told, the moment to look is before that of the
//! absolute one; as soon as only the latter is left, because the other was told or has come to lie behind it, the moment is
//! exactly that deadline less the notice. A use cannot bring the idle deadline back before the absolute one.

use rusqlite::params;

use super::changes::write_event;
use super::reads;
use super::writer::Batch;
use crate::clock::Timestamp;
use crate::event::Event;
use crate::session::{Deadline, Session, SessionId};

/// A row that is to be looked at.
struct Look {
    id: SessionId,
    notice_millis: i64,
    at: Timestamp,
}

/// When to look first at a session that has just been signed in with.
pub(super) fn first_look(session: &Session, notice_millis: Option<i64>) -> Option<Timestamp> {
    notice_millis.map(|millis| session.expires_at().plus_millis(-millis))
}

pub(super) fn tell_expiring(batch: &mut Batch<'_>, now: Timestamp, limit: usize) -> rusqlite::Result<usize> {
    let mut looks = batch
        .connection
        .prepare_cached(
            "SELECT id, expiring_notice, notice_at FROM sessions
             WHERE notice_at IS NOT NULL AND ended_at IS NULL AND notice_at <= ?1 ORDER BY notice_at LIMIT ?2",
        )?
        .query_map(params![now, limit], |row| {
            Ok(Look {
                id: row.get(0)?,
                notice_millis: row.get(1)?,
                at: row.get(2)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    looks.sort_unstable_by_key(|look| look.id);
    for look in &looks {
        // What is told is on disk: a use that is pending may move the deadline.
        batch.write_pending_touch(look.id, now)?;
        let Some(session) = reads::find(batch.connection, look.id)? else {
            continue;
        };
        let next = tell(batch, &session, look, now)?;
        batch
            .connection
            .prepare_cached("UPDATE sessions SET notice_at = ?2 WHERE id = ?1")?
            .execute(params![look.id, next])?;
    }
    Ok(looks.len())
}

/// Tells what is to be told at `now`; answers when to look again.
fn tell(
    batch: &mut Batch<'_>,
    session: &Session,
    look: &Look,
    now: Timestamp,
) -> rusqlite::Result<Option<Timestamp>> {
    if !session.is_active(now) {
        return Ok(None);
    }
    let before = |deadline: Timestamp| deadline.plus_millis(-look.notice_millis);
    let (expires_at, absolute) = (session.expires_at(), session.absolute_expires_at);
    if look.at < before(absolute) && expires_at < absolute {
        if now < before(expires_at) {
            return Ok(Some(before(expires_at)));
        }
        let event = Event::of_near_deadline(session, Deadline::Idle, expires_at, now);
        write_event(batch, event, now)?;
    }
    if now < before(absolute) {
        return Ok(Some(before(absolute)));
    }
    let event = Event::of_near_deadline(session, Deadline::Absolute, absolute, now);
    write_event(batch, event, now)?;
    Ok(None)
}
