//! The profile of containers that ask for none of their own.
//!
//! Equal in effect to the one that Docker and containerd give: an allow-list with EPERM for the rest; calls that
//! belong to a capability are allowed to containers that have it; making namespaces is refused to those
//! without CAP_SYS_ADMIN, where clone3 pretends not to exist, because its flags lie behind a pointer that a
//! filter cannot follow, and every libc falls back to clone.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

/// Harmless calls, or such that guard themselves. Names of all architectures: one that a machine does not have
/// is passed over.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
    getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt
    get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount
    listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64
    preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
    sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
    sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid
    waitpid write writev process_vm_readv process_vm_writev ptrace
";

/// On machines whose 32-bit or 64-bit architecture is of the x86 family.
const X86: &str = "arch_prctl modify_ldt";

/// On those of the ARM family.
const ARM: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// What a capability is worth nothing without.
const BY_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Flags of clone(2) that make namespaces: mount, cgroup, UTS, IPC, user, pid, network.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Address families that reach past the container: the kernel's crypto interface has been a way to root more
/// than once, and vsock knows no network namespaces.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// What personality(2) may set: Linux, 32-bit Linux, without address randomisation, and asking (all ones).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default profile for a container that has these capabilities in its bounding set. For
/// `spec.linux.seccomp`.
pub fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    let arm = cfg!(target_arch = "aarch64");
    let mut syscalls = vec![
        allow(ALWAYS, None),
        allow(if arm { ARM } else { X86 }, None),
        allow("socket", Some((LinuxSeccompOperator::ScmpCmpLt, AF_ALG, 0))),
        allow("socket", Some((LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1, 0))),
        allow("socket", Some((LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK, 0))),
    ];
    for personality in PERSONALITIES {
        syscalls.push(allow("personality", Some((LinuxSeccompOperator::ScmpCmpEq, personality, 0))));
    }
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(&capability) {
            syscalls.push(allow(names, None));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        syscalls.push(allow("clone", Some((LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES, 0))));
        let mut clone3 = allow("clone3", None);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(u32::try_from(libc::ENOSYS).ok());
        syscalls.push(clone3);
    }

    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(u32::try_from(libc::EPERM).ok());
    profile.set_architectures(Some(if arm {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    }));
    profile.set_syscalls(Some(syscalls));
    profile
}

fn allow(names: &str, argument: Option<(LinuxSeccompOperator, u64, u64)>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names.split_whitespace().map(str::to_owned).collect());
    syscall.set_action(LinuxSeccompAction::ScmpActAllow);
    if let Some((op, value, value_two)) = argument {
        let argument =
            LinuxSeccompArgBuilder::default().index(0_usize).op(op).value(value).value_two(value_two).build();
        // The builder cannot fail, as every field has a default. Were it to: a comparison with zero allows
        // less than no comparison.
        syscall.set_args(Some(vec![argument.unwrap_or_default()]));
    }
    syscall
}

#[cfg(test)]
mod tests {
    use super::super::{compile, table};
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0000 + 38;

    #[test]
    fn every_name_is_known() {
        for names in [ALWAYS, X86, ARM].into_iter().chain(BY_CAPABILITY.map(|(_, names)| names)) {
            for name in names.split_whitespace() {
                // Calls of 32-bit or long gone kernels that the headers of today do not list.
                let elsewhere = matches!(name, "riscv_hwprobe" | "memfd_secret" | "umount" | "pidfd_getfd");
                assert!(elsewhere || table::is_known(name), "{name}");
            }
        }
    }

    #[test]
    fn calls_are_judged_by_capability() {
        let check = |capabilities: &[Capability], name: &str, first: u64, expected: u32| {
            let code = compile::instructions(&default_profile(capabilities)).unwrap();
            let number = table::number(table::Abi::NATIVE, name).unwrap();
            let verdict =
                compile::tests::run(&code, table::Abi::NATIVE.audit(), number, [first, 0, 0, 0, 0, 0]);
            assert_eq!(verdict, expected, "{name}({first:#x}) with {capabilities:?}");
        };
        for name in [
            "mount",
            "bpf",
            "keyctl",
            "add_key",
            "unshare",
            "setns",
            "reboot",
            "io_uring_setup",
            "kexec_load",
        ] {
            check(&[], name, 0, EPERM);
        }
        for name in ["read", "execve", "openat", "ptrace", "statx", "futex"] {
            check(&[], name, 0, ALLOW);
        }
        check(&[], "clone", 0x11, ALLOW);
        check(&[], "clone", 0x1000_0011, EPERM);
        check(&[], "clone3", 0, ENOSYS);
        check(&[], "file_setattr", 0, ENOSYS);
        check(&[], "socket", 2, ALLOW);
        check(&[], "socket", AF_ALG, EPERM);
        check(&[], "socket", 39, ALLOW);
        check(&[], "socket", AF_VSOCK, EPERM);
        check(&[], "socket", 44, ALLOW);
        check(&[], "personality", 0xffff_ffff, ALLOW);
        check(&[], "personality", 0x40000, EPERM);
        check(&[Capability::SysAdmin], "mount", 0, ALLOW);
        check(&[Capability::SysAdmin], "clone3", 0, ALLOW);
        check(&[Capability::SysAdmin], "clone", 0x1000_0011, ALLOW);
        check(&[Capability::SysAdmin], "keyctl", 0, EPERM);
        check(&[Capability::SysChroot], "chroot", 0, ALLOW);
        check(&[Capability::Bpf], "bpf", 0, ALLOW);
    }
}
