//! Memory that belongs to this process and starts at address zero: for tests, demonstrations and simulated platforms.

use core::sync::atomic::{AtomicU64, Ordering};

use portcullis_spec::PhysAddr;

use super::{GuestMemory, MemoryError};

/// Memory of a fixed size, zeroed, at addresses 0 to its size.
///
/// Every access is made of atomic accesses to aligned 64-bit words, so threads may share it freely.
pub struct OwnedMemory {
    words: Box<[AtomicU64]>,
    base: u64,
}

impl OwnedMemory {
    /// `bytes` bytes from address 0 on, rounded up to a multiple of 8.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self::at(PhysAddr(0), bytes)
    }

    /// `bytes` bytes from `base` on, both rounded (down and up) to a multiple of 8.
    #[must_use]
    pub fn at(base: PhysAddr, bytes: usize) -> Self {
        let words = (0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        Self { words, base: base.0 & !7 }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// The word that holds the byte at `address`.
    fn word(&self, address: PhysAddr) -> Result<&AtomicU64, MemoryError> {
        address
            .0
            .checked_sub(self.base)
            .and_then(|offset| usize::try_from(offset / 8).ok())
            .and_then(|index| self.words.get(index))
            .ok_or(MemoryError::NotMemory { address })
    }

    /// Refuses ranges that leave the memory, so that no access is done by half.
    fn check(&self, address: PhysAddr, bytes: usize) -> Result<(), MemoryError> {
        let fits = address
            .0
            .checked_sub(self.base)
            .and_then(|offset| offset.checked_add(bytes as u64))
            .is_some_and(|end| end <= self.size());
        if fits { Ok(()) } else { Err(MemoryError::NotMemory { address }) }
    }
}

fn aligned(address: PhysAddr, bytes: u64) -> Result<(), MemoryError> {
    if address.is_aligned(bytes) { Ok(()) } else { Err(MemoryError::Misaligned { address }) }
}

/// The bits of an aligned word that the 32-bit half at `address` takes, and their shift.
const fn half(address: PhysAddr) -> (u64, u32) {
    if address.0 & 4 == 0 { (0xffff_ffff, 0) } else { (0xffff_ffff << 32, 32) }
}

/// Replaces the bits of `mask` by those of `value`, leaving what others write to the rest alone.
fn merge(word: &AtomicU64, mask: u64, value: u64) {
    let mut old = word.load(Ordering::Relaxed);
    while let Err(now) =
        word.compare_exchange_weak(old, (old & !mask) | value, Ordering::Release, Ordering::Relaxed)
    {
        old = now;
    }
}

impl GuestMemory for OwnedMemory {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.check(address, buffer.len())?;
        let mut at = address.0;
        let mut rest = buffer;
        while !rest.is_empty() {
            let within = (at % 8) as usize;
            let count = rest.len().min(8 - within);
            let word = self.word(PhysAddr(at))?.load(Ordering::Acquire).to_le_bytes();
            let (piece, more) = rest.split_at_mut(count);
            piece.copy_from_slice(&word[within..within + count]);
            rest = more;
            at += count as u64;
        }
        Ok(())
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(address, bytes.len())?;
        let mut at = address.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % 8) as usize;
            let count = rest.len().min(8 - within);
            let (piece, more) = rest.split_at(count);
            let word = self.word(PhysAddr(at))?;
            let (mut value, mut mask) = ([0; 8], [0; 8]);
            value[within..within + count].copy_from_slice(piece);
            mask[within..within + count].fill(0xff);
            if count == 8 {
                word.store(u64::from_le_bytes(value), Ordering::Release);
            } else {
                merge(word, u64::from_le_bytes(mask), u64::from_le_bytes(value));
            }
            rest = more;
            at += count as u64;
        }
        Ok(())
    }

    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        aligned(address, 4)?;
        let (_, shift) = half(address);
        Ok((self.word(address)?.load(Ordering::Acquire) >> shift) as u32)
    }

    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        aligned(address, 8)?;
        Ok(self.word(address)?.load(Ordering::Acquire))
    }

    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        aligned(address, 4)?;
        let (mask, shift) = half(address);
        merge(self.word(address)?, mask, u64::from(value) << shift);
        Ok(())
    }

    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        aligned(address, 8)?;
        self.word(address)?.store(value, Ordering::Release);
        Ok(())
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        aligned(address, 8)?;
        let result = self.word(address)?.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst);
        Ok(result.unwrap_or_else(|now| now))
    }
}
