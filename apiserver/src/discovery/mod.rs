//! Discovery: which groups, versions, kinds and verbs this server has, generated from the table of served kinds.
//!
//! | path | document | to clients that ask for aggregated discovery |
//! |---|---|---|
//! | `/api` | `APIVersions` | the core group, whole |
//! | `/apis` | `APIGroupList` | all other groups, whole |
//! | `/apis/GROUP` | `APIGroup` | the same |
//! | `/api/v1`, `/apis/GROUP/VERSION` | `APIResourceList` | the same |
//!
//! Aggregated documents carry an ETag, by which clients keep them: kubectl's discovery cache revalidates for nothing.
//! A document is a few kilobytes and made when it is asked for.

mod aggregated;
mod legacy;

use manifests::kinds::Kind;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// An answer to a discovery request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// For the `Content-Type` header.
    pub content_type: &'static str,
    /// For the `ETag` header, with its quotes; goes with `Vary: Accept` and `Cache-Control: public`.
    pub etag: Option<String>,
    /// The JSON.
    pub body: Vec<u8>,
}

/// Form of a discovery document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A document per group and version.
    Plain,
    /// One document with everything, as `apidiscovery.k8s.io/v2`.
    V2,
    /// The same as `apidiscovery.k8s.io/v2beta1`, for clients of 1.26 to 1.29.
    V2Beta1,
}

impl Format {
    /// The first form of an `Accept` header that this server has; nothing when it has none of them.
    pub fn negotiate(accept: &str) -> Option<Format> {
        if accept.trim().is_empty() {
            return Some(Format::Plain);
        }
        accept.split(',').find_map(Format::of_media_range)
    }

    fn of_media_range(range: &str) -> Option<Format> {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        if !["application/json", "application/*", "*/*"].contains(&media_type) {
            return None;
        }
        let (mut group, mut version, mut kind) = ("", "", "");
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim() {
                "g" => group = value.trim(),
                "v" => version = value.trim(),
                "as" => kind = value.trim(),
                // Quality and the profile without peers: there is one server and one order.
                _ => {}
            }
        }
        match (group, version, kind) {
            ("", "", "") => Some(Format::Plain),
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => Some(Format::V2),
            ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => Some(Format::V2Beta1),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Plain => "application/json",
            Format::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Format::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

/// The document at `path`, for a server that has `kinds` and that clients reach at `address` (`host:port`).
///
/// Nothing when the path is no discovery path, or names a group or version that none of the kinds is in.
pub fn document(path: &str, format: Format, kinds: &[&Kind], address: &str) -> Option<Document> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (segments.as_slice(), format) {
        (["api"], Format::Plain) => json(&legacy::versions(kinds, address)),
        (["apis"], Format::Plain) => json(&legacy::group_list(kinds)),
        (["api"], _) => aggregated_json(format, &aggregated::list(kinds, |group| group.is_empty(), format)),
        (["apis"], _) => aggregated_json(format, &aggregated::list(kinds, |group| !group.is_empty(), format)),
        (["apis", group], _) => json(&legacy::group(kinds, group)?),
        (["api", version], _) => json(&legacy::resource_list(kinds, "", version)?),
        (["apis", group, version], _) => json(&legacy::resource_list(kinds, group, version)?),
        _ => None,
    }
}

/// Whether `path` is one that [`document`] answers for some set of kinds.
pub fn is_discovery_path(path: &str) -> bool {
    let mut segments = path.trim_matches('/').split('/');
    let depth = match segments.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return false,
    };
    segments.count() <= depth
}

fn json(document: &impl Serialize) -> Option<Document> {
    // Serializing plain structs into memory does not fail; if it did, there is no such document.
    let body = serde_json::to_vec(document).ok()?;
    Some(Document { content_type: Format::Plain.content_type(), etag: None, body })
}

fn aggregated_json(format: Format, document: &impl Serialize) -> Option<Document> {
    let body = serde_json::to_vec(document).ok()?;
    let hash = Sha256::digest(&body);
    let etag = hash.iter().fold(String::from("\""), |text, byte| format!("{text}{byte:02X}")) + "\"";
    Some(Document { content_type: format.content_type(), etag: Some(etag), body })
}

/// Groups in the order of their first kind, each with its versions in the order of theirs.
fn groups<'k>(kinds: &[&'k Kind]) -> Vec<(&'k str, Vec<&'k str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in kinds {
        let at = match groups.iter().position(|(group, _)| *group == kind.group) {
            Some(at) => at,
            None => {
                groups.push((kind.group, Vec::new()));
                groups.len() - 1
            }
        };
        if !groups[at].1.contains(&kind.version) {
            groups[at].1.push(kind.version);
        }
    }
    groups
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests;
