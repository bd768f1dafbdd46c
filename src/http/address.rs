//! Which address a caller has, behind proxies or not.
//!
//! A forwarding header is believed only as far as trusted proxies wrote it: the chain is walked from the right, from
//! the peer on, as long as each address is a trusted proxy's; the first that is not is the client. `Forwarded`
//! (RFC 7239) wins over `X-Forwarded-For`. Without `trusted_proxies` no header is ever looked at.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use actix_web::HttpRequest;
use actix_web::http::header::HeaderMap;
use ipnet::IpNet;

/// Whether a request says that it was passed on for somebody else.
pub fn is_forwarding(headers: &HeaderMap) -> bool {
    const NAMES: [&str; 6] = [
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
    ];
    headers
        .keys()
        .any(|name| NAMES.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-"))
}

/// An address and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The client's address; `None` if the chain does not tell.
    pub address: Option<IpAddr>,
    /// The address that is connected; `None` on the operator socket.
    pub peer: Option<IpAddr>,
    /// Whether a trusted proxy told the address.
    pub is_forwarded: bool,
    /// In a sentence.
    pub why: Cow<'static, str>,
}

/// Finds a request's address.
pub fn of_request(request: &HttpRequest, trusted_proxies: &[IpNet]) -> Caller {
    resolve(request.peer_addr(), request.headers(), trusted_proxies)
}

fn resolve(peer: Option<SocketAddr>, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> Caller {
    let Some(peer) = peer.map(|peer| peer.ip().to_canonical()) else {
        return Caller {
            address: None,
            peer: None,
            is_forwarded: false,
            why: "a local socket has no address".into(),
        };
    };
    let is_trusted = |address: &IpAddr| trusted_proxies.iter().any(|net| net.contains(address));
    let direct = |why: &'static str| Caller {
        address: Some(peer),
        peer: Some(peer),
        is_forwarded: false,
        why: why.into(),
    };
    if !is_trusted(&peer) {
        let is_claimed = headers.contains_key("forwarded") || headers.contains_key("x-forwarded-for");
        return direct(match is_claimed {
            true => "the peer is not in server.trusted_proxies, so its forwarding headers are not believed",
            false => "the peer is the client",
        });
    }
    let (header, chain) = match chain_of(headers, "forwarded", forwarded) {
        Some(chain) => ("Forwarded", chain),
        None => match chain_of(headers, "x-forwarded-for", listed) {
            Some(chain) => ("X-Forwarded-For", chain),
            None => {
                return direct("the peer is a trusted proxy, but sent neither Forwarded nor X-Forwarded-For");
            }
        },
    };
    let mut client = None;
    for hop in chain.into_iter().rev() {
        let Some(address) = hop else {
            let why = format!("{header}: a trusted proxy named something that is no address");
            return Caller {
                address: None,
                peer: Some(peer),
                is_forwarded: false,
                why: why.into(),
            };
        };
        client = Some(address);
        if !is_trusted(&address) {
            let why = format!("{header}: the first address from the right that is not a trusted proxy's");
            return Caller {
                address: client,
                peer: Some(peer),
                is_forwarded: true,
                why: why.into(),
            };
        }
    }
    let why = format!("{header}: every address is a trusted proxy's, so the leftmost is the client");
    Caller {
        address: client,
        peer: Some(peer),
        is_forwarded: client.is_some(),
        why: why.into(),
    }
}

/// The hops of all headers of this name, left to right; `None` without such a header.
fn chain_of(
    headers: &HeaderMap,
    name: &str,
    hops: impl Fn(&str) -> Vec<Option<IpAddr>>,
) -> Option<Vec<Option<IpAddr>>> {
    let mut values = headers.get_all(name).peekable();
    values.peek()?;
    Some(
        values
            .flat_map(|value| value.to_str().map_or_else(|_| vec![None], &hops))
            .collect(),
    )
}

/// The hops of an `X-Forwarded-For`. It has no quoting, so that nothing a client wrote reaches past a comma.
fn listed(value: &str) -> Vec<Option<IpAddr>> {
    value.split(',').map(parse_node).collect()
}

/// The hops of a `Forwarded`; an element without `for` says nothing of its hop, which is unknown then. With a quote that
/// is left open, which part a proxy added cannot be told: all of it is unknown.
fn forwarded(value: &str) -> Vec<Option<IpAddr>> {
    if value.matches('"').count() % 2 == 1 {
        return vec![None];
    }
    let node = |element: &str| {
        split_outside_quotes(element, ';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("for")
                .then(|| parse_node(value))?
        })
    };
    split_outside_quotes(value, ',').map(node).collect()
}

/// An address with or without port, brackets and quotes.
fn parse_node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    let address = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let is_port = |text: &str| {
                text.strip_prefix(':')
                    .is_some_and(|port| port.parse::<u16>().is_ok())
            };
            (port.is_empty() || is_port(port)).then(|| address.parse().ok())??
        }
        None => match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |c| {
        if c == '"' {
            is_quoted = !is_quoted;
        }
        c == separator && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn resolve_with(peer: &str, headers: &[(&str, &str)], trusted: &[&str]) -> Caller {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let trusted: Vec<IpNet> = trusted
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect();
        resolve(
            Some(SocketAddr::new(peer.parse().expect("an address"), 1)),
            &map,
            &trusted,
        )
    }

    #[test]
    fn chains_are_walked_from_the_right_as_far_as_they_are_trusted() {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48"];
        type Case<'c> = (&'c str, &'c [(&'c str, &'c str)], Option<&'c str>, bool);
        let cases: &[Case<'_>] = &[
            ("192.0.2.7", &[], Some("192.0.2.7"), false),
            (
                "192.0.2.7",
                &[("x-forwarded-for", "203.0.113.9")],
                Some("192.0.2.7"),
                false,
            ),
            ("10.0.0.1", &[], Some("10.0.0.1"), false),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "203.0.113.9")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "1.1.1.1, 203.0.113.9")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "203.0.113.9, 10.2.2.2")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "10.3.3.3, 10.2.2.2")],
                Some("10.3.3.3"),
                true,
            ),
            (
                "10.0.0.1",
                &[
                    ("x-forwarded-for", "203.0.113.9"),
                    ("x-forwarded-for", "10.2.2.2"),
                ],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "203.0.113.9, unknown")],
                None,
                false,
            ),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "203.0.113.9:4711")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "::ffff:203.0.113.9")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "::ffff:10.0.0.1",
                &[("x-forwarded-for", "203.0.113.9")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("forwarded", "for=203.0.113.9;proto=https;by=10.0.0.1")],
                Some("203.0.113.9"),
                true,
            ),
            (
                "10.0.0.1",
                &[("forwarded", "For=\"[2001:db8::7]:80\"")],
                Some("2001:db8::7"),
                true,
            ),
            (
                "10.0.0.1",
                &[
                    ("forwarded", "for=1.1.1.1, for=203.0.113.9"),
                    ("x-forwarded-for", "9.9.9.9"),
                ],
                Some("203.0.113.9"),
                true,
            ),
            ("10.0.0.1", &[("forwarded", "for=_hidden")], None, false),
            ("10.0.0.1", &[("forwarded", "for=\"a,b;c\"")], None, false),
            (
                "2001:db8:1::5",
                &[("x-forwarded-for", "2001:db8:2::9")],
                Some("2001:db8:2::9"),
                true,
            ),
        ];
        for (peer, headers, address, is_forwarded) in cases {
            let found = resolve_with(peer, headers, &proxies);
            let expected = address.map(|address| address.parse::<IpAddr>().expect("an address"));
            assert_eq!(
                (found.address, found.is_forwarded),
                (expected, *is_forwarded),
                "{peer} {headers:?}: {found:?}"
            );
        }
    }
}
