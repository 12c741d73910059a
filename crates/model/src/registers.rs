//! What register files have in common: little-endian accesses by aligned doublewords and quadwords. Every other access is
//! either not allowed or unspecified (VT-d 11.2, RISC-V IOMMU 5, Arm IHI 0070 6.2): here it reads zeros and writes nothing.

/// Reads a register region by `read32` and `read64`.
pub fn read(offset: u64, data: &mut [u8], read32: impl FnOnce(u64) -> u32, read64: impl FnOnce(u64) -> u64) {
    data.fill(0);
    match data.len() {
        4 if offset.is_multiple_of(4) => data.copy_from_slice(&read32(offset).to_le_bytes()),
        8 if offset.is_multiple_of(8) => data.copy_from_slice(&read64(offset).to_le_bytes()),
        _ => {}
    }
}

/// Writes a register region by `write32` and `write64`.
pub fn write(offset: u64, data: &[u8], write32: impl FnOnce(u64, u32), write64: impl FnOnce(u64, u64)) {
    if let Ok(bytes) = <[u8; 4]>::try_from(data)
        && offset.is_multiple_of(4)
    {
        write32(offset, u32::from_le_bytes(bytes));
    } else if let Ok(bytes) = <[u8; 8]>::try_from(data)
        && offset.is_multiple_of(8)
    {
        write64(offset, u64::from_le_bytes(bytes));
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
