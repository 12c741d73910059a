//! Least privilege: what this process gives up once it has what it needs.
//!
//! Everything here narrows, so that what a kernel does not have is skipped and named, never a reason to stop.

use std::{collections::BTreeMap, path::PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Calls that the service never makes: other programs, other processes' memory, the kernel's own code, mounts.
const FORBIDDEN: [i64; 27] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
];

/// What the process still needs.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Devices of this host are bound and mapped: that takes writing to `/sys` and `/dev/vfio`, CAP_IPC_LOCK to pin what clients
    /// bring without a limit of its own, and CAP_SYS_ADMIN to read configuration space behind its first 64 bytes, where it
    /// stands which functions are isolated from each other.
    pub host_devices: bool,
    /// Directories in which files are made: the socket's, the journal's. They exist.
    pub writes: Vec<PathBuf>,
}

/// Gives up what is not needed, for this thread and all that it starts. Returns what the kernel would not take away.
pub fn give_up(needs: &Needs) -> Vec<String> {
    let mut left = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            left.push(format!("{what}: {why}"));
        }
    };
    note("no_new_privs", set_no_new_privs(true).map_err(|error| error.to_string()));
    let mut writes = needs.writes.clone();
    let mut kept = CapabilitySet::empty();
    if needs.host_devices {
        writes.extend([PathBuf::from("/sys"), PathBuf::from("/dev/vfio")]);
        // One that we do not have cannot be kept.
        let had = capabilities(None).map_or(kept, |sets| sets.permitted);
        kept = had & (CapabilitySet::IPC_LOCK | CapabilitySet::SYS_ADMIN);
    }
    note("landlock", confine(&writes));
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    note("capabilities", set_capabilities(None, sets).map_err(|error| error.to_string()));
    note("seccomp", forbid());
    left
}

fn confine(writes: &[PathBuf]) -> Result<(), String> {
    let abi = ABI::V3;
    let restricted = || -> Result<RulesetStatus, landlock::RulesetError> {
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(["/proc", "/sys", "/etc", "/dev"], AccessFs::from_read(abi)))?
            .add_rules(path_beneath_rules(writes, AccessFs::from_all(abi)))?
            .restrict_self()?;
        Ok(status.ruleset)
    };
    match restricted() {
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has none".into()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn forbid() -> Result<(), String> {
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        FORBIDDEN.into_iter().map(|call| (call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).map_err(|error: seccompiler::BackendError| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CapabilitySet, capabilities};

    use super::{Needs, give_up};

    #[test]
    fn for_this_hosts_devices_two_capabilities_stay() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let needs = Needs { host_devices: true, writes: vec![directory.path().into()] };
        let outside = elsewhere.path().join("x");
        let done = std::thread::spawn(move || {
            let before = capabilities(None).expect("ours").permitted;
            let left = give_up(&needs);
            let after = capabilities(None).expect("ours");
            (left, before, after, std::fs::write(outside, "x").is_ok())
        });
        let (left, before, after, outside) = done.join().unwrap();
        let kept = before & (CapabilitySet::IPC_LOCK | CapabilitySet::SYS_ADMIN);
        assert_eq!((after.effective, after.permitted), (kept, kept), "{left:?}");
        assert!(after.inheritable.is_empty());
        assert!(
            !outside || left.iter().any(|l| l.starts_with("landlock")),
            "a file was made elsewhere: {left:?}"
        );
    }

    #[test]
    fn what_was_given_up_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let needs = Needs { host_devices: false, writes: vec![directory.path().into()] };
        let (inside, outside) = (directory.path().join("x"), elsewhere.path().join("x"));
        // In a thread of its own: nothing of this comes back.
        let done = std::thread::spawn(move || {
            let left = give_up(&needs);
            let run = std::process::Command::new("/bin/true").status();
            (left, std::fs::write(inside, "x").is_ok(), std::fs::write(outside, "x").is_ok(), run.is_ok())
        });
        let (left, inside, outside, run) = done.join().unwrap();
        assert!(inside, "the socket's directory can be written to");
        assert!(!run || left.iter().any(|l| l.starts_with("seccomp")), "a program was run: {left:?}");
        assert!(
            !outside || left.iter().any(|l| l.starts_with("landlock")),
            "a file was made elsewhere: {left:?}"
        );
    }
}
