//! Getting the image of a container, by its pull policy.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::super::backoff;
use super::super::observe::{Failure, ImageSeen};
use super::{Outcome, failure};
use crate::context::Context;
use crate::images::credentials_for;
use crate::machine::{Image, ImageError};
use crate::objects::Subscription;

/// How long the reason of a failure is shown before the waiting is.
const FLIP: SignedDuration = SignedDuration::from_secs(1);

/// What an image is got for.
#[derive(Debug)]
pub(in super::super) struct ImageInput {
    pub(in super::super) context: Arc<Context>,
    pub(in super::super) pod: Arc<Pod>,
    pub(in super::super) container: Container,
    pub(in super::super) objects: Subscription,
    /// How often getting this image failed before, in a row.
    pub(in super::super) failures: u32,
}

pub(in super::super) async fn ensure_image(mut input: ImageInput) -> Outcome {
    let result = ensure(&mut input).await;
    let ImageInput { context, pod, container, .. } = &input;
    if let Err(ImageSeen::Failed { first, .. }) = &result {
        let message = format!("Error: {}", first.reason);
        context.events.container_warning(pod, &container.name, "Failed", message);
    }
    Outcome::Image { container: container.name.clone(), result }
}

/// 10 s · 2ⁿ, at most 5 min.
fn delay(failures: u32) -> SignedDuration {
    let factor = 1_i32.checked_shl(failures.min(16)).unwrap_or(i32::MAX);
    backoff::INITIAL.checked_mul(factor).map_or(backoff::MAXIMUM, |delay| delay.min(backoff::MAXIMUM))
}

async fn ensure(input: &mut ImageInput) -> Result<Image, ImageSeen> {
    let ImageInput { context, pod, container, objects, failures } = input;
    let name = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let say = |reason: &str, message: String| {
        context.events.container_normal(pod, &container.name, reason, message);
    };
    let warn = |reason: &str, message: String| {
        context.events.container_warning(pod, &container.name, reason, message);
    };
    let found = match context.machine.images.find(name).await {
        Ok(found) => found,
        Err(error @ ImageError::Name { .. }) => {
            let message = format!("Failed to apply default image tag {}: {error}", quote(name));
            warn("InspectFailed", message.clone());
            return Err(permanent("InvalidImageName", message));
        }
        Err(error) => {
            let message = format!("Failed to inspect image {}: {error}", quote(name));
            warn("InspectFailed", message.clone());
            return Err(permanent("ImageInspectError", message));
        }
    };
    match (policy, found) {
        ("IfNotPresent" | "Never", Some(image)) => {
            say("Pulled", format!("Container image {} already present on machine", quote(name)));
            return Ok(image);
        }
        ("Never", None) => {
            let message = format!("Container image {} is not present with pull policy of Never", quote(name));
            warn("ErrImageNeverPull", message.clone());
            return Err(permanent("ErrImageNeverPull", message));
        }
        _ => {}
    }
    say("Pulling", format!("Pulling image {}", quote(name)));
    let began = Instant::now();
    let credentials = credentials_for(pod, &objects.snapshot().await, &*context.machine.images, name);
    match context.machine.images.pull(name, &credentials).await {
        Ok(image) => {
            let took = round(began.elapsed());
            let message = format!(
                "Successfully pulled image {} in {took} ({took} including waiting). Image size: {} bytes.",
                quote(name),
                image.size
            );
            say("Pulled", message);
            Ok(image)
        }
        Err(error) => {
            warn("Failed", format!("Failed to pull image {}: {error}", quote(name)));
            let first = failure("ErrImagePull", error.to_string(), delay(*failures));
            let message = format!("Back-off pulling image {}: ErrImagePull: {error}", quote(name));
            Err(failed(first, Some(("ImagePullBackOff".to_owned(), message))))
        }
    }
}

/// A failure that only a change from outside repairs.
fn permanent(reason: &str, message: String) -> ImageSeen {
    failed(failure(reason, message, SignedDuration::from_secs(10)), None)
}

fn failed(first: Failure, waiting: Option<(String, String)>) -> ImageSeen {
    let flip_at = Timestamp::now().saturating_add(FLIP).unwrap_or(Timestamp::MAX);
    ImageSeen::Failed { first, waiting, flip_at }
}

/// A duration as Go prints it, in milliseconds.
fn round(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1000 => format!("{millis}ms"),
        1000..60_000 => format!("{}s", format_args!("{}.{:03}", millis / 1000, millis % 1000)),
        _ => format!("{}m{}.{:03}s", millis / 60_000, millis / 1000 % 60, millis % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double() {
        let seconds: Vec<i64> = (0..8).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(delay(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn durations_as_go_prints_them() {
        for (millis, text) in [(7, "7ms"), (1234, "1.234s"), (61_002, "1m1.002s")] {
            assert_eq!(round(Duration::from_millis(millis)), text);
        }
    }
}
