//! Who is who by certificate, and how connections end.

use std::time::Duration;

use apiserver::pki::Pki;
use http_body_util::BodyExt;

use crate::port::{Port, get, subject, text};

#[tokio::test]
async fn certificates_say_who_asks() {
    let port = Port::open().await;
    let admin = port.admin();
    assert_eq!(port.ask(Some(&admin), get("/api/v1/pods")).await.status(), 200);
    assert_eq!(port.ask(None, get("/readyz")).await.status(), 200);
    let refused = port.ask(None, get("/api/v1/pods")).await;
    assert_eq!(refused.status(), 403);
    assert!(text(refused).await.contains("User \\\"system:anonymous\\\" cannot list"));
    let proxy = port.pki.pair("proxy", &subject("system:kube-proxy", "")).unwrap();
    assert_eq!(port.ask(Some(&proxy), get("/api/v1/services")).await.status(), 200);
    assert_eq!(port.ask(Some(&proxy), get("/api/v1/secrets")).await.status(), 403);

    // Credentials that cannot be checked are not the same as none.
    let mut request = get("/api/v1/pods");
    request.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
    assert_eq!(port.ask(None, request).await.status(), 401);

    // A certificate of somebody else's CA ends the handshake.
    let directory = tempfile::tempdir().unwrap();
    let stranger =
        Pki::open(directory.path()).unwrap().pair("admin", &subject("admin", "system:masters")).unwrap();
    let stream = port.connect(Some(&stranger), b"http/1.1").await;
    let refused = match stream {
        Err(_) => true,
        // TLS 1.3 clients learn it with the first read.
        Ok(mut stream) => {
            let mut byte = [0];
            !matches!(tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await, Ok(1..))
        }
    };
    assert!(refused);
}

#[tokio::test]
async fn many_requests_over_one_connection() {
    let port = Port::open().await;
    let requests = (0..100).map(|_| get("/api/v1/namespaces")).collect();
    for response in port.ask_http2(&port.admin(), requests).await {
        assert_eq!((response.version(), response.status()), (http::Version::HTTP_2, http::StatusCode::OK));
        assert!(text(response).await.contains("kube-system"));
    }
}

#[tokio::test]
async fn the_server_ends_its_watches_and_stops() {
    let port = Port::open().await;
    let watch = port.ask(Some(&port.admin()), get("/api/v1/pods?watch=1")).await;
    assert_eq!(watch.status(), 200);
    let mut body = watch.into_body();
    port.api.stop().await;
    port.stop.cancel();
    let end = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("ends in time");
    assert!(end.is_none(), "{end:?}");
    tokio::time::timeout(Duration::from_secs(5), port.serving).await.expect("stops in time").unwrap();
}
