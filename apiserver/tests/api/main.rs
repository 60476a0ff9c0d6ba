//! The API server over the memory store, called in process.

mod common;
mod crud;
mod watch;
