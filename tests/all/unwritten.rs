//! Uses that are in memory only, while the session's token and deadlines change beside them.

use sessiond::manager::{RenewAnswer, SignIn, SignedIn};
use sessiond::session::Token;

use crate::stores::{Checked, Managed, address, app, at, user};

/// The token after a renewal, or why there is none.
async fn renew(m: &Managed, token: &Token) -> Result<Token, &'static str> {
    match m.manager.renew(&app(), token, None).await.expect("an answer") {
        RenewAnswer::Renewed { token, .. } => Ok(token),
        RenewAnswer::Refused(refusal) => Err(refusal.code()),
    }
}

async fn sign_in_again(m: &Managed, ada: &SignedIn, sign_in: SignIn) -> SignedIn {
    m.manager
        .authenticate(&app(), ada.session.id, user("ada"), sign_in)
        .await
        .expect("ada may sign in")
}

/// Tokens before and after a renewal at 0 s; the second one was used at 10 s, which is in memory only.
async fn seen_in_memory(m: &Managed) -> (Token, Token) {
    let ada = m.sign_in("ada").await;
    let next = renew(m, &ada.token).await.expect("renewed");
    m.advance(10);
    assert_eq!(m.use_token(&next).await, Checked::Active(at(10)));
    (ada.token, next)
}

#[tokio::test]
async fn use_after_a_sign_in_that_shortened_the_deadline_is_known_to_the_sweeper() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    m.advance(10);
    m.use_token(&ada.token).await; // pending while the deadline is far
    let shortly = SignIn {
        idle_timeout_secs: Some(20),
        ..SignIn::default()
    };
    let again = sign_in_again(&m, &ada, shortly).await;
    m.advance(15);
    m.use_token(&again.token).await;
    m.advance(10);
    assert_eq!(m.manager.expire_overdue(10).await.expect("swept"), 0);
    assert_eq!(m.look_at(&again.token).await, Checked::Active(at(25)));
}

#[tokio::test]
async fn renewal_knows_that_the_grace_of_its_token_began_in_memory() {
    let m = Managed::start().await;
    let (first, _) = seen_in_memory(&m).await;
    m.advance(30);
    assert_eq!(renew(&m, &first).await.err(), Some("session_ended"));
    assert_eq!(
        m.event_types()[2..],
        ["session.suspicious", "session.revoked"],
        "as if the use had been written"
    );
}

#[tokio::test]
async fn renewal_of_a_successor_does_not_begin_a_grace_again_that_began_in_memory() {
    let m = Managed::start().await;
    let (first, second) = seen_in_memory(&m).await;
    m.advance(20);
    let same = renew(&m, &second).await.expect("it stays");
    assert_eq!(same.reveal(), second.reveal());
    m.advance(9);
    assert_eq!(m.look_at(&first).await, Checked::Active(at(30)));
    m.advance(1);
    assert_eq!(
        m.look_at(&first).await,
        Checked::Refused("token_replaced"),
        "30 s after the first use, not after the renewal"
    );
}

#[tokio::test]
async fn address_used_before_a_sign_in_is_not_the_latest_after_it() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    let [home, train, office] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(address);
    for from in [home, train] {
        m.advance(1);
        let touched = m.manager.touch(&app(), ada.session.id, Some(from)).await;
        touched.expect("a use");
    }
    m.advance(1);
    let from_office = SignIn {
        ip_address: Some(office),
        ..SignIn::default()
    };
    sign_in_again(&m, &ada, from_office).await;
    m.manager.flush_touches().await.expect("written");
    let stored = m.stored(ada.session.id).await;
    assert_eq!(
        (stored.ip_address, stored.last_ip_address),
        (Some(home), Some(office))
    );
}

#[tokio::test]
async fn use_by_a_renewal_is_shown_by_the_next_check() {
    let m = Managed::start().await;
    let (_, second) = seen_in_memory(&m).await;
    m.advance(5);
    renew(&m, &second).await.expect("it stays");
    assert_eq!(m.look_at(&second).await, Checked::Active(at(15)));
}
