//! What threads meet at, by one name for the real thing and for the model checker.
//!
//! Tests compiled with `--cfg loom` run the gate, the published pointers and the leaf cache, the same code, on loom's atomics,
//! which try every order in which threads may see each other's accesses.

#[cfg(all(loom, test))]
pub(crate) use loom::{
    hint::spin_loop,
    sync::Mutex,
    sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, fence},
    thread::yield_now,
};
#[cfg(not(all(loom, test)))]
pub(crate) use std::{
    hint::spin_loop,
    sync::Mutex,
    sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, fence},
    thread::yield_now,
};

pub(crate) use std::sync::atomic::Ordering;

/// Orders everything before against everything after, where the access just before was a read-modify-write.
#[inline(always)]
pub(crate) fn fence_after_exchange() {
    // A locked instruction on x86 orders all loads and stores around it (Intel SDM vol. 3, 9.2.3.9), so that only the compiler
    // has to be told. The fence of its own would cost as much again.
    #[cfg(all(target_arch = "x86_64", not(miri), not(all(loom, test))))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(all(loom, test)))))]
    fence(Ordering::SeqCst);
}

/// What some threads write all the time, on cache lines of its own: two, for processors that fetch them in pairs. Threads that only
/// read what would lie beside it are not slowed.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> std::ops::Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Locks; whoever panicked while holding the lock has left nothing half done that matters here.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
