//! A port as guest memory of the `vm-memory` crate: devices written for that, such as those on `virtio-queue` and vhost-user
//! back ends, run behind a unit unchanged.
#![allow(unsafe_code)]

use core::fmt;
use core::iter::FusedIterator;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::io;

use portcullis_spec::{Access, Iova, PhysAddr};
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator};
use vm_memory::{GuestAddress, GuestMemoryBackend, Permissions, VolatileSlice};

use super::{GuestMemory, MemoryError};
use crate::engine::{AccessError, Architecture};
use crate::pin::Pin;
use crate::port::Port;

/// Bytes that one slice has at most, however many lie behind one another.
const LONGEST: usize = 2 << 20;

/// `vm-memory`'s `GuestMemory` over a port: guest addresses are what the device sends, and every access is translated and
/// judged by the unit. A refusal is an error here and a fault there. `M` is the physical memory behind, which nobody reaches
/// through this.
///
/// A slice stays good for as long as it is there, whatever software invalidates meanwhile: it holds a [`Pin`], and whoever
/// invalidates waits for it. So a device drops its slices when a request is done, and nobody submits commands to the unit from
/// a thread that holds some.
pub struct PortMemory<A: Architecture, M: GuestMemoryBackend> {
    port: Port<A>,
    physical: PhantomData<fn() -> M>,
}

impl<A: Architecture, M: GuestMemoryBackend> PortMemory<A, M> {
    /// The memory that `port` reaches.
    #[must_use]
    pub const fn new(port: Port<A>) -> Self {
        Self { port, physical: PhantomData }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> &Port<A> {
        &self.port
    }
}

impl<A: Architecture, M: GuestMemoryBackend> Clone for PortMemory<A, M> {
    fn clone(&self) -> Self {
        Self::new(self.port.clone())
    }
}

impl<A: Architecture, M: GuestMemoryBackend> fmt::Debug for PortMemory<A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PortMemory").field(&self.port.requester()).field(&self.port.pasid()).finish()
    }
}

/// What a device may do who asks for `permissions`.
const fn access(permissions: Permissions) -> Access {
    match permissions {
        Permissions::No => Access::empty(),
        Permissions::Read => Access::READ,
        Permissions::Write => Access::WRITE,
        Permissions::ReadWrite => Access::READ_WRITE,
    }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::IOError(io::Error::new(io::ErrorKind::PermissionDenied, error))
}

impl<A: Architecture, M: GuestMemoryBackend> vm_memory::GuestMemory for PortMemory<A, M> {
    type PhysicalMemory = M;
    type Bitmap = Tracked;

    /// Asks the unit as an access does, so what it refuses it records.
    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        self.get_slices(addr, count, access).is_ok_and(|mut slices| slices.all(|slice| slice.is_ok()))
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        permissions: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, Held<'a>>, Error> {
        Ok(Slices {
            port: &self.port,
            at: Some(addr.0),
            left: count,
            access: access(permissions),
            ahead: None,
        })
    }
}

/// Where a piece lies.
struct Piece {
    pointer: NonNull<u8>,
    physical: PhysAddr,
    bytes: usize,
}

/// The slices of a range, each found when it is asked for. The first error is the last item.
struct Slices<'a, A: Architecture> {
    port: &'a Port<A>,
    /// Where the next piece begins; `None` behind the last address.
    at: Option<u64>,
    left: usize,
    access: Access,
    /// What ended the slice before.
    ahead: Option<Result<(Piece, Pin<'a>), Error>>,
}

impl<'a, A: Architecture> Slices<'a, A> {
    /// The next piece that lies in one page, and the pin that keeps it.
    fn piece(&mut self) -> Option<Result<(Piece, Pin<'a>), Error>> {
        if self.left == 0 {
            return None;
        }
        let Some(at) = self.at else {
            self.left = 0;
            return Some(Err(Error::GuestAddressOverflow));
        };
        let to_end = 0x1000 - (at & 0xfff) as usize;
        let bytes = self.left.min(to_end);
        let found = self.resolve(Iova(at), bytes);
        self.left = if found.is_ok() { self.left - bytes } else { 0 };
        self.at = at.checked_add(bytes as u64);
        Some(found)
    }

    fn resolve(&self, at: Iova, bytes: usize) -> Result<(Piece, Pin<'a>), Error> {
        let guard = self.port.enter();
        let translation = guard
            .translate(at, bytes as u64, self.access)
            .map_err(|fault| refused(AccessError::Refused(fault)))?;
        let physical = translation.address;
        let memory = self.port.engine().memory();
        let absent = MemoryError::NotInProcess { address: physical };
        let pointer = memory.host_pointer(physical, bytes as u64).ok_or_else(|| refused(absent))?;
        let pin = guard.pin().map_err(refused)?;
        Ok((Piece { pointer, physical, bytes }, pin))
    }

    fn slice(&self, piece: &Piece, pin: Pin<'a>) -> VolatileSlice<'a, Held<'a>> {
        let memory = self.port.engine().memory();
        let tracker = (self.access.contains(Access::WRITE) && memory.tracks_writes()).then_some(memory);
        let held = Held { tracker, first: piece.physical, _pin: Some(pin) };
        // SAFETY: the memory lives in the engine that the port keeps for `'a`; it says that these bytes are there as long as it
        // lives and that anyone may access them as volatile memory (`GuestMemory::host_pointer`). That they are still what the unit lets
        // the device reach is what the pin is for.
        unsafe { VolatileSlice::with_bitmap(piece.pointer.as_ptr(), piece.bytes, held, None) }
    }
}

impl<'a, A: Architecture> Iterator for Slices<'a, A> {
    type Item = Result<VolatileSlice<'a, Held<'a>>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut piece, pin) = match self.ahead.take().or_else(|| self.piece())? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        while piece.bytes < LONGEST
            && let Some(next) = self.piece()
        {
            match next {
                // The first one's pin is the older: nothing goes that it does not keep. Physical neighbours are taken together alone, so
                // that writes are tracked where they go.
                Ok((next, _))
                    if piece.pointer.as_ptr().wrapping_add(piece.bytes) == next.pointer.as_ptr()
                        && piece.physical.checked_add(piece.bytes as u64) == Some(next.physical) =>
                {
                    piece.bytes += next.bytes;
                }
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        Some(Ok(self.slice(&piece, pin)))
    }
}

impl<A: Architecture> FusedIterator for Slices<'_, A> {}

impl<'a, A: Architecture> GuestMemorySliceIterator<'a, Held<'a>> for Slices<'a, A> {}

/// The bitmap of a [`PortMemory`]: what is written through a slice is marked in the physical memory, where that keeps track.
#[derive(Clone, Copy, Debug)]
pub struct Tracked;

impl<'a> WithBitmapSlice<'a> for Tracked {
    type S = Held<'a>;
}

impl Bitmap for Tracked {
    fn mark_dirty(&self, _offset: usize, _length: usize) {}

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, _offset: usize) -> Held<'_> {
        Held { tracker: None, first: PhysAddr(0), _pin: None }
    }
}

/// What a slice of a [`PortMemory`] holds: the pin that keeps its bytes, and where writes are marked.
#[derive(Clone)]
pub struct Held<'a> {
    tracker: Option<&'a dyn GuestMemory>,
    first: PhysAddr,
    _pin: Option<Pin<'a>>,
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("first", &self.first).finish_non_exhaustive()
    }
}

impl<'a> WithBitmapSlice<'_> for Held<'a> {
    type S = Self;
}

impl BitmapSlice for Held<'_> {}

impl Bitmap for Held<'_> {
    fn mark_dirty(&self, offset: usize, length: usize) {
        if let Some(memory) = self.tracker {
            memory.mark_written(PhysAddr(self.first.0.wrapping_add(offset as u64)), length as u64);
        }
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { first: PhysAddr(self.first.0.wrapping_add(offset as u64)), ..self.clone() }
    }
}
