//! DNS with real sockets, and upstream servers of our own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use network::NetNs;
use serde_json::json;

use crate::api::Endpoint;
use crate::world::*;

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn over_udp(netns: &NetNs, name: &str, kind: RecordType) -> Message {
    let socket = udp(netns, DNS, 53);
    socket.send(&question(name, kind)).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, 4242);
    answer
}

fn over_tcp(netns: &NetNs, name: &str, kind: RecordType) -> Message {
    let mut stream = connect(netns, DNS, 53).unwrap();
    let question = question(name, kind);
    // Two at once, as a resolver that pipelines does.
    for _ in 0..2 {
        stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
    }
    let mut answer = Vec::new();
    for _ in 0..2 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
    }
    Message::from_vec(&answer).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// An upstream server on the host: everything has the address 192.0.2.1, except that names with `big` have 100 addresses
/// over TCP and are cut off over UDP.
fn upstream(host: &NetNs) {
    fn answer(bytes: &[u8], tcp: bool) -> Vec<u8> {
        let question = Message::from_vec(bytes).unwrap();
        let mut message = Message::response(question.metadata.id, OpCode::Query);
        let query = question.queries[0].clone();
        let big = query.name().to_ascii().contains("big");
        message.metadata.truncation = big && !tcp;
        for low in 0..if big && tcp { 100 } else { 1 } {
            let address = RData::A(A(Ipv4Addr::new(192, 0, 2, 1 + low)));
            message.add_answer(Record::from_rdata(query.name().clone(), 60, address));
        }
        message.add_query(query);
        message.to_vec().unwrap()
    }
    let udp = host.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // Somebody guesses first.
            let mut forged = answer(&buffer[..length], false);
            forged[0] ^= 0xff;
            let _ = udp.send_to(&forged, from);
            let _ = udp.send_to(&answer(&buffer[..length], false), from);
        }
    });
    let tcp = host.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 53))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut bytes).unwrap();
            let answer = answer(&bytes, true);
            stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
}

#[test]
fn names_follow_the_table() {
    on_a_host(async |world| {
        let pods = world.web(&["a", "b"]).await;
        let client = world.pod("client").await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let web = "web.default.svc.cluster.local.";
        for netns in [&client.netns, &world.host] {
            assert_eq!(data(&over_udp(netns, web, RecordType::A)), ["10.43.0.7"]);
            assert_eq!(data(&over_tcp(netns, web, RecordType::A)), ["10.43.0.7"]);
        }
        let headless = "headless.default.svc.cluster.local.";
        let missing = over_udp(&client.netns, headless, RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        world.api.service("headless", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}));
        let endpoints: Vec<_> = pods.iter().map(Pod::endpoint).collect();
        world.api.slice("headless", json!([{"name": "http", "port": 8080}]), &endpoints);
        let addresses = || {
            let mut addresses = data(&over_udp(&client.netns, headless, RecordType::A));
            addresses.sort();
            addresses
        };
        world.until(async || addresses() == ["10.42.0.2", "10.42.0.3"]).await;
        world.control().await.leaving(&pods[0].uid, &[]).await.unwrap();
        assert_eq!(addresses(), ["10.42.0.3"]);
        let many: Vec<_> = (1..=200)
            .map(|low| Endpoint { address: format!("10.42.1.{low}"), uid: low.to_string() })
            .collect();
        world.api.slice("headless", json!([{"name": "http", "port": 8080}]), &many);
        world.until(async || over_udp(&client.netns, headless, RecordType::A).metadata.truncation).await;
        assert_eq!(over_tcp(&client.netns, headless, RecordType::A).answers.len(), 200);
    });
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers() {
    on_a_host(async |world| {
        let resolv_conf = world.directory.path().join("resolv.conf");
        // The first is deaf (and unreachable), the second only reachable from the host itself.
        std::fs::write(&resolv_conf, "nameserver 10.43.0.10\nnameserver 127.0.0.1\n").unwrap();
        upstream(&world.host);
        let client = world.pod("client").await;
        let _proxy = world.proxy().await;
        assert_eq!(data(&over_udp(&client.netns, "example.com.", RecordType::A)), ["192.0.2.1"]);
        assert_eq!(data(&over_tcp(&client.netns, "example.com.", RecordType::A)), ["192.0.2.1"]);
        assert!(over_udp(&client.netns, "big.example.com.", RecordType::A).metadata.truncation);
        assert_eq!(over_tcp(&client.netns, "big.example.com.", RecordType::A).answers.len(), 100);

        world.api.service("out", json!({"type": "ExternalName", "externalName": "example.com"}));
        world.api.service("far", json!({"type": "ExternalName", "externalName": "big.example.com"}));
        let name = |name: &str| format!("{name}.default.svc.cluster.local.");
        world
            .until(async || {
                over_udp(&client.netns, &name("far"), RecordType::A).metadata.response_code
                    == ResponseCode::NoError
            })
            .await;
        assert_eq!(
            data(&over_udp(&client.netns, &name("out"), RecordType::A)),
            ["example.com.", "192.0.2.1"]
        );
        assert!(over_udp(&client.netns, &name("far"), RecordType::A).metadata.truncation);
        assert_eq!(over_tcp(&client.netns, &name("far"), RecordType::A).answers.len(), 101);
    });
}

#[test]
fn without_a_resolver_other_names_fail_at_once() {
    on_a_host(async |world| {
        let _proxy = world.proxy().await;
        let started = Instant::now();
        let answer = over_udp(&world.host, "example.com.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
        // One that is there but deaf takes its time-outs.
        std::fs::write(world.directory.path().join("resolv.conf"), "nameserver 10.42.0.99\n").unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let started = Instant::now();
        let answer = over_udp(&world.host, "example.com.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(started.elapsed() < Duration::from_millis(4900), "{:?}", started.elapsed());
    });
}

#[test]
fn the_built_in_server_has_the_dns_address_whatever_a_service_says() {
    on_a_host(async |world| {
        let pods = world.web(&["a"]).await;
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
        world.api.service("kube-dns", json!({"clusterIP": DNS.to_string(), "ports": ports}));
        world.api.slice("kube-dns", ports, &[pods[0].endpoint()]);
        let _proxy = world.proxy().await;
        let name = "kube-dns.default.svc.cluster.local.";
        assert_eq!(data(&over_udp(&world.host, name, RecordType::A)), ["10.43.0.10"]);
    });
}
