//! `intel-hda` with one codec as a DMA engine with 64-bit addresses (the SCRIPTS engine has 32).
//!
//! The controller fetches a 4-byte verb from its command ring, hands it to the codec, and writes the codec's 8-byte
//! response into its response ring, all while the ring's write pointer is being written (High Definition Audio 1.0a,
//! 4.4.1 and 4.4.2). The verb sets the converter's stream number to a value that can be read back without DMA, which
//! tells what was fetched. Started with `-device intel-hda -device hda-output,cad=0`.

use super::pci::Function;
use super::{Client, QtestError};

/// Vendor and device ID of QEMU's `intel-hda` (an ICH6 controller).
pub const IDENTITY: u32 = 0x2668_8086;

/// A response is written at an address that leaves this remainder divided by 128.
pub const WRITE_REMAINDER: u64 = 8;

/// Bytes that the response ring receives.
pub const WRITE_BYTES: usize = 8;

/// Bytes of each of the two writes by which it does.
pub const WRITE_PIECE: usize = 4;

const CORBLBASE: u64 = 0x40;
const CORBUBASE: u64 = 0x44;
const CORBWP: u64 = 0x48;
const CORBRP: u64 = 0x4a;
const CORBCTL: u64 = 0x4c;
const CORBCTL_RUN: u64 = 2;
const RIRBLBASE: u64 = 0x50;
const RIRBUBASE: u64 = 0x54;
const RIRBWP: u64 = 0x58;
const RIRBWP_RST: u64 = 0x8000;
const RINTCNT: u64 = 0x5a;
const RIRBCTL: u64 = 0x5c;
const RIRBCTL_INTERRUPT_AND_DMA: u64 = 3;
const RIRBSTS: u64 = 0x5d;
const RIRBSTS_RESPONSE: u64 = 1;
const ICW: u64 = 0x60;
const IRR: u64 = 0x64;
const ICS: u64 = 0x68;
const ICS_BUSY: u64 = 1;

/// Codec 0, node 2 (the converter).
const CONVERTER: u32 = 2 << 20;
const SET_STREAM: u32 = 0x706 << 8;
const GET_STREAM: u32 = 0xf06 << 8;

/// One engine.
#[derive(Clone, Copy, Debug)]
pub struct Hda {
    registers: u64,
}

impl Hda {
    /// The engine of a function.
    #[must_use]
    pub const fn new(function: &Function) -> Self {
        Self { registers: function.bars[0] }
    }

    /// The four bytes that [`Hda::run`] must find to return `value`.
    #[must_use]
    pub const fn verb(value: u8) -> [u8; 4] {
        (CONVERTER | SET_STREAM | value as u32).to_le_bytes()
    }

    /// Read 4 bytes from bus address `read`, a multiple of 4, then write [`WRITE_BYTES`] zeros to `write`, which leaves
    /// [`WRITE_REMAINDER`]. The value whose verb was read: 0 where zeros were.
    ///
    /// # Errors
    /// Where QEMU has ended.
    pub fn run(&self, client: &mut Client, read: u64, write: u64) -> Result<u8, QtestError> {
        let mut set = |offset, width, value| client.write(self.registers + offset, width, value);
        set(ICW, 4, u64::from(CONVERTER | SET_STREAM))?;
        set(ICS, 2, ICS_BUSY)?;

        let (command, response) = (read & !127, write & !127);
        let index = (read & 127) / 4;
        set(RINTCNT, 2, 0xff)?;
        set(RIRBLBASE, 4, response & 0xffff_ffff)?;
        set(RIRBUBASE, 4, response >> 32)?;
        set(RIRBWP, 2, RIRBWP_RST)?;
        set(RIRBCTL, 1, RIRBCTL_INTERRUPT_AND_DMA)?;
        set(CORBCTL, 1, 0)?;
        set(CORBLBASE, 4, command & 0xffff_ffff)?;
        set(CORBUBASE, 4, command >> 32)?;
        set(CORBRP, 2, index.wrapping_sub(1) & 0xff)?;
        set(CORBWP, 2, index)?;
        set(CORBCTL, 1, CORBCTL_RUN)?;
        set(CORBCTL, 1, 0)?;
        set(RIRBSTS, 1, RIRBSTS_RESPONSE)?;

        set(ICW, 4, u64::from(CONVERTER | GET_STREAM))?;
        set(ICS, 2, ICS_BUSY)?;
        Ok(client.read(self.registers + IRR, 4)? as u8)
    }
}
