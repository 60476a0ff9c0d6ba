//! Aggregated discovery: all groups with all their resources in one document.

use super::{Format, groups};
use manifests::kinds::{Kind, Subresource};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GroupDiscoveryList<'k> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    items: Vec<GroupDiscovery<'k>>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct GroupDiscovery<'k> {
    metadata: Named<'k>,
    versions: Vec<VersionDiscovery<'k>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Named<'k> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'k str,
}

#[derive(Serialize)]
struct VersionDiscovery<'k> {
    version: &'k str,
    resources: Vec<ResourceDiscovery<'k>>,
    freshness: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceDiscovery<'k> {
    resource: &'k str,
    response_kind: GroupVersionKind<'k>,
    scope: &'static str,
    singular_resource: &'k str,
    verbs: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'static [&'static str],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<SubresourceDiscovery<'k>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubresourceDiscovery<'k> {
    subresource: &'k str,
    response_kind: GroupVersionKind<'k>,
    verbs: &'static [&'static str],
}

#[derive(Serialize)]
struct GroupVersionKind<'k> {
    group: &'k str,
    version: &'k str,
    kind: &'k str,
}

/// The groups that `wanted` picks, whole.
pub(super) fn list<'k>(
    kinds: &[&'k Kind],
    wanted: impl Fn(&str) -> bool,
    format: Format,
) -> GroupDiscoveryList<'k> {
    let items = groups(kinds)
        .into_iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| GroupDiscovery {
            metadata: Named { name: group },
            versions: versions.into_iter().map(|version| describe(kinds, group, version)).collect(),
        })
        .collect();
    let api_version = match format {
        Format::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        Format::Plain | Format::V2 => "apidiscovery.k8s.io/v2",
    };
    GroupDiscoveryList { kind: "APIGroupDiscoveryList", api_version, metadata: Empty {}, items }
}

fn describe<'k>(kinds: &[&'k Kind], group: &str, version: &'k str) -> VersionDiscovery<'k> {
    let mut resources: Vec<ResourceDiscovery<'k>> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .map(|kind| ResourceDiscovery {
            resource: kind.plural,
            response_kind: GroupVersionKind { group: kind.group, version: kind.version, kind: kind.kind },
            scope: if kind.namespaced { "Namespaced" } else { "Cluster" },
            singular_resource: kind.singular,
            verbs: kind.verbs(),
            short_names: kind.short_names,
            categories: kind.categories,
            subresources: kind.subresources.iter().map(|below| subresource(kind, below)).collect(),
        })
        .collect();
    resources.sort_by(|a, b| a.resource.cmp(b.resource));
    VersionDiscovery { version, resources, freshness: "Current" }
}

fn subresource<'k>(of: &'k Kind, below: &'k Subresource) -> SubresourceDiscovery<'k> {
    let own = !below.version.is_empty();
    SubresourceDiscovery {
        subresource: below.name,
        response_kind: GroupVersionKind {
            group: if own { below.group } else { of.group },
            version: if own { below.version } else { of.version },
            kind: below.kind,
        },
        verbs: below.verbs,
    }
}
