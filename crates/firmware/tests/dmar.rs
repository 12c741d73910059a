//! DMAR as topology: tables put together by hand from VT-d chapter 8.
#![allow(missing_docs)]

mod common;

use common::{findings, hex, table};
use portcullis_firmware::acpi::topology;
use portcullis_firmware::topology::{
    AtsStatement, DeviceName, Devices, IdMap, InterruptSourceKind, NoBridges, PciBridges, PciPath,
    ReservedKind, Source, UnitId,
};
use portcullis_spec::{PciAddress, Requester};

/// Two units: one for graphics, one for all else with an I/O APIC, an HPET and an ACPI device; a reserved region behind a
/// bridge; ATS, affinity and SoC-integrated devices.
fn machine() -> Vec<u8> {
    table(
        b"DMAR",
        &hex("
        26 05 00000000000000000000                      # 39 bits; interrupt remapping, DMA opt-in
        0000 1800  00 01 0000  0000d9fe00000000         # +30 DRHD, 8 KiB, segment 0, fed90000
          0108 0000 00 00 0200                          # +40   00:02.0
        0000 3800  01 00 0000  0010d9fe00000000         # +48 DRHD, INCLUDE_PCI_ALL, fed91000
          0308 0000 02 f0 1f00                          # +58   I/O APIC 2 at f0:1f.0
          0408 0000 00 00 0f00                          # +60   HPET 0 at 00:0f.0
          0508 0000 01 00 1500                          # +68   ACPI device 1 at 00:15.0
          020a 0000 00 00 1c00 0001                     # +70   bridge 00:1c.0/00.1
          0106 0000 00 00                               # +7a   no path: a finding
        0100 2200  0000 0000  0000007a00000000 ffff0f7a00000000   # +80 RMRR 7a000000 to 7a0fffff
          010a 0000 00 00 1c00 0000                     # +98   00:1c.0/00.0
        0200 0800  01 00 0000                           # +a2 ATSR ALL_PORTS
        0200 1000  00 00 0000  0208 0000 00 00 0100     # +aa ATSR 00:01.0
        0300 1400  00000000 0010d9fe00000000 01000000   # +ba RHSA fed91000 in domain 1
        0300 1400  00000000 0020d9fe00000000 01000000   # +ce RHSA of no unit: a finding
        0400 1700  000000 01 5c5f53422e504349302e4932433000   # +e2 ANDD 1 \\_SB.PCI0.I2C0
        0500 1000  01 00 0000  0108 0000 00 00 0b00     # +f9 SATC, ATC required, 00:0b.0
        0600 1000  0000 0000   0108 1f00 00 00 0200     # +109 SIDP 00:02.0
    "),
    )
}

/// A bridge at 00:1c.0 with buses 3 to 5, and one behind it at 03:00.1 with bus 4.
struct Bridges;

impl PciBridges for Bridges {
    fn buses_behind(&self, address: PciAddress) -> Option<(u8, u8)> {
        match (address.bus(), address.device(), address.function()) {
            (0, 0x1c, 0) => Some((3, 5)),
            (3, 0, 1) => Some((4, 4)),
            _ => None,
        }
    }
}

fn at(offset: u32) -> Source {
    Source::table(portcullis_firmware::topology::Signature::DMAR, offset)
}

#[test]
fn units_have_registers_segment_and_affinity() {
    let topology = topology(&machine());
    assert_eq!(topology.units.len(), 2);
    let [graphics, rest] = [&topology.units[0], &topology.units[1]];
    let window = graphics.registers.as_ref().unwrap();
    assert_eq!((window.base.0, window.size), (0xfed9_0000, Some(0x2000)));
    assert_eq!(window.source, at(0x38));
    assert_eq!(graphics.proximity, None);
    let window = rest.registers.as_ref().unwrap();
    assert_eq!((window.base.0, window.size), (0xfed9_1000, Some(0x1000)));
    assert_eq!(rest.proximity.as_ref().map(|domain| domain.value), Some(1));
    assert_eq!(rest.source, at(0x48));
}

#[test]
fn the_platform_says_its_width_and_what_it_opts_into() {
    let platform = topology(&machine()).platform;
    assert_eq!(platform.physical_address_bits.unwrap().value, 39);
    assert!(platform.interrupt_remapping.unwrap().value);
    assert!(!platform.x2apic_opt_out.unwrap().value);
    let opt_in = platform.dma_opt_in.unwrap();
    assert!(opt_in.value);
    assert_eq!(opt_in.source, at(37));
}

#[test]
fn named_devices_go_to_their_unit_and_all_others_to_the_one_that_includes_all() {
    let topology = topology(&machine());
    let unit = |bus, device, function| {
        let resolved = topology.resolve(PciAddress::new(0, bus, device, function), &Bridges);
        resolved.and_then(|resolved| resolved.unit).map(|unit| unit.0)
    };
    assert_eq!(unit(0, 2, 0), Some(0));
    assert_eq!(unit(0, 2, 1), Some(1), "only the function that is named");
    assert_eq!(unit(7, 0, 0), Some(1));
    assert_eq!(topology.resolve(PciAddress::new(1, 0, 2, 0), &Bridges), None, "another segment");
    let resolved = topology.resolve(PciAddress::new(0, 4, 9, 0), &Bridges).unwrap();
    assert_eq!(resolved.route.source, at(0x70), "behind the bridge that the path names");
    assert_eq!(resolved.requester, Requester::Pci(PciAddress::new(0, 4, 9, 0)));
}

#[test]
fn a_path_is_walked_over_the_buses_that_bridges_have() {
    let path = PciPath { segment: 0, start_bus: 0, hops: vec![(0x1c, 0), (0, 1), (3, 2)] };
    assert_eq!(path.resolve(&Bridges), Some(PciAddress::new(0, 4, 3, 2)));
    assert_eq!(path.resolve(&NoBridges), None);
    let hierarchy = Devices::Hierarchy(PciPath { segment: 0, start_bus: 0, hops: vec![(0x1c, 0)] });
    for (bus, inside) in [(2, false), (3, true), (5, true), (6, false)] {
        assert_eq!(hierarchy.contains(PciAddress::new(0, bus, 1, 0), &Bridges), inside, "bus {bus}");
    }
    assert!(hierarchy.contains(PciAddress::new(0, 0, 0x1c, 0), &Bridges), "the bridge itself");
}

#[test]
fn interrupt_sources_and_acpi_devices_know_their_requester() {
    let topology = topology(&machine());
    let sources: Vec<_> = topology
        .interrupt_sources
        .iter()
        .map(|source| {
            (source.kind, source.number, source.unit, source.requester.resolve(&NoBridges).unwrap())
        })
        .collect();
    assert_eq!(
        sources,
        [
            (InterruptSourceKind::IoApic, 2, UnitId(1), PciAddress::new(0, 0xf0, 0x1f, 0)),
            (InterruptSourceKind::Hpet, 0, UnitId(1), PciAddress::new(0, 0, 0xf, 0)),
        ]
    );
    let name = DeviceName::AcpiPath("\\_SB.PCI0.I2C0".into());
    let ways: Vec<_> = topology.resolve_named(&name).map(|route| (route.unit, route.ids)).collect();
    assert_eq!(ways, [(Some(UnitId(1)), IdMap::One(0x15 << 3))]);
}

#[test]
fn a_reserved_region_is_for_the_device_behind_the_bridge() {
    let topology = topology(&machine());
    let region = &topology.reserved[0];
    assert_eq!((region.range.first, region.range.last), (0x7a00_0000, 0x7a0f_ffff));
    assert_eq!(region.kind.value, ReservedKind::Rmrr);
    assert_eq!(topology.reserved_for(PciAddress::new(0, 3, 0, 0), &Bridges).count(), 1);
    assert_eq!(topology.reserved_for(PciAddress::new(0, 3, 0, 1), &Bridges).count(), 0);
}

#[test]
fn ats_and_integrated_devices_are_stated() {
    let topology = topology(&machine());
    assert!(matches!(&topology.ats[0], AtsStatement::AllRootPorts(segment) if segment.value == 0));
    assert!(matches!(&topology.ats[1], AtsStatement::RootPorts(ports) if ports.len() == 1));
    assert!(
        matches!(&topology.ats[2], AtsStatement::Integrated { required: true, devices } if devices.len() == 1)
    );
    assert_eq!(topology.integrated[0].flags, 0x1f);
}

#[test]
fn what_is_wrong_is_found_with_its_offset() {
    assert_eq!(
        findings(&topology(&machine())),
        ["DMAR+0x7a: error: the path has no hop", "DMAR+0xd6: error: no unit has registers at 0xfed92000",]
    );
}

#[test]
fn units_without_registers_and_second_descriptions_do_not_count() {
    let bytes = table(
        b"DMAR",
        &hex("
        26 00 00000000000000000000
        0000 1000  01 00 0000  0010d9fe00000000         # +30
        0000 1000  01 00 0000  0000000000000000         # +40
        0000 1000  01 00 0000  0010d9fe00000000         # +50
        0000 1800  00 00 0000  0020d9fe00000000         # +60, after the one that takes all
          0108 0000 00 00 0200
        0000 1000  01 00 0000  0030d9fe00000000         # +78, a second that takes all
    "),
    );
    let topology = topology(&bytes);
    let bases: Vec<_> = topology.units.iter().map(|unit| unit.registers.as_ref().unwrap().base.0).collect();
    assert_eq!(bases, [0xfed9_1000, 0xfed9_2000, 0xfed9_3000]);
    assert_eq!(
        findings(&topology),
        [
            "DMAR+0x48: error: Register Base Address at 0x0 cannot be a register window",
            "DMAR+0x50: error: a unit with registers at 0xfed91000 is already described at DMAR+0x30",
            "DMAR+0x30: warning: the unit that takes all the rest of segment 0x0 is not the last of that segment",
            "DMAR+0x78: warning: a second unit takes all the rest of segment 0x0",
        ]
    );
}

#[test]
fn a_broken_structure_leaves_the_rest_readable() {
    let good = "0000 1000  01 00 0000  0010d9fe00000000";
    let head = "26 00 00000000000000000000";
    for (broken, finding) in [
        (
            "0100 1000 0000 0000 0000000000000000",
            "DMAR+0x30: error: RMRR says it has 16 bytes, it needs at least 24",
        ),
        ("0900 0800 00000000", "DMAR+0x30: warning: remapping structure of unknown type 0x9"),
        (
            "0100 1800 0000 0000 00100000 00000000 00000000 00000000",
            "DMAR+0x38: error: the range 0x1000 to 0x0 is empty or ends before it starts",
        ),
    ] {
        let topology = topology(&table(b"DMAR", &hex(&format!("{head} {broken} {good}"))));
        assert_eq!(topology.units.len(), 1, "{broken}");
        assert_eq!(findings(&topology), [finding]);
    }
    for (broken, finding) in [
        ("0000 0000", "DMAR+0x40: error: remapping structure says it has 0 bytes, it needs at least 4"),
        ("0000 2000 00000000", "DMAR+0x40: error: remapping structure of 32 bytes, but only 8 are left"),
        ("0000", "DMAR+0x40: warning: 2 bytes after the last remapping structure are no remapping structure"),
    ] {
        let topology = topology(&table(b"DMAR", &hex(&format!("{head} {good} {broken}"))));
        assert_eq!(topology.units.len(), 1, "{broken}");
        assert_eq!(findings(&topology), [finding]);
    }
}

#[test]
fn overlapping_and_unaligned_regions_are_found() {
    let bytes = table(
        b"DMAR",
        &hex("
        26 00 00000000000000000000
        0000 1000  01 00 0000  0010d9fe00000000
        0100 2000  0000 0000  0000007a00000000 ffff0f7a00000000  0108 0000 00 00 1400   # +40
        0100 2000  0000 0000  00f00f7a00000000 ffff1f7a00000000  0108 0000 00 00 1400   # +60
        0100 2000  0000 0000  0008307a00000000 ffff3f7a00000000  0108 0000 00 00 1400   # +80
    "),
    );
    assert_eq!(
        findings(&topology(&bytes)),
        [
            "DMAR+0x88: warning: the range 0x7a300800-0x7a3fffff does not begin and end on 4 KiB boundaries",
            "DMAR+0x60: warning: the range 0x7a0ff000-0x7a1fffff overlaps that of DMAR+0x40",
        ]
    );
}

#[test]
fn lengths_and_checksums_that_are_wrong_are_found() {
    let mut bytes =
        table(b"DMAR", &hex("26 00 00000000000000000000 0000 1000  01 00 0000  0010d9fe00000000"));
    bytes[9] ^= 0xff;
    assert!(findings(&topology(&bytes))[0].starts_with("DMAR+0x9: warning: the bytes add up to"));
    bytes.push(0);
    assert!(
        findings(&topology(&bytes))[0]
            .starts_with("DMAR+0x4: warning: the header says 64 bytes, there are 65")
    );
    assert_eq!(
        findings(&topology(&bytes[..20])),
        ["DMAR+0x0: error: 20 bytes are too few for a table header, which has 36"]
    );
}
