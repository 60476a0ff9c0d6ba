//! The secure port: TLS, certificates, both HTTP versions, and streams that go on to a node's agent.

mod agent;
mod identity;
mod port;
mod streams;
