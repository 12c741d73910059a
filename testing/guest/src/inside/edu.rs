//! QEMU's `edu` device (docs/specs/edu.rst): a DMA engine with 4 KiB of its own, and one interrupt.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use portcullis_client::device::{Device, Mapped};

/// The highest address that it can send: it has 28 bits.
pub(crate) const HIGHEST: u64 = (1 << 28) - 1;

const IDENTITY: u64 = 0x00;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// Where its own memory is in DMA addresses.
const BUFFER: u64 = 0x40000;
const RUN: u64 = 1;
const TO_MEMORY: u64 = 2;

/// The device.
pub(crate) struct Edu {
    pub(crate) device: Device,
    registers: Mapped,
}

impl Edu {
    pub(crate) fn start(device: Device) -> io::Result<Self> {
        device.enable()?;
        let registers = device.registers(0)?;
        let identity: u32 = registers.read(IDENTITY)?;
        if identity & 0xff != 0xed {
            return Err(io::Error::other(format!("identity {identity:#x} is not edu's")));
        }
        Ok(Self { device, registers })
    }

    /// Has it read `count` bytes at `address` into its own memory. Whether it arrived, it does not tell.
    pub(crate) fn read_memory(&self, address: u64, count: u64) -> io::Result<()> {
        self.transfer(address, BUFFER, count, 0)
    }

    /// Has it write the first `count` bytes of its own memory to `address`.
    pub(crate) fn write_memory(&self, address: u64, count: u64) -> io::Result<()> {
        self.transfer(BUFFER, address, count, TO_MEMORY)
    }

    fn transfer(&self, source: u64, destination: u64, count: u64, direction: u64) -> io::Result<()> {
        self.registers.write(SOURCE, source)?;
        self.registers.write(DESTINATION, destination)?;
        self.registers.write(COUNT, count)?;
        self.registers.write(COMMAND, RUN | direction)?;
        // It takes 100 ms, or as long as a busy host lets it wait.
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.registers.read::<u64>(COMMAND)? & RUN != 0 {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Raises its interrupt.
    pub(crate) fn raise(&self) -> io::Result<()> {
        self.registers.write(RAISE, 1u32)
    }

    /// Takes its interrupt back.
    pub(crate) fn acknowledge(&self) -> io::Result<()> {
        self.registers.write(ACKNOWLEDGE, 1u32)
    }
}
