//! The OpenAPI document, made from the handlers.

use actix_web::HttpResponse;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::Server;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response};
use utoipa::{Modify, OpenApi};

use super::auth::StateData;
use super::problem::Code;
use super::{
    client_sessions, events, identities, me, ops, session, session_data, sessions, sign_ins, users, webhooks,
};

/// Every operation that applications and people use; the operator's own are the command line's matter.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "sessiond",
        description = "Sessions for applications: start, check, renew, list and end them. Errors are RFC 9457 \
            problems; match on their `code`. Times are RFC 3339 in UTC. Lists are paged by `limit` and `cursor`."
    ),
    paths(
        sign_ins::create_session,
        sessions::check_session,
        sessions::list_sessions,
        sessions::revoke_all_sessions,
        sessions::get_session,
        sessions::update_session,
        sessions::revoke_session,
        sessions::touch_session,
        sign_ins::authenticate_session,
        session_data::get_session_data,
        session_data::put_session_data,
        session_data::patch_session_data,
        session_data::delete_session_data,
        identities::put_identity,
        identities::delete_identity,
        users::get_user,
        users::update_user,
        users::list_user_sessions,
        users::revoke_user_sessions,
        client_sessions::put_client_session,
        client_sessions::get_client_session,
        client_sessions::has_client_session,
        client_sessions::revoke_client_session,
        session::check_own_session,
        session::head_own_session,
        session::renew_token,
        session::sign_out,
        events::list_events,
        webhooks::create_webhook,
        webhooks::list_webhooks,
        webhooks::get_webhook,
        webhooks::update_webhook,
        webhooks::delete_webhook,
        webhooks::test_webhook,
        webhooks::rotate_webhook_secret,
        webhooks::list_webhook_deliveries,
        webhooks::replay_webhook_delivery,
        webhooks::replay_webhook,
        me::start_own_session,
        me::list_own_sessions,
        me::revoke_own_sessions,
        me::revoke_own_session,
        me::rename_own_session,
        events::list_own_events,
        ops::get_whoami,
        ops::get_health,
        ops::get_readiness,
        ops::get_metrics,
    ),
    tags(
        (name = "service", description = "For backends, with an API key; it acts in that key's app."),
        (name = "token", description = "For the holder of a session token."),
        (name = "self", description = "For the person: their own sessions. By cookie, unsafe calls must come from \
            the same origin."),
        (name = "operations", description = "For whoever runs the server.")
    ),
    modifiers(&SecuritySchemes, &Problems)
)]
struct Document;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = |description: &str| {
            let scheme = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(description))
                .build();
            SecurityScheme::Http(scheme)
        };
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", bearer("An API key, `ssk_…`"));
        components.add_security_scheme("session_token", bearer("A session token, `sst_…`"));
        let cookie =
            ApiKeyValue::with_description("__Host-session", "The app's cookie; its name is configuration");
        components.add_security_scheme("session_cookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// What problems have in common everywhere, said once instead of at every handler.
struct Problems;

impl Modify for Problems {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let operations = [
                &mut item.get,
                &mut item.head,
                &mut item.post,
                &mut item.put,
                &mut item.patch,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                complete(operation, path);
            }
        }
        let schemas = document
            .components
            .as_mut()
            .map(|components| &mut components.schemas);
        if let Some(RefOr::T(Schema::Object(problem))) = schemas.and_then(|all| all.get_mut("Problem"))
            && let Some(RefOr::T(Schema::Object(code))) = problem.properties.get_mut("code")
        {
            let mut names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
            // An ended session is 401 to its holder and 410 to the backend: two codes of one name, side by side.
            names.sort_unstable();
            names.dedup();
            code.enum_values = Some(names.into_iter().map(Into::into).collect());
        }
    }
}

/// Adds the problems that follow from what the operation takes, and gives every problem its media type.
fn complete(operation: &mut Operation, path: &str) {
    let mut common = Vec::new();
    if operation.request_body.is_some() {
        let of_bodies = [
            Code::MalformedJson,
            Code::RequestTimeout,
            Code::PayloadTooLarge,
            Code::UnsupportedMediaType,
        ];
        common.extend(of_bodies);
    }
    if path.starts_with("/v1/") {
        common.push(Code::ValidationFailed);
    }
    if operation.security.is_some() {
        common.push(Code::StoreUnavailable);
    }
    let responses = &mut operation.responses.responses;
    for code in common {
        let response = || RefOr::T(Response::new(format!("`{}`", code.as_str())));
        responses
            .entry(code.status().to_string())
            .or_insert_with(response);
    }
    for (_, response) in responses
        .iter_mut()
        .filter(|(status, _)| !status.starts_with('2'))
    {
        if let RefOr::T(response) = response {
            let problem = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build();
            response.content = [("application/problem+json".to_owned(), RefOr::T(problem))].into();
        }
    }
}

/// The document for a server with this base path.
pub fn document(base_path: &str) -> String {
    let mut document = Document::openapi();
    document.servers = Some(vec![Server::new(if base_path.is_empty() {
        "/"
    } else {
        base_path
    })]);
    document
        .to_json()
        .expect("the document is made of plain strings and maps")
}

/// The OpenAPI document.
pub async fn get_openapi(state: StateData) -> HttpResponse {
    let document = state.openapi.get_or_init(|| document(&state.base_path));
    HttpResponse::Ok()
        .content_type("application/json")
        .body(document.clone())
}
