//! The memory that an IOMMU reads its tables from and that devices reach through it.

mod owned;
#[cfg(feature = "vm-memory")]
mod vm;

use core::ptr::NonNull;
use std::sync::Arc;

use portcullis_spec::PhysAddr;

pub use owned::OwnedMemory;
#[cfg(feature = "vm-memory")]
pub use vm::VmMemory;

/// Why memory could not be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum MemoryError {
    /// No memory, or not all of it, lies there.
    #[error("no memory at {address}")]
    NotMemory {
        /// First byte of the access.
        address: PhysAddr,
    },
    /// An atomic access is not aligned to its size.
    #[error("misaligned atomic access at {address}")]
    Misaligned {
        /// First byte of the access.
        address: PhysAddr,
    },
}

/// Memory as a device sees it behind its IOMMU: of a guest, or of a simulated machine.
///
/// Multi-byte atomic accesses are little-endian and aligned. Loads have at least acquire and stores release ordering, so
/// that software which fills a table and then links it is understood. Addresses are any `u64`: an implementation refuses
/// what is not memory and never panics.
pub trait GuestMemory: Send + Sync {
    /// Copies bytes out.
    ///
    /// # Errors
    /// Where some byte is not memory; the buffer may then be partly filled.
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies bytes in.
    ///
    /// # Errors
    /// Where some byte is not memory; the bytes before it may then have been written.
    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Loads 32 bits at once.
    ///
    /// # Errors
    /// Where it is not memory or misaligned.
    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError>;

    /// Loads 64 bits at once.
    ///
    /// # Errors
    /// Where it is not memory or misaligned.
    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError>;

    /// Stores 32 bits at once.
    ///
    /// # Errors
    /// Where it is not memory or misaligned.
    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError>;

    /// Stores 64 bits at once.
    ///
    /// # Errors
    /// Where it is not memory or misaligned.
    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError>;

    /// Stores `new` where `current` stands, sequentially consistent. Returns what stood there: `current` if and only if
    /// `new` was stored.
    ///
    /// # Errors
    /// Where it is not memory or misaligned.
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError>;

    /// Where the `bytes` bytes from `address` on lie in this process, if they lie there in one piece for as long as this
    /// value lives, and may be accessed by anyone at any time as volatile memory is. `None` where that can't be said.
    fn host_pointer(&self, address: PhysAddr, bytes: u64) -> Option<NonNull<u8>> {
        let _ = (address, bytes);
        None
    }
}

/// Memory of which only the addresses below a power of two can be reached.
pub(crate) struct Addressable {
    memory: Arc<dyn GuestMemory>,
    bits: u8,
}

impl Addressable {
    /// `memory` below `1 << bits`.
    pub(crate) fn limit(memory: Arc<dyn GuestMemory>, bits: u8) -> Arc<dyn GuestMemory> {
        Arc::new(Self { memory, bits })
    }

    fn check(&self, address: PhysAddr, bytes: u64) -> Result<&dyn GuestMemory, MemoryError> {
        let last = address.0.checked_add(bytes.saturating_sub(1));
        if last.is_some_and(|last| last >> self.bits == 0) {
            Ok(&*self.memory)
        } else {
            Err(MemoryError::NotMemory { address })
        }
    }
}

impl GuestMemory for Addressable {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.check(address, buffer.len() as u64)?.read(address, buffer)
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(address, bytes.len() as u64)?.write(address, bytes)
    }

    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        self.check(address, 4)?.load32(address)
    }

    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        self.check(address, 8)?.load64(address)
    }

    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        self.check(address, 4)?.store32(address, value)
    }

    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        self.check(address, 8)?.store64(address, value)
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        self.check(address, 8)?.compare_exchange64(address, current, new)
    }

    fn host_pointer(&self, address: PhysAddr, bytes: u64) -> Option<NonNull<u8>> {
        self.check(address, bytes).ok()?.host_pointer(address, bytes)
    }
}

/// How often a torn read of several words is repeated before the last one is taken as it is.
const SNAPSHOT_ATTEMPTS: usize = 4;

/// Reads `N` consecutive 64-bit words as hardware fetches a table entry of that size: if someone changes it meanwhile, the
/// words are read again until two readings agree. `address` is 8-byte aligned. Software that rewrites an entry without
/// end gets the last reading, which may mix two of its versions; the architectures ask for a present bit to be
/// cleared first.
///
/// # Errors
/// Where some word is not memory or misaligned.
pub fn load_words<const N: usize>(
    memory: &dyn GuestMemory,
    address: PhysAddr,
) -> Result<[u64; N], MemoryError> {
    let mut words = read_words(memory, address)?;
    for _ in 0..SNAPSHOT_ATTEMPTS {
        let again = read_words(memory, address)?;
        if again == words {
            break;
        }
        words = again;
    }
    Ok(words)
}

fn read_words<const N: usize>(memory: &dyn GuestMemory, address: PhysAddr) -> Result<[u64; N], MemoryError> {
    let mut words = [0; N];
    let mut at = address;
    for word in &mut words {
        *word = memory.load64(at)?;
        at = PhysAddr(at.0.wrapping_add(8));
    }
    Ok(words)
}
