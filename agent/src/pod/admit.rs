//! Whether a pod may run on this node at all: what the scheduler does not look at, or never saw. A pure function of the pod.

use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::decide::PodFailure;

/// Settings that end where their namespace ends, and so may be had by everybody.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Says why a pod cannot run here, if it cannot.
pub(super) fn refuse(pod: &Pod) -> Option<PodFailure> {
    let spec = pod.spec.as_ref()?;
    let os = spec.os.as_ref().map(|os| os.name.as_str()).filter(|os| *os != "linux");
    if os.is_some() {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(PodFailure::rejected("PodOSNotSupported", message));
    }
    let message = format!("forbidden sysctl: {}", forbidden_sysctl(spec)?);
    Some(PodFailure::rejected("SysctlForbidden", &message))
}

fn forbidden_sysctl(spec: &PodSpec) -> Option<String> {
    let sysctls = spec.security_context.as_ref()?.sysctls.as_ref()?;
    sysctls.iter().find_map(|sysctl| {
        let name = dotted(&sysctl.name);
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Some(format!("{} not allowlisted", quote(&sysctl.name)));
        }
        let (shared, namespace) = match name.starts_with("net.") {
            true => (spec.host_network, "net"),
            false => (spec.host_ipc, "ipc"),
        };
        (shared == Some(true))
            .then(|| format!("{} not allowed with host {namespace} enabled", quote(&sysctl.name)))
    })
}

/// Slashes may separate the parts too; then dots are part of a name.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']).and_then(|first| name.as_bytes().get(first)) {
        Some(b'/') => {
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[track_caller]
    fn check(spec: &str, expected: Option<(&str, &str)>) {
        let pod = fixture::pod(&format!("{{containers: [{{name: a, image: i}}], {spec}}}"));
        let found = refuse(&pod);
        let found = found.as_ref().map(|failure| (failure.reason.as_str(), failure.message.as_str()));
        assert_eq!(found, expected, "{spec}");
    }

    #[test]
    fn what_does_not_belong_here() {
        check("restartPolicy: Always", None);
        check("os: {name: linux}", None);
        check(
            "os: {name: windows}",
            Some((
                "PodOSNotSupported",
                "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS",
            )),
        );
        let sysctl = |name: &str, more: &str| {
            format!("securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}}{more}")
        };
        check(&sysctl("kernel.shm_rmid_forced", ""), None);
        check(&sysctl("net/ipv4/tcp_syncookies", ""), None);
        check(
            &sysctl("kernel.msgmax", ""),
            Some((
                "SysctlForbidden",
                "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
            )),
        );
        check(
            &sysctl("net.ipv4.tcp_syncookies", ", hostNetwork: true"),
            Some((
                "SysctlForbidden",
                "Pod was rejected: forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled",
            )),
        );
    }
}
