//! What a process asked of the disk: the library that writes it down, and a reader of what it wrote.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::build_preloaded;

/// What the database is called in its directory.
pub const DATABASE: &str = "s.db";
pub const WAL: &str = "s.db-wal";

/// One call, as it was recorded. A file is its inode number, which another file may get when it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Which file is the directory.
    Directory {
        file: u64,
    },
    Create {
        file: u64,
        name: String,
    },
    Write {
        file: u64,
        at: usize,
        /// Where the bytes are in the recording.
        bytes: Range<usize>,
    },
    Truncate {
        file: u64,
        len: usize,
    },
    SyncBegin {
        file: u64,
        number: u64,
    },
    SyncEnd {
        file: u64,
        number: u64,
    },
    Unlink {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
}

/// The calls of one process after another. A place in it is a number of bytes of the file that it is read from.
#[derive(Default)]
pub struct Recording {
    pub bytes: Vec<u8>,
    /// Each with the place where its record ends.
    pub calls: Vec<(usize, Call)>,
}

impl Recording {
    /// Reads what was written since the last time.
    pub fn read_on(&mut self, path: &Path) {
        let mut file = File::open(path).expect("the recording");
        let known = u64::try_from(self.bytes.len()).expect("a length");
        file.seek(SeekFrom::Start(known)).expect("found");
        file.read_to_end(&mut self.bytes).expect("read");
        let mut at = self.calls.last().map_or(0, |(end, _)| *end);
        // What is not whole is being written.
        while let Some((end, call)) = self.record(at) {
            self.calls.push((end, call));
            at = end;
        }
    }

    fn record(&self, at: usize) -> Option<(usize, Call)> {
        let head = self.bytes.get(at..at + 32)?;
        let (numbers, _) = head.as_chunks::<8>();
        let [kind, file, number, len] = std::array::from_fn(|n| u64::from_ne_bytes(numbers[n]));
        let size = |number: u64| usize::try_from(number).expect("64 bits");
        let bytes = at + 32..at + 32 + size(len);
        let payload = self.bytes.get(bytes.clone())?;
        let text = || str::from_utf8(payload).expect("a name").to_owned();
        let end = bytes.end;
        let call = match kind {
            1 => Call::Directory { file },
            2 => Call::Create { file, name: text() },
            3 => Call::Write {
                file,
                at: size(number),
                bytes,
            },
            4 => Call::Truncate {
                file,
                len: size(number),
            },
            5 => Call::SyncBegin { file, number },
            6 => Call::SyncEnd { file, number },
            7 => Call::Unlink { name: text() },
            8 => {
                let names = text();
                let (from, to) = names.split_once('/').expect("two names");
                Call::Rename {
                    from: from.to_owned(),
                    to: to.to_owned(),
                }
            }
            other => panic!("a record of no known kind: {other}"),
        };
        Some((end, call))
    }

    /// Where the whole records end.
    pub fn end(&self) -> usize {
        self.calls.last().map_or(0, |(end, _)| *end)
    }

    /// How often a new WAL began, be it in a new file or from the start of an old one.
    pub fn beginnings_of_wal(&self) -> usize {
        let mut wal = None;
        let mut count = 0;
        for (_, call) in &self.calls {
            match call {
                Call::Create { file, name } if name == WAL => wal = Some(*file),
                // Another file has its inode number now.
                Call::Create { file, .. } if Some(*file) == wal => wal = None,
                Call::Write { file, at: 0, .. } if Some(*file) == wal => count += 1,
                _ => {}
            }
        }
        count
    }
}

/// The library, built in a directory, and where it writes.
pub struct Recorder {
    library: PathBuf,
    database: PathBuf,
    pub log: PathBuf,
}

impl Recorder {
    /// Builds it with what Rust links with, for the database in this directory.
    pub fn build(dir: &Path) -> Self {
        // SQLite opens files by their path without links.
        let dir = dir.canonicalize().expect("a directory");
        let library = build_preloaded(&dir, "tests/all/power/recorder.c");
        Self {
            library,
            database: dir.join(DATABASE),
            log: dir.join("recording"),
        }
    }

    /// Lets a command run under it; answers the command with the database as its last arguments.
    pub fn record(&self, mut command: Command) -> Command {
        command
            .arg("--database")
            .arg(&self.database)
            .env("LD_PRELOAD", &self.library)
            .env("RECORD_DATABASE", &self.database)
            .env("RECORD_LOG", &self.log);
        command
    }
}

/// How long the recording is now: what is done from now on comes after it.
pub fn len(log: &Path) -> usize {
    let len = std::fs::metadata(log).expect("the recording").len();
    usize::try_from(len).expect("64 bits")
}
