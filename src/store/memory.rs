//! The store in memory: the reference model that tests compare the real one with, and a store for programs that want
//! sessions gone when they exit.
//!
//! Written for being obviously right: plain maps under one mutex, every question answered by looking at everything.
//! The same contract and the same order of callbacks, each change a batch of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{
    Answer, AppList, AppPage, BulkEnding, Committed, Creation, EndRequest, Hooks, KeyRecord, NewSession,
    Outcome, Owner, Scope, SessionPatch, SessionStore, StatusFilter, UserList, UserPage, UserPatch,
    UserRecord, cut_page,
};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::event::{Event, EventKind};
use crate::session::{AppName, EndedBy, Ending, KeyId, Reason, Session, SessionId, Touch};
use crate::user::{UserId, UserSettings};

/// Sessions in memory.
#[derive(Default)]
pub struct MemoryStore {
    /// Everything, under one lock: changes are serial, as the contract wants.
    state: Mutex<State>,
    hooks: OnceLock<Arc<dyn Hooks>>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionId, Session>,
    users: BTreeMap<(AppName, UserId), UserSettings>,
    keys: BTreeMap<KeyId, KeyRecord>,
    events: Vec<(Timestamp, Event)>,
    high_water: Option<Timestamp>,
    last_id: u128,
    is_closed: bool,
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
            .map(|(_, event)| event.clone())
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
        let hooks = self.hooks.get();
        let mut committed = Committed {
            batch_size: 1,
            ..Committed::default()
        };
        for touch in hooks.map(|hooks| hooks.due_touches(now)).unwrap_or_default() {
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

    fn record(&mut self, event: Event, now: Timestamp) {
        self.events.push((now, event));
    }

    fn end(&mut self, mut session: Session, request: &EndRequest, committed: &mut Committed) -> Session {
        let asked = Ending {
            at: request.now,
            reason: request.reason.clone(),
            by: request.by,
        };
        session.ending = Some(session.ending_as_of(request.now).unwrap_or(asked));
        self.sessions.insert(session.id, session.clone());
        if let Some(event) = Event::of_ending(&session) {
            self.record(event, request.now);
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
            self.record(event, request.now);
        }
        revoked_count
    }

    fn create(&mut self, new: NewSession, committed: &mut Committed) -> Creation {
        let mut evicted = Vec::new();
        if let Some(user_id) = &new.user_id {
            let mut settings = self.settings(&new.app, user_id);
            if settings.is_blocked {
                return Creation::UserBlocked;
            }
            if settings.credentials_changed_at > new.authenticated_at {
                return Creation::CredentialsChanged;
            }
            settings.tier = new.tier.clone().or(settings.tier);
            let max = new.tiers.effective_max_sessions(&settings) as usize;
            if max == 0 {
                return Creation::LimitReached;
            }
            if new.tier.is_some() {
                self.users.insert((new.app.clone(), user_id.clone()), settings);
            }
            let request = EndRequest {
                now: new.now,
                reason: Reason::known(Reason::SESSION_LIMIT_EXCEEDED),
                by: EndedBy::Limit,
            };
            let unended = self.of_user(&new.app, user_id, |session| session.ending.is_none());
            if unended.len() >= max {
                let (active, overdue): (Vec<_>, Vec<_>) = unended
                    .into_iter()
                    .partition(|session| session.is_active(new.now));
                self.end_each(overdue, &request, committed);
                let surplus = (active.len() + 1).saturating_sub(max);
                for session in active.into_iter().take(surplus) {
                    evicted.push(self.end(session, &request, committed));
                }
            }
        }
        let session = Session {
            id: self.next_id(new.now),
            app: new.app,
            user_id: new.user_id,
            token_hash: new.token_hash,
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
        };
        self.sessions.insert(session.id, session.clone());
        self.record(
            Event::about(&session, EventKind::SessionCreated, new.now),
            new.now,
        );
        Creation::Created {
            session: Box::new(session),
            evicted,
        }
    }

    fn write_touch(&mut self, touch: Touch, now: Timestamp, committed: &mut Committed) {
        committed.touched.push(touch);
        let Some(session) = self
            .sessions
            .get_mut(&touch.id)
            .filter(|session| session.ending.is_none())
        else {
            return;
        };
        let mut news = Vec::new();
        touch.apply_telling(session, |session| {
            news.push(Event::about(session, EventKind::SessionActivity, touch.at));
        });
        news.into_iter().for_each(|event| self.record(event, now));
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
        assert!(self.hooks.set(hooks).is_ok(), "hooks are attached once");
    }

    fn high_water(&self) -> Answer<Option<Timestamp>> {
        self.read(|state| state.high_water)
    }

    fn create(&self, new: NewSession) -> Answer<Creation> {
        self.change(new.now, |state, committed| state.create(new, committed))
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
                state.record(event, now);
            }
            state.user_record(&app, &user_id, now)
        })
    }

    fn expire(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.change(now, |state, committed| {
            let is_overdue = |session: &&Session| session.ending.is_none() && !session.is_active(now);
            let mut overdue: Vec<Session> = state.sessions.values().filter(is_overdue).cloned().collect();
            overdue.sort_by_key(Session::expires_at);
            overdue.truncate(limit);
            let count = overdue.len();
            let request = EndRequest {
                now,
                reason: Reason::known(Reason::IDLE_TIMEOUT),
                by: EndedBy::Timeout,
            };
            state.end_each(overdue, &request, committed);
            count
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
            }
            let events = state
                .events
                .iter()
                .take(limit)
                .take_while(|(recorded, _)| *recorded < before)
                .count();
            state.events.drain(..events);
            old.len() + events
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
