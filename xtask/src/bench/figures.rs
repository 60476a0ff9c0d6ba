//! Series of measurements.

use std::time::Duration;

/// Durations of one thing, measured several times.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Duration>);

impl Series {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut seconds: Vec<f64> = self.0.iter().map(Duration::as_secs_f64).collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    }

    /// The value that `percent` of the measurements do not exceed.
    fn percentile(&self, percent: usize) -> f64 {
        let sorted = self.sorted();
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median_s(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn median_ms(&self) -> f64 {
        self.percentile(50) * 1000.0
    }

    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        self.percentile(percent) * 1000.0
    }

    pub(crate) fn spread(&self, unit: &str, factor: f64) -> String {
        let sorted = self.sorted();
        let edge = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN) * factor;
        format!("n={}, {:.2}–{:.2} {unit}", sorted.len(), edge(sorted.first()), edge(sorted.last()))
    }
}
