//! An API server alone, for trying and measuring: no scheduler, no controllers, no nodes.
//!
//! `cargo run -p apiserver --example serve -- DIRECTORY [ADDRESS [STORE]]` makes certificates in the directory, writes
//! `DIRECTORY/kubeconfig` and serves until it is interrupted. STORE is `memory`, `embedded`, or the URL of an etcd.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::pki::{Pki, Subject, kubeconfig, write_private};
use apiserver::{ApiServer, Config};
use store::Store;
use store::embedded::EmbeddedStore;
use store::etcd::EtcdStore;
use store::memory::MemoryStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// As in the real program with its feature `mimalloc`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(worker_threads = 2)]
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
    let store: Arc<dyn Store> = match arguments.next().as_deref().unwrap_or("memory") {
        "memory" => Arc::new(MemoryStore::new()),
        "embedded" => Arc::new(EmbeddedStore::open(directory.join("store"), Default::default())?),
        etcd => Arc::new(EtcdStore::connect(store::etcd::Options::new([etcd])).await?),
    };
    let api = ApiServer::new(store, config);
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
