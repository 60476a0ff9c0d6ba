//! The realistic example: nginx in front of redis, from Debian's own packages.

use std::process::Command;

use tests::{Cluster, coracle, eventually};

#[test]
fn the_shop_opens_sells_and_survives_a_rollout() {
    let cluster = Cluster::up();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let built = Command::new(format!("{root}/examples/images/build"))
        .arg("--")
        .args(cluster.instance_args())
        .env("CORACLE_BIN", coracle())
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");

    cluster.kubectl(["apply", "-f", &format!("{root}/examples/shop")]).ok();
    cluster.kubectl(["rollout", "status", "deployment/front", "-n", "shop", "--timeout=120s"]).ok();
    let address =
        cluster.kubectl(["get", "service", "front", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let page = || cluster.machine.run("busybox", ["wget", "-q", "-O", "-", &format!("http://{address}/")]);
    eventually("the page is served", || {
        let page = page();
        if page.stdout.starts_with("welcome aboard, from front-") { Ok(()) } else { Err(format!("{page:?}")) }
    });

    // Both fronts answer in turn.
    let answers: std::collections::BTreeSet<String> = (0..4).map(|_| page().ok()).collect();
    assert_eq!(answers.len(), 2, "{answers:?}");

    // redis, through nginx, with the password from the Secret; the data is on a volume that outlives its container.
    let redis = |command: &str| {
        let script = format!("redis-cli --no-auth-warning -a keep-it-afloat -h front {command}");
        cluster.kubectl(["exec", "-n", "shop", "deployment/redis", "--", "sh", "-c", &script])
    };
    assert_eq!(redis("get pages").ok().trim(), "2");
    assert!(redis("config get dir").ok().contains("/data"));
    drop(redis("debug segfault"));
    eventually("redis is back, with its data", || {
        let output = redis("get pages");
        if output.stdout.trim() == "2" { Ok(()) } else { Err(format!("{output:?}")) }
    });

    cluster.kubectl(["rollout", "restart", "deployment/front", "-n", "shop"]).ok();
    cluster.kubectl(["rollout", "status", "deployment/front", "-n", "shop", "--timeout=120s"]).ok();
    assert!(page().ok().starts_with("welcome aboard"));
    assert_eq!(redis("get pages").ok().trim(), "4");
    cluster.kubectl(["delete", "namespace", "shop", "--timeout=120s"]).ok();
}
