//! Claims and volumes, carried to where nothing is left to do.

use std::sync::Arc;

use client::Object as _;
use manifests::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use manifests::k8s_openapi::api::storage::v1::StorageClass;
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{claim, volume};

/// A cluster as the two decisions see it.
struct World {
    claim: Option<PersistentVolumeClaim>,
    volumes: Vec<PersistentVolume>,
    classes: Vec<StorageClass>,
    pods: Vec<Pod>,
    told: Vec<&'static str>,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn a_claim(class: Option<&str>) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    if let Some(class) = class {
        value["spec"]["storageClassName"] = json!(class);
    }
    read(value)
}

fn a_volume(name: &str, class: &str, more: &Value) -> PersistentVolume {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": class,
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    read(json!({
        "metadata": {"name": name, "uid": name, "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": spec, "status": {"phase": "Pending"},
    }))
}

fn a_class(name: &str, provisioner: &str, mode: &str, default: bool) -> StorageClass {
    read(json!({
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}},
        "provisioner": provisioner, "volumeBindingMode": mode, "reclaimPolicy": "Delete",
    }))
}

fn a_pod(node: &str, phase: &str) -> Pod {
    read(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "p"}, "status": {"phase": phase},
        "spec": {"nodeName": node, "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
    }))
}

impl World {
    fn new(claim: PersistentVolumeClaim, volumes: Vec<PersistentVolume>, classes: Vec<StorageClass>) -> Self {
        Self { claim: Some(claim), volumes, classes, pods: Vec::new(), told: Vec::new() }
    }

    /// Applies plans until there are none.
    fn settle(mut self) -> Self {
        for _ in 0..20 {
            if !self.step() {
                return self;
            }
        }
        panic!("it never comes to an end");
    }

    fn step(&mut self) -> bool {
        if let Some(claim) = self.claim.clone() {
            let node = json!({"metadata": {
                "name": "node", "labels": {"kubernetes.io/hostname": "host"}, "annotations": {"coracle/local-path": "/data"},
            }});
            let seen = claim::Observed {
                claim: Arc::new(claim),
                volumes: self.volumes.iter().cloned().map(Arc::new).collect(),
                classes: self.classes.iter().cloned().map(Arc::new).collect(),
                nodes: vec![Arc::new(read::<Node>(node))],
                pods: self.pods.iter().cloned().map(Arc::new).collect(),
            };
            let plan = claim::decide(&seen);
            self.told.extend(plan.event.map(|(_, reason, _)| reason));
            match plan.write {
                None => {}
                Some(claim::Write::Volume(volume)) => return self.put(volume),
                Some(claim::Write::NewVolume(mut volume)) => {
                    volume.metadata.uid = volume.metadata.name.clone();
                    self.volumes.push(volume);
                    return true;
                }
                Some(claim::Write::Claim(claim) | claim::Write::ClaimStatus(claim)) => {
                    let gone = claim.metadata.deletion_timestamp.is_some()
                        && claim.metadata.finalizers.iter().flatten().next().is_none();
                    self.claim = (!gone).then_some(claim);
                    return true;
                }
            }
        }
        for known in self.volumes.clone() {
            let plan = volume::decide(&known, self.claim.as_ref(), Timestamp::UNIX_EPOCH);
            self.told.extend(plan.event.map(|(_, reason, _)| reason));
            match plan.write {
                None => {}
                Some(volume::Write::Volume(volume) | volume::Write::Status(volume)) => {
                    return self.put(volume);
                }
                Some(volume::Write::Delete) => {
                    self.volumes.retain(|volume| volume.name() != known.name());
                    return true;
                }
            }
        }
        false
    }

    fn put(&mut self, volume: PersistentVolume) -> bool {
        let place = self.volumes.iter_mut().find(|known| known.name() == volume.name()).unwrap();
        *place = volume;
        true
    }

    /// `claim's phase, its volume; each volume's name and phase; what was told last`.
    fn summary(&self) -> String {
        let claim = self.claim.as_ref().map_or("gone".to_owned(), |claim| {
            let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            format!("{phase} {volume}").trim().to_owned()
        });
        let volumes = self.volumes.iter().map(|volume| {
            format!(
                "; {} {}",
                volume.name(),
                volume.status.clone().and_then(|status| status.phase).unwrap_or_default()
            )
        });
        format!(
            "{claim}{}{}",
            volumes.collect::<String>(),
            self.told.last().map_or(String::new(), |told| format!("; {told}"))
        )
    }
}

#[track_caller]
fn check(world: World, expected: &str) -> World {
    let world = world.settle();
    assert_eq!(world.summary(), expected);
    world
}

#[test]
fn claims_get_volumes() {
    let none = json!({});
    check(World::new(a_claim(Some("")), vec![], vec![]), "Pending; FailedBinding");
    check(World::new(a_claim(None), vec![a_volume("v", "", &none)], vec![]), "Bound v; v Bound");
    check(World::new(a_claim(Some("")), vec![a_volume("v", "", &none)], vec![]), "Bound v; v Bound");
    check(
        World::new(a_claim(Some("")), vec![a_volume("v", "other", &none)], vec![]),
        "Pending; v Available; FailedBinding",
    );
    check(World::new(a_claim(Some("x")), vec![], vec![]), "Pending; ProvisioningFailed");
    // Reserved by a user, whatever its class.
    let reserved = json!({"claimRef": {"name": "c", "namespace": "n"}});
    check(
        World::new(a_claim(Some("")), vec![a_volume("u", "", &none), a_volume("v", "", &reserved)], vec![]),
        "Bound v; u Available; v Bound",
    );
    // By name.
    let mut wants = a_claim(Some(""));
    wants.spec.as_mut().unwrap().volume_name = Some("v".to_owned());
    check(World::new(wants.clone(), vec![a_volume("v", "", &none)], vec![]), "Bound v; v Bound");
    check(
        World::new(wants.clone(), vec![a_volume("v", "other", &none)], vec![]),
        "Pending v; v Available; VolumeMismatch",
    );
    let taken = json!({"claimRef": {"name": "d", "namespace": "n"}});
    check(
        World::new(wants, vec![a_volume("v", "", &taken)], vec![]),
        "Pending v; v Available; FailedBinding",
    );
}

#[test]
fn classes_decide_when_and_by_whom() {
    let waits = |default| a_class("local-path", "coracle/local-path", "WaitForFirstConsumer", default);
    check(World::new(a_claim(None), vec![], vec![waits(true)]), "Pending; WaitForFirstConsumer");
    check(World::new(a_claim(None), vec![], vec![waits(false)]), "Pending; FailedBinding");
    let mut world = World::new(a_claim(None), vec![], vec![waits(true)]);
    world.pods = vec![a_pod("", "Pending")];
    check(world, "Pending; WaitForPodScheduled");
    let mut world = World::new(a_claim(None), vec![], vec![waits(true)]);
    world.pods = vec![a_pod("node", "Pending")];
    let world = check(world, "Bound pvc-u; pvc-u Bound; ProvisioningSucceeded");
    let spec = world.volumes[0].spec.as_ref().unwrap();
    assert_eq!(spec.host_path.as_ref().unwrap().path, "/data/pvc-u_n_c");
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    // One node: no choice, no need to wait.
    let immediate = a_class("now", "coracle/local-path", "Immediate", false);
    check(
        World::new(a_claim(Some("now")), vec![], vec![immediate]),
        "Bound pvc-u; pvc-u Bound; ProvisioningSucceeded",
    );
    let theirs = a_class("csi", "example.com/csi", "Immediate", false);
    let world =
        check(World::new(a_claim(Some("csi")), vec![], vec![theirs]), "Pending; ExternalProvisioning");
    let annotations = world.claim.unwrap().metadata.annotations.unwrap();
    assert_eq!(annotations["volume.kubernetes.io/storage-provisioner"], "example.com/csi");
}

#[test]
fn what_is_in_use_stays_and_what_was_used_is_released() {
    let bound = || World::new(a_claim(Some("")), vec![a_volume("v", "", &json!({}))], vec![]).settle();
    let deleted = |mut world: World| {
        let now = manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
        world.claim.as_mut().unwrap().metadata.deletion_timestamp = Some(now);
        world
    };
    let mut world = deleted(bound());
    world.pods = vec![a_pod("node", "Running")];
    let mut world = check(world, "Bound v; v Bound");
    world.pods = vec![a_pod("node", "Succeeded")];
    check(world, "gone; v Released");
    let policy = |policy: &str, made: bool| {
        let mut world = deleted(bound());
        let volume = &mut world.volumes[0];
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some(policy.to_owned());
        if made {
            let made = [("pv.kubernetes.io/provisioned-by".to_owned(), "coracle/local-path".to_owned())];
            volume.metadata.annotations.get_or_insert_default().extend(made);
        }
        world
    };
    check(policy("Delete", true), "gone; v Released");
    check(policy("Delete", false), "gone; v Failed; VolumeFailedDelete");
    check(policy("Recycle", false), "gone; v Failed; VolumeFailedRecycle");
    // A volume that vanishes takes the data with it.
    let mut world = bound();
    world.volumes.clear();
    check(world, "Lost v; ClaimLost");
}
