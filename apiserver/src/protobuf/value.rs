//! Messages to JSON values, by the table.

use super::ProtobufError;
use super::message::{Field, Message, Shape, Type};
use super::wire::{self, Wire};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

/// Messages within messages. The deepest of the table, by far, need a dozen.
const MAX_DEPTH: usize = 100;
/// Values of one body. A megabyte of empty messages, two bytes each, would be a hundred megabytes of values.
const MAX_VALUES: usize = 1_000_000;

type Fields = Map<String, Value>;

/// Reads one body; knows where it is, for errors, and how much it has read.
pub(super) struct Reader<'k> {
    kind: &'k str,
    /// Names of the fields that lead to the message being read.
    path: Vec<&'static str>,
    values: usize,
}

impl<'k> Reader<'k> {
    pub(super) fn new(kind: &'k str) -> Reader<'k> {
        Reader { kind, path: Vec::new(), values: 0 }
    }

    fn malformed(&self, field: impl ToString, problem: &'static str) -> ProtobufError {
        let message =
            std::iter::once(self.kind).chain(self.path.iter().copied()).collect::<Vec<_>>().join(".");
        ProtobufError::Malformed { message, field: field.to_string(), problem }
    }

    /// Calls `each` with every field of a message, in their order on the wire.
    pub(super) fn fields<'b>(
        &mut self,
        mut bytes: &'b [u8],
        mut each: impl FnMut(&mut Self, u32, Wire<'b>) -> Result<(), ProtobufError>,
    ) -> Result<(), ProtobufError> {
        while !bytes.is_empty() {
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(self.malformed("", "too many values"));
            }
            let (number, wire) = wire::next(&mut bytes).map_err(|problem| self.malformed("", problem))?;
            each(self, number, wire)?;
        }
        Ok(())
    }

    /// Reads a message into `object`, adding to what is there: a field that comes twice is merged.
    pub(super) fn message(
        &mut self,
        bytes: &[u8],
        message: &'static Message,
        object: &mut Fields,
    ) -> Result<(), ProtobufError> {
        self.fields(bytes, |reader, number, wire| match message.field(number) {
            Some(field) => reader.field(field, wire, object),
            None => Ok(()),
        })
    }

    fn field(
        &mut self,
        field: &'static Field,
        wire: Wire<'_>,
        object: &mut Fields,
    ) -> Result<(), ProtobufError> {
        if self.path.len() >= MAX_DEPTH {
            return Err(self.malformed(field.name, "nested too deep"));
        }
        match (field.shape, field.of, wire) {
            (Shape::One, Type::Object(message), Wire::Bytes(bytes)) if field.name.is_empty() => {
                self.message(bytes, message, object)
            }
            (Shape::One, Type::Object(message), Wire::Bytes(bytes)) => {
                let inner = object.entry(field.name).or_insert_with(|| Value::Object(Fields::new()));
                let Value::Object(inner) = inner else {
                    return Err(self.malformed(field.name, "the name is taken"));
                };
                self.below(field, |reader| reader.message(bytes, message, inner))
            }
            (Shape::One, _, _) => {
                // A time that never was is null, which says no more than leaving it out.
                let value = self.value(field, wire)?;
                if !value.is_null() {
                    object.insert(field.name.to_string(), value);
                }
                Ok(())
            }
            (Shape::OneUnlessZero, _, _) => {
                let value = self.value(field, wire)?;
                if !is_zero(&value) {
                    object.insert(field.name.to_string(), value);
                }
                Ok(())
            }
            (Shape::List, _, _) => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else {
                    return Err(self.malformed(field.name, "the name is taken"));
                };
                self.element(field, wire, list)
            }
            (Shape::Map, _, Wire::Bytes(entry)) => {
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Fields::new()));
                let Value::Object(map) = map else {
                    return Err(self.malformed(field.name, "the name is taken"));
                };
                let (key, value) = self.below(field, |reader| reader.entry(field, entry))?;
                map.insert(key, value);
                Ok(())
            }
            (Shape::Map, _, _) => Err(self.malformed(field.name, "wrong wire type")),
        }
    }

    /// Runs `read` one level down.
    fn below<T>(
        &mut self,
        field: &'static Field,
        read: impl FnOnce(&mut Self) -> Result<T, ProtobufError>,
    ) -> Result<T, ProtobufError> {
        self.path.push(field.name);
        let result = read(self);
        self.path.pop();
        result
    }

    fn element(
        &mut self,
        field: &'static Field,
        wire: Wire<'_>,
        list: &mut Vec<Value>,
    ) -> Result<(), ProtobufError> {
        match (field.of, wire) {
            // Many numbers may come packed into one field.
            (Type::Int | Type::Bool, Wire::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    let number =
                        wire::varint(&mut packed).map_err(|problem| self.malformed(field.name, problem))?;
                    self.values += 1;
                    list.push(self.value(field, Wire::Varint(number))?);
                }
            }
            _ => list.push(self.value(field, wire)?),
        }
        Ok(())
    }

    /// The key and value of one entry of a map; what is missing is empty.
    fn entry(&mut self, field: &'static Field, bytes: &[u8]) -> Result<(String, Value), ProtobufError> {
        let mut key = String::new();
        let mut value = None;
        self.fields(bytes, |reader, number, wire| {
            match (number, wire) {
                (1, Wire::Bytes(text)) => key = reader.text(text, field.name)?.to_string(),
                (1, _) => return Err(reader.malformed(field.name, "wrong wire type")),
                (2, wire) => value = Some(reader.value(field, wire)?),
                _ => {}
            }
            Ok(())
        })?;
        let value = match value {
            Some(value) => value,
            None => self.value(field, Wire::Bytes(&[]))?,
        };
        Ok((key, value))
    }

    fn value(&mut self, field: &'static Field, wire: Wire<'_>) -> Result<Value, ProtobufError> {
        match (field.of, wire) {
            (Type::String, Wire::Bytes(text)) => Ok(self.text(text, field.name)?.into()),
            (Type::Bytes, Wire::Bytes(bytes)) => Ok(STANDARD.encode(bytes).into()),
            (Type::Bool, Wire::Varint(number)) => Ok((number != 0).into()),
            // Negative numbers are written as their 64-bit complement, 32-bit ones too.
            (Type::Int, Wire::Varint(number)) => Ok(number.cast_signed().into()),
            (Type::Object(message), Wire::Bytes(bytes)) => {
                let mut object = Fields::new();
                self.below(field, |reader| reader.message(bytes, message, &mut object))?;
                Ok(Value::Object(object))
            }
            (Type::StringList, Wire::Bytes(bytes)) => {
                let mut items = Vec::new();
                self.fields(bytes, |reader, number, wire| {
                    if let (1, Wire::Bytes(text)) = (number, wire) {
                        items.push(reader.text(text, field.name)?.into());
                    }
                    Ok(())
                })?;
                Ok(Value::Array(items))
            }
            (Type::Quantity, Wire::Bytes(bytes)) => self.quantity(field, bytes),
            (Type::IntOrString, Wire::Bytes(bytes)) => self.int_or_string(field, bytes),
            (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => self.time(field, bytes),
            (Type::Raw, Wire::Bytes(bytes)) => self.raw(field, bytes),
            _ => Err(self.malformed(field.name, "wrong wire type")),
        }
    }

    pub(super) fn text<'b>(&self, bytes: &'b [u8], field: &str) -> Result<&'b str, ProtobufError> {
        std::str::from_utf8(bytes).map_err(|_| self.malformed(field, "invalid UTF-8"))
    }

    fn quantity(&mut self, field: &'static Field, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut text = "";
        self.fields(bytes, |reader, number, wire| {
            if let (1, Wire::Bytes(bytes)) = (number, wire) {
                text = reader.text(bytes, field.name)?;
            }
            Ok(())
        })?;
        Ok(if text.is_empty() { "0" } else { text }.into())
    }

    fn int_or_string(&mut self, field: &'static Field, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let (mut is_string, mut number_value, mut text) = (false, 0, "");
        self.fields(bytes, |reader, number, wire| {
            match (number, wire) {
                (1, Wire::Varint(tag)) => is_string = tag == 1,
                (2, Wire::Varint(number)) => number_value = number.cast_signed(),
                (3, Wire::Bytes(bytes)) => text = reader.text(bytes, field.name)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(if is_string { text.into() } else { number_value.into() })
    }

    /// Null when nothing was written: the zero time.
    fn time(&mut self, field: &'static Field, bytes: &[u8]) -> Result<Value, ProtobufError> {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        let (mut seconds, mut nanoseconds) = (0, 0);
        self.fields(bytes, |_, number, wire| {
            match (number, wire) {
                (1, Wire::Varint(value)) => seconds = value.cast_signed(),
                (2, Wire::Varint(value)) => nanoseconds = value.cast_signed(),
                _ => {}
            }
            Ok(())
        })?;
        let out_of_range = |reader: &Self| reader.malformed(field.name, "time out of range");
        let nanoseconds = match field.of {
            // Times of whole seconds drop the rest, on either side.
            Type::Time => 0,
            _ => i32::try_from(nanoseconds).map_err(|_| out_of_range(self))?,
        };
        let time = Timestamp::new(seconds, nanoseconds).map_err(|_| out_of_range(self))?;
        Ok(match field.of {
            Type::Time => time.to_string(),
            _ => format!("{time:.6}"),
        }
        .into())
    }

    fn raw(&mut self, field: &'static Field, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut raw: &[u8] = b"";
        self.fields(bytes, |_, number, wire| {
            if let (1, Wire::Bytes(bytes)) = (number, wire) {
                raw = bytes;
            }
            Ok(())
        })?;
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(raw).map_err(|_| self.malformed(field.name, "not JSON"))
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // An empty map is what Go writes for an empty struct, too.
        Value::Object(_) => false,
    }
}
