//! Rules: what we write and what we read back.

use std::net::Ipv4Addr;

use super::Target;
use super::wire::{self, Attributes};

/// One step of a rule. A rule's steps run in order until a comparison fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// The packet came in by this interface.
    InputInterface(String),
    /// The packet leaves, or does not leave, by this interface.
    OutputInterface { is: bool, name: String },
    /// The source address is, or is not, within a range.
    Source { is: bool, range: ipnet::Ipv4Net },
    /// The destination address is, or is not, within a range.
    Destination { is: bool, range: ipnet::Ipv4Net },
    /// The destination is one of this machine's own addresses.
    DestinationIsLocal,
    /// The transport protocol's number.
    TransportProtocol(u8),
    /// The destination port.
    DestinationPort(u16),
    /// The connection's destination has been translated.
    Translated,
    /// Count packets (as iptables' own rules do).
    Counter,
    /// Go on in another chain and come back.
    Jump(&'static str),
    /// This chain lets it pass.
    Accept,
    /// Nobody gets it.
    Drop,
    /// Translate the destination.
    DestinationNat(Target),
    /// Translate the source to the address of the interface it leaves by, with a port at random (two connections
    /// that start at the same time otherwise may choose the same port, and one loses its first packet).
    Masquerade,
}

/// A rule to be written, with an owner's mark that `nft list` shows as its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) expressions: Vec<Expression>,
    pub(crate) comment: Option<String>,
}

/// A rule as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRule {
    pub(crate) table: String,
    pub(crate) chain: String,
    pub(crate) handle: u64,
    pub(crate) comment: Option<String>,
}

impl FoundRule {
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut rule = Self { table: String::new(), chain: String::new(), handle: 0, comment: None };
        for (kind, value) in wire::attributes(payload.get(4..)?) {
            match kind {
                wire::RULE_TABLE => rule.table = text(value),
                wire::RULE_CHAIN => rule.chain = text(value),
                wire::RULE_HANDLE => rule.handle = u64::from_be_bytes(value.try_into().ok()?),
                wire::RULE_USERDATA => rule.comment = comment(value),
                _ => {}
            }
        }
        Some(rule)
    }
}

pub(super) fn chain_name(payload: &[u8]) -> Option<(String, String)> {
    let mut names = (String::new(), String::new());
    for (kind, value) in wire::attributes(payload.get(4..)?) {
        match kind {
            wire::CHAIN_TABLE => names.0 = text(value),
            wire::CHAIN_NAME => names.1 = text(value),
            _ => {}
        }
    }
    Some(names)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// User data is nft's: a list of (type, length, value), where type 0 is the comment.
const USERDATA_COMMENT: u8 = 0;

/// The longest comment that fits.
pub(crate) const COMMENT_MAX: usize = 250;

pub(super) fn userdata(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(COMMENT_MAX);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let length = u8::try_from(end + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![USERDATA_COMMENT, length];
    bytes.extend_from_slice(&comment.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

fn comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            return Some(text(value));
        }
        bytes = &rest[value.len()..];
    }
    None
}

// Keys and offsets of the expressions used.
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_L4_PROTOCOL: u32 = 16;
const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const TRANSPORT_DESTINATION_PORT: u32 = 2;
const CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;
const RTN_LOCAL: u32 = 2;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const VERDICT_JUMP: u32 = (-3i32).cast_unsigned();
const NAT_DESTINATION: u32 = 1;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;

/// The expressions as the kernel's list of them.
pub(super) fn encode(expressions: &[Expression]) -> Attributes {
    let mut list = Attributes::default();
    for (name, data) in expressions.iter().flat_map(instructions) {
        let element =
            Attributes::default().text(wire::EXPRESSION_NAME, name).nested(wire::EXPRESSION_DATA, data);
        list = list.nested(wire::LIST_ELEMENT, element);
    }
    list
}

type Instruction = (&'static str, Attributes);

/// The kernel's instructions for one expression: load into register 1, mask it, compare.
fn instructions(expression: &Expression) -> Vec<Instruction> {
    match expression {
        Expression::InputInterface(name) => vec![load_meta(META_INPUT_NAME), compare(true, &interface(name))],
        Expression::OutputInterface { is, name } => {
            vec![load_meta(META_OUTPUT_NAME), compare(*is, &interface(name))]
        }
        Expression::Source { is, range } => in_range(IPV4_SOURCE, *is, *range),
        Expression::Destination { is, range } => in_range(IPV4_DESTINATION, *is, *range),
        Expression::DestinationIsLocal => vec![
            ("fib", numbers(&[(1, wire::REGISTER_1), (2, FIB_RESULT_ADDRESS_TYPE), (3, FIB_DESTINATION)])),
            compare(true, &RTN_LOCAL.to_ne_bytes()),
        ],
        Expression::TransportProtocol(number) => vec![load_meta(META_L4_PROTOCOL), compare(true, &[*number])],
        Expression::DestinationPort(port) => {
            vec![
                load_payload(PAYLOAD_TRANSPORT, TRANSPORT_DESTINATION_PORT, 2),
                compare(true, &port.to_be_bytes()),
            ]
        }
        Expression::Translated => vec![
            ("ct", numbers(&[(1, wire::REGISTER_1), (2, CT_STATUS)])),
            mask(&IPS_DST_NAT.to_ne_bytes()),
            compare(false, &[0; 4]),
        ],
        Expression::Counter => {
            vec![("counter", Attributes::default().bytes(1, &[0; 8]).bytes(2, &[0; 8]))]
        }
        Expression::Jump(chain) => vec![verdict(VERDICT_JUMP, Some(chain))],
        Expression::Accept => vec![verdict(VERDICT_ACCEPT, None)],
        Expression::Drop => vec![verdict(VERDICT_DROP, None)],
        Expression::DestinationNat(target) => vec![
            immediate(wire::REGISTER_1, &target.address.octets()),
            immediate(wire::REGISTER_2, &target.port.to_be_bytes()),
            (
                "nat",
                numbers(&[
                    (1, NAT_DESTINATION),
                    (2, u32::from(super::FAMILY)),
                    (3, wire::REGISTER_1),
                    (5, wire::REGISTER_2),
                ]),
            ),
        ],
        Expression::Masquerade => vec![("masq", numbers(&[(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY)]))],
    }
}

fn in_range(offset: u32, is: bool, range: ipnet::Ipv4Net) -> Vec<Instruction> {
    let mut steps = vec![load_payload(PAYLOAD_NETWORK, offset, 4)];
    if range.netmask() != Ipv4Addr::BROADCAST {
        steps.push(mask(&range.netmask().octets()));
    }
    steps.push(compare(is, &range.network().octets()));
    steps
}

fn numbers(pairs: &[(u16, u32)]) -> Attributes {
    pairs.iter().fold(Attributes::default(), |attributes, (kind, value)| attributes.number(*kind, *value))
}

fn load_meta(key: u32) -> Instruction {
    ("meta", numbers(&[(2, key), (1, wire::REGISTER_1)]))
}

fn load_payload(base: u32, offset: u32, length: u32) -> Instruction {
    ("payload", numbers(&[(1, wire::REGISTER_1), (2, base), (3, offset), (4, length)]))
}

fn mask(mask: &[u8]) -> Instruction {
    let length = u32::try_from(mask.len()).unwrap_or(0); // 4
    let value = |bytes: &[u8]| Attributes::default().bytes(wire::DATA_VALUE, bytes);
    let data = numbers(&[(1, wire::REGISTER_1), (2, wire::REGISTER_1), (3, length)])
        .nested(4, value(mask))
        .nested(5, value(&vec![0; mask.len()]));
    ("bitwise", data)
}

fn compare(equal: bool, value: &[u8]) -> Instruction {
    let data = numbers(&[(1, wire::REGISTER_1), (2, u32::from(!equal))])
        .nested(3, Attributes::default().bytes(wire::DATA_VALUE, value));
    ("cmp", data)
}

fn immediate(register: u32, value: &[u8]) -> Instruction {
    let data = Attributes::default().bytes(wire::DATA_VALUE, value);
    ("immediate", Attributes::default().number(1, register).nested(2, data))
}

fn verdict(code: u32, chain: Option<&str>) -> Instruction {
    let mut verdict = Attributes::default().number(wire::VERDICT_CODE, code);
    if let Some(chain) = chain {
        verdict = verdict.text(wire::VERDICT_CHAIN, chain);
    }
    let data = Attributes::default().nested(wire::DATA_VERDICT, verdict);
    ("immediate", Attributes::default().number(1, wire::REGISTER_VERDICT).nested(2, data))
}

/// A name with its final zero byte, the way iptables writes it too: matches this name and no longer one.
fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_survive() {
        for text in ["", "a", "host port 80", &"x".repeat(COMMENT_MAX)] {
            assert_eq!(comment(&userdata(text)).as_deref(), Some(text));
        }
        assert_eq!(comment(&userdata(&"ü".repeat(200))).unwrap().chars().count(), COMMENT_MAX / 2);
        assert_eq!(comment(&[7, 2, 1, 1, 0, 2, b'x', 0]).as_deref(), Some("x"));
        assert_eq!(comment(&[0, 9, 1]), None);
    }

    #[test]
    fn attributes_survive() {
        let bytes = Attributes::default().text(1, "abc").number(2, 7).bytes(3, &[1]).finish(2, 0);
        let found: Vec<_> = wire::attributes(&bytes[4..]).collect();
        assert_eq!(found, vec![(1, &b"abc\0"[..]), (2, &[0, 0, 0, 7][..]), (3, &[1][..])]);
    }
}
