//! Pods from a URL, which can only be asked again and again: a URL tells nobody when it changes.
//!
//! A failure of any kind keeps the last state. An answer that did not change costs no more than its headers.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::file::Problem;
use super::manifest::{self, Manifest, ManifestError, Origin};
use super::{Source, Wanted};

/// Larger answers are no manifests.
const MAX_SIZE: usize = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked, and how often.
#[derive(Debug, Clone)]
pub struct UrlSource {
    /// Where.
    pub url: Url,
    /// Sent with every request.
    pub headers: HeaderMap,
    /// Pause between questions.
    pub period: Duration,
    /// This node.
    pub node: String,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("asking for {0}")]
    Request(String, #[source] reqwest::Error),
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
    #[error("{0} answered with more than 16 MiB")]
    TooLarge(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl UrlSource {
    /// Asks until told to stop. `report` hears of a failure when it is a new one.
    pub async fn run(
        self,
        client: Client,
        wanted: watch::Sender<Wanted>,
        report: impl Fn(Problem) + Send,
        stop: CancellationToken,
    ) {
        let mut validators = HeaderMap::new();
        let mut last_problem = None;
        let mut good = Manifest::default();
        loop {
            match self.fetch(&client, &mut validators).await {
                Ok(Some(manifest)) => {
                    last_problem = None;
                    good = manifest::keep_same(manifest, &good);
                    let (pods, _) = manifest::unique([&good]);
                    wanted.send_replace(Wanted { ready: true, pods, objects: good.others.clone() });
                }
                Ok(None) => last_problem = None,
                Err(error) => {
                    let message = client::ErrorChain(&error).to_string();
                    if last_problem.as_ref() != Some(&message) {
                        tracing::error!(url = %self.url, %message, "no usable manifest; the last one stays in effect");
                        report(Problem { place: self.url.to_string(), message: message.clone() });
                        last_problem = Some(message);
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.period) => {}
            }
        }
    }

    /// The manifest, or nothing if it is still the same.
    async fn fetch(
        &self,
        client: &Client,
        validators: &mut HeaderMap,
    ) -> Result<Option<Manifest>, FetchError> {
        let place = self.url.to_string();
        let failed = |error| FetchError::Request(place.clone(), error);
        let request = client.get(self.url.clone()).headers(self.headers.clone()).headers(validators.clone());
        let mut response = request.timeout(TIMEOUT).send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(None),
            status => return Err(FetchError::Status(place, status)),
        }
        let mut next = HeaderMap::new();
        let mut keep = |from: &HeaderMap<HeaderValue>, name, to| {
            if let Some(value) = from.get(name) {
                next.insert(to, value.clone());
            }
        };
        keep(response.headers(), ETAG, IF_NONE_MATCH);
        keep(response.headers(), LAST_MODIFIED, IF_MODIFIED_SINCE);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_SIZE {
                return Err(FetchError::TooLarge(place));
            }
        }
        let origin = Origin { source: Source::Http, place: &place, node: &self.node };
        let manifest = manifest::read(origin, &body, Timestamp::now())?;
        // Only now: a broken answer must be asked for again, not skipped as unchanged.
        *validators = next;
        Ok(Some(manifest))
    }
}
