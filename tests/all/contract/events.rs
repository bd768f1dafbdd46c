//! Events read back: whose, which, in which direction, how many at a time; and what is left of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use sessiond::clock::Timestamp;
use sessiond::event::{Event, EventKind};
use sessiond::session::{EndedBy, Reason, SessionId, Touch};
use sessiond::store::{
    About, Committed, EventBounds, EventList, EventPage, EventsFrom, Hooks, NewSession, Owner, SessionStore,
};

use super::{Fixture, over_both_stores};
use crate::stores::{EventRow, anonymous_session, app, app_named, at, ending, new_session, put, user};

over_both_stores!(
    events_are_listed_as_they_were_written,
    events_are_listed_in_both_directions_from_a_place,
    events_are_listed_by_app_kind_and_whom_they_are_about,
    user_called_like_a_session_is_not_that_session,
    pages_of_any_length_give_each_event_once,
    place_between_the_pages_is_a_number_even_where_nothing_is_found,
    bounds_follow_what_is_written_and_what_is_purged,
    purged_numbers_are_never_given_again,
    purge_takes_events_from_the_oldest_on_and_none_behind_a_young_one,
    purge_takes_four_times_as_many_events_as_asked_and_no_more,
    recorded_event_is_written_and_announced,
    changes_announce_their_events_with_the_numbers_they_are_listed_by,
);

/// Everything, from the oldest on.
fn all() -> EventList {
    EventList {
        app: None,
        about: About::Anyone,
        kinds: Vec::new(),
        from: EventsFrom::After(0),
        limit: 1_000,
    }
}

async fn page(store: &dyn SessionStore, list: EventList) -> EventPage {
    store.list_events(list).await.expect("the store works")
}

fn numbers(page: &EventPage) -> Vec<u64> {
    page.events.iter().map(|recorded| recorded.number).collect()
}

async fn listed(store: &dyn SessionStore, list: EventList) -> Vec<u64> {
    numbers(&page(store, list).await)
}

async fn first_and_last(store: &dyn SessionStore) -> (u64, u64) {
    let EventBounds { first, last, .. } = store.event_bounds().await.expect("the store works");
    (first, last)
}

/// An event about a user that tells of no change.
fn of_user(name: &str, kind: EventKind, secs: i64) -> Event {
    Event::about_user(&app(), &user(name), kind, at(secs))
}

async fn record(store: &dyn SessionStore, event: Event) {
    store.record(event).await.expect("recorded");
}

async fn record_many(store: &dyn SessionStore, count: i64) {
    for secs in 0..count {
        record(store, of_user("ada", EventKind::UserBlocked, secs)).await;
    }
}

async fn purge(store: &dyn SessionStore, before: i64, limit: usize) -> usize {
    store.purge(at(before), limit, at(before)).await.expect("purged")
}

/// 1: ada's session is made. 2: one of nobody. 3: ada's in the app `shop`. 4: bob's. 5: ada's first is revoked. 6: the one
/// of nobody is. Answers the one of nobody.
async fn six_events(store: &dyn SessionStore) -> SessionId {
    let ada = put(store, new_session("ada", at(0))).await;
    let nobody = put(store, anonymous_session(at(1))).await;
    let elsewhere = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(2))
    };
    put(store, elsewhere).await;
    put(store, new_session("bob", at(3))).await;
    for id in [ada.id, nobody.id] {
        let request = ending(at(4), Reason::LOGOUT, EndedBy::App);
        let ended = store.end(app(), id, Owner::Anyone, request).await;
        ended.expect("ended");
    }
    nobody.id
}

async fn events_are_listed_as_they_were_written(f: Fixture) {
    six_events(&*f.store).await;
    let page = page(&*f.store, all()).await;
    let events: Vec<EventRow> = page
        .events
        .iter()
        .map(|recorded| EventRow::from(recorded.event.clone()))
        .collect();
    assert_eq!(events, f.events());
    assert_eq!(numbers(&page), [1, 2, 3, 4, 5, 6]);
}

async fn events_are_listed_in_both_directions_from_a_place(f: Fixture) {
    six_events(&*f.store).await;
    let cases: [(EventsFrom, &[u64]); 8] = [
        (EventsFrom::After(0), &[1, 2, 3, 4, 5, 6]),
        (EventsFrom::After(4), &[5, 6]),
        (EventsFrom::After(6), &[]),
        (EventsFrom::After(u64::MAX), &[]),
        (EventsFrom::Before(u64::MAX), &[6, 5, 4, 3, 2, 1]),
        (EventsFrom::Before(3), &[2, 1]),
        (EventsFrom::Before(1), &[]),
        (EventsFrom::Before(0), &[]),
    ];
    for (from, expected) in cases {
        let page = page(&*f.store, EventList { from, ..all() }).await;
        assert_eq!(numbers(&page), expected, "{from:?}");
        assert!(!page.more, "{from:?}");
        assert_eq!((page.bounds.first, page.bounds.last), (1, 6), "{from:?}");
    }
}

async fn events_are_listed_by_app_kind_and_whom_they_are_about(f: Fixture) {
    let nobody = six_events(&*f.store).await;
    let of = |app, about, kinds: &[EventKind]| EventList {
        app,
        about,
        kinds: kinds.to_vec(),
        ..all()
    };
    let (here, shop) = (Some(app()), Some(app_named("shop")));
    let ada = || About::User(user("ada"));
    let cases: [(EventList, &[u64]); 9] = [
        (of(here.clone(), About::Anyone, &[]), &[1, 2, 4, 5, 6]),
        (of(shop.clone(), About::Anyone, &[]), &[3]),
        (of(here.clone(), ada(), &[]), &[1, 5]),
        (of(shop.clone(), ada(), &[]), &[3]),
        (of(here.clone(), About::User(user("ad")), &[]), &[]),
        (of(here.clone(), About::AnonymousSession(nobody), &[]), &[2, 6]),
        (of(shop, About::AnonymousSession(nobody), &[]), &[]),
        (of(None, About::Anyone, &[EventKind::SessionRevoked]), &[5, 6]),
        (
            of(here, ada(), &[EventKind::SessionCreated, EventKind::UserBlocked]),
            &[1],
        ),
    ];
    for (list, expected) in cases {
        let backwards = EventList {
            from: EventsFrom::Before(u64::MAX),
            ..list.clone()
        };
        assert_eq!(listed(&*f.store, list.clone()).await, expected, "{list:?}");
        let mut found = listed(&*f.store, backwards).await;
        found.reverse();
        assert_eq!(found, expected, "backwards {list:?}");
    }
}

async fn user_called_like_a_session_is_not_that_session(f: Fixture) {
    let nobody = put(&*f.store, anonymous_session(at(0))).await;
    let name = nobody.id.to_string();
    put(&*f.store, new_session(&name, at(1))).await;
    let of = |about| EventList {
        app: Some(app()),
        about,
        ..all()
    };
    let session = of(About::AnonymousSession(nobody.id));
    assert_eq!(listed(&*f.store, session).await, [1]);
    assert_eq!(listed(&*f.store, of(About::User(user(&name)))).await, [2]);
}

async fn pages_of_any_length_give_each_event_once(f: Fixture) {
    six_events(&*f.store).await;
    for is_backwards in [false, true] {
        for limit in 1..=7 {
            let mut from = if is_backwards {
                EventsFrom::Before(u64::MAX)
            } else {
                EventsFrom::After(0)
            };
            let mut seen = Vec::new();
            for _ in 0..8 {
                let list = EventList {
                    from,
                    limit,
                    app: Some(app()),
                    ..all()
                };
                let part = page(&*f.store, list).await;
                assert!(part.events.len() <= limit);
                seen.extend(numbers(&part));
                from = match from {
                    EventsFrom::After(_) => EventsFrom::After(part.looked_to),
                    EventsFrom::Before(_) => EventsFrom::Before(part.looked_to),
                };
                if !part.more {
                    break;
                }
            }
            let mut expected = vec![1, 2, 4, 5, 6];
            if is_backwards {
                expected.reverse();
            }
            assert_eq!(seen, expected, "{limit} a page, backwards: {is_backwards}");
        }
    }
}

async fn place_between_the_pages_is_a_number_even_where_nothing_is_found(f: Fixture) {
    for from in [
        EventsFrom::After(0),
        EventsFrom::After(7),
        EventsFrom::Before(7),
        EventsFrom::Before(u64::MAX),
    ] {
        let (EventsFrom::After(number) | EventsFrom::Before(number)) = from;
        let page = page(&*f.store, EventList { from, ..all() }).await;
        assert_eq!((page.looked_to, page.more), (number, false), "{from:?}");
    }
}

async fn bounds_follow_what_is_written_and_what_is_purged(f: Fixture) {
    let store = &*f.store;
    assert_eq!(first_and_last(store).await, (1, 0), "nothing was written");
    record_many(store, 3).await;
    assert_eq!(first_and_last(store).await, (1, 3));
    purge(store, 2, 10).await;
    assert_eq!(first_and_last(store).await, (3, 3));
    purge(store, 100, 10).await;
    assert_eq!(
        first_and_last(store).await,
        (4, 3),
        "the next one is the first that will be kept"
    );
    let bounds = page(store, all()).await.bounds;
    assert_eq!((bounds.first, bounds.last), (4, 3), "a page says the same");
    assert_eq!(
        bounds.epoch,
        store.event_bounds().await.expect("the store works").epoch
    );
}

async fn purged_numbers_are_never_given_again(f: Fixture) {
    record_many(&*f.store, 3).await;
    purge(&*f.store, 100, 10).await;
    record(&*f.store, of_user("ada", EventKind::UserBlocked, 200)).await;
    assert_eq!(listed(&*f.store, all()).await, [4]);
}

async fn purge_takes_events_from_the_oldest_on_and_none_behind_a_young_one(f: Fixture) {
    for secs in [10, 20, 90, 30, 40] {
        record(&*f.store, of_user("ada", EventKind::UserBlocked, secs)).await;
    }
    assert_eq!(purge(&*f.store, 50, 10).await, 2);
    assert_eq!(listed(&*f.store, all()).await, [3, 4, 5], "no hole is made");
    assert_eq!(purge(&*f.store, 50, 10).await, 0);
    assert_eq!(purge(&*f.store, 90, 10).await, 0, "what is as old is kept");
    assert_eq!(purge(&*f.store, 91, 10).await, 3);
}

/// More than sessions, as each makes some.
async fn purge_takes_four_times_as_many_events_as_asked_and_no_more(f: Fixture) {
    record_many(&*f.store, 11).await;
    assert_eq!(purge(&*f.store, 100, 2).await, 8);
    assert_eq!(listed(&*f.store, all()).await, [9, 10, 11]);
    assert_eq!(purge(&*f.store, 100, 10).await, 3);
}

/// Hooks that keep what was announced.
#[derive(Default)]
struct Announced(Mutex<Vec<(u64, EventRow)>>);

impl Announced {
    fn attach(store: &dyn SessionStore) -> Arc<Self> {
        let announced = Arc::new(Self::default());
        store.attach(Arc::clone(&announced) as Arc<dyn Hooks>);
        announced
    }

    fn so_far(&self) -> Vec<(u64, EventRow)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Hooks for Announced {
    fn due_touches(&self, _: Timestamp) -> Vec<Touch> {
        Vec::new()
    }

    fn pending_touch(&self, _: SessionId) -> Option<Touch> {
        None
    }

    fn fence(&self, _: &[SessionId]) {}

    fn release(&self, _: &[SessionId]) {}

    fn announce(&self, committed: &Committed) {
        let events = committed.events.iter();
        let events = events.map(|recorded| (recorded.number, recorded.event.clone().into()));
        let mut announced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        announced.extend(events);
    }
}

async fn recorded_event_is_written_and_announced(f: Fixture) {
    let announced = Announced::attach(&*f.store);
    let event = Event {
        data: Some(r#"{"attempts":3}"#.to_owned()),
        ..of_user("ada", EventKind::SessionRevocationFailed, 7)
    };
    record(&*f.store, event.clone()).await;
    assert_eq!(f.events(), [EventRow::from(event.clone())]);
    assert_eq!(announced.so_far(), [(1, event.into())]);
}

async fn changes_announce_their_events_with_the_numbers_they_are_listed_by(f: Fixture) {
    let announced = Announced::attach(&*f.store);
    six_events(&*f.store).await;
    let revocation = ending(at(5), Reason::LOGOUT_ALL, EndedBy::User);
    let scope = sessiond::store::Scope::User {
        user_id: user("bob"),
        except: None,
    };
    let ended = f.store.end_many(app(), scope, revocation).await;
    ended.expect("ended");
    let listed = page(&*f.store, all()).await.events.into_iter();
    let listed: Vec<(u64, EventRow)> = listed
        .map(|recorded| (recorded.number, recorded.event.into()))
        .collect();
    assert_eq!(announced.so_far(), listed);
    let kinds: BTreeSet<&str> = listed.iter().map(|(_, event)| event.kind.as_str()).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["session.created", "session.revoked", "user.sessions_revoked"]
    );
}
