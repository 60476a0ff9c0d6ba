//! What the node and its pods use: one sample from the kernel's files, shown in three ways: `/stats/summary`,
//! `/metrics/resource` and `/metrics/cadvisor`, with the names that the kubelet gives to the figures. No directory is walked.

mod prometheus;
mod sample;
mod summary;

pub(crate) use prometheus::{cadvisor, metrics, resource};
pub(crate) use sample::{Earlier, Sample};
pub(crate) use summary::summary;
