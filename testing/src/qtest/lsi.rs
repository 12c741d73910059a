//! `lsi53c895a` as a DMA engine: its SCRIPTS processor runs a program from memory while DSP is being written.

use super::pci::Function;
use super::{Client, QtestError};

/// Vendor and device ID of the LSI 53C895A.
pub const IDENTITY: u32 = 0x0012_1000;

/// Bytes of a script (one MEMORY MOVE, one INT).
pub const SCRIPT_BYTES: u64 = 20;

/// The most that one MEMORY MOVE copies: its byte count has 24 bits.
pub const LONGEST_COPY: u32 = 0xff_ffff;

/// DMA status: reading it acknowledges the interrupt that the script ends with.
const DSTAT: u64 = 0x0c;
/// Interrupt status; bit 6 resets the device.
const ISTAT: u64 = 0x14;
const ISTAT_SRST: u64 = 0x40;
/// DMA SCRIPTS pointer: writing it starts the script.
const DSP: u64 = 0x2c;

/// One engine.
#[derive(Clone, Copy, Debug)]
pub struct Lsi {
    registers: u64,
    script: u32,
}

impl Lsi {
    /// The engine of a function, which fetches its scripts from the bus address `script`: by DMA too, so the IOMMU must
    /// let it read [`SCRIPT_BYTES`] there or nothing happens.
    #[must_use]
    pub const fn new(function: &Function, script: u32) -> Self {
        Self { registers: function.bars[1], script }
    }

    /// The script that copies `length` bytes between two bus addresses. It belongs at the script address.
    #[must_use]
    pub fn script(source: u32, destination: u32, length: u32) -> [u8; SCRIPT_BYTES as usize] {
        /// MEMORY MOVE, and the number of bytes.
        const MEMORY_MOVE: u32 = 0xc000_0000;
        /// Transfer control: INT, always.
        const INTERRUPT: u32 = 0x9808_0000;
        let words = [MEMORY_MOVE | (length & LONGEST_COPY), source, destination, INTERRUPT, 0];
        let mut bytes = [0; SCRIPT_BYTES as usize];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Run the script. On return every transaction has happened, or been refused.
    ///
    /// Whether the script could be fetched: an engine that reads zeros instead looks for an instruction for a long while
    /// and then stops.
    ///
    /// # Errors
    /// Where QEMU has ended.
    pub fn run(&self, client: &mut Client) -> Result<bool, QtestError> {
        const DSTAT_SIR: u64 = 0x04;
        client.write(self.registers + DSP, 4, u64::from(self.script))?;
        let ended = client.read(self.registers + DSTAT, 1)?;
        if ended & DSTAT_SIR == 0 {
            client.write(self.registers + ISTAT, 1, ISTAT_SRST)?;
            client.write(self.registers + ISTAT, 1, 0)?;
            return Ok(false);
        }
        Ok(true)
    }
}
