//! Who a session belongs to, and how many a user may have. Pure rules.
//!
//! Users are implicit: any id may have sessions and settings, none must be registered. A user's own maximum beats
//! the tier's; without a tier of their own users have the default one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;

/// "Unlimited" is this many active sessions per user: every list and bulk ending of one user is bounded by it.
pub const SESSIONS_PER_USER_MAX: u32 = 10_000;
/// Longest user id, in bytes.
pub const USER_ID_LEN_MAX: usize = 255;

/// The application's own id for a person: 1-255 bytes of UTF-8 without control characters, not `.` or `..` (which
/// URLs cannot carry as a path segment).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// What [`UserId::parse`] demands, in a sentence for whoever got it wrong.
    pub const RULE: &'static str =
        "must be 1 to 255 bytes of UTF-8 without control characters, and neither \".\" nor \"..\"";

    /// Reads an id; `None` if it breaks the rule.
    pub fn parse(text: &str) -> Option<Self> {
        let good = (1..=USER_ID_LEN_MAX).contains(&text.len())
            && !text.chars().any(char::is_control)
            && text != "."
            && text != "..";
        good.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The named limits on how many active sessions a user may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers {
    default_tier: String,
    limits: BTreeMap<String, u32>,
}

impl Tiers {
    /// These limits; `None` if the default tier is not among them.
    pub fn new(default_tier: String, limits: BTreeMap<String, u32>) -> Option<Self> {
        limits
            .contains_key(&default_tier)
            .then_some(Self { default_tier, limits })
    }

    /// Whether there is a tier of this name.
    pub fn contains(&self, tier: &str) -> bool {
        self.limits.contains_key(tier)
    }

    /// The tier of users who have none of their own.
    pub fn default_tier(&self) -> &str {
        &self.default_tier
    }

    /// Each tier and its limit, in order of their names.
    pub fn limits(&self) -> &BTreeMap<String, u32> {
        &self.limits
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.limits.keys().map(String::as_str)
    }

    /// How many active sessions a user with these settings may have. A stored tier that the configuration no longer
    /// names counts as the default one.
    pub fn effective_max_sessions(&self, settings: &UserSettings) -> u32 {
        let tier = settings
            .tier
            .as_deref()
            .filter(|tier| self.contains(tier))
            .unwrap_or(&self.default_tier);
        let limit = settings.max_sessions.unwrap_or_else(|| self.limits[tier]);
        limit.min(SESSIONS_PER_USER_MAX)
    }
}

/// What is stored about a user beside their sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// The tier; `None` is the default one.
    pub tier: Option<String>,
    /// A maximum of their own.
    pub max_sessions: Option<u32>,
    /// A blocked user has no sessions and gets none.
    pub is_blocked: bool,
    /// When their credentials last changed: sign-ins verified before are refused.
    pub credentials_changed_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiers() -> Tiers {
        let limits = [("basic".to_owned(), 2), ("pro".to_owned(), u32::MAX)];
        Tiers::new("basic".to_owned(), limits.into()).expect("the default is among them")
    }

    #[test]
    fn own_maximum_beats_the_tier_and_unlimited_is_bounded() {
        let tiers = tiers();
        let user = |tier: Option<&str>, max_sessions| UserSettings {
            tier: tier.map(str::to_owned),
            max_sessions,
            ..UserSettings::default()
        };
        assert_eq!(tiers.effective_max_sessions(&user(None, None)), 2);
        assert_eq!(
            tiers.effective_max_sessions(&user(Some("pro"), None)),
            SESSIONS_PER_USER_MAX
        );
        assert_eq!(tiers.effective_max_sessions(&user(Some("pro"), Some(0))), 0);
        assert_eq!(
            tiers.effective_max_sessions(&user(Some("gone"), None)),
            2,
            "a tier no longer configured"
        );
    }

    #[test]
    fn user_ids_are_bounded_text() {
        for good in ["ada", "a/b", "…", "%2F", &"a".repeat(255)] {
            assert!(UserId::parse(good).is_some(), "{good}");
        }
        for bad in ["", ".", "..", "a\nb", "a\u{7f}", &"a".repeat(256)] {
            assert!(UserId::parse(bad).is_none(), "{bad}");
        }
    }
}
