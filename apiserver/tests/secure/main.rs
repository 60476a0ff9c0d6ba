//! The secure port: TLS, certificates, both HTTP versions, and streams that go on to a node's agent.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod identity;
mod port;
mod streams;
