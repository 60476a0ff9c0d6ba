use std::path::{Path, PathBuf};

use super::*;

const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: admin
clusters:
- name: boat
  cluster:
    server: https://127.0.0.1:6443
    certificate-authority-data: aGVsbG8=
contexts:
- name: admin
  context: {cluster: boat, user: admin, namespace: work}
- name: nobody
  context: {cluster: boat}
- name: lost
  context: {cluster: ship, user: admin}
- name: plugin
  context: {cluster: boat, user: plugin}
- name: half
  context: {cluster: boat, user: half}
users:
- name: admin
  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}
- name: plugin
  user: {exec: {command: login}}
- name: half
  user: {client-certificate-data: Y2VydA==}
preferences: {}
";

fn config(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    Kubeconfig::from_text(text, Path::new("/etc/boat/kubeconfig"))
}

#[test]
fn resolves_the_current_context() {
    let config = config(TEXT).unwrap();
    let resolved = config.resolve(None).unwrap();
    assert_eq!(resolved.server, "https://127.0.0.1:6443");
    assert_eq!(resolved.certificate_authority.as_deref(), Some(&b"hello"[..]));
    assert_eq!(resolved.identity, Some((b"cert".to_vec(), b"key".to_vec())));
    assert_eq!(resolved.namespace.as_deref(), Some("work"));
    assert_eq!(config.resolve(Some("nobody")).unwrap().identity, None);
    assert_eq!(config.contexts().count(), 5);
}

fn check(text: &str, context: Option<&str>, expected: &str) {
    let error = config(text).and_then(|config| config.resolve(context)).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn errors_name_file_and_field() {
    check(
        TEXT,
        Some("lost"),
        "kubeconfig /etc/boat/kubeconfig: field contexts[2].context.cluster: cluster \"ship\" does not exist",
    );
    check(
        TEXT,
        Some("none"),
        "kubeconfig /etc/boat/kubeconfig: field contexts: context \"none\" does not exist",
    );
    check(
        TEXT,
        Some("plugin"),
        "kubeconfig /etc/boat/kubeconfig: field users[1].user.exec: credential plugins are not supported; use a token or a client certificate",
    );
    check(
        TEXT,
        Some("half"),
        "kubeconfig /etc/boat/kubeconfig: field users[2].user.client-key: is missing: a client certificate and its key belong together",
    );
    check(
        &TEXT.replace("aGVsbG8=", "'**'"),
        None,
        "kubeconfig /etc/boat/kubeconfig: field clusters[0].cluster.certificate-authority-data: is not base64: Invalid symbol 42, offset 0.",
    );
    check(
        &TEXT.replace("certificate-authority-data: aGVsbG8=", "certificate-authority: absent.crt"),
        None,
        "kubeconfig /etc/boat/kubeconfig: field clusters[0].cluster.certificate-authority: reading /etc/boat/absent.crt",
    );
    check(
        "clusters: [{name: 1, cluster: {server: [a]}}]",
        None,
        "kubeconfig /etc/boat/kubeconfig: field clusters[0].cluster.server",
    );
    check("", None, "kubeconfig /etc/boat/kubeconfig: field current-context: no context is chosen");
}

#[test]
fn the_first_file_of_a_list_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&first, "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n")
        .unwrap();
    std::fs::write(
        &second,
        "current-context: y\nclusters: [{name: c, cluster: {server: 'https://b', certificate-authority: ca.crt}}]\nusers: [{name: u, user: {tokenFile: token}}]\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("ca.crt"), "ca").unwrap();
    let absent = dir.path().join("absent");
    let config = Kubeconfig::from_files(&[absent.clone(), first, second]).unwrap();
    let resolved = config.resolve(None).unwrap();
    assert_eq!(config.current_context(), Some("x"));
    assert_eq!(resolved.certificate_authority.as_deref(), Some(&b"ca"[..]));
    assert_eq!(resolved.credentials, Credentials::TokenFile(dir.path().join("token")));

    let error = Kubeconfig::from_files(std::slice::from_ref(&absent)).unwrap_err();
    assert!(matches!(error, KubeconfigError::Missing { tried } if tried == [PathBuf::from(&absent)]));
}
