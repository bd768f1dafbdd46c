//! Service plane: named identities of a session, beside the root one (`auth`), which they never touch.

use actix_web::{HttpRequest, HttpResponse, web};

use super::auth::StateData;
use super::input::{self, Body};
use super::problem::{Problem, ProblemBody};
use super::session_body::SessionBody;
use super::sessions::{caller_without_query, one};
use crate::session::IdentityPatch;
use crate::store::{Owner, SessionPatch};

/// Sets one of the session's named identities.
#[utoipa::path(
    put, path = "/v1/sessions/{id}/identities/{key}", tag = "service", security(("api_key" = [])),
    request_body(content = Object, description = "The identity, of at most 64 levels; all of a session's have 8 KiB together"),
    params(("id" = String, Path, description = "The session's id"),
           ("key" = String, Path, description = "The identity's name, percent-encoded, up to 64 characters")),
    responses(
        (status = 200, description = "The session as it is now", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn put_identity(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let (id, key) = (input::session_id(&request)?, input::identity_key(&request)?);
    let identity = Some(input::json(&request, payload, Body::Required).await?);
    let patch = SessionPatch {
        identity: Some(IdentityPatch { key, identity }),
        ..SessionPatch::default()
    };
    let session = state
        .manager
        .update(&backend.app, id, Owner::Anyone, patch)
        .await?;
    Ok(one(&state, &session))
}

/// Removes one of the session's named identities; one that is not there is fine.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}/identities/{key}", tag = "service", security(("api_key" = [])),
    params(("id" = String, Path, description = "The session's id"),
           ("key" = String, Path, description = "The identity's name, percent-encoded")),
    responses(
        (status = 200, description = "The session as it is now", body = SessionBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn delete_identity(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let (id, key) = (input::session_id(&request)?, input::identity_key(&request)?);
    let patch = SessionPatch {
        identity: Some(IdentityPatch { key, identity: None }),
        ..SessionPatch::default()
    };
    let session = state
        .manager
        .update(&backend.app, id, Owner::Anyone, patch)
        .await?;
    Ok(one(&state, &session))
}
