//! Backups by a schedule: one as soon as the newest in the folder is old enough, and the oldest of too many removed after it.
//!
//! The folder is the only memory: when the next is due follows from the names in it, so that a restart neither skips nor repeats
//! one. Names go by the wall clock, and retries by how long the server has run: the time that sessions go by may stand still
//! for as long as a wall clock was wrong, and a backup is wanted meanwhile. Only names of this database with a time that has
//! come are looked at, and only those are ever removed; everything else in the folder is somebody else's. A failure is told and counted, removes nothing, and is tried again later.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::clock::{Clock, Timestamp};
use crate::config::BackupConfig;
use crate::metrics::Metrics;
use crate::store::sqlite::{BackupError, Copied, back_up};

/// Between two looks whether one is due: far less than the shortest time between two backups.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long after a failure another is tried, unless one is made more often anyway: long enough that a disk that is full is not
/// filled all the time.
const RETRY_MILLIS: u64 = 10 * 60 * 1_000;
/// What became of one, as its metric has it.
const MADE: &str = "made";
const FAILED: &str = "failed";
/// What the names end with.
const EXTENSION: &str = ".db";

/// The backups of one database in one folder.
pub struct Backups {
    database: PathBuf,
    folder: PathBuf,
    every_millis: i64,
    keep: usize,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    /// Until when none is tried, after a failure; in milliseconds for which the server has run.
    retry_at: AtomicU64,
    /// That the server stops.
    abandoned: Arc<AtomicBool>,
}

impl Backups {
    /// Those that the configuration asks for; `None` if it names no folder.
    pub fn new(
        database: &Path,
        config: &BackupConfig,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> Option<Self> {
        let every_millis = i64::try_from(config.every_secs.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let folder = config.folder.clone()?;
        // From the start on, so that whoever watches them sees the first failure, and that none is made.
        for result in [MADE, FAILED] {
            drop(metrics.backups.get_or_create(&[("result", result)]));
        }
        Some(Self {
            database: database.to_owned(),
            folder,
            every_millis,
            keep: config.keep,
            clock,
            metrics,
            retry_at: AtomicU64::new(0),
            abandoned: Arc::default(),
        })
    }

    /// Makes those that are due until `stop` changes or its sender is gone; one that is under way is abandoned then.
    ///
    /// They are made by a thread of their own, always the same one: what a backup frees the allocator keeps for the threads that
    /// share its arena, so that on threads of a pool each would have some MB of its own in time.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let abandoned = Arc::clone(&self.abandoned);
        let (stopping, stopped) = mpsc::channel::<()>();
        let (ended, end) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("sessiond-backup".into())
            .spawn(move || {
                self.make_until(&stopped);
                drop(ended);
            });
        if let Err(error) = thread {
            log::error!("no backups are made, as the system gives no thread: {error}");
            return;
        }
        // Either way it is to stop.
        let _ = stop.changed().await;
        abandoned.store(true, Ordering::Relaxed);
        drop(stopping);
        // Nothing is sent: that it ends is what tells.
        let _ = end.await;
    }

    fn make_until(&self, stopped: &mpsc::Receiver<()>) {
        loop {
            // What one leaves when it panics is what a kill leaves: the next one clears it away.
            if catch_unwind(AssertUnwindSafe(|| self.make_due())).is_err() {
                log::error!("the making of backups failed in a way it should not, and is tried again later");
                self.try_later();
            }
            if stopped.recv_timeout(LOOK_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Makes a backup if one is due, and removes the oldest of too many. What fails is logged and counted. Blocks.
    pub fn make_due(&self) {
        if self.running_millis() < self.retry_at.load(Ordering::Relaxed) {
            return;
        }
        let now = self.clock.wall();
        let result = match self.is_due(now) {
            Ok(false) => return,
            Ok(true) => self.make(now),
            Err(source) => Err(self.failed(source)),
        };
        match result {
            Ok((path, copied)) => {
                self.count(MADE);
                log::info!(
                    "backup {}: {} sessions, {} events, {} bytes",
                    path.display(),
                    copied.sessions,
                    copied.events,
                    copied.bytes
                );
                for fault in copied.faults {
                    log::error!("the database and its backup have a fault: {fault}");
                }
                if let Err(error) = self.remove_oldest(now) {
                    log::error!(
                        "cannot remove old backups from {}: {error}",
                        self.folder.display()
                    );
                }
            }
            // It is due again after the start.
            Err(BackupError::Abandoned) => {}
            Err(error) => {
                log::error!("no backup was made, and another is tried later: {error}");
                self.try_later();
            }
        }
    }

    fn try_later(&self) {
        self.count(FAILED);
        let wait = self.every_millis.unsigned_abs().min(RETRY_MILLIS);
        self.retry_at
            .store(self.running_millis().saturating_add(wait), Ordering::Relaxed);
    }

    fn running_millis(&self) -> u64 {
        u64::try_from(self.clock.running().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_due(&self, now: Timestamp) -> io::Result<bool> {
        let newest = self.made_until(now)?.pop();
        Ok(newest.is_none_or(|(made_at, _)| now.millis_since(made_at) >= self.every_millis))
    }

    fn make(&self, now: Timestamp) -> Result<(PathBuf, Copied), BackupError> {
        let path = self.folder.join(self.prefix() + &now.to_compact() + EXTENSION);
        let copied = back_up(&self.database, &path, &self.abandoned)?;
        Ok((path, copied))
    }

    fn remove_oldest(&self, now: Timestamp) -> io::Result<()> {
        let made = self.made_until(now)?;
        let too_many = made.len().saturating_sub(self.keep);
        made.into_iter()
            .take(too_many)
            .try_for_each(|(_, path)| std::fs::remove_file(path))
    }

    /// Those that are there, the oldest first. Of a time that is yet to come, made by a clock that was wrong or by somebody else,
    /// none counts: it would keep others from being made, or push them out.
    fn made_until(&self, now: Timestamp) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let prefix = self.prefix();
        let mut made = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let time = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(EXTENSION))
                .and_then(Timestamp::parse_compact)
                .filter(|time| *time <= now);
            if let Some(time) = time
                && entry.file_type()?.is_file()
            {
                made.push((time, entry.path()));
            }
        }
        made.sort_unstable();
        Ok(made)
    }

    /// What the names begin with: the database's own, so that some databases can share a folder. Nothing else is cut from it than
    /// what a backup has again, as `prod.eu` and `prod.us` are two.
    fn prefix(&self) -> String {
        let name = self.database.file_name().map(OsStr::to_string_lossy);
        let name = name.unwrap_or_default();
        format!("{}-", name.strip_suffix(EXTENSION).unwrap_or(&name))
    }

    fn failed(&self, source: io::Error) -> BackupError {
        BackupError::File {
            path: self.folder.clone(),
            source,
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics.backups.get_or_create(&[("result", result)]).inc();
    }
}
