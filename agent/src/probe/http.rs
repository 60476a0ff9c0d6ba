//! HTTP requests of probes and hooks. Certificates are not verified: a probe asks for life, not for identity.

use std::time::Duration;

use reqwest::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Client, Method, StatusCode, Url, redirect};

/// How much of a body is read: enough for a message.
const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// Sends requests, each on a connection of its own.
#[derive(Debug, Clone)]
pub struct HttpProber {
    client: Client,
}

/// A request to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `http` or `https`.
    pub scheme: String,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path, with a query if need be.
    pub path: String,
    /// Headers; `Host` replaces the one of the URL.
    pub headers: Vec<(String, String)>,
}

/// A request that was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
pub enum HttpFailure {
    /// Nothing that could be asked.
    #[error("{0}")]
    Invalid(String),
    /// No answer.
    #[error("Get {url:?}: {reason}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// The innermost reason.
        reason: String,
    },
    /// An answer that says no.
    #[error("HTTP probe failed with statuscode: {0}")]
    Status(u16),
}

impl HttpProber {
    /// A prober. Fails only if TLS cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        let same_host = redirect::Policy::custom(|attempt| {
            // A redirect elsewhere says that the container lives; where it leads is nobody's business.
            let leaves = attempt.previous().first().and_then(Url::host_str) != attempt.url().host_str();
            if leaves {
                attempt.stop()
            } else if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("stopped after 10 redirects")
            } else {
                attempt.follow()
            }
        });
        let client = Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(same_host)
            .tls_danger_accept_invalid_certs(true)
            .http1_only()
            .build()?;
        Ok(Self { client })
    }

    /// Sends a request; anything from 200 to 399 is a success.
    pub async fn get(&self, request: &HttpRequest, timeout: Duration) -> Result<(), HttpFailure> {
        let url = request.url()?;
        let mut builder = self.client.request(Method::GET, url.clone()).timeout(timeout);
        let mut has_agent = false;
        for (name, value) in &request.headers {
            let invalid = |what: &str| HttpFailure::Invalid(format!("invalid header {what} {name:?}"));
            let header = HeaderName::try_from(name).map_err(|_| invalid("name"))?;
            let value = HeaderValue::try_from(value).map_err(|_| invalid("value of"))?;
            has_agent |= header == USER_AGENT;
            builder =
                if header == HOST { builder.header(HOST, value) } else { builder.header(header, value) };
        }
        if !has_agent {
            builder = builder.header(USER_AGENT, "kube-probe/1.37");
        }
        let no_answer = |error: reqwest::Error| {
            let reason = if error.is_timeout() {
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
            } else {
                innermost(&error)
            };
            HttpFailure::NoAnswer { url: url.to_string(), reason }
        };
        let mut response = builder.send().await.map_err(no_answer)?;
        let status = response.status();
        // Read politely: a server that writes to a closed connection would log it as an error.
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > MAX_BODY {
                break;
            }
        }
        if status >= StatusCode::OK && status < StatusCode::BAD_REQUEST {
            Ok(())
        } else {
            Err(HttpFailure::Status(status.as_u16()))
        }
    }
}

/// What the operating system had to say, without the layers around it.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl HttpRequest {
    fn url(&self) -> Result<Url, HttpFailure> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let text = format!("{}://{host}:{}{slash}{}", self.scheme.to_lowercase(), self.port, self.path);
        Url::parse(&text).map_err(|error| HttpFailure::Invalid(format!("{text}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection, and gives what was asked.
    async fn ask(
        answer: &'static str,
        request: impl FnOnce(u16) -> HttpRequest,
    ) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        let prober = HttpProber::new().unwrap();
        let result = prober.get(&request(port), Duration::from_secs(2)).await;
        (result.map_err(|error| error.to_string()), server.await.unwrap())
    }

    fn plain(port: u16) -> HttpRequest {
        HttpRequest {
            scheme: "HTTP".into(),
            host: "127.0.0.1".into(),
            port,
            path: "healthz?x=1".into(),
            headers: vec![("Host".into(), "web.example".into()), ("X-A".into(), "b".into())],
        }
    }

    #[tokio::test]
    async fn answers_are_judged_by_status() {
        let (result, asked) = ask("HTTP/1.1 204 No Content\r\n\r\n", plain).await;
        assert_eq!(result, Ok(()));
        assert!(asked.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{asked}");
        let lower = asked.to_lowercase();
        assert!(lower.contains("host: web.example\r\n") && lower.contains("x-a: b\r\n"), "{asked}");
        assert!(lower.contains("user-agent: kube-probe/1.37\r\n"), "{asked}");
        let (result, _) = ask("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", plain).await;
        assert_eq!(result, Err("HTTP probe failed with statuscode: 503".into()));
        let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(ask(elsewhere, plain).await.0, Ok(()));
    }

    #[tokio::test]
    async fn refusal_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = HttpProber::new().unwrap().get(&plain(port), Duration::from_secs(1)).await.unwrap_err();
        let expected = format!("Get \"http://127.0.0.1:{port}/healthz?x=1\": ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
