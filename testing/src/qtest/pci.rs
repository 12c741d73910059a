//! PCI: finding functions, giving their registers addresses, letting them do DMA.

use super::{Client, QtestError};
use portcullis_spec::PciAddress;

/// How a machine reaches configuration space.
#[derive(Clone, Copy, Debug)]
pub enum ConfigAccess {
    /// Ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2).
    Ports,
    /// Memory-mapped from this address on, 1 MiB a bus (PCIe 7.2.2).
    Memory(u64),
}

/// A machine's PCI buses while they are being set up.
#[derive(Debug)]
pub struct Buses {
    access: ConfigAccess,
    next_memory: u64,
    next_bus: u8,
}

/// A function that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its address, which is also its requester ID.
    pub address: PciAddress,
    /// Vendor ID in bits 15:0, device ID in 31:16.
    pub identity: u32,
    /// Where its memory BARs are; 0 for those that it has not, and for I/O BARs.
    pub bars: [u64; 6],
}

const COMMAND: u8 = 0x04;
/// Memory space and bus master.
const COMMAND_MEMORY_MASTER: u32 = 0x6;
const HEADER: u8 = 0x0c;
const BRIDGE_BUSES: u8 = 0x18;
const BRIDGE_MEMORY: u8 = 0x20;
const BRIDGE_PREFETCHABLE: u8 = 0x24;

impl Buses {
    /// Buses below `access`, with `memory` the first address that BARs may have. It is a multiple of 1 MiB.
    #[must_use]
    pub const fn new(access: ConfigAccess, memory: u64) -> Self {
        Self { access, next_memory: memory, next_bus: 1 }
    }

    /// Find every function from bus 0 on, give each memory BAR an address, and enable memory and DMA. Bridges are set
    /// up on the way, depth first.
    ///
    /// # Errors
    /// Where QEMU has ended.
    pub fn enumerate(&mut self, client: &mut Client) -> Result<Vec<Function>, QtestError> {
        let mut found = Vec::new();
        self.enumerate_bus(client, 0, &mut found)?;
        Ok(found)
    }

    fn enumerate_bus(
        &mut self,
        client: &mut Client,
        bus: u8,
        found: &mut Vec<Function>,
    ) -> Result<(), QtestError> {
        for device in 0..32 {
            for function in 0..8 {
                let address = PciAddress::new(0, bus, device, function);
                let identity = self.read(client, address, 0)?;
                if identity == u32::MAX {
                    if function == 0 {
                        break;
                    }
                    continue;
                }
                let header = self.read(client, address, HEADER)? >> 16;
                let is_bridge = header & 0x7f == 1;
                let bars = self.place(client, address, if is_bridge { 2 } else { 6 })?;
                if is_bridge {
                    self.enumerate_behind(client, address, found)?;
                }
                self.write(client, address, COMMAND, COMMAND_MEMORY_MASTER)?;
                found.push(Function { address, identity, bars });
                let is_multifunction = header & 0x80 != 0;
                if function == 0 && !is_multifunction {
                    break;
                }
            }
        }
        Ok(())
    }

    fn enumerate_behind(
        &mut self,
        client: &mut Client,
        bridge: PciAddress,
        found: &mut Vec<Function>,
    ) -> Result<(), QtestError> {
        const MEGABYTE: u64 = 1 << 20;
        let (primary, secondary) = (u32::from(bridge.bus()), self.next_bus);
        self.next_bus += 1;
        // Everything up to bus 255 is below this bridge until its buses are counted.
        let buses = |last: u8| u32::from(last) << 16 | u32::from(secondary) << 8 | primary;
        self.write(client, bridge, BRIDGE_BUSES, buses(u8::MAX))?;
        let first = self.next_memory.next_multiple_of(MEGABYTE);
        self.next_memory = first;
        self.enumerate_bus(client, secondary, found)?;
        self.write(client, bridge, BRIDGE_BUSES, buses(self.next_bus - 1))?;
        self.next_memory = self.next_memory.next_multiple_of(MEGABYTE);
        // Base above limit closes a window (PCI-to-PCI Bridge 3.2.5.8).
        let last = self.next_memory.saturating_sub(1);
        let window = |first: u64, last: u64| (last >> 16 & 0xfff0) << 16 | (first >> 16 & 0xfff0);
        let memory = if last > first { window(first, last) } else { 0x0000_fff0 };
        self.write(client, bridge, BRIDGE_MEMORY, memory as u32)?;
        self.write(client, bridge, BRIDGE_PREFETCHABLE, 0x0000_fff0)
    }

    /// Size and place the memory BARs (PCI 3.0, 6.2.5.1).
    fn place(&mut self, client: &mut Client, address: PciAddress, count: u8) -> Result<[u64; 6], QtestError> {
        let mut bars = [0; 6];
        let mut index = 0;
        while index < count {
            let offset = 0x10 + index * 4;
            self.write(client, address, offset, u32::MAX)?;
            let mask = self.read(client, address, offset)?;
            let is_io = mask & 1 != 0;
            let is_64 = mask & 0b111 == 0b100;
            if mask != 0 && !is_io {
                let size = u64::from(!(mask & !0xf)) + 1;
                let start = self.next_memory.next_multiple_of(size);
                self.next_memory = start + size;
                self.write(client, address, offset, start as u32)?;
                if is_64 {
                    self.write(client, address, offset + 4, (start >> 32) as u32)?;
                }
                bars[usize::from(index)] = start;
            }
            index += if is_64 { 2 } else { 1 };
        }
        Ok(bars)
    }

    fn read(&self, client: &mut Client, address: PciAddress, offset: u8) -> Result<u32, QtestError> {
        match self.access {
            ConfigAccess::Ports => {
                client.port_write(0xcf8, 4, port_address(address, offset))?;
                client.port_read(0xcfc, 4)
            }
            ConfigAccess::Memory(base) => Ok(client.read(memory_address(base, address, offset), 4)? as u32),
        }
    }

    fn write(
        &self,
        client: &mut Client,
        address: PciAddress,
        offset: u8,
        value: u32,
    ) -> Result<(), QtestError> {
        match self.access {
            ConfigAccess::Ports => {
                client.port_write(0xcf8, 4, port_address(address, offset))?;
                client.port_write(0xcfc, 4, value)
            }
            ConfigAccess::Memory(base) => {
                client.write(memory_address(base, address, offset), 4, u64::from(value))
            }
        }
    }
}

fn port_address(address: PciAddress, offset: u8) -> u32 {
    1 << 31 | u32::from(address.requester_id) << 8 | u32::from(offset & 0xfc)
}

fn memory_address(base: u64, address: PciAddress, offset: u8) -> u64 {
    base + (u64::from(address.requester_id) << 12 | u64::from(offset))
}
