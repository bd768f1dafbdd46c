//! The nested data that an application keeps with a session: a JSON object, read and changed whole or by a dotted path.
//!
//! Pure rules. `a.b.c` names the member `c` of the object `b` of the object `a`; only objects are levels, so a path never
//! goes into a list. A write makes the levels that are missing and replaces a plain value that is in its way; a list in
//! its way is more than it could have meant, and refuses it. Keys keep the order in which they came. A partial change is a JSON merge patch (RFC 7396).

use serde_json::{Map, Value};

/// Longest data of a session, in bytes of JSON without spaces.
pub const DATA_LEN_MAX: usize = 64 * 1024;
/// Most levels of objects and lists: well below the 128 that the parser reads.
pub const DATA_DEPTH_MAX: usize = 64;
/// Longest path, in bytes.
pub const PATH_LEN_MAX: usize = 512;

/// A place in the data: keys of objects, one inside the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPath(Vec<String>);

impl DataPath {
    /// What [`DataPath::parse`] demands, in a sentence for whoever got it wrong.
    pub const RULE: &'static str =
        "must be keys joined by dots, none of them empty, at most 512 bytes and 32 keys";
    /// Most keys in a path.
    const KEYS_MAX: usize = 32;

    /// Reads `a.b.c`; `None` if it breaks the rule.
    pub fn parse(text: &str) -> Option<Self> {
        let keys: Vec<String> = text.split('.').map(str::to_owned).collect();
        let is_good = text.len() <= PATH_LEN_MAX
            && keys.len() <= Self::KEYS_MAX
            && keys.iter().all(|key| !key.is_empty());
        is_good.then_some(Self(keys))
    }
}

/// A change to the data, at a place or as a whole.
#[derive(Debug, Clone)]
pub enum DataChange {
    /// Puts a value there.
    Put(Value),
    /// Merges a patch into what is there (RFC 7396).
    Merge(Value),
    /// Removes what is there.
    Remove,
    /// Removes what is there and answers it: what is taken twice at once is taken by one.
    Take,
}

/// Why a change was refused; the data is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataError {
    /// All of it would be something else than an object.
    NotAnObject,
    /// Longer than [`DATA_LEN_MAX`].
    TooLong,
    /// More levels than [`DATA_DEPTH_MAX`].
    TooDeep,
    /// The path leads into a list.
    ListOnPath,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// What is at the place now; for [`DataChange::Take`] what was there.
    pub value: Value,
    /// Whether there was anything to do: removing what is not there changes nothing.
    pub is_changed: bool,
}

/// The data of one session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Data(Map<String, Value>);

impl Data {
    /// Data to begin with.
    pub fn from_object(object: Map<String, Value>) -> Result<Self, DataError> {
        let data = Self(object);
        data.check()?;
        Ok(data)
    }

    /// Reads text that [`Data::to_text`] gave to a store before; `None` if it is none.
    pub fn from_stored(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The object's text, without spaces.
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.0).expect("a JSON object has a text")
    }

    /// What is at a place, or all of it; null if nothing is there.
    pub fn get(&self, at: Option<&DataPath>) -> Value {
        match at {
            None => Value::Object(self.0.clone()),
            Some(DataPath(keys)) => self.find(keys).cloned().unwrap_or_default(),
        }
    }

    /// Changes the data, or nothing if it answers an error.
    pub fn apply(&mut self, at: Option<&DataPath>, change: &DataChange) -> Result<Changed, DataError> {
        let before = self.0.clone();
        let changed = match (change, at) {
            (DataChange::Put(value), _) => self.write(at, |there| *there = value.clone()),
            (DataChange::Merge(patch), _) => self.write(at, |there| merge(there, patch)),
            (DataChange::Remove | DataChange::Take, None) => {
                let all = std::mem::take(&mut self.0);
                Ok(Changed {
                    is_changed: !all.is_empty(),
                    value: Value::Object(all),
                })
            }
            (DataChange::Remove | DataChange::Take, Some(DataPath(keys))) => {
                let removed = self.remove(keys);
                Ok(Changed {
                    is_changed: removed.is_some(),
                    value: removed.unwrap_or_default(),
                })
            }
        };
        let checked = changed.and_then(|changed| self.check().map(|()| changed));
        if checked.is_err() {
            self.0 = before;
        }
        let mut changed = checked?;
        if !matches!(change, DataChange::Take) {
            changed.value = self.get(at);
        }
        Ok(changed)
    }

    fn find(&self, keys: &[String]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        let mut there = self.0.get(first)?;
        for key in rest {
            there = there.as_object()?.get(key)?;
        }
        Some(there)
    }

    fn write(
        &mut self,
        at: Option<&DataPath>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Changed, DataError> {
        let mut root = Value::Object(std::mem::take(&mut self.0));
        let mut there = &mut root;
        for key in at.map_or(&[][..], |DataPath(keys)| keys) {
            if there.is_array() {
                return Err(DataError::ListOnPath);
            }
            there = object_in(there).entry(key.as_str()).or_insert(Value::Null);
        }
        change(there);
        let Value::Object(object) = root else {
            return Err(DataError::NotAnObject);
        };
        self.0 = object;
        Ok(Changed {
            value: Value::Null,
            is_changed: true,
        })
    }

    fn remove(&mut self, keys: &[String]) -> Option<Value> {
        let (last, levels) = keys.split_last()?;
        let mut object = &mut self.0;
        for key in levels {
            object = object.get_mut(key)?.as_object_mut()?;
        }
        object.shift_remove(last)
    }

    fn check(&self) -> Result<(), DataError> {
        if is_too_deep(&self.0) {
            return Err(DataError::TooDeep);
        }
        if self.to_text().len() > DATA_LEN_MAX {
            return Err(DataError::TooLong);
        }
        Ok(())
    }
}

/// The object that is there; whatever else is there makes room for an empty one.
fn object_in(there: &mut Value) -> &mut Map<String, Value> {
    if !there.is_object() {
        *there = Value::Object(Map::new());
    }
    there.as_object_mut().expect("it was made one")
}

/// RFC 7396, section 2.
fn merge(there: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *there = patch.clone();
        return;
    };
    let object = object_in(there);
    let is_removed = |key: &String| members.get(key).is_some_and(Value::is_null);
    // All at once: taking one out of the middle moves all that come after it.
    if members.values().any(Value::is_null) {
        object.retain(|key, _| !is_removed(key));
    }
    for (key, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        merge(object.entry(key.as_str()).or_insert(Value::Null), value);
    }
}

/// Whether an object has more than [`DATA_DEPTH_MAX`] levels, itself included.
pub fn is_too_deep(object: &Map<String, Value>) -> bool {
    object.values().map(depth).max().unwrap_or_default() >= DATA_DEPTH_MAX
}

/// Levels of objects and lists; a plain value has none.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data(value: Value) -> Data {
        let Value::Object(object) = value else {
            panic!("an object")
        };
        Data::from_object(object).expect("small")
    }

    fn at(path: &str) -> Option<DataPath> {
        Some(DataPath::parse(path).expect("a path"))
    }

    fn after(before: Value, path: &str, change: DataChange) -> String {
        let mut data = data(before);
        data.apply(at(path).as_ref(), &change).expect("it may");
        data.to_text()
    }

    #[test]
    fn writing_makes_levels_and_replaces_plain_values_but_no_lists() {
        let put = |value: Value| DataChange::Put(value);
        assert_eq!(after(json!({}), "a.b.c", put(json!(1))), r#"{"a":{"b":{"c":1}}}"#);
        assert_eq!(
            after(json!({"a": 7, "z": 0}), "a.b", put(json!([1]))),
            r#"{"a":{"b":[1]},"z":0}"#
        );
        let mut listed = data(json!({"a": [1, 2]}));
        for change in [put(json!(3)), DataChange::Merge(json!({"b": 3}))] {
            assert_eq!(
                listed.apply(at("a.0").as_ref(), &change),
                Err(DataError::ListOnPath)
            );
        }
        assert_eq!(listed.to_text(), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn missing_is_null_and_lists_are_no_levels() {
        let data = data(json!({"a": {"b": 1, "list": [5]}, "": 3}));
        assert_eq!(data.get(at("a.b").as_ref()), json!(1));
        for missing in ["x", "a.x", "a.b.c", "a.list.0"] {
            assert_eq!(data.get(at(missing).as_ref()), Value::Null, "{missing}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", &"a.".repeat(40), &"a".repeat(513)] {
            assert_eq!(DataPath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn order_of_keys_is_kept_through_changes() {
        let before = json!({"z": 1, "a": {"y": 1, "b": 2, "x": 3}, "m": 3});
        assert_eq!(
            after(before.clone(), "a.y", DataChange::Remove),
            r#"{"z":1,"a":{"b":2,"x":3},"m":3}"#
        );
        assert_eq!(
            after(before, "z", DataChange::Put(json!(9))),
            r#"{"z":9,"a":{"y":1,"b":2,"x":3},"m":3}"#
        );
        let patch = json!({"new": 1, "z": null, "a": {"b": null, "x": 4, "absent": null}, "also": null});
        assert_eq!(
            after(
                json!({"at": {"z": 1, "a": {"y": 1, "b": 2, "x": 3}, "m": 3, "n": 4}}),
                "at",
                DataChange::Merge(patch)
            ),
            r#"{"at":{"a":{"y":1,"x":4},"m":3,"n":4,"new":1}}"#
        );
    }

    #[test]
    fn merge_patches_are_those_of_the_rfc() {
        // RFC 7396, appendix A, below a key, as all of the data must be an object.
        for (before, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let text = after(json!({"at": before}), "at", DataChange::Merge(patch.clone()));
            assert_eq!(text, json!({"at": expected}).to_string(), "{before} + {patch}");
        }
    }

    #[test]
    fn taking_answers_what_was_there_and_removes_it_once() {
        let mut data = data(json!({"flash": "hello", "n": 1}));
        let first = data.apply(at("flash").as_ref(), &DataChange::Take).expect("may");
        assert_eq!((first.value, first.is_changed), (json!("hello"), true));
        let second = data.apply(at("flash").as_ref(), &DataChange::Take).expect("may");
        assert_eq!((second.value, second.is_changed), (Value::Null, false));
        let rest = data.apply(None, &DataChange::Take).expect("may");
        assert_eq!(rest.value, json!({"n": 1}));
        assert_eq!(data, Data::default());
    }

    #[test]
    fn too_much_is_refused_and_changes_nothing() {
        let mut data = data(json!({"a": 1}));
        let room = DATA_LEN_MAX - r#"{"a":""}"#.len();
        let long = |len: usize| DataChange::Put(json!("x".repeat(len)));
        assert_eq!(
            data.apply(at("a").as_ref(), &long(room + 1)),
            Err(DataError::TooLong)
        );
        assert_eq!(data.to_text(), r#"{"a":1}"#);
        assert!(data.apply(at("a").as_ref(), &long(room)).is_ok());
        let nested = |levels: usize| (0..levels).fold(json!(1), |value, _| json!([value]));
        let put = |levels: usize| DataChange::Put(nested(levels));
        assert_eq!(
            data.apply(at("a").as_ref(), &put(DATA_DEPTH_MAX)),
            Err(DataError::TooDeep)
        );
        assert!(data.apply(at("a").as_ref(), &put(DATA_DEPTH_MAX - 1)).is_ok());
        for no_object in [
            DataChange::Put(json!([])),
            DataChange::Merge(json!(1)),
            DataChange::Put(Value::Null),
        ] {
            assert_eq!(data.apply(None, &no_object), Err(DataError::NotAnObject));
        }
        assert_ne!(data, Data::default(), "a refused change leaves what was there");
    }
}
