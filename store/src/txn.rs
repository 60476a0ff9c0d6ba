//! What every engine asks of a transaction before it looks at the data.

use std::collections::HashSet;

use crate::{Compare, Op, StoreError, Txn};

/// Upper bound for keys and values of one transaction: what etcd takes by default (`--max-request-bytes`, 1.5 MiB)
/// less some room for its framing. One limit for all engines, so that a cluster can move from one to another.
pub const MAX_TXN_BYTES: usize = 1_500_000;

/// etcd's `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;

impl Compare {
    /// The key that is looked at.
    pub fn key(&self) -> &str {
        match self {
            Compare::Absent(key) | Compare::ModRevision(key, _) => key,
        }
    }
}

impl Op {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Op::Put(key, _) | Op::Delete(key) => key,
        }
    }

    /// Bytes of key and value.
    fn size(&self) -> usize {
        match self {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        }
    }
}

/// Refuse what no engine can do.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    let operations = txn.ops.len().max(txn.compare.len());
    if operations > MAX_TXN_OPS {
        return Err(StoreError::Invalid(format!(
            "{operations} operations in one transaction (at most {MAX_TXN_OPS})"
        )));
    }
    let bytes: usize = txn.ops.iter().map(Op::size).sum();
    if bytes > MAX_TXN_BYTES {
        return Err(StoreError::Invalid(format!(
            "{bytes} bytes in one transaction (at most {MAX_TXN_BYTES})"
        )));
    }
    let mut seen = HashSet::with_capacity(txn.ops.len());
    for op in &txn.ops {
        if !seen.insert(op.key()) {
            return Err(StoreError::Invalid(format!("key {:?} twice in one transaction", op.key())));
        }
    }
    if seen.contains("") || txn.compare.iter().any(|c| c.key().is_empty()) {
        return Err(StoreError::Invalid("an empty key".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_is_refused() {
        let put = |k: &str, n: usize| Op::Put(k.to_owned(), Bytes::from(vec![0; n]));
        let txn = |ops: Vec<Op>| Txn { compare: vec![], ops };
        assert!(check(&txn(vec![])).is_ok());
        assert!(check(&txn(vec![put("a", MAX_TXN_BYTES - 1)])).is_ok());
        assert!(check(&txn(vec![put("a", MAX_TXN_BYTES)])).is_err());
        assert!(check(&txn(vec![put("a", 1), Op::Delete("a".into())])).is_err());
        assert!(check(&txn(vec![put("", 1)])).is_err());
        assert!(check(&txn((0..129).map(|i| put(&format!("k{i}"), 1)).collect())).is_err());
    }
}
