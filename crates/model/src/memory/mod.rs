//! The memory that an IOMMU reads its tables from and that devices reach through it.

mod owned;
#[cfg(feature = "vm-memory")]
mod port;
#[cfg(feature = "vm-memory")]
mod vm;

use core::ptr::NonNull;
use std::sync::Arc;

use portcullis_spec::PhysAddr;

use crate::host::HostStretch;
pub use owned::OwnedMemory;
#[cfg(feature = "vm-memory")]
pub use port::{Held, PortMemory, Tracked};
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
    /// The memory can be read and written, and has no pointer in this process.
    #[error("the memory at {address} has no address in this process")]
    NotInProcess {
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

    /// A stretch of memory around `address` of which every part lies in this process as [`host_pointer`](Self::host_pointer) says of it:
    /// the larger, the seldomer anyone asks. `None` where that can't be said.
    fn host_stretch(&self, address: PhysAddr) -> Option<HostStretch> {
        let _ = address;
        None
    }

    /// Whether somebody wants to know what is written through host pointers (for live migration, say).
    fn tracks_writes(&self) -> bool {
        false
    }

    /// Told, where [`tracks_writes`](Self::tracks_writes) says so, before `bytes` bytes from `address` on may be written
    /// through a host pointer, and again when no more will be.
    fn mark_written(&self, address: PhysAddr, bytes: u64) {
        let _ = (address, bytes);
    }
}

/// How wide an atomic operation of a device is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Width {
    /// 32 bits.
    Four,
    /// 64 bits.
    Eight,
}

impl Width {
    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The bits of a value.
    pub(crate) const fn mask(self) -> u64 {
        match self {
            Self::Four => 0xffff_ffff,
            Self::Eight => u64::MAX,
        }
    }
}

/// Replaces the little-endian value at `address`, a multiple of its width, by what `change` makes of it, if anything, at once
/// with respect to everyone else who writes it at once. Returns what stood there.
pub(crate) fn update(
    memory: &dyn GuestMemory,
    address: PhysAddr,
    width: Width,
    change: impl Fn(u64) -> Option<u64>,
) -> Result<u64, MemoryError> {
    // A narrow value is changed with its neighbour, which keeps what it has.
    let at = address.align_down(8);
    let shift = 8 * (address.0 & 7 & !(width.bytes() - 1));
    let mask = width.mask() << shift;
    let mut whole = memory.load64(at)?;
    loop {
        let old = (whole & mask) >> shift;
        let Some(new) = change(old) else { return Ok(old) };
        let found = memory.compare_exchange64(at, whole, whole & !mask | new << shift & mask)?;
        if found == whole {
            return Ok(old);
        }
        whole = found;
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

    fn host_stretch(&self, address: PhysAddr) -> Option<HostStretch> {
        self.check(address, 1).ok()?.host_stretch(address)?.below(self.bits)
    }

    fn tracks_writes(&self) -> bool {
        self.memory.tracks_writes()
    }

    fn mark_written(&self, address: PhysAddr, bytes: u64) {
        self.memory.mark_written(address, bytes);
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
