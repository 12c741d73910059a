//! A unit: its devices, what they are attached to, and what they did wrong.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use portcullis_spec::{ContextScope, DomainTag, FirstStage, Invalidation, Pasid, PhysAddr, Requester};

use super::architecture::{Architecture, FaultCounts, FaultRecord, FaultSignal, Features};
use super::attachment::Attachment;
use super::domain::{Domain, DomainInner, DomainOptions, Kind};
use super::interrupts::Grants;
use super::mappings::Mappings;
use super::region::Device;
use super::tags::DomainTags;
use crate::error::{Error, Feature};
use crate::platform::{Clock, Lock, Memory, Platform};
use crate::turn::Turn;

pub(super) struct State<A: Architecture> {
    pub(super) devices: BTreeMap<Requester, Device>,
    /// Every requester, and the first requester of the device that it belongs to.
    owners: BTreeMap<Requester, Requester>,
    pub(super) attachments: BTreeMap<(Requester, Option<Pasid>), Attachment<A>>,
    tags: DomainTags,
    pub(super) interrupts: Grants,
    faults: FaultCounts,
}

/// A unit, and everything behind it. Cloning gives another handle to the same unit.
pub struct Unit<A: Architecture>(pub(super) Arc<UnitInner<A>>);

impl<A: Architecture> Clone for Unit<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct UnitInner<A: Architecture> {
    pub(crate) architecture: A,
    /// One recovery at a time.
    recovery: Turn<A::Platform>,
    pub(super) state: <A::Platform as Platform>::Lock<State<A>>,
}

impl<A: Architecture> UnitInner<A> {
    pub(crate) fn now(&self) -> Duration {
        self.architecture.platform().now()
    }

    pub(crate) fn allocate_tag(&self) -> Result<DomainTag, Error> {
        let (first, last) = self.architecture.features().domain_tags;
        self.state.with(|state| state.tags.allocate()).ok_or(Error::NoDomainTags { count: last - first + 1 })
    }

    pub(crate) fn release_tag(&self, tag: DomainTag) {
        self.state.with(|state| state.tags.release(tag));
    }
}

/// Table memory through the unit that the tables are for.
impl<A: Architecture> Memory for UnitInner<A> {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        self.architecture.platform().allocate(size, align)
    }
    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        self.architecture.platform().free(address, size, align);
    }
    fn load32(&self, address: PhysAddr) -> u32 {
        self.architecture.platform().load32(address)
    }
    fn store32(&self, address: PhysAddr, value: u32) {
        self.architecture.platform().store32(address, value);
    }
    #[inline]
    fn load64(&self, address: PhysAddr) -> u64 {
        self.architecture.platform().load64(address)
    }
    #[inline]
    fn store64(&self, address: PhysAddr, value: u64) {
        self.architecture.platform().store64(address, value);
    }
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.architecture.platform().compare_exchange64(address, current, new)
    }
    #[inline]
    fn store64_run(&self, address: PhysAddr, count: usize, value: impl FnMut(usize) -> u64) {
        self.architecture.platform().store64_run(address, count, value);
    }
    #[inline]
    fn find_used64(&self, address: PhysAddr, count: usize) -> Option<usize> {
        self.architecture.platform().find_used64(address, count)
    }
    #[inline]
    fn clear64_run(&self, address: PhysAddr, count: usize, goes: impl FnMut(u64) -> bool) -> usize {
        self.architecture.platform().clear64_run(address, count, goes)
    }
    fn flush(&self, address: PhysAddr, length: u64) {
        self.architecture.platform().flush(address, length);
    }
}

impl<A: Architecture> Unit<A> {
    /// Takes over a unit that an architecture has started.
    pub fn new(architecture: A) -> Self {
        let (first, last) = architecture.features().domain_tags;
        let state = State {
            devices: BTreeMap::new(),
            owners: BTreeMap::new(),
            attachments: BTreeMap::new(),
            tags: DomainTags::new(first, last),
            interrupts: Grants::default(),
            faults: FaultCounts::default(),
        };
        Self(Arc::new(UnitInner { architecture, recovery: Turn::new(), state: Lock::new(state) }))
    }

    /// What it can do.
    #[must_use]
    pub fn features(&self) -> &Features {
        self.0.architecture.features()
    }

    /// The architecture's own side of it.
    #[must_use]
    pub fn architecture(&self) -> &A {
        &self.0.architecture
    }

    /// From here on, devices that are attached to nothing are blocked, and so is everything that a domain does not map.
    ///
    /// # Errors
    /// [`Error::Unit`].
    pub fn enable(&self) -> Result<(), Error> {
        self.0.architecture.enable().map_err(Error::Unit)
    }

    /// Stops translating: from here on every device reaches everything, unless the platform blocks it by other means.
    ///
    /// # Errors
    /// [`Error::Unit`].
    pub fn disable(&self) -> Result<(), Error> {
        self.0.architecture.disable().map_err(Error::Unit)
    }

    /// Detaches and forgets every device, takes its interrupts away, stops translating and gives the unit's memory back: from here on every device reaches
    /// everything, unless the platform blocks it by other means. Other handles to the unit are of no more use.
    ///
    /// # Errors
    /// [`Error::NotInvalidated`] or [`Error::Unit`]: the unit does not answer, and what it may still read stays allocated.
    pub fn shut_down(self) -> Result<(), Error> {
        let attached: Vec<_> = self.0.state.with(|state| state.attachments.keys().copied().collect());
        for (requester, pasid) in attached {
            self.detach(requester, pasid)?;
        }
        let granted = self.0.state.with(|state| state.interrupts.devices());
        for requester in granted {
            self.revoke_interrupts(requester)?;
        }
        let devices: Vec<_> = self.0.state.with(|state| state.devices.keys().copied().collect());
        for requester in devices {
            self.remove_device(requester)?;
        }
        self.0.architecture.shut_down().map_err(Error::Unit)
    }

    /// A domain with mappings of its own, none yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::OutOfMemory`].
    pub fn create_domain(&self, options: DomainOptions) -> Result<Domain<A>, Error> {
        let formats = &self.features().formats;
        let features = match options.shape {
            None => formats.first().ok_or(Error::Unsupported(Feature::AnyFormat))?,
            Some(shape) => formats
                .iter()
                .find(|format| format.shape == shape)
                .ok_or(Error::Unsupported(Feature::Format(shape)))?,
        };
        if options.dirty_tracking && !features.dirty {
            return Err(Error::Unsupported(Feature::DirtyTracking));
        }
        Ok(self.domain(Kind::Mapped(Mappings::new(&self.0, *features, options)?)))
    }

    /// The domain in which addresses pass unchanged. Devices in it reach all memory.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn identity_domain(&self) -> Result<Domain<A>, Error> {
        if !self.features().identity {
            return Err(Error::Unsupported(Feature::Identity));
        }
        Ok(self.domain(Kind::Identity))
    }

    /// A domain in which everything is refused, as it is for a device that is attached to nothing; with `silent` without
    /// a fault record, for a device that floods them.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn blocking_domain(&self, silent: bool) -> Result<Domain<A>, Error> {
        if silent && !self.features().silent_blocking {
            return Err(Error::Unsupported(Feature::SilentBlocking));
        }
        Ok(self.domain(Kind::Blocking { silent }))
    }

    /// A domain of two stages: the first lies where `first` says and someone else writes it (a guest, who calls for
    /// [`Domain::invalidate_first_stage`]); the second is `parent`, which maps what the guest takes for physical addresses.
    ///
    /// The first is one stage ([`Features::nested`]), or a directory that has one for each PASID ([`Features::directories`]): then
    /// it is the whole device that is attached, and none of its PASIDs by itself, and [`Self::invalidate_directory`] is called for too.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::NotAParent`], [`Error::ForeignDomain`].
    pub fn nested_domain(
        &self,
        parent: &Domain<A>,
        first: impl Into<FirstStage>,
    ) -> Result<Domain<A>, Error> {
        let first = first.into();
        let Features { nested, directories, .. } = self.features();
        match first {
            FirstStage::Tables(stage) if nested.contains(&stage.format) => {}
            FirstStage::Tables(_) => return Err(Error::Unsupported(Feature::Nested)),
            FirstStage::Directory(directory)
                if directories.iter().any(|most| directory.format.fits(*most)) => {}
            FirstStage::Directory(directory) => {
                return Err(Error::Unsupported(Feature::Directory(directory.format)));
            }
        }
        self.check_own(parent)?;
        match parent.0.mappings() {
            Ok((owner, mappings)) if core::ptr::eq(owner, &raw const *parent.0) && mappings.is_parent() => {
                Ok(self.domain(Kind::Nested { parent: parent.clone(), first }))
            }
            _ => Err(Error::NotAParent),
        }
    }

    /// Of a device in a nested domain whose first stages a directory says: makes the unit forget what it cached of the entry of one
    /// PASID, or of all, after whoever writes the directory has changed it. What was translated through them is another matter:
    /// [`Domain::invalidate_first_stage`].
    ///
    /// # Errors
    /// [`Error::NotAttached`] where it is in no such domain, [`Error::UnknownDevice`], or [`Error::NotInvalidated`].
    pub fn invalidate_directory(
        &self,
        requester: impl Into<Requester>,
        pasid: Option<Pasid>,
    ) -> Result<(), Error> {
        let requester = requester.into();
        let list: Vec<_> = self.0.state.with(|state| {
            let device = state.devices.get(&requester).ok_or(Error::UnknownDevice(requester))?;
            match state.attachments.get(&(requester, None)) {
                Some(Attachment::Attached { domain, .. }) if domain.0.is_directory() => {}
                _ => return Err(Error::NotAttached(requester)),
            }
            let scope = |requester| match pasid {
                Some(pasid) => ContextScope::Pasid(requester, pasid),
                None => ContextScope::Requester { requester, mask: 0 },
            };
            Ok(device.requesters.iter().map(|requester| Invalidation::Contexts(scope(*requester))).collect())
        })?;
        self.0.architecture.invalidate(&list).map_err(Error::NotInvalidated)
    }

    fn domain(&self, kind: Kind<A>) -> Domain<A> {
        Domain(Arc::new(DomainInner::new(self.0.clone(), kind)))
    }

    pub(super) fn check_own(&self, domain: &Domain<A>) -> Result<(), Error> {
        if Arc::ptr_eq(&self.0, &domain.0.unit) { Ok(()) } else { Err(Error::ForeignDomain) }
    }

    /// Makes a device known. It is blocked, as everything unknown is.
    ///
    /// # Errors
    /// [`Error::DeviceExists`], [`Error::Unsupported`], [`Error::OutOfMemory`], [`Error::NotInvalidated`]. The device is not
    /// known then.
    pub fn add_device(&self, device: Device) -> Result<(), Error> {
        let architecture = &self.0.architecture;
        let Some(first) = device.requesters.first().copied() else { return Ok(()) };
        if device.pasid_bits > architecture.features().pasid_bits {
            return Err(Error::Unsupported(Feature::Pasid));
        }
        self.0.state.with(|state| {
            if let Some(taken) = device.requesters.iter().find(|it| state.owners.contains_key(it)) {
                return Err(Error::DeviceExists(*taken));
            }
            state.owners.extend(device.requesters.iter().map(|requester| (*requester, first)));
            Ok(())
        })?;
        let mut result = Ok(());
        let mut added = 0;
        for requester in &device.requesters {
            result = architecture.add_requester(*requester, device.pasid_bits);
            if result.is_err() {
                break;
            }
            added += 1;
        }
        if let Err(error) = result {
            for requester in &device.requesters[..added] {
                // What the unit does not confirm it keeps until it is recovered.
                let _unconfirmed = architecture.remove_requester(*requester);
            }
            self.0.state.with(|state| {
                for requester in &device.requesters {
                    state.owners.remove(requester);
                }
            });
            return Err(error);
        }
        self.0.state.with(|state| state.devices.insert(first, device));
        Ok(())
    }

    /// Forgets a device that is attached to nothing and has no interrupt vectors. It stays blocked.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`], [`Error::Attached`], [`Error::InterruptsGranted`], [`Error::NotInvalidated`].
    pub fn remove_device(&self, requester: impl Into<Requester>) -> Result<(), Error> {
        let requester = requester.into();
        let device = self.0.state.with(|state| {
            if state.attachments.keys().any(|(attached, _)| *attached == requester) {
                return Err(Error::Attached(requester));
            }
            if state.interrupts.has(requester) {
                return Err(Error::InterruptsGranted(requester));
            }
            state.devices.remove(&requester).ok_or(Error::UnknownDevice(requester))
        })?;
        let mut result = Ok(());
        for requester in &device.requesters {
            let removed = self.0.architecture.remove_requester(*requester);
            result = result.and(removed.map_err(Error::NotInvalidated));
        }
        self.0.state.with(|state| {
            for requester in &device.requesters {
                state.owners.remove(requester);
            }
        });
        result
    }

    /// The domain that a device, or one PASID of it, is in.
    #[must_use]
    pub fn domain_of(&self, requester: impl Into<Requester>, pasid: Option<Pasid>) -> Option<Domain<A>> {
        self.0.state.with(|state| match state.attachments.get(&(requester.into(), pasid)) {
            Some(Attachment::Attached { domain, .. }) => Some(domain.clone()),
            _ => None,
        })
    }

    /// Starts invalidation again after an error, and finishes what waited for it: devices that could not be detached are, and
    /// their domains may be reused. Domains with open tickets complete them in [`Domain::flush`].
    ///
    /// # Errors
    /// [`Error::Unit`]; everything stays as it was, and may be tried again.
    pub fn recover(&self) -> Result<(), Error> {
        // Only what was leaving before the unit forgot everything is done after.
        let leaving: Vec<_> = self.0.state.with(|state| {
            let leaving = state.attachments.iter().filter(|(_, it)| matches!(it, Attachment::Leaving(_)));
            leaving.map(|(key, _)| *key).collect()
        });
        let silenced = self.0.state.with(|state| state.interrupts.leaving());
        let recovered =
            self.0.recovery.take(self.0.architecture.platform(), || self.0.architecture.recover());
        recovered.map_err(Error::Unit)?;
        self.0.state.with(|state| state.interrupts.left(&silenced));
        let mut result = Ok(());
        for key in leaving {
            let taken = self.0.state.with(|state| match state.attachments.get_mut(&key) {
                Some(attachment @ Attachment::Leaving(_)) => {
                    Some(core::mem::replace(attachment, Attachment::Changing))
                }
                _ => None,
            });
            if let Some(Attachment::Leaving(domains)) = taken {
                let regions = self.0.state.with(|state| {
                    state.devices.get(&key.0).map(|device| device.regions.clone()).unwrap_or_default()
                });
                for (domain, tags) in domains {
                    result = result.and(domain.0.remove_regions(&regions));
                    domain.0.leave(tags);
                }
                self.set_attachment(key, None);
            }
        }
        result
    }

    /// Hands every waiting fault record to `sink`, oldest first, and makes room for new ones. Bounded, however fast new
    /// ones come. What was found is returned, and added to [`Self::fault_totals`].
    pub fn read_faults(&self, mut sink: impl FnMut(FaultRecord)) -> FaultCounts {
        let counts = self.0.architecture.read_faults(&mut sink);
        self.0.state.with(|state| {
            state.faults.read += counts.read;
            state.faults.unknown += counts.unknown;
            state.faults.overflows += counts.overflows;
        });
        counts
    }

    /// Makes the unit send a message when fault records begin to wait, or, with `None`, none: it is to be read from time
    /// to time then. One message may stand for many records; [`Self::read_faults`] arms the next, unless it says that there
    /// are [`more`](FaultCounts::more).
    pub fn signal_faults(&self, message: Option<FaultSignal>) {
        self.0.architecture.signal_faults(message);
    }

    /// All fault records and overflows so far.
    #[must_use]
    pub fn fault_totals(&self) -> FaultCounts {
        self.0.state.with(|state| state.faults)
    }
}
