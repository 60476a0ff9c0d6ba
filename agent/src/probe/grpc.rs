//! gRPC health checks: one request over HTTP/2 without TLS, as `grpc.health.v1` has it. The two messages have one field
//! each and are read and written here by hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use manifests::go::quote;
use tokio::net::TcpStream;

use super::Outcome;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// No answer to a health check is longer.
const MAX_ANSWER: usize = 64 << 10;
/// Names of the values of `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// Names of gRPC's codes.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// How a question ended that was not answered.
enum Failed {
    Connect(String),
    /// gRPC's code and message.
    Rpc(u32, String),
}

/// Asks a server for its health, or for that of one of its services.
pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let within =
        crate::pod::backoff::display(SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX));
    let connecting = AtomicBool::new(true);
    let result = tokio::time::timeout(timeout, ask(host, port, &address, service, &connecting)).await;
    Outcome::Failure(match result {
        Ok(Ok(1)) => return Outcome::Success,
        Ok(Ok(status)) => {
            let known = usize::try_from(status).ok().and_then(|index| STATUSES.get(index));
            let name = known.map_or_else(|| status.to_string(), |name| (*name).to_owned());
            format!("service unhealthy (responded with {})", quote(&name))
        }
        Ok(Err(Failed::Connect(reason))) => {
            format!("error: failed to connect service at {}: {reason}", quote(&address))
        }
        Ok(Err(Failed::Rpc(12, message))) => {
            format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            )
        }
        Ok(Err(Failed::Rpc(code, message))) => {
            let known = usize::try_from(code).ok().and_then(|index| CODES.get(index));
            let name = known.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned());
            format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}")
        }
        Err(_) if connecting.load(Ordering::Relaxed) => {
            format!(
                "timeout: failed to connect service {} within {within}: context deadline exceeded",
                quote(&address)
            )
        }
        Err(_) => format!("timeout: health rpc did not complete within {within}"),
    })
}

/// The status that the server answers with.
async fn ask(
    host: &str,
    port: u16,
    address: &str,
    service: &str,
    connecting: &AtomicBool,
) -> Result<u64, Failed> {
    let connect = |error: &dyn std::error::Error| Failed::Connect(error.to_string());
    let stream = TcpStream::connect((host, port)).await.map_err(|error| connect(&error))?;
    let handshake = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    );
    let (mut sender, connection) = handshake.await.map_err(|error| connect(&error))?;
    let broken = |error: hyper::Error| Failed::Rpc(14, client::ErrorChain(&error).to_string());
    let question = async {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.37")
            .body(Full::new(request(service)))
            .map_err(|error| Failed::Connect(error.to_string()))?;
        connecting.store(false, Ordering::Relaxed);
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != http::StatusCode::OK {
            let message = format!("unexpected HTTP status code received from server: {}", response.status());
            return Err(Failed::Rpc(if response.status() == 404 { 12 } else { 14 }, message));
        }
        if let Some(failed) = rpc_status(response.headers()) {
            return Err(failed);
        }
        let mut body = response.into_body();
        let mut answer = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame.map_err(broken)?.into_data() {
                Ok(data) if answer.len() + data.len() > MAX_ANSWER => {
                    return Err(Failed::Rpc(8, "received message larger than max".to_owned()));
                }
                Ok(data) => answer.extend_from_slice(&data),
                Err(frame) => {
                    if let Some(failed) = frame.trailers_ref().and_then(rpc_status) {
                        return Err(failed);
                    }
                }
            }
        }
        status(&answer).ok_or_else(|| Failed::Rpc(13, "the answer is not a HealthCheckResponse".to_owned()))
    };
    // The connection is driven by the same task, and ends with the question.
    tokio::select! {
        biased;
        answer = question => answer,
        ended = connection => Err(match ended {
            Ok(()) => Failed::Rpc(14, "connection closed".to_owned()),
            Err(error) => Failed::Connect(client::ErrorChain(&error).to_string()),
        }),
    }
}

/// A failure that headers or trailers tell of.
fn rpc_status(headers: &http::HeaderMap) -> Option<Failed> {
    let code: u32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    (code != 0).then(|| Failed::Rpc(code, message.to_owned()))
}

/// `HealthCheckRequest{service}` with gRPC's prefix: not compressed, and its length.
fn request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// `HealthCheckResponse.status`; other fields are skipped.
fn status(framed: &[u8]) -> Option<u64> {
    let length = u32::from_be_bytes(framed.get(1..5)?.try_into().ok()?);
    let mut rest = framed.get(5..)?.get(..usize::try_from(length).ok()?)?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = read_varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = read_varint(&mut rest)?;
                rest = rest.get(usize::try_from(length).ok()?..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Response};
    use http_body_util::StreamBody;
    use hyper::body::{Frame, Incoming};
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that knows the service `db`, is well itself, and implements nothing for the service `none`.
    async fn serve() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async move {
                    assert_eq!(request.uri().path(), PATH);
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let service = String::from_utf8(body.get(7..).unwrap_or_default().to_vec()).unwrap();
                    let (answer, code): (&[u8], &str) = match service.as_str() {
                        "" => (&[0, 0, 0, 0, 2, 0x08, 1], "0"),
                        "db" => (&[0, 0, 0, 0, 2, 0x08, 2], "0"),
                        "none" => (&[], "12"),
                        "hang" => std::future::pending().await,
                        _ => (&[], "5"),
                    };
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", code.parse().unwrap());
                    trailers.insert("grpc-message", "so it is".parse().unwrap());
                    let frames = [Frame::data(Bytes::copy_from_slice(answer)), Frame::trailers(trailers)];
                    let frames = futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>));
                    let response = Response::builder().header("content-type", "application/grpc");
                    Ok::<_, std::io::Error>(response.body(StreamBody::new(frames)).unwrap())
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        port
    }

    #[tokio::test]
    async fn answers() {
        let port = serve().await;
        let check = async |service: &str| check("127.0.0.1", port, service, Duration::from_secs(1)).await;
        assert_eq!(check("").await, Outcome::Success);
        for (service, expected) in [
            ("db", "service unhealthy (responded with \"NOT_SERVING\")"),
            (
                "none",
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): so it is",
            ),
            ("other", "error: health rpc probe failed: rpc error: code = NotFound desc = so it is"),
            ("hang", "timeout: health rpc did not complete within 1s"),
        ] {
            assert_eq!(check(service).await, Outcome::Failure(expected.to_owned()), "{service}");
        }
    }

    #[tokio::test]
    async fn nobody_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let outcome = check("127.0.0.1", port, "", Duration::from_secs(1)).await;
        let Outcome::Failure(message) = outcome else { panic!("success") };
        let expected = format!("error: failed to connect service at \"127.0.0.1:{port}\": ");
        assert!(message.starts_with(&expected), "{message}");
    }

    #[test]
    fn long_names_and_unknown_fields() {
        assert_eq!(request(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 200, 1]);
        assert_eq!(status(&[0, 0, 0, 0, 5, 0x12, 1, 0, 0x08, 3]), Some(3));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0, 0, 9, 1]), None);
    }
}
