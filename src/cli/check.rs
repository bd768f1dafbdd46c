//! `sessiond check`: whether the database is whole.

use std::path::Path;

use super::{Failure, output};
use crate::server::beside;
use crate::store::sqlite::{OpenError, examine_soundness, is_restore_unfinished};

/// Why a database does not count as whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("{0}")]
    Database(#[from] OpenError),
    #[error("the database is not whole: {0} fault(s)")]
    Faults(usize),
}

/// Says so if another database is to take this one's place: to look at one, or to copy it, changes nothing.
pub(super) fn tell_unfinished_restore(database: &Path) {
    if let Ok(true) = is_restore_unfinished(&beside(database, "")) {
        output::say(format_args!(
            "Warning: restoring a backup was interrupted, and {} is the database of before, or missing. The next start of the \
             server finishes it, or `sessiond keys list`.",
            database.display()
        ));
    }
}

/// Prints a line for each fault, or what there is if there is none.
pub(super) fn run(database: &Path) -> Result<(), Failure> {
    tell_unfinished_restore(database);
    let found = examine_soundness(database).map_err(CheckError::from)?;
    for fault in &found.faults {
        output::line(fault)?;
    }
    if !found.faults.is_empty() {
        return Err(CheckError::Faults(found.faults.len()).into());
    }
    output::line(format_args!(
        "ok: {} session(s), {} event(s)",
        found.sessions, found.events
    ))?;
    Ok(())
}
