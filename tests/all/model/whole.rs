//! What holds in all that is kept, at any time.

use std::collections::{HashMap, HashSet};

use sessiond::clock::Timestamp;
use sessiond::event::EventKind;
use sessiond::session::{Reason, Session, SessionId};
use tempfile::TempDir;

use crate::harness::open_database;
use crate::stores::{EventRow, database_in};

const ENDINGS: [&str; 3] = ["session.revoked", "session.evicted", "session.expired"];

/// What is kept agrees with itself.
pub fn is_whole(sessions: &[Session], events: &[EventRow], now: Timestamp) -> Result<(), String> {
    told_in_order(events)?;
    ended_as_told(sessions, events)?;
    clients_have_one_session(sessions, now)
}

/// Every ended row has exactly one event of its ending, with the same moment, reason and actor, and no other row has one.
fn ended_as_told(sessions: &[Session], events: &[EventRow]) -> Result<(), String> {
    let mut told: HashMap<SessionId, Vec<&EventRow>> = HashMap::new();
    for event in events.iter().filter(|event| is_ending(event)) {
        let id = event
            .session_id
            .ok_or_else(|| format!("the ending of no session: {event:?}"))?;
        told.entry(id).or_default().push(event);
    }
    for session in sessions {
        let told = told.remove(&session.id).unwrap_or_default();
        let (expected, kind) = match &session.ending {
            Some(ending) => {
                let (reason, by) = (ending.reason.as_str(), ending.by.as_str());
                (
                    Some((ending.at, Some(reason), Some(by))),
                    Some(EventKind::of_ending(ending.by)),
                )
            }
            None => (None, None),
        };
        let is_so = |event: &&EventRow| {
            let how = (
                event.occurred_at,
                event.reason.as_deref(),
                event.ended_by.as_deref(),
            );
            Some(how) == expected && Some(event.kind.as_str()) == kind.map(EventKind::as_str)
        };
        if told.len() != usize::from(expected.is_some()) || !told.iter().all(is_so) {
            return Err(format!("ended otherwise than told: {session:?}\ntold {told:?}"));
        }
    }
    Ok(())
}

fn is_ending(event: &EventRow) -> bool {
    ENDINGS.contains(&event.kind.as_str())
}

/// No two active sessions have the same id of a client's.
fn clients_have_one_session(sessions: &[Session], now: Timestamp) -> Result<(), String> {
    let mut clients = HashSet::new();
    for session in sessions {
        let client = session.client_session_id.filter(|_| session.is_active(now));
        if client.is_some_and(|id| !clients.insert((session.app.clone(), id))) {
            return Err(format!("another active session has this id: {session:?}"));
        }
    }
    Ok(())
}

/// Data goes with the ending of its session.
pub fn no_data_is_left_behind(dir: &TempDir) -> Result<(), String> {
    let query = "SELECT count(*) FROM session_data
                 WHERE session_id NOT IN (SELECT id FROM sessions WHERE ended_at IS NULL)";
    let left: i64 = open_database(&database_in(dir))
        .query_row(query, [], |row| row.get(0))
        .expect("a count");
    (left == 0)
        .then_some(())
        .ok_or_else(|| format!("data of {left} sessions is left"))
}

/// Of each session: its creation comes first, after its end only refusals, the use of a replaced token right before the
/// ending for it, and a new device right after the sign-in. The oldest events may be gone.
fn told_in_order(events: &[EventRow]) -> Result<(), String> {
    let mut before: HashMap<SessionId, &EventRow> = HashMap::new();
    let mut ended = HashSet::new();
    for event in events {
        let Some(id) = event.session_id else { continue };
        let last = before.insert(id, event);
        let follows = |kinds: &[&str]| last.is_none_or(|last| kinds.contains(&last.kind.as_str()));
        let is_in_order = match event.kind.as_str() {
            "session.created" => last.is_none(),
            "session.revocation_failed" => true,
            _ if ended.contains(&id) => false,
            "device.new" => follows(&["session.created", "session.authenticated"]),
            _ if event.reason.as_deref() == Some(Reason::TOKEN_REUSE) => follows(&["session.suspicious"]),
            _ => true,
        };
        if !is_in_order {
            return Err(format!("out of order: {event:?}\nafter {last:?}"));
        }
        if is_ending(event) {
            ended.insert(id);
        }
    }
    Ok(())
}
