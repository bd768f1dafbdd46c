//! A backup in the place of a database.
//!
//! All that takes long is done in a copy beside the database: it is looked through, led to this version, its sessions are
//! ended and its events begin anew. The database is not touched until that copy is whole and on disk. Then the copy gets a name
//! that says so, and that is the moment from which it counts: a few renames are left, and whoever opens the database next does
//! those that are missing ([`finish_restore`]). So a death at any line leaves the old database, or the new one, and never a
//! start with none or with a log that belongs to the other.
//!
//! The old database is never opened: it may be damaged, and is kept as it is, with its log if it has one.
//!
//! The caller holds the lock that keeps servers away.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::backup::{
    BackupError, COMPANIONS, copy_pages, examine_filled, folder_of, open_as_one_file, open_beside_others,
    remove_database, snapshot_of, sync, sync_folder, with_suffix, write_new_epoch,
};
use super::soundness::{Soundness, look_at};
use super::{OpenError, SCHEMA, SqliteOptions, SqliteStore, create_private, examine, lead_to_newest};
use crate::clock::{Clock, Timestamp};
use crate::error::Error;
use crate::session::{AppName, EndedBy, Reason};
use crate::store::{EndRequest, Scope, SessionStore};

/// Added to the database's name for the copy that is being made.
const UNDER_WAY: &str = ".restoring";
/// For the copy that is done, with the time.
const READY: &str = ".restored-";
/// For the database that it takes the place of, with the same time.
const KEPT: &str = ".before-restore-";
/// Sessions ended in one transaction: as many as a call may end of an app.
const ENDINGS_PER_BATCH: usize = 500;

/// What becomes of the sessions that are active in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoredSessions {
    /// They end: some of them were ended after the backup was made.
    End,
    /// They go on, those too.
    Keep,
}

/// A backup that was restored.
#[derive(Debug)]
pub struct Restored {
    /// Sessions in it, ended ones too.
    pub sessions: u64,
    /// Those of them that were ended now.
    pub ended: u64,
    /// Where the database is that was there before, if there was one.
    pub kept: Option<PathBuf>,
    /// What does not hold between its rows, a line each.
    pub faults: Vec<String>,
}

/// Puts a copy of a backup in the place of a database, which is kept. `database` is no link.
pub async fn restore(
    backup: &Path,
    database: &Path,
    sessions: RestoredSessions,
    clock: &Clock,
) -> Result<Restored, BackupError> {
    // One that was interrupted comes first: what it put in place is then what is kept.
    finish_restore(database).map_err(|source| file_error(database, source))?;
    refuse_itself(backup, database)?;
    let copy = with_suffix(database, UNDER_WAY);
    let prepared = prepare(backup, database, &copy, sessions, clock).await;
    if prepared.is_err()
        && let Err(error) = remove_database(&copy)
    {
        log::warn!("cannot remove {}: {error}", copy.display());
    }
    let (found, ended) = prepared?;
    let kept = put_in_place(&copy, database, clock.now()).map_err(|source| file_error(database, source))?;
    Ok(Restored {
        sessions: found.sessions,
        ended,
        kept,
        faults: found.faults,
    })
}

fn refuse_itself(backup: &Path, database: &Path) -> Result<(), BackupError> {
    let id = |path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (id(backup), id(database)) {
        (Ok(one), Ok(other)) if one == other => Err(BackupError::Itself(backup.to_owned())),
        _ => Ok(()),
    }
}

fn file_error(path: &Path, source: io::Error) -> BackupError {
    BackupError::File {
        path: path.to_owned(),
        source,
    }
}

/// Makes the copy: one file, on disk, with nothing beside it.
async fn prepare(
    backup: &Path,
    database: &Path,
    copy: &Path,
    sessions: RestoredSessions,
    clock: &Clock,
) -> Result<(Soundness, u64), BackupError> {
    let failed = |source| BackupError::Copy {
        path: copy.to_owned(),
        source,
    };
    let source = open_beside_others(backup)?;
    let snapshot = snapshot_of(&source, backup)?;
    examine_filled(&snapshot, backup)?;
    remove_database(copy)
        .and_then(|()| create_private(copy))
        .map_err(|source| file_error(copy, source))?;
    copy_pages(&snapshot, copy, &|| true).map_err(failed)?;
    drop(snapshot);
    drop(source);

    let mut connection = open_as_one_file(copy).map_err(failed)?;
    let found = examine_copy(&mut connection, backup, copy)?;
    write_new_epoch(&connection).map_err(failed)?;
    let apps = apps_with_active_sessions(&connection).map_err(failed)?;
    drop(connection);
    let ended = match sessions {
        RestoredSessions::Keep => 0,
        RestoredSessions::End => end_all(copy, apps, clock).await?,
    };
    drop(open_as_one_file(copy).map_err(failed)?);
    give_to_owner_of(database, copy)
        .and_then(|()| sync(copy))
        .map_err(|source| file_error(copy, source))?;
    Ok((found, ended))
}

/// Leads the copy to this version and looks it through. What is wrong with it is wrong with the backup.
fn examine_copy(connection: &mut Connection, backup: &Path, copy: &Path) -> Result<Soundness, BackupError> {
    let failed = |source| {
        BackupError::Database(OpenError::Sqlite {
            path: backup.to_owned(),
            source,
        })
    };
    let contents = examine(connection, copy, SCHEMA)?;
    if contents.version < SCHEMA.version() {
        lead_to_newest(connection, &contents, SCHEMA).map_err(failed)?;
    }
    let contents = examine(connection, copy, SCHEMA)?;
    let found = look_at(connection, &contents).map_err(failed)?;
    if !found.is_readable {
        return Err(BackupError::Damaged {
            path: backup.to_owned(),
            faults: found.faults.join("; "),
        });
    }
    Ok(found)
}

fn apps_with_active_sessions(connection: &Connection) -> rusqlite::Result<Vec<AppName>> {
    let mut statement = connection.prepare("SELECT DISTINCT app FROM sessions WHERE ended_at IS NULL")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let apps = names.map(|name| {
        let name = name?;
        AppName::parse(&name).ok_or_else(|| rusqlite::Error::InvalidParameterName(name))
    });
    apps.collect()
}

/// Ends every active session as a server does, with an event each.
async fn end_all(copy: &Path, apps: Vec<AppName>, clock: &Clock) -> Result<u64, BackupError> {
    let options = SqliteOptions {
        path: copy.to_owned(),
        read_pool: 1,
        queue_len_max: 1,
    };
    let store = SqliteStore::open(&options)?;
    let result = end_in_each(&store, apps, clock).await;
    store.close();
    result.map_err(|source| BackupError::Ending {
        path: copy.to_owned(),
        source,
    })
}

async fn end_in_each(store: &SqliteStore, apps: Vec<AppName>, clock: &Clock) -> Result<u64, Error> {
    if let Some(stored) = store.high_water().await? {
        clock.raise_to(stored);
    }
    let mut ended = 0;
    for app in apps {
        loop {
            let request = EndRequest {
                now: clock.now(),
                reason: Reason::known(Reason::RESTORED),
                by: EndedBy::Operator,
            };
            let limit = ENDINGS_PER_BATCH;
            let batch = store.end_many(app.clone(), Scope::App { limit }, request).await?;
            ended += batch.revoked_count;
            if !batch.more {
                break;
            }
        }
    }
    Ok(ended)
}

/// Whoever could use the old database, or, if there is none, has its folder, can use this file, also if it is the
/// administrator who restores it.
pub fn give_to_owner_of(database: &Path, file: &Path) -> io::Result<()> {
    let replaced = std::fs::metadata(database);
    let is_replacing = replaced.is_ok();
    let old = replaced.or_else(|_| std::fs::metadata(folder_of(database)))?;
    let new = std::fs::metadata(file)?;
    if (old.uid(), old.gid()) == (new.uid(), new.gid()) {
        return Ok(());
    }
    match std::os::unix::fs::chown(file, Some(old.uid()), Some(old.gid())) {
        // In a folder that others let them write in, as /tmp is, people have files of their own.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_replacing => Ok(()),
        changed => changed,
    }
}

/// Declares the copy ready, and gives it its place.
fn put_in_place(copy: &Path, database: &Path, mut now: Timestamp) -> io::Result<Option<PathBuf>> {
    // Two in one second: the later one waits for no clock, but takes the next name.
    while with_suffix(database, &format!("{KEPT}{}", now.to_compact())).exists() {
        now = now.plus_millis(1_000);
    }
    let ready = with_suffix(database, &format!("{READY}{}", now.to_compact()));
    std::fs::rename(copy, ready)?;
    sync_folder(folder_of(database))?;
    finish_restore(database)
}

/// Does what is left to do of a restore that was interrupted; answers where the database is that was there before. To be called
/// by whoever holds the lock, before the database is opened.
pub fn finish_restore(database: &Path) -> io::Result<Option<PathBuf>> {
    let Some((ready, time)) = find_ready(database)? else {
        return Ok(None);
    };
    let kept = with_suffix(database, &format!("{KEPT}{time}"));
    if database.exists() && kept.exists() {
        let why = format!(
            "both {} and {} are there, and {} is to take the place of the first; move one of them away",
            database.display(),
            kept.display(),
            ready.display()
        );
        return Err(io::Error::other(why));
    }
    for (from, to) in renames(database, &ready, &kept) {
        rename_if_there(&from, &to)?;
        // Each is on disk before the next: their order is what they are for.
        sync_folder(folder_of(database))?;
    }
    Ok(kept.exists().then_some(kept))
}

/// Whether there is something left to do of a restore that was interrupted.
pub fn is_restore_unfinished(database: &Path) -> io::Result<bool> {
    Ok(find_ready(database)?.is_some())
}

/// The database goes first, as nobody makes a log for one that is not there; its log before the new one comes, which would
/// take it for its own.
fn renames(database: &Path, ready: &Path, kept: &Path) -> Vec<(PathBuf, PathBuf)> {
    let companions = COMPANIONS.map(|suffix| (with_suffix(database, suffix), with_suffix(kept, suffix)));
    [(database.to_owned(), kept.to_owned())]
        .into_iter()
        .chain(companions)
        .chain([(ready.to_owned(), database.to_owned())])
        .collect()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// The copy that is ready to be put in place, and its time.
fn find_ready(database: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let prefix = with_suffix(database, READY);
    let prefix = prefix.file_name().map_or(&[][..], OsStr::as_bytes);
    let entries = match std::fs::read_dir(folder_of(database)) {
        // A database that is yet to be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let time = name.as_bytes().strip_prefix(prefix);
        let time = time.and_then(|time| std::str::from_utf8(time).ok());
        if let Some(time) = time.filter(|time| Timestamp::parse_compact(time).is_some()) {
            return Ok(Some((entry.path(), time.to_owned())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::{migrate, open_for_writing};
    use super::*;

    fn make_marked(path: &Path, mark: &str) -> Connection {
        create_private(path).expect("made");
        let mut connection = open_for_writing(path).expect("opened");
        migrate(&mut connection, path, SCHEMA).expect("made");
        connection
            .execute("INSERT INTO meta (key, value) VALUES ('mark', ?1)", [mark])
            .expect("marked");
        connection
    }

    fn mark_of(path: &Path) -> String {
        let connection = Connection::open(path).expect("opened");
        connection
            .query_row("SELECT value FROM meta WHERE key = 'mark'", [], |row| row.get(0))
            .expect("a mark")
    }

    /// As a death leaves it that came after so many of the last steps; `None` once there are no more.
    fn after_steps(dir: &Path, count: usize) -> Option<PathBuf> {
        let (made, database) = (dir.join("made.db"), dir.join("s.db"));
        let writer = make_marked(&made, "old");
        // While it is open, so that its mark is in the log alone.
        for suffix in ["", "-wal", "-shm"] {
            std::fs::copy(with_suffix(&made, suffix), with_suffix(&database, suffix)).expect("copied");
        }
        drop(writer);
        let ready = with_suffix(&database, ".restored-20261120T215000Z");
        drop(make_marked(&ready, "new"));
        drop(open_as_one_file(&ready).expect("one file"));
        let kept = with_suffix(&database, ".before-restore-20261120T215000Z");
        let steps = renames(&database, &ready, &kept);
        let done = steps.get(..count)?;
        for (from, to) in done {
            rename_if_there(from, to).expect("renamed");
        }
        Some(database)
    }

    #[test]
    fn restore_that_dies_after_any_step_is_finished_by_whoever_comes_next() {
        for count in 0.. {
            let dir = tempfile::tempdir().expect("a directory");
            let Some(database) = after_steps(dir.path(), count) else {
                assert!(count > 5, "all steps were looked at");
                break;
            };
            let kept = with_suffix(&database, ".before-restore-20261120T215000Z");
            finish_restore(&database).expect("finished");
            assert_eq!(find_ready(&database).expect("looked"), None);
            assert_eq!(mark_of(&database), "new", "after {count} steps");
            assert_eq!(mark_of(&kept), "old", "with its log, after {count} steps");
            assert_eq!(finish_restore(&database).expect("nothing to do"), None);
        }
    }

    #[test]
    fn database_that_somebody_made_in_between_is_not_thrown_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = after_steps(dir.path(), 4).expect("all but the last");
        std::fs::write(&database, "somebody's").expect("written");
        let error = finish_restore(&database).expect_err("refused").to_string();
        assert!(error.contains("move one of them away"), "{error}");
        assert_eq!(std::fs::read(&database).expect("there"), b"somebody's");
    }

    #[test]
    fn only_a_name_with_a_time_is_a_copy_that_is_ready() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("s.db");
        for name in [
            "s.db.restored-",
            "s.db.restored-now",
            "t.db.restored-20261120T215000Z",
        ] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        assert_eq!(finish_restore(&database).expect("looked"), None);
        assert!(!database.exists());
    }
}
