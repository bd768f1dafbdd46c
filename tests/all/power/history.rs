//! What clients asked for and were told, and when: what a database must say after a loss of power.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sessiond::session::{SecretHash, Token};

use super::recording;
use crate::harness::open_database;

/// What of a session is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its token's hash; not known as long as the answer that has the token is not there.
    pub token_hash: Option<SecretHash>,
    pub is_renewed: bool,
    /// How often its data was changed, which the data itself says as well.
    pub data: u64,
    pub is_ended: bool,
}

impl State {
    fn is_like(&self, found: &Self) -> bool {
        let known = Self {
            token_hash: self.token_hash.or(found.token_hash),
            ..self.clone()
        };
        known == *found
    }
}

/// One change of a session. Places are lengths of the recording.
struct Change {
    /// Nothing that is recorded before comes from it.
    asked: usize,
    /// What is recorded by then is all that the client can count on; `None`: it was never answered.
    answered: Option<usize>,
    after: State,
    /// The session's token, once it was told.
    token: Option<String>,
}

/// All that was asked for, by user: each of them has one session, whose changes come one after another.
pub struct History {
    log: PathBuf,
    /// When the API key was there.
    key_answered: usize,
    changes: Mutex<BTreeMap<String, Vec<Change>>>,
}

impl History {
    /// Begins when the API key has just been printed.
    pub fn new(log: &Path) -> Self {
        Self {
            log: log.to_owned(),
            key_answered: recording::len(log),
            changes: Mutex::default(),
        }
    }

    /// Where the recording is now.
    pub fn now(&self) -> usize {
        recording::len(&self.log)
    }

    /// To be called before a request is sent: what the session will be.
    pub fn ask(&self, user: &str, after: State) {
        let change = Change {
            asked: self.now(),
            answered: None,
            after,
            token: None,
        };
        let mut changes = self.changes.lock().expect("no client failed");
        changes.entry(user.to_owned()).or_default().push(change);
    }

    /// To be called when its answer is there.
    pub fn answered(&self, user: &str, token: &str) {
        let now = self.now();
        let hash = Token::parse(token).expect("a token").hash();
        let mut changes = self.changes.lock().expect("no client failed");
        let change = changes.get_mut(user).and_then(|changes| changes.last_mut());
        let change = change.expect("it was asked for");
        change.answered = Some(now);
        change.after.token_hash = Some(hash);
        change.token = Some(token.to_owned());
    }

    /// Where the recording was when answers came, in order.
    pub fn answers(&self) -> Vec<usize> {
        let changes = self.changes.lock().expect("no client failed");
        let answered = changes.values().flatten().filter_map(|change| change.answered);
        let mut answers: Vec<usize> = answered.chain([self.key_answered]).collect();
        answers.sort_unstable();
        answers
    }

    /// Says what is wrong with a database if all that is recorded up to `cut` can have reached it.
    pub fn compare(&self, database: &Path, cut: usize) -> Result<(), String> {
        let database = open_database(database);
        let count = |sql: &str| {
            database
                .query_row(sql, [], |row| row.get::<_, u64>(0))
                .map_err(|error| format!("{error}: {sql}"))
        };
        let integrity = database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        if integrity.as_deref() != Ok("ok") {
            return Err(format!("its integrity: {integrity:?}"));
        }
        if cut >= self.key_answered && count("SELECT count(*) FROM api_keys")? != 1 {
            return Err("the API key was printed and is lost".to_owned());
        }
        for (what, sql) in WITHOUT_ROWS {
            let rows = count(&format!("SELECT count(*) FROM ({sql})"))?;
            if rows != 0 {
                return Err(format!("{rows} rows: {what}"));
            }
        }
        let mut found = states(&database).map_err(|error| error.to_string())?;
        let changes = self.changes.lock().expect("no client failed");
        for (user, changes) in changes.iter() {
            let acknowledged = changes
                .iter()
                .take_while(|change| change.answered.is_some_and(|at| at <= cut))
                .count();
            let asked = changes.iter().take_while(|change| change.asked < cut).count();
            let found = found.remove(user);
            let is_right = |done: usize| match (done.checked_sub(1), &found) {
                (None, None) => true,
                (Some(last), Some(found)) => changes[last].after.is_like(found),
                _ => false,
            };
            if !(acknowledged..=asked).any(is_right) {
                let last = acknowledged.checked_sub(1).map(|last| &changes[last].after);
                return Err(format!(
                    "of {user}, {acknowledged} changes were acknowledged and {asked} asked for; the last acknowledged one \
                     made it {last:?}, and it is {found:?}"
                ));
            }
        }
        match found.pop_first() {
            None => Ok(()),
            Some((user, _)) => Err(format!("nobody asked for the session of {user}")),
        }
    }

    /// Every session of which all that was asked for was answered by then: its token, and whether it has ended.
    pub fn settled(&self, cut: usize) -> Vec<(String, bool)> {
        let changes = self.changes.lock().expect("no client failed");
        let is_answered = |change: &Change| change.answered.is_some_and(|at| at <= cut);
        let settled = changes.values().filter_map(|changes| {
            let asked = changes.iter().take_while(|change| change.asked < cut);
            let last = asked.clone().last().filter(|_| asked.clone().all(is_answered))?;
            Some((last.token.clone()?, last.after.is_ended))
        });
        settled.collect()
    }
}

/// What must not be in a database.
const WITHOUT_ROWS: &[(&str, &str)] = &[
    (
        "sessions that are not as their events tell",
        "SELECT 1 FROM sessions LEFT JOIN
             (SELECT session_id, sum(type = 'session.created') AS beginnings, sum(type = 'session.renewed') AS renewals,
                     sum(type = 'session.revoked') AS endings, count(*) AS events FROM events GROUP BY 1) AS told
             ON told.session_id = sessions.id
         WHERE (beginnings, renewals, endings, beginnings + renewals + endings)
             IS NOT (1, previous_token_hash IS NOT NULL, ended_at IS NOT NULL, events)",
    ),
    (
        "events without their session",
        "SELECT 1 FROM events WHERE session_id NOT IN (SELECT id FROM sessions)",
    ),
    (
        "holes among the numbers of events",
        "SELECT 1 WHERE (SELECT coalesce(max(id), 0) <> count(*) FROM events)",
    ),
    (
        "data of another version than its session says",
        "SELECT 1 FROM sessions LEFT JOIN session_data ON session_id = id
         WHERE ended_at IS NULL AND coalesce(data ->> '$.number', 0) <> data_version",
    ),
];

/// Every session by its user.
fn states(database: &rusqlite::Connection) -> rusqlite::Result<BTreeMap<String, State>> {
    let sql = "SELECT user_id, token_hash, previous_token_hash IS NOT NULL, data_version, ended_at IS NOT NULL FROM sessions";
    let mut statement = database.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let state = State {
            token_hash: Some(SecretHash::from_bytes(row.get(1)?)),
            is_renewed: row.get(2)?,
            data: row.get(3)?,
            is_ended: row.get(4)?,
        };
        Ok((row.get(0)?, state))
    })?;
    rows.collect()
}
