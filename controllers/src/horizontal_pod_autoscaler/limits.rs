//! From what metrics ask for to what is done: not at once down, not too fast, and within bounds.
//!
//! Follows upstream's normalisation, with `behavior` and without.

use manifests::k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};

/// So long what was asked for before keeps replicas from going.
const STABILIZATION: i32 = 300;

/// What an autoscaler has seen and done lately. It is lost with the process, as upstream's is: a fresh one begins with
/// the number of replicas that it finds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    /// What was asked for, and when.
    recommendations: Vec<(Timestamp, i32)>,
    /// By how much replicas grew, and shrank.
    ups: Vec<(Timestamp, i32)>,
    downs: Vec<(Timestamp, i32)>,
}

/// The bounds of an autoscaler.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub(super) current: i32,
    pub(super) min: i32,
    pub(super) max: i32,
    pub(super) behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
}

/// A reason and a message for a condition.
pub(super) type Why = (&'static str, &'static str);

/// What is to be, and what to say of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limited {
    pub(super) replicas: i32,
    /// Of the condition `AbleToScale`.
    pub(super) able: Why,
    /// Of the condition `ScalingLimited`, and whether it is so.
    pub(super) limited: bool,
    pub(super) why: Why,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_LIMIT: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");

impl History {
    /// Remembers how things were found.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Remembers what was done.
    pub(super) fn done(&mut self, bounds: &Bounds<'_>, replicas: i32, now: Timestamp) {
        let Some(behavior) = bounds.behavior else { return };
        let (changes, rules) = if replicas > bounds.current {
            (&mut self.ups, &behavior.scale_up)
        } else {
            (&mut self.downs, &behavior.scale_down)
        };
        let longest = policies(rules.as_ref()).iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
        changes.retain(|(at, _)| *at >= before(now, longest));
        changes.push((now, (replicas - bounds.current).abs()));
    }

    /// What becomes of a recommendation.
    pub(super) fn limit(&mut self, bounds: &Bounds<'_>, wanted: i32, now: Timestamp) -> Limited {
        let (stable, stabilized) = self.stabilize(bounds, wanted, now);
        let able = if stable == wanted { READY } else { stabilized };
        let (replicas, why) = match bounds.behavior {
            None => by_default(bounds, stable),
            Some(behavior) => self.by_behavior(bounds, behavior, stable, now),
        };
        Limited { replicas, able, limited: replicas != stable, why }
    }

    fn stabilize(&mut self, bounds: &Bounds<'_>, wanted: i32, now: Timestamp) -> (i32, Why) {
        let window = |rules: Option<&HPAScalingRules>, default| {
            rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(default)
        };
        let up = bounds.behavior.map_or(0, |behavior| window(behavior.scale_up.as_ref(), 0));
        let down = bounds
            .behavior
            .map_or(STABILIZATION, |behavior| window(behavior.scale_down.as_ref(), STABILIZATION));
        let since = |seconds| {
            let cutoff = before(now, seconds);
            self.recommendations.iter().filter(move |(at, _)| *at > cutoff).map(|(_, asked)| *asked)
        };
        let highest = since(down).fold(wanted, i32::max);
        let stable = if bounds.behavior.is_none() {
            highest
        } else {
            // No less than all have asked for lately, and no more than any.
            let lowest = since(up).fold(wanted, i32::min);
            bounds.current.max(lowest).min(highest)
        };
        let obsolete = before(now, up.max(down));
        self.recommendations.retain(|(at, _)| *at >= obsolete);
        self.recommendations.push((now, wanted));
        let upwards = bounds.behavior.is_some() && wanted >= bounds.current;
        (stable, if upwards { UP_STABILIZED } else { DOWN_STABILIZED })
    }

    fn by_behavior(
        &self,
        bounds: &Bounds<'_>,
        behavior: &HorizontalPodAutoscalerBehavior,
        wanted: i32,
        now: Timestamp,
    ) -> (i32, Why) {
        let Bounds { current, min, max, .. } = *bounds;
        // As many as there were when a period began.
        let at_start = |policy: &HPAScalingPolicy| {
            let cutoff = before(now, policy.period_seconds);
            let sum = |changes: &[(Timestamp, i32)]| -> i32 {
                changes.iter().filter(|(at, _)| *at > cutoff).map(|(_, by)| by).sum()
            };
            current - sum(&self.ups) + sum(&self.downs)
        };
        if wanted > current {
            let allowed = policies(behavior.scale_up.as_ref()).iter().map(|policy| {
                let start = at_start(policy);
                match policy.type_.as_str() {
                    "Percent" => rounded((f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil()),
                    _ => start.saturating_add(policy.value),
                }
            });
            let fastest = select(behavior.scale_up.as_ref(), current, allowed, Iterator::max, Iterator::min);
            let fastest = fastest.max(current);
            let (most, why) = if max > fastest { (fastest, UP_LIMIT) } else { (max, TOO_MANY) };
            if wanted > most {
                return (most, why);
            }
        } else if wanted < current {
            let allowed = policies(behavior.scale_down.as_ref()).iter().map(|policy| {
                let start = at_start(policy);
                match policy.type_.as_str() {
                    "Percent" => rounded(f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)),
                    _ => start.saturating_sub(policy.value),
                }
            });
            let fastest =
                select(behavior.scale_down.as_ref(), current, allowed, Iterator::min, Iterator::max);
            let fastest = fastest.min(current);
            let (least, why) = if min < fastest { (fastest, DOWN_LIMIT) } else { (min, TOO_FEW) };
            if wanted < least {
                return (least, why);
            }
        }
        (wanted, WITHIN)
    }
}

/// Among what the policies allow: by default the greatest change, else the smallest, or none.
fn select<I: Iterator<Item = i32>>(
    rules: Option<&HPAScalingRules>,
    current: i32,
    allowed: I,
    greatest: fn(I) -> Option<i32>,
    smallest: fn(I) -> Option<i32>,
) -> i32 {
    let chosen = match rules.and_then(|rules| rules.select_policy.as_deref()) {
        Some("Disabled") => None,
        Some("Min") => smallest(allowed),
        _ => greatest(allowed),
    };
    chosen.unwrap_or(current)
}

fn policies(rules: Option<&HPAScalingRules>) -> &[HPAScalingPolicy] {
    rules.and_then(|rules| rules.policies.as_deref()).unwrap_or_default()
}

/// Without `behavior`: at most twice as many at a time, or four.
fn by_default(bounds: &Bounds<'_>, wanted: i32) -> (i32, Why) {
    let fastest = bounds.current.saturating_mul(2).max(4);
    let (most, why) = if bounds.max > fastest { (fastest, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    if wanted < bounds.min {
        (bounds.min, TOO_FEW)
    } else if wanted > most {
        (most, why)
    } else {
        (wanted, WITHIN)
    }
}

fn before(now: Timestamp, seconds: i32) -> Timestamp {
    now.saturating_sub(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MIN)
}

#[expect(clippy::cast_possible_truncation, reason = "what is out of range becomes the nearest that is in it")]
fn rounded(value: f64) -> i32 {
    value as i32
}
