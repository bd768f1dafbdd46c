//! The key file: 32 random bytes that are this server's own, made at the first start.
//!
//! It is a file of its own so that it is in no copy of the database: whoever finds one has hashes, and values that only
//! this key opens. So it must never be in a backup: nothing here writes it anywhere else, and no command does. A
//! database that is restored without it gets a new key; what the lost one keyed or sealed is no longer to be had.
//!
//! What stays true:
//!
//! - The key is on disk before it is used, and a file that is there is never written to: a wrong one is refused, since
//!   replacing it would throw away what it may have been.
//! - It appears under its name whole or not at all (link(2) takes no name that is in use), so that of several starts at
//!   the same time all have the key of the one that came first.
//! - Nobody but its owner can read it, at any moment. A link is followed, and what it leads to is looked at.
//!
//! Deliberately absent: replacing a key, and any form but the bare bytes.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::session::ServerKey;

/// Its length, in bytes: what HMAC-SHA256 gains from (RFC 2104, section 3), and what a 256-bit cipher takes.
const LEN: usize = 32;
/// Read and write for the owner alone.
const MODE: u32 = 0o600;
/// The part of a mode that is about everyone but the owner.
const OTHERS: u32 = 0o077;

/// Why there is no key. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others than its owner can use it.
    #[error(
        "the key file {path} is open to others than its owner (mode {mode:04o}); chmod it to 600, and if somebody may \
         have read it, remove it, so that the next start makes another"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is a directory, a pipe, or the like.
    #[error("the key file {0} is not a regular file; move it away, or set another [server] key_file")]
    NotAFile(PathBuf),
    /// It is no key, or not a whole one.
    #[error(
        "the key file {path} must have {LEN} bytes, not {len}; put the right one there, or move this one away, so that \
         the next start makes another"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length, in bytes.
        len: u64,
    },
    /// The file system refused to read it.
    #[error("cannot read the key file {path}: {source}; let the user that sessiond runs as own and read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// The file system refused to make it.
    #[error(
        "cannot make the key file {path}: {source}; its directory must exist, be writable and have space"
    )]
    Make {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// It is missing, and yet its name is taken.
    #[error("the key file {0} is a link that leads nowhere; remove it, or make what it leads to")]
    LeadsNowhere(PathBuf),
}

/// The key in this file, which is made if it is missing.
///
/// # Errors
/// What is there is no key, can be used by others than its owner, or cannot be read; or none can be made.
pub fn load_or_make(path: &Path) -> Result<ServerKey, KeyFileError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    make(path).map_err(|source| KeyFileError::Make {
        path: path.to_owned(),
        source,
    })?;
    // Not the one just made, but the one that is there: another start may have been first.
    load(path)?.ok_or_else(|| KeyFileError::LeadsNowhere(path.to_owned()))
}

/// The key in this file, if there is one.
///
/// # Errors
/// What is there is no key, can be used by others than its owner, or cannot be read.
pub fn load(path: &Path) -> Result<Option<ServerKey>, KeyFileError> {
    let failed = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: opening a pipe would wait for somebody who writes to it.
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(KeyFileError::NotAFile(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut file = File::open(path).map_err(failed)?;
    // Of the open file: what has the name may be another one by now.
    let opened = file.metadata().map_err(failed)?;
    let mode = opened.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        let path = path.to_owned();
        return Err(KeyFileError::Exposed { path, mode });
    }
    if opened.len() != LEN as u64 {
        let (path, len) = (path.to_owned(), opened.len());
        return Err(KeyFileError::Length { path, len });
    }
    let mut bytes = [0; LEN];
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(Some(ServerKey::from_bytes(bytes)))
}

/// Puts a fresh key in place, unless one has appeared there meanwhile.
fn make(path: &Path) -> io::Result<()> {
    let (temporary, file) = create_temporary(path)?;
    let placed = place(file, &temporary, path);
    // A second name of the key by now, or a key that nobody has used.
    let removed = fs::remove_file(&temporary);
    placed.and(removed)?;
    // A name is on disk when its directory is.
    File::open(folder_of(path))?.sync_all()
}

fn place(mut file: File, temporary: &Path, path: &Path) -> io::Result<()> {
    file.write_all(ServerKey::random().as_bytes())?;
    file.sync_all()?;
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// A new file in the directory of the key, under a name that nothing else has: neither a start at the same time, nor one
/// that was killed here. What the latter leaves is up to 32 bytes that nobody used, or a second name of the key.
fn create_temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    let number = getrandom::u64().expect("the operating system provides random bytes");
    let temporary = folder_of(path).join(format!(".sessiond-key-{number:016x}"));
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&temporary)?;
    Ok((temporary, file))
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::Barrier;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    const BYTES: [u8; LEN] = [7; LEN];

    fn a_directory() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db.key");
        (dir, path)
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    fn names_in(dir: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    /// What a start is told that is refused: it names the file.
    fn told(path: &Path) -> String {
        let text = load_or_make(path).expect_err("refused").to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        text
    }

    #[test]
    fn key_is_made_once_and_read_again() {
        let (dir, path) = a_directory();
        let made = load_or_make(&path).expect("made");
        let again = load_or_make(&path).expect("read");
        assert_eq!(made.as_bytes(), again.as_bytes());
        assert_eq!(fs::read(&path).expect("there"), made.as_bytes());
        assert_eq!(names_in(&dir), ["s.db.key"], "nothing else is left");
    }

    #[test]
    fn every_directory_gets_a_key_of_its_own() {
        let ((_one, one), (_other, other)) = (a_directory(), a_directory());
        let (one, other) = (load_or_make(&one), load_or_make(&other));
        assert_ne!(
            one.expect("made").as_bytes(),
            other.expect("made").as_bytes(),
            "random bytes"
        );
    }

    #[test]
    fn made_key_is_for_its_owner_alone() {
        let (_dir, path) = a_directory();
        load_or_make(&path).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{mode:o}");
    }

    #[test]
    fn key_that_others_can_use_is_refused() {
        let (_dir, path) = a_directory();
        for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o440] {
            write(&path, &BYTES, mode);
            let text = told(&path);
            assert!(
                text.contains(&format!("mode {mode:04o}")) && text.contains("chmod"),
                "{text}"
            );
            assert_eq!(fs::read(&path).expect("there"), BYTES, "left as it is");
        }
        for mode in [0o600, 0o400] {
            write(&path, &BYTES, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            let key = load_or_make(&path).expect("the owner's alone");
            assert_eq!(key.as_bytes(), &BYTES, "{mode:o}");
            fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn file_of_another_length_is_refused_and_kept() {
        let (_dir, path) = a_directory();
        for len in [0, 31, 33, 64, 100_000] {
            let bytes = vec![7; len];
            write(&path, &bytes, 0o600);
            let text = told(&path);
            assert!(
                text.contains(&format!("must have 32 bytes, not {len};")),
                "{text}"
            );
            assert_eq!(fs::read(&path).expect("there"), bytes);
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (dir, path) = a_directory();
        fs::create_dir(&path).expect("made");
        assert!(told(&path).contains("not a regular file"));
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).expect("bound");
        assert!(told(&socket).contains("not a regular file"));
        assert_eq!(names_in(&dir), ["s.db.key", "socket"]);
    }

    #[test]
    fn start_that_was_killed_while_making_it_does_not_stop_the_next() {
        let (dir, path) = a_directory();
        let (leftover, mut file) = create_temporary(&path).expect("made");
        file.write_all(&BYTES[..5]).expect("written");
        drop(file);
        let key = load_or_make(&path).expect("made");
        assert_eq!(fs::read(&path).expect("there"), key.as_bytes());
        assert_eq!(fs::read(&leftover).expect("there"), &BYTES[..5]);
        assert_eq!(names_in(&dir).len(), 2, "the key and the leftover");
    }

    #[test]
    fn key_that_appeared_meanwhile_is_not_overwritten() {
        let (dir, path) = a_directory();
        write(&path, &BYTES, 0o600);
        make(&path).expect("there is one");
        assert_eq!(fs::read(&path).expect("there"), BYTES);
        assert_eq!(names_in(&dir), ["s.db.key"]);
    }

    #[test]
    fn starts_at_the_same_time_have_one_key() {
        const STARTS: usize = 8;
        for _ in 0..20 {
            let (dir, path) = a_directory();
            let barrier = Barrier::new(STARTS);
            let start = || {
                barrier.wait();
                *load_or_make(&path).expect("a key").as_bytes()
            };
            let keys: Vec<[u8; LEN]> = thread::scope(|scope| {
                let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
                starts
                    .into_iter()
                    .map(|start| start.join().expect("no panic"))
                    .collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
            assert_eq!(names_in(&dir), ["s.db.key"]);
        }
    }

    #[test]
    fn link_is_followed_and_what_it_leads_to_is_looked_at() {
        let (dir, path) = a_directory();
        let target = dir.path().join("target");
        symlink(&target, &path).expect("linked");
        assert!(told(&path).contains("leads nowhere"));
        assert_eq!(names_in(&dir), ["s.db.key"], "nothing is made");
        write(&target, &BYTES, 0o644);
        assert!(told(&path).contains("mode 0644"));
        write(&target, &BYTES, 0o600);
        assert_eq!(load_or_make(&path).expect("read").as_bytes(), &BYTES);
    }

    #[test]
    fn directory_that_is_missing_is_told() {
        let (dir, _) = a_directory();
        let text = told(&dir.path().join("missing/key"));
        assert!(text.starts_with("cannot make the key file "), "{text}");
        assert_eq!(names_in(&dir), [""; 0], "and not made");
    }

    #[test]
    fn relative_path_begins_in_the_working_directory() {
        for (path, folder) in [("s.db.key", "."), ("a/s.db.key", "a"), ("/s.db.key", "/")] {
            assert_eq!(folder_of(Path::new(path)), Path::new(folder), "{path}");
        }
    }
}
