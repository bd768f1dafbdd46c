//! What only a store with a writer of its own can show: other connections around a commit, batches, the queue, the file.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use sessiond::clock::Timestamp;
use sessiond::error::Error;
use sessiond::session::{EndedBy, KeyId, Reason, Secret, SessionId, Touch};
use sessiond::store::{Committed, Creation, Hooks, KeyRecord, Owner, SessionStore};
use tempfile::TempDir;

use super::{Recorder, Step};
use crate::harness::{eventually, open_database};
use crate::stores::{
    Hold, Probe, ProbedStore, address, app, at, database_in, ending, event_rows, found, how, is_pending,
    new_session, put, soon, sqlite_in, touch,
};

/// A probed store with hooks that write down.
struct Probed {
    store: ProbedStore,
    probe: Arc<Probe>,
    recorder: Arc<Recorder>,
    dir: TempDir,
}

impl Probed {
    fn start(queue_len_max: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let probe = Arc::new(Probe::default());
        let store = ProbedStore {
            inner: Arc::new(sqlite_in(&dir, queue_len_max)),
            probe: Arc::clone(&probe),
        };
        let recorder = Arc::new(Recorder::default());
        store.attach(Arc::clone(&recorder) as Arc<dyn sessiond::store::Hooks>);
        Self {
            store,
            probe,
            recorder,
            dir,
        }
    }

    /// Keeps the writer busy: it is held after a commit, so that what follows gathers in the queue.
    async fn busy(&self) -> Hold {
        let mut hold = self.probe.after_announce.hold_next();
        drop(self.store.create(new_session("busy", at(0))));
        hold.arrived().await;
        hold
    }
}

fn is_ended(dir: &TempDir, id: sessiond::session::SessionId) -> bool {
    let query = "SELECT ended_at IS NOT NULL FROM sessions WHERE id = ?1";
    open_database(&database_in(dir))
        .query_row(query, [id.as_bytes()], |row| row.get(0))
        .expect("a row")
}

#[tokio::test]
async fn inside_fence_others_still_read_the_old_row_and_inside_announce_the_new_one() {
    let probed = Probed::start(10);
    let ada = put(&probed.store, new_session("ada", at(0))).await;
    let mut fenced = probed.probe.after_fence.hold_next();
    let mut announcing = probed.probe.before_announce.hold_next();
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    let mut answer = probed.store.end(app(), ada.id, Owner::Anyone, request);

    fenced.arrived().await;
    assert!(
        !is_ended(&probed.dir, ada.id),
        "the fence comes before the commit"
    );
    fenced.let_go();
    announcing.arrived().await;
    assert!(
        is_ended(&probed.dir, ada.id),
        "the announcement comes after the commit"
    );
    assert!(
        is_pending(&mut answer).await,
        "nobody is answered before it was announced"
    );
    announcing.let_go();
    soon("the answer", answer).await.expect("ended");
}

#[tokio::test]
async fn callers_are_answered_after_the_announcement() {
    let probed = Probed::start(10);
    let mut announced = probed.probe.after_announce.hold_next();
    let mut answer = probed.store.create(new_session("ada", at(0)));
    announced.arrived().await;
    assert!(is_pending(&mut answer).await);
    announced.let_go();
    soon("the answer", answer).await.expect("created");
}

#[tokio::test]
async fn changes_that_wait_share_a_commit() {
    let probed = Probed::start(100);
    let busy = probed.busy().await;
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sizes);
    probed.probe.observe(move |committed| {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(committed.batch_size);
    });
    let waiting: Vec<_> = (1..=20)
        .map(|secs| probed.store.create(new_session("ada", at(secs))))
        .collect();
    assert_eq!(probed.store.queue_len(), 20);
    busy.let_go();
    for answer in waiting {
        soon("an answer", answer).await.expect("created");
    }
    assert_eq!(*sizes.lock().unwrap_or_else(PoisonError::into_inner), [20]);
    assert_eq!(probed.store.queue_len(), 0);
}

#[tokio::test]
async fn failing_change_harms_no_other_of_its_batch() {
    let probed = Probed::start(100);
    let store = &probed.store;
    let key = |name: &str| KeyRecord {
        id: KeyId::from_bytes([1; 16]),
        app: app(),
        name: name.to_owned(),
        hash: Secret::random().hash(),
        created_at: at(0),
        revoked_at: None,
    };
    store.create_key(key("first")).await.expect("kept");
    let bob = put(store, new_session("bob", at(0))).await;
    let busy = probed.busy().await;
    probed.recorder.take();

    let before = store.create(new_session("ada", at(1)));
    let failing = store.create_key(key("the same id again"));
    let request = ending(at(2), Reason::LOGOUT, EndedBy::App);
    let after = store.end(app(), bob.id, Owner::Anyone, request);
    busy.let_go();

    let refused = soon("an answer", failing).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    let Ok(Creation::Created { session, .. }) = soon("an answer", before).await else {
        panic!("the change before the failing one was harmed")
    };
    soon("an answer", after)
        .await
        .expect("the change after the failing one is not harmed");
    assert_eq!(how(&found(store, session.id).await), None);
    assert_eq!(
        how(&found(store, bob.id).await),
        Some((at(2), "logout", EndedBy::App))
    );
    let created_twice = event_rows(&database_in(&probed.dir))
        .iter()
        .filter(|event| event.session_id == Some(session.id))
        .count();
    assert_eq!(created_twice, 1, "what was tried before leaves nothing behind");
    let keys = store.list_keys().await.expect("keys");
    assert_eq!((keys.len(), keys[0].name.as_str()), (1, "first"));
    let announced = probed
        .recorder
        .take()
        .into_iter()
        .filter(|step| matches!(step, Step::Announce { .. }))
        .count();
    assert_eq!(announced, 2, "each of the good ones once, the failing one never");
}

#[tokio::test]
async fn full_queue_is_overloaded_at_once() {
    let probed = Probed::start(2);
    let busy = probed.busy().await;
    let waiting: Vec<_> = (1..=2)
        .map(|secs| probed.store.create(new_session("ada", at(secs))))
        .collect();
    // The writer is held, so that only an answer at once can come.
    let refused = soon("the refusal", probed.store.create(new_session("ada", at(3)))).await;
    assert!(matches!(refused, Err(Error::Overloaded)), "{refused:?}");
    assert_eq!(probed.store.queue_len(), 2, "what was refused does not count");
    busy.let_go();
    for answer in waiting {
        soon("an answer", answer).await.expect("what was queued is done");
    }
    put(&probed.store, new_session("ada", at(4))).await;
    assert_eq!(event_rows(&database_in(&probed.dir)).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_finishes_what_is_queued() {
    let probed = Arc::new(Probed::start(10));
    let busy = probed.busy().await;
    let waiting = probed.store.create(new_session("ada", at(1)));
    let closing = tokio::task::spawn_blocking({
        let probed = Arc::clone(&probed);
        move || probed.store.close()
    });
    busy.let_go();
    let created = soon("an answer", waiting).await;
    assert!(matches!(created, Ok(Creation::Created { .. })), "{created:?}");
    soon("the store closes", closing).await.expect("it closes well");
    let refused = probed.store.create(new_session("ada", at(2))).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
}

#[tokio::test]
async fn everything_is_there_after_reopening_with_an_earlier_clock() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    let before = put(&store, new_session("ada", at(1_000))).await;
    drop(store);

    let store = sqlite_in(&dir, 10);
    assert_eq!(store.high_water().await.expect("an answer"), Some(at(1_000)));
    let stored = found(&store, before.id).await;
    assert_eq!(format!("{stored:?}"), format!("{before:?}"));
    let after = put(&store, new_session("ada", at(-5_000))).await;
    assert!(after.id > before.id, "{} after {}", after.id, before.id);
    assert_eq!(
        store.high_water().await.expect("an answer"),
        Some(at(1_000)),
        "it does not sink"
    );
}

#[tokio::test]
async fn change_that_changes_nothing_writes_nothing() {
    let probed = Probed::start(10);
    put(&probed.store, new_session("ada", at(0))).await;
    let wal = || std::fs::metadata(probed.dir.path().join("s.db-wal")).map_or(0, |wal| wal.len());
    let before = wal();
    for secs in 1..20 {
        probed.store.expire(at(secs), 10).await.expect("swept");
        probed.store.purge(at(-5), 10, at(secs)).await.expect("purged");
    }
    assert_eq!(wal(), before);
    assert_eq!(probed.probe.commits.load(Ordering::SeqCst), 39);
    assert_eq!(probed.store.high_water().await.expect("an answer"), Some(at(0)));
}

#[tokio::test]
async fn touch_of_a_row_that_cannot_be_read_keeps_no_change_from_being_written() {
    let probed = Probed::start(10);
    let ada = put(&probed.store, new_session("ada", at(0))).await;
    let database = rusqlite::Connection::open(database_in(&probed.dir)).expect("the database");
    database
        .execute("UPDATE sessions SET app = '!'", [])
        .expect("a broken row");
    let touch = Touch {
        first_address: Some(address("192.0.2.1")),
        ..touch(ada.id, at(1))
    };
    probed.recorder.set_due(&[touch]);
    put(&probed.store, new_session("grace", at(2))).await;
}

#[tokio::test]
async fn store_whose_writer_failed_is_not_ready() {
    struct Panics;
    impl Hooks for Panics {
        fn pending_touch(&self, _: SessionId) -> Option<sessiond::session::Touch> {
            None
        }
        fn due_touches(&self, _: Timestamp) -> Vec<Touch> {
            Vec::new()
        }
        fn fence(&self, _: &[SessionId]) {}
        fn release(&self, _: &[SessionId]) {}
        fn announce(&self, _: &Committed) {
            panic!("a hook that fails, for this test");
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    store.ping().await.expect("ready before");
    store.attach(Arc::new(Panics));
    store
        .create(new_session("ada", at(0)))
        .await
        .expect_err("the writer fails");
    eventually("the writer has stopped", || async { store.ping().await.is_err() }).await;
}
