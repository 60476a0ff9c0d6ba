//! From an OCI profile to a classic BPF program.
//!
//! ```text
//!   arch? ──┬─ x86_64 ── number ≥ 2³⁰? ──┬─ tree of x32
//!           │                            └─ tree of x86_64 ── … ── leaf: return, or compare arguments
//!           ├─ i386 ──── tree of i386
//!           └─ other ─── kill
//! ```
//!
//! The numbers of one architecture are cut into ranges with the same answer, and a binary tree of comparisons
//! finds the range: an allowed call passes six or seven instructions, where a list of comparisons would be
//! hundreds. Semantics follow libseccomp as runc uses it, because profiles are written against that.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::table::{self, Abi};

/// A profile that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// The listener's descriptor is sent to whoever asked for it by a call that would itself wait for the
    /// listener.
    #[error("SCMP_ACT_NOTIFY cannot be used for the {0} syscall, by which a runtime hands the listener over")]
    Notify(String),
    /// The same, for all calls that no rule names.
    #[error(
        "SCMP_ACT_NOTIFY cannot be the default action: the call by which the listener is handed over would wait for it"
    )]
    NotifyAll,
    /// Argument indexes go from 0 to 5.
    #[error("{syscall}: there is no argument {index}")]
    Argument {
        /// The system call.
        syscall: String,
        /// The index.
        index: usize,
    },
    /// The kernel takes 4096 instructions.
    #[error("the filter has {0} instructions, the kernel's limit is 4096")]
    TooLong(usize),
}

/// A filter, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
    /// Instructions as the kernel wants them: `struct sock_filter`, eight bytes each.
    pub(crate) program: Vec<u8>,
}

/// The x32 ABI marks its numbers with this bit.
const X32_BIT: u32 = 0x4000_0000;

const RET_KILL_THREAD: u32 = 0;
const RET_ERRNO: u32 = 0x0005_0000;

const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;

/// Whether a filter with these flags asks an agent about some calls.
pub(crate) fn asks(flags: u32) -> bool {
    flags & FLAG_NEW_LISTENER != 0
}
const FLAG_WAIT_KILLABLE: u32 = 1 << 5;

/// What is called between the filter and the program: by us, and by other runtimes, so that a profile that works here
/// works there.
const HANDS_OVER: [&str; 2] = ["sendmsg", "write"];

/// Whether somebody must listen to a filter of this profile.
pub(crate) fn notifies(profile: &LinuxSeccomp) -> bool {
    profile
        .syscalls()
        .iter()
        .flatten()
        .any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify && !rule.names().is_empty())
}

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// Operation codes: class | size or operation | mode or source.
const LD_ABS: u16 = 0x20;
const AND_K: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JGT_K: u16 = 0x25;
const JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// What happens to a system call number.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leaf {
    Return(u32),
    /// The first rule whose comparisons all hold; otherwise the default.
    Compare(Vec<(Vec<LinuxSeccompArg>, u32)>),
}

/// Compiles a profile.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let instructions = instructions(profile)?;
    if instructions.len() > 4096 {
        return Err(SeccompError::TooLong(instructions.len()));
    }
    let mut program = Vec::with_capacity(instructions.len() * 8);
    for instruction in &instructions {
        program.extend_from_slice(&instruction.code.to_ne_bytes());
        program.extend_from_slice(&[instruction.jt, instruction.jf]);
        program.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    // Without SPEC_ALLOW older kernels slow every container down for a side channel that filters do not close;
    // a profile that wants the mitigation gives an explicit list of flags.
    let flags = match profile.flags() {
        None => FLAG_SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |all, flag| {
            all | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                // There is one thread when the filter is set.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                // The kernel takes it only together with a listener.
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies(profile) => {
                    FLAG_WAIT_KILLABLE
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
        }),
    };
    let listener = if notifies(profile) { FLAG_NEW_LISTENER } else { 0 };
    Ok(Filter { flags: flags | listener, program })
}

pub(super) fn instructions(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, SeccompError> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(SeccompError::NotifyAll);
    }
    let mut abis: Vec<Abi> = vec![Abi::NATIVE];
    for arch in profile.architectures().iter().flatten() {
        if let Some(abi) = Abi::from_oci(*arch)
            && !abis.contains(&abi)
        {
            abis.push(abi);
        }
    }
    let default = profile.default_action().as_u32(profile.default_errno_ret());

    let mut code = vec![statement(LD_ABS, OFFSET_ARCH)];
    let mut done: Vec<u32> = Vec::new();
    for abi in &abis {
        if done.contains(&abi.audit()) {
            continue;
        }
        done.push(abi.audit());
        let mut section = vec![statement(LD_ABS, OFFSET_NUMBER)];
        if matches!(abi, Abi::X86_64 | Abi::X32) {
            // One audit architecture, two ABIs: the number tells them apart.
            let side = |abi: Abi, bit: u32| -> Result<Vec<(u32, Leaf)>, SeccompError> {
                if abis.contains(&abi) {
                    ranges(profile, abi, bit, default)
                } else {
                    Ok(vec![(bit, Leaf::Return(RET_KILL_THREAD))])
                }
            };
            let mut both = side(Abi::X86_64, 0)?;
            both.extend(side(Abi::X32, X32_BIT)?);
            section.extend(tree(&both, default));
        } else {
            section.extend(tree(&ranges(profile, *abi, 0, default)?, default));
        }
        // Next architecture if it is not this one.
        code.extend(branch(JEQ_K, abi.audit(), section.len()));
        code.extend(section);
    }
    code.push(statement(RET_K, RET_KILL_THREAD));
    Ok(code)
}

/// Instructions that go on with what follows if the comparison holds, and otherwise `length` instructions
/// further.
fn branch(code: u16, k: u32, length: usize) -> Vec<Instruction> {
    match u8::try_from(length) {
        Ok(short) => vec![Instruction { code, jt: 0, jf: short, k }],
        // Conditional jumps reach 255 instructions, unconditional ones any distance.
        Err(_) => vec![
            Instruction { code, jt: 1, jf: 0, k },
            statement(JA, u32::try_from(length).unwrap_or(u32::MAX)),
        ],
    }
}

/// The answers of one ABI as ranges of numbers, each from its start to the next one's.
fn ranges(
    profile: &LinuxSeccomp,
    abi: Abi,
    bit: u32,
    default: u32,
) -> Result<Vec<(u32, Leaf)>, SeccompError> {
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    let mut newest = None;
    for rule in profile.syscalls().iter().flatten() {
        let action = rule.action().as_u32(rule.errno_ret());
        for name in rule.names() {
            if rule.action() == LinuxSeccompAction::ScmpActNotify && HANDS_OVER.contains(&name.as_str()) {
                return Err(SeccompError::Notify(name.clone()));
            }
            if let Some(argument) = rule.args().iter().flatten().find(|argument| argument.index() > 5) {
                return Err(SeccompError::Argument { syscall: name.clone(), index: argument.index() });
            }
            let Some(number) = table::number(abi, name) else { continue };
            newest = newest.max(Some(number));
            if action == default {
                continue;
            }
            let arguments = rule.args().as_deref().unwrap_or_default();
            let leaf = leaves.entry(number).or_insert_with(|| Leaf::Compare(Vec::new()));
            // A rule without comparisons beats all others for its call; the first such rule stays.
            match leaf {
                Leaf::Return(_) => {}
                Leaf::Compare(_) if arguments.is_empty() => *leaf = Leaf::Return(action),
                Leaf::Compare(rules) => {
                    rules.extend(alternatives(arguments).into_iter().map(|all| (all, action)))
                }
            }
        }
    }

    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |start: u32, leaf: Leaf| {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((start | bit, leaf));
        }
    };
    let mut next = 0;
    for (number, leaf) in leaves {
        if number > next || next == 0 && number > 0 {
            push(next, Leaf::Return(default));
        }
        push(number, leaf);
        next = number + 1;
    }
    // Programs probe for new calls and fall back when they get ENOSYS; EPERM breaks them. So calls that are
    // newer than everything the profile knows do not exist, unless the profile lets unknown calls pass.
    let unknown = match (profile.default_action(), newest) {
        (LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog, _) | (_, None) => default,
        (LinuxSeccompAction::ScmpActTrace | LinuxSeccompAction::ScmpActNotify, _) => default,
        _ => RET_ERRNO | u32::try_from(libc::ENOSYS).unwrap_or(0),
    };
    match newest {
        Some(newest) => {
            if next <= newest {
                push(next, Leaf::Return(default));
            }
            push(newest + 1, Leaf::Return(unknown));
        }
        None => push(next, Leaf::Return(unknown)),
    }
    Ok(ranges)
}

/// Comparisons of different arguments must all hold; several of the same argument are alternatives, which is
/// how runc has always read them.
fn alternatives(arguments: &[LinuxSeccompArg]) -> Vec<Vec<LinuxSeccompArg>> {
    let repeated = arguments
        .iter()
        .enumerate()
        .any(|(i, one)| arguments[..i].iter().any(|other| other.index() == one.index()));
    if repeated { arguments.iter().map(|one| vec![*one]).collect() } else { vec![arguments.to_vec()] }
}

/// A binary search for the range that the number (in the accumulator) lies in.
fn tree(ranges: &[(u32, Leaf)], default: u32) -> Vec<Instruction> {
    match ranges {
        [] => vec![statement(RET_K, default)],
        [(_, leaf)] => leaf_code(leaf, default),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let upper = tree(right, default);
            let mut code = branch(JGE_K, right[0].0, upper.len());
            code.extend(upper);
            code.extend(tree(left, default));
            code
        }
    }
}

fn leaf_code(leaf: &Leaf, default: u32) -> Vec<Instruction> {
    match leaf {
        Leaf::Return(action) => vec![statement(RET_K, *action)],
        Leaf::Compare(rules) => {
            let mut code = Vec::new();
            for (comparisons, action) in rules {
                code.extend(rule_code(comparisons, *action));
            }
            code.push(statement(RET_K, default));
            code
        }
    }
}

/// Where a jump within a comparison goes.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// The comparison holds: the next comparison, or the rule's action.
    Holds,
    /// It does not: the next rule.
    Fails,
}

/// A rule: all comparisons, then its action. Falls out of its end if one does not hold.
fn rule_code(comparisons: &[LinuxSeccompArg], action: u32) -> Vec<Instruction> {
    let parts: Vec<_> = comparisons.iter().map(comparison).collect();
    // At most six comparisons of six instructions: every distance fits into a byte.
    let total: usize = parts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total);
    for part in &parts {
        let end = code.len() + part.len();
        for (instruction, on_true, on_false) in part {
            let here = code.len() + 1;
            let distance = |to: &To| {
                let target = match to {
                    To::Next => here,
                    To::Holds => end,
                    To::Fails => total,
                };
                u8::try_from(target - here).unwrap_or(u8::MAX)
            };
            code.push(Instruction { jt: distance(on_true), jf: distance(on_false), ..*instruction });
        }
    }
    code.push(statement(RET_K, action));
    code
}

/// The kernel's filter machine has 32-bit words, so an argument is compared half by half.
fn comparison(argument: &LinuxSeccompArg) -> Vec<(Instruction, To, To)> {
    use To::{Fails, Holds, Next};
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let offset = OFFSET_ARGS + 8 * u32::try_from(argument.index()).unwrap_or(0);
    let (low_at, high_at) =
        if cfg!(target_endian = "little") { (offset, offset + 4) } else { (offset + 4, offset) };
    let load = |at| (statement(LD_ABS, at), Next, Next);
    let (high, low) = halves(argument.value());
    let jump = |code, k, on_true, on_false| (statement(code, k), on_true, on_false);
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => {
            vec![load(high_at), jump(JEQ_K, high, Next, Fails), load(low_at), jump(JEQ_K, low, Holds, Fails)]
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            vec![load(high_at), jump(JEQ_K, high, Next, Holds), load(low_at), jump(JEQ_K, low, Fails, Holds)]
        }
        LinuxSeccompOperator::ScmpCmpGt => vec![
            load(high_at),
            jump(JGT_K, high, Holds, Next),
            jump(JEQ_K, high, Next, Fails),
            load(low_at),
            jump(JGT_K, low, Holds, Fails),
        ],
        LinuxSeccompOperator::ScmpCmpGe => vec![
            load(high_at),
            jump(JGT_K, high, Holds, Next),
            jump(JEQ_K, high, Next, Fails),
            load(low_at),
            jump(JGE_K, low, Holds, Fails),
        ],
        LinuxSeccompOperator::ScmpCmpLt => vec![
            load(high_at),
            jump(JGT_K, high, Fails, Next),
            jump(JEQ_K, high, Next, Holds),
            load(low_at),
            jump(JGE_K, low, Fails, Holds),
        ],
        LinuxSeccompOperator::ScmpCmpLe => vec![
            load(high_at),
            jump(JGT_K, high, Fails, Next),
            jump(JEQ_K, high, Next, Holds),
            load(low_at),
            jump(JGT_K, low, Fails, Holds),
        ],
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            // `value` is the mask, `value_two` what must remain.
            let (wanted_high, wanted_low) = halves(argument.value_two().unwrap_or(0));
            vec![
                load(high_at),
                (statement(AND_K, high), Next, Next),
                jump(JEQ_K, wanted_high, Next, Fails),
                load(low_at),
                (statement(AND_K, low), Next, Next),
                jump(JEQ_K, wanted_low, Holds, Fails),
            ]
        }
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
pub(super) mod tests;
