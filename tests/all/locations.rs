//! Places of addresses: the embedded country file, and a city file kept on disk. No vendor's city file may be
//! shipped, so [`mmdb`] writes small ones in their shape.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use sessiond::enrich::location::{LocationError, Locator};
use sessiond::session::Place;
use tempfile::TempDir;

// The embedded file

#[test]
fn known_public_addresses_have_their_country() {
    let locator = Locator::embedded();
    // Networks of institutions that have had them for decades, and do not lend them abroad.
    let cases = [
        ("RIPE NCC", "193.0.6.139", "NL"),
        ("Google DNS", "8.8.8.8", "US"),
        ("MIT", "18.9.22.69", "US"),
        ("ETH Zürich", "129.132.19.216", "CH"),
        ("Deutsche Telekom", "194.25.0.125", "DE"),
        ("AFNIC", "192.134.5.37", "FR"),
        ("University of Cambridge", "131.111.150.25", "GB"),
        ("University of Tokyo", "133.11.0.1", "JP"),
        ("University of British Columbia", "137.82.1.1", "CA"),
        ("University of Oslo", "129.240.1.1", "NO"),
        ("KTH Stockholm", "130.237.72.200", "SE"),
        ("NIC.br", "200.160.2.3", "BR"),
        ("Telstra", "139.130.4.5", "AU"),
        ("CSIR, Pretoria", "196.21.1.1", "ZA"),
        ("Tsinghua University", "166.111.4.100", "CN"),
        ("RIPE NCC, IPv6", "2001:67c:2e8:22::c100:68b", "NL"),
        ("Google DNS, IPv6", "2001:4860:4860::8888", "US"),
        ("SWITCH, IPv6", "2001:620:0:ff::5c", "CH"),
        ("Jisc, IPv6", "2001:630:212:200::1", "GB"),
        ("SUNET, IPv6", "2001:6b0::1", "SE"),
        ("NIC.br, IPv6", "2001:12ff:0:2::3", "BR"),
    ];
    for (whose, address, country) in cases {
        assert_eq!(
            locator.locate(ip(address)),
            place(None, country),
            "{whose}, {address}"
        );
    }
}

#[test]
fn ipv4_mapped_address_is_the_ipv4_address() {
    let locator = Locator::embedded();

    assert_eq!(locator.locate(ip("::ffff:193.0.6.139")), place(None, "NL"));
    assert_eq!(locator.locate(ip("::ffff:192.168.1.1")), None);
}

/// One address or two from every range that is nobody's in particular, with its edges where a neighbour is
/// public.
const NOT_PUBLIC: [&str; 52] = [
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:0.0.0.0",
    "::ffff:10.1.2.3",
    "::ffff:127.0.0.1",
    "::ffff:224.0.0.1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100::1",
    "1fff::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2001:db8:ffff::1",
    "2002:808:808::1",
    "3fff::1",
    "3fff:fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

#[test]
fn address_that_is_nobodys_in_particular_has_no_place() {
    let directory = TempDir::new().expect("a temporary directory");
    // The worst file there is: it has an answer for everything.
    let everything = [("::/1", zurich()), ("8000::/1", zurich())];
    let everywhere = open(&write(
        &directory,
        "everywhere.mmdb",
        &mmdb("Test-City", 6, &everything),
    ));
    let embedded = Locator::embedded();

    for address in NOT_PUBLIC {
        assert_eq!(everywhere.locate(ip(address)), None, "{address}");
        assert_eq!(embedded.locate(ip(address)), None, "{address}, embedded");
    }
}

#[test]
fn public_neighbour_of_a_special_range_has_a_place() {
    let directory = TempDir::new().expect("a temporary directory");
    let everything = [("::/1", zurich()), ("8000::/1", zurich())];
    let everywhere = open(&write(
        &directory,
        "everywhere.mmdb",
        &mmdb("Test-City", 6, &everything),
    ));

    for address in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "203.0.114.0",
        "223.255.255.255",
        "2000::1",
        "2001:200::1",
        "2001:db9::1",
        "2003::1",
        "3ffe::1",
        "3fff:1000::1",
    ] {
        assert_eq!(
            everywhere.locate(ip(address)),
            place(Some("Zürich"), "CH"),
            "{address}"
        );
    }
}

#[test]
fn embedded_file_is_sound_from_end_to_end() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/country.mmdb");
    let locator = open(&file);

    assert_eq!(locator.locate(ip("193.0.6.139")), place(None, "NL"));
}

#[test]
fn reloading_the_embedded_file_changes_nothing() {
    let locator = Locator::embedded();
    locator.reload_if_changed();

    assert_eq!(locator.locate(ip("193.0.6.139")), place(None, "NL"));
}

// A file on disk

#[test]
fn city_file_gives_city_and_country() {
    let directory = TempDir::new().expect("a temporary directory");
    let locator = open(&write(&directory, "city.mmdb", &cities()));

    assert_eq!(locator.locate(ip("129.132.19.216")), place(Some("Zürich"), "CH"));
    assert_eq!(
        locator.locate(ip("::ffff:129.132.19.216")),
        place(Some("Zürich"), "CH")
    );
    assert_eq!(locator.locate(ip("2001:620::1")), place(Some("Bern"), "CH"));
    assert_eq!(
        locator.locate(ip("194.25.0.125")),
        place(None, "DE"),
        "a record without a city"
    );
    assert_eq!(locator.locate(ip("8.8.8.8")), None, "not in the file");
}

#[test]
fn every_known_record_shape_gives_its_place() {
    let city = |value| map([("country", map([("iso_code", text("CH"))])), ("city", value)]);
    let names = |names: &[(&'static str, &str)]| {
        city(map([(
            "names",
            Value::Map(names.iter().map(|(key, name)| (*key, text(name))).collect()),
        )]))
    };
    let country = |code: &str| map([("country", map([("iso_code", text(code))]))]);
    let hundred = "é".repeat(100);
    let cases = [
        (
            "English first",
            names(&[("de", "Genf"), ("en", "Geneva")]),
            place(Some("Geneva"), "CH"),
        ),
        (
            "no English",
            names(&[("fr", "Genève"), ("de", "Genf")]),
            place(Some("Genf"), "CH"),
        ),
        ("no names", names(&[]), place(None, "CH")),
        ("empty name", names(&[("en", "")]), place(None, "CH")),
        ("blank name", names(&[("en", " \t ")]), place(None, "CH")),
        (
            "control characters",
            names(&[("en", "Ber\r\n\0n\u{1b}\u{85} ")]),
            place(Some("Bern"), "CH"),
        ),
        (
            "long name",
            names(&[("en", &"é".repeat(5000))]),
            place(Some(&hundred), "CH"),
        ),
        (
            "markup is text",
            names(&[("en", "<b>Bern</b>")]),
            place(Some("<b>Bern</b>"), "CH"),
        ),
        (
            "city without names",
            city(map([("geoname_id", Value::Number(1))])),
            place(None, "CH"),
        ),
        ("flat city", city(text("Basel")), place(Some("Basel"), "CH")),
        ("flat", map([("country_code", text("DE"))]), place(None, "DE")),
        (
            "flat, named",
            map([("country", text("Germany")), ("country_code", text("DE"))]),
            place(None, "DE"),
        ),
        ("flat country", map([("country", text("DE"))]), place(None, "DE")),
        ("Kosovo", country("XK"), place(None, "XK")),
        ("lower case", country("ch"), None),
        ("three letters", country("CHE"), None),
        ("one letter", country("C"), None),
        ("digits", country("41"), None),
        ("not ASCII", country("É"), None),
        ("unknown", country("ZZ"), None),
        ("empty", country(""), None),
        (
            "no code",
            map([("country", map([("geoname_id", Value::Number(1))]))]),
            None,
        ),
        (
            "city alone",
            map([("city", map([("names", map([("en", text("Bern"))]))]))]),
            None,
        ),
        (
            "registered only",
            map([("registered_country", map([("iso_code", text("CH"))]))]),
            None,
        ),
        ("no fields", map([]), None),
        ("number as code", map([("country_code", Value::Number(41))]), None),
        ("number as country", map([("country", Value::Number(41))]), None),
        ("list as record", Value::List(vec![text("CH")]), None),
        ("text as record", text("CH"), None),
    ];
    let directory = TempDir::new().expect("a temporary directory");
    for (case, record, expected) in cases {
        // The second network makes it a country file whatever the first one holds.
        let file = mmdb(
            "Test-City",
            6,
            &[("5.0.0.0/8", record), ("194.25.0.0/16", germany())],
        );
        let locator = open(&write(&directory, "case.mmdb", &file));

        assert_eq!(locator.locate(ip("5.1.2.3")), expected, "{case}");
        assert_eq!(
            locator.locate(ip("194.25.0.125")),
            place(None, "DE"),
            "{case}: the record beside it"
        );
    }
}

#[test]
fn ipv4_only_file_has_no_place_for_ipv6() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = mmdb("Test-Country", 4, &[("194.25.0.0/16", germany())]);
    let locator = open(&write(&directory, "v4.mmdb", &file));

    assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "DE"));
    assert_eq!(locator.locate(ip("::ffff:194.25.0.125")), place(None, "DE"));
    assert_eq!(locator.locate(ip("2001:620::1")), None);
}

// Reloading

#[test]
fn replaced_file_answers_after_reload() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = write(&directory, "city.mmdb", &cities());
    let locator = open(&path);
    locator.reload_if_changed();
    assert_eq!(
        locator.locate(ip("194.25.0.125")),
        place(None, "DE"),
        "an unchanged file"
    );

    let next = write(&directory, "next.mmdb", &countries("FR"));
    fs::rename(&next, &path).expect("renaming over it");
    assert_eq!(
        locator.locate(ip("194.25.0.125")),
        place(None, "DE"),
        "before the reload"
    );
    locator.reload_if_changed();

    assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "FR"));
    assert_eq!(locator.locate(ip("129.132.19.216")), None, "the old file is gone");
}

#[test]
fn file_rewritten_in_place_answers_after_reload() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = write(&directory, "country.mmdb", &countries("DE"));
    let locator = open(&path);

    // The same inode and length; only the time tells.
    fs::write(&path, countries("FR")).expect("writing");
    set_modified(&path, 7);
    locator.reload_if_changed();

    assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "FR"));
}

#[test]
fn broken_new_file_keeps_the_old_until_a_sound_one_comes() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = write(&directory, "country.mmdb", &countries("DE"));
    let locator = open(&path);
    let sound = countries("FR");

    let broken: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("garbage", b"<html>503 Service Unavailable</html>"),
        ("cut short", &sound[..sound.len() - 1]),
        ("of another type", &mmdb("Test-ASN", 6, &[("5.0.0.0/8", asn())])),
    ];
    for (second, (case, bytes)) in (1..).zip(broken) {
        fs::write(&path, bytes).expect("writing");
        set_modified(&path, second);
        locator.reload_if_changed();
        locator.reload_if_changed();
        assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "DE"), "{case}");
    }
    fs::write(&path, &sound).expect("writing");
    set_modified(&path, 100);
    locator.reload_if_changed();

    assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "FR"));
}

#[test]
fn removed_file_keeps_the_old_until_it_is_back() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = write(&directory, "country.mmdb", &countries("DE"));
    let locator = open(&path);

    fs::remove_file(&path).expect("removing");
    locator.reload_if_changed();
    locator.reload_if_changed();
    assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "DE"));
    write(&directory, "country.mmdb", &countries("FR"));
    set_modified(&path, 7);
    locator.reload_if_changed();

    assert_eq!(locator.locate(ip("194.25.0.125")), place(None, "FR"));
}

#[test]
fn lookups_during_reloads_see_one_file_or_the_other() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = write(&directory, "country.mmdb", &countries("DE"));
    let locator = open(&path);

    std::thread::scope(|scope| {
        let reader = || {
            for _ in 0..5_000 {
                let found = locator.locate(ip("194.25.0.125"));
                assert!(
                    found == place(None, "DE") || found == place(None, "FR"),
                    "{found:?}"
                );
            }
        };
        scope.spawn(reader);
        scope.spawn(reader);
        for country in ["FR", "DE"].into_iter().cycle().take(50) {
            let next = write(&directory, "next.mmdb", &countries(country));
            fs::rename(&next, &path).expect("renaming over it");
            locator.reload_if_changed();
            assert_eq!(locator.locate(ip("194.25.0.125")), place(None, country));
        }
    });
}

// Files that are refused

#[test]
fn missing_file_is_an_error_that_names_it() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("nowhere.mmdb");
    let error = Locator::open(&path).expect_err("there is no such file");

    assert!(matches!(error, LocationError::Unreadable { .. }));
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[test]
fn directory_is_not_a_database() {
    let directory = TempDir::new().expect("a temporary directory");
    let error = Locator::open(directory.path()).expect_err("a directory");

    assert!(matches!(error, LocationError::NotAFile { .. }), "{error}");
}

#[test]
fn file_without_countries_is_refused_by_its_type() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = write(
        &directory,
        "asn.mmdb",
        &mmdb("Test-ASN", 6, &[("5.0.0.0/8", asn())]),
    );
    let error = Locator::open(&path).expect_err("an ASN database");

    assert!(matches!(error, LocationError::NoCountries { .. }));
    assert!(error.to_string().contains("Test-ASN"), "{error}");
}

#[test]
fn file_beyond_the_limit_is_refused_without_reading_it() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("huge.mmdb");
    // Sparse: it takes no room on disk.
    File::create(&path)
        .and_then(|file| file.set_len(512 * 1024 * 1024 + 1))
        .expect("a sparse file");
    let error = Locator::open(&path).expect_err("too large");

    assert!(matches!(error, LocationError::TooLarge { .. }), "{error}");
}

#[test]
fn garbage_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let mut marker_amid_garbage = vec![0xff; 4096];
    marker_amid_garbage[100..100 + MARKER.len()].copy_from_slice(MARKER);
    let cases: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("a page", b"<html>404 Not Found</html>"),
        ("zeros", &[0; 4096]),
        ("the marker alone", MARKER),
        ("the marker amid garbage", &marker_amid_garbage),
        ("a tree that runs in circles", &circular()),
    ];
    for (case, bytes) in cases {
        let path = write(&directory, "garbage.mmdb", bytes);
        let error = Locator::open(&path).expect_err(case);
        assert!(matches!(error, LocationError::Damaged { .. }), "{case}: {error}");
    }
}

#[test]
fn file_cut_short_anywhere_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let whole = cities();
    for len in 0..whole.len() {
        let path = write(&directory, "cut.mmdb", &whole[..len]);
        assert!(Locator::open(&path).is_err(), "cut at {len} of {}", whole.len());
    }
}

#[test]
fn file_with_any_byte_wrong_never_panics() {
    let directory = TempDir::new().expect("a temporary directory");
    let whole = cities();
    let mut opened = 0;
    for offset in 0..whole.len() {
        for mask in [0x01, 0x20, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[offset] ^= mask;
            let path = write(&directory, "damaged.mmdb", &damaged);
            // Many such faults cannot be told from another country; what opens must answer.
            let Ok(locator) = Locator::open(&path) else {
                continue;
            };
            opened += 1;
            for address in [
                "129.132.19.216",
                "194.25.0.125",
                "2001:620::1",
                "8.8.8.8",
                "2a00::1",
            ] {
                let _ = locator.locate(ip(address));
            }
        }
    }
    assert!(opened > 0, "every fault was refused, so nothing was looked up");
}

// Helpers

fn ip(address: &str) -> IpAddr {
    address.parse().expect(address)
}

#[allow(clippy::unnecessary_wraps, reason = "what `locate` returns")]
fn place(city: Option<&str>, country: &str) -> Option<Place> {
    Some(Place {
        city: city.map(str::to_owned),
        country: country.to_owned(),
    })
}

fn open(path: &Path) -> Locator {
    Locator::open(path).expect("a sound database")
}

fn write(directory: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, bytes).expect("writing");
    path
}

/// Sets a modification time that is `second`s after some past moment, so that no test waits for the clock.
fn set_modified(path: &Path, second: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_modified(time))
        .expect("setting the time");
}

fn zurich() -> Value {
    city("Zürich", "CH")
}

fn germany() -> Value {
    map([("country", map([("iso_code", text("DE"))]))])
}

fn asn() -> Value {
    map([("autonomous_system_number", Value::Number(64496))])
}

fn city(name: &str, country: &str) -> Value {
    map([
        (
            "city",
            map([
                ("geoname_id", Value::Number(2_657_896)),
                ("names", map([("en", text(name))])),
            ]),
        ),
        (
            "country",
            map([
                ("iso_code", text(country)),
                ("names", map([("en", text("not looked at"))])),
            ]),
        ),
    ])
}

/// A file shaped like GeoLite2 City.
fn cities() -> Vec<u8> {
    let networks = [
        ("129.132.0.0/16", zurich()),
        ("194.25.0.0/16", germany()),
        ("2001:620::/29", city("Bern", "CH")),
    ];
    mmdb("Test-City", 6, &networks)
}

/// A file that knows one network.
pub fn countries(country: &str) -> Vec<u8> {
    let record = map([("country", map([("iso_code", text(country))]))]);
    mmdb("Test-Country", 6, &[("194.25.0.0/16", record)])
}

/// A file whose first node leads back to itself.
fn circular() -> Vec<u8> {
    let mut file = countries("DE");
    file[..6].fill(0);
    file
}

// A writer for the MaxMind DB format 2.0, as little of it as these tests need

const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

enum Value {
    Text(String),
    Short(u16),
    Number(u32),
    Long(u64),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn map<const N: usize>(entries: [(&'static str, Value); N]) -> Value {
    Value::Map(entries.into())
}

#[derive(Clone, Copy)]
enum Branch {
    Nothing,
    Node(usize),
    /// Offset in the data section.
    Record(usize),
}

/// A database of networks that do not overlap: search tree with 24-bit branches, data, metadata.
fn mmdb(database_type: &str, ip_version: u16, networks: &[(&str, Value)]) -> Vec<u8> {
    let mut tree = vec![[Branch::Nothing; 2]];
    let mut data = Vec::new();
    for (network, record) in networks {
        insert(
            &mut tree,
            &network_bits(network, ip_version),
            Branch::Record(data.len()),
        );
        encode(&mut data, record);
    }

    let mut file = Vec::new();
    for branch in tree.iter().flatten() {
        let number = match *branch {
            Branch::Nothing => tree.len(),
            Branch::Node(node) => node,
            Branch::Record(offset) => tree.len() + 16 + offset,
        };
        file.extend(&u32::try_from(number).expect("a small file").to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(MARKER);
    let metadata = map([
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1_700_000_000)),
        ("database_type", text(database_type)),
        ("description", map([])),
        ("ip_version", Value::Short(ip_version)),
        ("languages", Value::List(vec![text("en")])),
        (
            "node_count",
            Value::Number(u32::try_from(tree.len()).expect("a small file")),
        ),
        ("record_size", Value::Short(24)),
    ]);
    encode(&mut file, &metadata);
    file
}

/// The branches to take from the root, one per bit of the prefix. IPv4 lies at `::/96` of an IPv6 tree.
fn network_bits(network: &str, ip_version: u16) -> Vec<usize> {
    let (bits, width, prefix_len) = match network.parse().expect(network) {
        IpNet::V4(v4) if ip_version == 4 => (u128::from(u32::from(v4.network())), 32, v4.prefix_len()),
        IpNet::V4(v4) => (u128::from(u32::from(v4.network())), 128, v4.prefix_len() + 96),
        IpNet::V6(v6) => (u128::from(v6.network()), 128, v6.prefix_len()),
    };
    (1..=u32::from(prefix_len))
        .map(|depth| usize::from(bits >> (width - depth) & 1 == 1))
        .collect()
}

fn insert(tree: &mut Vec<[Branch; 2]>, bits: &[usize], leaf: Branch) {
    let (last, path) = bits.split_last().expect("a prefix of one bit or more");
    let mut node = 0;
    for &bit in path {
        node = match tree[node][bit] {
            Branch::Node(next) => next,
            Branch::Nothing => {
                tree.push([Branch::Nothing; 2]);
                tree[node][bit] = Branch::Node(tree.len() - 1);
                tree.len() - 1
            }
            Branch::Record(_) => panic!("the networks overlap"),
        };
    }
    tree[node][*last] = leaf;
}

fn encode(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => {
            control(out, 2, text.len());
            out.extend(text.as_bytes());
        }
        Value::Short(number) => {
            control(out, 5, 2);
            out.extend(number.to_be_bytes());
        }
        Value::Number(number) => {
            control(out, 6, 4);
            out.extend(number.to_be_bytes());
        }
        Value::Long(number) => {
            control(out, 9, 8);
            out.extend(number.to_be_bytes());
        }
        Value::Map(entries) => {
            control(out, 7, entries.len());
            for (key, value) in entries {
                control(out, 2, key.len());
                out.extend(key.as_bytes());
                encode(out, value);
            }
        }
        Value::List(values) => {
            control(out, 11, values.len());
            for value in values {
                encode(out, value);
            }
        }
    }
}

/// The control byte: type in the upper three bits (or 0 and a byte of its own), size in the lower five, or 29
/// to 31 and the rest in the bytes that follow.
fn control(out: &mut Vec<u8>, type_number: u8, size: usize) {
    let (small, rest) = match size {
        0..29 => (size, vec![]),
        29..285 => (29, vec![size - 29]),
        285..65_821 => (30, vec![(size - 285) >> 8, (size - 285) & 0xff]),
        _ => panic!("no test needs {size} bytes"),
    };
    let byte = |number: usize| u8::try_from(number).expect("less than 256");
    if type_number < 8 {
        out.push(type_number << 5 | byte(small));
    } else {
        out.extend([byte(small), type_number - 7]);
    }
    out.extend(rest.into_iter().map(byte));
}
