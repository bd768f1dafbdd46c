//! The OpenAPI document says what the server does: no more, no less.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};
use sessiond::http::problem::Code;

use crate::harness::{SignedIn, TestServer};

/// The route table as it is written.
const ROUTES: &str = include_str!("../../src/http.rs");
/// The page that explains the document.
const PAGE: &str = include_str!("../../docs/API.md");
/// Routes that are for browsers: pages and their parts, and the document itself.
const FOR_BROWSERS: [&str; 4] = ["/", "/docs", "/openapi.json", "/static/{name}"];

async fn document(server: &TestServer) -> Value {
    let reply = server.get("/openapi.json").send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json
}

/// Path, method in capitals and the operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().expect("operations").iter();
        operations.map(|(method, operation)| (path.clone(), method.to_uppercase(), operation.clone()))
    });
    let operations: Vec<_> = operations.collect();
    assert!(operations.len() > 20, "{} operations", operations.len());
    operations
}

/// The part of the route table between two marks.
fn routes_between(from: &str, to: &str) -> &'static str {
    let (_, rest) = ROUTES.split_once(from).expect("where it begins");
    rest.split_once(to).expect("where it ends").0
}

/// The functions that make the public table, without the routes of `dev`.
fn public_routes() -> String {
    let public = routes_between("fn public(", "if is_dev {");
    let operations = routes_between("fn operations(", "\n}\n");
    let service = routes_between("fn service_plane(", "\n}\n");
    format!("{public}{operations}{service}")
}

/// What stands between `before` and `after`, each time.
fn all_between<'t>(text: &'t str, before: &str, after: &str) -> BTreeSet<&'t str> {
    text.split(before)
        .skip(1)
        .map(|rest| rest.split(after).next().expect("an end"))
        .collect()
}

/// Every value of a key, at any depth.
fn values_of<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                match inner {
                    Value::String(text) if name == key => found.push(text),
                    inner => values_of(inner, key, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| values_of(inner, key, found)),
        _ => {}
    }
}

/// A path of the document for this session and its user.
fn real(path: &str, session: &SignedIn) -> String {
    path.replace("{id}", &session.id)
        .replace("{user_id}", "ada")
        .replace("{n}", "-7")
        .replace("{key}", "mail")
}

#[tokio::test]
async fn every_public_route_is_documented_and_nothing_else() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let documented: BTreeSet<&str> = document["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .map(String::as_str)
        .collect();
    let routes = public_routes();
    let mut written = all_between(&routes, "at(\"", "\"");
    assert!(written.len() > FOR_BROWSERS.len(), "{written:?}");
    for path in FOR_BROWSERS {
        assert!(written.remove(path), "{path} is no route");
    }
    assert_eq!(documented, written);
}

#[tokio::test]
async fn documented_methods_are_the_allowed_ones() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, method, _) in operations(&document) {
        documented.entry(path).or_default().insert(method);
    }
    for (path, methods) in documented {
        let method = Method::from_bytes(b"PROPFIND").expect("a method");
        let reply = server.request(method, &path.replace(['{', '}'], "")).send().await;
        reply.assert_problem(405, "method_not_allowed");
        let allowed = reply.header("allow").expect("a header").split(", ");
        // HEAD is GET without the body; it is written down where it is a call of its own.
        let is_own_call = path == "/v1/session" || path.starts_with("/v1/client-sessions/");
        let allowed = allowed.filter(|m| *m != "HEAD" || is_own_call);
        let allowed: BTreeSet<String> = allowed.map(str::to_owned).collect();
        assert_eq!(methods, allowed, "{path}");
    }
}

#[tokio::test]
async fn every_documented_operation_exists() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let document = document(&server).await;
    for (path, method, _) in operations(&document) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let reply = server.request(method.clone(), &real(&path, &ada)).send().await;
        if path == "/v1/me/session" {
            // It says that the app does not have it.
            assert_eq!(reply.status, 404, "{}", reply.text);
            continue;
        }
        assert!(
            ![404, 405].contains(&reply.status),
            "{method} {path}: {}",
            reply.text
        );
    }
}

#[tokio::test]
async fn operation_ids_are_the_names_of_the_handlers() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let operations = operations(&document);
    let ids: BTreeSet<&str> = operations
        .iter()
        .map(|(path, method, operation)| {
            let id = operation["operationId"].as_str();
            id.unwrap_or_else(|| panic!("{method} {path} has no id"))
        })
        .collect();
    assert_eq!(ids.len(), operations.len(), "an id is there twice");
    let routes = public_routes();
    let handlers = all_between(&routes, ".to(", ")").into_iter();
    let handlers =
        handlers.filter(|handler| !handler.starts_with("dashboard::") && *handler != "openapi::get_openapi");
    let handlers: BTreeSet<&str> = handlers
        .map(|handler| handler.rsplit("::").next().expect("a name"))
        .collect();
    assert_eq!(ids, handlers);
}

#[tokio::test]
async fn document_is_openapi_with_a_title_and_a_version() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3."))
    );
    assert_eq!(document["info"]["title"], "sessiond");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .expect("tags")
        .iter()
        .filter_map(|tag| tag["name"].as_str())
        .collect();
    for (path, method, operation) in operations(&document) {
        assert!(
            operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
            "{method} {path}"
        );
        let own = operation["tags"].as_array().expect("tags");
        assert!(
            own.len() == 1 && own[0].as_str().is_some_and(|tag| tags.contains(tag)),
            "{method} {path}: {own:?}"
        );
    }
}

#[tokio::test]
async fn every_reference_resolves_and_every_schema_is_used() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let mut references = Vec::new();
    values_of(&document, "$ref", &mut references);
    assert!(!references.is_empty());
    for reference in &references {
        let pointer = reference
            .strip_prefix('#')
            .expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for name in document["components"]["schemas"]
        .as_object()
        .expect("schemas")
        .keys()
    {
        let reference = format!("#/components/schemas/{name}");
        assert!(references.contains(&reference.as_str()), "nothing uses {name}");
    }
}

#[tokio::test]
async fn every_operation_tells_its_answers() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    for (path, method, operation) in operations(&document) {
        let responses = operation["responses"].as_object().expect("responses");
        let statuses: BTreeSet<&str> = responses.keys().map(String::as_str).collect();
        let success = statuses.iter().filter(|status| status.starts_with('2')).count();
        // What starts a session or finds one there says which.
        let is_either =
            path == "/v1/me/session" || (path.starts_with("/v1/client-sessions/") && method == "PUT");
        assert_eq!(
            success,
            if is_either { 2 } else { 1 },
            "{method} {path}: {statuses:?}"
        );
        let mut needed = BTreeSet::new();
        if operation["requestBody"].is_object() {
            needed.extend(["400", "408", "413", "415", "422"]);
        }
        if operation["parameters"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["in"] == "query"))
        {
            needed.insert("422");
        }
        if operation["security"].is_array() {
            // Signing out of nothing is fine.
            if operation["operationId"] != "sign_out" {
                needed.insert("401");
            }
            needed.insert("503");
        }
        if operation["security"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["session_cookie"].is_array()))
        {
            needed.insert("403");
        }
        assert!(
            needed.is_subset(&statuses),
            "{method} {path}: {statuses:?} lacks of {needed:?}"
        );
        for (status, response) in responses.iter().filter(|(status, _)| !status.starts_with('2')) {
            let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(
                schema, "#/components/schemas/Problem",
                "{method} {path} {status}: {response}"
            );
        }
    }
}

#[tokio::test]
async fn every_operation_names_its_parameters() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    for (path, method, operation) in operations(&document) {
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        let names = |place: &str| -> BTreeSet<&str> {
            let named = parameters.iter().filter(|one| one["in"] == place);
            named.filter_map(|one| one["name"].as_str()).collect()
        };
        assert_eq!(names("path"), all_between(&path, "{", "}"), "{method} {path}");
        let takes_app = operation["tags"] == json!(["token"]) || operation["tags"] == json!(["self"]);
        assert_eq!(names("query").contains("app"), takes_app, "{method} {path}");
    }
}

#[tokio::test]
async fn documented_bounds_are_those_that_are_refused_by() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let mut seen = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let none = Vec::new();
        for parameter in operation["parameters"].as_array().unwrap_or(&none) {
            let (name, schema) = (parameter["name"].as_str().expect("a name"), &parameter["schema"]);
            let (bound, value) = match name {
                "limit" => ("maximum", 200),
                "reason" | "user_id" | "Idempotency-Key" => ("maxLength", 255),
                "key" => ("maxLength", 64),
                "app" => ("maxLength", 63),
                _ => continue,
            };
            assert_eq!(schema[bound], value, "{method} {path} {name}");
            seen.insert(name.to_owned());
        }
    }
    assert_eq!(seen.len(), 6, "{seen:?}");
    let longest = format!("/v1/users/{}", "a".repeat(255));
    assert_eq!(server.get(&longest).bearer(&server.key).send().await.status, 200);
    let longer = format!("{longest}a");
    assert_eq!(server.get(&longer).bearer(&server.key).send().await.status, 422);
}

#[tokio::test]
async fn bodies_that_may_be_absent_are_documented_without_null() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let mut optional = 0;
    for (path, method, operation) in operations(&document) {
        let body = &operation["requestBody"];
        if !body.is_object() || body["required"] == true {
            continue;
        }
        let schema = &body["content"]["application/json"]["schema"];
        assert!(schema["$ref"].is_string(), "{method} {path}: {schema}");
        optional += 1;
    }
    assert_eq!(optional, 3, "a creation, one by a client's id, and a touch");
}

#[tokio::test]
async fn documented_query_parameters_are_known() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let document = document(&server).await;
    for (path, method, operation) in operations(&document) {
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        for name in parameters.iter().filter(|one| one["in"] == "query") {
            let name = name["name"].as_str().expect("a name");
            let credential = if operation["tags"] == json!(["service"]) {
                &server.key
            } else {
                &ada.token
            };
            let real = real(&path, &ada);
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            // Twice, so that it is refused for what it is and changes nothing; or taken, if it may be repeated.
            let request = server.request(method.clone(), &format!("{real}?{name}=%00&{name}=%00"));
            let reply = request.bearer(credential).send().await;
            let is_known = match name {
                "tag" => reply.status == 403,
                // Without a body the status has to do: an unknown parameter would be 422 too, but so is this one twice.
                _ if method == Method::HEAD => reply.status == 422,
                name => {
                    let unknown = "is not a parameter of this call";
                    reply.wrong_fields().contains(&name) && !reply.text.contains(unknown)
                }
            };
            assert!(is_known, "{method} {path} {name}: {}", reply.text);
        }
    }
    assert_eq!(server.check(&ada.token).await.status, 200);
}

#[tokio::test]
async fn security_schemes_are_there_and_fit_the_planes() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let schemes = &document["components"]["securitySchemes"];
    for name in ["api_key", "session_token"] {
        assert_eq!(
            (&schemes[name]["type"], &schemes[name]["scheme"]),
            (&json!("http"), &json!("bearer")),
            "{name}"
        );
    }
    let cookie = &schemes["session_cookie"];
    assert_eq!(
        (&cookie["type"], &cookie["in"]),
        (&json!("apiKey"), &json!("cookie"))
    );
    for (path, method, operation) in operations(&document) {
        let expected = match operation["tags"][0].as_str() {
            Some("service") => json!([{ "api_key": [] }]),
            // Whoever has no session may ask for one, and sign out of nothing.
            _ if path == "/v1/me/session" || operation["operationId"] == "sign_out" => {
                json!([{}, { "session_token": [] }, { "session_cookie": [] }])
            }
            Some("token" | "self") => json!([{ "session_token": [] }, { "session_cookie": [] }]),
            _ => Value::Null,
        };
        assert_eq!(operation["security"], expected, "{method} {path}");
    }
}

#[tokio::test]
async fn every_problem_code_is_documented() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let listed = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array();
    let listed: BTreeSet<&str> = listed.expect("a list").iter().filter_map(Value::as_str).collect();
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, codes);
}

#[test]
fn page_about_the_api_has_every_code_in_the_row_of_its_status() {
    for code in Code::ALL {
        let (status, name) = (format!("| {} |", code.status()), format!("`{}`", code.as_str()));
        let row = PAGE.lines().find(|line| line.starts_with(&status));
        assert!(row.is_some_and(|row| row.contains(&name)), "{status} {name}");
    }
}

#[tokio::test]
async fn codes_stand_at_answers_of_their_status() {
    let server = TestServer::start().await;
    let document = document(&server).await;
    let mut seen = 0;
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().expect("responses") {
            if status.starts_with('2') {
                continue;
            }
            let description = response["description"].as_str().expect("a description");
            let named = description.split('`').skip(1).step_by(2);
            for name in named {
                let fits = |code: &&Code| code.as_str() == name && code.status().to_string() == *status;
                assert!(
                    Code::ALL.iter().any(|code| fits(&code)),
                    "{method} {path} {status}: {name}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

#[tokio::test]
async fn base_path_is_the_server_of_the_document() {
    let server = TestServer::start_with(|config| config.server.base_path = "/auth/x".into()).await;
    let document = document(&server).await;
    assert_eq!(document["servers"], json!([{ "url": "/auth/x" }]));
    let server = TestServer::start().await;
    let document = self::document(&server).await;
    assert_eq!(document["servers"], json!([{ "url": "/" }]));
    for (path, ..) in operations(&document) {
        assert!(!path.starts_with("/auth"), "{path}");
    }
}

#[tokio::test]
async fn people_s_sessions_fit_the_schema_without_what_applications_keep() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    let shown = server.get("/v1/me/sessions").bearer(&ada.token).send().await;
    let session = &shown.json["sessions"][0];
    let schemas = document(&server).await["components"]["schemas"].clone();
    let parts = schemas["Session"]["allOf"].as_array().expect("parts").iter();
    let own = parts.filter_map(|part| part["required"].as_array()).flatten();
    let private = schemas["SessionPrivate"]["required"].as_array();
    let required: Vec<&Value> = own.chain(private.into_iter().flatten()).collect();
    assert!(required.len() >= 10, "{required:?}");
    for name in required {
        let name = name.as_str().expect("a name");
        assert!(session.get(name).is_some(), "{name} is required and not there");
    }
}
