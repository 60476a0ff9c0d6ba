//! Which objects a command means: `TYPE`, `TYPE NAME…`, `TYPE/NAME…`, with selectors, or files.

use anyhow::{Context, bail};
use http::Method;
use serde_json::Value;

use super::resources::query;
use super::{Manifest, Resource, Session};

/// Objects that were asked for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// One object by name.
    Named { resource: Resource, namespace: String, name: String },
    /// All objects of a resource that meet the selectors.
    Selected { resource: Resource, namespace: Option<String> },
}

/// What narrows a selection.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Selection {
    /// Only objects with these labels, such as app=web,tier!=test
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,

    /// Only objects with these fields, such as status.phase=Running
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,

    /// Objects of every namespace
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
}

/// Reads the arguments as kubectl does.
pub(crate) async fn parse(
    session: &Session,
    args: &[String],
    selection: &Selection,
) -> anyhow::Result<Vec<Target>> {
    let namespace = (!selection.all_namespaces).then(|| session.namespace.clone());
    let named = |resource: &Resource, name: &str| Target::Named {
        resource: resource.clone(),
        namespace: session.namespace.clone(),
        name: name.to_owned(),
    };
    if args.iter().any(|arg| arg.contains('/')) {
        let mut targets = Vec::new();
        for arg in args {
            let (kind, name) = arg
                .split_once('/')
                .with_context(|| format!("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (for example, coracle get {arg}/NAME instead of {arg} NAME)"))?;
            if name.is_empty() {
                bail!("{arg:?} names no object: give TYPE/NAME");
            }
            targets.push(named(session.resource(kind).await?, name));
        }
        return Ok(targets);
    }
    let Some((types, names)) = args.split_first() else { bail!("give a resource type, such as pods") };
    let resources = session.resources(types).await?;
    if names.is_empty() {
        let select = |resource: &&Resource| Target::Selected {
            resource: (*resource).clone(),
            namespace: namespace.clone(),
        };
        return Ok(resources.iter().map(select).collect());
    }
    if selection.all_namespaces {
        bail!("a resource cannot be retrieved by name across all namespaces");
    }
    Ok(resources.iter().flat_map(|resource| names.iter().map(|name| named(resource, name))).collect())
}

/// The targets of files.
pub(crate) async fn of_manifests(session: &Session, manifests: &[Manifest]) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for manifest in manifests {
        let resource = session.resource_of(&manifest.api_version, &manifest.kind).await?.clone();
        let namespace = manifest.namespace.clone().unwrap_or_else(|| session.namespace.clone());
        targets.push(Target::Named { resource, namespace, name: manifest.name.clone() });
    }
    Ok(targets)
}

impl Target {
    pub(crate) fn resource(&self) -> &Resource {
        match self {
            Self::Named { resource, .. } | Self::Selected { resource, .. } => resource,
        }
    }

    /// The path to GET.
    pub(crate) fn path(&self, selection: &Selection) -> String {
        match self {
            Self::Named { resource, namespace, name } => resource.object(namespace, name),
            Self::Selected { resource, namespace } => {
                let selectors = [
                    ("labelSelector", selection.selector.as_deref()),
                    ("fieldSelector", selection.field_selector.as_deref()),
                ];
                resource.collection(namespace.as_deref()) + &query(&selectors)
            }
        }
    }

    /// The path that watches exactly these objects from a version on.
    pub(crate) fn watch_path(&self, selection: &Selection, version: &str) -> String {
        let watch = [
            ("watch", Some("true")),
            ("resourceVersion", Some(version)),
            ("allowWatchBookmarks", Some("true")),
        ];
        match self {
            Self::Named { resource, namespace, name } => {
                let field = format!("metadata.name={name}");
                resource.collection(Some(namespace))
                    + &query(&[watch[0], watch[1], watch[2], ("fieldSelector", Some(field.as_str()))])
            }
            Self::Selected { resource, namespace } => {
                resource.collection(namespace.as_deref())
                    + &query(&[
                        watch[0],
                        watch[1],
                        watch[2],
                        ("labelSelector", selection.selector.as_deref()),
                        ("fieldSelector", selection.field_selector.as_deref()),
                    ])
            }
        }
    }

    /// The objects themselves.
    pub(crate) async fn fetch(
        &self,
        session: &Session,
        selection: &Selection,
    ) -> Result<Vec<Value>, client::Error> {
        let answer = session.json(Method::GET, &self.path(selection), None, "application/json").await?;
        Ok(match self {
            Self::Named { .. } => vec![answer],
            Self::Selected { resource, .. } => items(resource, answer),
        })
    }
}

/// The items of a list, each with its kind, as a single GET would show it.
pub(crate) fn items(resource: &Resource, mut list: Value) -> Vec<Value> {
    let Value::Array(items) = list["items"].take() else { return Vec::new() };
    items
        .into_iter()
        .map(|mut item| {
            item["apiVersion"] = resource.api_version().into();
            item["kind"] = resource.kind.clone().into();
            item
        })
        .collect()
}
