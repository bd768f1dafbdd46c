//! JSON that is written for every check, by hand: a session with serde takes a third of a check, since it looks at each byte
//! of the keys too and formats times and ids through several layers. Everything else is serde's.

use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;

use serde::de::IgnoredAny;
use serde::{Serialize, Serializer};

use crate::clock::Timestamp;
use crate::session::{Phrase, SessionId};

/// A value that writes itself.
pub trait WriteJson {
    /// Appends it.
    fn write(&self, out: &mut Vec<u8>);
}

/// An object under way, a field after the other.
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    separator: u8,
}

impl<'o> Object<'o> {
    /// Begins one.
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// Adds a field.
    pub fn field(&mut self, key: Key, value: impl WriteJson) {
        self.out.push(self.separator);
        self.out.extend_from_slice(key.0.as_bytes());
        value.write(self.out);
        self.separator = b',';
    }

    /// Ends it.
    pub fn end(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// A key as it is written: in quotes, and with its colon.
#[derive(Clone, Copy)]
pub struct Key(pub &'static str);

/// The [`Key`] of a name that needs no escapes.
macro_rules! key {
    ($name:literal) => {
        $crate::http::json_writer::Key(concat!("\"", $name, "\":"))
    };
}
pub(crate) use key;

/// A value that is text on the wire, where serde writes.
#[derive(Debug)]
pub struct Text<T>(pub T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Text that is JSON already. What is none, which only somebody else can have put into the database, is null.
pub struct Raw<'r>(pub &'r str);

impl WriteJson for Raw<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match serde_json::from_str::<IgnoredAny>(self.0) {
            Ok(_) => out.extend_from_slice(self.0.as_bytes()),
            Err(_) => None::<bool>.write(out),
        }
    }
}

impl<T: WriteJson> WriteJson for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl<T: WriteJson> WriteJson for &T {
    fn write(&self, out: &mut Vec<u8>) {
        (*self).write(out);
    }
}

impl<T: WriteJson> WriteJson for &[T] {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, item) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            item.write(out);
        }
        out.push(b']');
    }
}

impl WriteJson for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl WriteJson for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        match *self {
            digit @ 0..=9 => out.push(b'0' + digit as u8),
            number => write_display(number, out),
        }
    }
}

impl WriteJson for &str {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, |out| escape(self, out));
    }
}

impl WriteJson for Phrase<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, |out| self.parts().iter().for_each(|part| escape(part, out)));
    }
}

impl WriteJson for Timestamp {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, |out| match self.encode() {
            Some(text) => out.extend_from_slice(&text),
            None => write_display(self, out),
        });
    }
}

impl WriteJson for SessionId {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, |out| {
            out.extend_from_slice(self.encode(&mut [0; 36]).as_bytes())
        });
    }
}

impl WriteJson for IpAddr {
    fn write(&self, out: &mut Vec<u8>) {
        quoted(out, |out| match self {
            Self::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        out.push(b'.');
                    }
                    let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
                    let zeros = usize::from(octet < 100) + usize::from(octet < 10);
                    out.extend_from_slice(&digits[zeros..]);
                }
            }
            Self::V6(address) => write_display(address, out),
        });
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn write_display(value: impl Display, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

/// Appends text as it stands in a JSON string (RFC 8259 §7). No early end, so that many bytes are looked at at once.
fn escape(text: &str, out: &mut Vec<u8>) {
    let is_special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    if !text
        .bytes()
        .fold(false, |is_found, byte| is_found | is_special(byte))
    {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let quoted = serde_json::to_string(text).expect("text has JSON");
    out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written(value: impl WriteJson) -> Value {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.field(key!("first"), true);
        object.field(key!("value"), value);
        object.end();
        let object: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(object["first"], true);
        object["value"].clone()
    }

    #[test]
    fn every_character_is_read_as_it_was() {
        let all: String = (0..=0x2ff_u32).filter_map(char::from_u32).collect();
        for text in ["", "Zürich", "\u{2028}\u{1f980}", "a\"b\\c\u{0}\n", &all] {
            assert_eq!(written(text), text);
        }
        assert_eq!(written(Phrase::new(["\"", " on ", "\\"])), "\" on \\");
    }

    #[test]
    fn values_are_what_serde_makes_of_them() {
        assert_eq!(written(u64::MAX), json!(u64::MAX));
        assert_eq!(written(7_u64), json!(7));
        assert_eq!(written(None::<&str>), Value::Null);
        for address in ["203.0.113.7", "0.10.100.255", "9.99.199.1", "2001:db8::7"] {
            let parsed: IpAddr = address.parse().expect("an address");
            assert_eq!(written(parsed), address);
        }
        for millis in [0, i64::MAX] {
            let moment = Timestamp::from_millis(millis);
            assert_eq!(written(moment), moment.to_string());
        }
        let id = SessionId::from_bytes([0xa5; 16]);
        assert_eq!(written(id), id.to_string());
    }

    #[test]
    fn json_is_passed_on_and_what_is_none_is_null() {
        assert_eq!(written(Raw(r#"{"amr":["pwd"]}"#)), json!({"amr": ["pwd"]}));
        for broken in ["", "{", "{} {}", "nul"] {
            assert_eq!(written(Raw(broken)), Value::Null, "{broken:?}");
        }
    }

    #[test]
    fn lists_are_lists() {
        assert_eq!(written([""; 0].as_slice()), json!([]));
        assert_eq!(written(["a", "b", "c"].as_slice()), json!(["a", "b", "c"]));
    }

    #[test]
    fn object_without_fields_is_one() {
        let mut out = Vec::new();
        Object::begin(&mut out).end();
        assert_eq!(out, b"{}");
    }
}
