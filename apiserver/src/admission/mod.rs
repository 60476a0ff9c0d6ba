//! What the cluster decides about a new object before its kind does.
//!
//! One file per upstream admission plugin, each a function over plain values; the hooks of a kind bring the values.

pub(crate) mod default_toleration_seconds;
pub(crate) mod limit_ranger;
pub(crate) mod namespace_lifecycle;
pub(crate) mod node_restriction;
pub(crate) mod priority;
pub(crate) mod runtime_class;
pub(crate) mod service_account;
pub(crate) mod storage;

use manifests::status::ApiError;

use crate::rbac::{escalation, node};
use crate::registry::{AnyObject, Env, Part, Row};

/// Refuses what the caller may write in general, but not this.
pub(crate) fn admit(
    row: &Row,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
    part: Part,
    env: &Env<'_>,
) -> Result<(), ApiError> {
    let Some(caller) = env.caller else { return Ok(()) };
    escalation::check(caller.policy, caller.identity, new, old)?;
    if let Some(node) = node::name(caller.identity) {
        let name = new.meta().name.clone().unwrap_or_default();
        node_restriction::admit(node, new, old, part).map_err(|why| row.forbidden(&name, &why))?;
    }
    Ok(())
}
