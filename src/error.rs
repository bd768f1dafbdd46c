//! One error type; a variant is what the caller can do about it.
//!
//! That a session does not exist, has ended, or that a token is malformed are answers
//! (of a check), not errors.

use crate::session::{Ending, Session};

/// One thing wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path, `client_hints.mobile`.
    pub field: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

impl FieldError {
    /// A mistake in this field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Why a call did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Correct the named fields and call again.
    #[error("{} field(s) are not valid", .0.len())]
    Invalid(Vec<FieldError>),
    /// There is no such thing, or it is somebody else's: both look the same.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The session is over; start another.
    #[error("the session has ended")]
    SessionEnded(Ending),
    /// The user is blocked until somebody unblocks them.
    #[error("the user is blocked")]
    UserBlocked,
    /// The user has as many sessions as they may: let them choose which of these are to end.
    #[error("the user's limit of {max} allows no further session")]
    SessionLimitReached {
        /// How many they may have; 0 is none at all.
        max: u32,
        /// Those they have, newest sign-in first; of very many only the first.
        active: Vec<Session>,
    },
    /// The app has as many sessions with ids of clients as it may; end some.
    #[error("the app's limit of {max} allows no further session with an id of the client's")]
    ClientSessionLimitReached {
        /// How many it may have.
        max: u32,
    },
    /// The session is another user's; start one for this user.
    #[error("the session is another user's")]
    SessionHasOtherUser,
    /// The sign-in was verified before the user's credentials changed; let them sign in again.
    #[error("the credentials were changed after this sign-in was verified")]
    CredentialsChanged,
    /// The key of a repeatable call was used for another one; take a new key.
    #[error("the idempotency key was used with another body")]
    IdempotencyKeyReused,
    /// What a repeated call made has changed since, so that its answer cannot be given again.
    #[error("the session of the repeated call has changed since")]
    IdempotencySessionChanged,
    /// Somebody changed it meanwhile: read it again, then repeat the call with the new version.
    #[error("the version is {version}")]
    VersionMismatch {
        /// The version now.
        version: u64,
    },
    /// More than is kept; nothing was changed.
    #[error("longer than {max} bytes")]
    TooLarge {
        /// How many bytes may be kept.
        max: usize,
    },
    /// The event to go on after is not among those that are kept: begin with a list of what there is.
    #[error("there is no such event to go on after")]
    CursorGone,
    /// Too many of these lately; call again then.
    #[error("too many requests for the next {retry_after_secs} s")]
    TooManyRequests {
        /// When, in seconds from now.
        retry_after_secs: u64,
    },
    /// The app has as many sessions of nobody as it may; call again later.
    #[error("no room for a visitor's session")]
    NoRoom {
        /// When, in seconds from now.
        retry_after_secs: u64,
    },
    /// Let the person sign in again, then repeat the call.
    #[error("a more recent sign-in is needed")]
    ReauthenticationRequired,
    /// Too much is waiting; call again a little later.
    #[error("the write queue is full")]
    Overloaded,
    /// The store cannot do it now; nothing was changed.
    #[error("the store failed: {0}")]
    Store(#[source] StoreFailure),
}

/// What the store says about its failure: for the log, never for a caller.
pub type StoreFailure = std::sync::Arc<dyn std::error::Error + Send + Sync>;

impl Error {
    /// A failure of the store.
    pub fn store(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Store(source.into().into())
    }

    /// The same failure for another caller of the same batch; anything but a failure of the store has one caller.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::Store(source) => Self::Store(source.clone()),
            other => Self::store(other.to_string()),
        }
    }

    /// One wrong field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }
}
