//! `sessiond backup`: a copy of the database, made while a server uses it.

use std::path::Path;
use std::sync::Arc;

pub(super) use crate::store::sqlite::BackupError;
use crate::store::sqlite::back_up;

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
