//! What commands print: results on stdout, words about them on stderr.
//!
//! The macros of the standard library panic when that fails, which is no bug here: the reader of a pipe may have seen enough, a disk
//! may be full. So nothing else prints, as `lib.rs` has clippy hold the crate to. The signal that ends other programs then
//! (SIGPIPE) stays ignored: it would end a server whose client has gone.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Why a result could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot print the result: {0}")]
pub(super) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether nobody reads any more, as in `sessiond events | head`.
    pub(super) fn is_broken_pipe(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Prints a line of the result.
pub(super) fn line(line: impl Display) -> Result<(), OutputError> {
    text(format_args!("{line}\n"))
}

/// Prints a result that has its line ends.
pub(super) fn text(text: impl Display) -> Result<(), OutputError> {
    Ok(write!(io::stdout(), "{text}")?)
}

/// Prints what can be shown this one time, and says whether it was taken.
pub(super) fn secret(secret: impl Display) -> Result<(), OutputError> {
    line(secret)?;
    flush()
}

/// Hands over what is still held back.
pub(super) fn flush() -> Result<(), OutputError> {
    Ok(io::stdout().flush()?)
}

/// Says something about the result. If that fails there is nobody to be told.
pub(super) fn say(words: impl Display) {
    let _ = writeln!(io::stderr(), "{words}");
}
