//! A Kubernetes client over reqwest, or over an API server in the same process.
//!
//! [`Client`] owns a [`Transport`]; [`Api`] is a typed view of one resource; [`watcher`] turns list and
//! watch into one stream that survives disconnects and 410 Gone; [`Informer`] keeps a [`Cache`] from
//! it; [`WorkQueue`] carries keys, never payloads.
//!
//! The in-process transport has the same semantics as HTTPS (conflicts, watch, 410 Gone): it is the same
//! request and response values, without the sockets.
//!
//! ```text
//!   Api<K> ── request.rs: requests as plain values ── Client ── Transport ─┬─ https.rs (reqwest)
//!     │                                                                    └─ in process (the binary)
//!   watcher (list → watch → …) ── Informer ── Cache<K> + change handlers ── WorkQueue<Key> ── reconcile
//! ```

mod api;
mod backoff;
pub mod cache;
mod client;
mod dynamic;
mod error;
pub mod events;
#[cfg(test)]
mod fake;
mod https;
mod informer;
pub mod kubeconfig;
pub mod lease;
mod object;
mod request;
mod task_group;
mod transport;
mod watch_stream;
pub mod watcher;
mod work_queue;

pub use api::{Api, Deletion, List};
pub use backoff::{Backoff, jittered};
pub use cache::{Cache, CacheWriter, Change, Changes, Index};
pub use client::Client;
pub use dynamic::{PartialObject, Unstructured};
pub use error::{Error, ErrorChain, ErrorClass};
pub use events::{EventRecorder, EventType, EventWriter};
pub use https::{HttpsTransport, HttpsTransportError};
pub use informer::{Informer, Informers};
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use object::{ApiResource, Object, ObjectKey};
pub use request::{DeleteParams, GetParams, ListParams, Patch, Propagation, WatchParams, WriteParams};
pub use task_group::{TaskError, TaskGroup};
pub use transport::{Body, Duplex, Transport, TransportError, Upgraded};
pub use watch_stream::{WatchEvent, WatchStream};
pub use work_queue::{Next, WorkQueue};
