//! The registers of a model, for the driver in the same process.

use portcullis_driver::platform::Mmio;
use portcullis_model::Registers;

/// A model's registers, as a driver reaches them.
pub struct UnitRegisters<U>(pub U);

impl<U: Registers> Mmio for UnitRegisters<U> {
    fn read32(&self, offset: u64) -> u32 {
        self.0.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.0.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.0.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.0.write64(offset, value);
    }
}
