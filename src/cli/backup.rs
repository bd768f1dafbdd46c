//! `sessiond backup` and `restore`: a copy of the database, made while a server uses it, and such a copy in its place.

use std::path::Path;
use std::sync::Arc;

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
pub(super) fn run(database: &Path, file: &Path) -> Result<(), BackupError> {
    let copied = back_up(database, file, &Arc::default())?;
    println!(
        "{}: {} session(s), {} event(s), {} bytes",
        file.display(),
        copied.sessions,
        copied.events,
        copied.bytes
    );
    eprintln!("The key file is not in it, and belongs in no backup.");
    for fault in copied.faults {
        eprintln!("sessiond: the database and its copy have a fault: {fault}");
    }
    Ok(())
}

/// Puts the copy in the place of the database, and says what that brings back.
pub(super) async fn restore(database: &Path, file: &Path, keep_sessions: bool) -> Result<(), BackupError> {
    let sessions = match keep_sessions {
        true => RestoredSessions::Keep,
        false => RestoredSessions::End,
    };
    let lock = DatabaseLock::take(database)?;
    // Where it really is: what takes its place must not take that of a link.
    let database = beside(database, "");
    let restored = sqlite::restore(file, &database, sessions, &Clock::system()).await?;
    drop(lock);
    tell(&restored, &database, file, sessions);
    Ok(())
}

fn tell(restored: &Restored, database: &Path, file: &Path, sessions: RestoredSessions) {
    println!(
        "{}: {} session(s) from {}, of which {} were ended",
        database.display(),
        restored.sessions,
        file.display(),
        restored.ended
    );
    for fault in &restored.faults {
        eprintln!("sessiond: the backup has a fault: {fault}");
    }
    match &restored.kept {
        Some(kept) => eprintln!("The database of before is kept as {}.", kept.display()),
        None => eprintln!("There was no database before."),
    }
    match sessions {
        RestoredSessions::End => eprintln!("Everybody has to sign in again (reason `restored`)."),
        RestoredSessions::Keep => eprintln!(
            "Warning: no session was ended. Those that were ended after the backup was made are accepted again, and so are \
             tokens that were replaced since; sessions that began since are gone."
        ),
    }
    eprintln!(
        "As they were in the backup are also API keys (one that was revoked since is good again), webhooks, and the settings \
         of users: who is blocked, limits, and since when their credentials hold. Users that were erased since are there again. \
         Places in the events are not good any more."
    );
}
