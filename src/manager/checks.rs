//! Checks and renewals of tokens, and uses: the hot path. A check never waits for the writer; what it has to tell it, that a
//! successor was seen or a replaced token used, is queued.
//!
//! Of a session whose token was renewed two tokens may be good; which, is decided by the row, by what its copy in the
//! cache has noted, and by what is noted and not written yet, always with the clock.

use std::net::IpAddr;
use std::sync::Arc;

use super::{SessionManager, millis};
use crate::cache::{CachedSession, Filled};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::session::{
    AppName, Ending, Grace, Nonce, Replaced, SecretHash, Session, SessionId, SuccessorSeen, Token, Touch,
    UsedFrom, WhichToken,
};
use crate::store::{REPORT_INTERVAL_MILLIS, Renewal, Renewed};

/// How often a row is read again because its session changed while it was read.
const READS_PER_CHECK_MAX: usize = 3;

/// Whether a check counts as a use of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It does, from this address if one is known.
    Touch(Option<IpAddr>),
    /// It does not.
    Look,
}

/// What a check demands beside a good token.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// A sign-in not older than this, in seconds.
    pub max_auth_age_secs: Option<u64>,
    /// Tags that `auth.tags` must contain, all of them.
    pub tags: Vec<String>,
}

/// What a check found.
#[derive(Debug, Clone)]
pub enum CheckAnswer {
    /// The token is good; the session with its latest use.
    Active(Arc<CachedSession>),
    /// It is not.
    Refused(Refusal),
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown, of another app, or with a wrong secret: nobody learns which.
    InvalidToken,
    /// The session has another token since, and the time in which this one was good as well is over.
    TokenReplaced,
    /// The session has ended; only the holder of the right secret is told.
    SessionEnded(Ending),
    /// The sign-in is too old for what is asked.
    ReauthenticationRequired,
    /// The session lacks a demanded tag.
    MissingTag,
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::TokenReplaced => "token_replaced",
            Self::SessionEnded(_) => "session_ended",
            Self::ReauthenticationRequired => "reauthentication_required",
            Self::MissingTag => "missing_tag",
        }
    }

    /// The same in a sentence.
    pub fn detail(&self) -> &'static str {
        match self {
            Self::InvalidToken => "This is not the token of any session here.",
            Self::TokenReplaced => "The session has a newer token, and this one is no longer good.",
            Self::SessionEnded(_) => "The session has ended.",
            Self::ReauthenticationRequired => "This needs a more recent sign-in.",
            Self::MissingTag => "The session does not have every demanded tag.",
        }
    }
}

/// How a token stands that was good before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is good, as things are, until this moment.
    Good {
        /// When.
        until: Timestamp,
    },
    /// It is not.
    Refused(Refusal),
}

/// What became of a renewal.
#[derive(Debug, Clone)]
pub enum RenewAnswer {
    /// The session and the token that is to be used from now on.
    Renewed {
        /// The session, after this use.
        session: Box<Session>,
        /// Its token: shown to the holder now.
        token: Token,
    },
    /// The presented token is not good.
    Refused(Refusal),
}

impl SessionManager {
    /// Checks a token of this app.
    pub async fn check(
        &self,
        app: &AppName,
        token: &Token,
        usage: Use,
        demands: &Demands,
    ) -> Result<CheckAnswer, Error> {
        let presented = token.hash();
        let entry = self.cached_or_read(token.id()).await?;
        let answer = self.judge(app, entry, presented, usage, demands);
        match &answer {
            CheckAnswer::Active(_) => self.held.metrics.count_good_check(),
            CheckAnswer::Refused(refusal) => self.held.metrics.count_refused_check(refusal.code()),
        }
        Ok(answer)
    }

    /// Whether a token that was checked before is still good. This is no use and no presentation of it: nothing is noted,
    /// nobody is told.
    pub async fn standing(
        &self,
        app: &AppName,
        id: SessionId,
        presented: SecretHash,
    ) -> Result<Standing, Error> {
        let entry = self.cached_or_read(id).await?;
        let which = recognise(app, entry.as_deref(), &presented);
        let (Some(entry), Some(which)) = (entry, which) else {
            return Ok(Standing::Refused(Refusal::InvalidToken));
        };
        let now = self.clock.now();
        let mut until = entry.expires_at();
        if let WhichToken::Replaced(replaced) = which {
            if !self.is_still_good(&entry, replaced, now) {
                return Ok(Standing::Refused(Refusal::TokenReplaced));
            }
            if let Some(WhichToken::Replaced(replaced)) = entry.which_token(&presented)
                && let Grace::Until { ends_at, .. } = replaced.grace
            {
                until = until.min(ends_at);
            }
        }
        Ok(match self.ending_as_of(&entry, now) {
            Some(ending) => Standing::Refused(Refusal::SessionEnded(ending)),
            None => Standing::Good { until },
        })
    }

    fn judge(
        &self,
        app: &AppName,
        entry: Option<Arc<CachedSession>>,
        presented: SecretHash,
        usage: Use,
        demands: &Demands,
    ) -> CheckAnswer {
        let which = recognise(app, entry.as_deref(), &presented);
        let (Some(entry), Some(which)) = (entry, which) else {
            return CheckAnswer::Refused(Refusal::InvalidToken);
        };
        let now = self.clock.now();
        if let WhichToken::Replaced(replaced) = which
            && !self.is_still_good(&entry, replaced, now)
        {
            self.report_replaced(&entry, presented, now);
            return CheckAnswer::Refused(Refusal::TokenReplaced);
        }
        if let Some(ending) = self.ending_as_of(&entry, now) {
            return CheckAnswer::Refused(Refusal::SessionEnded(ending));
        }
        if which == WhichToken::Current && entry.is_grace_open() {
            self.note_successor(&entry, now);
        }
        if let Some(refusal) = unmet(demands, entry.row(), now) {
            return CheckAnswer::Refused(refusal);
        }
        CheckAnswer::Active(match usage {
            Use::Touch(address) => self.record_use(entry, now, address),
            Use::Look => entry,
        })
    }

    /// Whether the token before the current one is good at `now`.
    fn is_still_good(&self, entry: &CachedSession, replaced: Replaced, now: Timestamp) -> bool {
        if let Grace::Open { .. } = replaced.grace {
            // Its successor may have been seen by another copy that is gone.
            let pending = self.held.touches.get(entry.row().id);
            if let Some(seen) = pending.and_then(|touch| touch.successor_seen) {
                entry.note_successor(&seen);
            }
        }
        match entry.which_token(&replaced.hash) {
            Some(WhichToken::Replaced(replaced)) => replaced.grace.is_good(now),
            _ => false,
        }
    }

    /// The current token was presented for the first time: the one before it is good for a while only. Noted in memory
    /// like a use, and written as soon as may be.
    fn note_successor(&self, entry: &CachedSession, now: Timestamp) {
        let row = entry.row();
        let grace_secs = self.policy(&row.app).map_or(0, |policy| policy.renew_grace_secs);
        let seen = SuccessorSeen {
            token_hash: row.token_hash,
            grace_ends_at: now.plus_millis(millis(grace_secs)),
        };
        if self.held.touches.note_successor(row, seen) {
            entry.note_successor(&seen);
            // Not only with the next flush: a crash before it would make the old token good again. Nobody waits for it.
            let pending = self.held.touches.get(row.id);
            drop(self.store.write_touches(pending.into_iter().collect(), now));
        } else {
            self.held.metrics.touches_dropped.inc();
        }
    }

    /// Has it written down that a token was used which had been replaced, if that is to be told. Nobody waits for it:
    /// a check is answered whether or not anything can be written.
    fn report_replaced(&self, entry: &CachedSession, presented: SecretHash, now: Timestamp) {
        let is_to_be_told = match entry.which_token(&presented) {
            Some(WhichToken::Replaced(replaced)) => replaced.is_to_be_reported(now, REPORT_INTERVAL_MILLIS),
            _ => false,
        };
        // Whoever holds such a token may send it as fast as they can: until the row says that it was told, this copy does.
        if is_to_be_told
            && self.ending_as_of(entry, now).is_none()
            && entry.is_first_report(now, REPORT_INTERVAL_MILLIS)
        {
            // Queued by the call itself.
            drop(self.store.report_replaced(entry.row().id, presented, now));
        }
    }

    /// Whether and how a session that was read or cached is over.
    pub(super) fn ending_as_of(&self, entry: &CachedSession, now: Timestamp) -> Option<Ending> {
        if entry.row().ending.is_none() {
            if now < entry.expires_at() {
                return None;
            }
            // Before a session is called dead: a use may have been noted through another copy that is gone.
            if let Some(touch) = self.held.touches.get(entry.row().id) {
                entry.record_use(touch.at);
            }
        }
        entry.to_session().ending_as_of(now)
    }

    /// Notes a use in memory, unless one was recorded just before.
    pub(super) fn record_use(
        &self,
        entry: Arc<CachedSession>,
        now: Timestamp,
        address: Option<IpAddr>,
    ) -> Arc<CachedSession> {
        let row = entry.row();
        // Also what the row has is compared as it would be kept now: that it was kept whole before is no move.
        let latest = self.kept(row.last_ip_address.or(row.ip_address));
        let new_address = self.kept(address).filter(|address| latest != Some(*address));
        let interval = row.touch_interval_millis(self.touch_interval_millis);
        if new_address.is_none() && now.millis_since(entry.last_activity_at()) < interval {
            return entry;
        }
        let new_address = new_address.map(|kept| UsedFrom {
            address: kept,
            // Of the whole address, as at a creation: microseconds, for one that is another than the latest.
            place: self.locate(address).map(Arc::new),
        });
        if !self.held.touches.note(row, now, new_address.clone()) {
            self.held.metrics.touches_dropped.inc();
            return entry;
        }
        entry.record_use(now);
        let Some(UsedFrom { address, place }) = new_address else {
            return entry;
        };
        let record = |session: &mut Session| {
            session.record_use(now);
            session.record_address(address, place.as_deref());
        };
        self.held.cache.change(row.id, record);
        let mut session = entry.to_session();
        record(&mut session);
        Arc::new(CachedSession::new(session))
    }

    /// The copy of a session, else its row.
    async fn cached_or_read(&self, id: SessionId) -> Result<Option<Arc<CachedSession>>, Error> {
        match self.held.cache.get(id) {
            Some(entry) => Ok(Some(entry)),
            None => self.load(id).await,
        }
    }

    /// Reads a session that is not cached, with its pending touch, and caches it if it is active.
    async fn load(&self, id: SessionId) -> Result<Option<Arc<CachedSession>>, Error> {
        let mut latest = None;
        for _ in 0..READS_PER_CHECK_MAX {
            let ticket = self.held.cache.begin_fill(id);
            let Some(mut session) = self.store.find(id).await? else {
                return Ok(None);
            };
            if let Some(touch) = self.held.touches.get(id) {
                touch.apply(&mut session);
            }
            if session.is_active(self.clock.now()) {
                match ticket.finish(session) {
                    Filled::Current(entry) => return Ok(Some(entry)),
                    Filled::Stale(entry) => latest = Some(entry),
                }
            } else {
                let is_current = ticket.is_current();
                latest = Some(Arc::new(CachedSession::new(session)));
                if is_current {
                    break;
                }
            }
        }
        Ok(latest)
    }

    /// Records a use of a session by its id.
    pub async fn touch(
        &self,
        app: &AppName,
        id: SessionId,
        address: Option<IpAddr>,
    ) -> Result<Session, Error> {
        let entry = self.cached_or_read(id).await?;
        let entry = entry
            .filter(|entry| entry.row().app == *app)
            .ok_or(Error::NotFound("session"))?;
        let now = self.clock.now();
        match self.ending_as_of(&entry, now) {
            Some(ending) => Err(Error::SessionEnded(ending)),
            None => Ok(self.record_use(entry, now, address).to_session()),
        }
    }

    /// Renews a token. Everyone who presents the same one gets the same successor, and the presented one stays good until
    /// some time after that was first presented. Counts as a use, from this address if one is known.
    pub async fn renew(
        &self,
        app: &AppName,
        token: &Token,
        address: Option<IpAddr>,
    ) -> Result<RenewAnswer, Error> {
        let policy = self.policy(app)?;
        // Whoever has no token of a session here does not get as far as the writer's queue.
        let entry = self.cached_or_read(token.id()).await?;
        let presented = token.hash();
        if recognise(app, entry.as_deref(), &presented).is_none() {
            return Ok(RenewAnswer::Refused(Refusal::InvalidToken));
        }
        let mut lost = None;
        loop {
            let now = self.clock.now();
            let nonce = Nonce::random();
            let renewal = Renewal {
                now,
                app: app.clone(),
                id: token.id(),
                presented,
                nonce,
                successor: token.successor(&self.key, &nonce).hash(),
                lost,
                grace_millis: millis(policy.renew_grace_secs),
                on_reuse: policy.on_token_reuse,
            };
            let refusal = match self.store.renew(renewal).await? {
                Renewed::Successor { session, nonce } => {
                    let successor = token.successor(&self.key, &nonce);
                    if successor.hash() == session.token_hash {
                        return Ok(RenewAnswer::Renewed {
                            session: Box::new(self.used(*session, address)),
                            token: successor,
                        });
                    }
                    // It was made with another key file, and cannot be made again. Nobody has it if it was not seen.
                    if lost.is_none() {
                        lost = Some(nonce);
                        continue;
                    }
                    Refusal::TokenReplaced
                }
                Renewed::Unchanged(session) => {
                    return Ok(RenewAnswer::Renewed {
                        session: Box::new(self.used(*session, address)),
                        token: token.clone(),
                    });
                }
                Renewed::Reused(session) => match session.ending {
                    Some(ending) => Refusal::SessionEnded(ending),
                    None => Refusal::TokenReplaced,
                },
                Renewed::Replaced => Refusal::TokenReplaced,
                Renewed::AlreadyEnded(session) => match session.ending_as_of(now) {
                    Some(ending) => Refusal::SessionEnded(ending),
                    None => return Err(Error::store("a session was refused as ended that has no ending")),
                },
                Renewed::Unknown => Refusal::InvalidToken,
            };
            return Ok(RenewAnswer::Refused(refusal));
        }
    }

    /// A session that was just read, after a use that is noted now.
    pub(super) fn used(&self, session: Session, address: Option<IpAddr>) -> Session {
        let entry = Arc::new(CachedSession::new(self.with_pending(session)));
        let session = self.record_use(entry, self.clock.now(), address).to_session();
        self.held.cache.note_use(session.id, session.last_activity_at);
        session
    }

    /// A session that was read, with a touch that was pending before and those that are now.
    pub(super) fn with_touches(&self, mut session: Session, before: Option<Touch>) -> Session {
        if let Some(touch) = before
            && session.ending.is_none()
            && session.last_activity_at < touch.at
        {
            touch.apply(&mut session);
        }
        self.with_pending(session)
    }

    pub(super) fn with_pending(&self, mut session: Session) -> Session {
        if session.ending.is_none()
            && let Some(touch) = self.held.touches.get(session.id)
        {
            touch.apply(&mut session);
        }
        session
    }
}

/// Which token of a session of this app was presented, if any. An unknown id is compared too, so that it takes as long as a
/// known one.
fn recognise(app: &AppName, entry: Option<&CachedSession>, presented: &SecretHash) -> Option<WhichToken> {
    let which = entry.map_or_else(
        || compare_in_vain(presented),
        |entry| entry.which_token(presented),
    );
    which.filter(|_| entry.is_some_and(|entry| entry.row().app == *app))
}

/// As much work as comparing with a session's tokens; no secret is known that this finds.
fn compare_in_vain(presented: &SecretHash) -> Option<WhichToken> {
    let is_it = SecretHash::DUMMY.matches(presented) & SecretHash::DUMMY.matches(presented);
    is_it.then_some(WhichToken::Current)
}

/// The first demand that the session does not meet.
fn unmet(demands: &Demands, session: &Session, now: Timestamp) -> Option<Refusal> {
    if let Some(secs) = demands.max_auth_age_secs
        && !is_recent(session, secs, now)
    {
        return Some(Refusal::ReauthenticationRequired);
    }
    let has_tags = demands.tags.is_empty()
        || session
            .auth
            .as_ref()
            .is_some_and(|auth| auth.has_tags(&demands.tags));
    (!has_tags).then_some(Refusal::MissingTag)
}

/// Whether the session's user signed in within the last `secs` seconds.
pub fn is_recent(session: &Session, secs: u64, now: Timestamp) -> bool {
    session
        .authenticated_at
        .is_some_and(|at| now.millis_since(at) <= millis(secs))
}
