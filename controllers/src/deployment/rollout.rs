//! One step of a rollout: which ReplicaSets grow and shrink. Upstream's arithmetic, on planned sizes.

use std::cmp::Reverse;

use manifests::k8s_openapi::api::apps::v1::Deployment;

use super::annotations;
use super::fleet::{Fleet, Member};
use super::limits::{self, Strategy};

/// The size of the newest ReplicaSet that the limits allow now. `current` is its present size, `total` that
/// of all.
pub(super) fn new_size(deployment: &Deployment, current: i32, total: i32) -> i32 {
    let wanted = limits::replicas(deployment);
    match limits::strategy(deployment) {
        Strategy::Recreate => wanted,
        Strategy::RollingUpdate { surge, .. } => {
            let room = wanted.saturating_add(surge).saturating_sub(total);
            if room <= 0 { current } else { current + room.min(wanted - current) }
        }
    }
}

/// RollingUpdate: first the new one grows, then old ones shrink. Says whether a size changes.
pub(super) fn roll(deployment: &Deployment, fleet: &mut Fleet) -> bool {
    grow_new(deployment, fleet) || shrink_old(deployment, fleet)
}

fn grow_new(deployment: &Deployment, fleet: &mut Fleet) -> bool {
    let (wanted, total) = (limits::replicas(deployment), fleet.total());
    let Some(new) = &mut fleet.new else { return false };
    let current = new.replicas();
    if current == wanted {
        return false;
    }
    let size = if current > wanted { wanted } else { new_size(deployment, current, total) };
    new.scale(size, deployment)
}

fn shrink_old(deployment: &Deployment, fleet: &mut Fleet) -> bool {
    if fleet.total_old() == 0 {
        return false;
    }
    let minimum = limits::replicas(deployment) - limits::max_unavailable(deployment);
    // New pods that are not available yet must not count as replacements.
    let pending = fleet.new.as_ref().map_or(0, |new| new.replicas() - new.available());
    let allowance = fleet.total() - minimum - pending;
    if allowance <= 0 {
        return false;
    }
    let broken = drop_unavailable(deployment, &mut fleet.old, allowance);
    let spare = drop_available(deployment, fleet, minimum);
    broken || spare
}

/// Old pods that are not available go first: they are no loss, and would only be in the way.
fn drop_unavailable(deployment: &Deployment, old: &mut [Member], allowance: i32) -> bool {
    let mut left = allowance;
    let mut changed = false;
    for member in old {
        let unavailable = member.replicas() - member.available();
        let drop = unavailable.min(left);
        if member.replicas() == 0 || drop <= 0 {
            continue;
        }
        left -= drop;
        changed |= member.scale(member.replicas() - drop, deployment);
    }
    changed
}

/// Old pods go as far as enough available ones remain.
fn drop_available(deployment: &Deployment, fleet: &mut Fleet, minimum: i32) -> bool {
    let mut spare = fleet.available() - minimum;
    let mut changed = false;
    for member in &mut fleet.old {
        if spare <= 0 {
            break;
        }
        let drop = member.replicas().min(spare);
        if drop > 0 {
            spare -= drop;
            changed |= member.scale(member.replicas() - drop, deployment);
        }
    }
    changed
}

/// Recreate: all old ones shrink to nothing. Says whether a size changes.
pub(super) fn stop_old(deployment: &Deployment, fleet: &mut Fleet) -> bool {
    fleet.old.iter_mut().fold(false, |changed, member| {
        let active = member.replicas() > 0;
        (active && member.scale(0, deployment)) || changed
    })
}

/// Whether the wanted number has changed since the ReplicaSets were last scaled.
pub(super) fn is_scaling(deployment: &Deployment, fleet: &Fleet) -> bool {
    fleet.all().filter(|member| member.replicas() > 0).any(|member| {
        annotations::desired(&member.seen).is_some_and(|desired| desired != limits::replicas(deployment))
    })
}

/// Brings the ReplicaSets to a new wanted number without moving the rollout on: in proportion to their sizes.
pub(super) fn scale(deployment: &Deployment, fleet: &mut Fleet) {
    let wanted = limits::replicas(deployment);
    if let Some(only) = active_or_latest(fleet) {
        only.scale(wanted, deployment);
        return;
    }
    if is_saturated(deployment, fleet.new.as_ref()) {
        stop_old(deployment, fleet);
        return;
    }
    match limits::strategy(deployment) {
        Strategy::RollingUpdate { surge, .. } => {
            let allowed = if wanted > 0 { wanted.saturating_add(surge) } else { 0 };
            scale_in_proportion(deployment, fleet, allowed);
        }
        // Sizes follow when the rollout goes on, which it does once the new wanted number is noted.
        Strategy::Recreate => fleet.all_mut().filter(|member| member.replicas() > 0).for_each(|member| {
            member.scale(member.replicas(), deployment);
        }),
    }
}

/// The only one with pods; the newest if none has any; nothing if several have.
fn active_or_latest(fleet: &mut Fleet) -> Option<&mut Member> {
    match fleet.all().filter(|member| member.replicas() > 0).count() {
        0 if fleet.new.is_some() => fleet.new.as_mut(),
        0 => fleet.old.last_mut(),
        1 => fleet.all_mut().find(|member| member.replicas() > 0),
        _ => None,
    }
}

fn is_saturated(deployment: &Deployment, new: Option<&Member>) -> bool {
    let wanted = limits::replicas(deployment);
    new.is_some_and(|new| {
        annotations::desired(&new.seen) == Some(wanted)
            && new.replicas() == wanted
            && new.available() == wanted
    })
}

fn scale_in_proportion(deployment: &Deployment, fleet: &mut Fleet, allowed: i32) {
    let to_add = allowed - fleet.total();
    let mut active: Vec<&mut Member> = fleet.all_mut().filter(|member| member.replicas() > 0).collect();
    // The largest takes what rounding leaves over; of equals the newest when growing, the oldest when shrinking.
    active.reverse();
    if to_add < 0 {
        active.reverse();
    }
    active.sort_by_key(|member| Reverse(member.replicas()));
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for member in &active {
        let share = share(member, deployment, to_add, added);
        added += share;
        sizes.push(member.replicas() + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (member, size) in active.into_iter().zip(sizes) {
        member.scale(size, deployment);
    }
}

/// What one ReplicaSet gains or loses of `to_add`, when `added` is given away already.
fn share(member: &Member, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if member.replicas() == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(member, deployment);
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(member: &Member, deployment: &Deployment) -> i32 {
    let size = i64::from(member.replicas());
    if limits::replicas(deployment) == 0 {
        return -member.replicas();
    }
    let most = i64::from(limits::replicas(deployment)) + i64::from(limits::max_surge(deployment));
    let before = annotations::max(&member.seen).filter(|most| *most > 0).or_else(|| {
        deployment.status.as_ref().and_then(|status| status.replicas).filter(|replicas| *replicas > 0)
    });
    let Some(before) = before.map(i64::from) else { return 0 };
    // Rounded to the nearest, halves up.
    let rounded = (2 * size * most + before) / (2 * before);
    i32::try_from(rounded - size).unwrap_or(i32::MAX)
}
