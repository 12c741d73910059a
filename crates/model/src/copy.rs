//! Copies between a buffer and what a device reaches: one request for each 4 KiB, and several of them to a guard.
//!
//! All requests of a guard are decided before the first byte moves. While one piece is copied, the beginning of the next is on its
//! way already; the processor would see it come only where it lies behind the one before.

use core::ops::Range;

use portcullis_spec::{Access, FaultReason, Iova, PhysAddr, Transaction};

use crate::engine::{AccessError, Architecture, Stop};
use crate::host::{HostSlice, HostStretch};
use crate::memory::{GuestMemory, MemoryError};
use crate::port::{Port, Settled};
use crate::refusal::Refusal;

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
    let tracked = B::is_tracked(memory);
    let length = buffer.len();
    let mut transaction = port.transaction(iova, 0, B::ACCESS);
    let mut stretch: Option<HostStretch> = None;
    let mut done = 0;
    loop {
        let mut places = [Place::There(PhysAddr(0)); PIECES];
        let mut count = 0;
        let mut ahead = done;
        let mut stopped = None;
        let inside = port.engine().enter();
        for place in &mut places {
            let Some((at, range)) = piece(iova, ahead, length) else { break };
            (transaction.address, transaction.length) = (at, range.len() as u64);
            let output = match port.pass(&transaction, &inside) {
                Ok(translation) => translation.address,
                Err(stop) => {
                    stopped = Some((stop, range));
                    break;
                }
            };
            if !tracked {
                let here = |stretch: &HostStretch| stretch.slice(memory, output, range.len());
                let mut slice = stretch.as_ref().and_then(here);
                if slice.is_none() {
                    stretch = memory.host_stretch(output);
                    slice = stretch.as_ref().and_then(here);
                }
                *place = slice.map_or(Place::There(output), Place::Here);
            } else {
                *place = Place::There(output);
            }
            count += 1;
            ahead = range.end;
            if ahead == length {
                break;
            }
        }
        // What was decided is done while it holds.
        let inside = if cfg!(mutant = "guard_left_early") {
            drop(inside);
            None
        } else {
            Some(inside)
        };
        for (index, place) in places[..count].iter().enumerate() {
            let Some((_, range)) = piece(iova, done, length) else { break };
            done = range.end;
            match place {
                Place::Here(slice) => {
                    if let Some(Place::Here(next)) = places[..count].get(index + 1) {
                        next.fetch_ahead();
                    }
                    buffer.copy(range, *slice);
                }
                Place::There(at) => {
                    if let Err(error) = buffer.ask(range.clone(), memory, *at) {
                        let data = buffer.message(range).ok_or(error)?;
                        port.message(*at, data).ok_or(error)?;
                    }
                }
            }
        }
        // An interrupt file is written inside the guard too.
        let mut filed = false;
        if let (Some((Stop::File { refusal, .. }, range)), Some(inside)) = (&stopped, &inside) {
            let data = buffer.written(range.clone());
            stopped = match port.access_file(&transaction, *refusal, data, inside) {
                Ok(()) => {
                    filed = true;
                    done = range.end;
                    buffer.ignore(range.clone());
                    None
                }
                Err(report) => Some((Stop::Refused(report), range.clone())),
            };
        }
        drop(inside);
        match stopped {
            Some((stop, range)) => match stop_short(port, &transaction, stop, range, buffer)? {
                Some(end) => done = end,
                None => continue,
            },
            // The address wraps around.
            None if count == 0 && !filed => {
                let last = port.transaction(Iova(u64::MAX), (length - done) as u64, B::ACCESS);
                return Err(port.engine().refuse_outright(&last, Refusal::new(FaultReason::AddressSize)));
            }
            None => {}
        }
        if done == length {
            return Ok(());
        }
    }
}

/// Finds out what becomes of a piece that was stopped. Called outside of the guard. Where to go on; `None` where the piece is to be
/// tried again.
#[cold]
fn stop_short<A: Architecture, B: Buffer>(
    port: &Port<A>,
    transaction: &Transaction,
    stop: Stop<A::Record>,
    piece: Range<usize>,
    buffer: &mut B,
) -> Result<Option<usize>, AccessError> {
    let end = piece.end;
    match port.settle(stop)? {
        Settled::Retry => return Ok(None),
        Settled::ZeroAndIgnore => buffer.ignore(piece),
        Settled::Interrupt => match buffer.message(piece) {
            Some(data) => port.engine().interrupt(transaction, u32::from_le_bytes(data))?,
            None => return Err(port.engine().refuse_interrupt(transaction)),
        },
    }
    Ok(Some(end))
}
