//! The deserializer: one node of the value, and the way to it.

use std::cell::{Cell, RefCell};
use std::fmt;

use base64::Engine as _;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::{Map, Number, Value};

use super::{DecodeError, go_type};
use crate::go;
use crate::json::{MAX_REPORTED, Step};
use crate::quantity::Quantity;

/// Decodes a value; also returns the paths of the fields that the type does not have.
pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<(T, Vec<String>), DecodeError> {
    let unknown = RefCell::new(Vec::new());
    let root = Node { value, path: &Step::Root, owner: None, unknown: &unknown };
    match T::deserialize(root) {
        Ok(object) => Ok((object, unknown.into_inner())),
        Err(Error { path, message }) => Err(DecodeError::Type { path: path.unwrap_or_default(), message }),
    }
}

#[derive(Clone, Copy)]
struct Node<'a, 'de> {
    value: &'de Value,
    path: &'a Step<'a>,
    /// The struct and field that the value is below, as Go names them: `PodSpec`, `spec.containers`.
    owner: Option<(&'static str, &'a Step<'a>)>,
    unknown: &'a RefCell<Vec<String>>,
}

/// An error without its path has just been made by a visitor; the node that called the visitor adds the path.
#[derive(Debug)]
struct Error {
    path: Option<String>,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<M: fmt::Display>(message: M) -> Error {
        Error { path: None, message: message.to_string() }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Error {
        let found = match found {
            Unexpected::Str(text) => go::quote(text),
            other => other.to_string(),
        };
        Error { path: None, message: format!("{found}: expected {expected}") }
    }
}

impl<'a, 'de> Node<'a, 'de> {
    /// `cannot unmarshal X into Go struct field Y of type Z`.
    fn wrong_type<T>(&self) -> Error {
        let found = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) => {
                let wants_number = matches!(go_type::of::<T>().as_str(), "int32" | "int64" | "float64");
                if wants_number { format!("number {number}") } else { "number".to_owned() }
            }
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let target = match self.owner {
            Some((owner, field)) => format!("struct field {owner}.{}", without_indexes(field)),
            None => "value".to_owned(),
        };
        let message =
            format!("json: cannot unmarshal {found} into Go {target} of type {}", go_type::of::<T>());
        Error { path: Some(self.path.to_string()), message }
    }

    /// Adds the path to an error that has none.
    fn located<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error.path {
            Some(_) => error,
            None => {
                let path = self.path.to_string();
                let message = format!("{path}: Invalid value: {}", error.message);
                Error { path: Some(path), message }
            }
        })
    }

    fn integer(&self) -> Option<&'de Number> {
        match self.value {
            Value::Number(number) if !number.is_f64() => Some(number),
            _ => None,
        }
    }

    fn child<'b>(
        &self,
        value: &'de Value,
        path: &'b Step<'b>,
        owner: &'static str,
        is_field: bool,
    ) -> Node<'b, 'de>
    where
        'a: 'b,
    {
        let owner = if is_field { Some((owner, path)) } else { self.owner };
        Node { value, path, owner, unknown: self.unknown }
    }

    /// A struct or map; `null` is an empty one.
    fn map<V: Visitor<'de>>(self, owner: Option<&'static str>, visitor: V) -> Result<V::Value, Error> {
        let entries = match self.value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            _ => return Err(self.wrong_type::<V::Value>()),
        };
        // What the visitor itself objects to is the entry that it read last: apiVersion and kind of another type.
        let last = Cell::new("");
        let access = Entries { node: self, owner, entries: entries.map(Map::iter), next: None, last: &last };
        let result = visitor.visit_map(access);
        let path = Step::Key(self.path, last.get());
        Node { path: if last.get().is_empty() { self.path } else { &path }, ..self }.located(result)
    }

    fn list<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items: &'de [Value] = match self.value {
            Value::Array(items) => items,
            Value::Null => &[],
            _ => return Err(self.wrong_type::<V::Value>()),
        };
        self.located(visitor.visit_seq(Items { node: self, items: items.iter().enumerate() }))
    }

    fn text<V: Visitor<'de>>(&self) -> Result<&'de str, Error> {
        match self.value {
            Value::String(text) => Ok(text),
            Value::Null => Ok(""),
            _ => Err(self.wrong_type::<V::Value>()),
        }
    }

    /// Anything that is written as a string or a number, in canonical form.
    fn quantity<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = match self.value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null => "0".to_owned(),
            _ => return Err(self.wrong_type::<V::Value>()),
        };
        match Quantity::parse(&text) {
            Ok(quantity) => {
                let text = quantity.to_string();
                visitor.visit_newtype_struct(StrDeserializer::new(&text))
            }
            Err(error) => {
                self.located(Err(Error { path: None, message: format!("{}: {error}", go::quote(&text)) }))
            }
        }
    }
}

/// Go leaves the indexes of lists and the keys of maps out of a field's name.
fn without_indexes(path: &Step<'_>) -> String {
    match path {
        Step::Root => String::new(),
        Step::Index(parent, _) => without_indexes(parent),
        Step::Key(parent, key) => {
            let parent = without_indexes(parent);
            if parent.is_empty() { (*key).to_owned() } else { format!("{parent}.{key}") }
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty, $narrow:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let narrow: fn(&Number) -> Option<$type> = $narrow;
            match (self.value, self.integer().and_then(narrow)) {
                (_, Some(number)) => self.located(visitor.$visit(number)),
                (Value::Null, None) => self.located(visitor.$visit(0)),
                _ => Err(self.wrong_type::<V::Value>()),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // IntOrString is read through here, and Go reads it as one of the two.
        if go_type::of::<V::Value>() == "int32" && !matches!(self.value, Value::Number(_) | Value::String(_))
        {
            return match self.value {
                Value::Null => self.located(visitor.visit_i64(0)),
                _ => Err(self.wrong_type::<V::Value>()),
            };
        }
        match self.value {
            Value::Null => self.located(visitor.visit_unit()),
            Value::Bool(value) => self.located(visitor.visit_bool(*value)),
            Value::Number(number) => {
                let result = match (number.as_i64(), number.as_u64(), number.as_f64()) {
                    (Some(number), _, _) => visitor.visit_i64(number),
                    (None, Some(number), _) => visitor.visit_u64(number),
                    (None, None, number) => visitor.visit_f64(number.unwrap_or_default()),
                };
                result.map_err(|_: Error| self.wrong_type::<V::Value>())
            }
            Value::String(text) => self.located(visitor.visit_borrowed_str(text)),
            Value::Array(_) => self.list(visitor),
            Value::Object(_) => self.map(None, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Bool(value) => self.located(visitor.visit_bool(*value)),
            Value::Null => self.located(visitor.visit_bool(false)),
            _ => Err(self.wrong_type::<V::Value>()),
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8, |number| i8::try_from(number.as_i64()?).ok();
        deserialize_i16 visit_i16 i16, |number| i16::try_from(number.as_i64()?).ok();
        deserialize_i32 visit_i32 i32, |number| i32::try_from(number.as_i64()?).ok();
        deserialize_i64 visit_i64 i64, |number| number.as_i64();
        deserialize_u8 visit_u8 u8, |number| u8::try_from(number.as_u64()?).ok();
        deserialize_u16 visit_u16 u16, |number| u16::try_from(number.as_u64()?).ok();
        deserialize_u32 visit_u32 u32, |number| u32::try_from(number.as_u64()?).ok();
        deserialize_u64 visit_u64 u64, |number| number.as_u64();
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Number(number) => self.located(visitor.visit_f64(number.as_f64().unwrap_or_default())),
            Value::Null => self.located(visitor.visit_f64(0.0)),
            _ => Err(self.wrong_type::<V::Value>()),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text::<V>()?;
        if go_type::of::<V::Value>() == "[]uint8" {
            use base64::DecodeError::{InvalidByte, InvalidLastSymbol};
            let offset = match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(_) => return self.located(visitor.visit_borrowed_str(text)),
                Err(InvalidByte(offset, _) | InvalidLastSymbol(offset, _)) => offset,
                Err(_) => text.len(),
            };
            let message = format!("illegal base64 data at input byte {offset}");
            return self.located(Err(Error { path: None, message }));
        }
        self.located(visitor.visit_borrowed_str(text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.located(visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.located(visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match (name, self.value) {
            ("Quantity", _) => self.quantity(visitor),
            ("Time" | "MicroTime", Value::String(text)) => {
                visitor.visit_newtype_struct(self).map_err(|error| {
                    let path = self.path.to_string();
                    let prefix = format!("{path}: Invalid value: ");
                    let cause = error.message.strip_prefix(&prefix).unwrap_or(&error.message);
                    let layout = if name == "Time" {
                        "2006-01-02T15:04:05Z07:00"
                    } else {
                        "2006-01-02T15:04:05.000000Z07:00"
                    };
                    let message =
                        format!("{prefix}parsing time {} as {}: {cause}", go::quote(text), go::quote(layout));
                    Error { path: Some(path), message }
                })
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.map(Some(name), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text = self.text::<V>()?;
        self.located(visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(text)))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    /// Only unknown fields are ignored.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_REPORTED {
            unknown.push(self.path.to_string());
        }
        drop(unknown);
        visitor.visit_unit()
    }
}

struct Items<'a, 'de> {
    node: Node<'a, 'de>,
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let path = Step::Index(self.node.path, index);
        seed.deserialize(self.node.child(value, &path, "", false)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a, 'de> {
    node: Node<'a, 'de>,
    /// The struct's name; a map has none.
    owner: Option<&'static str>,
    entries: Option<serde_json::map::Iter<'de>>,
    next: Option<(&'de str, &'de Value)>,
    last: &'a Cell<&'de str>,
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.as_mut().and_then(Iterator::next) else { return Ok(None) };
        self.next = Some((key, value));
        self.last.set(key);
        let key = de::value::BorrowedStrDeserializer::new(key);
        self.node.located(seed.deserialize(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let Some((key, value)) = self.next.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = Step::Key(self.node.path, key);
        seed.deserialize(self.node.child(value, &path, self.owner.unwrap_or(""), self.owner.is_some()))
    }
}
