//! Images: names, pull, import, verify, unpack, collect garbage. Knows OCI, no pods.
//!
//! ```text
//!   registry --pull--+                      +--> blobs/sha256/…   as they came, digest checked, synced
//!   archive --import-+--> work/ (unfinished)+--> layers/<chain>/fs  ready as lower directories of overlayfs
//!   directory -build-+                      +--> index.json       what is complete, by name; replaced whole
//! ```
//!
//! - The store's directory is an OCI image layout that others can read.
//! - Nothing is in the index before all of it is verified, unpacked and on disk. What a killed process leaves is in
//!   `work/`, and goes away when the store is opened the next time.
//! - Several processes may use one store: additions hold a shared lock, collecting garbage an exclusive one; readers
//!   need none and see additions at once.
//! - Everything that comes from outside is bounded ([`Limits`]) and streamed.

mod build;
mod digest;
mod export;
mod import;
mod pack;
mod platform;
pub mod reference;
pub mod registry;
mod store;
pub mod tar;
pub mod transfer;
pub mod unpack;

pub use build::BuildError;
pub use digest::{Digest, DigestError};
pub use export::ExportError;
pub use import::ImportError;
pub use oci_spec;
pub use reference::{Reference, ReferenceError};
pub use registry::auth::Auth;
pub use registry::{Progress, PullError, PullOptions};
pub use store::{Collected, Image, ImageStore, OpenError, Removed, StoreError};

/// The most that an image may be. The defaults are generous: they are there so that a hostile image cannot fill memory
/// or run for ever, not to save disk.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a manifest, an index or a configuration.
    pub manifest_bytes: u64,
    /// Layers of one image. overlayfs takes no more than 500, Docker no more than 127.
    pub layers: usize,
    /// Files in all layers of one image.
    pub entries: u64,
    /// Bytes of all layers of one image, unpacked.
    pub unpacked_bytes: u64,
    /// Bytes of one compressed layer.
    pub blob_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            manifest_bytes: 4 << 20,
            layers: 127,
            entries: 2_000_000,
            unpacked_bytes: 128 << 30,
            blob_bytes: 64 << 30,
        }
    }
}
