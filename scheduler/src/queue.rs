//! Pods that wait for a node.
//!
//! ```text
//!                       pop                   fits nowhere
//!   upsert ──▶ active ──────▶ in flight ─────────────────────▶ unschedulable
//!                ▲  ▲            │ binding failed                   │
//!                │  └─ time's up ┴──▶ backing off ◀─ an event that could help, or five minutes
//!                └──────────────────────────────── and its back-off is over already
//! ```
//!
//! The active queue is ordered by priority, then by arrival. A pod that fits nowhere waits for an event
//! that could change the verdict of the plugin that refused it; each failed attempt doubles its pause, from
//! one second to ten. Times are arguments: the queue has no clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Object, ObjectKey};
use manifests::k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::plugins::Plugin;
use crate::pod_info::priority;

const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

/// Whatever an event might have been missed for: look again after this.
const FLUSH: Duration = Duration::from_secs(300);

/// A set of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plugins(u16);

impl Plugins {
    /// Every plugin.
    pub const ALL: Self = Self(u16::MAX);

    /// Whether one is in both.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both together.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Plugin> for Plugins {
    fn from_iter<I: IntoIterator<Item = Plugin>>(plugins: I) -> Self {
        Self(plugins.into_iter().fold(0, |set, plugin| set | 1 << plugin as u16))
    }
}

/// Higher priority first, then first come, first served.
type Order = (Reverse<i32>, u64);

#[derive(Debug)]
enum Place {
    Active(Order),
    BackingOff(Instant, u64),
    Unschedulable { because: Plugins, until: Instant },
    InFlight,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    arrival: u64,
    attempts: u32,
    /// No sooner than this again.
    rested: Instant,
    place: Place,
}

/// Pods that wait for a node.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeSet<(Order, ObjectKey)>,
    backing_off: BTreeMap<(Instant, u64), ObjectKey>,
    flushes: BTreeSet<(Instant, ObjectKey)>,
    arrivals: u64,
}

impl Queue {
    /// Nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many pods wait, those in flight included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The pod waits, or has changed while it does. A change that could matter ends a wait for events.
    pub fn upsert(&mut self, pod: Arc<Pod>, now: Instant) {
        let key = pod.key();
        let Some(entry) = self.entries.get_mut(&key) else {
            self.arrivals += 1;
            let entry =
                Entry { pod, arrival: self.arrivals, attempts: 0, rested: now, place: Place::InFlight };
            self.entries.insert(key.clone(), entry);
            return self.activate(key, now);
        };
        let changed = entry.pod.spec != pod.spec || entry.pod.metadata.labels != pod.metadata.labels;
        entry.pod = pod;
        let waits = matches!(entry.place, Place::Unschedulable { .. } | Place::Active(_));
        if changed && waits {
            self.activate(key, now);
        }
    }

    /// The pod waits no longer.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.leave_place(key);
        self.entries.remove(key);
    }

    /// The next pod, which is in flight until one of the following is called for it: `remove`,
    /// `unschedulable` or `retry`.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.wake(now);
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(entry.pod.clone())
    }

    /// The pod fits nowhere, because of these plugins.
    pub fn unschedulable(&mut self, key: &ObjectKey, because: Plugins, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.rested = now + BACKOFF.ceiling(entry.attempts.saturating_sub(1));
            let until = now + FLUSH;
            entry.place = Place::Unschedulable { because, until };
            self.flushes.insert((until, key.clone()));
        }
    }

    /// Something failed that may work later.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.rested = now + BACKOFF.ceiling(entry.attempts.saturating_sub(1));
            self.activate(key.clone(), now);
        }
    }

    /// Something has happened that could change these plugins' verdicts.
    pub fn event(&mut self, helps: Plugins, now: Instant) {
        let could_help = |entry: &Entry| match entry.place {
            Place::Unschedulable { because, .. } => because.intersects(helps),
            _ => false,
        };
        let keys: Vec<ObjectKey> =
            self.entries.iter().filter(|(_, entry)| could_help(entry)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.activate(key, now);
        }
    }

    /// When `pop` could have more to give than now, if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let rested = self.backing_off.first_key_value().map(|((at, _), _)| *at);
        let flush = self.flushes.first().map(|(at, _)| *at);
        rested.into_iter().chain(flush).min()
    }

    /// Whether `pop` has something to give.
    pub fn is_ready(&mut self, now: Instant) -> bool {
        self.wake(now);
        !self.active.is_empty()
    }

    /// Moves those whose time has come.
    fn wake(&mut self, now: Instant) {
        while let Some((&(at, _), key)) = self.backing_off.first_key_value()
            && at <= now
        {
            let key = key.clone();
            self.activate(key, now);
        }
        while let Some((at, key)) = self.flushes.first()
            && *at <= now
        {
            let key = key.clone();
            self.activate(key, now);
        }
    }

    fn leave_place(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match std::mem::replace(&mut entry.place, Place::InFlight) {
            Place::Active(order) => drop(self.active.remove(&(order, key.clone()))),
            Place::BackingOff(at, arrival) => drop(self.backing_off.remove(&(at, arrival))),
            Place::Unschedulable { until, .. } => drop(self.flushes.remove(&(until, key.clone()))),
            Place::InFlight => {}
        }
    }

    /// To the active queue, or first to its rest.
    fn activate(&mut self, key: ObjectKey, now: Instant) {
        self.leave_place(&key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.rested > now {
            entry.place = Place::BackingOff(entry.rested, entry.arrival);
            self.backing_off.insert((entry.rested, entry.arrival), key);
        } else {
            let order = (Reverse(priority(&entry.pod)), entry.arrival);
            entry.place = Place::Active(order);
            self.active.insert((order, key));
        }
    }
}

#[cfg(test)]
mod tests;
