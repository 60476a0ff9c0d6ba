//! Who meets whom.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::Endpoint;
use crate::world::*;

#[test]
fn connections_go_round_exactly_from_pods_and_from_the_host() {
    on_a_host(async |world| {
        let _pods = world.web(&["a", "b", "c"]).await;
        let client = world.pod("client").await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let order: Vec<_> = (0..7).map(|_| name(&client.netns, SERVICE, 80)).collect();
        assert_eq!(order, ["a", "b", "c", "a", "b", "c", "a"]);
        assert_eq!(names(&client.netns, 30), expect(&[("a", 10), ("b", 10), ("c", 10)]));
        assert_eq!(names(&world.host, 30), expect(&[("a", 10), ("b", 10), ("c", 10)]));
    });
}

#[test]
fn connections_at_the_same_time_go_round_exactly_too() {
    on_a_host(async |world| {
        let _pods = world.web(&["a", "b", "c"]).await;
        let client = world.pod("client").await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..30).map(|_| scope.spawn(|| name(&client.netns, SERVICE, 80))).collect();
            for thread in threads {
                *seen.entry(thread.join().unwrap()).or_default() += 1;
            }
        });
        assert_eq!(seen, expect(&[("a", 10), ("b", 10), ("c", 10)]));
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    on_a_host(async |world| {
        let pods = world.web(&["alone"]).await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(ask(&pods[0].netns, SERVICE, 80).unwrap(), "alone 10.42.0.254");
    });
}

#[test]
fn dead_endpoints_are_passed_over_without_the_client_noticing() {
    on_a_host(async |world| {
        let pods = world.web(&["a", "b"]).await;
        let refuses = world.pod("refuses").await;
        let client = world.pod("client").await;
        let silent = Endpoint { address: "10.42.0.99".into(), uid: "silent".into() };
        let mut endpoints: Vec<_> = pods.iter().chain([&refuses]).map(Pod::endpoint).collect();
        world.api.slice("web", web_ports(), &endpoints);
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        // Whoever failed is not tried again for five seconds, so failures are few however slow the machine is.
        let failures = async |before: usize| {
            let started = Instant::now();
            assert_eq!(names(&client.netns, 20).values().sum::<usize>(), 20);
            let metrics = world.control().await.metrics().await.unwrap();
            let line = metrics.lines().find(|line| line.starts_with("coracle_proxy_connect_failures_total"));
            let total: usize = line.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let allowed = 2 + started.elapsed().as_secs() / 2;
            assert!(total > before && ((total - before) as u64) <= allowed, "{total} of {allowed}");
            total
        };
        let before = failures(0).await;
        endpoints.push(silent);
        world.api.slice("web", web_ports(), &endpoints);
        tokio::time::sleep(Duration::from_millis(100)).await;
        failures(before).await;
    });
}

#[test]
fn when_no_endpoint_answers_the_client_is_reset() {
    on_a_host(async |world| {
        let refuses = world.pod("refuses").await;
        world.api.service("web", json!({"clusterIP": SERVICE.to_string(), "ports": [{"port": 80}]}));
        world.behind_web([&refuses].into_iter());
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(ask(&world.host, SERVICE, 80).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(world.control().await.metrics().await.unwrap().contains("connections_unreachable_total 1\n"));
    });
}

#[test]
fn without_endpoints_a_service_refuses_at_once() {
    on_a_host(async |world| {
        let pods = world.web(&["a"]).await;
        let client = world.pod("client").await;
        world.behind_web([].into_iter());
        let _proxy = world.proxy().await;
        let refused = || {
            let started = Instant::now();
            for netns in [&client.netns, &world.host] {
                assert_eq!(ask(netns, SERVICE, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            }
            // Nobody waited for a second attempt.
            assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
        };
        refused();
        world.behind_web(pods.iter());
        world.listeners(1).await;
        assert_eq!(name(&client.netns, SERVICE, 80), "a");
        world.behind_web([].into_iter());
        world.listeners(0).await;
        refused();
        world.behind_web(pods.iter());
        world.listeners(1).await;
        world.api.delete_service("web");
        world.listeners(0).await;
        refused();
    });
}

#[test]
fn a_service_port_collides_with_nothing_on_the_host() {
    on_a_host(async |world| {
        let _pods = world.web(&["pod"]).await;
        serve(&world.host, 80, |mut stream| {
            let _ = std::io::Write::write_all(&mut stream, b"host");
        });
        serve(&world.host, 81, |mut stream| {
            let _ = std::io::Write::write_all(&mut stream, b"host");
        });
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(name(&world.host, SERVICE, 80), "pod");
        assert_eq!(ask(&world.host, SERVICE, 81).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&world.host, Ipv4Addr::LOCALHOST, 80).unwrap(), "host");
    });
}

#[test]
fn a_client_with_affinity_stays() {
    on_a_host(async |world| {
        let _pods = world.web(&["a", "b", "c"]).await;
        world.api.service(
            "web",
            json!({"clusterIP": SERVICE.to_string(), "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}),
        );
        let (one, two) = (world.pod("one").await, world.pod("two").await);
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(names(&one.netns, 10), expect(&[("a", 10)]));
        assert_eq!(names(&two.netns, 10), expect(&[("b", 10)]));
        assert_eq!(names(&one.netns, 10), expect(&[("a", 10)]));
    });
}

#[test]
fn node_ports_answer_on_every_address_of_the_node() {
    on_a_host(async |world| {
        let outside = network::NetNs::create().unwrap();
        let wan = network::Config {
            bridge: "wan".into(),
            pod_cidr: "192.168.77.0/24".parse().unwrap(),
            cluster_cidr: "192.168.77.0/24".parse().unwrap(),
            service_cidr: None,
            address: None,
            mtu: None,
            nft_table: "wan".into(),
            state_dir: world.directory.path().join("wan"),
        };
        let wan = network::Network::new(wan).unwrap();
        wan.ensure().await.unwrap();
        wan.attach(std::os::fd::AsFd::as_fd(&outside), "outside", "eth0").await.unwrap();

        let pods = world.web(&["a", "b"]).await;
        for pod in &pods {
            serve_udp(&pod.netns, 53, "udp");
        }
        world.api.service(
            "web",
            json!({"clusterIP": SERVICE.to_string(), "type": "NodePort", "ports": [
                {"name": "http", "port": 80, "nodePort": 30080},
                {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"},
            ]}),
        );
        let ports = json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let endpoints: Vec<_> = pods.iter().map(Pod::endpoint).collect();
        world.api.slice("web", ports, &endpoints);
        let _proxy = world.proxy().await;
        world.listeners(4).await;

        let node: [Ipv4Addr; 3] = [[192, 168, 77, 1].into(), [10, 42, 0, 1].into(), Ipv4Addr::LOCALHOST];
        for (netns, addresses) in
            [(&outside, &node[..1]), (&pods[0].netns, &node[..2]), (&world.host, &node[..])]
        {
            for address in addresses {
                let mut seen = [name(netns, *address, 30080), name(netns, *address, 30080)];
                seen.sort();
                assert_eq!(seen, ["a", "b"], "{address}");
                // A connected socket hears nothing if the answer comes from another address than it asked.
                assert_eq!(ask_udp(&udp(netns, *address, 30053), "hello").unwrap(), "udp hello", "{address}");
            }
        }
        assert_eq!(ask(&outside, node[0], 30081).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_node_port_that_is_taken_is_opened_when_it_is_free() {
    on_a_host(async |world| {
        let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 30080)).unwrap();
        let _pods = world.web(&["a"]).await;
        world.api.service(
            "web",
            json!({"clusterIP": SERVICE.to_string(), "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(name(&world.host, SERVICE, 80), "a");
        drop(taken);
        world.listeners(2).await;
        assert_eq!(name(&world.host, Ipv4Addr::LOCALHOST, 30080), "a");
    });
}

#[test]
fn endpoints_that_are_the_node_itself_are_reached() {
    on_a_host(async |world| {
        let local = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 6443)).unwrap();
        std::thread::spawn(move || {
            for stream in local.incoming() {
                let _ = std::io::Write::write_all(&mut stream.unwrap(), b"loopback");
            }
        });
        serve_name(&world.host, "hostnetwork");
        let client = world.pod("client").await;
        let _pods = world.web(&[]).await;
        let endpoint = |address: IpAddr| Endpoint { address: address.to_string(), uid: "x".into() };
        world.api.service("kubernetes", json!({"clusterIP": "10.43.0.1", "ports": [{"port": 443}]}));
        world.api.slice("kubernetes", json!([{"port": 6443}]), &[endpoint(Ipv4Addr::LOCALHOST.into())]);
        world.api.slice("web", web_ports(), &[endpoint(world.network.config().gateway().into())]);
        let _proxy = world.proxy().await;
        world.listeners(2).await;
        for netns in [&client.netns, &world.host] {
            assert_eq!(ask(netns, Ipv4Addr::new(10, 43, 0, 1), 443).unwrap(), "loopback");
            assert_eq!(ask(netns, SERVICE, 80).unwrap(), "hostnetwork 10.42.0.1");
        }
    });
}
