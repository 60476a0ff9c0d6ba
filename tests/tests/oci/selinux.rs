//! Labels of SELinux, on a kernel that has it: that is in a guest, with the policy of `selinux.cil`.

use crate::support::here;

fn has_selinux() -> bool {
    let has = std::env::var_os("CORACLE_TEST_SELINUX").is_some();
    if !has {
        println!("skipped: SELinux is tried in a guest, with a policy made for it");
    }
    has
}

#[test]
fn a_process_runs_with_its_label() {
    here(|bundle| {
        if !has_selinux() {
            return;
        }
        let label = "user_u:role_r:container_t";
        let bundle = bundle
            .with("/process/selinuxLabel", label.into())
            .script("tr -d '\\0' </proc/self/attr/current; echo; sleep 1000");
        bundle.create();
        bundle.start();
        let own = std::fs::read_to_string("/proc/self/attr/current").unwrap();
        assert!(own.starts_with("user_u:role_r:host_t"), "{own}");
        let pid = bundle.state()["pid"].to_string();
        tests::eventually("the label", || {
            let current = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap();
            if current.trim_end_matches('\0') == label { Ok(()) } else { Err(current) }
        });
        // What is executed in the container is like it, unless it is to be like something else.
        let seen = bundle.oci(&["exec", &bundle.id, "cat", "/proc/self/attr/current"]).ok();
        assert_eq!(seen.trim_end_matches(['\0', '\n']), label);
        let other = "user_u:role_r:other_t";
        let seen = bundle
            .oci(&["exec", "--process-label", other, &bundle.id, "cat", "/proc/self/attr/current"])
            .ok();
        assert_eq!(seen.trim_end_matches(['\0', '\n']), other);
    });
}

#[test]
fn mounts_have_the_label_of_the_container() {
    here(|bundle| {
        if !has_selinux() {
            return;
        }
        let bundle = bundle
            .with("/linux/mountLabel", "user_u:role_r:mounted_t".into())
            .script("grep -E ' /(dev|proc) ' /proc/self/mountinfo");
        let out = bundle.run().ok();
        let labelled = |at: &str| {
            let line =
                out.lines().find(|line| line.contains(&format!(" {at} "))).unwrap_or_else(|| panic!("{out}"));
            line.contains("context=user_u:role_r:mounted_t")
        };
        assert!(labelled("/dev") && !labelled("/proc"), "{out}");
    });
}

#[test]
fn a_label_that_is_none_is_refused() {
    here(|bundle| {
        if !has_selinux() {
            return;
        }
        let err = bundle.with("/process/selinuxLabel", "nobody:knows:this_t".into()).run().fails();
        assert!(err.contains("SELinux label") && err.contains("nobody:knows:this_t"), "{err}");
    });
}
