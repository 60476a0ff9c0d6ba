//! Assigns one pod to a node and finds out what became of it.

use client::{Backoff, Client, Error, Object};
use manifests::k8s_openapi::api::core::v1::Pod;
use tokio::time::Duration;

/// Pauses while the API server does not answer.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What became of a binding.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The pod is on the node.
    Bound,
    /// There is no such pod any more, or somebody else has bound it.
    Gone,
    /// The API server refused, and the pod has no node.
    Failed(Error),
    /// Its volumes could not be had, in words for the user.
    NoVolumes(String),
}

pub(super) async fn bind(client: &Client, pod: &Pod, node: &str) -> Outcome {
    let api = client.namespaced::<Pod>(pod.namespace());
    let error = match api.bind(pod.name(), Some(pod.uid()), node).await {
        Ok(()) => return Outcome::Bound,
        Err(error) if error.is_not_found() => return Outcome::Gone,
        Err(error) => error,
    };
    // The request may have been carried out: a lost answer, or a conflict with our own earlier attempt.
    // Nothing else is done with the pod before that is known.
    for attempt in 0.. {
        match api.get_opt(pod.name()).await {
            Ok(newest) => return judge(newest.as_ref(), pod, node, error),
            Err(_) => tokio::time::sleep(RETRY.delay(attempt)).await,
        }
    }
    Outcome::Failed(error)
}

fn judge(newest: Option<&Pod>, pod: &Pod, node: &str, error: Error) -> Outcome {
    let Some(newest) = newest.filter(|newest| newest.uid() == pod.uid()) else { return Outcome::Gone };
    match newest.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default() {
        "" if newest.metadata.deletion_timestamp.is_some() => Outcome::Gone,
        "" => Outcome::Failed(error),
        place if place == node => Outcome::Bound,
        _ => Outcome::Gone,
    }
}

#[cfg(test)]
mod tests {
    use testkit::pod;

    use super::*;

    #[test]
    fn unknown_outcomes_are_judged_by_the_pod() {
        let error = || Error::PathSegment { kind: String::new(), what: "name", value: String::new() };
        let check = |newest: Option<Pod>, expected: &str| {
            let outcome = judge(newest.as_ref(), &pod("p").build(), "n", error());
            let name = match outcome {
                Outcome::Bound => "bound",
                Outcome::Gone => "gone",
                Outcome::Failed(_) | Outcome::NoVolumes(_) => "failed",
            };
            assert_eq!(name, expected);
        };
        check(None, "gone");
        check(Some(pod("p").uid("other").build()), "gone");
        check(Some(pod("p").build()), "failed");
        check(Some(pod("p").terminating().build()), "gone");
        check(Some(pod("p").on("n").build()), "bound");
        check(Some(pod("p").on("m").build()), "gone");
    }
}
