use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn server() -> Subject {
    Subject {
        common_name: "kube-apiserver".to_owned(),
        dns_names: vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()],
        addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        ..Subject::default()
    }
}

#[test]
fn a_second_start_finds_what_the_first_made() {
    let directory = tempfile::tempdir().unwrap();
    let first = Pki::open(directory.path().join("pki")).unwrap();
    let pair = first.pair("apiserver", &server()).unwrap();
    let second = Pki::open(directory.path().join("pki")).unwrap();
    assert_eq!(second.ca(), first.ca());
    assert_eq!(second.pair("apiserver", &server()).unwrap(), pair);
    for name in ["ca.key", "ca.crt", "apiserver.key", "apiserver.crt"] {
        let mode = std::fs::metadata(directory.path().join("pki").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_certificate_is_made_again_when_it_does_not_fit() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(directory.path()).unwrap();
    let pair = pki.pair("apiserver", &server()).unwrap();

    let mut renamed = server();
    renamed.dns_names.push("other".to_owned());
    assert_ne!(pki.pair("apiserver", &renamed).unwrap().certificate, pair.certificate, "another name");

    let stranger = Pki::open(directory.path().join("other")).unwrap();
    assert!(!stranger.fits(&pair.certificate, &pair.key, &server(), SystemTime::now()), "another CA");
    let other = pki.issue("x", &server()).unwrap();
    assert!(!pki.fits(&pair.certificate, &other.key, &server(), SystemTime::now()), "another key");

    assert!(pki.fits(&pair.certificate, &pair.key, &server(), SystemTime::now() + LIFETIME / 2));
    assert!(
        !pki.fits(&pair.certificate, &pair.key, &server(), SystemTime::now() + LIFETIME * 4 / 5),
        "about to expire"
    );
}

#[test]
fn half_a_ca_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    Pki::open(directory.path()).unwrap();
    std::fs::remove_file(directory.path().join("ca.key")).unwrap();
    assert!(matches!(Pki::open(directory.path()), Err(PkiError::HalfCa { .. })));
}

#[test]
fn pairs_serve_and_connect() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::open(directory.path()).unwrap();
    let pair = pki.pair("apiserver", &server()).unwrap();
    pair.server_config(pki.ca(), false).unwrap();
    pair.client_config(pki.ca()).unwrap();
    let text = kubeconfig("https://127.0.0.1:6443", pki.ca(), "admin", &pair);
    let parsed: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(parsed["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(parsed["current-context"], "coracle");
}

#[test]
fn a_node_lives_on_what_it_was_given() {
    let (server, node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let subject = |name: &str| Subject {
        common_name: format!("system:node:{name}"),
        organization: Some("system:nodes".to_owned()),
        dns_names: vec![name.to_owned()],
        addresses: vec!["192.0.2.7".parse().unwrap()],
    };
    let authority = Pki::open(server.path()).unwrap();
    assert!(matches!(Pki::open_node(node.path()), Err(PkiError::NoCa { .. })));
    authority.pair("node", &subject("n2")).unwrap();
    for file in ["ca.crt", "node.crt", "node.key"] {
        std::fs::copy(server.path().join(file), node.path().join(file)).unwrap();
    }
    let pki = Pki::open_node(node.path()).unwrap();
    let pair = pki.pair("node", &subject("n2")).unwrap();
    assert_eq!(pair, authority.pair("node", &subject("n2")).unwrap());
    // For another name it would need the authority's key, and what is there stays.
    assert!(matches!(pki.pair("node", &subject("n3")), Err(PkiError::Unfit { .. })));
    assert_eq!(pki.pair("node", &subject("n2")).unwrap(), pair);
}
