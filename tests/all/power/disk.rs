//! What a disk may have when the power fails, by what was asked of it.
//!
//! What was written, cut short or named before a sync of its file (or, for names, its directory) began is safe once that sync has
//! returned. Of everything else any part may be there and any part not, in whatever order it was done:
//!
//! - a write by its sectors of 512 bytes, each whole or not at all, the later ones of a place without the earlier ones;
//! - the new length of a file without the bytes it was to have, which are zero then;
//! - a shortened file as long as it was;
//! - a file without its name, or again with one that was taken away: names are safe by a sync of the directory alone, although
//!   most file systems do more.
//!
//! Not modelled: a sector that is half written (SQLite's checksums find it in the WAL, and what is in the database is in the WAL
//! as well until it is synced), neighbours of a write that are damaged by it (SQLite relies on
//! [powersafe overwrite](https://www.sqlite.org/psow.html)), a disk that forgets what it has said is safe, and one that rots.

use std::collections::{BTreeMap, HashMap};

use super::recording::{Call, Recording};
use crate::support::Dice;

const SECTOR_LEN: usize = 512;

/// What happens to what is not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsafe {
    Lost,
    Kept,
    /// Each call is done or not; of a hundred, so many are.
    Calls(u64),
    /// Each sector of a write for itself.
    Sectors(u64),
}

/// Whether a sync does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    Obeyed,
    /// Not for files of this name: as by a disk that lies, or a program that does not ask.
    IgnoredFor(&'static str),
}

/// The files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A disk while a recording is carried out.
pub struct Disk<'r> {
    recording: &'r Recording,
    syncs: Syncs,
    /// The first call that is not carried out yet.
    next: usize,
    directory: Option<u64>,
    /// By inode number, an index into `files`.
    inodes: HashMap<u64, usize>,
    files: Vec<Content>,
    names: Names,
    /// Syncs under way: by file and number, the call that began them.
    begun: HashMap<(u64, u64), usize>,
}

#[derive(Default)]
struct Content {
    is_sync_ignored: bool,
    safe: Vec<u8>,
    /// Calls that are not safe.
    unsafe_calls: Vec<usize>,
}

#[derive(Default)]
struct Names {
    safe: BTreeMap<String, usize>,
    /// What is not safe, and by which call.
    unsafe_changes: Vec<(usize, NameChange)>,
}

#[derive(Clone)]
enum NameChange {
    Add(String, usize),
    Remove(String),
    Move(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Move(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl<'r> Disk<'r> {
    pub fn new(recording: &'r Recording, syncs: Syncs) -> Self {
        Self {
            recording,
            syncs,
            next: 0,
            directory: None,
            inodes: HashMap::new(),
            files: Vec::new(),
            names: Names::default(),
            begun: HashMap::new(),
        }
    }

    /// Carries out what is recorded up to a place; it never goes back.
    pub fn advance(&mut self, place: usize) {
        let recording = self.recording;
        while let Some((end, call)) = recording.calls.get(self.next)
            && *end <= place
        {
            self.carry_out(self.next, call);
            self.next += 1;
        }
    }

    /// Whether there is anything that may be lost.
    pub fn is_at_rest(&self) -> bool {
        self.names.unsafe_changes.is_empty() && self.files.iter().all(|file| file.unsafe_calls.is_empty())
    }

    fn carry_out(&mut self, number: usize, call: &Call) {
        match call {
            Call::Directory { file } => self.directory = Some(*file),
            Call::Create { file, name } => {
                self.inodes.insert(*file, self.files.len());
                let change = NameChange::Add(name.clone(), self.files.len());
                self.names.unsafe_changes.push((number, change));
                self.files.push(Content {
                    is_sync_ignored: matches!(self.syncs, Syncs::IgnoredFor(ignored) if ignored == name),
                    ..Content::default()
                });
            }
            Call::Write { file, .. } | Call::Truncate { file, .. } => {
                self.files[self.inodes[file]].unsafe_calls.push(number);
            }
            Call::SyncBegin { file, number: sync } => {
                self.begun.insert((*file, *sync), number);
            }
            Call::SyncEnd { file, number: sync } => {
                let begin = self.begun.remove(&(*file, *sync)).expect("it had begun");
                self.make_safe(*file, begin);
            }
            Call::Unlink { name } => {
                let change = NameChange::Remove(name.clone());
                self.names.unsafe_changes.push((number, change));
            }
            Call::Rename { from, to } => {
                let change = NameChange::Move(from.clone(), to.clone());
                self.names.unsafe_changes.push((number, change));
            }
        }
    }

    /// What was done to a file before this call can no longer be lost.
    fn make_safe(&mut self, file: u64, begin: usize) {
        if Some(file) == self.directory {
            let done = self
                .names
                .unsafe_changes
                .partition_point(|(call, _)| *call < begin);
            for (_, change) in self.names.unsafe_changes.drain(..done) {
                change.apply(&mut self.names.safe);
            }
            return;
        }
        let content = &mut self.files[self.inodes[&file]];
        if content.is_sync_ignored {
            return;
        }
        let done = content.unsafe_calls.partition_point(|call| *call < begin);
        for call in content.unsafe_calls.drain(..done) {
            apply(self.recording, call, &mut content.safe, &mut |_| true);
        }
    }

    /// What is there when the power has failed now.
    pub fn after_power_loss(&self, fate: Unsafe, dice: &mut Dice) -> Files {
        let mut names = self.names.safe.clone();
        for (_, change) in &self.names.unsafe_changes {
            if dice.is_call_done(fate) {
                change.apply(&mut names);
            }
        }
        let content = |file: usize, dice: &mut Dice| {
            let content = &self.files[file];
            let mut bytes = content.safe.clone();
            for call in &content.unsafe_calls {
                let is_done = dice.is_call_done(fate);
                apply(
                    self.recording,
                    *call,
                    &mut bytes,
                    &mut |part| match (fate, part) {
                        (Unsafe::Sectors(percent), Part::Sector) => dice.says(percent),
                        _ => is_done,
                    },
                );
            }
            bytes
        };
        names
            .into_iter()
            .map(|(name, file)| (name, content(file, dice)))
            .collect()
    }
}

/// What of a call may be done without the rest.
#[derive(Clone, Copy)]
enum Part {
    /// The new length of the file.
    Length,
    Sector,
}

/// Does to a file what a call did, as far as it is done.
fn apply(recording: &Recording, call: usize, file: &mut Vec<u8>, is_done: &mut impl FnMut(Part) -> bool) {
    match &recording.calls[call].1 {
        Call::Write { at, bytes, .. } => {
            let bytes = &recording.bytes[bytes.clone()];
            let end = at + bytes.len();
            if is_done(Part::Length) && file.len() < end {
                file.resize(end, 0);
            }
            let mut from = *at;
            while from < end {
                let to = end.min((from / SECTOR_LEN + 1) * SECTOR_LEN);
                if is_done(Part::Sector) {
                    if file.len() < to {
                        file.resize(to, 0);
                    }
                    file[from..to].copy_from_slice(&bytes[from - at..to - at]);
                }
                from = to;
            }
        }
        Call::Truncate { len, .. } => {
            if is_done(Part::Length) {
                file.resize(*len, 0);
            }
        }
        other => panic!("{other:?} changes no file"),
    }
}

impl Dice {
    fn is_call_done(&mut self, fate: Unsafe) -> bool {
        match fate {
            Unsafe::Lost => false,
            Unsafe::Kept => true,
            Unsafe::Calls(percent) | Unsafe::Sectors(percent) => self.says(percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: u64 = 1;
    const FILE: u64 = 2;

    /// Puts a recording together.
    #[derive(Default)]
    struct Script(Recording);

    impl Script {
        /// A directory with an empty file `a`, both safe.
        fn of_a_file() -> Self {
            let mut script = Self::default();
            script.call(Call::Directory { file: DIRECTORY });
            script.create(FILE, "a");
            script.sync(DIRECTORY);
            script
        }

        fn call(&mut self, call: Call) {
            let end = self.0.calls.len() + 1;
            self.0.calls.push((end, call));
        }

        fn create(&mut self, file: u64, name: &str) {
            let name = name.to_owned();
            self.call(Call::Create { file, name });
        }

        fn write(&mut self, at: usize, what: &[u8]) {
            let start = self.0.bytes.len();
            self.0.bytes.extend_from_slice(what);
            let bytes = start..self.0.bytes.len();
            self.call(Call::Write {
                file: FILE,
                at,
                bytes,
            });
        }

        fn truncate(&mut self, len: usize) {
            self.call(Call::Truncate { file: FILE, len });
        }

        fn begin(&mut self, file: u64) {
            self.call(Call::SyncBegin { file, number: 7 });
        }

        fn end(&mut self, file: u64) {
            self.call(Call::SyncEnd { file, number: 7 });
        }

        fn sync(&mut self, file: u64) {
            self.begin(file);
            self.end(file);
        }

        /// All of the files after a loss of power at the end.
        fn files(&self, fate: Unsafe) -> Files {
            self.files_with(fate, &mut Dice(1))
        }

        fn files_with(&self, fate: Unsafe, dice: &mut Dice) -> Files {
            let mut disk = Disk::new(&self.0, Syncs::Obeyed);
            disk.advance(self.0.end());
            disk.after_power_loss(fate, dice)
        }

        /// The file `a` after a loss of power at the end.
        fn file(&self, fate: Unsafe) -> Vec<u8> {
            self.files(fate).remove("a").expect("it has its name")
        }
    }

    #[test]
    fn what_was_synced_is_kept_and_what_was_not_is_lost() {
        let mut script = Script::of_a_file();
        script.write(0, b"one");
        script.sync(FILE);
        script.write(3, b"two");
        assert_eq!(script.file(Unsafe::Lost), b"one");
        assert_eq!(script.file(Unsafe::Kept), b"onetwo");
    }

    #[test]
    fn what_is_written_during_a_sync_is_not_safe_by_it() {
        let mut script = Script::of_a_file();
        script.write(0, b"one");
        script.begin(FILE);
        script.write(3, b"two");
        assert_eq!(script.file(Unsafe::Lost), b"", "it has not returned");
        script.end(FILE);
        assert_eq!(script.file(Unsafe::Lost), b"one");
    }

    #[test]
    fn file_is_as_long_as_it_was_until_its_shortening_is_synced() {
        let mut script = Script::of_a_file();
        script.write(0, b"onetwo");
        script.sync(FILE);
        script.truncate(3);
        assert_eq!(script.file(Unsafe::Lost), b"onetwo");
        assert_eq!(script.file(Unsafe::Kept), b"one");
        script.sync(FILE);
        assert_eq!(script.file(Unsafe::Lost), b"one");
    }

    #[test]
    fn name_is_safe_by_a_sync_of_the_directory_only() {
        let mut script = Script::of_a_file();
        script.create(3, "b");
        script.sync(3);
        assert!(!script.files(Unsafe::Lost).contains_key("b"));
        script.sync(DIRECTORY);
        assert!(script.files(Unsafe::Lost).contains_key("b"));
        script.call(Call::Rename {
            from: "b".to_owned(),
            to: "c".to_owned(),
        });
        script.call(Call::Unlink { name: "a".to_owned() });
        let names = |fate| script.files(fate).into_keys().collect::<Vec<_>>();
        assert_eq!(names(Unsafe::Lost), ["a", "b"]);
        assert_eq!(names(Unsafe::Kept), ["c"]);
    }

    #[test]
    fn file_that_gets_the_inode_of_another_is_another() {
        let mut script = Script::of_a_file();
        script.write(0, b"one");
        script.sync(FILE);
        script.call(Call::Unlink { name: "a".to_owned() });
        script.create(FILE, "a");
        script.write(0, b"two");
        script.sync(FILE);
        assert_eq!(
            script.file(Unsafe::Lost),
            b"one",
            "the old one has its name still"
        );
        script.sync(DIRECTORY);
        assert_eq!(script.file(Unsafe::Lost), b"two");
    }

    #[test]
    fn writes_are_torn_and_reordered_by_sectors() {
        let mut script = Script::of_a_file();
        script.write(0, &[1; 2 * SECTOR_LEN]);
        script.sync(FILE);
        script.write(0, &[2; 2 * SECTOR_LEN]);
        script.write(0, &[3; 2 * SECTOR_LEN]);
        let mut dice = Dice(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let file = script.files_with(Unsafe::Sectors(50), &mut dice).remove("a");
            let file = file.expect("it has its name");
            let sectors: Vec<&[u8]> = file.chunks(SECTOR_LEN).collect();
            assert!(
                sectors
                    .iter()
                    .all(|sector| sector.iter().all(|byte| byte == &sector[0]))
            );
            seen.insert((sectors[0][0], sectors[1][0]));
        }
        assert_eq!(seen.len(), 9, "each of three in each of two places: {seen:?}");
    }

    #[test]
    fn disk_that_lies_about_a_file_loses_it() {
        let mut script = Script::of_a_file();
        script.write(0, b"one");
        script.sync(FILE);
        let mut disk = Disk::new(&script.0, Syncs::IgnoredFor("a"));
        disk.advance(script.0.end());
        let mut files = disk.after_power_loss(Unsafe::Lost, &mut Dice(1));
        assert_eq!(files.remove("a"), Some(Vec::new()));
    }
}
