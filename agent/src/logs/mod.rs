//! Containers' logs: files in CRI format, one per run and rotation, followed by inotify.

pub mod line;
pub mod read;
