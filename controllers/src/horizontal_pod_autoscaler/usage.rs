//! How many replicas a metric asks for: what pods use, against what they should.
//!
//! Follows upstream's replica calculator. Pods of which nothing is known, and pods that are not ready, are first left out;
//! if that would change the number of replicas they are counted with what makes the change smaller, and a change that
//! would turn round is not made.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Container, Pod};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::quantity::Quantity;

use crate::pod_state;

/// A pod that started so recently is believed only when it is ready and was for the whole time that was looked at.
const INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that is not ready since before this was over has never been ready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What a pod uses, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) value: i64,
    /// When it was measured, and over which time.
    pub(super) at: Timestamp,
    pub(super) window: SignedDuration,
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// What one metric of a resource is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) resource: &'a str,
    /// Of one container; of the whole pod if it is empty.
    pub(super) container: &'a str,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) replicas: i32,
    pub(super) tolerances: Tolerances,
    pub(super) now: Timestamp,
}

/// How far from the target is near enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerances {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Default for Tolerances {
    fn default() -> Tolerances {
        Tolerances { up: 0.1, down: 0.1 }
    }
}

impl Tolerances {
    fn hold(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What is used, and the replicas that this asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) replicas: i32,
    /// Percent of what was requested, if that was asked for.
    pub(super) utilization: Option<i32>,
    /// On average, in thousandths.
    pub(super) average: i64,
}

/// What is used in relation to the target.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

/// What samples are compared with.
enum Target<'a> {
    /// Percent of what each pod requests.
    Utilization { percent: i32, requests: &'a BTreeMap<String, i64> },
    /// So much for each pod, in thousandths.
    Average(i64),
}

impl Target<'_> {
    fn ratio(&self, samples: &BTreeMap<String, i64>) -> Result<Ratio, String> {
        match self {
            Target::Utilization { percent, requests } => {
                let known = samples.iter().filter_map(|(pod, used)| Some((*used, *requests.get(pod)?)));
                let (used, requested, count) =
                    known.fold((0_i64, 0_i64, 0_i64), |(used, requested, count), one| {
                        (used.saturating_add(one.0), requested.saturating_add(one.1), count + 1)
                    });
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let utilization = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
                let ratio = f64::from(utilization) / f64::from(*percent);
                Ok(Ratio { ratio, utilization: Some(utilization), average: used / count })
            }
            Target::Average(target) => {
                let total: i64 = samples.values().fold(0, |sum, used| sum.saturating_add(*used));
                let average = total / i64::try_from(samples.len()).unwrap_or(i64::MAX).max(1);
                Ok(Ratio { ratio: average as f64 / *target as f64, utilization: None, average })
            }
        }
    }

    /// What a pod would use that is just as it should be.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Target::Utilization { requests, .. } => requests.get(pod).copied().unwrap_or_default(),
            Target::Average(target) => *target,
        }
    }
}

impl Question<'_> {
    /// The replicas so that pods use this percentage of what they request.
    pub(super) fn for_utilization(&self, samples: &Samples, percent: i32) -> Result<Answer, String> {
        self.some_pods()?;
        let groups = self.group(samples);
        let requests = self.requests()?;
        self.answer(samples, &groups, &Target::Utilization { percent, requests: &requests })
    }

    /// The replicas so that each pod uses so much, in thousandths.
    pub(super) fn for_average(&self, samples: &Samples, target: i64) -> Result<Answer, String> {
        self.some_pods()?;
        self.answer(samples, &self.group(samples), &Target::Average(target))
    }

    fn some_pods(&self) -> Result<(), String> {
        match self.pods {
            [] => Err("no pods returned by selector while calculating replica count".to_owned()),
            _ => Ok(()),
        }
    }

    fn answer(&self, samples: &Samples, groups: &Groups<'_>, target: &Target<'_>) -> Result<Answer, String> {
        let mut counted: BTreeMap<String, i64> = samples
            .iter()
            .filter(|(pod, _)| !groups.ignored.contains(&pod.as_str()))
            .map(|(pod, sample)| (pod.clone(), sample.value))
            .collect();
        if counted.is_empty() {
            return Err("did not receive metrics for any ready pods".to_owned());
        }
        let Ratio { ratio, utilization, average } = target.ratio(&counted)?;
        let answer = |replicas| Ok(Answer { replicas, utilization, average });
        let count_ignored = !groups.ignored.is_empty() && ratio > 1.0;
        if !count_ignored && groups.missing.is_empty() {
            let near = self.tolerances.hold(ratio);
            return answer(if near { self.replicas } else { times(ratio, groups.ready) });
        }
        for pod in &groups.missing {
            // Whatever makes the change smaller: idle when there are to be more pods, busy when there are to be fewer.
            let assumed = match target {
                _ if ratio < 1.0 => target.full(pod),
                Target::Utilization { .. } if ratio == 1.0 => continue,
                _ => 0,
            };
            counted.insert((*pod).to_owned(), assumed);
        }
        if count_ignored {
            counted.extend(groups.ignored.iter().map(|pod| ((*pod).to_owned(), 0)));
        }
        let again = target.ratio(&counted)?.ratio;
        let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
        if self.tolerances.hold(again) || turned {
            return answer(self.replicas);
        }
        let replicas = times(again, counted.len());
        let against = (again < 1.0 && replicas > self.replicas) || (again > 1.0 && replicas < self.replicas);
        answer(if against { self.replicas } else { replicas })
    }

    fn group(&self, samples: &Samples) -> Groups<'_> {
        let mut groups = Groups::default();
        for pod in self.pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if pod_state::is_deleting(pod) || pod_state::phase(pod) == "Failed" {
                continue;
            }
            match samples.get(name) {
                _ if pod_state::phase(pod) == "Pending" => groups.ignored.push(name),
                None => groups.missing.push(name),
                Some(sample) if self.resource == "cpu" && is_too_young(pod, sample, self.now) => {
                    groups.ignored.push(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
        groups
    }

    /// What each pod requests, in thousandths.
    fn requests(&self) -> Result<BTreeMap<String, i64>, String> {
        let of_pod = |pod: &Pod| {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let requested = match self.of_whole_pod(pod) {
                Some(requested) => requested,
                None => self.of_containers(pod, &name)?,
            };
            Ok((name, requested))
        };
        self.pods.iter().map(|pod| of_pod(pod)).collect()
    }

    /// What the pod requests as a whole, if it says so.
    fn of_whole_pod(&self, pod: &Pod) -> Option<i64> {
        let requests = pod.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        let requested = requests.get(self.resource).filter(|_| self.container.is_empty())?;
        Some(Quantity::of(requested).milli())
    }

    fn of_containers(&self, pod: &Pod, name: &str) -> Result<i64, String> {
        let spec = pod.spec.as_ref();
        let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default().iter();
        let sidecars = sidecars.filter(|container| manifests::resources::is_sidecar(container));
        let containers =
            spec.map(|spec| spec.containers.as_slice()).unwrap_or_default().iter().chain(sidecars);
        let mut sum = 0_i64;
        let meant = |container: &&Container| self.container.is_empty() || container.name == self.container;
        for container in containers.filter(meant) {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let Some(requested) = requests.and_then(|requests| requests.get(self.resource)) else {
                let (resource, container) = (self.resource, &container.name);
                return Err(format!("missing request for {resource} in container {container} of Pod {name}"));
            };
            sum = sum.saturating_add(Quantity::of(requested).milli());
        }
        Ok(sum)
    }
}

/// Pods by what is known of them.
#[derive(Debug, Default)]
struct Groups<'a> {
    ready: usize,
    /// Not ready yet.
    ignored: Vec<&'a str>,
    /// Nothing is known of what they use.
    missing: Vec<&'a str>,
}

/// Whether what a pod uses says more about its start than about its work.
fn is_too_young(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(ready), Some(started)) = (pod_state::condition(pod, "Ready"), started) else { return true };
    let unready = ready.status == "False";
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let after = |time: Timestamp, more| time.saturating_add(more).unwrap_or(Timestamp::MAX);
    if after(started, INITIALIZATION) > now {
        return unready || sample.at < after(changed, sample.window);
    }
    unready && after(started, INITIAL_READINESS) > changed
}

/// Rounded up.
#[expect(clippy::cast_possible_truncation, reason = "what is out of range becomes the nearest that is in it")]
fn times(ratio: f64, pods: usize) -> i32 {
    (ratio * pods as f64).ceil() as i32
}
