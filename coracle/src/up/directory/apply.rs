//! Writing one object, and removing one.

use client::{ApiResource, Client};
use http::Method;
use manifests::strategic;
use manifests::yaml::{Document, Position};
use serde_json::{Value, json};

use agent::sources::manifest::ObjectId;

use crate::commands::resources::{self, Catalogue, Resource, query};
use crate::commands::session::request;
use crate::commands::three_way::{self, LAST_APPLIED, NotAnObject};

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("asking what is served")]
    Discovery(#[source] client::Error),
    #[error("no matches for kind {kind:?} in version {api_version:?}{}", hint(.served))]
    Kind { api_version: String, kind: String, served: Vec<String> },
    #[error(transparent)]
    Shape(#[from] NotAnObject),
    #[error(transparent)]
    Api(#[from] client::Error),
}

fn hint(served: &[String]) -> String {
    if served.is_empty() { String::new() } else { format!(": it is served as {}", served.join(", ")) }
}

impl WriteError {
    /// Whether trying again cannot help before the file changes.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Shape(_) => true,
            Self::Api(error) => {
                error.is_invalid() || error.status().is_some_and(|status| status.code == Some(400))
            }
            // A definition of the kind may be on its way.
            Self::Discovery(_) | Self::Kind { .. } => false,
        }
    }

    /// Where in the file the trouble is.
    pub(super) fn position(&self, document: &Document) -> Position {
        let field = match self {
            Self::Kind { .. } => Some("kind"),
            Self::Shape(_) => Some("metadata"),
            Self::Api(error) => {
                let causes = error
                    .status()
                    .and_then(|status| status.details.as_ref()?.causes.as_deref())
                    .unwrap_or_default();
                causes.iter().find_map(|cause| cause.field.as_deref())
            }
            Self::Discovery(_) => None,
        };
        field.map_or_else(|| document.start(), |field| document.position(field))
    }
}

/// What writing an object changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    Changed,
    None,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created from its manifest",
            Self::Changed => "changed with its manifest",
            Self::None => "is as its manifest says",
        })
    }
}

/// Writes objects through a client.
#[derive(Debug)]
pub(super) struct Writer {
    client: Client,
    catalogue: Catalogue,
}

impl Writer {
    pub(super) fn new(client: Client) -> Self {
        Self { client, catalogue: Catalogue::default() }
    }

    /// Brings an object to its document; says what that changed.
    pub(super) async fn apply(&mut self, id: &ObjectId, document: &Document) -> Result<Change, WriteError> {
        let resource = self.resource(id).await?;
        let path = resource.object(&id.namespace, &id.name);
        let desired = three_way::annotated(&document.value, resource.namespaced, &id.namespace)?;
        let options =
            query(&[("fieldManager", Some("coracle-manifests")), ("fieldValidation", Some("Strict"))]);
        let live = match self.json(Method::GET, &path, None).await {
            Ok(live) => live,
            Err(error) if error.is_not_found() => {
                let collection = resource.collection(Some(&id.namespace)) + &options;
                self.json(Method::POST, &collection, Some(("application/json", &desired))).await?;
                return Ok(Change::Created);
            }
            Err(error) => return Err(error.into()),
        };
        let last = live["metadata"]["annotations"][LAST_APPLIED].as_str();
        let last = last.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let type_name = strategic::type_name(&resource.group, &resource.version, &resource.kind);
        let patch = three_way::patch(&type_name, &last, &desired);
        // Kinds that only a definition describes know no strategic merge.
        let content_type = if manifests::kinds::by_kind(&id.api_version, &id.kind).is_some() {
            "application/strategic-merge-patch+json"
        } else {
            "application/merge-patch+json"
        };
        let answer = self.json(Method::PATCH, &(path + &options), Some((content_type, &patch))).await?;
        let same = answer["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
        Ok(if same { Change::None } else { Change::Changed })
    }

    /// Removes an object, and what it owns after it.
    pub(super) async fn delete(&mut self, id: &ObjectId) -> Result<(), WriteError> {
        let resource = match self.resource(id).await {
            Ok(resource) => resource,
            // With the definition of a kind its objects are gone.
            Err(WriteError::Kind { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let path = resource.object(&id.namespace, &id.name);
        let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        match self.json(Method::DELETE, &path, Some(("application/json", &body))).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What objects like this one are served as.
    pub(super) async fn served_as(&mut self, id: &ObjectId) -> Option<ApiResource> {
        let Resource { group, version, kind, plural, .. } = self.resource(id).await.ok()?;
        Some(ApiResource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
        })
    }

    async fn resource(&mut self, id: &ObjectId) -> Result<Resource, WriteError> {
        if self.catalogue.by_kind(&id.api_version, &id.kind).is_none() {
            self.catalogue = resources::ask(&self.client).await.map_err(WriteError::Discovery)?;
        }
        self.catalogue.by_kind(&id.api_version, &id.kind).cloned().ok_or_else(|| WriteError::Kind {
            api_version: id.api_version.clone(),
            kind: id.kind.clone(),
            served: self.catalogue.versions_of(&id.kind),
        })
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, client::Error> {
        self.client.json(request(method, path, body, "application/json")).await
    }
}
