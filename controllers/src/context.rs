//! What all controllers share: the client and one cache per resource.

use client::{Client, EventRecorder, Informers, TaskGroup, events};

/// What a controller is given when it starts.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
}

impl Context {
    /// With caches of its own, whose watches run in the group.
    pub(crate) fn new(client: Client, group: &mut TaskGroup) -> Self {
        let informers = Informers::new(client.clone(), group.stop().clone());
        let running = informers.clone();
        group.spawn_infallible("informers", async move { running.run().await });
        Self { client, informers }
    }

    /// A recorder of events in a controller's name.
    pub(crate) fn recorder(&self, component: &'static str, group: &mut TaskGroup) -> EventRecorder {
        let (recorder, writer) = events::events(self.client.clone(), component, None);
        let stop = group.stop().clone();
        group.spawn_infallible(component, async move { writer.run(stop).await });
        recorder
    }
}
