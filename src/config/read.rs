//! Which keys there are, what each may be, and which of them contradict each other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::CookieProfile::{Host, Loopback, Shared};
use super::layers::{KeyPath, Layers, key_path};
use super::section::Section;
use super::{
    AppConfig, BackupConfig, CacheConfig, Config, CookieConfig, DatabaseConfig, LocationConfig, OpsConfig,
    Preset, RateLimitsConfig, ServerConfig, SessionsConfig, TlsConfig, WebhookConfig, WebhooksConfig, texts,
};
use crate::address::IpPrivacy;
use crate::event::EventKind;
use crate::session::{AppName, OnLimit, OnTokenReuse};
use crate::user::{SESSIONS_PER_USER_MAX, Tiers};
use crate::webhook::{Reach, SigningSecret, WebhookUrl, is_webhook_name};

const DAY_SECS: i64 = 24 * 60 * 60;
/// Browsers keep no cookie for longer than 400 days (RFC 6265bis), so no session can live longer.
const TIMEOUT_SECS: RangeInclusive<i64> = 1..=400 * DAY_SECS;
/// A tenth of the longest idle timeout, since no session waits longer.
const TOUCH_INTERVAL_SECS: RangeInclusive<i64> = 0..=40 * DAY_SECS;
/// Below 10 ms there would be a transaction for nearly every use; a minute of uses is the most a crash may forget.
const FLUSH_INTERVAL_MS: RangeInclusive<i64> = 10..=60_000;
/// Ten years, as long as any rule demands that sign-ins are kept.
const RETENTION_SECS: RangeInclusive<i64> = 0..=3_650 * DAY_SECS;
/// The time over which `anonymous_per_hour` counts.
const RETENTION_WITH_VISITORS_SECS: u64 = 60 * 60;
/// More threads than the largest machines have cores would only switch.
const WORKERS: RangeInclusive<i64> = 0..=256;
/// Ten minutes, the longest that service managers and orchestrators are usually told to wait.
const SHUTDOWN_GRACE_SECS: RangeInclusive<i64> = 0..=600;
/// Each connection has a cache of pages and three file descriptors; 64 readers saturate any disk.
const READ_POOL: RangeInclusive<i64> = 1..=64;
/// A million waiting changes are some gigabytes, and minutes of waiting.
const QUEUE_LEN: RangeInclusive<i64> = 1..=1_000_000;
/// More often than every minute is replication; more than a month apart, few would bet on.
const BACKUP_EVERY_SECS: RangeInclusive<i64> = 60..=31 * DAY_SECS;
/// A thousand are two years of daily ones, and a folder that can still be looked at.
const BACKUPS_KEPT: RangeInclusive<i64> = 1..=1_000;
/// Fifty million sessions at about 1 KB fill the memory of a large machine.
const CACHE_CAPACITY: RangeInclusive<i64> = 1..=50_000_000;
/// From 1 MiB, below which a cache holds next to nothing, to 1 TiB, more than one machine has.
const CACHE_BYTES: RangeInclusive<i64> = 1024 * 1024..=1024 * 1024 * 1024 * 1024;
/// An hour is as long as an answer can sensibly be under way; all the while a stolen token is as good as its successor.
const RENEW_GRACE_SECS: RangeInclusive<i64> = 0..=3_600;
/// Ten thousand an hour is more than any one address has visitors; it is no limit any more.
const ANONYMOUS_PER_HOUR: RangeInclusive<i64> = 1..=10_000;
/// A million an hour is what a large site has; its rows of a month fill a disk. The writer keeps so many times in memory.
const ANONYMOUS_PER_HOUR_TOTAL: RangeInclusive<i64> = 1..=1_000_000;
/// A million a second, or a minute, is more than one server answers; it is no limit any more.
const RATE_LIMIT: RangeInclusive<i64> = 0..=1_000_000;
/// Ten million sessions that nobody signed in for are some gigabytes of database.
const UNSIGNED_SESSIONS: RangeInclusive<i64> = 1..=10_000_000;
/// What a user can have at all.
const TIER_LIMIT: RangeInclusive<i64> = 0..=SESSIONS_PER_USER_MAX as i64;
/// The key beside the names of webhooks.
const ALLOW_PRIVATE: &str = "allow_private";
/// What stands for the most sessions that a user can have.
pub(super) const UNLIMITED: &str = "unlimited";

impl Config {
    /// Reads every key there is.
    pub(super) fn read(layers: &mut Layers) -> Self {
        let mut section = layers.section(&["server"]);
        let server = ServerConfig {
            listen: section.text("listen", texts::LISTEN_RULE, texts::listen),
            base_path: section.text("base_path", texts::BASE_PATH_RULE, texts::base_path),
            public_origins: section.list("public_origins", texts::ORIGIN_RULE, texts::origin),
            trusted_proxies: section.list("trusted_proxies", texts::NETWORK_RULE, texts::network),
            workers: section.number("workers", WORKERS),
            shutdown_grace_secs: section.number("shutdown_grace_secs", SHUTDOWN_GRACE_SECS),
            key_file: section.optional_text("key_file", texts::PATH_RULE, texts::path),
            tls: read_tls(&mut section),
        };
        let mut section = layers.section(&["database"]);
        let database = DatabaseConfig {
            path: section.text("path", texts::PATH_RULE, texts::path),
            read_pool: section.number("read_pool", READ_POOL),
            queue_len_max: section.number("queue_len_max", QUEUE_LEN),
        };
        let mut section = layers.section(&["backup"]);
        let backup = BackupConfig {
            folder: section.optional_text("folder", texts::PATH_RULE, texts::path),
            every_secs: section.number("every_secs", BACKUP_EVERY_SECS),
            keep: section.number("keep", BACKUPS_KEPT),
        };
        let mut section = layers.section(&["cache"]);
        let cache = CacheConfig {
            capacity: section.number("capacity", CACHE_CAPACITY),
            bytes_max: section.number("bytes_max", CACHE_BYTES),
        };
        let mut section = layers.section(&["sessions"]);
        let sessions = SessionsConfig {
            touch_interval_secs: section.number("touch_interval_secs", TOUCH_INTERVAL_SECS),
            flush_interval_ms: section.number("flush_interval_ms", FLUSH_INTERVAL_MS),
            retention_secs: section.number("retention_secs", RETENTION_SECS),
            ip_privacy: section.text(
                "ip_privacy",
                "must be \"full\", \"truncate\" or \"none\"",
                IpPrivacy::parse,
            ),
        };
        let tiers = read_tiers(layers);
        let mut section = layers.section(&["location"]);
        let location = LocationConfig {
            enabled: section.boolean("enabled"),
            database: section.optional_text("database", texts::PATH_RULE, texts::path),
        };
        let mut section = layers.section(&["ops"]);
        let ops = OpsConfig {
            allow: section.list("allow", texts::NETWORK_RULE, texts::network),
        };
        let mut section = layers.section(&["rate_limits"]);
        let rate_limits = RateLimitsConfig {
            per_key_per_second: section.number("per_key_per_second", RATE_LIMIT),
            unauthenticated_per_minute: section.number("unauthenticated_per_minute", RATE_LIMIT),
            wrong_credentials_per_minute: section.number("wrong_credentials_per_minute", RATE_LIMIT),
        };
        let apps = read_apps(layers);
        let webhooks = read_webhooks(layers, &apps);
        check_key_file(layers, &server, &database);
        check_retention(layers, sessions.retention_secs, &apps);
        check_touch_interval(layers, sessions.touch_interval_secs, &apps);
        check_hosts(layers, &apps);
        check_cookies(layers, &apps);
        Self {
            server,
            database,
            backup,
            cache,
            sessions,
            tiers,
            location,
            ops,
            rate_limits,
            apps,
            webhooks,
        }
    }
}

/// One without the other is a mistake: whoever gave it means to serve HTTPS.
fn read_tls(section: &mut Section<'_>) -> Option<TlsConfig> {
    const KEYS: [&str; 2] = ["tls_certificate", "tls_key"];
    let (given, missing) = match KEYS.map(|key| section.optional_text(key, texts::PATH_RULE, texts::path)) {
        [Some(certificate), Some(key)] => return Some(TlsConfig { certificate, key }),
        [None, None] => return None,
        [Some(_), None] => (KEYS[0], KEYS[1]),
        [None, Some(_)] => (KEYS[1], KEYS[0]),
    };
    let (path, other) = (section.path(given), section.path(missing));
    let message = format!("must be given together with {missing}");
    section.layers.contradiction(&path, &[&other], message);
    None
}

fn read_tiers(layers: &mut Layers) -> Tiers {
    let names = layers.names_in("tiers");
    let mut limits = BTreeMap::new();
    for (name, source) in &names {
        if !texts::is_tier_name(name) {
            layers.refuse_name(&["tiers", name], source, texts::TIER_NAME_RULE);
            continue;
        }
        let limit = layers
            .section(&["tiers"])
            .number_or_word(name, TIER_LIMIT, UNLIMITED);
        limits.insert(name.clone(), limit.unwrap_or_default());
    }
    let among: Vec<&str> = limits.keys().map(String::as_str).collect();
    let rule = format!("must be a tier ({})", among.join(", "));
    let mut section = layers.section(&["sessions"]);
    let default_tier = section.text("default_tier", &rule, |tier| {
        limits.contains_key(tier).then(|| tier.to_owned())
    });
    Tiers::new(default_tier, limits).expect("the default tier was looked up among them")
}

fn read_apps(layers: &mut Layers) -> BTreeMap<AppName, AppConfig> {
    let mut apps = BTreeMap::new();
    for (name, source) in &layers.names_in("apps") {
        match AppName::parse(name) {
            Some(app) => {
                let config = read_app(layers, name);
                apps.insert(app, config);
            }
            None => {
                let rule = "the name of an app must be 1 to 63 lower-case letters, digits, \"-\" and \"_\", beginning \
                            with a letter or digit";
                layers.refuse_name(&["apps", name], source, rule);
            }
        }
    }
    apps
}

fn read_app(layers: &mut Layers, name: &str) -> AppConfig {
    let mut section = layers.section_like(&["apps", name, "cookie"], &["apps", "default", "cookie"]);
    let cookie = CookieConfig {
        profile: section.text(
            "profile",
            "must be \"host\", \"shared\" or \"loopback\"",
            |text| {
                [Host, Shared, Loopback]
                    .into_iter()
                    .find(|profile| profile.as_str() == text)
            },
        ),
        name_suffix: section.text("name_suffix", texts::SUFFIX_RULE, texts::name_suffix),
        domain: section.optional_text("domain", texts::DOMAIN_RULE, texts::domain),
    };
    let mut section = layers.section_like(&["apps", name], &["apps", "default"]);
    let mut app = AppConfig {
        hosts: section.list("hosts", texts::HOST_RULE, texts::host),
        sign_in_url: section.optional_text("sign_in_url", texts::URL_RULE, texts::url),
        preset: section.optional_text("preset", "must be \"aal1\", \"aal2\" or \"aal3\"", |text| {
            Preset::ALL.into_iter().find(|preset| preset.as_str() == text)
        }),
        idle_timeout_secs: section.number("idle_timeout_secs", TIMEOUT_SECS),
        absolute_timeout_secs: section.number("absolute_timeout_secs", TIMEOUT_SECS),
        remember_idle_timeout_secs: section.number("remember_idle_timeout_secs", TIMEOUT_SECS),
        remember_absolute_timeout_secs: section.number("remember_absolute_timeout_secs", TIMEOUT_SECS),
        on_limit: section.text("on_limit", "must be \"evict\" or \"deny\"", OnLimit::parse),
        reauthenticate_within_secs: section.optional_number("reauthenticate_within_secs", TIMEOUT_SECS),
        expiring_notice_secs: section.optional_number("expiring_notice_secs", TIMEOUT_SECS),
        renew_grace_secs: section.number("renew_grace_secs", RENEW_GRACE_SECS),
        on_token_reuse: section.text(
            "on_token_reuse",
            "must be \"revoke\" or \"notify\"",
            OnTokenReuse::parse,
        ),
        anonymous: section.boolean("anonymous"),
        anonymous_per_hour: section.number("anonymous_per_hour", ANONYMOUS_PER_HOUR),
        anonymous_per_hour_total: section.number("anonymous_per_hour_total", ANONYMOUS_PER_HOUR_TOTAL),
        anonymous_idle_timeout_secs: section.number("anonymous_idle_timeout_secs", TIMEOUT_SECS),
        anonymous_max: section.number("anonymous_max", UNSIGNED_SESSIONS),
        client_sessions_max: section.number("client_sessions_max", UNSIGNED_SESSIONS),
        cookie,
    };
    let anonymous_default = section.default_number("anonymous_idle_timeout_secs");
    apply_preset(layers, name, &mut app);
    for (prefix, timeouts) in [("", app.timeouts()), ("remember_", app.remember_timeouts())] {
        let key = |which| format!("{prefix}{which}_timeout_secs");
        let (idle, absolute) = (timeouts.idle_millis / 1000, timeouts.absolute_millis / 1000);
        if idle > absolute {
            let message = format!("must be at most {} ({absolute}), not {idle}", key("absolute"));
            let path = |which| app_key(name, &[&key(which)]);
            layers.contradiction(&path("idle"), &[&path("absolute")], message);
        }
    }
    check_anonymous_timeout(layers, name, &app, anonymous_default);
    // What is kept, and printed, is what is in force.
    let pause = app.anonymous_idle_timeout_secs;
    app.anonymous_idle_timeout_secs = pause.min(app.idle_timeout_secs).min(app.absolute_timeout_secs);
    app
}

/// A preset gives the timeouts that the app's section leaves out, also those of sign-ins that ask to be remembered: being
/// remembered is no reason to be trusted for longer than the level allows. What the section gives may only be shorter.
fn apply_preset(layers: &mut Layers, name: &str, app: &mut AppConfig) {
    let Some(preset) = app.preset else { return };
    let pairs = [
        ("", &mut app.absolute_timeout_secs, &mut app.idle_timeout_secs),
        (
            "remember_",
            &mut app.remember_absolute_timeout_secs,
            &mut app.remember_idle_timeout_secs,
        ),
    ];
    for (prefix, absolute, idle) in pairs {
        let mut apply = |which: &str, value: &mut u64, most: u64, unless_given: u64| {
            let key = format!("{prefix}{which}_timeout_secs");
            if !layers.section(&["apps", name]).is_given(&key) {
                *value = unless_given;
            } else if *value > most {
                let level = preset.as_str();
                let message = format!("must be at most {most}, as preset {level:?} allows, not {value}");
                layers.contradiction(&app_key(name, &[&key]), &[&app_key(name, &["preset"])], message);
                *value = most; // told; nothing else follows from it
            }
        };
        let (longest, pause) = (preset.absolute_timeout_secs(), preset.idle_timeout_secs());
        apply("absolute", absolute, longest, longest);
        // A life that was shortened cuts the pause that nobody gave.
        apply("idle", idle, pause, pause.min(*absolute));
    }
}

/// An app with a short absolute timeout need not know of the built-in pause of visitors, which that timeout cuts; one of
/// the person's own would never act. By its value, not by who gave it: a printed configuration gives every key.
fn check_anonymous_timeout(layers: &mut Layers, name: &str, app: &AppConfig, default: Option<i64>) {
    let (idle, absolute) = (app.anonymous_idle_timeout_secs, app.absolute_timeout_secs);
    if idle > absolute && default != i64::try_from(idle).ok() {
        let message = format!("must be at most absolute_timeout_secs ({absolute}), not {idle}");
        let path = |key| app_key(name, &[key]);
        layers.contradiction(
            &path("anonymous_idle_timeout_secs"),
            &[&path("absolute_timeout_secs")],
            message,
        );
    }
}

/// A webhook is left out of which something is wrong or missing, as its mistakes are told.
fn read_webhooks(layers: &mut Layers, apps: &BTreeMap<AppName, AppConfig>) -> WebhooksConfig {
    let mut config = WebhooksConfig {
        allow_private: layers.section(&["webhooks"]).boolean(ALLOW_PRIVATE),
        named: BTreeMap::new(),
    };
    let reach = config.reach();
    let mut names = layers.names_in("webhooks");
    names.remove(ALLOW_PRIVATE);
    for (name, source) in &names {
        if is_webhook_name(name) {
            let webhook = read_webhook(layers, name, reach, apps);
            config
                .named
                .extend(webhook.map(|webhook| (name.clone(), webhook)));
        } else {
            layers.refuse_name(&["webhooks", name], source, texts::WEBHOOK_NAME_RULE);
        }
    }
    config
}

fn read_webhook(
    layers: &mut Layers,
    name: &str,
    reach: Reach,
    apps: &BTreeMap<AppName, AppConfig>,
) -> Option<WebhookConfig> {
    let mut section = layers.section(&["webhooks", name]);
    let app = section.optional_text(
        "app",
        "must be an app that has a section, or \"default\"",
        |text| AppName::parse(text).filter(|app| apps.contains_key(app)),
    );
    // A URL may contain what only its receiver should know, so that it is not repeated.
    let rule_of = |text: &str| WebhookUrl::parse(text, reach).err();
    let url = section.private_text("url", rule_of, |text| WebhookUrl::parse(text, reach).ok());
    let types = section.list("types", texts::EVENT_RULE, EventKind::parse);
    let secret = section.private_text(
        "secret",
        |text| {
            SigningSecret::parse(text)
                .is_none()
                .then_some(SigningSecret::RULE)
        },
        SigningSecret::parse,
    );
    Some(WebhookConfig {
        app: app.unwrap_or_else(AppName::default_app),
        url: url?,
        types,
        secret: secret?,
    })
}

fn app_key(app: &str, keys: &[&str]) -> KeyPath {
    key_path(&[&["apps", app], keys].concat())
}

/// Whichever were made first would be no good as the other.
fn check_key_file(layers: &mut Layers, server: &ServerConfig, database: &DatabaseConfig) {
    if server.key_file.as_ref() == Some(&database.path) {
        let file = database.path.display().to_string();
        let message = format!("must be another file than [database] path, not {file:?}");
        let (key_file, path) = (key_path(&["server", "key_file"]), key_path(&["database", "path"]));
        layers.contradiction(&key_file, &[&path], message);
    }
}

/// The built-in interval is shortened for sessions with a short idle timeout; one of the person's own that contradicts
/// a timeout would be shortened without their knowing, so it is refused.
fn check_touch_interval(layers: &mut Layers, interval_secs: u64, apps: &BTreeMap<AppName, AppConfig>) {
    let section = layers.section(&["sessions"]);
    let path = section.path("touch_interval_secs");
    if section.default_number("touch_interval_secs") == i64::try_from(interval_secs).ok() {
        return;
    }
    let idles = apps.iter().flat_map(|(name, app)| {
        let signed_in = [
            (name, "idle_timeout_secs", app.idle_timeout_secs),
            (name, "remember_idle_timeout_secs", app.remember_idle_timeout_secs),
        ];
        let visiting = (
            name,
            "anonymous_idle_timeout_secs",
            app.anonymous_idle_timeout_secs,
        );
        signed_in.into_iter().chain(app.anonymous.then_some(visiting))
    });
    if let Some((name, key, idle)) = idles
        .min_by_key(|(.., idle)| *idle)
        .filter(|(.., idle)| interval_secs > idle / 10)
    {
        let message = format!("must be at most a tenth of [apps.{name}] {key} ({idle}), not {interval_secs}");
        layers.contradiction(&path, &[&app_key(name.as_str(), &[key])], message);
    }
}

/// What visitors started is counted over an hour, by the sessions that are there.
fn check_retention(layers: &mut Layers, retention_secs: u64, apps: &BTreeMap<AppName, AppConfig>) {
    let Some(name) = apps.iter().find_map(|(name, app)| app.anonymous.then_some(name)) else {
        return;
    };
    if retention_secs < RETENTION_WITH_VISITORS_SECS {
        let path = layers.section(&["sessions"]).path("retention_secs");
        let message = format!(
            "must be at least {RETENTION_WITH_VISITORS_SECS} with [apps.{name}] anonymous, not {retention_secs}"
        );
        layers.contradiction(&path, &[&app_key(name.as_str(), &["anonymous"])], message);
    }
}

/// A request must belong to one app.
fn check_hosts(layers: &mut Layers, apps: &BTreeMap<AppName, AppConfig>) {
    let mut owners: BTreeMap<&str, &AppName> = BTreeMap::new();
    for (name, app) in apps {
        for host in &app.hosts {
            let Some(owner) = owners.insert(host, name) else {
                continue;
            };
            let message = format!("must not contain {host:?}, which [apps.{owner}] hosts contains already");
            let key = |app: &AppName| app_key(app.as_str(), &["hosts"]);
            layers.contradiction(&key(name), &[&key(owner)], message);
        }
    }
}

/// A cookie must reach its app, and no other app may overwrite it.
fn check_cookies(layers: &mut Layers, apps: &BTreeMap<AppName, AppConfig>) {
    let mut same: BTreeMap<_, Vec<&AppName>> = BTreeMap::new();
    for (name, app) in apps {
        check_domain(layers, name.as_str(), app);
        let cookie = &app.cookie;
        // The default app serves all hosts that no other names, so which cookies meet there is not known here. The
        // cookie of a whole domain meets all others of it.
        if cookie.profile == Shared || *name != AppName::default_app() {
            same.entry((cookie.profile, &cookie.name_suffix, &cookie.domain))
                .or_default()
                .push(name);
        }
    }
    for ((profile, ..), names) in same {
        for (i, name) in names.iter().enumerate() {
            let other = names[usize::from(i == 0) % names.len()];
            // Hosts are unique, so apps that name theirs are apart.
            let apart = if profile == Shared {
                i == 0
            } else {
                !apps[*name].hosts.is_empty() || other == *name
            };
            if apart {
                continue;
            }
            let keys = |app: &AppName, keys: [&[&str]; 4]| keys.map(|key| app_key(app.as_str(), key));
            let involved: [&[&str]; 4] = [
                &["cookie", "name_suffix"],
                &["cookie", "profile"],
                &["cookie", "domain"],
                &["hosts"],
            ];
            let (ours, theirs) = (keys(name, involved), keys(other, involved));
            let or_hosts = if profile == Shared {
                ""
            } else {
                ", unless both name their hosts"
            };
            let message = format!(
                "must differ from that of [apps.{other}], whose cookie is the same otherwise{or_hosts}"
            );
            let others: Vec<&KeyPath> = ours.iter().skip(1).chain(&theirs).collect();
            layers.contradiction(&ours[0], &others, message);
        }
    }
}

fn check_domain(layers: &mut Layers, name: &str, app: &AppConfig) {
    let key = |keys: &[&str]| app_key(name, keys);
    let (profile, domain) = (key(&["cookie", "profile"]), key(&["cookie", "domain"]));
    match (app.cookie.profile, &app.cookie.domain) {
        (Host | Loopback, None) => {}
        (Host | Loopback, Some(_)) => {
            let message = format!("must be left out with profile {:?}", app.cookie.profile.as_str());
            layers.contradiction(&domain, &[&profile], message);
        }
        (Shared, None) => {
            let message = "must be given with profile \"shared\"".to_owned();
            layers.contradiction(&domain, &[&profile], message);
        }
        (Shared, Some(parent)) => {
            let below = |host: &str| {
                let rest = host.strip_suffix(parent.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            if let Some(host) = app.hosts.iter().find(|host| !below(host)) {
                let message = format!("must be a domain that all hosts are in, {host:?} too, not {parent:?}");
                layers.contradiction(&domain, &[&profile, &key(&["hosts"])], message);
            }
        }
    }
}
