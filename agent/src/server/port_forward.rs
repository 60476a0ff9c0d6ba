//! Port forwarding over SPDY: two streams per connection, one for its bytes and one for what went wrong.
//!
//! ```text
//! SYN_STREAM streamType=error port=80 requestID=0 ─┐
//! SYN_STREAM streamType=data  port=80 requestID=0 ─┴▶ connection to port 80 in the pod ◀═▶ data
//! ```
//!
//! Each direction of a connection ends by itself, as with TCP. Connections know nothing of each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use spdy::{Headers, Incoming, Limits, Opened, Role, Stream};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::dial::connect;
use super::upgrade::Carrier;
use crate::machine::PodSandbox;

/// The protocol's name.
pub(super) const PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
/// Both streams of a connection are opened within this.
const PAIRING: Duration = Duration::from_secs(30);

/// The pod that is reached.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) sandbox: Arc<dyn PodSandbox>,
    pub(super) pod: String,
}

/// Forwards until the client is gone.
pub(super) async fn converse(target: Target, carrier: impl Carrier) {
    let Opened { session, incoming, driver } = spdy::session(carrier, Role::Server, Limits::default());
    // The session lives as long as its driver; nothing ends it from this side.
    let _session = session;
    tokio::select! {
        ended = driver.run() => if let Err(error) = ended {
            debug!(error = %client::ErrorChain(&error), "a port-forward broke off");
        },
        () = serve(target, incoming) => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

/// What a stream is for, from what it was opened with.
fn read(headers: &Headers, id: u32) -> Result<(Kind, u16, String), String> {
    let port = headers.get("port").filter(|port| !port.is_empty()).ok_or("\"port\" header is required")?;
    let number =
        port.parse::<u16>().map_err(|error| format!("unable to parse {port:?} as a port: {error}"))?;
    if number == 0 {
        return Err(format!("port {port:?} must be > 0"));
    }
    let kind = match headers.get("streamtype") {
        Some("error") => Kind::Error,
        Some("data") => Kind::Data,
        Some(other) if !other.is_empty() => return Err(format!("invalid stream type {other:?}")),
        _ => return Err("\"streamType\" header is required".to_owned()),
    };
    let request = headers.get("requestid").filter(|request| !request.is_empty()).map(str::to_owned);
    // Clients of the first days do not number requests; their two streams have numbers next to each other.
    let implied = || if kind == Kind::Error { id } else { id.saturating_sub(2) }.to_string();
    Ok((kind, number, request.unwrap_or_else(implied)))
}

/// Streams of a connection that wait for the other one.
struct Half {
    error: Option<Stream>,
    data: Option<Stream>,
    until: Instant,
}

async fn serve(target: Target, mut incoming: mpsc::Receiver<Incoming>) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    // No more than the session has streams; they end with it.
    let mut connections = JoinSet::new();
    loop {
        let next = halves.values().map(|half| half.until).min();
        let expired = async {
            match next {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            stream = incoming.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_) = connections.join_next() => continue,
            () = expired => {
                let now = Instant::now();
                for (request, half) in halves.extract_if(|_, half| half.until <= now) {
                    connections.spawn(give_up(half, format!("(request={request}) timed out waiting for streams")));
                }
                continue;
            }
        };
        let (kind, port, request) = match read(stream.headers(), stream.id()) {
            Ok(read) => read,
            Err(why) => {
                debug!(why, "a stream of a port-forward was refused");
                continue;
            }
        };
        let stream = stream.accept();
        let new = || Half { error: None, data: None, until: Instant::now() + PAIRING };
        let half = halves.entry(request.clone()).or_insert_with(new);
        let place = if kind == Kind::Error { &mut half.error } else { &mut half.data };
        if place.is_some() {
            let name = if kind == Kind::Error { "error" } else { "data" };
            let why =
                format!("error processing stream for request {request}: {name} stream already assigned");
            if let Some(half) = halves.remove(&request) {
                connections.spawn(give_up(half, why));
            }
            continue;
        }
        *place = Some(stream);
        if half.error.is_some()
            && half.data.is_some()
            && let Some(Half { error: Some(error), data: Some(data), .. }) = halves.remove(&request)
        {
            connections.spawn(forward(target.clone(), port, error, data));
        }
    }
}

async fn give_up(half: Half, why: String) {
    if let Some(mut error) = half.error {
        say(&mut error, &why).await;
    }
}

/// Says what went wrong. A client that is gone does not hear it.
async fn say(stream: &mut Stream, why: &str) {
    debug!(why, "forwarding a port");
    _ = stream.write_all(why.as_bytes()).await;
    _ = stream.shutdown().await;
}

async fn forward(target: Target, port: u16, mut error: Stream, mut data: Stream) {
    let connection = match connect(target.sandbox, port).await {
        Ok(connection) => connection,
        Err(failed) => {
            let why = format!("error forwarding port {port} to pod {}, uid : {failed}", target.pod);
            say(&mut error, &why).await;
            _ = data.shutdown().await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = connection.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(data);
    let out = async {
        let copied = tokio::io::copy(&mut from_pod, &mut to_client).await;
        // Clients wait for the end of both before they close their side.
        _ = error.shutdown().await;
        _ = to_client.shutdown().await;
        copied
    };
    let back = async {
        tokio::io::copy(&mut from_client, &mut to_pod).await?;
        to_pod.shutdown().await
    };
    // A direction that ends leaves the other one alone; one that breaks off does not, as nobody would notice any more.
    if let Err(broken) = tokio::try_join!(out, back) {
        debug!(error = %broken, port, "a forwarded connection broke off");
    }
    _ = error.shutdown().await;
    _ = to_client.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)], expected: Result<(Kind, u16, &str), &str>) {
        let headers =
            headers.iter().fold(Headers::new(), |headers, (name, value)| headers.with(name, *value));
        let found = read(&headers, 5);
        let found =
            found.as_ref().map(|(kind, port, id)| (*kind, *port, id.as_str())).map_err(String::as_str);
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn streams_say_what_they_are_for() {
        let port = ("port", "80");
        check(&[("streamType", "data"), port, ("requestID", "7")], Ok((Kind::Data, 80, "7")));
        check(&[("streamType", "data"), port], Ok((Kind::Data, 80, "3")));
        check(&[("streamType", "error"), port], Ok((Kind::Error, 80, "5")));
        check(&[("streamType", "error")], Err("\"port\" header is required"));
        check(&[("streamType", "x"), port], Err("invalid stream type \"x\""));
        check(&[port], Err("\"streamType\" header is required"));
        check(&[("streamType", "data"), ("port", "0")], Err("port \"0\" must be > 0"));
        let why = "unable to parse \"70000\" as a port: number too large to fit in target type";
        check(&[("streamType", "data"), ("port", "70000")], Err(why));
    }
}
