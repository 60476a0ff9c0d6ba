//! Golden files of whole configurations, and tables of their parts. `UPDATE_GOLDEN=1 cargo test -p agent` rewrites the
//! files.

use std::path::Path;

use super::*;
use crate::fixture;

fn image() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/usr/bin:/bin".into(), "LANG=C".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into()],
        working_dir: Some("/srv".into()),
        user: String::new(),
        stop_signal: None,
    }
}

fn account() -> Account {
    Account { uid: 0, gid: 0, image_groups: vec![0, 10], home: "/root".into() }
}

/// A pod with one container `c`, of which `container` says the rest.
fn pod(pod_spec: &str, container: &str) -> Pod {
    fixture::pod(&format!("{{{pod_spec} containers: [{{name: c, image: i, {container}}}]}}"))
}

fn build(pod: &Pod, account: &Account, env: &[(&str, &str)]) -> Result<Spec, SpecError> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let volumes = BTreeMap::from([
        ("data".to_owned(), PathBuf::from("/pods/u1/volumes/data")),
        ("conf".to_owned(), PathBuf::from("/pods/u1/volumes/conf")),
    ]);
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let files = EtcFiles {
        hosts: Some("/pods/u1/etc/hosts".into()),
        hostname: Some("/pods/u1/etc/hostname".into()),
        resolv_conf: Some("/pods/u1/etc/resolv.conf".into()),
        termination_log: Some("/pods/u1/containers/c/0".into()),
    };
    spec(Input {
        pod,
        container,
        image: &image(),
        env: &env,
        hostname: "web",
        account,
        volumes: &volume_mounts(container, &volumes, &env).unwrap(),
        files: &files,
        seccomp: None,
        host_devices: &[],
        memory_capacity: 4 << 30,
    })
}

/// JSON with the sets in it sorted, so that it is the same every time.
fn stable(spec: &Spec) -> String {
    let mut value = serde_json::to_value(spec).unwrap();
    if let Some(sets) = value["process"]["capabilities"].as_object_mut() {
        for set in sets.values_mut() {
            set.as_array_mut().unwrap().sort_by_key(ToString::to_string);
        }
    }
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}

fn golden(name: &str, spec: &Spec) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/golden").join(name);
    let found = stable(spec);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{}:{}", path.display(), line + 1);
    }
    assert_eq!(found.len(), expected.len(), "{} is longer or shorter", path.display());
}

#[test]
fn plain_container() {
    golden("plain.json", &build(&pod("", ""), &account(), &[("K", "v")]).unwrap());
}

#[test]
fn container_with_everything() {
    let pod = pod(
        "securityContext: {supplementalGroups: [2000], fsGroup: 3000}, volumes: [{name: data, emptyDir: {}}, {name: conf, configMap: {name: c}}],",
        "command: [/bin/app, '--name=$(NAME)', '$$(NAME)'], args: [x], workingDir: /work, tty: true, \
         resources: {requests: {cpu: 250m, memory: 1Gi}, limits: {cpu: 500m, memory: 2Gi}}, \
         volumeMounts: [{name: conf, mountPath: /data/conf, readOnly: true}, {name: data, mountPath: /data, mountPropagation: HostToContainer}], \
         securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}",
    );
    let account = Account { uid: 1000, gid: 1000, image_groups: vec![], home: "/home/app".into() };
    golden("everything.json", &build(&pod, &account, &[("NAME", "web")]).unwrap());
}

#[test]
fn privileged_container() {
    let pod = pod("hostIPC: true,", "securityContext: {privileged: true}");
    golden("privileged.json", &build(&pod, &account(), &[]).unwrap());
}

#[test]
fn command_lines() {
    let env = [("A", "x")];
    for (container, expected) in [
        ("", "/entry serve"),
        ("args: [a]", "/entry a"),
        ("command: [b]", "b"),
        ("command: [b], args: [a]", "b a"),
        ("args: ['$(A)', '$(B)', '$$(A)']", "/entry x $(B) $(A)"),
    ] {
        let spec = build(&pod("", container), &account(), &env).unwrap();
        let args = spec.process().as_ref().unwrap().args().clone().unwrap();
        assert_eq!(args.join(" "), expected, "{container}");
    }
}

#[test]
fn users() {
    for (pod_context, container, image_user, expected) in [
        ("", "", "", ""),
        ("", "", "app", "app"),
        ("", "", "1000:1000", "1000:1000"),
        ("runAsUser: 7", "", "app", "7"),
        ("runAsUser: 7", "runAsUser: 8", "app", "8"),
        ("runAsGroup: 9", "runAsUser: 8", "app", "8 in 9"),
        ("runAsGroup: 9", "", "app:staff", "app in 9"),
        ("runAsGroup: 9", "", "", " in 9"),
    ] {
        let pod = pod(
            &format!("securityContext: {{{pod_context}}},"),
            &format!("securityContext: {{{container}}}"),
        );
        let image = ImageConfig { user: image_user.into(), ..image() };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let (user, group) = effective_user(&pod, container, &image);
        let group = group.map(|group| format!(" in {group}")).unwrap_or_default();
        assert_eq!(format!("{user}{group}"), expected);
    }
}

#[test]
fn root_is_refused_where_it_must_not_be() {
    for (context, image_user, expected) in [
        ("", "", None),
        ("runAsNonRoot: true", "1000", None),
        ("runAsNonRoot: true, runAsUser: 5", "", None),
        (
            "runAsNonRoot: true, runAsUser: 0",
            "1000",
            Some("container's runAsUser breaks non-root policy (pod: \"web_default(u1)\", container: c)"),
        ),
        (
            "runAsNonRoot: true",
            "",
            Some(
                "container has runAsNonRoot and image will run as root (pod: \"web_default(u1)\", container: c)",
            ),
        ),
        (
            "runAsNonRoot: true",
            "0:0",
            Some(
                "container has runAsNonRoot and image will run as root (pod: \"web_default(u1)\", container: c)",
            ),
        ),
        (
            "runAsNonRoot: true",
            "app",
            Some(
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: \"web_default(u1)\", container: c)",
            ),
        ),
    ] {
        let pod = pod("", &format!("securityContext: {{{context}}}"));
        let image = ImageConfig { user: image_user.into(), ..image() };
        let found = verify_run_as_non_root(&pod, &pod.spec.as_ref().unwrap().containers[0], &image);
        assert_eq!(found.err().map(|error| error.to_string()).as_deref(), expected, "{context} {image_user}");
    }
}

#[test]
fn capability_changes() {
    for (context, present, absent) in [
        ("", "CHOWN KILL", "SYS_ADMIN NET_ADMIN"),
        ("capabilities: {add: [NET_ADMIN]}", "NET_ADMIN CHOWN", "SYS_ADMIN"),
        ("capabilities: {add: [CAP_SYS_TIME]}", "SYS_TIME", ""),
        ("capabilities: {drop: [ALL]}", "", "CHOWN KILL"),
        ("capabilities: {drop: [ALL], add: [KILL]}", "KILL", "CHOWN"),
        ("capabilities: {add: [ALL], drop: [SYS_ADMIN]}", "NET_ADMIN", "SYS_ADMIN"),
        ("privileged: true", "SYS_ADMIN BPF", ""),
    ] {
        let pod = pod("", &format!("securityContext: {{{context}}}"));
        let set = capabilities(&pod.spec.as_ref().unwrap().containers[0]).unwrap();
        let has = |name: &str| set.contains(&name.parse().unwrap());
        assert!(present.split_whitespace().all(has), "{context}: {set:?}");
        assert!(!absent.split_whitespace().any(has), "{context}: {set:?}");
    }
    let pod = pod("", "securityContext: {capabilities: {add: [FLY]}}");
    let error = capabilities(&pod.spec.as_ref().unwrap().containers[0]).unwrap_err();
    assert_eq!(error.to_string(), "unknown capability \"FLY\"");
}

#[test]
fn every_known_capability_has_a_name() {
    let pod = pod("", "securityContext: {privileged: true}");
    assert_eq!(capabilities(&pod.spec.as_ref().unwrap().containers[0]).unwrap().len(), 41);
}

#[test]
fn seccomp_profiles() {
    for (pod_context, container, expected) in [
        ("", "", Some(SeccompChoice::RuntimeDefault)),
        ("seccompProfile: {type: Unconfined}", "", Some(SeccompChoice::Unconfined)),
        (
            "seccompProfile: {type: Unconfined}",
            "seccompProfile: {type: RuntimeDefault}",
            Some(SeccompChoice::RuntimeDefault),
        ),
        ("", "privileged: true", Some(SeccompChoice::Unconfined)),
        (
            "",
            "seccompProfile: {type: Localhost, localhostProfile: a/x.json}",
            Some(SeccompChoice::Localhost("a/x.json".into())),
        ),
        ("", "seccompProfile: {type: Localhost, localhostProfile: ../x.json}", None),
        ("", "seccompProfile: {type: Localhost, localhostProfile: /x.json}", None),
        ("", "seccompProfile: {type: Localhost}", None),
    ] {
        let pod = pod(
            &format!("securityContext: {{{pod_context}}},"),
            &format!("securityContext: {{{container}}}"),
        );
        let found = seccomp_choice(&pod, &pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(found.ok(), expected, "{pod_context} {container}");
    }
}

#[test]
fn sub_paths() {
    let env = BTreeMap::from([("POD".to_owned(), "web-0".to_owned())]);
    let volumes = BTreeMap::from([("v".to_owned(), PathBuf::from("/v"))]);
    for (mount, expected) in [
        ("", Ok(None)),
        ("subPath: a/b", Ok(Some("a/b"))),
        ("subPath: ''", Ok(None)),
        ("subPathExpr: logs/$(POD)", Ok(Some("logs/web-0"))),
        (
            "subPathExpr: $(NONE)",
            Err("subPathExpr \"$(NONE)\" refers to an environment variable that is not set"),
        ),
        ("subPath: ../x", Err("subPath \"../x\" must be relative and must not contain '..'")),
        ("subPath: /x", Err("subPath \"/x\" must be relative and must not contain '..'")),
    ] {
        let pod = pod("", &format!("volumeMounts: [{{name: v, mountPath: /m, {mount}}}]"));
        let found = volume_mounts(&pod.spec.as_ref().unwrap().containers[0], &volumes, &env);
        let found = found.map(|plans| plans[0].sub_path.clone()).map_err(|error| error.to_string());
        assert_eq!(found, expected.map(|path| path.map(str::to_owned)).map_err(str::to_owned), "{mount}");
    }
}
