//! Where the API servers of a cluster are: the endpoints of the service `kubernetes`.
//!
//! Servers that share a store each keep a record under [`RECORDS`] and renew it. Every server merges all of them into the
//! endpoints, so whoever starts last takes nobody's place. A record that has not changed for a while, by the clock of
//! the one who looks, is of a server that is gone: no two machines have to agree on the time. A server that ends in
//! order takes its record with it.
//!
//! ```text
//! renew own record ─▶ list all ─▶ who has changed lately? ─▶ endpoints, if they differ ─▶ 10 s
//! ```
//!
//! A store that no other server can have needs one look, and no renewals.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use manifests::status::ApiError;
use serde_json::{Value, json};
use store::{Compare, ListOptions, Op, Revision, StoreError, Txn};
use tokio::time::Instant;

use crate::server::ApiServer;

/// Keys of the records; what follows is address and port. Their values say nothing.
const RECORDS: &str = "/registry/masterleases/";
/// How often a record is renewed, and how long one counts that is not: as upstream.
const RENEW: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(15);

/// A record, as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    revision: Revision,
    /// When this revision was seen for the first time.
    since: Instant,
}

/// The servers of a cluster by address.
type Records = BTreeMap<SocketAddrV4, Record>;

/// What is known now, from what was known and what is there.
fn observe(
    known: &Records,
    found: impl IntoIterator<Item = (SocketAddrV4, Revision)>,
    now: Instant,
) -> Records {
    found
        .into_iter()
        .map(|(address, revision)| {
            let before = known.get(&address).filter(|before| before.revision == revision);
            (address, Record { revision, since: before.map_or(now, |before| before.since) })
        })
        .collect()
}

/// Records of servers that are gone. Whoever has the store for itself knows that everybody else is.
fn expired(known: &Records, own: SocketAddrV4, shared: bool, now: Instant) -> Vec<(SocketAddrV4, Revision)> {
    let old = |record: &Record| !shared || now.duration_since(record.since) > LIFETIME;
    known
        .iter()
        .filter(|(address, record)| **address != own && old(record))
        .map(|(address, record)| (*address, record.revision))
        .collect()
}

/// Ports with their addresses.
fn by_port(known: &Records) -> BTreeMap<u16, Vec<String>> {
    let mut ports: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for address in known.keys() {
        ports.entry(address.port()).or_default().push(address.ip().to_string());
    }
    ports
}

fn endpoints(known: &Records) -> Value {
    let subsets: Vec<Value> = by_port(known)
        .into_iter()
        .map(|(port, addresses)| {
            let addresses: Vec<Value> = addresses.into_iter().map(|ip| json!({"ip": ip})).collect();
            json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
        })
        .collect();
    let skip = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "labels": skip},
        "subsets": subsets,
    })
}

/// One slice, as upstream has it, for the port that most servers have, and one each for other ports.
fn slices(known: &Records) -> Vec<Value> {
    let mut ports: Vec<(u16, Vec<String>)> = by_port(known).into_iter().collect();
    ports.sort_by_key(|(port, addresses)| (std::cmp::Reverse(addresses.len()), *port));
    ports
        .into_iter()
        .enumerate()
        .map(|(index, (port, addresses))| {
            let name = if index == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{port}") };
            let endpoints: Vec<Value> = addresses
                .into_iter()
                .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
                .collect();
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            })
        })
        .collect()
}

/// Why the endpoints could not be brought up to date.
#[derive(Debug, thiserror::Error)]
enum AdvertiseError {
    #[error("keeping the record of this server")]
    Store(#[from] StoreError),
    #[error("writing the endpoints of the service kubernetes")]
    Api(#[from] ApiError),
}

impl ApiServer {
    /// The address that other machines can use. A loopback address means something else on every machine and in every pod.
    fn own_address(&self) -> Option<SocketAddrV4> {
        match self.config.advertise.0 {
            IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => {
                Some(SocketAddrV4::new(address, self.config.advertise.1))
            }
            _ => None,
        }
    }

    /// Keeps this server among the endpoints of the service `kubernetes` until it stops.
    pub(crate) async fn advertise(self: Arc<Self>) {
        let Some(own) = self.own_address() else { return };
        let mut known = Records::new();
        loop {
            match self.advertise_once(own, &mut known).await {
                Ok(()) if !self.caches.store.is_shared() => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = %crate::render::chain(&error), "this server may not be found")
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(RENEW) => {}
            }
        }
        self.withdraw(own, known).await;
    }

    async fn advertise_once(&self, own: SocketAddrV4, known: &mut Records) -> Result<(), AdvertiseError> {
        let store = &self.caches.store;
        let put = Op::Put(format!("{RECORDS}{own}"), "here".into());
        store.commit(Txn { compare: Vec::new(), ops: vec![put] }).await?;
        let found = store.list(RECORDS, &ListOptions::default()).await?.items;
        let found = found
            .into_iter()
            .filter_map(|item| Some((item.key.strip_prefix(RECORDS)?.parse().ok()?, item.mod_revision)));
        let now = Instant::now();
        *known = observe(known, found, now);
        for (address, revision) in expired(known, own, store.is_shared(), now) {
            tracing::info!(%address, "an API server is gone");
            self.forget(address, Some(revision)).await?;
            known.remove(&address);
        }
        Ok(self.publish(known).await?)
    }

    /// Removes a record, if it is still of that revision.
    async fn forget(&self, address: SocketAddrV4, revision: Option<Revision>) -> Result<(), StoreError> {
        let key = format!("{RECORDS}{address}");
        let compare =
            revision.map(|revision| Compare::ModRevision(key.clone(), revision)).into_iter().collect();
        self.caches.store.commit(Txn { compare, ops: vec![Op::Delete(key)] }).await.map(drop)
    }

    /// Takes this server out: who comes next need not wait for it. Whoever else is there keeps the endpoints.
    async fn withdraw(&self, own: SocketAddrV4, mut known: Records) {
        known.remove(&own);
        if known.is_empty() {
            return;
        }
        if let Err(error) = self.forget(own, None).await {
            tracing::debug!(%error, "the record of this server stays until it expires");
        }
        if let Err(error) = self.publish(&known).await {
            tracing::debug!(%error, "this server stays among the endpoints until others notice");
        }
    }

    async fn publish(&self, known: &Records) -> Result<(), ApiError> {
        let core = "/api/v1/namespaces/default/endpoints";
        let discovery = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.want(core, &endpoints(known), "subsets").await?;
        let slices = slices(known);
        for slice in &slices {
            self.want(discovery, slice, "endpoints").await?;
        }
        // Slices of ports that nobody has any more.
        let Some(row) = self.registry.find("discovery.k8s.io", "v1", "endpointslices") else { return Ok(()) };
        for object in row.cache.all("default/kubernetes-") {
            let name = object.name();
            let ours = name.strip_prefix("kubernetes-").is_some_and(|port| port.parse::<u16>().is_ok());
            if ours && !slices.iter().any(|slice| slice["metadata"]["name"] == name) {
                self.ask(Method::DELETE, &format!("{discovery}/{name}"), &json!({})).await?;
            }
        }
        Ok(())
    }

    /// Makes an object that says what it should in one field; one that says so already is left alone.
    async fn want(&self, collection: &str, object: &Value, field: &str) -> Result<(), ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{collection}/{name}");
        let have = self.read(&path).await?;
        let Some(have) = have else { return self.ask(Method::POST, collection, object).await };
        if have[field] == object[field] && have["ports"] == object["ports"] {
            return Ok(());
        }
        self.ask(Method::PUT, &path, object).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([192, 0, 2, last].into(), if last == 3 { 7443 } else { 6443 })
    }

    #[test]
    fn who_does_not_renew_is_gone() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let known = observe(&Records::new(), [(address(1), Revision(2)), (address(2), Revision(3))], at(0));
        assert_eq!(expired(&known, address(1), true, at(10)), []);
        let known = observe(&known, [(address(1), Revision(5)), (address(2), Revision(3))], at(10));
        assert_eq!(expired(&known, address(1), true, at(15)), []);
        assert_eq!(expired(&known, address(1), true, at(16)), [(address(2), Revision(3))]);
        assert_eq!(expired(&known, address(1), false, at(10)), [(address(2), Revision(3))]);
        // Whoever looks does not take itself for dead.
        assert_eq!(expired(&known, address(2), true, at(16)), []);
        let known = observe(&known, [(address(1), Revision(5)), (address(2), Revision(9))], at(20));
        assert_eq!(expired(&known, address(1), true, at(35)), []);
    }

    #[test]
    fn all_servers_are_endpoints() {
        let records = [(address(2), Revision(3)), (address(1), Revision(2)), (address(3), Revision(4))];
        let known = observe(&Records::new(), records, Instant::now());
        assert_eq!(
            endpoints(&known)["subsets"],
            json!([
                {"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]},
                {"addresses": [{"ip": "192.0.2.3"}], "ports": [{"name": "https", "port": 7443, "protocol": "TCP"}]},
            ])
        );
        let slices = slices(&known);
        let names: Vec<_> = slices.iter().map(|slice| slice["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7443"]);
        assert_eq!(slices[0]["endpoints"].as_array().unwrap().len(), 2);
    }
}
