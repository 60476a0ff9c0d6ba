//! Pods with `hostUsers: false`: their root is nobody on the node, and nothing else is different for them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::bench::{Bench, on_a_node};
use crate::need_root;

/// The host's ids of a pod's root and of its first process, from what the pod has written.
fn first_id(bench: &Bench, file: &str) -> Option<u32> {
    bench.output(file).split_whitespace().nth(1)?.parse().ok()
}

fn pod(bench: &Bench, map: &str, script: &str, more: &str) -> String {
    format!(
        "hostUsers: false, containers: [{{name: a, image: box, imagePullPolicy: Never, {more} \
         command: [sh, -c, \"cat /proc/self/uid_map > /out/{map}; {script}\"], volumeMounts: [{{name: out, mountPath: /out}}]}}], \
         volumes: [{{name: out, hostPath: {{path: {}}}}}]",
        bench.path("out").display()
    )
}

#[test]
fn pods_have_users_of_their_own_and_keep_them() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let beat = "echo $$ >> /out/starts; while :; do sleep 1; done";
        bench.apply("one", &pod(&bench, "one", beat, ""));
        bench.apply("two", &pod(&bench, "two", "sleep 1000", ""));
        bench.phase("one", "Running").await;
        bench.phase("two", "Running").await;
        bench
            .until("both maps", |bench| !bench.output("one").is_empty() && !bench.output("two").is_empty())
            .await;
        let (one, two) = (first_id(&bench, "one").unwrap(), first_id(&bench, "two").unwrap());
        assert!(one >= 65536 && two >= 65536 && one != two, "{one} {two}");
        assert_eq!((one % 65536, two % 65536), (0, 0));
        assert!(bench.output("one").trim().ends_with("65536"));
        // What root of the pod writes to the node belongs to root of the node, and only there.
        assert_eq!(fs::metadata(bench.path("out/one")).unwrap().uid(), 0);

        // Another agent finds them, leaves them alone, and gives their ids to nobody else.
        bench.stop().await;
        bench.start();
        bench.apply("three", &pod(&bench, "three", "sleep 1000", ""));
        bench.until("the third", |bench| first_id(bench, "three").is_some()).await;
        let three = first_id(&bench, "three").unwrap();
        assert!(three != one && three != two, "{one} {two} {three}");
        assert_eq!(bench.output("starts").lines().count(), 1);

        // A range is free when its pod is gone.
        bench.delete("two");
        bench.until("the second one's end", |bench| bench.pods().len() == 2).await;
        bench.apply("four", &pod(&bench, "four", "sleep 1000", ""));
        bench.until("the fourth", |bench| first_id(bench, "four").is_some()).await;
        assert_eq!(first_id(&bench, "four"), Some(two));
        bench.finish().await;
    });
}

#[test]
fn volumes_look_the_same_in_a_user_namespace() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        let script = "id -u; id -G; touch /scratch/f /mem/f; stat -c '%u:%g' /scratch/f /mem/f /image/etc/passwd /bin/busybox /etc/hosts; \
                      cat /info/name; echo; stat -L -c '%u:%g' /info/name /dir/sub; touch /dir/sub/x && echo sub; \
                      touch /only/x 2>/dev/null || echo only; touch /only/below/x 2>/dev/null || echo below; \
                      touch /image/x 2>/dev/null || echo image; echo over > /dev/termination-log";
        let below = bench.path("tree/below");
        fs::create_dir_all(&below).unwrap();
        nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
            .unwrap();
        bench.apply(
            "web",
            &format!(
                "restartPolicy: Never, hostUsers: false, securityContext: {{fsGroup: 3000, runAsUser: 1000, runAsGroup: 1000}}, \
                 containers: [{{name: a, image: box, imagePullPolicy: Never, command: [sh, -c, \"{{ {script}; }} > /out/world 2>&1\"], \
                 volumeMounts: [{{name: out, mountPath: /out}}, {{name: scratch, mountPath: /scratch}}, {{name: mem, mountPath: /mem}}, {{name: image, mountPath: /image}}, \
                 {{name: info, mountPath: /info}}, {{name: scratch, mountPath: /dir/sub, subPath: deep/er}}, \
                 {{name: tree, mountPath: /only, readOnly: true, recursiveReadOnly: Enabled}}]}}], \
                 volumes: [{{name: out, hostPath: {{path: {}}}}}, {{name: scratch, emptyDir: {{}}}}, {{name: mem, emptyDir: {{medium: Memory}}}}, \
                 {{name: image, image: {{reference: box, pullPolicy: Never}}}}, {{name: tree, hostPath: {{path: {}}}}}, \
                 {{name: info, downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}]",
                bench.path("out").display(),
                bench.path("tree").display(),
            ),
        );
        fs::set_permissions(bench.path("out"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        bench.phase("web", "Succeeded").await;
        let expected = "1000\n1000 2000 3000\n1000:3000\n1000:3000\n0:0\n0:0\n0:0\nweb-node\n0:3000\n0:3000\nsub\nonly\nbelow\nimage\n";
        assert_eq!(bench.output("world"), expected);
        let scratch = bench.pods()[0].join("volumes/kubernetes.io~empty-dir/scratch/f");
        if let Ok(meta) = fs::metadata(&scratch) {
            assert_eq!((meta.uid(), meta.gid()), (1000, 3000));
        }
        nix::mount::umount(&below).unwrap();
        let status = bench.status("web").unwrap().container_statuses.unwrap().remove(0);
        assert_eq!(status.state.unwrap().terminated.unwrap().message.as_deref(), Some("over\n"));
        assert_eq!(status.user.unwrap().linux.unwrap().uid, 1000);
        bench.finish().await;
    });
}

#[test]
fn what_a_user_namespace_cannot_have_is_told() {
    need_root!();
    on_a_node(async |mut bench| {
        bench.start();
        // No container has ids beyond the pod's.
        let mut spec = pod(&bench, "far", "true", "securityContext: {runAsUser: 70000},");
        spec.insert_str(0, "restartPolicy: Never, ");
        bench.apply("far", &spec);
        bench
            .until("the reason", |bench| {
                let statuses =
                    bench.status("far").and_then(|status| status.container_statuses).unwrap_or_default();
                let waiting = statuses.into_iter().next().and_then(|status| status.state?.waiting);
                waiting.is_some_and(|waiting| {
                    waiting.reason.as_deref() == Some("CreateContainerError")
                        && waiting.message.is_some_and(|message| message.contains("70000 is not among"))
                })
            })
            .await;
        bench.finish().await;
    });
}
