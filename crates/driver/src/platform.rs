//! What the driver asks of the machine that it runs on: registers, memory, time, and a lock.
//!
//! A kernel implements these over its own mappings, page allocator and clock; a test over a model; an oracle over another
//! program's socket. Everything is static dispatch. All methods take `&self`: whoever implements them makes them as
//! concurrent as the driver may be called (a single-threaded platform needs no atomics at all).

use core::time::Duration;

use alloc::sync::Arc;
use portcullis_spec::PhysAddr;

/// The registers of one unit. Offsets are bytes from the unit's register base.
///
/// The driver keeps to the architecture's widths: it accesses a 64-bit register with `read64` and `write64` only where
/// two 32-bit accesses (low half first) do as well, so a platform without 64-bit MMIO may split them.
pub trait Mmio {
    /// Loads 32 bits from `offset`, a multiple of 4.
    fn read32(&self, offset: u64) -> u32;
    /// Loads 64 bits from `offset`, a multiple of 8.
    fn read64(&self, offset: u64) -> u64;
    /// Stores 32 bits to `offset`, a multiple of 4. Every earlier [`Memory`] store is visible to the unit before.
    fn write32(&self, offset: u64, value: u32);
    /// Stores 64 bits to `offset`, a multiple of 8. Every earlier [`Memory`] store is visible to the unit before.
    fn write64(&self, offset: u64, value: u64);
}

/// Memory that both the driver and the unit can reach, in blocks that the driver allocates and frees.
///
/// Addresses are the unit's. Values are in the machine's byte order as the unit reads them (little-endian on all
/// machines served so far); a platform on a big-endian processor swaps here. Only blocks from [`Memory::allocate`] are
/// ever touched.
pub trait Memory {
    /// A zeroed, physically contiguous block of `size` bytes at a multiple of `align`, or `None` where memory is out.
    /// Both are powers of two, and at least 4096.
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr>;
    /// Takes back a block. `size` and `align` are those it was allocated with. The unit cannot reach it any more.
    fn free(&self, address: PhysAddr, size: u64, align: u64);

    /// Loads 32 bits; `address` is a multiple of 4. Sees everything that the unit wrote before what an earlier load saw.
    fn load32(&self, address: PhysAddr) -> u32;
    /// Stores 32 bits; `address` is a multiple of 4. One single-copy atomic store, after all earlier ones.
    fn store32(&self, address: PhysAddr, value: u32);
    /// Loads 64 bits; `address` is a multiple of 8.
    fn load64(&self, address: PhysAddr) -> u64;
    /// Stores 64 bits; `address` is a multiple of 8. One single-copy atomic store, after all earlier ones.
    fn store64(&self, address: PhysAddr, value: u64);
    /// Stores `new` where `current` stands, atomically also towards the unit. The value that stood there: `Ok` where it
    /// was `current`, `Err` where it wasn't and nothing was stored.
    ///
    /// # Errors
    /// What stood there instead of `current`.
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64>;

    /// Stores `count` values from `address` on, `value(0)` first, each as by [`Memory::store64`]. The default does them one by
    /// one; a platform that can do better (one bounds check, one message) says how here.
    fn store64_run(&self, address: PhysAddr, count: usize, mut value: impl FnMut(usize) -> u64) {
        for index in 0..count {
            self.store64(PhysAddr(address.0.wrapping_add(8 * index as u64)), value(index));
        }
    }

    /// The index of the first of `count` values from `address` on that is not zero. The default loads them one by one.
    fn find_used64(&self, address: PhysAddr, count: usize) -> Option<usize> {
        (0..count).find(|index| self.load64(PhysAddr(address.0.wrapping_add(8 * *index as u64))) != 0)
    }

    /// Stores zero over those of `count` values from `address` on that `goes` says so of, each loaded and stored as by
    /// [`Memory::load64`] and [`Memory::store64`]. How many those were. The default does them one by one.
    fn clear64_run(&self, address: PhysAddr, count: usize, mut goes: impl FnMut(u64) -> bool) -> usize {
        let at = |index: usize| PhysAddr(address.0.wrapping_add(8 * index as u64));
        let mut cleared = 0;
        for index in 0..count {
            if goes(self.load64(at(index))) {
                self.store64(at(index), 0);
                cleared += 1;
            }
        }
        cleared
    }

    /// Writes `length` bytes from `address` on back from the processor's caches and drops them there, so that the unit reads
    /// what was stored and the next load sees what the unit wrote, and completes before it returns. Called only for units that
    /// don't snoop the caches; nothing to do on a machine where all do.
    fn flush(&self, address: PhysAddr, length: u64);
}

/// Time, for time-outs and deferral.
pub trait Clock {
    /// Time since any fixed moment. Never goes back.
    fn now(&self) -> Duration;
    /// Called in every round of a loop that waits for the unit: a processor's pause instruction, a yield, or, where the
    /// unit is simulated in the same thread, a step of the simulation.
    fn relax(&self);
}

/// Mutual exclusion around a value. Short stretches only: the driver never waits for the unit with a lock held.
///
/// Taking a closure rather than returning a guard, a kernel can disable interrupts around it, and the driver needs no
/// unsafe code. A single-threaded platform uses [`core::cell::RefCell`]; with the feature `std` there is
/// `std::sync::Mutex`.
pub trait Lock<T> {
    /// A lock around `value`.
    fn new(value: T) -> Self;
    /// Runs `critical` with the value, alone.
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Lock<T> for core::cell::RefCell<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.borrow_mut())
    }
}

#[cfg(feature = "std")]
impl<T> Lock<T> for std::sync::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Everything but the registers, which are one per unit.
pub trait Platform: Memory + Clock {
    /// The lock around the driver's own state.
    type Lock<T>: Lock<T>;
}

/// Writes the traits for a pointer to a thing that has them.
macro_rules! through_pointer {
    ($target:ident, $pointer:ty, $($life:lifetime)?) => {
        impl<$($life,)? $target: Mmio> Mmio for $pointer {
            fn read32(&self, offset: u64) -> u32 {
                (**self).read32(offset)
            }
            fn read64(&self, offset: u64) -> u64 {
                (**self).read64(offset)
            }
            fn write32(&self, offset: u64, value: u32) {
                (**self).write32(offset, value);
            }
            fn write64(&self, offset: u64, value: u64) {
                (**self).write64(offset, value);
            }
        }

        impl<$($life,)? $target: Memory> Memory for $pointer {
            fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
                (**self).allocate(size, align)
            }
            fn free(&self, address: PhysAddr, size: u64, align: u64) {
                (**self).free(address, size, align);
            }
            fn load32(&self, address: PhysAddr) -> u32 {
                (**self).load32(address)
            }
            fn store32(&self, address: PhysAddr, value: u32) {
                (**self).store32(address, value);
            }
            #[inline]
            fn load64(&self, address: PhysAddr) -> u64 {
                (**self).load64(address)
            }
            #[inline]
            fn store64(&self, address: PhysAddr, value: u64) {
                (**self).store64(address, value);
            }
            fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
                (**self).compare_exchange64(address, current, new)
            }
            #[inline]
            fn store64_run(&self, address: PhysAddr, count: usize, value: impl FnMut(usize) -> u64) {
                (**self).store64_run(address, count, value);
            }
            #[inline]
            fn find_used64(&self, address: PhysAddr, count: usize) -> Option<usize> {
                (**self).find_used64(address, count)
            }
            #[inline]
            fn clear64_run(
                &self,
                address: PhysAddr,
                count: usize,
                goes: impl FnMut(u64) -> bool,
            ) -> usize {
                (**self).clear64_run(address, count, goes)
            }
            fn flush(&self, address: PhysAddr, length: u64) {
                (**self).flush(address, length);
            }
        }

        impl<$($life,)? $target: Clock> Clock for $pointer {
            fn now(&self) -> Duration {
                (**self).now()
            }
            fn relax(&self) {
                (**self).relax();
            }
        }

        impl<$($life,)? $target: Platform> Platform for $pointer {
            type Lock<V> = $target::Lock<V>;
        }
    };
}

through_pointer!(T, &'a T, 'a);
through_pointer!(T, Arc<T>,);
