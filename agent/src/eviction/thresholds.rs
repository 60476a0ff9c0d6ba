//! When something is running out: the thresholds, as `--eviction-hard` has them, and what is beyond them.

use std::fmt;
use std::str::FromStr;

use manifests::quantity::Quantity;

/// What can run out, as upstream calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    Disk,
    /// `nodefs.inodesFree`
    Inodes,
    /// `pid.available`
    Pids,
}

impl Signal {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Memory, "memory.available"),
        (Self::Disk, "nodefs.available"),
        (Self::Inodes, "nodefs.inodesFree"),
        (Self::Pids, "pid.available"),
    ];

    /// As flags name it.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    /// The signal of a name.
    pub(super) fn named(name: &str) -> Result<Self, ThresholdError> {
        let found = Self::ALL.into_iter().find(|(_, known)| *known == name);
        found.map(|(signal, _)| signal).ok_or_else(|| ThresholdError::Signal(name.to_owned()))
    }

    /// What pods are short of then.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supply {
    /// What is left.
    pub available: u64,
    /// All of it; 0 if it is not known, and then nothing is said about it.
    pub capacity: u64,
}

/// What is left on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supplies {
    /// Bytes of memory.
    pub memory: Supply,
    /// Bytes of the file system that pods share.
    pub disk: Supply,
    /// Its inodes.
    pub inodes: Supply,
    /// Process ids.
    pub pids: Supply,
}

impl Supplies {
    fn of(&self, signal: Signal) -> Supply {
        match signal {
            Signal::Memory => self.memory,
            Signal::Disk => self.disk,
            Signal::Inodes => self.inodes,
            Signal::Pids => self.pids,
        }
    }
}

/// How much must be left.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Least {
    Amount(u64),
    /// Of the capacity, but no more than the second.
    Share(f64, u64),
}

impl Least {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share of an amount is no more than it, and exact to a millionth"
            )]
            Self::Share(share, most) => ((capacity as f64 * share) as u64).min(most),
        }
    }
}

/// How much must be left of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(Vec<(Signal, Least)>);

impl Default for Thresholds {
    /// As upstream, but of a large disk 2 GiB are enough to go on with.
    fn default() -> Self {
        Self(vec![
            (Signal::Memory, Least::Amount(100 << 20)),
            (Signal::Disk, Least::Share(0.05, 2 << 30)),
            (Signal::Inodes, Least::Share(0.05, u64::MAX)),
            (Signal::Pids, Least::Share(0.1, u64::MAX)),
        ])
    }
}

/// Something of which too little is left.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortage {
    /// Of what.
    pub signal: Signal,
    /// What must be left.
    pub threshold: u64,
    /// What is left.
    pub available: u64,
}

impl Thresholds {
    /// These and others.
    #[must_use]
    pub fn and(mut self, others: Option<&Self>) -> Self {
        self.0.extend(others.into_iter().flat_map(|others| others.0.iter().copied()));
        self
    }

    pub(super) fn signals(&self) -> impl Iterator<Item = Signal> {
        self.0.iter().map(|(signal, _)| *signal)
    }

    /// What is short, memory first: nothing else kills as surely.
    pub fn shortages(&self, supplies: &Supplies) -> Vec<Shortage> {
        let mut found = Vec::new();
        for (signal, least) in &self.0 {
            let supply = supplies.of(*signal);
            let threshold = least.of(supply.capacity);
            if supply.capacity > 0 && supply.available < threshold {
                found.push(Shortage { signal: *signal, threshold, available: supply.available });
            }
        }
        found.sort_by_key(|shortage| shortage.signal);
        found
    }
}

/// A threshold that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// Not `SIGNAL<VALUE`.
    #[error("{0:?} is not of the form signal<value, for example memory.available<100Mi")]
    Form(String),
    /// Nothing that is watched.
    #[error(
        "{0:?} is not watched: memory.available, nodefs.available, nodefs.inodesFree and pid.available are"
    )]
    Signal(String),
    /// Not `SIGNAL=DURATION`.
    #[error("{0:?} is not of the form signal=duration, for example memory.available=1m30s")]
    Period(String),
    /// A soft threshold without a period.
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoPeriod(&'static str),
    /// Neither an amount nor a percentage.
    #[error("{0:?} is neither an amount nor a percentage")]
    Value(String),
}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    /// `memory.available<100Mi,nodefs.available<10%`: what is not named is not watched.
    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let mut list = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('<').ok_or_else(|| ThresholdError::Form(part.to_owned()))?;
            let signal = Signal::named(name.trim())?;
            list.push((signal, least(value.trim()).ok_or_else(|| ThresholdError::Value(value.to_owned()))?));
        }
        Ok(Self(list))
    }
}

fn least(value: &str) -> Option<Least> {
    if let Some(percent) = value.strip_suffix('%') {
        let percent: f64 = percent.parse().ok()?;
        return (0.0..=100.0).contains(&percent).then_some(Least::Share(percent / 100.0, u64::MAX));
    }
    u64::try_from(Quantity::parse(value).ok()?.value()).ok().map(Least::Amount)
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Threshold quantity: {}, available: {}. ",
            amount(self.signal, self.threshold),
            amount(self.signal, self.available)
        )
    }
}

/// An amount as messages have it: bytes with their prefix, counts plain.
pub(super) fn amount(signal: Signal, value: u64) -> Quantity {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    match signal {
        Signal::Memory | Signal::Disk => Quantity::from_bytes(value),
        Signal::Inodes | Signal::Pids => Quantity::new(value, manifests::quantity::Format::DecimalSi),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        for (text, expected) in [
            ("", Ok(vec![])),
            ("memory.available<100Mi", Ok(vec![(Signal::Memory, Least::Amount(100 << 20))])),
            (
                "nodefs.available<10%, pid.available<1k",
                Ok(vec![(Signal::Disk, Least::Share(0.1, u64::MAX)), (Signal::Pids, Least::Amount(1000))]),
            ),
            ("memory.available=1", Err(ThresholdError::Form("memory.available=1".into()))),
            ("swap.available<1", Err(ThresholdError::Signal("swap.available".into()))),
            ("memory.available<101%", Err(ThresholdError::Value("101%".into()))),
            ("memory.available<much", Err(ThresholdError::Value("much".into()))),
        ] {
            assert_eq!(text.parse::<Thresholds>().map(|thresholds| thresholds.0), expected, "{text}");
        }
    }

    #[test]
    fn what_is_short() {
        let supply = |available, capacity| Supply { available, capacity };
        let enough = Supplies {
            memory: supply(1 << 30, 2 << 30),
            disk: supply(3 << 30, 100 << 30),
            inodes: supply(50, 1000),
            pids: supply(100, 1000),
        };
        let thresholds = Thresholds::default();
        assert_eq!(thresholds.shortages(&enough), []);
        assert_eq!(thresholds.shortages(&Supplies::default()), [], "what is not known is not short");
        let short = Supplies { memory: supply(80 << 20, 2 << 30), inodes: supply(49, 1000), ..enough };
        let found: Vec<String> = thresholds.shortages(&short).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["Threshold quantity: 100Mi, available: 80Mi. ", "Threshold quantity: 50, available: 49. "]
        );
    }
}
