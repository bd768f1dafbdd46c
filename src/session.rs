//! What a session is: its id and token, its device and place, its two deadlines, and how it ended.
//!
//! Pure rules without I/O; `now` is always an argument. A session is active while `now < expires_at`, where
//! `expires_at` is the earlier of the idle and the absolute deadline; a passed deadline *is* an ending, whether or
//! not anything has written it down ([`Session::ending_as_of`]).
//!
//! A token is `sst_` + base64url(16-byte session id ‖ 32 random bytes); an API key is `ssk_` with the same
//! construction. Only the SHA-256 of the 32 bytes is ever stored: they are uniformly random, so no salt or slow hash
//! is needed (OWASP Session Management Cheat Sheet: at least 64 bits of entropy; these have 256).

mod identity;
mod token;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use self::identity::{Auth, Identities, IdentityPatch, TooLong, is_identity_key};
pub use self::token::{ApiKey, Fingerprint, KeyId, Nonce, Secret, SecretHash, ServerKey, SessionId, Token};
use crate::clock::Timestamp;
use crate::user::UserId;

/// Longest user agent that is kept, in bytes; the field's longest common ones have about 400.
pub const USER_AGENT_LEN_MAX: usize = 512;
/// Longest name a session can be given, in characters.
pub const NAME_CHARS_MAX: usize = 100;
/// Longest reason of an ending, in characters.
pub const REASON_CHARS_MAX: usize = 255;
/// Longest application data about the identity (`auth`), in bytes of JSON; all named identities together have as much.
pub const AUTH_LEN_MAX: usize = 8 * 1024;
/// Longest name of an identity, in characters.
pub const IDENTITY_KEY_CHARS_MAX: usize = 64;
/// Longest name of an app; it also names a table in the configuration.
pub const APP_NAME_LEN_MAX: usize = 63;

/// The name of an app: `default`, or one that the configuration names. Lower-case letters, digits, `-` and `_`,
/// beginning with a letter or digit, at most [`APP_NAME_LEN_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(Arc<str>);

impl AppName {
    /// The app that always exists.
    pub fn default_app() -> Self {
        Self("default".into())
    }

    /// Reads a name; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first = text.bytes().next().is_some_and(good);
        let rest = text.bytes().all(|b| good(b) || b == b'-' || b == b'_');
        (first && rest && text.len() <= APP_NAME_LEN_MAX).then(|| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of thing a session runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    /// A desktop or laptop computer.
    Desktop,
    /// A phone.
    Phone,
    /// A tablet.
    Tablet,
    /// A television or set-top box.
    Tv,
    /// A game console.
    Console,
    /// A program rather than a browser: a command-line tool, a library, an app's own client, a bot.
    Program,
}

impl DeviceType {
    /// All of them, with the names they have on the wire and in the store.
    pub const NAMES: [(Self, &'static str); 6] = [
        (Self::Desktop, "desktop"),
        (Self::Phone, "phone"),
        (Self::Tablet, "tablet"),
        (Self::Tv, "tv"),
        (Self::Console, "console"),
        (Self::Program, "program"),
    ];

    /// The name on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }

    /// The type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        with_name(&Self::NAMES, name)
    }
}

/// The device a session was started on, as far as it told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The browser's or program's name, `Chrome`.
    pub browser: Option<String>,
    /// `145.0`.
    pub browser_version: Option<String>,
    /// The operating system's family, `macOS`.
    pub os: Option<String>,
    /// `15.1`.
    pub os_version: Option<String>,
    /// What kind of device.
    pub device_type: Option<DeviceType>,
    /// Whether the program says that it is a robot.
    pub is_bot: bool,
}

impl Device {
    /// The device in words: "Browser on OS", the browser alone, "Unknown browser on OS", or nothing.
    pub fn info(&self) -> Option<Phrase<'_>> {
        match (self.browser.as_deref(), self.os.as_deref()) {
            (Some(browser), Some(os)) => Some(Phrase([browser, " on ", os])),
            (Some(browser), None) => Some(Phrase([browser, "", ""])),
            (None, Some(os)) => Some(Phrase(["Unknown browser", " on ", os])),
            (None, None) => None,
        }
    }
}

/// What a browser tells about itself in client hints (User-Agent Client Hints, W3C).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHints {
    /// `Sec-CH-UA-Platform`.
    pub platform: Option<String>,
    /// `Sec-CH-UA-Platform-Version`.
    pub platform_version: Option<String>,
    /// `Sec-CH-UA-Model`.
    pub model: Option<String>,
    /// `Sec-CH-UA-Mobile`.
    pub mobile: Option<bool>,
    /// `Sec-CH-UA`: brands and their versions.
    pub brands: Vec<(String, String)>,
}

/// Where an address is, as far as the location file knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The city's English name.
    pub city: Option<String>,
    /// ISO 3166-1 alpha-2.
    pub country: String,
}

impl Place {
    /// "City, CC", else "CC".
    pub fn info(&self) -> Phrase<'_> {
        match &self.city {
            Some(city) => Phrase([city, ", ", &self.country]),
            None => Phrase([&self.country, "", ""]),
        }
    }
}

/// A few words, to be written one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Phrase<'p>([&'p str; 3]);

impl<'p> Phrase<'p> {
    /// These, in their order.
    pub fn new(parts: [&'p str; 3]) -> Self {
        Self(parts)
    }

    /// Its parts, in their order.
    pub fn parts(&self) -> &[&'p str; 3] {
        &self.0
    }
}

impl fmt::Display for Phrase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| f.write_str(part))
    }
}

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The person.
    User,
    /// The application's backend.
    App,
    /// The command line.
    Operator,
    /// The limit of the user's tier.
    Limit,
    /// A deadline.
    Timeout,
    /// A defence of the server's own.
    Security,
}

impl EndedBy {
    /// All of them, with the names they have on the wire and in the store.
    pub const NAMES: [(Self, &'static str); 6] = [
        (Self::User, "user"),
        (Self::App, "app"),
        (Self::Operator, "operator"),
        (Self::Limit, "limit"),
        (Self::Timeout, "timeout"),
        (Self::Security, "security"),
    ];

    /// The name on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }

    /// The actor with this name.
    pub fn parse(name: &str) -> Option<Self> {
        with_name(&Self::NAMES, name)
    }
}

fn name_of<T: PartialEq + Copy>(names: &[(T, &'static str)], value: T) -> &'static str {
    names
        .iter()
        .find(|(known, _)| *known == value)
        .map_or("", |(_, name)| name)
}

fn with_name<T: Copy>(names: &[(T, &'static str)], name: &str) -> Option<T> {
    names
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(value, _)| *value)
}

/// Why a session ended: at most [`REASON_CHARS_MAX`] characters, no control characters, not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(Arc<str>);

impl Reason {
    /// The session was signed out.
    pub const LOGOUT: &'static str = "logout";
    /// All of a user's sessions were signed out.
    pub const LOGOUT_ALL: &'static str = "logout_all";
    /// The person ended another of their sessions.
    pub const MANUAL: &'static str = "manual";
    /// The limit was reached by a newer session.
    pub const SESSION_LIMIT_EXCEEDED: &'static str = "session_limit_exceeded";
    /// It was not used for the idle timeout.
    pub const IDLE_TIMEOUT: &'static str = "idle_timeout";
    /// The absolute timeout since the sign-in has passed.
    pub const ABSOLUTE_TIMEOUT: &'static str = "absolute_timeout";
    /// The user was blocked.
    pub const USER_BLOCKED: &'static str = "user_blocked";
    /// The user's credentials were changed; sign-ins verified before that are refused from then on.
    pub const CREDENTIALS_CHANGED: &'static str = "credentials_changed";
    /// Somebody renewed with a token that had long been replaced: two hold what one should.
    pub const TOKEN_REUSE: &'static str = "token_reuse";
    /// A backup was restored, in which it was active, and nobody knows whether it was ended since.
    pub const RESTORED: &'static str = "restored";
    /// Everything that is kept of the user is being erased.
    pub const USER_ERASED: &'static str = "user_erased";

    /// Reasons of the server's and the application's own acts: no person gives them for theirs.
    pub const NOT_A_PERSONS: [&'static str; 8] = [
        Self::SESSION_LIMIT_EXCEEDED,
        Self::IDLE_TIMEOUT,
        Self::ABSOLUTE_TIMEOUT,
        Self::USER_BLOCKED,
        Self::CREDENTIALS_CHANGED,
        Self::TOKEN_REUSE,
        Self::RESTORED,
        Self::USER_ERASED,
    ];

    /// Reads a reason; `None` if it breaks a rule.
    pub fn parse(text: &str) -> Option<Self> {
        is_clean_text(text, REASON_CHARS_MAX).then(|| Self(text.into()))
    }

    /// One of the constants above.
    pub fn known(text: &'static str) -> Self {
        Self(text.into())
    }

    /// The reason as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether text is 1 to `chars_max` characters long and free of control characters.
pub fn is_clean_text(text: &str, chars_max: usize) -> bool {
    !text.is_empty()
        && !text.chars().any(char::is_control)
        && text.chars().take(chars_max + 1).count() <= chars_max
}

/// How, when and by whom a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The moment; for a deadline the deadline itself.
    pub at: Timestamp,
    /// Why.
    pub reason: Reason,
    /// Who.
    pub by: EndedBy,
}

/// One of the two deadlines of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The end of the longest pause between uses.
    Idle,
    /// The end of the longest life since the sign-in.
    Absolute,
}

impl Deadline {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Absolute => "absolute",
        }
    }
}

/// Whether a session can be used, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Usable.
    Active,
    /// Ended before a deadline.
    Revoked,
    /// Ended by a deadline.
    Expired,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// The token that the current one replaced. The hash stays after it is good for nothing, to recognise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Hash of its secret.
    pub hash: SecretHash,
    /// How long it stays good.
    pub grace: Grace,
    /// When somebody was last told that it was used although it was no longer good.
    pub reported_at: Option<Timestamp>,
}

/// How long a replaced token stays good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// Not at all: a sign-in replaced it.
    None,
    /// A renewal replaced it, and nobody has presented its successor yet: perhaps nobody got it.
    Open {
        /// What the successor was made with.
        nonce: Nonce,
    },
    /// Until a time after its successor was first presented.
    Until {
        /// From then on it is refused.
        ends_at: Timestamp,
        /// What the successor was made with; erased some time after the end.
        nonce: Option<Nonce>,
    },
}

impl Replaced {
    /// Whether a use at `now` is to be told: a renewal replaced it, its grace is over, and nothing was told within the
    /// interval. A sign-in replaces tokens under the hands of requests that are under way, which is nothing to tell.
    pub fn is_to_be_reported(&self, now: Timestamp, interval_millis: i64) -> bool {
        let is_over = matches!(self.grace, Grace::Until { ends_at, .. } if ends_at <= now);
        let was_told = self
            .reported_at
            .is_some_and(|at| now.millis_since(at) < interval_millis);
        is_over && !was_told
    }
}

impl Grace {
    /// Whether the replaced token is good at `now`.
    pub fn is_good(self, now: Timestamp) -> bool {
        match self {
            Self::None => false,
            Self::Open { .. } => true,
            Self::Until { ends_at, .. } => now < ends_at,
        }
    }
}

/// Which of a session's tokens was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichToken {
    /// The current one.
    Current,
    /// The one before it.
    Replaced(Replaced),
}

/// One sign-in of one person, or of nobody yet, on one device.
#[derive(Debug, Clone)]
pub struct Session {
    /// The public handle.
    pub id: SessionId,
    /// The app it belongs to.
    pub app: AppName,
    /// The person; `None` for an anonymous session.
    pub user_id: Option<UserId>,
    /// The id that the client chose; unique among the app's active sessions.
    pub client_session_id: Option<i64>,
    /// Hash of the current token's secret.
    pub token_hash: SecretHash,
    /// The token before it.
    pub replaced: Option<Replaced>,
    /// The name the person or the app gave it.
    pub name: Option<String>,
    /// Whether the app trusts this device.
    pub is_trusted: bool,
    /// The raw user agent, at most [`USER_AGENT_LEN_MAX`] bytes.
    pub user_agent: Option<String>,
    /// What the user agent says.
    pub device: Option<Device>,
    /// Where the first address is, or, where none is kept, that of the latest sign-in.
    pub place: Option<Place>,
    /// The first address seen; it never changes.
    pub ip_address: Option<IpAddr>,
    /// The latest address, if it is another.
    pub last_ip_address: Option<IpAddr>,
    /// When the session was made.
    pub created_at: Timestamp,
    /// When its user last signed in with it, else when it was made: what limits and lists order by.
    pub signed_in_at: Timestamp,
    /// When the user's credentials were verified; `None` for an anonymous session.
    pub authenticated_at: Option<Timestamp>,
    /// When it was last used.
    pub last_activity_at: Timestamp,
    /// Longest pause between uses, in milliseconds.
    pub idle_timeout_millis: i64,
    /// The deadline that no use moves.
    pub absolute_expires_at: Timestamp,
    /// How it ended, once that is written down; see [`Session::ending_as_of`].
    pub ending: Option<Ending>,
    /// What the application keeps about the sign-in.
    pub auth: Option<Auth>,
    /// Identities beside that one.
    pub identities: Option<Identities>,
    /// Grows with each change of the session's data; 0 is a session that never had any.
    pub data_version: u64,
}

impl Session {
    /// Which of the session's tokens has this hash, if any. As many comparisons are made whatever the answer.
    pub fn which_token(&self, presented: &SecretHash) -> Option<WhichToken> {
        let is_current = self.token_hash.matches(presented);
        let before = self.replaced.map_or(SecretHash::DUMMY, |replaced| replaced.hash);
        let is_replaced = before.matches(presented);
        match (is_current, is_replaced, self.replaced) {
            (true, ..) => Some(WhichToken::Current),
            (false, true, Some(replaced)) => Some(WhichToken::Replaced(replaced)),
            _ => None,
        }
    }

    /// The current token was presented: from `ends_at` on the one before it is refused, if it is still good at all.
    pub fn begin_grace(&mut self, ends_at: Timestamp) {
        if let Some(replaced) = &mut self.replaced
            && let Grace::Open { nonce } = replaced.grace
        {
            replaced.grace = Grace::Until {
                ends_at,
                nonce: Some(nonce),
            };
        }
    }

    /// Browser and operating system without their versions, each empty where it is not known: what tells the devices of a
    /// user apart.
    pub fn browser_and_os(&self) -> (&str, &str) {
        let device = self.device.as_ref();
        let browser = device.and_then(|device| device.browser.as_deref());
        let os = device.and_then(|device| device.os.as_deref());
        (browser.unwrap_or_default(), os.unwrap_or_default())
    }

    /// The earlier of the idle and the absolute deadline.
    pub fn expires_at(&self) -> Timestamp {
        expires_at(
            self.last_activity_at,
            self.idle_timeout_millis,
            self.absolute_expires_at,
        )
    }

    /// The written ending, else the one by a deadline that has passed at `now`, else `None`: it is active.
    pub fn ending_as_of(&self, now: Timestamp) -> Option<Ending> {
        if let Some(ending) = &self.ending {
            return Some(ending.clone());
        }
        let deadline = self.expires_at();
        if now < deadline {
            return None;
        }
        let reason = if deadline < self.absolute_expires_at {
            Reason::IDLE_TIMEOUT
        } else {
            Reason::ABSOLUTE_TIMEOUT
        };
        Some(Ending {
            at: deadline,
            reason: Reason::known(reason),
            by: EndedBy::Timeout,
        })
    }

    /// Whether the session can be used at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.ending.is_none() && now < self.expires_at()
    }

    /// Active, revoked or expired at `now`.
    pub fn status(&self, now: Timestamp) -> Status {
        match self.ending_as_of(now) {
            None => Status::Active,
            Some(Ending {
                by: EndedBy::Timeout, ..
            }) => Status::Expired,
            Some(_) => Status::Revoked,
        }
    }

    /// Records a use. Time only moves forward.
    pub fn record_use(&mut self, at: Timestamp) {
        self.last_activity_at = self.last_activity_at.max(at);
    }

    /// Records an address that it was used from, and where that is. The first one stays, and its place.
    pub fn record_address(&mut self, address: IpAddr, place: Option<&Place>) {
        match self.ip_address {
            None => {
                self.ip_address = Some(address);
                if let Some(place) = place {
                    self.place = Some(place.clone());
                }
            }
            Some(_) if self.is_new_address(address) => {
                // A later return to the first address is news too: it shows as the latest one.
                self.last_ip_address = Some(address);
            }
            Some(_) => {}
        }
    }

    /// Whether a use from `address` differs from what is recorded as the latest address.
    pub fn is_new_address(&self, address: IpAddr) -> bool {
        self.last_ip_address.or(self.ip_address) != Some(address)
    }

    /// How soon after a recorded use another one records nothing, in milliseconds: the configured interval, but
    /// at most a tenth of the idle timeout, so that sparing a write costs no session a noticeable part of its life.
    pub fn touch_interval_millis(&self, configured_millis: i64) -> i64 {
        configured_millis.min(self.idle_timeout_millis / 10)
    }

    /// Roughly the memory this session takes, in bytes.
    pub fn weight(&self) -> usize {
        let text = |value: &Option<String>| value.as_ref().map_or(0, String::len);
        let device = self.device.as_ref().map_or(0, |device| {
            text(&device.browser)
                + text(&device.browser_version)
                + text(&device.os)
                + text(&device.os_version)
        });
        size_of::<Self>()
            + self.user_id.as_ref().map_or(0, |user| user.as_str().len())
            + text(&self.name)
            + text(&self.user_agent)
            + device
            + self
                .place
                .as_ref()
                .map_or(0, |place| text(&place.city) + place.country.len())
            + self.auth.as_ref().map_or(0, |auth| auth.as_str().len())
            + self.identities.as_ref().map_or(0, |all| all.as_str().len())
    }
}

/// An address that a session was used from, as far as it is kept, and where that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedFrom {
    /// The address.
    pub address: IpAddr,
    /// Its place; shared, as touches are copied under a lock.
    pub place: Option<Arc<Place>>,
}

/// Uses of a session that are not written yet: the latest time, and the addresses that are news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// Which session.
    pub id: SessionId,
    /// The latest use.
    pub at: Timestamp,
    /// The first address since the last write that was not the recorded one.
    pub first_address: Option<UsedFrom>,
    /// The latest such address, if it is yet another.
    pub last_address: Option<UsedFrom>,
    /// That the token of a renewal was presented for the first time.
    pub successor_seen: Option<SuccessorSeen>,
}

/// The token of a renewal was presented, so that the one before it is good for a while only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessorSeen {
    /// Hash of the token that was presented; another token's row is none of this one's business.
    pub token_hash: SecretHash,
    /// From when on the token before it is refused.
    pub grace_ends_at: Timestamp,
}

impl Touch {
    /// The addresses in the order in which they were seen.
    fn addresses(&self) -> impl Iterator<Item = &UsedFrom> {
        self.first_address.iter().chain(&self.last_address)
    }

    /// Takes out the addresses of an earlier state of this touch, which was written: told again, they would be news.
    pub fn take_out(&mut self, written: &Self) {
        if self.successor_seen == written.successor_seen {
            self.successor_seen = None;
        }
        // A touch may be written twice; by the second time this may be another one, begun after the first.
        let is_earlier_state = written.first_address.is_some() && written.first_address == self.first_address;
        if is_earlier_state && !self.is_return() {
            self.first_address = self
                .last_address
                .take()
                .filter(|latest| written.last_address.as_ref() != Some(latest));
        }
    }

    /// Whether the latest address is the first one again, after others that are not kept.
    fn is_return(&self) -> bool {
        let address = |from: &Option<UsedFrom>| from.as_ref().map(|from| from.address);
        self.last_address.is_some() && address(&self.last_address) == address(&self.first_address)
    }

    /// The session as it is after these uses.
    pub fn apply(&self, session: &mut Session) {
        self.apply_telling(session, |_, _| {});
    }

    /// The same; `tell` is called with the session after each address that is another than the one before, and its place.
    pub fn apply_telling(&self, session: &mut Session, mut tell: impl FnMut(&Session, Option<&Place>)) {
        session.record_use(self.at);
        if let Some(seen) = self
            .successor_seen
            .filter(|seen| seen.token_hash == session.token_hash)
        {
            session.begin_grace(seen.grace_ends_at);
        }
        for UsedFrom { address, place } in self.addresses() {
            let is_news = session.ip_address.is_some() && session.is_new_address(*address);
            session.record_address(*address, place.as_deref());
            if is_news {
                tell(session, place.as_deref());
            }
        }
        if let Some(UsedFrom { address, place }) = self.last_address.as_ref().filter(|_| self.is_return())
            && session.last_ip_address != Some(*address)
        {
            session.last_ip_address = Some(*address);
            tell(session, place.as_deref());
        }
    }
}

/// The earlier of the idle and the absolute deadline; SQL and the cache compute the same.
pub fn expires_at(last_activity: Timestamp, idle_timeout_millis: i64, absolute: Timestamp) -> Timestamp {
    last_activity.plus_millis(idle_timeout_millis).min(absolute)
}

/// Cuts a user agent to what is kept and drops control characters; empty text is `None`.
pub fn bounded_user_agent(text: &str) -> Option<String> {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > USER_AGENT_LEN_MAX {
            break;
        }
        kept.push(c);
    }
    (!kept.trim().is_empty()).then_some(kept)
}

/// How long the sessions of an app may live. Each timeout is in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest pause between uses.
    pub idle_millis: i64,
    /// Longest life since the last sign-in.
    pub absolute_millis: i64,
}

impl Timeouts {
    /// These timeouts, each shortened to what was asked for; asking for longer ones changes nothing.
    pub fn shortened(self, idle_millis: Option<i64>, absolute_millis: Option<i64>) -> Self {
        Self {
            idle_millis: idle_millis.map_or(self.idle_millis, |asked| asked.min(self.idle_millis)),
            absolute_millis: absolute_millis
                .map_or(self.absolute_millis, |asked| asked.min(self.absolute_millis)),
        }
    }
}

/// What a sign-in does whose user has as many active sessions as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimit {
    /// It ends the session with the oldest sign-in.
    Evict,
    /// It is refused and the sessions are listed, so that the person can choose.
    Deny,
}

impl OnLimit {
    /// All of them, with the names they have in the configuration.
    pub const NAMES: [(Self, &'static str); 2] = [(Self::Evict, "evict"), (Self::Deny, "deny")];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }

    /// The rule with this name.
    pub fn parse(name: &str) -> Option<Self> {
        with_name(&Self::NAMES, name)
    }
}

/// What a renewal does whose token was replaced longer ago than the grace: someone kept a copy, and it is not known
/// whether the holder of the successor is the thief or the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTokenReuse {
    /// It is refused, and the session ends for both.
    Revoke,
    /// It is refused, and observers are told.
    Notify,
}

impl OnTokenReuse {
    /// All of them, with the names they have in the configuration.
    pub const NAMES: [(Self, &'static str); 2] = [(Self::Revoke, "revoke"), (Self::Notify, "notify")];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        name_of(&Self::NAMES, self)
    }

    /// The rule with this name.
    pub fn parse(name: &str) -> Option<Self> {
        with_name(&Self::NAMES, name)
    }
}

/// The network that an address is counted under: an IPv4 address itself, the /64 of an IPv6 one, which is what one
/// subscriber has (RFC 6177). Addresses that nobody knows are counted together.
pub fn network_of(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let prefix = u128::from(address) >> 64 << 64;
            format!("{}/64", std::net::Ipv6Addr::from(prefix))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One of nobody, with nothing in it.
    pub(crate) fn session(idle: i64, absolute: i64) -> Session {
        let start = Timestamp::from_millis(1_000);
        Session {
            id: SessionId::from_bytes([7; 16]),
            app: AppName::default_app(),
            user_id: None,
            client_session_id: None,
            token_hash: SecretHash::DUMMY,
            replaced: None,
            name: None,
            is_trusted: false,
            user_agent: None,
            device: None,
            place: None,
            ip_address: None,
            last_ip_address: None,
            created_at: start,
            signed_in_at: start,
            authenticated_at: None,
            last_activity_at: start,
            idle_timeout_millis: idle,
            absolute_expires_at: start.plus_millis(absolute),
            ending: None,
            auth: None,
            identities: None,
            data_version: 0,
        }
    }

    #[test]
    fn at_exactly_the_deadline_it_is_over() {
        let session = session(500, 10_000);
        let deadline = Timestamp::from_millis(1_500);
        assert!(session.is_active(deadline.plus_millis(-1)));
        assert!(!session.is_active(deadline));
        let ending = session.ending_as_of(deadline).expect("over");
        assert_eq!(
            (ending.at, ending.reason.as_str(), ending.by),
            (deadline, "idle_timeout", EndedBy::Timeout)
        );
        assert_eq!(session.status(deadline), Status::Expired);
    }

    #[test]
    fn uses_move_the_idle_deadline_but_never_the_absolute_one() {
        let mut session = session(500, 1_000);
        session.record_use(Timestamp::from_millis(1_400));
        assert_eq!(session.expires_at().as_millis(), 1_900);
        session.record_use(Timestamp::from_millis(1_800));
        assert_eq!(session.expires_at().as_millis(), 2_000);
        let ending = session.ending_as_of(Timestamp::from_millis(2_000)).expect("over");
        assert_eq!(ending.reason.as_str(), "absolute_timeout");
        session.record_use(Timestamp::from_millis(1_100));
        assert_eq!(
            session.last_activity_at.as_millis(),
            1_800,
            "a late touch moves nothing back"
        );
    }

    #[test]
    fn first_address_stays_and_a_later_one_is_the_last() {
        let (home, train): (IpAddr, IpAddr) = (
            "192.0.2.1".parse().expect("valid"),
            "2001:db8::1".parse().expect("valid"),
        );
        let mut session = session(500, 1_000);
        session.record_address(home, None);
        assert_eq!((session.ip_address, session.last_ip_address), (Some(home), None));
        session.record_address(home, None);
        assert_eq!(session.last_ip_address, None);
        session.record_address(train, None);
        assert_eq!(
            (session.ip_address, session.last_ip_address),
            (Some(home), Some(train))
        );
    }

    #[test]
    fn addresses_are_counted_by_what_one_subscriber_has() {
        for (address, network) in [
            (Some("203.0.113.7"), "203.0.113.7"),
            (Some("::ffff:203.0.113.7"), "203.0.113.7"),
            (Some("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
            (None, "unknown"),
        ] {
            let address = address.map(|text| text.parse().expect("an address"));
            assert_eq!(network_of(address), network);
        }
    }

    #[test]
    fn user_agents_are_bounded_at_a_character() {
        let long = "ä".repeat(1_000);
        let kept = bounded_user_agent(&long).expect("not empty");
        assert_eq!(kept.len(), USER_AGENT_LEN_MAX);
        assert_eq!(bounded_user_agent("a\r\nb\u{0}").as_deref(), Some("ab"));
        assert_eq!(bounded_user_agent("  "), None);
    }

    #[test]
    fn app_names_are_plain() {
        for good in ["default", "shop-2", "a_b"] {
            assert!(AppName::parse(good).is_some(), "{good}");
        }
        for bad in ["", "Shop", "-a", "a.b", "a b", &"a".repeat(64)] {
            assert!(AppName::parse(bad).is_none(), "{bad}");
        }
    }
}
