//! Killed at any instant, the network leaves nothing that the next pass does not find.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::*;
use network::{HostPort, NetNs, Network, Protocol};

const ROUNDS: u64 = 40;
const DIRECTORY: &str = "NETWORK_CRASH_DIRECTORY";
const NAMESPACES: &str = "NETWORK_CRASH_NAMESPACES";

/// The process that is killed: this test again, told by its environment to attach and detach without end.
#[test]
fn victim() {
    let (Ok(directory), Ok(namespaces)) = (std::env::var(DIRECTORY), std::env::var(NAMESPACES)) else {
        return;
    };
    let mut config =
        Host { netns: NetNs::current().unwrap(), directory: tempfile::tempdir().unwrap() }.config(42);
    config.state_dir = directory.into();
    let namespaces: Vec<_> =
        namespaces.split(' ').map(|path| NetNs::open(Path::new(path)).unwrap()).collect();
    let network = Network::new(config).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        writeln!(std::io::stdout(), "ready").unwrap();
        loop {
            network.ensure().await.unwrap();
            for (number, netns) in namespaces.iter().enumerate() {
                let id = format!("pod{number}");
                network.attach(netns.as_fd(), &id, "eth0").await.unwrap();
                let host_port = 8000 + u16::try_from(number).unwrap();
                let port = HostPort { protocol: Protocol::Tcp, host_address: None, host_port, port: 80 };
                network.publish(&id, &[port]).await.unwrap();
            }
            for number in 0..namespaces.len() {
                network.detach(&format!("pod{number}")).await.unwrap();
            }
        }
    });
}

#[test]
fn nothing_leaks_after_kill_9() {
    on_a_host(async |host| {
        let before = host.everything();
        let network = Network::new(host.config(42)).unwrap();
        let pods: Vec<_> = (0..3).map(|_| NetNs::create().unwrap()).collect();
        let paths: Vec<_> = pods
            .iter()
            .map(|pod| format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd()))
            .collect();
        let mut states = BTreeSet::new();
        for round in 0..ROUNDS {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash::victim", "--nocapture"])
                .env(DIRECTORY, &network.config().state_dir)
                .env(NAMESPACES, paths.join(" "))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            while !line.contains("ready") {
                line.clear();
                assert_ne!(output.read_line(&mut line).unwrap(), 0, "the victim ended by itself");
            }
            std::thread::sleep(Duration::from_micros(round * 750));
            child.kill().unwrap();
            child.wait().unwrap();
            states.insert((host.output("ip -o link").lines().count(), host.output("nft -s list ruleset")));

            // What lives on is exactly what is said to live on, and it works.
            network.ensure().await.unwrap();
            let live = BTreeSet::from(["pod1".to_owned()]);
            network.reconcile(&live).await.unwrap();
            let pod = network.attach(pods[1].as_fd(), "pod1", "eth0").await.unwrap();
            assert_eq!(network.attachments().await.unwrap(), std::slice::from_ref(&pod), "round {round}");
            let links = host.output("ip -o link");
            assert_eq!(links.lines().count(), 3, "round {round}: {links}");
            assert!(!host.output("nft list chain ip test42 host-ports").contains("8000"), "round {round}");
            network.publish("pod1", &[]).await.unwrap();
            network.reconcile(&BTreeSet::new()).await.unwrap();
            assert_eq!(network.attachments().await.unwrap(), []);
            assert_eq!(host.output("ip -o link").lines().count(), 2, "round {round}");
            for pod in &pods {
                let inside =
                    pod.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
                assert!(!inside.contains("eth0"), "round {round}: {inside}");
            }
        }
        assert!(states.len() >= 5, "the kills met {} different states only", states.len());
        network.remove().await.unwrap();
        assert_eq!(host.everything(), before);
    });
}
