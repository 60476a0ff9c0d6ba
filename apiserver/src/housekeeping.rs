//! What the server does of its own accord: events expire, and the store's old history goes.
//!
//! Nothing is polled: the next deadline is computed from what there is.

use std::sync::Arc;
use std::time::Duration;

use manifests::k8s_openapi::api::core::v1::Event;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use store::Revision;
use tokio::time::{Instant, sleep};

use crate::handlers::delete::DeleteParams;
use crate::object::Object;
use crate::registry::Row;
use crate::server::ApiServer;

/// How long an event is kept after it was last seen.
const EVENT_LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// Expired events go in batches: not more often than this.
const SWEEP_AT_MOST: Duration = Duration::from_secs(60);
/// The store keeps the history of at least this long. Lists that are continued later start over.
const HISTORY: Duration = Duration::from_secs(300);

impl ApiServer {
    /// Removes events that have expired, until the server stops.
    pub(crate) async fn expire_events(self: Arc<Self>) {
        let Some(row) = self.registry.find("", "v1", "events").cloned() else { return };
        loop {
            let (expired, next) = expired(&row, self.now());
            for object in expired {
                let params = DeleteParams::default();
                // Somebody else may have removed it, or it will be tried again.
                if let Err(error) = self.delete_one(&row, object.key(), object.name(), &params).await {
                    tracing::debug!(event = object.key(), %error, "an expired event stays");
                }
            }
            let pause = next.map_or(Duration::from_secs(3600), |next| next.max(SWEEP_AT_MOST));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Compacts the store's history and that of the caches, until the server stops. A cluster in which nothing happens costs nothing.
    pub(crate) async fn compact_history(self: Arc<Self>) {
        let mut compacted = 0;
        let mut before = self.caches.fresh.applied();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(HISTORY) => {}
            }
            let now = Instant::now();
            self.registry.rows().iter().for_each(|row| row.cache.tidy(now));
            if before > compacted {
                match self.caches.store.compact(Revision(before)).await {
                    Ok(()) => compacted = before,
                    Err(error) => {
                        tracing::warn!(revision = before, %error, "the history could not be compacted")
                    }
                }
            }
            before = self.caches.fresh.applied();
        }
    }
}

/// Events that have expired, and when the next one will.
fn expired(row: &Row, now: Timestamp) -> (Vec<Arc<Object>>, Option<Duration>) {
    let mut gone = Vec::new();
    let mut next: Option<SignedDuration> = None;
    for object in row.cache.all("") {
        let Ok(event) = serde_json::from_slice::<Event>(object.json_bytes()) else { continue };
        let left = EVENT_LIFETIME - now.duration_since(last_seen(&event));
        if left.is_positive() {
            next = Some(next.map_or(left, |next| next.min(left)));
        } else {
            gone.push(object);
        }
    }
    (gone, next.map(|left| left.unsigned_abs()))
}

/// When an event was last seen.
fn last_seen(event: &Event) -> Timestamp {
    let times = [
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
        event.first_timestamp.as_ref().map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0),
    ];
    times.into_iter().flatten().max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

    #[test]
    fn an_event_is_as_old_as_its_last_sight() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut event = Event::default();
        assert_eq!(last_seen(&event), at(0));
        event.metadata.creation_timestamp = Some(Time(at(10)));
        event.event_time = Some(MicroTime(at(5)));
        assert_eq!(last_seen(&event), at(10));
        event.last_timestamp = Some(Time(at(99)));
        assert_eq!(last_seen(&event), at(99));
    }
}
