//! kube-rs as the client: typed API, watcher, logs, exec, server's errors as values.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{reflector, watcher};
use kube::{Api, Client, Config, ResourceExt};
use tests::{BUSYBOX, Cluster};
use tokio::io::AsyncReadExt;

/// The test's thread moves into the cluster's network, and so do the sockets it makes.
fn inside<T>(cluster: &Cluster, work: impl AsyncFnOnce(Client) -> T) -> T {
    cluster.machine.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        work(Client::try_from(config).unwrap()).await
    })
}

fn pod(name: &str, command: &[&str]) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "labels": {"app": "kube-rs"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "a", "image": BUSYBOX, "command": command}]},
    }))
    .unwrap()
}

#[test]
fn objects_are_made_changed_watched_and_deleted() {
    let cluster = Cluster::up();
    inside(&cluster, async |client| {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let map = ConfigMap {
            data: Some(BTreeMap::from([("a".to_owned(), "1".to_owned())])),
            ..ConfigMap::default()
        };
        let mut map = map;
        map.metadata.name = Some("made".to_owned());
        let made = maps.create(&PostParams::default(), &map).await.unwrap();
        assert!(made.uid().is_some());

        let again = maps.create(&PostParams::default(), &map).await.unwrap_err();
        let kube::Error::Api(status) = again else { panic!("{again}") };
        assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));

        let patch = serde_json::json!({"data": {"b": "2"}});
        let patched = maps.patch("made", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        assert_eq!(patched.data.unwrap().len(), 2);
        let stale = maps.replace("made", &PostParams::default(), &made).await.unwrap_err();
        let kube::Error::Api(status) = stale else { panic!("{stale}") };
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));

        // Server-side apply: a field of one's own, and one of somebody else.
        let applied = |data: serde_json::Value| {
            Patch::Apply(serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data}))
        };
        let ours = PatchParams::apply("ours");
        let map = maps.patch("made", &ours, &applied(serde_json::json!({"c": "3"}))).await.unwrap();
        assert_eq!(map.data.as_ref().unwrap().len(), 3);
        assert_eq!(
            map.managed_fields().iter().filter(|entry| entry.manager.as_deref() == Some("ours")).count(),
            1
        );
        let taken = maps.patch("made", &ours, &applied(serde_json::json!({"a": "4"}))).await.unwrap_err();
        let kube::Error::Api(status) = taken else { panic!("{taken}") };
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
        let map = maps.patch("made", &ours.force(), &applied(serde_json::json!({"a": "4"}))).await.unwrap();
        assert_eq!(map.data.unwrap().into_values().collect::<Vec<_>>(), ["4", "2"]);

        // A reflector that asks for a streaming list, and one that pages.
        for config in [watcher::Config::default().streaming_lists(), watcher::Config::default().page_size(1)]
        {
            let (reader, writer) = reflector::store();
            let mut stream = reflector(writer, watcher(maps.clone(), config)).boxed();
            let drive = async { while stream.try_next().await.unwrap().is_some() {} };
            tokio::select! {
                () = drive => panic!("the watch ended"),
                ready = reader.wait_until_ready() => ready.unwrap(),
            }
            assert!(reader.state().iter().any(|map| map.name_any() == "made"));
        }
        maps.delete("made", &DeleteParams::default()).await.unwrap();
        assert!(maps.get_opt("made").await.unwrap().is_none());
    });
}

#[test]
fn pods_run_log_and_execute() {
    let cluster = Cluster::up();
    inside(&cluster, async |client| {
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let command = ["sh", "-c", "echo hello from kube-rs; exec sleep 100000"];
        pods.create(&PostParams::default(), &pod("one", &command)).await.unwrap();
        await_condition(pods.clone(), "one", conditions::is_pod_running()).await.unwrap();
        assert_eq!(pods.logs("one", &LogParams::default()).await.unwrap(), "hello from kube-rs\n");

        let mut process =
            pods.exec("one", ["sh", "-c", "echo out; exit 3"], &AttachParams::default()).await.unwrap();
        let mut out = String::new();
        process.stdout().unwrap().read_to_string(&mut out).await.unwrap();
        assert_eq!(out, "out\n");
        let status = process.take_status().unwrap().await.unwrap();
        assert_eq!(status.status.as_deref(), Some("Failure"));
        assert_eq!(status.details.unwrap().causes.unwrap()[0].message.as_deref(), Some("3"));

        let listed = pods
            .list(&ListParams::default().labels("app=kube-rs").fields("status.phase=Running"))
            .await
            .unwrap();
        assert_eq!(listed.items.len(), 1);
        let uid = listed.items[0].uid().unwrap();
        pods.delete("one", &DeleteParams::default().grace_period(0)).await.unwrap();
        await_condition(pods.clone(), "one", conditions::is_deleted(&uid)).await.unwrap();

        let deployments: Api<Deployment> = Api::default_namespaced(client);
        let deployment: Deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "many"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "kube-rs"}},
                     "template": {"metadata": {"labels": {"app": "kube-rs"}}, "spec": pod("", &["sleep", "100000"]).spec}},
        }))
        .unwrap();
        deployments.create(&PostParams::default(), &deployment).await.unwrap();
        await_condition(deployments.clone(), "many", conditions::is_deployment_completed()).await.unwrap();
        deployments.delete("many", &DeleteParams::foreground()).await.unwrap();
    });
}
