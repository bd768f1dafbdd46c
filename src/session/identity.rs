//! What an application keeps about who signed in: the root identity (`auth`), and named ones beside it.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{AUTH_LEN_MAX, IDENTITY_KEY_CHARS_MAX, is_clean_text};

/// A JSON object as text, at most [`AUTH_LEN_MAX`] bytes, keys in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth(Arc<str>);

impl Auth {
    /// Keeps an object; `None` if its text is too long.
    pub fn from_object(object: &Map<String, Value>) -> Option<Self> {
        let text = serde_json::to_string(object).expect("a JSON object has a text");
        (text.len() <= AUTH_LEN_MAX).then(|| Self(text.into()))
    }

    /// Takes text that [`Auth::as_str`] gave to a store before.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The object's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `tags` is a list that contains every one of these.
    pub fn has_tags(&self, wanted: &[String]) -> bool {
        #[derive(serde::Deserialize)]
        struct Tagged {
            #[serde(default)]
            tags: serde_json::Value,
        }
        let tagged: Option<Tagged> = serde_json::from_str(&self.0).ok();
        let Some(serde_json::Value::Array(tags)) = tagged.map(|t| t.tags) else {
            return wanted.is_empty();
        };
        wanted
            .iter()
            .all(|tag| tags.iter().any(|have| have.as_str() == Some(tag)))
    }
}

/// Named identities beside the root one: a JSON object of objects as text, at most [`AUTH_LEN_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identities(Arc<str>);

impl Identities {
    /// Takes text that [`Identities::as_str`] gave to a store before.
    /// `None` if it is no object.
    pub fn from_stored(text: &str) -> Option<Self> {
        let is_object = serde_json::from_str::<Map<String, Value>>(text).is_ok();
        is_object.then(|| Self(text.into()))
    }

    /// The object's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A change to one of the named identities; the others stay.
#[derive(Debug, Clone)]
pub struct IdentityPatch {
    /// Which; see [`is_identity_key`].
    pub key: String,
    /// What it is to be; `None` removes it.
    pub identity: Option<Map<String, Value>>,
}

impl IdentityPatch {
    /// The identities after the change, or `Err` with nothing changed if they would be too long.
    pub fn apply(&self, before: Option<&Identities>) -> Result<Option<Identities>, TooLong> {
        let read = |identities: &Identities| serde_json::from_str(identities.as_str());
        let all: Option<Map<String, Value>> = before.map(|all| read(all).expect("it was read before"));
        let mut all = all.unwrap_or_default();
        match &self.identity {
            Some(identity) => {
                all.insert(self.key.clone(), identity.clone().into());
            }
            None => {
                all.shift_remove(&self.key);
            }
        }
        if all.is_empty() {
            return Ok(None);
        }
        let text = serde_json::to_string(&all).expect("a JSON object has a text");
        if text.len() > AUTH_LEN_MAX {
            return Err(TooLong);
        }
        Ok(Some(Identities(text.into())))
    }
}

/// More than may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Whether text can name an identity.
pub fn is_identity_key(text: &str) -> bool {
    // URLs cannot carry those two as a path segment.
    is_clean_text(text, IDENTITY_KEY_CHARS_MAX) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demanded_tags_must_all_be_there() {
        let auth = Auth::from_stored(r#"{"tags":["staff","admin"],"roles":[1]}"#);
        assert!(auth.has_tags(&["staff".into(), "admin".into()]));
        assert!(!auth.has_tags(&["staff".into(), "root".into()]));
        assert!(!Auth::from_stored(r#"{"tags":"staff"}"#).has_tags(&["staff".into()]));
        assert!(Auth::from_stored("{}").has_tags(&[]));
    }

    #[test]
    fn names_of_identities_can_stand_in_a_path() {
        for good in ["mail", "a b", "…", "...", &"ä".repeat(64)] {
            assert!(is_identity_key(good), "{good}");
        }
        for bad in ["", ".", "..", "a\nb", &"a".repeat(65)] {
            assert!(!is_identity_key(bad), "{bad}");
        }
    }
}
