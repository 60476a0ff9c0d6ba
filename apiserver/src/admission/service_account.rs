//! Every pod runs as a service account.
//!
//! Follows upstream's `ServiceAccount` plugin, without token volumes.

use manifests::k8s_openapi::api::core::v1::{Pod, ServiceAccount};

/// The account of pods that name none. A controller makes it in every namespace, some time after the namespace; pods do
/// not wait for it, because nothing of it is needed yet.
const DEFAULT: &str = "default";
/// Pods that show what a node runs from its own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Sets the account. `find` looks up an account in the pod's namespace. The error says why the pod is refused.
pub(crate) fn admit(
    pod: &mut Pod,
    namespace: &str,
    find: impl FnOnce(&str) -> Option<ServiceAccount>,
) -> Result<(), String> {
    let mirror =
        pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
    let spec = pod.spec.get_or_insert_default();
    let named = spec.service_account_name.clone().or(spec.service_account.clone()).unwrap_or_default();
    if mirror {
        return if named.is_empty() {
            Ok(())
        } else {
            Err("a mirror pod may not reference service accounts".to_owned())
        };
    }
    let name = if named.is_empty() { DEFAULT.to_owned() } else { named };
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name.clone());
    let Some(account) = find(&name) else {
        return if name == DEFAULT {
            Ok(())
        } else {
            Err(format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            ))
        };
    };
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.filter(|secrets| !secrets.is_empty());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::core::v1::{LocalObjectReference, PodSpec};

    use super::*;

    fn admit_named(name: Option<&str>, account: Option<ServiceAccount>) -> Result<PodSpec, String> {
        let spec = PodSpec { service_account_name: name.map(str::to_owned), ..PodSpec::default() };
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        admit(&mut pod, "n", |_| account)?;
        Ok(pod.spec.unwrap())
    }

    #[test]
    fn accounts() {
        let secrets = vec![LocalObjectReference { name: "s".to_owned() }];
        let account =
            ServiceAccount { image_pull_secrets: Some(secrets.clone()), ..ServiceAccount::default() };
        let spec = admit_named(None, None).unwrap();
        assert_eq!(spec.service_account_name.as_deref(), Some("default"));
        assert_eq!(spec.service_account.as_deref(), Some("default"));
        assert_eq!(admit_named(Some("robot"), Some(account)).unwrap().image_pull_secrets, Some(secrets));
        assert_eq!(
            admit_named(Some("robot"), None),
            Err("error looking up service account n/robot: serviceaccount \"robot\" not found".to_owned())
        );
    }
}
