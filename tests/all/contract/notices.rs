//! What is told before deadlines: of each kind once per sign-in, at the right moment, and of nothing that is over.

use sessiond::clock::Timestamp;
use sessiond::session::{EndedBy, Reason, Session, SessionId, Timeouts};
use sessiond::store::{Authentication, NewSession, Owner};

use super::sign_ins::sign_in;
use super::{Fixture, over_both_stores};
use crate::stores::{anonymous_session, app, at, ending, new_session, put, touch};

over_both_stores!(
    idle_deadline_is_told_once_before_it_comes,
    without_a_notice_nothing_is_told,
    use_puts_the_notice_off,
    use_that_is_not_written_yet_puts_the_notice_off,
    use_after_the_notice_does_not_bring_another_one,
    absolute_deadline_is_told_after_the_idle_one,
    idle_deadline_behind_the_absolute_one_is_not_told,
    idle_deadline_that_a_use_moved_behind_the_absolute_one_is_not_told,
    both_deadlines_can_be_near_at_once,
    notice_longer_than_the_life_is_told_at_the_next_sweep,
    late_sweep_says_how_much_is_left,
    nothing_is_told_of_what_is_over,
    nothing_is_told_of_what_has_ended,
    sign_in_begins_anew,
    sign_in_without_a_notice_ends_it,
    sessions_of_nobody_are_told_of,
    sessions_are_told_of_in_bounded_batches,
);

const NOTICE_SECS: i64 = 30;

/// A session that rests 100 s and lives 1000 s, of whose deadlines is told 30 s before.
fn noticed(now: Timestamp) -> NewSession {
    NewSession {
        expiring_notice_millis: Some(NOTICE_SECS * 1_000),
        ..new_session("ada", now)
    }
}

fn living(idle_secs: i64, absolute_secs: i64) -> Timeouts {
    Timeouts {
        idle_millis: idle_secs * 1_000,
        absolute_millis: absolute_secs * 1_000,
    }
}

async fn sweep(f: &Fixture, secs: i64) {
    f.store.tell_expiring(at(secs), 100).await.expect("told");
}

async fn used(f: &Fixture, session: &Session, secs: i64) {
    let uses = vec![touch(session.id, at(secs))];
    f.store.write_touches(uses, at(secs)).await.expect("written");
}

/// What was told so far, and when, in seconds.
fn told(f: &Fixture) -> Vec<(i64, String)> {
    let events = f.events().into_iter();
    events
        .filter(|event| event.kind == "session.expiring")
        .map(|event| {
            let secs = event.occurred_at.millis_since(at(0)) / 1_000;
            (secs, event.data.expect("it says which"))
        })
        .collect()
}

fn idle(expires_at: i64, seconds: i64) -> String {
    let expires_at = at(expires_at);
    format!(r#"{{"deadline":"idle","expires_at":"{expires_at}","seconds":{seconds}}}"#)
}

fn absolute(expires_at: i64, seconds: i64) -> String {
    idle(expires_at, seconds).replace("idle", "absolute")
}

async fn idle_deadline_is_told_once_before_it_comes(f: Fixture) {
    let ada = put(&*f.store, noticed(at(0))).await;
    sweep(&f, 69).await;
    assert_eq!(told(&f), []);

    for secs in [70, 71, 99] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(70, idle(100, 30))]);
    let event = f.events().pop().expect("an event");
    assert_eq!(
        (event.session_id, event.user_id.as_deref()),
        (Some(ada.id), Some("ada"))
    );
}

async fn without_a_notice_nothing_is_told(f: Fixture) {
    put(&*f.store, new_session("ada", at(0))).await;
    for secs in [0, 70, 99] {
        assert_eq!(f.store.tell_expiring(at(secs), 100).await.expect("swept"), 0);
    }
    assert_eq!(told(&f), []);
}

async fn use_puts_the_notice_off(f: Fixture) {
    let ada = put(&*f.store, noticed(at(0))).await;
    used(&f, &ada, 50).await;
    sweep(&f, 70).await;
    used(&f, &ada, 60).await;
    for secs in [119, 129] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), []);

    sweep(&f, 130).await;
    assert_eq!(told(&f), [(130, idle(160, 30))]);
}

async fn use_that_is_not_written_yet_puts_the_notice_off(f: Fixture) {
    let recorder = f.record();
    let ada = put(&*f.store, noticed(at(0))).await;
    recorder.set_pending(touch(ada.id, at(50)));
    for secs in [70, 119] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), []);

    sweep(&f, 120).await;
    assert_eq!(told(&f), [(120, idle(150, 30))]);
}

async fn use_after_the_notice_does_not_bring_another_one(f: Fixture) {
    let ada = put(&*f.store, noticed(at(0))).await;
    sweep(&f, 70).await;
    used(&f, &ada, 80).await;
    for secs in [150, 160, 179] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(70, idle(100, 30))]);
}

async fn absolute_deadline_is_told_after_the_idle_one(f: Fixture) {
    let ada = put(&*f.store, noticed(at(0))).await;
    sweep(&f, 70).await;
    for secs in (90..=980).step_by(10) {
        used(&f, &ada, secs).await;
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(70, idle(100, 30)), (970, absolute(1_000, 30))]);
}

async fn idle_deadline_behind_the_absolute_one_is_not_told(f: Fixture) {
    for absolute_secs in [90, 100] {
        let short = NewSession {
            timeouts: living(100, absolute_secs),
            ..noticed(at(0))
        };
        put(&*f.store, short).await;
    }
    for secs in [59, 60, 69, 70, 89] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(60, absolute(90, 30)), (70, absolute(100, 30))]);
}

async fn idle_deadline_that_a_use_moved_behind_the_absolute_one_is_not_told(f: Fixture) {
    let short = NewSession {
        timeouts: living(100, 150),
        ..noticed(at(0))
    };
    let ada = put(&*f.store, short).await;
    used(&f, &ada, 60).await;
    for secs in [70, 119, 120, 130, 149] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(120, absolute(150, 30))]);
}

async fn both_deadlines_can_be_near_at_once(f: Fixture) {
    let short = NewSession {
        timeouts: living(100, 110),
        ..noticed(at(0))
    };
    put(&*f.store, short).await;
    for secs in [85, 86] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(85, idle(100, 15)), (85, absolute(110, 25))]);
}

async fn notice_longer_than_the_life_is_told_at_the_next_sweep(f: Fixture) {
    let long = NewSession {
        expiring_notice_millis: Some(400 * 24 * 60 * 60 * 1_000),
        ..noticed(at(0))
    };
    put(&*f.store, long).await;
    for secs in [1, 2] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), [(1, idle(100, 99)), (1, absolute(1_000, 999))]);
}

async fn late_sweep_says_how_much_is_left(f: Fixture) {
    put(&*f.store, noticed(at(0))).await;
    let late = at(100).plus_millis(-1);
    f.store.tell_expiring(late, 100).await.expect("told");
    assert_eq!(told(&f), [(99, idle(100, 0))]);
}

async fn nothing_is_told_of_what_is_over(f: Fixture) {
    put(&*f.store, noticed(at(0))).await;
    for secs in [100, 101] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), []);
    let looked_at = f.store.tell_expiring(at(102), 100).await.expect("swept");
    assert_eq!(looked_at, 0, "and it is not looked at for ever");
}

async fn nothing_is_told_of_what_has_ended(f: Fixture) {
    let ada = put(&*f.store, noticed(at(0))).await;
    let request = ending(at(50), Reason::LOGOUT, EndedBy::User);
    f.store
        .end(app(), ada.id, Owner::Anyone, request)
        .await
        .expect("ended");
    assert_eq!(f.store.tell_expiring(at(70), 100).await.expect("swept"), 0);
    assert_eq!(told(&f), []);
}

fn sign_in_noticed(id: SessionId, notice_secs: Option<i64>, secs: i64) -> Authentication {
    Authentication {
        expiring_notice_millis: notice_secs.map(|secs| secs * 1_000),
        ..sign_in(id, "ada", secs)
    }
}

async fn sign_in_begins_anew(f: Fixture) {
    let short = NewSession {
        timeouts: living(100, 110),
        ..noticed(at(0))
    };
    let ada = put(&*f.store, short).await;
    sweep(&f, 85).await;
    let again = sign_in_noticed(ada.id, Some(20), 90);
    f.store.authenticate(again).await.expect("signed in");
    for secs in [91, 169, 170, 171] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f)[2..], [(170, idle(190, 20))], "by the new notice");
}

async fn sign_in_without_a_notice_ends_it(f: Fixture) {
    let ada = put(&*f.store, noticed(at(0))).await;
    let again = sign_in_noticed(ada.id, None, 10);
    f.store.authenticate(again).await.expect("signed in");
    for secs in [70, 80, 109] {
        sweep(&f, secs).await;
    }
    assert_eq!(told(&f), []);
}

async fn sessions_of_nobody_are_told_of(f: Fixture) {
    let visitor = NewSession {
        user_id: None,
        authenticated_at: None,
        ..noticed(at(0))
    };
    put(&*f.store, visitor).await;
    put(&*f.store, anonymous_session(at(0))).await;
    sweep(&f, 75).await;
    assert_eq!(told(&f), [(75, idle(100, 25))]);
}

async fn sessions_are_told_of_in_bounded_batches(f: Fixture) {
    for secs in 0..5 {
        put(&*f.store, noticed(at(secs))).await;
    }
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(f.store.tell_expiring(at(90), 2).await.expect("told"));
    }
    assert_eq!((counts, told(&f).len()), (vec![2, 2, 1, 0], 5));
}
