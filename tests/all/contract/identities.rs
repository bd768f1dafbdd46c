//! Named identities beside the root one.

use serde_json::json;
use sessiond::session::{AUTH_LEN_MAX, Auth, IdentityPatch, SessionId};
use sessiond::store::{NewSession, Outcome, Owner, SessionPatch, SessionStore};

use super::{Fixture, in_full, over_both_stores};
use crate::stores::{app, at, found, new_session, put};

over_both_stores!(
    identities_are_kept_beside_each_other_and_the_root_one,
    removed_identity_is_gone_alone,
    too_long_identities_change_nothing,
    identities_may_be_as_long_as_they_may,
);

async fn start(store: &dyn SessionStore) -> SessionId {
    let new = NewSession {
        auth: Some(Auth::from_stored(r#"{"root":1}"#)),
        ..new_session("ada", at(0))
    };
    put(store, new).await.id
}

fn identity(key: &str, value: serde_json::Value) -> SessionPatch {
    SessionPatch {
        identity: Some(IdentityPatch {
            key: key.to_owned(),
            identity: value.as_object().cloned(),
        }),
        ..SessionPatch::default()
    }
}

async fn update(store: &dyn SessionStore, id: SessionId, patch: SessionPatch) -> Outcome {
    store
        .update(app(), id, Owner::Anyone, patch, at(1))
        .await
        .expect("the store works")
}

/// All identities as they are stored.
async fn stored(store: &dyn SessionStore, id: SessionId) -> Option<String> {
    let identities = found(store, id).await.identities;
    identities.map(|identities| identities.as_str().to_owned())
}

async fn identities_are_kept_beside_each_other_and_the_root_one(f: Fixture) {
    let store = &*f.store;
    let id = start(store).await;
    for (key, value, text) in [
        ("work", json!({"z": 1, "a": 2}), r#"{"work":{"z":1,"a":2}}"#),
        ("home", json!({}), r#"{"work":{"z":1,"a":2},"home":{}}"#),
        ("work", json!({"b": 3}), r#"{"work":{"b":3},"home":{}}"#),
    ] {
        let Outcome::Done(answered) = update(store, id, identity(key, value)).await else {
            panic!("refused")
        };
        assert_eq!(stored(store, id).await.as_deref(), Some(text));
        assert_eq!(in_full(&found(store, id).await), in_full(&answered));
    }
    let rename = SessionPatch {
        name: Some(Some("desk".to_owned())),
        ..SessionPatch::default()
    };
    update(store, id, rename).await;
    assert_eq!(
        stored(store, id).await.as_deref(),
        Some(r#"{"work":{"b":3},"home":{}}"#)
    );
    assert_eq!(
        found(store, id).await.auth,
        Some(Auth::from_stored(r#"{"root":1}"#))
    );
}

async fn removed_identity_is_gone_alone(f: Fixture) {
    let store = &*f.store;
    let id = start(store).await;
    update(store, id, identity("work", json!({"a": 1}))).await;
    update(store, id, identity("home", json!({"b": 1}))).await;
    for (key, left) in [
        ("unknown", Some(r#"{"work":{"a":1},"home":{"b":1}}"#)),
        ("work", Some(r#"{"home":{"b":1}}"#)),
        ("home", None),
    ] {
        let outcome = update(store, id, identity(key, json!(null))).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{key}: {outcome:?}");
        assert_eq!(stored(store, id).await.as_deref(), left, "without {key}");
    }
}

async fn too_long_identities_change_nothing(f: Fixture) {
    let store = &*f.store;
    let id = start(store).await;
    let half = json!({"note": "x".repeat(AUTH_LEN_MAX / 2)});
    update(store, id, identity("work", half.clone())).await;
    let everything = f.everything().await;
    let too_much = SessionPatch {
        name: Some(Some("desk".to_owned())),
        is_trusted: Some(true),
        auth: Some(None),
        ..identity("home", half)
    };
    let outcome = update(store, id, too_much).await;
    assert!(matches!(outcome, Outcome::TooLong), "{outcome:?}");
    assert_eq!(f.everything().await, everything);
}

async fn identities_may_be_as_long_as_they_may(f: Fixture) {
    let store = &*f.store;
    let id = start(store).await;
    let room = AUTH_LEN_MAX - r#"{"a":{"b":""}}"#.len();
    let of = |len: usize| identity("a", json!({"b": "x".repeat(len)}));
    let outcome = update(store, id, of(room + 1)).await;
    assert!(matches!(outcome, Outcome::TooLong), "{outcome:?}");
    let outcome = update(store, id, of(room)).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert_eq!(stored(store, id).await.map(|text| text.len()), Some(AUTH_LEN_MAX));
}
