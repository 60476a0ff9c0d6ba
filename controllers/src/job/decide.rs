//! What is to be done about a job: no clock, no I/O.
//!
//! ```text
//!             ┌─ suspended ◀──▶ running ─┬─ enough succeeded ─▶ SuccessCriteriaMet ─▶ Complete
//!   new job ──┤                          └─ too many failed, ─▶ FailureTarget ──────▶ Failed
//!             └──────────────▶             or too late                (when no pod is left that runs)
//! ```
//!
//! A pod that has ended is counted once, whatever happens to it: it has a finalizer, which goes when the pod's uid is in the
//! status; and the uid becomes part of a number when the finalizer is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Next, Object as _};
use manifests::k8s_openapi::api::batch::v1::{
    Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods,
};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::selector::Selector;
use manifests::time::time;

use super::indexes;
use super::policy::{self, Verdict};
use crate::ownership::{Claim, Ref, claim};
use crate::pod_state;

/// Keeps a pod that has ended until it is counted.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// So many pods are made or deleted in one pass.
const BURST: usize = 500;
/// The pause before a pod takes the place of one that failed, doubled with each failure.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_mins(10);

const MET: &str = "SuccessCriteriaMet";
const DOOMED: &str = "FailureTarget";
const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";

/// A job and the pods that are, or could be, its own.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) job: Arc<Job>,
    pub(super) pods: Vec<Arc<Pod>>,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Pods to become the controller of.
    pub(super) adopt: Vec<Ref>,
    /// Pods to be the controller of no longer.
    pub(super) release: Vec<Ref>,
    /// Pods that are in the way: they do not count as failures.
    pub(super) drop: Vec<Ref>,
    /// Pods that the end of the job leaves behind.
    pub(super) delete: Vec<Ref>,
    /// The status as it is to be.
    pub(super) status: JobStatus,
    /// Pods whose uid is in the status.
    pub(super) untrack: Vec<Ref>,
    /// Pods to make, with their index if they have one.
    pub(super) create: Vec<Option<i32>>,
    /// How many pods of an index have failed, where that is limited.
    pub(super) failures: BTreeMap<i32, i32>,
    pub(super) events: Vec<(EventType, String, String)>,
    /// The job itself has been finished for long enough.
    pub(super) expire: bool,
    /// When the clock changes something.
    pub(super) at: Option<Timestamp>,
}

impl Plan {
    pub(super) fn next(&self, now: Timestamp) -> Next {
        self.at.map_or(Next::Wait, |at| {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            // Times of objects are whole seconds; ours is not.
            Next::After(wait + Duration::from_millis(10))
        })
    }

    fn wake(&mut self, at: Timestamp) {
        self.at = Some(self.at.map_or(at, |known| known.min(at)));
    }
}

pub(super) fn decide(observed: &Observed, now: Timestamp) -> Plan {
    let job = &*observed.job;
    let none = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&none);
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    let own = own_pods(observed, spec, &mut plan);
    let leaving = job.metadata.deletion_timestamp.is_some();

    let finished = finished_at(&plan.status);
    // Of a job that has ended or goes, what is deleted has not failed.
    let counted = count(&own, spec, &mut plan, leaving || finished.is_some());
    if leaving {
        return plan;
    }
    if let Some(at) = finished {
        expire(spec, at, now, &mut plan);
        return plan;
    }
    let active: Vec<&Arc<Pod>> = own.iter().filter(|pod| pod_state::is_active(pod)).collect();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let suspended = spec.suspend == Some(true);
    if !suspended && plan.status.start_time.is_none() {
        plan.status.start_time = Some(time(now));
    }
    judge(spec, &active, &counted, now, &mut plan);
    suspend(suspended, now, &mut plan);

    let decided = has(&plan.status, MET) || has(&plan.status, DOOMED);
    let all = || active.iter().take(BURST).map(|pod| Ref::to(&***pod)).collect();
    if decided {
        plan.delete = all();
    } else if suspended {
        plan.drop = all();
    } else {
        scale(spec, &own, &active, &counted, now, &mut plan);
    }
    let gone: BTreeSet<String> = plan.delete.iter().chain(&plan.drop).map(|pod| pod.uid.clone()).collect();
    let stays: Vec<_> = active.iter().filter(|pod| !gone.contains(pod.uid())).collect();
    let terminating =
        own.iter().filter(|pod| pod_state::is_deleting(pod) && !pod_state::has_ended(pod)).count();
    plan.status.active = some(number(stays.len()));
    plan.status.ready = Some(number(stays.iter().filter(|pod| pod_state::is_ready(pod)).count()));
    plan.status.terminating = Some(number(terminating + gone.len()));
    let uncounted = plan.status.uncounted_terminated_pods.as_ref();
    let all_counted = uncounted.is_none_or(|uids| uids.failed.is_none() && uids.succeeded.is_none());
    if decided && active.is_empty() && terminating == 0 && all_counted {
        finish(now, &mut plan);
    }
    plan
}

/// Whose pods they are: those that it keeps or will have adopted.
fn own_pods(observed: &Observed, spec: &JobSpec, plan: &mut Plan) -> Vec<Arc<Pod>> {
    let selector =
        Selector::from_label_selector(spec.selector.as_ref()).unwrap_or_else(|_| Selector::nothing());
    let mut own = Vec::new();
    for pod in &observed.pods {
        match claim(&observed.job.metadata, &selector, &pod.metadata) {
            Claim::Keep => own.push(pod.clone()),
            Claim::Adopt if pod_state::is_active(pod) => {
                plan.adopt.push(Ref::to(&**pod));
                own.push(pod.clone());
            }
            Claim::Release => plan.release.push(Ref::to(&**pod)),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    own
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// What has ended so far.
#[derive(Debug)]
struct Counted {
    succeeded: i32,
    failed: i32,
    /// Of an indexed job: what is done.
    done: BTreeSet<i32>,
    /// Of a job that limits failures by index: what will never be done.
    lost: BTreeSet<i32>,
    /// A pod has failed in a way that ends the job.
    doom: Option<String>,
}

/// Takes pods that have ended into the status, and those whose finalizer is gone into the numbers.
fn count(own: &[Arc<Pod>], spec: &JobSpec, plan: &mut Plan, over: bool) -> Counted {
    let status = &mut plan.status;
    let before = status.uncounted_terminated_pods.take().unwrap_or_default();
    let still: BTreeMap<&str, &Arc<Pod>> =
        own.iter().filter(|pod| tracked(pod)).map(|pod| (pod.uid(), pod)).collect();
    let below = spec.completions.unwrap_or(0);
    let mut done = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), below);
    let mut lost = indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), below);
    let mut doom = None;
    let by_rules = spec.pod_failure_policy.is_some();
    let mut lists = [before.succeeded.unwrap_or_default(), before.failed.unwrap_or_default()];
    let mut numbers = [status.succeeded.unwrap_or(0), status.failed.unwrap_or(0)];
    for (list, number) in lists.iter_mut().zip(&mut numbers) {
        let listed = list.len();
        list.retain(|uid| still.contains_key(uid.as_str()));
        *number = number.saturating_add(i32::try_from(listed - list.len()).unwrap_or(i32::MAX));
    }
    let known: BTreeSet<String> = lists.iter().flatten().cloned().collect();
    for pod in still.values().filter(|pod| !known.contains(pod.uid())) {
        let index = index_of(pod).filter(|index| (0..below).contains(index));
        match pod_state::phase(pod) {
            // A second success of an index is none.
            "Succeeded" if is_indexed(spec) => {
                if let Some(index) = index.filter(|index| !done.contains(index)) {
                    done.insert(index);
                    lists[0].push(pod.uid().to_owned());
                } else {
                    plan.untrack.push(Ref::to(&***pod));
                }
            }
            "Succeeded" => lists[0].push(pod.uid().to_owned()),
            // One that somebody deletes has failed, unless the job itself deletes it.
            "Failed" => {
                let judged = policy::verdict(spec, pod);
                if judged == Verdict::Ignore {
                    plan.untrack.push(Ref::to(&***pod));
                    continue;
                }
                let limit = spec.backoff_limit_per_index;
                let last = judged == Verdict::FailIndex
                    || limit.is_some_and(|limit| policy::failures_with(pod) > limit);
                if let Some(index) = index.filter(|index| last && !done.contains(index)) {
                    lost.insert(index);
                }
                if let Verdict::FailJob(why) = judged {
                    doom = Some(why);
                }
                lists[1].push(pod.uid().to_owned());
            }
            // Rules are about how it ends, which has yet to be seen.
            _ if pod_state::is_deleting(pod) && by_rules && !over => {}
            _ if pod_state::is_deleting(pod) && over => plan.untrack.push(Ref::to(&***pod)),
            _ if pod_state::is_deleting(pod) => lists[1].push(pod.uid().to_owned()),
            _ => {}
        }
    }
    let listed: BTreeSet<&String> = lists.iter().flatten().collect();
    let waiting = still.values().filter(|pod| listed.contains(&pod.uid().to_owned()));
    plan.untrack.extend(waiting.map(|pod| Ref::to(&***pod)));
    let all =
        |index: usize| numbers[index].saturating_add(i32::try_from(lists[index].len()).unwrap_or(i32::MAX));
    let (succeeded, failed) = (all(0), all(1));
    status.succeeded = some(numbers[0]);
    status.failed = some(numbers[1]);
    if is_indexed(spec) {
        let text = indexes::format(&done);
        status.completed_indexes = (!text.is_empty()).then_some(text);
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(indexes::format(&lost));
        }
    }
    let [succeeded_uids, failed_uids] = lists;
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: (!succeeded_uids.is_empty()).then_some(succeeded_uids),
        failed: (!failed_uids.is_empty()).then_some(failed_uids),
    });
    let succeeded = if is_indexed(spec) { i32::try_from(done.len()).unwrap_or(i32::MAX) } else { succeeded };
    Counted { succeeded, failed, done, lost, doom }
}

/// Upstream leaves counts of zero out.
fn some(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

fn condition<'s>(status: &'s JobStatus, kind: &str) -> Option<&'s JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn has(status: &JobStatus, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition.status == "True")
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    };
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|known| known.type_ == kind) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// When a job has ended.
fn finished_at(status: &JobStatus) -> Option<Timestamp> {
    let last = [COMPLETE, FAILED]
        .into_iter()
        .filter(|kind| has(status, kind))
        .find_map(|kind| condition(status, kind));
    last.map(|condition| condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Whether it has succeeded or failed.
fn judge(spec: &JobSpec, active: &[&Arc<Pod>], counted: &Counted, now: Timestamp, plan: &mut Plan) {
    if has(&plan.status, MET) || has(&plan.status, DOOMED) {
        return;
    }
    if let Some(why) = &counted.doom {
        set(&mut plan.status, DOOMED, "True", "PodFailurePolicy", why, now);
        return;
    }
    if let Some(rule) = policy::enough(spec, &counted.done) {
        let message = format!("Matched rules at index {rule}");
        set(&mut plan.status, MET, "True", "SuccessPolicy", &message, now);
        return;
    }
    let lost = i32::try_from(counted.lost.len()).unwrap_or(i32::MAX);
    if spec.max_failed_indexes.is_some_and(|limit| lost > limit) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        set(&mut plan.status, DOOMED, "True", "MaxFailedIndexesExceeded", message, now);
        return;
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = match spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("OnFailure") => active.iter().map(|pod| restarts(pod)).sum(),
        _ => 0,
    };
    if counted.failed > limit || (restarts > 0 && restarts >= limit) {
        let message = "Job has reached the specified backoff limit";
        set(&mut plan.status, DOOMED, "True", "BackoffLimitExceeded", message, now);
        return;
    }
    let started = plan.status.start_time.as_ref().map(|time| time.0);
    if let Some((seconds, started)) = spec.active_deadline_seconds.zip(started)
        && spec.suspend != Some(true)
    {
        let deadline = started.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        if deadline <= now {
            let message = "Job was active longer than specified deadline";
            set(&mut plan.status, DOOMED, "True", "DeadlineExceeded", message, now);
            return;
        }
        plan.wake(deadline);
    }
    if lost > 0 && spec.completions.is_some_and(|all| counted.succeeded.saturating_add(lost) >= all) {
        set(&mut plan.status, DOOMED, "True", "FailedIndexes", "Job has failed indexes", now);
        return;
    }
    let enough = match spec.completions {
        Some(wanted) => counted.succeeded >= wanted,
        // Without a number: the first success ends the work, when all have ended.
        None => counted.succeeded > 0 && active.is_empty(),
    };
    if enough {
        let message = "Reached expected number of succeeded pods";
        set(&mut plan.status, MET, "True", "CompletionsReached", message, now);
    }
}

fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.map(|container| container.restart_count).sum()
}

fn suspend(suspended: bool, now: Timestamp, plan: &mut Plan) {
    if has(&plan.status, MET) || has(&plan.status, DOOMED) || suspended == has(&plan.status, SUSPENDED) {
        return;
    }
    if suspended {
        set(&mut plan.status, SUSPENDED, "True", "JobSuspended", "Job suspended", now);
        plan.status.start_time = None;
        plan.events.push((EventType::Normal, "Suspended".to_owned(), "Job suspended".to_owned()));
    } else if condition(&plan.status, SUSPENDED).is_some() {
        set(&mut plan.status, SUSPENDED, "False", "JobResumed", "Job resumed", now);
        plan.status.start_time = Some(time(now));
        plan.events.push((EventType::Normal, "Resumed".to_owned(), "Job resumed".to_owned()));
    }
}

/// As many pods as there should be.
fn scale(
    spec: &JobSpec,
    own: &[Arc<Pod>],
    active: &[&Arc<Pod>],
    counted: &Counted,
    now: Timestamp,
    plan: &mut Plan,
) {
    let parallel = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match spec.completions {
        Some(all) => {
            let lost = i32::try_from(counted.lost.len()).unwrap_or(i32::MAX);
            usize::try_from(all.saturating_sub(counted.succeeded).saturating_sub(lost))
                .unwrap_or(0)
                .min(parallel)
        }
        None if counted.succeeded > 0 => active.len().min(parallel),
        None => parallel,
    };
    let indexed = is_indexed(spec);
    // Of an index there is one pod, and none when it is done.
    let mut taken: BTreeSet<i32> = counted.done.union(&counted.lost).copied().collect();
    let mut superfluous: Vec<&Arc<Pod>> = Vec::new();
    let mut useful: Vec<&Arc<Pod>> = Vec::new();
    for pod in active {
        let fits = !indexed
            || index_of(pod).is_some_and(|index| {
                (0..spec.completions.unwrap_or(0)).contains(&index) && taken.insert(index)
            });
        if fits { useful.push(pod) } else { superfluous.push(pod) }
    }
    if useful.len() > wanted {
        // Those that have come least far go first.
        useful.sort_by_key(|pod| (pod_state::is_ready(pod), pod_state::node(pod).is_some()));
        superfluous.extend(useful.drain(..useful.len() - wanted));
    }
    plan.drop = superfluous.into_iter().take(BURST).map(|pod| Ref::to(&**pod)).collect();
    let missing = wanted - useful.len();
    if missing == 0 {
        return;
    }
    if let Some(at) = backoff_until(own).filter(|at| *at > now) {
        plan.wake(at);
        return;
    }
    // With this policy a pod takes the place of another only when that one has ended.
    let replaces_failed = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let terminating =
        own.iter().filter(|pod| pod_state::is_deleting(pod) && !pod_state::has_ended(pod)).count();
    let missing = if replaces_failed { missing.saturating_sub(terminating) } else { missing }.min(BURST);
    plan.create = if indexed {
        let free = (0..spec.completions.unwrap_or(0)).filter(|index| !taken.contains(index));
        if spec.backoff_limit_per_index.is_some() {
            plan.failures = policy::failures(spec, own);
        }
        free.take(missing).map(Some).collect()
    } else {
        vec![None; missing]
    };
}

/// When a pod has ended.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ends = status.container_statuses.iter().flatten().filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    ends.max().or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
}

/// Until when nothing is started, because of the pods that have failed since the last one succeeded.
fn backoff_until(own: &[Arc<Pod>]) -> Option<Timestamp> {
    let ends = |phase: &str| -> Vec<Timestamp> {
        own.iter().filter(|pod| pod_state::phase(pod) == phase).filter_map(|pod| ended_at(pod)).collect()
    };
    let succeeded = ends("Succeeded").into_iter().max();
    let failures: Vec<Timestamp> = ends("Failed").into_iter().filter(|at| Some(*at) >= succeeded).collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
    let pause = (BACKOFF * (1_i32 << doublings)).min(LONGEST_BACKOFF);
    Some(last.saturating_add(pause).unwrap_or(Timestamp::MAX))
}

/// Says how it ended.
fn finish(now: Timestamp, plan: &mut Plan) {
    let (kind, target) = if has(&plan.status, DOOMED) { (FAILED, DOOMED) } else { (COMPLETE, MET) };
    let why = condition(&plan.status, target);
    let reason = why.and_then(|condition| condition.reason.clone()).unwrap_or_default();
    let message = why.and_then(|condition| condition.message.clone()).unwrap_or_default();
    set(&mut plan.status, kind, "True", &reason, &message, now);
    if kind == COMPLETE {
        plan.status.completion_time = Some(time(now));
        plan.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
    } else {
        plan.events.push((EventType::Warning, reason, message));
    }
}

/// Removes what has been finished for long enough.
fn expire(spec: &JobSpec, finished: Timestamp, now: Timestamp, plan: &mut Plan) {
    let Some(seconds) = spec.ttl_seconds_after_finished else { return };
    let at = finished.saturating_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MAX);
    if at <= now { plan.expire = true } else { plan.wake(at) }
}
