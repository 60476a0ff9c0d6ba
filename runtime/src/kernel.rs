//! The kernel's version, for the few things that cannot be tried without noise in its log.

use std::fs;
use std::sync::OnceLock;

/// Whether the kernel is of this version or newer.
pub(crate) fn at_least(major: u32, minor: u32) -> bool {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    let seen = VERSION.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // One that does not say is taken for a new one, which complains when it does not know something.
        version(text.trim()).unwrap_or((u32::MAX, 0))
    });
    *seen >= (major, minor)
}

/// Major and minor number.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Overlayfs takes its layers one by one, however many and with whatever names.
pub(crate) fn has_separate_layers() -> bool {
    at_least(6, 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("6.18.44-fc-v509"), Some((6, 18)));
        assert_eq!(version("5.12"), Some((5, 12)));
        assert_eq!(version("5.9.0-rc1"), Some((5, 9)));
        assert_eq!(version("x"), None);
        assert!(at_least(3, 0) && !at_least(1000, 0));
    }
}
