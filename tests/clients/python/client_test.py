"""The Python client against a cluster: objects, patches, watches that resume, logs, exec, deployments.

Its only argument is an image with a shell. The cluster is that of $KUBECONFIG.
"""

import sys
import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

IMAGE = sys.argv[1]
NAMESPACE = "python"


def refused(status, reason, call, *args, **kwargs):
    """The Status with which a call must be refused."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        body = client.ApiClient().deserialize(error.body, "V1Status", "application/json")
        assert (error.status, body.reason) == (status, reason), error
        return body
    raise AssertionError(f"{call.__name__} was not refused")


def pod(name, *command):
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels={"app": name}),
        spec=client.V1PodSpec(
            termination_grace_period_seconds=0,
            containers=[client.V1Container(name="main", image=IMAGE, command=list(command))],
        ),
    )


def until(events, wanted):
    """The object of the first event that `wanted` likes."""
    for event in events:
        if wanted(event):
            return event["object"]
    raise AssertionError("the watch ended too early")


def running(name):
    """Waits until a pod runs."""
    core = client.CoreV1Api()
    events = watch.Watch()
    selector = f"metadata.name={name}"
    stream = events.stream(core.list_namespaced_pod, NAMESPACE, field_selector=selector, timeout_seconds=60)
    return until(stream, lambda event: event["object"].status.phase == "Running")


def objects():
    core = client.CoreV1Api()
    # A pod right after its namespace: its account is waited for.
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    early = core.create_namespaced_pod(NAMESPACE, pod("early", "sleep", "100000"))
    assert early.spec.service_account_name == "default"
    assert early.spec.volumes[0].name.startswith("kube-api-access-")

    made = core.create_namespaced_config_map(
        NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="map"), data={"a": "1"})
    )
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, made_again(made))
    dry = core.patch_namespaced_config_map("map", NAMESPACE, {"data": {"x": "1"}}, dry_run="All")
    assert dry.data == {"a": "1", "x": "1"}
    assert core.read_namespaced_config_map("map", NAMESPACE).data == {"a": "1"}

    replaced = core.replace_namespaced_config_map("map", NAMESPACE, client.V1ConfigMap(
        metadata=made.metadata, data={"a": "2"}))
    stale = refused(409, "Conflict", core.replace_namespaced_config_map, "map", NAMESPACE, made)
    assert "the object has been modified" in stale.message, stale.message
    assert int(replaced.metadata.resource_version) > int(made.metadata.resource_version)

    account = client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot"))
    core.create_namespaced_service_account(NAMESPACE, account)
    token = core.create_namespaced_service_account_token(
        "robot", NAMESPACE, client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)))
    assert token.status.token.count(".") == 2

    invalid = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="No_Name"))
    body = refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, invalid)
    assert body.details.causes[0].field == "metadata.name", body
    missing = refused(404, "NotFound", core.read_namespaced_secret, "none", NAMESPACE)
    assert missing.message == 'secrets "none" not found'


def made_again(made):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=made.metadata.name))


def patches():
    """The kind of patch is chosen by its form, and by the content type where the client offers it."""
    api = client.ApiClient()
    core = client.CoreV1Api()
    changed = core.patch_namespaced_config_map("map", NAMESPACE, [{"op": "add", "path": "/data/j", "value": "1"}])
    assert changed.data == {"a": "2", "j": "1"}
    changed = core.patch_namespaced_config_map("map", NAMESPACE, {"data": {"s": "1", "j": None}})
    assert changed.data == {"a": "2", "s": "1"}
    generic = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
    for content_type, body in [
        ("application/merge-patch+json", {"data": {"m": "1"}}),
        ("application/strategic-merge-patch+json", {"data": {"s": None}}),
        ("application/json-patch+json", [{"op": "test", "path": "/data/m", "value": "1"}]),
    ]:
        changed = generic.patch(name="map", namespace=NAMESPACE, body=body, content_type=content_type)
    assert dict(changed.data) == {"a": "2", "m": "1"}
    applied = generic.server_side_apply(
        name="map", namespace=NAMESPACE, field_manager="tests",
        body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"o": "1"}})
    assert dict(applied.data) == {"a": "2", "m": "1", "o": "1"}
    owners = [entry.manager for entry in applied.metadata.managedFields if entry.operation == "Apply"]
    assert owners == ["tests"], owners


def watches():
    core = client.CoreV1Api()
    for index in range(5):
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(
            metadata=client.V1ObjectMeta(name=f"page-{index}", labels={"page": "yes"})))
    # Whole, and in pages that are of one moment.
    first = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=2)
    assert (len(first.items), first.metadata.remaining_item_count) == (2, None), first.metadata
    core.delete_namespaced_config_map("page-4", NAMESPACE)
    names, page = [item.metadata.name for item in first.items], first
    while page.metadata._continue:
        page = core.list_namespaced_config_map(
            NAMESPACE, label_selector="page=yes", limit=2, _continue=page.metadata._continue)
        names += [item.metadata.name for item in page.items]
    assert names == [f"page-{index}" for index in range(5)], names

    # A watch that is left and taken up again misses nothing and repeats nothing.
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    seen = []

    def some(count, version):
        events = watch.Watch()
        for event in events.stream(
                core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=30):
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == count:
                return event["object"].metadata.resource_version
        raise AssertionError(f"the watch ended after {seen}")

    for index in range(4):
        core.patch_namespaced_config_map(f"page-{index}", NAMESPACE, {"data": {"n": "1"}})
    version = some(2, version)
    core.delete_namespaced_config_map("page-0", NAMESPACE)
    some(5, version)
    assert seen == [("MODIFIED", f"page-{index}") for index in range(4)] + [("DELETED", "page-0")], seen

    # A watch from a time that nobody remembers, and one that asks for bookmarks.
    events = watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, allow_watch_bookmarks=True, timeout_seconds=1)
    assert {event["type"] for event in events} >= {"ADDED"}
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page=yes")
    assert core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes").items == []


def pods():
    core = client.CoreV1Api()
    script = "for i in 1 2 3; do echo line $i; done; exec sleep 100000"
    core.create_namespaced_pod(NAMESPACE, pod("talker", "sh", "-c", script))
    running("talker")
    # Following ends when it has been enough.
    lines = watch.Watch()
    seen = []
    for line in lines.stream(core.read_namespaced_pod_log, "talker", NAMESPACE):
        seen.append(line)
        if len(seen) == 3:
            lines.stop()
    assert seen == ["line 1", "line 2", "line 3"], seen
    assert core.read_namespaced_pod_log("talker", NAMESPACE, tail_lines=1) == "line 3\n"

    command = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    said = stream(core.connect_get_namespaced_pod_exec, "talker", NAMESPACE, command=command,
                  stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False)
    said.run_forever(timeout=30)
    assert (said.read_stdout(), said.read_stderr(), said.returncode) == ("out\n", "err\n", 3)
    shell = stream(core.connect_get_namespaced_pod_exec, "talker", NAMESPACE, command=["cat"],
                   stdout=True, stderr=True, stdin=True, tty=False, _preload_content=False)
    shell.write_stdin("there and back\n")
    assert shell.readline_stdout(timeout=30) == "there and back"
    shell.close()

    core.delete_namespaced_pod("talker", NAMESPACE, grace_period_seconds=0)


def deployments():
    apps = client.AppsV1Api()
    spec = pod("web", "sleep", "100000")
    apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(
            replicas=1, selector=client.V1LabelSelector(match_labels={"app": "web"}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=spec.spec))))

    def available(count):
        events = watch.Watch().stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=60)
        until(events, lambda event: event["object"].status.available_replicas == count
              and event["object"].status.observed_generation == event["object"].metadata.generation)

    available(1)
    scale = apps.read_namespaced_deployment_scale("web", NAMESPACE)
    scale.spec.replicas = 2
    apps.replace_namespaced_deployment_scale("web", NAMESPACE, scale)
    available(2)
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
    utils.create_from_dict(client.ApiClient(), {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
    assert client.CoreV1Api().read_namespaced_service("web", NAMESPACE).spec.cluster_ip


def discovery():
    assert client.VersionApi().get_code().major == "1"
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io", "storage.k8s.io"} <= groups, groups
    resources = client.CoreV1Api().get_api_resources().resources
    assert {"pods", "pods/log", "pods/eviction"} <= {resource.name for resource in resources}


def end():
    core = client.CoreV1Api()
    version = core.read_namespace(NAMESPACE).metadata.resource_version
    core.delete_namespace(NAMESPACE)
    events = watch.Watch().stream(
        core.list_namespace, field_selector=f"metadata.name={NAMESPACE}", resource_version=version,
        timeout_seconds=60)
    until(events, lambda event: event["type"] == "DELETED")


config.load_kube_config()
for step in [discovery, objects, patches, watches, pods, deployments, end]:
    step()
    print("done:", step.__name__, flush=True)
# Threads of the client that still run would keep the test from ending.
assert all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate())
