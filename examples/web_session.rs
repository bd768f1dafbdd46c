//! A web application that leaves its sessions to a running sessiond: it counts visits, signs people in and greets them once.
//!
//! ```text
//! cargo run -- dev                                        # sessiond; it prints an API key
//! SESSIOND_KEY=ssk_… cargo run --example web_session      # this, at http://localhost:8080
//! ```
//!
//! Nothing is kept here: a visitor's browser has sessiond's cookie, and everything else is in the session. An argument is
//! the address to listen on, `SESSIOND_URL` where sessiond is, `SESSIOND_COOKIE` the cookie's name (in production it is
//! `__Host-session`).

use std::time::Duration;

use actix_web::http::header::{COOKIE, LOCATION, SET_COOKIE};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use serde_json::{Value, json};

// The pages

/// Counts the visit, also of somebody who never signs in.
async fn home(request: HttpRequest, sessiond: web::Data<Sessiond>) -> Result<HttpResponse, Trouble> {
    let (session, set_cookie) = match sessiond.check(&request).await? {
        Visitor::Known(session) => (session, Value::Null),
        Visitor::New => sessiond.start(&request).await?,
        Visitor::Outdated => return Ok(outdated()),
    };
    let data = path(&session, "/data");
    let kept = sessiond.call(Method::GET, &data, Value::Null).await?;
    // Of two tabs that count at the same moment one may be lost; the answer's ETag as If-Match would tell.
    let visits = kept["data"]["visits"].as_u64().unwrap_or(0).saturating_add(1);
    sessiond
        .call(Method::PATCH, &data, json!({ "visits": visits }))
        .await?;
    let mut main = format!("<p>Visits: <b id=visits>{visits}</b></p>");
    if kept["data"].get("flash").is_some() {
        // Read and removed in one step: shown once, also if two tabs ask at the same moment.
        let take = format!("{data}?path=flash&take=true");
        let flash = sessiond.call(Method::GET, &take, Value::Null).await?;
        main += &format!("<p id=flash>{}</p>", escaped(&flash["data"]));
    }
    main += &match &session["user_id"] {
        Value::Null => {
            "<form method=post action=/sign-in><label>Name <input name=name required></label> <button>Sign in</button></form>"
                .to_owned()
        }
        name => format!(
            "<p>You are <b id=who>{}</b>.</p><form method=post action=/sign-out><button>Sign out</button></form>",
            escaped(name)
        ),
    };
    Ok(with_cookie(page(StatusCode::OK, &main), &set_cookie))
}

/// Gives the visitor's session to a user: what is in it stays, and the cookie of before is worth nothing any more.
async fn sign_in(
    request: HttpRequest,
    form: web::Form<Value>,
    sessiond: web::Data<Sessiond>,
) -> Result<HttpResponse, Trouble> {
    refuse_other_sites(&request)?;
    // A real application verifies a password or a passkey here.
    let name = form["name"].as_str().unwrap_or_default().trim();
    let session = match sessiond.check(&request).await? {
        Visitor::Known(session) => session,
        Visitor::New => sessiond.start(&request).await?.0,
        Visitor::Outdated => return Ok(outdated()),
    };
    let mut body = caller(&request);
    body["user_id"] = name.into();
    let signed_in = sessiond
        .call(Method::POST, &path(&session, "/authenticate"), body)
        .await?;
    // Whether or not there is a greeting, the new cookie must reach the browser: the old one is dead.
    let flash = json!({ "flash": format!("Welcome, {name}") });
    let _ = sessiond
        .call(Method::PATCH, &path(&session, "/data"), flash)
        .await;
    let response = HttpResponse::SeeOther().insert_header((LOCATION, "/")).finish();
    Ok(with_cookie(response, &signed_in["set_cookie"]))
}

/// Ends the session. If that fails the cookie stays, so that nobody who is signed in thinks they are not.
async fn sign_out(request: HttpRequest, sessiond: web::Data<Sessiond>) -> Result<HttpResponse, Trouble> {
    refuse_other_sites(&request)?;
    if let Visitor::Known(session) = sessiond.check(&request).await? {
        sessiond
            .call(Method::DELETE, &path(&session, "?ended_by=user"), Value::Null)
            .await?;
    }
    // With the attributes that sessiond sets, or a browser keeps the cookie; a `shared` one has a Domain, too.
    let name = &sessiond.cookie;
    let secure = if name.starts_with("__") { "; Secure" } else { "" };
    let clear = format!("{name}=; Max-Age=0; Path=/{secure}; HttpOnly; SameSite=Lax");
    let main = "<p id=flash>You are signed out.</p><p><a href=/>Go on</a></p>";
    Ok(with_cookie(page(StatusCode::OK, main), &clear.into()))
}

/// The session has a newer cookie, which another tab has just got, or a thief has not. A session started now would take
/// it from that tab; so none is, and there is a way out for a browser that never got it.
fn outdated() -> HttpResponse {
    let main = "<p id=trouble>This session went on elsewhere. <a href=/>Try again</a>, or begin anew:</p>\
                <form method=post action=/sign-out><button>Begin anew</button></form>";
    page(StatusCode::UNAUTHORIZED, main)
}

fn page(status: StatusCode, main: &str) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .body(format!(
            "<!doctype html><html lang=en><title>Visits</title><main><h1>Visits</h1>{main}</main></html>"
        ))
}

/// A text in a page: names are written by whoever likes to.
fn escaped(text: &Value) -> String {
    let escape = |one: char| match one {
        '&' | '<' | '>' | '"' | '\'' => format!("&#{};", u32::from(one)),
        _ => one.to_string(),
    };
    text.as_str().unwrap_or_default().chars().map(escape).collect()
}

/// Hands on the cookie that sessiond made; there is no other one.
fn with_cookie(mut response: HttpResponse, set_cookie: &Value) -> HttpResponse {
    if let Some(cookie) = set_cookie.as_str().and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r str> {
    request
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap_or_default())
}

/// Another site can make a browser send these forms, with its cookie, or without one to sign a person in as somebody
/// else. Browsers tell where a form was sent from, and no page can change that, so no secret is needed in the form. A
/// sibling sub-domain (`same-site`) is another site too.
fn refuse_other_sites(request: &HttpRequest) -> Result<(), Trouble> {
    let is_own = match (header(request, "sec-fetch-site"), header(request, "origin")) {
        (Some(site), _) => site == "same-origin",
        // An old browser. Behind a proxy that rewrites Host, compare with the public origin instead.
        (None, Some(origin)) => origin.split_once("://").map(|(_, from)| from) == header(request, "host"),
        (None, None) => false,
    };
    let refused = || {
        Trouble(
            StatusCode::FORBIDDEN,
            "This form was not sent from this site.".to_owned(),
        )
    };
    is_own.then_some(()).ok_or_else(refused)
}

// The calls to sessiond

struct Sessiond {
    client: reqwest::Client,
    url: String,
    key: String,
    cookie: String,
}

/// What the cookie of a request says.
enum Visitor {
    Known(Value),
    New,
    /// The session has another token by now.
    Outdated,
}

impl Sessiond {
    async fn check(&self, request: &HttpRequest) -> Result<Visitor, Trouble> {
        let headers = request
            .headers()
            .get_all(COOKIE)
            .filter_map(|value| value.to_str().ok());
        let mut pairs = headers
            .flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let Some((_, token)) = pairs.find(|(name, _)| *name == self.cookie) else {
            return Ok(Visitor::New);
        };
        let mut body = caller(request);
        body["token"] = token.into();
        let mut checked = self.call(Method::POST, "/v1/sessions/check", body).await?;
        Ok(match checked["code"].as_str() {
            None => Visitor::Known(checked["session"].take()),
            Some("token_replaced") => Visitor::Outdated,
            Some(_) => Visitor::New,
        })
    }

    /// Starts a session of nobody, for a day at most between two visits; answers it and its cookie.
    async fn start(&self, request: &HttpRequest) -> Result<(Value, Value), Trouble> {
        let mut body = caller(request);
        body["idle_timeout_secs"] = json!(24 * 60 * 60);
        let mut started = self.call(Method::POST, "/v1/sessions", body).await?;
        Ok((started["session"].take(), started["set_cookie"].take()))
    }

    /// One call: the answer's JSON, or what to tell the visitor.
    async fn call(&self, method: Method, path: &str, body: Value) -> Result<Value, Trouble> {
        let method = method
            .as_str()
            .parse()
            .expect("both libraries know these methods");
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(away)?;
        let status = response.status().as_u16();
        if status == 204 {
            return Ok(Value::Null);
        }
        let answer: Value = response.json().await.map_err(away)?;
        match status {
            200..300 => Ok(answer),
            // Matters of the person who signs in: blocked, too many sessions, no such name.
            403 | 409 | 422 => {
                let status = StatusCode::from_u16(status).map_err(away)?;
                Err(Trouble(status, escaped(&answer["detail"])))
            }
            _ => Err(away(&answer["detail"])),
        }
    }
}

fn path(session: &Value, rest: &str) -> String {
    format!(
        "/v1/sessions/{}{rest}",
        session["id"].as_str().unwrap_or_default()
    )
}

/// Who calls, for the session's device and place. Behind a proxy the address is the one that the proxy tells.
fn caller(request: &HttpRequest) -> Value {
    let address = request.peer_addr().map(|peer| peer.ip());
    json!({ "ip_address": address, "user_agent": header(request, "user-agent") })
}

/// A page that tells what went wrong; the text is markup.
#[derive(Debug)]
struct Trouble(StatusCode, String);

/// The log has the reason, the visitor can only try again.
fn away(reason: impl std::fmt::Display) -> Trouble {
    eprintln!("sessiond is no help: {reason}");
    let told = "Sessions are not available right now. Please try again in a moment.";
    Trouble(StatusCode::SERVICE_UNAVAILABLE, told.to_owned())
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl ResponseError for Trouble {
    fn error_response(&self) -> HttpResponse {
        page(
            self.0,
            &format!("<p id=trouble>{}</p><p><a href=/>Back</a></p>", self.1),
        )
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    actix_web::rt::System::new().block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let sessiond = web::Data::new(Sessiond {
        // Not through a proxy that the environment names: tokens are on the way.
        client: reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()?,
        url: setting("SESSIOND_URL", "http://127.0.0.1:7377")
            .trim_end_matches('/')
            .to_owned(),
        key: std::env::var("SESSIOND_KEY")
            .map_err(|_| "set SESSIOND_KEY; `sessiond dev` prints an API key")?,
        cookie: setting("SESSIOND_COOKIE", "sessiond_dev"),
    });
    let listen = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let server = HttpServer::new(move || {
        // What somebody writes into a page can never become a script.
        let headers = DefaultHeaders::new()
            .add((
                "content-security-policy",
                "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
            ))
            .add(("cache-control", "no-store"));
        App::new()
            .wrap(headers)
            .app_data(sessiond.clone())
            .route("/", web::get().to(home))
            .route("/sign-in", web::post().to(sign_in))
            .route("/sign-out", web::post().to(sign_out))
    })
    .workers(1)
    .bind(listen)?;
    for address in server.addrs() {
        println!(
            "Open http://{}/",
            address.to_string().replace("127.0.0.1", "localhost")
        );
    }
    Ok(server.run().await?)
}
