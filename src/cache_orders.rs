//! Every order in which checks and changes of a session can meet at the cache. The cache is the real one, read once more with
//! locks that let `loom` decide who comes next; rows, checks and the writer's order around a commit are as small as they
//! can be. (That the real writer keeps this order is for the store's contract to say.) For unit tests only.

use std::sync::Arc;

use loom::model::Builder;
use loom::thread::{self, JoinHandle};

use self::cache::{Filled, SessionCache};
use self::locks::{Mutex, MutexGuard};
use crate::clock::Timestamp;
use crate::metrics::CacheMetrics;
use crate::session::tests::session;
use crate::session::{EndedBy, Ending, Reason, Session, SessionId};

/// What the file of the cache finds beside it here.
mod locks {
    pub(super) use loom::sync::{Mutex, MutexGuard};
}
// The file a second time is what this is about; of what it has, the orders need a part.
#[allow(clippy::duplicate_mod, dead_code)]
#[path = "cache.rs"]
mod cache;

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
