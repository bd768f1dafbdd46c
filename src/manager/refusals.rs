//! Refusals to end a session, by who was refused.
//!
//! Somebody who tries the ids of other people's sessions, or tries to end sessions with a sign-in that is too old, is a
//! reason to look closer, so an event tells of it: the first at once. Whoever is refused may try again as fast as they can,
//! and each event is a row on disk, so further ones are counted here and told with their count, at most once a minute and
//! caller: by the first attempt after the minute, or by the regular work.
//!
//! Bounded by [`CALLERS_MAX`]. What is counted and not told yet is forgotten when the server stops. Nothing here knows whose
//! session it was that somebody wanted to end: that is not the caller's to learn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::event::{Event, EventKind, WhyRefused};
use crate::session::{AppName, Session, SessionId};
use crate::user::UserId;

/// How long after an event the next one of the same caller waits, in milliseconds.
const INTERVAL_MILLIS: i64 = 60 * 1_000;
/// Callers that are remembered, each for a minute or until they are told of: more than are refused in a minute unless by
/// somebody's plan, and some 10 MB at most. Further ones are not told of.
const CALLERS_MAX: usize = 10_000;

/// Who was refused: the holder of a session, or a user whom a backend spoke for.
#[derive(Debug, Clone, Copy)]
pub enum RefusedCaller<'r> {
    /// A person, or a visitor, by their session.
    Holder(&'r Session),
    /// A user of an app.
    User(&'r AppName, &'r UserId),
}

/// Callers who were refused lately.
#[derive(Default)]
pub(super) struct RefusedRevocations {
    /// One lock: it is taken once per refusal and tick.
    by_caller: Mutex<HashMap<Caller, Counted>>,
}

/// A user, whichever session they come with; of a visitor the session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Caller {
    User(AppName, UserId),
    Visitor(SessionId),
}

struct Counted {
    told_at: Timestamp,
    /// Refusals since then.
    since: Option<Told>,
}

/// Refusals that are to be told, or were.
#[derive(Debug, Clone)]
pub(super) struct Told {
    caller: Caller,
    /// About whom; made for the latest of them.
    about: Event,
    why: WhyRefused,
    count: u64,
}

impl Told {
    fn first(refused: RefusedCaller<'_>, why: WhyRefused, now: Timestamp) -> Self {
        let kind = EventKind::SessionRevocationFailed;
        let (caller, about) = match refused {
            RefusedCaller::Holder(session) => {
                let caller = match &session.user_id {
                    Some(user_id) => Caller::User(session.app.clone(), user_id.clone()),
                    None => Caller::Visitor(session.id),
                };
                (caller, Event::about(session, kind, now))
            }
            RefusedCaller::User(app, user_id) => (
                Caller::User(app.clone(), user_id.clone()),
                Event::about_user(app, user_id, kind, now),
            ),
        };
        Self {
            caller,
            about,
            why,
            count: 1,
        }
    }

    /// These after some that were counted before.
    fn after(self, before: Option<Self>) -> Self {
        let counted = before.map_or(0, |before| before.count);
        Self {
            count: self.count.saturating_add(counted),
            ..self
        }
    }

    /// The event that tells of them at `now`.
    pub(super) fn event(&self, now: Timestamp) -> Event {
        Event::of_refused_revocations(self.about.clone(), self.why, self.count, now)
    }
}

impl Counted {
    fn is_over(&self, now: Timestamp) -> bool {
        now.millis_since(self.told_at) >= INTERVAL_MILLIS
    }
}

impl RefusedRevocations {
    /// Counts a refusal; answers what is to be told now, if anything.
    pub(super) fn note(&self, refused: RefusedCaller<'_>, why: WhyRefused, now: Timestamp) -> Option<Told> {
        let refusal = Told::first(refused, why, now);
        let mut by_caller = self.lock();
        if by_caller.len() >= CALLERS_MAX {
            by_caller.retain(|_, counted| counted.since.is_some() || !counted.is_over(now));
        }
        let is_full = by_caller.len() >= CALLERS_MAX;
        let told = match by_caller.entry(refusal.caller.clone()) {
            Entry::Occupied(mut entry) => {
                let counted = entry.get_mut();
                let all = refusal.after(counted.since.take());
                if !counted.is_over(now) {
                    counted.since = Some(all);
                    return None;
                }
                counted.told_at = now;
                all
            }
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(entry) => {
                entry.insert(Counted {
                    told_at: now,
                    since: None,
                });
                refusal
            }
        };
        Some(told)
    }

    /// What was counted and is to be told now, of so many callers at most. Callers with nothing to tell are forgotten.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<Told> {
        let mut by_caller = self.lock();
        by_caller.retain(|_, counted| counted.since.is_some() || !counted.is_over(now));
        let over = by_caller.values_mut().filter(|counted| counted.is_over(now));
        over.take(limit)
            .filter_map(|counted| {
                counted.told_at = now;
                counted.since.take()
            })
            .collect()
    }

    /// Forgets what was counted of a user of whom nothing is to be kept.
    pub(super) fn forget(&self, app: &AppName, user_id: &UserId) {
        self.lock().remove(&Caller::User(app.clone(), user_id.clone()));
    }

    /// These could not be told after all: they count for the next time.
    pub(super) fn put_back(&self, told: Told) {
        if let Some(counted) = self.lock().get_mut(&told.caller) {
            let latest = counted.since.take();
            counted.since = Some(match latest {
                Some(latest) => latest.after(Some(told)),
                None => told,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, Counted>> {
        self.by_caller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1_000)
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a user id")
    }

    /// What is told at once of a refusal of this user.
    fn note(refusals: &RefusedRevocations, name: &str, secs: i64) -> Option<u64> {
        let app = AppName::default_app();
        let told = refusals.note(
            RefusedCaller::User(&app, &user(name)),
            WhyRefused::NotTheirs,
            at(secs),
        );
        told.map(|told| told.count)
    }

    /// Whom the regular work tells of, with counts.
    fn due(refusals: &RefusedRevocations, secs: i64) -> Vec<(String, u64)> {
        let mut due: Vec<_> = refusals
            .due(at(secs), 100)
            .into_iter()
            .map(|told| {
                let user = told.about.user_id.as_ref().expect("a user");
                (user.to_string(), told.count)
            })
            .collect();
        due.sort();
        due
    }

    fn counted(name: &str, count: u64) -> (String, u64) {
        (name.to_owned(), count)
    }

    #[test]
    fn first_refusal_is_told_at_once_and_further_ones_of_the_minute_are_not() {
        let refusals = RefusedRevocations::default();
        assert_eq!(note(&refusals, "ada", 0), Some(1));
        for secs in [0, 30, 59] {
            assert_eq!(note(&refusals, "ada", secs), None, "{secs}");
        }
        assert_eq!(
            note(&refusals, "bob", 59),
            Some(1),
            "each caller has a minute of their own"
        );
    }

    #[test]
    fn attempt_after_the_minute_tells_of_those_before_it_too() {
        let refusals = RefusedRevocations::default();
        for secs in [0, 10, 20] {
            note(&refusals, "ada", secs);
        }
        assert_eq!(note(&refusals, "ada", 60), Some(3));
        assert_eq!(note(&refusals, "ada", 119), None);
        assert_eq!(note(&refusals, "ada", 120), Some(2));
        assert_eq!(note(&refusals, "ada", 500), Some(1));
    }

    #[test]
    fn regular_work_tells_of_what_was_counted_once_the_minute_is_over() {
        let refusals = RefusedRevocations::default();
        for secs in [0, 10, 20] {
            note(&refusals, "ada", secs);
        }
        note(&refusals, "bob", 0);
        assert_eq!(due(&refusals, 59), []);
        assert_eq!(due(&refusals, 60), [counted("ada", 2)]);
        assert_eq!(due(&refusals, 61), []);
        assert_eq!(note(&refusals, "ada", 119), None, "the minute began anew");
        assert_eq!(due(&refusals, 120), [counted("ada", 1)]);
    }

    #[test]
    fn regular_work_forgets_callers_with_nothing_to_tell() {
        let refusals = RefusedRevocations::default();
        note(&refusals, "ada", 0);
        due(&refusals, 59);
        assert_eq!(refusals.lock().len(), 1);
        due(&refusals, 60);
        assert_eq!(refusals.lock().len(), 0);
    }

    #[test]
    fn regular_work_tells_of_so_many_callers_at_most() {
        let refusals = RefusedRevocations::default();
        for name in ["ada", "bob", "cyd"] {
            note(&refusals, name, 0);
            note(&refusals, name, 1);
        }
        let counts: Vec<_> = (0..3).map(|_| refusals.due(at(60), 2).len()).collect();
        assert_eq!(counts, [2, 1, 0]);
    }

    #[test]
    fn user_who_is_forgotten_is_told_of_no_more() {
        let refusals = RefusedRevocations::default();
        for name in ["ada", "bob"] {
            note(&refusals, name, 0);
            note(&refusals, name, 1);
        }
        refusals.forget(&AppName::default_app(), &user("ada"));
        assert_eq!(due(&refusals, 60), [counted("bob", 1)]);
    }

    #[test]
    fn what_could_not_be_told_counts_for_the_next_time() {
        let refusals = RefusedRevocations::default();
        for secs in [0, 10, 20] {
            note(&refusals, "ada", secs);
        }
        let told = refusals.due(at(60), 10).pop().expect("something to tell");
        note(&refusals, "ada", 61);
        refusals.put_back(told);
        assert_eq!(due(&refusals, 120), [counted("ada", 3)]);
    }

    #[test]
    fn callers_are_bounded_and_make_room_when_their_minute_is_over() {
        let refusals = RefusedRevocations::default();
        for n in 0..CALLERS_MAX {
            assert_eq!(note(&refusals, &format!("user {n}"), 0), Some(1));
        }
        assert_eq!(note(&refusals, "one more", 59), None);
        assert_eq!(
            note(&refusals, "user 0", 59),
            None,
            "those that are known are counted"
        );
        assert_eq!(refusals.lock().len(), CALLERS_MAX);

        assert_eq!(note(&refusals, "one more", 60), Some(1));
        assert_eq!(refusals.lock().len(), 2, "with what is not told yet");
        assert_eq!(due(&refusals, 60), [counted("user 0", 1)]);
    }

    #[test]
    fn event_says_how_many_and_why() {
        let refusals = RefusedRevocations::default();
        let (app, ada) = (AppName::default_app(), user("ada"));
        let note = |why, secs| refusals.note(RefusedCaller::User(&app, &ada), why, at(secs));
        note(WhyRefused::NotTheirs, 0);
        note(WhyRefused::NotTheirs, 1);
        let told = note(WhyRefused::NotRecent, 60).expect("to be told");
        let event = told.event(at(60));
        let data = format!(
            r#"{{"count":2,"explanation":"{}"}}"#,
            WhyRefused::NotRecent.explanation()
        );
        assert_eq!((event.occurred_at, event.data), (at(60), Some(data)));
        assert_eq!(event.kind, EventKind::SessionRevocationFailed);
    }
}
