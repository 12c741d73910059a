//! Limits that a mapping will meet, predicted, so that it fails before anything is pinned and says what to do.

use rustix::process::{Resource, getrlimit};

use super::kernel::{Kernel, SpaceFacts};
use super::sysfs;
use crate::backend::BackendError;

/// Memory that is looked for before this many bytes are pinned at once. Below, the kernel's own answer is early enough.
const LARGE: u64 = 16 << 20;
/// CAP_IPC_LOCK (capabilities(7)): memlock does not bind who has it.
const CAP_IPC_LOCK: u32 = 14;

/// Whether `length` more bytes can be pinned in each of `spaces` containers. `absent` is how many of them the file does not
/// hold yet: those have to be found when they are pinned.
pub(super) fn memory(kernel: &dyn Kernel, length: u64, spaces: u64, absent: u64) -> Result<(), BackendError> {
    let needed = length.saturating_mul(spaces);
    if let Some(limit) = getrlimit(Resource::Memlock).current {
        // The thread's own: vfio_iommu_type1 looks at the capabilities of who calls, and counts for the whole process.
        let status = sysfs::text(kernel, "/proc/thread-self/status").unwrap_or_default();
        memlock(&status, limit, needed)?;
    }
    if absent.min(length) >= LARGE {
        let about = sysfs::text(kernel, "/proc/meminfo").unwrap_or_default();
        let available = kibibytes(&about, "MemAvailable").unwrap_or(u64::MAX);
        if absent.min(length) > available {
            return Err(BackendError::Limit {
                what: "bytes of memory",
                needed: absent.min(length),
                available,
                remedy: "the grant would be pinned: grant less, or add memory".into(),
            });
        }
    }
    Ok(())
}

fn memlock(status: &str, limit: u64, needed: u64) -> Result<(), BackendError> {
    let effective = field(status, "CapEff").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    if effective >> CAP_IPC_LOCK & 1 == 1 {
        return Ok(());
    }
    let locked = kibibytes(status, "VmLck").unwrap_or(0);
    let available = limit.saturating_sub(locked);
    if needed <= available {
        return Ok(());
    }
    let enough = locked.saturating_add(needed);
    Err(BackendError::Limit {
        what: "bytes of locked memory",
        needed,
        available,
        remedy: format!("give the service LimitMEMLOCK={enough} or more, or the capability CAP_IPC_LOCK"),
    })
}

/// Whether a container takes one mapping more.
pub(super) fn mappings(facts: &SpaceFacts, made: u64) -> Result<(), BackendError> {
    let Some(limit) = facts.mappings_left.map(u64::from) else { return Ok(()) };
    if made < limit {
        return Ok(());
    }
    Err(BackendError::Limit {
        what: "mappings of one space",
        needed: made + 1,
        available: limit,
        remedy: "grant fewer and larger pieces, or raise vfio_iommu_type1's dma_entry_limit".into(),
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tportcullis\nVmLck:\t      1024 kB\nCapEff:\t0000000000000000\n";

    #[test]
    fn memlock_counts_what_is_locked_already() {
        assert!(memlock(STATUS, 8 << 20, 7 << 20).is_ok());
        let refused = memlock(STATUS, 8 << 20, (7 << 20) + 4096).expect_err("a page too many");
        let BackendError::Limit { needed, available, remedy, .. } = refused else { panic!("{refused}") };
        assert_eq!((needed, available), ((7 << 20) + 4096, 7 << 20));
        assert!(remedy.contains(&((8 << 20) + 4096).to_string()), "{remedy}");
    }

    #[test]
    fn memlock_does_not_bind_who_may_lock() {
        let status = STATUS.replace("0000000000000000", "0000000000004000");
        assert!(memlock(&status, 8 << 20, 1 << 40).is_ok());
        let other = STATUS.replace("0000000000000000", "0000000000008000");
        assert!(memlock(&other, 8 << 20, 1 << 40).is_err());
    }

    #[test]
    fn container_that_is_full_says_so_before_the_kernel() {
        let facts = SpaceFacts { mappings_left: Some(2), ..SpaceFacts::default() };
        assert!(mappings(&facts, 1).is_ok());
        assert!(matches!(mappings(&facts, 2), Err(BackendError::Limit { needed: 3, available: 2, .. })));
    }
}
