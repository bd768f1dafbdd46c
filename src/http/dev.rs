//! What only `sessiond dev` has: a sign-in that takes any name, and a clock that can be moved. And the guard that keeps
//! it to this machine.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::auth::{self, StateData};
use super::input::{self, Body, Query};
use super::json_writer::Text;
use super::problem::{Code, Problem};
use super::session_body::{Audience, SessionBody};
use super::{address, json};
use crate::clock::Timestamp;
use crate::manager::SignIn;
use crate::sweeper;
use crate::user::UserId;

/// Farthest that one call moves the clock: longer than the longest retention of the defaults.
const ADVANCE_MAX: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Refuses whatever does not come from a browser or program on this machine that asks for this machine: a page
/// elsewhere that got its name resolved to here (DNS rebinding), a tunnel, a proxy.
pub fn guard(request: &HttpRequest) -> Result<(), Problem> {
    let refused = |detail: &str| Err(Problem::new(Code::DevOnlyLoopback, detail));
    if !request
        .peer_addr()
        .is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    {
        return refused("`sessiond dev` answers requests from this machine only.");
    }
    if address::is_forwarding(request.headers()) {
        return refused("`sessiond dev` does not answer requests that were forwarded; use `sessiond serve`.");
    }
    let is_local = auth::host_of(request).is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost"
            || bare
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    });
    if !is_local {
        return refused("`sessiond dev` answers to localhost and loopback addresses only.");
    }
    Ok(())
}

/// Refuses what a page of another site made the browser send. Its JSON body would need CORS, which nobody is given;
/// this says why.
fn refuse_other_sites(request: &HttpRequest) -> Result<(), Problem> {
    match request
        .headers()
        .get("sec-fetch-site")
        .map(|site| site.as_bytes())
    {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Problem::new(
            Code::CrossSite,
            "Another site made the browser send this.",
        )),
    }
}

/// Who signs in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevSignIn {
    name: String,
}

#[derive(Debug, Serialize)]
struct DevSignedIn<'s> {
    session: SessionBody<'s>,
}

/// Signs a browser in as anybody, and gives it the cookie.
pub async fn dev_sign_in(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    refuse_other_sites(&request)?;
    let mut query = Query::of(&request);
    let app = auth::app_of_request(&request, &state, &mut query)?;
    query.finish()?;
    let body: DevSignIn = input::json(&request, payload, Body::Required).await?;
    let user_id = UserId::parse(&body.name).ok_or_else(|| Problem::invalid_field("name", UserId::RULE))?;
    let header_text = |name: header::HeaderName| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let sign_in = SignIn {
        user_id: Some(user_id),
        ip_address: address::of_request(&request, &[]).address,
        user_agent: header_text(header::USER_AGENT),
        ..SignIn::default()
    };
    let signed_in = state.manager.create(&app, sign_in).await?;
    let now = state.manager.clock().now();
    let session = &signed_in.session;
    let cookie = state.set_cookie(&app, &signed_in.token.reveal(), session, now);
    let mut response = HttpResponse::Created();
    response.insert_header((header::SET_COOKIE, cookie));
    let session = SessionBody::new(session, now, Some(session.id), Audience::Person);
    Ok(json(response, &DevSignedIn { session }))
}

/// How far to move the clock.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevClock {
    advance_secs: u64,
}

#[derive(Debug, Serialize)]
struct DevClockBody {
    now: Text<Timestamp>,
}

/// Moves the server's clock forward, then does the regular work that has come due: touches, deadlines, retention.
pub async fn dev_clock(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    refuse_other_sites(&request)?;
    Query::of(&request).finish()?;
    let body: DevClock = input::json(&request, payload, Body::Required).await?;
    if body.advance_secs > ADVANCE_MAX.as_secs() {
        let rule = format!("must be at most {}", ADVANCE_MAX.as_secs());
        return Err(Problem::invalid_field("advance_secs", rule));
    }
    // What was used until now is written with the time at which it was used.
    sweeper::tick(&state.manager).await?;
    state
        .manager
        .clock()
        .advance(Duration::from_secs(body.advance_secs));
    sweeper::tick(&state.manager).await?;
    let now = state.manager.clock().now();
    Ok(json(HttpResponse::Ok(), &DevClockBody { now: Text(now) }))
}
