//! An ending and the event that tells of it are one: where the one cannot be written, the other is not there. By every way
//! in which a session ends, on the store that has transactions.
//!
//! A person's sign-out and the destruction of a client's session are endings of one session: [`Way::One`].

use std::sync::Arc;

use rusqlite::Connection;
use sessiond::error::Error;
use sessiond::session::{EndedBy, Reason, SessionId, Touch};
use sessiond::store::sqlite::SqliteStore;
use sessiond::store::{Authentication, ClientId, NewSession, Owner, Scope, SessionStore, UserPatch, Visitor};
use tempfile::TempDir;

use super::Recorder;
use super::renewals::{renewal, token};
use super::sign_ins::sign_in;
use crate::stores::{
    EventRow, address, anonymous_session, app, at, data, database_in, ending, event_rows, found, how, limit,
    new_session, put, sqlite_in, touch, used_from, user,
};

/// A way to end a session of ada's, or of nobody, that was made at 0 s and is overdue at 100 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    One,
    AllOfUser,
    AllOfApp,
    Blocked,
    EvictedByCreation,
    EvictedBySignIn,
    ChosenAtCreation,
    ChosenAtSignIn,
    TokenReuse,
    Swept,
    OverdueAtLimit,
    OverdueUnderClientId,
    OverdueInFullApp,
}

impl Way {
    const ALL: [Self; 13] = [
        Self::One,
        Self::AllOfUser,
        Self::AllOfApp,
        Self::Blocked,
        Self::EvictedByCreation,
        Self::EvictedBySignIn,
        Self::ChosenAtCreation,
        Self::ChosenAtSignIn,
        Self::TokenReuse,
        Self::Swept,
        Self::OverdueAtLimit,
        Self::OverdueUnderClientId,
        Self::OverdueInFullApp,
    ];

    /// When, why and by whom the session is then over.
    fn ending(self) -> (i64, &'static str, EndedBy) {
        match self {
            Self::One => (50, Reason::LOGOUT, EndedBy::User),
            Self::AllOfUser => (50, Reason::LOGOUT_ALL, EndedBy::App),
            Self::AllOfApp => (50, Reason::MANUAL, EndedBy::Operator),
            Self::Blocked => (50, Reason::USER_BLOCKED, EndedBy::App),
            Self::EvictedByCreation | Self::EvictedBySignIn => {
                (50, Reason::SESSION_LIMIT_EXCEEDED, EndedBy::Limit)
            }
            Self::ChosenAtCreation | Self::ChosenAtSignIn => (50, Reason::MANUAL, EndedBy::User),
            Self::TokenReuse => (50, Reason::TOKEN_REUSE, EndedBy::Security),
            Self::Swept | Self::OverdueAtLimit | Self::OverdueUnderClientId | Self::OverdueInFullApp => {
                (100, Reason::IDLE_TIMEOUT, EndedBy::Timeout)
            }
        }
    }
}

struct Scene {
    store: SqliteStore,
    /// The session that is to end, with data.
    id: SessionId,
    /// A session of nobody, with which ada can sign in.
    visitor: SessionId,
    dir: TempDir,
}

impl Scene {
    async fn set(way: Way) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = sqlite_in(&dir, 100);
        let of_whom = match way {
            Way::OverdueUnderClientId | Way::OverdueInFullApp => anonymous_session(at(0)),
            _ => new_session("ada", at(0)),
        };
        let new = NewSession {
            token_hash: token(0),
            data: Some(data(r#"{"a":1}"#)),
            client: (way == Way::OverdueUnderClientId).then_some(ClientId { id: 7, total_max: 9 }),
            ..of_whom
        };
        let id = put(&store, new).await.id;
        if way == Way::TokenReuse {
            store.renew(renewal(id, 0, 1, 1)).await.expect("renewed");
            // Renewing the successor presents it: the first token is good for half a minute more.
            store.renew(renewal(id, 1, 2, 2)).await.expect("seen");
        }
        let later = if way == Way::OverdueInFullApp { 99 } else { 10 };
        let visitor = match way {
            Way::AllOfApp => id,
            _ => put(&store, anonymous_session(at(later))).await.id,
        };
        Self {
            store,
            id,
            visitor,
            dir,
        }
    }

    async fn must_end(&self, way: Way) {
        let ended = self.end(way).await;
        ended.unwrap_or_else(|error| panic!("{way:?}: {error}"));
    }

    /// Ends the session.
    async fn end(&self, way: Way) -> Result<(), Error> {
        let store = &self.store;
        let (_, reason, by) = way.ending();
        let request = ending(at(50), reason, by);
        let of_ada = |secs, max| NewSession {
            tiers: limit(max),
            ..new_session("ada", at(secs))
        };
        let signs_in = |max| Authentication {
            tiers: limit(max),
            ..sign_in(self.visitor, "ada", 50)
        };
        match way {
            Way::One => store.end(app(), self.id, Owner::Anyone, request).await.map(drop),
            Way::AllOfUser => {
                let scope = Scope::User {
                    user_id: user("ada"),
                    except: None,
                };
                store.end_many(app(), scope, request).await.map(drop)
            }
            Way::AllOfApp => {
                let scope = Scope::App { limit: 10 };
                store.end_many(app(), scope, request).await.map(drop)
            }
            Way::Blocked => {
                let patch = UserPatch {
                    is_blocked: Some(true),
                    ..UserPatch::default()
                };
                let blocked = store.update_user(app(), user("ada"), patch, by, at(50));
                blocked.await.map(drop)
            }
            Way::EvictedByCreation => store.create(of_ada(50, 1)).await.map(drop),
            Way::EvictedBySignIn => store.authenticate(signs_in(1)).await.map(drop),
            Way::ChosenAtCreation => {
                let choosing = NewSession {
                    end_ids: vec![self.id],
                    ..of_ada(50, 9)
                };
                store.create(choosing).await.map(drop)
            }
            Way::ChosenAtSignIn => {
                let choosing = Authentication {
                    end_ids: vec![self.id],
                    ..signs_in(9)
                };
                store.authenticate(choosing).await.map(drop)
            }
            Way::TokenReuse => store.renew(renewal(self.id, 0, 9, 50)).await.map(drop),
            Way::Swept => store.expire(at(105), 10).await.map(drop),
            Way::OverdueAtLimit => store.create(of_ada(105, 1)).await.map(drop),
            Way::OverdueUnderClientId => {
                let same_id = NewSession {
                    client: Some(ClientId { id: 7, total_max: 9 }),
                    ..anonymous_session(at(105))
                };
                store.create(same_id).await.map(drop)
            }
            Way::OverdueInFullApp => {
                let visit = NewSession {
                    visitor: Some(Visitor {
                        network: "a".to_owned(),
                        per_hour: 9,
                        per_hour_total: 100,
                        total_max: 2,
                    }),
                    ..anonymous_session(at(105))
                };
                store.create(visit).await.map(drop)
            }
        }
    }

    fn alter(&self, sql: &str) {
        let connection = Connection::open(database_in(&self.dir)).expect("opened");
        connection.execute_batch(sql).expect("altered");
    }

    fn events(&self) -> Vec<EventRow> {
        event_rows(&database_in(&self.dir))
    }

    fn endings(&self) -> Vec<EventRow> {
        let mut events = self.events();
        let kinds = ["session.revoked", "session.evicted", "session.expired"];
        events.retain(|event| kinds.contains(&event.kind.as_str()));
        events
    }
}

#[tokio::test]
async fn ending_whose_event_cannot_be_written_does_not_happen_whichever_way_it_comes() {
    for way in Way::ALL {
        let scene = Scene::set(way).await;
        let before = scene.events();
        scene.alter(
            "CREATE TRIGGER refuse BEFORE INSERT ON events
             WHEN new.type IN ('session.revoked', 'session.evicted', 'session.expired')
             BEGIN SELECT RAISE(ABORT, 'no room for events'); END",
        );
        let failed = scene.end(way).await;

        assert!(matches!(failed, Err(Error::Store(_))), "{way:?}: {failed:?}");
        assert_eq!(how(&found(&scene.store, scene.id).await), None, "{way:?}");
        assert_eq!(scene.events(), before, "{way:?}: nothing else is told either");
        let (_, data) = scene
            .store
            .find_data(scene.id)
            .await
            .expect("an answer")
            .expect("it is there");
        assert_eq!(data.to_text(), r#"{"a":1}"#, "{way:?}");
    }
}

#[tokio::test]
async fn each_way_of_ending_is_told_of_once_with_the_same_moment_reason_and_actor() {
    for way in Way::ALL {
        let scene = Scene::set(way).await;
        for _ in 0..2 {
            scene.must_end(way).await;
        }
        let (secs, reason, by) = way.ending();
        let session = found(&scene.store, scene.id).await;
        assert_eq!(how(&session), Some((at(secs), reason, by)), "{way:?}");
        let told: Vec<_> = scene
            .endings()
            .into_iter()
            .filter(|event| event.session_id == Some(scene.id))
            .map(|event| (event.occurred_at, event.reason, event.ended_by))
            .collect();
        let expected = (at(secs), Some(reason.to_owned()), Some(by.as_str().to_owned()));
        assert_eq!(told, [expected], "{way:?}");
    }
}

#[tokio::test]
async fn use_that_is_pending_is_written_and_told_of_before_each_way_of_ending() {
    for way in Way::ALL {
        let scene = Scene::set(way).await;
        let recorder = Arc::new(Recorder::default());
        scene.store.attach(Arc::clone(&recorder) as _);
        let known = scene.events().len();
        recorder.set_pending(from_elsewhere(scene.id));
        scene.must_end(way).await;

        let session = found(&scene.store, scene.id).await;
        assert_eq!(session.last_activity_at, at(3), "{way:?}");
        assert_eq!(session.last_ip_address, Some(address("192.0.2.2")), "{way:?}");
        let (secs, reason, by) = way.ending();
        // The use moved the deadline.
        let secs = if by == EndedBy::Timeout { secs + 3 } else { secs };
        assert_eq!(how(&session), Some((at(secs), reason, by)), "{way:?}");
        let mut told = scene.events().split_off(known);
        told.retain(|event| event.session_id == Some(scene.id));
        let told: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(told.first(), Some(&"session.activity"), "{way:?}: {told:?}");
        let moves = told.iter().filter(|kind| **kind == "session.activity");
        assert_eq!(moves.count(), 1, "{way:?}: {told:?}");
    }
}

#[tokio::test]
async fn use_that_cannot_be_written_keeps_no_session_from_being_ended() {
    for way in Way::ALL.into_iter().filter(|way| *way != Way::TokenReuse) {
        let scene = Scene::set(way).await;
        let recorder = Arc::new(Recorder::default());
        scene.store.attach(Arc::clone(&recorder) as _);
        recorder.set_pending(from_elsewhere(scene.id));
        scene.alter(
            "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.type = 'session.activity'
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        );
        scene.must_end(way).await;

        let (secs, reason, by) = way.ending();
        let session = found(&scene.store, scene.id).await;
        assert_eq!(how(&session), Some((at(secs), reason, by)), "{way:?}");
        assert_eq!(scene.endings().len(), 1, "{way:?}");
    }
}

/// A use from two addresses, the first of which is the session's.
fn from_elsewhere(id: SessionId) -> Touch {
    Touch {
        first_address: Some(used_from(address("192.0.2.1"))),
        last_address: Some(used_from(address("192.0.2.2"))),
        ..touch(id, at(3))
    }
}
