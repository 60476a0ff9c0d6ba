//! VolumeBinding: a pod goes where its volumes are, or can be.
//!
//! Claims that are bound bind the pod to the places of their volumes. Those whose class waits for a first consumer are
//! decided together with the node: a free volume there, or one that is made there.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use client::{Object as _, ObjectKey};
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use manifests::k8s_openapi::api::storage::v1::StorageClass;
use manifests::volumes::{
    LOCAL_PATH, LOCAL_PATH_PROVISIONER, SELECTED_NODE, annotation, claim_class, claims_of, is_bound, is_for,
    is_there, smallest, volume_name, waits_for_consumer,
};

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo};

const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_FREE: &str = "node(s) didn't find available persistent volumes to bind";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// Volumes of such a class are made by people.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Claims, volumes and classes of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By namespace and name.
    pub claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    /// By name.
    pub volumes: HashMap<String, Arc<PersistentVolume>>,
    /// By name.
    pub classes: HashMap<String, Arc<StorageClass>>,
}

/// What a pod's claims ask of its node.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// No node will do, in upstream's words.
    pub problem: Option<String>,
    /// Volumes that it has.
    bound: Vec<Arc<PersistentVolume>>,
    /// It has one that is gone.
    lost: bool,
    /// Claims that wait for a node, with their classes.
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
    /// Volumes that are free, if any are needed.
    free: Vec<Arc<PersistentVolume>>,
}

/// How a claim gets its volume, once the node is known.
#[derive(Debug, Clone)]
pub enum Decision {
    /// By this volume.
    Take(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// By one that is made on the node.
    Make(Arc<PersistentVolumeClaim>),
}

impl Storage {
    /// Reads a pod's claims.
    pub fn of(pod: &Pod, catalog: &Catalog) -> Self {
        let mut storage = Self::default();
        for used in claims_of(pod) {
            let key = ObjectKey::new(pod.namespace(), used.claim.clone());
            if let Err(problem) = storage.add(pod, used.ephemeral, &key, catalog) {
                return Self { problem: Some(problem), ..Self::default() };
            }
        }
        if !storage.waiting.is_empty() {
            let free =
                |volume: &PersistentVolume| volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none());
            storage.free = catalog.volumes.values().filter(|volume| free(volume)).cloned().collect();
        }
        storage
    }

    fn add(&mut self, pod: &Pod, ephemeral: bool, key: &ObjectKey, catalog: &Catalog) -> Result<(), String> {
        let name = quote(&key.name);
        let Some(claim) = catalog.claims.get(key) else {
            return Err(match ephemeral {
                true => format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name}"
                ),
                false => format!("persistentvolumeclaim {name} not found"),
            });
        };
        if ephemeral && !is_for(claim, pod) {
            return Err(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key()));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name} is being deleted"));
        }
        if claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost")) {
            let volume = quote(volume_name(claim).unwrap_or_default());
            return Err(format!(
                "persistentvolumeclaim {name} bound to non-existent persistentvolume {volume}"
            ));
        }
        if is_bound(claim) {
            match volume_name(claim).and_then(|name| catalog.volumes.get(name)) {
                Some(volume) => self.bound.push(volume.clone()),
                None => self.lost = true,
            }
            return Ok(());
        }
        let class = claim_class(claim).and_then(|class| catalog.classes.get(class));
        match class.filter(|class| waits_for_consumer(class) && volume_name(claim).is_none()) {
            Some(class) => self.waiting.push((claim.clone(), class.clone())),
            None => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
        }
        Ok(())
    }

    /// How each waiting claim would get its volume on a node; None if one would not.
    pub fn decide(&self, node: &Node) -> Option<Vec<Decision>> {
        let mut free: Vec<Arc<PersistentVolume>> =
            self.free.iter().filter(|volume| is_there(volume, node)).cloned().collect();
        let mut decisions = Vec::new();
        for (claim, class) in &self.waiting {
            let place = annotation(&claim.metadata, SELECTED_NODE);
            if place.is_none()
                && let Some(volume) = smallest(&free, claim).cloned()
            {
                free.retain(|other| other.name() != volume.name());
                decisions.push(Decision::Take(claim.clone(), volume));
            } else if place.is_none_or(|place| place == node.name()) && can_be_made(class, node) {
                decisions.push(Decision::Make(claim.clone()));
            } else {
                return None;
            }
        }
        Some(decisions)
    }
}

/// Whether volumes of a class can be made on a node.
fn can_be_made(class: &StorageClass, node: &Node) -> bool {
    if class.provisioner == LOCAL_PATH_PROVISIONER {
        return annotation(&node.metadata, LOCAL_PATH).is_some();
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let allowed = terms.is_empty()
        || terms.iter().any(|term| {
            let met = |key: &str, values: &[String]| label(key).is_some_and(|value| values.contains(value));
            term.match_label_expressions.iter().flatten().all(|wanted| met(&wanted.key, &wanted.values))
        });
    class.provisioner != NO_PROVISIONER && allowed
}

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo) -> Option<Refusal> {
    let storage = &request.storage;
    if let Some(problem) = &storage.problem {
        return Some(Refusal::because(Plugin::VolumeBinding, problem.clone(), false));
    }
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    if !storage.bound.iter().all(|volume| is_there(volume, &node.node)) {
        reasons.push(ELSEWHERE.into());
    }
    if storage.decide(&node.node).is_none() {
        reasons.push(NONE_FREE.into());
    }
    if storage.lost {
        reasons.push(NO_VOLUME.into());
    }
    (!reasons.is_empty()).then_some(Refusal { plugin: Plugin::VolumeBinding, reasons, resolvable: false })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use testkit::{node, pod};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// Claims of each kind, volumes on `here` and `there`.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        let mut claim = |name: &str, class: &str, volume: &str, annotations: Value| {
            let spec = json!({
                "accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}},
            });
            let meta = json!({"name": name, "namespace": "default", "uid": name, "annotations": annotations});
            let key = ObjectKey::new("default", name);
            catalog.claims.insert(key, read(json!({"metadata": meta, "spec": spec})));
        };
        let done = json!({"pv.kubernetes.io/bind-completed": "yes"});
        claim("bound", "", "on-here", done.clone());
        claim("lost", "", "gone", done);
        claim("unbound", "", "", json!({}));
        claim("static", "static", "", json!({}));
        claim("static2", "static", "", json!({}));
        claim("made", "local-path", "", json!({}));
        claim("chosen", "local-path", "", json!({"volume.kubernetes.io/selected-node": "here"}));
        for (name, place, class) in [("on-here", "here", ""), ("free", "there", "static")] {
            let term =
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [place]}]});
            let mut spec = json!({
                "accessModes": ["ReadWriteOnce"], "storageClassName": class, "capacity": {"storage": "1Gi"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            });
            if class.is_empty() {
                spec["claimRef"] = json!({"name": "bound", "namespace": "default"});
            }
            let volume = read(json!({"metadata": {"name": name}, "spec": spec}));
            catalog.volumes.insert(name.to_owned(), volume);
        }
        for (name, provisioner) in [("static", NO_PROVISIONER), ("local-path", LOCAL_PATH_PROVISIONER)] {
            let class = json!({
                "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
            });
            catalog.classes.insert(name.to_owned(), read(class));
        }
        catalog
    }

    #[track_caller]
    fn check(claims: &[&str], expected: [&str; 2]) {
        let pod = pod("p").with(|pod| {
            let volumes =
                claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
            let volumes = serde_json::from_value(volumes.collect()).unwrap();
            pod.spec.as_mut().unwrap().volumes = Some(volumes);
        });
        let pod = pod.build();
        for (place, expected) in ["here", "there"].into_iter().zip(expected) {
            let mut built = node(place).build();
            built.metadata.annotations = Some([(LOCAL_PATH.to_owned(), "/data".to_owned())].into());
            let snapshot = super::super::testing::snapshot(built, &[]);
            let (facts, info) = snapshot.nodes().next().unwrap();
            let request = Request { storage: Storage::of(&pod, &catalog()), ..Request::of(&pod) };
            let found = filter(&request, facts, info).map(|refusal| refusal.reasons.join("; "));
            assert_eq!(found.unwrap_or_default(), expected, "{place}");
        }
    }

    #[test]
    fn claims_lead_to_nodes() {
        check(&[], ["", ""]);
        check(&["bound"], ["", ELSEWHERE]);
        check(&["lost"], [NO_VOLUME, NO_VOLUME]);
        check(&["static"], [NONE_FREE, ""]);
        check(&["static", "static2"], [NONE_FREE, NONE_FREE]);
        check(&["made"], ["", ""]);
        check(&["chosen"], ["", NONE_FREE]);
        check(&["bound", "static"], [NONE_FREE, ELSEWHERE]);
        let unbound = "pod has unbound immediate PersistentVolumeClaims";
        check(&["unbound"], [unbound, unbound]);
        let none = "persistentvolumeclaim \"none\" not found";
        check(&["none"], [none, none]);
    }
}
