//! Copies of active sessions in memory: a sharded LRU by session id, with fenced fills.
//!
//! A copy may be used by a check only because no ending can slip past it. Whoever misses takes a [`Ticket`], reads
//! the store, and hands the row in with the ticket. Before a commit the writer *fences* the ids it changes: their
//! copies go, fills of them that are under way are spoilt, and none is begun until the commit has returned. So a reader
//! that read the old row and was held up can no longer put it here.
//!
//! Capacity evictions, creates and touches fence nothing, so that the cache warms under load. A touch that is
//! committed spoils only fills of that session that are under way, as the row they read may lack it, and moves the copy
//! that is there: the use may have been answered from another one.
//!
//! Everything is bounded: entries, bytes, and fills under way. Ended and unknown sessions are never kept. Deliberately
//! absent: time, I/O and errors.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
#[cfg(not(test))]
use std::sync::{Mutex, MutexGuard};
// In unit tests every order in which threads come to these locks is gone through.
#[cfg(test)]
use loom::sync::{Mutex, MutexGuard};

use lru::LruCache;

use crate::clock::Timestamp;
use crate::metrics::CacheMetrics;
use crate::session::{Grace, SecretHash, Session, SessionId, SuccessorSeen, Touch, WhichToken, expires_at};

/// Locks that the entries are spread over: with a few workers two seldom meet at one.
const SHARDS: usize = 16;
/// Fills of one shard that may be under way; one more reads without filling.
const FILLS_PER_SHARD_MAX: usize = 1_024;
/// What an entry costs beside its session: the map's slot, the list's links, the counters.
const ENTRY_OVERHEAD: usize = 160;

/// A session in the cache: the row as it was read, and what moves without a copy being made: its latest use, and the end
/// of a replaced token's grace, once its successor was seen.
#[derive(Debug)]
pub struct CachedSession {
    session: Session,
    last_activity: AtomicI64,
    /// [`GRACE_OPEN`] until the successor is seen; of interest only if the row says that the grace is open.
    grace_ends_at: AtomicI64,
    /// When it was last asked that a use of the replaced token be told.
    reported_at: AtomicI64,
}

/// The grace of a replaced token whose successor nobody has presented.
const GRACE_OPEN: i64 = i64::MAX;

impl CachedSession {
    /// A session as it was read, with its pending touch.
    pub fn new(session: Session) -> Self {
        Self {
            last_activity: AtomicI64::new(session.last_activity_at.as_millis()),
            grace_ends_at: AtomicI64::new(GRACE_OPEN),
            reported_at: AtomicI64::new(i64::MIN),
            session,
        }
    }

    /// The row as it was read; for its time of use ask [`CachedSession::last_activity_at`].
    pub fn row(&self) -> &Session {
        &self.session
    }

    /// The latest use.
    pub fn last_activity_at(&self) -> Timestamp {
        Timestamp::from_millis(self.last_activity.load(Ordering::Acquire))
    }

    /// Moves the latest use forward.
    pub fn record_use(&self, at: Timestamp) {
        self.last_activity.fetch_max(at.as_millis(), Ordering::AcqRel);
    }

    /// The deadline after the latest use.
    pub fn expires_at(&self) -> Timestamp {
        expires_at(
            self.last_activity_at(),
            self.session.idle_timeout_millis,
            self.session.absolute_expires_at,
        )
    }

    /// Which of the session's tokens has this hash, with its grace as it is now.
    pub fn which_token(&self, presented: &SecretHash) -> Option<WhichToken> {
        let which = self.session.which_token(presented)?;
        Some(match which {
            WhichToken::Replaced(mut replaced) => {
                replaced.grace = self.grace_now(replaced.grace);
                WhichToken::Replaced(replaced)
            }
            WhichToken::Current => WhichToken::Current,
        })
    }

    /// Whether the token before the current one is good until somebody presents the current one.
    pub fn is_grace_open(&self) -> bool {
        let grace = self.session.replaced.map(|replaced| replaced.grace);
        grace.is_some_and(|grace| matches!(self.grace_now(grace), Grace::Open { .. }))
    }

    /// The current token was seen: the grace of the one before it ends then, or earlier if that is known.
    pub fn note_successor(&self, seen: &SuccessorSeen) {
        if seen.token_hash == self.session.token_hash {
            self.grace_ends_at
                .fetch_min(seen.grace_ends_at.as_millis(), Ordering::AcqRel);
        }
    }

    /// Whether a use of the replaced token at `now` is the first within the interval that is to be told.
    pub fn is_first_report(&self, now: Timestamp, interval_millis: i64) -> bool {
        let last = Timestamp::from_millis(self.reported_at.load(Ordering::Acquire));
        now.millis_since(last) >= interval_millis
            && self
                .reported_at
                .compare_exchange(
                    last.as_millis(),
                    now.as_millis(),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }

    fn grace_now(&self, grace: Grace) -> Grace {
        match (grace, self.grace_ends_at.load(Ordering::Acquire)) {
            (Grace::Open { .. }, GRACE_OPEN) => grace,
            (Grace::Open { nonce }, ends_at) => Grace::Until {
                ends_at: Timestamp::from_millis(ends_at),
                nonce: Some(nonce),
            },
            (grace, _) => grace,
        }
    }

    /// The session with its latest use.
    pub fn to_session(&self) -> Session {
        let mut session = Session {
            last_activity_at: self.last_activity_at(),
            ..self.session.clone()
        };
        if let Some(replaced) = &mut session.replaced {
            replaced.grace = self.grace_now(replaced.grace);
        }
        session
    }
}

/// The cache.
pub struct SessionCache {
    shards: Box<[Mutex<Shard>]>,
    capacity_per_shard: NonZeroUsize,
    bytes_per_shard: usize,
    metrics: CacheMetrics,
}

/// One lock's part: entries, and what is under way for ids that fall here. Sections are short and never wait.
struct Shard {
    entries: LruCache<SessionId, Arc<CachedSession>>,
    bytes: usize,
    /// Fills under way. A number per id that grows when they are spoilt, and how many tickets are out.
    fills: HashMap<SessionId, Fill>,
    /// Ids whose commit is under way, with the number of fences around each.
    fenced: HashMap<SessionId, usize>,
}

#[derive(Default)]
struct Fill {
    generation: u64,
    tickets: usize,
}

/// The right to hand in a row that is read after the ticket was taken.
#[must_use]
pub struct Ticket<'c> {
    cache: &'c SessionCache,
    id: SessionId,
    /// `None`: this fill is not to be kept.
    generation: Option<u64>,
}

/// What became of a row that was handed in.
#[derive(Debug)]
pub enum Filled {
    /// It is kept, or at least as good as kept: nothing has changed since the ticket.
    Current(Arc<CachedSession>),
    /// The session changed since the ticket: read it again for an up-to-date answer.
    Stale(Arc<CachedSession>),
}

impl SessionCache {
    /// A cache of at most `capacity` sessions and about `bytes_max` bytes.
    pub fn new(capacity: usize, bytes_max: usize, metrics: CacheMetrics) -> Self {
        let shards = SHARDS.min(capacity.max(1));
        let capacity_per_shard = NonZeroUsize::new(capacity / shards).unwrap_or(NonZeroUsize::MIN);
        let shard = || {
            Mutex::new(Shard {
                entries: LruCache::unbounded(),
                bytes: 0,
                fills: HashMap::new(),
                fenced: HashMap::new(),
            })
        };
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            capacity_per_shard,
            bytes_per_shard: bytes_max / shards,
            metrics,
        }
    }

    /// The copy of a session.
    pub fn get(&self, id: SessionId) -> Option<Arc<CachedSession>> {
        let found = self.shard(id).entries.get(&id).cloned();
        if found.is_some() {
            &self.metrics.hits
        } else {
            &self.metrics.misses
        }
        .inc();
        found
    }

    /// Takes a ticket; to be done *before* the row is read.
    pub fn begin_fill(&self, id: SessionId) -> Ticket<'_> {
        let mut shard = self.shard(id);
        let is_full = shard.fills.len() >= FILLS_PER_SHARD_MAX && !shard.fills.contains_key(&id);
        let generation = (!is_full && !shard.fenced.contains_key(&id)).then(|| {
            let fill = shard.fills.entry(id).or_default();
            fill.tickets += 1;
            fill.generation
        });
        Ticket {
            cache: self,
            id,
            generation,
        }
    }

    /// Drops the copies of these sessions and spoils their fills; none is begun until [`SessionCache::release`].
    pub fn fence(&self, ids: &[SessionId]) {
        for id in ids {
            let mut shard = self.shard(*id);
            *shard.fenced.entry(*id).or_default() += 1;
            shard.spoil_fills(*id);
            if let Some(removed) = shard.entries.pop(id) {
                shard.bytes -= weight(&removed);
                self.metrics.entries.dec();
            }
        }
    }

    /// Ends the fence around these sessions.
    pub fn release(&self, ids: &[SessionId]) {
        for id in ids {
            let mut shard = self.shard(*id);
            if let Some(count) = shard.fenced.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    shard.fenced.remove(id);
                }
            }
        }
    }

    /// These uses were written: the copies get them, whichever copies they were answered from, and fills that are
    /// under way are spoilt.
    pub fn note_written(&self, touches: &[Touch]) {
        for touch in touches {
            let mut shard = self.shard(touch.id);
            shard.spoil_fills(touch.id);
            if let Some(entry) = shard.entries.peek(&touch.id) {
                entry.record_use(touch.at);
                touch
                    .successor_seen
                    .iter()
                    .for_each(|seen| entry.note_successor(seen));
            }
        }
    }

    /// A session was used through a copy that is not kept: the one that is here gets the use as well.
    pub fn note_use(&self, id: SessionId, at: Timestamp) {
        if let Some(entry) = self.shard(id).entries.peek(&id) {
            entry.record_use(at);
        }
    }

    /// Replaces the copy of a session that is there by a changed one; nothing happens if there is none.
    pub fn change(&self, id: SessionId, change: impl FnOnce(&mut Session)) {
        let mut shard = self.shard(id);
        let Some(entry) = shard.entries.peek(&id) else {
            return;
        };
        let before = weight(entry);
        let mut session = entry.to_session();
        change(&mut session);
        let entry = Arc::new(CachedSession::new(session));
        shard.bytes = shard.bytes - before + weight(&entry);
        // `put` would count this as a use, which it is: a change is only made by one.
        shard.entries.put(id, entry);
    }

    fn shard(&self, id: SessionId) -> MutexGuard<'_, Shard> {
        // The last byte of an id is random.
        let index = usize::from(id.as_bytes()[15]) % self.shards.len();
        // A panic inside a section cannot happen between its steps; if it did, entries are still whole.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn spoil_fills(&mut self, id: SessionId) {
        if let Some(fill) = self.fills.get_mut(&id) {
            fill.generation += 1;
        }
    }
}

impl Ticket<'_> {
    /// Whether nothing has changed the session since the ticket was taken, as far as is known.
    pub fn is_current(&self) -> bool {
        let shard = self.cache.shard(self.id);
        self.generation.is_some() && shard.fills.get(&self.id).map(|fill| fill.generation) == self.generation
    }

    /// Hands in the row that was read. It is kept if it may be: nothing fenced the session since the ticket.
    pub fn finish(self, session: Session) -> Filled {
        let entry = Arc::new(CachedSession::new(session));
        let cache = self.cache;
        let mut shard = cache.shard(self.id);
        let generation = shard.fills.get(&self.id).map(|fill| fill.generation);
        if self.generation.is_none() || generation != self.generation {
            cache.metrics.fence_drops.inc();
            return Filled::Stale(entry);
        }
        if let Some(there) = shard.entries.get(&self.id) {
            // Another reader was first; its copy may have been used since.
            there.record_use(entry.last_activity_at());
            return Filled::Current(Arc::clone(there));
        }
        shard.bytes += weight(&entry);
        shard.entries.put(self.id, Arc::clone(&entry));
        cache.metrics.entries.inc();
        while shard.entries.len() > cache.capacity_per_shard.get()
            || (shard.bytes > cache.bytes_per_shard && shard.entries.len() > 1)
        {
            let Some((_, evicted)) = shard.entries.pop_lru() else {
                break;
            };
            shard.bytes -= weight(&evicted);
            cache.metrics.entries.dec();
            cache.metrics.evictions.inc();
        }
        drop(shard);
        Filled::Current(entry)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.generation.is_none() {
            return;
        }
        let mut shard = self.cache.shard(self.id);
        if let Some(fill) = shard.fills.get_mut(&self.id) {
            fill.tickets -= 1;
            if fill.tickets == 0 {
                shard.fills.remove(&self.id);
            }
        }
    }
}

fn weight(entry: &CachedSession) -> usize {
    entry.session.weight() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    //! Every order in which checks and changes of a session can meet here. The cache is the real one, with locks that let
    //! `loom` decide who comes next; rows, checks and the writer's order around a commit are as small as they can be.
    //! (That the real writer keeps this order is for the store's contract to say.)

    use loom::model::Builder;
    use loom::thread::{self, JoinHandle};

    use super::*;
    use crate::session::tests::session;
    use crate::session::{EndedBy, Ending, Reason};

    /// The session that is changed.
    const CHANGED: SessionId = SessionId::from_bytes([1; 16]);
    /// One that only takes room.
    const OTHER: SessionId = SessionId::from_bytes([2; 16]);

    /// A cache with room for one session, over a row.
    struct Model {
        cache: SessionCache,
        /// What is committed; its version grows with each change.
        row: Mutex<Session>,
    }

    /// Where a change puts the fence.
    #[derive(Clone, Copy)]
    enum Fence {
        AroundTheCommit,
        BeforeTheCommit,
        Nowhere,
    }

    impl Model {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                cache: SessionCache::new(1, 1_000_000, CacheMetrics::default()),
                row: Mutex::new(active(CHANGED)),
            })
        }

        fn row(&self) -> MutexGuard<'_, Session> {
            self.row.lock().expect("no section failed")
        }

        /// What a check goes by: the copy, else the row, which is handed in if it is active.
        fn check(&self) -> Session {
            if let Some(entry) = self.cache.get(CHANGED) {
                return entry.to_session();
            }
            let ticket = self.cache.begin_fill(CHANGED);
            let row = self.row().clone();
            if row.ending.is_some() {
                return row;
            }
            match ticket.finish(row) {
                Filled::Current(entry) | Filled::Stale(entry) => entry.to_session(),
            }
        }

        /// A change as the writer makes it, its answer, and a check after that.
        fn change(&self, fence: Fence, change: impl FnOnce(&mut Session)) {
            if !matches!(fence, Fence::Nowhere) {
                self.cache.fence(&[CHANGED]);
            }
            if matches!(fence, Fence::BeforeTheCommit) {
                self.cache.release(&[CHANGED]);
            }
            let answered = {
                let mut row = self.row();
                row.data_version += 1;
                change(&mut row);
                row.data_version
            };
            if matches!(fence, Fence::AroundTheCommit) {
                self.cache.release(&[CHANGED]);
            }
            self.assert_seen(answered);
        }

        fn end(&self, fence: Fence) {
            let ending = Ending {
                at: Timestamp::from_millis(1_500),
                reason: Reason::known(Reason::MANUAL),
                by: EndedBy::App,
            };
            self.change(fence, |row| row.ending = Some(ending));
        }

        /// A change whose commit fails.
        fn change_in_vain(&self) {
            self.cache.fence(&[CHANGED]);
            self.cache.release(&[CHANGED]);
        }

        /// A check of another session, for which this one has to go.
        fn crowd_out(&self) {
            self.cache.begin_fill(OTHER).finish(active(OTHER));
        }

        fn assert_seen(&self, version: u64) {
            assert!(
                self.check().data_version >= version,
                "a check saw less than was answered"
            );
        }
    }

    fn active(id: SessionId) -> Session {
        Session {
            id,
            ..session(1_000, 1_000)
        }
    }

    fn spawn(model: &Arc<Model>, part: impl FnOnce(&Model) + 'static) -> JoinHandle<()> {
        let model = Arc::clone(model);
        thread::spawn(move || part(&model))
    }

    fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
        for thread in threads {
            thread.join().expect("it ends well");
        }
    }

    /// How often one thread may be interrupted by another where all orders would take minutes or hours; most faults need one
    /// or two. `LOOM_MAX_PREEMPTIONS` sets another bound.
    const PREEMPTIONS_MAX: usize = 3;

    /// Goes through every order in which the threads of a scenario can come to their locks.
    fn explore(scenario: impl Fn(&Arc<Model>) + Send + Sync + 'static) {
        let mut explorer = Builder::new();
        explorer.preemption_bound = None;
        explorer.check(move || scenario(&Model::new()));
    }

    /// The same with no more interruptions than are allowed.
    fn explore_some(scenario: impl Fn(&Arc<Model>) + Send + Sync + 'static) {
        let mut explorer = Builder::new();
        explorer.preemption_bound.get_or_insert(PREEMPTIONS_MAX);
        explorer.check(move || scenario(&Model::new()));
    }

    /// An ending beside a check; when both are done, nothing is left by which the session would be accepted.
    fn end_beside_a_check(fence: Fence) {
        explore(move |model| {
            let check = spawn(model, |model| drop(model.check()));
            model.end(fence);
            join([check]);
            model.assert_seen(1);
        });
    }

    #[test]
    fn ended_session_is_refused_after_the_answer_in_every_order() {
        end_beside_a_check(Fence::AroundTheCommit);
    }

    #[test]
    #[should_panic(expected = "a check saw less than was answered")]
    fn explorer_finds_what_a_missing_fence_lets_pass() {
        end_beside_a_check(Fence::Nowhere);
    }

    #[test]
    #[should_panic(expected = "a check saw less than was answered")]
    fn explorer_finds_what_a_fence_that_falls_before_the_commit_lets_pass() {
        end_beside_a_check(Fence::BeforeTheCommit);
    }

    #[test]
    fn two_checks_beside_an_ending_leave_nothing_behind() {
        explore_some(|model| {
            let checks = [(); 2].map(|()| spawn(model, |model| drop(model.check())));
            model.end(Fence::AroundTheCommit);
            join(checks);
            model.assert_seen(1);
        });
    }

    #[test]
    fn change_and_ending_at_once_are_both_seen() {
        explore_some(|model| {
            let check = spawn(model, |model| drop(model.check()));
            let change = spawn(model, |model| model.change(Fence::AroundTheCommit, |_| {}));
            model.end(Fence::AroundTheCommit);
            join([check, change]);
            model.assert_seen(2);
        });
    }

    #[test]
    fn change_that_was_not_committed_keeps_no_later_fill_away_in_any_order() {
        explore(|model| {
            let check = spawn(model, |model| drop(model.check()));
            model.change_in_vain();
            join([check]);
            assert!(model.check().ending.is_none());
            assert!(model.cache.get(CHANGED).is_some());
        });
    }

    #[test]
    fn copy_that_is_crowded_out_changes_no_answer() {
        explore_some(|model| {
            let checks = spawn(model, |model| {
                model.check();
                model.crowd_out();
                model.check();
            });
            model.end(Fence::AroundTheCommit);
            join([checks]);
            model.assert_seen(1);
        });
    }
}
