//! What the defaults, the file, the environment and the flags say, key by key, and what is wrong with it.
//!
//! Every value is kept with where it came from, the lowest layer first, and a [`Section`] reads it. The keys that were
//! read are the keys that exist: what is left over at the end is unknown ([`Layers::finish`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Source, shown_key, shown_section};
use super::section::{LIST_LEN_MAX, Section};
use super::value::Value;

/// Largest file that is read, in bytes; the annotated one has about 10 KiB.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// Most syntax errors of a file that are told: the later ones tend to be consequences.
const SYNTAX_ERRORS_MAX: usize = 10;
/// What the name of every environment variable begins with.
pub(super) const PREFIX: &str = "SESSIOND_";

/// The tables a key is in, and its own name.
pub(super) type KeyPath = Vec<String>;

pub(super) fn key_path<S: AsRef<str>>(segments: &[S]) -> KeyPath {
    segments
        .iter()
        .map(|segment| segment.as_ref().to_owned())
        .collect()
}

/// One layer's value of a key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) source: Source,
    pub(super) value: Value,
}

/// Everything that was given.
#[derive(Default)]
pub(super) struct Layers {
    /// The values of each key, the lowest layer first.
    pub(super) entries: BTreeMap<KeyPath, Vec<Entry>>,
    /// Where in the file each table begins.
    pub(super) tables: BTreeMap<KeyPath, Source>,
    /// The keys that were read.
    pub(super) known: BTreeSet<KeyPath>,
    /// Those of them with a mistake: nothing is concluded from their values.
    pub(super) wrong: BTreeSet<KeyPath>,
    /// Tables and keys whose name is told to be wrong: nothing is said about what they contain.
    pub(super) refused: BTreeSet<KeyPath>,
    /// Environment variables without `__`, which name no key, and their names in lower case behind the prefix.
    pub(super) strays: Vec<(String, String)>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Layers {
    /// The lowest layer: the text of the defaults.
    pub(super) fn new(defaults: &str) -> Self {
        let mut layers = Self::default();
        let table = DeTable::parse(defaults).expect("the repository's config.toml is TOML");
        layers.add_table(&mut Vec::new(), table.get_ref(), &|_| Source::Defaults);
        layers
    }

    /// Adds what a file says; nothing if it cannot be read or is not TOML.
    pub(super) fn add_file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let at = |line, column| Source::File {
            name: name.clone(),
            line,
            column,
        };
        let text = match read_text(path) {
            Ok(text) => text,
            Err(message) => return self.tell(at(None, None), String::new(), message),
        };
        let starts: Vec<usize> = [0]
            .into_iter()
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let line_at = |offset: usize| starts.partition_point(|start| *start <= offset);
        let (table, errors) = DeTable::parse_recoverable(&text);
        if errors.is_empty() {
            return self.add_table(&mut Vec::new(), table.get_ref(), &|offset| {
                at(Some(line_at(offset)), None)
            });
        }
        // Of the errors in one line all but the first are consequences of it.
        let mut first_in_line = BTreeMap::new();
        for error in &errors {
            let offset = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = line_at(offset);
            let before = String::from_utf8_lossy(&text.as_bytes()[starts[line - 1]..offset]);
            first_in_line
                .entry(line)
                .or_insert((before.chars().count() + 1, error.message()));
        }
        for (line, (column, message)) in first_in_line.into_iter().take(SYNTAX_ERRORS_MAX) {
            self.tell(
                at(Some(line), Some(column)),
                String::new(),
                format!("not TOML: {message}"),
            );
        }
    }

    fn add_table(&mut self, path: &mut KeyPath, table: &DeTable<'_>, source_at: &impl Fn(usize) -> Source) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            let source = source_at(key.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if !inner.is_empty() => {
                    self.tables.insert(path.clone(), source);
                    self.add_table(path, inner, source_at);
                }
                value => self.add(path.clone(), source, Value::from_toml(value)),
            }
            path.pop();
        }
    }

    /// Adds the variables that begin with the prefix, in upper or lower case.
    pub(super) fn add_environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        let ours = |name: &str| {
            name.get(..PREFIX.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        };
        let mut variables: Vec<_> = environment.filter(|(name, _)| ours(name)).collect();
        variables.sort();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in variables {
            let rest = name[PREFIX.len()..].to_ascii_lowercase();
            if !rest.contains("__") {
                self.strays.push((name, rest));
            } else if let Some(first) = seen.insert(rest.clone(), name.clone()) {
                let message = format!("sets the same key as {first}");
                self.tell(Source::Environment(name), String::new(), message);
            } else {
                let path = rest.split("__").map(str::to_owned).collect();
                self.add(path, Source::Environment(name), Value::Raw(value));
            }
        }
    }

    /// Adds the value of a flag; `None` is one that is not UTF-8.
    pub(super) fn add_flag(&mut self, flag: &str, path: &[&str], value: Option<&str>) {
        let source = Source::Flag(flag.to_owned());
        match value {
            Some(text) => self.add(key_path(path), source, Value::Text(text.to_owned())),
            None => self.tell(source, shown_key(&key_path(path)), "must be UTF-8".to_owned()),
        }
    }

    /// What a flag without a value, or a command, says.
    pub(super) fn add_switch(&mut self, flag: &str, path: &[&str]) {
        self.add(
            key_path(path),
            Source::Flag(flag.to_owned()),
            Value::Boolean(true),
        );
    }

    fn add(&mut self, path: KeyPath, source: Source, value: Value) {
        self.entries
            .entry(path)
            .or_default()
            .push(Entry { source, value });
    }

    pub(super) fn tell(&mut self, source: Source, key: String, message: String) {
        self.mistakes.push(Mistake { source, key, message });
    }

    /// The names that any layer gives in a table, with who gave them last. Too many of them are told.
    pub(super) fn names_in(&mut self, table: &str) -> BTreeMap<String, Source> {
        let inside = self
            .entries
            .iter()
            .filter(|(path, _)| path.len() > 1 && path[0] == table);
        let names: BTreeMap<_, _> = inside
            .filter_map(|(path, entries)| Some((path[1].clone(), entries.last()?.source.clone())))
            .collect();
        if names.len() > LIST_LEN_MAX {
            let message = format!("must have at most {LIST_LEN_MAX} entries, not {}", names.len());
            let table = key_path(&[table]);
            self.tell(self.source_of(&table), shown_section(&table), message);
        }
        names
    }

    /// Tells that a name in a table breaks its rule, and passes over what it contains.
    pub(super) fn refuse_name(&mut self, path: &[&str], source: &Source, message: &str) {
        let path = key_path(path);
        let source = self.tables.get(&path).unwrap_or(source).clone();
        self.tell(source, shown_section(&path), message.to_owned());
        self.refused.insert(path);
    }

    /// The section of these tables.
    pub(super) fn section(&mut self, path: &[&str]) -> Section<'_> {
        self.section_like(path, path)
    }

    /// A section whose defaults are those of another.
    pub(super) fn section_like(&mut self, path: &[&str], defaults: &[&str]) -> Section<'_> {
        Section {
            path: key_path(path),
            defaults: key_path(defaults),
            layers: self,
        }
    }

    /// Tells that `path` contradicts the other keys, unless one of them is wrong by itself already. The mistake is
    /// where one of them was set that is in the same section, else where that section is.
    pub(super) fn contradiction(&mut self, path: &KeyPath, others: &[&KeyPath], message: String) {
        let all = || [path].into_iter().chain(others.iter().copied());
        if all().any(|path| self.wrong.contains(path)) {
            return;
        }
        let near = all().filter(|key| key.get(..2) == path.get(..2));
        let mut set = near
            .filter_map(|key| self.entries.get(key)?.last())
            .map(|entry| entry.source.clone());
        let source = set
            .find(|source| *source != Source::Defaults)
            .unwrap_or_else(|| self.source_of(path));
        self.tell(source, shown_key(path), message);
    }

    /// Where the person wrote the innermost table that leads to a path, at most out to the one of an app.
    pub(super) fn source_of(&self, path: &[String]) -> Source {
        let table = |len| {
            let path = &path[..len];
            let empty = || Some(&self.entries.get(path)?.last()?.source);
            self.tables
                .get(path)
                .or_else(empty)
                .filter(|source| **source != Source::Defaults)
        };
        (path.len().min(2)..=path.len())
            .rev()
            .find_map(table)
            .cloned()
            .unwrap_or(Source::Whole)
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(format!("must have at most {FILE_LEN_MAX} bytes"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 after byte {}", error.utf8_error().valid_up_to()))
}
