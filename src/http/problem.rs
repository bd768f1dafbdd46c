//! Errors as RFC 9457 problems.
//!
//! Every refusal has a code that is stable, and a status that follows from it. The request id, and for the 5xx the log
//! line, are added at the edge (`http.rs`), once. A 5xx body says nothing of the inside.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::session_body::{Audience, SessionBody};
use crate::error::{Error, FieldError};
use crate::manager::Refusal;
use crate::session::{Ending, Session};

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $title:literal;)+) => {
        /// What went wrong, by a name that never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// The problem in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" 400 "The body is not JSON";
    InvalidApiKey "invalid_api_key" 401 "No valid API key";
    NoSession "no_session" 401 "No session token";
    InvalidToken "invalid_token" 401 "The session token is not valid";
    TokenReplaced "token_replaced" 401 "The session has a newer token";
    SessionEndedToken "session_ended" 401 "The session has ended";
    AmbiguousCookie "ambiguous_cookie" 401 "Two cookies name different sessions";
    CrossSite "cross_site" 403 "Refused as a request from another site";
    UserBlocked "user_blocked" 403 "The user is blocked";
    ReauthenticationRequired "reauthentication_required" 403 "A more recent sign-in is needed";
    MissingTag "missing_tag" 403 "The session lacks a demanded tag";
    DevOnlyLoopback "dev_only_loopback" 403 "Development mode answers this machine only";
    NotFound "not_found" 404 "Not found";
    MethodNotAllowed "method_not_allowed" 405 "This method is not allowed here";
    RequestTimeout "request_timeout" 408 "The body took too long";
    SessionLimitReached "session_limit_reached" 409 "The limit allows no further session";
    SessionHasOtherUser "session_has_other_user" 409 "The session is another user's";
    CredentialsChanged "credentials_changed" 409 "The credentials were changed meanwhile";
    IdempotencySessionChanged "idempotency_session_changed" 409 "What the repeated call made has changed";
    SessionEnded "session_ended" 410 "The session has ended";
    CursorGone "cursor_gone" 410 "The events after that one are not all kept";
    VersionMismatch "version_mismatch" 412 "Changed meanwhile";
    PayloadTooLarge "payload_too_large" 413 "The body is too large";
    UnsupportedMediaType "unsupported_media_type" 415 "The body must be JSON";
    ValidationFailed "validation_failed" 422 "The request is not valid";
    IdempotencyKeyReused "idempotency_key_reused" 422 "The key was used for another call";
    TooManyRequests "too_many_requests" 429 "Too many requests";
    InternalError "internal_error" 500 "Something went wrong inside";
    Overloaded "overloaded" 503 "Too much is waiting to be written";
    StoreUnavailable "store_unavailable" 503 "The store is not available";
}

/// When a reader who has too many streams tries again: as soon as one that is gone has been noticed.
const STREAMS_RETRY_SECS: u64 = 30;
/// Mistakes that an answer names; it counts the others.
const FIELD_ERRORS_MAX: usize = 16;

/// A refusal on its way out.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    detail: String,
    /// Boxed, as problems travel in results whose good side is small.
    more: Box<More>,
}

/// What only some problems have.
#[derive(Debug, Clone, Default)]
struct More {
    errors: Vec<FieldError>,
    ending: Option<Ending>,
    sign_in_url: Option<String>,
    /// Those that a person can choose from, where a limit is reached.
    sessions: Option<Vec<Session>>,
    retry_after_secs: Option<u64>,
    allow: Option<&'static str>,
    /// For the log only.
    cause: Option<String>,
}

/// The body of a problem, RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody<'p> {
    /// `/problems/` and the code with dashes.
    r#type: String,
    /// The problem in a few words.
    title: &'p str,
    /// The HTTP status.
    status: u16,
    /// This case in a sentence.
    detail: &'p str,
    /// The stable name to match on.
    code: &'p str,
    /// The id under which the log knows this request.
    request_id: &'p str,
    /// The wrong fields, for 422.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(inline)]
    errors: Vec<FieldErrorBody<'p>>,
    /// When the session ended, for `session_ended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<String>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_reason: Option<&'p str>,
    /// Who ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'p str>,
    /// Where the person can sign in, on the self plane and if the app says.
    #[serde(skip_serializing_if = "Option::is_none")]
    sign_in_url: Option<&'p str>,
    /// The user's active sessions, newest sign-in first, for `session_limit_reached`; of more than 200 only those.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<Vec<SessionBody<'p>>>,
}

/// One wrong field.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldErrorBody<'p> {
    /// Its path.
    field: &'p str,
    /// What is wrong with it.
    message: &'p str,
}

impl Problem {
    /// A problem with this sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            more: Box::default(),
        }
    }

    fn with(mut self, add: impl FnOnce(&mut More)) -> Self {
        add(&mut self.more);
        self
    }

    /// Wrong fields.
    pub fn invalid(mut errors: Vec<FieldError>) -> Self {
        let more = match errors.len().saturating_sub(FIELD_ERRORS_MAX) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        errors.truncate(FIELD_ERRORS_MAX);
        let names: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let detail = format!("Not valid: {}{more}.", names.join(", "));
        Self::new(Code::ValidationFailed, detail).with(|more| more.errors = errors)
    }

    /// One wrong field.
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(field, message)])
    }

    /// There is no such thing, or it is somebody else's.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {what}."))
    }

    /// The path exists, for these methods.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("Allowed here: {allow}.");
        Self::new(Code::MethodNotAllowed, detail).with(|more| more.allow = Some(allow))
    }

    /// Something that must not happen happened.
    pub fn internal(cause: impl Into<String>) -> Self {
        let detail = "The request could not be carried out; the log has more under this request id.";
        Self::new(Code::InternalError, detail).with(|more| more.cause = Some(cause.into()))
    }

    /// Adds where the person can sign in.
    pub fn with_sign_in_url(mut self, url: Option<&str>) -> Self {
        let is_for_person = matches!(self.code.status(), 401) || self.code == Code::ReauthenticationRequired;
        if is_for_person {
            self.more.sign_in_url = url.map(str::to_owned);
        }
        self
    }

    fn with_ending(code: Code, ending: Ending) -> Self {
        let detail = format!("The session ended at {}: {}.", ending.at, ending.reason.as_str());
        Self::new(code, detail).with(|more| more.ending = Some(ending))
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the log is to say, if anything: for the 5xx only.
    pub fn cause(&self) -> Option<&str> {
        self.more.cause.as_deref()
    }

    /// There were too many of these; the next can be in so many seconds.
    pub fn too_many_requests(detail: String, retry_after_secs: u64) -> Self {
        Self::new(Code::TooManyRequests, detail).with(|more| more.retry_after_secs = Some(retry_after_secs))
    }

    /// Whoever has so many streams closes some, or waits.
    pub fn too_many_streams(max: usize) -> Self {
        let detail = format!("There are {max} live streams already, and there may be no more. Close some.");
        Self::new(Code::TooManyRequests, detail).with(|more| more.retry_after_secs = Some(STREAMS_RETRY_SECS))
    }

    /// The server has as many streams as it takes.
    pub fn no_more_streams() -> Self {
        let detail = "This server has as many live streams as it may. Ask for pages, or later.";
        Self::new(Code::Overloaded, detail).with(|more| more.retry_after_secs = Some(STREAMS_RETRY_SECS))
    }

    /// Whether it says how a session ended.
    pub fn is_of_ended_session(&self) -> bool {
        self.more.ending.is_some()
    }

    /// The body, for a request with this id.
    pub fn to_json(&self, request_id: &str) -> String {
        let body = ProblemBody {
            r#type: format!("/problems/{}", self.code.as_str().replace('_', "-")),
            title: self.code.title(),
            status: self.code.status(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
            errors: self
                .more
                .errors
                .iter()
                .map(|error| FieldErrorBody {
                    field: &error.field,
                    message: &error.message,
                })
                .collect(),
            ended_at: self.more.ending.as_ref().map(|ending| ending.at.to_string()),
            revoked_reason: self.more.ending.as_ref().map(|ending| ending.reason.as_str()),
            ended_by: self.more.ending.as_ref().map(|ending| ending.by.as_str()),
            sign_in_url: self.more.sign_in_url.as_deref(),
            sessions: self
                .more
                .sessions
                .as_ref()
                .map(|sessions| sessions.iter().map(active_body).collect()),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The answer, for a request with this id.
    pub fn to_response(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status_code());
        match self.code {
            code if code.status() == 401 => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            Code::Overloaded | Code::StoreUnavailable => {
                response.insert_header((header::RETRY_AFTER, "1"));
            }
            _ => {}
        }
        if let Some(secs) = self.more.retry_after_secs {
            response.insert_header((header::RETRY_AFTER, secs));
        }
        if let Some(allow) = self.more.allow {
            response.insert_header((header::ALLOW, allow));
        }
        response
            .content_type("application/problem+json")
            .body(self.to_json(request_id))
    }
}

/// A session that was active when it was read; at its own latest use it was, whatever the time is now.
fn active_body(session: &Session) -> SessionBody<'_> {
    SessionBody::new(session, session.last_activity_at, None, Audience::Application)
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        // The edge replaces this by one with the request's id.
        self.to_response("")
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(errors) => Self::invalid(errors),
            Error::NotFound(what) => Self::not_found(what),
            Error::SessionEnded(ending) => Self::with_ending(Code::SessionEnded, ending),
            Error::UserBlocked => Self::new(
                Code::UserBlocked,
                "This user is blocked: no session can be started for them.",
            ),
            Error::SessionLimitReached { max, active } => {
                let detail = match max {
                    0 => "This user's maximum of sessions is 0.".to_owned(),
                    // How many they have is not told by the list, which is cut.
                    _ => format!(
                        "This user may have {max} active sessions, and has no room for one more. End some of them, or \
                         name some in end_ids."
                    ),
                };
                Self::new(Code::SessionLimitReached, detail).with(|more| more.sessions = Some(active))
            }
            Error::ClientSessionLimitReached { max } => Self::new(
                Code::SessionLimitReached,
                format!("This app may have {max} active sessions with ids of clients, and has as many."),
            ),
            Error::SessionHasOtherUser => Self::new(
                Code::SessionHasOtherUser,
                "The session belongs to another user. Start a new one for this user.",
            ),
            Error::IdempotencyKeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was used with another body. Take a new key for a new call.",
            ),
            Error::IdempotencySessionChanged => Self::new(
                Code::IdempotencySessionChanged,
                "The session that this call made has ended or has another token since.",
            ),
            Error::VersionMismatch { version } => Self::new(
                Code::VersionMismatch,
                format!("The data has version {version}. Nothing was changed; read it again."),
            ),
            Error::TooLarge { max } => Self::new(
                Code::PayloadTooLarge,
                format!("It would have more than {max} bytes. Nothing was changed."),
            ),
            Error::CursorGone => Self::new(
                Code::CursorGone,
                "The event to go on after is not among those that are kept. Begin with a page of what there is.",
            ),
            Error::TooManyRequests { retry_after_secs } => Self::new(
                Code::TooManyRequests,
                format!(
                    "Visitors started too many sessions lately; the next can be in {retry_after_secs} s."
                ),
            )
            .with(|more| more.retry_after_secs = Some(retry_after_secs)),
            Error::NoRoom { retry_after_secs } => Self::new(
                Code::TooManyRequests,
                "This app has as many anonymous sessions as it may. Try again later.",
            )
            .with(|more| more.retry_after_secs = Some(retry_after_secs)),
            Error::CredentialsChanged => Self::new(
                Code::CredentialsChanged,
                "This sign-in was verified before the user's credentials were changed. Let them sign in again.",
            ),
            Error::ReauthenticationRequired => Self::new(
                Code::ReauthenticationRequired,
                "This needs a more recent sign-in.",
            ),
            Error::Overloaded => Self::new(
                Code::Overloaded,
                "Too many changes are waiting. Nothing was changed; call again shortly.",
            ),
            Error::Store(source) => Self::new(
                Code::StoreUnavailable,
                "The store is not available. Nothing was changed.",
            )
            .with(|more| more.cause = Some(format!("the store failed: {source}"))),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.detail();
        match refusal {
            Refusal::InvalidToken => Self::new(Code::InvalidToken, detail),
            Refusal::TokenReplaced => Self::new(Code::TokenReplaced, detail),
            Refusal::SessionEnded(ending) => Self::with_ending(Code::SessionEndedToken, ending),
            Refusal::ReauthenticationRequired => Self::new(Code::ReauthenticationRequired, detail),
            Refusal::MissingTag => Self::new(Code::MissingTag, detail),
        }
    }
}
