//! Uses that are answered but not written yet.
//!
//! A check notes its use here, in memory; a tick writes all of them in one transaction. Until that has committed they
//! stay, and whoever reads a row lays them over it, so that nobody sees a session as less used than it is. Before
//! anything looks at stored deadlines, the writer writes those whose stored deadline has passed ([`PendingTouches::due`]).
//!
//! Bounded: past [`PENDING_MAX`] a use of a further session is not noted. A lost touch can only shorten a session.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::session::{Session, SessionId, SuccessorSeen, Touch, UsedFrom};

/// Most sessions with pending touches: more than a server answers checks in a second, at about 250 bytes each.
pub const PENDING_MAX: usize = 200_000;

/// Pending touches by session.
#[derive(Default)]
pub struct PendingTouches {
    /// One lock: it is taken once per session and touch interval, for every miss, and for checks of a token whose successor
    /// nobody has presented; never for a plain hit.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_session: HashMap<SessionId, Pending>,
    /// No pending touch has an earlier stored deadline; so most questions for due ones are answered at once. It may belong to a
    /// touch that is written by now: looking for the next one takes all of them, and is put off until it matters.
    earliest_deadline: Option<Timestamp>,
}

struct Pending {
    touch: Touch,
    /// The earliest deadline of the row as it was read for any of these uses; the row's may be later by now. A sign-in
    /// can shorten it under what is pending, but whoever uses the session after that has read the new row.
    stored_deadline: Timestamp,
}

impl PendingTouches {
    /// Notes a use of the session whose row, as last read, is `row`; `false` if there was no room.
    pub fn note(&self, row: &Session, at: Timestamp, new_address: Option<UsedFrom>) -> bool {
        self.note_in(row, |touch| {
            touch.at = touch.at.max(at);
            if touch.first_address.is_none() {
                touch.first_address = new_address;
            } else if new_address.is_some() {
                touch.last_address = new_address;
            }
        })
    }

    /// Notes that the token of a renewal was presented, which is no use by itself; `false` if there was no room.
    pub fn note_successor(&self, row: &Session, seen: SuccessorSeen) -> bool {
        let replaced = row.replaced.map(|replaced| replaced.hash);
        self.note_in(row, |touch| {
            // Who has an older row must not put that token's successor out of mind: only a row that says that the known
            // one was replaced is newer.
            let is_news = touch
                .successor_seen
                .is_none_or(|known| replaced == Some(known.token_hash));
            if is_news {
                touch.successor_seen = Some(seen);
            }
        })
    }

    fn note_in(&self, row: &Session, note: impl FnOnce(&mut Touch)) -> bool {
        let mut inner = self.lock();
        let is_full = inner.by_session.len() >= PENDING_MAX;
        let stored_deadline = row.expires_at();
        let pending = match inner.by_session.entry(row.id) {
            Entry::Occupied(entry) => {
                let pending = entry.into_mut();
                pending.stored_deadline = pending.stored_deadline.min(stored_deadline);
                pending
            }
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(entry) => entry.insert(Pending {
                touch: Touch {
                    id: row.id,
                    // The row's own latest use, so that what is noted moves it only if it is one.
                    at: row.last_activity_at,
                    first_address: None,
                    last_address: None,
                    successor_seen: None,
                },
                stored_deadline,
            }),
        };
        note(&mut pending.touch);
        let earliest = inner
            .earliest_deadline
            .map_or(stored_deadline, |known| known.min(stored_deadline));
        inner.earliest_deadline = Some(earliest);
        true
    }

    /// The pending touch of a session.
    pub fn get(&self, id: SessionId) -> Option<Touch> {
        let inner = self.lock();
        inner.by_session.get(&id).map(|pending| pending.touch.clone())
    }

    /// All of them, by session id.
    pub fn all(&self) -> Vec<Touch> {
        in_order(self.lock().by_session.values())
    }

    /// Whether any has a stored deadline that has passed at `now`.
    pub fn any_due(&self, now: Timestamp) -> bool {
        self.lock().is_any_due(now)
    }

    /// Those whose stored deadline has passed at `now`, by session id.
    pub fn due(&self, now: Timestamp) -> Vec<Touch> {
        let mut inner = self.lock();
        if !inner.is_any_due(now) {
            return Vec::new();
        }
        let is_due = |pending: &&Pending| pending.stored_deadline <= now;
        in_order(inner.by_session.values().filter(is_due))
    }

    /// These have been committed, in this order: of each only what was added since is still pending.
    pub fn written(&self, touches: &[Touch]) {
        if touches.is_empty() {
            return;
        }
        let mut inner = self.lock();
        // The latest state of a touch first: what is left after that is no state of an earlier one.
        for touch in touches.iter().rev() {
            let Entry::Occupied(mut entry) = inner.by_session.entry(touch.id) else {
                continue;
            };
            if entry.get().touch == *touch {
                entry.remove();
            } else {
                entry.get_mut().touch.take_out(touch);
            }
        }
    }

    /// Forgets the touches of sessions that ended.
    pub fn forget(&self, ended: impl Iterator<Item = SessionId>) {
        let mut inner = self.lock();
        for id in ended {
            inner.by_session.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_any_due(&mut self, now: Timestamp) -> bool {
        let may_be_due = |earliest: &Option<Timestamp>| earliest.is_some_and(|earliest| earliest <= now);
        if may_be_due(&self.earliest_deadline) {
            let deadlines = self.by_session.values().map(|pending| pending.stored_deadline);
            self.earliest_deadline = deadlines.min();
        }
        may_be_due(&self.earliest_deadline)
    }
}

/// In key order neighbouring rows share pages, and what is told of them comes in one order whoever writes.
fn in_order<'p>(pending: impl Iterator<Item = &'p Pending>) -> Vec<Touch> {
    let mut touches: Vec<Touch> = pending.map(|pending| pending.touch.clone()).collect();
    touches.sort_unstable_by_key(|touch| touch.id);
    touches
}
