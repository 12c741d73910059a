//! Copies between a buffer and what a device reaches: one request for each 4 KiB, and several of them to a guard.
//!
//! Each piece is decided before the one in front of it is moved, so that its beginning is on its way meanwhile; the processor would see it
//! come only where it lies behind the other.

use core::ops::Range;

use portcullis_spec::{Access, FaultReason, Iova, PhysAddr};

use crate::engine::{AccessError, Architecture, Stop};
use crate::host::{HostSlice, HostStretch};
use crate::memory::{GuestMemory, MemoryError};
use crate::port::{Port, Settled};
use crate::refusal::Refusal;
use crate::visit::Visit;

/// How many pieces are copied in one guard, so that whoever drains waits for 64 KiB and not for all of it.
const PIECES: usize = 16;

/// A buffer that is copied to or from.
pub(crate) trait Buffer {
    /// What the device does.
    const ACCESS: Access;

    /// Bytes.
    fn len(&self) -> usize;

    /// Whether memory is told where bytes went.
    fn is_tracked(memory: &dyn GuestMemory) -> bool;

    /// Moves the bytes of a piece that lies in this process.
    fn copy(&mut self, piece: Range<usize>, slice: HostSlice<'_>);

    /// Moves the bytes of a piece that may lie anywhere.
    fn ask(&mut self, piece: Range<usize>, memory: &dyn GuestMemory, at: PhysAddr)
    -> Result<(), MemoryError>;

    /// A piece is to be taken for done, without effect.
    fn ignore(&mut self, piece: Range<usize>);

    /// The bytes that a piece writes, if it does.
    fn written(&self, piece: Range<usize>) -> Option<&[u8]>;

    /// The four bytes that a piece writes, if it does.
    fn message(&self, piece: Range<usize>) -> Option<[u8; 4]> {
        self.written(piece)?.try_into().ok()
    }
}

/// What a device reads goes here.
pub(crate) struct Out<'b>(pub(crate) &'b mut [u8]);

impl Buffer for Out<'_> {
    const ACCESS: Access = Access::READ;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_tracked(_: &dyn GuestMemory) -> bool {
        false
    }

    #[inline(always)]
    fn copy(&mut self, piece: Range<usize>, slice: HostSlice<'_>) {
        slice.read(0, &mut self.0[piece]);
    }

    fn ask(
        &mut self,
        piece: Range<usize>,
        memory: &dyn GuestMemory,
        at: PhysAddr,
    ) -> Result<(), MemoryError> {
        memory.read(at, &mut self.0[piece])
    }

    fn ignore(&mut self, piece: Range<usize>) {
        self.0[piece].fill(0);
    }

    fn written(&self, _: Range<usize>) -> Option<&[u8]> {
        None
    }
}

/// What a device writes comes from here.
pub(crate) struct In<'b>(pub(crate) &'b [u8]);

impl Buffer for In<'_> {
    const ACCESS: Access = Access::WRITE;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_tracked(memory: &dyn GuestMemory) -> bool {
        memory.tracks_writes()
    }

    #[inline(always)]
    fn copy(&mut self, piece: Range<usize>, slice: HostSlice<'_>) {
        slice.write(0, &self.0[piece]);
    }

    fn ask(
        &mut self,
        piece: Range<usize>,
        memory: &dyn GuestMemory,
        at: PhysAddr,
    ) -> Result<(), MemoryError> {
        memory.write(at, &self.0[piece])
    }

    fn ignore(&mut self, _: Range<usize>) {}

    fn written(&self, piece: Range<usize>) -> Option<&[u8]> {
        Some(&self.0[piece])
    }
}

/// Where the bytes of a piece lie.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// In this process.
    Here(HostSlice<'a>),
    /// Where memory knows.
    There(PhysAddr),
}

/// The part of `length` bytes from `iova` on that begins `done` bytes after it and lies in one 4 KiB. `None` where the address wraps
/// around.
#[inline(always)]
fn piece(iova: Iova, done: usize, length: usize) -> Option<(Iova, Range<usize>)> {
    let at = iova.checked_add(done as u64)?;
    let to_end = 0x1000 - (at.0 & 0xfff) as usize;
    Some((at, done..done + to_end.min(length - done)))
}

/// Memory, and the stretch of it that was last looked at.
struct Near<'m> {
    memory: &'m dyn GuestMemory,
    tracked: bool,
    stretch: Option<HostStretch>,
}

impl<'m> Near<'m> {
    /// Where `bytes` bytes from `at` on lie.
    #[inline(always)]
    fn place(&mut self, at: PhysAddr, bytes: usize) -> Place<'m> {
        if self.tracked {
            return Place::There(at);
        }
        let slice = self.stretch.and_then(|stretch| stretch.slice(self.memory, at, bytes));
        slice.map_or_else(|| self.place_elsewhere(at, bytes), Place::Here)
    }

    #[cold]
    fn place_elsewhere(&mut self, at: PhysAddr, bytes: usize) -> Place<'m> {
        self.stretch = self.memory.host_stretch(at);
        let slice = self.stretch.and_then(|stretch| stretch.slice(self.memory, at, bytes));
        slice.map_or(Place::There(at), Place::Here)
    }
}

/// A piece that did not go through: why, or that its address wraps around.
struct Stopped<R> {
    why: Option<Stop<R>>,
    piece: Range<usize>,
}

/// Where to go on, and what stopped it.
type Moved<R> = (usize, Option<Stopped<R>>);

/// Moves all bytes of `buffer`, which stands for those from `iova` on. An empty one is translated all the same.
///
/// # Errors
/// The first request that fails; those before it have been done.
pub(crate) fn copy<A: Architecture, B: Buffer>(
    port: &Port<A>,
    iova: Iova,
    buffer: &mut B,
) -> Result<(), AccessError> {
    let memory = port.engine().memory();
    let mut near = Near { memory, tracked: B::is_tracked(memory), stretch: None };
    let mut done = 0;
    loop {
        let mut visit = Some(Visit::new(port));
        let (end, stopped) = move_some(port, &mut visit, &mut near, iova, done, buffer)?;
        done = match stopped {
            None => end,
            Some(stopped) => match settle(port, visit, iova, stopped, buffer)? {
                Some(end) => end,
                None => {
                    done = end;
                    continue;
                }
            },
        };
        if done == buffer.len() {
            return Ok(());
        }
    }
}

/// Moves as much as one guard may.
#[inline(always)]
fn move_some<A: Architecture, B: Buffer>(
    port: &Port<A>,
    visit: &mut Option<Visit<'_, A>>,
    near: &mut Near<'_>,
    iova: Iova,
    done: usize,
    buffer: &mut B,
) -> Result<Moved<A::Record>, AccessError> {
    let length = buffer.len();
    let (mut end, mut stopped) = (done, None);
    // Decided, and not moved yet.
    let mut ready: Option<(Range<usize>, Place<'_>)> = None;
    for _ in 0..PIECES {
        let Some(inside) = visit.as_ref() else { break };
        let Some((at, piece)) = piece(iova, end, length) else {
            stopped = Some(Stopped { why: None, piece: end..length });
            break;
        };
        let address = match inside.hit(at, piece.len() as u64, B::ACCESS) {
            Some(reached) => reached.address,
            None => match inside.decide(&port.transaction(at, piece.len() as u64, B::ACCESS)) {
                Ok(translation) => translation.address,
                Err(stop) => {
                    stopped = Some(Stopped { why: Some(stop), piece });
                    break;
                }
            },
        };
        let place = near.place(address, piece.len());
        if let Place::Here(slice) = place {
            slice.fetch_ahead();
        }
        end = piece.end;
        if let Some((piece, place)) = ready.replace((piece, place)) {
            move_piece(port, piece, place, buffer)?;
        }
        if end == length {
            break;
        }
    }
    if cfg!(mutant = "guard_left_early") {
        *visit = None;
    }
    if let Some((piece, place)) = ready {
        move_piece(port, piece, place, buffer)?;
    }
    Ok((end, stopped))
}

/// Moves the bytes of a piece.
#[inline(always)]
fn move_piece<A: Architecture, B: Buffer>(
    port: &Port<A>,
    piece: Range<usize>,
    place: Place<'_>,
    buffer: &mut B,
) -> Result<(), AccessError> {
    match place {
        Place::Here(slice) => buffer.copy(piece, slice),
        Place::There(at) => {
            if let Err(error) = buffer.ask(piece.clone(), port.engine().memory(), at) {
                let data = buffer.message(piece).ok_or(error)?;
                port.message(at, data).ok_or(error)?;
            }
        }
    }
    Ok(())
}

/// Finds out what becomes of a piece that was stopped. Where to go on; `None` where the piece is to be tried again.
#[cold]
fn settle<A: Architecture, B: Buffer>(
    port: &Port<A>,
    visit: Option<Visit<'_, A>>,
    iova: Iova,
    Stopped { why, piece }: Stopped<A::Record>,
    buffer: &mut B,
) -> Result<Option<usize>, AccessError> {
    let Some(mut stop) = why else {
        let last = port.transaction(Iova(u64::MAX), piece.len() as u64, B::ACCESS);
        drop(visit);
        return Err(port.engine().refuse_outright(&last, Refusal::new(FaultReason::AddressSize)));
    };
    let at = Iova(iova.0.wrapping_add(piece.start as u64));
    let transaction = port.transaction(at, piece.len() as u64, B::ACCESS);
    // An interrupt file is written inside the guard too.
    if let (Stop::File { refusal, .. }, Some(visit)) = (&stop, &visit) {
        match port.access_file(&transaction, *refusal, buffer.written(piece.clone()), visit.inside()) {
            Ok(()) => {
                let end = piece.end;
                buffer.ignore(piece);
                return Ok(Some(end));
            }
            Err(report) => stop = Stop::Refused(report),
        }
    }
    drop(visit);
    let end = piece.end;
    match port.settle(stop)? {
        Settled::Retry => return Ok(None),
        Settled::ZeroAndIgnore => buffer.ignore(piece),
        Settled::Interrupt => match buffer.message(piece) {
            Some(data) => port.engine().interrupt(&transaction, u32::from_le_bytes(data))?,
            None => return Err(port.engine().refuse_interrupt(&transaction)),
        },
    }
    Ok(Some(end))
}
