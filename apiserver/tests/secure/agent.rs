//! A node's agent that answers logs and echoes streams.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::port::{Port, subject};

/// Serves until the test ends. Only the cluster's own clients may speak to it.
pub(crate) async fn start(port: &Port) -> SocketAddr {
    let mut subject = subject("system:node:n1", "system:nodes");
    // It is known by its name, whatever its address is.
    subject.dns_names = vec!["n1".to_owned()];
    subject.addresses.clear();
    let pair = port.pki.pair("node", &subject).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(pair.server_config(port.pki.ca(), true).unwrap()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(answer);
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
        }
    });
    address
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            stream.write_all(format!("{path}\n").as_bytes()).await.unwrap();
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..length]).await.unwrap();
            }
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", "v5.channel.k8s.io");
        return Ok(response.body(Full::default()).unwrap());
    }
    let (code, text) = match path.split(['/', '?']).nth(1) {
        Some("containerLogs") if path.contains("previous") => {
            (400, "previous terminated container \"c\" in pod \"web\" not found".to_owned())
        }
        Some("containerLogs") => (200, format!("log of {path}\n")),
        _ => (404, "no such path".to_owned()),
    };
    Ok(Response::builder().status(code).header("content-type", "text/plain").body(Full::from(text)).unwrap())
}
