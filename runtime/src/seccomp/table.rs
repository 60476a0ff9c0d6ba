//! System call numbers by name and architecture.

use std::collections::HashMap;
use std::sync::OnceLock;

use oci_spec::runtime::Arch;

/// One line per system call; see the file's head. A text rather than a Rust table: it needs no relocations, so
/// it costs a process that does not look at it nothing.
const TABLE: &str = include_str!("syscalls.tbl");

/// An architecture that a filter can speak about here: those that run on x86_64 and aarch64 machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    /// The machine that this program was built for.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The architecture that a profile names. Others cannot run on our machines: a process can never make
    /// their calls, so a filter need not mention them.
    pub(super) fn from_oci(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Some(Self::NATIVE),
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// What the kernel puts into `seccomp_data.arch` (`AUDIT_ARCH_*`).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn column(self) -> usize {
        self as usize
    }
}

/// The number of a system call, `None` if the architecture does not have it.
pub(super) fn number(abi: Abi, name: &str) -> Option<u32> {
    static NUMBERS: OnceLock<HashMap<&'static str, [Option<u32>; 5]>> = OnceLock::new();
    let numbers = NUMBERS.get_or_init(|| {
        TABLE
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let mut words = line.split(' ');
                let name = words.next()?;
                let mut row = [None; 5];
                for (cell, word) in row.iter_mut().zip(words) {
                    *cell = word.parse().ok();
                }
                Some((name, row))
            })
            .collect()
    });
    numbers.get(name)?[abi.column()]
}

/// Whether any architecture has a system call of this name: a profile that names another is likely misspelt.
#[cfg(test)]
pub(super) fn is_known(name: &str) -> bool {
    [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm].iter().any(|abi| number(*abi, name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_the_libc_crate() {
        for (name, native) in [
            ("openat", libc::SYS_openat),
            ("clone3", libc::SYS_clone3),
            ("keyctl", libc::SYS_keyctl),
            ("mount", libc::SYS_mount),
            ("execve", libc::SYS_execve),
            ("openat2", libc::SYS_openat2),
        ] {
            assert_eq!(number(Abi::NATIVE, name).map(i64::from), Some(native), "{name}");
        }
    }

    #[test]
    fn numbers_differ_by_architecture() {
        assert_eq!(number(Abi::X86_64, "socket"), Some(41));
        assert_eq!(number(Abi::X86, "socket"), Some(359));
        assert_eq!(number(Abi::Aarch64, "socket"), Some(198));
        assert_eq!(number(Abi::Aarch64, "open"), None);
        assert_eq!(number(Abi::Arm, "set_tls"), Some(0xf0005));
        assert_eq!(number(Abi::X86_64, "no_such_call"), None);
    }
}
