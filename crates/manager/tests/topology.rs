//! What configuration says of the machine, over what runs: confirmed, narrowed, or refused with its place.

mod common;

use portcullis_firmware::topology::NoBridges;
use portcullis_manager::{
    Inventory, ReservedKind, UnitId, UnitKind,
    configuration::{
        from_smmuman,
        topology::{describe, put_in_force},
    },
};
use portcullis_spec::{Access, Iova, PciAddress, Requester};

/// Two units, and three devices: 0000:00:01.0 to 0000:00:03.0.
fn machine() -> Inventory {
    let mut inventory = common::inventory(2, 3);
    for (at, (_, device)) in (1u8..).zip(&mut inventory.devices) {
        device.requesters = vec![Requester::Pci(PciAddress::new(0, 0, at, 0))];
        device.unit = Some(UnitId(0));
        device.reserved.clear();
    }
    for (at, unit) in inventory.units.iter_mut().enumerate() {
        unit.kind = UnitKind::Vtd;
        unit.name = format!("dmar{at}");
        unit.address = Some(0xfed9_0000 + 0x1000 * at as u64);
    }
    inventory
}

fn put(text: &str) -> Result<Inventory, String> {
    let input = portcullis_firmware::user::toml::read("board.toml", text).expect("it is read");
    let running = machine();
    put_in_force(&input, describe(&running), &NoBridges, running).map_err(|error| error.to_string())
}

fn units(inventory: &Inventory) -> Vec<Option<u32>> {
    inventory.devices.iter().map(|(_, device)| device.unit.map(|unit| unit.0)).collect()
}

#[test]
fn what_agrees_is_confirmed_and_says_where_it_stands() {
    let text = r#"
mode = "merge"
[[unit]]
name = "left"
registers = 0xfed90000
architecture = "vtd"
[[device]]
device = "0000:00:01.0"
unit = "left"
"#;
    let inventory = put(text).expect("it agrees");
    assert_eq!(inventory.units[0].name, "left");
    assert!(inventory.units[0].source.ends_with("board.toml:4:8"), "{}", inventory.units[0].source);
    assert_eq!(units(&inventory), [Some(0), Some(0), Some(0)]);
    let source = &inventory.devices[0].1.source;
    assert!(source.contains("board.toml:7"), "{source}");
}

#[test]
fn a_device_that_is_said_to_have_no_unit_cannot_be_granted() {
    let inventory =
        put("[[device]]\ndevice = \"0000:00:02.0\"\nunit = \"none\"\n").expect("less is possible");
    assert_eq!(units(&inventory), [Some(0), None, Some(0)]);
}

#[test]
fn where_firmware_is_ignored_only_what_is_said_counts() {
    let text = r#"
mode = "ignore"
[[unit]]
name = "dmar0"
architecture = "vtd"
[[device]]
device = "0000:00:03.0"
unit = "dmar0"
"#;
    assert_eq!(units(&put(text).expect("it agrees")), [None, None, Some(0)]);
    assert_eq!(units(&put("mode = \"ignore\"").expect("nothing is said")), [None, None, None]);
}

#[test]
fn a_unit_that_is_overridden_has_only_the_devices_that_are_said() {
    let text = r#"
mode = "override"
[[unit]]
name = "dmar0"
architecture = "vtd"
[[device]]
device = "0000:00:01.0"
unit = "dmar0"
"#;
    assert_eq!(units(&put(text).expect("it agrees")), [Some(0), None, None]);
}

#[test]
fn what_is_not_so_is_refused_with_its_place() {
    for (text, expected) in [
        (
            "[[unit]]\nname = \"x\"\narchitecture = \"vtd\"\n",
            "board.toml:2:8: the running machine has no unit `x`; it has dmar0, dmar1",
        ),
        (
            "mode = \"merge\"\n[[unit]]\nname = \"dmar0\"\narchitecture = \"smmu-v3\"\n",
            "unit `dmar0` is Intel VT-d",
        ),
        (
            "[[device]]\ndevice = \"0000:00:01.0\"\nunit = \"dmar1\"\n",
            "has dev0 behind dmar0, and a configuration cannot move it",
        ),
        (
            "[[device]]\ndevice = \"0000:00:01.0\"\nunit = \"dmar0\"\nid = 0x77\n",
            "has dev0 under the number 0000:00:01.0",
        ),
        ("[[device]]\ndevice = \"0000:00:01.0\"\nunit = \"nowhere\"\n", "there is no unit `nowhere`"),
        ("[[reserved]]\nfirst = 0x1000\nlast = 0x1fff\nmode = \"remove\"\n", "cannot remove one"),
    ] {
        let refused = put(text).expect_err(text);
        assert!(refused.contains(expected), "{text}: {refused}");
        assert!(refused.starts_with("board.toml:"), "{refused}");
    }
}

#[test]
fn reserved_regions_join_those_of_the_machine() {
    let text = r#"
[[reserved]]
first = 0x7a000000
last = 0x7a0fffff
kind = "rmrr"
access = "r"
devices = ["0000:00:01.0"]
[[reserved]]
first = 0x80000000
length = 0x1000
kind = "no-map"
devices = ["0000:*"]
"#;
    let inventory = put(text).expect("more is reserved");
    let regions = |at: usize| inventory.devices[at].1.reserved.as_slice();
    let [direct, reserved] = regions(0) else { panic!("{:?}", regions(0)) };
    assert_eq!((direct.kind, direct.access), (ReservedKind::Direct, Access::READ));
    assert_eq!(reserved.range, Iova(0x8000_0000)..=Iova(0x8000_0fff));
    assert_eq!((regions(1).len(), regions(1)[0].kind), (1, ReservedKind::Reserved));
    assert!(reserved.source.starts_with("board.toml:8"), "{}", reserved.source);
}

#[test]
fn smmumans_words_for_units_and_regions_are_put_in_force() {
    let text = "unit left mmio:fed91000,4096 intel\nreserved 0x80000000,64K\n";
    let configuration = from_smmuman("board.smmu", text).expect("it is read");
    let running = machine();
    let inventory = put_in_force(&configuration.firmware, describe(&running), &NoBridges, running);
    let inventory = inventory.expect("it agrees");
    assert_eq!(inventory.units[1].name, "left");
    assert_eq!(units(&inventory), [Some(0), Some(0), Some(0)]);
    for (_, device) in &inventory.devices {
        assert_eq!(device.reserved[0].range, Iova(0x8000_0000)..=Iova(0x8000_ffff));
    }
}
