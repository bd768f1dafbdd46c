//! What only a store with a writer of its own can show: other connections around a commit, batches, the queue, the file.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use sessiond::clock::Timestamp;
use sessiond::data::{DataChange, DataPath};
use sessiond::error::Error;
use sessiond::session::{
    AUTH_LEN_MAX, Auth, EndedBy, Fingerprint, IdentityPatch, KeyId, Nonce, OnTokenReuse, Reason, Secret,
    SecretHash, SessionId, Touch,
};
use sessiond::store::{
    Authentication, ClientId, Committed, Creation, DataOutcome, DataPatch, Hooks, Idempotency, KeyRecord,
    NewSession, Owner, Renewal, SessionPatch, SessionStore, Visitor,
};
use tempfile::TempDir;

use super::sign_ins::sign_in;
use super::{Recorder, Step, in_full};
use crate::harness::{eventually, open_database};
use crate::stores::{
    Hold, Probe, ProbedStore, address, anonymous_session, app, at, data, database_in, ending, event_rows,
    found, how, is_pending, new_session, put, soon, sqlite_in, touch, used_from,
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
        first_address: Some(used_from(address("192.0.2.1"))),
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

/// Needs pages of its own.
fn large_auth() -> Auth {
    Auth::from_stored(&format!(r#"{{"note":"{}"}}"#, "x".repeat(AUTH_LEN_MAX - 100)))
}

/// An API key that cannot be kept once there is one: a change that fails.
fn same_key() -> KeyRecord {
    KeyRecord {
        id: KeyId::from_bytes([1; 16]),
        app: app(),
        name: "the same id".to_owned(),
        hash: Secret::random().hash(),
        created_at: at(0),
        revoked_at: None,
    }
}

/// A client's session where the app may have three.
fn one_of_three(id: i64, secs: i64) -> NewSession {
    NewSession {
        client: Some(ClientId { id, total_max: 3 }),
        ..anonymous_session(at(secs))
    }
}

/// A visitor's where it may have three of nobody.
fn visitor_of_three(secs: i64) -> NewSession {
    NewSession {
        visitor: Some(Visitor {
            network: "192.0.2.1".to_owned(),
            per_hour: 100,
            per_hour_total: 100,
            total_max: 3,
        }),
        ..anonymous_session(at(secs))
    }
}

async fn assert_full(store: &dyn SessionStore, new: NewSession) {
    let answer = soon("an answer", store.create(new)).await;
    assert!(matches!(answer, Ok(Creation::AppFull)), "{answer:?}");
}

#[tokio::test]
async fn creations_of_a_batch_that_failed_are_counted_once() {
    let probed = Probed::start(100);
    let store = &probed.store;
    store.create_key(same_key()).await.expect("kept");
    put(store, one_of_three(1, 0)).await; // asked for, so that it is counted
    let busy = probed.busy().await;
    let made = store.create(one_of_three(2, 1));
    let failing = store.create_key(same_key());
    busy.let_go();
    soon("an answer", made).await.expect("made");
    soon("an answer", failing)
        .await
        .expect_err("the batch was rolled back");
    put(store, one_of_three(3, 2)).await;
    assert_full(store, one_of_three(4, 3)).await;
}

#[tokio::test]
async fn endings_of_a_batch_that_failed_are_counted_once() {
    let probed = Probed::start(100);
    let store = &probed.store;
    store.create_key(same_key()).await.expect("kept");
    let mut ids = Vec::new();
    for secs in 0..3 {
        ids.push(put(store, visitor_of_three(secs)).await.id);
    }
    let busy = probed.busy().await;
    let request = ending(at(4), Reason::LOGOUT, EndedBy::App);
    let ended = store.end(app(), ids[0], Owner::Anyone, request);
    let given = store.authenticate(sign_in(ids[1], "ada", 4));
    let failing = store.create_key(same_key());
    busy.let_go();
    soon("an answer", ended).await.expect("ended");
    soon("an answer", given).await.expect("given");
    soon("an answer", failing)
        .await
        .expect_err("the batch was rolled back");
    for secs in 5..7 {
        put(store, visitor_of_three(secs)).await;
    }
    assert_full(store, visitor_of_three(7)).await;
}

#[tokio::test]
async fn what_a_full_disk_undid_is_not_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    let client = put(&store, one_of_three(1, 0)).await.id;
    put(&store, visitor_of_three(0)).await;
    let before = event_rows(&database_in(&dir));
    store.limit_pages(1).await.expect("limited");
    for secs in 1..4 {
        // The row itself finds room in a page that is there; its data does not.
        let large = |new| NewSession {
            data: Some(data(&format!(r#"{{"note":"{}"}}"#, "x".repeat(60_000)))),
            ..new
        };
        for new in [one_of_three(1 + secs, secs), visitor_of_three(secs)] {
            let answer = store.create(large(new)).await;
            assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
        }
        let sign_in = Authentication {
            auth: Some(large_auth()),
            ..sign_in(client, "ada", secs)
        };
        let answer = store.authenticate(sign_in).await;
        assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
    }
    store.limit_pages(1_000_000).await.expect("no longer limited");
    assert_eq!(event_rows(&database_in(&dir)), before);
    assert_eq!(found(&store, client).await.user_id, None);

    put(&store, visitor_of_three(5)).await;
    assert_full(&store, visitor_of_three(6)).await;
    for id in 2..4 {
        put(&store, one_of_three(id, 7)).await;
    }
    assert_full(&store, one_of_three(4, 8)).await;
}

#[tokio::test]
async fn change_of_data_on_a_full_disk_leaves_data_and_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    let new = NewSession {
        data: Some(data(r#"{"a":1}"#)),
        ..new_session("ada", at(0))
    };
    let ada = put(&store, new).await.id;
    let change = |value| {
        let patch = DataPatch {
            at: DataPath::parse("a"),
            change: DataChange::Put(value),
            if_versions: None,
        };
        store.change_data(app(), ada, patch, at(1))
    };
    store.limit_pages(1).await.expect("limited");
    let refused = change("x".repeat(60_000).into()).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    let kept = store.find_data(ada).await.expect("an answer").expect("there");
    assert_eq!(
        (kept.0.data_version, kept.1.to_text()),
        (1, r#"{"a":1}"#.to_owned())
    );

    store.limit_pages(1_000_000).await.expect("no longer limited");
    let done = change(2.into()).await;
    assert!(
        matches!(done, Ok(DataOutcome::Done { version: 2, .. })),
        "{done:?}"
    );
}

#[tokio::test]
async fn tokens_data_and_identities_are_there_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    let new = NewSession {
        data: Some(data(r#"{"z":1,"a":{"y":2,"b":3}}"#)),
        ..new_session("ada", at(0))
    };
    let ada = put(&store, new).await;
    let renewal = |presented, n, secs| Renewal {
        now: at(secs),
        app: app(),
        id: ada.id,
        presented,
        nonce: Nonce::from_bytes([n; 16]),
        successor: SecretHash::from_bytes([n; 32]),
        lost: None,
        grace_millis: 30_000,
        on_reuse: OnTokenReuse::Notify,
    };
    store.renew(renewal(ada.token_hash, 1, 1)).await.expect("renewed");
    let successor = SecretHash::from_bytes([1; 32]);
    store.renew(renewal(successor, 2, 2)).await.expect("seen");
    store
        .renew(renewal(ada.token_hash, 2, 33))
        .await
        .expect("told of");
    let identity = SessionPatch {
        identity: Some(IdentityPatch {
            key: "work".to_owned(),
            identity: Some(serde_json::Map::new()),
        }),
        ..SessionPatch::default()
    };
    store
        .update(app(), ada.id, Owner::Anyone, identity, at(34))
        .await
        .expect("updated");
    let before = found(&store, ada.id).await;
    let replaced = before.replaced.expect("a token before");
    assert_eq!(replaced.reported_at, Some(at(33)));
    drop(store);

    let store = sqlite_in(&dir, 10);
    let (after, kept) = store.find_data(ada.id).await.expect("an answer").expect("there");
    assert_eq!(in_full(&after), in_full(&before));
    assert_eq!(kept.to_text(), r#"{"z":1,"a":{"y":2,"b":3}}"#);
    assert!(after.identities.is_some());
}

#[tokio::test]
async fn calls_visitors_and_ids_of_clients_are_there_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    let call = || NewSession {
        idempotency: Some(Idempotency {
            api_key: KeyId::from_bytes([1; 16]),
            key: Fingerprint::from_bytes([1; 32]),
            body: Fingerprint::from_bytes([2; 32]),
            nonce: Nonce::random(),
        }),
        ..new_session("ada", at(0))
    };
    let visitor = |secs| NewSession {
        visitor: Some(Visitor {
            network: "192.0.2.1".to_owned(),
            per_hour: 1,
            per_hour_total: 100,
            total_max: 100,
        }),
        ..anonymous_session(at(secs))
    };
    let first = call();
    let made_with = first.idempotency.expect("a call").nonce;
    let called = put(&store, first).await.id;
    put(&store, visitor(0)).await;
    let client = put(&store, one_of_three(7, 0)).await.id;
    for id in 8..10 {
        put(&store, one_of_three(id, 0)).await;
    }
    drop(store);

    let store = sqlite_in(&dir, 10);
    match store.create(call()).await.expect("an answer") {
        Creation::Repeated { session, nonce } => assert_eq!((session.id, nonce), (called, made_with)),
        other => panic!("{other:?}"),
    }
    let refused = store.create(visitor(1)).await.expect("an answer");
    assert!(
        matches!(refused, Creation::TooManyVisitors { retry_at } if retry_at == at(3_600)),
        "{refused:?}"
    );
    assert_full(&store, one_of_three(10, 1)).await;
    match store.create(one_of_three(7, 1)).await.expect("an answer") {
        Creation::Existed(session) => assert_eq!(session.id, client),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn data_leaves_the_file_with_its_session() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 10);
    let with_data = || NewSession {
        data: Some(data(r#"{"a":1}"#)),
        ..new_session("ada", at(0))
    };
    let (ended, stays) = (
        put(&store, with_data()).await.id,
        put(&store, with_data()).await.id,
    );
    let database = rusqlite::Connection::open(database_in(&dir)).expect("the database");
    let rows = || -> Vec<SessionId> {
        let mut statement = database
            .prepare("SELECT session_id FROM session_data")
            .expect("a query");
        let rows = statement.query_map([], |row| row.get(0).map(SessionId::from_bytes));
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    };
    assert_eq!(rows(), [ended, stays]);
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    assert_eq!(rows(), [stays], "gone with the ending");

    // As if an ending had left it there: the row takes it along.
    database
        .execute(
            "INSERT INTO session_data (session_id, data) VALUES (?1, '{}')",
            [ended.as_bytes()],
        )
        .expect("a left-over");
    store.purge(at(2), 10, at(3)).await.expect("purged");
    assert_eq!(rows(), [stays], "gone with the row");
}

#[tokio::test]
async fn uses_do_not_move_the_moment_to_look_for_a_near_deadline() {
    let probed = Probed::start(10);
    let noticed = NewSession {
        expiring_notice_millis: Some(30_000),
        ..new_session("ada", at(0))
    };
    let ada = put(&probed.store, noticed).await;
    put(&probed.store, new_session("bob", at(0))).await;
    let moments = || {
        let database = open_database(&database_in(&probed.dir));
        let mut statement = database
            .prepare("SELECT notice_at FROM sessions ORDER BY id")
            .expect("a query");
        let rows = statement
            .query_map([], |row| row.get::<_, Option<i64>>(0))
            .expect("rows");
        rows.map(|row| row.expect("a row").map(Timestamp::from_millis))
            .collect::<Vec<_>>()
    };
    let uses = vec![touch(ada.id, at(50))];
    probed.store.write_touches(uses, at(50)).await.expect("written");
    assert_eq!(
        moments(),
        [Some(at(70)), None],
        "and none where nothing is to be told"
    );

    probed.store.tell_expiring(at(70), 10).await.expect("looked");
    assert_eq!(moments(), [Some(at(120)), None]);
    probed.store.tell_expiring(at(120), 10).await.expect("told");
    assert_eq!(moments(), [Some(at(970)), None], "the absolute one is left");
}
