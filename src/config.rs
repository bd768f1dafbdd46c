//! The configuration: embedded defaults, below a file, below the environment, below flags. All mistakes are told at
//! once, each with where it is.
//!
//! The defaults *are* the repository's annotated `config.toml`, compiled in: what it says and what happens cannot
//! differ. A key that is not read here does not exist, and giving
//! it is a mistake; so a key appears in that file when it acts, not before.
//!
//! An app's section takes what it leaves out from the built-in defaults, never from another section of the file: what
//! is in force for an app is written in its section or in the annotated file.
//!
//! `read` names the keys and their rules; `layers`, `section` and `value` hold what was written, `unknown` finds what is
//! no key; `texts` reads single values, `print` writes the configuration in force.

mod layers;
mod mistake;
mod print;
mod read;
mod section;
mod texts;
mod unknown;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use self::layers::{Layers, key_path};
use self::mistake::shown_key;
pub use self::mistake::{ConfigError, Mistake, Source};
use crate::address::IpPrivacy;
use crate::event::EventKind;
use crate::session::{AppName, OnLimit, OnTokenReuse, Timeouts};
use crate::user::Tiers;
use crate::webhook::{Reach, SigningSecret, WebhookUrl};

/// The lowest layer.
const DEFAULTS: &str = include_str!("../config.toml");

/// Everything that can be configured. The defaults and what changing them costs: `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How HTTP is served.
    pub server: ServerConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Backups by a schedule.
    pub backup: BackupConfig,
    /// The sessions kept in memory.
    pub cache: CacheConfig,
    /// What concerns the sessions of all apps.
    pub sessions: SessionsConfig,
    /// How many active sessions users may have; with `sessions.default_tier`.
    pub tiers: Tiers,
    /// Places of addresses.
    pub location: LocationConfig,
    /// Operations.
    pub ops: OpsConfig,
    /// How often strangers and backends may ask.
    pub rate_limits: RateLimitsConfig,
    /// The apps; `default` is always among them.
    pub apps: BTreeMap<AppName, AppConfig>,
    /// Where events are sent.
    pub webhooks: WebhooksConfig,
}

/// `[server]`: how HTTP is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// The address and port to listen on (127.0.0.1:7377); port 0 takes a free one.
    pub listen: SocketAddr,
    /// What every route begins with: empty (the default), or `/x/y` without a slash at the end.
    pub base_path: String,
    /// The origins that browsers see (none), `https://host[:port]`, in lower case and without the scheme's own port.
    pub public_origins: Vec<String>,
    /// The peers whose forwarding headers are believed (none).
    pub trusted_proxies: Vec<IpNet>,
    /// Threads that serve HTTP; 0 (the default) is one per core.
    pub workers: usize,
    /// How long a stopping server waits for running requests, in seconds (10).
    pub shutdown_grace_secs: u64,
    /// The file with the server's own key (none); without one it is beside the database, with `.key` added to its name.
    pub key_file: Option<PathBuf>,
    /// What HTTPS is served with (nothing); without it HTTP is.
    pub tls: Option<TlsConfig>,
}

/// `[server] tls_certificate` and `tls_key`: PEM files, which may be one and the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, followed by those of the authorities between it and one that clients know.
    pub certificate: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
}

/// `[database]`: the SQLite file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// The file (`sessiond.db`); a relative path begins at the working directory.
    pub path: PathBuf,
    /// Read-only connections (4).
    pub read_pool: u32,
    /// Changes that may wait for the writer (4096); beyond that they are refused.
    pub queue_len_max: usize,
}

/// `[backup]`: backups by a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// The folder they are made in (none, which makes none).
    pub folder: Option<PathBuf>,
    /// From one to the next, in seconds (1 day).
    pub every_secs: u64,
    /// How many are kept (7).
    pub keep: usize,
}

/// `[cache]`: the sessions kept in memory. Whichever bound is met first counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Most sessions (100,000).
    pub capacity: usize,
    /// Most memory for them, in bytes (256 MiB).
    pub bytes_max: usize,
}

/// `[sessions]`: what concerns the sessions of all apps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsConfig {
    /// How soon after a recorded use another one is not recorded, in seconds (60); 0 records all. For a session it is
    /// never more than a tenth of its idle timeout.
    pub touch_interval_secs: u64,
    /// How often recorded uses are written, in milliseconds (1000).
    pub flush_interval_ms: u64,
    /// How long ended sessions and events are kept, in seconds (30 days).
    pub retention_secs: u64,
    /// How much of people's addresses is kept (`full`).
    pub ip_privacy: IpPrivacy,
}

/// `[location]`: places of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationConfig {
    /// Whether addresses are turned into places (yes).
    pub enabled: bool,
    /// A MaxMind DB file instead of the embedded one (none).
    pub database: Option<PathBuf>,
}

/// `[ops]`: operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsConfig {
    /// Who may read metrics besides this machine (none).
    pub allow: Vec<IpNet>,
}

/// `[rate_limits]`: how often strangers and backends may ask; 0 is as often as they like. Addresses are IPv4 ones and
/// IPv6 /64s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitsConfig {
    /// Calls a second with one API key (0).
    pub per_key_per_second: u32,
    /// Requests a minute from one address without a credential (6,000).
    pub unauthenticated_per_minute: u32,
    /// Wrong tokens and API keys a minute from one address (1,000).
    pub wrong_credentials_per_minute: u32,
}

/// `[apps.NAME]`: the policy of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppConfig {
    /// The hosts whose requests belong to this app (none): lower case, without port, an IPv6 address in brackets. No
    /// other app has the same one.
    pub hosts: Vec<String>,
    /// Where a person signs in (none): an http or https URL, or a path that begins with a single slash.
    pub sign_in_url: Option<String>,
    /// The assurance level that its timeouts keep to (none). They hold it already: this is only what was asked for.
    pub preset: Option<Preset>,
    /// Longest pause between uses, in seconds (7 days).
    pub idle_timeout_secs: u64,
    /// Longest life since the last sign-in, in seconds (30 days).
    pub absolute_timeout_secs: u64,
    /// The same pause for sign-ins that ask to be remembered, in seconds (30 days).
    pub remember_idle_timeout_secs: u64,
    /// The same life for sign-ins that ask to be remembered, in seconds (90 days).
    pub remember_absolute_timeout_secs: u64,
    /// What a sign-in does at the user's limit (`evict`).
    pub on_limit: OnLimit,
    /// How fresh a sign-in must be to end another session of the person, in seconds; off by default.
    pub reauthenticate_within_secs: Option<u64>,
    /// How long before a deadline of a session that is told, in seconds; off by default.
    pub expiring_notice_secs: Option<u64>,
    /// How long a replaced token is still good once its successor has been used, in seconds (30).
    pub renew_grace_secs: u64,
    /// What a renewal does whose token was replaced longer ago than that (`revoke`).
    pub on_token_reuse: OnTokenReuse,
    /// Whether visitors may start sessions of nobody by themselves (no).
    pub anonymous: bool,
    /// How many of those may be started in an hour from one IPv4 address or IPv6 /64 (60).
    pub anonymous_per_hour: u32,
    /// How many may be started in an hour from all of them together (3,600).
    pub anonymous_per_hour_total: u32,
    /// Longest pause between uses of a session that a visitor started, in seconds (1 day). The default may be longer
    /// than [`Self::absolute_timeout_secs`], which then ends the session.
    pub anonymous_idle_timeout_secs: u64,
    /// Active sessions of nobody with which visitors can start no more (100,000).
    pub anonymous_max: u32,
    /// Most active sessions with an id that the client chose (100,000).
    pub client_sessions_max: u32,
    /// The cookie.
    pub cookie: CookieConfig,
}

/// An authenticator assurance level: how long a session may live before its user signs in again, by NIST SP 800-63B-4,
/// sections 2.1.3, 2.2.3 and 2.3.3 (<https://pages.nist.gov/800-63-4/sp800-63b.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// 30 days, however long the pauses.
    Aal1,
    /// 24 hours, and an hour between two uses.
    Aal2,
    /// 12 hours, and 15 minutes between two uses.
    Aal3,
}

impl Preset {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Aal1, Self::Aal2, Self::Aal3];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aal1 => "aal1",
            Self::Aal2 => "aal2",
            Self::Aal3 => "aal3",
        }
    }

    /// Longest pause between uses, in seconds. A level that bounds none has that of the whole life.
    pub fn idle_timeout_secs(self) -> u64 {
        match self {
            Self::Aal1 => self.absolute_timeout_secs(),
            Self::Aal2 => 60 * 60,
            Self::Aal3 => 15 * 60,
        }
    }

    /// Longest life since the last sign-in, in seconds.
    pub fn absolute_timeout_secs(self) -> u64 {
        match self {
            Self::Aal1 => 30 * 24 * 60 * 60,
            Self::Aal2 => 24 * 60 * 60,
            Self::Aal3 => 12 * 60 * 60,
        }
    }
}

/// `[apps.NAME.cookie]`: the cookie of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieConfig {
    /// What kind of cookie it is (`host`).
    pub profile: CookieProfile,
    /// What is added to its name: empty (the default), or up to 32 of `A-Za-z0-9_-`.
    pub name_suffix: String,
    /// The domain of a shared one, in lower case; always there with [`CookieProfile::Shared`], and only there.
    pub domain: Option<String>,
}

/// What kind of cookie an app has. Configured, never concluded from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CookieProfile {
    /// `host`: one host, over HTTPS.
    Host,
    /// `shared`: a domain and everything below it, over HTTPS.
    Shared,
    /// `loopback`: without HTTPS, for a developer's own machine.
    Loopback,
}

impl CookieProfile {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Shared => "shared",
            Self::Loopback => "loopback",
        }
    }
}

/// `[webhooks]`: where events are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhooksConfig {
    /// Whether they may lead to addresses that are not public (no).
    pub allow_private: bool,
    /// Those that the configuration makes, by name (none).
    pub named: BTreeMap<String, WebhookConfig>,
}

/// `[webhooks.NAME]`: one webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The app whose events it gets (`default`).
    pub app: AppName,
    /// Where it leads.
    pub url: WebhookUrl,
    /// Which events it gets; empty (the default) is all.
    pub types: Vec<EventKind>,
    /// What it signs with.
    pub secret: SigningSecret,
}

impl WebhooksConfig {
    /// Where webhooks may lead.
    pub fn reach(&self) -> Reach {
        if self.allow_private {
            Reach::Everything
        } else {
            Reach::Public
        }
    }
}

impl AppConfig {
    /// How long a session may live.
    pub fn timeouts(&self) -> Timeouts {
        timeouts(self.idle_timeout_secs, self.absolute_timeout_secs)
    }

    /// How long the session of someone who asked to be remembered may live.
    pub fn remember_timeouts(&self) -> Timeouts {
        timeouts(
            self.remember_idle_timeout_secs,
            self.remember_absolute_timeout_secs,
        )
    }
}

fn timeouts(idle_secs: u64, absolute_secs: u64) -> Timeouts {
    let millis = |secs: u64| i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    Timeouts {
        idle_millis: millis(idle_secs),
        absolute_millis: millis(absolute_secs),
    }
}

/// What the command line can say; it beats all else.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`: [`ServerConfig::listen`].
    pub listen: Option<SocketAddr>,
    /// `--database`: [`DatabaseConfig::path`].
    pub database: Option<PathBuf>,
    /// What `dev` says: [`WebhooksConfig::allow_private`].
    pub allow_private: bool,
}

impl Config {
    /// The configuration that these layers make.
    ///
    /// `environment` is every variable of the process; those that do not begin with `SESSIOND_` are passed over, and so
    /// are those that do but contain no `__`, since they name no key, unless one was clearly meant.
    ///
    /// # Errors
    /// Everything that is wrong in any layer, also where a higher layer would have decided otherwise.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: Flags,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::new(DEFAULTS);
        if let Some(file) = file {
            layers.add_file(file);
        }
        layers.add_environment(environment);
        if let Some(listen) = flags.listen {
            layers.add_flag("--listen", &["server", "listen"], Some(&listen.to_string()));
        }
        if let Some(database) = flags.database {
            layers.add_flag("--database", &["database", "path"], database.to_str());
        }
        if flags.allow_private {
            layers.add_switch("dev", &["webhooks", "allow_private"]);
        }
        let config = Self::read(&mut layers);
        let mistakes = layers.finish();
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { mistakes })
        }
    }

    /// Whether a server may run with it: what only a developer's machine may do is refused.
    ///
    /// # Errors
    /// The apps whose cookie is a [`CookieProfile::Loopback`] one.
    pub fn check_for_serving(&self) -> Result<(), ConfigError> {
        let rule = "must be \"host\" or \"shared\" to serve; the cookie of \"loopback\" travels without HTTPS and is for \
                    `sessiond dev`";
        let is_loopback = |app: &AppConfig| app.cookie.profile == CookieProfile::Loopback;
        let names = self
            .apps
            .iter()
            .filter(|(_, app)| is_loopback(app))
            .map(|(name, _)| name.as_str());
        let mistakes: Vec<Mistake> = names
            .map(|name| Mistake {
                source: Source::Whole,
                key: shown_key(&key_path(&["apps", name, "cookie", "profile"])),
                message: rule.to_owned(),
            })
            .collect();
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(ConfigError { mistakes })
        }
    }

    /// The app of this name, if it is configured.
    pub fn app(&self, name: &AppName) -> Option<&AppConfig> {
        self.apps.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_exists_is_in_the_annotated_file_and_no_other() {
        let on: Vec<&str> = DEFAULTS
            .lines()
            .map(|line| line.strip_prefix('#').unwrap_or(line))
            .collect();
        let text: Vec<&str> = on.into_iter().filter(|line| !line.starts_with(' ')).collect();
        let mut layers = Layers::new(&text.join("\n"));
        Config::read(&mut layers);
        let written: Vec<_> = layers.entries.keys().cloned().collect();
        let known: Vec<_> = layers.known.iter().cloned().collect();
        assert_eq!(written, known);
    }
}
