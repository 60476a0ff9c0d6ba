//! Carries a plan out.

use client::{Api, Client, DeleteParams, Error, ListParams, Propagation};
use manifests::k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::Timestamp;

use super::decide::{Action, FINALIZER, Plan};

pub(super) async fn apply(client: &Client, namespace: &Namespace, plan: Plan) -> Result<(), Error> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let api = client.all::<Namespace>();
    for action in plan.0 {
        match action {
            Action::DeleteAll(resource) => {
                let params = DeleteParams::default().propagation(Propagation::Background);
                Api::metadata(client.clone(), resource, Some(name))
                    .delete_collection(&params, &ListParams::default())
                    .await?;
            }
            Action::SetConditions(conditions) => {
                let mut namespace = namespace.clone();
                let have = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
                for condition in conditions {
                    set(have, condition);
                }
                api.replace_status(&namespace).await?;
            }
            Action::Finalize => {
                let mut namespace = namespace.clone();
                namespace
                    .spec
                    .get_or_insert_default()
                    .finalizers
                    .get_or_insert_default()
                    .retain(|name| name != FINALIZER);
                let result =
                    api.replace_subresource::<_, serde_json::Value>(name, "finalize", &namespace).await;
                match result {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// A condition's time is that of its last change.
fn set(have: &mut Vec<NamespaceCondition>, mut condition: NamespaceCondition) {
    let old = have.iter().position(|old| old.type_ == condition.type_);
    let unchanged = old.map(|index| &have[index]).filter(|old| old.status == condition.status);
    condition.last_transition_time = match unchanged {
        Some(old) => old.last_transition_time.clone(),
        None => Some(Time(Timestamp::now())),
    };
    match old {
        Some(index) => have[index] = condition,
        None => have.push(condition),
    }
}
