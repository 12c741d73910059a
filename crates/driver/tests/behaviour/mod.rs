//! What domains do on every unit of every architecture: one text, run on units of the driver's own tests and on the models.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test binary uses a part of it")]

use std::time::Duration;

use portcullis_driver::common::architecture::Architecture;
use portcullis_driver::{
    Device, Domain, DomainOptions, Error, FlushPolicy, Memory, Region, RegionKind, Unit,
};
use portcullis_spec::{Access, Iova, PagingFormat, Pasid, PhysAddr, Requester};

mod guest;
mod nested;
mod trouble;

pub(crate) use nested::{directories_that_do_not_fit_are_refused, nested_domains_stand_on_their_parent};
pub(crate) use trouble::{
    Trouble, a_life, a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery,
    an_allocator_empty_at_any_point_leaves_nothing_behind,
};

/// The unit let it not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused;

/// A machine as these tests see it.
pub(crate) trait Bench {
    /// What its memory is.
    type Memory: Memory;

    /// Its memory.
    fn memory(&self) -> &Self::Memory;

    /// Memory for a guest.
    fn guest_memory(&self, bytes: u64) -> PhysAddr {
        self.memory().allocate(bytes, bytes).unwrap()
    }

    /// Whether the unit reads directories at guest addresses as if these were physical, as QEMU 10.0.2 does (docs/oracles.md).
    fn takes_directories_for_physical(&self) -> bool {
        false
    }

    /// Whether its devices can send PASIDs.
    fn sends_pasids(&self) -> bool {
        true
    }

    /// Two devices that the unit has been told of, with as many PASIDs as it serves.
    fn devices(&self) -> [Requester; 2];

    /// Requesters that it has not been told of, and could be.
    fn strangers(&self) -> [Requester; 3];

    /// Let a requester read or write a byte. Where that leads.
    fn dma(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        address: u64,
        write: bool,
    ) -> Result<u64, Refused>;

    /// Pieces of memory that the driver has.
    fn live_blocks(&self) -> usize;

    /// Let time pass.
    fn pass(&self, time: Duration);
}

fn read(bench: &impl Bench, device: Requester, address: u64) -> Result<u64, Refused> {
    bench.dma(device, None, address, false)
}

fn write(bench: &impl Bench, device: Requester, address: u64) -> Result<u64, Refused> {
    bench.dma(device, None, address, true)
}

fn domain<A: Architecture>(unit: &Unit<A>) -> Domain<A> {
    unit.create_domain(DomainOptions::default()).unwrap()
}

/// A domain of this shape.
fn domain_of<A: Architecture>(unit: &Unit<A>, shape: PagingFormat) -> Domain<A> {
    unit.create_domain(DomainOptions { shape: Some(shape), ..DomainOptions::default() }).unwrap()
}

/// Addresses and sizes below are said for pages of 4 KiB. This makes them as much larger as the unit's smallest pages are.
fn scaled<A: Architecture>(unit: &Unit<A>) -> impl Fn(u64) -> u64 + Copy {
    let shift = guest::page_shift(unit.features().formats[0].shape) - 12;
    move |address| address << shift
}

/// Defines the tests of the binary, by `$on_each_kind`, which runs a block with a bench and a unit of each kind.
macro_rules! behaviours {
    ($on_each_kind:ident) => {
        $crate::behaviour::behaviours! {
            $on_each_kind:
            everything_is_blocked_until_attached_and_again_after
            map_is_seen_at_once_even_where_its_absence_was_cached
            unmapped_is_unreachable_when_unmap_returns
            tables_left_empty_come_back_while_the_domain_lives
            large_pages_are_used_and_split
            rights_hold_and_can_be_changed_both_ways
            a_domain_id_used_again_brings_nothing_back
            a_device_that_moves_reaches_the_new_domain_and_nothing_of_the_old
            deferred_unmaps_wait_up_to_their_bounds
            direct_regions_come_and_go_with_their_devices
            identity_passes_and_silent_blocking_says_nothing
            pasids_are_spaces_of_their_own
            written_pages_are_reported_once
            nested_domains_stand_on_their_parent
            directories_that_do_not_fit_are_refused
        }
    };
    ($on_each_kind:ident: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $on_each_kind!(|bench, unit| $crate::behaviour::$name(bench, unit));
            }
        )*
    };
}
pub(crate) use behaviours;

pub(crate) fn everything_is_blocked_until_attached_and_again_after<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, b] = bench.devices();
    assert!(read(bench, a, at(0x1000)).is_err());
    for stranger in bench.strangers() {
        assert!(write(bench, stranger, at(0x1000)).is_err());
    }
    let domain = domain(unit);
    domain.map(Iova(at(0x4000)), PhysAddr(at(0xabc000)), grain, Access::READ_WRITE).unwrap();
    assert!(read(bench, a, at(0x4000)).is_err());
    unit.attach(a, None, &domain).unwrap();
    assert_eq!(read(bench, a, at(0x4123)), Ok(at(0xabc123)));
    assert_eq!(write(bench, a, at(0x4ffc)), Ok(at(0xabcffc)));
    assert!(read(bench, a, at(0x5000)).is_err());
    assert!(read(bench, b, at(0x4000)).is_err());
    unit.detach(a, None).unwrap();
    assert!(read(bench, a, at(0x4000)).is_err());
    assert!(write(bench, a, at(0x4000)).is_err());
}

pub(crate) fn map_is_seen_at_once_even_where_its_absence_was_cached<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, _] = bench.devices();
    let domain = domain(unit);
    unit.attach(a, None, &domain).unwrap();
    for page in 0..8 {
        assert!(read(bench, a, at(0x10_0000) + page * grain).is_err());
    }
    domain.map(Iova(at(0x10_0000)), PhysAddr(at(0x70_0000)), 8 * grain, Access::READ_WRITE).unwrap();
    for page in 0..8 {
        assert_eq!(read(bench, a, at(0x10_0000) + page * grain), Ok(at(0x70_0000) + page * grain));
    }
    unit.detach(a, None).unwrap();
}

pub(crate) fn unmapped_is_unreachable_when_unmap_returns<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, b] = bench.devices();
    let domain = domain(unit);
    unit.attach(a, None, &domain).unwrap();
    unit.attach(b, None, &domain).unwrap();
    // Three last-level tables, so that unmapping frees one while the unit has cached the way to it.
    let span = grain / 8 * grain;
    let (first, size) = (span - grain, span + 2 * grain);
    domain.map(Iova(first), PhysAddr(at(0x1_0000_1000)), size, Access::READ_WRITE).unwrap();
    for device in bench.devices() {
        for offset in (0..size).step_by(grain as usize) {
            assert_eq!(write(bench, device, first + offset), Ok(at(0x1_0000_1000) + offset));
        }
    }
    domain.unmap(Iova(first + grain), 3 * grain).unwrap();
    for device in bench.devices() {
        assert!(read(bench, device, first).is_ok());
        for page in 1..4 {
            assert!(read(bench, device, first + page * grain).is_err());
        }
        assert!(read(bench, device, first + 4 * grain).is_ok());
    }
    // Exactly one table's worth: an invalidation of leaves only would leave the unit walking the freed table.
    domain.unmap(Iova(span), span).unwrap();
    for device in bench.devices() {
        assert!(read(bench, device, span + 4 * grain).is_err());
        assert!(read(bench, device, 2 * span - grain).is_err());
    }
    domain.unmap(Iova(first), size).unwrap();
    for device in bench.devices() {
        for offset in (0..size).step_by(grain as usize) {
            assert!(read(bench, device, first + offset).is_err());
        }
    }
    for device in bench.devices() {
        unit.detach(device, None).unwrap();
    }
}

pub(crate) fn tables_left_empty_come_back_while_the_domain_lives<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, _] = bench.devices();
    let domain = domain(unit);
    unit.attach(a, None, &domain).unwrap();
    let blocks = bench.live_blocks();
    for round in 0..300 {
        // Each in a last-level table of its own, eight in a table above it.
        let iova = at(round << 27);
        domain.map(Iova(iova), PhysAddr(at(0x1000)), grain, Access::READ).unwrap();
        assert!(read(bench, a, iova).is_ok());
        domain.unmap(Iova(iova), grain).unwrap();
        assert!(read(bench, a, iova).is_err());
    }
    assert!(bench.live_blocks() - blocks <= 3 * 64, "{} more", bench.live_blocks() - blocks);
    unit.detach(a, None).unwrap();
}

pub(crate) fn large_pages_are_used_and_split<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, _] = bench.devices();
    let domain = domain(unit);
    unit.attach(a, None, &domain).unwrap();
    let blocks = bench.live_blocks();
    domain
        .map(Iova(at(0x4000_0000)), PhysAddr(at(0x8000_0000)), at(0x4000_0000), Access::READ_WRITE)
        .unwrap();
    // a gigabyte costs at most the tables above it, or one table where there are no such pages.
    assert!(bench.live_blocks() - blocks <= 4);
    assert_eq!(read(bench, a, at(0x4000_0000)), Ok(at(0x8000_0000)));
    assert_eq!(read(bench, a, at(0x7fff_ffff)), Ok(at(0xbfff_ffff)));
    domain.unmap(Iova(at(0x5000_0000)), grain).unwrap();
    assert!(read(bench, a, at(0x5000_0000)).is_err());
    assert_eq!(read(bench, a, at(0x5000_1000)), Ok(at(0x9000_1000)));
    assert_eq!(read(bench, a, at(0x4fff_f000)), Ok(at(0x8fff_f000)));
    unit.detach(a, None).unwrap();
}

pub(crate) fn rights_hold_and_can_be_changed_both_ways<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, _] = bench.devices();
    let domain = domain(unit);
    unit.attach(a, None, &domain).unwrap();
    domain.map(Iova(at(0x9000)), PhysAddr(at(0x9000)), grain, Access::READ).unwrap();
    assert!(read(bench, a, at(0x9000)).is_ok());
    assert!(write(bench, a, at(0x9000)).is_err());
    domain.protect(Iova(at(0x9000)), grain, Access::READ_WRITE).unwrap();
    assert!(write(bench, a, at(0x9000)).is_ok());
    domain.protect(Iova(at(0x9000)), grain, Access::READ).unwrap();
    assert!(write(bench, a, at(0x9000)).is_err());
    assert!(read(bench, a, at(0x9000)).is_ok());
    domain.map(Iova(at(0xa000)), PhysAddr(at(0xa000)), grain, Access::WRITE).unwrap();
    assert!(write(bench, a, at(0xa000)).is_ok());
    // First-stage pages can always be read, and the driver says so.
    let readable = domain.granted(Access::WRITE).unwrap().contains(Access::READ);
    assert_eq!(read(bench, a, at(0xa000)).is_ok(), readable);
    unit.detach(a, None).unwrap();
}

pub(crate) fn a_domain_id_used_again_brings_nothing_back<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    // CVE-2022-26357. One domain after the other gets the same ID; none sees what the former had cached.
    let [a, _] = bench.devices();
    for round in 1..6 {
        let domain = domain(unit);
        domain.map(Iova(round * grain), PhysAddr(at(0x5000)), grain, Access::READ_WRITE).unwrap();
        unit.attach(a, None, &domain).unwrap();
        for page in 1..6 {
            assert_eq!(read(bench, a, page * grain).is_ok(), page == round);
        }
        unit.detach(a, None).unwrap();
    }
}

pub(crate) fn deferred_unmaps_wait_up_to_their_bounds<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, _] = bench.devices();
    let flush = FlushPolicy::Deferred { count: 4, delay: Duration::from_millis(10) };
    let domain = unit.create_domain(DomainOptions { flush, ..DomainOptions::default() }).unwrap();
    unit.attach(a, None, &domain).unwrap();
    domain.map(Iova(at(0x10_0000)), PhysAddr(at(0x10_0000)), 16 * grain, Access::READ_WRITE).unwrap();
    for page in 0..16 {
        read(bench, a, at(0x10_0000) + page * grain).unwrap();
    }
    let tickets: Vec<_> =
        (0..3).map(|page| domain.unmap(Iova(at(0x10_0000) + page * grain), grain).unwrap()).collect();
    assert!(read(bench, a, at(0x10_0000)).is_ok(), "the window that deferring leaves open");
    assert!(tickets.iter().all(|ticket| !domain.is_released(*ticket)));
    let last = domain.unmap(Iova(at(0x10_3000)), grain).unwrap();
    assert!(domain.is_released(last) && tickets.iter().all(|ticket| domain.is_released(*ticket)));
    for page in 0..4 {
        assert!(read(bench, a, at(0x10_0000) + page * grain).is_err());
    }
    let ticket = domain.unmap(Iova(at(0x10_4000)), grain).unwrap();
    assert_eq!(domain.poll().unwrap(), Some(Duration::from_millis(10)));
    assert!(!domain.is_released(ticket));
    bench.pass(Duration::from_millis(10));
    assert_eq!(domain.poll().unwrap(), None);
    assert!(domain.is_released(ticket));
    assert!(read(bench, a, at(0x10_4000)).is_err());
    // An address that is mapped anew before the flush must not lead where it led.
    domain.unmap(Iova(at(0x10_5000)), grain).unwrap();
    domain.map(Iova(at(0x10_5000)), PhysAddr(at(0x77_0000)), grain, Access::READ_WRITE).unwrap();
    assert_eq!(read(bench, a, at(0x10_5000)), Ok(at(0x77_0000)));
    unit.detach(a, None).unwrap();
}

pub(crate) fn direct_regions_come_and_go_with_their_devices<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, _] = bench.devices();
    let [first, second, ..] = bench.strangers();
    let region = Region {
        first: Iova(at(0x7000_0000)),
        last: Iova(at(0x7000_2000) - 1),
        kind: RegionKind::Direct(Access::READ_WRITE),
    };
    for device in [first, second] {
        unit.add_device(Device { regions: vec![region], ..Device::new(device) }).unwrap();
    }
    let domain = domain(unit);
    unit.attach(first, None, &domain).unwrap();
    unit.attach(second, None, &domain).unwrap();
    unit.attach(a, None, &domain).unwrap();
    assert_eq!(read(bench, first, at(0x7000_1abc)), Ok(at(0x7000_1abc)));
    let reserved = Err(Error::Reserved { first: Iova(at(0x7000_0000)), last: Iova(at(0x7000_2000) - 1) });
    assert_eq!(domain.unmap(Iova(at(0x7000_0000)), grain).map(drop), reserved);
    unit.detach(first, None).unwrap();
    assert!(read(bench, second, at(0x7000_0000)).is_ok());
    unit.detach(second, None).unwrap();
    // XSA-378: a device that has no such region reaches none that others left behind.
    assert!(read(bench, a, at(0x7000_0000)).is_err());
    // a region that does not fit keeps its device out, and all else as it was.
    domain.map(Iova(at(0x7000_1000)), PhysAddr(at(0x1000)), grain, Access::READ).unwrap();
    assert!(unit.attach(first, None, &domain).is_err());
    assert!(read(bench, first, at(0x7000_0000)).is_err());
    assert!(read(bench, a, at(0x7000_0000)).is_err());
    assert_eq!(read(bench, a, at(0x7000_1000)), Ok(at(0x1000)));
    unit.detach(a, None).unwrap();
}

pub(crate) fn a_device_that_moves_reaches_the_new_domain_and_nothing_of_the_old<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, b] = bench.devices();
    let [old, new] = [domain(unit), domain(unit)];
    old.map(Iova(at(0x4000)), PhysAddr(at(0xa000)), grain, Access::READ_WRITE).unwrap();
    new.map(Iova(at(0x5000)), PhysAddr(at(0xb000)), grain, Access::READ_WRITE).unwrap();
    assert_eq!(unit.replace(a, None, &new), Err(Error::NotAttached(a)));
    unit.attach(a, None, &old).unwrap();
    unit.attach(b, None, &old).unwrap();
    for _ in 0..3 {
        assert_eq!(
            (read(bench, a, at(0x4000)), read(bench, b, at(0x4000))),
            (Ok(at(0xa000)), Ok(at(0xa000)))
        );
        assert!(read(bench, a, at(0x5000)).is_err());
        unit.replace(a, None, &new).unwrap();
        assert_eq!(
            (write(bench, a, at(0x5000)), read(bench, b, at(0x4000))),
            (Ok(at(0xb000)), Ok(at(0xa000)))
        );
        assert!(read(bench, a, at(0x4000)).is_err());
        unit.replace(a, None, &old).unwrap();
    }
    unit.detach(a, None).unwrap();
    unit.detach(b, None).unwrap();
    assert!(read(bench, a, at(0x4000)).is_err() && read(bench, a, at(0x5000)).is_err());
}

/// Pass-through and blocking without a record, where the unit has them.
pub(crate) fn identity_passes_and_silent_blocking_says_nothing<A: Architecture>(
    bench: &impl Bench,
    unit: &Unit<A>,
) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let [a, b] = bench.devices();
    if unit.features().identity {
        let identity = unit.identity_domain().unwrap();
        unit.attach(a, None, &identity).unwrap();
        assert_eq!(write(bench, a, at(0x1234_5678)), Ok(at(0x1234_5678)));
        assert!(write(bench, b, at(0x1234_5678)).is_err());
        assert_eq!(identity.map(Iova(0), PhysAddr(0), grain, Access::READ), Err(Error::NoMappings));
        unit.detach(a, None).unwrap();
        assert!(write(bench, a, at(0x1234_5678)).is_err());
    }
    unit.read_faults(|_| ());
    read(bench, a, at(0x7000)).unwrap_err();
    let mut faults = Vec::new();
    let counts = unit.read_faults(|record| faults.push(record.fault));
    assert_eq!((counts.read, counts.unknown, counts.overflows), (1, 0, 0));
    assert_eq!(faults[0].requester, a);
    // An SMMU says nothing of the transaction where the entry is at fault (SMMUv3 7.3.5, C_BAD_STE).
    if !faults[0].access.is_empty() {
        assert_eq!((faults[0].address, faults[0].access), (Iova(at(0x7000)), Access::READ));
    }
    if unit.features().silent_blocking && unit.features().pasid_bits == 0 {
        let blocking = unit.blocking_domain(true).unwrap();
        unit.attach(a, None, &blocking).unwrap();
        read(bench, a, 0).unwrap_err();
        assert_eq!(unit.read_faults(|_| ()).read, 0);
        unit.detach(a, None).unwrap();
        read(bench, a, 0).unwrap_err();
        assert_eq!(unit.read_faults(|_| ()).read, 1);
    }
}

/// PASIDs, where the unit serves them: the lowest, one that needs a second table, and the highest.
pub(crate) fn pasids_are_spaces_of_their_own<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let bits = unit.features().pasid_bits;
    if bits == 0 {
        return;
    }
    let [a, b] = bench.devices();
    let pasids = [1, 1 << (bits / 2), (1 << bits) - 1].map(|pasid| Pasid::new(pasid).unwrap());
    let page = |pasid: Pasid| at(u64::from(pasid.value()) << 12);
    let domains = pasids.map(|_| domain(unit));
    for (pasid, domain) in pasids.into_iter().zip(&domains) {
        assert!(bench.dma(a, Some(pasid), at(0x3000), false).is_err());
        domain.map(Iova(at(0x3000)), PhysAddr(page(pasid)), grain, Access::READ_WRITE).unwrap();
        unit.attach(a, Some(pasid), domain).unwrap();
    }
    for pasid in pasids {
        assert_eq!(bench.dma(a, Some(pasid), at(0x3000), true), Ok(page(pasid)));
    }
    assert!(read(bench, a, at(0x3000)).is_err());
    // The same domain under another PASID, and without one.
    let seven = Pasid::new(7);
    unit.attach(b, seven, &domains[0]).unwrap();
    unit.attach(b, None, &domains[0]).unwrap();
    assert_eq!(read(bench, b, at(0x3000)), Ok(at(0x1000)));
    assert_eq!(bench.dma(b, seven, at(0x3000), false), Ok(at(0x1000)));
    domains[0].unmap(Iova(at(0x3000)), grain).unwrap();
    assert!(bench.dma(a, Some(pasids[0]), at(0x3000), false).is_err());
    assert!(bench.dma(b, seven, at(0x3000), false).is_err());
    assert!(read(bench, b, at(0x3000)).is_err());
    assert!(bench.dma(a, Some(pasids[1]), at(0x3000), false).is_ok());
    unit.detach(a, Some(pasids[1])).unwrap();
    assert!(bench.dma(a, Some(pasids[1]), at(0x3000), false).is_err());
    assert!(bench.dma(a, Some(pasids[2]), at(0x3000), false).is_ok());
    unit.detach(a, Some(pasids[0])).unwrap();
    unit.detach(a, Some(pasids[2])).unwrap();
    unit.detach(b, seven).unwrap();
    unit.detach(b, None).unwrap();
}

/// Dirty tracking, where the unit has it in a format that domains get.
pub(crate) fn written_pages_are_reported_once<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let at = scaled(unit);
    let grain = at(0x1000);
    let options = DomainOptions { dirty_tracking: true, ..DomainOptions::default() };
    let Ok(domain) = unit.create_domain(options) else {
        assert!(unit.features().formats.iter().all(|format| !format.dirty));
        return;
    };
    let [a, _] = bench.devices();
    unit.attach(a, None, &domain).unwrap();
    // No larger page fits.
    domain.map(Iova(at(0x10_0000)), PhysAddr(at(0x20_1000)), 16 * grain, Access::READ_WRITE).unwrap();
    let dirty = || {
        let mut pages = Vec::new();
        domain
            .read_and_clear_dirty(Iova(at(0x10_0000)), 16 * grain, |page, shift| pages.push((page.0, shift)))
            .unwrap();
        pages
    };
    assert!(dirty().is_empty());
    read(bench, a, at(0x10_1000)).unwrap();
    write(bench, a, at(0x10_3000)).unwrap();
    write(bench, a, at(0x10_7000)).unwrap();
    let shift = grain.trailing_zeros() as u8;
    assert_eq!(dirty(), [(at(0x10_3000), shift), (at(0x10_7000), shift)]);
    assert!(dirty().is_empty());
    write(bench, a, at(0x10_3000)).unwrap();
    assert_eq!(dirty(), [(at(0x10_3000), shift)]);
    unit.detach(a, None).unwrap();
}
