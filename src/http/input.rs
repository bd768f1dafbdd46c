//! Bodies, queries and path segments of requests, read strictly: bad input gets a clear refusal and changes nothing.
//!
//! A body is read only after the caller is known. Not JSON is 400, a wrong type, a missing or an unknown field is 422
//! and names the field. Everything has a bound.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};

use super::problem::{Code, Problem};
use crate::clock::Timestamp;
use crate::error::FieldError;
use crate::session::{IDENTITY_KEY_CHARS_MAX, SessionId, is_identity_key};
use crate::store::{Cursor, StatusFilter};
use crate::user::UserId;

/// Longest body: as much as a session's data may have, so that all of it can be put at once. At a creation the other fields
/// take their part.
pub const BODY_LEN_MAX: usize = 64 * 1024;
/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions on a page unless the caller says.
pub const PAGE_LEN_DEFAULT: usize = 50;
/// Most sessions on a page.
pub const PAGE_LEN_MAX: usize = 200;

/// Whether a call makes sense without a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It must be there.
    Required,
    /// Nothing is the same as `{}`.
    Optional,
}

/// Reads a JSON body that is an object.
pub async fn json<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    presence: Body,
) -> Result<T, Problem> {
    parse(&body(request, payload, presence).await?)
}

/// Reads a JSON body of any kind. What is JSON, but too deep or too large a number to be kept, is 422.
pub async fn value(request: &HttpRequest, payload: web::Payload) -> Result<serde_json::Value, Problem> {
    let bytes = body(request, payload, Body::Required).await?;
    let text = well_formed(&bytes)?;
    serde_json::from_str(text)
        .map_err(|error| Problem::invalid_field("body", without_place(&error.to_string())))
}

/// Reads the bytes of a JSON body; of one that may be missing and is, those of `{}`.
pub async fn body(
    request: &HttpRequest,
    payload: web::Payload,
    presence: Body,
) -> Result<web::Bytes, Problem> {
    let bytes = within(BODY_TIMEOUT, read_body(request, payload)).await?;
    if bytes.is_empty() && presence == Body::Optional {
        return Ok(web::Bytes::from_static(b"{}"));
    }
    let essence = request.content_type().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        let detail = "Send the body as JSON, with Content-Type: application/json.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    Ok(bytes)
}

/// A body, unless it takes too long to arrive.
async fn within<T>(limit: Duration, body: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    match tokio::time::timeout(limit, body).await {
        Ok(body) => body,
        Err(_) => {
            let detail = format!("The body did not arrive within {} seconds.", limit.as_secs());
            Err(Problem::new(Code::RequestTimeout, detail))
        }
    }
}

async fn read_body(request: &HttpRequest, payload: web::Payload) -> Result<web::Bytes, Problem> {
    // For actix all that comes after it is the WebSocket's, and a length that stands beside it is not kept to: what belongs to
    // further requests would be read as this one's body.
    let is_websocket = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    if request.headers().get_all(header::UPGRADE).any(is_websocket) {
        let detail = "There are no WebSockets here, and so no body for one.";
        return Err(Problem::new(Code::MalformedJson, detail));
    }
    let too_large = || {
        Problem::new(
            Code::PayloadTooLarge,
            format!("The body may have {BODY_LEN_MAX} bytes at most."),
        )
    };
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_LEN_MAX as u64) {
        return Err(too_large());
    }
    match payload.to_bytes_limited(BODY_LEN_MAX).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::new(Code::MalformedJson, "The body broke off.")),
        Err(_) => Err(too_large()),
    }
}

fn malformed(detail: String) -> Problem {
    Problem::new(Code::MalformedJson, detail)
}

fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| malformed("The body is not UTF-8.".to_owned()))
}

/// The text of a body, if it is JSON. Looked at before any meaning, so that a wrong field before a syntax error is not
/// the one that is told.
fn well_formed(bytes: &[u8]) -> Result<&str, Problem> {
    let text = utf8(bytes)?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(text),
        Err(error) => Err(malformed(format!("The body is not JSON: {error}."))),
    }
}

/// "missing field `x` at line 1 column 2" without the position, which helps nobody here.
fn without_place(message: &str) -> &str {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message)
}

/// Reads the bytes of a body that is an object.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = well_formed(bytes)?;
    let deserializer = &mut serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize::<_, Object<T>>(deserializer);
    read.map(|Object(value)| value).map_err(|error| {
        let path = error.path().to_string();
        let message = without_place(&error.inner().to_string()).to_owned();
        let named = ["missing field `", "unknown field `", "duplicate field `"]
            .into_iter()
            .find_map(|prefix| message.strip_prefix(prefix));
        let named = named.and_then(|rest| rest.split('`').next());
        let field = match (path.as_str(), named) {
            (".", Some(field)) => field.to_owned(),
            (".", None) => "body".to_owned(),
            (path, Some(field)) if path != field && !path.ends_with(&format!(".{field}")) => {
                format!("{path}.{field}")
            }
            (path, _) => path.to_owned(),
        };
        Problem::invalid_field(field, message)
    })
}

/// A JSON object. A derived `Deserialize` alone would take a list too, for the fields in their order.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(OfMap(PhantomData)).map(Self)
    }
}

/// For merge patches: distinguishes an absent field (`None`) from `null` (`Some(None)`).
pub fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// The query of a request: each parameter is taken by its name, and what is left at the end is refused.
pub struct Query {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

impl Query {
    /// Reads the query.
    pub fn of(request: &HttpRequest) -> Self {
        let mut errors = Vec::new();
        let mut pairs = Vec::new();
        for part in request.query_string().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (decode_form(name), decode_form(value)) {
                (Some(name), Some(value)) => pairs.push((name, value)),
                (name, _) => {
                    let name = name.unwrap_or_else(|| "query".to_owned());
                    errors.push(FieldError::new(name, "is not percent-encoded UTF-8"));
                }
            }
        }
        Self { pairs, errors }
    }

    /// The values of a parameter that may be repeated.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        if self.pairs.is_empty() {
            return Vec::new();
        }
        let (taken, left) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(known, _)| known == name);
        self.pairs = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of a parameter that may be there once.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let mut values = self.all(name);
        if values.len() > 1 {
            self.wrong(name, "may be given once");
        }
        values.pop()
    }

    /// A value that `parse` understands.
    pub fn parsed<T>(&mut self, name: &str, rule: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(&text);
        if value.is_none() {
            self.wrong(name, rule);
        }
        value
    }

    /// `true` or `false`; absent is `default`.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.parsed(name, "must be true or false", |text| text.parse().ok())
            .unwrap_or(default)
    }

    /// `active`, `ended` or `all`.
    pub fn status(&mut self) -> StatusFilter {
        let parse = |text: &str| match text {
            "active" => Some(StatusFilter::Active),
            "ended" => Some(StatusFilter::Ended),
            "all" => Some(StatusFilter::All),
            _ => None,
        };
        self.parsed("status", "must be active, ended or all", parse)
            .unwrap_or(StatusFilter::Active)
    }

    /// Where the page begins and how long it is.
    pub fn page(&mut self) -> (Option<Cursor>, usize) {
        let limit = self.limit();
        let after = self.parsed("cursor", "must be a next_cursor of this list", parse_cursor);
        (after, limit.unwrap_or(PAGE_LEN_DEFAULT))
    }

    /// How long a page is to be.
    pub fn limit(&mut self) -> Option<usize> {
        let rule = format!("must be a number from 1 to {PAGE_LEN_MAX}");
        let in_range = |limit: &usize| (1..=PAGE_LEN_MAX).contains(limit);
        self.parsed("limit", &rule, |text| text.parse().ok().filter(in_range))
    }

    /// Notes a mistake.
    pub fn wrong(&mut self, name: &str, message: &str) {
        self.errors.push(FieldError::new(name, message));
    }

    /// Refuses what was wrong, and what nobody took.
    pub fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.wrong(&name, "is not a parameter of this call");
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }
}

/// `application/x-www-form-urlencoded`, strictly.
fn decode_form(text: &str) -> Option<String> {
    decode_strictly(&text.replace('+', " "))
}

fn decode_strictly(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        bytes
            .get(at + 1..at + 3)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    let is_sound = bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte != b'%' || is_escape(at));
    if !is_sound {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(String::from)
}

/// The user id in a path: the raw segment, strictly decoded, so that two ids never become one.
pub fn user_id(request: &HttpRequest) -> Result<UserId, Problem> {
    decode_strictly(segment(request, "{user_id}"))
        .and_then(|text| UserId::parse(&text))
        .ok_or_else(|| Problem::invalid_field("user_id", UserId::RULE))
}

/// The name of an identity in a path.
pub fn identity_key(request: &HttpRequest) -> Result<String, Problem> {
    decode_strictly(segment(request, "{key}"))
        .filter(|key| is_identity_key(key))
        .ok_or_else(|| {
            let rule = format!(
                "must be 1 to {IDENTITY_KEY_CHARS_MAX} characters without control characters, and neither \".\" nor \"..\""
            );
            Problem::invalid_field("key", rule)
        })
}

/// The id in a path that a client chose: a signed 64-bit number, as its decimal digits and in no other way.
pub fn client_session_id(request: &HttpRequest) -> Result<i64, Problem> {
    let text = segment(request, "{n}");
    let id = text.parse::<i64>().ok().filter(|id| id.to_string() == text);
    id.ok_or_else(|| {
        let rule = format!("must be a whole number from {} to {}", i64::MIN, i64::MAX);
        Problem::invalid_field("client_session_id", rule)
    })
}

/// The raw segment of the path that stands where the route has this name.
fn segment<'r>(request: &'r HttpRequest, name: &str) -> &'r str {
    let pattern = request.match_pattern().unwrap_or_default();
    let place = pattern.split('/').position(|segment| segment == name);
    place
        .and_then(|place| request.uri().path().split('/').nth(place))
        .unwrap_or_default()
}

/// The session id in a path. What is not an id is no session's.
pub fn session_id(request: &HttpRequest) -> Result<SessionId, Problem> {
    let text = request.match_info().get("id").unwrap_or_default();
    SessionId::parse(text).ok_or_else(|| Problem::not_found("session"))
}

/// A cursor as text that callers keep and do not look into.
pub fn cursor_text(cursor: Cursor) -> String {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&cursor.signed_in_at.as_millis().to_be_bytes());
    bytes[8..].copy_from_slice(cursor.id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn parse_cursor(text: &str) -> Option<Cursor> {
    let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (millis, id) = bytes.split_at(8);
    Some(Cursor {
        signed_in_at: Timestamp::from_millis(i64::from_be_bytes(millis.try_into().ok()?)),
        id: SessionId::from_bytes(id.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_decoded_strictly() {
        assert_eq!(decode_strictly("a%2Fb").as_deref(), Some("a/b"));
        assert_eq!(decode_strictly("%252F").as_deref(), Some("%2F"));
        for bad in ["%", "%2", "%zz", "%ff", "a%C3"] {
            assert_eq!(decode_strictly(bad), None, "{bad}");
        }
    }

    #[test]
    fn cursors_round_trip_and_others_are_refused() {
        let cursor = Cursor {
            signed_in_at: Timestamp::from_millis(-5),
            id: SessionId::from_bytes([9; 16]),
        };
        assert_eq!(parse_cursor(&cursor_text(cursor)), Some(cursor));
        for bad in ["", "AAAA", "!", &"A".repeat(33)] {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn body_that_does_not_arrive_is_cut() {
        let never = std::future::pending::<Result<web::Bytes, Problem>>();
        let problem = within(Duration::ZERO, never).await.expect_err("cut");
        assert_eq!(problem.code(), Code::RequestTimeout);
        let there = within(BODY_TIMEOUT, async { Ok(7) }).await;
        assert_eq!(there.expect("in time"), 7);
    }

    #[test]
    fn wrong_bodies_name_their_field() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outer {
            #[allow(dead_code)]
            inner: Inner,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            #[allow(dead_code)]
            mobile: bool,
        }
        let field = |body: &str| {
            let problem = parse::<Outer>(body.as_bytes()).expect_err("not valid");
            let response = problem.to_response("r");
            (response.status().as_u16(), problem.to_string())
        };
        for (body, status, named) in [
            ("{", 400, "malformed_json"),
            (r#"{"inner":{"mobile":1},}"#, 400, "malformed_json"),
            ("[]", 422, "body"),
            (r#"[{"mobile":true}]"#, 422, "body"),
            (
                r#"{"inner":{"mobile":true},"inner":{"mobile":true}}"#,
                422,
                "inner",
            ),
            (r#"{"inner":{"mobile":true,"mobile":true}}"#, 422, "inner.mobile"),
            ("{}", 422, "inner"),
            (r#"{"inner":{}}"#, 422, "inner.mobile"),
            (r#"{"inner":{"mobile":1}}"#, 422, "inner.mobile"),
            (r#"{"inner":{"mobile":true,"x":1}}"#, 422, "inner.x"),
            (r#"{"inner":{"mobile":true},"y":1}"#, 422, "y"),
        ] {
            let (found, text) = field(body);
            assert_eq!(found, status, "{body}: {text}");
            assert!(
                text.contains(&format!(": {named}.")) || text.contains(named),
                "{body}: {text}"
            );
        }
    }
}
