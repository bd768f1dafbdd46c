//! Token plane: the holder of a session token asks about that session. The hot path.

use std::borrow::Cow;

use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::auth::{self, Holder, Presented, StateData};
use super::input::Query;
use super::problem::{Problem, ProblemBody};
use super::session_body::{Audience, SessionBody};
use super::{cookie, json, json_by_hand, rate_limits};
use crate::manager::{CheckAnswer, Demands, Refusal, RenewAnswer, Revocation, Use};
use crate::session::{EndedBy, Reason};
use crate::store::Owner;

/// The header that tells a proxy whose session it is.
const USER_ID_HEADER: HeaderName = HeaderName::from_static("x-session-user-id");

/// What the check demands.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct CheckParams {
    /// Whether this counts as a use; by default it does.
    touch: Option<bool>,
    /// Refuse if the sign-in is older than this.
    max_auth_age_secs: Option<u64>,
    /// Refuse unless `auth.tags` contains this; may be repeated.
    tag: Option<Vec<String>>,
}

/// Which app's session it is.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub struct AppParams {
    /// The app; else the one that lists the request's host, else `default`.
    app: Option<String>,
}

/// Checks the session of the token, and records the use.
#[utoipa::path(
    get, path = "/v1/session", tag = "token", security(("session_token" = []), ("session_cookie" = [])),
    params(CheckParams, AppParams),
    responses(
        (status = 200, description = "The session; `X-Session-User-Id` has the percent-encoded user id",
         body = SessionBody<'static>),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`reauthentication_required`, `missing_tag`, `cross_site`",
         body = ProblemBody<'static>),
        (status = 503, description = "`store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn check_own_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let (holder, response) = check(&request, &state).await?;
    Ok(json_by_hand(response, &SessionBody::of_holder(&holder.entry)))
}

/// Checks the session of the token, and records the use; the cheapest check, as its answer has no body.
#[utoipa::path(
    head, path = "/v1/session", tag = "token", security(("session_token" = []), ("session_cookie" = [])),
    params(CheckParams, AppParams),
    responses(
        (status = 200, description = "The token is good; `X-Session-User-Id` has the percent-encoded user id"),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`reauthentication_required`, `missing_tag`, `cross_site`",
         body = ProblemBody<'static>),
        (status = 503, description = "`store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn head_own_session(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let (_, mut response) = check(&request, &state).await?;
    Ok(response.finish())
}

async fn check(request: &HttpRequest, state: &StateData) -> Result<(Holder, HttpResponseBuilder), Problem> {
    let mut query = Query::of(request);
    let may_touch = query.flag("touch", true);
    let max_auth_age_secs = query.parsed("max_auth_age_secs", "must be a number of seconds", |text| {
        text.parse().ok()
    });
    let demands = Demands {
        max_auth_age_secs,
        tags: query.all("tag"),
    };
    let app = auth::app_of_request(request, state, &mut query)?;
    query.finish()?;
    let holder = auth::holder(request, state, app, may_touch, &demands).await?;
    let mut response = HttpResponse::Ok();
    if let Some(user_id) = &holder.session().user_id {
        let value = HeaderValue::from_str(&header_text(user_id.as_str()));
        let value = value.map_err(|error| Problem::internal(format!("a user id is no header: {error}")))?;
        response.insert_header((USER_ID_HEADER, value));
    }
    Ok((holder, response))
}

/// A user id as a header's value: what is not visible ASCII is percent-encoded, as is the percent sign.
fn header_text(user_id: &str) -> Cow<'_, str> {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"');
    utf8_percent_encode(user_id, UNSAFE).into()
}

/// A renewed token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Renewed)]
pub struct RenewedBody<'s> {
    /// The session.
    session: SessionBody<'s>,
    /// The token to use from now on.
    #[schema(example = "sst_…")]
    token: String,
    /// The `Set-Cookie` value for the browser, by the app's cookie profile.
    set_cookie: String,
}

/// Renews the token: the same session, a new token.
///
/// Everyone who presents the same token gets the same successor. The presented one stays good until some time
/// (`renew_grace_secs`) after its successor was first used, so that an answer that got lost signs nobody out; until then
/// renewing the successor answers it unchanged. Renewing a token that was replaced longer ago ends the session
/// (`token_reuse`): two hold what one should. If the token came by cookie, the answer sets the new one.
#[utoipa::path(
    post, path = "/v1/session/renew", tag = "token", security(("session_token" = []), ("session_cookie" = [])),
    params(AppParams),
    responses(
        (status = 200, description = "The token to use from now on", body = RenewedBody<'static>),
        (status = 401, description = "`no_session`, `invalid_token`, `token_replaced`, `session_ended`, \
         `ambiguous_cookie`", body = ProblemBody<'static>),
        (status = 403, description = "`cross_site`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn renew_token(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let app = auth::app_of_request(&request, &state, &mut query)?;
    query.finish()?;
    let (token, address, is_by_cookie) = match auth::present(&request, &state, &app)? {
        Presented::Nothing => return Err(auth::no_session()),
        Presented::Bearer(token) => (token, auth::forwarded_address(&request, &state), false),
        Presented::Cookies(tokens) => {
            let token = auth::choose(&state, &app, &tokens).await?;
            let token = token.ok_or(Refusal::InvalidToken)?.clone();
            (token, auth::client_address(&request, &state), true)
        }
    };
    match state.manager.renew(&app, &token, address).await? {
        RenewAnswer::Refused(refusal) => Err(refusal.into()),
        RenewAnswer::Renewed { session, token } => {
            let now = state.manager.clock().now();
            let token = token.reveal();
            let set_cookie = state.set_cookie(&app, &token, &session, now);
            let mut response = HttpResponse::Ok();
            if is_by_cookie {
                response.insert_header((header::SET_COOKIE, set_cookie.as_str()));
            }
            let body = RenewedBody {
                session: SessionBody::new(&session, now, Some(session.id), Audience::Application),
                token,
                set_cookie,
            };
            Ok(json(response, &body))
        }
    }
}

/// Signs out: ends the session of the token, and clears the cookie if it came by one.
///
/// Missing, unknown and ended tokens are fine too, unless unknown ones come too often. One that was replaced by a renewal, and
/// is past its grace, ends the session like a renewal of it (`token_reuse`). If the ending cannot be made durable it is 503, and
/// the cookie stays.
#[utoipa::path(
    delete, path = "/v1/session", tag = "token", security((), ("session_token" = []), ("session_cookie" = [])),
    params(AppParams),
    responses(
        (status = 204, description = "Signed out"),
        (status = 403, description = "`cross_site`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn sign_out(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request);
    let app = auth::app_of_request(&request, &state, &mut query)?;
    query.finish()?;
    let (tokens, is_by_cookie) = match auth::present(&request, &state, &app) {
        Ok(Presented::Bearer(token)) => (vec![token], false),
        Ok(Presented::Cookies(tokens)) => (tokens, true),
        Ok(Presented::Nothing) => {
            rate_limits::spend_unauthenticated(&request, &state)?;
            return Ok(HttpResponse::NoContent().finish());
        }
        // A malformed token is no session's, so there is nothing to sign out of.
        Err(problem) if problem.code() == super::problem::Code::InvalidToken => (Vec::new(), false),
        Err(problem) => return Err(problem),
    };
    let mut is_known = false;
    for token in &tokens {
        let answer = state
            .manager
            .check(&app, token, Use::Look, &Demands::default())
            .await?;
        is_known |= !matches!(answer, CheckAnswer::Refused(Refusal::InvalidToken));
        match answer {
            CheckAnswer::Active(entry) => {
                let revocation = Revocation::new(Reason::LOGOUT, EndedBy::User);
                state
                    .manager
                    .revoke(&app, entry.row().id, Owner::Anyone, revocation)
                    .await?;
            }
            // Somebody renewed it and went on with its successor. To sign out with it is to use it again after its grace, as
            // to renew it is, and that ends the session by the app's rule for it.
            CheckAnswer::Refused(Refusal::TokenReplaced) => {
                drop(state.manager.renew(&app, token, None).await?)
            }
            CheckAnswer::Refused(_) => {}
        }
    }
    if !is_known {
        rate_limits::spend_wrong(&request, &state)?;
    }
    let mut response = HttpResponse::NoContent();
    if is_by_cookie && let Some(config) = state.manager.app(&app) {
        response.insert_header((header::SET_COOKIE, cookie::clear(&config.cookie)));
    }
    Ok(response.finish())
}
