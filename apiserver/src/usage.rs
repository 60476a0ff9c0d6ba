//! `metrics.k8s.io`: what nodes and containers use now, from what their agents say. Nothing is kept here and nobody is asked while nobody asks.
//!
//! ```text
//! GET …/pods ─▶ every agent at once: /stats/summary ─▶ PodMetricsList
//! ```
//!
//! A rate needs two looks. The agent has them: see its `/stats/summary`. A node that does not answer is left out, as its figures
//! would be of another time.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;
use manifests::status::ApiError;
use serde_json::{Value, json};

use crate::body::Body;
use crate::error::Error;
use crate::node_proxy::agent_address;
use crate::render;
use crate::request::params::Params;
use crate::request::path::ResourcePath;
use crate::server::ApiServer;

/// The group of the API.
pub(crate) const GROUP: &str = "metrics.k8s.io";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";
/// An agent that takes longer is left out.
const PATIENCE: Duration = Duration::from_secs(10);
/// No node says more than this.
const LONGEST: usize = 16 << 20;

impl ApiServer {
    /// Answers a request of the group.
    pub(crate) async fn usage(
        &self,
        path: &ResourcePath,
        params: &Params,
        method: &Method,
    ) -> Result<Response<Body>, Error> {
        let known = path.version == "v1beta1" && path.subresource.is_empty();
        if !known || !["nodes", "pods"].contains(&path.resource.as_str()) {
            return Err(ApiError::unknown_path().into());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed(&path.resource, GROUP, method.as_str()).into());
        }
        self.refresh().await?;
        let selector = Selector::parse(params.get("labelSelector").unwrap_or_default())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let answer = match path.resource.as_str() {
            "nodes" => self.usage_of_nodes(path, &selector).await?,
            _ => self.usage_of_pods(path, &selector).await?,
        };
        Ok(render::json(StatusCode::OK, answer.to_string()))
    }

    async fn usage_of_nodes(&self, path: &ResourcePath, selector: &Selector) -> Result<Value, Error> {
        let mut nodes: Vec<Node> = self.env().all("", "nodes");
        let wanted = |node: &Node| match path.name.as_str() {
            "" => selector.matches_meta(node.metadata.labels.as_ref()),
            name => node.metadata.name.as_deref() == Some(name),
        };
        nodes.retain(wanted);
        let summaries = join_all(nodes.iter().map(|node| self.summary(node))).await;
        let items = nodes.iter().zip(summaries).filter_map(|(node, summary)| of_node(node, &summary?));
        shown(path, "NodeMetrics", items.collect())
    }

    async fn usage_of_pods(&self, path: &ResourcePath, selector: &Selector) -> Result<Value, Error> {
        let mut pods: Vec<Pod> = if path.namespace.is_empty() {
            self.env().all("", "pods")
        } else if path.name.is_empty() {
            self.env().within("pods", &path.namespace)
        } else {
            let key = format!("{}/{}", path.namespace, path.name);
            self.env().decode("", "pods", &key).into_iter().collect()
        };
        if path.name.is_empty() {
            pods.retain(|pod| selector.matches_meta(pod.metadata.labels.as_ref()));
        }
        let mut names: Vec<String> =
            pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        names.sort();
        names.dedup();
        let nodes: Vec<Node> = names.iter().filter_map(|name| self.env().decode("", "nodes", name)).collect();
        let summaries: Vec<Value> =
            join_all(nodes.iter().map(|node| self.summary(node))).await.into_iter().flatten().collect();
        let entries: HashMap<&str, (&Value, &Value)> = summaries
            .iter()
            .flat_map(|summary| {
                summary["pods"].as_array().into_iter().flatten().map(move |entry| (summary, entry))
            })
            .filter_map(|(summary, entry)| Some((entry["podRef"]["uid"].as_str()?, (summary, entry))))
            .collect();
        let items = pods.iter().filter_map(|pod| {
            let (summary, entry) = entries.get(pod.metadata.uid.as_deref()?)?;
            of_pod(pod, summary, entry)
        });
        shown(path, "PodMetrics", items.collect())
    }

    /// What an agent says; nothing if it does not answer.
    async fn summary(&self, node: &Node) -> Option<Value> {
        let (address, port) = agent_address(node).ok()?;
        let name = node.metadata.name.as_deref()?;
        let asking = async {
            let request = Request::builder().uri("/stats/summary");
            let answer = self.ask_agent(name, address, port, request, &HeaderMap::new(), Body::empty()).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let body = http_body_util::Limited::new(answer.into_body(), LONGEST);
            let body = body.collect().await.map_err(|error| error.to_string())?;
            serde_json::from_slice::<Value>(&body.to_bytes()).map_err(|error| error.to_string())
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(summary)) => Some(summary),
            Ok(Err(error)) => {
                tracing::debug!(error, %address, "asking an agent what is used");
                None
            }
            Err(_) => None,
        }
    }
}

/// One object, or all of them.
fn shown(path: &ResourcePath, kind: &str, mut items: Vec<Value>) -> Result<Value, Error> {
    if path.name.is_empty() {
        return Ok(json!({
            "kind": format!("{kind}List"), "apiVersion": API_VERSION, "metadata": {}, "items": items
        }));
    }
    let mut item = items.pop().ok_or_else(|| ApiError::not_found(&path.resource, GROUP, &path.name))?;
    item["kind"] = json!(kind);
    item["apiVersion"] = json!(API_VERSION);
    Ok(item)
}

fn of_node(node: &Node, summary: &Value) -> Option<Value> {
    let entry = &summary["node"];
    let (timestamp, window) = when(summary, entry)?;
    Some(json!({
        "metadata": {
            "name": node.metadata.name, "labels": node.metadata.labels,
            "creationTimestamp": timestamp,
        },
        "timestamp": timestamp,
        "window": window,
        "usage": used(entry)?,
    }))
}

fn of_pod(pod: &Pod, summary: &Value, entry: &Value) -> Option<Value> {
    let containers = entry["containers"].as_array()?;
    let (timestamp, window) = when(summary, containers.first()?)?;
    let containers: Vec<Value> = containers
        .iter()
        .filter_map(|container| Some(json!({"name": container["name"], "usage": used(container)?})))
        .collect();
    // A container that cannot be counted makes the sum a wrong one.
    let all = entry["containers"].as_array().is_some_and(|all| all.len() == containers.len());
    all.then(|| {
        json!({
            "metadata": {
                "name": pod.metadata.name, "namespace": pod.metadata.namespace,
                "labels": pod.metadata.labels, "creationTimestamp": timestamp,
            },
            "timestamp": timestamp,
            "window": window,
            "containers": containers,
        })
    })
}

/// Of when the figures are, and over which time the rate is.
fn when(summary: &Value, entry: &Value) -> Option<(String, String)> {
    let time: Timestamp = entry["cpu"]["time"].as_str()?.parse().ok()?;
    let seconds = summary["windowSeconds"].as_f64()?;
    Some((time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), format!("{seconds:.3}s")))
}

fn used(entry: &Value) -> Option<Value> {
    let cpu = entry["cpu"]["usageNanoCores"].as_u64()?;
    let memory = entry["memory"]["workingSetBytes"].as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_quantities() {
        let cpu = json!({"time": "2026-01-02T03:04:05.678Z", "usageNanoCores": 1234});
        let summary = json!({"windowSeconds": 1.0004});
        let container = json!({"name": "a", "cpu": cpu, "memory": {"workingSetBytes": 4096}});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n"}})).unwrap();
        let found = of_pod(&pod, &summary, &json!({"containers": [container]})).unwrap();
        assert_eq!(found["containers"][0]["usage"], json!({"cpu": "1234n", "memory": "4Ki"}));
        assert_eq!(
            (&found["timestamp"], &found["window"]),
            (&json!("2026-01-02T03:04:05Z"), &json!("1.000s"))
        );
        // Not yet two looks at the second one.
        let fresh = json!({"name": "b", "memory": {"workingSetBytes": 1}});
        assert_eq!(of_pod(&pod, &summary, &json!({"containers": [container, fresh]})), None);
        assert_eq!(of_pod(&pod, &summary, &json!({"containers": []})), None);
    }
}
