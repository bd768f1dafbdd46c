//! Creations that can be repeated: what a repetition gets, and how long.

use sessiond::session::{
    EndedBy, Fingerprint, KeyId, Nonce, OnTokenReuse, Reason, SecretHash, SessionId, Timeouts,
};
use sessiond::store::{Creation, IDEMPOTENCY_MILLIS, Idempotency, NewSession, Owner, Renewal, SessionStore};

use super::sign_ins::sign_in;
use super::{Fixture, in_full, over_both_stores};
use crate::stores::{app, at, ending, limit, new_session, put};

over_both_stores!(
    repetition_gets_the_same_session_and_changes_nothing,
    repetitions_at_once_make_one_session,
    another_body_is_another_call_and_refused,
    keys_of_other_callers_are_others,
    call_can_be_repeated_for_a_day,
    call_of_yesterday_is_forgotten_by_the_next,
    session_that_ended_or_has_another_token_is_not_repeated,
    refused_call_is_not_remembered,
    purge_forgets_calls_after_a_day_in_bounded_batches,
);

const DAY: i64 = 24 * 3_600;

/// The call `key` with this body by the first caller; its session lives for days.
fn call(key: u8, body: u8, secs: i64) -> NewSession {
    call_by(1, key, body, secs)
}

fn call_by(caller: u8, key: u8, body: u8, secs: i64) -> NewSession {
    NewSession {
        timeouts: Timeouts {
            idle_millis: 10 * DAY * 1_000,
            absolute_millis: 10 * DAY * 1_000,
        },
        idempotency: Some(Idempotency {
            api_key: KeyId::from_bytes([caller; 16]),
            key: Fingerprint::from_bytes([key; 32]),
            body: Fingerprint::from_bytes([body; 32]),
            nonce: Nonce::random(),
        }),
        ..new_session("ada", at(secs))
    }
}

fn nonce_of(new: &NewSession) -> Nonce {
    new.idempotency.expect("a call").nonce
}

async fn create(store: &dyn SessionStore, new: NewSession) -> Creation {
    store.create(new).await.expect("the store works")
}

async fn repeated(store: &dyn SessionStore, new: NewSession) -> SessionId {
    match create(store, new).await {
        Creation::Repeated { session, .. } => session.id,
        other => panic!("{other:?}"),
    }
}

async fn assert_changed(store: &dyn SessionStore, new: NewSession, case: &str) {
    let answer = create(store, new).await;
    assert!(
        matches!(answer, Creation::IdempotencySessionChanged),
        "{case}: {answer:?}"
    );
}

async fn repetition_gets_the_same_session_and_changes_nothing(f: Fixture) {
    let store = &*f.store;
    let first = call(1, 1, 0);
    let made_with = nonce_of(&first);
    let made = put(store, first).await;
    let everything = f.everything().await;
    let again = NewSession {
        tiers: limit(1),
        tier: Some("pair".to_owned()),
        end_ids: vec![made.id],
        ..call(1, 1, 50)
    };
    let answer = create(store, again).await;
    let Creation::Repeated { session, nonce } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((in_full(&session), nonce), (in_full(&made), made_with));
    assert_eq!(f.everything().await, everything);
}

async fn repetitions_at_once_make_one_session(f: Fixture) {
    let store = &*f.store;
    let calling: Vec<_> = (0..20).map(|_| store.create(call(1, 1, 0))).collect();
    let mut ids = Vec::new();
    for answer in calling {
        ids.push(match answer.await.expect("an answer") {
            Creation::Created { session, .. } | Creation::Repeated { session, .. } => session.id,
            other => panic!("{other:?}"),
        });
    }
    ids.dedup();
    assert_eq!((ids.len(), f.count("session.created")), (1, 1));
}

async fn another_body_is_another_call_and_refused(f: Fixture) {
    let store = &*f.store;
    let made = put(store, call(1, 1, 0)).await.id;
    let everything = f.everything().await;
    let answer = create(store, call(1, 2, 1)).await;
    assert!(matches!(answer, Creation::IdempotencyKeyReused), "{answer:?}");
    assert_eq!(f.everything().await, everything);
    assert_eq!(repeated(store, call(1, 1, 2)).await, made);
}

async fn keys_of_other_callers_are_others(f: Fixture) {
    let store = &*f.store;
    let mine = put(store, call_by(1, 1, 1, 0)).await.id;
    let theirs = put(store, call_by(2, 1, 1, 0)).await.id;
    let other_key = put(store, call_by(1, 2, 1, 0)).await.id;
    assert_eq!(repeated(store, call_by(1, 1, 1, 1)).await, mine);
    assert_eq!(repeated(store, call_by(2, 1, 1, 1)).await, theirs);
    assert_eq!(repeated(store, call_by(1, 2, 1, 1)).await, other_key);
}

async fn call_can_be_repeated_for_a_day(f: Fixture) {
    let store = &*f.store;
    assert_eq!(IDEMPOTENCY_MILLIS, DAY * 1_000);
    let first = put(store, call(1, 1, 0)).await.id;
    let just_before = NewSession {
        now: at(DAY).plus_millis(-1),
        ..call(1, 1, 0)
    };
    assert_eq!(repeated(store, just_before).await, first);
    let second = put(store, call(1, 1, DAY)).await.id;
    assert_eq!(repeated(store, call(1, 1, DAY + 1)).await, second);
}

async fn call_of_yesterday_is_forgotten_by_the_next(f: Fixture) {
    let store = &*f.store;
    put(store, call(1, 1, 0)).await;
    let next = put(store, call(1, 2, DAY)).await.id;
    assert_eq!(repeated(store, call(1, 2, DAY + 1)).await, next);
    let answer = create(store, call(1, 1, DAY + 1)).await;
    assert!(matches!(answer, Creation::IdempotencyKeyReused), "{answer:?}");
}

async fn session_that_ended_or_has_another_token_is_not_repeated(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for key in 1..=3 {
        ids.push(put(store, call(key, 1, 0)).await);
    }
    let short = NewSession {
        timeouts: new_session("ada", at(0)).timeouts,
        ..call(4, 1, 0)
    };
    put(store, short).await;
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ids[0].id, Owner::Anyone, request)
        .await
        .expect("ended");
    let renewal = Renewal {
        now: at(1),
        app: app(),
        id: ids[1].id,
        presented: ids[1].token_hash,
        nonce: Nonce::from_bytes([1; 16]),
        successor: SecretHash::from_bytes([1; 32]),
        lost: None,
        grace_millis: 30_000,
        on_reuse: OnTokenReuse::Revoke,
    };
    store.renew(renewal).await.expect("renewed");
    store
        .authenticate(sign_in(ids[2].id, "ada", 1))
        .await
        .expect("an answer");
    let everything = f.everything().await;
    for (key, secs, case) in [
        (1, 2, "ended"),
        (2, 2, "renewed"),
        (3, 2, "signed in"),
        (4, 100, "overdue"),
    ] {
        assert_changed(store, call(key, 1, secs), case).await;
        assert_eq!(f.everything().await, everything, "{case}");
    }
    store.purge(at(50), 10, at(101)).await.expect("purged");
    assert_changed(store, call(1, 1, 102), "gone").await;
}

async fn refused_call_is_not_remembered(f: Fixture) {
    let store = &*f.store;
    let refused = NewSession {
        tiers: limit(0),
        ..call(1, 1, 0)
    };
    let answer = create(store, refused).await;
    assert!(matches!(answer, Creation::Refused(_)), "{answer:?}");
    let made = put(store, call(1, 2, 1)).await.id;
    assert_eq!(repeated(store, call(1, 2, 2)).await, made);
}

async fn purge_forgets_calls_after_a_day_in_bounded_batches(f: Fixture) {
    let store = &*f.store;
    let first = put(store, call(1, 1, 0)).await.id;
    for key in 2..=4 {
        put(store, call(key, 1, i64::from(key))).await;
    }
    // Nothing that ended or was told is that old.
    let purge = |limit, now| store.purge(at(-1), limit, now);
    let just_before = at(DAY).plus_millis(-1);
    assert_eq!(purge(10, just_before).await.expect("purged"), 0);
    assert_eq!(repeated(store, call(1, 1, DAY - 1)).await, first);
    assert_eq!(purge(2, at(DAY + 3)).await.expect("purged"), 2);
    assert_eq!(purge(2, at(DAY + 3)).await.expect("purged"), 1);
    assert_eq!(
        purge(2, at(DAY + 3)).await.expect("purged"),
        0,
        "the last is too young"
    );
    repeated(store, call(4, 1, DAY + 3)).await;
    assert_eq!(f.count("session.created"), 4);
}
