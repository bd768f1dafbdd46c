//! Where sessions live: the contract that every store keeps.
//!
//! A store knows no policy: limits, deadlines and `now` are given to it. It has one writer. Changes wait in a
//! bounded queue; the writer takes a batch, runs it in one transaction, and then, for the whole batch:
//!
//! **fence → commit → announce → answer**
//!
//! 1. *Before the batch's own changes* it writes the pending touches whose stored deadline has passed
//!    ([`Hooks::due_touches`]), so that nothing is ended, counted or purged that was in fact used.
//! 2. *Fence*: [`Hooks::fence`] is told every session the batch changes; from then until [`Hooks::release`] nobody
//!    may fill a copy of them.
//! 3. *Commit*, durably. Either way [`Hooks::release`] follows.
//! 4. *Announce*: [`Hooks::announce`] once, with what was committed.
//! 5. *Answer*: every caller of the batch hears of its own change.
//!
//! All of it happens in the writer: a caller that goes away after its change was queued splits nothing. A change
//! that fails is rolled back alone and changes nothing; the others of its batch are not harmed. A full queue is
//! [`Error::Overloaded`] at once, a broken store [`Error::Store`], never "no such session".
//!
//! Ids are UUIDv7 (RFC 9562) given by the writer, strictly growing, also across restarts and a clock set back.
//! A session ends once: the first ending stays. A session whose deadline has passed ends *as expired, at its
//! deadline*, whoever asks to end it and whenever that is written.

pub mod memory;
pub mod sqlite;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::session::{
    AppName, Auth, Device, EndedBy, KeyId, Place, Reason, SecretHash, Session, SessionId, Timeouts, Touch,
};
use crate::user::{Tiers, UserId, UserSettings};

/// An answer that is not there yet.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// What the store calls back around each commit, from its writer.
pub trait Hooks: Send + Sync {
    /// Pending touches whose stored deadline has passed at `now`.
    fn due_touches(&self, now: Timestamp) -> Vec<Touch>;
    /// These sessions are about to change: drop every copy, and let nobody make one.
    fn fence(&self, changed: &[SessionId]);
    /// The commit has returned, well or not: copies may be made again.
    fn release(&self, changed: &[SessionId]);
    /// This was committed. Called before any caller is answered.
    fn announce(&self, committed: &Committed);
}

/// What a batch changed.
#[derive(Debug, Default)]
pub struct Committed {
    /// Every session whose row changed other than by a touch.
    pub changed: Vec<SessionId>,
    /// Sessions that ended, as they now are.
    pub ended: Vec<Session>,
    /// Touches that were written.
    pub touched: Vec<Touch>,
    /// How many changes shared the commit.
    pub batch_size: usize,
    /// How long the commit took.
    pub commit_time: std::time::Duration,
}

/// A session to be made.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The present moment.
    pub now: Timestamp,
    /// Its app.
    pub app: AppName,
    /// Its person; `None` is an anonymous session, which no limit concerns.
    pub user_id: Option<UserId>,
    /// Hash of its token's secret.
    pub token_hash: SecretHash,
    /// Its name.
    pub name: Option<String>,
    /// The raw user agent.
    pub user_agent: Option<String>,
    /// What that says.
    pub device: Option<Device>,
    /// Where the address is.
    pub place: Option<Place>,
    /// From where it was made.
    pub ip_address: Option<IpAddr>,
    /// How long it may live.
    pub timeouts: Timeouts,
    /// When the credentials were verified.
    pub authenticated_at: Option<Timestamp>,
    /// What the application keeps about the sign-in.
    pub auth: Option<Auth>,
    /// A tier to store for the user in the same transaction.
    pub tier: Option<String>,
    /// The limits in force.
    pub tiers: Arc<Tiers>,
}

/// What became of a [`NewSession`].
#[derive(Debug, Clone)]
pub enum Creation {
    /// It was made, and these of the same user were evicted for it, oldest sign-in first.
    Created {
        /// The session; boxed, as refusals are small.
        session: Box<Session>,
        /// Those that made room.
        evicted: Vec<Session>,
    },
    /// Nothing was made: the user is blocked.
    UserBlocked,
    /// Nothing was made: the user's maximum is 0.
    LimitReached,
    /// Nothing was made: the credentials changed after they were verified.
    CredentialsChanged,
}

/// Why and by whom sessions are to be ended.
#[derive(Debug, Clone)]
pub struct EndRequest {
    /// The present moment.
    pub now: Timestamp,
    /// Why.
    pub reason: Reason,
    /// Who.
    pub by: EndedBy,
}

/// Whose session a change may concern: anybody's in the app, or one user's only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Any session of the app.
    Anyone,
    /// Only this user's.
    User(UserId),
}

impl Owner {
    /// Whether the session is one of this owner's.
    pub fn owns(&self, session: &Session) -> bool {
        match self {
            Self::Anyone => true,
            Self::User(user_id) => session.user_id.as_ref() == Some(user_id),
        }
    }
}

/// What became of a request that concerns one session.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Done; the session as it is now.
    Done(Session),
    /// It had ended before, so; nothing was changed (an overdue one that was to end was written down as expired).
    AlreadyEnded(Session),
    /// No such session in this app, or it is not the owner's.
    NotFound,
}

/// Which sessions a bulk ending ends.
#[derive(Debug, Clone)]
pub enum Scope {
    /// All of this user's, but the excepted one.
    User {
        /// The user.
        user_id: UserId,
        /// The one that stays, if it is this user's.
        except: Option<SessionId>,
    },
    /// Those of everybody in the app, up to a number: by user, nobody's first, and of each the oldest sign-in first.
    App {
        /// How many at most.
        limit: usize,
    },
}

/// What a bulk ending did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkEnding {
    /// How many it ended; sessions whose deadline had passed are not among them.
    pub revoked_count: u64,
    /// Whether active ones are left in the scope.
    pub more: bool,
}

/// A change to a session that is not its ending. An outer `None` leaves the field; an inner one clears it.
#[derive(Debug, Clone, Default)]
pub struct SessionPatch {
    /// The name.
    pub name: Option<Option<String>>,
    /// Whether the device is trusted.
    pub is_trusted: Option<bool>,
    /// The `auth` object, replaced whole.
    pub auth: Option<Option<Auth>>,
}

/// A change to a user's settings. An outer `None` leaves the field; an inner one clears it.
#[derive(Debug, Clone, Default)]
pub struct UserPatch {
    /// The tier.
    pub tier: Option<Option<String>>,
    /// The user's own maximum.
    pub max_sessions: Option<Option<u32>>,
    /// Blocked or not; blocking ends all sessions in the same transaction.
    pub is_blocked: Option<bool>,
}

/// A user's settings and how many active sessions they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The settings; all defaults for a user nobody set anything for.
    pub settings: UserSettings,
    /// Active sessions now.
    pub active_count: u64,
}

/// Which sessions a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// Those that can be used.
    Active,
    /// Those that ended, or whose deadline has passed.
    Ended,
    /// All that are stored.
    All,
}

/// Where a page of a list goes on: after the session with this sign-in and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The last session's sign-in; lists of a whole app, which go by id alone, do not look at it.
    pub signed_in_at: Timestamp,
    /// The last session's id.
    pub id: SessionId,
}

/// Cuts what was read to a page. One more than the page is read, to know whether there is a next one.
fn cut_page(mut sessions: Vec<Session>, limit: usize) -> (Vec<Session>, Option<Cursor>) {
    let more = sessions.len() > limit;
    sessions.truncate(limit);
    let last = sessions.last().filter(|_| more);
    let next = last.map(|last| Cursor {
        signed_in_at: last.signed_in_at,
        id: last.id,
    });
    (sessions, next)
}

/// One user's sessions, newest sign-in first.
#[derive(Debug, Clone)]
pub struct UserList {
    /// The present moment.
    pub now: Timestamp,
    /// The app.
    pub app: AppName,
    /// The user.
    pub user_id: UserId,
    /// Which.
    pub status: StatusFilter,
    /// Go on after this one.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
}

/// A page of one user's sessions, with the counts of the whole list in the same snapshot.
#[derive(Debug, Clone)]
pub struct UserPage {
    /// The sessions.
    pub sessions: Vec<Session>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<Cursor>,
    /// All that match the filter.
    pub total_count: u64,
    /// Active now.
    pub active_count: u64,
}

/// The sessions of a whole app, newest first.
#[derive(Debug, Clone)]
pub struct AppList {
    /// The present moment.
    pub now: Timestamp,
    /// The app.
    pub app: AppName,
    /// Those of nobody instead of those of users.
    pub anonymous: bool,
    /// Which.
    pub status: StatusFilter,
    /// Go on after this one.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
}

/// A page of an app's sessions. Without counts: those of a whole app are not a bounded piece of work. A page looks at a
/// bounded number of rows, so that it may be short, or empty, and still have a next one.
#[derive(Debug, Clone)]
pub struct AppPage {
    /// The sessions.
    pub sessions: Vec<Session>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<Cursor>,
}

/// An API key as stored: its hash, never the key.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    /// The public handle.
    pub id: KeyId,
    /// The app it acts in.
    pub app: AppName,
    /// What its maker called it.
    pub name: String,
    /// Hash of its secret.
    pub hash: SecretHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A place to keep sessions in. See the module's text for what all methods promise.
pub trait SessionStore: Send + Sync {
    /// Sets what is called back around commits; before the first change, once.
    fn attach(&self, hooks: Arc<dyn Hooks>);

    /// The largest time the store remembers: the clock must not be earlier.
    fn high_water(&self) -> Answer<Option<Timestamp>>;

    /// Makes a session, after ending as many of the user's oldest sign-ins as the limit demands; see [`Creation`].
    fn create(&self, new: NewSession) -> Answer<Creation>;

    /// Ends one session of the app, if it is the owner's.
    fn end(&self, app: AppName, id: SessionId, owner: Owner, request: EndRequest) -> Answer<Outcome>;

    /// Ends many at once. For a user it also writes `user.sessions_revoked`. If the reason is
    /// [`Reason::CREDENTIALS_CHANGED`] the moment is kept for each user whose sessions it ends, and for the one it is
    /// asked for: sign-ins verified before it are refused.
    fn end_many(&self, app: AppName, scope: Scope, request: EndRequest) -> Answer<BulkEnding>;

    /// Changes an active session.
    fn update(
        &self,
        app: AppName,
        id: SessionId,
        owner: Owner,
        patch: SessionPatch,
        now: Timestamp,
    ) -> Answer<Outcome>;

    /// Writes touches, in one transaction. Those of ended sessions are dropped: nothing is ever inserted or revived.
    fn write_touches(&self, touches: Vec<Touch>, now: Timestamp) -> Answer<()>;

    /// Changes a user's settings; blocking ends all their sessions with [`Reason::USER_BLOCKED`] by `by`.
    fn update_user(
        &self,
        app: AppName,
        user_id: UserId,
        patch: UserPatch,
        by: EndedBy,
        now: Timestamp,
    ) -> Answer<UserRecord>;

    /// Writes down up to `limit` passed deadlines as endings; answers how many.
    fn expire(&self, now: Timestamp, limit: usize) -> Answer<usize>;

    /// Deletes up to `limit` sessions that ended, and as many events that were recorded, before `before`; answers
    /// how many rows went.
    fn purge(&self, before: Timestamp, limit: usize, now: Timestamp) -> Answer<usize>;

    /// Keeps an API key.
    fn create_key(&self, key: KeyRecord) -> Answer<()>;

    /// Revokes an API key; `false` if there is none with this id. Revoking again changes nothing.
    fn revoke_key(&self, id: KeyId, now: Timestamp) -> Answer<bool>;

    /// One session, whatever its state.
    fn find(&self, id: SessionId) -> Answer<Option<Session>>;

    /// A page of one user's sessions.
    fn list_user(&self, list: UserList) -> Answer<UserPage>;

    /// A page of an app's sessions.
    fn list_app(&self, list: AppList) -> Answer<AppPage>;

    /// A user's settings and count.
    fn find_user(&self, app: AppName, user_id: UserId, now: Timestamp) -> Answer<UserRecord>;

    /// One API key, revoked or not.
    fn find_key(&self, id: KeyId) -> Answer<Option<KeyRecord>>;

    /// All API keys, oldest first.
    fn list_keys(&self) -> Answer<Vec<KeyRecord>>;

    /// Reads something small, to see that reading works.
    fn ping(&self) -> Answer<()>;

    /// Changes that wait to be written.
    fn queue_len(&self) -> usize;

    /// Finishes what is queued, then refuses every change. Blocks until done.
    fn close(&self);
}
