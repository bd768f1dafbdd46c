//! What is wrong with a configuration, and how it is told.

use std::fmt::{self, Display};

/// Longest wrong text that a mistake repeats, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// Everything that is wrong with a configuration, in the order of the layers and of the file's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The mistakes; at least one.
    pub mistakes: Vec<Mistake>,
}

impl std::error::Error for ConfigError {}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.mistakes.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Where a value came from; each beats the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The configuration as a whole.
    Whole,
    /// The defaults in the binary, which are the repository's `config.toml`.
    Defaults,
    /// The file.
    File {
        /// Its path, as it was given.
        name: String,
        /// The line, counted from 1; `None` if it concerns the file as a whole.
        line: Option<usize>,
        /// The character in that line, counted from 1; only for a syntax error.
        column: Option<usize>,
    },
    /// An environment variable of this name.
    Environment(String),
    /// A flag of the command line, with its dashes.
    Flag(String),
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("configuration"),
            Self::Defaults => f.write_str("defaults"),
            Self::Environment(name) | Self::Flag(name) => write!(f, "{}", printable(name)),
            Self::File { name, line, column } => {
                write!(f, "{}", printable(name))?;
                line.iter()
                    .chain(column)
                    .try_for_each(|number| write!(f, ":{number}"))
            }
        }
    }
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it is.
    pub source: Source,
    /// The key, `[cache] capacity`, or the section, `[cache]`; empty if it is about neither.
    pub key: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// `[cache] capacity`.
pub(super) fn shown_key(path: &[String]) -> String {
    match path.split_last() {
        Some((key, [])) => shown_name(key),
        Some((key, tables)) => format!("{} {}", shown_section(tables), shown_name(key)),
        None => String::new(),
    }
}

/// `[cache]`.
pub(super) fn shown_section(path: &[String]) -> String {
    let names: Vec<String> = path.iter().map(|name| shown_name(name)).collect();
    format!("[{}]", names.join("."))
}

fn shown_name(name: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        shown(name)
    }
}

/// The name of a file or variable, on one line.
fn printable(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// A number as a mistake repeats it: without quotes, on one line, and cut. The parser takes some for numbers that are none.
pub(super) fn shown_number(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let rest = if cut.len() < text.len() { "…" } else { "" };
    printable(&cut) + rest
}

/// A text as a mistake repeats it: quoted, cut, and without what may be a password in a URL. What breaks the rule
/// for URLs has no authority to look in, so everything up to the last `@` goes.
pub(super) fn shown(text: &str) -> String {
    let text = match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((before, host))) if before.len() > scheme.len() => {
            format!("{scheme}://…@{host}")
        }
        _ => text.to_owned(),
    };
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if cut.len() < text.len() {
        format!("{cut:?}…")
    } else {
        format!("{cut:?}")
    }
}
