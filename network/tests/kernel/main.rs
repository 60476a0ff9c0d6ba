//! Real packets between namespaces. Needs root, iproute2, nftables and iptables.

#![expect(clippy::unwrap_used, reason = "a test says by panicking that it failed")]

mod crash;
mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use network::{HostPort, NetNs, Network, Protocol};
use support::*;

fn tcp(host_port: u16, port: u16) -> HostPort {
    HostPort { protocol: Protocol::Tcp, host_address: None, host_port, port }
}

#[test]
fn pods_reach_each_other_the_host_and_themselves() {
    on_a_host(async |host| {
        let network = host.network(42).await;
        let (a, b) = (Machine::attach(&network, "a").await, Machine::attach(&network, "b").await);
        assert_eq!(a.address(), Ipv4Addr::new(10, 42, 1, 2));
        assert_eq!(b.address(), Ipv4Addr::new(10, 42, 1, 3));
        for (machine, name) in [(&a.netns, "a"), (&b.netns, "b"), (&host.netns, "host")] {
            serve(machine, 80, name);
        }
        assert_eq!(ask(&a.netns, b.address(), 80).unwrap(), "b 10.42.1.2");
        assert_eq!(ask(&b.netns, a.address(), 80).unwrap(), "a 10.42.1.3");
        assert_eq!(ask(&a.netns, a.address(), 80).unwrap(), "a 10.42.1.2");
        assert_eq!(ask(&a.netns, Ipv4Addr::LOCALHOST, 80).unwrap(), "a 127.0.0.1");
        assert_eq!(ask(&a.netns, network.config().gateway(), 80).unwrap(), "host 10.42.1.2");
        assert_eq!(ask(&host.netns, a.address(), 80).unwrap(), "a 10.42.1.1");
    });
}

#[test]
fn attaching_again_changes_nothing_and_repairs_what_is_missing() {
    on_a_host(async |host| {
        let network = host.network(42).await;
        let a = Machine::attach(&network, "a").await;
        let inside = |command: &str| {
            let words: Vec<_> = command.split(' ').collect();
            let run = || std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
            String::from_utf8(a.netns.run(run).unwrap().stdout).unwrap()
        };
        let before = (host.everything(), inside("ip -o -4 addr"), inside("ip -4 route"));
        let again = network.attach(a.netns.as_fd(), "a", "eth0").await.unwrap();
        assert_eq!(again, a.attachment);
        assert_eq!((host.everything(), inside("ip -o -4 addr"), inside("ip -4 route")), before);

        inside("ip route flush table main");
        inside("ip addr flush dev eth0");
        assert_eq!(network.attach(a.netns.as_fd(), "a", "eth0").await.unwrap(), a.attachment);
        let words = |text: String| {
            text.replace("valid_lft forever preferred_lft forever", "")
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(inside("ip -4 route")), words(before.2));
        assert_eq!(network.attachments().await.unwrap(), [again]);

        // The same id in another namespace moves there and keeps its address.
        let other = NetNs::create().unwrap();
        let moved = network.attach(other.as_fd(), "a", "eth0").await.unwrap();
        assert_eq!(moved, a.attachment);
        assert!(!inside("ip -o link").contains("eth0"));
        serve(&other, 80, "moved");
        assert_eq!(ask(&host.netns, moved.address, 80).unwrap(), "moved 10.42.1.1");
        assert_eq!(network.attachments().await.unwrap(), [moved]);
    });
}

#[test]
fn an_address_rests_after_its_owner_has_gone() {
    on_a_host(async |host| {
        let network = host.network(42).await;
        let mut seen = BTreeSet::new();
        for number in 0..20 {
            let machine = Machine::attach(&network, &format!("pod{number}")).await;
            assert!(seen.insert(machine.address()), "{} came back", machine.address());
            if number % 2 == 0 {
                network.detach(&machine.attachment.id).await.unwrap();
            }
            // The others' namespaces end here: the kernel takes their links away by itself.
        }
        for _ in 0..200 {
            if network.attachments().await.unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("still there: {:?}", network.attachments().await.unwrap());
    });
}

#[test]
fn a_full_range_is_an_error_that_says_so() {
    on_a_host(async |host| {
        let mut config = host.config(42);
        config.pod_cidr = "10.42.1.0/29".parse().unwrap();
        let network = Network::new(config).unwrap();
        network.ensure().await.unwrap();
        // 8 addresses without network, gateway, service namespace and broadcast.
        let mut machines = Vec::new();
        for number in 0..4 {
            machines.push(Machine::attach(&network, &format!("{number}")).await);
        }
        let one_more = NetNs::create().unwrap();
        let error = network.attach(one_more.as_fd(), "one-more", "eth0").await.unwrap_err();
        assert_eq!(error.to_string(), "no free address in 10.42.1.0/29");
        network.detach("2").await.unwrap();
        let attachment = network.attach(one_more.as_fd(), "one-more", "eth0").await.unwrap();
        assert_eq!(attachment.address, machines[2].address());
    });
}

#[test]
fn the_world_outside_sees_the_node_and_the_cluster_sees_the_pod() {
    on_a_host(async |host| {
        let (_outside, machine) = host.outside().await;
        let network = host.network(42).await;
        let pod = Machine::attach(&network, "pod").await;
        serve(&machine.netns, 80, "outside");
        assert_eq!(ask(&pod.netns, machine.address(), 80).unwrap(), "outside 192.168.77.1");
        // A pod of another node keeps its address: plain routing, no translation.
        serve(&pod.netns, 80, "pod");
        assert_eq!(ask(&machine.netns, pod.address(), 80).unwrap(), "pod 192.168.77.2");
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    host_ports("0");
}

/// Where bridged packets pass the packet filter too, as Docker and Kubernetes switch it on.
#[test]
fn host_ports_lead_to_the_pod_from_everywhere_also_with_bridge_netfilter() {
    if std::path::Path::new(BRIDGE_NETFILTER).exists() {
        host_ports("1");
    }
}

const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

fn host_ports(bridge_netfilter: &'static str) {
    on_a_host(async |host| {
        let _ = std::fs::write(BRIDGE_NETFILTER, bridge_netfilter);
        let (_outside, machine) = host.outside().await;
        let node = Ipv4Addr::new(192, 168, 77, 1);
        let network = host.network(42).await;
        let (pod, other) = (Machine::attach(&network, "pod").await, Machine::attach(&network, "other").await);
        serve(&pod.netns, 80, "pod");
        serve_udp(&pod.netns, 53, "pod");
        let dns = HostPort { protocol: Protocol::Udp, ..tcp(8053, 53) };
        let only_one = HostPort { host_address: Some(node), ..tcp(8081, 80) };
        network.publish("pod", &[tcp(8080, 80), dns, only_one]).await.unwrap();

        assert_eq!(
            ask(&machine.netns, node, 8080).unwrap(),
            "pod 192.168.77.2",
            "with the client's own address"
        );
        assert_eq!(ask(&other.netns, node, 8080).unwrap(), "pod 10.42.1.1");
        assert_eq!(ask(&pod.netns, node, 8080).unwrap(), "pod 10.42.1.1", "hairpin");
        assert_eq!(ask(&host.netns, node, 8080).unwrap(), "pod 192.168.77.1");
        assert_eq!(
            ask(&host.netns, Ipv4Addr::LOCALHOST, 8080).unwrap_err().kind(),
            ErrorKind::NetworkUnreachable
        );
        host.output("ip link set lo up");
        assert_eq!(ask(&host.netns, Ipv4Addr::LOCALHOST, 8080).unwrap(), "pod 10.42.1.1");
        assert_eq!(ask_udp(&machine.netns, node, 8053).unwrap(), "pod 192.168.77.2");
        assert_eq!(ask(&machine.netns, node, 8081).unwrap(), "pod 192.168.77.2");
        let elsewhere = ask(&host.netns, Ipv4Addr::LOCALHOST, 8081).unwrap_err();
        assert_eq!(elsewhere.kind(), ErrorKind::ConnectionRefused, "8081 is published on one address only");

        // Repairs and others' changes leave them alone.
        network.ensure().await.unwrap();
        network.publish("other", &[tcp(9090, 80)]).await.unwrap();
        assert_eq!(ask(&machine.netns, node, 8080).unwrap(), "pod 192.168.77.2");

        network.publish("pod", &[tcp(8082, 80)]).await.unwrap();
        assert_eq!(ask(&machine.netns, node, 8082).unwrap(), "pod 192.168.77.2");
        assert_eq!(ask(&machine.netns, node, 8080).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        network.detach("pod").await.unwrap();
        assert_eq!(ask(&machine.netns, node, 8082).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(host.output("nft list ruleset").contains("9090"));
        network.reconcile(&BTreeSet::new()).await.unwrap();
        assert!(!host.output("nft list ruleset").contains("9090"));
    });
}

/// Connection tracking must not keep a client that goes on and on with where its port led before.
#[test]
fn a_udp_client_that_never_pauses_follows_its_host_port() {
    on_a_host(async |host| {
        let (_outside, machine) = host.outside().await;
        let node = Ipv4Addr::new(192, 168, 77, 1);
        let network = host.network(42).await;
        let (old, new) = (Machine::attach(&network, "old").await, Machine::attach(&network, "new").await);
        serve_udp(&host.netns, 8053, "host");
        serve_udp(&old.netns, 53, "old");
        serve_udp(&new.netns, 53, "new");
        let client = udp_client(&machine.netns, node, 8053);
        let port = HostPort { protocol: Protocol::Udp, ..tcp(8053, 53) };
        assert_eq!(ask_again(&client).unwrap(), "host 192.168.77.2");
        network.publish("old", std::slice::from_ref(&port)).await.unwrap();
        assert_eq!(ask_again(&client).unwrap(), "old 192.168.77.2");
        network.detach("old").await.unwrap();
        assert_eq!(ask_again(&client).unwrap(), "host 192.168.77.2");
        network.publish("new", &[port]).await.unwrap();
        assert_eq!(ask_again(&client).unwrap(), "new 192.168.77.2");
    });
}

/// CVE-2020-8558: route_localnet on the bridge must not open the host's loopback to pods.
#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    on_a_host(async |host| {
        host.output("ip link set lo up");
        let network = host.network(42).await;
        let pod = Machine::attach(&network, "pod").await;
        serve(&host.netns, 80, "host");
        assert_eq!(ask(&host.netns, Ipv4Addr::LOCALHOST, 80).unwrap(), "host 127.0.0.1");
        let ip = |arguments: &str| {
            let arguments = arguments.split(' ');
            let run = || std::process::Command::new("ip").args(arguments).status().unwrap().success();
            assert!(pod.netns.run(run).unwrap());
        };
        ip("route del table local local 127.0.0.0/8 dev lo");
        ip("route del table local local 127.0.0.1 dev lo");
        ip("route add 127.0.0.0/8 via 10.42.1.1 dev eth0");
        pod.netns.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")).unwrap().unwrap();
        let silence = pod.netns.run(|| {
            let address = (Ipv4Addr::LOCALHOST, 80).into();
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300))
                .unwrap_err()
                .kind()
        });
        assert_eq!(silence.unwrap(), ErrorKind::TimedOut);
        let dropped = host.output("nft list chain ip test42 guard");
        assert!(dropped.contains("iifname \"test42\" ip daddr 127.0.0.0/8 drop"), "{dropped}");
    });
}

#[test]
fn service_addresses_are_at_home_in_the_service_namespace() {
    on_a_host(async |host| {
        let network = host.network(42).await;
        let pod = Machine::attach(&network, "pod").await;
        let services = NetNs::create().unwrap();
        let attachment = network.attach_service(services.as_fd()).await.unwrap();
        assert_eq!(attachment.address, Ipv4Addr::new(10, 42, 1, 254));
        assert_eq!(network.attach_service(services.as_fd()).await.unwrap(), attachment);
        assert_eq!(network.attachments().await.unwrap(), std::slice::from_ref(&pod.attachment));

        let service = Ipv4Addr::new(10, 43, 7, 9);
        let listener = services.run(|| std::net::TcpListener::bind((service, 80))).unwrap().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                use std::io::Write;
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "service {peer}");
            }
        });
        let udp = services.run(|| std::net::UdpSocket::bind((service, 53))).unwrap().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(b"service", peer);
            }
        });
        assert_eq!(ask(&pod.netns, service, 80).unwrap(), "service 10.42.1.2");
        assert_eq!(ask(&host.netns, service, 80).unwrap(), "service 10.42.1.1");
        assert_eq!(ask_udp(&pod.netns, service, 53).unwrap(), "service");
        assert_eq!(ask_udp(&host.netns, service, 53).unwrap(), "service");

        // Where nobody listens there is an answer at once, whatever listens on the host.
        serve(&host.netns, 81, "host");
        let started = std::time::Instant::now();
        for client in [&pod.netns, &host.netns] {
            assert_eq!(ask(client, service, 81).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert_eq!(ask_udp(client, service, 54).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        assert!(started.elapsed().as_millis() < 500, "{:?}", started.elapsed());
        // The other way: from there to pods, and to the host.
        serve(&pod.netns, 80, "pod");
        assert_eq!(ask(&services, pod.address(), 80).unwrap(), "pod 10.42.1.254");
        assert_eq!(ask(&services, network.config().gateway(), 81).unwrap(), "host 10.42.1.254");

        // A new proxy process: the old namespace is replaced, address and routes stay right at once.
        let successor = NetNs::create().unwrap();
        assert_eq!(network.attach_service(successor.as_fd()).await.unwrap(), attachment);
        let listener = successor.run(|| std::net::TcpListener::bind((service, 80))).unwrap().unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        assert_eq!(ask(&pod.netns, service, 80).unwrap(), "");
        assert_eq!(ask(&host.netns, service, 80).unwrap(), "");
        // Reconciling knows that the service namespace is no pod.
        assert_eq!(network.reconcile(&["pod".to_owned()].into()).await.unwrap(), Vec::<String>::new());
        assert_eq!(ask(&pod.netns, service, 80).unwrap(), "");
    });
}

#[test]
fn clients_elsewhere_reach_services_through_the_host() {
    on_a_host(async |host| {
        let (_outside, machine) = host.outside().await;
        let network = host.network(42).await;
        let services = NetNs::create().unwrap();
        network.attach_service(services.as_fd()).await.unwrap();
        serve(&services, 80, "service");
        assert_eq!(ask(&machine.netns, Ipv4Addr::new(10, 43, 0, 1), 80).unwrap(), "service 192.168.77.2");
    });
}

#[test]
fn removing_leaves_nothing_and_neighbours_alone() {
    on_a_host(async |host| {
        let (_outside, machine) = host.outside().await;
        host.output("iptables-nft -P FORWARD ACCEPT");
        let neighbour = host.network(52).await;
        let pod_there = Machine::attach(&neighbour, "pod").await;
        let before = host.everything();

        let network = host.network(42).await;
        let pod = Machine::attach(&network, "pod").await;
        let services = NetNs::create().unwrap();
        network.attach_service(services.as_fd()).await.unwrap();
        network.publish("pod", &[tcp(8080, 80)]).await.unwrap();
        serve(&machine.netns, 80, "outside");
        for pod in [&pod, &pod_there] {
            assert_eq!(ask(&pod.netns, machine.address(), 80).unwrap(), "outside 192.168.77.1");
        }
        assert_ne!(host.everything(), before);
        for _ in 0..2 {
            network.remove().await.unwrap();
            assert_eq!(host.everything(), before);
            assert!(!network.config().state_dir.exists());
        }
        assert_eq!(ask(&pod_there.netns, machine.address(), 80).unwrap(), "outside 192.168.77.1");
    });
}

#[test]
fn a_forward_chain_that_drops_does_not_stop_pods() {
    on_a_host(async |host| {
        let (_outside, machine) = host.outside().await;
        serve(&machine.netns, 80, "outside");
        let network = host.network(42).await;
        let (pod, other) = (Machine::attach(&network, "pod").await, Machine::attach(&network, "other").await);
        serve(&pod.netns, 80, "pod");
        // As Docker does; and bridged packets are asked too where net.bridge.bridge-nf-call-iptables is on.
        host.output("iptables-nft -P FORWARD DROP");
        let stuck = pod.netns.run(|| {
            let address = (machine.address(), 80).into();
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300))
                .unwrap_err()
                .kind()
        });
        assert_eq!(stuck.unwrap(), ErrorKind::TimedOut);
        network.ensure().await.unwrap();
        assert_eq!(ask(&pod.netns, machine.address(), 80).unwrap(), "outside 192.168.77.1");
        assert_eq!(ask(&machine.netns, pod.address(), 80).unwrap(), "pod 192.168.77.2");
        assert_eq!(ask(&other.netns, pod.address(), 80).unwrap(), "pod 10.42.1.3");

        // iptables understands our rules; a second time adds none; another's rule in front is put behind ours again.
        network.ensure().await.unwrap();
        let ours = ["-o", "-i"].map(|direction| {
            format!("-A FORWARD {direction} test42 -m comment --comment \"test42: pods of test42\" -j ACCEPT")
        });
        let rules = || host.output("iptables-nft -S FORWARD");
        assert_eq!(rules().lines().skip(1).collect::<Vec<_>>(), ours);
        host.output("iptables-nft -I FORWARD -j DROP");
        network.ensure().await.unwrap();
        assert_eq!(
            rules().lines().skip(1).collect::<Vec<_>>(),
            [ours[0].as_str(), &ours[1], "-A FORWARD -j DROP"]
        );
        network.remove().await.unwrap();
        assert_eq!(rules().lines().skip(1).collect::<Vec<_>>(), ["-A FORWARD -j DROP"]);
    });
}

#[test]
fn a_bridge_that_is_not_ours_is_left_alone() {
    on_a_host(async |host| {
        host.output("ip link add test42 type veth peer name other");
        let network = Network::new(host.config(42)).unwrap();
        let error = network.ensure().await.unwrap_err();
        assert_eq!(error.to_string(), "interface test42 exists and is not a bridge");
        let pod = NetNs::create().unwrap();
        assert!(network.attach(pod.as_fd(), "pod", "eth0").await.is_err());
    });
}

#[test]
fn other_nodes_pods_are_reached_by_route() {
    on_a_host(async |host| {
        let network = host.network(42).await;
        let other = host.network(52).await;
        let (_outside, machine) = host.outside().await;
        let range = |third: u8| format!("10.42.{third}.0/24").parse::<ipnet::Ipv4Net>().unwrap();
        let elsewhere = [("10.52.7.0/24".parse().unwrap(), machine.address())].into();
        other.sync_node_routes(elsewhere).await.unwrap();
        let ours = || {
            host.output("ip route show proto 192")
                .lines()
                .map(|line| line.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let line = |range: &str, via: &str| format!("{range} via {via} dev outside");
        let stays = line("10.52.7.0/24", "192.168.77.2");

        network
            .sync_node_routes([(range(2), machine.address()), (range(3), machine.address())].into())
            .await
            .unwrap();
        assert_eq!(
            ours(),
            [line("10.42.2.0/24", "192.168.77.2"), line("10.42.3.0/24", "192.168.77.2"), stays.clone()]
        );
        // A node has moved, another has gone, a third is on no link of ours.
        let beyond = |address: &str| {
            [(range(3), "192.168.77.9".parse().unwrap()), (range(4), address.parse().unwrap())].into()
        };
        let tunnels = || host.output("ip -o link show type vxlan").lines().count();
        let ends = || {
            host.output("bridge fdb show")
                .lines()
                .filter(|line| line.contains(" dst "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        network.sync_node_routes(beyond("192.0.2.1")).await.unwrap();
        let through = ours().into_iter().find(|line| line.starts_with("10.42.4.0/24")).unwrap();
        assert!(
            through.contains("via 10.42.4.0 dev cvx-") && through.contains("src 10.42.1.1 onlink"),
            "{through}"
        );
        assert_eq!(tunnels(), 1);
        assert!(ends().len() == 1 && ends()[0].contains("dst 192.0.2.1 "), "{:?}", ends());
        // The tunnel's packets fit into those of the link below it.
        assert!(host.output("ip -o link show type vxlan").contains("mtu 1450 "));
        // Its node moves, and then comes to a link of ours.
        network.sync_node_routes(beyond("192.0.2.2")).await.unwrap();
        assert!(ends().len() == 1 && ends()[0].contains("dst 192.0.2.2 "), "{:?}", ends());
        network.sync_node_routes(beyond("192.168.77.8")).await.unwrap();
        assert_eq!(tunnels(), 0);
        assert_eq!(
            ours(),
            [line("10.42.3.0/24", "192.168.77.9"), line("10.42.4.0/24", "192.168.77.8"), stays.clone()]
        );
        network.sync_node_routes(beyond("192.0.2.1")).await.unwrap();
        network.remove().await.unwrap();
        assert_eq!(ours(), [stays]);
    });
}
