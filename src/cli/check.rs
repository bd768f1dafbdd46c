//! `sessiond check`: whether the database is whole.

use std::path::Path;

use crate::store::sqlite::{OpenError, examine_soundness};

/// Why a database does not count as whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("{0}")]
    Database(#[from] OpenError),
    #[error("the database is not whole: {0} fault(s)")]
    Faults(usize),
}

/// Prints a line for each fault, or what there is if there is none.
pub(super) fn run(database: &Path) -> Result<(), CheckError> {
    let found = examine_soundness(database)?;
    for fault in &found.faults {
        println!("{fault}");
    }
    if !found.faults.is_empty() {
        return Err(CheckError::Faults(found.faults.len()));
    }
    println!("ok: {} session(s), {} event(s)", found.sessions, found.events);
    Ok(())
}
