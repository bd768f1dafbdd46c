//! Random operations against two managers: one over SQLite with a tiny cache and restarts, one over the reference model
//! in memory. Every answer and every event must be the same.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sessiond::clock::{Clock, Timestamp};
use sessiond::config::Config;
use sessiond::error::Error;
use sessiond::manager::{CheckAnswer, Demands, Refusal, Revocation, SessionManager, SignIn, Use};
use sessiond::metrics::Metrics;
use sessiond::session::{AppName, Auth, EndedBy, Reason, Secret, Session, SessionId, Token};
use sessiond::store::memory::MemoryStore;
use sessiond::store::{Owner, SessionPatch, SessionStore, StatusFilter, UserPatch};
use sessiond::sweeper;
use sessiond::user::{Tiers, UserId};
use tempfile::TempDir;

use crate::harness::{FIREFOX_ON_LINUX, START, config_in};
use crate::stores::{
    EventRow, address, app, app_named, database_in, event_rows, sqlite_in, start_manager, user,
};

/// Sequences that are tried, and operations of one.
const CASES: u32 = 128;
const OPERATIONS: std::ops::Range<usize> = 20..80;
const TIERS: [&str; 4] = ["pair", "five", "none", "unknown"];
const REASONS: [&str; 3] = [Reason::LOGOUT, Reason::MANUAL, "made up"];
const ENDERS: [EndedBy; 3] = [EndedBy::User, EndedBy::App, EndedBy::Operator];
const STATUSES: [StatusFilter; 3] = [StatusFilter::Active, StatusFilter::Ended, StatusFilter::All];

/// One of a few; sessions are counted as they are made, users and apps are few.
type Pick = u8;

#[derive(Debug, Clone)]
enum Op {
    Create {
        user: Pick,
        app: Pick,
        tier: Option<Pick>,
        timeouts: (Option<u64>, Option<u64>),
        remember: bool,
        address: Option<Pick>,
        verified_secs_ago: Option<u64>,
        is_furnished: bool,
    },
    Check {
        session: Pick,
        in_own_app: bool,
        usage: Option<Option<Pick>>,
        is_secret_right: bool,
        max_auth_age_secs: Option<u64>,
        wants_tag: bool,
    },
    Touch {
        session: Pick,
        address: Option<Pick>,
    },
    Find {
        session: Pick,
        owner: Option<Pick>,
    },
    Revoke {
        session: Pick,
        owner: Option<Pick>,
        why: Pick,
        by: Pick,
    },
    RevokeUser {
        user: Pick,
        app: Pick,
        except: Option<Pick>,
        credentials_changed: bool,
    },
    RevokeApp {
        app: Pick,
    },
    Update {
        session: Pick,
        owner: Option<Pick>,
        name: Option<Option<Pick>>,
        is_trusted: Option<bool>,
        auth: Option<Option<Pick>>,
    },
    UpdateUser {
        user: Pick,
        app: Pick,
        tier: Option<Option<Pick>>,
        max_sessions: Option<Option<u32>>,
        is_blocked: Option<bool>,
    },
    FindUser {
        user: Pick,
        app: Pick,
    },
    ListUser {
        user: Pick,
        app: Pick,
        status: Pick,
        limit: usize,
    },
    ListApp {
        app: Pick,
        anonymous: bool,
        status: Pick,
        limit: usize,
    },
    Flush,
    Tick,
    Expire {
        limit: usize,
    },
    Purge {
        limit: usize,
    },
    Advance {
        millis: u64,
    },
    /// To the deadline of a session, a millisecond before, or one after.
    AdvanceToDeadline {
        session: Pick,
        offset_millis: i64,
    },
    /// Writes what is pending and opens the database again.
    Restart,
}

fn operations() -> impl Strategy<Value = Vec<Op>> {
    let user = || 0..4_u8;
    let app = || prop_oneof![4 => Just(0_u8), 1 => Just(1_u8)];
    let session = any::<Pick>;
    let address = || proptest::option::weighted(0.4, 0..3_u8);
    let owner = || proptest::option::weighted(0.4, 0..4_u8);
    let limit = || prop_oneof![Just(1_usize), Just(2), Just(50)];
    let status = || 0..3_u8;
    let timeout = || proptest::option::weighted(0.3, prop_oneof![Just(0_u64), 1..50_u64, Just(100_000)]);
    let create = (
        (user(), app(), proptest::option::weighted(0.2, 0..4_u8)),
        (timeout(), timeout()),
        proptest::bool::weighted(0.1),
        address(),
        proptest::option::weighted(0.2, 0..40_u64),
        any::<bool>(),
    )
        .prop_map(
            |((user, app, tier), timeouts, remember, address, verified_secs_ago, is_furnished)| Op::Create {
                user,
                app,
                tier,
                timeouts,
                remember,
                address,
                verified_secs_ago,
                is_furnished,
            },
        );
    let check = (
        session(),
        proptest::bool::weighted(0.95),
        proptest::option::weighted(0.8, address()),
        proptest::bool::weighted(0.95),
        proptest::option::weighted(0.1, 0..100_u64),
        proptest::bool::weighted(0.1),
    )
        .prop_map(
            |(session, in_own_app, usage, is_secret_right, max_auth_age_secs, wants_tag)| Op::Check {
                session,
                in_own_app,
                usage,
                is_secret_right,
                max_auth_age_secs,
                wants_tag,
            },
        );
    let touch = (session(), address()).prop_map(|(session, address)| Op::Touch { session, address });
    let find = (session(), owner()).prop_map(|(session, owner)| Op::Find { session, owner });
    let revoke = (session(), owner(), 0..3_u8, 0..3_u8).prop_map(|(session, owner, why, by)| Op::Revoke {
        session,
        owner,
        why,
        by,
    });
    let revoke_user = (
        user(),
        app(),
        proptest::option::of(session()),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(user, app, except, credentials_changed)| Op::RevokeUser {
            user,
            app,
            except,
            credentials_changed,
        });
    let update = (
        session(),
        owner(),
        proptest::option::of(proptest::option::of(0..3_u8)),
        proptest::option::of(any::<bool>()),
        proptest::option::of(proptest::option::of(0..3_u8)),
    )
        .prop_map(|(session, owner, name, is_trusted, auth)| Op::Update {
            session,
            owner,
            name,
            is_trusted,
            auth,
        });
    let update_user = (
        user(),
        app(),
        proptest::option::of(proptest::option::of(0..4_u8)),
        proptest::option::of(proptest::option::of(prop_oneof![0..5_u32, Just(10_001)])),
        proptest::option::of(proptest::bool::weighted(0.4)),
    )
        .prop_map(|(user, app, tier, max_sessions, is_blocked)| Op::UpdateUser {
            user,
            app,
            tier,
            max_sessions,
            is_blocked,
        });
    let list_user = (user(), app(), status(), limit()).prop_map(|(user, app, status, limit)| Op::ListUser {
        user,
        app,
        status,
        limit,
    });
    let list_app =
        (app(), any::<bool>(), status(), limit()).prop_map(|(app, anonymous, status, limit)| Op::ListApp {
            app,
            anonymous,
            status,
            limit,
        });
    let advance = prop_oneof![
        Just(0_u64),
        1..5_000_u64,
        5_000..40_000_u64,
        40_000..120_000_u64,
        120_000..600_000_u64
    ]
    .prop_map(|millis| Op::Advance { millis });
    let to_deadline = (session(), -1..=1_i64).prop_map(|(session, offset_millis)| Op::AdvanceToDeadline {
        session,
        offset_millis,
    });
    let op = prop_oneof![
        16 => create,
        24 => check,
        6 => touch,
        4 => find,
        5 => revoke,
        2 => revoke_user,
        1 => app().prop_map(|app| Op::RevokeApp { app }),
        4 => update,
        4 => update_user,
        2 => (user(), app()).prop_map(|(user, app)| Op::FindUser { user, app }),
        4 => list_user,
        2 => list_app,
        4 => Just(Op::Flush),
        3 => Just(Op::Tick),
        2 => limit().prop_map(|limit| Op::Expire { limit }),
        2 => limit().prop_map(|limit| Op::Purge { limit }),
        10 => advance,
        5 => to_deadline,
        2 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, OPERATIONS)
}

/// What differs between runs beside the operations.
#[derive(Debug, Clone, Copy)]
struct Setting {
    cache_capacity: usize,
    touch_interval_secs: u64,
    /// Flushes after each operation. Else a use that is pending when its session is revoked goes with it, sooner in one
    /// manager than in the other, so that of ended sessions the last use is not compared.
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
    config.apps.insert(app(), policy.clone());
    policy.idle_timeout_secs = 30;
    config.apps.insert(app_named("shop"), policy);
    config
}

/// A manager, and what it made.
struct Side {
    manager: SessionManager,
    made: Vec<Made>,
    setting: Setting,
}

#[derive(Clone)]
struct Made {
    token: Token,
    app: AppName,
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

fn revocation(why: Pick, by: Pick) -> Revocation {
    Revocation::new(REASONS[usize::from(why)], ENDERS[usize::from(by)])
}

impl Side {
    async fn new(
        store: Arc<dyn SessionStore>,
        dir: &TempDir,
        setting: Setting,
        clock: &Arc<Clock>,
        made: Vec<Made>,
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let manager = start_manager(store, &config(dir, setting), clock, metrics).await;
        Self {
            manager,
            made,
            setting,
        }
    }

    /// One of the sessions made so far, or an unknown one.
    fn pick(&self, pick: Pick) -> Made {
        let unknown = || Made {
            token: Token::new(SessionId::from_bytes([9; 16]), Secret::random()),
            app: app(),
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
        self.made.iter().position(|made| made.token.id() == id)
    }

    fn describe(&self, session: &Session) -> String {
        let now = self.manager.clock().now();
        let ending = session.ending_as_of(now);
        let was_cut_short = ending
            .as_ref()
            .is_some_and(|ending| ending.by != EndedBy::Timeout);
        let last_use = (self.setting.flushes_always || !was_cut_short).then_some((
            session.last_activity_at,
            session.ip_address,
            session.last_ip_address,
        ));
        format!(
            "{:?} {:?} of {:?} in {} named {:?} trusted {} on {:?}, made {:?} signed in {:?} verified {:?}, \
             over at {:?} or {:?}, {:?} {ending:?}, used {last_use:?}, auth {:?}",
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
            last_use.map(|_| session.expires_at()),
            session.absolute_expires_at,
            session.idle_timeout_millis,
            session.auth,
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
            Op::Check { .. } => self.check(op).await,
            Op::Touch { session, address } => {
                let made = self.pick(*session);
                self.described(
                    manager
                        .touch(&made.app, made.token.id(), an_address(*address))
                        .await,
                )
            }
            Op::Find { session, owner } => {
                let made = self.pick(*session);
                self.described(manager.find(&made.app, made.token.id(), &an_owner(*owner)).await)
            }
            Op::Revoke {
                session,
                owner,
                why,
                by,
            } => {
                let made = self.pick(*session);
                let revocation = revocation(*why, *by);
                let revoked = manager.revoke(&made.app, made.token.id(), an_owner(*owner), revocation);
                format!("{:?}", revoked.await)
            }
            Op::RevokeUser {
                user,
                app,
                except,
                credentials_changed,
            } => {
                let except = except.map(|session| self.pick(session).token.id());
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
            } => {
                let made = self.pick(*session);
                let names = ["desk", "", "phone"];
                let patch = SessionPatch {
                    name: name.map(|name| name.map(|pick| names[usize::from(pick)].to_owned())),
                    is_trusted: *is_trusted,
                    auth: auth.map(|auth| auth.map(an_auth)),
                    identity: None,
                };
                let updated = manager.update(&made.app, made.token.id(), an_owner(*owner), patch);
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

    async fn create(&mut self, op: &Op) -> String {
        let Op::Create {
            user,
            app,
            tier,
            timeouts,
            remember,
            address,
            verified_secs_ago,
            is_furnished,
        } = op
        else {
            unreachable!("asked for creates only")
        };
        let ago = |secs: u64| i64::try_from(secs * 1_000).expect("a few seconds");
        let now = self.manager.clock().now();
        let sign_in = SignIn {
            user_id: a_user(*user),
            ip_address: an_address(*address),
            user_agent: is_furnished.then(|| FIREFOX_ON_LINUX.to_owned()),
            tier: tier.map(|pick| TIERS[usize::from(pick)].to_owned()),
            auth: is_furnished.then(|| an_auth(0)),
            name: is_furnished.then(|| "laptop".to_owned()),
            idle_timeout_secs: timeouts.0,
            absolute_timeout_secs: timeouts.1,
            remember: *remember,
            authenticated_at: verified_secs_ago.map(|secs| now.plus_millis(-ago(secs))),
            ..SignIn::default()
        };
        let app = an_app(*app);
        match self.manager.create(&app, sign_in).await {
            Ok(signed_in) => {
                self.made.push(Made {
                    token: signed_in.token,
                    app,
                });
                format!(
                    "{} for {:?}",
                    self.describe(&signed_in.session),
                    self.describe_all(&signed_in.evicted)
                )
            }
            Err(error) => self.described_error(error),
        }
    }

    async fn check(&self, op: &Op) -> String {
        let Op::Check {
            session,
            in_own_app,
            usage,
            is_secret_right,
            max_auth_age_secs,
            wants_tag,
        } = op
        else {
            unreachable!("asked for checks only")
        };
        let made = self.pick(*session);
        let other_app = if made.app == app() {
            app_named("shop")
        } else {
            app()
        };
        let app = if *in_own_app { &made.app } else { &other_app };
        let wrong = Token::new(made.token.id(), Secret::random());
        let token = if *is_secret_right { &made.token } else { &wrong };
        let usage = usage.map_or(Use::Look, |address| Use::Touch(an_address(address)));
        let demands = Demands {
            max_auth_age_secs: *max_auth_age_secs,
            tags: wants_tag.then(|| "staff".to_owned()).into_iter().collect(),
        };
        match self.manager.check(app, token, usage, &demands).await {
            Ok(CheckAnswer::Active(entry)) => self.describe(&entry.to_session()),
            Ok(CheckAnswer::Refused(Refusal::SessionEnded(ending))) => format!("{ending:?}"),
            Ok(CheckAnswer::Refused(refusal)) => refusal.code().to_owned(),
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

    /// Events with numbers for ids; without flushes after each operation also without what depends on when uses were
    /// written.
    fn numbered(&self, events: Vec<EventRow>) -> Vec<String> {
        let is_exact = self.setting.flushes_always;
        events
            .into_iter()
            .filter(|event| is_exact || event.kind != "session.activity")
            .map(|event| {
                let number = event.session_id.map(|id| self.number(id));
                let mut data = event.data.unwrap_or_default();
                for (number, made) in self.made.iter().enumerate() {
                    data = data.replace(&made.token.id().to_string(), &format!("#{number}"));
                }
                let from = event
                    .ip_address
                    .filter(|_| is_exact || event.kind == "session.created");
                format!(
                    "{} {:?} at {:?} of {:?} in {} because {:?} by {:?} on {:?} from {from:?} {data}",
                    event.kind,
                    number,
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

fn memory_events(store: &MemoryStore) -> Vec<EventRow> {
    let events = store.events().into_iter();
    events.map(EventRow::from).collect()
}

async fn run(operations: &[Op], setting: Setting) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(Clock::manual(START));
    let memory = Arc::new(MemoryStore::new());
    let mut reference = Side::new(Arc::clone(&memory) as _, &dir, setting, &clock, Vec::new()).await;
    let sqlite = Arc::new(sqlite_in(&dir, 100));
    let mut real = Side::new(sqlite, &dir, setting, &clock, Vec::new()).await;

    for (n, op) in operations.iter().enumerate() {
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
                real = Side::new(sqlite, &dir, setting, &clock, real.made).await;
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
    ended_once(&memory_events(&memory))?;
    ended_once(&event_rows(&database_in(&dir)))
}

/// No session has a second ending event, and none is told of after its end.
fn ended_once(events: &[EventRow]) -> Result<(), String> {
    let mut ended = std::collections::HashSet::new();
    for event in events {
        let Some(id) = event.session_id else { continue };
        if ended.contains(&id) {
            return Err(format!("told of after its end: {event:?}"));
        }
        if ["session.revoked", "session.evicted", "session.expired"].contains(&event.kind.as_str()) {
            ended.insert(id);
        }
    }
    Ok(())
}

async fn advance_to_deadline(side: &Side, clock: &Clock, session: Pick, offset_millis: i64) {
    let made = side.pick(session);
    let found = side
        .manager
        .find(&made.app, made.token.id(), &Owner::Anyone)
        .await;
    let Ok(session) = found else { return };
    let target: Timestamp = session.expires_at().plus_millis(offset_millis);
    if let Ok(millis) = u64::try_from(target.millis_since(clock.now())) {
        clock.advance(Duration::from_millis(millis));
    }
}

fn block_on(operations: &[Op], setting: Setting) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(operations, setting))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_operations_answer_as_the_reference_does(operations in operations(), setting in setting()) {
        if let Err(why) = block_on(&operations, setting) {
            return Err(TestCaseError::fail(why));
        }
    }
}

/// Sequences that once were answered differently.
#[test]
fn what_once_differed_does_so_no_more() {
    let create = Op::Create {
        user: 1,
        app: 0,
        tier: None,
        timeouts: (None, None),
        remember: false,
        address: None,
        verified_secs_ago: None,
        is_furnished: false,
    };
    let check = |address| Op::Check {
        session: 0,
        in_own_app: true,
        usage: Some(address),
        is_secret_right: true,
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
    assert_eq!(block_on(&back_at_its_first_address, setting), Ok(()));
}
