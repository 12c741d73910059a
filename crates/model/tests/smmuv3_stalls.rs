//! Stalled transactions (SMMUv3 3.12.2, 4.7, 7.2.1). Each device is a thread that waits as its transaction does.

mod smmuv3_machine;

use std::sync::Arc;
use std::thread::JoinHandle;

use portcullis_model::AccessError;
use portcullis_model::Registers;
use portcullis_model::smmuv3::config::{Smmuv3Config, StallModel};
use smmuv3_machine::*;

const STALL: u64 = 1 << 31;

type Device = JoinHandle<Result<u64, AccessError>>;

/// A machine with a stream whose stage 1 stalls and maps nothing. Returns its table.
fn stalling(config: Smmuv3Config) -> (Machine, u64) {
    let mut machine = Machine::with(config);
    let table = machine.allocate();
    let mut words = descriptor(table, 1);
    words[0] |= 1 << 44;
    let at = machine.context(words);
    machine.stream(STREAM, Entry::stage1(at));
    (machine, table)
}

/// A device that reads `iova`.
fn device(machine: &Machine, stream: u32, iova: u64) -> Device {
    let port = machine.port(stream);
    std::thread::spawn(move || read(&port, iova))
}

/// Waits until `count` events stand in the queue, and takes them.
fn events(machine: &Machine, count: usize) -> Vec<[u64; 4]> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(machine.take_events());
        std::thread::yield_now();
    }
    assert_eq!(events.len(), count);
    events
}

/// The tag of a stall's record.
fn tag(event: &[u64; 4]) -> u64 {
    assert_eq!(event[0] & 0xff, 0x10);
    assert_eq!(event[1] & STALL, STALL);
    event[1] & 0xffff
}

/// CMD_RESUME: retry (1), terminate (0) or abort (2).
fn resume(machine: &Machine, stream: u32, tag: u64, action: u64) {
    machine.command(&[[0x44 | action << 12 | u64::from(stream) << 32, tag]]);
}

#[test]
fn a_stalled_transaction_waits_until_it_is_resumed() {
    let (mut machine, table) = stalling(Smmuv3Config::full());
    let waiting = device(&machine, STREAM, 0x1000);
    let stalled = tag(&events(&machine, 1)[0]);
    assert!(!waiting.is_finished());
    // Neither another stream nor another tag (4.7.1), nor an invalidation.
    resume(&machine, OTHER_STREAM, stalled, 1);
    resume(&machine, STREAM, stalled ^ 1, 1);
    machine.forget();
    assert!(!waiting.is_finished());
    // Retried too early, it stalls again and says so.
    resume(&machine, STREAM, stalled, 1);
    let again = tag(&events(&machine, 1)[0]);
    machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.put(PAGE, 0x99);
    resume(&machine, STREAM, again, 1);
    assert_eq!(waiting.join().unwrap(), Ok(0x99));
    assert_eq!(machine.take_events().len(), 0);
}

#[test]
fn a_stalled_transaction_can_be_terminated_both_ways() {
    let (machine, _) = stalling(Smmuv3Config::full());
    for (action, expected) in [(0, true), (2, false)] {
        let waiting = device(&machine, STREAM, 0x1000);
        let stalled = tag(&events(&machine, 1)[0]);
        resume(&machine, STREAM, stalled, action);
        let done = waiting.join().unwrap();
        assert_eq!(done == Ok(0), expected);
        assert_eq!(matches!(done, Err(AccessError::Refused(_))), !expected);
    }
    // 4.7.1: where only aborts are there, it is one.
    let config = Smmuv3Config { read_as_zero: false, ..Smmuv3Config::full() };
    let (machine, _) = stalling(config);
    let waiting = device(&machine, STREAM, 0x1000);
    let stalled = tag(&events(&machine, 1)[0]);
    resume(&machine, STREAM, stalled, 0);
    waiting.join().unwrap().unwrap_err();
}

#[test]
fn several_stall_at_once_each_with_its_tag() {
    let (mut machine, table) = stalling(Smmuv3Config::full());
    let waiting: Vec<_> = (1..5).map(|page| device(&machine, STREAM, page << 12)).collect();
    let mut stalled: Vec<_> = events(&machine, 4).iter().map(|event| (event[2], tag(event))).collect();
    stalled.sort_unstable();
    let tags: std::collections::BTreeSet<_> = stalled.iter().map(|(_, tag)| *tag).collect();
    assert_eq!(tags.len(), 4);
    for page in 1..5 {
        machine.map(table, page << 12, PAGE, S1 | USER);
    }
    // In any order.
    for (_, tag) in stalled.iter().rev() {
        resume(&machine, STREAM, *tag, 1);
    }
    for device in waiting {
        assert_eq!(device.join().unwrap(), Ok(0));
    }
}

#[test]
fn stall_term_and_disabling_abort_what_is_stalled() {
    let (machine, _) = stalling(Smmuv3Config::full());
    let waiting: Vec<_> = (1..4).map(|page| device(&machine, STREAM, page << 12)).collect();
    events(&machine, 3);
    // 4.7.2.1: the stream aborts first.
    machine.stream(STREAM, Entry::new(0));
    machine.command(&[[0x03 | u64::from(STREAM) << 32, 1]]);
    machine.command(&[[0x45 | u64::from(OTHER_STREAM) << 32, 0]]);
    assert!(waiting.iter().all(|device| !device.is_finished()));
    machine.command(&[[0x45 | u64::from(STREAM) << 32, 0]]);
    for device in waiting {
        device.join().unwrap().unwrap_err();
    }
    let (machine, _) = stalling(Smmuv3Config::full());
    let waiting = device(&machine, STREAM, 0x1000);
    events(&machine, 1);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN);
    waiting.join().unwrap().unwrap_err();
}

#[test]
fn a_stall_that_can_not_be_recorded_is_tried_again_and_no_overflow() {
    let (machine, _) = stalling(Smmuv3Config::full());
    for _ in 0..128 {
        machine.read(OTHER_STREAM, 0).unwrap_err();
    }
    let waiting = device(&machine, STREAM, 0x1000);
    // It reaches the full queue at some time; whenever room comes, its record does.
    while machine.take_events().iter().all(|event| event[1] & STALL == 0) {
        std::thread::yield_now();
    }
    assert_eq!(machine.unit.read32(EVENTQ_PROD) >> 31, 0);
    machine.command(&[[0x45 | u64::from(STREAM) << 32, 0]]);
    waiting.join().unwrap().unwrap_err();
}

#[test]
fn no_more_stall_than_stall_max_says() {
    let (mut machine, table) = stalling(Smmuv3Config { stall_max: 2, ..Smmuv3Config::full() });
    let waiting: Vec<_> = (1..5).map(|page| device(&machine, STREAM, page << 12)).collect();
    let mut stalled: Vec<_> = events(&machine, 2).iter().map(tag).collect();
    for page in 1..5 {
        machine.map(table, page << 12, PAGE, S1 | USER);
    }
    // Those that waited for room find the pages; or their stall's record comes, if they faulted before.
    while !waiting.iter().all(Device::is_finished) {
        for tag in stalled.drain(..) {
            resume(&machine, STREAM, tag, 1);
        }
        stalled = machine.take_events().iter().map(tag).collect();
        std::thread::yield_now();
    }
    for device in waiting {
        assert_eq!(device.join().unwrap(), Ok(0));
    }
}

#[test]
fn stage_2_stalls_and_other_requesters_go_on() {
    let mut machine = Machine::new();
    let (second, other) = (machine.allocate(), machine.allocate());
    // S2S.
    machine.stream(STREAM, Entry::new(0).stage2(second, 1).with(2, 1 << 57));
    machine.stream(OTHER_STREAM, Entry::new(0).stage2(other, 2));
    machine.map(other, 0x1000, OTHER_PAGE, S2);
    let waiting = device(&machine, STREAM, 0x1008);
    let event = events(&machine, 1)[0];
    assert_eq!(event[2..], [0x1008, 0x1000]);
    for _ in 0..100 {
        assert_eq!(machine.read(OTHER_STREAM, 0x1000), Ok(0));
        // A CMD_SYNC waits for nobody who is stalled.
        machine.forget();
    }
    machine.map(second, 0x1000, PAGE, S2);
    resume(&machine, STREAM, tag(&event), 1);
    assert_eq!(waiting.join().unwrap(), Ok(0));
}

#[test]
fn where_only_stalls_are_there_contexts_must_stall() {
    let config = Smmuv3Config { stall_model: StallModel::Stall, ..Smmuv3Config::full() };
    let mut machine = Machine::with(config);
    machine.attach(STREAM, 1);
    machine.refused(machine.read(STREAM, 0x1000), 0x0a);
    let table = machine.allocate();
    machine.stream(OTHER_STREAM, Entry::new(0).stage2(table, 1));
    machine.refused(machine.read(OTHER_STREAM, 0x1000), 0x04);
    // S1STALLD forbids what CD.S asks for.
    let (machine, _) = stalling(Smmuv3Config::full());
    let at = STREAMS + 64 * u64::from(STREAM) + 8;
    machine.put(at, 1 << 27);
    machine.refused(machine.read(STREAM, 0x1000), 0x0a);
    let unit = Arc::new(machine);
    assert_eq!(unit.take_events().len(), 0);
}

/// STALL_MODEL 0b10: every fault of every stage stalls, with any granule, and is resumed or terminated as elsewhere.
#[test]
fn where_only_stalls_are_there_every_fault_stalls() {
    let config = || Smmuv3Config { stall_model: StallModel::Stall, ..Smmuv3Config::full() };
    let (mut machine, table) = stalling(config());
    assert_eq!(machine.unit.read32(0) >> 24 & 3, 2);
    machine.put(PAGE, 0x77);
    let waiting = device(&machine, STREAM, 0x1000);
    let stalled = tag(&events(&machine, 1)[0]);
    machine.map(table, 0x1000, PAGE, S1 | USER);
    resume(&machine, STREAM, stalled, 1);
    assert_eq!(waiting.join().unwrap(), Ok(0x77));
    // Stage 2 alone, whose S2S is set (bit 57), with granules of 64 KiB from level 3, and of 16 KiB: S2TG, S2T0SZ, S2SL0.
    for (granule, bits, level) in [(1, 38, 0), (2, 40, 0)] {
        let root = machine.allocate_aligned(0x8000);
        let mut entry = Entry::new(0).stage2(root, 3).with(2, 1 << 57);
        entry.0[2] =
            entry.0[2] & !(0x3f << 32 | 3 << 38 | 3 << 46) | bits << 32 | level << 38 | granule << 46;
        machine.stream(OTHER_STREAM, entry);
        machine.forget();
        let waiting = device(&machine, OTHER_STREAM, 0x1000);
        let stalled = tag(&events(&machine, 1)[0]);
        let page = PAGE & !0xffff;
        machine.put(root, page | S2 | 3);
        machine.put(page + 0x1000, 0x55 + granule);
        resume(&machine, OTHER_STREAM, stalled, 1);
        assert_eq!(waiting.join().unwrap(), Ok(0x55 + granule), "S2TG {granule}");
    }
    // CMD_STALL_TERM of the stream.
    let waiting = device(&machine, STREAM, 0x9000);
    tag(&events(&machine, 1)[0]);
    machine.command(&[[0x45 | u64::from(STREAM) << 32, 0]]);
    assert!(waiting.join().unwrap().is_err());
    assert_eq!(machine.take_events().len(), 0);
}
