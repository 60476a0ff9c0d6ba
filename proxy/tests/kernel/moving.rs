//! Bytes and datagrams.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use crate::world::*;

/// Bytes that differ at every place.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length.div_ceil(8))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_ne_bytes()
        })
        .take(length)
        .collect()
}

#[test]
fn streams_arrive_whole_in_both_directions_at_once() {
    on_a_host(async |world| {
        let pods = world.web(&[]).await;
        drop(pods);
        let pod = world.pod("echo").await;
        serve_echo(&pod.netns, 8080);
        world.behind_web([&pod].into_iter());
        let client = world.pod("client").await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        for length in [0, 1, 65_535, 65_536, 65_537, 300_000, 32 << 20] {
            let bytes = pattern(length, 42);
            let stream = connect(&client.netns, SERVICE, 80).unwrap();
            let received = std::thread::scope(|scope| {
                scope.spawn(|| {
                    (&stream).write_all(&bytes).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = Vec::with_capacity(length);
                (&stream).read_to_end(&mut received).unwrap();
                received
            });
            assert!(received == bytes, "{length} bytes: {} came back", received.len());
        }
        // And small pieces after a stream, and a stream after small pieces, on one connection.
        let stream = connect(&client.netns, SERVICE, 80).unwrap();
        for round in 0..3 {
            for _ in 0..50 {
                echoes(&stream, "small");
            }
            let bytes = pattern(4 << 20, round);
            std::thread::scope(|scope| {
                scope.spawn(|| (&stream).write_all(&bytes).unwrap());
                let mut received = vec![0; bytes.len()];
                (&stream).read_exact(&mut received).unwrap();
                assert!(received == bytes);
            });
        }
        assert_eq!(finish(&stream), b"");
    });
}

#[test]
fn a_slow_reader_slows_its_sender_and_loses_nothing() {
    on_a_host(async |world| {
        let bytes = pattern(8 << 20, 7);
        let pod = world.pod("source").await;
        let source = bytes.clone();
        serve(&pod.netns, 8080, move |mut stream| {
            let _ = stream.write_all(&source);
        });
        let _none = world.web(&[]).await;
        world.behind_web([&pod].into_iter());
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let mut stream = connect(&world.host, SERVICE, 80).unwrap();
        SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        let mut received = Vec::new();
        let mut piece = vec![0; 100_000];
        loop {
            let length = stream.read(&mut piece).unwrap();
            if length == 0 {
                break;
            }
            received.extend_from_slice(&piece[..length]);
            if received.len() < 1 << 20 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
    });
}

#[test]
fn half_a_connection_goes_on_without_the_other() {
    on_a_host(async |world| {
        let pod = world.pod("counter").await;
        // Reads to the end, then answers.
        serve(&pod.netns, 8080, |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            write!(stream, "{} bytes", all.len()).unwrap();
        });
        // Ends its own half first, then reads on.
        serve(&pod.netns, 8081, |mut stream| {
            stream.write_all(b"go on").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"still here");
        });
        let _none = world.web(&[]).await;
        world.api.service(
            "web",
            json!({"clusterIP": SERVICE.to_string(), "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
        );
        let ports = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]);
        world.api.slice("web", ports, &[pod.endpoint()]);
        let _proxy = world.proxy().await;
        world.listeners(2).await;
        let stream = connect(&world.host, SERVICE, 80).unwrap();
        (&stream).write_all(&pattern(200_000, 3)).unwrap();
        assert_eq!(finish(&stream), b"200000 bytes");

        let mut stream = connect(&world.host, SERVICE, 81).unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "go on");
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(b"still here").unwrap();
        drop(stream);
        world
            .until(async || world.control().await.metrics().await.unwrap().contains("connections_open 0\n"))
            .await;
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    on_a_host(async |world| {
        let pod = world.pod("resets").await;
        serve(&pod.netns, 8080, |mut stream| {
            stream.read_exact(&mut [0; 5]).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        });
        let (told, tells) = std::sync::mpsc::channel();
        serve(&pod.netns, 8081, move |mut stream| {
            let _ = told.send(stream.read(&mut [0; 5]).unwrap_err().kind());
        });
        let _none = world.web(&[]).await;
        world.api.service(
            "web",
            json!({"clusterIP": SERVICE.to_string(), "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}),
        );
        let ports = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]);
        world.api.slice("web", ports, &[pod.endpoint()]);
        let _proxy = world.proxy().await;
        world.listeners(2).await;
        let mut stream = connect(&world.host, SERVICE, 80).unwrap();
        stream.write_all(b"hello").unwrap();
        assert_eq!(stream.read(&mut [0; 5]).unwrap_err().kind(), ErrorKind::ConnectionReset);

        let stream = connect(&world.host, SERVICE, 81).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        assert_eq!(tells.recv_timeout(PATIENCE).unwrap(), ErrorKind::ConnectionReset);
    });
}

fn udp_service(world: &World, pods: &[&Pod]) {
    let ports = json!([{"port": 53, "protocol": "UDP"}]);
    world.api.service("udp", json!({"clusterIP": SERVICE.to_string(), "ports": ports}));
    let endpoints: Vec<_> = pods.iter().map(|pod| pod.endpoint()).collect();
    world.api.slice("udp", ports, &endpoints);
}

#[test]
fn datagrams_of_one_client_meet_one_endpoint_until_it_has_gone() {
    on_a_host(async |world| {
        let (a, b) = (world.pod("a").await, world.pod("b").await);
        serve_udp(&a.netns, 53, "a");
        serve_udp(&b.netns, 53, "b");
        udp_service(&world, &[&a, &b]);
        let client = world.pod("client").await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let (one, two) = (udp(&client.netns, SERVICE, 53), udp(&client.netns, SERVICE, 53));
        for number in 0..5 {
            let text = number.to_string();
            assert_eq!(ask_udp(&one, &text).unwrap(), format!("a {text}"));
            assert_eq!(ask_udp(&two, &text).unwrap(), format!("b {text}"));
        }
        assert!(world.control().await.metrics().await.unwrap().contains("udp_flows_open 2\n"));
        // A pod may be its own endpoint.
        assert_eq!(ask_udp(&udp(&a.netns, SERVICE, 53), "x").unwrap(), "a x");

        udp_service(&world, &[&b]);
        // An answer on its way while the flow ends is lost, as datagrams may be.
        one.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        world.until(async || ask_udp(&one, "x").is_ok_and(|answer| answer == "b x")).await;
        one.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(ask_udp(&two, "x").unwrap(), "b x");
        udp_service(&world, &[]);
        world.listeners(0).await;
        assert_eq!(ask_udp(&one, "x").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        world
            .until(async || world.control().await.metrics().await.unwrap().contains("udp_flows_open 0\n"))
            .await;
    });
}

#[test]
fn a_refusing_udp_endpoint_is_left() {
    on_a_host(async |world| {
        let (dead, alive) = (world.pod("dead").await, world.pod("alive").await);
        serve_udp(&alive.netns, 53, "alive");
        udp_service(&world, &[&dead, &alive]);
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let client = udp(&world.host, SERVICE, 53);
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        world.until(async || ask_udp(&client, "x").is_ok_and(|answer| answer == "alive x")).await;
    });
}
