//! `checkpoint` and `restore`: from flags to options.

use std::path::PathBuf;

use anyhow::Context;
use runtime::oci::{CheckpointOptions, CreateOptions, CriuOptions, ManageCgroups, RestoreOptions};

use super::flags::{CgroupsMode, CheckpointArgs, CriuArgs, EmptyNamespace, RestoreArgs};

fn criu_options(args: &CriuArgs, program: PathBuf) -> CriuOptions {
    CriuOptions {
        program,
        images: args.image_path.clone().unwrap_or_else(|| PathBuf::from("checkpoint")),
        work: args.work_path.clone(),
        tcp_established: args.tcp_established,
        ext_unix_sk: args.ext_unix_sk,
        shell_job: args.shell_job,
        file_locks: args.file_locks,
        manage_cgroups: match args.manage_cgroups_mode {
            CgroupsMode::Soft => ManageCgroups::Soft,
            CgroupsMode::Full => ManageCgroups::Full,
            CgroupsMode::Strict => ManageCgroups::Strict,
            CgroupsMode::Ignore => ManageCgroups::Ignore,
        },
        empty_network: args.empty_ns.contains(&EmptyNamespace::Network),
        auto_dedup: args.auto_dedup,
        lazy_pages: args.lazy_pages,
    }
}

/// How a container's state is to be kept.
pub(super) fn options(args: &CheckpointArgs, program: PathBuf) -> anyhow::Result<CheckpointOptions> {
    Ok(CheckpointOptions {
        criu: criu_options(&args.criu, program),
        parent: args.parent_path.clone(),
        pre_dump: args.pre_dump,
        leave_running: args.leave_running,
        tcp_skip_in_flight: args.tcp_skip_in_flight,
        link_remap: args.link_remap,
        page_server: args.page_server.as_deref().map(server).transpose()?,
        status_fd: args.status_fd,
    })
}

/// How a container is to be restored.
pub(super) fn restore_options(args: &RestoreArgs, create: CreateOptions, program: PathBuf) -> RestoreOptions {
    RestoreOptions {
        criu: criu_options(&args.criu, program),
        create,
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
    }
}

fn server(text: &str) -> anyhow::Result<(String, u16)> {
    let parts = text.rsplit_once(':').filter(|(address, _)| !address.is_empty());
    let (address, port) = parts.context("--page-server: use ADDRESS:PORT to specify a page server")?;
    let port = port.parse().with_context(|| format!("--page-server: {port:?} is not a port"))?;
    Ok((address.trim_matches(['[', ']']).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_an_address_and_a_port() {
        assert_eq!(server("10.0.0.1:27").unwrap(), ("10.0.0.1".to_owned(), 27));
        assert_eq!(server("[::1]:27").unwrap(), ("::1".to_owned(), 27));
        for bad in ["", "a", ":1", "a:", "a:70000"] {
            assert!(server(bad).is_err(), "{bad:?}");
        }
    }
}
