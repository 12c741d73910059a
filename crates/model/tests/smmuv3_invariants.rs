//! What must hold always, whatever races with what, on an SMMUv3: completion after apply and drain (1), a racing fill inserts
//! nothing (2), registers answer meanwhile (3), no write before Dirty (5). Bad input (6) is in `smmuv3_random.rs`, "blocked
//! wins" (7) in `smmuv3_streams.rs` and `smmuv3_contexts.rs`.

mod hooked;
mod smmuv3_machine;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hooked::Hooked;
use portcullis_model::Registers;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_spec::Iova;
use smmuv3_machine::*;

/// A machine over hooked memory, with `STREAM` on an empty stage 1.
fn hooked() -> (Machine, Arc<Hooked>, u64) {
    let (mut machine, memory) = hooked::over(|view| Machine::over(Smmuv3Config::full(), view));
    machine.enable();
    let table = machine.attach(STREAM, 7);
    (machine, memory, table)
}

/// A device's write to [`PAGE`].
fn writes(machine: &Machine) -> impl FnOnce() + Send + 'static {
    let port = machine.port(STREAM);
    move || write(&port, 0x1000).unwrap()
}

/// Invariants 1 and 3: a CMD_SYNC is not consumed, nor its message sent, while a device still uses what went before it; and
/// registers are read meanwhile.
#[test]
fn a_sync_is_not_consumed_while_a_device_still_uses_what_went() {
    let (mut machine, memory, table) = hooked();
    let leaf = machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.put(PAGE, 0xaa);
    let (go_on, device) = memory.stop_a_write(PAGE, writes(&machine));
    machine.put(leaf, 0);
    // CMD_TLBI_NH_ASID, and a CMD_SYNC that writes memory.
    machine.put_words(COMMANDS, &[0x11 | 7 << 48, 0]);
    machine.put_words(COMMANDS + 16, &[0x46 | 1 << 12 | 5 << 32, OTHER_PAGE]);
    let unit = machine.unit.clone();
    let software = std::thread::spawn(move || unit.write32(CMDQ_PROD, 2));
    std::thread::sleep(Duration::from_millis(50));
    assert!(machine.unit.read32(CMDQ_CONS) < 2, "consumed while the device was still writing");
    assert_eq!(machine.unit.read32(CR0ACK), CMDQEN | EVENTQEN | SMMUEN);
    assert_eq!((machine.get(OTHER_PAGE), machine.get(PAGE)), (0, 0xaa));
    go_on.send(()).unwrap();
    software.join().unwrap();
    device.join().unwrap();
    assert_eq!((machine.unit.read32(CMDQ_CONS), machine.get(OTHER_PAGE), machine.get(PAGE)), (2, 5, 0));
    machine.refused(machine.read(STREAM, 0x1000), 0x10);
}

/// Invariant 1, for CR0: SMMUEN is updated after the drain.
#[test]
fn translation_goes_off_after_the_drain() {
    let (mut machine, memory, table) = hooked();
    machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.put(PAGE, 0xaa);
    let unit = machine.unit.clone();
    let device = memory.returns_after_a_write("CR0", (PAGE, writes(&machine)), move || {
        unit.write32(CR0, CMDQEN | EVENTQEN);
    });
    assert_eq!(machine.get(PAGE), 0);
    device.join().unwrap();
}

/// Invariant 2: what a walk or a look-up reads before an invalidation is not kept after it.
#[test]
fn a_fill_that_races_an_invalidation_leaves_nothing_behind() {
    // The leaf, then the descriptor's and the entry's first word; with what invalidates each.
    for (case, command) in [(0, [0x11 | 7 << 48, 0]), (1, [0x05 | 5 << 32, 1]), (2, [0x03 | 5 << 32, 1])] {
        let (mut machine, memory, table) = hooked();
        let leaf = machine.map(table, 0x1000, PAGE, S1 | USER);
        let entry = STREAMS + 64 * u64::from(STREAM);
        let descriptor = machine.get(entry) & !0xf;
        let at = [leaf, descriptor, entry][case];
        let (unit, raw) = (machine.unit.clone(), machine.memory.clone());
        let change = move || {
            use portcullis_model::GuestMemory;
            use portcullis_spec::PhysAddr;
            let old = raw.load64(PhysAddr(at)).unwrap();
            let gone = if case == 1 { old & !(1 << 31) } else { old & !1 };
            raw.store64(PhysAddr(at), gone).unwrap();
            for (word, value) in [(0, command[0]), (8, command[1])] {
                raw.store64(PhysAddr(COMMANDS + word), value).unwrap();
            }
            // On a thread of its own: the drain waits for this one.
            let software = std::thread::spawn(move || unit.write32(CMDQ_PROD, 1));
            std::thread::sleep(Duration::from_millis(20));
            drop(software);
        };
        // Entries are read until two readings agree: the last of them must race too.
        let others = if case == 0 { 0 } else { 1 };
        *memory.after_load.lock().unwrap() = Some((at, others, Box::new(change)));
        let _ = machine.read(STREAM, 0x1000);
        while machine.unit.read32(CMDQ_CONS) != 1 {
            std::thread::yield_now();
        }
        machine.take_events();
        let number = [0x10, 0x0a, 0x04][case];
        machine.refused(machine.read(STREAM, 0x1000), number);
    }
}

/// Invariant 1 under load: after a CMD_SYNC nothing is written to a page that was unmapped before it.
#[test]
fn nothing_is_written_after_an_unmap_has_completed() {
    let mut machine = Machine::new();
    let table = machine.attach(STREAM, 7);
    let leaf = machine.map(table, 0x1000, PAGE, S1 | USER);
    let writers = [0, 1].map(|_| {
        let port = machine.port(STREAM);
        move |value: u64| port.write(Iova(0x1000), &value.to_le_bytes()).is_ok()
    });
    hooked::nothing_is_written_to_what_was_left(
        2000,
        writers,
        [PAGE, PAGE + 0x1000],
        |page| machine.get(page),
        |new| {
            machine.put(leaf, new | S1 | USER | 3);
            machine.command(&[[0x12 | 7 << 48, 0x1000 | 1]]);
        },
    );
}

/// Invariant 5: a write is granted only once Dirty stands in memory; where it can't be set, it is refused.
#[test]
fn an_access_whose_flags_can_not_be_set_is_refused() {
    let (mut machine, memory, table) = hooked();
    let entry = STREAMS + 64 * u64::from(STREAM);
    let descriptor = machine.get(entry) & !0xf;
    // HA, HD.
    machine.put(descriptor, machine.get(descriptor) | 3 << 42);
    machine.map(table, 0x1000, PAGE, S1 | USER | READ_ONLY | DBM);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
    for flag in [&memory.read_only, &memory.restless] {
        flag.store(true, Ordering::SeqCst);
        // 7.3.12: an abort updating a descriptor.
        machine.refused(machine.write(STREAM, 0x1000, 1), 0x0b);
        flag.store(false, Ordering::SeqCst);
    }
    assert_eq!(machine.get(PAGE), 0);
    machine.write(STREAM, 0x1000, 1).unwrap();
}
