//! The HTTP edge: routes, what every answer carries, limits.
//!
//! Two tables of routes: the public one (TCP) with all planes, and the operator's (Unix socket) with the service plane
//! and the API keys and what is kept of users, where the socket's mode is the credential. Handlers parse, call the manager and write; rules live
//! elsewhere. Each answer passes [`edge`] once: rate limits, request id, security headers, metrics, and the log of what went
//! wrong.

pub mod address;
pub mod auth;
pub mod client_sessions;
pub mod connection;
pub mod cookie;
pub mod dashboard;
pub mod dev;
pub mod events;
pub mod identities;
pub mod input;
pub mod json_writer;
pub mod keys;
pub mod me;
pub mod openapi;
pub mod ops;
pub mod problem;
pub mod rate_limits;
pub mod session;
pub mod session_body;
pub mod session_data;
pub mod sessions;
pub mod sign_ins;
pub mod unread;
pub mod users;
pub mod webhooks;

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::guard::{Any, Get, Head};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, Resource, Route, web};
use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::manager::SessionManager;
use crate::metrics::Counter;
use crate::observer::webhook::Webhooks;
use crate::session::{AppName, SessionId};
use auth::{Plane, StateData};
use connection::Answering;
use events::Streams;
use json_writer::WriteJson;
use problem::Problem;
use rate_limits::{Budget, RateLimits};
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
    /// Whether this listener speaks TLS.
    pub is_tls: bool,
    /// Where this server stands in the URL: "" or "/x".
    pub base_path: String,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins the dashboard is reached by; empty: whatever the Host header says.
    pub public_origins: Vec<String>,
    /// Who may read metrics from another machine.
    pub ops_allow: Vec<IpNet>,
    /// The OpenAPI document, once somebody has asked for it: making it takes longer than everything else of a start.
    pub openapi: OnceLock<String>,
    /// The live streams of this listener.
    pub streams: Streams,
    /// How often strangers and backends may ask.
    pub rate_limits: RateLimits,
    /// The app that a request is for which neither names one nor comes to the host of one.
    pub default_app: AppName,
    /// Whether any app lists the hosts that it is asked at.
    pub lists_hosts: bool,
    /// The path of the check, and its counters.
    check: CheckRoute,
}

/// What is known beforehand of the call that is made all the time: its path, and its counters once they have counted.
struct CheckRoute {
    path: String,
    got: OnceLock<Counter>,
    headed: OnceLock<Counter>,
}

impl CheckRoute {
    fn new(base_path: &str) -> Self {
        Self {
            path: format!("{base_path}/v1/session"),
            got: OnceLock::new(),
            headed: OnceLock::new(),
        }
    }
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
            default_app: AppName::default_app(),
            lists_hosts: manager.apps().values().any(|app| !app.hosts.is_empty()),
            check: CheckRoute::new(&config.server.base_path),
            rate_limits: RateLimits::new(&config.rate_limits, manager.clock(), manager.metrics()),
            manager,
            webhooks,
            plane,
            is_dev,
            is_tls: plane == Plane::Public && config.server.tls.is_some(),
            openapi: OnceLock::new(),
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
        config.service(at("/v1/users/{user_id}/kept", "GET").route(web::get().to(users::get_kept)));
        config.service(at("/v1/users/{user_id}/erase", "POST").route(web::post().to(users::erase_user)));
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
pub fn json(response: HttpResponseBuilder, body: &impl Serialize) -> HttpResponse {
    match serde_json::to_vec(body) {
        Ok(text) => of_json(response, text),
        Err(error) => HttpResponse::from_error(Problem::internal(format!("an answer has no JSON: {error}"))),
    }
}

/// An answer in JSON that writes itself.
pub fn json_by_hand(response: HttpResponseBuilder, body: &impl WriteJson) -> HttpResponse {
    // A session with a user agent has about 850 bytes.
    let mut text = Vec::with_capacity(1_024);
    body.write(&mut text);
    of_json(response, text)
}

fn of_json(mut response: HttpResponseBuilder, text: Vec<u8>) -> HttpResponse {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    response.insert_header((header::CONTENT_TYPE, JSON)).body(text)
}

/// What every request passes on its way in, and every answer on its way out.
pub async fn edge(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
    state: StateData,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let answering = Answering::begin(request.request());
    let id = RequestId::of(request.headers());
    let payload = UnreadPayload::share(&mut request);
    let is_public = state.plane == Plane::Public;
    let mut admitted = match state.is_dev && is_public {
        true => dev::guard(request.request()),
        false => Ok(()),
    };
    let is_check = is_public && request.path() == state.check.path;
    if is_public && !is_check && admitted.is_ok() {
        admitted = rate_limits::admit(request.request(), &state).await;
    }
    let mut response = match (admitted, request.method()) {
        (Err(problem), _) => request.error_response(problem),
        // The call that is made all the time goes straight to its handler.
        (Ok(()), &Method::GET) if is_check => {
            let answer = session::check_own_session(request.request().clone(), state.clone()).await;
            answered(request, answer)
        }
        (Ok(()), &Method::HEAD) if is_check => {
            let answer = session::head_own_session(request.request().clone(), state.clone()).await;
            answered(request, answer)
        }
        _ => {
            request.request().extensions_mut().insert(id.clone());
            next.call(request).await?.map_into_boxed_body()
        }
    };
    if let Some(error) = response.response().error() {
        let status = response.status();
        let problem = match error.as_error::<Problem>() {
            Some(problem) => problem.clone(),
            None if status.is_client_error() => {
                return Ok(answering.finish(payload.hold(finish(response, id, &state, started))));
            }
            None => Problem::internal(error.to_string()),
        };
        if let Some(cause) = problem.cause()
            && let Some(left_out) = state.rate_limits.failures.take_line()
        {
            let operation = operation(response.request());
            let before = match left_out {
                0 => String::new(),
                count => format!(" ({count} more before it)"),
            };
            log::error!(
                "{operation} was answered with {}: {cause} request_id={}{before}",
                problem.code().as_str(),
                id.as_str()
            );
        }
        let problem = match is_public {
            true => rate_limits::count_refusal(problem, response.request(), &state).await,
            false => problem,
        };
        // HttpResponse::error keeps the headers out; all of a problem's are made from the problem.
        let (request, _) = response.into_parts();
        response = ServiceResponse::new(request, problem.to_response(id.as_str()));
    }
    Ok(answering.finish(payload.hold(finish(response, id, &state, started))))
}

fn answered(request: ServiceRequest, answer: Result<HttpResponse, Problem>) -> ServiceResponse<BoxBody> {
    match answer {
        Ok(response) => request.into_response(response),
        Err(problem) => request.error_response(problem),
    }
}

/// What every answer says beside what is in it.
static ALWAYS: [(HeaderName, HeaderValue); 5] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        header::CROSS_ORIGIN_RESOURCE_POLICY,
        HeaderValue::from_static("same-origin"),
    ),
    (
        header::CROSS_ORIGIN_OPENER_POLICY,
        HeaderValue::from_static("same-origin"),
    ),
];

/// What every answer over TLS says besides: come by TLS only, for a year (RFC 6797). Of this host alone, as those below it are
/// not this server's. Never by plain HTTP, where it would count for nothing (section 7.2): there it is the proxy's to say.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

fn finish(
    mut response: ServiceResponse<BoxBody>,
    id: RequestId,
    state: &State,
    started: Instant,
) -> ServiceResponse<BoxBody> {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.0);
    for (name, value) in &ALWAYS {
        headers.insert(name.clone(), value.clone());
    }
    if state.is_tls {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if state.is_dev
        && let Ok(value) = HeaderValue::from_str(&state.manager.clock().now().to_http_date())
    {
        // The page tells how long ago something was; in `dev` its own clock is not the server's.
        headers.insert(header::DATE, value);
    }
    let metrics = state.manager.metrics();
    let status = response.status();
    let is_good_check = status == StatusCode::OK && response.request().path() == state.check.path;
    if !is_good_check {
        Budget::tell(&mut response, metrics);
    }
    let request = response.request();
    let counter = || metrics.http_requests(&operation(request), status.as_u16());
    match *request.method() {
        Method::GET if is_good_check => state.check.got.get_or_init(counter).inc(),
        Method::HEAD if is_good_check => state.check.headed.get_or_init(counter).inc(),
        _ => counter().inc(),
    };
    metrics.http_request_seconds.observe(started.elapsed());
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

/// The caller's id for the request if it is a sane one, else a new one. A handler finds it among the request's extensions.
#[derive(Clone)]
struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let is_sane = |id: &&HeaderValue| {
            (1..=REQUEST_ID_LEN_MAX).contains(&id.len())
                && id
                    .as_bytes()
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let given = headers.get(REQUEST_ID).filter(is_sane);
        given.map_or_else(Self::next, |id| Self(id.clone()))
    }

    /// One that no other request has; nothing depends on nobody guessing it. Each worker counts on from a random place, in
    /// steps by which neighbours look unlike each other.
    fn next() -> Self {
        const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        thread_local! {
            static LAST: Cell<u128> = {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
                Cell::new(u128::from_ne_bytes(bytes))
            };
        }
        let number = LAST.get().wrapping_add(STEP);
        LAST.set(number);
        let id = SessionId::from_bytes(number.to_be_bytes());
        let mut text = [0; 36];
        Self(HeaderValue::from_str(id.encode(&mut text)).expect("hexadecimal digits and hyphens"))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}
