//! Service plane: sessions whose id the client chose, a signed 64-bit number, unique among the app's active ones.
//!
//! Such an id is no secret: whoever may say it is the backend's matter. The session's token is therefore not told; a
//! sign-in with the session (`authenticate`) gives one.

use actix_web::{HttpRequest, HttpResponse, web};

use super::auth::{self, Plane, StateData};
use super::input::{self, Body, Query};
use super::json;
use super::problem::{Problem, ProblemBody};
use super::session_body::{Audience, SessionBody};
use super::sessions::{EndParams, caller_without_query, one, revocation};
use super::sign_ins::CreateSession;
use crate::manager::Use;
use crate::session::Reason;

/// Makes sure that there is an active session with this id.
///
/// If there is one it is used (which moves its idle deadline), whoever's it is, and of the body, which must be valid, only
/// `ip_address` counts. First calls that come at once make one session.
#[utoipa::path(
    put, path = "/v1/client-sessions/{n}", tag = "service", security(("api_key" = [])),
    request_body = Option<CreateSession>,
    params(("n" = String, Path, description = "A whole number of 64 bits with sign")),
    responses(
        (status = 200, description = "It was there", body = SessionBody<'static>),
        (status = 201, description = "It was started", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 403, description = "`user_blocked`", body = ProblemBody<'static>),
        (status = 409, description = "`session_limit_reached`, `credentials_changed`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn put_client_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = input::client_session_id(&request)?;
    let body: CreateSession = input::json(&request, payload, Body::Optional).await?;
    let sign_in = body.into_sign_in()?;
    // The command line makes sessions; it is nobody's use of them.
    let usage = match state.plane {
        Plane::Public => Use::Touch(sign_in.ip_address),
        Plane::Operator => Use::Look,
    };
    let (session, is_new) = state
        .manager
        .ensure_client_session(&backend.app, id, sign_in, usage)
        .await?;
    let response = if is_new {
        HttpResponse::Created()
    } else {
        HttpResponse::Ok()
    };
    let now = state.manager.clock().now();
    let body = SessionBody::new(&session, now, None, Audience::Application);
    Ok(json(response, &body))
}

/// The active session with this id. Looking at it is no use of it.
#[utoipa::path(
    get, path = "/v1/client-sessions/{n}", tag = "service", security(("api_key" = [])),
    params(("n" = String, Path, description = "A whole number of 64 bits with sign")),
    responses(
        (status = 200, description = "The session", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`, also if it has ended", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
    )
)]
pub async fn get_client_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = input::client_session_id(&request)?;
    let session = state.manager.find_client_session(&backend.app, id).await?;
    Ok(one(&state, &session))
}

/// Whether there is an active session with this id.
#[utoipa::path(
    head, path = "/v1/client-sessions/{n}", tag = "service", security(("api_key" = [])),
    params(("n" = String, Path, description = "A whole number of 64 bits with sign")),
    responses(
        (status = 200, description = "There is"),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`, also if it has ended", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
    )
)]
pub async fn has_client_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = input::client_session_id(&request)?;
    state.manager.find_client_session(&backend.app, id).await?;
    Ok(HttpResponse::Ok().finish())
}

/// Ends the active session with this id.
#[utoipa::path(
    delete, path = "/v1/client-sessions/{n}", tag = "service", security(("api_key" = [])),
    params(("n" = String, Path, description = "A whole number of 64 bits with sign"), EndParams),
    responses(
        (status = 204, description = "Ended"),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`: there is none, or it has ended", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn revoke_client_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let revocation = revocation(&mut query, Reason::LOGOUT, backend.by);
    query.finish()?;
    let id = input::client_session_id(&request)?;
    state
        .manager
        .revoke_client_session(&backend.app, id, revocation)
        .await?;
    Ok(HttpResponse::NoContent().finish())
}
