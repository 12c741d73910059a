//! MSI page tables (2.1.3.5, 2.3.3), as the driver keeps them: where messages of devices go.
//!
//! A unit caches their entries by GSCID and guest address, and devices in one domain share a GSCID. So each device has a table and
//! guest addresses of its own, a slot of the window that no domain maps; other devices' addresses are not mapped for it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_spec::riscv::command::AddressRange;
use portcullis_spec::riscv::device::{MsiAddressPages, Msiptp, MsiptpMode};
use portcullis_spec::riscv::msi::MSI_PTE_SIZE;
use portcullis_spec::riscv::{Command, DeviceContext, MsiPte};
use portcullis_spec::{InterruptMessage, InterruptRoute, Iova, PhysAddr};

use crate::common::interrupts::InterruptFeatures;
use crate::common::region::{Region, RegionKind};
use crate::error::{Error, Feature};
use crate::platform::Memory;

const PAGE: u64 = 4096;
/// Entries of a table, and pages of a slot.
const ENTRIES: u32 = (PAGE / MSI_PTE_SIZE) as u32;
/// Bytes of a slot.
const SLOT: u64 = ENTRIES as u64 * PAGE;

/// How messages of devices are to be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptOptions {
    /// Where the window begins in which devices send messages, a multiple of 1 MiB. No domain maps it. Domains that let addresses pass
    /// unchanged have it too: there should be no memory there.
    pub window: Iova,
    /// How many devices can send messages at once; each takes 1 MiB of the window.
    pub devices: u16,
}

impl Default for InterruptOptions {
    /// The 128 MiB from f800_0000h on.
    fn default() -> Self {
        Self { window: Iova(0xf800_0000), devices: 128 }
    }
}

impl InterruptOptions {
    pub(super) fn region(self) -> Region {
        let first = Iova(self.window.0 & !(SLOT - 1));
        let last = Iova(first.0.saturating_add(u64::from(self.devices.max(1)) * SLOT - 1));
        Region { first, last, kind: RegionKind::Interrupts }
    }

    pub(super) const fn features() -> InterruptFeatures {
        InterruptFeatures { entries: ENTRIES, per_device: true }
    }
}

/// A device's table.
#[derive(Clone, Copy)]
struct Table {
    at: PhysAddr,
    slot: u16,
}

/// The tables of one unit, by device_id: those of one device's requesters are one.
pub(super) struct Messages {
    window: u64,
    slots: u16,
    tables: BTreeMap<u32, Table>,
}

impl Messages {
    pub(super) fn new(options: InterruptOptions) -> Self {
        let window = options.region().first.0;
        Self { window, slots: options.devices.max(1), tables: BTreeMap::new() }
    }

    /// Whether a device_id has a table.
    pub(super) fn has(&self, device_id: u32) -> bool {
        self.tables.contains_key(&device_id)
    }

    /// Gives the requesters of a device a table in which every entry blocks.
    pub(super) fn add(&mut self, memory: &impl Memory, device_ids: &[u32]) -> Result<(), Error> {
        let taken = |slot: &u16| self.tables.values().any(|table| table.slot == *slot);
        let slot = (0..self.slots).find(|slot| !taken(slot));
        let slot = slot.ok_or(Error::NoInterruptEntries { asked: ENTRIES, entries: 0 })?;
        let at = memory.allocate(PAGE, PAGE).ok_or(Error::OutOfMemory)?;
        self.tables.extend(device_ids.iter().map(|device_id| (*device_id, Table { at, slot })));
        Ok(())
    }

    /// Takes a device_id's table away; its memory too, if no other has it. The unit does not read it any more.
    pub(super) fn remove(&mut self, memory: &impl Memory, device_id: u32) {
        let Some(table) = self.tables.remove(&device_id) else { return };
        if !self.tables.values().any(|other| other.slot == table.slot) {
            memory.free(table.at, PAGE, PAGE);
        }
    }

    /// Gives all memory back.
    pub(super) fn free(&self, memory: &impl Memory) {
        let pages: alloc::collections::BTreeSet<_> = self.tables.values().map(|table| table.at.0).collect();
        for page in pages {
            memory.free(PhysAddr(page), PAGE, PAGE);
        }
    }

    const fn page(&self, table: Table, index: u32) -> u64 {
        self.window + table.slot as u64 * SLOT + index as u64 * PAGE
    }

    /// The device context with the device's table, where it has one and the context is valid.
    pub(super) fn in_context(&self, device_id: u32, context: DeviceContext) -> DeviceContext {
        match self.tables.get(&device_id) {
            Some(table) if context.tc.v() => DeviceContext {
                msiptp: Msiptp::new().with_mode(MsiptpMode::Flat.encode()).with_ppn(table.at.0 >> 12),
                msi_addr_mask: MsiAddressPages::new().with_pages(u64::from(ENTRIES) - 1),
                msi_addr_pattern: MsiAddressPages::new().with_pages(self.page(*table, 0) >> 12),
                ..context
            },
            _ => context,
        }
    }

    /// Makes an entry come to `route`. What the device is to write where.
    pub(super) fn set(
        &self,
        memory: &impl Memory,
        device_id: u32,
        index: u32,
        route: &InterruptRoute,
    ) -> Result<InterruptMessage, Error> {
        let table = *self.tables.get(&device_id).ok_or(Error::Unsupported(Feature::Interrupts))?;
        let unsupported = Error::Unsupported(Feature::Route(*route));
        let (words, offset, data) = match *route {
            InterruptRoute::Blocked(_) => ([0; 2], 0, 0),
            InterruptRoute::Doorbell { address, data } if address.is_aligned(4) && address.0 >> 56 == 0 => {
                (MsiPte::Basic { ppn: address.0 >> 12 }.encode(), address.0 & 0xfff, data)
            }
            _ => return Err(unsupported),
        };
        self.write(memory, table, index, words)?;
        Ok(InterruptMessage { address: Iova(self.page(table, index) | offset), data })
    }

    /// Makes entries block.
    pub(super) fn block(&self, memory: &impl Memory, device_id: u32, first: u32, count: u32) {
        let Some(table) = self.tables.get(&device_id) else { return };
        for index in first..first.saturating_add(count).min(ENTRIES) {
            let _within = self.write(memory, *table, index, [0; 2]);
        }
    }

    /// The first word has all that counts in basic mode.
    fn write(
        &self,
        memory: &impl Memory,
        table: Table,
        index: u32,
        [first, second]: [u64; 2],
    ) -> Result<(), Error> {
        if index >= ENTRIES {
            return Err(Error::NoInterruptEntries { asked: index, entries: ENTRIES });
        }
        let at = table.at.0 + u64::from(index) * MSI_PTE_SIZE;
        memory.store64(PhysAddr(at + 8), second);
        memory.store64(PhysAddr(at), first);
        Ok(())
    }

    /// The commands that forget entries `first` to `last` of a device's, under the GSCIDs that its contexts have (6.2.3).
    pub(super) fn forget(&self, device_id: u32, gscids: &[u16], first: u32, last: u32) -> Vec<Command> {
        let Some(table) = self.tables.get(&device_id) else { return Vec::new() };
        let range = (first == last).then(|| AddressRange { first: self.page(*table, first), size_log2: 12 });
        let command = |gscid: &u16| Command::IotinvalGvma { gscid: Some(*gscid), range, non_leaf: false };
        gscids.iter().map(command).collect()
    }
}
