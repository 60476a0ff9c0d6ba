//! Defaults of Jobs and CronJobs.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};

use super::{pod_template, text};

/// Defaults of a Job.
pub fn job(job: &mut Job) {
    job_spec(job.spec.get_or_insert_default());
    job.status.get_or_insert_default();
}

fn job_spec(spec: &mut JobSpec) {
    // One pod at a time, until one has succeeded.
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
        spec.parallelism = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let each_alone = spec.backoff_limit_per_index.is_some();
    spec.backoff_limit.get_or_insert(if each_alone { i32::MAX } else { 6 });
    text(&mut spec.completion_mode, "NonIndexed");
    spec.suspend.get_or_insert(false);
    spec.manual_selector = spec.manual_selector.take().filter(|manual| *manual);
    if spec.pod_replacement_policy.is_none() {
        let policy = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy = Some(policy.to_owned());
    }
    pod_template(&mut spec.template);
}

/// Defaults of a CronJob.
pub fn cron_job(job: &mut CronJob) {
    let spec = &mut job.spec;
    text(&mut spec.concurrency_policy, "Allow");
    spec.suspend.get_or_insert(false);
    spec.successful_jobs_history_limit.get_or_insert(3);
    spec.failed_jobs_history_limit.get_or_insert(1);
    // The jobs of a schedule are defaulted when they are made.
    if let Some(template) = &mut spec.job_template.spec {
        pod_template(&mut template.template);
    }
    job.status.get_or_insert_default();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn jobs() {
        check(
            job,
            json!({"spec": {"template": {"spec": {"containers": [{"image": "a:1"}]}}}}),
            json!({"spec": {
                "completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
                "podReplacementPolicy": "TerminatingOrFailed",
                "template": {"spec": {"containers": [{"imagePullPolicy": "IfNotPresent"}]}},
            }}),
        );
        check(
            job,
            json!({"spec": {"parallelism": 3, "template": {}}}),
            json!({"spec": {"parallelism": 3, "completions": "<none>"}}),
        );
        check(
            cron_job,
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {}}}),
            json!({"spec": {
                "concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            }}),
        );
    }
}
