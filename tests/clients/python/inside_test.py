"""Runs in a pod: what the pod's token allows is allowed, and nothing else is."""

import json

from kubernetes import client, config
from kubernetes.client.rest import ApiException

config.load_incluster_config()
core = client.CoreV1Api()
with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
    namespace = file.read()

print("read:", core.read_namespaced_config_map("open", namespace).data["word"])
for verb, call in [
    ("delete", lambda: core.delete_namespaced_config_map("open", namespace)),
    ("list", lambda: core.list_namespaced_config_map(namespace)),
    ("get elsewhere", lambda: core.read_namespaced_config_map("open", "default")),
]:
    try:
        call()
        print(verb, "was allowed")
    except ApiException as error:
        status = json.loads(error.body)
        print(f"{verb}: {error.status} {status['reason']}: {status['message']}")
