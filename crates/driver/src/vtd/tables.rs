//! Root, context and PASID tables (VT-d 3.4, 9.1 to 9.6), as the driver keeps them.
//!
//! Only stores; what the unit must forget afterwards is [`super::Vtd`]'s concern.

use alloc::collections::BTreeMap;

use portcullis_spec::vtd::context::{
    CONTEXT_ENTRY_SIZE, ContextEntry, ContextEntryHigh, ContextEntryLow, SCALABLE_CONTEXT_ENTRY_SIZE,
    ScalableContextEntry, ScalableContextEntryLow,
};
use portcullis_spec::vtd::pasid::{PASID_TABLE_ENTRY_SIZE, PasidDirectoryEntry, PasidEntry, PasidEntry0};
use portcullis_spec::vtd::root::{ROOT_ENTRY_SIZE, RootEntryHalf};
use portcullis_spec::{Pasid, PhysAddr};

use super::Mode;
use crate::common::entries::store_entry;
use crate::error::{Error, Feature};
use crate::platform::Memory;

const PAGE: u64 = 4096;
/// PASIDs in one PASID table page (VT-d 9.6: bits 5:0 index it).
const TABLE_PASIDS: u32 = 64;

/// The PASID under which requests without PASID are looked up: the context entries written here say 0 in RID_PASID, which
/// all units support.
pub(super) const RID_PASID: Pasid = match Pasid::new(0) {
    Some(pasid) => pasid,
    None => Pasid::MAX,
};

/// A requester's PASID directory.
struct Directory {
    address: PhysAddr,
    bytes: u64,
    /// PASID bits that it holds.
    bits: u8,
}

/// The tables of one unit. The caller keeps changes apart.
pub(super) struct Tables {
    mode: Mode,
    root: PhysAddr,
    coherent: bool,
    /// Context tables by bus, and in scalable mode by the high bit of device and function below it.
    contexts: BTreeMap<u16, PhysAddr>,
    /// Scalable mode: PASID directories by requester ID.
    directories: BTreeMap<u16, Directory>,
}

impl Tables {
    /// An empty root table: everything blocked.
    pub(super) fn allocate(memory: &impl Memory, mode: Mode, coherent: bool) -> Option<Self> {
        let root = memory.allocate(PAGE, PAGE)?;
        if !coherent {
            memory.flush(root, PAGE);
        }
        Some(Self { mode, root, coherent, contexts: BTreeMap::new(), directories: BTreeMap::new() })
    }

    /// Gives all memory back. The unit does not read it any more.
    pub(super) fn free(&mut self, memory: &impl Memory) {
        let directories: alloc::vec::Vec<u16> = self.directories.keys().copied().collect();
        for requester_id in directories {
            if let Some(directory) = self.unlink_directory(requester_id) {
                free_directory(memory, directory);
            }
        }
        for table in core::mem::take(&mut self.contexts).into_values() {
            memory.free(table, PAGE, PAGE);
        }
        memory.free(self.root, PAGE, PAGE);
    }

    pub(super) const fn root(&self) -> PhysAddr {
        self.root
    }

    /// The address of a requester's context entry, with the table made if it is not there.
    fn context(&mut self, memory: &impl Memory, requester_id: u16) -> Result<PhysAddr, Error> {
        // Scalable tables have 128 entries and half a bus (VT-d 9.2), legacy ones 256 and a whole.
        let (key, half, size, index) = match self.mode {
            Mode::Legacy => (requester_id & 0xff00, 0, CONTEXT_ENTRY_SIZE, u64::from(requester_id & 0xff)),
            Mode::Scalable => (
                requester_id & 0xff80,
                u64::from(requester_id >> 7 & 1),
                SCALABLE_CONTEXT_ENTRY_SIZE,
                u64::from(requester_id & 0x7f),
            ),
        };
        let table = match self.contexts.get(&key) {
            Some(table) => *table,
            None => {
                let table = memory.allocate(PAGE, PAGE).ok_or(Error::OutOfMemory)?;
                self.flush(memory, table, PAGE);
                let entry = RootEntryHalf::new().with_p(true).with_ctp(table.0 >> 12);
                let at = self.root.0 + u64::from(requester_id >> 8) * ROOT_ENTRY_SIZE + half * 8;
                memory.store64(PhysAddr(at), entry.into_bits());
                self.flush(memory, PhysAddr(at), 8);
                self.contexts.insert(key, table);
                table
            }
        };
        Ok(PhysAddr(table.0 + index * size))
    }

    /// Legacy mode: makes sure that there is a context entry to write to.
    pub(super) fn prepare(&mut self, memory: &impl Memory, requester_id: u16) -> Result<(), Error> {
        self.context(memory, requester_id).map(drop)
    }

    /// Legacy mode: writes a context entry over one that is not present.
    pub(super) fn set_context(
        &mut self,
        memory: &impl Memory,
        requester_id: u16,
        entry: ContextEntry,
    ) -> Result<(), Error> {
        let at = self.context(memory, requester_id)?;
        store_entry(memory, at, &entry.encode(), true, self.coherent);
        Ok(())
    }

    /// Legacy mode: takes a context entry away; with `fpd` faults of the requester are not reported any more.
    pub(super) fn clear_context(
        &mut self,
        memory: &impl Memory,
        requester_id: u16,
        fpd: bool,
    ) -> Result<(), Error> {
        let at = self.context(memory, requester_id)?;
        let entry = ContextEntry { low: ContextEntryLow::new().with_fpd(fpd), high: ContextEntryHigh::new() };
        store_entry(memory, at, &entry.encode(), false, self.coherent);
        Ok(())
    }

    /// Scalable mode: gives a requester a PASID directory for so many bits of PASID, empty but for the table that requests
    /// without PASID use, and a context entry that leads there.
    pub(super) fn add_directory(
        &mut self,
        memory: &impl Memory,
        requester_id: u16,
        pasid_bits: u8,
    ) -> Result<(), Error> {
        let context = self.context(memory, requester_id)?;
        // VT-d 9.4, PDTS: 2^(pdts+7) entries of 64 PASIDs; a page has room for pdts 2, which is 15 bits.
        let bits = pasid_bits.max(15);
        let bytes = 8u64 << (bits - 6);
        let address = memory.allocate(bytes, PAGE).ok_or(Error::OutOfMemory)?;
        self.flush(memory, address, bytes);
        self.directories.insert(requester_id, Directory { address, bytes, bits });
        if let Err(error) = self.pasid_entry(memory, requester_id, RID_PASID) {
            if let Some(directory) = self.directories.remove(&requester_id) {
                memory.free(directory.address, directory.bytes, PAGE);
            }
            return Err(error);
        }
        let entry = ScalableContextEntry {
            low: ScalableContextEntryLow::new()
                .with_p(true)
                .with_paside(pasid_bits > 0)
                .with_pdts(bits - 13)
                .with_pasiddirptr(address.0 >> 12),
            ..ScalableContextEntry::default()
        };
        store_entry(memory, context, &entry.encode(), true, self.coherent);
        Ok(())
    }

    /// Scalable mode: takes a requester's context entry away. Its directory can be freed when the unit has forgotten it.
    pub(super) fn clear_directory(&mut self, memory: &impl Memory, requester_id: u16) {
        if let Ok(at) = self.context(memory, requester_id) {
            store_entry(memory, at, &ScalableContextEntry::default().encode(), false, self.coherent);
        }
    }

    /// Scalable mode: frees a directory that [`Self::clear_directory`] took from the unit, with its tables.
    pub(super) fn free_directory(&mut self, memory: &impl Memory, requester_id: u16) {
        if let Some(directory) = self.unlink_directory(requester_id) {
            free_directory(memory, directory);
        }
    }

    fn unlink_directory(&mut self, requester_id: u16) -> Option<Directory> {
        self.directories.remove(&requester_id)
    }

    /// The address of a PASID table entry, with the table made if it is not there.
    fn pasid_entry(
        &mut self,
        memory: &impl Memory,
        requester_id: u16,
        pasid: Pasid,
    ) -> Result<PhysAddr, Error> {
        let Some(directory) = self.directories.get(&requester_id) else {
            return Err(Error::Unsupported(Feature::Pasid));
        };
        let number = pasid.value();
        if number >> directory.bits != 0 {
            return Err(Error::PasidOutOfReach(pasid));
        }
        let at = PhysAddr(directory.address.0 + u64::from(number / TABLE_PASIDS) * 8);
        let entry = PasidDirectoryEntry::from_bits(memory.load64(at));
        let table = if entry.p() {
            PhysAddr(entry.pasid_table())
        } else {
            let table = memory.allocate(PAGE, PAGE).ok_or(Error::OutOfMemory)?;
            self.flush(memory, table, PAGE);
            let entry = PasidDirectoryEntry::new().with_p(true).with_smptblptr(table.0 >> 12);
            memory.store64(at, entry.into_bits());
            self.flush(memory, at, 8);
            table
        };
        Ok(PhysAddr(table.0 + u64::from(number % TABLE_PASIDS) * PASID_TABLE_ENTRY_SIZE))
    }

    /// Scalable mode: writes a PASID table entry over one that is not present.
    pub(super) fn set_pasid(
        &mut self,
        memory: &impl Memory,
        requester_id: u16,
        pasid: Pasid,
        entry: PasidEntry,
    ) -> Result<(), Error> {
        let at = self.pasid_entry(memory, requester_id, pasid)?;
        store_entry(memory, at, &entry.encode(), true, self.coherent);
        Ok(())
    }

    /// Scalable mode: takes a PASID table entry away; with `fpd` its faults are not reported any more.
    pub(super) fn clear_pasid(
        &mut self,
        memory: &impl Memory,
        requester_id: u16,
        pasid: Pasid,
        fpd: bool,
    ) -> Result<(), Error> {
        let at = self.pasid_entry(memory, requester_id, pasid)?;
        let entry = PasidEntry { word0: PasidEntry0::new().with_fpd(fpd), ..PasidEntry::default() };
        store_entry(memory, at, &entry.encode(), false, self.coherent);
        Ok(())
    }

    fn flush(&self, memory: &impl Memory, at: PhysAddr, length: u64) {
        if !self.coherent {
            memory.flush(at, length);
        }
    }
}

fn free_directory(memory: &impl Memory, directory: Directory) {
    for offset in (0..directory.bytes).step_by(8) {
        let entry = PasidDirectoryEntry::from_bits(memory.load64(PhysAddr(directory.address.0 + offset)));
        if entry.p() {
            memory.free(PhysAddr(entry.pasid_table()), PAGE, PAGE);
        }
    }
    memory.free(directory.address, directory.bytes, PAGE);
}
