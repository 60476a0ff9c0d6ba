//! The contract of an OCI runtime: each case runs against `coracle oci`, and against runc and crun where they are
//! installed, so that the cases are tested as well.
//!
//! Cases about words (which step failed on what), and those about attacks, run against coracle alone.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say what they compare with, and panic")]

mod checkpoint;
mod engines;
mod escapes;
mod exec;
mod files;
mod hooks;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod seccomp;
mod selinux;
mod support;
mod trace;
