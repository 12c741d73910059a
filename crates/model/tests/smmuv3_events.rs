//! The event queue, global errors and their interrupts (SMMUv3 3.18, 7.2, 7.4, 7.5).

mod smmuv3_machine;

use portcullis_model::Message;
use portcullis_model::Registers;
use portcullis_model::smmuv3::wire;
use smmuv3_machine::*;

/// OVFLG and OVACKFLG.
const OVERFLOW: u32 = 1 << 31;

fn active_errors(machine: &Machine) -> u32 {
    machine.unit.read32(GERROR) ^ machine.unit.read32(GERRORN)
}

/// A fault, whose record is C_BAD_STE.
fn provoke(machine: &Machine, times: u32) {
    for _ in 0..times {
        machine.read(STREAM, 0x1000).unwrap_err();
    }
}

#[test]
fn a_full_queue_overflows_until_that_is_acknowledged() {
    let machine = Machine::new();
    provoke(&machine, 128);
    // 128 records fill it; only the next is lost.
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0x80);
    provoke(&machine, 3);
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0x80 | OVERFLOW);
    assert_eq!(machine.unit.unrecorded_faults(), 3);
    // 7.4: freed, records come again although the overflow stands; another one can't be told.
    machine.unit.write32(EVENTQ_CONS, 0x01);
    provoke(&machine, 2);
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0x81 | OVERFLOW);
    // Acknowledged, the next overflow toggles the flag back.
    machine.unit.write32(EVENTQ_CONS, 0x01 | OVERFLOW);
    provoke(&machine, 1);
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0x81);
    machine.unit.write32(EVENTQ_CONS, 0x81);
    provoke(&machine, 200);
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0x01 | OVERFLOW, "wrapped");
}

#[test]
fn nothing_is_recorded_while_the_queue_is_disabled() {
    let machine = Machine::new();
    machine.unit.write32(CR0, CMDQEN | SMMUEN);
    provoke(&machine, 200);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0);
}

#[test]
fn a_queue_outside_of_memory_is_a_global_error() {
    let machine = Machine::new();
    machine.unit.write32(CR0, CMDQEN | SMMUEN);
    machine.unit.write64(0xa0, 0xf_0000_0007);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    provoke(&machine, 1);
    assert_eq!((active_errors(&machine), machine.unit.read32(EVENTQ_PROD)), (1 << 2, 0));
    // 7.2.1: not writable until acknowledged.
    machine.unit.write32(CR0, CMDQEN | SMMUEN);
    machine.unit.write64(0xa0, EVENTS | 7);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    provoke(&machine, 1);
    assert_eq!(machine.unit.read32(EVENTQ_PROD), 0);
    machine.unit.write32(GERRORN, 1 << 2);
    provoke(&machine, 1);
    assert_eq!((active_errors(&machine), machine.unit.read32(EVENTQ_PROD)), (0, 1));
}

#[test]
fn a_queue_that_becomes_non_empty_interrupts() {
    let machine = Machine::new();
    machine.unit.write64(0xb0, 0xfee0_0100);
    machine.unit.write32(0xb8, 0x77);
    provoke(&machine, 1);
    assert_eq!(machine.sink.messages.lock().unwrap().len(), 0, "not enabled");
    machine.take_events();
    machine.unit.write32(IRQ_CTRL, 4);
    provoke(&machine, 3);
    let message = Message { source: None, address: 0xfee0_0100, data: 0x77 };
    assert_eq!(*machine.sink.messages.lock().unwrap(), [message]);
    assert_eq!(*machine.sink.edges.lock().unwrap(), [wire::EVENT_QUEUE]);
    machine.take_events();
    provoke(&machine, 1);
    assert_eq!(machine.sink.messages.lock().unwrap().len(), 2);
    // An address of zero sends none; the wire stays.
    machine.take_events();
    machine.unit.write32(IRQ_CTRL, 0);
    machine.unit.write64(0xb0, 0);
    machine.unit.write32(IRQ_CTRL, 4);
    provoke(&machine, 1);
    assert_eq!(machine.sink.messages.lock().unwrap().len(), 2);
    assert_eq!(machine.sink.edges.lock().unwrap().len(), 3);
}

#[test]
fn a_global_error_interrupts_and_aborted_messages_are_errors() {
    let machine = Machine::new();
    machine.unit.write64(0x68, 0xfee0_0200);
    machine.unit.write32(0x70, 5);
    machine.unit.write64(0xb0, NOWHERE);
    machine.unit.write32(IRQ_CTRL, 5);
    // The event's message is aborted: MSI_EVENTQ_ABT_ERR, which interrupts.
    provoke(&machine, 1);
    assert_eq!(active_errors(&machine), 1 << 5);
    let message = Message { source: None, address: 0xfee0_0200, data: 5 };
    assert_eq!(*machine.sink.messages.lock().unwrap(), [message]);
    // While it is active it is told no more.
    machine.take_events();
    provoke(&machine, 1);
    assert_eq!(machine.sink.messages.lock().unwrap().len(), 1);
    machine.unit.write32(GERRORN, 1 << 5);
    machine.take_events();
    provoke(&machine, 1);
    assert_eq!((active_errors(&machine), machine.sink.messages.lock().unwrap().len()), (1 << 5, 2));
    // The error's own message is aborted: that is an error too, and the end of it.
    machine.unit.write32(IRQ_CTRL, 0);
    machine.unit.write64(0x68, NOWHERE);
    machine.unit.write32(IRQ_CTRL, 5);
    assert_eq!(machine.submit(&[[0, 0]]), 0);
    assert_eq!(active_errors(&machine), 1 << 5 | 1 << 7 | 1);
    assert_eq!(machine.sink.edges.lock().unwrap().last(), Some(&wire::GLOBAL_ERROR));
}

#[test]
fn an_event_is_there_before_its_refusal_is_known() {
    // 4.7.3: what a CMD_SYNC finds refused has been recorded.
    let machine = Machine::new();
    for count in 1..50 {
        machine.read(STREAM, 0x1000).unwrap_err();
        assert_eq!(machine.unit.read32(EVENTQ_PROD), count);
        assert_eq!(machine.get(EVENTS + u64::from(count - 1) * 32), 0x04 | u64::from(STREAM) << 32);
    }
}
