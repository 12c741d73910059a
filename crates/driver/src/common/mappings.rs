//! A domain's mappings: its table, its addresses, what may not be mapped, and what waits to be invalidated.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_pagetable::Gather;
use portcullis_spec::{Iova, PhysAddr, Stage, StageRules};

use super::architecture::{Architecture, TableFeatures};
use super::domain::{DomainInner, DomainOptions};
use super::gate::Gate;
use super::gather::{FlushPolicy, Waiting};
use super::iova::IovaAllocator;
use super::region::{Region, RegionKind};
use super::table::{Table, TableError, TableSpace, tracking};
use super::unit::UnitInner;
use crate::error::Error;
use crate::platform::{Lock, Platform};
use crate::turn::Turn;

/// A domain's mappings.
pub(crate) struct Mappings<A: Architecture> {
    pub(super) table: Option<Table<Arc<UnitInner<A>>>>,
    pub(super) features: TableFeatures,
    pub(super) flush: FlushPolicy,
    pub(super) dirty_tracking: bool,
    pub(super) reserved: Box<[Region]>,
    pub(super) window: Option<(Iova, Iova)>,
    pub(super) addresses: Option<Box<<A::Platform as Platform>::Lock<IovaAllocator>>>,
    /// A handful.
    pub(super) regions: <A::Platform as Platform>::Lock<Vec<Held>>,
    pub(super) regions_turn: Turn<A::Platform>,
    /// Keeps the table in place while it is worked on.
    pub(super) gate: Gate<A::Platform>,
    /// Where tables may have become empty: first address and bytes of some unmaps.
    pub(super) thinned: <A::Platform as Platform>::Lock<Vec<(Iova, u64)>>,
    pub(super) waiting: <A::Platform as Platform>::Lock<Waiting>,
}

/// A region that attached devices need: first and last byte in whole pages, what for, and how many devices.
type Held = ((Iova, Iova, RegionKind), usize);

impl<A: Architecture> Mappings<A> {
    pub(super) fn new(
        unit: &Arc<UnitInner<A>>,
        features: TableFeatures,
        options: DomainOptions,
    ) -> Result<Self, Error> {
        let coherent = unit.architecture.features().coherent;
        let space = TableSpace::new(unit.clone(), coherent);
        let format = if options.dirty_tracking { tracking(features.format) } else { features.format };
        let table = Table::new(format, space).map_err(|error| match error {
            TableError::AllocatorEmpty => Error::OutOfMemory,
            error => error.into(),
        })?;
        let reach = Iova(u64::MAX >> (64 - features.input_bits));
        let mut reserved = unit.architecture.features().reserved.clone();
        reserved.extend(options.reserved);
        let window = options.window.map(|(first, last)| (first, last.min(reach)));
        let addresses = window.map(|(first, last)| {
            let mut addresses = IovaAllocator::new(first, last, table.page_shift());
            for region in &reserved {
                // Two reserved regions may share a page; the first has taken it then.
                let page = (1u64 << table.page_shift()) - 1;
                let mut at = region.first.0 & !page;
                if addresses.reserve(region.first, region.last).is_err() {
                    while at <= region.last.0 {
                        let _taken_already = addresses.reserve(Iova(at), Iova(at | page));
                        let Some(next) = (at | page).checked_add(1) else { break };
                        at = next;
                    }
                }
            }
            Box::new(Lock::new(addresses))
        });
        Ok(Self {
            table: Some(table),
            features,
            flush: options.flush,
            dirty_tracking: options.dirty_tracking,
            reserved: reserved.into_boxed_slice(),
            window,
            addresses,
            regions: Lock::new(Vec::new()),
            regions_turn: Turn::new(),
            gate: Gate::new(),
            thinned: Lock::new(Vec::new()),
            waiting: Lock::new(Waiting::default()),
        })
    }

    pub(super) const fn is_parent(&self) -> bool {
        self.features.parent
    }

    pub(super) fn table(&self) -> Result<&Table<Arc<UnitInner<A>>>, Error> {
        self.table.as_ref().ok_or(Error::NoMappings)
    }

    pub(super) fn stage(&self) -> Stage<PhysAddr> {
        let mut rules = StageRules::empty();
        if self.dirty_tracking {
            rules |= StageRules::SET_ACCESSED | StageRules::SET_DIRTY;
        }
        Stage {
            format: self.features.shape,
            root: self.table.as_ref().map_or(PhysAddr(0), Table::root),
            rules,
            input_bits: self.features.input_bits,
        }
    }

    /// Ends an allocation of the domain's own addresses.
    pub(super) fn retire(&self, address: Option<(Iova, u64)>) -> Result<(), Error> {
        if let (Some((first, size)), Some(addresses)) = (address, &self.addresses) {
            addresses.with(|addresses| addresses.retire(first, size))?;
        }
        Ok(())
    }

    /// Makes retired addresses free.
    pub(super) fn release(&self, retired: &[(Iova, u64)]) {
        if let (false, Some(addresses)) = (retired.is_empty(), &self.addresses) {
            addresses.with(|addresses| {
                for (first, size) in retired {
                    addresses.release(*first, *size);
                }
            });
        }
    }

    /// The pages around a region: first address and bytes.
    pub(super) fn pages(&self, region: &Region) -> Result<(Iova, u64), Error> {
        let page = (1u64 << self.table()?.page_shift()) - 1;
        let first = region.first.0 & !page;
        let last = region.last.0 | page;
        let size = last.wrapping_sub(first).wrapping_add(1);
        self.check(Iova(first), size, false)?;
        Ok((Iova(first), size))
    }

    /// That a range lies within the domain's reach and touches nothing reserved, and as `chosen` by the caller nothing that the
    /// allocator hands out.
    pub(super) fn check(&self, iova: Iova, size: u64, chosen: bool) -> Result<Iova, Error> {
        let out_of_range = Error::Table(TableError::OutOfRange { iova });
        if size == 0 {
            return Err(Error::Table(TableError::EmptyRange));
        }
        let last = iova.checked_add(size - 1).ok_or(out_of_range)?;
        if last.0 > u64::MAX >> (64 - self.features.input_bits) {
            return Err(out_of_range);
        }
        if let Some(region) = self.reserved.iter().find(|region| region.overlaps(iova, last)) {
            return Err(Error::Reserved { first: region.first, last: region.last });
        }
        if chosen && let Some(window) = self.window.filter(|window| window.0 <= last && iova <= window.1) {
            return Err(Error::Governed { first: window.0, last: window.1 });
        }
        Ok(last)
    }

    /// That a range touches no region of an attached device.
    pub(super) fn check_regions(&self, iova: Iova, last: Iova) -> Result<(), Error> {
        let touched = self.regions.with(|regions| {
            regions.iter().map(|known| known.0).find(|(first, end, _)| *first <= last && iova <= *end)
        });
        match touched {
            Some((first, last, _)) => Err(Error::Reserved { first, last }),
            None => Ok(()),
        }
    }

    pub(super) fn reserve(&self, first: Iova, last: Iova) -> Result<(), Error> {
        match &self.addresses {
            Some(addresses) => Ok(addresses.with(|addresses| addresses.reserve(first, last))?),
            None => Ok(()),
        }
    }

    pub(super) fn unreserve(&self, first: Iova, last: Iova) {
        if let Some(addresses) = &self.addresses {
            addresses.with(|addresses| addresses.unreserve(first, last));
        }
    }
}

/// Regions of attached devices.
impl<A: Architecture> DomainInner<A> {
    /// Makes room for the regions of a device that is to be attached: direct ones are mapped, the others kept free.
    pub(crate) fn add_regions(&self, regions: &[Region]) -> Result<(), Error> {
        let Ok((owner, mappings)) = self.mappings() else { return Ok(()) };
        mappings.regions_turn.take(self.unit.architecture.platform(), || {
            for (index, region) in regions.iter().enumerate() {
                if let Err(error) = owner.add_region(mappings, region) {
                    owner.remove_each(mappings, &regions[..index])?;
                    return Err(error);
                }
            }
            Ok(())
        })
    }

    /// Gives up the regions of a device that was detached.
    pub(crate) fn remove_regions(&self, regions: &[Region]) -> Result<(), Error> {
        let Ok((owner, mappings)) = self.mappings() else { return Ok(()) };
        mappings.regions_turn.take(self.unit.architecture.platform(), || owner.remove_each(mappings, regions))
    }

    fn add_region(&self, mappings: &Mappings<A>, region: &Region) -> Result<(), Error> {
        let (iova, size) = mappings.pages(region)?;
        let last = Iova(iova.0 + (size - 1));
        let key = (iova, last, region.kind);
        if let Some(count) = mappings.regions.with(|regions| {
            let known = regions.iter_mut().find(|known| known.0 == key);
            known.map(|known| known.1 += 1)
        }) {
            return Ok(count);
        }
        mappings.check_regions(iova, last)?;
        mappings.reserve(iova, last)?;
        let result = match region.kind {
            RegionKind::Direct(access) => self.map(mappings, (iova, PhysAddr(iova.0), size), access, false),
            RegionKind::Blocked | RegionKind::Interrupts => {
                match self.on_table(mappings, |table| table.first_page(iova, size))? {
                    Some(_) => Err(Error::Reserved { first: region.first, last: region.last }),
                    None => Ok(()),
                }
            }
        };
        match result {
            Ok(()) => mappings.regions.with(|regions| regions.push((key, 1))),
            Err(_) => mappings.unreserve(iova, last),
        }
        result
    }

    fn remove_each(&self, mappings: &Mappings<A>, regions: &[Region]) -> Result<(), Error> {
        let mut result = Ok(());
        for region in regions {
            let (iova, size) = mappings.pages(region)?;
            let last = Iova(iova.0 + (size - 1));
            let key = (iova, last, region.kind);
            let unused = mappings.regions.with(|regions| {
                let index = regions.iter().position(|known| known.0 == key)?;
                regions[index].1 -= 1;
                (regions[index].1 == 0).then(|| regions.swap_remove(index))
            });
            if unused.is_none() {
                continue;
            }
            if let RegionKind::Direct(_) = region.kind {
                let mut gather = Gather::new();
                self.on_pages(mappings, |table, split| table.unmap(iova, size, split, &mut gather))?;
                result = result.and(self.unmapped(mappings, gather, None, true).map(drop));
            }
            mappings.unreserve(iova, last);
        }
        result
    }
}
