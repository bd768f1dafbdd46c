//! Where sessions live: the contract that every store keeps.
//!
//! A store knows no policy: limits, deadlines and `now` are given to it. It has one writer. Changes wait in a
//! bounded queue; the writer takes a batch, runs it in one transaction, and then, for the whole batch:
//!
//! **fence → commit → announce → answer**
//!
//! 1. *Before the batch's own changes* it writes the pending touches whose stored deadline has passed
//!    ([`Hooks::due_touches`]), so that nothing is ended, counted or purged that was in fact used. *Before a session
//!    ends*, whatever ends it, it writes its pending touch ([`Hooks::pending_touch`]), so that its last use is kept.
//! 2. *Fence*: [`Hooks::fence`] is told every session the batch changes; from then until [`Hooks::release`] nobody
//!    may fill a copy of them.
//! 3. *Commit*, durably. Either way [`Hooks::release`] follows.
//! 4. *Announce*: [`Hooks::announce`] once, with what was committed.
//! 5. *Answer*: every caller of the batch hears of its own change.
//!
//! A change is queued by the call itself, not by waiting for its answer. All of it happens in the writer: a caller that
//! goes away after its change was queued splits nothing. A change
//! that fails is rolled back alone and changes nothing; the others of its batch are not harmed. A full queue is
//! [`Error::Overloaded`] at once, a broken store [`Error::Store`], never "no such session".
//!
//! Ids are UUIDv7 (RFC 9562) given by the writer, strictly growing, also across restarts and a clock set back.
//! A session ends once: the first ending stays. A session whose deadline has passed ends *as expired, at its
//! deadline*, whoever asks to end it and whenever that is written.

pub mod memory;
pub mod sqlite;
pub mod webhooks;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::data::{Data, DataChange, DataError, DataPath};
use crate::error::Error;
use crate::event::{Epoch, Event, EventKind, RecordedEvent};
use crate::session::{
    AppName, Auth, Device, EndedBy, Fingerprint, Grace, IdentityPatch, KeyId, Nonce, OnLimit, OnTokenReuse,
    Place, Reason, Replaced, SecretHash, Session, SessionId, Timeouts, Touch,
};
use crate::user::{Tiers, UserId, UserSettings};

/// How long a creation can be repeated by its key, in milliseconds: 24 hours.
pub const IDEMPOTENCY_MILLIS: i64 = 24 * 60 * 60 * 1_000;
/// The time over which the sessions that visitors start are counted, in milliseconds.
pub const VISITORS_MILLIS: i64 = 60 * 60 * 1_000;
/// Passed deadlines that a creation writes down, where they might be in its way: an app may have so many sessions.
const OVERDUE_PER_CREATION: usize = 100;
/// How often one expiry looks for sessions, while those it finds were only used: so many times its limit are looked at.
const LOOKS_PER_EXPIRY: usize = 10;
/// How soon after a use of a replaced token was told another one of the same session is not told, in milliseconds.
pub const REPORT_INTERVAL_MILLIS: i64 = 60 * 1_000;
/// Sessions that a refusal lists at most, for a person to choose from: as many as the longest page of a list.
pub const REFUSED_LIST_LEN_MAX: usize = 200;

/// Pairs of browser and operating system that are remembered of a user, to tell of new ones: more than anybody has, and few
/// enough that whoever makes names up fills nothing. The one seen first longest ago makes room.
pub const DEVICES_PER_USER_MAX: usize = 100;

/// An answer that is not there yet.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// What the store calls back around each commit, from its writer.
pub trait Hooks: Send + Sync {
    /// Pending touches whose stored deadline has passed at `now`.
    fn due_touches(&self, now: Timestamp) -> Vec<Touch>;
    /// The pending touch of one session, which is written before a change that replaces the session's token or ends it: what
    /// came before the one must not be written after it, and after the other could not be.
    fn pending_touch(&self, id: SessionId) -> Option<Touch>;
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
    /// Events that were written, in their order.
    pub events: Vec<RecordedEvent>,
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
    /// How long before a deadline is to be told of it, in milliseconds; `None` tells nothing.
    pub expiring_notice_millis: Option<i64>,
    /// When the credentials were verified.
    pub authenticated_at: Option<Timestamp>,
    /// What the application keeps about the sign-in.
    pub auth: Option<Auth>,
    /// A tier to store for the user in the same transaction.
    pub tier: Option<String>,
    /// The limits in force.
    pub tiers: Arc<Tiers>,
    /// What happens when the user has as many sessions as they may.
    pub on_limit: OnLimit,
    /// Sessions of the user that end in the same transaction, before they are counted. Others' are left alone.
    pub end_ids: Vec<SessionId>,
    /// What the application keeps in the session from the start.
    pub data: Option<Data>,
    /// The id that the client chose.
    pub client: Option<ClientId>,
    /// That a visitor starts it by themselves.
    pub visitor: Option<Visitor>,
    /// How to recognise a repetition of this call.
    pub idempotency: Option<Idempotency>,
}

/// An id that the client chose, and how many active sessions with such ids the app may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId {
    /// The id.
    pub id: i64,
    /// Most active ones.
    pub total_max: u32,
}

/// Where a visitor comes from who starts a session by themselves, and how many of those there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The network, see [`crate::session::network_of`], or a fingerprint of it.
    pub network: String,
    /// Most new ones from it within [`VISITORS_MILLIS`].
    pub per_hour: u32,
    /// Most new ones of the app within that time, from wherever.
    pub per_hour_total: u32,
    /// Most active anonymous sessions of the app.
    pub total_max: u32,
}

/// What a repetition of a creation is recognised by, for [`IDEMPOTENCY_MILLIS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose repetitions.
    pub api_key: KeyId,
    /// Fingerprint of the caller's key for the call.
    pub key: Fingerprint,
    /// Fingerprint of what is asked for.
    pub body: Fingerprint,
    /// What the secret of this session's token is made with.
    pub nonce: Nonce,
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
    /// Nothing was made: the same call made this one before.
    Repeated {
        /// The session as it is now.
        session: Box<Session>,
        /// What the secret of its token was made with.
        nonce: Nonce,
    },
    /// Nothing was made: this active session has the id that the client chose.
    Existed(Box<Session>),
    /// Nothing was made: the user cannot sign in.
    Refused(Refused),
    /// Nothing was made: the key was used for another call.
    IdempotencyKeyReused,
    /// Nothing was made: the session that the same call made has ended, or has another token since.
    IdempotencySessionChanged,
    /// Nothing was made: too many visitors came from there, or to the app, lately. The next may at this time.
    TooManyVisitors {
        /// When.
        retry_at: Timestamp,
    },
    /// Nothing was made: the app has as many sessions of this kind as it may.
    AppFull,
}

/// Why a user cannot sign in. Nothing was changed.
#[derive(Debug, Clone)]
pub enum Refused {
    /// They are blocked.
    UserBlocked,
    /// Their credentials changed after they were verified.
    CredentialsChanged,
    /// They have as many sessions as they may, or may have none.
    LimitReached {
        /// How many they may have.
        max: u32,
        /// Those they have, newest sign-in first, at most [`REFUSED_LIST_LEN_MAX`].
        active: Vec<Session>,
    },
}

/// A user who signs in with a session that is there.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// The present moment.
    pub now: Timestamp,
    /// The session's app.
    pub app: AppName,
    /// The session.
    pub id: SessionId,
    /// The user.
    pub user_id: UserId,
    /// Hash of the new token's secret.
    pub token_hash: SecretHash,
    /// The raw user agent and what it says, if they are news.
    pub user_agent: Option<(String, Option<Device>)>,
    /// From where.
    pub ip_address: Option<IpAddr>,
    /// Where that is.
    pub place: Option<Place>,
    /// How long the session may live from now on.
    pub timeouts: Timeouts,
    /// How long before one of the new deadlines is to be told of it, in milliseconds; `None` tells nothing.
    pub expiring_notice_millis: Option<i64>,
    /// When the credentials were verified.
    pub authenticated_at: Timestamp,
    /// What the application keeps about the sign-in; `None` leaves what is there.
    pub auth: Option<Auth>,
    /// A tier to store for the user in the same transaction.
    pub tier: Option<String>,
    /// The limits in force.
    pub tiers: Arc<Tiers>,
    /// What happens when the user has as many sessions as they may.
    pub on_limit: OnLimit,
    /// Sessions of the user that end in the same transaction, before they are counted. Others' are left alone.
    pub end_ids: Vec<SessionId>,
}

impl Authentication {
    /// The session after it: another token, both deadlines anew, and what is news.
    pub(super) fn apply(&self, session: &mut Session) {
        session.replaced = Some(Replaced {
            hash: session.token_hash,
            grace: Grace::None,
            reported_at: None,
        });
        session.token_hash = self.token_hash;
        session.user_id = Some(self.user_id.clone());
        if let Some((user_agent, device)) = &self.user_agent {
            session.user_agent = Some(user_agent.clone());
            session.device.clone_from(device);
        }
        session.record_use(self.now);
        if let Some(address) = self.ip_address {
            session.record_address(address, self.place.as_ref());
        } else if session.ip_address.is_none() && self.place.is_some() {
            // Where no address is kept, the place is that of the latest sign-in that tells one.
            session.place.clone_from(&self.place);
        }
        session.signed_in_at = self.now;
        session.authenticated_at = Some(self.authenticated_at);
        session.idle_timeout_millis = self.timeouts.idle_millis;
        session.absolute_expires_at = self.now.plus_millis(self.timeouts.absolute_millis);
        if let Some(auth) = &self.auth {
            session.auth = Some(auth.clone());
        }
    }
}

/// What became of an [`Authentication`].
#[derive(Debug, Clone)]
pub enum Authenticated {
    /// Done.
    Done {
        /// The session as it is now; boxed, as refusals are small.
        session: Box<Session>,
        /// Those that made room, oldest sign-in first.
        evicted: Vec<Session>,
    },
    /// The session is another user's.
    OtherUser,
    /// The user cannot sign in.
    Refused(Refused),
    /// The session had ended before, so.
    AlreadyEnded(Box<Session>),
    /// No such session in this app.
    NotFound,
}

/// A renewal of a session's token, by whoever holds it.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The present moment.
    pub now: Timestamp,
    /// The session's app.
    pub app: AppName,
    /// The session.
    pub id: SessionId,
    /// Hash of the token that was presented.
    pub presented: SecretHash,
    /// What the successor is made with if there is none yet.
    pub nonce: Nonce,
    /// Hash of that successor.
    pub successor: SecretHash,
    /// A nonce whose successor cannot be made again, as the key it was made with is lost: a new successor takes its
    /// place, if nobody has presented that one.
    pub lost: Option<Nonce>,
    /// How long the presented token stays good after its successor was seen, in milliseconds.
    pub grace_millis: i64,
    /// What happens if it was replaced longer ago.
    pub on_reuse: OnTokenReuse,
}

/// What became of a [`Renewal`].
#[derive(Debug, Clone)]
pub enum Renewed {
    /// The presented token is replaced, now or since before, by the one made with this nonce.
    Successor {
        /// The session as it is now; boxed, as refusals are small.
        session: Box<Session>,
        /// What the successor is made with.
        nonce: Nonce,
    },
    /// The presented token is such a successor itself, while the one before it is still good: it stays.
    Unchanged(Box<Session>),
    /// The presented token was replaced too long ago. The session as it is now, ended or not.
    Reused(Box<Session>),
    /// The presented token was replaced by a sign-in, or was replaced in a session that has ended.
    Replaced,
    /// The session had ended before, so; told to the holder of a good token only.
    AlreadyEnded(Box<Session>),
    /// No such session in this app, or a wrong secret.
    Unknown,
}

/// A change to a session's data.
#[derive(Debug, Clone)]
pub struct DataPatch {
    /// Where; `None` is all of it.
    pub at: Option<DataPath>,
    /// What.
    pub change: DataChange,
    /// The change is made only if the version is one of these; `None` makes it in any case.
    pub if_versions: Option<Vec<u64>>,
}

/// What became of a [`DataPatch`].
#[derive(Debug, Clone)]
pub enum DataOutcome {
    /// Done.
    Done {
        /// What is at the place now; for a take what was there.
        value: serde_json::Value,
        /// The version now.
        version: u64,
    },
    /// The version is another than those that were given.
    VersionMismatch {
        /// The version now.
        version: u64,
    },
    /// What it would make may not be.
    Refused(DataError),
    /// The session had ended before, so; boxed, as the others are small.
    AlreadyEnded(Box<Session>),
    /// No such session in this app.
    NotFound,
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
    /// What is to be kept is longer than it may be; nothing was changed.
    TooLong,
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
    /// One of the named identities.
    pub identity: Option<IdentityPatch>,
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

/// What an erasure took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Sessions.
    pub sessions: u64,
    /// Events, those of a session from before it was the user's included.
    pub events: u64,
    /// Whether something is left.
    pub more: bool,
}

/// A browser and operating system that a user signed in with; each `None` where it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDevice {
    /// The browser, without its version.
    pub browser: Option<String>,
    /// The operating system, likewise.
    pub os: Option<String>,
    /// When it was first seen.
    pub first_seen_at: Timestamp,
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

/// Events, a page at a time.
#[derive(Debug, Clone)]
pub struct EventList {
    /// Of one app, or of all.
    pub app: Option<AppName>,
    /// About whom.
    pub about: About,
    /// Of these kinds; empty is of all.
    pub kinds: Vec<EventKind>,
    /// From where on, and in which direction.
    pub from: EventsFrom,
    /// At most so many.
    pub limit: usize,
}

/// Whom events are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum About {
    /// Anybody, or nobody.
    Anyone,
    /// One user of the list's app.
    User(UserId),
    /// One session of the list's app, as far as it was nobody's then.
    AnonymousSession(SessionId),
}

impl About {
    /// The one whom an event is about, in its app.
    pub fn subject_of(event: &Event) -> Option<Self> {
        match (&event.user_id, event.session_id) {
            (Some(user_id), _) => Some(Self::User(user_id.clone())),
            (None, Some(id)) => Some(Self::AnonymousSession(id)),
            (None, None) => None,
        }
    }

    /// Whether an event is about them.
    pub fn includes(&self, event: &Event) -> bool {
        *self == Self::Anyone || Self::subject_of(event).as_ref() == Some(self)
    }
}

/// Where a list of events begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsFrom {
    /// After the one with this number, oldest first; 0 is from the oldest on.
    After(u64),
    /// Before the one with this number, newest first; [`u64::MAX`] is from the newest on.
    Before(u64),
}

/// A page of events. A page looks at a bounded number of them, so that it may be short, or empty, and there may still be
/// more.
#[derive(Debug, Clone)]
pub struct EventPage {
    /// The events.
    pub events: Vec<RecordedEvent>,
    /// The number of the last event that was looked at, in the list's direction: where the next page goes on. Where there
    /// was none, what the list began with.
    pub looked_to: u64,
    /// Whether events are left after that.
    pub more: bool,
    /// Which events there were, in the same snapshot.
    pub bounds: EventBounds,
}

/// Which events a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventBounds {
    /// The epoch that their numbers belong to.
    pub epoch: Epoch,
    /// The number of the oldest one that is kept; of the next one to come if none is.
    pub first: u64,
    /// The number of the newest one that was ever written; 0 before the first.
    pub last: u64,
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

/// Events that go for each session whose retention is over. Each makes two at least, its beginning and its end, and more where it is
/// used from elsewhere, renewed or on a new device: a purge that took one for one would fall behind those who sign in, and the
/// database would grow for as long as they do.
pub const EVENTS_PER_SESSION: usize = 4;

/// A place to keep sessions in. See the module's text for what all methods promise.
pub trait SessionStore: Send + Sync {
    /// Sets what is called back around commits; before the first change, once.
    fn attach(&self, hooks: Arc<dyn Hooks>);

    /// The largest time the store remembers: the clock must not be earlier.
    fn high_water(&self) -> Answer<Option<Timestamp>>;

    /// Makes a session, after ending as many of the user's oldest sign-ins as the limit demands; see [`Creation`]. If it is
    /// not the first one of its user, and its browser and operating system were not seen with them before, it also writes
    /// `device.new`; so does [`SessionStore::authenticate`].
    fn create(&self, new: NewSession) -> Answer<Creation>;

    /// Gives a session that is nobody's to a user, or lets its user sign in again: both deadlines start anew, the token
    /// is another, and no older one is good. Limits as in [`SessionStore::create`]; the session itself never makes room.
    fn authenticate(&self, authentication: Authentication) -> Answer<Authenticated>;

    /// Replaces a session's token by its successor; see [`Renewed`].
    fn renew(&self, renewal: Renewal) -> Answer<Renewed>;

    /// Writes down that a token was used which a renewal had replaced too long ago, unless that was done within
    /// [`REPORT_INTERVAL_MILLIS`], the session has ended, or the token is another.
    fn report_replaced(&self, id: SessionId, presented: SecretHash, now: Timestamp) -> Answer<()>;

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

    /// Ends all that a user has, then deletes up to `limit` of their sessions and events and what belongs to these; once there
    /// are fewer, also their devices and settings, and nothing is left. Of an event its number stays, so that no place
    /// among them is lost.
    fn erase_user(&self, app: AppName, user_id: UserId, request: EndRequest, limit: usize) -> Answer<Erased>;

    /// Changes an active session's data.
    fn change_data(
        &self,
        app: AppName,
        id: SessionId,
        patch: DataPatch,
        now: Timestamp,
    ) -> Answer<DataOutcome>;

    /// Writes down up to `limit` passed deadlines as endings, and erases as many nonces of renewals whose grace has ended;
    /// answers the larger number of both, or `limit` if there may be more to do.
    fn expire(&self, now: Timestamp, limit: usize) -> Answer<usize>;

    /// Tells of up to `limit` active sessions that a deadline is near (`session.expiring`), of each kind of deadline once
    /// per sign-in. Answers how many sessions were looked at; one that was used since is looked at in vain.
    fn tell_expiring(&self, now: Timestamp, limit: usize) -> Answer<usize>;

    /// Deletes up to `limit` sessions that ended before `before`; once there are fewer, [`EVENTS_PER_SESSION`] times as many events
    /// that were recorded before it, so that no ending goes before its session; as many deliveries of webhooks, by their age; and
    /// `limit` calls that can no longer be repeated. Answers how many rows went.
    fn purge(&self, before: Timestamp, limit: usize, now: Timestamp) -> Answer<usize>;

    /// Keeps an API key.
    fn create_key(&self, key: KeyRecord) -> Answer<()>;

    /// Revokes an API key; `false` if there is none with this id. Revoking again changes nothing.
    fn revoke_key(&self, id: KeyId, now: Timestamp) -> Answer<bool>;

    /// One session, whatever its state.
    fn find(&self, id: SessionId) -> Answer<Option<Session>>;

    /// The session without a written ending that has this id of the client's.
    fn find_client(&self, app: AppName, client_session_id: i64) -> Answer<Option<Session>>;

    /// One session, whatever its state, and its data.
    fn find_data(&self, id: SessionId) -> Answer<Option<(Session, Data)>>;

    /// A page of one user's sessions.
    fn list_user(&self, list: UserList) -> Answer<UserPage>;

    /// A page of an app's sessions.
    fn list_app(&self, list: AppList) -> Answer<AppPage>;

    /// A user's settings and count.
    fn find_user(&self, app: AppName, user_id: UserId, now: Timestamp) -> Answer<UserRecord>;

    /// What a user signed in with, first seen first; at most [`DEVICES_PER_USER_MAX`].
    fn list_devices(&self, app: AppName, user_id: UserId) -> Answer<Vec<KnownDevice>>;

    /// A page of events.
    fn list_events(&self, list: EventList) -> Answer<EventPage>;

    /// Which events there are.
    fn event_bounds(&self) -> Answer<EventBounds>;

    /// Writes an event that tells of no change.
    fn record(&self, event: Event) -> Answer<()>;

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
