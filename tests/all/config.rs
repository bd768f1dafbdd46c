//! The configuration: its layers, its rules, and that every mistake is told.

use std::fs;
use std::iter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sessiond::config::{Config, ConfigError, CookieProfile, Flags};
use sessiond::session::{AppName, OnLimit, OnTokenReuse, Timeouts};
use sessiond::user::UserSettings;
use tempfile::TempDir;

const ANNOTATED: &str = include_str!("../../config.toml");

type Variables<'a> = &'a [(&'a str, &'a str)];

/// What a file of this text, these variables and these flags make. The file is called `config.toml` in mistakes.
fn load_all(text: &str, variables: Variables, flags: Flags) -> Result<Config, Vec<String>> {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("config.toml");
    fs::write(&file, text).expect("written");
    let result = Config::load(Some(&file), owned(variables), flags);
    let place = format!("{}/", directory.path().display());
    result.map_err(|error| {
        error
            .to_string()
            .lines()
            .map(|line| line.replace(&place, ""))
            .collect()
    })
}

fn owned(variables: Variables) -> impl Iterator<Item = (String, String)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}

fn load(text: &str) -> Config {
    load_all(text, &[], Flags::default()).unwrap_or_else(|told| panic!("{text}\n{told:#?}"))
}

fn load_with(variables: Variables) -> Config {
    load_all("", variables, Flags::default()).unwrap_or_else(|told| panic!("{variables:?}\n{told:#?}"))
}

fn mistakes(text: &str) -> Vec<String> {
    load_all(text, &[], Flags::default()).expect_err(text)
}

fn mistakes_with(variables: Variables) -> Vec<String> {
    load_all("", variables, Flags::default()).expect_err("a mistake in the environment")
}

fn defaults() -> Config {
    Config::load(None, iter::empty(), Flags::default()).expect("the defaults are good")
}

fn app(name: &str) -> AppName {
    AppName::parse(name).expect("a name")
}

/// The only mistake of a text must contain this.
fn assert_told(text: &str, part: &str) {
    let told = mistakes(text);
    assert!(
        told.len() == 1 && told[0].contains(part),
        "{text}\n{told:#?}\nshould be only: {part}"
    );
}

/// The annotated file with its optional keys switched on.
fn annotated_with_optional_keys() -> String {
    let lines = ANNOTATED.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    });
    // A domain is for shared cookies only; with a preset timeouts can only be shorter.
    lines
        .collect::<Vec<_>>()
        .join("\n")
        .replace("profile = \"host\"", "profile = \"shared\"")
        .replace("preset = \"aal2\"", "preset = \"aal1\"")
        .replace(
            "remember_absolute_timeout_secs = 7_776_000",
            "remember_absolute_timeout_secs = 2_592_000",
        )
}

/// A secret of a webhook, as the annotated file and the one below have it.
const SECRET: &str = "whsec_c2Vzc2lvbmQtZXhhbXBsZS1kby1ub3QtdXNlLXRoaXM=";

/// A file that sets every key to something else than its default.
const EVERYTHING: &str = r#"
    [server]
    listen = "[::1]:80"
    base_path = "/auth/v2"
    public_origins = ["https://a.example", "https://b.example:8443"]
    trusted_proxies = ["10.0.0.0/8", "2001:db8::1/128"]
    workers = 3
    shutdown_grace_secs = 4
    key_file = "/keys/\"a\".key"
    tls_certificate = "/tls/\"a\".pem"
    tls_key = "/tls/a.key"
    [database]
    path = "/a \"b\"\\c/ä.db"
    read_pool = 5
    queue_len_max = 6
    [backup]
    folder = "/backups"
    every_secs = 61
    keep = 8
    [cache]
    capacity = 7
    bytes_max = 8_000_000
    [sessions]
    touch_interval_secs = 9
    flush_interval_ms = 10
    retention_secs = 3_611
    ip_privacy = "truncate"
    default_tier = "gold"
    [tiers]
    basic = 0
    gold = 10_000
    [location]
    enabled = false
    database = "city.mmdb"
    [ops]
    allow = ["192.0.2.0/24"]
    [rate_limits]
    per_key_per_second = 23
    unauthenticated_per_minute = 24
    wrong_credentials_per_minute = 25
    [webhooks]
    allow_private = true
    [webhooks.stock]
    app = "shop"
    url = "http://10.0.0.7:8080/events?a=b"
    types = ["session.created", "user.blocked"]
    secret = "whsec_c2Vzc2lvbmQtZXhhbXBsZS1kby1ub3QtdXNlLXRoaXM="
    [apps.default]
    sign_in_url = "/sign-in"
    reauthenticate_within_secs = 12
    expiring_notice_secs = 13
    [apps.shop]
    hosts = ["shop.example.com", "[::1]"]
    sign_in_url = "https://shop.example.com/sign-in?a=b"
    preset = "aal3"
    idle_timeout_secs = 130
    absolute_timeout_secs = 140
    remember_idle_timeout_secs = 150
    remember_absolute_timeout_secs = 160
    on_limit = "deny"
    reauthenticate_within_secs = 17
    expiring_notice_secs = 15
    renew_grace_secs = 18
    on_token_reuse = "notify"
    anonymous = true
    anonymous_per_hour = 19
    anonymous_per_hour_total = 26
    anonymous_idle_timeout_secs = 120
    anonymous_max = 21
    client_sessions_max = 22
    cookie = { profile = "loopback", name_suffix = "shop-1_A" }
    [apps.blog.cookie]
    profile = "shared"
    domain = "example.com"
"#;

// Layers

#[test]
fn defaults_are_what_the_annotated_file_says() {
    assert_eq!(defaults(), load(ANNOTATED));
    assert_eq!(defaults(), load(""));
    let config = defaults();
    assert_eq!(config.server.listen, SocketAddr::from(([127, 0, 0, 1], 7377)));
    assert_eq!(config.cache.bytes_max, 256 * 1024 * 1024);
    assert_eq!(config.sessions.retention_secs, 30 * 24 * 60 * 60);
    let default = config.app(&AppName::default_app()).expect("it always exists");
    let days = |days: i64| days * 24 * 60 * 60 * 1000;
    assert_eq!(
        default.timeouts(),
        Timeouts {
            idle_millis: days(7),
            absolute_millis: days(30)
        }
    );
    assert_eq!(
        default.remember_timeouts(),
        Timeouts {
            idle_millis: days(30),
            absolute_millis: days(90)
        }
    );
    assert_eq!(default.cookie.profile, CookieProfile::Host);
    assert_eq!(config.check_for_serving(), Ok(()));
}

#[test]
fn unless_told_otherwise_limits_evict_reuse_revokes_and_visitors_start_nothing() {
    let config = load("[apps.shop]");
    assert_eq!(config.server.key_file, None);
    let shop = &config.apps[&app("shop")];
    assert_eq!(
        (shop.on_limit, shop.on_token_reuse, shop.renew_grace_secs),
        (OnLimit::Evict, OnTokenReuse::Revoke, 30)
    );
    assert!(!shop.anonymous);
    assert_eq!(
        (
            shop.anonymous_per_hour,
            shop.anonymous_per_hour_total,
            shop.anonymous_idle_timeout_secs,
            shop.anonymous_max,
            shop.client_sessions_max
        ),
        (60, 3_600, 86_400, 100_000, 100_000)
    );
}

#[test]
fn apps_have_their_own_rules_for_limits_renewals_and_visitors() {
    let config = load(EVERYTHING);
    assert_eq!(config.server.key_file, Some(PathBuf::from("/keys/\"a\".key")));
    let shop = &config.apps[&app("shop")];
    assert_eq!(
        (shop.on_limit, shop.on_token_reuse, shop.renew_grace_secs),
        (OnLimit::Deny, OnTokenReuse::Notify, 18)
    );
    assert!(shop.anonymous);
    assert_eq!(
        (
            shop.anonymous_per_hour,
            shop.anonymous_per_hour_total,
            shop.anonymous_idle_timeout_secs,
            shop.anonymous_max,
            shop.client_sessions_max
        ),
        (19, 26, 120, 21, 22)
    );
    assert!(!config.apps[&app("blog")].anonymous, "no app has another's rules");
}

#[test]
fn strangers_have_limits_and_backends_have_none_unless_told_otherwise() {
    let limits = defaults().rate_limits;
    assert_eq!(limits.per_key_per_second, 0);
    assert_eq!(limits.unauthenticated_per_minute, 6_000);
    assert_eq!(limits.wrong_credentials_per_minute, 1_000);
}

#[test]
fn flag_beats_environment_beats_file_beats_defaults() {
    let file = "server.listen = \"127.0.0.2:2\"\ndatabase.path = \"file.db\"\ncache.capacity = 2\nserver.workers = 2";
    let environment = [
        ("SESSIOND_SERVER__LISTEN", "127.0.0.3:3"),
        ("SESSIOND_DATABASE__PATH", "environment.db"),
        ("SESSIOND_CACHE__CAPACITY", "3"),
    ];
    let flags = Flags {
        listen: Some(SocketAddr::from(([127, 0, 0, 4], 4))),
        database: Some("flag.db".into()),
        ..Flags::default()
    };
    let config = load_all(file, &environment, flags).expect("good");
    assert_eq!(config.server.listen.to_string(), "127.0.0.4:4");
    assert_eq!(config.database.path, PathBuf::from("flag.db"));
    assert_eq!(config.cache.capacity, 3);
    assert_eq!(config.server.workers, 2);
    assert_eq!(config.database.read_pool, 4);
}

#[test]
fn loading_creates_nothing() {
    let directory = TempDir::new().expect("a directory");
    let flags = Flags {
        database: Some(directory.path().join("new.db")),
        ..Flags::default()
    };
    Config::load(None, iter::empty(), flags).expect("good");
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn apps_take_what_they_leave_out_from_the_built_in_defaults() {
    let config = load(
        "[apps.default]\nidle_timeout_secs = 600\n[apps.shop]\nabsolute_timeout_secs = 700_000\n[apps.shop.cookie]",
    );
    let (default, shop) = (&config.apps[&AppName::default_app()], &config.apps[&app("shop")]);
    assert_eq!(
        (default.idle_timeout_secs, default.absolute_timeout_secs),
        (600, 2_592_000)
    );
    assert_eq!(
        (shop.idle_timeout_secs, shop.absolute_timeout_secs),
        (604_800, 700_000)
    );
    assert_eq!(config.app(&app("blog")), None);
    assert!(
        load("[apps.blog]").apps.contains_key(&app("blog")),
        "an empty section is an app"
    );
}

#[test]
fn tiers_of_the_file_add_to_the_built_in_ones() {
    let config = load("sessions.default_tier = \"gold\"\ntiers = { gold = 7, basic = 1, pro = 50 }");
    let limit = |tier: Option<&str>| {
        let settings = UserSettings {
            tier: tier.map(str::to_owned),
            ..UserSettings::default()
        };
        config.tiers.effective_max_sessions(&settings)
    };
    let limits = [
        None,
        Some("basic"),
        Some("essential"),
        Some("premium"),
        Some("pro"),
    ]
    .map(limit);
    assert_eq!(limits, [7, 1, 3, 10, 50]);
    let unlimited = load("tiers.basic = \"unlimited\"\nsessions.default_tier = \"basic\"");
    assert_eq!(
        unlimited.tiers.effective_max_sessions(&UserSettings::default()),
        10_000
    );
}

// Environment

#[test]
fn environment_reaches_every_depth_and_type() {
    let config = load_with(&[
        ("SESSIOND_SERVER__BASE_PATH", "/auth"),
        ("SESSIOND_LOCATION__ENABLED", "false"),
        ("SESSIOND_CACHE__BYTES_MAX", " 0x10_0000 "),
        ("sessiond_tiers__basic", "5"),
        ("SESSIOND_TIERS__GOLD", "unlimited"),
        ("Sessiond_Apps__Shop__Idle_Timeout_Secs", "600"),
        ("SESSIOND_APPS__SHOP__COOKIE__NAME_SUFFIX", "42"),
        ("SESSIOND_APPS__DEFAULT__COOKIE__PROFILE", "\"loopback\""),
        ("PATH", "/bin"),
    ]);
    assert_eq!(config.server.base_path, "/auth");
    assert!(!config.location.enabled);
    assert_eq!(config.cache.bytes_max, 1024 * 1024);
    assert!(config.tiers.contains("gold"));
    let shop = &config.apps[&app("shop")];
    assert_eq!(
        (shop.idle_timeout_secs, shop.cookie.name_suffix.as_str()),
        (600, "42")
    );
    assert_eq!(
        config.apps[&AppName::default_app()].cookie.profile,
        CookieProfile::Loopback
    );
}

#[test]
fn environment_lists_are_toml_or_separated_by_commas() {
    let cases = [
        ("10.0.0.0/8, ::1,", vec!["10.0.0.0/8", "::1/128"]),
        ("[\"10.0.0.0/8\", \"::1\"]", vec!["10.0.0.0/8", "::1/128"]),
        ("192.0.2.1", vec!["192.0.2.1/32"]),
        ("", vec![]),
    ];
    for (value, networks) in cases {
        let config = load_with(&[("SESSIOND_SERVER__TRUSTED_PROXIES", value)]);
        let read: Vec<String> = config
            .server
            .trusted_proxies
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(read, networks, "{value:?}");
    }
    let config = load_with(&[("SESSIOND_APPS__DEFAULT__HOSTS", "[::1],example.com")]);
    assert_eq!(
        config.apps[&AppName::default_app()].hosts,
        ["[::1]", "example.com"]
    );
}

#[test]
fn variables_that_name_no_key_are_told_or_not_ours() {
    // Kubernetes sets these for a service called sessiond.
    let foreign = [
        ("SESSIOND_PORT", "tcp://10.0.0.1:80"),
        ("SESSIOND_SERVICE_HOST", "10.0.0.1"),
        ("SESSIONDX__A", "1"),
    ];
    assert_eq!(load_with(&foreign), defaults());
    let told = mistakes_with(&[
        ("SESSIOND_CACHE__CAPACTY", "1"),
        ("SESSIOND_CASHE__CAPACITY", "1"),
        ("SESSIOND_CACHE__CAPACITY__X", "1"),
        ("SESSIOND_APPS__SHOP", "1"),
        ("SESSIOND_LOG", "debug"),
        ("SESSIOND_SERVER_LISTEN", "127.0.0.1:1"),
        ("SESSIOND_SERVER__WORKERS", "1"),
        ("sessiond_server__workers", "2"),
    ]);
    let expected = [
        "SESSIOND_APPS__SHOP: [apps.shop]: must be a table, not 1",
        "SESSIOND_CACHE__CAPACITY__X: [cache] capacity: must be a value, not a table",
        "SESSIOND_CACHE__CAPACTY: [cache] capacty: there is no such key; did you mean [cache] capacity?",
        "SESSIOND_CASHE__CAPACITY: [cashe]: there is no such section; did you mean [cache]?",
        "SESSIOND_LOG: there is no such variable; RUST_LOG filters the log",
        "SESSIOND_SERVER_LISTEN: there is no such variable; did you mean SESSIOND_SERVER__LISTEN?",
        "sessiond_server__workers: sets the same key as SESSIOND_SERVER__WORKERS",
    ];
    assert_eq!(told, expected);
}

// Mistakes

#[test]
fn five_mistakes_are_all_told() {
    let file = "[server]\nlisten = \"localhost\"\n\n[cache]\ncapacity = 0\ncapcity = 5\n";
    let environment = [("SESSIOND_LOCATION__ENABLED", "maybe")];
    let flags = Flags {
        database: Some(PathBuf::new()),
        ..Flags::default()
    };
    let told = load_all(file, &environment, flags).expect_err("five mistakes");
    let expected = [
        "config.toml:2: [server] listen: must be an address and a port like \"127.0.0.1:7377\", not \"localhost\"",
        "config.toml:5: [cache] capacity: must be a whole number from 1 to 50000000, not 0",
        "config.toml:6: [cache] capcity: there is no such key; did you mean [cache] capacity?",
        "SESSIOND_LOCATION__ENABLED: [location] enabled: must be true or false, not \"maybe\"",
        "--database: [database] path: must be the path of a file, without control characters, not \"\"",
    ];
    assert_eq!(told, expected);
}

#[test]
fn mistake_is_told_also_where_a_higher_layer_decides() {
    let told = load_all(
        "cache.capacity = 0",
        &[("SESSIOND_CACHE__CAPACITY", "5")],
        Flags::default(),
    );
    assert_eq!(told.expect_err("the file's mistake").len(), 1);
}

#[test]
fn unknown_keys_are_told_at_any_depth() {
    let cases = [
        ("x = 1", "config.toml:1: x: there is no such key"),
        (
            "\n[cashe]\ncapacity = 1\nbytes_max = 1",
            "config.toml:2: [cashe]: there is no such section; did you mean [cache]?",
        ),
        ("[empty]", "[empty]: there is no such section"),
        (
            "[server]\nlisten.port = 1",
            "config.toml:2: [server] listen: must be a value, not a table",
        ),
        ("cache = 5", "[cache]: must be a table, not 5"),
        ("[[cache]]\ncapacity = 1", "[cache]: must be a table, not a list"),
        (
            "[cache.capacity]",
            "[cache] capacity: must be a whole number from 1 to 50000000, not a table",
        ),
        (
            "[app.default]",
            "[app]: there is no such section; did you mean [apps]?",
        ),
        (
            "[apps.shop]\nidle_timeout = 1",
            "did you mean [apps.shop] idle_timeout_secs?",
        ),
        (
            "[apps.shop.cookie]\npath = \"/\"",
            "[apps.shop.cookie] path: there is no such key; did you mean [database] path?",
        ),
        (
            "[apps.shop.kookie]\nprofile = \"host\"",
            "did you mean [apps.shop.cookie]?",
        ),
        (
            "[server]\ntouch_interval_secs = 1",
            "did you mean [sessions] touch_interval_secs?",
        ),
        (
            "[tiers.gold]\nmax = 1",
            "[tiers] gold: must be a value, not a table",
        ),
        ("\"a.b\\u001b\" = 1", "\"a.b\\u{1b}\": there is no such key"),
    ];
    for (text, part) in cases {
        assert_told(text, part);
    }
}

#[test]
fn wrong_types_are_told() {
    let cases = [
        (
            "cache.capacity = \"5\"",
            "must be a whole number from 1 to 50000000, not \"5\"",
        ),
        ("cache.capacity = 5.0", "not 5.0"),
        (
            "cache.capacity = 99999999999999999999",
            "not 99999999999999999999",
        ),
        ("cache.capacity = 2000-01-01", "not a date or time"),
        ("location.enabled = 1", "must be true or false, not 1"),
        ("server.listen = 7377", "not 7377"),
        (
            "server.trusted_proxies = \"10.0.0.1\"",
            "must be a list, not \"10.0.0.1\"",
        ),
        (
            "server.trusted_proxies = [\"::1\", 5]",
            "every entry must be a network like \"10.0.0.0/8\" or an address, not 5",
        ),
        (
            "tiers.basic = true",
            "must be a whole number from 0 to 10000, or \"unlimited\", not true",
        ),
        ("database.path = {}", "not a table"),
    ];
    for (text, part) in cases {
        assert_told(text, part);
    }
    assert_eq!(
        mistakes("ops.allow = [\"a\", \"::1\", \"b\"]").len(),
        2,
        "every wrong entry"
    );
}

#[test]
fn numbers_that_are_none_are_told_on_one_line_and_cut() {
    assert_told("[cache]\ncapacity = 100_000\u{8}", "not 100000\u{fffd}");
    let digits = "9".repeat(300);
    let told = mistakes(&format!("[cache]\ncapacity = {digits}"));
    assert!(told[0].ends_with(&format!("not {}…", &digits[..100])), "{told:?}");
}

#[test]
fn syntax_errors_have_line_and_column_and_hide_no_other_layer() {
    let file = "[cache]\ncapacity = 0\n[server]\n  workers = many\n[ops\n";
    let told =
        load_all(file, &[("SESSIOND_CACHE__CAPACITY", "none")], Flags::default()).expect_err("mistakes");
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("config.toml:4:13: not TOML: "), "{told:#?}");
    assert!(told[1].starts_with("config.toml:5:5: not TOML: "), "{told:#?}");
    assert!(told[2].starts_with("SESSIOND_CACHE__CAPACITY: "), "{told:#?}");
    assert_told("a = 1\na = 2", "config.toml:2:1: not TOML: duplicate key");
    assert_told(&format!("{}a = 1", "a.".repeat(100_000)), "not TOML: ");
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let directory = TempDir::new().expect("a directory");
    let told = |file: &Path| -> ConfigError {
        let environment = owned(&[("SESSIOND_CACHE__CAPACITY", "0")]);
        Config::load(Some(file), environment, Flags::default()).expect_err("unreadable")
    };
    let (binary, large) = (directory.path().join("binary"), directory.path().join("large"));
    fs::write(&binary, [b'#', 0xff]).expect("written");
    fs::write(&large, "#".repeat(1024 * 1024 + 1)).expect("written");
    let missing = directory.path().join("missing");
    let cases = [
        (missing.as_path(), ": cannot be read: "),
        (directory.path(), ": cannot be read: "),
        (&binary, ": not UTF-8 after byte 1"),
        (&large, ": must have at most 1048576 bytes"),
    ];
    for (file, part) in cases {
        let lines: Vec<String> = told(file).mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2, "the environment's mistake too: {lines:#?}");
        assert!(
            lines[0].starts_with(&format!("{}{part}", file.display())),
            "{lines:#?}"
        );
    }
    fs::write(&large, "#".repeat(1024 * 1024)).expect("written");
    assert_eq!(
        Config::load(Some(&large), iter::empty(), Flags::default()),
        Ok(defaults())
    );
}

#[test]
fn passwords_in_urls_are_not_repeated() {
    for url in [
        "https://ada:secret@ho st/",
        "ftp://ada:secret@host/",
        "https://ada:sec/ret@host/",
    ] {
        let told = mistakes(&format!("apps.default.sign_in_url = \"{url}\""));
        assert!(told.len() == 1 && !told[0].contains("ret@"), "{told:#?}");
    }
    let config = load("apps.default.sign_in_url = \"https://ada:secret@host/sign@in\"");
    let text = config.to_toml();
    assert!(
        text.contains("sign_in_url = \"https://host/sign@in\"\n") && !text.contains("secret"),
        "{text}"
    );
}

#[test]
fn no_text_makes_it_panic() {
    for (at, _) in EVERYTHING.char_indices().step_by(5) {
        let (before, after) = EVERYTHING.split_at(at);
        for text in [before.to_owned(), after.to_owned(), format!("{before}={after}")] {
            if let Err(told) = load_all(&text, &[], Flags::default()) {
                assert!(!told.is_empty(), "{text}");
            }
        }
    }
}

// Rules

#[test]
fn numbers_are_bounded_on_both_sides() {
    let day = 24 * 60 * 60;
    let cases: [(&str, i64, i64); 30] = [
        ("server.workers", 0, 256),
        ("server.shutdown_grace_secs", 0, 600),
        ("database.read_pool", 1, 64),
        ("database.queue_len_max", 1, 1_000_000),
        ("backup.every_secs", 60, 31 * day),
        ("backup.keep", 1, 1_000),
        ("cache.capacity", 1, 50_000_000),
        ("cache.bytes_max", 1 << 20, 1 << 40),
        ("sessions.touch_interval_secs", 0, 40 * day),
        ("sessions.flush_interval_ms", 10, 60_000),
        ("sessions.retention_secs", 0, 3_650 * day),
        ("tiers.basic", 0, 10_000),
        ("tiers.gold", 0, 10_000),
        ("apps.default.idle_timeout_secs", 1, 400 * day),
        ("apps.default.absolute_timeout_secs", 1, 400 * day),
        ("apps.default.remember_idle_timeout_secs", 1, 400 * day),
        ("apps.default.remember_absolute_timeout_secs", 1, 400 * day),
        ("apps.default.reauthenticate_within_secs", 1, 400 * day),
        ("apps.shop.reauthenticate_within_secs", 1, 400 * day),
        ("apps.default.expiring_notice_secs", 1, 400 * day),
        ("apps.shop.expiring_notice_secs", 1, 400 * day),
        ("apps.default.renew_grace_secs", 0, 3_600),
        ("rate_limits.per_key_per_second", 0, 1_000_000),
        ("rate_limits.unauthenticated_per_minute", 0, 1_000_000),
        ("rate_limits.wrong_credentials_per_minute", 0, 1_000_000),
        ("apps.default.anonymous_per_hour", 1, 10_000),
        ("apps.default.anonymous_per_hour_total", 1, 1_000_000),
        ("apps.default.anonymous_idle_timeout_secs", 1, 400 * day),
        ("apps.default.anonymous_max", 1, 10_000_000),
        ("apps.default.client_sessions_max", 1, 10_000_000),
    ];
    for (key, min, max) in cases {
        for beyond in [min - 1, max + 1, i64::MIN, i64::MAX] {
            let rule = format!("must be a whole number from {min} to {max}");
            let told = mistakes(&format!("{key} = {beyond}"));
            assert!(
                told.len() == 1 && told[0].contains(&rule),
                "{key} = {beyond}: {told:#?}"
            );
        }
        // At the bounds a timeout may contradict another one, which is not the rule looked at here.
        for at in [min, max] {
            let told = load_all(&format!("{key} = {at}"), &[], Flags::default())
                .err()
                .unwrap_or_default();
            assert!(
                told.iter().all(|told| !told.contains("whole number")),
                "{key} = {at}: {told:#?}"
            );
        }
    }
}

#[test]
fn lists_apps_and_tiers_are_bounded() {
    let list = |count: usize| format!("ops.allow = [{}]", "\"::1\",".repeat(count));
    assert_eq!(load(&list(256)).ops.allow.len(), 256);
    assert_told(&list(257), "[ops] allow: must have at most 256 entries, not 257");
    let apps = |count: usize| {
        (1..count)
            .map(|i| format!("[apps.a{i}]\nhosts = [\"h{i}\"]\n"))
            .collect::<String>()
    };
    assert_eq!(load(&apps(256)).apps.len(), 256);
    assert_told(&apps(257), "[apps]: must have at most 256 entries, not 257");
    let tiers = |count: usize| {
        (5..count)
            .map(|i| format!("tiers.t{i} = 1\n"))
            .collect::<String>()
    };
    assert_eq!(load(&tiers(256)).tiers.names().count(), 256);
    assert_told(&tiers(257), "[tiers]: must have at most 256 entries, not 257");
}

/// Each text of `good` is read as itself or as what stands behind its arrow, each of `bad` is refused.
fn check_texts(key: &str, good: &str, bad: &str) {
    let list = matches!(
        key,
        "server.public_origins" | "server.trusted_proxies" | "apps.default.hosts"
    );
    let around = |text: &str| {
        if list {
            format!("[{text:?}]")
        } else {
            format!("{text:?}")
        }
    };
    let name = key.rsplit('.').next().expect("a key");
    for case in good.split(" | ") {
        let (text, read) = case.split_once(" -> ").unwrap_or((case, case));
        let printed = load(&format!("{key} = {}", around(text))).to_toml();
        assert!(
            printed.contains(&format!("{name} = {}\n", around(read))),
            "{key} = {text}\n{printed}"
        );
    }
    for text in bad.split(" | ") {
        assert_told(&format!("{key} = {}", around(text)), name);
    }
}

#[test]
fn places_to_listen_and_to_be_mounted_at_follow_their_rules() {
    check_texts(
        "server.listen",
        "0.0.0.0:0 | [::]:65535",
        " | :80 | 127.0.0.1 | localhost:80",
    );
    let bad = "/ | a | /a/ | //a | /a//b | /a/../b | /. | /a?b | /ä | /%41 | /a b";
    check_texts("server.base_path", " | /a | /a/b-c_d.e~f", bad);
    check_texts(
        "server.base_path",
        &format!("/{}", "a".repeat(127)),
        &format!("/{}", "a".repeat(128)),
    );
    check_texts("database.path", "a | /a b/ä.db", " | :memory: | file:a.db | a\tb");
    check_texts("server.key_file", "a | /a b/ä.key", " | a\tb");
    check_texts("backup.folder", "a | /a b/ä", " | a\tb");
}

#[test]
fn origins_are_those_that_browsers_send() {
    let good = "https://a.example | https://a.example:8443 | HTTPS://A.Example:443 -> https://a.example";
    let near = "http://localhost:7377 | http://127.0.0.1:80 -> http://127.0.0.1 | http://[::1]:7377";
    let form =
        " | * | null | a.example | https:// | https://a.example/ | https://a.example/x | https://*.example";
    let port = "https://a.example:0 | https://a.example:65536 | https://a.example:+1 | https://a.example:";
    let scheme = "http://a.example | http://192.0.2.1 | ws://localhost | https://a:b@c.example";
    check_texts("server.public_origins", good, form);
    check_texts("server.public_origins", near, &format!("{port} | {scheme}"));
}

#[test]
fn hosts_and_networks_follow_their_rules() {
    let good = "A.Example -> a.example | localhost | 192.0.2.1 | [0:0::1] -> [::1]";
    let bad =
        " | a.example:80 | https://a | *.a.example | a..b | a. | -a | a b | ä.example | ::1 | 1.2.3.4.5";
    check_texts("apps.default.hosts", good, bad);
    let good = "10.0.0.0/8 | 10.1.2.3/8 -> 10.0.0.0/8 | 192.0.2.1 -> 192.0.2.1/32 | ::1 -> ::1/128";
    let bad = " | 10.0.0.0/33 | localhost | 10.0.0.0-10.0.0.9 | 10.0.0 | [::1] | 10.0.0.1:80";
    check_texts("server.trusted_proxies", good, bad);
}

#[test]
fn sign_in_urls_lead_to_a_host_or_stay_on_this_one() {
    let good = "/ | /sign-in?a=b#c | https://a.example:8443/x | http://localhost | https://[::1]/";
    let other_host =
        " | sign-in | //a.example | /\\a.example | https:/a | https:// | https:///x | https://a.example:x/";
    let other = "javascript:alert(1) | data:text/html,x | ftp://a | https://a b | /a b | /\" | /ä";
    check_texts("apps.default.sign_in_url", good, other_host);
    check_texts("apps.default.sign_in_url", good, other);
    check_texts(
        "apps.default.sign_in_url",
        good,
        &format!("/{}", "a".repeat(2048)),
    );
}

#[test]
fn suffixes_profiles_and_tiers_follow_their_rules() {
    let suffixes = " | a-B_9 | abcdefghijklmnopqrstuvwxyz012345";
    check_texts(
        "apps.default.cookie.name_suffix",
        suffixes,
        "abcdefghijklmnopqrstuvwxyz0123456 | a b | a=b | ä",
    );
    check_texts("apps.default.cookie.profile", "host | loopback", " | Host | none");
    check_texts("sessions.default_tier", "pro", " | gold | Pro");
}

#[test]
fn rules_for_limits_and_reuse_are_one_of_two_words() {
    check_texts("apps.default.on_limit", "evict | deny", " | Deny | revoke");
    check_texts(
        "apps.default.on_token_reuse",
        "revoke | notify",
        " | Notify | evict",
    );
    assert_told(
        "apps.shop.on_limit = true",
        "[apps.shop] on_limit: must be \"evict\" or \"deny\", not true",
    );
}

#[test]
fn names_of_apps_and_tiers_are_plain() {
    for name in ["Shop", "\"\"", "\"a b\"", "-a"] {
        assert_told(
            &format!("[apps.{name}]\nhosts = [5]"),
            "the name of an app must be",
        );
        assert!(
            load_all(&format!("[apps.{name}.cookie]"), &[], Flags::default()).is_err(),
            "{name}"
        );
    }
    for name in ["\"\"", "\"a b\"", "ä"] {
        let quoted = if name == "ä" { "\"ä\"" } else { name };
        assert_told(&format!("tiers.{quoted} = 1"), "the name of a tier must be");
    }
}

// Contradictions

#[test]
fn idle_timeouts_longer_than_their_absolute_ones_are_refused() {
    let told = mistakes(
        "[apps.shop]\nidle_timeout_secs = 100\nabsolute_timeout_secs = 99\nremember_absolute_timeout_secs = 5",
    );
    let expected = [
        "config.toml:2: [apps.shop] idle_timeout_secs: must be at most absolute_timeout_secs (99), not 100",
        "config.toml:4: [apps.shop] remember_idle_timeout_secs: must be at most remember_absolute_timeout_secs (5), not \
         2592000",
    ];
    assert_eq!(told, expected);
    load("[apps.shop]\nidle_timeout_secs = 100\nabsolute_timeout_secs = 100");
    let wrong = "[apps.shop]\nidle_timeout_secs = 0\nabsolute_timeout_secs = 99";
    assert_eq!(
        mistakes(wrong).len(),
        1,
        "nothing is concluded from a wrong value"
    );
}

/// All four timeouts of an app in seconds: idle and absolute, then those of who asks to be remembered.
fn timeouts_secs(config: &Config, name: &str) -> [i64; 4] {
    let app = &config.apps[&app(name)];
    let (plain, remembered) = (app.timeouts(), app.remember_timeouts());
    let millis = [
        plain.idle_millis,
        plain.absolute_millis,
        remembered.idle_millis,
        remembered.absolute_millis,
    ];
    millis.map(|millis| millis / 1_000)
}

#[test]
fn preset_sets_the_timeouts_of_its_level_also_for_who_is_remembered() {
    let (hour, day) = (3_600, 86_400);
    for (preset, idle, absolute) in [
        ("aal1", 30 * day, 30 * day),
        ("aal2", hour, day),
        ("aal3", 900, 12 * hour),
    ] {
        for name in ["default", "shop"] {
            let config = load(&format!("[apps.{name}]\npreset = {preset:?}"));
            assert_eq!(
                timeouts_secs(&config, name),
                [idle, absolute, idle, absolute],
                "{preset}"
            );
            assert_eq!(
                config.sessions.touch_interval_secs, 60,
                "which is good for each level"
            );
        }
    }
    assert_told(
        "[apps.default]\npreset = \"aal4\"",
        "must be \"aal1\", \"aal2\" or \"aal3\"",
    );
}

#[test]
fn preset_of_one_app_is_no_other_app_s() {
    let config = load("[apps.default]\npreset = \"aal3\"\n[apps.shop]");
    assert_eq!(
        timeouts_secs(&config, "shop"),
        timeouts_secs(&defaults(), "default")
    );
}

#[test]
fn timeouts_given_beside_a_preset_shorten_it_and_cut_the_pauses_that_are_not_given() {
    let config =
        load("[apps.shop]\npreset = \"aal1\"\nabsolute_timeout_secs = 1000\nremember_idle_timeout_secs = 70");
    assert_eq!(timeouts_secs(&config, "shop"), [1_000, 1_000, 70, 2_592_000]);
    let variables = [
        ("SESSIOND_APPS__DEFAULT__PRESET", "aal2"),
        ("SESSIOND_APPS__DEFAULT__IDLE_TIMEOUT_SECS", "600"),
    ];
    let config = load_with(&variables);
    assert_eq!(timeouts_secs(&config, "default"), [600, 86_400, 3_600, 86_400]);
}

#[test]
fn timeout_longer_than_the_preset_allows_is_told_with_both() {
    assert_eq!(
        mistakes(
            "[apps.shop]\npreset = \"aal2\"\nidle_timeout_secs = 3601\nremember_absolute_timeout_secs = 604_800"
        ),
        [
            "config.toml:3: [apps.shop] idle_timeout_secs: must be at most 3600, as preset \"aal2\" allows, not 3601",
            "config.toml:4: [apps.shop] remember_absolute_timeout_secs: must be at most 86400, as preset \"aal2\" \
             allows, not 604800",
        ]
    );
}

#[test]
fn only_a_pause_of_ones_own_for_visitors_can_contradict_the_absolute_timeout() {
    for app in ["default", "shop"] {
        let short = format!("[apps.{app}]\nidle_timeout_secs = 100\nabsolute_timeout_secs = 100\n");
        let config = load(&short);
        assert_eq!(
            config.apps[&self::app(app)].anonymous_idle_timeout_secs,
            100,
            "what is printed is what is in force"
        );
        load(&format!("{short}anonymous_idle_timeout_secs = 100"));
        assert_told(
            &format!("{short}anonymous_idle_timeout_secs = 101"),
            &format!(
                "config.toml:4: [apps.{app}] anonymous_idle_timeout_secs: must be at most absolute_timeout_secs (100), \
                 not 101"
            ),
        );
    }
}

#[test]
fn pause_of_visitors_is_no_longer_than_that_of_anybody() {
    let config =
        load("[apps.default]\npreset = \"aal3\"\nanonymous = true\n[apps.shop]\nidle_timeout_secs = 700");
    let pause = |app: &str| config.apps[&self::app(app)].anonymous_idle_timeout_secs;
    assert_eq!((pause("default"), pause("shop")), (900, 700));
    let own = "[apps.shop]\nidle_timeout_secs = 700\nanonymous_idle_timeout_secs = 600";
    assert_eq!(
        load(own).apps[&self::app("shop")].anonymous_idle_timeout_secs,
        600
    );
}

#[test]
fn pause_of_visitors_counts_for_the_touch_interval_where_they_may_start_sessions() {
    let file = |anonymous: bool, interval: u64| {
        format!(
            "[apps.shop]\nanonymous = {anonymous}\nanonymous_idle_timeout_secs = 100\n\
             [sessions]\ntouch_interval_secs = {interval}"
        )
    };
    load(&file(false, 11));
    load(&file(true, 10));
    assert_told(
        &file(true, 11),
        "config.toml:5: [sessions] touch_interval_secs: must be at most a tenth of [apps.shop] \
         anonymous_idle_timeout_secs (100), not 11",
    );
}

#[test]
fn what_visitors_started_is_kept_for_the_hour_in_which_it_counts() {
    let file = |anonymous: bool, retention: u64| {
        format!("[apps.shop]\nanonymous = {anonymous}\n[sessions]\nretention_secs = {retention}")
    };
    load(&file(false, 0));
    load(&file(true, 3_600));
    assert_told(
        &file(true, 3_599),
        "config.toml:4: [sessions] retention_secs: must be at least 3600 with [apps.shop] anonymous, not 3599",
    );
}

#[test]
fn key_file_is_not_the_database() {
    load("server.key_file = \"a.key\"\ndatabase.path = \"a.db\"");
    assert_told(
        "server.key_file = \"a.db\"\ndatabase.path = \"a.db\"",
        "config.toml:1: [server] key_file: must be another file than [database] path, not \"a.db\"",
    );
}

#[test]
fn only_a_touch_interval_of_ones_own_can_contradict_a_timeout() {
    let short = "[apps.shop]\nidle_timeout_secs = 100\n";
    assert_eq!(
        load(short).sessions.touch_interval_secs,
        60,
        "shortened for each session instead"
    );
    load(&format!("{short}[sessions]\ntouch_interval_secs = 10"));
    assert_told(
        &format!("{short}[sessions]\ntouch_interval_secs = 11"),
        "config.toml:4: [sessions] touch_interval_secs: must be at most a tenth of [apps.shop] idle_timeout_secs \
         (100), not 11",
    );
}

#[test]
fn host_belongs_to_one_app() {
    assert_told(
        "[apps.a]\nhosts = [\"x.example\"]\n[apps.b]\nhosts = [\"y.example\", \"X.example\"]",
        "config.toml:4: [apps.b] hosts: must not contain \"x.example\", which [apps.a] hosts contains already",
    );
    assert_told(
        "apps.a.hosts = [\"x\", \"x\"]",
        "which [apps.a] hosts contains already",
    );
}

#[test]
fn domain_is_for_shared_cookies_and_contains_their_hosts() {
    let cookie =
        |profile: &str, rest: &str| format!("[apps.default]\ncookie = {{ profile = \"{profile}\"{rest} }}\n");
    let example = ", domain = \"Example.com\"";
    let config = load(&format!(
        "{}hosts = [\"example.com\", \"a.b.example.com\"]",
        cookie("shared", example)
    ));
    assert_eq!(
        config.apps[&AppName::default_app()].cookie.domain.as_deref(),
        Some("example.com")
    );
    assert_told(
        &cookie("shared", ""),
        "[apps.default.cookie] domain: must be given with profile \"shared\"",
    );
    assert_told(
        &cookie("host", example),
        "domain: must be left out with profile \"host\"",
    );
    assert_told(
        &cookie("loopback", example),
        "domain: must be left out with profile \"loopback\"",
    );
    for bad in [
        "",
        ".example.com",
        "com",
        "192.0.2.1",
        "[::1]",
        "example.com:80",
        "https://example.com",
    ] {
        assert_told(
            &cookie("shared", &format!(", domain = \"{bad}\"")),
            "domain: must be a domain like",
        );
    }
    assert_told(
        &format!("{}hosts = [\"notexample.com\"]", cookie("shared", example)),
        "domain: must be a domain that all hosts are in, \"notexample.com\" too, not \"example.com\"",
    );
}

#[test]
fn apps_whose_cookies_would_overwrite_each_other_are_refused() {
    let host = |name: &str, rest: &str| format!("[apps.{name}]\n{rest}\n");
    load(&host("a", ""));
    load(&[host("a", "hosts = [\"a\"]"), host("b", "hosts = [\"b\"]")].concat());
    load(&[host("a", ""), host("b", "cookie.name_suffix = \"b\"")].concat());
    assert_eq!(
        mistakes(&[host("a", ""), host("b", "")].concat()).len(),
        2,
        "each lacks its hosts"
    );
    assert_told(
        &[host("a", "hosts = [\"a\"]"), host("b", "")].concat(),
        "config.toml:3: [apps.b.cookie] name_suffix: must differ from that of [apps.a], whose cookie is the same \
         otherwise, unless both name their hosts",
    );
    let shared = |name: &str, rest: &str| {
        format!(
            "[apps.{name}]\nhosts = [\"{name}.x.example\"]\ncookie = {{ profile = \"shared\", domain = \"x.example\"{rest} }}\n"
        )
    };
    load(&[shared("default", ""), shared("b", ", name_suffix = \"b\"")].concat());
    assert_told(
        &[shared("default", ""), shared("b", "")].concat(),
        "[apps.default.cookie] name_suffix: must differ from that of [apps.b], whose cookie is the same otherwise",
    );
}

#[test]
fn loopback_cookies_are_configured_but_not_served() {
    let config =
        load("[apps.default.cookie]\nprofile = \"loopback\"\n[apps.shop.cookie]\nprofile = \"loopback\"");
    let told = config.check_for_serving().expect_err("two apps").to_string();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(
        lines[0].starts_with("configuration: [apps.default.cookie] profile: must be \"host\" or \"shared\""),
        "{told}"
    );
}

// The annotated file and the printed one

#[test]
fn printed_configuration_reads_back_equal() {
    for text in [
        "",
        EVERYTHING,
        &annotated_with_optional_keys(),
        "apps.default.idle_timeout_secs = 20",
        "apps.default.preset = \"aal2\"",
        "apps.default = { idle_timeout_secs = 20, absolute_timeout_secs = 20 }",
    ] {
        let config = load(text);
        // But for secrets, which are not printed.
        let printed = config
            .to_toml()
            .replace("\"\n# query of the url: not shown", "?a=b\"")
            .replace("# secret: not shown", &format!("secret = {SECRET:?}"));
        assert_eq!(load(&printed), config, "{text}");
    }
    assert_ne!(load(EVERYTHING), defaults());
}

#[test]
fn optional_keys_of_the_annotated_file_are_accepted() {
    let config = load(&annotated_with_optional_keys());
    let default = &config.apps[&AppName::default_app()];
    assert!(config.location.database.is_some() && config.server.key_file.is_some());
    assert!(config.server.tls.is_some());
    assert!(default.sign_in_url.is_some() && default.reauthenticate_within_secs.is_some());
    assert_eq!(default.cookie.domain.as_deref(), Some("example.com"));
}

#[test]
fn every_printed_key_is_in_the_annotated_file_in_the_same_order() {
    let keys = |text: &str| -> Vec<String> {
        let key = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(key)
            .collect()
    };
    let annotated = annotated_with_optional_keys();
    let mut written = keys(&annotated);
    written.retain(|key| key != "secret");
    assert_eq!(keys(&load(&annotated).to_toml()), written);
}

#[test]
fn webhooks_have_a_name_an_app_a_url_types_and_a_secret() {
    let config = load(EVERYTHING);
    let webhook = &config.webhooks.named["stock"];
    assert!(config.webhooks.allow_private);
    assert_eq!(
        (&webhook.app, webhook.url.as_str()),
        (&app("shop"), "http://10.0.0.7:8080/events?a=b")
    );
    let types: Vec<&str> = webhook.types.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(types, ["session.created", "user.blocked"]);
    assert_eq!(webhook.secret.reveal(), SECRET);

    let text = format!("[webhooks.few]\nurl = \"https://hooks.example.com/\"\nsecret = {SECRET:?}");
    let webhook = load(&text).webhooks.named.remove("few").expect("it is there");
    assert_eq!((webhook.app, webhook.types), (AppName::default_app(), Vec::new()));
}

#[test]
fn secret_of_a_webhook_can_come_from_the_environment() {
    let config = load_with(&[
        ("SESSIOND_WEBHOOKS__SHOP__URL", "https://hooks.example.com/"),
        ("SESSIOND_WEBHOOKS__SHOP__SECRET", SECRET),
    ]);
    assert_eq!(config.webhooks.named["shop"].secret.reveal(), SECRET);
}

#[test]
fn every_mistake_about_a_webhook_is_told_and_no_secret_is() {
    let told = mistakes(
        r#"
        [webhooks]
        allow_private = "maybe"
        [webhooks.one]
        app = "nobody"
        url = "https://user:confidential@hooks.example.com/"
        types = ["session.forgotten"]
        secret = "whsec_Y29uZmlkZW50aWFs"
        [webhooks.two]
        secret = 7
        colour = "red"
        [webhooks.Three]
        url = "https://hooks.example.com/"
        [webhooks.four]
        url = "http://127.0.0.1:8080/confidential"
        secret = "confidential"
        "#,
    );
    let parts = [
        "[webhooks] allow_private: must be true or false",
        "[webhooks.one] app: must be an app that has a section",
        "[webhooks.one] url: must be an https or http URL",
        "[webhooks.one] types: every entry must be the name of an event",
        "[webhooks.one] secret: must be whsec_ and 24 to 64 random bytes in base64",
        "[webhooks.two] url: must be given",
        "[webhooks.two] secret: must be",
        "[webhooks.two] colour: there is no such key",
        "[webhooks.Three]: the name of a webhook must be",
        "[webhooks.four] url: leads to an address that is not public",
        "[webhooks.four] secret: must be whsec_",
    ];
    for part in parts {
        assert!(told.iter().any(|line| line.contains(part)), "{part}\n{told:#?}");
    }
    assert_eq!(told.len(), parts.len(), "{told:#?}");
    for line in told {
        assert!(
            !line.contains("confidential") && !line.contains("Y29uZmlkZW50aWFs"),
            "{line}"
        );
    }
}

#[test]
fn printed_configuration_has_no_secret_of_a_webhook() {
    let config = load(EVERYTHING);
    for text in [config.to_toml(), format!("{config:?}")] {
        assert!(!text.contains(&SECRET[6..]), "{text}");
    }
    assert!(
        !config.to_toml().contains("events?"),
        "nor what its URL ends with"
    );
}

#[test]
fn dev_takes_webhooks_that_lead_to_this_machine() {
    let text = format!("[webhooks.here]\nurl = \"http://127.0.0.1:8080/\"\nsecret = {SECRET:?}");
    load_all(&text, &[], Flags::default()).expect_err("it is no public address");
    let flags = Flags {
        allow_private: true,
        ..Flags::default()
    };
    let config = load_all(&text, &[], flags).expect("good");
    assert!(config.webhooks.allow_private && config.webhooks.named.contains_key("here"));
}
