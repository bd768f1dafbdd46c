//! How many sessions of a kind an app has that are not written down as ended, where an app may have so many at most.
//!
//! Counted once when first asked for, then kept in step by the writer, which is the only one who changes it: counting
//! each time would take as long as there are sessions. Whenever a batch is rolled back everything is forgotten, and
//! counted again when it is next asked for.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::session::{AppName, Session};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Sessions of nobody.
    Anonymous,
    /// Sessions with an id that the client chose.
    Client,
}

/// The counts that are known.
#[derive(Default)]
pub(super) struct Counts(HashMap<(AppName, Kind), u64>);

impl Counts {
    /// Whether there are fewer than `max`.
    pub(super) fn has_room(
        &mut self,
        connection: &Connection,
        app: &AppName,
        kind: Kind,
        max: u32,
    ) -> rusqlite::Result<bool> {
        let key = (app.clone(), kind);
        let count = match self.0.get(&key) {
            Some(count) => *count,
            None => {
                let count = count(connection, app, kind)?;
                self.0.insert(key, count);
                count
            }
        };
        Ok(count < u64::from(max))
    }

    /// A session was made.
    pub(super) fn created(&mut self, session: &Session) {
        self.step(session, |count| *count += 1);
    }

    /// A session ended, or is about to become somebody's.
    pub(super) fn ended(&mut self, session: &Session) {
        self.step(session, |count| *count = count.saturating_sub(1));
    }

    /// What was counted may not have come to pass.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    fn step(&mut self, session: &Session, step: impl Fn(&mut u64)) {
        // Most servers have neither visitors nor ids of clients.
        if self.0.is_empty() {
            return;
        }
        let kinds = [
            (Kind::Anonymous, session.user_id.is_none()),
            (Kind::Client, session.client_session_id.is_some()),
        ];
        for (kind, _) in kinds.into_iter().filter(|(_, is_one)| *is_one) {
            if let Some(count) = self.0.get_mut(&(session.app.clone(), kind)) {
                step(count);
            }
        }
    }
}

fn count(connection: &Connection, app: &AppName, kind: Kind) -> rusqlite::Result<u64> {
    let of_kind = match kind {
        Kind::Anonymous => "user_id IS NULL",
        Kind::Client => "client_session_id IS NOT NULL",
    };
    connection
        .prepare_cached(&format!(
            "SELECT count(*) FROM sessions WHERE app = ?1 AND ended_at IS NULL AND {of_kind}"
        ))?
        .query_row(params![app.as_str()], |row| row.get(0))
}
