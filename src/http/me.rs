//! Self plane: a person, by their session, sees and ends their own sessions. Nothing here extends a session.
//!
//! For an anonymous session "own" is that session alone. Somebody else's session looks like one that does not exist.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::auth::{self, Holder, Presented, Reach, StateData};
use super::input::{self, Body, Query, present};
use super::problem::{Code, Problem, ProblemBody};
use super::session::AppParams;
use super::session_body::{Audience, SessionBody};
use super::sessions::{self, SessionPageBody};
use super::users::{PageParams, RevokedBody};
use super::{State, cookie, json};
use crate::error::Error;
use crate::event::WhyRefused;
use crate::manager::{Demands, RefusedCaller, Revocation, SignIn, is_recent};
use crate::session::{AppName, EndedBy, Reason, Session, SessionId};
use crate::store::{Owner, SessionPatch, StatusFilter, UserPage};

/// Checks who asks, without extending their session; a refusal says where to sign in.
pub(super) async fn person(
    request: &HttpRequest,
    state: &State,
    query: &mut Query,
) -> Result<Holder, Problem> {
    let app = auth::app_of_request(request, state, query)?;
    let sign_in_url = state.sign_in_url(&app);
    let holder = auth::holder(request, state, app.clone(), false, &Demands::default()).await;
    holder.map_err(|problem| problem.with_sign_in_url(sign_in_url))
}

/// Finds a visitor's session by cookie, or starts one that is nobody's, if the app allows it (`anonymous`).
///
/// A valid cookie answers its session and sets none; a missing, unknown or ended one starts a session and sets one cookie.
/// A cookie that was replaced by a sign-in or a renewal starts nothing: the browser has, or is about to get, a newer one.
/// From one IPv4 address or IPv6 /64 only so many can be started an hour (`anonymous_per_hour`), and from all together
/// (`anonymous_per_hour_total`). No call here extends a session; checks do.
#[utoipa::path(
    post, path = "/v1/me/session", tag = "self", security((), ("session_token" = []), ("session_cookie" = [])),
    params(AppParams),
    responses(
        (status = 200, description = "The cookie's session", body = SessionBody<'static>),
        (status = 201, description = "A new session; `Set-Cookie` has its token", body = SessionBody<'static>),
        (status = 401, description = "`token_replaced`, `ambiguous_cookie`; by header also `invalid_token`, \
         `session_ended`", body = ProblemBody<'static>),
        (status = 403, description = "`cross_site`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`: the app has no anonymous sessions", body = ProblemBody<'static>),
        (status = 429, description = "`too_many_requests`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn start_own_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let app = auth::app_of_request(&request, &state, &mut query)?;
    query.finish()?;
    if !state.manager.app(&app).is_some_and(|policy| policy.anonymous) {
        return Err(Problem::not_found(
            "way to start a session by oneself in this app",
        ));
    }
    let presented = auth::present(&request, &state, &app)?;
    let is_by_header = matches!(presented, Presented::Bearer(_));
    if !is_by_header {
        auth::refuse_start_from_elsewhere(&request, &state)?;
    }
    let holder = auth::holder(&request, &state, app.clone(), false, &Demands::default()).await;
    let (response, session) = match holder {
        Ok(holder) => (HttpResponse::Ok(), holder.entry.to_session()),
        Err(problem) if !is_by_header && STARTS_ANEW.contains(&problem.code()) => {
            start(&request, &state, &app).await?
        }
        Err(problem)
            if problem.code() == Code::TokenReplaced && is_over(&state, &app, &presented).await? =>
        {
            start(&request, &state, &app).await?
        }
        Err(problem) => return Err(problem.with_sign_in_url(state.sign_in_url(&app))),
    };
    let now = state.manager.clock().now();
    let body = SessionBody::new(&session, now, Some(session.id), Audience::Person);
    Ok(json(response, &body))
}

/// Whether the session of a cookie is over: then no newer cookie of it can be on its way.
async fn is_over(state: &State, app: &AppName, presented: &Presented) -> Result<bool, Problem> {
    let Presented::Cookies(tokens) = presented else {
        return Ok(false);
    };
    let Some(token) = auth::choose(state, app, tokens).await? else {
        return Ok(false);
    };
    let session = state.manager.find(app, token.id(), &Owner::Anyone).await?;
    Ok(!session.is_active(state.manager.clock().now()))
}

/// What a cookie must be refused with for another session to be started.
const STARTS_ANEW: [Code; 3] = [Code::NoSession, Code::InvalidToken, Code::SessionEndedToken];

async fn start(
    request: &HttpRequest,
    state: &State,
    app: &AppName,
) -> Result<(HttpResponseBuilder, Session), Problem> {
    let user_agent = request.headers().get(header::USER_AGENT);
    let visit = SignIn {
        ip_address: auth::client_address(request, state),
        user_agent: user_agent.and_then(|text| text.to_str().ok()).map(str::to_owned),
        ..SignIn::default()
    };
    let started = state.manager.create_for_visitor(app, visit).await?;
    let now = state.manager.clock().now();
    let cookie = state.set_cookie(app, &started.token.reveal(), &started.session, now);
    let mut response = HttpResponse::Created();
    response.insert_header((header::SET_COOKIE, cookie));
    Ok((response, started.session))
}

/// Lists the person's sessions, newest sign-in first, this one included.
#[utoipa::path(
    get, path = "/v1/me/sessions", tag = "self", security(("session_token" = []), ("session_cookie" = [])),
    params(PageParams, AppParams),
    responses(
        (status = 200, description = "A page, without what the application keeps for itself",
         body = SessionPageBody<'static>),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`cross_site`", body = ProblemBody<'static>),
    )
)]
pub async fn list_own_sessions(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let holder = person(&request, &state, &mut query).await?;
    let status = query.status();
    let (after, limit) = query.page();
    query.finish()?;
    let current = holder.session().id;
    let page = match &holder.session().user_id {
        Some(user_id) => {
            state
                .manager
                .list_user(&holder.app, user_id.clone(), status, after, limit)
                .await?
        }
        None => only_itself(&holder, status),
    };
    Ok(sessions::user_page(
        &state,
        &page,
        Some(current),
        Audience::Person,
    ))
}

/// The list of an anonymous visitor.
fn only_itself(holder: &Holder, status: StatusFilter) -> UserPage {
    let sessions = match status {
        StatusFilter::Active | StatusFilter::All => vec![holder.entry.to_session()],
        StatusFilter::Ended => Vec::new(),
    };
    UserPage {
        total_count: sessions.len() as u64,
        sessions,
        next: None,
        active_count: 1,
    }
}

/// Whose session it must be, and whether it can be this one: for an anonymous visitor only the session itself.
fn owner_of(holder: &Holder, id: SessionId) -> Result<Owner, Problem> {
    match holder.reach() {
        Reach::User(owner) => Ok(owner),
        Reach::Itself(own) if own == id => Ok(Owner::Anyone),
        Reach::Itself(_) => Err(Problem::not_found("session")),
    }
}

/// Ending another session may demand a recent sign-in (OWASP ASVS 5.0, 7.5.2).
fn demand_recent_sign_in(holder: &Holder, state: &State) -> Result<(), Problem> {
    let within_secs = state
        .manager
        .app(&holder.app)
        .and_then(|policy| policy.reauthenticate_within_secs);
    match within_secs {
        Some(secs) if !is_recent(holder.session(), secs, state.manager.clock().now()) => {
            let problem = Problem::from(Error::ReauthenticationRequired);
            Err(problem.with_sign_in_url(state.sign_in_url(&holder.app)))
        }
        _ => Ok(()),
    }
}

/// The person's reason. Those that the server or the application gives for its own acts are not theirs to give: one of
/// them makes older sign-ins be refused, and all are shown as what happened.
fn own_reason(query: &mut Query, default: &'static str) -> Reason {
    let reason = sessions::reason(query, default);
    if Reason::NOT_A_PERSONS.contains(&reason.as_str()) {
        query.wrong("reason", "is not a person's to give");
    }
    reason
}

/// Why.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct ReasonParams {
    /// Up to 255 characters; not one that the server or the application gives for its own acts.
    reason: Option<String>,
}

/// Ends one of the person's sessions.
#[utoipa::path(
    delete, path = "/v1/me/sessions/{id}", tag = "self",
    security(("session_token" = []), ("session_cookie" = [])),
    params(("id" = String, Path, description = "The session's id"), ReasonParams, AppParams),
    responses(
        (status = 204, description = "It is over, now or since before"),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`reauthentication_required`, `cross_site`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`, also for somebody else's", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn revoke_own_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let holder = person(&request, &state, &mut query).await?;
    let reason = own_reason(&mut query, Reason::MANUAL);
    query.finish()?;
    let id = input::session_id(&request)?;
    let revocation = Revocation {
        reason,
        by: EndedBy::User,
    };
    let ended = end_own(&state, &holder, id, revocation).await;
    telling_of_refusal(ended, &holder, &state)?;
    let mut response = HttpResponse::NoContent();
    if id == holder.session().id {
        clear_cookie(&mut response, &holder, &state);
    }
    Ok(response.finish())
}

async fn end_own(
    state: &State,
    holder: &Holder,
    id: SessionId,
    revocation: Revocation,
) -> Result<(), Problem> {
    if id != holder.session().id {
        demand_recent_sign_in(holder, state)?;
    }
    let owner = owner_of(holder, id)?;
    Ok(state.manager.revoke(&holder.app, id, owner, revocation).await?)
}

/// What became of an attempt to end sessions; that it was refused is told, about the person who made it.
fn telling_of_refusal<T>(attempt: Result<T, Problem>, holder: &Holder, state: &State) -> Result<T, Problem> {
    let why = match attempt.as_ref().err().map(Problem::code) {
        Some(Code::NotFound) => Some(WhyRefused::NotTheirs),
        Some(Code::ReauthenticationRequired) => Some(WhyRefused::NotRecent),
        _ => None,
    };
    if let Some(why) = why {
        state
            .manager
            .note_refused_revocation(RefusedCaller::Holder(holder.session()), why);
    }
    attempt
}

/// Takes the cookie of an ended session from the browser that sent it.
fn clear_cookie(response: &mut HttpResponseBuilder, holder: &Holder, state: &State) {
    if holder.is_by_cookie
        && let Some(config) = state.manager.app(&holder.app)
    {
        response.insert_header((header::SET_COOKIE, cookie::clear(&config.cookie)));
    }
}

/// Which of them.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct RevokeOwnParams {
    /// Whether this session ends too; by default it stays.
    include_current: Option<bool>,
}

/// Ends the person's sessions, all but this one.
#[utoipa::path(
    delete, path = "/v1/me/sessions", tag = "self", security(("session_token" = []), ("session_cookie" = [])),
    params(RevokeOwnParams, ReasonParams, AppParams),
    responses(
        (status = 200, description = "Ended", body = RevokedBody),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`reauthentication_required`, `cross_site`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn revoke_own_sessions(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let holder = person(&request, &state, &mut query).await?;
    let include_current = query.flag("include_current", false);
    let reason = own_reason(&mut query, Reason::LOGOUT_ALL);
    query.finish()?;
    let own = holder.session().id;
    let revocation = Revocation {
        reason,
        by: EndedBy::User,
    };
    let revoked_count = match &holder.session().user_id {
        Some(user_id) => {
            telling_of_refusal(demand_recent_sign_in(&holder, &state), &holder, &state)?;
            let except = (!include_current).then_some(own);
            state
                .manager
                .revoke_user_sessions(&holder.app, user_id.clone(), except, revocation)
                .await?
        }
        None if include_current => {
            state
                .manager
                .revoke(&holder.app, own, Owner::Anyone, revocation)
                .await?;
            1
        }
        None => 0,
    };
    let mut response = HttpResponse::Ok();
    if include_current {
        clear_cookie(&mut response, &holder, &state);
    }
    Ok(json(response, &RevokedBody { revoked_count }))
}

/// A new name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameSession {
    /// Up to 100 characters; null clears it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    name: Option<Option<String>>,
}

/// Names one of the person's sessions. Trust is not the person's own to grant.
#[utoipa::path(
    patch, path = "/v1/me/sessions/{id}", tag = "self", request_body = RenameSession,
    security(("session_token" = []), ("session_cookie" = [])),
    params(("id" = String, Path, description = "The session's id"), AppParams),
    responses(
        (status = 200, description = "The session as it is now", body = SessionBody<'static>),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`cross_site`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`, also for somebody else's", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn rename_own_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let holder = person(&request, &state, &mut query).await?;
    query.finish()?;
    let id = input::session_id(&request)?;
    let body: RenameSession = input::json(&request, payload, Body::Required).await?;
    let patch = SessionPatch {
        name: body.name,
        ..SessionPatch::default()
    };
    let session = state
        .manager
        .update(&holder.app, id, owner_of(&holder, id)?, patch)
        .await?;
    let now = state.manager.clock().now();
    let current = Some(holder.session().id);
    Ok(json(
        HttpResponse::Ok(),
        &SessionBody::new(&session, now, current, Audience::Person),
    ))
}
