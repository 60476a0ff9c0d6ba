//! The verbs, written once over rows.

pub(crate) mod apply;
pub(crate) mod binding;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod eviction;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod review;
pub(crate) mod scale;
pub(crate) mod update;
pub(crate) mod watch;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::body::Body;
use crate::identity::Identity;
use crate::ownership::{Writer, manager_name};
use crate::registry::Row;
use crate::request::accept::Output;
use crate::request::params::Params;
use crate::request::path::ResourcePath;
use crate::watch_cache::Listed;

/// One request on a resource.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) row: Arc<Row>,
    pub(crate) path: ResourcePath,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) output: Output,
    pub(crate) identity: Identity,
}

impl Call {
    /// Who writes, in the words of `metadata.managedFields`.
    pub(crate) fn writer(&self, manager: &str) -> Writer {
        let subresource = self.row.kind.subresource(&self.path.subresource).map_or("", |found| found.name);
        Writer::new(manager_name(manager, &self.headers), self.row.stored_kind(), subresource)
    }

    /// The key of the named object after the resource's prefix.
    pub(crate) fn key(&self) -> String {
        self.row.relative_key(&self.path.namespace, &self.path.name)
    }
}

/// What a handler answers; written in the form that the client asked for.
pub(crate) enum Reply {
    /// One object of the row's kind.
    Object { code: StatusCode, json: Bytes, warnings: Vec<String> },
    /// Several objects of the row's kind.
    List(ListReply),
    /// Events.
    Events(Body),
    /// A status that is not an error.
    Status(Box<Status>),
    /// Something that is passed on as it is.
    Raw(Box<http::Response<Body>>),
}

/// A list with what its metadata says.
#[derive(Debug)]
pub(crate) struct ListReply {
    pub(crate) listed: Listed,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<u64>,
}

impl Reply {
    pub(crate) fn ok(json: Bytes) -> Reply {
        Reply::Object { code: StatusCode::OK, json, warnings: Vec::new() }
    }
}
