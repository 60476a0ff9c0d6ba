//! Keeping the pod in the API that stands for one that comes from elsewhere.

use client::ErrorChain;
use jiff::{SignedDuration, Timestamp};
use manifests::k8s_openapi::api::core::v1::Pod;

use super::super::apply::delete_mirror;
use super::Worker;
use crate::names::{self, is_static};
use crate::sources::mirror::{self, MirrorAction};

/// What is under way about the mirror pod.
#[derive(Debug, Default)]
pub(super) struct MirrorState {
    pub(super) busy: bool,
    /// How often in a row it failed, and until when to wait.
    failures: u32,
    pub(super) not_before: Option<Timestamp>,
}

impl Worker {
    /// Keeps the pod in the API that stands for this one.
    pub(super) fn reconcile_mirror(&mut self, now: Timestamp) {
        let Some(client) = self.context.client.clone() else { return };
        let waiting = self.mirror.not_before.is_some_and(|at| now < at);
        if !is_static(&self.facts.pod) || self.stop.is_some() || self.mirror.busy || waiting {
            return;
        }
        let node = self.node.borrow_and_update().clone();
        // The owner has to be there first, or the mirror would be collected as an orphan.
        let Some(node) = node else { return };
        let mirror = self.target.borrow().mirror.clone();
        let context = self.context.clone();
        match mirror::decide(&self.facts.pod, mirror.as_deref(), Some(&node)) {
            MirrorAction::Keep => {}
            MirrorAction::Delete { .. } => {
                self.mirror.busy = true;
                self.operations.begin_mirror(Box::pin(async move {
                    match mirror {
                        Some(mirror) => delete_mirror(&context, &mirror).await.is_ok(),
                        None => true,
                    }
                }));
            }
            MirrorAction::Create(mirror) => {
                self.mirror.busy = true;
                self.operations.begin_mirror(Box::pin(async move {
                    let api = client.namespaced::<Pod>(names::namespace(&mirror));
                    match api.create(&mirror).await {
                        Ok(_) => true,
                        Err(error) if error.is_already_exists() => true,
                        Err(error) => {
                            let pod = names::pod_id(&mirror);
                            tracing::warn!(%pod, error = %ErrorChain(&error), "creating a mirror pod");
                            false
                        }
                    }
                }));
            }
        }
    }

    pub(super) fn mirror_done(&mut self, worked: bool) {
        self.mirror.busy = false;
        self.mirror.failures = if worked { 0 } else { self.mirror.failures.saturating_add(1) };
        // The watch tells what came of it; until then, and after failures, there is nothing to do.
        let pause = 1_i64.checked_shl(self.mirror.failures.min(6)).unwrap_or(64);
        self.mirror.not_before = Timestamp::now().checked_add(SignedDuration::from_secs(pause)).ok();
    }
}
