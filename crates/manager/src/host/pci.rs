//! PCI functions in sysfs.

use portcullis_firmware::groups::{Function, Functions};
use portcullis_spec::PciAddress;
use serde::Serialize;

use super::root::{Directory, Root};

const DEVICES: &str = "/sys/bus/pci/devices";

/// What the kernel says of a PCI function beyond its configuration space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PciDevice {
    /// Where it is.
    pub address: PciAddress,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The driver that alone may have it (`driver_override`).
    pub driver_override: Option<String>,
    /// Its group's number.
    pub group: Option<u32>,
    /// Whether a user can pull it out (`removable`); `None` where the kernel does not say.
    pub removable: Option<bool>,
    /// Its character device for VFIO (`/dev/vfio/devices/vfioN`).
    pub vfio: Option<String>,
}

/// All functions, and what the kernel says of them, in the order of their addresses.
pub(super) fn read(root: &Root) -> (Functions, Vec<PciDevice>) {
    let mut functions = Vec::new();
    let mut devices = Vec::new();
    let names = root.list(DEVICES);
    if names.is_empty() && !root.exists(DEVICES) {
        root.note(DEVICES, "not there: PCI functions are not known");
    }
    let mut headers_only = 0usize;
    let all = root.directory(DEVICES);
    for name in names {
        let Ok(address) = name.parse() else {
            root.note(
                format!("{DEVICES}/{name}"),
                "not read: its segment has more than 16 bits (behind a VMD)",
            );
            continue;
        };
        // A copy may hold directories where the kernel has links.
        let Some(directory) = all.as_ref().and_then(|all| all.follow(root, &name)) else {
            root.note(format!("{DEVICES}/{name}"), "cannot be opened");
            continue;
        };
        if let Some(function) = function(root, address, &directory) {
            headers_only += usize::from(!function.reach.whole() && function.express.is_none());
            functions.push(function);
        }
        devices.push(device(address, &directory));
    }
    if headers_only == functions.len() && headers_only > 0 {
        root.note(
            format!("{DEVICES}/*/config"),
            "only headers could be read (root may read all): ACS and bridges' kinds are not known",
        );
    }
    (Functions::new(functions), devices)
}

fn function(root: &Root, address: PciAddress, directory: &Directory) -> Option<Function> {
    let Some(config) = directory.read("config", 4096) else {
        root.note(format!("{DEVICES}/{address}/config"), "cannot be read");
        return None;
    };
    match Function::from_config(address, &config) {
        Ok(mut function) => {
            function.physical = directory.link("physfn").and_then(|name| name.parse().ok());
            // Virtual functions answer with ones where the physical one speaks for them (SR-IOV 3.4.1).
            if function.vendor == 0xffff {
                let id = |name| {
                    let text = directory.text(name)?;
                    u16::from_str_radix(text.trim_start_matches("0x"), 16).ok()
                };
                function.vendor = id("vendor").unwrap_or(function.vendor);
                function.device = id("device").unwrap_or(function.device);
            }
            Some(function)
        }
        Err(error) => {
            root.note(format!("{DEVICES}/{address}/config"), error.to_string());
            None
        }
    }
}

fn device(address: PciAddress, directory: &Directory) -> PciDevice {
    let driver = directory.link("driver");
    let vfio = driver
        .as_deref()
        .filter(|driver| driver.contains("vfio"))
        .and_then(|_| directory.inner("vfio-dev")?.list().ok()?.into_iter().next());
    PciDevice {
        address,
        driver,
        driver_override: directory
            .text("driver_override")
            .filter(|text| !text.is_empty() && text != "(null)"),
        group: directory.link("iommu_group").and_then(|name| name.parse().ok()),
        removable: directory.text("removable").and_then(|text| match text.as_str() {
            "removable" => Some(true),
            "fixed" => Some(false),
            _ => None,
        }),
        vfio,
    }
}
