//! Devices that are new to a user, and those that are not.

use sessiond::clock::Timestamp;
use sessiond::session::{Device, EndedBy, OnLimit, Reason, SessionId};
use sessiond::store::{Authenticated, Authentication, Creation, DEVICES_PER_USER_MAX, NewSession, Owner};

use super::sign_ins::sign_in;
use super::{Fixture, each, over_both_stores};
use crate::stores::{anonymous_session, app_named, at, ending, limit, new_session, put};

over_both_stores!(
    first_session_of_a_user_tells_of_no_device,
    device_not_seen_before_is_told_after_the_creation,
    other_versions_are_the_same_device,
    device_not_seen_before_is_told_after_a_sign_in_with_a_session_that_is_there,
    session_without_a_device_counts_as_the_first_and_is_never_news,
    half_of_a_device_is_a_device,
    users_and_apps_have_devices_of_their_own,
    refused_sign_in_remembers_no_device,
    eviction_precedes_the_creation_that_precedes_the_device,
    the_device_seen_first_longest_ago_makes_room,
    device_that_comes_back_after_its_sessions_are_gone_is_not_new,
);

fn device(browser: &str, os: &str) -> Option<Device> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(Device {
        browser: some(browser),
        browser_version: Some("1.0".to_owned()),
        os: some(os),
        os_version: Some("2".to_owned()),
        device_type: None,
        is_bot: false,
    })
}

fn session_on(name: &str, device: Option<Device>, now: Timestamp) -> NewSession {
    NewSession {
        device,
        ..new_session(name, now)
    }
}

fn sign_in_on(id: SessionId, name: &str, device: Option<Device>, secs: i64) -> Authentication {
    Authentication {
        user_agent: Some(("agent".to_owned(), device)),
        ..sign_in(id, name, secs)
    }
}

/// The data of each `device.new` so far.
fn new_devices(f: &Fixture) -> Vec<String> {
    let told = f.events().into_iter().filter(|event| event.kind == "device.new");
    told.map(|event| event.data.expect("it says which")).collect()
}

async fn first_session_of_a_user_tells_of_no_device(f: Fixture) {
    let ada = put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    assert_eq!(f.told(), each([("session.created", ada.id)]));
}

async fn device_not_seen_before_is_told_after_the_creation(f: Fixture) {
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    let phone = put(&*f.store, session_on("ada", device("Firefox", "Android"), at(1))).await;
    put(&*f.store, session_on("ada", device("Firefox", "Android"), at(2))).await;
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(3))).await;

    assert_eq!(
        f.told_since(1)[..2],
        each([("session.created", phone.id), ("device.new", phone.id)])
    );
    assert_eq!(new_devices(&f), [r#"{"browser":"Firefox","os":"Android"}"#]);
    let told = f.events().swap_remove(2);
    assert_eq!(
        (
            told.occurred_at,
            told.user_id.as_deref(),
            told.device_info.as_deref()
        ),
        (at(1), Some("ada"), Some("Firefox on Android"))
    );
}

async fn other_versions_are_the_same_device(f: Fixture) {
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    let newer = device("Firefox", "Linux").map(|device| Device {
        browser_version: Some("9.0".to_owned()),
        os_version: None,
        ..device
    });
    put(&*f.store, session_on("ada", newer, at(1))).await;
    assert_eq!(new_devices(&f), [""; 0]);
}

async fn device_not_seen_before_is_told_after_a_sign_in_with_a_session_that_is_there(f: Fixture) {
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    let visitor = NewSession {
        device: device("Safari", "iOS"),
        ..anonymous_session(at(1))
    };
    let visit = put(&*f.store, visitor).await.id;
    let signs_in = |authentication| async {
        match f
            .store
            .authenticate(authentication)
            .await
            .expect("the store works")
        {
            Authenticated::Done { session, .. } => session.id,
            refused => panic!("{refused:?}"),
        }
    };

    signs_in(sign_in(visit, "ada", 2)).await;
    signs_in(sign_in(visit, "ada", 3)).await;
    signs_in(sign_in_on(visit, "ada", device("Chrome", "iOS"), 4)).await;

    let expected = [
        ("session.created", visit),
        ("session.authenticated", visit),
        ("device.new", visit),
        ("session.authenticated", visit),
        ("session.authenticated", visit),
        ("device.new", visit),
    ];
    assert_eq!(f.told_since(1), each(expected));
}

async fn session_without_a_device_counts_as_the_first_and_is_never_news(f: Fixture) {
    put(&*f.store, session_on("ada", None, at(0))).await;
    put(&*f.store, session_on("ada", device("", ""), at(1))).await;
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(2))).await;
    put(&*f.store, session_on("bob", device("Firefox", "Linux"), at(3))).await;
    put(&*f.store, session_on("bob", None, at(4))).await;
    assert_eq!(new_devices(&f), [r#"{"browser":"Firefox","os":"Linux"}"#]);
}

async fn half_of_a_device_is_a_device(f: Fixture) {
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    put(&*f.store, session_on("ada", device("curl", ""), at(1))).await;
    put(&*f.store, session_on("ada", device("", "Linux"), at(2))).await;
    assert_eq!(
        new_devices(&f),
        [
            r#"{"browser":"curl","os":null}"#,
            r#"{"browser":null,"os":"Linux"}"#
        ]
    );
}

async fn users_and_apps_have_devices_of_their_own(f: Fixture) {
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    put(&*f.store, session_on("bob", device("Safari", "iOS"), at(1))).await;
    let in_shop = |browser, secs| NewSession {
        app: app_named("shop"),
        ..session_on("ada", device(browser, "iOS"), at(secs))
    };
    put(&*f.store, in_shop("Safari", 2)).await;
    assert_eq!(new_devices(&f), [""; 0], "each is somebody's first session");

    put(&*f.store, session_on("ada", device("Safari", "iOS"), at(3))).await;
    assert_eq!(f.count("device.new"), 1, "what others had is new to ada");
}

async fn refused_sign_in_remembers_no_device(f: Fixture) {
    let on_phone = |secs, max| NewSession {
        tiers: limit(max),
        on_limit: OnLimit::Deny,
        ..session_on("ada", device("Safari", "iOS"), at(secs))
    };
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    let refused = f.store.create(on_phone(1, 1)).await.expect("an answer");
    assert!(matches!(refused, Creation::Refused(_)), "{refused:?}");
    assert_eq!(new_devices(&f), [""; 0]);

    put(&*f.store, on_phone(2, 2)).await;
    assert_eq!(f.count("device.new"), 1);
}

async fn eviction_precedes_the_creation_that_precedes_the_device(f: Fixture) {
    let first = put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    let second = NewSession {
        tiers: limit(1),
        ..session_on("ada", device("Safari", "iOS"), at(1))
    };
    let second = put(&*f.store, second).await;
    let expected = [
        ("session.evicted", first.id),
        ("session.created", second.id),
        ("device.new", second.id),
    ];
    assert_eq!(f.told_since(1), each(expected));
}

async fn the_device_seen_first_longest_ago_makes_room(f: Fixture) {
    // One moment for many of them, as a clock may stand.
    let number = |n: usize| device(&format!("browser {n}"), "Linux");
    let seen = |n: usize| session_on("ada", number(n), at(i64::from(n >= 2)));
    for n in 0..DEVICES_PER_USER_MAX {
        put(&*f.store, seen(n)).await;
    }
    assert_eq!(f.count("device.new"), DEVICES_PER_USER_MAX - 1);

    put(&*f.store, session_on("ada", device("Another", "Linux"), at(2))).await;
    put(&*f.store, session_on("ada", number(1), at(3))).await;
    assert_eq!(
        f.count("device.new"),
        DEVICES_PER_USER_MAX,
        "the second one is known"
    );
    put(&*f.store, session_on("ada", number(0), at(4))).await;
    put(&*f.store, session_on("ada", device("Another", "Linux"), at(5))).await;
    assert_eq!(
        new_devices(&f)[DEVICES_PER_USER_MAX - 1..],
        [
            r#"{"browser":"Another","os":"Linux"}"#,
            r#"{"browser":"browser 0","os":"Linux"}"#
        ],
        "the first one was forgotten, the latest was not"
    );
}

async fn device_that_comes_back_after_its_sessions_are_gone_is_not_new(f: Fixture) {
    let phone = session_on("ada", device("Safari", "iOS"), at(1));
    put(&*f.store, session_on("ada", device("Firefox", "Linux"), at(0))).await;
    let there = put(&*f.store, phone.clone()).await;
    let request = ending(at(2), Reason::LOGOUT, EndedBy::App);
    f.store
        .end(there.app, there.id, Owner::Anyone, request)
        .await
        .expect("ended");
    f.store.purge(at(10), 100, at(10)).await.expect("purged");
    assert!(f.store.find(there.id).await.expect("an answer").is_none());

    let back = NewSession { now: at(20), ..phone };
    let back = put(&*f.store, back).await;
    assert_eq!(f.told(), each([("session.created", back.id)]));
}
