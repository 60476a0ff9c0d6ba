//! Sandboxes with a user namespace of their own.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use runtime::oci::{Capability, UserBuilder};
use runtime::{ExecSpec, NetworkMode, PidMode, Sandbox, SandboxSpec, StartContainerError, Users};
use support::{Bench, add_mounts, eventually, mount, read_all, with_linux, with_process};

const FIRST: u32 = 7 << 16;

fn spec(bench: &Bench, id: &str) -> SandboxSpec {
    let mut spec = bench.sandbox_spec(id);
    spec.users = Some(Users { first: FIRST, count: 1 << 16 });
    spec
}

#[expect(clippy::unwrap_used, reason = "a part of tests")]
async fn sandbox(bench: &Bench) -> Arc<Sandbox> {
    bench.runtime.create_sandbox(spec(bench, "u0")).await.unwrap()
}

fn exec(script: &str) -> ExecSpec {
    ExecSpec { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), ..ExecSpec::default() }
}

#[tokio::test]
async fn root_inside_is_nobody_outside() {
    need_root!();
    let bench = Bench::new();
    let data = bench.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("before"), "x").unwrap();
    let sandbox = sandbox(&bench).await;
    let script = "id -u; cat /proc/self/uid_map; stat -c '%u:%g %a' /; stat -c %u /etc/passwd /data/before /bin/busybox; \
                  echo y > /data/after && touch /here && echo wrote; stat -c %u /data/after /here; \
                  chown 1000:1000 /here && stat -c %u /here; \
                  stat -c '%u:%g %a' /dev /dev/shm /dev/null; touch /dev/shm/x && stat -c %u /dev/shm/x; \
                  echo > /dev/null && hostname && echo again > /dev/stdout; \
                  cat /sys/class/net/lo/mtu > /dev/null && echo sys; sleep 1000";
    let mut container = bench.shell("c", script);
    add_mounts(
        &mut container.spec,
        vec![mount("/data", "bind", data.to_str().unwrap(), &["rbind", "idmap"])],
    );
    let state = sandbox.start(container).await.unwrap();
    eventually("its report", || bench.output("c").ends_with("sys\n")).await;
    let map = format!("{:>10} {FIRST:>10} {:>10}", 0, 1 << 16);
    let expected = format!(
        "0\n{map}\n0:0 755\n0\n0\n0\nwrote\n0\n0\n1000\n0:0 755\n0:0 1777\n0:0 666\n0\nhost-u0\nagain\nsys\n"
    );
    assert_eq!(bench.output("c"), expected, "{}", bench.errors("c"));

    // On the host: the process is nobody's, what it wrote to a volume is root's, and its layer is its own.
    let pid = state.pid.unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")), "{status}");
    assert_eq!(fs::metadata(data.join("after")).unwrap().uid(), 0);
    let upper = fs::read_dir(bench.dir.path()).unwrap().flatten();
    let mut here = upper.map(|entry| entry.path().join("here")).filter(|path| path.exists());
    assert_eq!(fs::metadata(here.next().unwrap()).unwrap().uid(), FIRST + 1000);
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn its_capabilities_end_where_the_sandbox_ends() {
    need_root!();
    let bench = Bench::new();
    let sandbox = sandbox(&bench).await;
    let script = "mount -t tmpfs none /tmp && echo mounted; hostname other && hostname; ip link set lo mtu 1400 && echo network; \
                  umount /proc/kcore 2>/dev/null || echo masked; umount /proc 2>/dev/null || echo covered; \
                  mknod /tmp/disk b 254 0 2>/dev/null || echo no nodes; \
                  dmesg > /dev/null 2>&1 || echo no log; echo 1 > /proc/sys/kernel/panic 2>/dev/null || echo no sysctls; \
                  chroot / /bin/true && echo chroot";
    let mut container = bench.shell("c", script);
    with_process(&mut container, |process| {
        let mut sets = process.capabilities().clone().unwrap();
        let all = [
            Capability::SysAdmin,
            Capability::NetAdmin,
            Capability::Mknod,
            Capability::SysChroot,
            Capability::Syslog,
        ];
        let all: std::collections::HashSet<_> = all.into_iter().collect();
        sets.set_bounding(Some(all.clone()));
        sets.set_effective(Some(all.clone()));
        sets.set_permitted(Some(all));
        process.set_capabilities(Some(sets));
    });
    with_linux(&mut container, |linux| {
        linux.set_seccomp(None);
        linux.set_readonly_paths(None);
    });
    sandbox.start(container).await.unwrap();
    sandbox.wait("c").await.unwrap();
    let expected = "mounted\nother\nnetwork\nmasked\ncovered\nno nodes\nno log\nno sysctls\nchroot\n";
    assert_eq!(bench.output("c"), expected, "{}", bench.errors("c"));
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn an_exec_lands_in_it_also_after_a_restart() {
    need_root!();
    let bench = Bench::new();
    let sandbox = sandbox(&bench).await;
    let state = sandbox.start(bench.shell("c", "sleep 1000")).await.unwrap();
    let own = fs::read_link(format!("/proc/{}/ns/user", state.pid.unwrap())).unwrap();
    assert_ne!(own, fs::read_link("/proc/self/ns/user").unwrap());
    drop(sandbox);
    let reopened = bench.reopened();
    let sandbox = reopened.sandboxes().await.remove(0);
    assert_eq!(sandbox.spec().users, Some(Users { first: FIRST, count: 1 << 16 }));
    let mut run = sandbox
        .exec("c", exec("id -u; readlink /proc/self/ns/user; touch /by-exec; stat -c %u /by-exec; grep -E '^(CapEff|Seccomp|Uid):' /proc/self/status"))
        .await
        .unwrap();
    let out = read_all(run.stdout.take()).await;
    assert_eq!(run.wait().await.unwrap(), 0, "{out}");
    let expected =
        format!("0\n{}\n0\nUid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n", own.display());
    assert_eq!(out, expected);
    let user = UserBuilder::default().uid(1000_u32).gid(1000_u32).build().unwrap();
    let mut run = sandbox
        .exec(
            "c",
            ExecSpec {
                user: Some(user),
                ..exec("id -u; echo own > /dev/stdout; grep CapEff /proc/self/status")
            },
        )
        .await
        .unwrap();
    assert_eq!(read_all(run.stdout.take()).await, "1000\nown\nCapEff:\t0000000000000000\n");
    assert_eq!(run.wait().await.unwrap(), 0);
    // On a terminal, which belongs to its user.
    let mut run = sandbox.exec("c", ExecSpec { tty: true, ..exec("tty; stat -c %u $(tty)") }).await.unwrap();
    let out = read_all(run.stdout.take()).await;
    assert_eq!(out.replace('\r', ""), "/dev/pts/0\n0\n");
    run.wait().await.unwrap();
    sandbox.remove().await.unwrap();
    drop((sandbox, reopened));
    bench.finish();
}

#[tokio::test]
async fn a_shared_pid_namespace_goes_with_it() {
    need_root!();
    let bench = Bench::new();
    let mut spec = spec(&bench, "u0");
    spec.pid = PidMode::Shared;
    let sandbox = bench.runtime.create_sandbox(spec).await.unwrap();
    sandbox.start(bench.shell("a", "sleep 1000")).await.unwrap();
    // Root of the one may look into and end the other.
    let script =
        "for p in /proc/[0-9]*; do grep -q 'sleep' $p/cmdline && kill -9 ${p#/proc/}; done; echo done";
    sandbox.start(bench.shell("b", script)).await.unwrap();
    assert_eq!(sandbox.wait("a").await.unwrap().signal, Some(9));
    sandbox.wait("b").await.unwrap();
    sandbox.remove().await.unwrap();
    bench.finish();
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    need_root!();
    let bench = Bench::new();
    let mut host = spec(&bench, "h");
    host.network = NetworkMode::Host;
    let error = bench.runtime.create_sandbox(host).await.unwrap_err();
    assert_eq!(error.to_string(), "users: goes with namespaces of the sandbox's own only");
    let sandbox = sandbox(&bench).await;
    let mut container = bench.shell("c", "true");
    with_process(&mut container, |process| {
        process.set_user(UserBuilder::default().uid(70_000_u32).gid(0_u32).build().unwrap());
    });
    let error = sandbox.start(container).await.unwrap_err();
    assert_eq!(error.to_string(), "process.user.uid: 70000 is not among the 65536 ids of the user namespace");
    // Not every file system can have its ids mapped; the step that failed is named.
    let mut container = bench.shell("d", "true");
    add_mounts(&mut container.spec, vec![mount("/p", "bind", "/proc/sys", &["bind", "idmap"])]);
    let error = sandbox.start(container).await.unwrap_err();
    assert!(matches!(error, StartContainerError::Step { .. }), "{error:?}");
    assert!(error.to_string().contains("opening /proc/sys for mounting"), "{error}");
    sandbox.remove().await.unwrap();
    bench.finish();
}
