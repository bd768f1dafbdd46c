//! Events: in pages for who asks now and then and for histories, as a live stream for who asks for `text/event-stream`
//! (server-sent events, WHATWG HTML §9.2).
//!
//! Here are the calls and the pages; streams are in `stream`.

mod stream;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

pub use self::stream::Streams;
use self::stream::{LiveStream, Share, Slot, StreamStart, Viewer, answer};
use super::auth::{self, Backend, StateData};
use super::input::Query;
use super::me::person;
use super::problem::{Problem, ProblemBody};
use super::session::AppParams;
use super::{State, json};
use crate::event::{EventBody, EventId, EventKind};
use crate::observer::EventFilter;
use crate::store::{About, EventPage};
use crate::user::UserId;

/// Streams of one person, each an open page; and of one app's backends.
const STREAMS_OF_PERSON_MAX: usize = 16;
const STREAMS_OF_APP_MAX: usize = 64;
/// Streams of the command line, whatever the app: half of its connections, so that the other commands get through.
pub const STREAMS_OF_OPERATOR_MAX: usize = 64;
/// Streams of one visitor: sessions of nobody are had for nothing.
const STREAMS_OF_VISITOR_MAX: usize = 4;

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventPage)]
pub struct EventPageBody<'e> {
    events: Vec<EventBody<'e>>,
    /// `after` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// Which of them.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct EventParams {
    /// Go on after the event with this id; on a stream `Last-Event-ID` counts before it. Absent: a page begins with the
    /// oldest event that is kept (or the newest, see `order`), a stream with what happens from now on.
    after: Option<String>,
    /// Only these types, separated by commas.
    #[param(example = "session.created,session.revoked")]
    types: Option<String>,
    /// Pages only: which come first; by default the oldest.
    #[param(inline)]
    order: Option<EventOrder>,
    /// Pages only: 1 to 200, by default 50. A page can be shorter, or empty, and still have a `next_cursor`.
    limit: Option<usize>,
}

/// Which come first.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub enum EventOrder {
    /// From the oldest one that is kept on.
    Oldest,
    /// From the newest one back.
    Newest,
}

/// Where a stream was cut off.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
pub struct LastEventParams {
    /// Streams only: go on after the event with this id. Browsers send it by themselves.
    #[param(rename = "Last-Event-ID")]
    last_event_id: Option<String>,
}

/// Whose.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct EventUserParams {
    /// Only this user's.
    user_id: Option<String>,
}

/// Tells what happened in the app: a page, or with `Accept: text/event-stream` a live stream.
///
/// A stream's `id` is the event's, its `event` the type, its `data` the same object as on a page. A comment every 15
/// seconds shows that it lives. `reset` instead of a type says that the event to go on after is no longer kept, and that
/// the stream goes on with what happens from now on; a page answers 410 `cursor_gone`. A stream ends with `end` when the
/// API key is revoked.
#[utoipa::path(
    get, path = "/v1/events", tag = "service", security(("api_key" = [])),
    params(EventParams, EventUserParams, LastEventParams),
    responses(
        (status = 200, description = "A page, or a stream of them",
         content((EventPageBody<'static> = "application/json"), (String = "text/event-stream"))),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 410, description = "`cursor_gone`", body = ProblemBody<'static>),
        (status = 429, description = "`too_many_requests`: the app has 64 streams", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn list_events(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let Backend { app, key, .. } = auth::backend(&request, &state, &mut query).await?;
    let user_id = query.parsed("user_id", "is not a user id", UserId::parse);
    let asked = Asked::read(&request, query)?;
    let filter = EventFilter {
        app: Some(app.clone()),
        about: user_id.map_or(About::Anyone, About::User),
        kinds: asked.kinds.clone(),
    };
    let Some(stream) = asked.stream else {
        return page(&state, filter, &asked).await;
    };
    let slot = match &key {
        Some(_) => Slot::take(&state, Share::App(app), STREAMS_OF_APP_MAX)?,
        None => Slot::take(&state, Share::Operator, STREAMS_OF_OPERATOR_MAX)?,
    };
    let stream = LiveStream::begin(state, filter, stream, Viewer::Backend(key), slot).await?;
    Ok(answer(&request, stream))
}

/// Tells what happened to the person's own sessions: a page, or with `Accept: text/event-stream` a live stream.
///
/// As `/v1/events`. The stream ends with `end`, whose data is what a check would be refused with, as soon as the session
/// is over or its token is no longer good. No call here extends the session.
#[utoipa::path(
    get, path = "/v1/me/events", tag = "self", security(("session_token" = []), ("session_cookie" = [])),
    params(EventParams, AppParams, LastEventParams),
    responses(
        (status = 200, description = "A page, or a stream of them",
         content((EventPageBody<'static> = "application/json"), (String = "text/event-stream"))),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`cross_site`", body = ProblemBody<'static>),
        (status = 410, description = "`cursor_gone`", body = ProblemBody<'static>),
        (status = 429, description = "`too_many_requests`: the person has 16 streams, or the visitor 4", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn list_own_events(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let holder = person(&request, &state, &mut query).await?;
    let asked = Asked::read(&request, query)?;
    let id = holder.session().id;
    let about = match &holder.session().user_id {
        Some(user_id) => About::User(user_id.clone()),
        None => About::AnonymousSession(id),
    };
    let filter = EventFilter {
        app: Some(holder.app.clone()),
        about: about.clone(),
        kinds: asked.kinds.clone(),
    };
    let Some(stream) = asked.stream else {
        return page(&state, filter, &asked).await;
    };
    let slot = match about {
        About::User(user_id) => {
            let share = Share::User(holder.app.clone(), user_id);
            Slot::take(&state, share, STREAMS_OF_PERSON_MAX)?
        }
        About::Anyone | About::AnonymousSession(_) => {
            Slot::take(&state, Share::Session(id), STREAMS_OF_VISITOR_MAX)?
        }
    };
    let viewer = Viewer::Person {
        watch: state.manager.feed().watch(id),
        app: holder.app,
        id,
        presented: holder.token.hash(),
    };
    let stream = LiveStream::begin(state, filter, stream, viewer, slot).await?;
    Ok(answer(&request, stream))
}

/// What a request asks for.
struct Asked {
    kinds: Vec<EventKind>,
    after: Option<EventId>,
    newest_first: bool,
    limit: usize,
    /// That it is for a stream.
    stream: Option<StreamStart>,
}

impl Asked {
    fn read(request: &HttpRequest, mut query: Query) -> Result<Self, Problem> {
        let kinds = kinds(&mut query);
        let after = query.parsed("after", "must be the id of an event", EventId::parse);
        let order = query.parsed("order", "must be oldest or newest", |order| match order {
            "oldest" => Some(false),
            "newest" => Some(true),
            _ => None,
        });
        let limit = query.limit();
        let stream = wants_stream(request).then(|| {
            for (name, is_given) in [("order", order.is_some()), ("limit", limit.is_some())] {
                if is_given {
                    query.wrong(name, "is for pages; a stream has none");
                }
            }
            let last = request.headers().get("last-event-id").filter(|id| !id.is_empty());
            match (last.map(|id| id.to_str().ok().and_then(EventId::parse)), after) {
                (Some(Some(id)), _) | (None, Some(id)) => StreamStart::After(id),
                (Some(None), _) => StreamStart::Unknown,
                (None, None) => StreamStart::Now,
            }
        });
        query.finish()?;
        Ok(Self {
            kinds,
            after,
            newest_first: order.unwrap_or(false),
            limit: limit.unwrap_or(super::input::PAGE_LEN_DEFAULT),
            stream,
        })
    }
}

fn kinds(query: &mut Query) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    for name in query.all("types").iter().flat_map(|types| types.split(',')) {
        match EventKind::parse(name) {
            Some(kind) if kinds.contains(&kind) => {}
            Some(kind) => kinds.push(kind),
            None => {
                let known = EventKind::ALL.map(EventKind::as_str).join(", ");
                query.wrong("types", &format!("has a type that is none of {known}"));
                break;
            }
        }
    }
    kinds
}

/// Whether a stream is what the caller names first of the two.
fn wants_stream(request: &HttpRequest) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT);
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let types = accepted.flat_map(|value| value.split(','));
    let names = types.filter_map(|one| {
        let mut parts = one.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        let is_refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        (!is_refused && matches!(name.as_str(), "text/event-stream" | "application/json")).then_some(name)
    });
    names
        .into_iter()
        .next()
        .is_some_and(|name| name == "text/event-stream")
}

async fn page(state: &State, filter: EventFilter, asked: &Asked) -> Result<HttpResponse, Problem> {
    let feed = state.manager.feed();
    let page = feed
        .page(filter, asked.after, asked.newest_first, asked.limit)
        .await?;
    let EventPage {
        events,
        looked_to,
        more,
        ..
    } = &page;
    let body = EventPageBody {
        events: events.iter().map(|event| event.body(feed.epoch())).collect(),
        next_cursor: more.then(|| feed.epoch().id(*looked_to).to_string()),
    };
    Ok(json(HttpResponse::Ok(), &body))
}
