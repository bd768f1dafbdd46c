//! The store on SQLite.
//!
//! One write connection, owned by one thread (`writer`); an r2d2 pool of read-only connections. WAL, so that
//! readers and the writer do not wait for each other (<https://www.sqlite.org/wal.html>); `synchronous=FULL`, so that
//! a commit survives power loss (<https://www.sqlite.org/pragma.html#pragma_synchronous>). A point read runs on the
//! calling thread if a connection is free, else on the blocking pool: it takes a few microseconds, less than the hop.
//!
//! The schema is `schema.sql`, embedded; `PRAGMA user_version` numbers it. A database of an older version is copied
//! beside itself and migrated in one transaction; one of a newer version is refused. Deliberately absent: policy, the
//! time, and any copy of a row.

mod backup;
mod changes;
mod counts;
mod devices;
mod erasure;
mod events;
mod notices;
mod reads;
mod renewals;
mod restore;
mod rows;
mod session_data;
mod sign_ins;
mod soundness;
mod webhooks;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use r2d2::Pool;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};

use tokio::sync::Semaphore;

use super::webhooks::{
    Attempted, DeliveryList, DeliveryPage, DueDeliveries, NewDeliveries, NewWebhook, ReplayRange, Replayed,
    WebhookPatch, WebhookRecord, WebhookStore,
};
use super::{
    Answer, AppList, AppPage, Authenticated, Authentication, BulkEnding, Creation, DataOutcome, DataPatch,
    EndRequest, Erased, EventBounds, EventList, EventPage, Hooks, KeyRecord, KnownDevice, NewSession,
    Outcome, Owner, Renewal, Renewed, Scope, SessionPatch, SessionStore, UserList, UserPage, UserPatch,
    UserRecord,
};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::Error;
use crate::event::Event;
use crate::session::{AppName, EndedBy, KeyId, SecretHash, Session, SessionId, Touch};
use crate::user::UserId;
use crate::webhook::WebhookId;
use writer::Writer;

pub use backup::{BackupError, Copied, back_up};
pub use restore::{
    Restored, RestoredSessions, finish_restore, give_to_owner_of, is_restore_unfinished, restore,
};
pub use soundness::{Soundness, examine_soundness};

/// Marks a file as this program's ("sess" in ASCII); see `PRAGMA application_id`.
const APPLICATION_ID: i32 = 0x7365_7373;
/// How long a connection waits for a lock. Only a checkpoint or a recovery can hold one, for milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept by a connection; there are about 80 different ones.
const STATEMENTS_MAX: usize = 128;
/// Added to the database's name for the copy before a migration until it is done.
const UNFINISHED_COPY: &str = ".before-schema-unfinished";
/// The schema, by steps.
const SCHEMA: Schema = Schema {
    newest: include_str!("../../schema.sql"),
    steps: &[TO_VERSION_2, TO_VERSION_3, TO_VERSION_4, TO_VERSION_5],
};
/// Renewals, visitors, and creations that can be repeated.
const TO_VERSION_2: &str = "
    ALTER TABLE sessions ADD COLUMN replaced_reported_at INTEGER;
    ALTER TABLE sessions ADD COLUMN started_from TEXT;
    CREATE INDEX sessions_by_grace ON sessions (grace_ends_at)
        WHERE renew_nonce IS NOT NULL AND grace_ends_at IS NOT NULL;
    CREATE INDEX sessions_by_visitor ON sessions (app, started_from, created_at) WHERE started_from IS NOT NULL;
    CREATE TABLE idempotency_keys (
        api_key_id  BLOB    NOT NULL,
        key_print   BLOB    NOT NULL CHECK (length(key_print) = 32),
        body_print  BLOB    NOT NULL CHECK (length(body_print) = 32),
        session_id  BLOB    NOT NULL,
        token_hash  BLOB    NOT NULL CHECK (length(token_hash) = 32),
        nonce       BLOB    NOT NULL,
        created_at  INTEGER NOT NULL,
        PRIMARY KEY (api_key_id, key_print)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
";
/// Reading the events of one user; telling of new devices, as which those of the sessions that are there do not count;
/// telling that deadlines are near; webhooks.
const TO_VERSION_3: &str = "
    ALTER TABLE sessions ADD COLUMN expiring_notice INTEGER CHECK (expiring_notice > 0);
    ALTER TABLE sessions ADD COLUMN notice_at INTEGER;
    CREATE INDEX sessions_by_notice ON sessions (notice_at) WHERE notice_at IS NOT NULL AND ended_at IS NULL;
    CREATE INDEX events_by_subject ON events (app, coalesce(user_id, session_id));
    CREATE TABLE user_devices (
        app           TEXT    NOT NULL,
        user_id       TEXT    NOT NULL,
        browser       TEXT    NOT NULL,
        os            TEXT    NOT NULL,
        first_seen_at INTEGER NOT NULL,
        PRIMARY KEY (app, user_id, browser, os)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO user_devices (app, user_id, browser, os, first_seen_at)
        SELECT app, user_id, browser, os, first_seen_at FROM
            (SELECT *, row_number() OVER (PARTITION BY app, user_id ORDER BY first_seen_at DESC) AS nth FROM
                (SELECT app, user_id, coalesce(browser, '') AS browser, coalesce(os, '') AS os,
                        min(signed_in_at) AS first_seen_at
                 FROM sessions WHERE user_id IS NOT NULL GROUP BY 1, 2, 3, 4))
        WHERE nth <= 100;
    CREATE TABLE webhooks (
        id                   BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
        app                  TEXT    NOT NULL,
        name                 TEXT    UNIQUE,
        url                  TEXT    NOT NULL,
        types                TEXT    NOT NULL,
        description          TEXT,
        secret               BLOB    NOT NULL,
        previous_secret      BLOB,
        previous_valid_until INTEGER,
        state                TEXT    NOT NULL CHECK (state IN ('active', 'paused', 'disabled')),
        disabled_reason      TEXT,
        cursor               INTEGER NOT NULL,
        created_at           INTEGER NOT NULL,
        last_attempt_at      INTEGER,
        last_status          INTEGER,
        last_error           TEXT,
        CHECK ((previous_secret IS NULL) = (previous_valid_until IS NULL)),
        CHECK ((state = 'disabled') = (disabled_reason IS NOT NULL))
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE webhook_deliveries (
        webhook_id       BLOB    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
        event_id         INTEGER NOT NULL,
        type             TEXT    NOT NULL,
        subject          TEXT    NOT NULL,
        state            TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'skipped')),
        attempts         INTEGER NOT NULL DEFAULT 0,
        first_attempt_at INTEGER,
        next_attempt_at  INTEGER,
        last_attempt_at  INTEGER,
        last_status      INTEGER,
        last_error       TEXT,
        created_at       INTEGER NOT NULL,
        PRIMARY KEY (webhook_id, event_id),
        CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL))
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (webhook_id, subject, event_id) WHERE state = 'pending';
    CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at) WHERE state <> 'pending';
";
/// Counting a user's active sessions without a look into their rows.
const TO_VERSION_4: &str = "
    DROP INDEX sessions_active_by_user;
    CREATE INDEX sessions_active_by_user ON sessions (app, user_id, signed_in_at, id, ended_at) WHERE ended_at IS NULL;
";

/// Uses that leave the sweeper's index alone. The rows are not written: the sweeper looks at each once, in its batches.
const TO_VERSION_5: &str = "
    DROP INDEX sessions_by_deadline;
    ALTER TABLE sessions ADD COLUMN sweep_at INTEGER NOT NULL DEFAULT 0 CHECK (sweep_at <= expires_at);
    CREATE INDEX sessions_by_sweep ON sessions (sweep_at) WHERE ended_at IS NULL;
";

/// A schema and what leads older ones to it.
#[derive(Clone, Copy)]
struct Schema<'s> {
    /// All of it, for a new database.
    newest: &'s str,
    /// The one at index n leads from version n + 1 to n + 2.
    steps: &'s [&'s str],
}

impl Schema<'_> {
    /// The version of the newest one.
    fn version(&self) -> i64 {
        i64::try_from(self.steps.len() + 1).expect("there are few steps")
    }
}

/// Where the database is and how it is used.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The file; made if it is not there, readable by its owner only.
    pub path: PathBuf,
    /// Read-only connections.
    pub read_pool: u32,
    /// Changes that may wait for the writer; one more is [`Error::Overloaded`].
    pub queue_len_max: usize,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer sessiond made it.
    #[error("the database {path} has schema version {found}; this program knows versions up to {known}")]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// An older sessiond made it, and no newer one has opened it since.
    #[error(
        "the database {path} has schema version {found}; the server brings it to version {known} when it starts, and then it can \
         be looked at"
    )]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version of this program.
        known: i64,
    },
    /// It is some other program's.
    #[error("the file {0} is a database, but not one of sessiond's")]
    Foreign(PathBuf),
    /// It has nothing in it.
    #[error("the file {0} is empty, and no database")]
    Empty(PathBuf),
    /// SQLite refused.
    #[error("cannot open the database {path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The pool of readers could not be filled.
    #[error("cannot open the database {path} for reading: {source}")]
    Pool {
        /// The file.
        path: PathBuf,
        /// What the pool says.
        source: r2d2::Error,
    },
    /// The file system refused.
    #[error("cannot open the database {path} for writing: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
}

/// Sessions in an SQLite file.
pub struct SqliteStore {
    writer: Writer,
    readers: Pool<SqliteConnectionManager>,
    /// Who may read for a while: one connection fewer than there are, so that lists never keep a check waiting.
    long_reads: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the database, making or migrating it if need be. The caller holds the lock that keeps other servers
    /// away.
    pub fn open(options: &SqliteOptions) -> Result<Self, OpenError> {
        let path = &options.path;
        let failed = |source| OpenError::Sqlite {
            path: path.clone(),
            source,
        };
        create_private(path).map_err(|source| OpenError::File {
            path: path.clone(),
            source,
        })?;
        let mut connection = connect(path).map_err(failed)?;
        // Before anything is written: the journal mode alone changes the file, which may be somebody else's.
        examine(&connection, path, SCHEMA)?;
        prepare(&connection).map_err(failed)?;
        migrate(&mut connection, path, SCHEMA)?;
        let checkpointer = open_for_writing(path).map_err(failed)?;
        writer::write_back_at_start(&checkpointer);
        let last_id = reads::largest_id(&connection).map_err(failed)?;
        let readers = SqliteConnectionManager::file(path)
            .with_flags(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .with_init(|reader| {
                reader.busy_timeout(BUSY_TIMEOUT)?;
                reader.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
                reader.pragma_update(None, "query_only", true)
            });
        let readers = Pool::builder()
            .max_size(options.read_pool)
            .test_on_check_out(false) // a local file does not hang up
            .connection_timeout(BUSY_TIMEOUT)
            .error_handler(Box::new(LogPoolError))
            .build(readers)
            .map_err(|source| OpenError::Pool {
                path: path.clone(),
                source,
            })?;
        let writer = Writer::start(connection, checkpointer, last_id, options.queue_len_max);
        let long_reads = (options.read_pool as usize).saturating_sub(1).max(1);
        Ok(Self {
            writer,
            readers,
            long_reads: Arc::new(Semaphore::new(long_reads)),
        })
    }

    /// Limits the file to so many pages, as a full disk would. For tests of what happens then.
    #[doc(hidden)]
    pub fn limit_pages(&self, pages: u32) -> Answer<()> {
        self.writer.submit(Timestamp::from_millis(0), move |batch| {
            batch
                .connection
                .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
        })
    }

    /// Runs a short read on this thread if a connection is free, else where it may block.
    fn read_here<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<T> {
        match self.readers.try_get() {
            Some(connection) => Box::pin(std::future::ready(work(&connection).map_err(Error::store))),
            None => self.read_elsewhere(work),
        }
    }

    /// Runs a read that may take a while where it may block, as one of a few.
    fn read_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let long_reads = Arc::clone(&self.long_reads);
        let readers = self.readers.clone();
        Box::pin(async move {
            let permit = long_reads.acquire_owned().await.map_err(Error::store)?;
            // The permit goes along: a caller that goes away does not end the read.
            let work = move |connection: &Connection| {
                let _permit = permit;
                work(connection)
            };
            read_on(readers, work).await
        })
    }

    /// Runs a short read where it may block.
    fn read_elsewhere<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<T> {
        Box::pin(read_on(self.readers.clone(), work))
    }
}

async fn read_on<T: Send + 'static>(
    readers: Pool<SqliteConnectionManager>,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let task = move || work(&*readers.get().map_err(Error::store)?).map_err(Error::store);
    tokio::task::spawn_blocking(task).await.map_err(Error::store)?
}

impl SessionStore for SqliteStore {
    fn attach(&self, hooks: Arc<dyn Hooks>) {
        self.writer.attach(hooks);
    }

    fn high_water(&self) -> Answer<Option<Timestamp>> {
        self.read_here(reads::high_water)
    }

    fn create(&self, new: NewSession) -> Answer<Creation> {
        self.writer
            .submit(new.now, move |batch| sign_ins::create(batch, &new))
    }

    fn authenticate(&self, authentication: Authentication) -> Answer<Authenticated> {
        self.writer.submit(authentication.now, move |batch| {
            sign_ins::authenticate(batch, &authentication)
        })
    }

    fn renew(&self, renewal: Renewal) -> Answer<Renewed> {
        self.writer
            .submit(renewal.now, move |batch| renewals::renew(batch, &renewal))
    }

    fn report_replaced(&self, id: SessionId, presented: SecretHash, now: Timestamp) -> Answer<()> {
        self.writer.submit(now, move |batch| {
            renewals::report_replaced(batch, id, presented, now)
        })
    }

    fn end(&self, app: AppName, id: SessionId, owner: Owner, request: EndRequest) -> Answer<Outcome> {
        self.writer.submit(request.now, move |batch| {
            changes::end(batch, &app, id, &owner, &request)
        })
    }

    fn end_many(&self, app: AppName, scope: Scope, request: EndRequest) -> Answer<BulkEnding> {
        self.writer.submit(request.now, move |batch| {
            changes::end_many(batch, &app, &scope, &request)
        })
    }

    fn update(
        &self,
        app: AppName,
        id: SessionId,
        owner: Owner,
        patch: SessionPatch,
        now: Timestamp,
    ) -> Answer<Outcome> {
        self.writer.submit(now, move |batch| {
            changes::update(batch, &app, id, &owner, &patch, now)
        })
    }

    fn write_touches(&self, mut touches: Vec<Touch>, now: Timestamp) -> Answer<()> {
        // In key order neighbouring rows share pages: a third less work at a million rows.
        touches.sort_unstable_by_key(|touch| touch.id);
        self.writer.submit(now, move |batch| {
            touches
                .iter()
                .try_for_each(|touch| changes::write_touch(batch, touch, now))
        })
    }

    fn update_user(
        &self,
        app: AppName,
        user_id: UserId,
        patch: UserPatch,
        by: EndedBy,
        now: Timestamp,
    ) -> Answer<UserRecord> {
        self.writer.submit(now, move |batch| {
            changes::update_user(batch, &app, &user_id, &patch, by, now)
        })
    }

    fn erase_user(&self, app: AppName, user_id: UserId, request: EndRequest, limit: usize) -> Answer<Erased> {
        self.writer.submit(request.now, move |batch| {
            erasure::erase_user(batch, &app, &user_id, &request, limit)
        })
    }

    fn change_data(
        &self,
        app: AppName,
        id: SessionId,
        patch: DataPatch,
        now: Timestamp,
    ) -> Answer<DataOutcome> {
        self.writer.submit(now, move |batch| {
            session_data::change_data(batch, &app, id, &patch, now)
        })
    }

    fn expire(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.writer
            .submit(now, move |batch| changes::expire(batch, now, limit))
    }

    fn tell_expiring(&self, now: Timestamp, limit: usize) -> Answer<usize> {
        self.writer
            .submit(now, move |batch| notices::tell_expiring(batch, now, limit))
    }

    fn purge(&self, before: Timestamp, limit: usize, now: Timestamp) -> Answer<usize> {
        self.writer
            .submit(now, move |batch| changes::purge(batch, before, limit, now))
    }

    fn create_key(&self, key: KeyRecord) -> Answer<()> {
        self.writer
            .submit(key.created_at, move |batch| changes::create_key(batch, &key))
    }

    fn revoke_key(&self, id: KeyId, now: Timestamp) -> Answer<bool> {
        self.writer
            .submit(now, move |batch| changes::revoke_key(batch, id, now))
    }

    fn find(&self, id: SessionId) -> Answer<Option<Session>> {
        self.read_here(move |connection| reads::find(connection, id))
    }

    fn find_client(&self, app: AppName, client_session_id: i64) -> Answer<Option<Session>> {
        self.read_here(move |connection| reads::find_client(connection, &app, client_session_id))
    }

    fn find_data(&self, id: SessionId) -> Answer<Option<(Session, Data)>> {
        self.read_here(move |connection| reads::find_with_data(connection, id))
    }

    fn list_user(&self, list: UserList) -> Answer<UserPage> {
        self.read_blocking(move |connection| reads::list_user(connection, &list))
    }

    fn list_app(&self, list: AppList) -> Answer<AppPage> {
        self.read_blocking(move |connection| reads::list_app(connection, &list, reads::SCAN_ROWS_MAX))
    }

    fn find_user(&self, app: AppName, user_id: UserId, now: Timestamp) -> Answer<UserRecord> {
        self.read_blocking(move |connection| reads::find_user(connection, &app, &user_id, now))
    }

    fn list_devices(&self, app: AppName, user_id: UserId) -> Answer<Vec<KnownDevice>> {
        self.read_blocking(move |connection| devices::list(connection, &app, &user_id))
    }

    fn list_events(&self, list: EventList) -> Answer<EventPage> {
        self.read_blocking(move |connection| events::list(connection, &list, reads::SCAN_ROWS_MAX))
    }

    fn event_bounds(&self) -> Answer<EventBounds> {
        self.read_here(events::bounds)
    }

    fn record(&self, event: Event) -> Answer<()> {
        self.writer
            .submit(event.occurred_at, move |batch| changes::record(batch, &event))
    }

    fn find_key(&self, id: KeyId) -> Answer<Option<KeyRecord>> {
        self.read_here(move |connection| reads::find_key(connection, id))
    }

    fn list_keys(&self) -> Answer<Vec<KeyRecord>> {
        self.read_blocking(reads::list_keys)
    }

    fn ping(&self) -> Answer<()> {
        if !self.writer.is_running() {
            return Box::pin(std::future::ready(Err(Error::store("the writer has stopped"))));
        }
        self.read_blocking(|connection| reads::high_water(connection).map(drop))
    }

    fn queue_len(&self) -> usize {
        self.writer.queue_len()
    }

    fn close(&self) {
        self.writer.close();
    }
}

impl WebhookStore for SqliteStore {
    fn create_webhook(&self, new: NewWebhook) -> Answer<Option<WebhookRecord>> {
        self.writer
            .submit(new.now, move |batch| webhooks::create(batch, &new))
    }

    fn update_webhook(
        &self,
        id: WebhookId,
        patch: WebhookPatch,
        now: Timestamp,
    ) -> Answer<Option<WebhookRecord>> {
        self.writer
            .submit(now, move |batch| webhooks::update(batch, id, &patch, now))
    }

    fn delete_webhook(&self, id: WebhookId, now: Timestamp) -> Answer<bool> {
        self.writer.submit(now, move |batch| webhooks::delete(batch, id))
    }

    fn delete_deliveries(&self, id: WebhookId, limit: usize, now: Timestamp) -> Answer<usize> {
        self.writer
            .submit(now, move |batch| webhooks::delete_deliveries(batch, id, limit))
    }

    fn find_webhook(&self, id: WebhookId) -> Answer<Option<WebhookRecord>> {
        self.read_here(move |connection| webhooks::find(connection, id))
    }

    fn list_webhooks(&self, app: Option<AppName>) -> Answer<Vec<WebhookRecord>> {
        self.read_blocking(move |connection| webhooks::list(connection, app.as_ref()))
    }

    fn enqueue(&self, id: WebhookId, new: NewDeliveries, now: Timestamp) -> Answer<bool> {
        self.writer
            .submit(now, move |batch| webhooks::enqueue(batch, id, &new, now))
    }

    fn count_fresh(&self, id: WebhookId) -> Answer<u64> {
        self.read_blocking(move |connection| webhooks::count_fresh(connection, id))
    }

    fn due_deliveries(&self, id: WebhookId, now: Timestamp, limit: usize) -> Answer<DueDeliveries> {
        self.read_blocking(move |connection| webhooks::due(connection, id, now, limit))
    }

    fn record_attempt(&self, id: WebhookId, event: u64, attempted: Attempted, now: Timestamp) -> Answer<()> {
        self.writer.submit(now, move |batch| {
            webhooks::record_attempt(batch, id, event, &attempted, now)
        })
    }

    fn list_deliveries(&self, list: DeliveryList) -> Answer<DeliveryPage> {
        self.read_blocking(move |connection| webhooks::deliveries(connection, &list, reads::SCAN_ROWS_MAX))
    }

    fn replay_delivery(&self, id: WebhookId, event: u64, now: Timestamp) -> Answer<bool> {
        self.writer
            .submit(now, move |batch| webhooks::replay(batch, id, event, now))
    }

    fn replay_range(&self, range: ReplayRange) -> Answer<Replayed> {
        self.writer
            .submit(range.now, move |batch| webhooks::replay_range(batch, &range))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer.close();
    }
}

#[derive(Debug)]
struct LogPoolError;

impl r2d2::HandleError<rusqlite::Error> for LogPoolError {
    fn handle_error(&self, error: rusqlite::Error) {
        log::error!("cannot open the database for reading: {error}");
    }
}

/// Makes the file, readable by its owner only, before SQLite would make it with the process's mask. SQLite gives
/// the WAL the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn open_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    prepare(&connection)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is overwritten, in pages that are free now too: what retention or an erasure takes is not to be found
    // in the file after the next checkpoint, but for what `erasure` tells of. It adds 3 % to what a purge writes.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    // Checkpoints have a thread and times of their own: see the writer.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
}

/// What stands in a file.
struct Contents {
    version: i64,
    is_empty: bool,
}

/// Looks at a file, changing nothing: refuses one that another program made, or a newer version of this one.
fn examine(connection: &Connection, path: &Path, schema: Schema<'_>) -> Result<Contents, OpenError> {
    let failed = |source| OpenError::Sqlite {
        path: path.to_owned(),
        source,
    };
    let pragma = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(failed)
    };
    let version = pragma("user_version")?;
    let is_empty = connection
        .query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| {
            row.get::<_, bool>(0)
        })
        .map_err(failed)?;
    if !is_empty && pragma("application_id")? != i64::from(APPLICATION_ID) {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let known = schema.version();
    if version > known {
        return Err(OpenError::NewerSchema {
            path: path.to_owned(),
            found: version,
            known,
        });
    }
    Ok(Contents { version, is_empty })
}

/// Makes the schema, or brings it to the newest version: by all steps or none.
fn migrate(connection: &mut Connection, path: &Path, schema: Schema<'_>) -> Result<(), OpenError> {
    let failed = |source| OpenError::Sqlite {
        path: path.to_owned(),
        source,
    };
    let contents = examine(connection, path, schema)?;
    let Contents {
        version: found,
        is_empty,
    } = contents;
    let known = schema.version();
    if found == known {
        return Ok(());
    }
    if !is_empty {
        let copy = backup_path(path, found);
        keep_copy(connection, path, &copy)?;
        log::info!(
            "migrating the database from schema version {found} to {known}; a copy is at {}",
            copy.display()
        );
    }
    lead_to_newest(connection, &contents, schema).map_err(failed)
}

/// Copies the database as it is before a migration: under that name whole and on disk, or not at all. A copy that is there is
/// of a migration that died or failed after it, and maybe the older server ran since: it is made anew, as is half a one.
fn keep_copy(connection: &Connection, path: &Path, copy: &Path) -> Result<(), OpenError> {
    let unfinished = backup::with_suffix(path, UNFINISHED_COPY);
    let failed = |source| OpenError::File {
        path: unfinished.clone(),
        source,
    };
    backup::remove_database(&unfinished)
        .and_then(|()| create_private(&unfinished))
        .map_err(failed)?;
    // Nobody else uses the database yet, so that there is nothing to wait for.
    let copied = backup::copy_pages(connection, &unfinished, &|| true)
        .map_err(|source| OpenError::Sqlite {
            path: unfinished.clone(),
            source,
        })
        .and_then(|()| backup::sync(&unfinished).map_err(failed));
    if copied.is_err()
        && let Err(error) = backup::remove_database(&unfinished)
    {
        log::warn!("cannot remove {}: {error}", unfinished.display());
    }
    copied?;
    // What SQLite may have beside the one that is there would be taken for this one's.
    backup::remove_database(copy)
        .and_then(|()| std::fs::rename(&unfinished, copy))
        .and_then(|()| backup::sync_folder(backup::folder_of(copy)))
        .map_err(|source| OpenError::File {
            path: copy.to_owned(),
            source,
        })
}

/// Makes the schema, or leads what is there to it, in one transaction.
fn lead_to_newest(connection: &mut Connection, found: &Contents, schema: Schema<'_>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    let done = usize::try_from(found.version - 1).unwrap_or_default();
    let steps = if found.is_empty {
        &[schema.newest][..]
    } else {
        &schema.steps[done..]
    };
    steps
        .iter()
        .try_for_each(|step| transaction.execute_batch(step))?;
    if found.is_empty {
        backup::write_new_epoch(&transaction)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", schema.version())?;
    transaction.commit()
}

fn backup_path(path: &Path, version: i64) -> PathBuf {
    backup::with_suffix(path, &format!(".before-schema-{}", version + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .expect("a version")
    }

    #[test]
    fn newer_schema_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        create_private(&path).expect("made");
        let mut connection = open_for_writing(&path).expect("opened");
        migrate(&mut connection, &path, SCHEMA).expect("made");
        connection.pragma_update(None, "user_version", 99).expect("set");
        let error = migrate(&mut connection, &path, SCHEMA).expect_err("newer");
        let text = error.to_string();
        assert!(
            text.contains("99") && text.contains(&SCHEMA.version().to_string()),
            "{text}"
        );
    }

    #[test]
    fn older_schema_is_copied_and_migrated_in_one_transaction() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        create_private(&path).expect("made");
        let mut connection = open_for_writing(&path).expect("opened");
        migrate(&mut connection, &path, SCHEMA).expect("made");
        let old = version(&connection);

        let with = |step| [SCHEMA.steps, &[step]].concat();
        let migrate = |connection: &mut Connection, steps: &[&str]| {
            let newest = SCHEMA.newest;
            migrate(connection, &path, Schema { newest, steps })
        };
        let broken = with("CREATE TABLE extra (x); CREATE TABLE extra (x)");
        migrate(&mut connection, &broken).expect_err("the second statement fails");
        assert_eq!(version(&connection), old);
        let extra = "SELECT count(*) FROM sqlite_schema WHERE name = 'extra'";
        let tables = |c: &Connection| {
            c.query_row(extra, [], |row| row.get::<_, i64>(0))
                .expect("counted")
        };
        assert_eq!(tables(&connection), 0, "a failed migration leaves nothing");

        migrate(&mut connection, &with("CREATE TABLE extra (x)")).expect("migrated");
        assert_eq!((version(&connection), tables(&connection)), (old + 1, 1));
        let copy = Connection::open(backup_path(&path, old)).expect("the copy");
        assert_eq!(
            (version(&copy), tables(&copy)),
            (old, 0),
            "the copy is from before"
        );
    }

    /// What a database is made of: every column of every table, and every index, in an order of its own.
    fn parts(connection: &Connection) -> Vec<String> {
        let sql = "SELECT m.type || ' ' || m.name || ' ' || coalesce(c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' ||
                       c.pk, '')
                   FROM sqlite_schema AS m LEFT JOIN pragma_table_xinfo(m.name) AS c ORDER BY 1";
        let mut statement = connection.prepare(sql).expect("a query");
        let parts = statement.query_map([], |row| row.get(0)).expect("rows");
        parts.map(|part| part.expect("a part")).collect()
    }

    #[test]
    fn steps_from_the_first_version_make_the_schema_that_a_new_database_has() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new.db");
        create_private(&path).expect("made");
        let mut new = open_for_writing(&path).expect("opened");
        migrate(&mut new, &path, SCHEMA).expect("made");
        let (mut old, path) = old_database(&dir);
        migrate(&mut old, &path, SCHEMA).expect("migrated");
        assert_eq!(parts(&old), parts(&new));
    }

    /// A database of version 1 in this directory.
    fn old_database(dir: &tempfile::TempDir) -> (Connection, PathBuf) {
        let path = dir.path().join("old.db");
        create_private(&path).expect("made");
        let mut connection = open_for_writing(&path).expect("opened");
        let first = Schema {
            newest: include_str!("sqlite/first_schema.sql"),
            steps: &[],
        };
        migrate(&mut connection, &path, first).expect("made");
        (connection, path)
    }

    #[test]
    fn devices_of_the_sessions_that_are_there_are_known_after_a_migration() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut old, path) = old_database(&dir);
        let mut id = 0_u64;
        let mut insert = |user: Option<&str>, browser: Option<&str>, os: Option<&str>, at: u64| {
            id += 1;
            let sql = "INSERT INTO sessions (id, app, user_id, token_hash, browser, os, created_at, signed_in_at,
                           last_activity_at, idle_timeout, absolute_expires_at, expires_at)
                       VALUES (unhex(printf('%032x', ?1)), 'default', ?2, zeroblob(32), ?3, ?4, ?5, ?5, ?5, 9, ?5, ?5)";
            old.execute(sql, rusqlite::params![id, user, browser, os, at])
                .expect("a row");
        };
        insert(Some("ada"), Some("Firefox"), Some("Linux"), 5);
        insert(Some("ada"), Some("Firefox"), Some("Linux"), 3);
        insert(Some("ada"), None, None, 4);
        insert(None, Some("Safari"), Some("iOS"), 6);
        for n in 0..150 {
            insert(Some("bob"), Some(&format!("browser {n}")), None, n);
        }
        migrate(&mut old, &path, SCHEMA).expect("migrated");
        let devices = |user: &str| {
            let sql = "SELECT browser || '/' || os || ' ' || first_seen_at FROM user_devices
                       WHERE app = 'default' AND user_id = ?1 ORDER BY first_seen_at";
            let mut statement = old.prepare(sql).expect("a query");
            let rows = statement.query_map([user], |row| row.get(0)).expect("rows");
            rows.map(|row| row.expect("a row")).collect::<Vec<String>>()
        };
        assert_eq!(devices("ada"), ["Firefox/Linux 3", "/ 4"]);
        let of_bob = devices("bob");
        assert_eq!((of_bob.len(), of_bob[0].as_str()), (100, "browser 50/ 50"));
    }

    #[tokio::test]
    async fn sessions_of_an_older_version_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (old, path) = old_database(&dir);
        let insert =
            "INSERT INTO sessions (id, app, user_id, token_hash, created_at, signed_in_at, last_activity_at,
                          idle_timeout, absolute_expires_at, expires_at)
                      VALUES (?1, 'default', 'ada', zeroblob(32), 0, 0, 0, ?2, 1000, ?2)";
        for (number, deadline) in [(1_u8, 100), (2, 300), (3, 200)] {
            old.execute(insert, rusqlite::params![[number; 16], deadline])
                .expect("a row");
        }
        drop(old);
        let options = SqliteOptions {
            path,
            read_pool: 1,
            queue_len_max: 1,
        };
        let store = SqliteStore::open(&options).expect("migrated");
        for (now, expired) in [(150, 1), (199, 0), (250, 1), (300, 1)] {
            let count = store.expire(Timestamp::from_millis(now), 9).await;
            assert_eq!(count.expect("swept"), expired, "at {now}");
        }
    }

    #[test]
    fn some_other_program_s_database_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s.db");
        Connection::open(&path)
            .expect("opened")
            .execute_batch("CREATE TABLE theirs (x)")
            .expect("made");
        let options = SqliteOptions {
            path,
            read_pool: 1,
            queue_len_max: 1,
        };
        assert!(matches!(SqliteStore::open(&options), Err(OpenError::Foreign(_))));
    }
}
