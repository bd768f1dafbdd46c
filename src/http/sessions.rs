//! Service plane: sessions of an app, for its backend.

use std::net::IpAddr;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::{self, Backend, Plane, StateData};
use super::input::{self, Body, Query, present};
use super::problem::{Problem, ProblemBody};
use super::session_body::{Audience, SessionBody};
use super::{State, json};
use crate::clock::Timestamp;
use crate::data::{DATA_DEPTH_MAX, is_too_deep};
use crate::error::{Error, FieldError};
use crate::event::WhyRefused;
use crate::manager::{CheckAnswer, Demands, Refusal, RefusedCaller, Revocation, Use};
use crate::session::{AUTH_LEN_MAX, Auth, EndedBy, REASON_CHARS_MAX, Reason, Session, Token};
use crate::store::{Owner, SessionPatch};
use crate::user::UserId;

/// An address; one that does not parse is none, without failing the call.
pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    text.trim()
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

pub(super) fn parse_auth(
    object: &serde_json::Map<String, serde_json::Value>,
    errors: &mut Vec<FieldError>,
) -> Option<Auth> {
    if is_too_deep(object) {
        // An answer holds it some levels deeper, and clients whose parsers have a bound must be able to read it.
        let rule = format!("may have {DATA_DEPTH_MAX} levels at most");
        errors.push(FieldError::new("auth", rule));
        return None;
    }
    let auth = Auth::from_object(object);
    if auth.is_none() {
        errors.push(FieldError::new(
            "auth",
            format!("may have {AUTH_LEN_MAX} bytes of JSON at most"),
        ));
    }
    auth
}

/// A token to be checked for a backend's caller.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSession {
    /// The token that the backend's caller presented.
    #[schema(example = "sst_…")]
    token: String,
    /// The caller's address, to be recorded.
    ip_address: Option<String>,
    /// The caller's user agent. Accepted so that callers can already send it; nothing is recorded of it yet.
    #[allow(dead_code)]
    user_agent: Option<String>,
    /// Whether this counts as a use; by default it does.
    touch: Option<bool>,
    /// Refuse if the sign-in is older than this.
    max_auth_age_secs: Option<u64>,
    /// Refuse unless `auth.tags` contains all of these.
    #[serde(default)]
    tags: Vec<String>,
}

/// What a check found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Checked)]
pub struct CheckedBody<'s> {
    /// Whether the token is good.
    active: bool,
    /// The session, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionBody<'s>>,
    /// Else why not: `invalid_token`, `token_replaced`, `session_ended`, `reauthentication_required` or `missing_tag`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The same in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    /// When the session ended, for `session_ended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_reason: Option<String>,
    /// Who ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'static str>,
}

/// Checks a token for the backend's caller.
///
/// A token that is not good is an answer (200), not an error: HTTP errors are about the call itself.
#[utoipa::path(
    post, path = "/v1/sessions/check", tag = "service", security(("api_key" = [])), request_body = CheckSession,
    responses(
        (status = 200, description = "Checked", body = CheckedBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn check_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let body: CheckSession = input::json(&request, payload, Body::Required).await?;
    let address = body.ip_address.as_deref().and_then(parse_address);
    // The command line looks at sessions; it is nobody's use of them.
    let usage = if body.touch.unwrap_or(true) && state.plane == Plane::Public {
        Use::Touch(address)
    } else {
        Use::Look
    };
    let demands = Demands {
        max_auth_age_secs: body.max_auth_age_secs,
        tags: body.tags,
    };
    let answer = match Token::parse(&body.token) {
        Some(token) => state.manager.check(&backend.app, &token, usage, &demands).await?,
        None => CheckAnswer::Refused(Refusal::InvalidToken),
    };
    let now = state.manager.clock().now();
    Ok(match answer {
        CheckAnswer::Active(entry) => {
            let session = entry.to_session();
            let session = SessionBody::new(&session, now, None, Audience::Application);
            json(
                HttpResponse::Ok(),
                &CheckedBody {
                    active: true,
                    session: Some(session),
                    ..CheckedBody::refused()
                },
            )
        }
        CheckAnswer::Refused(refusal) => json(HttpResponse::Ok(), &CheckedBody::of_refusal(&refusal)),
    })
}

impl CheckedBody<'_> {
    fn refused() -> Self {
        Self {
            active: false,
            session: None,
            code: None,
            detail: None,
            ended_at: None,
            revoked_reason: None,
            ended_by: None,
        }
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        let mut body = Self {
            code: Some(refusal.code()),
            detail: Some(refusal.detail()),
            ..Self::refused()
        };
        if let Refusal::SessionEnded(ending) = refusal {
            body.ended_at = Some(ending.at.to_string());
            body.revoked_reason = Some(ending.reason.as_str().to_owned());
            body.ended_by = Some(ending.by.as_str());
        }
        body
    }
}

/// A page of sessions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionPage)]
pub struct SessionPageBody<'s> {
    /// The sessions.
    sessions: Vec<SessionBody<'s>>,
    /// All that match the filter; only for the sessions of one user.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_count: Option<u64>,
    /// Active now; only for the sessions of one user.
    #[serde(skip_serializing_if = "Option::is_none")]
    active_count: Option<u64>,
    /// Pass it as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// Which sessions to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct ListSessions {
    /// Only this user's.
    user_id: Option<String>,
    /// `active` (default), `ended` or `all`.
    status: Option<String>,
    /// Those of nobody instead of those of users.
    anonymous: Option<bool>,
    /// 1-200, default 50.
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the app's sessions, newest first.
///
/// With `user_id` it is that user's list, with counts; else without, as counting a whole app is not bounded work. A page
/// looks at 5,000 sessions at most: it may be short, or empty, and still have a `next_cursor`.
#[utoipa::path(
    get, path = "/v1/sessions", tag = "service", security(("api_key" = [])), params(ListSessions),
    responses(
        (status = 200, description = "A page", body = SessionPageBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
    )
)]
pub async fn list_sessions(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let user_id = query.parsed("user_id", UserId::RULE, UserId::parse);
    let status = query.status();
    let anonymous = query.flag("anonymous", false);
    let (after, limit) = query.page();
    if anonymous && user_id.is_some() {
        query.wrong("anonymous", "cannot be combined with user_id");
    }
    query.finish()?;
    if let Some(user_id) = user_id {
        let page = state
            .manager
            .list_user(&backend.app, user_id, status, after, limit)
            .await?;
        return Ok(user_page(&state, &page, None, Audience::Application));
    }
    let page = state
        .manager
        .list_app(&backend.app, anonymous, status, after, limit)
        .await?;
    let body = SessionPageBody {
        sessions: bodies(&page.sessions, state.manager.clock().now()),
        total_count: None,
        active_count: None,
        next_cursor: page.next.map(input::cursor_text),
    };
    Ok(json(HttpResponse::Ok(), &body))
}

/// The answer of every list of one user's sessions.
pub(super) fn user_page(
    state: &State,
    page: &crate::store::UserPage,
    current: Option<crate::session::SessionId>,
    audience: Audience,
) -> HttpResponse {
    let now = state.manager.clock().now();
    let sessions = page
        .sessions
        .iter()
        .map(|session| SessionBody::new(session, now, current, audience))
        .collect();
    let body = SessionPageBody {
        sessions,
        total_count: Some(page.total_count),
        active_count: Some(page.active_count),
        next_cursor: page.next.map(input::cursor_text),
    };
    json(HttpResponse::Ok(), &body)
}

pub(super) fn bodies(sessions: &[Session], now: Timestamp) -> Vec<SessionBody<'_>> {
    sessions
        .iter()
        .map(|session| SessionBody::new(session, now, None, Audience::Application))
        .collect()
}

/// Why and for whom to end.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct EndParams {
    /// Up to 255 characters.
    reason: Option<String>,
    /// `user`, `app` (default) or `operator`: on whose behalf.
    ended_by: Option<String>,
}

/// How many a bulk ending ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RevokedAll)]
pub struct RevokedAllBody {
    /// Sessions ended by this call.
    revoked_count: u64,
    /// Whether more are left: call again.
    more: bool,
}

/// Ends the sessions of everybody in the app, up to 500 a call.
#[utoipa::path(
    delete, path = "/v1/sessions", tag = "service", security(("api_key" = [])), params(EndParams),
    responses(
        (status = 200, description = "Ended", body = RevokedAllBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn revoke_all_sessions(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let revocation = revocation(&mut query, Reason::LOGOUT_ALL, backend.by);
    query.finish()?;
    let ended = state
        .manager
        .revoke_app_sessions(&backend.app, revocation)
        .await?;
    Ok(json(
        HttpResponse::Ok(),
        &RevokedAllBody {
            revoked_count: ended.revoked_count,
            more: ended.more,
        },
    ))
}

/// The reason and actor of an ending, from the query.
pub(super) fn revocation(query: &mut Query, default_reason: &'static str, by: EndedBy) -> Revocation {
    let reason = reason(query, default_reason);
    let actor = |text: &str| {
        EndedBy::parse(text).filter(|by| matches!(by, EndedBy::User | EndedBy::App | EndedBy::Operator))
    };
    let by = query
        .parsed("ended_by", "must be user, app or operator", actor)
        .unwrap_or(by);
    Revocation { reason, by }
}

/// The reason of an ending, from the query.
pub(super) fn reason(query: &mut Query, default: &'static str) -> Reason {
    let rule = format!("must be 1 to {REASON_CHARS_MAX} characters without control characters");
    query
        .parsed("reason", &rule, Reason::parse)
        .unwrap_or_else(|| Reason::known(default))
}

/// Whose session it must be.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct OwnerParams {
    /// Answer as if there were no such session unless it is this user's.
    user_id: Option<String>,
}

fn owner(query: &mut Query) -> Owner {
    query
        .parsed("user_id", UserId::RULE, UserId::parse)
        .map_or(Owner::Anyone, Owner::User)
}

/// One session, whatever its state.
#[utoipa::path(
    get, path = "/v1/sessions/{id}", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The session's id"), OwnerParams),
    responses(
        (status = 200, description = "The session", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
    )
)]
pub async fn get_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let owner = owner(&mut query);
    query.finish()?;
    let session = state
        .manager
        .find(&backend.app, input::session_id(&request)?, &owner)
        .await?;
    Ok(one(&state, &session))
}

pub(super) fn one(state: &State, session: &Session) -> HttpResponse {
    let now = state.manager.clock().now();
    json(
        HttpResponse::Ok(),
        &SessionBody::new(session, now, None, Audience::Application),
    )
}

/// Changes to a session. Absent fields stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSession {
    /// The name; null clears it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    name: Option<Option<String>>,
    /// Whether the app trusts the device; null takes the trust back.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>)]
    is_trusted: Option<Option<bool>>,
    /// What the application keeps about the sign-in, replaced whole; null clears it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Object>)]
    auth: Option<Option<serde_json::Map<String, serde_json::Value>>>,
}

/// Changes an active session.
#[utoipa::path(
    patch, path = "/v1/sessions/{id}", tag = "service", security(("api_key" = [])), request_body = UpdateSession,
    params(("id" = String, Path, description = "The session's id")),
    responses(
        (status = 200, description = "The session as it is now", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn update_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = input::session_id(&request)?;
    let body: UpdateSession = input::json(&request, payload, Body::Required).await?;
    let mut errors = Vec::new();
    let auth = body
        .auth
        .map(|auth| auth.and_then(|object| parse_auth(&object, &mut errors)));
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let patch = SessionPatch {
        name: body.name,
        is_trusted: body.is_trusted.map(Option::unwrap_or_default),
        auth,
        identity: None,
    };
    Ok(one(
        &state,
        &state
            .manager
            .update(&backend.app, id, Owner::Anyone, patch)
            .await?,
    ))
}

/// Ends a session; ending it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The session's id"), OwnerParams, EndParams),
    responses(
        (status = 204, description = "It is over, now or since before"),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn revoke_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let owner = owner(&mut query);
    let revocation = revocation(&mut query, Reason::LOGOUT, backend.by);
    query.finish()?;
    let id = input::session_id(&request)?;
    let ended = state
        .manager
        .revoke(&backend.app, id, owner.clone(), revocation)
        .await;
    if let (Err(Error::NotFound(_)), Owner::User(user_id)) = (&ended, &owner) {
        let refused = RefusedCaller::User(&backend.app, user_id);
        state
            .manager
            .note_refused_revocation(refused, WhyRefused::NotTheirs);
    }
    ended?;
    Ok(HttpResponse::NoContent().finish())
}

/// A use to be recorded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TouchSession {
    /// From where.
    ip_address: Option<String>,
}

/// Records a use of a session.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/touch", tag = "service", security(("api_key" = [])),
    request_body = Option<TouchSession>, params(("id" = String, Path, description = "The session's id")),
    responses(
        (status = 200, description = "The session after this use", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
    )
)]
pub async fn touch_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = input::session_id(&request)?;
    let body: TouchSession = input::json(&request, payload, Body::Optional).await?;
    let address = body.ip_address.as_deref().and_then(parse_address);
    Ok(one(
        &state,
        &state.manager.touch(&backend.app, id, address).await?,
    ))
}

/// The caller of a call that has no parameters in its query.
pub(super) async fn caller_without_query(request: &HttpRequest, state: &State) -> Result<Backend, Problem> {
    let mut query = Query::of(request);
    let backend = auth::backend(request, state, &mut query).await?;
    query.finish()?;
    Ok(backend)
}
