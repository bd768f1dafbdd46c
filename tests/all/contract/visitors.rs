//! Visitors who start sessions by themselves: so many from one network in an hour, so many in the whole app.

use sessiond::clock::Timestamp;
use sessiond::session::{EndedBy, Reason, SessionId};
use sessiond::store::{Creation, NewSession, Owner, SessionStore, Visitor};

use super::sign_ins::sign_in;
use super::{Fixture, over_both_stores};
use crate::stores::{anonymous_session, app, app_named, at, ending, new_session, put};

over_both_stores!(
    network_starts_only_so_many_in_an_hour,
    hour_is_that_of_each_start,
    networks_and_apps_are_counted_apart,
    app_starts_only_so_many_in_an_hour_from_all_networks,
    later_of_the_two_limits_says_when,
    starts_count_also_when_they_ended_or_were_given_to_a_user,
    refused_visitors_change_nothing_and_do_not_count,
    app_has_only_so_many_sessions_of_nobody,
    room_in_an_app_is_there_again_after_an_ending_or_a_sign_in,
);

const HOUR: i64 = 3_600;

/// A visitor of a network that may start two in an hour, in an app with room.
fn visitor(network: &str, secs: i64) -> NewSession {
    NewSession {
        visitor: Some(Visitor {
            network: network.to_owned(),
            per_hour: 2,
            per_hour_total: 100,
            total_max: 100,
        }),
        ..anonymous_session(at(secs))
    }
}

/// Each from a network of its own, where the app may have so many.
fn one_of(total_max: u32, secs: i64) -> NewSession {
    NewSession {
        visitor: Some(Visitor {
            network: format!("of {secs}"),
            per_hour: 1,
            per_hour_total: 100,
            total_max,
        }),
        ..anonymous_session(at(secs))
    }
}

async fn create(store: &dyn SessionStore, new: NewSession) -> Creation {
    store.create(new).await.expect("the store works")
}

/// When the next one may, of a visitor who may not.
async fn too_many(store: &dyn SessionStore, new: NewSession) -> Timestamp {
    match create(store, new).await {
        Creation::TooManyVisitors { retry_at } => retry_at,
        other => panic!("{other:?}"),
    }
}

async fn assert_full(store: &dyn SessionStore, new: NewSession) {
    let answer = create(store, new).await;
    assert!(matches!(answer, Creation::AppFull), "{answer:?}");
}

async fn end(store: &dyn SessionStore, id: SessionId, secs: i64) {
    let request = ending(at(secs), Reason::LOGOUT, EndedBy::App);
    store.end(app(), id, Owner::Anyone, request).await.expect("ended");
}

async fn network_starts_only_so_many_in_an_hour(f: Fixture) {
    let store = &*f.store;
    put(store, visitor("a", 0)).await;
    put(store, visitor("a", 10)).await;
    assert_eq!(too_many(store, visitor("a", 20)).await, at(HOUR));
    let just_before = NewSession {
        now: at(HOUR).plus_millis(-1),
        ..visitor("a", 0)
    };
    assert_eq!(too_many(store, just_before).await, at(HOUR));
    put(store, visitor("a", HOUR)).await;
}

async fn hour_is_that_of_each_start(f: Fixture) {
    let store = &*f.store;
    for secs in [0, 10, HOUR] {
        put(store, visitor("a", secs)).await;
    }
    let retry_at = too_many(store, visitor("a", HOUR + 5)).await;
    assert_eq!(retry_at, at(HOUR + 10), "when the second one is an hour old");
    put(store, visitor("a", HOUR + 10)).await;
}

async fn networks_and_apps_are_counted_apart(f: Fixture) {
    let store = &*f.store;
    for secs in [0, 1] {
        put(store, visitor("a", secs)).await;
        put(store, anonymous_session(at(secs))).await;
    }
    put(store, visitor("b", 2)).await;
    let in_shop = NewSession {
        app: app_named("shop"),
        ..visitor("a", 2)
    };
    put(store, in_shop).await;
    too_many(store, visitor("a", 2)).await;
    put(store, visitor("b", 3)).await;
    too_many(store, visitor("b", 4)).await;
}

/// Each from a network of its own, where all of them may start two in an hour.
fn one_of_two(secs: i64) -> NewSession {
    NewSession {
        visitor: Some(Visitor {
            network: format!("of {secs}"),
            per_hour: 1,
            per_hour_total: 2,
            total_max: 100,
        }),
        ..anonymous_session(at(secs))
    }
}

async fn app_starts_only_so_many_in_an_hour_from_all_networks(f: Fixture) {
    let store = &*f.store;
    for secs in [0, 10] {
        put(store, one_of_two(secs)).await;
        put(store, anonymous_session(at(secs))).await;
    }
    let in_shop = NewSession {
        app: app_named("shop"),
        ..one_of_two(11)
    };
    put(store, in_shop).await;
    assert_eq!(too_many(store, one_of_two(20)).await, at(HOUR));
    let just_before = NewSession {
        now: at(HOUR).plus_millis(-1),
        ..one_of_two(21)
    };
    assert_eq!(too_many(store, just_before).await, at(HOUR));
    let third = put(store, one_of_two(HOUR)).await.id;
    end(store, third, HOUR + 1).await;
    let refused = too_many(store, one_of_two(HOUR + 5)).await;
    assert_eq!(refused, at(HOUR + 10), "also those that ended count");
    put(store, one_of_two(HOUR + 10)).await;
}

async fn later_of_the_two_limits_says_when(f: Fixture) {
    let store = &*f.store;
    put(store, visitor("a", 0)).await;
    put(store, one_of_two(10)).await;
    put(store, visitor("a", 20)).await;
    let both = |secs| {
        let mut new = one_of_two(secs);
        new.visitor.as_mut().expect("a visitor").network = "of 10".to_owned();
        new
    };
    // Of all three starts the second must age, as there may be two; of its network the one at 10 s as well.
    assert_eq!(too_many(store, both(30)).await, at(HOUR + 10));
    assert_eq!(too_many(store, both(HOUR + 5)).await, at(HOUR + 10));
    assert_eq!(too_many(store, visitor("a", 40)).await, at(HOUR));
}

async fn starts_count_also_when_they_ended_or_were_given_to_a_user(f: Fixture) {
    let store = &*f.store;
    let ended = put(store, visitor("a", 0)).await.id;
    let given = put(store, visitor("a", 1)).await.id;
    end(store, ended, 2).await;
    store
        .authenticate(sign_in(given, "ada", 2))
        .await
        .expect("an answer");
    assert_eq!(too_many(store, visitor("a", 3)).await, at(HOUR));
}

async fn refused_visitors_change_nothing_and_do_not_count(f: Fixture) {
    let store = &*f.store;
    put(store, visitor("a", 0)).await;
    put(store, visitor("a", 1)).await;
    let everything = f.everything().await;
    for secs in 2..10 {
        too_many(store, visitor("a", secs)).await;
        let full = NewSession {
            visitor: Some(Visitor {
                network: "b".to_owned(),
                per_hour: 2,
                per_hour_total: 100,
                total_max: 2,
            }),
            ..visitor("b", secs)
        };
        assert_full(store, full).await;
    }
    assert_eq!(f.everything().await, everything);
    put(store, visitor("b", 10)).await;
    put(store, visitor("b", 11)).await;
    put(store, visitor("a", HOUR)).await;
}

async fn app_has_only_so_many_sessions_of_nobody(f: Fixture) {
    let store = &*f.store;
    put(store, anonymous_session(at(0))).await;
    put(store, new_session("ada", at(0))).await;
    let in_shop = NewSession {
        app: app_named("shop"),
        ..one_of(2, 1)
    };
    put(store, in_shop).await;
    put(store, one_of(2, 2)).await;
    assert_full(store, one_of(2, 3)).await;
    put(store, anonymous_session(at(4))).await;
    assert_full(store, one_of(3, 5)).await;
    put(store, one_of(4, 6)).await;
}

async fn room_in_an_app_is_there_again_after_an_ending_or_a_sign_in(f: Fixture) {
    let store = &*f.store;
    let first = put(store, one_of(2, 0)).await.id;
    let second = put(store, one_of(2, 1)).await.id;
    assert_full(store, one_of(2, 2)).await;
    end(store, first, 3).await;
    put(store, one_of(2, 4)).await;
    assert_full(store, one_of(2, 5)).await;
    store
        .authenticate(sign_in(second, "ada", 6))
        .await
        .expect("an answer");
    put(store, one_of(2, 7)).await;
    assert_full(store, one_of(2, 8)).await;

    // That session is a user's by now: it ends without making room for another of nobody.
    end(store, second, 9).await;
    assert_full(store, one_of(2, 10)).await;
    store.expire(at(200), 10).await.expect("swept");
    put(store, one_of(2, 200)).await;
    put(store, one_of(2, 201)).await;
    assert_full(store, one_of(2, 202)).await;
}
