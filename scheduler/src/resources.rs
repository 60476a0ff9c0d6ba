//! Amounts of resources as the scheduler compares them: whole units, milli-units for CPU.

use std::collections::BTreeMap;

use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::quantity::Quantity;

/// So much of each resource. `pods` counts pods and is not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Huge pages and extended resources, sorted by name; few or none.
    pub others: Vec<(Box<str>, i64)>,
}

impl Resources {
    /// From amounts by name.
    pub fn from_amounts<'a>(amounts: impl IntoIterator<Item = (&'a str, Quantity)>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in amounts {
            match name {
                "cpu" => resources.cpu_milli = quantity.milli(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => {}
                other => *resources.other_mut(other) = quantity.value(),
            }
        }
        resources
    }

    /// What a node offers, and how many pods.
    pub fn allocatable(list: Option<&BTreeMap<String, ApiQuantity>>) -> (Self, i64) {
        let amounts = list.into_iter().flatten();
        let resources = Self::from_amounts(
            amounts.clone().map(|(name, quantity)| (name.as_str(), Quantity::of(quantity))),
        );
        let pods = list.and_then(|list| list.get("pods")).map_or(0, |pods| Quantity::of(pods).value());
        (resources, pods)
    }

    fn other_mut(&mut self, name: &str) -> &mut i64 {
        let place = match self.others.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(place) => place,
            Err(place) => {
                self.others.insert(place, (name.into(), 0));
                place
            }
        };
        &mut self.others[place].1
    }

    /// So much of a resource that is not CPU, memory or ephemeral storage.
    pub fn other(&self, name: &str) -> i64 {
        let place = self.others.binary_search_by(|(known, _)| (**known).cmp(name));
        place.map_or(0, |place| self.others[place].1)
    }

    /// Adds.
    pub fn add(&mut self, more: &Self) {
        self.change(more, i64::saturating_add);
    }

    /// Takes away what was added before.
    pub fn subtract(&mut self, less: &Self) {
        self.change(less, i64::saturating_sub);
        self.others.retain(|(_, amount)| *amount != 0);
    }

    fn change(&mut self, by: &Self, apply: fn(i64, i64) -> i64) {
        self.cpu_milli = apply(self.cpu_milli, by.cpu_milli);
        self.memory = apply(self.memory, by.memory);
        self.ephemeral_storage = apply(self.ephemeral_storage, by.ephemeral_storage);
        for (name, amount) in &by.others {
            let entry = self.other_mut(name);
            *entry = apply(*entry, *amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(list: &[(&str, &str)]) -> Resources {
        Resources::from_amounts(list.iter().map(|(name, text)| (*name, Quantity::parse(text).unwrap())))
    }

    #[test]
    fn adding_and_subtracting_leaves_nothing() {
        let node = resources(&[("cpu", "2"), ("memory", "1Gi"), ("example.com/gpu", "2")]);
        let pod = resources(&[("cpu", "150m"), ("ephemeral-storage", "1Mi"), ("hugepages-2Mi", "4Mi")]);
        let mut sum = node.clone();
        sum.add(&pod);
        assert_eq!(
            (sum.cpu_milli, sum.other("hugepages-2Mi"), sum.other("example.com/gpu")),
            (2150, 4 << 20, 2)
        );
        sum.subtract(&pod);
        assert_eq!(sum, node);
        assert_eq!(sum.other("absent"), 0);
    }
}
