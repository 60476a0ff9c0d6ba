//! Whether a write stays within the quotas of its namespace, and what they count afterwards.

use std::collections::BTreeSet;

use manifests::k8s_openapi::api::core::v1::ResourceQuota;
use store::{Compare, Op, Revision};

use super::usage::{in_scope, is_about, unsaid, usage};
use super::{Amounts, amounts, printed, to_api};
use crate::encode::encode;
use crate::registry::{AnyObject, Claims, Env, Row};

/// Counts of quotas that a write changes, for its transaction. The error says why it is refused.
pub(crate) fn claims(
    row: &Row,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
    env: &Env<'_>,
) -> Result<Claims, String> {
    let mut claims = Claims::default();
    // Events are not counted: they tell of what is refused, too.
    if !row.kind.namespaced || row.kind.kind == "Event" {
        return Ok(claims);
    }
    let Some(quotas) = env.registry.find("", "v1", "resourcequotas") else { return Ok(claims) };
    let namespace = new.meta().namespace.as_deref().unwrap_or_default();
    let found = quotas.cache.all(&format!("{namespace}/"));
    if found.is_empty() {
        return Ok(claims);
    }
    let mut change = usage(row.kind, new, env.now);
    if let Some(old) = old {
        // What was there has been counted.
        for (name, amount) in usage(row.kind, old, env.now) {
            if let Some(left) = change.get_mut(&name) {
                *left -= amount;
            }
        }
    }
    change.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
    if change.is_empty() {
        return Ok(claims);
    }
    for object in found {
        let Ok(mut quota) = serde_json::from_slice::<ResourceQuota>(object.json_bytes()) else { continue };
        let Some(used) = admit(row, &quota, new, &change)? else { continue };
        quota.status.get_or_insert_default().used = Some(to_api(&used));
        quota.metadata.resource_version = None;
        let stored = encode(&quotas.cache.storage.layout, &quota)
            .map_err(|error| format!("counting for quota {}: {error}", object.name()))?;
        let key = quotas.cache.storage.key(object.key());
        claims.compare.push(Compare::ModRevision(key.clone(), Revision(object.revision())));
        claims.ops.push(Op::Put(key, stored.into()));
    }
    Ok(claims)
}

/// What a quota counts after a change, if it counts this kind of object.
fn admit(
    row: &Row,
    quota: &ResourceQuota,
    new: &dyn AnyObject,
    change: &Amounts,
) -> Result<Option<Amounts>, String> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let status = quota.status.clone().unwrap_or_default();
    let hard = amounts(status.hard.as_ref());
    let limited: BTreeSet<&str> =
        hard.keys().map(String::as_str).filter(|name| is_about(row.kind, name)).collect();
    if limited.is_empty() || !in_scope(quota, new) {
        return Ok(None);
    }
    if let Some(why) = unsaid(new, &limited) {
        return Err(format!("failed quota: {name}: {why}"));
    }
    let mut used = amounts(status.used.as_ref());
    if limited.iter().any(|name| !used.contains_key(*name)) {
        let names: Vec<&str> = limited.into_iter().collect();
        return Err(format!("status unknown for quota: {name}, resources: {}", names.join(",")));
    }
    let requested: Amounts = change
        .iter()
        .filter(|(name, _)| hard.contains_key(*name))
        .map(|(name, amount)| (name.clone(), *amount))
        .collect();
    if requested.is_empty() {
        return Ok(None);
    }
    let before = used.clone();
    let mut exceeded = BTreeSet::new();
    for (name, amount) in &requested {
        let total = used.entry(name.clone()).or_default();
        *total += *amount;
        if hard.get(name).is_some_and(|most| *total > *most) {
            exceeded.insert(name.as_str());
        }
    }
    if exceeded.is_empty() {
        return Ok(Some(used));
    }
    let only = |amounts: &Amounts| -> String {
        let of = amounts.iter().filter(|(name, _)| exceeded.contains(name.as_str()));
        printed(&of.map(|(name, amount)| (name.clone(), *amount)).collect())
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        only(&requested),
        only(&before),
        only(&hard)
    ))
}
