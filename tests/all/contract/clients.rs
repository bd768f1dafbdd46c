//! Ids that clients choose: one active session of an app each, and only so many.

use sessiond::session::{EndedBy, Reason, Session, SessionId};
use sessiond::store::{ClientId, Creation, NewSession, Owner, SessionStore};

use super::sign_ins::sign_in;
use super::{Fixture, each, in_full, over_both_stores};
use crate::stores::{anonymous_session, app, app_named, at, ending, found, how, limit, new_session, put};

over_both_stores!(
    client_id_names_one_session_of_an_app,
    client_ids_are_all_64_bit_numbers,
    first_calls_at_once_make_one_session,
    client_id_is_free_again_after_an_ending,
    app_has_only_so_many_sessions_with_client_ids,
    overdue_session_is_replaced_also_when_the_app_is_full,
    overdue_session_of_another_id_makes_room_and_ends_first,
    overdue_session_of_the_same_user_ends_once,
    overdue_session_stays_if_its_successor_is_refused,
    client_id_stays_when_a_user_signs_in,
);

fn with_id(id: i64, secs: i64) -> NewSession {
    NewSession {
        client: Some(ClientId { id, total_max: 100 }),
        ..anonymous_session(at(secs))
    }
}

/// The same, where the app may have so many.
fn within(total_max: u32, id: i64, secs: i64) -> NewSession {
    NewSession {
        client: Some(ClientId { id, total_max }),
        ..anonymous_session(at(secs))
    }
}

async fn create(store: &dyn SessionStore, new: NewSession) -> Creation {
    store.create(new).await.expect("the store works")
}

async fn existed(store: &dyn SessionStore, new: NewSession) -> Session {
    match create(store, new).await {
        Creation::Existed(session) => *session,
        other => panic!("{other:?}"),
    }
}

async fn assert_full(store: &dyn SessionStore, new: NewSession) {
    let answer = create(store, new).await;
    assert!(matches!(answer, Creation::AppFull), "{answer:?}");
}

async fn find_client(store: &dyn SessionStore, id: i64) -> Option<SessionId> {
    let found = store.find_client(app(), id).await.expect("the store works");
    found.map(|session| session.id)
}

async fn end(store: &dyn SessionStore, id: SessionId, secs: i64) {
    let request = ending(at(secs), Reason::LOGOUT, EndedBy::App);
    store.end(app(), id, Owner::Anyone, request).await.expect("ended");
}

async fn client_id_names_one_session_of_an_app(f: Fixture) {
    let store = &*f.store;
    let made = put(store, with_id(7, 0)).await;
    assert_eq!(made.client_session_id, Some(7));
    assert_eq!(f.events()[0].client_session_id, Some(7));
    let everything = f.everything().await;
    let there = existed(store, with_id(7, 50)).await;
    assert_eq!(in_full(&there), in_full(&made));
    assert_eq!(f.everything().await, everything);

    assert_eq!(find_client(store, 7).await, Some(made.id));
    assert_eq!(find_client(store, 8).await, None);
    let in_shop = NewSession {
        app: app_named("shop"),
        ..with_id(7, 50)
    };
    let elsewhere = put(store, in_shop).await;
    assert_ne!(elsewhere.id, made.id);
    assert_eq!(find_client(store, 7).await, Some(made.id));
}

async fn client_ids_are_all_64_bit_numbers(f: Fixture) {
    let store = &*f.store;
    for id in [i64::MIN, -1, 0, 1, i64::MAX] {
        let made = put(store, with_id(id, 0)).await;
        assert_eq!(found(store, made.id).await.client_session_id, Some(id));
        assert_eq!(find_client(store, id).await, Some(made.id));
    }
}

async fn first_calls_at_once_make_one_session(f: Fixture) {
    let store = &*f.store;
    let calling: Vec<_> = (0..100).map(|_| store.create(with_id(7, 0))).collect();
    let mut ids = Vec::new();
    for answer in calling {
        ids.push(match answer.await.expect("an answer") {
            Creation::Created { session, .. } | Creation::Existed(session) => session.id,
            other => panic!("{other:?}"),
        });
    }
    ids.dedup();
    assert_eq!((ids.len(), f.count("session.created")), (1, 1));
}

async fn client_id_is_free_again_after_an_ending(f: Fixture) {
    let store = &*f.store;
    let first = put(store, with_id(7, 0)).await.id;
    end(store, first, 1).await;
    assert_eq!(find_client(store, 7).await, None);
    let second = put(store, with_id(7, 2)).await.id;
    assert_ne!(first, second);
    assert_eq!(find_client(store, 7).await, Some(second));
    let told = f.events();
    assert!(told.iter().all(|event| event.client_session_id == Some(7)));
    assert_eq!(
        f.told(),
        each([
            ("session.created", first),
            ("session.revoked", first),
            ("session.created", second)
        ])
    );
}

async fn app_has_only_so_many_sessions_with_client_ids(f: Fixture) {
    let store = &*f.store;
    put(store, anonymous_session(at(0))).await;
    let first = put(store, within(2, 1, 0)).await.id;
    put(store, within(2, 2, 0)).await;
    let everything = f.everything().await;
    assert_full(store, within(2, 3, 1)).await;
    assert_eq!(
        existed(store, within(2, 1, 1)).await.id,
        first,
        "what is there is found all the same"
    );
    assert_eq!(f.everything().await, everything);
    let in_shop = NewSession {
        app: app_named("shop"),
        ..within(2, 3, 1)
    };
    put(store, in_shop).await;

    end(store, first, 2).await;
    put(store, within(2, 3, 3)).await;
    assert_full(store, within(2, 4, 3)).await;
}

async fn overdue_session_is_replaced_also_when_the_app_is_full(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, within(1, 7, 0)).await.id;
    assert_eq!(find_client(store, 7).await, Some(overdue));
    let next = put(store, within(1, 7, 100)).await.id;
    assert_eq!(
        how(&found(store, overdue).await),
        Some((at(100), "idle_timeout", EndedBy::Timeout))
    );
    assert_eq!(find_client(store, 7).await, Some(next));
    assert_eq!(
        f.told(),
        each([
            ("session.created", overdue),
            ("session.expired", overdue),
            ("session.created", next)
        ])
    );
    assert_full(store, within(1, 8, 101)).await;
}

async fn overdue_session_of_another_id_makes_room_and_ends_first(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, within(1, 7, 0)).await.id;
    assert_full(store, within(1, 8, 99)).await;
    let next = put(store, within(1, 8, 100)).await.id;
    assert_eq!(
        f.told_since(1),
        each([("session.expired", overdue), ("session.created", next)])
    );
}

async fn overdue_session_of_the_same_user_ends_once(f: Fixture) {
    let store = &*f.store;
    let of_ada = |secs| NewSession {
        client: Some(ClientId { id: 7, total_max: 1 }),
        tiers: limit(1),
        ..new_session("ada", at(secs))
    };
    let overdue = put(store, of_ada(0)).await.id;
    let next = put(store, of_ada(100)).await.id;
    assert_eq!(
        f.told_since(1),
        each([("session.expired", overdue), ("session.created", next)])
    );
    assert_full(store, within(1, 8, 101)).await;
}

async fn overdue_session_stays_if_its_successor_is_refused(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, with_id(7, 0)).await.id;
    let everything = f.everything().await;
    let refused = NewSession {
        client: Some(ClientId {
            id: 7,
            total_max: 100,
        }),
        tiers: limit(0),
        ..new_session("ada", at(100))
    };
    let answer = create(store, refused).await;
    assert!(matches!(answer, Creation::Refused(_)), "{answer:?}");
    assert_eq!(f.everything().await, everything);
    assert_eq!(how(&found(store, overdue).await), None);
}

async fn client_id_stays_when_a_user_signs_in(f: Fixture) {
    let store = &*f.store;
    let made = put(store, within(2, 7, 0)).await;
    let authentication = sign_in(made.id, "ada", 1);
    store.authenticate(authentication).await.expect("an answer");
    assert_eq!(existed(store, with_id(7, 2)).await.id, made.id);
    assert_eq!(f.events()[1].client_session_id, Some(7));
    put(store, within(2, 8, 3)).await;
    assert_full(store, within(2, 9, 3)).await;
}
