//! The OpenAPI document, made from the handlers.

use actix_web::HttpResponse;
use utoipa::openapi::RefOr;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::Server;
use utoipa::{Modify, OpenApi};

use super::auth::StateData;
use super::{me, ops, session, sessions, users};

/// Every operation that applications and people use; the operator's own are the command line's matter.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "sessiond",
        description = "Sessions for applications: start, check, list and end them. Errors are RFC 9457 problems; \
            match on their `code`. Times are RFC 3339 in UTC. Lists are paged by `limit` and `cursor`."
    ),
    paths(
        sessions::create_session,
        sessions::check_session,
        sessions::list_sessions,
        sessions::revoke_all_sessions,
        sessions::get_session,
        sessions::update_session,
        sessions::revoke_session,
        sessions::touch_session,
        users::get_user,
        users::update_user,
        users::list_user_sessions,
        users::revoke_user_sessions,
        session::check_own_session,
        session::sign_out,
        me::list_own_sessions,
        me::revoke_own_sessions,
        me::revoke_own_session,
        me::rename_own_session,
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
    modifiers(&SecuritySchemes)
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

/// The document for a server with this base path.
pub fn document(base_path: &str) -> String {
    let mut document = Document::openapi();
    name_problems(&mut document);
    document.servers = Some(vec![Server::new(if base_path.is_empty() {
        "/"
    } else {
        base_path
    })]);
    document
        .to_json()
        .expect("the document is made of plain strings and maps")
}

/// Every refusal is a problem, which has a media type of its own.
fn name_problems(document: &mut utoipa::openapi::OpenApi) {
    let operations = document.paths.paths.values_mut().flat_map(|path| {
        [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete]
            .into_iter()
            .flatten()
    });
    for (status, response) in operations.flat_map(|operation| operation.responses.responses.iter_mut()) {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && let Some(content) = response.content.shift_remove("application/json")
        {
            response
                .content
                .insert("application/problem+json".to_owned(), content);
        }
    }
}

/// The OpenAPI document.
pub async fn get_openapi(state: StateData) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(state.openapi.clone())
}
