//! What all controllers share: the client and one cache per resource.

use client::{Client, Informers, TaskGroup};

/// What a controller is given when it starts.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
}

impl Context {
    pub(crate) fn new(client: Client, group: &TaskGroup) -> Self {
        let informers = Informers::new(client.clone(), group.stop().clone());
        Self { client, informers }
    }

    /// Starts the watches behind the caches.
    pub(crate) fn start(&self, group: &mut TaskGroup) {
        let informers = self.informers.clone();
        group.spawn_infallible("informers", async move { informers.run().await });
    }
}
