//! Pods from a directory of manifests, from their start to their end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use crate::bench::on_a_node;
use crate::need_root;

fn restarts(bench: &crate::bench::Bench, name: &str) -> i32 {
    let status = bench.status(name).unwrap_or_default();
    status.container_statuses.and_then(|statuses| Some(statuses.first()?.restart_count)).unwrap_or(0)
}

/// Mounts the directory `out` at `/out`.
fn out(bench: &crate::bench::Bench) -> String {
    format!("volumes: [{{name: out, hostPath: {{path: {}}}}}]", bench.path("out").display())
}

#[test]
fn a_pod_runs_and_goes() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let began = Instant::now();
        bench.apply(
            "web",
            "containers: [{name: a, image: box, imagePullPolicy: Never, command: [sleep, '1000']}]",
        );
        bench.phase("web", "Running").await;
        println!("running after {:?}", began.elapsed());
        let status = bench.status("web").unwrap();
        assert!(status.pod_ip.is_some_and(|ip| ip.starts_with("10.")));
        bench.finish().await;
    });
}

#[test]
fn the_world_of_a_container() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let script = "{ id -u; id -g; id -G; hostname; cat /etc/hosts | grep -c web; env | grep -E '^(A|NAME|IP|CPU|HOME)='; \
                      stat -c %a /dev/shm; cat /proc/self/status | grep -E 'Seccomp:|NoNewPrivs'; } > /out/world";
        bench.apply(
            "web",
            &format!(
                "restartPolicy: Never, hostname: web-host, securityContext: {{runAsUser: 1000, fsGroup: 3000, supplementalGroups: [4000]}}, {}, containers: [{{name: a, image: box, imagePullPolicy: Never, \
                 command: [sh, -c, \"{script}\"], volumeMounts: [{{name: out, mountPath: /out}}], \
                 securityContext: {{allowPrivilegeEscalation: false}}, resources: {{limits: {{cpu: 500m}}}}, \
                 env: [{{name: A, value: x}}, {{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}, {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}, {{name: CPU, valueFrom: {{resourceFieldRef: {{resource: limits.cpu, divisor: 1m}}}}}}]}}]",
                out(&bench)
            ),
        );
        std::fs::set_permissions(bench.path("out"), std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .unwrap();
        bench.phase("web", "Succeeded").await;
        let ip = bench.status("web").unwrap().pod_ip.unwrap();
        let world = bench.output("world");
        let lines: Vec<&str> = world.lines().collect();
        let expected = ["1000", "1000", "1000 2000 3000 4000", "web-host", "1"];
        assert_eq!(lines[..5], expected, "{world}");
        for line in [
            "A=x",
            "NAME=web-node",
            &format!("IP={ip}"),
            "CPU=500",
            "HOME=/",
            "1777",
            "Seccomp:\t2",
            "NoNewPrivs:\t1",
        ] {
            assert!(lines.contains(&line), "{line} is not in {world}");
        }
        bench.finish().await;
    });
}

#[test]
fn a_killed_container_comes_back() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        bench.apply(
            "web",
            &format!(
                "{}, containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, 'echo up >> /out/starts; echo hello; sleep 1000'], volumeMounts: [{{name: out, mountPath: /out}}]}}]",
                out(&bench)
            ),
        );
        bench.until("the first start", |bench| bench.output("starts").lines().count() == 1).await;
        bench.phase("web", "Running").await;
        let sleeper = find_process("sleep 1000", &bench);
        nix::sys::signal::kill(sleeper, nix::sys::signal::Signal::SIGKILL).unwrap();
        bench.until("the second start", |bench| bench.output("starts").lines().count() == 2).await;
        bench.until("the restart count", |bench| restarts(bench, "web") == 1).await;
        let status = bench.status("web").unwrap();
        let last = status.container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
        assert_eq!(last.exit_code, 137);
        assert_eq!(bench.log("web", "a", 0), "hello\n");
        bench.until("the second log", |bench| bench.log("web", "a", 1) == "hello\n").await;
        bench.finish().await;
    });
}

/// The shell's child in the pod: killing it ends the shell.
fn find_process(command: &str, bench: &crate::bench::Bench) -> nix::unistd::Pid {
    let mark = bench.dir.path().to_str().unwrap().to_owned();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim().contains(command) && mounts.contains(&mark)
    });
    // The shell comes first: its end is that of the container.
    nix::unistd::Pid::from_raw(found.min().expect("the container's process"))
}

#[test]
fn a_new_agent_touches_nothing_and_knows_what_happened() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let mount = "volumeMounts: [{name: out, mountPath: /out}]";
        bench.apply(
            "calm",
            &format!(
                "{}, containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, 'echo up >> /out/calm; sleep 1000'], {mount}}}]",
                out(&bench)
            ),
        );
        bench.apply(
            "brief",
            &format!(
                "restartPolicy: Never, {}, containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, 'echo up >> /out/brief; sleep 1; exit 7'], {mount}}}]",
                out(&bench)
            ),
        );
        bench.phase("calm", "Running").await;
        bench.phase("brief", "Running").await;
        bench.stop().await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        bench.start();
        bench.phase("brief", "Failed").await;
        let status = bench.status("brief").unwrap();
        let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!(ended.exit_code, 7);
        bench.phase("calm", "Running").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(bench.output("calm").lines().count(), 1, "nothing was restarted");
        assert_eq!(bench.output("brief").lines().count(), 1, "nothing ran twice");
        assert_eq!(restarts(&bench, "calm"), 0);
        bench.finish().await;
    });
}

#[test]
fn pods_come_back_when_everything_was_killed() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        bench.apply(
            "web",
            &format!(
                "{}, containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, 'echo up >> /out/starts; sleep 1000'], volumeMounts: [{{name: out, mountPath: /out}}]}}]",
                out(&bench)
            ),
        );
        bench.until("the first start", |bench| bench.output("starts").lines().count() == 1).await;
        bench.phase("web", "Running").await;
        bench.stop().await;
        bench.kill_everything();
        bench.start();
        bench.until("the second start", |bench| bench.output("starts").lines().count() == 2).await;
        bench.until("the restart count", |bench| restarts(bench, "web") == 1).await;
        bench.finish().await;
    });
}

#[test]
fn stopping_is_asked_for_and_then_enforced() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let polite = "trap 'echo bye >> /out/polite; exit 0' TERM; echo up >> /out/polite; while true; do sleep 0.05; done";
        let deaf = "trap '' TERM; echo up >> /out/deaf; while true; do sleep 0.05; done";
        for (name, script) in [("polite", polite), ("deaf", deaf)] {
            bench.apply(
                name,
                &format!(
                    "terminationGracePeriodSeconds: 1, {}, containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, \"{script}\"], volumeMounts: [{{name: out, mountPath: /out}}]}}]",
                    out(&bench)
                ),
            );
        }
        bench.until("both", |bench| bench.output("polite") == "up\n" && bench.output("deaf") == "up\n").await;
        let began = Instant::now();
        bench.delete("polite");
        bench
            .until("the polite one's end", |bench| {
                bench.output("polite") == "up\nbye\n" && bench.pods().len() == 1
            })
            .await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        let began = Instant::now();
        bench.delete("deaf");
        bench.until("the deaf one's end", |bench| bench.pods().is_empty()).await;
        assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
        bench.finish().await;
    });
}

#[test]
fn probes_ask_over_the_pod_network() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        bench.apply(
            "web",
            "containers: [{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, 'mkdir /www; echo hi > /www/index.html; httpd -f -p 8080 -h /www'], \
             ports: [{name: http, containerPort: 8080}], \
             readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}, \
             livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, initialDelaySeconds: 1}, \
             startupProbe: {exec: {command: [test, -e, /www/index.html]}, periodSeconds: 1}}]",
        );
        bench
            .until("readiness", |bench| {
                bench
                    .status("web")
                    .is_some_and(|status| status.container_statuses.is_some_and(|list| list[0].ready))
            })
            .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(restarts(&bench, "web"), 0);
        bench.finish().await;
    });
}

#[test]
fn volumes_of_all_kinds() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let script = "{ cat /info/name; echo; grep -c ' /mem tmpfs ' /proc/mounts; stat -c %a /scratch; touch /scratch/x && echo wrote; \
                      touch /info/x 2>/dev/null || echo readonly; echo data > /sub/file; ls /whole/dir; } > /out/volumes";
        bench.apply(
            "web",
            &format!(
                "restartPolicy: Never, containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, \"{script}\"], \
                 volumeMounts: [{{name: out, mountPath: /out}}, {{name: info, mountPath: /info, readOnly: true}}, {{name: mem, mountPath: /mem}}, {{name: scratch, mountPath: /scratch}}, \
                 {{name: whole, mountPath: /whole}}, {{name: whole, mountPath: /sub, subPath: dir}}]}}], \
                 volumes: [{{name: out, hostPath: {{path: {}, type: Directory}}}}, {{name: info, downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}, \
                 {{name: mem, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}, {{name: scratch, emptyDir: {{}}}}, {{name: whole, emptyDir: {{}}}}]",
                bench.path("out").display()
            ),
        );
        bench.phase("web", "Succeeded").await;
        assert_eq!(bench.output("volumes"), "web-node\n1\n777\nwrote\nreadonly\nfile\n");
        bench.finish().await;
    });
}

#[test]
fn failures_have_upstreams_reasons() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        bench.apply(
            "gone",
            "containers: [{name: a, image: nowhere, imagePullPolicy: Never, command: [sleep]}]",
        );
        bench.apply(
            "missing",
            "containers: [{name: a, image: box, imagePullPolicy: Never, command: [/no/such/program]}]",
        );
        bench.apply(
            "root",
            "containers: [{name: a, image: box, imagePullPolicy: Never, securityContext: {runAsNonRoot: true}}]",
        );
        bench.apply(
            "memory",
            "restartPolicy: Never, containers: [{name: a, image: box, imagePullPolicy: Never, resources: {limits: {memory: 16Mi}}, \
             command: [sh, -c, 'head -c 200000000 /dev/zero | grep x']}]",
        );
        let waiting = |name: &str, reason: &str| {
            let (name, reason) = (name.to_owned(), reason.to_owned());
            move |bench: &crate::bench::Bench| {
                let status = bench.status(&name).unwrap_or_default();
                let statuses = status.container_statuses.unwrap_or_default();
                let state = statuses.first().and_then(|status| status.state.clone()).unwrap_or_default();
                state.waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(&reason))
            }
        };
        bench.until("missing", waiting("missing", "CrashLoopBackOff")).await;
        let status = bench.status("missing").unwrap();
        let last = status.container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
        assert_eq!((last.reason.as_deref(), last.exit_code), (Some("StartError"), 128));
        assert!(last.message.unwrap().contains("executable file not found in $PATH"));
        bench.phase("memory", "Failed").await;
        let status = bench.status("memory").unwrap();
        let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!(ended.reason.as_deref(), Some("OOMKilled"), "{ended:?}");
        let all = bench.pods();
        assert_eq!(all.len(), 4, "{all:?}");
        bench.finish().await;
    });
}

#[test]
fn many_pods_at_once() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let began = Instant::now();
        for number in 0..30 {
            bench.apply(
                &format!("p{number}"),
                "terminationGracePeriodSeconds: 0, containers: [{name: a, image: box, imagePullPolicy: Never, command: [sleep, '1000']}]",
            );
        }
        for number in 0..30 {
            bench.phase(&format!("p{number}"), "Running").await;
        }
        println!("30 pods after {:?}", began.elapsed());
        let began = Instant::now();
        bench.finish().await;
        println!("gone after {:?}", began.elapsed());
    });
}
