//! Watching Services and EndpointSlices. Of each object only what the table needs is kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::watcher::{Event, Params, Watcher};
use client::{Api, Client, Object};
use manifests::k8s_openapi::api::core::v1 as core;
use manifests::k8s_openapi::api::discovery::v1 as discovery;
use tokio::sync::mpsc;

use crate::sys::file_change;
use crate::table::{Service, ServiceName, Slice, SliceKey};

/// Where Services and EndpointSlices come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// From the server that this file names. It may appear later.
    Kubeconfig(PathBuf),
    /// Through this client.
    Client(Client),
    /// From nowhere: the last table on disk is all there is.
    Disk,
}

/// A kubeconfig that is not there, or wrong, is looked at again after this at the latest.
const LOOK: Duration = Duration::from_secs(5);

/// A step in what is known of one kind of object.
#[derive(Debug)]
pub(crate) enum Step<K, V> {
    /// These and no others.
    All(BTreeMap<K, V>),
    /// One of them is so now.
    Set(K, V),
    /// One of them is gone.
    Gone(K),
}

/// News from the server.
#[derive(Debug)]
pub(crate) enum News {
    /// This is where the server is, if its URL holds an address.
    Server(Option<SocketAddr>),
    Services(Step<ServiceName, Service>),
    Slices(Step<SliceKey, Slice>),
}

/// Follows the server for ever and reports each change.
pub(crate) async fn observe(source: Source, news: mpsc::Sender<News>) {
    let path = match source {
        Source::Disk => return std::future::pending().await,
        Source::Client(client) => return follow_both(client, &news).await,
        Source::Kubeconfig(path) => path,
    };
    let mut reported = false;
    loop {
        // Before reading: a change in between is one too many rather than one too few.
        let changed = file_change::changed(&path);
        match open(&path) {
            Ok((client, address)) => {
                reported = false;
                if news.send(News::Server(address)).await.is_err() {
                    return;
                }
                // A certificate that was renewed, a server that has moved: begin again with what the file says now.
                tokio::select! {
                    () = follow_both(client, &news) => return,
                    () = changed => tracing::debug!(path = %path.display(), "the kubeconfig has changed"),
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::info!(path = %path.display(), error = %client::ErrorChain(&error), "no kubeconfig yet");
                }
                // Who writes it may also replace its directory, which nothing tells us of.
                let _ = tokio::time::timeout(LOOK, changed).await;
            }
        }
    }
}

fn open(path: &Path) -> Result<(Client, Option<SocketAddr>), client::KubeconfigError> {
    let kubeconfig = client::Kubeconfig::from_file(path)?;
    let address = address_of(&kubeconfig.resolve(None)?.server);
    Ok((kubeconfig.client(None)?, address))
}

/// The address in a server's URL. A name is left to whoever connects: it may mean another address tomorrow.
fn address_of(url: &str) -> Option<SocketAddr> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse().ok()?, uri.port_u16().unwrap_or(443)))
}

async fn follow_both(client: Client, news: &mpsc::Sender<News>) {
    let services =
        follow(Api::<core::Service>::all(client.clone()), Service::read, service_name, News::Services, news);
    let slices =
        follow(Api::<discovery::EndpointSlice>::all(client), Slice::read, slice_key, News::Slices, news);
    tokio::join!(services, slices);
}

fn service_name(object: &core::Service) -> ServiceName {
    ServiceName { namespace: object.namespace().to_owned(), name: object.name().to_owned() }
}

fn slice_key(object: &discovery::EndpointSlice) -> SliceKey {
    SliceKey { namespace: object.namespace().to_owned(), name: object.name().to_owned() }
}

async fn follow<O, K: Ord, V>(
    api: Api<O>,
    read: fn(&O) -> Option<(K, V)>,
    key: fn(&O) -> K,
    kind: fn(Step<K, V>) -> News,
    news: &mpsc::Sender<News>,
) where
    O: Object,
{
    let mut watcher = Watcher::new(api, Params::default());
    loop {
        let step = match watcher.next().await {
            Event::Restarted(objects) => Step::All(objects.iter().filter_map(read).collect()),
            Event::Applied(object) => match read(&object) {
                Some((key, value)) => Step::Set(key, value),
                // A slice that lost its label belongs to nobody any more.
                None => Step::Gone(key(&object)),
            },
            Event::Deleted(object) => Step::Gone(key(&object)),
        };
        if news.send(kind(step)).await.is_err() {
            return;
        }
    }
}

impl<K: Ord, V: PartialEq> Step<K, V> {
    /// Takes the step; answers whether that changed anything.
    pub(crate) fn apply(self, known: &mut Option<BTreeMap<K, V>>) -> bool {
        match self {
            Self::All(all) => {
                let changed = known.as_ref() != Some(&all);
                *known = Some(all);
                changed
            }
            Self::Set(key, value) => {
                let known = known.get_or_insert_default();
                if known.get(&key) == Some(&value) {
                    return false;
                }
                known.insert(key, value);
                true
            }
            Self::Gone(key) => known.as_mut().is_some_and(|known| known.remove(&key).is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_an_address_says_where_the_server_is() {
        for (url, address) in [
            ("https://127.0.0.1:6443", Some("127.0.0.1:6443")),
            ("https://192.0.2.7", Some("192.0.2.7:443")),
            ("https://[2001:db8::7]:6443/", Some("[2001:db8::7]:6443")),
            ("https://cluster.example:6443", None),
            ("", None),
        ] {
            assert_eq!(address_of(url), address.map(|address| address.parse().unwrap()), "{url}");
        }
    }
}
