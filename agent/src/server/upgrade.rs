//! Switching protocols: which one a client asks for, and the answer 101. What is decided is decided by a pure function.
//!
//! ```text
//! Upgrade: websocket   Sec-WebSocket-Protocol: v5.channel.k8s.io …             one WebSocket message per piece of a stream
//!                      Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io     SPDY inside of a WebSocket
//! Upgrade: SPDY/3.1    X-Stream-Protocol-Version: v4.channel.k8s.io …          one SPDY stream per stream
//! ```

use std::pin::Pin;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::debug;

use super::tunnel::Tunnel;
use super::{Body, full, text};

/// A client has no business with larger messages.
const MAX_MESSAGE: usize = 1 << 20;
const SPDY: &str = "SPDY/3.1";
/// What stands before the name of a protocol that is spoken in SPDY inside of a WebSocket.
const TUNNELED: &str = "SPDY/3.1+";
/// Where SPDY clients say what they speak, and servers what they have chosen.
const PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED: &str = "x-accepted-stream-protocol-versions";

/// How long a client may take to read what is left of a conversation that is over. What is left is no more than the sockets on
/// the way hold, but it may be on its way to a slow one.
pub(super) const LINGER: Duration = Duration::from_secs(15 * 60);

/// A conversation over WebSocket messages.
pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A connection that carries SPDY.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Carrier for T {}

/// What a conversation switched to.
pub(super) enum Switched {
    WebSocket(Box<Socket>),
    Spdy(Pin<Box<dyn Carrier>>, &'static str),
}

/// What is spoken, best first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken {
    pub(super) web_socket: &'static [&'static str],
    pub(super) spdy: &'static [&'static str],
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    WebSocket { accept: String, protocol: &'static str },
    Tunnel { accept: String, header: String, protocol: &'static str },
    Spdy(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    BadRequest(String),
    /// Nothing that the client offers is spoken.
    Negotiation(String),
}

/// All values of a header, those of one line apart by commas.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
}

/// The first of the client's offers that is spoken.
fn first(offered: &[&str], spoken: &[&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|offer| spoken.iter().find(|have| *have == offer).copied())
}

fn choose(headers: &HeaderMap, spoken: Spoken) -> Result<Choice, Refused> {
    let upgrade = values(headers, "upgrade");
    if upgrade.iter().any(|value| value.eq_ignore_ascii_case("websocket")) {
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
            return Err(Refused::BadRequest("Sec-WebSocket-Key is required".to_owned()));
        };
        let accept = derive_accept_key(key.as_bytes());
        let offered = values(headers, "sec-websocket-protocol");
        // Ours decides: later versions can do more.
        if let Some(protocol) = spoken.web_socket.iter().find(|have| offered.contains(have)).copied() {
            return Ok(Choice::WebSocket { accept, protocol });
        }
        let inner: Vec<&str> = offered.iter().filter_map(|offer| offer.strip_prefix(TUNNELED)).collect();
        if let Some(protocol) = first(&inner, spoken.spdy) {
            return Ok(Choice::Tunnel { accept, header: format!("{TUNNELED}{protocol}"), protocol });
        }
        return Err(Refused::Negotiation(negotiation(&offered, spoken.web_socket)));
    }
    if !upgrade.iter().any(|value| value.eq_ignore_ascii_case(SPDY)) {
        return Err(Refused::BadRequest("unable to upgrade: missing upgrade headers in request".to_owned()));
    }
    let offered = values(headers, PROTOCOL);
    if offered.is_empty() {
        return Err(Refused::BadRequest(
            "unable to upgrade: X-Stream-Protocol-Version is required".to_owned(),
        ));
    }
    first(&offered, spoken.spdy)
        .map(Choice::Spdy)
        .ok_or_else(|| Refused::Negotiation(negotiation(&offered, spoken.spdy)))
}

fn negotiation(offered: &[&str], spoken: &[&str]) -> String {
    format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        spoken.join(" ")
    )
}

/// Answers 101 and hands the connection over when it has switched, or says why not.
pub(super) fn upgrade<F>(
    request: Request<Incoming>,
    spoken: Spoken,
    talk: impl FnOnce(Switched) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send,
{
    let choice = match choose(request.headers(), spoken) {
        Ok(choice) => choice,
        Err(Refused::BadRequest(why)) => return text(StatusCode::BAD_REQUEST, &why),
        Err(Refused::Negotiation(why)) => {
            let mut response = text(StatusCode::FORBIDDEN, &why);
            for protocol in spoken.spdy {
                response.headers_mut().append(ACCEPTED, header::HeaderValue::from_static(protocol));
            }
            return response;
        }
    };
    let response = accepted(&choice);
    // Detached: it ends with the process or with the connection, whichever is first.
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => talk(switch(upgraded, choice).await).await,
            Err(error) => debug!(%error, "the connection did not switch protocols"),
        }
    });
    response
}

fn accepted(choice: &Choice) -> Response<Body> {
    let response =
        Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(header::CONNECTION, "Upgrade");
    let response = match choice {
        Choice::WebSocket { accept, protocol } => response
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .header(header::SEC_WEBSOCKET_PROTOCOL, *protocol),
        Choice::Tunnel { accept, header, .. } => response
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .header(header::SEC_WEBSOCKET_PROTOCOL, header),
        Choice::Spdy(protocol) => response.header(header::UPGRADE, SPDY).header(PROTOCOL, *protocol),
    };
    response
        .body(full(""))
        .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be built"))
}

async fn switch(upgraded: hyper::upgrade::Upgraded, choice: Choice) -> Switched {
    let connection = TokioIo::new(upgraded);
    if let Choice::Spdy(protocol) = choice {
        return Switched::Spdy(Box::pin(connection), protocol);
    }
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    match choice {
        Choice::Tunnel { protocol, .. } => Switched::Spdy(Box::pin(Tunnel::new(socket)), protocol),
        _ => Switched::WebSocket(Box::new(socket)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOKEN: Spoken = Spoken { web_socket: &["v5", "v4"], spdy: &["v4", "v2"] };

    fn check(lines: &[(&'static str, &'static str)], expected: Result<Choice, Refused>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, header::HeaderValue::from_static(value));
        }
        assert_eq!(choose(&headers, SPOKEN), expected, "{lines:?}");
    }

    #[test]
    fn the_best_protocol_that_both_speak_is_chosen() {
        // The example of RFC 6455.
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        let web = ("upgrade", "websocket");
        check(
            &[web, key, ("sec-websocket-protocol", "v4, v5")],
            Ok(Choice::WebSocket { accept: accept.clone(), protocol: "v5" }),
        );
        check(
            &[web, key, ("sec-websocket-protocol", "SPDY/3.1+v2")],
            Ok(Choice::Tunnel { accept, header: "SPDY/3.1+v2".to_owned(), protocol: "v2" }),
        );
        check(&[web, ("sec-websocket-protocol", "v5")], {
            Err(Refused::BadRequest("Sec-WebSocket-Key is required".to_owned()))
        });
        let spdy = ("upgrade", "SPDY/3.1");
        check(&[spdy, (PROTOCOL, "v3"), (PROTOCOL, "v2"), (PROTOCOL, "v4")], Ok(Choice::Spdy("v2")));
        check(&[spdy, (PROTOCOL, "v9")], {
            let why = "unable to upgrade: unable to negotiate protocol: client supports [v9], server accepts [v4 v2]";
            Err(Refused::Negotiation(why.to_owned()))
        });
        check(&[spdy], {
            let why = "unable to upgrade: X-Stream-Protocol-Version is required";
            Err(Refused::BadRequest(why.to_owned()))
        });
        check(&[], {
            Err(Refused::BadRequest("unable to upgrade: missing upgrade headers in request".to_owned()))
        });
    }
}
