//! Names of PCI vendors, devices and classes, for people.

use std::collections::BTreeMap;

use crate::host::Root;

/// Where distributions keep the list of PCI IDs.
const FILES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// Vendors and devices by name, where the host has a list of them.
#[derive(Clone, Debug, Default)]
pub struct PciNames {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
}

impl PciNames {
    /// The names of the devices `wanted`, from the list that the host below `root` has. None where it has no list.
    #[must_use]
    pub fn read(root: &Root, wanted: impl Iterator<Item = (u16, u16)>) -> Self {
        let wanted: std::collections::BTreeSet<_> = wanted.collect();
        let Some(text) = FILES.iter().find_map(|file| root.text(file)) else { return Self::default() };
        let mut names = Self::default();
        let mut vendor = None;
        for line in text.lines() {
            // The list of classes follows that of vendors.
            if line.starts_with("C ") {
                break;
            }
            if let Some(rest) = line.strip_prefix('\t') {
                let (Some(vendor), false) = (vendor, rest.starts_with('\t')) else { continue };
                if let Some((device, name)) = entry(rest)
                    && wanted.contains(&(vendor, device))
                {
                    names.devices.insert((vendor, device), name.to_owned());
                }
            } else if let Some((id, name)) = entry(line) {
                let is_wanted = wanted.range((id, 0)..=(id, u16::MAX)).next().is_some();
                vendor = is_wanted.then_some(id);
                if is_wanted {
                    names.vendors.insert(id, name.to_owned());
                }
            }
        }
        names
    }

    /// What the device is: vendor and device by name, or as much of that as is known.
    #[must_use]
    pub fn describe(&self, vendor: u16, device: u16) -> Option<String> {
        let vendor_name = self.vendors.get(&vendor)?;
        Some(match self.devices.get(&(vendor, device)) {
            Some(device) => format!("{vendor_name} {device}"),
            None => format!("{vendor_name} {device:04x}"),
        })
    }
}

/// `8086  Intel Corporation`
fn entry(line: &str) -> Option<(u16, &str)> {
    let (id, name) = line.split_once("  ")?;
    if id.len() != 4 {
        return None;
    }
    Some((u16::from_str_radix(id, 16).ok()?, name.trim()))
}

/// What a class code (24 bits) is (PCI Code and ID Assignment).
pub(super) fn class_name(class: u32) -> &'static str {
    match (class >> 16 & 0xff, class >> 8 & 0xff) {
        (0x01, 0x01) => "IDE controller",
        (0x01, 0x04) => "RAID controller",
        (0x01, 0x06) => "SATA controller",
        (0x01, 0x07) => "SAS controller",
        (0x01, 0x08) => "NVMe controller",
        (0x01, _) => "storage controller",
        (0x02, 0x00) => "Ethernet controller",
        (0x02, 0x07) => "InfiniBand controller",
        (0x02, 0x80) => "network controller",
        (0x02, _) => "network controller",
        (0x03, 0x00) => "VGA controller",
        (0x03, 0x02) => "3D controller",
        (0x03, _) => "display controller",
        (0x04, 0x03) => "audio device",
        (0x04, _) => "multimedia controller",
        (0x05, _) => "memory controller",
        (0x06, 0x00) => "host bridge",
        (0x06, 0x01) => "ISA bridge",
        (0x06, 0x04) => "PCI bridge",
        (0x06, _) => "bridge",
        (0x07, _) => "communication controller",
        (0x08, 0x06) => "IOMMU",
        (0x08, 0x80) => "system peripheral",
        (0x08, _) => "system peripheral",
        (0x09, _) => "input device",
        (0x0b, 0x40) => "co-processor",
        (0x0c, 0x03) => "USB controller",
        (0x0c, 0x05) => "SMBus",
        (0x0c, _) => "serial bus controller",
        (0x0d, _) => "wireless controller",
        (0x10, _) => "encryption controller",
        (0x11, _) => "signal processing controller",
        (0x12, _) => "processing accelerator",
        _ => "device",
    }
}
