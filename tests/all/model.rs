//! Random operations against two managers: one over SQLite with a tiny cache and restarts, one over the reference model
//! in memory. Every answer and every event must be the same. In each of them what ended must be told of once, as it ended,
//! in the order that is promised, whichever of the ways in which sessions end it took; and each way is taken.

mod operations;
mod ways;
mod whole;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use sessiond::clock::{Clock, Timestamp};
use sessiond::config::Config;
use sessiond::data::{Data, DataChange, DataPath};
use sessiond::error::Error;
use sessiond::event::{Event, EventKind, WhyRefused};
use sessiond::manager::{
    CheckAnswer, Demands, Refusal, RenewAnswer, RepeatableCall, Revocation, SessionManager, SignIn, SignedIn,
    Use,
};
use sessiond::metrics::Metrics;
use sessiond::session::{
    ApiKey, AppName, Auth, EndedBy, Grace, IdentityPatch, KeyId, OnLimit, OnTokenReuse, Reason, Secret,
    SecretHash, Session, SessionId, Token,
};
use sessiond::store::memory::MemoryStore;
use sessiond::store::{DataPatch, Owner, SessionPatch, SessionStore, StatusFilter, UserPatch};
use sessiond::sweeper;
use sessiond::user::{Tiers, UserId};
use tempfile::TempDir;

use self::operations::{Op, Pick, Said, Starter, Which, operations};
use self::ways::{WAYS, Ways, count_ways};
use self::whole::{is_whole, no_data_is_left_behind};
use crate::harness::{FIREFOX_ON_LINUX, START, config_in};
use crate::stores::{
    EventRow, address, app, app_named, data, database_in, event_rows, sqlite_in, start_manager, user,
};

/// Sequences that are tried.
const CASES: u32 = 128;
const TIERS: [&str; 4] = ["pair", "five", "none", "unknown"];
const REASONS: [&str; 3] = [Reason::LOGOUT, Reason::MANUAL, "made up"];
const ENDERS: [EndedBy; 3] = [EndedBy::User, EndedBy::App, EndedBy::Operator];
const CLIENT_IDS: [i64; 4] = [i64::MIN, -1, 7, i64::MAX];
const PATHS: [&str; 4] = ["a", "a.b", "a.b.c", "d"];
const AGENTS: [&str; 3] = [FIREFOX_ON_LINUX, "curl/8.5.0", "Wget/1.21.4"];
const IDENTITIES: [&str; 3] = ["work", "home", ""];
const STATUSES: [StatusFilter; 3] = [StatusFilter::Active, StatusFilter::Ended, StatusFilter::All];

/// What differs between runs beside the operations.
#[derive(Debug, Clone, Copy)]
struct Setting {
    cache_capacity: usize,
    touch_interval_secs: u64,
    /// Flushes after each operation.
    flushes_always: bool,
}

fn setting() -> impl Strategy<Value = Setting> {
    (2..5_usize, prop_oneof![Just(0_u64), Just(60)], any::<bool>()).prop_map(
        |(cache_capacity, touch_interval_secs, flushes_always)| Setting {
            cache_capacity,
            touch_interval_secs,
            flushes_always,
        },
    )
}

fn config(dir: &TempDir, setting: Setting) -> Config {
    let mut config = config_in(dir.path());
    config.sessions.touch_interval_secs = setting.touch_interval_secs;
    config.sessions.retention_secs = 300;
    config.cache.capacity = setting.cache_capacity;
    let limits = [("pair", 2), ("five", 5), ("none", 0)].map(|(name, max)| (name.to_owned(), max));
    config.tiers = Tiers::new("pair".to_owned(), limits.into()).expect("the default is among them");
    let mut policy = config.apps[&app()].clone();
    policy.idle_timeout_secs = 100;
    policy.absolute_timeout_secs = 500;
    policy.remember_idle_timeout_secs = 300;
    policy.remember_absolute_timeout_secs = 1_500;
    policy.expiring_notice_secs = Some(40);
    policy.renew_grace_secs = 20;
    policy.anonymous_idle_timeout_secs = 60;
    policy.anonymous_per_hour = 2;
    policy.anonymous_max = 4;
    policy.client_sessions_max = 2;
    config.apps.insert(app(), policy.clone());
    policy.idle_timeout_secs = 30;
    policy.expiring_notice_secs = Some(1_000);
    policy.on_limit = OnLimit::Deny;
    policy.on_token_reuse = OnTokenReuse::Notify;
    policy.renew_grace_secs = 5;
    config.apps.insert(app_named("shop"), policy);
    config
}

/// A manager, and what it made.
struct Side {
    manager: SessionManager,
    store: Arc<dyn SessionStore>,
    made: Vec<Made>,
    callers: [ApiKey; 2],
    setting: Setting,
}

#[derive(Clone)]
struct Made {
    id: SessionId,
    app: AppName,
    /// All that it has had, oldest first; of a session by a client's id none is told.
    tokens: Vec<Token>,
}

impl Made {
    fn token(&self, which: Which) -> Token {
        let known = match which {
            Which::Back(count) => {
                let last = self.tokens.len().saturating_sub(1);
                self.tokens.get(last.saturating_sub(count)).cloned()
            }
            Which::Wrong => None,
        };
        known.unwrap_or_else(|| Token::new(self.id, Secret::random()))
    }

    fn number_of_token(&self, hash: &SecretHash) -> Option<usize> {
        self.tokens.iter().position(|token| token.hash().matches(hash))
    }

    /// The app it is in, or the other one.
    fn an_app(&self, own: bool) -> AppName {
        match (own, self.app == app()) {
            (true, _) => self.app.clone(),
            (false, true) => app_named("shop"),
            (false, false) => app(),
        }
    }
}

fn an_app(pick: Pick) -> AppName {
    match pick {
        0 => app(),
        _ => app_named("shop"),
    }
}

/// A user; the first is nobody.
fn a_user(pick: Pick) -> Option<UserId> {
    (pick > 0).then(|| user(["", "ada", "bob", "cyd"][usize::from(pick)]))
}

fn somebody(pick: Pick) -> UserId {
    a_user(pick.max(1)).expect("not nobody")
}

fn an_owner(pick: Option<Pick>) -> Owner {
    pick.map_or(Owner::Anyone, |pick| Owner::User(somebody(pick)))
}

fn an_address(pick: Option<Pick>) -> Option<IpAddr> {
    pick.map(|pick| address(["192.0.2.1", "2001:db8::1", "203.0.113.9"][usize::from(pick)]))
}

fn an_auth(pick: Pick) -> Auth {
    Auth::from_stored([r#"{"tags":["staff"]}"#, "{}", r#"{"b":1,"a":[2]}"#][usize::from(pick)])
}

fn some_data(pick: Pick) -> Data {
    data(["{}", r#"{"d":1,"a":{"z":2,"b":[3]}}"#][usize::from(pick)])
}

fn a_path(pick: Option<Pick>) -> Option<DataPath> {
    DataPath::parse(PATHS[usize::from(pick?)])
}

fn a_change(pick: Pick) -> DataChange {
    let object = serde_json::json!({"b": {"c": 1}, "x": "y"});
    match pick {
        0 => DataChange::Put(object),
        1 => DataChange::Put(1.into()),
        2 => DataChange::Merge(object),
        3 => DataChange::Merge(serde_json::json!({"b": null, "a": {"b": null}, "n": 2})),
        4 => DataChange::Merge(serde_json::Value::Null),
        5 => DataChange::Remove,
        6 => DataChange::Take,
        _ => DataChange::Put("x".repeat(sessiond::data::DATA_LEN_MAX).into()),
    }
}

/// One of three, of which the last is long enough that two are too long.
fn an_identity(pick: Pick) -> serde_json::Map<String, serde_json::Value> {
    let long = "x".repeat(5_000);
    let values = [
        serde_json::json!({}),
        serde_json::json!({"b": 1, "a": 2}),
        serde_json::json!({ "note": long }),
    ];
    values[usize::from(pick)].as_object().expect("an object").clone()
}

fn revocation(why: Pick, by: Pick) -> Revocation {
    Revocation::new(REASONS[usize::from(why)], ENDERS[usize::from(by)])
}

impl Side {
    async fn new(
        store: Arc<dyn SessionStore>,
        dir: &TempDir,
        setting: Setting,
        clock: &Arc<Clock>,
        callers: [ApiKey; 2],
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let config = config(dir, setting);
        let manager = start_manager(Arc::clone(&store), &config, clock, metrics).await;
        Self {
            manager,
            store,
            made: Vec::new(),
            callers,
            setting,
        }
    }

    /// One of the sessions made so far, or an unknown one.
    fn pick(&self, pick: Pick) -> Made {
        let unknown = || Made {
            id: SessionId::from_bytes([9; 16]),
            app: app(),
            tokens: Vec::new(),
        };
        if self.made.is_empty() || pick == Pick::MAX {
            return unknown();
        }
        // The latest ones more often than those that ended long ago.
        let back = usize::from(pick) % self.made.len().min(6);
        self.made[self.made.len() - 1 - back].clone()
    }

    /// The how manieth session it is: ids differ between the two.
    fn number(&self, id: SessionId) -> Option<usize> {
        self.made.iter().position(|made| made.id == id)
    }

    /// A token by its number among those of its session; one that was not known is remembered.
    fn note_token(&mut self, token: &Token, app: &AppName) -> String {
        let number = self.number(token.id()).unwrap_or_else(|| {
            self.made.push(Made {
                id: token.id(),
                app: app.clone(),
                tokens: Vec::new(),
            });
            self.made.len() - 1
        });
        let made = &mut self.made[number];
        let known = made.number_of_token(&token.hash());
        let nth = known.unwrap_or_else(|| {
            made.tokens.push(token.clone());
            made.tokens.len() - 1
        });
        format!("token {nth} of {number}")
    }

    fn describe(&self, session: &Session) -> String {
        let now = self.manager.clock().now();
        let ending = session.ending_as_of(now);
        let last_use = (
            session.last_activity_at,
            session.ip_address,
            session.last_ip_address,
        );
        let made = self.made.iter().find(|made| made.id == session.id);
        let nth = |hash: &SecretHash| made.map(|made| made.number_of_token(hash));
        let token = nth(&session.token_hash);
        let before = session.replaced.map(|replaced| {
            let grace = match replaced.grace {
                Grace::None => "dead".to_owned(),
                Grace::Open { .. } => "good".to_owned(),
                Grace::Until { ends_at, .. } => format!("good until {ends_at:?}"),
            };
            (nth(&replaced.hash), grace, replaced.reported_at)
        });
        format!(
            "{:?} {:?} of {:?} in {} named {:?} trusted {} on {:?}, made {:?} signed in {:?} verified {:?}, \
             over at {:?} or {:?}, {:?} {ending:?}, used {last_use:?}, auth {:?} and {:?}, data {}, client's {:?}, \
             token {token:?} after {before:?}",
            self.number(session.id),
            session.status(now),
            session.user_id,
            session.app,
            session.name,
            session.is_trusted,
            session.device.as_ref().and_then(sessiond::session::Device::info),
            session.created_at,
            session.signed_in_at,
            session.authenticated_at,
            session.expires_at(),
            session.absolute_expires_at,
            session.idle_timeout_millis,
            session.auth,
            session
                .identities
                .as_ref()
                .map(sessiond::session::Identities::as_str),
            session.data_version,
            session.client_session_id,
        )
    }

    fn describe_all(&self, sessions: &[Session]) -> Vec<String> {
        sessions.iter().map(|session| self.describe(session)).collect()
    }

    /// An error, with numbers for the ids of the sessions it lists.
    fn described_error(&self, error: Error) -> String {
        match error {
            Error::SessionLimitReached { max, active } => {
                format!("limit {max} of {:?}", self.describe_all(&active))
            }
            error => format!("{error:?}"),
        }
    }

    fn described(&self, result: Result<Session, Error>) -> String {
        match result {
            Ok(session) => self.describe(&session),
            Err(error) => format!("{error:?}"),
        }
    }

    /// Does it; answers everything that was answered.
    async fn apply(&mut self, op: &Op) -> String {
        let manager = &self.manager;
        match op {
            Op::Create { .. } => self.create(op).await,
            Op::Authenticate { .. } => self.authenticate(op).await,
            Op::Renew { .. } => self.renew(op).await,
            Op::Check { .. } => self.check(op).await,
            Op::EnsureClient {
                app,
                id,
                user,
                address,
            } => {
                let sign_in = SignIn {
                    user_id: a_user(*user),
                    ip_address: an_address(*address),
                    ..SignIn::default()
                };
                let usage = Use::Touch(sign_in.ip_address);
                let (app, id) = (an_app(*app), CLIENT_IDS[usize::from(*id)]);
                match manager.ensure_client_session(&app, id, sign_in, usage).await {
                    Ok((session, is_new)) => {
                        if is_new {
                            self.made.push(Made {
                                id: session.id,
                                app,
                                tokens: Vec::new(),
                            });
                        }
                        format!("{is_new} {}", self.describe(&session))
                    }
                    Err(error) => self.described_error(error),
                }
            }
            Op::FindClient { app, id } => {
                let id = CLIENT_IDS[usize::from(*id)];
                self.described(manager.find_client_session(&an_app(*app), id).await)
            }
            Op::RevokeClient { app, id, by } => {
                let (app, id) = (an_app(*app), CLIENT_IDS[usize::from(*id)]);
                let revoked = manager.revoke_client_session(&app, id, revocation(0, *by));
                format!("{:?}", revoked.await)
            }
            Op::ChangeData {
                session,
                path,
                change,
                if_versions,
            } => {
                let made = self.pick(*session);
                let patch = DataPatch {
                    at: a_path(*path),
                    change: a_change(*change),
                    if_versions: if_versions.clone(),
                };
                described_data(manager.change_data(&made.app, made.id, patch).await)
            }
            Op::FindData { session, path } => {
                let made = self.pick(*session);
                let at = a_path(*path);
                described_data(manager.find_data(&made.app, made.id, at.as_ref()).await)
            }
            Op::Touch { session, address } => {
                let made = self.pick(*session);
                self.described(manager.touch(&made.app, made.id, an_address(*address)).await)
            }
            Op::Find { session, owner } => {
                let made = self.pick(*session);
                self.described(manager.find(&made.app, made.id, &an_owner(*owner)).await)
            }
            Op::Revoke {
                session,
                owner,
                why,
                by,
            } => {
                let made = self.pick(*session);
                let revocation = revocation(*why, *by);
                let revoked = manager.revoke(&made.app, made.id, an_owner(*owner), revocation);
                format!("{:?}", revoked.await)
            }
            Op::Refused { session } => {
                let made = self.pick(*session);
                let Ok(session) = manager.find(&made.app, made.id, &Owner::Anyone).await else {
                    return String::new();
                };
                let now = manager.clock().now();
                let about = Event::about(&session, EventKind::SessionRevocationFailed, now);
                let event = Event::of_refused_revocations(about, WhyRefused::NotTheirs, 2, now);
                format!("{:?}", self.store.record(event).await)
            }
            Op::RevokeUser {
                user,
                app,
                except,
                credentials_changed,
            } => {
                let except = except.map(|session| self.pick(session).id);
                let reason = if *credentials_changed {
                    Reason::CREDENTIALS_CHANGED
                } else {
                    Reason::LOGOUT_ALL
                };
                let revocation = Revocation::new(reason, EndedBy::User);
                let app = an_app(*app);
                let revoked = manager.revoke_user_sessions(&app, somebody(*user), except, revocation);
                format!("{:?}", revoked.await)
            }
            Op::RevokeApp { app } => {
                let app = an_app(*app);
                format!("{:?}", manager.revoke_app_sessions(&app, revocation(0, 2)).await)
            }
            Op::Update {
                session,
                owner,
                name,
                is_trusted,
                auth,
                identity,
            } => {
                let made = self.pick(*session);
                let names = ["desk", "", "phone"];
                let patch = SessionPatch {
                    name: name.map(|name| name.map(|pick| names[usize::from(pick)].to_owned())),
                    is_trusted: *is_trusted,
                    auth: auth.map(|auth| auth.map(an_auth)),
                    identity: identity.map(|(key, value)| IdentityPatch {
                        key: IDENTITIES[usize::from(key)].to_owned(),
                        identity: value.map(an_identity),
                    }),
                };
                let updated = manager.update(&made.app, made.id, an_owner(*owner), patch);
                self.described(updated.await)
            }
            Op::UpdateUser {
                user,
                app,
                tier,
                max_sessions,
                is_blocked,
            } => {
                let patch = UserPatch {
                    tier: tier.map(|tier| tier.map(|pick| TIERS[usize::from(pick)].to_owned())),
                    max_sessions: *max_sessions,
                    is_blocked: *is_blocked,
                };
                let app = an_app(*app);
                let updated = manager.update_user(&app, somebody(*user), patch, EndedBy::App);
                format!("{:?}", updated.await)
            }
            Op::FindUser { user, app } => {
                format!("{:?}", manager.find_user(&an_app(*app), somebody(*user)).await)
            }
            Op::ListUser { .. } | Op::ListApp { .. } => self.list(op).await,
            Op::Flush => format!("{:?}", manager.flush_touches().await),
            Op::Tick => format!("{:?}", sweeper::tick(manager).await),
            Op::Expire { limit } => format!("{:?}", manager.expire_overdue(*limit).await),
            Op::Purge { limit } if self.setting.flushes_always => {
                format!("{:?}", manager.purge_old(*limit).await)
            }
            // Events of addresses are among what goes: how many there are depends on when uses were written.
            Op::Purge { .. } => format!("{:?}", manager.purge_old(1_000).await.is_ok()),
            Op::Advance { .. } | Op::AdvanceToDeadline { .. } | Op::Restart => String::new(),
        }
    }

    fn sign_in(&self, user: Pick, said: &Said) -> SignIn {
        let ago = |secs: u64| i64::try_from(secs * 1_000).expect("a few seconds");
        let now = self.manager.clock().now();
        SignIn {
            user_id: a_user(user),
            ip_address: an_address(said.address),
            user_agent: said.agent.map(|pick| AGENTS[usize::from(pick)].to_owned()),
            tier: said.tier.map(|pick| TIERS[usize::from(pick)].to_owned()),
            auth: said.is_furnished.then(|| an_auth(0)),
            name: said.is_furnished.then(|| "laptop".to_owned()),
            idle_timeout_secs: said.timeouts.0,
            absolute_timeout_secs: said.timeouts.1,
            remember: said.remember,
            authenticated_at: said.verified_secs_ago.map(|secs| now.plus_millis(-ago(secs))),
            end_ids: said.chosen.iter().map(|pick| self.pick(*pick).id).collect(),
            data: said.data.map(some_data),
            ..SignIn::default()
        }
    }

    async fn create(&mut self, op: &Op) -> String {
        let Op::Create {
            user,
            app,
            starter,
            said,
        } = op
        else {
            unreachable!("asked for creates only")
        };
        let app = an_app(*app);
        let sign_in = self.sign_in(*user, said);
        let manager = &self.manager;
        let created = match starter {
            Starter::Backend => manager.create(&app, sign_in).await,
            Starter::Visitor => {
                let nobodys = SignIn {
                    user_id: None,
                    tier: None,
                    authenticated_at: None,
                    end_ids: Vec::new(),
                    ..sign_in
                };
                manager.create_for_visitor(&app, nobodys).await
            }
            Starter::Call { caller, key, body } => {
                let call = RepeatableCall {
                    api_key: self.callers[usize::from(*caller)].clone(),
                    key: key.to_string(),
                    body: vec![*body],
                };
                manager.create_repeatably(&app, sign_in, &call).await
            }
        };
        self.described_sign_in(created, &app).await
    }

    async fn authenticate(&mut self, op: &Op) -> String {
        let Op::Authenticate {
            session,
            in_own_app,
            user,
            said,
        } = op
        else {
            unreachable!("asked for sign-ins only")
        };
        let made = self.pick(*session);
        let app = made.an_app(*in_own_app);
        let sign_in = self.sign_in(*user, said);
        let signed_in = self
            .manager
            .authenticate(&app, made.id, somebody(*user), sign_in)
            .await;
        self.described_sign_in(signed_in, &app).await
    }

    async fn described_sign_in(&mut self, answer: Result<SignedIn, Error>, app: &AppName) -> String {
        let signed_in = match answer {
            Ok(signed_in) => signed_in,
            Err(error) => return self.described_error(error),
        };
        let token = self.note_token(&signed_in.token, app);
        if let Some(user_id) = signed_in
            .session
            .user_id
            .clone()
            .filter(|_| !signed_in.is_repeated)
        {
            let view = self.manager.find_user(app, user_id).await.expect("a view");
            let (count, max) = (view.record.active_count, view.effective_max_sessions);
            assert!(count <= u64::from(max), "{count} active of {max}");
        }
        format!(
            "{} with {token} for {:?}, repeated {}",
            self.describe(&signed_in.session),
            self.describe_all(&signed_in.evicted),
            signed_in.is_repeated,
        )
    }

    async fn renew(&mut self, op: &Op) -> String {
        let Op::Renew {
            session,
            in_own_app,
            which,
            address,
        } = op
        else {
            unreachable!("asked for renewals only")
        };
        let made = self.pick(*session);
        let app = made.an_app(*in_own_app);
        let token = made.token(*which);
        match self.manager.renew(&app, &token, an_address(*address)).await {
            Ok(RenewAnswer::Renewed { session, token }) => {
                let token = self.note_token(&token, &app);
                format!("{token} of {}", self.describe(&session))
            }
            Ok(RenewAnswer::Refused(refusal)) => described_refusal(&refusal),
            Err(error) => format!("{error:?}"),
        }
    }

    async fn check(&self, op: &Op) -> String {
        let Op::Check {
            session,
            in_own_app,
            usage,
            which,
            max_auth_age_secs,
            wants_tag,
        } = op
        else {
            unreachable!("asked for checks only")
        };
        let made = self.pick(*session);
        let app = made.an_app(*in_own_app);
        let token = made.token(*which);
        let usage = usage.map_or(Use::Look, |address| Use::Touch(an_address(address)));
        let demands = Demands {
            max_auth_age_secs: *max_auth_age_secs,
            tags: wants_tag.then(|| "staff".to_owned()).into_iter().collect(),
        };
        match self.manager.check(&app, &token, usage, &demands).await {
            Ok(CheckAnswer::Active(entry)) => self.describe(&entry.to_session()),
            Ok(CheckAnswer::Refused(refusal)) => {
                // It may have been told of, for which nobody waits; what comes next is to see it.
                let now = self.manager.clock().now();
                self.store.write_touches(Vec::new(), now).await.expect("written");
                described_refusal(&refusal)
            }
            Err(error) => format!("{error:?}"),
        }
    }

    /// All pages of a list.
    async fn list(&self, op: &Op) -> String {
        let (mut after, mut pages) = (None, Vec::new());
        for _ in 0..100 {
            after = match op {
                Op::ListUser {
                    user,
                    app,
                    status,
                    limit,
                } => {
                    let status = STATUSES[usize::from(*status)];
                    let page = self
                        .manager
                        .list_user(&an_app(*app), somebody(*user), status, after, *limit)
                        .await
                        .expect("a page");
                    pages.push(format!(
                        "{} {} {:?}",
                        page.total_count,
                        page.active_count,
                        self.describe_all(&page.sessions)
                    ));
                    page.next
                }
                Op::ListApp {
                    app,
                    anonymous,
                    status,
                    limit,
                } => {
                    let status = STATUSES[usize::from(*status)];
                    let page = self
                        .manager
                        .list_app(&an_app(*app), *anonymous, status, after, *limit)
                        .await
                        .expect("a page");
                    pages.push(format!("{:?}", self.describe_all(&page.sessions)));
                    page.next
                }
                _ => unreachable!("asked for lists only"),
            };
            if after.is_none() {
                return pages.join("\n");
            }
        }
        panic!("a list without end: {pages:?}")
    }

    /// All rows.
    async fn all_sessions(&self) -> Vec<Session> {
        let mut all = Vec::new();
        for app in [app(), app_named("shop")] {
            for anonymous in [true, false] {
                let page = self
                    .manager
                    .list_app(&app, anonymous, StatusFilter::All, None, 1_000)
                    .await
                    .expect("a page");
                all.extend(page.sessions);
            }
        }
        all
    }

    /// Events with numbers for ids; without flushes after each operation also without those of which there are as many as
    /// uses were written.
    fn numbered(&self, events: Vec<EventRow>) -> Vec<String> {
        let is_exact = self.setting.flushes_always;
        events
            .into_iter()
            .filter(|event| is_exact || event.kind != "session.activity")
            .map(|event| {
                let number = event.session_id.map(|id| self.number(id));
                let mut data = event.data.unwrap_or_default();
                for (number, made) in self.made.iter().enumerate() {
                    data = data.replace(&made.id.to_string(), &format!("#{number}"));
                }
                let from = event.ip_address;
                format!(
                    "{} {:?} {:?} at {:?} of {:?} in {} because {:?} by {:?} on {:?} from {from:?} {data}",
                    event.kind,
                    number,
                    event.client_session_id,
                    event.occurred_at,
                    event.user_id,
                    event.app,
                    event.reason,
                    event.ended_by,
                    event.device_info,
                )
            })
            .collect()
    }
}

fn described_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::SessionEnded(ending) => format!("{ending:?}"),
        refusal => refusal.code().to_owned(),
    }
}

fn described_data(result: Result<(serde_json::Value, u64), Error>) -> String {
    match result {
        Ok((value, version)) => format!("{value} {version}"),
        Err(error) => format!("{error:?}"),
    }
}

fn memory_events(store: &MemoryStore) -> Vec<EventRow> {
    let events = store.events().into_iter();
    events.map(EventRow::from).collect()
}

async fn run(operations: &[Op], setting: Setting, ways: &mut Ways) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(Clock::manual(START));
    let memory = Arc::new(MemoryStore::new());
    let callers = [1, 2].map(|n| ApiKey::new(KeyId::from_bytes([n; 16]), Secret::random()));
    let mut reference = Side::new(Arc::clone(&memory) as _, &dir, setting, &clock, callers.clone()).await;
    let sqlite = Arc::new(sqlite_in(&dir, 100));
    let mut real = Side::new(sqlite, &dir, setting, &clock, callers.clone()).await;

    let mut last_event = 0;
    for (n, op) in operations.iter().enumerate() {
        if let Op::Tick | Op::Purge { .. } = op {
            // Before some of it is deleted.
            is_whole(
                &reference.all_sessions().await,
                &memory_events(&memory),
                clock.now(),
            )?;
            is_whole(
                &real.all_sessions().await,
                &event_rows(&database_in(&dir)),
                clock.now(),
            )?;
        }
        match op {
            Op::Advance { millis } => clock.advance(Duration::from_millis(*millis)),
            Op::AdvanceToDeadline {
                session,
                offset_millis,
            } => advance_to_deadline(&reference, &clock, *session, *offset_millis).await,
            Op::Restart => {
                // As closing does: pending uses, and one passed deadline that carries the time.
                reference.manager.flush_touches().await.expect("flushed");
                reference.manager.expire_overdue(1).await.expect("expired");
                real.manager.close().await;
                let sqlite = Arc::new(sqlite_in(&dir, 100));
                let made = real.made;
                real = Side::new(sqlite, &dir, setting, &clock, callers.clone()).await;
                real.made = made;
            }
            op => {
                let expected = reference.apply(op).await;
                let answered = real.apply(op).await;
                if answered != expected {
                    return Err(format!(
                        "operation {n}, {op:?}\nanswered {answered}\nexpected {expected}"
                    ));
                }
            }
        }
        if setting.flushes_always {
            reference.manager.flush_touches().await.expect("flushed");
            real.manager.flush_touches().await.expect("flushed");
        }
        last_event = count_ways(&*memory, op, last_event, ways).await;
        let held = real.manager.metrics().cache.entries.get();
        if usize::try_from(held).is_ok_and(|held| held > setting.cache_capacity) {
            return Err(format!("operation {n}, {op:?}: {held} sessions in the cache"));
        }
    }

    // One look at everything in the end, from rows alone.
    sweeper::tick(&reference.manager).await.expect("swept");
    sweeper::tick(&real.manager).await.expect("swept");
    let expected = reference.numbered(memory_events(&memory));
    let told = real.numbered(event_rows(&database_in(&dir)));
    if let Some(n) = (0..expected.len().max(told.len())).find(|n| told.get(*n) != expected.get(*n)) {
        return Err(format!(
            "event {n}\ntold     {:?}\nexpected {:?}",
            told.get(n),
            expected.get(n)
        ));
    }
    is_whole(
        &reference.all_sessions().await,
        &memory_events(&memory),
        clock.now(),
    )?;
    is_whole(
        &real.all_sessions().await,
        &event_rows(&database_in(&dir)),
        clock.now(),
    )?;
    no_data_is_left_behind(&dir)
}

async fn advance_to_deadline(side: &Side, clock: &Clock, session: Pick, offset_millis: i64) {
    let made = side.pick(session);
    let found = side.manager.find(&made.app, made.id, &Owner::Anyone).await;
    let Ok(session) = found else { return };
    let target: Timestamp = session.expires_at().plus_millis(offset_millis);
    if let Ok(millis) = u64::try_from(target.millis_since(clock.now())) {
        clock.advance(Duration::from_millis(millis));
    }
}

fn block_on(operations: &[Op], setting: Setting, ways: &mut Ways) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(operations, setting, ways))
}

#[test]
fn random_operations_answer_as_the_reference_does() {
    let ways = Mutex::new(Ways::new());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: CASES,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&(operations(), setting()), |(operations, setting)| {
        let mut ways = ways.lock().unwrap_or_else(PoisonError::into_inner);
        block_on(&operations, setting, &mut ways).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let ways = ways.into_inner().unwrap_or_else(PoisonError::into_inner);
    for way in WAYS {
        assert!(ways.contains_key(way), "no session was {way}: {ways:#?}");
    }
}

/// Sequences that once were answered differently.
#[test]
fn what_once_differed_does_so_no_more() {
    let create = Op::Create {
        user: 1,
        app: 0,
        starter: Starter::Backend,
        said: Said::default(),
    };
    let check = |address| Op::Check {
        session: 0,
        in_own_app: true,
        usage: Some(address),
        which: Which::Back(0),
        max_auth_age_secs: None,
        wants_tag: false,
    };
    let back_at_its_first_address = [
        create,
        check(Some(1)),
        check(Some(0)),
        check(Some(1)),
        Op::Restart,
        check(None),
    ];
    let setting = Setting {
        cache_capacity: 2,
        touch_interval_secs: 60,
        flushes_always: false,
    };
    let mut ways = Ways::new();
    assert_eq!(block_on(&back_at_its_first_address, setting, &mut ways), Ok(()));
}
