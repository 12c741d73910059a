//! Units and allocators that fail.

use portcullis_driver::common::architecture::Architecture;
use portcullis_driver::{Device, DomainOptions, Error, Prefer, Region, RegionKind, Unit, UnitError};
use portcullis_spec::{Access, Iova, Pasid, PhysAddr};

use super::{Bench, read, scaled};

/// A queue's trouble.
pub(crate) struct Trouble<'t> {
    /// Makes the next submission meet it.
    pub(crate) begin: &'t dyn Fn(),
    /// Ends it, where recovery fails before.
    pub(crate) end: Option<&'t dyn Fn()>,
    /// Whether this is what the driver is to say.
    pub(crate) is_expected: fn(UnitError) -> bool,
}

/// On a unit that knows the bench's devices.
pub(crate) fn a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery<A: Architecture>(
    bench: &impl Bench,
    unit: Unit<A>,
    trouble: &Trouble<'_>,
) {
    let at = scaled(&unit);
    let [a, _] = bench.devices();
    let window = Some((Iova(0), Iova(u64::MAX)));
    let domain = unit.create_domain(DomainOptions { window, ..DomainOptions::default() }).unwrap();
    unit.attach(a, None, &domain).unwrap();
    let size = at(0x40_0000);
    let map = || {
        let physical = PhysAddr(at(0x20_0000));
        domain.map_anywhere(physical, size, Access::READ_WRITE, Iova(u64::MAX), Prefer::Low)
    };
    let iova = map().unwrap();
    read(bench, a, iova.0).unwrap();
    (trouble.begin)();
    match domain.unmap(iova, size) {
        Err(Error::NotInvalidated(error)) => assert!((trouble.is_expected)(error), "{error:?}"),
        other => panic!("{other:?}"),
    }
    // The device still reaches the page through the unit's cache; so nothing may be reused, and nothing is.
    assert!(read(bench, a, iova.0).is_ok());
    assert_eq!(domain.waiting(), 1);
    assert_ne!(map().map_err(drop), Ok(iova));
    let stopped = Error::NotInvalidated(UnitError::Stopped);
    assert_eq!(domain.flush(), Err(stopped));
    // Detaching blocks in the tables at once, but the domain keeps its tag and its pages.
    assert_eq!(unit.detach(a, None), Err(stopped));
    assert_eq!(unit.attach(a, None, &domain), Err(Error::Attached(a)));
    if let Some(end) = trouble.end {
        let blocks = bench.live_blocks();
        assert!(unit.recover().is_err());
        assert_eq!(bench.live_blocks(), blocks);
        end();
    }
    unit.recover().unwrap();
    assert!(read(bench, a, iova.0).is_err());
    domain.flush().unwrap();
    assert_eq!(domain.waiting(), 0);
    unit.attach(a, None, &domain).unwrap();
    assert_eq!(map().unwrap(), iova);
    assert!(read(bench, a, iova.0).is_ok());
    unit.shut_down().unwrap();
    drop(domain);
    assert_eq!(bench.live_blocks(), 0);
}

/// Lets a unit live with ever more memory until there is enough. `life` gets how many allocations succeed, and ends in
/// [`a_life`]; what is returned beside its result is how many blocks are left.
pub(crate) fn an_allocator_empty_at_any_point_leaves_nothing_behind(
    life: impl Fn(usize) -> (Result<(), Error>, usize),
) {
    let mut allowed = 0;
    loop {
        let (result, left) = life(allowed);
        assert_eq!(left, 0, "out of memory after {allowed}");
        match result {
            Ok(()) => break,
            Err(Error::OutOfMemory | Error::Table(_)) => allowed += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(allowed > 5, "{allowed}");
}

/// Everything that allocates, on a unit that knows no device yet. Whatever fails leaves what it was about as it was.
pub(crate) fn a_life<A: Architecture>(bench: &impl Bench, unit: Unit<A>) -> Result<(), Error> {
    let at = scaled(&unit);
    let pages = at(0x2000);
    let result = (|| {
        unit.enable()?;
        let ([a, alias], [other, ..]) = (bench.devices(), bench.strangers());
        let region = Region {
            first: Iova(at(0x7000_0000)),
            last: Iova(at(0x7000_1000) - 1),
            kind: RegionKind::Direct(Access::READ_WRITE),
        };
        let pasid_bits = unit.features().pasid_bits;
        unit.add_device(Device { requesters: vec![a, alias], pasid_bits, regions: vec![region] })?;
        let (first, second) = (domain_here(&unit)?, domain_here(&unit)?);
        let iova = Iova(at(0x1f_f000));
        let mapped = first.map(iova, PhysAddr(at(0x1000)), pages, Access::READ_WRITE);
        if mapped.is_err() {
            assert_eq!(first.query(iova).unwrap(), None);
        }
        mapped?;
        let attached = unit.attach(a, None, &first);
        for requester in [a, alias] {
            assert_eq!(read(bench, requester, iova.0).is_ok(), attached.is_ok(), "half attached");
        }
        attached?;
        unit.add_device(Device { pasid_bits, ..Device::new(other) })?;
        let highest = Pasid::new((1 << pasid_bits) - 1).filter(|_| pasid_bits > 0);
        unit.attach(other, highest, &first)?;
        let moved = unit.replace(other, highest, &second);
        assert!(unit.domain_of(other, highest).is_some(), "a move that is refused leaves it where it was");
        moved?;
        unit.detach(other, highest)?;
        unit.detach(a, None)
    })();
    unit.shut_down()?;
    result
}

fn domain_here<A: Architecture>(unit: &Unit<A>) -> Result<portcullis_driver::Domain<A>, Error> {
    unit.create_domain(DomainOptions::default())
}
