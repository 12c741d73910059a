//! Reset, save and restore.

mod common;

use common::*;
use portcullis_model::Registers;
use portcullis_model::StateError;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_model::vtd::{VtdState, VtdUnit};
use portcullis_model::{NoInterrupts, OwnedMemory};
use std::sync::Arc;

/// A unit with something in every register.
fn busy() -> Machine {
    let config = VtdConfig { protected_low: true, ..VtdConfig::default() };
    let mut machine = Machine::legacy_with(config);
    let table = machine.allocate();
    machine.attach(DEVICE, table, 7);
    machine.map(table, 0x1000, PAGE, RW);
    machine.unit.write32(0x3c, 0x42);
    machine.unit.write32(0x40, 0xfee0_2000);
    machine.unit.write32(0x38, 1 << 31);
    machine.unit.write32(0xa4, 0x43);
    machine.unit.write32(0x68, 0x20_0000);
    assert!(machine.submit(&[[5 | 1 << 4, 0]]));
    machine.read(DEVICE, 0x2000).unwrap_err();
    machine.read(OTHER_DEVICE, 0x2000).unwrap_err();
    machine.unit.write32(0x22c, 1 << 31);
    machine
}

fn registers(unit: &VtdUnit) -> Vec<u32> {
    (0..unit.mmio_size()).step_by(4).map(|offset| unit.read32(offset)).collect()
}

#[test]
fn a_restored_unit_reads_and_translates_the_same() {
    let mut machine = busy();
    let saved = serde_json::to_string(&machine.unit.save()).unwrap();
    let before = registers(&machine.unit);
    let copy =
        VtdUnit::new(machine.unit.config().clone(), machine.memory.clone(), machine.sink.clone()).unwrap();
    let state: VtdState = serde_json::from_str(&saved).unwrap();
    copy.restore(&state).unwrap();
    assert_eq!(registers(&copy), before);
    machine.unit = copy;
    machine.put(PAGE, 5);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(5));
    // The next record and the queue go on where they were.
    machine.take_faults();
    machine.read(DEVICE, 0x3000).unwrap_err();
    assert_eq!(machine.record(2)[0], 0x3000);
    assert!(machine.submit(&[[2 | 1 << 4, 0]]));
    // What was pending is sent when it is unmasked.
    machine.unit.write32(0xa0, 0);
    assert_eq!(machine.sink.0.lock().unwrap().iter().filter(|message| message.data == 0x43).count(), 1);
}

#[test]
fn a_restore_forgets_what_was_cached() {
    let mut machine = busy();
    let state = machine.unit.save();
    assert!(machine.read(DEVICE, 0x1000).is_ok());
    machine.context(DEVICE, 0, 0, 0);
    machine.unit.restore(&state).unwrap();
    machine.take_faults();
    machine.refused(machine.read(DEVICE, 0x1000), 0x2);
}

#[test]
fn reset_is_power_on() {
    let machine = busy();
    let fresh = Machine::new(machine.unit.config().clone());
    machine.unit.reset();
    assert_eq!(registers(&machine.unit), registers(&fresh.unit));
    // VT-d 11.4.4.1: translation is off.
    machine.put(0x1000, 6);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(6));
}

#[test]
fn an_impossible_state_is_refused_and_changes_nothing() {
    let machine = busy();
    let before = registers(&machine.unit);
    let other =
        VtdUnit::new(VtdConfig::full(), Arc::new(OwnedMemory::new(8)), Arc::new(NoInterrupts)).unwrap();
    assert_eq!(machine.unit.restore(&other.save()), Err(StateError::OtherConfig));
    let saved = serde_json::to_value(machine.unit.save()).unwrap();
    for (pointer, value) in [
        ("/control/status", serde_json::json!(u32::MAX)),
        ("/events/records", serde_json::json!([])),
        ("/events/next", serde_json::json!(9)),
        ("/queue_head", serde_json::json!(1u64 << 40)),
        ("/queue/tail", serde_json::json!(1u64 << 40)),
        ("/queue/enabled", serde_json::json!(false)),
    ] {
        let mut changed = saved.clone();
        *changed.pointer_mut(pointer).expect(pointer) = value;
        let state: VtdState = serde_json::from_value(changed).unwrap();
        assert_eq!(machine.unit.restore(&state), Err(StateError::Impossible), "{pointer}");
        assert_eq!(registers(&machine.unit), before, "{pointer}");
    }
}
