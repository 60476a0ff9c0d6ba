//! A conversation with one API server: who we are, which namespace we mean, what it serves.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use client::Client;
use client::kubeconfig::{Kubeconfig, Resolved};
use http::{Method, Request};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::Resource;
use super::resources::{self, Catalogue};
use crate::flags::ApiArgs;

/// What a command that speaks to an API server works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The namespace that is meant when nothing else is said.
    pub(crate) namespace: String,
    catalogue: OnceCell<Catalogue>,
}

impl Session {
    /// Finds the server: `--kubeconfig`, then `KUBECONFIG`, then the local instance, as the contract has it.
    pub(crate) fn open(args: &ApiArgs) -> anyhow::Result<Self> {
        let config = load(args)?;
        let resolved = config.resolve(args.context.as_deref())?;
        let namespace = args.namespace.clone().or(resolved.namespace).unwrap_or_else(|| "default".to_owned());
        let client = config.client(args.context.as_deref())?;
        Ok(Self { client, namespace, catalogue: OnceCell::new() })
    }

    /// Finds a resource by what a person may call it: `pods`, `po`, `pod`, `deployments.apps`, `deploy.v1.apps`.
    pub(crate) async fn resource(&self, name: &str) -> anyhow::Result<&Resource> {
        let catalogue = self.catalogue().await?;
        catalogue.by_name(name).ok_or_else(|| {
            let close = catalogue.close_to(name);
            let hint = if close.is_empty() {
                String::new()
            } else {
                format!(" (did you mean {}?)", close.join(", "))
            };
            anyhow!("the server doesn't have a resource type {name:?}{hint}")
        })
    }

    /// Finds resources by name or category (`all`), separated by commas.
    pub(crate) async fn resources(&self, names: &str) -> anyhow::Result<Vec<&Resource>> {
        let mut found = Vec::new();
        for name in names.split(',') {
            let category = self.catalogue().await?.by_category(name);
            if category.is_empty() { found.push(self.resource(name).await?) } else { found.extend(category) }
        }
        Ok(found)
    }

    /// Finds the resource of an object.
    pub(crate) async fn resource_of(&self, api_version: &str, kind: &str) -> anyhow::Result<&Resource> {
        let catalogue = self.catalogue().await?;
        catalogue.by_kind(api_version, kind).ok_or_else(|| {
            let served = catalogue.versions_of(kind);
            let hint = if served.is_empty() {
                "the server does not serve that kind".to_owned()
            } else {
                format!("the server serves it as {}", served.join(", "))
            };
            anyhow!("no matches for kind {kind:?} in version {api_version:?}: {hint}")
        })
    }

    async fn catalogue(&self) -> anyhow::Result<&Catalogue> {
        self.catalogue.get_or_try_init(|| resources::discover(&self.client)).await
    }

    /// Sends a request with a JSON answer.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        accept: &str,
    ) -> Result<Value, client::Error> {
        self.client.json(request(method, path, body, accept)).await
    }

    /// GET with a plain JSON answer.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, client::Error> {
        self.json(Method::GET, path, None, "application/json").await
    }
}

/// A request as a value. Paths are built by [`super::resources`], which encodes every segment.
pub(crate) fn request(
    method: Method,
    path: &str,
    body: Option<(&str, &Value)>,
    accept: &str,
) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(path).header(http::header::ACCEPT, accept);
    let mut bytes = Bytes::new();
    if let Some((content_type, value)) = body {
        builder = builder.header(http::header::CONTENT_TYPE, content_type);
        bytes = value.to_string().into();
    }
    builder.body(bytes).expect("method, encoded path and constant headers make a request")
}

/// Where the server is and how it is known.
pub(crate) fn resolve(args: &ApiArgs) -> anyhow::Result<Resolved> {
    Ok(load(args)?.resolve(args.context.as_deref())?)
}

fn load(args: &ApiArgs) -> anyhow::Result<Kubeconfig> {
    if let Some(path) = &args.kubeconfig {
        return Ok(Kubeconfig::from_file(path)?);
    }
    if std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty()) {
        return Ok(Kubeconfig::from_env()?);
    }
    let local: PathBuf = args.data_dir.join("kubeconfig");
    if !local.exists() {
        bail!(
            "no cluster to speak to: {} does not exist. Start one with `coracle up`, or name one with --kubeconfig or KUBECONFIG",
            local.display()
        );
    }
    Kubeconfig::from_file(&local).with_context(|| format!("reading {}", local.display()))
}
