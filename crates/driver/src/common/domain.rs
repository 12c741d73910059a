//! Domains: one set of mappings that any number of devices share.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use portcullis_pagetable::{Gather, Split};
use portcullis_spec::{
    Access, Context, DomainTag, FaultReason, FirstStage, Invalidation, Iova, MemoryAttributes, PagingFormat,
    Pasid, PhysAddr, SpaceTag, StageNumber, Tags, Translation, TranslationScope,
};

use super::architecture::{Architecture, Stages};
use super::gather::{Batch, FlushPolicy, Ticket, Waiting};
use super::iova::Prefer;
use super::mappings::Mappings;
use super::region::Region;
use super::table::{Table, TableError};
use super::unit::UnitInner;
use crate::error::Error;
use crate::platform::{Clock, Lock, Platform};

/// What a domain with mappings of its own is to be like.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DomainOptions {
    /// Shape of its tables; the unit's preferred one where not said.
    pub shape: Option<PagingFormat>,
    /// When unmapped pages are invalidated.
    pub flush: FlushPolicy,
    /// First and last address that the domain hands out itself, in [`Domain::map_anywhere`]. [`Domain::map`] keeps to what is
    /// left.
    pub window: Option<(Iova, Iova)>,
    /// Whether pages are mapped with Dirty clear and the unit sets it on writes.
    pub dirty_tracking: bool,
    /// Regions that may not be mapped, beside the unit's own.
    pub reserved: Vec<Region>,
}

/// Unmaps after which a domain looks for tables that have become empty.
const MAX_THINNED: usize = 64;
/// Of these, how many are compared with another unmap before it is noted too.
const RECENTLY_THINNED: usize = 8;

/// Everything that a device can be attached to. Cloning gives another handle to the same domain.
///
/// When the last handle is gone and no device is attached, its tables go back to the platform, after the unit has
/// forgotten them.
pub struct Domain<A: Architecture>(pub(crate) Arc<DomainInner<A>>);

impl<A: Architecture> Clone for Domain<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) enum Kind<A: Architecture> {
    /// Everything is refused; with `silent` without a report.
    Blocking { silent: bool },
    /// Addresses pass unchanged.
    Identity,
    /// Mappings of its own.
    Mapped(Mappings<A>),
    /// A first stage that someone else writes, or a directory of them, over the mappings of `parent`.
    Nested { parent: Domain<A>, first: FirstStage },
}

/// Under which tags a domain's translations may be cached.
#[derive(Default)]
struct Sites {
    tag: Option<DomainTag>,
    /// Attachments that use the tag.
    users: usize,
    tags: Counted,
}

/// Tags, and whether another stage stands before this domain's.
type Site = (DomainTag, Option<SpaceTag>, bool);

/// Sites, by how many attachments. Most domains have one, and many domains there may be.
#[derive(Default)]
struct Counted {
    one: Option<(Site, usize)>,
    others: BTreeMap<Site, usize>,
}

impl Counted {
    fn count_in(&mut self, site: Site) {
        match &mut self.one {
            Some((one, count)) if *one == site => *count += 1,
            None if !self.others.contains_key(&site) => self.one = Some((site, 1)),
            _ => *self.others.entry(site).or_default() += 1,
        }
    }

    fn count_out(&mut self, site: Site) {
        if let Some((_, count)) = self.one.as_mut().filter(|(one, _)| *one == site) {
            *count -= 1;
            self.one = self.one.filter(|(_, count)| *count != 0);
        } else if let Some(count) = self.others.get_mut(&site) {
            *count -= 1;
            if *count == 0 {
                self.others.remove(&site);
            }
        }
    }

    fn sites(&self) -> impl Iterator<Item = &Site> {
        self.one.iter().map(|(site, _)| site).chain(self.others.keys())
    }
}

pub(crate) struct DomainInner<A: Architecture> {
    pub(crate) unit: Arc<UnitInner<A>>,
    kind: Kind<A>,
    sites: <A::Platform as Platform>::Lock<Sites>,
}

impl<A: Architecture> DomainInner<A> {
    pub(crate) fn new(unit: Arc<UnitInner<A>>, kind: Kind<A>) -> Self {
        Self { unit, kind, sites: Lock::new(Sites::default()) }
    }

    /// The mappings that a device in this domain ends up with.
    pub(crate) fn mappings(&self) -> Result<(&Self, &Mappings<A>), Error> {
        match &self.kind {
            Kind::Mapped(mappings) => Ok((self, mappings)),
            Kind::Nested { parent, .. } => parent.0.mappings(),
            Kind::Blocking { .. } | Kind::Identity => Err(Error::NoMappings),
        }
    }

    /// Whether what its devices' PASIDs come to stands in a directory that someone else writes.
    pub(super) const fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Nested { first: FirstStage::Directory(_), .. })
    }

    fn own_mappings(&self) -> Result<&Mappings<A>, Error> {
        match &self.kind {
            Kind::Mapped(mappings) => Ok(mappings),
            _ => Err(Error::NoMappings),
        }
    }

    /// Counts an attachment in, before its entry is written: from here on changes are invalidated under its tags too.
    pub(crate) fn enter(&self, pasid: Option<Pasid>) -> Result<Tags, Error> {
        let stages = match &self.kind {
            Kind::Blocking { .. } => return Ok(Tags::default()),
            Kind::Mapped(mappings) if mappings.features.first_stage => Stages::First,
            Kind::Identity | Kind::Mapped(_) => Stages::Second,
            Kind::Nested { first: FirstStage::Tables(_), .. } => Stages::FirstOnSecond,
            Kind::Nested { first: FirstStage::Directory(_), .. } => Stages::DirectoryOnSecond,
        };
        let fresh = self.unit.allocate_tag();
        let (tags, unused) = self.sites.with(|sites| {
            let (tag, unused) = match sites.tag {
                Some(tag) => (tag, fresh.as_ref().ok().copied()),
                None => (fresh?, None),
            };
            sites.tag = Some(tag);
            sites.users += 1;
            let tags = self.unit.architecture.tags(tag, pasid, stages);
            sites.tags.count_in((tags.domain, tags.space, false));
            Ok::<_, Error>((tags, unused))
        })?;
        if let Some(unused) = unused {
            self.unit.release_tag(unused);
        }
        if let Kind::Nested { parent, .. } = &self.kind {
            parent.0.sites.with(|sites| sites.tags.count_in((tags.domain, tags.space, true)));
        }
        Ok(tags)
    }

    /// Counts an attachment out, after everything cached under its tags for it was forgotten.
    pub(crate) fn leave(&self, tags: Tags) {
        if let Kind::Blocking { .. } = self.kind {
            return;
        }
        if let Kind::Nested { parent, .. } = &self.kind {
            parent.0.sites.with(|sites| sites.tags.count_out((tags.domain, tags.space, true)));
        }
        let unused = self.sites.with(|sites| {
            sites.tags.count_out((tags.domain, tags.space, false));
            sites.users -= 1;
            if sites.users == 0 { sites.tag.take() } else { None }
        });
        if let Some(unused) = unused {
            self.unit.release_tag(unused);
        }
    }

    /// What a device's entry is to come to.
    pub(crate) fn context(&self, tags: Tags) -> Context {
        let features = self.unit.architecture.features();
        match &self.kind {
            Kind::Blocking { silent: true } => Context::Blocked(None),
            Kind::Blocking { silent: false } => Context::Blocked(Some(FaultReason::RequestBlocked)),
            Kind::Identity => Context::Bypass {
                tags,
                access: Access::READ_WRITE | Access::EXECUTE | Access::ATOMIC,
                output_bits: features.output_bits,
                attributes: MemoryAttributes::default(),
            },
            Kind::Mapped(mappings) => {
                let number = match mappings.features.first_stage {
                    true => StageNumber::First,
                    false => StageNumber::Second,
                };
                Context::OneStage { tags, stage: mappings.stage(), number }
            }
            Kind::Nested { parent, first } => match &parent.0.kind {
                Kind::Mapped(mappings) => {
                    Context::TwoStages { tags, first: *first, second: mappings.stage() }
                }
                _ => Context::Blocked(Some(FaultReason::Internal)),
            },
        }
    }

    /// The invalidations for ranges (`None`: all) of this domain's mappings, under every tag.
    fn invalidations(&self, ranges: Option<&[(Iova, Iova)]>, leaf_only: bool) -> Vec<Invalidation> {
        let stage = match &self.kind {
            Kind::Mapped(mappings) if !mappings.features.first_stage => StageNumber::Second,
            _ => StageNumber::First,
        };
        self.sites.with(|sites| {
            let mut list = Vec::new();
            for (domain, space, beneath) in sites.tags.sites() {
                let scope = TranslationScope {
                    stage: Some(stage),
                    domain: Some(*domain),
                    space: if stage == StageNumber::First { *space } else { None },
                    range: None,
                    leaf_only: false,
                    keep_global: false,
                };
                // Beneath another stage, what is cached is found by that stage's addresses, which nobody knows here.
                match ranges {
                    Some(ranges) if !beneath => list.extend(ranges.iter().map(|range| {
                        Invalidation::Translations(TranslationScope {
                            range: Some(*range),
                            leaf_only,
                            ..scope
                        })
                    })),
                    _ => list.push(Invalidation::Translations(scope)),
                }
            }
            list
        })
    }

    /// Maps, and makes the unit see it. `allocated` says that the addresses came from the allocator; on failure they go
    /// back to it, as soon as that is safe.
    pub(super) fn map(
        &self,
        mappings: &Mappings<A>,
        what: (Iova, PhysAddr, u64),
        access: Access,
        allocated: bool,
    ) -> Result<(), Error> {
        let table = mappings.table()?;
        let (iova, _, size) = what;
        let last = Iova(iova.0.wrapping_add(size.wrapping_sub(1)));
        let mut gather = Gather::new();
        // Looked at inside the gate: from there on nobody takes a table out of the range.
        let tables = loop {
            let mapped = mappings.gate.enter(self.unit.architecture.platform(), || {
                let forgotten = !mappings.waiting.with(|waiting| waiting.overlaps(iova, last));
                forgotten.then(|| table.map(what, access, mappings.dirty_tracking, &mut gather))
            });
            match mapped {
                Some(result) => break result.map_err(Error::from),
                None => match self.flush(mappings) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        let seen = if !gather.is_empty() {
            self.unmapped(mappings, gather, None, true).map(drop)
        } else if tables.is_err() {
            Ok(())
        } else {
            let list = match mappings.features.caches_not_present {
                true => self.invalidations(Some(&[(iova, last)]), false),
                false => Vec::new(),
            };
            self.unit.architecture.invalidate(&list).map_err(Error::NotInvalidated)
        };
        let address = allocated.then_some((iova, size));
        match (tables, seen) {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(error)) => {
                // The unit may or may not use the mapping: take it back, and keep what that leaves until it can be
                // invalidated.
                mappings.retire(address)?;
                let mut gather = Gather::new();
                self.on_pages(mappings, |table, split| table.unmap(iova, size, split, &mut gather))?;
                mappings.waiting.with(|waiting| waiting.join(table, self.unit.now(), gather, address));
                Err(error)
            }
            (Err(error), _) => {
                mappings.retire(address)?;
                mappings.release(address.as_slice());
                Err(error)
            }
        }
    }

    /// Works on the table, beside others who do.
    pub(super) fn on_table<R>(
        &self,
        mappings: &Mappings<A>,
        work: impl FnOnce(&Table<Arc<UnitInner<A>>>) -> Result<R, TableError>,
    ) -> Result<R, Error> {
        let table = mappings.table()?;
        Ok(mappings.gate.enter(self.unit.architecture.platform(), || work(table))?)
    }

    /// Works on pages that the range may cut. Where the format wants them broken before they are made anew (Arm without BBML 2), that happens
    /// alone: nobody else may find the entries empty meanwhile and take them for unmapped.
    pub(super) fn on_pages<R>(
        &self,
        mappings: &Mappings<A>,
        mut work: impl FnMut(&Table<Arc<UnitInner<A>>>, &mut Split<'_>) -> Result<R, TableError>,
    ) -> Result<R, Error> {
        match self.on_table(mappings, |table| work(table, &mut Split::Exchange)) {
            Err(Error::Table(TableError::BreakNeeded { .. })) => {}
            result => return result,
        }
        let table = mappings.table()?;
        let architecture = &self.unit.architecture;
        let mut forget = |first, last| {
            // Where the unit does not confirm it, the range still waits to be forgotten with what is unmapped here; and until then both
            // sizes lead to the same pages.
            let _unconfirmed = architecture.invalidate(&self.invalidations(Some(&[(first, last)]), false));
        };
        mappings
            .gate
            .close(architecture.platform(), || Ok(work(table, &mut Split::BreakBeforeMake(&mut forget))?))
    }

    /// Notes where an unmap may have left tables empty, and takes them out when enough are noted: a client that maps here and
    /// there and unmaps again costs no more memory than what it has mapped and these.
    fn thinned(&self, mappings: &Mappings<A>, iova: Iova, size: u64) {
        let noted = mappings.thinned.with(|thinned| {
            // Whoever maps and unmaps the same few addresses is noted once.
            if thinned.iter().rev().take(RECENTLY_THINNED).any(|noted| *noted == (iova, size)) {
                return Vec::new();
            }
            thinned.push((iova, size));
            if thinned.len() < MAX_THINNED { Vec::new() } else { core::mem::take(thinned) }
        });
        let (false, Ok(table)) = (noted.is_empty(), mappings.table()) else { return };
        // Handed over before the gate opens: whoever maps there next waits until the unit has forgotten the tables.
        let departed = mappings.gate.close(self.unit.architecture.platform(), || {
            let mut gather = Gather::new();
            for (iova, size) in noted {
                // Fails only where someone else wrote to the tables; then the rest of them stays.
                let _corrupt = table.reclaim(iova, size, &mut gather);
            }
            if gather.is_empty() { None } else { self.hand_over(mappings, table, gather, None, false).1 }
        });
        if let Some(batch) = departed {
            // Where the unit is in trouble, it waits; the unmap that brought this about is over.
            let _waiting = self.invalidate(mappings, batch);
        }
    }

    /// Deals with what an unmap left, by the domain's policy, or at once.
    pub(super) fn unmapped(
        &self,
        mappings: &Mappings<A>,
        gather: Gather,
        address: Option<(Iova, u64)>,
        now: bool,
    ) -> Result<Ticket, Error> {
        let (ticket, batch) = self.hand_over(mappings, mappings.table()?, gather, address, now);
        match batch {
            Some(batch) => self.invalidate(mappings, batch).map(|()| ticket),
            None => Ok(ticket),
        }
    }

    /// Issues a ticket for what an unmap left; with it the batch that is to be invalidated now, if one is.
    fn hand_over(
        &self,
        mappings: &Mappings<A>,
        table: &Table<Arc<UnitInner<A>>>,
        gather: Gather,
        address: Option<(Iova, u64)>,
        now: bool,
    ) -> (Ticket, Option<Batch>) {
        // What is not deferred is due whatever the time.
        let time = match mappings.flush {
            FlushPolicy::Strict => Duration::ZERO,
            FlushPolicy::Deferred { .. } => self.unit.now(),
        };
        mappings.waiting.with(|waiting| {
            if now || mappings.flush == FlushPolicy::Strict {
                let (ticket, batch) = waiting.depart_with(table, time, gather, address);
                return (ticket, Some(batch));
            }
            let ticket = waiting.join(table, time, gather, address);
            (ticket, if waiting.is_due(mappings.flush, time) { waiting.depart() } else { None })
        })
    }

    /// Invalidates a batch, and releases what it held; or keeps it.
    fn invalidate(&self, mappings: &Mappings<A>, batch: Batch) -> Result<(), Error> {
        let table = mappings.table()?;
        let list = self.invalidations(batch.ranges(), batch.tables.tables() == 0);
        if !list.is_empty()
            && let Err(error) = self.unit.architecture.invalidate(&list)
        {
            mappings.waiting.with(|waiting| waiting.wait(table, batch));
            return Err(Error::NotInvalidated(error));
        }
        mappings.waiting.with(|waiting| waiting.arrive(&batch));
        mappings.release(&batch.addresses);
        table.release(batch.tables);
        Ok(())
    }

    /// Invalidates all that waits, and waits for what others are invalidating.
    pub(crate) fn flush(&self, mappings: &Mappings<A>) -> Result<(), Error> {
        let target = mappings.waiting.with(|waiting| waiting.issued());
        loop {
            if let Some(batch) = mappings.waiting.with(Waiting::depart) {
                self.invalidate(mappings, batch)?;
            }
            if mappings.waiting.with(|waiting| waiting.is_complete(target)) {
                return Ok(());
            }
            self.unit.architecture.platform().relax();
        }
    }
}

impl<A: Architecture> Domain<A> {
    /// Lets devices read, write or execute `size` bytes from `physical` on at `iova` on, in the largest pages that fit. On return they
    /// can. All three are multiples of the smallest page.
    ///
    /// A right that the format cannot withhold is granted along: [`Self::granted`] says which.
    ///
    /// # Errors
    /// Nothing is mapped then: [`Error::Table`] (overlap, misalignment, out of range, out of memory), [`Error::Reserved`],
    /// [`Error::Governed`], [`Error::NoMappings`], or [`Error::NotInvalidated`] where the unit is in trouble.
    pub fn map(&self, iova: Iova, physical: PhysAddr, size: u64, access: Access) -> Result<(), Error> {
        let mappings = self.0.own_mappings()?;
        let last = mappings.check(iova, size, true)?;
        mappings.check_regions(iova, last)?;
        self.0.map(mappings, (iova, physical, size), access, false)
    }

    /// As [`Self::map`], at an address that the domain chooses, all at or below `last`.
    ///
    /// # Errors
    /// As [`Self::map`], and [`Error::Iova`].
    pub fn map_anywhere(
        &self,
        physical: PhysAddr,
        size: u64,
        access: Access,
        last: Iova,
        prefer: Prefer,
    ) -> Result<Iova, Error> {
        let mappings = self.0.own_mappings()?;
        let Some(addresses) = &mappings.addresses else {
            return Err(super::iova::IovaError::Exhausted { size, last }.into());
        };
        let iova = addresses.with(|addresses| addresses.allocate(size, last, prefer))?;
        self.0.map(mappings, (iova, physical, size), access, true)?;
        Ok(iova)
    }

    /// Takes back whatever is mapped of `size` bytes from `iova` on; holes are no error, large pages are split where the
    /// range cuts them. What [`Self::map_anywhere`] chose is taken back whole.
    ///
    /// With [`FlushPolicy::Strict`], success means that no device reaches the memory any more, nor has any access to it in
    /// flight. With [`FlushPolicy::Deferred`] that holds once [`Self::is_released`] says so of the ticket.
    ///
    /// # Errors
    /// [`Error::NotInvalidated`]: the mappings are gone, but devices may still reach the memory; the addresses and
    /// the tables are not reused until [`crate::Unit::recover`] and [`Self::flush`] succeeded. All others: nothing was changed.
    pub fn unmap(&self, iova: Iova, size: u64) -> Result<Ticket, Error> {
        let mappings = self.0.own_mappings()?;
        let last = mappings.check(iova, size, false)?;
        mappings.check_regions(iova, last)?;
        let mut address = None;
        if mappings.window.is_some_and(|window| window.0 <= last && iova <= window.1) {
            address = Some((iova, size));
            mappings.retire(address)?;
        }
        let mut gather = Gather::new();
        let result = self.0.on_pages(mappings, |table, split| table.unmap(iova, size, split, &mut gather));
        if gather.is_empty() && address.is_none() {
            result?;
            return Ok(mappings.waiting.with(|waiting| waiting.issued()));
        }
        let ticket = self.0.unmapped(mappings, gather, address, false);
        result?;
        self.0.thinned(mappings, iova, size);
        ticket
    }

    /// Changes what devices may do with whatever is mapped of `size` bytes from `iova` on. On return the new rights, and only
    /// those, hold.
    ///
    /// # Errors
    /// As [`Self::unmap`].
    pub fn protect(&self, iova: Iova, size: u64, access: Access) -> Result<(), Error> {
        let mappings = self.0.own_mappings()?;
        let last = mappings.check(iova, size, false)?;
        mappings.check_regions(iova, last)?;
        let mut gather = Gather::new();
        let result =
            self.0.on_pages(mappings, |table, split| table.protect(iova, size, access, split, &mut gather));
        if !gather.is_empty() {
            self.0.unmapped(mappings, gather, None, true)?;
        }
        result?;
        Ok(())
    }

    /// Calls `visitor` with the first address and log2 of the bytes of every page written since the last call, of those that have
    /// a byte in the range, and starts anew for them. Writes from now on are seen by the next call.
    ///
    /// # Errors
    /// As [`Self::unmap`]. After [`Error::NotInvalidated`] writes to the pages reported may go unseen until the unit is
    /// recovered.
    pub fn read_and_clear_dirty(
        &self,
        iova: Iova,
        size: u64,
        visitor: impl FnMut(Iova, u8),
    ) -> Result<(), Error> {
        let mappings = self.0.own_mappings()?;
        if !mappings.dirty_tracking {
            return Err(Error::Unsupported(crate::error::Feature::DirtyTracking));
        }
        mappings.check(iova, size, false)?;
        let mut gather = Gather::new();
        let result = self.0.on_table(mappings, |table| table.clear_dirty(iova, size, &mut gather, visitor));
        if !gather.is_empty() {
            self.0.unmapped(mappings, gather, None, true)?;
        }
        result?;
        Ok(())
    }

    /// Where an address leads, by the tables.
    ///
    /// # Errors
    /// [`Error::NoMappings`], or as the tables say.
    pub fn query(&self, iova: Iova) -> Result<Option<Translation>, Error> {
        let mappings = self.0.own_mappings()?;
        Ok(self.0.on_table(mappings, |table| table.query(iova))?.map(|mapping| Translation {
            address: mapping.address,
            page_shift: mapping.shift,
            access: mapping.attributes.rights.access(false),
            attributes: MemoryAttributes {
                force_snoop: mapping.attributes.force_snoop,
                ..MemoryAttributes::default()
            },
        }))
    }

    /// What a mapping with `access` grants: the same, and what the format cannot withhold.
    ///
    /// # Errors
    /// [`Error::NoMappings`].
    pub fn granted(&self, access: Access) -> Result<Access, Error> {
        Ok(self.0.own_mappings()?.table()?.granted(access))
    }

    /// Invalidates everything that was unmapped so far. On success all tickets so far are complete.
    ///
    /// # Errors
    /// [`Error::NotInvalidated`]; everything stays as it was.
    pub fn flush(&self) -> Result<(), Error> {
        match self.0.own_mappings() {
            Ok(mappings) => self.0.flush(mappings),
            Err(_) => Ok(()),
        }
    }

    /// Invalidates what was unmapped where the domain's [`FlushPolicy`] says that it is time. When to ask again, where something
    /// waits on.
    ///
    /// # Errors
    /// [`Error::NotInvalidated`]; everything stays as it was.
    pub fn poll(&self) -> Result<Option<Duration>, Error> {
        let Ok(mappings) = self.0.own_mappings() else { return Ok(None) };
        let now = self.0.unit.now();
        let due = mappings.waiting.with(|waiting| waiting.is_due(mappings.flush, now));
        if due {
            self.0.flush(mappings)?;
        }
        let delay = match mappings.flush {
            FlushPolicy::Strict => Duration::ZERO,
            FlushPolicy::Deferred { delay, .. } => delay,
        };
        Ok((self.waiting() > 0).then_some(delay))
    }

    /// Whether what was unmapped under this ticket can be reused.
    #[must_use]
    pub fn is_released(&self, ticket: Ticket) -> bool {
        self.0
            .own_mappings()
            .is_ok_and(|mappings| mappings.waiting.with(|waiting| waiting.is_complete(ticket)))
    }

    /// Unmaps that are not yet invalidated.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.own_mappings().map_or(0, |mappings| mappings.waiting.with(|waiting| waiting.waiting()))
    }

    /// Of a nested domain: makes the unit forget what it cached of the first stage, in a range or all of it, after whoever writes
    /// that stage has changed it; of a directory with `space` only what the directory tags so (Arm's ASID, RISC-V's PSCID).
    ///
    /// # Errors
    /// [`Error::NoMappings`] where the domain is not nested, or [`Error::NotInvalidated`].
    pub fn invalidate_first_stage(
        &self,
        space: Option<SpaceTag>,
        range: Option<(Iova, Iova)>,
    ) -> Result<(), Error> {
        let Kind::Nested { first, .. } = &self.0.kind else { return Err(Error::NoMappings) };
        let mut list = self.0.invalidations(range.as_ref().map(core::slice::from_ref), false);
        if let FirstStage::Directory(_) = first {
            for invalidation in &mut list {
                if let Invalidation::Translations(scope) = invalidation {
                    scope.space = space;
                }
            }
        }
        if list.is_empty() {
            return Ok(());
        }
        self.0.unit.architecture.invalidate(&list).map_err(Error::NotInvalidated)
    }
}

impl<A: Architecture> Drop for DomainInner<A> {
    /// No device is attached (an attachment holds a handle), so the unit has forgotten all that was cached under the
    /// domain's tags, and what still waits needs no invalidation.
    fn drop(&mut self) {
        if let Kind::Mapped(mappings) = &self.kind
            && self.flush(mappings).is_err()
        {
            return;
        }
        if let Kind::Mapped(mappings) = &mut self.kind
            && let Some(table) = mappings.table.take()
        {
            // Fails only where someone else wrote to the tables; then the rest of them is better not followed.
            let _corrupt = table.destroy();
        }
    }
}
