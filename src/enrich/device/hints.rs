//! Client hints: what Chromium's browsers tell beside the string, and in its place since they froze it.
//!
//! Sources: User-Agent Client Hints (WICG); Microsoft's "Detect Windows 11 using User-Agent Client Hints".

use super::names::{Names, TABLET_WORDS};
use super::{clip, device_type, has_any, major, tidy, version};
use crate::session::{ClientHints, Device, DeviceType};

/// Browsers send three or four brands; more are somebody's game.
const BRANDS_MAX: usize = 16;

/// Brands of `Sec-CH-UA` whose canonical name is another.
#[rustfmt::skip]
const BRANDS: Names = &[
    ("Chrome", "Google Chrome"),
    ("Edge", "Microsoft Edge"),
    ("WebView", "Android WebView|Microsoft Edge WebView2"),
    ("Headless Chrome", "HeadlessChrome"),
    ("Yandex Browser", "YaBrowser|Yandex"),
    ("Coc Coc", "CocCoc"),
    ("Opera", "OperaMobile|Opera Mobile"),
    ("Meta Quest Browser", "Oculus Browser"),
];
/// What most others are built upon, the least telling last: any other name says more than these.
const GENERIC: [&str; 4] = ["Chrome", "WebView", "Safari", "Chromium"];

pub(super) fn apply_hints(device: &mut Device, hints: &ClientHints) {
    let version = hints.platform_version.as_deref().and_then(unquoted);
    if let Some(platform) = hints.platform.as_deref().and_then(unquoted) {
        apply_platform(device, &platform);
    }
    if let Some(version) = version
        .zip(device.os.as_deref())
        .and_then(|(stated, os)| hinted_version(os, &stated))
    {
        device.os_version = Some(version);
    }
    if let Some((name, version)) = best_brand(&hints.brands) {
        apply_brand(device, name, version);
    }
    device.device_type = hinted_type(device, hints);
}

/// Structured headers quote their strings; who copies them into JSON may leave the quotes on.
fn unquoted(value: &str) -> Option<String> {
    tidy(clip(value).trim().trim_matches('"'))
}

fn apply_platform(device: &mut Device, platform: &str) {
    let os = match platform {
        "Unknown" => return,
        "Chrome OS" | "Chromium OS" | "CrOS" => "ChromeOS",
        "Mac OS X" | "Mac OS" | "MacOS" => "macOS",
        other => other,
    };
    // A television's Chromium says "Linux" or "Android" in hints where its string says what it is.
    let is_vague = matches!(os, "Linux" | "Android");
    let known = device.os.as_deref();
    if known == Some(os)
        || (is_vague && matches!(known, Some("Tizen" | "webOS" | "HarmonyOS" | "KaiOS" | "VIDAA")))
    {
        return;
    }
    device.os = Some(os.to_owned());
    device.os_version = None;
    device.device_type = device.device_type.or_else(|| device_type("Mobile", Some(os)));
}

/// Windows states the version of an API: 13 and more is Windows 11, 1 to 10 is Windows 10, 0.x are 7, 8
/// and 8.1.
fn hinted_version(os: &str, stated: &str) -> Option<String> {
    let number = version(stated)?;
    let name = match (os, number.as_str()) {
        ("Linux", _) => return None,
        ("Windows", "0.1") => "7",
        ("Windows", "0.2") => "8",
        ("Windows", "0.3") => "8.1",
        ("Windows", number) => match major(number) {
            13.. => "11",
            1.. => "10",
            0 => return None,
        },
        ("Android", number) => number.strip_suffix(".0").unwrap_or(number),
        (_, number) => number,
    };
    Some(name.to_owned())
}

/// The brand that says most, and its version. Some are deliberate nonsense (`Not A;Brand`), so that
/// nobody relies on a fixed list.
fn best_brand(brands: &[(String, String)]) -> Option<(String, Option<String>)> {
    let named = |(brand, stated): &(String, String)| {
        let brand = unquoted(brand)?;
        let letters: String = brand.chars().filter(char::is_ascii_alphabetic).collect();
        if letters.is_empty() || letters.eq_ignore_ascii_case("notabrand") {
            return None;
        }
        let canonical = BRANDS
            .iter()
            .find(|(_, brands)| brands.split('|').any(|known| known == brand));
        let name = canonical.map_or(brand, |(name, _)| (*name).to_owned());
        Some((name, unquoted(stated).and_then(|stated| version(&stated))))
    };
    let generality = |name: &str| {
        GENERIC
            .iter()
            .position(|generic| *generic == name)
            .map_or(0, |at| at + 1)
    };
    brands
        .iter()
        .take(BRANDS_MAX)
        .filter_map(named)
        .min_by_key(|(name, _)| generality(name))
}

/// The string's own name stays if it says more than the brand; its version stays if it is the finer one.
fn apply_brand(device: &mut Device, name: String, version: Option<String>) {
    let known = device.browser.as_deref();
    if known.is_some_and(|known| known != name && !GENERIC.contains(&known)) {
        return;
    }
    let has_finer = match (&device.browser_version, &version) {
        (Some(known), Some(hinted)) => major(known) == major(hinted),
        (_, None) => known == Some(&name),
        (None, Some(_)) => false,
    };
    if !has_finer {
        device.browser_version = version;
    }
    device.browser = Some(name);
}

fn hinted_type(device: &Device, hints: &ClientHints) -> Option<DeviceType> {
    let model = hints.model.as_deref().and_then(unquoted);
    let is_android = matches!(device.os.as_deref(), Some("Android" | "HarmonyOS"));
    match (device.device_type, hints.mobile) {
        (known @ Some(DeviceType::Tv | DeviceType::Console | DeviceType::Program), _) => known,
        _ if is_android && model.as_deref().is_some_and(|model| has_any(model, TABLET_WORDS)) => {
            Some(DeviceType::Tablet)
        }
        (_, Some(true)) => Some(DeviceType::Phone),
        (_, Some(false)) if is_android => Some(DeviceType::Tablet),
        (None, Some(false)) if device.os.is_some() => Some(DeviceType::Desktop),
        (None, None) if model.is_some() => Some(DeviceType::Phone),
        (known, _) => known,
    }
}
