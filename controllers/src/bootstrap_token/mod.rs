//! Bootstrap tokens that have expired are removed: nobody can join by them any more, and they would stay for ever.
//!
//! Follows upstream's token cleaner.

use std::time::Duration;

use client::{Client, DeleteParams, Error, Informer, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::Secret;
use manifests::k8s_openapi::jiff::Timestamp;
use tracing::info;

use crate::context::Context;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
/// The wall clock may be set meanwhile, and the machine may sleep: nobody waits longer for a point in time.
const LOOK: Duration = Duration::from_secs(3600);

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    // No other secrets: nobody here needs to know them.
    let api = context.client.namespaced::<Secret>(NAMESPACE);
    let informer = Informer::new(api).fields(format!("type={TYPE}"));
    let tokens = informer.cache();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    tokens.on_change(move |change| to.add(change.key.clone()));
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("bootstrap tokens", informer.run(stop.clone()));
    group.spawn_infallible("token-cleaner", async move {
        tokens.wait_synced().await;
        let work = queue.work("token-cleaner", 1, &stop, |key| {
            let token = tokens.get(&key);
            let decision = token.as_deref().map_or(Decision::Keep, |token| decide(token, Timestamp::now()));
            apply(&client, key, decision)
        });
        work.await;
    });
}

/// What is to be done about one token.
#[derive(Debug, PartialEq)]
enum Decision {
    Keep,
    /// It is good for so long.
    Look(Duration),
    Delete {
        uid: Option<String>,
        version: Option<String>,
    },
}

fn decide(token: &Secret, now: Timestamp) -> Decision {
    let name = token.metadata.name.as_deref().unwrap_or_default();
    if token.type_.as_deref() != Some(TYPE) || !name.starts_with(PREFIX) {
        return Decision::Keep;
    }
    if token.metadata.deletion_timestamp.is_some() {
        return Decision::Keep;
    }
    let expiration = token.data.as_ref().and_then(|data| data.get("expiration"));
    let Some(text) =
        expiration.map(|bytes| String::from_utf8_lossy(&bytes.0)).filter(|text| !text.is_empty())
    else {
        return Decision::Keep;
    };
    match text.parse::<Timestamp>() {
        Ok(expires) if expires > now => {
            let left = Duration::try_from(expires.duration_since(now)).unwrap_or(LOOK);
            Decision::Look(left.min(LOOK))
        }
        // One that nobody can read is no longer believed either.
        _ => Decision::Delete {
            uid: token.metadata.uid.clone(),
            version: token.metadata.resource_version.clone(),
        },
    }
}

async fn apply(client: &Client, key: ObjectKey, decision: Decision) -> Result<Next, Error> {
    let (uid, resource_version) = match decision {
        Decision::Keep => return Ok(Next::Wait),
        Decision::Look(left) => return Ok(Next::After(left)),
        Decision::Delete { uid, version } => (uid, version),
    };
    // Somebody may have prolonged it meanwhile.
    let params = DeleteParams { uid, resource_version, ..DeleteParams::default() };
    match client.namespaced::<Secret>(NAMESPACE).delete(&key.name, &params).await {
        Ok(_) => {
            info!(token = key.name, "an expired bootstrap token was removed");
            Ok(Next::Wait)
        }
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(Next::Wait),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::ByteString;
    use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn a_token_goes_when_its_time_is_over() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = |name: &str, kind: &str, expiration: Option<&str>| Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                uid: Some("1".to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(kind.to_owned()),
            data: expiration
                .map(|text| [("expiration".to_owned(), ByteString(text.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        let name = "bootstrap-token-abcdef";
        let gone = Decision::Delete { uid: Some("1".to_owned()), version: None };
        let check = |token: Secret, expected: Decision| assert_eq!(decide(&token, now), expected);
        check(token(name, TYPE, None), Decision::Keep);
        check(token(name, TYPE, Some("")), Decision::Keep);
        check(token(name, TYPE, Some("2026-01-01T00:00:07Z")), Decision::Look(Duration::from_secs(7)));
        check(token(name, TYPE, Some("2027-01-01T00:00:00Z")), Decision::Look(LOOK));
        check(token(name, TYPE, Some("2026-01-01T00:00:00Z")), gone);
        check(token(name, TYPE, Some("soon")), Decision::Delete { uid: Some("1".to_owned()), version: None });
        check(token("abcdef", TYPE, Some("2025-01-01T00:00:00Z")), Decision::Keep);
        check(token(name, "Opaque", Some("2025-01-01T00:00:00Z")), Decision::Keep);
    }
}
