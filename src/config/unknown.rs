//! What was given but is no key, and what was probably meant. The known keys are those that were read.

use std::collections::BTreeSet;

use super::layers::{Entry, KeyPath, Layers, PREFIX};
use super::mistake::{Mistake, Source, shown_key, shown_section};
use super::value::Value;

impl Layers {
    /// All mistakes, those about unknown keys included.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        let mut unknown = BTreeSet::new();
        for (path, entries) in &self.entries {
            let refused = path.get(..2).is_some_and(|name| self.refused.contains(name));
            if refused || self.known.contains(path) {
                continue;
            }
            for Entry { source, value } in entries {
                unknown.extend(self.unknown(path, source, value));
            }
        }
        unknown.extend(
            self.strays
                .iter()
                .filter_map(|(name, rest)| self.stray(name, rest)),
        );
        self.mistakes.extend(unknown);
        self.mistakes.sort();
        self.mistakes
    }

    /// What is wrong with a value at a path that is no key.
    fn unknown(&self, path: &KeyPath, source: &Source, value: &Value) -> Option<Mistake> {
        let mistake = |source: &Source, key, message| {
            Some(Mistake {
                source: source.clone(),
                key,
                message,
            })
        };
        let is_table = matches!(value, Value::EmptyTable);
        let Some(len) = (1..=path.len()).find(|len| !self.leads_to_key(&path[..*len])) else {
            let message = format!("must be a table, not {value}");
            return mistake(source, shown_section(path), message).filter(|_| !is_table);
        };
        let (unknown, parent) = (&path[..len], &path[..len - 1]);
        if self.known.contains(parent) {
            return mistake(
                source,
                shown_key(parent),
                "must be a value, not a table".to_owned(),
            );
        }
        let hint = self
            .nearest(unknown)
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        if len == path.len() && !is_table {
            return mistake(source, shown_key(unknown), format!("there is no such key{hint}"));
        }
        // Told once for all that the section contains: where it begins, if it is the file's.
        let beginning = self
            .tables
            .get(unknown)
            .filter(|_| matches!(source, Source::File { .. }));
        let message = format!("there is no such section{hint}");
        mistake(beginning.unwrap_or(source), shown_section(unknown), message)
    }

    fn leads_to_key(&self, path: &[String]) -> bool {
        self.known
            .range(path.to_vec()..)
            .next()
            .is_some_and(|key| key.starts_with(path))
    }

    /// What was probably meant: something spelled alike in the same table, else a key of that name elsewhere.
    fn nearest(&self, path: &[String]) -> Option<String> {
        let (name, parent) = path.split_last()?;
        let inside = self
            .known
            .range(parent.to_vec()..)
            .take_while(|key| key.starts_with(parent));
        let beside: BTreeSet<&String> = inside.filter_map(|key| key.get(parent.len())).collect();
        let alike = beside
            .into_iter()
            .map(|known| (unlikeness(name, known), known))
            .min();
        let alike = alike.filter(|(unlikeness, _)| *unlikeness <= 1 + name.len().min(12) / 4);
        let alike = alike.map(|(_, known)| [parent, std::slice::from_ref(known)].concat());
        let elsewhere = || {
            let same = |key: &&KeyPath| key.last() == Some(name) && (key[0] != "apps" || key[1] == "default");
            self.known.iter().find(same).cloned()
        };
        let near = alike.or_else(elsewhere)?;
        Some(if self.known.contains(&near) {
            shown_key(&near)
        } else {
            shown_section(&near)
        })
    }

    /// A variable without `__` is not ours (Kubernetes sets `SESSIOND_PORT` and its like for a service of that name),
    /// unless it is clearly meant.
    fn stray(&self, name: &str, rest: &str) -> Option<Mistake> {
        let message = if rest == "log" {
            "there is no such variable; RUST_LOG filters the log".to_owned()
        } else {
            let meant = self.known.iter().find(|key| key.join("_") == rest)?;
            format!(
                "there is no such variable; did you mean {PREFIX}{}?",
                meant.join("__").to_ascii_uppercase()
            )
        };
        Some(Mistake {
            source: Source::Environment(name.to_owned()),
            key: String::new(),
            message,
        })
    }
}

/// How far a name is from a known one; one that was cut short, say by its unit, is near.
fn unlikeness(name: &str, known: &str) -> usize {
    if name.len() >= 4 && known.starts_with(name) {
        1
    } else {
        edits(name, known)
    }
}

/// How many letters must be put in, taken out or replaced to make one word the other (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // Names longer than any key are far from all of them anyway.
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
