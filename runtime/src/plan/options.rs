//! Mount options as fstab, the OCI specification and people write them.

use super::step::Attributes;

pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
/// The three bits that choose among relatime (0), noatime and strictatime.
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// Options, sorted by what they are about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// `bind` or `rbind` is among them.
    pub(crate) bind: bool,
    /// `rbind` is among them.
    pub(crate) recursive: bool,
    pub(crate) attributes: Attributes,
    /// For the file system itself.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// `x-runtime.beneath=DIR`: an extension; the source of a bind mount is looked up in `DIR` and cannot
    /// leave it.
    pub(crate) beneath: Option<String>,
    /// `tmpcopyup`: what the image has there is copied.
    pub(crate) copy_up: bool,
    /// `idmap` or `ridmap`.
    pub(crate) idmap: bool,
    /// `ridmap`.
    pub(crate) idmap_recursive: bool,
    /// What we know of and do not do.
    pub(crate) unsupported: Option<&'static str>,
}

/// Reads options; later ones win over earlier ones.
pub(crate) fn parse(options: &[String]) -> Options {
    let mut result = Options::default();
    for option in options {
        let option = option.as_str();
        if let Some((set, clear)) = attribute(option) {
            apply(&mut result.attributes.set, &mut result.attributes.clear, set, clear);
        } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            // `rro`, `rnosuid`, …: the same, for all mounts below as well.
            apply(&mut result.attributes.recursive_set, &mut result.attributes.recursive_clear, set, clear);
        } else if let Some((flags, recursive)) = propagation(option) {
            result.attributes.propagation = flags;
            result.attributes.recursive_propagation = recursive;
        } else {
            match option {
                "" | "defaults" | "async" | "silent" | "loud" | "nomand" | "nolazytime" | "iversion"
                | "noiversion" => {}
                "bind" => result.bind = true,
                "rbind" => (result.bind, result.recursive) = (true, true),
                // Every mount of ours is new, and has its flags from the start.
                "remount" => {}
                "tmpcopyup" => result.copy_up = true,
                "idmap" => result.idmap = true,
                "ridmap" => (result.idmap, result.idmap_recursive) = (true, true),
                "mand" => result.unsupported = Some("mand"),
                _ => match option.split_once('=') {
                    Some(("x-runtime.beneath", directory)) => result.beneath = Some(directory.to_owned()),
                    Some((key, value)) => result.data.push((key.to_owned(), Some(value.to_owned()))),
                    None => result.data.push((option.to_owned(), None)),
                },
            }
        }
    }
    result
}

fn apply(set: &mut u64, clear: &mut u64, on: u64, off: u64) {
    *set = (*set & !off) | on;
    *clear = (*clear & !on) | off;
}

/// Bits to set and to clear.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "noatime" => (NOATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

/// Propagation flags, and whether mounts below are meant as well.
pub(crate) fn propagation(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Options {
        parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn attributes_are_bits() {
        let check = |options: &[&str], set: u64, clear: u64| {
            let attributes = read(options).attributes;
            assert_eq!((attributes.set, attributes.clear), (set, clear), "{options:?}");
        };
        check(&["nosuid", "nodev", "noexec", "ro"], 15, 0);
        check(&["ro", "rw"], 0, RDONLY);
        check(&["rw", "ro"], RDONLY, 0);
        // The kernel wants the whole field cleared when one of its values is set.
        check(&["noatime"], NOATIME, ATIME);
        check(&["relatime"], 0, ATIME);
        check(&["defaults", "async", ""], 0, 0);
    }

    #[test]
    fn recursive_attributes_are_apart() {
        let options = read(&["rbind", "rro", "rnosuid", "rprivate"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.attributes.set, 0);
        assert_eq!(options.attributes.recursive_set, RDONLY | NOSUID);
        assert_eq!(
            (options.attributes.propagation, options.attributes.recursive_propagation),
            (libc::MS_PRIVATE, true)
        );
    }

    #[test]
    fn the_rest_is_for_the_file_system() {
        let options = read(&["size=64k", "noswap", "x-runtime.beneath=/vol"]);
        assert_eq!(options.data, [("size".into(), Some("64k".into())), ("noswap".into(), None)]);
        assert_eq!(options.beneath.as_deref(), Some("/vol"));
        assert!(read(&["tmpcopyup"]).copy_up && read(&["ridmap"]).idmap_recursive);
        assert_eq!(read(&["mand"]).unsupported, Some("mand"));
    }
}
