//! What a rule allows, and whether some rules allow all that others do.
//!
//! Follows `k8s.io/kubernetes/pkg/apis/rbac` and `k8s.io/component-helpers/auth/rbac/validation`.

use manifests::k8s_openapi::api::rbac::v1::PolicyRule;

use crate::authorize::Action;

fn has(list: Option<&Vec<String>>, wanted: &str) -> bool {
    list.is_some_and(|list| list.iter().any(|have| have == "*" || have == wanted))
}

/// Whether a rule allows something to be done to a resource.
pub(crate) fn allows(rule: &PolicyRule, action: &Action<'_>) -> bool {
    rule.verbs.iter().any(|verb| verb == "*" || verb == action.verb)
        && has(rule.api_groups.as_ref(), action.group)
        && rule
            .resources
            .iter()
            .flatten()
            .any(|have| resource_matches(have, action.resource, action.subresource))
        && name_matches(rule, action.name)
}

fn resource_matches(have: &str, resource: &str, subresource: &str) -> bool {
    match (have.split_once('/'), subresource.is_empty()) {
        _ if have == "*" => true,
        (None, true) => have == resource,
        (Some((of, below)), false) => (of == "*" || of == resource) && below == subresource,
        _ => false,
    }
}

fn name_matches(rule: &PolicyRule, name: &str) -> bool {
    rule.resource_names.as_ref().is_none_or(|names| names.is_empty() || names.iter().any(|have| have == name))
}

/// Whether a rule allows a path that is not a resource to be read.
pub(crate) fn allows_path(rule: &PolicyRule, verb: &str, path: &str) -> bool {
    rule.verbs.iter().any(|have| have == "*" || have == verb)
        && rule.non_resource_urls.iter().flatten().any(|have| path_matches(have, path))
}

fn path_matches(have: &str, path: &str) -> bool {
    have == "*"
        || have == path
        || have.strip_suffix('*').is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

/// The parts of `wanted` that `held` does not allow: each one verb on one thing.
pub(crate) fn not_covered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(split).filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// A rule as rules of one verb on one thing each.
fn split(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let part = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    ..PolicyRule::default()
                };
                match rule.resource_names.as_deref().unwrap_or_default() {
                    [] => parts.push(part),
                    names => {
                        parts.extend(names.iter().map(|name| PolicyRule {
                            resource_names: Some(vec![name.clone()]),
                            ..part.clone()
                        }))
                    }
                }
            }
        }
        for url in rule.non_resource_urls.iter().flatten() {
            parts.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![url.clone()]),
                ..PolicyRule::default()
            });
        }
    }
    parts
}

/// Whether a rule allows what a rule of one verb on one thing allows.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |have: Option<&Vec<String>>, wanted: Option<&Vec<String>>| {
        wanted.into_iter().flatten().all(|wanted| has(have, wanted))
    };
    if !all(Some(&rule.verbs), Some(&part.verbs)) {
        return false;
    }
    if let Some(urls) = &part.non_resource_urls {
        return urls
            .iter()
            .all(|url| rule.non_resource_urls.iter().flatten().any(|have| path_matches(have, url)));
    }
    let resources = part.resources.iter().flatten().all(|wanted| {
        let (resource, below) = wanted.split_once('/').unwrap_or((wanted, ""));
        rule.resources.iter().flatten().any(|have| have == wanted || resource_matches(have, resource, below))
    });
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let wanted_names = part.resource_names.as_deref().unwrap_or_default();
    let names = names.is_empty()
        || (!wanted_names.is_empty() && wanted_names.iter().all(|wanted| names.contains(wanted)));
    all(rule.api_groups.as_ref(), part.api_groups.as_ref()) && resources && names
}

/// A rule in the words of upstream's messages.
pub(crate) fn readable(rule: &PolicyRule) -> String {
    let list = |list: &[String]| {
        let quoted: Vec<String> = list.iter().map(|text| manifests::go::quote(text)).collect();
        format!("[{}]", quoted.join(" "))
    };
    let mut parts = Vec::new();
    for (name, values) in [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
    ] {
        if let Some(values) = values.as_deref().filter(|values| !values.is_empty()) {
            parts.push(format!("{name}:{}", list(values)));
        }
    }
    parts.push(format!("Verbs:{}", list(&rule.verbs)));
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
        let list =
            |text: &str| (!text.is_empty()).then(|| text.split(',').map(str::to_owned).collect::<Vec<_>>());
        PolicyRule {
            verbs: list(verbs).unwrap_or_default(),
            api_groups: Some(list(groups).unwrap_or_else(|| vec![String::new()])),
            resources: list(resources),
            resource_names: list(names),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn matching() {
        let check = |rule: &PolicyRule, verb: &str, what: &str, name: &str, expected: bool| {
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            let action = Action { verb, group: "", resource, subresource, namespace: "n", name };
            assert_eq!(allows(rule, &action), expected, "{rule:?} {verb} {what} {name}");
        };
        check(&rule("get", "", "pods", ""), "get", "pods", "a", true);
        check(&rule("get", "", "pods", ""), "get", "pods/log", "a", false);
        check(&rule("get", "", "pods/log", ""), "get", "pods", "a", false);
        check(&rule("get", "", "*", ""), "get", "pods/log", "a", true);
        check(&rule("get", "", "*/scale", ""), "get", "pods/scale", "a", true);
        check(&rule("*", "", "pods", "a"), "get", "pods", "b", false);
        check(&rule("*", "", "pods", "a"), "list", "pods", "", false);
        check(&rule("get", "apps", "pods", ""), "get", "pods", "a", false);
        check(&rule("get", "*", "pods", ""), "list", "pods", "", false);
        let urls = |urls: &str| PolicyRule {
            verbs: vec!["get".to_owned()],
            non_resource_urls: Some(vec![urls.to_owned()]),
            ..PolicyRule::default()
        };
        assert!(allows_path(&urls("/api/*"), "get", "/api/v1"));
        assert!(!allows_path(&urls("/api/*"), "get", "/api"));
        assert!(!allows_path(&urls("/api"), "get", "/api/v1"));
        assert!(!allows_path(&urls("*"), "post", "/api"));
    }

    #[test]
    fn covering() {
        let held = [rule("get,list", "", "pods,pods/log", ""), rule("*", "apps", "deployments", "a,b")];
        let check = |wanted: PolicyRule, missing: usize| {
            assert_eq!(not_covered(&held, std::slice::from_ref(&wanted)).len(), missing, "{wanted:?}");
        };
        check(rule("get", "", "pods", ""), 0);
        check(rule("get,delete", "", "pods", "x"), 1);
        check(rule("get", "", "*", ""), 1);
        check(rule("update", "apps", "deployments", "a"), 0);
        check(rule("update", "apps", "deployments", ""), 1);
        check(rule("update", "apps", "deployments", "a,c"), 1);
        assert_eq!(
            readable(&not_covered(&held, &[rule("watch", "", "pods", "")])[0]),
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch"]}"#
        );
    }
}
