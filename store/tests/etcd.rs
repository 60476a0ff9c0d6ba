//! What only the etcd store promises: it goes on when members come and go, and it says what happened.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use store::etcd::{ConnectError, EtcdStore, Options, Tls};
use store::suite::RealEtcd;
use store::{Committed, Event, Op, Revision, Store, StoreError, Txn, WatchMessage, WatchStream};

async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) -> Result<Revision, StoreError> {
    let txn = Txn { compare: vec![], ops: vec![Op::Put(key.to_owned(), value.into())] };
    match store.commit(txn).await? {
        Committed::Done(revision) => Ok(revision),
        Committed::Conflict(_) => unreachable!("nothing was compared"),
    }
}

async fn until(watch: &mut WatchStream, revision: Revision) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        match next.expect("a message within 20 s").unwrap().unwrap() {
            WatchMessage::Progress(progress) if progress >= revision => return seen,
            WatchMessage::Progress(_) => {}
            WatchMessage::Events(events) => {
                seen.extend(events);
                if seen.last().unwrap().revision() >= revision {
                    return seen;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_after_a_restart() {
    let mut etcd = RealEtcd::start();
    let store = EtcdStore::connect(Options::new([&etcd.endpoint])).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/a", start).await.unwrap();
    for i in 0..5 {
        put(&store, "/a", format!("{i}")).await.unwrap();
    }
    etcd.kill();
    let begun = Instant::now();
    let short = Options { timeout: Duration::from_millis(500), ..Options::new([&etcd.endpoint]) };
    let error = EtcdStore::connect(short).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&etcd.endpoint));
    assert!(begun.elapsed() < Duration::from_secs(3));
    etcd.restart();
    // Another server writes before our watch is back.
    let other = EtcdStore::connect(Options::new([&etcd.endpoint])).await.unwrap();
    let last = put(&other, "/a", "5").await.unwrap();
    let values: Vec<_> = until(&mut watch, last)
        .await
        .into_iter()
        .map(|event| match event {
            Event::Put { now, .. } => String::from_utf8(now.value.to_vec()).unwrap(),
            Event::Delete { .. } => unreachable!("nothing was deleted"),
        })
        .collect();
    assert_eq!(values, ["0", "1", "2", "3", "4", "5"]);
}

/// Nothing was sent: "not available"; sent and not answered: "unknown".
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_failed_write() {
    let mut etcd = RealEtcd::start();
    let options = Options { timeout: Duration::from_secs(1), ..Options::new([&etcd.endpoint]) };
    let store = EtcdStore::connect(options).await.unwrap();
    put(&store, "/a", "1").await.unwrap();
    signal(&etcd, "STOP");
    let outcome = put(&store, "/a", "2").await;
    signal(&etcd, "CONT");
    assert!(matches!(outcome, Err(StoreError::Unknown(_))), "{outcome:?}");
    let outcome = store.get("/a").await;
    assert!(outcome.is_ok(), "{outcome:?}");
    etcd.kill();
    // The first may be on the connection that is just going; the next find nobody.
    let _ = put(&store, "/a", "3").await;
    let outcome = put(&store, "/a", "4").await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(matches!(store.get("/a").await, Err(StoreError::Unavailable(_))));
}

fn signal(etcd: &RealEtcd, name: &str) {
    let status =
        std::process::Command::new("kill").args([format!("-{name}"), etcd.pid().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Members die under load, one after the other: no acknowledged write is lost, and the watch has no gap.
#[tokio::test(flavor = "multi_thread")]
async fn members_may_die() {
    let mut members = RealEtcd::cluster(3);
    let endpoints: Vec<String> = members.iter().map(|member| member.endpoint.clone()).collect();
    let store = Arc::new(EtcdStore::connect(Options::new(endpoints)).await.unwrap());
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/w/", start).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let (mut acknowledged, mut unknown) = (Vec::new(), 0);
            for i in 0.. {
                match put(&*store, &format!("/w/{writer}/{i}"), "x").await {
                    Ok(revision) => acknowledged.push((format!("/w/{writer}/{i}"), revision)),
                    Err(StoreError::Unknown(_)) => unknown += 1,
                    Err(StoreError::Unavailable(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
            (acknowledged, unknown)
        }));
    }
    for member in &mut members {
        tokio::time::sleep(Duration::from_millis(400)).await;
        // Off this thread: restarting waits for etcd.
        tokio::task::block_in_place(|| {
            member.kill();
            std::thread::sleep(Duration::from_millis(400));
            member.restart();
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut acknowledged, mut unknown) = (Vec::new(), 0);
    for writer in writers {
        let (all, open) = writer.await.unwrap();
        acknowledged.extend(all);
        unknown += open;
    }
    let end = store.revision().await.unwrap();
    let events = until(&mut watch, end).await;
    let seen: std::collections::HashMap<&str, Revision> =
        events.iter().map(|event| (event.key(), event.revision())).collect();
    assert_eq!(seen.len(), events.len(), "nothing twice");
    assert!(events.windows(2).all(|pair| pair[1].revision().0 == pair[0].revision().0 + 1), "no gap");
    for (key, revision) in &acknowledged {
        assert_eq!(seen.get(key.as_str()), Some(revision), "{key} was acknowledged");
    }
    println!("{} acknowledged, {unknown} unknown, {} happened", acknowledged.len(), events.len());
    assert!(acknowledged.len() > 50);
}

/// A watch behind the ring asks etcd, and is told when etcd has compacted.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_behind_the_ring_asks_etcd() {
    let etcd = RealEtcd::start();
    let store = EtcdStore::connect(Options::new([&etcd.endpoint])).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut slow = store.watch("/", start).await.unwrap();
    slow.next().await.unwrap().unwrap();
    let mut last = start;
    for i in 0..12_u8 {
        last = put(&store, "/a", vec![i; 900_000]).await.unwrap();
    }
    // Twelve values and their predecessors are more than the ring keeps.
    let events = until(&mut store.watch("/", start).await.unwrap(), last).await;
    assert_eq!(events.len(), 12);
    assert!(events[1..].iter().all(|event| event.before().is_some_and(|kv| kv.value.len() == 900_000)));
    // A server that starts now has nothing in its ring.
    let other = EtcdStore::connect(Options::new([&etcd.endpoint])).await.unwrap();
    assert_eq!(until(&mut other.watch("/", start).await.unwrap(), last).await, events);
    other.compact(last).await.unwrap();
    let end = loop {
        match slow.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(end, StoreError::Slow), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_history_is_compacted() {
    let etcd = RealEtcd::start();
    let options =
        Options { compact_every: Some(Duration::from_millis(300)), ..Options::new([&etcd.endpoint]) };
    let store = EtcdStore::connect(options).await.unwrap();
    let first = put(&store, "/a", "1").await.unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        put(&store, "/a", "2").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let at = store::ListOptions { revision: Some(first), ..Default::default() };
        match store.list("/", &at).await {
            Ok(_) => assert!(Instant::now() < patience, "nothing was compacted"),
            Err(StoreError::Compacted { .. }) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_client_certificate() {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };
    let directory = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let sign = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let (server, server_key) = sign("127.0.0.1");
    let (client, client_key) = sign("coracle");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let etcd = RealEtcd::with_tls(
        &write("ca.pem", &ca.pem()),
        &write("server.pem", &server),
        &write("server.key", &server_key),
    );
    let tls = Tls {
        ca: Some(ca.pem().into_bytes()),
        identity: Some((client.into_bytes(), client_key.into_bytes())),
        server_name: None,
    };
    let options = |tls| Options { tls, timeout: Duration::from_secs(2), ..Options::new([&etcd.endpoint]) };
    let store = EtcdStore::connect(options(Some(tls.clone()))).await.unwrap();
    put(&store, "/a", "1").await.unwrap();
    let without = Tls { identity: None, ..tls };
    let error = EtcdStore::connect(options(Some(without))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_password() {
    let etcd = RealEtcd::start();
    let mut admin = etcd_client::Client::connect([&etcd.endpoint], None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let options = |user: Option<(&str, &str)>| Options {
        user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
        timeout: Duration::from_secs(3),
        ..Options::new([&etcd.endpoint])
    };
    let store = EtcdStore::connect(options(Some(("root", "secret")))).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch("/", start).await.unwrap();
    let revision = put(&store, "/a", "1").await.unwrap();
    assert_eq!(until(&mut watch, revision).await.len(), 1);
    for user in [None, Some(("root", "wrong"))] {
        let error = EtcdStore::connect(options(user)).await.unwrap_err();
        let chain = format!("{error:?}");
        assert!(chain.contains("user name is empty") || chain.contains("authentication failed"), "{chain}");
    }
}
