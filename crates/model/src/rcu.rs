//! A pointer that device threads follow without a lock while others replace what it leads to.
//!
//! What was replaced stays until the gate has seen everyone out who may be looking at it. One module, because this is
//! the one place where the compiler can't see that a reference is still good: its word for it is the [`Presence`].
#![allow(unsafe_code)]

use std::any::Any;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::engine::Inside;
use crate::gate::Presence;
use crate::sync::{AtomicPtr, Ordering};

/// A published value, or none.
///
/// Presences that [`load`](Self::load) is given are of the one gate to which everything replaced is retired: the unit's.
pub(crate) struct Rcu<T> {
    pointer: AtomicPtr<T>,
    owns: PhantomData<Arc<T>>,
}

/// What was replaced and may still be looked at. Only the gate frees it; lost, it is never freed.
#[must_use = "it is freed only by the gate"]
pub(crate) struct Retired(ManuallyDrop<Arc<dyn Any + Send + Sync>>);

impl Retired {
    /// Lets go of it. Only the gate calls this, after everyone has left who was inside when it was retired.
    pub(crate) fn free(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}

impl<T> Default for Rcu<T> {
    fn default() -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }
}

impl<T: Send + Sync + 'static> Rcu<T> {
    /// What is published now. It may be replaced at any time, and stays readable as long as the presence lasts.
    #[inline]
    pub(crate) fn load<'a>(&'a self, _inside: &'a Presence<'_>) -> Option<&'a T> {
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: the pointer is null or comes from `Arc::into_raw` and was published with release ordering after the value
        // was made. It is freed only by `Retired::free`, which the gate calls after a drain that began after the pointer was
        // replaced, and that waits for this presence; or by this value's drop, which the borrow of `self` excludes.
        unsafe { pointer.as_ref() }
    }

    /// Publishes another value, or none.
    pub(crate) fn swap(&self, new: Option<Arc<T>>) -> Option<Retired> {
        let new = new.map_or(ptr::null_mut(), |new| Arc::into_raw(new).cast_mut());
        retired(self.pointer.swap(new, Ordering::AcqRel))
    }

    /// Publishes `new` unless something else than `current` is published.
    ///
    /// # Errors
    /// `new`, where something else is.
    pub(crate) fn replace(&self, current: Option<&T>, new: Arc<T>) -> Result<Option<Retired>, Arc<T>> {
        let current = current.map_or(ptr::null_mut(), |current| ptr::from_ref(current).cast_mut());
        let pointer = Arc::into_raw(new).cast_mut();
        match self.pointer.compare_exchange(current, pointer, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(old) => Ok(retired(old)),
            // SAFETY: it comes from `Arc::into_raw` just above and was not published.
            Err(_) => Err(unsafe { Arc::from_raw(pointer) }),
        }
    }
}

/// What was published when somebody came inside, for as long as he stays.
pub(crate) struct Held<'a, T> {
    value: Option<NonNull<T>>,
    inside: Inside<'a>,
    published: PhantomData<&'a Rcu<T>>,
}

impl<'a, T> Held<'a, T> {
    /// What `published` holds now.
    #[inline(always)]
    pub(crate) fn new(inside: Inside<'a>, published: &'a Rcu<T>) -> Self {
        let value = NonNull::new(published.pointer.load(Ordering::Acquire));
        Self { value, inside, published: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: as in `Rcu::load`, under the presence in `inside`, which was there before the pointer was loaded and lasts as
        // long as this does.
        self.value.map(|value| unsafe { value.as_ref() })
    }

    #[inline(always)]
    pub(crate) const fn inside(&self) -> &Inside<'a> {
        &self.inside
    }
}

fn retired<T: Send + Sync + 'static>(old: *mut T) -> Option<Retired> {
    if old.is_null() {
        return None;
    }
    // SAFETY: it comes from `Arc::into_raw` and was just taken out of the one place that had it.
    let old: Arc<T> = unsafe { Arc::from_raw(old) };
    Some(Retired(ManuallyDrop::new(old)))
}

impl<T> Drop for Rcu<T> {
    fn drop(&mut self) {
        let pointer = self.pointer.load(Ordering::Acquire);
        if !pointer.is_null() {
            // SAFETY: it comes from `Arc::into_raw`, and nobody else has this value any more.
            drop(unsafe { Arc::from_raw(pointer) });
        }
    }
}
