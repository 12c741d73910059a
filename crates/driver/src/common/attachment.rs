//! What devices are attached to: attaching, detaching, and moving from one domain to another.

use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_spec::{Context, FaultReason, Pasid, Requester, Tags};

use super::architecture::{Architecture, ContextError};
use super::domain::Domain;
use super::region::Device;
use super::unit::Unit;
use crate::error::{Error, UnitError};
use crate::platform::Lock;

/// What a device's entry says as long as it is attached to nothing: refuse, and report.
const UNATTACHED: Context = Context::Blocked(Some(FaultReason::RequestBlocked));

/// A device, or one PASID of it, and the domain that it is in.
pub(super) enum Attachment<A: Architecture> {
    /// Another thread is attaching, detaching or moving it.
    Changing,
    /// In the domain.
    Attached { domain: Domain<A>, tags: Tags },
    /// Its entry blocks, but the unit has not confirmed that it forgot these domains: nothing of them is released before it does.
    Leaving(Vec<(Domain<A>, Tags)>),
}

/// Neither context need be one that lets something pass.
fn replace_one<A: Architecture>(
    architecture: &A,
    requester: Requester,
    pasid: Option<Pasid>,
    from: &Context,
    to: &Context,
) -> Result<(), ContextError> {
    match (from, to) {
        (Context::Blocked(_), _) | (_, Context::Blocked(_)) => {
            architecture.set_context(requester, pasid, from, to)
        }
        _ => architecture.replace_context(requester, pasid, from, to),
    }
}

impl<A: Architecture> Unit<A> {
    /// Lets a device, or one PASID of it, reach what a domain maps: all its requesters, or on failure none. `requester` is
    /// the device's first.
    ///
    /// # Errors
    /// The device is blocked then, as before: [`Error::UnknownDevice`], [`Error::Attached`], [`Error::ForeignDomain`],
    /// [`Error::NoDomainTags`], [`Error::OutOfMemory`], [`Error::Unsupported`], [`Error::PasidOutOfReach`], [`Error::Reserved`] or
    /// [`Error::Table`] where its direct regions don't fit the domain; or [`Error::NotInvalidated`]: blocked in the tables, but
    /// the unit must be recovered before it counts.
    pub fn attach(
        &self,
        requester: impl Into<Requester>,
        pasid: Option<Pasid>,
        domain: &Domain<A>,
    ) -> Result<(), Error> {
        let requester = requester.into();
        self.check_own(domain)?;
        let key = (requester, pasid);
        let device = self.0.state.with(|state| {
            let device = state.devices.get(&requester).ok_or(Error::UnknownDevice(requester))?;
            if let Some(pasid) = pasid.filter(|pasid| pasid.value() >> device.pasid_bits != 0) {
                return Err(Error::PasidOutOfReach(pasid));
            }
            match state.attachments.entry(key) {
                Entry::Occupied(_) => Err(Error::Attached(requester)),
                Entry::Vacant(entry) => {
                    entry.insert(Attachment::Changing);
                    Ok(device.clone())
                }
            }
        })?;
        let outcome = self.change_in(&device, pasid, domain);
        let (state, result) = match outcome {
            Ok(tags) => (Some(Attachment::Attached { domain: domain.clone(), tags }), Ok(())),
            Err((Some(tags), error)) => {
                (Some(Attachment::Leaving(alloc::vec![(domain.clone(), tags)])), Err(error))
            }
            Err((None, error)) => (None, Err(error)),
        };
        self.set_attachment(key, state);
        result
    }

    /// Counts the device into the domain and writes its entries; or takes back what was done. With the error come the tags where
    /// the unit may still use them.
    fn change_in(
        &self,
        device: &Device,
        pasid: Option<Pasid>,
        domain: &Domain<A>,
    ) -> Result<Tags, (Option<Tags>, Error)> {
        let inner = &domain.0;
        let tags = inner.enter(pasid).map_err(|error| (None, error))?;
        if let Err(error) = inner.add_regions(&device.regions) {
            inner.leave(tags);
            return Err((None, error));
        }
        let context = inner.context(tags);
        let mut result = Ok(());
        let mut written = 0;
        for requester in &device.requesters {
            match self.0.architecture.set_context(*requester, pasid, &UNATTACHED, &context) {
                Ok(()) => written += 1,
                Err(ContextError::Refused(error)) => {
                    result = Err(error);
                    break;
                }
                Err(ContextError::Uncertain(error)) => {
                    written += 1;
                    result = Err(Error::NotInvalidated(error));
                    break;
                }
            }
        }
        let Err(error) = result else { return Ok(tags) };
        let back = self.block(&device.requesters[..written], pasid, &context);
        if let Err(back) = back {
            return Err((Some(tags), back));
        }
        let regions = inner.remove_regions(&device.regions);
        inner.leave(tags);
        Err((None, regions.err().unwrap_or(error)))
    }

    /// Writes every entry to block, whatever the unit says to any of them.
    fn block(&self, requesters: &[Requester], pasid: Option<Pasid>, former: &Context) -> Result<(), Error> {
        let mut result = Ok(());
        for requester in requesters {
            let blocked = self.0.architecture.set_context(*requester, pasid, former, &UNATTACHED);
            result = result.and(blocked.map_err(|error| match error {
                ContextError::Refused(error) => error,
                ContextError::Uncertain(error) => Error::NotInvalidated(error),
            }));
        }
        result
    }

    pub(super) fn set_attachment(&self, key: (Requester, Option<Pasid>), attachment: Option<Attachment<A>>) {
        // Dropped outside the lock: with the last handle to a domain go its tables.
        let _former = self.0.state.with(|state| match attachment {
            Some(attachment) => state.attachments.insert(key, attachment),
            None => state.attachments.remove(&key),
        });
    }

    /// What is attached under a key, for a change of it.
    fn take_attachment(&self, key: (Requester, Option<Pasid>)) -> Result<(Device, Domain<A>, Tags), Error> {
        let (requester, _) = key;
        self.0.state.with(|state| {
            let device = state.devices.get(&requester).ok_or(Error::UnknownDevice(requester))?.clone();
            match state.attachments.remove(&key) {
                Some(Attachment::Attached { domain, tags }) => {
                    state.attachments.insert(key, Attachment::Changing);
                    Ok((device, domain, tags))
                }
                Some(other) => {
                    let leaving = matches!(other, Attachment::Leaving(_));
                    state.attachments.insert(key, other);
                    Err(match leaving {
                        true => Error::NotInvalidated(UnitError::Stopped),
                        false => Error::Attached(requester),
                    })
                }
                None => Err(Error::NotAttached(requester)),
            }
        })
    }

    /// Blocks a device, or one PASID of it. On success it reaches nothing any more, nor has any access in flight.
    ///
    /// # Errors
    /// [`Error::NotAttached`], [`Error::Attached`] where another thread is changing it; or [`Error::NotInvalidated`]: its
    /// entries block, but the unit may still use what it cached. It stays attached to the domain, in name, until
    /// [`Self::recover`] succeeds, so that nothing of the domain is reused.
    pub fn detach(&self, requester: impl Into<Requester>, pasid: Option<Pasid>) -> Result<(), Error> {
        let requester = requester.into();
        let key = (requester, pasid);
        let (device, domain, tags) = self.take_attachment(key)?;
        let context = domain.0.context(tags);
        if let Err(error) = self.block(&device.requesters, pasid, &context) {
            self.set_attachment(key, Some(Attachment::Leaving(alloc::vec![(domain, tags)])));
            return Err(error);
        }
        let regions = domain.0.remove_regions(&device.regions);
        domain.0.leave(tags);
        self.set_attachment(key, None);
        regions
    }

    /// Moves a device, or one PASID of it, from the domain that it is in to another. Where the architecture can ([`Architecture::replace_context`])
    /// every access meanwhile finds the one or the other; elsewhere some may be refused. On success the device reaches nothing any
    /// more through the former domain, nor has any access in flight.
    ///
    /// # Errors
    /// The device stays where it was where nothing had changed yet: as [`Self::attach`] and [`Self::detach`]. Where one of its requesters had
    /// moved and another could not, it is blocked and attached to nothing, with the same errors; or, with [`Error::NotInvalidated`], in name
    /// to both domains until [`Self::recover`] succeeds. [`Self::domain_of`] says which.
    pub fn replace(
        &self,
        requester: impl Into<Requester>,
        pasid: Option<Pasid>,
        domain: &Domain<A>,
    ) -> Result<(), Error> {
        let requester = requester.into();
        self.check_own(domain)?;
        let key = (requester, pasid);
        let (device, former, former_tags) = self.take_attachment(key)?;
        let stays = |error| {
            let attachment = Attachment::Attached { domain: former.clone(), tags: former_tags };
            self.set_attachment(key, Some(attachment));
            Err(error)
        };
        if Arc::ptr_eq(&former.0, &domain.0) {
            let attachment = Attachment::Attached { domain: former.clone(), tags: former_tags };
            self.set_attachment(key, Some(attachment));
            return Ok(());
        }
        let tags = match domain.0.enter(pasid) {
            Ok(tags) => tags,
            Err(error) => return stays(error),
        };
        if let Err(error) = domain.0.add_regions(&device.regions) {
            domain.0.leave(tags);
            return stays(error);
        }
        let (from, to) = (former.0.context(former_tags), domain.0.context(tags));
        let architecture = &self.0.architecture;
        let mut moved = 0;
        let failure = device.requesters.iter().find_map(|requester| {
            let result = replace_one(architecture, *requester, pasid, &from, &to);
            moved += usize::from(result.is_ok());
            result.err()
        });
        let left = |domain: &Domain<A>, tags| {
            let regions = domain.0.remove_regions(&device.regions);
            domain.0.leave(tags);
            regions
        };
        let Some(failure) = failure else {
            self.set_attachment(key, Some(Attachment::Attached { domain: domain.clone(), tags }));
            return left(&former, former_tags);
        };
        let error = match failure {
            ContextError::Refused(error) if moved == 0 => {
                let regions = left(domain, tags);
                return stays(regions.err().unwrap_or(error));
            }
            ContextError::Refused(error) => error,
            ContextError::Uncertain(error) => Error::NotInvalidated(error),
        };
        // Some may use the one and some the other: both must be forgotten.
        let blocked = self.block(&device.requesters, pasid, &from);
        if let Err(back) = blocked.and(self.block(&device.requesters, pasid, &to)) {
            let domains = alloc::vec![(former, former_tags), (domain.clone(), tags)];
            self.set_attachment(key, Some(Attachment::Leaving(domains)));
            return Err(back);
        }
        let regions = left(&former, former_tags).and(left(domain, tags));
        self.set_attachment(key, None);
        Err(regions.err().unwrap_or(error))
    }
}
