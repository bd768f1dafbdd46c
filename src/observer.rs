//! Whoever is told about events: code in this process, live streams, webhooks.
//!
//! Events are committed rows with a growing number. A [`Follower`] keeps its own place among them, is rung after a commit
//! that wrote something it asks for, and reads on from its place. So nobody hears of what was not committed; one that is
//! slow, fails or goes away delays nobody; and what it has not read yet takes no memory and is not lost as long as it is
//! kept.
//!
//! [`Feed::subscribe`] calls a function for each event, on a thread of its own. `examples/observe.rs` prints them.

pub mod webhook;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::Error;
use crate::event::{Epoch, Event, EventId, EventKind, RecordedEvent};
use crate::session::{AppName, SessionId};
use crate::store::{About, Committed, EventList, EventPage, EventsFrom, SessionStore};

/// Events that a follower reads at once.
const PAGE_LEN: usize = 100;
/// How long a failing observer is left alone before it gets the same event again: the first time, and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// That nothing was rung.
const NOTHING: u64 = u64::MAX;

/// Which events are asked for.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// Of one app, or of all.
    pub app: Option<AppName>,
    /// About whom; with a user or a session an app is needed.
    pub about: About,
    /// Of these kinds; empty is of all.
    pub kinds: Vec<EventKind>,
}

impl EventFilter {
    /// Everything.
    pub const ALL: Self = Self {
        app: None,
        about: About::Anyone,
        kinds: Vec::new(),
    };

    /// Everything of these kinds.
    pub fn of_kinds(kinds: impl Into<Vec<EventKind>>) -> Self {
        Self {
            kinds: kinds.into(),
            ..Self::ALL
        }
    }

    /// Whether it asks for this event.
    pub fn matches(&self, event: &Event) -> bool {
        self.about.includes(event)
            && self.app.as_ref().is_none_or(|app| *app == event.app)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

/// The events of a store, as they come.
pub struct Feed {
    store: Arc<dyn SessionStore>,
    epoch: Epoch,
    bells: Arc<Bells>,
}

/// What is rung after a commit. Apart from the feed, as the store's writer holds it, and a feed holds its store.
#[derive(Default)]
pub struct Bells {
    waiting: Mutex<Waiting>,
    /// The number of the newest event that all who ask for it were rung for.
    newest: AtomicU64,
    is_closed: AtomicBool,
}

/// Who is to be rung. Those who ask for one subject's events are found by it: thousands of people may look at their own,
/// and a commit must not ask each of them.
#[derive(Default)]
struct Waiting {
    next_id: u64,
    of_many: HashMap<u64, (EventFilter, Arc<Bell>)>,
    by_subject: HashMap<(AppName, About), Ringing>,
    by_session: HashMap<SessionId, Ringing>,
}

/// The bells of those who wait for the same, each with its number.
type Ringing = Vec<(u64, Arc<Bell>)>;

impl Waiting {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// One who waits.
struct Bell {
    /// Of which kinds an event must be to ring for it; empty is of all.
    kinds: Vec<EventKind>,
    rung: Notify,
    /// The first number it was rung for since it was last looked at, or [`NOTHING`].
    first: AtomicU64,
}

impl Bell {
    fn new(kinds: &[EventKind]) -> Arc<Self> {
        Arc::new(Self {
            kinds: kinds.to_vec(),
            rung: Notify::new(),
            first: AtomicU64::new(NOTHING),
        })
    }

    fn ring(&self, number: u64) {
        self.first.fetch_min(number, Ordering::AcqRel);
        self.rung.notify_one();
    }
}

impl Bells {
    /// This was committed: rings whoever it concerns. Called by the store's writer, and never waits.
    pub fn announce(&self, committed: &Committed) {
        let waiting = self.waiting();
        if !waiting.by_session.is_empty() {
            let successors = committed
                .touched
                .iter()
                .filter(|touch| touch.successor_seen.is_some());
            let changed = committed
                .changed
                .iter()
                .copied()
                .chain(successors.map(|touch| touch.id));
            for (_, bell) in changed.filter_map(|id| waiting.by_session.get(&id)).flatten() {
                bell.rung.notify_one();
            }
        }
        for (filter, bell) in waiting.of_many.values() {
            let mut asked_for = committed
                .events
                .iter()
                .filter(|recorded| filter.matches(&recorded.event));
            if let Some(first) = asked_for.next() {
                bell.ring(first.number);
            }
        }
        if !waiting.by_subject.is_empty() {
            for recorded in &committed.events {
                let subject = About::subject_of(&recorded.event);
                let subject = subject.map(|subject| (recorded.event.app.clone(), subject));
                let asking = subject.and_then(|subject| waiting.by_subject.get(&subject));
                for (_, bell) in asking.into_iter().flatten() {
                    if bell.kinds.is_empty() || bell.kinds.contains(&recorded.event.kind) {
                        bell.ring(recorded.number);
                    }
                }
            }
        }
        drop(waiting);
        if let Some(newest) = committed.events.last() {
            self.newest.fetch_max(newest.number, Ordering::AcqRel);
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        let waiting = self.waiting();
        let of_subjects = waiting.by_subject.values().flatten().map(|(_, bell)| bell);
        for bell in waiting.of_many.values().map(|(_, bell)| bell).chain(of_subjects) {
            bell.rung.notify_one();
        }
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// The feed of a store, whose commits ring these bells.
    pub async fn new(store: Arc<dyn SessionStore>, bells: Arc<Bells>) -> Result<Arc<Self>, Error> {
        let bounds = store.event_bounds().await?;
        bells.newest.fetch_max(bounds.last, Ordering::AcqRel);
        Ok(Arc::new(Self {
            store,
            epoch: bounds.epoch,
            bells,
        }))
    }

    /// What the numbers of these events belong to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The place after an event, or without one the place after the newest: who comes late gets no history unasked.
    /// [`Error::CursorGone`] if the event is of another epoch, is no longer kept, or has not come yet. The place before the
    /// first event of all is good while that is kept: who came when there was none was given it.
    pub async fn place(&self, after: Option<EventId>) -> Result<u64, Error> {
        let bounds = self.store.event_bounds().await?;
        let Some(after) = after else {
            return Ok(bounds.last);
        };
        // After the newest one nothing can be missed, and before the first of all neither.
        let is_known = |number: &u64| {
            (bounds.first..=bounds.last).contains(number)
                || *number == bounds.last
                || (*number == 0 && bounds.first == 1)
        };
        self.epoch.number(after).filter(is_known).ok_or(Error::CursorGone)
    }

    /// A page of events, for who asks now and then. `after` is the last event of the page before, in the same direction.
    pub async fn page(
        &self,
        filter: EventFilter,
        after: Option<EventId>,
        newest_first: bool,
        limit: usize,
    ) -> Result<EventPage, Error> {
        let place = match after {
            Some(_) => Some(self.place(after).await?),
            None => None,
        };
        let from = if newest_first {
            EventsFrom::Before(place.unwrap_or(u64::MAX))
        } else {
            EventsFrom::After(place.unwrap_or(0))
        };
        let list = EventList {
            app: filter.app,
            about: filter.about,
            kinds: filter.kinds,
            from,
            limit,
        };
        let page = self.store.list_events(list).await?;
        // Deleted since the place was looked at.
        if !newest_first && place.is_some_and(|place| page.bounds.first > place + 1) {
            return Err(Error::CursorGone);
        }
        Ok(page)
    }

    /// Follows the events after a place, as [`Feed::place`] gives it, or as a follower had it before.
    pub fn follow(self: &Arc<Self>, filter: EventFilter, after: u64) -> Follower {
        let bell = Bell::new(&filter.kinds);
        let mut waiting = self.bells.waiting();
        let id = waiting.next_id();
        match subject_asked_for(&filter) {
            Some(subject) => waiting
                .by_subject
                .entry(subject)
                .or_default()
                .push((id, Arc::clone(&bell))),
            None => {
                waiting.of_many.insert(id, (filter.clone(), Arc::clone(&bell)));
            }
        }
        drop(waiting);
        Follower {
            feed: Arc::clone(self),
            id,
            filter,
            bell,
            place: after,
            unread_from: after.saturating_add(1),
        }
    }

    /// Watches one session: whatever changes its row or its tokens rings.
    pub fn watch(self: &Arc<Self>, session_id: SessionId) -> SessionWatch {
        let bell = Bell::new(&[]);
        let mut waiting = self.bells.waiting();
        let id = waiting.next_id();
        waiting
            .by_session
            .entry(session_id)
            .or_default()
            .push((id, Arc::clone(&bell)));
        drop(waiting);
        SessionWatch {
            feed: Arc::clone(self),
            id,
            session_id,
            bell,
        }
    }

    /// Calls `observer` for each event after a place, in their order, on a thread of its own. One that fails or panics gets
    /// the same event again, after a pause that grows to a minute; nobody else notices. Must be called in a Tokio runtime,
    /// which has to go on running.
    pub fn subscribe(
        self: &Arc<Self>,
        filter: EventFilter,
        after: u64,
        observer: impl FnMut(Notice<'_>) -> Result<(), ObserverError> + Send + 'static,
    ) -> Subscription {
        let stop = Arc::new(Stop::default());
        let runtime = tokio::runtime::Handle::current();
        let follower = self.follow(filter, after);
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("sessiond-observer".into())
            .spawn(move || run_observer(&runtime, follower, &stopped, observer))
            .expect("the operating system gives a thread");
        Subscription { stop }
    }

    /// How many wait to be rung for. For tests: whoever has gone is not among them.
    #[doc(hidden)]
    pub fn bells_len(&self) -> usize {
        let waiting = self.bells.waiting();
        let by_subject = waiting.by_subject.values().map(Vec::len).sum::<usize>();
        let by_session = waiting.by_session.values().map(Vec::len).sum::<usize>();
        waiting.of_many.len() + by_subject + by_session
    }

    /// Ends all followers: what each gets next is [`FollowError::Closed`].
    pub fn close(&self) {
        self.bells.close();
    }
}

fn subject_asked_for(filter: &EventFilter) -> Option<(AppName, About)> {
    let subject = Some(&filter.about).filter(|about| **about != About::Anyone)?;
    Some((filter.app.clone()?, subject.clone()))
}

/// Why a follower cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Events that it had not read are no longer kept. It goes on with those that are.
    #[error("events were deleted before they were read")]
    Gone,
    /// The server stops.
    #[error("the server stops")]
    Closed,
    /// They cannot be read now; it can be tried again.
    #[error(transparent)]
    Store(#[from] Error),
}

/// One who follows the events, each with its own place.
pub struct Follower {
    feed: Arc<Feed>,
    id: u64,
    filter: EventFilter,
    bell: Arc<Bell>,
    place: u64,
    /// The first number that may be an event to be read, or [`NOTHING`].
    unread_from: u64,
}

impl Follower {
    /// The next events, at least one, in their order; waits until there are any. May be cancelled: nothing is lost.
    pub async fn next(&mut self) -> Result<Vec<RecordedEvent>, FollowError> {
        loop {
            let events = self.pending().await?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.rung().await;
        }
    }

    /// Waits until there may be something to read, or the feed is closed. May be cancelled.
    pub async fn rung(&self) {
        if self.unread_from == NOTHING && self.bell.first.load(Ordering::Acquire) == NOTHING {
            self.bell.rung.notified().await;
        }
    }

    /// The next events, if there are any now; of very many only the first.
    pub async fn pending(&mut self) -> Result<Vec<RecordedEvent>, FollowError> {
        loop {
            if self.feed.bells.is_closed() {
                return Err(FollowError::Closed);
            }
            let rung = self.bell.first.swap(NOTHING, Ordering::AcqRel);
            if self.unread_from == NOTHING && rung != NOTHING {
                // Whatever lies before is not for this follower, however much it is; or it was read already, as what is
                // committed can be read before it is rung for.
                self.place = self.place.max(rung - 1);
                self.unread_from = self.place.saturating_add(1);
            }
            if self.unread_from == NOTHING {
                return Ok(Vec::new());
            }
            let list = EventList {
                app: self.filter.app.clone(),
                about: self.filter.about.clone(),
                kinds: self.filter.kinds.clone(),
                from: EventsFrom::After(self.place),
                limit: PAGE_LEN,
            };
            let page = self.feed.store.list_events(list).await?;
            if page.bounds.first > self.unread_from {
                self.place = page.bounds.first - 1;
                self.unread_from = page.bounds.first;
                return Err(FollowError::Gone);
            }
            if page.more {
                self.place = page.looked_to;
                self.unread_from = self.place + 1;
            } else {
                self.place = self.place.max(page.bounds.last);
                self.unread_from = NOTHING;
            }
            if !page.events.is_empty() {
                return Ok(page.events);
            }
        }
    }

    /// The number up to which there is nothing more for this follower: where another one can go on after it.
    pub fn place(&mut self) -> u64 {
        // In this order: whatever it asks for was rung before the number was raised.
        let newest = self.feed.bells.newest.load(Ordering::Acquire);
        if self.unread_from == NOTHING && self.bell.first.load(Ordering::Acquire) == NOTHING {
            self.place = self.place.max(newest);
        }
        self.place
    }

    /// Has the next page read without having been rung: what is committed may not have been rung for yet.
    pub fn look_again(&mut self) {
        self.unread_from = self.unread_from.min(self.place.saturating_add(1));
    }

    /// Passes everything over that has come so far.
    pub async fn skip(&mut self) -> Result<(), Error> {
        self.bell.first.store(NOTHING, Ordering::Release);
        self.place = self.feed.place(None).await?;
        self.unread_from = self.place + 1;
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut waiting = self.feed.bells.waiting();
        match subject_asked_for(&self.filter) {
            Some(subject) => remove(&mut waiting.by_subject, &subject, self.id),
            None => drop(waiting.of_many.remove(&self.id)),
        }
    }
}

fn remove<K: std::hash::Hash + Eq>(bells: &mut HashMap<K, Ringing>, key: &K, id: u64) {
    if let Some(waiting) = bells.get_mut(key) {
        waiting.retain(|(other, _)| *other != id);
        if waiting.is_empty() {
            bells.remove(key);
        }
    }
}

/// One who waits for changes of a session.
pub struct SessionWatch {
    feed: Arc<Feed>,
    id: u64,
    session_id: SessionId,
    bell: Arc<Bell>,
}

impl SessionWatch {
    /// Waits until the session was changed since the last time. May be cancelled.
    pub async fn changed(&self) {
        self.bell.rung.notified().await;
    }
}

impl Drop for SessionWatch {
    fn drop(&mut self) {
        remove(
            &mut self.feed.bells.waiting().by_session,
            &self.session_id,
            self.id,
        );
    }
}

/// What an observer is told.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'e> {
    /// This happened.
    Event(&'e RecordedEvent),
    /// Events were deleted before this observer had read them, as their retention was over.
    Missed,
}

/// Why an observer could not do with an event what it is for: it gets the event again.
pub type ObserverError = Box<dyn std::error::Error + Send + Sync>;

/// An observer's subscription; dropped, it goes on.
#[must_use = "without it the observer cannot be unsubscribed"]
pub struct Subscription {
    stop: Arc<Stop>,
}

impl Subscription {
    /// Ends it, without waiting: the call that is under way, or just about to be, ends by itself. No other follows.
    pub fn unsubscribe(self) {
        *self.stop.is_stopped() = true;
        self.stop.asked.notify_one();
    }
}

#[derive(Default)]
struct Stop {
    is_stopped: Mutex<bool>,
    asked: Notify,
}

impl Stop {
    fn is_stopped(&self) -> MutexGuard<'_, bool> {
        self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run_observer(
    runtime: &tokio::runtime::Handle,
    mut follower: Follower,
    stop: &Stop,
    mut observer: impl FnMut(Notice<'_>) -> Result<(), ObserverError>,
) {
    let bells = Arc::clone(&follower.feed.bells);
    let mut tell = |notice: Notice<'_>| {
        let mut pause = RETRY;
        loop {
            // One that fails always must not outlive the server that it may need.
            if *stop.is_stopped() || bells.is_closed() {
                return;
            }
            // A panic is its own affair, as an error is: it keeps what it had, and gets the same once more.
            let failure = match catch_unwind(AssertUnwindSafe(|| observer(notice))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked".to_owned(),
            };
            log::warn!("an observer failed and is told again in {pause:?}: {failure}");
            runtime.block_on(async {
                tokio::select! {
                    () = stop.asked.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            });
            pause = (pause * 2).min(RETRY_MAX);
        }
    };
    loop {
        let next = runtime.block_on(async {
            tokio::select! {
                () = stop.asked.notified() => None,
                next = follower.next() => Some(next),
            }
        });
        match next {
            Some(Ok(events)) => events.iter().for_each(|event| tell(Notice::Event(event))),
            Some(Err(FollowError::Gone)) => tell(Notice::Missed),
            Some(Err(FollowError::Store(error))) => {
                log::warn!("events for an observer cannot be read and are tried again: {error}");
                // Made where it runs: a timer belongs to its runtime.
                runtime.block_on(async { tokio::time::sleep(RETRY).await });
            }
            Some(Err(FollowError::Closed)) | None => return,
        }
        if *stop.is_stopped() {
            return;
        }
    }
}
