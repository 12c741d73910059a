//! What register files have in common: little-endian accesses by aligned doublewords and quadwords. Every other access is
//! either not allowed or unspecified (VT-d 11.2, RISC-V IOMMU 5, Arm IHI 0070 6.2): here it reads zeros and writes nothing.

/// A unit's register file, as software sees it.
pub trait Registers {
    /// Bytes of the register region.
    fn mmio_size(&self) -> u64;

    /// Reads the doubleword at `offset`, a multiple of 4.
    fn read32(&self, offset: u64) -> u32;

    /// Writes the doubleword at `offset`, a multiple of 4.
    fn write32(&self, offset: u64, value: u32);

    /// Reads the quadword at `offset`, a multiple of 8: the lower doubleword first, unless the architecture says otherwise.
    fn read64(&self, offset: u64) -> u64 {
        let low = self.read32(offset);
        u64::from(low) | u64::from(self.read32(offset.wrapping_add(4))) << 32
    }

    /// Writes the quadword at `offset`, a multiple of 8: the lower doubleword first, unless the architecture says otherwise.
    fn write64(&self, offset: u64, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset.wrapping_add(4), (value >> 32) as u32);
    }

    /// Reads registers, little-endian.
    fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match data.len() {
            4 if offset.is_multiple_of(4) => data.copy_from_slice(&self.read32(offset).to_le_bytes()),
            8 if offset.is_multiple_of(8) => data.copy_from_slice(&self.read64(offset).to_le_bytes()),
            _ => {}
        }
    }

    /// Writes registers, little-endian.
    fn mmio_write(&self, offset: u64, data: &[u8]) {
        if let Ok(bytes) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write32(offset, u32::from_le_bytes(bytes));
        } else if let Ok(bytes) = <[u8; 8]>::try_from(data)
            && offset.is_multiple_of(8)
        {
            self.write64(offset, u64::from_le_bytes(bytes));
        }
    }
}

/// The 32-bit half of a 64-bit register that `offset`, a multiple of 4, names.
#[must_use]
pub const fn half(register: u64, offset: u64) -> u32 {
    (register >> if offset & 4 == 0 { 0 } else { 32 }) as u32
}

/// Replaces the half of a 64-bit register that `offset`, a multiple of 4, names.
pub const fn put_half(register: &mut u64, offset: u64, value: u32) {
    let shift = if offset & 4 == 0 { 0 } else { 32 };
    *register = *register & !(0xffff_ffff << shift) | (value as u64) << shift;
}
