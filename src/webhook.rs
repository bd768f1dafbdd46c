//! Webhooks, as far as they are rules: ids, where one may lead, secrets and signatures, when a delivery is tried again.
//!
//! Signatures are those of [Standard Webhooks](https://www.standardwebhooks.com): HMAC-SHA256 over the message's id,
//! the time and the body. A signing secret has to be read to sign, so that a hash of it would be of no use: it is
//! stored sealed with a key that follows from the key file ([`Sealer`]), for its webhook alone. A copy of the database
//! without that file can sign nothing.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use url::{Host, Url};

use crate::address::is_public;
use crate::clock::Timestamp;
use crate::session::{KeyId, ServerKey};

/// Webhooks that an app may have: a handful of backends, with room for trying out. Each is a task and some rows.
pub const WEBHOOKS_PER_APP_MAX: usize = 20;
/// Longest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 255;
/// Longest URL, in bytes: what servers commonly take.
pub const URL_LEN_MAX: usize = 2_000;
/// Longest name of a webhook in the configuration.
pub const NAME_LEN_MAX: usize = 63;
/// How long the secret before a rotation signs too, in milliseconds: 24 hours, to change every receiver in.
pub const ROTATION_MILLIS: i64 = 24 * 60 * 60 * 1_000;

/// How long a delivery is tried again since the first attempt, in milliseconds: 24 hours, over a night and a day's
/// work.
pub const RETRY_MILLIS: i64 = 24 * 60 * 60 * 1_000;
/// The longest wait before the second attempt, in milliseconds. It doubles with each, up to an hour.
const BACK_OFF_MILLIS: i64 = 5_000;
const BACK_OFF_MILLIS_MAX: i64 = 60 * 60 * 1_000;
/// The shortest wait: chance alone may not make two attempts one.
const WAIT_MILLIS_MIN: i64 = 1_000;
/// Attempts that a delivery has at least, however long ago the first was: while a server does not run it makes none.
const ATTEMPTS_MIN: u32 = 5;
/// The longest wait that a receiver can ask for, in milliseconds: a day.
const RETRY_AFTER_MILLIS_MAX: i64 = 24 * 60 * 60 * 1_000;

/// The public handle of a webhook.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookId(KeyId);

impl WebhookId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(KeyId::from_bytes(bytes))
    }

    /// The id's bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the hyphenated text form.
    pub fn parse(text: &str) -> Option<Self> {
        KeyId::parse(text).map(Self)
    }

    /// A fresh one. Webhooks are few and made by hand, so that plain random ids do.
    pub fn random() -> Self {
        Self(KeyId::random())
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether webhooks may lead to addresses that are not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// No: whoever may make one could else ask this machine's neighbours, and itself, in its name.
    Public,
    /// Yes.
    Everything,
}

impl Reach {
    /// Whether an address may be connected to.
    pub fn includes(self, address: IpAddr) -> bool {
        self == Self::Everything || is_public(address)
    }
}

/// Where a webhook leads: an http or https URL without user information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

impl WebhookUrl {
    /// What a URL must be.
    pub const RULE: &'static str =
        "must be an https or http URL without user, password and fragment, of at most 2000 bytes";
    /// What a URL's address must be.
    pub const PUBLIC_RULE: &'static str = "leads to an address that is not public; such ones need allow_private in [webhooks] of the configuration";

    /// Reads a URL, as those read it who connect to it: `http://0x7f.1` is `http://127.0.0.1`.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse(text: &str, reach: Reach) -> Result<Self, &'static str> {
        // Those are left out without a word in the middle of a URL, so that two texts would be one.
        let is_plain = text.len() <= URL_LEN_MAX && !text.chars().any(|c| c.is_control() || c == ' ');
        let url = Url::parse(text).ok().filter(|_| is_plain).ok_or(Self::RULE)?;
        let is_good = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && url.port() != Some(0)
            && url.as_str().len() <= URL_LEN_MAX
            // Not all that browsers take can be said by HTTP.
            && url.as_str().parse::<hyper::Uri>().is_ok();
        let url = Self(url);
        if !is_good || !url.has_host() {
            return Err(Self::RULE);
        }
        match url.literal_address() {
            Some(address) if !reach.includes(address) => Err(Self::PUBLIC_RULE),
            _ => Ok(url),
        }
    }

    /// The address that stands in the URL itself: for that no name is resolved.
    pub fn literal_address(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// Whether it leads to this machine, as its text says.
    pub fn is_loopback(&self) -> bool {
        match (self.literal_address(), self.0.host_str()) {
            (Some(address), _) => address.to_canonical().is_loopback(),
            // These lead nowhere else (RFC 6761, section 6.3).
            (None, Some(host)) => host == "localhost" || host.ends_with(".localhost"),
            (None, None) => false,
        }
    }

    /// What may be shown to whoever sees a configuration: what follows is often a secret between two.
    pub fn without_query(&self) -> String {
        let mut url = self.0.clone();
        url.set_query(None);
        url.into()
    }

    /// Whether there is more than [`WebhookUrl::without_query`] shows.
    pub fn has_query(&self) -> bool {
        self.0.query().is_some()
    }

    fn has_host(&self) -> bool {
        self.0.host_str().is_some_and(|host| !host.is_empty())
    }

    /// The text, in its normal form.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// What a webhook's messages are signed with, and its receiver verifies them with.
#[derive(Clone)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    const PREFIX: &'static str = "whsec_";
    /// Its length in bytes, of the standard's 24 to 64.
    const LEN: usize = 32;
    const LEN_MIN: usize = 24;
    const LEN_MAX: usize = 64;
    /// What its text must be.
    pub const RULE: &'static str = "must be whsec_ and 24 to 64 random bytes in base64";

    /// A fresh one from the operating system's generator.
    pub fn random() -> Self {
        let mut bytes = vec![0; Self::LEN];
        getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
        Self(bytes)
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Option<Self> {
        // As the standard's libraries do, some of which write no padding.
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let encoded = text.strip_prefix(Self::PREFIX)?;
        let bytes = LENIENT.decode(encoded).ok()?;
        (Self::LEN_MIN..=Self::LEN_MAX)
            .contains(&bytes.len())
            .then_some(Self(bytes))
    }

    /// The text that is given to the receiver, once.
    pub fn reveal(&self) -> String {
        format!("{}{}", Self::PREFIX, STANDARD.encode(&self.0))
    }

    /// The signature of a message that is sent at a time, in seconds since the Unix epoch.
    pub fn sign(&self, id: &str, timestamp_secs: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp_secs}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// A signing secret as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret(Vec<u8>);

impl SealedSecret {
    /// The sealed secret with these bytes, as read from a store.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret(…)")
    }
}

/// Seals signing secrets: XChaCha20-Poly1305, whose nonces are long enough to be random, under a key that follows from
/// the key file. What was sealed for one webhook opens for no other.
pub struct Sealer(XChaCha20Poly1305);

impl Sealer {
    const LABEL: &'static str = "sessiond webhook secrets";
    const NONCE_LEN: usize = 24;

    /// The sealer of a server.
    pub fn new(key: &ServerKey) -> Self {
        Self(XChaCha20Poly1305::new(&Key::from(key.derived(Self::LABEL))))
    }

    /// Seals a secret for a webhook.
    pub fn seal(&self, id: WebhookId, secret: &SigningSecret) -> SealedSecret {
        let mut nonce = [0; Self::NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the operating system provides random bytes");
        let payload = Payload {
            msg: &secret.0,
            aad: id.as_bytes(),
        };
        let sealed = self
            .0
            .encrypt(&XNonce::from(nonce), payload)
            .expect("64 bytes are not too long for the cipher");
        SealedSecret([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what was sealed for this webhook; `None` under another key, or if it was changed.
    pub fn open(&self, id: WebhookId, sealed: &SealedSecret) -> Option<SigningSecret> {
        let (nonce, msg) = sealed.0.split_first_chunk::<{ Self::NONCE_LEN }>()?;
        let payload = Payload {
            msg,
            aad: id.as_bytes(),
        };
        self.0
            .decrypt(&XNonce::from(*nonce), payload)
            .ok()
            .map(SigningSecret)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

/// An attempt that failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedAttempt {
    /// The present moment.
    pub now: Timestamp,
    /// When the first attempt of this delivery was.
    pub first_at: Timestamp,
    /// How many there were, with this one.
    pub attempts: u32,
    /// How long the receiver asks to wait, in milliseconds.
    pub retry_after_millis: Option<i64>,
}

/// When a delivery is tried again; `None` when its time is over.
///
/// Waits grow from 5 s to an hour by doubling, and of each a random part is waited ("full jitter"), so that many that
/// failed together do not come back together. A longer wait that the receiver asks for is kept, up to a day. What
/// counts is when an attempt failed, not when the next would be: else whoever asks for a day would lose what it was
/// asked about.
pub fn next_attempt(failed: &FailedAttempt, random: u32) -> Option<Timestamp> {
    let doublings = failed.attempts.saturating_sub(1).min(20);
    let longest = BACK_OFF_MILLIS_MAX.min(BACK_OFF_MILLIS << doublings);
    let part = longest * i64::from(random) / i64::from(u32::MAX);
    let asked = failed
        .retry_after_millis
        .unwrap_or_default()
        .min(RETRY_AFTER_MILLIS_MAX);
    let is_in_time = failed.now.millis_since(failed.first_at) < RETRY_MILLIS;
    (is_in_time || failed.attempts < ATTEMPTS_MIN)
        .then(|| failed.now.plus_millis(part.max(WAIT_MILLIS_MIN).max(asked)))
}

/// How long a `Retry-After` asks to wait, in milliseconds (RFC 9110 §10.2.3): seconds, or a date.
pub fn retry_after_millis(value: &str, now: Timestamp) -> Option<i64> {
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let millis = if is_number {
        value.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(1_000)
    } else {
        Timestamp::parse_http_date(value)?.millis_since(now)
    };
    Some(millis.clamp(0, RETRY_AFTER_MILLIS_MAX))
}

/// Whether a text may be a webhook's name in the configuration.
pub fn is_webhook_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= NAME_LEN_MAX
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000;
    const HOUR: i64 = 60 * 60 * SECOND;
    const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn failed(attempts: u32, after_millis: i64) -> FailedAttempt {
        FailedAttempt {
            now: START.plus_millis(after_millis),
            first_at: START,
            attempts,
            retry_after_millis: None,
        }
    }

    fn wait(failed: &FailedAttempt, random: u32) -> Option<i64> {
        next_attempt(failed, random).map(|at| at.millis_since(failed.now))
    }

    #[test]
    fn url_leads_to_this_machine_if_its_host_can_be_nothing_else() {
        for (host, expected) in [
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("2130706433", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("hooks.localhost", true),
            ("notlocalhost", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("[2001:db8::1]", false),
        ] {
            let url = WebhookUrl::parse(&format!("http://{host}/x"), Reach::Everything).expect("a URL");
            assert_eq!(url.is_loopback(), expected, "{host}");
        }
    }

    #[test]
    fn signature_is_that_of_the_standard() {
        // The example of the standard's own libraries.
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_round_trip_and_others_are_refused() {
        let secret = SigningSecret::random();
        assert_eq!(SigningSecret::parse(&secret.reveal()), Some(secret.clone()));
        assert_eq!(
            SigningSecret::parse(secret.reveal().trim_end_matches('=')),
            Some(secret)
        );
        let of_len = |len: usize| format!("whsec_{}", STANDARD.encode(vec![7; len]));
        for (len, is_good) in [(0, false), (23, false), (24, true), (64, true), (65, false)] {
            assert_eq!(SigningSecret::parse(&of_len(len)).is_some(), is_good, "{len}");
        }
        for bad in [
            "",
            "whsec_",
            "whsec_!",
            &of_len(32)[6..],
            &of_len(32).replace("whsec_", "WHSEC_"),
        ] {
            assert_eq!(SigningSecret::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let (id, secret) = (WebhookId::random(), SigningSecret::random());
        let sealer = Sealer::new(&ServerKey::random());
        let sealed = sealer.seal(id, &secret);
        assert_eq!(
            format!("{secret:?} {sealed:?} {sealer:?}"),
            "SigningSecret(…) SealedSecret(…) Sealer(…)"
        );
    }

    #[test]
    fn sealed_secret_opens_with_its_key_for_its_webhook_unchanged() {
        let (id, secret) = (WebhookId::random(), SigningSecret::random());
        let key = || ServerKey::from_bytes([7; 32]);
        let sealed = Sealer::new(&key()).seal(id, &secret);
        let again = Sealer::new(&key()).seal(id, &secret);
        assert_ne!(sealed, again, "another nonce each time");
        assert_eq!(Sealer::new(&key()).open(id, &sealed), Some(secret));
        assert_eq!(
            Sealer::new(&ServerKey::from_bytes([8; 32])).open(id, &sealed),
            None
        );
        assert_eq!(Sealer::new(&key()).open(WebhookId::random(), &sealed), None);
        for at in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[at] ^= 1;
            assert_eq!(Sealer::new(&key()).open(id, &changed), None, "{at}");
        }
        for len in [0, 10, 24, 30] {
            let cut = SealedSecret(sealed.0[..len].to_vec());
            assert_eq!(Sealer::new(&key()).open(id, &cut), None, "{len}");
        }
    }

    #[test]
    fn waits_double_up_to_an_hour_and_a_random_part_is_waited() {
        for (attempts, longest) in [(1, 5), (2, 10), (3, 20), (10, 2_560), (11, 3_600), (4_000, 3_600)] {
            let failed = failed(attempts, 0);
            assert_eq!(wait(&failed, u32::MAX), Some(longest * SECOND), "{attempts}");
            let half = wait(&failed, u32::MAX / 2).expect("in time");
            assert!((half - longest * SECOND / 2).abs() <= 1, "{attempts}: {half}");
            assert_eq!(wait(&failed, 0), Some(SECOND), "{attempts}: never at once");
        }
    }

    #[test]
    fn attempts_end_a_day_after_the_first() {
        assert_eq!(wait(&failed(30, 24 * HOUR - 1), u32::MAX), Some(HOUR));
        assert_eq!(wait(&failed(30, 24 * HOUR), u32::MAX), None);
    }

    #[test]
    fn few_attempts_are_made_however_long_ago_the_first_was() {
        assert_eq!(wait(&failed(4, 25 * HOUR), u32::MAX), Some(40 * SECOND));
        assert_eq!(wait(&failed(5, 25 * HOUR), u32::MAX), None);
    }

    #[test]
    fn receiver_that_asks_for_a_day_is_asked_again_after_it() {
        let asked = |attempts, after| FailedAttempt {
            retry_after_millis: Some(24 * HOUR),
            ..failed(attempts, after)
        };
        assert_eq!(
            wait(&asked(1, 20), 0),
            Some(24 * HOUR),
            "the first attempt took 20 ms"
        );
        assert_eq!(wait(&asked(30, 23 * HOUR), 0), Some(24 * HOUR), "at hour 23");
    }

    #[test]
    fn longer_wait_is_kept_if_the_receiver_asks_for_it() {
        let asked = |millis| FailedAttempt {
            retry_after_millis: Some(millis),
            ..failed(1, 0)
        };
        assert_eq!(wait(&asked(120 * SECOND), 0), Some(120 * SECOND));
        assert_eq!(wait(&asked(2 * SECOND), u32::MAX), Some(5 * SECOND));
        assert_eq!(wait(&asked(24 * HOUR), 0), Some(24 * HOUR));
        assert_eq!(wait(&asked(i64::MAX), 0), Some(24 * HOUR));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = START.plus_millis(90 * SECOND).to_http_date();
        let past = START.plus_millis(-90 * SECOND).to_http_date();
        for (value, expected) in [
            ("120", Some(120 * SECOND)),
            (" 0 ", Some(0)),
            ("99999999999999999999", Some(24 * HOUR)),
            (date.as_str(), Some(90 * SECOND)),
            (past.as_str(), Some(0)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after_millis(value, START), expected, "{value}");
        }
    }

    #[test]
    fn urls_lead_somewhere_by_http_and_to_public_addresses_only() {
        let long = format!("https://example.com/{}", "a".repeat(URL_LEN_MAX));
        for bad in [
            "",
            "example.com",
            "/path",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://",
            "https://user@example.com/",
            "https://user:secret@example.com/",
            "https://:secret@example.com/",
            "https://example.com/#part",
            "https://example.com:0/",
            "https://exa mple.com/",
            "https://example.com/\n",
            " https://example.com/",
            "https://exam{ple.com/",
            &long,
        ] {
            assert_eq!(
                WebhookUrl::parse(bad, Reach::Everything),
                Err(WebhookUrl::RULE),
                "{bad}"
            );
        }
        for private in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://10.0.0.1:8080/",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[fd00::1]/",
            "http://０.０.０.０/",
        ] {
            let rule = WebhookUrl::PUBLIC_RULE;
            assert_eq!(WebhookUrl::parse(private, Reach::Public), Err(rule), "{private}");
            assert!(WebhookUrl::parse(private, Reach::Everything).is_ok(), "{private}");
        }
        for good in [
            "https://example.com/hooks?a=b",
            "http://example.com:8080",
            "https://1.1.1.1/",
            "https://[2606:4700::1111]/",
        ] {
            assert!(WebhookUrl::parse(good, Reach::Public).is_ok(), "{good}");
        }
    }

    #[test]
    fn names_are_those_of_sections() {
        for good in ["shop", "0", "a-b_c", &"a".repeat(63)] {
            assert!(is_webhook_name(good), "{good}");
        }
        for bad in ["", "Shop", "-a", "a.b", "ä", &"a".repeat(64)] {
            assert!(!is_webhook_name(bad), "{bad}");
        }
    }
}
