//! A pod's `/etc/resolv.conf`, by its DNS policy and configuration.

use std::fmt::Write as _;

use manifests::k8s_openapi::api::core::v1::Pod;

/// glibc reads no more.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What the cluster offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Addresses of the cluster's DNS; empty when there is none.
    pub servers: Vec<String>,
    /// For example `cluster.local`.
    pub domain: String,
}

/// The parts of a `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Addresses.
    pub nameservers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// For example `ndots:5`.
    pub options: Vec<String>,
}

/// A pod's configuration, and what had to be left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The file.
    pub conf: ResolvConf,
    /// Messages for DNSConfigForming events.
    pub warnings: Vec<String>,
    /// The pod wanted the cluster's DNS and there is none.
    pub missing_cluster_dns: bool,
}

impl ResolvConf {
    /// Reads a file as the resolver does: the last `search` line counts, unknown lines do not.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => conf.nameservers.extend(words.next()),
                Some("search" | "domain") => conf.searches = words.filter(|word| word != ".").collect(),
                Some("options") => conf.options = words.collect(),
                _ => {}
            }
        }
        conf
    }

    /// The file's content.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// The configuration of one pod; `host` is the node's own.
pub fn pod_resolv_conf(pod: &Pod, host: &ResolvConf, cluster: &DnsSettings) -> Resolved {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let wants_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    };
    let missing_cluster_dns = wants_cluster && cluster.servers.is_empty();
    let mut conf = match policy {
        "None" => ResolvConf::default(),
        _ if wants_cluster && !missing_cluster_dns => {
            let domain = &cluster.domain;
            let mut searches = Vec::new();
            if !domain.is_empty() {
                searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            }
            push_new(&mut searches, &host.searches);
            ResolvConf { nameservers: cluster.servers.clone(), searches, options: vec!["ndots:5".into()] }
        }
        _ => host.clone(),
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        push_new(&mut conf.nameservers, own.nameservers.as_deref().unwrap_or_default());
        push_new(&mut conf.searches, own.searches.as_deref().unwrap_or_default());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            let same = |old: &String| old.split(':').next() == Some(name);
            match conf.options.iter_mut().find(|old| same(old)) {
                Some(old) => *old = text,
                None => conf.options.push(text),
            }
        }
    }
    let warnings = fit(&mut conf);
    Resolved { conf, warnings, missing_cluster_dns }
}

fn push_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Cuts what the resolver would not read, and says so.
fn fit(conf: &mut ResolvConf) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut chars = 0;
    let fitting = conf
        .searches
        .iter()
        .take(MAX_SEARCHES)
        .take_while(|search| {
            chars += search.len() + 1;
            chars <= MAX_SEARCH_CHARS + 1
        })
        .count();
    if fitting < conf.searches.len() {
        conf.searches.truncate(fitting);
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            conf.searches.join(" ")
        ));
    }
    if conf.nameservers.len() > MAX_NAMESERVERS {
        conf.nameservers.truncate(MAX_NAMESERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            conf.nameservers.join(" ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn check(spec: &str, cluster: bool, expected: &str) -> Resolved {
        let pod = fixture::pod(&format!("{{{spec} containers: [{{name: a, image: i}}]}}"));
        let host =
            ResolvConf::parse("# from dhcp\nnameserver 192.0.2.53\nsearch example.org\noptions rotate\n");
        let cluster = DnsSettings {
            servers: if cluster { vec!["10.43.0.10".into()] } else { Vec::new() },
            domain: "cluster.local".into(),
        };
        let resolved = pod_resolv_conf(&pod, &host, &cluster);
        assert_eq!(resolved.conf.render(), expected, "{spec}");
        resolved
    }

    #[test]
    fn policies() {
        let cluster = "search default.svc.cluster.local svc.cluster.local cluster.local example.org\n\
                       nameserver 10.43.0.10\noptions ndots:5\n";
        let host = "search example.org\nnameserver 192.0.2.53\noptions rotate\n";
        check("", true, cluster);
        check("dnsPolicy: Default,", true, host);
        check("hostNetwork: true,", true, host);
        check("hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,", true, cluster);
        assert!(check("", false, host).missing_cluster_dns);
        check("dnsPolicy: None, dnsConfig: {nameservers: [1.1.1.1]},", true, "nameserver 1.1.1.1\n");
        check(
            "dnsConfig: {nameservers: [1.1.1.1], searches: [a.b], options: [{name: ndots, value: '2'}, {name: edns0}]},",
            true,
            "search default.svc.cluster.local svc.cluster.local cluster.local example.org a.b\n\
             nameserver 10.43.0.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
        );
        let resolved = check(
            "dnsPolicy: None, dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]},",
            true,
            "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\n",
        );
        assert_eq!(resolved.warnings.len(), 1);
    }
}
