//! OpenAPI documents: what kinds look like and what can be asked of them, for `kubectl explain`, for the validation and
//! the three-way patches of `kubectl apply`, and for generators of clients.
//!
//! | path | document | for |
//! |---|---|---|
//! | `/openapi/v3` | an index of group-versions, with the hash of each | kubectl since 1.27 |
//! | `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION` | OpenAPI 3.0, JSON | the same |
//! | `/openapi/v2` | Swagger 2.0, in JSON or in the protobuf encoding of the gnostic project | kubectl before, fallbacks |
//!
//! The schemas are compressed bytes in the binary (see `build.rs`). They are decompressed when a document is asked for
//! and dropped with it: clients ask rarely, keep what they got by its hash or ETag, and an idle server holds nothing.

mod gnostic;
mod operation;
mod schemas;
mod v2;
mod v3;

use manifests::kinds::Kind;
use schemas::Schemas;
use sha2::{Digest, Sha256};

/// The version that documents give themselves: that of the API whose types they describe.
const API_VERSION: &str = "v1.37.0";

/// The protobuf encoding of Swagger 2.0, as answers name it.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same as requests name it. An `@` is not allowed in a media type, and clients refuse an answer with one.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const JSON: &str = "application/json";

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'r> {
    /// The path, `/openapi/…`.
    pub path: &'r str,
    /// The query parameter `hash`.
    pub hash: Option<&'r str>,
    /// The header `Accept`.
    pub accept: &'r str,
    /// The header `If-None-Match`.
    pub if_none_match: Option<&'r str>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 404.
    NotFound,
    /// 406: these media types there are.
    NotAcceptable(&'static [&'static str]),
    /// 304: the client's copy is good.
    NotModified {
        /// For the header `ETag`.
        etag: String,
    },
    /// 200.
    Document(Document),
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// For the header `Content-Type`.
    pub content_type: &'static str,
    /// For the header `ETag`, with its quotes.
    pub etag: String,
    /// The client named the document by its hash: the answer will never change (`Cache-Control: public, immutable`).
    pub immutable: bool,
    /// What it says.
    pub body: Vec<u8>,
}

/// Whether [`reply`] may know the path.
pub fn is_openapi_path(path: &str) -> bool {
    path == "/openapi/v2" || path == "/openapi/v3" || path.starts_with("/openapi/v3/")
}

/// Answers a request for a document about `kinds`.
pub fn reply(request: Request<'_>, kinds: &[&Kind]) -> Reply {
    let found = match request.path.trim_end_matches('/') {
        "/openapi/v3" => negotiate(request.accept, &[JSON]).map(|_| Wanted::Index),
        "/openapi/v2" => negotiate(request.accept, &[V2_PROTOBUF, V2_PROTOBUF_ASKED, JSON]).map(Wanted::V2),
        path => match group_version(path, kinds) {
            Some(of) => negotiate(request.accept, &[JSON]).map(|_| Wanted::V3(of)),
            None => return Reply::NotFound,
        },
    };
    let Some(wanted) = found else {
        return Reply::NotAcceptable(match request.path {
            "/openapi/v2" => &[V2_PROTOBUF, JSON],
            _ => &[JSON],
        });
    };

    let hash = match wanted {
        Wanted::Index => hash("index", kinds),
        Wanted::V2(media_type) => hash(media_type, kinds),
        Wanted::V3(of) => hash_of(of, kinds),
    };
    let etag = format!("\"{hash}\"");
    if request.if_none_match.is_some_and(|known| known.split(',').any(|known| known.trim() == etag)) {
        return Reply::NotModified { etag };
    }
    let Some(body) = wanted.make(kinds) else { return Reply::NotFound };
    let content_type = match wanted {
        Wanted::V2(V2_PROTOBUF_ASKED | V2_PROTOBUF) => V2_PROTOBUF,
        _ => JSON,
    };
    Reply::Document(Document { content_type, etag, immutable: request.hash == Some(&hash), body })
}

#[derive(Clone, Copy)]
enum Wanted<'k> {
    Index,
    V2(&'static str),
    V3(GroupVersion<'k>),
}

impl Wanted<'_> {
    /// The document, unless the schemas in the binary are broken, which a test rules out.
    fn make(self, kinds: &[&Kind]) -> Option<Vec<u8>> {
        match self {
            Wanted::Index => Some(v3::index(group_versions(kinds), kinds)),
            Wanted::V2(JSON) => Some(v2::Document::new(&Schemas::read()?, kinds).json()),
            Wanted::V2(_) => Some(gnostic::encode(&v2::Document::new(&Schemas::read()?, kinds))),
            Wanted::V3(of) => Some(v3::document(&Schemas::read()?, of, kinds)),
        }
    }
}

/// A group and version that some kind is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GroupVersion<'k> {
    group: &'k str,
    version: &'k str,
}

impl GroupVersion<'_> {
    /// `api/v1`, `apis/apps/v1`.
    fn path(self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }

    fn has(self, kind: &Kind) -> bool {
        kind.group == self.group && kind.version == self.version
    }
}

fn group_versions<'k>(kinds: &[&'k Kind]) -> Vec<GroupVersion<'k>> {
    let mut found: Vec<GroupVersion<'k>> = Vec::new();
    for kind in kinds {
        let of = GroupVersion { group: kind.group, version: kind.version };
        if !found.contains(&of) {
            found.push(of);
        }
    }
    found
}

fn group_version<'k>(path: &str, kinds: &[&'k Kind]) -> Option<GroupVersion<'k>> {
    let wanted = path.strip_prefix("/openapi/v3/")?;
    group_versions(kinds).into_iter().find(|of| of.path() == wanted)
}

/// What stands for the content of a document: all that goes into it.
fn hash(document: &str, kinds: &[&Kind]) -> String {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_PKG_VERSION"));
    digest.update(schemas::COMPRESSED);
    digest.update(document);
    digest.update(format!("{kinds:?}"));
    digest.finalize().iter().take(16).fold(String::new(), |text, byte| format!("{text}{byte:02X}"))
}

fn hash_of(of: GroupVersion<'_>, kinds: &[&Kind]) -> String {
    hash(&of.path(), kinds)
}

/// The first of `offered` that the header accepts, in the header's order.
fn negotiate(accept: &str, offered: &[&'static str]) -> Option<&'static str> {
    if accept.trim().is_empty() {
        return offered.last().copied();
    }
    accept.split(',').find_map(|range| {
        let media_type = range.split(';').next().unwrap_or_default().trim();
        match media_type {
            "*/*" | "application/*" => offered.last().copied(),
            _ => offered.iter().copied().find(|offer| offer.eq_ignore_ascii_case(media_type)),
        }
    })
}

/// Every schema, by its name.
#[cfg(test)]
pub(crate) fn all() -> std::collections::BTreeMap<String, serde_json::Value> {
    let schemas = schemas::Schemas::read().unwrap_or_else(|| panic!("the schemas in the binary are whole"));
    let parsed = |(name, text): (&&str, &&str)| Some(((*name).to_owned(), serde_json::from_str(text).ok()?));
    schemas.all().iter().filter_map(parsed).collect()
}

#[cfg(test)]
mod tests;
