//! What must hold of whatever others send, written once: the targets of `cargo fuzz` look for input that breaks it, and a
//! test of the project holds the kept input (`corpus`) to it without a fuzzer.
//!
//! Each function reads its input as the server gets it and asserts more than that nothing panics: what is read is printed back
//! as the same, what is refused is left as it was, what is answered stands in the input.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use actix_web::http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use actix_web::test::TestRequest;
use ipnet::IpNet;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};
use sessiond::config::{Config, Flags};
use sessiond::data::{DATA_LEN_MAX, Data, DataChange, DataPath, is_too_deep};
use sessiond::enrich::device::describe;
use sessiond::event::EventId;
use sessiond::http::{address, cookie, input, me, sessions, sign_ins, users, webhooks};
use sessiond::session::{ApiKey, AppName, ClientHints, SessionId, Token, bounded_user_agent};
use sessiond::user::UserId;
use sessiond::webhook::SigningSecret;

/// The name of the cookie that is looked for.
const COOKIE_NAME: &str = "__Host-session";
/// An address that is no proxy's, and that no input has.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));

/// Tokens, keys and ids: what is read is one text and no other, and shows no secret.
pub fn tokens(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let token = Token::parse(text);
    let key = ApiKey::parse(text);
    assert!(token.is_none() || key.is_none(), "one text is token and key");
    if let Some(token) = token {
        assert_eq!(token.reveal(), text);
        assert!(!format!("{token:?}").contains(&text[26..]), "a token is shown");
    }
    if let Some(key) = key {
        assert_eq!(key.reveal(), text);
        assert!(!format!("{key:?}").contains(&text[26..]), "a key is shown");
    }
    if let Some(id) = SessionId::parse(text) {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Some(id) = EventId::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Some(secret) = SigningSecret::parse(text) {
        let printed = secret.reveal();
        assert_eq!(
            SigningSecret::parse(&printed).map(|again| again.reveal()),
            Some(printed)
        );
    }
    if let Some(user_id) = UserId::parse(text) {
        assert!(user_id.as_str() == text && text.len() <= 255 && !text.contains(char::is_control));
    }
    if let Some(app) = AppName::parse(text) {
        assert!(app.as_str() == text && text.len() <= 63 && text.is_ascii());
    }
}

/// `Cookie` headers, one a line: ours is found wherever it stands, and none of another name.
pub fn cookies(input: &[u8]) {
    let found = |lines: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            // What is no header does not come so far.
            headers.append(COOKIE, HeaderValue::from_bytes(line).ok()?);
        }
        let values = cookie::values(&headers, COOKIE_NAME).map(str::to_owned);
        Some(values.collect::<Vec<String>>())
    };
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let Some(alone) = found(&lines) else {
        return;
    };
    for value in &alone {
        let whole = format!("{COOKIE_NAME}={value}");
        let is_there = |line: &&[u8]| line.windows(whole.len()).any(|part| part == whole.as_bytes());
        assert!(lines.iter().any(is_there), "{value:?} was not sent");
    }
    for line in &lines {
        let around = found(&[line]).expect("it is a header");
        for (others, expected) in [
            (format!("{COOKIE_NAME}=ours"), true),
            ("__host-session=not-ours".to_owned(), false),
            (format!("{COOKIE_NAME}-b=not-ours"), false),
            (format!("x{COOKIE_NAME}=not-ours"), false),
        ] {
            let between = [line, others.as_bytes(), line].join(&b"; "[..]);
            let mut all = around.clone();
            all.extend(expected.then(|| "ours".to_owned()));
            all.extend(around.iter().cloned());
            assert_eq!(found(&[&between]), Some(all), "with {others}");
        }
    }
}

/// Forwarding headers, one a line; those that begin with `F` are `Forwarded`, others `X-Forwarded-For`. The address is the
/// peer's or one that was sent, and what the proxy adds itself cannot be talked away.
pub fn forwarded(input: &[u8]) {
    const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1);
    let proxies: [IpNet; 2] =
        ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().expect("a network"));
    let (forwarded, for_) = (
        HeaderName::from_static("forwarded"),
        HeaderName::from_static("x-forwarded-for"),
    );
    let mut headers = Vec::new();
    for line in input.split(|byte| *byte == b'\n') {
        let (name, value) = match line.split_first() {
            Some((b'F', value)) => (&forwarded, value),
            Some((_, value)) => (&for_, value),
            None => continue,
        };
        match HeaderValue::from_bytes(value) {
            Ok(value) => headers.push((name.clone(), value)),
            Err(_) => return,
        }
    }
    let resolve = |headers: &[(HeaderName, HeaderValue)], trusted: &[IpNet]| {
        let mut request = TestRequest::default().peer_addr(PROXY);
        for header in headers {
            request = request.append_header(header.clone());
        }
        address::of_request(&request.to_http_request(), trusted)
    };
    let direct = resolve(&headers, &[]);
    assert_eq!((direct.address, direct.is_forwarded), (Some(PROXY.ip()), false));
    let caller = resolve(&headers, &proxies);
    assert_eq!(caller.peer, Some(PROXY.ip()));
    match caller.address {
        Some(address) if caller.is_forwarded => {
            let is_sent = headers
                .iter()
                .any(|(_, value)| addresses(value).contains(&address));
            assert!(is_sent, "{address} was not sent");
        }
        Some(address) => assert_eq!(address, PROXY.ip()),
        None => assert!(!caller.is_forwarded),
    }
    // The proxy's own header after the others decides.
    let is_by_forwarded = headers.iter().any(|(name, _)| *name == forwarded);
    let (name, hop) = match is_by_forwarded {
        true => (forwarded, format!("for={CLIENT}")),
        false => (for_, CLIENT.to_string()),
    };
    let mut appended = headers.clone();
    appended.push((name.clone(), HeaderValue::from_str(&hop).expect("text")));
    assert_eq!(resolve(&appended, &proxies).address, Some(CLIENT));
    // So does what it adds to the last one, unless nobody can tell what that says.
    if let Some((_, last)) = headers.iter_mut().rev().find(|(known, _)| *known == name) {
        let value = [last.as_bytes(), b", ", hop.as_bytes()].concat();
        *last = HeaderValue::from_bytes(&value).expect("it was one before");
        let address = resolve(&headers, &proxies).address;
        assert!(address.is_none_or(|address| address == CLIENT), "{address:?}");
    }
}

/// Every address that stands in a header, with a port or without.
fn addresses(value: &HeaderValue) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let is_other = |c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.');
    let address = |part: &str| {
        let with_port = || part.parse::<SocketAddr>().map(|both| both.ip());
        part.parse().or_else(|_| with_port()).ok()
    };
    let found = text.split(is_other).filter_map(address);
    found.map(|address: IpAddr| address.to_canonical()).collect()
}

/// User agents and client hints: what is shown of them is short and plain, and always the same.
pub fn devices(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let user_agent = lines.next();
    let mut next = || lines.next().map(str::to_owned);
    let hints = ClientHints {
        platform: next(),
        platform_version: next(),
        model: next(),
        mobile: next().map(|mobile| mobile == "?1"),
        brands: std::iter::from_fn(|| Some((next()?, next().unwrap_or_default()))).collect(),
    };
    for hints in [ClientHints::default(), hints] {
        let device = describe(user_agent, &hints);
        assert_eq!(device, describe(user_agent, &hints));
        let Some(device) = device else {
            continue;
        };
        for field in [
            &device.browser,
            &device.browser_version,
            &device.os,
            &device.os_version,
        ]
        .into_iter()
        .flatten()
        {
            let is_plain = |c: char| c.is_alphanumeric() || " ._-+&!:@/()".contains(c);
            assert!(field.chars().all(is_plain), "{field:?}");
            assert!((1..=64).contains(&field.chars().count()), "{field:?}");
        }
    }
    if let Some(kept) = user_agent.and_then(bounded_user_agent) {
        assert!(kept.len() <= 512 && !kept.contains(char::is_control));
        assert_eq!(bounded_user_agent(&kept).as_ref(), Some(&kept));
    }
}

/// JSON bodies of every call that takes one: 400 for what is no JSON, 422 for what has another form, and a problem that can be
/// sent.
pub fn bodies(input: &[u8]) {
    let is_json = serde_json::from_slice::<IgnoredAny>(input).is_ok() && std::str::from_utf8(input).is_ok();
    body::<sign_ins::CreateSession>(input, is_json);
    body::<sign_ins::AuthenticateSession>(input, is_json);
    body::<sessions::CheckSession>(input, is_json);
    body::<sessions::UpdateSession>(input, is_json);
    body::<sessions::TouchSession>(input, is_json);
    body::<me::RenameSession>(input, is_json);
    body::<users::UpdateUser>(input, is_json);
    body::<webhooks::CreateWebhook>(input, is_json);
    body::<webhooks::UpdateWebhook>(input, is_json);
    body::<webhooks::ReplayRange>(input, is_json);
}

fn body<T: DeserializeOwned>(input: &[u8], is_json: bool) {
    match input::parse::<T>(input) {
        Ok(_) => {
            let is_object = input.trim_ascii_start().starts_with(b"{");
            assert!(is_json && is_object, "read what is no object");
        }
        Err(problem) => {
            assert_eq!(
                problem.code().status(),
                if is_json { 422 } else { 400 },
                "{problem}"
            );
            let sent: Value = serde_json::from_str(&problem.to_json("id")).expect("a problem is JSON");
            assert_eq!(sent["code"], problem.code().as_str());
        }
    }
}

/// Changes of a session's data, one a line: `P`, `M`, `R` or `T` (put, merge, remove, take), a path or nothing, a tab, and JSON
/// for the first two. Refused ones change nothing, merges are those of RFC 7396, and the text is read back as the same.
pub fn data(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut data = Data::default();
    for line in text.split('\n') {
        let (place, json) = line.split_once('\t').unwrap_or((line, "null"));
        let mut place = place.chars();
        let (kind, path) = (place.next(), place.as_str());
        let at = DataPath::parse(path);
        if at.is_none() && !path.is_empty() {
            continue;
        }
        let Ok(value) = serde_json::from_str::<Value>(json) else {
            continue;
        };
        let before = data.clone();
        let there = before.get(at.as_ref());
        let (change, expected) = match kind {
            Some('P') => (DataChange::Put(value.clone()), value),
            Some('M') => (DataChange::Merge(value.clone()), merged(there.clone(), &value)),
            Some('R') => (DataChange::Remove, nothing(at.is_none())),
            Some('T') => (DataChange::Take, nothing(at.is_none())),
            _ => continue,
        };
        match data.apply(at.as_ref(), &change) {
            Ok(changed) => {
                assert_eq!(data.get(at.as_ref()), expected);
                let answered = if matches!(change, DataChange::Take) {
                    there
                } else {
                    expected
                };
                assert_eq!(changed.value, answered);
            }
            Err(error) => assert_eq!(data, before, "{error:?} changed something"),
        }
        let text = data.to_text();
        assert!(text.len() <= DATA_LEN_MAX);
        let Value::Object(all) = data.get(None) else {
            panic!("data is an object");
        };
        assert!(!is_too_deep(&all));
        assert_eq!(Data::from_stored(&text).as_ref(), Some(&data));
    }
}

fn nothing(is_all: bool) -> Value {
    if is_all {
        Value::Object(Map::new())
    } else {
        Value::Null
    }
}

/// RFC 7396, section 2, as it is printed there.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let there = target.get(name).cloned().unwrap_or(Value::Null);
            target.insert(name.clone(), merged(there, value));
        }
    }
    Value::Object(target)
}

/// A configuration, in this file: what is taken is printed as a file that says the same, what is refused is told in lines that a
/// terminal can show.
pub fn config(input: &[u8], file: &Path) {
    let load = |text: &[u8]| {
        std::fs::write(file, text).expect("a file that can be written");
        Config::load(Some(file), std::iter::empty(), Flags::default())
    };
    match load(input) {
        // Their secrets are not printed, so that they are not read back.
        Ok(config) if !config.webhooks.named.is_empty() => {}
        Ok(config) => {
            let printed = config.to_toml();
            let again = load(printed.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{printed}"));
            assert_eq!(again.to_toml(), printed);
        }
        Err(error) => {
            assert!(!error.mistakes.is_empty());
            for mistake in &error.mistakes {
                let line = mistake.to_string();
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
}
