//! Kernel parameters that belong to a namespace.

use super::text::Text;
use super::{Refusal, refuse, text};

/// Which namespaces are the asker's own, and so may be tuned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) network: bool,
    pub(crate) ipc: bool,
    pub(crate) uts: bool,
}

/// Parameters of IPC namespaces outside `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The file below /proc/sys for a parameter that belongs to one of the asker's own namespaces. Everything else
/// would change the host.
pub(crate) fn file(field: &str, key: &str, own: Own) -> Result<Text, Refusal> {
    // `net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` name the same file: whichever separator comes first
    // is the separator, the other one is part of a name.
    let slashed =
        matches!((key.find('/'), key.find('.')), (Some(slash), dot) if dot.is_none_or(|dot| slash < dot));
    let path: String = if slashed {
        key.to_owned()
    } else {
        key.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    };
    let dotted = path.replace('/', ".");
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse(field, "is not the name of a kernel parameter");
    }
    let (what, allowed) = if dotted.starts_with("net.") {
        ("network", own.network)
    } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
        ("IPC", own.ipc)
    } else if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        ("UTS", own.uts)
    } else {
        return refuse(field, "does not belong to a namespace of the container");
    };
    if !allowed {
        return refuse(field, format!("belongs to the {what} namespace, which is not the container's own"));
    }
    text(field, &format!("/proc/sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_own_namespaces_are_written() {
        let check = |key: &str, network: bool, expected: Option<&str>| {
            let path =
                file("sysctl", key, Own { network, ipc: true, uts: false }).ok().map(|path| path.to_string());
            assert_eq!(path.as_deref(), expected, "{key}");
        };
        check("net.ipv4.ip_forward", true, Some("/proc/sys/net/ipv4/ip_forward"));
        check("net.ipv4.ip_forward", false, None);
        check("net.ipv4.conf.eth0/1.rp_filter", true, Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter"));
        check("net/ipv4/conf/eth0.1/rp_filter", true, Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter"));
        check("kernel.shmmax", false, Some("/proc/sys/kernel/shmmax"));
        check("fs.mqueue.msg_max", false, Some("/proc/sys/fs/mqueue/msg_max"));
        // The way to root on the host that this list is about.
        check("kernel.core_pattern", true, None);
        check("vm.overcommit_memory", true, None);
        check("net.../../kernel.core_pattern", true, None);
        check("net/../kernel/core_pattern", true, None);
        check("", true, None);
    }
}
