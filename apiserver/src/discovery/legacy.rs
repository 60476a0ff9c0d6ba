//! The documents that every client has understood since 1.0: one per group and version.

use super::{group_version, groups};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use manifests::kinds::Kind;
use serde::Serialize;
use sha2::{Digest, Sha256};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiVersions<'k> {
    kind: &'static str,
    versions: Vec<&'k str>,
    #[serde(rename = "serverAddressByClientCIDRs")]
    server_address_by_client_cidrs: Vec<ServerAddress>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerAddress {
    #[serde(rename = "clientCIDR")]
    client_cidr: &'static str,
    server_address: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiGroupList<'k> {
    kind: &'static str,
    api_version: &'static str,
    groups: Vec<ApiGroup<'k>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiGroup<'k> {
    /// Said by the document of one group, left out in the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    name: &'k str,
    versions: Vec<GroupVersion<'k>>,
    preferred_version: GroupVersion<'k>,
}

#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct GroupVersion<'k> {
    group_version: String,
    version: &'k str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiResourceList {
    kind: &'static str,
    /// Left out for the core group, as it has been since before lists had versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    group_version: String,
    resources: Vec<ApiResource>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiResource {
    name: String,
    singular_name: &'static str,
    namespaced: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'static [&'static str],
    #[serde(skip_serializing_if = "String::is_empty")]
    storage_version_hash: String,
}

/// `/api`.
pub(super) fn versions<'k>(kinds: &[&'k Kind], address: &str) -> ApiVersions<'k> {
    let core = groups(kinds).into_iter().find(|(group, _)| group.is_empty());
    ApiVersions {
        kind: "APIVersions",
        versions: core.map(|(_, versions)| versions).unwrap_or_default(),
        server_address_by_client_cidrs: vec![ServerAddress {
            client_cidr: "0.0.0.0/0",
            server_address: address.to_string(),
        }],
    }
}

/// `/apis`.
pub(super) fn group_list<'k>(kinds: &[&'k Kind]) -> ApiGroupList<'k> {
    let named = groups(kinds).into_iter().filter(|(group, _)| !group.is_empty());
    ApiGroupList {
        kind: "APIGroupList",
        api_version: "v1",
        groups: named.filter_map(|(name, versions)| describe(name, &versions)).collect(),
    }
}

/// `/apis/GROUP`.
pub(super) fn group<'k>(kinds: &[&'k Kind], name: &str) -> Option<ApiGroup<'k>> {
    let (name, versions) =
        groups(kinds).into_iter().find(|(group, _)| *group == name && !group.is_empty())?;
    let group = describe(name, &versions)?;
    Some(ApiGroup { kind: Some("APIGroup"), api_version: Some("v1"), ..group })
}

fn describe<'k>(name: &'k str, versions: &[&'k str]) -> Option<ApiGroup<'k>> {
    let versions: Vec<GroupVersion<'k>> = versions
        .iter()
        .map(|version| GroupVersion { group_version: group_version(name, version), version })
        .collect();
    let preferred_version = versions.first()?.clone();
    Some(ApiGroup { kind: None, api_version: None, name, versions, preferred_version })
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(super) fn resource_list(kinds: &[&Kind], group: &str, version: &str) -> Option<ApiResourceList> {
    let mut resources: Vec<ApiResource> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .flat_map(|kind| resources_of(kind))
        .collect();
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    (!resources.is_empty()).then(|| ApiResourceList {
        kind: "APIResourceList",
        api_version: (!group.is_empty()).then_some("v1"),
        group_version: group_version(group, version),
        resources,
    })
}

fn resources_of(kind: &Kind) -> impl Iterator<Item = ApiResource> {
    let itself = ApiResource {
        name: kind.plural.to_string(),
        singular_name: kind.singular,
        namespaced: kind.namespaced,
        group: "",
        version: "",
        kind: kind.kind,
        verbs: kind.verbs(),
        short_names: kind.short_names,
        categories: kind.categories,
        storage_version_hash: storage_version_hash(kind),
    };
    let plural = kind.plural;
    let namespaced = kind.namespaced;
    let below = kind.subresources.iter().map(move |subresource| ApiResource {
        name: format!("{plural}/{}", subresource.name),
        singular_name: "",
        namespaced,
        group: subresource.group,
        version: subresource.version,
        kind: subresource.kind,
        verbs: subresource.verbs,
        short_names: &[],
        categories: &[],
        storage_version_hash: String::new(),
    });
    std::iter::once(itself).chain(below)
}

/// An opaque value that changes when the stored version does.
fn storage_version_hash(kind: &Kind) -> String {
    let hash = Sha256::digest(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
    STANDARD.encode(&hash[..8])
}
