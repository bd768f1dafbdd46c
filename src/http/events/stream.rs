//! Live streams: server-sent events (WHATWG HTML §9.2).
//!
//! A stream is read from the database when its reader takes more: nothing is buffered for one that is slow, and a
//! connection whose other side stops reading is dropped by the system (see `server`). A person's stream looks again whether
//! its token is good whenever its session changes and whenever that token's time may be over.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::{ConnectionType, Version};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use futures_util::stream;
use tokio::time::Instant;

use crate::error::Error;
use crate::event::{EventId, RecordedEvent};
use crate::http::auth::{self, StateData};
use crate::http::problem::Problem;
use crate::http::{RequestId, State};
use crate::manager::{Refusal, Standing};
use crate::observer::{EventFilter, FollowError, Follower, SessionWatch};
use crate::session::{ApiKey, AppName, SecretHash, SessionId};
use crate::user::UserId;

/// How often a stream without news says that it is there: proxies take connections for dead after a minute or less.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a reader whose connection was lost tries again, in milliseconds.
const RETRY_MILLIS: u32 = 3_000;
/// Streams of all people together: what is left of the connections is for everything else.
const STREAMS_MAX: usize = 6_000;
/// Of visitors, who come unasked, no more than half of them.
const STREAMS_OF_VISITORS_MAX: usize = STREAMS_MAX / 2;
/// Passed deadlines that are written down for the one of a stream's own session.
const OVERDUE_PER_END: usize = 100;
/// How long a stream waits that could not be read, or not be judged, before it tries again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How soon a credential is looked at again at the earliest.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where a stream begins.
pub(super) enum StreamStart {
    Now,
    After(EventId),
    /// After something that is no id of ours.
    Unknown,
}

pub(super) fn answer(request: &HttpRequest, mut stream: LiveStream) -> HttpResponse {
    if let Some(id) = request.extensions().get::<RequestId>() {
        id.as_str().clone_into(&mut stream.request_id);
    }
    let frames = stream::unfold(stream, |mut stream| async move {
        let frame = stream.next_frame().await?;
        Some((Ok::<_, Infallible>(web::Bytes::from(frame)), stream))
    });
    let mut response = HttpResponse::Ok()
        .content_type("text/event-stream")
        // Some proxies collect what they pass on unless they are told not to.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(Box::pin(frames));
    if request.version() < Version::HTTP_11 {
        // Without chunks, which came with 1.1: the end of the connection is the end of the stream.
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

const RESET: &str = "event: reset\ndata: {\"code\":\"cursor_gone\",\"detail\":\"The events after that one are not all \
                     kept. The stream goes on with what happens from now on.\"}\n";

/// Who reads a stream.
pub(super) enum Viewer {
    /// A backend with this key; the command line has none.
    Backend(Option<ApiKey>),
    /// The holder of a session's token.
    Person {
        app: AppName,
        id: SessionId,
        presented: SecretHash,
        watch: SessionWatch,
    },
}

/// Whether a stream may go on.
enum Verdict {
    /// It may; to be looked at again then at the latest.
    GoOn(Instant),
    /// It may not, and this is why.
    Over(Problem),
}

impl Viewer {
    /// Waits until the viewer's credential may have changed.
    async fn changed(&self) {
        match self {
            Self::Backend(_) => std::future::pending().await,
            Self::Person { watch, .. } => watch.changed().await,
        }
    }

    async fn judge(&self, state: &State) -> Result<Verdict, Problem> {
        let next_look = Instant::now() + HEARTBEAT;
        match self {
            Self::Backend(None) => Ok(Verdict::GoOn(next_look)),
            Self::Backend(Some(key)) => Ok(match state.manager.app_of_key(key).await? {
                Some(_) => Verdict::GoOn(next_look),
                None => Verdict::Over(auth::unknown_api_key()),
            }),
            Self::Person {
                app, id, presented, ..
            } => Ok(match state.manager.standing(app, *id, *presented).await? {
                Standing::Good { until } => {
                    let left = until.millis_since(state.manager.clock().now());
                    let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
                    Verdict::GoOn(next_look.min(Instant::now() + left.max(LOOK_AGAIN)))
                }
                Standing::Refused(refusal) => Verdict::Over(refusal_problem(refusal, state, app)),
            }),
        }
    }
}

fn refusal_problem(refusal: Refusal, state: &State, app: &AppName) -> Problem {
    Problem::from(refusal).with_sign_in_url(state.sign_in_url(app))
}

/// A stream under way.
pub(super) struct LiveStream {
    state: StateData,
    follower: Follower,
    viewer: Viewer,
    begin: Option<String>,
    /// The place that the reader was told last.
    told_place: u64,
    heartbeat_at: Instant,
    /// When the viewer's credential is looked at again.
    look_at: Instant,
    /// What was read and is told once it is known that it may be.
    unjudged: Vec<RecordedEvent>,
    stage: Stage,
    /// Of the request that it answers.
    request_id: String,
    _slot: Slot,
}

/// How far a stream has come.
enum Stage {
    Live,
    /// The viewer's session has ended. Its own ending is the last thing that its holder is told, however much comes before.
    Ending {
        problem: Problem,
        /// The newest event then: without an ending among them there is no more to wait for.
        newest: u64,
    },
    /// Only the reason is left to be told.
    Last(Problem),
    Done,
}

impl LiveStream {
    pub(super) async fn begin(
        state: StateData,
        filter: EventFilter,
        start: StreamStart,
        viewer: Viewer,
        slot: Slot,
    ) -> Result<Self, Problem> {
        let feed = Arc::clone(state.manager.feed());
        let known = match start {
            StreamStart::Now => Ok(feed.place(None).await?),
            StreamStart::Unknown => Err(feed.place(None).await?),
            StreamStart::After(id) => match feed.place(Some(id)).await {
                Ok(place) => Ok(place),
                Err(Error::CursorGone) => Err(feed.place(None).await?),
                Err(error) => return Err(error.into()),
            },
        };
        let (Ok(place) | Err(place)) = known;
        let mut begin = format!("retry: {RETRY_MILLIS}\n");
        if known.is_err() {
            begin.push_str(RESET);
        }
        // Without news too, so that a reader that is cut off goes on from here.
        begin.push_str(&format!("id: {}\n\n", feed.epoch().id(place)));
        Ok(Self {
            follower: feed.follow(filter, place),
            state,
            viewer,
            begin: Some(begin),
            told_place: place,
            heartbeat_at: Instant::now() + HEARTBEAT,
            look_at: Instant::now(),
            unjudged: Vec::new(),
            stage: Stage::Live,
            request_id: String::new(),
            _slot: slot,
        })
    }

    /// What is sent next; `None` at the end.
    async fn next_frame(&mut self) -> Option<String> {
        if let Some(begin) = self.begin.take() {
            return Some(begin);
        }
        loop {
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Live => {
                    self.stage = Stage::Live;
                    match self.read().await {
                        Ok(()) => {}
                        Err(FollowError::Gone) => return self.reset().await,
                        // The reader comes back by itself.
                        Err(FollowError::Closed) => return None,
                        Err(FollowError::Store(error)) => {
                            self.wait_for_store(&error.to_string()).await;
                            continue;
                        }
                    }
                    // After the news were read: an ending among them is seen here too.
                    match self.viewer.judge(&self.state).await {
                        Ok(Verdict::GoOn(look_at)) => self.look_at = look_at,
                        Ok(Verdict::Over(problem)) => {
                            self.stage = self.farewell(problem).await;
                            let news = std::mem::take(&mut self.unjudged);
                            if let Some(frame) = self.told_before_the_end(news) {
                                return Some(frame);
                            }
                            continue;
                        }
                        Err(problem) => {
                            self.wait_for_store(&problem.to_string()).await;
                            continue;
                        }
                    }
                    if !self.unjudged.is_empty() {
                        let news = std::mem::take(&mut self.unjudged);
                        return Some(self.frame_of(&news));
                    }
                    if Instant::now() >= self.heartbeat_at {
                        return Some(self.heartbeat());
                    }
                }
                Stage::Ending { problem, newest } => {
                    let news = match self.follower.pending().await {
                        Err(FollowError::Gone) => self.follower.pending().await,
                        news => news,
                    };
                    let news = news.unwrap_or_default();
                    self.stage = if news.is_empty() {
                        Stage::Last(problem)
                    } else {
                        Stage::Ending { problem, newest }
                    };
                    if let Some(frame) = self.told_before_the_end(news) {
                        return Some(frame);
                    }
                }
                Stage::Last(problem) => {
                    return Some(format!(
                        "event: end\ndata: {}\n\n",
                        problem.to_json(&self.request_id)
                    ));
                }
                Stage::Done => return None,
            }
        }
    }

    /// Reads the next events, once there are any; none when something else is to be done. What is read is never given up
    /// for that: only waiting is.
    async fn read(&mut self) -> Result<(), FollowError> {
        if !self.unjudged.is_empty() {
            return Ok(());
        }
        let wake = self.heartbeat_at.min(self.look_at);
        if wake > Instant::now() {
            tokio::select! {
                () = self.viewer.changed() => {}
                () = self.follower.rung() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.unjudged = self.follower.pending().await?;
        Ok(())
    }

    /// Keeps the stream, without telling anything, until the store can be read again.
    async fn wait_for_store(&self, error: &str) {
        log::debug!("a live stream waits for the store: {error}");
        self.state.manager.metrics().event_stream_waits.inc();
        tokio::time::sleep(STORE_RETRY).await;
    }

    /// Passes over what came until now, of which some is gone, and says so.
    async fn reset(&mut self) -> Option<String> {
        self.follower.skip().await.ok()?;
        self.told_place = self.follower.place();
        let id = self.state.manager.feed().epoch().id(self.told_place);
        Some(format!("{RESET}id: {id}\n\n"))
    }

    fn frame_of(&mut self, news: &[RecordedEvent]) -> String {
        let epoch = self.state.manager.feed().epoch();
        let mut frame = String::new();
        for recorded in news {
            let id = epoch.id(recorded.number);
            let kind = recorded.event.kind.as_str();
            let data = serde_json::to_string(&recorded.body(epoch)).unwrap_or_default();
            frame.push_str(&format!("id: {id}\nevent: {kind}\ndata: {data}\n\n"));
            self.told_place = recorded.number;
        }
        self.heartbeat_at = Instant::now() + HEARTBEAT;
        frame
    }

    /// A comment; and where the reader is, if it has come further without news.
    fn heartbeat(&mut self) -> String {
        self.heartbeat_at = Instant::now() + HEARTBEAT;
        let place = self.follower.place();
        if place == self.told_place {
            return ":\n\n".to_owned();
        }
        self.told_place = place;
        format!(":\nid: {}\n\n", self.state.manager.feed().epoch().id(place))
    }

    /// What is left to be told when it may not go on: up to the ending of the viewer's session if it has ended; to who has a
    /// token that is not good any more, nothing.
    async fn farewell(&mut self, problem: Problem) -> Stage {
        if !matches!(self.viewer, Viewer::Person { .. }) || !problem.is_of_ended_session() {
            return Stage::Last(problem);
        }
        // The sweeper may not have come by yet. If nothing can be written, or read, the reason must do.
        let manager = &self.state.manager;
        let written = manager.expire_overdue(OVERDUE_PER_END).await;
        match written.and(manager.feed().place(None).await) {
            Ok(newest) => {
                self.follower.look_again();
                Stage::Ending { problem, newest }
            }
            Err(_) => Stage::Last(problem),
        }
    }

    /// Of these events those that are told before the end, if it is to come: none after the viewer's own ending.
    fn told_before_the_end(&mut self, mut news: Vec<RecordedEvent>) -> Option<String> {
        let (Stage::Ending { newest, .. }, Viewer::Person { id, .. }) = (&self.stage, &self.viewer) else {
            return None;
        };
        let is_last = |recorded: &RecordedEvent| {
            recorded.number >= *newest
                || (recorded.event.session_id == Some(*id) && recorded.event.kind.is_ending())
        };
        if let Some(at) = news.iter().position(is_last) {
            news.truncate(at + 1);
            if let Stage::Ending { problem, .. } = std::mem::replace(&mut self.stage, Stage::Done) {
                self.stage = Stage::Last(problem);
            }
        }
        (!news.is_empty()).then(|| self.frame_of(&news))
    }
}

/// Who shares a number of streams.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Share {
    App(AppName),
    /// The command line, in every app.
    Operator,
    User(AppName, UserId),
    Session(SessionId),
}

impl Share {
    fn is_visitors(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    fn is_persons(&self) -> bool {
        !matches!(self, Self::App(_) | Self::Operator)
    }
}

/// How many streams there are.
#[derive(Default)]
pub struct Streams(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    of_people: usize,
    of_visitors: usize,
    of: HashMap<Share, usize>,
}

/// One stream's place among them.
pub(super) struct Slot {
    state: StateData,
    share: Share,
}

impl Slot {
    pub(super) fn take(state: &StateData, share: Share, max: usize) -> Result<Self, Problem> {
        let mut counts = state.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_persons, is_visitors) = (share.is_persons(), share.is_visitors());
        if is_persons && counts.of_people >= STREAMS_MAX
            || is_visitors && counts.of_visitors >= STREAMS_OF_VISITORS_MAX
        {
            return Err(Problem::no_more_streams());
        }
        let count = counts.of.entry(share.clone()).or_default();
        if *count >= max {
            return Err(Problem::too_many_streams(max));
        }
        *count += 1;
        counts.of_people += usize::from(is_persons);
        counts.of_visitors += usize::from(is_visitors);
        drop(counts);
        state.manager.metrics().event_streams.inc();
        Ok(Self {
            state: state.clone(),
            share,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self
            .state
            .streams
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.of_people -= usize::from(self.share.is_persons());
        counts.of_visitors -= usize::from(self.share.is_visitors());
        if let Entry::Occupied(mut count) = counts.of.entry(self.share.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        drop(counts);
        self.state.manager.metrics().event_streams.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::super::STREAMS_OF_APP_MAX;
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::config::{Config, Flags};
    use crate::event::EventKind;
    use crate::http::auth::Plane;
    use crate::manager::{SessionManager, SignIn, SignedIn};
    use crate::metrics::Metrics;
    use crate::observer::webhook::{Parts, Webhooks};
    use crate::session::ServerKey;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};
    use crate::store::{About, SessionStore};
    use crate::webhook::Sealer;
    use tempfile::TempDir;

    const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    /// The state of a listener over a database in this folder.
    async fn state(dir: &TempDir) -> StateData {
        let config =
            Config::load(None, std::iter::empty(), Flags::default()).expect("the defaults are valid");
        let options = SqliteOptions {
            path: dir.path().join("s.db"),
            read_pool: 2,
            queue_len_max: 100,
        };
        let sqlite = Arc::new(SqliteStore::open(&options).expect("the database opens"));
        let store = Arc::clone(&sqlite) as Arc<dyn SessionStore>;
        let (clock, metrics) = (Arc::new(Clock::manual(START)), Arc::new(Metrics::new()));
        let key = ServerKey::from_bytes([7; 32]);
        let sealer = Sealer::new(&key);
        let manager = SessionManager::new(
            Arc::clone(&store),
            &config,
            Arc::clone(&clock),
            key,
            None,
            Arc::clone(&metrics),
        );
        let manager = Arc::new(manager.await.expect("a manager"));
        let webhooks = Webhooks::new(Parts {
            store: sqlite,
            events: store,
            feed: Arc::clone(manager.feed()),
            clock,
            metrics,
            sealer,
            reach: config.webhooks.reach(),
        });
        web::Data::new(State::new(manager, webhooks, &config, Plane::Public, false))
    }

    async fn sign_in(state: &StateData, name: &str) -> SignedIn {
        let sign_in = SignIn {
            user_id: UserId::parse(name),
            idle_timeout_secs: Some(600),
            ..SignIn::default()
        };
        let signed_in = state.manager.create(&AppName::default_app(), sign_in).await;
        signed_in.expect("the user may sign in")
    }

    fn id(state: &StateData, number: u64) -> String {
        state.manager.feed().epoch().id(number).to_string()
    }

    /// A backend's stream that has told its beginning.
    async fn stream(state: &StateData, filter: EventFilter, viewer: Viewer) -> LiveStream {
        let share = Share::App(AppName::default_app());
        let slot = Slot::take(state, share, STREAMS_OF_APP_MAX).expect("there is room");
        let begun = LiveStream::begin(state.clone(), filter, StreamStart::Now, viewer, slot).await;
        let mut stream = begun.expect("it begins");
        stream.next_frame().await.expect("a beginning");
        stream
    }

    async fn next_after_a_pause(stream: &mut LiveStream) -> String {
        stream.heartbeat_at = Instant::now();
        stream.next_frame().await.expect("it goes on")
    }

    #[tokio::test]
    async fn stream_without_news_says_that_it_lives_and_where_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let blocked = EventFilter::of_kinds([EventKind::UserBlocked]);
        let mut stream = stream(&state, blocked, Viewer::Backend(None)).await;
        assert_eq!(next_after_a_pause(&mut stream).await, ":\n\n");
        assert!(
            stream.heartbeat_at > Instant::now() + HEARTBEAT / 2,
            "the next one is a while off"
        );
        sign_in(&state, "ada").await;
        let told = format!(":\nid: {}\n\n", id(&state, 1));
        assert_eq!(next_after_a_pause(&mut stream).await, told);
        assert_eq!(next_after_a_pause(&mut stream).await, ":\n\n");
    }

    #[tokio::test]
    async fn news_put_the_next_sign_of_life_off() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let mut stream = stream(&state, EventFilter::ALL, Viewer::Backend(None)).await;
        sign_in(&state, "ada").await;
        stream.heartbeat_at = Instant::now() + HEARTBEAT / 4;
        let frame = stream.next_frame().await.expect("news");
        assert!(frame.starts_with(&format!("id: {}\nevent: session.created\n", id(&state, 1))));
        assert!(stream.heartbeat_at > Instant::now() + HEARTBEAT / 2);
    }

    #[tokio::test]
    async fn reader_for_whom_events_are_no_longer_kept_is_told_so_and_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let mut stream = stream(&state, EventFilter::ALL, Viewer::Backend(None)).await;
        sign_in(&state, "ada").await;
        state
            .manager
            .clock()
            .advance(Duration::from_secs(31 * 24 * 60 * 60));
        sign_in(&state, "bob").await;
        state.manager.purge_old(10).await.expect("purged");
        let told = stream.next_frame().await.expect("it goes on");
        assert_eq!(told, format!("{RESET}id: {}\n\n", id(&state, 2)));
        sign_in(&state, "cyd").await;
        let told = stream.next_frame().await.expect("it goes on");
        assert!(told.starts_with(&format!("id: {}\n", id(&state, 3))), "{told}");
    }

    #[tokio::test]
    async fn key_is_looked_at_also_without_news() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let app = AppName::default_app();
        let (record, key) = state.manager.create_key(&app, "test").await.expect("a key");
        let mut stream = stream(&state, EventFilter::ALL, Viewer::Backend(Some(key))).await;
        assert_eq!(next_after_a_pause(&mut stream).await, ":\n\n");
        assert!(
            stream.look_at <= Instant::now() + HEARTBEAT,
            "at each sign of life, at the latest"
        );
        state.manager.revoke_key(record.id).await.expect("revoked");
        stream.look_at = Instant::now();
        let told = stream.next_frame().await.expect("why it ends");
        assert!(
            told.starts_with("event: end\ndata: {") && told.contains("invalid_api_key"),
            "{told}"
        );
        assert_eq!(stream.next_frame().await, None);
    }

    #[tokio::test]
    async fn session_is_looked_at_when_its_time_may_be_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let ada = sign_in(&state, "ada").await;
        let filter = EventFilter {
            app: Some(AppName::default_app()),
            about: About::User(UserId::parse("ada").expect("a user id")),
            kinds: Vec::new(),
        };
        let viewer = Viewer::Person {
            app: AppName::default_app(),
            id: ada.session.id,
            presented: ada.token.hash(),
            watch: state.manager.feed().watch(ada.session.id),
        };
        let mut stream = stream(&state, filter, viewer).await;
        state.manager.clock().advance(Duration::from_secs(598));
        stream.look_at = Instant::now();
        next_after_a_pause(&mut stream).await;
        assert!(
            stream.look_at <= Instant::now() + Duration::from_secs(2),
            "not only at the next sign of life"
        );
        state.manager.clock().advance(Duration::from_secs(2));
        stream.look_at = Instant::now();
        let told = stream.next_frame().await.expect("its own ending");
        assert!(told.contains("event: session.expired\n"), "{told}");
        let told = stream.next_frame().await.expect("why it ends");
        assert!(
            told.starts_with("event: end\n") && told.contains("idle_timeout"),
            "{told}"
        );
        assert_eq!(stream.next_frame().await, None);
    }

    #[tokio::test]
    async fn places_are_counted_and_given_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let share = Share::Session(SessionId::from_bytes([7; 16]));
        let take = || Slot::take(&state, share.clone(), 2);
        let (first, second) = (take().ok(), take().ok());
        assert!(first.is_some() && second.is_some());
        assert!(take().is_err(), "a third is one too many");
        drop(first);
        assert!(take().is_ok(), "one was given back");
        drop(second);
        let counts = state.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            (counts.of_people, counts.of_visitors, counts.of.len()),
            (0, 0, 0),
            "nothing is kept of who has gone"
        );
        assert_eq!(state.manager.metrics().event_streams.get(), 0);
    }

    #[tokio::test]
    async fn people_and_visitors_have_so_many_streams_in_all_and_backends_room_beside_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = state(&dir).await;
        let person = |number: usize| {
            let name = UserId::parse(&format!("u{number}")).expect("a user id");
            Share::User(AppName::default_app(), name)
        };
        let visitor = |number: usize| Share::Session(SessionId::from_bytes((number as u128).to_be_bytes()));
        let shares: [(usize, &dyn Fn(usize) -> Share); 2] =
            [(STREAMS_MAX, &person), (STREAMS_OF_VISITORS_MAX, &visitor)];
        for (max, share) in shares {
            let take = |number| Slot::take(&state, share(number), 1);
            let mut slots: Vec<Slot> = (0..max).map_while(|number| take(number).ok()).collect();
            assert_eq!(slots.len(), max);
            let Err(refused) = take(max) else {
                panic!("{max} are all");
            };
            assert_eq!(refused.code().status(), 503);
            let backend = Slot::take(&state, Share::App(AppName::default_app()), 1);
            assert!(backend.is_ok(), "whoever must know is not kept out");
            slots.pop();
            assert!(take(max).is_ok(), "one was given back");
        }
    }
}
