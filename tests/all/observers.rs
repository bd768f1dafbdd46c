//! Who is told about events in this process: each once, in order, and nobody is held up by another.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sessiond::error::Error;
use sessiond::event::{Epoch, Event, EventKind, RecordedEvent};
use sessiond::manager::{SignIn, Use};
use sessiond::observer::{
    EventFilter, Feed, FollowError, Follower, Notice, ObserverError, SessionWatch, Subscription,
};
use sessiond::session::{SessionId, Token};
use sessiond::store::{About, SessionStore};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::harness::eventually;
use crate::process::{Process, example, names_in};
use crate::stores::{Managed, app, app_named, at, check, ended, is_pending, logout, soon, user};
use crate::support::add_app;

/// What is asked for when it is everything of one kind.
fn only(kind: EventKind) -> EventFilter {
    EventFilter::of_kinds([kind])
}

/// Everything about one user of the app.
fn of_user(name: &str) -> EventFilter {
    EventFilter {
        app: Some(app()),
        about: About::User(user(name)),
        kinds: Vec::new(),
    }
}

/// An event in few words: its type and whose it is.
fn in_words(recorded: &RecordedEvent) -> String {
    let event = &recorded.event;
    let user_id = event
        .user_id
        .as_ref()
        .map_or("nobody", |user_id| user_id.as_str());
    format!("{} {user_id}", event.kind.as_str())
}

/// Writes down an event that tells of no change.
async fn note(m: &Managed, name: &str, kind: EventKind) {
    let event = Event::about_user(&app(), &user(name), kind, m.clock.now());
    m.sqlite.record(event).await.expect("recorded");
}

/// Deletes everything that was recorded so far.
async fn purge_all(m: &Managed) {
    m.advance(1);
    let now = m.clock.now();
    while m.sqlite.purge(now, 1_000, now).await.expect("purged") > 0 {}
}

fn feed(m: &Managed) -> &Arc<Feed> {
    m.manager.feed()
}

async fn newest(m: &Managed) -> u64 {
    feed(m).place(None).await.expect("a place")
}

/// An observer that passes on what it is told, in words.
fn passing_on(
    told: UnboundedSender<String>,
) -> impl FnMut(Notice<'_>) -> Result<(), ObserverError> + Send + 'static {
    move |notice| {
        let words = match notice {
            Notice::Event(recorded) => in_words(recorded),
            Notice::Missed => "missed".to_owned(),
        };
        let _ = told.send(words); // a test that has heard enough has gone
        Ok(())
    }
}

/// An observer, and what it was told.
struct Ear {
    told: UnboundedReceiver<String>,
    subscription: Subscription,
}

impl Ear {
    /// Listens to what comes from now on.
    async fn open(m: &Managed, filter: EventFilter) -> Self {
        Self::open_after(m, filter, newest(m).await)
    }

    fn open_after(m: &Managed, filter: EventFilter, after: u64) -> Self {
        let (tell, told) = unbounded_channel();
        let subscription = feed(m).subscribe(filter, after, passing_on(tell));
        Self { told, subscription }
    }

    /// What it is told next; `None` once it is told no more.
    async fn next(&mut self) -> Option<String> {
        soon("the observer is told", self.told.recv()).await
    }

    async fn hears<const N: usize>(&mut self, expected: [&str; N]) {
        for words in expected {
            assert_eq!(self.next().await.as_deref(), Some(words));
        }
    }
}

/// The numbers of what a follower has not read yet.
async fn unread(follower: &mut Follower) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let events = soon("a page", follower.pending()).await.expect("it goes on");
        if events.is_empty() {
            return numbers;
        }
        numbers.extend(events.iter().map(|recorded| recorded.number));
    }
}

// Telling.

#[tokio::test]
async fn observer_is_told_each_later_event_once_and_in_order() {
    let m = Managed::start().await;
    m.sign_in("before").await;
    let mut ear = Ear::open(&m, EventFilter::ALL).await;
    let ada = m.sign_in("ada").await;
    m.sign_in("bob").await;
    m.revoke(ada.session.id).await;
    m.revoke(ada.session.id).await;
    note(&m, "last", EventKind::UserBlocked).await;
    ear.hears([
        "session.created ada",
        "session.created bob",
        "session.revoked ada",
        "user.blocked last",
    ])
    .await;
    assert!(ear.told.is_empty());
}

#[tokio::test]
async fn observer_subscribed_twice_is_told_twice() {
    let m = Managed::start().await;
    let (tell, mut told) = unbounded_channel();
    let after = newest(&m).await;
    for _ in 0..2 {
        // Dropped, a subscription goes on.
        drop(feed(&m).subscribe(EventFilter::ALL, after, passing_on(tell.clone())));
    }
    m.sign_in("ada").await;
    for _ in 0..2 {
        let words = soon("both are told", told.recv()).await;
        assert_eq!(words.as_deref(), Some("session.created ada"));
    }
}

#[tokio::test]
async fn late_observer_is_told_no_history_unless_it_asks_from_a_place() {
    let m = Managed::start().await;
    m.sign_in("ada").await;
    let place = newest(&m).await;
    m.sign_in("bob").await;
    let mut late = Ear::open(&m, EventFilter::ALL).await;
    let mut asking = Ear::open_after(&m, EventFilter::ALL, place);
    let mut from_the_start = Ear::open_after(&m, EventFilter::ALL, 0);
    m.sign_in("cyd").await;
    late.hears(["session.created cyd"]).await;
    asking.hears(["session.created bob", "session.created cyd"]).await;
    from_the_start
        .hears([
            "session.created ada",
            "session.created bob",
            "session.created cyd",
        ])
        .await;
}

#[tokio::test]
async fn unsubscribed_observer_is_told_nothing_after_the_call_under_way() {
    let m = Managed::start().await;
    let (entered, mut entries) = unbounded_channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let observer = move |_: Notice<'_>| {
        let _ = entered.send(());
        let _ = gate.recv(); // until the test lets it go
        Ok(())
    };
    let subscription = feed(&m).subscribe(EventFilter::ALL, newest(&m).await, observer);
    for name in ["ada", "bob", "cyd"] {
        m.sign_in(name).await;
    }
    soon("the first call", entries.recv()).await.expect("it is told");
    subscription.unsubscribe();
    m.sign_in("dan").await;
    drop(go);
    // It is dropped with all it has once it can be called no more.
    let another = soon("the observer is dropped", entries.recv()).await;
    assert_eq!(another, None, "no call but the one that was under way");
}

#[tokio::test]
async fn waiting_observer_is_dropped_when_it_is_unsubscribed() {
    let m = Managed::start().await;
    let mut ear = Ear::open(&m, EventFilter::ALL).await;
    m.sign_in("ada").await;
    ear.hears(["session.created ada"]).await;
    ear.subscription.unsubscribe();
    assert_eq!(soon("the observer is dropped", ear.told.recv()).await, None);
    m.sign_in("bob").await;
}

#[tokio::test]
async fn nothing_is_told_before_it_is_committed() {
    let m = Managed::start().await;
    let mut ear = Ear::open(&m, EventFilter::ALL).await;
    let mut fenced = m.probe.after_fence.hold_next();
    let manager = Arc::clone(&m.manager);
    let creating = tokio::spawn(async move {
        let sign_in = SignIn {
            user_id: Some(user("ada")),
            ..SignIn::default()
        };
        manager.create(&app(), sign_in).await
    });
    fenced.arrived().await;
    assert!(unread(&mut feed(&m).follow(EventFilter::ALL, 0)).await.is_empty());
    assert!(ear.told.is_empty());
    fenced.let_go();
    ear.hears(["session.created ada"]).await;
    soon("the creation", creating)
        .await
        .expect("it runs")
        .expect("created");
}

// Filters.

#[tokio::test]
async fn observers_are_told_what_they_ask_for_and_nothing_else() {
    let m = Managed::start_with(|config| add_app(config, "shop")).await;
    let nobody = m.manager.create(&app(), SignIn::default()).await;
    let nobody = nobody.expect("a visitor").session.id;
    let namesake = nobody.to_string();
    let of_session = |app| EventFilter {
        app: Some(app),
        about: About::AnonymousSession(nobody),
        kinds: Vec::new(),
    };
    let filters = [
        EventFilter::ALL,
        only(EventKind::SessionCreated),
        EventFilter::of_kinds([EventKind::SessionRevoked, EventKind::UserBlocked]),
        EventFilter {
            app: Some(app_named("shop")),
            ..EventFilter::ALL
        },
        of_user("ada"),
        EventFilter {
            kinds: vec![EventKind::SessionRevoked],
            ..of_user("ada")
        },
        of_user(&namesake),
        of_session(app()),
        of_session(app_named("shop")),
        of_user("nobody else"),
    ];
    let mut ears = Vec::new();
    for filter in filters {
        ears.push(Ear::open(&m, filter).await);
    }

    let ada = m.sign_in("ada").await;
    let in_shop = SignIn {
        user_id: Some(user("ada")),
        ..SignIn::default()
    };
    let in_shop = m.manager.create(&app_named("shop"), in_shop).await;
    in_shop.expect("ada may sign in there");
    m.sign_in(&namesake).await;
    m.revoke(nobody).await;
    m.revoke(ada.session.id).await;
    note(&m, "ada", EventKind::UserBlocked).await;

    let (of_namesake, revoked) = (format!("session.created {namesake}"), "session.revoked ada");
    let expected: [&[&str]; 10] = [
        &[
            "session.created ada",
            "session.created ada",
            &of_namesake,
            "session.revoked nobody",
            revoked,
            "user.blocked ada",
        ],
        &["session.created ada", "session.created ada", &of_namesake],
        &["session.revoked nobody", revoked, "user.blocked ada"],
        &["session.created ada"],
        &["session.created ada", revoked, "user.blocked ada"],
        &[revoked],
        &[&of_namesake],
        &["session.revoked nobody"],
        &[],
        &[],
    ];
    for (number, (ear, expected)) in ears.iter_mut().zip(expected).enumerate() {
        for words in expected {
            assert_eq!(ear.next().await.as_deref(), Some(*words), "observer {number}");
        }
    }
    // Each has come to rest once it is told of nothing any more; what it was told until then is all.
    feed(&m).close();
    for (number, ear) in ears.iter_mut().enumerate() {
        assert_eq!(ear.next().await, None, "observer {number}");
    }
}

#[tokio::test]
async fn session_given_to_a_user_is_from_then_on_the_user_s() {
    let m = Managed::start().await;
    let visitor = m.manager.create(&app(), SignIn::default()).await;
    let id = visitor.expect("a visitor").session.id;
    let of_session = EventFilter {
        app: Some(app()),
        about: About::AnonymousSession(id),
        kinds: Vec::new(),
    };
    let mut of_visitor = Ear::open_after(&m, of_session, 0);
    let mut of_ada = Ear::open_after(&m, of_user("ada"), 0);
    let authenticated = m
        .manager
        .authenticate(&app(), id, user("ada"), SignIn::default())
        .await;
    authenticated.expect("ada signs in");
    m.revoke(id).await;
    of_ada
        .hears(["session.authenticated ada", "session.revoked ada"])
        .await;
    of_visitor.hears(["session.created nobody"]).await;
    feed(&m).close();
    assert_eq!(of_visitor.next().await, None);
}

// Those who fail, and those who sleep.

#[tokio::test]
async fn failing_observer_is_told_the_same_event_until_it_is_done_with_it() {
    for panics in [false, true] {
        let m = Managed::start().await;
        let (tell, mut told) = unbounded_channel();
        let mut failures_left = 2;
        let observer = move |notice: Notice<'_>| {
            let Notice::Event(recorded) = notice else {
                return Ok(());
            };
            let _ = tell.send(in_words(recorded));
            if in_words(recorded) == "session.created bob" && failures_left > 0 {
                failures_left -= 1;
                assert!(!panics, "the test's observer panics");
                return Err("the test's observer fails".into());
            }
            Ok(())
        };
        let _subscription = feed(&m).subscribe(EventFilter::ALL, newest(&m).await, observer);
        let mut other = Ear::open(&m, EventFilter::ALL).await;
        for name in ["ada", "bob", "cyd"] {
            m.sign_in(name).await;
        }
        other
            .hears([
                "session.created ada",
                "session.created bob",
                "session.created cyd",
            ])
            .await;
        for name in ["ada", "bob", "bob", "bob", "cyd"] {
            let words = soon("the observer is told again", told.recv()).await;
            let expected = format!("session.created {name}");
            assert_eq!(words, Some(expected), "panics: {panics}");
        }
    }
}

#[tokio::test]
async fn failing_observer_is_let_go_when_it_is_unsubscribed_or_the_feed_closes() {
    for closes in [false, true] {
        let m = Managed::start().await;
        let (tell, mut told) = unbounded_channel();
        let observer = move |_: Notice<'_>| {
            let _ = tell.send(());
            Err("the test's observer fails always".into())
        };
        let subscription = feed(&m).subscribe(EventFilter::ALL, newest(&m).await, observer);
        m.sign_in("ada").await;
        soon("a first call", told.recv()).await.expect("it is told");
        if closes {
            feed(&m).close();
        } else {
            subscription.unsubscribe();
        }
        let until_dropped = async { while told.recv().await.is_some() {} };
        soon("the observer is dropped", until_dropped).await;
    }
}

#[tokio::test]
async fn sleeping_observer_delays_neither_changes_nor_other_observers_and_loses_nothing() {
    let m = Managed::start().await;
    let (tell, mut told) = unbounded_channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (arrive, mut arrived) = unbounded_channel();
    let mut pass_on = passing_on(tell);
    let sleeper = move |notice: Notice<'_>| {
        let _ = arrive.send(());
        let _ = gate.recv(); // sleeps until the test wakes it
        pass_on(notice)
    };
    let _subscription = feed(&m).subscribe(EventFilter::ALL, newest(&m).await, sleeper);
    let mut other = Ear::open(&m, EventFilter::ALL).await;
    m.sign_in("u0").await;
    soon("it sleeps", arrived.recv()).await.expect("it was called");
    for number in 1..300 {
        soon("a sign-in", m.sign_in(&format!("u{number}"))).await;
    }
    for number in 0..300 {
        let expected = format!("session.created u{number}");
        assert_eq!(other.next().await, Some(expected));
    }
    assert!(told.is_empty(), "it slept all the while");
    drop(go);
    for number in 0..300 {
        let words = soon("it catches up", told.recv()).await;
        assert_eq!(words, Some(format!("session.created u{number}")));
    }
}

#[tokio::test]
async fn nobody_who_has_gone_is_rung_for() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await.session.id;
    let filters = || {
        [
            EventFilter::ALL,
            of_user("ada"),
            EventFilter {
                about: About::AnonymousSession(ada),
                ..of_user("ada")
            },
        ]
    };
    let followers = filters().map(|filter| feed(&m).follow(filter, 0));
    let (watch, another) = (feed(&m).watch(ada), feed(&m).watch(ada));
    let mut ears = Vec::new();
    for filter in filters() {
        ears.push(Ear::open(&m, filter).await);
    }
    assert_eq!(feed(&m).bells_len(), 8);
    drop(followers);
    drop(watch);
    assert_eq!(feed(&m).bells_len(), 4);
    ears.into_iter().for_each(|ear| ear.subscription.unsubscribe());
    eventually("the observers are gone", async || feed(&m).bells_len() == 1).await;
    drop(another);
    assert_eq!(feed(&m).bells_len(), 0);
}

// Followers.

#[tokio::test]
async fn follower_far_behind_reads_page_after_page() {
    let m = Managed::start().await;
    let mut all = feed(&m).follow(EventFilter::ALL, 0);
    let mut rare = feed(&m).follow(only(EventKind::UserBlocked), 0);
    let mut of_ada = feed(&m).follow(of_user("ada"), 0);
    // More than a page looks at, of everybody and of ada alone.
    let mut writes = JoinSet::new();
    for number in 1..=11_500_u64 {
        let is_rare = [1, 5_500, 11_500].contains(&number);
        let kind = if is_rare {
            EventKind::UserBlocked
        } else {
            EventKind::SessionRenewed
        };
        let name = if number % 2 == 0 { "ada" } else { "bob" };
        let write = m
            .sqlite
            .record(Event::about_user(&app(), &user(name), kind, at(0)));
        writes.spawn(write);
        if number % 500 == 0 {
            while let Some(written) = writes.join_next().await {
                written.expect("it runs").expect("recorded");
            }
        }
    }
    assert_eq!(unread(&mut all).await, (1..=11_500).collect::<Vec<_>>());
    assert_eq!(unread(&mut rare).await, [1, 5_500, 11_500]);
    let even: Vec<u64> = (1..=5_750).map(|half| half * 2).collect();
    assert_eq!(unread(&mut of_ada).await, even);
    for follower in [&mut all, &mut rare, &mut of_ada] {
        assert_eq!(follower.place(), 11_500);
    }
}

#[tokio::test]
async fn follower_at_rest_reads_nothing_until_something_concerns_it() {
    let m = Managed::start().await;
    let mut of_ada = feed(&m).follow(of_user("ada"), newest(&m).await);
    let mut blocked = feed(&m).follow(only(EventKind::UserBlocked), newest(&m).await);
    assert!(unread(&mut of_ada).await.is_empty());
    assert!(unread(&mut blocked).await.is_empty());
    let pages = m.probe.event_pages.load(Ordering::SeqCst);
    for _ in 0..10 {
        m.sign_in("bob").await;
    }
    assert!(unread(&mut of_ada).await.is_empty());
    assert!(unread(&mut blocked).await.is_empty());
    assert_eq!(m.probe.event_pages.load(Ordering::SeqCst), pages);
    let newest = newest(&m).await;
    assert_eq!((of_ada.place(), blocked.place()), (newest, newest));
}

#[tokio::test]
async fn place_of_a_follower_is_never_beyond_what_it_has_not_read() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(of_user("ada"), newest(&m).await);
    assert!(unread(&mut follower).await.is_empty());
    m.sign_in("bob").await;
    assert_eq!(follower.place(), 1);
    m.sign_in("ada").await;
    m.sign_in("bob").await;
    assert_eq!(follower.place(), 1, "ada's is unread");
    assert_eq!(unread(&mut follower).await, [2]);
    assert_eq!(follower.place(), 3);
    let mut next = feed(&m).follow(of_user("ada"), follower.place());
    m.sign_in("ada").await;
    assert_eq!(unread(&mut next).await, [4]);
}

#[tokio::test]
async fn cancelled_waiting_loses_nothing() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(EventFilter::ALL, 0);
    let manager = Arc::clone(&m.manager);
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            let sign_in = SignIn {
                user_id: Some(user(&format!("u{number}"))),
                ..SignIn::default()
            };
            manager.create(&app(), sign_in).await.expect("created");
        }
    });
    let mut numbers: Vec<u64> = Vec::new();
    let mut cancelled = 0;
    let all = async {
        while numbers.len() < 200 {
            // From no time at all to long enough.
            let patience = (cancelled % 20_u32).pow(3);
            tokio::select! {
                biased;
                events = follower.next() => {
                    let events = events.expect("it goes on");
                    numbers.extend(events.iter().map(|recorded| recorded.number));
                }
                () = yields(patience) => cancelled += 1,
            }
        }
    };
    soon("all of them", all).await;
    writing.await.expect("it runs");
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    assert!(cancelled > 0, "it was cancelled at all");
}

/// Lets others go first so many times.
async fn yields(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn page_that_was_read_for_nobody_is_read_again() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(EventFilter::ALL, 0);
    m.sign_in("ada").await;
    let mut held = m.probe.after_list.hold_next();
    tokio::select! {
        events = follower.next() => panic!("it is held: {events:?}"),
        () = held.arrived() => {} // and goes away with the page in its hand
    }
    held.let_go();
    assert_eq!(unread(&mut follower).await, [1]);
}

#[tokio::test]
async fn follower_of_a_failing_store_is_told_so_and_gets_the_same_events_later() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(EventFilter::ALL, 0);
    m.sign_in("ada").await;
    m.probe.fails_events.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let failure = soon("an answer", follower.next()).await;
        assert!(
            matches!(failure, Err(FollowError::Store(Error::Store(_)))),
            "{failure:?}"
        );
    }
    m.probe.fails_events.store(false, Ordering::SeqCst);
    assert_eq!(unread(&mut follower).await, [1]);
}

#[tokio::test]
async fn observer_of_a_failing_store_is_told_everything_once_it_can_be_read() {
    let m = Managed::start().await;
    let mut ear = Ear::open(&m, EventFilter::ALL).await;
    m.sign_in("ada").await;
    ear.hears(["session.created ada"]).await;
    m.probe.fails_events.store(true, Ordering::SeqCst);
    let pages = m.probe.event_pages.load(Ordering::SeqCst);
    m.sign_in("bob").await;
    eventually("it has tried", async || {
        m.probe.event_pages.load(Ordering::SeqCst) > pages
    })
    .await;
    m.sign_in("cyd").await;
    m.probe.fails_events.store(false, Ordering::SeqCst);
    ear.hears(["session.created bob", "session.created cyd"]).await;
}

// What is no longer kept.

#[tokio::test]
async fn follower_is_told_once_that_it_missed_events_and_goes_on() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(EventFilter::ALL, newest(&m).await);
    assert!(unread(&mut follower).await.is_empty());
    m.sign_in("ada").await;
    purge_all(&m).await;
    m.sign_in("bob").await;
    let missed = soon("an answer", follower.next()).await;
    assert!(matches!(missed, Err(FollowError::Gone)), "{missed:?}");
    assert_eq!(unread(&mut follower).await, [2]);
}

#[tokio::test]
async fn follower_that_missed_events_is_not_ahead_of_those_to_come() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(EventFilter::ALL, 0);
    m.sign_in("ada").await;
    purge_all(&m).await;
    let missed = soon("an answer", follower.pending()).await;
    assert!(matches!(missed, Err(FollowError::Gone)), "{missed:?}");
    assert!(unread(&mut follower).await.is_empty());
    assert_eq!(follower.place(), 1);
    m.sign_in("bob").await;
    assert_eq!(unread(&mut follower).await, [2]);
}

#[tokio::test]
async fn observer_is_told_once_that_it_missed_events_and_goes_on() {
    let m = Managed::start().await;
    for _ in 0..3 {
        m.sign_in("ada").await;
    }
    purge_all(&m).await;
    m.sign_in("bob").await;
    let mut ear = Ear::open_after(&m, EventFilter::ALL, 1);
    m.sign_in("cyd").await;
    ear.hears(["missed", "session.created bob", "session.created cyd"])
        .await;
}

#[tokio::test]
async fn follower_misses_nothing_by_a_purge_of_what_was_not_for_it() {
    let filters = [
        of_user("ada"),
        only(EventKind::SessionCreated),
        EventFilter {
            kinds: vec![EventKind::SessionCreated],
            ..of_user("bob")
        },
        EventFilter {
            app: Some(app_named("shop")),
            ..EventFilter::ALL
        },
    ];
    for filter in filters {
        let m = Managed::start().await;
        let mut follower = feed(&m).follow(filter.clone(), newest(&m).await);
        assert!(unread(&mut follower).await.is_empty());
        note(&m, "bob", EventKind::UserBlocked).await;
        purge_all(&m).await;
        note(&m, "bob", EventKind::UserBlocked).await;
        for _ in 0..2 {
            let events = soon("a page", follower.pending()).await;
            assert!(
                matches!(&events, Ok(events) if events.is_empty()),
                "{filter:?}: {events:?}"
            );
            note(&m, "bob", EventKind::UserBlocked).await;
        }
    }
}

#[tokio::test]
async fn follower_misses_nothing_that_it_read_before_it_was_rung() {
    let m = Managed::start().await;
    let mut follower = feed(&m).follow(EventFilter::ALL, newest(&m).await);
    let mut held = m.probe.before_announce.hold_next();
    let signing_in = m.sqlite.record(Event::about_user(
        &app(),
        &user("ada"),
        EventKind::UserBlocked,
        at(0),
    ));
    held.arrived().await;
    assert_eq!(unread(&mut follower).await, [1], "it is committed");
    held.let_go();
    soon("the change", signing_in).await.expect("recorded");
    purge_all(&m).await;
    assert!(unread(&mut follower).await.is_empty(), "nothing was missed");
    m.sign_in("bob").await;
    assert_eq!(unread(&mut follower).await, [2]);
}

#[tokio::test]
async fn place_that_was_given_before_the_first_event_is_good_while_that_is_kept() {
    let m = Managed::start().await;
    let before = feed(&m).epoch().id(newest(&m).await);
    m.sign_in("ada").await;
    assert_eq!(feed(&m).place(Some(before)).await.expect("known"), 0);
    m.sign_in("bob").await;
    assert_eq!(feed(&m).place(Some(before)).await.expect("known"), 0);
    purge_all(&m).await;
    let gone = feed(&m).place(Some(before)).await;
    assert!(matches!(gone, Err(Error::CursorGone)), "{gone:?}");
}

#[tokio::test]
async fn place_is_known_only_while_its_event_is_kept_and_in_its_own_history() {
    let m = Managed::start().await;
    for name in ["ada", "bob", "cyd"] {
        m.sign_in(name).await;
        m.advance(10);
    }
    m.sqlite.purge(at(5), 10, at(30)).await.expect("purged");
    let epoch = feed(&m).epoch();
    let place = async |id| match feed(&m).place(Some(id)).await {
        Ok(number) => Some(number),
        Err(Error::CursorGone) => None,
        Err(error) => panic!("{error:?}"),
    };
    let cases = [
        (epoch.id(0), None, "before the first, which is gone"),
        (epoch.id(1), None, "purged"),
        (epoch.id(2), Some(2), "the oldest that is kept"),
        (epoch.id(3), Some(3), "the newest"),
        (epoch.id(4), None, "yet to come"),
        (epoch.id(u64::MAX), None, "far ahead"),
        (Epoch::random().id(3), None, "of another history"),
    ];
    for (id, expected, what) in cases {
        assert_eq!(place(id).await, expected, "{what}");
    }
    purge_all(&m).await;
    assert_eq!(place(epoch.id(3)).await, Some(3), "nothing after it was missed");
    assert_eq!(place(epoch.id(2)).await, None, "of which one is gone");
    assert_eq!(newest(&m).await, 3);
    let mut follower = feed(&m).follow(EventFilter::ALL, 3);
    m.sign_in("dan").await;
    assert_eq!(unread(&mut follower).await, [4]);
}

// The end.

#[tokio::test]
async fn closed_feed_ends_every_follower_and_observer() {
    let m = Managed::start().await;
    let mut ear = Ear::open(&m, EventFilter::ALL).await;
    let mut waiting = feed(&m).follow(of_user("ada"), newest(&m).await);
    let mut behind = feed(&m).follow(EventFilter::ALL, 0);
    m.sign_in("bob").await;
    ear.hears(["session.created bob"]).await;
    let mut next: Pin<Box<dyn Future<Output = _>>> = Box::pin(waiting.next());
    assert!(is_pending(&mut next).await);
    feed(&m).close();
    let is_closed = |end: Result<Vec<RecordedEvent>, FollowError>| matches!(end, Err(FollowError::Closed));
    assert!(is_closed(soon("who waits", next).await));
    assert!(is_closed(soon("who is behind", behind.next()).await));
    let mut late = feed(&m).follow(EventFilter::ALL, 0);
    assert!(is_closed(soon("who comes late", late.next()).await));
    assert_eq!(ear.next().await, None);
}

#[tokio::test]
async fn observer_that_hears_of_an_ending_gets_that_session_accepted_no_more() {
    const SESSIONS: usize = 300;
    let m = Managed::start().await;
    let mut tokens = HashMap::new();
    for number in 0..SESSIONS {
        let signed_in = m.sign_in(&format!("u{number}")).await;
        m.look_at(&signed_in.token).await;
        tokens.insert(signed_in.session.id, signed_in.token);
    }
    let tokens = Arc::new(tokens);
    let (tell, mut told) = unbounded_channel();
    let observer = {
        let (manager, tokens) = (Arc::clone(&m.manager), Arc::clone(&tokens));
        let runtime = tokio::runtime::Handle::current();
        move |notice: Notice<'_>| {
            let Notice::Event(recorded) = notice else {
                return Ok(());
            };
            let id = recorded.event.session_id.ok_or("an ending is a session's")?;
            let found = runtime.block_on(check(&manager, &tokens[&id], Use::Touch(None)));
            tell.send((id, found)).map_err(|_| "the test waits".into())
        }
    };
    let kinds = [EventKind::SessionRevoked];
    let _subscription = feed(&m).subscribe(EventFilter::of_kinds(kinds), newest(&m).await, observer);
    // Readers keep the cache warm, as far as they may.
    let is_over = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for token in tokens.values().take(40).cloned().collect::<Vec<Token>>() {
        let (manager, is_over) = (Arc::clone(&m.manager), Arc::clone(&is_over));
        readers.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                check(&manager, &token, Use::Touch(None)).await;
                tokio::task::yield_now().await;
            }
        });
    }
    let mut endings = JoinSet::new();
    for id in tokens.keys().copied() {
        let manager = Arc::clone(&m.manager);
        endings.spawn(async move {
            let owner = sessiond::store::Owner::Anyone;
            manager.revoke(&app(), id, owner, logout()).await
        });
    }
    for _ in 0..SESSIONS {
        let (id, found) = soon("an ending is told", told.recv()).await.expect("it goes on");
        assert_eq!(found, ended("logout"), "{id}");
    }
    is_over.store(true, Ordering::Relaxed);
    readers.join_all().await;
    for ended in endings.join_all().await {
        ended.expect("ended");
    }
}

#[tokio::test]
async fn observer_that_keeps_its_place_loses_nothing_and_gets_nothing_twice_over_restarts() {
    let kept = Arc::new(Mutex::new((0_u64, Vec::<u64>::new())));
    let acknowledged = || kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut m = Managed::start().await;
    for round in 0..4_u64 {
        // It fails for good in the middle of what comes, as it does when its process is killed.
        let stops_at = (round + 1) * 10;
        let stopped = Arc::new(AtomicUsize::new(0));
        let observer = {
            let (kept, stopped) = (Arc::clone(&kept), Arc::clone(&stopped));
            move |notice: Notice<'_>| {
                let Notice::Event(recorded) = notice else {
                    return Err("nothing was deleted".into());
                };
                if recorded.number > stops_at {
                    stopped.fetch_add(1, Ordering::SeqCst);
                    return Err("its process was killed".into());
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.0 = recorded.number;
                kept.1.push(recorded.number);
                Ok(())
            }
        };
        let subscription = feed(&m).subscribe(EventFilter::ALL, acknowledged().0, observer);
        for number in 0..15 {
            m.sign_in(&format!("u{number}")).await;
        }
        eventually("it comes to its end", async || stopped.load(Ordering::SeqCst) > 0).await;
        subscription.unsubscribe();
        m = m.restart_without_flush().await;
    }
    assert_eq!(acknowledged().1, (1..=40).collect::<Vec<_>>());
    let mut ear = Ear::open_after(&m, EventFilter::ALL, acknowledged().0);
    for _ in 40..60 {
        assert!(ear.next().await.expect("the rest").starts_with("session.created"));
    }
    assert_eq!(newest(&m).await, 60);
}

#[tokio::test]
async fn id_of_an_event_is_good_after_a_restart() {
    let m = Managed::start().await;
    m.sign_in("ada").await;
    let id = feed(&m).epoch().id(1);
    let m = m.restart_without_flush().await;
    assert_eq!(feed(&m).place(Some(id)).await.expect("known"), 1);
}

#[test]
fn example_prints_what_happens_to_its_sessions() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = std::process::Command::new(example("observe"));
    command.current_dir(dir.path()).env_clear();
    let printed = Process::spawn(command).finish().exited(0);
    let words: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(_, words)| words)
        .collect();
    assert_eq!(
        words,
        [
            "session.created  ada",
            "session.created  ada",
            "session.revoked  ada  logout"
        ]
    );
    assert!(names_in(dir.path()).is_empty(), "it leaves nothing");
}

// Watching one session.

/// Whether the session was changed since the last time.
async fn has_changed(watch: &SessionWatch) -> bool {
    let mut changed: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(watch.changed());
    !is_pending(&mut changed).await
}

#[tokio::test]
async fn watch_rings_for_changes_of_its_session_alone() {
    let m = Managed::start().await;
    let (ada, bob) = (m.sign_in("ada").await, m.sign_in("bob").await);
    let watch = feed(&m).watch(ada.session.id);
    assert!(!has_changed(&watch).await);
    m.use_token(&ada.token).await;
    m.manager.flush_touches().await.expect("written");
    assert!(!has_changed(&watch).await, "a use is no change");
    m.revoke(bob.session.id).await;
    assert!(!has_changed(&watch).await, "of another session");
    let renewed = m
        .manager
        .renew(&app(), &ada.token, None)
        .await
        .expect("an answer");
    assert!(has_changed(&watch).await, "renewed");
    let sessiond::manager::RenewAnswer::Renewed { token, .. } = renewed else {
        panic!("{renewed:?}");
    };
    m.look_at(&token).await;
    soon("the successor was seen", watch.changed()).await;
    m.revoke(ada.session.id).await;
    assert!(has_changed(&watch).await, "revoked");
    assert!(!has_changed(&watch).await, "and nothing since");
}

#[tokio::test]
async fn all_who_watch_a_session_are_rung_for() {
    let m = Managed::start().await;
    let id: SessionId = m.sign_in("ada").await.session.id;
    let watches = [feed(&m).watch(id), feed(&m).watch(id)];
    m.revoke(id).await;
    for watch in watches {
        assert!(has_changed(&watch).await);
    }
}
