//! Names of browsers, systems and devices: a table of labelled strings, client hints, and hostile input.

use sessiond::enrich::device::describe;
use sessiond::session::{ClientHints, Device, DeviceType};

/// Real strings, labelled by what they are known to come from and not by what the code says.
const TABLE: &str = include_str!("device_names.tsv");

const FIELD_CHARS_MAX: usize = 64;
const CHROME_ON_WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/145.0.0.0 Safari/537.36";
const CHROME_ON_ANDROID: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/145.0.0.0 Mobile Safari/537.36";
const CHROME_ON_MAC: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/145.0.0.0 Safari/537.36";

struct Row<'a> {
    line: usize,
    expected: [&'a str; 4],
    user_agent: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let is_row = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let row = |(at, line): (usize, &'static str)| {
        let columns: Vec<&str> = line.splitn(5, '\t').collect();
        let [browser, os, device_type, is_bot, user_agent] = columns[..] else {
            panic!("line {} of the table has no five columns", at + 1);
        };
        Row {
            line: at + 1,
            expected: [browser, os, device_type, is_bot],
            user_agent,
        }
    };
    TABLE
        .lines()
        .enumerate()
        .filter(|(_, line)| is_row(line))
        .map(row)
        .collect()
}

fn device(user_agent: &str) -> Device {
    describe(Some(user_agent), &ClientHints::default()).expect("the string names something")
}

fn hinted(user_agent: &str, hints: &ClientHints) -> Device {
    describe(Some(user_agent), hints).expect("the string or the hints name something")
}

fn platform(name: &str, version: &str) -> ClientHints {
    ClientHints {
        platform: Some(name.into()),
        platform_version: Some(version.into()),
        ..ClientHints::default()
    }
}

fn brands(names: &[(&str, &str)]) -> ClientHints {
    let brands = names
        .iter()
        .map(|(name, version)| ((*name).into(), (*version).into()))
        .collect();
    ClientHints {
        brands,
        ..ClientHints::default()
    }
}

fn type_word(device_type: Option<DeviceType>) -> &'static str {
    match device_type {
        Some(DeviceType::Desktop) => "desktop",
        Some(DeviceType::Phone) => "phone",
        Some(DeviceType::Tablet) => "tablet",
        Some(DeviceType::Tv) => "tv",
        Some(DeviceType::Console) => "console",
        Some(DeviceType::Program) => "program",
        None => "-",
    }
}

#[test]
fn every_string_of_the_table_is_named_as_labelled() {
    let rows = rows();
    let mismatch = |row: &Row| {
        let device = describe(Some(row.user_agent), &ClientHints::default());
        let word = |field: Option<&String>| field.map_or("-".to_owned(), Clone::clone);
        let browser = word(device.as_ref().and_then(|device| device.browser.as_ref()));
        let os = word(device.as_ref().and_then(|device| device.os.as_ref()));
        let device_type = type_word(device.as_ref().and_then(|device| device.device_type));
        let is_bot = device.is_some_and(|device| device.is_bot).to_string();
        let got = [browser.as_str(), os.as_str(), device_type, is_bot.as_str()];
        let Row {
            line,
            expected,
            user_agent,
        } = row;
        (got != *expected)
            .then(|| format!("line {line}: expected {expected:?}, got {got:?}\n    {user_agent}"))
    };

    let mismatches: Vec<String> = rows.iter().filter_map(mismatch).collect();

    assert!(rows.len() >= 120, "the table shrank to {} strings", rows.len());
    assert!(
        mismatches.is_empty(),
        "{} of {} are wrong:\n{}",
        mismatches.len(),
        rows.len(),
        mismatches.join("\n")
    );
}

#[test]
fn versions_are_major_and_minor_and_frozen_ones_are_none() {
    let cases: &[(&str, Option<&str>, Option<&str>)] = &[
        (CHROME_ON_WINDOWS, Some("145.0"), None),
        (CHROME_ON_ANDROID, Some("145.0"), None),
        (CHROME_ON_MAC, Some("145.0"), None),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Safari/605.1.15",
            Some("17.2"),
            None,
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.2 Safari/605.1.15",
            Some("13.1"),
            Some("10.14"),
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:153.0) Gecko/20100101 Firefox/153.0",
            Some("153.0"),
            None,
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.12; rv:78.0) Gecko/20100101 Firefox/78.0",
            Some("78.0"),
            Some("10.12"),
        ),
        (
            "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
            Some("11.0"),
            Some("7"),
        ),
        (
            "Mozilla/5.0 (Windows NT 6.3; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
            Some("115.0"),
            Some("8.1"),
        ),
        (
            "Mozilla/5.0 (Windows NT 6.2; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/49.0.2623.112 Safari/537.36",
            Some("49.0"),
            Some("8"),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
            Some("17.2"),
            Some("17.2"),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.6 Mobile/15E148 Safari/604.1",
            Some("26.6"),
            Some("26.6"),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
            None,
            None,
        ),
        (
            "Mozilla/5.0 (Linux; Android 12; Pixel 6) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.0.0 Mobile Safari/537.36",
            Some("114.0"),
            Some("12"),
        ),
        (
            "Mozilla/5.0 (Android 16; Mobile; rv:153.0) Gecko/153.0 Firefox/153.0",
            Some("153.0"),
            Some("16"),
        ),
        (
            "Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18",
            Some("12.18"),
            Some("7"),
        ),
        (
            "MyApp/3.1 (iPhone; iOS 17.2; Scale/3.00)",
            Some("3.1"),
            Some("17.2"),
        ),
        ("MyApp/3.1 (Windows NT 10.0.22631)", Some("3.1"), Some("11")),
        ("MyApp/3.1 (Macintosh; macOS 14.2.1)", Some("3.1"), Some("14.2")),
        (
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            Some("2.1"),
            None,
        ),
        ("curl/8.4.0", Some("8.4"), None),
        ("GuzzleHttp/7", Some("7"), None),
    ];

    for (user_agent, browser_version, os_version) in cases {
        let device = device(user_agent);
        assert_eq!(
            device.browser_version.as_deref(),
            *browser_version,
            "browser of {user_agent}"
        );
        assert_eq!(
            device.os_version.as_deref(),
            *os_version,
            "system of {user_agent}"
        );
    }
}

#[test]
fn hints_tell_windows_11_from_10() {
    for (stated, expected) in [
        ("15.0.0", Some("11")),
        ("13.0.0", Some("11")),
        ("10.0.0", Some("10")),
        ("1.0.0", Some("10")),
        ("0.3.0", Some("8.1")),
        ("0.1.0", Some("7")),
        ("", None),
        ("nonsense", None),
    ] {
        let device = hinted(CHROME_ON_WINDOWS, &platform("Windows", stated));
        assert_eq!(device.os.as_deref(), Some("Windows"));
        assert_eq!(device.os_version.as_deref(), expected, "for {stated:?}");
    }
}

#[test]
fn hinted_version_beats_the_frozen_one() {
    let mac = hinted(CHROME_ON_MAC, &platform("macOS", "15.1.0"));
    let android = hinted(CHROME_ON_ANDROID, &platform("Android", "14.0.0"));

    assert_eq!(mac.os_version.as_deref(), Some("15.1"));
    assert_eq!(android.os_version.as_deref(), Some("14"));
}

#[test]
fn hinted_version_alone_is_of_the_strings_system() {
    let hints = ClientHints {
        platform_version: Some("15.0.0".into()),
        ..ClientHints::default()
    };

    assert_eq!(
        hinted(CHROME_ON_WINDOWS, &hints).os_version.as_deref(),
        Some("11")
    );
}

#[test]
fn quotes_of_structured_headers_are_taken_off() {
    let mut hints = platform("\"Windows\"", "\"15.0.0\"");
    hints.brands = vec![("\"Brave\"".into(), "\"145\"".into())];
    hints.model = Some("\"\"".into());

    let device = hinted(CHROME_ON_WINDOWS, &hints);

    assert_eq!(device.browser.as_deref(), Some("Brave"));
    assert_eq!(device.browser_version.as_deref(), Some("145.0"));
    assert_eq!(
        (device.os.as_deref(), device.os_version.as_deref()),
        (Some("Windows"), Some("11"))
    );
    assert_eq!(device.device_type, Some(DeviceType::Desktop));
}

#[test]
fn brands_name_what_the_string_hides() {
    for (own, expected) in [
        ("Brave", "Brave"),
        ("Microsoft Edge", "Edge"),
        ("Google Chrome", "Chrome"),
        ("Opera", "Opera"),
        ("Opera GX", "Opera GX"),
        ("YaBrowser", "Yandex Browser"),
        ("Vivaldi", "Vivaldi"),
        ("DuckDuckGo", "DuckDuckGo"),
        ("Samsung Internet", "Samsung Internet"),
        ("Android WebView", "WebView"),
        ("HeadlessChrome", "Headless Chrome"),
    ] {
        let hints = brands(&[("Chromium", "145"), (own, "145"), ("Not:A-Brand", "24")]);
        assert_eq!(
            hinted(CHROME_ON_WINDOWS, &hints).browser.as_deref(),
            Some(expected),
            "for {own}"
        );
    }
}

#[test]
fn nonsense_brands_are_ignored() {
    let nonsense = [
        " Not A;Brand",
        "Not/A)Brand",
        "Not_A Brand",
        "Not?A_Brand",
        "Not.A/Brand",
        ";Not A Brand",
        "(Not(A:Brand",
    ];
    for name in nonsense {
        let lone = brands(&[(name, "99")]);
        let beside_chrome = brands(&[(name, "99"), ("Google Chrome", "145")]);
        assert_eq!(describe(None, &lone), None, "{name:?} is no browser");
        assert_eq!(
            hinted(CHROME_ON_WINDOWS, &lone).browser.as_deref(),
            Some("Chrome"),
            "beside {name:?}"
        );
        assert_eq!(
            hinted(CHROME_ON_WINDOWS, &beside_chrome).browser.as_deref(),
            Some("Chrome"),
            "beside {name:?}"
        );
    }
}

#[test]
fn app_keeps_its_name_over_the_brand_of_its_webview() {
    let instagram = "Mozilla/5.0 (Linux; Android 13; SM-A536B; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 \
        Chrome/145.0.0.0 Mobile Safari/537.36 Instagram 311.0.0.32.118 Android";

    let device = hinted(
        instagram,
        &brands(&[("Chromium", "145"), ("Android WebView", "145")]),
    );

    assert_eq!(device.browser.as_deref(), Some("Instagram"));
    assert_eq!(device.browser_version.as_deref(), Some("311.0"));
}

#[test]
fn mobile_and_model_help_the_type() {
    let with = |mobile: Option<bool>, model: &str| ClientHints {
        mobile,
        model: Some(model.into()),
        platform: Some("Android".into()),
        ..ClientHints::default()
    };

    assert_eq!(
        hinted(CHROME_ON_ANDROID, &with(Some(true), "Pixel 7")).device_type,
        Some(DeviceType::Phone)
    );
    assert_eq!(
        hinted(CHROME_ON_ANDROID, &with(Some(false), "")).device_type,
        Some(DeviceType::Tablet)
    );
    assert_eq!(
        hinted(CHROME_ON_ANDROID, &with(None, "SM-X910")).device_type,
        Some(DeviceType::Tablet)
    );
    assert_eq!(
        hinted("", &with(None, "Pixel 7")).device_type,
        Some(DeviceType::Phone)
    );
}

#[test]
fn hints_alone_describe_a_device() {
    let mut hints = platform("Windows", "15.0.0");
    hints.brands = vec![
        ("Chromium".into(), "145".into()),
        ("Microsoft Edge".into(), "145".into()),
    ];
    hints.mobile = Some(false);

    let device = describe(None, &hints).expect("the hints name a browser");

    assert_eq!(
        (device.browser.as_deref(), device.os.as_deref()),
        (Some("Edge"), Some("Windows"))
    );
    assert_eq!(
        (device.browser_version.as_deref(), device.os_version.as_deref()),
        (Some("145"), Some("11"))
    );
    assert_eq!(device.device_type, Some(DeviceType::Desktop));
}

#[test]
fn televisions_keep_their_system_under_vague_hints() {
    let television = "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 \
        Safari/537.36 WebAppManager";

    let device = hinted(television, &platform("Linux", ""));

    assert_eq!(
        (device.os.as_deref(), device.device_type),
        (Some("webOS"), Some(DeviceType::Tv))
    );
}

#[test]
fn bot_is_not_what_it_dresses_up_as() {
    let googlebot = "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/145.0.0.0 \
        Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    let mut hints = platform("Android", "6.0.1");
    hints.brands = vec![("Google Chrome".into(), "145".into())];

    let device = hinted(googlebot, &hints);

    assert_eq!(
        (device.browser.as_deref(), device.os.as_deref()),
        (Some("Googlebot"), None)
    );
    assert_eq!(
        (device.device_type, device.is_bot),
        (Some(DeviceType::Program), true)
    );
}

#[test]
fn nothing_recognised_is_none() {
    for user_agent in [
        None,
        Some(""),
        Some("   "),
        Some("-"),
        Some("\u{0}"),
        Some("Mozilla/5.0"),
        Some("hello world"),
    ] {
        assert_eq!(
            describe(user_agent, &ClientHints::default()),
            None,
            "for {user_agent:?}"
        );
    }
}

#[test]
fn truncated_strings_stay_bounded() {
    for row in rows() {
        for (at, _) in row.user_agent.char_indices() {
            check_device(describe(Some(&row.user_agent[..at]), &ClientHints::default()));
        }
    }
}

#[test]
fn hostile_strings_stay_bounded() {
    let fragments = [
        "(",
        ")",
        "((((;",
        "/",
        "//1.2",
        "Chrome/",
        "Version/",
        " Safari/",
        "Mozilla/5.0 (",
        "compatible; ",
        "bot",
        "+http",
        "%F0%9F%92%A9",
        "%",
        "%%%",
        "\u{0}",
        "\u{202e}",
        "é",
        "💩",
        "iPhone",
        "Electron/ Chrome/",
        "Windows NT 10.0.",
        "99999999999999999999",
        "<script>",
        "\"';--",
        "\r\nSet-Cookie: a=b",
        "Darwin/",
        "Mac OS X ",
        "Android ",
        "ßſİK",
    ];
    for first in fragments {
        check_bounds(&first.repeat(65_536 / first.len()));
        for second in fragments {
            check_bounds(&format!("{first}{second}"));
            check_bounds(&format!("{second}/1.0 ({first}; {second})").repeat(40));
        }
    }
}

#[test]
fn random_bytes_stay_bounded() {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let rows = rows();
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..random.below(300))
            .map(|_| random.next().to_le_bytes()[0])
            .collect();
        check_bounds(&String::from_utf8_lossy(&bytes));

        let mut spliced: Vec<u8> = rows[random.below(rows.len())].user_agent.bytes().collect();
        for _ in 0..4 {
            let at = random.below(spliced.len());
            spliced[at] = random.next().to_le_bytes()[0];
        }
        check_bounds(&String::from_utf8_lossy(&spliced));
    }
}

#[test]
fn program_cannot_put_markup_or_control_characters_into_its_name() {
    let device = device("My\u{202e}App\u{7}\u{0}/1.0 (iPhone; iOS 17.2)");

    assert_eq!(device.browser.as_deref(), Some("MyApp"));
    assert_eq!(describe(Some("<b>App</b>"), &ClientHints::default()), None);
}

/// Describes `text`, given as everything at once.
fn check_bounds(text: &str) {
    let hints = ClientHints {
        platform: Some(text.to_owned()),
        platform_version: Some(text.to_owned()),
        model: Some(text.to_owned()),
        mobile: Some(text.len().is_multiple_of(2)),
        brands: vec![(text.to_owned(), text.to_owned()); 3],
    };
    check_device(describe(Some(text), &ClientHints::default()));
    check_device(describe(Some(text), &hints));
}

/// What every answer must hold.
fn check_device(device: Option<Device>) {
    let Some(device) = device else { return };
    for field in [
        device.browser,
        device.browser_version,
        device.os,
        device.os_version,
    ]
    .into_iter()
    .flatten()
    {
        assert!(!field.is_empty(), "an empty field");
        assert!(field.chars().count() <= FIELD_CHARS_MAX, "{field:?} is too long");
        assert!(
            !field.contains(|c: char| c.is_control() || c == '<' || c == '\u{202e}'),
            "{field:?} is unsafe"
        );
    }
}

/// Small and deterministic, so that a failure repeats.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than a usize")
    }
}
