//! Data of sessions: versions, what is refused, and when it is gone.

use serde_json::json;
use sessiond::data::{DATA_DEPTH_MAX, DATA_LEN_MAX, DataChange, DataError, DataPath};
use sessiond::session::{EndedBy, Reason, SessionId};
use sessiond::store::{DataOutcome, DataPatch, NewSession, Owner, SessionStore};

use super::{Fixture, over_both_stores};
use crate::stores::{app, app_named, at, data, ending, found, how, limit, new_session, put};

over_both_stores!(
    data_given_at_the_start_is_the_first_version,
    each_change_answers_what_is_there_and_grows_the_version,
    change_of_data_is_no_use_and_no_event,
    removing_what_is_not_there_changes_nothing,
    what_is_taken_twice_at_once_is_taken_by_one,
    change_is_made_only_over_the_versions_that_are_named,
    refused_changes_change_nothing,
    data_may_be_as_long_as_it_may,
    merges_of_different_keys_at_once_all_survive,
    data_is_gone_once_the_session_has_ended,
    only_active_sessions_of_the_app_have_data_to_change,
);

/// A session with this data.
async fn start(store: &dyn SessionStore, text: &str) -> SessionId {
    let new = NewSession {
        data: Some(data(text)),
        ..new_session("ada", at(0))
    };
    put(store, new).await.id
}

fn at_path(path: &str, change: DataChange) -> DataPatch {
    DataPatch {
        at: Some(DataPath::parse(path).expect("a path")),
        change,
        if_versions: None,
    }
}

fn whole(change: DataChange) -> DataPatch {
    DataPatch {
        at: None,
        change,
        if_versions: None,
    }
}

async fn change(store: &dyn SessionStore, id: SessionId, patch: DataPatch) -> DataOutcome {
    store
        .change_data(app(), id, patch, at(1))
        .await
        .expect("the store works")
}

async fn done(store: &dyn SessionStore, id: SessionId, patch: DataPatch) -> (serde_json::Value, u64) {
    match change(store, id, patch).await {
        DataOutcome::Done { value, version } => (value, version),
        other => panic!("{other:?}"),
    }
}

/// The stored text and version.
async fn stored(store: &dyn SessionStore, id: SessionId) -> (String, u64) {
    let found = store.find_data(id).await.expect("an answer");
    let (session, data) = found.expect("there");
    (data.to_text(), session.data_version)
}

async fn data_given_at_the_start_is_the_first_version(f: Fixture) {
    let store = &*f.store;
    let given = start(store, r#"{"z":1,"a":{"y":2,"b":3}}"#).await;
    let none = put(store, new_session("ada", at(0))).await.id;
    assert_eq!(
        stored(store, given).await,
        (r#"{"z":1,"a":{"y":2,"b":3}}"#.to_owned(), 1)
    );
    assert_eq!(stored(store, none).await, ("{}".to_owned(), 0));
    let unknown = store.find_data(SessionId::from_bytes([9; 16])).await;
    assert!(unknown.expect("an answer").is_none());
}

async fn each_change_answers_what_is_there_and_grows_the_version(f: Fixture) {
    let store = &*f.store;
    let id = put(store, new_session("ada", at(0))).await.id;
    for (version, patch, value, text) in [
        (
            1,
            at_path("a.b", DataChange::Put(json!([1]))),
            json!([1]),
            r#"{"a":{"b":[1]}}"#,
        ),
        (
            2,
            at_path("a", DataChange::Merge(json!({"c": 2, "b": null}))),
            json!({"c": 2}),
            r#"{"a":{"c":2}}"#,
        ),
        (
            3,
            at_path("a", DataChange::Put(json!({"c": 2}))),
            json!({"c": 2}),
            r#"{"a":{"c":2}}"#,
        ),
        (
            4,
            whole(DataChange::Merge(json!({"flash": "hello"}))),
            json!({"a": {"c": 2}, "flash": "hello"}),
            r#"{"a":{"c":2},"flash":"hello"}"#,
        ),
        (
            5,
            at_path("flash", DataChange::Take),
            json!("hello"),
            r#"{"a":{"c":2}}"#,
        ),
        (6, at_path("a.c", DataChange::Remove), json!(null), r#"{"a":{}}"#),
        (7, whole(DataChange::Take), json!({"a": {}}), "{}"),
        (
            8,
            whole(DataChange::Put(json!({"n": 1}))),
            json!({"n": 1}),
            r#"{"n":1}"#,
        ),
        (9, whole(DataChange::Remove), json!({}), "{}"),
    ] {
        assert_eq!(done(store, id, patch).await, (value, version));
        assert_eq!(stored(store, id).await, (text.to_owned(), version));
    }
}

async fn change_of_data_is_no_use_and_no_event(f: Fixture) {
    let store = &*f.store;
    let id = start(store, "{}").await;
    done(store, id, at_path("a", DataChange::Put(json!(1)))).await;
    assert_eq!(found(store, id).await.last_activity_at, at(0));
    assert_eq!(f.events().len(), 1);
}

async fn removing_what_is_not_there_changes_nothing(f: Fixture) {
    let store = &*f.store;
    let id = start(store, r#"{"a":{"b":1}}"#).await;
    let everything = f.everything().await;
    for path in ["x", "a.x", "a.b.c"] {
        for change in [DataChange::Remove, DataChange::Take] {
            assert_eq!(
                done(store, id, at_path(path, change)).await,
                (json!(null), 1),
                "{path}"
            );
        }
    }
    assert_eq!(f.everything().await, everything);
}

async fn what_is_taken_twice_at_once_is_taken_by_one(f: Fixture) {
    let store = &*f.store;
    let id = start(store, r#"{"flash":"hello"}"#).await;
    let take = || store.change_data(app(), id, at_path("flash", DataChange::Take), at(1));
    let (first, second) = (take(), take());
    let mut taken = Vec::new();
    for answer in [first.await, second.await] {
        match answer {
            Ok(DataOutcome::Done { value, version }) => taken.push((value, version)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, [(json!("hello"), 2), (json!(null), 2)]);
}

async fn change_is_made_only_over_the_versions_that_are_named(f: Fixture) {
    let store = &*f.store;
    let id = start(store, r#"{"a":1}"#).await;
    let put_over = |versions: &[u64]| DataPatch {
        if_versions: Some(versions.to_vec()),
        ..at_path("a", DataChange::Put(json!(2)))
    };
    let everything = f.everything().await;
    for stale in [&[][..], &[0], &[2], &[0, 2, 3]] {
        let outcome = change(store, id, put_over(stale)).await;
        assert!(
            matches!(outcome, DataOutcome::VersionMismatch { version: 1 }),
            "{stale:?}: {outcome:?}"
        );
        assert_eq!(f.everything().await, everything, "{stale:?}");
    }
    assert_eq!(done(store, id, put_over(&[1])).await.1, 2);
    assert_eq!(done(store, id, put_over(&[7, 2])).await.1, 3);
}

async fn refused_changes_change_nothing(f: Fixture) {
    let store = &*f.store;
    let id = start(store, r#"{"a":1}"#).await;
    let nested = (0..DATA_DEPTH_MAX).fold(json!(1), |value, _| json!([value]));
    let everything = f.everything().await;
    for (error, patch) in [
        (
            DataError::TooLong,
            at_path("b", DataChange::Put(json!("x".repeat(DATA_LEN_MAX)))),
        ),
        (DataError::TooDeep, at_path("b", DataChange::Merge(nested))),
        (DataError::NotAnObject, whole(DataChange::Put(json!([1])))),
        (DataError::NotAnObject, whole(DataChange::Merge(json!(null)))),
    ] {
        let outcome = change(store, id, patch).await;
        assert!(
            matches!(outcome, DataOutcome::Refused(refused) if refused == error),
            "{error:?}: {outcome:?}"
        );
        assert_eq!(f.everything().await, everything, "{error:?}");
    }
}

async fn data_may_be_as_long_as_it_may(f: Fixture) {
    let store = &*f.store;
    let id = start(store, "{}").await;
    let longest = "x".repeat(DATA_LEN_MAX - r#"{"a":""}"#.len());
    done(store, id, at_path("a", DataChange::Put(json!(longest)))).await;
    let (text, version) = stored(store, id).await;
    assert_eq!((text.len(), version), (DATA_LEN_MAX, 2));
}

async fn merges_of_different_keys_at_once_all_survive(f: Fixture) {
    let store = &*f.store;
    let id = start(store, "{}").await;
    let merging: Vec<_> = (0..100)
        .map(|n| {
            let patch = whole(DataChange::Merge(json!({ format!("k{n}"): n })));
            store.change_data(app(), id, patch, at(1))
        })
        .collect();
    for answer in merging {
        answer.await.expect("merged");
    }
    let (text, version) = stored(store, id).await;
    let expected: Vec<String> = (0..100).map(|n| format!(r#""k{n}":{n}"#)).collect();
    assert_eq!((text, version), (format!("{{{}}}", expected.join(",")), 101));
}

async fn data_is_gone_once_the_session_has_ended(f: Fixture) {
    let store = &*f.store;
    let revoked = start(store, r#"{"a":1}"#).await;
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), revoked, Owner::Anyone, request)
        .await
        .expect("ended");
    let evicted = start(store, r#"{"a":1}"#).await;
    let next = NewSession {
        tiers: limit(1),
        data: Some(data(r#"{"a":1}"#)),
        ..new_session("ada", at(2))
    };
    let expired = put(store, next).await.id;
    store.expire(at(102), 10).await.expect("swept");
    for (case, id, by) in [
        ("revoked", revoked, EndedBy::App),
        ("evicted", evicted, EndedBy::Limit),
        ("expired", expired, EndedBy::Timeout),
    ] {
        assert_eq!(
            how(&found(store, id).await).map(|(_, _, by)| by),
            Some(by),
            "{case}"
        );
        assert_eq!(stored(store, id).await, ("{}".to_owned(), 1), "{case}");
    }
}

async fn only_active_sessions_of_the_app_have_data_to_change(f: Fixture) {
    let store = &*f.store;
    let id = start(store, r#"{"a":1}"#).await;
    let ended = start(store, "{}").await;
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    let everything = f.everything().await;
    for (case, app, id, secs, expected) in [
        ("another app's", app_named("shop"), id, 1, "NotFound"),
        ("unknown", app(), SessionId::from_bytes([9; 16]), 1, "NotFound"),
        ("ended", app(), ended, 2, "AlreadyEnded"),
        ("overdue", app(), id, 100, "AlreadyEnded"),
    ] {
        let patch = at_path("a", DataChange::Put(json!(2)));
        let outcome = store.change_data(app, id, patch, at(secs)).await;
        let outcome = format!("{:?}", outcome.expect("an answer"));
        assert!(outcome.starts_with(expected), "{case}: {outcome}");
        assert_eq!(f.everything().await, everything, "{case}");
    }
}
