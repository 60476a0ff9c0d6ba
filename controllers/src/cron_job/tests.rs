use std::sync::Arc;

use client::Object as _;
use manifests::k8s_openapi::api::batch::v1::{CronJob, Job};
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::{Observed, Plan, decide};

const MADE: &str = "2026-01-01T00:00:30Z";

fn cron_job(spec: Value) -> CronJob {
    let mut all = json!({
        "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0,
        "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    let metadata = json!({"name": "c", "namespace": "default", "uid": "cron", "creationTimestamp": MADE});
    serde_json::from_value(json!({"metadata": metadata, "spec": all})).unwrap()
}

fn job(name: &str, ended: &str) -> Arc<Job> {
    let conditions = if ended.is_empty() { json!([]) } else { json!([{"type": ended, "status": "True"}]) };
    let job = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "status": {"conditions": conditions, "startTime": MADE, "completionTime": (ended == "Complete").then_some(MADE)},
    });
    Arc::new(serde_json::from_value(job).unwrap())
}

fn plan(cron_job: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    decide(&Observed { cron_job, jobs }, now.parse().unwrap())
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|(_, reason, _)| *reason).collect()
}

fn made(plan: &Plan) -> Option<&str> {
    plan.create.as_ref().map(|job| job.name())
}

/// The CronJob after a plan has been carried out.
fn after(cron_job: &CronJob, plan: &Plan) -> CronJob {
    CronJob { status: Some(plan.status.clone()), ..cron_job.clone() }
}

#[test]
fn a_job_is_made_when_its_time_has_come() {
    let cron = cron_job(json!({}));
    let early = plan(&cron, &[], "2026-01-01T00:04:59Z");
    assert_eq!((made(&early), early.at), (None, Some("2026-01-01T00:05:00Z".parse::<Timestamp>().unwrap())));

    let due = plan(&cron, &[], "2026-01-01T00:05:01Z");
    let job = due.create.as_deref().unwrap();
    // Minutes since 1970.
    assert_eq!(job.name(), "c-29453765");
    let annotation =
        &job.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(annotation, "2026-01-01T00:05:00Z");
    assert_eq!(job.metadata.labels.as_ref().unwrap()["a"], "b");
    assert_eq!(due.at.unwrap().to_string(), "2026-01-01T00:10:00Z");

    // Once only, whether the job is still seen or not.
    let cron = after(&cron, &due);
    assert_eq!(made(&plan(&cron, &[], "2026-01-01T00:05:02Z")), None);
    let forgotten = cron_job(json!({}));
    let again = plan(&forgotten, &[super_job(job.name())], "2026-01-01T00:05:02Z");
    assert_eq!(made(&again), None);
    assert_eq!(
        again.status,
        plan(&after(&forgotten, &again), &[super_job(job.name())], "2026-01-01T00:05:02Z").status
    );
}

fn super_job(name: &str) -> Arc<Job> {
    job(name, "")
}

#[test]
fn of_missed_times_the_last_one_counts() {
    let cron = cron_job(json!({}));
    assert_eq!(made(&plan(&cron, &[], "2026-01-01T00:17:00Z")), Some("c-29453775"));
    // Months later, too; but it is said.
    let late = plan(&cron, &[], "2026-06-01T00:17:00Z");
    assert_eq!(
        late.create.as_ref().unwrap().metadata.annotations.as_ref().unwrap().values().next().unwrap(),
        "2026-06-01T00:15:00Z"
    );
    assert_eq!(reasons(&late), ["TooManyMissedTimes"]);
    // Not after the deadline.
    let cron = cron_job(json!({"startingDeadlineSeconds": 60}));
    assert_eq!(made(&plan(&cron, &[], "2026-01-01T00:17:00Z")), None);
    assert_eq!(made(&plan(&cron, &[], "2026-01-01T00:15:59Z")), Some("c-29453775"));
}

#[test]
fn a_job_that_still_runs() {
    let running = [job("c-29453760", "")];
    let now = "2026-01-01T00:05:01Z";
    for (policy, created, deleted, events) in [
        ("Allow", true, 0, vec![]),
        ("Forbid", false, 0, vec!["JobAlreadyActive"]),
        ("Replace", true, 1, vec![]),
    ] {
        let plan = plan(&cron_job(json!({"concurrencyPolicy": policy})), &running, now);
        assert_eq!(
            (plan.create.is_some(), plan.delete.len(), reasons(&plan)),
            (created, deleted, events),
            "{policy}"
        );
    }
}

#[test]
fn suspended_and_unreadable_ones_do_nothing() {
    let now = "2026-01-01T00:05:01Z";
    let suspended = plan(&cron_job(json!({"suspend": true})), &[], now);
    assert_eq!((made(&suspended), suspended.at), (None, None));
    let odd = plan(&cron_job(json!({"schedule": "often"})), &[], now);
    assert_eq!((made(&odd), reasons(&odd)), (None, vec!["UnparseableSchedule"]));
    let nowhere = plan(&cron_job(json!({"timeZone": "Nowhere/Land"})), &[], now);
    assert_eq!((made(&nowhere), reasons(&nowhere)), (None, vec!["UnknownTimeZone"]));
}

#[test]
fn what_has_ended_is_counted_and_collected() {
    let mut cron = cron_job(json!({}));
    let jobs = [job("c-1", "Complete"), job("c-2", "Complete"), job("c-3", "Failed"), job("c-4", "")];
    cron.status = Some(
        serde_json::from_value(json!({"active": [
        {"name": "c-2", "uid": "c-2"}, {"name": "c-4", "uid": "c-4"}, {"name": "gone", "uid": "gone"},
    ], "lastScheduleTime": MADE}))
        .unwrap(),
    );
    let done = plan(&cron, &jobs, "2026-01-01T00:01:00Z");
    assert_eq!(done.delete.iter().map(|job| &*job.key.name).collect::<Vec<_>>(), ["c-1", "c-3"]);
    assert_eq!(reasons(&done), ["SawCompletedJob", "MissingJob"]);
    let active: Vec<_> =
        done.status.active.iter().flatten().map(|active| active.name.as_deref().unwrap()).collect();
    assert_eq!(active, ["c-4"]);
    assert_eq!(done.status.last_successful_time.as_ref().unwrap().0.to_string(), MADE);
    let again = plan(&after(&cron, &done), &jobs[1..2], "2026-01-01T00:01:00Z");
    assert_eq!(reasons(&again), ["MissingJob"]);
}

#[test]
fn time_zones() {
    let cron = cron_job(json!({"schedule": "0 2 * * *", "timeZone": "Asia/Tokyo"}));
    let due = plan(&cron, &[], "2026-01-01T17:00:05Z");
    let annotation =
        due.create.as_ref().unwrap().metadata.annotations.as_ref().unwrap().values().next().unwrap().clone();
    assert_eq!(annotation, "2026-01-02T02:00:00+09:00");
}
