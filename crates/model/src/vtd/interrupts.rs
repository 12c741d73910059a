//! Interrupt remapping (VT-d 5.1): from a device's request through the interrupt remapping table to the message that a processor
//! gets; and the interrupt entry cache (6.2.4).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use portcullis_spec::vtd::VtdFaultReason as Reason;
use portcullis_spec::vtd::address_reserved;
use portcullis_spec::vtd::interrupt::{
    IRTE_SIZE, Irte, IrteHigh, RemappableAddress, RemappableData, SourceValidation, message,
};
use portcullis_spec::vtd::registers::{Gsts, Irta};
use portcullis_spec::{InterruptRoute, InterruptScope, PhysAddr};

use super::lookup::Capabilities;
use crate::memory::{GuestMemory, load_words};

/// An entry as it stands in memory.
type Words = [u64; 2];

/// What decides about interrupt requests.
#[derive(Default)]
pub(super) struct Interrupts {
    /// GSTS.IRES.
    enabled: AtomicBool,
    /// GSTS.CFIS.
    compatibility: AtomicBool,
    /// IRTA_REG as it stood when it was set last.
    irta: AtomicU64,
    /// The interrupt entry cache.
    entries: RwLock<HashMap<u16, Words>>,
    /// Counts invalidations. A fill reads it before it reads the entry, and is dropped unless it still stands.
    generation: AtomicU64,
}

/// A refused request: why, the index in its record, and whether the entry's FPD keeps it from being recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) reason: Reason,
    pub(super) index: u16,
    pub(super) fpd: bool,
}

impl From<Reason> for Stop {
    /// A request that came to no entry.
    fn from(reason: Reason) -> Self {
        Self { reason, index: 0, fpd: false }
    }
}

impl Interrupts {
    /// Puts in force what GSTS and IRTA_REG say.
    pub(super) fn set(&self, status: Gsts, irta: u64) {
        self.irta.store(irta, Ordering::SeqCst);
        self.compatibility.store(status.cfis(), Ordering::SeqCst);
        self.enabled.store(status.ires(), Ordering::SeqCst);
    }

    /// GSTS.IRES.
    pub(super) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Forgets entries.
    pub(super) fn forget(&self, scope: &InterruptScope) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match *scope {
            InterruptScope::Range { first, last } => {
                entries.retain(|index, _| !(first..=last).contains(&u32::from(*index)));
            }
            // Entries are not filed by requester.
            InterruptScope::All | InterruptScope::Requester(_) => entries.clear(),
        }
    }

    /// What a 32-bit write of `data` to `address`, in the interrupt address range, comes to: the address and data of the message that
    /// goes on (VT-d 5.1.3 to 5.1.5).
    pub(super) fn remap(
        &self,
        memory: &dyn GuestMemory,
        unit: &Capabilities,
        source: u16,
        address: u64,
        data: u32,
    ) -> Result<(u64, u32), Stop> {
        if !self.enabled() {
            return Ok((address, data));
        }
        let irta = Irta::from_bits(self.irta.load(Ordering::SeqCst));
        let request = RemappableAddress::from_bits(address as u32);
        if !request.format() {
            // 5.1.4: compatibility format requests are blocked in x2APIC mode whatever CFIS says.
            let passes = !irta.eime() && self.compatibility.load(Ordering::SeqCst);
            return if passes {
                Ok((address, data))
            } else {
                Err(Reason::InterruptCompatibilityBlocked.into())
            };
        }
        let index = index(request, RemappableData::from_bits(data))?;
        let beyond = Stop { reason: Reason::InterruptIndex, index: index as u16, fpd: false };
        let index = u16::try_from(index).map_err(|_| beyond)?;
        if u32::from(index) >= irta.entries() || irta.table() & address_reserved(unit.haw) != 0 {
            return Err(beyond);
        }
        let words = self.entry(memory, unit, irta, index)?;
        judge(irta, source, words).map_err(|reason| Stop {
            reason,
            index,
            fpd: reason.is_qualified() && words[0] & 2 != 0,
        })
    }

    /// The entry, from the cache or memory.
    fn entry(
        &self,
        memory: &dyn GuestMemory,
        unit: &Capabilities,
        irta: Irta,
        index: u16,
    ) -> Result<Words, Stop> {
        if let Some(words) = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&index) {
            return Ok(*words);
        }
        let generation = self.generation.load(Ordering::SeqCst);
        let at = PhysAddr(irta.table() + u64::from(index) * IRTE_SIZE);
        let unread = Stop { reason: Reason::InterruptEntryAccess, index, fpd: false };
        let words = load_words(memory, at).map_err(|_| unread)?;
        // 6.1: what is not present or not valid is kept in caching mode only.
        if read(irta, words).is_ok() || unit.cap.cm() {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            // Whoever invalidates starts a generation first and then takes this lock.
            if self.generation.load(Ordering::SeqCst) == generation {
                entries.insert(index, words);
            }
        }
        Ok(words)
    }
}

/// The index that a request names (VT-d 5.1.3).
fn index(address: RemappableAddress, data: RemappableData) -> Result<u32, Reason> {
    let handle = u32::from(address.handle());
    if !address.shv() {
        return Ok(handle);
    }
    if data.rsvd() != 0 {
        return Err(Reason::InterruptRequestReserved);
    }
    Ok(handle + u32::from(data.subhandle()))
}

/// What an entry comes to, where it is present and valid, and who may use it.
fn read(irta: Irta, words: Words) -> Result<(InterruptRoute, IrteHigh), Reason> {
    if words[0] & 1 == 0 {
        return Err(Reason::InterruptEntryNotPresent);
    }
    let entry = Irte::decode(words);
    // Without CAP.PI, IM is reserved.
    let Irte::Remapped { low, high } = entry else { return Err(Reason::InterruptEntryReserved) };
    if entry.has_reserved_bits(irta.eime()) || high.svt() == SourceValidation::Reserved {
        return Err(Reason::InterruptEntryReserved);
    }
    let route = low.route(irta.eime()).ok_or(Reason::InterruptEntryReserved)?;
    Ok((route, high))
}

/// The message for a request of `source` that names an entry.
fn judge(irta: Irta, source: u16, words: Words) -> Result<(u64, u32), Reason> {
    let (route, high) = read(irta, words)?;
    if !high.admits(source) {
        return Err(Reason::InterruptSource);
    }
    let (address, data) = message(&route).ok_or(Reason::InterruptEntryReserved)?;
    Ok((address.into_bits(), data.into_bits()))
}
