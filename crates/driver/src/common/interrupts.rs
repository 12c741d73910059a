//! Interrupts: which messages of a device reach whom.
//!
//! A device that is known sends no interrupt until it was granted vectors ([`Unit::grant_interrupts`]) and a vector was given a
//! route ([`Unit::route_interrupt`]), which says what the device is to write where. A grant is a run of entries of an interrupt
//! table: of the unit's one (VT-d), or of the device's own (AMD-Vi, RISC-V). Revoked entries go to another device only after the
//! unit has confirmed that it forgot them, and that no interrupt sent through them is left undelivered.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_spec::{InterruptMessage, InterruptRoute, Requester};

use super::architecture::{Architecture, ContextError};
use super::region::Device;
use super::unit::Unit;
use crate::error::{Error, Feature, UnitError};
use crate::platform::Lock;

/// The interrupt tables of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptFeatures {
    /// Entries of a table.
    pub entries: u32,
    /// Whether each device has a table of its own; else all share one.
    pub per_device: bool,
}

/// The vectors of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Grant {
    /// Its first entry.
    first: u32,
    /// Vectors.
    count: u32,
    state: GrantState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GrantState {
    Granted,
    /// Another thread is changing it.
    Changing,
    /// Every entry blocks, but the unit has not confirmed that it forgot what they said.
    Leaving,
}

/// Who has which entries.
#[derive(Default)]
pub(super) struct Grants {
    by_device: BTreeMap<Requester, Grant>,
    /// Runs of a shared table that are taken: first entry, and entries.
    taken: BTreeMap<u32, u32>,
}

impl Grants {
    /// A free run of `size` entries, a power of two, at a multiple of its size: so one invalidation can name it.
    fn place(&self, entries: u32, size: u32) -> Option<u32> {
        let mut first = 0u32;
        for (start, length) in &self.taken {
            if first.checked_add(size)? <= *start {
                break;
            }
            first = first.max(start + length).checked_next_multiple_of(size)?;
        }
        (first.checked_add(size)? <= entries).then_some(first)
    }

    /// Takes a device's grant for a change of it.
    fn take(&mut self, requester: Requester) -> Result<Grant, Error> {
        let grant = self.by_device.get_mut(&requester).ok_or(Error::NoInterrupts(requester))?;
        match grant.state {
            GrantState::Granted => {
                grant.state = GrantState::Changing;
                Ok(*grant)
            }
            GrantState::Changing => Err(Error::InterruptsGranted(requester)),
            GrantState::Leaving => Err(Error::NotInvalidated(UnitError::Stopped)),
        }
    }

    fn put(&mut self, requester: Requester, state: GrantState) {
        if let Some(grant) = self.by_device.get_mut(&requester) {
            grant.state = state;
        }
    }

    fn remove(&mut self, requester: Requester) {
        if let Some(grant) = self.by_device.remove(&requester) {
            self.taken.remove(&grant.first);
        }
    }

    /// Whether a device has any vectors, or had some that the unit has not forgotten.
    pub(super) fn has(&self, requester: Requester) -> bool {
        self.by_device.contains_key(&requester)
    }

    /// The devices that have vectors.
    pub(super) fn devices(&self) -> Vec<Requester> {
        self.by_device.keys().copied().collect()
    }

    /// The devices whose vectors wait for the unit to be recovered.
    pub(super) fn leaving(&self) -> Vec<Requester> {
        let leaving = self.by_device.iter().filter(|(_, grant)| grant.state == GrantState::Leaving);
        leaving.map(|(requester, _)| *requester).collect()
    }

    /// The unit has forgotten what these devices' entries said.
    pub(super) fn left(&mut self, requesters: &[Requester]) {
        for requester in requesters {
            self.remove(*requester);
        }
    }
}

impl<A: Architecture> Unit<A> {
    fn device(&self, requester: Requester) -> Result<Device, Error> {
        let known = self.0.state.with(|state| state.devices.get(&requester).cloned());
        known.ok_or(Error::UnknownDevice(requester))
    }

    /// Gives a known device `count` interrupt vectors, all blocked. `requester` is the device's first; messages of its other
    /// requesters count as its own.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::UnknownDevice`], [`Error::InterruptsGranted`], [`Error::NoInterruptEntries`].
    pub fn grant_interrupts(&self, requester: impl Into<Requester>, count: u32) -> Result<(), Error> {
        let requester = requester.into();
        let features = self.features().interrupts.ok_or(Error::Unsupported(Feature::Interrupts))?;
        let no_room = Error::NoInterruptEntries { asked: count, entries: features.entries };
        let size = count.checked_next_power_of_two().filter(|_| count > 0).ok_or(no_room)?;
        self.0.state.with(|state| {
            if !state.devices.contains_key(&requester) {
                return Err(Error::UnknownDevice(requester));
            }
            if state.interrupts.has(requester) {
                return Err(Error::InterruptsGranted(requester));
            }
            let first = match features.per_device {
                true => (size <= features.entries).then_some(0),
                false => state.interrupts.place(features.entries, size),
            };
            let first = first.ok_or(no_room)?;
            if !features.per_device {
                state.interrupts.taken.insert(first, size);
            }
            let grant = Grant { first, count, state: GrantState::Granted };
            state.interrupts.by_device.insert(requester, grant);
            Ok(())
        })
    }

    /// The number of vectors that a device has.
    #[must_use]
    pub fn interrupts_of(&self, requester: impl Into<Requester>) -> Option<u32> {
        let requester = requester.into();
        self.0.state.with(|state| state.interrupts.by_device.get(&requester).map(|grant| grant.count))
    }

    /// Sends a vector of a device along `route` from now on; with [`InterruptRoute::Blocked`] it reaches nobody. Returns what the
    /// device is to write where, which stays the same as long as the device has the vector on architectures with a shared table.
    /// An interrupt meanwhile goes the one way or the other; on success none is under way along the former route any more.
    ///
    /// # Errors
    /// [`Error::NoInterrupts`], [`Error::NoSuchVector`], [`Error::InterruptsGranted`] where another thread is changing them,
    /// [`Error::Unsupported`] for a route that the unit can't express, [`Error::OutOfMemory`]; nothing has changed then. Or
    /// [`Error::NotInvalidated`]: the entry says so, but the unit may still use what it said before.
    pub fn route_interrupt(
        &self,
        requester: impl Into<Requester>,
        vector: u32,
        route: &InterruptRoute,
    ) -> Result<InterruptMessage, Error> {
        let requester = requester.into();
        let device = self.device(requester)?;
        let grant = self.0.state.with(|state| state.interrupts.take(requester))?;
        let result = if vector < grant.count {
            let index = grant.first + vector;
            self.0.architecture.set_interrupt(&device, index, route).map_err(|error| match error {
                ContextError::Refused(error) => error,
                ContextError::Uncertain(error) => Error::NotInvalidated(error),
            })
        } else {
            Err(Error::NoSuchVector { vector, count: grant.count })
        };
        self.0.state.with(|state| state.interrupts.put(requester, GrantState::Granted));
        result
    }

    /// Takes a device's vectors away. On success none of its messages reaches anybody any more, nor is one under way.
    ///
    /// # Errors
    /// [`Error::NoInterrupts`], [`Error::InterruptsGranted`] where another thread is changing them; or
    /// [`Error::NotInvalidated`]: the entries block, but the unit may still use what it cached, and they stay the device's, in name,
    /// until [`Self::recover`] succeeds.
    pub fn revoke_interrupts(&self, requester: impl Into<Requester>) -> Result<(), Error> {
        let requester = requester.into();
        let device = self.device(requester)?;
        let grant = self.0.state.with(|state| state.interrupts.take(requester))?;
        let blocked = self.0.architecture.block_interrupts(&device, grant.first, grant.count);
        self.0.state.with(|state| match blocked {
            Ok(()) => state.interrupts.remove(requester),
            Err(_) => state.interrupts.put(requester, GrantState::Leaving),
        });
        blocked.map_err(Error::NotInvalidated)
    }
}

#[cfg(test)]
mod tests {
    use super::{Grant, GrantState, Grants};
    use portcullis_spec::Requester;

    fn taking(grants: &mut Grants, number: u32, size: u32) -> Option<u32> {
        let first = grants.place(16, size)?;
        grants.taken.insert(first, size);
        let grant = Grant { first, count: size, state: GrantState::Granted };
        grants.by_device.insert(Requester::Device(number), grant);
        Some(first)
    }

    #[test]
    fn runs_are_aligned_apart_and_used_again() {
        let mut grants = Grants::default();
        assert_eq!(taking(&mut grants, 1, 1), Some(0));
        assert_eq!(taking(&mut grants, 2, 4), Some(4));
        assert_eq!(taking(&mut grants, 3, 2), Some(2));
        assert_eq!(taking(&mut grants, 4, 8), Some(8));
        assert_eq!(taking(&mut grants, 5, 2), None);
        assert_eq!(taking(&mut grants, 6, 1), Some(1));
        assert_eq!(taking(&mut grants, 7, 1), None);
        grants.remove(Requester::Device(2));
        assert_eq!(taking(&mut grants, 8, 2), Some(4));
        assert_eq!(taking(&mut grants, 9, 4), None);
        assert_eq!(grants.place(16, 1 << 31), None);
        assert_eq!(grants.place(16, 32), None);
    }
}
