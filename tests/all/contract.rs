//! The contract of `store.rs`, promise by promise, over both stores.

mod callbacks;
mod changes;
mod clients;
mod data;
mod devices;
mod endings;
mod erasure;
mod events;
mod identities;
mod notices;
mod one_ending;
mod reads;
mod renewals;
mod repetitions;
mod sign_ins;
mod sqlite_only;
mod visitors;

use std::sync::{Arc, Mutex, PoisonError};

use sessiond::clock::Timestamp;
use sessiond::session::{Session, SessionId, Touch};
use sessiond::store::memory::MemoryStore;
use sessiond::store::{AppList, Committed, Hooks, SessionStore, StatusFilter};
use tempfile::TempDir;

use crate::stores::{EventRow, app, app_named, at, database_in, event_rows, sqlite_in, user};

/// Runs each case over each store.
macro_rules! over_both_stores {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case($crate::contract::Fixture::sqlite()).await;
                }
            )*
        }
        mod memory {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case($crate::contract::Fixture::memory()).await;
                }
            )*
        }
    };
}
use over_both_stores;

/// A fresh store of one kind.
struct Fixture {
    store: Arc<dyn SessionStore>,
    kind: Kind,
}

enum Kind {
    Sqlite(TempDir),
    Memory(Arc<MemoryStore>),
}

impl Fixture {
    fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            store: Arc::new(sqlite_in(&dir, 1_000)),
            kind: Kind::Sqlite(dir),
        }
    }

    fn memory() -> Self {
        let memory = Arc::new(MemoryStore::new());
        Self {
            store: Arc::clone(&memory) as Arc<dyn SessionStore>,
            kind: Kind::Memory(memory),
        }
    }

    /// Every event so far, oldest first.
    fn events(&self) -> Vec<EventRow> {
        match &self.kind {
            Kind::Sqlite(dir) => event_rows(&database_in(dir)),
            Kind::Memory(memory) => memory.events().into_iter().map(EventRow::from).collect(),
        }
    }

    /// Types of the events so far, with the session each is about.
    fn told(&self) -> Vec<(String, Option<SessionId>)> {
        let events = self.events().into_iter();
        events.map(|event| (event.kind, event.session_id)).collect()
    }

    /// Events of one type.
    fn count(&self, kind: &str) -> usize {
        self.told().iter().filter(|(told, _)| told == kind).count()
    }

    /// Types of the events after the first `known`, with the session each is about.
    fn told_since(&self, known: usize) -> Vec<(String, Option<SessionId>)> {
        self.told().split_off(known)
    }

    /// All that is kept of both apps, as text to compare: a call that changes nothing leaves it as it is.
    async fn everything(&self) -> String {
        let mut all = format!("{:#?}\n", self.events());
        for (app, anonymous) in [
            (app(), false),
            (app(), true),
            (app_named("shop"), false),
            (app_named("shop"), true),
        ] {
            let list = AppList {
                now: at(0),
                app: app.clone(),
                anonymous,
                status: StatusFilter::All,
                after: None,
                limit: 10_000,
            };
            for session in self.store.list_app(list).await.expect("a page").sessions {
                let found = self.store.find_data(session.id).await.expect("an answer");
                let (found, data) = found.expect("it is listed");
                all += &format!("{} with {}\n", in_full(&found), data.to_text());
            }
            for name in ["ada", "bob"] {
                let record = self.store.find_user(app.clone(), user(name), at(0)).await;
                all += &format!("{name} {:?}\n", record.expect("a record").settings);
            }
        }
        all
    }

    /// Attaches hooks that write down how they are called.
    fn record(&self) -> Arc<Recorder> {
        let recorder = Arc::new(Recorder::default());
        self.store.attach(Arc::clone(&recorder) as Arc<dyn Hooks>);
        recorder
    }
}

/// A session with the hashes that it does not show.
fn in_full(session: &Session) -> String {
    let before = session.replaced.map(|replaced| *replaced.hash.as_bytes());
    format!("{session:?} {:?} {before:?}", session.token_hash.as_bytes())
}

/// What was told: types, each with a session.
fn each<const N: usize>(told: [(&str, SessionId); N]) -> Vec<(String, Option<SessionId>)> {
    told.map(|(kind, id)| (kind.to_owned(), Some(id))).to_vec()
}

/// One call back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Due(Timestamp),
    Fence(Vec<SessionId>),
    Release(Vec<SessionId>),
    Announce {
        changed: Vec<SessionId>,
        ended: Vec<SessionId>,
        touched: Vec<Touch>,
    },
}

/// Hooks that write down how they are called.
#[derive(Default)]
struct Recorder {
    steps: Mutex<Vec<Step>>,
    due: Mutex<Vec<Touch>>,
    pending: Mutex<Option<Touch>>,
}

impl Recorder {
    fn add(&self, step: Step) {
        self.steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
    }

    /// The steps since the last call of this.
    fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This is pending from now on.
    fn set_pending(&self, touch: Touch) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(touch);
    }

    /// These are due from now on.
    fn set_due(&self, touches: &[Touch]) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = touches.to_vec();
    }
}

impl Hooks for Recorder {
    fn pending_touch(&self, id: SessionId) -> Option<Touch> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.clone().filter(|touch| touch.id == id)
    }

    fn due_touches(&self, now: Timestamp) -> Vec<Touch> {
        self.add(Step::Due(now));
        self.due.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fence(&self, changed: &[SessionId]) {
        self.add(Step::Fence(changed.to_vec()));
    }

    fn release(&self, changed: &[SessionId]) {
        self.add(Step::Release(changed.to_vec()));
    }

    fn announce(&self, committed: &Committed) {
        self.add(Step::Announce {
            changed: committed.changed.clone(),
            ended: committed.ended.iter().map(|session| session.id).collect(),
            touched: committed.touched.clone(),
        });
    }
}
