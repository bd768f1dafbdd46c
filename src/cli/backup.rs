//! `sessiond backup` and `restore`: a copy of the database, made while a server uses it, and such a copy in its place.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use super::check::tell_unfinished_restore;
use super::output::{self, OutputError};
use crate::clock::Clock;
use crate::server::{DatabaseLock, StartError, beside};
use crate::store::sqlite::{self, Restored, RestoredSessions, back_up};

/// Why there is no backup, or why it was not restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    #[error("{0}")]
    Backup(#[from] sqlite::BackupError),
    #[error("{0}")]
    Lock(#[from] StartError),
}

/// Makes the copy, and prints what is in it.
pub(super) fn run(database: &Path, file: &Path) -> Result<(), Failure> {
    tell_unfinished_restore(database);
    let copied = back_up(database, file, &Arc::default()).map_err(BackupError::from)?;
    for fault in copied.faults {
        output::say(format_args!(
            "sessiond: the database and its copy have a fault: {fault}"
        ));
    }
    output::line(format_args!(
        "{}: {} session(s), {} event(s), {} bytes",
        file.display(),
        copied.sessions,
        copied.events,
        copied.bytes
    ))?;
    output::say("The key file is not in it, and belongs in no backup.");
    Ok(())
}

/// Puts the copy in the place of the database, and says what that brings back.
pub(super) async fn restore(database: &Path, file: &Path, keep_sessions: bool) -> Result<(), Failure> {
    let sessions = match keep_sessions {
        true => RestoredSessions::Keep,
        false => RestoredSessions::End,
    };
    let lock = DatabaseLock::take(database).map_err(BackupError::from)?;
    // Where it really is: what takes its place must not take that of a link.
    let database = beside(database, "");
    // Made by the administrator it would keep the server out, whose the rest is.
    sqlite::give_to_owner_of(&database, &beside(&database, ".lock"))?;
    let restored = sqlite::restore(file, &database, sessions, &Clock::system())
        .await
        .map_err(BackupError::from)?;
    drop(lock);
    let printed = print(&restored, &database, file);
    // What it means is to be known also if the numbers cannot be printed.
    tell(&restored, sessions);
    Ok(printed?)
}

fn print(restored: &Restored, database: &Path, file: &Path) -> Result<(), OutputError> {
    output::line(format_args!(
        "{}: {} session(s) from {}, of which {} were ended",
        database.display(),
        restored.sessions,
        file.display(),
        restored.ended
    ))
}

fn tell(restored: &Restored, sessions: RestoredSessions) {
    for fault in &restored.faults {
        output::say(format_args!("sessiond: the backup has a fault: {fault}"));
    }
    match &restored.kept {
        Some(kept) => output::say(format_args!(
            "The database of before is kept as {}.",
            kept.display()
        )),
        None => output::say("There was no database before."),
    }
    match sessions {
        RestoredSessions::End => output::say("Everybody has to sign in again (reason `restored`)."),
        RestoredSessions::Keep => output::say(
            "Warning: no session was ended. Those that were ended after the backup was made are accepted again, and so are \
             tokens that were replaced since; sessions that began since are gone.",
        ),
    }
    output::say(
        "As they were in the backup are also API keys (one that was revoked since is good again), webhooks, and the settings \
         of users: who is blocked, limits, and since when their credentials hold. Users that were erased since are there again. \
         Places in the events are not good any more.",
    );
}
