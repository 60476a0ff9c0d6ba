//! What the server decides about the metadata of an object.
//!
//! Follows `k8s.io/apiserver/pkg/registry/rest` (`BeforeCreate`, `BeforeUpdate`).

use std::collections::BTreeSet;

use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::status::ApiError;
use manifests::time::time;

use crate::random;

/// Letters of generated names: no vowels, so no words; nothing that is easily confused.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many letters are generated.
const GENERATED: usize = 5;
/// Names are not longer than a label, so that a generated one still fits.
const LONGEST_BASE: usize = 63 - GENERATED;

/// A name that starts with `base`.
pub(crate) fn generate_name(base: &str) -> String {
    let mut end = base.len().min(LONGEST_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    for _ in 0..GENERATED {
        let index = random::below(ALPHABET.len() as u64);
        name.push(char::from(ALPHABET[usize::try_from(index).unwrap_or(0)]));
    }
    name
}

/// Makes the namespace of an object that of the request.
pub(crate) fn match_namespace(
    meta: &mut ObjectMeta,
    namespaced: bool,
    requested: &str,
) -> Result<(), ApiError> {
    let requested = if namespaced { requested } else { "" };
    let own = meta.namespace.as_deref().unwrap_or_default();
    if !own.is_empty() && !requested.is_empty() && own != requested {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta.namespace = (!requested.is_empty()).then(|| requested.to_owned());
    Ok(())
}

/// Before an object is created: what clients cannot set is set.
pub(crate) fn before_create(meta: &mut ObjectMeta, has_generation: bool, now: Timestamp) {
    meta.creation_timestamp = Some(time(now));
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.resource_version = None;
    meta.generation = has_generation.then_some(1);
    if meta.name.as_deref().unwrap_or_default().is_empty()
        && let Some(base) = meta.generate_name.as_deref().filter(|base| !base.is_empty())
    {
        meta.name = Some(generate_name(base));
    }
    drop_duplicate_owners(meta);
}

/// Before an object is changed: what clients cannot change is put back.
pub(crate) fn before_update(meta: &mut ObjectMeta, old: &ObjectMeta) {
    meta.resource_version.clone_from(&old.resource_version);
    meta.self_link = None;
    meta.generation = old.generation;
    if meta.uid.as_deref().unwrap_or_default().is_empty() {
        meta.uid.clone_from(&old.uid);
    }
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    // Only a DELETE request deletes.
    meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    if meta.generate_name.is_none() {
        meta.generate_name.clone_from(&old.generate_name);
    }
    drop_duplicate_owners(meta);
}

/// Says that what is wanted has changed.
pub(crate) fn next_generation(meta: &mut ObjectMeta) {
    meta.generation = Some(meta.generation.unwrap_or(0) + 1);
}

/// An owner that is listed twice counts once.
fn drop_duplicate_owners(meta: &mut ObjectMeta) {
    let Some(owners) = &mut meta.owner_references else { return };
    let mut seen = BTreeSet::new();
    owners.retain(|owner| {
        seen.insert((owner.uid.clone(), owner.api_version.clone(), owner.kind.clone(), owner.name.clone()))
    });
}

/// Whether nothing holds the object back from being removed, now that its deletion has been asked for.
pub(crate) fn can_go(new: &ObjectMeta, old: &ObjectMeta) -> bool {
    new.finalizers.as_ref().is_none_or(Vec::is_empty)
        && old.deletion_timestamp.is_some()
        && old.deletion_grace_period_seconds.unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_and_differ() {
        let long = "x".repeat(80);
        assert_eq!(generate_name(&long).len(), 63);
        let names: BTreeSet<_> = (0..1000).map(|_| generate_name("web-")).collect();
        assert!(names.len() > 990);
        assert!(
            names.iter().all(|name| name.len() == 9 && name.bytes().skip(4).all(|c| ALPHABET.contains(&c)))
        );
    }
}
