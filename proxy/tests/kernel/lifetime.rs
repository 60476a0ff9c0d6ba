//! Changes, restarts and successors while connections are open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxy::Source;

use crate::world::*;

/// Three pods that echo on 8080.
async fn echoing(world: &World) -> Vec<Pod> {
    let mut pods = Vec::new();
    for name in ["a", "b", "c"] {
        let pod = world.pod(name).await;
        serve_echo(&pod.netns, 8080);
        pods.push(pod);
    }
    let _none = world.web(&[]).await;
    world.behind_web(pods.iter());
    pods
}

#[test]
fn changing_endpoints_leaves_open_connections_alone() {
    on_a_host(async |world| {
        let pods = echoing(&world).await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let open: Vec<_> = (0..6).map(|_| connect(&world.host, SERVICE, 80).unwrap()).collect();
        let all_echo = |text: &str| open.iter().for_each(|stream| echoes(stream, text));
        all_echo("before");
        let d = world.pod("d").await;
        serve_name(&d.netns, "d");
        world.behind_web([&d].into_iter());
        // Those that echo say nothing by themselves.
        let meets_d = || finish(&connect(&world.host, SERVICE, 80).unwrap()).starts_with(b"d ");
        world.until(async || meets_d()).await;
        all_echo("others now");
        assert!((0..10).all(|_| meets_d()));
        world.behind_web([].into_iter());
        world.listeners(0).await;
        all_echo("nobody");
        world.api.delete_service("web");
        all_echo("no service");
        drop(pods);
        for stream in &open {
            assert_eq!(finish(stream), b"");
        }
    });
}

#[test]
fn who_leaves_gets_nothing_new_from_the_moment_it_is_acknowledged() {
    on_a_host(async |world| {
        let pods = world.web(&["a", "b", "c"]).await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(names(&world.host, 3).len(), 3);
        let mut control = world.control().await;
        control.leaving(&pods[1].uid, &[pods[1].address.into()]).await.unwrap();
        assert_eq!(names(&world.host, 20), expect(&[("a", 10), ("c", 10)]));
        // The server hears of it later and says the same.
        world.behind_web([&pods[0], &pods[2]].into_iter());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(names(&world.host, 20), expect(&[("a", 10), ("c", 10)]));
        // The last one stays: better than nobody.
        for pod in [&pods[0], &pods[2]] {
            control.leaving(&pod.uid, &[pod.address.into()]).await.unwrap();
        }
        assert_eq!(names(&world.host, 10), expect(&[("a", 5), ("c", 5)]));
    });
}

#[test]
fn connections_meet_no_leaving_pod_even_in_a_storm() {
    on_a_host(async |world| {
        let pods = world.web(&["a", "b"]).await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        let (stop, host) = (AtomicBool::new(false), &world.host);
        let gone = std::sync::Mutex::new(None::<Instant>);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        let met = name(host, SERVICE, 80);
                        let late = gone.lock().unwrap().is_some_and(|gone| started > gone);
                        assert!(!(late && met == "a"), "met a pod that had left");
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(100));
            let left = leave_from_a_thread(&world, &pods[0]);
            *gone.lock().unwrap() = Some(left);
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
        });
    });
}

/// Says that the pod leaves, from another runtime; answers when that was acknowledged.
fn leave_from_a_thread(world: &World, pod: &Pod) -> Instant {
    let run_dir = world.directory.path().join("run");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut control = proxy::Control::connect(&run_dir).await.unwrap();
                control.leaving(&pod.uid, &[pod.address.into()]).await.unwrap();
                Instant::now()
            })
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_proxy_without_a_server_serves_the_last_table() {
    on_a_host(async |world| {
        let pods = world.web(&["a", "b"]).await;
        let proxy = world.proxy().await;
        world.listeners(1).await;
        world.api.go_down();
        assert_eq!(names(&world.host, 4), expect(&[("a", 2), ("b", 2)]));
        drop(proxy);
        let _proxy = world.start(world.config("test", Source::Client(world.api.client())));
        world.listeners(1).await;
        assert!(!world.control().await.ping().await.unwrap().synced);
        assert_eq!(names(&world.host, 4), expect(&[("a", 2), ("b", 2)]));
        // Pods may leave without a server, too.
        world.control().await.leaving(&pods[0].uid, &[pods[0].address.into()]).await.unwrap();
        assert_eq!(names(&world.host, 4), expect(&[("b", 4)]));
    });
}

#[test]
fn a_damaged_table_is_no_reason_not_to_start() {
    on_a_host(async |world| {
        std::fs::write(world.directory.path().join("table.json"), "{").unwrap();
        let _pods = world.web(&["a"]).await;
        let _proxy = world.proxy().await;
        world.listeners(1).await;
        assert_eq!(name(&world.host, SERVICE, 80), "a");
    });
}

#[test]
fn a_successor_takes_over_without_refusing_anybody() {
    on_a_host(async |world| {
        let _pods = echoing(&world).await;
        let first = world.proxy().await;
        world.listeners(1).await;
        let open: Vec<_> = (0..3).map(|_| connect(&world.host, SERVICE, 80).unwrap()).collect();
        let stop = AtomicBool::new(false);
        let count = std::sync::atomic::AtomicUsize::new(0);
        let second = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let stream = connect(&world.host, SERVICE, 80).unwrap();
                        echoes(&stream, "new");
                        assert_eq!(finish(&stream), b"");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let started = Instant::now();
            let second = world.start(world.config("newer", Source::Client(world.api.client())));
            while version(&world) != Some("newer".into()) {
                assert!(started.elapsed() < PATIENCE);
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            second
        });
        assert!(count.load(Ordering::Relaxed) > 20);
        for stream in &open {
            echoes(stream, "through the old one");
            assert_eq!(finish(stream), b"");
        }
        // The old one ends by itself when its last connection has ended.
        drop(first);
        world.listeners(1).await;
        let stream = connect(&world.host, SERVICE, 80).unwrap();
        echoes(&stream, "through the new one");
        drop(second);
    });
}

fn version(world: &World) -> Option<String> {
    let run_dir = world.directory.path().join("run");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                Some(proxy::Control::connect(&run_dir).await.ok()?.ping().await.ok()?.version)
            })
        });
        thread.join().unwrap()
    })
}

const DIRECTORY: &str = "PROXY_TEST_DIRECTORY";

/// A proxy as a process: this test again, told so by its environment.
#[test]
fn process() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let stop = tokio_util::sync::CancellationToken::new();
    proxy::run(config(std::path::Path::new(&directory), "process", Source::Disk), &stop).unwrap();
}

#[test]
fn a_killed_proxy_serves_again_as_soon_as_it_is_started() {
    on_a_host(async |world| {
        let _pods = world.web(&["a", "b"]).await;
        let client = world.pod("client").await;
        let proxy = world.proxy().await;
        world.listeners(1).await;
        drop(proxy);
        let spawn = || {
            std::process::Command::new(std::env::current_exe()?)
                .args(["--exact", "lifetime::process"])
                .env(DIRECTORY, world.directory.path())
                .stdout(std::process::Stdio::null())
                .spawn()
        };
        let run_dir = world.directory.path().join("run");
        for _ in 0..5 {
            let launched = proxy::ensure_running(&run_dir, "process", spawn).await.unwrap();
            let proxy::Launched::Started(_, mut child) = launched else {
                panic!("it was killed: {launched:?}")
            };
            for netns in [&client.netns, &world.host] {
                assert_eq!(name(netns, SERVICE, 80), "a");
                assert_eq!(name(netns, SERVICE, 80), "b");
            }
            let found = proxy::ensure_running(&run_dir, "process", || unreachable!()).await.unwrap();
            assert!(matches!(found, proxy::Launched::Found(pong) if pong.pid == child.id()));
            let ended = world.control().await.ended();
            child.kill().unwrap();
            tokio::time::timeout(PATIENCE, ended).await.unwrap();
            child.wait().unwrap();
        }
    });
}
