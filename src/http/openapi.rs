//! The OpenAPI document, made from the handlers.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayItems, Object, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::Server;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, Response};
use utoipa::{Modify, OpenApi};

use super::auth::StateData;
use super::input::PAGE_LEN_MAX;
use super::problem::Code;
use super::sign_ins::IDEMPOTENCY_KEY_LEN_MAX;
use super::{
    client_sessions, events, identities, me, ops, session, session_data, sessions, sign_ins, users, webhooks,
};
use crate::data::PATH_LEN_MAX;
use crate::event::EventKind;
use crate::session::{APP_NAME_LEN_MAX, IDENTITY_KEY_CHARS_MAX, NAME_CHARS_MAX, REASON_CHARS_MAX};
use crate::store::REFUSED_LIST_LEN_MAX;
use crate::user::USER_ID_LEN_MAX;
use crate::webhook::{DESCRIPTION_CHARS_MAX, URL_LEN_MAX};

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
    modifiers(&SecuritySchemes, &Problems, &Bounds)
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
            for operation in operations(item) {
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

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [
        &mut item.get,
        &mut item.head,
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ];
    all.into_iter().flatten()
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
        common.extend([Code::StoreUnavailable, Code::TooManyRequests]);
    }
    if path == "/v1/whoami" {
        common.push(Code::TooManyRequests);
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
    if let Some(RefOr::T(response)) = responses.get_mut("429") {
        response.headers = rate_limit_headers();
    }
}

/// What an answer to too many requests says beside its body; the latter two also stand at others that a budget was spent for.
fn rate_limit_headers() -> BTreeMap<String, RefOr<Header>> {
    let headers = [
        ("Retry-After", "Seconds until it can be tried again"),
        (
            "RateLimit-Policy",
            "The budget: its name, size (`q`) and window in seconds (`w`)",
        ),
        (
            "RateLimit",
            "What is left of it (`r`), and the seconds until it is whole (`t`)",
        ),
    ];
    let header = |description| RefOr::T(HeaderBuilder::new().description(Some(description)).build());
    headers
        .map(|(name, description)| (name.to_owned(), header(description)))
        .into()
}

/// How long texts and how large numbers may be, by the names under which they are asked for everywhere: said once, by the
/// constants that they are refused by.
struct Bounds;

impl Modify for Bounds {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                for parameter in operation.parameters.iter_mut().flatten() {
                    let RefOr::T(parameter) = parameter else {
                        continue;
                    };
                    let Some(RefOr::T(schema)) = &mut parameter.schema else {
                        continue;
                    };
                    if parameter.parameter_in == ParameterIn::Header {
                        never_null(schema);
                    }
                    bound(schema, &parameter.name, path);
                }
                if let Some(RefOr::T(body)) = &mut operation.request_body {
                    absent_not_null(body);
                }
            }
        }
        let schemas = document
            .components
            .iter_mut()
            .flat_map(|components| components.schemas.values_mut());
        for schema in schemas {
            // Only what is read takes no unknown fields.
            if let RefOr::T(Schema::Object(object)) = schema
                && let Some(AdditionalProperties::FreeForm(false)) = object.additional_properties.as_deref()
            {
                for (name, property) in &mut object.properties {
                    if let RefOr::T(schema) = property {
                        bound(schema, name, "");
                    }
                }
            }
        }
    }
}

/// Without control characters, as `char::is_control` has them.
const CLEAN: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

/// Adds what is asked of everything of this name, at this path if it depends on that.
fn bound(schema: &mut Schema, name: &str, path: &str) {
    let schema = match schema {
        Schema::Object(object) => object,
        Schema::Array(array) => {
            let ArrayItems::RefOrSchema(items) = &mut array.items else {
                return;
            };
            let RefOr::T(Schema::Object(items)) = items.as_mut() else {
                return;
            };
            match name {
                "end_ids" => {
                    array.max_items = Some(REFUSED_LIST_LEN_MAX);
                    items.format = Some(SchemaFormat::Custom("uuid".to_owned()));
                }
                "types" => one_of(items, &EventKind::ALL.map(EventKind::as_str)),
                _ => {}
            }
            return;
        }
        _ => return,
    };
    match name {
        // In bytes, which a schema cannot say: it is the longest that some can be.
        "user_id" => text(schema, USER_ID_LEN_MAX, CLEAN),
        "path" => text(schema, PATH_LEN_MAX, r"^[^.]+(\.[^.]+){0,31}$"),
        "reason" => text(schema, REASON_CHARS_MAX, CLEAN),
        "name" => text(schema, NAME_CHARS_MAX, CLEAN),
        "description" => text(schema, DESCRIPTION_CHARS_MAX, CLEAN),
        "key" => text(schema, IDENTITY_KEY_CHARS_MAX, CLEAN),
        "app" => text(schema, APP_NAME_LEN_MAX, "^[a-z0-9][a-z0-9_-]*$"),
        "url" => text(schema, URL_LEN_MAX, "^[Hh][Tt][Tt][Pp][Ss]?:"),
        "Idempotency-Key" => text(schema, IDEMPOTENCY_KEY_LEN_MAX, "^[!-~]+$"),
        "n" => schema.pattern = Some("^(0|-?[1-9][0-9]{0,18})$".to_owned()),
        "except" => schema.format = Some(SchemaFormat::Custom("uuid".to_owned())),
        "types" => {
            let types = EventKind::ALL
                .map(EventKind::as_str)
                .join("|")
                .replace('.', r"\.");
            schema.pattern = Some(format!("^({types})(,({types}))*$"));
        }
        "status" if path.ends_with("/deliveries") => {
            one_of(schema, &["pending", "delivered", "failed", "skipped"]);
        }
        "status" => one_of(schema, &["active", "ended", "all"]),
        "ended_by" => one_of(schema, &["user", "app", "operator"]),
        "limit" => {
            schema.minimum = Some(1_usize.into());
            schema.maximum = Some(PAGE_LEN_MAX.into());
        }
        // Whatever 64 bits can say.
        "idle_timeout_secs" | "absolute_timeout_secs" | "max_auth_age_secs" => {
            schema.format = Some(SchemaFormat::Custom("uint64".to_owned()));
            schema.maximum = Some(usize::MAX.into());
        }
        _ => {}
    }
}

fn text(schema: &mut Object, len_max: usize, pattern: &str) {
    schema.min_length = Some(1);
    schema.max_length = Some(len_max);
    schema.pattern = Some(pattern.to_owned());
}

fn one_of(schema: &mut Object, names: &[&str]) {
    schema.enum_values = Some(names.iter().map(|name| (*name).into()).collect());
}

/// A header that may be absent is text if it is there.
fn never_null(schema: &mut Schema) {
    if let Schema::Object(object) = schema
        && let SchemaType::Array(types) = &mut object.schema_type
    {
        types.retain(|one| *one != Type::Null);
        if let [one] = types.as_slice() {
            object.schema_type = SchemaType::Type(one.clone());
        }
    }
}

/// A body that may be absent is an object if it is there: `null` is none.
fn absent_not_null(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        if let RefOr::T(content) = content
            && let Some(RefOr::T(Schema::OneOf(either))) = &content.schema
            && let Some(there) = either.items.iter().find(|one| matches!(one, RefOr::Ref(_)))
        {
            content.schema = Some(there.clone());
            body.required = Some(Required::False);
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
