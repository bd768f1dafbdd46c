//! Creates, updates, touches, users and keys: what each changes, and what it leaves alone.

use std::sync::Arc;

use sessiond::session::{
    Auth, Device, DeviceType, EndedBy, KeyId, Place, Reason, Secret, SessionId, Touch, UsedFrom,
};
use sessiond::store::{
    Creation, KeyRecord, NewSession, Outcome, Owner, Refused, Scope, SessionPatch, SessionStore, UserPatch,
};
use sessiond::user::UserSettings;

use super::{Fixture, over_both_stores};
use crate::stores::{
    EventRow, address, anonymous_session, app, app_named, at, ending, found, how, limit, new_session, put,
    touch, used_from, user,
};

over_both_stores!(
    session_is_stored_as_it_was_made,
    ids_grow_strictly_also_when_the_clock_does_not,
    oldest_sign_ins_are_evicted_never_the_new_one,
    own_maximum_beats_the_tier_and_a_tier_is_stored,
    refused_creates_change_nothing,
    overdue_sessions_take_no_room,
    anonymous_sessions_have_no_limit,
    update_changes_what_is_named_and_only_the_owners,
    update_neither_revives_nor_inserts,
    touch_moves_the_deadline_forward_only,
    touch_neither_revives_nor_inserts,
    touch_with_addresses_keeps_the_first_and_tells_of_news,
    place_of_the_first_address_comes_with_a_touch,
    user_settings_are_merged,
    blocking_ends_all_and_tells_once,
    event_rows_are_as_documented,
    keys_are_kept_and_revoked_once,
    closed_store_refuses_changes,
    high_water_is_the_largest_time_of_a_change,
);

fn furnished(name: &str, secs: i64) -> NewSession {
    NewSession {
        name: Some("desk".to_owned()),
        user_agent: Some("Mozilla/5.0".to_owned()),
        device: Some(Device {
            browser: Some("Firefox".to_owned()),
            browser_version: Some("150.0".to_owned()),
            os: Some("Linux".to_owned()),
            os_version: None,
            device_type: Some(DeviceType::Desktop),
            is_bot: false,
        }),
        place: Some(Place {
            city: Some("Berlin".to_owned()),
            country: "DE".to_owned(),
        }),
        ip_address: Some(address("203.0.113.7")),
        auth: Some(Auth::from_stored(r#"{"tags":["staff"],"a":1}"#)),
        authenticated_at: Some(at(secs - 5)),
        ..new_session(name, at(secs))
    }
}

async fn create(store: &dyn SessionStore, new: NewSession) -> Creation {
    store.create(new).await.expect("the store works")
}

async fn active_count(store: &dyn SessionStore, name: &str, secs: i64) -> u64 {
    let record = store.find_user(app(), user(name), at(secs)).await;
    record.expect("the store works").active_count
}

fn block(is_blocked: bool) -> UserPatch {
    UserPatch {
        is_blocked: Some(is_blocked),
        ..UserPatch::default()
    }
}

async fn session_is_stored_as_it_was_made(f: Fixture) {
    let new = furnished("ada", 10);
    let hash = new.token_hash;
    let made = put(&*f.store, new).await;
    assert_eq!(
        (made.created_at, made.signed_in_at, made.last_activity_at),
        (at(10), at(10), at(10))
    );
    assert_eq!(made.authenticated_at, Some(at(5)));
    assert_eq!(
        (made.expires_at(), made.absolute_expires_at),
        (at(110), at(1_010))
    );
    let stored = found(&*f.store, made.id).await;
    assert_eq!(format!("{stored:?}"), format!("{made:?}"));
    assert!(stored.token_hash.matches(&hash));

    let bare = put(&*f.store, new_session("ada", at(11))).await;
    let stored = found(&*f.store, bare.id).await;
    assert_eq!(format!("{stored:?}"), format!("{bare:?}"));
    assert_eq!((stored.device, stored.place, stored.auth), (None, None, None));
}

async fn ids_grow_strictly_also_when_the_clock_does_not(f: Fixture) {
    let mut last = SessionId::from_bytes([0; 16]);
    for secs in [10, 10, 10, 5, -100_000, 11, 10] {
        let id = put(&*f.store, new_session("ada", at(secs))).await.id;
        assert!(id > last, "{id} after {last}, at {secs}");
        let bytes = id.as_bytes();
        assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (7, 0b10), "{id} is a UUIDv7");
        last = id;
    }
}

async fn oldest_sign_ins_are_evicted_never_the_new_one(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for secs in 0..5 {
        ids.push(put(store, new_session("ada", at(secs))).await.id);
    }
    let bob = put(store, new_session("bob", at(0))).await.id;
    // Used last, but signed in first: the sign-in counts.
    store
        .write_touches(vec![touch(ids[0], at(9))], at(9))
        .await
        .expect("written");
    let lowered = NewSession {
        tiers: limit(3),
        ..new_session("ada", at(10))
    };
    let Creation::Created { session, evicted } = create(store, lowered).await else {
        panic!("refused")
    };
    let gone: Vec<_> = evicted.iter().map(|session| session.id).collect();
    assert_eq!(gone, ids[..3], "all surplus, oldest sign-in first");
    let ending = Some((at(10), "session_limit_exceeded", EndedBy::Limit));
    assert!(evicted.iter().all(|session| how(session) == ending));
    assert_eq!(active_count(store, "ada", 10).await, 3);
    assert_eq!(how(&found(store, session.id).await), None);
    assert_eq!(how(&found(store, bob).await), None);
    let told = f.told();
    let last: Vec<_> = told[told.len() - 4..].to_vec();
    let evicted = |id| ("session.evicted".to_owned(), Some(id));
    assert_eq!(
        last,
        [
            evicted(ids[0]),
            evicted(ids[1]),
            evicted(ids[2]),
            ("session.created".to_owned(), Some(session.id))
        ]
    );
}

async fn own_maximum_beats_the_tier_and_a_tier_is_stored(f: Fixture) {
    let store = &*f.store;
    let with_tier = NewSession {
        tier: Some("pair".to_owned()),
        ..new_session("ada", at(0))
    };
    put(store, with_tier).await;
    for secs in 1..4 {
        put(store, new_session("ada", at(secs))).await;
    }
    assert_eq!(active_count(store, "ada", 4).await, 2, "by the stored tier");
    let own = UserPatch {
        max_sessions: Some(Some(4)),
        ..UserPatch::default()
    };
    store
        .update_user(app(), user("ada"), own, EndedBy::App, at(4))
        .await
        .expect("set");
    for secs in 5..9 {
        put(store, new_session("ada", at(secs))).await;
    }
    assert_eq!(
        active_count(store, "ada", 9).await,
        4,
        "by the user's own maximum"
    );
    let record = store
        .find_user(app(), user("ada"), at(9))
        .await
        .expect("a record");
    assert_eq!(record.settings.tier.as_deref(), Some("pair"));
}

async fn refused_creates_change_nothing(f: Fixture) {
    let store = &*f.store;
    let ada = put(store, new_session("ada", at(0))).await.id;
    let none = NewSession {
        tiers: limit(0),
        tier: Some("only".to_owned()),
        ..new_session("ada", at(1))
    };
    let refused = create(store, none).await;
    assert!(
        matches!(refused, Creation::Refused(Refused::LimitReached { max: 0, .. })),
        "{refused:?}"
    );
    store
        .update_user(app(), user("bob"), block(true), EndedBy::App, at(2))
        .await
        .expect("blocked");
    let with_tier = NewSession {
        tier: Some("pair".to_owned()),
        ..new_session("bob", at(3))
    };
    let refused = create(store, with_tier).await;
    assert!(
        matches!(refused, Creation::Refused(Refused::UserBlocked)),
        "{refused:?}"
    );

    assert_eq!(how(&found(store, ada).await), None, "nothing was evicted");
    for name in ["ada", "bob"] {
        let record = store.find_user(app(), user(name), at(3)).await.expect("a record");
        assert_eq!(record.settings.tier, None, "{name}'s tier was not stored");
    }
    assert_eq!(f.count("session.created"), 1);

    store
        .update_user(app(), user("bob"), block(false), EndedBy::App, at(4))
        .await
        .expect("unblocked");
    put(store, new_session("bob", at(5))).await;
}

async fn overdue_sessions_take_no_room(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, new_session("ada", at(0))).await.id;
    let younger = put(store, new_session("ada", at(50))).await.id;
    let new = NewSession {
        tiers: limit(2),
        ..new_session("ada", at(100))
    };
    let Creation::Created { session, evicted } = create(store, new).await else {
        panic!("refused")
    };
    assert!(evicted.is_empty(), "{evicted:?}");
    assert_eq!(how(&found(store, younger).await), None);
    let told = f.told();
    assert_eq!(
        told[2..],
        [
            ("session.expired".to_owned(), Some(overdue)),
            ("session.created".to_owned(), Some(session.id))
        ]
    );
}

async fn anonymous_sessions_have_no_limit(f: Fixture) {
    for secs in 0..4 {
        let new = NewSession {
            tiers: limit(1),
            ..anonymous_session(at(secs))
        };
        put(&*f.store, new).await;
    }
    assert_eq!(f.count("session.created"), 4);
    assert_eq!(f.count("session.evicted"), 0);
}

async fn update_changes_what_is_named_and_only_the_owners(f: Fixture) {
    let store = &*f.store;
    let ada = put(store, furnished("ada", 0)).await;
    let trust = SessionPatch {
        is_trusted: Some(true),
        ..SessionPatch::default()
    };
    let foreign = [
        (app(), Owner::User(user("bob"))),
        (app_named("shop"), Owner::Anyone),
    ];
    for (app, owner) in foreign {
        let outcome = store.update(app, ada.id, owner, trust.clone(), at(1)).await;
        assert!(matches!(outcome.expect("an answer"), Outcome::NotFound));
    }
    assert!(!found(store, ada.id).await.is_trusted);

    store
        .update(app(), ada.id, Owner::User(user("ada")), trust, at(1))
        .await
        .expect("updated");
    let clear = SessionPatch {
        name: Some(None),
        auth: Some(Some(Auth::from_stored("{}"))),
        ..SessionPatch::default()
    };
    let outcome = store.update(app(), ada.id, Owner::Anyone, clear, at(2)).await;
    let Ok(Outcome::Done(answered)) = outcome else {
        panic!("{outcome:?}")
    };
    let stored = found(store, ada.id).await;
    assert_eq!(format!("{stored:?}"), format!("{answered:?}"));
    assert_eq!(
        (stored.name, stored.is_trusted, stored.auth),
        (None, true, Some(Auth::from_stored("{}")))
    );
    assert_eq!(stored.device, ada.device);
    assert_eq!(stored.last_activity_at, at(0), "an update is no use");
}

async fn update_neither_revives_nor_inserts(f: Fixture) {
    let store = &*f.store;
    let ended = put(store, new_session("ada", at(0))).await.id;
    let overdue = put(store, new_session("bob", at(0))).await.id;
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    let rename = || SessionPatch {
        name: Some(Some("late".to_owned())),
        ..SessionPatch::default()
    };
    for (id, secs) in [(ended, 2), (overdue, 100)] {
        let outcome = store.update(app(), id, Owner::Anyone, rename(), at(secs)).await;
        assert!(matches!(outcome.expect("an answer"), Outcome::AlreadyEnded(_)));
        let stored = found(store, id).await;
        assert_eq!(
            (stored.name.as_deref(), stored.is_active(at(secs))),
            (None, false)
        );
    }
    let unknown = SessionId::from_bytes([9; 16]);
    let outcome = store.update(app(), unknown, Owner::Anyone, rename(), at(3)).await;
    assert!(matches!(outcome.expect("an answer"), Outcome::NotFound));
    assert!(store.find(unknown).await.expect("an answer").is_none());
}

async fn touch_moves_the_deadline_forward_only(f: Fixture) {
    let store = &*f.store;
    let mut new = new_session("ada", at(0));
    new.timeouts.absolute_millis = 150_000;
    let ada = put(store, new).await.id;
    for (used, last, deadline) in [(30, 30, 130), (20, 30, 130), (90, 90, 150)] {
        store
            .write_touches(vec![touch(ada, at(used))], at(95))
            .await
            .expect("written");
        let stored = found(store, ada).await;
        assert_eq!(
            (stored.last_activity_at, stored.expires_at()),
            (at(last), at(deadline)),
            "used at {used}"
        );
    }
    assert_eq!(active_count(store, "ada", 149).await, 1);
    assert_eq!(active_count(store, "ada", 150).await, 0);
}

async fn touch_neither_revives_nor_inserts(f: Fixture) {
    let store = &*f.store;
    let ended = put(store, new_session("ada", at(0))).await.id;
    let alive = put(store, new_session("ada", at(0))).await.id;
    let request = ending(at(10), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    let before = f.events().len();
    let unknown = SessionId::from_bytes([9; 16]);
    let from_afar = |id| Touch {
        first_address: Some(used_from(address("192.0.2.1"))),
        last_address: Some(used_from(address("192.0.2.2"))),
        ..touch(id, at(20))
    };
    let late = vec![
        touch(ended, at(20)),
        touch(unknown, at(20)),
        from_afar(ended),
        from_afar(unknown),
        touch(alive, at(20)),
    ];
    store.write_touches(late, at(20)).await.expect("written");
    let stored = found(store, ended).await;
    assert_eq!(how(&stored), Some((at(10), "logout", EndedBy::App)));
    assert_eq!((stored.last_activity_at, stored.ip_address), (at(0), None));
    assert!(store.find(unknown).await.expect("an answer").is_none());
    assert_eq!(
        found(store, alive).await.last_activity_at,
        at(20),
        "the others are written"
    );
    assert_eq!(f.events().len(), before);
}

async fn touch_with_addresses_keeps_the_first_and_tells_of_news(f: Fixture) {
    let store = &*f.store;
    let ada = put(store, new_session("ada", at(0))).await.id;
    let [home, train, office] = ["192.0.2.1", "2001:db8::1", "192.0.2.3"].map(address);
    let from = |first, last: Option<_>, secs| Touch {
        first_address: Some(used_from(first)),
        last_address: last.map(used_from),
        ..touch(ada, at(secs))
    };
    let cases = [
        ("none was known", from(home, None, 1), home, None, 0),
        ("the same", from(home, None, 2), home, None, 0),
        ("another", from(train, None, 3), home, Some(train), 1),
        ("two others", from(office, Some(train), 4), home, Some(train), 3),
        ("back home", from(home, None, 5), home, Some(home), 4),
    ];
    for (case, touch, first, last, activities) in cases {
        store.write_touches(vec![touch], at(9)).await.expect("written");
        let stored = found(store, ada).await;
        assert_eq!(
            (stored.ip_address, stored.last_ip_address),
            (Some(first), last),
            "{case}"
        );
        assert_eq!(f.count("session.activity"), activities, "{case}");
    }

    let bob = put(store, new_session("bob", at(0))).await.id;
    let there_and_back = Touch {
        first_address: Some(used_from(home)),
        last_address: Some(used_from(home)),
        ..touch(bob, at(6))
    };
    for writes in 1..=2 {
        store
            .write_touches(vec![there_and_back.clone()], at(9))
            .await
            .expect("written");
        let stored = found(store, bob).await;
        assert_eq!(
            (
                stored.ip_address,
                stored.last_ip_address,
                f.count("session.activity")
            ),
            (Some(home), Some(home), 5),
            "written {writes} times"
        );
    }
}

async fn place_of_the_first_address_comes_with_a_touch(f: Fixture) {
    let store = &*f.store;
    let [home, train] = ["192.0.2.1", "2001:db8::1"].map(address);
    let [bern, paris] = [(Some("Bern"), "CH"), (None, "FR")].map(|(city, country)| Place {
        city: city.map(str::to_owned),
        country: country.to_owned(),
    });
    let from = |address, place: &Place| UsedFrom {
        address,
        place: Some(Arc::new(place.clone())),
    };
    let use_from = async |id, first, last, secs| {
        let touch = Touch {
            first_address: Some(first),
            last_address: last,
            ..touch(id, at(secs))
        };
        store.write_touches(vec![touch], at(secs)).await.expect("written");
        found(store, id).await.place
    };
    let ada = put(store, new_session("ada", at(0))).await.id;
    let place = use_from(ada, from(home, &bern), Some(from(train, &paris)), 1).await;
    assert_eq!(place, Some(bern.clone()));
    let place = use_from(ada, from(home, &paris), None, 2).await;
    assert_eq!(place, Some(bern.clone()), "it stays");

    let bob = put(store, new_session("bob", at(0))).await.id;
    assert_eq!(use_from(bob, used_from(home), None, 1).await, None);
    let place = use_from(bob, from(train, &paris), None, 2).await;
    assert_eq!(place, None, "not that of a later address");

    let from_home = NewSession {
        ip_address: Some(home),
        place: Some(bern.clone()),
        ..new_session("cyd", at(0))
    };
    let cyd = put(store, from_home).await.id;
    let place = use_from(cyd, from(train, &paris), None, 1).await;
    assert_eq!(place, Some(bern));
}

async fn user_settings_are_merged(f: Fixture) {
    let store = &*f.store;
    put(store, new_session("ada", at(0))).await;
    let set = |patch| store.update_user(app(), user("ada"), patch, EndedBy::App, at(1));
    let tier = UserPatch {
        tier: Some(Some("pair".to_owned())),
        ..UserPatch::default()
    };
    let own = UserPatch {
        max_sessions: Some(Some(7)),
        ..UserPatch::default()
    };
    let no_tier = UserPatch {
        tier: Some(None),
        ..UserPatch::default()
    };
    set(tier).await.expect("set");
    let record = set(own).await.expect("set");
    assert_eq!(
        (record.settings.tier.as_deref(), record.settings.max_sessions),
        (Some("pair"), Some(7))
    );
    let record = set(no_tier).await.expect("set");
    assert_eq!(
        record.settings,
        UserSettings {
            max_sessions: Some(7),
            ..UserSettings::default()
        }
    );
    assert_eq!(record.active_count, 1);
    assert_eq!(
        store
            .find_user(app(), user("ada"), at(1))
            .await
            .expect("a record"),
        record
    );
    let elsewhere = store.find_user(app_named("shop"), user("ada"), at(1)).await;
    let elsewhere = elsewhere.expect("a record");
    assert_eq!(
        (elsewhere.settings, elsewhere.active_count),
        (UserSettings::default(), 0),
        "the same name in another app is somebody else"
    );
}

async fn blocking_ends_all_and_tells_once(f: Fixture) {
    let store = &*f.store;
    let ids = [
        put(store, new_session("ada", at(0))).await.id,
        put(store, new_session("ada", at(1))).await.id,
    ];
    for secs in [2, 3] {
        let record = store
            .update_user(app(), user("ada"), block(true), EndedBy::Operator, at(secs))
            .await
            .expect("blocked");
        assert_eq!((record.settings.is_blocked, record.active_count), (true, 0));
    }
    for id in ids {
        let session = found(store, id).await;
        assert_eq!(how(&session), Some((at(2), "user_blocked", EndedBy::Operator)));
    }
    let told: Vec<_> = f.told()[2..].to_vec();
    assert_eq!(
        told,
        [
            ("session.revoked".to_owned(), Some(ids[0])),
            ("session.revoked".to_owned(), Some(ids[1])),
            ("user.sessions_revoked".to_owned(), None),
            ("user.blocked".to_owned(), None),
        ]
    );
}

async fn event_rows_are_as_documented(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for (name, secs) in [("ada", 0), ("ada", 1), ("ada", 2)] {
        let new = NewSession {
            tiers: limit(2),
            ..furnished(name, secs)
        };
        ids.push(put(store, new).await.id);
    }
    let from_train = Touch {
        first_address: Some(UsedFrom {
            address: address("2001:db8::1"),
            place: Some(Arc::new(Place {
                city: Some("Bern".to_owned()),
                country: "CH".to_owned(),
            })),
        }),
        ..touch(ids[1], at(3))
    };
    store
        .write_touches(vec![from_train], at(4))
        .await
        .expect("written");
    let except = ids[2];
    let scope = Scope::User {
        user_id: user("ada"),
        except: Some(except),
    };
    let request = ending(at(5), Reason::LOGOUT_ALL, EndedBy::User);
    store.end_many(app(), scope, request).await.expect("ended");
    store.expire(at(500), 10).await.expect("swept");
    store
        .update_user(app(), user("ada"), block(true), EndedBy::App, at(501))
        .await
        .expect("blocked");

    let about = |kind: &str, secs, id: usize| EventRow {
        kind: kind.to_owned(),
        occurred_at: at(secs),
        app: "default".to_owned(),
        user_id: Some("ada".to_owned()),
        session_id: Some(ids[id]),
        client_session_id: None,
        reason: None,
        ended_by: None,
        device_info: Some("Firefox on Linux".to_owned()),
        ip_address: Some("203.0.113.7".to_owned()),
        location: Some("Berlin, DE".to_owned()),
        data: None,
    };
    let because = |row: EventRow, reason: Option<&str>, by: &str| EventRow {
        reason: reason.map(str::to_owned),
        ended_by: Some(by.to_owned()),
        ..row
    };
    let from_train = |row: EventRow| EventRow {
        ip_address: Some("2001:db8::1".to_owned()),
        // The place that is kept is another address's.
        location: None,
        ..row
    };
    let about_user = |kind: &str, secs| EventRow {
        session_id: None,
        device_info: None,
        ip_address: None,
        location: None,
        ..about(kind, secs, 0)
    };
    let counted = EventRow {
        data: Some(format!(r#"{{"session_count":1,"except_session_id":"{except}"}}"#)),
        ..about_user("user.sessions_revoked", 5)
    };
    let expected = [
        about("session.created", 0, 0),
        about("session.created", 1, 1),
        because(
            about("session.evicted", 2, 0),
            Some("session_limit_exceeded"),
            "limit",
        ),
        about("session.created", 2, 2),
        EventRow {
            location: Some("Bern, CH".to_owned()),
            ..from_train(about("session.activity", 3, 1))
        },
        because(
            from_train(about("session.revoked", 5, 1)),
            Some("logout_all"),
            "user",
        ),
        because(counted, Some("logout_all"), "user"),
        because(about("session.expired", 102, 2), Some("idle_timeout"), "timeout"),
        because(about_user("user.blocked", 501), None, "app"),
    ];
    let told = f.events();
    for (told, expected) in told.iter().zip(&expected) {
        assert_eq!(told, expected);
    }
    assert_eq!(told.len(), expected.len());
}

async fn keys_are_kept_and_revoked_once(f: Fixture) {
    let store = &*f.store;
    let key = |name: &str, secs| KeyRecord {
        id: KeyId::random(),
        app: app_named("shop"),
        name: name.to_owned(),
        hash: Secret::random().hash(),
        created_at: at(secs),
        revoked_at: None,
    };
    let (second, first) = (key("second", 2), key("first", 1));
    for key in [&second, &first] {
        store.create_key(key.clone()).await.expect("kept");
    }
    let names = |keys: Vec<KeyRecord>| keys.into_iter().map(|key| key.name).collect::<Vec<_>>();
    assert_eq!(
        names(store.list_keys().await.expect("keys")),
        ["first", "second"],
        "oldest first"
    );
    for secs in [5, 6] {
        assert!(store.revoke_key(first.id, at(secs)).await.expect("an answer"));
    }
    let stored = store.find_key(first.id).await.expect("an answer").expect("there");
    assert_eq!(stored.revoked_at, Some(at(5)), "the first time stays");
    assert_eq!((stored.app, stored.created_at), (app_named("shop"), at(1)));
    assert!(stored.hash.matches(&first.hash));
    let other = store
        .find_key(second.id)
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(other.revoked_at, None);

    let unknown = KeyId::random();
    assert!(!store.revoke_key(unknown, at(7)).await.expect("an answer"));
    assert!(store.find_key(unknown).await.expect("an answer").is_none());
}

async fn closed_store_refuses_changes(f: Fixture) {
    let store = &*f.store;
    let ada = put(store, new_session("ada", at(0))).await.id;
    store.close();
    let refused = store.create(new_session("ada", at(1))).await;
    assert!(
        matches!(refused, Err(sessiond::error::Error::Store(_))),
        "{refused:?}"
    );
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    let refused = store.end(app(), ada, Owner::Anyone, request).await;
    assert!(
        matches!(refused, Err(sessiond::error::Error::Store(_))),
        "{refused:?}"
    );
    let refused = store.write_touches(vec![touch(ada, at(1))], at(1)).await;
    assert!(
        matches!(refused, Err(sessiond::error::Error::Store(_))),
        "{refused:?}"
    );
    assert_eq!(f.events().len(), 1);
    store.close(); // again is harmless
}

async fn high_water_is_the_largest_time_of_a_change(f: Fixture) {
    let store = &*f.store;
    assert_eq!(store.high_water().await.expect("an answer"), None);
    let mut ada = None;
    for (secs, largest) in [(10, 10), (5, 10), (20, 20)] {
        ada = Some(put(store, new_session("ada", at(secs))).await.id);
        assert_eq!(store.high_water().await.expect("an answer"), Some(at(largest)));
    }
    let used = touch(ada.expect("made"), at(25));
    store.write_touches(vec![used], at(30)).await.expect("written");
    assert_eq!(store.high_water().await.expect("an answer"), Some(at(30)));
}
