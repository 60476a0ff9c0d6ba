//! The mounts of a specification as steps.

use oci_spec::runtime::Mount;

use super::options::{self, NODEV, NOEXEC, NOSUID, Options, RDONLY};
use super::step::{Attributes, Source, Step};
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
}

/// Plans all mounts, in the order given.
pub(super) fn plan(mounts: &[Mount], shared_shm: bool, cgroups: &Placement) -> Result<Mounts, Refusal> {
    let mut result = Mounts::default();
    for (index, mount) in mounts.iter().enumerate() {
        let field = format!("mounts[{index}]");
        one(&mut result, &field, mount, shared_shm, cgroups)?;
    }
    Ok(result)
}

fn one(
    result: &mut Mounts,
    field: &str,
    mount: &Mount,
    shared_shm: bool,
    cgroups: &Placement,
) -> Result<(), Refusal> {
    let destination = path_text(&format!("{field}.destination"), mount.destination())?;
    let plain = destination.as_c_str().to_bytes();
    if plain.iter().all(|byte| matches!(byte, b'/' | b'.')) {
        return refuse(format!("{field}.destination"), "is the root");
    }
    let mut options = options::parse(mount.options().as_deref().unwrap_or_default());
    if let Some(option) = options.unsupported {
        return refuse(format!("{field}.options"), format!("{option} is not supported"));
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return refuse(format!("{field}.uidMappings"), "is not supported");
    }
    let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
    options.bind |= kind == "bind";
    let is_dev = plain == b"/dev" || plain == b"/dev/";
    result.has_dev |= is_dev;

    if options.bind {
        result.foreign_dev |= is_dev;
        let Some(source) = mount.source() else { return refuse(format!("{field}.source"), "is missing") };
        let source = Source {
            path: path_text(&format!("{field}.source"), source)?,
            beneath: match &options.beneath {
                Some(directory) => Some(text(&format!("{field}.options"), directory)?),
                None => None,
            },
        };
        bind(result, source, &options, destination);
        return Ok(());
    }
    match kind {
        "" => refuse(format!("{field}.type"), "is missing"),
        "cgroup" | "cgroup2" => cgroup(result, field, mount, &options, cgroups),
        "tmpfs"
            if shared_shm && mount.source().as_deref().is_some_and(|source| source.as_os_str() == "shm") =>
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
            result.place.push(Step::Mount {
                file_system: text(&format!("{field}.type"), kind)?,
                source,
                options: data,
                attributes,
                destination,
            });
            Ok(())
        }
    }
}

fn bind(result: &mut Mounts, source: Source, options: &Options, destination: super::text::Text) {
    let opened = result.open.len();
    result.open.push(Step::OpenBind { source, recursive: options.recursive, attributes: options.attributes });
    result.place.push(Step::PlaceBind { opened, destination });
}

/// A view of the container's own cgroups. On v2 it is one directory; on v1 a tmpfs with one directory for each
/// hierarchy, as programs that read their limits expect it.
fn cgroup(
    result: &mut Mounts,
    field: &str,
    mount: &Mount,
    options: &Options,
    cgroups: &Placement,
) -> Result<(), Refusal> {
    let destination = path_text(field, mount.destination())?;
    let source = |path: &std::path::Path| -> Result<Source, Refusal> {
        Ok(Source { path: path_text(field, path)?, beneath: None })
    };
    let attributes = options.attributes;
    let plain = Options { attributes, ..Options::default() };
    if cgroups.views.is_empty() {
        let Some(unified) = &cgroups.unified else { return refuse(field, "this machine has no cgroups") };
        bind(result, source(unified)?, &plain, destination);
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
    });
    for view in &cgroups.views {
        bind(result, source(&view.path)?, &plain, text(field, &format!("{base}/{}", view.name))?);
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
