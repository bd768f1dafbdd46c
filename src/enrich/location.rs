//! Where a public address is: a country, and a city where the database knows one.
//!
//! A [`Locator`] answers from a file in the MaxMind DB format: the country file embedded in the binary (so
//! locations work without any set-up), or one that the operator keeps beside the server (GeoLite2 City or
//! Country, DB-IP City or Country), which is read again when it changes. Three shapes of record are
//! understood: `{country: {iso_code}, city: {names: {en, …}}}` of GeoLite2 and DB-IP, the flat
//! `{country_code}` of the embedded file, and its flat relatives in which `country` or `city` is text.
//!
//! A place is a help for people who look at their sessions, never a reason to refuse one. So looking up
//! cannot fail: what is not known is `None`, and a damaged file is the log's business.
//!
//! Invariants:
//! - The file is held in memory, never mapped: a mapped file that somebody truncates kills the process
//!   (SIGBUS).
//! - A file on disk is walked from end to end before it answers its first question (the embedded one by a
//!   test). One that is broken never replaces one that works.
//! - No lookup waits for a reload: the lock guards a pointer, not the reading.
//! - Addresses that belong to nobody in particular have no place, whatever the file says (the embedded one
//!   puts `2001:db8::/32` in Japan). No address is ever logged.
//!
//! Deliberately absent: coordinates, regions and postcodes (more than a session list needs to know about a
//! person); `registered_country` (where a network's owner is, not its user); the IPv4 address inside a 6to4,
//! Teredo or NAT64 address; a file watcher (whoever owns the [`Locator`] calls [`Locator::reload_if_changed`]
//! now and then).
//!
//! Sources: the MaxMind DB file format 2.0; the IANA special-purpose address registries (RFC 6890, RFC 8190);
//! RFC 5771 and RFC 4291 for multicast; RFC 9637 for `3fff::/20`. About the embedded file:
//! `assets/README.md`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use crate::address::is_public;
use crate::session::Place;

/// The vendored country file, IPv4 and IPv6 in one. It lives in the binary's read-only pages and is never
/// copied.
static EMBEDDED: &[u8] = include_bytes!("../../assets/country.mmdb");

/// Largest database file that is read, in bytes. Several times a free city file, which has some tens of MB to
/// 150 MB; more is a wrong path. The file stays in memory whole, and during a reload so does its successor,
/// so raising this raises the worst case by twice as much.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Longest city name kept, in characters. The longest names of inhabited places have about 85; the column and
/// the page that show it rely on some bound, not on this one.
const CITY_CHARS_MAX: usize = 100;

/// Finds the place of an address. `Send + Sync`; share one by `Arc`.
pub struct Locator {
    /// The database that answers now. The lock guards the pointer alone and is held for one clone or one
    /// store, so a plain `RwLock` is enough: lookups never wait for a file to be read, and old ones finish on
    /// the old database.
    current: RwLock<Arc<Database>>,
    /// The file behind it, or `None` for the embedded database, which cannot change.
    file: Option<WatchedFile>,
}

/// Why a location database cannot be used. Every message names the file, and reads alone.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The file is missing, may not be read, or the disk failed.
    #[error("cannot read the location database {}: {reason}", path.display())]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The path names a directory, a pipe or a device.
    #[error("the location database {} is not a regular file", path.display())]
    NotAFile {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file is larger than any location database.
    #[error(
        "the location database {} has more than {FILE_BYTES_MAX} bytes, the most that is read",
        path.display()
    )]
    TooLarge {
        /// The file asked for.
        path: PathBuf,
    },
    /// The file is not in the MaxMind DB format, is cut short, or is damaged.
    #[error("the location database {} is not a sound MaxMind DB file: {reason}", path.display())]
    Damaged {
        /// The file asked for.
        path: PathBuf,
        /// The first fault found.
        reason: MaxMindDbError,
    },
    /// A sound file about something else, for instance about networks' owners.
    #[error(
        "the location database {} (of type {database_type:?}) holds no countries; \
         a City or Country database is needed",
        path.display()
    )]
    NoCountries {
        /// The file asked for.
        path: PathBuf,
        /// What the file calls itself.
        database_type: String,
    },
}

impl LocationError {
    /// Whether reading the same bytes again would end the same way.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Unreadable { .. })
    }
}

impl Locator {
    /// The country file that comes with the binary: no city, no file to look after, no cost at start.
    #[must_use]
    pub fn embedded() -> Self {
        let reader = Reader::from_source(Cow::Borrowed(EMBEDDED))
            .expect("the embedded file is a constant, and a test opens it");
        Self {
            current: RwLock::new(Arc::new(Database::new(reader))),
            file: None,
        }
    }

    /// Reads a City or Country database and checks it from end to end, which took 30 ms for the million
    /// networks of the embedded file and grows with their number. Blocks; its memory is the file's size.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is too large, is damaged, or holds no countries. Never panics, whatever it
    /// holds.
    pub fn open(path: &Path) -> Result<Self, LocationError> {
        let (database, fingerprint) = Database::read(path)?;
        log::info!("Locations come from {}, {}", path.display(), database.summary());
        let seen = Seen {
            read: Some(fingerprint),
            warned: None,
        };
        Ok(Self {
            current: RwLock::new(Arc::new(database)),
            file: Some(WatchedFile {
                path: path.to_owned(),
                seen: Mutex::new(seen),
            }),
        })
    }

    /// The place of a public address. `None` for an address that nobody in particular has (private, loopback,
    /// link-local, multicast, documentation, carrier-grade NAT …), one that the database does not know, and
    /// one whose record is broken; the last also leaves one warning in the log per database. An IPv4-mapped
    /// IPv6 address is the IPv4 address. Microseconds, no I/O.
    #[must_use]
    pub fn locate(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        if !is_public(address) {
            return None;
        }
        let database = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        database.locate(address)
    }

    /// Reads the file again if it is not the one read before (by device, inode, length, or the time of its
    /// last change), and answers from it once it has proved sound. A file that is missing or broken leaves
    /// the old answers in place and one warning per change in the log. Does nothing for the embedded
    /// database, or while another call is at it.
    ///
    /// Unchanged it costs one `stat`; changed it blocks like [`Locator::open`], and both databases are in
    /// memory until the last lookup has left the old one. Replace the file by renaming a complete one over
    /// it.
    pub fn reload_if_changed(&self) {
        let Some(WatchedFile { path, seen }) = &self.file else {
            return;
        };
        let mut seen = match seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let now = fs::metadata(path).ok().map(|metadata| Fingerprint::of(&metadata));
        if now.is_some() && now == seen.read {
            seen.warned = None;
            return;
        }
        match Database::read(path) {
            Ok((database, fingerprint)) => {
                log::info!(
                    "Locations come from a new {}, {}",
                    path.display(),
                    database.summary()
                );
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(database);
                *seen = Seen {
                    read: Some(fingerprint),
                    warned: None,
                };
            }
            Err(error) => {
                if seen.warned != Some(now) {
                    log::warn!(
                        "The changed location database is not used, the one read before stays: {error}"
                    );
                    seen.warned = Some(now);
                }
                // A broken file is not read again until it changes; one that could not be read is.
                if error.is_final() {
                    seen.read = now;
                }
            }
        }
    }
}

impl std::fmt::Debug for Locator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.as_ref().map(|file| &file.path);
        f.debug_struct("Locator")
            .field("file", &file)
            .finish_non_exhaustive()
    }
}

/// A file on disk that answers, and what is known about it.
struct WatchedFile {
    path: PathBuf,
    /// Guards the decision to read again, so that a second caller neither reads the same file nor waits.
    seen: Mutex<Seen>,
}

struct Seen {
    /// The version of the file that was last judged, good or bad.
    read: Option<Fingerprint>,
    /// The version that could not be read and was warned about; `Some(None)` is a missing file.
    warned: Option<Option<Fingerprint>>,
}

/// What differs when a file was replaced or rewritten. The change time is here because `cp -p` and `rsync -t`
/// set the modification time back, and because two writes of one length may share it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One database in memory.
struct Database {
    reader: Reader<Cow<'static, [u8]>>,
    /// Whether the log has been told that a record is broken.
    warned: AtomicBool,
}

impl Database {
    fn new(reader: Reader<Cow<'static, [u8]>>) -> Self {
        Self {
            reader,
            warned: AtomicBool::new(false),
        }
    }

    /// Reads and checks a file. The fingerprint is taken before the bytes, so that a write during the read
    /// shows as a change the next time.
    fn read(path: &Path) -> Result<(Self, Fingerprint), LocationError> {
        let unreadable = |reason| LocationError::Unreadable {
            path: path.to_owned(),
            reason,
        };
        // Asked before opening, because opening a pipe waits for its writer.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(LocationError::NotAFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let too_large = || LocationError::TooLarge {
            path: path.to_owned(),
        };
        if metadata.len() > FILE_BYTES_MAX {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).map_err(|_| too_large())?);
        // One byte more than allowed tells a file that grew meanwhile.
        let read = file
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if read as u64 > FILE_BYTES_MAX {
            return Err(too_large());
        }
        let damaged = |reason| LocationError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let database = Self::new(Reader::from_source(Cow::Owned(bytes)).map_err(damaged)?);
        if !database.check().map_err(damaged)? {
            let database_type = database.reader.metadata().database_type.clone();
            return Err(LocationError::NoCountries {
                path: path.to_owned(),
                database_type,
            });
        }
        Ok((database, Fingerprint::of(&metadata)))
    }

    /// Walks every network and decodes every record once. Whether any of them holds a country, or the first
    /// fault.
    ///
    /// Not `Reader::verify`, which refuses sound files for an empty description, the embedded one among them.
    fn check(&self) -> Result<bool, MaxMindDbError> {
        // A tree has at most one leaf more than nodes; more than that, and it runs in circles.
        let mut leaves_left = u64::from(self.reader.metadata().node_count) * 2 + 1;
        let mut offsets = HashSet::new();
        let mut has_countries = false;
        for network in self
            .reader
            .networks(WithinOptions::default().include_networks_without_data())?
        {
            leaves_left = leaves_left
                .checked_sub(1)
                .ok_or_else(|| MaxMindDbError::invalid_database("the search tree runs in circles"))?;
            let network = network?;
            let Some(offset) = network.offset() else { continue };
            if !offsets.insert(offset) {
                continue;
            }
            match network.decode::<Record>() {
                Ok(record) => has_countries |= record.and_then(Record::into_place).is_some(),
                // Well-formed, but not a shape known here: no reason to refuse the rest of the file.
                Err(MaxMindDbError::Decoding { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(has_countries)
    }

    fn locate(&self, address: IpAddr) -> Option<Place> {
        if address.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return None;
        }
        match self
            .reader
            .lookup(address)
            .and_then(|found| found.decode::<Record>())
        {
            Ok(record) => record?.into_place(),
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    // The error tells the offset in the file, never the address.
                    log::warn!(
                        "A record of the location database is broken: no place for it ({}): {error}",
                        self.summary()
                    );
                }
                None
            }
        }
    }

    /// The database's type and build time, for the log.
    fn summary(&self) -> String {
        let metadata = self.reader.metadata();
        format!(
            "type {:?}, built at Unix time {}",
            metadata.database_type, metadata.build_epoch
        )
    }
}

/// The part of a record that matters, in any of the shapes understood; everything else is skipped.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country: Option<Country<'a>>,
    #[serde(borrow, default)]
    country_code: Option<&'a str>,
    #[serde(borrow, default)]
    city: Option<City<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Country<'a> {
    Record {
        #[serde(borrow, default)]
        iso_code: Option<&'a str>,
    },
    Text(#[serde(borrow)] &'a str),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum City<'a> {
    Record {
        /// By language. Sorted, so that "the first name" is the same each time.
        #[serde(borrow, default)]
        names: BTreeMap<&'a str, &'a str>,
    },
    Text(#[serde(borrow)] &'a str),
}

impl Record<'_> {
    /// The place, if the record has a country; a city alone is not one.
    fn into_place(self) -> Option<Place> {
        let from_country = match self.country {
            Some(Country::Record { iso_code }) => iso_code,
            Some(Country::Text(text)) => Some(text),
            None => None,
        };
        // `country` may be a name beside the code ("Germany", "DE"), so each is tried.
        let country = [from_country, self.country_code]
            .into_iter()
            .flatten()
            .find(|code| is_country(code))?;
        let city = match self.city {
            Some(City::Record { names }) => names
                .get("en")
                .or_else(|| names.values().next())
                .and_then(|name| city_name(name)),
            Some(City::Text(text)) => city_name(text),
            None => None,
        };
        Some(Place {
            city,
            country: country.to_owned(),
        })
    }
}

/// Whether this has the form of an ISO 3166-1 alpha-2 code. `ZZ` is how some files write "unknown"; `XK`
/// (Kosovo) is not in the standard, but in use.
fn is_country(code: &str) -> bool {
    code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) && code != "ZZ"
}

/// The name without control characters and surrounding space, bounded; `None` if nothing is left.
fn city_name(name: &str) -> Option<String> {
    let name: String = name
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(CITY_CHARS_MAX)
        .collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
