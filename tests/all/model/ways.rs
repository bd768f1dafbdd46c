//! The ways in which sessions end, and how often each was taken.

use std::collections::BTreeMap;

use sessiond::event::{Event, EventKind};
use sessiond::session::EndedBy;
use sessiond::store::{About, EventList, EventsFrom, SessionStore};

use super::operations::Op;

/// How many sessions ended in which way.
pub type Ways = BTreeMap<&'static str, usize>;

/// Every way in which a session ends. Signing out is an ending of one session by its user.
pub const WAYS: [&str; 14] = [
    "revoked",
    "signed out",
    "client's destroyed",
    "all of a user revoked",
    "all of an app revoked",
    "user blocked",
    "token reused",
    "evicted by a creation",
    "evicted by a sign-in",
    "chosen at a creation",
    "chosen at a sign-in",
    "overdue at a sign-in",
    "overdue when revoked",
    "swept",
];

/// In which way an operation ended a session, by the event of it.
fn way_of(op: &Op, ending: &Event) -> &'static str {
    let by = ending.ended_by.expect("endings have an actor");
    match (op, by) {
        (Op::Create { .. } | Op::EnsureClient { .. }, EndedBy::Limit) => "evicted by a creation",
        (Op::Create { .. } | Op::EnsureClient { .. }, EndedBy::User) => "chosen at a creation",
        (Op::Authenticate { .. }, EndedBy::Limit) => "evicted by a sign-in",
        (Op::Authenticate { .. }, EndedBy::User) => "chosen at a sign-in",
        (Op::Create { .. } | Op::EnsureClient { .. } | Op::Authenticate { .. }, EndedBy::Timeout) => {
            "overdue at a sign-in"
        }
        (Op::Tick | Op::Expire { .. } | Op::Restart, EndedBy::Timeout) => "swept",
        (_, EndedBy::Timeout) => "overdue when revoked",
        (Op::Revoke { why: 0, .. }, EndedBy::User) => "signed out",
        (Op::Revoke { .. }, _) => "revoked",
        (Op::RevokeClient { .. }, _) => "client's destroyed",
        (Op::RevokeUser { .. }, _) => "all of a user revoked",
        (Op::RevokeApp { .. }, _) => "all of an app revoked",
        (Op::UpdateUser { .. }, EndedBy::App) => "user blocked",
        (Op::Renew { .. }, EndedBy::Security) => "token reused",
        other => panic!("a session ended by {other:?}"),
    }
}

/// Counts the endings that were told of since the event with this number; answers the number of the latest event.
pub async fn count_ways(store: &dyn SessionStore, op: &Op, since: u64, ways: &mut Ways) -> u64 {
    let list = EventList {
        app: None,
        about: About::Anyone,
        kinds: EventKind::ALL
            .into_iter()
            .filter(|kind| kind.is_ending())
            .collect(),
        from: EventsFrom::After(since),
        limit: 1_000,
    };
    let page = store.list_events(list).await.expect("a page");
    for told in &page.events {
        *ways.entry(way_of(op, &told.event)).or_default() += 1;
    }
    page.bounds.last
}
