//! What pods use. Memory and processes are files of the kernel; the disk has to be walked, which is done only for pods
//! that have bounds on it, and for all when the disk is short.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::decide::Usage;
use crate::names::{Layout, uid};
use crate::pod::worker::View;
use crate::volume::plan::{Kind, plan};

/// What a pod uses of memory and processes.
pub(super) async fn running(view: &View) -> Usage {
    let mut usage = Usage::default();
    let Some(sandbox) = view.sandbox.as_ref().filter(|sandbox| sandbox.is_ready()) else { return usage };
    if let Ok(stats) = sandbox.sandbox_stats().await {
        usage.memory.total = stats.memory_working_set.unwrap_or(0);
        usage.pids = stats.pids.unwrap_or(0);
    }
    for (name, container) in view.containers.iter().filter(|(_, container)| container.running) {
        if let Ok(stats) = sandbox.stats(&container.id).await {
            usage.memory.containers.insert(name.clone(), stats.memory_working_set.unwrap_or(0));
        }
    }
    usage
}

/// Adds what a pod uses of the disk. Blocks.
pub(super) fn on_disk(view: &View, layout: &Layout, usage: &mut Usage) {
    let pod = &view.pod;
    let dir = layout.pod(uid(pod));
    let mut total = 0;
    for (name, container) in &view.containers {
        let layer = size(&layout.rootfs(uid(pod), &container.id).join("upper"));
        let used = layer + size(&layout.container_logs(pod, name));
        usage.disk.containers.insert(name.clone(), used);
        total += used;
    }
    for volume in plan(pod, &dir).unwrap_or_default() {
        match volume.kind {
            Kind::EmptyDir => {
                let used = size(&volume.path);
                usage.empty_dirs.insert(volume.name, used);
                total += used;
            }
            Kind::Files { .. } => total += size(&volume.path),
            Kind::Memory { .. } | Kind::HostPath { .. } | Kind::Image { .. } | Kind::Claim { .. } => {}
        }
    }
    usage.disk.total = total;
}

/// Bytes that a tree takes on its disk; what vanishes meanwhile is nothing. Mounts within it are somebody else's.
fn size(root: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(root) else { return 0 };
    let device = meta.dev();
    let mut total = meta.blocks() * 512;
    let mut directories: Vec<PathBuf> = if meta.is_dir() { vec![root.to_owned()] } else { Vec::new() };
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            // A file with several names counts once for each: fewer would need a list of all.
            total += meta.blocks() * 512;
            if meta.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_summed() {
        let dir = tempfile::tempdir().unwrap();
        let before = size(dir.path());
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let grown = size(dir.path()) - before;
        assert!((98_304..200_000).contains(&grown), "{grown}");
        assert_eq!(size(&dir.path().join("missing")), 0);
    }
}
