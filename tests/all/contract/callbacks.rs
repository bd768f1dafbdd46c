//! What is called back around a commit, and in which order.

use sessiond::data::DataChange;
use sessiond::session::{EndedBy, Reason, SessionId, Touch};
use sessiond::store::{
    Authentication, DataPatch, NewSession, Outcome, Owner, Scope, SessionPatch, UserPatch,
};

use super::renewals::{renewal, seen, start_renewed, start_seen, token};
use super::sign_ins::sign_in;
use super::{Fixture, Step, over_both_stores};
use crate::stores::{address, app, at, ending, found, how, limit, new_session, put, touch, used_from, user};

over_both_stores!(
    every_change_runs_due_fence_release_announce,
    sessions_that_change_are_fenced_and_announced,
    sessions_whose_tokens_or_data_change_are_fenced_and_announced,
    answers_that_change_nothing_fence_nothing,
    pending_touch_is_written_before_a_renewal_looks_at_the_row,
    pending_touch_is_written_before_a_sign_in_changes_the_row,
    pending_touch_is_written_before_its_session_ends,
    pending_touch_moves_the_deadline_that_an_overdue_session_ends_at,
    what_a_touch_gained_since_the_batch_wrote_it_is_written_before_a_change,
    creates_and_touches_fence_nothing,
    due_touches_are_written_before_anything_looks_at_deadlines,
    a_change_that_changes_nothing_fences_nothing,
);

/// The steps of one commit.
fn commit(now: i64, changed: &[SessionId], ended: &[SessionId], touched: &[Touch]) -> Vec<Step> {
    vec![
        Step::Due(at(now)),
        Step::Fence(changed.to_vec()),
        Step::Release(changed.to_vec()),
        Step::Announce {
            changed: changed.to_vec(),
            ended: ended.to_vec(),
            touched: touched.to_vec(),
        },
    ]
}

async fn every_change_runs_due_fence_release_announce(f: Fixture) {
    let recorder = f.record();
    let ada = put(&*f.store, new_session("ada", at(0))).await;
    recorder.take();
    let request = ending(at(5), Reason::LOGOUT, EndedBy::App);
    f.store
        .end(app(), ada.id, Owner::Anyone, request)
        .await
        .expect("ended");
    assert_eq!(recorder.take(), commit(5, &[ada.id], &[ada.id], &[]));
}

async fn sessions_that_change_are_fenced_and_announced(f: Fixture) {
    let recorder = f.record();
    let sessions = [
        put(&*f.store, new_session("ada", at(0))).await.id,
        put(&*f.store, new_session("ada", at(1))).await.id,
        put(&*f.store, new_session("bob", at(2))).await.id,
        put(&*f.store, new_session("cyd", at(3))).await.id,
        put(&*f.store, new_session("dan", at(4))).await.id,
    ];
    let [ada, ada2, bob, cyd, _] = sessions;
    recorder.take();

    let rename = SessionPatch {
        name: Some(Some("desk".to_owned())),
        ..SessionPatch::default()
    };
    f.store
        .update(app(), ada, Owner::Anyone, rename, at(5))
        .await
        .expect("updated");
    assert_eq!(recorder.take(), commit(5, &[ada], &[], &[]), "an update");

    let third = NewSession {
        tiers: limit(2),
        ..new_session("ada", at(6))
    };
    let third = put(&*f.store, third).await.id;
    assert_eq!(recorder.take(), commit(6, &[ada], &[ada], &[]), "an eviction");

    let scope = Scope::User {
        user_id: user("bob"),
        except: None,
    };
    let all = ending(at(7), Reason::LOGOUT_ALL, EndedBy::User);
    f.store.end_many(app(), scope, all).await.expect("ended");
    assert_eq!(recorder.take(), commit(7, &[bob], &[bob], &[]), "a bulk ending");

    let block = UserPatch {
        is_blocked: Some(true),
        ..UserPatch::default()
    };
    f.store
        .update_user(app(), user("cyd"), block, EndedBy::App, at(8))
        .await
        .expect("blocked");
    assert_eq!(recorder.take(), commit(8, &[cyd], &[cyd], &[]), "a blocked user");

    f.store.expire(at(102), 1).await.expect("swept");
    assert_eq!(
        recorder.take(),
        commit(102, &[ada2], &[ada2], &[]),
        "a passed deadline"
    );

    let scope = Scope::App { limit: 1 };
    let late = ending(at(105), Reason::MANUAL, EndedBy::Operator);
    f.store.end_many(app(), scope, late).await.expect("ended");
    assert_eq!(
        recorder.take(),
        commit(105, &[third], &[third], &[]),
        "a bulk ending in an app"
    );
}

fn data_patch(change: DataChange) -> DataPatch {
    DataPatch {
        at: None,
        change,
        if_versions: None,
    }
}

async fn sessions_whose_tokens_or_data_change_are_fenced_and_announced(f: Fixture) {
    let recorder = f.record();
    let store = &*f.store;
    let renewed = start_renewed(store).await;
    let over = start_seen(store).await;
    recorder.take();

    store.renew(renewal(renewed, 1, 2, 2)).await.expect("an answer");
    assert_eq!(
        recorder.take(),
        commit(2, &[renewed], &[], &[]),
        "a grace that begins"
    );
    store.renew(renewal(over, 1, 2, 40)).await.expect("an answer");
    assert_eq!(recorder.take(), commit(40, &[over], &[], &[]), "a renewal");
    store
        .write_touches(vec![seen(over, 2, 41)], at(41))
        .await
        .expect("written");
    recorder.take();
    store
        .report_replaced(over, token(1), at(71))
        .await
        .expect("an answer");
    assert_eq!(recorder.take(), commit(71, &[over], &[], &[]), "a report");
    store
        .authenticate(sign_in(renewed, "ada", 72))
        .await
        .expect("an answer");
    assert_eq!(recorder.take(), commit(72, &[renewed], &[], &[]), "a sign-in");
    let put_one = data_patch(DataChange::Merge(serde_json::json!({"a": 1})));
    store
        .change_data(app(), renewed, put_one, at(73))
        .await
        .expect("an answer");
    assert_eq!(recorder.take(), commit(73, &[renewed], &[], &[]), "data");
    store.renew(renewal(over, 1, 3, 74)).await.expect("an answer");
    assert_eq!(
        recorder.take(),
        commit(74, &[over], &[over], &[]),
        "a token that is used again"
    );
}

async fn answers_that_change_nothing_fence_nothing(f: Fixture) {
    let recorder = f.record();
    let store = &*f.store;
    let there = start_seen(store).await;
    recorder.take();
    let other = Authentication {
        tiers: limit(1),
        ..sign_in(there, "bob", 11)
    };
    let empty = data_patch(DataChange::Take);

    store.renew(renewal(there, 0, 2, 11)).await.expect("an answer");
    store.renew(renewal(there, 1, 2, 11)).await.expect("an answer");
    store
        .report_replaced(there, token(0), at(11))
        .await
        .expect("an answer");
    store.authenticate(other).await.expect("an answer");
    store
        .change_data(app(), there, empty, at(11))
        .await
        .expect("an answer");

    let nothing: Vec<Step> = (0..5).flat_map(|_| commit(11, &[], &[], &[])).collect();
    assert_eq!(recorder.take(), nothing);
}

async fn pending_touch_is_written_before_a_renewal_looks_at_the_row(f: Fixture) {
    let recorder = f.record();
    let store = &*f.store;
    let id = start_renewed(store).await;
    let pending = seen(id, 1, 10);
    recorder.set_pending(pending.clone());
    recorder.take();
    store.renew(renewal(id, 0, 2, 40)).await.expect("an answer");
    assert_eq!(
        recorder.take(),
        commit(40, &[id], &[id], &[pending]),
        "the grace that began with it is over"
    );
}

async fn pending_touch_is_written_before_a_sign_in_changes_the_row(f: Fixture) {
    let recorder = f.record();
    let store = &*f.store;
    let id = start_renewed(store).await;
    let [home, office] = ["192.0.2.1", "192.0.2.2"].map(address);
    let pending = Touch {
        first_address: Some(used_from(home)),
        ..touch(id, at(10))
    };
    recorder.set_pending(pending.clone());
    recorder.take();
    let from_office = Authentication {
        ip_address: Some(office),
        ..sign_in(id, "ada", 11)
    };
    store.authenticate(from_office).await.expect("an answer");
    assert_eq!(recorder.take(), commit(11, &[id], &[], &[pending]));
    let stored = found(store, id).await;
    assert_eq!(
        (stored.ip_address, stored.last_ip_address),
        (Some(home), Some(office))
    );
}

async fn pending_touch_is_written_before_its_session_ends(f: Fixture) {
    let recorder = f.record();
    let store = &*f.store;
    let [home, thief] = ["192.0.2.1", "192.0.2.2"].map(address);
    let of_one = async |id, now| {
        let request = ending(at(now), Reason::LOGOUT, EndedBy::User);
        let ended = store.end(app(), id, Owner::Anyone, request).await;
        ended.map(drop)
    };
    let of_all = async |scope, now| {
        let request = ending(at(now), Reason::LOGOUT_ALL, EndedBy::App);
        store.end_many(app(), scope, request).await.map(drop)
    };
    for (case, start) in ["one", "all of a user", "all of an app", "evicted"]
        .into_iter()
        .zip([0, 20, 40, 60])
    {
        let from_home = NewSession {
            ip_address: Some(home),
            ..new_session("ada", at(start))
        };
        let id = put(store, from_home).await.id;
        let pending = Touch {
            first_address: Some(used_from(thief)),
            ..touch(id, at(start + 10))
        };
        recorder.set_pending(pending.clone());
        recorder.take();
        let known = f.events().len();
        let now = start + 11;
        let done = match case {
            "one" => of_one(id, now).await,
            "all of a user" => {
                let scope = Scope::User {
                    user_id: user("ada"),
                    except: None,
                };
                of_all(scope, now).await
            }
            "all of an app" => of_all(Scope::App { limit: 9 }, now).await,
            _ => {
                let only = NewSession {
                    tiers: limit(1),
                    ..new_session("ada", at(now))
                };
                store.create(only).await.map(drop)
            }
        };
        done.expect(case);
        assert_eq!(recorder.take(), commit(now, &[id], &[id], &[pending]), "{case}");
        let stored = found(store, id).await;
        assert_eq!(
            (stored.last_activity_at, stored.ip_address, stored.last_ip_address),
            (at(start + 10), Some(home), Some(thief)),
            "{case}"
        );
        assert_eq!(stored.ending.map(|ending| ending.at), Some(at(now)), "{case}");
        let told = f.events().split_off(known);
        let told: Vec<_> = told
            .iter()
            .filter(|event| event.session_id == Some(id))
            .map(|event| (event.kind.as_str(), event.ip_address.as_deref()))
            .collect();
        let kind = if case == "evicted" {
            "session.evicted"
        } else {
            "session.revoked"
        };
        let expected = [("session.activity", Some("192.0.2.2")), (kind, Some("192.0.2.2"))];
        assert_eq!(told, expected, "{case}");
    }
}

async fn pending_touch_moves_the_deadline_that_an_overdue_session_ends_at(f: Fixture) {
    let recorder = f.record();
    let store = &*f.store;
    for revokes in [false, true] {
        let id = put(store, new_session("ada", at(0))).await.id;
        recorder.set_pending(touch(id, at(20)));
        if revokes {
            let request = ending(at(130), Reason::LOGOUT, EndedBy::User);
            let ended = store.end(app(), id, Owner::Anyone, request).await;
            assert!(matches!(ended, Ok(Outcome::AlreadyEnded(_))), "{ended:?}");
        } else {
            store.expire(at(130), 10).await.expect("swept");
        }
        let stored = found(store, id).await;
        assert_eq!(
            (stored.last_activity_at, how(&stored)),
            (at(20), Some((at(120), "idle_timeout", EndedBy::Timeout))),
            "revokes {revokes}"
        );
    }
}

async fn what_a_touch_gained_since_the_batch_wrote_it_is_written_before_a_change(f: Fixture) {
    let store = &*f.store;
    let recorder = f.record();
    let [home, train, office, afar] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(address);
    for ends in [false, true] {
        let from_home = NewSession {
            ip_address: Some(home),
            ..new_session("ada", at(0))
        };
        let id = put(store, from_home).await.id;
        let before = Touch {
            first_address: Some(used_from(train)),
            ..touch(id, at(10))
        };
        // Within the same millisecond.
        let since = Touch {
            last_address: Some(used_from(office)),
            ..before.clone()
        };
        recorder.set_due(std::slice::from_ref(&before));
        recorder.set_pending(since.clone());
        recorder.take();
        let known = f.events().len();
        if ends {
            let request = ending(at(11), Reason::LOGOUT, EndedBy::User);
            store.end(app(), id, Owner::Anyone, request).await.expect("ended");
        } else {
            let from_afar = Authentication {
                ip_address: Some(afar),
                ..sign_in(id, "ada", 11)
            };
            store.authenticate(from_afar).await.expect("signed in");
        }
        recorder.set_due(&[]);
        let ended = ends.then_some(id);
        let both = [before, since];
        assert_eq!(
            recorder.take(),
            commit(11, &[id], ended.as_slice(), &both),
            "ends {ends}"
        );
        let told = f.events().split_off(known);
        let moves = told.iter().filter(|event| event.kind == "session.activity");
        let moves: Vec<_> = moves.map(|event| event.ip_address.as_deref()).collect();
        assert_eq!(moves, [Some("192.0.2.2"), Some("192.0.2.3")], "ends {ends}");
        let latest = if ends { office } else { afar };
        assert_eq!(
            found(store, id).await.last_ip_address,
            Some(latest),
            "ends {ends}"
        );
    }
}

async fn creates_and_touches_fence_nothing(f: Fixture) {
    let recorder = f.record();
    let ada = put(&*f.store, new_session("ada", at(1))).await;
    assert_eq!(recorder.take(), commit(1, &[], &[], &[]), "a create");
    let used = touch(ada.id, at(2));
    f.store
        .write_touches(vec![used.clone()], at(2))
        .await
        .expect("written");
    assert_eq!(recorder.take(), commit(2, &[], &[], &[used]), "a touch");
}

async fn due_touches_are_written_before_anything_looks_at_deadlines(f: Fixture) {
    let recorder = f.record();
    let ada = put(&*f.store, new_session("ada", at(0))).await;
    let used = touch(ada.id, at(90));
    recorder.set_due(std::slice::from_ref(&used));
    recorder.take();

    assert_eq!(
        f.store.expire(at(100), 10).await.expect("swept"),
        0,
        "the sweeper"
    );
    assert_eq!(recorder.take(), commit(100, &[], &[], &[used]));
    let session = found(&*f.store, ada.id).await;
    assert_eq!((session.last_activity_at, how(&session)), (at(90), None));

    let again = touch(ada.id, at(180));
    recorder.set_due(&[again]);
    let request = ending(at(195), Reason::LOGOUT, EndedBy::App);
    f.store
        .end(app(), ada.id, Owner::Anyone, request)
        .await
        .expect("ended");
    let session = found(&*f.store, ada.id).await;
    assert_eq!(
        how(&session),
        Some((at(195), "logout", EndedBy::App)),
        "it was in use, so that it is revoked, not expired"
    );
}

async fn a_change_that_changes_nothing_fences_nothing(f: Fixture) {
    let recorder = f.record();
    let unknown = SessionId::from_bytes([7; 16]);
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    f.store
        .end(app(), unknown, Owner::Anyone, request)
        .await
        .expect("an answer");
    f.store.expire(at(2), 10).await.expect("swept");
    f.store.purge(at(2), 10, at(3)).await.expect("purged");
    let steps = recorder.take();
    let is_empty = |step: &Step| match step {
        Step::Due(_) => true,
        Step::Fence(ids) | Step::Release(ids) => ids.is_empty(),
        Step::Announce {
            changed,
            ended,
            touched,
        } => changed.is_empty() && ended.is_empty() && touched.is_empty(),
    };
    assert_eq!(steps.len(), 12);
    assert!(steps.iter().all(is_empty), "{steps:?}");
}
