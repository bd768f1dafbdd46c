//! Puts everything together: the lock, the store, the manager, both listeners, the regular work; and takes it apart in
//! the opposite order.
//!
//! One server owns a database: it holds an exclusive lock on `DATABASE.lock` as long as it lives. Beside the database
//! is its operator socket, `DATABASE.sock`, mode 0600: whoever may open it may do what the command line does.

mod serving;

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::backups::Backups;
use crate::clock::Clock;
use crate::config::Config;
use crate::enrich::location::{LocationError, Locator};
use crate::error::Error;
use crate::http::State;
use crate::http::auth::Plane;
use crate::key_file::{self, KeyFileError};
use crate::manager::SessionManager;
use crate::metrics::Metrics;
use crate::observer::webhook::{Parts, Webhooks};
use crate::session::ServerKey;
use crate::store::SessionStore;
use crate::store::sqlite::{OpenError, SqliteOptions, SqliteStore, finish_restore, is_restore_unfinished};
use crate::sweeper;
use crate::tls::{Certificate, TlsError};
use crate::webhook::Sealer;
use serving::{Listener, Running, start_http};

pub use serving::raise_file_limit;

/// How far the clock may be behind the database without a word: what time synchronisation corrects by the way.
const CLOCK_BEHIND_MILLIS_MAX: i64 = 1_000;
/// Longest path that a Unix socket can have on Linux (108 bytes with the closing zero, unix(7)).
const SOCKET_PATH_LEN_MAX: usize = 107;
/// Where the operator socket is made, before it is moved to its place: together no longer than `.sock`.
const SOCKET_FOLDER: &str = ".sk";
const SOCKET_NAME: &str = "s";
/// Links that lead to a database, one after the other: as many as Linux follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Which listeners a server has, and which rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Both listeners.
    Serve,
    /// Both, with the routes and the guard of `sessiond dev`.
    Dev,
    /// An operator socket alone, for one command while no server runs.
    OperatorOnly,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the database.
    #[error(
        "another sessiond is running on the database {0}, a server or a command; stop it first, or use another --database"
    )]
    Locked(PathBuf),
    /// The lock file cannot be used.
    #[error("cannot lock the database by {path}: {source}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// There is none, and who asks for it makes none.
    #[error(
        "there is no such database: {0}; look at --database and --config, or make one: `sessiond serve`, `sessiond dev` and \
         `sessiond keys create` do"
    )]
    NoDatabase(PathBuf),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// A restore was interrupted, and cannot be finished.
    #[error("cannot finish restoring {path}: {source}")]
    Restore {
        /// The database.
        path: PathBuf,
        /// What is in the way.
        source: io::Error,
    },
    /// The key file cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The location file cannot be used.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The store failed at once.
    #[error("the database cannot be read: {0}")]
    Store(#[from] Error),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}{}", port_hint(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The operator socket cannot be made.
    #[error("cannot make the operator socket {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The HTTP server did not start.
    #[error("cannot start the HTTP server: {0}")]
    Http(#[source] io::Error),
}

fn port_hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::AddrInUse {
        " (something else is using this port; choose another with --listen)"
    } else {
        ""
    }
}

/// A file beside the database: its name with something added.
///
/// If the path is a link, beside what it leads to, as SQLite has it: else one database would have a lock for each of
/// its names. Folders that are links need nothing, and a relative path stays one, since a socket's may not be long.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut file = database.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = std::fs::read_link(&file) else {
            break;
        };
        // An absolute target replaces the whole path.
        file = file.parent().unwrap_or(Path::new("")).join(target);
    }
    let mut name = file.into_os_string();
    name.push(suffix);
    name.into()
}

/// An error if there is no database, nor one that a restore has yet to put there. Takes no lock: that would make its file.
pub fn require_database(database: &Path) -> Result<(), StartError> {
    // Whatever else is wrong is told by whoever opens it.
    if !matches!(database.try_exists(), Ok(false)) {
        return Ok(());
    }
    let file = beside(database, "");
    match is_restore_unfinished(&file) {
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::NoDatabase(database.to_owned())),
        Err(source) => Err(StartError::Restore { path: file, source }),
    }
}

/// The exclusive use of a database, as long as it lives.
#[derive(Debug)]
pub struct DatabaseLock {
    _file: File,
}

impl DatabaseLock {
    /// Takes the lock; makes the database's folder if need be.
    pub fn take(database: &Path) -> Result<Self, StartError> {
        let path = beside(database, ".lock");
        let failed = |source| StartError::Lock {
            path: path.clone(),
            source,
        };
        // Of the lock, as a database that is a link has its files beside what it leads to.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked(database.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// A server that has its database and its listeners, and is yet to run.
pub struct Server {
    config: Config,
    mode: Mode,
    manager: Arc<SessionManager>,
    webhooks: Arc<Webhooks>,
    backups: Option<Backups>,
    listener: Option<(TcpListener, SocketAddr)>,
    certificate: Option<Arc<Certificate>>,
    socket: OperatorSocket,
    lock: DatabaseLock,
    has_key: bool,
}

impl Server {
    /// Takes the lock, opens the database, and binds the listeners. Nothing is served yet.
    pub async fn bind(config: Config, mode: Mode, clock: Arc<Clock>) -> Result<Self, StartError> {
        let database = config.database.path.clone();
        let lock = DatabaseLock::take(&database)?;
        let locator = open_locator(&config)?;
        // The port before the database: a start that fails leaves nothing behind.
        let (listener, certificate) = match mode {
            Mode::Serve | Mode::Dev => {
                let tls = config.server.tls.as_ref();
                let certificate = tls.map(Certificate::load).transpose()?.map(Arc::new);
                (Some(listen(config.server.listen)?), certificate)
            }
            Mode::OperatorOnly => (None, None),
        };
        // Looked at before the database, which a newer program would have migrated by then; made after it, as it may be
        // another program's.
        let key_file = config.server.key_file.clone();
        let key_file = key_file.unwrap_or_else(|| beside(&database, ".key"));
        let key = key_file::load(&key_file)?;
        finish_interrupted_restore(&database)?;
        let is_new = !database.exists();
        let options = SqliteOptions {
            path: database.clone(),
            read_pool: config.database.read_pool,
            queue_len_max: config.database.queue_len_max,
        };
        let sqlite = Arc::new(SqliteStore::open(&options)?);
        let store = Arc::clone(&sqlite) as Arc<dyn SessionStore>;
        let has_key = key.is_some() || is_new || mode != Mode::OperatorOnly;
        let key = match key {
            Some(key) => key,
            None if has_key => make_key(&key_file, is_new)?,
            None => {
                log::warn!(
                    "there is no key file {}; if the server's is elsewhere, give its --config here too",
                    key_file.display()
                );
                ServerKey::random()
            }
        };
        if let Some(stored) = store.high_water().await?
            && mode == Mode::Serve
            && clock.millis_behind(stored) > CLOCK_BEHIND_MILLIS_MAX
        {
            log::warn!(
                "the clock is {} s behind the times in the database; time stands still until it has caught up",
                clock.millis_behind(stored) / 1_000
            );
        }
        let metrics = Arc::new(Metrics::new());
        let sealer = Sealer::new(&key);
        let manager = SessionManager::new(
            Arc::clone(&store),
            &config,
            Arc::clone(&clock),
            key,
            locator,
            Arc::clone(&metrics),
        );
        let manager = Arc::new(manager.await?);
        // A command is done before one could be made. And `dev`, whose clock people move, has nothing to lose: its copies would
        // push out those of a server that has the same configuration.
        let backups = match mode {
            Mode::Serve => Backups::new(
                &database,
                &config.backup,
                Arc::clone(&clock),
                Arc::clone(&metrics),
            ),
            Mode::Dev | Mode::OperatorOnly => None,
        };
        if let Some(folder) = config.backup.folder.as_deref()
            && backups.is_some()
            && lies_in(&key_file, folder)
        {
            log::warn!(
                "the key file {} lies among the backups, so that whoever has one has both; give it another [server] key_file",
                key_file.display()
            );
        }
        let webhooks = Webhooks::new(Parts {
            store: sqlite,
            events: store,
            feed: Arc::clone(manager.feed()),
            clock,
            metrics,
            sealer,
            reach: config.webhooks.reach(),
        });
        let socket = OperatorSocket::bind(&database, mode)?;
        // Last, as a server that cannot start changes nothing. A command may be given another configuration than the
        // server, and is not the place to change what that names.
        if mode != Mode::OperatorOnly {
            webhooks.apply(&config.webhooks.named).await?;
            match webhooks.count_unopened().await? {
                0 => {}
                count => log::warn!(
                    "{count} webhook(s) get nothing, as their secrets cannot be opened with the key file {}: put the one \
                     there that this database was served with, or rotate their secrets",
                    key_file.display()
                ),
            }
        }
        Ok(Self {
            config,
            mode,
            manager,
            webhooks,
            backups,
            listener,
            certificate,
            socket,
            lock,
            has_key,
        })
    }

    /// Where its operator plane is reached.
    pub fn socket(&self) -> &Path {
        &self.socket.path
    }

    /// Whether it has the key of its database. A command makes none where a server has run: that may have been given another
    /// place for it, and what a wrong key seals the right one does not open.
    pub fn has_key(&self) -> bool {
        self.has_key
    }

    /// The sessions.
    pub fn manager(&self) -> &Arc<SessionManager> {
        &self.manager
    }

    /// The address that is listened on; with port 0 in the configuration the one that was given.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(_, address)| *address)
    }

    /// What is served with, if that is HTTPS.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }

    /// Serves until `stop` is done, then lets running requests end, writes what is pending and closes the database.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let Self {
            config,
            mode,
            manager,
            webhooks,
            backups,
            listener,
            certificate,
            socket,
            lock,
            has_key: _,
        } = self;
        let state = |plane, is_dev| {
            let (manager, webhooks) = (Arc::clone(&manager), Arc::clone(&webhooks));
            State::new(manager, webhooks, &config, plane, is_dev)
        };
        let public = match listener {
            Some((listener, _)) => {
                let state = state(Plane::Public, mode == Mode::Dev);
                let listener = Listener::Tcp(listener, certificate);
                Some(start_http(&config, listener, state).map_err(StartError::Http)?)
            }
            None => None,
        };
        let state = state(Plane::Operator, false);
        let operator =
            start_http(&config, Listener::Unix(socket.listener), state).map_err(StartError::Http)?;
        let (public, operator) = (public.map(Running::start), Running::start(operator));
        let (stop_sweeper, sweeper_stop) = watch::channel(false);
        let every = Duration::from_millis(config.sessions.flush_interval_ms);
        // What is old enough to be deleted, the server's configuration says: a command may be given another, and does nothing
        // but what it is asked.
        let sweeper = (mode != Mode::OperatorOnly)
            .then(|| tokio::spawn(sweeper::run(Arc::clone(&manager), every, sweeper_stop)));
        let (stop_backups, backups_stop) = watch::channel(false);
        let backups = backups.map(|backups| tokio::spawn(backups.run(backups_stop)));
        let (stop_webhooks, webhooks_stop) = watch::channel(false);
        let grace = Duration::from_secs(config.server.shutdown_grace_secs);
        // A command looks at webhooks and changes them; deliveries are for the server.
        let deliveries = (mode != Mode::OperatorOnly)
            .then(|| tokio::spawn(Arc::clone(&webhooks).run(webhooks_stop, grace)));

        stop.await;

        // Streams have no end of their own that a stop could wait for.
        manager.feed().close();
        // The opposite order: no new requests, running ones end, the regular work stops, the store closes.
        let stop_public = async {
            if let Some(public) = public {
                public.stop().await;
            }
        };
        let stop_deliveries = async {
            drop(stop_webhooks);
            if let Some(deliveries) = deliveries
                && deliveries.await.is_err()
            {
                log::error!("the deliveries of webhooks had failed before the server stopped");
            }
        };
        let stop_backups = async {
            drop(stop_backups);
            let Some(backups) = backups else { return };
            // One that is abandoned ends between two steps, but the last of them waits for a disk.
            match tokio::time::timeout(grace, backups).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => log::error!("the making of backups had failed before the server stopped"),
                Err(_) => {
                    log::warn!("a backup that is being written is left as it is; the next one clears it away")
                }
            }
        };
        tokio::join!(stop_public, operator.stop(), stop_deliveries, stop_backups);
        drop(stop_sweeper);
        if let Some(sweeper) = sweeper
            && sweeper.await.is_err()
        {
            log::error!("the regular work had failed before the server stopped");
        }
        manager.close().await;
        if let Err(error) = std::fs::remove_file(&socket.path) {
            log::warn!(
                "cannot remove the operator socket {}: {error}",
                socket.path.display()
            );
        }
        drop(lock);
        Ok(())
    }
}

/// Before the database is opened: what is there may be one that is to be replaced, or none.
fn finish_interrupted_restore(database: &Path) -> Result<(), StartError> {
    let file = beside(database, "");
    match finish_restore(&file) {
        Ok(None) => Ok(()),
        Ok(Some(kept)) => {
            log::warn!(
                "finished restoring a backup, which had been interrupted; the database of before is kept as {}",
                kept.display()
            );
            Ok(())
        }
        Err(source) => Err(StartError::Restore { path: file, source }),
    }
}

/// Whether a file is in this folder itself, whatever links lead to either.
fn lies_in(file: &Path, folder: &Path) -> bool {
    match (std::fs::canonicalize(file), std::fs::canonicalize(folder)) {
        (Ok(file), Ok(folder)) => file.parent() == Some(folder.as_path()),
        _ => false,
    }
}

/// Makes the key of a database; of one that was there before, with a word about what is lost.
fn make_key(path: &Path, is_new: bool) -> Result<ServerKey, KeyFileError> {
    let key = key_file::load_or_make(path)?;
    if !is_new {
        log::warn!(
            "there was no key file {}, and a new one was made: tokens that are being renewed right now are renewed \
             anew, and webhooks need another secret",
            path.display()
        );
    }
    Ok(key)
}

fn open_locator(config: &Config) -> Result<Option<Arc<Locator>>, LocationError> {
    if !config.location.enabled {
        return Ok(None);
    }
    let locator = match &config.location.database {
        Some(path) => Locator::open(path)?,
        None => Locator::embedded(),
    };
    Ok(Some(Arc::new(locator)))
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    serving::lengthen_backlog(&listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The socket of the command line.
struct OperatorSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl OperatorSocket {
    /// Makes the socket. It appears under its name with its mode already set: it is bound in a folder that nobody
    /// else can enter, and moved. What stands there is left from a server that died, as the lock is ours.
    ///
    /// A command has another name for its own: who comes by that of the server finds none, and waits, rather than one that is
    /// about to end.
    fn bind(database: &Path, mode: Mode) -> Result<Self, StartError> {
        let (path, other) = match mode {
            Mode::Serve | Mode::Dev => (".sock", ".cli"),
            Mode::OperatorOnly => (".cli", ".sock"),
        };
        let (path, other) = (beside(database, path), beside(database, other));
        // Left too.
        let _ = std::fs::remove_file(other);
        let folder = beside(database, SOCKET_FOLDER);
        let make = || {
            if path.as_os_str().len() > SOCKET_PATH_LEN_MAX {
                let rule =
                    format!("the path is longer than {SOCKET_PATH_LEN_MAX} bytes; use a shorter --database");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, rule));
            }
            // What a server left that was killed just here; like the socket it is ours, as the lock is.
            let _ = std::fs::remove_file(folder.join(SOCKET_NAME));
            let _ = std::fs::remove_dir(&folder);
            DirBuilder::new().mode(0o700).create(&folder)?;
            let bound = bind_in(&folder, &path);
            std::fs::remove_dir_all(&folder)?;
            bound
        };
        let listener = make().map_err(|source| StartError::Socket {
            path: path.clone(),
            source,
        })?;
        Ok(Self { listener, path })
    }
}

fn bind_in(folder: &Path, path: &Path) -> io::Result<UnixListener> {
    let hidden = folder.join(SOCKET_NAME);
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
