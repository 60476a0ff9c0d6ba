//! An API server over the memory store, for trying clients: no scheduler, no controllers, no nodes.
//!
//! `cargo run -p apiserver --example serve -- DIRECTORY [ADDRESS]` makes certificates in the directory, writes
//! `DIRECTORY/kubeconfig` and serves until it is interrupted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::pki::{Pki, Subject, kubeconfig, write_private};
use apiserver::{ApiServer, Config};
use store::memory::MemoryStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: serve DIRECTORY [ADDRESS]")?);
    let address: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:0").parse()?;
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;

    let pki = Pki::open(directory.join("pki"))?;
    let server = Subject {
        common_name: "apiserver".to_owned(),
        dns_names: vec!["localhost".to_owned(), "kubernetes".to_owned()],
        addresses: vec![address.ip()],
        ..Subject::default()
    };
    let admin = Subject {
        common_name: "admin".to_owned(),
        organization: Some("system:masters".to_owned()),
        ..Subject::default()
    };
    let tls = pki.pair("apiserver", &server)?.server_config(pki.ca(), false)?;
    let admin = pki.pair("admin", &admin)?;
    let file = directory.join("kubeconfig");
    write_private(&file, kubeconfig(&format!("https://{address}"), pki.ca(), "admin", &admin).as_bytes())?;

    let config = Config { advertise: (address.ip(), address.port()), ..Config::default() };
    let api = ApiServer::new(Arc::new(MemoryStore::new()), config);
    api.start().await?;
    eprintln!("serving on https://{address}: export KUBECONFIG={}", file.display());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(apiserver::serve(api.clone(), listener, Arc::new(tls), stop.clone()));
    tokio::signal::ctrl_c().await?;
    api.stop().await;
    stop.cancel();
    serving.await?;
    Ok(())
}
