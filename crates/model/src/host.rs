//! Memory of a guest as it lies in this process: the only place where host pointers are followed.
//!
//! Others, the guest's processors above all, may write the same bytes at any time. So nothing here ever makes a Rust
//! reference to them: small aligned accesses are atomic, others are copied byte by byte or in larger pieces as the machine likes.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::num::NonZeroU64;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use portcullis_spec::PhysAddr;

/// 4 KiB of memory of this process, aligned to that.
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [AtomicU64; 512]);

/// So many zeroed pages, which the system need not provide before they are touched.
pub(crate) fn zeroed_pages(count: usize) -> Box<[Page]> {
    // SAFETY: atomics of which every byte is zero are initialised.
    unsafe { Box::new_zeroed_slice(count).assume_init() }
}

/// A page of paging entries in this process.
#[derive(Clone, Copy)]
pub(crate) struct EntryPage(NonZeroU64);

/// Bytes of an [`EntryPage`], and its alignment in this process.
pub(crate) const ENTRY_PAGE: u64 = 0x1000;

impl EntryPage {
    /// The page at a pointer that [`GuestMemory::host_pointer`](crate::GuestMemory::host_pointer) gave for [`ENTRY_PAGE`] bytes.
    /// `None` where it is not aligned to them.
    pub(crate) fn new(pointer: NonNull<u8>) -> Option<Self> {
        let address = pointer.as_ptr().expose_provenance() as u64;
        NonZeroU64::new(address).filter(|_| address.is_multiple_of(ENTRY_PAGE)).map(Self)
    }

    /// Its number, to be kept in a cache: a multiple of [`ENTRY_PAGE`].
    pub(crate) const fn number(self) -> u64 {
        self.0.get()
    }

    /// The page with a number that a cache kept.
    ///
    /// # Safety
    /// The number is that of a page that was made by [`new`](Self::new) for a memory that still lives.
    pub(crate) const unsafe fn from_number(number: u64) -> Self {
        // SAFETY: the caller says that it is a page's, none of which lies at 0.
        Self(unsafe { NonZeroU64::new_unchecked(number) })
    }

    /// Loads the little-endian entry at `offset`, whose bits outside `ff8h` do not count.
    #[inline(always)]
    pub(crate) fn load(self, offset: u64) -> u64 {
        let entry = ptr::with_exposed_provenance::<AtomicU64>((self.0.get() | (offset & 0xff8)) as usize);
        // SAFETY: the page is readable as long as the memory lives (`GuestMemory::host_pointer`), the offset lies within
        // it, and it is aligned to 8 bytes.
        u64::from_le(unsafe { (*entry).load(Ordering::Acquire) })
    }
}

/// A stretch of a guest's memory that lies in this process in one piece.
#[derive(Clone, Copy, Debug)]
pub struct HostStretch {
    first: PhysAddr,
    bytes: u64,
    pointer: NonNull<u8>,
}

// SAFETY: the bytes may be accessed by anyone at any time (`GuestMemory::host_stretch`).
unsafe impl Send for HostStretch {}
// SAFETY: as above; no access goes through a reference.
unsafe impl Sync for HostStretch {}

impl HostStretch {
    /// The `bytes` bytes from `first` on, which lie at `pointer`: a promise of whoever implements
    /// [`GuestMemory::host_stretch`](crate::GuestMemory::host_stretch). `None` where addresses and pointers are not aligned
    /// alike to 8 bytes.
    #[must_use]
    pub fn new(first: PhysAddr, bytes: u64, pointer: NonNull<u8>) -> Option<Self> {
        let address = pointer.as_ptr().expose_provenance() as u64;
        (first.0 ^ address).is_multiple_of(8).then_some(Self { first, bytes, pointer })
    }

    /// The same below `1 << bits`. `None` where nothing is.
    pub(crate) fn below(self, bits: u8) -> Option<Self> {
        let end = 1u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
        let bytes = self.bytes.min(end.checked_sub(self.first.0).filter(|bytes| *bytes != 0)?);
        Some(Self { bytes, ..self })
    }

    /// How far behind the first byte `bytes` bytes from `address` on lie, if all of them are there.
    #[inline(always)]
    fn offset(self, address: PhysAddr, bytes: u64) -> Option<usize> {
        let offset = address.0.wrapping_sub(self.first.0);
        (offset < self.bytes && bytes <= self.bytes - offset).then_some(offset as usize)
    }

    /// The pointer to `bytes` bytes from `address` on, if all of them are there.
    #[inline(always)]
    pub(crate) fn pointer(self, address: PhysAddr, bytes: u64) -> Option<NonNull<u8>> {
        NonNull::new(self.pointer.as_ptr().wrapping_add(self.offset(address, bytes)?))
    }

    /// `bytes` bytes from `address` on of the memory that said so of this stretch, if all of them are there.
    #[inline(always)]
    pub(crate) fn slice<'a>(
        self,
        _memory: &'a dyn crate::GuestMemory,
        address: PhysAddr,
        bytes: usize,
    ) -> Option<HostSlice<'a>> {
        Some(HostSlice::new(self.pointer(address, bytes as u64)?, bytes))
    }
}

/// The whole pages of a stretch, for entries to be found in.
#[derive(Clone, Copy)]
pub(crate) struct EntryStretch {
    first: u64,
    bytes: u64,
    /// Where the first page lies in this process.
    place: NonZeroU64,
}

impl EntryStretch {
    /// `None` where its pages are not aligned in this process too, or there are none.
    pub(crate) fn new(stretch: HostStretch) -> Option<Self> {
        let first = stretch.first.0.checked_next_multiple_of(ENTRY_PAGE)?;
        let bytes = stretch.bytes.checked_sub(first - stretch.first.0)? & !(ENTRY_PAGE - 1);
        let pointer = stretch.pointer(PhysAddr(first), bytes.max(1))?;
        Some(Self { first, bytes, place: EntryPage::new(pointer)?.0 })
    }

    /// The page that an address lies in.
    #[inline(always)]
    pub(crate) fn page_around(self, address: PhysAddr) -> Option<EntryPage> {
        let offset = (address.0 & !(ENTRY_PAGE - 1)).wrapping_sub(self.first);
        // Stretches don't wrap around.
        (offset < self.bytes).then(|| EntryPage(self.place.saturating_add(offset)))
    }
}

/// Some bytes of a guest's memory in this process, readable or writable or both as the request was that found them.
///
/// Others may write them at any time, and what is read twice may differ.
#[derive(Clone, Copy, Debug)]
pub struct HostSlice<'a> {
    pointer: NonNull<u8>,
    length: usize,
    memory: PhantomData<&'a ()>,
}

// SAFETY: the bytes may be accessed by anyone at any time (`GuestMemory::host_pointer`).
unsafe impl Send for HostSlice<'_> {}
// SAFETY: as above; no access goes through a reference.
unsafe impl Sync for HostSlice<'_> {}

impl<'a> HostSlice<'a> {
    /// The bytes at a pointer that [`GuestMemory::host_pointer`](crate::GuestMemory::host_pointer) gave for so many.
    pub(crate) const fn new(pointer: NonNull<u8>, length: usize) -> Self {
        Self { pointer, length, memory: PhantomData }
    }

    /// Where they begin. Following the pointer is good as long as what the slice borrows from lasts: a guard, or a pin.
    #[must_use]
    pub const fn as_ptr(self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    /// How many they are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.length
    }

    /// Whether they are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// This slice and the one right behind it as one, or `None` where there is something between.
    pub(crate) fn join(self, next: Self) -> Option<Self> {
        (self.pointer.as_ptr().wrapping_add(self.length) == next.pointer.as_ptr())
            .then_some(Self { length: self.length + next.length, ..self })
    }

    /// Asks for the first bytes, which are wanted soon: nothing that runs on ahead knows where the next page lies.
    #[inline(always)]
    pub(crate) fn fetch_ahead(self) {
        #[cfg(target_arch = "x86_64")]
        for line in (0..self.length.min(FETCHED_AHEAD)).step_by(64) {
            // SAFETY: a hint, which reads nothing.
            unsafe {
                use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.pointer.as_ptr().wrapping_add(line).cast());
            }
        }
    }

    /// Copies bytes from `offset` on out, as many as the buffer takes and the slice has. Returns how many.
    pub fn read(self, offset: usize, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.length.saturating_sub(offset));
        if count > 0 {
            // SAFETY: `count` bytes from `offset` on lie within the slice.
            unsafe { copy_out(self.pointer.as_ptr().add(offset), &mut buffer[..count]) };
        }
        count
    }

    /// Copies bytes in from `offset` on, as many as there are and the slice has room for. Returns how many.
    pub fn write(self, offset: usize, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.length.saturating_sub(offset));
        if count > 0 {
            // SAFETY: `count` bytes from `offset` on lie within the slice.
            unsafe { copy_in(self.pointer.as_ptr().add(offset), &bytes[..count]) };
        }
        count
    }
}

/// Bytes of a slice that are asked for before it is copied: what follows, the processor sees coming.
#[cfg(target_arch = "x86_64")]
const FETCHED_AHEAD: usize = 256;

/// Bytes that are copied at once. More are often left to a string instruction, over which the processor does not run on ahead to what
/// comes next.
const PIECE: usize = 2048;

/// Copies bytes out; 1, 2, 4 or 8 aligned bytes at once.
///
/// # Safety
/// As many bytes as the buffer has are readable at `from`.
unsafe fn copy_out(from: *const u8, buffer: &mut [u8]) {
    let address = from.addr();
    // SAFETY: the caller says that the bytes are readable; the atomic types are as large as the buffer, and aligned.
    unsafe {
        match buffer.len() {
            1 => buffer[0] = (*from.cast::<AtomicU8>()).load(Ordering::Acquire),
            2 if address.is_multiple_of(2) => {
                buffer.copy_from_slice(&(*from.cast::<AtomicU16>()).load(Ordering::Acquire).to_ne_bytes());
            }
            4 if address.is_multiple_of(4) => {
                buffer.copy_from_slice(&(*from.cast::<AtomicU32>()).load(Ordering::Acquire).to_ne_bytes());
            }
            8 if address.is_multiple_of(8) => {
                buffer.copy_from_slice(&(*from.cast::<AtomicU64>()).load(Ordering::Acquire).to_ne_bytes());
            }
            _ => {
                for (index, piece) in buffer.chunks_mut(PIECE).enumerate() {
                    ptr::copy_nonoverlapping(from.add(index * PIECE), piece.as_mut_ptr(), piece.len());
                }
                fence(Ordering::Acquire);
            }
        }
    }
}

/// Copies bytes in; 1, 2, 4 or 8 aligned bytes at once.
///
/// # Safety
/// As many bytes as there are may be written at `to`.
unsafe fn copy_in(to: *mut u8, bytes: &[u8]) {
    let address = to.addr();
    // SAFETY: the caller says that the bytes are writable; the atomic types are as large as they are many, and aligned.
    unsafe {
        match *bytes {
            [byte] => (*to.cast::<AtomicU8>()).store(byte, Ordering::Release),
            [a, b] if address.is_multiple_of(2) => {
                (*to.cast::<AtomicU16>()).store(u16::from_ne_bytes([a, b]), Ordering::Release);
            }
            [a, b, c, d] if address.is_multiple_of(4) => {
                (*to.cast::<AtomicU32>()).store(u32::from_ne_bytes([a, b, c, d]), Ordering::Release);
            }
            [a, b, c, d, e, f, g, h] if address.is_multiple_of(8) => {
                let value = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                (*to.cast::<AtomicU64>()).store(value, Ordering::Release);
            }
            _ => {
                fence(Ordering::Release);
                for (index, piece) in bytes.chunks(PIECE).enumerate() {
                    ptr::copy_nonoverlapping(piece.as_ptr(), to.add(index * PIECE), piece.len());
                }
            }
        }
    }
}
