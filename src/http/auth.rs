//! Who is calling: a backend by its API key, the command line by the socket it came through, or the holder of a
//! session token by bearer header or cookie.
//!
//! Only an `Authorization` header of scheme `Bearer` counts; one that is malformed or unknown is refused and never falls
//! back to the cookie. The planes never take each other's credentials. What comes by cookie is checked for coming from
//! another site (OWASP CSRF Prevention Cheat Sheet: Fetch Metadata, else the Origin header).

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::http::uri::Authority;
use actix_web::http::{Method, Uri, header};
use actix_web::{HttpRequest, web};

use super::input::Query;
use super::problem::{Code, Problem};
use super::{State, address, cookie, rate_limits};
use crate::cache::CachedSession;
use crate::config::AppConfig;
use crate::manager::{CheckAnswer, Demands, Refusal, Use};
use crate::session::{ApiKey, AppName, EndedBy, Session, SessionId, Token};
use crate::store::Owner;

/// Tokens by cookie that are looked at; a browser sends one for each path and domain it was set for. With more it is not
/// known which is the session's, and nothing is done: a sign-out that passed it over would be none.
const COOKIE_TOKENS_MAX: usize = 16;

/// Which listener a request came through, and with it what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// TCP: an API key is needed.
    Public,
    /// The Unix socket: opening it was the permission.
    Operator,
}

/// A caller of the service plane.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The app it acts in.
    pub app: AppName,
    /// Who ends what it ends, unless it says.
    pub by: EndedBy,
    /// The key it came with; nobody has one on the operator plane.
    pub key: Option<ApiKey>,
}

/// Finds out which backend is calling. On the operator plane it takes the parameter `app` from the query.
pub async fn backend(request: &HttpRequest, state: &State, query: &mut Query) -> Result<Backend, Problem> {
    if state.plane == Plane::Operator {
        let app = named_app(state, query)?.unwrap_or_else(AppName::default_app);
        return Ok(Backend {
            app,
            by: EndedBy::Operator,
            key: None,
        });
    }
    let refused = |detail: &str| Problem::new(Code::InvalidApiKey, detail);
    let presented = bearer(request).ok_or_else(|| refused("Send an API key: Authorization: Bearer ssk_…"))?;
    let key = presented.and_then(ApiKey::parse).ok_or_else(unknown_api_key)?;
    let app = state
        .manager
        .app_of_key(&key)
        .await?
        .ok_or_else(unknown_api_key)?;
    // Only now: whoever knows a key's id and not the key spends nothing of its.
    rate_limits::spend_of_key(request, state, key.id())?;
    Ok(Backend {
        app,
        by: EndedBy::App,
        key: Some(key),
    })
}

/// That an API key is none of this server's, or none any more.
pub fn unknown_api_key() -> Problem {
    Problem::new(Code::InvalidApiKey, "This is not an API key of this server.")
}

/// The holder of a session token.
#[derive(Debug)]
pub struct Holder {
    /// The app of the request.
    pub app: AppName,
    /// The session as it is after this use.
    pub entry: Arc<CachedSession>,
    /// The token that was presented.
    pub token: Token,
    /// Whether the token came by cookie.
    pub is_by_cookie: bool,
}

impl Holder {
    /// The session's row.
    pub fn session(&self) -> &Session {
        self.entry.row()
    }

    /// Whose sessions the holder may see and end: their own. For an anonymous session that is itself alone.
    pub fn reach(&self) -> Reach {
        match &self.session().user_id {
            Some(user_id) => Reach::User(Owner::User(user_id.clone())),
            None => Reach::Itself(self.session().id),
        }
    }
}

/// What a holder's calls may concern.
#[derive(Debug, Clone)]
pub enum Reach {
    /// All sessions of one user.
    User(Owner),
    /// One session.
    Itself(SessionId),
}

/// How a token came.
#[derive(Debug)]
pub enum Presented {
    /// In the header.
    Bearer(Token),
    /// In one or more cookies of the app's name; those that are no tokens are left out.
    Cookies(Vec<Token>),
    /// Not at all.
    Nothing,
}

/// Finds a request's app: `?app=`, else the one that lists the host, else `default`.
pub fn app_of_request(request: &HttpRequest, state: &State, query: &mut Query) -> Result<AppName, Problem> {
    if let Some(app) = named_app(state, query)? {
        return Ok(app);
    }
    if !state.lists_hosts {
        return Ok(state.default_app.clone());
    }
    let host = host_of(request);
    let lists_host = |config: &AppConfig| host.as_ref().is_some_and(|host| config.hosts.contains(host));
    let by_host = state.manager.apps().iter().find(|(_, config)| lists_host(config));
    Ok(by_host.map_or(&state.default_app, |(app, _)| app).clone())
}

fn named_app(state: &State, query: &mut Query) -> Result<Option<AppName>, Problem> {
    let Some(name) = query.text("app") else {
        return Ok(None);
    };
    let app = AppName::parse(&name).filter(|app| state.manager.app(app).is_some());
    app.map(Some)
        .ok_or_else(|| Problem::invalid_field("app", "is not a configured app"))
}

/// Where a request is for: what a whole URL in its first line says, else its Host (RFC 9112, section 3.2.2).
fn authority_of(request: &HttpRequest) -> Option<&str> {
    let host = || request.headers().get(header::HOST)?.to_str().ok();
    request.uri().authority().map(Authority::as_str).or_else(host)
}

/// The host a request is for, lower-case and without port.
pub fn host_of(request: &HttpRequest) -> Option<String> {
    let authority = authority_of(request)?;
    // A host has no user, whatever URLs can have before an @.
    let uri: Uri = format!("http://{authority}/")
        .parse()
        .ok()
        .filter(|_| !authority.contains('@'))?;
    let host = uri.host()?;
    Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// The value of the first bearer header: `None` without one, `Some(None)` if it is not text.
fn bearer(request: &HttpRequest) -> Option<Option<&str>> {
    request
        .headers()
        .get_all(header::AUTHORIZATION)
        .find_map(|value| {
            let bytes = value.as_bytes();
            let scheme = bytes.get(..6)?;
            // Whatever cannot belong to a longer scheme's name ends this one: a tab must not lead to the cookie.
            let ends = |next: &u8| !next.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(next);
            let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && bytes.get(6).is_none_or(ends);
            is_bearer.then(|| std::str::from_utf8(&bytes[6..]).ok().map(str::trim))
        })
}

/// Whether a request has a credential in its header, of whatever kind.
pub fn has_bearer(request: &HttpRequest) -> bool {
    bearer(request).is_some()
}

/// Reads the credentials of the token and self planes, and refuses cookies that another site made the browser send.
pub fn present(request: &HttpRequest, state: &State, app: &AppName) -> Result<Presented, Problem> {
    if let Some(presented) = bearer(request) {
        let token = presented.and_then(Token::parse).ok_or(Refusal::InvalidToken)?;
        return Ok(Presented::Bearer(token));
    }
    let Some(config) = state.manager.app(app) else {
        return Ok(Presented::Nothing);
    };
    let name = cookie::name(&config.cookie);
    let mut values = cookie::values(request.headers(), &name).peekable();
    if values.peek().is_none() {
        return Ok(Presented::Nothing);
    }
    refuse_cross_site(request, state)?;
    // What is no token must not take the place of one: a sibling sub-domain can set cookies of this name.
    let tokens: Vec<Token> = values
        .filter_map(Token::parse)
        .take(COOKIE_TOKENS_MAX + 1)
        .collect();
    if tokens.len() > COOKIE_TOKENS_MAX {
        rate_limits::spend_wrong(request, state)?;
        let detail =
            format!("More than {COOKIE_TOKENS_MAX} cookies could be the session's. Clear the cookies.");
        return Err(Problem::new(Code::AmbiguousCookie, detail));
    }
    Ok(Presented::Cookies(tokens))
}

/// That a request has no token.
pub fn no_session() -> Problem {
    let detail = "Send a session token: Authorization: Bearer sst_…, or the app's cookie.";
    Problem::new(Code::NoSession, detail)
}

/// The address that a token by cookie is used from.
pub fn client_address(request: &HttpRequest, state: &State) -> Option<IpAddr> {
    address::of_request(request, &state.trusted_proxies).address
}

/// The address that a token by header is used from, if a proxy told it: a backend that passes its caller's token on would
/// record itself.
pub fn forwarded_address(request: &HttpRequest, state: &State) -> Option<IpAddr> {
    let client = address::of_request(request, &state.trusted_proxies);
    client.address.filter(|_| client.is_forwarded)
}

/// Checks the token of a request to this app. `may_touch`: whether the call counts as a use.
pub async fn holder(
    request: &HttpRequest,
    state: &State,
    app: AppName,
    may_touch: bool,
    demands: &Demands,
) -> Result<Holder, Problem> {
    let usage = |address: Option<IpAddr>| if may_touch { Use::Touch(address) } else { Use::Look };
    let (answer, token, is_by_cookie) = match present(request, state, &app)? {
        Presented::Nothing => return Err(no_session()),
        Presented::Bearer(token) => {
            let usage = usage(forwarded_address(request, state));
            let answer = state.manager.check(&app, &token, usage, demands).await?;
            (answer, token, false)
        }
        Presented::Cookies(tokens) => {
            let usage = usage(client_address(request, state));
            let token = choose(state, &app, &tokens).await?.ok_or(Refusal::InvalidToken)?;
            let answer = state.manager.check(&app, token, usage, demands).await?;
            (answer, token.clone(), true)
        }
    };
    match answer {
        CheckAnswer::Active(entry) => Ok(Holder {
            app,
            entry,
            token,
            is_by_cookie,
        }),
        CheckAnswer::Refused(refusal) => Err(refusal.into()),
    }
}

/// Of several cookies of our name the one that is valid counts; two that are valid and differ are refused. Without a
/// valid one the one counts that was: its holder is told so, rather than that it is unknown.
pub async fn choose<'t>(
    state: &State,
    app: &AppName,
    tokens: &'t [Token],
) -> Result<Option<&'t Token>, Problem> {
    if let [] | [_] = tokens {
        return Ok(tokens.first());
    }
    let mut valid: Option<&Token> = None;
    let mut refused = tokens.first();
    let mut best = 0;
    for token in tokens {
        let answer = state
            .manager
            .check(app, token, Use::Look, &Demands::default())
            .await?;
        let rank = match answer {
            CheckAnswer::Active(_) => {
                if valid.is_some_and(|other| other.id() != token.id()) {
                    let detail =
                        "Two cookies name different sessions, both valid. Sign out, or clear the cookies.";
                    return Err(Problem::new(Code::AmbiguousCookie, detail));
                }
                valid = Some(token);
                continue;
            }
            CheckAnswer::Refused(Refusal::TokenReplaced) => 2,
            CheckAnswer::Refused(Refusal::SessionEnded(_)) => 1,
            CheckAnswer::Refused(_) => 0,
        };
        if rank > best {
            (refused, best) = (Some(token), rank);
        }
    }
    Ok(valid.or(refused))
}

/// Refuses a request with our cookie that another site made the browser send.
///
/// An unsafe one needs `Sec-Fetch-Site: same-origin`, or without that header an `Origin` that is ours; `same-site` is a
/// sibling sub-domain and is refused too. A safe one is refused only if the browser says that another site fetches it
/// as data; its answer to a navigation no other site can read.
pub fn refuse_cross_site(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let text = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let site = text("sec-fetch-site");
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    let is_allowed = match (is_safe, site) {
        // A person who follows a link from elsewhere is no fetch of data; a proxy that asks here passes it on.
        (true, Some("cross-site" | "same-site")) => text("sec-fetch-mode") == Some("navigate"),
        (true, _) => true,
        (false, Some(site)) => site == "same-origin",
        (false, None) => text("origin").is_some_and(|origin| is_own_origin(request, origin, state)),
    };
    if is_allowed {
        return Ok(());
    }
    Err(Problem::new(
        Code::CrossSite,
        "By what the browser tells, this request does not come from a page of this site.",
    ))
}

/// Refuses a request that another site made the browser send, also one without our cookie: its answer would set one, and
/// so take a person's session away. Whoever sends neither header is no browser.
pub fn refuse_start_from_elsewhere(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let tells = |name: &str| request.headers().contains_key(name);
    if tells("sec-fetch-site") || tells("origin") {
        return refuse_cross_site(request, state);
    }
    Ok(())
}

fn is_own_origin(request: &HttpRequest, origin: &str, state: &State) -> bool {
    let origin = origin.to_ascii_lowercase();
    if !state.public_origins.is_empty() {
        return state.public_origins.contains(&origin);
    }
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    // A page that came by plain HTTP from the same host is whoever's is on the way. Without TLS here, a proxy may have it.
    if state.is_tls && scheme != "https" {
        return false;
    }
    authority_of(request).is_some_and(|host| host.eq_ignore_ascii_case(authority))
}

/// The server's state as handlers get it.
pub type StateData = web::Data<State>;
