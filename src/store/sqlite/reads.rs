//! What is read, on the read-only connections.

use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::rows::{self, KEY_COLUMNS, SESSION_COLUMNS, USER_COLUMNS};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::session::{AppName, KeyId, Session, SessionId};
use crate::store::{
    AppList, AppPage, Cursor, KeyRecord, StatusFilter, UserList, UserPage, UserRecord, cut_page,
};
use crate::user::{UserId, UserSettings};

pub(super) fn high_water(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'high_water'")?
        .query_row([], |row| row.get(0))
        .optional()
}

pub(super) fn largest_id(connection: &Connection) -> rusqlite::Result<Option<SessionId>> {
    connection.query_row("SELECT max(id) FROM sessions", [], |row| row.get(0))
}

pub(super) fn find(connection: &Connection, id: SessionId) -> rusqlite::Result<Option<Session>> {
    static FIND: LazyLock<String> =
        LazyLock::new(|| format!("SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?1"));
    connection
        .prepare_cached(&FIND)?
        .query_row([id], rows::session)
        .optional()
}

pub(super) fn find_client(
    connection: &Connection,
    app: &AppName,
    client_session_id: i64,
) -> rusqlite::Result<Option<Session>> {
    connection
        .prepare_cached(&format!(
            "SELECT {SESSION_COLUMNS} FROM sessions
             WHERE app = ?1 AND client_session_id = ?2 AND ended_at IS NULL"
        ))?
        .query_row(params![app.as_str(), client_session_id], rows::session)
        .optional()
}

pub(super) fn find_with_data(
    connection: &Connection,
    id: SessionId,
) -> rusqlite::Result<Option<(Session, Data)>> {
    let snapshot = connection.unchecked_transaction()?;
    match find(&snapshot, id)? {
        Some(session) => Ok(Some((session, data(&snapshot, id)?))),
        None => Ok(None),
    }
}

/// A session's data; most sessions have none.
pub(super) fn data(connection: &Connection, id: SessionId) -> rusqlite::Result<Data> {
    let data = connection
        .prepare_cached("SELECT data FROM session_data WHERE session_id = ?1")?
        .query_row([id], rows::data)
        .optional()?;
    Ok(data.unwrap_or_default())
}

pub(super) fn find_key(connection: &Connection, id: KeyId) -> rusqlite::Result<Option<KeyRecord>> {
    connection
        .prepare_cached(&format!("SELECT {KEY_COLUMNS} FROM api_keys WHERE id = ?1"))?
        .query_row([id], rows::key)
        .optional()
}

pub(super) fn list_keys(connection: &Connection) -> rusqlite::Result<Vec<KeyRecord>> {
    connection
        .prepare_cached(&format!(
            "SELECT {KEY_COLUMNS} FROM api_keys ORDER BY created_at, id"
        ))?
        .query_map([], rows::key)?
        .collect()
}

pub(super) fn user_settings(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
) -> rusqlite::Result<UserSettings> {
    let settings = connection
        .prepare_cached(&format!(
            "SELECT {USER_COLUMNS} FROM users WHERE app = ?1 AND user_id = ?2"
        ))?
        .query_row(params![app.as_str(), user_id.as_str()], rows::user_settings)
        .optional()?;
    Ok(settings.unwrap_or_default())
}

pub(super) fn find_user(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
    now: Timestamp,
) -> rusqlite::Result<UserRecord> {
    let snapshot = connection.unchecked_transaction()?;
    let settings = user_settings(&snapshot, app, user_id)?;
    let active_count = count_active(&snapshot, app, user_id, now)?;
    Ok(UserRecord {
        settings,
        active_count,
    })
}

/// Active ones are those without a written ending whose deadline has not passed.
pub(super) fn count_active(
    connection: &Connection,
    app: &AppName,
    user_id: &UserId,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM sessions
             WHERE app = ?1 AND user_id = ?2 AND ended_at IS NULL AND expires_at > ?3",
        )?
        .query_row(params![app.as_str(), user_id.as_str(), now], |row| row.get(0))
}

fn count_stored(connection: &Connection, app: &AppName, user_id: &UserId) -> rusqlite::Result<u64> {
    // Two partial indexes hold the two halves; neither alone could answer without the condition.
    connection
        .prepare_cached(
            "SELECT (SELECT count(*) FROM sessions WHERE app = ?1 AND user_id = ?2 AND ended_at IS NULL)
                  + (SELECT count(*) FROM sessions WHERE app = ?1 AND user_id = ?2 AND ended_at IS NOT NULL)",
        )?
        .query_row(params![app.as_str(), user_id.as_str()], |row| row.get(0))
}

pub(super) fn list_user(connection: &Connection, list: &UserList) -> rusqlite::Result<UserPage> {
    const OF_USER: &str = "app = :app AND user_id = :user AND (signed_in_at, id) < (:at, :id)";
    // Each arm reads one partial index in the order that is asked for; SQLite merges them.
    let arm =
        |condition: &str| format!("SELECT {SESSION_COLUMNS} FROM sessions WHERE {OF_USER} AND {condition}");
    let arms = match list.status {
        StatusFilter::Active => arm("ended_at IS NULL AND expires_at > :now"),
        StatusFilter::Ended => {
            format!(
                "{} UNION ALL {}",
                arm("ended_at IS NOT NULL"),
                arm("ended_at IS NULL AND expires_at <= :now")
            )
        }
        // The second condition on the deadline only uses the parameter: every arm set must name the same ones.
        StatusFilter::All => {
            format!(
                "{} UNION ALL {}",
                arm("ended_at IS NOT NULL"),
                arm("ended_at IS NULL AND :now IS NOT NULL")
            )
        }
    };
    let snapshot = connection.unchecked_transaction()?;
    let after = list.after.unwrap_or(FROM_THE_NEWEST);
    let sessions = snapshot
        .prepare_cached(&format!(
            "{arms} ORDER BY signed_in_at DESC, id DESC LIMIT :limit"
        ))?
        .query_map(
            named_params! {
                ":app": list.app.as_str(), ":user": list.user_id.as_str(), ":at": after.signed_in_at,
                ":id": after.id, ":now": list.now, ":limit": list.limit + 1,
            },
            rows::session,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let (sessions, next) = cut_page(sessions, list.limit);
    let active_count = count_active(&snapshot, &list.app, &list.user_id, list.now)?;
    let total_count = match list.status {
        StatusFilter::Active => active_count,
        StatusFilter::Ended => count_stored(&snapshot, &list.app, &list.user_id)? - active_count,
        StatusFilter::All => count_stored(&snapshot, &list.app, &list.user_id)?,
    };
    Ok(UserPage {
        sessions,
        next,
        total_count,
        active_count,
    })
}

/// Rows that one page of an app's list looks at: some 10 ms. Few of them may match, in an app that is small beside others.
pub(super) const SCAN_ROWS_MAX: usize = 5_000;

pub(super) fn list_app(
    connection: &Connection,
    list: &AppList,
    scan_rows_max: usize,
) -> rusqlite::Result<AppPage> {
    let of_whom = if list.anonymous {
        "user_id IS NULL"
    } else {
        "user_id IS NOT NULL"
    };
    let status = match list.status {
        StatusFilter::Active => "ended_at IS NULL AND expires_at > :now",
        StatusFilter::Ended => "(ended_at IS NOT NULL OR expires_at <= :now)",
        StatusFilter::All => ":now IS NOT NULL",
    };
    let snapshot = connection.unchecked_transaction()?;
    let after = list.after.unwrap_or(FROM_THE_NEWEST);
    // In the order of the key, as far as a page may look; the limit inside keeps the conditions out there.
    let sessions = snapshot
        .prepare_cached(&format!(
            "SELECT {SESSION_COLUMNS} FROM (SELECT * FROM sessions WHERE id < :id ORDER BY id DESC LIMIT :scan)
             WHERE app = :app AND {of_whom} AND {status} ORDER BY id DESC LIMIT :limit"
        ))?
        .query_map(
            named_params! {
                ":app": list.app.as_str(), ":id": after.id, ":now": list.now, ":limit": list.limit + 1,
                ":scan": scan_rows_max,
            },
            rows::session,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let (sessions, next) = cut_page(sessions, list.limit);
    if next.is_some() {
        return Ok(AppPage { sessions, next });
    }
    // A page that is not full is the last one only if it has looked to the end.
    let last_looked_at: Option<SessionId> = snapshot
        .prepare_cached("SELECT id FROM sessions WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![after.id, scan_rows_max - 1], |row| row.get(0))
        .optional()?;
    let next = last_looked_at.map(|id| Cursor {
        signed_in_at: list.now,
        id,
    });
    Ok(AppPage { sessions, next })
}

/// Before every session there is.
const FROM_THE_NEWEST: Cursor = Cursor {
    signed_in_at: Timestamp::from_millis(i64::MAX),
    id: SessionId::from_bytes([0xff; 16]),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_of_an_app_looks_at_so_many_rows_and_goes_on_after_them() {
        let connection = Connection::open_in_memory().expect("a database");
        connection
            .execute_batch(include_str!("../../../schema.sql"))
            .expect("the schema");
        for number in 1..=10_u8 {
            let app = if number == 2 { "small" } else { "large" };
            connection
                .execute(
                    "INSERT INTO sessions (id, app, user_id, token_hash, created_at, signed_in_at, last_activity_at,
                         idle_timeout, absolute_expires_at, expires_at)
                     VALUES (?1, ?2, 'ada', zeroblob(32), 0, 0, 0, 100, 100, 100)",
                    params![[number; 16], app],
                )
                .expect("a row");
        }
        let mut list = AppList {
            now: Timestamp::from_millis(1),
            app: AppName::parse("small").expect("a name"),
            anonymous: false,
            status: StatusFilter::Active,
            after: None,
            limit: 5,
        };
        let mut found = Vec::new();
        let mut pages = 0;
        loop {
            let page = list_app(&connection, &list, 4).expect("a page");
            pages += 1;
            found.extend(page.sessions.into_iter().map(|session| session.id));
            list.after = page.next;
            if list.after.is_none() || pages > 10 {
                break;
            }
        }
        assert_eq!((found, pages), (vec![SessionId::from_bytes([2; 16])], 3));
    }
}
