//! What is left of a user who was erased: nothing, and of others everything.

use sessiond::event::EventKind;
use sessiond::session::{Device, EndedBy, Fingerprint, KeyId, Nonce, Reason, Session, SessionId};
use sessiond::store::sqlite::examine_soundness;
use sessiond::store::webhooks::{NewDeliveries, NewDelivery, NewWebhook, WebhookStore};
use sessiond::store::{
    About, Creation, Erased, EventList, EventsFrom, Idempotency, KnownDevice, NewSession, Owner,
    SessionStore, StatusFilter, UserList, UserPatch,
};
use sessiond::user::UserSettings;
use sessiond::webhook::{SealedSecret, WebhookId};

use super::sign_ins::sign_in;
use super::{Fixture, Kind, Step, over_both_stores};
use crate::harness::open_database;
use crate::stores::{
    anonymous_session, app, app_named, at, data, database_in, ending, how, new_session, put, sqlite_in, user,
};

over_both_stores!(
    everything_of_the_user_goes_and_nothing_of_others,
    sessions_end_as_all_do_before_they_go,
    numbers_of_erased_events_stay_and_go_with_their_age,
    events_of_a_session_from_before_it_was_the_user_s_go_too,
    erasure_takes_no_more_than_asked_and_goes_on_where_it_was_cut_short,
    who_signs_in_again_begins_anew,
    unknown_user_is_erased_by_doing_nothing,
);

/// A repeatable creation on a device, with data.
fn rich(name: &str, call: u8, secs: i64) -> NewSession {
    NewSession {
        device: Some(Device {
            browser: Some("Firefox".to_owned()),
            browser_version: None,
            os: Some("Linux".to_owned()),
            os_version: None,
            device_type: None,
            is_bot: false,
        }),
        data: Some(data(r#"{"cart":1}"#)),
        idempotency: Some(Idempotency {
            api_key: KeyId::from_bytes([1; 16]),
            key: Fingerprint::from_bytes([call; 32]),
            body: Fingerprint::from_bytes([call; 32]),
            nonce: Nonce::random(),
        }),
        ..new_session(name, at(secs))
    }
}

/// An ended session and an active one of each, and settings: 2 sessions and 4 events for either.
async fn ada_and_bob(store: &dyn SessionStore) -> Vec<Session> {
    let mut sessions = Vec::new();
    for (name, call) in [("ada", 1), ("bob", 2)] {
        let ended = put(store, new_session(name, at(0))).await;
        let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
        let owner = Owner::Anyone;
        store.end(app(), ended.id, owner, request).await.expect("ended");
        sessions.extend([ended, put(store, rich(name, call, 2)).await]);
        let patch = UserPatch {
            max_sessions: Some(Some(7)),
            ..UserPatch::default()
        };
        let changed = store.update_user(app(), user(name), patch, EndedBy::App, at(3));
        changed.await.expect("changed");
    }
    sessions
}

async fn erase_some(store: &dyn SessionStore, name: &str, limit: usize) -> Erased {
    let request = ending(at(9), Reason::USER_ERASED, EndedBy::Operator);
    let erased = store.erase_user(app(), user(name), request, limit).await;
    erased.expect("erased")
}

async fn erase(store: &dyn SessionStore, name: &str) -> Erased {
    let erased = erase_some(store, name, 1_000).await;
    assert!(!erased.more, "{erased:?}");
    erased
}

/// All that can be read of a user, as text.
async fn all_of(store: &dyn SessionStore, name: &str) -> (usize, String) {
    let list = UserList {
        now: at(9),
        app: app(),
        user_id: user(name),
        status: StatusFilter::All,
        after: None,
        limit: 1_000,
    };
    let sessions = store.list_user(list).await.expect("a page").sessions;
    let events = EventList {
        app: Some(app()),
        about: About::User(user(name)),
        kinds: Vec::new(),
        from: EventsFrom::After(0),
        limit: 1_000,
    };
    let events = store.list_events(events).await.expect("a page").events;
    let devices = store.list_devices(app(), user(name)).await.expect("devices");
    let record = store.find_user(app(), user(name), at(9)).await.expect("a record");
    let mut all = format!("{sessions:?} {events:?} {devices:?} {:?}", record.settings);
    for session in &sessions {
        all += &format!("{:?}", store.find_data(session.id).await.expect("data"));
    }
    let is_default = record.settings == UserSettings::default();
    (
        sessions.len() + events.len() + devices.len() + usize::from(!is_default),
        all,
    )
}

/// Numbers and types of all events that are read, oldest first, with the session each is about.
async fn listed(store: &dyn SessionStore) -> Vec<(u64, String, Option<SessionId>)> {
    let list = EventList {
        app: None,
        about: About::Anyone,
        kinds: Vec::new(),
        from: EventsFrom::After(0),
        limit: 1_000,
    };
    let events = store.list_events(list).await.expect("a page").events.into_iter();
    events
        .map(|recorded| {
            let kind = recorded.event.kind.as_str().to_owned();
            (recorded.number, kind, recorded.event.session_id)
        })
        .collect()
}

async fn told(store: &dyn SessionStore) -> Vec<(String, Option<SessionId>)> {
    let listed = listed(store).await.into_iter();
    listed.map(|(_, kind, id)| (kind, id)).collect()
}

async fn first_and_last(store: &dyn SessionStore) -> (u64, u64) {
    let bounds = store.event_bounds().await.expect("bounds");
    (bounds.first, bounds.last)
}

async fn everything_of_the_user_goes_and_nothing_of_others(f: Fixture) {
    let sessions = ada_and_bob(&*f.store).await;
    let elsewhere = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(4))
    };
    let elsewhere = put(&*f.store, elsewhere).await;
    let of_bob = all_of(&*f.store, "bob").await;
    let devices = f.store.list_devices(app(), user("ada")).await.expect("devices");
    assert_eq!(
        devices[1],
        KnownDevice {
            browser: Some("Firefox".to_owned()),
            os: Some("Linux".to_owned()),
            first_seen_at: at(2)
        }
    );

    let erased = erase(&*f.store, "ada").await;

    // Her four events, that of the ending, and that all were ended.
    assert_eq!((erased.sessions, erased.events), (2, 6));
    assert_eq!(all_of(&*f.store, "ada").await.0, 0);
    for session in &sessions[..2] {
        assert!(f.store.find(session.id).await.expect("an answer").is_none());
    }
    assert_eq!(all_of(&*f.store, "bob").await, of_bob);
    let elsewhere = f.store.find(elsewhere.id).await.expect("an answer");
    assert!(elsewhere.is_some_and(|session| session.ending.is_none()));
    // Her call is forgotten, bob's is not.
    let again = f.store.create(rich("ada", 1, 10)).await.expect("an answer");
    assert!(matches!(again, Creation::Created { .. }), "{again:?}");
    let again = f.store.create(rich("bob", 2, 10)).await.expect("an answer");
    assert!(matches!(again, Creation::Repeated { .. }), "{again:?}");
}

async fn sessions_end_as_all_do_before_they_go(f: Fixture) {
    let sessions = ada_and_bob(&*f.store).await;
    let recorder = f.record();
    let request = ending(at(9), Reason::USER_ERASED, EndedBy::Operator);
    let erased = f.store.erase_user(app(), user("ada"), request, 1).await;
    assert!(erased.expect("erased").more);
    let active = sessions[1].id;
    let steps = recorder.take();
    assert!(steps.contains(&Step::Fence(vec![active])), "{steps:?}");
    let ended = steps
        .iter()
        .any(|step| matches!(step, Step::Announce { ended, .. } if *ended == [active]));
    assert!(ended, "{steps:?}");
    let session = f
        .store
        .find(active)
        .await
        .expect("an answer")
        .expect("still there");
    assert_eq!(how(&session), Some((at(9), "user_erased", EndedBy::Operator)));
}

async fn numbers_of_erased_events_stay_and_go_with_their_age(f: Fixture) {
    ada_and_bob(&*f.store).await;
    let (first, last) = first_and_last(&*f.store).await;
    erase(&*f.store, "ada").await;
    // The ending and that all were ended: their numbers were given too.
    assert_eq!(first_and_last(&*f.store).await, (first, last + 2));
    put(&*f.store, new_session("cyd", at(10))).await;
    let numbers: Vec<u64> = listed(&*f.store)
        .await
        .iter()
        .map(|(number, ..)| *number)
        .collect();
    assert_eq!(numbers, [5, 6, 7, 8, 11]);

    let purged = f.store.purge(at(3), 1_000, at(10)).await.expect("purged");
    assert_eq!((purged, first_and_last(&*f.store).await), (1 + 8, (9, 11)));
}

async fn events_of_a_session_from_before_it_was_the_user_s_go_too(f: Fixture) {
    let visit = put(&*f.store, anonymous_session(at(0))).await;
    let other = put(&*f.store, anonymous_session(at(0))).await;
    f.store
        .authenticate(sign_in(visit.id, "ada", 1))
        .await
        .expect("signed in");
    erase(&*f.store, "ada").await;
    assert_eq!(
        told(&*f.store).await,
        [("session.created".to_owned(), Some(other.id))]
    );
}

async fn erasure_takes_no_more_than_asked_and_goes_on_where_it_was_cut_short(f: Fixture) {
    let visit = put(&*f.store, anonymous_session(at(0))).await;
    f.store
        .authenticate(sign_in(visit.id, "ada", 1))
        .await
        .expect("signed in");
    ada_and_bob(&*f.store).await;
    let of_bob = all_of(&*f.store, "bob").await;
    let (mut sessions, mut events, mut calls) = (0, 0, 0);
    loop {
        let erased = erase_some(&*f.store, "ada", 1).await;
        calls += 1;
        assert!(erased.sessions + erased.events <= 1, "{erased:?}");
        (sessions, events) = (sessions + erased.sessions, events + erased.events);
        if let Kind::Sqlite(dir) = &f.kind {
            let found = examine_soundness(&database_in(dir)).expect("looked at");
            assert!(found.faults.is_empty(), "after {calls}: {found:?}");
        }
        if !erased.more {
            break;
        }
        let settings = f
            .store
            .find_user(app(), user("ada"), at(9))
            .await
            .expect("a record");
        assert_eq!(
            settings.settings.max_sessions,
            Some(7),
            "what holds until the end goes last"
        );
    }
    // Two events more of the visit, and one of its ending.
    assert_eq!((sessions, events, calls), (3, 9, 13));
    assert_eq!(all_of(&*f.store, "ada").await.0, 0);
    assert_eq!(all_of(&*f.store, "bob").await, of_bob);
}

async fn who_signs_in_again_begins_anew(f: Fixture) {
    put(&*f.store, new_session("ada", at(0))).await;
    let block = UserPatch {
        is_blocked: Some(true),
        ..UserPatch::default()
    };
    let blocked = f
        .store
        .update_user(app(), user("ada"), block, EndedBy::App, at(1));
    blocked.await.expect("blocked");
    erase(&*f.store, "ada").await;
    let again = put(&*f.store, rich("ada", 1, 10)).await;
    assert_eq!(
        told(&*f.store).await,
        [("session.created".to_owned(), Some(again.id))],
        "also no new device"
    );
}

async fn unknown_user_is_erased_by_doing_nothing(f: Fixture) {
    ada_and_bob(&*f.store).await;
    let before = f.everything().await;
    assert_eq!(erase(&*f.store, "cyd").await, Erased::default());
    assert_eq!(f.everything().await, before);
}

#[tokio::test]
async fn deliveries_of_erased_events_go_and_none_is_made_of_one_that_was_read_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = sqlite_in(&dir, 1_000);
    let id = WebhookId::random();
    let webhook = NewWebhook {
        now: at(0),
        id,
        app: app(),
        name: None,
        url: "https://example.com/".to_owned(),
        types: Vec::new(),
        description: None,
        secret: SealedSecret::from_bytes(vec![1]),
        max: 1,
    };
    store.create_webhook(webhook).await.expect("made");
    ada_and_bob(&store).await;
    let delivery = |event, name: &str| NewDelivery {
        event,
        kind: EventKind::SessionCreated,
        subject: name.to_owned(),
    };
    let enqueue = async |cursor, deliveries| {
        let new = NewDeliveries {
            cursor,
            types: Vec::new(),
            deliveries,
        };
        assert!(store.enqueue(id, new, at(4)).await.expect("queued"));
    };
    // The second is of an event that is kept no more.
    let purged = store.purge(at(1), 1, at(4)).await.expect("purged");
    assert_eq!(purged, 1);
    enqueue(
        5,
        vec![delivery(2, "session"), delivery(1, "ada"), delivery(5, "bob")],
    )
    .await;
    while erase_some(&store, "ada", 2).await.more {}
    enqueue(6, vec![delivery(3, "ada"), delivery(6, "bob")]).await;

    let database = open_database(&database_in(&dir));
    let mut statement = database
        .prepare("SELECT event_id || ' ' || subject FROM webhook_deliveries ORDER BY event_id")
        .expect("a query");
    let left = statement.query_map([], |row| row.get(0)).expect("rows");
    let left: Vec<String> = left.map(|row| row.expect("a row")).collect();
    assert_eq!(left, ["5 bob", "6 bob"]);
}
