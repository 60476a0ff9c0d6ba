//! The mounts of a specification as steps.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::options::{self, NODEV, NOEXEC, NOSUID, Options, RDONLY};
use super::step::{Attributes, Source, Step};
use super::text::Text;
use super::{Refusal, path_text, refuse, text};
use crate::cgroup::Placement;

/// Mounts, in the two groups that they are executed in: what must be opened while the host's tree is in reach,
/// and what is done with it.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) open: Vec<Step>,
    pub(super) place: Vec<Step>,
    /// Attributes that must wait until what lies within has been made.
    pub(super) finish: Vec<Step>,
    /// `/dev` is the host's own directory: nothing is made in it.
    pub(super) foreign_dev: bool,
    /// A mount needs propagation from or to the host.
    pub(super) has_dev: bool,
    /// For each of `open`: how its ids are mapped.
    pub(super) idmaps: Vec<Option<IdMap>>,
    /// How the ids of those are mapped that are opened at their turn, in order.
    pub(super) maps_late: Vec<IdMap>,
}

/// How the ids of an idmapped mount are mapped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct IdMap {
    /// Lines for `uid_map`; those of the container's own user namespace if there are none.
    pub(crate) uids: String,
    pub(crate) gids: String,
    /// The mounts below it as well.
    pub(crate) recursive: bool,
}

fn idmap(field: &str, mount: &Mount, options: &Options) -> Result<IdMap, Refusal> {
    let lines = |mappings: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        id_lines(mappings.as_deref().unwrap_or_default())
    };
    let map = IdMap {
        uids: lines(mount.uid_mappings()),
        gids: lines(mount.gid_mappings()),
        recursive: options.idmap_recursive,
    };
    if map.uids.is_empty() != map.gids.is_empty() {
        return refuse(format!("{field}.uidMappings"), "uids and gids must be mapped together");
    }
    Ok(map)
}

/// Mappings as the kernel's files take them.
pub(crate) fn id_lines(mappings: &[oci_spec::runtime::LinuxIdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut lines, one| {
        use std::fmt::Write as _;
        let _ = writeln!(lines, "{} {} {}", one.container_id(), one.host_id(), one.size());
        lines
    })
}

/// Plans all mounts, in the order given.
///
pub(super) fn plan(mounts: &[Mount], means: Means<'_>, cgroups: &Placement) -> Result<Mounts, Refusal> {
    let mut result = Mounts::default();
    for (index, mount) in mounts.iter().enumerate() {
        let field = format!("mounts[{index}]");
        one(&mut result, &field, mount, means, cgroups)?;
    }
    Ok(result)
}

/// What whoever executes the plan can do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Means<'a> {
    /// The sandbox has shared memory of its own.
    pub(super) shared_shm: bool,
    /// The parent can make idmapped mounts.
    pub(super) may_map: bool,
    /// The new process can map ids as its sandbox's users have them, and does it before anything is mounted.
    pub(super) users: bool,
    /// The new process reaches all that its parent does, by the same paths, when it mounts.
    pub(super) direct: bool,
    /// The directory that the root is made of. Paths below it are the container's own.
    pub(super) rootfs: Option<&'a Path>,
}

impl Means<'_> {
    /// The path within the container, for one that lies in its root file system.
    fn within(&self, path: &Path) -> Option<PathBuf> {
        let rootfs = self.rootfs.filter(|rootfs| rootfs.parent().is_some())?;
        let inner = path.strip_prefix(rootfs).ok()?;
        let plain = inner.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        plain.then(|| Path::new("/").join(inner))
    }
}

fn one(
    result: &mut Mounts,
    field: &str,
    mount: &Mount,
    means: Means<'_>,
    cgroups: &Placement,
) -> Result<(), Refusal> {
    let own = means.within(mount.destination());
    let destination =
        path_text(&format!("{field}.destination"), own.as_deref().unwrap_or(mount.destination()))?;
    let plain = destination.as_c_str().to_bytes();
    if plain.iter().all(|byte| matches!(byte, b'/' | b'.')) {
        return refuse(format!("{field}.destination"), "is the root");
    }
    let mut options = options::parse(mount.options().as_deref().unwrap_or_default());
    if let Some(option) = options.unsupported {
        return refuse(format!("{field}.options"), format!("{option} is not supported"));
    }
    let mapped = options.idmap || mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
    options.bind |= kind == "bind";
    let is_dev = plain == b"/dev" || plain == b"/dev/";
    result.has_dev |= is_dev;

    if options.bind {
        result.foreign_dev |= is_dev;
        let Some(source) = mount.source() else { return refuse(format!("{field}.source"), "is missing") };
        let within = means.within(source).filter(|_| options.beneath.is_none());
        let source = Source {
            path: path_text(&format!("{field}.source"), within.as_deref().unwrap_or(source))?,
            beneath: match &options.beneath {
                Some(directory) => Some(text(&format!("{field}.options"), directory)?),
                None => None,
            },
        };
        if mapped && means.users {
            if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
                return refuse(format!("{field}.uidMappings"), "is not supported");
            }
            let opened = result.open.len();
            let Options { recursive, attributes, .. } = options;
            result.idmaps.push(None);
            result.open.push(Step::OpenBind { source, recursive, attributes, mapped });
            result.place.push(Step::PlaceBind { opened, destination, fresh: false });
            return Ok(());
        }
        let idmap = match (mapped, means.may_map) {
            (false, _) => None,
            (true, false) => return refuse(format!("{field}.uidMappings"), "is not supported"),
            (true, true) => Some(idmap(field, mount, &options)?),
        };
        let how = match (&within, &idmap) {
            (Some(_), _) => How::Within,
            (None, None) if means.direct => How::Direct,
            _ => How::Before,
        };
        bind(result, source, &options, destination, how, idmap);
        return Ok(());
    }
    if mapped {
        return refuse(format!("{field}.uidMappings"), "ids can be mapped on bind mounts only");
    }
    if options.copy_up && kind != "tmpfs" {
        return refuse(format!("{field}.options"), "tmpcopyup is for tmpfs only");
    }
    match kind {
        "" => refuse(format!("{field}.type"), "is missing"),
        "cgroup" | "cgroup2" => cgroup(result, field, destination, &options, means.direct, cgroups),
        "tmpfs"
            if means.shared_shm
                && mount.source().as_deref().is_some_and(|source| source.as_os_str() == "shm") =>
        {
            result.place.push(Step::PlaceShm { destination, attributes: options.attributes });
            Ok(())
        }
        _ => {
            let source = match mount.source() {
                Some(source) => path_text(&format!("{field}.source"), source)?,
                None => text(field, kind)?,
            };
            let mut data = Vec::with_capacity(options.data.len() + 1);
            for (key, value) in &options.data {
                let value = match value {
                    Some(value) => Some(text(&format!("{field}.options"), value)?),
                    None => None,
                };
                data.push((text(&format!("{field}.options"), key)?, value));
            }
            let mut attributes = options.attributes;
            let read_only = attributes.set & RDONLY != 0;
            if read_only && source.as_c_str().to_bytes().starts_with(b"/") {
                // A device must not be written to either, for example to replay a journal.
                data.push((text(field, "ro")?, None));
            }
            if read_only && is_dev {
                // Devices are still to be made in it.
                attributes.set &= !RDONLY;
                result.finish.push(Step::Attributes {
                    destination: destination.clone(),
                    attributes: Attributes { set: RDONLY, ..Attributes::default() },
                });
            }
            let inherit_mode =
                kind == "tmpfs" && !options.copy_up && !options.data.iter().any(|(key, _)| key == "mode");
            result.place.push(Step::Mount {
                file_system: text(&format!("{field}.type"), kind)?,
                source,
                options: data,
                attributes,
                destination,
                copy_up: options.copy_up,
                inherit_mode,
            });
            Ok(())
        }
    }
}

/// When and from where the source of a bind mount is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// By the parent, or before the root is mounted.
    Before,
    /// At its turn. Mounts are then listed in the order of the specification, as those who look expect.
    Direct,
    /// At its turn, in the container's root as it is by then.
    Within,
}

fn bind(
    result: &mut Mounts,
    source: Source,
    options: &Options,
    destination: Text,
    how: How,
    idmap: Option<IdMap>,
) {
    let (recursive, attributes) = (options.recursive, options.attributes);
    // What passes mounts on to the host's, or takes them from there, must come from the host's own tree; and
    // /proc/self is somebody else's for the new process.
    let passes = !matches!(attributes.propagation, 0 | libc::MS_PRIVATE | libc::MS_UNBINDABLE);
    let direct = how == How::Direct && !passes && !source.path.as_c_str().to_bytes().starts_with(b"/proc/");
    if how == How::Within || direct {
        let mapped = idmap.is_some();
        result.maps_late.extend(idmap);
        let within = how == How::Within;
        result.place.push(Step::Bind { source, within, recursive, attributes, destination, mapped });
        return;
    }
    let opened = result.open.len();
    result.idmaps.push(idmap);
    result.open.push(Step::OpenBind { source, recursive, attributes, mapped: false });
    result.place.push(Step::PlaceBind { opened, destination, fresh: how == How::Direct && passes });
}

/// A view of the container's own cgroups. On v2 it is one directory; on v1 a tmpfs with one directory for each
/// hierarchy, as programs that read their limits expect it.
fn cgroup(
    result: &mut Mounts,
    field: &str,
    destination: Text,
    options: &Options,
    direct: bool,
    cgroups: &Placement,
) -> Result<(), Refusal> {
    let how = if direct { How::Direct } else { How::Before };
    let source = |path: &std::path::Path| -> Result<Source, Refusal> {
        Ok(Source { path: path_text(field, path)?, beneath: None })
    };
    let attributes = options.attributes;
    let plain = Options { attributes, ..Options::default() };
    if cgroups.views.is_empty() {
        let Some(unified) = &cgroups.unified else { return refuse(field, "this machine has no cgroups") };
        bind(result, source(unified)?, &plain, destination, how, None);
        return Ok(());
    }
    let base = destination.to_string();
    let base = base.trim_end_matches('/');
    result.place.push(Step::Mount {
        file_system: text(field, "tmpfs")?,
        source: text(field, "tmpfs")?,
        options: vec![
            (text(field, "mode")?, Some(text(field, "755")?)),
            // It holds nothing but directories and links.
            (text(field, "size")?, Some(text(field, "64k")?)),
        ],
        attributes: Attributes { set: NOSUID | NODEV | NOEXEC, ..Attributes::default() },
        destination: destination.clone(),
        copy_up: false,
        inherit_mode: false,
    });
    for view in &cgroups.views {
        let place = text(field, &format!("{base}/{}", view.name))?;
        bind(result, source(&view.path)?, &plain, place, how, None);
    }
    for (link, target) in &cgroups.links {
        result.place.push(Step::Symlink {
            target: text(field, target)?,
            path: text(field, &format!("{base}/{link}"))?,
        });
    }
    if attributes.set & RDONLY != 0 {
        result.place.push(Step::Attributes {
            destination,
            attributes: Attributes { set: RDONLY, ..Attributes::default() },
        });
    }
    Ok(())
}
