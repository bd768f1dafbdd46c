//! Whether a database is whole: its pages, and what must hold between its rows, whatever happened to the machine. Nothing is
//! changed, and a running server goes on meanwhile: all of it is read from one snapshot.
//!
//! What is looked for are traces of a change that was done in part, which a transaction does not leave. Limits are no such
//! rule: one that was lowered leaves users with more sessions than it allows until they sign in again.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::backup::open_beside_others;
use super::{Contents, OpenError, SCHEMA, examine};

/// Faults that are told of one rule; the rest is counted.
const SHOWN_MAX: u64 = 5;

/// What must hold, and a query for what breaks it: one row each, whose first column names it.
const RULES: &[(&str, &str)] = &[
    (
        "a session that has ended has one event of its ending, and one that has not has none",
        "SELECT lower(hex(sessions.id)) FROM sessions LEFT JOIN
             (SELECT session_id, count(*) AS endings FROM events
              WHERE type IN ('session.expired', 'session.revoked', 'session.evicted') GROUP BY session_id) AS told
             ON told.session_id = sessions.id
         WHERE coalesce(endings, 0) <> (ended_at IS NOT NULL)",
    ),
    (
        "data belongs to a session that is there, has not ended, and counts it",
        "SELECT lower(hex(session_id)) FROM session_data LEFT JOIN sessions ON sessions.id = session_id
         WHERE sessions.id IS NULL OR ended_at IS NOT NULL OR data_version = 0",
    ),
    (
        "a delivery belongs to a webhook that is there",
        "SELECT lower(hex(webhook_id)) || ' ' || event_id FROM webhook_deliveries
         WHERE webhook_id NOT IN (SELECT id FROM webhooks)",
    ),
    (
        "the numbers of events have no holes, and the next one was never given",
        "SELECT 'from ' || min(id) || ' to ' || max(id) || ' are ' || count(*) FROM events
         HAVING max(id) - min(id) + 1 <> count(*)
             OR max(id) > coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)",
    ),
    (
        "nobody has more than 10,000 active sessions",
        "SELECT user_id || ' in ' || app FROM sessions WHERE ended_at IS NULL AND user_id IS NOT NULL
         GROUP BY app, user_id HAVING count(*) > 10000",
    ),
    (
        "no session begins after the latest time that was written",
        "SELECT lower(hex(id)) FROM sessions
         WHERE created_at > coalesce((SELECT value FROM meta WHERE key = 'high_water'), 0)",
    ),
];

/// What a database was found to be.
#[derive(Debug)]
pub struct Soundness {
    /// Whether its pages are whole.
    pub is_readable: bool,
    /// Sessions, ended ones too; 0 if its pages are broken.
    pub sessions: u64,
    /// Events; likewise.
    pub events: u64,
    /// What is wrong, a line each.
    pub faults: Vec<String>,
}

/// Looks at a database of this version of the schema. Takes a while: all of it is read.
pub fn examine_soundness(path: &Path) -> Result<Soundness, OpenError> {
    let failed = |source| OpenError::Sqlite {
        path: path.to_owned(),
        source,
    };
    let connection = open_beside_others(path)?;
    let snapshot = connection.unchecked_transaction().map_err(failed)?;
    let contents = examine(&snapshot, path, SCHEMA)?;
    if contents.version != SCHEMA.version() {
        return Err(OpenError::OlderSchema {
            path: path.to_owned(),
            found: contents.version,
            known: SCHEMA.version(),
        });
    }
    look_at(&snapshot, &contents).map_err(failed)
}

/// Looks at its pages, and at what must hold between its rows if it is of this version: the rules name what others may not have.
pub(super) fn look_at(connection: &Connection, contents: &Contents) -> rusqlite::Result<Soundness> {
    let mut faults = match broken_pages(connection) {
        // Too broken to be looked through.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            vec![error.to_string()]
        }
        found => found?,
    };
    if !faults.is_empty() {
        // Rows on broken pages say nothing.
        return Ok(Soundness {
            is_readable: false,
            sessions: 0,
            events: 0,
            faults,
        });
    }
    let is_of_this_version = contents.version == SCHEMA.version();
    for (rule, query) in RULES.iter().filter(|_| is_of_this_version) {
        faults.extend(broken(connection, rule, query)?);
    }
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get(0));
    Ok(Soundness {
        is_readable: true,
        sessions: count("SELECT count(*) FROM sessions")?,
        events: count("SELECT count(*) FROM events")?,
        faults,
    })
}

/// What SQLite says of pages and indexes (<https://www.sqlite.org/pragma.html#pragma_integrity_check>).
fn broken_pages(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({SHOWN_MAX})"))?;
    let said = statement.query_map([], |row| row.get::<_, String>(0))?;
    let said = said.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(said.into_iter().filter(|line| line != "ok").collect())
}

/// What breaks a rule, in one line; `None` if nothing does.
fn broken(connection: &Connection, rule: &str, query: &str) -> rusqlite::Result<Option<String>> {
    let sql = format!(
        "WITH broken (which) AS MATERIALIZED ({query})
         SELECT (SELECT count(*) FROM broken), (SELECT group_concat(which, ', ') FROM (SELECT which FROM broken LIMIT {SHOWN_MAX}))"
    );
    let (count, which): (u64, Option<String>) =
        connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let more = if count > SHOWN_MAX { ", …" } else { "" };
    Ok(which.map(|which| format!("{count} break the rule that {rule}: {which}{more}")))
}
