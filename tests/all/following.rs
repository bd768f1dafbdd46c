//! Whatever happens, and however a follower is interrupted: it is told exactly what a list of everything has for it.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sessiond::event::{Event, EventId, EventKind, RecordedEvent};
use sessiond::manager::SignIn;
use sessiond::observer::{EventFilter, FollowError, Follower};
use sessiond::session::{AppName, SessionId};
use sessiond::store::{About, Owner, SessionStore};
use tokio::task::JoinSet;

use crate::stores::{Managed, app, app_named, logout, soon, user};
use crate::support::add_app;

/// Sequences that are tried.
const CASES: u32 = 64;
const NAMES: [&str; 3] = ["ada", "bob", "cyd"];
const KINDS: [EventKind; 4] = [
    EventKind::SessionCreated,
    EventKind::SessionRevoked,
    EventKind::UserBlocked,
    EventKind::DeviceNew,
];

/// What happens, or is done to the follower.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody signs in, or comes as a visitor.
    Start { name: Option<usize>, is_in_shop: bool },
    /// One of the sessions so far ends.
    End(prop::sample::Index),
    /// Many things happen at once.
    Burst { kind: usize, name: usize, count: usize },
    /// The follower reads a page.
    Read,
    /// It waits, and is interrupted after a while.
    Wait(u32),
    /// It reads a page, deals with some of it, and is started again after that.
    Break(usize),
    /// Another one goes on at its place.
    HandOver,
    /// The server is started again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let start = || {
        let name = prop::option::weighted(0.8, 0..NAMES.len());
        (name, any::<bool>()).prop_map(|(name, is_in_shop)| Step::Start { name, is_in_shop })
    };
    let burst = (0..KINDS.len(), 0..NAMES.len(), 1..160_usize);
    prop_oneof![
        6 => start(),
        4 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => burst.prop_map(|(kind, name, count)| Step::Burst { kind, name, count }),
        4 => Just(Step::Read),
        4 => (0..300_u32).prop_map(Step::Wait),
        2 => (0..120_usize).prop_map(Step::Break),
        2 => Just(Step::HandOver),
        1 => Just(Step::Restart),
    ]
}

/// Whose events are asked for.
#[derive(Debug, Clone)]
enum Whose {
    Anyones,
    OfApp,
    OfUser(usize),
    /// Of the session that a visitor has at the beginning.
    OfVisitor,
}

#[derive(Debug, Clone)]
struct Asked {
    whose: Whose,
    kinds: Vec<EventKind>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let whose = prop_oneof![
        Just(Whose::Anyones),
        Just(Whose::OfApp),
        (0..NAMES.len()).prop_map(Whose::OfUser),
        Just(Whose::OfVisitor),
    ];
    let kinds = prop::sample::subsequence(KINDS.to_vec(), 0..KINDS.len());
    (whose, kinds).prop_map(|(whose, kinds)| Asked { whose, kinds })
}

impl Asked {
    fn filter(&self, visitor: SessionId) -> EventFilter {
        let (app_name, about) = match self.whose {
            Whose::Anyones => (None, About::Anyone),
            Whose::OfApp => (Some(app()), About::Anyone),
            Whose::OfUser(index) => (Some(app()), About::User(user(NAMES[index]))),
            Whose::OfVisitor => (Some(app()), About::AnonymousSession(visitor)),
        };
        EventFilter {
            app: app_name,
            about,
            kinds: self.kinds.clone(),
        }
    }
}

/// A follower, and what it was told.
struct Reader {
    filter: EventFilter,
    follower: Follower,
    told: Vec<u64>,
    /// The place that is kept over an interruption.
    place: u64,
}

impl Reader {
    fn take(&mut self, events: &[RecordedEvent]) {
        self.told.extend(numbers(events));
        self.place = self.told.last().copied().unwrap_or_default().max(self.place);
    }

    async fn page(&mut self) -> Result<Vec<RecordedEvent>, FollowError> {
        soon("a page", self.follower.pending()).await
    }

    fn start_again(&mut self, m: &Managed) {
        self.follower = m.manager.feed().follow(self.filter.clone(), self.place);
    }
}

async fn start(m: &Managed, app: &AppName, name: Option<usize>) -> SessionId {
    let sign_in = SignIn {
        user_id: name.map(|index| user(NAMES[index])),
        ..SignIn::default()
    };
    let started = m.manager.create(app, sign_in).await;
    started.expect("a session").session.id
}

async fn burst(m: &Managed, kind: usize, name: usize, count: usize) {
    let mut writes = JoinSet::new();
    for _ in 0..count {
        let event = Event::about_user(&app(), &user(NAMES[name]), KINDS[kind], m.clock.now());
        writes.spawn(m.sqlite.record(event));
    }
    for written in writes.join_all().await {
        written.expect("recorded");
    }
}

/// Gives way so many times.
async fn yields(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Everything that is asked for, by pages of this length in this direction; oldest first.
async fn listed(m: &Managed, filter: &EventFilter, newest_first: bool, limit: usize) -> Vec<RecordedEvent> {
    let feed = m.manager.feed();
    let (mut events, mut after): (Vec<RecordedEvent>, Option<EventId>) = (Vec::new(), None);
    loop {
        let page = feed
            .page(filter.clone(), after, newest_first, limit)
            .await
            .expect("a page");
        events.extend(page.events);
        if !page.more {
            break;
        }
        after = Some(feed.epoch().id(page.looked_to));
    }
    if newest_first {
        events.reverse();
    }
    events
}

fn numbers(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|recorded| recorded.number).collect()
}

async fn follow(asked: Asked, steps: Vec<Step>, limit: usize) -> Result<(), TestCaseError> {
    let mut m = Managed::start_with(|config| add_app(config, "shop")).await;
    let visitor = start(&m, &app(), None).await;
    let mut sessions = vec![(app(), visitor)];
    let filter = asked.filter(visitor);
    let follower = m.manager.feed().follow(filter.clone(), 0);
    let (told, place) = (Vec::new(), 0);
    let mut reader = Reader {
        filter: filter.clone(),
        follower,
        told,
        place,
    };
    for step in steps {
        match step {
            Step::Start { name, is_in_shop } => {
                let app = if is_in_shop { app_named("shop") } else { app() };
                let id = start(&m, &app, name).await;
                sessions.push((app, id));
            }
            Step::End(index) => {
                let (app, id) = index.get(&sessions);
                let ended = m.manager.revoke(app, *id, Owner::Anyone, logout()).await;
                ended.expect("it ends, or has ended");
            }
            Step::Burst { kind, name, count } => burst(&m, kind, name, count).await,
            Step::Read => {
                let page = reader.page().await.expect("it goes on");
                reader.take(&page);
            }
            Step::Wait(patience) => {
                let page = tokio::select! {
                    biased;
                    page = reader.follower.next() => page.expect("it goes on"),
                    () = yields(patience) => Vec::new(),
                };
                reader.take(&page);
            }
            Step::Break(kept) => {
                let page = reader.page().await.expect("it goes on");
                reader.take(&page[..kept.min(page.len())]);
                reader.start_again(&m);
            }
            Step::HandOver => {
                let place = reader.follower.place();
                prop_assert!(place >= reader.place, "{place} is before what was told");
                reader.place = place;
                reader.start_again(&m);
            }
            Step::Restart => {
                drop(std::mem::replace(
                    &mut reader.follower,
                    m.manager.feed().follow(filter.clone(), 0),
                ));
                m = m.restart_without_flush().await;
                reader.start_again(&m);
            }
        }
    }
    loop {
        let page = reader.page().await.expect("it goes on");
        if page.is_empty() {
            break;
        }
        reader.take(&page);
    }
    let mut everything = listed(&m, &EventFilter::ALL, false, 200).await;
    prop_assert_eq!(
        numbers(&everything),
        (1..=everything.len() as u64).collect::<Vec<_>>()
    );
    everything.retain(|recorded| filter.matches(&recorded.event));
    let expected = numbers(&everything);
    prop_assert_eq!(&reader.told, &expected, "what a follower is told");
    for newest_first in [false, true] {
        let listed = numbers(&listed(&m, &filter, newest_first, limit).await);
        prop_assert_eq!(
            &listed,
            &expected,
            "by pages of {}, newest first: {}",
            limit,
            newest_first
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follower_is_told_exactly_what_a_list_of_everything_has(
        asked in asked(),
        steps in prop::collection::vec(step(), 1..60),
        limit in 1..200_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(follow(asked, steps, limit))?;
    }
}
