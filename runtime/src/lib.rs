//! Containers natively: namespaces, cgroups, mounts, seccomp, and one keeper process per sandbox.
//!
//! The runtime knows OCI and no Kubernetes. A *sandbox* is a set of shared namespaces and a cgroup, held by
//! a *keeper*: a small single-threaded process that is the parent and reaper of the sandbox's containers,
//! writes their logs (CRI format), keeps their exit codes and outlives whoever asked for it. A container
//! is described by an OCI runtime [`oci_spec::runtime::Spec`].
//!
//! [`Runtime`] finds living sandboxes again after a restart: what it must know is in the kernel and in small
//! files under its run and state directories.
