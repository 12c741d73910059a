//! Whether the system would miss a function: taking away the driver of a mounted disk ends the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use super::sysfs::{self, FUNCTIONS};

/// Where the system uses the function, in words; `None` where nothing shows that it does.
pub(super) fn in_use(kernel: &dyn Kernel, name: &str) -> Option<String> {
    let disks = block_devices(&kernel.locate(Path::new(&format!("{FUNCTIONS}/{name}"))));
    if disks.is_empty() {
        return None;
    }
    let mounts = sysfs::text(kernel, "/proc/self/mountinfo").unwrap_or_default();
    let swaps = sysfs::text(kernel, "/proc/swaps").unwrap_or_default();
    disks.iter().find_map(|disk| {
        let name = disk.folder.file_name()?.to_string_lossy().into_owned();
        let mounted = mounts.lines().find_map(|line| {
            // proc_pid_mountinfo(5): ID, parent, major:minor, root, mount point.
            let mut words = line.split(' ').skip(2);
            (words.next() == Some(disk.number.as_str())).then(|| words.nth(1).unwrap_or("?"))
        });
        if let Some(place) = mounted {
            return Some(format!("{name}, mounted on {place}"));
        }
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}"))) {
            return Some(format!("{name}, where the system swaps"));
        }
        let holders = fs::read_dir(disk.folder.join("holders")).into_iter().flatten().flatten();
        let holder = holders.map(|entry| entry.file_name().to_string_lossy().into_owned()).next()?;
        Some(format!("{name}, part of {holder}"))
    })
}

struct Disk {
    folder: PathBuf,
    /// `259:0`.
    number: String,
}

/// Disks and partitions below a function's folder. They lie at most six folders down (`nvme/nvme0/nvme0n1/nvme0n1p1`,
/// `ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1`).
fn block_devices(function: &Path) -> Vec<Disk> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![(function.to_path_buf(), 0)];
    while let Some((folder, depth)) = next.pop() {
        let is_block =
            fs::read_link(folder.join("subsystem")).is_ok_and(|link| link.ends_with("class/block"));
        if let (true, Ok(number)) = (is_block, fs::read_to_string(folder.join("dev"))) {
            found.push(Disk { folder: folder.clone(), number: number.trim().to_owned() });
        }
        if depth == 8 || !seen.insert(folder.clone()) {
            continue;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        // Real folders only: links lead out to buses and classes.
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        next.extend(folders.map(|entry| (entry.path(), depth + 1)));
    }
    found
}
