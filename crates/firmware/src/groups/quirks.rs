//! Devices that do not do what their configuration space says, as Linux knows them (`drivers/pci/quirks.c`). The list holds what
//! stands in machines in the field; where the kernel's own groups can be read, those decide.

use portcullis_spec::PciAddress;

use super::{Function, PortType};

/// Whether the function is isolated, or is not, whatever its ACS capability says. `None`: the capability decides.
pub(super) fn isolated(function: &Function, on_root_bus: bool, amd: bool) -> Option<bool> {
    let port = function.express.map(|express| express.port_type);
    let root_port = port == Some(PortType::RootPort);
    match (function.vendor, function.device) {
        // Intel: integrated endpoints talk to each other only under translated addresses.
        (0x8086, _) if port == Some(PortType::IntegratedEndpoint) => Some(true),
        // Intel chipset root ports that isolate without an ACS capability.
        (0x8086, device) if root_port && intel_chipset_port(device) => Some(true),
        // Intel network controllers whose functions do not talk to each other.
        (0x8086, device) if intel_network(device) => Some(true),
        // AMD southbridge functions do not talk to each other where AMD-Vi guards the machine.
        (0x1002, 0x4383 | 0x4384 | 0x4385 | 0x4399 | 0x439c | 0x439d) | (0x1022, 0x7809 | 0x780f)
            if function.multifunction && on_root_bus && amd =>
        {
            Some(true)
        }
        // Solarflare, Emulex, Broadcom and Cavium multifunction endpoints that do not talk to each other.
        (0x1924, 0x0903 | 0x0923 | 0x0a03)
        | (0x19a2, 0x0710)
        | (0x10df, 0x0720)
        | (0x14e4, 0x16d7 | 0x1750 | 0x1751 | 0x1752)
        | (0x177d, 0xa026 | 0xa059 | 0xa060) => Some(true),
        // Root ports that pass nothing on: Qualcomm, Broadcom, Annapurna Labs.
        (0x17cb, 0x0115 | 0x0400 | 0x0401) | (0x14e4, 0xd714) => Some(true),
        (0x1c36, 0x0031) if root_port => Some(true),
        // Wangxun network controllers.
        (0x8088, 0x0100..=0x010f | 0x1001 | 0x2001) => Some(true),
        _ => None,
    }
}

fn intel_chipset_port(device: u16) -> bool {
    matches!(
        device,
        0x3b42..=0x3b51
            | 0x1c10..=0x1c1f
            | 0x1e10..=0x1e1f
            | 0x8c10..=0x8c1f
            | 0x9c10..=0x9c1b
            | 0x9c90..=0x9c9b
            | 0x8d10..=0x8d1e
    ) || (matches!(device, 0x1d10..=0x1d1e | 0x8c90..=0x8c9e) && device.is_multiple_of(2))
}

fn intel_network(device: u16) -> bool {
    matches!(
        device,
        0x10c6 | 0x10db | 0x10dd | 0x10e1 | 0x10f1 | 0x10f7..=0x10fc | 0x1507 | 0x1514 | 0x151c
            | 0x1529 | 0x152a | 0x154d | 0x154f | 0x1551 | 0x1558
            // 82580
            | 0x1509 | 0x150e..=0x1511 | 0x1516 | 0x1527
            // 82576
            | 0x10c9 | 0x10e6..=0x10e8 | 0x150a | 0x150d | 0x1518 | 0x1526
            // 82575
            | 0x10a7 | 0x10a9 | 0x10d6
            // I350
            | 0x1521..=0x1524
            // 82571
            | 0x105e..=0x1060 | 0x10d9
            // I219
            | 0x15b7 | 0x15b8
    )
}

/// The other function under whose ID the function sends requests.
pub(super) fn dma_alias(function: &Function) -> Option<PciAddress> {
    let number = match (function.vendor, function.device) {
        // Marvell, HighPoint, JMicron and Lite-On storage controllers use function 1.
        (
            0x1b4b,
            0x9120 | 0x9123 | 0x9125 | 0x9128 | 0x9130 | 0x9170 | 0x9172 | 0x917a | 0x9182 | 0x9183 | 0x91a0
            | 0x9215 | 0x9220 | 0x9230 | 0x9235,
        )
        | (0x1103, 0x0642 | 0x0645)
        | (0x197b, 0x2392)
        | (0x1c28, 0x0122) => 1,
        // Ricoh card readers use function 0.
        (0x1180, 0xe476 | 0xe832) => 0,
        _ => return None,
    };
    let address = function.address;
    let alias = PciAddress::new(address.segment, address.bus(), address.device(), number);
    (alias != address).then_some(alias)
}
