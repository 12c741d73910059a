//! Tables that we wrote, read by Linux.
//!
//! QEMU makes its own DMAR or IVRS, and a second one by `-acpitable` comes after it, where Linux does not look. But Linux takes a
//! table of the same name with a higher revision from the initial RAM file system in place of the firmware's.

use super::Suite;
use crate::initramfs::Archive;
use crate::machine::{Iommu, Machine};
use anyhow::Result;
use portcullis_firmware::acpi::{Header, Table, dmar, ivrs};
use std::path::Path;

/// The suite `firmware`.
pub(crate) struct Firmware;

/// `edu` at 00:05.0, a root port at 00:06.0 with a random number generator behind it, on the bus that SeaBIOS gives it.
const DEVICES: &str = "\
    -device edu,addr=0x5 -device pcie-root-port,id=port1,chassis=1,addr=0x6 -device virtio-rng-pci,bus=port1";

impl Suite for Firmware {
    fn name(&self) -> &'static str {
        "firmware"
    }

    fn about(&self) -> &'static str {
        "Linux reads the tables that we write, and has the units, devices and regions that they say"
    }

    fn machines(&self) -> Vec<Machine> {
        let intel = Machine::new(Iommu::Intel { scalable: false });
        [intel, Machine::new(Iommu::Amd)].map(|machine| machine.with(DEVICES)).into()
    }

    fn prepare(&self, machine: &mut Machine, contents: &mut Archive, _: &Path) -> Result<()> {
        let (name, table) = match machine.iommu {
            Iommu::Amd => ("IVRS", Table::Ivrs(written_ivrs())),
            _ => ("DMAR", Table::Dmar(written_dmar())),
        };
        let bytes = table.write()?;
        for folder in ["kernel", "kernel/firmware", "kernel/firmware/acpi", "tables"] {
            contents.folder(folder);
        }
        contents.file(&format!("kernel/firmware/acpi/{name}.aml"), &bytes);
        contents.file(&format!("tables/{name}"), &bytes);
        Ok(())
    }
}

/// QEMU's names, and a revision above its own.
fn header(revision: u8) -> Header {
    Header { oem_id: *b"BOCHS ", oem_table_id: *b"BXPC    ", oem_revision: 2, ..Header::new(revision) }
}

/// QEMU's unit, with regions for `edu` and for the device behind the root port: in a page that SeaBIOS reserves.
fn written_dmar() -> dmar::Dmar {
    let scope = |kind, enumeration_id, start_bus, path: &[(u8, u8)]| dmar::Scope {
        info: dmar::ScopeInfo { kind, enumeration_id, start_bus, ..dmar::ScopeInfo::default() },
        path: path.to_vec(),
        odd_byte: None,
    };
    let endpoint = |path: &[(u8, u8)]| scope(dmar::SCOPE_PCI_ENDPOINT, 0, 0, path);
    let unit = dmar::Drhd { flags: 1, register_base: 0xfed9_0000, ..dmar::Drhd::default() };
    let region = |base| dmar::Rmrr { base, limit: base + 0xfff, ..dmar::Rmrr::default() };
    let affinity = dmar::Rhsa { register_base: 0xfed9_0000, proximity_domain: 0, reserved: 0 };
    dmar::Dmar {
        header: header(1),
        platform: dmar::PlatformInfo { host_address_width: 38, flags: 1, reserved: [0; 10] },
        structures: vec![
            // QEMU's I/O APIC sends as ff:00.0.
            dmar::Structure::Drhd(unit, vec![scope(dmar::SCOPE_IOAPIC, 0, 0xff, &[(0, 0)])]),
            dmar::Structure::Rmrr(region(0xfeff_c000), vec![endpoint(&[(5, 0)])]),
            dmar::Structure::Rmrr(region(0xfeff_d000), vec![endpoint(&[(6, 0), (0, 0)])]),
            dmar::Structure::Rhsa(affinity),
        ],
    }
}

/// QEMU's unit, with a unity map for `edu`.
fn written_ivrs() -> ivrs::Ivrs {
    let every = ivrs::Entry::Short(ivrs::Short { kind: 1, device_id: 0, dte_setting: 0 });
    let unit = ivrs::Ivhd10 {
        flags: 0,
        device_id: 0x0008,
        capability_offset: 0x40,
        base: 0xfed8_0000,
        segment: 0,
        info: 0,
        features: 0,
    };
    let memory = ivrs::Ivmd {
        kind: 0x21,
        flags: 0b111,
        device_id: 0x0028,
        start: 0xfeff_c000,
        length: 0x1000,
        ..ivrs::Ivmd::default()
    };
    ivrs::Ivrs {
        header: header(1),
        platform: ivrs::PlatformInfo { iv_info: 0x0020_2800, reserved: 0 },
        definitions: vec![
            ivrs::Definition::Ivhd10(unit, vec![every]),
            ivrs::Definition::Ivmd(memory, Vec::new()),
        ],
    }
}
