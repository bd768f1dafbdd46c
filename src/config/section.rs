//! One table of the configuration, whose keys are read: the highest layer decides, but each layer's value is looked
//! at, so that no mistake hides behind a correct value above it.

use std::ops::RangeInclusive;

use super::layers::{Entry, KeyPath, Layers, key_path};
use super::mistake::{Source, shown_key};
use super::value::Value;

/// Most entries of a list, most apps and most tiers: all are searched from front to back.
pub(super) const LIST_LEN_MAX: usize = 256;

/// One table, whose keys are read.
pub(super) struct Section<'a> {
    pub(super) layers: &'a mut Layers,
    pub(super) path: KeyPath,
    /// The table that its defaults are in.
    pub(super) defaults: KeyPath,
}

impl Section<'_> {
    /// The path of a key in this section.
    pub(super) fn path(&self, key: &str) -> KeyPath {
        key_path(&[self.path.as_slice(), &[key.to_owned()]].concat())
    }

    /// The path of a key's default.
    fn default_path(&self, key: &str) -> KeyPath {
        key_path(&[self.defaults.as_slice(), &[key.to_owned()]].concat())
    }

    /// A whole number in a range.
    pub(super) fn number<N: TryFrom<i64>>(&mut self, key: &str, range: RangeInclusive<i64>) -> N {
        given(self.optional_number(key, range))
    }

    /// A whole number in a range, or nothing.
    pub(super) fn optional_number<N: TryFrom<i64>>(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
    ) -> Option<N> {
        let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
        self.read(key, &rule, |value| {
            value
                .integer()
                .filter(|number| range.contains(number))
                .and_then(|number| N::try_from(number).ok())
        })
    }

    /// A whole number in a range, or a word that stands for the end of the range; nothing if it is neither.
    pub(super) fn number_or_word(
        &mut self,
        key: &str,
        range: RangeInclusive<i64>,
        word: &str,
    ) -> Option<u32> {
        let rule = format!(
            "must be a whole number from {} to {}, or {word:?}",
            range.start(),
            range.end()
        );
        self.read(key, &rule, |value| {
            let meant = || value.text().filter(|text| text == word).map(|_| *range.end());
            let number = value
                .integer()
                .or_else(meant)
                .filter(|number| range.contains(number))?;
            u32::try_from(number).ok()
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str) -> bool {
        given(self.read(key, "must be true or false", Value::boolean))
    }

    /// A text that `parse` takes.
    pub(super) fn text<T>(&mut self, key: &str, rule: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        given(self.optional_text(key, rule, parse))
    }

    /// A text that `parse` takes, or nothing.
    pub(super) fn optional_text<T>(
        &mut self,
        key: &str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, rule, |value| parse(&value.text()?))
    }

    /// A text that must be there and is told to nobody. `rule` says what a wrong one breaks.
    pub(super) fn private_text<T>(
        &mut self,
        key: &str,
        rule: impl Fn(&str) -> Option<&'static str>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let path = self.path(key);
        let entries = self.entries(key);
        if entries.is_empty() {
            let source = self.layers.source_of(&path);
            self.refuse(&path, &source, "must be given".to_owned());
        }
        let mut good = None;
        for entry in entries {
            let text = entry.value.text();
            match text.as_deref().and_then(&parse) {
                Some(value) => good = Some(value),
                None => {
                    let broken = text.as_deref().and_then(&rule);
                    let message = broken.unwrap_or("must be a text").to_owned();
                    self.refuse(&path, &entry.source, message);
                }
            }
        }
        good
    }

    /// A list of texts that `parse` takes. Every wrong one is told.
    pub(super) fn list<T>(&mut self, key: &str, rule: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let path = self.path(key);
        let mut good = Vec::new();
        for entry in self.entries(key) {
            let Some(items) = entry.value.list() else {
                self.refuse(
                    &path,
                    &entry.source,
                    format!("must be a list, not {}", entry.value),
                );
                continue;
            };
            if items.len() > LIST_LEN_MAX {
                let message = format!("must have at most {LIST_LEN_MAX} entries, not {}", items.len());
                self.refuse(&path, &entry.source, message);
                continue;
            }
            good.clear();
            for item in items {
                match item.text().and_then(|text| parse(&text)) {
                    Some(parsed) => good.push(parsed),
                    None => self.refuse(&path, &entry.source, format!("every entry {rule}, not {item}")),
                }
            }
        }
        good
    }

    /// Whether a person gave this key, whatever it says.
    pub(super) fn is_given(&self, key: &str) -> bool {
        let entries = self.layers.entries.get(&self.path(key));
        entries.is_some_and(|entries| entries.iter().any(|entry| entry.source != Source::Defaults))
    }

    /// The number that the defaults give.
    pub(super) fn default_number(&self, key: &str) -> Option<i64> {
        let entries = self.layers.entries.get(&self.default_path(key))?;
        entries.first()?.value.integer()
    }

    fn read<T>(&mut self, key: &str, rule: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let path = self.path(key);
        let mut good = None;
        for entry in self.entries(key) {
            match read(&entry.value) {
                Some(value) => good = Some(value),
                None => self.refuse(&path, &entry.source, format!("{rule}, not {}", entry.value)),
            }
        }
        good
    }

    /// What the layers say about a key, the lowest first; from now on it is a known one.
    fn entries(&mut self, key: &str) -> Vec<Entry> {
        let path = self.path(key);
        let entries = |path: &KeyPath| self.layers.entries.get(path).cloned().unwrap_or_default();
        let own = entries(&path);
        let all = if self.path == self.defaults {
            own
        } else {
            let defaults = entries(&self.default_path(key))
                .into_iter()
                .filter(|entry| entry.source == Source::Defaults);
            defaults.chain(own).collect()
        };
        self.layers.known.insert(path);
        all
    }

    fn refuse(&mut self, path: &KeyPath, source: &Source, message: String) {
        self.layers.wrong.insert(path.clone());
        self.layers.tell(source.clone(), shown_key(path), message);
    }
}

fn given<T>(value: Option<T>) -> T {
    value.expect("config.toml gives every key that is not optional a good value")
}
