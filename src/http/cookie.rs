//! The session cookie: its name and attributes by profile, RFC 6265bis.
//!
//! The profile is configuration and never inferred from a request. One cookie per app; its value is the token and
//! nothing else.

use actix_web::http::header::{COOKIE, HeaderMap};

use crate::clock::Timestamp;
use crate::config::{CookieConfig, CookieProfile};
use crate::session::Session;

/// Longest life of a cookie that browsers grant (RFC 6265bis §5.5: 400 days), in seconds.
const MAX_AGE_SECS_MAX: i64 = 400 * 24 * 60 * 60;
/// The name of an app's cookie.
pub fn name(config: &CookieConfig) -> String {
    let base = match config.profile {
        CookieProfile::Host => "__Host-session",
        CookieProfile::Shared => "__Secure-session",
        CookieProfile::Loopback => "sessiond_dev",
    };
    match config.name_suffix.as_str() {
        "" => base.to_owned(),
        suffix => format!("{base}-{suffix}"),
    }
}

/// `Set-Cookie` that gives the holder a session's token, as long as the session can live.
pub fn set(config: &CookieConfig, token: &str, session: &Session, now: Timestamp) -> String {
    let secs = session.absolute_expires_at.millis_since(now) / 1_000;
    format!(
        "{}={token}; Max-Age={}{}",
        name(config),
        secs.clamp(0, MAX_AGE_SECS_MAX),
        attributes(config)
    )
}

/// `Set-Cookie` that takes it away.
pub fn clear(config: &CookieConfig) -> String {
    format!("{}=; Max-Age=0{}", name(config), attributes(config))
}

fn attributes(config: &CookieConfig) -> String {
    let (secure, domain) = match config.profile {
        CookieProfile::Host => ("; Secure", None),
        CookieProfile::Shared => ("; Secure", config.domain.as_deref()),
        CookieProfile::Loopback => ("", None),
    };
    let domain = domain
        .map(|domain| format!("; Domain={domain}"))
        .unwrap_or_default();
    format!("; Path=/{domain}{secure}; HttpOnly; SameSite=Lax")
}

/// The values of every cookie of this name. Others, malformed ones too, are skipped.
pub fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(COOKIE)
        // One cookie that is not text must not hide the others of its header.
        .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'))
        // What browsers take away (RFC 6265bis §5.6), and no more: to them another space is part of a name, which a sibling
        // host may then set although with the space taken away it begins with __Host-.
        .filter_map(|pair| {
            std::str::from_utf8(pair)
                .ok()?
                .trim_matches([' ', '\t'])
                .split_once('=')
        })
        .filter(move |(known, _)| *known == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn config(profile: CookieProfile) -> CookieConfig {
        CookieConfig {
            profile,
            name_suffix: String::new(),
            domain: None,
        }
    }

    #[test]
    fn a_malformed_sibling_does_not_lose_ours() {
        let mut headers = HeaderMap::new();
        let text = b"a; =b; \xff\xfe=c; __Host-session=one; x=\"y; __Host-session-b=two;__Host-session=three";
        headers.append(COOKIE, HeaderValue::from_bytes(text).expect("bytes"));
        assert_eq!(
            values(&headers, "__Host-session").collect::<Vec<_>>(),
            ["one", "three"]
        );
    }

    #[test]
    fn a_name_with_another_space_before_it_is_another_name() {
        let mut headers = HeaderMap::new();
        for space in "\u{b}\u{c}\u{85}\u{a0}\u{1680}\u{2000}\u{2028}\u{3000}\u{feff}".chars() {
            let text = format!("a=b; {space}__Host-session=theirs;{space} __Host-session=theirs");
            // Header values have no control characters.
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                headers.append(COOKIE, value);
            }
        }
        assert_eq!(headers.get_all(COOKIE).count(), 7);
        headers.append(
            COOKIE,
            HeaderValue::from_static("a=b; \t__Host-session=ours \t; c=d"),
        );
        assert_eq!(values(&headers, "__Host-session").collect::<Vec<_>>(), ["ours"]);
    }

    #[test]
    fn profiles_give_name_and_attributes() {
        let cleared = clear(&config(CookieProfile::Host));
        assert_eq!(
            cleared,
            "__Host-session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        let shared = CookieConfig {
            domain: Some("example.com".into()),
            name_suffix: "shop".into(),
            ..config(CookieProfile::Shared)
        };
        let expected =
            "__Secure-session-shop=; Max-Age=0; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=Lax";
        assert_eq!(clear(&shared), expected);
        assert!(!clear(&config(CookieProfile::Loopback)).contains("Secure"));
    }
}
