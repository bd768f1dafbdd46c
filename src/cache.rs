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

use lru::LruCache;

// A test gives this file other locks, by which every order is gone through in which threads come to them: `cache_orders`.
use super::locks::{Mutex, MutexGuard};
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
