//! How many sessions of a kind an app has that are not written down as ended, where an app may have so many at most; and when
//! visitors of an app started theirs within the last hour.
//!
//! Counted once when first asked for, then kept in step by the writer, which is the only one who changes it: counting
//! each time would take as long as there are sessions. Whenever a batch is rolled back everything is forgotten, and
//! counted again when it is next asked for.

use std::collections::{HashMap, VecDeque};

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::session::{AppName, Session};
use crate::store::VISITORS_MILLIS;

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
pub(super) struct Counts {
    unended: HashMap<(AppName, Kind), u64>,
    /// When visitors started sessions, oldest first: as many as an app may have in an hour, once they were asked for.
    visits: HashMap<AppName, VecDeque<Timestamp>>,
}

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
        let count = match self.unended.get(&key) {
            Some(count) => *count,
            None => {
                let count = count(connection, app, kind)?;
                self.unended.insert(key, count);
                count
            }
        };
        Ok(count < u64::from(max))
    }

    /// If visitors of the app have started `max` sessions within the hour before `now`, the start that must be an hour old
    /// before there can be another.
    pub(super) fn visit_that_must_age(
        &mut self,
        connection: &Connection,
        app: &AppName,
        max: u32,
        now: Timestamp,
    ) -> rusqlite::Result<Option<Timestamp>> {
        let since = now.plus_millis(-VISITORS_MILLIS);
        if !self.visits.contains_key(app) {
            self.visits.insert(app.clone(), visits(connection, app, since)?);
        }
        let Some(visits) = self.visits.get_mut(app) else {
            return Ok(None);
        };
        while visits.front().is_some_and(|at| *at <= since) {
            visits.pop_front();
        }
        let surplus = visits.len().checked_sub(max as usize);
        Ok(surplus.and_then(|surplus| visits.get(surplus)).copied())
    }

    /// A visitor started a session.
    pub(super) fn visited(&mut self, session: &Session) {
        if let Some(visits) = self.visits.get_mut(&session.app) {
            // Mostly the latest: a command is made a little before it is run.
            let place = visits.partition_point(|before| *before <= session.created_at);
            visits.insert(place, session.created_at);
        }
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
        self.unended.clear();
        self.visits.clear();
    }

    fn step(&mut self, session: &Session, step: impl Fn(&mut u64)) {
        // Most servers have neither visitors nor ids of clients.
        if self.unended.is_empty() {
            return;
        }
        let kinds = [
            (Kind::Anonymous, session.user_id.is_none()),
            (Kind::Client, session.client_session_id.is_some()),
        ];
        for (kind, _) in kinds.into_iter().filter(|(_, is_one)| *is_one) {
            if let Some(count) = self.unended.get_mut(&(session.app.clone(), kind)) {
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

/// When visitors of the app started sessions after `since`, oldest first. By the index alone, which has all of the app's that
/// are kept.
fn visits(connection: &Connection, app: &AppName, since: Timestamp) -> rusqlite::Result<VecDeque<Timestamp>> {
    connection
        .prepare_cached(
            "SELECT created_at FROM sessions
             WHERE app = ?1 AND started_from IS NOT NULL AND created_at > ?2 ORDER BY created_at",
        )?
        .query_map(params![app.as_str(), since], |row| row.get(0))?
        .collect()
}
