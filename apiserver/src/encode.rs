//! Writes a typed object as JSON with its metadata right behind its type, which is how the store keeps it.
//!
//! Objects are spliced and sliced by position (see [`crate::object`]), so the order of the top level matters; everything
//! below is as `manifests::encode` writes it.

use manifests::encode::{EncodeError, Parts, to_parts};
use serde::Serialize;
use serde_json::Value;

use crate::object::Layout;

/// The stored form of an object. Its metadata must have no resourceVersion.
pub(crate) fn encode<T: Serialize>(layout: &Layout, object: &T) -> Result<Vec<u8>, EncodeError> {
    let Parts { metadata, rest } = to_parts(object)?;
    Ok(layout.assemble(&metadata, &rest))
}

/// The stored form of an object that is a value.
pub(crate) fn stored_form(layout: &Layout, object: Value) -> Vec<u8> {
    let Value::Object(mut fields) = object else { return layout.assemble(b"{}", b"") };
    let metadata = fields.remove("metadata").unwrap_or_default();
    fields.remove("apiVersion");
    fields.remove("kind");
    let rest = Value::Object(fields).to_string();
    let rest = match rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some("") | None => String::new(),
        Some(inner) => format!(",{inner}"),
    };
    layout.assemble(metadata.to_string().as_bytes(), rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn metadata_comes_first() {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".to_owned());
        let layout = Layout::new("v1", "ConfigMap");
        assert_eq!(
            String::from_utf8_lossy(&encode(&layout, &map).expect("encodes")),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#
        );
        map.data = Some([("metadata".to_owned(), "\"metadata\":{}".to_owned())].into());
        let json = encode(&layout, &map).expect("encodes");
        assert!(layout.fits(&json));
        assert_eq!(
            String::from_utf8_lossy(&json),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"metadata":"\"metadata\":{}"}}"#
        );
        assert_eq!(serde_json::from_slice::<ConfigMap>(&json).expect("decodes"), map);
    }
}
