//! Times of the single steps that a check and a sign-in are made of: `cargo bench --bench micro`.
//!
//! `-- --quick` takes some seconds and is less exact; `-- NAME` measures what has it in its name. The steps run alone here,
//! with warm caches of the processor: in a server each costs somewhat more.

use std::hint::black_box;
use std::iter;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sessiond::cache::{CachedSession, SessionCache};
use sessiond::clock::{Clock, Timestamp};
use sessiond::enrich::device;
use sessiond::http::json_writer::WriteJson;
use sessiond::http::session_body::SessionBody;
use sessiond::metrics::CacheMetrics;
use sessiond::session::{AppName, ClientHints, Place, Secret, Session, SessionId, Token};
use sessiond::user::UserId;

const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
/// Sessions in the cache.
const ENTRIES: usize = 100_000;
/// User agents that take turns: more than a thread remembers (256), so that each is new when its turn comes.
const NEW_AGENTS: usize = 1_000;

criterion_group! {
    name = steps;
    config = Criterion::default().without_plots().measurement_time(Duration::from_secs(3));
    targets = token, cache, json, clock, user_agent
}
criterion_main!(steps);

/// What a check does with the token that is presented.
fn token(c: &mut Criterion) {
    let token = Token::new(SessionId::from_bytes([7; 16]), Secret::random());
    let text = token.reveal();
    let hash = token.hash();
    let session = Session {
        token_hash: hash,
        ..session(token.id())
    };
    let mut group = c.benchmark_group("token");
    group.bench_function("parse", |b| b.iter(|| Token::parse(black_box(&text))));
    group.bench_function("hash", |b| b.iter(|| black_box(&token).hash()));
    // With the hash of the token before it, whether or not there is one.
    group.bench_function("compare", |b| {
        b.iter(|| black_box(&session).which_token(black_box(&hash)))
    });
    group.finish();
}

/// Sessions are asked for and filled in random order, as people come.
fn cache(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");

    // With room to spare: ids are spread over the locks by chance, and none is to be pushed out.
    let roomy = SessionCache::new(2 * ENTRIES, usize::MAX, CacheMetrics::default());
    let ids: Vec<SessionId> = random_ids().take(ENTRIES).collect();
    ids.iter().for_each(|id| fill(&roomy, session(*id)));
    assert!(
        ids.iter().all(|id| roomy.get(*id).is_some()),
        "every get is a hit"
    );
    // Another order than that of the fills, which is the one in which the entries lie in memory.
    let mut sorted = ids;
    sorted.sort_unstable();
    let mut asked = sorted.iter().cycle();
    group.bench_function("get, a hit among 100,000", |b| {
        b.iter(|| roomy.get(*asked.next().expect("they go round")))
    });

    let metrics = CacheMetrics::default();
    let full = SessionCache::new(ENTRIES, usize::MAX, metrics.clone());
    let mut ids = random_ids();
    let mut next = || session(ids.next().expect("they do not end"));
    iter::repeat_with(&mut next)
        .take(2 * ENTRIES)
        .for_each(|session| fill(&full, session));
    let (held, evicted) = (metrics.entries.get(), metrics.evictions.get());
    assert!(held > 0 && evicted > 0, "it is full");
    group.bench_function("fill, which evicts the oldest", |b| {
        b.iter_batched(
            &mut next,
            |session| full.begin_fill(session.id).finish(session),
            BatchSize::SmallInput,
        )
    });
    assert_eq!(metrics.entries.get(), held, "each pushed one out");
    group.finish();
}

/// The answer of a check.
fn json(c: &mut Criterion) {
    let entry = CachedSession::new(session(SessionId::from_bytes([7; 16])));
    let mut group = c.benchmark_group("json");
    group.bench_function("a session by hand", |b| {
        b.iter(|| {
            let mut text = Vec::with_capacity(1_024);
            SessionBody::of_holder(black_box(&entry)).write(&mut text);
            text
        })
    });
    group.bench_function("a session by serde", |b| {
        b.iter(|| serde_json::to_vec(&SessionBody::of_holder(black_box(&entry))))
    });
    group.finish();
}

fn clock(c: &mut Criterion) {
    let clock = Clock::system();
    c.bench_function("clock", |b| b.iter(|| clock.now()));
}

/// What a sign-in reads out of the user agent.
fn user_agent(c: &mut Criterion) {
    let hints = ClientHints::default();
    let describe = |user_agent: &str| device::describe(Some(black_box(user_agent)), &hints);
    let mut group = c.benchmark_group("user agent");
    group.bench_function("remembered", |b| b.iter(|| describe(USER_AGENT)));
    let others: Vec<String> = (0..NEW_AGENTS).map(|n| format!("{USER_AGENT}.{n}")).collect();
    let mut others = others.iter().cycle();
    group.bench_function("new", |b| {
        b.iter(|| describe(others.next().expect("they go round")))
    });
    group.finish();
}

fn fill(cache: &SessionCache, session: Session) {
    let filled = cache.begin_fill(session.id).finish(session);
    drop(filled);
}

/// Ids that are alike in nothing and the same in every run: SplitMix64 (Steele, Lea, Flood 2014), twice for each.
fn random_ids() -> impl Iterator<Item = SessionId> {
    let mut state = 0_u64;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    iter::repeat_with(move || {
        let bytes = u128::from(next()) << 64 | u128::from(next());
        SessionId::from_bytes(bytes.to_be_bytes())
    })
}

/// A session as most are: somebody's, in a browser, at a place.
fn session(id: SessionId) -> Session {
    let now = Timestamp::from_millis(1_800_000_000_000);
    Session {
        id,
        app: AppName::default_app(),
        user_id: UserId::parse("ada-1"),
        client_session_id: None,
        token_hash: Secret::random().hash(),
        replaced: None,
        name: None,
        is_trusted: false,
        user_agent: Some(USER_AGENT.to_owned()),
        device: device::describe(Some(USER_AGENT), &ClientHints::default()),
        place: Some(Place {
            city: None,
            country: "DE".to_owned(),
        }),
        ip_address: Some([203, 0, 113, 7].into()),
        last_ip_address: None,
        created_at: now,
        signed_in_at: now,
        authenticated_at: Some(now),
        last_activity_at: now,
        idle_timeout_millis: 86_400_000,
        absolute_expires_at: now.plus_millis(7 * 86_400_000),
        ending: None,
        auth: None,
        identities: None,
        data_version: 0,
    }
}
