//! Jobs and CronJobs.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};

use super::{immutable, meta, non_negative, object_meta, object_meta_update, one_of, pod, text};
use crate::cron::Schedule;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;
use crate::selector::Selector;

/// Names of CronJobs leave room for what is appended to make names of Jobs.
const LONGEST_CRON_JOB: usize = 52;

/// A new Job.
pub fn job(job: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&job.metadata, true, names::dns1123_subdomain, &mut errors);
    let spec = job.spec.clone().unwrap_or_default();
    let path = Path::new("spec");
    let selector = spec.selector.clone().unwrap_or_default();
    meta::label_selector(Some(&selector), &path.child("selector"), &mut errors);
    job_spec(&spec, &path, &mut errors);
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let matches =
        Selector::from_label_selector(Some(&selector)).is_ok_and(|selector| selector.matches_meta(labels));
    if !matches {
        let path = path.child("template").child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, labels, "`selector` does not match template `labels`"));
    }
    errors
}

fn job_spec(spec: &JobSpec, path: &Path, errors: &mut ErrorList) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        non_negative(value.unwrap_or_default(), &path.child(field), errors);
    }
    let mode = text(&spec.completion_mode);
    if !mode.is_empty() {
        one_of(mode, &["Indexed", "NonIndexed"], &path.child("completionMode"), errors);
    }
    if mode == "Indexed" && spec.completions.is_none() {
        let mode = crate::go::quote(mode);
        errors.push(FieldError::required(
            &path.child("completions"),
            format!("when completion mode is {mode}"),
        ));
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        one_of(policy, &["Failed", "TerminatingOrFailed"], &path.child("podReplacementPolicy"), errors);
    }
    let template = path.child("template");
    pod::pod_template(&spec.template, &template, errors);
    let policy =
        spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or_default();
    let path = template.child("spec").child("restartPolicy");
    if policy.is_empty() || policy == "Always" {
        errors.push(FieldError::required(&path, "valid values: \"OnFailure\", \"Never\""));
    }
}

/// An update of a Job.
pub fn job_update(new: &Job, old: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let path = Path::new("spec");
    let (now, before) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    job_spec(&now, &path, &mut errors);
    // An indexed job may grow and shrink, if its parallelism does the same.
    let elastic = now.completion_mode.as_deref() == Some("Indexed") && now.completions == now.parallelism;
    if !elastic {
        immutable(&now.completions, &before.completions, &path.child("completions"), &mut errors);
    }
    immutable(&now.selector, &before.selector, &path.child("selector"), &mut errors);
    let not_started = old.status.as_ref().is_none_or(|status| status.start_time.is_none());
    if !(before.suspend == Some(true) && not_started) {
        immutable(&now.template, &before.template, &path.child("template"), &mut errors);
    }
    immutable(&now.completion_mode, &before.completion_mode, &path.child("completionMode"), &mut errors);
    immutable(
        &now.pod_failure_policy,
        &before.pod_failure_policy,
        &path.child("podFailurePolicy"),
        &mut errors,
    );
    let per_index = path.child("backoffLimitPerIndex");
    immutable(&now.backoff_limit_per_index, &before.backoff_limit_per_index, &per_index, &mut errors);
    immutable(&now.managed_by, &before.managed_by, &path.child("managedBy"), &mut errors);
    immutable(&now.success_policy, &before.success_policy, &path.child("successPolicy"), &mut errors);
    errors
}

/// An update of a Job's status.
pub fn job_status_update(new: &Job, old: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let status = new.status.clone().unwrap_or_default();
    for (field, value) in
        [("active", status.active), ("succeeded", status.succeeded), ("failed", status.failed)]
    {
        non_negative(value.unwrap_or_default(), &Path::new("status").child(field), &mut errors);
    }
    errors
}

/// A new CronJob.
pub fn cron_job(job: &CronJob) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&job.metadata, true, names::dns1123_subdomain, &mut errors);
    if job.metadata.name.as_ref().is_some_and(|name| name.len() > LONGEST_CRON_JOB) {
        let why = format!("must be no more than {LONGEST_CRON_JOB} characters");
        errors.push(FieldError::invalid(&Path::new("metadata").child("name"), &job.metadata.name, why));
    }
    cron_job_spec(job, &mut errors);
    errors
}

/// An update of a CronJob.
pub fn cron_job_update(new: &CronJob, old: &CronJob) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    cron_job_spec(new, &mut errors);
    errors
}

fn cron_job_spec(job: &CronJob, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), &job.spec);
    if spec.schedule.is_empty() {
        errors.push(FieldError::required(&path.child("schedule"), ""));
    } else if let Err(why) = Schedule::parse(&spec.schedule) {
        errors.push(FieldError::invalid(&path.child("schedule"), &spec.schedule, why));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(text(&spec.concurrency_policy), &policies, &path.child("concurrencyPolicy"), errors);
    for (field, value) in [
        ("startingDeadlineSeconds", spec.starting_deadline_seconds),
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit.map(i64::from)),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit.map(i64::from)),
    ] {
        non_negative(value.unwrap_or_default(), &path.child(field), errors);
    }
    if let Some(zone) = &spec.time_zone {
        let known = k8s_openapi::jiff::tz::TimeZone::get(zone).is_ok();
        if zone.is_empty() || zone.eq_ignore_ascii_case("local") || !known {
            let path = path.child("timeZone");
            errors.push(FieldError::invalid(&path, zone, format!("unknown time zone {zone}")));
        }
    }
    let path = path.child("jobTemplate").child("spec");
    job_spec(&spec.job_template.spec.clone().unwrap_or_default(), &path, errors);
}
