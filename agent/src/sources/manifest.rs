//! Reading manifests that are not in the API: their pods, with everything that an API server would have added.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use jiff::Timestamp;
use manifests::decode::FieldValidation;
use manifests::k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use manifests::yaml::{self, Document};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Source;
use crate::names::{annotation, full_name};

/// Where a manifest was found.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The kind of source.
    pub source: Source,
    /// File or URL, for messages and for the uid.
    pub place: &'a str,
    /// This node.
    pub node: &'a str,
}

/// A manifest that cannot be used; the last one that could stays in effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML: with line and column.
    #[error(transparent)]
    Read(#[from] yaml::Error),
    /// Unknown fields, wrong types, or values that cannot be: with line and column of each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<yaml::Error>),
    /// The same pod twice.
    #[error("{place}: pod {name} is defined twice")]
    Twice {
        /// File or URL.
        place: String,
        /// `name_namespace`.
        name: String,
    },
}

/// Which object a document is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectId {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, whether or not the kind has any: what the file says, or `default`.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectId {
    /// Of a document that has passed [`read`].
    pub fn of(document: &Document) -> Self {
        let meta = &document.value["metadata"];
        let text = |field: &str| meta[field].as_str().filter(|text| !text.is_empty());
        Self {
            api_version: document.api_version().to_owned(),
            kind: document.kind().to_owned(),
            namespace: text("namespace").unwrap_or("default").to_owned(),
            name: text("name").unwrap_or_default().to_owned(),
        }
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What a manifest defines.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// Objects of other kinds, which only a control plane can do something with.
    pub others: Vec<Arc<Document>>,
}

/// Reads all pods of a manifest.
pub fn read(origin: Origin<'_>, bytes: &[u8], seen: Timestamp) -> Result<Manifest, ManifestError> {
    let mut manifest = Manifest::default();
    for document in yaml::read(origin.place, bytes)?.into_iter().flat_map(Document::into_objects) {
        match (document.api_version(), document.kind()) {
            ("v1", "Pod") => {
                let pod = pod(origin, &document, seen)?;
                let name = full_name(&pod);
                if manifest.pods.iter().any(|other| full_name(other) == name) {
                    return Err(ManifestError::Twice { place: origin.place.to_owned(), name });
                }
                manifest.pods.push(Arc::new(pod));
            }
            ("", _) => return Err(document.error("apiVersion", "apiVersion is missing").into()),
            (_, "") => return Err(document.error("kind", "kind is missing").into()),
            (_, kind) => {
                if document.value["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
                    return Err(document.error("metadata.name", "metadata.name: Required value").into());
                }
                let id = ObjectId::of(&document);
                if manifest.others.iter().any(|other| ObjectId::of(other) == id) {
                    let name = format!("{kind} {}", id.name);
                    return Err(document.error("metadata.name", format!("{name} is defined twice")).into());
                }
                manifest.others.push(Arc::new(document));
            }
        }
    }
    Ok(manifest)
}

fn pod(origin: Origin<'_>, document: &Document, seen: Timestamp) -> Result<Pod, ManifestError> {
    let (mut pod, _) = document.decode::<Pod>(FieldValidation::Strict).map_err(ManifestError::Invalid)?;
    // The hash is of what the file says: a newer coracle with other defaults must not restart anything.
    let hash = hash(origin, document);
    let meta = &mut pod.metadata;
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        return Err(document.error("metadata.name", "metadata.name: Required value").into());
    }
    meta.name = meta.name.as_ref().map(|name| format!("{name}-{}", origin.node.to_lowercase()));
    meta.namespace =
        meta.namespace.take().filter(|name| !name.is_empty()).or_else(|| Some("default".to_owned()));
    meta.uid = Some(meta.uid.take().filter(|uid| !uid.is_empty()).unwrap_or_else(|| hash.clone()));
    meta.creation_timestamp = None;
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(annotation::SOURCE.to_owned(), origin.source.as_str().to_owned());
    annotations.insert(annotation::HASH.to_owned(), hash);
    annotations.insert(annotation::SEEN.to_owned(), manifests::time::rfc3339(seen));
    // A pod from here is never a mirror, whatever the file says.
    annotations.remove(annotation::MIRROR);
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
    manifests::default::pod(&mut pod);
    let errors = manifests::validate::pod(&pod);
    if !errors.is_empty() {
        return Err(ManifestError::Invalid(document.locate(&errors)));
    }

    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(origin.node.to_owned());
        // Nobody can evict it: nobody could bring it back.
        let tolerations = spec.tolerations.get_or_insert_default();
        tolerations.push(Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            ..Toleration::default()
        });
    }
    Ok(pod)
}

/// A stable uid for what one file on one node says. Keys are sorted, so formatting does not count.
fn hash(origin: Origin<'_>, document: &Document) -> String {
    let mut hasher = Sha256::new();
    hasher.update(document.value.to_string());
    hasher.update(match origin.source {
        Source::File => format!("\0host:{} file:{}", origin.node, origin.place),
        Source::Http | Source::Api => format!("\0url:{}", origin.place),
    });
    let digest = hasher.finalize();
    digest.iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Keeps the very values of what was read before where nothing changed, so that only changes are seen as such.
pub fn keep_same(mut new: Manifest, old: &Manifest) -> Manifest {
    for pod in &mut new.pods {
        if let Some(same) = old.pods.iter().find(|other| other.metadata.uid == pod.metadata.uid) {
            *pod = same.clone();
        }
    }
    for object in &mut new.others {
        if let Some(same) = old.others.iter().find(|other| other.value == object.value) {
            *object = same.clone();
        }
    }
    new
}

/// Objects of several manifests, the first definition of an object winning. Also says which were left out.
pub fn unique_objects<'a>(
    manifests: impl IntoIterator<Item = &'a Manifest>,
) -> (Vec<Arc<Document>>, Vec<String>) {
    let mut objects = BTreeMap::new();
    let mut left_out = Vec::new();
    for object in manifests.into_iter().flat_map(|manifest| &manifest.others) {
        match objects.entry(ObjectId::of(object)) {
            Entry::Vacant(free) => drop(free.insert(object.clone())),
            Entry::Occupied(taken) => left_out.push(format!("{} in {}", taken.key(), object.source())),
        }
    }
    (objects.into_values().collect(), left_out)
}

/// Pods of several manifests, the first definition of a pod winning. Also says which were left out.
pub fn unique<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> (Vec<Arc<Pod>>, Vec<String>) {
    let mut pods = BTreeMap::new();
    let mut left_out = Vec::new();
    for pod in manifests.into_iter().flat_map(|manifest| &manifest.pods) {
        let name = full_name(pod);
        match pods.entry(name) {
            Entry::Vacant(free) => drop(free.insert(pod.clone())),
            Entry::Occupied(taken) => left_out.push(taken.key().clone()),
        }
    }
    (pods.into_values().collect(), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{annotation as annotation_of, is_static, uid};

    const ORIGIN: Origin<'_> = Origin { source: Source::File, place: "/m/web.yaml", node: "Node-1" };

    fn check(text: &str) -> Result<Manifest, String> {
        read(ORIGIN, text.as_bytes(), Timestamp::UNIX_EPOCH).map_err(|error| error.to_string())
    }

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}\n";

    #[test]
    fn pods_are_completed() {
        let manifest = check(WEB).unwrap();
        let pod = &manifest.pods[0];
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node-1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("Node-1"));
        assert_eq!(pod.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"));
        assert_eq!(annotation_of(pod, annotation::SOURCE), Some("file"));
        assert_eq!(annotation_of(pod, annotation::HASH), Some(uid(pod)));
        assert_eq!(uid(pod).len(), 32);
        assert!(is_static(pod));
    }

    #[test]
    fn the_uid_is_that_of_the_content() {
        let uid_of = |text: &str| uid(&check(text).unwrap().pods[0]).to_owned();
        assert_eq!(uid_of(WEB), uid_of(&format!("# a comment\n{WEB}")));
        assert_ne!(uid_of(WEB), uid_of(&WEB.replace("image: i", "image: j")));
    }

    #[test]
    fn several_documents() {
        let text = format!(
            "{WEB}---\n---\n{}---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n",
            WEB.replace("web", "api")
        );
        let manifest = check(&text).unwrap();
        assert_eq!(manifest.pods.len(), 2);
        assert_eq!(
            manifest.others.iter().map(|other| ObjectId::of(other).to_string()).collect::<Vec<_>>(),
            ["Service default/s"]
        );
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: i}]}}\n";
        assert_eq!(check(list).unwrap().pods.len(), 1);
    }

    #[test]
    fn errors_name_the_place() {
        for (text, place) in [
            ("apiVersion: v1\nkind: Pod\nmetadata: [\n", "/m/web.yaml:"),
            (&WEB.replace("image: i", "imagee: i"), "/m/web.yaml:4:"),
            (&WEB.replace("name: web", "name: Web_"), "/m/web.yaml:3:"),
            (&format!("{WEB}---\n{WEB}"), "/m/web.yaml: pod web-node-1_default is defined twice"),
            ("kind: Pod\n", "/m/web.yaml:1:"),
            ("apiVersion: v1\nkind: Service\nmetadata:\n  labels: {}\n", "/m/web.yaml:"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.starts_with(place), "{error}");
        }
    }
}
