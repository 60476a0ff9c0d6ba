//! The schemas in the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Lines of name, tab and OpenAPI 3 schema, deflated.
pub(super) const COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schemas.zlib"));
const LENGTH: &str = include_str!(concat!(env!("OUT_DIR"), "/schemas.length"));
/// What refers to a schema.
pub(super) const REFERENCE: &str = "#/components/schemas/";

/// The decompressed schemas, each still as JSON.
pub(super) struct Schemas {
    text: String,
}

impl Schemas {
    pub(super) fn read() -> Option<Schemas> {
        let mut text = String::with_capacity(LENGTH.parse().unwrap_or_default());
        flate2::read::ZlibDecoder::new(COMPRESSED).read_to_string(&mut text).ok()?;
        Some(Schemas { text })
    }

    /// Every schema, by its name.
    pub(super) fn all(&self) -> BTreeMap<&str, &str> {
        self.text.lines().filter_map(|line| line.split_once('\t')).collect()
    }

    /// The schemas of these names, and those that they refer to, directly or not.
    pub(super) fn reached(&self, names: impl IntoIterator<Item = String>) -> BTreeMap<&str, &str> {
        let all = self.all();
        let mut wanted: BTreeSet<String> = names.into_iter().collect();
        let mut reached = BTreeMap::new();
        while let Some(name) = wanted.pop_first() {
            let Some((name, schema)) = all.get_key_value(name.as_str()) else { continue };
            if reached.insert(*name, *schema).is_none() {
                wanted.extend(references(schema).map(str::to_string));
            }
        }
        reached
    }
}

/// The names that a schema refers to. A reference is a JSON string of its own, so it ends at a quote.
fn references(schema: &str) -> impl Iterator<Item = &str> {
    schema.split(REFERENCE).skip(1).filter_map(|rest| rest.split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_in_the_binary_are_whole() {
        let schemas = Schemas::read().unwrap();
        let all = schemas.all();
        assert!(all.len() > 200, "{}", all.len());
        for (name, schema) in &all {
            serde_json::from_str::<serde_json::Value>(schema).unwrap_or_else(|why| panic!("{name}: {why}"));
            for reference in references(schema) {
                assert!(all.contains_key(reference), "{name} refers to {reference}");
            }
        }
    }

    #[test]
    fn only_what_is_reached() {
        let schemas = Schemas::read().unwrap();
        let lease = schemas.reached(["io.k8s.api.coordination.v1.Lease".to_string()]);
        assert!(lease.contains_key("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
        assert!(!lease.contains_key("io.k8s.api.core.v1.Pod"));
        assert!(schemas.reached(["io.example.Nothing".to_string()]).is_empty());
    }
}
