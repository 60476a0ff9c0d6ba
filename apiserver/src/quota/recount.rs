//! Keeps `status.used` of every quota at what there is.
//!
//! Runs when something that a quota counts has changed, and not more often than it costs a twentieth of the time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use manifests::k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use tokio::time::Instant;

use super::usage::{in_scope, is_about, usage};
use super::{Amounts, amounts, to_api};
use crate::error::Error;
use crate::object::Object;
use crate::registry::{AnyObject, Row};
use crate::server::ApiServer;
use crate::write::Decision;

/// Changes that come at once are counted once.
const PAUSE: Duration = Duration::from_millis(100);
/// So much longer than a count is the pause after it.
const SHARE: u32 = 20;

impl ApiServer {
    /// Counts until the server stops.
    pub(crate) async fn recount_quotas(self: Arc<Self>) {
        let Some(quotas) = self.registry.find("", "v1", "resourcequotas").cloned() else { return };
        let mut own = quotas.cache.subscribe();
        loop {
            own.mark_unchanged();
            let counted = self.counted(&quotas);
            let mut changes: Vec<_> = counted.iter().map(|row| row.cache.subscribe()).collect();
            let began = Instant::now();
            for quota in quotas.cache.all("") {
                if let Err(error) = self.recount(&quotas, &counted, &quota).await {
                    // It comes up again with the next change.
                    tracing::debug!(quota = quota.key(), ?error, "a quota was not counted");
                }
            }
            let pause = PAUSE.max(began.elapsed() * SHARE);
            let others = changes.iter_mut().map(|change| change.changed().map(drop).boxed());
            let any: Vec<_> = others.collect();
            tokio::select! {
                () = self.stop.cancelled() => return,
                // A new quota admits nothing before its first count.
                changed = own.changed() => if changed.is_err() { return },
                () = async { drop(select_all(any).await) }, if !counted.is_empty() => {
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// The resources that some quota counts.
    fn counted(&self, quotas: &Row) -> Vec<Arc<Row>> {
        let limited: Vec<String> = quotas
            .cache
            .all("")
            .iter()
            .filter_map(|quota| read(quota))
            .flat_map(|quota| hard(&quota).into_keys())
            .collect();
        let rows = self.registry.rows().iter().filter(|row| row.kind.namespaced && row.kind.is_stored());
        // Two rows that share a cache are one kind of object.
        rows.filter(|row| row.view.is_none() && row.kind.kind != "Event")
            .filter(|row| limited.iter().any(|name| is_about(row.kind, name)))
            .cloned()
            .collect()
    }

    async fn recount(&self, quotas: &Row, counted: &[Arc<Row>], object: &Object) -> Result<(), Error> {
        // The quota may be newer here than the objects of the same transaction.
        self.caches.fresh.reached(object.revision()).await;
        let Some(quota) = read(object) else { return Ok(()) };
        let hard = hard(&quota);
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), Default::default())).collect();
        let now = self.now();
        let within = format!("{}/", object.namespace());
        for row in counted.iter().filter(|row| hard.keys().any(|name| is_about(row.kind, name))) {
            for one in row.cache.all(&within) {
                let Ok(one) = row.hooks.read(one.json_bytes()) else { continue };
                if in_scope(&quota, &*one) {
                    for (name, amount) in usage(row.kind, &*one, now) {
                        used.entry(name).and_modify(|sum| *sum += amount);
                    }
                }
            }
        }
        let status = ResourceQuotaStatus { hard: Some(to_api(&hard)), used: Some(to_api(&used)) };
        if quota.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.write(quotas, object.key(), false, |current| {
            let now = current.object.as_ref().filter(|_| current.revision == object.revision());
            // Somebody was faster: that change is counted next.
            let Some(now) = now.and_then(|now| now.as_any().downcast_ref::<ResourceQuota>()) else {
                return Ok(Decision::Keep);
            };
            let counted = ResourceQuota { status: Some(status.clone()), ..now.clone() };
            Ok(Decision::Put(counted.boxed(), Default::default()))
        })
        .await?;
        Ok(())
    }
}

fn read(object: &Object) -> Option<ResourceQuota> {
    serde_json::from_slice(object.json_bytes()).ok()
}

fn hard(quota: &ResourceQuota) -> Amounts {
    amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}
