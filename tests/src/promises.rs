//! What is promised when nodes are lost and come back, checked against what containers wrote down themselves: each writes the time into a
//! file of its own, once a second for as long as it lives. Its name says which pod, on which node, and which container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the containers are, with `BEATS` in place of the nodes' directory for the files.
pub const WORKLOAD: &str = include_str!("promises.yaml");

/// One container's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Its pod.
    pub pod: String,
    /// Where it ran.
    pub node: String,
    /// The seconds in which it lived.
    pub beats: BTreeSet<u64>,
}

impl Life {
    /// From the name of its file and what is in it.
    pub fn read(name: &str, text: &str) -> Option<Self> {
        let mut words = name.split('@');
        let (pod, node) = (words.next()?.to_owned(), words.next()?.to_owned());
        // A power cut may leave half a line.
        let beats = text.lines().filter_map(|line| line.parse().ok()).filter(|at| *at > 1_000_000_000);
        let beats: BTreeSet<u64> = beats.collect();
        (!beats.is_empty()).then_some(Self { pod, node, beats })
    }

    fn first(&self) -> u64 {
        self.beats.first().copied().unwrap_or(0)
    }

    fn last(&self) -> u64 {
        self.beats.last().copied().unwrap_or(0)
    }
}

/// All lives of a test.
#[derive(Debug)]
pub struct Lives(pub Vec<Life>);

impl Lives {
    /// Those whose files are in a directory.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn in_directory(directory: &Path) -> Self {
        let entries = std::fs::read_dir(directory).expect("the files of the containers").flatten();
        let lives = entries.filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path()).ok()?;
            Life::read(entry.file_name().to_str()?, &text)
        });
        Self(lives.collect())
    }

    /// No pod has two containers at the same time, wherever they are, and none ever changes its node; `slack` is by how many seconds the
    /// nodes' clocks may differ.
    ///
    /// # Panics
    /// When one has.
    #[track_caller]
    pub fn no_pod_runs_twice(&self, slack: u64) {
        let mut pods: BTreeMap<&str, Vec<&Life>> = BTreeMap::new();
        for life in &self.0 {
            pods.entry(&life.pod).or_default().push(life);
        }
        assert!(pods.len() >= 7, "too few pods were seen: {:?}", pods.keys());
        for (pod, mut lives) in pods {
            lives.sort_by_key(|life| life.first());
            for pair in lives.windows(2) {
                assert!(
                    pair[0].last() <= pair[1].first() + slack,
                    "{pod} ran twice: on {} until {}, on {} from {}",
                    pair[0].node,
                    pair[0].last(),
                    pair[1].node,
                    pair[1].first()
                );
            }
        }
    }

    /// Never are there more than `most` pods of this name's beginning, except within these times.
    ///
    /// # Panics
    /// When there are.
    #[track_caller]
    pub fn no_more_than(&self, most: usize, name: &str, except: &[(u64, u64)]) {
        let lives: Vec<&Life> = self.0.iter().filter(|life| life.pod.starts_with(name)).collect();
        let (from, to) = (
            lives.iter().map(|life| life.first()).min().unwrap_or(0),
            lives.iter().map(|life| life.last()).max().unwrap_or(0),
        );
        for at in (from..=to).filter(|at| !except.iter().any(|(from, to)| (from..=to).contains(&at))) {
            let running: Vec<&&Life> =
                lives.iter().filter(|life| (life.first()..=life.last()).contains(&at)).collect();
            let names: BTreeSet<&str> = running.iter().map(|life| life.pod.as_str()).collect();
            assert!(names.len() <= most, "{} pods instead of {most} ran at {at}: {running:#?}", names.len());
        }
    }

    /// The pods of a node with this name's beginning lived all that time with one container, and never were silent for longer than
    /// `patience` seconds. Answers the longest silence.
    ///
    /// # Panics
    /// When they did not.
    #[track_caller]
    pub fn went_on(&self, name: &str, node: &str, (from, to): (u64, u64), patience: u64) -> u64 {
        let lives: Vec<&Life> = self
            .0
            .iter()
            .filter(|life| life.pod.starts_with(name) && life.node == node)
            .filter(|life| life.first() <= to && life.last() >= from)
            .collect();
        assert!(!lives.is_empty(), "nothing named {name} ran on {node}: {:#?}", self.0);
        let pods: BTreeSet<&str> = lives.iter().map(|life| life.pod.as_str()).collect();
        assert_eq!(pods.len(), lives.len(), "containers were started again: {lives:#?}");
        let mut longest = 0;
        for life in lives {
            let within = life.beats.range(from..=to).copied();
            let mut last = from;
            for at in within.chain([to]) {
                longest = longest.max(at - last);
                last = at;
            }
            assert!(longest <= patience, "{} on {node} was silent for {longest} s of {from}–{to}", life.pod);
        }
        longest
    }
}

/// The time, as the containers write it.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(list: &[(&str, &str, std::ops::RangeInclusive<u64>)]) -> Lives {
        let life = |(pod, node, beats): &(&str, &str, std::ops::RangeInclusive<u64>)| Life {
            pod: (*pod).to_owned(),
            node: (*node).to_owned(),
            beats: beats.clone().collect(),
        };
        Lives(list.iter().map(life).collect())
    }

    fn refuses(check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(check).is_err()
    }

    #[test]
    fn the_checks_notice_what_they_are_for() {
        let mut base: Vec<(&str, &str, std::ops::RangeInclusive<u64>)> =
            ["a", "b", "c", "d", "e", "f", "g"].map(|pod| (pod, "n1", 10..=20)).to_vec();
        lives(&base).no_pod_runs_twice(0);
        lives(&base).no_more_than(1, "a", &[]);
        assert_eq!(lives(&base).went_on("a", "n1", (10, 20), 1), 1);
        assert!(refuses(|| _ = lives(&[("a", "n1", 10..=12)]).went_on("a", "n1", (10, 20), 3)));
        assert!(refuses(|| _ = lives(&[("a", "n1", 10..=12)]).went_on("a", "n2", (10, 20), 30)));
        base.push(("a", "n2", 19..=30));
        let twice = lives(&base);
        assert!(refuses(|| lives(&base).no_pod_runs_twice(0)));
        twice.no_pod_runs_twice(1);
        base.push(("a2", "n2", 15..=30));
        assert!(refuses(|| lives(&base).no_more_than(1, "a", &[])));
        lives(&base).no_more_than(1, "a", &[(15, 30)]);
    }

    #[test]
    fn half_a_line_is_no_time() {
        let life = Life::read("six-1@n2@uuid", "1700000000\n1700000001\n17000").unwrap();
        assert_eq!((life.pod.as_str(), life.node.as_str(), life.beats.len()), ("six-1", "n2", 2));
        assert_eq!(Life::read("nonsense", "1700000000"), None);
    }
}
