//! `deployments/NAME/scale` and `replicasets/NAME/scale`: the number of replicas, as an object of its own.

use bytes::Bytes;
use manifests::json::Document;
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use manifests::k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use manifests::k8s_openapi::api::core::v1::ReplicationController;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use manifests::selector::Selector;
use manifests::status::ApiError;
use serde_json::Value;

use super::patch::patch_type;
use super::update::{check_name, decide};
use super::{Call, Reply};
use crate::error::Error;
use crate::ownership::Account;
use crate::patch;
use crate::registry::{AnyObject, Part};
use crate::request::content;
use crate::request::params::{WriteParams, resource_version};
use crate::server::ApiServer;
use crate::write::decode::check_type;
use crate::write::{Current, metadata};

impl ApiServer {
    pub(crate) async fn get_scale(&self, call: &Call) -> Result<Reply, Error> {
        self.refresh().await?;
        let object = call.row.cache.get(&call.key()).ok_or_else(|| call.row.not_found(&call.path.name))?;
        Ok(Reply::ok(self.scale_json(call, &object.json())?))
    }

    /// The answer for an object, from its JSON.
    fn scale_json(&self, call: &Call, json: &[u8]) -> Result<Bytes, Error> {
        let key = call.key();
        let object =
            call.row.hooks.read(json).map_err(|source| Error::Stored { key: key.clone(), source })?;
        let scale = scale_of(&*object).ok_or_else(ApiError::unknown_path)?;
        manifests::encode::to_vec(&scale).map(Bytes::from).map_err(|source| Error::Encode { key, source })
    }

    pub(crate) async fn update_scale(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "UpdateOptions")?;
        let document = content::document(&call.headers, &body, ("autoscaling/v1", "Scale"))?;
        self.write_scale(call, &write, |_| Ok(document.clone())).await
    }

    pub(crate) async fn patch_scale(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        if content::media_type(&call.headers) == super::apply::MEDIA_TYPE {
            return self.apply_scale(call, body).await;
        }
        let kind = patch_type(call)?;
        let write = WriteParams::parse(&call.params, "PatchOptions")?;
        let type_name = manifests::strategic::type_name("autoscaling", "v1", "Scale");
        self.write_scale(call, &write, |scale| {
            let value: Value = manifests::encode::to_value(scale)
                .map_err(|source| Error::Encode { key: call.key(), source })?;
            let value = patch::apply(kind, &value, &body, &type_name).map_err(ApiError::from)?;
            Ok(Document { value, duplicates: Vec::new() })
        })
        .await
    }

    /// Applies the replicas: a configuration of the object that the Scale is a view of.
    async fn apply_scale(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse_apply(&call.params)?;
        let mut value = super::apply::configuration(&body)?;
        check_type(&mut value, "autoscaling/v1", "Scale")?;
        let document = Document { value, duplicates: Vec::new() };
        let (scale, _) = manifests::decode::decode_document::<Scale>(&document, write.field_validation)
            .map_err(|error| ApiError::bad_request(error.for_kind("autoscaling/v1", "Scale")))?;
        let row = &call.row;
        let replicas = scale.spec.and_then(|spec| spec.replicas);
        let config = serde_json::json!({
            "apiVersion": row.kind.api_version(), "kind": row.kind.kind,
            "metadata": {"name": call.path.name, "namespace": call.path.namespace},
            "spec": replicas.map(|replicas| serde_json::json!({"replicas": replicas})).unwrap_or_default(),
        });
        let written = self.apply_to(call, Part::Main, &write, &config, false).await?;
        Ok(Reply::ok(self.scale_json(call, &written.json)?))
    }

    /// Writes the replicas of the Scale that `wanted` makes of the current one.
    async fn write_scale(
        &self,
        call: &Call,
        write: &WriteParams,
        wanted: impl Fn(&Scale) -> Result<Document, Error> + Send + Sync,
    ) -> Result<Reply, Error> {
        let row = &call.row;
        let name = &call.path.name;
        let writer = call.writer(&write.manager);
        let written = self
            .write(row, &call.key(), write.dry_run, |current| {
                let Some(old) = &current.object else { return Err(row.not_found(name).into()) };
                let scale = current_scale(&**old, current).ok_or_else(ApiError::unknown_path)?;
                let mut document = wanted(&scale)?;
                check_type(&mut document.value, "autoscaling/v1", "Scale")?;
                let (mut scale, _) =
                    manifests::decode::decode_document::<Scale>(&document, write.field_validation)
                        .map_err(|error| ApiError::bad_request(error.for_kind("autoscaling/v1", "Scale")))?;
                check_name(scale.metadata.name.as_deref(), name)?;
                metadata::match_namespace(&mut scale.metadata, true, &call.path.namespace)?;
                let errors = manifests::validate::scale(&scale);
                if !errors.is_empty() {
                    return Err(ApiError::invalid("Scale", "autoscaling", name, &errors).into());
                }
                let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                let mut new = old.boxed();
                // The version of the Scale is the version of the object that it is a view of.
                resource_version(scale.metadata.resource_version.as_deref().unwrap_or_default())?;
                new.meta_mut().resource_version = scale.metadata.resource_version;
                if scale.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty()) {
                    new.meta_mut().uid = scale.metadata.uid;
                }
                set_replicas(&mut *new, replicas);
                decide(
                    row,
                    Part::Main,
                    current,
                    new,
                    &self.env_of(&call.identity, &self.policy()),
                    Account::Of(&writer),
                )
            })
            .await?;
        Ok(Reply::ok(self.scale_json(call, &written.json)?))
    }
}

fn current_scale(object: &dyn AnyObject, current: &Current) -> Option<Scale> {
    let mut scale = scale_of(object)?;
    scale.metadata.resource_version = Some(current.revision.to_string());
    Some(scale)
}

/// The Scale that an object has.
fn scale_of(object: &dyn AnyObject) -> Option<Scale> {
    let any = object.as_any();
    let owned;
    let (replicas, have, selector) = if let Some(deployment) = any.downcast_ref::<Deployment>() {
        let spec = &deployment.spec;
        (spec.replicas, deployment.status.as_ref().and_then(|status| status.replicas), &spec.selector)
    } else if let Some(set) = any.downcast_ref::<StatefulSet>() {
        (set.spec.replicas, set.status.as_ref().map(|status| status.replicas), &set.spec.selector)
    } else if let Some(controller) = any.downcast_ref::<ReplicationController>() {
        let spec = controller.spec.clone().unwrap_or_default();
        owned = LabelSelector { match_labels: spec.selector, match_expressions: None };
        (spec.replicas, controller.status.as_ref().map(|status| status.replicas), &owned)
    } else {
        let set = any.downcast_ref::<ReplicaSet>()?;
        let spec = &set.spec;
        (spec.replicas, set.status.as_ref().map(|status| status.replicas), &spec.selector)
    };
    let meta = object.meta();
    Some(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(replicas.unwrap_or(1)) }),
        status: Some(ScaleStatus {
            replicas: have.unwrap_or(0),
            selector: Selector::from_label_selector(Some(selector)).ok().map(|selector| selector.to_string()),
        }),
    })
}

fn set_replicas(object: &mut dyn AnyObject, replicas: i32) {
    let any = object.as_any_mut();
    if let Some(deployment) = any.downcast_mut::<Deployment>() {
        deployment.spec.replicas = Some(replicas);
    } else if let Some(set) = any.downcast_mut::<ReplicaSet>() {
        set.spec.replicas = Some(replicas);
    } else if let Some(set) = any.downcast_mut::<StatefulSet>() {
        set.spec.replicas = Some(replicas);
    } else if let Some(controller) = any.downcast_mut::<ReplicationController>() {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }
}
