//! The HTTP edge: routes, what every answer carries, limits.
//!
//! Two tables of routes: the public one (TCP) with all planes, and the operator's (Unix socket) with the service plane
//! and the API keys, where the socket's mode is the credential. Handlers parse, call the manager and write; rules live
//! elsewhere. Each answer passes [`edge`] once: request id, security headers, metrics, and the log of what went wrong.

pub mod address;
pub mod auth;
pub mod client_sessions;
pub mod cookie;
pub mod dashboard;
pub mod dev;
pub mod events;
pub mod identities;
pub mod input;
pub mod keys;
pub mod me;
pub mod openapi;
pub mod ops;
pub mod problem;
pub mod session;
pub mod session_body;
pub mod session_data;
pub mod sessions;
pub mod sign_ins;
pub mod unread;
pub mod users;
pub mod webhooks;

use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::guard::{Any, Get, Head};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Resource, Route, web};
use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::manager::SessionManager;
use crate::observer::webhook::Webhooks;
use crate::session::{AppName, SessionId};
use auth::{Plane, StateData};
use events::Streams;
use problem::Problem;
use unread::UnreadPayload;

/// Longest request id that is taken over from a request.
const REQUEST_ID_LEN_MAX: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What handlers share.
pub struct State {
    /// Everything about sessions.
    pub manager: Arc<SessionManager>,
    /// Where events are sent.
    pub webhooks: Arc<Webhooks>,
    /// Which listener this is for.
    pub plane: Plane,
    /// Whether this is `sessiond dev`.
    pub is_dev: bool,
    /// Where this server stands in the URL: "" or "/x".
    pub base_path: String,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins the dashboard is reached by; empty: whatever the Host header says.
    pub public_origins: Vec<String>,
    /// Who may read metrics from another machine.
    pub ops_allow: Vec<IpNet>,
    /// The OpenAPI document.
    pub openapi: String,
    /// The live streams of this listener.
    pub streams: Streams,
}

impl State {
    /// The state for one listener.
    pub fn new(
        manager: Arc<SessionManager>,
        webhooks: Arc<Webhooks>,
        config: &Config,
        plane: Plane,
        is_dev: bool,
    ) -> Self {
        Self {
            manager,
            webhooks,
            plane,
            is_dev,
            openapi: openapi::document(&config.server.base_path),
            base_path: config.server.base_path.clone(),
            trusted_proxies: config.server.trusted_proxies.clone(),
            public_origins: config.server.public_origins.clone(),
            ops_allow: config.ops.allow.clone(),
            streams: Streams::default(),
        }
    }

    /// Where an app's people sign in.
    pub fn sign_in_url(&self, app: &AppName) -> Option<&str> {
        self.manager.app(app)?.sign_in_url.as_deref()
    }
}

/// The routes of a listener.
pub fn routes(config: &mut web::ServiceConfig, state: &StateData) {
    config.app_data(state.clone());
    if state.plane == Plane::Operator {
        service_plane(config);
        config.service(
            at("/v1/keys", "GET, POST")
                .route(web::get().to(keys::list_keys))
                .route(web::post().to(keys::create_key)),
        );
        config.service(at("/v1/keys/{id}", "DELETE").route(web::delete().to(keys::revoke_key)));
        operations(config);
        return;
    }
    if state.base_path.is_empty() {
        config.configure(|config| public(config, state.is_dev));
        return;
    }
    // Probes of the machine itself need not know where the server stands in the URL.
    config.service(at("/healthz", "GET, HEAD").route(get().to(ops::get_health)));
    config.service(at("/readyz", "GET, HEAD").route(get().to(ops::get_readiness)));
    // The page's relative links need the slash.
    config.service(at(&state.base_path, "GET, HEAD").route(get().to(add_slash)));
    config.service(web::scope(&state.base_path).configure(|config| public(config, state.is_dev)));
}

fn public(config: &mut web::ServiceConfig, is_dev: bool) {
    // First, as routes are tried in their order, and this is the one that is asked for all the time.
    config.service(
        at("/v1/session", "GET, HEAD, DELETE")
            .route(web::get().to(session::check_own_session))
            .route(web::head().to(session::head_own_session))
            .route(web::delete().to(session::sign_out)),
    );
    service_plane(config);
    config.service(at("/v1/sessions/{id}/touch", "POST").route(web::post().to(sessions::touch_session)));
    config.service(at("/v1/session/renew", "POST").route(web::post().to(session::renew_token)));
    config.service(at("/v1/me/session", "POST").route(web::post().to(me::start_own_session)));
    config.service(at("/v1/me/events", "GET").route(web::get().to(events::list_own_events)));
    config.service(
        at("/v1/me/sessions", "GET, DELETE")
            .route(web::get().to(me::list_own_sessions))
            .route(web::delete().to(me::revoke_own_sessions)),
    );
    config.service(
        at("/v1/me/sessions/{id}", "PATCH, DELETE")
            .route(web::patch().to(me::rename_own_session))
            .route(web::delete().to(me::revoke_own_session)),
    );
    operations(config);
    config.service(at("/openapi.json", "GET, HEAD").route(get().to(openapi::get_openapi)));
    config.service(at("/docs", "GET, HEAD").route(get().to(dashboard::get_docs)));
    config.service(at("/", "GET, HEAD").route(get().to(dashboard::get_dashboard)));
    config.service(at("/static/{name}", "GET, HEAD").route(get().to(dashboard::get_asset)));
    if is_dev {
        config.service(
            at("/dev/sign-in", "GET, HEAD, POST")
                .route(get().to(dashboard::get_dev_sign_in))
                .route(web::post().to(dev::dev_sign_in)),
        );
        config.service(at("/dev/clock", "POST").route(web::post().to(dev::dev_clock)));
    }
}

fn operations(config: &mut web::ServiceConfig) {
    config.service(at("/v1/whoami", "GET").route(web::get().to(ops::get_whoami)));
    config.service(at("/healthz", "GET, HEAD").route(get().to(ops::get_health)));
    config.service(at("/readyz", "GET, HEAD").route(get().to(ops::get_readiness)));
    config.service(at("/metrics", "GET").route(web::get().to(ops::get_metrics)));
}

fn service_plane(config: &mut web::ServiceConfig) {
    config.service(
        at("/v1/sessions", "GET, POST, DELETE")
            .route(web::get().to(sessions::list_sessions))
            .route(web::post().to(sign_ins::create_session))
            .route(web::delete().to(sessions::revoke_all_sessions)),
    );
    config.service(at("/v1/sessions/check", "POST").route(web::post().to(sessions::check_session)));
    config.service(
        at("/v1/sessions/{id}", "GET, PATCH, DELETE")
            .route(web::get().to(sessions::get_session))
            .route(web::patch().to(sessions::update_session))
            .route(web::delete().to(sessions::revoke_session)),
    );
    config.service(
        at("/v1/sessions/{id}/authenticate", "POST").route(web::post().to(sign_ins::authenticate_session)),
    );
    config.service(
        at("/v1/sessions/{id}/data", "GET, PUT, PATCH, DELETE")
            .route(web::get().to(session_data::get_session_data))
            .route(web::put().to(session_data::put_session_data))
            .route(web::patch().to(session_data::patch_session_data))
            .route(web::delete().to(session_data::delete_session_data)),
    );
    config.service(
        at("/v1/sessions/{id}/identities/{key}", "PUT, DELETE")
            .route(web::put().to(identities::put_identity))
            .route(web::delete().to(identities::delete_identity)),
    );
    config.service(
        at("/v1/client-sessions/{n}", "GET, HEAD, PUT, DELETE")
            .route(web::get().to(client_sessions::get_client_session))
            .route(web::head().to(client_sessions::has_client_session))
            .route(web::put().to(client_sessions::put_client_session))
            .route(web::delete().to(client_sessions::revoke_client_session)),
    );
    config.service(
        at("/v1/users/{user_id}", "GET, PATCH")
            .route(web::get().to(users::get_user))
            .route(web::patch().to(users::update_user)),
    );
    config.service(
        at("/v1/users/{user_id}/sessions", "GET, DELETE")
            .route(web::get().to(users::list_user_sessions))
            .route(web::delete().to(users::revoke_user_sessions)),
    );
    config.service(
        at("/v1/webhooks", "GET, POST")
            .route(web::get().to(webhooks::list_webhooks))
            .route(web::post().to(webhooks::create_webhook)),
    );
    config.service(
        at("/v1/webhooks/{id}", "GET, PATCH, DELETE")
            .route(web::get().to(webhooks::get_webhook))
            .route(web::patch().to(webhooks::update_webhook))
            .route(web::delete().to(webhooks::delete_webhook)),
    );
    config.service(at("/v1/webhooks/{id}/test", "POST").route(web::post().to(webhooks::test_webhook)));
    config.service(
        at("/v1/webhooks/{id}/rotate-secret", "POST").route(web::post().to(webhooks::rotate_webhook_secret)),
    );
    config.service(
        at("/v1/webhooks/{id}/deliveries", "GET").route(web::get().to(webhooks::list_webhook_deliveries)),
    );
    config.service(
        at("/v1/webhooks/{id}/deliveries/{event_id}/replay", "POST")
            .route(web::post().to(webhooks::replay_webhook_delivery)),
    );
    config.service(at("/v1/webhooks/{id}/replay", "POST").route(web::post().to(webhooks::replay_webhook)));
    config.service(at("/v1/events", "GET").route(web::get().to(events::list_events)));
}

/// A resource that tells which methods it has when another is tried.
fn at(path: &str, allow: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move || async move {
        Err::<HttpResponse, _>(Problem::method_not_allowed(allow))
    }))
}

/// GET, and HEAD with it.
fn get() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

async fn add_slash(state: StateData, request: HttpRequest) -> HttpResponse {
    let query = request
        .uri()
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let location = format!("{}/{query}", state.base_path);
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, location))
        .finish()
}

/// Whatever has no route.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("page"))
}

/// An answer in JSON.
pub fn json(mut response: HttpResponseBuilder, body: &impl Serialize) -> HttpResponse {
    match serde_json::to_string(body) {
        Ok(text) => response.content_type("application/json").body(text),
        Err(error) => HttpResponse::from_error(Problem::internal(format!("an answer has no JSON: {error}"))),
    }
}

/// What every request passes on its way in, and every answer on its way out.
pub async fn edge(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let state = request.app_data::<StateData>().cloned();
    let guarded = match &state {
        Some(state) if state.is_dev && state.plane == Plane::Public => dev::guard(request.request()),
        _ => Ok(()),
    };
    let payload = UnreadPayload::share(&mut request);
    let mut response = match guarded {
        Ok(()) => next.call(request).await?.map_into_boxed_body(),
        Err(problem) => request.error_response(problem),
    };
    if let Some(error) = response.response().error() {
        let status = response.status();
        let problem = match error.as_error::<Problem>() {
            Some(problem) => problem.clone(),
            None if status.is_client_error() => {
                return Ok(payload.hold(finish(response, &request_id, state.as_ref(), started)));
            }
            None => Problem::internal(error.to_string()),
        };
        if let Some(cause) = problem.cause() {
            let operation = operation(response.request());
            log::error!(
                "{operation} was answered with {}: {cause} request_id={request_id}",
                problem.code().as_str()
            );
        }
        // HttpResponse::error keeps the headers out; all of a problem's are made from the problem.
        let (request, _) = response.into_parts();
        response = ServiceResponse::new(request, problem.to_response(&request_id));
    }
    Ok(payload.hold(finish(response, &request_id, state.as_ref(), started)))
}

fn finish(
    mut response: ServiceResponse<BoxBody>,
    request_id: &str,
    state: Option<&StateData>,
    started: Instant,
) -> ServiceResponse<BoxBody> {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    let always = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(state) = state.filter(|state| state.is_dev)
        && let Ok(value) = HeaderValue::from_str(&state.manager.clock().now().to_http_date())
    {
        // The page tells how long ago something was; in `dev` its own clock is not the server's.
        response.headers_mut().insert(header::DATE, value);
    }
    if let Some(state) = state {
        let metrics = state.manager.metrics();
        let labels = [
            ("operation", operation(response.request())),
            ("status", response.status().as_u16().to_string()),
        ];
        metrics.http_requests.get_or_create(&labels).inc();
        metrics
            .http_request_seconds
            .observe(started.elapsed().as_secs_f64());
    }
    response
}

/// The operation as a label: method and route, of which there are few whatever callers send.
fn operation(request: &HttpRequest) -> String {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    let method = known
        .into_iter()
        .find(|known| *known == request.method().as_str())
        .unwrap_or("OTHER");
    match request.match_pattern() {
        Some(pattern) => format!("{method} {pattern}"),
        None => format!("{method} other"),
    }
}

/// The caller's id for the request if it is a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_sane = |id: &&str| {
        (1..=REQUEST_ID_LEN_MAX).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .filter(is_sane);
    given.map_or_else(random_id, str::to_owned)
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    SessionId::from_bytes(bytes).to_string()
}
