//! Every pod runs as a service account, and can read its token.
//!
//! Follows upstream's `ServiceAccount` plugin.

use manifests::k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection,
    Volume, VolumeMount, VolumeProjection,
};

/// The account of pods that name none. A controller makes it in every namespace.
pub(crate) const DEFAULT: &str = "default";
/// Pods that show what a node runs from its own files.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// How the names of volumes that are added begin.
const VOLUME: &str = "kube-api-access-";
/// Where clients in pods look for the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and seven seconds by which upstream tells these tokens from those that somebody has asked for.
const TOKEN_SECONDS: i64 = 3607;
/// The authority of the API server. A controller keeps it in every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

/// The name of the account that a pod is to run as, unless it is a mirror pod.
pub(crate) fn account_name(pod: &Pod) -> Option<String> {
    if is_mirror(pod) {
        return None;
    }
    let name = named(pod.spec.as_ref());
    Some(if name.is_empty() { DEFAULT.to_owned() } else { name })
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

fn named(spec: Option<&PodSpec>) -> String {
    spec.and_then(|spec| spec.service_account_name.clone().or(spec.service_account.clone()))
        .unwrap_or_default()
}

/// Sets the account and what comes with it. `find` looks up an account in the pod's namespace, `generate` makes a name of a
/// beginning. The error says why the pod is refused.
pub(crate) fn admit(
    pod: &mut Pod,
    namespace: &str,
    find: impl FnOnce(&str) -> Option<ServiceAccount>,
    generate: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    let Some(name) = account_name(pod) else { return admit_mirror(pod) };
    let spec = pod.spec.get_or_insert_default();
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name.clone());
    let Some(account) = find(&name) else {
        return Err(format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        ));
    };
    let mounts = spec.automount_service_account_token.or(account.automount_service_account_token);
    if mounts.unwrap_or(true) {
        mount_token(spec, generate);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.filter(|secrets| !secrets.is_empty());
    }
    Ok(())
}

/// What a node shows of its own pods must not be a way to what the API holds.
fn admit_mirror(pod: &Pod) -> Result<(), String> {
    if !named(pod.spec.as_ref()).is_empty() {
        return Err("a mirror pod may not reference service accounts".to_owned());
    }
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let projections = volumes()
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten());
    if projections.into_iter().any(|projection| projection.service_account_token.is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".to_owned());
    }
    Ok(())
}

/// Mounts the token where clients look for it, in every container that has nothing there.
fn mount_token(spec: &mut PodSpec, generate: impl FnOnce(&str) -> String) {
    let volumes = spec.volumes.iter().flatten();
    let own = volumes.map(|volume| &volume.name).find(|name| name.starts_with(VOLUME)).cloned();
    let add_volume = own.is_none();
    let name = own.unwrap_or_else(|| generate(VOLUME));
    let mut used = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        used |= mount(container, &name);
    }
    if used && add_volume {
        spec.volumes.get_or_insert_default().push(Volume {
            name,
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(0o644),
                sources: Some(sources()),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
}

/// Whether the container has got the mount.
fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        read_only: Some(true),
        mount_path: MOUNT_PATH.to_owned(),
        ..VolumeMount::default()
    });
    true
}

fn sources() -> Vec<VolumeProjection> {
    let token = ServiceAccountTokenProjection {
        path: "token".to_owned(),
        expiration_seconds: Some(TOKEN_SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    let key = KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), ..KeyToPath::default() };
    let authority = ConfigMapProjection {
        name: ROOT_CA.to_owned(),
        items: Some(vec![key]),
        ..ConfigMapProjection::default()
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.namespace".to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn admitted(spec: Value, account: Option<Value>) -> Result<Value, String> {
        let mut pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let account = account.map(|account| serde_json::from_value(account).unwrap());
        admit(&mut pod, "n", |_| account, |base| format!("{base}x"))?;
        Ok(manifests::encode::to_value(&pod).unwrap()["spec"].take())
    }

    #[test]
    fn accounts() {
        let one = json!({"containers": [{"name": "c"}]});
        let spec = admitted(one.clone(), Some(json!({}))).unwrap();
        assert_eq!(
            (&spec["serviceAccountName"], &spec["serviceAccount"]),
            (&"default".into(), &"default".into())
        );
        let secrets = json!({"imagePullSecrets": [{"name": "s"}]});
        assert_eq!(
            admitted(one.clone(), Some(secrets.clone())).unwrap()["imagePullSecrets"],
            json!([{"name": "s"}])
        );
        let own = json!({"imagePullSecrets": [{"name": "own"}], "containers": []});
        assert_eq!(admitted(own, Some(secrets)).unwrap()["imagePullSecrets"], json!([{"name": "own"}]));
        let why = "error looking up service account n/default: serviceaccount \"default\" not found";
        assert_eq!(admitted(one, None), Err(why.to_owned()));
    }

    #[test]
    fn tokens() {
        let mounted = |spec: &Value| -> Vec<String> {
            let containers = ["initContainers", "containers"].map(|list| spec[list].as_array().cloned());
            containers
                .into_iter()
                .flatten()
                .flatten()
                .map(|container| container["volumeMounts"][0]["name"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let two = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
        let spec = admitted(two.clone(), Some(json!({}))).unwrap();
        assert_eq!(mounted(&spec), ["kube-api-access-x", "kube-api-access-x"]);
        let volume = json!([{"name": "kube-api-access-x", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]}}]);
        assert_eq!(spec["volumes"], volume);

        // The pod's word counts more than the account's.
        let off = json!({"automountServiceAccountToken": false});
        assert_eq!(admitted(two.clone(), Some(off.clone())).unwrap()["volumes"], Value::Null);
        let mut wants = two;
        wants["automountServiceAccountToken"] = true.into();
        assert_eq!(admitted(wants.clone(), Some(off)).unwrap()["volumes"], volume);
        wants["automountServiceAccountToken"] = false.into();
        assert_eq!(admitted(wants, Some(json!({}))).unwrap()["volumes"], Value::Null);

        // Who has something there keeps it; a volume that is there already is used.
        let taken = json!({"volumes": [{"name": "mine"}], "containers": [
            {"name": "c", "volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]},
        ]});
        assert_eq!(admitted(taken, Some(json!({}))).unwrap()["volumes"], json!([{"name": "mine"}]));
        let there = json!({"volumes": [{"name": "kube-api-access-old"}], "containers": [{"name": "c"}]});
        let spec = admitted(there, Some(json!({}))).unwrap();
        assert_eq!(mounted(&spec), ["kube-api-access-old"]);
        assert_eq!(spec["volumes"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn mirrors() {
        let check = |spec: Value, expected: &str| {
            let mut pod: Pod =
                serde_json::from_value(json!({"metadata": {"annotations": {MIRROR: "h"}}, "spec": spec}))
                    .unwrap();
            let before = pod.clone();
            let result = admit(&mut pod, "n", |_| None, str::to_owned);
            assert_eq!((result.err().unwrap_or_default(), pod), (expected.to_owned(), before));
        };
        check(json!({"containers": []}), "");
        check(
            json!({"serviceAccountName": "a", "containers": []}),
            "a mirror pod may not reference service accounts",
        );
        let token = json!({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
        check(
            json!({"volumes": [token], "containers": []}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        );
    }
}
