//! Operations: is it alive, can it read, what does it count, which address does it see.

use std::net::IpAddr;

use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::StateData;
use super::input::Query;
use super::json_writer::Text;
use super::problem::{Problem, ProblemBody};
use super::{address, json};

/// Whether the process answers. Touches nothing.
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"))
)]
pub async fn get_health() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("ok\n")
}

/// Whether requests can be served: reads one row.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "They can", body = String, content_type = "text/plain"),
        (status = 503, description = "`store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn get_readiness(state: StateData) -> Result<HttpResponse, Problem> {
    state.manager.ping().await?;
    Ok(HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .body("ready\n"))
}

/// What is counted, as OpenMetrics text.
///
/// For peers on this machine that do not forward for somebody else, and for addresses in `ops.allow`; 404 for all others.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "Metrics", body = String, content_type = "application/openmetrics-text"),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
    )
)]
pub async fn get_metrics(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    let caller = address::of_request(&request, &state.trusted_proxies);
    let is_forwarded = address::is_forwarding(request.headers());
    let is_local = !is_forwarded && caller.peer.is_none_or(|peer| peer.is_loopback());
    let is_allowed = |address: IpAddr| state.ops_allow.iter().any(|net| net.contains(&address));
    if !is_local && !caller.address.is_some_and(is_allowed) {
        return Err(Problem::not_found("page"));
    }
    Ok(HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(state.manager.render_metrics()))
}

/// Which address the server sees for a caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WhoAmI)]
pub struct WhoAmIBody {
    /// The client's address; null if the proxies do not tell.
    #[schema(value_type = Option<String>)]
    address: Option<Text<IpAddr>>,
    /// The address that is connected.
    #[schema(value_type = Option<String>)]
    peer: Option<Text<IpAddr>>,
    /// How it was found, in a sentence.
    why: String,
}

/// Which address was seen for this caller, and why: to try `server.trusted_proxies` out.
#[utoipa::path(
    get, path = "/v1/whoami", tag = "operations",
    responses((status = 200, description = "The address", body = WhoAmIBody))
)]
pub async fn get_whoami(request: HttpRequest, state: StateData) -> Result<HttpResponse, Problem> {
    Query::of(&request).finish()?;
    let caller = address::of_request(&request, &state.trusted_proxies);
    let body = WhoAmIBody {
        address: caller.address.map(Text),
        peer: caller.peer.map(Text),
        why: caller.why.into_owned(),
    };
    Ok(json(HttpResponse::Ok(), &body))
}
