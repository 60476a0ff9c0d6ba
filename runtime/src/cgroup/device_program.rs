//! Rules for devices as a BPF program: version 2 has no list of devices, but asks a program on each access.
//!
//! ```text
//!   access, kind, major, minor ── last rule matches? ── its answer
//!                                      │ no
//!                                 rule before it … ── the first rule, which matches all
//! ```
//!
//! Version 1 lets later rules change what earlier ones have said; going from the last to the first, the first that
//! matches has the same answer.

use std::fs::File;
use std::io;
use std::path::Path;

use cgroups_rs::fs::devices::{DevicePermissions, DeviceType};

use super::CgroupError;
use super::limits::Rule;
use crate::sys::bpf;

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Operation codes.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb4;
const AND_CONSTANT: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x5e;
const JUMP_NOT_CONSTANT: u8 = 0x56;
const JUMP_EQUAL_CONSTANT: u8 = 0x16;
const EXIT: u8 = 0x95;

/// Registers: the answer, the context, and what is read from it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Guards a cgroup of version 2.
pub(super) fn guard(cgroup: &Path, rules: &[Rule]) -> Result<(), CgroupError> {
    // A rule for everything alone is what there is without a program.
    if let [only] = rules
        && only.allow
    {
        return Ok(());
    }
    let failed = |source: io::Error| CgroupError::Io {
        what: "guarding the devices of",
        path: cgroup.to_owned(),
        source,
    };
    let directory = File::open(cgroup).map_err(failed)?;
    bpf::guard_devices(&directory, &program(rules)).map_err(|errno| failed(errno.into()))
}

fn instruction(code: u8, target: u8, source: u8, offset: i16, constant: i32) -> [u8; 8] {
    let mut bytes = [code, source << 4 | target, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&constant.to_ne_bytes());
    bytes
}

/// The instructions.
fn program(rules: &[Rule]) -> Vec<[u8; 8]> {
    let mut code = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND_CONSTANT, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(one(rule));
    }
    // The kernel takes no instruction that is never reached.
    let complete = rules.first().is_some_and(|first| one(first).len() == 2);
    if !complete {
        code.push(instruction(MOVE_CONSTANT, ANSWER, 0, 0, 0));
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    code
}

/// A rule: its answer if all matches, otherwise what follows.
fn one(rule: &Rule) -> Vec<[u8; 8]> {
    let access = rule.access.iter().fold(0, |all, one| {
        all | match one {
            DevicePermissions::Read => READ,
            DevicePermissions::Write => WRITE,
            DevicePermissions::MkNod => MKNOD,
        }
    });
    let mut tests: Vec<Vec<[u8; 8]>> = Vec::new();
    match rule.kind {
        DeviceType::Char => tests.push(vec![instruction(JUMP_NOT_CONSTANT, KIND, 0, 0, CHARACTER)]),
        DeviceType::Block => tests.push(vec![instruction(JUMP_NOT_CONSTANT, KIND, 0, 0, BLOCK)]),
        DeviceType::All => {}
    }
    if access != READ | WRITE | MKNOD {
        let masked =
            [instruction(MOVE, SCRATCH, ACCESS, 0, 0), instruction(AND_CONSTANT, SCRATCH, 0, 0, access)];
        let mut test = masked.to_vec();
        test.push(if rule.allow {
            // All that is wanted must be allowed,
            instruction(JUMP_NOT_EQUAL, SCRATCH, ACCESS, 0, 0)
        } else {
            // and nothing of it denied.
            instruction(JUMP_EQUAL_CONSTANT, SCRATCH, 0, 0, 0)
        });
        tests.push(test);
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Ok(number) = u32::try_from(number) {
            tests.push(vec![instruction(JUMP_NOT_CONSTANT, register, 0, 0, number.cast_signed())]);
        }
    }
    let length: usize = tests.iter().map(Vec::len).sum::<usize>() + 2;
    let mut code = Vec::with_capacity(length);
    for test in tests {
        for mut step in test {
            if matches!(step[0], JUMP_NOT_EQUAL | JUMP_NOT_CONSTANT | JUMP_EQUAL_CONSTANT) {
                let distance = i16::try_from(length - code.len() - 1).unwrap_or(i16::MAX);
                step[2..4].copy_from_slice(&distance.to_ne_bytes());
            }
            code.push(step);
        }
    }
    code.push(instruction(MOVE_CONSTANT, ANSWER, 0, 0, i32::from(rule.allow)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// Version 2 guards devices whatever controllers it has, so that its program can be tried beside version 1.
    fn unified() -> Option<&'static Path> {
        ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.join("cgroup.controllers").exists())
    }

    #[test]
    fn the_kernel_takes_the_program_and_asks_it() {
        let Some(root) = unified().filter(|_| rustix::process::geteuid().is_root()) else {
            println!("skipped: takes root and a version 2 hierarchy");
            return;
        };
        let cgroup = root.join(format!("coracle-devices-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let rule = |allow, kind, major, minor, access: Vec<DevicePermissions>| Rule {
            allow,
            kind,
            major,
            minor,
            access,
        };
        use DevicePermissions::{MkNod, Read, Write};
        let guarded = guard(
            &cgroup,
            &[
                rule(false, DeviceType::All, -1, -1, vec![Read, Write, MkNod]),
                rule(true, DeviceType::Char, 1, 3, vec![Read, Write]),
                rule(true, DeviceType::Char, 1, 5, vec![Read]),
                rule(true, DeviceType::Char, 1, 9, vec![Read, Write, MkNod]),
                rule(false, DeviceType::Char, 1, 9, vec![Write]),
            ],
        );
        let can = |script: &str| {
            let enter = format!("echo 0 > {}/cgroup.procs && {script}", cgroup.display());
            Command::new("sh").arg("-c").arg(enter).output().unwrap().status.success()
        };
        let seen = [
            can("echo x > /dev/null"),
            can("head -c 1 /dev/zero"),
            can("echo x > /dev/zero"),
            can("head -c 1 /dev/urandom"),
            can("echo x > /dev/urandom"),
            can("head -c 1 /dev/full"),
        ];
        fs::remove_dir(&cgroup).unwrap();
        guarded.unwrap();
        assert_eq!(seen, [true, true, false, true, false, false]);
    }
}
