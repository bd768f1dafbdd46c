//! Interleavings of what gives a session another token: renewals and sign-ins. Each is forced.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use sessiond::data::DataChange;
use sessiond::error::Error;
use sessiond::manager::{Refusal, RenewAnswer, SignIn, SignedIn, Use};
use sessiond::session::{EndedBy, IdentityPatch, Secret, Session, SessionId, Token};
use sessiond::store::{DataPatch, Owner, SessionPatch};
use tokio::sync::Barrier;
use tokio::task::{JoinHandle, JoinSet};

use crate::races::{busy, crowd_out, rename, set_maximum, with_tiny_cache};
use crate::stores::{Checked, Hold, Managed, app, at, check, ended, how, is_pending, logout, soon, user};

/// How long a replaced token stays good by default, in seconds.
const GRACE: u64 = 30;

const REPLACED: Checked = Checked::Refused("token_replaced");
const INVALID: Checked = Checked::Refused("invalid_token");

async fn renew(m: &Managed, token: &Token) -> RenewAnswer {
    let answer = m.manager.renew(&app(), token, None).await;
    answer.expect("the store can be written")
}

/// The successor.
#[track_caller]
fn renewed(answer: RenewAnswer) -> Token {
    match answer {
        RenewAnswer::Renewed { token, .. } => token,
        RenewAnswer::Refused(refusal) => panic!("{refusal:?}"),
    }
}

/// The reason of the ending that a renewal was refused with.
#[track_caller]
fn ended_by(answer: RenewAnswer) -> (String, EndedBy) {
    match answer {
        RenewAnswer::Refused(Refusal::SessionEnded(ending)) => (ending.reason.as_str().to_owned(), ending.by),
        other => panic!("{other:?}"),
    }
}

async fn visit(m: &Managed) -> SignedIn {
    let visit = m.manager.create(&app(), SignIn::default()).await;
    visit.expect("started")
}

async fn authenticate(m: &Managed, id: SessionId, name: &str) -> Result<SignedIn, Error> {
    m.manager
        .authenticate(&app(), id, user(name), SignIn::default())
        .await
}

/// A session whose token was renewed; nobody has presented the successor.
async fn with_renewal(m: &Managed) -> (SignedIn, Token) {
    let ada = m.sign_in("ada").await;
    let successor = renewed(renew(m, &ada.token).await);
    (ada, successor)
}

/// The same, and the successor was presented.
async fn with_grace_begun(m: &Managed) -> (SignedIn, Token) {
    let (ada, successor) = with_renewal(m).await;
    assert!(is_active(m.look_at(&successor).await));
    (ada, successor)
}

fn is_active(checked: Checked) -> bool {
    matches!(checked, Checked::Active(_))
}

fn flush(m: &Managed) -> JoinHandle<Result<(), Error>> {
    let manager = Arc::clone(&m.manager);
    tokio::spawn(async move { manager.flush_touches().await })
}

fn advance_to_last_moment_of_grace(m: &Managed) {
    m.clock.advance(Duration::from_millis(GRACE * 1_000 - 1));
}

fn advance_a_moment(m: &Managed) {
    m.clock.advance(Duration::from_millis(1));
}

/// A reader who is held with a row that cannot be cached: it has changed each time it was read.
async fn reader_with_old_copy(m: &Managed, token: &Token) -> (JoinHandle<Checked>, Hold) {
    let mut held = m.probe.after_find.hold_next();
    let reader = m.spawn_check(token, Use::Look);
    for n in 0..3 {
        held.arrived().await;
        m.manager
            .update(&app(), token.id(), Owner::Anyone, rename(&n.to_string()))
            .await
            .expect("renamed");
        if n < 2 {
            let next = m.probe.after_find.hold_next();
            std::mem::replace(&mut held, next).let_go();
        }
    }
    (reader, held)
}

fn count(m: &Managed, kind: &str) -> usize {
    m.event_types().iter().filter(|told| *told == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_holders_who_renew_at_once_get_one_successor() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let barrier = Arc::new(Barrier::new(50));
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let (manager, token, barrier) = (Arc::clone(&m.manager), ada.token.clone(), Arc::clone(&barrier));
        tasks.spawn(async move {
            barrier.wait().await;
            manager.renew(&app(), &token, None).await
        });
    }
    let mut successors: Vec<String> = soon("the renewals", tasks.join_all())
        .await
        .into_iter()
        .map(|answer| renewed(answer.expect("written")).reveal())
        .collect();
    successors.dedup();
    assert_eq!(successors.len(), 1, "all got the same one");
    assert_ne!(successors[0], ada.token.reveal());
    assert_eq!(m.event_types(), ["session.created", "session.renewed"]);
    let successor = Token::parse(&successors[0]).expect("a token");
    assert_eq!(m.use_token(&successor).await, Checked::Active(at(0)));
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
}

#[tokio::test]
async fn holders_who_renew_in_one_commit_get_one_successor() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let busy = busy(&m).await;
    let app = app();
    let mut first = Box::pin(m.manager.renew(&app, &ada.token, None));
    let mut second = Box::pin(m.manager.renew(&app, &ada.token, None));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    busy.let_go();
    let first = renewed(soon("the first", first).await.expect("written"));
    let second = renewed(soon("the second", second).await.expect("written"));
    assert_eq!(first.reveal(), second.reveal());
    assert_eq!(m.event_types(), ["session.created", "session.renewed"]);
}

#[tokio::test]
async fn reader_held_up_while_its_token_is_renewed_leaves_both_tokens_judged_rightly() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let mut held = m.probe.after_find.hold_next();
    let reader = m.spawn_check(&ada.token, Use::Touch(None));
    held.arrived().await;
    let successor = renewed(renew(&m, &ada.token).await);
    held.let_go();
    let answer = soon("the reader", reader).await.expect("an answer");
    assert_eq!(answer, Checked::Active(at(0)), "its successor was not seen");
    assert_eq!(m.use_token(&successor).await, Checked::Active(at(0)));
    m.advance(GRACE);
    assert_eq!(m.use_token(&ada.token).await, REPLACED);
    assert_eq!(m.use_token(&successor).await, Checked::Active(at(30)));
}

#[tokio::test]
async fn reader_that_comes_while_a_renewal_is_fenced_keeps_no_old_copy() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let mut fenced = m.probe.after_fence.hold_next();
    let (manager, token) = (Arc::clone(&m.manager), ada.token.clone());
    let renewing = tokio::spawn(async move { manager.renew(&app(), &token, None).await });
    fenced.arrived().await;
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    fenced.let_go();
    let answer = soon("the renewal", renewing).await.expect("it runs");
    let successor = renewed(answer.expect("written"));
    assert_eq!(
        m.use_token(&successor).await,
        Checked::Active(at(0)),
        "a copy from before would not know it"
    );
}

/// Which of its tokens a session's holder presents while the session gets a user.
#[derive(Debug, Clone, Copy)]
enum Old {
    Only,
    InGrace,
    Successor,
}

/// A visitor's session, the token its holder presents, and what that is answered after a sign-in.
async fn visit_with(m: &Managed, old: Old) -> (SessionId, Token, Checked) {
    let visit = visit(m).await;
    let (token, refused) = match old {
        Old::Only => (visit.token.clone(), REPLACED),
        Old::InGrace => {
            renewed(renew(m, &visit.token).await);
            // Only the last replaced token is recognised.
            (visit.token.clone(), INVALID)
        }
        Old::Successor => (renewed(renew(m, &visit.token).await), REPLACED),
    };
    (visit.session.id, token, refused)
}

#[tokio::test]
async fn reader_held_up_while_its_session_gets_a_user_is_refused() {
    for old in [Old::Only, Old::InGrace, Old::Successor] {
        let m = Managed::start().await;
        let (id, token, refused) = visit_with(&m, old).await;
        let mut held = m.probe.after_find.hold_next();
        let reader = m.spawn_check(&token, Use::Touch(None));
        held.arrived().await;
        let signed_in = authenticate(&m, id, "ada").await.expect("signed in");
        assert_eq!(m.use_token(&token).await, refused, "{old:?}, after the answer");
        held.let_go();
        let answer = soon("the reader", reader).await.expect("an answer");
        assert_eq!(answer, refused, "{old:?}");
        assert_eq!(m.use_token(&token).await, refused, "{old:?}, afterwards");
        assert_eq!(m.use_token(&signed_in.token).await, Checked::Active(at(0)));
    }
}

#[tokio::test]
async fn token_of_before_a_sign_in_is_refused_from_the_cache_too() {
    for old in [Old::Only, Old::InGrace, Old::Successor] {
        let m = Managed::start().await;
        let (id, token, refused) = visit_with(&m, old).await;
        assert_eq!(
            m.use_token(&token).await,
            Checked::Active(at(0)),
            "{old:?}, cached"
        );
        authenticate(&m, id, "ada").await.expect("signed in");
        for when in ["read", "cached"] {
            assert_eq!(m.use_token(&token).await, refused, "{old:?}, {when}");
        }
    }
}

#[tokio::test]
async fn observer_of_a_sign_in_that_checks_an_older_token_at_once_is_refused() {
    let m = Managed::start().await;
    let visit = visit(&m).await;
    assert_eq!(m.use_token(&visit.token).await, Checked::Active(at(0)));
    let heard = Arc::new(Mutex::new(None));
    let (manager, token, runtime) = (
        Arc::clone(&m.manager),
        visit.token.clone(),
        tokio::runtime::Handle::current(),
    );
    let result = Arc::clone(&heard);
    m.probe.observe(move |committed| {
        if !committed.changed.is_empty() {
            let checked = runtime.block_on(check(&manager, &token, Use::Touch(None)));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(checked);
        }
    });
    authenticate(&m, visit.session.id, "ada")
        .await
        .expect("signed in");
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner).take();
    assert_eq!(heard, Some(REPLACED));
}

#[tokio::test]
async fn replaced_token_is_good_until_exactly_the_end_of_its_grace() {
    for copy in ["cached", "evicted", "flushed", "restarted"] {
        let mut m = with_tiny_cache().await;
        let (ada, successor) = with_grace_begun(&m).await;
        match copy {
            "evicted" => crowd_out(&m).await,
            "flushed" | "restarted" => {
                m.manager.flush_touches().await.expect("flushed");
                crowd_out(&m).await;
            }
            _ => {}
        }
        if copy == "restarted" {
            m = m.restart_without_flush().await;
        }
        advance_to_last_moment_of_grace(&m);
        assert!(is_active(m.look_at(&ada.token).await), "{copy}");
        advance_a_moment(&m);
        assert_eq!(m.look_at(&ada.token).await, REPLACED, "{copy}");
        assert!(is_active(m.look_at(&successor).await), "{copy}");
        let other = m.sign_in("other").await;
        m.look_at(&other.token).await; // takes the only place in the cache
        assert_eq!(m.look_at(&ada.token).await, REPLACED, "{copy}, read again");
    }
}

#[tokio::test]
async fn reader_with_a_row_of_before_the_successor_was_seen_knows_the_end_of_the_grace() {
    for is_flushed in [false, true] {
        let m = with_tiny_cache().await;
        let (ada, successor) = with_renewal(&m).await;
        let mut held = m.probe.after_find.hold_next();
        let reader = m.spawn_check(&ada.token, Use::Look);
        held.arrived().await;
        assert!(is_active(m.look_at(&successor).await));
        if is_flushed {
            m.manager.flush_touches().await.expect("flushed");
        }
        m.advance(GRACE);
        held.let_go();
        let answer = soon("the reader", reader).await.expect("an answer");
        assert_eq!(answer, REPLACED, "flushed: {is_flushed}");
        assert_eq!(m.look_at(&ada.token).await, REPLACED, "flushed: {is_flushed}");
    }
}

#[tokio::test]
async fn grace_ends_while_the_flush_of_its_beginning_is_in_flight() {
    for is_evicted in [false, true] {
        let m = with_tiny_cache().await;
        let bob = m.sign_in("bob").await;
        let (ada, successor) = with_renewal(&m).await;
        let mut flushing = m.probe.after_fence.hold_next();
        assert!(is_active(m.look_at(&successor).await)); // has it written that the grace has begun
        flushing.arrived().await;
        if is_evicted {
            m.look_at(&bob.token).await; // takes the only place in the cache
        }
        advance_to_last_moment_of_grace(&m);
        let last = m.look_at(&ada.token).await;
        advance_a_moment(&m);
        let over = m.look_at(&ada.token).await;
        flushing.let_go();
        soon("the flush", m.manager.flush_touches())
            .await
            .expect("flushed");
        assert!(is_active(last), "evicted: {is_evicted}");
        assert_eq!(over, REPLACED, "evicted: {is_evicted}");
        assert_eq!(m.look_at(&ada.token).await, REPLACED, "evicted: {is_evicted}");
        assert!(is_active(m.look_at(&successor).await), "evicted: {is_evicted}");
    }
}

#[tokio::test]
async fn successor_seen_while_a_flush_is_in_flight_is_written_by_the_next() {
    let m = with_tiny_cache().await;
    let (ada, successor) = with_renewal(&m).await;
    m.advance(1);
    m.use_token(&ada.token).await; // a use for the flush to write
    let mut flushing = m.probe.after_fence.hold_next();
    let first = flush(&m);
    flushing.arrived().await;
    assert!(is_active(m.look_at(&successor).await));
    flushing.let_go();
    soon("the flush", first).await.expect("it runs").expect("flushed");
    m.advance(GRACE);
    crowd_out(&m).await;
    assert_eq!(m.look_at(&ada.token).await, REPLACED, "still in memory");
    m.manager.flush_touches().await.expect("flushed");
    let m = m.restart_without_flush().await;
    assert_eq!(m.look_at(&ada.token).await, REPLACED, "written");
}

#[tokio::test]
async fn presenting_the_successor_again_does_not_begin_the_grace_again() {
    let m = with_tiny_cache().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.advance(GRACE - 1);
    for _ in 0..2 {
        assert!(is_active(m.use_token(&successor).await));
        crowd_out(&m).await;
    }
    m.advance(1);
    assert_eq!(m.look_at(&ada.token).await, REPLACED);
}

#[tokio::test]
async fn renewing_a_successor_that_was_seen_does_not_begin_the_grace_again() {
    let m = Managed::start().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.advance(10);
    let again = renewed(renew(&m, &successor).await);
    assert_eq!(
        again.reveal(),
        successor.reveal(),
        "in the grace of the one before"
    );
    m.advance(GRACE - 10);
    assert_eq!(m.look_at(&ada.token).await, REPLACED);
}

#[tokio::test]
async fn renewal_knows_that_the_successor_was_seen_before_that_is_written() {
    let m = Managed::start().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.advance(GRACE);
    let refused = renew(&m, &ada.token).await;
    assert_eq!(ended_by(refused), ("token_reuse".to_owned(), EndedBy::Security));
    assert_eq!(m.look_at(&successor).await, ended("token_reuse"));
    assert_eq!(
        m.event_types(),
        [
            "session.created",
            "session.renewed",
            "session.suspicious",
            "session.revoked"
        ]
    );
}

#[tokio::test]
async fn sign_in_before_a_revoke_is_ended_by_it_and_one_after_finds_it_ended() {
    let m = Managed::start().await;
    let (early, late) = (visit(&m).await, visit(&m).await);
    let busy = busy(&m).await;
    let app = app();
    let sign_in = |id| m.manager.authenticate(&app, id, user("ada"), SignIn::default());
    let revoke = |id| m.manager.revoke(&app, id, Owner::Anyone, logout());
    let mut before = Box::pin(sign_in(early.session.id));
    let mut revoking_early = Box::pin(revoke(early.session.id));
    let mut revoking_late = Box::pin(revoke(late.session.id));
    let mut after = Box::pin(sign_in(late.session.id));
    // All in one commit, in this order.
    assert!(is_pending(&mut before).await && is_pending(&mut revoking_early).await);
    assert!(is_pending(&mut revoking_late).await && is_pending(&mut after).await);
    busy.let_go();
    let before = soon("the first", before).await.expect("signed in");
    soon("an ending", revoking_early).await.expect("revoked");
    soon("an ending", revoking_late).await.expect("revoked");
    let after = soon("the last", after).await;
    assert!(matches!(after, Err(Error::SessionEnded(_))), "{after:?}");
    assert_eq!(m.use_token(&before.token).await, ended("logout"));
    assert_eq!(m.use_token(&late.token).await, ended("logout"));
    assert_eq!(
        m.stored(late.session.id).await.user_id,
        None,
        "nobody's to the end"
    );
    assert_eq!(
        m.event_types()[2..],
        ["session.authenticated", "session.revoked", "session.revoked"]
    );
}

#[tokio::test]
async fn sign_in_and_create_of_one_user_are_one_after_the_other() {
    for sign_in_first in [true, false] {
        let m = Managed::start().await;
        set_maximum(&m, "ada", 1).await;
        let visit = visit(&m).await;
        let busy = busy(&m).await;
        let app = app();
        let sign_in = || {
            m.manager
                .authenticate(&app, visit.session.id, user("ada"), SignIn::default())
        };
        let create = || {
            let sign_in = SignIn {
                user_id: Some(user("ada")),
                ..SignIn::default()
            };
            m.manager.create(&app, sign_in)
        };
        let (signed_in, created) = if sign_in_first {
            let mut first = Box::pin(sign_in());
            assert!(is_pending(&mut first).await);
            let mut second = Box::pin(create());
            assert!(is_pending(&mut second).await);
            busy.let_go();
            (soon("the sign-in", first).await, soon("the create", second).await)
        } else {
            let mut first = Box::pin(create());
            assert!(is_pending(&mut first).await);
            let mut second = Box::pin(sign_in());
            assert!(is_pending(&mut second).await);
            busy.let_go();
            let created = soon("the create", first).await;
            (soon("the sign-in", second).await, created)
        };
        let (signed_in, created) = (signed_in.expect("signed in"), created.expect("created"));
        let (lives, evicted) = if sign_in_first {
            (&created, &signed_in)
        } else {
            (&signed_in, &created)
        };
        assert_eq!(m.use_token(&lives.token).await, Checked::Active(at(0)));
        assert_eq!(m.use_token(&evicted.token).await, ended("session_limit_exceeded"));
        let told: Vec<_> = lives.evicted.iter().map(|session| session.id).collect();
        assert_eq!(told, [evicted.session.id], "sign-in first: {sign_in_first}");
        assert!(evicted.evicted.is_empty(), "sign-in first: {sign_in_first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hundred_parallel_sign_ins_of_visitors_leave_the_maximum() {
    let m = Managed::start().await;
    set_maximum(&m, "ada", 3).await;
    let mut visits = Vec::new();
    for _ in 0..100 {
        visits.push(visit(&m).await);
    }
    let barrier = Arc::new(Barrier::new(100));
    let mut tasks = JoinSet::new();
    for visit in &visits {
        let (manager, barrier, id) = (Arc::clone(&m.manager), Arc::clone(&barrier), visit.session.id);
        tasks.spawn(async move {
            barrier.wait().await;
            manager
                .authenticate(&app(), id, user("ada"), SignIn::default())
                .await
        });
    }
    let signed_in: Vec<SignedIn> = soon("the sign-ins", tasks.join_all())
        .await
        .into_iter()
        .map(|result| result.expect("signed in"))
        .collect();
    let view = m.manager.find_user(&app(), user("ada")).await.expect("a view");
    assert_eq!(view.record.active_count, 3);
    assert_eq!(
        (count(&m, "session.authenticated"), count(&m, "session.evicted")),
        (100, 97)
    );
    let told: usize = signed_in.iter().map(|signed_in| signed_in.evicted.len()).sum();
    assert_eq!(told, 97, "each was answered to the sign-in that caused it");
    let mut active = 0;
    for signed_in in &signed_in {
        match m.use_token(&signed_in.token).await {
            Checked::Active(_) => active += 1,
            refused => assert_eq!(refused, ended("session_limit_exceeded")),
        }
    }
    assert_eq!(active, 3);
    for visit in &visits {
        assert_eq!(m.use_token(&visit.token).await, REPLACED, "of before the sign-in");
    }
}

/// All of the row that a late change could have changed.
fn shown(session: &Session) -> String {
    format!("{session:?} {:?}", session.token_hash.as_bytes())
}

#[tokio::test]
async fn late_changes_of_an_ended_session_leave_it_as_it_ended() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let id = ada.session.id;
    let busy = busy(&m).await;
    let app = app();
    let identity = SessionPatch {
        identity: Some(IdentityPatch {
            key: "shop".to_owned(),
            identity: Some(serde_json::Map::new()),
        }),
        ..SessionPatch::default()
    };
    let data = DataPatch {
        at: None,
        change: DataChange::Put(json!({ "late": true })),
        if_versions: None,
    };
    let mut revoking = Box::pin(m.manager.revoke(&app, id, Owner::Anyone, logout()));
    let mut renewal = Box::pin(m.manager.renew(&app, &ada.token, None));
    let mut data = Box::pin(m.manager.change_data(&app, id, data));
    let mut identity = Box::pin(m.manager.update(&app, id, Owner::Anyone, identity));
    let mut sign_in = Box::pin(m.manager.authenticate(&app, id, user("ada"), SignIn::default()));
    assert!(is_pending(&mut revoking).await && is_pending(&mut renewal).await);
    assert!(is_pending(&mut data).await && is_pending(&mut identity).await);
    assert!(is_pending(&mut sign_in).await);
    let before = m.stored(id).await;
    busy.let_go();
    soon("the revocation", revoking).await.expect("revoked");
    let refused = soon("the renewal", renewal).await.expect("an answer");
    assert_eq!(ended_by(refused), ("logout".to_owned(), EndedBy::App));
    let refused = soon("the data", data).await;
    assert!(matches!(refused, Err(Error::SessionEnded(_))), "{refused:?}");
    let refused = soon("the identity", identity).await;
    assert!(matches!(refused, Err(Error::SessionEnded(_))), "{refused:?}");
    let refused = soon("the sign-in", sign_in).await;
    assert!(matches!(refused, Err(Error::SessionEnded(_))), "{refused:?}");

    let after = m.stored(id).await;
    assert_eq!(how(&after), Some((at(0), "logout", EndedBy::App)));
    let unended = Session {
        ending: None,
        ..after
    };
    assert_eq!(shown(&unended), shown(&before));
    assert_eq!(m.event_types(), ["session.created", "session.revoked"]);
    assert_eq!(m.use_token(&ada.token).await, ended("logout"));
}

#[tokio::test]
async fn renewal_whose_client_went_away_signs_nobody_out() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    let busy = busy(&m).await;
    let app = app();
    let mut renewing = Box::pin(m.manager.renew(&app, &ada.token, None));
    assert!(is_pending(&mut renewing).await, "it waits in the queue");
    drop(renewing);
    busy.let_go();
    m.sign_in("bob").await; // behind it in the queue
    assert_eq!(count(&m, "session.renewed"), 1);
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    let successor = renewed(renew(&m, &ada.token).await);
    assert_eq!(count(&m, "session.renewed"), 1, "the same one");
    assert_eq!(m.use_token(&successor).await, Checked::Active(at(0)));
}

#[tokio::test]
async fn sign_in_whose_client_went_away_is_done_and_refuses_older_tokens() {
    let m = Managed::start().await;
    let visit = visit(&m).await;
    assert_eq!(m.use_token(&visit.token).await, Checked::Active(at(0)));
    let busy = busy(&m).await;
    let app = app();
    let sign_in = m
        .manager
        .authenticate(&app, visit.session.id, user("ada"), SignIn::default());
    let mut sign_in = Box::pin(sign_in);
    assert!(is_pending(&mut sign_in).await, "it waits in the queue");
    drop(sign_in);
    busy.let_go();
    m.sign_in("bob").await; // behind it in the queue
    assert_eq!(m.use_token(&visit.token).await, REPLACED);
    assert_eq!(m.stored(visit.session.id).await.user_id, Some(user("ada")));
}

#[tokio::test]
async fn seen_successor_is_written_at_once_and_survives_a_crash() {
    let m = Managed::start().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.advance(GRACE);
    let m = m.restart_without_flush().await;
    assert_eq!(m.look_at(&ada.token).await, REPLACED);
    assert!(is_active(m.look_at(&successor).await));
}

#[tokio::test]
async fn crash_before_a_seen_successor_can_be_written_lets_the_old_token_live_until_it_is_seen_again() {
    let m = Managed::start().await;
    m.probe.fails_touches.store(true, Ordering::SeqCst);
    let (ada, successor) = with_grace_begun(&m).await;
    m.advance(GRACE);
    let m = m.restart_without_flush().await;
    assert!(is_active(m.look_at(&ada.token).await), "nobody is signed out");
    assert!(is_active(m.look_at(&successor).await), "as good as before");
    advance_to_last_moment_of_grace(&m);
    assert!(is_active(m.look_at(&ada.token).await));
    advance_a_moment(&m);
    assert_eq!(m.look_at(&ada.token).await, REPLACED);
    assert!(is_active(m.look_at(&successor).await));
}

#[tokio::test]
async fn sign_in_and_renewal_survive_a_crash() {
    let m = Managed::start().await;
    let visit = visit(&m).await;
    let signed_in = authenticate(&m, visit.session.id, "ada")
        .await
        .expect("signed in");
    let successor = renewed(renew(&m, &signed_in.token).await);
    let m = m.restart_without_flush().await;
    assert_eq!(m.look_at(&visit.token).await, INVALID);
    assert!(is_active(m.look_at(&signed_in.token).await));
    assert!(is_active(m.look_at(&successor).await));
    let again = renewed(renew(&m, &signed_in.token).await);
    assert_eq!(again.reveal(), successor.reveal());
}

#[tokio::test]
async fn renewal_on_a_full_disk_is_an_error_and_the_old_token_stays_good() {
    let m = Managed::start_with(|config| {
        for policy in config.apps.values_mut() {
            policy.renew_grace_secs = 0;
        }
    })
    .await;
    let mut token = m.sign_in("ada").await.token;
    m.sqlite.limit_pages(1).await.expect("limited");
    // Each writes an event, so that in the end one needs a page.
    let mut renewals = 0;
    let error = loop {
        assert!(renewals < 1_000, "the disk is not full");
        match m.manager.renew(&app(), &token, None).await {
            Ok(answer) => token = renewed(answer),
            Err(error) => break error,
        }
        assert!(is_active(m.look_at(&token).await));
        renewals += 1;
    };
    assert!(matches!(error, Error::Store(_)), "{error:?}");
    assert_eq!(count(&m, "session.renewed"), renewals);
    for _ in 0..2 {
        assert!(is_active(m.look_at(&token).await), "nothing replaced it");
    }
    m.sqlite.limit_pages(1_000_000).await.expect("no longer limited");
    let successor = renewed(renew(&m, &token).await);
    assert!(is_active(m.look_at(&successor).await));
    assert_eq!(m.look_at(&token).await, REPLACED);
}

#[tokio::test]
async fn renewal_and_sign_in_into_a_full_queue_are_refused_and_change_nothing() {
    let m = Managed::start_with(|config| config.database.queue_len_max = 1).await;
    let visit = visit(&m).await;
    let busy = busy(&m).await;
    let app = app();
    let mut waiting = Box::pin(m.manager.create(&app, SignIn::default()));
    assert!(is_pending(&mut waiting).await, "it fills the queue");
    let renewal = m.manager.renew(&app, &visit.token, None).await;
    let sign_in = authenticate(&m, visit.session.id, "ada").await;
    busy.let_go();
    soon("the create", waiting).await.expect("created");
    assert!(matches!(renewal, Err(Error::Overloaded)), "{renewal:?}");
    assert!(matches!(sign_in, Err(Error::Overloaded)), "{sign_in:?}");
    assert_eq!(m.use_token(&visit.token).await, Checked::Active(at(0)));
    assert_eq!(m.event_types(), ["session.created", "session.created"]);
}

#[tokio::test]
async fn use_of_a_replaced_token_is_answered_while_the_writer_is_held_and_told_once() {
    let m = Managed::start().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.advance(GRACE);
    let busy = busy(&m).await;
    for _ in 0..10 {
        let answer = soon("a check, which waits for no writer", m.use_token(&ada.token)).await;
        assert_eq!(answer, REPLACED);
    }
    busy.let_go();
    m.sign_in("bob").await; // behind what they had written
    assert_eq!(count(&m, "session.suspicious"), 1);
    assert!(is_active(m.use_token(&successor).await), "the session goes on");
}

#[tokio::test]
async fn use_of_a_replaced_token_is_refused_when_nothing_can_be_written() {
    let m = Managed::start().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.manager.flush_touches().await.expect("flushed");
    m.advance(GRACE);
    m.sqlite.limit_pages(1).await.expect("limited");
    for _ in 0..200 {
        assert_eq!(m.use_token(&ada.token).await, REPLACED);
    }
    assert!(is_active(m.use_token(&successor).await));
}

#[tokio::test]
async fn rename_between_a_renewal_and_its_flush_keeps_the_grace() {
    let m = Managed::start().await;
    let (ada, successor) = with_grace_begun(&m).await;
    m.manager
        .update(&app(), ada.session.id, Owner::Anyone, rename("desk"))
        .await
        .expect("renamed");
    advance_to_last_moment_of_grace(&m);
    assert!(is_active(m.look_at(&ada.token).await));
    advance_a_moment(&m);
    assert_eq!(m.look_at(&ada.token).await, REPLACED);
    assert!(is_active(m.look_at(&successor).await));
}

#[tokio::test]
async fn reader_with_an_older_row_does_not_undo_that_a_later_successor_was_seen() {
    let m = with_tiny_cache().await;
    let (_, first) = with_renewal(&m).await;
    let (reader, held) = reader_with_old_copy(&m, &first).await;
    assert!(is_active(m.look_at(&first).await));
    m.advance(GRACE);
    let second = renewed(renew(&m, &first).await);
    assert!(is_active(m.look_at(&second).await));
    m.advance(GRACE);
    held.let_go();
    let answer = soon("the reader", reader).await.expect("an answer");
    assert!(is_active(answer), "it began when the token was the current one");
    crowd_out(&m).await;
    assert_eq!(m.look_at(&first).await, REPLACED);
    m.manager.flush_touches().await.expect("flushed");
    let m = m.restart_without_flush().await;
    assert_eq!(m.look_at(&first).await, REPLACED, "written");
    assert!(is_active(m.look_at(&second).await));
}

#[tokio::test]
async fn session_whose_use_is_still_in_memory_can_be_renewed_and_signed_in_with() {
    let m = Managed::start().await;
    let (renewing, visiting) = (visit(&m).await, visit(&m).await);
    m.advance(90);
    for visit in [&renewing, &visiting] {
        assert_eq!(m.use_token(&visit.token).await, Checked::Active(at(90)));
    }
    m.advance(30);
    assert_eq!(m.stored(visiting.session.id).await.expires_at(), at(100));
    let successor = renewed(renew(&m, &renewing.token).await);
    let signed_in = authenticate(&m, visiting.session.id, "ada").await;
    let signed_in = signed_in.expect("it was used in time");
    assert_eq!(m.use_token(&successor).await, Checked::Active(at(120)));
    assert_eq!(m.use_token(&signed_in.token).await, Checked::Active(at(120)));
}

#[tokio::test]
async fn successor_seen_through_a_copy_that_could_not_be_cached_ends_the_grace_in_the_cached_one() {
    for is_flushed in [false, true] {
        let m = Managed::start().await;
        let (ada, successor) = with_renewal(&m).await;
        let (reader, held) = reader_with_old_copy(&m, &successor).await;
        assert!(is_active(m.look_at(&ada.token).await), "cached by another");
        held.let_go();
        assert!(is_active(soon("the reader", reader).await.expect("an answer")));
        if is_flushed {
            m.manager.flush_touches().await.expect("flushed");
        }
        let finds = m.probe.finds();
        advance_to_last_moment_of_grace(&m);
        assert!(is_active(m.look_at(&ada.token).await), "flushed: {is_flushed}");
        advance_a_moment(&m);
        assert_eq!(m.look_at(&ada.token).await, REPLACED, "flushed: {is_flushed}");
        assert_eq!(m.probe.finds(), finds, "both by the cached copy");
    }
}

#[tokio::test]
async fn renewal_with_no_token_of_a_session_is_refused_while_the_writer_is_held() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let busy = busy(&m).await;
    let strangers = [
        Token::new(SessionId::from_bytes([9; 16]), Secret::random()),
        Token::new(ada.session.id, Secret::random()),
    ];
    for token in strangers {
        let answer = soon("a refusal, which waits for no writer", renew(&m, &token)).await;
        assert!(
            matches!(answer, RenewAnswer::Refused(Refusal::InvalidToken)),
            "{answer:?}"
        );
    }
    busy.let_go();
}

#[tokio::test]
async fn addresses_are_told_once_however_often_they_are_written_in_a_batch() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    for address in ["192.0.2.1", "192.0.2.2"] {
        let usage = Use::Touch(Some(crate::stores::address(address)));
        assert!(is_active(check(&m.manager, &ada.token, usage).await));
    }
    let busy = busy(&m).await;
    let mut flushing = Box::pin(m.manager.flush_touches());
    assert!(is_pending(&mut flushing).await);
    let mut first = Box::pin(renew(&m, &ada.token));
    let mut second = Box::pin(renew(&m, &ada.token));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    busy.let_go();
    flushing.await.expect("flushed");
    assert_eq!(renewed(first.await).reveal(), renewed(second.await).reveal());
    m.manager.flush_touches().await.expect("flushed");
    // The first address is where the session is from, and of the later ones the latest is kept.
    assert_eq!(count(&m, "session.activity"), 1);
}
