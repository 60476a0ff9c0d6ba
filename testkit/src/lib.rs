//! Builders, fakes and clocks for tests.
//!
//! Builders give small valid objects; every call changes one thing, so a test says only what it is about.

mod node;
mod pod;

pub use node::{NodeBuilder, node};
pub use pod::{PodBuilder, pod};

use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

fn put(map: &mut Option<BTreeMap<String, Quantity>>, name: &str, amount: &str) {
    map.get_or_insert_default().insert(name.to_owned(), Quantity(amount.to_owned()));
}
