//! Reads an object without its owners' entries: they are often a third of it, and nobody looks at them as a value.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The object in some JSON without `metadata.managedFields`.
pub(crate) fn without_owners(json: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Fields { of_metadata: false }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The fields of an object, or of its metadata.
struct Fields {
    of_metadata: bool,
}

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = match (self.of_metadata, name.as_str()) {
                (true, "managedFields") => {
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
                (false, "metadata") => entries.next_value_seed(Fields { of_metadata: true })?,
                _ => entries.next_value()?,
            };
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a field comes twice"));
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_objects_own_entries_are_left_out() {
        let object = json!({
            "kind": "X", "metadata": {"name": "a", "managedFields": [{"manager": "m"}], "labels": {"managedFields": "b"}},
            "spec": {"template": {"metadata": {"managedFields": [1]}}, "managedFields": [2]},
        });
        let mut expected = object.clone();
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(without_owners(object.to_string().as_bytes()).unwrap(), expected);
        for bad in ["", "[]", "{} {}", r#"{"metadata":[]}"#, r#"{"a":1,"a":2}"#] {
            assert!(without_owners(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
