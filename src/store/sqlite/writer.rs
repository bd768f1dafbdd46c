//! The thread that owns the write connection: a bounded queue, one commit for all that wait, and the order
//! **fence → commit → announce → answer**.
//!
//! Changes that arrive while a commit is under way share the next one, so that the price of a durable commit is
//! split among all who wait for it. If one change of a batch fails, the batch is rolled back and its changes are run
//! again one by one, each in a transaction of its own: nobody pays for savepoints when nothing fails.
//!
//! Checkpoints run on another connection and thread, never between a commit and its answers. A passive one after
//! every [`PASSIVE_FRAMES`] keeps up with ordinary load; past [`RESTART_FRAMES`] the writer waits, after its answers,
//! for one that lets it start the WAL anew: that bounds the file at about 128 MiB and one batch, unless a reader holds
//! an old snapshot longer than [`RESTART_TIMEOUT`]; then it grows until that reader ends, and the log says so.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::changes;
use super::counts::{Counts, Kind};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::session::{AppName, SessionId, Touch};
use crate::store::{Answer, Committed, Hooks};

/// Most changes that share a commit: one takes about 10 µs, so that the first of a batch waits a few ms at most.
const BATCH_LEN_MAX: usize = 256;
/// Frames (pages of 4 KiB) in the WAL at which a passive checkpoint is asked for. The longer the WAL, the more of its pages
/// are written again before they are copied; with twice as many a checkpoint keeps commits waiting for the disk.
const PASSIVE_FRAMES: i32 = 8_000;
/// Frames in the WAL at which the writer waits for a checkpoint that restarts it.
const RESTART_FRAMES: i32 = 32_000;
/// How long that one waits for readers, and all changes with it: longer than any but a copy of the whole database takes. Those when
/// the server starts and stops wait as long, since programs that replicate the database read as long as they run.
const RESTART_TIMEOUT: Duration = Duration::from_millis(200);

thread_local! {
    /// Frames in the WAL after this thread's last commit; SQLite's hook, a plain function, tells it here.
    static WAL_FRAMES: Cell<i32> = const { Cell::new(0) };
}

/// The way to the writing thread.
pub(super) struct Writer {
    /// `None` once closed. A read-write lock, as senders are shared and only closing takes the channel away.
    queue: RwLock<Option<SyncSender<Box<dyn Job>>>>,
    queue_len: Arc<AtomicUsize>,
    hooks: Arc<OnceLock<Arc<dyn Hooks>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a change works with while its batch is open.
pub(super) struct Batch<'c> {
    /// The connection, inside the batch's transaction.
    pub(super) connection: &'c Connection,
    /// What the batch has done so far.
    pub(super) committed: Committed,
    /// How many there are of what an app may have so many of.
    pub(super) counts: &'c mut Counts,
    ids: &'c mut IdGenerator,
    hooks: Option<&'c dyn Hooks>,
    /// Touches that this batch has written. Until it is committed they are still pending, so that the same one can come
    /// again, and its addresses would be news each time.
    written: HashMap<SessionId, Touch>,
    touches: Touches,
    /// Whether the last use of a session that is to end could not be written.
    has_failed_touch: bool,
}

impl Batch<'_> {
    /// What this batch has not written of a touch, which is now taken for written; `None` if that is nothing.
    pub(super) fn take_news(&mut self, touch: &Touch) -> Option<Touch> {
        let mut news = touch.clone();
        match self.written.entry(touch.id) {
            Entry::Vacant(entry) => {
                entry.insert(touch.clone());
            }
            Entry::Occupied(entry) if entry.get() == touch => return None,
            // It is no reason to forget which addresses were news.
            Entry::Occupied(_) if touch.first_address.is_none() => {}
            Entry::Occupied(mut entry) => {
                let written = entry.get();
                let is_earlier = touch.at < written.at
                    || touch.at == written.at
                        && touch.last_address.is_none()
                        && touch.successor_seen == written.successor_seen;
                if written.first_address == touch.first_address && is_earlier {
                    return None;
                }
                news.take_out(written);
                entry.insert(touch.clone());
            }
        }
        Some(news)
    }

    /// Writes the pending touch of a session, so that its row is as it was used until now; answers whether there was one.
    pub(super) fn write_pending_touch(&mut self, id: SessionId, now: Timestamp) -> rusqlite::Result<bool> {
        match self.hooks.and_then(|hooks| hooks.pending_touch(id)) {
            Some(touch) => changes::write_touch(self, &touch, now).map(|()| true),
            None => Ok(false),
        }
    }

    /// The same for a session that ends, which a touch that cannot be written does not keep from ending.
    pub(super) fn write_last_use(&mut self, id: SessionId, now: Timestamp) -> rusqlite::Result<bool> {
        if let Touches::Leave = self.touches {
            return Ok(false);
        }
        let written = self.write_pending_touch(id, now);
        self.has_failed_touch |= written.is_err();
        written
    }

    /// An id after every one given before.
    pub(super) fn next_id(&mut self, now: Timestamp) -> SessionId {
        self.ids.next(now)
    }

    /// Whether an app has fewer sessions of this kind than `max`.
    pub(super) fn has_room(&mut self, app: &AppName, kind: Kind, max: u32) -> rusqlite::Result<bool> {
        self.counts.has_room(self.connection, app, kind, max)
    }
}

/// A change in the queue. It can run again: a batch that failed is repeated one by one.
trait Job: Send {
    fn now(&self) -> Timestamp;
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, failure: Option<Error>);
}

struct Change<T, F> {
    now: Timestamp,
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T, F> Job for Change<T, F>
where
    T: Send,
    F: Fn(&mut Batch<'_>) -> rusqlite::Result<T> + Send,
{
    fn now(&self) -> Timestamp {
        self.now
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.work)(batch)?);
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<Error>) {
        let answer = match (failure, self.result) {
            (Some(error), _) => Err(error),
            (None, Some(result)) => Ok(result),
            (None, None) => Err(Error::store("the change was not run")),
        };
        // A caller that went away does not hear it; the change stands all the same.
        let _ = self.reply.send(answer);
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        checkpointer: Connection,
        last_id: Option<SessionId>,
        queue_len_max: usize,
    ) -> Self {
        let (queue, waiting) = sync_channel(queue_len_max);
        let queue_len = Arc::new(AtomicUsize::new(0));
        let hooks = Arc::new(OnceLock::new());
        let mut thread = WriterThread {
            connection,
            hooks: Arc::clone(&hooks),
            counts: Counts::default(),
            ids: IdGenerator::after(last_id),
            high_water: None,
            checkpointer: Checkpointer::start(checkpointer),
            queue_len: Arc::clone(&queue_len),
        };
        let handle = std::thread::Builder::new()
            .name("sessiond-writer".into())
            .spawn(move || thread.run(&waiting))
            .expect("the operating system gives a thread at start");
        Self {
            queue: RwLock::new(Some(queue)),
            queue_len,
            hooks,
            thread: Mutex::new(Some(handle)),
        }
    }

    pub(super) fn attach(&self, hooks: Arc<dyn Hooks>) {
        assert!(self.hooks.set(hooks).is_ok(), "hooks are attached once");
    }

    /// Queues a change; refuses at once if the queue is full or closed.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        now: Timestamp,
        work: impl Fn(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Change {
            now,
            work,
            result: None,
            reply,
        });
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        self.queue_len.fetch_add(1, Ordering::Relaxed);
        let refused = match queue.as_ref().map(|queue| queue.try_send(job)) {
            Some(Ok(())) => {
                return Box::pin(async {
                    answer
                        .await
                        .unwrap_or_else(|_| Err(Error::store("the writer stopped")))
                });
            }
            Some(Err(TrySendError::Full(_))) => Error::Overloaded,
            Some(Err(TrySendError::Disconnected(_))) => Error::store("the writer stopped"),
            None => Error::store("the store is closed"),
        };
        self.queue_len.fetch_sub(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Err(refused)))
    }

    pub(super) fn queue_len(&self) -> usize {
        self.queue_len.load(Ordering::Relaxed)
    }

    /// Whether changes can be written: the thread runs and is not closed.
    pub(super) fn is_running(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Lets the thread finish what is queued, and waits for it.
    pub(super) fn close(&self) {
        self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
        let handle = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle
            && handle.join().is_err()
        {
            log::error!("the writer of the database had failed before it was closed");
        }
    }
}

struct WriterThread {
    connection: Connection,
    hooks: Arc<OnceLock<Arc<dyn Hooks>>>,
    counts: Counts,
    ids: IdGenerator,
    /// The largest time that is stored.
    high_water: Option<Timestamp>,
    checkpointer: Checkpointer,
    queue_len: Arc<AtomicUsize>,
}

impl WriterThread {
    fn run(&mut self, waiting: &Receiver<Box<dyn Job>>) {
        self.connection.wal_hook(Some(|_, frames| {
            WAL_FRAMES.set(frames);
            Ok(())
        }));
        let mut batch: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH_LEN_MAX);
        while let Ok(first) = waiting.recv() {
            batch.push(first);
            batch.extend(waiting.try_iter().take(BATCH_LEN_MAX - 1));
            self.queue_len.fetch_sub(batch.len(), Ordering::Relaxed);
            self.carry_out(&mut batch);
            self.checkpointer.after_commit(WAL_FRAMES.get());
        }
    }

    /// Runs and answers a batch; `batch` is empty afterwards.
    fn carry_out(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        match self.commit_with_touches(batch) {
            Ok(()) => batch.drain(..).for_each(|job| job.answer(None)),
            Err(Failure::Change(_)) if batch.len() > 1 => {
                // One of them cannot be done: each gets its own chance and its own answer.
                for mut job in batch.drain(..) {
                    let result = self.commit_with_touches(std::slice::from_mut(&mut job));
                    job.answer(result.err().map(|failure| Error::store(failure.into_cause())));
                }
            }
            // A lock that is held, a disk that fails: it would meet each of them alone, and take as long each time.
            Err(failure) => {
                let cause = Error::store(failure.into_cause());
                batch.drain(..).for_each(|job| job.answer(Some(cause.another())));
            }
        }
    }

    /// Writes touches that are due, and those of sessions that end, with the batch. Uses that cannot be written because of what is
    /// in their rows must not keep everything else from being written: such a batch is run without them, which can only shorten those sessions.
    fn commit_with_touches(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        match self.try_commit(jobs, Touches::Write) {
            Err(Failure::Touch(error)) if !is_of_the_disk(&error) => {
                log::error!("uses of sessions cannot be written, and changes go on without them: {error}");
                self.try_commit(jobs, Touches::Leave)
            }
            result => result,
        }
    }

    fn try_commit(&mut self, jobs: &mut [Box<dyn Job>], touches: Touches) -> Result<(), Failure> {
        let result = self.commit(jobs, touches);
        if result.is_err() {
            self.counts.forget();
        }
        result
    }

    fn commit(&mut self, jobs: &mut [Box<dyn Job>], touches: Touches) -> Result<(), Failure> {
        let hooks = self.hooks.get().cloned();
        let now = jobs.iter().map(|job| job.now()).max();
        let mut batch = Batch {
            connection: &self.connection,
            committed: Committed::default(),
            counts: &mut self.counts,
            ids: &mut self.ids,
            hooks: hooks.as_deref(),
            written: HashMap::new(),
            touches,
            has_failed_touch: false,
        };
        let run = |sql: &str| {
            self.connection
                .prepare_cached(sql)
                .and_then(|mut sql| sql.execute([]))
        };
        run("BEGIN IMMEDIATE").map_err(Failure::Batch)?;
        let open = OpenTransaction(&self.connection);
        let changes_before = self.connection.total_changes();

        if let (Some(hooks), Some(now), Touches::Write) = (&hooks, now, touches) {
            for touch in hooks.due_touches(now) {
                changes::write_touch(&mut batch, &touch, now).map_err(Failure::Touch)?;
            }
        }
        let ran = jobs.iter_mut().try_for_each(|job| job.run(&mut batch));
        ran.map_err(|error| match batch.has_failed_touch {
            true => Failure::Touch(error),
            false => Failure::Change(error),
        })?;
        // A batch that changes nothing, like a sweep with nothing to do, must not cost a write.
        let is_changed = self.connection.total_changes() != changes_before;
        let is_later = |now: &Timestamp| self.high_water.is_none_or(|stored| stored < *now);
        let grown = now.filter(|now| is_changed && is_later(now));
        if let Some(now) = grown {
            changes::write_high_water(&batch, now).map_err(Failure::Batch)?;
        }

        let mut committed = batch.committed;
        committed.batch_size = jobs.len();
        let fenced = hooks
            .as_ref()
            .map(|hooks| Fenced::new(hooks.as_ref(), &committed.changed));
        let started = Instant::now();
        run("COMMIT").map_err(Failure::Batch)?;
        committed.commit_time = started.elapsed();
        drop(fenced);
        drop(open);
        self.high_water = grown.or(self.high_water);
        if let Some(hooks) = &hooks {
            hooks.announce(&committed);
        }
        Ok(())
    }
}

/// Whether a batch writes the pending touches whose stored deadline has passed, and those of sessions that end.
#[derive(Clone, Copy)]
enum Touches {
    Write,
    Leave,
}

/// What kept a batch from being committed.
enum Failure {
    /// One of its changes.
    Change(rusqlite::Error),
    /// A touch that was due, or of a session that was to end.
    Touch(rusqlite::Error),
    /// The transaction itself: none of its changes in particular.
    Batch(rusqlite::Error),
}

impl Failure {
    fn into_cause(self) -> rusqlite::Error {
        match self {
            Self::Change(error) | Self::Touch(error) | Self::Batch(error) => error,
        }
    }
}

/// Whether the disk or a lock is to blame, rather than what is in a row.
fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, ReadOnly, SystemIoFailure};
    let code = error.sqlite_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            DatabaseBusy | DatabaseLocked | DiskFull | ReadOnly | SystemIoFailure
        )
    })
}

/// Rolls back what was not committed.
struct OpenTransaction<'c>(&'c Connection);

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        if self.0.is_autocommit() {
            return; // committed, or rolled back by SQLite itself, as it does when the disk is full
        }
        if let Err(error) = self.0.execute_batch("ROLLBACK") {
            log::error!("a failed change could not be rolled back: {error}");
        }
    }
}

/// The fence around a commit; it falls when the commit has returned, either way.
struct Fenced<'h> {
    hooks: &'h dyn Hooks,
    changed: &'h [SessionId],
}

impl<'h> Fenced<'h> {
    fn new(hooks: &'h dyn Hooks, changed: &'h [SessionId]) -> Self {
        hooks.fence(changed);
        Self { hooks, changed }
    }
}

impl Drop for Fenced<'_> {
    fn drop(&mut self) {
        self.hooks.release(self.changed);
    }
}

/// The thread that copies the WAL back into the database.
struct Checkpointer {
    requests: Option<SyncSender<Checkpoint>>,
    thread: Option<JoinHandle<()>>,
    /// Frames at which the writer waits for a restart: more, while a reader keeps one from happening.
    restart_frames: i32,
}

enum Checkpoint {
    /// As far as possible without waiting for anybody.
    Passive,
    /// All of it, and say whether the WAL can start anew.
    Restart(Sender<bool>),
}

impl Checkpointer {
    fn start(connection: Connection) -> Self {
        let (requests, waiting) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("sessiond-checkpoint".into())
            .spawn(move || run_checkpoints(&connection, &waiting))
            .expect("the operating system gives a thread at start");
        Self {
            requests: Some(requests),
            thread: Some(thread),
            restart_frames: RESTART_FRAMES,
        }
    }

    fn after_commit(&mut self, frames: i32) {
        let Some(requests) = &self.requests else { return };
        if frames < RESTART_FRAMES {
            self.restart_frames = RESTART_FRAMES;
        }
        if frames >= self.restart_frames {
            let (done, wait) = channel();
            let is_asked = requests.send(Checkpoint::Restart(done)).is_ok();
            if is_asked && !wait.recv().unwrap_or(true) {
                // The attempt waited for a reader as long as it may. Not again for every batch while that reader
                // stays: only when the file has grown by as much again.
                self.restart_frames = frames.saturating_add(RESTART_FRAMES);
                log::warn!(
                    "a reader of the database holds an old snapshot, so the WAL cannot start anew; it has {frames} \
                     pages and grows until the reader ends"
                );
            }
        } else if frames >= PASSIVE_FRAMES {
            let _ = requests.try_send(Checkpoint::Passive); // one is already waiting: enough
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.requests.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The first checkpoint, before anything of this server reads: what is left in the WAL by a server that was killed, or stopped beside
/// a reader, may have people in it who were erased. The server starts also if it cannot be written back.
pub(super) fn write_back_at_start(connection: &Connection) {
    if let Err(error) = connection.busy_timeout(RESTART_TIMEOUT) {
        log::warn!("how long a checkpoint waits cannot be set: {error}");
    }
    if checkpoint(connection, "TRUNCATE") == Some(false) {
        log::warn!(
            "the database is being read by another program: what an earlier server left in the -wal file beside it could not \
             be written back, and may have people who were erased"
        );
    }
}

/// Whether all of it was done; nothing if it failed. A reader in the way is no error to SQLite: the first column says so.
fn checkpoint(connection: &Connection, mode: &str) -> Option<bool> {
    let statement = format!("PRAGMA wal_checkpoint({mode})");
    let is_busy = connection.query_row(&statement, [], |row| row.get::<_, bool>(0));
    is_busy
        .map(|is_busy| !is_busy)
        .inspect_err(|error| log::warn!("a checkpoint of the database failed: {error}"))
        .ok()
}

fn run_checkpoints(connection: &Connection, waiting: &Receiver<Checkpoint>) {
    while let Ok(request) = waiting.recv() {
        match request {
            Checkpoint::Passive => {
                checkpoint(connection, "PASSIVE");
            }
            Checkpoint::Restart(done) => {
                let _ = done.send(checkpoint(connection, "RESTART") == Some(true));
            }
        }
    }
    // The writer has closed. SQLite does this by itself only if the last connection that closes may write, and a
    // reader may outlive this one: whoever copies the file of a stopped server is to have all of it.
    if checkpoint(connection, "TRUNCATE") == Some(false) {
        log::warn!(
            "the database is being read, by another program or by a backup of this server's: what was written last is in \
             the -wal file beside it, which belongs to it until a start that finds no reader"
        );
    }
}

/// Gives UUIDv7 (RFC 9562 §5.7) that grow strictly: within a millisecond, or while the clock stands, the random part
/// of the last one is raised by a random amount (§6.2, method 2).
struct IdGenerator {
    millis: u64,
    /// The 74 bits after the time, without version and variant.
    random: u128,
}

const RANDOM_BITS: u32 = 74;

impl IdGenerator {
    fn after(last: Option<SessionId>) -> Self {
        let bits = last.map_or(0, |id| u128::from_be_bytes(*id.as_bytes()));
        let random_a = (bits >> 64) & 0xfff;
        let random_b = bits & ((1 << 62) - 1);
        Self {
            millis: (bits >> 80) as u64,
            random: random_a << 62 | random_b,
        }
    }

    fn next(&mut self, now: Timestamp) -> SessionId {
        let millis = u64::try_from(now.as_millis()).unwrap_or_default();
        let fresh = random_u128();
        if millis > self.millis {
            self.millis = millis;
            self.random = fresh >> (128 - RANDOM_BITS + 1); // the highest bit stays free for growth
        } else {
            self.random += 1 + (fresh & u128::from(u32::MAX));
            if self.random >> RANDOM_BITS != 0 {
                self.millis += 1;
                self.random = fresh >> (128 - RANDOM_BITS + 1);
            }
        }
        let random_a = self.random >> 62;
        let random_b = self.random & ((1 << 62) - 1);
        let bits = u128::from(self.millis) << 80 | 7 << 76 | random_a << 64 | 0b10 << 62 | random_b;
        SessionId::from_bytes(bits.to_be_bytes())
    }
}

fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_strictly_also_when_the_clock_does_not() {
        let mut ids = IdGenerator::after(None);
        let mut last = ids.next(Timestamp::from_millis(1_000));
        for step in 0..10_000 {
            let now = Timestamp::from_millis(1_000 + step % 7 - 3);
            let id = ids.next(now);
            assert!(id > last, "{id} after {last}");
            last = id;
        }
        let mut restarted = IdGenerator::after(Some(last));
        assert!(restarted.next(Timestamp::from_millis(1)) > last);
    }

    #[test]
    fn ids_are_uuids_of_version_7_with_their_time() {
        let id = IdGenerator::after(None).next(Timestamp::from_millis(0x0192_f0c4_0000));
        let uuid = uuid::Uuid::from_bytes(*id.as_bytes());
        assert_eq!(
            (uuid.get_version_num(), uuid.get_variant()),
            (7, uuid::Variant::RFC4122)
        );
        assert!(id.to_string().starts_with("0192f0c4-0000-7"));
    }
}
