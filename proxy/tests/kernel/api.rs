//! As much of an API server as the proxy asks of one: lists and watches of two kinds, from memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use client::{Body, Transport, TransportError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Debug, Clone)]
pub(crate) struct Api(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<(Kind, String), Value>,
    log: Vec<(u64, Kind, &'static str, Value)>,
    down: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service,
    EndpointSlice,
}

/// An endpoint in a slice.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) uid: String,
}

impl Api {
    pub(crate) fn new() -> Self {
        let version = watch::channel(1).0;
        Self(Arc::new(Shared { state: Mutex::default(), version }))
    }

    pub(crate) fn client(&self) -> client::Client {
        client::Client::new(Arc::new(self.clone()))
    }

    /// From now on nobody answers, and open watches break off.
    pub(crate) fn go_down(&self) {
        self.0.state.lock().unwrap().down = true;
        self.0.version.send_modify(|_| ());
    }

    pub(crate) fn service(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": name, "namespace": "default"}});
        self.set(Kind::Service, name, Some(object));
    }

    pub(crate) fn slice<'a>(
        &self,
        service: &str,
        ports: Value,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) {
        let endpoints: Vec<_> = endpoints
            .into_iter()
            .map(|endpoint| json!({"addresses": [endpoint.address], "targetRef": {"kind": "Pod", "uid": endpoint.uid}}))
            .collect();
        let object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
            "ports": ports, "endpoints": endpoints});
        self.set(Kind::EndpointSlice, service, Some(object));
    }

    pub(crate) fn delete_service(&self, name: &str) {
        self.set(Kind::Service, name, None);
    }

    fn set(&self, kind: Kind, name: &str, object: Option<Value>) {
        let mut state = self.0.state.lock().unwrap();
        let version = *self.0.version.borrow() + 1;
        let key = (kind, name.to_owned());
        let (event, mut object) = match object {
            Some(object) if state.objects.contains_key(&key) => ("MODIFIED", object),
            Some(object) => ("ADDED", object),
            None => ("DELETED", state.objects.remove(&key).unwrap()),
        };
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if event != "DELETED" {
            state.objects.insert(key, object.clone());
        }
        state.log.push((version, kind, event, object));
        self.0.version.send_replace(version);
    }

    fn events(&self, kind: Kind, after: u64) -> Body {
        let api = self.clone();
        let versions = self.0.version.subscribe();
        let stream = futures_util::stream::unfold(
            (api, versions, after),
            move |(api, mut versions, after)| async move {
                loop {
                    {
                        let state = api.0.state.lock().unwrap();
                        if state.down {
                            return None;
                        }
                        let next = state.log.iter().find(|(version, of, ..)| *of == kind && *version > after);
                        if let Some((version, _, event, object)) = next {
                            let line = format!("{}\n", json!({"type": event, "object": object}));
                            let version = *version;
                            drop(state);
                            return Some((Ok(Bytes::from(line)), (api, versions, version)));
                        }
                    }
                    versions.changed().await.ok()?;
                }
            },
        );
        stream.boxed()
    }
}

impl Transport for Api {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let api = self.clone();
        Box::pin(async move {
            let path = request.uri().to_string();
            let down = api.0.state.lock().unwrap().down;
            let kind = match request.uri().path() {
                "/api/v1/services" => Some((Kind::Service, "v1", "ServiceList")),
                "/apis/discovery.k8s.io/v1/endpointslices" => {
                    Some((Kind::EndpointSlice, "discovery.k8s.io/v1", "EndpointSliceList"))
                }
                _ => None,
            };
            let Some((kind, group, list)) = kind.filter(|_| !down) else {
                let source = if down { "down" } else { "no such path" };
                return Err(TransportError { method: request.method().clone(), path, source: source.into() });
            };
            let query = request.uri().query().unwrap_or_default();
            let parameter = |name: &str| {
                query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                    .map(str::to_owned)
            };
            let body = if parameter("watch").is_some_and(|watch| watch == "true" || watch == "1") {
                api.events(kind, parameter("resourceVersion").unwrap().parse().unwrap())
            } else {
                let state = api.0.state.lock().unwrap();
                let items: Vec<_> = state
                    .objects
                    .iter()
                    .filter(|((of, _), _)| *of == kind)
                    .map(|(_, object)| object)
                    .collect();
                let version = api.0.version.borrow().to_string();
                let list = json!({"apiVersion": group, "kind": list, "items": items,
                    "metadata": {"resourceVersion": version}});
                futures_util::stream::iter([Ok(Bytes::from(list.to_string()))]).boxed()
            };
            Ok(http::Response::builder().header("content-type", "application/json").body(body).unwrap())
        })
    }
}
