//! The RISC-V driver's MSI page tables: who may send which messages where, over a model that keeps what it may.

use portcullis_driver::platform::Mmio as _;
use portcullis_driver::riscv::{InterruptOptions, Options, Riscv};
use portcullis_driver::{Device, Domain, DomainOptions, Error, Feature, Unit};
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_spec::{Access, InterruptMessage, InterruptRoute, Iova, PagingFormat, PhysAddr, Requester};
use portcullis_testing::machine::Machine as _;
use portcullis_testing::machine::riscv::{RiscvMachine, model};
use portcullis_testing::machine::still::Still;

const A: Requester = Requester::Device(0x18);
const B: Requester = Requester::Device(0x119);
/// Pages of interrupt controllers, behind memory.
const FILES: u64 = 0x2800_0000;

type Model<'a> = Riscv<&'a RiscvMachine, &'a Still<'a>>;
type ModelUnit<'a> = Unit<Model<'a>>;
type ModelDomain<'a> = Domain<Model<'a>>;

fn with_tables() -> RiscvConfig {
    RiscvConfig { msi_tables: true, ..RiscvConfig::default() }
}

fn options() -> Options {
    Options { interrupts: Some(InterruptOptions::default()), ..Options::default() }
}

fn started<'a>(machine: &'a RiscvMachine, platform: &'a Still<'a>) -> ModelUnit<'a> {
    let unit = Unit::new(Riscv::start(machine, platform, options()).unwrap());
    unit.enable().unwrap();
    for device in [A, B] {
        unit.add_device(Device::new(device)).unwrap();
    }
    unit
}

/// A unit to which device A is attached, whose vector 0 goes to page 1.
fn routed<'a>(
    machine: &'a RiscvMachine,
    platform: &'a Still<'a>,
) -> (ModelUnit<'a>, ModelDomain<'a>, InterruptMessage) {
    let unit = started(machine, platform);
    let domain = unit.create_domain(DomainOptions::default()).unwrap();
    unit.grant_interrupts(A, 1).unwrap();
    unit.attach(A, None, &domain).unwrap();
    let message = unit.route_interrupt(A, 0, &to(1, 0x40)).unwrap();
    assert_eq!(send(machine, A, message.address), Ok(FILES + 0x1000));
    (unit, domain, message)
}

const fn to(page: u64, data: u32) -> InterruptRoute {
    InterruptRoute::Doorbell { address: PhysAddr(FILES + page * 0x1000), data }
}

/// Where a device's message goes, or the cause of its refusal.
fn send(machine: &RiscvMachine, device: Requester, address: Iova) -> Result<u64, u32> {
    let port = machine.unit().unit.port(device.index(), None);
    let answer = port.translate(&port.transaction(address, 4, Access::WRITE));
    answer.map(|translation| translation.address.0).map_err(|fault| fault.code)
}

#[test]
fn messages_go_where_their_routes_say_and_nowhere_else() {
    for config in [with_tables(), RiscvConfig { sv39: false, sv48: false, ..with_tables() }] {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let unit = started(&machine, &platform);
        let domain = unit.create_domain(DomainOptions::default()).unwrap();
        unit.grant_interrupts(A, 3).unwrap();
        unit.grant_interrupts(B, 1).unwrap();
        let first = unit.route_interrupt(A, 0, &to(1, 0x40)).unwrap();
        let unattached = send(&machine, A, first.address);
        // 2.3.1: a device that is attached to nothing has no context that is valid.
        assert_eq!(unattached, Err(258));
        for device in [A, B] {
            unit.attach(device, None, &domain).unwrap();
        }
        // Before and after the device was attached, and with what follows the page.
        let second = unit.route_interrupt(A, 2, &to(2, 0x41)).unwrap();
        let other = unit.route_interrupt(B, 0, &to(3, 0x42)).unwrap();
        assert_eq!((first.data, second.data, other.data), (0x40, 0x41, 0x42));
        assert_eq!(send(&machine, A, first.address), Ok(FILES + 0x1000));
        assert_eq!(send(&machine, A, second.address), Ok(FILES + 0x2000));
        assert_eq!(send(&machine, B, other.address), Ok(FILES + 0x3000));
        // A vector without a route, and one that it was not granted (262); and others' (23).
        assert_eq!(send(&machine, A, Iova(first.address.0 + 0x1000)), Err(262));
        assert_eq!(send(&machine, A, Iova(first.address.0 + 0x3000)), Err(262));
        assert_eq!(send(&machine, A, other.address), Err(23));
        assert_eq!(send(&machine, B, first.address), Err(23));
        // Another route is in force when it is given, and so is none.
        assert_eq!(unit.route_interrupt(A, 0, &to(9, 0x43)).unwrap().address, first.address);
        assert_eq!(send(&machine, A, first.address), Ok(FILES + 0x9000));
        unit.route_interrupt(A, 0, &InterruptRoute::Blocked(None)).unwrap();
        assert_eq!(send(&machine, A, first.address), Err(262));
        // The table stays the device's from one domain to the next.
        unit.detach(A, None).unwrap();
        assert_eq!(send(&machine, A, second.address), Err(258));
        unit.attach(A, None, &domain).unwrap();
        assert_eq!(send(&machine, A, second.address), Ok(FILES + 0x2000));
        unit.revoke_interrupts(A).unwrap();
        assert_eq!(send(&machine, A, second.address), Err(262));
        assert_eq!(send(&machine, B, other.address), Ok(FILES + 0x3000));
        unit.shut_down().unwrap();
        drop(domain);
        assert_eq!(platform.blocks(), 0);
    }
}

#[test]
fn a_device_used_again_finds_nothing_of_the_last() {
    let machine = model(with_tables()).unwrap();
    let platform = Still::new(machine.ram());
    let (unit, domain, old) = routed(&machine, &platform);
    unit.detach(A, None).unwrap();
    unit.revoke_interrupts(A).unwrap();
    unit.remove_device(A).unwrap();
    // The slot is another's now.
    unit.grant_interrupts(B, 2).unwrap();
    unit.attach(B, None, &domain).unwrap();
    let new = unit.route_interrupt(B, 1, &to(2, 0x41)).unwrap();
    assert_eq!(new.address.0, old.address.0 + 0x1000);
    assert_eq!(send(&machine, B, old.address), Err(262));
    assert_eq!(send(&machine, B, new.address), Ok(FILES + 0x2000));
}

#[test]
fn what_can_not_be_led_is_refused() {
    let machine = model(with_tables()).unwrap();
    let platform = Still::new(machine.ram());
    let unit = started(&machine, &platform);
    unit.grant_interrupts(A, 256).unwrap();
    assert!(matches!(unit.grant_interrupts(B, 257), Err(Error::NoInterruptEntries { .. })));
    let posted = InterruptRoute::Posted { descriptor: PhysAddr(0x1000), vector: 1, urgent: false };
    assert_eq!(unit.route_interrupt(A, 0, &posted), Err(Error::Unsupported(Feature::Route(posted))));
    let odd = InterruptRoute::Doorbell { address: PhysAddr(FILES + 2), data: 0 };
    assert_eq!(unit.route_interrupt(A, 0, &odd), Err(Error::Unsupported(Feature::Route(odd))));
    // Devices with PASIDs have no second stage.
    let with_pasids = Requester::Device(0x20);
    unit.add_device(Device { pasid_bits: 8, ..Device::new(with_pasids) }).unwrap();
    unit.grant_interrupts(with_pasids, 1).unwrap();
    let refused = unit.route_interrupt(with_pasids, 0, &to(1, 1));
    assert_eq!(refused, Err(Error::Unsupported(Feature::Interrupts)));
    // No domain maps the window.
    let domain = unit.create_domain(DomainOptions::default()).unwrap();
    let mapped = domain.map(Iova(0xf800_0000), PhysAddr(0x40_0000), 0x1000, Access::READ);
    assert!(matches!(mapped, Err(Error::Reserved { .. })));
    // A first stage, where one is asked for, leads to no interrupt file.
    let shape = Some(PagingFormat::RiscvSv { levels: 4 });
    let first = unit.create_domain(DomainOptions { shape, ..DomainOptions::default() }).unwrap();
    let message = unit.route_interrupt(A, 0, &to(1, 1)).unwrap();
    unit.attach(A, None, &first).unwrap();
    assert_eq!(send(&machine, A, message.address), Err(15));
    // Units without MSI page tables, or without second stages, lead nothing.
    for config in [RiscvConfig::default(), RiscvConfig { sv39x4: false, sv48x4: false, ..with_tables() }] {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let unit = started(&machine, &platform);
        assert_eq!(unit.grant_interrupts(A, 1), Err(Error::Unsupported(Feature::Interrupts)));
    }
}

#[test]
fn a_queue_that_stops_is_an_error_and_interrupts_leave_with_recovery() {
    let machine = model(with_tables()).unwrap();
    let platform = Still::new(machine.ram());
    let (unit, _domain, message) = routed(&machine, &platform);
    // cqcsr: the queue is turned off behind the driver's back.
    machine.write32(0x48, 0);
    assert!(matches!(unit.revoke_interrupts(A), Err(Error::NotInvalidated(_))));
    unit.recover().unwrap();
    assert_eq!(send(&machine, A, message.address), Err(262));
    unit.grant_interrupts(A, 1).unwrap();
}
