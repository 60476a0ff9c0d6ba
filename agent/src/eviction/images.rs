//! Images that nobody uses make room when the disk fills: the one that was used longest ago goes first.
//!
//! Only what was pulled goes, as it can be pulled again; an image that somebody brought here by hand is pinned. So is every image
//! of a pod of this node, whether it runs yet or not. What is known of the use of images is from this life of the agent; an
//! image that was never seen in use counts from when it was first seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use tokio::time::Instant;

use super::thresholds::Supply;
use crate::machine::{ImageSummary, Images};
use crate::names::uid;
use crate::pod::observe::ephemeral;
use crate::pod::worker::View;

/// How long a disk that cannot be relieved is left alone, and how often it is complained about.
const AGAIN: Duration = Duration::from_secs(300);

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePolicy {
    /// With so much of the disk in use, in percent, images go; 100 means never.
    pub high: u8,
    /// Until no more than this is.
    pub low: u8,
    /// An image that was pulled more recently than this stays.
    pub min_age: Duration,
}

impl Default for ImagePolicy {
    fn default() -> Self {
        Self { high: 85, low: 80, min_age: Duration::from_secs(120) }
    }
}

impl ImagePolicy {
    /// How many bytes are too many, if any are.
    fn excess(&self, disk: Supply) -> Option<u64> {
        let used = disk.capacity.saturating_sub(disk.available);
        let over = disk.capacity > 0 && self.high < 100 && used * 100 >= disk.capacity * u64::from(self.high);
        over.then(|| used.saturating_sub(disk.capacity / 100 * u64::from(self.low)))
    }
}

/// When an image was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    first: Instant,
    used: Instant,
}

/// Which images go to free `wanted` bytes, by id, and how many bytes that is.
fn decide(
    list: &[ImageSummary],
    seen: &BTreeMap<String, Times>,
    in_use: &BTreeSet<String>,
    wanted: u64,
    min_age: Duration,
    now: Instant,
) -> (Vec<String>, u64) {
    let mut free: Vec<(&ImageSummary, Times)> = list
        .iter()
        .filter(|image| image.pulled && !in_use.contains(&image.id))
        .filter_map(|image| Some((image, *seen.get(&image.id)?)))
        .filter(|(_, times)| now.duration_since(times.first) >= min_age)
        .collect();
    free.sort_by_key(|(_, times)| (times.used, times.first));
    let (mut gone, mut bytes) = (Vec::new(), 0);
    for (image, _) in free {
        if bytes >= wanted {
            break;
        }
        gone.push(image.id.clone());
        bytes += image.size;
    }
    (gone, bytes)
}

/// Remembers the use of images, and removes them.
#[derive(Debug)]
pub(super) struct Collector {
    images: Arc<dyn Images>,
    policy: ImagePolicy,
    seen: BTreeMap<String, Times>,
    /// When looking for images was of no use, and which pods there were.
    fruitless: Option<(Instant, BTreeSet<String>)>,
    complained: Option<Instant>,
}

impl Collector {
    pub(super) fn new(images: Arc<dyn Images>, policy: ImagePolicy) -> Self {
        Self { images, policy, seen: BTreeMap::new(), fruitless: None, complained: None }
    }

    /// Removes images if the disk is fuller than it should be; says what to complain about.
    pub(super) async fn relieve(&mut self, disk: Supply, views: &[View]) -> Option<(EventType, String)> {
        let wanted = self.policy.excess(disk)?;
        let pods: BTreeSet<String> = views.iter().map(|view| uid(&view.pod).to_owned()).collect();
        // With the same pods the same images are in use: looking again at once would find no more.
        if self.fruitless.as_ref().is_some_and(|(at, then)| at.elapsed() < AGAIN && *then == pods) {
            return None;
        }
        let found = self.remove(wanted, self.policy.min_age, views).await;
        if found >= wanted {
            return None;
        }
        self.fruitless = Some((Instant::now(), pods));
        if self.complained.is_some_and(|at| at.elapsed() < AGAIN) {
            return None;
        }
        self.complained = Some(Instant::now());
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {found} bytes eligible to free."
        );
        Some((EventType::Warning, message))
    }

    /// Removes all that nobody uses, whatever its age: the disk is all but full.
    pub(super) async fn remove_unused(&mut self, views: &[View]) -> u64 {
        self.remove(u64::MAX, Duration::ZERO, views).await
    }

    async fn remove(&mut self, wanted: u64, min_age: Duration, views: &[View]) -> u64 {
        let in_use = self.in_use(views).await;
        let list = self.images.list().await;
        let now = Instant::now();
        let here: BTreeSet<&String> = list.iter().map(|image| &image.id).collect();
        self.seen.retain(|id, _| here.contains(id));
        for image in &list {
            let times = self.seen.entry(image.id.clone()).or_insert(Times { first: now, used: now });
            if in_use.contains(&image.id) {
                times.used = now;
            }
        }
        let (gone, bytes) = decide(&list, &self.seen, &in_use, wanted, min_age, now);
        if gone.is_empty() {
            return 0;
        }
        match self.images.remove(&gone, &in_use).await {
            Ok(()) => {
                tracing::info!(images = ?gone, bytes, "removed images that nobody uses");
                bytes
            }
            Err(error) => {
                tracing::warn!(%error, "removing images that nobody uses");
                0
            }
        }
    }

    /// Ids of the images of all pods: what runs says which, and what will run names it.
    async fn in_use(&self, views: &[View]) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        let mut names = BTreeSet::new();
        for view in views {
            let status = &view.status;
            let all = status.init_container_statuses.iter().chain(&status.container_statuses);
            let all = all.chain(&status.ephemeral_container_statuses).flatten();
            ids.extend(all.map(|status| status.image_id.clone()));
            let Some(spec) = &view.pod.spec else { continue };
            let passing = ephemeral(spec);
            let all = spec.init_containers.iter().flatten().chain(&spec.containers).chain(&passing);
            names.extend(all.filter_map(|container| container.image.clone()));
            let volumes = spec.volumes.iter().flatten();
            names.extend(volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone()));
        }
        for name in names {
            if let Ok(Some(image)) = self.images.find(&name).await {
                ids.insert(image.id);
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_relieved_between_two_marks() {
        let policy = ImagePolicy::default();
        for (available, excess) in [(16, None), (15, Some(5)), (0, Some(20))] {
            assert_eq!(
                policy.excess(Supply { available: available << 20, capacity: 100 << 20 }).map(|b| b >> 20),
                excess
            );
        }
        assert_eq!(policy.excess(Supply::default()), None, "what is not known is not full");
        let never = ImagePolicy { high: 100, ..policy };
        assert_eq!(never.excess(Supply { available: 0, capacity: 100 }), None);
    }

    #[tokio::test]
    async fn the_longest_unused_goes_first_and_the_pinned_stays() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let image = |id: &str, pulled| ImageSummary { id: id.into(), names: Vec::new(), size: 10, pulled };
        let list = [
            image("used", true),
            image("recent", true),
            image("old", true),
            image("young", true),
            image("imported", false),
        ];
        let times = |first, used| Times { first: at(first), used: at(used) };
        let seen = BTreeMap::from([
            ("used".to_owned(), times(0, 1000)),
            ("recent".to_owned(), times(0, 500)),
            ("old".to_owned(), times(0, 100)),
            ("young".to_owned(), times(950, 950)),
            ("imported".to_owned(), times(0, 0)),
        ]);
        let in_use = BTreeSet::from(["used".to_owned()]);
        let check = |wanted, expected: &[&str]| {
            let (gone, bytes) = decide(&list, &seen, &in_use, wanted, Duration::from_secs(120), at(1000));
            assert_eq!(gone, expected);
            assert_eq!(bytes, 10 * expected.len() as u64);
        };
        check(0, &[]);
        check(1, &["old"]);
        check(11, &["old", "recent"]);
        check(u64::MAX, &["old", "recent"]);
    }
}
