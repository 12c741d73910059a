//! MSI page tables (RISC-V IOMMU 2.3.3) and memory-resident interrupt files (RISC-V AIA 9.3, 9.5.2).
//!
//! Entries are read anew for each message, so that nothing is to be invalidated; units that [retain](super::RiscvUnit::retain_translations)
//! what they may keep those in basic mode, by GSCID and guest address (2.8).

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_spec::riscv::device::{DeviceContext, MsiptpMode};
use portcullis_spec::riscv::msi::{
    InterruptFiles, MSI_PTE_SIZE, Mrif, MsiPte, MsiPteError, identity, pending_bit,
};
use portcullis_spec::{Access, ConfigTable, FaultReason, Iova, Ipa, MemoryAttributes, PhysAddr, Transaction};

use super::Riscv;
use super::events::Events;
use crate::interrupt::deliver;
use crate::memory::{GuestMemory, MemoryError, Width, load_words, update};
use crate::plain::Block;
use crate::refusal::{Detail, Refusal};
use crate::state::locked;
use crate::translate::PageTranslation;

/// Kept entries of a unit at most.
const MOST_KEPT: usize = 4096;

/// A device's MSI page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MsiTable {
    files: InterruptFiles,
    base: u64,
    /// `iohgatp.gscid`, by which entries are kept whether there is a second stage or not.
    gscid: u16,
}

impl MsiTable {
    /// The table of a device context, where its mode is flat.
    pub(super) fn of(device: &DeviceContext) -> Option<Self> {
        let flat = MsiptpMode::decode(device.msiptp.mode()) == Some(MsiptpMode::Flat);
        flat.then(|| Self {
            files: device.interrupt_files(),
            base: device.msiptp.ppn() << 12,
            gscid: device.iohgatp.gscid(),
        })
    }

    /// The guest addresses of interrupt files.
    pub(super) const fn addresses(&self) -> Block {
        Block::matching(!(self.files.mask << 12 | 0xfff), self.files.pattern << 12)
    }
}

/// By GSCID and guest page number.
type Kept = HashMap<(u16, u64), [u64; 2]>;

/// MSI page-table entries that are kept until they are invalidated.
#[derive(Default)]
pub(super) struct MsiEntries {
    retaining: AtomicBool,
    /// Held while an entry is read, so that none goes in that was read before an invalidation.
    kept: Mutex<Kept>,
}

impl MsiEntries {
    /// Keeps entries from now on.
    pub(super) fn retain(&self) {
        self.retaining.store(true, Ordering::Relaxed);
    }

    /// Forgets the entries of one guest or all, for the guest addresses of a range or all.
    pub(super) fn forget(&self, gscid: Option<u16>, range: Option<(Iova, Iova)>) {
        locked(&self.kept).retain(|(owner, page), _| {
            let covered = gscid.is_none_or(|gscid| gscid == *owner)
                && range.is_none_or(|(first, last)| (first.0 >> 12..=last.0 >> 12).contains(page));
            !covered
        });
    }

    /// An entry, kept or as `load` finds it.
    fn entry(
        &self,
        (gscid, page): (u16, u64),
        load: impl FnOnce() -> Result<[u64; 2], MemoryError>,
    ) -> Result<[u64; 2], MemoryError> {
        if !self.retaining.load(Ordering::Relaxed) {
            return load();
        }
        let mut kept = locked(&self.kept);
        if let Some(words) = kept.get(&(gscid, page)) {
            return Ok(*words);
        }
        let words = load()?;
        if matches!(MsiPte::decode(words), Ok(MsiPte::Basic { .. })) && kept.len() < MOST_KEPT {
            kept.insert((gscid, page), words);
        }
        Ok(words)
    }
}

impl Riscv {
    /// 2.3.3: where a guest address leads that is an interrupt file's. `None` where it is no such address.
    #[inline]
    pub(super) fn interrupt_page(
        &self,
        memory: &dyn GuestMemory,
        table: &MsiTable,
        guest: Ipa,
        access: Access,
    ) -> Option<Result<PageTranslation, Refusal>> {
        // Steps 3 to 5.
        let number = table.files.file_of(guest.0)?;
        Some(self.interrupt_page_of(memory, table, (guest, number), access))
    }

    #[cold]
    fn interrupt_page_of(
        &self,
        memory: &dyn GuestMemory,
        table: &MsiTable,
        (guest, number): (Ipa, u64),
        access: Access,
    ) -> Result<PageTranslation, Refusal> {
        // Step 7; the mask has 52 bits at most, so nothing is lost.
        let at = PhysAddr(table.base | (number * MSI_PTE_SIZE));
        let words = self.msi_entries.entry((table.gscid, guest.0 >> 12), || self.load_msi_entry(memory, at));
        let words = words.map_err(|_| Refusal::new(FaultReason::TableUnreadable(ConfigTable::Interrupt)))?;
        let entry = self.decode(words)?;
        // Step 15.
        if access.contains(Access::EXECUTE) {
            return Err(Refusal::new(FaultReason::PagingEntryUnreadable));
        }
        match entry {
            MsiPte::Basic { ppn } => Ok(PageTranslation {
                base: PhysAddr(ppn << 12),
                shift: 12,
                access: Access::READ_WRITE | Access::ATOMIC,
                attributes: MemoryAttributes::default(),
            }),
            MsiPte::Mrif(_) => Err(Refusal {
                entry: Some(at),
                ipa: Some(guest),
                detail: Detail::InterruptFile,
                ..Refusal::new(FaultReason::InterruptBlocked)
            }),
        }
    }

    fn load_msi_entry(&self, memory: &dyn GuestMemory, at: PhysAddr) -> Result<[u64; 2], MemoryError> {
        let words: [u64; 2] = load_words(memory, at)?;
        Ok(if self.fctl().be() { words.map(u64::swap_bytes) } else { words })
    }

    /// Steps 9 to 14.
    fn decode(&self, words: [u64; 2]) -> Result<MsiPte, Refusal> {
        let misconfigured = Refusal::new(FaultReason::EntryInvalid(ConfigTable::Interrupt));
        match MsiPte::decode(words) {
            Ok(MsiPte::Mrif(_)) if !self.capabilities.msi_mrif() => Err(misconfigured),
            Ok(entry) => Ok(entry),
            Err(MsiPteError::Invalid) => {
                Err(Refusal::new(FaultReason::EntryNotPresent(ConfigTable::Interrupt)))
            }
            Err(MsiPteError::Misconfigured) => Err(misconfigured),
        }
    }

    /// AIA 9.5.2: an access to a page in MRIF mode. What is not an aligned 32-bit access is not supported; a read gives zero.
    pub(super) fn access_interrupt_file(
        &self,
        memory: &dyn GuestMemory,
        transaction: &Transaction,
        refusal: Refusal,
        data: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let (Some(at), Some(guest)) = (refusal.entry, refusal.ipa) else { return Err(refusal) };
        if transaction.length != 4 || !guest.is_aligned(4) {
            return Err(refusal);
        }
        let Some(data) = data else { return Ok(()) };
        let data: [u8; 4] = data.try_into().map_err(|_| refusal)?;
        // The entry may have changed since it stopped the access: then either value may be used.
        let words = self.load_msi_entry(memory, at);
        let words = words.map_err(|_| Refusal::new(FaultReason::TableUnreadable(ConfigTable::Interrupt)))?;
        match self.decode(words)? {
            MsiPte::Mrif(file) => {
                let Some(identity) = identity(guest.0, data) else { return Ok(()) };
                self.store(memory, &file, identity)
            }
            MsiPte::Basic { ppn } => {
                let address = ppn << 12 | guest.0 & 0xfff;
                let delivered = deliver(memory, &*self.sink, address, u32::from_le_bytes(data));
                delivered.map_err(|_| Refusal::new(FaultReason::InterruptBlocked))
            }
        }
    }

    /// Sets the pending bit, and tells of it.
    fn store(&self, memory: &dyn GuestMemory, file: &Mrif, identity: u16) -> Result<(), Refusal> {
        let (offset, bit) = pending_bit(identity);
        let at = PhysAddr(file.address + offset);
        update(memory, at, Width::Eight, |pending| Some(pending | 1 << bit))
            .map_err(|_| Refusal::new(FaultReason::InterruptBlocked))?;
        let notice = file.notice_ppn << 12;
        if deliver(memory, &*self.sink, notice, file.notice_identity.into()).is_err() {
            self.change(|events| events.record(memory, &Events::message_fault(notice)));
        }
        Ok(())
    }
}
