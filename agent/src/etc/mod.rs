//! The files under `/etc` that a pod's containers are given: `hosts`, `hostname`, `resolv.conf`.

mod hosts;
mod resolv;

pub use hosts::{HostnameTooLong, PodHostname, hostname, hosts_file};
pub use resolv::{DnsSettings, ResolvConf, Resolved, pod_resolv_conf};
