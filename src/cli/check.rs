//! `sessiond check`: whether the database is whole.

use std::path::Path;

use super::{Failure, output};
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
pub(super) fn run(database: &Path) -> Result<(), Failure> {
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
