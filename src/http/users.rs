//! Service plane: users of an app. Users are implicit: every id can be asked for.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::{self, StateData};
use super::input::{self, Body, Query, present};
use super::json;
use super::json_writer::Text;
use super::problem::{Problem, ProblemBody};
use super::session_body::Audience;
use super::sessions::{EndParams, SessionPageBody, caller_without_query, revocation, user_page};
use crate::clock::Timestamp;
use crate::manager::UserView;
use crate::session::{Reason, SessionId};
use crate::store::{KnownDevice, UserPatch};
use crate::user::UserId;

/// A user's settings and what follows from them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody<'u> {
    /// The application's own id.
    user_id: &'u str,
    /// The tier that was set; null is the default one.
    tier: Option<&'u str>,
    /// The maximum that was set for this user alone.
    max_sessions: Option<u32>,
    /// The maximum in force.
    effective_max_sessions: u32,
    /// A blocked user has no sessions and gets none.
    is_blocked: bool,
    /// Active sessions now.
    active_count: u64,
}

/// A user's settings and active count; defaults for a user nobody set anything for.
#[utoipa::path(
    get, path = "/v1/users/{user_id}", tag = "service", security(("api_key" = [])),
    params(("user_id" = String, Path, description = "The user's id, percent-encoded")),
    responses(
        (status = 200, description = "The user", body = UserBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
    )
)]
pub async fn get_user(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let user_id = input::user_id(&request)?;
    let view = state.manager.find_user(&backend.app, user_id.clone()).await?;
    Ok(user(&user_id, &view))
}

/// Changes to a user's settings. Absent fields stay, null clears.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateUser {
    /// A configured tier.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    tier: Option<Option<String>>,
    /// A maximum for this user alone, 0-10,000.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, maximum = 10_000)]
    max_sessions: Option<Option<u32>>,
    /// Blocking ends all of the user's sessions and refuses new ones; null unblocks, as nothing set does.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<bool>)]
    is_blocked: Option<Option<bool>>,
}

/// Changes a user's settings. A lower maximum takes effect at the next sign-in.
#[utoipa::path(
    patch, path = "/v1/users/{user_id}", tag = "service", security(("api_key" = [])), request_body = UpdateUser,
    params(("user_id" = String, Path, description = "The user's id, percent-encoded")),
    responses(
        (status = 200, description = "The user as they are now", body = UserBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn update_user(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let user_id = input::user_id(&request)?;
    let body: UpdateUser = input::json(&request, payload, Body::Required).await?;
    let patch = UserPatch {
        tier: body.tier,
        max_sessions: body.max_sessions,
        is_blocked: body.is_blocked.map(Option::unwrap_or_default),
    };
    let view = state
        .manager
        .update_user(&backend.app, user_id.clone(), patch, backend.by)
        .await?;
    Ok(user(&user_id, &view))
}

fn user(user_id: &UserId, view: &UserView) -> HttpResponse {
    let settings = &view.record.settings;
    let body = UserBody {
        user_id: user_id.as_str(),
        tier: settings.tier.as_deref(),
        max_sessions: settings.max_sessions,
        effective_max_sessions: view.effective_max_sessions,
        is_blocked: settings.is_blocked,
        active_count: view.record.active_count,
    };
    json(HttpResponse::Ok(), &body)
}

/// Which of a list, and where to go on.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct PageParams {
    /// `active` (default), `ended` or `all`.
    status: Option<String>,
    /// 1-200, default 50.
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists a user's sessions, newest sign-in first.
#[utoipa::path(
    get, path = "/v1/users/{user_id}/sessions", tag = "service", security(("api_key" = [])),
    params(("user_id" = String, Path, description = "The user's id, percent-encoded"), PageParams),
    responses(
        (status = 200, description = "A page", body = SessionPageBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
    )
)]
pub async fn list_user_sessions(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let status = query.status();
    let (after, limit) = query.page();
    query.finish()?;
    let user_id = input::user_id(&request)?;
    let page = state
        .manager
        .list_user(&backend.app, user_id, status, after, limit)
        .await?;
    Ok(user_page(&state, &page, None, Audience::Application))
}

/// How many sessions ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revoked)]
pub struct RevokedBody {
    /// Sessions ended by this call.
    pub(super) revoked_count: u64,
}

/// The one that stays.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct ExceptParams {
    /// The id of a session of this user that stays. Any other id excludes nothing.
    except: Option<String>,
}

/// Ends a user's sessions, all or all but one.
///
/// With `reason=credentials_changed`, sign-ins verified before now are refused from then on.
#[utoipa::path(
    delete, path = "/v1/users/{user_id}/sessions", tag = "service", security(("api_key" = [])),
    params(("user_id" = String, Path, description = "The user's id, percent-encoded"), ExceptParams, EndParams),
    responses(
        (status = 200, description = "Ended", body = RevokedBody),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn revoke_user_sessions(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let backend = auth::backend(&request, &state, &mut query).await?;
    let except = query.parsed("except", "must be a session id", SessionId::parse);
    let revocation = revocation(&mut query, Reason::LOGOUT_ALL, backend.by);
    query.finish()?;
    let user_id = input::user_id(&request)?;
    let revoked_count = state
        .manager
        .revoke_user_sessions(&backend.app, user_id, except, revocation)
        .await?;
    Ok(json(HttpResponse::Ok(), &RevokedBody { revoked_count }))
}

/// What is kept of a user beside sessions and events.
#[derive(Debug, Serialize)]
struct KeptBody<'u> {
    user_id: &'u str,
    app: &'u str,
    tier: Option<&'u str>,
    max_sessions: Option<u32>,
    is_blocked: bool,
    credentials_changed_at: Option<Text<Timestamp>>,
    devices: Vec<DeviceBody<'u>>,
}

#[derive(Debug, Serialize)]
struct DeviceBody<'d> {
    browser: Option<&'d str>,
    os: Option<&'d str>,
    first_seen_at: Text<Timestamp>,
}

impl<'d> From<&'d KnownDevice> for DeviceBody<'d> {
    fn from(device: &'d KnownDevice) -> Self {
        Self {
            browser: device.browser.as_deref(),
            os: device.os.as_deref(),
            first_seen_at: Text(device.first_seen_at),
        }
    }
}

/// Operator plane only: what is kept of a user beside sessions and events, for the command that exports all of it.
pub async fn get_kept(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let app = caller_without_query(&request, &state).await?.app;
    let user_id = input::user_id(&request)?;
    let settings = state
        .manager
        .find_user(&app, user_id.clone())
        .await?
        .record
        .settings;
    let devices = state.manager.list_devices(&app, user_id.clone()).await?;
    let body = KeptBody {
        user_id: user_id.as_str(),
        app: app.as_str(),
        tier: settings.tier.as_deref(),
        max_sessions: settings.max_sessions,
        is_blocked: settings.is_blocked,
        credentials_changed_at: settings.credentials_changed_at.map(Text),
        devices: devices.iter().map(DeviceBody::from).collect(),
    };
    Ok(json(HttpResponse::Ok(), &body))
}

/// What was erased.
#[derive(Debug, Serialize)]
struct ErasedBody {
    sessions: u64,
    events: u64,
    /// Something is left: to be called again.
    more: bool,
}

/// Operator plane only: ends a user's sessions and erases what is kept of the user, as much of it as one call may.
pub async fn erase_user(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let user_id = input::user_id(&request)?;
    let erased = state
        .manager
        .erase_user(&backend.app, user_id, backend.by)
        .await?;
    let body = ErasedBody {
        sessions: erased.sessions,
        events: erased.events,
        more: erased.more,
    };
    Ok(json(HttpResponse::Ok(), &body))
}
