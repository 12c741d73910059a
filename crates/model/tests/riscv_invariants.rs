//! What must hold always, whatever races with what: the invariants of the model, on the RISC-V IOMMU.

mod hooked;
mod riscv_machine;

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hooked::Hooked;
use portcullis_model::GuestMemory;
use portcullis_model::Registers;
use portcullis_model::riscv::RiscvUnit;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_spec::{Iova, PhysAddr};
use riscv_machine::*;

const STATUS: u64 = 0x9000;
const OTHER: u64 = TARGET + PAGE;
/// `IOTINVAL.VMA` of the host, and a fence that writes 1 to [`STATUS`].
const FORGET: [u64; 2] = [1, 0];
const FENCE: [u64; 2] = [2 | 1 << 10 | 1 << 32, STATUS >> 2];

/// A unit over hooked memory, with [`DEVICE`]'s page 0x1000 at [`TARGET`]; and the place of its last entry.
fn hooked() -> (Bench, Arc<Hooked>, u64) {
    let (bench, memory) = hooked::over(|view| Bench::over(RiscvConfig::default(), view));
    bench.queues_on();
    bench.set_levels(3);
    let root = bench.first_stage(DEVICE, 3, 0x1000);
    let leaf = bench.map(root, 3, 0, 0x1000, pte(TARGET, LEAF));
    (bench, memory, leaf)
}

/// Puts commands in the queue, for a tail of so many.
fn queue(bench: &Bench, commands: &[[u64; 2]]) -> u32 {
    for (command, at) in commands.iter().zip((QUEUE..).step_by(16)) {
        bench.put(at, command[0]);
        bench.put(at + 8, command[1]);
    }
    commands.len() as u32
}

/// A device's write to [`TARGET`].
fn write(bench: &Bench) -> impl FnOnce() + Send + 'static {
    let port = bench.port(DEVICE, None);
    move || port.write(Iova(0x1000), &0xdeadu64.to_le_bytes()).unwrap()
}

/// Invariant 1: a fence is written only after every earlier invalidation is applied and drained.
#[test]
fn a_fence_is_not_written_while_a_device_still_uses_what_went() {
    let (bench, memory, leaf) = hooked();
    let (go_on, device) = memory.stop_a_write(TARGET, write(&bench));
    // The page is unmapped and the queue is told; the write above is still on its way.
    bench.put(leaf, 0);
    let tail = queue(&bench, &[FORGET, FENCE]);
    let unit = bench.unit.clone();
    let software = std::thread::spawn(move || unit.write32(CQT, tail));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.get(STATUS), 0, "completed while the device was still writing");
    assert_eq!(bench.get(TARGET), 0);
    // Others are served meanwhile: registers, faults, another device.
    assert_eq!(bench.unit.read32(CQH), 1);
    assert_eq!(bench.read(7, 0x1000), Err(258));
    go_on.send(()).unwrap();
    software.join().unwrap();
    assert_eq!((bench.get(STATUS), bench.get(TARGET)), (1, 0xdead));
    device.join().unwrap();
    assert_eq!(bench.read(DEVICE, 0x1000), Err(13));
}

/// The same for `ddtp` and `fctl` (5.5: in-flight transactions are over when Off is in force).
#[test]
fn a_mode_is_in_force_when_its_write_returns() {
    type Command = fn(&RiscvUnit);
    let commands: [(&str, Command); 3] = [
        ("Off", |unit| unit.write64(DDTP, 0)),
        ("Bare", |unit| unit.write64(DDTP, BARE)),
        ("fctl", |unit| unit.write32(FCTL, 2)),
    ];
    for (name, command) in commands {
        let (bench, memory, _) = hooked();
        let unit = bench.unit.clone();
        let device = memory.returns_after_a_write(name, (TARGET, write(&bench)), move || command(&unit));
        device.join().unwrap();
    }
}

/// [`Hooked::race`] with a word that changes and commands, of which the queue has passed all but the last.
fn race(
    bench: &Bench,
    memory: &Hooked,
    at: (u64, u32),
    change: (u64, u64),
    commands: &[[u64; 2]],
) -> mpsc::Receiver<std::thread::JoinHandle<()>> {
    let tail = queue(bench, commands);
    let (unit, submitted, words) = (bench.unit.clone(), bench.unit.clone(), bench.memory.clone());
    memory.race(
        at,
        move || words.store64(PhysAddr(change.0), change.1).unwrap(),
        move || unit.write32(CQT, tail),
        move || submitted.read32(CQH) >= tail - 1,
    )
}

/// Invariant 2: a walk that read an entry before the invalidation inserts nothing that outlives it.
#[test]
fn a_walk_that_races_an_invalidation_leaves_nothing_behind() {
    let (bench, memory, leaf) = hooked();
    bench.put(TARGET, 1);
    bench.put(OTHER, 2);
    let software = race(&bench, &memory, (leaf, 0), (leaf, pte(OTHER, LEAF)), &[FORGET, FENCE]);
    // The access began before the invalidation completed: it may still see the old page.
    assert_eq!(bench.load(DEVICE, 0x1000), Ok(1));
    software.recv().unwrap().join().unwrap();
    assert_eq!(bench.get(STATUS), 1);
    assert_eq!(bench.load(DEVICE, 0x1000), Ok(2), "the old translation was kept");
}

/// The same for a device context.
#[test]
fn a_look_up_that_races_an_invalidation_leaves_nothing_behind() {
    let (bench, memory, _) = hooked();
    let context = bench.context_at(DEVICE);
    // A context is read twice, to see that nobody is changing it; after the second reading the look-up believes it.
    let software = race(&bench, &memory, (context + 24, 1), (context, 0), &[[3, 0], FORGET, FENCE]);
    assert!(bench.load(DEVICE, 0x1000).is_ok());
    software.recv().unwrap().join().unwrap();
    assert_eq!(bench.read(DEVICE, 0x1000), Err(258));
}

/// Invariants 1 and 2 under load: devices write without pause while pages are unmapped; after the fence no byte of an unmapped
/// page changes.
#[test]
fn nothing_is_written_after_an_unmap_has_completed() {
    let (bench, _, leaf) = hooked();
    let second = DEVICE ^ 1;
    let context = bench.context_at(DEVICE);
    bench.device(second, [0, 8, 16, 24].map(|word| bench.get(context + word)));
    let writers = [DEVICE, second].map(|device| {
        let port = bench.port(device, None);
        move |value: u64| port.write(Iova(0x1000), &value.to_le_bytes()).is_ok()
    });
    hooked::nothing_is_written_to_what_was_left(
        500,
        writers,
        [TARGET, OTHER],
        |page| bench.get(page),
        |new| {
            bench.put(leaf, pte(new, LEAF));
            // AV, PSCV: PSCID 7 and the page.
            assert_eq!(bench.commands(&[[1 | 1 << 10 | 1 << 32 | 7 << 12, 1 << 10], FENCE]) & 0x700, 0);
        },
    );
}

/// Invariant 5: a flag that can't be set refuses the access, as a store that is not allowed does (Privileged, step 7: an access fault).
#[test]
fn an_access_whose_flags_can_not_be_set_is_refused() {
    for restless in [false, true] {
        let (bench, memory, leaf) = hooked();
        let guest_root = bench.pages(4);
        let guest_leaf = bench.map_guest(guest_root, 3, 0, 0x1000, 0);
        let context = bench.context_at(DEVICE);
        bench.put(context, V | SADE);
        bench.device(DEVICE ^ 1, [V | GADE, sv(3) | guest_root >> 12, 0, 0]);
        for at in [leaf, guest_leaf] {
            bench.put(at, pte(TARGET, LEAF & !(A | D)));
        }
        memory.read_only.store(!restless, Ordering::SeqCst);
        memory.restless.store(restless, Ordering::SeqCst);
        for device in [DEVICE, DEVICE ^ 1] {
            assert_eq!(bench.write(device, 0x1000), Err(7));
            assert_eq!(bench.read(device, 0x1000), Err(5));
        }
        memory.read_only.store(false, Ordering::SeqCst);
        memory.restless.store(false, Ordering::SeqCst);
        for device in [DEVICE, DEVICE ^ 1] {
            assert_eq!(bench.write(device, 0x1000), Ok(TARGET));
        }
    }
}
