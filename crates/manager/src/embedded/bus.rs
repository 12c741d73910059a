//! The simulated machine's physical memory: the driver's own, and what clients bring.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use portcullis_driver::Prefer;
use portcullis_driver::common::iova::IovaAllocator;
use portcullis_model::{GuestMemory, MemoryError, OwnedMemory};
use portcullis_spec::{Iova, PhysAddr};

/// Where the driver's tables and queues live. Nothing that a domain may map lies there.
const POOL_FIRST: u64 = 0x1_0000;
/// Bytes for them, at most: what clients can make the driver allocate is bounded by it.
const POOL_BYTES: u64 = 256 << 20;
/// The pool's memory comes in pieces of this size, when they are first touched: what is not used costs nothing.
const PIECE: u64 = 64 << 10;
/// Where clients' memory begins.
const CLIENTS_FIRST: u64 = 1 << 32;
/// Where it ends.
const CLIENTS_LAST: u64 = (1 << 46) - 1;
/// Clients' memory is placed at multiples of this, so that large pages can map it.
const CLIENT_ALIGN: u64 = 2 << 20;

/// A client's memory.
#[derive(Clone)]
struct Region {
    bytes: u64,
    writable: bool,
    memory: Arc<dyn GuestMemory>,
}

/// Physical memory, as the unit and the driver see it.
pub struct Bus {
    pool: Vec<OnceLock<OwnedMemory>>,
    /// Free addresses of the pool, and of the clients' part.
    free: Mutex<(IovaAllocator, IovaAllocator)>,
    /// Read by every DMA that reaches memory: no lock, so that devices on different processors write nothing that both read.
    regions: ArcSwap<BTreeMap<u64, Region>>,
}

impl Default for Bus {
    fn default() -> Self {
        let pool = IovaAllocator::new(Iova(POOL_FIRST), Iova(POOL_FIRST + POOL_BYTES - 1), 12);
        let clients = IovaAllocator::new(Iova(CLIENTS_FIRST), Iova(CLIENTS_LAST), 12);
        Self {
            pool: (0..(POOL_FIRST + POOL_BYTES).div_ceil(PIECE)).map(|_| OnceLock::new()).collect(),
            free: Mutex::new((pool, clients)),
            regions: ArcSwap::default(),
        }
    }
}

impl Bus {
    fn free(&self) -> std::sync::MutexGuard<'_, (IovaAllocator, IovaAllocator)> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of the pool.
    pub(super) fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let address = self.free().0.allocate(bytes, Iova(u64::MAX), Prefer::Low).ok()?;
        Some(PhysAddr(address.0))
    }

    /// Gives a block of the pool back.
    pub(super) fn release(&self, address: PhysAddr, bytes: u64) {
        let mut free = self.free();
        if free.0.retire(Iova(address.0), bytes).is_ok() {
            free.0.release(Iova(address.0), bytes);
        }
    }

    /// Gives `bytes` bytes of client memory, made by `build` for the address that it is told, a place in physical memory, a
    /// multiple of 2 MiB. Unless `writable`, no write reaches it.
    ///
    /// # Errors
    /// What `build` says, or `None` where there is no place.
    pub fn add<E>(
        &self,
        bytes: u64,
        writable: bool,
        build: impl FnOnce(PhysAddr) -> Result<Arc<dyn GuestMemory>, E>,
    ) -> Result<PhysAddr, Option<E>> {
        let span = bytes.checked_next_multiple_of(CLIENT_ALIGN).filter(|span| *span > 0).ok_or(None)?;
        let place = self.free().1.allocate(span, Iova(u64::MAX), Prefer::Low).map_err(|_| None)?;
        match build(PhysAddr(place.0)) {
            Ok(memory) => {
                let region = Region { bytes, writable, memory };
                self.change(|regions| _ = regions.insert(place.0, region.clone()));
                Ok(PhysAddr(place.0))
            }
            Err(error) => {
                self.give_up(place, span);
                Err(Some(error))
            }
        }
    }

    /// Takes client memory away. Nothing maps it any more.
    pub fn remove(&self, place: PhysAddr) {
        let before = self.change(|regions| _ = regions.remove(&place.0));
        if let Some(region) = before.get(&place.0) {
            self.give_up(Iova(place.0), region.bytes.next_multiple_of(CLIENT_ALIGN));
        }
    }

    /// Has everyone see changed regions from now on. Those before.
    fn change(&self, change: impl Fn(&mut BTreeMap<u64, Region>)) -> Arc<BTreeMap<u64, Region>> {
        self.regions.rcu(|regions| {
            let mut regions = BTreeMap::clone(regions);
            change(&mut regions);
            regions
        })
    }

    fn give_up(&self, place: Iova, span: u64) {
        let mut free = self.free();
        if free.1.retire(place, span).is_ok() {
            free.1.release(place, span);
        }
    }

    /// Does `access` with the memory in which `bytes` bytes from `address` on lie.
    fn with<R>(
        &self,
        address: PhysAddr,
        bytes: u64,
        write: bool,
        access: impl FnOnce(&dyn GuestMemory) -> Result<R, MemoryError>,
    ) -> Result<R, MemoryError> {
        let absent = MemoryError::NotMemory { address };
        let last = address.checked_add(bytes.saturating_sub(1)).ok_or(absent)?.0;
        if address.0 >= POOL_FIRST && last < POOL_FIRST + POOL_BYTES {
            let index = address.0 / PIECE;
            if last / PIECE != index {
                return Err(absent);
            }
            let piece = usize::try_from(index).ok().and_then(|index| self.pool.get(index)).ok_or(absent)?;
            return access(piece.get_or_init(|| OwnedMemory::at(PhysAddr(index * PIECE), PIECE as usize)));
        }
        let regions = self.regions.load();
        let (first, region) = regions.range(..=address.0).next_back().ok_or(absent)?;
        if last - first >= region.bytes || (write && !region.writable) {
            return Err(absent);
        }
        access(&*region.memory)
    }
}

impl GuestMemory for Bus {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.with(address, buffer.len() as u64, false, |memory| memory.read(address, buffer))
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.with(address, bytes.len() as u64, true, |memory| memory.write(address, bytes))
    }

    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        self.with(address, 4, false, |memory| memory.load32(address))
    }

    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        self.with(address, 8, false, |memory| memory.load64(address))
    }

    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        self.with(address, 4, true, |memory| memory.store32(address, value))
    }

    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        self.with(address, 8, true, |memory| memory.store64(address, value))
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        self.with(address, 8, true, |memory| memory.compare_exchange64(address, current, new))
    }
}
