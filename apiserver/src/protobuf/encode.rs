//! JSON to messages, by the table, in one pass and without values in between.
//!
//! What is encoded is what this server has written: JSON of typed objects. Fields that the table does not have are left
//! out. A length stands before what it measures, so one byte is kept for it; the few messages that need more are moved.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use manifests::k8s_openapi::jiff::Timestamp;
use serde::Deserialize as _;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::message::{Field, Message, Shape, Type};
use super::wire::put;

/// Appends the message of an object to `out`; its type, which stands in the envelope, is left out.
pub(super) fn message(
    message: &'static Message,
    json: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    Object { message, out }.deserialize(&mut reader)?;
    reader.end()
}

/// Begins a message; returns where its content starts.
fn open(number: u16, out: &mut Vec<u8>) -> usize {
    put::tag(number, put::BYTES, out);
    out.push(0);
    out.len()
}

/// Ends the message whose content starts at `start`.
fn close(start: usize, out: &mut Vec<u8>) {
    let length = out.len() - start;
    if let Ok(length @ 0..0x80) = u8::try_from(length) {
        out[start - 1] = length;
        return;
    }
    let (bytes, used) = put::varint_bytes(length as u64);
    // The first byte has its place already.
    out.splice(start..start, bytes[1..used].iter().copied());
    out[start - 1] = bytes[0];
}

/// An object as the content of a message.
struct Object<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Fields of an inlined message are their parent's in JSON. Those that follow one another go into one message; a
        // message that comes twice is merged by whoever reads it.
        let mut inline: Option<(u16, usize)> = None;
        while let Some(found) = map.next_key_seed(FieldName(self.message))? {
            let Some(Found { field, within }) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if inline.map(|(number, _)| number) != within {
                if let Some((_, start)) = inline.take() {
                    close(start, self.out);
                }
                inline = within.map(|number| (number, open(number, self.out)));
            }
            map.next_value_seed(FieldValue { field, out: self.out })?;
        }
        if let Some((_, start)) = inline {
            close(start, self.out);
        }
        Ok(())
    }
}

/// A field, and the number of the inlined message that it is in.
struct Found {
    field: &'static Field,
    within: Option<u16>,
}

/// The field of a name; none that the table does not have.
struct FieldName(&'static Message);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<Found>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<Found>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(field) = self.0.named(name) {
            return Ok(Some(Found { field, within: None }));
        }
        Ok(self
            .0
            .inlined()
            .find_map(|(number, inner)| inner.named(name).map(|field| Found { field, within: Some(number) })))
    }
}

/// All occurrences of a field.
struct FieldValue<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        let Field { number, of, shape, .. } = *self.field;
        match shape {
            Shape::One | Shape::OneUnlessZero => One { number, of, out: self.out }.deserialize(reader),
            Shape::List | Shape::Map => reader.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for FieldValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.field.shape == Shape::Map { "a map" } else { "a list" })
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Field { number, of, shape, .. } = *self.field;
        if shape != Shape::List {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        while items.next_element_seed(One { number, of, out: self.out })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Field { number, of, shape, .. } = *self.field;
        if shape != Shape::Map {
            return Err(de::Error::invalid_type(de::Unexpected::Map, &self));
        }
        loop {
            let before = self.out.len();
            let start = open(number, self.out);
            if map.next_key_seed(One { number: 1, of: Type::String, out: self.out })?.is_none() {
                self.out.truncate(before);
                return Ok(());
            }
            map.next_value_seed(One { number: 2, of, out: self.out })?;
            close(start, self.out);
        }
    }
}

/// One occurrence of a field. Null is none.
struct One<'o> {
    number: u16,
    of: Type,
    out: &'o mut Vec<u8>,
}

impl One<'_> {
    fn varint(self, value: u64) {
        put::tag(self.number, put::VARINT, self.out);
        put::varint(value, self.out);
    }

    fn bytes(self, bytes: &[u8]) {
        put::bytes(self.number, bytes, self.out);
    }

    fn time<E: de::Error>(self, text: &str, subsecond: bool) -> Result<(), E> {
        let time: Timestamp = text.parse().map_err(E::custom)?;
        // Before 1970, seconds and nanoseconds are both negative here, and in protobuf only the seconds may be.
        let (mut seconds, mut nanoseconds) = (time.as_second(), time.subsec_nanosecond());
        if nanoseconds < 0 {
            seconds -= 1;
            nanoseconds += 1_000_000_000;
        }
        let nanoseconds = if subsecond { nanoseconds / 1000 * 1000 } else { 0 };
        let start = open(self.number, self.out);
        put::tag(1, put::VARINT, self.out);
        put::varint(seconds.cast_unsigned(), self.out);
        put::tag(2, put::VARINT, self.out);
        put::varint(i64::from(nanoseconds).cast_unsigned(), self.out);
        close(start, self.out);
        Ok(())
    }

    fn int_or_string(self, number: i64, text: Option<&str>) {
        let start = open(self.number, self.out);
        put::tag(1, put::VARINT, self.out);
        put::varint(u64::from(text.is_some()), self.out);
        put::tag(2, put::VARINT, self.out);
        put::varint(number.cast_unsigned(), self.out);
        put::bytes(3, text.unwrap_or_default().as_bytes(), self.out);
        close(start, self.out);
    }

    /// A message whose only field, the first, has these bytes.
    fn wrapped(self, bytes: &[u8]) {
        let start = open(self.number, self.out);
        put::bytes(1, bytes, self.out);
        close(start, self.out);
    }
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        if matches!(self.of, Type::Raw) {
            let raw = <&RawValue>::deserialize(reader)?.get();
            if raw != "null" {
                self.wrapped(raw.as_bytes());
            }
            return Ok(());
        }
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}",
            match self.of {
                Type::String | Type::Quantity => "a string",
                Type::Bytes => "base64",
                Type::Bool => "true or false",
                Type::Int => "a whole number",
                Type::Object(_) => "an object",
                Type::StringList => "a list of strings",
                Type::IntOrString => "a whole number or a string",
                Type::Time | Type::MicroTime => "a time",
                Type::Raw => "anything",
            }
        )
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        match self.of {
            Type::Bool => self.varint(u64::from(value)),
            _ => return Err(E::invalid_type(de::Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        match self.of {
            Type::Int => self.varint(value.cast_unsigned()),
            Type::IntOrString => self.int_or_string(value, None),
            Type::Quantity => self.wrapped(value.to_string().as_bytes()),
            _ => return Err(E::invalid_type(de::Unexpected::Signed(value), &self)),
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        match self.of {
            Type::String => self.bytes(text.as_bytes()),
            Type::Bytes => self.bytes(&STANDARD.decode(text).map_err(E::custom)?),
            Type::Quantity => self.wrapped(text.as_bytes()),
            Type::IntOrString => self.int_or_string(0, Some(text)),
            Type::Time => self.time(text, false)?,
            Type::MicroTime => self.time(text, true)?,
            _ => return Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if !matches!(self.of, Type::StringList) {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let start = open(self.number, self.out);
        while items.next_element_seed(One { number: 1, of: Type::String, out: self.out })?.is_some() {}
        close(start, self.out);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Type::Object(message) = self.of else {
            return Err(de::Error::invalid_type(de::Unexpected::Map, &self));
        };
        let start = open(self.number, self.out);
        Object { message, out: self.out }.visit_map(map)?;
        close(start, self.out);
        Ok(())
    }
}
