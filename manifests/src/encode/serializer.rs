//! The serializer: builds a value, and knows of each part whether Go would call it empty.

use std::fmt;

use serde::ser::{
    Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct,
    Serializer,
};
use serde_json::{Map, Number, Value};

use super::{EncodeError, is_omitted_when_zero, is_written_when_empty};

impl serde::ser::Error for EncodeError {
    fn custom<T: fmt::Display>(message: T) -> EncodeError {
        EncodeError(message.to_string())
    }
}

/// Writes one value, which is the named field of the named struct.
#[derive(Clone, Copy)]
pub(super) struct Encoder {
    pub(super) of: &'static str,
    pub(super) field: &'static str,
}

/// What was written, and whether the field that holds it is left out.
pub(super) struct Encoded {
    pub(super) value: Value,
    omit: bool,
}

impl Encoder {
    fn scalar(self, value: Value, is_zero: bool) -> Result<Encoded, EncodeError> {
        Ok(Encoded { omit: is_zero && is_omitted_when_zero(self.of, self.field), value })
    }

    fn integer(self, value: i64) -> Result<Encoded, EncodeError> {
        self.scalar(Value::Number(value.into()), value == 0)
    }

    fn omits_empty(self) -> bool {
        !is_written_when_empty(self.of, self.field)
    }
}

/// The value of a list element or map entry, which is never left out.
fn plain<T: Serialize + ?Sized>(value: &T) -> Result<Value, EncodeError> {
    Ok(value.serialize(Encoder { of: "", field: "" })?.value)
}

impl Serializer for Encoder {
    type Ok = Encoded;
    type Error = EncodeError;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = Impossible<Encoded, EncodeError>;
    type SerializeMap = Entries;
    type SerializeStruct = Struct;
    type SerializeStructVariant = Impossible<Encoded, EncodeError>;

    fn serialize_bool(self, value: bool) -> Result<Encoded, EncodeError> {
        self.scalar(Value::Bool(value), !value)
    }

    fn serialize_i8(self, value: i8) -> Result<Encoded, EncodeError> {
        self.integer(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<Encoded, EncodeError> {
        self.integer(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<Encoded, EncodeError> {
        self.integer(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<Encoded, EncodeError> {
        self.integer(value)
    }

    fn serialize_u8(self, value: u8) -> Result<Encoded, EncodeError> {
        self.integer(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<Encoded, EncodeError> {
        self.integer(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<Encoded, EncodeError> {
        self.integer(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<Encoded, EncodeError> {
        self.scalar(Value::Number(value.into()), value == 0)
    }

    fn serialize_f32(self, value: f32) -> Result<Encoded, EncodeError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<Encoded, EncodeError> {
        self.scalar(Number::from_f64(value).map_or(Value::Null, Value::Number), value == 0.0)
    }

    fn serialize_char(self, value: char) -> Result<Encoded, EncodeError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<Encoded, EncodeError> {
        self.scalar(Value::String(value.to_owned()), value.is_empty())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Encoded, EncodeError> {
        let bytes = value.iter().map(|byte| Value::Number((*byte).into()));
        Ok(Encoded { value: Value::Array(bytes.collect()), omit: false })
    }

    fn serialize_none(self) -> Result<Encoded, EncodeError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Encoded, EncodeError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Encoded, EncodeError> {
        Ok(Encoded { value: Value::Null, omit: false })
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Encoded, EncodeError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<Encoded, EncodeError> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Encoded, EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<Encoded, EncodeError> {
        value.serialize(self)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<List, EncodeError> {
        Ok(List { omits_empty: self.omits_empty(), items: Vec::with_capacity(length.unwrap_or(0).min(4096)) })
    }

    fn serialize_tuple(self, length: usize) -> Result<List, EncodeError> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<List, EncodeError> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, EncodeError> {
        Err(EncodeError(format!("{name} is not a type of the API")))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries, EncodeError> {
        Ok(Entries { omits_empty: self.omits_empty(), map: Map::new(), key: None })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Struct, EncodeError> {
        Ok(Struct { name, map: Map::new() })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, EncodeError> {
        Err(EncodeError(format!("{name} is not a type of the API")))
    }
}

pub(super) struct List {
    omits_empty: bool,
    items: Vec<Value>,
}

impl List {
    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.items.push(plain(item)?);
        Ok(())
    }

    fn finish(self) -> Result<Encoded, EncodeError> {
        Ok(Encoded { omit: self.omits_empty && self.items.is_empty(), value: Value::Array(self.items) })
    }
}

impl SerializeSeq for List {
    type Ok = Encoded;
    type Error = EncodeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.push(item)
    }

    fn end(self) -> Result<Encoded, EncodeError> {
        self.finish()
    }
}

impl SerializeTuple for List {
    type Ok = Encoded;
    type Error = EncodeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.push(item)
    }

    fn end(self) -> Result<Encoded, EncodeError> {
        self.finish()
    }
}

impl SerializeTupleStruct for List {
    type Ok = Encoded;
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.push(item)
    }

    fn end(self) -> Result<Encoded, EncodeError> {
        self.finish()
    }
}

pub(super) struct Entries {
    omits_empty: bool,
    map: Map<String, Value>,
    key: Option<String>,
}

impl SerializeMap for Entries {
    type Ok = Encoded;
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        self.key = Some(match plain(key)? {
            Value::String(key) => key,
            other => other.to_string(),
        });
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let key = self.key.take().ok_or_else(|| EncodeError("a value without its key".to_owned()))?;
        self.map.insert(key, plain(value)?);
        Ok(())
    }

    fn end(self) -> Result<Encoded, EncodeError> {
        Ok(Encoded { omit: self.omits_empty && self.map.is_empty(), value: Value::Object(self.map) })
    }
}

pub(super) struct Struct {
    name: &'static str,
    map: Map<String, Value>,
}

impl SerializeStruct for Struct {
    type Ok = Encoded;
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        field: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        let Encoded { value, omit } = value.serialize(Encoder { of: self.name, field })?;
        if !omit {
            self.map.insert(field.to_owned(), value);
        }
        Ok(())
    }

    fn end(self) -> Result<Encoded, EncodeError> {
        Ok(Encoded { value: Value::Object(self.map), omit: false })
    }
}
