//! The same serializer, writing text at once: for what is only stored or sent, no tree is built.
//!
//! A field is written with its name, and taken back if it turns out to be one that Go leaves out.

use serde::ser::{
    Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct,
    Serializer,
};

use super::{EncodeError, is_omitted_when_zero, is_written_when_empty};

/// Appends a scalar as JSON.
fn push<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    serde_json::to_writer(out, value).map_err(|error| EncodeError(error.to_string()))
}

/// Writes one value, which is the named field of the named struct. Answers whether that field is left out.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) of: &'static str,
    pub(super) field: &'static str,
}

impl<'a> Writer<'a> {
    /// For an element of a list or an entry of a map, which is never left out.
    fn plain(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out, of: "", field: "" }
    }

    fn scalar<T: Serialize + ?Sized>(self, value: &T, is_zero: bool) -> Result<bool, EncodeError> {
        let omit = is_zero && is_omitted_when_zero(self.of, self.field);
        if !omit {
            push(self.out, value)?;
        }
        Ok(omit)
    }

    fn open(self, bracket: u8) -> Open<'a> {
        self.out.push(bracket);
        let omits_empty = !is_written_when_empty(self.of, self.field);
        Open { out: self.out, omits_empty, empty: true }
    }
}

/// A list or a map that has been begun.
pub(super) struct Open<'a> {
    out: &'a mut Vec<u8>,
    omits_empty: bool,
    empty: bool,
}

impl Open<'_> {
    fn separate(&mut self) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
    }

    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.separate();
        item.serialize(Writer::plain(self.out)).map(drop)
    }

    fn close(self, bracket: u8) -> Result<bool, EncodeError> {
        self.out.push(bracket);
        Ok(self.omits_empty && self.empty)
    }
}

/// A struct that has been begun.
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    name: &'static str,
    empty: bool,
}

/// Appends `"field":value` after a comma unless it is the first. Answers whether it was left out.
pub(super) fn push_field<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    of: &'static str,
    field: &'static str,
    first: bool,
    value: &T,
) -> Result<bool, EncodeError> {
    let start = out.len();
    if !first {
        out.push(b',');
    }
    // Names of fields have nothing to escape.
    out.push(b'"');
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(b"\":");
    let omit = value.serialize(Writer { out, of, field })?;
    if omit {
        out.truncate(start);
    }
    Ok(omit)
}

impl<'a> Serializer for Writer<'a> {
    type Ok = bool;
    type Error = EncodeError;
    type SerializeSeq = Open<'a>;
    type SerializeTuple = Open<'a>;
    type SerializeTupleStruct = Open<'a>;
    type SerializeTupleVariant = Impossible<bool, EncodeError>;
    type SerializeMap = Open<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Impossible<bool, EncodeError>;

    fn serialize_bool(self, value: bool) -> Result<bool, EncodeError> {
        self.scalar(&value, !value)
    }

    fn serialize_i8(self, value: i8) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_i16(self, value: i16) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_i32(self, value: i32) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_i64(self, value: i64) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_u8(self, value: u8) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_u16(self, value: u16) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_u32(self, value: u32) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_u64(self, value: u64) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0)
    }

    fn serialize_f32(self, value: f32) -> Result<bool, EncodeError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<bool, EncodeError> {
        self.scalar(&value, value == 0.0)
    }

    fn serialize_char(self, value: char) -> Result<bool, EncodeError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<bool, EncodeError> {
        self.scalar(value, value.is_empty())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<bool, EncodeError> {
        push(self.out, value)?;
        Ok(false)
    }

    fn serialize_none(self) -> Result<bool, EncodeError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, EncodeError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<bool, EncodeError> {
        self.out.extend_from_slice(b"null");
        Ok(false)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, EncodeError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<bool, EncodeError> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<bool, EncodeError> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Open<'a>, EncodeError> {
        Ok(self.open(b'['))
    }

    fn serialize_tuple(self, _: usize) -> Result<Open<'a>, EncodeError> {
        Ok(self.open(b'['))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Open<'a>, EncodeError> {
        Ok(self.open(b'['))
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

    fn serialize_map(self, _: Option<usize>) -> Result<Open<'a>, EncodeError> {
        Ok(self.open(b'{'))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'a>, EncodeError> {
        self.out.push(b'{');
        Ok(Fields { out: self.out, name, empty: true })
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

impl SerializeSeq for Open<'_> {
    type Ok = bool;
    type Error = EncodeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.push(item)
    }

    fn end(self) -> Result<bool, EncodeError> {
        self.close(b']')
    }
}

impl SerializeTuple for Open<'_> {
    type Ok = bool;
    type Error = EncodeError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.push(item)
    }

    fn end(self) -> Result<bool, EncodeError> {
        self.close(b']')
    }
}

impl SerializeTupleStruct for Open<'_> {
    type Ok = bool;
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.push(item)
    }

    fn end(self) -> Result<bool, EncodeError> {
        self.close(b']')
    }
}

impl SerializeMap for Open<'_> {
    type Ok = bool;
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        self.separate();
        let start = self.out.len();
        key.serialize(Writer::plain(self.out))?;
        if self.out.get(start) != Some(&b'"') {
            return Err(EncodeError("a key that is no text".to_owned()));
        }
        self.out.push(b':');
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(Writer::plain(self.out)).map(drop)
    }

    fn end(self) -> Result<bool, EncodeError> {
        self.close(b'}')
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = bool;
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        field: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.empty &= push_field(self.out, self.name, field, self.empty, value)?;
        Ok(())
    }

    fn end(self) -> Result<bool, EncodeError> {
        self.out.push(b'}');
        Ok(false)
    }
}
