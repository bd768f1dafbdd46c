//! The session cache by itself: fences, spoilt fills, and its bounds.

use sessiond::cache::{Filled, SessionCache};
use sessiond::metrics::CacheMetrics;
use sessiond::session::{Session, SessionId};
use sessiond::store::SessionStore;
use sessiond::store::memory::MemoryStore;

use crate::stores::{address, at, new_session, put, touch};

/// Fills of one shard that may be under way; as in `src/cache.rs`.
const FILLS_PER_SHARD_MAX: u16 = 1_024;

/// An id in the shard of `shard` (ids fall into shards by their last byte).
fn id(n: u16, shard: u8) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    bytes[15] = shard;
    SessionId::from_bytes(bytes)
}

/// A stored session, under any id.
struct Sessions(Session);

impl Sessions {
    async fn new() -> Self {
        let store = MemoryStore::new();
        let session = put(&store, new_session("ada", at(0))).await;
        store.close();
        Self(session)
    }

    fn with(&self, id: SessionId) -> Session {
        Session { id, ..self.0.clone() }
    }
}

fn cache(capacity: usize) -> (SessionCache, CacheMetrics) {
    let metrics = CacheMetrics::default();
    (SessionCache::new(capacity, 100_000_000, metrics.clone()), metrics)
}

fn fill(cache: &SessionCache, session: Session) -> Filled {
    cache.begin_fill(session.id).finish(session)
}

fn is_current(filled: &Filled) -> bool {
    matches!(filled, Filled::Current(_))
}

#[tokio::test]
async fn filled_session_is_found_and_counted() {
    let (cache, metrics) = cache(100);
    let sessions = Sessions::new().await;
    let id = id(1, 1);
    assert!(cache.get(id).is_none());
    assert!(is_current(&fill(&cache, sessions.with(id))));
    assert_eq!(cache.get(id).expect("a copy").row().id, id);
    assert_eq!(
        (
            metrics.hits.get(),
            metrics.misses.get(),
            metrics.entries.get(),
            metrics.fence_drops.get()
        ),
        (1, 1, 1, 0)
    );
}

#[tokio::test]
async fn fence_drops_the_copy_and_spoils_the_fill_under_way() {
    let (cache, metrics) = cache(100);
    let sessions = Sessions::new().await;
    let id = id(1, 1);
    fill(&cache, sessions.with(id));
    let ticket = cache.begin_fill(id);
    assert!(ticket.is_current());
    cache.fence(&[id]);
    assert!(cache.get(id).is_none());
    cache.release(&[id]);
    assert!(!ticket.is_current());
    assert!(
        !is_current(&ticket.finish(sessions.with(id))),
        "read before the fence"
    );
    assert!(cache.get(id).is_none());
    assert_eq!((metrics.entries.get(), metrics.fence_drops.get()), (0, 1));
}

#[tokio::test]
async fn nothing_is_filled_until_the_last_fence_is_released() {
    let (cache, _) = cache(100);
    let sessions = Sessions::new().await;
    let id = id(1, 1);
    cache.fence(&[id]);
    cache.fence(&[id]);
    let inside = cache.begin_fill(id);
    cache.release(&[id]);
    assert!(
        !is_current(&fill(&cache, sessions.with(id))),
        "one fence still stands"
    );
    cache.release(&[id]);
    assert!(
        !is_current(&inside.finish(sessions.with(id))),
        "begun inside the fence"
    );
    assert!(cache.get(id).is_none());
    assert!(
        is_current(&fill(&cache, sessions.with(id))),
        "begun after the fence"
    );
    assert!(cache.get(id).is_some());
}

#[tokio::test]
async fn fence_concerns_its_ids_only() {
    let (cache, _) = cache(100);
    let sessions = Sessions::new().await;
    // All in one shard.
    let [fenced, cached, filling] = [id(1, 1), id(2, 1), id(3, 1)];
    fill(&cache, sessions.with(cached));
    let ticket = cache.begin_fill(filling);
    cache.fence(&[fenced]);
    assert!(cache.get(cached).is_some());
    assert!(is_current(&ticket.finish(sessions.with(filling))));
    cache.release(&[fenced]);
}

#[tokio::test]
async fn fill_begun_after_a_spoilt_one_is_kept_beside_it() {
    let (cache, _) = cache(100);
    let sessions = Sessions::new().await;
    let id = id(1, 1);
    let held_up = cache.begin_fill(id);
    cache.fence(&[id]);
    cache.release(&[id]);
    let later = cache.begin_fill(id);
    assert!(is_current(&later.finish(sessions.with(id))));
    let renamed = Session {
        name: Some("old".to_owned()),
        ..sessions.with(id)
    };
    assert!(!is_current(&held_up.finish(renamed)));
    assert_eq!(cache.get(id).expect("a copy").row().name, None);
}

#[tokio::test]
async fn written_use_spoils_fills_and_reaches_the_copy() {
    let (cache, _) = cache(100);
    let sessions = Sessions::new().await;
    let [used, other] = [id(1, 1), id(2, 1)];
    fill(&cache, sessions.with(used));
    let tickets = [cache.begin_fill(used), cache.begin_fill(other)];
    cache.note_written(&[touch(used, at(5))]);
    assert_eq!(cache.get(used).expect("a copy").last_activity_at(), at(5));
    assert_eq!(
        tickets.map(|ticket| ticket.is_current()),
        [false, true],
        "only the one that was used"
    );
}

#[tokio::test]
async fn second_filler_gets_the_copy_that_is_there_with_the_latest_use() {
    let (cache, metrics) = cache(100);
    let sessions = Sessions::new().await;
    let id = id(1, 1);
    let tickets = [cache.begin_fill(id), cache.begin_fill(id)];
    let with_use = |secs| Session {
        last_activity_at: at(secs),
        ..sessions.with(id)
    };
    let uses = [20, 10];
    for (ticket, secs) in tickets.into_iter().zip(uses) {
        let Filled::Current(entry) = ticket.finish(with_use(secs)) else {
            panic!("nothing changed meanwhile")
        };
        assert_eq!(entry.last_activity_at(), at(20));
    }
    assert_eq!(metrics.entries.get(), 1);
}

#[tokio::test]
async fn fills_under_way_are_bounded_and_one_more_is_not_kept() {
    let (cache, metrics) = cache(1);
    let sessions = Sessions::new().await;
    let mut tickets: Vec<_> = (0..FILLS_PER_SHARD_MAX)
        .map(|n| cache.begin_fill(id(n, 0)))
        .collect();
    let over = id(FILLS_PER_SHARD_MAX, 0);
    assert!(!is_current(&fill(&cache, sessions.with(over))));
    assert_eq!(metrics.fence_drops.get(), 1);
    assert!(
        cache.begin_fill(id(5, 0)).is_current(),
        "a session that is being filled anyway takes no more room"
    );
    tickets.pop();
    assert!(
        is_current(&fill(&cache, sessions.with(over))),
        "there is room again"
    );
}

#[tokio::test]
async fn entries_are_bounded_by_capacity_and_the_gauge_counts_them() {
    let sessions = Sessions::new().await;
    for capacity in [1, 2, 3, 4, 15, 16, 17, 40] {
        let (cache, metrics) = cache(capacity);
        for n in 0..300_u16 {
            let shard = u8::try_from(n % 256).expect("a byte");
            fill(&cache, sessions.with(id(n, shard)));
            if n % 7 == 0 {
                cache.fence(&[id(n, shard)]);
                cache.release(&[id(n, shard)]);
            }
        }
        let held = (0..300_u16)
            .filter(|n| {
                cache
                    .get(id(*n, u8::try_from(n % 256).expect("a byte")))
                    .is_some()
            })
            .count();
        assert!((1..=capacity).contains(&held), "{held} of {capacity}");
        assert_eq!(usize::try_from(metrics.entries.get()), Ok(held), "of {capacity}");
        let dropped_by_fences = 43; // every seventh of 300
        assert_eq!(
            metrics.evictions.get() + dropped_by_fences,
            300 - held as u64,
            "of {capacity}"
        );
    }
}

#[tokio::test]
async fn least_recently_used_copy_goes_first() {
    let (cache, metrics) = cache(32); // two in each of 16 shards
    let sessions = Sessions::new().await;
    let [first, second, third] = [id(1, 1), id(2, 1), id(3, 1)];
    fill(&cache, sessions.with(first));
    fill(&cache, sessions.with(second));
    cache.get(first);
    fill(&cache, sessions.with(third));
    let held = [first, second, third].map(|id| cache.get(id).is_some());
    assert_eq!(held, [true, false, true]);
    assert_eq!((metrics.evictions.get(), metrics.entries.get()), (1, 2));
}

#[tokio::test]
async fn entries_are_bounded_by_bytes() {
    let sessions = Sessions::new().await;
    let metrics = CacheMetrics::default();
    let bytes_per_shard = 20_000;
    let cache = SessionCache::new(16_000, 16 * bytes_per_shard, metrics.clone());
    let big = |n| Session {
        user_agent: Some("x".repeat(6_500)),
        ..sessions.with(id(n, 1))
    };
    for n in 0..10 {
        fill(&cache, big(n));
    }
    let held: Vec<_> = (0..10).filter(|n| cache.get(id(*n, 1)).is_some()).collect();
    assert_eq!(
        held,
        [8, 9],
        "three would be more than 20,000 bytes with their overhead"
    );
    for n in 10..100 {
        fill(&cache, sessions.with(id(n, 1)));
    }
    let weight = |n| sessions.with(id(n, 1)).weight();
    let small: usize = (10..100)
        .filter(|n| cache.get(id(*n, 1)).is_some())
        .map(weight)
        .sum();
    assert!(
        (bytes_per_shard / 2..=bytes_per_shard).contains(&small),
        "what the big ones took is given back: {small} bytes"
    );
}

#[tokio::test]
async fn session_larger_than_all_room_is_the_only_one_of_its_shard() {
    let sessions = Sessions::new().await;
    let metrics = CacheMetrics::default();
    let cache = SessionCache::new(1_000, 16, metrics.clone());
    for n in 0..3 {
        fill(&cache, sessions.with(id(n, 1)));
    }
    assert!(cache.get(id(2, 1)).is_some());
    assert_eq!(metrics.entries.get(), 1);
}

#[tokio::test]
async fn change_replaces_a_copy_but_makes_none() {
    let (cache, metrics) = cache(100);
    let sessions = Sessions::new().await;
    let [cached, unknown] = [id(1, 1), id(2, 1)];
    fill(&cache, sessions.with(cached));
    let before = cache.get(cached).expect("a copy");
    before.record_use(at(7));
    for id in [cached, unknown] {
        cache.change(id, |session| {
            session.record_use(at(5));
            session.record_address(address("192.0.2.1"), None);
        });
    }
    let after = cache.get(cached).expect("a copy");
    assert_eq!(after.row().ip_address, Some(address("192.0.2.1")));
    assert_eq!(after.last_activity_at(), at(7), "the latest use stays");
    assert_eq!(before.row().ip_address, None, "who holds the old copy keeps it");
    assert!(cache.get(unknown).is_none());
    assert_eq!(metrics.entries.get(), 1);
}
