//! Interleavings, each forced: somebody is held at a gate while something else happens.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use sessiond::error::Error;
use sessiond::manager::{SignIn, Use};
use sessiond::session::{EndedBy, Reason};
use sessiond::store::memory::MemoryStore;
use sessiond::store::{Owner, SessionPatch, SessionStore, StatusFilter, UserPatch};
use sessiond::sweeper;
use sessiond::touch::PendingTouches;
use tokio::task::JoinSet;

use crate::stores::{
    Checked, Hold, Managed, address, app, at, check, database_in, ended, event_rows, how, is_pending, logout,
    new_session, put, soon, used_from, user,
};

pub fn rename(name: &str) -> SessionPatch {
    SessionPatch {
        name: Some(Some(name.to_owned())),
        ..SessionPatch::default()
    }
}

fn maximum(max: u32) -> UserPatch {
    UserPatch {
        max_sessions: Some(Some(max)),
        ..UserPatch::default()
    }
}

pub async fn set_maximum(m: &Managed, name: &str, max: u32) {
    m.manager
        .update_user(&app(), user(name), maximum(max), EndedBy::App)
        .await
        .expect("the maximum is set");
}

/// Keeps the writer busy, so that what is asked of it from now on gathers in its queue.
pub async fn busy(m: &Managed) -> Hold {
    let mut hold = m.probe.after_announce.hold_next();
    drop(m.sqlite.expire(at(0), 1));
    hold.arrived().await;
    hold
}

/// Only one session fits into the cache.
pub async fn with_tiny_cache() -> Managed {
    Managed::start_with(|config| config.cache.capacity = 1).await
}

/// Lets another session take the only place in the cache.
pub async fn crowd_out(m: &Managed) {
    let evicted = m.manager.metrics().cache.evictions.get();
    let other = m.sign_in("another").await;
    m.look_at(&other.token).await;
    assert_eq!(m.manager.metrics().cache.evictions.get(), evicted + 1);
}

#[tokio::test]
async fn reader_held_up_while_its_session_is_revoked_caches_nothing_and_is_refused() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let mut held = m.probe.after_find.hold_next();
    let reader = m.spawn_check(&ada.token, Use::Touch(None));
    held.arrived().await;
    m.revoke(ada.session.id).await;
    held.let_go();
    assert_eq!(
        soon("the reader", reader).await.expect("an answer"),
        ended("logout")
    );
    assert_eq!(m.use_token(&ada.token).await, ended("logout"));
    assert_eq!(m.manager.metrics().cache.entries.get(), 0);
}

#[tokio::test]
async fn reader_that_comes_while_the_fence_is_up_caches_nothing() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let mut fenced = m.probe.after_fence.hold_next();
    let manager = Arc::clone(&m.manager);
    let revoking = tokio::spawn(async move {
        manager
            .revoke(&app(), ada.session.id, Owner::Anyone, logout())
            .await
    });
    fenced.arrived().await;
    let before = m.use_token(&ada.token).await;
    assert_eq!(
        before,
        Checked::Active(at(0)),
        "nobody was told yet that it ended"
    );
    fenced.let_go();
    soon("the revocation", revoking)
        .await
        .expect("it runs")
        .expect("revoked");
    assert_eq!(m.use_token(&ada.token).await, ended("logout"));
}

#[tokio::test]
async fn reader_held_up_while_all_sessions_of_the_user_end_is_refused() {
    for is_block in [false, true] {
        let m = Managed::start().await;
        let ada = m.sign_in("ada").await;
        let mut held = m.probe.after_find.hold_next();
        let reader = m.spawn_check(&ada.token, Use::Touch(None));
        held.arrived().await;
        let reason = if is_block {
            let patch = UserPatch {
                is_blocked: Some(true),
                ..UserPatch::default()
            };
            m.manager
                .update_user(&app(), user("ada"), patch, EndedBy::App)
                .await
                .expect("blocked");
            "user_blocked"
        } else {
            let count = m
                .manager
                .revoke_user_sessions(&app(), user("ada"), None, logout())
                .await;
            assert_eq!(count.expect("ended"), 1);
            "logout"
        };
        held.let_go();
        assert_eq!(
            soon("the reader", reader).await.expect("an answer"),
            ended(reason)
        );
        assert_eq!(m.use_token(&ada.token).await, ended(reason));
    }
}

#[tokio::test]
async fn reader_held_up_while_its_session_is_evicted_is_refused() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    set_maximum(&m, "ada", 1).await;
    let mut held = m.probe.after_find.hold_next();
    let reader = m.spawn_check(&ada.token, Use::Touch(None));
    held.arrived().await;
    m.sign_in("ada").await;
    held.let_go();
    let refused = ended("session_limit_exceeded");
    assert_eq!(soon("the reader", reader).await.expect("an answer"), refused);
    assert_eq!(m.use_token(&ada.token).await, refused);
}

#[tokio::test]
async fn reader_held_up_while_its_session_is_renamed_answers_the_new_name() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let mut held = m.probe.after_find.hold_next();
    let manager = Arc::clone(&m.manager);
    let id = ada.session.id;
    let reader = tokio::spawn(async move { manager.touch(&app(), id, None).await });
    held.arrived().await;
    m.manager
        .update(&app(), id, Owner::Anyone, rename("desk"))
        .await
        .expect("renamed");
    held.let_go();
    let session = soon("the reader", reader)
        .await
        .expect("it runs")
        .expect("active");
    assert_eq!(session.name.as_deref(), Some("desk"));
    let session = m.manager.touch(&app(), id, None).await.expect("active");
    assert_eq!(session.name.as_deref(), Some("desk"), "from the cache");
}

#[tokio::test]
async fn observer_that_checks_the_token_at_once_is_refused() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    let heard = Arc::new(Mutex::new(None));
    let (manager, token, runtime) = (
        Arc::clone(&m.manager),
        ada.token.clone(),
        tokio::runtime::Handle::current(),
    );
    let result = Arc::clone(&heard);
    m.probe.observe(move |committed| {
        if !committed.ended.is_empty() {
            let checked = runtime.block_on(check(&manager, &token, Use::Touch(None)));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(checked);
        }
    });
    m.revoke(ada.session.id).await;
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner).take();
    assert_eq!(heard, Some(ended("logout")));
}

#[tokio::test]
async fn revoke_whose_client_went_away_is_committed_and_uncached() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    let busy = busy(&m).await;
    let app = app();
    let mut revoking = Box::pin(m.manager.revoke(&app, ada.session.id, Owner::Anyone, logout()));
    assert!(is_pending(&mut revoking).await, "it waits in the queue");
    drop(revoking);
    busy.let_go();
    m.sign_in("bob").await; // behind it in the queue
    assert_eq!(m.use_token(&ada.token).await, ended("logout"));
    assert_eq!(
        m.event_types(),
        ["session.created", "session.revoked", "session.created"]
    );
}

#[tokio::test]
async fn two_parallel_revokes_are_one_ending_and_one_event() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let busy = busy(&m).await;
    let app = app();
    let by = |reason| sessiond::manager::Revocation::new(reason, EndedBy::App);
    let mut first = Box::pin(
        m.manager
            .revoke(&app, ada.session.id, Owner::Anyone, by(Reason::LOGOUT)),
    );
    let mut second = Box::pin(
        m.manager
            .revoke(&app, ada.session.id, Owner::Anyone, by(Reason::MANUAL)),
    );
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    busy.let_go();
    soon("the first", first).await.expect("revoked");
    soon("the second", second).await.expect("revoked again");
    assert_eq!(m.event_types(), ["session.created", "session.revoked"]);
    assert_eq!(
        how(&m.stored(ada.session.id).await),
        Some((at(0), "logout", EndedBy::App))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_parallel_revokes_are_one_event_each() {
    let m = Managed::start().await;
    let mut sessions = Vec::new();
    for n in 0..20 {
        sessions.push(m.sign_in(&format!("user{n}")).await);
    }
    let mut tasks = JoinSet::new();
    for session in sessions.iter().chain(&sessions).chain(&sessions) {
        let (manager, id) = (Arc::clone(&m.manager), session.session.id);
        tasks.spawn(async move { manager.revoke(&app(), id, Owner::Anyone, logout()).await });
    }
    for result in soon("the revocations", tasks.join_all()).await {
        result.expect("revoked, or already");
    }
    let count = |kind| m.event_types().iter().filter(|told| *told == kind).count();
    assert_eq!((count("session.created"), count("session.revoked")), (20, 20));
}

#[tokio::test]
async fn create_before_a_revoke_of_all_is_ended_by_it_and_one_after_lives() {
    let m = Managed::start().await;
    let busy = busy(&m).await;
    let app = app();
    let sign_in = || SignIn {
        user_id: Some(user("ada")),
        ..SignIn::default()
    };
    let mut before = Box::pin(m.manager.create(&app, sign_in()));
    let mut revoking = Box::pin(m.manager.revoke_user_sessions(&app, user("ada"), None, logout()));
    let mut after = Box::pin(m.manager.create(&app, sign_in()));
    // All three in one commit, in this order.
    assert!(is_pending(&mut before).await);
    assert!(is_pending(&mut revoking).await);
    assert!(is_pending(&mut after).await);
    busy.let_go();
    let before = soon("the first", before).await.expect("created");
    assert_eq!(soon("the ending", revoking).await.expect("ended"), 1);
    let after = soon("the last", after).await.expect("created");
    assert_eq!(m.use_token(&before.token).await, ended("logout"));
    assert_eq!(m.use_token(&after.token).await, Checked::Active(at(0)));
    assert_eq!(
        m.event_types(),
        [
            "session.created",
            "session.revoked",
            "user.sessions_revoked",
            "session.created"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_parallel_creates_leave_the_maximum_and_evict_the_rest() {
    let m = Managed::start().await;
    set_maximum(&m, "ada", 3).await;
    let barrier = Arc::new(tokio::sync::Barrier::new(200));
    let mut tasks = JoinSet::new();
    for _ in 0..200 {
        let (manager, barrier) = (Arc::clone(&m.manager), Arc::clone(&barrier));
        tasks.spawn(async move {
            barrier.wait().await;
            let sign_in = SignIn {
                user_id: Some(user("ada")),
                ..SignIn::default()
            };
            manager.create(&app(), sign_in).await
        });
    }
    let signed_in: Vec<_> = soon("the sign-ins", tasks.join_all())
        .await
        .into_iter()
        .map(|result| result.expect("created"))
        .collect();
    let view = m.manager.find_user(&app(), user("ada")).await.expect("a view");
    assert_eq!(view.record.active_count, 3);
    let count = |kind| m.event_types().iter().filter(|told| *told == kind).count();
    assert_eq!((count("session.created"), count("session.evicted")), (200, 197));

    let told_evicted: usize = signed_in.iter().map(|signed_in| signed_in.evicted.len()).sum();
    assert_eq!(
        told_evicted, 197,
        "each was answered to the sign-in that caused it"
    );
    let mut active = 0;
    for signed_in in &signed_in {
        match m.use_token(&signed_in.token).await {
            Checked::Active(_) => active += 1,
            refused => assert_eq!(refused, ended("session_limit_exceeded")),
        }
    }
    assert_eq!(active, 3);
}

#[tokio::test]
async fn late_update_of_an_ended_session_changes_nothing() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let busy = busy(&m).await;
    let app = app();
    let id = ada.session.id;
    let mut revoking = Box::pin(m.manager.revoke(&app, id, Owner::Anyone, logout()));
    let mut late = Box::pin(m.manager.update(&app, id, Owner::Anyone, rename("late")));
    assert!(is_pending(&mut revoking).await && is_pending(&mut late).await);
    busy.let_go();
    soon("the revocation", revoking).await.expect("revoked");
    let refused = soon("the update", late).await;
    assert!(matches!(refused, Err(Error::SessionEnded(_))), "{refused:?}");
    let stored = m.stored(id).await;
    assert_eq!(
        (stored.name.as_deref(), how(&stored)),
        (None, Some((at(0), "logout", EndedBy::App)))
    );
}

#[tokio::test]
async fn late_touch_of_an_ended_session_changes_nothing() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let id = ada.session.id;
    m.advance(10);
    m.use_token(&ada.token).await; // pending when the session ends
    let mut held = m.probe.after_find.hold_next();
    m.manager
        .update(&app(), id, Owner::Anyone, rename("uncached"))
        .await
        .expect("renamed");
    let manager = Arc::clone(&m.manager);
    let late = tokio::spawn(async move { manager.touch(&app(), id, Some(address("192.0.2.9"))).await });
    held.arrived().await;
    m.revoke(id).await;
    held.let_go();
    let refused = soon("the touch", late).await.expect("it runs");
    assert!(matches!(refused, Err(Error::SessionEnded(_))), "{refused:?}");

    m.manager.flush_touches().await.expect("flushed");
    let stored = m.stored(id).await;
    assert_eq!(how(&stored), Some((at(10), "logout", EndedBy::App)));
    assert_eq!((stored.last_activity_at, stored.ip_address), (at(10), None));
    assert_eq!(m.use_token(&ada.token).await, ended("logout"));
}

/// A session whose stored deadline has passed, but which was used in time; the use is only in memory.
async fn used_in_time(m: &Managed) -> sessiond::manager::SignedIn {
    let ada = m.sign_in("ada").await;
    m.advance(90);
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(90)));
    m.advance(30);
    assert_eq!(m.stored(ada.session.id).await.expires_at(), at(100));
    ada
}

#[tokio::test]
async fn sweeper_spares_a_session_whose_use_is_still_in_memory() {
    let m = Managed::start().await;
    let ada = used_in_time(&m).await;
    assert_eq!(m.manager.expire_overdue(10).await.expect("swept"), 0);
    assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(90)));
    assert_eq!(
        m.stored(ada.session.id).await.expires_at(),
        at(190),
        "written on the way"
    );
}

#[tokio::test]
async fn counts_and_lists_know_of_a_use_still_in_memory() {
    let m = Managed::start().await;
    let ada = used_in_time(&m).await;
    let view = m.manager.find_user(&app(), user("ada")).await.expect("a view");
    assert_eq!(view.record.active_count, 1);

    let m2 = Managed::start().await;
    let ada2 = used_in_time(&m2).await;
    let page = m2
        .manager
        .list_user(&app(), user("ada"), StatusFilter::Active, None, 10)
        .await
        .expect("a page");
    assert_eq!((page.total_count, page.active_count), (1, 1));
    assert_eq!(page.sessions[0].last_activity_at, at(90));

    let m3 = Managed::start().await;
    let ada3 = used_in_time(&m3).await;
    let page = m3
        .manager
        .list_app(&app(), false, StatusFilter::Active, None, 10)
        .await
        .expect("a page");
    assert_eq!(page.sessions.len(), 1);
    for (m, ada) in [(&m, ada), (&m2, ada2), (&m3, ada3)] {
        assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(90)));
    }
}

#[tokio::test]
async fn limit_counts_a_session_whose_use_is_still_in_memory() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    set_maximum(&m, "ada", 1).await;
    m.advance(90);
    m.use_token(&ada.token).await;
    m.advance(30);
    let next = m.sign_in("ada").await;
    let evicted: Vec<_> = next.evicted.iter().map(|session| session.id).collect();
    assert_eq!(evicted, [ada.session.id], "it was active, so that it is evicted");
    assert_eq!(
        m.event_types(),
        ["session.created", "session.evicted", "session.created"]
    );
}

#[tokio::test]
async fn revoke_of_a_session_whose_use_is_still_in_memory_is_a_revocation() {
    let m = Managed::start().await;
    let ada = used_in_time(&m).await;
    m.revoke(ada.session.id).await;
    assert_eq!(
        how(&m.stored(ada.session.id).await),
        Some((at(120), "logout", EndedBy::App))
    );
}

#[tokio::test]
async fn session_lives_while_the_flush_of_its_use_is_in_flight() {
    let m = with_tiny_cache().await;
    let ada = m.sign_in("ada").await;
    m.advance(90);
    let bob = m.sign_in("bob").await;
    m.use_token(&ada.token).await;
    m.advance(20);
    let mut flushing = m.probe.after_fence.hold_next();
    let manager = Arc::clone(&m.manager);
    let flush = tokio::spawn(async move { manager.flush_touches().await });
    flushing.arrived().await;
    m.look_at(&bob.token).await; // takes the only place in the cache
    let held = m.look_at(&ada.token).await;
    let session = m
        .manager
        .find(&app(), ada.session.id, &Owner::Anyone)
        .await
        .expect("there");
    flushing.let_go();
    soon("the flush", flush).await.expect("it runs").expect("flushed");
    assert_eq!(held, Checked::Active(at(90)), "while it is written");
    assert_eq!(session.last_activity_at, at(90), "while it is written");
    assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(90)), "afterwards");
    sweeper::tick(&m.manager).await.expect("swept");
    assert_eq!(
        m.look_at(&ada.token).await,
        Checked::Active(at(90)),
        "after a sweep"
    );
}

#[tokio::test]
async fn sweep_held_between_due_touches_and_endings_spares_what_was_used() {
    let m = Managed::start().await;
    let ada = used_in_time(&m).await;
    let mut held = m.probe.after_due.hold_next();
    let manager = Arc::clone(&m.manager);
    let sweep = tokio::spawn(async move { manager.expire_overdue(10).await });
    held.arrived().await;
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(120)));
    held.let_go();
    assert_eq!(
        soon("the sweep", sweep).await.expect("it runs").expect("swept"),
        0
    );
    assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(120)));
    m.manager.flush_touches().await.expect("flushed");
    assert_eq!(m.stored(ada.session.id).await.last_activity_at, at(120));
}

#[tokio::test]
async fn touch_written_while_a_row_is_read_is_not_lost_to_the_reader() {
    for (case, secs_later) in [("the row is active", 5), ("the row is over", 20)] {
        let m = with_tiny_cache().await;
        let ada = m.sign_in("ada").await;
        m.advance(90);
        m.use_token(&ada.token).await;
        crowd_out(&m).await;
        m.advance(secs_later);
        let mut held = m.probe.after_find.hold_next();
        let reader = m.spawn_check(&ada.token, Use::Look);
        held.arrived().await;
        assert_eq!(m.stored(ada.session.id).await.last_activity_at, at(0), "{case}");
        m.manager.flush_touches().await.expect("flushed");
        held.let_go();
        let answer = soon("the reader", reader).await.expect("an answer");
        assert_eq!(answer, Checked::Active(at(90)), "{case}");
        assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(90)), "{case}");
        assert_eq!(m.probe.finds(), 4, "{case}: ada, the other, and ada twice");
    }
}

#[tokio::test]
async fn touch_written_while_a_session_is_looked_up_by_id_is_not_lost_to_the_reader() {
    let m = Managed::start().await;
    let ada = used_in_time(&m).await;
    let mut held = m.probe.after_find.hold_next();
    let (manager, id) = (Arc::clone(&m.manager), ada.session.id);
    let reader = tokio::spawn(async move { manager.find(&app(), id, &Owner::Anyone).await });
    held.arrived().await;
    m.manager.flush_touches().await.expect("flushed");
    held.let_go();
    let session = soon("the reader", reader).await.expect("it runs").expect("there");
    assert_eq!(session.last_activity_at, at(90));
    assert!(session.is_active(at(120)), "it was used in time");
}

#[tokio::test]
async fn use_through_a_copy_that_could_not_be_cached_reaches_the_cached_one() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    m.advance(50);
    // Its row changes each time it is read, so that in the end it answers from a copy of its own.
    let mut held = m.probe.after_find.hold_next();
    let reader = m.spawn_check(&ada.token, Use::Touch(None));
    for n in 0..3 {
        held.arrived().await;
        m.manager
            .update(&app(), ada.session.id, Owner::Anyone, rename(&n.to_string()))
            .await
            .expect("renamed");
        if n == 2 {
            assert_eq!(
                m.look_at(&ada.token).await,
                Checked::Active(at(0)),
                "cached by another"
            );
            break;
        }
        let next = m.probe.after_find.hold_next();
        std::mem::replace(&mut held, next).let_go();
    }
    held.let_go();
    assert_eq!(
        soon("the reader", reader).await.expect("an answer"),
        Checked::Active(at(50))
    );
    m.manager.flush_touches().await.expect("flushed");
    assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(50)));
    m.advance(70);
    assert_eq!(
        m.look_at(&ada.token).await,
        Checked::Active(at(50)),
        "its deadline is 150, whichever copy is asked"
    );
}

#[tokio::test]
async fn address_used_while_its_touch_is_written_is_told_once() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let [home, train, office] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(address);
    let from = |address| check(&m.manager, &ada.token, Use::Touch(Some(address)));
    from(home).await;
    from(train).await;
    from(office).await;
    let mut flushing = m.probe.after_fence.hold_next();
    let manager = Arc::clone(&m.manager);
    let flush = tokio::spawn(async move { manager.flush_touches().await });
    flushing.arrived().await;
    m.advance(1);
    from(office).await;
    flushing.let_go();
    soon("the flush", flush).await.expect("it runs").expect("flushed");
    m.manager.flush_touches().await.expect("flushed");

    let stored = m.stored(ada.session.id).await;
    assert_eq!(
        (stored.last_activity_at, stored.ip_address, stored.last_ip_address),
        (at(1), Some(home), Some(office))
    );
    let told: Vec<_> = event_rows(&database_in(&m.dir))
        .into_iter()
        .filter(|event| event.kind == "session.activity")
        .map(|event| event.ip_address.expect("an address"))
        .collect();
    assert_eq!(
        told,
        [office.to_string()],
        "of several at once the latest, and once"
    );
}

#[tokio::test]
async fn touch_that_is_written_twice_takes_nothing_from_a_later_one() {
    let session = put(&MemoryStore::new(), new_session("ada", at(0))).await;
    let touches = PendingTouches::default();
    touches.note(&session, at(1), Some(used_from(address("192.0.2.1"))));
    let queued = touches.all();
    touches.written(&queued); // as due, by a batch before the flush
    touches.note(&session, at(1), Some(used_from(address("192.0.2.2"))));
    touches.written(&queued); // by the flush
    let pending = touches.get(session.id).expect("the later one");
    assert_eq!(pending.first_address, Some(used_from(address("192.0.2.2"))));
}

#[tokio::test]
async fn touch_that_is_written_in_two_states_leaves_nothing() {
    let session = put(&MemoryStore::new(), new_session("ada", at(0))).await;
    let touches = PendingTouches::default();
    let mut states = Vec::new();
    for number in 1..=3 {
        let from = used_from(address(&format!("192.0.2.{number}")));
        touches.note(&session, at(1), Some(from));
        states.extend(touches.all());
    }
    touches.written(&states[1..]);
    assert_eq!(touches.get(session.id), None);
}

#[tokio::test]
async fn evicted_copy_keeps_the_latest_use() {
    let m = with_tiny_cache().await;
    let ada = m.sign_in("ada").await;
    m.advance(50);
    m.use_token(&ada.token).await;
    crowd_out(&m).await;
    assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(50)));
    crowd_out(&m).await;
    m.advance(70);
    assert_eq!(
        m.stored(ada.session.id).await.last_activity_at,
        at(0),
        "still in memory"
    );
    assert_eq!(
        m.look_at(&ada.token).await,
        Checked::Active(at(50)),
        "past the stored deadline"
    );
    m.manager.flush_touches().await.expect("flushed");
    crowd_out(&m).await;
    assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(50)), "written");
}

#[tokio::test]
async fn cached_session_is_not_read_again_and_an_ended_one_is_not_cached() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    for _ in 0..5 {
        assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    }
    assert_eq!(m.probe.finds(), 1, "one miss");
    m.revoke(ada.session.id).await;
    for _ in 0..2 {
        assert_eq!(m.use_token(&ada.token).await, ended("logout"));
    }
    assert_eq!(m.probe.finds(), 3, "each asks the store");
    assert_eq!(m.manager.metrics().cache.entries.get(), 0);
}

#[tokio::test]
async fn ten_thousand_checks_of_a_second_are_one_write_transaction() {
    let m = Managed::start().await;
    let mut sessions = Vec::new();
    for n in 0..100 {
        sessions.push(m.sign_in(&format!("user{n}")).await);
    }
    m.advance(20);
    let touched = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&touched);
    m.probe.observe(move |committed| {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(committed.touched.len());
    });
    for _ in 0..100 {
        for session in &sessions {
            assert_eq!(m.use_token(&session.token).await, Checked::Active(at(20)));
        }
    }
    let before_the_flush = touched.lock().unwrap_or_else(PoisonError::into_inner).len();
    assert_eq!(before_the_flush, 0, "a check writes nothing");
    m.manager.flush_touches().await.expect("flushed");
    m.manager.flush_touches().await.expect("nothing is left to flush");
    let transactions = touched.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(transactions, [100], "touches by transaction");
    assert_eq!(m.probe.finds(), 100, "each session was read once");
}

#[tokio::test]
async fn touches_that_cannot_be_written_are_counted_and_kept() {
    let m = Managed::start().await;
    let ada = used_in_time(&m).await;
    m.probe.fails_touches.store(true, Ordering::SeqCst);
    for failures in 1..=3 {
        assert!(m.manager.flush_touches().await.is_err());
        assert_eq!(m.manager.metrics().touch_flush_failures.get(), failures);
        assert_eq!(m.look_at(&ada.token).await, Checked::Active(at(90)));
    }
    m.probe.fails_touches.store(false, Ordering::SeqCst);
    m.manager.flush_touches().await.expect("flushed");
    assert_eq!(m.stored(ada.session.id).await.last_activity_at, at(90));
}

#[tokio::test]
async fn broken_store_is_an_error_and_never_an_unknown_session() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let bob = m.sign_in("bob").await;
    m.use_token(&ada.token).await;
    m.probe.fails_reads.store(true, Ordering::SeqCst);
    assert_eq!(
        m.use_token(&ada.token).await,
        Checked::Active(at(0)),
        "from the cache"
    );
    let answer = m
        .manager
        .check(&app(), &bob.token, Use::Touch(None), &Default::default())
        .await;
    assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
    m.probe.fails_reads.store(false, Ordering::SeqCst);
    assert_eq!(m.use_token(&bob.token).await, Checked::Active(at(0)));
}
