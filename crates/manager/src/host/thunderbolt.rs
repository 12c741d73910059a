//! Thunderbolt and USB4 controllers.

use serde::Serialize;

use super::root::Root;

/// A Thunderbolt or USB4 domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ThunderboltDomain {
    /// The kernel's name: `domain0`.
    pub name: String,
    /// Devices behind it are behind an IOMMU that the kernel keeps on for them.
    pub dma_protection: Option<bool>,
    /// How devices are let in: `none`, `user`, `secure`, `dponly`, `usbonly`, `nopcie`.
    pub security: Option<String>,
}

pub(super) fn read(root: &Root) -> Vec<ThunderboltDomain> {
    const DEVICES: &str = "/sys/bus/thunderbolt/devices";
    root.list(DEVICES)
        .into_iter()
        .filter(|name| name.starts_with("domain"))
        .map(|name| {
            let text = |file| root.text(&format!("{DEVICES}/{name}/{file}"));
            ThunderboltDomain {
                dma_protection: text("iommu_dma_protection").map(|value| value == "1"),
                security: text("security"),
                name,
            }
        })
        .collect()
}
