//! The store in memory: the reference model that tests compare the real one with, and a store for programs that want
//! sessions gone when they exit.
//!
//! Written for being obviously right: plain maps under one mutex, every question answered by looking at everything.
//! The same contract and the same order of callbacks, each change a batch of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{
    Answer, AppList, AppPage, Authenticated, Authentication, BulkEnding, Committed, Creation,
    DEVICES_PER_USER_MAX, DataOutcome, DataPatch, EVENTS_PER_SESSION, EndRequest, Erased, EventBounds,
    EventList, EventPage, EventsFrom, Hooks, IDEMPOTENCY_MILLIS, Idempotency, KeyRecord, KnownDevice,
    LOOKS_PER_EXPIRY, NewSession, OVERDUE_PER_CREATION, Outcome, Owner, REFUSED_LIST_LEN_MAX,
    REPORT_INTERVAL_MILLIS, Refused, Renewal, Renewed, Scope, SessionPatch, SessionStore, StatusFilter,
    UserList, UserPage, UserPatch, UserRecord, VISITORS_MILLIS, cut_page,
};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::Error;
use crate::event::{Epoch, Event, EventKind, RecordedEvent};
use crate::session::{
    AppName, Deadline, EndedBy, Ending, Fingerprint, Grace, KeyId, Nonce, OnLimit, OnTokenReuse, Reason,
    Replaced, SecretHash, Session, SessionId, Touch, WhichToken,
};
use crate::user::{Tiers, UserId, UserSettings};

/// Sessions in memory.
#[derive(Default)]
pub struct MemoryStore {
    /// Everything, under one lock: changes are serial, as the contract wants.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hooks: Option<Arc<dyn Hooks>>,
    sessions: BTreeMap<SessionId, Session>,
    data: BTreeMap<SessionId, Data>,
    /// The networks that visitors started sessions from.
    visitors: BTreeMap<SessionId, String>,
    calls: BTreeMap<(KeyId, Fingerprint), Call>,
    users: BTreeMap<(AppName, UserId), UserSettings>,
    /// Browsers and operating systems, and when each was first seen.
    devices: BTreeMap<(AppName, UserId), BTreeMap<(String, String), Timestamp>>,
    /// What is to be told before deadlines.
    notices: BTreeMap<SessionId, Notice>,
    /// When to look next whether a session without an ending is over: no later than its deadline. Uses do not move it.
    sweeps: BTreeMap<SessionId, Timestamp>,
    keys: BTreeMap<KeyId, KeyRecord>,
    /// When each was written; without the event where that was erased, as its number stays.
    events: Vec<(Timestamp, Option<RecordedEvent>)>,
    /// The number of the newest event.
    last_event: u64,
    /// Another one in each process, as all numbers come again.
    epoch: OnceLock<Epoch>,
    high_water: Option<Timestamp>,
    last_id: u128,
    is_closed: bool,
}

/// A creation that can be repeated.
struct Call {
    body: Fingerprint,
    session_id: SessionId,
    token_hash: SecretHash,
    nonce: Nonce,
    at: Timestamp,
}

/// How long before its deadlines of a session is to be told, and of which it was.
struct Notice {
    millis: i64,
    is_idle_told: bool,
    is_absolute_told: bool,
}

impl Notice {
    fn new(millis: i64) -> Self {
        Self {
            millis,
            is_idle_told: false,
            is_absolute_told: false,
        }
    }

    /// The deadlines of a session that are near and were not told.
    fn due(&self, session: &Session, now: Timestamp) -> Vec<(Deadline, Timestamp)> {
        let (expires_at, absolute) = (session.expires_at(), session.absolute_expires_at);
        let is_near =
            |deadline: Timestamp| session.is_active(now) && deadline.plus_millis(-self.millis) <= now;
        let is_idle_due = !self.is_idle_told && expires_at < absolute && is_near(expires_at);
        let is_absolute_due = !self.is_absolute_told && is_near(absolute);
        let idle = is_idle_due.then_some((Deadline::Idle, expires_at));
        let absolute = is_absolute_due.then_some((Deadline::Absolute, absolute));
        idle.into_iter().chain(absolute).collect()
    }
}

/// A user who signs in, with a new session or with the one that is there.
struct SignIn<'s> {
    app: &'s AppName,
    user_id: &'s UserId,
    own: Option<SessionId>,
    authenticated_at: Option<Timestamp>,
    tier: Option<String>,
    tiers: &'s Tiers,
    on_limit: OnLimit,
    end_ids: &'s [SessionId],
    now: Timestamp,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every event so far, oldest first. For tests.
    pub fn events(&self) -> Vec<Event> {
        self.lock()
            .events
            .iter()
            .filter_map(|(_, recorded)| Some(recorded.as_ref()?.event.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T: Send + 'static>(
        &self,
        now: Timestamp,
        work: impl FnOnce(&mut State, &mut Committed) -> T,
    ) -> Answer<T> {
        let mut state = self.lock();
        if state.is_closed {
            return Box::pin(std::future::ready(Err(Error::store("the store is closed"))));
        }
        let hooks = state.hooks.clone();
        let mut committed = Committed {
            batch_size: 1,
            ..Committed::default()
        };
        for touch in hooks.iter().flat_map(|hooks| hooks.due_touches(now)) {
            state.write_touch(touch, now, &mut committed);
        }
        // Readers wait for the lock, so that the state they see is always a committed one.
        let answer = work(&mut state, &mut committed);
        state.high_water = state.high_water.max(Some(now));
        if let Some(hooks) = hooks {
            hooks.fence(&committed.changed);
            hooks.release(&committed.changed);
            hooks.announce(&committed);
        }
        Box::pin(std::future::ready(Ok(answer)))
    }

    /// A change that replaces a session's token, or looks at which were replaced.
    fn change_token<T: Send + 'static>(
        &self,
        id: SessionId,
        now: Timestamp,
        work: impl FnOnce(&mut State, &mut Committed) -> T,
    ) -> Answer<T> {
        self.change(now, |state, committed| {
            state.write_pending_touch(id, now, committed);
            work(state, committed)
        })
    }

    fn read<T: Send + 'static>(&self, work: impl FnOnce(&State) -> T) -> Answer<T> {
        Box::pin(std::future::ready(Ok(work(&self.lock()))))
    }
}

impl State {
    fn next_id(&mut self, now: Timestamp) -> SessionId {
        // The time, then a counter: enough to grow and to be a UUIDv7.
        let millis = u128::try_from(now.as_millis()).unwrap_or_default();
        self.last_id = (self.last_id + 1).max(millis << 80 | 7 << 76 | 0b10 << 62);
        SessionId::from_bytes(self.last_id.to_be_bytes())
    }

    fn settings(&self, app: &AppName, user_id: &UserId) -> UserSettings {
        self.users
            .get(&(app.clone(), user_id.clone()))
            .cloned()
            .unwrap_or_default()
    }

    /// A user's sessions that match, oldest sign-in first.
    fn of_user(&self, app: &AppName, user_id: &UserId, wanted: impl Fn(&Session) -> bool) -> Vec<Session> {
        let is_theirs = |session: &&Session| session.app == *app && session.user_id.as_ref() == Some(user_id);
        let mut found: Vec<Session> = self
            .sessions
            .values()
            .filter(is_theirs)
            .filter(|session| wanted(session))
            .cloned()
            .collect();
        found.sort_by_key(|session| (session.signed_in_at, session.id));
        found
    }

    fn user_record(&self, app: &AppName, user_id: &UserId, now: Timestamp) -> UserRecord {
        let active_count = self.of_user(app, user_id, |session| session.is_active(now)).len() as u64;
        UserRecord {
            settings: self.settings(app, user_id),
            active_count,
        }
    }

    fn owned(&self, app: &AppName, id: SessionId, owner: &Owner) -> Option<Session> {
        self.sessions
            .get(&id)
            .filter(|session| session.app == *app && owner.owns(session))
            .cloned()
    }

    fn record(&mut self, event: Event, now: Timestamp, committed: &mut Committed) {
        self.last_event += 1;
        let recorded = RecordedEvent {
            number: self.last_event,
            event,
        };
        committed.events.push(recorded.clone());
        self.events.push((now, Some(recorded)));
    }

    fn event_bounds(&self) -> EventBounds {
        EventBounds {
            epoch: *self.epoch.get_or_init(Epoch::random),
            first: self.last_event + 1 - self.events.len() as u64,
            last: self.last_event,
        }
    }

    fn event_page(&self, list: &EventList) -> EventPage {
        let is_asked_for = |event: &Event| {
            list.about.includes(event)
                && list.app.as_ref().is_none_or(|app| *app == event.app)
                && (list.kinds.is_empty() || list.kinds.contains(&event.kind))
        };
        let mut matching: Vec<RecordedEvent> = self
            .events
            .iter()
            .filter_map(|(_, recorded)| recorded.as_ref())
            .filter(|recorded| match list.from {
                EventsFrom::After(number) => recorded.number > number,
                EventsFrom::Before(number) => recorded.number < number,
            })
            .filter(|recorded| is_asked_for(&recorded.event))
            .cloned()
            .collect();
        let from = match list.from {
            EventsFrom::After(number) => number,
            EventsFrom::Before(number) => {
                matching.reverse();
                number
            }
        };
        let more = matching.len() > list.limit;
        matching.truncate(list.limit);
        EventPage {
            looked_to: matching.last().map_or(from, |recorded| recorded.number),
            events: matching,
            more,
            bounds: self.event_bounds(),
        }
    }

    fn end(&mut self, mut session: Session, request: &EndRequest, committed: &mut Committed) -> Session {
        let mut overdue = session.ending_as_of(request.now);
        self.write_pending_touch(session.id, request.now, committed);
        if let Some(used) = self.sessions.get(&session.id).cloned() {
            overdue = overdue.map(|by_row| used.ending_as_of(request.now).unwrap_or(by_row));
            session = used;
        }
        let asked = Ending {
            at: request.now,
            reason: request.reason.clone(),
            by: request.by,
        };
        session.ending = Some(overdue.unwrap_or(asked));
        self.data.remove(&session.id);
        self.notices.remove(&session.id);
        self.sweeps.remove(&session.id);
        self.sessions.insert(session.id, session.clone());
        if let Some(event) = Event::of_ending(&session) {
            self.record(event, request.now, committed);
        }
        committed.changed.push(session.id);
        committed.ended.push(session.clone());
        session
    }

    fn end_each(&mut self, sessions: Vec<Session>, request: &EndRequest, committed: &mut Committed) -> u64 {
        let active = sessions
            .iter()
            .filter(|session| session.is_active(request.now))
            .count() as u64;
        for session in sessions {
            self.end(session, request, committed);
        }
        active
    }

    fn note_credentials_changed(&mut self, app: &AppName, user_id: &UserId, request: &EndRequest) {
        if request.reason.as_str() == Reason::CREDENTIALS_CHANGED {
            let settings = self.users.entry((app.clone(), user_id.clone())).or_default();
            settings.credentials_changed_at = settings.credentials_changed_at.max(Some(request.now));
        }
    }

    fn end_all_of_user(
        &mut self,
        app: &AppName,
        user_id: &UserId,
        except: Option<SessionId>,
        request: &EndRequest,
        committed: &mut Committed,
    ) -> u64 {
        let (kept, sessions): (Vec<_>, Vec<_>) = self
            .of_user(app, user_id, |session| session.ending.is_none())
            .into_iter()
            .partition(|session| Some(session.id) == except);
        let revoked_count = self.end_each(sessions, request, committed);
        if revoked_count > 0 {
            let kept = kept.first().map(|session| session.id.to_string());
            let data = serde_json::json!({ "session_count": revoked_count, "except_session_id": kept });
            let event = Event {
                reason: Some(request.reason.clone()),
                ended_by: Some(request.by),
                data: Some(data.to_string()),
                ..Event::about_user(app, user_id, EventKind::UserSessionsRevoked, request.now)
            };
            self.record(event, request.now, committed);
        }
        revoked_count
    }

    /// Lets a user sign in, or says why not; answers what the limit ended.
    fn admit(&mut self, sign_in: SignIn<'_>, committed: &mut Committed) -> Result<Vec<Session>, Refused> {
        let SignIn {
            app, user_id, now, ..
        } = sign_in;
        let mut settings = self.settings(app, user_id);
        if settings.is_blocked {
            return Err(Refused::UserBlocked);
        }
        if settings.credentials_changed_at > sign_in.authenticated_at {
            return Err(Refused::CredentialsChanged);
        }
        let sets_tier = sign_in.tier.is_some();
        settings.tier = sign_in.tier.or(settings.tier);
        let max = sign_in.tiers.effective_max_sessions(&settings);
        let others = self.of_user(app, user_id, |session| {
            session.ending.is_none() && Some(session.id) != sign_in.own
        });
        let is_in_the_way = others.len() >= max as usize || !sign_in.end_ids.is_empty();
        let (mut active, overdue): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|session| session.is_active(now));
        let (chosen, rest): (Vec<_>, Vec<_>) = active
            .iter()
            .cloned()
            .partition(|session| sign_in.end_ids.contains(&session.id));
        let is_too_many = rest.len() + 1 > max as usize;
        if max == 0 || (is_too_many && sign_in.on_limit == OnLimit::Deny) {
            active.reverse();
            active.truncate(REFUSED_LIST_LEN_MAX);
            return Err(Refused::LimitReached { max, active });
        }
        if sets_tier {
            self.users.insert((app.clone(), user_id.clone()), settings);
        }
        if !is_in_the_way {
            return Ok(Vec::new());
        }
        let request = |reason, by| EndRequest {
            now,
            reason: Reason::known(reason),
            by,
        };
        self.end_each(
            overdue,
            &request(Reason::IDLE_TIMEOUT, EndedBy::Timeout),
            committed,
        );
        self.end_each(chosen, &request(Reason::MANUAL, EndedBy::User), committed);
        let surplus = (rest.len() + 1).saturating_sub(max as usize);
        let for_room = request(Reason::SESSION_LIMIT_EXCEEDED, EndedBy::Limit);
        let evicted = rest
            .into_iter()
            .take(surplus)
            .map(|session| self.end(session, &for_room, committed));
        Ok(evicted.collect())
    }

    fn count_unended(&self, app: &AppName, wanted: impl Fn(&Session) -> bool) -> u64 {
        let is_one = |session: &&Session| session.app == *app && session.ending.is_none() && wanted(session);
        self.sessions.values().filter(is_one).count() as u64
    }

    /// Whether the app may have one more of a kind, once what is overdue is written down as ended.
    fn makes_room(
        &mut self,
        new: &NewSession,
        is_one: impl Fn(&Session) -> bool,
        max: u32,
        committed: &mut Committed,
    ) -> bool {
        if self.count_unended(&new.app, &is_one) >= max.into() {
            self.expire(new.now, OVERDUE_PER_CREATION, committed);
        }
        self.count_unended(&new.app, &is_one) < max.into()
    }

    fn find_client(&self, app: &AppName, client_session_id: i64) -> Option<Session> {
        let is_it = |session: &&Session| {
            session.app == *app
                && session.client_session_id == Some(client_session_id)
                && session.ending.is_none()
        };
        self.sessions.values().find(is_it).cloned()
    }

    /// The answer to a call that was made before.
    fn repeated(&self, call: &Idempotency, now: Timestamp) -> Option<Creation> {
        let known = self.calls.get(&(call.api_key, call.key))?;
        if known.at <= now.plus_millis(-IDEMPOTENCY_MILLIS) {
            return None;
        }
        if known.body != call.body {
            return Some(Creation::IdempotencyKeyReused);
        }
        let session = self.sessions.get(&known.session_id);
        let session =
            session.filter(|session| session.is_active(now) && session.token_hash == known.token_hash);
        Some(session.map_or(Creation::IdempotencySessionChanged, |session| {
            Creation::Repeated {
                session: Box::new(session.clone()),
                nonce: known.nonce,
            }
        }))
    }

    /// When the next visitor of this network may start a session in this app, if not now.
    fn too_many_visitors(
        &self,
        app: &AppName,
        visitor: &super::Visitor,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let since = now.plus_millis(-VISITORS_MILLIS);
        let retry_at = |network: Option<&String>, per_hour: u32| {
            let mut starts: Vec<Timestamp> = self
                .visitors
                .iter()
                .filter(|(_, from)| network.is_none_or(|network| *from == network))
                .filter_map(|(id, _)| self.sessions.get(id))
                .filter(|session| session.app == *app && session.created_at > since)
                .map(|session| session.created_at)
                .collect();
            starts.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
            let must_age = starts.get(per_hour.saturating_sub(1) as usize)?;
            Some(must_age.plus_millis(VISITORS_MILLIS))
        };
        let of_network = retry_at(Some(&visitor.network), visitor.per_hour);
        of_network.max(retry_at(None, visitor.per_hour_total))
    }

    fn create(&mut self, new: NewSession, committed: &mut Committed) -> Creation {
        if let Some(answer) = new.idempotency.and_then(|call| self.repeated(&call, new.now)) {
            return answer;
        }
        let mut in_the_way = None;
        if let Some(client) = new.client {
            in_the_way = self.find_client(&new.app, client.id);
            match &in_the_way {
                Some(there) if there.is_active(new.now) => return Creation::Existed(Box::new(there.clone())),
                Some(_) => {}
                None => {
                    let is_client = |session: &Session| session.client_session_id.is_some();
                    if !self.makes_room(&new, is_client, client.total_max, committed) {
                        return Creation::AppFull;
                    }
                }
            }
        }
        if let Some(visitor) = &new.visitor {
            if let Some(retry_at) = self.too_many_visitors(&new.app, visitor, new.now) {
                return Creation::TooManyVisitors { retry_at };
            }
            let is_anonymous = |session: &Session| session.user_id.is_none();
            if !self.makes_room(&new, is_anonymous, visitor.total_max, committed) {
                return Creation::AppFull;
            }
        }
        let mut evicted = Vec::new();
        if let Some(user_id) = &new.user_id {
            let sign_in = SignIn {
                app: &new.app,
                user_id,
                own: None,
                authenticated_at: new.authenticated_at,
                tier: new.tier,
                tiers: &new.tiers,
                on_limit: new.on_limit,
                end_ids: &new.end_ids,
                now: new.now,
            };
            match self.admit(sign_in, committed) {
                Ok(made_room) => evicted = made_room,
                Err(refused) => return Creation::Refused(refused),
            }
        }
        if let Some(id) = in_the_way.map(|session| session.id)
            && let Some(overdue) = self
                .sessions
                .get(&id)
                .filter(|there| there.ending.is_none())
                .cloned()
        {
            let request = EndRequest {
                now: new.now,
                reason: Reason::known(Reason::IDLE_TIMEOUT),
                by: EndedBy::Timeout,
            };
            self.end(overdue, &request, committed);
        }
        let session = Session {
            id: self.next_id(new.now),
            app: new.app,
            user_id: new.user_id,
            client_session_id: new.client.map(|client| client.id),
            token_hash: new.token_hash,
            replaced: None,
            name: new.name,
            is_trusted: false,
            user_agent: new.user_agent,
            device: new.device,
            place: new.place,
            ip_address: new.ip_address,
            last_ip_address: None,
            created_at: new.now,
            signed_in_at: new.now,
            authenticated_at: new.authenticated_at,
            last_activity_at: new.now,
            idle_timeout_millis: new.timeouts.idle_millis,
            absolute_expires_at: new.now.plus_millis(new.timeouts.absolute_millis),
            ending: None,
            auth: new.auth,
            identities: None,
            data_version: u64::from(new.data.is_some()),
        };
        if let Some(data) = new.data {
            self.data.insert(session.id, data);
        }
        if let Some(millis) = new.expiring_notice_millis {
            self.notices.insert(session.id, Notice::new(millis));
        }
        if let Some(visitor) = new.visitor {
            self.visitors.insert(session.id, visitor.network);
        }
        if let Some(call) = new.idempotency {
            let known = Call {
                body: call.body,
                session_id: session.id,
                token_hash: session.token_hash,
                nonce: call.nonce,
                at: new.now,
            };
            self.calls.insert((call.api_key, call.key), known);
        }
        self.sweeps.insert(session.id, session.expires_at());
        self.sessions.insert(session.id, session.clone());
        self.record(
            Event::about(&session, EventKind::SessionCreated, new.now),
            new.now,
            committed,
        );
        self.note_device(&session, new.now, committed);
        Creation::Created {
            session: Box::new(session),
            evicted,
        }
    }

    fn authenticate(&mut self, authentication: &Authentication, committed: &mut Committed) -> Authenticated {
        let Authentication {
            now, app, user_id, ..
        } = authentication;
        let Some(mut session) = self.owned(app, authentication.id, &Owner::Anyone) else {
            return Authenticated::NotFound;
        };
        if !session.is_active(*now) {
            return Authenticated::AlreadyEnded(Box::new(session));
        }
        if session.user_id.as_ref().is_some_and(|theirs| theirs != user_id) {
            return Authenticated::OtherUser;
        }
        let sign_in = SignIn {
            app,
            user_id,
            own: Some(session.id),
            authenticated_at: Some(authentication.authenticated_at),
            tier: authentication.tier.clone(),
            tiers: &authentication.tiers,
            on_limit: authentication.on_limit,
            end_ids: &authentication.end_ids,
            now: *now,
        };
        let evicted = match self.admit(sign_in, committed) {
            Ok(evicted) => evicted,
            Err(refused) => return Authenticated::Refused(refused),
        };
        authentication.apply(&mut session);
        self.notices.remove(&session.id);
        if let Some(millis) = authentication.expiring_notice_millis {
            self.notices.insert(session.id, Notice::new(millis));
        }
        self.sweeps.insert(session.id, session.expires_at());
        self.sessions.insert(session.id, session.clone());
        self.record(
            Event::about(&session, EventKind::SessionAuthenticated, *now),
            *now,
            committed,
        );
        self.note_device(&session, *now, committed);
        committed.changed.push(session.id);
        Authenticated::Done {
            session: Box::new(session),
            evicted,
        }
    }

    fn note_device(&mut self, session: &Session, now: Timestamp, committed: &mut Committed) {
        let Some(user_id) = &session.user_id else { return };
        let of_user = (session.app.clone(), user_id.clone());
        let known = self.devices.entry(of_user).or_default();
        let (browser, os) = session.browser_and_os();
        let pair = (browser.to_owned(), os.to_owned());
        if known.contains_key(&pair) {
            return;
        }
        let is_first = known.is_empty();
        if known.len() >= DEVICES_PER_USER_MAX {
            let oldest = known.iter().min_by_key(|(pair, seen_at)| (**seen_at, *pair));
            if let Some(oldest) = oldest.map(|(pair, _)| pair.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(pair, now);
        if let Some(event) = Event::of_new_device(session, now).filter(|_| !is_first) {
            self.record(event, now, committed);
        }
    }

    fn renew(&mut self, renewal: &Renewal, committed: &mut Committed) -> Renewed {
        let now = renewal.now;
        let session = self.owned(&renewal.app, renewal.id, &Owner::Anyone);
        let Some((mut session, which)) = session.and_then(|session| {
            session
                .which_token(&renewal.presented)
                .map(|which| (session, which))
        }) else {
            return Renewed::Unknown;
        };
        let grace = session.replaced.map_or(Grace::None, |replaced| replaced.grace);
        let (is_over, is_good) = (!session.is_active(now), grace.is_good(now));
        match which {
            WhichToken::Replaced(_) if !is_good && (is_over || grace == Grace::None) => {
                return Renewed::Replaced;
            }
            WhichToken::Replaced(replaced) if !is_good => {
                match renewal.on_reuse {
                    OnTokenReuse::Notify => self.report(&session, replaced, now, committed),
                    OnTokenReuse::Revoke => {
                        self.record(Event::of_replaced_token(&session, now), now, committed);
                        let request = EndRequest {
                            now,
                            reason: Reason::known(Reason::TOKEN_REUSE),
                            by: EndedBy::Security,
                        };
                        self.end(session.clone(), &request, committed);
                    }
                }
                return Renewed::Reused(Box::new(self.sessions[&session.id].clone()));
            }
            _ if is_over => return Renewed::AlreadyEnded(Box::new(session)),
            WhichToken::Current if is_good => {
                if let Grace::Open { .. } = grace {
                    session.begin_grace(now.plus_millis(renewal.grace_millis));
                    self.sessions.insert(session.id, session.clone());
                    committed.changed.push(session.id);
                }
                return Renewed::Unchanged(Box::new(session));
            }
            WhichToken::Replaced(_) => match grace {
                Grace::Open { nonce } if renewal.lost == Some(nonce) => {}
                Grace::Open { nonce }
                | Grace::Until {
                    nonce: Some(nonce), ..
                } => {
                    return Renewed::Successor {
                        session: Box::new(session),
                        nonce,
                    };
                }
                Grace::None | Grace::Until { nonce: None, .. } => return Renewed::Replaced,
            },
            WhichToken::Current => {}
        }
        session.token_hash = renewal.successor;
        session.replaced = Some(Replaced {
            hash: renewal.presented,
            grace: Grace::Open { nonce: renewal.nonce },
            reported_at: None,
        });
        self.sessions.insert(session.id, session.clone());
        self.record(
            Event::about(&session, EventKind::SessionRenewed, now),
            now,
            committed,
        );
        committed.changed.push(session.id);
        Renewed::Successor {
            session: Box::new(session),
            nonce: renewal.nonce,
        }
    }

    fn report(&mut self, session: &Session, replaced: Replaced, now: Timestamp, committed: &mut Committed) {
        if !replaced.is_to_be_reported(now, REPORT_INTERVAL_MILLIS) {
            return;
        }
        let mut session = session.clone();
        session.replaced = Some(Replaced {
            reported_at: Some(now),
            ..replaced
        });
        self.record(Event::of_replaced_token(&session, now), now, committed);
        committed.changed.push(session.id);
        self.sessions.insert(session.id, session);
    }

    fn expire(&mut self, now: Timestamp, limit: usize, committed: &mut Committed) -> usize {
        let request = EndRequest {
            now,
            reason: Reason::known(Reason::IDLE_TIMEOUT),
            by: EndedBy::Timeout,
        };
        let (mut ended, mut may_be_more) = (0, true);
        for _ in 0..LOOKS_PER_EXPIRY {
            let wanted = limit - ended;
            let mut due: Vec<(Timestamp, SessionId)> =
                self.sweeps.iter().map(|(id, at)| (*at, *id)).collect();
            due.retain(|(at, _)| *at <= now);
            due.sort_unstable();
            due.truncate(wanted);
            may_be_more = due.len() == wanted;
            let looked_at = due.iter().map(|(_, id)| self.sessions[id].clone());
            let (mut overdue, used): (Vec<_>, Vec<_>) =
                looked_at.partition(|session| session.expires_at() <= now);
            let moved = used.iter().map(|session| (session.id, session.expires_at()));
            self.sweeps.extend(moved);
            overdue.sort_by_key(|session| (session.expires_at(), session.id));
            ended += overdue.len();
            self.end_each(overdue, &request, committed);
            if ended == limit || !may_be_more {
                break;
            }
        }
        let erased = self.erase_nonces(now, limit);
        if may_be_more { limit } else { ended.max(erased) }
    }

    /// Tells of one session what is due; answers whether anything was.
    fn tell_of(&mut self, id: SessionId, now: Timestamp, committed: &mut Committed) -> bool {
        let (Some(session), Some(notice)) = (self.sessions.get(&id).cloned(), self.notices.get_mut(&id))
        else {
            return false;
        };
        let due = notice.due(&session, now);
        for (deadline, _) in &due {
            match deadline {
                Deadline::Idle => notice.is_idle_told = true,
                Deadline::Absolute => notice.is_absolute_told = true,
            }
        }
        for (deadline, at) in &due {
            let event = Event::of_near_deadline(&session, *deadline, *at, now);
            self.record(event, now, committed);
        }
        !due.is_empty()
    }

    fn erase_nonces(&mut self, now: Timestamp, limit: usize) -> usize {
        let replaced = self
            .sessions
            .values_mut()
            .filter_map(|session| session.replaced.as_mut());
        let mut over: Vec<(Timestamp, &mut Option<Nonce>)> = replaced
            .filter_map(|replaced| match &mut replaced.grace {
                Grace::Until { ends_at, nonce } if nonce.is_some() && *ends_at <= now => {
                    Some((*ends_at, nonce))
                }
                _ => None,
            })
            .collect();
        over.sort_by_key(|(ends_at, _)| *ends_at);
        over.truncate(limit);
        let count = over.len();
        over.into_iter().for_each(|(_, nonce)| *nonce = None);
        count
    }

    fn erase_user(&mut self, app: &AppName, user_id: &UserId, limit: usize) -> Erased {
        let mut ids: Vec<SessionId> = self
            .of_user(app, user_id, |_| true)
            .iter()
            .map(|s| s.id)
            .collect();
        ids.truncate(limit);
        for id in &ids {
            self.sessions.remove(id);
            self.visitors.remove(id);
            self.calls.retain(|_, call| call.session_id != *id);
        }
        let of_user: Vec<&Event> = self
            .events
            .iter()
            .filter_map(|(_, recorded)| Some(&recorded.as_ref()?.event))
            .filter(|event| event.app == *app && event.user_id.as_ref() == Some(user_id))
            .collect();
        let theirs: Vec<SessionId> = of_user.iter().filter_map(|event| event.session_id).collect();
        let is_theirs = |event: &Event| {
            let from_before =
                event.user_id.is_none() && event.session_id.is_some_and(|id| theirs.contains(&id));
            event.app == *app && (from_before || event.user_id.as_ref() == Some(user_id))
        };
        // Those of before first: the others lead to them.
        let (mut numbers, mut later): (Vec<usize>, Vec<usize>) = (0..self.events.len())
            .filter(|at| {
                self.events[*at]
                    .1
                    .as_ref()
                    .is_some_and(|recorded| is_theirs(&recorded.event))
            })
            .partition(|at| {
                self.events[*at]
                    .1
                    .as_ref()
                    .is_some_and(|r| r.event.user_id.is_none())
            });
        numbers.append(&mut later);
        numbers.truncate(limit - ids.len());
        for at in &numbers {
            self.events[*at].1 = None;
        }
        let more = ids.len() + numbers.len() >= limit;
        if !more {
            self.devices.remove(&(app.clone(), user_id.clone()));
            self.users.remove(&(app.clone(), user_id.clone()));
        }
        Erased {
            sessions: ids.len() as u64,
            events: numbers.len() as u64,
            more,
        }
    }

    fn change_data(
        &mut self,
        app: &AppName,
        id: SessionId,
        patch: &DataPatch,
        now: Timestamp,
        committed: &mut Committed,
    ) -> DataOutcome {
        let Some(mut session) = self.owned(app, id, &Owner::Anyone) else {
            return DataOutcome::NotFound;
        };
        if !session.is_active(now) {
            return DataOutcome::AlreadyEnded(Box::new(session));
        }
        let version = session.data_version;
        if patch
            .if_versions
            .as_ref()
            .is_some_and(|good| !good.contains(&version))
        {
            return DataOutcome::VersionMismatch { version };
        }
        let mut data = self.data.get(&id).cloned().unwrap_or_default();
        let changed = match data.apply(patch.at.as_ref(), &patch.change) {
            Ok(changed) => changed,
            Err(error) => return DataOutcome::Refused(error),
        };
        if changed.is_changed {
            session.data_version += 1;
            self.data.insert(id, data);
            committed.changed.push(id);
        }
        let outcome = DataOutcome::Done {
            value: changed.value,
            version: session.data_version,
        };
        self.sessions.insert(id, session);
        outcome
    }

    fn write_pending_touch(&mut self, id: SessionId, now: Timestamp, committed: &mut Committed) {
        if let Some(touch) = self.hooks.as_ref().and_then(|hooks| hooks.pending_touch(id)) {
            self.write_touch(touch, now, committed);
        }
    }

    fn write_touch(&mut self, touch: Touch, now: Timestamp, committed: &mut Committed) {
        // One that is due is also still pending: its addresses would be news twice.
        if committed.touched.contains(&touch) {
            return;
        }
        let mut news = touch.clone();
        if let Some(written) = committed.touched.iter().rfind(|written| written.id == touch.id) {
            news.take_out(written);
        }
        committed.touched.push(touch);
        let touch = news;
        let Some(session) = self
            .sessions
            .get_mut(&touch.id)
            .filter(|session| session.ending.is_none())
        else {
            return;
        };
        let mut news = Vec::new();
        touch.apply_telling(session, |session, place| {
            news.push(Event::of_activity(session, place, touch.at));
        });
        news.into_iter()
            .for_each(|event| self.record(event, now, committed));
    }
}

fn matches(status: StatusFilter, session: &Session, now: Timestamp) -> bool {
    match status {
        StatusFilter::Active => session.is_active(now),
        StatusFilter::Ended => !session.is_active(now),
        StatusFilter::All => true,
    }
}

impl SessionStore for MemoryStore {
    fn attach(&self, hooks: Arc<dyn Hooks>) {
        let before = self.lock().hooks.replace(hooks);
        assert!(before.is_none(), "hooks are attached once");
    }

    fn high_water(&self) -> Answer<Option<Timestamp>> {
        self.read(|state| state.high_water)
    }

    fn create(&self, new: NewSession) -> Answer<Creation> {
        self.change(new.now, |state, committed| state.create(new, committed))
    }

    fn authenticate(&self, authentication: Authentication) -> Answer<Authenticated> {
        let (id, now) = (authentication.id, authentication.now);
        self.change_token(id, now, |state, committed| {
            state.authenticate(&authentication, committed)
        })
    }

    fn renew(&self, renewal: Renewal) -> Answer<Renewed> {
        self.change_token(renewal.id, renewal.now, |state, committed| {
            state.renew(&renewal, committed)
        })
    }

    fn report_replaced(&self, id: SessionId, presented: SecretHash, now: Timestamp) -> Answer<()> {
        self.change_token(id, now, |state, committed| {
            let session = state.sessions.get(&id).filter(|session| session.is_active(now));
            if let Some(session) = session.cloned()
                && let Some(WhichToken::Replaced(replaced)) = session.which_token(&presented)
            {
                state.report(&session, replaced, now, committed);
            }
        })
    }

    fn change_data(
        &self,
        app: AppName,
        id: SessionId,
        patch: DataPatch,
        now: Timestamp,
    ) -> Answer<DataOutcome> {
        self.change(now, |state, committed| {
            state.change_data(&app, id, &patch, now, committed)
        })
    }

    fn end(&self, app: AppName, id: SessionId, owner: Owner, request: EndRequest) -> Answer<Outcome> {
        self.change(request.now, |state, committed| {
            let Some(session) = state.owned(&app, id, &owner) else {
                return Outcome::NotFound;
            };
            if session.ending.is_some() {
                return Outcome::AlreadyEnded(session);
            }
            let was_active = session.is_active(request.now);
            let session = state.end(session, &request, committed);
            if was_active {
                Outcome::Done(session)
            } else {
                Outcome::AlreadyEnded(session)
            }
        })
    }

    fn end_many(&self, app: AppName, scope: Scope, request: EndRequest) -> Answer<BulkEnding> {
        self.change(request.now, |state, committed| match scope {
            Scope::User { user_id, except } => {
                state.note_credentials_changed(&app, &user_id, &request);
                let revoked_count = state.end_all_of_user(&app, &user_id, except, &request, committed);
                BulkEnding {
                    revoked_count,
                    more: false,
                }
            }
            Scope::App { limit } => {
                let is_left = |session: &&Session| session.app == app && session.ending.is_none();
                let mut sessions: Vec<Session> = state.sessions.values().filter(is_left).cloned().collect();
                sessions.sort_by_key(|session| (session.user_id.clone(), session.signed_in_at, session.id));
                let more = sessions.len() > limit;
                sessions.truncate(limit);
                for user_id in sessions.iter().filter_map(|session| session.user_id.as_ref()) {
                    state.note_credentials_changed(&app, user_id, &request);
                }
                BulkEnding {
                    revoked_count: state.end_each(sessions, &request, committed),
                    more,
                }
            }
        })
    }

    fn update(
        &self,
        app: AppName,
        id: SessionId,
        owner: Owner,
        patch: SessionPatch,
        now: Timestamp,
    ) -> Answer<Outcome> {
        self.change(now, |state, committed| {
            let Some(mut session) = state.owned(&app, id, &owner) else {
                return Outcome::NotFound;
            };
            if !session.is_active(now) {
                return Outcome::AlreadyEnded(session);
            }
            session.name = patch.name.unwrap_or(session.name);
            session.is_trusted = patch.is_trusted.unwrap_or(session.is_trusted);
            session.auth = patch.auth.unwrap_or(session.auth);
            if let Some(identity) = patch.identity {
                let Ok(identities) = identity.apply(session.identities.as_ref()) else {
                    return Outcome::TooLong;
                };
                session.identities = identities;
            }
            state.sessions.insert(id, session.clone());
            committed.changed.push(id);
            Outcome::Done(session)
        })
    }

    fn write_touches(&self, touches: Vec<Touch>, now: Timestamp) -> Answer<()> {
        self.change(now, |state, committed| {
            for touch in touches {
                state.write_touch(touch, now, committed);
            }
        })
    }

    fn update_user(
        &self,
        app: AppName,
        user_id: UserId,
        patch: UserPatch,
        by: EndedBy,
        now: Timestamp,
    ) -> Answer<UserRecord> {
        self.change(now, |state, committed| {
            let mut settings = state.settings(&app, &user_id);
            let was_blocked = settings.is_blocked;
            settings.tier = patch.tier.unwrap_or(settings.tier);
            settings.max_sessions = patch.max_sessions.unwrap_or(settings.max_sessions);
            settings.is_blocked = patch.is_blocked.unwrap_or(settings.is_blocked);
            let is_blocked_now = settings.is_blocked && !was_blocked;
            state.users.insert((app.clone(), user_id.clone()), settings);
            if is_blocked_now {
                let request = EndRequest {
                    now,
                    reason: Reason::known(Reason::USER_BLOCKED),
                    by,
                };
                state.end_all_of_user(&app, &user_id, None, &request, committed);
                let event = Event {
                    ended_by: Some(by),
                    ..Event::about_user(&app, &user_id, EventKind::UserBlocked, now)
                };
                state.record(event, now, committed);
            }
            state.user_record(&app, &user_id, now)
        })
    }

    fn erase_user(&self, app: AppName, user_id: UserId, request: EndRequest, limit: usize) -> Answer<Erased> {
        self.change(request.now, |state, committed| {
            state.end_all_of_user(&app, &user_id, None, &request, committed);
            state.erase_user(&app, &user_id, limit)
        })
    }

    fn expire(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.change(now, |state, committed| state.expire(now, limit, committed))
    }

    fn tell_expiring(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.change(now, |state, committed| {
            let ids: Vec<SessionId> = state.notices.keys().copied().collect();
            let mut told = 0;
            for id in ids {
                if told == limit {
                    break;
                }
                state.write_pending_touch(id, now, committed);
                told += usize::from(state.tell_of(id, now, committed));
            }
            told
        })
    }

    fn purge(&self, before: Timestamp, limit: usize, now: Timestamp) -> Answer<usize> {
        self.change(now, |state, _| {
            let is_old =
                |session: &&Session| session.ending.as_ref().is_some_and(|ending| ending.at < before);
            let mut old: Vec<Session> = state.sessions.values().filter(is_old).cloned().collect();
            old.sort_by_key(|session| session.ending.as_ref().map(|ending| ending.at));
            old.truncate(limit);
            for session in &old {
                state.sessions.remove(&session.id);
                state.visitors.remove(&session.id);
            }
            let events_max = if old.len() < limit {
                limit.saturating_mul(EVENTS_PER_SESSION)
            } else {
                0
            };
            let events = state
                .events
                .iter()
                .take(events_max)
                .take_while(|(recorded, _)| *recorded < before)
                .count();
            state.events.drain(..events);
            let too_old = now.plus_millis(-IDEMPOTENCY_MILLIS);
            let mut calls: Vec<_> = state
                .calls
                .iter()
                .filter(|(_, call)| call.at <= too_old)
                .collect();
            calls.sort_by_key(|(_, call)| call.at);
            let calls: Vec<_> = calls.into_iter().take(limit).map(|(key, _)| *key).collect();
            for key in &calls {
                state.calls.remove(key);
            }
            old.len() + events + calls.len()
        })
    }

    fn create_key(&self, key: KeyRecord) -> Answer<()> {
        self.change(key.created_at, |state, _| {
            state.keys.insert(key.id, key);
        })
    }

    fn revoke_key(&self, id: KeyId, now: Timestamp) -> Answer<bool> {
        self.change(now, |state, _| {
            let Some(key) = state.keys.get_mut(&id) else {
                return false;
            };
            key.revoked_at.get_or_insert(now);
            true
        })
    }

    fn find(&self, id: SessionId) -> Answer<Option<Session>> {
        self.read(|state| state.sessions.get(&id).cloned())
    }

    fn find_client(&self, app: AppName, client_session_id: i64) -> Answer<Option<Session>> {
        self.read(|state| state.find_client(&app, client_session_id))
    }

    fn find_data(&self, id: SessionId) -> Answer<Option<(Session, Data)>> {
        self.read(|state| {
            let session = state.sessions.get(&id)?;
            Some((session.clone(), state.data.get(&id).cloned().unwrap_or_default()))
        })
    }

    fn list_user(&self, list: UserList) -> Answer<UserPage> {
        self.read(|state| {
            let mut all = state.of_user(&list.app, &list.user_id, |session| {
                matches(list.status, session, list.now)
            });
            let total_count = all.len() as u64;
            let active_count = state.user_record(&list.app, &list.user_id, list.now).active_count;
            all.reverse();
            if let Some(after) = list.after {
                all.retain(|session| (session.signed_in_at, session.id) < (after.signed_in_at, after.id));
            }
            let (sessions, next) = cut_page(all, list.limit);
            UserPage {
                sessions,
                next,
                total_count,
                active_count,
            }
        })
    }

    fn list_app(&self, list: AppList) -> Answer<AppPage> {
        self.read(|state| {
            let is_wanted = |session: &&Session| {
                session.app == list.app
                    && session.user_id.is_none() == list.anonymous
                    && matches(list.status, session, list.now)
                    && list.after.is_none_or(|after| session.id < after.id)
            };
            let all = state.sessions.values().rev().filter(is_wanted).cloned().collect();
            let (sessions, next) = cut_page(all, list.limit);
            AppPage { sessions, next }
        })
    }

    fn find_user(&self, app: AppName, user_id: UserId, now: Timestamp) -> Answer<UserRecord> {
        self.read(|state| state.user_record(&app, &user_id, now))
    }

    fn list_devices(&self, app: AppName, user_id: UserId) -> Answer<Vec<KnownDevice>> {
        self.read(|state| {
            let known = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
            let devices = state.devices.get(&(app, user_id)).into_iter().flatten();
            let mut devices: Vec<_> = devices.map(|(pair, at)| (*at, pair)).collect();
            devices.sort();
            let known = |(at, (browser, os)): (Timestamp, &(String, String))| KnownDevice {
                browser: known(browser),
                os: known(os),
                first_seen_at: at,
            };
            devices.into_iter().map(known).collect()
        })
    }

    fn list_events(&self, list: EventList) -> Answer<EventPage> {
        self.read(|state| state.event_page(&list))
    }

    fn event_bounds(&self) -> Answer<EventBounds> {
        self.read(State::event_bounds)
    }

    fn record(&self, event: Event) -> Answer<()> {
        let now = event.occurred_at;
        self.change(now, |state, committed| state.record(event, now, committed))
    }

    fn find_key(&self, id: KeyId) -> Answer<Option<KeyRecord>> {
        self.read(|state| state.keys.get(&id).cloned())
    }

    fn list_keys(&self) -> Answer<Vec<KeyRecord>> {
        self.read(|state| {
            let mut keys: Vec<KeyRecord> = state.keys.values().cloned().collect();
            keys.sort_by_key(|key| (key.created_at, key.id));
            keys
        })
    }

    fn ping(&self) -> Answer<()> {
        self.read(|_| ())
    }

    fn queue_len(&self) -> usize {
        0
    }

    fn close(&self) {
        self.lock().is_closed = true;
    }
}
