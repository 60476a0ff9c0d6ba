//! The control plane: store, API server, scheduler, controllers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use apiserver::ApiServer;
use apiserver::pki::{Pki, Subject, kubeconfig, write_private};
use client::{Client, TaskGroup};
use ipnet::Ipv4Net;
use store::Store;
use store::embedded::EmbeddedStore;
use store::etcd::EtcdStore;
use tokio::net::TcpListener;
use tracing::info;

use super::node::ClusterNetwork;
use super::transport::InProcess;
use crate::flags::{ControlPlaneArgs, EtcdArgs};
use crate::instance::{self, Instance};

/// A running control plane.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) pki: Pki,
    /// Where nodes find the API server.
    pub(crate) url_for_nodes: String,
    pod_ranges: controllers::PodRanges,
}

impl ControlPlane {
    /// Starts everything but scheduler and controllers. The kubeconfig is there before the API is. `inner` is one more address to listen
    /// on: that at which nodes on this machine find it.
    pub(crate) async fn start(
        instance: &Instance,
        args: &ControlPlaneArgs,
        network: &ClusterNetwork,
        inner: Option<Ipv4Addr>,
        group: &mut TaskGroup,
    ) -> anyhow::Result<Self> {
        let service_cidr = network.services;
        // First of all: a port in use should cost nobody anything.
        let listener = TcpListener::bind(args.listen).await.with_context(|| {
            format!("listening on {} (--listen takes another address or port)", args.listen)
        })?;
        let address = listener.local_addr().context("reading the address of the listener")?;
        let inner = match inner {
            None => None,
            Some(ip) => {
                let inner = SocketAddr::new(ip.into(), address.port());
                // Who listens on all addresses listens on this one too.
                let listener = match address.ip().is_unspecified() {
                    true => None,
                    false => Some(
                        TcpListener::bind(inner).await.with_context(|| format!("listening on {inner}"))?,
                    ),
                };
                Some((inner, listener))
            }
        };
        let advertised = inner.as_ref().map_or_else(|| reachable(address), |(inner, _)| *inner);
        let pki = Pki::open(instance.pki_dir())?;
        let url = format!("https://{}", reachable(address));
        write_kubeconfigs(instance, &pki, &url)?;

        let subject_of_server = server_subject(&[address, advertised], service_cidr, &args.tls_san);
        let pair = pki.pair("apiserver", &subject_of_server)?;
        let tls = pair.server_config(pki.ca(), false).context("setting up TLS")?;
        let client_pair =
            pki.pair("apiserver-agent-client", &subject("kube-apiserver-kubelet-client", "system:masters"))?;
        let agents = client_pair.client_config(pki.ca()).context("setting up TLS to the node agents")?;
        let store = open_store(instance, args).await?;
        let config = apiserver::Config {
            service_cidr,
            advertise: (advertised.ip(), advertised.port()),
            agent_tls: Some(Arc::new(agents)),
            token_key: Some(Arc::new(
                apiserver::TokenKey::open(&pki).context("opening the key that signs tokens")?,
            )),
            signer: Some(Arc::new(pki.clone())),
            signing_duration: args.cluster_signing_duration,
            server_names: subject_of_server.dns_names,
            cluster: network.facts(),
            ..apiserver::Config::default()
        };
        let server = ApiServer::new(store, config);
        let tls = Arc::new(tls);
        for listener in [Some(listener), inner.and_then(|(_, listener)| listener)].into_iter().flatten() {
            let (serving, stop) = (Arc::clone(&server), group.stop().clone());
            let serving = apiserver::serve(serving, listener, Arc::clone(&tls), stop);
            group.spawn_infallible("API server", serving);
        }
        server.start().await.context("starting the API server")?;
        info!(%url, kubeconfig = %instance.kubeconfig().display(), "the API server is ready");
        let url_for_nodes = format!("https://{advertised}");
        Ok(Self { server, pki, url_for_nodes, pod_ranges: network.pod_ranges() })
    }

    /// Starts the scheduler and the controllers.
    pub(crate) fn start_controllers(&self, group: &mut TaskGroup) {
        let stop = group.stop().clone();
        let controllers = self.client("system:kube-controller-manager", &[]);
        // One cache per resource for both.
        let informers = client::Informers::new(controllers.clone(), stop.clone());
        let running = informers.clone();
        group.spawn_infallible("informers", async move { running.run().await });
        let scheduler = self.client("system:kube-scheduler", &[]);
        let options =
            scheduler::Options { informers: Some(informers.clone()), ..scheduler::Options::default() };
        group.spawn("scheduler", scheduler::run(scheduler, options, stop.clone()));
        let root_ca = Some(self.pki.ca().into());
        let options = controllers::Options {
            informers: Some(informers),
            root_ca,
            pod_ranges: Some(self.pod_ranges),
            ..controllers::Options::default()
        };
        group.spawn("controllers", controllers::run(controllers, options, stop));
    }

    /// A client in this process that speaks as a part of the cluster.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Client {
        InProcess::client(&self.server, user, groups)
    }
}

async fn open_store(instance: &Instance, args: &ControlPlaneArgs) -> anyhow::Result<Arc<dyn Store>> {
    if !args.etcd.etcd_servers.is_empty() {
        return open_etcd(&args.etcd).await;
    }
    let directory = instance.data_dir.join("store");
    let opened = tokio::task::spawn_blocking(move || {
        EmbeddedStore::open(directory, store::embedded::Options::default())
    });
    Ok(Arc::new(opened.await?.context("opening the embedded store")?))
}

/// The etcd that the flags name.
pub(crate) async fn open_etcd(args: &EtcdArgs) -> anyhow::Result<Arc<dyn Store>> {
    let read = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| std::fs::read(path).with_context(|| format!("reading {}", path.display())))
            .transpose()
    };
    let mut options = store::etcd::Options::new(&args.etcd_servers);
    let (ca, certificate, key) =
        (read(&args.etcd_cafile)?, read(&args.etcd_certfile)?, read(&args.etcd_keyfile)?);
    if ca.is_some() || certificate.is_some() {
        options.tls =
            Some(store::etcd::Tls { ca, identity: certificate.zip(key), ..store::etcd::Tls::default() });
    }
    let etcd = EtcdStore::connect(options).await;
    Ok(Arc::new(etcd.with_context(|| format!("connecting to etcd at {}", args.etcd_servers.join(", ")))?))
}

/// An address to put into a URL: "any" is reached over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let ip = instance::outbound_address().unwrap_or(Ipv4Addr::LOCALHOST);
        SocketAddr::new(IpAddr::V4(ip), address.port())
    } else {
        address
    }
}

/// A client's identity: a user in a group.
pub(crate) fn subject(user: &str, group: &str) -> Subject {
    Subject {
        common_name: user.to_owned(),
        organization: (!group.is_empty()).then(|| group.to_owned()),
        ..Subject::default()
    }
}

/// Everything that the server may be called.
fn server_subject(listening: &[SocketAddr], service_cidr: Ipv4Net, more: &[String]) -> Subject {
    let mut dns_names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    addresses.extend(service_cidr.hosts().next().map(IpAddr::V4));
    addresses.extend(listening.iter().map(|address| reachable(*address).ip()));
    addresses.extend(instance::outbound_address().map(IpAddr::V4));
    for name in more {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(name.clone()),
        }
    }
    addresses.sort();
    addresses.dedup();
    Subject { common_name: "kube-apiserver".to_owned(), dns_names, addresses, ..Subject::default() }
}

fn write_kubeconfigs(instance: &Instance, pki: &Pki, url: &str) -> anyhow::Result<()> {
    let files = [
        (instance.kubeconfig(), "admin", subject("admin", "system:masters")),
        (instance.proxy_kubeconfig(), "proxy", subject("system:kube-proxy", "system:node-proxier")),
    ];
    for (path, name, subject) in files {
        let pair = pki.pair(name, &subject)?;
        let text = kubeconfig(url, pki.ca(), &subject.common_name, &pair);
        // A file that is right already is left alone, so that nobody who watches it wakes up.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            write_private(&path, text.as_bytes())?;
        }
    }
    Ok(())
}
