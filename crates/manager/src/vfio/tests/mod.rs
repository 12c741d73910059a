//! The back end's logic over a fake kernel. That the real one behaves so is what `cargo xtask guest vfio` shows.

mod fake;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_spec::{Access, Iova};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;

use super::Vfio;
use crate::backend::{Backend, BackendError, Change, Mapping, MemoryId, Source, SpaceId};
use crate::inventory::{DeviceId, UnitId};
use fake::{Fake, is_device};

const DISK: &str = "0000:00:03.0";
const TWINS: [&str; 2] = ["0000:00:10.0", "0000:00:10.1"];
const SPACE: SpaceId = SpaceId(1);
const LENGTH: u64 = 0x10_0000;

fn machine() -> Fake {
    Fake::new(&[(DISK, 3, Some("nvme")), (TWINS[0], 7, Some("nvme")), (TWINS[1], 7, None)])
}

/// A manager that has looked around.
fn manager(fake: &Fake) -> Vfio {
    let mut vfio = Vfio::with(Box::new(fake.clone()), &fake.runtime()).expect("a back end");
    vfio.inventory().expect("an inventory");
    vfio
}

fn number(vfio: &Vfio, name: &str) -> DeviceId {
    vfio.numbers.all().find(|(known, _)| *known == name).expect("a device").1
}

fn claim(vfio: &mut Vfio, names: &[&str]) -> Result<Vec<DeviceId>, BackendError> {
    let ids: Vec<DeviceId> = names.iter().map(|name| number(vfio, name)).collect();
    vfio.claim(&ids).map(|()| ids)
}

/// A manager with a space, memory 1 in it, and these devices claimed and attached.
fn attached(fake: &Fake, names: &[&str]) -> (Vfio, Vec<DeviceId>) {
    let mut vfio = manager(fake);
    let memory = memfd_create("client", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memory, LENGTH).expect("its length");
    vfio.add_memory(MemoryId(1), Arc::new(memory), LENGTH, true).expect("memory");
    vfio.create_space(SPACE, UnitId(0)).expect("a space");
    let mut all = Vec::new();
    for group in names.chunk_by(|a, b| a[..10] == b[..10]) {
        all.extend(claim(&mut vfio, group).expect("a claim"));
    }
    for id in &all {
        vfio.attach(SPACE, *id, None).expect("attached");
    }
    (vfio, all)
}

fn pages(first: u64, count: u64) -> Mapping {
    Mapping {
        iova: Iova(first * 0x1000),
        length: count * 0x1000,
        source: Source::Memory(MemoryId(1), 0),
        access: Access::READ_WRITE,
    }
}

#[test]
fn space_is_mapped_in_every_group_that_is_attached() {
    let fake = machine();
    let (mut vfio, ids) = attached(&fake, &[DISK]);
    vfio.map(SPACE, &pages(1, 2)).expect("mapped");
    let twins = claim(&mut vfio, &TWINS).expect("a claim");
    for twin in &twins {
        vfio.attach(SPACE, *twin, None).expect("attached");
    }
    vfio.map(SPACE, &pages(8, 1)).expect("mapped");
    let wanted = [(0x1000, 0x2000), (0x8000, 0x1000)].into();
    assert_eq!((fake.reached(3), fake.reached(7)), (wanted, fake.reached(3)));
    vfio.detach(SPACE, ids[0], None).expect("detached");
    assert_eq!((fake.reached(3).len(), fake.reached(7).len()), (0, 2));
    vfio.unmap(SPACE, &pages(1, 2)).expect("unmapped");
    assert_eq!(fake.reached(7), [(0x8000, 0x1000)].into());
}

#[test]
fn mapping_that_fails_in_one_group_is_in_none() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK, TWINS[0], TWINS[1]]);
    fake.state().map_fails = Some((2, Errno::NOMEM));
    let refused = vfio.map(SPACE, &pages(1, 1)).expect_err("the second group's memory is short");
    assert!(matches!(refused, BackendError::System { .. }), "{refused}");
    assert_eq!((fake.reached(3).len(), fake.reached(7).len()), (0, 0));
    vfio.map(SPACE, &pages(1, 1)).expect("nothing was left in the way");
}

#[test]
fn attaching_that_fails_midway_leaves_nothing() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK]);
    for page in 0..3 {
        vfio.map(SPACE, &pages(2 * page, 1)).expect("mapped");
    }
    let twins = claim(&mut vfio, &TWINS).expect("a claim");
    fake.state().map_fails = Some((3, Errno::NOMEM));
    vfio.attach(SPACE, twins[0], None).expect_err("the third mapping fails");
    assert_eq!(fake.reached(7).len(), 0);
    vfio.map(SPACE, &pages(9, 1)).expect("mapped");
    assert_eq!(fake.reached(7).len(), 0, "it is not attached");
    vfio.attach(SPACE, twins[0], None).expect("attached");
    assert_eq!(fake.reached(7), fake.reached(3));
}

#[test]
fn address_that_the_unit_does_not_have_is_refused() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK]);
    let refused = vfio.map(SPACE, &pages(0xfee00, 1)).expect_err("the interrupt window");
    assert!(matches!(refused, BackendError::Unsupported { .. }), "{refused}");
    let beyond = Mapping { source: Source::Memory(MemoryId(1), LENGTH - 0x1000), ..pages(1, 2) };
    assert!(matches!(vfio.map(SPACE, &beyond), Err(BackendError::Unsupported { .. })));
    let wraps = Mapping { source: Source::Memory(MemoryId(1), u64::MAX - 0xfff), ..pages(1, 2) };
    assert!(matches!(vfio.map(SPACE, &wraps), Err(BackendError::Unsupported { .. })));
}

#[test]
fn kernel_that_contradicts_us_is_an_unknown_condition() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK]);
    vfio.map(SPACE, &pages(1, 1)).expect("mapped");
    fake.state().forgets = 0x1000;
    assert!(matches!(vfio.unmap(SPACE, &pages(1, 1)), Err(BackendError::Unknown(_))));
    fake.state().forgets = 0;
    let container = *fake.state().mapped.keys().last().expect("a container");
    fake.state().mapped.entry(container).or_default().insert(0x9000, 0x1000);
    assert!(matches!(vfio.map(SPACE, &pages(9, 1)), Err(BackendError::Unknown(_))));
}

#[test]
fn neighbours_are_unmapped_in_one_call() {
    let joined = super::joined(&[pages(5, 1), pages(1, 2), pages(3, 2), pages(9, 1)]);
    assert_eq!(joined, [(Iova(0x1000), 0x5000, 3), (Iova(0x9000), 0x1000, 1)]);
}

#[test]
fn claim_that_fails_gives_the_drivers_back() {
    let fake = machine();
    let mut vfio = manager(&fake);
    fake.state().unviable = true;
    let refused = claim(&mut vfio, &TWINS).expect_err("another driver is in the group");
    assert!(refused.to_string().contains("group 7"), "{refused}");
    assert_eq!((fake.driver(TWINS[0]).as_deref(), fake.driver(TWINS[1])), (Some("nvme"), None));
    fake.state().unviable = false;
    claim(&mut vfio, &TWINS).expect("a claim");
}

#[test]
fn half_a_group_is_refused_by_the_name_of_the_other() {
    let fake = machine();
    let mut vfio = manager(&fake);
    let refused = claim(&mut vfio, &TWINS[..1]).expect_err("half a group");
    assert!(refused.to_string().contains(TWINS[1]), "{refused}");
}

#[test]
fn disk_that_the_system_uses_is_refused() {
    let fake = machine();
    let block = format!("/sys/bus/pci/devices/{DISK}/nvme/nvme0/nvme0n1/nvme0n1p1");
    fake.put(&format!("{block}/dev"), "259:7\n");
    fake.link(&format!("{block}/subsystem"), "/sys/class/block");
    let mut vfio = manager(&fake);
    let refused = claim(&mut vfio, &[DISK]).expect_err("the root file system");
    assert!(refused.to_string().contains("nvme0n1p1, mounted on /"), "{refused}");
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
    fake.put(&format!("{block}/dev"), "259:8\n");
    claim(&mut vfio, &[DISK]).expect("a disk that nobody uses");
}

#[test]
fn unsafe_interrupts_are_allowed_only_while_the_group_is_joined() {
    let fake = machine();
    fake.state().interrupts_unsafe = true;
    let mut vfio = manager(&fake);
    claim(&mut vfio, &[DISK]).expect("a claim");
    let parameter = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    assert_eq!(fake.text(parameter), "N");
}

/// Whoever kills the manager between any two of its writes, its successor gives the devices back.
#[test]
fn crash_at_any_write_is_recovered_from() {
    let mut finished = false;
    for kill in 1..20 {
        let fake = machine();
        fake.state().interrupts_unsafe = true;
        let mut vfio = manager(&fake);
        fake.state().killed_at = Some(kill);
        let ids: Vec<DeviceId> = TWINS.iter().map(|name| number(&vfio, name)).collect();
        let _ = vfio.claim(&ids).and_then(|()| vfio.release(&ids));
        let whole = fake.state().killed_at != Some(0);
        drop(vfio);
        fake.state().killed_at = None;
        let mut next = manager(&fake);
        next.changes();
        assert_eq!((fake.driver(TWINS[0]).as_deref(), fake.driver(TWINS[1])), (Some("nvme"), None), "{kill}");
        let parameter = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
        assert_eq!(fake.text(parameter), "N", "{kill}");
        for twin in TWINS {
            assert_eq!(
                fake.text(&format!("/sys/bus/pci/devices/{twin}/driver_override")),
                "(null)",
                "{kill}"
            );
        }
        finished |= whole;
    }
    assert!(finished, "the last kill came after everything");
}

#[test]
fn device_that_a_client_keeps_stays_blocked_until_it_lets_go() {
    let fake = machine();
    let (mut vfio, ids) = attached(&fake, &[DISK]);
    vfio.map(SPACE, &pages(1, 1)).expect("mapped");
    let kept: OwnedFd = vfio.device_descriptor(ids[0]).expect("no error").expect("a descriptor");
    assert!(is_device(&fake, &kept));
    assert!(matches!(vfio.release(&ids), Err(BackendError::Busy { .. })));
    assert_eq!((fake.reached(3).len(), fake.driver(DISK).as_deref()), (0, Some("vfio-pci")));
    assert!(matches!(vfio.release(&ids), Err(BackendError::Busy { .. })));
    drop(kept);
    vfio.release(&ids).expect("it lets go");
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
}

#[test]
fn device_that_does_not_stop_is_cut_off_with_its_group() {
    let fake = machine();
    let (mut vfio, ids) = attached(&fake, &TWINS);
    vfio.map(SPACE, &pages(1, 1)).expect("mapped");
    vfio.quiesce(ids[0]).expect("it stops");
    assert_eq!(fake.reached(7).len(), 1, "who stops need not be cut off");
    fake.state().stubborn = true;
    vfio.quiesce(ids[1]).expect("blocked instead");
    assert_eq!(fake.reached(7).len(), 0);
    fake.state().commands.insert(TWINS[0].into(), 0xffff);
    assert!(matches!(vfio.quiesce(ids[0]), Err(BackendError::Gone)));
}

#[test]
fn safe_state_blocks_every_group() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK, TWINS[0], TWINS[1]]);
    vfio.map(SPACE, &pages(1, 1)).expect("mapped");
    vfio.block_everything();
    assert_eq!((fake.reached(3).len(), fake.reached(7).len()), (0, 0));
    assert!(fake.state().commands.values().all(|command| command & 4 == 0));
}

#[test]
fn hot_plugged_device_is_told_once_and_a_pulled_one_too() {
    let fake = machine();
    let mut vfio = manager(&fake);
    fake.add("0000:05:00.0", 9, None);
    let changes = vfio.changes();
    let [Change::Appeared(id, device)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!(device.name, "0000:05:00.0");
    assert!(vfio.changes().is_empty());
    std::fs::remove_dir_all(super::Kernel::locate(&fake, "/sys/bus/pci/devices/0000:05:00.0".as_ref()))
        .expect("gone");
    assert_eq!(vfio.changes(), [Change::Disappeared(*id)]);
    assert!(vfio.changes().is_empty());
}

/// What a manager leaves behind when it is killed, for the next one.
fn killed(vfio: Vfio) -> Vec<(String, OwnedFd)> {
    let kept = vfio.keep();
    kept.into_iter().map(|(name, fd)| (name, fd.try_clone_to_owned().expect("kept"))).collect()
}

fn successor(fake: &Fake, kept: Vec<(String, OwnedFd)>) -> Vfio {
    let mut vfio = Vfio::with(Box::new(fake.clone()), &fake.runtime()).expect("a back end");
    vfio.adopt(kept);
    vfio.inventory().expect("an inventory");
    vfio
}

#[test]
fn what_is_taken_up_stays_mapped_and_the_rest_is_blocked() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK, TWINS[0], TWINS[1]]);
    for first in [1, 5] {
        vfio.map(SPACE, &pages(first, 1)).expect("mapped");
    }
    let mut next = successor(&fake, killed(vfio));
    assert_eq!((fake.reached(3).len(), fake.reached(7).len()), (2, 2), "nothing is cut off meanwhile");
    let disk = number(&next, DISK);
    next.resume(&[disk]).expect("its group was kept");
    assert!(next.resume(&[disk]).is_err(), "only once");
    let memory = memfd_create("client", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memory, LENGTH).expect("its length");
    next.add_memory(MemoryId(1), Arc::new(memory), LENGTH, true).expect("memory");
    next.create_space(SPACE, UnitId(0)).expect("a space");
    next.map(SPACE, &pages(1, 1)).expect("noted");
    next.attach(SPACE, disk, None).expect("attached");
    assert_eq!(fake.reached(3).len(), 2, "it is mapped already");
    next.clear(SPACE, Iova(5 * 0x1000), 0x1000).expect("cleared");
    next.clear(SPACE, Iova(9 * 0x1000), 0x1000).expect("nothing was there");
    next.settle().expect("settled");
    assert_eq!((fake.reached(3).len(), fake.reached(7).len()), (1, 0));
    assert_eq!(fake.driver(TWINS[0]).as_deref(), Some("nvme"), "nobody took it up");
    // From here on it is a group like any other.
    next.map(SPACE, &pages(2, 1)).expect("mapped");
    next.unmap(SPACE, &pages(1, 1)).expect("unmapped");
    assert_eq!(fake.reached(3).len(), 1);
    next.detach(SPACE, disk, None).expect("detached");
    assert_eq!(fake.reached(3).len(), 0);
    next.release(&[disk]).expect("released");
    assert_eq!(fake.driver(DISK).as_deref(), Some("nvme"));
}

#[test]
fn what_is_taken_up_and_not_attached_is_blocked() {
    let fake = machine();
    let (mut vfio, _) = attached(&fake, &[DISK]);
    vfio.map(SPACE, &pages(1, 1)).expect("mapped");
    let mut next = successor(&fake, killed(vfio));
    let disk = number(&next, DISK);
    next.resume(&[disk]).expect("its group was kept");
    next.settle().expect("settled");
    assert_eq!((fake.reached(3).len(), fake.driver(DISK).as_deref()), (0, Some("vfio-pci")));
}
