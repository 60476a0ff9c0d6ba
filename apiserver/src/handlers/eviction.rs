//! POST to `pods/NAME/eviction`: a deletion that asks the pod's disruption budget first.
//!
//! ```text
//! pod ended, pending or on its way out ──────────────────────────────────▶ delete
//! pod without a budget ──────────────────────────────────────────────────▶ delete
//! pod not ready, and its budget met (or it never guards such pods) ──────▶ delete, if the pod has not changed
//! budget has a disruption left ─▶ take it, note the pod in the budget ───▶ delete
//! otherwise ─▶ 429
//! ```
//!
//! Follows `k8s.io/kubernetes/pkg/registry/core/pod/storage/eviction.go`. Taking the disruption is a conditional write, so
//! no two evictions take the same one; the controller sees the pod in the budget and does not count it as healthy.

use bytes::Bytes;
use manifests::k8s_openapi::api::core::v1::{Pod, PodCondition};
use manifests::k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Preconditions, Status};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;
use manifests::status::ApiError;
use manifests::time::time;
use serde_json::Value;

use super::delete::DeleteParams;
use super::{Call, Reply};
use crate::error::Error;
use crate::registry::AnyObject;
use crate::request::content;
use crate::request::params::WriteParams;
use crate::server::ApiServer;
use crate::write::Decision;
use crate::write::decode::check_type;

const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";
const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
/// More evictions that the controller has not seen are not let through.
const MAX_UNSEEN: usize = 2000;
/// A pod that changes between the look at it and its deletion is looked at again, so often.
const ATTEMPTS: usize = 20;

impl ApiServer {
    pub(crate) async fn evict(&self, call: &Call, body: Bytes) -> Result<Reply, Error> {
        let write = WriteParams::parse(&call.params, "CreateOptions")?;
        let mut document = content::document(&call.headers, &body, ("policy/v1", "Eviction"))?;
        // Older clients send the same object under the older version.
        let version =
            document.value.get("apiVersion").and_then(Value::as_str).unwrap_or("policy/v1").to_owned();
        let version = if version == "policy/v1beta1" { "policy/v1beta1" } else { "policy/v1" };
        check_type(&mut document.value, version, "Eviction")?;
        document.value["apiVersion"] = "policy/v1".into();
        let (eviction, _) = manifests::decode::decode_document::<Eviction>(&document, write.field_validation)
            .map_err(|error| ApiError::bad_request(error.for_kind(version, "Eviction")))?;
        if eviction.metadata.name.as_deref() != Some(&call.path.name) {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object").into());
        }
        self.admit_removal(call, "evict")?;
        let mut params = DeleteParams::from_options(eviction.delete_options.unwrap_or_default())?;
        params.dry_run |= write.dry_run;
        params.evicting = true;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.evict_once(call, &params).await {
                Err(Error::Api(error)) if is_retry(&error, &params) && attempts < ATTEMPTS => {}
                done => {
                    done?;
                    break;
                }
            }
        }
        let done = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
        Ok(Reply::Status(Box::new(done)))
    }

    async fn evict_once(&self, call: &Call, params: &DeleteParams) -> Result<(), Error> {
        self.refresh().await?;
        let name = &call.path.name;
        let cached = call.row.cache.get(&call.key()).ok_or_else(|| call.row.not_found(name))?;
        let pod: Pod = serde_json::from_slice(cached.json_bytes())
            .map_err(|source| Error::Stored { key: call.key(), source })?;
        let mut params = params.clone();
        let unchanged = |params: &mut DeleteParams| {
            let preconditions = params.preconditions.get_or_insert_with(Preconditions::default);
            preconditions.resource_version.get_or_insert(cached.revision().to_string());
        };
        let mut guarded_by = None;
        match guard(&pod, self.env().namespaced(GROUP, BUDGETS, &call.path.namespace)) {
            Guard::Ended => {}
            // It may get ready at the same time.
            Guard::Pending => unchanged(&mut params),
            Guard::Several => return Err(ApiError::from_status(several()).into()),
            Guard::Unready(budget) => {
                unchanged(&mut params);
                guarded_by = Some(budget);
            }
            Guard::Budget(budget) => self.take_disruption(call, &budget, params.dry_run).await?,
        }
        let deleted = self.delete_one(&call.row, &call.key(), name, &params).await;
        match (deleted, guarded_by) {
            (Err(Error::Api(error)), Some(budget)) if error.is_conflict() => {
                Err(still_processed(&budget).into())
            }
            (deleted, _) => deleted.map(drop),
        }
    }

    /// Counts one disruption less, and notes the pod.
    async fn take_disruption(&self, call: &Call, budget: &str, dry_run: bool) -> Result<(), Error> {
        let Some(row) = self.registry.find(GROUP, "v1", BUDGETS) else { return Ok(()) };
        let key = row.relative_key(&call.path.namespace, budget);
        self.write(row, &key, dry_run, |current| {
            let found = current.object.as_ref();
            let Some(found) = found.and_then(|object| object.as_any().downcast_ref::<PodDisruptionBudget>())
            else {
                return Err(row.not_found(budget).into());
            };
            let taken = take(found, &call.path.name, self.now())?;
            Ok(Decision::Put(taken.boxed(), Default::default()))
        })
        .await?;
        Ok(())
    }
}

/// Whether it is the pod's change that was in the way, not the client's condition.
fn is_retry(error: &ApiError, params: &DeleteParams) -> bool {
    let asked = params.preconditions.as_ref().is_some_and(|wanted| wanted.resource_version.is_some());
    error.is_conflict() && !asked && error.message().contains("ResourceVersion in the precondition")
}

/// What stands between a pod and its eviction.
#[derive(Debug, PartialEq)]
enum Guard {
    /// Nothing: nobody depends on it any more, or it has no budget.
    Ended,
    /// Nothing yet.
    Pending,
    /// A budget that does not count it now.
    Unready(String),
    /// A budget that has to have a disruption left.
    Budget(String),
    /// More budgets than one, which nobody can make sense of.
    Several,
}

fn guard(pod: &Pod, budgets: Vec<PodDisruptionBudget>) -> Guard {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some() {
        return Guard::Ended;
    }
    if phase == "Pending" {
        return Guard::Pending;
    }
    let mut own = budgets.into_iter().filter(|budget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Selector::from_label_selector(selector)
            .is_ok_and(|selector| selector.matches_meta(pod.metadata.labels.as_ref()))
    });
    let Some(budget) = own.next() else { return Guard::Ended };
    if own.next().is_some() {
        return Guard::Several;
    }
    let name = budget.metadata.name.unwrap_or_default();
    let ready =
        status.conditions.iter().flatten().any(|known| known.type_ == "Ready" && known.status == "True");
    let state = budget.status.unwrap_or_default();
    let wanted = state.desired_healthy.unwrap_or(0);
    let met = wanted > 0 && state.current_healthy.unwrap_or(0) >= wanted;
    let policy = budget.spec.and_then(|spec| spec.unhealthy_pod_eviction_policy);
    if !ready && (met || policy.as_deref() == Some("AlwaysAllow")) {
        return Guard::Unready(name);
    }
    Guard::Budget(name)
}

fn several() -> Status {
    Status {
        status: Some("Failure".to_owned()),
        message: Some(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                .to_owned(),
        ),
        code: Some(500),
        ..Status::default()
    }
}

fn still_processed(budget: &str) -> ApiError {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    ApiError::too_many_requests(VIOLATION, 10).with_cause(CAUSE, "", &why)
}

/// The budget with one disruption less. The error says why there is none left.
fn take(budget: &PodDisruptionBudget, pod: &str, now: Timestamp) -> Result<PodDisruptionBudget, ApiError> {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    let mut budget = budget.clone();
    let mut status = budget.status.take().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < budget.metadata.generation.unwrap_or(0) {
        return Err(still_processed(name));
    }
    let left = status.disruptions_allowed.unwrap_or(0);
    let forbidden = |why: &str| ApiError::forbidden("poddisruptionbudget", GROUP, name, why);
    if left < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > MAX_UNSEEN) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(why));
    }
    let allowed = || status.conditions.iter().flatten().find(|known| known.type_ == "DisruptionAllowed");
    if left == 0 {
        let why = match allowed() {
            Some(condition) if condition.status == "False" && condition.reason == "SyncFailed" => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                condition.message
            ),
            _ => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status.desired_healthy.unwrap_or(0),
                status.current_healthy.unwrap_or(0)
            ),
        };
        return Err(ApiError::too_many_requests(VIOLATION, 0).with_cause(CAUSE, "", &why));
    }
    status.disruptions_allowed = Some(left - 1);
    if left == 1 {
        let condition = Condition {
            type_: "DisruptionAllowed".to_owned(),
            status: "False".to_owned(),
            reason: "InsufficientPods".to_owned(),
            message: String::new(),
            observed_generation: status.observed_generation,
            last_transition_time: time(now),
        };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|known| known.type_ != condition.type_);
        conditions.push(condition);
    }
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), time(now));
    budget.status = Some(status);
    Ok(budget)
}

/// Says in a pod why it goes.
pub(super) fn mark(object: &mut dyn AnyObject, now: Timestamp) {
    let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return };
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        message: Some("Eviction API: evicting".to_owned()),
        last_transition_time: Some(time(now)),
        ..PodCondition::default()
    };
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    match conditions.iter_mut().find(|known| known.type_ == condition.type_) {
        Some(known) if known.status == "True" => {}
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 1},
            "spec": spec,
            "status": status,
        }))
        .unwrap()
    }

    fn pod(phase: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"app": "a"}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn guards() {
        let selector = json!({"matchLabels": {"app": "a"}});
        let own = |status| budget(json!({"selector": selector}), status);
        let check = |pod: &Pod, budgets: Vec<PodDisruptionBudget>, expected: Guard| {
            assert_eq!(guard(pod, budgets), expected);
        };
        let ready = pod("Running", "True");
        check(&ready, vec![], Guard::Ended);
        check(&ready, vec![budget(json!({}), json!({}))], Guard::Ended);
        check(&ready, vec![budget(json!({"selector": {}}), json!({}))], Guard::Budget("b".into()));
        check(&ready, vec![own(json!({}))], Guard::Budget("b".into()));
        check(&ready, vec![own(json!({})), own(json!({}))], Guard::Several);
        check(&pod("Pending", "False"), vec![own(json!({}))], Guard::Pending);
        check(&pod("Failed", "False"), vec![own(json!({}))], Guard::Ended);
        let unready = pod("Running", "False");
        check(
            &unready,
            vec![own(json!({"desiredHealthy": 2, "currentHealthy": 1}))],
            Guard::Budget("b".into()),
        );
        check(
            &unready,
            vec![own(json!({"desiredHealthy": 2, "currentHealthy": 2}))],
            Guard::Unready("b".into()),
        );
        let always = json!({"selector": selector, "unhealthyPodEvictionPolicy": "AlwaysAllow"});
        check(&unready, vec![budget(always, json!({}))], Guard::Unready("b".into()));
    }

    #[test]
    fn disruptions_are_taken_one_by_one() {
        let now = Timestamp::UNIX_EPOCH;
        let two = json!({"observedGeneration": 1, "disruptionsAllowed": 2, "desiredHealthy": 1, "currentHealthy": 3});
        let once = take(&budget(json!({}), two), "p", now).unwrap();
        assert_eq!(once.status.as_ref().unwrap().conditions, None);
        let twice = take(&once, "q", now).unwrap();
        let status = twice.status.clone().unwrap();
        assert_eq!(status.conditions.unwrap()[0].reason, "InsufficientPods");
        assert_eq!(status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p", "q"]);
        let refused = take(&twice, "r", now).unwrap_err().into_status();
        assert_eq!((refused.code, refused.message.as_deref()), (Some(429), Some(VIOLATION)));
        let details = refused.details.unwrap();
        let cause = &details.causes.unwrap()[0];
        assert_eq!(cause.reason.as_deref(), Some(CAUSE));
        let why = "The disruption budget b needs 1 healthy pods and has 3 currently";
        assert_eq!(cause.message.as_deref(), Some(why));
        let unseen = take(&budget(json!({}), json!({})), "p", now).unwrap_err();
        assert_eq!(unseen.retry_after_seconds(), Some(10));
    }
}
