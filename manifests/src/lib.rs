//! The vocabulary of coracle: Kubernetes types and everything about them that needs no I/O.

pub use k8s_openapi;

pub mod strategic;
