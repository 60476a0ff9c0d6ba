//! Telling the server that a pod is gone.

use std::sync::Arc;

use client::{DeleteParams, ErrorChain};
use jiff::SignedDuration;
use manifests::k8s_openapi::api::core::v1::Pod;

use super::super::observe::Failure;
use super::{Outcome, failure};
use crate::context::Context;
use crate::names;

const RETRY: SignedDuration = SignedDuration::from_secs(1);

/// Deletes the object of a pod that has come to its end; with the uid, so that a successor of the same name is safe.
pub(in super::super) async fn confirm(context: Arc<Context>, pod: Option<Arc<Pod>>) -> Outcome {
    let result = match &pod {
        Some(pod) => delete(&context, pod).await,
        None => Ok(()),
    };
    Outcome::Confirmed(result)
}

/// Deletes a mirror pod at once: there is nothing that a grace period would be for.
pub(in super::super) async fn delete_mirror(context: &Context, mirror: &Pod) -> Result<(), Failure> {
    delete(context, mirror).await
}

async fn delete(context: &Context, pod: &Pod) -> Result<(), Failure> {
    let Some(client) = &context.client else { return Ok(()) };
    let api = client.namespaced::<Pod>(names::namespace(pod));
    let params = DeleteParams::uid(names::uid(pod)).grace(0);
    match api.delete(names::name(pod), &params).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => {
            let message = ErrorChain(&error).to_string();
            tracing::warn!(pod = %names::pod_id(pod), message, "cannot delete the object of a pod that is gone");
            Err(failure("FailedDelete", message, RETRY))
        }
    }
}
