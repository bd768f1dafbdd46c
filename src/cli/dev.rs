//! `sessiond dev`: server, dashboard and sample people in one command, on this machine only.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::output::{self, OutputError};
use super::{Common, Failure, stop_signal};
use crate::clock::Clock;
use crate::config::{Config, CookieProfile, Flags};
use crate::error::Error;
use crate::manager::{Revocation, SessionManager, SignIn};
use crate::server::{Mode, Server};
use crate::session::{ApiKey, AppName, EndedBy, Reason, SessionId};
use crate::store::{Owner, StatusFilter};
use crate::sweeper;
use crate::user::UserId;

/// Where `dev` keeps its database unless told otherwise.
const DEV_DATABASE: &str = "sessiond-dev/sessiond.db";
/// What the API key of `dev` is called.
const DEV_KEY: &str = "dev";
/// How long before today the sample people's first sign-in was, in hours and milliseconds.
const SAMPLE_HOURS: u64 = 12 * 24;
const SAMPLE_MILLIS: i64 = 12 * 24 * 60 * 60 * 1_000;
/// How often sample people use a session: well within the idle timeout of the defaults.
const USED_EVERY_HOURS: u64 = 24;

pub(super) async fn run(common: &Common, listen: Option<SocketAddr>) -> Result<(), Failure> {
    let mut config = load(common, listen)?;
    if !config.server.listen.ip().is_loopback() {
        return Err(Failure::NotLoopback(config.server.listen));
    }
    // Its address is this machine, and its cookie one for HTTP.
    config.server.tls = None;
    // Whoever is at the other end would take the sample people for real ones.
    config.webhooks.named.retain(|name, webhook| {
        let is_kept = webhook.url.is_loopback();
        if !is_kept {
            log::warn!("nothing is sent to the webhook {name} of the configuration, as it leads away from this machine");
        }
        is_kept
    });
    let base_path = config.server.base_path.clone();
    for app in config.apps.values_mut() {
        app.cookie.profile = CookieProfile::Loopback;
        app.cookie.domain = None;
        app.sign_in_url
            .get_or_insert_with(|| format!("{base_path}/dev/sign-in"));
    }
    // Before anything is opened: a signal during the start, too, ends the server in order.
    let stop = stop_signal()?;
    // The clock begins in the past, where the sample people's first sign-ins are, and is told before it is asked.
    let clock = Arc::new(Clock::system());
    clock.go_on_from(Clock::system().now().plus_millis(-SAMPLE_MILLIS));
    let server = Server::bind(config, Mode::Dev, Arc::clone(&clock)).await?;
    let manager = Arc::clone(server.manager());
    if is_empty(&manager).await? {
        seed(&manager).await?;
    }
    // From here on it goes, from today or from where a person has moved it before.
    clock.go_on_from(Clock::system().now().max(clock.now()));
    let key = fresh_key(&manager).await?;
    let port = server.address().map_or(0, |address| address.port());
    let host = match server.address().map(|address| address.ip()) {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => "localhost".to_owned(),
    };
    if let Err(error) = print_welcome(&format!("http://{host}:{port}{base_path}"), &key.reveal()) {
        // Nobody knows the key or where to look: it ends in order, and leaves no key.
        manager.revoke_key(key.id()).await?;
        server.run(std::future::ready(())).await?;
        return Err(error.into());
    }
    server.run(stop).await?;
    Ok(())
}

/// The configuration: without a file, unless one is given; the database in a folder of its own, unless one is named on
/// the command line, so that nobody's real one is opened to any name by mistake.
fn load(common: &Common, listen: Option<SocketAddr>) -> Result<Config, Failure> {
    let database = common
        .database
        .clone()
        .unwrap_or_else(|| PathBuf::from(DEV_DATABASE));
    Ok(common.load_by(Flags {
        listen,
        database: Some(database),
        // Whoever tries webhooks out has their receiver here; this server answers nobody who could misuse that.
        allow_private: true,
    })?)
}

async fn is_empty(manager: &SessionManager) -> Result<bool, Error> {
    for app in manager.apps().keys() {
        for anonymous in [false, true] {
            let page = manager
                .list_app(app, anonymous, StatusFilter::All, None, 1)
                .await?;
            if !page.sessions.is_empty() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Only hashes of keys are kept, so that each start makes a new one and revokes the old.
async fn fresh_key(manager: &SessionManager) -> Result<ApiKey, Error> {
    for old in manager.list_keys().await? {
        if old.name == DEV_KEY && old.revoked_at.is_none() {
            manager.revoke_key(old.id).await?;
        }
    }
    let (_, key) = manager.create_key(&AppName::default_app(), DEV_KEY).await?;
    Ok(key)
}

fn print_welcome(url: &str, key: &str) -> Result<(), OutputError> {
    output::line(format_args!(
        "\
sessiond dev is ready.

  Dashboard      {url}/          sign in as anybody; ada, grace and linus have sessions
  API reference  {url}/docs
  Stop           Ctrl-C; the database stays in place for the next start

An API key for trying it out; each start makes a new one:

  export KEY={key}

Start a session for ada, look at her sessions, check a token, sign her out everywhere:

  curl -s {url}/v1/sessions -H \"Authorization: Bearer $KEY\" \\
    -H 'Content-Type: application/json' -d '{{\"user_id\":\"ada\"}}'
  curl -s {url}/v1/users/ada/sessions -H \"Authorization: Bearer $KEY\"
  curl -s {url}/v1/session -H \"Authorization: Bearer $TOKEN\"
  curl -s -X DELETE {url}/v1/users/ada/sessions -H \"Authorization: Bearer $KEY\"

Move the server's clock, here by a day:

  curl -s {url}/dev/clock -H 'Content-Type: application/json' -d '{{\"advance_secs\":86400}}'
"
    ))
}

/// One sign-in of a sample person: how long after the first, who, with what, from where.
struct Sample {
    hours: u64,
    user: &'static str,
    user_agent: &'static str,
    address: &'static str,
    name: Option<&'static str>,
    then: Then,
}

/// What becomes of it.
#[derive(Clone, Copy)]
enum Then {
    /// It is used every day, the last time so many hours after the first sign-in of all.
    Used(u64),
    /// The same, but in that hour from another address.
    Travels(u64, u64, &'static str),
    /// The same, and in that hour its owner ends all others from it.
    EndsOthers(u64, u64),
    /// It is used every day until somebody ends it for a reason.
    Ended(u64, &'static str, EndedBy),
    /// Nothing: it lies there.
    Left,
}

const MAC_CHROME: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) \
     Chrome/154.0.0.0 Safari/537.36";
const WINDOWS_EDGE: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
     Chrome/154.0.0.0 Safari/537.36 Edg/154.0.0.0";
const LINUX_FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0";
const IPHONE_SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, \
     like Gecko) Version/26.1 Mobile/15E148 Safari/604.1";
const IPAD_SAFARI: &str = "Mozilla/5.0 (iPad; CPU OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
     Version/17.6 Mobile/15E148 Safari/604.1";
const ANDROID_CHROME: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
     Chrome/154.0.0.0 Mobile Safari/537.36";
const GALAXY_SAMSUNG: &str = "Mozilla/5.0 (Linux; Android 15; SM-S928B) AppleWebKit/537.36 (KHTML, like Gecko) \
     SamsungBrowser/29.0 Chrome/136.0.0.0 Mobile Safari/537.36";
const OWN_APP: &str = "PocketNotes/3.1 (iPhone; iOS 18.5; Scale/3.00)";

// Public addresses of well-known networks, so that the places are real ones.
const BERLIN: &str = "194.25.2.129";
const ZURICH: &str = "130.59.31.80";
const TOKYO: &str = "202.12.27.33";
const LONDON: &str = "212.58.244.22";
const NEW_YORK: &str = "128.59.105.24";
const AMSTERDAM: &str = "193.0.14.129";

const SAMPLES: &[Sample] = &[
    sample(0, "ada", IPAD_SAFARI, LONDON, None, Then::Left),
    sample(
        2,
        "linus",
        LINUX_FIREFOX,
        ZURICH,
        Some("Workshop"),
        Then::Used(270),
    ),
    sample(20, "grace", WINDOWS_EDGE, NEW_YORK, None, Then::Used(188)),
    sample(
        48,
        "ada",
        WINDOWS_EDGE,
        TOKYO,
        None,
        Then::Ended(75, Reason::MANUAL, EndedBy::User),
    ),
    sample(
        60,
        "linus",
        ANDROID_CHROME,
        LONDON,
        None,
        Then::Ended(96, Reason::CREDENTIALS_CHANGED, EndedBy::App),
    ),
    sample(
        70,
        "ada",
        MAC_CHROME,
        BERLIN,
        Some("Work laptop"),
        Then::Travels(287, 215, AMSTERDAM),
    ),
    sample(
        120,
        "ada",
        ANDROID_CHROME,
        AMSTERDAM,
        None,
        Then::Ended(122, Reason::LOGOUT, EndedBy::User),
    ),
    sample(
        150,
        "grace",
        IPHONE_SAFARI,
        NEW_YORK,
        None,
        Then::EndsOthers(286, 200),
    ),
    sample(190, "ada", OWN_APP, BERLIN, None, Then::Used(284)),
    sample(210, "linus", GALAXY_SAMSUNG, ZURICH, None, Then::Used(280)),
    sample(230, "grace", MAC_CHROME, AMSTERDAM, None, Then::Used(240)),
    sample(275, "ada", IPHONE_SAFARI, BERLIN, None, Then::Used(287)),
    sample(
        285,
        "linus",
        "curl/8.16.0",
        ZURICH,
        Some("Backup job"),
        Then::Used(287),
    ),
];

const fn sample(
    hours: u64,
    user: &'static str,
    user_agent: &'static str,
    address: &'static str,
    name: Option<&'static str>,
    then: Then,
) -> Sample {
    Sample {
        hours,
        user,
        user_agent,
        address,
        name,
        then,
    }
}

/// Lets the sample people live through the last days: the clock starts in the past and moves to the present, and
/// everything goes through the manager as it would have then.
async fn seed(manager: &SessionManager) -> Result<(), Error> {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let app = AppName::default_app();
    let clock = manager.clock();
    let mut made: Vec<(&Sample, SessionId)> = Vec::new();
    for hour in 0..SAMPLE_HOURS {
        for sample in SAMPLES.iter().filter(|sample| sample.hours == hour) {
            let sign_in = SignIn {
                user_id: UserId::parse(sample.user),
                ip_address: sample.address.parse().ok(),
                user_agent: Some(sample.user_agent.to_owned()),
                name: sample.name.map(str::to_owned),
                ..SignIn::default()
            };
            made.push((sample, manager.create(&app, sign_in).await?.session.id));
        }
        for (sample, id) in &made {
            let last = match sample.then {
                Then::Ended(end, reason, by) => {
                    if hour == end {
                        let revocation = Revocation::new(reason, by);
                        manager.revoke(&app, *id, Owner::Anyone, revocation).await?;
                    }
                    end.saturating_sub(1)
                }
                Then::EndsOthers(last, end) => {
                    if let Some(user_id) = UserId::parse(sample.user).filter(|_| hour == end) {
                        let revocation = Revocation::new(Reason::LOGOUT_ALL, EndedBy::User);
                        manager
                            .revoke_user_sessions(&app, user_id, Some(*id), revocation)
                            .await?;
                    }
                    last
                }
                Then::Used(last) | Then::Travels(last, ..) => last,
                Then::Left => continue,
            };
            let address = match sample.then {
                Then::Travels(_, away, to) if hour == away => to,
                _ => sample.address,
            };
            let is_used =
                sample.hours < hour && hour <= last && (last - hour).is_multiple_of(USED_EVERY_HOURS);
            if is_used {
                match manager.touch(&app, *id, address.parse().ok()).await {
                    // A configuration may have shorter deadlines or smaller limits than the samples are made for.
                    Ok(_) | Err(Error::SessionEnded(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        sweeper::tick(manager).await?;
        clock.advance(HOUR);
    }
    Ok(())
}
