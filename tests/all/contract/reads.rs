//! Lists, their pages and counts.

use std::collections::HashSet;

use sessiond::session::{AppName, EndedBy, Reason, SessionId};
use sessiond::store::{AppList, Cursor, NewSession, Owner, SessionStore, StatusFilter, UserList, UserPage};

use super::{Fixture, over_both_stores};
use crate::stores::{anonymous_session, app, app_named, at, ending, new_session, put, user};

over_both_stores!(
    user_list_shows_what_the_filter_says_newest_first,
    user_list_is_paged_without_gaps_or_repeats,
    app_list_shows_users_or_nobodys_newest_first,
    app_list_is_paged_without_gaps_or_repeats,
    empty_lists_are_empty,
);

const ALL: [StatusFilter; 3] = [StatusFilter::Active, StatusFilter::Ended, StatusFilter::All];

async fn page(
    store: &dyn SessionStore,
    status: StatusFilter,
    after: Option<Cursor>,
    limit: usize,
) -> UserPage {
    let list = UserList {
        now: at(100),
        app: app(),
        user_id: user("ada"),
        status,
        after,
        limit,
    };
    store.list_user(list).await.expect("the store works")
}

/// Of ada: one overdue at 100, three revoked, three active, two signed in at the same moment.
async fn sessions_of_ada(store: &dyn SessionStore) -> Vec<SessionId> {
    let mut ids = Vec::new();
    for secs in [0, 10, 10, 20, 30, 40, 50] {
        ids.push(put(store, new_session("ada", at(secs))).await.id);
    }
    put(store, new_session("bob", at(60))).await;
    let elsewhere = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(61))
    };
    put(store, elsewhere).await;
    for index in [2, 4, 5] {
        let request = ending(at(70), Reason::LOGOUT, EndedBy::App);
        store
            .end(app(), ids[index], Owner::Anyone, request)
            .await
            .expect("ended");
    }
    ids
}

/// The indexes in `ids` of what a page holds.
fn indexes(ids: &[SessionId], sessions: &[sessiond::session::Session]) -> Vec<usize> {
    let index = |id| ids.iter().position(|known| *known == id).expect("one of ada's");
    sessions.iter().map(|session| index(session.id)).collect()
}

async fn user_list_shows_what_the_filter_says_newest_first(f: Fixture) {
    let ids = sessions_of_ada(&*f.store).await;
    let cases: [(StatusFilter, &[usize]); 3] = [
        (StatusFilter::Active, &[6, 3, 1]),
        (StatusFilter::Ended, &[5, 4, 2, 0]),
        (StatusFilter::All, &[6, 5, 4, 3, 2, 1, 0]),
    ];
    for (status, expected) in cases {
        let page = page(&*f.store, status, None, 50).await;
        assert_eq!(indexes(&ids, &page.sessions), expected, "{status:?}");
        assert_eq!(
            (page.total_count, page.active_count, page.next),
            (expected.len() as u64, 3, None),
            "{status:?}"
        );
    }
}

async fn user_list_is_paged_without_gaps_or_repeats(f: Fixture) {
    sessions_of_ada(&*f.store).await;
    for status in ALL {
        let whole = page(&*f.store, status, None, 50).await;
        for limit in 1..=8 {
            let (mut seen, mut after) = (Vec::new(), None);
            for _ in 0..8 {
                let part = page(&*f.store, status, after, limit).await;
                assert!(part.sessions.len() <= limit);
                assert_eq!(
                    part.total_count, whole.total_count,
                    "the count is the whole list's"
                );
                seen.extend(part.sessions.into_iter().map(|session| session.id));
                after = part.next;
                if after.is_none() {
                    break;
                }
            }
            let expected: Vec<_> = whole.sessions.iter().map(|session| session.id).collect();
            assert_eq!(seen, expected, "{status:?} by {limit}");
            assert_eq!(after, None, "{status:?} by {limit}");
        }
    }
}

async fn app_page(
    store: &dyn SessionStore,
    app: AppName,
    anonymous: bool,
    status: StatusFilter,
    after: Option<Cursor>,
    limit: usize,
) -> (Vec<SessionId>, Option<Cursor>) {
    let list = AppList {
        now: at(100),
        app,
        anonymous,
        status,
        after,
        limit,
    };
    let page = store.list_app(list).await.expect("the store works");
    let ids = page.sessions.into_iter().map(|session| session.id).collect();
    (ids, page.next)
}

/// In the app: four of users (0 overdue, 1 revoked, 2 and 3 active), two of nobody.
async fn sessions_of_app(store: &dyn SessionStore) -> (Vec<SessionId>, Vec<SessionId>) {
    let (mut users, mut nobodys) = (Vec::new(), Vec::new());
    for (name, secs) in [("ada", 0), ("bob", 10), ("ada", 20), ("cyd", 30)] {
        users.push(put(store, new_session(name, at(secs))).await.id);
    }
    for secs in [5, 40] {
        let new = anonymous_session(at(secs));
        nobodys.push(put(store, new).await.id);
    }
    let request = ending(at(70), Reason::LOGOUT, EndedBy::App);
    store
        .end(app(), users[1], Owner::Anyone, request)
        .await
        .expect("ended");
    let elsewhere = NewSession {
        app: app_named("shop"),
        ..new_session("ada", at(61))
    };
    put(store, elsewhere).await;
    (users, nobodys)
}

async fn app_list_shows_users_or_nobodys_newest_first(f: Fixture) {
    let (users, nobodys) = sessions_of_app(&*f.store).await;
    let cases = [
        (false, StatusFilter::Active, vec![users[3], users[2]]),
        (false, StatusFilter::Ended, vec![users[1], users[0]]),
        (
            false,
            StatusFilter::All,
            vec![users[3], users[2], users[1], users[0]],
        ),
        (true, StatusFilter::Active, vec![nobodys[1], nobodys[0]]),
        (true, StatusFilter::Ended, vec![]),
    ];
    for (anonymous, status, expected) in cases {
        let page = app_page(&*f.store, app(), anonymous, status, None, 50).await;
        assert_eq!(page, (expected, None), "anonymous {anonymous}, {status:?}");
    }
}

async fn app_list_is_paged_without_gaps_or_repeats(f: Fixture) {
    let (users, _) = sessions_of_app(&*f.store).await;
    let newest_first: Vec<_> = users.into_iter().rev().collect();
    for limit in 1..=5 {
        let (mut seen, mut after) = (Vec::new(), None);
        for _ in 0..5 {
            let (ids, next) = app_page(&*f.store, app(), false, StatusFilter::All, after, limit).await;
            assert!(ids.len() <= limit);
            seen.extend(ids);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((&seen, after), (&newest_first, None), "by {limit}");
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
    }
}

async fn empty_lists_are_empty(f: Fixture) {
    for status in ALL {
        let users = page(&*f.store, status, None, 50).await;
        assert!(users.sessions.is_empty() && users.next.is_none());
        assert_eq!((users.total_count, users.active_count), (0, 0));
        let app = app_page(&*f.store, app(), false, status, None, 50).await;
        assert_eq!(app, (vec![], None));
    }
}
