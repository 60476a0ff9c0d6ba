//! Defaults of NetworkPolicies.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::text;

/// Defaults of a NetworkPolicy.
pub fn network_policy(policy: &mut NetworkPolicy) {
    let spec = policy.spec.get_or_insert_default();
    for port in spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten()) {
        text(&mut port.protocol, "TCP");
    }
    for port in spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten()) {
        text(&mut port.protocol, "TCP");
    }
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let mut types = vec!["Ingress".to_owned()];
        if spec.egress.as_ref().is_some_and(|egress| !egress.is_empty()) {
            types.push("Egress".to_owned());
        }
        spec.policy_types = Some(types);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn policies() {
        check(
            network_policy,
            json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 1}]}]}}),
            json!({"spec": {"policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"protocol": "TCP"}]}]}}),
        );
        check(network_policy, json!({"spec": {}}), json!({"spec": {"policyTypes": ["Ingress"]}}));
    }
}
