//! POST to `pods/NAME/binding`: the scheduler's decision.

use bytes::Bytes;
use manifests::k8s_openapi::api::core::v1::{Binding, Pod, PodCondition, PodStatus};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::status::ApiError;
use manifests::time::time;

use super::{Call, Reply};
use crate::error::Error;
use crate::registry::AnyObject;
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::Decision;
use crate::write::decode::check_type;

impl ApiServer {
    pub(crate) async fn bind(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let mut document = content::document(&call.headers, &body, ("v1", "Binding"))?;
        check_type(&mut document.value, "v1", "Binding")?;
        let (binding, _) = manifests::decode::decode_document::<Binding>(&document, write.field_validation)
            .map_err(|error| ApiError::bad_request(error.for_kind("v1", "Binding")))?;
        let name = &call.path.name;
        if binding.metadata.name.as_deref().is_some_and(|own| own != name) {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object").into());
        }
        let errors = manifests::validate::pod_binding(&binding);
        if !errors.is_empty() {
            return Err(ApiError::invalid("Binding", "", name, &errors).into());
        }
        self.write(&call.row, &call.key(), write.dry_run, |current| {
            let pod = current.object.as_ref().and_then(|object| object.as_any().downcast_ref::<Pod>());
            let Some(pod) = pod else { return Err(call.row.not_found(name).into()) };
            check_preconditions(&binding, pod, current.revision, name)?;
            let bound = assign(&binding, pod, self.now())
                .map_err(|why| ApiError::conflict("pods/binding", "", name, &why))?;
            Ok(Decision::Put(bound.boxed(), Default::default()))
        })
        .await?;
        let created = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
        Ok(Reply::Status(Box::new(created)))
    }
}

/// A binding with a uid or resourceVersion is meant for that very pod.
fn check_preconditions(binding: &Binding, pod: &Pod, revision: u64, name: &str) -> Result<(), ApiError> {
    let have = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(uid) = binding.metadata.uid.as_deref().filter(|uid| !uid.is_empty() && *uid != have) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}");
        return Err(ApiError::conflict("pods/binding", "", name, &why));
    }
    let have = revision.to_string();
    if let Some(version) =
        binding.metadata.resource_version.as_deref().filter(|v| !v.is_empty() && *v != have)
    {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {have}"
        );
        return Err(ApiError::conflict("pods/binding", "", name, &why));
    }
    Ok(())
}

/// The pod on its node. The error says why it cannot be.
fn assign(binding: &Binding, pod: &Pod, now: Timestamp) -> Result<Pod, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Err(format!("pod {name} is already assigned to node \"{node}\""));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name.clone_from(&binding.target.name);
    if let Some(annotations) = &binding.metadata.annotations {
        pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
    }
    if let Some(labels) = &binding.metadata.labels {
        let own = pod.metadata.labels.get_or_insert_default();
        for key in ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"] {
            if let Some(value) = labels.get(key) {
                own.insert(key.to_owned(), value.clone());
            }
        }
    }
    set_scheduled(pod.status.get_or_insert_default(), now);
    Ok(pod)
}

fn set_scheduled(status: &mut PodStatus, now: Timestamp) {
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(time(now)),
        ..PodCondition::default()
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|condition| condition.type_ == scheduled.type_) {
        Some(condition) if condition.status == scheduled.status => {}
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".to_owned());
        pod.spec.get_or_insert_default().node_name = (!node.is_empty()).then(|| node.to_owned());
        pod
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut binding = Binding::default();
        binding.target.name = Some("n1".to_owned());
        let bound = assign(&binding, &pod(""), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(bound.spec.as_ref().and_then(|spec| spec.node_name.as_deref()), Some("n1"));
        let conditions = bound.status.as_ref().and_then(|status| status.conditions.clone()).unwrap();
        assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("PodScheduled", "True"));
        let again = assign(&binding, &bound, Timestamp::UNIX_EPOCH);
        assert_eq!(again, Err("pod web is already assigned to node \"n1\"".to_owned()));
        let mut leaving = pod("");
        leaving.metadata.deletion_timestamp = Some(time(Timestamp::UNIX_EPOCH));
        assert!(
            assign(&binding, &leaving, Timestamp::UNIX_EPOCH)
                .is_err_and(|why| why.contains("is being deleted"))
        );
    }
}
