//! What every cluster has from its first moment: made on start, and made again if it was deleted in between.

use std::net::Ipv4Addr;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use ipnet::Ipv4Net;
use manifests::status::ApiError;
use serde_json::{Value, json};

use crate::body::Body;
use crate::config::Config;
use crate::flow_control;
use crate::identity::Identity;
use crate::server::ApiServer;

/// So many roles are made at a time.
const AT_A_TIME: usize = 32;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";

/// One thing that every cluster has.
#[derive(Debug)]
struct Wanted {
    collection: &'static str,
    object: Value,
}

impl ApiServer {
    /// Makes what is missing.
    pub(crate) async fn bootstrap(&self) -> Result<(), ApiError> {
        for Wanted { collection, object } in wanted(&self.config) {
            match self.ask(Method::POST, collection, &object).await {
                Err(refused) if !refused.is_already_exists() => return Err(refused),
                // What machines that join are told is what this server was started with.
                Err(_) if collection == CONFIG_MAPS => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    self.ask(Method::PUT, &format!("{collection}/{name}"), &object).await?;
                }
                _ => {}
            }
        }
        self.bootstrap_roles().await?;
        let (levels, schemas): (Vec<_>, Vec<_>) =
            flow_control::wanted().into_iter().partition(|wanted| wanted.resource == flow_control::LEVELS);
        for batch in [levels, schemas] {
            let asks = batch.into_iter().map(|wanted| self.want_flow_control(wanted));
            let done: Vec<Result<(), ApiError>> =
                stream::iter(asks).buffer_unordered(AT_A_TIME).collect().await;
            done.into_iter().collect::<Result<(), ApiError>>()?;
        }
        Ok(())
    }

    /// Makes the roles and bindings that every cluster has. One that is there keeps what was added to it, and gets what it
    /// lacks unless somebody has said that it is not to be touched.
    async fn bootstrap_roles(&self) -> Result<(), ApiError> {
        self.refresh().await.map_err(crate::error::Error::into_api)?;
        let (roles, bindings): (Vec<_>, Vec<_>) =
            crate::rbac::defaults::wanted().into_iter().partition(|(_, object)| object["roleRef"].is_null());
        for batch in [roles, bindings] {
            let asks = batch.into_iter().map(|(collection, object)| self.want_role(collection, object));
            let done: Vec<Result<(), ApiError>> =
                stream::iter(asks).buffer_unordered(AT_A_TIME).collect().await;
            done.into_iter().collect::<Result<(), ApiError>>()?;
        }
        self.refresh().await.map_err(crate::error::Error::into_api)
    }

    async fn want_role(&self, collection: String, mut object: Value) -> Result<(), ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let resource = collection.rsplit('/').next().unwrap_or_default();
        let row = self.registry.find(crate::rbac::GROUP, "v1", resource);
        let have = row.and_then(|row| row.cache.get(&row.relative_key(namespace, &name)));
        let Some(have) = have else {
            return match self.ask(Method::POST, &collection, &object).await {
                Err(error) if error.is_already_exists() => Ok(()),
                done => done,
            };
        };
        let have: Value = serde_json::from_slice(have.json_bytes()).map_err(ApiError::internal)?;
        if have["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] != "true" {
            return Ok(());
        }
        let mut missing = false;
        for list in ["rules", "subjects"] {
            let mut all = have[list].as_array().cloned().unwrap_or_default();
            for wanted in
                object[list].as_array().into_iter().flatten().filter(|wanted| !have_one(&have[list], wanted))
            {
                all.push(wanted.clone());
                missing = true;
            }
            if !all.is_empty() {
                object[list] = all.into();
            }
        }
        if missing { self.ask(Method::PUT, &format!("{collection}/{name}"), &object).await } else { Ok(()) }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, object: &Value) -> Result<(), ApiError> {
        self.ask_for(method, path, object).await.map(drop)
    }

    /// An object, if it is there.
    pub(crate) async fn read(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.ask_for(Method::GET, path, &Value::Null).await {
            Ok(body) => serde_json::from_slice(&body).map(Some).map_err(ApiError::internal),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask_for(&self, method: Method, path: &str, object: &Value) -> Result<Bytes, ApiError> {
        let method_is_patch = method == Method::PATCH;
        let request = Request::builder().method(method).uri(path).header(USER_AGENT, "kube-apiserver");
        let request = match method_is_patch {
            true => request.header(CONTENT_TYPE, "application/merge-patch+json"),
            false => request,
        };
        let body = if object.is_null() { Body::empty() } else { Body::from(object.to_string()) };
        let request = request.body(body);
        let request = request.map_err(ApiError::internal)?;
        let response = self.handle(request, Identity::user("system:apiserver", ["system:masters"])).await;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(ApiError::internal)?.to_bytes();
        if status == StatusCode::OK || status == StatusCode::CREATED {
            return Ok(body);
        }
        Err(ApiError::from_response(status.as_u16(), &body))
    }
}

/// Whether a list has an element that says the same. Fields that are left out say nothing.
fn have_one(list: &Value, wanted: &Value) -> bool {
    let covers = |have: &Value| {
        wanted.as_object().is_some_and(|wanted| wanted.iter().all(|(key, value)| have[key] == *value))
    };
    list.as_array().into_iter().flatten().any(covers)
}

/// In the order in which they can be made.
fn wanted(config: &Config) -> Vec<Wanted> {
    let fixed = |collection, object| Wanted { collection, object };
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
    let port = config.advertise.1;
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
    if !config.cluster.is_empty() {
        all.push(Wanted {
            collection: CONFIG_MAPS,
            object: json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "coracle-cluster", "namespace": "kube-system"}, "data": config.cluster,
            }),
        });
    }
    all
}

/// The address of the service `kubernetes`.
fn first_address(range: Ipv4Net) -> Option<Ipv4Addr> {
    u32::from(range.network()).checked_add(1).map(Ipv4Addr::from).filter(|ip| range.contains(ip))
}
