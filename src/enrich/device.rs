//! What a session was opened with: browser, operating system and kind of device, out of the `User-Agent`
//! string and the client hints, for a person who asks "is this one mine?".
//!
//! The string is history: each browser claims to be those before it, so the *most specific* name wins,
//! and the tables are asked in that order (an app in a WebView of Chrome which claims Safari). `woothee`
//! is asked for the crawlers and feature phones of the 2010s that no table here repeats; its browsers end
//! at about 2019.
//!
//! Invariants:
//! - Total, and the same answer for the same string: any has one or `None`, in time linear in `INPUT_BYTES_MAX`.
//! - Output is written by attackers (a program picks its own name): at most `FIELD_CHARS_MAX`
//!   characters out of a small alphabet, so no control characters, no markup, no bidirectional overrides.
//! - A version that browsers froze for privacy (macOS 10.15.7, Windows 10, "Android 10; K") is no
//!   version.
//! - Absent on purpose: models, engines, processors. Nobody recognises a session by them, trackers do.
//!
//! Sources: RFC 9110 section 10.1.5; User-Agent Client Hints (WICG); Chromium's "User-Agent Reduction";
//! Microsoft's "Detect Windows 11 using User-Agent Client Hints"; labelled strings as in
//! `tests/all/device_names.tsv`.

mod hints;
mod names;

use std::cell::RefCell;
use std::num::NonZeroUsize;

use lru::LruCache;

use self::hints::apply_hints;
use self::names::*;
use crate::session::{ClientHints, Device, DeviceType};

/// Real strings stay under 700 bytes (Facebook's are the longest); what follows this many is not looked
/// at.
const INPUT_BYTES_MAX: usize = 2048;
/// Strings that a thread remembers, of [`INPUT_BYTES_MAX`] each at most.
const STRINGS_KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Longest value of any field. Names in the tables are far shorter; only names that programs choose are
/// cut.
const FIELD_CHARS_MAX: usize = 64;

/// Who wrote the string.
struct Author {
    name: String,
    version: Option<String>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bot,
    Browser,
    FeaturePhone,
    Program,
}

impl Author {
    fn new(name: &str, rest: &str, kind: Kind) -> Author {
        Author {
            name: name.to_owned(),
            version: version(rest),
            kind,
        }
    }
}

/// Describes the device, or `None` when nothing at all is recognised. Client hints win over the string
/// wherever browsers froze the string; a bot is believed about being one, never about what it dresses up
/// as.
pub fn describe(user_agent: Option<&str>, hints: &ClientHints) -> Option<Device> {
    let mut device = recall(clip(user_agent.unwrap_or_default().trim()));
    if !device.is_bot {
        apply_hints(&mut device, hints);
    }
    (device.browser.is_some() || device.os.is_some() || device.device_type.is_some()).then_some(device)
}

/// What the string tells, from memory if it came lately: most people share a few hundred strings, and asking all tables
/// takes as long as the rest of a sign-in. Each thread has its own memory, so that nobody waits.
fn recall(ua: &str) -> Device {
    thread_local! {
        static KNOWN: RefCell<LruCache<Box<str>, Device>> = RefCell::new(LruCache::new(STRINGS_KNOWN_MAX));
    }
    KNOWN.with_borrow_mut(|known| {
        if let Some(device) = known.get(ua) {
            return device.clone();
        }
        let device = read(ua);
        known.put(ua.into(), device.clone());
        device
    })
}

fn read(ua: &str) -> Device {
    let author = bot(ua)
        .or_else(|| listed(ua, APPS))
        .or_else(|| listed(ua, BROWSERS))
        .or_else(|| plain_browser(ua))
        .or_else(|| electron(ua))
        .or_else(|| {
            if ua.starts_with("Mozilla/") {
                browser_like(ua)
            } else {
                self_named(ua)
            }
        });
    device_by(author, ua)
}

fn browser_like(ua: &str) -> Option<Author> {
    engine(ua).or_else(|| legacy(ua)).or_else(|| stranger(ua))
}

fn self_named(ua: &str) -> Option<Author> {
    legacy(ua).or_else(|| program(ua)).or_else(|| engine(ua))
}

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(INPUT_BYTES_MAX)]
}

fn device_by(author: Option<Author>, ua: &str) -> Device {
    let kind = author.as_ref().map(|author| author.kind);
    let is_bot = kind == Some(Kind::Bot);
    let os = if is_bot { None } else { operating_system(ua) };
    let device_type = match kind {
        Some(Kind::Bot) => Some(DeviceType::Program),
        Some(Kind::FeaturePhone) => Some(DeviceType::Phone),
        // A program that states its phone is the app on that phone; the kernel's name alone is no
        // statement.
        Some(Kind::Program) if has(ua, "Darwin/") && !has_any(ua, "iPhone|iPad|iPod") => {
            Some(DeviceType::Program)
        }
        Some(Kind::Program) => match device_type(ua, os) {
            Some(DeviceType::Desktop) | None => Some(DeviceType::Program),
            handheld => handheld,
        },
        Some(Kind::Browser) | None => device_type(ua, os),
    };
    let (browser, browser_version) =
        author.map_or((None, None), |author| (tidy(&author.name), author.version));
    Device {
        browser,
        browser_version,
        os: os.map(str::to_owned),
        os_version: os.and_then(|os| os_version(ua, os)),
        device_type,
        is_bot,
    }
}

// ---- Reading strings ----

/// The rest of `ua` behind the first place where `token` stands as a word of its own: no letter may
/// continue it, but a number may stand on either side (`iPhone14,5`, `Safari/537.36Snapchat/12`).
fn after<'a>(ua: &'a str, token: &str) -> Option<&'a str> {
    let begins_word = token.starts_with(char::is_alphabetic);
    let ends_word = token.ends_with(char::is_alphabetic);
    ua.match_indices(token).find_map(|(at, _)| {
        let rest = &ua[at + token.len()..];
        let is_inside = (begins_word && ua[..at].ends_with(char::is_alphabetic))
            || (ends_word && rest.starts_with(char::is_alphabetic));
        (!is_inside).then_some(rest)
    })
}

fn after_any<'a>(ua: &'a str, tokens: &str) -> Option<&'a str> {
    tokens.split('|').find_map(|token| after(ua, token))
}

fn has(ua: &str, token: &str) -> bool {
    after(ua, token).is_some()
}

fn has_any(ua: &str, tokens: &str) -> bool {
    after_any(ua, tokens).is_some()
}

/// `major.minor` at the start of `rest`, past one separator; the numbers behind say too much and help
/// nobody.
fn version(rest: &str) -> Option<String> {
    let rest = rest.strip_prefix(['/', ' ', '_', ':', '-']).unwrap_or(rest);
    let rest = rest.strip_prefix('v').unwrap_or(rest);
    let (major, rest) = rest.split_at(digits(rest));
    let minor = rest
        .strip_prefix(['.', '_'])
        .map_or("", |rest| &rest[..digits(rest)]);
    match (major.len(), minor.len()) {
        (1..=5, 1..=5) => Some(format!("{major}.{minor}")),
        (1..=5, _) => Some(major.to_owned()),
        _ => None,
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn major(version: &str) -> u32 {
    version[..digits(version).min(5)].parse().unwrap_or(0)
}

/// Keeps what a person can read in a list: no control or bidirectional characters, no markup, bounded.
fn tidy(text: &str) -> Option<String> {
    let is_readable = |c: &char| c.is_alphanumeric() || " ._-+&!:@".contains(*c);
    let kept: String = text
        .trim()
        .chars()
        .filter(is_readable)
        .take(FIELD_CHARS_MAX)
        .collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

// ---- Who: browsers ----

fn listed(ua: &str, names: Names) -> Option<Author> {
    names.iter().find_map(|(name, tokens)| {
        let rest = after_any(ua, tokens)?;
        // Some state their version elsewhere: Facebook's apps in a field, old Opera and Explorer under
        // other names.
        let rest = match *name {
            "Facebook" | "Messenger" => after(ua, "FBAV/").unwrap_or_default(),
            "Opera" => after(ua, "Presto/").and(after(ua, "Version/")).unwrap_or(rest),
            "Internet Explorer" => after_any(ua, "MSIE |rv:").unwrap_or(rest),
            _ => rest,
        };
        Some(Author::new(name, rest, Kind::Browser))
    })
}

fn plain_browser(ua: &str) -> Option<Author> {
    PLAIN_BROWSERS.split_ascii_whitespace().find_map(|name| {
        let rest = after(ua, name).filter(|rest| rest.starts_with('/'))?;
        Some(Author::new(name, rest, Kind::Browser))
    })
}

/// Desktop apps upon Electron put their own product before Chromium's.
fn electron(ua: &str) -> Option<Author> {
    after(ua, "Electron/")?;
    let before = &ua[..ua.find("Chrome/")?];
    let own = before
        .rsplit(' ')
        .find_map(|word| word.split_once('/'))
        .filter(|(name, _)| *name != "AppleWebKit");
    let (name, rest) = own.unwrap_or(("Electron", ""));
    Some(Author::new(name, rest, Kind::Browser))
}

/// The engine itself, when no product upon it has been found.
fn engine(ua: &str) -> Option<Author> {
    let is_webkit = has(ua, "AppleWebKit/");
    let (name, rest) = if let Some(rest) = after_any(ua, "FxiOS/|Firefox/") {
        ("Firefox", rest)
    } else if let Some(rest) = after_any(ua, "CriOS/|CrMo/|Chrome/") {
        // Android's WebView says so since 5.0; that of 4.4 is told by a Version, which Chrome never
        // states.
        let is_view = has(ua, "wv)") || (has(ua, "Android") && has(ua, "Version/4.0"));
        (if is_view { "WebView" } else { "Chrome" }, rest)
    } else if is_webkit && has(ua, "Safari") {
        (own_webkit_browser(ua), after(ua, "Version/").unwrap_or_default())
    } else if is_webkit && has_any(ua, "iPhone|iPad|iPod|Macintosh") {
        ("WebView", "")
    } else {
        return None;
    };
    Some(Author::new(name, rest, Kind::Browser))
}

/// Before Chromium was everywhere, makers shipped a WebKit of their own under Safari's name.
fn own_webkit_browser(ua: &str) -> &'static str {
    match operating_system(ua) {
        Some("Android") => "Android Browser",
        Some("Tizen") => "Samsung Internet",
        Some("BlackBerry") => "BlackBerry Browser",
        Some("PlayStation") => "PlayStation Browser",
        Some("webOS") => "LG Browser",
        _ => "Safari",
    }
}

// ---- Who: bots ----

/// A crawler by the tables, by its own word, or by the address that crawlers leave (`+http`).
fn bot(ua: &str) -> Option<Author> {
    let plain = || {
        PLAIN_BOTS
            .split_ascii_whitespace()
            .find_map(|name| Some(Author::new(name, after(ua, name)?, Kind::Bot)))
    };
    // The messenger's app fetches previews under this name; what it shows pages with is the system's
    // browser.
    let preview = || {
        let rest = ua
            .strip_prefix("WhatsApp")
            .filter(|_| operating_system(ua).is_none())?;
        Some(Author::new("WhatsApp", rest, Kind::Bot))
    };
    let known = listed(ua, BOTS).map(|author| Author {
        kind: Kind::Bot,
        ..author
    });
    known
        .or_else(plain)
        .or_else(preview)
        .or_else(|| self_called(ua))
        .or_else(|| addressed(ua))
}

/// `Googlebot/2.1`, `Googlebot-Image/1.0`, `Better Uptime Bot`: by the word for what it is.
fn self_called(ua: &str) -> Option<Author> {
    let is_edge = |c: char| c.is_whitespace() || "();,[]{}<>\"'|".contains(c);
    ua.split(is_edge).find_map(|word| {
        let (product, _) = word.split_once('/').unwrap_or((word, ""));
        let name = &product[..bot_word_end(product)?];
        let start = word.as_ptr() as usize - ua.as_ptr() as usize;
        let rest = &ua[start + product.len()..];
        if !BOT_WORDS.split('|').any(|bot| bot.eq_ignore_ascii_case(name)) {
            return Some(Author::new(name.trim_start_matches('+'), rest, Kind::Bot));
        }
        // "M bot 54" is a phone; among its kind a bare word is a model.
        let is_model = ua.starts_with("Mozilla/") && has(ua, "Android") && !rest.starts_with('/');
        (!is_model).then(|| Author::new(&format!("{} {name}", last_phrase(&ua[..start])), rest, Kind::Bot))
    })
}

/// Where in a product's name the word for a crawler ends: it is the last one, or a hyphen follows.
/// Google's fetchers of every purpose begin with its name instead. The phone maker Cubot is none of them.
fn bot_word_end(product: &str) -> Option<usize> {
    if product.starts_with("Google-") {
        return Some(product.len());
    }
    let lower = product.to_ascii_lowercase();
    if lower.starts_with("cubot") || lower.contains(['@', '=', ':']) {
        return None;
    }
    BOT_WORDS.split('|').find_map(|bot| {
        let end = lower.rfind(bot)? + bot.len();
        (end == lower.len() || lower[end..].starts_with('-')).then_some(end)
    })
}

fn addressed(ua: &str) -> Option<Author> {
    if library(ua).is_some() || has(ua, "MSIE") {
        return None;
    }
    if let Some(product) = after(ua, "compatible; ").filter(|product| product.contains("http")) {
        return first_product(product);
    }
    let before = ua[..ua.find("+http")?].trim_end_matches([' ', ';', '(', ',', '-']);
    let (name, rest) = match before.rfind('/') {
        Some(slash) => before.split_at(slash),
        None => (before, ""),
    };
    let name = last_phrase(name);
    tidy(name).map(|_| Author::new(name, rest, Kind::Bot))
}

/// `Mozilla/5.0 (compatible; Somebody/1.0)` that states no system is no person's browser.
fn stranger(ua: &str) -> Option<Author> {
    let author = first_product(after(ua, "compatible; ")?)?;
    (author.name.len() > 1 && operating_system(ua).is_none()).then_some(author)
}

fn first_product(text: &str) -> Option<Author> {
    let name = text.split(['/', ';', '(', ')', ',']).next().unwrap_or_default();
    tidy(name).map(|_| Author::new(name, &text[name.len()..], Kind::Bot))
}

/// The words between the last product or bracket and the end: "Screaming Frog SEO" of a spider.
fn last_phrase(text: &str) -> &str {
    let text = text.rsplit([';', '(', ')', ',', '[']).next().unwrap_or_default();
    match text.rfind('/') {
        Some(slash) => text[slash..]
            .split_once(' ')
            .map_or("", |(_, phrase)| phrase)
            .trim(),
        None => text.trim(),
    }
}

// ---- Who: programs ----

/// An app or tool that names itself first (`MyApp/3.1 (…)`), as RFC 9110 asks.
fn program(ua: &str) -> Option<Author> {
    if let Some(library) = library(ua) {
        return Some(library);
    }
    let (name, rest) = ua.split_once('/').or_else(|| spaced_version(ua))?;
    let is_product = !name.eq_ignore_ascii_case("Mozilla")
        && !name.contains(['(', ')', ';', ',', '"', '<', '>', '='])
        && name.split(' ').count() <= 4
        && rest
            .strip_prefix('v')
            .unwrap_or(rest)
            .starts_with(|c: char| c.is_ascii_digit());
    is_product.then(|| Author::new(&percent_decoded(name), rest, Kind::Program))
}

/// `MyApp 3.1 (iPhone; iOS 9.3; en_US)`, as older Apple libraries wrote it.
fn spaced_version(ua: &str) -> Option<(&str, &str)> {
    let (product, _) = ua.split_once(" (").filter(|_| operating_system(ua).is_some())?;
    product.rsplit_once(' ')
}

fn library(ua: &str) -> Option<Author> {
    // "Python/3.12 aiohttp/3.9": the only one that lets its language go first.
    if let Some(rest) = after(ua, "aiohttp/").filter(|_| ua.starts_with("Python/")) {
        return Some(Author::new("aiohttp", rest, Kind::Program));
    }
    let named = |name: &str, token: &str| {
        let is_longer = |rest: &&str| rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
        let rest = ua.strip_prefix(token).filter(|rest| !is_longer(rest))?;
        Some(Author::new(name, rest, Kind::Program))
    };
    let listed = |(name, tokens): &(&str, &str)| tokens.split('|').find_map(|token| named(name, token));
    let plain = || {
        PLAIN_LIBRARIES
            .split_ascii_whitespace()
            .find_map(|name| named(name, name))
    };
    LIBRARIES.iter().find_map(listed).or_else(plain)
}

/// Apple's network library percent-encodes the app's name.
fn percent_decoded(name: &str) -> String {
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What `woothee` knows and the tables do not repeat.
fn legacy(ua: &str) -> Option<Author> {
    let known = woothee::parser::Parser::new().parse(ua)?;
    let kind = match known.category {
        "crawler" if known.name != "misc crawler" => Kind::Bot,
        "mobilephone" if operating_system(ua).is_none() => Kind::FeaturePhone,
        _ => return None,
    };
    Some(Author::new(known.name, "", kind))
}

// ---- On what ----

fn operating_system(ua: &str) -> Option<&'static str> {
    match SYSTEMS
        .iter()
        .find(|(_, tokens)| has_any(ua, tokens))
        .map(|(os, _)| *os)
    {
        Some("macOS") if has_any(ua, IOS_ONLY) => Some("iPadOS"),
        // Apple's network library names the kernel only. Macs have added their processor; without one it
        // is, by far most often, an iPhone.
        None if has(ua, "Darwin/") => Some(if has_any(ua, "x86_64|i386|arm64|Power") {
            "macOS"
        } else {
            "iOS"
        }),
        os => os,
    }
}

fn os_version(ua: &str, os: &str) -> Option<String> {
    match os {
        "Windows" => windows_version(ua),
        "macOS" => macos_version(after_any(ua, "Mac OS X |Mac OS X/|macOS |macOS/")?, ua),
        "iOS" | "iPadOS" => {
            let tokens = "CPU iPhone OS |CPU OS |iPhone OS |iPadOS |iPadOS/|iOS |iOS/";
            ios_version(after_any(ua, tokens)?, ua)
        }
        // Chrome writes "Android 10; K" for every version since its reduction.
        "Android" => after(ua, "Android")
            .filter(|rest| !rest.starts_with(" 10; K"))
            .and_then(version),
        "ChromeOS" | "Linux" | "Xbox" => None,
        _ => {
            let (_, tokens) = SYSTEMS.iter().find(|(name, _)| *name == os)?;
            tokens.split('|').find_map(|token| version(after(ua, token)?))
        }
    }
}

fn windows_version(ua: &str) -> Option<String> {
    if let Some(rest) = after(ua, "Windows NT ") {
        let known = WINDOWS_NT.iter().find(|(_, kernel)| rest.starts_with(kernel));
        return known
            .map(|(name, _)| (*name).to_owned())
            .or_else(|| windows_by_build(rest));
    }
    let rest = after(ua, "Windows ")?;
    windows_by_build(rest).or_else(|| version(rest).filter(|version| !version.starts_with("10.")))
}

/// Programs state the build, which browsers hide: 22000 was the first Windows 11.
fn windows_by_build(rest: &str) -> Option<String> {
    let build = major(rest.strip_prefix("10.0.")?);
    (build > 0).then(|| if build >= 22_000 { "11" } else { "10" }.to_owned())
}

/// Safari froze at 10_15_7 with version 14, Chromium and Firefox at about that time; 10_16 is how 11 hid
/// at first.
fn macos_version(rest: &str, ua: &str) -> Option<String> {
    let is_frozen = rest.starts_with("10_15_7") || rest.starts_with("10.15;") || rest.starts_with("10.15)");
    let is_real = has(ua, "Version/13") && !has(ua, "Chrome/");
    match version(rest) {
        Some(_) if is_frozen && !is_real => None,
        Some(version) if version == "10.16" => Some("11".to_owned()),
        version => version,
    }
}

/// WebKit froze the system at 18_6, then 18_7, with iOS 26. Safari is a part of iOS and tells by its own
/// version, Facebook's apps by a field; else these two are no version.
fn ios_version(rest: &str, ua: &str) -> Option<String> {
    let is_frozen = rest.starts_with("18_6 ") || rest.starts_with("18_7 ");
    let told = after_any(ua, "Version/|FBSV/").and_then(version);
    match told {
        Some(told) if is_frozen && major(&told) >= 26 => Some(told),
        None if is_frozen => None,
        _ => version(rest),
    }
}

fn device_type(ua: &str, os: Option<&str>) -> Option<DeviceType> {
    let is_tv = || has_any(ua, TV_WORDS) || ua.contains(FIRE_TV);
    let is_tablet = || {
        has_any(ua, TABLET_WORDS)
            || ua.contains(FIRE_TABLET)
            || (has(ua, "AppleWebKit/") && !has(ua, "Mobile"))
    };
    match os {
        Some("Xbox" | "PlayStation" | "Nintendo") => Some(DeviceType::Console),
        Some("tvOS" | "Roku OS" | "VIDAA") => Some(DeviceType::Tv),
        Some("Android" | "Tizen" | "webOS" | "HarmonyOS" | "Linux" | "Fuchsia") | None if is_tv() => {
            Some(DeviceType::Tv)
        }
        Some("iPadOS") => Some(DeviceType::Tablet),
        Some("visionOS" | "watchOS" | "Fuchsia") => None,
        Some("Android") if has(ua, "OculusBrowser/") => None,
        Some("Android" | "HarmonyOS" | "BlackBerry") if is_tablet() => Some(DeviceType::Tablet),
        Some(
            "Windows" | "macOS" | "Linux" | "ChromeOS" | "FreeBSD" | "OpenBSD" | "NetBSD" | "Solaris"
            | "Haiku",
        ) => Some(DeviceType::Desktop),
        Some(_) => Some(DeviceType::Phone),
        None => has_any(ua, "Mobile|MIDP").then_some(DeviceType::Phone),
    }
}
