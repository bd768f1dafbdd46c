//! Service plane: sign-ins. A session is started, or one that is there gets a user; both answer a token.

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::auth::{Backend, StateData};
use super::input::{self, Body, Object};
use super::json_writer::{self, WriteJson, key};
use super::problem::{Problem, ProblemBody};
use super::session_body::{Audience, SessionBody};
use super::sessions::{bodies, caller_without_query, parse_address, parse_auth};
use super::{State, cookie, json_by_hand};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::FieldError;
use crate::manager::{RepeatableCall, SignIn, SignedIn, data_error};
use crate::session::{ClientHints, Session, SessionId};
use crate::user::UserId;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const IDEMPOTENCY_REPLAYED: &str = "Idempotency-Replayed";
/// Longest name of a call; UUIDs have 36.
pub const IDEMPOTENCY_KEY_LEN_MAX: usize = 255;

/// A session to be started; every field is optional.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The application's own id for the person; without it the session is anonymous.
    #[schema(example = "ada")]
    user_id: Option<String>,
    /// The address the person signs in from. One that does not parse is stored as null.
    #[schema(example = "203.0.113.7")]
    ip_address: Option<String>,
    /// The browser's `User-Agent`; cut at 512 bytes.
    #[schema(example = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0")]
    user_agent: Option<String>,
    /// The browser's client hints.
    #[schema(value_type = Option<ClientHintsBody>)]
    client_hints: Option<Object<ClientHintsBody>>,
    /// A tier to store for the user.
    #[schema(example = "premium")]
    tier: Option<String>,
    /// What the application keeps about the sign-in: an object of at most 8 KiB and 64 levels. A list `tags` in it can be
    /// demanded by checks.
    #[schema(value_type = Option<Object>)]
    auth: Option<serde_json::Map<String, serde_json::Value>>,
    /// A name for the session, up to 100 characters.
    name: Option<String>,
    /// A shorter idle timeout than the app's policy; a longer one is cut.
    #[schema(minimum = 1)]
    idle_timeout_secs: Option<u64>,
    /// A shorter absolute timeout than the app's policy; a longer one is cut.
    #[schema(minimum = 1)]
    absolute_timeout_secs: Option<u64>,
    /// Whether the policy's timeouts for remembered devices apply.
    remember: Option<bool>,
    /// When the credentials were verified, RFC 3339, not in the future; by default now.
    #[schema(format = DateTime)]
    authenticated_at: Option<String>,
    /// Sessions of this user that end in the same transaction, before the limit is looked at; at most 200. Those of
    /// others are left alone.
    #[serde(default)]
    end_ids: Vec<String>,
    /// What the application keeps in the session: an object of at most 64 KiB.
    #[schema(value_type = Option<Object>)]
    data: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What the browser tells in `Sec-CH-UA-…` headers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientHintsBody {
    /// `Sec-CH-UA-Platform`.
    platform: Option<String>,
    /// `Sec-CH-UA-Platform-Version`.
    platform_version: Option<String>,
    /// `Sec-CH-UA-Model`.
    model: Option<String>,
    /// `Sec-CH-UA-Mobile`.
    mobile: Option<bool>,
    /// Brands and versions, as `navigator.userAgentData.brands` lists them.
    #[serde(default)]
    #[schema(value_type = Vec<BrandBody>)]
    brands: Vec<Object<BrandBody>>,
}

/// One brand a browser goes by.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BrandBody {
    /// Its name.
    brand: String,
    /// Its version.
    #[serde(default)]
    version: String,
}

/// Most brands that are looked at; browsers send three.
const BRANDS_MAX: usize = 16;

impl From<ClientHintsBody> for ClientHints {
    fn from(body: ClientHintsBody) -> Self {
        let brands = body
            .brands
            .into_iter()
            .take(BRANDS_MAX)
            .map(|Object(brand)| (brand.brand, brand.version));
        Self {
            platform: body.platform,
            platform_version: body.platform_version,
            model: body.model,
            mobile: body.mobile,
            brands: brands.collect(),
        }
    }
}

/// A session that was started.
#[derive(Debug, ToSchema)]
#[schema(as = SignedIn)]
pub struct SignedInBody<'s> {
    /// The session.
    session: SessionBody<'s>,
    /// Its token, shown only now.
    #[schema(example = "sst_…")]
    token: String,
    /// The `Set-Cookie` value for the browser, by the app's cookie profile.
    set_cookie: String,
    /// Sessions of the same user that were ended because of the limit, oldest sign-in first.
    evicted: Vec<SessionBody<'s>>,
}

/// Names a call, so that it can be repeated.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
pub struct IdempotencyParams {
    /// 1 to 255 visible ASCII characters. The same key and body within 24 hours answer the same session and the same
    /// token, with `Idempotency-Replayed: true`, whatever became of the first answer.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// Starts a session.
///
/// Ends as many of the user's oldest sign-ins as their limit demands, in the same transaction.
#[utoipa::path(
    post, path = "/v1/sessions", tag = "service", security(("api_key" = [])),
    request_body = Option<CreateSession>,
    params(IdempotencyParams),
    responses(
        (status = 201, description = "Started", body = SignedInBody<'static>),
        (status = 400, description = "`malformed_json`", body = ProblemBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 403, description = "`user_blocked`", body = ProblemBody<'static>),
        (status = 409, description = "`session_limit_reached`, `credentials_changed`, `idempotency_session_changed`",
         body = ProblemBody<'static>),
        (status = 413, description = "`payload_too_large`", body = ProblemBody<'static>),
        (status = 415, description = "`unsupported_media_type`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`, `idempotency_key_reused`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn create_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let key = idempotency_key(&request)?;
    let bytes = input::body(&request, payload, Body::Optional).await?;
    let sign_in = input::parse::<CreateSession>(&bytes)?.into_sign_in()?;
    let signed_in = match (key, &backend.key) {
        (None, _) => state.manager.create(&backend.app, sign_in).await?,
        (Some(_), None) => {
            let rule = "is a matter of API keys, and nobody has one here";
            return Err(Problem::invalid_field(IDEMPOTENCY_KEY, rule));
        }
        (Some(key), Some(api_key)) => {
            let body = bytes.to_vec();
            let api_key = api_key.clone();
            let call = RepeatableCall { api_key, key, body };
            state
                .manager
                .create_repeatably(&backend.app, sign_in, &call)
                .await?
        }
    };
    let mut response = HttpResponse::Created();
    if signed_in.is_repeated {
        response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    }
    Ok(signed_in_answer(response, &state, &backend, &signed_in))
}

/// The answer that has a token.
fn signed_in_answer(
    response: HttpResponseBuilder,
    state: &State,
    backend: &Backend,
    signed_in: &SignedIn,
) -> HttpResponse {
    let now = state.manager.clock().now();
    let token = signed_in.token.reveal();
    let session = &signed_in.session;
    let body = SignedInBody {
        session: SessionBody::new(session, now, Some(session.id), Audience::Application),
        set_cookie: state.set_cookie(&backend.app, &token, session, now),
        token,
        evicted: bodies(&signed_in.evicted, now),
    };
    json_by_hand(response, &body)
}

impl WriteJson for SignedInBody<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = json_writer::Object::begin(out);
        object.field(key!("session"), &self.session);
        object.field(key!("token"), self.token.as_str());
        object.field(key!("set_cookie"), self.set_cookie.as_str());
        object.field(key!("evicted"), self.evicted.as_slice());
        object.end();
    }
}

/// The caller's name for the call.
fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let is_good = |key: &&str| {
        (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let key = first
        .to_str()
        .ok()
        .filter(is_good)
        .filter(|_| values.next().is_none());
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        let rule = format!("must be one text of 1 to {IDEMPOTENCY_KEY_LEN_MAX} visible ASCII characters");
        Problem::invalid_field(IDEMPOTENCY_KEY, rule)
    })
}

impl CreateSession {
    pub(super) fn into_sign_in(self) -> Result<SignIn, Problem> {
        let mut errors = Vec::new();
        let user_id = self.user_id.and_then(|text| {
            let user_id = UserId::parse(&text);
            if user_id.is_none() {
                errors.push(FieldError::new("user_id", UserId::RULE));
            }
            user_id
        });
        let authenticated_at = parse_time(self.authenticated_at, &mut errors);
        let auth = self.auth.and_then(|object| parse_auth(&object, &mut errors));
        let end_ids = parse_ids(&self.end_ids, &mut errors);
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        let data = self.data.map(Data::from_object).transpose();
        let data = data.map_err(|error| data_error(error, "data"))?;
        Ok(SignIn {
            user_id,
            ip_address: self.ip_address.as_deref().and_then(parse_address),
            user_agent: self.user_agent,
            client_hints: self
                .client_hints
                .map(|Object(hints)| hints.into())
                .unwrap_or_default(),
            tier: self.tier,
            auth,
            name: self.name,
            idle_timeout_secs: self.idle_timeout_secs,
            absolute_timeout_secs: self.absolute_timeout_secs,
            remember: self.remember.unwrap_or(false),
            authenticated_at,
            end_ids,
            data,
        })
    }
}

fn parse_time(text: Option<String>, errors: &mut Vec<FieldError>) -> Option<Timestamp> {
    let text = text?;
    let at = Timestamp::parse_rfc3339(&text);
    if at.is_none() {
        errors.push(FieldError::new("authenticated_at", "must be a time in RFC 3339"));
    }
    at
}

fn parse_ids(texts: &[String], errors: &mut Vec<FieldError>) -> Vec<SessionId> {
    let ids = texts.iter().map(|text| SessionId::parse(text));
    ids.collect::<Option<Vec<_>>>().unwrap_or_else(|| {
        errors.push(FieldError::new("end_ids", "must be ids of sessions"));
        Vec::new()
    })
}

/// A user who signs in with a session that is there.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthenticateSession {
    /// The application's own id for the person.
    #[schema(example = "ada")]
    user_id: String,
    /// The address the person signs in from. One that does not parse counts as none.
    ip_address: Option<String>,
    /// The browser's `User-Agent`; without it that of before stays.
    user_agent: Option<String>,
    /// A tier to store for the user.
    tier: Option<String>,
    /// What the application keeps about the sign-in, replaced whole; without it that of before stays.
    #[schema(value_type = Option<Object>)]
    auth: Option<serde_json::Map<String, serde_json::Value>>,
    /// A shorter idle timeout than the app's policy; a longer one is cut.
    #[schema(minimum = 1)]
    idle_timeout_secs: Option<u64>,
    /// A shorter absolute timeout than the app's policy; a longer one is cut.
    #[schema(minimum = 1)]
    absolute_timeout_secs: Option<u64>,
    /// Whether the policy's timeouts for remembered devices apply.
    remember: Option<bool>,
    /// When the credentials were verified, RFC 3339, not in the future; by default now.
    #[schema(format = DateTime)]
    authenticated_at: Option<String>,
    /// Other sessions of this user that end in the same transaction, before the limit is looked at; at most 200.
    #[serde(default)]
    end_ids: Vec<String>,
}

/// Signs a user in with a session that is nobody's, or its own user again.
///
/// The id and the data stay; both deadlines start anew; the token is a fresh one, and every older one is dead at once.
/// The user's limit is enforced as at a creation; the session itself never makes room.
#[utoipa::path(
    post, path = "/v1/sessions/{id}/authenticate", tag = "service", security(("api_key" = [])),
    request_body = AuthenticateSession, params(("id" = String, Path, description = "The session's id")),
    responses(
        (status = 200, description = "Signed in", body = SignedInBody<'static>),
        (status = 401, description = "`invalid_api_key`", body = ProblemBody<'static>),
        (status = 403, description = "`user_blocked`", body = ProblemBody<'static>),
        (status = 404, description = "`not_found`", body = ProblemBody<'static>),
        (status = 409, description = "`session_has_other_user`, `session_limit_reached`, `credentials_changed`",
         body = ProblemBody<'static>),
        (status = 410, description = "`session_ended`", body = ProblemBody<'static>),
        (status = 422, description = "`validation_failed`", body = ProblemBody<'static>),
        (status = 503, description = "`overloaded`, `store_unavailable`", body = ProblemBody<'static>),
    )
)]
pub async fn authenticate_session(
    request: HttpRequest,
    payload: web::Payload,
    state: StateData,
) -> Result<HttpResponse, Problem> {
    let backend = caller_without_query(&request, &state).await?;
    let id = input::session_id(&request)?;
    let body: AuthenticateSession = input::json(&request, payload, Body::Required).await?;
    let (user_id, sign_in) = body.into_sign_in()?;
    let signed_in = state
        .manager
        .authenticate(&backend.app, id, user_id, sign_in)
        .await?;
    Ok(signed_in_answer(HttpResponse::Ok(), &state, &backend, &signed_in))
}

impl AuthenticateSession {
    fn into_sign_in(self) -> Result<(UserId, SignIn), Problem> {
        let mut errors = Vec::new();
        let user_id = UserId::parse(&self.user_id);
        if user_id.is_none() {
            errors.push(FieldError::new("user_id", UserId::RULE));
        }
        let sign_in = SignIn {
            ip_address: self.ip_address.as_deref().and_then(parse_address),
            user_agent: self.user_agent,
            tier: self.tier,
            auth: self.auth.and_then(|object| parse_auth(&object, &mut errors)),
            idle_timeout_secs: self.idle_timeout_secs,
            absolute_timeout_secs: self.absolute_timeout_secs,
            remember: self.remember.unwrap_or(false),
            authenticated_at: parse_time(self.authenticated_at, &mut errors),
            end_ids: parse_ids(&self.end_ids, &mut errors),
            ..SignIn::default()
        };
        match user_id {
            Some(user_id) if errors.is_empty() => Ok((user_id, sign_in)),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

impl State {
    /// `Set-Cookie` for a token, by the app's profile.
    pub(super) fn set_cookie(
        &self,
        app: &crate::session::AppName,
        token: &str,
        session: &Session,
        now: Timestamp,
    ) -> String {
        let config = self.manager.app(app).map(|config| &config.cookie);
        config
            .map(|config| cookie::set(config, token, session, now))
            .unwrap_or_default()
    }
}
