//! What must hold always, whatever races with what: the seven invariants of the model, on VT-d. Those that need no race
//! are in the other files: 4 and pins (of 3) belong to device-TLBs and the fast path; not-present and Dirty (5) in
//! `vtd_queue.rs` and `vtd_scalable.rs`; bad input (6) in `vtd_random.rs` and `vtd_queue.rs`; "blocked wins" (7) in
//! `vtd_legacy.rs`, `vtd_scalable.rs` and `vtd_state.rs`.

mod common;

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::hooked::{self, Hooked};
use common::*;
use portcullis_model::GuestMemory;
use portcullis_model::Registers;
use portcullis_model::vtd::VtdUnit;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_spec::{Iova, PhysAddr};

/// A legacy machine over hooked memory, with `DEVICE` on empty tables of domain 7.
fn hooked(config: VtdConfig) -> (Machine, Arc<Hooked>, u64) {
    let (mut machine, memory) = hooked::over(|view| Machine::over(config, view));
    machine.set_root(machine.root);
    machine.enable_queue(false);
    machine.command(TE);
    let table = machine.allocate();
    machine.attach(DEVICE, table, 7);
    (machine, memory, table)
}

/// A device's write to [`PAGE`].
fn writes(machine: &Machine) -> impl FnOnce() + Send + 'static {
    let port = machine.port(DEVICE);
    move || write(&port, 0x1000, 0xdead).unwrap()
}

/// [`Hooked::race`] with a word that changes and descriptors that were queued, up to `tail`; the queue has passed `passed`.
fn race(
    machine: &Machine,
    memory: &Hooked,
    at: (u64, u32),
    change: (u64, u64),
    (passed, tail): (u64, u64),
) -> mpsc::Receiver<std::thread::JoinHandle<()>> {
    let (unit, submitted, words) = (machine.unit.clone(), machine.unit.clone(), machine.memory.clone());
    memory.race(
        at,
        move || words.store64(PhysAddr(change.0), change.1).unwrap(),
        move || unit.write64(0x88, tail),
        move || submitted.read64(0x80) >= passed,
    )
}

/// Invariant 1: a wait is written only after every earlier invalidation is applied and drained: no device thread is
/// still using anything older.
#[test]
fn a_wait_is_not_written_while_a_device_still_uses_what_went() {
    let (mut machine, memory, table) = hooked(VtdConfig::default());
    let leaf = machine.map(table, 0x1000, PAGE, RW);
    let (go_on, device) = memory.stop_a_write(PAGE, writes(&machine));
    // The page is unmapped and the queue is told; the write above is still on its way.
    machine.put(leaf, 0);
    machine.put(STATUS, 0);
    machine.queue(&[[2 | 2 << 4 | 7 << 16, 0], [5 | 1 << 5 | 1 << 32, STATUS]]);
    let unit = machine.unit.clone();
    let software = std::thread::spawn(move || unit.write64(0x88, 32));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(machine.get(STATUS), 0, "completed while the device was still writing");
    assert_eq!(machine.get(PAGE), 0);
    go_on.send(()).unwrap();
    software.join().unwrap();
    assert_eq!((machine.get(STATUS), machine.get(PAGE)), (1, 0xdead));
    device.join().unwrap();
    machine.refused(machine.read(DEVICE, 0x1000), 0x6);
}

/// The same for the register commands, for setting the root and for switching translation.
#[test]
fn register_commands_complete_after_the_drain() {
    type Command = fn(&VtdUnit);
    let commands: [(&str, Command); 4] = [
        ("IOTLB_REG", |unit| unit.write64(0xf8, 1 << 63 | 1 << 60)),
        ("CCMD_REG", |unit| unit.write64(0x28, 1 << 63 | 1 << 61)),
        ("SRTP", |unit| unit.write32(0x18, TE | SRTP)),
        ("TE", |unit| unit.write32(0x18, 0)),
    ];
    for (name, command) in commands {
        let (mut machine, memory, table) = hooked(VtdConfig::default());
        machine.unit.write32(0x18, TE);
        machine.map(table, 0x1000, PAGE, RW);
        let unit = machine.unit.clone();
        let device = memory.returns_after_a_write(name, (PAGE, writes(&machine)), move || command(&unit));
        device.join().unwrap();
    }
}

/// Invariant 2: a walk that read an entry before the invalidation inserts nothing that outlives it.
#[test]
fn a_walk_that_races_an_invalidation_leaves_nothing_behind() {
    let (mut machine, memory, table) = hooked(VtdConfig::default());
    let leaf = machine.map(table, 0x1000, PAGE, RW);
    machine.put(PAGE, 1);
    machine.put(OTHER_PAGE, 2);
    machine.queue(&[[2 | 1 << 4, 0], [5 | 1 << 5 | 1 << 32, STATUS]]);
    // The device's walk has just read the old leaf. Now software changes it and invalidates; the invalidation is
    // applied (the head has passed it) before the walk goes on.
    let software = race(&machine, &memory, (leaf, 0), (leaf, OTHER_PAGE | RW), (16, 32));
    // The access began before the invalidation completed: it may still see the old page.
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(1));
    software.recv().unwrap().join().unwrap();
    assert_eq!(machine.get(STATUS), 1);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(2), "the old translation was kept");
}

/// The same for a context.
#[test]
fn a_look_up_that_races_an_invalidation_leaves_nothing_behind() {
    let (mut machine, memory, table) = hooked(VtdConfig::default());
    machine.map(table, 0x1000, PAGE, RW);
    let entry = machine.context_entry(DEVICE);
    machine.queue(&[[1 | 1 << 4, 0], [2 | 1 << 4, 0], [5 | 1 << 5 | 1 << 32, STATUS]]);
    // An entry is read twice, to see that nobody is changing it; after the second reading the look-up believes it.
    let software = race(&machine, &memory, (entry + 8, 1), (entry, 0), (32, 48));
    assert!(machine.read(DEVICE, 0x1000).is_ok());
    software.recv().unwrap().join().unwrap();
    machine.refused(machine.read(DEVICE, 0x1000), 0x2);
}

/// Invariants 1 and 2 under load: device threads write without pause while pages are unmapped; after the wait no byte of an
/// unmapped page changes.
#[test]
fn nothing_is_written_after_an_unmap_has_completed() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 7);
    machine.attach(OTHER_DEVICE, table, 7);
    let leaf = machine.map(table, 0x1000, PAGE, RW);
    let writers = [DEVICE, OTHER_DEVICE].map(|device| {
        let port = machine.port(device);
        move |value: u64| port.write(Iova(0x1000), &value.to_le_bytes()).is_ok()
    });
    let machine = RefCell::new(machine);
    hooked::nothing_is_written_to_what_was_left(
        2000,
        writers,
        [PAGE, OTHER_PAGE],
        |page| machine.borrow().get(page),
        |new| {
            machine.borrow_mut().put(leaf, new | RW);
            assert!(machine.borrow_mut().submit(&[[2 | 3 << 4 | 7 << 16, 0x1000]]));
        },
    );
}

/// Invariant 3, as far as the model has long uses: a reader of registers is not kept waiting by one who drains.
#[test]
fn registers_are_read_while_a_command_drains() {
    let (mut machine, memory, table) = hooked(VtdConfig::default());
    machine.map(table, 0x1000, PAGE, RW);
    let (go_on, device) = memory.stop_a_write(PAGE, writes(&machine));
    machine.queue(&[[2 | 1 << 4, 0], [5 | 1 << 5 | 1 << 32, STATUS]]);
    let unit = machine.unit.clone();
    let software = std::thread::spawn(move || unit.write64(0x88, 32));
    while machine.unit.read64(0x80) == 0 {
        std::thread::yield_now();
    }
    // The queue waits for the device. Others are served: head, status, faults, and another device's DMA.
    assert_eq!(machine.unit.read32(FSTS), 0);
    machine.refused(machine.read(OTHER_DEVICE, 0x1000), 0x2);
    assert_eq!(machine.unit.read32(GSTS) & TE, TE);
    go_on.send(()).unwrap();
    software.join().unwrap();
    device.join().unwrap();
}

/// Invariant 5: a flag that can't be set refuses the access (SFS.10, SSS.6); nothing is granted before Dirty is set.
#[test]
fn an_access_whose_flags_can_not_be_set_is_refused() {
    const SSADE: u64 = 1 << 9;
    const PWSNP: u64 = 1 << 23;
    for restless in [false, true] {
        let (mut machine, memory) = hooked::over(|view| Machine::over(VtdConfig::full(), view));
        machine.set_root(machine.root | 1 << 10);
        machine.enable_queue(true);
        machine.command(TE);
        let tables = [machine.allocate(), machine.allocate()];
        machine.pasid(DEVICE, 0, [1 << 6 | 1, PWSNP | 1, tables[0]]);
        machine.pasid(DEVICE, 1, [tables[1] | SSADE | 2 << 6 | 2 << 2 | 1, PWSNP | 2, 0]);
        machine.map_first(tables[0], 0, PAGE, 0b111);
        machine.map(tables[1], 0, PAGE, RW);
        let pasid = machine.pasid_port(DEVICE, 1);
        memory.read_only.store(!restless, Ordering::SeqCst);
        memory.restless.store(restless, Ordering::SeqCst);
        machine.refused(machine.write(DEVICE, 0, 1), 0x91);
        machine.refused(write(&pasid, 0, 1), 0x7d);
        assert_eq!(machine.get(PAGE), 0);
        memory.read_only.store(false, Ordering::SeqCst);
        memory.restless.store(false, Ordering::SeqCst);
        machine.write(DEVICE, 0, 1).unwrap();
        write(&pasid, 0, 2).unwrap();
    }
}

/// Invariant 5: rights that were added need no invalidation to be granted from tables, and those taken away are gone when
/// the invalidation has completed.
#[test]
fn a_cached_page_is_no_reason_to_refuse() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 7);
    machine.map(table, 0x1000, PAGE, R);
    assert!(machine.read(DEVICE, 0x1000).is_ok());
    machine.map(table, 0x1000, PAGE, RW);
    assert!(machine.write(DEVICE, 0x1000, 1).is_ok());
    machine.map(table, 0x1000, PAGE, R);
    assert!(machine.submit(&[[2 | 3 << 4 | 7 << 16, 0x1000]]));
    machine.refused(machine.write(DEVICE, 0x1000, 2), 0x5);
}

/// Invariant 5: an entry that leads to a table goes with any address that it serves (6.5.2.3, IH clear), however many regions that are. The
/// leaf entries in the table were taken away before, each with its own invalidation.
#[test]
fn a_table_of_large_pages_goes_as_a_whole() {
    const OTHER: u64 = 0x4020_0000;
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 7);
    let pages = [0x4000_0000, OTHER];
    let leaves = pages.map(|iova| machine.map_at(table, 4, 1, iova, RW, RW | PS));
    for iova in [pages; 6].into_iter().flatten() {
        assert_eq!(machine.read(DEVICE, iova), Ok(0));
    }
    for (leaf, iova) in leaves.into_iter().zip(pages) {
        machine.put(leaf, 0);
        assert!(machine.submit(&[[2 | 3 << 4 | 7 << 16, iova | 1 << 6 | 9]]));
    }
    let above = machine.get(table) & !0xfff;
    machine.put(above + 8, 0);
    assert!(machine.submit(&[[2 | 3 << 4 | 7 << 16, pages[0]]]));
    // Nobody's table any more.
    machine.put(leaves[1], RW | PS);
    machine.refused(machine.read(DEVICE, OTHER), 0x6);
}
