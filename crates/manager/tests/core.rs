//! What the core promises, case by case.

mod common;

use std::{os::fd::OwnedFd, sync::Arc};

use common::{Fail, PAGE, Plain, inventory};
use portcullis_manager::{
    DeviceId, Inventory, ReservedKind, ReservedRegion, Source, UnitId,
    core::{Accepted, Asked, ClientId, Core, Event, MapFrom, Pattern, Policy, Refusal},
};
use portcullis_spec::{Access, Iova, PhysAddr};

fn start(inventory: Inventory, accepted: Accepted) -> (Plain, Core) {
    let plain = Plain::new(inventory);
    let core = Core::start::<Refusal>(Box::new(plain.clone()), accepted, Ok).unwrap();
    (plain, core)
}

fn client(core: &mut Core) -> ClientId {
    let policy = Policy::new("vm", ["*"]);
    core.connect(Arc::new(policy)).unwrap()
}

fn memory(core: &mut Core, client: ClientId, pages: u64) -> MapFrom {
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    MapFrom::Memory(core.add_memory(client, Arc::new(file), pages * PAGE, true).unwrap())
}

fn at(iova: u64, pages: u64) -> Asked {
    Asked { offset: 0, iova: Some(Iova(iova)), length: pages * PAGE, access: Access::READ_WRITE }
}

fn direct(first: u64, pages: u64) -> ReservedRegion {
    ReservedRegion {
        range: Iova(first)..=Iova(first + pages * PAGE - 1),
        kind: ReservedKind::Direct,
        access: Access::READ_WRITE,
        source: "RMRR".into(),
    }
}

#[test]
fn a_device_whose_interrupts_are_not_remapped_is_refused_until_accepted_by_name() {
    let mut machine = inventory(1, 1);
    machine.units[0].capabilities.interrupts_isolated = false;
    let (_, mut core) = start(machine.clone(), Accepted::default());
    let vm = client(&mut core);
    assert!(matches!(core.claim(vm, "dev0"), Err(Refusal::UnsafeInterrupts { .. })));

    let accepted = Accepted { unsafe_interrupts: vec![Pattern::new("unit0")], ..Accepted::default() };
    let (_, mut core) = start(machine, accepted);
    let vm = client(&mut core);
    assert_eq!(core.claim(vm, "dev0").unwrap(), [DeviceId(0)]);
}

#[test]
fn a_device_without_a_unit_is_never_given_away() {
    let mut machine = inventory(1, 1);
    machine.devices[0].1.unit = None;
    let (plain, mut core) = start(machine, Accepted::default());
    let vm = client(&mut core);
    assert!(matches!(core.claim(vm, "dev0"), Err(Refusal::Unguarded(_))));
    assert!(plain.0.lock().unwrap().calls.is_empty());
}

#[test]
fn devices_that_a_unit_cannot_tell_apart_are_one() {
    let mut machine = inventory(2, 6);
    machine.units[1].capabilities.tells_devices_apart = false;
    let (plain, mut core) = start(machine, Accepted::default());
    let vm = client(&mut core);
    assert_eq!(core.claim(vm, "dev1").unwrap(), [DeviceId(1), DeviceId(3), DeviceId(5)]);
    let space = core.create_space(vm).unwrap();
    let from = memory(&mut core, vm, 4);
    core.map(vm, space, from, &[at(0x1000, 1)]).unwrap();
    core.attach(vm, space, "dev3", None).unwrap();
    assert_eq!(plain.reach(DeviceId(5), None).len(), 1);
    let reasons: Vec<_> = core.groups().flat_map(|(g, _, _)| g.reasons.clone()).collect();
    assert_eq!(reasons.len(), 2);
    assert!(reasons[0].contains("unit1 cannot tell its devices apart"), "{reasons:?}");
    let other = client(&mut core);
    assert!(matches!(core.claim(other, "dev5"), Err(Refusal::Held { .. })));
}

#[test]
fn mappings_are_replayed_when_a_device_behind_another_unit_joins() {
    let (plain, mut core) = start(inventory(2, 2), Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "*").unwrap();
    let space = core.create_space(vm).unwrap();
    let from = memory(&mut core, vm, 4);
    core.attach(vm, space, "dev0", None).unwrap();
    core.map(vm, space, from, &[at(0x1000, 1), at(0x5000, 2)]).unwrap();
    assert_eq!(core.attach(vm, space, "dev1", None).unwrap().replayed, 2);
    assert_eq!(plain.reach(DeviceId(0), None), plain.reach(DeviceId(1), None));
    core.unmap(vm, space, &[(Iova(0x1000), PAGE)]).unwrap();
    assert_eq!(plain.reach(DeviceId(1), None).len(), 2);
    assert_eq!(plain.reach(DeviceId(0), None), plain.reach(DeviceId(1), None));
}

#[test]
fn a_client_that_goes_leaves_its_devices_stopped_then_cut_off_then_reset() {
    let (plain, mut core) = start(inventory(1, 1), Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "dev0").unwrap();
    let space = core.create_space(vm).unwrap();
    let from = memory(&mut core, vm, 1);
    core.attach(vm, space, "dev0", None).unwrap();
    core.map(vm, space, from, &[at(0x1000, 1)]).unwrap();
    plain.0.lock().unwrap().calls.clear();
    core.disconnect(vm);
    let inner = plain.0.lock().unwrap();
    let order: Vec<&str> = inner.calls.iter().filter_map(|c| c.split(' ').next()).collect();
    assert_eq!(order, ["quiesce", "detach", "destroy", "reset", "release", "remove"]);
    assert!(inner.memories.is_empty() && inner.spaces.is_empty());
}

#[test]
fn an_unknown_condition_blocks_everything_and_says_why() {
    let (plain, mut core) = start(inventory(1, 2), Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "*").unwrap();
    let space = core.create_space(vm).unwrap();
    let from = memory(&mut core, vm, 4);
    core.attach(vm, space, "*", None).unwrap();
    core.map(vm, space, from, &[at(0x1000, 1)]).unwrap();
    plain.0.lock().unwrap().fail = Some((0, Fail::Unknown));
    assert!(core.unmap(vm, space, &[(Iova(0x1000), PAGE)]).is_err());
    assert!(plain.0.lock().unwrap().blocked);
    assert!(core.safe_state().unwrap().contains("told to"));
    assert!(matches!(core.claim(vm, "dev0"), Err(Refusal::SafeState(_))));
    assert!(core.take_events().iter().any(|e| matches!(e, Event::SafeState(_))));
}

#[test]
fn writing_implies_reading_where_the_unit_cannot_tell_them_apart() {
    let mut machine = inventory(1, 1);
    machine.units[0].capabilities.write_only = false;
    let (_, mut core) = start(machine, Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "dev0").unwrap();
    let space = core.create_space(vm).unwrap();
    core.attach(vm, space, "dev0", None).unwrap();
    let from = memory(&mut core, vm, 1);
    let asked = Asked { access: Access::WRITE, ..at(0x1000, 1) };
    assert_eq!(core.map(vm, space, from, &[asked]).unwrap()[0].access, Access::READ_WRITE);
}

#[test]
fn requests_outside_what_there_is_get_the_exact_reason() {
    let mut machine = inventory(1, 1);
    let msi = ReservedRegion {
        range: Iova(0xfee0_0000)..=Iova(0xfeef_ffff),
        kind: ReservedKind::Msi,
        access: Access::empty(),
        source: "architecture".into(),
    };
    machine.devices[0].1.reserved.push(msi);
    let (_, mut core) = start(machine, Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "dev0").unwrap();
    let space = core.create_space(vm).unwrap();
    core.attach(vm, space, "dev0", None).unwrap();
    let from = memory(&mut core, vm, 4);
    core.map(vm, space, from, &[at(0x4000, 2)]).unwrap();
    let mut refused = |asked: Asked| core.map(vm, space, from, &[asked]).unwrap_err();
    assert!(matches!(refused(at(0x3000, 2)), Refusal::Overlap { .. }));
    assert!(matches!(refused(at(0x5000, 1)), Refusal::Overlap { .. }));
    assert!(matches!(refused(at(0x10_0000, 0)), Refusal::Empty(_)));
    assert!(matches!(refused(at(0x10_0000, 5)), Refusal::BeyondMemory { end: 0x5000, length: 0x4000 }));
    assert!(matches!(refused(at(0x10_0800, 1)), Refusal::Misaligned { what: "address", .. }));
    assert!(matches!(refused(at(0x1_0000_0000_0000, 1)), Refusal::OutsideUnit { .. }));
    assert!(matches!(refused(at(u64::MAX - 0xfff, 2)), Refusal::Wraps { .. }));
    assert!(matches!(refused(at(0xfedf_f000, 2)), Refusal::Reserved { kind: ReservedKind::Msi, .. }));
    let far = Asked { offset: u64::MAX - 0xfff, ..at(0x10_0000, 1) };
    assert!(matches!(refused(far), Refusal::Wraps { .. }));
    let nothing = Asked { access: Access::empty(), ..at(0x10_0000, 1) };
    assert!(matches!(refused(nothing), Refusal::Empty(_)));
    assert!(matches!(core.unmap(vm, space, &[(Iova(0x4000), PAGE)]), Err(Refusal::WouldSplit { .. })));
    assert!(matches!(core.unmap(vm, space, &[(Iova(0x9000), PAGE)]), Err(Refusal::NotMapped(_))));
    assert!(matches!(core.unmap(vm, space, &[(Iova(u64::MAX), 2)]), Err(Refusal::Wraps { .. })));
}

#[test]
fn a_device_that_keeps_a_region_for_its_firmware_is_refused_until_accepted_then_keeps_just_that() {
    let mut machine = inventory(1, 1);
    machine.devices[0].1.reserved.push(direct(0x7000_0000, 2));
    let (_, mut core) = start(machine.clone(), Accepted::default());
    let vm = client(&mut core);
    assert!(matches!(core.claim(vm, "dev0"), Err(Refusal::DirectRegion { .. })));

    let accepted = Accepted { direct_regions: vec![Pattern::new("dev0")], ..Accepted::default() };
    let (plain, mut core) = start(machine, accepted);
    let vm = client(&mut core);
    core.claim(vm, "dev0").unwrap();
    let space = core.create_space(vm).unwrap();
    core.attach(vm, space, "dev0", None).unwrap();
    let reach = plain.reach(DeviceId(0), None);
    assert_eq!(reach.keys().copied().collect::<Vec<_>>(), [0x7000_0000, 0x7000_1000]);
    assert_eq!(reach[&0x7000_1000].source, Source::Physical(PhysAddr(0x7000_1000)));
    // The client can neither remove it nor map over it, and it is gone with the device.
    assert!(matches!(core.unmap(vm, space, &[(Iova(0x7000_0000), 2 * PAGE)]), Err(Refusal::InUse { .. })));
    let from = memory(&mut core, vm, 1);
    assert!(matches!(core.map(vm, space, from, &[at(0x7000_0000, 1)]), Err(Refusal::Overlap { .. })));
    core.release(Some(vm), "dev0").unwrap();
    assert_eq!(core.grants(None).count(), 0);
}

#[test]
fn static_grants_are_rounded_outward_and_keep_clients_away() {
    let (plain, mut core) = start(inventory(1, 2), Accepted::default());
    let made = core.allow("dev0", 0x10_0800, 0x1000, Access::READ).unwrap();
    assert_eq!((made[0].first, made[0].length), (0x10_0000, 0x2000));
    core.allow("dev0", 0x20_0000, 0x1000, Access::READ_WRITE).unwrap();
    let pages: Vec<u64> = plain.reach(DeviceId(0), None).into_keys().collect();
    assert_eq!(pages, [0x10_0000, 0x10_1000, 0x20_0000]);
    let vm = client(&mut core);
    assert!(matches!(core.claim(vm, "dev0"), Err(Refusal::Held { holder, .. }) if holder == "static grants"));
    core.revoke(made[0].grant).unwrap();
    assert_eq!(plain.reach(DeviceId(0), None).len(), 1);
    assert!(plain.reach(DeviceId(1), None).is_empty());
}

#[test]
fn a_guest_that_is_mapped_to_itself_reaches_its_ranges_and_no_more() {
    let (plain, mut core) = start(inventory(1, 1), Accepted::default());
    let policy = Policy {
        unity: vec![0x4000_0000..=0x4000_1fff],
        physical: vec![0x4000_2000..=0x4000_3fff],
        ..Policy::new("guest", ["dev0"])
    };
    let guest = core.connect(Arc::new(policy)).unwrap();
    core.claim(guest, "dev0").unwrap();
    let space = core.create_space(guest).unwrap();
    core.attach(guest, space, "dev0", None).unwrap();
    assert_eq!(plain.reach(DeviceId(0), None).into_keys().collect::<Vec<_>>(), [0x4000_0000, 0x4000_1000]);
    let own = Asked { offset: 0x4000_3000, ..at(0x10_0000, 1) };
    core.map(guest, space, MapFrom::Physical, &[own]).unwrap();
    let foreign = Asked { offset: 0x4000_3000, ..at(0x20_0000, 2) };
    let refused = core.map(guest, space, MapFrom::Physical, &[foreign]);
    assert!(matches!(refused, Err(Refusal::NotPermitted { .. })));
}

#[test]
fn a_space_refuses_a_device_that_its_mappings_do_not_fit() {
    let mut machine = inventory(3, 3);
    machine.units[1].capabilities.page_sizes = 0x1_0000;
    machine.units[2].capabilities.iova = Iova(0)..=Iova(0xffff_ffff);
    let (_, mut core) = start(machine, Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "*").unwrap();
    let space = core.create_space(vm).unwrap();
    core.attach(vm, space, "dev0", None).unwrap();
    let from = memory(&mut core, vm, 1);
    core.map(vm, space, from, &[at(0x1_0000_0000, 1)]).unwrap();
    assert!(matches!(
        core.attach(vm, space, "dev1", None),
        Err(Refusal::Misaligned { what: "length", granularity: 0x1_0000, .. })
    ));
    assert!(matches!(core.attach(vm, space, "dev2", None), Err(Refusal::OutsideUnit { .. })));
    assert_eq!(core.unit_of(DeviceId(2)), Some(UnitId(2)));
}

#[test]
fn addresses_that_the_manager_chooses_avoid_everything_reserved() {
    let mut machine = inventory(1, 1);
    machine.units[0].capabilities.iova = Iova(0)..=Iova(0xffff);
    let mut region = direct(0x8000, 4);
    region.kind = ReservedKind::Reserved;
    machine.devices[0].1.reserved.push(region);
    let (_, mut core) = start(machine, Accepted::default());
    let vm = client(&mut core);
    core.claim(vm, "dev0").unwrap();
    let space = core.create_space(vm).unwrap();
    core.attach(vm, space, "dev0", None).unwrap();
    let from = memory(&mut core, vm, 1);
    let any = Asked { iova: None, ..at(0, 1) };
    // 16 pages, less the first and the four reserved ones.
    let mut chosen: Vec<u64> =
        (0..11).map(|_| core.map(vm, space, from, &[any]).unwrap()[0].iova.0 / PAGE).collect();
    assert!(matches!(core.map(vm, space, from, &[any]), Err(Refusal::NoRoom(_))));
    chosen.sort_unstable();
    assert_eq!(chosen, [1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15]);
    core.unmap(vm, space, &[(Iova(0x5000), PAGE)]).unwrap();
    assert_eq!(core.map(vm, space, from, &[any]).unwrap()[0].iova, Iova(0x5000));
}

#[test]
fn a_device_that_cannot_be_given_back_is_nobodys_until_it_can() {
    let (plain, mut core) = start(inventory(1, 1), Accepted::default());
    let (first, second) = (client(&mut core), client(&mut core));
    core.claim(first, "dev0").unwrap();
    plain.0.lock().unwrap().kept = true;
    core.disconnect(first);
    let refused = core.claim(second, "dev0").unwrap_err();
    assert!(refused.to_string().contains("somebody"), "{refused}");
    core.take_changes();
    assert!(core.claim(second, "dev0").is_err());
    plain.0.lock().unwrap().kept = false;
    core.take_changes();
    assert!(plain.0.lock().unwrap().claimed.is_empty(), "given back without being asked for");
    assert_eq!(core.claim(second, "dev0").unwrap(), [DeviceId(0)]);
}
