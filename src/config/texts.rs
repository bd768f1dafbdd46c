//! The texts that a configuration may contain: each function reads one kind, normalises it, and says `None` to
//! anything else. The rule beside it is what a person who got it wrong is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

/// Longest path of a file: Linux's PATH_MAX.
const PATH_LEN_MAX: usize = 4096;
/// Longest `base_path`: it is repeated in every request line and log line.
const BASE_PATH_LEN_MAX: usize = 128;
/// Longest `sign_in_url`, which problem bodies repeat; what browsers and proxies carry without trouble.
const URL_LEN_MAX: usize = 2048;
/// Longest name of a tier, which is stored with every user who has one.
const TIER_NAME_LEN_MAX: usize = 63;

pub(super) const LISTEN_RULE: &str = "must be an address and a port like \"127.0.0.1:7377\"";

pub(super) fn listen(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

pub(super) const PATH_RULE: &str = "must be the path of a file, without control characters";

pub(super) fn path(text: &str) -> Option<PathBuf> {
    // SQLite would take these for a database in memory and for a URI, not for a file of that name.
    let special = text.starts_with(':') || text.starts_with("file:");
    let good = (1..=PATH_LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    (good && !special).then(|| text.into())
}

pub(super) const BASE_PATH_RULE: &str = "must be \"\" or a path like \"/auth\", without a slash at the end, of \
                                         letters, digits, \"-\", \"_\", \".\" and \"~\"";

pub(super) fn base_path(text: &str) -> Option<String> {
    let segment = |segment: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
    };
    let good = text.is_empty()
        || text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(segment));
    (good && text.len() <= BASE_PATH_LEN_MAX).then(|| text.to_owned())
}

pub(super) const NETWORK_RULE: &str = "must be a network like \"10.0.0.0/8\" or an address";

pub(super) fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse()
        .ok()
        .map(|network: IpNet| network.trunc())
        .or_else(address)
}

pub(super) const HOST_RULE: &str = "must be a host name or address without port, like \"shop.example.com\"";

/// A host as browsers write it in `Host`: lower case, an IPv6 address in brackets.
pub(super) fn host(text: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address
            .parse::<Ipv6Addr>()
            .ok()
            .map(|address| format!("[{address}]"));
    }
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // What ends in a number is an IPv4 address or nothing (WHATWG URL, "ends in a number").
    let numeric = text
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let good =
        text.len() <= 253 && text.split('.').all(label) && (!numeric || text.parse::<Ipv4Addr>().is_ok());
    good.then(|| text.to_ascii_lowercase())
}

pub(super) const DOMAIN_RULE: &str = "must be a domain like \"example.com\", without a dot in front";

/// What a cookie's `Domain` may be: a name of at least two labels, since browsers refuse addresses and top levels.
pub(super) fn domain(text: &str) -> Option<String> {
    host(text).filter(|host| host.contains('.') && host.parse::<Ipv4Addr>().is_err())
}

pub(super) const ORIGIN_RULE: &str = "must be an origin like \"https://www.example.com\" or \
                                      \"https://www.example.com:8443\", without a path; http only for localhost";

/// An origin as browsers send it (RFC 6454): lower case, without the scheme's own port. Plain http could be spoken by
/// anyone on the way, so only this machine may.
pub(super) fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let (host, port) = host_and_port(authority)?;
    let own_port = match scheme {
        "https" => 443,
        "http" if is_this_machine(&host) => 80,
        _ => return None,
    };
    Some(match port {
        Some(port) if port != own_port => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<Ipv4Addr>();
    host == "localhost" || host == "[::1]" || address.is_ok_and(|address| address.is_loopback())
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            let good = port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse().ok().filter(|port| good && *port > 0)?;
            Some((host(name)?, Some(port)))
        }
        _ => Some((host(authority)?, None)),
    }
}

pub(super) const URL_RULE: &str = "must be an http or https URL, or a path that begins with a single \"/\"; in ASCII, \
                                   without spaces, at most 2048 bytes";

/// Somewhere to send a person. A path may not begin as `//` or `/\`, which browsers take for another host.
pub(super) fn url(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b);
    let good = if let Some(path) = text.strip_prefix('/') {
        !path.starts_with('/')
    } else {
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let after_userinfo = authority.rsplit('@').next()?;
        ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
            && host_and_port(after_userinfo).is_some()
    };
    (good && text.len() <= URL_LEN_MAX && text.bytes().all(plain)).then(|| text.to_owned())
}

/// The URL without a user and password in front of its host.
pub(super) fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|_| !url.starts_with('/')) else {
        return url.to_owned();
    };
    let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host_start = rest[..authority_len].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[host_start..])
}

pub(super) const SUFFIX_RULE: &str = "must be \"\" or 1 to 32 letters, digits, \"-\" and \"_\"";

pub(super) fn name_suffix(text: &str) -> Option<String> {
    (text.len() <= 32 && text.bytes().all(is_name_byte)).then(|| text.to_owned())
}

pub(super) const TIER_NAME_RULE: &str = "the name of a tier must be 1 to 63 letters, digits, \"-\" and \"_\"";

pub(super) fn is_tier_name(text: &str) -> bool {
    (1..=TIER_NAME_LEN_MAX).contains(&text.len()) && text.bytes().all(is_name_byte)
}

pub(super) const WEBHOOK_NAME_RULE: &str = "the name of a webhook must be 1 to 63 lower-case letters, digits, \"-\" and \
                                            \"_\", beginning with a letter or digit";

pub(super) const EVENT_RULE: &str = "must be the name of an event like \"session.created\"";

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
}
