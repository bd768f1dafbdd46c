//! Renewals of tokens: one successor for everybody, how long the token before it stays good, and what follows if it comes
//! back later.

use sessiond::session::{
    EndedBy, Grace, Nonce, OnTokenReuse, Reason, SecretHash, Session, SessionId, SuccessorSeen, Touch,
};
use sessiond::store::{NewSession, Owner, Renewal, Renewed, SessionStore};

use super::{Fixture, each, in_full, over_both_stores};
use crate::stores::{address, app, app_named, at, ending, found, how, new_session, put, touch, used_from};

over_both_stores!(
    renewal_replaces_the_token_and_is_no_use,
    everybody_who_renews_the_same_token_gets_the_same_successor,
    token_before_is_good_until_its_successor_was_seen,
    renewing_a_successor_begins_the_grace_once_and_stays,
    seen_successor_begins_the_grace_once,
    seen_token_of_another_renewal_begins_no_grace,
    grace_of_an_ended_session_does_not_begin,
    token_before_is_renewed_to_its_successor_until_the_grace_ends,
    successor_is_renewed_once_the_grace_is_over,
    reuse_ends_the_session,
    reuse_is_told_at_most_once_a_minute,
    use_of_a_replaced_token_is_told_at_most_once_a_minute,
    use_that_is_nothing_to_tell_is_not_told,
    what_is_not_renewed_changes_nothing,
    nonces_are_erased_after_the_grace_and_not_before,
    nonces_are_erased_in_bounded_batches,
    lost_successor_that_nobody_saw_is_replaced,
    successor_that_was_seen_is_not_lost,
);

/// How long a token stays good after its successor was seen, in seconds.
const GRACE: i64 = 30;

/// The hash of a token; the first one is 0, and successors are told from each other.
pub(super) fn token(n: u8) -> SecretHash {
    SecretHash::from_bytes([n + 100; 32])
}

fn nonce(n: u8) -> Nonce {
    Nonce::from_bytes([n; 16])
}

/// A session whose token is the first.
async fn start(store: &dyn SessionStore) -> SessionId {
    let new = NewSession {
        token_hash: token(0),
        ..new_session("ada", at(0))
    };
    put(store, new).await.id
}

/// A session whose token was renewed at 1 s.
pub(super) async fn start_renewed(store: &dyn SessionStore) -> SessionId {
    let id = start(store).await;
    successor(store, renewal(id, 0, 1, 1)).await;
    id
}

/// The same, with its successor seen at 10 s: its grace ends at 40 s.
pub(super) async fn start_seen(store: &dyn SessionStore) -> SessionId {
    let id = start_renewed(store).await;
    write(store, seen(id, 1, 10)).await;
    id
}

/// A renewal of the token `presented` to the token `next`.
pub(super) fn renewal(id: SessionId, presented: u8, next: u8, secs: i64) -> Renewal {
    Renewal {
        now: at(secs),
        app: app(),
        id,
        presented: token(presented),
        nonce: nonce(next),
        successor: token(next),
        lost: None,
        grace_millis: GRACE * 1_000,
        on_reuse: OnTokenReuse::Revoke,
    }
}

/// A touch that saw the token `n`.
pub(super) fn seen(id: SessionId, n: u8, secs: i64) -> Touch {
    Touch {
        successor_seen: Some(SuccessorSeen {
            token_hash: token(n),
            grace_ends_at: at(secs + GRACE),
        }),
        ..touch(id, at(secs))
    }
}

async fn write(store: &dyn SessionStore, touch: Touch) {
    let now = touch.at;
    store.write_touches(vec![touch], now).await.expect("written");
}

async fn renew(store: &dyn SessionStore, renewal: Renewal) -> Renewed {
    store.renew(renewal).await.expect("the store works")
}

/// The session and the nonce of a renewal that gave a successor.
async fn successor(store: &dyn SessionStore, renewal: Renewal) -> (Session, Nonce) {
    match renew(store, renewal).await {
        Renewed::Successor { session, nonce } => (*session, nonce),
        other => panic!("{other:?}"),
    }
}

async fn unchanged(store: &dyn SessionStore, renewal: Renewal) -> Session {
    match renew(store, renewal).await {
        Renewed::Unchanged(session) => *session,
        other => panic!("{other:?}"),
    }
}

async fn reused(store: &dyn SessionStore, renewal: Renewal) -> Session {
    match renew(store, renewal).await {
        Renewed::Reused(session) => *session,
        other => panic!("{other:?}"),
    }
}

/// The grace of the token before the current one.
async fn grace(store: &dyn SessionStore, id: SessionId) -> Grace {
    found(store, id).await.replaced.expect("a token before").grace
}

fn until(secs: i64, n: u8) -> Grace {
    Grace::Until {
        ends_at: at(secs),
        nonce: Some(nonce(n)),
    }
}

async fn renewal_replaces_the_token_and_is_no_use(f: Fixture) {
    let store = &*f.store;
    let id = start(store).await;
    let (answered, made_with) = successor(store, renewal(id, 0, 1, 50)).await;
    assert_eq!(made_with, nonce(1));
    let stored = found(store, id).await;
    assert_eq!(in_full(&stored), in_full(&answered));
    assert!(stored.token_hash.matches(&token(1)));
    let before = stored.replaced.expect("the one before");
    assert!(before.hash.matches(&token(0)));
    assert_eq!(
        (before.grace, before.reported_at),
        (Grace::Open { nonce: nonce(1) }, None)
    );
    assert_eq!((stored.last_activity_at, stored.expires_at()), (at(0), at(100)));
    assert_eq!(f.told(), each([("session.created", id), ("session.renewed", id)]));
    assert_eq!(f.events()[1].occurred_at, at(50));
}

async fn everybody_who_renews_the_same_token_gets_the_same_successor(f: Fixture) {
    let store = &*f.store;
    let id = start(store).await;
    let renewing: Vec<_> = (1..=50)
        .map(|n| store.renew(renewal(id, 0, n, i64::from(n))))
        .collect();
    for answer in renewing {
        let answer = answer.await.expect("an answer");
        let Renewed::Successor { session, nonce: made } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(made, nonce(1));
        assert!(session.token_hash.matches(&token(1)));
    }
    assert_eq!(f.count("session.renewed"), 1);
}

async fn token_before_is_good_until_its_successor_was_seen(f: Fixture) {
    let store = &*f.store;
    let id = start_renewed(store).await;
    // It is used for long, as nobody got the answer.
    for secs in (50..900).step_by(50) {
        write(store, touch(id, at(secs))).await;
    }
    let everything = f.everything().await;
    let (_, made_with) = successor(store, renewal(id, 0, 2, 900)).await;
    assert_eq!(made_with, nonce(1));
    assert_eq!(f.everything().await, everything);
}

async fn renewing_a_successor_begins_the_grace_once_and_stays(f: Fixture) {
    let store = &*f.store;
    let id = start_renewed(store).await;
    let answered = unchanged(store, renewal(id, 1, 2, 10)).await;
    assert_eq!(grace(store, id).await, until(40, 1));
    assert_eq!(in_full(&found(store, id).await), in_full(&answered));
    let everything = f.everything().await;
    for secs in [11, 39] {
        unchanged(store, renewal(id, 1, 3, secs)).await;
    }
    assert_eq!(
        f.everything().await,
        everything,
        "once, from when it was first presented"
    );
    assert_eq!(f.count("session.renewed"), 1);
}

async fn seen_successor_begins_the_grace_once(f: Fixture) {
    let store = &*f.store;
    let id = start_renewed(store).await;
    write(store, seen(id, 1, 10)).await;
    assert_eq!(grace(store, id).await, until(40, 1));
    let from_afar = Touch {
        first_address: Some(used_from(address("192.0.2.1"))),
        ..seen(id, 1, 12)
    };
    write(store, seen(id, 1, 11)).await;
    write(store, from_afar).await;
    unchanged(store, renewal(id, 1, 2, 13)).await;
    let stored = found(store, id).await;
    assert_eq!(grace(store, id).await, until(40, 1));
    assert_eq!(
        (stored.last_activity_at, stored.ip_address),
        (at(12), Some(address("192.0.2.1"))),
        "the use itself counts"
    );
}

async fn seen_token_of_another_renewal_begins_no_grace(f: Fixture) {
    let store = &*f.store;
    let id = start_renewed(store).await;
    for other in [0, 2] {
        let from_afar = Touch {
            first_address: Some(used_from(address("192.0.2.1"))),
            ..seen(id, other, 11)
        };
        for touch in [seen(id, other, 10), from_afar] {
            write(store, touch).await;
            assert_eq!(
                grace(store, id).await,
                Grace::Open { nonce: nonce(1) },
                "token {other}"
            );
        }
    }
    let never_renewed = start(store).await;
    write(store, seen(never_renewed, 0, 10)).await;
    assert_eq!(found(store, never_renewed).await.replaced, None);
}

async fn grace_of_an_ended_session_does_not_begin(f: Fixture) {
    let store = &*f.store;
    let id = start_renewed(store).await;
    let request = ending(at(5), Reason::LOGOUT, EndedBy::App);
    store.end(app(), id, Owner::Anyone, request).await.expect("ended");
    let everything = f.everything().await;
    write(store, seen(id, 1, 10)).await;
    assert_eq!(f.everything().await, everything);
}

async fn token_before_is_renewed_to_its_successor_until_the_grace_ends(f: Fixture) {
    let store = &*f.store;
    let id = start_seen(store).await;
    let everything = f.everything().await;
    let just_before = Renewal {
        now: at(40).plus_millis(-1),
        ..renewal(id, 0, 2, 0)
    };
    let (_, made_with) = successor(store, just_before).await;
    assert_eq!(made_with, nonce(1));
    assert_eq!(f.everything().await, everything);
    reused(store, renewal(id, 0, 2, 40)).await;
}

async fn successor_is_renewed_once_the_grace_is_over(f: Fixture) {
    let store = &*f.store;
    let id = start_seen(store).await;
    unchanged(store, renewal(id, 1, 2, 39)).await;
    let (session, made_with) = successor(store, renewal(id, 1, 2, 40)).await;
    assert_eq!(made_with, nonce(2));
    assert!(session.token_hash.matches(&token(2)));
    let everything = f.everything().await;
    let answer = renew(store, renewal(id, 0, 3, 41)).await;
    assert!(
        matches!(answer, Renewed::Unknown),
        "the one before the one before: {answer:?}"
    );
    assert_eq!(f.everything().await, everything);
}

async fn reuse_ends_the_session(f: Fixture) {
    let store = &*f.store;
    let id = start_seen(store).await;
    let known = f.told().len();
    let session = reused(store, renewal(id, 0, 2, 41)).await;
    assert_eq!(how(&session), Some((at(41), "token_reuse", EndedBy::Security)));
    assert_eq!(in_full(&found(store, id).await), in_full(&session));
    assert_eq!(
        f.told_since(known),
        each([("session.suspicious", id), ("session.revoked", id)])
    );
    assert_eq!(f.events()[known].occurred_at, at(41));
    assert!(f.events()[known].data.is_some(), "it is explained");

    let everything = f.everything().await;
    let again = renew(store, renewal(id, 0, 2, 42)).await;
    assert!(matches!(again, Renewed::Replaced), "{again:?}");
    let holder = renew(store, renewal(id, 1, 2, 42)).await;
    let Renewed::AlreadyEnded(told) = holder else {
        panic!("{holder:?}")
    };
    assert_eq!(how(&told), how(&session));
    assert_eq!(f.everything().await, everything);
}

async fn reuse_is_told_at_most_once_a_minute(f: Fixture) {
    let store = &*f.store;
    let id = start_seen(store).await;
    for (secs, told) in [(41, 1), (42, 1), (100, 1), (101, 2), (102, 2)] {
        write(store, touch(id, at(secs))).await;
        let notify = Renewal {
            on_reuse: OnTokenReuse::Notify,
            ..renewal(id, 0, 2, secs)
        };
        let session = reused(store, notify).await;
        assert_eq!(how(&session), None, "at {secs}");
        assert_eq!(
            in_full(&session),
            in_full(&found(store, id).await),
            "the answer is the session as it is now, at {secs}"
        );
        assert_eq!(f.count("session.suspicious"), told, "at {secs}");
    }
}

async fn use_of_a_replaced_token_is_told_at_most_once_a_minute(f: Fixture) {
    let store = &*f.store;
    let id = start_seen(store).await;
    let report = |millis| store.report_replaced(id, token(0), at(0).plus_millis(millis));
    for (millis, told) in [
        (39_999, 0),
        (40_000, 1),
        (41_000, 1),
        (99_999, 1),
        (100_000, 2),
        (100_001, 2),
    ] {
        write(store, touch(id, at(millis / 1_000))).await;
        report(millis).await.expect("an answer");
        assert_eq!(f.count("session.suspicious"), told, "at {millis} ms");
    }
    let before = found(store, id).await.replaced.expect("one");
    assert_eq!(before.reported_at, Some(at(100)));
    let notify = Renewal {
        on_reuse: OnTokenReuse::Notify,
        ..renewal(id, 0, 2, 101)
    };
    reused(store, notify).await;
    assert_eq!(f.count("session.suspicious"), 2, "however it is used");

    // Another renewal, another token: its own minute.
    successor(store, renewal(id, 1, 2, 110)).await;
    write(store, seen(id, 2, 110)).await;
    store
        .report_replaced(id, token(1), at(140))
        .await
        .expect("an answer");
    assert_eq!(f.count("session.suspicious"), 3);
}

async fn use_that_is_nothing_to_tell_is_not_told(f: Fixture) {
    let store = &*f.store;
    let open = start_renewed(store).await;
    let over = start_seen(store).await;
    let ended = start_seen(store).await;
    let request = ending(at(20), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    let everything = f.everything().await;
    for (case, id, n, secs) in [
        ("its successor is not seen", open, 0, 90),
        ("the current token", over, 1, 90),
        ("a wrong token", over, 7, 90),
        ("an overdue session", over, 0, 110),
        ("an ended session", ended, 0, 90),
        ("an unknown session", SessionId::from_bytes([9; 16]), 0, 90),
    ] {
        store
            .report_replaced(id, token(n), at(secs))
            .await
            .expect("an answer");
        assert_eq!(f.everything().await, everything, "{case}");
    }
}

async fn what_is_not_renewed_changes_nothing(f: Fixture) {
    let store = &*f.store;
    let there = start_seen(store).await;
    let [ended, in_grace] = [start_seen(store).await, start_renewed(store).await];
    for id in [ended, in_grace] {
        let request = ending(at(20), Reason::LOGOUT, EndedBy::App);
        store.end(app(), id, Owner::Anyone, request).await.expect("ended");
    }
    let overdue_in_grace = start_renewed(store).await;
    let elsewhere = Renewal {
        app: app_named("shop"),
        ..renewal(there, 1, 2, 50)
    };
    let unknown = SessionId::from_bytes([9; 16]);
    let cases = [
        ("an unknown id", renewal(unknown, 0, 2, 50), "Unknown"),
        ("a wrong secret", renewal(there, 7, 2, 50), "Unknown"),
        ("another app", elsewhere, "Unknown"),
        ("ended, wrong", renewal(ended, 7, 2, 50), "Unknown"),
        ("ended, current", renewal(ended, 1, 2, 50), "AlreadyEnded"),
        ("ended, in grace", renewal(in_grace, 0, 2, 50), "AlreadyEnded"),
        ("ended, after grace", renewal(ended, 0, 2, 50), "Replaced"),
        ("overdue, wrong", renewal(there, 7, 2, 110), "Unknown"),
        ("overdue, current", renewal(there, 1, 2, 110), "AlreadyEnded"),
        (
            "overdue, in grace",
            renewal(overdue_in_grace, 0, 2, 110),
            "AlreadyEnded",
        ),
        ("overdue, after grace", renewal(there, 0, 2, 110), "Replaced"),
    ];
    let everything = f.everything().await;
    for (case, renewal, expected) in cases {
        let answer = format!("{:?}", renew(store, renewal).await);
        assert!(answer.starts_with(expected), "{case}: {answer}");
        assert_eq!(f.everything().await, everything, "{case}");
    }
}

async fn nonces_are_erased_after_the_grace_and_not_before(f: Fixture) {
    let store = &*f.store;
    let (over, open) = (start_seen(store).await, start_renewed(store).await);
    store.expire(at(40).plus_millis(-1), 10).await.expect("swept");
    assert_eq!(grace(store, over).await, until(40, 1));
    store.expire(at(40), 10).await.expect("swept");
    let erased = Grace::Until {
        ends_at: at(40),
        nonce: None,
    };
    assert_eq!(grace(store, over).await, erased);
    assert_eq!(grace(store, open).await, Grace::Open { nonce: nonce(1) });
    let session = reused(store, renewal(over, 0, 2, 41)).await;
    assert_eq!(
        how(&session).map(|(_, reason, _)| reason),
        Some("token_reuse"),
        "the token is still recognised"
    );
}

async fn nonces_are_erased_in_bounded_batches(f: Fixture) {
    let store = &*f.store;
    let late = start_renewed(store).await;
    write(store, seen(late, 1, 12)).await;
    let early = start_seen(store).await;
    let mut left = Vec::new();
    for _ in 0..2 {
        store.expire(at(50), 1).await.expect("swept");
        for id in [early, late] {
            let grace = grace(store, id).await;
            left.push(matches!(grace, Grace::Until { nonce: Some(_), .. }));
        }
    }
    assert_eq!(left, [false, true, false, false], "the oldest first");
}

async fn lost_successor_that_nobody_saw_is_replaced(f: Fixture) {
    let store = &*f.store;
    let id = start_renewed(store).await;
    let lost = |n| Renewal {
        lost: Some(nonce(n)),
        ..renewal(id, 0, 2, 5)
    };
    let (_, made_with) = successor(store, lost(7)).await;
    assert_eq!(made_with, nonce(1), "another one is lost");
    let (session, made_with) = successor(store, lost(1)).await;
    assert_eq!(made_with, nonce(2));
    assert_eq!(in_full(&found(store, id).await), in_full(&session));
    assert!(session.token_hash.matches(&token(2)));
    assert_eq!(grace(store, id).await, Grace::Open { nonce: nonce(2) });
    let answer = renew(store, renewal(id, 1, 3, 6)).await;
    assert!(matches!(answer, Renewed::Unknown), "{answer:?}");
    assert_eq!(f.count("session.renewed"), 2);
}

async fn successor_that_was_seen_is_not_lost(f: Fixture) {
    let store = &*f.store;
    let id = start_seen(store).await;
    let everything = f.everything().await;
    let lost = Renewal {
        lost: Some(nonce(1)),
        ..renewal(id, 0, 2, 11)
    };
    let (_, made_with) = successor(store, lost).await;
    assert_eq!(made_with, nonce(1), "somebody has it");
    assert_eq!(f.everything().await, everything);
}
