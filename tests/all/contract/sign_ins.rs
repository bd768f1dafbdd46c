//! Users who sign in: with a session that is there, at their limit, and in the place of others they choose.

use sessiond::session::{
    Auth, Device, DeviceType, EndedBy, Grace, Nonce, OnLimit, OnTokenReuse, Place, Reason, Secret,
    SecretHash, Session, SessionId, Timeouts, WhichToken,
};
use sessiond::store::{
    Authenticated, Authentication, Creation, NewSession, Owner, Refused, Renewal, Renewed, Scope,
    SessionStore, UserPatch,
};

use super::{Fixture, each, in_full, over_both_stores};
use crate::stores::{
    address, anonymous_session, app, app_named, at, data, ending, found, how, limit, new_session, put, user,
};

over_both_stores!(
    session_of_nobody_becomes_a_users_and_stays_the_same,
    signing_in_again_begins_both_deadlines_anew,
    signing_in_takes_what_is_news_and_keeps_the_rest,
    place_of_the_first_address_comes_with_it,
    signing_in_kills_older_tokens_also_one_in_its_grace,
    refused_authentications_change_nothing,
    session_that_signs_in_is_never_evicted_for_itself,
    oldest_others_make_room_for_one_that_signs_in,
    lowered_maximum_holds_when_a_session_signs_in,
    tier_is_stored_with_the_sign_in_and_counts_at_once,
    overdue_others_end_as_expired_and_take_no_room,
    denied_sign_in_lists_what_there_is_and_changes_nothing,
    denied_list_is_bounded,
    overdue_ones_deny_nothing,
    chosen_sessions_make_room,
    chosen_sessions_end_also_where_there_is_room,
    chosen_sessions_that_make_too_little_room_stay,
    chosen_sessions_end_before_others_are_evicted,
    chosen_session_that_is_overdue_ends_as_expired,
    sessions_of_others_cannot_be_chosen,
    session_that_signs_in_does_not_end_itself,
);

pub(super) fn sign_in(id: SessionId, name: &str, secs: i64) -> Authentication {
    Authentication {
        now: at(secs),
        app: app(),
        id,
        user_id: user(name),
        token_hash: Secret::random().hash(),
        user_agent: None,
        ip_address: None,
        place: None,
        timeouts: Timeouts {
            idle_millis: 100_000,
            absolute_millis: 1_000_000,
        },
        expiring_notice_millis: None,
        authenticated_at: at(secs),
        auth: None,
        tier: None,
        tiers: limit(100),
        on_limit: OnLimit::Evict,
        end_ids: Vec::new(),
    }
}

async fn authenticate(store: &dyn SessionStore, authentication: Authentication) -> Authenticated {
    store.authenticate(authentication).await.expect("the store works")
}

/// The session after it signed in, and what was evicted for it.
async fn signed_in(store: &dyn SessionStore, authentication: Authentication) -> (Session, Vec<SessionId>) {
    match authenticate(store, authentication).await {
        Authenticated::Done { session, evicted } => {
            (*session, evicted.iter().map(|session| session.id).collect())
        }
        refused => panic!("{refused:?}"),
    }
}

/// What was evicted for a session that could be made.
async fn evicted_for(store: &dyn SessionStore, new: NewSession) -> (SessionId, Vec<SessionId>) {
    match store.create(new).await.expect("the store works") {
        Creation::Created { session, evicted } => {
            (session.id, evicted.iter().map(|session| session.id).collect())
        }
        refused => panic!("{refused:?}"),
    }
}

/// The maximum and the sessions that a refusal tells.
fn limit_reached(refused: Refused) -> (u32, Vec<SessionId>) {
    match refused {
        Refused::LimitReached { max, active } => (max, active.iter().map(|session| session.id).collect()),
        other => panic!("{other:?}"),
    }
}

async fn denied(store: &dyn SessionStore, new: NewSession) -> (u32, Vec<SessionId>) {
    match store.create(new).await.expect("the store works") {
        Creation::Refused(refused) => limit_reached(refused),
        other => panic!("{other:?}"),
    }
}

/// Sessions of ada's, one a second.
async fn sessions_of_ada<const N: usize>(store: &dyn SessionStore) -> [SessionId; N] {
    let mut ids = [SessionId::from_bytes([0; 16]); N];
    for (id, secs) in ids.iter_mut().zip(0..) {
        *id = put(store, new_session("ada", at(secs))).await.id;
    }
    ids
}

fn firefox() -> Device {
    Device {
        browser: Some("Firefox".to_owned()),
        browser_version: None,
        os: Some("Linux".to_owned()),
        os_version: None,
        device_type: Some(DeviceType::Desktop),
        is_bot: false,
    }
}

fn place(country: &str) -> Place {
    Place {
        city: None,
        country: country.to_owned(),
    }
}

async fn session_of_nobody_becomes_a_users_and_stays_the_same(f: Fixture) {
    let store = &*f.store;
    let new = NewSession {
        name: Some("kiosk".to_owned()),
        data: Some(data(r#"{"cart":[1,2]}"#)),
        ..anonymous_session(at(0))
    };
    let before = put(store, new).await;
    let authentication = Authentication {
        authenticated_at: at(45),
        ..sign_in(before.id, "ada", 50)
    };
    let hash = authentication.token_hash;

    let (session, evicted) = signed_in(store, authentication).await;

    assert_eq!((session.id, session.created_at), (before.id, at(0)));
    assert_eq!((session.user_id.clone(), evicted), (Some(user("ada")), vec![]));
    assert_eq!(
        (
            session.signed_in_at,
            session.authenticated_at,
            session.last_activity_at
        ),
        (at(50), Some(at(45)), at(50))
    );
    assert!(session.token_hash.matches(&hash));
    let (stored, kept) = store
        .find_data(before.id)
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(in_full(&stored), in_full(&session));
    assert_eq!(
        (stored.name.as_deref(), stored.data_version, kept.to_text()),
        (Some("kiosk"), 1, r#"{"cart":[1,2]}"#.to_owned())
    );
    let events = f.events();
    let told = events.last().expect("an event");
    assert_eq!(
        (told.kind.as_str(), told.occurred_at, told.user_id.as_deref()),
        ("session.authenticated", at(50), Some("ada"))
    );
    assert_eq!((told.session_id, events.len()), (Some(before.id), 2));
    let count = store.find_user(app(), user("ada"), at(50)).await;
    assert_eq!(count.expect("a record").active_count, 1);
}

async fn signing_in_again_begins_both_deadlines_anew(f: Fixture) {
    let store = &*f.store;
    let ada = put(store, new_session("ada", at(0))).await;
    let authentication = Authentication {
        timeouts: Timeouts {
            idle_millis: 10_000,
            absolute_millis: 2_000_000,
        },
        ..sign_in(ada.id, "ada", 99)
    };
    signed_in(store, authentication).await;
    let stored = found(store, ada.id).await;
    assert_eq!(
        (stored.expires_at(), stored.absolute_expires_at),
        (at(109), at(2_099))
    );
    assert_eq!(store.expire(at(108), 10).await.expect("swept"), 0);
    assert_eq!(
        store.expire(at(109), 10).await.expect("swept"),
        1,
        "by the new deadline"
    );
}

async fn signing_in_takes_what_is_news_and_keeps_the_rest(f: Fixture) {
    let store = &*f.store;
    let furnished = NewSession {
        user_agent: Some("Mozilla/5.0".to_owned()),
        device: Some(firefox()),
        place: Some(place("DE")),
        ip_address: Some(address("192.0.2.1")),
        auth: Some(Auth::from_stored(r#"{"a":1}"#)),
        ..anonymous_session(at(0))
    };
    let before = put(store, furnished).await;
    let (kept, _) = signed_in(store, sign_in(before.id, "ada", 1)).await;
    assert_eq!(
        (kept.user_agent, kept.device, kept.auth),
        (
            before.user_agent.clone(),
            before.device.clone(),
            before.auth.clone()
        )
    );

    let news = Authentication {
        user_agent: Some(("curl/8".to_owned(), None)),
        ip_address: Some(address("192.0.2.2")),
        place: Some(place("FR")),
        auth: Some(Auth::from_stored("{}")),
        ..sign_in(before.id, "ada", 2)
    };
    let (changed, _) = signed_in(store, news).await;
    assert_eq!(
        (changed.user_agent.as_deref(), &changed.device, &changed.auth),
        (Some("curl/8"), &None, &Some(Auth::from_stored("{}")))
    );
    assert_eq!(
        (changed.ip_address, changed.last_ip_address, &changed.place),
        (
            Some(address("192.0.2.1")),
            Some(address("192.0.2.2")),
            &Some(place("DE"))
        ),
        "the first address stays, and the place is its"
    );
    assert_eq!(in_full(&found(store, before.id).await), in_full(&changed));
}

async fn place_of_the_first_address_comes_with_it(f: Fixture) {
    let store = &*f.store;
    let before = put(store, anonymous_session(at(0))).await;
    let from_home = Authentication {
        ip_address: Some(address("192.0.2.1")),
        place: Some(place("DE")),
        ..sign_in(before.id, "ada", 1)
    };
    signed_in(store, from_home).await;
    let stored = found(store, before.id).await;
    assert_eq!(
        (stored.ip_address, stored.last_ip_address, stored.place),
        (Some(address("192.0.2.1")), None, Some(place("DE")))
    );
}

async fn signing_in_kills_older_tokens_also_one_in_its_grace(f: Fixture) {
    let store = &*f.store;
    let before = put(store, new_session("ada", at(0))).await;
    let renewal = |presented: SecretHash| Renewal {
        now: at(3),
        app: app(),
        id: before.id,
        presented,
        nonce: Nonce::from_bytes([1; 16]),
        successor: SecretHash::from_bytes([1; 32]),
        lost: None,
        grace_millis: 30_000,
        on_reuse: OnTokenReuse::Revoke,
    };
    let renewed = store.renew(renewal(before.token_hash)).await.expect("an answer");
    let Renewed::Successor { session: renewed, .. } = renewed else {
        panic!("{renewed:?}")
    };

    let (session, _) = signed_in(store, sign_in(before.id, "ada", 2)).await;

    assert_eq!(session.which_token(&before.token_hash), None);
    let Some(WhichToken::Replaced(replaced)) = session.which_token(&renewed.token_hash) else {
        panic!("the latest one is recognised")
    };
    assert_eq!((replaced.grace, replaced.reported_at), (Grace::None, None));
    let everything = f.everything().await;
    let answer = store.renew(renewal(before.token_hash)).await.expect("an answer");
    assert!(matches!(answer, Renewed::Unknown), "{answer:?}");
    let answer = store.renew(renewal(renewed.token_hash)).await.expect("an answer");
    assert!(matches!(answer, Renewed::Replaced), "{answer:?}");
    for hash in [before.token_hash, renewed.token_hash] {
        store
            .report_replaced(before.id, hash, at(500))
            .await
            .expect("an answer");
    }
    assert_eq!(f.everything().await, everything, "no theft, and nothing is told");
}

async fn refused_authentications_change_nothing(f: Fixture) {
    let store = &*f.store;
    let [oldest, latest] = sessions_of_ada(store).await;
    let bobs = put(store, new_session("bob", at(0))).await.id;
    let nobodys = put(store, anonymous_session(at(60))).await.id;
    let overdue = put(store, anonymous_session(at(-100))).await.id;
    let ended = put(store, anonymous_session(at(0))).await.id;
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    let blocked = UserPatch {
        is_blocked: Some(true),
        ..UserPatch::default()
    };
    store
        .update_user(app(), user("eve"), blocked, EndedBy::App, at(1))
        .await
        .expect("blocked");
    let everybody = Scope::User {
        user_id: user("cyd"),
        except: None,
    };
    let changed = ending(at(50), Reason::CREDENTIALS_CHANGED, EndedBy::App);
    store.end_many(app(), everybody, changed).await.expect("noted");

    // Each would change much, if it were not refused.
    let greedy = |id, name: &str| Authentication {
        tier: Some("pair".to_owned()),
        tiers: limit(1),
        end_ids: vec![latest, bobs],
        auth: Some(Auth::from_stored("{}")),
        ..sign_in(id, name, 60)
    };
    let early = Authentication {
        authenticated_at: at(49),
        ..greedy(nobodys, "cyd")
    };
    let none = Authentication {
        tier: None,
        tiers: limit(0),
        ..greedy(nobodys, "ada")
    };
    let elsewhere = Authentication {
        app: app_named("shop"),
        ..greedy(nobodys, "ada")
    };
    let cases = [
        ("somebody else's", greedy(bobs, "ada"), "OtherUser"),
        (
            "unknown",
            greedy(SessionId::from_bytes([9; 16]), "ada"),
            "NotFound",
        ),
        ("another app's", elsewhere, "NotFound"),
        ("ended", greedy(ended, "ada"), "AlreadyEnded"),
        ("overdue", greedy(overdue, "ada"), "AlreadyEnded"),
        ("a blocked user", greedy(nobodys, "eve"), "Refused(UserBlocked)"),
        ("verified before a change", early, "Refused(CredentialsChanged)"),
        ("a user who may have none", none, "Refused(LimitReached { max: 0"),
    ];
    let everything = f.everything().await;
    for (case, authentication, expected) in cases {
        let answer = format!("{:?}", authenticate(store, authentication).await);
        assert!(answer.starts_with(expected), "{case}: {answer}");
        assert_eq!(f.everything().await, everything, "{case}");
    }
    let just_after = Authentication {
        authenticated_at: at(50),
        ..sign_in(nobodys, "cyd", 60)
    };
    signed_in(store, just_after).await;
    assert_eq!(how(&found(store, oldest).await), None);
}

async fn session_that_signs_in_is_never_evicted_for_itself(f: Fixture) {
    let store = &*f.store;
    let [oldest, latest] = sessions_of_ada(store).await;
    let with_limit = |max| Authentication {
        tiers: limit(max),
        ..sign_in(oldest, "ada", 10)
    };
    let (_, evicted) = signed_in(store, with_limit(2)).await;
    assert_eq!(evicted, [], "it is one of the two");
    let (session, evicted) = signed_in(store, with_limit(1)).await;
    assert_eq!(evicted, [latest]);
    assert_eq!(how(&found(store, session.id).await), None);
}

async fn oldest_others_make_room_for_one_that_signs_in(f: Fixture) {
    let store = &*f.store;
    // Made first, but it signs in last.
    let nobodys = put(store, anonymous_session(at(-1))).await.id;
    let [first, second] = sessions_of_ada(store).await;
    let again = sign_in(first, "ada", 5);
    signed_in(store, again).await;
    let known = f.told().len();

    let authentication = Authentication {
        tiers: limit(2),
        ..sign_in(nobodys, "ada", 10)
    };
    let (_, evicted) = signed_in(store, authentication).await;

    assert_eq!(evicted, [second], "its sign-in is the oldest by now");
    let expected = Some((at(10), "session_limit_exceeded", EndedBy::Limit));
    assert_eq!(how(&found(store, second).await), expected);
    assert_eq!(how(&found(store, first).await), None);
    assert_eq!(
        f.told_since(known),
        each([("session.evicted", second), ("session.authenticated", nobodys)])
    );
}

async fn lowered_maximum_holds_when_a_session_signs_in(f: Fixture) {
    let store = &*f.store;
    let ids: [SessionId; 5] = sessions_of_ada(store).await;
    let lowered = Authentication {
        tiers: limit(2),
        ..sign_in(ids[1], "ada", 10)
    };
    let (_, evicted) = signed_in(store, lowered).await;
    assert_eq!(evicted, [ids[0], ids[2], ids[3]]);
    let record = store.find_user(app(), user("ada"), at(10)).await;
    assert_eq!(record.expect("a record").active_count, 2);
}

async fn tier_is_stored_with_the_sign_in_and_counts_at_once(f: Fixture) {
    let store = &*f.store;
    let [first, second, third] = sessions_of_ada(store).await;
    let with_tier = Authentication {
        tier: Some("pair".to_owned()),
        ..sign_in(third, "ada", 10)
    };
    let (_, evicted) = signed_in(store, with_tier).await;
    assert_eq!(evicted, [first]);
    let (_, evicted) = signed_in(store, sign_in(second, "ada", 11)).await;
    assert_eq!(evicted, [], "without one, the stored tier counts and stays");
    let record = store
        .find_user(app(), user("ada"), at(11))
        .await
        .expect("a record");
    assert_eq!(record.settings.tier.as_deref(), Some("pair"));
}

async fn overdue_others_end_as_expired_and_take_no_room(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, new_session("ada", at(0))).await.id;
    let younger = put(store, new_session("ada", at(50))).await.id;
    let nobodys = put(store, anonymous_session(at(50))).await.id;
    let known = f.told().len();
    let authentication = Authentication {
        tiers: limit(2),
        ..sign_in(nobodys, "ada", 100)
    };
    let (_, evicted) = signed_in(store, authentication).await;
    assert_eq!(evicted, []);
    let expected = Some((at(100), "idle_timeout", EndedBy::Timeout));
    assert_eq!(how(&found(store, overdue).await), expected);
    assert_eq!(how(&found(store, younger).await), None);
    assert_eq!(
        f.told_since(known),
        each([("session.expired", overdue), ("session.authenticated", nobodys)])
    );
}

async fn denied_sign_in_lists_what_there_is_and_changes_nothing(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, new_session("ada", at(-50))).await.id;
    let [first, second] = sessions_of_ada(store).await;
    put(store, new_session("bob", at(0))).await;
    let nobodys = put(store, anonymous_session(at(0))).await.id;
    let everything = f.everything().await;

    let new = NewSession {
        tiers: limit(2),
        on_limit: OnLimit::Deny,
        data: Some(data(r#"{"a":1}"#)),
        ..new_session("ada", at(50))
    };
    assert_eq!(denied(store, new).await, (2, vec![second, first]));
    let authentication = |id, max| Authentication {
        tiers: limit(max),
        on_limit: OnLimit::Deny,
        ..sign_in(id, "ada", 50)
    };
    for (case, id, max, listed) in [
        ("another session", nobodys, 2, vec![second, first]),
        ("one of those that are there", first, 1, vec![second]),
    ] {
        let answer = authenticate(store, authentication(id, max)).await;
        let Authenticated::Refused(refused) = answer else {
            panic!("{case}: {answer:?}")
        };
        assert_eq!(limit_reached(refused), (max, listed), "{case}");
    }
    assert_eq!(f.everything().await, everything);
    assert_eq!(how(&found(store, overdue).await), None);
    signed_in(store, authentication(first, 2)).await;
}

async fn denied_list_is_bounded(f: Fixture) {
    let store = &*f.store;
    let tiers = limit(201);
    let making: Vec<_> = (0..201)
        .map(|secs| {
            let tiers = tiers.clone();
            store.create(NewSession {
                tiers,
                ..new_session("ada", at(secs % 90))
            })
        })
        .collect();
    for made in making {
        made.await.expect("made");
    }
    let new = NewSession {
        tiers,
        on_limit: OnLimit::Deny,
        ..new_session("ada", at(90))
    };
    let (max, listed) = denied(store, new).await;
    assert_eq!((max, listed.len()), (201, 200));
    let latest = found(store, listed[0]).await;
    assert_eq!(latest.signed_in_at, at(89), "the newest sign-ins");
}

async fn overdue_ones_deny_nothing(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, new_session("ada", at(0))).await.id;
    let known = f.told().len();
    let new = NewSession {
        tiers: limit(1),
        on_limit: OnLimit::Deny,
        ..new_session("ada", at(100))
    };
    let made = put(store, new).await.id;
    assert_eq!(
        f.told_since(known),
        each([("session.expired", overdue), ("session.created", made)])
    );
}

async fn chosen_sessions_make_room(f: Fixture) {
    let store = &*f.store;
    let [first, second] = sessions_of_ada(store).await;
    let nobodys = put(store, anonymous_session(at(0))).await.id;
    let known = f.told().len();
    let new = NewSession {
        tiers: limit(2),
        on_limit: OnLimit::Deny,
        end_ids: vec![second],
        ..new_session("ada", at(10))
    };
    let (made, evicted) = evicted_for(store, new).await;
    assert_eq!(evicted, [], "chosen, not evicted");
    let chosen = Some((at(10), "manual", EndedBy::User));
    assert_eq!(how(&found(store, second).await), chosen);
    assert_eq!(how(&found(store, first).await), None);

    let authentication = Authentication {
        tiers: limit(2),
        on_limit: OnLimit::Deny,
        end_ids: vec![first],
        ..sign_in(nobodys, "ada", 11)
    };
    let (_, evicted) = signed_in(store, authentication).await;
    assert_eq!(evicted, []);
    assert_eq!(
        f.told_since(known),
        each([
            ("session.revoked", second),
            ("session.created", made),
            ("session.revoked", first),
            ("session.authenticated", nobodys),
        ])
    );
}

async fn chosen_sessions_end_also_where_there_is_room(f: Fixture) {
    let store = &*f.store;
    let [first, second] = sessions_of_ada(store).await;
    let new = NewSession {
        end_ids: vec![first],
        ..new_session("ada", at(10))
    };
    put(store, new).await;
    let chosen = Some((at(10), "manual", EndedBy::User));
    assert_eq!(how(&found(store, first).await), chosen);
    assert_eq!(how(&found(store, second).await), None);
}

async fn chosen_sessions_that_make_too_little_room_stay(f: Fixture) {
    let store = &*f.store;
    let [first, second, third] = sessions_of_ada(store).await;
    let everything = f.everything().await;
    let new = NewSession {
        tiers: limit(2),
        on_limit: OnLimit::Deny,
        end_ids: vec![third],
        tier: Some("only".to_owned()),
        ..new_session("ada", at(10))
    };
    assert_eq!(denied(store, new).await, (2, vec![third, second, first]));
    assert_eq!(f.everything().await, everything);
}

async fn chosen_sessions_end_before_others_are_evicted(f: Fixture) {
    let store = &*f.store;
    let [first, second, third] = sessions_of_ada(store).await;
    let known = f.told().len();
    let new = NewSession {
        tiers: limit(2),
        end_ids: vec![third],
        ..new_session("ada", at(10))
    };
    let (made, evicted) = evicted_for(store, new).await;
    assert_eq!(evicted, [first]);
    assert_eq!(how(&found(store, second).await), None);
    assert_eq!(
        f.told_since(known),
        each([
            ("session.revoked", third),
            ("session.evicted", first),
            ("session.created", made)
        ])
    );
}

async fn chosen_session_that_is_overdue_ends_as_expired(f: Fixture) {
    let store = &*f.store;
    let overdue = put(store, new_session("ada", at(0))).await.id;
    let new = NewSession {
        end_ids: vec![overdue],
        ..new_session("ada", at(200))
    };
    put(store, new).await;
    let expired = Some((at(100), "idle_timeout", EndedBy::Timeout));
    assert_eq!(how(&found(store, overdue).await), expired);
}

async fn sessions_of_others_cannot_be_chosen(f: Fixture) {
    let store = &*f.store;
    let bobs = put(store, new_session("bob", at(0))).await.id;
    let nobodys = put(store, anonymous_session(at(0))).await.id;
    let in_shop = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(0))
    };
    let elsewhere = put(store, in_shop).await.id;
    let ended = put(store, new_session("ada", at(0))).await.id;
    let request = ending(at(1), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), ended, Owner::Anyone, request)
        .await
        .expect("ended");
    let there = put(store, new_session("ada", at(1))).await.id;
    let everything = f.everything().await;
    let choosing = |max| NewSession {
        tiers: limit(max),
        on_limit: OnLimit::Deny,
        end_ids: vec![bobs, nobodys, elsewhere, ended, SessionId::from_bytes([9; 16])],
        ..new_session("ada", at(10))
    };

    assert_eq!(
        denied(store, choosing(1)).await,
        (1, vec![there]),
        "they make no room"
    );
    assert_eq!(f.everything().await, everything);
    put(store, choosing(2)).await;
    for (whose, id) in [("bob's", bobs), ("nobody's", nobodys), ("the shop's", elsewhere)] {
        assert_eq!(how(&found(store, id).await), None, "{whose}");
    }
    let first = Some((at(1), "logout", EndedBy::App));
    assert_eq!(how(&found(store, ended).await), first);
}

async fn session_that_signs_in_does_not_end_itself(f: Fixture) {
    let store = &*f.store;
    let [ada] = sessions_of_ada(store).await;
    let itself = Authentication {
        tiers: limit(1),
        on_limit: OnLimit::Deny,
        end_ids: vec![ada],
        ..sign_in(ada, "ada", 10)
    };
    signed_in(store, itself).await;
    assert_eq!(how(&found(store, ada).await), None);
}
