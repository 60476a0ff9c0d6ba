//! Transactions.

use super::rule::{self, Rule};
use super::wire::{self, Attributes};
use super::{FAMILY, SUBSYSTEM};
use crate::netlink::Message;

const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainType {
    Filter,
    Nat,
}

/// Where packets meet a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Output,
    Postrouting,
}

/// How packets get into a chain that no rule jumps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BaseChain {
    pub(crate) kind: ChainType,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

/// Changes that happen together.
#[derive(Debug, Default)]
pub(crate) struct Transaction(Vec<Message>);

impl Transaction {
    /// Makes a table; having it is fine.
    pub(crate) fn add_table(&mut self, table: &str) {
        self.push(wire::MSG_NEWTABLE, NLM_F_CREATE, Attributes::default().text(wire::TABLE_NAME, table));
    }

    /// Deletes a table with all that is in it; it must exist.
    pub(crate) fn delete_table(&mut self, table: &str) {
        self.push(wire::MSG_DELTABLE, 0, Attributes::default().text(wire::TABLE_NAME, table));
    }

    pub(crate) fn add_chain(&mut self, table: &str, chain: &str, base: Option<BaseChain>) {
        let mut attributes =
            Attributes::default().text(wire::CHAIN_TABLE, table).text(wire::CHAIN_NAME, chain);
        if let Some(base) = base {
            let hook = match base.hook {
                Hook::Prerouting => 0,
                Hook::Output => 3,
                Hook::Postrouting => 4,
            };
            let place = Attributes::default()
                .number(wire::HOOK_NUMBER, hook)
                .number(wire::HOOK_PRIORITY, base.priority.cast_unsigned());
            let kind = match base.kind {
                ChainType::Filter => "filter",
                ChainType::Nat => "nat",
            };
            attributes = attributes.nested(wire::CHAIN_HOOK, place).text(wire::CHAIN_TYPE, kind);
        }
        self.push(wire::MSG_NEWCHAIN, NLM_F_CREATE, attributes);
    }

    /// Puts a rule behind the others.
    pub(crate) fn append_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.push(wire::MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, rule_attributes(table, chain, rule));
    }

    /// Puts a rule before the others.
    pub(crate) fn insert_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.push(wire::MSG_NEWRULE, NLM_F_CREATE, rule_attributes(table, chain, rule));
    }

    pub(crate) fn delete_rule(&mut self, table: &str, chain: &str, handle: u64) {
        let attributes = Attributes::default()
            .text(wire::RULE_TABLE, table)
            .text(wire::RULE_CHAIN, chain)
            .bytes(wire::RULE_HANDLE, &handle.to_be_bytes());
        self.push(wire::MSG_DELRULE, 0, attributes);
    }

    fn push(&mut self, kind: u16, flags: u16, attributes: Attributes) {
        self.0.push(Message { kind: SUBSYSTEM << 8 | kind, flags, payload: attributes.finish(FAMILY, 0) });
    }

    /// The messages between their brackets; `None` when there are none. Only the last one is acknowledged: the kernel
    /// reports errors in any case, and hundreds of acknowledgements would not fit into the socket's buffer.
    pub(super) fn finish(mut self) -> Option<Vec<Message>> {
        self.0.last_mut()?.flags |= NLM_F_ACK;
        let bracket = |kind| Message { kind, flags: 0, payload: Attributes::default().finish(0, SUBSYSTEM) };
        let mut messages = vec![bracket(wire::BATCH_BEGIN)];
        messages.append(&mut self.0);
        messages.push(bracket(wire::BATCH_END));
        Some(messages)
    }
}

fn rule_attributes(table: &str, chain: &str, rule: &Rule) -> Attributes {
    let attributes = Attributes::default()
        .text(wire::RULE_TABLE, table)
        .text(wire::RULE_CHAIN, chain)
        .nested(wire::RULE_EXPRESSIONS, rule::encode(&rule.expressions));
    match &rule.comment {
        Some(comment) => attributes.bytes(wire::RULE_USERDATA, &rule::userdata(comment)),
        None => attributes,
    }
}

pub(super) fn rule_request(table: &str, chain: &str) -> Vec<u8> {
    Attributes::default().text(wire::RULE_TABLE, table).text(wire::RULE_CHAIN, chain).finish(FAMILY, 0)
}

pub(super) fn all_chains() -> Vec<u8> {
    Attributes::default().finish(FAMILY, 0)
}
