//! Roles that are the sum of others: `admin`, `edit`, `view`, and whatever aggregates by labels.
//!
//! Follows upstream's controller: the sum is written into the role, so everybody can read it.

use std::sync::Arc;

use http::Method;
use manifests::k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use manifests::selector::Selector;
use serde_json::json;

use super::{GROUP, all};
use crate::server::ApiServer;

/// The rules that a role aggregates, if it does.
fn sum(role: &ClusterRole, others: &[ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let Ok(selector) = Selector::from_label_selector(Some(selector)) else { continue };
        for other in others.iter().filter(|other| other.metadata.name != role.metadata.name) {
            if !selector.matches(other.metadata.labels.as_ref().unwrap_or(&Default::default())) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

impl ApiServer {
    /// Keeps the sums right until the server stops.
    pub(crate) async fn aggregate_roles(self: Arc<Self>) {
        let Some(row) = self.registry.find(GROUP, "v1", "clusterroles").cloned() else { return };
        let mut changed = row.cache.subscribe();
        loop {
            changed.mark_unchanged();
            let roles: Vec<ClusterRole> = all(&self.registry, "clusterroles");
            for role in &roles {
                let Some(rules) = sum(role, &roles).filter(|rules| Some(rules) != role.rules.as_ref()) else {
                    continue;
                };
                if rules.is_empty() && role.rules.is_none() {
                    continue;
                }
                let name = role.metadata.name.as_deref().unwrap_or_default();
                let path = format!("/apis/{GROUP}/v1/clusterroles/{name}");
                let patch = json!({"metadata": {"uid": role.metadata.uid}, "rules": rules});
                // A role that is gone, or that somebody else wrote meanwhile, comes up again with its next change.
                if let Err(error) = self.ask(Method::PATCH, &path, &patch).await {
                    tracing::debug!(role = name, %error, "an aggregated role was not written");
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changed.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let role = |value: serde_json::Value| serde_json::from_value::<ClusterRole>(value).unwrap();
        let roles = [
            role(
                json!({"metadata": {"name": "a", "labels": {"to": "x"}}, "rules": [{"verbs": ["get"]}, {"verbs": ["list"]}]}),
            ),
            role(json!({"metadata": {"name": "b", "labels": {"to": "x"}}, "rules": [{"verbs": ["get"]}]})),
            role(json!({"metadata": {"name": "c", "labels": {"to": "y"}}, "rules": [{"verbs": ["watch"]}]})),
            role(json!({"metadata": {"name": "x", "labels": {"to": "x"}}, "rules": [{"verbs": ["delete"]}],
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}})),
        ];
        assert_eq!(sum(&roles[0], &roles), None);
        let verbs: Vec<String> =
            sum(&roles[3], &roles).unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
    }
}
