//! FlowSchemas and PriorityLevelConfigurations.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, LimitedPriorityLevelConfiguration, PolicyRulesWithSubjects, PriorityLevelConfiguration,
    QueuingConfiguration, Subject,
};

use super::{object_meta, object_meta_update, one_of};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

const LOWEST_PRECEDENCE: i32 = 10_000;
const EXEMPT: &str = "exempt";

/// A new FlowSchema.
pub fn flow_schema(schema: &FlowSchema) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&schema.metadata, false, names::dns1123_subdomain, &mut errors);
    schema_spec(schema, &mut errors);
    errors
}

/// An update of a FlowSchema.
pub fn flow_schema_update(new: &FlowSchema, old: &FlowSchema) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    schema_spec(new, &mut errors);
    errors
}

/// A new PriorityLevelConfiguration.
pub fn priority_level_configuration(level: &PriorityLevelConfiguration) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&level.metadata, false, names::dns1123_subdomain, &mut errors);
    level_spec(level, &mut errors);
    errors
}

/// An update of a PriorityLevelConfiguration.
pub fn priority_level_configuration_update(
    new: &PriorityLevelConfiguration,
    old: &PriorityLevelConfiguration,
) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    level_spec(new, &mut errors);
    errors
}

fn schema_spec(schema: &FlowSchema, errors: &mut ErrorList) {
    let spec = &schema.spec;
    let path = Path::new("spec");
    let precedence = spec.matching_precedence.unwrap_or_default();
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(FieldError::invalid(&at, precedence, "must be a positive value"));
    }
    if precedence > LOWEST_PRECEDENCE {
        let why = format!("must not be greater than {LOWEST_PRECEDENCE}");
        errors.push(FieldError::invalid(&at, precedence, why));
    }
    if precedence == 1 && schema.metadata.name.as_deref() != Some(EXEMPT) {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(FieldError::invalid(&at, precedence, why));
    }
    if let Some(method) = &spec.distinguisher_method {
        let at = path.child("distinguisherMethod").child("type");
        if !["ByNamespace", "ByUser"].contains(&method.type_.as_str()) {
            errors.push(FieldError::not_supported(&at, &method.type_, &["ByNamespace", "ByUser"]));
        }
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    let level = &spec.priority_level_configuration.name;
    if level.is_empty() {
        errors.push(FieldError::required(&at, "must reference a priority level"));
    } else {
        errors.push_invalid(&at, level, names::dns1123_subdomain(level));
    }
    for (index, rules) in spec.rules.iter().flatten().enumerate() {
        check_rules(rules, &path.child("rules").index(index), errors);
    }
}

fn check_rules(rules: &PolicyRulesWithSubjects, path: &Path, errors: &mut ErrorList) {
    let some = |list: &[String], path: &Path, why: &str, errors: &mut ErrorList| {
        if list.is_empty() {
            errors.push(FieldError::required(path, why));
        }
    };
    if rules.subjects.is_empty() {
        errors
            .push(FieldError::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (index, subject) in rules.subjects.iter().enumerate() {
        check_subject(subject, &path.child("subjects").index(index), errors);
    }
    let resources = rules.resource_rules.as_deref().unwrap_or_default();
    let others = rules.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, why));
    }
    for (index, rule) in resources.iter().enumerate() {
        let path = path.child("resourceRules").index(index);
        some(&rule.verbs, &path.child("verbs"), "verbs must contain at least one value", errors);
        let why = "resource rules must supply at least one api group";
        some(&rule.api_groups, &path.child("apiGroups"), why, errors);
        let why = "resource rules must supply at least one resource";
        some(&rule.resources, &path.child("resources"), why, errors);
        if rule.cluster_scope != Some(true) {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            some(rule.namespaces.as_deref().unwrap_or_default(), &path.child("namespaces"), why, errors);
        }
    }
    for (index, rule) in others.iter().enumerate() {
        let path = path.child("nonResourceRules").index(index);
        some(&rule.verbs, &path.child("verbs"), "verbs must contain at least one value", errors);
        let why = "nonResourceURLs must contain at least one value";
        some(&rule.non_resource_urls, &path.child("nonResourceURLs"), why, errors);
    }
}

fn check_subject(subject: &Subject, path: &Path, errors: &mut ErrorList) {
    let kinds = [
        ("Group", "group", subject.group.is_some()),
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
    ];
    if !kinds.iter().any(|(kind, ..)| *kind == subject.kind) {
        let known = kinds.map(|(kind, ..)| kind);
        errors.push(FieldError::not_supported(&path.child("kind"), &subject.kind, &known));
        return;
    }
    for (kind, field, given) in kinds {
        if kind == subject.kind && !given {
            let why = format!("{field} is required when subject kind is '{kind}'");
            errors.push(FieldError::required(&path.child(field), why));
        } else if kind != subject.kind && given {
            let why = format!("{field} is forbidden when subject kind is not '{kind}'");
            errors.push(FieldError::forbidden(&path.child(field), why));
        }
    }
}

fn level_spec(level: &PriorityLevelConfiguration, errors: &mut ErrorList) {
    let spec = &level.spec;
    let path = Path::new("spec");
    one_of(&spec.type_, &["Exempt", "Limited"], &path.child("type"), errors);
    match (spec.type_.as_str(), &spec.limited) {
        ("Exempt", Some(_)) => {
            let why = "must be nil if the type is not Limited";
            errors.push(FieldError::forbidden(&path.child("limited"), why));
        }
        ("Limited", None) => {
            let why = "must not be empty when type is Limited";
            errors.push(FieldError::required(&path.child("limited"), why));
        }
        ("Limited", Some(limited)) => check_limited(limited, &path.child("limited"), errors),
        _ => {}
    }
    if spec.type_ == "Limited" && spec.exempt.is_some() {
        let why = "must be nil if the type is Limited";
        errors.push(FieldError::forbidden(&path.child("exempt"), why));
    }
}

fn check_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path, errors: &mut ErrorList) {
    let shares = limited.nominal_concurrency_shares.unwrap_or_default();
    if shares < 0 {
        let why = "must be a non-negative integer";
        errors.push(FieldError::invalid(&path.child("nominalConcurrencyShares"), shares, why));
    }
    let lendable = limited.lendable_percent.unwrap_or_default();
    if !(0..=100).contains(&lendable) {
        let why = "must be between 0 and 100, inclusive";
        errors.push(FieldError::invalid(&path.child("lendablePercent"), lendable, why));
    }
    if let Some(limit) = limited.borrowing_limit_percent.filter(|limit| *limit < 0) {
        let why = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(&path.child("borrowingLimitPercent"), limit, why));
    }
    let path = path.child("limitResponse");
    let response = &limited.limit_response;
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&path.child("queuing"), why));
        }
        ("Queue", None) => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&path.child("queuing"), why));
        }
        ("Queue", Some(queuing)) => check_queuing(queuing, &path.child("queuing"), errors),
        _ => one_of(&response.type_, &["Queue", "Reject"], &path.child("type"), errors),
    }
}

fn check_queuing(queuing: &QueuingConfiguration, path: &Path, errors: &mut ErrorList) {
    let queues = queuing.queues.unwrap_or_default();
    let hand = queuing.hand_size.unwrap_or_default();
    for (field, value) in [
        ("queueLengthLimit", queuing.queue_length_limit.unwrap_or_default()),
        ("queues", queues),
        ("handSize", hand),
    ] {
        if value <= 0 {
            errors.push(FieldError::invalid(&path.child(field), value, "must be positive"));
        }
    }
    if hand > queues {
        let why = format!("should not be greater than queues ({queues})");
        errors.push(FieldError::invalid(&path.child("handSize"), hand, why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, cluster_wide};
    use super::*;

    #[test]
    fn levels() {
        let queue = json!({"type": "Queue", "queuing": {"queues": 4, "handSize": 8, "queueLengthLimit": 1}});
        check(
            priority_level_configuration,
            cluster_wide(json!({"spec": {"type": "Limited", "limited": {"limitResponse": queue}}})),
            &[
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)",
            ],
        );
        check(
            priority_level_configuration,
            cluster_wide(json!({"spec": {"type": "Limited"}})),
            &["spec.limited: Required value: must not be empty when type is Limited"],
        );
        check(priority_level_configuration, cluster_wide(json!({"spec": {"type": "Exempt"}})), &[]);
    }

    #[test]
    fn schemas() {
        let rule = json!({
            "subjects": [{"kind": "User", "user": {"name": "u"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
        });
        let level = json!({"name": "p"});
        check(
            flow_schema,
            cluster_wide(
                json!({"spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": level, "rules": [rule]}}),
            ),
            &[],
        );
        check(
            flow_schema,
            cluster_wide(json!({"spec": {
                "matchingPrecedence": 1, "priorityLevelConfiguration": {"name": ""}, "rules": [{"subjects": [{"kind": "Group"}]}],
            }})),
            &[
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].group: Required value: group is required when subject kind is 'Group'",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        );
    }
}
