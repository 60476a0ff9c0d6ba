//! What the proxy knows, and the table that follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::observe::News;
use crate::table::{Context, Service, ServiceName, Slice, SliceKey, Table, compile};

/// A pod that was said to leave and that no slice mentions is remembered for so long: its slice may still be on the way.
const REMEMBERED: Duration = Duration::from_secs(120);

/// What the proxy knows.
#[derive(Debug)]
pub(crate) struct State {
    node_name: String,
    /// Where the server is, as the kubeconfig says.
    api_server: Option<SocketAddr>,
    /// `None` until the server has told all of them.
    services: Option<BTreeMap<ServiceName, Service>>,
    slices: Option<BTreeMap<SliceKey, Slice>>,
    leaving: BTreeMap<String, Leaving>,
    /// What was served before this process started.
    last: Table,
}

#[derive(Debug)]
struct Leaving {
    addresses: Vec<IpAddr>,
    since: Instant,
}

impl State {
    pub(crate) fn new(node_name: String, last: Table) -> Self {
        Self { node_name, api_server: None, services: None, slices: None, leaving: BTreeMap::new(), last }
    }

    /// Takes a piece of news; answers whether the table may have changed.
    pub(crate) fn hear(&mut self, news: News) -> bool {
        match news {
            News::Server(address) => std::mem::replace(&mut self.api_server, address) != address,
            News::Services(step) => step.apply(&mut self.services),
            News::Slices(step) => step.apply(&mut self.slices),
        }
    }

    pub(crate) fn leaving(&mut self, pod_uid: String, addresses: Vec<IpAddr>, now: Instant) {
        self.leaving.insert(pod_uid, Leaving { addresses, since: now });
    }

    /// Whether a pod that is leaving is as far out as it will get: no entrance leads to it, or the server knows that it goes
    /// and has nobody better. Whoever became ready before the pod was told to go is in the slices that say that it goes.
    pub(crate) fn has_left(&self, pod_uid: &str, addresses: &[IpAddr], table: &Table) -> bool {
        let backends = || table.forwards.values().flat_map(|forward| &forward.backends);
        let Some(slices) = self.slices.as_ref().filter(|_| self.is_synced()) else {
            return !backends().any(|backend| addresses.contains(&backend.ip()));
        };
        slices.values().all(|slice| {
            let mut own =
                slice.endpoints.iter().filter(|endpoint| endpoint.pod_uid.as_deref() == Some(pod_uid));
            own.all(|endpoint| {
                let led_to = |backend: &SocketAddr| {
                    backend.ip() == endpoint.address
                        && slice.ports.iter().any(|port| port.port == backend.port())
                };
                endpoint.terminating || !backends().any(led_to)
            })
        })
    }

    pub(crate) fn all_leaving(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.leaving.iter().map(|(uid, leaving)| (uid.clone(), leaving.addresses.clone())).collect()
    }

    /// Has the server told everything once?
    pub(crate) fn is_synced(&self) -> bool {
        self.services.is_some() && self.slices.is_some()
    }

    /// The table that follows.
    pub(crate) fn table(&mut self, now: Instant) -> Table {
        self.forget_the_gone(now);
        match (&self.services, &self.slices) {
            (Some(services), Some(slices)) => {
                let leaving: BTreeSet<String> = self.leaving.keys().cloned().collect();
                compile(
                    services,
                    slices,
                    Context { node_name: &self.node_name, leaving: &leaving, api_server: self.api_server },
                )
            }
            _ => without(&self.last, self.leaving.values().flat_map(|leaving| &leaving.addresses)),
        }
    }

    fn forget_the_gone(&mut self, now: Instant) {
        let Some(slices) = &self.slices else { return };
        if self.leaving.is_empty() {
            return;
        }
        let endpoints = slices.values().flat_map(|slice| &slice.endpoints);
        let mentioned: BTreeSet<&str> =
            endpoints.filter_map(|endpoint| endpoint.pod_uid.as_deref()).collect();
        self.leaving.retain(|uid, leaving| {
            mentioned.contains(uid.as_str()) || now.saturating_duration_since(leaving.since) < REMEMBERED
        });
    }
}

/// The table without these endpoints, where there are others: the old table does not know which pod is which.
fn without<'a>(table: &Table, addresses: impl Iterator<Item = &'a IpAddr>) -> Table {
    let leaving: BTreeSet<&IpAddr> = addresses.collect();
    let mut table = table.clone();
    for forward in table.forwards.values_mut() {
        let stays = |backend: &std::net::SocketAddr| !leaving.contains(&backend.ip());
        if forward.backends.iter().any(stays) {
            forward.backends.retain(stays);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Step;
    use crate::table::tests_support::*;
    use serde_json::json;

    fn backends(table: &Table) -> Vec<String> {
        table.forwards.values().next().unwrap().backends.iter().map(|b| b.ip().to_string()).collect()
    }

    fn news() -> (News, News) {
        let (name, web) = service("web", json!({"clusterIP": "10.43.0.7", "ports": [{"port": 80}]}));
        let pod = |address: &str, uid: &str| json!({"addresses": [address], "targetRef": {"uid": uid}});
        let (key, slice) = slice(
            "web",
            "web-1",
            json!([{"port": 80}]),
            json!([pod("10.42.0.5", "a"), pod("10.42.0.6", "b")]),
        );
        (News::Services(Step::All([(name, web)].into())), News::Slices(Step::All([(key, slice)].into())))
    }

    #[test]
    fn until_the_server_has_told_everything_the_last_table_holds() {
        let now = Instant::now();
        let mut state = State::new("here".into(), example());
        assert_eq!(state.table(now), example());
        let (services, slices) = news();
        assert!(state.hear(services));
        assert_eq!(state.table(now), example());
        assert!(!state.is_synced());
        assert!(state.hear(slices));
        assert_eq!(backends(&state.table(now)), ["10.42.0.5", "10.42.0.6"]);
        let (services, slices) = news();
        assert!(!state.hear(services) && !state.hear(slices), "the same again is no news");
    }

    #[test]
    fn the_last_one_has_left_when_another_came_or_the_server_says_that_it_goes() {
        let now = Instant::now();
        let mut state = State::new("here".into(), Table::default());
        let of = |endpoints: serde_json::Value| {
            let (key, slice) = slice("web", "web-1", json!([{"port": 80}]), endpoints);
            News::Slices(Step::All([(key, slice)].into()))
        };
        let pod = |address: &str, uid: &str, ready: bool, terminating: bool| {
            json!({"addresses": [address], "targetRef": {"uid": uid},
                "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
        };
        state.hear(news().0);
        state.leaving("a".into(), vec![], now);
        for (endpoints, has_left) in [
            (json!([]), true),
            (json!([pod("10.42.0.5", "a", true, false)]), false),
            (json!([pod("10.42.0.5", "a", false, true)]), true),
            (json!([pod("10.42.0.5", "a", true, false), pod("10.42.0.6", "b", true, false)]), true),
            (json!([pod("10.42.0.6", "b", true, false)]), true),
        ] {
            state.hear(of(endpoints.clone()));
            let table = state.table(now);
            assert_eq!(state.has_left("a", &[], &table), has_left, "{endpoints}");
        }
        // Nothing but addresses is known of a table from before.
        let state = State::new("here".into(), example());
        let address = example().forwards.values().next().unwrap().backends[0].ip();
        assert!(!state.has_left("a", &[address], &example()));
        assert!(state.has_left("a", &["192.0.2.1".parse().unwrap()], &example()));
    }

    #[test]
    fn who_leaves_is_out_at_once_and_forgotten_when_no_slice_knows_it() {
        let now = Instant::now();
        let mut state = State::new("here".into(), Table::default());
        let (services, slices) = news();
        state.hear(services);
        state.hear(slices);
        state.leaving("a".into(), vec![], now);
        let later = now + REMEMBERED;
        assert_eq!(backends(&state.table(later)), ["10.42.0.6"]);
        assert_eq!(state.all_leaving().len(), 1);
        state.hear(News::Slices(Step::All(BTreeMap::new())));
        state.table(now);
        assert_eq!(state.all_leaving().len(), 1, "its slice may be on the way");
        state.table(later);
        assert_eq!(state.all_leaving().len(), 0);
    }

    #[test]
    fn without_a_server_addresses_tell_who_leaves() {
        let now = Instant::now();
        let mut state = State::new("here".into(), example());
        state.leaving("x".into(), vec!["10.42.0.2".parse().unwrap()], now);
        assert_eq!(backends(&state.table(now)), ["10.42.0.3"]);
        state.leaving("y".into(), vec!["10.42.0.3".parse().unwrap()], now);
        assert_eq!(backends(&state.table(now)), ["10.42.0.2", "10.42.0.3"], "better than nobody");
    }
}
