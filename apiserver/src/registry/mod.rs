//! The resources that are served: a row each.
//!
//! A row names the kind, where its objects are cached, and its hooks. Two rows may share a cache: Events are stored once
//! and served by two groups.

pub(crate) mod env;
pub(crate) mod kind;
mod simple;

use std::fmt;
use std::sync::Arc;

use manifests::kinds;
use manifests::selector::FieldSelector;
use manifests::status::ApiError;

pub(crate) use env::Env;
pub(crate) use kind::{AnyObject, Claims, Hooks, Kind, Part, Typed};

use crate::object::Layout;
use crate::watch_cache::{FieldRequirement, ROOT, ResourceCache, Storage};

/// One served resource.
pub(crate) struct Row {
    pub(crate) kind: &'static kinds::Kind,
    pub(crate) hooks: &'static dyn Hooks,
    pub(crate) cache: Arc<ResourceCache>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.kind.plural).finish()
    }
}

impl Row {
    fn new(kind: &'static kinds::Kind, hooks: &'static dyn Hooks) -> Row {
        let prefix = if kind.group.is_empty() {
            format!("{ROOT}{}/", kind.plural)
        } else {
            format!("{ROOT}{}/{}/", kind.group, kind.plural)
        };
        let layout = Layout::new(&kind.api_version(), kind.kind);
        let storage = Storage { prefix, layout, fields: hooks.traits().fields };
        Row { kind, hooks, cache: Arc::new(ResourceCache::new(storage)) }
    }

    /// The key of an object after the resource's prefix.
    pub(crate) fn relative_key(&self, namespace: &str, name: &str) -> String {
        if self.kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.kind.plural, self.kind.group, name)
    }

    pub(crate) fn forbidden(&self, name: &str, why: &str) -> ApiError {
        ApiError::forbidden(self.kind.plural, self.kind.group, name, why)
    }

    pub(crate) fn conflict(&self, name: &str, why: &str) -> ApiError {
        ApiError::conflict(self.kind.plural, self.kind.group, name, why)
    }

    pub(crate) fn method_not_allowed(&self, action: &str) -> ApiError {
        ApiError::method_not_allowed(self.kind.plural, self.kind.group, action)
    }

    /// What a field selector means for this kind.
    pub(crate) fn field_requirements(
        &self,
        selector: &FieldSelector,
    ) -> Result<Vec<FieldRequirement>, ApiError> {
        let fields = self.cache.storage.fields;
        selector
            .requirements()
            .iter()
            .map(|requirement| {
                let (value, negated) = (requirement.value.clone(), requirement.negated);
                match requirement.field.as_str() {
                    "metadata.name" => Ok(FieldRequirement::Name { value, negated }),
                    "metadata.namespace" if self.kind.namespaced => {
                        Ok(FieldRequirement::Namespace { value, negated })
                    }
                    label => match fields.iter().position(|field| field.label == label) {
                        Some(index) => Ok(FieldRequirement::Field { index, value, negated }),
                        None => Err(self.unknown_field(label)),
                    },
                }
            })
            .collect()
    }

    fn unknown_field(&self, label: &str) -> ApiError {
        if self.cache.storage.fields.is_empty() {
            return ApiError::bad_request(format!(
                "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                manifests::go::quote(label)
            ));
        }
        ApiError::bad_request(format!("field label not supported: {label}"))
    }
}

/// All rows.
#[derive(Debug)]
pub(crate) struct Registry {
    rows: Vec<Arc<Row>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn built_in() -> Registry {
        let rows = simple::rows();
        Registry { rows: rows.into_iter().map(Arc::new).collect() }
    }

    pub(crate) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    pub(crate) fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        let named = |row: &&Arc<Row>| {
            row.kind.plural == resource && row.kind.group == group && row.kind.version == version
        };
        self.rows.iter().find(named)
    }
}
