//! Filters are run on an interpreter of the kernel's machine and compared with a plain reading of the profile.

use oci_spec::runtime::{
    Arch, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = RET_ERRNO | 1;
const ENOSYS: u32 = RET_ERRNO | 38;

/// Runs a filter on a system call.
pub(in super::super) fn run(code: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| -> u32 {
        match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            _ => {
                let at = (offset - OFFSET_ARGS) as usize;
                (args[at / 8] >> (if at % 8 == 4 { 32 } else { 0 })) as u32
            }
        }
    };
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let i = code[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { i.jt } else { i.jf });
        match i.code {
            LD_ABS => accumulator = word(i.k),
            AND_K => accumulator &= i.k,
            JA => at += i.k as usize,
            JEQ_K => jump(accumulator == i.k),
            JGT_K => jump(accumulator > i.k),
            JGE_K => jump(accumulator >= i.k),
            RET_K => return i.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn syscall(name: &str, action: LinuxSeccompAction, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscallBuilder::default().names([name.to_owned()]).action(action).args(args).build().unwrap()
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64, two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(two).build().unwrap()
}

fn profile(default: LinuxSeccompAction, syscalls: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccompBuilder::default()
        .default_action(default)
        .default_errno_ret(1_u32)
        .architectures([Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32])
        .syscalls(syscalls)
        .build()
        .unwrap()
}

fn on(abi: Abi, code: &[Instruction], name: &str, args: [u64; 6]) -> u32 {
    let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
    run(code, abi.audit(), table::number(abi, name).unwrap() | bit, args)
}

#[test]
fn unconditional_rules_decide_by_number() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActKillProcess};
    let code = instructions(&profile(
        ScmpActErrno,
        vec![
            syscall("read", ScmpActAllow, vec![]),
            syscall("mount", ScmpActKillProcess, vec![]),
            syscall("mseal", ScmpActAllow, vec![]),
        ],
    ))
    .unwrap();
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        assert_eq!(on(abi, &code, "read", [0; 6]), ALLOW, "{abi:?}");
        assert_eq!(on(abi, &code, "write", [0; 6]), EPERM, "{abi:?}");
        assert_eq!(on(abi, &code, "mount", [0; 6]), 0x8000_0000, "{abi:?}");
        assert_eq!(on(abi, &code, "mseal", [0; 6]), ALLOW, "{abi:?}");
        assert_eq!(on(abi, &code, "file_setattr", [0; 6]), ENOSYS, "newer than the profile, {abi:?}");
    }
    assert_eq!(run(&code, Abi::Arm.audit(), 0, [0; 6]), RET_KILL_THREAD, "foreign architecture");
}

#[test]
fn architectures_that_are_not_named_are_killed() {
    let mut profile = profile(LinuxSeccompAction::ScmpActAllow, vec![]);
    profile.set_architectures(None);
    let code = instructions(&profile).unwrap();
    assert_eq!(on(Abi::NATIVE, &code, "read", [0; 6]), ALLOW);
    assert_eq!(run(&code, Abi::X86.audit(), 3, [0; 6]), RET_KILL_THREAD);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(run(&code, Abi::X32.audit(), X32_BIT, [0; 6]), RET_KILL_THREAD);
}

#[test]
fn comparisons_look_at_all_64_bits() {
    use LinuxSeccompOperator::*;
    let big = 0x1_0000_0002_u64;
    type Holds = fn(u64, u64) -> bool;
    let cases: [(LinuxSeccompOperator, Holds); 6] = [
        (ScmpCmpEq, |a, b| a == b),
        (ScmpCmpNe, |a, b| a != b),
        (ScmpCmpLt, |a, b| a < b),
        (ScmpCmpLe, |a, b| a <= b),
        (ScmpCmpGt, |a, b| a > b),
        (ScmpCmpGe, |a, b| a >= b),
    ];
    for (op, holds) in cases {
        let code = instructions(&profile(
            LinuxSeccompAction::ScmpActErrno,
            vec![syscall("ioctl", LinuxSeccompAction::ScmpActAllow, vec![arg(1, op, big, 0)])],
        ))
        .unwrap();
        for value in [0, 1, 2, 3, big - 1, big, big + 1, 0x2_0000_0000, 0x1_0000_0000, u64::MAX, 0xffff_ffff]
        {
            let expected = if holds(value, big) { ALLOW } else { EPERM };
            assert_eq!(
                on(Abi::NATIVE, &code, "ioctl", [7, value, 0, 0, 0, 0]),
                expected,
                "{value:#x} {op:?}"
            );
        }
    }
}

#[test]
fn masks_and_several_arguments() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpMaskedEq};
    let code = instructions(&profile(
        ScmpActErrno,
        vec![
            syscall("clone", ScmpActAllow, vec![arg(0, ScmpCmpMaskedEq, 0x7e02_0000, 0)]),
            // Different arguments: both must hold.
            syscall("kill", ScmpActAllow, vec![arg(0, ScmpCmpEq, 1, 0), arg(1, ScmpCmpEq, 9, 0)]),
            // The same argument: either.
            syscall("personality", ScmpActAllow, vec![arg(0, ScmpCmpEq, 0, 0), arg(0, ScmpCmpEq, 8, 0)]),
        ],
    ))
    .unwrap();
    let native = |name, args| on(Abi::NATIVE, &code, name, args);
    assert_eq!(native("clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(native("clone", [0x1000_0011, 0, 0, 0, 0, 0]), EPERM, "CLONE_NEWUSER");
    assert_eq!(native("kill", [1, 9, 0, 0, 0, 0]), ALLOW);
    assert_eq!(native("kill", [1, 15, 0, 0, 0, 0]), EPERM);
    assert_eq!(native("kill", [2, 9, 0, 0, 0, 0]), EPERM);
    assert_eq!(native("personality", [8, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(native("personality", [4, 0, 0, 0, 0, 0]), EPERM);
}

#[test]
fn a_rule_without_comparisons_wins() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno};
    let conditional = syscall("clone", ScmpActAllow, vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, 5, 0)]);
    let plain = syscall("clone", ScmpActAllow, vec![]);
    for rules in [vec![conditional.clone(), plain.clone()], vec![plain, conditional]] {
        let code = instructions(&profile(ScmpActErrno, rules)).unwrap();
        assert_eq!(on(Abi::NATIVE, &code, "clone", [6, 0, 0, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let notify = |name| {
        profile(
            LinuxSeccompAction::ScmpActAllow,
            vec![syscall(name, LinuxSeccompAction::ScmpActNotify, vec![])],
        )
    };
    assert_eq!(compile(&notify("sendmsg")), Err(SeccompError::Notify("sendmsg".to_owned())));
    assert!(compile(&notify("mkdir")).unwrap().flags & 8 != 0, "the filter comes with a listener");
    let index = profile(
        LinuxSeccompAction::ScmpActAllow,
        vec![syscall(
            "mkdir",
            LinuxSeccompAction::ScmpActErrno,
            vec![arg(6, LinuxSeccompOperator::ScmpCmpEq, 0, 0)],
        )],
    );
    assert_eq!(compile(&index), Err(SeccompError::Argument { syscall: "mkdir".to_owned(), index: 6 }));
}

#[test]
fn the_default_profile_is_small_and_shallow() {
    let code = instructions(&super::super::default_profile(&[])).unwrap();
    assert!(code.len() < 1200, "{} instructions", code.len());
    // An allowed call is decided after a handful of instructions.
    assert_eq!(on(Abi::NATIVE, &code, "read", [0; 6]), ALLOW);
}

proptest! {
    /// A filter says for every number and argument what a plain reading of its rules says.
    #[test]
    fn filters_mean_what_profiles_say(
        rules in proptest::collection::vec((0_usize..40, 0_u8..3, 0_u64..4), 0..30),
        asked in 0_usize..40,
        value in 0_u64..4,
    ) {
        const NAMES: [&str; 8] = ["read", "write", "open", "mount", "clone3", "mseal", "getpid", "kill"];
        let syscalls: Vec<_> = rules.iter().map(|(name, kind, value)| {
            let action = if *kind == 2 { LinuxSeccompAction::ScmpActKillProcess } else { LinuxSeccompAction::ScmpActAllow };
            let args = if *kind == 0 { vec![] } else { vec![arg(0, LinuxSeccompOperator::ScmpCmpEq, *value, 0)] };
            syscall(NAMES[name % 8], action, args)
        }).collect();
        let code = instructions(&profile(LinuxSeccompAction::ScmpActErrno, syscalls)).unwrap();
        let name = NAMES[asked % 8];
        let mine: Vec<_> = rules.iter().filter(|(n, ..)| NAMES[n % 8] == name).collect();
        let newest = rules.iter().filter_map(|(n, ..)| table::number(Abi::X86_64, NAMES[n % 8])).max();
        let number = table::number(Abi::X86_64, name).unwrap();
        let expected = if mine.iter().any(|(_, kind, _)| *kind == 0) {
            ALLOW
        } else if let Some((_, kind, _)) = mine.iter().find(|(_, _, wanted)| *wanted == value) {
            if *kind == 2 { 0x8000_0000 } else { ALLOW }
        } else if newest.is_some_and(|newest| number > newest) {
            ENOSYS
        } else {
            EPERM
        };
        prop_assert_eq!(run(&code, Abi::X86_64.audit(), number, [value, 0, 0, 0, 0, 0]), expected);
    }
}
