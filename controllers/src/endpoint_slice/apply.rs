//! Carries a plan out. Whatever was not as observed fails, and the key comes back.

use client::{Client, DeleteParams, Error, Next, ObjectKey};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;

use super::decide::Action;

pub(crate) async fn apply(client: &Client, key: ObjectKey, plan: Vec<Action>) -> Result<Next, Error> {
    let api = client.namespaced::<EndpointSlice>(&key.namespace);
    for action in plan {
        match action {
            Action::Create(slice) => drop(api.create(&slice).await?),
            Action::Update(slice) => drop(api.replace(&slice).await?),
            Action::Delete { name, uid } => api.delete_opt(&name, &DeleteParams::uid(uid)).await?,
        }
    }
    Ok(Next::Wait)
}
