//! Queries of lists, watches and single objects: selectors, continue tokens, versions, and what else there is.
#![no_main]

use fuzz::Cluster;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let query: String = input
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'&' | b'=' | b'%' | b'+' | b'-' | b'_' | b'.' => {
                char::from(*byte).to_string()
            }
            byte => format!("%{byte:02x}"),
        })
        .collect();
    Cluster::with(|cluster| {
        for path in [
            "/api/v1/pods",
            "/api/v1/namespaces/default/configmaps",
            "/apis/apps/v1/namespaces/default/deployments/d",
        ] {
            cluster.ask("GET", &format!("{path}?{query}"), "", &[]);
        }
    });
});
