//! Ids and the secrets that go with them: session tokens, API keys, the server's own key.
//!
//! Secrets show in no `Debug`, and only their SHA-256 is stored, compared in constant time. What is made from them is made
//! with HMAC-SHA256 (RFC 2104).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// The public handle of a session: a UUIDv7, which may be shown, logged and put in URLs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

impl SessionId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id's bytes, in the order in which ids sort.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the hyphenated text form; nothing else is an id.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The hyphenated text form, in a place that is there.
    pub fn encode<'t>(&self, text: &'t mut [u8; 36]) -> &'t str {
        self.0.as_hyphenated().encode_lower(text)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 32 secret random bytes. They never show in `Debug` and are never stored.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A fresh secret from the operating system's generator.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        // Without a generator no secret can be made, and there is nothing safe to go on with.
        getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
        Self(bytes)
    }

    /// What is stored instead of the secret.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }

    /// HMAC-SHA256 (RFC 2104) of these parts, one after the other, under this secret.
    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The server's own secret, which is in the key file ([`crate::key_file`]) and nowhere else: with it the successors of
/// renewed tokens are made, and the secrets of webhooks are sealed.
#[derive(Debug)]
pub struct ServerKey(Secret);

impl ServerKey {
    /// A fresh key from the operating system's generator.
    pub fn random() -> Self {
        Self(Secret::random())
    }

    /// The key with these bytes, as read from the key file.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret(bytes))
    }

    /// A key for one purpose, from which neither this one nor that of another purpose follows. No label is as long as
    /// what successors are made from, so that none is one's secret.
    pub(crate) fn derived(&self, label: &str) -> [u8; 32] {
        self.0.mac(&[label.as_bytes()])
    }

    /// Recognises a network that visitors came from before without telling it.
    pub(crate) fn network_print(&self, network: &str) -> String {
        let print = Secret(self.derived("networks of visitors")).mac(&[network.as_bytes()]);
        // Half of it is enough to tell networks apart, and as long as the longest of them.
        URL_SAFE_NO_PAD.encode(&print[..16])
    }

    /// The bytes, for the key file.
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }
}

/// SHA-256 of a [`Secret`]; compared in constant time only.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Compared with when no session has the presented id, so that an unknown id costs what a known one does. No
    /// secret is known whose hash this is.
    pub const DUMMY: Self = Self([0; 32]);

    /// The hash with these bytes, as read from a store.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether both hashes are equal, in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.words().ct_eq(&other.words()).into()
    }

    /// The bytes in pieces of eight: compared as fast as a processor can, and no less constantly.
    fn words(&self) -> [u64; 4] {
        let (words, _) = self.0.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other)
    }
}

impl Eq for SecretHash {}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// 16 random bytes that a secret is made with, together with another secret: worth nothing alone, so it may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// A fresh one from the operating system's generator.
    pub fn random() -> Self {
        let Secret(bytes) = Secret::random();
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[..16]);
        Self(nonce)
    }

    /// The nonce with these bytes, as read from a store.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Recognises a text that came before without telling it: HMAC-SHA256 under a secret that is not stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint with these bytes, as read from a store.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

/// The bearer secret of a session: its id and 32 secret bytes.
#[derive(Debug, Clone)]
pub struct Token {
    id: SessionId,
    secret: Secret,
}

impl Token {
    /// What every token starts with.
    pub const PREFIX: &'static str = "sst_";

    /// The token of the session `id` with this secret.
    pub const fn new(id: SessionId, secret: Secret) -> Self {
        Self { id, secret }
    }

    /// Reads a token; anything that is not exactly one is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = parse_credential(Self::PREFIX, text)?;
        Some(Self {
            id: SessionId::from_bytes(id),
            secret,
        })
    }

    /// The session this token is for.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The hash to compare with the stored one.
    pub fn hash(&self) -> SecretHash {
        self.secret.hash()
    }

    /// The token that follows this one when it is renewed with this nonce: always the same, for everyone who holds this
    /// one, and for nobody else who does not also have the key.
    pub fn successor(&self, key: &ServerKey, nonce: &Nonce) -> Self {
        Self {
            id: self.id,
            secret: Secret(key.0.mac(&[&self.secret.0, nonce.as_bytes()])),
        }
    }

    /// The text that is given to the holder, once.
    pub fn reveal(&self) -> String {
        reveal_credential(Self::PREFIX, self.id.as_bytes(), &self.secret)
    }
}

/// The public handle of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Uuid);

impl KeyId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The id's bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the hyphenated text form.
    pub fn parse(text: &str) -> Option<Self> {
        SessionId::parse(text).map(|id| Self(id.0))
    }

    /// A fresh id. Keys are few and made by hand, so that plain random ids do.
    pub fn random() -> Self {
        let Secret(bytes) = Secret::random();
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        Self(uuid::Builder::from_random_bytes(id).into_uuid())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// A backend's secret, made like a [`Token`]; it belongs to one app.
#[derive(Debug, Clone)]
pub struct ApiKey {
    id: KeyId,
    secret: Secret,
}

impl ApiKey {
    /// What every API key starts with.
    pub const PREFIX: &'static str = "ssk_";

    /// The key `id` with this secret.
    pub const fn new(id: KeyId, secret: Secret) -> Self {
        Self { id, secret }
    }

    /// Reads a key; anything that is not exactly one is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = parse_credential(Self::PREFIX, text)?;
        Some(Self {
            id: KeyId::from_bytes(id),
            secret,
        })
    }

    /// The key's public handle.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The hash to compare with the stored one.
    pub fn hash(&self) -> SecretHash {
        self.secret.hash()
    }

    /// The secret of a session whose creation can be repeated: always the same for this key and nonce.
    pub fn session_secret(&self, nonce: &Nonce) -> Secret {
        Secret(self.secret.mac(&[nonce.as_bytes()]))
    }

    /// Recognises bytes that this key sent before; `what` keeps those of different kinds apart.
    pub fn fingerprint(&self, what: &str, bytes: &[u8]) -> Fingerprint {
        Fingerprint(self.secret.mac(&[what.as_bytes(), b"\0", bytes]))
    }

    /// The text that is given to the holder, once.
    pub fn reveal(&self) -> String {
        reveal_credential(Self::PREFIX, self.id.as_bytes(), &self.secret)
    }
}

fn parse_credential(prefix: &str, text: &str) -> Option<([u8; 16], Secret)> {
    let encoded = text.strip_prefix(prefix)?;
    // 64 characters are exactly 48 bytes without spare bits, so that no two texts are the same credential.
    if encoded.len() != 64 {
        return None;
    }
    let mut bytes = [0; 48];
    URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
    let (id, secret) = bytes.split_at(16);
    Some((id.try_into().ok()?, Secret(secret.try_into().ok()?)))
}

fn reveal_credential(prefix: &str, id: &[u8; 16], secret: &Secret) -> String {
    let mut bytes = [0; 48];
    bytes[..16].copy_from_slice(id);
    bytes[16..].copy_from_slice(&secret.0);
    let mut text = String::with_capacity(68);
    text.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_nothing_else_is_one() {
        let token = Token::new(SessionId::from_bytes([1; 16]), Secret::random());
        let text = token.reveal();
        assert_eq!(text.len(), 68);
        let read = Token::parse(&text).expect("its own text");
        assert_eq!(read.id(), token.id());
        assert!(read.hash().matches(&token.hash()));
        let as_key = text.replacen("sst_", "ssk_", 1);
        let cut = &text[..67];
        let long = format!("{text}A");
        let padded = format!("{cut}=");
        let standard_alphabet = format!("{cut}+");
        for bad in [
            "",
            "sst_",
            &as_key,
            cut,
            &long,
            &padded,
            &standard_alphabet,
            " sst_",
        ] {
            assert!(Token::parse(bad).is_none(), "{bad:?}");
        }
        assert!(ApiKey::parse(&as_key).is_some());
        assert!(
            !format!("{token:?}").contains(&text[40..60]),
            "Debug shows no secret"
        );
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let key = ServerKey::from_bytes([123; 32]);
        assert_eq!(format!("{key:?}"), "ServerKey(Secret(…))");
        let print = ApiKey::new(KeyId::random(), Secret::random()).fingerprint("what", b"it says");
        assert_eq!(format!("{print:?}"), "Fingerprint(…)");
    }

    #[test]
    fn successor_follows_from_token_nonce_and_key_alone() {
        let (token, nonce, key) = (
            Token::new(SessionId::from_bytes([1; 16]), Secret([2; 32])),
            Nonce::from_bytes([3; 16]),
            ServerKey::from_bytes([4; 32]),
        );
        let successor = token.successor(&key, &nonce);
        assert_eq!(successor.id(), token.id());
        // HMAC-SHA256 of 32 times 2 and 16 times 3 under 32 times 4, by another program.
        let expected = "52be5dd806d9803b916928a8114fefd40c086523ee5cd8fc968709878701728b";
        let hex: String = successor
            .secret
            .0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected);
        let others = [
            token.successor(&ServerKey::from_bytes([5; 32]), &nonce),
            token.successor(&key, &Nonce::from_bytes([5; 16])),
            Token::new(token.id(), Secret([5; 32])).successor(&key, &nonce),
        ];
        for other in others {
            assert!(!other.hash().matches(&successor.hash()));
        }
    }

    #[test]
    fn fingerprints_of_different_kinds_differ() {
        let key = ApiKey::new(KeyId::random(), Secret::random());
        assert_eq!(key.fingerprint("a", b"x"), key.fingerprint("a", b"x"));
        assert_ne!(key.fingerprint("a", b"x"), key.fingerprint("b", b"x"));
        assert_ne!(key.fingerprint("a", b"x"), key.fingerprint("a", b"y"));
        let other = ApiKey::new(key.id(), Secret::random());
        assert_ne!(key.fingerprint("a", b"x"), other.fingerprint("a", b"x"));
    }

    #[test]
    fn only_hyphenated_ids_are_ids() {
        let id = SessionId::from_bytes([0xab; 16]);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for bad in [
            "",
            "abababababababababababababababab",
            "{abababab-abab-abab-abab-abababababab}",
        ] {
            assert_eq!(SessionId::parse(bad), None, "{bad:?}");
        }
    }
}
