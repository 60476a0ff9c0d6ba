//! DELETE of an object and of a collection.
//!
//! Follows `k8s.io/apiserver/pkg/registry/{rest/delete.go,generic/registry/store.go}`:
//!
//! ```text
//! delete ─▶ preconditions ─▶ grace? ──yes──▶ mark: deletionTimestamp in the future; somebody deletes again with 0
//!                              │no
//!                              ▼
//!                         finalizers? ──yes──▶ mark: deletionTimestamp now; goes when the last finalizer goes
//!                              │no
//!                              ▼
//!                             gone
//! ```

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, StatusCode};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::status::{ApiError, success};
use manifests::time::time;

use super::{Call, ListReply, Reply, eviction};
use crate::admission::{namespace_lifecycle, node_restriction};
use crate::error::Error;
use crate::registry::{Env, Row};
use crate::request::content;
use crate::request::params::{ListParams, Params};
use crate::server::ApiServer;
use crate::watch_cache::{Listed, Query};
use crate::write::metadata::next_generation;
use crate::write::{Current, Decision, Outcome, Written};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// So many objects of a collection are deleted at a time.
const AT_A_TIME: usize = 16;

/// What a deletion asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteParams {
    pub(crate) grace: Option<i64>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) orphan: Option<bool>,
    pub(crate) propagation: Option<String>,
    pub(crate) dry_run: bool,
    /// It is an eviction, and the object is to say so.
    pub(crate) evicting: bool,
}

impl DeleteParams {
    /// Reads the options in the body, or in the query when there is no body.
    pub(crate) fn parse(params: &Params, headers: &HeaderMap, body: &[u8]) -> Result<DeleteParams, ApiError> {
        if body.is_empty() {
            let dry_run: Vec<String> =
                params.all("dryRun").filter(|value| !value.is_empty()).map(str::to_owned).collect();
            return DeleteParams::from_options(DeleteOptions {
                grace_period_seconds: params.number("gracePeriodSeconds")?,
                orphan_dependents: params.flag("orphanDependents")?,
                propagation_policy: params.get("propagationPolicy").map(str::to_owned),
                dry_run: (!dry_run.is_empty()).then_some(dry_run),
                ..DeleteOptions::default()
            });
        }
        let document = content::document(headers, body, ("v1", "DeleteOptions"))?;
        let validation = manifests::decode::FieldValidation::Ignore;
        let (options, _) = manifests::decode::decode_document(&document, validation)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        DeleteParams::from_options(options)
    }

    pub(crate) fn from_options(mut options: DeleteOptions) -> Result<DeleteParams, ApiError> {
        options.propagation_policy = options.propagation_policy.filter(|policy| !policy.is_empty());
        let errors = manifests::validate::delete_options(&options);
        if !errors.is_empty() {
            return Err(ApiError::invalid("DeleteOptions", "meta.k8s.io", "", &errors));
        }
        Ok(DeleteParams {
            grace: options.grace_period_seconds,
            preconditions: options.preconditions,
            orphan: options.orphan_dependents,
            propagation: options.propagation_policy,
            dry_run: options.dry_run.is_some_and(|values| !values.is_empty()),
            evicting: false,
        })
    }
}

impl ApiServer {
    pub(crate) async fn delete(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let params = DeleteParams::parse(&call.params, &call.headers, &body)?;
        self.admit_removal(call, "delete")?;
        let written = self.delete_one(&call.row, &call.key(), &call.path.name, &params).await?;
        if written.outcome == Outcome::Deleted && !call.row.hooks.traits().returns_deleted {
            return Ok(Reply::Status(Box::new(gone(&call.row, &call.path.name, &written))));
        }
        // Upstream says «accepted» only to clients that use the old field.
        let waits = written.outcome != Outcome::Deleted && params.orphan == Some(false);
        let code = if waits { StatusCode::ACCEPTED } else { StatusCode::OK };
        Ok(Reply::Object { code, json: written.json, warnings: Vec::new() })
    }

    /// Whether the caller may remove this very object.
    pub(crate) fn admit_removal(&self, call: &Call, verb: &str) -> Result<(), Error> {
        let Some(node) = crate::rbac::node::name(&call.identity) else { return Ok(()) };
        let Some(cached) = call.row.cache.get(&call.key()) else { return Ok(()) };
        let object = call
            .row
            .hooks
            .read(cached.json_bytes())
            .map_err(|source| Error::Stored { key: call.key(), source })?;
        node_restriction::admit_removal(node, &*object, verb)
            .map_err(|why| call.row.forbidden(&call.path.name, &why).into())
    }

    pub(crate) async fn delete_one(
        &self,
        row: &Row,
        key: &str,
        name: &str,
        params: &DeleteParams,
    ) -> Result<Written, Error> {
        namespace_lifecycle::admit_delete(row, name)?;
        self.write(row, key, params.dry_run, |current| decide(row, name, current, params, &self.env())).await
    }

    pub(crate) async fn delete_collection(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        if call.row.kind.plural == "namespaces" {
            return Err(call.row.method_not_allowed("deletecollection").into());
        }
        let params = DeleteParams::parse(&call.params, &call.headers, &body)?;
        let list = ListParams::parse(&call.params, false)?;
        let filter = self.filter(call, &list)?;
        self.refresh().await?;
        let within =
            if call.path.namespace.is_empty() { String::new() } else { format!("{}/", call.path.namespace) };
        let query = Query { within: &within, limit: list.limit, ..Query::default() };
        let applied = self.caches.fresh.applied();
        let listed = call.row.cache.list(&query, &filter, applied).map_err(|old| Error::too_old(0, &old))?;
        let Listed { objects, revision, generation, .. } = listed;
        let deleted = stream::iter(objects)
            .map(|object| {
                let params = &params;
                async move {
                    match self.delete_one(&call.row, object.key(), object.name(), params).await {
                        Ok(_) => Ok(Some(object)),
                        // Somebody else was faster.
                        Err(Error::Api(error)) if error.is_not_found() => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            })
            .buffered(AT_A_TIME);
        let objects = deleted.try_filter_map(async |object| Ok(object)).try_collect().await?;
        let listed = Listed { objects, revision, generation, ..Listed::default() };
        Ok(Reply::List(ListReply { listed, continue_token: None, remaining: None }))
    }
}

/// The answer when an object is gone.
fn gone(
    row: &Row,
    name: &str,
    written: &Written,
) -> manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status {
    let uid = row.hooks.read(&written.json).ok().and_then(|object| object.meta().uid.clone());
    success(row.kind.plural, row.kind.group, name, uid.as_deref().unwrap_or_default())
}

/// What becomes of the object.
fn decide(
    row: &Row,
    name: &str,
    current: &Current,
    params: &DeleteParams,
    env: &Env<'_>,
) -> Result<Decision, Error> {
    let Some(old) = &current.object else { return Err(row.not_found(name).into()) };
    check_preconditions(row, name, old.meta(), current.revision, params.preconditions.as_ref())?;
    let mut object = old.boxed();
    if params.evicting {
        eviction::mark(&mut *object, env.now);
    }
    // Negative periods mean the shortest one.
    let requested = params.grace.map(|grace| if grace < 0 { 1 } else { grace });
    let grace = match row.hooks.grace_period(&*object, requested) {
        None => Grace::None,
        Some(period) => grace(object.meta_mut(), requested, period, env.now),
    };
    if grace == Grace::Pending {
        return Ok(Decision::Keep);
    }
    if row.hooks.traits().garbage_collected {
        let finalizers = finalizers(object.meta().finalizers.as_deref().unwrap_or_default(), params);
        object.meta_mut().finalizers = (!finalizers.is_empty()).then_some(finalizers);
    }
    let held = object.meta().finalizers.is_some() || row.hooks.held(&*object);
    if held && grace == Grace::None {
        mark(object.meta_mut(), env.now);
        row.hooks.mark_deleted(&mut *object);
    }
    if held || grace == Grace::Waits {
        let claims = row.hooks.claims(Some(&*object), Some(&**old), env)?;
        return Ok(Decision::Put(object, claims));
    }
    let claims = row.hooks.claims(None, Some(&**old), env)?;
    Ok(Decision::Delete(object, claims))
}

/// What the grace period means for a deletion.
#[derive(Debug, PartialEq, Eq)]
enum Grace {
    /// There is none.
    None,
    /// The object stays until somebody deletes it again.
    Waits,
    /// It was zero.
    Over,
    /// An earlier deletion with no longer period is under way.
    Pending,
}

/// Records a graceful deletion. `period` is what the kind makes of the request.
fn grace(meta: &mut ObjectMeta, requested: Option<i64>, period: i64, now: Timestamp) -> Grace {
    let Some(deadline) = meta.deletion_timestamp.as_ref().map(|time| time.0) else {
        meta.deletion_timestamp =
            Some(time(now.saturating_add(SignedDuration::from_secs(period)).unwrap_or(now)));
        meta.deletion_grace_period_seconds = Some(period);
        if meta.generation.unwrap_or(0) > 0 {
            next_generation(meta);
        }
        return if period > 0 { Grace::Waits } else { Grace::Over };
    };
    let have = meta.deletion_grace_period_seconds.unwrap_or(0);
    if have == 0 {
        return Grace::None;
    }
    // It can only get shorter.
    let Some(period) = requested.filter(|period| *period < have) else { return Grace::Pending };
    let shorter = SignedDuration::from_secs(have - period);
    let deadline = deadline.saturating_sub(shorter).unwrap_or(now);
    let past = deadline < now;
    meta.deletion_timestamp = Some(time(if past { now } else { deadline }));
    // Somebody who waits is still told so, even if the time is over.
    meta.deletion_grace_period_seconds = Some(if past && period != 0 { 1 } else { period });
    if period > 0 { Grace::Waits } else { Grace::Over }
}

/// Marks an object that waits for its finalizers only.
fn mark(meta: &mut ObjectMeta, now: Timestamp) {
    if meta.deletion_timestamp.is_none() && meta.generation.unwrap_or(0) > 0 {
        next_generation(meta);
    }
    if meta.deletion_timestamp.as_ref().is_none_or(|time| time.0 > now) {
        meta.deletion_timestamp = Some(time(now));
    }
    meta.deletion_grace_period_seconds = Some(0);
}

/// The finalizers with those of the garbage collector as the request wants them.
fn finalizers(have: &[String], params: &DeleteParams) -> Vec<String> {
    let own = have.iter().map(String::as_str).find(|have| *have == ORPHAN || *have == FOREGROUND);
    let wanted = match (params.orphan, params.propagation.as_deref()) {
        (Some(true), _) | (None, Some("Orphan")) => Some(ORPHAN),
        (None, Some("Foreground")) => Some(FOREGROUND),
        (Some(false), _) | (None, Some(_)) => None,
        (None, None) => own,
    };
    let others = have.iter().filter(|have| *have != ORPHAN && *have != FOREGROUND).cloned();
    others.chain(wanted.map(str::to_owned)).collect()
}

/// Whether it is still the object that the client means.
fn check_preconditions(
    row: &Row,
    name: &str,
    meta: &ObjectMeta,
    revision: u64,
    wanted: Option<&Preconditions>,
) -> Result<(), ApiError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let conflict = |why: String| ApiError::conflict(row.kind.kind, row.kind.group, name, &why);
    let have = meta.uid.as_deref().unwrap_or_default();
    if let Some(uid) = wanted.uid.as_deref().filter(|uid| *uid != have) {
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({have}). The object might have \
             been deleted and then recreated"
        )));
    }
    let have = revision.to_string();
    if let Some(version) = wanted.resource_version.as_deref().filter(|version| *version != have) {
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
             ({have}). The object might have been modified"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn check(
        deadline: Option<(i64, i64)>,
        requested: Option<i64>,
        period: i64,
        expected: (Grace, Option<(i64, i64)>),
    ) {
        let mut meta = ObjectMeta {
            deletion_timestamp: deadline.map(|(at, _)| time(now() + SignedDuration::from_secs(at))),
            deletion_grace_period_seconds: deadline.map(|(_, period)| period),
            ..ObjectMeta::default()
        };
        let found = grace(&mut meta, requested, period, now());
        let at = meta.deletion_timestamp.map(|time| time.0.duration_since(now()).as_secs());
        assert_eq!((found, at.zip(meta.deletion_grace_period_seconds)), expected);
    }

    #[test]
    fn graceful_deletion() {
        check(None, None, 30, (Grace::Waits, Some((30, 30))));
        check(None, Some(0), 0, (Grace::Over, Some((0, 0))));
        // Again, without a period, with a longer one, with a shorter one, at once.
        check(Some((20, 30)), None, 30, (Grace::Pending, Some((20, 30))));
        check(Some((20, 30)), Some(60), 60, (Grace::Pending, Some((20, 30))));
        check(Some((20, 30)), Some(15), 15, (Grace::Waits, Some((5, 15))));
        check(Some((20, 30)), Some(5), 5, (Grace::Waits, Some((0, 1))));
        check(Some((20, 30)), Some(0), 0, (Grace::Over, Some((0, 0))));
        // The first deletion did not finish.
        check(Some((-5, 0)), None, 30, (Grace::None, Some((-5, 0))));
    }

    #[test]
    fn propagation() {
        let check = |have: &[&str], orphan, policy: &str, expected: &[&str]| {
            let have: Vec<String> = have.iter().map(|text| (*text).to_owned()).collect();
            let propagation = (!policy.is_empty()).then(|| policy.to_owned());
            let params = DeleteParams { orphan, propagation, ..DeleteParams::default() };
            assert_eq!(finalizers(&have, &params), expected);
        };
        check(&["x"], None, "", &["x"]);
        check(&["x"], None, "Background", &["x"]);
        check(&["x"], None, "Foreground", &["x", FOREGROUND]);
        check(&["x", FOREGROUND], None, "Orphan", &["x", ORPHAN]);
        check(&[FOREGROUND], None, "", &[FOREGROUND]);
        check(&[FOREGROUND], None, "Background", &[]);
        check(&[], Some(true), "", &[ORPHAN]);
        check(&[ORPHAN], Some(false), "", &[]);
    }
}
