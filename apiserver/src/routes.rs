//! Everything that is not a resource: discovery, OpenAPI, health, version, metrics.

use futures_util::TryStreamExt as _;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderName, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use manifests::kinds::{KINDS, METRICS};
use manifests::status::ApiError;
use serde_json::json;

use crate::body::{Body, BodyError};
use crate::discovery;
use crate::error::Error;
use crate::openapi;
use crate::render;
use crate::request::params::Params;
use crate::server::ApiServer;

/// The version of the API that is served. What comes after the plus is our own.
const MAJOR: &str = "1";
const MINOR: &str = "37";
const GIT_VERSION: &str = concat!("v1.37.0+coracle", env!("CARGO_PKG_VERSION"));

/// What `GET /` lists.
const PATHS: [&str; 12] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

fn header(parts: &Parts, name: HeaderName) -> &str {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl ApiServer {
    /// Answers a request that is not about a resource.
    pub(crate) async fn other(&self, parts: &Parts) -> Result<Response<Body>, Error> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed("", "", parts.method.as_str()).into());
        }
        let path = parts.uri.path();
        let params = Params::parse(parts.uri.query());
        if let Some(answer) = self.health(path, &params).await {
            return Ok(answer);
        }
        if discovery::is_discovery_path(path) {
            return self.discover(parts);
        }
        if openapi::is_openapi_path(path) {
            return describe(parts, &params);
        }
        match path.trim_end_matches('/') {
            "/openid/v1/jwks" => Ok(render::respond(
                StatusCode::OK,
                "application/jwk-set+json",
                self.token_key.jwks().to_string().into(),
            )),
            "/.well-known/openid-configuration" => {
                let (address, port) = self.config.advertise;
                let address = std::net::SocketAddr::new(address, port).to_string();
                let text = crate::token::discovery(&self.config.issuer, &address).to_string();
                Ok(render::json(StatusCode::OK, text))
            }
            // An addition of ours: a copy of the store, for whoever may get every path.
            "/coracle/v1/backup" => {
                let copy = store::archive::stream(self.caches.store.clone());
                let body = Body::stream(copy.map_err(|error| -> BodyError { error.into() }));
                Ok(render::respond(StatusCode::OK, "application/octet-stream", body))
            }
            "/version" => Ok(render::json(StatusCode::OK, version().to_string())),
            "/metrics" => {
                let counts =
                    self.registry.rows().iter().filter(|row| row.view.is_none() && row.kind.is_stored());
                let text = self.metrics.expose(counts.map(|row| (row.kind.plural, row.cache.len())));
                Ok(render::respond(
                    StatusCode::OK,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    text.into(),
                ))
            }
            "" => Ok(render::json(StatusCode::OK, json!({ "paths": PATHS }).to_string())),
            _ => Err(ApiError::unknown_path().into()),
        }
    }

    fn discover(&self, parts: &Parts) -> Result<Response<Body>, Error> {
        let format = discovery::Format::negotiate(header(parts, ACCEPT))
            .ok_or_else(|| ApiError::not_acceptable(&["application/json"]))?;
        let (address, port) = self.config.advertise;
        let address = std::net::SocketAddr::new(address, port).to_string();
        let kinds: Vec<_> = KINDS.iter().chain(METRICS).copied().collect();
        let document = discovery::document(parts.uri.path(), format, &kinds, &address)
            .ok_or_else(ApiError::unknown_path)?;
        let known = document.etag.as_deref().is_some_and(|etag| header(parts, IF_NONE_MATCH).contains(etag));
        let mut response = if known {
            render::respond(StatusCode::NOT_MODIFIED, document.content_type, Body::empty())
        } else {
            render::respond(StatusCode::OK, document.content_type, document.body.into())
        };
        if let Some(etag) = document.etag {
            keep(&mut response, &etag, "public");
        }
        Ok(response)
    }
}

/// Lets clients keep a document and ask for it again by its tag.
fn keep(response: &mut Response<Body>, etag: &str, cache: &'static str) {
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(ETAG, etag);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
}

/// Answers with an OpenAPI document.
fn describe(parts: &Parts, params: &Params) -> Result<Response<Body>, Error> {
    let request = openapi::Request {
        path: parts.uri.path(),
        hash: params.get("hash"),
        accept: header(parts, ACCEPT),
        if_none_match: Some(header(parts, IF_NONE_MATCH)).filter(|tags| !tags.is_empty()),
    };
    match openapi::reply(request, KINDS) {
        openapi::Reply::NotFound => Err(ApiError::unknown_path().into()),
        openapi::Reply::NotAcceptable(offered) => Err(ApiError::not_acceptable(offered).into()),
        openapi::Reply::NotModified { etag } => {
            let mut response = render::respond(StatusCode::NOT_MODIFIED, "application/json", Body::empty());
            keep(&mut response, &etag, "public");
            Ok(response)
        }
        openapi::Reply::Document(document) => {
            // What is named by its hash never changes; everything else is asked for again, for nothing.
            let cache =
                if document.immutable { "public, immutable, max-age=31536000" } else { "no-cache, public" };
            let mut response = render::respond(StatusCode::OK, document.content_type, document.body.into());
            keep(&mut response, &document.etag, cache);
            Ok(response)
        }
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}
