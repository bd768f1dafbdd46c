//! How sessions end: once, at the right moment, for the right reason, and told of once.

use sessiond::clock::Timestamp;
use sessiond::session::{EndedBy, Reason, SessionId};
use sessiond::store::{
    BulkEnding, Creation, EndRequest, NewSession, Outcome, Owner, Refused, Scope, SessionStore, UserPatch,
};
use sessiond::user::UserId;

use super::{Fixture, over_both_stores};
use crate::stores::{
    anonymous_session, app, app_named, at, ending, found, how, limit, new_session, put, touch, user,
};

over_both_stores!(
    first_ending_stays_and_is_told_once,
    only_the_owners_sessions_end,
    overdue_session_ends_as_expired_whoever_ends_it,
    deadline_itself_is_over_and_absolute_beats_idle,
    ending_all_but_one_counts_and_spares,
    ending_none_is_no_event,
    ending_an_apps_sessions_is_bounded_and_goes_by_user,
    sign_ins_verified_before_credentials_changed_are_refused,
    later_of_two_changes_of_credentials_counts_in_whatever_order_they_come,
    credentials_changed_for_a_whole_app_counts_for_each_of_its_users,
    expired_ones_are_written_down_in_bounded_batches,
    session_that_was_used_meanwhile_is_written_down_at_its_later_deadline,
    used_ones_do_not_keep_an_overdue_one_from_being_written_down,
    purge_keeps_the_ending_of_every_session_that_is_left,
    purge_deletes_what_ended_before_and_no_more_than_asked,
);

const DEADLINE: i64 = 100;

async fn end(store: &dyn SessionStore, id: SessionId, request: EndRequest) -> Outcome {
    store
        .end(app(), id, Owner::Anyone, request)
        .await
        .expect("the store works")
}

async fn end_user(
    store: &dyn SessionStore,
    user_id: UserId,
    except: Option<SessionId>,
    request: EndRequest,
) -> BulkEnding {
    store
        .end_many(app(), Scope::User { user_id, except }, request)
        .await
        .expect("the store works")
}

async fn first_ending_stays_and_is_told_once(f: Fixture) {
    let ada = put(&*f.store, new_session("ada", at(0))).await;
    let first = end(&*f.store, ada.id, ending(at(5), "first", EndedBy::User)).await;
    let Outcome::Done(session) = first else {
        panic!("{first:?}")
    };
    assert_eq!(how(&session), Some((at(5), "first", EndedBy::User)));

    let second = end(&*f.store, ada.id, ending(at(6), "second", EndedBy::App)).await;
    let Outcome::AlreadyEnded(session) = second else {
        panic!("{second:?}")
    };
    assert_eq!(how(&session), Some((at(5), "first", EndedBy::User)));
    let bulk = end_user(&*f.store, user("ada"), None, ending(at(7), "third", EndedBy::App)).await;
    assert_eq!(bulk.revoked_count, 0);
    assert_eq!(f.store.expire(at(500), 10).await.expect("swept"), 0);

    assert_eq!(
        how(&found(&*f.store, ada.id).await),
        Some((at(5), "first", EndedBy::User))
    );
    assert_eq!(
        f.told(),
        [
            ("session.created".to_owned(), Some(ada.id)),
            ("session.revoked".to_owned(), Some(ada.id))
        ]
    );
}

async fn only_the_owners_sessions_end(f: Fixture) {
    let ada = put(&*f.store, new_session("ada", at(0))).await;
    let nobodys = anonymous_session(at(0));
    let request = || ending(at(1), Reason::MANUAL, EndedBy::User);
    let anonymous = put(&*f.store, nobodys).await;
    let cases = [
        ("another user's", app(), ada.id, Owner::User(user("bob"))),
        ("another app's", app_named("shop"), ada.id, Owner::Anyone),
        ("unknown", app(), SessionId::from_bytes([1; 16]), Owner::Anyone),
        ("nobody's", app(), anonymous.id, Owner::User(user("ada"))),
    ];
    for (case, app, id, owner) in cases {
        let outcome = f.store.end(app, id, owner, request()).await.expect("an answer");
        assert!(matches!(outcome, Outcome::NotFound), "{case}: {outcome:?}");
    }
    assert_eq!(how(&found(&*f.store, ada.id).await), None);
    assert_eq!(how(&found(&*f.store, anonymous.id).await), None);
    assert_eq!(f.count("session.revoked"), 0);

    let owner = Owner::User(user("ada"));
    let outcome = f
        .store
        .end(app(), ada.id, owner, request())
        .await
        .expect("an answer");
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}

/// Ways to end that find a session whose deadline has passed.
#[derive(Debug, Clone, Copy)]
enum Ender {
    One,
    User,
    App,
    Block,
    Limit,
    Sweep,
}

async fn overdue_session_ends_as_expired_whoever_ends_it(f: Fixture) {
    for (n, ender) in [
        Ender::One,
        Ender::User,
        Ender::App,
        Ender::Block,
        Ender::Limit,
        Ender::Sweep,
    ]
    .into_iter()
    .enumerate()
    {
        let start = 10_000 * i64::try_from(n).expect("few");
        let name = format!("{ender:?}");
        let overdue = put(&*f.store, new_session(&name, at(start))).await;
        let before = f.events().len();
        let later = at(start + DEADLINE + 20);
        let store = &*f.store;
        let request = ending(later, Reason::LOGOUT, EndedBy::User);
        match ender {
            Ender::One => {
                let outcome = end(store, overdue.id, request).await;
                assert!(matches!(outcome, Outcome::AlreadyEnded(_)), "{outcome:?}");
            }
            Ender::User => {
                let bulk = end_user(store, user(&name), None, request).await;
                assert_eq!(bulk.revoked_count, 0, "{name}");
            }
            Ender::App => {
                let scope = Scope::App { limit: 10 };
                let bulk = store.end_many(app(), scope, request).await.expect("ended");
                assert_eq!((bulk.revoked_count, bulk.more), (0, false), "{name}");
            }
            Ender::Block => {
                let block = UserPatch {
                    is_blocked: Some(true),
                    ..UserPatch::default()
                };
                let record = store
                    .update_user(app(), user(&name), block, EndedBy::App, later)
                    .await;
                assert_eq!(record.expect("blocked").active_count, 0, "{name}");
            }
            Ender::Limit => {
                let new = NewSession {
                    tiers: limit(1),
                    ..new_session(&name, later)
                };
                let created = store.create(new).await.expect("created");
                let Creation::Created { session, evicted } = created else {
                    panic!("{created:?}")
                };
                assert!(
                    evicted.is_empty(),
                    "an overdue session is not evicted: {evicted:?}"
                );
                end(store, session.id, ending(later, Reason::LOGOUT, EndedBy::App)).await;
            }
            Ender::Sweep => assert_eq!(store.expire(later, 10).await.expect("swept"), 1, "{name}"),
        }
        let deadline = at(start + DEADLINE);
        assert_eq!(
            how(&found(store, overdue.id).await),
            Some((deadline, "idle_timeout", EndedBy::Timeout)),
            "{name}"
        );
        let told = &f.events()[before];
        assert_eq!(
            (told.kind.as_str(), told.session_id, told.occurred_at),
            ("session.expired", Some(overdue.id), deadline),
            "{name}"
        );
        let endings = f.events()[before..]
            .iter()
            .filter(|event| event.session_id == Some(overdue.id))
            .count();
        assert_eq!(endings, 1, "{name}");
    }
}

async fn deadline_itself_is_over_and_absolute_beats_idle(f: Fixture) {
    let cases = [
        ("idle", 100, 1_000, 100, Reason::IDLE_TIMEOUT),
        ("absolute", 100, 60, 60, Reason::ABSOLUTE_TIMEOUT),
        ("both at once", 100, 100, 100, Reason::ABSOLUTE_TIMEOUT),
    ];
    for (case, idle, absolute, deadline, reason) in cases {
        let mut new = new_session("ada", at(0));
        new.timeouts.idle_millis = idle * 1_000;
        new.timeouts.absolute_millis = absolute * 1_000;
        let session = put(&*f.store, new).await;
        let just_before = at(deadline).plus_millis(-1);
        assert_eq!(f.store.expire(just_before, 10).await.expect("swept"), 0, "{case}");
        let count = |now: Timestamp| f.store.find_user(app(), user("ada"), now);
        assert_eq!(
            count(just_before).await.expect("a count").active_count,
            1,
            "{case}"
        );
        assert_eq!(
            count(at(deadline)).await.expect("a count").active_count,
            0,
            "{case}"
        );
        assert_eq!(
            f.store.expire(at(deadline), 10).await.expect("swept"),
            1,
            "{case}"
        );
        assert_eq!(
            how(&found(&*f.store, session.id).await),
            Some((at(deadline), reason, EndedBy::Timeout)),
            "{case}"
        );
    }
}

async fn ending_all_but_one_counts_and_spares(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, new_session("ada", at(0))).await;
    let mut kept = Vec::new();
    for secs in [50, 51, 52] {
        kept.push(put(store, new_session("ada", at(secs))).await.id);
    }
    let bob = put(store, new_session("bob", at(53))).await.id;
    let elsewhere = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(54))
    };
    let elsewhere = put(store, elsewhere).await.id;
    let before = f.events().len();

    let request = ending(at(110), Reason::LOGOUT_ALL, EndedBy::User);
    let bulk = end_user(store, user("ada"), Some(kept[1]), request).await;
    assert_eq!(
        bulk,
        BulkEnding {
            revoked_count: 2,
            more: false
        }
    );
    for spared in [kept[1], bob, elsewhere] {
        assert_eq!(how(&found(store, spared).await), None);
    }
    for gone in [kept[0], kept[2]] {
        let session = found(store, gone).await;
        assert_eq!(how(&session), Some((at(110), "logout_all", EndedBy::User)));
    }
    let events = &f.events()[before..];
    let kinds: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.session_id))
        .collect();
    assert_eq!(
        kinds,
        [
            ("session.expired", Some(overdue.id)),
            ("session.revoked", Some(kept[0])),
            ("session.revoked", Some(kept[2])),
            ("user.sessions_revoked", None),
        ]
    );

    let request = ending(at(111), Reason::LOGOUT_ALL, EndedBy::User);
    let bulk = end_user(store, user("ada"), Some(bob), request).await;
    assert_eq!(bulk.revoked_count, 1, "somebody else's session excepts nothing");
    assert_eq!(how(&found(store, bob).await), None, "and is not ended either");
}

async fn ending_none_is_no_event(f: Fixture) {
    let ada = put(&*f.store, new_session("ada", at(0))).await;
    let request = ending(at(1), Reason::LOGOUT_ALL, EndedBy::User);
    let bulk = end_user(&*f.store, user("ada"), Some(ada.id), request.clone()).await;
    assert_eq!(bulk.revoked_count, 0);
    let bulk = end_user(&*f.store, user("nobody"), None, request).await;
    assert_eq!(bulk.revoked_count, 0);
    assert_eq!(f.events().len(), 1, "only the creation");
}

async fn ending_an_apps_sessions_is_bounded_and_goes_by_user(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for name in ["bob", "ada", "bob"] {
        ids.push(put(store, new_session(name, at(0))).await.id);
    }
    ids.push(put(store, anonymous_session(at(0))).await.id);
    let elsewhere = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(0))
    };
    let elsewhere = put(store, elsewhere).await;

    let mut answers = Vec::new();
    for _ in 0..3 {
        let request = ending(at(1), Reason::MANUAL, EndedBy::Operator);
        let bulk = store.end_many(app(), Scope::App { limit: 2 }, request).await;
        answers.push(bulk.expect("ended"));
    }
    let bulk = |revoked_count, more| BulkEnding { revoked_count, more };
    assert_eq!(answers, [bulk(2, true), bulk(2, false), bulk(0, false)]);
    assert_eq!(how(&found(store, elsewhere.id).await), None);
    let told = f.told()[5..].to_vec();
    let in_order = [ids[3], ids[1], ids[0], ids[2]];
    assert_eq!(
        told,
        in_order.map(|id| ("session.revoked".to_owned(), Some(id))),
        "and nothing that is about one user"
    );
}

async fn sign_ins_verified_before_credentials_changed_are_refused(f: Fixture) {
    let store = &*f.store;
    let request = ending(at(10), Reason::CREDENTIALS_CHANGED, EndedBy::App);
    end_user(store, user("ada"), None, request).await;
    let verified = |secs: i64| NewSession {
        authenticated_at: Some(at(secs)),
        ..new_session("ada", at(20))
    };
    let refused = store.create(verified(9)).await.expect("an answer");
    assert!(
        matches!(refused, Creation::Refused(Refused::CredentialsChanged)),
        "{refused:?}"
    );
    assert_eq!(f.events().len(), 0, "nothing was stored");
    put(store, verified(10)).await;
    put(store, verified(11)).await;
    let record = store
        .find_user(app(), user("ada"), at(20))
        .await
        .expect("a record");
    assert_eq!(record.settings.credentials_changed_at, Some(at(10)));
}

async fn expired_ones_are_written_down_in_bounded_batches(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for secs in 0..5 {
        ids.push(put(store, new_session("ada", at(secs))).await.id);
    }
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(store.expire(at(DEADLINE + 3), 2).await.expect("swept"));
    }
    assert_eq!(counts, [2, 2, 0, 0], "the fifth has a second left");
    let expired: Vec<_> = f
        .told()
        .into_iter()
        .filter(|(kind, _)| kind == "session.expired")
        .filter_map(|(_, id)| id)
        .collect();
    assert_eq!(expired, ids[..4], "the earliest deadline first");
    assert_eq!(how(&found(store, ids[4]).await), None);
}

async fn session_that_was_used_meanwhile_is_written_down_at_its_later_deadline(f: Fixture) {
    let store = &*f.store;
    let used = put(store, new_session("ada", at(0))).await.id;
    let unused = put(store, new_session("ada", at(1))).await.id;
    store
        .write_touches(vec![touch(used, at(50))], at(50))
        .await
        .expect("written");
    assert_eq!(store.expire(at(DEADLINE + 1), 10).await.expect("swept"), 1);
    assert_eq!(how(&found(store, used).await), None);
    let expired = |secs| Some((at(secs), "idle_timeout", EndedBy::Timeout));
    assert_eq!(how(&found(store, unused).await), expired(DEADLINE + 1));

    assert_eq!(store.expire(at(DEADLINE + 49), 10).await.expect("swept"), 0);
    assert_eq!(store.expire(at(DEADLINE + 50), 10).await.expect("swept"), 1);
    assert_eq!(how(&found(store, used).await), expired(DEADLINE + 50));
}

async fn used_ones_do_not_keep_an_overdue_one_from_being_written_down(f: Fixture) {
    let store = &*f.store;
    for secs in 0..6 {
        let used = put(store, new_session("ada", at(secs))).await.id;
        let uses = vec![touch(used, at(60))];
        store.write_touches(uses, at(60)).await.expect("written");
    }
    let overdue = put(store, new_session("ada", at(6))).await.id;
    store.expire(at(DEADLINE + 6), 2).await.expect("swept");
    assert!(how(&found(store, overdue).await).is_some());
}

async fn purge_keeps_the_ending_of_every_session_that_is_left(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for secs in 0..4 {
        ids.push(put(store, new_session("ada", at(secs))).await.id);
    }
    // Told in the opposite order, and all at one moment.
    for id in ids.iter().rev() {
        end(store, *id, ending(at(10), Reason::LOGOUT, EndedBy::App)).await;
    }
    let mut rounds = 0;
    loop {
        let count = store.purge(at(20), 3, at(20)).await.expect("purged");
        let told: Vec<_> = f
            .told()
            .into_iter()
            .filter(|(kind, _)| kind == "session.revoked")
            .collect();
        for id in &ids {
            let is_told = told.iter().any(|(_, of)| *of == Some(*id));
            let is_there = store.find(*id).await.expect("the store works").is_some();
            assert!(is_told || !is_there, "after {rounds} rounds");
        }
        if count < 3 {
            break;
        }
        rounds += 1;
        assert!(rounds < 9, "purging goes on for ever");
    }
    assert_eq!(f.events().len(), 0, "all of it is old");
}

async fn purge_deletes_what_ended_before_and_no_more_than_asked(f: Fixture) {
    let store = &*f.store;
    let mut ids = Vec::new();
    for secs in 0..4 {
        ids.push(put(store, new_session("ada", at(secs))).await.id);
    }
    for (id, secs) in ids.iter().zip(10..) {
        end(store, *id, ending(at(secs), Reason::LOGOUT, EndedBy::App)).await;
    }
    let active = put(store, new_session("ada", at(20))).await.id;

    let is_there = async |id| store.find(id).await.expect("the store works").is_some();
    assert_eq!(store.purge(at(0), 100, at(30)).await.expect("purged"), 0);
    assert_eq!(
        store.purge(at(13), 2, at(30)).await.expect("purged"),
        2,
        "two sessions, and no event as long as there are more"
    );
    assert!(
        !is_there(ids[0]).await && !is_there(ids[1]).await,
        "the oldest endings go first"
    );
    assert!(is_there(ids[2]).await);

    store.purge(at(13), 100, at(30)).await.expect("purged");
    assert!(!is_there(ids[2]).await);
    assert!(is_there(ids[3]).await, "it ended at that moment, not before it");
    let left: Vec<_> = f
        .events()
        .iter()
        .map(|event| (event.kind.clone(), event.session_id))
        .collect();
    assert_eq!(
        left,
        [
            ("session.revoked".to_owned(), Some(ids[3])),
            ("session.created".to_owned(), Some(active))
        ]
    );
    store.purge(at(1_000), 100, at(1_000)).await.expect("purged");
    assert!(is_there(active).await, "without an ending nothing is purged");
}

async fn later_of_two_changes_of_credentials_counts_in_whatever_order_they_come(f: Fixture) {
    for now in [at(105), at(100)] {
        let request = ending(now, Reason::CREDENTIALS_CHANGED, EndedBy::App);
        let scope = Scope::User {
            user_id: user("ada"),
            except: None,
        };
        f.store.end_many(app(), scope, request).await.expect("ended");
    }
    let mut new = new_session("ada", at(110));
    new.authenticated_at = Some(at(102));
    let creation = f.store.create(new).await.expect("an answer");
    assert!(
        matches!(creation, Creation::Refused(Refused::CredentialsChanged)),
        "{creation:?}"
    );
}

async fn credentials_changed_for_a_whole_app_counts_for_each_of_its_users(f: Fixture) {
    for name in ["ada", "grace"] {
        put(&*f.store, new_session(name, at(0))).await;
    }
    let request = ending(at(10), Reason::CREDENTIALS_CHANGED, EndedBy::App);
    let ended = f
        .store
        .end_many(app(), Scope::App { limit: 10 }, request)
        .await
        .expect("ended");
    assert_eq!(ended.revoked_count, 2);
    for (name, is_refused) in [("ada", true), ("grace", true), ("linus", false)] {
        let new = NewSession {
            authenticated_at: Some(at(9)),
            ..new_session(name, at(20))
        };
        let creation = f.store.create(new).await.expect("an answer");
        assert_eq!(
            matches!(creation, Creation::Refused(Refused::CredentialsChanged)),
            is_refused,
            "{name}: {creation:?}"
        );
    }
}
