//! The kernel's units and groups in sysfs.

use portcullis_spec::PciAddress;
use serde::Serialize;

use super::root::Root;

const UNITS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";

/// What a driver tells of a unit's capability registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitRegisters {
    /// VT-d (`intel-iommu/`).
    Vtd {
        /// Where its registers are.
        address: u64,
        /// CAP_REG.
        cap: u64,
        /// ECAP_REG.
        ecap: u64,
        /// VER_REG: major version in bits 7:4, minor in 3:0.
        version: u32,
    },
    /// AMD-Vi (`amd-iommu/`).
    AmdVi {
        /// Capability header.
        cap: u32,
        /// Extended features, MMIO 0x30.
        features: u64,
        /// Extended features 2, MMIO 0x1a0, where the kernel tells them.
        features2: u64,
    },
    /// The driver tells nothing.
    Unknown,
}

/// A unit that the kernel drives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelUnit {
    /// The kernel's name: `dmar0`, `ivhd0`, `smmu3.0x0000000009050000`.
    pub name: String,
    /// What its driver tells of it.
    pub registers: UnitRegisters,
    /// Names of the devices that it guards.
    pub devices: Vec<String>,
}

/// How the kernel runs the devices of a group (`type`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainType {
    /// `DMA`: translated; what was unmapped is forgotten before its memory is used again.
    Strict,
    /// `DMA-FQ`: translated; what was unmapped is forgotten a little later.
    Lazy,
    /// `identity`: addresses pass unchanged.
    Identity,
    /// `blocked`, or another that is not one of these.
    Other,
}

impl DomainType {
    fn parse(text: &str) -> Self {
        match text {
            "DMA" => Self::Strict,
            "DMA-FQ" => Self::Lazy,
            "identity" => Self::Identity,
            _ => Self::Other,
        }
    }
}

/// A range that devices of a group cannot use freely (`reserved_regions`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelReserved {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
    /// The kernel's word: `direct`, `direct-relaxable`, `reserved`, `msi`.
    pub kind: String,
}

/// A group, as the kernel made it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelGroup {
    /// Its number.
    pub number: u32,
    /// Its name, where it has one (`vfio-noiommu`, for one).
    pub name: Option<String>,
    /// How the kernel runs its devices.
    pub domain: Option<DomainType>,
    /// Reserved ranges.
    pub reserved: Vec<KernelReserved>,
    /// PCI functions.
    pub functions: Vec<PciAddress>,
    /// Names of other devices.
    pub others: Vec<String>,
}

pub(super) fn units(root: &Root) -> Vec<KernelUnit> {
    root.list(UNITS)
        .into_iter()
        .map(|name| {
            let hex = |path: String| {
                let text = root.text(&path)?;
                u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
            };
            let intel = |file| hex(format!("{UNITS}/{name}/intel-iommu/{file}"));
            let amd = |file| root.text(&format!("{UNITS}/{name}/amd-iommu/{file}"));
            let registers = if let (Some(cap), Some(ecap)) = (intel("cap"), intel("ecap")) {
                // The version is written as decimal major:minor.
                let version = root.text(&format!("{UNITS}/{name}/intel-iommu/version"));
                UnitRegisters::Vtd {
                    address: intel("address").unwrap_or(0),
                    cap,
                    ecap,
                    version: version.as_deref().and_then(vtd_version).unwrap_or(0),
                }
            } else if let (Some(cap), Some(features)) = (amd("cap"), amd("features")) {
                let (features, features2) = amd_features(&features);
                UnitRegisters::AmdVi { cap: u32::from_str_radix(&cap, 16).unwrap_or(0), features, features2 }
            } else {
                UnitRegisters::Unknown
            };
            let devices = root.list(&format!("{UNITS}/{name}/devices"));
            KernelUnit { name, registers, devices }
        })
        .collect()
}

fn vtd_version(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 16 && minor < 16).then_some(major << 4 | minor)
}

/// `features` holds one number or, since 6.5, `EFR2:EFR`.
fn amd_features(text: &str) -> (u64, u64) {
    let hex = |text| u64::from_str_radix(text, 16).unwrap_or(0);
    match text.split_once(':') {
        Some((second, first)) => (hex(first), hex(second)),
        None => (hex(text), 0),
    }
}

pub(super) fn groups(root: &Root) -> Vec<KernelGroup> {
    let mut groups: Vec<_> = root
        .list(GROUPS)
        .into_iter()
        .filter_map(|number| {
            let path = format!("{GROUPS}/{number}");
            let directory = root.directory(&path)?;
            let (functions, others) = match directory.inner("devices").and_then(|devices| devices.list().ok())
            {
                Some(names) => {
                    let mut functions = Vec::new();
                    let mut others = Vec::new();
                    for name in names {
                        match name.parse() {
                            Ok(address) => functions.push(address),
                            Err(_) => others.push(name),
                        }
                    }
                    (functions, others)
                }
                None => (Vec::new(), Vec::new()),
            };
            Some(KernelGroup {
                number: number.parse().ok()?,
                name: directory.text("name").filter(|name| !name.is_empty()),
                domain: directory.text("type").map(|text| DomainType::parse(&text)),
                reserved: directory
                    .text("reserved_regions")
                    .map(|text| text.lines().take(1024).filter_map(reserved).collect())
                    .unwrap_or_default(),
                functions,
                others,
            })
        })
        .collect();
    groups.sort_unstable_by_key(|group| group.number);
    groups
}

/// `0x00000000fee00000 0x00000000feefffff msi`
fn reserved(line: &str) -> Option<KernelReserved> {
    let mut words = line.split_whitespace();
    let mut hex = || u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok();
    let (first, last) = (hex()?, hex()?);
    Some(KernelReserved { first, last, kind: words.next()?.to_owned() })
}
