//! The API server over the memory store, called in process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod apply;
mod common;
mod crud;
mod deletion;
mod faults;
mod forms;
mod garbage;
mod limits;
mod namespaces;
mod plain;
mod pods;
mod protobuf;
mod roles;
mod services;
mod watch;
mod workloads;
mod writes;
