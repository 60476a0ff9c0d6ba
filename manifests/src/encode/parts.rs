//! An object in two pieces of text, for those who keep its metadata apart.

use serde::ser::{Impossible, Serialize, SerializeStruct, Serializer};

use super::EncodeError;
use super::text::push_field;

/// An encoded object without its type.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// `{"name":"a"}`; nothing if the object has no metadata.
    pub metadata: Vec<u8>,
    /// `,"spec":{…},"status":{…}`: all other fields, each behind a comma.
    pub rest: Vec<u8>,
}

pub(super) struct Top;

pub(super) struct TopFields {
    name: &'static str,
    parts: Parts,
}

impl SerializeStruct for TopFields {
    type Ok = Parts;
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        field: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        match field {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let of = super::text::Writer { out: &mut self.parts.metadata, of: self.name, field };
                if value.serialize(of)? {
                    self.parts.metadata.clear();
                }
            }
            _ => {
                push_field(&mut self.parts.rest, self.name, field, false, value)?;
            }
        }
        Ok(())
    }

    fn end(self) -> Result<Parts, EncodeError> {
        Ok(self.parts)
    }
}

fn no_struct<T>() -> Result<T, EncodeError> {
    Err(EncodeError("an object is a struct".to_owned()))
}

/// Everything but a struct is no object.
macro_rules! refuse {
    ($($name:ident($($type:ty),*) -> $out:ty;)*) => {
        $(fn $name(self, $(_: $type),*) -> Result<$out, EncodeError> { no_struct() })*
    };
}

type No = Impossible<Parts, EncodeError>;

impl Serializer for Top {
    type Ok = Parts;
    type Error = EncodeError;
    type SerializeSeq = No;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = No;
    type SerializeStruct = TopFields;
    type SerializeStructVariant = No;

    refuse! {
        serialize_bool(bool) -> Parts;
        serialize_i8(i8) -> Parts;
        serialize_i16(i16) -> Parts;
        serialize_i32(i32) -> Parts;
        serialize_i64(i64) -> Parts;
        serialize_u8(u8) -> Parts;
        serialize_u16(u16) -> Parts;
        serialize_u32(u32) -> Parts;
        serialize_u64(u64) -> Parts;
        serialize_f32(f32) -> Parts;
        serialize_f64(f64) -> Parts;
        serialize_char(char) -> Parts;
        serialize_str(&str) -> Parts;
        serialize_bytes(&[u8]) -> Parts;
        serialize_none() -> Parts;
        serialize_unit() -> Parts;
        serialize_unit_struct(&'static str) -> Parts;
        serialize_unit_variant(&'static str, u32, &'static str) -> Parts;
        serialize_seq(Option<usize>) -> No;
        serialize_tuple(usize) -> No;
        serialize_tuple_struct(&'static str, usize) -> No;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> No;
        serialize_map(Option<usize>) -> No;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> No;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Parts, EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Parts, EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Parts, EncodeError> {
        no_struct()
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<TopFields, EncodeError> {
        Ok(TopFields { name, parts: Parts::default() })
    }
}
