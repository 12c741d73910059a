//! Device and process directories (2.1, 2.2), as the driver keeps them.
//!
//! Only stores; what the unit must forget afterwards is [`super::Riscv`]'s concern.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_spec::riscv::device::{Fsc, Iohgatp, PdtpMode, Tc, index_bits};
use portcullis_spec::riscv::process::{INDEX_BITS, PROCESS_CONTEXT_SIZE};
use portcullis_spec::riscv::registers::Capabilities;
use portcullis_spec::riscv::{Command, DeviceContext, DeviceDirectoryEntry, ProcessContext};
use portcullis_spec::{InterruptMessage, InterruptRoute, PagingFormat, Pasid, PhysAddr};

use super::messages::{InterruptOptions, Messages};
use crate::common::entries::store_entry;
use crate::error::{Error, Feature};
use crate::platform::Memory;

const PAGE: u64 = 4096;
/// Room for the largest root table, of a second stage.
const NOWHERE_BYTES: u64 = 4 * PAGE;

/// A device's process directory.
struct Directory {
    root: PhysAddr,
    mode: PdtpMode,
}

/// The tables of one unit. The caller keeps changes apart.
pub(super) struct Tables {
    capabilities: Capabilities,
    root: PhysAddr,
    levels: u8,
    /// A root table in which nothing is mapped.
    nowhere: PhysAddr,
    directories: BTreeMap<u32, Directory>,
    messages: Option<Messages>,
}

impl Tables {
    /// An empty directory: everything blocked.
    pub(super) fn allocate(
        memory: &impl Memory,
        capabilities: Capabilities,
        interrupts: Option<InterruptOptions>,
    ) -> Option<Self> {
        let root = memory.allocate(PAGE, PAGE)?;
        let Some(nowhere) = memory.allocate(NOWHERE_BYTES, NOWHERE_BYTES) else {
            memory.free(root, PAGE, PAGE);
            return None;
        };
        let messages = interrupts.map(Messages::new);
        Some(Self { capabilities, root, levels: 1, nowhere, directories: BTreeMap::new(), messages })
    }

    /// Gives all memory back. The unit does not read it any more.
    pub(super) fn free(&self, memory: &impl Memory) {
        for directory in self.directories.values() {
            free_directory_tables(memory, directory.root, directory.mode.levels());
        }
        if let Some(messages) = &self.messages {
            messages.free(memory);
        }
        free_directory_tables(memory, self.root, self.levels);
        memory.free(self.nowhere, NOWHERE_BYTES, NOWHERE_BYTES);
    }

    pub(super) const fn root(&self) -> PhysAddr {
        self.root
    }

    /// How deep the device directory is. Set once, before the first entry.
    pub(super) fn set_levels(&mut self, levels: u8) {
        self.levels = levels;
    }

    /// Whether the directory has a place for a device_id.
    pub(super) fn reaches(&self, device_id: u32) -> bool {
        let bits: u8 = index_bits(self.capabilities.msi_flat())[..usize::from(self.levels)].iter().sum();
        device_id >> bits == 0
    }

    /// A table in which nothing is mapped, and a format that the unit has.
    pub(super) fn nowhere(&self) -> Option<(PagingFormat, PhysAddr)> {
        let capabilities = self.capabilities;
        let formats = [
            (capabilities.sv39(), PagingFormat::RiscvSv { levels: 3 }),
            (capabilities.sv48(), PagingFormat::RiscvSv { levels: 4 }),
            (capabilities.sv57(), PagingFormat::RiscvSv { levels: 5 }),
            (capabilities.sv39x4(), PagingFormat::RiscvSvX4 { levels: 3 }),
            (capabilities.sv48x4(), PagingFormat::RiscvSvX4 { levels: 4 }),
            (capabilities.sv57x4(), PagingFormat::RiscvSvX4 { levels: 5 }),
        ];
        formats.into_iter().find(|(supported, _)| *supported).map(|(_, format)| (format, self.nowhere))
    }

    /// The address of a device context, with the tables on the way made where they are not there.
    fn device(&self, memory: &impl Memory, device_id: u32) -> Result<PhysAddr, Error> {
        let extended = self.capabilities.msi_flat();
        let bits = index_bits(extended);
        let mut table = self.root;
        for level in (1..usize::from(self.levels)).rev() {
            let below: u8 = bits[..level].iter().sum();
            let index = device_id >> below & ((1 << bits[level]) - 1);
            table = next(memory, PhysAddr(table.0 + u64::from(index) * 8))?;
        }
        let index = u64::from(device_id & ((1 << bits[0]) - 1));
        Ok(PhysAddr(table.0 + index * 8 * words(extended) as u64))
    }

    /// Makes sure that there is a device context to write to.
    pub(super) fn prepare(&mut self, memory: &impl Memory, device_id: u32) -> Result<(), Error> {
        self.device(memory, device_id).map(drop)
    }

    /// Whether the device has a process directory.
    pub(super) fn has_directory(&self, device_id: u32) -> bool {
        self.directories.contains_key(&device_id)
    }

    /// Writes a device context over one that is not valid, or one that is not valid over any.
    pub(super) fn set_device(
        &mut self,
        memory: &impl Memory,
        device_id: u32,
        context: DeviceContext,
    ) -> Result<(), Error> {
        let at = self.device(memory, device_id)?;
        let count = words(self.capabilities.msi_flat());
        let context = self.messages.as_ref().map_or(context, |it| it.in_context(device_id, context));
        store_entry(memory, at, &context.encode()[..count], context.tc.v(), true);
        Ok(())
    }

    /// Has an entry of the MSI page table of a device's requesters come to `route`. What the unit must forget then, and what the device
    /// is to write where.
    pub(super) fn set_message(
        &mut self,
        memory: &impl Memory,
        device_ids: &[u32],
        index: u32,
        route: &InterruptRoute,
    ) -> Result<(Vec<Command>, InterruptMessage), Error> {
        let unsupported = Error::Unsupported(Feature::Interrupts);
        let first = *device_ids.first().ok_or(unsupported)?;
        // Requests without PASID have a first stage alone there.
        if device_ids.iter().any(|device_id| self.has_directory(*device_id)) {
            return Err(unsupported);
        }
        let mut commands = Vec::new();
        let messages = self.messages.as_mut().ok_or(unsupported)?;
        if !messages.has(first) {
            messages.add(memory, device_ids)?;
            for device_id in device_ids {
                self.show_messages(memory, *device_id)?;
                commands.push(Command::IodirInvalDdt { did: Some(*device_id) });
            }
        }
        let gscids = self.gscids(memory, device_ids)?;
        let messages = self.messages.as_ref().ok_or(unsupported)?;
        let message = messages.set(memory, first, index, route)?;
        commands.extend(messages.forget(first, &gscids, index, index));
        Ok((commands, message))
    }

    /// Has entries of the MSI page table of a device's requesters block. What the unit must forget then.
    pub(super) fn block_messages(
        &mut self,
        memory: &impl Memory,
        device_ids: &[u32],
        (first, count): (u32, u32),
    ) -> Vec<Command> {
        let (Some(device_id), Some(messages)) = (device_ids.first(), &self.messages) else {
            return Vec::new();
        };
        messages.block(memory, *device_id, first, count);
        let gscids = self.gscids(memory, device_ids).unwrap_or_default();
        messages.forget(*device_id, &gscids, first, first.saturating_add(count.max(1) - 1))
    }

    /// Adds a device's MSI page table to its context, if that is valid: the mode, which makes the other words count, last.
    fn show_messages(&self, memory: &impl Memory, device_id: u32) -> Result<(), Error> {
        let at = self.device(memory, device_id)?;
        let word = |index: u64| PhysAddr(at.0 + 8 * index);
        let tc = Tc::from_bits(memory.load64(at));
        if let Some(messages) = self.messages.as_ref().filter(|_| tc.v()) {
            let shown = messages.in_context(device_id, DeviceContext { tc, ..DeviceContext::default() });
            memory.store64(word(6), shown.msi_addr_pattern.into_bits());
            memory.store64(word(5), shown.msi_addr_mask.into_bits());
            memory.store64(word(4), shown.msiptp.into_bits());
        }
        Ok(())
    }

    /// GSCIDs under which entries may be cached: those of the contexts, and that of contexts without a second stage.
    fn gscids(&self, memory: &impl Memory, device_ids: &[u32]) -> Result<Vec<u16>, Error> {
        let mut gscids = alloc::vec![0];
        for device_id in device_ids {
            let at = self.device(memory, *device_id)?;
            let gscid = Iohgatp::from_bits(memory.load64(PhysAddr(at.0 + 8))).gscid();
            if !gscids.contains(&gscid) {
                gscids.push(gscid);
            }
        }
        Ok(gscids)
    }

    /// Takes a device context away. Whether there was a place for one.
    pub(super) fn clear_device(&mut self, memory: &impl Memory, device_id: u32) -> bool {
        self.set_device(memory, device_id, DeviceContext::default()).is_ok()
    }

    /// Gives a device a process directory for so many bits, empty but for the table that requests without PASID use, and a device
    /// context that leads there.
    pub(super) fn add_directory(
        &mut self,
        memory: &impl Memory,
        device_id: u32,
        pasid_bits: u8,
    ) -> Result<(), Error> {
        let at = self.device(memory, device_id)?;
        let modes = [
            (self.capabilities.pd8(), PdtpMode::Pd8),
            (self.capabilities.pd17(), PdtpMode::Pd17),
            (self.capabilities.pd20(), PdtpMode::Pd20),
        ];
        let fits = |(supported, mode): &(bool, PdtpMode)| *supported && mode.bits() >= pasid_bits;
        let (_, mode) = modes.into_iter().find(fits).ok_or(Error::Unsupported(Feature::Pasid))?;
        let root = memory.allocate(PAGE, PAGE).ok_or(Error::OutOfMemory)?;
        self.directories.insert(device_id, Directory { root, mode });
        if let Err(error) = self.process(memory, device_id, 0) {
            self.free_directory(memory, device_id);
            return Err(error);
        }
        let context = DeviceContext {
            tc: Tc::new().with_v(true).with_pdtv(true).with_dpe(true).with_sade(self.capabilities.amo_hwad()),
            fsc: Fsc::new().with_mode(mode.encode()).with_ppn(root.0 >> 12),
            ..DeviceContext::default()
        };
        let count = words(self.capabilities.msi_flat());
        store_entry(memory, at, &context.encode()[..count], true, true);
        Ok(())
    }

    /// Frees a process directory and an MSI page table that the unit has forgotten, with their tables.
    pub(super) fn free_directory(&mut self, memory: &impl Memory, device_id: u32) {
        if let Some(messages) = &mut self.messages {
            messages.remove(memory, device_id);
        }
        if let Some(directory) = self.directories.remove(&device_id) {
            free_directory_tables(memory, directory.root, directory.mode.levels());
        }
    }

    /// The address of a process context, with the tables on the way made where they are not there.
    fn process(&self, memory: &impl Memory, device_id: u32, process_id: u32) -> Result<PhysAddr, Error> {
        let Some(directory) = self.directories.get(&device_id) else {
            return Err(Error::Unsupported(Feature::Pasid));
        };
        if process_id >> directory.mode.bits() != 0 {
            return Err(
                Pasid::new(process_id).map_or(Error::Unsupported(Feature::Pasid), Error::PasidOutOfReach)
            );
        }
        let mut table = directory.root;
        for level in (1..usize::from(directory.mode.levels())).rev() {
            let below: u8 = INDEX_BITS[..level].iter().sum();
            let index = process_id >> below & ((1 << INDEX_BITS[level]) - 1);
            table = next(memory, PhysAddr(table.0 + u64::from(index) * 8))?;
        }
        Ok(PhysAddr(table.0 + u64::from(process_id & 0xff) * PROCESS_CONTEXT_SIZE))
    }

    /// Writes a process context over one that is not valid, or one that is not valid over any. Without a PASID it is process 0's.
    pub(super) fn set_process(
        &mut self,
        memory: &impl Memory,
        device_id: u32,
        pasid: Option<Pasid>,
        context: ProcessContext,
    ) -> Result<(), Error> {
        let at = self.process(memory, device_id, pasid.map_or(0, Pasid::value))?;
        store_entry(memory, at, &context.encode(), context.ta.v(), true);
        Ok(())
    }
}

/// Words of a device context.
const fn words(extended: bool) -> usize {
    if extended { 8 } else { 4 }
}

/// The table that a directory entry leads to, made where it is not there.
fn next(memory: &impl Memory, at: PhysAddr) -> Result<PhysAddr, Error> {
    let entry = DeviceDirectoryEntry::from_bits(memory.load64(at));
    if entry.v() {
        return Ok(PhysAddr(entry.ppn() << 12));
    }
    let table = memory.allocate(PAGE, PAGE).ok_or(Error::OutOfMemory)?;
    memory.store64(at, DeviceDirectoryEntry::new().with_v(true).with_ppn(table.0 >> 12).into_bits());
    Ok(table)
}

/// Frees a directory page and, above the leaves, those that its entries lead to.
fn free_directory_tables(memory: &impl Memory, table: PhysAddr, levels: u8) {
    if levels > 1 {
        for offset in (0..PAGE).step_by(8) {
            let entry = DeviceDirectoryEntry::from_bits(memory.load64(PhysAddr(table.0 + offset)));
            if entry.v() {
                free_directory_tables(memory, PhysAddr(entry.ppn() << 12), levels - 1);
            }
        }
    }
    memory.free(table, PAGE, PAGE);
}
