//! What firmware says, joined with what the user says.
#![allow(missing_docs)]

mod common;

use common::{findings, hex, table};
use portcullis_firmware::acpi::topology;
use portcullis_firmware::topology::{Architecture, NoBridges, ReservedKind, Source, Topology, UnitId};
use portcullis_firmware::user::{MergeError, merge, toml};
use portcullis_spec::{PciAddress, PhysAddr};

/// Two units: one for 00:02.0, one for all else; a region for 00:14.0.
fn firmware() -> Topology {
    topology(&table(
        b"DMAR",
        &hex("
        26 01 00000000000000000000
        0000 1800  00 00 0000  0000d9fe00000000  0108 0000 00 00 0200
        0000 1000  01 00 0000  0010d9fe00000000
        0100 2000  0000 0000  0000007a00000000 ffff0f7a00000000  0108 0000 00 00 1400
        0300 1400  00000000 0010d9fe00000000 01000000
    "),
    ))
}

fn joined(text: &str) -> Result<Topology, MergeError> {
    merge(firmware(), &toml::read("user.toml", text).unwrap())
}

fn user(line: u32, column: u32) -> Source {
    Source::User { file: "user.toml".into(), line, column }
}

fn unit_of(topology: &Topology, bus: u8, device: u8) -> Option<String> {
    let resolved = topology.resolve(PciAddress::new(0, bus, device, 0), &NoBridges)?;
    Some(topology.unit(resolved.unit?)?.name.value.clone())
}

#[test]
fn nothing_said_leaves_firmware_as_it_is() {
    for mode in ["require", "merge", "override"] {
        assert_eq!(joined(&format!("mode = '{mode}'")).unwrap(), firmware(), "{mode}");
    }
    assert_eq!(joined("").unwrap(), firmware());
}

#[test]
fn ignore_leaves_only_what_the_user_says() {
    let text = "
mode = 'ignore'
[[unit]]
name = 'only'
architecture = 'virtio'
function = '0000:00:05.0'
[[device]]
device = '0000:*'
unit = 'only'
";
    let topology = joined(text).unwrap();
    assert_eq!(topology.units.len(), 1);
    assert_eq!(topology.units[0].architecture.source, user(5, 16));
    assert_eq!(topology.units[0].function.as_ref().unwrap().value, PciAddress::new(0, 0, 5, 0));
    assert_eq!(unit_of(&topology, 0, 2).as_deref(), Some("only"));
    assert!(topology.reserved.is_empty() && topology.platform.interrupt_remapping.is_none());
}

#[test]
fn require_fails_without_firmware() {
    let input = toml::read("user.toml", "mode = \"require\"").unwrap();
    let error = merge(Topology::default(), &input).unwrap_err();
    assert_eq!(error, MergeError::FirmwareRequired { at: Some(user(1, 8)) });
}

#[test]
fn a_merged_unit_keeps_what_the_user_does_not_state() {
    let topology =
        joined("mode = 'merge'\n[[unit]]\nname = 'dmar1'\nregisters = 0xfed95000\nproximity = 4\n").unwrap();
    let unit = &topology.units[1];
    let window = unit.registers.as_ref().unwrap();
    assert_eq!((window.base, window.size), (PhysAddr(0xfed9_5000), Some(0x1000)));
    assert_eq!(window.source, user(4, 13));
    assert_eq!(unit.proximity.as_ref().unwrap().value, 4);
    assert!(matches!(unit.architecture.source, Source::Table { .. }));
    assert_eq!(unit_of(&topology, 0, 3).as_deref(), Some("dmar1"), "its routes stay");
    assert_eq!(
        findings(&topology),
        [
            "user.toml:4:13: note: registers: 0xfed95000 (size 0x1000) replaces 0xfed91000 (size 0x1000) from DMAR+0x50",
            "user.toml:5:13: note: proximity domain: 4 replaces 1 from DMAR+0x88",
        ]
    );
}

#[test]
fn an_overridden_unit_is_what_the_user_states_and_no_more() {
    let error = joined("[[unit]]\nname = 'dmar1'\n").unwrap_err();
    assert!(matches!(error, MergeError::NoArchitecture { .. }), "{error}");
    let topology = joined("[[unit]]\nname = 'mine'\narchitecture = 'vtd'\nregisters = 0xfed91000\n").unwrap();
    assert_eq!(topology.units.len(), 2, "the same registers are the same unit");
    let unit = &topology.units[1];
    assert_eq!((unit.name.value.as_str(), unit.architecture.value), ("mine", Architecture::Vtd));
    assert_eq!((unit.segment.as_ref(), unit.proximity.as_ref()), (None, None));
    assert_eq!(unit_of(&topology, 0, 3), None, "its routes go");
    assert_eq!(unit_of(&topology, 0, 2).as_deref(), Some("dmar0"), "the other unit's stay");
}

#[test]
fn a_removed_unit_takes_its_routes_along_and_the_others_keep_theirs() {
    let topology = joined("[[unit]]\nname = 'dmar0'\nmode = 'remove'\n").unwrap();
    assert_eq!(topology.units.len(), 1);
    assert_eq!(topology.units[0].id, UnitId(0));
    assert_eq!(unit_of(&topology, 0, 2).as_deref(), Some("dmar1"), "the catch-all takes it now");
    let error = joined("[[unit]]\nname = 'absent'\nmode = 'remove'\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "user.toml:1:1: firmware says nothing of unit `absent` that could be removed"
    );
}

#[test]
fn a_device_goes_where_the_user_says() {
    let text = "
[[device]]
device = '0000:00:02.0'
unit = 'dmar1'
id = 0x18
[[device]]
device = '0000:03:00.0-0000:03:1f.7'
unit = 'none'
";
    let topology = joined(text).unwrap();
    let resolved = topology.resolve(PciAddress::new(0, 0, 2, 0), &NoBridges).unwrap();
    assert_eq!((resolved.unit, resolved.requester.index()), (Some(UnitId(1)), 0x18));
    assert_eq!(resolved.route.source, user(2, 1));
    let resolved = topology.resolve(PciAddress::new(0, 3, 4, 0), &NoBridges).unwrap();
    assert_eq!(resolved.unit, None);
    assert_eq!(
        findings(&topology),
        ["user.toml:2:1: note: route: dmar1 as 0x18 replaces dmar0 from DMAR+0x40"]
    );
}

#[test]
fn a_merged_device_takes_its_unit_from_firmware() {
    let text = "mode = 'merge'\n[[device]]\ndevice = '0000:00:02.0'\nids = { input = 0x10, output = 0x20, count = 1 }\n";
    let topology = joined(text).unwrap();
    let resolved = topology.resolve(PciAddress::new(0, 0, 2, 0), &NoBridges).unwrap();
    assert_eq!((resolved.unit, resolved.requester.index()), (Some(UnitId(0)), 0x20));
    let error = joined("mode = 'merge'\n[[device]]\ndevice = '0000:00:07.0'\n").unwrap_err();
    assert!(matches!(error, MergeError::NoUnit { .. }), "{error}");
}

#[test]
fn regions_are_joined_by_their_addresses() {
    let merged = joined(
        "[[reserved]]\nfirst = 0x7a000000\nlength = 0x100000\nmode = 'merge'\ndevices = ['0000:00:15.0']\n",
    );
    let merged = merged.unwrap();
    assert_eq!(merged.reserved.len(), 1);
    assert_eq!(merged.reserved[0].devices.len(), 2);
    assert_eq!(merged.reserved[0].devices[0].source, user(5, 12));
    assert!(matches!(merged.reserved[0].devices[1].source, Source::Table { .. }));
    let replaced = joined("[[reserved]]\nfirst = 0x7a000000\nlast = 0x7a0fffff\nkind = 'msi'\n").unwrap();
    assert_eq!(replaced.reserved.len(), 1);
    assert_eq!(replaced.reserved[0].kind.value, ReservedKind::Msi);
    assert!(replaced.reserved[0].devices.is_empty());
    let removed = joined("[[reserved]]\nfirst = 0x7a000000\nlast = 0x7a0fffff\nmode = 'remove'\n").unwrap();
    assert!(removed.reserved.is_empty());
    let added = joined("[[reserved]]\nfirst = 0x7a0ff000\nlength = 0x2000\nkind = 'unity'\n").unwrap();
    assert_eq!(added.reserved.len(), 2);
    assert_eq!(
        findings(&added),
        ["user.toml:1:1: warning: the range 0x7a0ff000-0x7a100fff overlaps that of DMAR+0x58"]
    );
}

#[test]
fn contradictions_are_errors_that_say_where() {
    for (text, expected) in [
        (
            "[[device]]\ndevice = '0000:00:07.0'\nunit = 'absent'\n",
            "user.toml:3:8: there is no unit `absent`",
        ),
        (
            "[[device]]\ndevice = '0000:00:07.0'\nunit = 'none'\n[[device]]\ndevice = '0000:00:07.0'\nunit = 'dmar0'\n",
            "user.toml:4:1: 0000:00:07.0 is already spoken of at user.toml:1:1",
        ),
        (
            "[[unit]]\nname = 'a'\narchitecture = 'vtd'\n[[unit]]\nname = 'a'\narchitecture = 'vtd'\n",
            "user.toml:4:1: unit `a` is already described at user.toml:1:1",
        ),
        (
            "[[reserved]]\nfirst = 0\nlast = 0xfff\n",
            "user.toml:1:1: the region 0x0-0xfff needs a kind, as there is no statement of firmware to merge with",
        ),
    ] {
        assert_eq!(joined(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_file_that_is_not_understood_says_where() {
    for (text, place) in [
        ("mode = 'sometimes'", "user.toml:1:8: "),
        ("\n[[unit]]\nname = 'x'\ncolour = 'red'\n", "user.toml:4:1: "),
        ("[[device]]\ndevice = '0000:00:20.0'\n", "user.toml:2:10: a PCI address is"),
        ("[[device]]\ndevice = 'eth0'\n", "user.toml:2:10: devices are written as"),
        ("[[device]]\ndevice = '0000:03:00.0-0000:02:00.0'\n", "user.toml:2:10: a range lies"),
        (
            "[[device]]\ndevice = '0000:*'\nid = 1\nids = { input = 0, output = 0, count = 1 }\n",
            "user.toml:4:7: give `id`",
        ),
        (
            "[[device]]\ndevice = '0000:*'\nids = { input = 1, output = 0, count = 0x100000000 }\n",
            "user.toml:3:7: a count",
        ),
        ("[[reserved]]\nfirst = 0x2000\nlast = 0x1000\n", "user.toml:2:9: the region is empty"),
        ("[[reserved]]\nfirst = 0x2000\n", "user.toml:1:1: give either"),
    ] {
        let error = toml::read("user.toml", text).unwrap_err().to_string();
        assert!(error.starts_with(place), "{text}: {error}");
    }
}

#[test]
fn all_forms_of_devices_are_read_as_they_are_shown() {
    for text in [
        "0000:00:02.0",
        "0000:00:1c.0/00.0",
        "0000:02:00.0-0000:03:1f.7",
        "\\_SB.PCI0.I2C0",
        "/soc/dma@0",
        "mmio@0xfeb00000",
    ] {
        assert_eq!(portcullis_firmware::user::devices(text).unwrap().to_string().replace(" to ", "-"), text);
    }
}
