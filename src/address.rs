//! Which addresses are somebody's in particular: whose place can be told, and where a webhook may lead. And how much of
//! people's addresses is kept.
//!
//! By the special-purpose registries of IANA, for
//! [IPv4](https://www.iana.org/assignments/iana-ipv4-special-registry) and
//! [IPv6](https://www.iana.org/assignments/iana-ipv6-special-registry). An address that wraps another one (NAT64, 6to4,
//! Teredo, IPv4-compatible) is nobody's, whatever it wraps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// IPv4 networks whose addresses are nobody's in particular. The registry's few anycast entries that are reachable from
/// everywhere (AS112, AMT) are left out: whatever answers there is no neighbour of this machine.
const NOT_PUBLIC_V4: [Ipv4Net; 15] = [
    v4([0, 0, 0, 0], 8),       // this network, unspecified
    v4([10, 0, 0, 0], 8),      // private
    v4([100, 64, 0, 0], 10),   // carrier-grade NAT
    v4([127, 0, 0, 0], 8),     // loopback
    v4([169, 254, 0, 0], 16),  // link-local
    v4([172, 16, 0, 0], 12),   // private
    v4([192, 0, 0, 0], 24),    // IETF protocol assignments
    v4([192, 0, 2, 0], 24),    // documentation
    v4([192, 88, 99, 0], 24),  // 6to4 relays, deprecated
    v4([192, 168, 0, 0], 16),  // private
    v4([198, 18, 0, 0], 15),   // benchmarks
    v4([198, 51, 100, 0], 24), // documentation
    v4([203, 0, 113, 0], 24),  // documentation
    v4([224, 0, 0, 0], 4),     // multicast
    v4([240, 0, 0, 0], 4),     // reserved, broadcast
];

/// The only IPv6 block from which IANA gives out global unicast addresses. Outside it are loopback, unique local,
/// link-local, multicast, NAT64 and the IPv4-compatible addresses.
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0], 3);

/// 6to4: addresses with an IPv4 address in them.
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0], 16);

/// What in that block is nobody's in particular.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0], 23),     // IETF protocol assignments: Teredo, benchmarks, ORCHID
    v6([0x2001, 0xdb8], 32), // documentation
    SIX_TO_FOUR,
    v6([0x3fff, 0], 20), // documentation
];

const fn v4([a, b, c, d]: [u8; 4], prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

const fn v6([a, b]: [u16; 2], prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix_len)
}

/// How much of people's addresses is kept: stored, cached, told in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpPrivacy {
    /// All of it.
    Full,
    /// The network: of IPv4 the first 24 bits, which 256 addresses share; of IPv6 the first 48, which a site has (RFC 6177).
    Truncate,
    /// Nothing.
    None,
}

impl IpPrivacy {
    /// All of them, with the names they have in the configuration.
    pub const NAMES: [(Self, &'static str); 3] = [
        (Self::Full, "full"),
        (Self::Truncate, "truncate"),
        (Self::None, "none"),
    ];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        let name = Self::NAMES.iter().find(|(known, _)| *known == self);
        name.map_or("", |(_, name)| name)
    }

    /// The rule with this name.
    pub fn parse(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(_, known)| *known == name);
        known.map(|(rule, _)| *rule)
    }

    /// What is kept of an address; of what that leaves the same.
    pub fn kept(self, address: IpAddr) -> Option<IpAddr> {
        match self {
            Self::Full => Some(address),
            Self::Truncate => Some(network(address.to_canonical())),
            Self::None => None,
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => (v4 & Ipv4Addr::new(255, 255, 255, 0)).into(),
        IpAddr::V6(v6) => {
            // A 6to4 site's 48 bits contain its whole IPv4 address (RFC 3056): of that, too, the last 8 go.
            let prefix_len = if SIX_TO_FOUR.contains(&v6) { 40 } else { 48 };
            Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - prefix_len))).into()
        }
    }
}

/// Whether somebody somewhere may have this address; an IPv4-mapped IPv6 address is the IPv4 address.
/// `IpAddr::is_global` is not stable yet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&v4)),
        IpAddr::V6(v6) => {
            GLOBAL_UNICAST_V6.contains(&v6) && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&v6))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_special_purpose_and_those_that_wrap_others_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().expect(address)), "{address}");
        }
    }

    #[test]
    fn of_an_address_the_network_is_kept_or_all_or_nothing() {
        for (address, network) in [
            ("203.0.113.7", "203.0.113.0"),
            ("203.0.113.0", "203.0.113.0"),
            ("::ffff:203.0.113.7", "203.0.113.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            ("2001:db8:ffff:ffff::1", "2001:db8:ffff::"),
            ("2002:cb00:7107:1::2", "2002:cb00:7100::"),
            ("::1", "::"),
        ] {
            let address: IpAddr = address.parse().expect(address);
            let kept = IpPrivacy::Truncate.kept(address).expect("a network");
            assert_eq!(kept.to_string(), network, "{address}");
            assert_eq!(
                IpPrivacy::Truncate.kept(kept),
                Some(kept),
                "cut again it is the same"
            );
            assert_eq!(IpPrivacy::Full.kept(address), Some(address));
            assert_eq!(IpPrivacy::None.kept(address), None);
        }
    }

    #[test]
    fn addresses_that_are_given_out_are_public() {
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "194.25.2.129",
            "::ffff:1.1.1.1",
            "2606:4700::1111",
        ] {
            assert!(is_public(address.parse().expect(address)), "{address}");
        }
    }
}
