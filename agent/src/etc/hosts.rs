//! A pod's host name and its managed `/etc/hosts`.

use std::fmt::Write as _;

use manifests::k8s_openapi::api::core::v1::{HostAlias, Pod};

/// The longest host name that the kernel keeps.
const MAX_HOSTNAME: usize = 64;
/// The longest DNS label; a pod's name that is longer is cut.
const MAX_LABEL: usize = 63;

/// A pod's name for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodHostname {
    /// What the kernel is told.
    pub hostname: String,
    /// The short name, which stands in `/etc/hosts`.
    pub label: String,
    /// `<subdomain>.<namespace>.svc.<cluster domain>`, if the pod has a subdomain.
    pub domain: Option<String>,
}

/// A name that the kernel would not keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_HOSTNAME} characters is the max, {} characters requested)", fqdn.len())]
pub struct HostnameTooLong {
    /// The whole name.
    pub fqdn: String,
}

/// The host name of a pod; a pod on the host's network has the node's.
pub fn hostname(pod: &Pod, node_hostname: &str, domain: &str) -> Result<PodHostname, HostnameTooLong> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
        let label = node_hostname.to_owned();
        return Ok(PodHostname { hostname: label.clone(), label, domain: None });
    }
    let given = spec.and_then(|spec| spec.hostname.as_deref()).filter(|given| !given.is_empty());
    let label = given.map_or_else(|| truncate(name), str::to_owned);
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|given| !given.is_empty());
    let domain = subdomain.map(|subdomain| format!("{subdomain}.{namespace}.svc.{domain}"));
    let as_fqdn = spec.and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false);
    let hostname = match &domain {
        Some(domain) if as_fqdn => {
            let fqdn = format!("{label}.{domain}");
            if fqdn.len() > MAX_HOSTNAME {
                return Err(HostnameTooLong { fqdn });
            }
            fqdn
        }
        _ => label.clone(),
    };
    Ok(PodHostname { hostname, label, domain })
}

/// A label may neither be longer than 63 characters nor end in `-` or `.` after it was cut.
fn truncate(name: &str) -> String {
    if name.len() <= MAX_LABEL {
        return name.to_owned();
    }
    // Pod names are ASCII, so every byte is a character.
    let cut = name.get(..MAX_LABEL).unwrap_or(name);
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The content of `/etc/hosts`. `host_file` is the node's own, for pods on the host's network.
pub fn hosts_file(pod: &Pod, name: &PodHostname, pod_ips: &[String], host_file: Option<&str>) -> String {
    let mut text = String::new();
    match host_file {
        Some(host) => {
            text.push_str("# Kubernetes-managed hosts file (host network).\n");
            text.push_str(host);
        }
        None => {
            text.push_str(
                "# Kubernetes-managed hosts file.\n\
                 127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\n\
                 fe00::0\tip6-mcastprefix\n\
                 fe00::1\tip6-allnodes\n\
                 fe00::2\tip6-allrouters\n",
            );
            for ip in pod_ips {
                let _ = match &name.domain {
                    Some(domain) => writeln!(text, "{ip}\t{}.{domain}\t{}", name.label, name.label),
                    None => writeln!(text, "{ip}\t{}", name.label),
                };
            }
        }
    }
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    push_aliases(&mut text, aliases);
    text
}

fn push_aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn check(spec: &str, name: &str, expected: Result<(&str, &str, Option<&str>), ()>) {
        let mut pod = fixture::pod(&format!("{{{spec} containers: [{{name: a, image: i}}]}}"));
        pod.metadata.name = Some(name.to_owned());
        let found = hostname(&pod, "node-1", "cluster.local");
        let found = found.as_ref().map(|n| (n.hostname.as_str(), n.label.as_str(), n.domain.as_deref()));
        assert_eq!(found.map_err(|_| ()), expected, "{spec} {name}");
    }

    #[test]
    fn names() {
        let long = format!("{}-{}", "a".repeat(62), "b");
        check("", "web", Ok(("web", "web", None)));
        check("", &long, Ok((&long[..62], &long[..62], None)));
        check("hostname: h, subdomain: s,", "web", Ok(("h", "h", Some("s.default.svc.cluster.local"))));
        check(
            "subdomain: s, setHostnameAsFQDN: true,",
            "web",
            Ok(("web.s.default.svc.cluster.local", "web", Some("s.default.svc.cluster.local"))),
        );
        check("subdomain: s, setHostnameAsFQDN: true,", &"x".repeat(50), Err(()));
        check("hostNetwork: true, hostname: h,", "web", Ok(("node-1", "node-1", None)));
    }

    #[test]
    fn files() {
        let pod = fixture::pod(
            "{subdomain: s, hostAliases: [{ip: 192.0.2.7, hostnames: [db, db.example]}], containers: [{name: a, image: i}]}",
        );
        let name = hostname(&pod, "n", "cluster.local").unwrap();
        let text = hosts_file(&pod, &name, &["10.42.0.5".into()], None);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("\n10.42.0.5\tweb.s.default.svc.cluster.local\tweb\n"), "{text}");
        assert!(text.ends_with("\n\n# Entries added by HostAliases.\n192.0.2.7\tdb\tdb.example\n"), "{text}");

        let text = hosts_file(&pod, &name, &[], Some("127.0.0.1 me\n"));
        assert!(
            text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n"),
            "{text}"
        );
    }
}
