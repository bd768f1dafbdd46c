//! How often strangers may ask, and, if the operator wants it, backends.
//!
//! Three budgets, each whole at first and refilled evenly (GCRA, by `governor`): of an API key for its calls; of an address
//! for requests without a credential; of an address for wrong tokens and wrong API keys. An address is an IPv4 address or an
//! IPv6 /64, as for visitors. A budget that is used up answers 429, and every answer that one was spent for says what is
//! left of it (draft-ietf-httpapi-ratelimit-headers-11).
//!
//! What must stay true:
//! - **Whoever holds a right token or key is not refused for what others at the same address did.** A token has 256 random
//!   bits, so no limit makes guessing it harder; and behind a proxy that is not trusted everybody has one address. So a wrong
//!   credential is found out first and counted then: beyond the budget the answer to a wrong one is another, and a right one
//!   is accepted as ever. The pages, which ask for no credential, look for one before they refuse.
//! - **A check whose token is right comes nowhere near here**: no budget, no lock, no header.
//! - **Memory is bounded** by `SPENDERS_MAX`, whatever number of addresses ask; the database by `TOLD_PER_HOUR`.
//!
//! Budgets are forgotten by a restart, and of those that asked longest ago when there are too many; that gives them a whole one
//! again, which an attacker with so many addresses has anyway. They go by [`Clock::running`], as time of day may stand still.
//!
//! Probes are never refused. Deliberately absent: the operator's socket, and tokens in the bodies of backends' checks, which
//! are the backend's callers'.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use governor::clock::Clock as GovernorClock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, StateStore};
use governor::{Quota, RateLimiter};
use lru::LruCache;

use super::auth;
use super::input::Query;
use super::problem::{Code, Problem};
use super::{State, address};
use crate::clock::Clock;
use crate::config::RateLimitsConfig;
use crate::manager::Demands;
use crate::metrics::Metrics;
use crate::session::{AppName, KeyId, network_of};

/// Addresses, or keys, that one budget is kept for; of more, those that asked longest ago have a whole one again. Each takes
/// 200 bytes at most, with the map's own (a network's text has 43), so that all the maps here have 8 MB at most.
const SPENDERS_MAX: usize = 10_000;
/// How long after an address was told of it is not told of again.
const TOLD_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Events of wrong credentials in an hour, from however many addresses, and as many more at once: each is a row of some 300
/// bytes, so that those of a month have 13 MB.
const TOLD_PER_HOUR: NonZeroU32 = NonZeroU32::new(60).expect("it is more than 0");
/// Lines about failed requests in a second; of more the log has the number.
const FAILURE_LINES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("it is more than 0");

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The budgets of one listener.
pub struct RateLimits {
    keys: Option<Limit<KeyId>>,
    unauthenticated: Option<Limit<String>>,
    wrong: Option<Limit<String>>,
    guesses: Guesses,
    /// Lines in the log.
    pub failures: FailureLines,
}

impl RateLimits {
    /// Whole budgets, by this clock.
    pub fn new(config: &RateLimitsConfig, clock: &Arc<Clock>, metrics: &Metrics) -> Self {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        Self {
            keys: Limit::new("key", config.per_key_per_second, second, clock, metrics),
            unauthenticated: Limit::new(
                "unauthenticated",
                config.unauthenticated_per_minute,
                minute,
                clock,
                metrics,
            ),
            wrong: Limit::new(
                "wrong_credentials",
                config.wrong_credentials_per_minute,
                minute,
                clock,
                metrics,
            ),
            guesses: Guesses::new(clock),
            failures: FailureLines::new(clock),
        }
    }
}

/// How often the log tells of a request that failed: on a full disk every change does, and the log may be on that disk.
pub struct FailureLines {
    limiter: Limiter<InMemoryState>,
    left_out: AtomicU64,
}

impl FailureLines {
    fn new(clock: &Arc<Clock>) -> Self {
        let quota = Quota::per_second(FAILURE_LINES_PER_SECOND);
        Self {
            limiter: RateLimiter::new(quota, InMemoryState::default(), RunningTime(Arc::clone(clock))),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether one more line may be written; if so, how many were left out since the last one.
    pub fn take_line(&self) -> Option<u64> {
        match self.limiter.check() {
            Ok(_) => Some(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Lets a request pass that needs no credential, unless its address asked too often. Whoever has a right one passes.
pub async fn admit(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    match is_open(path_of(request), &state.base_path) {
        true => spend_unless_known(request, state).await,
        false => Ok(()),
    }
}

/// A request's path as routes see it: a letter that is percent-encoded leads to the same place.
fn path_of(request: &HttpRequest) -> &str {
    request.match_info().as_str()
}

/// Whether a path asks nobody who they are. Unknown ones are seen when they are answered.
fn is_open(path: &str, base_path: &str) -> bool {
    let Some(path) = path.strip_prefix(base_path) else {
        return false;
    };
    let pages = ["", "/", "/docs", "/openapi.json", "/v1/whoami", "/v1/me/session"];
    pages.contains(&path) || path.starts_with("/static/")
}

/// What to answer instead, if this refusal shows that a credential was wrong, or that there was none or none was looked at, and that
/// was so too often.
pub async fn count_refusal(problem: Problem, request: &HttpRequest, state: &State) -> Problem {
    let is_spent = || request.extensions().get::<Budget>().is_some();
    let is_nowhere = || request.match_pattern().is_none() || path_of(request).ends_with("/metrics");
    let counted = match problem.code() {
        Code::InvalidToken => spend_wrong(request, state),
        Code::InvalidApiKey if auth::has_bearer(request) => spend_wrong(request, state),
        Code::InvalidApiKey | Code::NoSession => spend_unauthenticated(request, state),
        Code::NotFound if !is_spent() && is_nowhere() => spend_unless_known(request, state).await,
        Code::MethodNotAllowed if !is_spent() => spend_unless_known(request, state).await,
        Code::ValidationFailed | Code::CrossSite if !is_spent() && !auth::has_bearer(request) => {
            spend_unless_known(request, state).await
        }
        _ => Ok(()),
    };
    counted.err().unwrap_or(problem)
}

/// Spends from what an address may ask without a credential; beyond that it is looked whether there is a right one.
async fn spend_unless_known(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let Err(refused) = spend_unauthenticated(request, state) else {
        return Ok(());
    };
    let app = app_of(request, state);
    let is_known = auth::holder(request, state, app, false, &Demands::default())
        .await
        .is_ok()
        || auth::backend(request, state, &mut Query::of(request))
            .await
            .is_ok();
    match is_known {
        true => Ok(()),
        false => Err(refused),
    }
}

/// Spends from what an address may ask without a credential.
pub fn spend_unauthenticated(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let Some(limit) = &state.rate_limits.unauthenticated else {
        return Ok(());
    };
    let network = network_of(address::of_request(request, &state.trusted_proxies).address);
    limit.spend(&network).noted(request, |secs| {
        format!("Too many requests without a credential came from this address; the next can be in {secs} s.")
    })
}

/// Spends from the wrong tokens and keys that an address may send.
pub fn spend_wrong(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let Some(limit) = &state.rate_limits.wrong else {
        return Ok(());
    };
    let address = address::of_request(request, &state.trusted_proxies).address;
    let network = network_of(address);
    let budget = limit.spend(&network);
    if let Some(count) = state.rate_limits.guesses.note(network, &budget) {
        state
            .manager
            .tell_wrong_credentials(&app_of(request, state), address, count);
    }
    budget.noted(request, |secs| {
        format!(
            "Too many wrong session tokens or API keys came from this address; the next is looked at in {secs} s. A right one \
             is accepted at any time."
        )
    })
}

/// Spends from the calls that an API key may make, which is known to be right.
pub fn spend_of_key(request: &HttpRequest, state: &State, key: KeyId) -> Result<(), Problem> {
    let Some(limit) = &state.rate_limits.keys else {
        return Ok(());
    };
    limit.spend(&key).noted(request, |secs| {
        format!("Too many calls were made with this API key; the next can be in {secs} s.")
    })
}

/// The app that a request is for, as far as it says.
fn app_of(request: &HttpRequest, state: &State) -> AppName {
    auth::app_of_request(request, state, &mut Query::of(request)).unwrap_or_else(|_| AppName::default_app())
}

/// What is left of a budget after a request. Kept with the request until its answer is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    limit: &'static str,
    quota: u32,
    window_secs: u64,
    remaining: u32,
    /// When there is something again, if there was nothing for this request.
    retry_after_secs: Option<u64>,
}

impl Budget {
    /// Writes it into the answer to a request that spent from one, and counts it if that was refused.
    pub fn tell(response: &mut ServiceResponse<BoxBody>, metrics: &Metrics) {
        let Some(budget) = response.request().extensions().get::<Self>().copied() else {
            return;
        };
        if budget.retry_after_secs.is_some() && response.status() == StatusCode::TOO_MANY_REQUESTS {
            metrics
                .rate_limited
                .get_or_create(&[("limit", budget.limit)])
                .inc();
        }
        let Self {
            limit,
            quota,
            window_secs,
            remaining,
            ..
        } = budget;
        let policy = format!("\"{limit}\";q={quota};w={window_secs}");
        let left = format!("\"{limit}\";r={remaining};t={}", budget.window_left_secs());
        for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)] {
            let headers = response.headers_mut();
            headers.insert(name, HeaderValue::from_str(&value).expect("words and digits"));
        }
    }

    /// When all of it is there again if nothing is spent meanwhile. After a refusal when there is some again: `Retry-After` must not
    /// be earlier (section 6 of the draft).
    fn window_left_secs(&self) -> u64 {
        if let Some(secs) = self.retry_after_secs {
            return secs;
        }
        let spent = u64::from(self.quota.saturating_sub(self.remaining));
        (spent * self.window_secs).div_ceil(u64::from(self.quota).max(1))
    }

    fn noted(self, request: &HttpRequest, detail: impl FnOnce(u64) -> String) -> Result<(), Problem> {
        request.extensions_mut().insert(self);
        match self.retry_after_secs {
            None => Ok(()),
            Some(secs) => Err(Problem::too_many_requests(detail(secs), secs)),
        }
    }
}

/// A limiter whose state is kept in `S`.
type Limiter<S> = RateLimiter<<S as StateStore>::Key, S, RunningTime, StateInformationMiddleware>;

/// One budget for each of many.
struct Limit<K: Hash + Eq + Clone> {
    name: &'static str,
    quota: u32,
    window_secs: u64,
    limiter: Limiter<Spenders<K>>,
    clock: RunningTime,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    /// So many in each window; 0 is no limit.
    fn new(
        name: &'static str,
        quota: u32,
        window: Duration,
        clock: &Arc<Clock>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let burst = NonZeroU32::new(quota)?;
        let clock = RunningTime(Arc::clone(clock));
        let each = Quota::with_period(window / quota)?.allow_burst(burst);
        // There from the start, so that its first refusal is a step from 0.
        drop(metrics.rate_limited.get_or_create(&[("limit", name)]));
        Some(Self {
            name,
            quota,
            window_secs: window.as_secs(),
            limiter: RateLimiter::new(each, Spenders::default(), clock.clone()),
            clock,
        })
    }

    fn spend(&self, spender: &K) -> Budget {
        let (remaining, retry_after_secs) = match self.limiter.check_key(spender) {
            Ok(after) => (after.remaining_burst_capacity(), None),
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                (0, Some(secs.max(1)))
            }
        };
        Budget {
            limit: self.name,
            quota: self.quota,
            window_secs: self.window_secs,
            remaining,
            retry_after_secs,
        }
    }
}

/// The time by which budgets refill.
#[derive(Debug, Clone)]
struct RunningTime(Arc<Clock>);

impl GovernorClock for RunningTime {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.running()
    }
}

/// Something of each spender, of so many at most.
struct Spenders<K: Hash + Eq, V = Nanos> {
    /// One lock: it is taken for what is refused, for pages and for limited keys, and held for a look-up.
    by_spender: Mutex<LruCache<K, V>>,
}

impl<K: Hash + Eq, V> Default for Spenders<K, V> {
    fn default() -> Self {
        // It grows as it is filled, which on most servers it never is.
        Self {
            by_spender: Mutex::new(LruCache::unbounded()),
        }
    }
}

impl<K: Hash + Eq, V> Spenders<K, V> {
    fn lock(&self) -> MutexGuard<'_, LruCache<K, V>> {
        self.by_spender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for one that is not there yet.
fn put<K: Hash + Eq, V>(spenders: &mut LruCache<K, V>, spender: K, value: V) {
    if spenders.len() >= SPENDERS_MAX && !spenders.contains(&spender) {
        spenders.pop_lru();
    }
    spenders.put(spender, value);
}

impl<K: Hash + Eq + Clone> StateStore for Spenders<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, spender: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut spenders = self.lock();
        let (answer, spent) = measure(spenders.get(spender).copied())?;
        put(&mut spenders, spender.clone(), spent);
        Ok(answer)
    }
}

/// Wrong credentials by network, to tell of those who send many.
struct Guesses {
    by_network: Spenders<String, Guess>,
    /// What may be told, of all networks together.
    told: Limiter<InMemoryState>,
    clock: RunningTime,
}

#[derive(Debug, Clone, Copy, Default)]
struct Guess {
    /// Since the budget was whole, or they were told of.
    count: u64,
    told_at: Option<Duration>,
}

impl Guesses {
    fn new(clock: &Arc<Clock>) -> Self {
        let clock = RunningTime(Arc::clone(clock));
        let told = Quota::per_hour(TOLD_PER_HOUR);
        Self {
            by_network: Spenders::default(),
            told: RateLimiter::new(told, InMemoryState::default(), clock.clone()),
            clock,
        }
    }

    /// Notes one, with what it left of the budget; answers how many are to be told now, if any.
    fn note(&self, network: String, budget: &Budget) -> Option<u64> {
        let now = self.clock.now();
        let mut networks = self.by_network.lock();
        let mut guess = networks.get(&network).copied().unwrap_or_default();
        if budget.retry_after_secs.is_none() && budget.remaining + 1 == budget.quota {
            guess.count = 0;
        }
        guess.count += 1;
        let is_due = budget.retry_after_secs.is_some()
            && guess
                .told_at
                .is_none_or(|at| now.saturating_sub(at) >= TOLD_INTERVAL)
            && self.told.check().is_ok();
        let told = is_due.then_some(guess.count);
        if is_due {
            guess = Guess {
                count: 0,
                told_at: Some(now),
            };
        }
        put(&mut networks, network, guess);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn limit(quota: u32) -> Limit<String> {
        let clock = Arc::new(Clock::manual(Timestamp::from_millis(0)));
        Limit::new("test", quota, Duration::from_secs(60), &clock, &Metrics::new()).expect("it is on")
    }

    fn is_refused(limit: &Limit<String>, spender: &str) -> bool {
        limit.spend(&spender.to_owned()).retry_after_secs.is_some()
    }

    #[test]
    fn spenders_are_bounded_and_those_that_asked_longest_ago_have_a_whole_budget_again() {
        let limit = limit(1);
        for number in 0..SPENDERS_MAX {
            assert!(!is_refused(&limit, &number.to_string()));
        }
        assert!(is_refused(&limit, "0"), "which makes it one that asked lately");
        for number in 0..SPENDERS_MAX / 2 {
            assert!(!is_refused(&limit, &format!("one more {number}")));
        }
        assert!(is_refused(&limit, "0"));
        assert!(!is_refused(&limit, "1"));
        assert_eq!(limit.limiter.into_state_store().lock().len(), SPENDERS_MAX);
    }

    #[test]
    fn failures_beyond_twenty_a_second_are_counted_and_told_with_the_next() {
        let clock = Arc::new(Clock::manual(Timestamp::from_millis(0)));
        let failures = FailureLines::new(&clock);
        for _ in 0..20 {
            assert_eq!(failures.take_line(), Some(0));
        }
        assert_eq!((failures.take_line(), failures.take_line()), (None, None));
        clock.advance(Duration::from_secs(1));
        assert_eq!(failures.take_line(), Some(2));
        assert_eq!(failures.take_line(), Some(0));
    }

    #[test]
    fn networks_with_guesses_are_bounded() {
        let limit = limit(2);
        let guesses = Guesses::new(&Arc::new(Clock::manual(Timestamp::from_millis(0))));
        for number in 0..SPENDERS_MAX * 2 {
            let network = number.to_string();
            let budget = limit.spend(&network);
            assert_eq!(guesses.note(network, &budget), None);
        }
        assert_eq!(guesses.by_network.lock().len(), SPENDERS_MAX);
    }

    #[test]
    fn window_until_a_budget_is_whole_or_there_is_some_is_told_in_whole_seconds() {
        let limit = limit(7);
        let told: Vec<_> = (0..7)
            .map(|_| limit.spend(&"a".to_owned()))
            .map(|budget| (budget.remaining, budget.window_left_secs()))
            .collect();
        assert_eq!(
            told,
            [(6, 9), (5, 18), (4, 26), (3, 35), (2, 43), (1, 52), (0, 60)]
        );
        let refused = limit.spend(&"a".to_owned());
        assert_eq!((refused.remaining, refused.retry_after_secs), (0, Some(9)));
        assert_eq!(refused.window_left_secs(), 9);
    }
}
