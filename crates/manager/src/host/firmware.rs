//! What firmware left for the kernel: ACPI tables, or a devicetree where there are none.

use portcullis_firmware::{
    acpi, devicetree,
    topology::{Signature, Topology},
};
use serde::Serialize;

use super::root::Root;

const TABLES: &str = "/sys/firmware/acpi/tables";
const DEVICETREE: &str = "/sys/firmware/fdt";

/// Firmware's statements.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Firmware {
    /// The machine has ACPI tables.
    pub acpi: bool,
    /// Tables about IOMMUs that are there.
    pub tables: Vec<String>,
    /// Of those, the ones that could not be read.
    pub unreadable: Vec<String>,
    /// What they say, together.
    pub topology: Topology,
}

pub(super) fn read(root: &Root) -> Firmware {
    let names = root.list(TABLES);
    let mut firmware = Firmware { acpi: !names.is_empty(), ..Firmware::default() };
    let signatures = [Signature::DMAR, Signature::IVRS, Signature::IORT, Signature::VIOT, Signature::RIMT];
    for signature in signatures.map(|signature| signature.to_string()) {
        // A second table of one name is called DMAR2.
        for name in names.iter().filter(|name| {
            name.strip_prefix(&signature).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        }) {
            firmware.tables.push(name.clone());
            match root.bytes(&format!("{TABLES}/{name}")) {
                Some(bytes) => firmware.topology.append(acpi::topology(&bytes)),
                None => firmware.unreadable.push(name.clone()),
            }
        }
    }
    // A machine with ACPI may have a devicetree too, made by its boot loader, which the kernel then ignores.
    if !firmware.acpi && root.exists(DEVICETREE) {
        firmware.tables.push("devicetree".to_owned());
        match root.bytes(DEVICETREE) {
            Some(bytes) => firmware.topology.append(devicetree::topology(&bytes)),
            None => firmware.unreadable.push("devicetree".to_owned()),
        }
    }
    firmware
}
