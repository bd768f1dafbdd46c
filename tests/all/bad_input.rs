//! Bad input gets a clear refusal, never a 5xx, and changes nothing.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Reply, Request, SignedIn, TestServer};
use crate::wire::{Wire, assert_unchanged, dump, exchange, without_refusals};

/// Whose credential a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    Key,
    Token,
    None,
}

/// A call of the API: method, path with `{id}` for ada's session, credential, and a good body if it takes one.
type Call = (&'static str, &'static str, Credential, Option<&'static str>);

/// Every call that reads its query.
const CALLS: &[Call] = &[
    (
        "POST",
        "/v1/sessions",
        Credential::Key,
        Some(r#"{"user_id":"ada"}"#),
    ),
    ("GET", "/v1/sessions", Credential::Key, None),
    ("DELETE", "/v1/sessions", Credential::Key, None),
    (
        "POST",
        "/v1/sessions/check",
        Credential::Key,
        Some(r#"{"token":"x"}"#),
    ),
    ("GET", "/v1/sessions/{id}", Credential::Key, None),
    (
        "PATCH",
        "/v1/sessions/{id}",
        Credential::Key,
        Some(r#"{"name":"den"}"#),
    ),
    ("DELETE", "/v1/sessions/{id}", Credential::Key, None),
    (
        "POST",
        "/v1/sessions/{id}/touch",
        Credential::Key,
        Some(r#"{"ip_address":"203.0.113.7"}"#),
    ),
    (
        "POST",
        "/v1/sessions/{id}/authenticate",
        Credential::Key,
        Some(r#"{"user_id":"ada"}"#),
    ),
    ("GET", "/v1/sessions/{id}/data", Credential::Key, None),
    (
        "PUT",
        "/v1/sessions/{id}/data",
        Credential::Key,
        Some(r#"{"a":1}"#),
    ),
    (
        "PATCH",
        "/v1/sessions/{id}/data",
        Credential::Key,
        Some(r#"{"a":1}"#),
    ),
    ("DELETE", "/v1/sessions/{id}/data", Credential::Key, None),
    (
        "PUT",
        "/v1/sessions/{id}/identities/billing",
        Credential::Key,
        Some(r#"{"a":1}"#),
    ),
    (
        "DELETE",
        "/v1/sessions/{id}/identities/billing",
        Credential::Key,
        None,
    ),
    (
        "PUT",
        "/v1/client-sessions/7",
        Credential::Key,
        Some(r#"{"user_id":"ada"}"#),
    ),
    ("GET", "/v1/client-sessions/7", Credential::Key, None),
    ("HEAD", "/v1/client-sessions/7", Credential::Key, None),
    ("DELETE", "/v1/client-sessions/7", Credential::Key, None),
    ("GET", "/v1/users/ada", Credential::Key, None),
    (
        "PATCH",
        "/v1/users/ada",
        Credential::Key,
        Some(r#"{"tier":"basic"}"#),
    ),
    ("GET", "/v1/users/ada/sessions", Credential::Key, None),
    ("DELETE", "/v1/users/ada/sessions", Credential::Key, None),
    ("GET", "/v1/session", Credential::Token, None),
    ("HEAD", "/v1/session", Credential::Token, None),
    ("DELETE", "/v1/session", Credential::Token, None),
    ("POST", "/v1/session/renew", Credential::Token, None),
    ("POST", "/v1/me/session", Credential::Token, None),
    ("GET", "/v1/me/sessions", Credential::Token, None),
    ("DELETE", "/v1/me/sessions", Credential::Token, None),
    (
        "PATCH",
        "/v1/me/sessions/{id}",
        Credential::Token,
        Some(r#"{"name":"den"}"#),
    ),
    ("DELETE", "/v1/me/sessions/{id}", Credential::Token, None),
    ("GET", "/v1/whoami", Credential::None, None),
];

fn calls_with_body() -> impl Iterator<Item = &'static Call> {
    CALLS.iter().filter(|(.., body)| body.is_some())
}

/// Those whose body has fields of the server's making; in others an application keeps what it likes.
fn calls_with_fields() -> impl Iterator<Item = &'static Call> {
    calls_with_body().filter(|(_, path, ..)| !path.ends_with("/data") && !path.contains("/identities/"))
}

/// A server with a session that a use would be recorded for, and what the database holds then.
struct Scene {
    server: TestServer,
    ada: SignedIn,
    before: String,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        let ada = server.sign_in("ada").await;
        server.sign_in("ada").await;
        server.sign_in("grace").await;
        // Past the touch interval: a use that counts would show.
        server.advance(600);
        let before = dump(&server).await;
        Self { server, ada, before }
    }

    /// The call, without body.
    fn request(&self, call: &Call) -> Request<'_> {
        self.request_at(call, "")
    }

    /// The call at its path with something behind it.
    fn request_at(&self, (method, path, credential, _): &Call, suffix: &str) -> Request<'_> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let path = format!("{}{suffix}", path.replace("{id}", &self.ada.id));
        let request = self.server.request(method, &path);
        match credential {
            Credential::Key => request.key(&self.server.key),
            Credential::Token => request.bearer(&self.ada.token),
            Credential::None => request,
        }
    }

    /// The head of the call for a connection, up to and without the empty line.
    fn head(&self, (method, path, credential, _): &Call) -> String {
        let path = path.replace("{id}", &self.ada.id);
        let credential = match credential {
            Credential::Key => format!("Authorization: Bearer {}\r\n", self.server.key),
            Credential::Token => format!("Authorization: Bearer {}\r\n", self.ada.token),
            Credential::None => String::new(),
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{credential}Content-Type: application/json\r\n"
        )
    }

    async fn assert_nothing_changed(&self) {
        assert_unchanged(&self.before, &dump(&self.server).await);
    }
}

/// Asserts a 422 that names these fields.
#[track_caller]
fn assert_invalid(reply: &Reply, fields: &[&str], case: &str) {
    assert_eq!(reply.status, 422, "{case}: {}", reply.text);
    reply.assert_problem(422, "validation_failed");
    assert_eq!(reply.wrong_fields(), fields, "{case}: {}", reply.text);
}

/// `{"a":{"a":…` or `[[…`, closed.
fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}{}", open.repeat(depth), close.repeat(depth))
}

#[tokio::test]
async fn body_that_is_not_json_is_400_whatever_the_call() {
    let scene = Scene::set().await;
    let unclosed = "[".repeat(30_000);
    let bodies: &[(&str, &[u8])] = &[
        ("spaces", b"  "),
        ("open", b"{"),
        ("no quotes", b"{name:1}"),
        ("single quotes", b"{'name':'x'}"),
        ("comma at the end", br#"{"name":"x",}"#),
        ("two values", b"{}{}"),
        ("rubbish behind", b"{} x"),
        ("comment", b"{/* */}"),
        ("not a number", br#"{"name":NaN}"#),
        ("byte order mark", b"\xef\xbb\xbf{}"),
        ("UTF-16", b"{\0}\0"),
        ("bad UTF-8 in a value", b"{\"name\":\"\xff\"}"),
        ("overlong UTF-8 in a key", b"{\"\xc0\xaf\":1}"),
        ("raw control character", b"{\"name\":\"a\x01b\"}"),
        ("form", b"name=x"),
        ("deep and unclosed", unclosed.as_bytes()),
    ];
    for call in calls_with_body() {
        for (case, body) in bodies {
            let reply = scene.request(call).raw("application/json", body).send().await;
            assert_eq!(reply.status, 400, "{case} at {call:?}: {}", reply.text);
            reply.assert_problem(400, "malformed_json");
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn empty_body_is_refused_where_one_is_needed() {
    let scene = Scene::set().await;
    let may_be_missing = ["/v1/sessions", "/v1/sessions/{id}/touch", "/v1/client-sessions/7"];
    let needed = calls_with_body().filter(|(_, path, ..)| !may_be_missing.contains(path));
    for call in needed {
        let reply = scene.request(call).raw("application/json", b"").send().await;
        reply.assert_problem(400, "malformed_json");
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn body_that_is_no_object_is_422_whatever_the_call() {
    let scene = Scene::set().await;
    let deep = nested("[", "]", 10_000);
    for call in calls_with_body() {
        for body in [
            "null", "true", "1", r#""x""#, "[]", r#"["x"]"#, "[null]", "[{}]", &deep,
        ] {
            let reply = scene
                .request(call)
                .raw("application/json", body.as_bytes())
                .send()
                .await;
            assert_invalid(&reply, &["body"], &format!("{:.20} at {call:?}", body));
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn deeply_nested_body_is_refused() {
    let scene = Scene::set().await;
    let deep = nested(r#"{"a":"#, "}", 5_000).replace(":}", ":1}");
    for call in calls_with_body() {
        let unknown = format!(r#"{{"nonsense":{deep}}}"#);
        let reply = scene
            .request(call)
            .raw("application/json", unknown.as_bytes())
            .send()
            .await;
        assert_eq!(reply.status, 422, "{call:?}: {}", reply.text);
        assert!(reply.text.len() < 4_096, "{} bytes about it", reply.text.len());
    }
    for call in calls_with_fields() {
        let unknown = format!(r#"{{"nonsense":{deep}}}"#);
        let reply = scene
            .request(call)
            .raw("application/json", unknown.as_bytes())
            .send()
            .await;
        assert_invalid(&reply, &["nonsense"], &format!("{call:?}"));
    }
    for (method, path) in [("POST", "/v1/sessions"), ("PATCH", "/v1/sessions/{id}")] {
        let call = (method, path, Credential::Key, None);
        let reply = scene
            .request(&call)
            .raw("application/json", format!(r#"{{"auth":{deep}}}"#).as_bytes())
            .send()
            .await;
        assert_eq!(reply.status, 422, "{method} {path}: {}", reply.text);
        assert!(reply.text.len() < 4_096, "{} bytes about it", reply.text.len());
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn unknown_field_is_422_and_named_whatever_the_call() {
    let scene = Scene::set().await;
    for call in calls_with_fields() {
        let (.., Some(good)) = call else { unreachable!() };
        let mut body: Value = serde_json::from_str(good).expect("JSON");
        body["nonsense"] = json!(1);
        let reply = scene.request(call).json(body).send().await;
        assert_invalid(&reply, &["nonsense"], &format!("{call:?}"));
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn fields_that_are_not_the_callers_to_set_are_unknown() {
    let scene = Scene::set().await;
    let of_create = ["token", "id", "identities", "client_session_id", "is_trusted"];
    for field in of_create {
        let body = json!({ "user_id": "ada", field: null });
        let reply = scene
            .server
            .post("/v1/sessions", body)
            .key(&scene.server.key)
            .send()
            .await;
        assert_invalid(&reply, &[field], field);
    }
    for field in [
        "token",
        "id",
        "name",
        "data",
        "identities",
        "client_session_id",
        "is_trusted",
    ] {
        let path = format!("/v1/sessions/{}/authenticate", scene.ada.id);
        let body = json!({ "user_id": "ada", field: null });
        let reply = scene.server.post(&path, body).key(&scene.server.key);
        assert_invalid(&reply.send().await, &[field], field);
    }
    let path = format!("/v1/me/sessions/{}", scene.ada.id);
    for field in ["is_trusted", "auth", "user_id"] {
        let reply = scene
            .server
            .patch(&path, json!({ field: null }))
            .bearer(&scene.ada.token)
            .send()
            .await;
        assert_invalid(&reply, &[field], field);
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn field_given_twice_is_422_and_named() {
    let scene = Scene::set().await;
    for call in calls_with_fields() {
        let (.., Some(good)) = call else { unreachable!() };
        let inner = good.trim_matches(['{', '}']);
        let field = inner.split('"').nth(1).expect("a field");
        let twice = format!("{{{inner},{inner}}}");
        let reply = scene
            .request(call)
            .raw("application/json", twice.as_bytes())
            .send()
            .await;
        assert_invalid(&reply, &[field], &format!("{call:?}"));
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn missing_field_is_422_and_named() {
    let scene = Scene::set().await;
    let check = scene
        .server
        .post("/v1/sessions/check", json!({}))
        .key(&scene.server.key)
        .send()
        .await;
    assert_invalid(&check, &["token"], "check");
    let path = format!("/v1/sessions/{}/authenticate", scene.ada.id);
    let authenticate = scene.server.post(&path, json!({})).key(&scene.server.key);
    assert_invalid(&authenticate.send().await, &["user_id"], "authenticate");
    let brand = json!({ "client_hints": { "brands": [{ "brand": "A" }, { "version": "1" }] } });
    let create = scene
        .server
        .post("/v1/sessions", brand)
        .key(&scene.server.key)
        .send()
        .await;
    assert_invalid(&create, &["client_hints.brands[1].brand"], "create");
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn value_of_a_wrong_type_or_out_of_range_is_422_and_named() {
    let scene = Scene::set().await;
    let long_id = format!(r#"{{"user_id":"{}"}}"#, "a".repeat(256));
    let long_name = format!(r#"{{"name":"{}"}}"#, "n".repeat(101));
    let long_auth = format!(r#"{{"auth":{{"a":"{}"}}}}"#, "x".repeat(8 * 1024));
    let create = ("POST", "/v1/sessions", Credential::Key, None);
    let check = ("POST", "/v1/sessions/check", Credential::Key, None);
    let update = ("PATCH", "/v1/sessions/{id}", Credential::Key, None);
    let touch = ("POST", "/v1/sessions/{id}/touch", Credential::Key, None);
    let authenticate = ("POST", "/v1/sessions/{id}/authenticate", Credential::Key, None);
    let client = ("PUT", "/v1/client-sessions/7", Credential::Key, None);
    let user = ("PATCH", "/v1/users/ada", Credential::Key, None);
    let rename = ("PATCH", "/v1/me/sessions/{id}", Credential::Token, None);
    let cases: &[(Call, &str, &str)] = &[
        (create, r#"{"user_id":1}"#, "user_id"),
        (create, r#"{"user_id":["ada"]}"#, "user_id"),
        (create, r#"{"user_id":""}"#, "user_id"),
        (create, r#"{"user_id":"."}"#, "user_id"),
        (create, r#"{"user_id":".."}"#, "user_id"),
        (create, r#"{"user_id":"a\u0000b"}"#, "user_id"),
        (create, r#"{"user_id":"\ud800"}"#, "user_id"),
        (create, &long_id, "user_id"),
        (create, r#"{"ip_address":16777343}"#, "ip_address"),
        (create, r#"{"user_agent":{}}"#, "user_agent"),
        (create, r#"{"client_hints":"x"}"#, "client_hints"),
        (create, r#"{"client_hints":[]}"#, "client_hints"),
        (
            create,
            r#"{"client_hints":["Windows","13",null,null,[]]}"#,
            "client_hints",
        ),
        (
            create,
            r#"{"client_hints":{"mobile":"yes"}}"#,
            "client_hints.mobile",
        ),
        (
            create,
            r#"{"client_hints":{"nonsense":1}}"#,
            "client_hints.nonsense",
        ),
        (create, r#"{"client_hints":{"brands":{}}}"#, "client_hints.brands"),
        (
            create,
            r#"{"client_hints":{"brands":[1]}}"#,
            "client_hints.brands[0]",
        ),
        (
            create,
            r#"{"client_hints":{"brands":[["Chromium","145"]]}}"#,
            "client_hints.brands[0]",
        ),
        (
            create,
            r#"{"client_hints":{"brands":[{"brand":1}]}}"#,
            "client_hints.brands[0].brand",
        ),
        (create, r#"{"tier":1}"#, "tier"),
        (create, r#"{"user_id":"ada","tier":"gold"}"#, "tier"),
        (create, r#"{"tier":"basic"}"#, "tier"),
        (create, r#"{"auth":"x"}"#, "auth"),
        (create, r#"{"auth":[]}"#, "auth"),
        (create, r#"{"auth":["tags"]}"#, "auth"),
        (create, &long_auth, "auth"),
        (create, r#"{"name":5}"#, "name"),
        (create, r#"{"name":""}"#, "name"),
        (create, r#"{"name":"a\nb"}"#, "name"),
        (create, &long_name, "name"),
        (create, r#"{"idle_timeout_secs":"60"}"#, "idle_timeout_secs"),
        (create, r#"{"idle_timeout_secs":0}"#, "idle_timeout_secs"),
        (create, r#"{"idle_timeout_secs":-1}"#, "idle_timeout_secs"),
        (create, r#"{"idle_timeout_secs":1.5}"#, "idle_timeout_secs"),
        (create, r#"{"idle_timeout_secs":1e400}"#, "idle_timeout_secs"),
        (
            create,
            r#"{"idle_timeout_secs":18446744073709551616}"#,
            "idle_timeout_secs",
        ),
        (create, r#"{"absolute_timeout_secs":0}"#, "absolute_timeout_secs"),
        (
            create,
            r#"{"absolute_timeout_secs":-9223372036854775809}"#,
            "absolute_timeout_secs",
        ),
        (create, r#"{"remember":1}"#, "remember"),
        (create, r#"{"remember":"true"}"#, "remember"),
        (
            create,
            r#"{"user_id":"ada","authenticated_at":1767225600}"#,
            "authenticated_at",
        ),
        (
            create,
            r#"{"user_id":"ada","authenticated_at":"yesterday"}"#,
            "authenticated_at",
        ),
        (
            create,
            r#"{"user_id":"ada","authenticated_at":"2026-13-01T00:00:00Z"}"#,
            "authenticated_at",
        ),
        (
            create,
            r#"{"user_id":"ada","authenticated_at":"2030-01-01T00:00:00Z"}"#,
            "authenticated_at",
        ),
        (
            create,
            r#"{"authenticated_at":"2025-01-01T00:00:00Z"}"#,
            "authenticated_at",
        ),
        (create, r#"{"data":1}"#, "data"),
        (create, r#"{"data":[]}"#, "data"),
        (create, r#"{"data":"{}"}"#, "data"),
        (create, r#"{"end_ids":"x"}"#, "end_ids"),
        (create, r#"{"end_ids":[["x"]]}"#, "end_ids[0]"),
        (create, r#"{"user_id":"ada","end_ids":["x"]}"#, "end_ids"),
        (client, r#"{"user_id":1}"#, "user_id"),
        (client, r#"{"user_id":".."}"#, "user_id"),
        (client, r#"{"tier":"basic"}"#, "tier"),
        (client, r#"{"data":[]}"#, "data"),
        (client, r#"{"idle_timeout_secs":0}"#, "idle_timeout_secs"),
        (client, &long_auth, "auth"),
        (authenticate, r#"{"user_id":null}"#, "user_id"),
        (authenticate, r#"{"user_id":1}"#, "user_id"),
        (authenticate, r#"{"user_id":""}"#, "user_id"),
        (authenticate, r#"{"user_id":"a\u0000b"}"#, "user_id"),
        (authenticate, &long_id, "user_id"),
        (authenticate, r#"{"user_id":"ada","tier":"gold"}"#, "tier"),
        (authenticate, r#"{"user_id":"ada","auth":[]}"#, "auth"),
        (authenticate, r#"{"user_id":"ada","remember":1}"#, "remember"),
        (authenticate, r#"{"user_id":"ada","ip_address":1}"#, "ip_address"),
        (
            authenticate,
            r#"{"user_id":"ada","idle_timeout_secs":0}"#,
            "idle_timeout_secs",
        ),
        (
            authenticate,
            r#"{"user_id":"ada","absolute_timeout_secs":-1}"#,
            "absolute_timeout_secs",
        ),
        (
            authenticate,
            r#"{"user_id":"ada","authenticated_at":"2030-01-01T00:00:00Z"}"#,
            "authenticated_at",
        ),
        (
            authenticate,
            r#"{"user_id":"ada","authenticated_at":"yesterday"}"#,
            "authenticated_at",
        ),
        (authenticate, r#"{"user_id":"ada","end_ids":["x"]}"#, "end_ids"),
        (check, r#"{"token":null}"#, "token"),
        (check, r#"{"token":1}"#, "token"),
        (check, r#"{"token":"x","ip_address":1}"#, "ip_address"),
        (check, r#"{"token":"x","user_agent":1}"#, "user_agent"),
        (check, r#"{"token":"x","touch":"false"}"#, "touch"),
        (
            check,
            r#"{"token":"x","max_auth_age_secs":-1}"#,
            "max_auth_age_secs",
        ),
        (check, r#"{"token":"x","tags":"staff"}"#, "tags"),
        (check, r#"{"token":"x","tags":["a",1]}"#, "tags[1]"),
        (update, r#"{"name":1}"#, "name"),
        (update, r#"{"name":""}"#, "name"),
        (update, &long_name, "name"),
        (update, r#"{"is_trusted":"yes"}"#, "is_trusted"),
        (update, r#"{"auth":1}"#, "auth"),
        (update, &long_auth, "auth"),
        (touch, r#"{"ip_address":1}"#, "ip_address"),
        (user, r#"{"tier":1}"#, "tier"),
        (user, r#"{"tier":"gold"}"#, "tier"),
        (user, r#"{"max_sessions":-1}"#, "max_sessions"),
        (user, r#"{"max_sessions":10001}"#, "max_sessions"),
        (user, r#"{"max_sessions":4294967296}"#, "max_sessions"),
        (user, r#"{"max_sessions":1e3}"#, "max_sessions"),
        (user, r#"{"max_sessions":"3"}"#, "max_sessions"),
        (user, r#"{"is_blocked":1}"#, "is_blocked"),
        (rename, r#"{"name":1}"#, "name"),
        (rename, r#"{"name":"a\u007fb"}"#, "name"),
        (rename, &long_name, "name"),
    ];
    for (call, body, field) in cases {
        let reply = scene
            .request(call)
            .raw("application/json", body.as_bytes())
            .send()
            .await;
        let (method, path, ..) = call;
        assert_invalid(&reply, &[field], &format!("{method} {path} {body:.80}"));
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn all_wrong_values_of_a_sign_in_are_told_at_once() {
    let scene = Scene::set().await;
    let body = json!({ "user_id": "ada", "tier": "gold", "name": "", "idle_timeout_secs": 0 });
    let reply = scene
        .server
        .post("/v1/sessions", body)
        .key(&scene.server.key)
        .send()
        .await;
    assert_invalid(&reply, &["tier", "name", "idle_timeout_secs"], "");
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn absurd_values_that_are_allowed_are_answered_in_range() {
    let server = TestServer::start().await;
    let usual = server.sign_in("ada").await.body;
    let huge = server
        .create(json!({
            "user_id": "ada", "idle_timeout_secs": u64::MAX, "absolute_timeout_secs": u64::MAX,
            "authenticated_at": "0000-01-01T00:00:00Z", "user_agent": "\u{0}".repeat(1_000),
            "ip_address": "999.999.999.999", "auth": { "tags": 5, "n": 1e308, "": "\u{0}" },
            "client_hints": { "platform": "\u{0}", "platform_version": "9".repeat(20_000), "model": "", "brands": [{ "brand": "" }] },
        }))
        .await;
    for deadline in ["expires_at", "absolute_expires_at"] {
        assert_eq!(
            huge.body["session"][deadline], usual["session"][deadline],
            "{deadline}"
        );
    }
    assert_eq!(huge.body["session"]["ip_address"], Value::Null);
    let reply = server
        .get("/v1/session?max_auth_age_secs=18446744073709551615")
        .bearer(&huge.token)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn body_of_another_media_type_is_415() {
    let scene = Scene::set().await;
    for call in calls_with_body() {
        let (.., Some(good)) = call else { unreachable!() };
        for media_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/xml",
            "text/json",
            "*/*",
            "",
            "json",
        ] {
            let reply = scene.request(call).raw(media_type, good.as_bytes()).send().await;
            assert_eq!(reply.status, 415, "{media_type} at {call:?}: {}", reply.text);
            reply.assert_problem(415, "unsupported_media_type");
        }
        let head = scene.head(call).replace("Content-Type: application/json\r\n", "");
        let request = format!("{head}Content-Length: {}\r\n\r\n{good}", good.len());
        let answer = exchange(&scene.server, request.as_bytes())
            .await
            .expect("an answer");
        assert_eq!(answer.status, 415, "none at {call:?}: {}", answer.body);
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn json_media_types_with_parameters_and_suffixes_are_taken() {
    let server = TestServer::start().await;
    for media_type in [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/merge-patch+json",
    ] {
        let reply = server
            .request(Method::POST, "/v1/sessions")
            .key(&server.key)
            .raw(media_type, b"{}");
        assert_eq!(reply.send().await.status, 201, "{media_type}");
    }
}

#[tokio::test]
async fn oversized_body_is_413_before_it_has_arrived() {
    let scene = Scene::set().await;
    for call in calls_with_body() {
        for length in ["65537", "1000000000000", "18446744073709551615"] {
            let request = format!("{}Content-Length: {length}\r\n\r\n{{", scene.head(call));
            let answer = exchange(&scene.server, request.as_bytes())
                .await
                .expect("an answer");
            assert_eq!(answer.status, 413, "{length} at {call:?}: {}", answer.body);
            assert!(
                answer.body.contains(r#""code":"payload_too_large""#),
                "{}",
                answer.body
            );
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn oversized_body_in_chunks_is_413() {
    let scene = Scene::set().await;
    for call in calls_with_body() {
        let mut wire = Wire::open(&scene.server).await;
        let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
        wire.send(format!("{}Transfer-Encoding: chunked\r\n\r\n", scene.head(call)).as_bytes())
            .await;
        for _ in 0..9 {
            wire.send(chunk.as_bytes()).await;
        }
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.status, 413, "{call:?}: {}", answer.body);
        assert!(
            answer.body.contains(r#""code":"payload_too_large""#),
            "{}",
            answer.body
        );
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn body_of_exactly_64_kib_is_read() {
    let server = TestServer::start().await;
    let body = format!("{{{}}}", " ".repeat(64 * 1024 - 2));
    let request = server.request(Method::POST, "/v1/sessions").key(&server.key);
    let reply = request.raw("application/json", body.as_bytes()).send().await;
    assert_eq!(reply.status, 201, "{}", reply.text);
}

#[tokio::test]
async fn body_that_breaks_off_changes_nothing() {
    let scene = Scene::set().await;
    for call in calls_with_body() {
        let (.., Some(good)) = call else { unreachable!() };
        let by_length = format!(
            "{}Content-Length: {}\r\n\r\n{good}",
            scene.head(call),
            good.len() + 1
        );
        let in_chunks = format!(
            "{}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{good}\r\n",
            scene.head(call),
            good.len()
        );
        for request in [by_length, in_chunks] {
            let mut wire = Wire::open(&scene.server).await;
            wire.send(request.as_bytes()).await;
            wire.end().await;
            // A server may also just hang up on a client that has gone.
            if let Some(answer) = wire.answer().await {
                assert_eq!(answer.status, 400, "{request}: {}", answer.body);
            }
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn malformed_chunk_is_400() {
    let scene = Scene::set().await;
    for call in calls_with_body() {
        for chunks in [
            "zz\r\n{}\r\n0\r\n\r\n",
            "ffffffffffffffffff\r\n{}",
            "2\r\n{}x\r\n0\r\n\r\n",
        ] {
            let request = format!("{}Transfer-Encoding: chunked\r\n\r\n{chunks}", scene.head(call));
            let answer = exchange(&scene.server, request.as_bytes())
                .await
                .expect("an answer");
            assert_eq!(answer.status, 400, "{request}: {}", answer.body);
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn caller_is_known_before_the_body_is_read() {
    let scene = Scene::set().await;
    for (method, path, ..) in calls_with_body() {
        let path = path.replace("{id}", &scene.ada.id);
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let reply = scene
            .server
            .request(method, &path)
            .raw("text/plain", b"{")
            .send()
            .await;
        assert_eq!(reply.status, 401, "{path}: {}", reply.text);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{path}");
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn wrong_method_is_405_and_tells_the_right_ones() {
    let scene = Scene::set().await;
    let resources = [
        ("/v1/sessions", "GET, POST, DELETE"),
        ("/v1/sessions/check", "POST"),
        ("/v1/sessions/{id}", "GET, PATCH, DELETE"),
        ("/v1/sessions/{id}/touch", "POST"),
        ("/v1/sessions/{id}/authenticate", "POST"),
        ("/v1/sessions/{id}/data", "GET, PUT, PATCH, DELETE"),
        ("/v1/sessions/{id}/identities/billing", "PUT, DELETE"),
        ("/v1/client-sessions/7", "GET, HEAD, PUT, DELETE"),
        ("/v1/users/ada", "GET, PATCH"),
        ("/v1/users/ada/sessions", "GET, DELETE"),
        ("/v1/session", "GET, HEAD, DELETE"),
        ("/v1/session/renew", "POST"),
        ("/v1/me/session", "POST"),
        ("/v1/me/sessions", "GET, DELETE"),
        ("/v1/me/sessions/{id}", "PATCH, DELETE"),
        ("/v1/whoami", "GET"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/metrics", "GET"),
        ("/openapi.json", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/static/app.js", "GET, HEAD"),
    ];
    for (path, allow) in resources {
        let allowed: Vec<&str> = allow.split(", ").collect();
        let path = path.replace("{id}", &scene.ada.id);
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "x",
        ] {
            if allowed.contains(&method) {
                continue;
            }
            let request = scene
                .server
                .request(Method::from_bytes(method.as_bytes()).expect("one"), &path);
            let reply = request.key(&scene.server.key).json(json!({})).send().await;
            assert_eq!(reply.status, 405, "{method} {path}: {}", reply.text);
            reply.assert_problem(405, "method_not_allowed");
            assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn unknown_path_is_404() {
    let scene = Scene::set().await;
    let id = &scene.ada.id;
    let paths = [
        "/v1".to_owned(),
        "/v1/".to_owned(),
        "/v1/sessions/".to_owned(),
        "/v2/sessions".to_owned(),
        "/V1/sessions".to_owned(),
        "/v1/users/".to_owned(),
        "/v1/users//sessions".to_owned(),
        "//v1/sessions".to_owned(),
        format!("/v1/sessions/{id}/"),
        format!("/v1/sessions/{id}/identities"),
        format!("/v1/sessions/{id}/identities/x/y"),
        format!("/v1/sessions/{id}/identities/"),
        format!("/v1/sessions/{id}/data/"),
        format!("/v1/sessions/{id}/data/a"),
        format!("/v1/sessions/{id}/authenticate/x"),
        "/v1/client-sessions/7/".to_owned(),
        "/v1/client-sessions/7/data".to_owned(),
        "/v1/client-sessions".to_owned(),
        "/v1/client-sessions/".to_owned(),
        "/v1/keys".to_owned(),
        format!("/v1/keys/{id}"),
        "/static/".to_owned(),
        "/static/x.js".to_owned(),
        "/static/index.html".to_owned(),
        "/static/..%2Fconfig.toml".to_owned(),
        "/static/%00".to_owned(),
        "/favicon.ico".to_owned(),
        "/problems/not-found".to_owned(),
        "/%ff".to_owned(),
        "/%".to_owned(),
    ];
    for path in paths {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let reply = scene
                .server
                .request(method.clone(), &path)
                .key(&scene.server.key)
                .json(json!({}));
            let reply = reply.send().await;
            let is_there = path.starts_with("/static/") && method != Method::GET && path != "/static/";
            if !is_there {
                assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text);
                reply.assert_problem(404, "not_found");
            }
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn path_that_names_no_session_is_404_and_the_same_as_an_unknown_id() {
    let scene = Scene::set().await;
    let unknown = "0192f0c4-0000-7000-8000-000000000000";
    let without_request_id = |reply: &Reply| {
        let mut body = reply.json.clone();
        body["request_id"] = Value::Null;
        body
    };
    for call in CALLS.iter().filter(|(_, path, ..)| path.contains("{id}")) {
        let (method, path, credential, body) = call;
        let mut bodies = Vec::new();
        for id in [
            unknown,
            "x",
            "0",
            "%00",
            "%ff",
            "%",
            "..%2F",
            "0192f0c400007000800000000000000000",
        ] {
            let path: &'static str = Box::leak(path.replace("{id}", id).into_boxed_str());
            let mut request = scene.request(&(method, path, *credential, None));
            if let Some(body) = body {
                request = request.raw("application/json", body.as_bytes());
            }
            let reply = request.send().await;
            assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text);
            reply.assert_problem(404, "not_found");
            bodies.push(without_request_id(&reply));
        }
        assert!(
            bodies.iter().all(|body| *body == bodies[0]),
            "{call:?}: {bodies:?}"
        );
    }
    let after = dump(&scene.server).await;
    assert_unchanged(&without_refusals(&scene.before), &without_refusals(&after));
}

#[tokio::test]
async fn user_id_in_a_path_that_is_not_percent_encoded_utf8_is_422() {
    let scene = Scene::set().await;
    let long = "a".repeat(256);
    let ids = [
        "%",
        "%2",
        "%zz",
        "%ff",
        "a%C3",
        "%ED%A0%80",
        "%C0%AF",
        "%00",
        "%0A",
        "%7F",
        "%2E",
        "%2e%2E",
        &long,
    ];
    for id in ids {
        for call in CALLS
            .iter()
            .filter(|(_, path, ..)| path.starts_with("/v1/users/ada"))
        {
            let path = call.1.replace("ada", id);
            // By hand, as a client would tidy the path up.
            let (_, _, credential, body) = *call;
            let head = scene
                .head(&(call.0, "PATH", credential, None))
                .replace("PATH", &path);
            let body = body.unwrap_or("");
            let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            let answer = exchange(&scene.server, request.as_bytes())
                .await
                .expect("an answer");
            assert_eq!(answer.status, 422, "{} {path}: {}", call.0, answer.body);
            assert!(
                answer.body.contains(r#""field":"user_id""#),
                "{path}: {}",
                answer.body
            );
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn user_ids_in_paths_round_trip_and_never_become_one() {
    let server = TestServer::start().await;
    let ids = [
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%C3%A9", "é"),
        ("e%CC%81", "e\u{301}"),
        ("...", "..."),
        ("%3F%23%5C", "?#\\"),
        ("%F0%9F%92%A5", "💥"),
        ("a;b=c", "a;b=c"),
    ];
    for (number, (_, user_id)) in ids.iter().enumerate() {
        for _ in 0..=number % 3 {
            server.sign_in(user_id).await;
        }
    }
    for (number, (encoded, user_id)) in ids.iter().enumerate() {
        let reply = server
            .get(&format!("/v1/users/{encoded}"))
            .key(&server.key)
            .send()
            .await;
        assert_eq!(reply.json["user_id"], *user_id, "{encoded}: {}", reply.text);
        assert_eq!(reply.json["active_count"], number % 3 + 1, "{encoded}");
        let reply = server
            .get(&format!("/v1/users/{encoded}/sessions"))
            .key(&server.key)
            .send()
            .await;
        assert_eq!(
            reply.json["total_count"],
            number % 3 + 1,
            "{encoded}: {}",
            reply.text
        );
    }
}

#[tokio::test]
async fn unknown_query_parameter_is_422_and_named_whatever_the_call() {
    let scene = Scene::set().await;
    for call in CALLS {
        for query in [
            "?nonsense=1",
            "?nonsense",
            "?nonsense=",
            "?nonsense&",
            "?&&nonsense=%20",
        ] {
            let mut request = scene.request_at(call, query);
            if let (.., Some(body)) = call {
                request = request.raw("application/json", body.as_bytes());
            }
            let reply = request.send().await;
            assert_eq!(reply.status, 422, "{call:?} {query}: {}", reply.text);
            if call.0 != "HEAD" {
                assert_invalid(&reply, &["nonsense"], &format!("{call:?} {query}"));
            }
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn query_that_is_not_percent_encoded_utf8_is_422() {
    let scene = Scene::set().await;
    for call in CALLS {
        for (query, field) in [
            ("?%ff=1", "query"),
            ("?%zz", "query"),
            ("?reason=%ff", "reason"),
            ("?x=%", "x"),
        ] {
            let mut request = scene.request_at(call, query);
            if let (.., Some(body)) = call {
                request = request.raw("application/json", body.as_bytes());
            }
            let reply = request.send().await;
            assert_eq!(reply.status, 422, "{call:?} {query}: {}", reply.text);
            if call.0 != "HEAD" {
                assert_invalid(&reply, &[field], &format!("{call:?} {query}"));
            }
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn wrong_or_repeated_query_parameter_is_422_and_named() {
    let scene = Scene::set().await;
    let long = "r".repeat(256);
    let lists = ["/v1/sessions", "/v1/users/ada/sessions", "/v1/me/sessions"];
    let endings = [
        "/v1/sessions",
        "/v1/sessions/{id}",
        "/v1/users/ada/sessions",
        "/v1/client-sessions/7",
    ];
    let own_endings = ["/v1/me/sessions", "/v1/me/sessions/{id}"];
    let of_lists = [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=1", "limit"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("status=dead", "status"),
        ("status=Active", "status"),
        ("status=all&status=all", "status"),
    ];
    let of_reasons = [
        ("reason=".to_owned(), "reason"),
        (format!("reason={long}"), "reason"),
        ("reason=a%0Ab".to_owned(), "reason"),
        ("reason=a&reason=a".to_owned(), "reason"),
    ];
    let mut cases: Vec<(&str, &str, String, &str)> = Vec::new();
    for path in lists {
        cases.extend(
            of_lists
                .iter()
                .map(|(query, field)| ("GET", path, (*query).to_owned(), *field)),
        );
    }
    for path in endings.into_iter().chain(own_endings) {
        cases.extend(
            of_reasons
                .iter()
                .map(|(query, field)| ("DELETE", path, query.clone(), *field)),
        );
    }
    for path in endings {
        for by in ["limit", "timeout", "security", "", "me", "user&ended_by=user"] {
            cases.push(("DELETE", path, format!("ended_by={by}"), "ended_by"));
        }
    }
    for (method, path, query, field) in [
        ("GET", "/v1/sessions", "anonymous=1", "anonymous"),
        ("GET", "/v1/sessions", "anonymous=true&user_id=ada", "anonymous"),
        ("GET", "/v1/sessions", "user_id=", "user_id"),
        ("GET", "/v1/sessions/{id}", "user_id=..", "user_id"),
        ("DELETE", "/v1/sessions/{id}", "user_id=%00", "user_id"),
        ("DELETE", "/v1/users/ada/sessions", "except=x", "except"),
        ("DELETE", "/v1/users/ada/sessions", "except=", "except"),
        ("GET", "/v1/sessions/{id}/data", "take=1", "take"),
        ("GET", "/v1/sessions/{id}/data", "take=", "take"),
        ("GET", "/v1/sessions/{id}/data", "take=true&take=true", "take"),
        ("GET", "/v1/sessions/{id}/data", "path=", "path"),
        ("GET", "/v1/sessions/{id}/data", "path=a&path=b", "path"),
        ("DELETE", "/v1/sessions/{id}/data", "take=true", "take"),
        ("DELETE", "/v1/sessions/{id}/data", "path=a..b", "path"),
        ("DELETE", "/v1/client-sessions/7", "user_id=ada", "user_id"),
        ("GET", "/v1/client-sessions/7", "user_id=ada", "user_id"),
        ("POST", "/v1/session/renew", "app=nowhere", "app"),
        ("POST", "/v1/session/renew", "touch=false", "touch"),
        ("POST", "/v1/me/session", "app=nowhere", "app"),
        ("GET", "/v1/session", "touch=no", "touch"),
        ("GET", "/v1/session", "touch=true&touch=true", "touch"),
        ("GET", "/v1/session", "max_auth_age_secs=-1", "max_auth_age_secs"),
        (
            "GET",
            "/v1/session",
            "max_auth_age_secs=18446744073709551616",
            "max_auth_age_secs",
        ),
        ("GET", "/v1/session", "app=nowhere", "app"),
        ("GET", "/v1/session", "app=default&app=default", "app"),
        ("DELETE", "/v1/session", "app=nowhere", "app"),
        ("DELETE", "/v1/session", "reason=x", "reason"),
        (
            "DELETE",
            "/v1/me/sessions",
            "include_current=yes",
            "include_current",
        ),
        ("DELETE", "/v1/me/sessions", "ended_by=operator", "ended_by"),
        ("DELETE", "/v1/me/sessions/{id}", "ended_by=user", "ended_by"),
        ("GET", "/v1/me/sessions", "user_id=grace", "user_id"),
    ] {
        cases.push((method, path, query.to_owned(), field));
    }
    for (method, path, query, field) in cases {
        let credential =
            match path.starts_with("/v1/me") || path == "/v1/session" || path == "/v1/session/renew" {
                true => Credential::Token,
                false => Credential::Key,
            };
        let path: &'static str = Box::leak(path.to_owned().into_boxed_str());
        let method: &'static str = Box::leak(method.to_owned().into_boxed_str());
        let call = (method, path, credential, None);
        let reply = scene.request_at(&call, &format!("?{query}")).send().await;
        assert_invalid(&reply, &[field], &format!("{method} {path}?{query:.60}"));
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn head_that_cannot_be_parsed_is_a_bare_400_or_431() {
    let scene = Scene::set().await;
    let key = &scene.server.key;
    let huge_header = format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n",
        "a".repeat(300_000)
    );
    let huge_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(300_000));
    let many_headers = format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "A: b\r\n".repeat(10_000)
    );
    let post = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    );
    let heads: &[(&str, String)] = &[
        ("noise", "\x01\x02\x03\r\n\r\n".into()),
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".into()),
        ("no version", "GET /\r\n\r\n".into()),
        (
            "a version of the future",
            "GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n".into(),
        ),
        (
            "a space in the path",
            "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        ),
        (
            "a control character in the path",
            "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        ),
        (
            "a header without name",
            "GET /healthz HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n".into(),
        ),
        (
            "a header without colon",
            "GET /healthz HTTP/1.1\r\nHost: x\r\nX\r\n\r\n".into(),
        ),
        (
            "a space before the colon",
            "GET /healthz HTTP/1.1\r\nHost: x\r\nX : x\r\n\r\n".into(),
        ),
        (
            "a zero in a header",
            "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n".into(),
        ),
        ("a huge header", huge_header),
        ("a huge path", huge_path),
        ("many headers", many_headers),
        (
            "a length that is no number",
            format!("{post}Content-Length: x\r\n\r\n{{}}"),
        ),
        (
            "a negative length",
            format!("{post}Content-Length: -1\r\n\r\n{{}}"),
        ),
        ("a signed length", format!("{post}Content-Length: +2\r\n\r\n{{}}")),
        (
            "two lengths",
            format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
        ),
        (
            "a length and chunks",
            format!("{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
        ),
        (
            "a length beyond all",
            format!("{post}Content-Length: 99999999999999999999999999\r\n\r\n{{}}"),
        ),
        (
            "an unknown transfer coding",
            format!("{post}Transfer-Encoding: x\r\n\r\n{{}}"),
        ),
    ];
    for (case, head) in heads {
        let mut wire = Wire::open(&scene.server).await;
        wire.send(head.as_bytes()).await;
        wire.end().await;
        let answer = wire.answer().await;
        let answer = answer.unwrap_or_else(|| panic!("{case}: hung up without an answer"));
        assert!(
            [400, 431].contains(&answer.status),
            "{case}: {} {}",
            answer.head,
            answer.body
        );
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn strange_but_well_formed_heads_are_answered_below_500() {
    let scene = Scene::set().await;
    let big_header = format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n",
        "a".repeat(60_000)
    );
    let long_query = format!(
        "GET /v1/whoami?{} HTTP/1.1\r\nHost: x\r\n\r\n",
        "a=b&".repeat(10_000)
    );
    let cookies = format!(
        "GET /v1/session HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n",
        "__Host-session=x; ".repeat(3_000)
    );
    let forwarded = format!(
        "GET /v1/whoami HTTP/1.1\r\nHost: x\r\nForwarded: {}\r\n\r\n",
        "for=\"[::1]\",".repeat(4_000)
    );
    let heads: &[(&str, &str, u16)] = &[
        ("HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", 200),
        (
            "an absolute URL",
            "GET http://else.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            200,
        ),
        ("a big header", &big_header, 200),
        ("an asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (
            "a tunnel",
            "CONNECT else.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            404,
        ),
        (
            "a host that is none",
            "GET /v1/session HTTP/1.1\r\nHost: \"[}:x\r\n\r\n",
            401,
        ),
        (
            "bytes in the host",
            "GET /v1/session HTTP/1.1\r\nHost: é\r\n\r\n",
            401,
        ),
        (
            "bytes in the credential",
            "GET /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer é\r\n\r\n",
            401,
        ),
        (
            "an empty credential",
            "GET /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n\r\n",
            401,
        ),
        ("many cookies", &cookies, 401),
        ("a long chain", &forwarded, 200),
        ("a long query", &long_query, 422),
    ];
    for (case, head, status) in heads {
        let answer = exchange(&scene.server, head.as_bytes()).await;
        let answer = answer.unwrap_or_else(|| panic!("{case}: hung up without an answer"));
        assert_eq!(answer.status, *status, "{case}: {} {}", answer.head, answer.body);
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn body_that_nobody_read_is_never_taken_for_a_request() {
    let scene = Scene::set().await;
    let hidden = format!(
        "DELETE /v1/session HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        scene.ada.token
    );
    let heads = [
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\n",
        "POST /nowhere HTTP/1.1\r\nHost: x\r\n",
        "PUT /v1/session HTTP/1.1\r\nHost: x\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n",
        "DELETE /v1/session HTTP/1.1\r\nHost: x\r\n",
    ];
    for head in heads {
        let by_length = format!("{head}Content-Length: {}\r\n\r\n{hidden}", hidden.len());
        let in_chunks = format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
            hidden.len()
        );
        for request in [by_length, in_chunks] {
            let mut wire = Wire::open(&scene.server).await;
            wire.send(request.as_bytes()).await;
            wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: next\r\n\r\n")
                .await;
            wire.answer().await.expect("an answer");
            // The server may hang up instead.
            if let Some(next) = wire.answer().await {
                assert_eq!(next.status, 200, "{request}: {}", next.head);
                assert!(
                    next.head.contains("x-request-id: next"),
                    "{request}: {}",
                    next.head
                );
            }
        }
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn operator_socket_refuses_bad_input_and_has_no_other_plane() {
    let scene = Scene::set().await;
    let id = scene.ada.id.as_str();
    let cases = [
        ("POST", "/v1/keys", "{", 400, "malformed_json"),
        ("POST", "/v1/keys", "{}", 422, r#""field":"name""#),
        ("POST", "/v1/keys", r#"["backend"]"#, 422, r#""field":"body""#),
        ("POST", "/v1/keys", r#"{"name":""}"#, 422, r#""field":"name""#),
        ("POST", "/v1/keys", r#"{"name":"a\nb"}"#, 422, r#""field":"name""#),
        (
            "POST",
            "/v1/keys",
            r#"{"name":"x","app":"default"}"#,
            422,
            r#""field":"app""#,
        ),
        (
            "POST",
            "/v1/keys?app=nowhere",
            r#"{"name":"x"}"#,
            422,
            r#""field":"app""#,
        ),
        ("POST", "/v1/keys?x=1", r#"{"name":"x"}"#, 422, r#""field":"x""#),
        ("GET", "/v1/keys?limit=1", "", 422, r#""field":"limit""#),
        ("PUT", "/v1/keys", "", 405, "GET, POST"),
        ("DELETE", "/v1/keys/x", "", 404, "not_found"),
        ("DELETE", &format!("/v1/keys/{id}"), "", 404, "not_found"),
        ("DELETE", "/v1/sessions?app=nowhere", "", 422, r#""field":"app""#),
        ("DELETE", "/v1/sessions/x", "", 404, "not_found"),
        (
            "GET",
            "/v1/sessions/x/data?app=nowhere",
            "",
            422,
            r#""field":"app""#,
        ),
        ("GET", "/v1/sessions/x/data", "", 404, "not_found"),
        (
            "PUT",
            &format!("/v1/sessions/{id}/data"),
            "[]",
            422,
            r#""field":"body""#,
        ),
        (
            "PUT",
            &format!("/v1/sessions/{id}/identities/%00"),
            "{}",
            422,
            r#""field":"key""#,
        ),
        (
            "PUT",
            "/v1/client-sessions/01",
            "{}",
            422,
            r#""field":"client_session_id""#,
        ),
        ("DELETE", "/v1/client-sessions/7", "", 404, "not_found"),
        (
            "POST",
            &format!("/v1/sessions/{id}/authenticate"),
            "{}",
            422,
            r#""field":"user_id""#,
        ),
        ("POST", "/v1/session/renew", "", 404, "not_found"),
        ("POST", "/v1/me/session", "", 404, "not_found"),
        ("GET", "/v1/session", "", 404, "not_found"),
        ("GET", "/v1/me/sessions", "", 404, "not_found"),
        ("GET", "/openapi.json", "", 404, "not_found"),
        ("GET", "/", "", 404, "not_found"),
        (
            "POST",
            &format!("/v1/sessions/{id}/touch"),
            "{}",
            404,
            "not_found",
        ),
        ("POST", "/dev/clock", r#"{"advance_secs":1}"#, 404, "not_found"),
    ];
    for (method, path, body, status, text) in cases {
        let mut wire = Wire::open_operator(&scene.server).await;
        let head = "Host: x\r\nContent-Type: application/json";
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        wire.send(request.as_bytes()).await;
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        assert!(
            answer.body.contains(text),
            "{method} {path} {body}: {}",
            answer.body
        );
    }
    scene.assert_nothing_changed().await;
}

#[tokio::test]
async fn client_that_never_ends_its_body_is_hung_up_on() {
    let server = TestServer::start().await;
    let chunked =
        "Host: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"nam\r\n";
    let too_large = format!(
        "Authorization: Bearer {}\r\n{chunked}10000\r\n{}\r\n",
        server.key,
        "x".repeat(0x10000)
    );
    let cases = [
        ("GET /healthz", 200, chunked),
        ("POST /nowhere", 404, chunked),
        ("POST /v1/sessions", 401, chunked),
        ("POST /v1/sessions", 413, &too_large),
        ("PUT /v1/sessions", 405, chunked),
    ];
    for (call, status, rest) in cases {
        let mut wire = Wire::open(&server).await;
        wire.send(format!("{call} HTTP/1.1\r\n{rest}").as_bytes()).await;
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.status, status, "{call}: {}", answer.body);
        assert!(wire.answer().await.is_none(), "{call}: the server hangs up");
    }
}

#[tokio::test]
async fn chunked_body_that_ends_is_taken_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let mut wire = Wire::open(&server).await;
    let request = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n9\r\n{{\"user_id\r\n8\r\n\":\"ada\"}}\r\n0\r\n\r\n",
        server.key
    );
    for _ in 0..2 {
        wire.send(request.as_bytes()).await;
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
}
