//! How finely the fields of each type can be owned: which structs and maps are merged field by field, and which lists
//! element by element and by which keys.
//!
//! Server-side apply walks a document along this table. A field that is not in it is a leaf: a scalar, or a list, map or
//! struct that is replaced as a whole. `metadata` of every kind is a field like any other.
//!
//! It is data for two readers: server-side apply, and the OpenAPI documents, whose `x-kubernetes-list-type`,
//! `x-kubernetes-list-map-keys` and `x-kubernetes-map-type` tell clients the same.
//!
//! The folder depends on nothing, so that a build script can include it too.

mod table;

/// A struct whose fields are owned one by one.
#[derive(Debug, Clone, Copy)]
pub struct Type {
    /// As OpenAPI names it: `io.k8s.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// Those of its fields that are not leaves.
    pub fields: &'static [Field],
}

/// A field that is not a leaf, or that has something else to tell.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// What it is.
    pub shape: Shape,
    /// Upstream writes it also when there is nothing in it. So it is always there, and nobody adds it.
    pub always: bool,
}

/// What a field is.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A struct.
    Struct(&'static Type),
    /// A map whose entries are owned one by one; each is a leaf.
    Map,
    /// A map that is one leaf.
    AtomicMap,
    /// A list of scalars that are each there or not.
    Set,
    /// A list of structs that are told apart by some of their fields.
    Keyed(&'static [Key], &'static Type),
}

/// A field that tells the elements of a list apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its JSON name.
    pub name: &'static str,
    /// What it is when it is left out, as JSON; nothing if it has no default.
    pub default: &'static str,
}

impl Type {
    /// The field of this name, if it is not a leaf.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// The type of this name.
pub fn type_named(name: &str) -> Option<&'static Type> {
    table::TYPES.binary_search_by(|found| found.name.cmp(name)).ok().map(|at| table::TYPES[at])
}

/// Whether a type is one leaf wherever it stands.
pub fn is_atomic(name: &str) -> bool {
    table::ATOMIC.binary_search(&name).is_ok()
}

const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, always: false }
}

const fn always(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, always: true }
}

const fn key(name: &'static str, default: &'static str) -> Key {
    Key { name, default }
}

/// A struct of leaves.
static PLAIN: Type = Type { name: "", fields: &[] };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_reaches_what_it_should() {
        assert!(table::TYPES.is_sorted_by_key(|found| found.name));
        assert!(table::ATOMIC.is_sorted());
        assert!(is_atomic("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"));
        let mut at = type_named("io.k8s.api.apps.v1.Deployment").unwrap();
        for name in ["spec", "template", "spec"] {
            let Some(Field { shape: Shape::Struct(next), always: true, .. }) = at.field(name) else {
                panic!("{name}")
            };
            at = next;
        }
        let Some(Field { shape: Shape::Keyed(keys, container), always: true, .. }) = at.field("containers")
        else {
            panic!("containers")
        };
        assert_eq!(*keys, [key("name", "\"\"")]);
        let Some(Field { shape: Shape::Keyed(keys, _), always: false, .. }) = container.field("ports") else {
            panic!("ports")
        };
        assert_eq!(*keys, [key("containerPort", "0"), key("protocol", "\"TCP\"")]);
        assert!(container.field("args").is_none());
    }
}
