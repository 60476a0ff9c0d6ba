//! Defaults of FlowSchemas and PriorityLevelConfigurations.

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

use super::number;

/// Defaults of a FlowSchema.
pub fn flow_schema(schema: &mut FlowSchema) {
    number(&mut schema.spec.matching_precedence, 1000);
}

/// Defaults of a PriorityLevelConfiguration.
pub fn priority_level_configuration(level: &mut PriorityLevelConfiguration) {
    let spec = &mut level.spec;
    if let Some(exempt) = &mut spec.exempt {
        exempt.nominal_concurrency_shares.get_or_insert(0);
        exempt.lendable_percent.get_or_insert(0);
    }
    if let Some(limited) = &mut spec.limited {
        limited.nominal_concurrency_shares.get_or_insert(30);
        limited.lendable_percent.get_or_insert(0);
        if let Some(queuing) = &mut limited.limit_response.queuing {
            number(&mut queuing.hand_size, 8);
            number(&mut queuing.queues, 64);
            number(&mut queuing.queue_length_limit, 50);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn levels_and_schemas() {
        check(
            priority_level_configuration,
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 16}}}}}),
            json!({"spec": {"limited": {"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse": {
                "queuing": {"queues": 16, "handSize": 8, "queueLengthLimit": 50},
            }}}}),
        );
        check(
            flow_schema,
            json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}}),
            json!({"spec": {"matchingPrecedence": 1000}}),
        );
    }
}
