//! What a reader wants to see of a resource.

use manifests::selector::{Operator, Requirement, Selector};

use crate::object::Object;

/// A condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FieldRequirement {
    Name {
        value: String,
        negated: bool,
    },
    Namespace {
        value: String,
        negated: bool,
    },
    /// One of the row's selectable fields, by its index.
    Field {
        index: usize,
        value: String,
        negated: bool,
    },
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only this namespace.
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Vec<Requirement>,
    pub(crate) fields: Vec<FieldRequirement>,
    /// Nothing matches at all.
    nothing: bool,
}

impl Filter {
    pub(crate) fn new(namespace: &str, labels: &Selector, fields: Vec<FieldRequirement>) -> Filter {
        Filter {
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            labels: labels.requirements().to_vec(),
            fields,
            nothing: labels.is_nothing(),
        }
    }

    /// Whether selectors are in use (scope is not a selector).
    pub(crate) fn selects(&self) -> bool {
        self.nothing || !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        !self.nothing
            && self.namespace.as_ref().is_none_or(|namespace| object.namespace() == namespace)
            && self.fields.iter().all(|field| field.matches(object))
            && self.labels.iter().all(|requirement| label_matches(requirement, object))
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Object) -> bool {
        match self {
            FieldRequirement::Name { value, negated } => (object.name() == value) != *negated,
            FieldRequirement::Namespace { value, negated } => (object.namespace() == value) != *negated,
            FieldRequirement::Field { index, value, negated } => {
                (object.extracted.field(*index) == value) != *negated
            }
        }
    }
}

fn label_matches(requirement: &Requirement, object: &Object) -> bool {
    let value = object.extracted.label(requirement.key());
    let listed = |value: &str| requirement.values().iter().any(|listed| listed == value);
    match requirement.operator() {
        Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
        Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::GreaterThan | Operator::LessThan => {
            let number = |text: &str| text.parse::<i64>().ok();
            let bound = requirement.values().first().and_then(|bound| number(bound));
            value.and_then(number).zip(bound).is_some_and(|(value, bound)| {
                if requirement.operator() == Operator::GreaterThan { value > bound } else { value < bound }
            })
        }
    }
}
