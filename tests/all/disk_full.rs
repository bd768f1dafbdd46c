//! A full disk, forced by a limit on the database's pages: writes are refused whole, checks go on, and with space
//! everything goes on without a restart.

use std::net::{IpAddr, Ipv6Addr};

use sessiond::error::Error;
use sessiond::manager::{Revocation, SignIn, SignedIn, Use};
use sessiond::session::{AUTH_LEN_MAX, Auth, EndedBy, Reason};
use sessiond::store::{Owner, SessionPatch, UserPatch};
use sessiond::sweeper;

use crate::harness::TestServer;
use crate::stores::{Checked, Managed, app, at, check, ended, how, user};

/// As many pages as there can ever be here.
const PLENTY: u32 = 1_000_000;

async fn fill_disk(m: &Managed) {
    // A limit below what the file has makes what it has the limit.
    m.sqlite.limit_pages(1).await.expect("limited");
}

async fn free_disk(m: &Managed) {
    m.sqlite.limit_pages(PLENTY).await.expect("no longer limited");
}

/// Needs pages of its own.
fn large_auth() -> Auth {
    Auth::from_stored(&format!(r#"{{"note":"{}"}}"#, "x".repeat(AUTH_LEN_MAX - 100)))
}

async fn sign_in_large(m: &Managed, name: &str) -> Result<SignedIn, Error> {
    let sign_in = SignIn {
        user_id: Some(user(name)),
        auth: Some(large_auth()),
        ..SignIn::default()
    };
    m.manager.create(&app(), sign_in).await
}

fn assert_store_failed<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Store(_))), "{result:?}");
}

#[tokio::test]
async fn sign_in_on_a_full_disk_is_refused_and_evicts_nothing() {
    let m = Managed::start().await;
    let one = UserPatch {
        max_sessions: Some(Some(1)),
        ..UserPatch::default()
    };
    m.manager
        .update_user(&app(), user("ada"), one, EndedBy::App)
        .await
        .expect("set");
    let ada = m.sign_in("ada").await;
    fill_disk(&m).await;
    for _ in 0..3 {
        assert_store_failed(sign_in_large(&m, "ada").await);
    }
    assert_eq!(m.event_types(), ["session.created"]);
    assert_eq!(how(&m.stored(ada.session.id).await), None);
    assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));

    free_disk(&m).await;
    let next = sign_in_large(&m, "ada").await.expect("there is space again");
    assert_eq!(next.evicted.len(), 1);
    assert_eq!(m.use_token(&ada.token).await, ended("session_limit_exceeded"));
    assert_eq!(m.use_token(&next.token).await, Checked::Active(at(0)));
}

#[tokio::test]
async fn update_on_a_full_disk_changes_nothing_and_the_session_is_cached_again() {
    let m = Managed::start().await;
    let ada = m.sign_in("ada").await;
    m.use_token(&ada.token).await;
    fill_disk(&m).await;
    let patch = || SessionPatch {
        name: Some(Some("desk".to_owned())),
        auth: Some(Some(large_auth())),
        ..SessionPatch::default()
    };
    let app = app();
    let update = || m.manager.update(&app, ada.session.id, Owner::Anyone, patch());
    assert_store_failed(update().await);
    let stored = m.stored(ada.session.id).await;
    assert_eq!((stored.name, stored.auth), (None, None));
    for _ in 0..3 {
        assert_eq!(m.use_token(&ada.token).await, Checked::Active(at(0)));
    }
    assert!(m.probe.finds() <= 2, "no fence is left behind");

    free_disk(&m).await;
    assert_eq!(update().await.expect("updated").name.as_deref(), Some("desk"));
}

#[tokio::test]
async fn revocations_on_a_full_disk_are_done_whole_or_not_at_all() {
    let m = Managed::start().await;
    let mut sessions = Vec::new();
    for n in 0..100 {
        sessions.push(m.sign_in(&format!("user{n}")).await);
    }
    fill_disk(&m).await;
    let revoke = async |signed_in: &SignedIn| {
        let revocation = Revocation {
            reason: Reason::parse(&"r".repeat(255)).expect("a reason"),
            by: EndedBy::App,
        };
        m.manager
            .revoke(&app(), signed_in.session.id, Owner::Anyone, revocation)
            .await
    };
    let mut refused = Vec::new();
    for session in sessions {
        match revoke(&session).await {
            Ok(()) => assert_eq!(m.use_token(&session.token).await, ended(&"r".repeat(255))),
            Err(error) => {
                assert!(matches!(error, Error::Store(_)), "{error:?}");
                assert_eq!(m.use_token(&session.token).await, Checked::Active(at(0)));
                refused.push(session);
            }
        }
    }
    assert!(!refused.is_empty(), "the disk was full");
    let revoked = |types: &[String]| types.iter().filter(|told| *told == "session.revoked").count();
    assert_eq!(revoked(&m.event_types()), 100 - refused.len());

    free_disk(&m).await;
    for session in &refused {
        revoke(session).await.expect("there is space again");
        assert_eq!(m.use_token(&session.token).await, ended(&"r".repeat(255)));
    }
    assert_eq!(revoked(&m.event_types()), 100);
}

#[tokio::test]
async fn uses_that_find_no_space_are_counted_and_written_once_there_is_some() {
    let m = Managed::start().await;
    let address = |n| {
        IpAddr::V6(Ipv6Addr::new(
            0x2001, 0xdb8, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, n,
        ))
    };
    let mut sessions = Vec::new();
    for n in 0..200 {
        sessions.push(m.sign_in(&format!("user{n}")).await);
    }
    fill_disk(&m).await;
    m.advance(50);
    for (session, n) in sessions.iter().zip(0..) {
        // Two addresses, so that the row grows and an event is written.
        for n in [n, n + 1_000] {
            let checked = check(&m.manager, &session.token, Use::Touch(Some(address(n)))).await;
            assert_eq!(checked, Checked::Active(at(50)));
        }
    }
    for failures in 1..=2 {
        assert_store_failed(sweeper::tick(&m.manager).await);
        assert_eq!(m.manager.metrics().touch_flush_failures.get(), failures);
    }
    m.advance(60);
    for session in &sessions {
        assert_eq!(
            m.look_at(&session.token).await,
            Checked::Active(at(50)),
            "past the deadline that is stored"
        );
    }

    free_disk(&m).await;
    sweeper::tick(&m.manager).await.expect("there is space again");
    for (session, n) in sessions.iter().zip(0..) {
        let stored = m.stored(session.session.id).await;
        assert_eq!(
            (stored.last_activity_at, stored.ip_address, stored.last_ip_address),
            (at(50), Some(address(n)), Some(address(n + 1_000)))
        );
        assert_eq!(how(&stored), None);
    }
    assert_eq!(m.manager.metrics().touch_flush_failures.get(), 2);
}

#[tokio::test]
async fn database_that_cannot_be_written_is_503_until_it_can() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;
    assert_eq!(server.check(&ada.token).await.status, 200);
    let database = rusqlite::Connection::open(server.database()).expect("the database");
    // Every change writes an event: without their table, none can be made.
    let take_away = "ALTER TABLE events RENAME TO elsewhere";
    database.execute_batch(take_away).expect("renamed");

    let create = || server.post("/v1/sessions", serde_json::json!({ "user_id": "ada" }));
    let reply = create().key(&server.key).send().await;
    reply.assert_problem(503, "store_unavailable");
    assert!(
        !reply.text.contains("events"),
        "says nothing of the inside: {}",
        reply.text
    );
    let reply = server.delete("/v1/session").bearer(&ada.token).send().await;
    reply.assert_problem(503, "store_unavailable");
    assert_eq!(reply.header("clear-site-data"), None);
    assert_eq!(
        server.check(&ada.token).await.status,
        200,
        "it was not signed out"
    );

    let give_back = "ALTER TABLE elsewhere RENAME TO events";
    database.execute_batch(give_back).expect("renamed");
    assert_eq!(create().key(&server.key).send().await.status, 201);
    let reply = server.delete("/v1/session").bearer(&ada.token).send().await;
    assert_eq!(reply.status, 204);
    server
        .check(&ada.token)
        .await
        .assert_problem(401, "session_ended");
}
