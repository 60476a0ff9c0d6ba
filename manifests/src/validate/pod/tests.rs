use serde_json::{Value, json};

use super::super::tests::{check, check_update, namespaced};
use super::*;
use crate::default;

/// A defaulted pod with changes to its spec.
fn with(changes: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "a", "image": "a"}]});
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut object: Pod = serde_json::from_value(namespaced(json!({ "spec": spec }))).unwrap();
    default::pod(&mut object);
    serde_json::to_value(&object).unwrap()
}

/// A defaulted pod with changes to its only container.
fn container(changes: Value) -> Value {
    let mut container = json!({"name": "a", "image": "a"});
    for (key, value) in changes.as_object().unwrap() {
        container[key] = value.clone();
    }
    with(
        json!({ "containers": [container], "volumes": [{"name": "v"}, {"name": "c", "persistentVolumeClaim": {"claimName": "c"}}] }),
    )
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn specs() {
    check(pod, with(json!({})), &[]);
    check(pod, with(json!({"containers": []})), &["spec.containers: Required value"]);
    check(
        pod,
        with(
            json!({"restartPolicy": "Sometimes", "dnsPolicy": "Other", "hostname": "a.b", "activeDeadlineSeconds": 0}),
        ),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsPolicy: Unsupported value: \"Other\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
        ],
    );
    check(
        pod,
        with(json!({"dnsPolicy": "None"})),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    check(
        pod,
        with(
            json!({"dnsConfig": {"nameservers": ["x"], "searches": ["a.b.", "."], "options": [{"value": "1"}]}}),
        ),
        &[
            "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ],
    );
    check(
        pod,
        with(json!({"nodeName": "n", "schedulingGates": [{"name": "a"}, {"name": "a"}]})),
        &[
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
    check(
        pod,
        with(json!({"hostUsers": false, "hostPID": true, "shareProcessNamespace": true})),
        &[
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
            "spec.HostPID: Forbidden: when `hostUsers` is false",
        ],
    );
    check(
        pod,
        with(json!({"hostAliases": [{"ip": "1.2.3", "hostnames": ["A"]}], "os": {"name": "plan9"}})),
        &[
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ],
    );
    check(
        pod,
        with(
            json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{"name": "a", "image": "a", "resources": {"requests": {"cpu": "2"}}}]}),
        ),
        &[
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ],
    );
}

#[test]
fn names_of_the_host() {
    check(pod, with(json!({"hostnameOverride": "a.b"})), &[]);
    check(
        pod,
        with(json!({"hostnameOverride": "a", "hostNetwork": true, "setHostnameAsFQDN": true})),
        &[
            "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
            "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
        ],
    );
    check(
        pod,
        with(json!({"hostnameOverride": "a".repeat(65)})),
        &["spec.hostnameOverride: Too long: may not be more than 64 bytes"],
    );
}

#[test]
fn stop_signals() {
    let with_signal = |signal: &str, os: Value| {
        let container = json!({"name": "a", "image": "a", "lifecycle": {"stopSignal": signal}});
        with(json!({"containers": [container], "os": os}))
    };
    check(pod, with_signal("SIGQUIT", json!({"name": "linux"})), &[]);
    check(pod, with_signal("SIGRTMIN+3", json!({"name": "linux"})), &[]);
    check(
        pod,
        with_signal("SIGQUIT", Value::Null),
        &[
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        ],
    );
    check(
        pod,
        with_signal("QUIT", json!({"name": "windows"})),
        &[
            "spec.containers[0].lifecycle.stopSignal: Unsupported value: \"QUIT\": supported values: \"SIGKILL\", \"SIGTERM\"",
        ],
    );
}

#[test]
fn containers() {
    check(
        pod,
        with(
            json!({"containers": [{"name": "A", "image": ""}, {"name": "b", "image": " b "}, {"name": "b", "image": "b"}]}),
        ),
        &[
            &format!("spec.containers[0].name: Invalid value: \"A\": {LABEL}"),
            "spec.containers[0].image: Required value",
            "spec.containers[2].name: Duplicate value: \"b\"",
            "spec.containers[1].image: Invalid value: \" b \": must not have leading or trailing whitespace",
        ],
    );
    check(
        pod,
        container(
            json!({"imagePullPolicy": "Maybe", "terminationMessagePolicy": "Log", "restartPolicy": "Always"}),
        ),
        &[
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Log\": supported values: \"File\", \"FallbackToLogsOnError\"",
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            "spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers",
        ],
    );
    check(
        pod,
        container(json!({"ports": [
            {"containerPort": 0}, {"containerPort": 70000, "name": "toolongforaportname"},
            {"containerPort": 1, "hostPort": 5, "name": "a"}, {"containerPort": 2, "hostPort": 5, "name": "a", "protocol": "X"},
            {"containerPort": 3, "hostPort": 5},
        ]})),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].name: Invalid value: \"toolongforaportname\": must be no more than 15 characters",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[3].name: Duplicate value: \"a\"",
            "spec.containers[0].ports[3].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.containers[0].ports[4].hostPort: Duplicate value: \"TCP//5\"",
        ],
    );
    check(
        pod,
        with(
            json!({"hostNetwork": true, "containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 1, "hostPort": 2}]}]}),
        ),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true",
        ],
    );
}

#[test]
fn init_containers() {
    check(
        pod,
        with(json!({"initContainers": [
            {"name": "a", "image": "a"},
            {"name": "b", "image": "b", "livenessProbe": {"exec": {"command": ["a"]}}},
            {"name": "c", "image": "c", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["a"]}}},
            {"name": "d", "image": "d", "restartPolicy": "Never"},
        ]})),
        &[
            "spec.initContainers[0].name: Duplicate value: \"a\"",
            "spec.initContainers[1].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            "spec.initContainers[3].restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
    check(
        pod,
        with(
            json!({"ephemeralContainers": [{"name": "e", "image": "e", "ports": [{"containerPort": 1}], "targetContainerName": "x"}]}),
        ),
        &[
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}

#[test]
fn environment() {
    check(
        pod,
        container(json!({"env": [
            {"name": ""}, {"name": "A=B"}, {"name": "fine name.1"},
            {"name": "C", "valueFrom": {}},
            {"name": "D", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}},
            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}},
            {"name": "G", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "H", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}},
            {"name": "I", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}},
            {"name": "J", "valueFrom": {"configMapKeyRef": {"name": "m", "key": ""}, "secretKeyRef": {"name": "s", "key": "k"}}},
        ]})),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            "spec.containers[0].env[4].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[6].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nothing\": error converting fieldPath: field label not supported: spec.nothing",
            "spec.containers[0].env[8].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
            "spec.containers[0].env[9].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            "spec.containers[0].env[10].valueFrom.configMapKeyRef.key: Required value",
            "spec.containers[0].env[10].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
        ],
    );
    check(
        pod,
        container(json!({"envFrom": [{}, {"secretRef": {"name": "s"}, "prefix": "A_"}]})),
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ],
    );
}

#[test]
fn probes() {
    check(
        pod,
        container(json!({
            "livenessProbe": {"successThreshold": 2, "httpGet": {"port": 0, "scheme": "FTP", "httpHeaders": [{"name": "X Y", "value": ""}]}},
            "readinessProbe": {"exec": {}, "tcpSocket": {"port": "http"}, "periodSeconds": -1, "terminationGracePeriodSeconds": 1},
            "startupProbe": {},
            "lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "postStart": {}},
        })),
        &[
            "spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            "spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: \"X Y\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.exec.command: Required value",
            "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
            "spec.containers[0].startupProbe: Required value: must specify a handler type",
        ],
    );
}

#[test]
fn volumes() {
    check(
        pod,
        with(json!({"volumes": [
            {"name": "a"}, {"name": "a"}, {"name": ""},
            {"name": "b", "emptyDir": {}, "hostPath": {"path": "/"}},
            {"name": "c", "hostPath": {"path": "/a/../b", "type": "Odd"}},
            {"name": "d", "secret": {"defaultMode": 512, "items": [{"key": "", "path": "/a"}, {"key": "k", "path": "..a"}]}},
            {"name": "e", "configMap": {}},
            {"name": "f", "downwardAPI": {"items": [{"path": "x"}, {"path": "y", "resourceFieldRef": {"resource": "limits.cpu"}}]}},
            {"name": "g", "projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}, {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}, {"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}},
            {"name": "h", "nfs": {"server": "", "path": "p"}},
        ]})),
        &[
            "spec.volumes[1].name: Duplicate value: \"a\"",
            "spec.volumes[2].name: Required value",
            "spec.volumes[3].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[4].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[4].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            "spec.volumes[5].secret.secretName: Required value",
            "spec.volumes[5].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[5].secret.items[0].key: Required value",
            "spec.volumes[5].secret.items[0].path: Invalid value: \"/a\": must be a relative path",
            "spec.volumes[5].secret.items[1].path: Invalid value: \"..a\": must not start with '..'",
            "spec.volumes[6].configMap.name: Required value",
            "spec.volumes[7].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            "spec.volumes[7].downwardAPI.resourceFieldRef.containerName: Required value",
            "spec.volumes[8].projected: Invalid value: \"m\": conflicting duplicate paths",
            "spec.volumes[8].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            "spec.volumes[9].nfs.server: Required value",
            "spec.volumes[9].nfs.path: Invalid value: \"p\": must be an absolute path",
            "spec.volumes[8].projected.sources[2].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ],
    );
    check(
        pod,
        container(json!({
            "volumeMounts": [
                {"name": "x", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "", "subPath": "../x"},
                {"name": "v", "mountPath": "/d", "subPath": "a", "subPathExpr": "b", "mountPropagation": "Bidirectional"},
                {"name": "v", "mountPath": "/e", "recursiveReadOnly": "Enabled"},
            ],
            "volumeDevices": [{"name": "c", "devicePath": "/dev/c"}, {"name": "v", "devicePath": "/a"}],
        })),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
            "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a\": must not already exist as a path in volumeDevices",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts[1].name: Invalid value: \"v\": must not already exist in volumeDevices",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must not already exist as a path in volumeDevices",
            "spec.containers[0].volumeMounts[2].mountPath: Required value",
            "spec.containers[0].volumeMounts[2].name: Invalid value: \"v\": must not already exist in volumeDevices",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
            "spec.containers[0].volumeMounts[3].name: Invalid value: \"v\": must not already exist in volumeDevices",
            "spec.containers[0].volumeMounts[3].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            "spec.containers[0].volumeMounts[4].name: Invalid value: \"v\": must not already exist in volumeDevices",
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            "spec.containers[0].volumeDevices[1].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            "spec.containers[0].volumeDevices[1].name: Invalid value: \"v\": must not already exist in volumeMounts",
            "spec.containers[0].volumeDevices[1].devicePath: Invalid value: \"/a\": must not already exist as a path in volumeMounts",
        ],
    );
}

#[test]
fn security() {
    check(
        pod,
        with(json!({"securityContext": {
            "runAsUser": -1, "fsGroup": 3_000_000_000_i64, "supplementalGroups": [1, -5], "fsGroupChangePolicy": "Never",
            "seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "RuntimeDefault", "localhostProfile": "x"},
            "sysctls": [{"name": "net.core.somaxconn", "value": "1"}, {"name": "net/core/somaxconn", "value": "1"}, {"name": "Bad", "value": ""}],
        }})),
        &[
            "spec.securityContext.fsGroup: Invalid value: 3000000000: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.supplementalGroups[1]: Invalid value: -5: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.sysctls[2].name: Invalid value: \"Bad\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set when AppArmor type is Localhost",
        ],
    );
    check(
        pod,
        container(
            json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked", "seccompProfile": {"type": ""}}}),
        ),
        &[
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
            "spec.containers[0].securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true,\"procMount\":\"Unmasked\",\"seccompProfile\":{\"type\":\"\"}}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
}

#[test]
fn placement() {
    check(
        pod,
        with(json!({
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}, {"key": "a", "operator": "Is"}, {"key": "a", "tolerationSeconds": 1}, {"operator": "Equal"}, {"key": "a", "effect": "Go"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []},
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "preference": {"matchFields": [{"key": "a", "operator": "Gt"}]}}],
                },
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "", "labelSelector": {}}]},
            },
            "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "Cry", "minDomains": 1}],
        })),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].operator: Invalid value: \"Gt\": not a valid selector operator",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].key: Invalid value: \"a\": not a valid field selector key",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part must be non-empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Cry\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not Cry",
            "spec.tolerations[1].operator: Unsupported value: \"Is\": supported values: \"Equal\", \"Exists\"",
            "spec.tolerations[2].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "spec.tolerations[3].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[4].effect: Unsupported value: \"Go\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
}

#[test]
fn annotations() {
    let mut object = with(json!({}));
    object["metadata"]["annotations"] =
        json!({"kubernetes.io/config.mirror": "x", "controller.kubernetes.io/pod-deletion-cost": "+1"});
    check(
        pod,
        object,
        &[
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
        ],
    );
}

#[test]
fn updates() {
    check_update(pod_update, with(json!({})), with(json!({"hostNetwork": false, "tolerations": []})), &[]);
    check_update(
        pod_update,
        with(json!({"containers": [{"name": "a", "image": "b"}], "activeDeadlineSeconds": 5})),
        with(
            json!({"containers": [{"name": "a", "image": "a", "imagePullPolicy": "Always"}], "activeDeadlineSeconds": 10}),
        ),
        &[],
    );
    check_update(
        pod_update,
        with(json!({"activeDeadlineSeconds": 11})),
        with(json!({"activeDeadlineSeconds": 10})),
        &["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"],
    );
    check_update(
        pod_update,
        with(json!({"containers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]})),
        with(json!({})),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check_update(
        pod_update,
        with(
            json!({"hostname": "b", "tolerations": [{"operator": "Exists", "tolerationSeconds": 5, "effect": "NoExecute"}]}),
        ),
        with(json!({"hostname": "a", "tolerations": [{"operator": "Exists", "effect": "NoExecute"}]})),
        &[
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n  spec.hostname: \"a\" -> \"b\"",
        ],
    );
    check_update(
        pod_update,
        with(json!({})),
        with(json!({"tolerations": [{"operator": "Exists"}]})),
        &[
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ],
    );
    check_update(
        pod_update,
        with(json!({"schedulingGates": [{"name": "b"}], "nodeSelector": {"a": "b", "c": "d"}})),
        with(json!({"schedulingGates": [{"name": "a"}], "nodeSelector": {"a": "b"}})),
        &[
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'",
        ],
    );
}

#[test]
fn status_updates() {
    let status = |spec: Value, status: Value| {
        let mut object = with(spec);
        object["status"] = status;
        object
    };
    let ended = json!({"containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0}}}], "qosClass": "BestEffort"});
    let running =
        json!({"containerStatuses": [{"name": "a", "state": {"running": {}}}], "qosClass": "BestEffort"});
    check_update(
        pod_status_update,
        status(json!({}), running.clone()),
        status(json!({}), ended.clone()),
        &[],
    );
    check_update(
        pod_status_update,
        status(json!({"restartPolicy": "OnFailure"}), running),
        status(json!({"restartPolicy": "OnFailure"}), ended.clone()),
        &["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"],
    );
    check_update(
        pod_status_update,
        status(
            json!({"nodeName": "n"}),
            json!({"qosClass": "Burstable", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "hostIPs": [{"ip": "10.1.0.1"}]}),
        ),
        status(json!({}), ended),
        &[
            "status.nodeName: Forbidden: may not be changed directly",
            "status.qosClass: Invalid value: \"Burstable\": field is immutable",
            "status.podIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
            "status.hostIPs[0].ip: Invalid value: \"10.1.0.1\": must be equal to `hostIP`",
        ],
    );
}

#[test]
fn ephemeral_containers() {
    let with = |containers: Value| with(json!({ "ephemeralContainers": containers }));
    let first = json!({"name": "first", "image": "a"});
    let second = json!({"name": "second", "image": "a"});
    check_update(pod_ephemeral_containers_update, with(json!([second, first])), with(json!([first])), &[]);
    check_update(
        pod_ephemeral_containers_update,
        with(json!([{"name": "second", "image": "b"}])),
        with(json!([first, second])),
        &[
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"first\" may not be removed\n",
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"second\" may not be changed\n  ephemeralContainers[second].image: \"a\" -> \"b\"",
        ],
    );
    let mut of_a_file = with(json!([]));
    of_a_file["metadata"]["annotations"] = json!({ MIRROR: "x" });
    check_update(
        pod_ephemeral_containers_update,
        of_a_file.clone(),
        of_a_file,
        &[": Forbidden: static pods do not support ephemeral containers"],
    );
}

#[test]
fn resizes() {
    let sized = |resources: Value| {
        with(json!({
            "containers": [{"name": "a", "image": "i", "resources": resources}],
            "initContainers": [{"name": "first", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
        }))
    };
    let old = || sized(json!({"requests": {"cpu": "100m", "memory": "1Mi"}, "limits": {"memory": "2Mi"}}));
    let more =
        sized(json!({"requests": {"cpu": "2", "memory": "2Mi"}, "limits": {"memory": "3Mi", "cpu": "3"}}));
    check_update(pod_resize_update, more, old(), &[]);
    check_update(
        pod_resize_update,
        sized(json!({"requests": {"cpu": "100m"}})),
        old(),
        &[
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ],
    );
    let mut other = old();
    other["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    other["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = json!("2");
    check_update(
        pod_resize_update,
        other,
        old(),
        &[
            "spec: Forbidden: resources for non-sidecar init containers are immutable",
            "spec: Forbidden: only cpu and memory resources are mutable",
        ],
    );
    let plain =
        |resources: Value| with(json!({"containers": [{"name": "a", "image": "i", "resources": resources}]}));
    check_update(
        pod_resize_update,
        plain(json!({"requests": {"cpu": "1"}})),
        plain(json!({})),
        &["spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing"],
    );
    let mut of_a_file = old();
    of_a_file["metadata"]["annotations"] = json!({ MIRROR: "x" });
    check_update(
        pod_resize_update,
        of_a_file.clone(),
        of_a_file,
        &[": Forbidden: static pods cannot be resized"],
    );
    // Nothing but resources is taken from a request.
    let spec = |value: Value| serde_json::from_value::<PodSpec>(value).unwrap();
    let wanted = spec(
        json!({"hostname": "h", "containers": [{"name": "b"}, {"name": "a", "image": "x", "resources": {"limits": {"cpu": "1"}}}]}),
    );
    let made = pod_resize(&spec(json!({"containers": [{"name": "a", "image": "i"}]})), Some(&wanted));
    assert_eq!(
        made,
        spec(json!({"containers": [{"name": "a", "image": "i", "resources": {"limits": {"cpu": "1"}}}]}))
    );
}

#[test]
fn bindings() {
    let target = |target: Value| json!({"metadata": {"name": "a"}, "target": target});
    check(pod_binding, target(json!({"kind": "Node", "name": "n"})), &[]);
    check(
        pod_binding,
        target(json!({"kind": "Rack"})),
        &[
            "target.kind: Unsupported value: \"Rack\": supported values: \"Node\", \"<empty>\"",
            "target.name: Required value",
        ],
    );
}
