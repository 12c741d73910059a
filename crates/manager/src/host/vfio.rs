//! VFIO and iommufd: what is allowed, and who holds what.

use portcullis_spec::PciAddress;
use serde::Serialize;

use super::{
    pci::PciDevice,
    root::{Directory, Root},
};

/// Descriptors that are looked at in all processes together.
const MAX_DESCRIPTORS: usize = 1 << 18;

/// A process that holds devices through VFIO.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Holder {
    /// Process ID.
    pub process: u32,
    /// The process's name.
    pub name: String,
    /// Groups that it has open.
    pub groups: Vec<u32>,
    /// Devices that it has open by their own node.
    pub devices: Vec<PciAddress>,
    /// It has an iommufd open.
    pub iommufd: bool,
    /// Bytes of memory that it may lock; `None` for no limit.
    pub memlock: Option<u64>,
    /// Bytes of address space that it has, the most that VFIO could pin for it; `None` where not known.
    pub address_space: Option<u64>,
    /// Bytes that are pinned for it.
    pub pinned: Option<u64>,
}

/// VFIO and iommufd on this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Vfio {
    /// VFIO is loaded.
    pub loaded: bool,
    /// iommufd is loaded.
    pub iommufd: bool,
    /// Parameter files that allow interrupts that are not remapped.
    pub unsafe_interrupts: Vec<String>,
    /// `enable_unsafe_noiommu_mode` is on.
    pub no_iommu_mode: bool,
    /// Nodes of devices without IOMMU that exist (`/dev/vfio/noiommu-N`).
    pub no_iommu_nodes: Vec<String>,
    /// Mappings that one container may have.
    pub dma_entry_limit: Option<u64>,
    /// Who holds what.
    pub holders: Vec<Holder>,
    /// Whether every process could be looked at.
    pub all_processes_seen: bool,
    /// Bytes that this process may lock, where the running host is read.
    pub own_memlock: Option<u64>,
}

pub(super) fn read(root: &Root, devices: &[PciDevice]) -> Vfio {
    let nodes = root.list("/dev/vfio");
    let parameter = |module: &str, name: &str| root.text(&format!("/sys/module/{module}/parameters/{name}"));
    let on = |value: Option<String>| value.is_some_and(|value| value == "Y" || value == "1");
    let unsafe_interrupts = ["vfio_iommu_type1", "iommufd"]
        .into_iter()
        .filter(|module| on(parameter(module, "allow_unsafe_interrupts")))
        .map(|module| format!("/sys/module/{module}/parameters/allow_unsafe_interrupts"))
        .collect();
    let loaded = root.exists("/sys/module/vfio");
    let iommufd = root.exists("/sys/module/iommufd");
    let mut vfio = Vfio {
        loaded,
        iommufd,
        unsafe_interrupts,
        no_iommu_mode: on(parameter("vfio", "enable_unsafe_noiommu_mode")),
        no_iommu_nodes: nodes.iter().filter(|node| node.starts_with("noiommu-")).cloned().collect(),
        dma_entry_limit: parameter("vfio_iommu_type1", "dma_entry_limit").and_then(|text| text.parse().ok()),
        holders: Vec::new(),
        all_processes_seen: true,
        own_memlock: root.text("/proc/self/limits").as_deref().and_then(memlock).flatten(),
    };
    // Reading every process's descriptors is slow; without a node nobody holds one.
    if nodes.iter().any(|node| node != "vfio") || devices.iter().any(|device| device.vfio.is_some()) {
        holders(root, devices, &mut vfio);
    }
    vfio
}

fn holders(root: &Root, devices: &[PciDevice], vfio: &mut Vfio) {
    let mut budget = MAX_DESCRIPTORS;
    for name in root.list("/proc") {
        let Ok(process) = name.parse::<u32>() else { continue };
        let Some(directory) = root.directory(&format!("/proc/{process}")) else { continue };
        let Some(descriptors) = directory.inner("fd") else { continue };
        let Ok(numbers) = descriptors.list() else {
            vfio.all_processes_seen = false;
            continue;
        };
        let mut holder = None;
        for number in numbers {
            if budget == 0 {
                vfio.all_processes_seen = false;
                return;
            }
            budget -= 1;
            let Some(target) = descriptors.target(&number) else { continue };
            if let Some(held) = Held::parse(&target) {
                let holder = holder.get_or_insert_with(|| self::holder(process, &directory));
                held.add(holder, &directory, &number, devices);
            }
        }
        if let Some(mut holder) = holder {
            holder.groups.sort_unstable();
            holder.groups.dedup();
            holder.devices.sort_unstable();
            holder.devices.dedup();
            vfio.holders.push(holder);
        }
    }
}

/// What one descriptor is.
enum Held {
    Group(u32),
    Node(String),
    AnonymousDevice,
    Iommufd,
}

impl Held {
    fn parse(target: &str) -> Option<Self> {
        if let Some(name) = target.strip_prefix("/dev/vfio/") {
            if let Some(node) = name.strip_prefix("devices/") {
                return Some(Self::Node(node.to_owned()));
            }
            return name.trim_start_matches("noiommu-").parse().ok().map(Self::Group);
        }
        match target {
            "anon_inode:[vfio-device]" => Some(Self::AnonymousDevice),
            "/dev/iommu" => Some(Self::Iommufd),
            _ => None,
        }
    }

    fn add(self, holder: &mut Holder, process: &Directory, number: &str, devices: &[PciDevice]) {
        match self {
            Self::Group(group) => holder.groups.push(group),
            Self::Node(node) => holder.devices.extend(
                devices
                    .iter()
                    .filter(|device| device.vfio.as_deref() == Some(&node))
                    .map(|device| device.address),
            ),
            // Since 6.17 the kernel tells which.
            Self::AnonymousDevice => holder.devices.extend(
                process.inner("fdinfo").and_then(|info| info.text(number)).and_then(|text| {
                    let path = text.lines().find_map(|line| line.strip_prefix("vfio-device-syspath:"))?;
                    path.trim().rsplit('/').next()?.parse::<PciAddress>().ok()
                }),
            ),
            Self::Iommufd => holder.iommufd = true,
        }
    }
}

fn holder(process: u32, directory: &Directory) -> Holder {
    let status = directory.text("status").unwrap_or_default();
    let kilobytes = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1024)
    };
    Holder {
        process,
        name: directory.text("comm").unwrap_or_default(),
        groups: Vec::new(),
        devices: Vec::new(),
        iommufd: false,
        memlock: directory.text("limits").as_deref().and_then(memlock).flatten(),
        address_space: kilobytes("VmSize:"),
        pinned: kilobytes("VmPin:"),
    }
}

/// `Max locked memory         8388608              8388608              bytes`; the inner `None` is no limit.
fn memlock(limits: &str) -> Option<Option<u64>> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        bytes => bytes.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax locked memory   8388608   8388608   bytes\n";
        assert_eq!(memlock(text), Some(Some(8_388_608)));
        assert_eq!(memlock("Max locked memory   unlimited   unlimited   bytes"), Some(None));
        assert_eq!(memlock("Max file size  1 1"), None);
    }
}
