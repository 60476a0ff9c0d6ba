//! The proxy on a host of its own, with real sockets between namespaces. Needs root and iproute2.

#![expect(clippy::unwrap_used, reason = "a test says by panicking that it failed")]

mod api;
mod choosing;
mod dns;
mod lifetime;
mod moving;
mod world;
