//! Kubeconfig files, with everything in them, so that one file is all that a client needs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Pair;

/// A kubeconfig whose certificate and key are in a file, which is replaced when the certificate is renewed.
pub fn kubeconfig_of_file(server: &str, ca: &str, user: &str, identity: &std::path::Path) -> String {
    let ca = STANDARD.encode(ca);
    let (server, user, file) =
        (serde_json::json!(server), serde_json::json!(user), serde_json::json!(identity.to_string_lossy()));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: coracle\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate: {file}\n    \
         client-key: {file}\ncontexts:\n- name: coracle\n  context:\n    cluster: coracle\n    user: {user}\n\
         current-context: coracle\n"
    )
}

/// A kubeconfig for one server and one user, as text.
pub fn kubeconfig(server: &str, ca: &str, user: &str, pair: &Pair) -> String {
    let (ca, certificate, key) =
        (STANDARD.encode(ca), STANDARD.encode(&pair.certificate), STANDARD.encode(&pair.key));
    // Names and URLs are ours; a JSON string is a YAML string, whatever is in it.
    let (server, user) = (serde_json::json!(server), serde_json::json!(user));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: coracle\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\ncontexts:\n- name: coracle\n  context:\n    cluster: coracle\n    user: {user}\n\
         current-context: coracle\n"
    )
}
