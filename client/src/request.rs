//! API requests as plain values: what is sent where, testable without a server.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use serde::Serialize;

use crate::error::Error;
use crate::object::ApiResource;

/// Sent with metadata-only requests; a server that cannot is allowed to answer with whole objects.
const ACCEPT_PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const ACCEPT_PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const ACCEPT_JSON: &str = "application/json";

/// How an object is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetParams {
    /// None: at least as new as any acknowledged write. `0`: whatever the server has at hand.
    pub resource_version: Option<String>,
}

/// What is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListParams {
    /// For example `app=web,tier in (a,b)`.
    pub label_selector: Option<String>,
    /// For example `spec.nodeName=n1`.
    pub field_selector: Option<String>,
    /// Objects per answer; the next page is asked for with `continue_token`.
    pub limit: Option<u32>,
    /// From the metadata of the page before.
    pub continue_token: Option<String>,
    /// None: at least as new as any acknowledged write. `0`: whatever the server has at hand.
    pub resource_version: Option<String>,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: Option<String>,
}

impl ListParams {
    /// Only objects with these labels.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = Some(selector.into());
        self
    }

    /// Only objects with these fields.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }

    /// So many objects per answer.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// What is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchParams {
    /// As in a list.
    pub label_selector: Option<String>,
    /// As in a list.
    pub field_selector: Option<String>,
    /// Events after this version; None starts with every object as `ADDED`.
    pub resource_version: Option<String>,
    /// Ask for `BOOKMARK` events, so that a resume does not start from an old version.
    pub bookmarks: bool,
    /// The server ends the watch after so many seconds.
    pub timeout_seconds: Option<u32>,
}

/// How an object is created, replaced or patched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteParams {
    /// Name of the writer in managedFields.
    pub field_manager: Option<String>,
    /// Check everything, store nothing.
    pub dry_run: bool,
    /// `Ignore`, `Warn` or `Strict`.
    pub field_validation: Option<String>,
    /// With [`Patch::Apply`]: take fields over from other managers.
    pub force: bool,
}

/// What happens to the objects that an object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without the owner reference.
    Orphan,
    /// They are deleted after the owner.
    Background,
    /// The owner goes when those that block it are gone.
    Foreground,
}

impl Propagation {
    /// As in `DeleteOptions`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "Orphan",
            Self::Background => "Background",
            Self::Foreground => "Foreground",
        }
    }
}

/// How an object is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds until the object may be removed; None is the object's own period.
    pub grace_period_seconds: Option<u32>,
    /// What happens to the objects that it owns; None is the resource's default.
    pub propagation: Option<Propagation>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only the object at this version.
    pub resource_version: Option<String>,
    /// Check everything, delete nothing.
    pub dry_run: bool,
}

impl DeleteParams {
    /// Only the object with this uid, never a later one of the same name.
    pub fn uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    /// With this grace period.
    pub fn grace(mut self, seconds: u32) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// With this propagation policy.
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = Some(propagation);
        self
    }

    /// The body of the request.
    pub fn options(&self) -> DeleteOptions {
        let preconditions = (self.uid.is_some() || self.resource_version.is_some()).then(|| Preconditions {
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
        });
        DeleteOptions {
            api_version: Some("v1".to_owned()),
            kind: Some("DeleteOptions".to_owned()),
            grace_period_seconds: self.grace_period_seconds.map(i64::from),
            propagation_policy: self.propagation.map(|policy| policy.as_str().to_owned()),
            preconditions,
            dry_run: self.dry_run.then(|| vec!["All".to_owned()]),
            ..DeleteOptions::default()
        }
    }
}

/// A change to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(serde_json::Value),
    /// RFC 7386: a partial object, null removes.
    Merge(serde_json::Value),
    /// A partial object; lists are merged by their keys.
    Strategic(serde_json::Value),
    /// Server-side apply.
    Apply(serde_json::Value),
}

impl Patch {
    fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            Self::Apply(_) => "application/apply-patch+yaml",
        }
    }

    fn value(&self) -> &serde_json::Value {
        match self {
            Self::Json(value) | Self::Merge(value) | Self::Strategic(value) | Self::Apply(value) => value,
        }
    }
}

/// Where requests of one resource go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) resource: ApiResource,
    /// None: cluster-scoped, or all namespaces.
    pub(crate) namespace: Option<String>,
    /// Ask for metadata alone.
    pub(crate) partial: bool,
}

impl Endpoint {
    fn path(&self, name: Option<&str>, subresource: Option<&str>) -> String {
        let ApiResource { group, version, plural, .. } = &self.resource;
        let mut path = match group.is_empty() {
            true => format!("/api/{version}"),
            false => format!("/apis/{group}/{version}"),
        };
        if let Some(namespace) = &self.namespace {
            path.push_str("/namespaces/");
            push_encoded(&mut path, namespace);
        }
        path.push('/');
        path.push_str(plural);
        for segment in [name, subresource].into_iter().flatten() {
            path.push('/');
            push_encoded(&mut path, segment);
        }
        path
    }

    fn named(&self, name: &str) -> Result<&Self, Error> {
        self.segment("name", name)?;
        self.in_namespace()
    }

    fn in_namespace(&self) -> Result<&Self, Error> {
        if let Some(namespace) = &self.namespace {
            self.segment("namespace", namespace)?;
        }
        Ok(self)
    }

    /// `.` and `..` survive percent-encoding as steps in a path, so they are refused.
    fn segment(&self, what: &'static str, value: &str) -> Result<(), Error> {
        match value {
            "" | "." | ".." => {
                let kind = self.resource.kind.to_string();
                Err(Error::PathSegment { kind, what, value: value.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn accept(&self, list: bool) -> &'static str {
        match (self.partial, list) {
            (false, _) => ACCEPT_JSON,
            (true, false) => ACCEPT_PARTIAL,
            (true, true) => ACCEPT_PARTIAL_LIST,
        }
    }

    pub(crate) fn get(&self, name: &str, params: &GetParams) -> Result<Request<Bytes>, Error> {
        let mut query = Query::default();
        query.push("resourceVersion", params.resource_version.as_deref());
        let path = self.named(name)?.path(Some(name), None);
        build(Method::GET, query.append_to(path), self.accept(false), None)
    }

    pub(crate) fn list(&self, params: &ListParams) -> Result<Request<Bytes>, Error> {
        build(
            Method::GET,
            list_query(params).append_to(self.in_namespace()?.path(None, None)),
            self.accept(true),
            None,
        )
    }

    pub(crate) fn watch(&self, params: &WatchParams) -> Result<Request<Bytes>, Error> {
        let mut query = Query::default();
        query.push("watch", Some("true"));
        query.push("labelSelector", params.label_selector.as_deref());
        query.push("fieldSelector", params.field_selector.as_deref());
        query.push("resourceVersion", params.resource_version.as_deref());
        query.push("allowWatchBookmarks", params.bookmarks.then_some("true"));
        query.push("timeoutSeconds", params.timeout_seconds.map(|seconds| seconds.to_string()).as_deref());
        build(Method::GET, query.append_to(self.in_namespace()?.path(None, None)), self.accept(false), None)
    }

    pub(crate) fn create<B: Serialize>(
        &self,
        subresource_of: Option<(&str, &str)>,
        body: &B,
        params: &WriteParams,
    ) -> Result<Request<Bytes>, Error> {
        let path = match subresource_of {
            Some((name, subresource)) => self.named(name)?.path(Some(name), Some(subresource)),
            None => self.in_namespace()?.path(None, None),
        };
        with_json(Method::POST, write_query(params, false).append_to(path), self.accept(false), body)
    }

    pub(crate) fn replace<B: Serialize>(
        &self,
        name: &str,
        subresource: Option<&str>,
        body: &B,
        params: &WriteParams,
    ) -> Result<Request<Bytes>, Error> {
        let path = self.named(name)?.path(Some(name), subresource);
        with_json(Method::PUT, write_query(params, false).append_to(path), self.accept(false), body)
    }

    pub(crate) fn patch(
        &self,
        name: &str,
        subresource: Option<&str>,
        patch: &Patch,
        params: &WriteParams,
    ) -> Result<Request<Bytes>, Error> {
        let apply = matches!(patch, Patch::Apply(_));
        let path = write_query(params, apply).append_to(self.named(name)?.path(Some(name), subresource));
        let body = encode(&Method::PATCH, &path, patch.value())?;
        build(Method::PATCH, path, self.accept(false), Some((patch.content_type(), body)))
    }

    pub(crate) fn delete(&self, name: &str, params: &DeleteParams) -> Result<Request<Bytes>, Error> {
        let path = self.named(name)?.path(Some(name), None);
        with_json(Method::DELETE, path, self.accept(false), &params.options())
    }

    pub(crate) fn delete_collection(
        &self,
        params: &DeleteParams,
        selection: &ListParams,
    ) -> Result<Request<Bytes>, Error> {
        let path = list_query(selection).append_to(self.in_namespace()?.path(None, None));
        with_json(Method::DELETE, path, self.accept(true), &params.options())
    }

    pub(crate) fn get_subresource(&self, name: &str, subresource: &str) -> Result<Request<Bytes>, Error> {
        let path = self.named(name)?.path(Some(name), Some(subresource));
        build(Method::GET, path, ACCEPT_JSON, None)
    }
}

fn list_query(params: &ListParams) -> Query {
    let mut query = Query::default();
    query.push("labelSelector", params.label_selector.as_deref());
    query.push("fieldSelector", params.field_selector.as_deref());
    query.push("limit", params.limit.map(|limit| limit.to_string()).as_deref());
    query.push("continue", params.continue_token.as_deref());
    query.push("resourceVersion", params.resource_version.as_deref());
    query.push("resourceVersionMatch", params.resource_version_match.as_deref());
    query
}

fn write_query(params: &WriteParams, apply: bool) -> Query {
    let mut query = Query::default();
    query.push("fieldManager", params.field_manager.as_deref().or(apply.then_some("coracle")));
    query.push("dryRun", params.dry_run.then_some("All"));
    query.push("fieldValidation", params.field_validation.as_deref());
    query.push("force", (apply && params.force).then_some("true"));
    query
}

fn encode<B: Serialize + ?Sized>(method: &Method, path: &str, body: &B) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|source| Error::Encode {
        method: method.clone(),
        path: path.to_owned(),
        source,
    })
}

fn with_json<B: Serialize>(
    method: Method,
    path: String,
    accept: &'static str,
    body: &B,
) -> Result<Request<Bytes>, Error> {
    let body = encode(&method, &path, body)?;
    build(method, path, accept, Some(("application/json", body)))
}

pub(crate) fn build(
    method: Method,
    path: String,
    accept: &'static str,
    body: Option<(&'static str, Bytes)>,
) -> Result<Request<Bytes>, Error> {
    let mut request = Request::builder()
        .method(method.clone())
        .uri(&path)
        .header(header::ACCEPT, HeaderValue::from_static(accept));
    let body = match body {
        Some((content_type, body)) => {
            request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            body
        }
        None => Bytes::new(),
    };
    request.body(body).map_err(|source| Error::Request { method, path, source })
}

/// Query parameters in the order they were pushed.
#[derive(Debug, Default)]
struct Query(String);

impl Query {
    fn push(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        push_encoded(&mut self.0, value);
    }

    fn append_to(self, mut path: String) -> String {
        path.push_str(&self.0);
        path
    }
}

/// Percent-encodes everything that RFC 3986 does not call unreserved, so that no value can end its segment.
fn push_encoded(out: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::apps::v1::Deployment;
    use manifests::k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::json;

    use super::*;

    fn endpoint<K: manifests::k8s_openapi::Resource>(namespace: Option<&str>) -> Endpoint {
        Endpoint { resource: ApiResource::of::<K>(), namespace: namespace.map(str::to_owned), partial: false }
    }

    fn check(request: Result<Request<Bytes>, Error>, expected: &str) {
        let request = request.unwrap();
        assert_eq!(format!("{} {}", request.method(), request.uri()), expected);
    }

    #[test]
    fn paths() {
        let pods = endpoint::<Pod>(Some("default"));
        let all = endpoint::<Pod>(None);
        let nodes = endpoint::<Node>(None);
        let deployments = endpoint::<Deployment>(Some("a"));
        check(pods.get("web", &GetParams::default()), "GET /api/v1/namespaces/default/pods/web");
        check(nodes.get("n1", &GetParams::default()), "GET /api/v1/nodes/n1");
        check(
            all.list(&ListParams::default().labels("app=web,x in (a,b)").fields("spec.nodeName=n1").limit(5)),
            "GET /api/v1/pods?labelSelector=app%3Dweb%2Cx%20in%20%28a%2Cb%29&fieldSelector=spec.nodeName%3Dn1&limit=5",
        );
        check(
            deployments.replace("d", Some("status"), &json!({}), &WriteParams::default()),
            "PUT /apis/apps/v1/namespaces/a/deployments/d/status",
        );
        check(
            deployments.patch(
                "d",
                None,
                &Patch::Apply(json!({})),
                &WriteParams { force: true, ..WriteParams::default() },
            ),
            "PATCH /apis/apps/v1/namespaces/a/deployments/d?fieldManager=coracle&force=true",
        );
        check(
            pods.create(Some(("web", "binding")), &json!({}), &WriteParams::default()),
            "POST /api/v1/namespaces/default/pods/web/binding",
        );
        check(
            all.watch(&WatchParams {
                resource_version: Some("7".into()),
                bookmarks: true,
                timeout_seconds: Some(300),
                ..WatchParams::default()
            }),
            "GET /api/v1/pods?watch=true&resourceVersion=7&allowWatchBookmarks=true&timeoutSeconds=300",
        );
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        check(
            endpoint::<Pod>(Some("a/../b")).get("x?y#z", &GetParams::default()),
            "GET /api/v1/namespaces/a%2F..%2Fb/pods/x%3Fy%23z",
        );
        for name in ["", ".", ".."] {
            let refused = endpoint::<Pod>(Some("a")).get(name, &GetParams::default());
            assert!(matches!(refused, Err(Error::PathSegment { what: "name", .. })));
            let refused = endpoint::<Pod>(Some(name)).delete("a", &DeleteParams::default());
            assert!(matches!(refused, Err(Error::PathSegment { what: "namespace", .. })));
        }
    }

    #[test]
    fn delete_options_carry_preconditions() {
        let request = endpoint::<Pod>(Some("a"))
            .delete("p", &DeleteParams::uid("u1").grace(0).propagation(Propagation::Background))
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(
            body,
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                   "propagationPolicy": "Background", "preconditions": {"uid": "u1"}})
        );
    }
}
