//! The command line.
//!
//! Commands that look or change go through the operator socket of the running server; if none runs they take the same
//! lock, serve that socket themselves for the one request, and so do the same thing in the same way. `check` and `backup` read the
//! file beside whoever has it open; `restore` takes the lock, and replaces it. Results go to
//! stdout, words about them to stderr. Exit code 2: the command or the configuration is wrong; 1: it failed; 141: nobody read what it
//! had to print.

mod backup;
mod check;
mod dev;
mod events;
mod operator;
mod output;
mod policy;
mod users;
mod webhooks;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::Clock;
use crate::config::{Config, ConfigError, Flags};
use crate::server::{self, Mode, Server, StartError};
use crate::session::{AppName, NAME_CHARS_MAX};
use crate::tls::Certificate;
use operator::{Missing, Operator, OperatorError};
use output::OutputError;

/// A session server in one binary.
#[derive(Debug, Parser)]
#[command(name = "sessiond", version, about, max_term_width = 100)]
#[command(
    after_help = "Start with `sessiond dev`: it needs no set-up. Documentation: README.md and `/docs`."
)]
pub struct Command {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Args)]
struct Common {
    /// The configuration file; without one the embedded defaults hold
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database file
    #[arg(long, global = true, value_name = "FILE")]
    database: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Try it out: server, dashboard and sample people, on this machine only
    Dev {
        /// Where to listen; a loopback address
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Run the server
    Serve {
        /// Where to listen
        #[arg(long, value_name = "ADDR")]
        listen: Option<SocketAddr>,
    },
    /// Make, list and revoke the API keys of backends
    #[command(subcommand)]
    Keys(Keys),
    /// List and revoke sessions
    #[command(subcommand)]
    Sessions(Sessions),
    /// Show, block, unblock, export and erase users
    #[command(subcommand)]
    Users(Users),
    /// Show what happened, and what happens
    Events(events::Events),
    /// Make webhooks, look after them and send events again
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// Look whether the database is whole; a server may run meanwhile
    Check,
    /// Copy the database into a new file; a server may run meanwhile
    Backup {
        /// The file to make; its folder must be there
        file: PathBuf,
    },
    /// Put a backup in the place of the database, which is kept; no server may run
    ///
    /// Ends every session in it, as nobody knows which were ended since. API keys, webhooks and the
    /// settings of users are as they were in the backup.
    Restore {
        /// The backup; it is not changed
        file: PathBuf,
        /// End no session: those that were ended after the backup was made are accepted again
        #[arg(long)]
        keep_sessions: bool,
    },
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Hold the configuration against a standard
    #[command(subcommand)]
    Policy(policy::Policy),
}

#[derive(Debug, Args)]
struct App {
    /// The app it is about
    #[arg(long, value_name = "APP", default_value = "default", value_parser = parse_app)]
    app: AppName,
}

fn parse_app(text: &str) -> Result<AppName, String> {
    AppName::parse(text).ok_or_else(|| "not the name of an app".to_owned())
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Make an API key; it is printed once, alone on its line, and kept nowhere
    Create {
        /// What to call it
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        app: App,
    },
    /// List all keys, of all apps
    List,
    /// Revoke a key; the very next call with it is refused
    Revoke {
        /// The key's id, from `keys list`
        id: String,
    },
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_good = crate::session::is_clean_text(text, NAME_CHARS_MAX);
    is_good
        .then(|| text.to_owned())
        .ok_or_else(|| format!("must be 1 to {NAME_CHARS_MAX} printable characters"))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Active,
    Ended,
    All,
}

#[derive(Debug, Subcommand)]
enum Sessions {
    /// List the sessions of users, newest first; those of visitors are not among them
    List {
        /// Only this user's
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Which
        #[arg(long, value_enum, default_value = "active")]
        status: Status,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        #[command(flatten)]
        app: App,
    },
    /// Revoke one session, or all of a user's
    Revoke {
        /// The session's id
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        id: Option<String>,
        /// All sessions of this user
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Why, up to 255 characters
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        app: App,
    },
}

#[derive(Debug, Subcommand)]
enum Users {
    /// Show a user's settings, and how many sessions are active
    Show {
        /// The user's id
        user: String,
        #[command(flatten)]
        app: App,
    },
    /// End all sessions of a user and refuse new ones
    Block {
        /// The user's id
        user: String,
        #[command(flatten)]
        app: App,
    },
    /// Let a blocked user sign in again
    Unblock {
        /// The user's id
        user: String,
        #[command(flatten)]
        app: App,
    },
    /// Print all that is kept of a user, as one JSON object
    Export {
        /// The user's id
        user: String,
        #[command(flatten)]
        app: App,
    },
    /// End all sessions of a user and delete all that is kept of them; a block too
    Erase {
        /// The user's id
        user: String,
        #[command(flatten)]
        app: App,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force, or all its mistakes
    Check,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Operator(#[from] OperatorError),
    #[error("{0}")]
    Manager(#[from] crate::error::Error),
    #[error(
        "`sessiond dev` listens on loopback addresses only, not on {0}; to serve others: `sessiond serve`"
    )]
    NotLoopback(SocketAddr),
    #[error("{0}")]
    Check(#[from] check::CheckError),
    #[error("{0}")]
    Backup(#[from] backup::BackupError),
    #[error("the test message was not taken")]
    WebhookTest,
    #[error("{0}")]
    Output(#[from] OutputError),
    #[error("{0}; the key was revoked, as nobody has seen it: make another")]
    KeyNotPrinted(OutputError),
    #[error(
        "{printing}; the key {id} could not be revoked either, do it: `sessiond keys revoke {id}` ({revoking})"
    )]
    KeyNotRevoked {
        printing: OutputError,
        id: String,
        revoking: Box<Failure>,
    },
    #[error(
        "{printing}; nobody was shown the secret with which the webhook {id} signs: `sessiond webhooks rotate {id} --app {app}` \
         gives another{before}"
    )]
    SecretNotPrinted {
        printing: OutputError,
        id: String,
        app: AppName,
        before: &'static str,
    },
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NotLoopback(_) => 2,
            Self::Output(error) if error.is_broken_pipe() => EXIT_BROKEN_PIPE,
            Self::Start(_)
            | Self::Operator(_)
            | Self::Manager(_)
            | Self::Check(_)
            | Self::Backup(_)
            | Self::WebhookTest
            | Self::Output(_)
            | Self::KeyNotPrinted(_)
            | Self::KeyNotRevoked { .. }
            | Self::SecretNotPrinted { .. }
            | Self::Io(_) => 1,
        }
    }
}

/// What a shell says of a program that was ended by SIGPIPE (128 + 13), as `cat` is whose reader has gone.
const EXIT_BROKEN_PIPE: u8 = 141;
/// How long a command waits for what is of no use any more.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

impl Command {
    /// What the log shows unless `RUST_LOG` says: a server tells what it does, a command only what goes wrong.
    pub fn default_log_filter(&self) -> &'static str {
        match self.what {
            // What is wrong with the requests of others is no fault of this server, and nobody should fill its log.
            What::Dev { .. } | What::Serve { .. } => "info,actix_server=warn,actix_http::h1::dispatcher=off",
            _ => "warn",
        }
    }

    /// Carries the command out.
    pub fn run(self) -> ExitCode {
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::from)
            .and_then(|runtime| {
                let result = runtime.block_on(self.carry_out());
                // A name that is being looked up cannot be called off, and may take long. Everything else has ended.
                runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
                result
            });
        match result.and_then(|()| Ok(output::flush()?)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // Who has seen enough needs no explanation.
                if !matches!(&failure, Failure::Output(error) if error.is_broken_pipe()) {
                    output::say(format_args!("sessiond: {failure}"));
                }
                ExitCode::from(failure.exit_code())
            }
        }
    }

    async fn carry_out(self) -> Result<(), Failure> {
        match self.what {
            What::Dev { listen } => dev::run(&self.common, listen).await,
            What::Serve { listen } => {
                let config = self.common.load(listen)?;
                config.check_for_serving()?;
                serve(config).await
            }
            What::Keys(command) => {
                // The first key is made before the first start.
                let missing = match command {
                    Keys::Create { .. } => Missing::Make,
                    Keys::List | Keys::Revoke { .. } => Missing::Refuse,
                };
                let run = async |operator: &Operator| command.run(operator).await;
                self.common.operate(missing, run).await
            }
            What::Sessions(command) => {
                let run = async |operator: &Operator| command.run(operator).await;
                self.common.operate(Missing::Refuse, run).await
            }
            What::Users(command) => {
                let run = async |operator: &Operator| command.run(operator).await;
                self.common.operate(Missing::Refuse, run).await
            }
            What::Events(command) => {
                let run = async |operator: &Operator| command.run(operator).await;
                self.common.operate(Missing::Refuse, run).await
            }
            What::Webhooks(command) => {
                let run = async |operator: &Operator| command.run(operator).await;
                self.common.operate(Missing::Refuse, run).await
            }
            What::Backup { file } => backup::run(&self.common.load(None)?.database.path, &file),
            What::Restore { file, keep_sessions } => {
                let database = self.common.load(None)?.database.path;
                backup::restore(&database, &file, keep_sessions).await
            }
            What::Check => check::run(&self.common.load(None)?.database.path),
            What::Config(ConfigCommand::Check) => {
                let config = self.common.load(None)?;
                output::text(config.to_toml())?;
                if let Err(refused) = config.check_for_serving() {
                    output::say(format_args!(
                        "For `sessiond dev` alone, as `serve` refuses it: {refused}"
                    ));
                }
                Ok(())
            }
            What::Policy(command) => Ok(command.run(&self.common.load(None)?)?),
        }
    }
}

impl Common {
    fn load(&self, listen: Option<SocketAddr>) -> Result<Config, ConfigError> {
        self.load_by(Flags {
            listen,
            database: self.database.clone(),
            allow_private: false,
        })
    }

    /// Runs a command on its way to the database, and closes what was opened for it, however it went.
    async fn operate(
        &self,
        missing: Missing,
        run: impl AsyncFnOnce(&Operator) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let operator = Operator::reach(self.load(None)?, missing).await?;
        let result = run(&operator).await;
        // If both fail, the command's failure is the one to tell.
        result.and(operator.finish().await)
    }

    fn load_by(&self, flags: Flags) -> Result<Config, ConfigError> {
        // A variable that is not UTF-8 cannot be one of ours.
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Config::load(self.config.as_deref(), environment, flags)
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    let database = config.database.path.display().to_string();
    let base_path = config.server.base_path.clone();
    // Before anything is opened: a signal during the start, too, ends the server in order.
    let (stop, hangup) = (stop_signal()?, signal(SignalKind::hangup())?);
    server::raise_file_limit();
    let server = Server::bind(config, Mode::Serve, Arc::new(Clock::system())).await?;
    let address = server.address().expect("a server that serves has an address");
    let certificate = server.certificate().cloned();
    let scheme = if certificate.is_some() { "https" } else { "http" };
    log::info!("serving on {scheme}://{address}{base_path}/ with the database {database}");
    if certificate.is_none() && !address.ip().to_canonical().is_loopback() {
        log::warn!(
            "{address} can be reached from other machines, and HTTP there shows tokens to whoever listens on the way: set \
             [server] tls_certificate and tls_key, or put a proxy with TLS in front and let nobody else reach this port"
        );
    }
    let keys = server.manager().list_keys().await?;
    if !keys.iter().any(|key| key.revoked_at.is_none()) {
        log::warn!(
            "there is no API key yet, so no backend can start sessions; make one: \
             sessiond keys create NAME --database {database}"
        );
    }
    let stop = async {
        tokio::select! {
            () = stop => {}
            never = reload_at(hangup, certificate) => match never {},
        }
    };
    server.run(stop).await?;
    log::info!("stopped; everything that was acknowledged is in the database");
    Ok(())
}

/// Reads the certificate again at each SIGHUP; to be called off. Without TLS the signal is there all the same: it would end
/// the process.
async fn reload_at(mut hangup: Signal, certificate: Option<Arc<Certificate>>) -> Infallible {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let Some(certificate) = certificate.clone() else {
            log::info!(
                "SIGHUP: there is no certificate that could be read again; other changes need a restart"
            );
            continue;
        };
        // On a thread that may wait for a disk.
        let reload = move || match certificate.reload() {
            Ok(()) => log::info!(
                "SIGHUP: new connections get what is in {}",
                certificate.path().display()
            ),
            Err(error) => log::error!("SIGHUP: {error}. The certificate from before stays in use"),
        };
        if tokio::task::spawn_blocking(reload).await.is_err() {
            log::error!("SIGHUP: reading the certificate failed, and the one from before stays in use");
        }
    }
}

/// Done when the process is asked to stop, by SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        log::info!("stopping: no new connections, running requests end");
    })
}

impl Keys {
    async fn run(self, operator: &Operator) -> Result<(), Failure> {
        match self {
            Self::Create { name, app } => create_key(operator, &name, &app.app).await?,
            Self::List => {
                let listed = operator
                    .get(&["v1", "keys"], &AppName::default_app(), &[])
                    .await?;
                let columns = ["id", "app", "name", "created_at", "revoked_at"];
                operator::print_table(&listed["keys"], &columns)?;
            }
            Self::Revoke { id } => {
                let app = AppName::default_app();
                let before = operator.get(&["v1", "keys"], &app, &[]).await?;
                operator.delete(&["v1", "keys", &id], &app, &[]).await?;
                let mut keys = before["keys"].as_array().into_iter().flatten();
                match keys.find(|key| operator::text(key, "id").eq_ignore_ascii_case(&id)) {
                    Some(key) if !key["revoked_at"].is_null() => {
                        output::say(format_args!(
                            "It was revoked already, at {}.",
                            operator::text(key, "revoked_at")
                        ));
                    }
                    _ => output::say("Revoked."),
                }
            }
        }
        Ok(())
    }
}

async fn create_key(operator: &Operator, name: &str, app: &AppName) -> Result<(), Failure> {
    let body = serde_json::json!({ "name": name });
    let created = operator.post(&["v1", "keys"], app, &body).await?;
    let id = operator::text(&created, "id");
    if let Err(printing) = output::secret(operator::text(&created, "key")) {
        // Nobody has it, or somebody has a part of it.
        return Err(match operator.delete(&["v1", "keys", &id], app, &[]).await {
            Ok(_) => Failure::KeyNotPrinted(printing),
            Err(failure) => Failure::KeyNotRevoked {
                printing,
                id,
                revoking: Box::new(failure),
            },
        });
    }
    output::say(format_args!(
        "This key acts in the app {app}. It is shown only now; its id is {id}."
    ));
    Ok(())
}

impl Sessions {
    async fn run(self, operator: &Operator) -> Result<(), Failure> {
        match self {
            Self::List {
                user,
                status,
                limit,
                app,
            } => {
                let status = match status {
                    Status::Active => "active",
                    Status::Ended => "ended",
                    Status::All => "all",
                };
                let limit = limit.to_string();
                let mut query = vec![("status", status), ("limit", limit.as_str())];
                query.extend(user.as_deref().map(|user| ("user_id", user)));
                let listed = operator.get(&["v1", "sessions"], &app.app, &query).await?;
                let columns = [
                    "id",
                    "user_id",
                    "status",
                    "device_info",
                    "location",
                    "ip_address",
                    "last_activity_at",
                ];
                operator::print_table(&listed["sessions"], &columns)?;
                if !listed["next_cursor"].is_null() {
                    output::say("There are more; --limit goes up to 200.");
                }
            }
            Self::Revoke {
                id,
                user,
                reason,
                app,
            } => {
                let query: Vec<(&str, &str)> = reason
                    .as_deref()
                    .map(|reason| ("reason", reason))
                    .into_iter()
                    .collect();
                if let Some(user) = user {
                    let path = &["v1", "users", &user, "sessions"];
                    let revoked = operator.delete(path, &app.app, &query).await?;
                    output::say(format_args!("Revoked {} session(s).", revoked["revoked_count"]));
                } else {
                    let path = &["v1", "sessions", &id.unwrap_or_default()];
                    let before = operator.get(path, &app.app, &[]).await?;
                    operator.delete(path, &app.app, &query).await?;
                    match before["ended_at"] {
                        Value::Null => output::say("Revoked."),
                        _ => output::say(format_args!(
                            "It had ended already, at {}: {}.",
                            operator::text(&before, "ended_at"),
                            operator::text(&before, "revoked_reason")
                        )),
                    }
                }
            }
        }
        Ok(())
    }
}

impl Users {
    async fn run(self, operator: &Operator) -> Result<(), Failure> {
        match self {
            Self::Show { user, app } => {
                let path = &["v1", "users", &user];
                let shown = operator.get(path, &app.app, &[]).await?;
                operator::print_record(&shown)?;
            }
            Self::Block { user, app } => set_blocked(operator, &user, &app, true).await?,
            Self::Unblock { user, app } => set_blocked(operator, &user, &app, false).await?,
            Self::Export { user, app } => users::export(operator, &user, &app.app).await?,
            Self::Erase { user, app } => users::erase(operator, &user, &app.app).await?,
        }
        Ok(())
    }
}

async fn set_blocked(operator: &Operator, user: &str, app: &App, is_blocked: bool) -> Result<(), Failure> {
    let path = &["v1", "users", user];
    let body = serde_json::json!({ "is_blocked": is_blocked });
    let shown = operator.patch(path, &app.app, &body).await?;
    operator::print_record(&shown)?;
    Ok(())
}
