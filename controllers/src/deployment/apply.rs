//! Carries a plan out. Whatever is not as observed fails, and the key comes back.

use client::{Client, Error, EventRecorder, Object};
use manifests::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use manifests::k8s_openapi::jiff::Timestamp;

use super::annotations::REVISION;
use super::decide::Action;
use super::status::{self, CREATE_ERROR, Conditions, PROGRESSING};
use crate::ownership::{adopt, release};

pub(super) struct Hands<'a> {
    pub(super) client: &'a Client,
    pub(super) events: &'a EventRecorder,
}

impl Hands<'_> {
    /// Carries the actions out and then writes the status if it differs.
    pub(super) async fn apply(
        &self,
        deployment: &Deployment,
        actions: &[Action],
        status: DeploymentStatus,
    ) -> Result<(), Error> {
        let mut newest = deployment.clone();
        let sets = self.client.namespaced::<ReplicaSet>(deployment.namespace());
        for action in actions {
            match action {
                Action::Adopt(set) => adopt::<ReplicaSet, _>(self.client, deployment, set).await?,
                Action::Release(set) => release::<ReplicaSet>(self.client, deployment.uid(), set).await?,
                Action::Create(set) => self.create(&newest, set).await?,
                Action::Update { replica_set, event } => {
                    sets.replace(replica_set).await?;
                    if let Some(message) = event {
                        self.events.normal(deployment, "ScalingReplicaSet", message.as_str());
                    }
                }
                Action::Delete(set) => sets.delete_opt(&set.key.name, &set.delete_params()).await?,
                Action::SetRevision(revision) => {
                    let annotations = newest.metadata.annotations.get_or_insert_default();
                    annotations.insert(REVISION.to_owned(), revision.to_string());
                    newest = self.client.namespaced(deployment.namespace()).replace(&newest).await?;
                }
            }
        }
        self.write_status(newest, status).await
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let sets = self.client.namespaced::<ReplicaSet>(deployment.namespace());
        let error = match sets.create(set).await {
            Ok(created) => {
                let replicas = created.spec.replicas.unwrap_or(0);
                if replicas > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {replicas}", created.name());
                    self.events.normal(deployment, "ScalingReplicaSet", message);
                }
                return Ok(());
            }
            // The cache will show it, as ours or as another's: nothing is known that a new look would not show.
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => return Err(error),
            Err(error) => error,
        };
        let message = format!("Failed to create new replica set {:?}: {error}", set.name());
        self.events.warning(deployment, CREATE_ERROR, message.as_str());
        if status::has_deadline(deployment) {
            let mut failed = deployment.status.clone().unwrap_or_default();
            let mut conditions = Conditions::of(deployment, Timestamp::now());
            conditions.set(PROGRESSING, "False", CREATE_ERROR, message);
            failed.conditions = Some(conditions.into_list());
            self.write_status(deployment.clone(), failed).await?;
        }
        Err(error)
    }

    async fn write_status(&self, mut deployment: Deployment, status: DeploymentStatus) -> Result<(), Error> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        deployment.status = Some(status);
        let api = self.client.namespaced::<Deployment>(deployment.namespace());
        match api.replace_status(&deployment).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
