//! A value of any layer, before it is known which key takes it.

use std::fmt::{self, Display};

use toml::de::DeValue;

use super::mistake::{shown, shown_number};

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Integer(i64),
    Boolean(bool),
    Text(String),
    List(Vec<Value>),
    /// A table without keys; others are taken apart.
    EmptyTable,
    /// Something that no key takes, as it is shown.
    Other(String),
    /// The text of an environment variable: what it means depends on the key.
    Raw(String),
}

impl Value {
    pub(super) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| Self::Other(shown_number(&integer.to_string())), Self::Integer),
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Array(array) => {
                Self::List(array.iter().map(|item| Self::from_toml(item.get_ref())).collect())
            }
            DeValue::Table(table) if table.is_empty() => Self::EmptyTable,
            DeValue::Float(float) => Self::Other(shown_number(&float.to_string())),
            DeValue::Datetime(_) => Self::Other("a date or time".to_owned()),
            DeValue::Table(_) => Self::Other("a table".to_owned()),
        }
    }

    /// The value that the text of an environment variable is, if it is TOML.
    fn from_raw(text: &str) -> Option<Self> {
        DeValue::parse(text.trim())
            .ok()
            .map(|value| Self::from_toml(value.get_ref()))
    }

    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            Self::Raw(text) => Self::from_raw(text)?.integer(),
            _ => None,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(boolean) => Some(*boolean),
            Self::Raw(text) => Self::from_raw(text)?.boolean(),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Raw(text) => match Self::from_raw(text) {
                Some(Self::Text(quoted)) => Some(quoted),
                _ => Some(text.trim().to_owned()),
            },
            _ => None,
        }
    }

    pub(super) fn list(&self) -> Option<Vec<Value>> {
        match self {
            Self::List(list) => Some(list.clone()),
            Self::Raw(text) => match Self::from_raw(text) {
                Some(Self::List(list)) => Some(list),
                _ => {
                    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                    Some(items.map(|item| Self::Raw(item.to_owned())).collect())
                }
            },
            _ => None,
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Text(text) => f.write_str(&shown(text)),
            Self::List(_) => f.write_str("a list"),
            Self::EmptyTable => f.write_str("a table"),
            Self::Other(kind) => f.write_str(kind),
            Self::Raw(text) => match Self::from_raw(text) {
                Some(value) => value.fmt(f),
                None => f.write_str(&shown(text)),
            },
        }
    }
}
