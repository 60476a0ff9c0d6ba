//! Writes a typed object as JSON with its metadata right behind its type, which is how the store keeps it.
//!
//! The generated types serialise their fields in alphabetical order. Objects are spliced and sliced by position (see
//! [`crate::object`]), so the top level is put in order here; everything below is serde's own.

use serde::Serialize;
use serde::ser::{Impossible, SerializeStruct, Serializer};

use crate::object::Layout;

/// The stored form of an object. Its metadata must have no resourceVersion.
pub(crate) fn encode<T: Serialize>(layout: &Layout, object: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut top = Top { metadata: Vec::new(), rest: Vec::new() };
    object.serialize(&mut top)?;
    Ok(layout.assemble(&top.metadata, &top.rest))
}

struct Top {
    /// The value of `metadata`, with its braces.
    metadata: Vec<u8>,
    /// `,"key":value` for each other field.
    rest: Vec<u8>,
}

impl SerializeStruct for &mut Top {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Self::Error> {
        match key {
            "apiVersion" | "kind" => Ok(()),
            "metadata" => serde_json::to_writer(&mut self.metadata, value),
            _ => {
                self.rest.push(b',');
                serde_json::to_writer(&mut self.rest, key)?;
                self.rest.push(b':');
                serde_json::to_writer(&mut self.rest, value)
            }
        }
    }

    fn end(self) -> Result<(), Self::Error> {
        Ok(())
    }
}

type Never = Impossible<(), serde_json::Error>;

fn not_an_object<T>() -> Result<T, serde_json::Error> {
    Err(serde::ser::Error::custom("only API objects can be stored"))
}

impl Serializer for &mut Top {
    type Ok = ();
    type Error = serde_json::Error;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Self;
    type SerializeStructVariant = Never;

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_bool(self, _: bool) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_i8(self, _: i8) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_i16(self, _: i16) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_i32(self, _: i32) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_i64(self, _: i64) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_u8(self, _: u8) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_u16(self, _: u16) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_u32(self, _: u32) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_u64(self, _: u64) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_f32(self, _: f32) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_f64(self, _: f64) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_char(self, _: char) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_str(self, _: &str) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_none(self) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_unit(self) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Self::Error> {
        not_an_object()
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Never, Self::Error> {
        not_an_object()
    }
    fn serialize_tuple(self, _: usize) -> Result<Never, Self::Error> {
        not_an_object()
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Never, Self::Error> {
        not_an_object()
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Never, Self::Error> {
        not_an_object()
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Never, Self::Error> {
        not_an_object()
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Never, Self::Error> {
        not_an_object()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn metadata_comes_first() {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".to_owned());
        map.data = Some([("metadata".to_owned(), "\"metadata\":{}".to_owned())].into());
        let layout = Layout::new("v1", "ConfigMap");
        let json = encode(&layout, &map).expect("encodes");
        assert!(layout.fits(&json));
        assert_eq!(
            String::from_utf8_lossy(&json),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"metadata":"\"metadata\":{}"}}"#
        );
        assert_eq!(serde_json::from_slice::<ConfigMap>(&json).expect("decodes"), map);
    }
}
