//! Registers that remember what was asked of them.

use portcullis_driver::platform::Mmio;
use std::cell::RefCell;
use std::fmt;

/// One access to a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Byte offset.
    pub offset: u64,
    /// Bytes: 4 or 8.
    pub width: u8,
    /// Whether it was a store.
    pub is_write: bool,
    /// What was loaded or stored.
    pub value: u64,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, arrow) = if self.is_write { ("write", "<-") } else { ("read", "->") };
        write!(f, "{verb}{} {:#05x} {arrow} {:#x}", u32::from(self.width) * 8, self.offset, self.value)
    }
}

/// Registers, and the accesses since the last look.
#[derive(Debug)]
pub struct Recorder<M> {
    registers: M,
    log: RefCell<Vec<Access>>,
}

impl<M> Recorder<M> {
    /// Record accesses to `registers`.
    pub const fn new(registers: M) -> Self {
        Self { registers, log: RefCell::new(Vec::new()) }
    }

    /// The accesses since the last call.
    pub fn take(&self) -> Vec<Access> {
        self.log.take()
    }

    fn note(&self, offset: u64, width: u8, is_write: bool, value: u64) {
        self.log.borrow_mut().push(Access { offset, width, is_write, value });
    }
}

impl<M: Mmio> Mmio for Recorder<M> {
    fn read32(&self, offset: u64) -> u32 {
        let value = self.registers.read32(offset);
        self.note(offset, 4, false, u64::from(value));
        value
    }

    fn read64(&self, offset: u64) -> u64 {
        let value = self.registers.read64(offset);
        self.note(offset, 8, false, value);
        value
    }

    fn write32(&self, offset: u64, value: u32) {
        self.note(offset, 4, true, u64::from(value));
        self.registers.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.note(offset, 8, true, value);
        self.registers.write64(offset, value);
    }
}
