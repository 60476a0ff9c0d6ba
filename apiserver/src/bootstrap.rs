//! What every cluster has from its first moment: made on start, and made again if it was deleted in between.

use std::net::{IpAddr, Ipv4Addr};

use http::header::USER_AGENT;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use ipnet::Ipv4Net;
use manifests::status::ApiError;
use serde_json::{Value, json};

use crate::body::Body;
use crate::config::Config;
use crate::identity::Identity;
use crate::server::ApiServer;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// One thing that every cluster has.
#[derive(Debug)]
struct Wanted {
    collection: &'static str,
    object: Value,
    /// It says where this server is, so it is brought up to date when it is there already.
    current: bool,
}

impl ApiServer {
    /// Makes what is missing.
    pub(crate) async fn bootstrap(&self) -> Result<(), ApiError> {
        for Wanted { collection, object, current } in wanted(&self.config) {
            let refused = match self.ask(Method::POST, collection, &object).await {
                Err(error) => error,
                Ok(()) => continue,
            };
            if !refused.is_already_exists() {
                return Err(refused);
            }
            if current {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.ask(Method::PUT, &format!("{collection}/{name}"), &object).await?;
            }
        }
        Ok(())
    }

    async fn ask(&self, method: Method, path: &str, object: &Value) -> Result<(), ApiError> {
        let request = Request::builder().method(method).uri(path).header(USER_AGENT, "kube-apiserver");
        let request = request.body(Body::from(object.to_string()));
        let request = request.map_err(ApiError::internal)?;
        let response = self.handle(request, Identity::user("system:apiserver", ["system:masters"])).await;
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::CREATED {
            return Ok(());
        }
        let body = response.into_body().collect().await.map_err(ApiError::internal)?.to_bytes();
        Err(ApiError::from_response(status.as_u16(), &body))
    }
}

/// In the order in which they can be made.
fn wanted(config: &Config) -> Vec<Wanted> {
    let fixed = |collection, object| Wanted { collection, object, current: false };
    let mut all: Vec<Wanted> = NAMESPACES
        .iter()
        .map(|name| {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            fixed("/api/v1/namespaces", object)
        })
        .collect();
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        });
        all.push(fixed("/apis/scheduling.k8s.io/v1/priorityclasses", object));
    }
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let (address, port) = config.advertise;
    if let Some(own) = first_address(config.service_cidr) {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": own.to_string(), "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        });
        all.push(fixed("/api/v1/namespaces/default/services", object));
    }
    // A loopback address means something else on every machine and in every pod.
    if let IpAddr::V4(address) = address
        && !address.is_loopback()
        && !address.is_unspecified()
    {
        let skip = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
        all.push(Wanted {
            collection: "/api/v1/namespaces/default/endpoints",
            object: json!({
                "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "labels": skip},
                "subsets": [{
                    "addresses": [{"ip": address.to_string()}],
                    "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                }],
            }),
            current: true,
        });
        all.push(Wanted {
            collection: "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            object: json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }),
            current: true,
        });
    }
    all
}

/// The address of the service `kubernetes`.
fn first_address(range: Ipv4Net) -> Option<Ipv4Addr> {
    u32::from(range.network()).checked_add(1).map(Ipv4Addr::from).filter(|ip| range.contains(ip))
}
