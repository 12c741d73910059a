//! Interrupts of devices through the VT-d driver, against a unit of the tests' own (`machine`).

mod machine;

use std::time::Duration;

use machine::interrupts::Delivered;
use machine::registers::Trouble;
use machine::{Machine, Traits};
use portcullis_driver::vtd::{InterruptOptions, Mode, Options, Vtd};
use portcullis_driver::{Device, Error, Feature, Unit, UnitError};
use portcullis_spec::{
    DeliveryMode, DestinationMode, FaultReason, InterruptMessage, InterruptRoute, PciAddress, TriggerMode,
};

type TestUnit<'a> = Unit<Vtd<&'a Machine, &'a Machine>>;

const A: PciAddress = PciAddress::new(0, 0, 3, 0);
const B: PciAddress = PciAddress::new(0, 5, 0x1f, 7);
const BLOCKED: InterruptRoute = InterruptRoute::Blocked(Some(FaultReason::InterruptBlocked));

const fn to(destination: u32, vector: u8) -> InterruptRoute {
    InterruptRoute::Remapped {
        destination,
        destination_mode: DestinationMode::Physical,
        delivery_mode: DeliveryMode::Fixed,
        trigger_mode: TriggerMode::Edge,
        redirection_hint: false,
        vector,
    }
}

/// Every kind of unit that remaps interrupts, and both modes of destinations.
fn kinds() -> Vec<(Traits, Mode, bool)> {
    let legacy = Traits::LEGACY.with_interrupts();
    let scalable = Traits::SCALABLE.with_interrupts();
    let mut kinds = Vec::new();
    for (traits, mode) in [
        (legacy, Mode::Legacy),
        (legacy.with_caching_mode(), Mode::Legacy),
        (legacy.with_write_buffer(), Mode::Legacy),
        (legacy.without_coherency(), Mode::Legacy),
        (legacy.with_self_invalidating_interrupt_table(), Mode::Legacy),
        (scalable, Mode::Scalable),
        (scalable.with_caching_mode().without_coherency(), Mode::Scalable),
    ] {
        kinds.extend([(traits, mode, false), (traits, mode, true)]);
    }
    kinds
}

fn options(mode: Mode, x2apic: bool) -> Options {
    let interrupts = Some(InterruptOptions { size: 8, x2apic });
    Options { mode: Some(mode), interrupts, timeout: Duration::from_millis(5), ..Options::default() }
}

fn started(machine: &Machine, mode: Mode, x2apic: bool) -> TestUnit<'_> {
    let unit = Unit::new(Vtd::start(machine, machine, options(mode, x2apic)).unwrap());
    unit.enable().unwrap();
    for device in [A, B] {
        unit.add_device(Device::new(device)).unwrap();
    }
    unit
}

fn on_each_kind(test: impl Fn(&Machine, &TestUnit<'_>, bool)) {
    for (traits, mode, x2apic) in kinds() {
        let machine = Machine::new(traits);
        let unit = started(&machine, mode, x2apic);
        test(&machine, &unit, x2apic);
        unit.shut_down().unwrap();
        assert_eq!(machine.live_blocks(), 0, "{traits:?}");
    }
}

fn send(machine: &Machine, device: PciAddress, message: InterruptMessage) -> Delivered {
    machine.interrupt(device.requester_id, message.address.0, message.data)
}

#[test]
fn a_device_interrupts_where_its_vectors_lead_and_nowhere_else() {
    on_each_kind(|machine, unit, x2apic| {
        let far = if x2apic { 0x1234_5678 } else { 0xfe };
        // Before: forged requests, and every index.
        assert_eq!(machine.interrupt(A.requester_id, 0xfee0_0000, 0x4041), Err(0x25));
        for handle in 0..256 {
            assert_eq!(machine.interrupt(A.requester_id, 0xfee0_0010 | handle << 5, 0), Err(0x22));
        }
        unit.grant_interrupts(A, 3).unwrap();
        unit.grant_interrupts(B, 1).unwrap();
        assert_eq!((unit.interrupts_of(A), unit.interrupts_of(B)), (Some(3), Some(1)));
        let messages: Vec<_> = (0..3)
            .map(|vector| unit.route_interrupt(A, vector, &to(far, 0x40 + vector as u8)).unwrap())
            .collect();
        let other = unit.route_interrupt(B, 0, &to(2, 0x80)).unwrap();
        for (vector, message) in messages.iter().enumerate() {
            assert_eq!(send(machine, A, *message), Ok((far, 0x40 + vector as u8)));
            // Another device's entry (attack 12).
            assert_eq!(send(machine, B, *message), Err(0x26));
        }
        assert_eq!(send(machine, B, other), Ok((2, 0x80)));
        assert_eq!(send(machine, A, other), Err(0x26));
        // All vectors at one address, their data counting up from a multiple of 4.
        assert!(messages.iter().all(|message| message.address == messages[0].address));
        assert_eq!(messages[0].data % 4, 0);
        assert_eq!(messages[2].data, messages[0].data + 2);
        // The fourth of the run was not granted.
        let beyond = InterruptMessage { data: messages[0].data + 3, ..messages[0] };
        assert_eq!(send(machine, A, beyond), Err(0x22));
    });
}

#[test]
fn a_change_is_in_force_when_it_returns_and_an_entry_is_never_half_changed() {
    on_each_kind(|machine, unit, _| {
        unit.grant_interrupts(A, 1).unwrap();
        let message = unit.route_interrupt(A, 0, &to(1, 0x41)).unwrap();
        for round in 0..4 {
            assert_eq!(send(machine, A, message), Ok((1 + round, 0x41)));
            let entry = machine.registers.borrow().interrupt_table & !0xfff;
            machine.stores.borrow_mut().clear();
            let changed = unit.route_interrupt(A, 0, &to(2 + round, 0x41)).unwrap();
            assert_eq!(changed, message);
            // One store changes the present entry into another that is present.
            let stores = machine.stores.borrow();
            let stores: Vec<_> = stores.iter().filter(|(at, _)| at & !0xf == entry).collect();
            assert!(matches!(stores[..], [(at, value)] if *at == entry && value & 1 == 1), "{stores:?}");
            assert_eq!(send(machine, A, message), Ok((2 + round, 0x41)));
        }
        unit.route_interrupt(A, 0, &BLOCKED).unwrap();
        assert_eq!(send(machine, A, message), Err(0x22));
        unit.route_interrupt(A, 0, &to(9, 0x42)).unwrap();
        assert_eq!(send(machine, A, message), Ok((9, 0x42)));
    });
}

/// Attack 14: entries are stale after deassignment, or come to another device with what they said.
#[test]
fn revoked_vectors_are_dead_and_their_entries_blocked_for_the_next() {
    on_each_kind(|machine, unit, _| {
        unit.grant_interrupts(A, 2).unwrap();
        let old = [0, 1].map(|vector| unit.route_interrupt(A, vector, &to(1, 0x50)).unwrap());
        assert!(old.iter().all(|message| send(machine, A, *message).is_ok()));
        assert_eq!(unit.remove_device(A), Err(Error::InterruptsGranted(A.into())));
        unit.revoke_interrupts(A).unwrap();
        assert!(old.iter().all(|message| send(machine, A, *message) == Err(0x22)));
        assert_eq!(unit.revoke_interrupts(A), Err(Error::NoInterrupts(A.into())));
        // The same entries for another device: blocked until routed, and then its own alone.
        unit.grant_interrupts(B, 2).unwrap();
        assert!(old.iter().all(|message| send(machine, B, *message) == Err(0x22)));
        let new = unit.route_interrupt(B, 0, &to(3, 0x60)).unwrap();
        assert_eq!(new, old[0]);
        assert_eq!((send(machine, B, new), send(machine, A, new)), (Ok((3, 0x60)), Err(0x26)));
        unit.revoke_interrupts(B).unwrap();
        unit.remove_device(A).unwrap();
        unit.add_device(Device::new(A)).unwrap();
    });
}

#[test]
fn phantom_functions_and_aliases_are_one_device() {
    let machine = Machine::new(Traits::LEGACY.with_interrupts());
    let unit = started(&machine, Mode::Legacy, false);
    let phantom = [PciAddress::new(0, 1, 2, 0), PciAddress::new(0, 1, 2, 4)];
    let alias = [PciAddress::new(0, 8, 2, 0), PciAddress::new(0, 7, 0, 0)];
    for group in [phantom, alias] {
        let requesters = group.iter().map(|address| (*address).into()).collect();
        unit.add_device(Device { requesters, ..Device::new(group[0]) }).unwrap();
        unit.grant_interrupts(group[0], 1).unwrap();
        let message = unit.route_interrupt(group[0], 0, &to(1, 0x33)).unwrap();
        assert!(group.iter().all(|address| send(&machine, *address, message).is_ok()));
        assert_eq!(send(&machine, A, message), Err(0x26));
        // Its neighbour in the slot is another device.
        let neighbour = PciAddress { requester_id: group[0].requester_id + 1, ..group[0] };
        assert_eq!(send(&machine, neighbour, message).is_err(), group == phantom);
    }
}

/// Attack 10, for interrupts: a revocation that the unit does not confirm keeps the entries until it is recovered.
#[test]
fn entries_that_the_unit_does_not_forget_are_not_given_to_others() {
    let machine = Machine::new(Traits::LEGACY.with_interrupts());
    let unit = started(&machine, Mode::Legacy, false);
    unit.grant_interrupts(A, 256).unwrap();
    let message = unit.route_interrupt(A, 0, &to(1, 0x50)).unwrap();
    send(&machine, A, message).unwrap();
    machine.registers.borrow_mut().trouble = Some((0, Trouble::Hang));
    let unconfirmed = unit.revoke_interrupts(A).unwrap_err();
    assert!(matches!(unconfirmed, Error::NotInvalidated(UnitError::QueueTimeout { .. })), "{unconfirmed}");
    // The unit still uses what it cached; nobody else gets the entry.
    send(&machine, A, message).unwrap();
    let no_room = Error::NoInterruptEntries { asked: 1, entries: 256 };
    assert_eq!(unit.grant_interrupts(B, 1), Err(no_room));
    assert_eq!(unit.revoke_interrupts(A), Err(Error::NotInvalidated(UnitError::Stopped)));
    machine.registers.borrow_mut().trouble = None;
    unit.recover().unwrap();
    assert_eq!(send(&machine, A, message), Err(0x22));
    assert_eq!(unit.interrupts_of(A), None);
    unit.grant_interrupts(B, 1).unwrap();
    unit.grant_interrupts(A, 1).unwrap();
}

#[test]
fn what_cannot_be_is_refused() {
    let machine = Machine::new(Traits::LEGACY.with_interrupts());
    let unit = started(&machine, Mode::Legacy, false);
    let unknown = PciAddress::new(0, 9, 9, 1);
    assert_eq!(unit.grant_interrupts(unknown, 1), Err(Error::UnknownDevice(unknown.into())));
    for asked in [0, 257, u32::MAX] {
        assert_eq!(unit.grant_interrupts(A, asked), Err(Error::NoInterruptEntries { asked, entries: 256 }));
    }
    assert_eq!(unit.route_interrupt(A, 0, &to(1, 0x40)), Err(Error::NoInterrupts(A.into())));
    unit.grant_interrupts(A, 5).unwrap();
    assert_eq!(unit.grant_interrupts(A, 1), Err(Error::InterruptsGranted(A.into())));
    assert_eq!(unit.route_interrupt(A, 5, &to(1, 0x40)), Err(Error::NoSuchVector { vector: 5, count: 5 }));
    // 5.1.5: an xAPIC destination has 8 bits; posting is not there.
    let far = to(0x100, 0x40);
    assert_eq!(unit.route_interrupt(A, 0, &far), Err(Error::Unsupported(Feature::Route(far))));
    let posted =
        InterruptRoute::Posted { descriptor: portcullis_spec::PhysAddr(0x1000), vector: 1, urgent: false };
    assert_eq!(unit.route_interrupt(A, 0, &posted), Err(Error::Unsupported(Feature::Route(posted))));
    unit.route_interrupt(A, 4, &to(1, 0x40)).unwrap();
}

#[test]
fn units_without_remapping_grant_nothing() {
    let without = |traits: Traits, options: Options| {
        let machine = Machine::new(traits);
        let refused = Vtd::start(&machine, &machine, options).err();
        assert_eq!(machine.live_blocks(), 0);
        refused
    };
    let unsupported = |feature| Some(Error::Unsupported(feature));
    assert_eq!(without(Traits::LEGACY, options(Mode::Legacy, false)), unsupported(Feature::Interrupts));
    let avoiding = Options { avoid_queue: true, ..options(Mode::Legacy, false) };
    assert_eq!(without(Traits::LEGACY.with_interrupts(), avoiding), unsupported(Feature::Interrupts));
    let narrow = Traits { ecap: Traits::LEGACY.with_interrupts().ecap & !(1 << 4), ..Traits::LEGACY };
    assert_eq!(without(narrow, options(Mode::Legacy, true)), unsupported(Feature::X2apic));
    // Not asked for: left alone.
    let machine = Machine::new(Traits::LEGACY.with_interrupts());
    let unit = Unit::new(
        Vtd::start(&machine, &machine, Options { interrupts: None, ..options(Mode::Legacy, false) }).unwrap(),
    );
    unit.enable().unwrap();
    unit.add_device(Device::new(A)).unwrap();
    assert_eq!(unit.grant_interrupts(A, 1), Err(Error::Unsupported(Feature::Interrupts)));
    assert_eq!(machine.registers.borrow().status & (1 << 25 | 1 << 24), 0);
}

/// 11.4.4.1: the table and an empty cache before remapping, one change of GCMD at a time; a predecessor's compatibility requests end.
#[test]
fn the_table_is_set_before_remapping_begins() {
    for (traits, invalidations) in [
        (Traits::LEGACY.with_interrupts(), 1),
        (Traits::LEGACY.with_interrupts().with_self_invalidating_interrupt_table(), 0),
    ] {
        let machine = Machine::new(traits.with_self_invalidating_root());
        machine.registers.borrow_mut().status |= 1 << 23;
        let unit = Unit::new(Vtd::start(&machine, &machine, options(Mode::Legacy, true)).unwrap());
        let iec = |machine: &Machine| {
            machine.registers.borrow().log.iter().filter(|descriptor| descriptor[0] & 0x1f == 4).count()
        };
        assert_eq!(iec(&machine), invalidations);
        assert_eq!(machine.registers.borrow().status & (1 << 25 | 1 << 23), 0);
        unit.enable().unwrap();
        let (commands, table) = {
            let registers = machine.registers.borrow();
            (registers.commands.clone(), registers.interrupt_table)
        };
        let place = |bit: u32| commands.iter().position(|command| command & bit != 0).unwrap();
        assert!(place(1 << 24) < place(1 << 25));
        assert_eq!(table & 0xfff, 1 << 11 | 7);
        unit.disable().unwrap();
        assert_eq!(machine.registers.borrow().status & (1 << 31 | 1 << 25), 0);
    }
}

#[test]
fn memory_that_runs_out_leaves_nothing_behind() {
    for budget in 0..4 {
        let machine = Machine::new(Traits::SCALABLE.with_interrupts());
        machine.budget.set(budget);
        match Vtd::start(&machine, &machine, options(Mode::Scalable, false)) {
            Ok(_) => assert!(budget >= 3, "{budget}"),
            Err(error) => {
                assert_eq!(error, Error::OutOfMemory);
                assert_eq!(machine.live_blocks(), 0, "{budget}");
            }
        }
    }
}
