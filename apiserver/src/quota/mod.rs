//! ResourceQuotas: what a namespace may have in total.
//!
//! ```text
//!   a write ─▶ usage (what it adds) ─▶ admit ─▶ one transaction: the object, and the quota's new count
//!   anything that is counted changes ─▶ recount ─▶ status.used as it is
//! ```
//!
//! A count grows in the transaction of the object that it counts, so no two writes share the last place. It shrinks when
//! objects go or end, by counting again from the caches. Follows upstream's quota plugin, evaluators and controller.

mod admit;
mod recount;
mod usage;

use std::collections::BTreeMap;

use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::quantity::Quantity;

pub(crate) use admit::claims;

/// Amounts by the names under which quotas limit them.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

fn amounts(list: Option<&BTreeMap<String, ApiQuantity>>) -> Amounts {
    list.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect()
}

fn to_api(amounts: &Amounts) -> BTreeMap<String, ApiQuantity> {
    amounts.iter().map(|(name, amount)| (name.clone(), ApiQuantity(amount.to_string()))).collect()
}

/// As upstream prints them: `cpu=1,memory=1Gi`.
fn printed(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}
