//! What is to be done about a CronJob: no clock, no I/O.
//!
//! ```text
//!             none due, suspended ─▶ wait for the next time
//!   due time ─┤ too late ─▶ an event, and wait
//!             │ another still runs ─┬ Forbid ─▶ an event, and wait
//!             │                     └ Replace ─▶ delete it ┐
//!             └───────────────────────────────────────────▶ make the Job, note the time
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Next, Object as _};
use jiff::tz::TimeZone;
use manifests::cron::Schedule;
use manifests::k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use manifests::k8s_openapi::api::core::v1::ObjectReference;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::jiff::{self, SignedDuration, Timestamp};
use manifests::time::time;

use crate::ownership::{Ref, controller_reference};

/// The time that a Job was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So many missed times are gone through one by one; of more only the last few are looked for.
const MANY: usize = 100;

/// A CronJob and the Jobs whose controller it is.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) cron_job: &'a CronJob,
    pub(super) jobs: &'a [Arc<Job>],
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Jobs that make room for a new one, or that nobody wants to see any more.
    pub(super) delete: Vec<Ref>,
    pub(super) create: Option<Box<Job>>,
    /// The status as it is to be.
    pub(super) status: CronJobStatus,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// When the clock changes something.
    pub(super) at: Option<Timestamp>,
}

impl Plan {
    pub(super) fn next(&self, now: Timestamp) -> Next {
        self.at.map_or(Next::Wait, |at| {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            // Never a little early.
            Next::After(wait + Duration::from_millis(10))
        })
    }

    fn normal(&mut self, reason: &'static str, message: String) {
        self.events.push((EventType::Normal, reason, message));
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.events.push((EventType::Warning, reason, message));
    }
}

pub(super) fn decide(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let cron_job = observed.cron_job;
    let mut plan = Plan { status: cron_job.status.clone().unwrap_or_default(), ..Plan::default() };
    account(observed, &mut plan);
    collect(observed, &mut plan);
    if cron_job.metadata.deletion_timestamp.is_none() && cron_job.spec.suspend != Some(true) {
        run(observed, now, &mut plan);
    }
    plan
}

/// How a Job has ended: the type of the condition that says so.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = |kind: &str| ["Complete", "Failed"].contains(&kind);
    let found = conditions.iter().find(|condition| end(&condition.type_) && condition.status == "True");
    found.map(|condition| condition.type_.as_str())
}

/// Which Jobs run, and when one last succeeded.
fn account(observed: &Observed<'_>, plan: &mut Plan) {
    let before: Vec<ObjectReference> = plan.status.active.take().unwrap_or_default();
    let was_active = |job: &Job| before.iter().any(|reference| reference.uid.as_deref() == Some(job.uid()));
    let mut active = Vec::new();
    for job in observed.jobs {
        match ended(job) {
            None => {
                if !was_active(job) && !is_own_making(observed.cron_job, job) {
                    let message =
                        format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    plan.warn("UnexpectedJob", message);
                }
                active.push(reference(job));
            }
            Some(how) => {
                if was_active(job) {
                    plan.normal(
                        "SawCompletedJob",
                        format!("Saw completed job: {}, condition: {how}", job.name()),
                    );
                }
                let completed = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
                let last = plan.status.last_successful_time.as_ref();
                if let Some(at) =
                    completed.filter(|at| how == "Complete" && last.is_none_or(|last| last.0 < at.0))
                {
                    plan.status.last_successful_time = Some(at.clone());
                }
            }
        }
    }
    for missing in
        before.iter().filter(|known| !observed.jobs.iter().any(|job| Some(job.uid()) == known.uid.as_deref()))
    {
        let name = missing.name.as_deref().unwrap_or_default();
        plan.normal("MissingJob", format!("Active job went missing: {name}"));
    }
    active.sort_by(|a, b| a.name.cmp(&b.name));
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Whether the Job was made for one of the CronJob's times.
fn is_own_making(cron_job: &CronJob, job: &Job) -> bool {
    let rest = job.name().strip_prefix(cron_job.name()).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|minutes| minutes.parse::<u64>().is_ok())
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Of the Jobs that have ended only the last few are kept.
fn collect(observed: &Observed<'_>, plan: &mut Plan) {
    let spec = &observed.cron_job.spec;
    for (how, limit) in
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit else { continue };
        let mut jobs: Vec<&Arc<Job>> = observed.jobs.iter().filter(|job| ended(job) == Some(how)).collect();
        let started =
            |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        jobs.sort_by_key(|job| (started(job), job.name().to_owned()));
        let surplus = jobs.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let going = |job: &&&Arc<Job>| job.metadata.deletion_timestamp.is_none();
        plan.delete.extend(jobs[..surplus].iter().filter(going).map(|job| Ref::to(&***job)));
    }
}

fn run(observed: &Observed<'_>, now: Timestamp, plan: &mut Plan) {
    let (cron_job, spec) = (observed.cron_job, &observed.cron_job.spec);
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let text = manifests::go::quote(&spec.schedule);
            return plan.warn("UnparseableSchedule", format!("unparseable schedule: {text} : {why}"));
        }
    };
    let zone = match spec.time_zone.as_deref().or(schedule.zone()).map(TimeZone::get) {
        None => TimeZone::UTC,
        Some(Ok(zone)) => zone,
        Some(Err(why)) => {
            let name =
                manifests::go::quote(spec.time_zone.as_deref().or(schedule.zone()).unwrap_or_default());
            return plan.warn("UnknownTimeZone", format!("invalid timeZone: {name}: {why}"));
        }
    };
    plan.at = schedule.next(now, &zone);
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    let made = cron_job.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut since = last.or(made).unwrap_or(now);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if let Some(deadline) = deadline {
        since = since.max(now.saturating_sub(deadline).unwrap_or(Timestamp::MIN));
    }
    let Some((due, missed)) = last_due(&schedule, &zone, since, now) else { return };
    if missed > MANY {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.warn("TooManyMissedTimes", message.to_owned());
    }
    let late = deadline.is_some_and(|deadline| due.saturating_add(deadline).is_ok_and(|end| end < now));
    if late {
        return plan
            .warn("MissSchedule", format!("Missed scheduled time to start a job: {}", rfc1123(due, &zone)));
    }
    let job = job_for(cron_job, due, &zone);
    let exists = observed.jobs.iter().any(|other| other.name() == job.name());
    if exists || last == Some(due) {
        plan.status.last_schedule_time = Some(time(last.map_or(due, |last| last.max(due))));
        return;
    }
    let running = || observed.jobs.iter().filter(|job| ended(job).is_none());
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if running().next().is_some() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.normal("JobAlreadyActive", message.to_owned());
        }
        Some("Replace") => {
            plan.delete.extend(running().map(|job| Ref::to(&**job)));
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some(Box::new(job));
    plan.status.last_schedule_time = Some(time(due));
}

/// The last time of the schedule in an interval, and about how many there were.
fn last_due(
    schedule: &Schedule,
    zone: &TimeZone,
    since: Timestamp,
    now: Timestamp,
) -> Option<(Timestamp, usize)> {
    let first = schedule.next(since, zone).filter(|at| *at <= now)?;
    let (mut due, mut missed) = (first, 1);
    while let Some(next) = schedule.next(due, zone).filter(|at| *at <= now) {
        missed += 1;
        // After a long sleep nobody counts: most schedules are regular, and a few steps from the end are enough.
        let step = next.duration_since(due).max(SignedDuration::from_secs(1));
        due = next;
        if missed == MANY {
            let near = now.saturating_sub(step * 2).unwrap_or(due);
            if let Some(jump) = schedule.next(near, zone).filter(|at| near > due && *at <= now) {
                due = jump;
                missed += 1;
            }
        }
    }
    Some((due, missed))
}

fn rfc1123(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

/// The Job of one time.
fn job_for(cron_job: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations: BTreeMap<String, String> = meta.annotations.unwrap_or_default();
    let stamp = at.to_zoned(zone.clone());
    let format = if zone == &TimeZone::UTC { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    annotations.insert(SCHEDULED.to_owned(), stamp.strftime(format).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron_job.name(), at.as_second().div_euclid(60))),
            namespace: cron_job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
