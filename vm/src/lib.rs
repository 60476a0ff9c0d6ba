//! Local clusters of virtual machines. Knows kernels, archives and QEMU; no Kubernetes.
//!
//! ```text
//!   host                                             guest
//!   ┌───────────────────────────────────────┐        ┌──────────────────────────────────────────────┐
//!   │ initramfs: this binary + modules      │        │ /init = this binary, process number one      │
//!   │ qemu: one process per node            │ ttyS0  │   mounts, modules, address, disk             │
//!   │   console.log  ◀──────────────────────┼────────┤   supervises `coracle up` or `coracle agent` │
//!   │   control.sock ◀──────────────────────┼────────┤   answers: run this, power off               │
//!   │ bridge ── tap ────────────────────────┼────────┤ eth0                                         │
//!   └───────────────────────────────────────┘ ttyS1  └──────────────────────────────────────────────┘
//! ```

pub mod accel;
pub mod cluster;
pub mod control;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod qmp;
mod sys;
