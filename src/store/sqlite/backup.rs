//! Copies of a whole database, made while it is used (<https://www.sqlite.org/backup.html>).
//!
//! All of a copy is one snapshot: the reader holds one transaction from its first page to its last, so that changes made
//! meanwhile neither wait, nor make it begin anew. The price is that the log of the database cannot begin anew until the copy is
//! done.
//!
//! A backup appears under its name whole and on disk, or not at all. It is written beside that name, under one that is the same
//! for all backups in a folder, so that the next one clears away what one that was killed left there. Its pages are looked
//! through before it counts: a schedule would else replace good backups by damaged ones. The key file is in none.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, Transaction};

use super::soundness::look_at;
use super::{BUSY_TIMEOUT, OpenError, SCHEMA, connect, create_private, examine};

/// Pages copied in one step, 4 MiB: between two it can be abandoned.
const PAGES_PER_STEP: i32 = 1_000;
/// Instructions of SQLite between two looks whether it was abandoned: some milliseconds.
const INSTRUCTIONS_PER_LOOK: i32 = 100_000;
/// The name that a backup has until it is done, in its folder.
const UNFINISHED: &str = ".sessiond-backup-unfinished";
/// What keeps two from writing there. A file of its own, as SQLite has locks on the copy.
const LOCK: &str = ".sessiond-backup-lock";
/// What SQLite may have beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A backup that was made.
#[derive(Debug)]
pub struct Copied {
    /// Sessions in it, ended ones too.
    pub sessions: u64,
    /// Events in it.
    pub events: u64,
    /// Its length.
    pub bytes: u64,
    /// What does not hold between its rows, a line each: the database has the same faults.
    pub faults: Vec<String>,
}

/// Why a backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The name is taken.
    #[error("{0} is there already, and a backup overwrites nothing; choose another name")]
    Exists(PathBuf),
    /// Another one is being made.
    #[error("another backup is being written in {0}; wait until it is done")]
    UnderWay(PathBuf),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// What is to be copied is broken.
    #[error("{path} is damaged: {faults}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says of its pages.
        faults: String,
    },
    /// What is to be restored is what it would replace.
    #[error("{0} is the database itself")]
    Itself(PathBuf),
    /// Whoever wanted it does no longer.
    #[error("abandoned")]
    Abandoned,
    /// SQLite could not copy.
    #[error("cannot copy the database to {path}: {source}")]
    Copy {
        /// The copy.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file system refused.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// The sessions in the copy could not be ended.
    #[error("cannot end the sessions of the copy {path}: {source}")]
    Ending {
        /// The copy.
        path: PathBuf,
        /// What the store says.
        source: crate::error::Error,
    },
}

/// Copies a database into a new file of its own, whether or not somebody uses it. Setting `abandoned` ends it soon, and leaves
/// nothing.
pub fn back_up(database: &Path, file: &Path, abandoned: &Arc<AtomicBool>) -> Result<Copied, BackupError> {
    refuse_existing(file)?;
    let source = open_beside_others(database)?;
    let snapshot = snapshot_of(&source, database)?;
    let contents = examine_filled(&snapshot, database)?;
    let unfinished = Unfinished::begin(folder_of(file))?;
    let copy = &unfinished.copy;
    let failed = |source| match abandoned.load(Ordering::Relaxed) {
        true => BackupError::Abandoned,
        false => BackupError::Copy {
            path: copy.clone(),
            source,
        },
    };
    let is_wanted = || !abandoned.load(Ordering::Relaxed);
    copy_pages(&snapshot, copy, &is_wanted).map_err(failed)?;
    // The log may go on from here.
    drop(snapshot);
    let looked_at = open_as_one_file(copy).map_err(failed)?;
    let is_unwanted = Arc::clone(abandoned);
    looked_at
        .progress_handler(
            INSTRUCTIONS_PER_LOOK,
            Some(move || is_unwanted.load(Ordering::Relaxed)),
        )
        .map_err(failed)?;
    let found = look_at(&looked_at, &contents).map_err(failed)?;
    drop(looked_at);
    if !found.is_readable {
        return Err(BackupError::Damaged {
            path: database.to_owned(),
            faults: found.faults.join("; "),
        });
    }
    if !is_wanted() {
        return Err(BackupError::Abandoned);
    }
    let bytes = unfinished.finish(file)?;
    Ok(Copied {
        sessions: found.sessions,
        events: found.events,
        bytes,
        faults: found.faults,
    })
}

/// Also a link that leads nowhere is a name that is taken.
fn refuse_existing(file: &Path) -> Result<(), BackupError> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Err(BackupError::Exists(file.to_owned())),
        Err(_) => Ok(()), // what else is wrong with it shows when it is made
    }
}

/// Opens a database that others may have open, and whose file is not to be written.
pub(super) fn open_beside_others(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        })
        .map_err(|source| OpenError::Sqlite {
            path: path.to_owned(),
            source,
        })
}

pub(super) fn snapshot_of<'c>(connection: &'c Connection, path: &Path) -> Result<Transaction<'c>, OpenError> {
    connection
        .unchecked_transaction()
        .map_err(|source| OpenError::Sqlite {
            path: path.to_owned(),
            source,
        })
}

/// A database of sessiond's, of this or an older version, with something in it.
pub(super) fn examine_filled(connection: &Connection, path: &Path) -> Result<super::Contents, OpenError> {
    let contents = examine(connection, path, SCHEMA)?;
    if contents.is_empty {
        return Err(OpenError::Empty(path.to_owned()));
    }
    Ok(contents)
}

/// Copies every page that a transaction sees into a file that is there and nobody else uses. It is not synced.
pub(super) fn copy_pages(
    snapshot: &Connection,
    copy: &Path,
    is_wanted: &dyn Fn() -> bool,
) -> rusqlite::Result<()> {
    let mut target = connect(copy)?;
    // Half a copy is of no use, so that nothing need be kept for taking it back, nor synced before all of it is there.
    target.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
    target.pragma_update(None, "synchronous", "OFF")?;
    let backup = Backup::new(snapshot, &mut target)?;
    while is_wanted() {
        if let StepResult::Done = step(&backup)? {
            return Ok(());
        }
    }
    Err(unfinished("abandoned"))
}

fn step(backup: &Backup<'_, '_>) -> rusqlite::Result<StepResult> {
    match backup.step(PAGES_PER_STEP)? {
        // The snapshot is held, and the copy is nobody else's: no lock can be in the way but that of somebody who has no
        // business there, and waiting for them would have no end.
        StepResult::Busy | StepResult::Locked => Err(unfinished("somebody else uses the copy")),
        going_on => Ok(going_on),
    }
}

fn unfinished(why: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
    rusqlite::Error::SqliteFailure(code, Some(format!("the copy could not be finished: {why}")))
}

/// Opens a copy that nobody else uses, and has it need no log beside it: pages that are copied say what the log of their
/// database is like.
pub(super) fn open_as_one_file(copy: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(copy)?;
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| {
        let mode: String = row.get(0)?;
        match mode.as_str() {
            "delete" => Ok(()),
            _ => Err(unfinished("it is in use")),
        }
    })?;
    Ok(connection)
}

/// A path with something added to its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Has the disk keep what was written.
pub(super) fn sync(file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()
}

/// From now on no place in the events that anybody has is good: they are told so, and begin anew.
pub(super) fn write_new_epoch(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO meta (key, value) VALUES ('epoch', randomblob(16))
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [],
        )
        .map(drop)
}

/// A name is on disk when its folder is.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file and what SQLite may have left beside it.
pub(super) fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in [""].iter().chain(&COMPANIONS) {
        match std::fs::remove_file(with_suffix(path, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A backup on its way, and the right to write it. What is not finished is removed.
struct Unfinished {
    copy: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl Unfinished {
    fn begin(folder: &Path) -> Result<Self, BackupError> {
        let lock = folder.join(LOCK);
        let failed = |source| BackupError::File {
            path: folder.to_owned(),
            source,
        };
        let held = match lock_in(&lock).map_err(failed)? {
            Some(held) => held,
            None => return Err(BackupError::UnderWay(folder.to_owned())),
        };
        let begun = Self {
            copy: folder.join(UNFINISHED),
            lock,
            _held: held,
        };
        remove_database(&begun.copy)
            .and_then(|()| create_private(&begun.copy))
            .map_err(failed)?;
        Ok(begun)
    }

    /// Gives it its name; answers its length.
    fn finish(self, file: &Path) -> Result<u64, BackupError> {
        refuse_existing(file)?;
        let place = || {
            let copy = File::open(&self.copy)?;
            copy.sync_all()?;
            std::fs::rename(&self.copy, file)?;
            sync_folder(folder_of(file))?;
            Ok(copy.metadata()?.len())
        };
        place().map_err(|source| BackupError::File {
            path: file.to_owned(),
            source,
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = remove_database(&self.copy) {
            log::warn!("cannot remove {}: {error}", self.copy.display());
        }
        // While it is held: nobody else has it, so that it is ours.
        if let Err(error) = std::fs::remove_file(&self.lock) {
            log::warn!("cannot remove {}: {error}", self.lock.display());
        }
    }
}

/// The lock, if nobody has it. It is removed by who has it, so that what was locked must still be what has the name.
fn lock_in(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    let opened = file.metadata()?;
    let named = std::fs::symlink_metadata(path);
    let is_same = named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino()));
    Ok(is_same.then_some(file))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::open_for_writing;
    use super::*;

    /// A database of some thousand pages, and its writer.
    fn large_database(dir: &tempfile::TempDir) -> (PathBuf, Connection) {
        let path = dir.path().join("s.db");
        create_private(&path).expect("made");
        let writer = open_for_writing(&path).expect("opened");
        writer
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(20000000))")
            .expect("filled");
        (path, writer)
    }

    #[test]
    fn copy_that_is_no_longer_wanted_ends_between_two_steps() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, _writer) = large_database(&dir);
        let copy = dir.path().join("copy.db");
        create_private(&copy).expect("made");
        let source = open_beside_others(&path).expect("opened");
        let steps = Cell::new(0);
        let is_wanted = || {
            steps.set(steps.get() + 1);
            steps.get() < 3
        };
        copy_pages(&source, &copy, &is_wanted).expect_err("there was more to copy");
        assert_eq!(steps.get(), 3);
    }

    #[test]
    fn changes_that_come_between_steps_do_not_make_a_copy_begin_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, writer) = large_database(&dir);
        let copy = dir.path().join("copy.db");
        create_private(&copy).expect("made");
        let source = open_beside_others(&path).expect("opened");
        let snapshot = snapshot_of(&source, &path).expect("begun");
        let rows = |connection: &Connection| {
            connection
                .query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
                .expect("counted")
        };
        assert_eq!(rows(&snapshot), 1);
        let steps = Cell::new(0);
        let change = || {
            writer
                .execute_batch("INSERT INTO t VALUES (zeroblob(5000000))")
                .expect("written");
            steps.set(steps.get() + 1);
            steps.get() < 100
        };
        copy_pages(&snapshot, &copy, &change).expect("copied");
        assert_eq!(rows(&writer), 1 + steps.get());
        assert!(steps.get() > 3, "there was something between the steps");
        assert_eq!(rows(&open_as_one_file(&copy).expect("opened")), 1);
    }
}
